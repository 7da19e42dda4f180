"""The command line without a recipe or rules: the model's own constructor is recorded."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

import zeta
from zeta.command.cli import app
from zeta.initializers import Program

NETS = """
import random
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.emb = nn.Embedding(40, width)
        nn.init.trunc_normal_(self.emb.weight, std=0.02)
        self.body = nn.Linear(width, 8)
        self.head = nn.Linear(width, 40, bias=False)
        self.head.weight = self.emb.weight
        self.rate = nn.Parameter(torch.log(torch.rand(64) * 15 + 1))
        self.register_buffer("steps", torch.arange(3.0) / 7)
        self.register_buffer("table", torch.linspace(0, 1, 5), persistent=False)

class Reads(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16))
        if (self.weight > 0).any():
            nn.init.zeros_(self.weight)

class Forgets(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(16))

class Elsewhere(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([random.random(), random.random()]))

def number(): return 3
def fails(): raise RuntimeError("no [bold] luck")
def interrupted(): raise KeyboardInterrupt
def leaves(): raise SystemExit(0)
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own folder with ``nets.py``, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("nets", None)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def own(**kwargs: Any) -> tuple[nn.Module, zeta.Plan]:
    """The plan that Python gives for the same model."""
    namespace: dict[str, Any] = {}
    exec(compile(NETS, "nets.py", "exec"), namespace)
    return zeta.record(namespace["Own"], **kwargs)


def assert_done(result: Result) -> None:
    assert (result.exit_code, result.stderr) == (0, ""), result.output


def test_plan_shows_what_the_constructor_does() -> None:
    result = run("plan", "nets.py:Own")
    assert_done(result)
    assert re.search(
        r"emb\.weight .* TruncatedNormal\(std=0\.02, .* nets\.py:10 \(trunc_normal_, Embedding\)", result.stdout
    )
    assert "in Own.__init__" not in result.stdout
    as_json = run("plan", "nets.py:Own", "--json", "--kwargs", '{"width": 16}', "--dtype", "bfloat16")
    assert_done(as_json)
    found, (_, expected) = zeta.Plan.from_json(as_json.stdout), own(width=16)
    assert [(e.name, e.shape, e.initializer) for e in found] == [(e.name, e.shape, e.initializer) for e in expected]
    assert {entry.dtype for entry in found.parameters} == {torch.bfloat16}
    assert {entry.dtype for entry in found if entry not in found.parameters} == {torch.float32}
    assert found["emb.weight"].rule == "nets.py:10 in Own.__init__ (trunc_normal_, Embedding)"


def test_init_writes_what_materialize_gives_and_verify_proves_it() -> None:
    result = run("init", "nets.py:Own", "--out", "out", "--seed", "7", "--json")
    assert_done(result)
    document = json.loads(result.stdout)
    assert document["report"]["ok"]
    assert isinstance(zeta.Plan.from_json(json.dumps(document["plan"]))["rate"].initializer, Program)
    model, plan = own()
    zeta.materialize_(model, plan, seed=7)
    expected, found = model.state_dict(), load_file("out/model.safetensors")
    assert found.keys() == expected.keys() == {"emb.weight", "head.weight", "body.weight", "body.bias", "rate", "steps"}
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert_done(run("verify", "out"))
    data = bytearray(Path("out/model.safetensors").read_bytes())
    data[-1] ^= 1
    Path("out/model.safetensors").write_bytes(data)
    assert run("verify", "out").exit_code == 1


def test_ties_are_stored_once_if_asked() -> None:
    assert_done(run("init", "nets.py:Own", "--out", "out", "--drop-ties"))
    assert "head.weight" not in load_file("out/model.safetensors")
    assert_done(run("verify", "out"))


def test_a_transformers_configuration_needs_no_recipe(here: Path) -> None:
    pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 64, "n_positions": 8, "bos_token_id": 0}
    (here / "config.json").write_text(json.dumps({"model_type": "gpt2", "eos_token_id": 0, **sizes}))
    assert_done(run("init", "hf:config.json", "--out", "out"))
    manifest = json.loads(Path("out/zeta.json").read_text())
    entries = {entry["name"]: entry for entry in manifest["plan"]["entries"]}
    assert entries["transformer.h.1.mlp.c_proj.weight"]["std"] == pytest.approx(0.02 / 2, rel=1e-12)
    assert_done(run("verify", "out"))


