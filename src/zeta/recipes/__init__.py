"""Published initializations by name, built with zeta's public functions only.

A recipe is a function from a model to :class:`~zeta.rules.Rules`. Use it by name, ``zeta.plan(model, "gpt2")``, or call
it where it takes options: ``zeta.plan(model, zeta.recipes.resnet(model, zero_init_residual=True))``.
"""

from __future__ import annotations

import ast
import importlib
from importlib import resources
from typing import TYPE_CHECKING, Any, Final

from zeta.base.spelling import did_you_mean
from zeta.errors import SpecError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from zeta.recipes.convolutional import resnet
    from zeta.recipes.torch_layers import torch_default
    from zeta.recipes.transformers import bert, gpt2, llama, vit
    from zeta.rules import Rules

    Recipe = Callable[[nn.Module], Rules]
    RECIPES: dict[str, Recipe]

__all__ = ["RECIPES", "bert", "gpt2", "llama", "names", "resnet", "rules_for", "summary", "torch_default", "vit"]

#: by name of a recipe, the module that it is in and its function; imported when first used
_HOMES: Final = {
    "bert": ("transformers", "bert"),
    "gpt2": ("transformers", "gpt2"),
    "llama": ("transformers", "llama"),
    "resnet": ("convolutional", "resnet"),
    "torch": ("torch_layers", "torch_default"),
    "vit": ("transformers", "vit"),
}


def names() -> list[str]:
    """The recipes' names.

    >>> names()
    ['bert', 'gpt2', 'llama', 'resnet', 'torch', 'vit']
    """
    return sorted(_HOMES)


def summary(name: str) -> str:
    """The first sentence of a recipe's docstring, read from the source, because importing a recipe imports torch."""
    module, function = _home(name)
    tree = ast.parse(resources.files(__name__).joinpath(f"{module}.py").read_text(encoding="utf-8"))
    [found] = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == function)
    return (ast.get_docstring(found) or "").split("\n\n")[0].strip().replace("``", "")


def rules_for(name: str, model: nn.Module) -> Rules:
    """The rules of recipe ``name`` for ``model``; ``SpecError`` if there is no such recipe."""
    return _recipe(name)(model)


def _home(name: str) -> tuple[str, str]:
    if name not in _HOMES:
        close = did_you_mean(name, _HOMES)
        raise SpecError(f"unknown recipe {name!r}: expected one of {', '.join(names())}, or Rules([...]){close}")
    return _HOMES[name]


def _recipe(name: str) -> Recipe:
    module, function = _home(name)
    found: Recipe = getattr(importlib.import_module(f"{__name__}.{module}"), function)
    return found


def __getattr__(name: str) -> Any:
    if name == "RECIPES":
        return {each: _recipe(each) for each in _HOMES}
    for recipe, (_, function) in _HOMES.items():
        if function == name:
            return _recipe(recipe)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
