"""Compute and write tiles on several threads, and fsync each file when it is complete.

Each thread computes a small tile and writes it while the tile is in the processor's cache. The threads run in parallel:
the kernels and the system calls release the interpreter's lock.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import torch
from torch import Tensor

from zeta.base.tensors import bytes_view
from zeta.compute.stream.kernels.native import stay_on_this_thread
from zeta.write.checkpoint.crew import Crew

T = TypeVar("T")

_MOST_THREADS: Final = 16
#: complete files that may wait for their fsync
_MOST_SYNCS: Final = 2


class OutputFile:
    """A file that several threads write, in any order. Bytes that it already has are not written again."""

    def __init__(self, file: int) -> None:
        self._file = file
        self._is_open = True
        self._earlier = os.fstat(self._file).st_size

    def write(self, content: memoryview, offset: int) -> int:
        """Write ``content`` at ``offset``; return the number of bytes that the file already had."""
        size = len(content)
        if offset + size <= self._earlier and os.pread(self._file, size, offset) == bytes(content):
            return size
        done = 0
        while done < size:
            done += os.pwrite(self._file, content[done:], offset + done)
        if hasattr(os, "posix_fadvise"):  # starts the write-back now instead of leaving it all to fsync
            os.posix_fadvise(self._file, offset, size, os.POSIX_FADV_DONTNEED)
        return 0

    def finish(self, size: int) -> None:
        """Truncate the file to ``size``, and fsync it."""
        if self._earlier > size:
            os.ftruncate(self._file, size)
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file, once: afterwards, another file may have its descriptor."""
        is_open, self._is_open = self._is_open, False
        if is_open:
            os.close(self._file)


class Writer:
    """Writes files one after the other: ``begin``, ``write``, ``write``, ..., ``finish``, ``begin``, ...

    An error in another thread is raised by a later call. When the block ends, everything is on disk; after an error, no
    job is running any more. ``found`` counts the bytes that the files already had.
    """

    def __init__(self) -> None:
        self.found = 0
        self._threads = min(torch.get_num_threads(), _MOST_THREADS)
        self._writers = Crew(self._threads, stay_on_this_thread)
        self._syncs = Crew(1)
        self._writing: deque[tuple[Future[Any], Callable[[Any], None]]] = deque()
        self._syncing: deque[Future[None]] = deque()
        self._output: OutputFile | None = None

    def begin(self, file: int, first: bytes) -> None:
        """Begin a file, given by its descriptor, with the bytes ``first``. The writer closes the descriptor."""
        self._output = OutputFile(file)
        self.found += self._output.write(memoryview(first), 0)

    def write(self, job: Callable[[], tuple[Tensor, T]], offsets: Sequence[int], then: Callable[[T], None]) -> None:
        """Run ``job`` in a thread and write its tensor (contiguous, on the CPU) at each of ``offsets``.

        ``then`` is called in the calling thread with the second part of the job's result, in the order of the jobs.
        """
        output = self._output
        assert output is not None

        def run() -> tuple[int, T]:
            values, result = job()
            return sum(output.write(bytes_view(values), offset) for offset in offsets), result

        self._settle(self._threads)
        self._writing.append((self._writers.submit(run), then))

    def finish(self, size: int) -> None:
        """End the file, which has ``size`` bytes. Its fsync may run while the next file is written."""
        while len(self._syncing) >= _MOST_SYNCS:
            self._syncs.result(self._syncing.popleft())
        output, written = self._output, [future for future, _ in self._writing]
        assert output is not None

        def sync() -> None:
            with contextlib.closing(output):
                for future in written:
                    self._writers.result(future)
                output.finish(size)

        self._syncing.append(self._syncs.submit(sync))
        self._output = None  # sync closes it

    def _settle(self, most: int) -> None:
        """Wait until at most ``most`` jobs are running, and call ``then`` for the finished ones."""
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
            if self._output is not None:
                self._output.close()