@pytest.mark.parametrize("command", [("plan",), ("init", "--out", "out")])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nets.py:Own", "--device", "meta"), "--device is where a model is built for --recipe or --rules; without"),
        (("nets.py:Reads",), r"nets.py:\d+ in Reads.__init__ reads a value that depends on random values"),
        (("nets.py:Reads",), r"\nIn the shell, the fallback is --fallback FILE, .* or --fallback real\."),
        (("nets.py:Forgets",), r"weight: never gets a value: .* \(nets.py:\d+ in Forgets.__init__\)"),
        (("nets.py:number",), "nets.py:number returned int, expected a torch.nn.Module"),
        (("nets.py:fails",), r"nets.py:fails fails while it is recorded: RuntimeError: no \[bold\] luck"),
        (("nets.py:leaves",), "nets.py:leaves fails while it is recorded: SystemExit: 0"),
        (("nets.py:interrupted",), "interrupted"),
        (("nets.py:Own", "--kwargs", '{"size": 1}'), "TypeError: .*unexpected keyword argument 'size'"),
        (("nets.py:Forgets", "--fallback", "none.toml"), "no such rule file: none.toml"),
        (("nets.py:Forgets", "--fallback", "rules.py"), "before there is a model, so they cannot be a function of it"),
    ],
)
def test_what_cannot_be_recorded_is_said(
    command: tuple[str, ...], arguments: tuple[str, ...], message: str, here: Path
) -> None:
    (here / "rules.py").write_text("def rules(model): return None\n")
    result = run(command[0], *arguments, *command[1:])
    assert (result.exit_code, result.stdout) == (130 if message == "interrupted" else 2, "")
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("zeta: ")
    assert re.search(message, result.stderr), result.stderr
    assert not (here / "out").exists()
    assert not torch.empty(1).is_meta


def test_debug_shows_the_traceback() -> None:
    assert isinstance(run("plan", "nets.py:Reads", "--debug").exception, zeta.RecordingError)


def test_a_fallback_gives_the_rest(here: Path) -> None:
    (here / "rules.toml").write_text('[[rules]]\nname = "weight"\ninitializer = { name = "Normal", std = 0.25 }\n')
    ruled = run("plan", "nets.py:Forgets", "--fallback", "rules.toml", "--json")
    assert_done(ruled)
    assert zeta.Plan.from_json(ruled.stdout)["weight"].std == 0.25
    assert_done(run("init", "nets.py:Reads", "--fallback", "real", "--out", "out"))
    assert not load_file("out/model.safetensors")["weight"].any()


def test_an_override_changes_some_of_it(here: Path) -> None:
    (here / "some.toml").write_text('[[rules]]\nname = "body.bias"\ninitializer = "Ones"\n', encoding="utf-8")
    result = run("init", "nets.py:Own", "--override", "some.toml", "--out", "out", "--seed", "7")
    assert_done(result)
    model, plan = own()
    zeta.materialize_(model, plan, 7)
    saved = load_file("out/model.safetensors")
    assert {name for name, value in saved.items() if not torch.equal(value, model.state_dict()[name])} == {"body.bias"}
    assert (saved["body.bias"] == 1).all()
    assert_done(run("verify", "out"))
    (here / "some.toml").write_text('[[rules]]\nname = "body.bais"\ninitializer = "Ones"\n', encoding="utf-8")
    result = run("plan", "nets.py:Own", "--override", "some.toml")
    assert result.exit_code == 2
    assert "never win" in result.stderr
    result = run("plan", "nets.py:Own", "--override", "some.toml", "--recipe", "torch")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "put a rule first instead" in " ".join(result.stderr.split())


@pytest.mark.filterwarnings("default")
def test_a_notice_is_a_paragraph() -> None:
    result = run("plan", "nets.py:Elsewhere")
    assert result.exit_code == 0
    assert result.stderr.startswith("zeta: note: the constructor drew random numbers from Python's random: what")
    assert len(result.stderr.splitlines()) == 1
