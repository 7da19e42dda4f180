"""The source of functions, as trees."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Sequence
from types import FunctionType
from typing import Any, Final

_WORD: Final = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def names_a_norm(words: Sequence[str]) -> bool:
    """``rms_norm``, ``LayerNormFunction.apply``; not ``Normal``."""
    return any(part.lower().endswith("norm") for word in words for part in _WORD.findall(word))


def dotted(node: ast.expr) -> list[str]:
    """``["torch", "nn", "functional", "linear"]``; what is no name at the front is left out."""
    words: list[str] = []
    while isinstance(node, ast.Attribute):
        words.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        words.append(node.id)
    return words[::-1]


def tree_of(function: Any) -> ast.FunctionDef | None:
    """The definition of a function or method, below its decorators; ``None`` where there is no source."""
    function = inspect.unwrap(getattr(function, "__func__", function)) if callable(function) else None
    return _parsed(function) if isinstance(function, FunctionType) else None


@functools.lru_cache(maxsize=1024)
def _parsed(function: FunctionType) -> ast.FunctionDef | None:
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    except (OSError, TypeError, SyntaxError, ValueError, RecursionError, IndexError):
        return None
    return body if isinstance(body, ast.FunctionDef) else None


def meaning(function: Any, words: Sequence[str]) -> Any:
    """What a dotted name means in a function: in what it closes over, or in its module."""
    if not words:
        return None
    closed = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    try:
        found = closed[words[0]].cell_contents if words[0] in closed else function.__globals__[words[0]]
        for word in words[1:]:
            found = inspect.getattr_static(found, word)
    except (KeyError, AttributeError, ValueError):
        return None
    return found.__func__ if isinstance(found, staticmethod) else found
