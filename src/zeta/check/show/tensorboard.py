"""Write results to TensorBoard, with torch's ``SummaryWriter``."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Protocol

from zeta.check.facts.places import counts
from zeta.check.facts.results import Results, Stats
from zeta.check.show.terminal import text


class SummaryWriterLike(Protocol):
    """The methods of ``torch.utils.tensorboard.SummaryWriter`` that are used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Log a number."""

    def add_text(self, tag: str, text_string: str, global_step: int | None = None) -> None:
        """Log a text in Markdown."""

    def add_histogram_raw(
        self,
        tag: str,
        min: float,  # noqa: A002 - the names are torch's
        max: float,  # noqa: A002
        num: int,
        sum: float,  # noqa: A002
        sum_squares: float,
        bucket_limits: list[float],
        bucket_counts: list[int],
        global_step: int | None = None,
    ) -> None:
        """Log a histogram by its buckets: the upper edge of each, and the number of values in it."""


def log_to(results: Results, writer: SummaryWriterLike, step: int = 0) -> None:
    """Log the findings as text, the measurements of each layer and parameter as scalars, and their histograms.

    The tags start with ``zeta``, then the quantity, then the layer or parameter: ``zeta output rms/blocks.0.fc1``.
    """
    writer.add_text("zeta/check", textwrap.indent(text(results), "    ", lambda line: True), global_step=step)
    for tag, value in _scalars(results):
        writer.add_scalar(tag, value, global_step=step)
    for tag, stats in _stats(results):
        _add_histogram(writer, tag, stats, step)


def _scalars(results: Results) -> Iterator[tuple[str, float]]:
    for severity, number in counts(results.findings).items():
        yield f"zeta/{severity.value}", number
    if results.loss is not None:
        yield "zeta/loss", results.loss.value
        if results.loss.chance is not None:
            yield "zeta/loss at chance level", results.loss.chance
        if results.loss.expected is not None:
            yield "zeta/loss for random labels", results.loss.expected
    for layer in results.layers:
        measured = {
            "output rms": layer.output.rms,
            "gradient rms": None if layer.gradient is None else layer.gradient.rms,
            "factor": layer.factor,
            "dead": layer.dead,
            "saturated": layer.saturated,
            "entropy": layer.entropy,
            "largest logit": layer.largest_logit,
        }
        yield from ((f"zeta {name}/{layer.name}", value) for name, value in measured.items() if value is not None)
    for parameter in results.parameters:
        measured = {
            "std": parameter.values.std,
            "planned std": parameter.planned_std,
            "differing units": None if parameter.distinct is None else float(parameter.distinct),
            "first step": parameter.update,
        }
        yield from ((f"zeta {name}/{parameter.name}", value) for name, value in measured.items() if value is not None)


def _stats(results: Results) -> Iterator[tuple[str, Stats]]:
    for layer in results.layers:
        yield f"zeta output/{layer.name}", layer.output
        if layer.gradient is not None:
            yield f"zeta gradient/{layer.name}", layer.gradient
    for parameter in results.parameters:
        yield f"zeta values/{parameter.name}", parameter.values


def _add_histogram(writer: SummaryWriterLike, tag: str, stats: Stats, step: int) -> None:
    histogram = stats.histogram
    if histogram is None or not sum(histogram.counts):
        return
    bins = len(histogram.counts)
    width = (histogram.high - histogram.low) / bins
    counted = sum(histogram.counts)
    writer.add_histogram_raw(
        tag,
        min=stats.low,
        max=stats.high,
        num=counted,
        sum=stats.mean * counted,
        sum_squares=(stats.mean * stats.mean + stats.std * stats.std) * counted,
        # an empty bucket first, because each bucket begins where the one before it ends
        bucket_limits=[histogram.low + i * width for i in range(bins + 1)],
        bucket_counts=[0, *histogram.counts],
        global_step=step,
    )
