"""Changes to functions that all threads share, kept while at least one block in any thread needs them.

The new code checks the calling thread. In threads without such a block it does what the original code does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any, Final


class Shared:
    """A change that the first block makes when it is entered, and the last block undoes when it is left."""

    def __init__(self, make: Callable[[], None], undo: Callable[[], None]) -> None:
        self._make = make
        self._undo = undo
        self._lock = threading.Lock()
        self._depth = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._make()
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth -= 1
            if self._depth == 0:
                self._undo()


class Exchanged(Shared):
    """Functions whose ``__code__`` is replaced, so that the change holds under every name they were imported with.

    Args:
        functions: the functions, by name.
        codes: their new code, by the same names.
    """

    def __init__(self, functions: Mapping[str, Any], codes: Mapping[str, CodeType]) -> None:
        #: by name, separate functions with the original code
        self.originals: Final = {name: _same_function(function) for name, function in functions.items()}
        other = [(functions[name], code) for name, code in codes.items()]
        own = [(function, function.__code__) for function in functions.values()]
        super().__init__(lambda: _give(other), lambda: _give(own))


def _give(codes: Iterable[tuple[Any, CodeType]]) -> None:
    for function, code in codes:
        function.__code__ = code


def _same_function(function: Any) -> Callable[..., Any]:
    """A separate function with the same code, which keeps it when the original's is replaced."""
    twin = type(function)(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin  # type: ignore[no-any-return]
