"""An open folder: what is done in it goes by names directly inside, follows no link, and replaces nothing.

Each call looks a path up again. In between, somebody may have replaced a folder or file by a link. A
folder that is open stays the one that it was.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from zeta.errors import CheckpointError

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
#: nonblocking, or opening a FIFO would wait for whoever writes to it
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
#: what ``link`` answers where a file system, or a rule of the system, has no second names
_NO_LINKS: Final = frozenset((errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK))


class Directory:
    """A folder by its descriptor; ``path`` is for messages. Use it as a context manager."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the folder that a user named, who may name it by links."""
        return cls(path, os.open(path, _FOLDER))

    def inner(self, name: str) -> Directory:
        """Open the folder ``name``; ``CheckpointError`` if it is a link or no folder."""
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
        """Everything that is in it."""
        return os.listdir(self.descriptor)  # noqa: PTH208

    def status(self, name: str) -> os.stat_result | None:
        """What ``name`` is, not what it links to; ``None`` if there is nothing."""
        try:
            return os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def make_folder(self, name: str) -> bool:
        """Make a folder, unless the name is taken; return whether that was done."""
        try:
            os.mkdir(name, dir_fd=self.descriptor)
        except FileExistsError:
            return False
        return True

    def create(self, name: str) -> int:
        """Open a new file for reading and writing; ``CheckpointError`` if the name is taken."""
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FILE, 0o666, dir_fd=self.descriptor)
        except FileExistsError as error:
            raise self.obstacle(name, "nothing") from error

    def reopen(self, name: str) -> int:
        """Open a file of an earlier run for reading and writing.

        ``CheckpointError`` if it is a link, or no file, or has a second name: zeta makes none of these, and somebody
        else's file would be written through it.
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
        """What the file has, or ``None`` if there is none; ``CheckpointError`` if it has more than ``most`` bytes."""
        if self.status(name) is None:
            return None
        with os.fdopen(self.reopen(name), "rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise CheckpointError(
                f"{self.path / name} has more than {most:,} bytes, which zeta does not write; remove it"
            )
        return content

    def write(self, name: str, content: bytes) -> None:
        """Make a file with ``content``, and let the disk have it; no file if that fails."""
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
        """Let the file ``name`` be ``other`` in ``target``; ``CheckpointError`` if that name is taken.

        An interrupted move leaves the file under both names; the same move completes it, and the one back undoes it.
        """
        try:
            os.link(
                name, other, src_dir_fd=self.descriptor, dst_dir_fd=target.descriptor, follow_symlinks=False
            )  # unlike a renaming, it never replaces anything
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
        """Remove a file or a link itself, if it is there. A folder stays."""
        with contextlib.suppress(FileNotFoundError):
            found = self.status(name)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                os.unlink(name, dir_fd=self.descriptor)

    def remove_folder(self, name: str) -> None:
        """Remove a folder, if it is empty."""
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=self.descriptor)

    def sync(self) -> None:
        """Let the disk have its names, where the system can."""
        with contextlib.suppress(OSError):
            os.fsync(self.descriptor)

    def obstacle(self, name: str, expected: str) -> CheckpointError:
        """The error for what is in the way."""
        return CheckpointError(
            f"{self.path / name} is {kind_of(self.status(name))}, expected {expected}; move or remove it, or choose "
            "another folder"
        )


def _is_made_by_zeta(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def kind_of(found: os.stat_result | None) -> str:
    """What a directory entry is, in words."""
    if found is None:
        return "missing"
    if stat.S_ISREG(found.st_mode):
        return "a file of somebody else" if found.st_nlink == 1 else f"a file with {found.st_nlink} names"
    kinds = {stat.S_IFLNK: "a link", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a FIFO", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(found.st_mode), "a device")
