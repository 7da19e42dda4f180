"""Python's ``random`` and ``numpy.random``, for one thread, on generators of its own.

Their functions are methods of a hidden object that belongs to all threads. While a block runs, the modules hold
functions in their place that look at the calling thread. Functions that somebody took out of the modules before, as in
``from random import choice``, still draw from the hidden object; what they did to it is undone at the end of the block
if this thread is the only one.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from zeta.base.process.exchange import Shared


@dataclass(frozen=True, kw_only=True)
class _Kind:
    """One module of random numbers that somebody may have imported: how to find and copy what it draws from."""

    module: str
    hidden: str  #: the path of the object that all threads draw from
    made: str  #: that of its class
    get: str
    set: str
    title: str

    def found(self) -> Any:
        """The hidden object, if the module is there."""
        return _at(self.hidden) if self.module in sys.modules else None

    def copy(self, state: Any) -> Any:
        """A separate object in a state."""
        twin = _at(self.made)()
        self.restore(twin, state)
        return twin

    def state(self, generator: Any) -> Any:
        """The state of a generator."""
        return getattr(generator, self.get)()

    def restore(self, generator: Any, state: Any) -> None:
        """Give a generator a state."""
        getattr(generator, self.set)(state)


_KINDS: Final = (
    _Kind(
        module="random",
        hidden="random._inst",
        made="random.Random",
        get="getstate",
        set="setstate",
        title="Python's random",
    ),
    _Kind(
        module="numpy.random",
        hidden="numpy.random.mtrand._rand",
        made="numpy.random.RandomState",
        get="get_state",
        set="set_state",
        title="numpy.random",
    ),
)


class _Here(threading.local):
    def __init__(self) -> None:
        #: by module, what this thread draws from
        self.generators: dict[str, Any] = {}


_HERE: Final = _Here()


@contextlib.contextmanager
def foreign_apart() -> Iterator[Callable[[], list[str]]]:
    """Let this thread draw from copies of Python's and NumPy's generators in the block.

    Yields what says, then or later, from which of them the block has drawn.
    """
    states = {kind: kind.state(hidden) for kind in _KINDS if (hidden := kind.found()) is not None}
    copies = {kind.module: kind.copy(state) for kind, state in states.items()}
    drawn: list[str] = []
    outer, _HERE.generators = _HERE.generators, copies
    try:
        with _MODULES:
            yield lambda: drawn
    finally:
        _HERE.generators = outer
        alone = threading.active_count() == 1
        for kind, state in states.items():
            before = _comparable(state)
            moved = alone and _comparable(kind.state(kind.found())) != before
            if moved:
                kind.restore(kind.found(), state)
            if moved or _comparable(kind.state(copies[kind.module])) != before:
                drawn.append(kind.title)


def _comparable(state: Any) -> Any:
    """A state that ``==`` compares: NumPy's has an array in it."""
    return tuple(item.tobytes() if hasattr(item, "tobytes") else item for item in state)


def _at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules[module], name)


# -- the modules -----------------------------------------------------------------------------------------------------

_replaced: list[tuple[Any, str, Any]] = []


def _replace() -> None:
    for kind in _KINDS:
        hidden = kind.found()
        if hidden is None:
            continue
        module = sys.modules[kind.module]
        for name, function in list(vars(module).items()):
            # numpy's seed is a function that calls the hidden object's
            if getattr(function, "__self__", None) is hidden or (name == "seed" and callable(function)):
                _replaced.append((module, name, function))
                setattr(module, name, _looking(kind.module, name, function))


def _restore() -> None:
    while _replaced:
        module, name, function = _replaced.pop()
        setattr(module, name, function)


def _looking(module: str, name: str, function: Any) -> Callable[..., Any]:
    """A function that draws from what the calling thread draws from."""

    @functools.wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Any:
        own = _HERE.generators.get(module)
        return (function if own is None else getattr(own, name))(*args, **kwargs)

    return draw


_MODULES: Final = Shared(_replace, _restore)
