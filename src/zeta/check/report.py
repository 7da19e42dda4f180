"""The report of a check: what was found, and the ways out of it."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from typing import Any

from zeta.check.results import Results


@dataclass(frozen=True, kw_only=True)
class CheckReport(Results):
    """What a check measured and found. ``ok`` is true if nothing failed; ``print(report)`` shows it."""

    def __str__(self) -> str:
        from zeta.check import terminal

        return terminal.text(self)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write one self-contained HTML file."""
        from zeta.check import html

        html.write(self, path)

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return everything as JSON text, and write it to ``path`` if given."""
        from zeta.check import serial

        return serial.to_json(self, path)

    def to_sarif(self, path: str | PathLike[str]) -> None:
        """Write the findings as SARIF, which code-review tools show."""
        from zeta.check import sarif

        sarif.write(self, path)

    def log_to(self, writer: Any, step: int = 0) -> None:
        """Write scalars and histograms to a TensorBoard ``SummaryWriter``."""
        from zeta.check import tensorboard

        tensorboard.log(self, writer, step)
