"""Side by side: every figure is a ratio of medians that were taken in turns in one run, on one machine."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from zeta import __version__
from zeta.compute.stream import kernels


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "zeta": __version__,
        "backend": kernels.backend().name,
        "load": os.getloadavg()[0],
    }


def peak() -> float:
    """The most resident memory that this process has had, in MiB.

    Not ``ru_maxrss``, which begins at the peak of the process that started this one.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def medians(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Run all contestants in turns, ``rounds`` times after one that does not count; median seconds of each.

    Each round begins with the next one, so that nobody always follows the same one.
    """
    names = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            begin = time.perf_counter()
            contestants[name]()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return {name: statistics.median(times) for name, times in seconds.items()}


@dataclass(kw_only=True)
class Figures:
    """The rows of one run: what was measured, the median seconds of each contestant, ratios and their targets."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(
        self,
        what: str,
        seconds: Mapping[str, float],
        ratios: Mapping[str, float],
        targets: Mapping[str, float] | None = None,
        *,
        amounts: Mapping[str, float] | None = None,
    ) -> None:
        """Add a row and print it; ``amounts`` are other numbers, by their units.

        A target is the least that a ratio or an amount must reach, or the most if it is negative.
        """
        row = {"what": what, "seconds": dict(seconds), "ratios": dict(ratios), "amounts": dict(amounts or {})}
        self.rows.append({**row, "targets": dict(targets or {})})
        print_row(self.rows[-1])

    def table(self) -> Table:
        """All rows."""
        table = Table(
            "what", "median", "ratio", "target", title=f"zeta on {processor()}, {torch.get_num_threads()} threads"
        )
        for row in self.rows:
            table.add_row(row["what"], *_cells(row))
        return table

    def write(self, path: Path) -> None:
        """Write the rows and the machine's description as JSON."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine(), "rows": self.rows}, indent=1) + "\n", encoding="utf-8")


def _cells(row: Mapping[str, Any]) -> tuple[str, str, str]:
    seconds = "\n".join(f"{name} {_seconds(value)}" for name, value in row["seconds"].items())
    numbers = {**row["ratios"], **row["amounts"]}
    shown = [f"{value:.2f}x {name}" for name, value in row["ratios"].items()]
    shown += [f"{value:.2f} {name}" for name, value in row["amounts"].items()]
    targets = [
        _verdict(value, row["targets"][name]) if name in row["targets"] else "" for name, value in numbers.items()
    ]
    return seconds, "\n".join(shown), "\n".join(targets)


def _verdict(ratio: float, target: float) -> str:
    reached = ratio >= target if target > 0 else ratio <= -target
    return f"{'at least' if target > 0 else 'at most'} {abs(target):g}: {'yes' if reached else 'NO'}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.2f} ms" if value >= 1e-3 else f"{value * 1e6:.1f} us"


def print_row(row: Mapping[str, Any]) -> None:
    """Print one row as soon as it is known."""
    seconds, ratios, targets = (cell.replace("\n", ", ") for cell in _cells(row))
    Console(highlight=False).print(f"{row['what']}: {ratios} ({seconds}) {targets}", soft_wrap=True)
