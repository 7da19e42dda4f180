"""One recipe: what it says about itself, its options and its rules, and the plan that it makes of a model."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from typing import Any, Final

from torch import nn

from zeta import recipes
from zeta.base.text import table
from zeta.initializers import Initializer
from zeta.rules import Rule

_WIDTH: Final = 80


def described(name: str, show: Callable[[Initializer], str] = repr) -> dict[str, Any]:
    """The recipe's name, docstring, options and rules, as JSON-ready values; ``SpecError`` if there is none.

    ``show`` makes the texts of the initializers: ``repr`` with all digits, ``str`` with four.
    """
    summary, *details = paragraphs(name)
    return {
        "name": name,
        "summary": summary,
        "details": details,
        "options": recipes.options(name),
        "rules": [_described(rule, show) for rule in recipes.rules_for(name, nn.Module())],
    }


def paragraphs(name: str) -> list[str]:
    """The paragraphs of a recipe's docstring, each in one line; each option is a paragraph."""
    recipes.summary(name)
    found: list[str] = []
    for paragraph in (inspect.getdoc(recipes.RECIPES[name]) or "").replace("``", "").split("\n\n"):
        head, _, rest = paragraph.partition("\n")
        if head == "Options:":
            found += [" ".join(each.split()) for each in _options(rest)]
        else:
            found.append(" ".join(paragraph.split()))
    return found


def _options(text: str) -> list[str]:
    """The options in a docstring; the further lines of one are indented more."""
    found: list[str] = []
    for line in textwrap.dedent(text).splitlines():
        if line.startswith(" "):
            found[-1] += f" {line.strip()}"
        else:
            found.append(f"Option {line}")
    return found


def text_of(name: str) -> str:
    """A recipe for people."""
    recipe = described(name, str)
    rows = [
        (rule["where"], rule["initializer"], "may match nothing" if rule["optional"] else "")
        for rule in recipe["rules"]
    ]
    about = [textwrap.fill(paragraph, _WIDTH) for paragraph in (recipe["summary"], *recipe["details"])]
    end = (
        f"The first rule that matches a parameter decides. zeta recipes show {name} MODEL shows the values for a model."
    )
    rules = table(("parameters", "initializer", "remark"), rows)
    return "\n\n".join([*about, rules, textwrap.fill(end, _WIDTH, break_on_hyphens=False)])


def _described(rule: Rule, show: Callable[[Initializer], str]) -> dict[str, Any]:
    return {
        "where": rule.label,
        "initializer": _text(rule, show),
        "by_parameter": not isinstance(rule.initializer, Initializer),
        "optional": rule.optional,
    }


def _text(rule: Rule, show: Callable[[Initializer], str]) -> str:
    """The initializer; for a function of the parameter, its formula, which is its docstring."""
    if isinstance(rule.initializer, Initializer):
        return show(rule.initializer)
    return " ".join((inspect.getdoc(rule.initializer) or "").split()).rstrip(".")
