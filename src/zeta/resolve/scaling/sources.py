"""What the source of modules says: weights that are used without their module, and how packed queries lie."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from torch import nn

from zeta.base.usage.source import dotted, function_of, mentions, names_a_norm, tree_of

_PRODUCTS: Final = ("linear", "matmul", "mm", "bmm", "addmm", "baddbmm", "einsum", "dot", "inner", "tensordot")
_VIEWS: Final = ("view", "reshape", "unflatten")
#: what changes neither values nor their order
_SAME: Final = ("contiguous", "to", "float", "type_as")
_TURNED: Final = ("t", "transpose", "T", "mT")


def multiplied_by(modules: Mapping[str, nn.Module], path: str) -> str | None:
    """The class whose methods multiply with the weight of the module at ``path`` without calling it, or ``None``.

    Such a product, as in ``F.linear(x, self.tok.weight)``, is no forward pass of that module, so that no hook runs. It
    may be in another module, which is called with that module or its weight: ``self.decoder(x, self.tok)``.
    """
    parts = path.split(".")
    for place in range(len(parts)):
        around, wanted = ".".join(parts[:place]), [*parts[place:], "weight"]
        if around not in modules:
            continue
        for tree in _methods(type(modules[around]), parts[place]):
            known = _variables(tree, wanted)
            if any(_path(node, known) == wanted for product in _products(tree) for node in _expressions(product)):
                return type(modules[around]).__name__
            for call in ast.walk(tree):
                if isinstance(call, ast.Call) and (by := _multiplies(modules, around, call, wanted)) is not None:
                    return by
    return None


def _variables(tree: ast.AST, wanted: Sequence[str]) -> dict[str, list[str]]:
    """The variables that are the weight at the path ``wanted``, or a module on the way to it, with their paths."""
    known: dict[str, list[str]] = {}
    for value, names in _assigned(tree):
        while (
            isinstance(value, ast.Call)
            and isinstance(value.func, ast.Attribute)
            and value.func.attr in (*_SAME, *_TURNED)
        ):
            value = value.func.value
        if isinstance(value, ast.Attribute) and value.attr in _TURNED:
            value = value.value
        path = _path(value, known)
        if path and path == list(wanted[: len(path)]):
            known |= dict.fromkeys(names, path)
    return known


def _path(node: ast.expr, known: Mapping[str, list[str]]) -> list[str]:
    """The names of an attribute of ``self``, also by way of a variable."""
    words = dotted(node)
    return [*known.get(words[0], ()), *words[1:]] if words else []


def _assigned(tree: ast.AST) -> Iterator[tuple[ast.expr, list[str]]]:
    """The values that variables get, with the names of these, in the order of the lines."""
    for node in sorted(ast.walk(tree), key=lambda each: getattr(each, "lineno", 0)):
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.NamedExpr) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield node.value, [target.id for target in targets if isinstance(target, ast.Name)]


def _multiplies(modules: Mapping[str, nn.Module], around: str, call: ast.Call, wanted: Sequence[str]) -> str | None:
    """The class of a module that is called with another module, or its weight, and multiplies with the weight."""
    words = dotted(call.func)
    called = modules.get(".".join([*filter(None, [around]), *words[1:]])) if words[:1] == ["self"] else None
    function = None if called is None else function_of(inspect.getattr_static(type(called), "forward", None))
    tree = None if function is None else tree_of(function)
    if tree is None:
        return None
    names = [each.arg for each in (*tree.args.posonlyargs, *tree.args.args)][1:]
    given = [*zip(names, call.args, strict=False), *((each.arg, each.value) for each in call.keywords)]
    for name, value in given:
        path = dotted(value)[1:]
        inner = [name, "weight"] if [*path, "weight"] == [*wanted] else [name]
        if wanted in (path, [*path, "weight"]) and any(
            dotted(node) == inner for product in _products(tree) for node in _expressions(product)
        ):
            return type(called).__name__
    return None


def normalizes(module: nn.Module) -> bool:
    """Whether ``forward`` of a module calls a norm that is a function, as ``F.rms_norm``, and no module of its own."""
    return any(
        names_a_norm(words) or words[-1:] == ["normalize"]
        for tree in _own(type(module))
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (words := dotted(node.func)) and words[0] not in ("self", "math", "np")
    )


def packs_by_head(module: nn.Module, name: str) -> bool:
    """Whether ``forward`` splits what the layer ``name`` returns into heads first, and into q, k and v after that.

    The queries are then not the first third of the outputs. ``view(..., 3, heads, size)``, ``split`` and ``chunk`` of
    the last dimension have them first; so it is taken to be where the source does not say it.
    """
    return any(_by_head(type(module), tree, name, set()) for tree in _methods(type(module), name))


def _viewed(call: ast.Call) -> ast.expr | None:
    """What a call gives another shape: the object of a method, or the first argument of a function of torch."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in _VIEWS:
        return None
    return call.args[0] if call.args and dotted(call.func)[:1] == ["torch"] else call.func.value


