"""What became of each tensor when a model was adapted to a checkpoint, and whether it computes what the old one did."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.base import html
from zeta.base.escaping import visible
from zeta.base.generators import apart, foreign_apart
from zeta.base.modules import check_module, modules_of
from zeta.base.reading import shown
from zeta.base.text import bytes_text, count_text, table
from zeta.errors import SpecError
from zeta.report.report import Report

#: an output may differ by this many units in the last place of the largest one, if it is to be equal up to rounding
_ROUNDING: Final = 256
_SEED: Final = 0
#: names of a list that a text shows
_MOST_SHOWN: Final = 10
_NUMBER: Final = re.compile(r"(?<=\.)\d+(?=\.)")
_HEADINGS: Final = ("name", "from the checkpoint")


@dataclass(frozen=True, kw_only=True)
class Preserved:
    """How the outputs of two models differ on one batch.

    ``expected`` is what the way of growing promises: ``"equal"``, ``"equal up to rounding"`` or ``"changed"``.
    ``difference`` is the largest absolute difference of two outputs, ``scale`` the largest absolute output.
    ``compared`` counts the elements; where the new model has more outputs, such as logits of new tokens, the old ones.
    """

    expected: str
    difference: float
    scale: float
    compared: int
    allowed: float

    @property
    def ok(self) -> bool:
        """Whether it is as expected; what was to change may."""
        return self.expected == "changed" or self.difference <= self.allowed

    def __str__(self) -> str:
        verdict = "as expected" if self.ok else "NOT as expected"
        return (
            f"largest difference of {self.compared:,} outputs {self.difference:.3g}, of at most {self.scale:.3g}; "
            f"expected: {self.expected}; {verdict}"
        )


def _blocks(name: str, text: str) -> tuple[str, str]:
    """Two names up to the numbers that are all they differ in; else the two as they are."""
    for one, other in zip(_NUMBER.finditer(name), _NUMBER.finditer(text), strict=False):
        same = name[: one.start()] == text[: other.start()] and name[one.end() :] == text[other.end() :]
        if same and one[0] != other[0]:
            return name[: one.end()], text[: other.end()]
    return name, text


@dataclass(frozen=True, kw_only=True)
class AdaptReport(Report):
    """What was loaded, grown and initialized, and what of the checkpoint was not used.

    ``loaded`` and ``grown`` say for each tensor what of the checkpoint it has; ``measured`` has what was drawn, the new
    rows of grown tensors too. ``unused`` are the checkpoint's tensors that nothing took, as ``allow=`` permits or the
    model's class says. ``preserved(batch)`` compares the outputs with those of the old model.
    """

    loaded: Mapping[str, str]
    grown: Mapping[str, str]
    unused: tuple[str, ...]
    loaded_nbytes: int
    expected: str
    subject: Subject | None = field(repr=False, compare=False)

    @property
    def initialized(self) -> tuple[str, ...]:
        """The tensors of which nothing is from the checkpoint."""
        return tuple(item.name for item in self.measured if item.name not in self.grown)

    @property
    def summary(self) -> str:
        """One line for the four parts, and one for what was drawn."""
        parts = (
            f"{len(self.loaded)} loaded ({bytes_text(self.loaded_nbytes)})",
            f"{len(self.grown)} grown",
            f"{len(self.initialized)} initialized",
            f"{len(self.unused)} of the checkpoint not used",
        )
        return f"{', '.join(parts)}\n{super().summary}"

    def __repr__(self) -> str:
        return f"AdaptReport({self.summary.splitlines()[0]}, seed {self.seed}, {self._verdict})"

    def text(self, width: int | None = None) -> str:
        """What ``print`` shows: what was grown, what was drawn, what was not used, and the summary."""
        parts = [table(_HEADINGS, self._grown_rows(), width=width)] if self.grown else []
        if self.unused:
            more = f" and {len(self.unused) - _MOST_SHOWN} more" if len(self.unused) > _MOST_SHOWN else ""
            parts.append(visible(f"not used: {', '.join(self.unused[:_MOST_SHOWN])}{more}"))
        return "\n".join([*parts, super().text(width)])

    def _repr_html_(self) -> str:
        title = f"{count_text(len(self.grown), 'tensor')} grown"
        grown = [html.table_section(title, _HEADINGS, self._grown_rows())] if self.grown else []
        return html.page(*grown, html.lines([f"not used: {name}" for name in self.unused]), super()._repr_html_())

    def _grown_rows(self) -> list[tuple[str, str]]:
        """A row for each tensor; of a block that is a copy, one for all of it."""
        groups: dict[tuple[str, str], list[tuple[str, str]]] = {}
        for name, text in self.grown.items():
            groups.setdefault(_blocks(name, text), []).append((name, text))
        rows: list[tuple[str, str]] = []
        for (one, other), found in groups.items():
            rows += found if len(found) == 1 else [(f"{one}.*", f"{other}.*, {len(found)} tensors")]
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        more = {
            "loaded": dict(self.loaded),
            "grown": dict(self.grown),
            "unused": list(self.unused),
            "loaded_nbytes": self.loaded_nbytes,
            "expected": self.expected,
        }
        return {**super().as_dict(), **more}

    def preserved(self, batch: Any, old: nn.Module | Callable[[], nn.Module] | None = None) -> Preserved:
        """Run the old and the new model on a batch and compare their outputs.

        Args:
            batch: a tensor, a tuple of arguments, or a mapping of named ones.
            old: the old model with its values, or a function that builds it, which then gets the checkpoint's; not
                needed for a folder of transformers with its ``config.json``.

        Both run in evaluation mode and without gradients, on the same random numbers; then they are as before.
        Raises ``SpecError`` if the old model is not known, or the new one was written to a folder.
        """
        if self.subject is None:
            raise SpecError("the new model is in a folder and not in memory; load both, and compare their outputs")
        old_model = self.subject.old_model(old)
        one, two = _outputs(old_model, batch), _outputs(self.subject.model, batch)
        if len(one) != len(two) or not one:
            raise SpecError(f"the old model gives {len(one)} outputs, the new one {len(two)}; expected as many, not 0")
        return _compared(one, two, self.expected)


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """The adapted model, and how the old one is built and gets its values."""

    model: nn.Module
    build: Callable[[], nn.Module] | None
    fill: Callable[[nn.Module], object]

    def old_model(self, given: nn.Module | Callable[[], nn.Module] | None) -> nn.Module:
        """The old model, with its values."""
        if isinstance(given, nn.Module):
            return given
        build = self.build if given is None else given
        if build is None:
            raise SpecError(
                "the checkpoint does not say what the old model is; pass it as old=, or a function that builds it"
            )
        if not callable(build):
            raise SpecError(f"old must be a module or a function that builds one, got {shown(given)}")
        with apart(_SEED), foreign_apart():
            model = build()
        check_module(model, "a torch.nn.Module from old=")
        self.fill(model)
        return model


def _outputs(model: nn.Module, batch: Any) -> list[Tensor]:
    """The floating-point tensors that a model returns."""
    training = [module for module in modules_of(model) if module.training]
    try:
        model.eval()
        with torch.no_grad(), apart(_SEED), foreign_apart():
            if isinstance(batch, Mapping):
                result = model(**batch)
            else:
                result = model(*batch) if isinstance(batch, list | tuple) else model(batch)
    finally:
        for module in training:
            module.training = True
    return [tensor for tensor in _tensors(result) if tensor.is_floating_point()]


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, Mapping):
        for value in result.values():
            yield from _tensors(value)
    elif isinstance(result, Sequence) and not isinstance(result, str):
        for value in result:
            yield from _tensors(value)


def _compared(old: Sequence[Tensor], new: Sequence[Tensor], expected: str) -> Preserved:
    difference, scale, allowed, compared = 0.0, 0.0, 0.0, 0
    for one, two in zip(old, new, strict=True):
        if one.ndim != two.ndim or any(a > b for a, b in zip(one.shape, two.shape, strict=True)):
            raise SpecError(f"the old model gives {tuple(one.shape)}, the new one {tuple(two.shape)}")
        same = two[tuple(slice(0, extent) for extent in one.shape)]
        wide, other = one.to(device="cpu", dtype=torch.float64), same.to(device="cpu", dtype=torch.float64)
        compared += wide.numel()
        if not wide.numel():
            continue
        apart_by = float((wide - other).abs().nan_to_num(math.inf).max())
        largest = float(wide.abs().max())
        difference, scale = max(difference, apart_by), max(scale, largest)
        if expected != "equal":
            eps = max(torch.finfo(each.dtype).eps for each in (one, two))
            allowed = max(allowed, _ROUNDING * eps * largest)
    return Preserved(expected=expected, difference=difference, scale=scale, compared=compared, allowed=allowed)
