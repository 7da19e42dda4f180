"""The first step of an optimizer, on a copy of the parameters."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from zeta.base.reading import shown
from zeta.check.facts.evidence import TensorFacts, Update
from zeta.check.facts.wiring import Membership
from zeta.check.measure.tensors import parts_of
from zeta.check.measure.wiring.membership import again, membership
from zeta.errors import SpecError
from zeta.resolve.slots import Slot

#: an optimizer of the model's parameters, several that share them, or a function from a list of parameters to one
OptimizerLike = Optimizer | Sequence[Optimizer] | Callable[[Iterable[Tensor]], Optimizer]


#: elements that are moved at a time
SPAN: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Moved:
    """Sums over the first step of some elements."""

    count: int = 0
    squares: float = 0.0
    asked: int = 0  #: elements with a gradient
    lost: int = 0  #: those of them that the step leaves as they are

    def __add__(self, other: Moved) -> Moved:
        pairs = zip(vars(self).items(), vars(other).values(), strict=True)
        return Moved(**{key: mine + theirs for (key, mine), theirs in pairs})

    def update(self, rms: float, group: str | None, eps: float | None) -> Update:
        """The size of the step, over that of the values."""
        size = math.sqrt(self.squares / max(1, self.count)) / rms
        return Update(size=size, group=group, rounded=self.lost / max(1, self.asked), eps=eps)


def spans(one: Tensor, other: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The elements of two tensors of one shape, some at a time."""
    one, other = one.flatten(), other.flatten()  # once: this copies what is not contiguous
    for first in range(0, len(one), SPAN):
        yield one[first : first + SPAN], other[first : first + SPAN]


def moved(step: Tensor, gradient: Tensor) -> Moved:
    """The sums over a step that was taken, some elements after the others."""
    total = Moved()
    for part, mine in spans(step, gradient):
        asked = mine != 0
        total += Moved(
            count=part.numel(),
            squares=float(part.double().square().sum()),
            asked=int(asked.sum()),
            lost=int(((part == 0) & asked).sum()),
        )
    return total


def first_step(
    tensors: tuple[TensorFacts, ...], gradients: Mapping[int, Tensor], optimizer: OptimizerLike
) -> tuple[dict[str, Update], Membership]:
    """The rms of each parameter's first step over the rms of its values (if these are not zero), and its group.

    Also, which parameters the optimizers have. A given one does not change: a new one of the same class, with the same
    options, takes the step.

    Raises ``SpecError`` if a function does not return an optimizer.
    """
    moving = [one for one in tensors if one.trainable and not one.buffer and id(one.slot.tensor) in gradients]
    moving = [one for one in moving if one.slot.parametrization is None and one.gradient_stats is not None]
    # once, and first: values of shards are gathered by all ranks, and the optimizer of one of them may raise
    before = {id(one.slot.tensor): one.values for one in moving}
    copies = {key: values.clone().requires_grad_(True) for key, values in before.items()}
    for key, copied in copies.items():
        copied.grad = gradients[key].to(copied.dtype).clone()
    made, given = callable(optimizer), given_of(optimizer, copies)
    twins = given if made else [twin for one in given if (twin := _twin(one, copies)) is not None]
    for twin in twins:
        stepped(twin)
    belongs = membership(tensors, given, copies if made else None)
    groups, eps = groups_of(given), _eps(twins)
    updates: dict[str, Update] = {}
    for one in moving:
        copied = copies[id(one.slot.tensor)]
        step = copied.detach() - before[id(one.slot.tensor)]
        if one.stats.rms > 0 and one.stats.nonfinite == 0 and one.name not in belongs.missing:
            group = groups.get(id(copied if made else one.slot.tensor))
            whole = moved(step, gradients[id(one.slot.tensor)])
            updates[one.name] = whole.update(one.stats.rms, group, eps.get(id(copied)))
    return updates, belongs


