"""An open folder: its methods take names directly inside it, follow no link, and replace nothing.

The system resolves a path anew in each call. Between two calls, another process may replace a folder or file by a link.
An open folder descriptor always means the same folder.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from zeta.errors import CheckpointError

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: O_NONBLOCK: without it, opening a FIFO would wait for a process that writes to it
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: the errors of ``link`` on systems and file systems without hard links
_NO_LINKS: Final = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))
#: the inode of a file, its size, and the time of its last change in ns
State = tuple[int, int, int]


class Directory:
    """A folder by its descriptor; ``path`` is for messages. Use it as a context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a folder by the user's path, which may contain links."""
        return cls(path, os.open(path, _FOLDER))

    def inner(self, name: str) -> Directory:
        """Open the folder ``name``; ``CheckpointError`` if it is a link or not a folder."""
        try:
            return Directory(self.path / name, os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=self.descriptor))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise self.obstacle(name, "a folder that zeta made") from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    def names(self) -> list[str]:
        """The names of everything in the folder."""
        return os.listdir(self.descriptor)  # noqa: PTH208

    def status(self, name: str) -> os.stat_result | None:
        """The status of ``name`` itself, not of what it links to; ``None`` if it does not exist."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def state(self, name: str) -> State | None:
        """What is different once another file has the name, or the file was written to; ``None`` if there is none."""
        found = self.status(name)
        return None if found is None else (found.st_ino, found.st_size, found.st_mtime_ns)

    def make_folder(self, name: str) -> bool:
        """Make a folder unless the name exists; return whether it was made."""
        try:
            os.mkdir(name, dir_fd=self.descriptor)
        except FileExistsError:
            return False
        return True

    def create(self, name: str) -> int:
        """Create a file for reading and writing; ``CheckpointError`` if the name exists."""
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=self.descriptor)
        except FileExistsError as error:
            raise self.obstacle(name, "nothing") from error

    def reopen(self, name: str) -> int:
        """Open a file of an earlier run for reading and writing.

        ``CheckpointError`` if it is a link, not a file, or has a second name (hard link). zeta makes none of these, and
        writing would change a file that is not zeta's.
        """
        try:
            file = os.open(name, os.O_RDWR | _FILE, dir_fd=self.descriptor)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise self.obstacle(name, "a file that zeta made") from error
            raise
        if not _is_made_by_zeta(os.fstat(file)):
            os.close(file)
            raise self.obstacle(name, "a file that zeta made")
        return file

    def check(self, name: str) -> None:
        """Raise what ``reopen`` would."""
        found = self.status(name)
        if found is not None and not _is_made_by_zeta(found):
            raise self.obstacle(name, "a file that zeta made")

    def read(self, name: str, most: int) -> bytes | None:
        """The file's content; ``None`` if it does not exist; ``CheckpointError`` if it has more than ``most`` bytes."""
        if self.status(name) is None:
            return None
        with os.fdopen(self.reopen(name), "rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise CheckpointError(
                f"{self.path / name} has more than {most:,} bytes, which zeta does not write; remove it"
            )
        return content

    def holds(self, name: str, sha256: str) -> bool:
        """Whether ``name`` itself, not what it links to, is a file whose content has this SHA-256."""
        try:
            file = os.open(name, os.O_RDONLY | _FILE, dir_fd=self.descriptor)
        except OSError:  # also a link, or a file that cannot be read
            return False
        with os.fdopen(file, "rb") as stream:
            is_file = stat.S_ISREG(os.fstat(file).st_mode)
            return is_file and hashlib.file_digest(stream, "sha256").hexdigest() == sha256

    def begins(self, name: str, content: bytes, offset: int = 0) -> bool:
        """Whether ``name`` is a link, or a file that has ``content`` from ``offset`` on or is cut off in it."""
        found = self.status(name)
        if found is None or stat.S_ISLNK(found.st_mode):
            return True  # what a link leads to stays
        try:
            file = os.open(name, os.O_RDONLY | _FILE, dir_fd=self.descriptor)
        except OSError:  # it cannot be read
            return False
        with os.fdopen(file, "rb") as stream:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                return False
            stream.seek(offset)
            return content.startswith(stream.read(len(content)))

    def write(self, name: str, content: bytes) -> None:
        """Create a file with ``content`` and fsync it; if that fails, no file is left."""
        file = self.create(name)
        try:
            with os.fdopen(file, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(file)
        except BaseException:
            self.remove(name)
            raise

    def move(self, name: str, target: Directory, other: str) -> None:
        """Rename ``name`` to ``other`` in the folder ``target``; ``CheckpointError`` if that name exists.

        An interrupted move leaves the file under both names. The same move completes it, and the move back undoes it.
        """
        try:
            os.link(
                name, other, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor, follow_symlinks=False
            )  # unlike os.rename, it never replaces a file
        except FileExistsError as error:
            one, two = self.status(name), target.status(other)
            if one is None or two is None or not os.path.samestat(one, two):
                raise target.obstacle(other, "nothing") from error
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if target.status(other) is not None:
                raise target.obstacle(other, "nothing") from error
            os.rename(name, other, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor)
            return
        os.unlink(name, dir_fd=self.descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, or a link itself, if it exists. A folder stays."""
        with contextlib.suppress(FileNotFoundError):
            found = self.status(name)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=self.descriptor)

    def remove_folder(self, name: str) -> None:
        """Remove a folder, if it is empty."""
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Fsync the folder, so that its names are on disk; ignored where the system cannot."""
        with contextlib.suppress(OSError):
            os.fsync(self.descriptor)

    def obstacle(self, name: str, expected: str) -> CheckpointError:
        """The error for a name that is not what was expected."""
        return CheckpointError(
            f"{self.path / name} is {kind_of(self.status(name))}, expected {expected}; move or remove it, or choose "
            "another folder"
        )


def _is_made_by_zeta(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def kind_of(found: os.stat_result | None) -> str:
    """The type of a directory entry, in words."""
    if found is None:
        return "missing"
    if stat.S_ISREG(found.st_mode):
        return "an existing file" if found.st_nlink == 1 else f"a file with {found.st_nlink} names"
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(found.st_mode), "a device")
