"""``zeta check``, and the check that ends ``zeta init``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import nn
from typer.testing import CliRunner

from zeta.check import supply
from zeta.command import check as command
from zeta.command.cli import app
from zeta.command.samples import batch_for

NETS = """
import torch
from torch import nn
import torch.nn.functional as F

class Net(nn.Module):
    def __init__(self, same=False):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 32), nn.Linear(32, 4)
        if same:
            nn.init.constant_(self.fc1.weight, 0.1)
            nn.init.zeros_(self.fc1.bias)
            nn.init.constant_(self.fc2.weight, 0.1)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)))

class Reading(Net):
    def __init__(self):
        super().__init__(same=True)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 4))
        self.largest = self.scale.max().item()

    def forward(self, x):
        return super().forward(x) * self.scale / self.largest

def batch(): return torch.randn(64, 8)
def wide(): return torch.randn(64, 9)
def labelled(model): return torch.randn(64, model.fc1.in_features), torch.arange(64) % 4
def loss(output, batch): return output.square().mean()
def fails(): raise RuntimeError("no batch today")
"""
RULES = """
[[rules]]
kind = "weight"
initializer = { name = "kaiming_normal", nonlinearity = "relu" }

[[rules]]
kind = "bias"
initializer = "Zeros"
"""
CONFIG = {
    "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 2, "vocab_size": 100, "bos_token_id": 1,
    "eos_token_id": 2, "architectures": ["GPT2LMHeadModel"],
}  # fmt: skip


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("nets.py").write_text(NETS, encoding="utf-8")
    Path("rules.toml").write_text(RULES, encoding="utf-8")
    Path("config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


def zeta(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_a_healthy_model() -> None:
    result = zeta("check", "nets.py:Net", "--batch", "nets.py:batch")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "Net can learn from here" in result.stdout
    assert not {"Z101", "Z701"} & {*re.findall(r"Z\d+", result.stdout)}, "no option of the command line is for these"


@pytest.mark.filterwarnings("default::zeta.errors.ZetaNotice")
def test_a_model_larger_than_memory_is_checked_one_parameter_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held = json.loads(zeta("check", "hf:config.json", "--json").stdout)
    monkeypatch.setattr(supply, "available_memory", lambda: 2**10)
    result = zeta("check", "hf:config.json", "--json")
    assert result.exit_code == 0, result.stderr
    assert re.search(r"the model takes [\d.]+ kB, more than half of the 1\.0 kB of memory", result.stderr)
    streamed = json.loads(result.stdout)
    assert "computed from the plan one at a time" in streamed["sampled"][0]
    assert streamed["parameters"] == held["parameters"]
    assert streamed["findings"] == held["findings"]


def test_a_sick_model_gives_exit_code_1_and_files() -> None:
    options = ("--sarif", "out/a.sarif", "--loss", "nets.py:loss")
    result = zeta("check", "nets.py:Net", "--kwargs", '{"same": true}', "--batch", "nets.py:labelled", *options)
    assert (result.exit_code, result.stderr) == (1, "")
    assert "Z301" in result.stdout
    assert "fc1.weight" in result.stdout
    assert result.stdout.endswith("out/a.sarif\n")
    sick = ("check", "nets.py:Net", "--kwargs", '{"same": true}', "--batch", "nets.py:labelled", *options)
    as_json = zeta(*sick, "--json")
    assert (as_json.exit_code, as_json.stderr) == (1, "")
    document = json.loads(as_json.stdout)
    assert (document["ok"], document["findings"][0]["rule"]) == (False, "Z301")
    assert json.loads(Path("out/a.sarif").read_text(encoding="utf-8"))["version"] == "2.1.0"
    result = zeta(
        "check", "nets.py:Net", "--kwargs", '{"same": true}', "--batch", "nets.py:batch", "--suppress", "Z301"
    )
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "no batch can be made from this model's configuration; give --batch"),
        (("--batch", "nets.py"), "--batch must be path/to/file.py:function"),
        (("--batch", "nets.py:none"), "nets.py has no callable 'none'"),
        (("--batch", "nets.py:fails"), "--batch nets.py:fails fails: RuntimeError: no batch today"),
        (("--batch", "nets.py:wide"), "the model fails on this batch: RuntimeError: "),
        (("--batch", "nets.py:batch", "--level", "quick"), "--level must be fast or full, got 'quick'"),
        (("--batch", "nets.py:batch", "--suppress", "Z999"), "no rule or group has the id 'Z999'"),
        (("--batch", "nets.py:batch", "--sarif", "nets.py/a.sarif"), "cannot write nets.py/a.sarif"),
        (("--batch", "nets.py:batch", "--html", "a.x", "--sarif", "./a.x"), "--html and --sarif are both a.x"),
        (("--batch", "nets.py:batch", "--json", "report.json"), "(report.json)"),
    ],
)
def test_wrong_use_gives_exit_code_2(options: tuple[str, ...], message: str) -> None:
    result = zeta("check", "nets.py:Net", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert message in result.stderr


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
def test_init_ends_with_a_check_where_the_configuration_gives_a_batch() -> None:
    pytest.importorskip("transformers")
    result = zeta("init", "hf:config.json", "--out", "out")
    assert result.exit_code == 0, result.stderr
    assert "health check: GPT2LMHeadModel can learn from here" in result.stdout
    again = zeta("init", "hf:config.json", "--out", "out", "--force", "--json")
    document = json.loads(again.stdout)["check"]
    assert (document["ok"], document["seed"], document["loss"]["classes"]) == (True, 0, 100)


def test_init_with_a_batch_and_without_a_check() -> None:
    sick = ("init", "nets.py:Net", "--kwargs", '{"same": true}', "--out", "out", "--force")
    result = zeta(*sick, "--batch", "nets.py:batch")
    assert result.exit_code == 0  # the files are as they were asked for
    assert "cannot learn from here" in result.stdout
    assert "Z301" in result.stdout
    assert "not checked: --no-check" in zeta(*sick, "--no-check").stdout
    assert zeta(*sick, "--batch", "nets.py:fails").exit_code == 2


def test_init_builds_no_large_model_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LARGEST", 100)
    result = zeta("init", "nets.py:Net", "--out", "out")
    assert "not checked: the model has 1.7 kB, more than is built in memory by default; give --batch" in result.stdout


@pytest.mark.parametrize("device", [(), ("--device", "meta"), ("--device", "cpu")], ids=" ".join)
def test_what_is_checked_are_the_values_of_the_rules_wherever_the_model_was_built(device: tuple[str, ...]) -> None:
    """The constructor's own values, which a model on the CPU has at first, cannot learn."""
    options = ("nets.py:Net", "--kwargs", '{"same": true}', "--rules", "rules.toml", "--batch", "nets.py:batch")
    written = zeta("init", *options, *device, "--out", "out", "--json")
    checked = zeta("check", *options, *device, "--json")
    assert (written.exit_code, checked.exit_code) == (0, 0), written.stderr + checked.stderr
    for document in (json.loads(written.stdout)["check"], json.loads(checked.stdout)):
        assert document["ok"]
        assert not {"Z201", "Z301"} & {finding["rule"] for finding in document["findings"]}
    assert "Net can learn from here" in zeta("init", *options, *device, "--out", "out", "--force").stdout


