"""Changes to functions that all threads share, kept while at least one block in any thread needs them.

The new code checks the calling thread. In threads without such a block it does what the original code does.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import CodeType, FunctionType
from typing import Any, Final

from zeta.base.process.interrupts import undone, undone_on_error
from zeta.errors import ZetaError


class Shared:
    """A change that the first block makes when it is entered, and the last block undoes when it is left.

    ``undo`` is called for a change that was interrupted or failed, too, and again if it is itself interrupted.
    """

    def __init__(self, make: Callable[[], None], undo: Callable[[], None]) -> None:
        self._make = make
        self._undo = undo
        self._lock = threading.RLock()
        self._holders: set[object] = set()
        self._begun = self._made = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """A block that needs the change."""
        holder = object()
        leave = functools.partial(self._leave, holder)
        with undone_on_error(leave), undone(leave):
            self._enter(holder)
            yield

    def _enter(self, holder: object) -> None:
        with self._lock:
            if self._begun and not self._made:  # it was interrupted, and this thread was faster than that one
                self._undo()
            self._holders.add(holder)
            if not self._made:
                self._begun = True
                self._make()
                self._made = True

    def _leave(self, holder: object) -> None:
        with self._lock:
            self._holders.discard(holder)
            if self._begun and not self._holders:
                self._undo()
                self._begun = self._made = False


class Exchanged(Shared):
    """Functions whose ``__code__`` is replaced, so that the change holds under every name they were imported with.

    Another library may have wrapped a function before zeta was imported: what it wrapped is changed then.

    Args:
        functions: the functions, by name.
        codes: their new code, by the same names, with the same arguments or ``*args``. It has no free variables.

    Entering a block raises ``ZetaError`` if another library put something in a function's place that is no function
    of Python, or takes other arguments.
    """

    def __init__(self, functions: Mapping[str, Any], codes: Mapping[str, CodeType]) -> None:
        inner = {name: inspect.unwrap(function) for name, function in functions.items()}
        #: by name, separate functions with the original code
        self.originals: Final = {name: _same_function(function) for name, function in inner.items()}
        own = [(f, f.__code__) for f in inner.values() if isinstance(f, FunctionType)]
        super().__init__(
            lambda: _give([(inner[name], _fitted(inner[name], name, code)) for name, code in codes.items()]),
            lambda: _give(own),
        )


def _give(codes: Iterable[tuple[FunctionType, CodeType]]) -> None:
    for function, code in codes:
        function.__code__ = code


def _fitted(function: Any, name: str, code: CodeType) -> CodeType:
    """The code with the free variables of the function's own, as Python does not let their number change."""
    if isinstance(function, FunctionType):
        own = function.__code__
        if code.co_flags & inspect.CO_VARARGS or inspect.getargs(code).args == inspect.getargs(own).args:
            return code.replace(co_freevars=own.co_freevars)
    raise ZetaError(
        f"another library replaced {name} by {function!r} before zeta was imported, which is no Python function with "
        "the same arguments; import zeta first, or make the replacement with functools.wraps"
    )


def _same_function(function: Any) -> Callable[..., Any]:
    """A separate function with the same code, which keeps it when the original's is replaced."""
    if not isinstance(function, FunctionType):
        return function  # type: ignore[no-any-return]
    twin = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin
