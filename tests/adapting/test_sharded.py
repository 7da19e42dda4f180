"""Sharded models get the bits of unsharded ones: FSDP2 and tensor parallelism, in real processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.checkpoints import built, gpt2, llama, saved, transformers
from tests.helpers.processes import run


def test_sharded_models_get_the_bits_of_unsharded_ones(tmp_path: Path) -> None:
    saved(built(transformers.GPT2LMHeadModel, gpt2()), tmp_path / "GPT2LMHeadModel")
    saved(built(transformers.LlamaForCausalLM, llama()), tmp_path / "LlamaForCausalLM")
    run("tests.helpers.adapt_ranks", 2, tmp_path)


@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_what_grows_has_the_bits_of_unsharded_models(tmp_path: Path, ranks: int) -> None:
    run("tests.helpers.grow_ranks", ranks, tmp_path)
