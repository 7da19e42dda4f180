"""The compiled kernels for CPUs (``csrc/``), called through a C interface that depends on neither Python nor torch."""

from __future__ import annotations

import ctypes
import functools
import itertools
import math
import os
import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from zeta.base.process.forked import was_forked
from zeta.compute.stream.kernels.tasks import DIMS, Law, Task, boxes
from zeta.compute.stream.random import Side, interval

#: environment variable with the path of another library file, such as one built with sanitizers
LIBRARY_VARIABLE: Final = "ZETA_LIBRARY"
_FILE: Final = "libzeta_native.so"

_ABI: Final = 3
#: the library's answer where it could not allocate memory
_NO_MEMORY: Final = 3
_DRAW_KINDS: Final = {"words": 0, "uniform": 1, "normal": 2}
_DTYPES: Final = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2, torch.float64: 3, torch.uint32: 4}

#: dtypes of real values that the kernels read and write
DTYPES: Final = frozenset(_DTYPES) - {torch.uint32}

# struct zeta_job of csrc/zeta.h: the place, sizes and strides of a box, the stream, the law.
# struct zeta_view: the place, sizes and strides of a box, the type. struct zeta_moments.
_PLACE: Final = struct.Struct("=Qq")
_STREAM: Final = struct.Struct("=QQ")
_LAW: Final = struct.Struct("=iiddddQQdddQddd")
_ADDRESS: Final = struct.Struct("=Q")
_TYPE: Final = struct.Struct("=i4xd")
_BOX: Final = struct.Struct(f"={DIMS}q")  # the sizes, or the strides in one tensor
_JOB_SIZE: Final = _PLACE.size + 3 * _BOX.size + _STREAM.size + _LAW.size
_VIEW_SIZE: Final = _ADDRESS.size + 2 * _BOX.size + _TYPE.size
_SUMS: Final = struct.Struct("=dddd")

#: sum and sum of squares about the centre, minimum and maximum
RawSums = tuple[float, float, float, float]


