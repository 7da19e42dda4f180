"""Take two samples from a batch, and change one of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.base.modules import modules_of
from zeta.check.facts.evidence import Pass
from zeta.check.watch.batches import Call, mapped, tensors_in
from zeta.check.watch.criteria.objective import target_of
from zeta.check.watch.wiring.targets import tokens_of

# modules that take the sequence first, unless told otherwise
_SEQUENCE_FIRST: Final = (nn.RNNBase, nn.MultiheadAttention)


class UndecidedError(Exception):
    """Two samples cannot be compared; the text says why."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Two:
    """Two samples of a batch, and the same with the first one changed."""

    first: Call
    second: Call
    tokens: int | None  #: the position of the first token that differs, if only later tokens of the first sample do


def two_of(model: nn.Module, call: Call, seen: Pass) -> Two:
    """Two samples of the batch, if its first dimension is that of samples for certain."""
    count = count_of(call)
    _check_outputs(model, call, seen, count)
    tokens = tokens_of(call) if seen.wires.offsets else None
    other = _another(tokens, count) if tokens is not None else count - 1
    first = _rows(call, [0, 1])
    if tokens is None or tokens.shape[0] != count:
        return Two(first=first, second=_rows(call, [other, 1]), tokens=None)
    half = tokens.shape[1] // 2
    row = torch.cat([tokens[0, :half], tokens[other, half:]])
    changed = torch.stack([row, tokens[1]])

    def exchange(given: Tensor, original: Tensor) -> Tensor:
        return changed if original is tokens else given

    return Two(first=first, second=_rows(call, [0, 1], exchange), tokens=half)


def _another(tokens: Tensor, count: int) -> int:
    """A sample whose token in the middle is another one than that of the first sample."""
    half = tokens.shape[1] // 2
    for row in range(count - 1, 0, -1):
        if tokens[row, half] != tokens[0, half]:
            return row
    raise UndecidedError("all samples have the same token in the middle")


def count_of(call: Call) -> int:
    """The number of samples: the first dimension of all inputs."""
    tensors = [tensor for _, tensor in tensors_in((call.args, dict(call.kwargs))) if tensor.ndim]
    counts = {tensor.shape[0] for tensor in tensors}
    if len(counts) != 1:
        raise UndecidedError("the inputs do not share a first dimension, that of the samples")
    count = counts.pop()
    if count < 2:
        raise UndecidedError("the batch has one sample only")
    square = [tuple(tensor.shape) == (count, count) for tensor in tensors]
    if any(square) and not all(square) and all(tensor.ndim < 3 for tensor in tensors):
        raise UndecidedError("an input relates each sample to each, as edges relate nodes")
    return count


def _check_outputs(model: nn.Module, call: Call, seen: Pass, count: int) -> None:
    shapes = [shape for shape in seen.wires.outputs.values() if len(shape) > 0]
    if not any(shape[0] == count for shape in shapes):
        raise UndecidedError("no output has the first dimension of the inputs")
    target = target_of(call)
    if isinstance(target, Tensor) and tuple(target.shape) == (count,):
        return  # one target for each
    inputs = [tuple(t.shape) for _, t in tensors_in((call.args, dict(call.kwargs))) if t.ndim > 1]
    kept = any(shape[:2] == given[:2] for shape in shapes for given in inputs)
    if kept and any(_sequence_first(module) for module in modules_of(model)):
        raise UndecidedError("a module takes the sequence first (batch_first=False), so that samples may be elsewhere")


def _sequence_first(module: nn.Module) -> bool:
    return isinstance(module, _SEQUENCE_FIRST) and not module.batch_first


def _rows(call: Call, rows: list[int], change: Any = lambda given, _: given) -> Call:
    def chosen(item: Any) -> Any:
        if isinstance(item, Tensor):
            return change(item[rows], item) if item.ndim else item
        if item is None or isinstance(item, bool | int | float | str):
            return item
        raise UndecidedError(f"the batch has a {type(item).__name__}, which cannot be cut into samples")

    return replace(call, args=mapped(call.args, chosen), kwargs=mapped(call.kwargs, chosen))
