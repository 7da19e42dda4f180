"""Results as text: the verdict, the findings (worst first), and the layers with small bars.

It has 80 columns; in a wider terminal, the names of layers get the room. There are no colours.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Final

from zeta.base.escaping import visible
from zeta.base.names import short_name
from zeta.base.text import count_text, fold, number_text, range_text, table
from zeta.check.facts.places import SEVERITIES, consequences_text, counts_text, findings_by_layer, where, worst
from zeta.check.facts.results import Finding, Layer, Results, Severity, Slope

WIDTH: Final = 80
#: the most findings of one severity that are shown, after equal ones were joined
MOST_FINDINGS: Final = 20
#: the most layers that are shown; if there are more, the worst ones and some evenly spaced ones
MOST_LAYERS: Final = 32

_BAR: Final = 6
_EIGHTHS: Final = " ▏▎▍▌▋▊▉"
_DECADES: Final = 2.0  # a scale spans at least this many decades, or small differences would look large
#: cells of a layer's name, in 80 columns
_NAME: Final = 30
_LONGEST_FOLD: Final = 200
#: the mark between a name and the number of a further use, and what it is while names are joined, part by part
_USE: Final = re.compile(r"#(?=\d+$)")
_APART: Final = "\0#."
#: how a severity is written
MARK: Final = {Severity.FAIL: "FAIL", Severity.WARN: "WARN", Severity.NOTE: "note"}


def text(results: Results, width: int | None = None) -> str:
    """The results for a log, or a terminal of this width: verdict, findings, layers."""
    names = _NAME + max((width or 0) - WIDTH, 0)
    parts = [
        _verdict(results),
        _findings(results.findings),
        _layers(results, names),
        _coordinates(results, width),
        _footer(results),
    ]
    return "\n\n".join(part for part in parts if part)


def brief(results: Results) -> str:
    """Verdict and findings only."""
    return "\n\n".join(part for part in (_verdict(results), _findings(results.findings)) if part)


def summary(results: Results) -> str:
    """One line: the verdict and the number of findings."""
    verdict = "can learn from here" if results.ok else "cannot learn from here as it is"
    return f"{visible(results.model)} {verdict}: {counts_text(results.findings)}"


def opening(results: Results) -> str:
    """A sentence for a beginner: what the verdict means, and where to begin."""
    if not results.ok:
        return (
            "From these starting values the network, or a part of it, would not learn. Begin with the first finding "
            "below: it says where, why, and what to do."
        )
    if any(finding.severity is Severity.WARN for finding in results.findings):
        return (
            "The network can learn from these starting values, but worse or more slowly than it could. The findings "
            "below say where."
        )
    return "Nothing that was looked at keeps the network from learning from these starting values."


def facts(results: Results) -> list[str]:
    """What was measured, and the loss: one line each."""
    counted = [
        count_text(len(results.layers), "layer"),
        f"{len(results.parameters):,} parameters and buffers",
        f"{results.level} level on {results.device}",
        *([] if results.seed is None else [f"seed {results.seed}"]),
        f"{results.seconds:.2g} s",
    ]
    lines = [", ".join(counted)]
    loss = results.loss
    if loss is not None:
        parts = [f"loss {number_text(loss.value)}"]
        if loss.chance is not None:
            parts.append(f"chance level ln({loss.classes:,}) = {number_text(loss.chance)}")
        if loss.spread is not None:
            parts.append(f"the spread of the logits adds {number_text(loss.spread)}")
        lines.append(", ".join(parts))
    return lines


def _verdict(results: Results) -> str:
    return "\n".join(line for whole in (summary(results), *facts(results)) for line in _wrapped(whole))


def _findings(findings: Sequence[Finding]) -> str:
    blocks = []
    for severity in SEVERITIES:
        groups = list(_folded(finding for finding in findings if finding.severity is severity))
        blocks += [_block(severity, name, members) for name, members in groups[:MOST_FINDINGS]]
        left = [len(members) for _, members in groups[MOST_FINDINGS:]]
        if left:
            blocks.append(f"{MARK[severity]} and {sum(left):,} more; the JSON and the HTML have all of them")
    return "\n\n".join(blocks)


def _folded(findings: Iterable[Finding]) -> Iterator[tuple[str, list[Finding]]]:
    """Join findings of one rule at places whose names differ only in numbers, further uses of a module included."""
    named: list[tuple[str, Hashable, Finding]] = [
        (_USE.sub(_APART, where(found)), (found.rule.id, found.advice), found) for found in findings
    ]
    for apart, members in fold(named):
        name = apart.replace(_APART, "#")
        if len(members) > 1 and len(name) > _LONGEST_FOLD:
            name = where(members[0])
        elif len(members) > 1:
            name = name.replace(",", ", ")  # lines may break at the spaces
        yield visible(name), members


def _block(severity: Severity, name: str, members: Sequence[Finding]) -> str:
    first = members[0]
    places = "" if len(members) == 1 else f" ({len(members):,} places)"
    heading = f"{MARK[severity]} {first.rule.id} {visible(first.rule.name)}  {name}{places}"
    message = first.message if len(members) == 1 else f"{where(first)}: {first.message}"
    return "\n".join(
        [
            *_wrapped(heading, later="     "),
            *_wrapped(visible(message), first="     ", later="     "),
            *_wrapped(visible(consequences_text(members)), first="     ", later="     "),
            *_wrapped(visible(first.advice), first="     -> ", later="        "),
        ]
    )


def _wrapped(line: str, first: str = "", later: str = "  ") -> list[str]:
    """Lines of at most 80 characters; a longer name is not broken, so that it can be copied."""
    return textwrap.wrap(
        line, WIDTH, initial_indent=first, subsequent_indent=later, break_long_words=False, break_on_hyphens=False
    )


# -- the layers --------------------------------------------------------------------------------------------------------


def _layers(results: Results, longest: int) -> str:
    """The table of the layers, whose names have at most ``longest`` cells."""
    if not results.layers:
        return ""
    found = findings_by_layer(results)
    outputs = _Scale(layer.output.rms for layer in results.layers)
    gradients = _Scale(layer.gradient.rms for layer in results.layers if layer.gradient is not None)
    rows = []
    for run in _runs(results.layers, found):
        findings = [finding for layer in run for finding in found[layer.name]]
        severity = worst(findings)
        rules = sorted({finding.rule.id for finding in findings if finding.severity is severity})
        rows.append(
            (
                short_name(visible(run[0].name), longest) if len(run) == 1 else f"  ... {len(run):,} layers",
                outputs.cell([layer.output.rms for layer in run]),
                gradients.cell([layer.gradient.rms for layer in run if layer.gradient is not None]),
                "" if severity is None else f"{MARK[severity]} {rules[0]}{'+' if len(rules) > 1 else ''}",
            )
        )
    return table(("layer", " output (rms)", " gradient (rms)", "finding"), rows)


def _runs(layers: Sequence[Layer], found: dict[str, list[Finding]]) -> Iterator[list[Layer]]:
    """The layers in order: each chosen one separately, and the others between them as runs."""
    alone = _chosen(layers, found)
    run: list[Layer] = []
    for number, layer in enumerate(layers):
        if number not in alone:
            run.append(layer)
            continue
        if run:
            yield run
            run = []
        yield [layer]
    if run:
        yield run


def _chosen(layers: Sequence[Layer], found: dict[str, list[Finding]]) -> set[int]:
    """The layers to show: all if there are few; else the first and last, the worst, and some evenly spaced ones."""
    if len(layers) <= MOST_LAYERS:
        return set(range(len(layers)))
    half = MOST_LAYERS // 2
    last = len(layers) - 1
    spaced = {round(i * last / (half // 2 - 1)) for i in range(half // 2)}
    seen: Counter[str] = Counter()
    urgent: dict[int, tuple[int, int]] = {}  # severity, then the number of earlier layers with the same rule
    for number, layer in enumerate(layers):
        for finding in found[layer.name]:
            if finding.severity is not Severity.NOTE:
                rank = (SEVERITIES.index(finding.severity), seen[finding.rule.id])
                urgent[number] = min(urgent.get(number, rank), rank)
        seen.update({finding.rule.id for finding in found[layer.name]})
    ordered = sorted(urgent, key=lambda number: (*urgent[number], number))
    return spaced | set(ordered[:half])


class _Scale:
    """A logarithmic scale over all positive finite values."""

    def __init__(self, values: Iterable[float]) -> None:
        logs = [math.log10(value) for value in values if 0 < value < math.inf]
        middle = (min(logs) + max(logs)) / 2 if logs else 0.0
        self.reach = max(max(logs) - min(logs), _DECADES) if logs else _DECADES
        self.low = middle - self.reach / 2

    def cell(self, values: Sequence[float]) -> str:
        """One value with its bar, or the range of several values."""
        if not values:
            return f"{'none':>7}"
        low, high = _number(min(values)), _number(max(values))
        if any(map(math.isnan, values)):
            return f"{'nan':>7}{'' if len(values) == 1 else ' and numbers'}"
        return (
            f"{low:>7} {self._bar(values[0])}"
            if len(values) == 1
            else f"{low:>7}" + (f"..{high}" if high != low else "")
        )

    def _bar(self, value: float) -> str:
        """The bar of a value: empty for 0, full for infinity, else at least an eighth of a character."""
        if value == 0:
            return ""
        part = 1.0 if value == math.inf else (math.log10(value) - self.low) / self.reach
        eighths = max(1, round(part * _BAR * 8))
        return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


def _number(value: float) -> str:
    """Two digits, in at most six characters."""
    if 10 <= value < 99_999.5:
        return f"{value:.0f}"
    return f"{value:.2g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")


# -- coordinates -------------------------------------------------------------------------------------------------------


def _over(results: Results, factory: str) -> str:
    """What the exponents of one factory are of."""
    over = range_text(float(point.size) for point in results.points if point.factory == factory)
    return f"Outputs over {factory} {over}: their rms grows as {factory}^exponent, of each class the mean of its layers"


def _coordinates(results: Results, width: int | None) -> str:
    """The exponents of each class over width and depth, at the start and after some of the steps."""
    parts = []
    for factory in dict.fromkeys(slope.factory for slope in results.slopes):
        members = [slope for slope in results.slopes if slope.factory == factory]
        last = min(len(one.exponents) for one in members) - 1
        steps = sorted({step for step in (0, 1, last // 2, last) if 0 <= step <= last})
        after = [f"step {step}" if step else "start" for step in steps]
        rows = [
            (one.group, f"{one.layers:,}", *(_exponent(one.exponents[step]) for step in steps), _verdict_of(one))
            for one in members
        ]
        shown = table(
            ["class", "layers", *after, "verdict"],
            rows,
            right=["layers", *after],
            width=max(width or 0, WIDTH),
        )
        parts.append("\n".join([*_wrapped(_over(results, factory)), shown]))
    return "\n\n".join(parts)


def _exponent(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:+.2f}"


def _verdict_of(slope: Slope) -> str:
    """``flat``, ``shrinks``, or which layer grows."""
    if slope.verdict != "grows":
        return slope.verdict
    when = "at the start" if slope.step == 0 else f"at step {slope.step}"
    return f"grows: {visible(short_name(slope.layer, _NAME))} {slope.steepest:+.2f} {when}"


# -- the rest ----------------------------------------------------------------------------------------------------------


def _footer(results: Results) -> str:
    return "\n".join(line for whole in remarks(results) for line in _wrapped(whole))


def remarks(results: Results) -> list[str]:
    """What was suppressed, not applied or measured in part: one line each."""
    lines = []
    if results.suppressed:
        lines.append(f"{counts_text(results.suppressed)} suppressed")
    for reason in dict.fromkeys(why for _, why in results.skipped):
        rules = dict.fromkeys(rule for rule, why in results.skipped if why == reason)
        lines.append(f"{', '.join(rules)} not applied: {visible(reason)}")
    lines += [visible(remark) for remark in results.sampled]
    return lines
