"""The abstract interpretation of a module's ``forward``. Anything that is not certain counts as lost."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Any, Final

from zeta.base.usage.expressions import Expressions
from zeta.base.usage.source import NamedCall, function_of, mentions, tree_of
from zeta.base.usage.views import NOTHING, Uses, Value, union, views

#: the depth to which calls are followed, and the number of statements and expressions that are visited
_DEEPEST: Final = 6
_MOST_WORK: Final = 20_000


class Run:
    """The interpretation for one parameter of one class; ``found`` is the result."""

    def __init__(self, layer: Any, name: str, ndim: int, base: type) -> None:
        self.layer, self.name, self.ndim = layer, name, ndim
        self.found = Uses()
        self.seen: set[int] = set()
        self.calls: list[NamedCall] = []  #: the calls by name: the result holds while these do
        self.work = self._depth = 0
        self._base = base

    def follow(self, forward: Any) -> None:
        """Follow ``forward``. A use of the parameter in a method that is not reached counts as lost."""
        self.call(forward, [], {}, itself=True)
        for mention in mentions(self.layer, self._base, self.name):
            if mention is None or id(mention[1]) not in self.seen:
                self.found.lost = True

    def call(self, called: Any, given: list[Value], named: dict[str, Value], itself: bool = False) -> Value:
        """Follow a call of a Python function; ``itself``: its first argument is the module."""
        function = function_of(called)
        tree = None if function is None else tree_of(function)
        if function is None or tree is None or self._depth >= _DEEPEST:
            self.found.lost = True
            return NOTHING
        names = [each.arg for each in (*tree.args.posonlyargs, *tree.args.args)]
        module = names.pop(0) if itself and names else None
        known = {*names, *(each.arg for each in tree.args.kwonlyargs)}
        if any(given[len(names) :]) or any(value and key not in known for key, value in named.items()):
            self.found.lost = True
        values = {**dict(zip(names, given, strict=False)), **{k: v for k, v in named.items() if k in known}}
        scope = _Statements(self, function, tree, module, values)
        self._depth += 1
        scope.follow(tree.body)
        self._depth -= 1
        return scope.returned


class _Statements(Expressions):
    """The interpretation of statements, in order."""

    returned: Value = NOTHING

    def follow(self, body: Sequence[ast.stmt]) -> None:
        """Go through statements, in order."""
        for statement in body:
            self.run.work += 1
            if self.run.work > _MOST_WORK:
                self.run.found.lost = True
                return
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
                self._assign(target, self._binary(op, self._value(target), self._value(value), target, value), None)
            case ast.Return(value=value) if value is not None:
                self.returned |= self._value(value)
            case ast.Expr(value=value):
                self._value(value)
            case ast.If(test=test, body=body, orelse=orelse):
                self._value(test)
                self._either([body, orelse])
            case ast.For(target=target, iter=over, body=body, orelse=orelse):
                for _ in range(2):  # the second iteration starts with the values that the first one left
                    self._assign_each(target, over)
                    self._either([body, []])
                self._either([orelse, []])
            case ast.While(test=test, body=body, orelse=orelse):
                for _ in range(2):
                    self._value(test)
                    self._either([body, []])
                self._either([orelse, []])
            case ast.With(items=items, body=body):
                for item in items:
                    found = self._value(item.context_expr)
                    if item.optional_vars is not None:
                        self._assign(item.optional_vars, found if views(found) else NOTHING, None)
                self.follow(body)
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                self._either([body, []])
                self._either([*(handler.body for handler in handlers), orelse, []])
                self.follow(final)
            case ast.Pass() | ast.Break() | ast.Continue() | ast.Import() | ast.ImportFrom() | ast.Return():
                pass
            case ast.Assert(test=test):
                self._value(test)
            case _:
                self._unknown(node)

    def _either(self, bodies: Sequence[Sequence[ast.stmt]]) -> None:
        """Follow alternative bodies; afterwards each name may have its value after any of them."""
        before, after = self.values, list[dict[str, Value]]()
        for body in bodies:
            self.values = dict(before)
            self.follow(body)
            after.append(self.values)
        names = {name for values in after for name in values}
        self.values = {name: union(values.get(name, NOTHING) for values in after) for name in names}
