"""The settings of a transformers model: from_pretrained reads what was written, and nobody else's file is touched."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import nn

import zeta
from tests.write.checkpoint.test_checkpoint import UNIFORM, bits, contents, save
from tests.write.checkpoint.test_files_journal import NUMBERS, PARTIAL, killed
from zeta.base.reading import LARGEST_SETTINGS
from zeta.errors import CheckpointError
from zeta.write.checkpoint.settings import differences

SMALL = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 16}
MODELS: dict[str, dict[str, Any]] = {
    "LlamaForCausalLM": {**SMALL, "tie_word_embeddings": True, "pad_token_id": 3},
    "MixtralForCausalLM": {**SMALL, "num_key_value_heads": 2, "num_local_experts": 2},
    "GPT2LMHeadModel": {"n_layer": 1, "n_embd": 8, "n_head": 2, "vocab_size": 16, "n_positions": 8, "bos_token_id": 0},
    "T5ForConditionalGeneration": {"d_model": 8, "d_kv": 4, "d_ff": 16, "num_layers": 1, "num_heads": 2},
    "BertForMaskedLM": SMALL,
    "ViTForImageClassification": {**SMALL, "image_size": 8, "patch_size": 4, "num_labels": 3},
}


# -- with transformers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
@pytest.mark.parametrize("name", MODELS)
def test_from_pretrained_gives_equal_bits(name: str, dtype: torch.dtype | None, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name)
    config = kind.config_class(**MODELS[name])
    model, plan = zeta.record(kind._from_config, config)
    before = config.to_json_string()
    zeta.save(model, plan, tmp_path / "out", seed=1, dtype=dtype)
    assert config.to_json_string() == before, "the model's own configuration does not change"
    loaded, notes = kind.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(notes.values()), notes
    zeta.materialize_(model, plan, seed=1, dtype=dtype)
    assert bits(dict(loaded.named_parameters())) == bits(dict(model.named_parameters()))
    assert bits(loaded.state_dict()) == bits(model.state_dict())
    assert zeta.verify(tmp_path / "out").ok
    loaded.save_pretrained(tmp_path / "theirs")
    for file in ("config.json", "generation_config.json"):
        ours, theirs = tmp_path / "out" / file, tmp_path / "theirs" / file
        assert ours.exists() == theirs.exists()
        assert not ours.exists() or ours.read_text() == theirs.read_text()


def test_the_auto_classes_load_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**MODELS["LlamaForCausalLM"])
    model, plan = zeta.record(transformers.AutoModelForCausalLM.from_config, config)
    zeta.save(model, plan, tmp_path, seed=1)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is transformers.LlamaForCausalLM
    base = transformers.AutoModel.from_pretrained(tmp_path)
    assert bits(base.state_dict()) == bits(loaded.model.state_dict())


def test_ties_are_dropped_by_default_and_either_form_loads(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(**MODELS["LlamaForCausalLM"])
    kind = transformers.LlamaForCausalLM
    model, plan = zeta.record(kind._from_config, config)
    zeta.save(model, plan, tmp_path / "once", seed=1)
    zeta.save(model, plan, tmp_path / "each", seed=1, drop_ties=False)
    once, each = (tmp_path / name / "model.safetensors" for name in ("once", "each"))
    assert set(load_file(each)) - set(load_file(once)) == {"lm_head.weight"}
    real = kind(config)
    assert load_model(real, once, strict=True) == (set(), [])
    zeta.materialize_(model, plan, seed=1)
    assert bits(real.state_dict()) == bits(model.state_dict())
    with pytest.raises(RuntimeError, match="Unexpected key"):  # as of every file with both names of a tensor
        load_model(kind(config), each, strict=True)
    other = kind(config)
    other.load_state_dict(load_file(each), strict=True)
    assert bits(other.state_dict()) == bits(model.state_dict())
    assert bits(kind.from_pretrained(tmp_path / "each").state_dict()) == bits(model.state_dict())


# -- without it --------------------------------------------------------------------------------------------------------


class Config:
    """As much of a configuration as zeta uses."""

    def __init__(self, **values: Any) -> None:
        self.values = values

    def to_json_string(self) -> str:
        return json.dumps(self.values)


class Pretrained(nn.Module):
    """As much of a model of transformers as zeta uses, with a tie."""

    config_class: Any = Config

    def __init__(self, config: Any = None, *, generates: bool = True) -> None:
        super().__init__()
        self.config = Config(model_type="this", width=3) if config is None else config
        self.generation_config = Config(top_k=5, compile_config={"mode": "fast"}) if generates else None
        self.layers = nn.ModuleList(nn.Linear(10, 10) for _ in range(3))
        self.layers[2].weight = self.layers[0].weight

    @classmethod
    def from_pretrained(cls, path: str) -> Pretrained:
        raise NotImplementedError


def write(folder: Path, model: nn.Module | None = None, **options: Any) -> zeta.Report:
    return save(Pretrained() if model is None else model, folder, UNIFORM, **{"max_shard_size": 500, **options})


def plain(folder: Path, **options: Any) -> zeta.Report:
    return save(nn.Linear(3, 3), folder, UNIFORM, **options)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Every run makes the same calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_what_is_written(tmp_path: Path) -> None:
    write(tmp_path, dtype=torch.float16)
    found = {name: json.loads((tmp_path / name).read_text()) for name in ("config.json", "generation_config.json")}
    assert found == {
        "config.json": {"model_type": "this", "width": 3, "architectures": ["Pretrained"], "dtype": "float16"},
        "generation_config.json": {"top_k": 5},
    }
    manifest = json.loads((tmp_path / "zeta.json").read_text())
    assert manifest["drop_ties"] is True
    assert manifest["settings"] == {name: (tmp_path / name).read_text() for name in found}
    write(tmp_path, Pretrained(generates=False), force=True)
    assert not (tmp_path / "generation_config.json").exists(), "files of the earlier run alone are removed"
    assert zeta.verify(tmp_path).ok


class Holder(nn.Module):
    """A module with somebody's configuration, which is not built from it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Pretrained()
        self.config = self.inner.config