def given_of(optimizer: OptimizerLike, copies: dict[int, Tensor]) -> list[Optimizer]:
    """The optimizers; the one that a function makes has the copies."""
    if callable(optimizer):
        return [_made(optimizer, copies)]
    return [optimizer] if isinstance(optimizer, Optimizer) else list(optimizer)


def _made(function: Callable[[list[Tensor]], Any], copies: dict[int, Tensor]) -> Optimizer:
    made = function(list(copies.values()))
    if not isinstance(made, Optimizer):
        raise SpecError(f"optimizer= must return a torch.optim.Optimizer; {shown(function)} returned {shown(made)}")
    return made


def stepped(optimizer: Optimizer) -> None:
    """Take the first step."""
    closure = inspect.signature(optimizer.step).parameters.get("closure")
    if closure is not None and closure.default is closure.empty:
        raise SpecError(
            f"{type(optimizer).__name__} asks for the loss during its step, which a copy cannot give; leave it out"
        )
    if isinstance(optimizer, torch.optim.SparseAdam):  # takes no dense gradients
        for group in optimizer.param_groups:
            for copied in group["params"]:
                copied.grad = None if copied.grad is None else copied.grad.to_sparse(1)
    optimizer.step()


def _eps(optimizers: Iterable[Optimizer]) -> dict[int, float]:
    """The ``eps`` of the group of each parameter, by ``id``, of optimizers that divide by the gradient's size."""
    return {
        id(parameter): float(group["eps"])
        for optimizer in optimizers
        for group in optimizer.param_groups
        if isinstance(group.get("eps"), float | int)
        for parameter in group["params"]
    }


def groups_of(optimizers: Sequence[Optimizer]) -> dict[int, str]:
    """The description of each parameter's group, by ``id``; empty if there is one group only."""
    all_groups = [(one, number, group) for one in optimizers for number, group in enumerate(one.param_groups)]
    if len(all_groups) < 2:
        return {}
    return {
        id(parameter): f"parameter group {number}"
        + (f" of {type(one).__name__}" if len(optimizers) > 1 else "")
        + (f" (lr {float(group['lr']):.3g})" if "lr" in group else "")
        for one, number, group in all_groups
        for parameter in group["params"]
    }


def _twin(optimizer: Optimizer, copies: dict[int, Tensor]) -> Optimizer | None:
    """A new optimizer of copies; ``None`` if it has no parameter of this model that gets a gradient."""
    groups: list[dict[str, Any]] = []
    for group in optimizer.param_groups:
        mine = [copies[id(parameter)] for parameter in group["params"] if id(parameter) in copies]
        if mine:
            groups.append({**options_of(group), "params": mine})
    return _remade(optimizer, groups) if groups else None


def of_copy(optimizer: OptimizerLike, slots: Sequence[Slot], copied: Sequence[Slot]) -> OptimizerLike:
    """The optimizers, with the parameters of a copy of the model where they have the model's own.

    Args:
        optimizer: a function stays as it is.
        slots: the tensors of the model.
        copied: those of the copy, in the same order.
    """
    if callable(optimizer):
        return optimizer
    copies = {
        id(part): other
        for one, twin in zip(slots, copied, strict=True)
        for part, other in zip(parts_of(one), parts_of(twin), strict=True)
    }
    return [
        _remade(
            one,
            [{**options_of(group), "params": [copies.get(id(each), each) for each in group["params"]]}
             for group in one.param_groups],
        )
        for one in given_of(optimizer, {})
    ]  # fmt: skip


def options_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a parameter group without its parameters."""
    return {key: copy.deepcopy(value) for key, value in group.items() if key not in ("params", "param_names")}


def _remade(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    """Another optimizer of the same class, of these groups."""
    try:
        with torch.no_grad():
            return again(optimizer, groups)
    except (TypeError, AttributeError) as error:  # it wraps another optimizer, or has options of its own
        name = type(optimizer).__name__
        raise SpecError(
            f"another {name} cannot be made of its options ({error}); pass a function that makes one, as in "
            f"optimizer=lambda parameters: {name}(parameters, ...)"
        ) from error
