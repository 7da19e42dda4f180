"""Nodes that are known laws, and what the rules that tell them share."""

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

#: laws that draw every element on its own, so that elements may change places
IID: Final = (Uniform, Normal, TruncatedNormal)


@dataclass(frozen=True, kw_only=True)
class Leaf:
    """A node that is a known law: constant if ``drawn`` is ``None``, else the randomness that it comes from.

    ``formula`` is the node as an operation on simpler ones, for where the law does not become a parameter as it is:
    programs do what the constructor did, to the last bit.
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
        """Another law of the same randomness, of which it is not said yet how it is computed."""
        return replace(self, formula=PENDING, **changes)


#: the formula of a law that was derived, until the node is known that it was derived for
PENDING: Final = Node(op="pending", shape=(), dtype=torch.float32)

Simple = Leaf | Node


class Simplifier(Protocol):
    """Nodes in simpler form."""

    nodes: dict[int, Node]
    #: by their last write, what is known of memories that are written to in parts
    memories: dict[int, Any]

    def __getitem__(self, node: Node) -> Simple:
        """A node's simpler form."""

    def used_once(self, node: Node) -> bool:
        """Whether nothing else uses a node, so that its elements may be drawn in another order."""


RuleOf = Callable[[Simplifier, Node, list[Any]], Simple | None]


def leaf_node(leaf: Leaf, serial: int) -> Node:
    """A leaf in the place of a node, with the serial number of the one that it was."""
    return Node(op="leaf", content=leaf, shape=leaf.shape, dtype=leaf.dtype, serial=serial)


def leaf_of(node: Simple) -> Leaf | None:
    """The leaf that a simplified node is, if it is one."""
    if isinstance(node, Leaf):
        return node
    return node.content if node.op == "leaf" else None


def computed(node: Simple) -> Simple:
    """The node as operations on what is drawn: a derived law is replaced by its formula."""
    leaf = leaf_of(node)
    return node if leaf is None or leaf.formula is None else leaf.formula


def is_constant(simple: Simple) -> bool:
    """Whether a simplified node is one number everywhere."""
    return isinstance(simple, Leaf) and simple.is_constant


def constant_leaf(value: Any, node: Node) -> Leaf | None:
    """A constant leaf, if the number is one that a plan can hold exactly."""
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