class Passing(Holder):
    """As adapters do: every attribute that it lacks is the inner model's."""

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inner"), name)


class Adapted(Pretrained):
    """Names of adapters are in its state."""

    _hf_peft_config_loaded = True


class Other(Pretrained):
    """Its configuration is not of the class that it is built from."""

    def __init__(self) -> None:
        super().__init__({"model_type": "this"})


@pytest.mark.parametrize("kind", [Holder, Passing, Adapted, Other])
def test_a_model_that_its_configuration_does_not_build_has_no_settings(kind: type[nn.Module], tmp_path: Path) -> None:
    write(tmp_path, kind())
    assert not list(tmp_path.glob("*config.json"))
    assert json.loads((tmp_path / "zeta.json").read_text())["drop_ties"] is False


def test_a_wrapper_is_looked_through(tmp_path: Path) -> None:
    write(tmp_path, torch.compile(Pretrained()))  # type: ignore[arg-type]
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["Pretrained"]


def test_plain_numbers_are_not_called_quantized(tmp_path: Path) -> None:
    quantization = {"quant_method": "fp8", "weight_block_size": [8, 8]}
    config = {"text_config": {"width": 3, "quantization_config": quantization}, "quantization_config": quantization}
    with pytest.warns(zeta.errors.ZetaNotice, match=r"without quantization_config and text_config.quantization_config"):
        write(tmp_path, Pretrained(Config(**config)))
    found = json.loads((tmp_path / "config.json").read_text())
    assert found["text_config"] == {"width": 3}
    assert "quantization_config" not in found
    assert zeta.verify(tmp_path).ok


def test_the_quantization_of_a_quantized_model_stays(tmp_path: Path) -> None:
    model = Pretrained(Config(quantization_config={"quant_method": "fp8"}))
    model.is_quantized = True  # type: ignore[assignment]
    write(tmp_path, model)
    assert json.loads((tmp_path / "config.json").read_text())["quantization_config"] == {"quant_method": "fp8"}


def test_the_configuration_names_no_other_file_of_tensors(tmp_path: Path) -> None:
    write(tmp_path, Pretrained(Config(transformers_weights="other.safetensors")))
    assert "transformers_weights" not in json.loads((tmp_path / "config.json").read_text())


