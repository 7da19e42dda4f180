"""zeta adapt: from a folder of transformers to one that from_pretrained reads, with what adapt_ gives the model."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from typer.testing import CliRunner

import zeta as library
from zeta import Layers, Mean, Rows
from zeta.command.cli import app
from zeta.growing import Growth
from zeta.initializers import Zeros

transformers = pytest.importorskip("transformers")

LLAMA = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 60,
    "tie_word_embeddings": False,
}
GPT2 = {
    "n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 60, "n_positions": 8, "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
BERT = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 60,
    "max_position_embeddings": 8,
}  # fmt: skip
QWEN = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 60, "layer_types": ["full_attention", "sliding_attention"],
    "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1,
}  # fmt: skip
MODELS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (transformers.LlamaForCausalLM, transformers.LlamaConfig, LLAMA),
    "gpt2": (transformers.GPT2LMHeadModel, transformers.GPT2Config, GPT2),
    "bert": (transformers.BertForMaskedLM, transformers.BertConfig, BERT),
    "qwen2": (transformers.Qwen2ForCausalLM, transformers.Qwen2Config, QWEN),
}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def zeta(*arguments: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, arguments)
    return result.exit_code, result.stdout, result.stderr


def pretrained(kind: str, folder: str = "old") -> nn.Module:
    """A model with values, saved as transformers does, with a tokenizer's file."""
    model, config, fields = MODELS[kind]
    torch.manual_seed(4)
    made: nn.Module = model(config(**fields))
    made.save_pretrained(folder)
    Path(folder, "tokenizer.json").write_text('{"model": {}}')
    return made


