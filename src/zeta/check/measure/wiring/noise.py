"""Change parameters a little, without a random generator: those of a model, or those that a source computes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.base.modules import parameters_of
from zeta.check.measure.later import instead
from zeta.check.watch.streaming.source import Source
from zeta.check.watch.streaming.stream import forward_only

_GOLDEN_ANGLE: Final = math.pi * (3 - math.sqrt(5))
#: the rms of the change of a parameter that is zero, over the given size
_OF_ZERO: Final = 0.1
# elements that are changed at a time, in fp64
_SPAN: Final = 2**20


def noisy(values: Tensor, size: float) -> Tensor:
    """A copy that requires a gradient as ``values`` does, plus a change of ``size`` times its rms.

    The change is ``cos(k^2 phi)`` of the index ``k``: it repeats nowhere, so that no two units change alike.
    """
    with torch.no_grad():
        moved = _moved(values.detach(), 0, size, _rms(values.detach()))
    return moved.requires_grad_(values.requires_grad)


def _rms(values: Tensor) -> float:
    return float(values.abs().double().square().mean().sqrt()) if values.numel() else 0.0


def _moved(values: Tensor, first: int, size: float, rms: float) -> Tensor:
    """A changed copy of values, of which the first one has the index ``first``."""
    flat = values.reshape(-1)
    moved = torch.empty_like(flat)
    for begin in range(0, len(flat), _SPAN):
        part = flat[begin : begin + _SPAN]
        index = torch.arange(first + begin, first + begin + len(part), device=flat.device, dtype=torch.float64)
        change = torch.cos(index * index * _GOLDEN_ANGLE) * math.sqrt(2) * (size * (rms or _OF_ZERO))
        torch.add(part, change.to(flat.dtype), out=moved[begin : begin + _SPAN])
    return moved.view(values.shape)


class _Noisy(Source):
    """Computes what another source does, and changes some of it."""

    def __init__(self, source: Source, chosen: Collection[int] | None, size: float) -> None:
        super().__init__(source.entries, 0, source.large)
        self._source = source
        self._chosen = chosen
        self._size = size
        self._known: dict[int, float] = {}  #: the rms of large parameters

    def values(self, key: int, dtype: torch.dtype) -> Tensor:
        """As of the other source."""
        values = self._source.values(key, dtype)
        return values if self._stays(key) else noisy(values, self._size)

    def rows(self, key: int, dtype: torch.dtype, first: int, last: int) -> Tensor:
        """As of the other source."""
        rows = self._source.rows(key, dtype, first, last)
        if self._stays(key):
            return rows
        if key not in self._known:
            squares = (self._source.rows(key, dtype, *span).double().square().sum() for span in self.spans(key))
            self._known[key] = math.sqrt(float(sum(squares)) / max(1, self.entries[key].numel))
        return _moved(rows, first * (rows.numel() // len(rows)), self._size, self._known[key])

    def forget(self) -> None:
        """As of the other source."""
        self._source.forget()

    def _stays(self, key: int) -> bool:
        return self._chosen is not None and key not in self._chosen


@contextlib.contextmanager
def changing(model: nn.Module, source: Source, size: float, chosen: Collection[int] | None = None) -> Iterator[None]:
    """Temporarily change parameters, those of the model and those that a source computes.

    Args:
        model: the model.
        source: computes its parameters that are on meta.
        size: the rms of each change, over that of the parameter.
        chosen: the ``id`` of those that change; all by default.
    """
    held = (one for one in parameters_of(model) if not source.has(one))
    others: dict[int, Any] = {id(one): noisy(one, size) for one in held if chosen is None or id(one) in chosen}
    with instead(model, others), forward_only(_Noisy(source, chosen, size)).running():
        yield
