"""Read rules from a file: TOML or JSON for simple rules, Python for anything else.

    [[rules]]
    name = "*.c_proj.weight"                        # name, regex, module, kind, role, shape, ndim; all must hold
    initializer = { name = "Normal", std = 0.02 }   # or just "Zeros", or a classical name with its arguments
    residual = true                                 # optional: divide by sqrt(2 * layers)

A Python file defines ``rules``: ``Rules([...])``, or a function of the model that returns them.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from functools import reduce
from operator import and_
from pathlib import Path
from typing import Any, Final

from torch import nn

from zeta import initializers
from zeta.base.reading import LARGEST_RULES, is_file, parse_json, parse_toml, read_bytes, shown, suggestion
from zeta.errors import FormatError, SpecError, UsageError
from zeta.fans import Axes
from zeta.initializers import Blocks, Initializer
from zeta.rules import Match, Rule, Rules, Where, glob, kind, module, ndim, regex, role, shape
from zeta.rules.match import depth_of

_CONDITIONS: Final[dict[str, Callable[[Any], Where]]] = {
    "name": glob,
    "regex": regex,
    "module": module,
    "kind": kind,
    "role": role,
    "shape": lambda extents: _shape(extents),
    "ndim": ndim,
}
_OTHERS: Final = ("initializer", "residual", "axes", "optional", "buffers", "label")
_CLASSICAL: Final = tuple(
    f"{family}_{distribution}"
    for family in ("lecun", "xavier", "glorot", "kaiming", "he")
    for distribution in ("normal", "uniform", "truncated_normal")
)


def read_rules(path: Path, model: nn.Module | None) -> Rules:
    """Read the rules in ``path``; ``UsageError`` says what is wrong with the file, and where.

    If a Python file defines a function of the model, ``model`` must be given.
    """
    if path.suffix == ".py":
        if not is_file(path):
            raise UsageError(f"no such rule file: {path}")
        return _from_python(path, model)
    form, parsed = ("TOML", parse_toml) if path.suffix == ".toml" else ("JSON", parse_json)
    try:
        data = parsed(read_bytes(path, LARGEST_RULES))
    except FileNotFoundError:
        raise UsageError(f"no such rule file: {path}") from None
    except OSError as error:
        raise UsageError(f"rule file {path} cannot be read: {error.strerror or error}") from error
    except FormatError as error:
        raise UsageError(f"rule file {path} cannot be read as {form}: {error}") from error
    rules = data.get("rules") if isinstance(data, Mapping) else data
    if not isinstance(rules, list) or (isinstance(data, Mapping) and set(data) != {"rules"}):
        raise UsageError(
            f"rule file {path}: expected a list of tables called 'rules', got "
            f"{shown(sorted(data) if isinstance(data, Mapping) else data)}"
        )
    if not rules:
        raise UsageError(f"rule file {path} has no rule; at least one rule is needed")
    return Rules([_rule(item, f"rule file {path}, rule {number}") for number, item in enumerate(rules, 1)])


def _from_python(path: Path, model: nn.Module | None) -> Rules:
    spec = importlib.util.spec_from_file_location(f"zeta_rules_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    namespace = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = namespace  # dataclasses look up their module there
    try:
        spec.loader.exec_module(namespace)
        rules = getattr(namespace, "rules", None)
        rules = rules(model) if callable(rules) and model is not None else rules
    except (Exception, SystemExit) as error:
        raise UsageError(f"rule file {path} fails: {type(error).__name__}: {error}") from error
    if model is None and callable(rules):
        raise UsageError(
            f"rule file {path}: rules are needed before there is a model, so they cannot be a function of it"
        )
    if not isinstance(rules, Rules):
        raise UsageError(
            f"rule file {path} must define rules = Rules([...]), or a function rules(model), got {shown(rules)}"
        )
    return rules


def _rule(item: Any, place: str) -> Rule:
    if not isinstance(item, Mapping):
        raise UsageError(f"{place}: expected a table, got {shown(item)}")
    for key in item:
        if key not in _CONDITIONS and key not in _OTHERS:
            raise UsageError(f"{place}: unknown key {shown(key)}{suggestion(key, [*_CONDITIONS, *_OTHERS])}")
    conditions = [key for key in item if key in _CONDITIONS]
    if not conditions or "initializer" not in item:
        raise UsageError(f"{place}: needs an initializer and at least one of {', '.join(_CONDITIONS)}")
    try:
        initializer = _initializer(item["initializer"])
        return Rule(
            reduce(and_, [_CONDITIONS[key](item[key]) for key in conditions]),
            _residual(initializer) if _flag(item, "residual") else initializer,
            axes=Axes.from_json(item["axes"]) if "axes" in item else None,
            optional=_flag(item, "optional"),
            buffers=_flag(item, "buffers"),
            label=item.get("label", ""),
        )
    except (SpecError, TypeError) as error:
        raise UsageError(f"{place}: {error}") from error


def _shape(extents: Any) -> Where:
    if not isinstance(extents, list):
        raise SpecError(f'shape is a list such as [768, "*"], got {shown(extents)}')
    return shape(*(None if extent == "*" else extent for extent in extents))


def _flag(item: Mapping[str, Any], key: str) -> bool:
    value = item.get(key, False)
    if not isinstance(value, bool):
        raise SpecError(f"{key} must be true or false, got {shown(value)}")
    return value


def _residual(initializer: Initializer) -> Callable[[Match], Initializer]:
    def divided(match: Match) -> Initializer:
        return initializer.scaled((2 * depth_of(match)) ** -0.5)

    return divided


def _initializer(data: Any) -> Initializer:
    spec = {"name": data} if isinstance(data, str) else data
    if not isinstance(spec, Mapping) or "name" not in spec:
        raise SpecError(f"an initializer is a name, or a table with one, got {shown(data)}")
    name = spec["name"]
    if not isinstance(name, str):
        raise SpecError(f"an initializer's name is a text, got {shown(name)}")
    if name == Blocks.__name__:
        return _blocks(spec)
    if name in _CLASSICAL:
        arguments = {key: value for key, value in spec.items() if key != "name"}
        scheme: Initializer = getattr(initializers, name)(**arguments)
        return scheme
    if name not in Initializer.registry:
        known = [*Initializer.registry, *_CLASSICAL]
        raise SpecError(f"unknown initializer {shown(name)}{suggestion(str(name), known)}")
    return Initializer.from_json(spec)


def _blocks(spec: Mapping[str, Any]) -> Blocks:
    """Blocks as a list of ``parts``, or by their names."""
    parts = spec.get("parts", [])
    if not isinstance(parts, list):
        raise SpecError(f"Blocks: parts is a list of initializers, got {shown(parts)}")
    named = {key: _initializer(value) for key, value in spec.items() if key not in ("name", "parts", "dim")}
    return Blocks(*map(_initializer, parts), dim=spec.get("dim", 0), **named)
