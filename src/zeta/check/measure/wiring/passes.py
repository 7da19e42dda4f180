"""Run two samples in eval mode, and compare their outputs."""

from __future__ import annotations

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

_SEED: Final = 0
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
    found = {
        name: _finite(tensor)
        for name, tensor in tensors_in(output)
        if tensor.is_floating_point() and not tensor.is_meta
    }
    logits = logits_of(output)
    return found if logits is None else {**found, _LOGITS: _finite(logits)}


def _finite(tensor: Tensor) -> Tensor:
    """The values, without the infinities of masks."""
    values = plain(tensor)
    return torch.where(torch.isfinite(values), values, 0)


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
    size = float(before.double().square().mean().sqrt()) or 1.0
    change = (after.double() - before.double()).abs()
    return float(change[0].max()) / size, float(change[1].max()) / size


def alike(before: Tensor, after: Tensor) -> bool:
    """Whether an output is the same for all samples, and does not change with them."""
    rounding = 8 * torch.finfo(before.dtype).eps * float(before.abs().max())
    spread = max(float((before[0] - before[1]).abs().max()), float((before - after).abs().max()))
    return spread <= rounding


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
    size = float(logits.double().square().mean().sqrt()) or 1.0
    change = (changed[0].double() - logits[0].double()).abs().amax(-1) / size
    return float(change[: two.tokens].max()), float(change[two.tokens])