def test_a_constructor_that_meta_cannot_run_is_checked_with_rules_on_the_cpu() -> None:
    options = ("nets.py:Reading", "--rules", "rules.toml", "--batch", "nets.py:batch")
    failed = zeta("check", *options)
    assert (failed.exit_code, failed.stdout) == (2, "")
    assert "nets.py:Reading fails on device 'meta'" in failed.stderr
    checked = zeta("check", *options, "--device", "cpu")
    assert (checked.exit_code, checked.stderr) == (0, "")
    assert "Reading can learn from here" in checked.stdout
    for wrong, message in (
        (("--rules", "rules.toml", "--device", "cuda"), "--device must be meta or cpu"),
        (("--device", "cpu"), "--device is where a model is built for --recipe or --rules"),
    ):
        refused = zeta("check", "nets.py:Net", "--batch", "nets.py:batch", *wrong)
        assert refused.exit_code == 2
        assert message in " ".join(refused.stderr.split())


class Configured(nn.Module):
    """Looks like a model of transformers."""

    def __init__(self, main: str, **config: Any) -> None:
        super().__init__()
        self.main_input_name = main
        self.config = type("Config", (), {**config, "get_text_config": lambda self: self})()

    def forward(self, input_ids: Any = None, pixel_values: Any = None, labels: Any = None) -> None: ...


def test_batches_from_configurations() -> None:
    model = Configured("input_ids", vocab_size=50, max_position_embeddings=16)
    ids = batch_for(model)["input_ids"]  # type: ignore[index]
    assert (ids.shape, ids.dtype) == ((4, 8), torch.int64)
    assert 0 <= int(ids.min()) <= int(ids.max()) < 50
    pixels = batch_for(Configured("pixel_values", image_size=(8, 6), num_channels=1))
    assert pixels is not None
    assert pixels["pixel_values"].shape == (4, 1, 8, 6)
    any_size = batch_for(Configured("pixel_values", num_channels=3))
    assert any_size is not None
    assert any_size["pixel_values"].shape == (4, 3, 64, 64)
    assert batch_for(Configured("pixel_values")) is None
    assert batch_for(Configured("input_values")) is None
    assert batch_for(nn.Linear(1, 1)) is None
