"""Replace the values of plain parameters by others that were computed from them. All are checked before the first."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from zeta.base import dtypes
from zeta.base.distributed import gathered, is_sharded
from zeta.base.process.forked import check_threads
from zeta.base.process.interrupts import insist
from zeta.base.text import by_reason
from zeta.errors import TargetError, listed
from zeta.resolve.slots import Slot
from zeta.write.apply import check_parameters, writable
from zeta.write.targets import shared

_DTYPES: Final = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check_replaceable(model: nn.Module, replaced: Sequence[Slot], slots: Collection[Slot]) -> None:
    """Raise one ``TargetError`` that lists what cannot be replaced of these, which are some of the model's ``slots``.

    As for any other write; and a parameter that is parametrized, sharded or not finite, as its values are read too.
    """
    check_threads()
    check_parameters(replaced)
    refused = [(slot.name, problem) for slot in replaced if (problem := _problem(slot)) is not None]
    problems = [*gathered(model), *by_reason(refused)]
    problems += [] if refused else shared([(slot.name, slot.tensor.detach()) for slot in replaced], slots)
    if problems:
        raise TargetError(listed("these parameters cannot be written; nothing was changed:", problems))


def _problem(slot: Slot) -> str | None:
    if slot.parametrization is not None:
        return "is parametrized; remove the parametrization first, or leave the layer out with only="
    if is_sharded(slot.tensor):
        return (
            "is sharded, and no process has the whole matrix that is factorized; do this before sharding, or leave the "
            "layer out with only="
        )
    if slot.tensor.dtype not in _DTYPES:
        return f"has dtype {dtypes.name_of(slot.tensor.dtype)}, which has too few digits, or none, to factorize"
    if not slot.tensor.detach().isfinite().all():
        return "has values that are not finite: weights are broken, or adapters have memory and no values yet"
    return None


def replace_(changes: Sequence[tuple[Tensor, Tensor]]) -> None:
    """Write to each tensor its new values: all of them, even if Ctrl-C is pressed in the middle."""
    targets = [target.detach() for target, _ in changes]

    def copy() -> None:
        for target, (_, values) in zip(targets, changes, strict=True):
            target.copy_(values)

    with writable([target for target, _ in changes]):
        insist(copy)
    torch.autograd.graph.increment_version([*itertools.filterfalse(Tensor.is_inference, (t for t, _ in changes))])
