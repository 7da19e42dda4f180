"""The old model that a report builds to compare outputs: as the folder says, and never more than that."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.checkpoints import built, gpt2, llama, saved, tokens, transformers
from zeta import Rows
from zeta.errors import SpecError, ZetaNotice
from zeta.initializers import Zeros

BATCH = {"input_ids": tokens()}


def folder_with(config: Any, folder: Path) -> Path:
    """A folder of a GPT-2 whose configuration is changed, or replaced by a text."""
    path = saved(built(transformers.GPT2LMHeadModel, gpt2()), folder) / "config.json"
    path.write_text(config if isinstance(config, str) else json.dumps({**json.loads(path.read_text()), **config}))
    return folder


def test_a_configuration_that_cannot_be_read_changes_nothing_of_the_loading(tmp_path: Path) -> None:
    path = folder_with({}, tmp_path) / "config.json"
    path.unlink()
    os.mkfifo(path)
    model = built(transformers.GPT2LMHeadModel, gpt2(), seed=1)
    report = zeta.adapt_(model, tmp_path, seed=0)
    assert len(report.loaded) == len([*model.parameters()])
    with pytest.raises(
        SpecError, match=r"cannot be built by the checkpoint's config\.json \(CheckpointError: .*pass it"
    ):
        report.preserved(BATCH)


@pytest.mark.parametrize("config", ["{{{", "[]", "[" * 100_000, {"n_layer": "x"}, {"activation_function": "none"}])
def test_a_configuration_that_makes_no_sense_is_named(tmp_path: Path, config: Any) -> None:
    model = built(transformers.GPT2LMHeadModel, gpt2(), seed=1)
    report = zeta.adapt_(model, folder_with(config, tmp_path), seed=0)
    with pytest.raises(SpecError, match=r"the old model cannot be built by the checkpoint's config\.json"):
        report.preserved(BATCH)


def test_a_configuration_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers loads and runs kernels of the hub for an attention that is named like a repository."""
    from transformers.integrations import hub_kernels

    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError(args)

    for name in ("load_and_register_attn_kernel", "lazy_load_kernel", "get_kernel"):
        if hasattr(hub_kernels, name):
            monkeypatch.setattr(hub_kernels, name, refused)
    kernels = {"attn_implementation": "some/kernels", "_attn_implementation": "some/kernels"}
    evil = {**kernels, "auto_map": {"AutoModel": "some/repository--file.Model"}, "use_kernels": True}
    model = built(transformers.GPT2LMHeadModel, gpt2(), seed=1)
    report = zeta.adapt_(model, folder_with(evil, tmp_path), seed=0)
    with pytest.warns(ZetaNotice, match="names code or weights from elsewhere, which are not fetched and not run"):
        assert report.preserved(BATCH).ok


@pytest.mark.parametrize(("dtype", "attention"), [(torch.bfloat16, "sdpa"), (torch.float32, "eager")])
def test_the_old_model_computes_as_the_new_one(tmp_path: Path, dtype: torch.dtype, attention: str) -> None:
    saved(built(transformers.LlamaForCausalLM, llama()).to(dtype), tmp_path)
    model = transformers.LlamaForCausalLM._from_config(llama(), attn_implementation=attention).to(dtype)
    preserved = zeta.adapt_(model, tmp_path, seed=0).preserved(BATCH)
    assert (preserved.difference, preserved.ok) == (0.0, True)


def test_random_numbers_are_as_before(tmp_path: Path) -> None:
    model = built(transformers.GPT2LMHeadModel, gpt2(), seed=1)
    report = zeta.adapt_(model, folder_with({}, tmp_path), seed=0)
    before = torch.get_rng_state()
    report.preserved(BATCH)
    report.preserved(BATCH, lambda: transformers.GPT2LMHeadModel(gpt2()))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_model_without_input_embeddings_is_loaded() -> None:
    class Speech(nn.Module):
        def __init__(self, words: int) -> None:
            super().__init__()
            self.head = nn.Linear(3, words)
            self.config = transformers.Wav2Vec2Config(vocab_size=words)

        def get_input_embeddings(self) -> Tensor:
            raise NotImplementedError

    old, new = Speech(5), Speech(7)
    zeta.adapt_(new, old, seed=0, grow={"head.*": Rows(Zeros())})
    assert torch.equal(new.head.weight[:5], old.head.weight)
