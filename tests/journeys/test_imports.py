"""A user has zeta's public names alone, and so has every journey."""

from __future__ import annotations

import ast
import importlib
import pydoc
from collections.abc import Iterator
from pathlib import Path

import pytest

import zeta

PUBLIC = {
    "zeta",
    "zeta.errors",
    "zeta.fans",
    "zeta.gains",
    "zeta.initializers",
    "zeta.recipes",
    "zeta.rules",
    "zeta.utils",
}
JOURNEYS = sorted(path for path in Path(__file__).parent.glob("*.py") if path.name != Path(__file__).name)


def of_zeta(source: str) -> Iterator[tuple[str, str | None]]:
    """Each module of zeta that is imported, with the name that is taken from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names if alias.name.split(".")[0] == "zeta")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "zeta":
            yield from ((node.module or "", alias.name) for alias in node.names)


def private(source: str) -> list[str]:
    """What is imported, or looked up in ``zeta``, and is not public."""
    found = []
    for module, name in of_zeta(source):
        if module not in PUBLIC or (name is not None and name not in names_of(module)):
            found.append(module if name is None else f"{module}.{name}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "zeta":
            found += [] if node.attr in names_of("zeta") else [f"zeta.{node.attr}"]
    return found


def names_of(module: str) -> set[str]:
    found = importlib.import_module(module)
    return set(getattr(found, "__all__", [name for name in vars(found) if not name.startswith("_")]))


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda path: path.stem)
def test_a_journey_imports_public_names_alone(journey: Path) -> None:
    source = journey.read_text(encoding="utf-8")
    assert list(of_zeta(source)), "a journey uses zeta"
    assert private(source) == []


def test_what_is_not_public_is_seen() -> None:
    assert private("from zeta.resolve.plans import Plan") == ["zeta.resolve.plans.Plan"]
    assert private("import zeta.write.apply") == ["zeta.write.apply"]
    assert private("from zeta.utils import _fill") == ["zeta.utils._fill"]
    assert private("import zeta\nzeta.verbs.plan") == ["zeta.verbs"]
    assert private("import zeta\nfrom zeta.rules import kind\nzeta.plan") == []


def test_help_of_a_callable_module_begins_with_what_it_takes() -> None:
    for module, argument in ((zeta.check, "batch: a tensor"), (zeta.fans, "layer")):
        shown = pydoc.plain(pydoc.render_doc(module))
        assert argument in shown.partition("PACKAGE CONTENTS")[0].partition("CLASSES")[0]
