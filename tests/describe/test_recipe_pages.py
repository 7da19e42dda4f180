"""docs/recipes has a page for each recipe, which docs/recipe_pages.py writes; and every recipe says what it must."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
from torch import nn

from zeta import recipes
from zeta.command.recipe import described
from zeta.initializers import Initializer

DOCS = Path(__file__).parents[2] / "docs"
PAGES = runpy.run_path(str(DOCS / "recipe_pages.py"))["pages"]()


def test_the_pages_are_what_the_script_writes() -> None:
    found = {path.name: path.read_text(encoding="utf-8") for path in (DOCS / "recipes").glob("*.md")}
    assert found == PAGES, "stale: python docs/recipe_pages.py writes them again"


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_its_source_options_and_formulas(name: str) -> None:
    recipe = described(name)
    assert any(text.startswith("Source: ") for text in recipe["details"])
    options = {text.split()[1].rstrip(":") for text in recipe["details"] if text.startswith("Option ")}
    assert options == set(recipe["options"])
    for rule, given in zip(recipe["rules"], recipes.rules_for(name, nn.Module()), strict=True):
        assert rule["initializer"]
        if not isinstance(given.initializer, Initializer):
            # the formula of a law, and not a name
            assert re.search(r"[\d()=±]|refused", rule["initializer"]), rule
        assert "function" not in rule["where"]
        assert "<lambda>" not in rule["where"]
