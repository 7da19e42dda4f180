"""What was found, as Markdown pages."""

from __future__ import annotations

import collections
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.sources import Source


@dataclass(kw_only=True)
class Result:
    """What came of one model."""

    name: str
    model: str = ""
    outcome: str = "not built"
    parameters: int = 0
    buffers: int = 0
    programs: int = 0
    computed: int = 0
    equal: int = 0
    close: int = 0
    twin: str = "too large"
    smaller: str = ""
    seconds: float = 0.0
    why: str = ""


def _short(text: str, most: int) -> str:
    """One line of a table's cell, without paths of the machine."""
    text = re.sub(r"/\S*/site-packages/", "", re.sub(r"\s+", " ", text))
    return text.replace("|", "\\|")[:most]


def page(of: Source, results: Sequence[Result], most: int) -> str:
    """All results of a source."""
    built = [r for r in results if r.outcome != "not built"]
    count = collections.Counter(r.outcome for r in results)
    recorded = [r for r in built if r.outcome not in ("failed", "no values")]
    complete = len(recorded)
    twins = [r for r in recorded if r.twin != "too large"]
    nothing = [
        f"- {count['no values']} have tensors to which the constructor gives no value: they are lazy, or memory that "
        "is never written;"
    ] * bool(count["no values"])
    lines = [
        f"# {of.title}",
        "",
        f"{of.what} under torch {torch.__version__.partition('+')[0]}, recorded by `zeta.record`.",
        "Written by `benchmarks/architectures.py`." + (f" {of.limits[0].upper()}{of.limits[1:]}" if of.limits else ""),
        "",
        f"- {len(results)} {plural(of.noun)}, of which {len(built)} can be built without files or further packages;",
        f"- {complete} ({complete / max(len(built), 1):.1%}) record completely: every parameter and buffer has "
        "an entry;",
        f"- {count['recognized']} with known initializers for everything random, {count['program']} with programs for "
        "some of it;",
        *nothing,
        f"- {count['failed']} fail;",
        _values(recorded, twins, most),
        "",
        f"| {of.noun} | class | outcome | values | parameters | buffers | random programs | computed | seconds | |",
        "|---|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    lines += [
        f"| {r.name} | {r.model} | {r.outcome} | {_value(r)} | {r.parameters} | {r.buffers} | {r.programs} "
        f"| {r.computed} | {r.seconds:.2f} | {_short(r.why, 300)} |"
        for r in built
    ]
    rest = [r for r in results if r.outcome == "not built"]
    if of.unbuilt and rest:
        lines += ["", "What cannot be built:", "", f"| {of.noun} | why |", "|---|---|"]
        lines += [f"| {r.name} | {_short(r.why, 160)} |" for r in rest]
    return "\n".join([*lines, ""])


def _values(recorded: Sequence[Result], twins: Sequence[Result], most: int) -> str:
    """How many values were compared."""
    smaller = sum(bool(r.smaller) for r in twins)
    large = len(recorded) - len(twins)
    sentences = [
        f"- the values of {len(twins)} were computed and compared with a real construction on the same draws: "
        f"{sum(r.twin == 'equal' for r in twins)} are equal in every parameter and buffer.",
        f"{smaller} of them have more than {most:,} elements: smaller ones were compared." * (smaller > 0),
        f"{large} are too large, and were not compared." * (large > 0),
        f"{sum(r.equal for r in twins):,} tensors are equal bit by bit, {sum(r.close for r in twins):,} within the "
        "rounding of a law that replaced a formula.",
    ]
    return " ".join(filter(None, sentences))


def _value(result: Result) -> str:
    return result.twin[:80] + (f" ({result.smaller}, smaller)" if result.smaller else "")


def plural(noun: str) -> str:
    """More of them."""
    return noun + ("es" if noun.endswith("s") else "s")


def noted(of: Source, results: Sequence[Result], table: Path) -> None:
    """Put the counts of a source into the table of ``docs/libraries.md``."""
    index = table.parent.with_suffix(".md")
    built = [r for r in results if r.outcome != "not built"]
    recorded = [r for r in built if r.outcome not in ("failed", "no values")]
    twins = [r for r in recorded if r.twin != "too large"]
    name = f"| [{of.title}](libraries/{table.name}) |"
    counts = (
        len(results), len(built), len(recorded), len(twins),
        sum(r.twin == "equal" for r in twins), sum(r.equal for r in twins), sum(r.close for r in twins),
    )  # fmt: skip
    row = f"{name} {' | '.join(f'{n:,}' for n in counts)} |"
    lines = index.read_text(encoding="utf-8").splitlines()
    at = next((i for i, line in enumerate(lines) if line.startswith(name)), None)
    if at is None:
        lines.insert(max(i for i, line in enumerate(lines) if line.startswith("|")) + 1, row)
    else:
        lines[at] = row
    index.write_text("\n".join([*lines, ""]), encoding="utf-8")
