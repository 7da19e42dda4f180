"""A thread pool that raises an error if a thread cannot start or dies, and never waits forever.

``threading.Thread.start`` waits until the new thread reports that it runs. If that thread finds no memory for its
first steps, it ends without an error, and ``start`` waits forever. So the threads here are started with ``_thread``,
one level below. Each thread holds an object that is freed when the thread ends, for whatever reason, and a waiting
caller checks a weak reference to it. This is needed as long as ``Thread.start`` waits without a timeout.
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

#: seconds between two checks that the threads are alive; a result that arrives earlier is returned at once
_PATIENCE: Final = 0.5


class _Life:
    """Referenced by its running thread only, so that it disappears with the thread."""


class Crew:
    """At most ``most`` threads, started as jobs are submitted. Each calls ``begin`` first. End with ``leave``."""

    def __init__(self, most: int, begin: Callable[[], None] = lambda: None) -> None:
        self._most = most
        self._begin = begin
        self._jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lives: list[weakref.ref[_Life]] = []
        self._leaving = False

    def submit(self, job: Callable[[], T]) -> Future[T]:
        """Queue the job for a thread; ``OSError`` if none can be started. Wait for it with ``result``."""
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
                if future.done():  # the job itself raised TimeoutError
                    raise
                if any(life() is None for life in self._lives):
                    raise _dead() from None

    def leave(self) -> None:
        """Wait until every job is done and all threads have ended."""
        self._leaving = True
        with contextlib.suppress(MemoryError):  # the threads also check _leaving every _PATIENCE seconds
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
        finally:
            del life  # the traceback of an interrupt would keep it, and leave() would wait for its end

    def _work(self, life: _Life) -> None:
        try:
            self._begin()
            while (given := self._next()) is not None:
                _do(*given)
                del given  # the job may hold a large tensor
        finally:
            del life  # an exception of a job may keep this frame alive

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
        del future, job  # breaks the cycle: the exception holds this frame, and the future holds the exception


def _dead() -> OSError:
    return OSError(
        errno.ENOMEM,
        "a thread could not be started, or has died for want of memory; free some, or use fewer threads "
        "(torch.set_num_threads)",
    )
