"""zeta diff: what may be compared, what it says, and with what it exits."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from torch import nn
from typer.testing import CliRunner

import zeta
from zeta.command.cli import app

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, std=0.02, width=8):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.register_buffer("steps", torch.arange(3.0))
        for layer in self.layers:
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

def other(): return Net(0.03)
def reads():
    layer = nn.Linear(2, 2)
    if layer.weight.sum() > 0: pass
    return layer
def rules(model): return None
"""
RULES = """
[[rules]]
kind = "weight"
initializer = { name = "Normal", std = STD }

[[rules]]
kind = "bias"
initializer = "Zeros"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    for name, std in (("good", "0.02"), ("bad", "0.05")):
        (tmp_path / f"{name}.toml").write_text(RULES.replace("STD", std))
    yield tmp_path
    sys.modules.pop("nets", None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def assert_same(*arguments: str) -> str:
    result = run("diff", *arguments)
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    assert " do the same to all " in result.stdout
    return result.stdout


def assert_differs(*arguments: str) -> str:
    result = run("diff", *arguments)
    assert (result.exit_code, result.stderr) == (1, ""), result.output
    assert " differs from " in result.stdout
    return result.stdout


def assert_refused(message: str, *arguments: str) -> None:
    result = run("diff", *arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    assert isinstance(result.exception, SystemExit), repr(result.exception)
    assert re.search(message, result.stderr), result.stderr


def words(shown: str) -> list[str]:
    return re.findall(r"[^\s─]+", shown)


def test_a_model_and_rules_either_way_round() -> None:
    shown = assert_same("nets.py:Net", "rules:good.toml")
    assert shown.startswith("nets.py:Net and rules good.toml do the same to all 6 parameters and 1 buffer\n")
    assert assert_same("rules:good.toml", "nets.py:Net").startswith("rules good.toml and nets.py:Net do")
    shown = assert_differs("nets.py:Net", "rules:bad.toml")
    assert shown.startswith("nets.py:Net differs from rules bad.toml in 3 of 6 parameters\n")
    row = next(line for line in shown.splitlines() if line.startswith(" layers"))
    assert re.split(r" {2,}", row.strip()) == [
        "layers.{0..2}.weight", "distribution", "Normal(std=0.02)", "Normal(std=0.05)",
        "nets.py:11 (normal_, Linear)", "kind weight",
    ]  # fmt: skip
    assert "not compared" not in shown  # rules keep what the constructor gives a buffer


def test_buffers_of_a_constructor_in_a_recipe_as_in_its_plan() -> None:
    shown = run("diff", "nets.py:Net", "recipe:torch").stdout
    assert "nets.py:Net differs from recipe torch in " in shown
    assert "not compared" not in shown
    Path("plan.json").write_text(run("plan", "nets.py:Net", "--recipe", "torch", "--json").stdout)
    file = run("diff", "nets.py:Net", "plan.json").stdout
    assert words(file) == words(shown.replace("recipe torch", "plan.json"))
    assert_same("nets.py:Net", "rules:good.toml", "--dtype", "bf16", "--cast-buffers")


def test_models_folders_and_files() -> None:
    assert_same("nets.py:Net", "nets.py:Net")
    assert_differs("nets.py:Net", "nets.py:other")
    assert run("init", "nets.py:Net", "--out", "out").exit_code == 0
    Path("plan.json").write_text(run("plan", "nets.py:other", "--json").stdout)
    Path("report.json").write_text(run("init", "nets.py:Net", "--out", "again", "--json").stdout)
    assert_same("nets.py:Net", "out")
    assert_same("out", "out/zeta.json")
    assert_same("report.json", "out")
    assert "Normal(std=0.03)" in assert_differs("out", "plan.json")
    assert_same("nets.py:other", "plan.json")


def test_options_are_for_the_models() -> None:
    Path("plan.json").write_text(run("plan", "nets.py:Net", "--json", "--kwargs", '{"width": 16}').stdout)
    assert " shape " in assert_differs("nets.py:Net", "plan.json")
    assert_same("nets.py:Net", "plan.json", "--kwargs", '{"width": 16}')
    assert " dtype " in assert_differs("nets.py:Net", "plan.json", "--kwargs", '{"width": 16}', "--dtype", "float16")
    assert_same("nets.py:Net", "rules:good.toml", "--dtype", "float16")
    assert_refused("reads a value that depends on random values", "nets.py:reads", "plan.json")
    assert_same("nets.py:reads", "nets.py:reads", "--fallback", "real")


def test_json() -> None:
    result = run("diff", "nets.py:Net", "rules:bad.toml", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    data = json.loads(result.stdout)
    assert (data["same"], data["a"], data["b"]) == (False, "nets.py:Net", "rules bad.toml")
    assert [change["name"] for change in data["changes"]] == [f"layers.{n}.weight" for n in range(3)]
    assert [data["changes"][0][side]["std"] for side in "ab"] == [0.02, 0.05]
    same = run("diff", "nets.py:Net", "rules:good.toml", "--json")
    assert (same.exit_code, json.loads(same.stdout)["same"], json.loads(same.stdout)["changes"]) == (0, True, [])


def test_a_transformers_configuration_against_a_recipe(here: Path) -> None:
    pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = {"model_type": "llama", "vocab_size": 64, "pad_token_id": 0, **sizes}
    (here / "config.json").write_text(json.dumps(config))
    shown = assert_same("hf:config.json", "recipe:llama")
    assert shown.startswith("hf:config.json and recipe llama do the same to all 21 parameters and 2 buffers\n")
    assert_refused("hf:config.json: the recipe 'resnet' does not fit this model", "hf:config.json", "recipe:resnet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recipe:gpt2", "rules:good.toml"), "recipe:gpt2 and rules:good.toml both need a model to be applied to"),
        (("plan.json", "recipe:gpt2"), r"recipe:gpt2 is applied to a model, and plan.json is a plan.*--recipe gpt2"),
        (("rules:good.toml", "plan.json"), r"rules:good.toml is applied to a model, .* MODEL --rules good.toml --json"),
        (("nets.py:Net", "recipe:gpt3"), "unknown recipe 'gpt3': expected one of bert, "),
        (("nets.py:Net", "rules:none.toml"), "no such rule file: none.toml"),
        (("nets.py:Net", "recipe:gpt2"), "nets.py:Net: the recipe 'gpt2' does not fit this model"),
        (("nets.py:Net", "none.json"), "no such file: none.json"),
        (("nets.py:Net", "broken.json"), "broken.json cannot be read as a plan: "),
        (("nets.py:Net", "list.json"), "list.json cannot be read as a plan: "),
        (("nets.py:Net", "."), r"\. has no zeta.json, so zeta init did not write it; a configuration is hf:\."),
        (("nets.py:Net", "none"), "cannot tell what 'none' is: expected a folder of zeta init, a plan.json, or"),
        (("nets.py:Nut", "plan.json"), "nets.py has no callable 'Nut'"),
        (("nets.py:Net", "plan.json", "--kwargs", "1"), "--kwargs must be a JSON object"),
        (("nets.py:Net", "plan.json", "--dtype", "int8"), "--dtype must be a floating-point dtype"),
        (("nets.py:Net",), "Missing argument 'B'"),
    ],
)  # fmt: skip
def test_wrong_use(arguments: tuple[str, ...], message: str) -> None:
    Path("plan.json").write_text(run("plan", "nets.py:Net", "--json").stdout)
    Path("broken.json").write_text('{"entries": [{}]}')
    Path("list.json").write_text("[]")
    assert_refused(message, *arguments)


def test_plans_are_compared_without_transformers(here: Path) -> None:
    """It takes seconds to import."""
    Path("plan.json").write_text(zeta.record(nn.Linear, 2, 2)[1].to_json())
    (here / "transformers.py").write_text("raise RuntimeError('imported')\n")
    command = [sys.executable, "-m", "zeta", "diff", "plan.json", "plan.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "plan.json and plan.json do the same to all 2 parameters\n"
