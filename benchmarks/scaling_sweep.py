"""Scale every type of transformers to twice its widths on meta, and write a page with the outcomes.

    python -m benchmarks.scaling_sweep [--only NAME ...] [--seconds 60] [--json FILE]
        [--table docs/scaling-architectures.md]

Each type is a model of two layers with its default widths, and one with all widths and numbers of heads doubled; see
``benchmarks/sources/transformers_wide.py``. ``zeta.scale`` gives a table or raises a ``ZetaError``; anything else is a
fault, and the script ends with an error after the page is written. Each type has a process with limits on time and
memory. With ``--json``, what the file has already is not done again.
"""

from __future__ import annotations

import collections
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import transformers

import zeta
from benchmarks.limited import arguments, limited, quiet, said, swept
from benchmarks.sources import source
from benchmarks.sources.transformers_small import has_model
from benchmarks.sources.transformers_wide import family
from tests.scaling.class_truth import CLASSES, classes_of_both, on_meta

#: how much memory a type may hold
_GIB: Final = 6

#: what an error is about, by a part of its message
KINDS: Final[Mapping[str, str]] = {
    "class of these parameters does not follow": "a class does not follow: `roles=` says it",
    "the size of its heads does not follow": "the size of heads does not follow: `head_dim=` says it",
    "where to multiply in the forward pass": "no place for a multiplier",
    "shrinks from base to target": "a dimension shrinks",
    "structure of the model changes": "the structure changes with the width",
    "which parameters the model has": "the structure changes with the width",
    "have no value that can be recorded": "values that cannot be recorded",
    "laws cannot be rescaled": "a law cannot be rescaled: `init=` gives another",
}
NO_CLASS: Final = "no model class in the Auto mappings"
OUTCOMES: Final = ("table", "error", "raised", "limits", "not built")


@dataclass(kw_only=True)
class Outcome:
    """What ``zeta.scale`` made of one type."""

    name: str
    model: str = ""
    outcome: str = "not built"
    classes: dict[str, int] = field(default_factory=dict)
    multipliers: int = 0
    why: str = ""
    seconds: float = 0.0


def scaled(name: str) -> Outcome:
    """Scale one type."""
    found = Outcome(name=name)
    try:
        found.model, build = family(name)
    except Exception as error:  # the constructor's own, or no width that is known by its name
        found.why = str(error) if isinstance(error, LookupError) else f"{type(error).__name__}: {error}"
        return found
    begin = time.perf_counter()
    try:
        scaling = zeta.scale(build, {"width": 1}, {"width": 2}, "mup")
        str(scaling)
    except zeta.ZetaError as error:
        found.outcome, found.why = "error", f"{type(error).__name__}: {error}"
    except Exception as error:
        found.outcome, found.why = "raised", said(error)
    else:
        found.outcome = "table"
        found.classes = dict(collections.Counter(row.size.group.value for row in scaling.rows))
        found.multipliers = len(scaling.multipliers)
    found.seconds = time.perf_counter() - begin
    return found


def taken(name: str, seconds: int) -> Outcome:
    """Scale under limits."""
    if not has_model(name):
        return Outcome(name=name, why=NO_CLASS)
    return limited(
        lambda: scaled(name),
        lambda outcome, why: Outcome(name=name, outcome=outcome, why=why),
        seconds=seconds,
        gib=_GIB,
    )


def line(result: Outcome) -> str:
    """One line of the progress."""
    return f"{result.outcome:10}{result.seconds:6.2f} s  {result.name:28} {result.model:34} {result.why[:300]!r}"


def kind(result: Outcome) -> str:
    """What an error is about, in a few words."""
    first = result.why.splitlines()[0]
    return next((words for part, words in KINDS.items() if part in result.why), first[:120])


