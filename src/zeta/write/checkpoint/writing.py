"""Compute and write tiles on several threads at once, and let the disk have files that are complete.

Each thread computes a small tile and writes it while it is in the processor's cache, without waiting for the others:
the kernels and the system's calls release the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import torch
from torch import Tensor

from zeta.compute.stream.kernels.native import stay_on_this_thread
from zeta.write.checkpoint.crew import Crew

T = TypeVar("T")

_MOST_THREADS: Final = 16
#: complete files that may wait for the disk
_MOST_SYNCS: Final = 2


class Target:
    """A file that several threads write, in any order. What it holds already, and is the same, is left alone."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._earlier = os.fstat(self._file).st_size

    def write(self, content: memoryview, offset: int) -> int:
        """Let the file have ``content`` at ``offset``; return how many bytes of it were there."""
        size = len(content)
        if offset + size <= self._earlier and os.pread(self._file, size, offset) == bytes(content):
            return size
        done = 0
        while done < size:
            done += os.pwrite(self._file, content[done:], offset + done)
        if hasattr(os, "posix_fadvise"):  # let the disk begin, rather than wait until much is to be done
            os.posix_fadvise(self._file, offset, size, os.POSIX_FADV_DONTNEED)
        return 0

    def finish(self, size: int) -> None:
        """Cut off what lies behind ``size``, and let the disk have everything."""
        if self._earlier > size:
            os.ftruncate(self._file, size)
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


class Writer:
    """Writes files one after the other: ``begin``, ``write``, ``write``, ..., ``finish``, ``begin``, ...

    An error in another thread is raised by a later call. When the block is left, everything is on the disk; or after an
    error nothing is in work any more. ``found`` counts the bytes that files had already.
    """

    def __init__(self) -> None:
        self.found = 0
        self._threads = min(torch.get_num_threads(), _MOST_THREADS)
        self._writers = Crew(self._threads, stay_on_this_thread)
        self._syncs = Crew(1)
        self._writing: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()
        self._syncing: deque[Future[None]] = deque()
        self._target: Target | None = None

    def begin(self, file: int, first: bytes) -> None:
        """Turn to another file, by its descriptor, which is closed here; it begins with the bytes ``first``."""
        self._target = Target(file)
        self.found += self._target.write(memoryview(first), 0)

    def write(self, job: Callable[[], tuple[Tensor, T]], offsets: Sequence[int], then: Callable[[T], None]) -> None:
        """Let a thread do ``job`` and write its tensor, contiguous and on the CPU, to each of ``offsets``.

        ``then`` is called here with the other part of the job's result, in the order of the jobs.
        """
        target = self._target
        assert target is not None

        def run() -> tuple[int, T]:
            values, result = job()
            return sum(target.write(memory(values), offset) for offset in offsets), result

        self._settle(self._threads)
        self._writing.append((self._writers.submit(run), then))

    def finish(self, size: int) -> None:
        """End the file, which has ``size`` bytes; the disk may get it while the next one is written."""
        while len(self._syncing) >= _MOST_SYNCS:
            self._syncs.result(self._syncing.popleft())
        target, written = self._target, [future for future, _ in self._writing]
        assert target is not None

        def sync() -> None:
            with contextlib.closing(target):
                for future in written:
                    self._writers.result(future)
                target.finish(size)

        self._syncing.append(self._syncs.submit(sync))
        self._target = None  # closed there

    def _settle(self, most: int) -> None:
        """Wait until at most so many jobs are in work, and tell of the others."""
        while len(self._writing) > most:
            future, then = self._writing.popleft()
            found, result = self._writers.result(future)
            self.found += found
            then(result)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._settle(0)
                for future in self._syncing:
                    self._syncs.result(future)
        finally:
            self._writers.leave()
            self._syncs.leave()
            if self._target is not None:
                self._target.close()


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy. Valid while the tensor lives."""
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))
