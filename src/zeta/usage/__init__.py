"""What a module's ``forward`` does with a parameter, read from its source: which dimensions it sums over.

A small abstract run: the statements of ``forward``, and of the methods and functions that it hands the parameter to,
are followed once, with views of the parameter (transposed, indexed, sliced, cast) as the only values. Nothing is
executed, so that no input is needed. What cannot be followed counts as unknown, and unknown is an answer.
"""

from __future__ import annotations

import ast
import functools
from typing import Any, Final

from torch import nn

from zeta.usage.run import Run
from zeta.usage.source import dotted, names_a_norm, tree_of
from zeta.usage.views import Uses

_STATISTICS: Final = frozenset(
    ["rsqrt", "sqrt", "var", "var_mean", "std", "std_mean", "norm", "vector_norm", "normalize"]
)


@functools.lru_cache(maxsize=4096)
def uses(layer: Any, name: str, ndim: int) -> Uses:
    """What ``forward`` of the class ``layer`` does with its parameter ``name`` of ``ndim`` dimensions."""
    run = Run(layer, name, ndim)
    forward = getattr(layer, "forward", None)
    if forward is nn.Module.forward or layer.__module__.startswith("torch.nn.modules."):
        run.found.lost = True
    else:
        run.call(forward, [], {}, itself=True)
    return run.found


@functools.lru_cache(maxsize=4096)
def normalizes(layer: Any) -> bool:
    """Whether ``forward`` of the class ``layer``, or a method of its own that it calls, divides by a norm or a std."""
    methods, seen = ["forward"], set()
    while methods:
        name = methods.pop()
        tree = tree_of(getattr(layer, name, None)) if name not in seen else None
        seen.add(name)
        for node in ast.walk(tree) if tree is not None else ():
            if isinstance(node, ast.Call):
                words = dotted(node.func)
                if words and words[0] != "math" and (words[-1] in _STATISTICS or names_a_norm(words)):
                    return True
                if len(words) == 2 and words[0] == "self":
                    methods.append(words[1])
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
                exponent = node.right
                if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
                    return True
    return False
