"""Published initializations by name, built with zeta's public functions only.

A recipe is a function from a model, and options, to :class:`~zeta.rules.Rules`. Use it by name, with its options as
keywords, ``zeta.plan(model, "resnet", zero_init_residual=True)``, or call it to put rules of your own before its rules:
``Rules([...]) + zeta.recipes.resnet(model)``.
"""

from __future__ import annotations

import ast
import functools
import importlib
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from zeta.base.spelling import did_you_mean
from zeta.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from zeta.recipes.adapters import lora, rslora
    from zeta.recipes.depth import deepnorm, fixup, rezero, skipinit, t_fixup
    from zeta.recipes.fields import instant_ngp, nerf, siren
    from zeta.recipes.frameworks import flax, keras, torch_default
    from zeta.recipes.language import bert, gpt2, llama
    from zeta.recipes.recurrent import gru, irnn, lstm
    from zeta.recipes.reinforcement import ppo
    from zeta.recipes.theory import critical, mimetic, zer_o
    from zeta.recipes.vision import resnet, vit
    from zeta.rules import Rules

    Recipe = Callable[..., Rules]
    RECIPES: dict[str, Recipe]

__all__ = [
    "RECIPES",
    "bert",
    "critical",
    "deepnorm",
    "families",
    "fixup",
    "flax",
    "gpt2",
    "gru",
    "instant_ngp",
    "irnn",
    "keras",
    "llama",
    "lora",
    "lstm",
    "mimetic",
    "names",
    "nerf",
    "options",
    "ppo",
    "resnet",
    "rezero",
    "rslora",
    "rules_for",
    "siren",
    "skipinit",
    "summary",
    "t_fixup",
    "torch_default",
    "vit",
    "zer_o",
]

#: by module, the recipes in it; a recipe is imported when it is first used, because that imports torch
_FAMILIES: Final = {
    "language": ("bert", "gpt2", "llama"),
    "vision": ("resnet", "vit"),
    "recurrent": ("gru", "irnn", "lstm"),
    "adapters": ("lora", "rslora"),
    "fields": ("instant_ngp", "nerf", "siren"),
    "reinforcement": ("ppo",),
    "depth": ("deepnorm", "fixup", "rezero", "skipinit", "t_fixup"),
    "theory": ("critical", "mimetic", "zer_o"),
    "frameworks": ("flax", "keras", "torch"),
}
_MODULES: Final = {name: module for module, names in _FAMILIES.items() for name in names}
#: the recipes whose functions have other names
_FUNCTIONS: Final = {"torch": "torch_default"}


def names() -> list[str]:
    """The recipes' names.

    >>> "gpt2" in names()
    True
    """
    return sorted(_MODULES)


def families() -> dict[str, list[str]]:
    """The recipes' names by family.

    >>> "gpt2" in families()["Language models"]
    True
    """
    return {_title(module): sorted(names) for module, names in _FAMILIES.items()}


def summary(name: str) -> str:
    """The first sentence of a recipe's docstring, read from the source, because importing a recipe imports torch."""
    tree, function = _source(_module(name)), _FUNCTIONS.get(name, name)
    [found] = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(found) or "").split("\n\n")[0].strip().replace("``", "")


def options(name: str) -> dict[str, Any]:
    """The options of recipe ``name`` and their defaults; ``SpecError`` if there is no such recipe."""
    from zeta.recipes.parts import options_of

    return options_of(_recipe(name))


def rules_for(name: str, model: nn.Module, **options: Any) -> Rules:
    """The rules of recipe ``name`` for ``model``; ``SpecError`` without such a recipe or option."""
    return _recipe(name)(model, **options)


def _title(module: str) -> str:
    return (ast.get_docstring(_source(module)) or "").partition(":")[0].rstrip(".")


@functools.lru_cache
def _source(module: str) -> ast.Module:
    return ast.parse(resources.files(__name__).joinpath(f"{module}.py").read_text(encoding="utf-8"))


def _module(name: str) -> str:
    if name not in _MODULES:
        close = did_you_mean(name, _MODULES)
        raise SpecError(f"unknown recipe {name!r}: expected one of {', '.join(names())}, or Rules([...]){close}")
    return _MODULES[name]


def _recipe(name: str) -> Recipe:
    home = importlib.import_module(f"{__name__}.{_module(name)}")
    found: Recipe = getattr(home, _FUNCTIONS.get(name, name))
    return found


def __getattr__(name: str) -> Any:
    if name == "RECIPES":
        return {each: _recipe(each) for each in _MODULES}
    if name in _MODULES and name not in _FUNCTIONS:
        return _recipe(name)
    for recipe, function in _FUNCTIONS.items():
        if function == name:
            return _recipe(recipe)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
