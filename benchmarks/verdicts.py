"""Check a small model of every type of transformers as it is initialized, and write a page with all that fails.

    python -m benchmarks.verdicts [--only NAME ...] [--seconds 60] [--json FILE] [--table docs/check-architectures.md]

Each model is recorded, gets its values from its recording, and is checked with labels where its class has a loss, in a
process with limits on time and memory. With ``--json``, what the file has already is not checked again. A failure
without an explanation in ``benchmarks/explanations.py`` is an error, after the page is written.
"""

from __future__ import annotations

import copy
import gc
import re
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import zeta
from benchmarks.explanations import Found, page, unexplained
from benchmarks.limited import arguments, limited, quiet, said, swept
from benchmarks.sources import source
from benchmarks.sources.transformers_batches import batches
from benchmarks.sources.transformers_small import LARGEST, has_model, small

#: how much memory a check may hold
_GIB = 8
#: a shape in an error
SHAPE = re.compile(r"\[[\d, ]*\]|\(\d+\*\d+\)")


@dataclass(kw_only=True)
class Verdict:
    """What a check found in one model."""

    name: str
    model: str = ""
    outcome: str = "not built"
    parameters: int = 0
    inputs: list[str] = field(default_factory=list)
    findings: list[Found] = field(default_factory=list)
    seconds: float = 0.0
    why: str = ""


def runs(model: nn.Module, batch: Any) -> str:
    """Why the model cannot take the batch, or nothing."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            copy.deepcopy(model)(**batch)  # running statistics stay
    except Exception as error:
        return said(error)
    return ""


def verdict(name: str, done: Collection[str]) -> Verdict:
    """Check the smallest candidate that runs; none if its class is among those that were checked."""
    found = Verdict(name=name)
    reasons: list[str] = []
    for class_name, factory in candidates(name, reasons):
        found.model = class_name
        if class_name in done:
            found.outcome = "same class"
            return found
        try:
            with torch.device("meta"), torch.random.fork_rng(devices=[]):
                found.parameters = sum(p.numel() for p in factory().parameters())
            if found.parameters > LARGEST:
                reasons.append(f"too large: {found.parameters:,} parameters")
                continue
            model, plan = zeta.record(factory)
            zeta.materialize_(model, plan, seed=0)
        except Exception as error:
            reasons.append(said(error))
            continue
        found.outcome = "no batch"
        attempted(found, model, plan, reasons)
        if found.inputs:
            break
    found.why = " || ".join(dict.fromkeys(reasons))
    return found


def candidates(name: str, reasons: list[str]) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Those of ``small``, until a configuration cannot be made smaller."""
    try:
        yield from small(name)
    except Exception as error:
        reasons.append(said(error))


def attempted(found: Verdict, model: nn.Module, plan: zeta.Plan, reasons: list[str]) -> None:
    """Check a model with the first batch that it takes."""
    failed: set[tuple[tuple[str, ...], str]] = set()  #: the arguments, and the error
    hopeless: set[tuple[str, ...]] = set()  #: arguments whose error does not depend on their sizes
    for batch in batches(model):
        given = tuple(batch)
        if given in hopeless:
            continue
        if why := runs(model, batch):
            reasons.append(why)
            gc.collect()  # what the traceback holds
            alike = (given, SHAPE.sub("", why))
            hopeless |= {given} if alike in failed else set()
            failed.add(alike)
            continue
        begin = time.perf_counter()
        try:
            report = zeta.check(model, batch, plan=plan, optimizer=lambda p: torch.optim.AdamW(p, 1e-4))
        except Exception as error:
            reasons.append(said(error))
            if not isinstance(error, zeta.SpecError):  # it is not that labels do not fit
                found.outcome, found.inputs = "raised", list(batch)
                return
            continue
        found.inputs, found.seconds = list(batch), time.perf_counter() - begin
        found.outcome = "healthy" if report.ok else "fails"
        found.findings = [
            Found(f.rule.id, f.severity.value, f.parameter or f.layer or "", f.message) for f in report.findings
        ]
        reasons.clear()
        return


def loaded(record: dict[str, Any]) -> Verdict:
    """A verdict from JSON."""
    return Verdict(**{**record, "findings": [Found(**one) for one in record["findings"]]})


def taken(name: str, earlier: Sequence[Verdict], seconds: int) -> Verdict:
    """Check under limits."""
    if not has_model(name):
        return Verdict(name=name, why="no model class in the Auto mappings")
    done = {one.model for one in earlier if one.inputs}
    return limited(
        lambda: verdict(name, done),
        lambda outcome, why: Verdict(name=name, outcome=outcome, why=why),
        seconds=seconds,
        gib=_GIB,
    )


def line(result: Verdict) -> str:
    """One line of the progress."""
    rules = sorted({f"{one.rule}{one.severity[0]}" for one in result.findings})
    size = f"{result.parameters / 1e6:6.1f} million {result.seconds:6.2f} s"
    return f"{result.outcome:10} {size}  {result.name:28} {result.model:34} {' '.join(rules)} {result.why[:400]!r}"


def main() -> None:
    """Check all model types, and write the page."""
    options = arguments(__doc__).parse_args()
    quiet()
    of = source("transformers")
    of.warm_up()
    for name in ("bert", "vit"):  # what checks import is imported once, before any process is forked
        verdict(name, ())
    results = swept(
        options.only or of.names(), lambda name, done: taken(name, done, options.seconds), line, loaded, options.json
    )
    if options.table:
        options.table.write_text(page(results, len(of.names())), encoding="utf-8")
    if open_ones := unexplained(results):
        sys.exit("failures without an explanation:\n" + "\n".join(open_ones))


if __name__ == "__main__":
    main()
