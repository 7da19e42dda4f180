"""Run recurrent modules again step by step, to look at their gates and at how their states grow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from zeta.check.facts.evidence import Recurrent, Sequences, TensorFacts
from zeta.check.watch.activations import KNOWN

# products with the recurrent weight that its spectral radius is estimated from
_PRODUCTS: Final = 64
# the size of a change of the state, in fp64
_CHANGE: Final = 1e-6


@dataclass(frozen=True, kw_only=True)
class _Weights:
    """The weights of one layer and direction, in fp64; biases are zero if there are none."""

    name: str
    inputs: Tensor
    state: Tensor
    input_bias: Tensor
    state_bias: Tensor
    projection: Tensor | None


@dataclass(frozen=True, kw_only=True)
class _Step:
    """The values inside of one step, of each part that has a name."""

    states: tuple[Tensor, ...]  #: the new ones, of which the first is put out
    parts: Mapping[str, Tensor]


_Cell = Callable[[_Weights, Tensor, tuple[Tensor, ...]], _Step]


def recurrent(used: Iterable[Sequences], tensors: Iterable[TensorFacts]) -> tuple[Recurrent, ...]:
    """The facts about each layer and direction of the recurrent modules that ran; those not finite are left out."""
    values = {name: one for one in tensors for name in (one.name, *one.ties)}
    with torch.no_grad():
        return tuple(found for sequences in used for found in _layers(sequences, values))


def _layers(sequences: Sequences, values: Mapping[str, TensorFacts]) -> Iterator[Recurrent]:
    module = sequences.recurrent
    given = sequences.inputs.double()
    if module.mode not in _CELLS:  # a subclass with gates of its own
        return
    for layer in range(module.num_layers):
        outputs: list[Tensor] = []
        for suffix in (f"l{layer}", f"l{layer}_reverse")[: 1 + module.bidirectional]:
            weights = _weights(sequences.module, suffix, values)
            if weights is None or not len(given) or not bool(torch.isfinite(given).all()):
                return
            backward = suffix.endswith("reverse")
            found, output = _run(weights, given.flip(0) if backward else given, sequences)
            outputs.append(output.flip(0) if backward else output)
            yield found
        given = torch.cat(outputs, -1)


def _weights(module: str, suffix: str, values: Mapping[str, TensorFacts]) -> _Weights | None:
    prefix = f"{module}." if module else ""
    held = {kind: values.get(f"{prefix}{kind}_{suffix}") for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")}
    inputs, state = held["weight_ih"], held["weight_hh"]
    if inputs is None or state is None or inputs.stats.nonfinite or state.stats.nonfinite:
        return None
    of_inputs = inputs.values.double()
    none = of_inputs.new_zeros(len(of_inputs))
    biases = [none if one is None else one.values.double() for one in (held["bias_ih"], held["bias_hh"])]
    projection = values.get(f"{prefix}weight_hr_{suffix}")
    return _Weights(
        name=state.name,
        inputs=of_inputs,
        state=state.values.double(),
        input_bias=biases[0],
        state_bias=biases[1],
        projection=None if projection is None else projection.values.double(),
    )


def _run(weights: _Weights, given: Tensor, sequences: Sequences) -> tuple[Recurrent, Tensor]:
    module = sequences.recurrent
    cell = _CELLS[module.mode]
    width, samples = module.hidden_size, given.shape[1]
    first = given.new_zeros(samples, weights.state.shape[1])
    states: tuple[Tensor, ...] = (first, given.new_zeros(samples, width)) if module.mode == "LSTM" else (first,)
    change = tuple(_direction(state) for state in states)
    steps: list[Mapping[str, Tensor]] = []
    outputs: list[Tensor] = []
    growth: list[float] = []
    for of_inputs in given @ weights.inputs.T + weights.input_bias:
        # the states and the changed ones as twice as many samples, so that there is one product with the weight
        both = tuple(torch.cat([s, s + _CHANGE * c]) for s, c in zip(states, change, strict=True))
        step = cell(weights, torch.cat([of_inputs, of_inputs]), both)
        states = tuple(new[:samples] for new in step.states)
        ahead = tuple((new[samples:] - new[:samples]) / _CHANGE for new in step.states)
        size = math.sqrt(sum(float(one.square().sum()) for one in ahead))
        growth.append(size)
        change = tuple(one / size for one in ahead) if 0 < size < math.inf else change
        outputs.append(states[0])
        steps.append({name: part[:samples] for name, part in step.parts.items()})
    parts = {name: torch.stack([step[name] for step in steps]) for name in steps[0]}
    found = Recurrent(
        module=sequences.module,
        kind=type(module).__name__,
        weight=weights.name,
        steps=sequences.steps,
        saturated=tuple(_saturated(module.mode, parts)),
        kept=_mean(parts, "forget gate", "update gate"),
        written=_mean(parts, "input gate", "written"),
        factor=_per_step(growth),
        radius=_radius(weights.state[_candidate(module.mode, width)], weights.projection),
    )
    return found, torch.stack(outputs)


def _direction(state: Tensor) -> Tensor:
    """A change of the state that is the same in every run: cosines of a quadratic phase, as long as the unit vector."""
    index = torch.arange(1, state.numel() + 1, device=state.device, dtype=torch.float64)
    change: Tensor = index.square().cos().view(state.shape)
    length: Tensor = change.norm()
    return change / length


def _per_step(growth: list[float]) -> float | None:
    """The geometric mean, without the first step, in which the change turns to its lasting direction."""
    if len(growth) < 2:
        return None
    late = growth[1:]
    if not all(0 < one < math.inf for one in late):
        return 0.0 if 0.0 in late else None
    return math.exp(sum(map(math.log, late)) / len(late))


def _radius(weight: Tensor, projection: Tensor | None) -> float:
    """The spectral radius, from the growth of a vector (Gelfand's formula)."""
    square = weight if projection is None else weight @ projection
    vector = _direction(square[0])
    logs = 0.0
    for _ in range(_PRODUCTS):
        vector = square @ vector
        size = float(vector.norm())
        if not 0 < size < math.inf:
            return size
        vector, logs = vector / size, logs + math.log(size)
    return math.exp(logs / _PRODUCTS)


def _candidate(mode: str, width: int) -> slice:
    """The rows of the weight that make the candidate."""
    return slice(2 * width, 3 * width) if mode in ("LSTM", "GRU") else slice(0, width)


def _mean(parts: Mapping[str, Tensor], *names: str) -> float | None:
    return next((float(parts[name].mean()) for name in names if name in parts), None)


def _saturated(mode: str, parts: Mapping[str, Tensor]) -> Iterator[tuple[str, float]]:
    """The fraction at the bounds of each part; of gates, at the bound at which they lose something."""
    for name, values in parts.items():
        if name in ("candidate", "state") and mode != "RNN_RELU":
            yield name, float((values.abs() >= 1 - KNOWN["tanh"].margin).double().mean())
        elif name == "output gate":
            yield name, float((values <= KNOWN["sigmoid"].margin).double().mean())


# -- cells -----------------------------------------------------------------------------------------------------------


def _of_state(weights: _Weights, state: Tensor) -> Tensor:
    return state @ weights.state.T + weights.state_bias


def _plain(change: Callable[[Tensor], Tensor]) -> _Cell:
    def cell(weights: _Weights, of_inputs: Tensor, states: tuple[Tensor, ...]) -> _Step:
        new = change(of_inputs + _of_state(weights, states[0]))
        return _Step(states=(new,), parts={"state": new})

    return cell


def _lstm(weights: _Weights, of_inputs: Tensor, states: tuple[Tensor, ...]) -> _Step:
    write, keep, candidate, show = (of_inputs + _of_state(weights, states[0])).chunk(4, -1)
    write, keep, candidate, show = write.sigmoid(), keep.sigmoid(), candidate.tanh(), show.sigmoid()
    memory = keep * states[1] + write * candidate
    output = show * memory.tanh()
    output = output if weights.projection is None else output @ weights.projection.T
    parts = {"input gate": write, "forget gate": keep, "candidate": candidate, "output gate": show}
    return _Step(states=(output, memory), parts=parts)


def _gru(weights: _Weights, of_inputs: Tensor, states: tuple[Tensor, ...]) -> _Step:
    given, held = of_inputs.chunk(3, -1), _of_state(weights, states[0]).chunk(3, -1)
    reset, keep = ((one + other).sigmoid() for one, other in zip(given[:2], held[:2], strict=True))
    candidate = (given[2] + reset * held[2]).tanh()
    new = (1 - keep) * candidate + keep * states[0]
    return _Step(states=(new,), parts={"update gate": keep, "written": 1 - keep, "candidate": candidate})


_CELLS: Final[Mapping[str, _Cell]] = {
    "RNN_TANH": _plain(torch.tanh),
    "RNN_RELU": _plain(torch.relu),
    "LSTM": _lstm,
    "GRU": _gru,
}
