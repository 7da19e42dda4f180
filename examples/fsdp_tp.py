"""FSDP over tensor parallelism: recorded on meta, sharded, initialized where it lives, trained for one step.

    torchrun --nproc-per-node 4 examples/fsdp_tp.py

On GPUs with NCCL where there is one for each process, else on CPUs with Gloo. The loss that it prints is the same for
any number of processes, up to the rounding of sums: the values that the model starts from are the same bits.

Shapes: B sequences, T positions, C channels, H heads, V tokens in the vocabulary.
"""

from __future__ import annotations

import math
import os

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import zeta

VOCABULARY, CHANNELS, HEADS, LAYERS, POSITIONS = 512, 96, 4, 3, 32
SEED = 0


class Attention(nn.Module):
    """Causal self-attention, (B, T, C) to (B, T, C), with the heads that this process has."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(CHANNELS, CHANNELS, bias=False) for _ in range(3))
        self.out = nn.Linear(CHANNELS, CHANNELS, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Attend to every earlier position."""
        q, k, v = (
            projection(x).unflatten(-1, (-1, CHANNELS // HEADS)).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a feed-forward layer, each added to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(CHANNELS), nn.RMSNorm(CHANNELS)
        self.attention = Attention()
        self.up = nn.Linear(CHANNELS, 4 * CHANNELS)
        self.down = nn.Linear(4 * CHANNELS, CHANNELS)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, C) to (B, T, C)."""
        x = x + self.attention(self.norm1(x))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class Model(nn.Module):
    """A language model that initializes itself, as most do."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, CHANNELS)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(CHANNELS)
        self.head = nn.Linear(CHANNELS, VOCABULARY, bias=False)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if residual else 0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) to logits (B, T, V)."""
        x = self.tokens(tokens)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def shard(model: Model, mesh: DeviceMesh) -> None:
    """Cut the projections between ``tensor`` ranks, and what is left of everything between ``data`` ranks."""
    column, row = ColwiseParallel, RowwiseParallel
    plan = {
        **{f"attention.{name}": column() for name in ("query", "key", "value")},
        "attention.out": row(),
        "up": column(),
        "down": row(),
    }
    for block in model.blocks:
        parallelize_module(block, mesh["tensor"], plan)
        fully_shard(block, mesh=mesh["data"])
    fully_shard(model, mesh=mesh["data"])


def main() -> None:
    """Build, shard, initialize, check, train one step."""
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_RANK"])
    gpu = torch.cuda.device_count() >= world
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    if gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if gpu else "gloo", device_id=device if gpu else None)
    tensor = math.gcd(world, 2)
    mesh = init_device_mesh(device.type, (world // tensor, tensor), mesh_dim_names=("data", "tensor"))

    model, plan = zeta.record(Model)  # on meta: nothing is allocated
    shard(model, mesh)  # still on meta
    # what this process holds, and nothing else, after one look whether all processes have the same plan and seed
    report = zeta.materialize_(model, plan, seed=SEED, device=device, confirm=True)
    assert report.ok, report
    found = zeta.verify(model, plan, seed=SEED, reduce=True)  # communicates too; nothing of zeta's does unless asked to
    assert found.ok, found
    if rank == 0:
        print(report.summary)

    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY, (8, POSITIONS + 1), generator=data).to(device)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    optimizer.step()
    if rank == 0:
        print(f"{found.summary}\n{world // tensor} x {tensor} processes on {device.type}: loss {loss.item():.5f}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