class Library:
    """The loaded library. Raises ``OSError`` if it is missing, or its interface has another version."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        try:
            self._library.zeta_isas.restype = ctypes.c_char_p
            self._library.zeta_job_size.restype = self._library.zeta_view_size.restype = ctypes.c_int64
            sizes = self._library.zeta_job_size(), self._library.zeta_view_size()
            same = self._library.zeta_abi() == _ABI and sizes == (_JOB_SIZE, _VIEW_SIZE)
        except AttributeError as error:
            raise OSError(f"{path} is not the native library of zeta ({error}); install zeta again") from error
        if not same:
            raise OSError(f"{path} is of another version of zeta; install zeta again")
        self._library.zeta_stream_from.restype = ctypes.c_int64
        number, count, memory = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
        self._library.zeta_fill.argtypes = (ctypes.c_char_p, memory, count, count, number, memory)
        self._library.zeta_measure.argtypes = (ctypes.c_char_p, memory, memory, count, number, memory)
        #: a fill of at least this many bytes uses stores that bypass the caches
        self.stream_from: int = self._library.zeta_stream_from()

    @property
    def isas(self) -> tuple[str, ...]:
        """The instruction sets that this processor can run, fastest first."""
        names: bytes = self._library.zeta_isas()
        return tuple(names.decode().split(","))

    def fill(self, isa: str, tasks: Sequence[Task]) -> None:
        """Run all tasks in one call on ``torch.get_num_threads()`` threads, without the interpreter's lock.

        A thread that called ``stay_on_this_thread`` runs them alone.
        """
        jobs = _jobs(tasks)
        count = len(jobs) // _JOB_SIZE
        self._call("zeta_fill", isa, jobs, count, self.stream_from)

    def measure(self, isa: str, tensors: Sequence[Tensor], centres: Sequence[float]) -> list[RawSums]:
        """Sum and sum of squares about the centre, minimum and maximum of each tensor, all in one call.

        The results have the same bits for any number of threads.
        """
        views = _views(tensors, centres)
        joined = b"".join(views)
        count = len(joined) // _VIEW_SIZE
        answers = ctypes.create_string_buffer(_SUMS.size * count)
        self._call("zeta_measure", isa, joined, answers, count)
        found: Iterator[RawSums] = _SUMS.iter_unpack(answers.raw)
        if count == len(tensors) and all(views):
            return list(found)
        measured: list[RawSums] = []
        for of_one in views:
            total, squares, low, high = 0.0, 0.0, math.inf, -math.inf
            for one in itertools.islice(found, len(of_one) // _VIEW_SIZE):
                total, squares, low, high = total + one[0], squares + one[1], min(low, one[2]), max(high, one[3])
            measured.append((total, squares, low, high))
        return measured

    def _call(self, function: str, isa: str, *arguments: object) -> None:
        threads = getattr(_this_thread, "threads", None) or torch.get_num_threads()
        code = getattr(self._library, function)(isa.encode(), *arguments, threads, _team(was_forked()))
        if code == _NO_MEMORY:
            raise MemoryError(f"{function} of the native kernels found no memory; nothing was written")
        if code:
            raise RuntimeError(f"{function} of the native kernels refused its arguments ({code}); please report this")


_this_thread = threading.local()


def stay_on_this_thread() -> None:
    """From now on, kernels called by this thread start no other threads: it is one of several that run in parallel."""
    _this_thread.threads = 1


@functools.cache
def _team(forked: bool) -> ctypes.c_void_p:
    """``GOMP_parallel`` of the OpenMP runtime that torch uses, or null; it runs a function on torch's own threads.

    Threads of our own would compete for the processors with torch's, which keep spinning for a moment after each
    operation. The kernels are not linked with OpenMP, because they must use the very runtime that torch has loaded.
    This is needed until torch offers a C function that runs work on its threads.

    In a process forked from one that used these threads, they do not exist, and a call would wait for them forever.
    """
    if forked:
        return ctypes.c_void_p()
    try:
        torch_cpu = next(Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))
        # the lookup also searches the libraries that libtorch_cpu depends on
        return ctypes.cast(ctypes.CDLL(str(torch_cpu)).GOMP_parallel, ctypes.c_void_p)
    except (StopIteration, OSError, AttributeError):
        return ctypes.c_void_p()


def library_path(folders: Iterable[str]) -> Path:
    """The path of the library, in one of the package's folders; an editable installation has two.

    Raises ``OSError`` if it is in none of them, for example if zeta was built without a C++ compiler.
    """
    if chosen := os.environ.get(LIBRARY_VARIABLE):
        return Path(chosen)
    for folder in folders:
        if (place := Path(folder) / _FILE).exists():
            return place
    raise OSError(
        "zeta is installed without its compiled kernels; to have them, install it again, from a wheel for this "
        "platform or with a C++ compiler (GCC 12 or newer, or Clang)"
    )


def _jobs(tasks: Iterable[Task]) -> bytes:
    """Each task as a ``zeta_job``, or as several if it has more dimensions than a job."""
    parts: list[bytes] = []
    for task in tasks:
        region, draw, law = task.region, task.draw, _packed(task.law)
        sizes, strides = _run(region.numel)
        run, start = sizes + strides + strides, region.start
        for key, out in zip(task.keys, task.outs, strict=True):
            if region.is_run and out.is_contiguous():
                parts += (_PLACE.pack(out.data_ptr(), start), run, _STREAM.pack(key, draw), law)
                continue
            for (index, offset), extents, steps in boxes(region.sizes, [region.strides, out.stride()]):
                parts.append(_PLACE.pack(out.data_ptr() + offset * out.element_size(), start + index))
                parts += [_BOX.pack(*numbers) for numbers in (extents, *steps)]
                parts += (_STREAM.pack(key, draw), law)
    return b"".join(parts)


def _views(tensors: Iterable[Tensor], centres: Iterable[float]) -> list[bytes]:
    """Each tensor as a ``zeta_view``, or as several if it has more dimensions than a view."""
    runs: dict[tuple[int, torch.dtype, float], bytes] = {}  # a view without its address
    views: list[bytes] = []
    for tensor, centre in zip(tensors, centres, strict=True):
        if not tensor.is_contiguous():
            views.append(_boxed(tensor, centre))
            continue
        key = (tensor.numel(), tensor.dtype, centre)
        run = runs.get(key)
        if run is None:
            run = runs[key] = b"".join(_run(tensor.numel())) + _TYPE.pack(_DTYPES[tensor.dtype], centre)
        views.append(_ADDRESS.pack(tensor.data_ptr()) + run)
    return views


def _boxed(tensor: Tensor, centre: float) -> bytes:
    """A tensor with gaps, or in another order, as views of boxes."""
    kind = _TYPE.pack(_DTYPES[tensor.dtype], centre)
    views = b""
    for (offset,), extents, (steps,) in boxes(tuple(tensor.shape), [tensor.stride()]):
        place = _ADDRESS.pack(tensor.data_ptr() + offset * tensor.element_size())
        views += place + _BOX.pack(*extents) + _BOX.pack(*steps) + kind
    return views


@functools.lru_cache(maxsize=4096)
def _run(count: int) -> tuple[bytes, bytes]:
    """Sizes and strides of a box of ``count`` consecutive elements."""
    outer = DIMS - 1
    return _BOX.pack(*(1,) * outer, count), _BOX.pack(*(0,) * outer, 1)


@functools.lru_cache(maxsize=4096)
def _packed(law: Law) -> bytes:
    within = law.within or interval()
    head = (_DRAW_KINDS[law.kind], _DTYPES[law.dtype], law.scale, law.shift, law.low, law.high)
    return _LAW.pack(*head, within.split, *_side(within.negative), *_side(within.positive))


def _side(side: Side) -> tuple[int, float, float, float]:
    return side.count, float(side.scale), float(side.q_offset), float(side.p_offset)
