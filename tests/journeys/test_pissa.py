"""Adapters that start from a model's own weights: PiSSA, then training, and the weights merged again."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import zeta


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear, rank: int) -> None:
        super().__init__()
        self.base, self.scaling = base.requires_grad_(False), 2.0
        self.lora_A = nn.Linear(base.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, base.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.base(x) + self.scaling * self.lora_B(self.lora_A(x))
        return out


def test_pissa_then_train() -> None:
    torch.manual_seed(0)
    base = nn.Linear(32, 16)
    x, y = torch.randn(64, 32), torch.randn(64, 16)
    trained = base(x).detach()
    model = nn.Sequential(LoRA(base, 4))
    zeta.init_(model, "lora", seed=0)  # B is 0: the adapter was torch's own
    assert torch.equal(model(x), trained)
    report = zeta.adapters.pissa_(model, seed=0)
    assert report.difference <= 1e-7
    assert torch.allclose(model(x), trained, atol=1e-6)

    def loss() -> Tensor:
        return (model(x) - y).square().mean()

    before = loss().item()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(20):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.95 * before
