"""The report of a check: what was found, and the ways out of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from zeta.check.results import Results
from zeta.check.serial import to_json
from zeta.check.terminal import text


@dataclass(frozen=True, kw_only=True)
class CheckReport(Results):
    """What a check measured and found. ``ok`` is true if nothing failed; ``print(report)`` shows it."""

    def __str__(self) -> str:
        return text(self)

    def to_json(self, path: str | PathLike[str] | None = None) -> str:
        """Return everything as JSON text, and write it to ``path`` if given."""
        document = json.dumps(to_json(self), indent=1, allow_nan=False)
        if path is not None:
            Path(path).write_text(document + "\n", encoding="utf-8")
        return document
