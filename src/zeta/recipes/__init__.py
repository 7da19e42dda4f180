"""Published initializations by name, built from the public parts of zeta only.

A recipe is a function from a model to :class:`~zeta.rules.Rules`. Use it by name, ``zeta.plan(model, "gpt2")``, or call
it where it takes options: ``zeta.plan(model, zeta.recipes.resnet(model, zero_init_residual=True))``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import nn

from zeta.errors import SpecError
from zeta.recipes.gpt2 import gpt2
from zeta.recipes.resnet import resnet
from zeta.recipes.torch_default import torch_default
from zeta.recipes.transformers import bert, llama, vit
from zeta.rules import Rules

__all__ = ["RECIPES", "bert", "gpt2", "llama", "names", "resnet", "rules_for", "summary", "torch_default", "vit"]

Recipe = Callable[[nn.Module], Rules]

RECIPES: Final[dict[str, Recipe]] = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "resnet": resnet,
    "torch": torch_default,
    "vit": vit,
}


def names() -> list[str]:
    """The recipes' names.

    >>> names()
    ['bert', 'gpt2', 'llama', 'resnet', 'torch', 'vit']
    """
    return sorted(RECIPES)


def summary(name: str) -> str:
    """The first sentence of a recipe's description."""
    return (_recipe(name).__doc__ or "").split("\n\n")[0].strip().replace("``", "")


def rules_for(name: str, model: nn.Module) -> Rules:
    """The rules of recipe ``name`` for ``model``; ``SpecError`` if there is no such recipe."""
    return _recipe(name)(model)


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise SpecError(f"unknown recipe {name!r}: expected one of {', '.join(names())}, or Rules([...])")
    return RECIPES[name]
