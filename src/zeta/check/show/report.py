"""The report of a check: the results, with methods for each output format."""

from __future__ import annotations

import json
from dataclasses import dataclass
from os import PathLike
from typing import overload

from zeta.base.escaping import visible
from zeta.base.text import count_text, terminal_width
from zeta.check.facts.places import counts_text
from zeta.check.facts.results import Results
from zeta.check.show.html import page
from zeta.check.show.notebook import fragment
from zeta.check.show.sarif import to_sarif
from zeta.check.show.serial import to_json
from zeta.check.show.tensorboard import SummaryWriterLike, log_to
from zeta.check.show.terminal import summary, text
from zeta.write.checkpoint import write_text


@dataclass(frozen=True, kw_only=True)
class CheckReport(Results):
    """The measurements and findings of a check. ``ok`` is true if nothing failed; ``print(report)`` shows them."""

    def __repr__(self) -> str:
        found = f"{count_text(len(self.layers), 'layer')}, {counts_text(self.findings)}"
        return f"CheckReport({visible(self.model)}, {'ok' if self.ok else 'NOT ok'}: {found})"

    def __str__(self) -> str:
        return text(self, terminal_width())

    @property
    def summary(self) -> str:
        """One line: whether the network can learn, and the number of findings."""
        return summary(self)

    def _repr_html_(self) -> str:
        return fragment(self)

    @overload
    def to_json(self, path: None = None) -> str: ...
    @overload
    def to_json(self, path: str | PathLike[str]) -> None: ...
    def to_json(self, path: str | PathLike[str] | None = None) -> str | None:
        """Return everything as JSON text; or write it to ``path``, and return nothing."""
        return _written(json.dumps(to_json(self), indent=1, allow_nan=False) + "\n", path)

    @overload
    def to_html(self, path: None = None) -> str: ...
    @overload
    def to_html(self, path: str | PathLike[str]) -> None: ...
    def to_html(self, path: str | PathLike[str] | None = None) -> str | None:
        """Return one self-contained HTML page; or write it to ``path``, and return nothing.

        Raises:
            UsageError: if plotly is not installed (``pip install 'zeta-init[html]'``), or ``path`` is a link or folder.
        """
        return _written(page(self), path)

    @overload
    def to_sarif(self, path: None = None, *, artifact: str | None = None) -> str: ...
    @overload
    def to_sarif(self, path: str | PathLike[str], *, artifact: str | None = None) -> None: ...
    def to_sarif(self, path: str | PathLike[str] | None = None, *, artifact: str | None = None) -> str | None:
        """Return the findings as SARIF 2.1.0 text for code-review tools; or write it to ``path``, and return nothing.

        ``artifact`` is a file of the repository, such as ``src/model.py``, to attach the findings to; some tools show
        no findings without one.
        """
        return _written(json.dumps(to_sarif(self, artifact), indent=1, allow_nan=False) + "\n", path)

    def log_to(self, writer: SummaryWriterLike, step: int = 0) -> None:
        """Log everything to TensorBoard through torch's ``SummaryWriter``."""
        log_to(self, writer, step)


def _written(text: str, path: str | PathLike[str] | None) -> str | None:
    """The text; or nothing, where it was written to a file: a console would show the whole of it."""
    if path is None:
        return text
    write_text(path, text)
    return None
