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


# -- what configurations of transformers look like ---------------------------------------------------------------------

VISION = {
    "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip
PROJECTED = {"projection_dim": 8}


def made_of(kind: str, config: Any, **fields: Any) -> Any:
    """A model in ``old``; ``fields`` of its config.json are changed, or removed where they are ``None``."""
    torch.manual_seed(4)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained("old")
    path = Path("old/config.json")
    changed = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({key: value for key, value in changed.items() if value is not None}))
    return model


def of_config(name: str) -> Any:
    return json.loads(Path(name, "config.json").read_text())


def test_a_model_that_names_no_table_of_tokens() -> None:
    text = {**BERT, **PROJECTED}
    old = made_of(
        "CLIPModel",
        transformers.CLIPConfig(text_config=text, vision_config={**VISION, **PROJECTED}, projection_dim=8),
    )
    code, _, errors = zeta("adapt", "old", "--out", "new", "--grow-vocab", "70")
    assert code == 0, errors
    new = transformers.CLIPModel.from_pretrained("new")
    tables = [model.text_model.embeddings.token_embedding.weight for model in (old, new)]
    assert tables[1].shape == (70, 16)
    assert torch.equal(tables[1][:60], tables[0])
    assert of_config("new")["text_config"]["vocab_size"] == 70


def test_the_numbers_of_a_language_model_inside_count() -> None:
    """PaliGemma has a ``vocab_size`` outside too, which is of nothing."""
    made_of(
        "PaliGemmaForConditionalGeneration",
        transformers.PaliGemmaConfig(
            text_config={**LLAMA, "model_type": "gemma", "head_dim": 8, "vocab_size": 60},
            vision_config={**VISION, "model_type": "siglip_vision_model"}, projection_dim=16, image_token_index=59,
        ),
    )  # fmt: skip
    assert of_config("old")["vocab_size"] != 60
    code, _, errors = zeta("adapt", "old", "--out", "new", "--grow-vocab", "70", "--layers", "4")
    assert code == 0, errors
    new = transformers.PaliGemmaForConditionalGeneration.from_pretrained("new")
    assert new.get_input_embeddings().weight.shape[0] == 70
    assert [of_config("new")["text_config"][name] for name in ("vocab_size", "num_hidden_layers")] == [70, 4]
    assert new.config.vision_config.num_hidden_layers == 2


def test_the_list_that_grows_is_the_one_whose_number_changes() -> None:
    """The vision model has four blocks already: they are not what --layers 4 asks for."""
    made = made_of(
        "LlavaForConditionalGeneration",
        transformers.LlavaConfig(
            text_config={**LLAMA, "model_type": "llama", "num_hidden_layers": 2}, image_token_index=59,
            vision_config={**VISION, "model_type": "clip_vision_model", "num_hidden_layers": 4, **PROJECTED},
        ),
    )  # fmt: skip
    code, shown, errors = zeta("adapt", "old", "--out", "new", "--layers", "4", "--json")
    assert code == 0, errors
    report = json.loads(shown)["report"]
    assert report["expected"] == "equal"
    blocks = load_file("new/model.safetensors")
    old = made.state_dict()
    names = [name for name in blocks if ".language_model." in name or name.startswith("language_model.")]
    down = [name for name in names if "layers.1.mlp.down_proj" in name]
    assert len(down) == 1
    assert not blocks[down[0]].any()
    assert torch.equal(blocks[down[0].replace("layers.1", "layers.2")], old[down[0]])
    code, _, errors = zeta("adapt", "old", "--out", "again", "--layers", "2")
    assert (code, "has 2 blocks already; leave --layers out" in " ".join(errors.split())) == (2, True)


