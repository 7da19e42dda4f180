"""The coordinate check: how the outputs of layers, and their changes in training, grow with a size of the model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

#: from a size and a seed to a model, and the groups of its optimizer
Make = Callable[[int, int], tuple[nn.Module, list[dict[str, Any]]]]
Loss = Callable[[nn.Module], Tensor]


class Slopes(NamedTuple):
    """Of a layer: d ln(rms) / d ln(size) of its output at the start, after training, and of the change between them."""

    start: float
    after: float
    change: float


def slopes(
    make: Make, sizes: Sequence[int], loss: Loss, layers: Sequence[str], *, steps: int = 6, seeds: int = 3
) -> dict[str, Slopes]:
    """By layer: slopes over the sizes, of means over seeds of ln(rms), after steps of Adam on one batch.

    ``layers`` are names of modules, with ``{last}`` for one less than the size. What is zero has the slope nan.
    """
    points: dict[str, list[Slopes]] = {}
    for size in sizes:
        measured = [
            _measured(*make(size, seed), loss, [each.format(last=size - 1) for each in layers], steps)
            for seed in range(seeds)
        ]
        for place, layer in enumerate(layers):
            columns = zip(*(each[place] for each in measured), strict=True)
            points.setdefault(layer, []).append(Slopes(*(statistics.mean(map(_log, column)) for column in columns)))
    x = [math.log(size) for size in sizes]
    return {layer: Slopes(*(_slope(x, column) for column in zip(*line, strict=True))) for layer, line in points.items()}


def _measured(
    model: nn.Module, groups: list[dict[str, Any]], loss: Loss, layers: Sequence[str], steps: int
) -> list[tuple[float, float, float]]:
    before = _outputs(model, loss, layers)
    optimizer = torch.optim.Adam(groups)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model).backward()
        optimizer.step()
    after = _outputs(model, loss, layers)
    return [(_rms(before[name]), _rms(after[name]), _rms(after[name] - before[name])) for name in layers]


def _outputs(model: nn.Module, loss: Loss, layers: Sequence[str]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    with _watched(model, layers, found), torch.no_grad():
        loss(model)
    return found


@contextmanager
def _watched(model: nn.Module, layers: Sequence[str], found: dict[str, Tensor]) -> Iterator[None]:
    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            found[name] = (output[0] if isinstance(output, tuple) else output).detach().double().clone()

        return hook

    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


def _log(value: float) -> float:
    return math.log(value) if value > 0 else math.nan


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    centre = statistics.mean(x)
    return sum((a - centre) * b for a, b in zip(x, y, strict=True)) / sum((a - centre) ** 2 for a in x)
