"""Networks with branches that are copies of each other, as they are written by mistake."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import Mlp, vectors
from tests.helpers.sick import sick


class Critics(nn.Module):
    """The two critics of TD3 or SAC."""

    def __init__(self, cloned: bool) -> None:
        super().__init__()
        self.q1 = Mlp(10, 32, 1)
        self.q2 = copy.deepcopy(self.q1) if cloned else Mlp(10, 32, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.q1(x), self.q2(x)


def of_both_critics(output: Any, batch: Tensor) -> Tensor:
    wanted = batch[:, :1].sin()
    return F.mse_loss(output[0], wanted) + F.mse_loss(output[1], wanted)


class Ensemble(nn.Module):
    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


class Mixture(nn.Module):
    """Averages its experts, or weighs them by a router."""

    def __init__(self, routed: bool, cloned: bool = True) -> None:
        super().__init__()
        expert = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))
        made = [copy.deepcopy(expert) for _ in range(4)]
        if not cloned:
            made = [nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8)) for _ in range(4)]
        self.experts, self.router, self.head = nn.ModuleList(made), nn.Linear(8, 4), nn.Linear(8, 5)
        self.routed = routed

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        gates = torch.softmax(self.router(x), -1) if self.routed else torch.full((len(x), 4), 0.25)
        return self.head(x + (gates[..., None] * outputs).sum(1))


@sick("Z306", "q2.0.weight", loss=of_both_critics)
def cloned_critics() -> Any:
    return Critics(True), vectors(10)


@sick("Z306", "members.1.0.weight")
def an_ensemble_of_copies() -> Any:
    member = Mlp(8, 32, 3)
    return Ensemble([copy.deepcopy(member) for _ in range(5)]), (vectors(8), torch.arange(64) % 3)


@sick("Z306", "experts.1.0.weight")
def averaged_experts_that_are_copies() -> Any:
    return Mixture(False), (vectors(8), torch.arange(64) % 5)


@sick("Z305", "experts.1.0.weight", "warn")
def routed_experts_that_are_copies() -> Any:
    return Mixture(True), (vectors(8), torch.arange(64) % 5)


class Vit(nn.Module):
    """``positions`` is learned; the class token is read out."""

    def __init__(self, fill: float) -> None:
        super().__init__()
        self.patch, self.cls = nn.Linear(12, 32), nn.Parameter(0.02 * torch.randn(1, 1, 32))
        self.pos_embed = nn.Parameter(fill * torch.randn(1, 17, 32))
        layer = [nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True, norm_first=True) for _ in range(2)]
        self.blocks, self.head = nn.Sequential(*layer), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.cls.expand(len(x), -1, -1), self.patch(x)], 1) + self.pos_embed
        return self.head(self.blocks(tokens)[:, 0])


def patches() -> Any:
    return torch.randn(16, 16, 12), torch.arange(16) % 5


@sick("Z307", "pos_embed", "warn")
def positions_that_are_zero() -> Any:
    return Vit(0.0), patches()


class Sentence(nn.Module):
    def __init__(self, filled: bool) -> None:
        super().__init__()
        self.word, self.pe = nn.Embedding(50, 32), nn.Embedding(32, 32)
        if not filled:
            nn.init.zeros_(self.pe.weight)
        self.block = nn.TransformerEncoderLayer(32, 4, 64, 0.0, batch_first=True)
        self.head = nn.Linear(32, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.word(x) + self.pe(torch.arange(x.shape[1]))))


@sick("Z307", "pe.weight", "warn")
def an_embedding_of_positions_that_is_zero() -> Any:
    return Sentence(False), (torch.randint(50, (8, 16)), torch.randint(50, (8, 16)))


class Buffered(Sentence):
    """The table of sines was made and never filled."""

    def __init__(self, filled: bool) -> None:
        super().__init__(True)
        angles = torch.arange(32)[:, None] * 10.0 ** -torch.arange(0, 4, 0.25)
        del self.pe
        self.register_buffer("positional", torch.cat([angles.sin(), angles.cos()], 1) * (1.0 if filled else 0.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.word(x) + self.positional[: x.shape[1]]))


@sick("Z307", "positional", "warn")
def a_table_of_sines_that_is_zero() -> Any:
    return Buffered(False), (torch.randint(50, (8, 16)), torch.randint(50, (8, 16)))
