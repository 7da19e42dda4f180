"""A number to take gradients of: the loss that was given, the model's own, or what the batch suggests."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from zeta.check.batches import TARGETS, Call, tensors_in
from zeta.errors import SpecError

#: called with the model's output and the batch, on the model's device; returns a scalar
LossFunction = Callable[[Any, Any], Tensor]

_INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.uint8)
# surrogate: the weights of the projection are cos(k^2 phi), whose quadratic phase gives a matrix of them full rank
_GOLDEN_ANGLE: Final = math.pi * (3 - math.sqrt(5))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The scalar, and whether it is a mere projection of the outputs."""

    value: Tensor
    surrogate: bool = False


def objective(output: Any, call: Call, loss: LossFunction | None) -> Objective:
    """Return the loss, the first of these that there is.

    1. ``loss(output, batch)``, where it was given; 2. the output's own ``loss`` (transformers); 3. cross entropy, where
    integer targets fit the logits; 4. the mean squared error, where the target has the output's shape; 5. next-token
    cross entropy, where the only input is integers of the shape of the logits without their last dimension; 6. a fixed
    pseudo-random projection of all outputs, so that there are gradients at all.
    """
    if loss is not None:
        value = loss(output, call.batch)
        if not isinstance(value, Tensor) or value.numel() != 1:
            shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
            raise SpecError(f"loss(output, batch) must return a tensor with one element, got {shown}")
        return Objective(value=value.reshape(()))
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor) and own.numel() == 1:
        return Objective(value=own.reshape(()))
    logits = _logits(output)
    if logits is not None:
        known = _against_target(logits, _target(call)) or _next_token(logits, call)
        if known is not None:
            return known
    return Objective(value=_projection(output), surrogate=True)


def _target(call: Call) -> Any:
    if call.target is None and isinstance(call.kwargs, Mapping):
        return next((call.kwargs[name] for name in TARGETS if name in call.kwargs), None)
    return call.target


def _logits(output: Any) -> Tensor | None:
    """The output that a target belongs to: ``logits``, else the only or first floating-point tensor."""
    found = [(name, t) for name, t in tensors_in(output) if t.is_floating_point()]
    named = [tensor for name, tensor in found if name.split(".")[-1] == "logits"]
    return named[0] if named else found[0][1] if found else None


def _against_target(logits: Tensor, target: Any) -> Objective | None:
    if not isinstance(target, Tensor) or not logits.ndim:
        return None
    if target.dtype in _INTEGERS and logits.ndim >= 2:
        if target.shape == logits.shape[:-1]:
            classes_last = logits.flatten(0, -2)
            return Objective(value=F.cross_entropy(classes_last.float(), target.flatten().long()))
        if target.shape == (logits.shape[0], *logits.shape[2:]):
            return Objective(value=F.cross_entropy(logits.float(), target.long()))
    if target.is_floating_point() and target.shape == logits.shape:
        return Objective(value=F.mse_loss(logits.float(), target.float()))
    return None


def _next_token(logits: Tensor, call: Call) -> Objective | None:
    inputs = [tensor for _, tensor in tensors_in((*call.args, call.kwargs)) if tensor.dtype is torch.int64]
    tokens = next((t for t in inputs if t.ndim == 2 and t.shape == logits.shape[:-1] and t.shape[1] > 1), None)
    if tokens is None or int(tokens.max()) >= logits.shape[-1] or int(tokens.min()) < 0:
        return None
    value = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten())
    return Objective(value=value)


def _projection(output: Any) -> Tensor:
    parts = [t for _, t in tensors_in(output) if t.is_floating_point() or t.is_complex()]
    if not parts:
        raise SpecError("the model put out no floating-point tensor, so there is nothing to take gradients of")
    total = torch.zeros((), device=parts[0].device)
    for part in parts:
        real = torch.view_as_real(part) if part.is_complex() else part
        index = torch.arange(real.numel(), device=real.device, dtype=torch.float64)
        weights = torch.cos(index * index * _GOLDEN_ANGLE).float().view(real.shape) / math.sqrt(max(real.numel(), 1))
        total = total + (real.float() * weights).sum()
    return total
