"""Memory that a recorded tensor shares with NumPy or a Python buffer: writes from outside are detected and recorded."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.language.state import outside_of_modes
from zeta.errors import RecordingError, ZetaNotice
from zeta.resolve.recording.sources import Source, source_here
from zeta.resolve.recording.tracing.graph import Graph, Node, concrete


class Lent:
    """One such memory, with a copy of its content at the last check."""

    def __init__(self, *, twin: Tensor, real: Tensor, node: Node, source: Source | None) -> None:
        self.twin, self.real, self.source = twin, real, source
        self.seen = real.clone()
        self.node = node


class Lending:
    """All such memories of one recording."""

    def __init__(self, graph: Graph, data: Callable[[Tensor], Node]) -> None:
        self._graph = graph
        self._data = data
        self._lent: list[Lent] = []

    def note(self, twin: Tensor, real: Tensor) -> None:
        """Register ``real``, the memory of ``twin``, to which code outside of torch may write."""
        with outside_of_modes():
            node = self._graph.cell(twin).node
            self._lent.append(Lent(twin=twin, real=real, node=node, source=source_here()))

    def settle(self) -> None:
        """Synchronize: record writes from outside, and copy torch's writes to the shared memory.

        Raises ``RecordingError`` if both wrote to the same memory, because their order is unknown.
        """
        if not self._lent:
            return
        with outside_of_modes():
            for lent in list(self._lent):
                outside = not torch.equal(dtypes.bits(lent.real), dtypes.bits(lent.seen))
                inside = self._graph.cell(lent.twin).node is not lent.node
                if outside and inside:
                    raise RecordingError(
                        f"{lent.source}: memory that NumPy or another library shares was written to there, and by "
                        "torch; which came last is not recordable. Write to it by one of them, or copy it"
                    )
                if outside:
                    self._graph.write(lent.twin, self._data(lent.real), lent.source)
                elif inside:
                    self._write_through(lent)
                if outside or inside:
                    lent.seen, lent.node = lent.real.clone(), self._graph.cell(lent.twin).node

    def _write_through(self, lent: Lent) -> None:
        try:
            lent.real.copy_(concrete(self._graph.read(lent.twin), "it"))
        except RecordingError as error:
            self._lent.remove(lent)
            warnings.warn(
                f"{lent.source}: memory that NumPy or another library shares keeps what it had: {error}. What is made "
                "of it there is not what the constructor would make",
                ZetaNotice,
                stacklevel=2,
            )
