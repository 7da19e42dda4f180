"""Read pickles without running anything: closed tables of operations and of names.

A pickle is a program that may call whatever it names. Here, a name stands for a function of a table that its reader
gives; any other name is an error before it is looked up, and nothing is imported. What has state is kept as a
:class:`Record`. It is Python's own reader in Python: that in C reserves whatever memory a pickle asks for.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final

from zeta.base.reading import shown
from zeta.errors import FormatError

#: what a name in a pickle stands for; a value that is not callable stands for itself
Table = Mapping[tuple[str, str], Any]

_OPERATIONS: Final = (
    *("PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"),
    *("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES"),
    *("EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS"),
    *("EMPTY_DICT", "SETITEM", "SETITEMS"),
    *("BINGET", "LONG_BINGET", "BINPUT", "LONG_BINPUT", "MEMOIZE"),
    *("GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID"),
)


class Record:
    """An object of a pickle: its kind, the arguments that it was made with, and its state."""

    def __init__(self, kind: str, arguments: tuple[Any, ...]) -> None:
        self.kind = kind
        self.arguments = arguments
        self.state: Any = None

    def __repr__(self) -> str:
        return f"<{self.kind}>"


class Dictionary(dict[Any, Any]):
    """A dictionary with attributes, which are dropped: an ``OrderedDict`` of a pickle."""


def record(kind: str) -> Callable[..., Record]:
    """The entry of a table for a class whose objects become records."""
    return lambda *arguments: Record(kind, arguments)


def ordered() -> Dictionary:
    """The entry of a table for ``OrderedDict``."""
    return Dictionary()


def dropped(*_: Any) -> None:
    """The entry of a table for what is of no use here."""


def unpickle(content: bytes, table: Table, persistent: Callable[[Any], Any] | None = None, advice: str = "") -> Any:
    """The value of a pickle; ``FormatError`` if it is none, or names anything that is not in the table.

    ``persistent`` gives the value of an identifier that the pickle uses for data outside of it. ``advice`` ends the
    error about a name.
    """
    try:
        return _Reader(content, table, persistent, advice).load()
    except FormatError:
        raise
    except RecursionError:
        raise FormatError("is nested too deeply") from None
    except MemoryError:
        raise FormatError("does not fit into memory") from None
    except Exception as error:  # whatever a wrong sequence of operations leads to
        raise FormatError(f"is no pickle, or is broken ({type(error).__name__}: {shown(str(error))})") from None


class _Reader(pickle._Unpickler):
    """The operations that data needs, those that make objects by our own functions alone."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {}
    stack: list[Any]
    pop_mark: Callable[[], list[Any]]

    def __init__(self, content: bytes, table: Table, persistent: Callable[[Any], Any] | None, advice: str) -> None:
        super().__init__(io.BytesIO(content))
        self._table = table
        self._persistent = persistent
        self._advice = advice

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self._table[module, name]
        except KeyError:
            found = shown(f"{module}.{name}")
            raise FormatError(
                f"names {found}, which plain tensors do not need; nothing of it was run{self._advice}"
            ) from None

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise FormatError("refers to data outside of it")
        return self._persistent(pid)

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack[-1]
        if type(arguments) is not tuple or not callable(function):
            raise FormatError("makes an object of what is no class")
        self.stack[-1] = function(*arguments)

    def load_build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Record:
            target.state = state
        elif type(target) is not Dictionary:
            raise FormatError(f"gives state to {shown(target)}")

    def load_setitem(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self._set(self.stack[-1], [key, value])

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._set(self.stack[-1], items)

    def _set(self, target: Any, items: list[Any]) -> None:
        if type(target) not in (dict, Dictionary):
            raise FormatError(f"sets items of {shown(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # the time to hash a tuple of shared tuples may double with each level
            if type(key) not in (str, int, Record):
                raise FormatError(f"has a dictionary with the key {shown(key)}")
            target[key] = value

    def load_append(self) -> None:
        value = self.stack.pop()
        self._extend(self.stack[-1], [value])

    def load_appends(self) -> None:
        items = self.pop_mark()
        self._extend(self.stack[-1], items)

    def _extend(self, target: Any, items: list[Any]) -> None:
        if type(target) is not list:
            raise FormatError(f"appends to {shown(target)}")
        target += items


def _operation(name: str) -> tuple[int, Callable[[Any], None]]:
    code = getattr(pickle, name)[0]
    own = {"REDUCE": "load_reduce", "NEWOBJ": "load_reduce", "BUILD": "load_build", "SETITEM": "load_setitem",
           "SETITEMS": "load_setitems", "APPEND": "load_append", "APPENDS": "load_appends"}  # fmt: skip
    return code, getattr(_Reader, own[name]) if name in own else pickle._Unpickler.dispatch[code]


_Reader.dispatch.update(map(_operation, _OPERATIONS))
