"""Whether a ``forward`` normalizes the sum of a branch and its input, and leaves nothing of the sum itself."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence

from torch import nn

from zeta.base.usage.source import dotted, function_of, tree_of


def normalized_sum(module: nn.Module, is_norm: Callable[[nn.Module], bool]) -> str | None:
    """The child by which ``forward``, or a method of ``self`` that it calls, does; ``None`` if it does not.

    The statements are followed as they are written. Of an ``if`` by a setting of the module, only the branch that it
    takes; of any other, both.
    """
    norms = {name for name, child in module._modules.items() if child is not None and is_norm(child)}
    pending, seen = ["forward"] if norms else [], set[str]()
    while pending:
        name = pending.pop()
        seen.add(name)
        function = function_of(inspect.getattr_static(type(module), name, None))
        tree = None if function is None else tree_of(function)
        statements = [] if tree is None else [*_followed(tree.body, module)]
        for place, statement in enumerate(statements):
            for call in _calls(statement):
                words = dotted(call.func)
                if words[1] in norms and call.args and _is_lost(call, statements, place):
                    return words[1]
                if words[1] not in seen:
                    pending.append(words[1])
    return None


def _calls(statement: ast.AST) -> Iterator[ast.Call]:
    """The calls of what ``self`` has."""
    for node in ast.walk(statement):
        if isinstance(node, ast.Call) and len(words := dotted(node.func)) == 2 and words[0] == "self":
            yield node


def _followed(body: Sequence[ast.stmt], module: nn.Module) -> Iterator[ast.stmt]:
    """The statements without others inside, in their order, to the first ``return`` that is certain."""
    for statement in body:
        match statement:
            case ast.If(test=test):
                taken = _truth(test, module)
                parts = [statement.body] * (taken is not False) + [statement.orelse] * (taken is not True)
                for part in parts:
                    yield from _followed(part, module)
                if taken is not None and parts[0] and isinstance(parts[0][-1], ast.Return):
                    return
            case ast.For() | ast.While() | ast.With() | ast.Try():
                yield from _followed(statement.body, module)
            case _:
                yield statement
                if isinstance(statement, ast.Return):
                    return


def _truth(test: ast.expr, module: nn.Module) -> bool | None:
    """What a test of a setting gives; ``None`` for any other test."""
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        inner = _truth(test.operand, module)
        return None if inner is None else not inner
    words = dotted(test)
    found = vars(module).get(words[1]) if len(words) == 2 and words[0] == "self" else None
    return found if isinstance(found, bool) else None


def _is_sum(value: ast.AST | None) -> bool:
    return isinstance(value, ast.BinOp) and isinstance(value.op, ast.Add)


def _is_lost(call: ast.Call, statements: Sequence[ast.stmt], place: int) -> bool:
    """Whether the first argument is a sum that nothing else reads after this."""
    argument = call.args[0]
    if _is_sum(argument):
        return True
    if not isinstance(argument, ast.Name):
        return False
    holding: set[str] = set()  # the names that hold the sum
    for statement in statements[:place]:
        targets, value = _assigned(statement)
        if _is_sum(value) or (isinstance(statement, ast.AugAssign) and isinstance(statement.op, ast.Add)):
            if argument.id in targets:
                holding = {*targets}
            else:
                holding -= targets
        elif isinstance(value, ast.Name) and value.id in holding:
            holding |= targets
        else:
            holding -= targets
    if argument.id not in holding:
        return False
    if sum(_reads(node, holding) for node in ast.walk(statements[place])) > 1:
        return False
    holding -= _assigned(statements[place])[0]
    for statement in statements[place + 1 :]:
        if any(_reads(node, holding) for node in ast.walk(statement)):
            return False
        holding -= _assigned(statement)[0]
    return True


def _reads(node: ast.AST, names: set[str]) -> bool:
    return isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in names


def _assigned(statement: ast.stmt) -> tuple[set[str], ast.AST | None]:
    """The names that a statement gives new values, and the value if it is one for one name."""
    names = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    match statement:
        case ast.Assign(targets=targets, value=value) if all(isinstance(target, ast.Name) for target in targets):
            return names, value
        case ast.AnnAssign(target=ast.Name(), value=value):
            return names, value
    return names, None