CASES: dict[str, tuple[str, list[str], dict[str, Any], dict[str, Growth]]] = {
    "gpt2, tied, with more tokens": (
        "gpt2", ["--grow-vocab", "72"], {"vocab_size": 72}, {"transformer.wte.weight": Rows()}
    ),
    "gpt2, tokens as the mean": (
        "gpt2", ["--grow-vocab", "72", "--rows", "mean", "--noise", "0.5"], {"vocab_size": 72},
        {"transformer.wte.weight": Rows(Mean(0.5))},
    ),
    "gpt2, more blocks": (
        "gpt2", ["--layers", "5", "--depth", "interleave"], {"n_layer": 5},
        {"transformer.h": Layers(5, "interleave")},
    ),
    "llama, untied, with more of both": (
        "llama", ["--grow-vocab", "70", "--layers", "5"], {"vocab_size": 70, "num_hidden_layers": 5},
        {"model.embed_tokens.weight": Rows(), "model.layers": Layers(5)},
    ),
    "bert, with zeros": (
        "bert", ["--grow-vocab", "64", "--rows", "zeros"], {"vocab_size": 64},
        {"bert.embeddings.word_embeddings.weight": Rows(Zeros())},
    ),
    "qwen2, whose configuration has an item for each block": (
        "qwen2", ["--layers", "4", "--depth", "stack"],
        {"num_hidden_layers": 4, "layer_types": ["full_attention", "sliding_attention"] * 2},
        {"model.layers": Layers(4, "stack")},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_from_pretrained_reads_what_adapt_gives_a_model(case: str, here: Path) -> None:
    kind, options, fields, grow = CASES[case]
    model, config, before = MODELS[kind]
    pretrained(kind)
    code, shown, errors = zeta("adapt", "old", "--out", "new", "--seed", "3", *options)
    assert code == 0, errors
    assert "new/model.safetensors" in shown.splitlines()
    expected, plan = library.record(model, config(**{**before, **fields}))
    library.adapt_(expected, "old", plan, seed=3, grow=grow)
    found, notes = model.from_pretrained("new", output_loading_info=True)
    assert not any(notes.values())
    one, two = expected.state_dict(), found.state_dict()
    assert one.keys() == two.keys()
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    assert {name: getattr(found.config, name) for name in fields} == fields
    assert (here / "new" / "tokenizer.json").read_text() == '{"model": {}}'
    assert zeta("verify", "new", "--source", "old")[0] == 0
    zeta("adapt", "old", "--out", "again", "--seed", "4", *options)
    assert (here / "again" / "config.json").read_text() == (here / "new" / "config.json").read_text()


def test_new_blocks_add_nothing() -> None:
    old = pretrained("llama")
    assert zeta("adapt", "old", "--out", "new", "--layers", "6")[0] == 0
    new = transformers.LlamaForCausalLM.from_pretrained("new")
    tokens = torch.arange(12).view(2, 6)
    assert torch.equal(old.eval()(tokens).logits, new.eval()(tokens).logits)


def test_the_dtype_is_the_checkpoints_or_as_asked() -> None:
    pretrained("llama")
    state = {name: value.bfloat16() for name, value in load_file("old/model.safetensors").items()}
    save_file(state, "old/model.safetensors", metadata={"format": "pt"})
    assert zeta("adapt", "old", "--out", "new", "--grow-vocab", "70")[0] == 0
    assert {value.dtype for value in load_file("new/model.safetensors").values()} == {torch.bfloat16}
    assert json.loads(Path("new/config.json").read_text())["dtype"] == "bfloat16"
    assert zeta("adapt", "old", "--out", "wide", "--dtype", "fp32")[0] == 0
    assert torch.equal(load_file("wide/model.safetensors")["lm_head.weight"], state["lm_head.weight"].float())
    assert zeta("verify", "wide", "--source", "old")[0] == 0


def test_a_new_head_by_a_recipe_or_rules(here: Path) -> None:
    pretrained("bert")
    fields = {**json.loads(Path("old/config.json").read_text()), "architectures": ["BertForSequenceClassification"]}
    Path("head.json").write_text(json.dumps(fields))
    Path("rules.toml").write_text('[[rules]]\nname = "*"\ninitializer = { name = "Normal", std = 0.5 }\n')
    asked = ("adapt", "old", "--model", "hf:head.json", "--allow", "cls.*")
    assert zeta(*asked, "--out", "recorded")[0] == 0
    code, shown, errors = zeta(*asked, "--how", "rules.toml", "--out", "ruled", "--json")
    assert code == 0, errors
    report = json.loads(shown)["report"]
    assert {"classifier.weight", "classifier.bias"} <= {one["name"] for one in report["parameters"]}
    assert load_file("ruled/model.safetensors")["classifier.weight"].std() > 0.3
    assert load_file("recorded/model.safetensors")["classifier.weight"].std() < 0.1
    code, _, errors = zeta("adapt", "old", "--model", "hf:head.json", "--out", "strict")
    assert code == 2
    assert "cls.predictions.bias: is in the checkpoint, and nothing in the model takes it" in errors.replace("\n", " ")


def test_another_model_and_its_names(here: Path) -> None:
    (here / "nets.py").write_text(
        "from torch import nn\n\n\ndef net(tokens=9):\n"
        "    return nn.ModuleDict({'table': nn.Embedding(tokens, 4), 'out': nn.Linear(4, 2)})\n"
    )
    torch.manual_seed(0)
    state = {"emb.weight": torch.randn(6, 4), "out.weight": torch.randn(2, 4), "out.bias": torch.randn(2)}
    save_file(state, "old.safetensors")
    asked = ("adapt", "old.safetensors", "--model", "nets.py:net", "--map", "table=emb", "--grow-vocab", "9")
    code, _, errors = zeta(*asked, "--out", "new")
    assert code == 0, errors
    saved = load_file("new/model.safetensors")
    assert torch.equal(saved["table.weight"][:6], state["emb.weight"])
    assert torch.equal(saved["out.bias"], state["out.bias"])
    assert not Path("new/config.json").exists()


WRONG: dict[str, tuple[list[str], str]] = {
    "rows": (["--rows", "ones"], "--rows must be one of recorded, mean, zeros"),
    "rows of nothing": (["--rows", "mean"], "give --grow-vocab too"),
    "noise": (["--noise", "2", "--grow-vocab", "70"], "--noise is for --rows mean"),
    "depth": (["--depth", "deep"], "--depth must be one of identity, stack, interleave"),
    "depth of nothing": (["--depth", "stack"], "give --layers too"),
    "how": (["--how", "nothing"], "--how must be recorded, the name of a recipe or a file of rules"),
    "option": (["--option", "a=1"], "--option is an option of a recipe"),
    "fallback": (["--how", "llama", "--fallback", "real"], "--fallback is for --how recorded"),
    "map": (["--map", "a"], "--map must be NAME=NAME"),
    "fewer tokens": (["--grow-vocab", "50"], "which is smaller"),
    "fewer blocks": (["--layers", "2"], "the checkpoint has 3 blocks, and to=2 is not more"),
    "no model": (["--model", "hf:nowhere.json"], "cannot read the configuration nowhere.json"),
    "the source": (["--out", "old", "--force"], "is where the checkpoint is read from"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_possible_is_said_before_anything_is_written(what: str, here: Path) -> None:
    options, message = WRONG[what]
    pretrained("llama")
    code, _, errors = zeta("adapt", "old", *(["--out", "new"] if "--out" not in options else []), *options)
    assert code == 2, errors
    assert message in " ".join(errors.split())
    assert not (here / "new").exists()
    assert not (here / "old" / "zeta.json").exists()


def test_a_file_of_tensors_needs_a_model() -> None:
    pretrained("llama")
    code, _, errors = zeta("adapt", "old/model.safetensors", "--out", "new")
    assert (code, "give the model with --model" in " ".join(errors.split())) == (2, True)
