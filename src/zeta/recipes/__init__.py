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

    from zeta.recipes.general.adapters import lora, rslora
    from zeta.recipes.general.depth import deepnorm, fixup, rezero, skipinit, t_fixup
    from zeta.recipes.general.frameworks import flax, keras, torch_default
    from zeta.recipes.general.recurrent import gru, irnn, lstm
    from zeta.recipes.general.reinforcement import ppo
    from zeta.recipes.general.theory import critical, mimetic, zer_o
    from zeta.recipes.images.adversarial import dcgan, stylegan2, vq
    from zeta.recipes.images.detection import deformable_detr, detr, retinanet
    from zeta.recipes.images.fields import instant_ngp, nerf, siren
    from zeta.recipes.images.generative import controlnet, diffusion_unet, dit, edm, edm2
    from zeta.recipes.images.vision import convnext, deit, efficientnet, nnunet, resnet, swin, swin_v2, timm_vit, vit
    from zeta.recipes.text.language import bert, clip, gpt2, llama, moe, t5
    from zeta.recipes.text.pretraining import gpt_neox, megatron, olmo, torchtitan_deepseek_v3, torchtitan_llama3
    from zeta.recipes.text.speedruns import modded_nanogpt, nanochat
    from zeta.recipes.text.state_space import mamba, mamba2
    from zeta.rules import Rules

    Recipe = Callable[..., Rules]
    RECIPES: dict[str, Recipe]

__all__ = [
    "RECIPES",
    "bert",
    "clip",
    "controlnet",
    "convnext",
    "critical",
    "dcgan",
    "deepnorm",
    "deformable_detr",
    "deit",
    "detr",
    "diffusion_unet",
    "dit",
    "edm",
    "edm2",
    "efficientnet",
    "families",
    "fixup",
    "flax",
    "gpt2",
    "gpt_neox",
    "gru",
    "instant_ngp",
    "irnn",
    "keras",
    "llama",
    "lora",
    "lstm",
    "mamba",
    "mamba2",
    "megatron",
    "mimetic",
    "modded_nanogpt",
    "moe",
    "names",
    "nanochat",
    "nerf",
    "nnunet",
    "olmo",
    "options",
    "ppo",
    "resnet",
    "retinanet",
    "rezero",
    "rslora",
    "rules_for",
    "siren",
    "skipinit",
    "stylegan2",
    "summary",
    "swin",
    "swin_v2",
    "t5",
    "t_fixup",
    "timm_vit",
    "torch_default",
    "torchtitan_deepseek_v3",
    "torchtitan_llama3",
    "vit",
    "vq",
    "zer_o",
]

#: by module, the recipes in it; a recipe is imported when it is first used, because that imports torch
_FAMILIES: Final = {
    "text.language": ("bert", "clip", "gpt2", "llama", "moe", "t5"),
    "text.pretraining": ("gpt_neox", "megatron", "olmo", "torchtitan_deepseek_v3", "torchtitan_llama3"),
    "text.speedruns": ("modded_nanogpt", "nanochat"),
    "text.state_space": ("mamba", "mamba2"),
    "images.vision": ("convnext", "deit", "efficientnet", "nnunet", "resnet", "swin", "swin_v2", "timm_vit", "vit"),
    "images.detection": ("deformable_detr", "detr", "retinanet"),
    "images.generative": ("controlnet", "diffusion_unet", "dit", "edm", "edm2"),
    "images.adversarial": ("dcgan", "stylegan2", "vq"),
    "images.fields": ("instant_ngp", "nerf", "siren"),
    "general.recurrent": ("gru", "irnn", "lstm"),
    "general.frameworks": ("flax", "keras", "torch"),
    "general.reinforcement": ("ppo",),
    "general.adapters": ("lora", "rslora"),
    "general.depth": ("deepnorm", "fixup", "rezero", "skipinit", "t_fixup"),
    "general.theory": ("critical", "mimetic", "zer_o"),
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
    return ast.parse(resources.files(__name__).joinpath(f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))


def _module(name: str) -> str:
    if name not in _MODULES:
        from zeta.rules.instead import instead_of_a_scheme

        close = instead_of_a_scheme(name) or did_you_mean(name, _MODULES)
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
