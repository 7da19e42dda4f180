"""The options of all recipes: values of another sort, and counts that count nothing, are refused by name."""

from __future__ import annotations

import inspect
import math
from typing import Any, Final

import pytest
from torch import nn

import zeta
from zeta import recipes
from zeta.errors import SpecError

#: by the stated type, values that no recipe takes
_REFUSED: Final[dict[str, list[Any]]] = {
    "bool": ["yes", 1, 0.5],
    "str": [3, True],
    "str | None": [3, True],
    "int": ["a", 2.5, True],
    "int | None": ["a", 2.5, True, 0, -1],
    "float": ["a", True],
    "float | None": ["a", True],
}


def cases() -> list[tuple[str, str, Any]]:
    found = []
    for name in recipes.names():
        for each in inspect.signature(recipes.RECIPES[name]).parameters.values():
            if each.kind is each.KEYWORD_ONLY:
                found += [(name, each.name, value) for value in _REFUSED[str(each.annotation)]]
    return found


@pytest.mark.parametrize(("recipe", "option", "value"), cases())
def test_a_value_of_another_sort_is_refused(recipe: str, option: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"the recipe '{recipe}': {option} must be .*, got {value!r}"):
        zeta.plan(nn.Linear(3, 3), recipe, **{option: value})


@pytest.mark.parametrize("recipe", ["timm_vit", "deit", "convnext"])
@pytest.mark.parametrize("value", [-1, math.nan, math.inf])
def test_layer_scales_are_not_negative(recipe: str, value: float) -> None:
    with pytest.raises(SpecError, match=f"the recipe '{recipe}': layer_scale must be at least 0, got {value}"):
        zeta.plan(nn.Linear(3, 3), recipe, layer_scale=value)


@pytest.mark.parametrize(("recipe", "option"), [("siren", "omega"), ("vit", "std")])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_numbers_that_must_be_positive(recipe: str, option: str, value: float) -> None:
    with pytest.raises(SpecError, match=f"the recipe '{recipe}': {option} must be a positive number, got {value}"):
        zeta.plan(nn.Linear(3, 3), recipe, **{option: value})
