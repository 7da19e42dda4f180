"""GPT-2 in one page: the model of the first run.

The architecture of Radford et al. 2019, "Language Models are Unsupervised Multitask Learners": token and
position embeddings, pre-norm blocks of causal attention and a GELU MLP, a final norm, and a read-out that
shares the token embedding's weight. How its weights start is not decided here: every layer keeps torch's
defaults until zeta writes the real values.

    zeta init examples/gpt.py:gpt2 --recipe gpt2 --seed 0 --out build/gpt2

Shapes: B sequences, T positions, C channels (``n_embd``), H heads, V tokens in the vocabulary.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """Sizes of a GPT. The defaults are those of the smallest GPT-2.

    Args:
        vocab_size: Number of tokens, V.
        n_positions: Longest sequence, the largest T.
        n_embd: Channels of the residual stream, C; a multiple of ``n_head``.
        n_layer: Number of blocks.
        n_head: Attention heads per block, H.
        bias: Whether linear layers and norms have a bias (the read-out never does).

    Raises:
        ValueError: If a size is not a positive integer, or ``n_head`` does not divide ``n_embd``.
    """

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    bias: bool = True

    def __post_init__(self) -> None:
        for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a positive integer, got {value!r}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}")


class Attention(nn.Module):
    """Causal multi-head self-attention, (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        # Query, key and value side by side: one matrix product instead of three.
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Let every position look at itself and at those before it."""
        # (B, T, 3C) -> three of (B, H, T, C/H)
        qkv = self.c_attn(x).unflatten(-1, (3, self.n_head, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.c_proj(heads.transpose(1, 2).flatten(-2))


class MLP(nn.Module):
    """Two linear layers around a GELU, four times as wide in between, (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Work on each position alone."""
        # GPT-2 was trained with the tanh approximation.
        return self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))


class Block(nn.Module):
    """Attention, then MLP, each behind a norm and added to the residual stream, (B, T, C) to (B, T, C)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: Tensor) -> Tensor:
        """Add both residual branches."""
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """A decoder-only language model.

    It has no buffers: the causal mask is implied, and positions are counted in the forward pass. So a model
    built on the meta device needs nothing but its parameters.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, bias=config.bias)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        """Score what comes next at every position.

        Args:
            tokens: (B, T) int64, T at most ``n_positions``.
            targets: (B, T) int64, the token that follows each position; -100 where none counts.

        Returns:
            The logits (B, T, V); with ``targets`` also the mean cross-entropy in nats, a scalar.

        Raises:
            ValueError: If the sequences are longer than the model has positions.
        """
        length, limit = tokens.shape[-1], self.config.n_positions
        if length > limit:
            raise ValueError(f"tokens have length {length}, but the model has only {limit} positions")
        x = self.wte(tokens) + self.wpe(torch.arange(length, device=tokens.device))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        if targets is None:
            return logits
        return logits, F.cross_entropy(logits.flatten(0, -2), targets.flatten())


def gpt2(**overrides: Any) -> GPT:
    """Build the smallest GPT-2: 124,439,808 parameters, the shared read-out counted once.

    Args:
        **overrides: Fields of ``GPTConfig`` that shall differ.
    """
    return GPT(GPTConfig(**overrides))


def main() -> None:
    """Initialize a small GPT and show that it starts by knowing nothing."""
    import zeta  # here, so that the model itself needs torch alone

    model = gpt2(vocab_size=512, n_positions=64, n_embd=128, n_layer=4, n_head=4)
    report = zeta.init_(model, "gpt2", seed=0)
    print(report.summary)

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (8, 65), generator=generator)
    with torch.no_grad():
        _, loss = model(tokens[:, :-1], tokens[:, 1:])
    # All tokens being about equally likely, the loss is about that of guessing.
    print(f"loss {loss:.3f}, ln(vocab_size) {math.log(model.config.vocab_size):.3f}")


if __name__ == "__main__":
    main()
