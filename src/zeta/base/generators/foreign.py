"""Python's ``random`` and ``numpy.random`` on private generators, for one thread.

The functions of these modules are methods of a hidden generator that all threads share. While a block runs, they are
replaced in the modules by functions that choose the generator by the calling thread. Functions imported by name before,
as in ``from random import choice``, still draw from the hidden generator; its state is restored at the end of the block
if there is only one thread. The modules offer no other way to redirect their functions; this is needed as long as
constructors may draw from them.

A generator that is made without a seed, as by ``numpy.random.default_rng()`` or ``random.Random()``, takes one from the
operating system: its numbers are others in each run, and in each process. The block's caller learns that one was made.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any, Final

from zeta.base.process.exchange import Shared
from zeta.base.process.interrupts import undone, undone_on_error


@dataclass(frozen=True, kw_only=True)
class _RandomModule:
    """A module of random numbers that may have been imported: how to find and copy its hidden generator."""

    module: str
    hidden: str  #: the path of the generator that all threads share
    made: str  #: the path of its class
    get: str
    set: str
    title: str

    def found(self) -> Any:
        """The hidden generator, if the module's package has been imported: NumPy imports its random module late."""
        if self.module.partition(".")[0] not in sys.modules:
            return None
        try:
            importlib.import_module(self.module)
        except ImportError:  # a package that only looks like it
            return None
        return _at(self.hidden)

    def copy(self, state: Any) -> Any:
        """A separate generator in this state."""
        twin = _at(self.made)()
        self.restore(twin, state)
        return twin

    def state(self, generator: Any) -> Any:
        """The state of a generator."""
        return getattr(generator, self.get)()

    def restore(self, generator: Any, state: Any) -> None:
        """Set the state of a generator."""
        getattr(generator, self.set)(state)


_RANDOM_MODULES: Final = (
    _RandomModule(
        module="random",
        hidden="random._inst",
        made="random.Random",
        get="getstate",
        set="setstate",
        title="Python's random",
    ),
    _RandomModule(
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
        #: by module, the generator that this thread draws from
        self.generators: dict[str, Any] = {}
        self.unseeded = False  #: whether this thread has made a generator without a seed in the innermost block


_HERE: Final = _Here()


@contextlib.contextmanager
def foreign_apart() -> Iterator[Callable[[], list[str]]]:
    """Let this thread draw from copies of Python's and NumPy's generators in the block.

    Yields a function that returns, after the block, what the block has drawn from: the names of these modules, and
    ``_UNSEEDED``.
    """
    states = {each: each.state(hidden) for each in _RANDOM_MODULES if (hidden := each.found()) is not None}
    outer = _HERE.generators, _HERE.unseeded
    copies = {each.module: each.copy(state) for each, state in states.items()}  # made without a seed
    drawn: dict[str, None] = {}

    def restore() -> None:
        if _HERE.generators is copies and _HERE.unseeded:
            drawn[_UNSEEDED] = None
        _HERE.generators, _HERE.unseeded = outer
        alone = threading.active_count() == 1
        for each, state in states.items():
            before = _comparable(state)
            moved = alone and _comparable(each.state(each.found())) != before
            if moved or _comparable(each.state(copies[each.module])) != before:
                drawn[each.title] = None
            if moved:
                each.restore(each.found(), state)

    with undone_on_error(restore), undone(restore):
        _HERE.generators, _HERE.unseeded = copies, False
        with _MODULES.held():
            yield lambda: list(drawn)


def _comparable(state: Any) -> Any:
    """The state in a form that ``==`` can compare: NumPy's contains an array."""
    return tuple(item.tobytes() if hasattr(item, "tobytes") else item for item in state)


def _at(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(sys.modules[module], name)


# -- the modules -----------------------------------------------------------------------------------------------------

_UNSEEDED: Final = "generators without a seed"
#: what makes a generator in NumPy, and takes its seed first
_MAKING: Final = ("default_rng", "RandomState", "SeedSequence", "MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64")
#: the names of that argument, and of the key that Philox takes instead
_SEEDS: Final = ("seed", "entropy", "x", "key")
_replaced: list[tuple[Any, str, Any]] = []


def _replace() -> None:
    for each in _RANDOM_MODULES:
        hidden = each.found()
        if hidden is None:
            continue
        module = sys.modules[each.module]
        for name in _MAKING:
            if hasattr(module, name):
                made = getattr(module, name)
                _exchange(module, name, _class_made(made) if isinstance(made, type) else _made(made))
        if module.__name__ == "random":
            _exchange(module.Random, "__init__", _made(module.Random.__init__, 1))  # subclasses call it too
        for name, function in list(vars(module).items()):
            # numpy.random.seed is a plain function that calls the hidden generator's method
            if getattr(function, "__self__", None) is hidden or (name == "seed" and callable(function)):
                _exchange(module, name, _redirected(each.module, name, function))


def _exchange(owner: Any, name: str, function: Any) -> None:
    _replaced.append((owner, name, getattr(owner, name)))
    setattr(owner, name, function)


def _restore() -> None:
    for module, name, function in _replaced:
        setattr(module, name, function)
    _replaced.clear()


def _redirected(module: str, name: str, function: Any) -> Callable[..., Any]:
    """The function, drawing from the calling thread's generator."""

    @functools.wraps(function)
    def draw(*args: Any, **kwargs: Any) -> Any:
        own = _HERE.generators.get(module)
        return (function if own is None else getattr(own, name))(*args, **kwargs)

    return draw


def _note(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Note that a generator is made without a seed, unless Python's own library does, or a module that is imported."""
    seeds = *args[:1], *(kwargs.get(name) for name in _SEEDS)
    if _HERE.unseeded or any(seed is not None for seed in seeds):
        return
    frame = sys._getframe(2)
    if frame.f_globals.get("__name__", "").partition(".")[0] in sys.stdlib_module_names:
        return
    caller: FrameType | None = frame
    while caller is not None and caller.f_globals.get("__name__") != "importlib._bootstrap":
        caller = caller.f_back
    _HERE.unseeded = caller is None


def _made(function: Any, first: int = 0) -> Callable[..., Any]:
    """What makes a generator, and notes if it has no seed, which is the argument at ``first``."""

    @functools.wraps(function)
    def made(*args: Any, **kwargs: Any) -> Any:
        _note(args[first:], kwargs)
        return function(*args, **kwargs)

    return made


def _class_made(made: Any) -> Any:
    """A class of NumPy that notes who makes an instance without a seed, and is the class itself in all else."""

    class Noting(type(made)):  # type: ignore[misc]
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            if cls is not noting:
                return super().__call__(*args, **kwargs)  # of a class that is derived from it
            _note(args, kwargs)
            return made(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, made) if cls is noting else super().__instancecheck__(instance)

        def __subclasscheck__(cls, other: type) -> bool:
            return issubclass(other, made) if cls is noting else super().__subclasscheck__(other)

    noting = Noting(made.__name__, (made,), {"__doc__": made.__doc__, "__module__": made.__module__})
    return noting


_MODULES: Final = Shared(_replace, _restore)
