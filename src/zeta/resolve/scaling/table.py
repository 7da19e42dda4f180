"""The result of scaling: a row for each parameter, the laws of the target, and multipliers; exact in JSON."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Struct
from msgspec.structs import asdict, replace
from torch import nn

from zeta.base import html
from zeta.base.reading import MOST_ITEMS, Text, decode, json_text, shallow, shown
from zeta.base.text import count_text, fold, number_text, shape_text, table, terminal_width
from zeta.errors import PlanError, SpecError, ZetaError
from zeta.initializers import Initializer
from zeta.resolve.how import Planner
from zeta.resolve.plans import Plan
from zeta.resolve.resolver import groups
from zeta.resolve.scaling.multipliers import Multiplier
from zeta.resolve.scaling.schemes import Class, DepthRule, Ratio, Scheme, Size, depth_rule, scheme_of
from zeta.resolve.scaling.trials import Effect
from zeta.resolve.slots import walk
from zeta.rules import Kind, Role

#: the value of ``format`` in JSON
FORMAT: Final = 1
#: optimizers by how their steps depend on the gradient's size: not at all, or in proportion to it
ADAM_LIKE: Final = ("adam", "adamw", "adafactor", "lion")
OPTIMIZERS: Final = ("sgd", *ADAM_LIKE)
#: roles of weights that map a hidden state to another
_INSIDE: Final = frozenset(Role) - {
    Role.EMBEDDING, Role.POSITION, Role.RELATIVE_POSITION, Role.CLASS_TOKEN, Role.PATCH_EMBEDDING, Role.ROUTER,
    Role.READOUT, Role.LAYER_SCALE,
}  # fmt: skip
#: those whose groups have an eps that is added to the gradient's size
WITH_EPS: Final = ("adam", "adamw")
#: what Muons multiply their rate by, of rows and columns: the first two are ``adjust_lr_fn`` of ``torch.optim.Muon``
ADJUSTMENTS: Final[Mapping[str, Callable[[float, float], float]]] = MappingProxyType(
    {
        "original": lambda rows, columns: math.sqrt(max(1, rows / columns)),
        "match_rms_adamw": lambda rows, columns: math.sqrt(max(rows, columns)),
        "spectral_norm": lambda rows, columns: math.sqrt(rows / columns),
    }
)
_EXPENDABLE: Final = ("shape", "base law", "eps", "decay", "depth", "law")


class Argument(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An argument of the constructor that differs between base and target, as text, and what it does."""

    name: Text
    base: Text
    target: Text
    effect: Effect


class Scaled(Struct, frozen=True, kw_only=True):
    """One parameter: its class and growth, its law at the base, and the multiplier that its law and rate take in."""

    name: str
    size: Size
    base_law: Initializer
    absorbed: float = 1.0


class Rates(Struct, frozen=True, kw_only=True):
    """Factors of what an optimizer's group has."""

    lr: float
    eps: float
    decay: float

    def of(self, base: Mapping[str, float]) -> dict[str, float]:
        """The numbers of a group, from those at the base, by their names in torch's groups."""
        factors = {"lr": self.lr, "weight_decay": self.decay, "eps": self.eps}
        return {key: number * factors[key] for key, number in base.items()}


