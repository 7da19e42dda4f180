"""Measure parameters that are computed one at a time, each when its gradient arrives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from zeta.base.language.state import outside_of_modes
from zeta.check.facts.evidence import Reading, Subject
from zeta.check.measure.duplicates import Both, Tiles
from zeta.check.measure.readings import bias_name, reading, unread
from zeta.check.measure.steps import Steps
from zeta.check.measure.tensors import values_of
from zeta.check.watch.streaming.gradients import Whole
from zeta.check.watch.streaming.picks import Picks
from zeta.check.watch.streaming.source import Source


class _InTiles:
    """The values and the gradient of a large parameter, some rows at a time."""

    def __init__(
        self,
        one: Subject,
        source: Source,
        gradient: Whole | None,
        picked: Sequence[tuple[int, int]] | None,
        steps: Steps | None,
    ) -> None:
        self._one = one
        self._steps = steps
        self._source = source
        self._gradient = gradient
        self._picked = picked

    @property
    def numel(self) -> int:
        """As the protocol says."""
        tensor = self._one.slot.tensor
        if self._picked is None:
            return tensor.numel()
        return sum(last - first for first, last in self._picked) * (tensor.numel() // len(tensor))

    def tiles(self) -> Iterator[tuple[int, Tensor, Tensor | None]]:
        """As the protocol says."""
        tensor = self._one.slot.tensor
        for first, last in self._source.spans(id(tensor), self._picked):
            values = self._source.rows(id(tensor), tensor.dtype, first, last)
            gradient = None if self._gradient is None else self._gradient.rows(values, first)
            yield first, values, gradient
            if self._steps is not None:
                self._steps.take(self._one, values, gradient)
        self._steps = None  # which saw all tiles


class Arriving:
    """The readings of the parameters of a source. A gradient is dropped when nothing waits for it any more.

    A weight is measured together with the bias of its units, so it waits for the bias's gradient.

    Args:
        subjects: all tensors of the model.
        source: computes some of them.
        tolerance: as for ``units_of``.
        picks: which rows were used. Of stacked experts, only those are computed.
        steps: takes the first step of each parameter, with an optimizer.
    """

    def __init__(
        self, subjects: Sequence[Subject], source: Source, tolerance: float, picks: Picks, steps: Steps | None = None
    ) -> None:
        self._steps = steps
        self.readings: dict[str, Reading] = {}
        self._source = source
        self._tolerance = tolerance
        self._picks = picks
        self._mine = {id(one.slot.tensor): one for one in subjects if source.has(one.slot.tensor)}
        by_name = {one.name: one for one in subjects}
        partners = {one.name: by_name.get(bias_name(one) or "") for one in self._mine.values()}
        self._bias = {name: bias for name, bias in partners.items() if bias is not None}
        self._weights: dict[str, list[Subject]] = {}  #: by the name of their bias
        for one in self._mine.values():
            if one.name in self._bias:
                self._weights.setdefault(self._bias[one.name].name, []).append(one)
        self._gradients: dict[str, Tensor | Whole] = {}

    def take(self, key: int, gradient: Tensor | Whole) -> None:
        """Measure what has all gradients that it needs now."""
        one = self._mine[key]
        self._gradients[one.name] = gradient
        for subject in (one, *self._weights.get(one.name, ())):
            bias = self._bias.get(subject.name)
            if subject.name in self._gradients and (bias is None or not bias.trainable or bias.name in self._gradients):
                self._measure(subject)
        for name in (one.name, *(weight.name for weight in self._weights.get(one.name, ())), self._bias_of(one)):
            waiting = [weight for weight in self._weights.get(name, ()) if weight.name not in self.readings]
            if name in self.readings and not waiting:
                self._gradients.pop(name, None)

    def finish(self, used: frozenset[int], gradients: Mapping[int, Tensor]) -> None:
        """Measure those whose gradient did not come, if a call used them. The others are not computed at all.

        Args:
            used: the ``id`` of each parameter that a call took.
            gradients: those of tensors in memory, by ``id``.
        """
        for key, one in self._mine.items():
            if one.name in self.readings:
                continue
            bias = self._bias.get(one.name)
            if bias is not None and id(bias.slot.tensor) in gradients:
                self._gradients[bias.name] = gradients[id(bias.slot.tensor)]
            if key in used:
                self._measure(one)
            else:
                self.readings[one.name] = unread(one)
        self._gradients.clear()

    def _bias_of(self, one: Subject) -> str:
        return self._bias[one.name].name if one.name in self._bias else ""

    def _measure(self, one: Subject) -> None:
        bias = self._bias.get(one.name)
        with outside_of_modes():  # each of them looks at every operation
            tiles = self._tiles(one)
            self.readings[one.name] = reading(
                one, tiles, None if bias is None else self._both(bias), None, self._tolerance
            )
            if self._steps is not None and isinstance(tiles, Both):
                self._steps.take(one, tiles.values, tiles.gradient)

    def _tiles(self, one: Subject) -> Tiles:
        if id(one.slot.tensor) not in self._source.large:
            return self._both(one)
        gradient = self._gradients.get(one.name)
        assert not isinstance(gradient, Tensor)
        experts = one.axes is not None and 0 in one.axes.batch
        picked = self._picks.of(id(one.slot.tensor)) if experts else None
        return _InTiles(one, self._source, gradient, picked, self._steps)

    def _both(self, one: Subject) -> Both:
        gradient = self._gradients.get(one.name)
        assert gradient is None or isinstance(gradient, Tensor)
        return Both(values=values_of(one, self._source), gradient=gradient)
