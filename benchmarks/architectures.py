"""Record the models that a library builds by default, and compare their values with real constructions.

    python -m benchmarks.architectures [--source transformers] [--only NAME ...] [--seconds 120] [--table FILE]
    build/libraries/bin/python -m benchmarks.architectures --source timm --table docs/libraries/timm.md

``benchmarks/sources`` has a module for each library; ``make libraries`` installs them. Each model is recorded in a
process with limits on processor time and memory. It counts if it can be built, under ``torch.device("meta")`` or on
the CPU, without files and further packages.

Models of up to ``--values`` elements are then computed (where there are more, a smaller model of the type), and built
for real on the draws of their recordings (the twin run of ``tests/helpers/twin.py``); every parameter and buffer must
be equal, or close where a law replaced a formula.
With ``--json``, what the file has already is not done again.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

import zeta
from benchmarks.limited import arguments, limited, quiet, swept
from benchmarks.sources import SOURCES, Source, source
from benchmarks.sources.pages import Result, noted, page
from tests.helpers.twin import Outcome, Recorded, compared, record
from zeta.initializers import Program


def buildable(of: Source, name: str, result: Result) -> Callable[[], Any] | None:
    """What builds the first candidate that can be built, on meta, else on the CPU."""
    problem = ""
    try:
        for class_name, factory in of.candidates(name):
            result.model = class_name
            for device in ("meta", "cpu"):
                try:
                    with torch.random.fork_rng(devices=[]), torch.device(device):
                        factory()
                    return factory
                except Exception as error:
                    problem = f"{type(error).__name__}: {error}"
    except Exception as error:
        problem = str(error) if isinstance(error, LookupError) else f"{type(error).__name__}: {error}"
    result.why = problem
    return None


def valueless(message: str) -> bool:
    """Whether an error is about nothing but tensors to which the constructor itself gives no value."""
    named = [line for line in message.splitlines() if line.startswith("  - ")]
    return bool(named) and all(re.search("is lazy and has no shape|never gets a value", line) for line in named)


def examine(of: Source, name: str, most: int) -> Result:
    """Build to see that it can be built, then record; and compare values, where there are not too many."""
    result = Result(name=name)
    factory = buildable(of, name, result)
    if factory is None:
        return result
    begin = time.perf_counter()
    try:
        recorded = record(factory)
    except Exception as error:
        result.outcome = "no values" if isinstance(error, zeta.RecordingError) and valueless(str(error)) else "failed"
        result.why = f"{type(error).__name__}: {error}"
        if not isinstance(error, zeta.ZetaError):
            result.why += " | " + traceback.format_exc().splitlines()[-2].strip()
        return result
    finally:
        result.seconds = time.perf_counter() - begin
    plan = recorded.plan
    result.parameters = len(plan.parameters)
    result.buffers = len(plan) - result.parameters
    programs = [e for e in plan if isinstance(e.initializer, Program)]
    result.programs = sum(bool(e.initializer.draws) for e in programs)  # type: ignore[attr-defined]
    result.computed = len(programs) - result.programs
    result.outcome = "program" if result.programs else "recognized"
    if result.programs:
        shown = next(e for e in programs if e.initializer.draws)  # type: ignore[attr-defined]
        result.why = f"{shown.name}: {shown.initializer}"
    if sum(entry.numel for entry in plan) > most or not held(recorded, factory, result):
        held_smaller(of, name, most, result)
    return result


def held(recorded: Recorded, factory: Callable[[], Any], result: Result) -> bool:
    """Compare the values with a real construction on the same draws; false where they do not fit into the memory."""
    try:
        outcome: Outcome = compared(recorded, factory)
    except Exception as error:
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):
            return False
        result.twin = f"{type(error).__name__}: {error}"
        return True
    result.equal, result.close = len(outcome.equal), len(outcome.close)
    result.twin = "; ".join(outcome.different[:4]) or "equal"
    return True


def held_smaller(of: Source, name: str, most: int, result: Result) -> None:
    """Compare the values of the first smaller model of the type that can be built."""
    for class_name, factory in of.smaller(name):
        try:
            recorded = record(factory)
        except Exception:
            continue  # widths that do not fit together; that the type can be recorded was seen
        if sum(entry.numel for entry in recorded.plan) <= most and held(recorded, factory, result):
            result.smaller = class_name
            return


def taken(of: Source, name: str, seconds: int, gib: int, most: int) -> Result:
    """Examine under limits."""
    return limited(
        lambda: examine(of, name, most),
        lambda outcome, why: Result(name=name, outcome="failed", why=f"{outcome}: {why}"),
        seconds=seconds,
        gib=gib,
    )


def line(result: Result) -> str:
    """One line of the progress."""
    outcome = f"{result.outcome:11}{result.twin[:60]:12}{result.seconds:6.2f} s"
    return f"{outcome}  {result.name:28} {result.model:34} {result.why[:160]!r}"


def main() -> None:
    """Examine all models of a source, and write the page."""
    parser = arguments(__doc__, seconds=120)
    parser.add_argument("--source", choices=SOURCES, default=SOURCES[0])
    parser.add_argument("--gib", type=int, default=8)
    parser.add_argument("--values", type=int, default=2**26)
    options = parser.parse_args()
    quiet()
    of = source(options.source)
    # before any process is forked
    of.warm_up()
    zeta.record(lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2)))
    results = swept(
        options.only or of.names(),
        lambda name, _: taken(of, name, options.seconds, options.gib, options.values),
        line,
        lambda one: Result(**one),
        options.json,
    )
    text = page(of, results, options.values)
    print("\n".join(text.splitlines()[4:10]))
    if options.table:
        options.table.parent.mkdir(exist_ok=True)
        options.table.write_text(text, encoding="utf-8")
        if options.table.parent.name == "libraries":
            noted(of, results, options.table)


if __name__ == "__main__":
    main()
