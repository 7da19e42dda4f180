"""The first step of an optimizer, on a copy of the parameters."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from zeta.base.reading import shown
from zeta.check.facts.evidence import TensorFacts, Update
from zeta.errors import SpecError

#: an optimizer of the model's parameters, or a function from a list of parameters to one
OptimizerLike = Optimizer | Callable[[Iterable[Tensor]], Optimizer]


def first_step(
    tensors: tuple[TensorFacts, ...], gradients: Mapping[int, Tensor], optimizer: OptimizerLike
) -> dict[str, Update]:
    """The rms of each parameter's first step over the rms of its values (if these are not zero), and its group.

    A given optimizer does not change: a new one of the same class, with the same options, takes the step.

    Raises ``SpecError`` if ``optimizer`` neither is an optimizer nor returns one, or has no parameter of the model.
    """
    moving = [one for one in tensors if one.trainable and not one.buffer and id(one.slot.tensor) in gradients]
    moving = [one for one in moving if one.slot.parametrization is None and one.gradient_stats is not None]
    copies = {id(one.slot.tensor): one.values.clone().requires_grad_(True) for one in moving}
    for key, copied in copies.items():
        copied.grad = gradients[key].to(copied.dtype).clone()
    if isinstance(optimizer, Optimizer):
        twin = _twin(optimizer, copies)
    else:
        twin = optimizer(list(copies.values())) if callable(optimizer) else optimizer
    if not isinstance(twin, Optimizer):
        raise SpecError(
            f"optimizer must be a torch.optim.Optimizer or a function from parameters to one, got {shown(optimizer)}"
        )
    closure = inspect.signature(twin.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise SpecError(
            f"{type(twin).__name__} asks for the loss during its step, which a copy cannot give; leave it out"
        )
    twin.step()
    given = optimizer if isinstance(optimizer, Optimizer) else twin  # twin omits groups without gradients
    groups = _groups(given)
    updates: dict[str, Update] = {}
    for one in moving:
        copied = copies[id(one.slot.tensor)]
        moved = (copied.detach() - one.values).double().square().mean().sqrt()
        if one.stats.rms > 0 and one.stats.nonfinite == 0:
            group = groups.get(id(copied if given is twin else one.slot.tensor))
            updates[one.name] = Update(size=float(moved) / one.stats.rms, group=group)
    return updates


def _groups(optimizer: Optimizer) -> dict[int, str]:
    """The description of each parameter's group, by ``id``; empty if there is one group only."""
    if len(optimizer.param_groups) < 2:
        return {}
    return {
        id(parameter): f"parameter group {number}" + (f" (lr {float(group['lr']):.3g})" if "lr" in group else "")
        for number, group in enumerate(optimizer.param_groups)
        for parameter in group["params"]
    }


def _twin(optimizer: Optimizer, copies: dict[int, Tensor]) -> Optimizer:
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        mine = [copies[id(parameter)] for parameter in group["params"] if id(parameter) in copies]
        if mine:
            options = {
                key: copy.deepcopy(value) for key, value in group.items() if key not in ("params", "param_names")
            }
            groups.append({**options, "params": mine})
    if not groups:
        raise SpecError("optimizer has no parameter of this model that gets a gradient")
    accepted = inspect.signature(type(optimizer)).parameters
    known = {key: value for key, value in optimizer.defaults.items() if key in accepted}
    with torch.no_grad():
        made: Optimizer = type(optimizer)(groups, **known)
    return made