def _by_head(layer: Any, tree: ast.AST, name: str, held: set[str]) -> bool:
    """``held``: the variables that have what the layer returned."""

    def is_packed(node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in held
        if isinstance(node, ast.NamedExpr):
            return is_packed(node.value)
        if not isinstance(node, ast.Call):
            return False
        if isinstance(node.func, ast.Attribute) and node.func.attr in _SAME:
            return is_packed(node.func.value)
        return dotted(node.func)[1:] == [name]

    for value, names in _assigned(tree):
        if is_packed(value):
            held |= {*names}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for node in calls:
        words = dotted(node.func)
        if (viewed := _viewed(node)) is not None and is_packed(viewed):
            if not _three_first(node):
                return True
        elif words[-1:] == ["rearrange"] and node.args and is_packed(node.args[0]):
            if not _three_first_by_einops(node):
                return True
        elif words[:1] == ["self"] and len(words) == 2 and (places := [*map(is_packed, node.args)]).count(True) == 1:
            method = function_of(inspect.getattr_static(layer, words[1], None))
            inner = None if method is None else tree_of(method)
            if inner is not None:
                parameter = inner.args.args[places.index(True) + 1].arg
                if _by_head(layer, inner, name, {parameter}):
                    return True
    return False


def _three_first(view: ast.Call) -> bool:
    """Whether 3 comes before the heads and their size, as in ``view(batch, length, 3, heads, size)``."""
    last = view.args[-1] if view.args else None
    shape = [*last.elts] if isinstance(last, ast.Tuple | ast.List) else view.args
    if isinstance(view.func, ast.Attribute) and view.func.attr == "unflatten":
        return bool(shape) and getattr(shape[0], "value", None) == 3
    after = [len(shape) - place - 1 for place, each in enumerate(shape) if getattr(each, "value", None) == 3]
    return after == [2] or (after == [1] and len(shape) < 5)


def _three_first_by_einops(call: ast.Call) -> bool:
    """The same of ``rearrange(packed, "b n (three heads size) -> three b heads n size", three=3)``."""
    pattern = getattr(call.args[1], "value", None) if len(call.args) > 1 else None
    group = re.search(r"\(\s*(\w+)", pattern.partition("->")[0]) if isinstance(pattern, str) else None
    threes = {each.arg for each in call.keywords if getattr(each.value, "value", None) == 3}
    return group is not None and (group[1] in threes or group[1] == "3")


def _own(layer: Any) -> Iterator[ast.AST]:
    function = function_of(inspect.getattr_static(layer, "forward", None))
    tree = None if function is None or layer.__module__.startswith("torch.nn.modules.") else tree_of(function)
    return iter(() if tree is None else (tree,))


def _methods(layer: Any, name: str) -> Iterator[ast.AST]:
    """The syntax trees of methods that mention an attribute."""
    functions = {found[0].__code__: found[0] for found in mentions(layer, nn.Module, name) if found is not None}
    return (tree for function in functions.values() if (tree := tree_of(function)) is not None)


def _products(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.MatMult):
            yield node
        elif isinstance(node, ast.Call):
            words = dotted(node.func)
            if (words[-1] if words else getattr(node.func, "attr", "")) in _PRODUCTS:
                yield node


def _expressions(node: ast.AST) -> Iterator[ast.expr]:
    return (each for each in ast.walk(node) if isinstance(each, ast.expr))