def test_of_two_lists_side_by_side_the_one_whose_number_changes_grows() -> None:
    made_of(
        "CLIPModel",
        transformers.CLIPConfig(
            text_config={**BERT, **PROJECTED}, vision_config={**VISION, **PROJECTED, "num_hidden_layers": 4},
            projection_dim=8,
        ),
    )  # fmt: skip
    code, _, errors = zeta("adapt", "old", "--out", "new", "--layers", "4")
    assert code == 0, errors
    new = load_file("new/model.safetensors")
    blocks = {name.partition("_model.encoder.layers.")[0::2] for name in new if name.endswith("mlp.fc2.weight")}
    assert sorted(part for part, _ in blocks) == ["text"] * 4 + ["vision"] * 4
    assert not new["text_model.encoder.layers.1.mlp.fc2.weight"].any()
    assert all(new[f"vision_model.encoder.layers.{block}.mlp.fc2.weight"].any() for block in range(4))


def test_kinds_that_the_configuration_leaves_to_its_class_stay_with_their_blocks() -> None:
    """As Gemma 2 on the hub: without ``layer_types``, which would begin anew for the longer list."""
    fields = {**LLAMA, "num_hidden_layers": 2, "head_dim": 8, "sliding_window": 4}
    old = made_of("Gemma2ForCausalLM", transformers.Gemma2Config(**fields), layer_types=None)
    code, _, errors = zeta("adapt", "old", "--out", "new", "--layers", "4")
    assert code == 0, errors
    assert of_config("new")["layer_types"] == ["sliding_attention"] * 2 + ["full_attention"] * 2
    new = transformers.Gemma2ForCausalLM.from_pretrained("new").eval()
    tokens = torch.arange(24).view(2, 12)
    assert torch.equal(old(tokens).logits, new(tokens).logits)


def test_numbers_that_json_does_not_have() -> None:
    """transformers writes infinity as {"__float__": "Infinity"}."""
    config = transformers.Mamba2Config(
        hidden_size=16, num_hidden_layers=2, vocab_size=60, state_size=4, num_heads=4, head_dim=8, n_groups=2
    )
    made_of("Mamba2ForCausalLM", config)
    assert "__float__" in Path("old/config.json").read_text()
    code, _, errors = zeta("adapt", "old", "--out", "new", "--grow-vocab", "70", "--layers", "3", "--depth", "stack")
    assert code == 0, errors
    assert transformers.Mamba2ForCausalLM.from_pretrained("new").config.time_step_limit[1] == float("inf")


def test_speech_has_no_table_of_tokens() -> None:
    fields = {
        **{name: value for name, value in VISION.items() if "size" not in name or "_" in name}, "vocab_size": 20,
        "conv_dim": [8], "conv_stride": [2], "conv_kernel": [3], "num_feat_extract_layers": 1,
        "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2,
    }  # fmt: skip
    made_of("Wav2Vec2ForCTC", transformers.Wav2Vec2Config(**fields))
    code, _, errors = zeta("adapt", "old", "--out", "new", "--grow-vocab", "70")
    assert (code, "expected one table of 70 tokens in the model, found 0" in " ".join(errors.split())) == (2, True)
    code, _, errors = zeta("adapt", "old", "--out", "new")
    assert (code, "of a parametrized weight, which has to be loaded with" in " ".join(errors.split())) == (2, True)


def test_a_configuration_that_names_another_file_of_tensors(here: Path) -> None:
    """``from_pretrained`` reads that one."""
    made_of("LlamaForCausalLM", transformers.LlamaConfig(**LLAMA), transformers_weights="trained.safetensors")
    save_file(load_file("old/model.safetensors"), "old/trained.safetensors", metadata={"format": "pt"})
    code, _, errors = zeta("adapt", "old", "--out", "new", "--grow-vocab", "70")
    assert code == 2
    assert "says that the tensors are in 'trained.safetensors', where from_pretrained reads them, and " in " ".join(
        errors.split()
    )
    assert not (here / "new").exists()
    config = json.loads(Path("old/config.json").read_text())
    Path("old/config.json").write_text(json.dumps({**config, "transformers_weights": "model.safetensors"}))
    assert zeta("adapt", "old", "--out", "new", "--grow-vocab", "70")[0] == 0


