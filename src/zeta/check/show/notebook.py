"""Results in a notebook: the verdict, tables of findings, layers and parameters that fold, pictures of findings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from zeta.base import html
from zeta.base.text import count_text, number_text, shape_text
from zeta.check.facts.places import consequences_text, findings_by_layer, where
from zeta.check.facts.results import Parameter, Results
from zeta.check.show.pictures.choosing import pictures
from zeta.check.show.terminal import MARK, facts, opening, remarks, summary

_LAYERS: Final = ("layer", "kind", "output (rms)", "gradient (rms)", "findings")
_PARAMETERS: Final = ("name", "shape", "initializer", "planned std", "std", "gradient (rms)", "zeros")


def fragment(results: Results) -> str:
    """The results as HTML for the output of a cell."""
    findings = [(MARK[found.severity], found) for found in results.findings]
    rows = [
        (
            f"{mark} {one.rule.id}",
            one.rule.name,
            where(one),
            ". ".join(filter(None, (one.message, consequences_text([one])))),
            one.advice,
        )
        for mark, one in findings
    ]
    layers, parameters = list(_layers(results)), [_parameter(one) for one in results.parameters]
    return html.page(
        html.lines([summary(results)], bold=True),
        html.lines([opening(results), *facts(results)]),
        html.table_section("findings", ("severity", "rule", "where", "what", "advice"), rows) if rows else "",
        html.figures(
            (f"{MARK[found.severity]} {found.rule.id} {found.rule.name}", svg)
            for found, svg in ((results.findings[first], svg) for first, svg in pictures(results).items())
        ),
        html.table_section(count_text(len(layers), "layer"), _LAYERS, layers, right=_LAYERS[2:4], unfolded=False),
        html.table_section(
            f"{len(parameters):,} parameters and buffers",
            _PARAMETERS,
            parameters,
            right=_PARAMETERS[3:],
            unfolded=False,
        ),
        html.lines(remarks(results)),
    )


def _layers(results: Results) -> Iterator[tuple[str, ...]]:
    found = findings_by_layer(results)
    for layer in results.layers:
        rules = dict.fromkeys(f"{MARK[one.severity]} {one.rule.id}" for one in found[layer.name])
        gradient = "" if layer.gradient is None else number_text(layer.gradient.rms)
        yield layer.name, layer.kind, number_text(layer.output.rms), gradient, ", ".join(rules)


def _parameter(one: Parameter) -> tuple[str, ...]:
    return (
        one.name,
        shape_text(one.shape),
        one.initializer or "",
        number_text(one.planned_std),
        number_text(one.values.std),
        "" if one.gradient is None else number_text(one.gradient.rms),
        f"{one.values.zeros:.0%}",
    )
