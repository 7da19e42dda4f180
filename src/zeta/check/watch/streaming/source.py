"""The values of parameters that are on meta, computed from a plan whenever they are asked for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor

from zeta.base.process.available import return_freed
from zeta.compute.stream.regions import Region
from zeta.compute.values import computed
from zeta.resolve.plans import Entry

#: where values are computed
DEVICE: Final = torch.device("cpu")
#: why a rule is not applied where parameters are computed one at a time, and what to do
IN_MEMORY: Final = "they were computed one at a time; pass streamed=False for a model that fits in memory"
# elements; smaller ones are computed again, so that a bias does not take the place of its weight
_LARGE: Final = 2**16
# bytes of values after which memory that was freed is returned to the system
_RETURN: Final = 2**27
# elements of a large parameter that are computed at a time
_SPAN: Final = 2**22


class Source:
    """Computes parameters, and keeps the last one: a backward pass asks for the values twice, and then measures them.

    Args:
        entries: the planned parameters, by the ``id`` of their tensors on meta.
        seed: of the plan.
        large: those of which some rows are computed at a time, wherever an operation allows it.
    """

    def __init__(self, entries: Mapping[int, Entry], seed: int, large: frozenset[int] = frozenset()) -> None:
        self.entries = entries
        self.large = large
        self._seed = seed
        self._passed = 0  #: bytes that were computed since memory was returned
        self._last: tuple[int, Tensor, int] | None = None

    def has(self, value: object) -> bool:
        """Whether ``value`` is one of the parameters."""
        return id(value) in self.entries and isinstance(value, Tensor) and value.is_meta

    def of(self, tensor: Tensor) -> Tensor:
        """The values of one of the parameters; any other tensor as it is."""
        return self.values(id(tensor), tensor.dtype) if self.has(tensor) else tensor

    def values(self, key: int, dtype: torch.dtype) -> Tensor:
        """The values of a parameter; not to be written to."""
        if self._last is not None and self._last[0] == key and self._last[1]._version == self._last[2]:
            return self._last[1].detach()
        entry = self.entries[key]
        large = entry.numel >= _LARGE
        if large:
            self._last = None  # its memory first
        values = self._computed(entry, dtype, None)
        if large:
            self._last = key, values, values._version
        return values.detach()

    def rows(self, key: int, dtype: torch.dtype, first: int, last: int) -> Tensor:
        """The values from one row along dimension 0 to another."""
        entry = self.entries[key]
        region = Region.whole(entry.shape).within(0, first, last)
        return self._computed(entry, dtype, region)

    def spans(self, key: int, picked: Sequence[tuple[int, int]] | None = None) -> Iterator[tuple[int, int]]:
        """The rows of a parameter that are computed at a time, first and last: of all rows, or of those ``picked``."""
        shape = self.entries[key].shape
        step = max(1, _SPAN // max(1, math.prod(shape[1:]))) if key in self.large else shape[0]
        for begin, end in picked or [(0, shape[0])]:
            yield from ((first, min(first + step, end)) for first in range(begin, end, step))

    def _computed(self, entry: Entry, dtype: torch.dtype, region: Region | None) -> Tensor:
        with torch.no_grad():
            values = computed(entry, self._seed, region=region, dtype=dtype, device=DEVICE)
        self._passed += values.nbytes
        if self._passed > _RETURN:
            self._passed = 0
            return_freed()
        return values

    def forget(self) -> None:
        """Free the last values."""
        self._last = None


#: of a model in memory
NOTHING: Final = Source({}, 0)
