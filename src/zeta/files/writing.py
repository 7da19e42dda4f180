"""Write tiles to files in a thread of its own, while the next tiles are computed; have the disk keep finished files.

Writing releases the interpreter's lock, and so do the kernels. More threads that write to one file wait for each other.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from torch import Tensor

#: tiles that wait to be written, and finished files that wait for the disk
_AHEAD: Final = 2


class Target:
    """A file that is being written, in any order. What it holds already and is the same is left alone."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        self._earlier = os.fstat(self._file).st_size
        self.found = 0

    def write(self, content: memoryview, offset: int) -> None:
        """Let the file have ``content`` at ``offset``."""
        if offset + len(content) <= self._earlier and os.pread(self._file, len(content), offset) == bytes(content):
            self.found += len(content)
            return
        while content:
            written = os.pwrite(self._file, content, offset)
            content, offset = content[written:], offset + written

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

    An error of the writing thread is raised by a later call. When the block is left, everything has been written that
    was asked for, or failed.
    """

    def __init__(self) -> None:
        self.finished = 0
        self.found = 0
        self._tiles = ThreadPoolExecutor(1, "zeta-write")
        self._syncs = ThreadPoolExecutor(1, "zeta-sync")
        self._writing: deque[Future[None]] = deque()
        self._syncing: deque[Future[None]] = deque()
        self._target: Target | None = None

    def begin(self, path: Path, first: bytes) -> None:
        """Turn to another file, which begins with the bytes ``first``."""
        self._target = Target(path)
        self._submit(self._target.write, memoryview(first), 0)

    def write(self, tile: Tensor, offsets: Sequence[int]) -> None:
        """Write a contiguous CPU tensor to each of ``offsets``. It must not be changed any more."""
        assert self._target is not None

        def each(target: Target) -> None:
            for offset in offsets:
                target.write(memory(tile), offset)

        self._submit(each, self._target)

    def finish(self, size: int) -> None:
        """End the file, which has ``size`` bytes; the disk may get it while the next one is written."""
        target, self._target = self._target, None
        assert target is not None
        written = tuple(self._writing)

        def sync() -> None:
            with contextlib.closing(target):
                for future in written:
                    future.result()
                target.finish(size)
            self.finished += 1
            self.found += target.found

        _wait(self._syncing, _AHEAD - 1)
        self._syncing.append(self._syncs.submit(sync))

    def flush(self) -> None:
        """Wait until the disk has every finished file."""
        _wait(self._writing, 0)
        _wait(self._syncing, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.flush()
        finally:
            self._tiles.shutdown()
            self._syncs.shutdown()
            if self._target is not None:
                self._target.close()

    def _submit(self, write: Callable[..., None], *arguments: object) -> None:
        _wait(self._writing, _AHEAD - 1)
        self._writing.append(self._tiles.submit(write, *arguments))


def _wait(futures: deque[Future[None]], most: int) -> None:
    """Wait until at most so many are left, and raise what went wrong in the others."""
    while len(futures) > most:
        futures.popleft().result()


def memory(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy. Valid while the tensor lives."""
    assert tensor.is_contiguous()
    assert tensor.device.type == "cpu"
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()))
