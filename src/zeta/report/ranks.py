"""Exchange between processes: each rank sends what it was asked for, or why it failed, so that no rank waits forever.

Every function here that takes ``groups`` makes small collective calls on these process groups. No other module of
*write* and *report* communicates.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from zeta.base.reading import shown
from zeta.errors import RankError, SpecError, listed
from zeta.report.digests import Claim, Conflict, conflicts

Result = TypeVar("Result")
#: ``True`` for the default process group, ``False`` for none, or a group of ``torch.distributed``
Asked = Any


@dataclass(frozen=True)
class Failure:
    """The error of a rank, as sent to the other ranks."""

    text: str


def groups_of(asked: Asked, argument: str) -> list[Any]:
    """The process group that was asked for, in a list; an empty list for ``False``.

    Raises ``SpecError`` if there is none, this process is not in it, or ``asked`` is something else.
    """
    if asked is False:
        return []
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        raise SpecError(f"{argument}=True needs the process group of torch.distributed.init_process_group")
    if asked is not True and not isinstance(asked, distributed.ProcessGroup):
        raise SpecError(
            f"{argument} must be True for all processes, or the process group of some, such as mesh.get_group(), which "
            f"this process is in; got {shown(asked)}"
        )
    return [distributed.group.WORLD if asked is True else asked]


def exchange(mine: Any, groups: Sequence[Any]) -> dict[int, Any]:
    """All-gather ``mine`` over the groups: the value of each rank, by its global rank.

    Several groups are the rows and columns of a mesh: gathered over one after the other, every rank has all values.
    """
    found = {torch.distributed.get_rank(): mine}
    for group in groups:
        every: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(every, found, group=group)
        found = {rank: value for one in every for rank, value in one.items()}
    return dict(sorted(found.items()))


def together(work: Callable[[], Result], groups: Sequence[Any]) -> dict[int, Result | Failure]:
    """Call ``work`` on each rank and gather the results, by rank.

    Where it raises, the other ranks get a ``Failure``, and the exception propagates on the rank that raised it.
    """
    try:
        mine = work()
    except Exception as error:
        report_failure(error, groups)
        raise
    found = exchange((mine, None), groups)
    return {rank: result if text is None else Failure(text) for rank, (result, text) in found.items()}


def report_failure(error: Exception, groups: Sequence[Any]) -> None:
    """Take part in the other ranks' call of ``together``, with an exception in place of a result."""
    exchange((None, f"{type(error).__name__}: {error}"), groups)


def failures(found: dict[int, Any]) -> list[str]:
    """The text of each ``Failure``, with its rank."""
    return [f"rank {rank}: {one.text}" for rank, one in found.items() if isinstance(one, Failure)]


def disagreements(claim: Callable[[], Claim], groups: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The errors of other ranks, and the differences between the claims of the ranks, each with the ranks concerned.

    One small collective call if all agree. If plans or shards differ, some ranks broadcast the details of theirs in
    further calls, and the result names the first tensors that differ.
    """
    claimed: list[Claim] = []

    def digest() -> dict[str, Any]:
        claimed.append(claim())
        return claimed[0].digest.as_dict()  # not the object: another version of zeta may not be able to unpickle it

    found = together(digest, groups)
    if failed := failures(found):
        return failed, []
    problems: list[str] = []
    for conflict in conflicts({rank: one for rank, one in found.items() if isinstance(one, dict)}):
        problems.append(conflict.text)
        if conflict.part in ("plan", "held") and len(groups) == 1:
            problems += _differing_tensors(conflict, claimed[0], groups[0])
    return [], problems


def _differing_tensors(conflict: Conflict, claim: Claim, group: Any) -> list[str]:
    """The first tensors that differ between the conflict's witnesses, which broadcast their details."""
    distributed = torch.distributed
    details: dict[int, dict[str, str]] = {}
    for rank in conflict.witnesses:
        here: list[Any] = [claim.details(conflict) if rank == distributed.get_rank() else None]
        distributed.broadcast_object_list(here, src=rank, group=group)
        details[rank] = here[0]
    return conflict.differing(details)


@contextlib.contextmanager
def meeting(groups: Sequence[Any], otherwise: str) -> Iterator[Callable[[Claim], bool]]:
    """Yield a function that the block calls once with its claim, to compare it with the claims of the other ranks.

    The function returns ``False`` if there are no groups. If the block raises before it calls the function, the other
    ranks, which wait in theirs, raise ``RankError``.

    Args:
        groups: the process groups to compare with.
        otherwise: the state in which a disagreement leaves things, for the message.

    Raises:
        RankError: claims differ, or a rank failed.
    """
    met = not groups

    def meet(claim: Claim) -> bool:
        nonlocal met
        if not groups:
            return False
        met = True
        failed, problems = disagreements(lambda: claim, groups)
        if failed:
            raise RankError(listed(f"another process failed; {otherwise}:", failed))
        if problems:
            raise RankError(listed(f"the processes do not agree; {otherwise}:", problems))
        return True

    try:
        yield meet
    except Exception as error:
        if not met:
            report_failure(error, groups)
        raise
