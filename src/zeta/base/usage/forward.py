"""How ``forward`` of a class uses its parameters, and whether it divides by a norm."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any, Final

from torch import nn

from zeta.base.usage.run import Run
from zeta.base.usage.source import dotted, function_of, meaning, names_a_norm, tree_of
from zeta.base.usage.views import Uses

_STATISTICS: Final = frozenset(
    ["rsqrt", "sqrt", "var", "var_mean", "std", "std_mean", "norm", "vector_norm", "normalize"]
)
_PRODUCTS: Final = frozenset(["matmul", "bmm", "einsum", "baddbmm"])
_LAYERS: Final = frozenset(["linear", "bilinear", "embedding", "mm", "mv", "addmm", "tensordot"])


#: what the methods of a class are stored as
_METHODS: Final = frozenset([FunctionType, staticmethod, classmethod, property])


def _methods(layer: Any) -> tuple[Any, ...]:
    """The methods that a class has now, in its own order: what is known of it holds while it has these."""
    classes = (cls for cls in layer.__mro__ if cls is not nn.Module and cls is not object)
    return tuple(member for cls in classes for member in vars(cls).values() if type(member) in _METHODS)


def uses(layer: Any, name: str, ndim: int) -> Uses:
    """How ``forward`` of the class ``layer`` uses its parameter ``name`` of ``ndim`` dimensions."""
    methods = _methods(layer)
    run = _run(layer, methods, name, ndim)
    # another function may have a name now
    if any(meaning(where, words, known) is not function for where, words, known, function in run.followed):
        _run.cache_clear()
        run = _run(layer, methods, name, ndim)
    return run.found


@functools.lru_cache(maxsize=4096)
def _run(layer: Any, methods: tuple[Any, ...], name: str, ndim: int) -> Run:
    run = Run(layer, name, ndim, nn.Module)
    if inspect.getattr_static(layer, "forward") is inspect.getattr_static(
        nn.Module, "forward"
    ) or layer.__module__.startswith("torch.nn.modules."):
        run.found.lost = True
        return run
    try:
        run.forward()
    except Exception:  # unusual code can make the interpretation fail in any way, RecursionError included
        run.found.lost = True
    return run


def _nodes(layer: Any) -> Iterator[ast.AST]:
    """The syntax of ``forward`` of a class, and of the methods of ``self`` that it calls."""
    methods, seen = ["forward"], set[str]()
    while methods:
        name = methods.pop()
        function = function_of(inspect.getattr_static(layer, name, None)) if name not in seen else None
        tree = None if function is None else tree_of(function)
        seen.add(name)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Call) and len(words := dotted(node.func)) == 2 and words[0] == "self":
                methods.append(words[1])
            yield node


def normalizes(layer: Any) -> bool:
    """Whether ``forward`` of the class ``layer``, or a method of ``self`` that it calls, divides by a norm or a std."""
    return _normalizes(layer, _methods(layer))


@functools.lru_cache(maxsize=4096)
def _normalizes(layer: Any, methods: tuple[Any, ...]) -> bool:
    for node in _nodes(layer):
        if isinstance(node, ast.Call):
            words = dotted(node.func)
            called = words[-1] if words else getattr(node.func, "attr", "")
            if words[:1] not in (["math"], ["np"]) and (called in _STATISTICS or names_a_norm(words)):
                return True
        match node:
            case ast.BinOp(left=ast.BinOp(), op=ast.Pow(), right=ast.UnaryOp(op=ast.USub())):  # (var + eps) ** -0.5
                return True
    return False


def multiplies(layer: Any) -> bool:
    """Whether ``forward`` of the class ``layer``, or a method of ``self`` that it calls, multiplies matrices.

    Convolutions and tables that are looked up count.
    """
    return _multiplies(layer, _methods(layer))


@functools.lru_cache(maxsize=4096)
def _multiplies(layer: Any, methods: tuple[Any, ...]) -> bool:
    for node in _nodes(layer):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return True
        if isinstance(node, ast.Call):
            words = dotted(node.func)
            called = words[-1] if words else getattr(node.func, "attr", "")
            if called in _PRODUCTS or called in _LAYERS or called.startswith("conv"):
                return True
    return False


def attends(layer: Any) -> bool:
    """Whether ``forward`` of the class ``layer``, or a method of ``self`` that it calls, computes an attention.

    That is torch's ``scaled_dot_product_attention``, or a softmax between two products of matrices.
    """
    return _attends(layer, _methods(layer))


@functools.lru_cache(maxsize=4096)
def _attends(layer: Any, methods: tuple[Any, ...]) -> bool:
    softmax, products = False, 0
    for node in _nodes(layer):
        if isinstance(node, ast.BinOp):
            products += isinstance(node.op, ast.MatMult)
        elif isinstance(node, ast.Call):
            words = dotted(node.func)
            called = words[-1] if words else getattr(node.func, "attr", "")
            if called == "scaled_dot_product_attention":
                return True
            softmax = softmax or called == "softmax"
            products += called in _PRODUCTS
    return softmax and products >= 2


def adds(layer: Any) -> bool | None:
    """Whether ``forward`` of the class ``layer``, or a method of ``self`` it calls, adds; ``None`` if not known."""
    nodes = list(_nodes(layer)) if layer.forward is not nn.Module.forward else []
    for node in nodes:
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Add):
            return True
        if isinstance(node, ast.Call) and (words := dotted(node.func)) and words[-1] in ("add", "add_", "addcmul"):
            return True
    return False if nodes else None


def called_in_order(layer: Any) -> list[str]:
    """The modules that ``forward`` of the class ``layer`` calls as ``self.name(...)``, in order; empty if not known."""
    function = function_of(inspect.getattr_static(layer, "forward", None))
    tree = None if function is None else tree_of(function)
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            visit(child)
        if isinstance(node, ast.Call) and len(words := dotted(node.func)) == 2 and words[0] == "self":
            found.append(words[1])

    if tree is not None and layer.forward is not nn.Module.forward:
        visit(tree)
    return found
