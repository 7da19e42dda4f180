"""Write a page for each recipe, and the list of them, from what the recipes say about themselves.

python docs/recipe_pages.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from zeta import recipes
from zeta.command.recipe import described

FOLDER: Final = Path(__file__).parent / "recipes"

_HEAD: Final = """# Recipes

Published initializations by name: `zeta.plan(model, "gpt2")`, `zeta.init_(model, "gpt2", seed=0)`, or
`--recipe gpt2` on the command line. Options are keywords, `zeta.plan(model, "resnet", zero_init_residual=True)`, or
`--option zero_init_residual=true`. A recipe is also a function that returns its rules; yours go before them:
`Rules([...]) + zeta.recipes.gpt2(model)`. A recipe that does not fit a model is an error, which lists what it looked
for. Which parameter is an attention output or a router is found by [roles](../rules.md#roles).

`zeta recipes` prints this list, `zeta recipes show NAME` one recipe, and `zeta recipes show NAME MODEL` its plan for a
model. Each page here is written from the recipe's code, by `docs/recipe_pages.py`.
"""


def pages() -> dict[str, str]:
    """The text of each page, by the name of its file."""
    written = {f"{name}.md": _page(name) for name in recipes.names()}
    families = [
        f"## {family}\n\n" + "\n".join(f"- [{name}]({name}.md): {_code(recipes.summary(name))}" for name in names)
        for family, names in recipes.families().items()
    ]
    return {"README.md": "\n\n".join([_HEAD.strip(), *families]) + "\n", **written}


def _page(name: str) -> str:
    recipe = described(name, str)
    rows = [f"| {_cell(rule['where'])} | {_cell(rule['initializer'])} | {_remark(rule)} |" for rule in recipe["rules"]]
    options = [text for text in recipe["details"] if text.startswith("Option ")]
    details = [text for text in recipe["details"] if text not in options]
    about = [_code(recipe["summary"]), *map(_code, details)]
    if options:
        about.append("## Options\n\n" + "\n".join(f"- {_option(text, recipe['options'])}" for text in options))
    table = "\n".join(["| parameters | initializer | remark |", "|---|---|---|", *rows])
    return "\n\n".join([f"# {name}", *about, f"## Rules\n\nThe first that matches a parameter wins.\n\n{table}"]) + "\n"


def _option(text: str, defaults: dict[str, Any]) -> str:
    name, _, meaning = text.removeprefix("Option ").partition(":")
    return f"`{name}` (`{defaults[name]!r}` by default): {_code(meaning.strip())}"


def _remark(rule: dict[str, Any]) -> str:
    return "may match nothing" if rule["optional"] else ""


def _cell(text: str) -> str:
    return _code(text).replace("|", "\\|")


def _code(text: str) -> str:
    """Plain text as Markdown: nothing in it is markup."""
    return text.replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")


def main() -> None:
    """Write the pages that differ, and remove those of recipes that are gone."""
    FOLDER.mkdir(exist_ok=True)
    written = pages()
    for path in FOLDER.glob("*.md"):
        if path.name not in written:
            path.unlink()
    for name, text in written.items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
