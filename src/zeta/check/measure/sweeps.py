"""Measure how activations and gradients grow with the width or depth of a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zeta.base.generators import apart
from zeta.base.modules import named_parameters_of, parameters_of
from zeta.base.reading import shown
from zeta.check.facts.results import Point
from zeta.check.watch.batches import call_of
from zeta.check.watch.criteria.objective import LossFunction
from zeta.check.watch.isolation import preserved
from zeta.check.watch.probe import probe
from zeta.errors import SpecError
from zeta.resolve.slots import unwrap, walk

#: from a size to a model; or to a model and the groups of its optimizer, as rates may depend on the size
Factory = Callable[[int], nn.Module | tuple[nn.Module, Sequence[Mapping[str, Any]]]]
Optimizing = Callable[[Iterable[Tensor]], Optimizer]

#: the name of the gradient norm in ``Point.layer``
GRADIENT_NORM: Final = "gradient norm"
_STEPS: Final = 3
_RATE: Final = 1e-3


@dataclass(frozen=True, kw_only=True)
class Sweeps:
    """The models to build: functions from a size to a model, and the sizes."""

    width: Factory | None
    widths: Sequence[int]
    depth: Factory | None
    depths: Sequence[int]

    def __post_init__(self) -> None:
        for name in ("width", "depth"):
            sizes, factory = getattr(self, f"{name}s"), getattr(self, name)
            whole = all(isinstance(size, int) and size > 0 for size in sizes)
            if not whole or len(sizes) < 2 or sorted(set(sizes)) != list(sizes):
                raise SpecError(f"{name}s must be at least two growing whole numbers, got {shown(sizes)}")
            if factory is not None and not callable(factory):
                raise SpecError(f"{name} must be a function from a {name} to a model, got {shown(factory)}")

    def points(self, batch: Any, loss: LossFunction | None, optimizer: Optimizing | None) -> list[Point]:
        """Build the models and measure."""
        found: list[Point] = []
        if self.width is not None:
            found += _widths(self.width, self.widths, batch, loss, optimizer or _adam)
        if self.depth is not None:
            found += _depths(self.depth, self.depths, batch, loss)
        return found


def _widths(
    factory: Factory,
    sizes: Sequence[int],
    batch: Any,
    loss: LossFunction | None,
    optimizer: Optimizing,
) -> list[Point]:
    """The rms of every layer's output, before and after a few steps, at every width (Yang et al. 2022)."""
    points: list[Point] = []
    for size in sizes:
        model, groups = _built("width", factory, size)
        with preserved(model):  # the factory may return a model that it keeps
            points += _steps(model, groups, size, batch, loss, optimizer)
    return points


def _steps(
    model: nn.Module,
    groups: list[dict[str, Any]] | None,
    size: int,
    batch: Any,
    loss: LossFunction | None,
    optimizer: Optimizing,
) -> Iterator[Point]:
    learned = [parameter for parameter in parameters_of(model) if parameter.requires_grad]
    steps = optimizer(learned if groups is None else groups)  # type: ignore[arg-type]
    for step in range(_STEPS + 1):
        with preserved(model):
            seen = probe(model, walk(model), call_of(model, batch, loss), loss)
        for use in seen.uses:
            yield Point(factory="width", size=size, layer=use.layer.name, step=step, value=use.layer.output.rms)
        for parameter in learned:
            parameter.grad = seen.gradients.get(id(parameter))
        steps.step()


def _depths(factory: Factory, sizes: Sequence[int], batch: Any, loss: LossFunction | None) -> list[Point]:
    """The norm of the gradient of all parameters, at every depth."""
    points: list[Point] = []
    for size in sizes:
        model, _ = _built("depth", factory, size)
        with preserved(model):
            seen = probe(model, walk(model), call_of(model, batch, loss), loss)
        squares = [float(gradient.double().square().sum()) for gradient in seen.gradients.values()]
        points.append(Point(factory="depth", size=size, layer=GRADIENT_NORM, step=0, value=math.sqrt(sum(squares))))
    return points


def _built(name: str, factory: Factory, size: int) -> tuple[nn.Module, list[dict[str, Any]] | None]:
    """A model, and the groups of its optimizer if there are any."""
    with apart(size):
        made = factory(size)
    model, groups = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise SpecError(f"{name}({size}) must return a torch.nn.Module, got {shown(made)}")
    on_meta = [name for name, tensor in named_parameters_of(model) if tensor.is_meta]
    if on_meta:
        raise SpecError(f"{name}({size}) must return a model with memory, but {on_meta[0]} is on meta")
    if groups is None:
        return unwrap(model), None
    if not all(isinstance(group, Mapping) and "params" in group for group in groups):
        raise SpecError(f"{name}({size}) must return a model and groups with params, got {shown(made)}")
    return unwrap(model), [dict(group) for group in groups]


def _adam(parameters: Iterable[Tensor]) -> Optimizer:
    return torch.optim.Adam(list(parameters), lr=_RATE)
