"""Synchronize the ranks that check one sharded model; if one of them raises, all of them end."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn

from zeta.base.distributed import is_sharded
from zeta.base.modules import tensors_of
from zeta.errors import RankError, listed
from zeta.report.digests import Claim
from zeta.report.ranks import exchange, meeting

_GO: Final = "go"
#: torch's default timeout of collective calls
_TIMEOUT: Final = timedelta(minutes=30)
_ENDED: Final = "another process failed, and the check of a sharded model needs all of them:"


class Ranks:
    """The other ranks of a check; without groups, there are none."""

    def __init__(self, groups: Sequence[Any] = (), device: str = "cpu") -> None:
        self.groups = groups
        self._device = device
        self._store: Any = None
        self._count = 0
        self._step = 0

    def begin(self, claim: Claim, meet: Callable[[Claim], bool]) -> None:
        """Compare the claims of the ranks, and make the store through which they synchronize."""
        if not self.groups:
            return
        meet(claim)
        # a name for this check that is equal on all ranks and differs from other checks
        names = exchange(f"{dist.get_rank()}.{os.getpid()}.{time.monotonic_ns()}", self.groups)
        self._count = len(names)
        self._store = dist.distributed_c10d.PrefixStore(f"zeta/check/{next(iter(names.values()))}", _default_store())

    def any_rank(self, condition: bool) -> bool:
        """Logical OR of ``condition`` over all ranks, so that all of them take the same branch."""
        if not self.groups:
            return condition
        flag = torch.tensor(float(condition), device=self._device)
        for group in self.groups:
            dist.all_reduce(flag, dist.ReduceOp.MAX, group)
        return bool(flag)

    def wait(self) -> None:
        """A barrier: wait until all ranks have reached it; ``RankError`` if one raised instead.

        It uses the store and not a collective call, because a rank that raises in the middle of a pass cannot know in
        which collective call the others wait for it.
        """
        if self._store is None:
            return
        gate, self._step = str(self._step), self._step + 1
        if self._store.add(f"{gate}/arrived", 1) == self._count:
            self._store.set(gate, _GO)
        self._store.wait([gate], _TIMEOUT)
        if (text := self._store.get(gate).decode()) != _GO:
            raise RankError(listed(_ENDED, [text]))

    def leave(self, error: BaseException) -> None:
        """Report an exception of this rank to the others, which get it in their next ``wait``.

        Raises ``RankError`` instead if the exception is only the consequence of another rank's.
        """
        if self._store is None or isinstance(error, RankError):
            return
        gate = str(self._step)
        with contextlib.suppress(dist.DistError):  # the process that hosts the store may have ended
            if _is_lost(error) and self._store.check([gate]):
                raise RankError(listed(_ENDED, [self._store.get(gate).decode()])) from error
            self._store.set(gate, f"rank {dist.get_rank()}: {type(error).__name__}: {error}")


ALONE: Final = Ranks()


@contextlib.contextmanager
def in_step(model: Any) -> Iterator[tuple[Ranks, Callable[[Claim], bool]]]:
    """Yield the ranks that hold a part of the model, and the function for ``Ranks.begin``; an error of one ends all.

    If a rank raises inside of the model's forward or backward pass, the others wait for it in a collective call. They
    end when its process ends, or at the timeout of their group.
    """
    meshes = _meshes(model) if isinstance(model, nn.Module) else []
    ranks = Ranks(
        [group for mesh in meshes for group in mesh.get_all_groups()], meshes[0].device_type if meshes else "cpu"
    )
    with meeting(ranks.groups, "nothing was checked") as meet:
        try:
            yield ranks, meet
        except BaseException as error:  # interrupts included
            ranks.leave(error)
            raise


def _meshes(model: nn.Module) -> list[Any]:
    """The meshes of the model's tensors, largest first, without those whose ranks are all in an earlier one."""
    tensors = filter(is_sharded, tensors_of(model))
    found = {id(tensor.device_mesh): tensor.device_mesh for tensor in tensors}
    chosen: list[Any] = []
    known: set[int] = set()
    for mesh in sorted(found.values(), key=lambda mesh: -mesh.size()):
        ranks = set(mesh.mesh.flatten().tolist())
        if mesh.get_coordinate() is not None and not ranks <= known:
            chosen.append(mesh)
            known |= ranks
    return chosen


def _is_lost(error: BaseException) -> bool:
    """Whether the exception comes from a collective call whose peer is gone."""
    return isinstance(error, dist.DistError) or (type(error) is RuntimeError and "gloo/" in str(error))


def _default_store() -> Any:
    return dist.distributed_c10d._get_default_store()