def by_hand() -> str:
    """How many classes are those that were written by hand."""
    pairs = [pair for key in CLASSES for pair in classes_of_both(key, *on_meta(key)).values()]
    right = sum(truth == found for truth, found in pairs)
    unclear = sum(found == "unclear" for _, found in pairs)
    return (
        f"- For {len(CLASSES)} types the classes were written by hand, from the architecture "
        f"(`tests/scaling/class_truth.py`). Of their {len(pairs):,} parameters, {right:,} ({right / len(pairs):.1%}) "
        f"have the same class, {unclear} are an error that asks for it, and {len(pairs) - right - unclear} have "
        "another one; the file says why."
    )


def page(results: Sequence[Outcome], types: int) -> str:
    """The page, where there are so many model types in all."""
    counts = collections.Counter(result.outcome for result in results)
    errors = collections.Counter(kind(result) for result in results if result.outcome == "error")
    scaled_ones = sum(counts[each] for each in ("table", "error", "raised", "limits"))
    classless = sum(result.why == NO_CLASS for result in results)
    unbuilt = sorted(r.name for r in results if r.outcome == "not built" and r.why != NO_CLASS)
    lines = [
        "# What zeta.scale makes of the architectures of transformers",
        "",
        f"Every model type of transformers {transformers.__version__} with an Auto class, on meta, two layers deep: "
        "the default widths as the base, and all widths and numbers of heads doubled as the target, under mup. Written "
        "by `benchmarks/scaling_sweep.py`. The class is the first with a loss, else the base model.",
        "",
        f"- {len(results)} of {types} model types were taken. {classless} have no model class. {len(unbuilt)} cannot "
        "be built at both widths: no width is known by its name, their constructors refuse it, or they need other "
        "packages.",
        f"- Of {scaled_ones} that can, {counts['table']} have a table, {counts['error']} an error of zeta that says "
        f"why, {counts['raised']} another exception, and {counts['limits']} took more than the limits of time and "
        "memory.",
        by_hand(),
        "",
        "## Errors by kind",
        "",
        "| | types |",
        "|---|--:|",
        *(f"| {words} | {count} |" for words, count in errors.most_common()),
        "",
        "## Errors",
        "",
        "| type | class | kind | the first reason |",
        "|---|---|---|---|",
        *(
            f"| {result.name} | {result.model} | {kind(result)} | {_reason(result.why)} |"
            for result in sorted(results, key=lambda result: result.name)
            if result.outcome in ("error", "raised", "limits")
        ),
        "",
        "## Tables",
        "",
        "Numbers of parameters by class.",
        "",
        "| type | class | input | hidden | output | vector | fixed | multipliers |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for result in sorted(results, key=lambda result: result.name):
        if result.outcome == "table":
            numbers = [result.classes.get(each, 0) for each in ("input", "hidden", "output", "vector", "fixed")]
            row = " | ".join(map(str, [*numbers, result.multipliers]))
            lines.append(f"| {result.name} | {result.model} | {row} |")
    lines += ["", "## Not built", "", ", ".join(unbuilt) + "."]
    return "\n".join([*lines, ""])


def _reason(why: str) -> str:
    lines = why.splitlines()
    named = next((line.removeprefix("  - ") for line in lines if line.startswith("  - ")), lines[0])
    return re.sub(r"\s+", " ", named)[:240].replace("|", "\\|").replace("*", "\\*")


def main() -> None:
    """Scale all model types, and write the page."""
    options = arguments(__doc__).parse_args()
    quiet()
    of = source("transformers")
    of.warm_up()
    scaled("llama")  # what scaling imports is imported once, before any process is forked
    results = swept(
        options.only or of.names(),
        lambda name, _: taken(name, options.seconds),
        line,
        lambda one: Outcome(**one),
        options.json,
    )
    if options.table:
        options.table.write_text(page(results, len(of.names())), encoding="utf-8")
    print({outcome: sum(one.outcome == outcome for one in results) for outcome in OUTCOMES})
    if faults := [f"{one.name}: {one.why}" for one in results if one.outcome == "raised"]:
        sys.exit("exceptions that are not zeta's:\n" + "\n".join(faults))


if __name__ == "__main__":
    main()
