"""Recipes of language models against transformers' constructors, and against formulas on models with other names."""

from __future__ import annotations

import os
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

from torch import nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.expected_laws import assert_laws, assert_recorded  # noqa: E402
from zeta.errors import PlanError, SpecError  # noqa: E402
from zeta.initializers import Constant, Initializer, Normal, Zeros  # noqa: E402

# -- t5 ----------------------------------------------------------------------------------------------------------------

T5 = {
    "d_model": 48, "d_kv": 8, "d_ff": 96, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 60,
    "pad_token_id": 0, "decoder_start_token_id": 0,
}  # fmt: skip
T5_MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tied": ("T5ForConditionalGeneration", {}),
    "untied": ("T5ForConditionalGeneration", {"tie_word_embeddings": False}),
    "gated": ("T5ForConditionalGeneration", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "factor": ("T5ForConditionalGeneration", {"initializer_factor": 0.3, "tie_word_embeddings": False}),
    "encoder": ("T5EncoderModel", {}),
    "answers": ("T5ForQuestionAnswering", {}),
    "sequences": ("T5ForSequenceClassification", {}),
    "tokens": ("T5ForTokenClassification", {}),
}


def t5_of_transformers(name: str) -> nn.Module:
    kind, changes = T5_MODELS[name]
    return getattr(transformers, kind)(transformers.T5Config(**{**T5, **changes}))  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", T5_MODELS)
def test_t5_is_that_of_transformers(name: str) -> None:
    assert_recorded(lambda: t5_of_transformers(name), "t5")


class Attention(nn.Module):
    """Four heads of width 6 in a model of width 32: the inner width is 24."""

    def __init__(self, positions: bool) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v = (nn.Linear(32, 24, bias=False) for _ in range(3))
        self.to_out = nn.Linear(24, 32)
        if positions:
            self.rel_pos_bias = nn.Embedding(32, 4)


class T5Block(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = nn.RMSNorm(32), nn.RMSNorm(32)
        self.attention = Attention(positions=number == 0)
        self.feed_forward = nn.ModuleDict({"up": nn.Linear(32, 80), "down": nn.Linear(80, 32)})


class OwnT5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(200, 32)
        self.blocks = nn.ModuleList([T5Block(number) for number in range(2)])
        self.norm = nn.RMSNorm(32)
        self.lm_head = nn.Linear(32, 200)


def own_t5_laws(factor: float) -> dict[str, Initializer]:
    """Raffel et al. 2019, in numbers."""
    laws: dict[str, Initializer] = {
        "tokens.weight": Normal(factor), "lm_head.weight": Normal(factor), "lm_head.bias": Zeros(),
        "norm.weight": Constant(factor),
        "blocks.0.attention.rel_pos_bias.weight": Normal(factor / 32**0.5),
    }  # fmt: skip
    for block in ("blocks.0", "blocks.1"):
        laws |= {
            f"{block}.norm_1.weight": Constant(factor), f"{block}.norm_2.weight": Constant(factor),
            f"{block}.attention.to_q.weight": Normal(factor / (32 * 6) ** 0.5),
            f"{block}.attention.to_k.weight": Normal(factor / 32**0.5),
            f"{block}.attention.to_v.weight": Normal(factor / 32**0.5),
            f"{block}.attention.to_out.weight": Normal(factor / 24**0.5),
            f"{block}.attention.to_out.bias": Zeros(),
            f"{block}.feed_forward.up.weight": Normal(factor / 32**0.5),
            f"{block}.feed_forward.up.bias": Zeros(),
            f"{block}.feed_forward.down.weight": Normal(factor / 80**0.5),
            f"{block}.feed_forward.down.bias": Zeros(),
        }  # fmt: skip
    return laws


@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_t5_with_other_names(factor: float) -> None:
    options = {} if factor == 1 else {"factor": factor}
    assert_laws(OwnT5(), "t5", own_t5_laws(factor), d_kv=6, d_model=32, **options)


def test_t5_without_a_config_needs_its_sizes() -> None:
    with pytest.raises(PlanError, match="no config of the model has d_kv; give d_kv="):
        zeta.plan(OwnT5(), "t5", d_model=32)
    with pytest.raises(SpecError, match="the recipe 't5': d_kv must be a positive number, got 0"):
        zeta.plan(OwnT5(), "t5", d_kv=0)
