"""How ``forward`` of a class uses its parameters, and whether it divides by a norm."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
from collections.abc import Iterator
from types import FunctionType
from typing import Any, Final

from torch import nn

from zeta.base.usage.run import Run
from zeta.base.usage.source import code_of, dotted, function_of, names_a_norm, tree_of
from zeta.base.usage.views import Uses

_STATISTICS: Final = frozenset(
    ["rsqrt", "sqrt", "var", "var_mean", "std", "std_mean", "norm", "vector_norm", "normalize"]
)
_PRODUCTS: Final = frozenset(["matmul", "bmm", "einsum", "baddbmm"])
_LAYERS: Final = frozenset(["linear", "bilinear", "embedding", "mm", "mv", "addmm", "tensordot"])


#: a class's methods as they are now, each with its code: what is known of the class holds while it has these
_Methods = tuple[Any, ...]
#: what the methods of a class are stored as
_METHODS: Final = frozenset([FunctionType, staticmethod, classmethod, property])


def _methods(layer: Any) -> _Methods:
    """The methods of a class, in its own order. Reloading a file may give one other code, and leave it the same."""
    classes = (cls for cls in layer.__mro__ if cls is not nn.Module and cls is not object)
    return tuple(
        part
        for cls in classes
        for member in vars(cls).values()
        if type(member) in _METHODS
        for part in (member, code_of(member))
    )


def _own_forward(module: nn.Module) -> Any:
    """The ``forward`` that an instance was given in place of its class's, which it may also wrap; else ``None``."""
    own = vars(module).get("forward")
    if own is None:
        return None
    with contextlib.suppress(ValueError):  # it wraps itself
        own = inspect.unwrap(own)
    if getattr(own, "__self__", None) is not module:
        return own
    return None if own.__func__ is inspect.getattr_static(type(module), "forward") else own.__func__


def _seen(module: nn.Module) -> tuple[Any, _Methods, Any]:
    """What the facts about a module depend on: its class, the methods there, and a ``forward`` of its own."""
    own = _own_forward(module)
    methods = _methods(type(module))
    return type(module), methods if own is None else (*methods, own, code_of(own)), own


def uses(module: nn.Module, name: str, ndim: int) -> Uses:
    """How ``forward`` of a module uses its parameter ``name`` of ``ndim`` dimensions."""
    seen = _seen(module)
    run = _run(*seen, name, ndim)
    if not all(call.holds for call in run.calls):  # another function may have a name now
        _run.cache_clear()
        run = _run(*seen, name, ndim)
    return run.found


@functools.lru_cache(maxsize=4096)
def _run(layer: Any, methods: _Methods, own: Any, name: str, ndim: int) -> Run:
    run = Run(layer, name, ndim, nn.Module)
    forward = inspect.getattr_static(layer, "forward") if own is None else own
    if forward is inspect.getattr_static(nn.Module, "forward") or (
        own is None and layer.__module__.startswith("torch.nn.modules.")
    ):
        run.found.lost = True
        return run
    try:
        run.follow(forward)
    except Exception:  # unusual code can make the interpretation fail in any way, RecursionError included
        run.found.lost = True
    return run


def _nodes(layer: Any, own: Any) -> Iterator[ast.AST]:
    """The syntax of ``forward``, and of the methods of ``self`` that it calls."""
    methods, seen = ["forward"], set[str]()
    while methods:
        name = methods.pop()
        method = own if own is not None and name == "forward" else inspect.getattr_static(layer, name, None)
        function = function_of(method) if name not in seen else None
        tree = None if function is None else tree_of(function)
        seen.add(name)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Call) and len(words := dotted(node.func)) == 2 and words[0] == "self":
                methods.append(words[1])
            yield node


def normalizes(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, divides by a norm or a std."""
    return _normalizes(*_seen(module))


@functools.lru_cache(maxsize=4096)
def _normalizes(layer: Any, methods: _Methods, own: Any) -> bool:
    for node in _nodes(layer, own):
        if isinstance(node, ast.Call):
            words = dotted(node.func)
            called = words[-1] if words else getattr(node.func, "attr", "")
            if words[:1] not in (["math"], ["np"]) and (called in _STATISTICS or names_a_norm(words)):
                return True
        match node:
            case ast.BinOp(left=ast.BinOp(), op=ast.Pow(), right=ast.UnaryOp(op=ast.USub())):  # (var + eps) ** -0.5
                return True
    return False


def multiplies(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, multiplies matrices.

    Convolutions and tables that are looked up count.
    """
    return _multiplies(*_seen(module))


@functools.lru_cache(maxsize=4096)
def _multiplies(layer: Any, methods: _Methods, own: Any) -> bool:
    for node in _nodes(layer, own):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            return True
        if isinstance(node, ast.Call):
            words = dotted(node.func)
            called = words[-1] if words else getattr(node.func, "attr", "")
            if called in _PRODUCTS or called in _LAYERS or called.startswith("conv"):
                return True
    return False


def attends(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, computes an attention.

    That is torch's ``scaled_dot_product_attention``, or a softmax between two products of matrices.
    """
    return _attends(*_seen(module))


@functools.lru_cache(maxsize=4096)
def _attends(layer: Any, methods: _Methods, own: Any) -> bool:
    softmax, products = False, 0
    for node in _nodes(layer, own):
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


def takes_turns(module: nn.Module) -> bool:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, takes every other place, as ``[::2]``."""
    nodes = _nodes(type(module), _own_forward(module)) if _has_forward(module) else ()
    steps = (node.step for node in nodes if isinstance(node, ast.Slice))
    return any(isinstance(step, ast.Constant) and step.value == 2 for step in steps)


def adds(module: nn.Module) -> bool | None:
    """Whether ``forward`` of a module, or a method of ``self`` that it calls, adds; ``None`` if not known."""
    nodes = list(_nodes(type(module), _own_forward(module))) if _has_forward(module) else []
    for node in nodes:
        if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Add):
            return True
        if isinstance(node, ast.Call) and (words := dotted(node.func)) and words[-1] in ("add", "add_", "addcmul"):
            return True
    return False if nodes else None


def called_in_order(module: nn.Module) -> list[str]:
    """The modules that ``forward`` of a module calls as ``self.name(...)``, in order; empty if not known."""
    own = _own_forward(module)
    function = function_of(inspect.getattr_static(type(module), "forward", None) if own is None else own)
    tree = None if function is None else tree_of(function)
    found: list[str] = []

    def visit(node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            visit(child)
        if isinstance(node, ast.Call) and len(words := dotted(node.func)) == 2 and words[0] == "self":
            found.append(words[1])

    if tree is not None and _has_forward(module):
        visit(tree)
    return found


def _has_forward(module: nn.Module) -> bool:
    return "forward" in vars(module) or type(module).forward is not nn.Module.forward
