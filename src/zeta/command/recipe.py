"""One recipe: what it says about itself, and its rules, without a model.

A recipe is a function of a model. Two stand-ins show which rules depend on it: a module without anything, and one with
a configuration, blocks and a transformer of torch.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final

from torch import nn

from zeta import recipes
from zeta.base.text import table
from zeta.errors import UsageError
from zeta.initializers import Initializer
from zeta.rules import Rule

_OTHER_STD: Final = 0.5
_WIDTH: Final = 80


def described(name: str, show: Callable[[Initializer], str] = repr) -> dict[str, Any]:
    """The recipe's name, docstring and rules, as JSON-ready values; ``UsageError`` if there is no such recipe.

    ``show`` makes the texts of the initializers: ``repr`` with all digits, ``str`` with four.
    """
    if name not in recipes.names():
        raise UsageError(f"unknown recipe {name!r}: expected one of {', '.join(recipes.names())}")
    text = inspect.getdoc(recipes.RECIPES[name]) or ""
    summary, *details = (" ".join(paragraph.replace("``", "").split()) for paragraph in text.split("\n\n"))
    bare = {rule.label: rule for rule in recipes.rules_for(name, nn.Module())}
    rules = [_described(bare.get(rule.label), rule, show) for rule in recipes.rules_for(name, _Model())]
    return {"name": name, "summary": summary, "details": details, "rules": rules}


def text_of(name: str) -> str:
    """A recipe for people."""
    recipe = described(name, str)
    rows = [(rule["where"], rule["initializer"], _remark(rule)) for rule in recipe["rules"]]
    about = [textwrap.fill(paragraph, _WIDTH) for paragraph in (recipe["summary"], *recipe["details"])]
    end = (
        "The first rule that matches a parameter decides. What depends on the model is shown for one without a "
        f"configuration and without blocks; zeta plan MODEL --recipe {name} shows the values for a model."
    )
    rules = table(("parameters", "initializer", "remark"), rows)
    return "\n\n".join([*about, rules, textwrap.fill(end, _WIDTH, break_on_hyphens=False)])


def _remark(rule: dict[str, Any]) -> str:
    remarks = {"depends on the model": rule["depends_on_model"], "by parameter": rule["by_parameter"]}
    remarks["may match nothing"] = rule["optional"]
    return ", ".join(remark for remark, holds in remarks.items() if holds)


def _described(bare: Rule | None, rule: Rule, show: Callable[[Initializer], str]) -> dict[str, Any]:
    return {
        "where": _words(rule.label) if rule.label.isidentifier() else rule.label,
        "initializer": _text(bare or rule, show),
        "by_parameter": not isinstance(rule.initializer, Initializer),
        "depends_on_model": bare is None or _text(bare, repr) != _text(rule, repr),
        "optional": rule.optional,
    }


def _text(rule: Rule, show: Callable[[Initializer], str]) -> str:
    """The initializer; for a function of the parameter, the first sentence of its docstring."""
    if isinstance(rule.initializer, Initializer):
        return show(rule.initializer)
    sentence = (inspect.getdoc(rule.initializer) or "").partition("\n")[0].rstrip(".")
    return sentence or _words(getattr(rule.initializer, "__name__", "a function"))


def _words(name: str) -> str:
    return name.strip("_").replace("_", " ")


class _Model(nn.Module):
    """A stand-in that has whatever recipes look for in a model."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(initializer_range=_OTHER_STD)
        self.h = nn.ModuleList(nn.ModuleDict({"attn": _Projection(), "mlp": _Projection()}) for _ in range(2))
        self.transformer = nn.Transformer(4, 2, 1, 1, 4, batch_first=True, device="meta")


class _Projection(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_proj = nn.Identity()
