"""What the tests of sharding share: a model with everything that is awkward to shard, and meshes that are not there."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore

_numbers = itertools.count()


class Awkward(nn.Module):
    """Odd sizes, ties, a padding row, norms, groups, experts, an orthogonal layer and values made by a program."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 9, padding_idx=8)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.conv = nn.Conv1d(6, 10, 3, groups=2)
        self.mix = nn.Linear(9, 7)
        self.norm = nn.RMSNorm(9)
        self.head = nn.Linear(9, 13, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("table", torch.arange(5.0))
        self.init_weights()

    def init_weights(self) -> None:
        with torch.no_grad():
            self.embed.weight.normal_(0.0, 0.02)
            self.embed.weight[8].zero_()
            for block in self.blocks:
                block.up.weight.normal_().mul_(0.5).clamp_(-1, 1)  # type: ignore[operator,union-attr]
                nn.init.xavier_uniform_(block.down.weight)  # type: ignore[arg-type,union-attr]
                nn.init.trunc_normal_(block.experts, std=0.1)  # type: ignore[arg-type]
                block.up.bias.uniform_(-0.1, 0.1)  # type: ignore[operator,union-attr]
                block.down.bias.normal_()  # type: ignore[operator,union-attr]
                block.norm.weight.fill_(1.0)  # type: ignore[operator,union-attr]
                block.norm.bias.zero_()  # type: ignore[operator,union-attr]
            nn.init.kaiming_normal_(self.conv.weight)
            nn.init.normal_(self.conv.bias)  # type: ignore[arg-type]
            nn.init.orthogonal_(self.mix.weight)
            self.mix.bias.copy_(torch.randn(7).sort().values)
            self.norm.weight.fill_(1.0)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)) + self.mix(x).sum() + self.conv(x.new_ones(1, 6, 3)).sum()


class Block(nn.Module):
    """A feed-forward layer and experts, all of them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(9)
        self.up = nn.Linear(9, 14)
        self.down = nn.Linear(14, 9)
        self.experts = nn.Parameter(torch.empty(3, 9, 9))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.down(torch.relu(self.up(self.norm(x))))
        experts = self.experts.full_tensor() if isinstance(self.experts, DTensor) else self.experts
        return x + torch.einsum("...i,eij->...j", x, experts)


@contextmanager
def fake_mesh(shape: tuple[int, ...], coordinate: tuple[int, ...]) -> Iterator[DeviceMesh]:
    """A mesh as the rank at ``coordinate`` sees it. Nothing is sent, and nothing arrives.

    No two have the same names: torch caches by them, and takes one rank's mesh for another's.
    """
    rank = int(torch.arange(torch.Size(shape).numel()).view(shape)[coordinate])
    dist.init_process_group("fake", rank=rank, world_size=torch.Size(shape).numel(), store=FakeStore())
    try:
        names = tuple(f"mesh_{next(_numbers)}" for _ in shape)
        yield init_device_mesh("cpu", shape, mesh_dim_names=names)
    finally:
        dist.destroy_process_group()
