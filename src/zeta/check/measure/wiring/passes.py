"""Run two samples in eval mode, and compare their outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from zeta.base.generators import apart, foreign_apart
from zeta.base.modules import modules_of, parameters_of
from zeta.check.measure.wiring.samples import Two, UndecidedError
from zeta.check.watch.batches import Call, tensors_in
from zeta.check.watch.calls import Quiet, plainly
from zeta.check.watch.criteria.objective import logits_of
from zeta.check.watch.moments import plain
from zeta.check.watch.wiring.targets import tokens_of
from zeta.compute.sums import sums_of

_SEED: Final = 0
# values of which a difference is looked for first
_FEW: Final = 2**12
# the key of the logits, which may also be an output under another name
_LOGITS: Final = "\0logits"


def outputs_of(model: nn.Module, call: Call) -> dict[str, Tensor]:
    """The outputs that are numbers, in eval mode; ``logits`` under a key of their own."""
    for module in modules_of(model):
        module.training = False
    try:
        with plainly(model), Quiet(), apart(_SEED), foreign_apart():
            output = call.output_of(model)
    except Exception as error:
        first = str(error).partition("\n")[0]
        raise UndecidedError(
            f"the model cannot run on two samples in eval mode: {type(error).__name__}: {first}"
        ) from error
    named = {name: tensor for name, tensor in tensors_in(output) if tensor.is_floating_point() and not tensor.is_meta}
    found = {id(tensor): _finite(tensor) for tensor in named.values()}
    outputs = {name: found[id(tensor)] for name, tensor in named.items()}
    logits = logits_of(output)
    if logits is None:
        return outputs
    return {**outputs, _LOGITS: found[id(logits)] if id(logits) in found else _finite(logits)}


def _finite(tensor: Tensor) -> Tensor:
    """A copy of the values, without the infinities of masks."""
    values = plain(tensor)
    return values.clone() if bool(torch.isfinite(values.sum())) else torch.where(torch.isfinite(values), values, 0)


def comparable(outputs: Mapping[str, Tensor], whole: Mapping[str, tuple[int, ...]], pair: int) -> list[str]:
    """The outputs with one row for each sample; not those that compare samples with each other."""
    names = [
        name
        for name, tensor in outputs.items()
        if name in whole
        and tensor.ndim
        and tensor.numel()
        and tensor.shape[0] == pair
        and tuple(tensor.shape[1:]) == whole[name][1:]
        and (whole[name][0] > pair or pair not in tensor.shape[1:])
    ]
    if not names:
        raise UndecidedError("no output has one row for each sample, and no other size that is their number")
    return names


def moves(before: Tensor, after: Tensor) -> tuple[float, float]:
    """The change of the first sample and that of the other one, over the rms."""
    size = _size(before)
    return _apart(before[0], after[0]) / size, _apart(before[1], after[1]) / size


def alike(before: Tensor, after: Tensor) -> bool:
    """Whether an output is the same for all samples, and does not change with them."""
    low, high = torch.aminmax(before)
    rounding = 8 * torch.finfo(before.dtype).eps * max(-float(low), float(high))
    few = (before[0].flatten()[:_FEW], before[1].flatten()[:_FEW])
    return all(_apart(one, other) <= rounding for one, other in (few, (before[0], before[1]), (before, after)))


def _size(values: Tensor) -> float:
    """The rms, or 1 if all values are zero."""
    sums = sums_of(values.contiguous(), 0.0)
    return math.sqrt(sums.squares / sums.count) or 1.0


def _apart(one: Tensor, other: Tensor) -> float:
    """The largest difference."""
    wide = one.dtype if one.dtype is torch.float64 else torch.float32
    low, high = torch.aminmax(one.to(wide) - other.to(wide))
    return max(-float(low), float(high))


def resolution(model: nn.Module) -> float:
    """A change that rounding may explain: several roundings in the coarsest dtype of the parameters."""
    kinds = {one.dtype for one in parameters_of(model) if one.is_floating_point()}
    return max((16 * torch.finfo(kind).eps for kind in kinds), default=0.0)


def ahead(before: Mapping[str, Tensor], after: Mapping[str, Tensor], two: Two) -> tuple[float, float] | None:
    """The change of the logits before the first changed token, and that at it; ``None`` if these are no tokens."""
    logits, changed = before.get(_LOGITS), after.get(_LOGITS)
    tokens = tokens_of(two.first)
    if two.tokens is None or logits is None or changed is None or tokens is None or logits.ndim != 3:
        return None
    length = tokens.shape[1]
    if logits.shape[0] != 2 or logits.shape[1] not in (length, length - 1):
        return None
    size, here = _size(logits), two.tokens
    return _apart(changed[0, :here], logits[0, :here]) / size, _apart(changed[0, here], logits[0, here]) / size
