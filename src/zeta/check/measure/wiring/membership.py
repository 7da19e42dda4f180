"""Which of a model's parameters its optimizers have."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zeta.check.facts.evidence import TensorFacts
from zeta.check.facts.wiring import Membership
from zeta.check.measure.tensors import parts_of
from zeta.rules import Kind


def membership(
    tensors: Iterable[TensorFacts], optimizers: Sequence[Optimizer], copies: Mapping[int, Tensor] | None
) -> Membership:
    """Compare the trainable parameters that get a gradient with those of the optimizers.

    Args:
        tensors: the model's.
        optimizers: those that were given, or the one that was made.
        copies: those that it was made of, by the ``id`` of the parameter; ``None`` for those that were given.
    """
    groups = {id(tensor): group for one in optimizers for group in one.param_groups for tensor in group["params"]}
    own: set[int] = set()
    missing: list[TensorFacts] = []
    decayed: list[str] = []
    for one in tensors:
        parts = parts_of(one.slot)
        own.update(map(id, parts))
        if one.buffer or not one.trainable or one.gradient_stats is None:
            continue
        held = parts if copies is None else [copies[id(part)] for part in parts if id(part) in copies]
        held = [part for part in held if part.requires_grad]
        if any(id(part) not in groups for part in held):
            missing.append(one)
        elif one.slot.kind in (Kind.BIAS, Kind.NORM_SCALE) and any(_decays(groups[id(part)]) for part in held):
            decayed.append(one.name)
    return Membership(
        given=copies is None,
        missing=tuple(one.name for one in missing),
        foreign=0 if copies is not None else len(groups.keys() - own),
        partial=any(all(_refuses(optimizer, one) for optimizer in optimizers) for one in missing),
        decayed=tuple(decayed),
    )


def again(optimizer: Optimizer, parameters: Iterable[Any]) -> Optimizer:
    """A new optimizer of the same class, with the same options."""
    accepted = inspect.signature(type(optimizer)).parameters
    known = {key: value for key, value in optimizer.defaults.items() if key in accepted}
    made: Optimizer = type(optimizer)(parameters, **known)
    return made


def _decays(group: Mapping[str, Any]) -> bool:
    decay = group.get("weight_decay", 0.0)
    return not isinstance(decay, Tensor) and bool(decay)


def _refuses(optimizer: Optimizer, one: TensorFacts) -> bool:
    """Whether the optimizer's class takes no parameter of this shape, as Muon takes matrices alone."""
    try:
        again(optimizer, [torch.empty(one.slot.shape, device="meta", requires_grad=True)])
    except ValueError:
        return True
    except (TypeError, AttributeError):  # it needs other arguments
        return False
    return False
