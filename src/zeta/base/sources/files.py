"""Files that are read at any place by several threads, and that must stay as they were when they were opened."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

from zeta.base.escaping import visible
from zeta.base.reading import opened
from zeta.errors import CheckpointError, FormatError

#: bytes that one call of the system reads
PIECE: Final = 2**22

#: fills memory with the bytes from an offset on
Fill = Callable[[memoryview, int], None]


class File:
    """A regular file, of which a change of size or time is an error.

    It stays open, so that another file in its place is not read. If ``keep`` is false, it is opened for each reading,
    and another one in its place is an error.
    """

    def __init__(self, path: Path, *, keep: bool = True) -> None:
        self.path = path
        with failing(path):
            file = opened(path)
        self._state = _state(file)
        self.size = self._state[2]
        self._file: BinaryIO | None = file
        self._keep = keep
        if not keep:
            file.close()

    @property
    def state(self) -> tuple[int, int]:
        """Its size, and the time of its last change in ns."""
        return self._state[2:]

    @contextlib.contextmanager
    def reading(self) -> Iterator[Fill]:
        """Within the block, read; at its end, ``CheckpointError`` if the file is no longer what it was."""
        with failing(self.path):
            if self._file is None:
                raise CheckpointError(f"{visible(str(self.path))} is closed")
            file = self._file if self._keep else opened(self.path)
            try:
                if _state(file) == self._state:
                    yield lambda memory, offset: self._fill(file, memory, offset)
                if _state(file) != self._state:
                    raise self._changed()
            finally:
                if not self._keep:
                    file.close()

    def _fill(self, file: BinaryIO, memory: memoryview, offset: int) -> None:
        done, size = 0, len(memory)
        while done < size:
            count = os.preadv(file.fileno(), [memory[done : done + PIECE]], offset + done)
            if count == 0:
                raise self._changed()
            done += count

    def _changed(self) -> CheckpointError:
        return CheckpointError(f"{visible(str(self.path))} changed while it was in use; open it again")

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _state(file: BinaryIO) -> tuple[int, int, int, int]:
    found = os.fstat(file.fileno())
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


@contextlib.contextmanager
def failing(path: Path) -> Iterator[None]:
    """Within the block, every error of reading is a ``CheckpointError`` that names the file."""
    try:
        yield
    except CheckpointError:
        raise
    except FileNotFoundError as error:
        raise CheckpointError(f"{visible(str(path))} does not exist") from error
    except OSError as error:
        raise CheckpointError(f"{visible(str(path))} cannot be read: {error.strerror or error}") from error
    except FormatError as error:
        raise CheckpointError(f"{visible(str(path))}: {error}") from error
