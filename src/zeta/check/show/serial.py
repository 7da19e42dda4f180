"""Results as JSON and back, exactly. ``schema.json`` describes the document."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from importlib import resources
from typing import Any, Final

from zeta.base.reading import shown
from zeta.check.facts.results import Results, Rule
from zeta.errors import CheckDocumentError

#: the value of ``format``; raised by every change that old readers cannot read
FORMAT: Final = "zeta-check/1"

# JSON has no numbers for these
_NONFINITE: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
# keys of the document that are not fields of Results: derived, or collected from the findings
_ADDED: Final = ("format", "ok", "rules")
# sizes, counts and a seed are smaller; what is computed from them fits a float
_TOO_LARGE: Final = 2**64


def to_json(results: Results) -> dict[str, Any]:
    """Return a dictionary for ``json.dumps(..., allow_nan=False)``, as ``schema()`` describes it.

    Each rule is stored once, in ``rules``, by id. JSON lacks some numbers: they are ``"NaN"``, ``"Infinity"`` and
    ``"-Infinity"``.

    >>> from zeta.check.facts.results import Results
    >>> results = Results(
    ...     model="Net",
    ...     level="fast",
    ...     findings=(),
    ...     suppressed=(),
    ...     layers=(),
    ...     parameters=(),
    ...     loss=None,
    ...     seconds=0.5,
    ...     versions=(("zeta", "0.1.0"),),
    ...     device="cpu",
    ... )
    >>> to_json(results)["ok"], from_json(to_json(results)) == results
    (True, True)
    """
    found = (*results.findings, *results.suppressed)
    rules = {finding.rule.id: finding.rule for finding in found}
    assert all(rules[finding.rule.id] == finding.rule for finding in found), "two rules of one id"
    return {
        "format": FORMAT,
        "ok": results.ok,
        "rules": {name: _fields(rule) for name, rule in sorted(rules.items())},
        **_fields(results),
    }


def from_json(document: Mapping[str, Any]) -> Results:
    """Build the results that ``to_json`` described.

    Raises:
        CheckDocumentError: if the document is of another format, or broken.
    """
    form = document.get("format") if isinstance(document, Mapping) else None
    if form != FORMAT:
        raise CheckDocumentError(
            f"not a check's results: expected the format {FORMAT!r}, found {shown(form)}; read it with the zeta "
            "that wrote it"
        )
    try:
        rules = {name: _record(Rule, rule, {}) for name, rule in document["rules"].items()}
        if other := [name for name, rule in rules.items() if name != rule.id]:
            raise ValueError(f"under {shown(other[0])} is the rule {shown(rules[other[0]].id)}")
        results = _read(Results, {name: value for name, value in document.items() if name not in _ADDED}, rules)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckDocumentError(f"a check's results are broken ({shown(error)}); write them again") from error
    assert isinstance(results, Results)
    return results


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what ``to_json`` returns."""
    text = resources.files("zeta.check.show").joinpath("schema.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read


def number_to_json(value: float) -> float | str:
    """A number, or the name of one that JSON lacks."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _fields(data: Any) -> dict[str, Any]:
    return {field.name: _written(getattr(data, field.name)) for field in dataclasses.fields(data)}


def _written(value: Any) -> Any:
    if isinstance(value, Rule):
        return value.id
    if dataclasses.is_dataclass(value):
        return _fields(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [_written(item) for item in value]
    return number_to_json(value) if isinstance(value, float) else value


def _read(kind: Any, value: Any, rules: Mapping[str, Rule]) -> Any:
    """Convert a JSON value to ``kind``, the annotation of a field in ``results``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):  # always with None
        return None if value is None else _read(arguments[0], value, rules)
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected a list, found {shown(value)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is ... else arguments
        return tuple(_read(one, item, rules) for one, item in zip(kinds, value, strict=True))
    if kind is Rule:  # by its id: each rule is in the document once
        return rules[value]
    if dataclasses.is_dataclass(kind):
        assert isinstance(kind, type)
        return _record(kind, value, rules)
    if kind is float:
        return _NONFINITE[value] if isinstance(value, str) else float(value)
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {shown(value)}")
    if isinstance(value, int) and abs(value) >= _TOO_LARGE:
        raise ValueError(f"a whole number of {value.bit_length():,} bits; at most 64 are read")
    if isinstance(value, str):
        value.encode()  # half of a surrogate pair, which no file can hold, is a ValueError
    return value


def _record(kind: type, value: Any, rules: Mapping[str, Rule]) -> Any:
    hints = _hints(kind)
    return kind(**{name: _read(hints[name], item, rules) for name, item in value.items()})


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
