"""The scalar that gradients are taken of: the given loss, the model's own, or one that fits the batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeta.base.distributed import is_sharded
from zeta.base.reading import shown
from zeta.check.watch.batches import TARGETS, Call, describe, tensors_in
from zeta.check.watch.criteria.measures import sum_to_one
from zeta.check.watch.graph.makers import last_activation
from zeta.errors import SpecError

#: called with the model's output and the batch, on the model's device, or a loss of ``torch.nn``; returns a scalar
LossFunction = Callable[[Any, Any], Tensor]

_INTEGERS: Final = (torch.int64, torch.int32, torch.int16, torch.uint8)
# the target that F.cross_entropy ignores by default
_IGNORED: Final = -100
# surrogate: the weights of the projection are cos(k^2 phi); the quadratic phase gives a matrix of them full rank
_GOLDEN_ANGLE: Final = math.pi * (3 - math.sqrt(5))


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The scalar, and how it was chosen."""

    value: Tensor
    surrogate: bool = False  #: whether it is only a fixed projection of the outputs
    guessed: bool = False  #: whether it is the next-token loss that fits the input
    ignored: bool = False  #: whether the model takes the targets that it compares with, and gave no loss for them


def objective(output: Any, call: Call, loss: LossFunction | None) -> Objective:
    """Return the loss, by the first of these that applies.

    1. ``loss(output, batch)`` if ``loss`` is given; for a loss of ``torch.nn``, ``loss(logits, target)``. 2. The
    output's own ``loss`` (transformers). 3. Cross entropy, if integer targets fit the logits; binary cross entropy for
    one logit. 4. The mean squared error, if the target has the output's shape, with or without a last dimension of one.
    5. Next-token cross entropy, if the input is integers of the logits' shape without the last dimension. 6. A fixed
    pseudo-random projection of all outputs, so that there are gradients.

    Raises ``SpecError`` for targets beyond the logits' classes, and for a loss of ``torch.nn`` without a target.
    """
    if loss is not None:
        value = _value(loss, *_arguments(loss, output, call))
        if not isinstance(value, Tensor) or value.numel() != 1:
            raise SpecError(f"loss(output, batch) must return a tensor with one element, got {shown(value)}")
        return Objective(value=_whole(value).reshape(()))
    own = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if isinstance(own, Tensor) and own.numel() == 1:
        return Objective(value=_whole(own).reshape(()))
    logits = logits_of(output)
    if logits is not None:
        logits = _whole(logits)
        known = _against_target(logits, target_of(call))
        if known is not None:
            return replace(known, ignored=call.target is None)
        known = _next_token(logits, call)
        if known is not None:
            return known
    return Objective(value=_projection(output), surrogate=True)


def _arguments(loss: LossFunction, output: Any, call: Call) -> tuple[Any, Any]:
    """The arguments of the loss."""
    if not isinstance(loss, nn.modules.loss._Loss):
        return output, call.batch
    logits, target = logits_of(output), target_of(call)
    if logits is None or target is None:
        missing = "the batch has no target" if target is None else "the model put out no floating-point tensor"
        raise SpecError(f"{type(loss).__name__} needs the model's output and a target, and {missing}")
    return logits, target


def _value(loss: LossFunction, output: Any, other: Any) -> Any:
    """The value of the loss; ``SpecError`` if these arguments are not what it is made for."""
    try:
        return loss(output, other)
    except TypeError as error:
        if isinstance(loss, nn.modules.loss._Loss):
            raise
        name = getattr(loss, "__name__", type(loss).__name__)
        function = "F.cross_entropy" if name == "<lambda>" else name
        raise SpecError(
            f"loss={name} fails: {error}. It was called as loss(output, batch), with the model's output "
            f"({describe(output)}) and the whole batch ({describe(other)}). Take the target from the batch, as in "
            f"lambda output, batch: {function}(output, batch[1]); or give a loss of torch.nn, such as "
            "nn.CrossEntropyLoss(), which gets the target"
        ) from error


