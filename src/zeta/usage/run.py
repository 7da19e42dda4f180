"""The abstract run of a module's ``forward``."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

from zeta.usage.source import dotted, meaning, names_a_norm, tree_of
from zeta.usage.views import AS_IT_IS, NOTHING, Product, Use, Uses, Value, View, change, constant, index, union

#: functions that call each other are followed this deep
_DEEPEST: Final = 6
#: where the norms of torch and of libraries like it take their bias, by position
_BIAS_AT: Final = {"layer_norm": 3, "group_norm": 3, "batch_norm": 4, "instance_norm": 4}
_HARMLESS: Final = frozenset(
    ["isinstance", "len", "hasattr", "type", "id", "print", "size", "dim", "numel", "stride", "element_size"]
)


class Run:
    """The run for one parameter of one class; ``found`` is what it finds."""

    def __init__(self, layer: Any, name: str, ndim: int) -> None:
        self.layer, self.name, self.ndim = layer, name, ndim
        self.found = Uses()
        self._depth = 0

    def call(self, function: Any, given: list[Value], named: dict[str, Value], itself: bool = False) -> Value:
        """Follow a call of a Python function; ``itself`` says that its first argument is the module."""
        tree = tree_of(function)
        if tree is None or self._depth >= _DEEPEST:
            self.found.lost = True
            return NOTHING
        names = [each.arg for each in (*tree.args.posonlyargs, *tree.args.args)]
        module = names.pop(0) if itself and names else None
        known = {*names, *(each.arg for each in tree.args.kwonlyargs)}
        if any(given[len(names) :]) or any(value and key not in known for key, value in named.items()):
            self.found.lost = True
        values = {**dict(zip(names, given, strict=False)), **{k: v for k, v in named.items() if k in known}}
        scope = _Scope(self, inspect.unwrap(getattr(function, "__func__", function)), module, values)
        self._depth += 1
        scope.follow(tree.body)
        self._depth -= 1
        return scope.returned


class _Scope:
    """The local variables of one function."""

    def __init__(self, run: Run, function: Any, module: str | None, values: dict[str, Value]) -> None:
        self.run, self.function, self.module, self.values = run, function, module, values
        self.returned: Value = NOTHING

    # -- statements

    def follow(self, body: Sequence[ast.stmt]) -> None:
        """Go through statements, in order."""
        for statement in body:
            self._statement(statement)

    def _statement(self, node: ast.stmt) -> None:
        match node:
            case ast.Assign(targets=targets, value=value):
                found = self._value(value)
                for target in targets:
                    self._assign(target, found, value)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self._value(value), value)
            case ast.AugAssign(target=target, op=op, value=value):
                self._assign(target, self._binary(self._value(target), op, self._value(value), target, value), None)
            case ast.Return(value=ast.expr() as value):
                self.returned |= self._value(value)
            case ast.If(test=test, body=body, orelse=orelse):
                self._value(test)
                before = dict(self.values)
                self.follow(body)
                first, self.values = self.values, before
                self.follow(orelse)
                self.values = {k: first.get(k, NOTHING) | self.values.get(k, NOTHING) for k in {*first, *self.values}}
            case ast.For(target=target, iter=over, body=body, orelse=orelse):
                self._assign_each(target, over)
                self.follow(body)
                self.follow(orelse)
            case ast.While(test=test, body=body):
                self._value(test)
                self.follow(body)
            case ast.With(items=items, body=body):
                for item in items:
                    self._value(item.context_expr)
                self.follow(body)
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                for part in (body, *(handler.body for handler in handlers), orelse, final):
                    self.follow(part)
            case ast.Expr(value=value):
                self._value(value)
            case ast.FunctionDef() | ast.ClassDef():
                if any(isinstance(part, ast.Attribute) and part.attr == self.run.name for part in ast.walk(node)):
                    self.run.found.lost = True

    def _assign(self, target: ast.expr, found: Value, value: ast.expr | None) -> None:
        match target:
            case ast.Name(id=name):
                self.values[name] = found
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                several = value.elts if isinstance(value, ast.Tuple | ast.List) else []
                if len(several) == len(parts):
                    for part, one in zip(parts, several, strict=True):
                        self._assign(part, self._value(one), one)
                else:
                    for part in parts:
                        self._assign(part, self._first(found), None)
            case ast.Attribute() | ast.Subscript() if any(isinstance(each, View) for each in found):
                self.run.found.lost = True

    def _assign_each(self, target: ast.expr, over: ast.expr) -> None:
        """Each of what a loop runs over: a view without its first dimension."""
        match over:
            case ast.Call(func=ast.Name(id="enumerate"), args=[inner, *_]) if isinstance(target, ast.Tuple):
                self._assign_each(target.elts[-1], inner)
            case ast.Call(func=ast.Name(id="zip"), args=parts) if isinstance(target, ast.Tuple):
                for part, one in zip(target.elts, parts, strict=False):
                    self._assign_each(part, one)
            case _:
                self._assign(target, self._first(self._value(over)), None)

    # -- expressions

    def _value(self, node: ast.expr) -> Value:
        match node:
            case ast.Name(id=name):
                return self.values.get(name, NOTHING)
            case ast.Attribute(value=ast.Name(id=name), attr=attr) if name == self.module:
                return self._parameter() if attr == self.run.name else NOTHING
            case ast.Attribute(value=inner, attr=attr):
                found = self._value(inner)
                if attr in ("T", "mT", "H", "mH"):
                    return self._each(found, lambda view: view.permuted([*range(-len(view.dims), -2), -1, -2]))
                return found if attr in AS_IT_IS else NOTHING
            case ast.Subscript(value=inner, slice=index):
                parts = index.elts if isinstance(index, ast.Tuple) else [index]
                for part in parts:
                    self._value(part)
                return self._indexed(self._value(inner), parts)
            case ast.BinOp(left=left, op=op, right=right):
                return self._binary(self._value(left), op, self._value(right), left, right)
            case ast.UnaryOp(operand=operand):
                return self._value(operand)
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._value(test)
                return self._value(body) | self._value(orelse)
            case ast.Tuple(elts=parts) | ast.List(elts=parts):
                return union(map(self._value, parts))
            case ast.BoolOp(values=parts):
                return union(map(self._value, parts))
            case ast.NamedExpr(target=target, value=inner):
                found = self._value(inner)
                self._assign(target, found, inner)
                return found
            case ast.Starred(value=inner):
                return self._value(inner)
            case ast.Call():
                return self._called(node)
            case (
                ast.ListComp(elt=element, generators=generators) | ast.GeneratorExp(elt=element, generators=generators)
            ):
                for one in generators:
                    self._assign_each(one.target, one.iter)
                return self._value(element)
            case ast.Compare(left=left, comparators=others):
                for part in (left, *others):
                    self._value(part)
        return NOTHING

    def _parameter(self) -> Value:
        return frozenset([View(dims=tuple(range(self.run.ndim)))])

    def _each(self, found: Value, change: Callable[[View], View | None]) -> Value:
        """The views of ``found``, each changed; one that cannot be followed is lost."""
        changed: set[View | Product] = set()
        for each in found:
            view = change(each) if isinstance(each, View) else None
            if view is not None:
                changed.add(view)
            elif isinstance(each, View):
                self.run.found.lost = True
        return frozenset(changed)

    def _first(self, found: Value) -> Value:
        """One of those that a loop or an assignment takes apart."""
        return self._indexed(found, [ast.Constant(value=0)])

    def _indexed(self, found: Value, parts: Sequence[ast.expr]) -> Value:
        products = frozenset(each for each in found if isinstance(each, Product))
        return products | self._each(found, lambda view: index(view, parts))

    def _binary(self, left: Value, op: ast.operator, right: Value, a: ast.expr, b: ast.expr) -> Value:
        if isinstance(op, ast.MatMult):
            return self._product(left, right)
        for found, other in ((left, b), (right, a)):
            views = [each for each in found if isinstance(each, View)]
            if not views:
                continue
            if isinstance(op, ast.Add) and isinstance(other, ast.Constant):
                return frozenset(replace(view, shifted=True) for view in views)
            if isinstance(other, ast.Constant):
                return found  # a scaled weight is a weight
            if isinstance(op, ast.Mult):
                self.run.found.scales |= not any(view.shifted for view in views)
            if isinstance(op, ast.Add):
                self.run.found.adds = True
            self.run.found.lost = True
            return NOTHING
        return left | right  # a product and a bias

    def _product(self, left: Value, right: Value) -> Value:
        """``left @ right``."""
        done: Value = NOTHING
        for found, summed, kept in ((left, -1, -2), (right, -2, -1)):
            for view in found:
                if isinstance(view, View):
                    dims = (summed,) if len(view.dims) > 1 else (-1,)
                    done |= self._used(view, dims, (kept,) if len(view.dims) > 1 else ())
        return done

    def _used(self, view: View, summed: Sequence[int], kept: Sequence[int], lookup: Sequence[int] = ()) -> Value:
        """Note a product that sums over dimensions ``summed`` of a view and leaves ``kept``, counted from the end."""

        def real(dims: Sequence[int]) -> tuple[int, ...]:
            places = (view.dims[dim] for dim in dims if -len(view.dims) <= dim < len(view.dims))
            return tuple(sorted(dim for dim in places if dim is not None))

        use = Use(fan_in=real(summed), fan_out=real(kept), blocks=view.blocks, lookup=real(lookup))
        self.run.found.products.append(use)
        return frozenset([Product(use=use)])

    # -- calls

    def _called(self, node: ast.Call) -> Value:
        given = [self._value(argument) for argument in node.args]
        named = {keyword.arg or "**": self._value(keyword.value) for keyword in node.keywords}
        words = dotted(node.func)
        name = words[-1] if words else ""
        of_module = len(words) == 2 and words[0] == self.module
        if isinstance(node.func, ast.Attribute) and not of_module:
            receiver = self._value(node.func.value)
            if receiver:
                return self._method(name, receiver, given, node)
            if name in ("matmul", "mm", "bmm") and not isinstance(meaning(self.function, words[:-1]), ModuleType):
                return self._product(NOTHING, union(given))
        if name == "getattr" and constant(node.args[1:2]) == self.run.name and dotted(node.args[0]) == [self.module]:
            return self._parameter()
        everything = union([*given, *named.values()])
        if not everything and not of_module:
            return NOTHING
        product = self._torch_function(name, given, named, node)
        if product is not None:
            return product
        if names_a_norm(words) and words[0] != self.module:
            return self._normalized(name, given, named)
        return self._followed(words, given, named, everything)

    def _normalized(self, name: str, given: list[Value], named: dict[str, Value]) -> Value:
        """A norm's function, which takes its scale and its bias behind what it normalizes."""
        place = _BIAS_AT.get(name, len(given))
        bias = union([*given[place : place + 1], named.get("bias", NOTHING)])
        rest = union([*given[1:], *(value for key, value in named.items() if key != "input")])
        found = self.run.found
        found.lost = True
        found.adds_in_norm |= bool(bias)
        found.scales_in_norm |= bool(rest - bias)
        return NOTHING

    def _followed(self, words: list[str], given: list[Value], named: dict[str, Value], everything: Value) -> Value:
        """Go into a method of the module, or into a function that it hands the parameter to."""
        products = frozenset(each for each in everything if isinstance(each, Product))
        if words[:1] == [self.module] and len(words) == 2:
            raw = inspect.getattr_static(self.run.layer, words[1], None)
            if isinstance(raw, FunctionType):
                return self.run.call(raw, given, named, itself=True)
            if isinstance(raw, staticmethod):
                return self.run.call(raw.__func__, given, named)
        if products == everything:
            return products
        target = meaning(self.function, words)
        if isinstance(target, FunctionType | MethodType):
            return self.run.call(target, given, named)
        self.run.found.lost = True
        return products

    def _method(self, name: str, receiver: Value, given: list[Value], node: ast.Call) -> Value:
        """``view.name(...)``."""
        numbers = [constant([argument]) for argument in node.args]
        if name in _HARMLESS:
            return NOTHING
        if name in ("matmul", "mm", "bmm"):
            return self._product(receiver, given[0] if given else NOTHING)
        if name in ("add", "mul", "add_", "mul_") and node.args:
            op = ast.Add() if name.startswith("add") else ast.Mult()
            return self._binary(receiver, op, given[0], node.func, node.args[0])
        if name in ("chunk", "tensor_split"):
            return self._split(receiver, numbers, node)
        products = frozenset(each for each in receiver if isinstance(each, Product))
        return products | self._each(receiver, lambda view: change(view, name, numbers))

    def _split(self, receiver: Value, numbers: list[Any], node: ast.Call) -> Value:
        """``chunk(n, dim)`` of the weight or of a product with it: ``n`` maps are packed along that dimension."""
        named = {keyword.arg: constant([keyword.value]) for keyword in node.keywords}
        n = numbers[0] if numbers else named.get("chunks")
        dim = numbers[1] if len(numbers) > 1 else named.get("dim", 0)
        parts: set[View | Product] = set()
        for each in receiver:
            if isinstance(each, View):
                place = each.at(dim) if isinstance(dim, int) else None
                real = None if place is None else each.dims[place]
                if not isinstance(n, int) or real is None:
                    self.run.found.lost = True
                    continue
                parts.add(replace(each, blocks=(*each.blocks, (real, n)), several=True))
            elif isinstance(n, int) and dim == -1 and len(each.use.fan_out) == 1:
                packed = replace(each.use, blocks=((each.use.fan_out[0], n),))
                self.run.found.products = [packed if use == each.use else use for use in self.run.found.products]
        return frozenset(parts)

    def _torch_function(self, name: str, given: list[Value], named: dict[str, Value], node: ast.Call) -> Value | None:
        """A product by one of torch's functions; ``None`` where it is none."""

        def argument(place: int, *keys: str) -> Value:
            return given[place] if len(given) > place else next((named[key] for key in keys if key in named), NOTHING)

        def views(found: Value) -> Iterator[View]:
            return (each for each in found if isinstance(each, View))

        done: Value = NOTHING
        if name in ("matmul", "mm", "bmm", "_grouped_mm", "grouped_mm"):
            return self._product(argument(0, "input", "mat_a"), argument(1, "other", "mat2", "mat_b"))
        if name in ("addmm", "baddbmm", "addbmm"):
            return self._product(argument(1, "mat1", "batch1"), argument(2, "mat2", "batch2"))
        if name == "linear":
            for view in views(argument(1, "weight")):
                done |= self._used(view, (-1,), (-2,))
            return done or None
        if name == "embedding":
            for view in views(argument(1, "weight")):
                done |= self._used(view, (), (-1,), lookup=(-2,))
            return done or None
        if re.fullmatch(r"conv[123]d", name):
            return None  # groups are the module's: nn.Conv's own, and everybody else says what they mean
        if name == "einsum":
            return self._einsum(given, node)
        if name in ("chunk", "tensor_split"):
            whole = ast.Call(func=node.func, args=node.args[1:], keywords=node.keywords)
            return self._split(given[0] if given else NOTHING, [constant([each]) for each in node.args[1:]], whole)
        if name in _HARMLESS:
            return NOTHING
        return None

    def _einsum(self, given: list[Value], node: ast.Call) -> Value | None:
        equation = next((text for each in node.args if isinstance(text := constant([each]), str)), None)
        if equation is None or "->" not in equation:
            return None
        operands = [value for value, each in zip(given, node.args, strict=True) if constant([each]) != equation]
        spaced = " " in equation.strip().replace(", ", ",").replace(" ->", "->").replace("-> ", "->")
        left, _, right = equation.partition("->")

        def letters(text: str) -> list[str]:
            return text.split() if spaced else list(text.replace("...", "").replace(" ", ""))

        terms = [letters(term) for term in left.split(",")]
        if len(terms) != len(operands):
            return None
        kept, done = letters(right), NOTHING
        for number, (term, found) in enumerate(zip(terms, operands, strict=True)):
            others = {letter for place, each in enumerate(terms) if place != number for letter in each}
            for view in found:
                if isinstance(view, View) and len(term) == len(view.dims):
                    summed = [place - len(term) for place, letter in enumerate(term) if letter not in kept]
                    own = [place - len(term) for place, x in enumerate(term) if x in kept and x not in others]
                    done |= self._used(view, summed, own)
                elif isinstance(view, View):
                    self.run.found.lost = True
        return done
