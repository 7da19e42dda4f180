"""Measure how activations and gradients change with the width or depth of a model, and over steps of training."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zeta.base.generators import apart
from zeta.base.modules import named_parameters_of, parameters_of
from zeta.base.reading import shown
from zeta.check.facts.evidence import Pass, Use
from zeta.check.facts.results import Point
from zeta.check.watch.batches import call_of
from zeta.check.watch.criteria.objective import LossFunction
from zeta.check.watch.isolation import preserved
from zeta.check.watch.probe import probe
from zeta.errors import SpecError
from zeta.resolve.scaling.classes import classes_over_width
from zeta.resolve.scaling.schemes import Class
from zeta.resolve.slots import named_modules, unwrap, walk

#: from a size to a model; or to a model and the groups of its optimizer, as rates may depend on the size
Factory = Callable[[int], nn.Module | tuple[nn.Module, Sequence[Mapping[str, Any]]]]
Optimizing = Callable[[Iterable[Tensor]], Optimizer]

#: the name of the gradient norm in ``Point.layer``
GRADIENT_NORM: Final = "gradient norm"
#: the class of a layer that has no parameters of its own, or none whose class over the width follows
NO_PARAMETERS: Final = "no parameters"
#: the classes over the depth: layers of the lists that become longer, and all others
INSIDE: Final = "in blocks"
OUTSIDE: Final = "outside"
#: training steps, after each of which all layers are looked at (Yang et al. 2022, appendix D.1)
_STEPS: Final = 10
_RATE: Final = 1e-3
_NUMBER: Final = re.compile("[0-9]+")


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
        """Build the models, train each for some steps on the batch, and measure at the start and after each step."""
        training = _Training(batch, loss, optimizer or _adam)
        found: list[Point] = []
        if self.width is not None:
            found += _widths(self.width, self.widths, training)
        if self.depth is not None:
            found += _depths(self.depth, self.depths, training)
        return found


@dataclass(frozen=True)
class _Training:
    """How the models are trained."""

    batch: Any
    loss: LossFunction | None
    optimizer: Optimizing

    def passes(self, model: nn.Module, groups: list[dict[str, Any]] | None) -> Iterator[Pass]:
        """What is seen at the start, and after each step. The model's values change."""
        learned = [parameter for parameter in parameters_of(model) if parameter.requires_grad]
        steps = self.optimizer(learned if groups is None else groups)  # type: ignore[arg-type]
        for step in range(_STEPS + 1):
            with preserved(model):
                seen = probe(model, walk(model), call_of(model, self.batch, self.loss), self.loss)
            yield seen
            if step < _STEPS:
                for parameter in learned:
                    parameter.grad = seen.gradients.get(id(parameter))
                steps.step()


def _widths(factory: Factory, sizes: Sequence[int], training: _Training) -> list[Point]:
    """The rms of every layer's output at every width (Yang et al. 2022)."""
    points: list[Point] = []
    uses: dict[str, Use] = {}
    smallest: nn.Module | None = None
    for size in sizes:
        model, groups = _built("width", factory, size)
        if smallest is None:
            smallest = model
        with preserved(model):  # the factory may return a model that it keeps
            for step, seen in enumerate(training.passes(model, groups)):
                uses |= {use.layer.name: use for use in seen.uses}
                points += [
                    Point(factory="width", group="", size=size, layer=name, step=step, value=rms)
                    for name, rms in _rms(seen.uses).items()
                ]
    assert smallest is not None
    classes = classes_over_width(smallest, model)
    groups_of = {name: _class_of(use, classes) for name, use in uses.items()}
    return [replace(point, group=groups_of[point.layer]) for point in points]


def _rms(uses: Iterable[Use]) -> dict[str, float]:
    """By layer, the rms of its output; infinite if not all of it is finite, as statistics leave out the rest."""
    outputs = {use.layer.name: use.layer.output for use in uses}
    return {name: math.inf if output.nonfinite else output.rms for name, output in outputs.items()}


def _class_of(use: Use, classes: Mapping[str, Class]) -> str:
    """The class of a layer: that of its weight, or of what else it has; what makes the logits is an output."""
    known = [classes[name] for name in use.layer.parameters if name in classes]
    if not known:
        return NO_PARAMETERS
    if use.head and known[0] is Class.INPUT:  # a tied table
        return Class.OUTPUT.value
    return next((one for one in known if one not in (Class.VECTOR, Class.FIXED)), known[0]).value


def _depths(factory: Factory, sizes: Sequence[int], training: _Training) -> list[Point]:
    """The rms of the outputs, of all blocks as one, and the norm of the gradient of all parameters, at every depth."""
    built: dict[int, list[dict[str, float]]] = {}
    norms: list[Point] = []
    modules: list[Mapping[str, nn.Module]] = []
    for size in sizes:
        model, groups = _built("depth", factory, size)
        modules.append(named_modules(model))
        with preserved(model):
            for step, seen in enumerate(training.passes(model, groups)):
                built.setdefault(size, []).append(_rms(seen.uses))
                if step == 0:
                    squares = [float(gradient.double().square().sum()) for gradient in seen.gradients.values()]
                    norm = math.sqrt(sum(squares))
                    norms.append(Point(factory="depth", group="", size=size, layer=GRADIENT_NORM, step=0, value=norm))
    longer = _longer(modules[0], modules[-1])
    return norms + [
        Point(factory="depth", group=INSIDE if "*" in name else OUTSIDE, size=size, layer=name, step=step, value=value)
        for size, steps in built.items()
        for step, measured in enumerate(steps)
        for name, value in _together(measured, longer).items()
    ]


def _longer(small: Mapping[str, nn.Module], large: Mapping[str, nn.Module]) -> frozenset[tuple[str, str]]:
    """Where the larger model has more numbered modules: the name of the module around them, and theirs with a star."""
    found: set[tuple[str, str]] = set()
    for name in small.keys() & large.keys():
        few, many = (
            Counter(starred for key in module._modules for starred in _with_star(key))
            for module in (small[name], large[name])
        )
        found |= {(name, starred) for starred, count in many.items() if count > max(few[starred], 1)}
    return frozenset(found)


def _with_star(key: str) -> Iterator[str]:
    """The name with a star for a number, as ``*`` for ``0`` and ``layer_*`` for ``layer_0``; for each number in it."""
    return (f"{key[: number.start()]}*{key[number.end() :]}" for number in _NUMBER.finditer(key))


def _together(measured: Mapping[str, float], longer: frozenset[tuple[str, str]]) -> dict[str, float]:
    """The rms of the same layer of all blocks, by a name with a star for the block's number; others as they are."""
    squares: dict[str, list[float]] = {}
    for name, rms in measured.items():
        squares.setdefault(_starred(name, longer), []).append(rms * rms)
    return {name: math.sqrt(sum(each) / len(each)) for name, each in squares.items()}


def _starred(name: str, longer: frozenset[tuple[str, str]]) -> str:
    path, parts = "", []
    for part in name.split("."):
        key = part.partition("#")[0].partition(":")[0]
        block = next((starred for starred in _with_star(key) if (path, starred) in longer), key)
        parts.append(block + part[len(key) :])
        path = f"{path}.{part}" if path else part
    return ".".join(parts)


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