def _whole(tensor: Tensor) -> Tensor:
    """The global values of a ``DTensor``, differentiably."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor


def target_of(call: Call) -> Any:
    """The batch's target, which may be one of the model's arguments; ``None`` if there is none."""
    if call.target is None and isinstance(call.kwargs, Mapping):
        return next((call.kwargs[name] for name in TARGETS if name in call.kwargs), None)
    return call.target


def logits_of(output: Any) -> Tensor | None:
    """The output that a target belongs to: ``logits``, else the only or first floating-point tensor."""
    found = [(name, t) for name, t in tensors_in(output) if t.is_floating_point()]
    named = [tensor for name, tensor in found if name.split(".")[-1] == "logits"]
    return named[0] if named else found[0][1] if found else None


def _against_target(logits: Tensor, target: Any) -> Objective | None:
    if not isinstance(target, Tensor) or not logits.ndim:
        return None
    if logits.ndim >= 2 and logits.shape[-1] == 1 and target.shape == logits.shape[:-1]:
        logits = logits.squeeze(-1)  # one logit per sample
    if target.dtype in _INTEGERS and target.shape == logits.shape and bool(((target == 0) | (target == 1)).all()):
        binary = F.binary_cross_entropy if last_activation(logits) == "sigmoid" else F.binary_cross_entropy_with_logits
        return Objective(value=binary(_wide(logits), _wide(target)))
    if target.dtype in _INTEGERS and logits.ndim >= 2:
        if target.shape == logits.shape[:-1]:
            return Objective(value=_cross_entropy(logits.flatten(0, -2), target.flatten()))
        if target.shape == (logits.shape[0], *logits.shape[2:]):
            return Objective(value=_cross_entropy(logits, target))
    if target.is_floating_point() and target.shape == logits.shape:
        return Objective(value=F.mse_loss(_wide(logits), _wide(target)))
    return None


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    classes, named = logits.shape[1], target[target != _IGNORED].long()
    low, high = (int(end) for end in torch.aminmax(named)) if named.numel() else (0, 0)
    if low < 0 or high >= classes:
        raise SpecError(
            f"the batch's target holds classes from {low} to {high}, and the model's output is taken for logits of "
            f"{classes}; give loss= if it is something else"
        )
    if sum_to_one(logits.detach().float(), 1):
        logits = logits.clamp_min(torch.finfo(logits.dtype).tiny).log()
    return F.cross_entropy(_wide(logits), target.long())


def _wide(tensor: Tensor) -> Tensor:
    """At least fp32: the loss of a model in fp64 keeps its digits."""
    return tensor if tensor.dtype is torch.float64 else tensor.float()


def _next_token(logits: Tensor, call: Call) -> Objective | None:
    inputs = [tensor for _, tensor in tensors_in((*call.args, call.kwargs)) if tensor.dtype is torch.int64]
    tokens = next((t for t in inputs if t.ndim == 2 and t.shape == logits.shape[:-1] and t.shape[1] > 1), None)
    if tokens is None or int(tokens.max()) >= logits.shape[-1] or int(tokens.min()) < 0:
        return None
    value = F.cross_entropy(_wide(logits[:, :-1].flatten(0, 1)), tokens[:, 1:].flatten())
    return Objective(value=value, guessed=True)


def _projection(output: Any) -> Tensor:
    parts = [_whole(t) for _, t in tensors_in(output) if t.is_floating_point() or t.is_complex()]
    if not parts:
        raise SpecError("the model put out no floating-point tensor, so there is nothing to take gradients of")
    total = torch.zeros((), device=parts[0].device)
    for part in parts:
        real = torch.view_as_real(part) if part.is_complex() else part
        index = torch.arange(real.numel(), device=real.device, dtype=torch.float64)
        weights = torch.cos(index * index * _GOLDEN_ANGLE).float().view(real.shape) / math.sqrt(max(real.numel(), 1))
        finite = torch.where(torch.isfinite(real), real, 0)  # minus infinities of a mask would give NaN
        total = total + (finite.float() * weights).sum()
    return total
