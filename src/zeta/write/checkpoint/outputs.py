"""Paths that a user gives for output: impossible names are refused, and nothing is written through a link."""

from __future__ import annotations

import contextlib
import itertools
import os
import stat
from os import PathLike
from pathlib import Path
from typing import Final

from zeta.base.reading import shown
from zeta.errors import SpecError, UsageError
from zeta.write.checkpoint.open_folder import Directory, kind_of

_LONGEST: Final = 255  # bytes of a name, on all systems in use


def output_path(path: str | PathLike[str], what: str = "path") -> Path:
    """Return the path; ``SpecError`` if no file can have that name. ``what`` is the name of the argument, for errors.

    >>> output_path("out/model")
    PosixPath('out/model')
    """
    try:
        text = os.fspath(path)
    except TypeError:
        text = None
    if not isinstance(text, str):
        raise SpecError(
            f"{what} must be a text or a pathlib.Path, got {shown(path)}; os.fsdecode makes a text of bytes"
        )
    if not text:
        raise SpecError(f"{what} is empty, expected the name of a folder; '.' is the current one")
    if "\0" in text:
        raise SpecError(f"{what} {text!r} has a NUL character, expected a name without")
    for name in Path(text).parts:
        try:
            size = len(os.fsencode(name))
        except UnicodeEncodeError:
            raise SpecError(f"{what} {text!r} cannot be encoded, expected valid Unicode") from None
        if size > _LONGEST:
            raise SpecError(f"{what}: {name[:20]!r}... has {size} bytes, expected at most {_LONGEST}; shorten the name")
    return Path(text)


def check_output(path: str | PathLike[str], what: str = "path") -> Path:
    """As ``output_path``; also ``UsageError`` if the path is a link, folder or device, which ``write_text`` refuses."""
    checked = output_path(path, what)
    if os.path.lexists(checked) and not stat.S_ISREG((found := checked.lstat()).st_mode):
        raise UsageError(f"{what} {checked} is {kind_of(found)}, expected a file or nothing; choose another name")
    return checked


def write_text(path: str | PathLike[str], text: str) -> None:
    """Write a file, as a whole or not at all. Replaces an existing file, but never a link, folder or device.

    Raises ``SpecError`` and ``UsageError`` as ``check_output``, and ``OSError`` if the system refuses.
    """
    path = check_output(path)
    with Directory.open(path.parent) as folder:
        names = (f".zeta-part-{os.getpid()}-{number}" for number in itertools.count())
        beginning = next(name for name in names if folder.status(name) is None)
        folder.write(beginning, text.encode("utf-8"))
        try:
            os.rename(beginning, path.name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
        except BaseException:
            with contextlib.suppress(OSError):
                folder.remove(beginning)
            raise
