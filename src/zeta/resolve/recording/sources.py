"""The line of code that is reported for an operation: the innermost one outside of torch and zeta."""

from __future__ import annotations

import functools
import sys
from types import FrameType
from typing import Final

from msgspec import Struct


class Source(Struct, frozen=True, kw_only=True):
    """The line of code that did something, and the function of torch or zeta that it called, if that is public."""

    file: str
    line: int
    function: str
    called: str | None = None

    @property
    def place(self) -> str:
        """File, line and function."""
        return f"{self.file}:{self.line} in {self.function}"

    def __str__(self) -> str:
        return self.place if self.called is None else f"{self.place}, {self.called}"


# modules whose lines are skipped: the line that calls them is more informative
_THROUGH: Final = (
    "torch",
    "zeta",
    "transformers.initialization",
    "contextlib",
    "functools",
    "copy",
    "threading",
    "typing_extensions",
    "warnings",
    "concurrent",
)

# modules whose public functions are reported as ``called``
_NAMED: Final = ("torch.nn.init", "zeta.tensors", "zeta.utils", "zeta.verbs")


def source_here(called: str | None = None) -> Source | None:
    """The innermost line outside of the skipped modules; if there is none, the innermost in ``torch.nn.modules``."""
    frame: FrameType | None = sys._getframe(1)
    inner: FrameType | None = None
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        code = frame.f_code
        if not _is_through(module):
            # frames outside of the call of zeta.record do not matter
            return _source(frame, called or _torch_name(inner))
        if module in _NAMED and called is None and not code.co_name.startswith("_"):
            called = code.co_name
        if module == "zeta.resolve.recording.record":
            break
        if module.startswith("torch.nn.modules"):
            inner = frame
        frame = frame.f_back
    return None if inner is None else _source(inner, called)


def source_of(error: BaseException) -> Source | None:
    """The innermost line outside of the skipped modules at which an error passed."""
    found, trace = None, error.__traceback__
    while trace is not None:
        if not _is_through(trace.tb_frame.f_globals.get("__name__", "")):
            found = _source(trace.tb_frame, None, trace.tb_lineno)
        trace = trace.tb_next
    return found


@functools.lru_cache(maxsize=4096)
def _is_through(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _THROUGH)


def _torch_name(frame: FrameType | None) -> str | None:
    return None if frame is None else frame.f_code.co_qualname


def _source(frame: FrameType, called: str | None, line: int | None = None) -> Source:
    code = frame.f_code
    return Source(
        file=code.co_filename.replace("\\", "/").rpartition("/")[2],
        line=line or frame.f_lineno,
        function=code.co_qualname.replace("<locals>.", ""),
        called=called,
    )


def is_pickled() -> bool:
    """Whether the present call comes from pickling a tensor, and not from Python's ``copy``."""
    frame: FrameType | None = sys._getframe(1)
    pickled = False
    while frame is not None and _is_through(frame.f_globals.get("__name__", "")):
        pickled |= frame.f_code.co_name == "_reduce_ex_internal"
        if frame.f_globals.get("__name__") == "copy":
            return False
        frame = frame.f_back
    return pickled
