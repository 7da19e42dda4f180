"""``docs/compatibility.md`` from the results."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tests.versions.environments import ARCHITECTURES, LIBRARY, STREAM

HEAD = """\
# Compatibility

`tests/versions/run` writes this page. Each row is a separate environment: `pip install torch==...` with everything that
this release of torch itself depends on, the wheel of zeta, and tests. A cell says how many tests passed.

- *interpreter*: the Triton kernel, run on the CPU by Triton's interpreter, gives the bits of the stream.
- *sm_80*, *sm_90*, *sm_100*: the same kernel, compiled and assembled for A100, H100 and B200, without a GPU. The tests
  read what the compiler wrote: which operations are fused, how they round, and the constants.
- *stream*: {stream}.
- *library*: {library}.

"""
PARTS = ("interpreter", *(f"sm_{number}" for number in ARCHITECTURES), "stream", "library")
COLUMNS = ("Python", "torch", "triton", *PARTS, "date")

Results = Mapping[str, Mapping[str, Any]]


def write(
    path: Path, results: Results, pythons: Iterable[str], torches: Iterable[str], missing: Mapping[str, str]
) -> None:
    """Write the page; ``results`` by "Python torch", ``missing`` Pythons with the reason."""
    head = HEAD.format(stream=_files(STREAM), library=_files(LIBRARY))
    ordered = sorted(results, key=lambda key: [_numbers(part) for part in reversed(key.split())], reverse=True)
    rows = [COLUMNS, ("---",) * len(COLUMNS), *(_row(key, results[key]) for key in ordered)]
    lines = [head, *(f"| {' | '.join(row)} |\n" for row in rows), "\nWhat was not run:\n\n"]
    untried = [f"{p} with {t}" for t in torches for p in pythons if f"{p} {t}" not in results]
    path.write_text("".join([*lines, *(f"- {line}\n" for line in _not_run(results, untried, missing))]), "utf-8")


def _files(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def _row(key: str, result: Mapping[str, Any]) -> tuple[str, ...]:
    if "not run" in result:
        return (*key.split(), "", *("not run" for _ in PARTS), result["date"])
    cells = (_cell(result["tests"].get(part, {})) for part in PARTS)
    return (result["python"], result["torch"], result["triton"], *cells, result["date"])


def _cell(counts: Mapping[str, int]) -> str:
    shown = [f"{counts[outcome]} {outcome}" for outcome in ("failed", "passed", "skipped") if outcome in counts]
    return ", ".join(shown) or "not run"


def _not_run(results: Results, untried: list[str], missing: Mapping[str, str]) -> list[str]:
    lines = [f"Python {version}: not on the machine, and it could not be installed." for version in missing]
    lines += [f"Python and torch {key}: {result['not run']}" for key, result in results.items() if "not run" in result]
    if untried:
        lines.append(f"Pairs of Python and torch: {', '.join(untried)}.")
    if not any(result.get("gpu") for result in results.values()):
        lines.append("The kernel on a GPU (`tests/gpu`): the machine had none.")
    lines.append(f"Other machines than {platform.system()} {platform.machine()}.")
    return lines
