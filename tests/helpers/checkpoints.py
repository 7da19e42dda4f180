"""Small models of transformers for the tests of adapting, and folders with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

WIDTH, VOCABULARY = 32, 50


def gpt2(layers: int = 2, vocabulary: int = VOCABULARY) -> Any:
    return transformers.GPT2Config(
        n_layer=layers, n_embd=WIDTH, n_head=2, vocab_size=vocabulary, n_positions=16, bos_token_id=0, eos_token_id=0
    )


def llama(layers: int = 2, vocabulary: int = VOCABULARY, kind: Any = None, **more: Any) -> Any:
    return (kind or transformers.LlamaConfig)(
        num_hidden_layers=layers, hidden_size=WIDTH, intermediate_size=64, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=vocabulary, max_position_embeddings=32, bos_token_id=0, eos_token_id=0,
        **more,
    )  # fmt: skip


def bert(layers: int = 2, vocabulary: int = VOCABULARY, **more: Any) -> Any:
    return transformers.BertConfig(
        num_hidden_layers=layers, hidden_size=WIDTH, intermediate_size=64, num_attention_heads=2, vocab_size=vocabulary,
        max_position_embeddings=32, **more,
    )  # fmt: skip


def t5(layers: int = 2, vocabulary: int = VOCABULARY) -> Any:
    return transformers.T5Config(
        num_layers=layers, d_model=WIDTH, d_ff=64, d_kv=16, num_heads=2, vocab_size=vocabulary, decoder_start_token_id=0
    )


def built(kind: Any, config: Any, seed: int = 0) -> Any:
    """A model with values that no initialization gives: norms and biases too are random."""
    model = kind(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.05 + (parameter.ndim == 1))
    return model.eval()


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def tokens(vocabulary: int = VOCABULARY) -> Tensor:
    return torch.randint(0, vocabulary, (2, 8), generator=torch.Generator().manual_seed(1))


def values(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
