"""Backends that compute the same stream: compiled code on CPUs, Triton on NVIDIA GPUs, torch operations anywhere.

The backend for a device is chosen at its first use: the fastest one that reproduces the known answers. Every report and
``zeta doctor`` name it, and a notice is given if a faster one could not be used. The environment variable
``ZETA_KERNEL`` forces one: ``avx512_bf16``, ``avx512``, ``avx2``, ``neon``, ``portable``, ``triton``, ``reference``. A
backend for another type of device (``triton`` on the CPU) is ignored.
"""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import torch
from msgspec import Struct
from msgspec.structs import replace
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
#: elements of the temporary for a dtype or a device that no backend can write to
STAGE: Final = 2**20
_LONGEST_REASON: Final = 300

_EVERY_DTYPE: Final = frozenset({torch.uint32, *native.DTYPES})


class Backend(Struct, frozen=True, kw_only=True):
    """One implementation of the stream: its name, the function that runs tasks, and the dtypes that it writes.

    ``measure`` computes the sums of many tensors, each about a centre, in one call; ``None`` if the backend cannot.
    """

    name: str
    fill: Callable[[Sequence[Task]], None]
    dtypes: frozenset[torch.dtype] = _EVERY_DTYPE
    measure: Callable[[Sequence[Tensor], Sequence[float]], list[native.RawSums]] | None = None


REFERENCE: Final = Backend(name="reference", fill=reference.fill)


def fill(tasks: Iterable[Task]) -> None:
    """Run all tasks; those of one device in one call, so that many small tasks cost little more than a large one."""
    by_device: dict[torch.device, list[Task]] = {}
    for task in tasks:
        by_device.setdefault(task.device, []).append(task)
    for device, of_device in by_device.items():
        chosen = backend(device)
        at_once: list[Task] = []
        reached = device.type in ("cpu", "cuda")
        for task in of_device:
            if not reached or task.law.dtype not in _EVERY_DTYPE:
                _staged(task)
            elif task.law.dtype in chosen.dtypes:
                at_once.append(task)
            else:
                reference.fill([task])
        if at_once:
            chosen.fill(at_once)
            # kernels write to memory that autograd does not watch
            written = [out for task in at_once for out in task.outs if not out.is_inference()]
            torch.autograd.graph.increment_version(written)


def _staged(task: Task) -> None:
    """Compute into a temporary, in fp32 if no backend writes the dtype, on the CPU if none runs there, and copy it."""
    law = task.law if task.law.dtype in _EVERY_DTYPE else replace(task.law, dtype=torch.float32)
    device = task.device if task.device.type == "cuda" else torch.device("cpu")
    for key, out in zip(task.keys, task.outs, strict=True):
        for index, tile in task.region.tiles(STAGE):
            values = torch.empty(tile.sizes, dtype=law.dtype, device=device)
            fill([replace(task, law=law, keys=(key,), region=tile, outs=(values,))])
            out[index].copy_(values)


def backend(device: torch.device | str = "cpu") -> Backend:
    """The backend that computes values for ``device``; gives a notice once if faster ones could not be used.

    Raises ``SpecError`` if ``ZETA_KERNEL`` names one that does not exist or cannot be used.
    """
    chosen, problems = choice(device)
    if problems:
        _warn("cuda" if torch.device(device).type == "cuda" else "cpu", chosen.name, problems)
    return chosen


def problems(device: torch.device | str = "cpu") -> tuple[str, ...]:
    """Why backends faster than the one chosen for ``device`` cannot be used."""
    return choice(device)[1]


def choice(device: torch.device | str = "cpu") -> tuple[Backend, tuple[str, ...]]:
    """``backend`` and ``problems`` in one call, without the notice."""
    kind = device.type if isinstance(device, torch.device) else torch.device(device).type
    return _choice("cuda" if kind == "cuda" else "cpu", os.environ.get(VARIABLE) or None)


@functools.cache
def _warn(device_type: str, name: str, problems: tuple[str, ...]) -> None:
    warnings.warn(
        f"zeta computes with the {name} backend on {device_type}: the same values, more slowly. "
        f"Not usable: {'; '.join(problems)}",
        ZetaNotice,
        stacklevel=3,
    )


@functools.cache
def _choice(device_type: str, forced: str | None) -> tuple[Backend, tuple[str, ...]]:
    """The backend for a type of device, and why those before it in ``candidates`` cannot be used."""
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
    """The names of the backends for a type of device, fastest first; the reference is always the last."""
    if device_type == "cuda":
        return "triton", "reference"
    library = _library()
    return *(library.isas if library else ()), "reference"


@functools.cache
def proved(name: str, device_type: str = "cpu") -> Backend:
    """The named backend, after a check that it gives the known answers; ``OSError`` says why it cannot be used."""
    found = REFERENCE if name == "reference" else _triton() if name == "triton" else _native(name)
    try:
        # the caller's modes, such as a default device, must not change the answers
        with outside_of_modes():
            wrong = wrong_answers(found.fill, found.dtypes, device_type) if found is not REFERENCE else []
            wrong += wrong_sums(found.measure) if found.measure is not None else []
    except Exception as error:  # of a compiler or driver; the reference needs neither
        raise OSError(f"fails: {_reason(error)}") from error
    if wrong:
        raise OSError(f"gives wrong values for {', '.join(wrong)}; please report this")
    return found


def _reason(error: BaseException) -> str:
    """The error in one line, with the text of its root cause: a compiler's error itself only quotes the source."""
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
