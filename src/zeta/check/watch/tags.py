"""Facts about activations during the forward pass, stored by weak reference to the tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary


@dataclass(frozen=True, kw_only=True)
class Tag:
    """``unit``: the dimension of its units; ``scores``: whether it is a product of two activations."""

    unit: int | None = None
    scores: bool = False


_NOTHING: Final = Tag()


class Tags:
    """The tags of living tensors."""

    def __init__(self) -> None:
        self._known: Any = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Tag:
        """The tag, or an empty one."""
        found: Tag = self._known.get(tensor, _NOTHING)
        return found

    def mark(self, tensor: Tensor, *, unit: int | None = None, scores: bool | None = None) -> None:
        """Add facts to a tensor's tag."""
        known = self.of(tensor)
        self._known[tensor] = replace(
            known, unit=known.unit if unit is None else unit, scores=known.scores if scores is None else scores
        )

    def hand_on(self, source: Tensor, result: Tensor) -> None:
        """Copy the tag of an operation's input to its result, if the shape is the same."""
        tag = self._known.get(source)
        if tag is not None and result is not source and result.shape == source.shape and result not in self._known:
            self._known[result] = tag

    def unit_of(self, tensor: Tensor) -> int | None:
        """The dimension of a tensor's units: as marked, else by ``usual_unit``."""
        unit = self.of(tensor).unit
        marked = unit is not None and tensor.ndim >= 2 and unit < tensor.ndim
        return unit if marked else usual_unit(tensor)


def usual_unit(tensor: Tensor) -> int | None:
    """The channels of images, else the last dimension; ``None`` for tensors of at most one dimension."""
    if tensor.ndim < 2:
        return None
    return 1 if tensor.ndim in (4, 5) else tensor.ndim - 1