def test_a_quantized_checkpoint_and_an_adapter_are_refused(here: Path) -> None:
    """The scales would be left, and new layers would have none."""
    made_of(
        "LlamaForCausalLM", transformers.LlamaConfig(**LLAMA),
        quantization_config={"quant_method": "fp8", "weight_block_size": [8, 8]},
    )  # fmt: skip
    state = load_file("old/model.safetensors")
    low = {name: value.to(torch.float8_e4m3fn) if "proj" in name else value for name, value in state.items()}
    scales = {name.replace("weight", "weight_scale_inv"): torch.ones(2, 2) for name in state if "proj" in name}
    save_file({**low, **scales}, "old/model.safetensors", metadata={"format": "pt"})
    code, _, errors = zeta("adapt", "old", "--out", "new", "--grow-vocab", "70", "--allow", "*scale_inv")
    assert code == 2
    assert "says that tensors are quantized ('fp8'), and zeta reads plain numbers; dequantize()" in " ".join(
        errors.split()
    )
    with pytest.raises(library.CheckpointError, match="are quantized"):
        library.adapt_(transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA)), "old", seed=0, allow="*scale*")
    (here / "adapter").mkdir()
    Path("adapter/adapter_config.json").write_text("{}")
    code, _, errors = zeta("adapt", "adapter", "--out", "new")
    assert (code, "it has an adapter of peft, and not a model: merge_and_unload()" in " ".join(errors.split())) == (
        2,
        True,
    )
    assert not (here / "new").exists()


def test_what_is_drawn_has_a_dtype_that_layers_compute_in() -> None:
    """Most of the tensors have 8 bits; new ones have the dtype of most others."""
    made_of("LlamaForCausalLM", transformers.LlamaConfig(**LLAMA))
    state = load_file("old/model.safetensors")
    state = {name: value.to(torch.float8_e5m2 if value.ndim == 2 else torch.bfloat16) for name, value in state.items()}
    save_file(state, "old/model.safetensors", metadata={"format": "pt"})
    assert zeta("adapt", "old", "--out", "new", "--layers", "4")[0] == 0
    new = load_file("new/model.safetensors")
    assert new["model.layers.0.mlp.up_proj.weight"].dtype is torch.float8_e5m2
    # of 4 blocks the second is new where there were 3
    drawn = {value.dtype for name, value in new.items() if name.startswith(f"model.layers.{NEW_OF_FOUR}.")}
    assert drawn == {torch.bfloat16}


#: the block that is new where 3 become 4
NEW_OF_FOUR = Layers(4).sources(3).index(None)


@pytest.mark.filterwarnings("default:tokenizer.json has tokens")
def test_tokens_without_a_row_are_said() -> None:
    pretrained("llama")
    vocabulary = {f"t{row}": row for row in range(65)}
    added = [{"id": 65, "content": "<new>"}]
    Path("old/tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added}))
    code, _, errors = zeta("adapt", "old", "--out", "new", "--grow-vocab", "66")
    assert (code, errors) == (0, "")
    code, _, errors = zeta("adapt", "old", "--out", "few", "--grow-vocab", "64")
    assert code == 0
    assert "tokens up to number 65, and the model's table 64 rows: " in " ".join(errors.split())
    assert "66 rows are needed" in " ".join(errors.split())


def test_blocks_of_several_kinds_that_do_not_follow() -> None:
    """Every second block of Llama 4 has experts; the second old one would become the third."""
    fields = {**LLAMA, "num_hidden_layers": 2, "head_dim": 8, "intermediate_size_mlp": 24, "num_local_experts": 2}
    made_of("Llama4ForCausalLM", transformers.Llama4TextConfig(**fields, interleave_moe_layer_step=2))
    code, _, errors = zeta("adapt", "old", "--out", "new", "--layers", "4")
    assert code == 2
    assert "whose block is put elsewhere by Layers, on one of another kind" in " ".join(errors.split())
