"""From a configuration to a folder that from_pretrained reads."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from zeta.command.cli import app

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 16,
    "pad_token_id": 3,
    "tie_word_embeddings": True,
}
FILES = ["config.json", "generation_config.json", "model.safetensors", "zeta.json"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return tmp_path


def zeta(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def test_from_pretrained_reads_what_init_writes(here: Path) -> None:
    transformers = pytest.importorskip("transformers")
    code, shown, _ = zeta("init", "hf:config.json", "--out", "out", "--dtype", "bfloat16", "--no-check")
    assert code == 0
    assert shown.splitlines()[-5:-1] == [f"out/{name}" for name in FILES]
    model, notes = transformers.AutoModelForCausalLM.from_pretrained("out", output_loading_info=True)
    assert not any(notes.values())
    assert model.dtype is torch.bfloat16
    assert zeta("verify", "out")[0] == 0
    (here / "out" / "config.json").unlink()
    assert zeta("verify", "out") == (
        1,
        "config.json: is missing\nNOT verified: 1 problem(s) in 11 tensors (seed 0)\n",
        "",
    )


def test_every_name_of_a_tie_on_request() -> None:
    pytest.importorskip("transformers")
    files = json.loads(zeta("init", "hf:.", "--out", "out", "--no-check", "--no-drop-ties", "--json")[1])["files"]
    assert files == [f"out/{name}" for name in FILES]
    assert zeta("verify", "out")[1].startswith("verified: 12 tensors")


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_the_configuration_that_is_read_is_not_replaced(options: tuple[str, ...], here: Path) -> None:
    pytest.importorskip("transformers")
    before = (here / "config.json").read_bytes()
    code, shown, errors = zeta("init", "hf:.", "--out", ".", "--no-check", *options)
    assert code == 2
    assert "config.json" in errors
    assert "another folder" in errors
    assert not shown or options, "without --force, it is known before anything is planned"
    assert (here / "config.json").read_bytes() == before
    assert [path.name for path in here.iterdir()] == ["config.json"]
