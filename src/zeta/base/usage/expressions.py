"""Expressions in the abstract interpretation: views of the parameter, and products with it."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import FunctionType
from typing import Any, Final, Protocol

from zeta.base.usage.source import NamedCall, code_of, dotted, meaning, names_a_norm
from zeta.base.usage.torch_calls import CHUNKS, HARMLESS, LINEAR, NORMS, PRODUCTS, einsum_roles
from zeta.base.usage.views import (
    AS_IT_IS,
    NOTHING,
    Counter,
    ParameterUse,
    Product,
    Uses,
    Value,
    View,
    change,
    constant,
    index,
    union,
    views,
)

#: attributes of a module that give access to all of its parameters
_DOORS: Final = frozenset(
    ["__dict__", "_parameters", "parameters", "named_parameters", "get_parameter", "state_dict", "named_children"]
)
#: attributes and methods of a tensor that read no values
_FACTS: Final = frozenset(["shape", "dtype", "device", "ndim", "size", "dim", "numel", "is_meta", "requires_grad"])
#: usual names of scales and biases of norms, for functions that are not torch's
_SCALES: Final = frozenset(["weight", "scale", "gamma"])
_BIASES: Final = frozenset(["bias", "shift", "beta"])
_COUNTER: Final[Value] = frozenset([Counter()])


class Follower(Protocol):
    """Follows calls, and collects the uses that are found."""

    layer: Any
    name: str
    ndim: int
    found: Uses
    seen: set[int]
    calls: list[NamedCall]
    work: int

    def call(self, called: Any, given: list[Value], named: dict[str, Value], itself: bool = False) -> Value:
        """Follow a call of a Python function; ``itself``: its first argument is the module."""


class Expressions:
    """The values of the expressions of one function, given the values of its local variables."""

    def __init__(
        self, run: Follower, function: FunctionType, tree: ast.FunctionDef, module: str | None, values: dict[str, Value]
    ) -> None:
        self.run, self.function, self.module, self.values = run, function, module, values
        self.returned: Value = NOTHING
        self._local = frozenset(function.__code__.co_varnames) | frozenset(function.__code__.co_cellvars)

    def _value(self, node: ast.expr) -> Value:
        self.run.work += 1
        match node:
            case ast.Name(id=name):
                if name == self.module:
                    self.run.found.lost = True  # the module itself is passed on
                return self.values.get(name, NOTHING)
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == self.module:
                return self._of_module(node, attr)
            case ast.Attribute(value=inner, attr=attr):
                return self._attribute(self._value(inner), attr)
            case ast.Subscript(value=inner, slice=inside):
                parts = inside.elts if isinstance(inside, ast.Tuple) else [inside]
                whole = [type(constant(part)) is int or self._value(part) == _COUNTER for part in parts]
                found = self._value(inner)
                return self._each(found, lambda view: index(view, parts, whole))
            case ast.Slice(lower=lower, upper=upper, step=step):
                for part in filter(None, (lower, upper, step)):
                    self._value(part)
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(op, self._value(left), self._value(right), left, right)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                return self._value(operand)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._value(test)
                return self._value(body) | self._value(orelse)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return union([self._value(part) for part in parts])
            case ast.BoolOp(values=parts):
                return union([self._value(part) for part in parts])
            case ast.Compare(left=left, comparators=others, ops=ops):
                compared = union([self._value(part) for part in (left, *others)])
                if views(compared) and not all(isinstance(op, ast.Is | ast.IsNot) for op in ops):
                    self.run.found.lost = True
            case ast.NamedExpr(target=target, value=inner):
                found = self._value(inner)
                self._assign(target, found, inner)
                return found
            case ast.Call():
                return self._called(node)
            case ast.ListComp(elt=element, generators=[one]) | ast.GeneratorExp(elt=element, generators=[one]):
                before = dict(self.values)
                self._assign_each(one.target, one.iter)
                for test in one.ifs:
                    self._value(test)
                found = self._value(element)
                self.values = before
                if views(found):
                    self.run.found.lost = True  # a list of views
                return frozenset(each for each in found if isinstance(each, Product))
            case ast.Constant() | ast.JoinedStr():
                return NOTHING
            case _:
                parts = [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
                if views(union([self._value(part) for part in parts])):
                    self.run.found.lost = True
                return self._unknown(node)
        return NOTHING

    def _of_module(self, node: ast.Attribute, attr: str) -> Value:
        if attr in _DOORS:
            self.run.found.lost = True
        return self._parameter(node) if attr == self.run.name else NOTHING

    def _parameter(self, named: ast.expr) -> Value:
        """The whole parameter, at a place where the code names it."""
        self.run.seen.add(id(named))
        return frozenset([View(dims=tuple(range(self.run.ndim)))])

    def _attribute(self, found: Value, attr: str) -> Value:
        if attr in ("T", "H"):
            return self._each(found, lambda view: view.permuted([1, 0]) if len(view.dims) == 2 else None)
        if attr in ("mT", "mH"):
            return self._each(found, lambda view: view.permuted([*range(len(view.dims) - 2), -1, -2]))
        if attr in AS_IT_IS:
            return found
        return self._each(found, lambda view: None) if attr not in _FACTS else NOTHING

    def _each(self, found: Value, make: Callable[[View], View | None]) -> Value:
        """The views of ``found`` after ``make``; one that cannot be followed is lost."""
        changed = [make(view) for view in views(found)]
        if None in changed:
            self.run.found.lost = True
        return frozenset(view for view in changed if view is not None)

    def _first(self, found: Value) -> Value:
        """An element of a value that a loop or an unpacking assignment takes apart."""
        products = frozenset(each for each in found if isinstance(each, Product))
        return products | self._each(found, lambda view: index(view, [ast.Constant(value=0)], [True]))

    def _binary(self, op: ast.operator, left: Value, right: Value, a: ast.expr, b: ast.expr) -> Value:
        if isinstance(op, ast.MatMult):
            return self._product(left, right)
        for found, other in ((left, b), (right, a)):
            if not views(found):
                continue
            number = type(constant(other)) in (int, float)
            if number and isinstance(op, ast.Add):
                self.run.found.from_zero |= constant(other) == 1
                return frozenset(replace(view, shifted=True) for view in views(found))
            if number and isinstance(op, ast.Mult | ast.Div) and found is left:
                return found  # scaling does not change the dimensions
            if isinstance(op, ast.Mult):
                self.run.found.scales |= not any(view.shifted for view in views(found))
            self.run.found.adds |= isinstance(op, ast.Add)
            self.run.found.lost = True
            return NOTHING
        return frozenset(each for each in left | right if isinstance(each, Product))

    # -- products -----------------------------------------------------------------------------------------------------

    def _product(self, left: Value, right: Value) -> Value:
        """``left @ right``."""
        if views(left) and views(right):
            self.run.found.lost = True
        done = [self._used(view, [-1], [-2] if len(view.dims) > 1 else [], last=False) for view in views(left)]
        done += [self._used(v, [-2], [-1]) if len(v.dims) > 1 else self._used(v, [-1], []) for v in views(right)]
        return union(done)

    def _used(
        self, view: View, summed: Sequence[int], kept: Sequence[int], lookup: Sequence[int] = (), last: bool = True
    ) -> Value:
        """Record a product that sums over dimensions ``summed`` of a view and keeps ``kept``, both negative numbers.

        ``last``: the kept dimension is the last one of the result.
        """
        if view.several or view.shifted or any(-dim > len(view.dims) for dim in (*summed, *kept, *lookup)):
            self.run.found.lost = True
            return NOTHING

        def real(dims: Sequence[int]) -> tuple[int, ...]:
            return tuple(sorted(dim for dim in (view.dims[place] for place in dims) if dim is not None))

        use = ParameterUse(fan_in=real(summed), fan_out=real(kept), blocks=view.blocks, lookup=real(lookup))
        self.run.found.products.append(use)
        return frozenset([Product(use=use)]) if last else NOTHING

    def _chunk(self, found: Value, numbers: list[Any], node: ast.Call) -> Value:
        """``chunk(n, dim)`` of the weight, or of a product with it: ``n`` maps are packed along this dimension."""
        named = {keyword.arg: constant(keyword.value) for keyword in node.keywords}
        n = numbers[0] if numbers else named.get("chunks")
        dim = numbers[1] if len(numbers) > 1 else named.get("dim", 0)
        for each in found:
            if isinstance(each, Product) and type(n) is int and n > 0 and dim == -1 and len(each.use.fan_out) == 1:
                packed = replace(each.use, blocks=((each.use.fan_out[0], n),))
                self.run.found.products = [packed if use == each.use else use for use in self.run.found.products]
        return self._each(found, lambda view: view.packed(dim, n))

    # -- calls --------------------------------------------------------------------------------------------------------

    def _called(self, node: ast.Call) -> Value:
        words = dotted(node.func)
        if words == ["getattr"] and len(node.args) > 1 and dotted(node.args[0]) == [self.module]:
            return self._of_getattr(node)
        if words in (["isinstance"], ["type"], ["super"], ["hasattr"]):
            for one in node.args:
                if dotted(one) != [self.module]:
                    self._value(one)
            return NOTHING
        given = [self._value(argument) for argument in node.args]
        named = {keyword.arg or "**": self._value(keyword.value) for keyword in node.keywords}
        everything = union([*given, *named.values()])
        starred = any(isinstance(argument, ast.Starred) for argument in node.args) or "**" in named
        if starred and views(everything):
            self.run.found.lost = True
            return NOTHING
        if len(words) == 2 and words[0] == self.module:
            return self._method_of_module(words[1], given, named)
        target = meaning(self.function, words, self._local)
        self.run.calls.append(
            NamedCall(function=self.function, words=words, local=self._local, target=target, code=code_of(target))
        )
        if target is None and isinstance(node.func, ast.Attribute):
            return self._method(node.func, given, everything, node)
        if not everything or words in ([one] for one in HARMLESS):
            return NOTHING
        return self._function(target, words, given, named, node)

    def _of_getattr(self, node: ast.Call) -> Value:
        if constant(node.args[1]) == self.run.name:
            return self._parameter(node.args[1])
        if not isinstance(constant(node.args[1]), str):
            self.run.found.lost = True
        return NOTHING

    def _method_of_module(self, name: str, given: list[Value], named: dict[str, Value]) -> Value:
        """``self.name(...)``: a method is followed; the parameter is lost if a submodule gets it."""
        raw = inspect.getattr_static(self.run.layer, name, None)
        if name in _DOORS:
            self.run.found.lost = True
        if isinstance(raw, FunctionType | staticmethod):
            return self.run.call(raw, given, named, itself=isinstance(raw, FunctionType))
        if views(union([*given, *named.values()])):
            self.run.found.lost = True
        return NOTHING

    def _method(self, func: ast.Attribute, given: list[Value], everything: Value, node: ast.Call) -> Value:
        """``value.name(...)``; ``value`` may be a view of the parameter or another object."""
        receiver, name = self._value(func.value), func.attr
        numbers = [constant(argument) for argument in node.args]
        if name in ("matmul", "mm", "bmm") and len(given) == 1 and not node.keywords:
            return self._product(receiver, given[0])
        if views(everything):
            if name in ("add", "mul", "add_", "mul_") and not views(receiver):  # another tensor by the parameter
                op = ast.Add() if name.startswith("add") else ast.Mult()
                return self._binary(op, receiver, given[0] if given else NOTHING, func, func)
            return self._lost()
        if name in ("add", "mul", "add_", "mul_") and node.args:
            op = ast.Add() if name.startswith("add") else ast.Mult()
            return self._binary(op, receiver, NOTHING, func, node.args[0])
        if name in _FACTS:
            return NOTHING
        if name in ("chunk", "tensor_split"):
            return self._chunk(receiver, numbers, node)
        kept = frozenset(each for each in receiver if isinstance(each, Product) and name in AS_IT_IS)
        named = bool(node.keywords) and name not in AS_IT_IS
        return kept | self._each(receiver, lambda view: None if named else change(view, name, numbers))

    def _function(
        self, target: Any, words: list[str], given: list[Value], named: dict[str, Value], node: ast.Call
    ) -> Value:
        """A call of a function with the parameter, or with a product, as an argument."""

        def argument(place: int, *keys: str) -> Value:
            return given[place] if len(given) > place else union(named[key] for key in keys if key in named)

        everything = union([*given, *named.values()])
        known = target if callable(target) and _hashable(target) else None
        if known in PRODUCTS:
            first, second = PRODUCTS[known]
            return self._product(argument(*first), argument(*second))
        if known in LINEAR:
            summed, kept, lookup = LINEAR[known]
            if views(given[0] if given else NOTHING):
                self.run.found.lost = True
            return union([self._used(view, summed, kept, lookup) for view in views(argument(1, "weight"))])
        roles = einsum_roles(known, node) if views(everything) else None
        if roles is not None:
            return union(
                self._used(view, *one, last=False) if len(view.dims) == n else self._lost()
                for value, (n, one) in zip(given[1:], roles, strict=True)
                for view in views(value)
            )
        if known in CHUNKS:
            whole = ast.Call(func=node.func, args=node.args[1:], keywords=node.keywords)
            return self._chunk(argument(0, "input"), [constant(each) for each in node.args[1:]], whole)
        if not views(everything):
            return NOTHING
        of_torch = (getattr(target, "__module__", None) or "").startswith("torch")
        if known in NORMS or (names_a_norm(words) and not of_torch):
            return self._normalized(NORMS.get(known), given, named)
        if isinstance(target, FunctionType) and not of_torch:
            return self.run.call(target, given, named)
        return self._lost()

    def _lost(self) -> Value:
        self.run.found.lost = True
        return NOTHING

    def _normalized(self, places: tuple[int, int] | None, given: list[Value], named: dict[str, Value]) -> Value:
        """A call of a norm. The positions are known for torch's; else the parameter's name decides its role."""
        found = self.run.found
        found.lost = True
        if places is not None:
            scale, bias = (union(given[place : place + 1]) for place in places)
            scale, bias = scale | named.get("weight", NOTHING), bias | named.get("bias", NOTHING)
        else:
            behind = union(given[1:])
            scale = named.get("weight", NOTHING) | (behind if self.run.name in _SCALES else NOTHING)
            bias = named.get("bias", NOTHING) | (behind if self.run.name in _BIASES else NOTHING)
        found.scales_in_norm |= bool(views(scale))
        found.adds_in_norm |= bool(views(bias))
        return NOTHING

    # -- assignments --------------------------------------------------------------------------------------------------

    def _unknown(self, node: ast.AST) -> Value:
        """A statement or expression that is not followed: the parameter is lost if it occurs there."""
        for part in ast.walk(node):
            if isinstance(part, ast.Name) and views(self.values.get(part.id, NOTHING)):
                self.run.found.lost = True
        return NOTHING

    def _assign(self, target: ast.expr, found: Value, value: ast.expr | None) -> None:
        match target:
            case ast.Name(id=name):
                self.values[name] = found
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                several = value.elts if isinstance(value, ast.Tuple | ast.List) else []
                starred = any(isinstance(part, ast.Starred) for part in (*parts, *several))
                if starred and views(found):
                    self.run.found.lost = True
                elif len(several) == len(parts):
                    for part, one in zip(parts, [self._value(each) for each in several], strict=True):
                        self._assign(part, one, None)
                else:
                    for part in parts:
                        self._assign(part, self._first(found), None)
            case _ if views(found):
                self.run.found.lost = True

    def _assign_each(self, target: ast.expr, over: ast.expr) -> None:
        """Assign the loop variable: a view without its first dimension, or a counter."""
        name = over.func.id if isinstance(over, ast.Call) and isinstance(over.func, ast.Name) else ""
        parts = over.args if isinstance(over, ast.Call) and name not in self._local else []
        inner = target.elts if isinstance(target, ast.Tuple) else []
        if name == "range" and isinstance(target, ast.Name) and parts:
            self._assign(target, _COUNTER, None)
        elif name == "enumerate" and len(inner) == 2 and len(parts) == 1:
            self._assign(inner[0], _COUNTER, None)
            self._assign_each(inner[1], parts[0])
        elif name == "zip" and len(inner) == len(parts) > 0:
            for part, one in zip(inner, parts, strict=True):
                self._assign_each(part, one)
        else:
            self._assign(target, self._first(self._value(over)), None)


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except Exception:  # a foreign __hash__ may raise anything
        return False
    return True
