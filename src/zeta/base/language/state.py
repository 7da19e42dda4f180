"""The fixed state in which programs and matrices are computed, whatever surrounds the call."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any, Final

import torch

#: in a list, so that the compiler does not multiply
_HALF: Final = [0.5]


class _Alone:
    """Held while torch has one thread, as its number is the whole process's; free in a child forked meanwhile."""

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        self.lock = threading.RLock()


_ALONE: Final = _Alone()


@contextlib.contextmanager
def fixed_state() -> Iterator[None]:
    """No mode, no gradients, no autocast, no flushing: values depend on nothing that surrounds the call."""
    with outside_of_modes(), torch.no_grad(), torch.autocast("cpu", enabled=False), subnormals():
        yield


@contextlib.contextmanager
def subnormals() -> Iterator[None]:
    """Numbers below the smallest normal one are kept, whatever ``torch.set_flush_denormal`` says in this thread."""
    flushed = sys.float_info.min * _HALF[0] == 0.0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """The results of sums, of functions such as ``pow`` and of LAPACK depend on how torch shares out the work.

    Products are in full precision, whatever ``torch.set_float32_matmul_precision`` allows.
    """
    with _ALONE.lock, full_precision():
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Matrix products of fp32 in fp32, on all threads meanwhile, and with subnormal numbers."""
    with _ALONE.lock, subnormals():
        backends: tuple[Any, ...] = (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
        before = [backend.fp32_precision for backend in backends]
        changed = [(backend, found) for backend, found in zip(backends, before, strict=True) if found != "ieee"]
        for backend, _ in changed:
            backend.fp32_precision = "ieee"
        try:
            yield
        finally:
            for backend, found in changed:
                backend.fp32_precision = found


@contextlib.contextmanager
def outside_of_modes() -> Iterator[None]:
    """Run torch as if no mode were active."""
    with torch.utils._python_dispatch._disable_current_modes(), torch._C.DisableTorchFunction():
        yield
