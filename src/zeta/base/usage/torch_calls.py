"""torch's functions that the abstract interpretation knows, by identity and not by name."""

from __future__ import annotations

import ast
from typing import Any, Final

import torch
import torch.nn.functional as F

from zeta.base.usage.views import constant

Argument = tuple[Any, ...]

#: matrix products: position and keyword of the left and of the right factor
PRODUCTS: Final[dict[Any, tuple[Argument, Argument]]] = {
    torch.matmul: ((0, "input"), (1, "other")),
    torch.mm: ((0, "input"), (1, "mat2")),
    torch.bmm: ((0, "input"), (1, "mat2")),
    torch.addmm: ((1, "mat1"), (2, "mat2")),
    torch.baddbmm: ((1, "batch1"), (2, "batch2")),
    **{
        getattr(torch, name): ((0, "self"), (1, "mat2")) for name in ("_grouped_mm",) if hasattr(torch, name)
    },
    **{getattr(F, name): ((0, "mat_a"), (1, "mat_b")) for name in ("grouped_mm",) if hasattr(F, name)},
}  # fmt: skip
#: functions whose second argument is a weight: its dimensions that are summed over, kept, and looked up
LINEAR: Final[dict[Any, tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]] = {
    F.linear: ((-1,), (-2,), ()),
    F.embedding: ((), (-1,), (-2,)),
}
#: norms: the positions of scale and bias
NORMS: Final[dict[Any, tuple[int, int]]] = {
    F.layer_norm: (2, 3),
    torch.layer_norm: (2, 3),
    torch.native_layer_norm: (2, 3),
    F.rms_norm: (2, 2**16),
    torch.rms_norm: (2, 2**16),
    F.group_norm: (2, 3),
    torch.group_norm: (2, 3),
    F.batch_norm: (3, 4),
    torch.batch_norm: (1, 2),
    F.instance_norm: (3, 4),
    torch.instance_norm: (1, 2),
}
CHUNKS: Final = frozenset([torch.chunk, torch.tensor_split])
#: functions that only read facts of a tensor
HARMLESS: Final = frozenset(["len", "id", "print"])

Roles = tuple[list[int], list[int]]


def einsum_roles(function: Any, node: ast.Call) -> list[tuple[int, Roles]] | None:
    """For each operand of ``torch.einsum``: its number of dimensions, those summed over, and those only it has."""
    equation = constant(node.args[0]) if node.args else None
    if function is not torch.einsum or not isinstance(equation, str) or equation.count("->") != 1 or node.keywords:
        return None
    left, right = equation.replace(" ", "").split("->")
    terms = left.split(",")
    if len(terms) != len(node.args) - 1:
        return None
    roles = []
    for number, term in enumerate(terms):
        letters = term.replace("...", "")
        others = {letter for place, each in enumerate(terms) if place != number for letter in each}
        summed = [place - len(letters) for place, letter in enumerate(letters) if letter not in right]
        own = [place - len(letters) for place, x in enumerate(letters) if x in right and x not in others]
        if "..." in term or len(set(letters)) != len(letters):
            summed, own = [-len(letters) - 1], []  # an impossible dimension: such an operand is not followed
        roles.append((len(letters), (summed, own)))
    return roles
