"""Record every architecture that the installed transformers builds from its default configuration, and compare values.

    python -m benchmarks.architectures [--only NAME ...] [--seconds 120] [--table docs/architectures.md]

Each architecture is recorded in a process of its own, with limits on time and memory. Depth is cut to two layers where
the configuration allows it; widths stay, as nothing is allocated. An architecture counts if it can be built under
``torch.device("meta")`` or on the CPU from its default configuration without files and further packages.

Models of up to ``--values`` elements are then computed, and built for real on the draws of their recordings (the twin
run of ``tests/twin.py``); every parameter and buffer must be equal, or close where a law replaced a formula.
"""

from __future__ import annotations

import argparse
import collections
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
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

import zeta
from tests.twin import Outcome, Recorded, compared, record
from zeta.initializers import Program

_LAYERS = re.compile(r"(num_)?(\w+_)?(n_)?(layers?|blocks)|depth|n_layer|num_hidden_groups")
_MEMORY = 6 * 2**30


@dataclass(kw_only=True)
class Result:
    """What came of one architecture."""

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
    seconds: float = 0.0
    why: str = ""


def shallow(config: Any, depth: int = 0) -> None:
    """Cut the number of layers to two, in inner configurations too."""
    for key, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig) and depth < 4:
            shallow(value, depth + 1)
        elif _LAYERS.fullmatch(key) and isinstance(value, int) and not isinstance(value, bool) and value > 2:
            setattr(config, key, 2)


def model_class(config: Any) -> type | None:
    """The base model of a configuration, else the first of any other kind."""
    mappings = [value for key, value in vars(modeling_auto).items() if re.fullmatch(r"MODEL(_\w+)?_MAPPING", key)]
    mappings.sort(key=lambda mapping: mapping is not modeling_auto.MODEL_MAPPING)
    for mapping in mappings:
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple | list) else found  # type: ignore[no-any-return]
    return None


def examine(name: str, most: int) -> Result:
    """Build on meta to see that it can be built, then record; and compare values, where there are not too many."""
    result = Result(name=name)
    config, problem = None, ""
    for cut in (True, False):
        try:
            candidate = CONFIG_MAPPING[name]()
            if cut:
                shallow(candidate)
            found = model_class(candidate)
            if found is None:
                result.why = "no model class in the Auto mappings"
                return result
            result.model = found.__name__
            with torch.device("meta"):
                found(candidate)
            config = candidate
            break
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
    if config is None:
        result.why = problem
        return result
    begin = time.perf_counter()
    try:
        recorded = record(lambda: found(config))
    except Exception as error:
        result.outcome = "failed"
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
        held(recorded, lambda: found(config), result)
    return result


def held(recorded: Recorded, factory: Callable[[], Any], result: Result) -> None:
    """Compare the values with a real construction on the same draws."""
    try:
        outcome: Outcome = compared(recorded, factory)
    except Exception as error:
        result.twin = f"{type(error).__name__}: {error}"
        return
    result.equal, result.close = len(outcome.equal), len(outcome.close)
    result.twin = "; ".join(outcome.different[:4]) or "equal"


def child(name: str, seconds: int, most: int, pipe: Connection) -> None:
    """Examine under limits, and send the result."""
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    signal.alarm(seconds)
    torch.set_num_threads(1)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    try:
        result = examine(name, most)
    except BaseException as error:
        result = Result(name=name, outcome="failed", why=f"{type(error).__name__}: {error}")
    pipe.send(asdict(result))


def examined_apart(name: str, seconds: int, most: int) -> Result:
    """Run ``examine`` in a process of its own, which may die."""
    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=child, args=(name, seconds, most, there))
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


def warm_up() -> None:
    """Import once what most architectures import, before any process is forked."""
    for name in ("llama", "bert", "vit", "wav2vec2", "detr"):
        if (found := model_class(CONFIG_MAPPING[name]())) is not None:
            found.__module__  # noqa: B018
    zeta.record(lambda: torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(2, 2)))


def table(results: list[Result], most: int) -> str:
    """The results as a Markdown page."""
    built = [r for r in results if r.outcome != "not built"]
    count = collections.Counter(r.outcome for r in results)
    complete = len(built) - count["failed"]
    twins = [r for r in built if r.twin != "too large" and r.outcome != "failed"]
    lines = [
        "# Architectures",
        "",
        f"Every model type of transformers {transformers.__version__}, built from its default configuration (two "
        f"layers deep where possible) under torch {torch.__version__.partition('+')[0]}, recorded by `zeta.record`.",
        "Written by `benchmarks/architectures.py`.",
        "",
        f"- {len(results)} model types, of which {len(built)} can be built without files or further packages;",
        f"- {complete} ({complete / max(len(built), 1):.1%}) record completely: every parameter and buffer has "
        "an entry;",
        f"- {count['recognized']} with known initializers for everything random, {count['program']} with programs for "
        "some of it;",
        f"- {count['failed']} fail;",
        f"- the values of {len(twins)} (those of up to {most:,} elements) were computed and held against a real "
        f"construction on the same draws: {sum(r.twin == 'equal' for r in twins)} are equal in every parameter and "
        f"buffer. {sum(r.equal for r in twins):,} tensors are equal bit by bit, {sum(r.close for r in twins):,} within "
        "the rounding of a law that replaced a formula.",
        "",
        "| model type | class | outcome | values | parameters | buffers | random programs | computed | seconds | |",
        "|---|---|---|---|--:|--:|--:|--:|--:|---|",
    ]
    for r in built:
        why = re.sub(r"\s+", " ", r.why).replace("|", "\\|")[:300]
        lines.append(
            f"| {r.name} | {r.model} | {r.outcome} | {r.twin[:80]} | {r.parameters} | {r.buffers} | {r.programs} "
            f"| {r.computed} | {r.seconds:.2f} | {why} |"
        )
    return "\n".join([*lines, ""])


def main() -> None:
    """Examine all architectures, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*")
    parser.add_argument("--seconds", type=int, default=120)
    parser.add_argument("--values", type=int, default=2**28)
    parser.add_argument("--table", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    warm_up()
    results = []
    for name in options.only or CONFIG_MAPPING_NAMES:
        result = examined_apart(name, options.seconds, options.values)
        results.append(result)
        told = f"{result.outcome:11}{result.twin[:60]:12}{result.seconds:6.2f} s  {name:28} {result.model:34}"
        print(f"{told} {result.why[:160]!r}", flush=True)
        if options.json:
            options.json.write_text(json.dumps([asdict(r) for r in results], indent=1))
    text = table(results, options.values)
    print("\n".join(text.splitlines()[4:10]))
    if options.table:
        options.table.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
