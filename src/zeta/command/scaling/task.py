"""The task of ``zeta scale``."""

from __future__ import annotations

import re
from typing import Any, Final

from zeta.command import options
from zeta.command.loading import find_factory
from zeta.command.printing import say, say_document, stdout_for_json, width
from zeta.command.requests import ScaleOptions
from zeta.errors import UsageError
from zeta.resolve.scaling.groups import base_numbers
from zeta.resolve.scaling.table import check_optimizer
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
            fallback=options.fallback_of(asked.fallback),
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
        return options.arguments_of(text, option)
    found: dict[str, Any] = {}
    for part in _COMMA.split(text):
        key, equals, value = part.partition("=")
        if not equals or not key.strip().isidentifier():
            raise UsageError(f"{option} must be arguments such as d_model=256,n_layer=4, got {text!r}")
        found[key.strip()] = options.value_of(value.strip())
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
    optimizer = check_optimizer(asked.optimizer)
    base = base_numbers(optimizer, lr=asked.lr, weight_decay=asked.weight_decay)
    numbers: dict[str, set[tuple[float, ...]]] = {}
    by_name: dict[str, tuple[float, ...]] = {}
    for row in scaling.rows:
        rates = scaling.rates(row, optimizer)
        for name in (row.name, *scaling.plan[row.name].ties):
            by_name[name] = tuple(rates.of(base).values())
            numbers.setdefault(_pattern(name), set()).add(by_name[name])
    rows = {
        (_pattern(name) if len(numbers[_pattern(name)]) == 1 else re.escape(name)): each
        for name, each in by_name.items()
    }
    numbers_of = {pattern: ", ".join(f"{number:.6g}" for number in each) for pattern, each in rows.items()}
    lines = [f"    {_literal(pattern)}: ({each})," for pattern, each in numbers_of.items()]
    keys = tuple(base)
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
