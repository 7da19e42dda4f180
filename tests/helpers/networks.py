"""Small networks for the tests of the health check, and batches for them."""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def vectors(width: int, count: int = 64) -> Tensor:
    return torch.randn(count, width)


def images(channels: int, size: int = 8, count: int = 8) -> Tensor:
    return torch.randn(count, channels, size, size)


def tokens(vocabulary: int = 100, count: int = 4, length: int = 16) -> Tensor:
    return torch.randint(0, vocabulary, (count, length))


def Mlp(inputs: int, width: int, outputs: int, depth: int = 2) -> nn.Sequential:  # noqa: N802
    """He-initialized, biases zero."""
    sizes = [inputs, *(width,) * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for into, out in itertools.pairwise(sizes):
        layers += [nn.Linear(into, out), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight, nonlinearity="relu")  # type: ignore[arg-type]
        nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])


class Branch(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(F.relu(self.fc1(x)))


class Residual(nn.Module):
    """Without normalization: each branch's last layer is He's over sqrt(2 * depth)."""

    def __init__(self, width: int = 16, depth: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Branch(width) for _ in range(depth))
        self.head = nn.Linear(width, classes)
        for block in self.blocks:
            nn.init.kaiming_normal_(block.fc1.weight, nonlinearity="relu")
            nn.init.kaiming_normal_(block.fc2.weight, nonlinearity="relu")
            with torch.no_grad():
                block.fc2.weight.mul_((2 * depth) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class Block(nn.Module):
    def __init__(self, width: int, norm: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width) if norm else nn.Identity()
        self.attn = nn.MultiheadAttention(width, 2, batch_first=True, dropout=0.1)
        self.norm2 = nn.LayerNorm(width) if norm else nn.Identity()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn(y, y, y, attn_mask=mask, need_weights=False, is_causal=True)[0]
        return x + self.dropout(self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class LanguageModel(nn.Module):
    def __init__(
        self, vocabulary: int = 100, width: int = 32, depth: int = 2, *, tied: bool = False, norm: bool = True
    ) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Block(width, norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width) if norm else nn.Identity()
        self.head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        if tied:
            self.head.weight = self.wte.weight

    def forward(self, x: Tensor) -> Tensor:
        length = x.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        h = self.wte(x) + self.wpe(torch.arange(length))
        for block in self.blocks:
            h = block(h, mask)
        return self.head(self.norm(h))
