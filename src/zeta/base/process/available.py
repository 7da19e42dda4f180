"""How much memory a process may still take, and how it returns what it freed."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

_MEMINFO: Final = Path("/proc/meminfo")
#: the limit of a container, and what it uses (version 2 of Linux's control groups)
_GROUP: Final = Path("/sys/fs/cgroup")


def available_memory(meminfo: Path = _MEMINFO, group: Path = _GROUP) -> int | None:
    """Bytes that can be allocated without swapping, within the limit of the container; ``None`` if it is not known.

    Linux says so in ``/proc/meminfo``. Elsewhere, ``os.sysconf`` gives the free pages, or all pages of the machine.
    """
    known = [size for size in (_in_meminfo(meminfo), _in_group(group)) if size is not None]
    return min(known) if known else _in_pages()


def _in_meminfo(path: Path) -> int | None:
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def _in_group(folder: Path) -> int | None:
    try:
        limit, used = ((folder / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
    except (OSError, UnicodeDecodeError):
        return None
    return max(int(limit) - int(used), 0) if limit.isdecimal() and used.isdecimal() else None


def _in_pages() -> int | None:
    for name in ("SC_AVPHYS_PAGES", "SC_PHYS_PAGES"):
        try:
            return int(os.sysconf(name)) * int(os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, OSError, ValueError):
            continue
    return None


def return_freed() -> None:
    """Return freed memory to the system, which glibc keeps where small blocks lie between large ones."""
    if (trim := _trim()) is not None:
        trim(0)


@functools.cache
def _trim() -> Callable[[int], object] | None:
    """The function of glibc; ``None`` with another C library."""
    try:
        found: Callable[[int], object] = ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None
    return found
