"""The fixed state in which programs and matrices are computed, independent of the caller's settings."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import torch

from zeta.base.process.interrupts import undone, undone_on_error

#: in a list, so that Python's compiler does not compute the product in advance
_HALF: Final = [0.5]


class _Alone:
    """A lock for process-wide settings of torch, such as its number of threads; unlocked in a forked child."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.RLock()


_ALONE: Final = _Alone()


@contextlib.contextmanager
def fixed_state() -> Iterator[None]:
    """No modes, no gradients, no autocast, no flushing of subnormals: values do not depend on the caller's state."""
    with outside_of_modes(), torch.no_grad(), torch.autocast("cpu", enabled=False), subnormals():
        yield


def flushes_subnormals() -> bool:
    """Whether ``torch.set_flush_denormal`` is on in this thread: Python's numbers are flushed too."""
    return sys.float_info.min * _HALF[0] == 0.0


@contextlib.contextmanager
def subnormals() -> Iterator[None]:
    """Keep subnormal numbers, even if ``torch.set_flush_denormal`` is on in this thread."""
    flushed = flushes_subnormals()
    try:
        if flushed:
            torch.set_flush_denormal(False)
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, because results of sums, of functions such as ``pow`` and of LAPACK depend on the number.

    Products are in full precision, as in ``full_precision``.
    """
    with _ALONE.lock, full_precision():
        before = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute matrix products of fp32 in fp32, with subnormals; the setting holds for all threads in the meantime."""
    with _ALONE.lock, subnormals():
        backends: tuple[Any, ...] = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
        before = [backend.fp32_precision for backend in backends]
        changed = [(backend, found) for backend, found in zip(backends, before, strict=True) if found != "ieee"]

        def restore() -> None:
            for backend, found in changed:
                backend.fp32_precision = found

        with undone_on_error(restore), undone(restore):
            for backend, _ in changed:
                backend.fp32_precision = "ieee"
            yield


@contextlib.contextmanager
def no_other_settings() -> Iterator[None]:
    """Settings of the whole process are the user's: no thread is in one of the blocks above that change them."""
    with _ALONE.lock:
        yield


@contextlib.contextmanager
def outside_of_modes() -> Iterator[None]:
    """Run torch as if no mode were active."""
    with torch.utils._python_dispatch._disable_current_modes(), torch._C.DisableTorchFunction():
        yield
