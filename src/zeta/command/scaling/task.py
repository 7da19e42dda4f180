"""The task of ``zeta scale``."""

from __future__ import annotations

import re
from typing import Any, Final

from zeta.base.reading import parse_json
from zeta.command.loading import find_factory
from zeta.command.options import fallback_of
from zeta.command.printing import say, say_document, stdout_for_json, width
from zeta.command.requests import ScaleOptions
from zeta.errors import FormatError, UsageError
from zeta.scaling import Scaling
from zeta.scaling import scale as scaled

#: a comma between arguments, and not inside of a list or an object
_COMMA: Final = re.compile(r",(?=\s*[^\W\d]\w*\s*=)")


def scale(asked: ScaleOptions, *, as_json: bool) -> None:
    """Print the table and the groups, or the scaling as JSON."""
    base, target = arguments_of("--base", asked.base), arguments_of("--target", asked.target)
    with stdout_for_json(as_json):
        scaling = scaled(
            find_factory(asked.model),
            base,
            target,
            asked.how,
            init=asked.recipe,
            roles=_roles(asked.roles),
            depth=asked.depth,
            alpha=asked.alpha,
            multipliers=asked.multipliers,
            attention=asked.attention,
            fallback=fallback_of(asked.fallback),
        )
        code = code_of(scaling, asked)
    if as_json:
        say_document(scaling.to_json())
    else:
        say(scaling.text(optimizer=asked.optimizer, width=width()))
        say("")
        say(code)


def arguments_of(option: str, text: str) -> dict[str, Any]:
    """``a=1,b=[2,3]``, or an object in JSON, as a dictionary; a value that is no JSON is a text."""
    if text.lstrip().startswith("{"):
        return _whole(option, text)
    found: dict[str, Any] = {}
    for part in _COMMA.split(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise UsageError(f"{option} must be arguments such as d_model=256,n_layer=4, got {text!r}")
        try:
            found[key.strip()] = parse_json(value)
        except FormatError:
            found[key.strip()] = value.strip()
    return found


def _whole(option: str, text: str) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except FormatError as error:
        raise UsageError(f"{option} is not JSON: {error}") from None
    assert isinstance(found, dict)
    return found


def _roles(given: tuple[str, ...]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for text in given:
        glob, equals, group = text.rpartition("=")
        if not equals or not glob:
            raise UsageError(f'--role must be GLOB=CLASS, such as "side.*=output", got {text!r}')
        found[glob] = group
    return found or None


def code_of(scaling: Scaling, asked: ScaleOptions) -> str:
    """Code that makes the groups of the optimizer without zeta: rates by patterns of names."""
    numbers: dict[str, set[tuple[float, ...]]] = {}
    by_name: dict[str, tuple[float, ...]] = {}
    for row in scaling.rows:
        rates = scaling.rates(row, asked.optimizer)
        for name in (row.name, *scaling.plan[row.name].ties):
            by_name[name] = (asked.lr * rates.lr, asked.weight_decay * rates.decay, 1e-8 * rates.eps)
            numbers.setdefault(_pattern(name), set()).add(by_name[name])
    rows = {
        (_pattern(name) if len(numbers[_pattern(name)]) == 1 else re.escape(name)): each
        for name, each in by_name.items()
    }
    with_eps = asked.optimizer in ("adam", "adamw")
    shown = 3 if with_eps else 2
    numbers_of = {pattern: ", ".join(f"{number:.6g}" for number in each[:shown]) for pattern, each in rows.items()}
    lines = [f"    {_literal(pattern)}: ({each})," for pattern, each in numbers_of.items()]
    keys = ("lr", "weight_decay", "eps")[:shown]
    return "\n".join(
        [
            "import re",
            "",
            f"rates = {{  # names: {', '.join(keys)}",
            *lines,
            "}",
            "groups = []",
            "for name, parameter in model.named_parameters():",
            "    numbers = next(each for pattern, each in rates.items() if re.fullmatch(pattern, name))",
            f'    groups.append({{"params": [parameter], **dict(zip({keys!r}, numbers))}})',
        ]
    )


def _literal(pattern: str) -> str:
    """A text as Python code, whatever a name has in it."""
    return f'r"{pattern}"' if pattern.isprintable() and '"' not in pattern else repr(pattern)


def _pattern(name: str) -> str:
    """A regular expression for the parameters of a name in all layers."""
    return r"\.".join(r"\d+" if part.isdecimal() else re.escape(part) for part in name.split("."))
