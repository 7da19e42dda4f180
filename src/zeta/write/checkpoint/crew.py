"""Threads that do jobs, for which it is an error, and never a wait without end, if one of them cannot start or dies.

``threading.Thread.start`` waits for the new thread to say that it runs. One that finds no memory for its first steps
ends without an error, and the thread that started it waits forever. The threads here are started one level below, and
each holds an object that is gone when the thread is, for whatever reason; whoever waits looks whether it is there.
"""

from __future__ import annotations

import _thread
import contextlib
import errno
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, Final, TypeVar

T = TypeVar("T")

#: seconds between two looks at whether the threads live; nobody who is in time waits for them
_PATIENCE: Final = 0.5


class _Life:
    """Held by a running thread, and by nothing else."""


class Crew:
    """At most ``most`` threads, started as jobs come. Each calls ``begin`` first. End with ``leave``."""

    def __init__(self, most: int, begin: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._begin = begin
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lives: list[weakref.ref[_Life]] = []
        self._leaving = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Let a thread do the job; ``OSError`` if none can be started. Wait for it by ``result``."""
        if len(self._lives) < self._most:
            self._start()
        future: Future[T] = Future()
        self._jobs.put((future, job))
        return future

    def result(self, future: Future[T]) -> T:
        """What the job returned or raised; ``OSError`` if a thread has died."""
        while True:
            try:
                return future.result(_PATIENCE)
            except TimeoutError:
                if future.done():  # the job's own
                    raise
                if any(life() is None for life in self._lives):
                    raise _dead() from None

    def leave(self) -> None:
        """Wait until every job is done, and let the threads end."""
        self._leaving = True
        with contextlib.suppress(MemoryError):  # they look by themselves now and then
            for _ in self._lives:
                self._jobs.put(None)
        while any(life() is not None for life in self._lives):
            time.sleep(0.0005)

    def _start(self) -> None:
        life = _Life()
        self._lives.append(weakref.ref(life))
        try:
            _thread.start_new_thread(self._work, (life,))
        except (RuntimeError, MemoryError) as error:
            self._lives.pop()
            raise _dead() from error

    def _work(self, life: _Life) -> None:
        try:
            self._begin()
            while (given := self._next()) is not None:
                _do(*given)
                del given  # what it holds may be large
        finally:
            del life  # an exception that a job raised may keep this frame

    def _next(self) -> tuple[Future[Any], Callable[[], Any]] | None:
        while True:
            try:
                return self._jobs.get(timeout=_PATIENCE)
            except Empty:
                if self._leaving:
                    return None


def _do(future: Future[Any], job: Callable[[], Any]) -> None:
    try:
        value = job()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(value)
    finally:
        del future, job  # the exception has this frame, and the future has the exception


def _dead() -> OSError:
    return OSError(
        errno.ENOMEM,
        "a thread could not be started, or has died for want of memory; free some, or use fewer threads "
        "(torch.set_num_threads)",
    )
