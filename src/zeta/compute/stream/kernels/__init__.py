"""The same stream from several backends: compiled code on CPUs, Triton on NVIDIA GPUs, torch operations anywhere.

Which one runs is decided at its first use, and said: by a notice where it is not the best for the device, by ``zeta
doctor``, and in every report. Before that use, a backend must give the known answers; one that does not is left out.
``ZETA_KERNEL`` in the environment forces one: ``avx512_bf16``, ``avx512``, ``avx2``, ``neon``, ``portable``,
``triton``, ``reference``; one that is for another device (``triton`` on the CPU) changes nothing.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from zeta.base.language.state import outside_of_modes
from zeta.compute.stream.kernels import native, reference
from zeta.compute.stream.kernels.answers import wrong_answers, wrong_sums
from zeta.compute.stream.kernels.tasks import WORDS, Law, Task
from zeta.errors import SpecError, ZetaNotice

__all__ = ["WORDS", "Backend", "Law", "Task", "backend", "candidates", "choice", "fill", "problems", "proved"]

VARIABLE: Final = "ZETA_KERNEL"
_ISAS: Final = ("avx512_bf16", "avx512", "avx2", "neon", "portable")
_NAMES: Final = (*_ISAS, "triton", "reference")
#: elements of a temporary on the way to a dtype or a device that no backend writes to
STAGE: Final = 2**20
_LONGEST_REASON: Final = 300

_EVERY_DTYPE: Final = frozenset({torch.uint32, *native.DTYPES})


@dataclass(frozen=True, kw_only=True)
class Backend:
    """One way to compute the stream: its name, the call that does tasks, and the dtypes that it writes.

    ``measure`` gives the sums, about a centre each, of many tensors at once, where the backend can.
    """

    name: str
    fill: Callable[[Sequence[Task]], None]
    dtypes: frozenset[torch.dtype] = _EVERY_DTYPE
    measure: Callable[[Sequence[Tensor], Sequence[float]], list[native.Moments]] | None = None


REFERENCE: Final = Backend(name="reference", fill=reference.fill)


def fill(tasks: Iterable[Task]) -> None:
    """Do all tasks; those for one device together, so that many small ones cost little more than a large one."""
    by_device: dict[torch.device, list[Task]] = {}
    for task in tasks:
        by_device.setdefault(task.out.device, []).append(task)
    for device, of_device in by_device.items():
        chosen = backend(device)
        at_once: list[Task] = []
        for task in of_device:
            if device.type not in ("cpu", "cuda") or task.law.dtype not in _EVERY_DTYPE:
                _staged(task)
            elif task.law.dtype in chosen.dtypes:
                at_once.append(task)
            else:
                reference.fill([task])
        if at_once:
            chosen.fill(at_once)


def _staged(task: Task) -> None:
    """Compute in fp32 where no backend writes the dtype, on the CPU where none runs on the device, and copy."""
    law = task.law if task.law.dtype in _EVERY_DTYPE else replace(task.law, dtype=torch.float32)
    device = task.out.device if task.out.device.type == "cuda" else torch.device("cpu")
    for index, tile in task.region.tiles(STAGE):
        values = torch.empty(tile.sizes, dtype=law.dtype, device=device)
        fill([replace(task, law=law, region=tile, out=values)])
        task.out[index].copy_(values)


def backend(device: torch.device | str = "cpu") -> Backend:
    """The backend that computes values for ``device``; a notice says so once if it is not the best for it.

    Raises ``SpecError`` if ``ZETA_KERNEL`` asks for one that does not exist or does not run here.
    """
    chosen, problems = choice(device)
    if problems:
        _say("cuda" if torch.device(device).type == "cuda" else "cpu", chosen.name, problems)
    return chosen


def problems(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Why better backends than the one that is used for ``device`` cannot be used."""
    return choice(device)[1]


def choice(device: torch.device | str = "cpu") -> tuple[Backend, tuple[str, ...]]:
    """``backend`` and ``problems`` in one, without the notice."""
    return _choice("cuda" if torch.device(device).type == "cuda" else "cpu", os.environ.get(VARIABLE) or None)


@functools.cache
def _say(device_type: str, name: str, problems: tuple[str, ...]) -> None:
    warnings.warn(
        f"zeta computes with the {name} backend on {device_type}: the same values, more slowly. "
        f"Not usable: {'; '.join(problems)}",
        ZetaNotice,
        stacklevel=3,
    )


@functools.cache
def _choice(device_type: str, forced: str | None) -> tuple[Backend, tuple[str, ...]]:
    """The backend for a type of device, and why those before it in ``candidates`` are not used."""
    if forced not in (None, *_NAMES):
        raise SpecError(f"{VARIABLE} must be one of {', '.join(_NAMES)}, got {forced!r}")
    if forced is not None and (forced == "reference" or (forced in _ISAS) is (device_type == "cpu")):
        try:
            return proved(forced, device_type), ()
        except OSError as error:
            raise SpecError(f"{VARIABLE}={forced} cannot be used: {error}. Unset it, or name another") from error
    problems = [] if device_type != "cpu" or _library() else [f"native: {_load()[1]}"]
    for name in candidates(device_type):
        try:
            return proved(name, device_type), tuple(problems)
        except OSError as error:
            problems.append(f"{name}: {error}")
    raise AssertionError("the reference can always be used")


def candidates(device_type: str = "cpu") -> tuple[str, ...]:
    """The names of the backends for a type of device, best first; the reference is always the last."""
    if device_type == "cuda":
        return "triton", "reference"
    library = _library()
    return *(library.isas if library else ()), "reference"


@functools.cache
def proved(name: str, device_type: str = "cpu") -> Backend:
    """The named backend, after it has given the known answers; ``OSError`` says why it cannot be used."""
    found = REFERENCE if name == "reference" else _triton() if name == "triton" else _native(name)
    try:
        # whatever mode the first use is in, such as another default device, it is not the backend's
        with outside_of_modes():
            wrong = wrong_answers(found.fill, found.dtypes, device_type) if found is not REFERENCE else []
            wrong += wrong_sums(found.measure) if found.measure is not None else []
    except Exception as error:  # a compiler's, a driver's: whatever it is, the reference can do without
        raise OSError(f"fails: {_reason(error)}") from error
    if wrong:
        raise OSError(f"gives wrong values for {', '.join(wrong)}; please report this")
    return found


def _reason(error: BaseException) -> str:
    """The error in one line, with the text of what caused it: a compiler's own error only quotes the source."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    names = dict.fromkeys(type(one).__name__ for one in (error, cause))
    return f"{': '.join(names)}: {' '.join(str(cause).split())}"[:_LONGEST_REASON]


def _native(isa: str) -> Backend:
    library = _library()
    if library is None:
        raise OSError(_load()[1])
    if isa not in library.isas:
        raise OSError(f"this processor cannot run it, but {', '.join(library.isas)}")
    fill, measure = functools.partial(library.fill, isa), functools.partial(library.measure, isa)
    return Backend(name=f"native {isa}", fill=fill, measure=measure)


def _library() -> native.Library | None:
    return _load()[0]


@functools.cache
def _load() -> tuple[native.Library | None, str]:
    """The compiled library, or why there is none."""
    try:
        return native.Library(native.library_path(__path__)), ""
    except OSError as error:
        return None, str(error)


def _triton() -> Backend:
    try:
        from zeta.compute.stream.kernels import triton
    except ImportError as error:
        raise OSError(
            f"cannot be imported ({error}); install the triton that torch {torch.__version__} needs"
        ) from error
    return Backend(name="triton", fill=triton.fill, dtypes=triton.DTYPES)
