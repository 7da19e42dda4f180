"""The source of functions as syntax trees, and the objects that names in it refer to."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any, Final

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def names_a_norm(words: Sequence[str]) -> bool:
    """Whether a dotted name contains "norm" as a word: ``rms_norm``, ``LayerNormFunction.apply``; not ``Normal``."""
    return any(part.lower().endswith("norm") for word in words for part in _WORD.findall(word))


def dotted(node: ast.expr) -> list[str]:
    """The parts of a dotted name, as ``["torch", "nn", "functional", "linear"]``; empty for other expressions."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    return [node.id, *words[::-1]] if isinstance(node, ast.Name) else []


def function_of(value: Any) -> FunctionType | None:
    """The Python function inside decorators that set ``__wrapped__``."""
    value = value.__func__ if isinstance(value, staticmethod | classmethod) else value
    try:
        value = inspect.unwrap(value) if isinstance(value, FunctionType) else None
    except ValueError:  # it wraps itself
        return None
    return value if isinstance(value, FunctionType) else None


def code_of(value: Any) -> CodeType | None:
    """The code of a function, or of a method as its class stores it."""
    value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    return getattr(value, "__code__", None)


def tree_of(function: FunctionType) -> ast.FunctionDef | None:
    """The syntax tree of a function; ``None`` if there is no source."""
    return _tree(function.__code__)


@functools.lru_cache(maxsize=1024)
def _tree(code: CodeType) -> ast.FunctionDef | None:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(code))).body[0]
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError, IndexError):
        return None
    return body if isinstance(body, ast.FunctionDef) else None


def meaning(function: Any, words: Sequence[str], local: frozenset[str]) -> Any:
    """The object that a dotted name refers to in a function's closure or globals; ``None`` for local names."""
    if not words or words[0] in local:
        return None
    closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    try:
        found = closed[words[0]].cell_contents if words[0] in closed else function.__globals__[words[0]]
        for word in words[1:]:
            found = inspect.getattr_static(found, word)
    except (KeyError, AttributeError, ValueError):
        return None
    return found.__func__ if isinstance(found, staticmethod) else found


@dataclass(frozen=True, kw_only=True, eq=False)
class NamedCall:
    """A call by name: the function that it is in, the name's parts, names that are local there, and what it calls."""

    function: Any
    words: Sequence[str]
    local: frozenset[str]
    target: Any
    code: CodeType | None

    @property
    def holds(self) -> bool:
        """Whether the name still refers to the same function, with the same code."""
        found = meaning(self.function, self.words, self.local)
        return found is self.target and code_of(found) is self.code


def mentions(layer: Any, base: type, name: str) -> Iterator[tuple[FunctionType, ast.AST] | None]:
    """Where methods of a class, except those in ``_MAKING``, use its attribute ``name``; ``None`` if no source."""
    known: set[str] = set()
    for cls in layer.__mro__:
        if cls is base:
            return
        for key, member in vars(cls).items():
            if key in known or key in _MAKING:
                continue
            parts = [member.fget] if isinstance(member, property) else [member]
            for part in filter(lambda one: isinstance(one, FunctionType | staticmethod | classmethod), parts):
                function = function_of(part)
                tree = None if function is None else tree_of(function)
                if function is None or tree is None:
                    yield None
                    continue
                for node in ast.walk(tree):
                    named = isinstance(node, ast.Attribute) and node.attr == name
                    if named or (isinstance(node, ast.Constant) and node.value == name):
                        yield function, node


#: methods that initialize or print the module, and compute nothing with its parameters
_MAKING: Final = frozenset(
    ["__init__", "reset_parameters", "_reset_parameters", "init_weights", "_init_weights", "extra_repr", "__repr__"]
)
