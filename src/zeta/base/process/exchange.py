"""Changes to what all threads share, held while at least one block needs them, in any thread.

The new code checks the calling thread. In other threads it does what torch's own code does.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from types import CodeType
from typing import Any, Final


class Shared:
    """A change that the first block to be entered makes, and the last to be left undoes."""

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
    """Functions with other code, whatever name somebody holds them under.

    Args:
        functions: the functions, each by a name.
        codes: the code that they get, by the same names.
    """

    def __init__(self, functions: Mapping[str, Any], codes: Mapping[str, CodeType]) -> None:
        #: by name, functions that do what the exchanged ones did
        self.originals: Final = {name: _same_function(function) for name, function in functions.items()}
        other = [(functions[name], code) for name, code in codes.items()]
        own = [(function, function.__code__) for function in functions.values()]
        super().__init__(lambda: _give(other), lambda: _give(own))


def _give(codes: Iterable[tuple[Any, CodeType]]) -> None:
    for function, code in codes:
        function.__code__ = code


def _same_function(function: Any) -> Callable[..., Any]:
    """A separate function with the same code, which keeps it when the other's is exchanged."""
    twin = type(function)(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    twin.__kwdefaults__ = function.__kwdefaults__
    return twin  # type: ignore[no-any-return]
