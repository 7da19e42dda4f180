"""Processes that meet: each sends the others what it was asked for, or why it failed, so that nobody waits for it.

All calls here communicate, in small collective calls on the groups that they are given; nothing else of *write* and
*report* does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from zeta.errors import RankError, SpecError, listed
from zeta.report.digests import Claim, Conflict, conflicts

Result = TypeVar("Result")
#: ``True`` for the default process group, or a group of ``torch.distributed``
Asked = Any


@dataclass(frozen=True)
class Failure:
    """What a rank could not do, as the others learn it."""

    text: str


def groups_of(asked: Asked, argument: str) -> list[Any]:
    """The process group that was asked for; none for ``False``.

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
            f"this process is in; got {asked!r}"
        )
    return [distributed.group.WORLD if asked is True else asked]


def exchange(mine: Any, groups: Sequence[Any]) -> dict[int, Any]:
    """What each rank of the groups has, by its number among all processes.

    Several groups are the rows and columns of a mesh: after one after the other, everybody has what all have.
    """
    found = {torch.distributed.get_rank(): mine}
    for group in groups:
        every: list[Any] = [None] * torch.distributed.get_world_size(group)
        torch.distributed.all_gather_object(every, found, group=group)
        found = {rank: value for one in every for rank, value in one.items()}
    return dict(sorted(found.items()))


def together(work: Callable[[], Result], groups: Sequence[Any]) -> dict[int, Result | Failure]:
    """What ``work`` gives on each rank; where it raises, the others have a ``Failure``, and the exception goes on."""
    try:
        mine = work()
    except Exception as error:
        report_failure(error, groups)
        raise
    found = exchange((mine, None), groups)
    return {rank: result if text is None else Failure(text) for rank, (result, text) in found.items()}


def report_failure(error: Exception, groups: Sequence[Any]) -> None:
    """Meet the others in their call of ``together``, with an exception for a result."""
    exchange((None, f"{type(error).__name__}: {error}"), groups)


def failures(found: dict[int, Any]) -> list[str]:
    """What failed, by rank."""
    return [f"rank {rank}: {one.text}" for rank, one in found.items() if isinstance(one, Failure)]


def disagreements(claim: Callable[[], Claim], groups: Sequence[Any]) -> tuple[list[str], list[str]]:
    """What failed on other ranks, and in what the ranks do not agree, each with the ranks.

    One small collective call where nothing is wrong. Where plans or shards differ, some ranks tell theirs in a second
    one, and the first tensors that differ are named.
    """
    claimed: list[Claim] = []

    def digest() -> dict[str, Any]:
        claimed.append(claim())
        return claimed[0].digest.as_dict()  # and not the object, which another version of zeta may not know

    found = together(digest, groups)
    if failed := failures(found):
        return failed, []
    problems: list[str] = []
    for conflict in conflicts({rank: one for rank, one in found.items() if isinstance(one, dict)}):
        problems.append(conflict.text)
        if conflict.part in ("plan", "held") and len(groups) == 1:
            problems += _witnessed(conflict, claimed[0], groups[0])
    return [], problems


def _witnessed(conflict: Conflict, claim: Claim, group: Any) -> list[str]:
    """The first tensors about which a few of the ranks that differ say different things."""
    distributed = torch.distributed
    told: dict[int, dict[str, str]] = {}
    for rank in conflict.witnesses:
        here: list[Any] = [claim.details(conflict) if rank == distributed.get_rank() else None]
        distributed.broadcast_object_list(here, src=rank, group=group)
        told[rank] = here[0]
    return conflict.differing(told)


@contextlib.contextmanager
def meeting(groups: Sequence[Any], otherwise: str) -> Iterator[Callable[[Claim], bool]]:
    """Let the block meet the other ranks once, by calling what it gets with its claim; ``False`` if there are none.

    If the block raises before, the others learn it where they wait, and raise ``RankError`` too.

    Args:
        groups: what to meet.
        otherwise: what is so if the ranks do not agree, for the message.

    Raises:
        RankError: ranks differ, or one failed.
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