class Unwritable(Config):
    """Fails, as one with a tensor in it."""

    def to_json_string(self) -> str:
        return json.dumps({"model_type": object()})


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Unwritable(), "cannot be written as JSON: TypeError: Object of type object is not"),
        (Config(text=["x" * 1000] * (LARGEST_SETTINGS // 1000)), "has .* bytes as JSON; at most 4,194,304"),
        (Config(bad="\ud800"), "not valid Unicode"),
        (Config(deep=json.loads("[" * 99 + "]" * 99)), None),
        (Config(deep=json.loads("[" * 101 + "]" * 101)), "nested more than 100 levels deep"),
    ],
    ids=["no JSON", "large", "no Unicode", "deep", "too deep"],
)
def test_a_configuration_that_cannot_be_written_is_a_notice(config: Config, reason: str | None, tmp_path: Path) -> None:
    if reason is None:
        write(tmp_path, Pretrained(config))
        assert (tmp_path / "config.json").exists()
        return
    with pytest.warns(zeta.errors.ZetaNotice, match=f"config.json are not written.*{reason}"):
        write(tmp_path, Pretrained(config))
    assert not list(tmp_path.glob("*config.json"))
    assert zeta.verify(tmp_path).ok


# -- files of others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("force", [False, True])
def test_a_file_of_somebody_else_stays(name: str, force: bool, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(CheckpointError, match=f"{name}" if force else f"already has {name}, which zeta writes itself"):
        write(tmp_path, force=force)
    assert contents(tmp_path) == {name: b"mine"}
    plain(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(CheckpointError, match=f"zeta.json does not name them.*\n  - {name}" if force else "already"):
        write(tmp_path, force=force)
    assert contents(tmp_path) == before


def test_a_model_without_settings_leaves_them_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("mine")
    plain(tmp_path)
    plain(tmp_path, seed=5, force=True)
    assert (tmp_path / "config.json").read_text() == "mine"
    assert zeta.verify(tmp_path).ok


def test_force_replaces_what_the_earlier_manifest_names(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(CheckpointError, match="overwrite with force"):
        write(tmp_path)
    write(tmp_path, Pretrained(Config(model_type="other")), force=True)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "other"
    plain(tmp_path, force=True)
    assert sorted(contents(tmp_path)) == ["model.safetensors", "zeta.json"]


@pytest.mark.parametrize("name", ["../victim", "README.md", "model.safetensors", "zeta.json"])
def test_a_manifest_cannot_name_other_files(name: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write(out)
    (tmp_path / "victim").write_text("mine")
    (out / "README.md").write_text("mine")
    manifest = json.loads((out / "zeta.json").read_text())
    manifest["settings"][name] = "{}"
    (out / "zeta.json").write_text(json.dumps(manifest))
    before = contents(tmp_path)
    for attempt in (partial(zeta.verify, out), partial(write, out, force=True)):
        with pytest.raises(CheckpointError, match=r"settings must be files called config\.json or"):
            attempt()
    assert contents(tmp_path) == before


# -- verify ------------------------------------------------------------------------------------------------------------


def test_verify_names_what_is_missing_or_changed(tmp_path: Path) -> None:
    write(tmp_path)
    config, generation = tmp_path / "config.json", tmp_path / "generation_config.json"
    assert zeta.verify(tmp_path).ok
    original = config.read_text()
    generation.unlink()
    config.write_text(original.replace('"width": 3', '"height": 4'))
    assert zeta.verify(tmp_path).problems == (
        "config.json: 'width' was 3, and is not there now",
        "config.json: 'height' was not there, and is 4 now",
        "generation_config.json: is missing",
    )
    for text, problem in [
        (original + " ", "has the same values in another form"),
        ("{", "cannot be read: "),
        ("[]", "is no JSON object"),
        (" " * (LARGEST_SETTINGS + 1), "has more than 4,194,304 bytes"),
    ]:
        config.write_text(text)
        assert zeta.verify(tmp_path).problems[0].startswith(f"config.json: {problem}")
    config.unlink()
    os.mkfifo(config)
    with pytest.raises(CheckpointError, match=r"config\.json|FIFO"):
        zeta.verify(tmp_path)


def test_a_manifest_of_before_that_has_no_settings(tmp_path: Path) -> None:
    plain(tmp_path)
    manifest = json.loads((tmp_path / "zeta.json").read_text())
    del manifest["settings"]
    (tmp_path / "zeta.json").write_text(json.dumps(manifest))
    assert zeta.verify(tmp_path).ok


def test_differences_in_words() -> None:
    assert differences(None, None) == differences("{}", "{}") == []
    assert differences(None, "{}") == ["was not asked for, and is now"]
    assert differences("{}", None) == ["was asked for, and is not now"]


# -- interruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("earlier", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_killed_at_any_moment_the_same_call_goes_on(earlier: bool, after: bool, tmp_path: Path) -> None:
    write(tmp_path / "whole")
    whole = {**contents(tmp_path / "whole"), "README.md": b"mine"}
    for number in NUMBERS:
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "README.md").write_text("mine")
        if earlier:
            write(folder, Pretrained(Config(model_type="other")), seed=5)
        before = contents(folder)
        if not killed(number, partial(write, folder, force=earlier), after=after):
            break
        left = set(contents(folder).values())
        assert set(before.values()) <= left or set(whole.values()) <= left, "nothing is lost"
        if set(contents(folder)) == set(whole) and not earlier:
            with pytest.raises(CheckpointError, match="already has"):
                write(folder)
        else:
            write(folder, force=earlier)
        assert contents(folder) == whole, number
        assert not (folder / PARTIAL).exists()
    else:
        raise AssertionError("there are more moments")
    assert number > 25, number


def test_another_configuration_is_another_request(tmp_path: Path) -> None:
    def stop(name: str, *_: int) -> None:
        if name.startswith("layers.2"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, progress=stop)
    other = Pretrained(Config(model_type="this", width=4), generates=False)
    with pytest.raises(CheckpointError) as refused:
        write(tmp_path, other)
    assert re.findall(r"  - (.*)", str(refused.value)) == [
        "config.json: 'width' was 3, and is 4 now",
        "generation_config.json: was asked for, and is not now",
    ]
    assert write(tmp_path).resumed > 0
    assert zeta.verify(tmp_path).ok


def test_a_foreign_file_that_appears_meanwhile_stays(tmp_path: Path) -> None:
    def appear(*_: Any) -> None:
        (tmp_path / "config.json").write_text("mine")

    with pytest.raises(CheckpointError, match=r"config\.json"):
        write(tmp_path, progress=appear)
    assert (tmp_path / "config.json").read_text() == "mine"
    assert not (tmp_path / "zeta.json").exists()