@dataclass(frozen=True, kw_only=True)
class ScalingTable(Planner):
    """How each parameter of the target is initialized and trained; ``print`` shows a table.

    ``plan`` is the plan of the target. ``rows`` has a row for each parameter, and ``multipliers`` what the scheme
    multiplies in the forward pass. All factors are relative to the base, except those of ``umup``, which are numbers of
    the target itself.
    """

    how: str
    alpha: float
    depth: str | None
    arguments: tuple[Argument, ...]
    rows: tuple[Scaled, ...]
    plan: Plan
    multipliers: tuple[Multiplier, ...]

    @functools.cached_property
    def _scheme(self) -> tuple[Scheme, DepthRule | None]:
        return scheme_of(self.how, self.alpha), depth_rule(self.depth, self.how)

    def _scheme_for(self, optimizer: str) -> Scheme:
        scheme, _ = self._scheme
        if scheme.optimizers and optimizer not in scheme.optimizers:
            raise SpecError(f"{self.how} has rates for {', '.join(scheme.optimizers)}, and none for {optimizer}")
        return scheme

    def __getitem__(self, name: str) -> Scaled:
        """The row of a parameter; ``KeyError`` without one of this name."""
        return {row.name: row for row in self.rows}[self.plan[name].name]

    def rates(self, row: Scaled, optimizer: str) -> Rates:
        """The factors of a parameter's learning rate, eps and weight decay under an optimizer.

        Raises ``SpecError`` for an optimizer that the scheme has no rates for.
        """
        scheme = self._scheme_for(optimizer)
        size, absorbed = row.size, row.absorbed
        if optimizer == "sgd":
            rate = scheme.sgd(size)
            return Rates(lr=rate * absorbed**2, eps=1.0, decay=scheme.decay(size, rate) / absorbed**2)
        rate = scheme.adam(size)
        lr, eps, decay = rate * absorbed, scheme.eps(size) / absorbed, scheme.decay(size, rate) / absorbed
        if optimizer == "adam":  # its decay is part of the gradient, which absorbs too
            decay /= absorbed
        if optimizer == "adafactor" and self.plan[row.name].std:  # its steps are relative to the parameter's own size
            _, rule = self._scheme
            std = scheme.std(size) * (1.0 if rule is None else rule.std(size)) * absorbed
            lr, decay = lr / std, decay * std
        return Rates(lr=lr, eps=eps if optimizer in WITH_EPS else 1.0, decay=decay)

    def is_matrix(self, row: Scaled) -> bool:
        """Whether a parameter is a matrix from one hidden state to another, which Muon is for."""
        entry, size = self.plan[row.name], row.size
        inside = size.group is Class.HIDDEN or (size.group is Class.FIXED and size.role in _INSIDE)
        return inside and len(entry.shape) == 2 and entry.kind is Kind.WEIGHT and entry.axes is not None

    def muon_rates(self, row: Scaled, adjust: str) -> Rates:
        """The factors of a matrix under a Muon that multiplies its rate by the number in ``ADJUSTMENTS``.

        That number is one of the tensor as it is stored.
        """
        scheme = self._scheme_for("muon")
        entry, size = self.plan[row.name], row.size
        rows, columns = entry.shape
        first_is_out = entry.axes is not None and 0 in entry.axes.fan_out
        grown = (size.width_out, size.width_in) if first_is_out else (size.width_in, size.width_out)
        adjusted = ADJUSTMENTS[adjust]
        rate = scheme.muon(size) * adjusted(rows / grown[0], columns / grown[1]) / adjusted(rows, columns)
        return Rates(lr=rate * row.absorbed, eps=1.0, decay=scheme.decay(size, rate) / row.absorbed)

    # -- how a model is initialized

    def plan_for(self, model: nn.Module) -> Plan:
        """The plan, with the dtypes of a model; ``PlanError`` if it has other parameters than the target."""
        found = {group[0].name: group for group in groups(walk(model))}
        here = {name: (group[0].shape, frozenset(slot.name for slot in group[1:])) for name, group in found.items()}
        there = {entry.name: (entry.shape, frozenset(entry.ties)) for entry in self.plan}
        odd = sorted({*here.items()} ^ {*there.items()}, key=lambda item: item[0])
        if odd:
            name, (shape, _) = odd[0]
            where = "the model" if name in here and here[name] == odd[0][1] else "the scaling's target"
            raise PlanError(
                f"this scaling is not for this model: only {where} has {name} of shape {shape_text(shape)} with these "
                f"ties, and {len(odd) - 1} more differences; the model must be build(**target)"
            )
        return Plan(tuple(replace(entry, dtype=found[entry.name][0].tensor.dtype) for entry in self.plan))

    # -- shown

    @property
    def summary(self) -> str:
        """One line: the scheme, what grows, and how many parameters of each class there are."""
        texts = [(each.effect, f"{each.name} {each.base} -> {each.target}") for each in self.arguments]
        grown = ", ".join(text for effect, text in texts if effect is not Effect.NONE)
        idle = ", ".join(text for effect, text in texts if effect is Effect.NONE)
        idle = f" (no parameter changes with {idle})" if idle else ""
        counts = {group: sum(row.size.group is group for row in self.rows) for group in Class}
        classes = ", ".join(f"{n} {group}" for group, n in counts.items() if n)
        rule = f" with {self.depth}" if self.depth else f" (alpha {self.alpha:g})" if self.how == "completep" else ""
        return f"{self.how}{rule}: {grown}{idle}; {classes}; {count_text(len(self.multipliers), 'multiplier')}"

    def __repr__(self) -> str:
        return f"Scaling({self.summary})"

    def __str__(self) -> str:
        return self.text(width=terminal_width())

    def text(self, *, optimizer: str = "adamw", width: int | None = None) -> str:
        """What ``print`` shows, with the learning rates of an optimizer; equal rows of repeated layers are one."""
        headings, rows, right = self._cells(check_optimizer(optimizer))
        lines = table(headings, rows, right=right, width=width, expendable=_EXPENDABLE)
        return "\n".join([lines, *self._lines(optimizer)])

    def _repr_html_(self) -> str:
        headings, rows, right = self._cells("adamw")
        title, *more = self._lines("adamw")
        return html.page(html.table_section(title, headings, rows, right=right), html.lines(more))

    def _lines(self, optimizer: str) -> list[str]:
        """The lines below the table."""
        kinds = fold((each.module, (each.where, each.factor, each.end), each) for each in self.multipliers)
        lines = [str(replace(several[0], module=name)) for name, several in kinds]
        return [self.summary, f"lr, eps and decay are factors for {optimizer}", *lines]

    def _cells(self, optimizer: str) -> tuple[list[str], list[tuple[str, ...]], list[str]]:
        headings = ["name", "shape", "class", "width", "depth", "base law", "law", "lr", "eps", "decay", "multiplier"]
        factors: dict[str, list[Multiplier]] = {}
        for each in self.multipliers:
            factors.setdefault(each.module, []).append(each)
        named = []
        for row in self.rows:
            entry = self.plan[row.name]
            modules = {name.rpartition(".")[0] for name in (entry.name, *entry.ties)}
            mine = [each for module in sorted(modules) for each in factors.get(module, ())]
            mine = [each for each in mine if not each.parameters or row.name in each.parameters]
            rates = self.rates(row, optimizer)
            cells = (
                shape_text(entry.shape),
                row.size.group.value,
                _width_text(row.size),
                _factor_text(row.size.depth),
                str(row.base_law),
                entry.law_text,
                _factor_text(rates.lr),
                _factor_text(rates.eps),
                _factor_text(rates.decay),
                ", ".join(f"{number_text(each.factor)} ({each.where})" for each in mine),
            )
            named.append((row.name, cells, cells))
        return headings, [(name, *several[0]) for name, several in fold(named)], headings[7:10]

    # -- JSON

    def to_json(self) -> str:
        """Return the scaling as JSON text; ``from_json`` reads it back exactly."""
        document = {
            "format": FORMAT,
            "how": self.how,
            "alpha": self.alpha,
            "depth": self.depth,
            "arguments": self.arguments,
            "rows": [{**asdict(row), "base_law": row.base_law.to_json()} for row in self.rows],
            "multipliers": self.multipliers,
            "plan": msgspec.Raw(self.plan.to_json().encode()),
        }
        return json_text(document)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Build the scaling that ``to_json`` described; ``PlanError`` if it is not one, or of a later format."""
        try:
            content = decode(shallow(text), _Document)
            if content.format != FORMAT:
                raise PlanError(f"it has format {content.format}; this zeta reads format {FORMAT}")
            scheme_of(content.how, content.alpha)
            depth_rule(content.depth, content.how)
            plan = Plan.from_json(bytes(content.plan))
            rows = tuple(row.scaled() for row in content.rows)
            names = [row.name for row in rows]
            parameters = [entry.name for entry in plan.parameters]
            if sorted(names) != sorted(parameters):
                raise PlanError("its rows are not those of the parameters of its plan")
        except ZetaError as error:
            raise PlanError(f"not a scaling in JSON: {error}") from error
        return cls(
            how=content.how,
            alpha=content.alpha,
            depth=content.depth,
            arguments=content.arguments,
            rows=rows,
            plan=plan,
            multipliers=content.multipliers,
        )


def check_optimizer(name: object) -> str:
    """The name of an optimizer, in lower case; ``SpecError`` if there is none of this name."""
    if not isinstance(name, str) or name.lower() not in OPTIMIZERS:
        raise SpecError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {name!r}")
    return name.lower()


def _width_text(size: Size) -> str:
    into, out = _factor_text(size.width_in), _factor_text(size.width_out)
    return f"{into or '1'} / {out or '1'}" if into or out else ""


def _factor_text(factor: float) -> str:
    return "" if factor == 1 else number_text(factor)


# -- JSON --------------------------------------------------------------------------------------------------------------


class _Row(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A row whose law is JSON still."""

    name: Text
    size: Size
    base_law: msgspec.Raw
    absorbed: Ratio

    def scaled(self) -> Scaled:
        for fans in (self.size.base, self.size.target):
            if fans is not None and not (0 <= fans.fan_in < 2**63 and 0 <= fans.fan_out < 2**63):
                raise PlanError(f"{shown(self.name)} has fans that no tensor has: {shown(fans)}")
        law = Initializer.from_json(decode(bytes(self.base_law), dict[str, Any]))
        return Scaled(name=self.name, size=self.size, base_law=law, absorbed=self.absorbed)


class _Document(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    format: int
    how: Text
    alpha: float
    depth: Text | None
    arguments: Annotated[tuple[Argument, ...], msgspec.Meta(max_length=1000)]
    rows: Annotated[tuple[_Row, ...], msgspec.Meta(max_length=MOST_ITEMS)]
    multipliers: Annotated[tuple[Multiplier, ...], msgspec.Meta(max_length=MOST_ITEMS)]
    plan: msgspec.Raw
