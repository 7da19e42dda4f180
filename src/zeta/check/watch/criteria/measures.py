"""What the calls of loss functions were given: shapes, probabilities or logits, ranges, labels that count."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base.distributed import is_sharded
from zeta.check.facts.evidence import Criterion, Fit
from zeta.check.watch.criteria.calls import BINARY, BY_HAND, ELEMENTWISE, LossCall
from zeta.check.watch.graph.makers import last_activation
from zeta.check.watch.moments import TINY, plain

# elements that are looked at
_MOST: Final = 2**20
# the allowed difference from 1 of a sum of probabilities in bf16
_ROUNDED: Final = 2e-2
#: the ranges of activations; an activation after which something else follows bounds nothing
_RANGES: Final = {
    "tanh": (-1.0, 1.0),
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "relu": (0.0, math.inf),
    "softplus": (0.0, math.inf),
    "exp": (0.0, math.inf),
}


def criteria(calls: Iterable[LossCall], output: Tensor | None) -> tuple[Criterion, ...]:
    """The facts about each call; ``output`` is the one that a target belongs to."""
    with torch.no_grad():
        return tuple(_criterion(call, output) for call in calls if _known(call))


def _known(call: LossCall) -> bool:
    whole = not is_sharded(call.given) and not is_sharded(call.target)
    return whole and call.given.numel() > 0 and call.given.is_floating_point() and not call.target.is_complex()


def _criterion(call: LossCall, output: Tensor | None) -> Criterion:
    given, target = plain(call.given), plain(call.target)
    facts: dict[str, Any] = {}
    if call.function in ELEMENTWISE:
        facts = {"broadcast": _broadcast(call), "fit": _fit(call, given, target)}
    elif call.function in BINARY:
        facts = _binary(call, target)
    else:
        facts = {"holds": _holds(call, given), "crossed": _crossed(call, given, output)}
        if call.of_classes:
            facts |= _labels(call, target)
    return Criterion(
        function=call.function,
        shape=tuple(given.shape),
        target=tuple(target.shape),
        falling=call.falling,
        rising=call.rising,
        constant=target.numel() < 2 or bool((target == target.flatten()[0]).all()),
        **facts,
    )


def _broadcast(call: LossCall) -> tuple[int, ...] | None:
    """The shape of the comparison, if it has more elements than both sides and nobody asked for that.

    A dimension that was added on purpose, as in ``prediction[:, None] - target``, is in the graph.
    """
    one, other = call.given.shape, call.target.shape
    if len(one) == len(other) or type(call.given.grad_fn).__name__.startswith("Unsqueeze"):
        return None
    shape: tuple[int, ...] = torch.broadcast_shapes(one, other)  # type: ignore[no-untyped-call]
    return tuple(shape) if math.prod(shape) > max(math.prod(one), math.prod(other)) else None


def _fit(call: LossCall, given: Tensor, target: Tensor) -> Fit | None:
    """How well the output's range and scale fit the target's; ``None`` if the target is computed by the model."""
    if call.target.requires_grad or target.numel() < 2:
        return None
    few = target.flatten()[:: max(1, target.numel() // _MOST)].double()
    made = given.flatten()[:: max(1, given.numel() // _MOST)].double()
    activation = last_activation(call.given)
    low, high = _RANGES.get(activation or "", (-math.inf, math.inf))
    missed = (few - few.clamp(low, high)).square().mean()
    return Fit(
        activation=activation if activation in _RANGES else None,
        low=float(few.min()),
        high=float(few.max()),
        beyond=float(missed / few.var(correction=0).clamp_min(TINY)),
        target_rms=float(few.square().mean().sqrt()),
        output_rms=float(made.square().mean().sqrt()),
    )


# -- classes ---------------------------------------------------------------------------------------------------------


def _rows(given: Tensor) -> Tensor:
    """Some rows of numbers for classes."""
    rows = given.movedim(1, -1).flatten(0, -2) if given.ndim > 2 else given
    return rows[:: max(1, rows.numel() // _MOST)].float()


def _holds(call: LossCall, given: Tensor) -> str | None:
    """What the input of a loss over classes is: probabilities, their logarithms, or numbers that are neither."""
    if given.ndim < 2 or call.function == BY_HAND:
        return None
    if call.function == "cross_entropy":
        return "probabilities" if last_activation(call.given) == "sigmoid" or sum_to_one(_rows(given), 1) else None
    dims = (1,) if call.function == "nll_loss" else tuple(range(given.ndim))
    many = max(1, given.shape[0] * _MOST // given.numel())
    some = _rows(given) if dims == (1,) else given[:many].float()
    if bool((some <= _ROUNDED).all()) or any(sum_to_one(some.exp(), dim) for dim in dims):
        return None
    return "probabilities" if any(sum_to_one(some, dim) for dim in dims) else "logits"


def sum_to_one(values: Tensor, dim: int) -> bool:
    """Whether these are probabilities that sum to one over a dimension."""
    if values.shape[dim] < 2 or not values.numel() or not bool((values >= 0).all()):
        return False
    return bool(((values.sum(dim) - 1).abs() <= _ROUNDED).all())


def _crossed(call: LossCall, given: Tensor, output: Tensor | None) -> int | None:
    """A dimension other than the classes' over which the probabilities sum to one, of the input or the output.

    The input may be a flattened copy of the output.
    """
    if call.function == "kl_div" or given.ndim < 2 or paired(given, plain(call.target)):
        return None
    if output is not None and output.ndim > 2 and not is_sharded(output) and output.shape[-1] == given.shape[-1]:
        return _over(plain(output), output.ndim - 1) if given.ndim == 2 else None
    return _over(given, 1)


def paired(logits: Tensor, target: Tensor) -> bool:
    """Whether the class of sample i is i, as in contrastive losses, which also take softmax over the samples."""
    count = len(target) if target.ndim == 1 else 0
    own = torch.arange(count, device=target.device, dtype=target.dtype)
    return count > 1 and logits.shape == (count, count) and torch.equal(target, own)


def _over(values: Tensor, of_classes: int) -> int | None:
    if values.shape[of_classes] < 2 or not values.numel():
        return None
    few = max(2, _MOST * values.shape[of_classes] // values.numel())
    columns = values.narrow(of_classes, 0, min(few, values.shape[of_classes])).float()
    for some, change in ((columns, torch.abs), (columns.exp(), torch.exp)):
        over = [dim for dim in range(values.ndim) if dim != of_classes and sum_to_one(some, dim)]
        if over and not sum_to_one(change(values.float()), of_classes):
            return over[0]
    return None


# -- labels ----------------------------------------------------------------------------------------------------------


def _labels(call: LossCall, target: Tensor) -> dict[str, Any]:
    """The fraction of labels that count, why the others do not, and the classes in the batch whose weight is zero."""
    kept = target[target != call.ignored].long()
    weight = call.options.get("weight")
    if not target.numel():
        return {}
    if weight is None or not len(kept) or int(kept.min()) < 0 or int(kept.max()) >= len(weight):
        return {"counted": len(kept) / target.numel(), "uncounted": f"are {call.ignored}, which is ignored"}
    weights = plain(weight)[kept]
    missing = torch.unique(kept[weights == 0]).tolist()
    counted = float((weights != 0).sum()) / target.numel()
    return {"counted": counted, "uncounted": "have a class weight of zero", "weightless": tuple(missing)}


def _binary(call: LossCall, target: Tensor) -> dict[str, Any]:
    weight, low_high = call.options.get("weight"), torch.aminmax(target)
    squashed = call.function != "binary_cross_entropy" and last_activation(call.given) in ("sigmoid", "softmax")
    return {
        "range": (float(low_high.min), float(low_high.max)),
        "holds": "probabilities" if squashed else None,
        "counted": 1.0 if weight is None else float((plain(weight) != 0).double().mean()),
        "uncounted": "have a weight of zero",
    }
