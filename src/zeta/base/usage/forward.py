"""How ``forward`` of a class uses its parameters, and whether it divides by a norm."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from typing import Any, Final

from torch import nn

from zeta.base.usage.run import Run
from zeta.base.usage.source import dotted, function_of, names_a_norm, tree_of
from zeta.base.usage.views import Uses

_STATISTICS: Final = frozenset(
    ["rsqrt", "sqrt", "var", "var_mean", "std", "std_mean", "norm", "vector_norm", "normalize"]
)
_PRODUCTS: Final = frozenset(["matmul", "bmm", "einsum", "baddbmm"])


@functools.lru_cache(maxsize=4096)
def uses(layer: Any, name: str, ndim: int) -> Uses:
    """How ``forward`` of the class ``layer`` uses its parameter ``name`` of ``ndim`` dimensions."""
    run = Run(layer, name, ndim, nn.Module)
    if inspect.getattr_static(layer, "forward") is inspect.getattr_static(
        nn.Module, "forward"
    ) or layer.__module__.startswith("torch.nn.modules."):
        run.found.lost = True
        return run.found
    try:
        run.forward()
    except Exception:  # unusual code can make the interpretation fail in any way, RecursionError included
        run.found.lost = True
    return run.found


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


@functools.lru_cache(maxsize=4096)
def normalizes(layer: Any) -> bool:
    """Whether ``forward`` of the class ``layer``, or a method of ``self`` that it calls, divides by a norm or a std."""
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


@functools.lru_cache(maxsize=4096)
def attends(layer: Any) -> bool:
    """Whether ``forward`` of the class ``layer``, or a method of ``self`` that it calls, computes an attention.

    That is torch's ``scaled_dot_product_attention``, or a softmax between two products of matrices.
    """
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
