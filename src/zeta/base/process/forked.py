"""A process that was forked has none of its parent's threads; torch's operations may wait for them forever.

OpenMP keeps its threads for the thread that used them. The child's only thread inherits the record of them and waits,
unless torch may use one thread only. The child's later threads have no such record.
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

# in seconds, how long the trial may take; it takes some milliseconds
_PATIENCE: Final = 3.0
# elements that torch shares out among threads
_LARGE: Final = 2**18


class _Child:
    """What is known of the thread that came through a fork."""

    def __init__(self) -> None:
        self.thread: int | None = None  #: the thread's ``ident``; ``None`` in a process that was not forked
        self.works: bool | None = None  #: whether torch's threads work in it; ``None`` while nobody knows

    def forked(self) -> None:
        """Note that the calling thread came through a fork."""
        self.thread, self.works = threading.get_ident(), None


_CHILD: Final = _Child()


def was_forked() -> bool:
    """Whether this process came out of a fork, as far as zeta can know: not of ``os.fork`` before its import."""
    return _CHILD.thread is not None


def check_threads() -> None:
    """Raise ``ForkError`` if torch would wait forever for threads that the calling thread does not have."""
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
    """Whether an operation on torch's threads ends, tried in a process that may be lost."""
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
        with contextlib.suppress(ChildProcessError):  # where nobody waits for children
            os.waitpid(trial, 0)


if hasattr(os, "register_at_fork"):  # nowhere else can a process fork
    os.register_at_fork(after_in_child=_CHILD.forked)
    if type(multiprocessing.current_process()).__name__ == "ForkProcess":  # forked before zeta was imported
        _CHILD.forked()
