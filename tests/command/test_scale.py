"""zeta scale: the table, code that makes the same groups, and JSON."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import zeta
from tests.helpers.scaled import Gpt
from zeta.command.cli import app
from zeta.command.requests import SCHEMES
from zeta.resolve.scaling.schemes import NAMES

BASE, TARGET = {"width": 32, "layers": 2}, {"width": 64, "layers": 3}
SIZES = ("tests.helpers.scaled:Gpt", "--base", "width=32,layers=2", "--target", '{"width": 64, "layers": 3}')


@pytest.fixture(autouse=True)
def own_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parents[2]), *sys.path])


def scale(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["scale", *arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "SGD"])
def test_the_code_makes_the_groups_of_the_scaling(optimizer: str) -> None:
    code, text, errors = scale(
        *SIZES, "--how", "completep", "--optimizer", optimizer, "--lr", "0.5", "--weight-decay", "0.25"
    )
    assert (code, errors) == (0, "")
    assert "completep (alpha 1): width 32 -> 64, layers 2 -> 3" in text
    model = Gpt(**TARGET)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scope: dict[str, Any] = {"model": model}
    exec(text[text.index("import re") :], scope)

    def numbers(groups: list[dict[str, Any]]) -> dict[str, list[float]]:
        keys = ("lr", "weight_decay", "eps") if optimizer == "adamw" else ("lr", "weight_decay")
        return {names[id(each)]: [group[key] for key in keys] for group in groups for each in group["params"]}

    scaling = zeta.scale(Gpt, BASE, TARGET, "completep")
    expected = numbers(scaling.param_groups(model, optimizer, lr=0.5, weight_decay=0.25))
    found = numbers(scope["groups"])
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == pytest.approx(expected[name], rel=1e-5)


def test_json_is_what_from_json_reads() -> None:
    code, text, errors = scale(*SIZES, "--json", "--no-attention")
    assert (code, errors) == (0, "")
    assert zeta.Scaling.from_json(text) == zeta.scale(Gpt, BASE, TARGET, attention=False)


def test_roles_and_recipes() -> None:
    code, text, _ = scale(*SIZES, "--recipe", "gpt2", "--role", "h.*.mlp.up_proj.weight=input")
    assert code == 0
    [line] = [line for line in text.splitlines() if "mlp.up_proj.weight " in line]
    assert "input" in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--base", "width", "--target", "width=2"), "--base must be arguments such as d_model=256,n_layer=4"),
        (("--base", "{width", "--target", "width=2"), "--base is not JSON"),
        (("--base", "width=32", "--target", "width=32"), "there is nothing to scale"),
        (("--base", "width=32", "--target", "width=64", "--role", "head"), "--role must be GLOB=CLASS"),
        (("--base", "width=32", "--target", "width=64", "--optimizer", "adamx"), "optimizer must be one of"),
        (("--base", "width=32", "--target", "width=64", "--lr", "-1"), "lr must be a finite number of at least 0"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], message: str) -> None:
    code, text, errors = scale("tests.helpers.scaled:Gpt", *arguments)
    assert (code, text) == (2, "")
    assert message in errors


def test_the_schemes_are_those_of_the_library() -> None:
    assert SCHEMES == NAMES
