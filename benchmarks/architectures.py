"""Record the models that a library builds by default, and compare their values with real constructions.

    python -m benchmarks.architectures [--source transformers] [--only NAME ...] [--seconds 120] [--table FILE]
    build/libraries/bin/python -m benchmarks.architectures --source timm --table docs/libraries/timm.md

``benchmarks/sources`` has a module for each library; ``make libraries`` installs them. Each model is recorded in a
process of its own, with limits on time and memory. It counts if it can be built, under ``torch.device("meta")`` or on
the CPU, without files and further packages.

Models of up to ``--values`` elements are then computed, and built for real on the draws of their recordings (the twin
run of ``tests/helpers/twin.py``); every parameter and buffer must be equal, or close where a law replaced a formula.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import resource
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

import zeta
from benchmarks.sources import SOURCES, Source, source
from benchmarks.sources.pages import Result, noted, page
from tests.helpers.twin import Outcome, Recorded, compared, record
from zeta.initializers import Program

_MEMORY = 6 * 2**30


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
    if sum(entry.numel for entry in plan) <= most:
        held(recorded, factory, result)
    return result


def held(recorded: Recorded, factory: Callable[[], Any], result: Result) -> None:
    """Compare the values with a real construction on the same draws."""
    try:
        outcome: Outcome = compared(recorded, factory)
    except Exception as error:
        # two models and their draws may not fit into the memory of the process: too large
        if not isinstance(error, MemoryError) and "DefaultCPUAllocator" not in str(error):
            result.twin = f"{type(error).__name__}: {error}"
        return
    result.equal, result.close = len(outcome.equal), len(outcome.close)
    result.twin = "; ".join(outcome.different[:4]) or "equal"


def child(of: Source, name: str, seconds: int, most: int, pipe: Connection) -> None:
    """Examine under limits, and send the result."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    signal.alarm(seconds)
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    try:
        result = examine(of, name, most)
    except BaseException as error:
        result = Result(name=name, outcome="failed", why=f"{type(error).__name__}: {error}")
    pipe.send(asdict(result))


def examined_apart(of: Source, name: str, seconds: int, most: int) -> Result:
    """Run ``examine`` in a process of its own, which may die."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(of, name, seconds, most, there))
    process.start()
    there.close()
    try:
        result = Result(**here.recv()) if here.poll(seconds + 30) else Result(name=name, outcome="failed", why="hangs")
    except EOFError:
        process.join()
        result = Result(name=name, outcome="failed", why=f"ended with code {process.exitcode} (time or memory)")
    process.kill()
    process.join()
    return result


def main() -> None:
    """Examine all models of a source, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", choices=SOURCES, default=SOURCES[0])
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--values", type=int, default=2**28)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    of = source(options.source)
    # before any process is forked
    of.warm_up()
    zeta.record(lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2)))
    results = []
    for name in options.only or of.names():
        result = examined_apart(of, name, options.seconds, options.values)
        results.append(result)
        told = f"{result.outcome:11}{result.twin[:60]:12}{result.seconds:6.2f} s  {name:28} {result.model:34}"
        print(f"{told} {result.why[:160]!r}", flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    text = page(of, results, options.values)
    print("\n".join(text.splitlines()[4:10]))
    if options.table:
        options.table.parent.mkdir(exist_ok=True)
        options.table.write_text(text, encoding="utf-8")
        if options.table.parent.name == "libraries":
            noted(of, results, options.table)


if __name__ == "__main__":
    main()
