"""Paths between the recorded layers: which one precedes which, and which activations gate others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple, Protocol

# the starts of the names of nodes that multiply, and of those that pass one tensor on: views, parts, 1 - x
_PRODUCTS: Final = ("MulBackward", "LerpBackward", "AddcmulBackward")
_PASSING: Final = (
    *("View", "UnsafeView", "ReshapeAlias", "Unsqueeze", "Squeeze", "Transpose", "Permute", "T", "Expand", "Clone"),
    *("ToCopy", "Alias", "Slice", "Select", "Split", "Unbind", "Rsub", "Sub", "Neg"),
)
#: the start of the names of nodes of fused attention
FUSED: Final = "ScaledDotProduct"
_SUFFIX: Final = "Backward"
_GATES: Final = ("sigmoid", "hardsigmoid")


class Recorded(Protocol):
    """What the paths need of a record."""

    node: Any
    norm: bool
    weighted: bool
    activation: str | None
    attention: Any
    scores: Any


class _State(NamedTuple):
    """The longest path that ends at a node: its layers since the last normalization, and the last record on it."""

    depth: int
    last: int | None


class Paths:
    """The paths through the graph of some records.

    ``before`` has, for each record, the number of the layer or normalization that precedes it on the longest path;
    ``gates`` the numbers of the sigmoids whose output multiplies another tensor; ``scored`` those of the layers whose
    outputs become scores of attention: queries and keys.
    """

    def __init__(self, records: Sequence[Recorded]) -> None:
        self.before: list[int | None] = [None] * len(records)
        self.gates: set[int] = set()
        self.scored: set[int] = set()
        self._records = records
        self._at: dict[Any, list[int]] = {}
        for number, record in enumerate(records):
            if record.node is not None:
                self._at.setdefault(record.node, []).append(number)
        self._follow()
        self._in_order()
        for record in records:
            if record.scores is not None:
                self._score(record.scores)

    def _follow(self) -> None:
        """Go through the graph from its inputs to its outputs."""
        states: dict[Any, _State] = {}
        passed: dict[Any, int] = {}  #: by node, the sigmoid whose output passes there
        for node in _inputs_first(self._at):
            inputs = [inner for inner, _ in node.next_functions if inner is not None]
            state = max((states[inner] for inner in inputs), default=_State(0, None), key=lambda one: one.depth)
            for number in self._at.get(node, ()):
                self.before[number] = state.last
            for number in self._at.get(node, ()):
                state = _after(self._records[number], number, state)
            states[node] = state
            if self._passes(node, inputs, passed):
                passed[node] = passed[inputs[0]]

    def _passes(self, node: Any, inputs: list[Any], passed: dict[Any, int]) -> bool:
        """Note where sigmoids pass, and whether one passes through this node."""
        for number in self._at.get(node, ()):
            if self._records[number].activation in _GATES:
                passed[node] = number
                return False
        name = type(node).__name__
        if name.startswith(_PRODUCTS):
            self.gates.update(passed[inner] for inner in inputs if inner in passed)
            return False
        return len(inputs) == 1 and inputs[0] in passed and name.partition(_SUFFIX)[0] in _PASSING

    def _score(self, node: Any) -> None:
        inputs = [inner for inner, _ in node.next_functions]
        # of a fused attention, the node of its output: queries and keys come first
        waiting = inputs[:2] if type(node).__name__.startswith(FUSED) else [node]
        seen: set[Any] = set()
        while waiting:
            one = waiting.pop()
            if one is None or one in seen:
                continue
            seen.add(one)
            layers = [number for number in self._at.get(one, ()) if self._records[number].weighted]
            self.scored.update(layers)
            waiting += [] if layers else [inner for inner, _ in one.next_functions]

    def _in_order(self) -> None:
        """Of records without a graph, each precedes the next."""
        last: int | None = None
        for number, record in enumerate(self._records):
            if record.node is None:
                self.before[number] = last
                last = _after(record, number, _State(0, last)).last


def _after(record: Recorded, number: int, state: _State) -> _State:
    if record.norm or record.attention is not None:
        return _State(0, number)
    return _State(state.depth + 1, number) if record.weighted else state


def _inputs_first(nodes: Iterable[Any]) -> Iterator[Any]:
    """Every node that some nodes depend on, and these, each after its inputs."""
    entered: set[Any] = set()
    waiting: list[tuple[Any, bool]] = [(node, False) for node in nodes]
    while waiting:
        node, done = waiting.pop()
        if done:
            yield node
        elif node not in entered:
            entered.add(node)
            waiting.append((node, True))
            waiting += [(inner, False) for inner, _ in node.next_functions if inner is not None]
