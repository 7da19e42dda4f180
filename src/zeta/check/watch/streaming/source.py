"""The values of parameters that are on meta, computed from a plan whenever they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from zeta.compute.values import computed
from zeta.resolve.plans import Entry

#: where values are computed
DEVICE: Final = torch.device("cpu")
# elements; smaller ones are computed again, so that a bias does not take the place of its weight
_LARGE: Final = 2**16


class Source:
    """Computes parameters, and keeps the last one: a backward pass asks for the values twice, and then measures them.

    Args:
        entries: the planned parameters, by the ``id`` of their tensors on meta.
        seed: of the plan.
    """

    def __init__(self, entries: Mapping[int, Entry], seed: int) -> None:
        self.entries = entries
        self._seed = seed
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
        with torch.no_grad():
            values = computed(entry, self._seed, dtype=dtype, device=DEVICE)
        if large:
            self._last = key, values, values._version
        return values.detach()

    def forget(self) -> None:
        """Free the last values."""
        self._last = None


#: of a model in memory
NOTHING: Final = Source({}, 0)
