"""Turn a function of torch operations on a tensor into an initializer, for rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zeta.base.modules import within_reach
from zeta.base.reading import shown
from zeta.base.text import shape_text
from zeta.errors import FanError, RecordingError, SpecError
from zeta.fans import Axes
from zeta.initializers import Draw, Initializer, Program, Ref, Step
from zeta.resolve.recording.active import ACTIVE
from zeta.resolve.recording.recognition import Recognized, recognize
from zeta.resolve.recording.tracing import Recorder, recording
from zeta.rules import Match
from zeta.rules.rule import InitializerOf


def from_function(function: Callable[[Tensor], Any]) -> InitializerOf:
    """Return the initializer of a rule that runs torch operations: what ``function`` makes of a tensor.

    The function gets a tensor of the parameter's shape and dtype, and writes to it, or returns another one of this
    shape, which is cast. It is called once for each parameter while the plan is made, on a tensor without memory, and
    recorded as a constructor is (:func:`zeta.record`): draws become draws of the stream, a known law becomes its
    initializer, and everything else a :class:`~zeta.initializers.Program`. The plan's seed and the parameter's name
    decide the values. Functions of ``torch.nn.init`` count fans as torch does. What it does to other
    tensors is done at once, and is no part of the plan.

    What cannot be recorded is an error of the plan: memory that gets no value, control flow that depends on random
    values, operations outside of the language of programs (docs/programs.md).

    >>> from torch import nn
    >>> from zeta import Rule, Rules, plan
    >>> layer = nn.Module()
    >>> layer.A_log = nn.Parameter(torch.empty(4))
    >>> log_of_uniform = from_function(lambda t: torch.log(t.uniform_(1, 16)))
    >>> print(plan(layer, Rules([Rule("A_log", log_of_uniform)]))["A_log"].initializer)
    Program(log(Uniform(low=1, high=16)))
    """
    if not callable(function):
        raise SpecError(f"from_function takes a function of a tensor, got {shown(function)}")

    def recorded(match: Match) -> Initializer:
        return _as_drawn(_recorded(function, match), match)

    recorded.__name__ = f"from_function({getattr(function, '__name__', type(function).__name__)})"
    return recorded


def _recorded(function: Callable[[Tensor], Any], match: Match) -> Recognized:
    if ACTIVE.recorder is not None:
        raise RecordingError("from_function is for plans; in a constructor that is recorded, call the function itself")
    recorder = Recorder(freeze=False)
    with recording(recorder), within_reach("the function", RecordingError), torch.no_grad():
        tensor = torch.empty(match.shape, dtype=match.dtype, device="cpu")
        result = function(tensor)
        if isinstance(result, Tensor) and result is not tensor:
            if result.shape != tensor.shape:
                raise SpecError(
                    f"the function returned a tensor {shape_text(tuple(result.shape))}, the parameter is "
                    f"{shape_text(match.shape)}"
                )
            tensor.copy_(result)
        elif result is not None and result is not tensor:
            raise SpecError(f"the function must write to the tensor or return one, it returned {shown(result)}")
        recorder.lent.settle()  # what NumPy has written last
        if tensor.shape != match.shape or tensor.dtype != match.dtype:
            raise SpecError(
                f"the function made of the tensor one of {shape_text(tuple(tensor.shape))} and {tensor.dtype}, the "
                f"parameter is {shape_text(match.shape)} and {match.dtype}; write to it, or return another"
            )
        node = recorder.graph.read(tensor)
    found, problems = recognize({match.name: node}, recorder.frozen)
    if problems:
        raise SpecError(f"what the function does cannot be recorded: it {problems[match.name]}")
    return found[match.name]


def _as_drawn(found: Recognized, match: Match) -> Initializer:
    """The initializer, or a program of it if the parameter's entry would draw it along other axes, or in all rows."""
    law, row = found.initializer, found.padding_idx
    if row is None and (not law.needs_axes or found.axes == _axes_of(match)):
        return law
    draw = Step(op="draw", leaf=Draw(law, 0, axes=found.axes), shape=match.shape, dtype=match.dtype)
    if row is None:
        return Program((draw,))
    size = (1, *match.shape[1:])
    zeros = Step(op="full", attributes=(("size", size), ("value", 0.0)), shape=size, dtype=match.dtype)
    place = (("starts", (row, *[0] * (len(size) - 1))), ("steps", (1,) * len(size)))
    written = Step(op="update", operands=(Ref(0), Ref(1)), attributes=place, shape=match.shape, dtype=match.dtype)
    return Program((draw, zeros, written))


def _axes_of(match: Match) -> Axes | None:
    try:
        return match.axes_of()
    except FanError:
        return None
