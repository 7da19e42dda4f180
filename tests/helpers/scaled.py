"""Models that grow in width and depth, for tests of scaling."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    """Input, two hidden layers, read-out."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inp = nn.Linear(32, width)
        self.h1 = nn.Linear(width, width)
        self.h2 = nn.Linear(width, width)
        self.out = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.h2(F.relu(self.h1(F.relu(self.inp(x)))))))


class Cnn(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, width, 3, padding=1)
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.c2 = nn.Conv2d(width, 2 * width, 3, padding=1, stride=2)
        self.fc = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.c2(F.relu(self.deep(F.relu(self.c1(x)))))).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, *, packed: bool = False) -> None:
        super().__init__()
        self.n_head = heads
        if packed:
            self.c_attn = nn.Linear(width, 3 * width)
        else:
            self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.o_proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        if hasattr(self, "c_attn"):
            parts = self.c_attn(x).split(width, dim=-1)
        else:
            parts = (self.q_proj(x), self.k_proj(x), self.v_proj(x))
        q, k, v = (part.view(batch, length, self.n_head, -1).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(width, 4 * width)
        self.down_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(x)))


class Experts(nn.Module):
    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.router = nn.Linear(width, count, bias=False)
        self.experts = nn.ModuleList(FeedForward(width) for _ in range(count))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.router(x).softmax(-1)
        return torch.stack([weights[..., n, None] * expert(x) for n, expert in enumerate(self.experts)]).sum(0)


class Block(nn.Module):
    def __init__(self, width: int, heads: int, experts: int, *, packed: bool) -> None:
        super().__init__()
        self.n1, self.attn = nn.LayerNorm(width), Attention(width, heads, packed=packed)
        self.n2, self.mlp = nn.LayerNorm(width), Experts(width, experts) if experts else FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.n1(x))
        return x + self.mlp(self.n2(x))


class Gpt(nn.Module):
    """A small GPT: heads, experts (0 is a dense MLP), packed projections, and a tied read-out, by choice."""

    def __init__(
        self, width: int, layers: int = 2, heads: int = 4, experts: int = 0, *, tied: bool = False, packed: bool = False
    ) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(64, width), nn.Embedding(16, width)
        self.h = nn.ModuleList(Block(width, heads, experts, packed=packed) for _ in range(layers))
        self.nf = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 64, bias=False)
        if tied:
            self.lm_head.weight = self.tok.weight
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.05)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.5)
        for name, weight in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.normal_(weight, std=0.05 / (2 * layers) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.tok(x) + self.pos(torch.arange(x.shape[1]))
        for block in self.h:
            y = block(y)
        return self.lm_head(self.nf(y))


class ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), FeedForward(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class ResidualMlp(nn.Module):
    """Pre-norm residual blocks of one MLP each."""

    def __init__(self, width: int, layers: int = 2) -> None:
        super().__init__()
        self.inp = nn.Linear(32, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inp(x)
        for block in self.blocks:
            y = block(y)
        return self.out(self.norm(y))


def by_hand(model: Gpt, x: Tensor, branch: float, readout: float, query: float) -> Tensor:
    """The forward pass with everything multiplied where the papers have it."""
    y = model.tok(x) + model.pos(torch.arange(x.shape[1]))
    for block in model.h:
        attn, z = block.attn, block.n1(y)  # type: ignore[union-attr,operator]
        shape = (*z.shape[:2], attn.n_head, -1)  # type: ignore[union-attr]
        if hasattr(attn, "c_attn"):
            parts = attn.c_attn(z).split(z.shape[-1], dim=-1)  # type: ignore[operator,union-attr]
        else:
            parts = (attn.q_proj(z), attn.k_proj(z), attn.v_proj(z))  # type: ignore[operator,union-attr]
        q, k, v = (part.view(shape).transpose(1, 2) for part in parts)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=query * q.shape[-1] ** -0.5)
        y = y + branch * attn.o_proj(mixed.transpose(1, 2).reshape(z.shape))  # type: ignore[operator,union-attr]
        y = y + branch * block.mlp(block.n2(y))  # type: ignore[operator,union-attr]
    return F.linear(readout * model.nf(y), model.lm_head.weight)
