"""Decorators of the verbs: they run outside of torch's modes; inside a recording they are recorded, or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.nn.utils import parametrizations

from zeta.base.parametrizations import originals
from zeta.base.process.surroundings import plain
from zeta.base.text import by_reason
from zeta.errors import RecordingError, TargetError, ZetaError, listed
from zeta.fans import Axes
from zeta.initializers import Blocks, Constant, Initializer, Program
from zeta.resolve.fitting import Fit
from zeta.resolve.plans import Entry
from zeta.resolve.recording.active import ACTIVE, Draws
from zeta.resolve.slots import Slot
from zeta.write.targets import check_writable

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def check_no_recording(name: str) -> None:
    """Raise ``RecordingError`` inside a recording, where no tensor has values."""
    if ACTIVE.recorder is not None:
        raise RecordingError(
            f"zeta.{name} needs values, and inside a recording there are none; call it on the model that the plan was "
            "applied to"
        )


def on_values(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A verb that runs outside of all modes, and raises ``RecordingError`` inside a recording."""

    @functools.wraps(verb)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        check_no_recording(verb.__name__)
        with plain():
            return verb(*args, **kwargs)

    return guarded


def on_values_or_recorded(verb: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A verb that runs outside of all modes. Inside a recording it keeps them and must handle the recording itself."""

    @functools.wraps(verb)
    def guarded(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        if ACTIVE.recorder is not None:
            return verb(*args, **kwargs)
        with plain():
            return verb(*args, **kwargs)

    return guarded


def recording_here() -> Draws | None:
    """The recording in progress in this thread, if any."""
    return ACTIVE.recorder


def note(recorder: Draws, fit: Fit) -> None:
    """Record that tensors get the values of the fit's entries. The seed is that of the recorded plan, when applied.

    Raises ``TargetError`` that lists all parameters that cannot be written.
    """
    written = [entry for entry in fit.entries if not entry.kept]
    refused: list[tuple[str, str]] = []
    with torch._C.DisableTorchFunction():  # the recording's mode would answer is_meta with False
        for entry in written:
            try:
                _check(entry, fit.slots[entry.name])
            except ZetaError as error:
                refused.append((entry.name, str(error)))
    if refused:
        raise TargetError(listed("these parameters cannot be written in a recording:", by_reason(refused)))
    for entry in written:
        slot = fit.slots[entry.name]
        if slot.parametrization is None:
            _fill(recorder, entry, slot.tensor)
            continue
        effective = torch.empty(entry.shape, dtype=slot.tensor.dtype, device="cpu")
        _fill(recorder, entry, effective)
        setattr(slot.module, slot.local_name, effective)  # stores its right inverse
        first = slot.parametrization[0]
        if isinstance(first, parametrizations._SpectralNorm):
            with torch.no_grad():
                from zeta.write.parametrized import restart_power_iteration  # here, because few models need it

                restart_power_iteration(first, originals(slot.parametrization)[0])


def note_entry(recorder: Draws, entry: Entry, slot: Slot) -> None:
    """Record that a tensor that no module holds gets an entry's values. ``TargetError`` if it cannot be written."""
    with torch._C.DisableTorchFunction():
        _check(entry, slot)
    _fill(recorder, entry, slot.tensor)


def _check(entry: Entry, slot: Slot) -> None:
    if not slot.tensor.is_meta:
        raise TargetError("is real, from before the recording; make it inside the constructor")
    check_writable(slot)
    if entry.section is not None:
        raise TargetError(f"is written in its part {entry.section} alone; a recording writes whole tensors")
    if isinstance(entry.initializer, Program):
        raise TargetError("gets a recorded program; call the function that it was recorded from")


def _fill(recorder: Draws, entry: Entry, tensor: Tensor) -> None:
    with torch.no_grad():
        blocks = entry.initializer
        if isinstance(blocks, Blocks):
            alone = blocks.axes_of_one(entry.axes)
            for begin, end, part in blocks.spans(entry.shape[blocks.dim]):
                _draw(recorder, part, alone, tensor.narrow(blocks.dim, begin, end - begin))
        else:
            _draw(recorder, entry.initializer, entry.axes, tensor)
        if entry.padding_idx is not None:
            tensor[entry.padding_idx].zero_()


def _draw(recorder: Draws, initializer: Initializer, axes: Axes | None, tensor: Tensor) -> None:
    if isinstance(initializer, Constant):
        tensor.fill_(initializer.value)
        return
    from zeta.resolve.recording.sources import source_here  # here, because few calls are recorded

    source = source_here()
    called = "init" if source is None or source.called is None else source.called
    with torch._C.DisableTorchFunction():
        recorder.draw_into(tensor, initializer, axes, called)
