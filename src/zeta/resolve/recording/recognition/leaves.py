"""Leaves: nodes that are known laws (distributions or constants); and helpers for the rules that find them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

import torch

from zeta.fans import Axes
from zeta.initializers import Constant, Initializer, Normal, TruncatedNormal, Uniform
from zeta.initializers.program import constant
from zeta.resolve.recording.tracing import Node

#: laws with independent, identically distributed elements, so that elements may change places
IID: Final = (Uniform, Normal, TruncatedNormal)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A node that is a known law. ``drawn`` is the random node that it comes from; ``None`` for a constant.

    ``formula`` is the node as an operation on simplified nodes. It is used if the law does not become a whole
    parameter: programs repeat the constructor's operations, to the last bit.
    """

    initializer: Initializer
    shape: tuple[int, ...]
    dtype: torch.dtype
    drawn: Node | None = None
    axes: Axes | None = None
    formula: Node | None = None

    @property
    def is_constant(self) -> bool:
        """Whether every element is the same number."""
        return isinstance(self.initializer, Constant)

    def derived(self, **changes: Any) -> Leaf:
        """A law derived from the same random node; its formula is set later.

        In another shape, also after a permutation, the axes are no longer those of the draw.
        """
        if "shape" in changes:
            changes["axes"] = None
        return replace(self, formula=PENDING, **changes)


#: the placeholder for the formula of a derived law, until its node is built
PENDING: Final = Node(op="pending", shape=(), dtype=torch.float32)

Simple = Leaf | Node


class Simplifier(Protocol):
    """Access to simplified nodes, for the rules."""

    nodes: dict[int, Node]
    #: by their last write, what is known of memories that are written to in parts
    memories: dict[int, Any]

    def __getitem__(self, node: Node) -> Simple:
        """The simplified form of a node."""

    def used_once(self, node: Node) -> bool:
        """Whether the values of a node are used only here, so that its elements may be drawn in another order."""


RuleOf = Callable[[Simplifier, Node, list[Any]], Simple | None]


def leaf_node(leaf: Leaf, serial: int) -> Node:
    """A leaf as a node, with the serial number of the node that it replaces."""
    return Node(op="leaf", content=leaf, shape=leaf.shape, dtype=leaf.dtype, serial=serial)


def leaf_of(node: Simple) -> Leaf | None:
    """The leaf of a simplified node, ``None`` if it is not a leaf."""
    if isinstance(node, Leaf):
        return node
    return node.content if node.op == "leaf" else None


def computed(node: Simple) -> Simple:
    """The node as operations on random draws: a derived law is replaced by its formula."""
    leaf = leaf_of(node)
    return node if leaf is None or leaf.formula is None else leaf.formula


def is_constant(simple: Simple) -> bool:
    """Whether all elements of a simplified node are the same number."""
    return isinstance(simple, Leaf) and simple.is_constant


def constant_leaf(value: Any, node: Node) -> Leaf | None:
    """A constant leaf; ``None`` if a plan cannot represent the number exactly."""
    if isinstance(value, complex):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not math.isfinite(number) or number != value:
        return None
    return Leaf(initializer=constant(number), shape=node.shape, dtype=node.dtype)


def empty_leaf(node: Node) -> Leaf:
    """The leaf of a tensor without elements."""
    return Leaf(initializer=constant(0.0), shape=node.shape, dtype=node.dtype)
