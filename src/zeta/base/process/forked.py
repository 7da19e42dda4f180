"""A forked process has none of its parent's threads; torch's operations may wait for them forever.

OpenMP keeps a pool of threads for each thread that used it. The child's only thread inherits the record of the pool,
but not its threads, and waits for them, unless torch may use one thread only. Threads that the child starts later have
no such record.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import select
import signal
import threading
from typing import Final

import torch

from zeta.base.process.surroundings import plain
from zeta.errors import ForkError

# seconds that the trial may take; it takes some milliseconds
_PATIENCE: Final = 3.0
# elements of a tensor that torch computes on several threads
_LARGE: Final = 2**18


class _Child:
    """The thread that this process was forked with."""

    def __init__(self) -> None:
        self.thread: int | None = None  #: the thread's ``ident``; ``None`` in a process that was not forked
        self.works: bool | None = None  #: whether torch's threads work in it; ``None`` before the first trial

    def forked(self) -> None:
        """Record that the process was forked, with the calling thread as its only one."""
        self.thread, self.works = threading.get_ident(), None


_CHILD: Final = _Child()


def was_forked() -> bool:
    """Whether this process was forked; an ``os.fork`` before the import of zeta is not noticed."""
    return _CHILD.thread is not None


def check_threads() -> None:
    """Raise ``ForkError`` if torch would wait forever for threads that do not exist in this process."""
    if _CHILD.thread != threading.get_ident() or torch.get_num_threads() == 1:
        return
    if _CHILD.works is None:
        _CHILD.works = _try()
    if not _CHILD.works:
        raise ForkError(
            "this process was forked from one that had used torch's threads, and torch's operations wait for these "
            'forever; start processes with multiprocessing.get_context("spawn"), or call torch.set_num_threads(1) in '
            "the forked one first"
        )


def _try() -> bool:
    """Whether an operation on torch's threads ends; tried in a child process, which is killed if it does not."""
    reading, writing = os.pipe()
    trial = os.fork()
    if not trial:
        try:
            with plain():
                torch.zeros(_LARGE, device="cpu").add_(1)
            os.write(writing, b"1")
        finally:
            os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], _PATIENCE)
        return bool(ready) and os.read(reading, 1) == b"1"
    finally:
        os.close(reading)
        with contextlib.suppress(ProcessLookupError):
            os.kill(trial, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # if SIGCHLD is ignored, the system has reaped it
            os.waitpid(trial, 0)


if hasattr(os, "register_at_fork"):  # exists on all systems that can fork
    os.register_at_fork(after_in_child=_CHILD.forked)
    if type(multiprocessing.current_process()).__name__ == "ForkProcess":  # forked before zeta was imported
        _CHILD.forked()
