"""Healthy networks that look sick, by the rule that they must not fail; and twins that are sick indeed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import images, tokens, vectors

Build = Callable[[], tuple[Any, ...]]


@dataclass(frozen=True, kw_only=True)
class Lookalike:
    """``build`` gives model, batch and perhaps options of ``check``; ``severity`` is the worst that is right."""

    rule: str
    severity: str | None
    build: Build


HEALTHY: dict[str, Lookalike] = {}
SICK: dict[str, Lookalike] = {}


def healthy(rule: str, severity: str | None = None) -> Callable[[Build], Build]:
    """A network at which findings of this rule have at most this severity; ``None`` for no finding."""

    def add(build: Build) -> Build:
        HEALTHY[build.__name__] = Lookalike(rule=rule, severity=severity, build=build)
        return build

    return add


def sick(rule: str, severity: str = "fail") -> Callable[[Build], Build]:
    """A network at which a finding of this rule has this severity."""

    def add(build: Build) -> Build:
        SICK[build.__name__] = Lookalike(rule=rule, severity=severity, build=build)
        return build

    return add


def labels(count: int, samples: int = 64) -> Tensor:
    return torch.arange(samples) % count


class Then(nn.Module):
    """A body of any kind, and a function of its output."""

    def __init__(self, body: nn.Module, function: Callable[[Any], Tensor]) -> None:
        super().__init__()
        self.body, self.function = body, function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.body(x))


# -- Z401: masks of modules that own parameters ------------------------------------------------------------------------


class BiasedScores(nn.Module):
    """Scores of attention with learned distances and a causal mask."""

    def __init__(self, width: int = 32, length: int = 16, *, empty: bool = False) -> None:
        super().__init__()
        self.distances = nn.Parameter(torch.randn(2 * length - 1) * 0.02)
        self.qk, self.empty = nn.Linear(width, 2 * width), empty

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.qk(x).chunk(2, -1)
        place = torch.arange(x.shape[1])
        scores = q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5
        scores = scores + self.distances[place[:, None] - place[None, :] + x.shape[1] - 1]
        hidden = place[:, None] < place[None, :] + (2 if self.empty else 0)
        return scores.masked_fill(hidden, -torch.inf)


class OwnMask(nn.Module):
    def __init__(self, empty: bool = False) -> None:
        super().__init__()
        self.scores, self.value, self.head = BiasedScores(empty=empty), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((torch.softmax(self.scores(x), -1) @ self.value(x)).mean(1))


@healthy("Z401")
def scores_with_learned_distances_and_a_causal_mask() -> Any:
    return OwnMask(), (torch.randn(16, 16, 32), labels(5, 16))


@sick("Z401")
def rows_of_scores_that_are_masked_whole() -> Any:
    return OwnMask(empty=True), (torch.randn(16, 16, 32), labels(5, 16))


class Pointer(nn.Module):
    """Additive attention that points at one of the places that were not visited (Vinyals et al. 2015)."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.randn(width) / width**0.5)
        self.keys, self.query = nn.Linear(4, width), nn.Linear(4, width)

    def forward(self, places: Tensor, visited: Tensor) -> Tensor:
        scores = torch.tanh(self.keys(places) + self.query(places.mean(1, keepdim=True))) @ self.v
        return scores.masked_fill(visited, float("-inf"))


@healthy("Z401")
def pointer_network() -> Any:
    visited = torch.rand(32, 10, generator=torch.Generator().manual_seed(0)) < 0.4
    visited[:, 3] = False
    return Pointer(), (torch.randn(32, 10, 4), visited, torch.full((32,), 3))


class Legal(nn.Linear):
    """A policy's head that rules out actions."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).masked_fill(torch.arange(self.out_features) % 3 == 1, -torch.inf)


@healthy("Z401")
def policy_with_illegal_actions() -> Any:
    return nn.Sequential(nn.Linear(8, 32), nn.Tanh(), Legal(32, 9)), (vectors(8), labels(3) * 3)


class Gate(nn.Module):
    """The two largest of eight scores go on (Shazeer et al. 2017)."""

    def __init__(self, width: int = 16, count: int = 8) -> None:
        super().__init__()
        self.w_gate = nn.Parameter(torch.randn(width, count) * width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        scores = x @ self.w_gate
        return scores.masked_fill(scores < scores.topk(2, -1).values[..., -1:], -torch.inf)


class Mixture(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = Gate(), nn.Linear(32, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU()) for _ in range(8))

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.gate(x), -1)
        return self.head((torch.stack([expert(x) for expert in self.experts], 1) * weights[..., None]).sum(1))


@healthy("Z401")
def experts_behind_a_sparse_gate() -> Any:
    return Mixture(), (vectors(16), labels(4))


@healthy("Z401")
def pooling_by_attention_over_a_dimension_before_the_last() -> Any:
    class Pool(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(12, 1) * 0.3)

        def forward(self, x: Tensor) -> Tensor:
            padded = torch.arange(x.shape[1]) >= 5
            return (x @ self.weight).masked_fill(padded[None, :, None], -torch.inf)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.pool, self.head = nn.Linear(6, 12), Pool(), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.body(x))
            return self.head((torch.softmax(self.pool(x), 1) * x).sum(1))

    return Net(), (torch.randn(24, 9, 6), labels(3, 24))


@sick("Z401")
def infinite_weights_of_a_mask_that_a_linear_layer_takes() -> Any:
    return nn.Sequential(Legal(8, 9), nn.Linear(9, 4)), (vectors(8), labels(4))


# -- Z302: rows that this batch does not reach -------------------------------------------------------------------------


class Placed(nn.Module):
    def __init__(self, take: Callable[[nn.Parameter, int], Tensor], *shape: int) -> None:
        super().__init__()
        self.pos, self.take = nn.Parameter(torch.zeros(shape)), take
        self.embed, self.fc, self.head = nn.Embedding(50, 16), nn.Linear(16, 32), nn.Linear(32, 50)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x) + self.take(self.pos, x.shape[1])
        return self.head(torch.relu(self.fc(h)))


@healthy("Z302")
def table_of_positions_by_a_slice() -> Any:
    return Placed(lambda pos, length: pos[:, :length], 1, 64, 16), tokens(50)


@healthy("Z302")
def table_of_positions_without_a_batch_by_a_slice() -> Any:
    return Placed(lambda pos, length: pos[:length], 64, 16), tokens(50)


@healthy("Z302")
def table_of_positions_by_a_cast_and_narrow() -> Any:
    return Placed(lambda pos, length: pos.double().narrow(0, 0, length).float(), 64, 16), tokens(50)


@healthy("Z302")
def table_of_positions_by_indices() -> Any:
    return Placed(lambda pos, length: torch.index_select(pos, 0, torch.arange(length)), 64, 16), tokens(50)


@healthy("Z302")
def table_of_positions_by_f_embedding() -> Any:
    return Placed(lambda pos, length: F.embedding(torch.arange(length), pos), 64, 16), tokens(50)


@healthy("Z302")
def table_of_positions_of_an_image_by_height_and_width() -> Any:
    class Patches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pos, self.head = (
                nn.Conv2d(3, 16, 4, 4),
                nn.Parameter(torch.zeros(16, 8, 8)),
                nn.Linear(16, 4),
            )

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.head(F.gelu(x + self.pos[:, : x.shape[2], : x.shape[3]]).mean((2, 3)))

    return Patches(), (images(3, 16, 32), labels(4, 32))


class Window(nn.Module):
    """A window of Swin, smaller than its table of relative positions; the table is zero."""

    def __init__(self, width: int = 32, heads: int = 2, size: int = 7) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n = int(x.shape[1] ** 0.5)
        place = torch.stack(torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")).flatten(1)
        apart = place[:, :, None] - place[:, None, :] + self.size - 1
        index = apart[0] * (2 * self.size - 1) + apart[1]
        bias = self.table[index.view(-1)].view(n * n, n * n, -1).permute(2, 0, 1)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias
        return self.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


@healthy("Z302")
def window_that_is_smaller_than_its_table() -> Any:
    return Then(nn.Sequential(Window(), nn.Linear(32, 4)), lambda y: y.mean(1)), (
        torch.randn(16, 16, 32),
        labels(4, 16),
    )


@healthy("Z302")
def prompts_of_the_classes_that_the_batch_has() -> Any:
    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift, self.fc = nn.Parameter(torch.zeros(100, 16)), nn.Linear(8, 16)
            self.head = nn.Linear(16, 8)

        def forward(self, x: Tensor, label: Tensor) -> Tensor:
            return self.head(F.silu(self.fc(x) + self.shift[label]))

    return Conditional(), (vectors(8), labels(7), vectors(8))


class Coupling(nn.Module):
    """A layer of RealNVP: a constant mask takes away half of what the last layer computes, which starts at zero."""

    def __init__(self, even: bool, width: int = 8) -> None:
        super().__init__()
        self.register_buffer("mask", (torch.arange(width) % 2 == int(even)).float())
        self.net = nn.Sequential(nn.Linear(width, 32), nn.ReLU(), nn.Linear(32, 2 * width))
        nn.init.zeros_(self.net[2].weight)
        nn.init.zeros_(self.net[2].bias)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.net(x * self.mask).chunk(2, -1)
        return self.mask * x + (1 - self.mask) * (x * torch.tanh(scale).exp() + shift)


@healthy("Z302")
def couplings_that_mask_a_layer_of_zeros() -> Any:
    return nn.Sequential(Coupling(False), Coupling(True), Coupling(False)), vectors(8)


@sick("Z302")
def two_zero_factors_of_which_a_slice_is_taken() -> Any:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.a = nn.Linear(8, 16), nn.Linear(16, 32, bias=False)
            self.b, self.head = nn.Linear(32, 4), nn.Linear(16, 4)
            with torch.no_grad():
                self.a.weight[8:24] = 0
                self.b.weight[:, 8:24] = 0

        def forward(self, x: Tensor) -> Tensor:
            x = torch.tanh(self.fc(x))
            return self.head(x) + F.linear(F.linear(x, self.a.weight[:28]), self.b.weight[:, :28])

    return Product(), (vectors(8), labels(4))


# -- Z206: values that are one on purpose ------------------------------------------------------------------------------


def small(width: int, weight: Tensor) -> Any:
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)).to(weight.dtype)
    with torch.no_grad():
        model[0].weight.copy_(weight)
    return model, (torch.randn(64, width).to(weight.dtype), labels(4))


@healthy("Z206")
def identity_with_noise_beside_its_diagonal() -> Any:
    noise = torch.randn(64, 64) * 0.01
    return small(64, torch.where(torch.eye(64) == 1, torch.ones(()), noise))


@healthy("Z206")
def identity_plus_noise_in_bf16() -> Any:
    return small(96, (torch.eye(96) + torch.randn(96, 96) * 1e-3).bfloat16())


@healthy("Z206")
def dirac_plus_noise_in_a_convolution() -> Any:
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 8), nn.Flatten())
    with torch.no_grad():
        noise = torch.randn(32, 32, 3, 3) * 0.01
        nn.init.dirac_(model[0].weight)
        model[0].weight.copy_(torch.where(model[0].weight == 1, model[0].weight, noise))
    return model, (images(32, 8, 16), labels(4, 16))


@healthy("Z206")
def recurrent_weight_with_an_identity_for_each_gate() -> Any:
    class Cell(nn.Module):
        def __init__(self, width: int = 40) -> None:
            super().__init__()
            self.ih, self.hh, self.head = nn.Linear(6, 3 * width), nn.Linear(width, 3 * width), nn.Linear(width, 4)
            eye = torch.eye(width).repeat(3, 1)
            with torch.no_grad():
                self.hh.weight.copy_(torch.where(eye == 1, eye, torch.randn(3 * width, width) * 0.02))

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 40)
            for step in x.unbind(1):
                r, z, n = (self.ih(step) + self.hh(h)).chunk(3, -1)
                h = torch.lerp(torch.tanh(torch.sigmoid(r) * n), h, torch.sigmoid(z))
            return self.head(h)

    return Cell(), (torch.randn(32, 5, 6), labels(4, 32))


@healthy("Z206")
def one_value_twice_above_and_one_below() -> Any:
    weight = torch.randn(64, 64) * 0.02
    weight[3, 5] = weight[40, 17] = 1.0
    weight[20, 33] = -1.0
    return small(64, weight)


@sick("Z206")
def values_that_were_clamped_to_a_bound_of_one() -> Any:
    weight = torch.randn(128, 128) * 0.02
    weight[torch.rand(128, 128, generator=torch.Generator().manual_seed(3)) < 2e-3] = 1.0
    return small(128, weight)


@sick("Z206")
def values_that_were_clamped_at_both_ends() -> Any:
    weight = torch.randn(128, 128) * 0.02
    at = torch.rand(128, 128, generator=torch.Generator().manual_seed(3))
    weight[at < 1e-3], weight[at > 1 - 1e-3] = 2.0, -2.0
    return small(128, weight)


# -- Z504: a module that is called many times --------------------------------------------------------------------------


class ByHand(nn.Module):
    """A recurrent network, step by step."""

    def __init__(self, gain: float = 1.0, steps: int = 60, width: int = 32) -> None:
        super().__init__()
        self.ih, self.hh, self.head = nn.Linear(4, width), nn.Linear(width, width), nn.Linear(width, 3)
        self.tanh = gain <= 1
        nn.init.orthogonal_(self.hh.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), self.hh.in_features)
        for step in x.unbind(1):
            h = self.ih(step) + self.hh(h)
            h = torch.tanh(h) if self.tanh else h
        return self.head(h)


@healthy("Z504")
def recurrent_network_by_hand() -> Any:
    return ByHand(0.7), (torch.randn(32, 60, 4), labels(3, 32))


@sick("Z504")
def recurrent_network_by_hand_that_explodes() -> Any:
    return ByHand(2.0), (torch.randn(32, 60, 4), labels(3, 32))


@healthy("Z504")
def refinement_in_a_loop() -> Any:
    class Refined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.step, self.head = nn.Linear(8, 32), nn.Linear(64, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.into(x)
            z = torch.zeros_like(x)
            for _ in range(40):
                z = torch.tanh(self.step(torch.cat([z, x], -1)))
            return self.head(z)

    return Refined(), (vectors(8), labels(3))


@healthy("Z504")
def one_block_for_all_layers() -> Any:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc, self.head = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            for _ in range(24):
                x = torch.relu(self.fc(x))
            return self.head(x)

    model = Shared()
    nn.init.orthogonal_(model.fc.weight, 1.2)
    return model, (vectors(8), labels(3))


@healthy("Z504")
def scan_of_a_state_with_decay() -> Any:
    class Scan(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ih, self.hh = nn.Linear(4, 16), nn.Linear(16, 16, bias=False)
            self.out, self.head = nn.Linear(16, 16), nn.Linear(16, 3)
            with torch.no_grad():
                self.hh.weight.copy_(torch.eye(16) * torch.linspace(0.1, 0.7, 16))

        def forward(self, x: Tensor) -> Tensor:
            h = x.new_zeros(len(x), 16)
            for step in x.unbind(1):
                h = self.hh(h) + self.ih(step)
            return self.head(torch.relu(self.out(h)))

    return Scan(), (torch.randn(32, 100, 4), labels(3, 32))


# -- Z402: depth along paths, and what fp32 can train ------------------------------------------------------------------


def defaults_of_torch(depth: int, width: int = 64, dtype: torch.dtype = torch.float32) -> Any:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, 4)).to(dtype), (vectors(width).to(dtype), labels(4))


@healthy("Z402", "warn")
def ten_layers_with_the_defaults_of_torch() -> Any:
    return defaults_of_torch(10)


@healthy("Z402", "warn")
def twelve_layers_with_the_defaults_of_torch() -> Any:
    return defaults_of_torch(12)


@healthy("Z402", "warn")
def twelve_convolutions_with_the_defaults_of_torch() -> Any:
    layers: list[nn.Module] = []
    for number in range(11):
        layers += [nn.Conv2d(32 if number else 3, 32, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4)), (
        images(3, 8, 64),
        labels(4),
    )


@sick("Z402")
def forty_layers_with_the_defaults_of_torch() -> Any:
    return defaults_of_torch(40)


@healthy("Z402", "warn")
def twelve_layers_with_the_defaults_of_torch_in_bf16() -> Any:
    return defaults_of_torch(12, dtype=torch.bfloat16)


class Levels(nn.Module):
    """One head over many levels of a pyramid."""

    def __init__(self, levels: int = 6, depth: int = 4, gain: float = 0.9, apart: bool = False) -> None:
        super().__init__()
        self.levels = levels
        self.heads = nn.ModuleList(self._head(depth, gain) for _ in range(levels if apart else 1))
        self.stem = nn.Conv2d(3, 16, 3, padding=1)

    def _head(self, depth: int, gain: float) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
            nn.init.normal_(layers[-2].weight, std=gain * (2 / 144) ** 0.5)  # type: ignore[arg-type]
        return nn.Sequential(*layers, nn.Conv2d(16, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        found = []
        for level in range(self.levels):
            head = self.heads[level % len(self.heads)]
            found.append(head(x * 2.0**-level).mean((2, 3)))
            x = F.avg_pool2d(x, 2, 1)
        return torch.stack(found).sum(0)


@healthy("Z402")
def one_head_over_six_levels() -> Any:
    return Levels(), (images(3, 16, 16), labels(4, 16))


@healthy("Z402")
def six_heads_over_six_levels() -> Any:
    return Levels(apart=True), (images(3, 16, 16), labels(4, 16))


@healthy("Z402")
def branches_side_by_side() -> Any:
    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.branches = nn.ModuleList(
                nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)) for _ in range(20)
            )
            for number, branch in enumerate(self.branches):
                nn.init.normal_(branch[0].weight, std=0.25 * 0.7**number)

        def forward(self, x: Tensor) -> Tensor:
            return torch.stack([branch(x) for branch in self.branches]).sum(0)

    return Wide(), (vectors(16), labels(4))


@sick("Z402")
def deep_branch_beside_a_shallow_one() -> Any:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layers: list[nn.Module] = []
            for _ in range(30):
                layers += [nn.Linear(32, 32), nn.ReLU()]
                nn.init.normal_(layers[-2].weight, std=0.05)  # type: ignore[arg-type]
                nn.init.zeros_(layers[-2].bias)  # type: ignore[arg-type]
            self.deep, self.shallow = nn.Sequential(*layers, nn.Linear(32, 4)), nn.Linear(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.deep(x) + self.shallow(x)

    return Two(), (vectors(32), labels(4))


# -- Z403: branches after a norm ---------------------------------------------------------------------------------------


class PreNorm(nn.Module):
    """Residual blocks that normalize their input, so that each adds the same, behind a small embedding."""

    def __init__(self, depth: int, scale: float) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(16, 32, bias=False), nn.Linear(32, 4)
        nn.init.normal_(self.embed.weight, std=0.02)
        branches = (
            nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32)) for _ in range(depth)
        )
        self.blocks, self.norm = nn.ModuleList(Added(branch, scale) for branch in branches), nn.LayerNorm(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class Added(nn.Module):
    def __init__(self, branch: nn.Module, scale: float) -> None:
        super().__init__()
        self.branch, self.scale = branch, scale

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.branch(x)


@healthy("Z403")
def pre_norm_of_48_blocks() -> Any:
    return PreNorm(48, 1.0), (vectors(16), labels(4))


@sick("Z403", "warn")
def blocks_that_add_what_they_get() -> Any:
    class Doubling(Added):
        def forward(self, x: Tensor) -> Tensor:
            return x + 0.3 * torch.relu(x) + self.scale * self.branch(x)

    model = PreNorm(16, 0.1)
    model.blocks = nn.ModuleList(Doubling(block.branch, block.scale) for block in model.blocks)
    return model, (vectors(16), labels(4))


# -- Z406: what the dtype can tell apart -------------------------------------------------------------------------------


def read_out_at(bias: float, dtype: torch.dtype = torch.float32, std: float = 1.0) -> Any:
    """A regression that starts at the mean of its targets, which have this std."""
    model = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 1))
    nn.init.constant_(model[2].bias, bias)  # type: ignore[arg-type]
    return model.to(dtype), (vectors(8).to(dtype), std * torch.randn(64, 1).to(dtype) + bias)


@healthy("Z406")
def prices_of_houses() -> Any:
    return read_out_at(1e5)


@healthy("Z406")
def inhabitants_of_large_cities() -> Any:
    """The first outputs, of rms 0.3, are rounded away; the targets are not, and so they are learned."""
    return read_out_at(1e7, std=100.0)


@healthy("Z406")
def a_mean_beyond_the_signal_in_bf16() -> Any:
    return read_out_at(300.0, torch.bfloat16, std=60.0)


@healthy("Z406")
def seconds_since_1970_in_fp64() -> Any:
    return read_out_at(1.7e9, torch.float64)


@healthy("Z406")
def deep_and_narrow_with_the_defaults_of_torch() -> Any:
    return defaults_of_torch(12, width=32)


@healthy("Z406")
def degrees_in_fp64() -> Any:
    model = nn.Sequential(nn.Linear(6, 32), nn.Softplus(), nn.Linear(32, 32), nn.Softplus(), nn.Linear(32, 2)).double()
    with torch.no_grad():
        model[0].bias.add_(1e6)
    return model, (vectors(6).double(), torch.randn(64, 2).double())


@sick("Z406")
def seconds_since_1970_in_fp32() -> Any:
    return read_out_at(1.7e9)


@sick("Z406")
def bias_beyond_the_signal_in_bf16() -> Any:
    return read_out_at(1e3, torch.bfloat16)


# -- Z405: gates that remember ----------------------------------------------------------------------------------------


class Gated(nn.Module):
    """A recurrent cell whose forget gate starts open for a thousand steps (Tallec & Ollivier 2018)."""

    def __init__(self, bias: float, spread: float = 0.1, *, packed: bool = False) -> None:
        super().__init__()
        self.forget, self.new, self.head = nn.Linear(36, 32), nn.Linear(36, 32), nn.Linear(32, 3)
        nn.init.constant_(self.forget.bias, bias)
        nn.init.normal_(self.forget.weight, std=spread)
        self.packed = packed

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), 32)
        for step in x.unbind(1):
            both = torch.cat([step, h], -1)
            keep = torch.sigmoid(self.forget(both))
            h = keep * h + (1 - keep) * torch.tanh(self.new(both))
        return self.head(h)


@healthy("Z405", "warn")
def forget_gate_that_starts_open() -> Any:
    return Gated(6.9), (torch.randn(32, 8, 4), labels(3, 32))


@sick("Z405")
def gate_whose_weights_are_too_large() -> Any:
    return Gated(0.0, 20.0), (torch.randn(32, 8, 4), labels(3, 32))


@healthy("Z405", "warn")
def highway_whose_transform_gates_start_closed() -> Any:
    class Highway(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
            self.gate = nn.ModuleList(nn.Sequential(nn.Linear(16, 16), nn.Sigmoid()) for _ in range(4))
            self.head = nn.Linear(16, 3)
            for gate in self.gate:
                nn.init.constant_(gate[0].bias, -7.0)

        def forward(self, x: Tensor) -> Tensor:
            for fc, gate in zip(self.fc, self.gate, strict=True):
                open_ = gate(x)
                x = torch.relu(fc(x)) * open_ + x * (1 - open_)
            return self.head(x)

    return Highway(), (vectors(16), labels(3))


@healthy("Z405", "warn")
def packed_gates_of_a_convolution_with_long_memory() -> Any:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gates, self.new = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3, padding=1)
            self.head = nn.Linear(4, 3)
            nn.init.constant_(self.gates.bias, 7.0)

        def forward(self, x: Tensor) -> Tensor:
            h = torch.zeros_like(x[:, 0])
            for step in x.unbind(1):
                reset, keep = torch.sigmoid(self.gates(torch.cat([step, h], 1))).chunk(2, 1)
                h = torch.lerp(torch.tanh(self.new(torch.cat([step, h * reset], 1))), h, keep)
            return self.head(h.mean((2, 3)))

    return Packed(), (torch.randn(16, 5, 4, 6, 6), labels(3, 16))


@healthy("Z405", "warn")
def decays_of_a_linear_recurrence() -> Any:
    class Decay(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.logit, self.into = nn.Linear(4, 16), nn.Linear(4, 16)
            self.head = nn.Linear(16, 3)
            nn.init.normal_(self.logit.weight, std=0.01)
            nn.init.constant_(self.logit.bias, 8.0)

        def forward(self, x: Tensor) -> Tensor:
            h, decay = 0.0, torch.sigmoid(self.logit(x))
            for step in range(x.shape[1]):
                h = decay[:, step] * h + self.into(x[:, step])
            return self.head(h / x.shape[1] ** 0.5)

    return Decay(), (torch.randn(32, 12, 4), labels(3, 32))


# -- Z601, Z602, Z603: what compares ----------------------------------------------------------------------------------


class Cosines(nn.Module):
    """Cosines between features and the directions of classes, times 64; with a margin (Deng et al. 2019)."""

    def __init__(self, margin: float, width: int = 16, classes: int = 40) -> None:
        super().__init__()
        self.weight, self.margin = nn.Parameter(torch.randn(classes, width)), margin

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        cosine = F.linear(F.normalize(x), F.normalize(self.weight))
        angle = torch.acos(cosine.clamp(-1 + 1e-6, 1 - 1e-6))
        wanted = F.one_hot(label, cosine.shape[1]).bool()
        return 64 * torch.where(wanted, torch.cos(angle + self.margin), cosine)


class Faces(nn.Module):
    def __init__(self, margin: float = 0.5) -> None:
        super().__init__()
        self.body, self.cosines = nn.Sequential(nn.Linear(20, 64), nn.PReLU(), nn.Linear(64, 16)), Cosines(margin)

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = self.cosines(self.body(x), labels)
        return {"logits": logits, "loss": F.cross_entropy(logits, labels)}


@healthy("Z601", "warn")
def faces_with_a_margin() -> Any:
    return Faces(), (vectors(20), labels(40))


@healthy("Z601", "warn")
def faces_without_a_margin() -> Any:
    return Faces(0.0), (vectors(20), labels(40))


class Towers(nn.Module):
    """Two towers whose outputs are compared; ``scale`` is learned as in CLIP, but starts at its largest."""

    def __init__(self, compare: str, scale: float = 100.0) -> None:
        super().__init__()
        self.image, self.text = nn.Linear(20, 8), nn.Sequential(nn.Linear(12, 32), nn.GELU(), nn.Linear(32, 8))
        self.logit_scale, self.compare = nn.Parameter(torch.tensor(scale).log()), compare

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        a, b = self.image(image), self.text(text)
        if self.compare == "clip":
            a, b = a / a.norm(dim=-1, keepdim=True), b / b.norm(dim=-1, keepdim=True)
            return self.logit_scale.exp() * a @ b.t()
        if self.compare == "similarity":
            return F.cosine_similarity(a[:, None], b[None], dim=-1) * self.logit_scale.exp()
        return -torch.cdist(a * 10, b * 10).square()


def matching(compare: str) -> Any:
    target = torch.arange(32).roll(1)
    return Towers(compare), (vectors(20, 32), vectors(12, 32), target)


@healthy("Z601", "warn")
def clip_at_its_largest_scale() -> Any:
    return matching("clip")


@healthy("Z601", "warn")
def cosine_similarity_over_a_temperature() -> Any:
    return matching("similarity")


@healthy("Z601", "warn")
def distances_between_two_towers() -> Any:
    return matching("distance")


@healthy("Z601", "warn")
def keys_of_a_queue_as_in_moco() -> Any:
    class Queue(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 8))
            self.register_buffer("queue", F.normalize(torch.randn(8, 200), dim=0))

        def forward(self, x: Tensor, target: Tensor) -> Any:
            q = F.normalize(self.body(x), dim=1)
            k = F.normalize(self.body(x + 0.5 * torch.randn_like(x)).detach(), dim=1)
            positive = torch.einsum("nc,nc->n", q, k)[:, None]
            logits = torch.cat([positive, torch.einsum("nc,ck->nk", q, self.queue.clone().detach())], 1) / 0.007
            return {"loss": F.cross_entropy(logits, target)}

    return Queue(), (vectors(20), torch.zeros(64, dtype=torch.int64))


@healthy("Z602", "warn")
def prototypes_of_an_episode() -> Any:
    class Prototypes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32))

        def forward(self, x: Tensor, labels: Tensor) -> Any:
            features = 4 * self.body(x)
            prototypes = features[:20].view(4, 5, -1).mean(0)
            logits = -(features[20:, None] - prototypes).square().sum(-1)
            return {"loss": F.cross_entropy(logits, labels[20:])}

    return Prototypes(), (vectors(20, 60), labels(5, 60))


@sick("Z601")
def head_of_unit_std() -> Any:
    model = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 10))
    nn.init.normal_(model[2].weight, std=2.0)  # type: ignore[arg-type]
    return model, (vectors(20), labels(10))


@sick("Z601")
def head_of_unit_std_over_normalized_features() -> Any:
    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(20, 64), nn.Linear(64, 10)
            nn.init.normal_(self.head.weight, std=20.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.normalize(self.body(x)))

    return Body(), (vectors(20), labels(10))


class Matching(nn.Module):
    """A query attends to the samples of a support, and their labels are its answer (Vinyals et al. 2016)."""

    def __init__(self, scale: float, unit: bool) -> None:
        super().__init__()
        self.body, self.scale, self.unit = nn.Sequential(nn.Linear(20, 64), nn.ReLU(), nn.Linear(64, 32)), scale, unit

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x)
        features = F.normalize(features, dim=-1) if self.unit else features
        weights = torch.softmax(self.scale * features[20:] @ features[:20].t(), -1)
        return weights @ F.one_hot(torch.arange(20) % 5, 5).float()


@healthy("Z603", "warn")
def matching_by_products() -> Any:
    return Matching(60.0, unit=False), (vectors(20, 60),)


@healthy("Z603", "warn")
def matching_by_cosines() -> Any:
    return Matching(100.0, unit=True), (vectors(20, 60),)


class Reading(nn.Module):
    """Reads a memory by its content, sharply (Graves et al. 2014)."""

    def __init__(self, unit: bool, scale: float = 60.0) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out, self.unit, self.scale = nn.Linear(16, 3), unit, scale

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.query(x), self.key(x)
        if self.unit:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        return self.out((torch.softmax(q @ k.transpose(-2, -1) * self.scale, -1) @ self.value(x)).mean(1))


@healthy("Z603", "warn")
def memory_that_is_read_by_cosines() -> Any:
    return Reading(unit=True, scale=150.0), (torch.randn(16, 24, 16), labels(3, 16))


@sick("Z603")
def attention_whose_scores_are_too_large() -> Any:
    return Reading(unit=False), (torch.randn(16, 24, 16), labels(3, 16))


# -- Z502, Z501: frozen copies, and what did not run -------------------------------------------------------------------


def network(inputs: int = 8, outputs: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs))


class WithTarget(nn.Module):
    """A network and a copy of it that gives the targets; the copy is trainable by its flags."""

    def __init__(self, moved: float = 0.0, *, cut: str = "no_grad") -> None:
        super().__init__()
        self.online, self.cut = network(), cut
        self.target = copy.deepcopy(self.online)
        with torch.no_grad():
            for parameter in self.target.parameters():
                parameter.add_(torch.randn_like(parameter) * moved * parameter.std())

    def forward(self, x: Tensor) -> Any:
        if self.cut == "no_grad":
            with torch.no_grad():
                wanted = self.target(x)
        else:
            wanted = self.target(x).detach()
        return {"loss": F.mse_loss(self.online(x), 1.0 + 0.9 * wanted)}


@healthy("Z502", "note")
def target_network_under_no_grad() -> Any:
    return WithTarget(), (vectors(8),)


@healthy("Z502", "note")
def target_network_that_is_detached() -> Any:
    return WithTarget(cut="detach"), (vectors(8),)


@healthy("Z502", "note")
def teacher_that_follows_slowly() -> Any:
    return WithTarget(0.2), (vectors(8),)


@healthy("Z502", "note")
def two_critics_with_their_copies() -> Any:
    class Critics(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.critics = nn.ModuleList(network(8, 1) for _ in range(2))
            self.targets = copy.deepcopy(self.critics)

        def forward(self, x: Tensor) -> Any:
            with torch.no_grad():
                wanted = torch.minimum(*(target(x) for target in self.targets)) + 1
            return {"loss": sum(F.mse_loss(critic(x), wanted) for critic in self.critics)}

    return Critics(), (vectors(8),)


@healthy("Z502", "note")
def momentum_encoder_inside_a_functional_call() -> Any:
    class Momentum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.other = nn.Parameter(torch.randn(16, 8) * 0.3), nn.Parameter(torch.randn(16, 8) * 0.3)
            self.slow = copy.deepcopy(self.weight)
            self.slow_other = copy.deepcopy(self.other)

        def forward(self, x: Tensor) -> Any:
            with torch.no_grad():
                wanted = torch.tanh(x @ self.slow.t()) * (x @ self.slow_other.t())
            return {"loss": F.mse_loss(torch.tanh(x @ self.weight.t()) * (x @ self.other.t()), wanted + 1)}

    return Momentum(), (vectors(8),)


@sick("Z502")
def blocks_behind_a_detach() -> Any:
    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = network(8, 8), network(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x).detach())

    return Cut(), (vectors(8), torch.randn(64, 8))


@sick("Z502")
def copied_blocks_behind_a_detach() -> Any:
    """The first block is a copy of the second, and feeds it: no target."""

    class Cut(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.first = nn.Linear(8, 8), network(8, 8)
            self.second = copy.deepcopy(self.first)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(self.stem(x)).detach())

    return Cut(), (vectors(8), torch.randn(64, 8))


# -- Z506: the input is zero in this batch -----------------------------------------------------------------------------


class OneStep(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn, self.head = kind(6, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@healthy("Z506", "warn")
def lstm_of_one_step() -> Any:
    return OneStep(nn.LSTM), (torch.randn(32, 1, 6), labels(3, 32))


@healthy("Z506", "warn")
def gru_of_one_step() -> Any:
    return OneStep(nn.GRU), (torch.randn(32, 1, 6), labels(3, 32))


@healthy("Z506", "warn")
def lstm_cell_of_one_step() -> Any:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell, self.head = nn.LSTMCell(6, 16), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.cell(x)[0])

    return Cell(), (torch.randn(32, 6), labels(3, 32))


@healthy("Z506", "warn")
def queries_of_a_decoder_that_start_at_zero() -> Any:
    class Decoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.query = nn.Embedding(10, 16)
            self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
            self.cross, self.norm, self.head = nn.Linear(16, 16), nn.LayerNorm(16), nn.Linear(16, 4)

        def forward(self, memory: Tensor) -> Tensor:
            target = memory.new_zeros(len(memory), 10, 16)
            q = k = target + self.query.weight
            scores = self.q(q) @ self.k(k).transpose(-2, -1) / 4
            target = target + self.out(torch.softmax(scores, -1) @ self.v(target))
            pointed = torch.softmax((target + self.query.weight) @ memory.transpose(-2, -1) / 4, -1)
            return self.head(self.norm(target + self.cross(pointed @ memory))).mean(1)

    return Decoder(), (torch.randn(16, 7, 16), labels(4, 16))


@healthy("Z506", "warn")
def state_that_starts_at_zero_by_hand() -> Any:
    return ByHand(1.0, steps=1), (torch.randn(32, 1, 4), labels(3, 32))


@sick("Z506")
def images_that_were_divided_to_zero() -> Any:
    whole = torch.randint(0, 256, (16, 3, 8, 8), dtype=torch.uint8) // 255 // 2
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4))
    return model, (whole.float(), labels(4, 16))


@sick("Z506")
def weight_before_a_zero_factor() -> Any:
    class Zeroed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.gain, self.head = nn.Linear(8, 16), nn.Parameter(torch.ones(16)), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.fc(x)) * (self.gain * 0) + x.mean(1, keepdim=True))

    return Zeroed(), (vectors(8), labels(4))


# -- Z406: gates that are still the same for all samples ---------------------------------------------------------------


class SmallGate(nn.Module):
    """Its gate is a half for all samples, up to rounding: the weights before it are small."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.fc, self.gate, self.head, self.alone = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4), alone
        nn.init.normal_(self.gate.weight, std=1e-9)
        nn.init.zeros_(self.gate.bias)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.fc(x))
        gate = torch.sigmoid(self.gate(h))
        return self.head(gate if self.alone else h * gate)


@healthy("Z406")
def a_gate_that_starts_at_a_half() -> Any:
    return SmallGate(alone=False), (vectors(8), labels(4))


@sick("Z406")
def a_sigmoid_that_is_a_half_and_all_there_is() -> Any:
    return SmallGate(alone=True), (vectors(8), labels(4))


# -- Z4, Z6: what nothing uses -----------------------------------------------------------------------------------------


class Attending(nn.Module):
    """One layer of attention, and a function that gets its queries and keys, and the result."""

    def __init__(self, also: Callable[[Tensor, Tensor, Tensor], Tensor | None]) -> None:
        super().__init__()
        self.embed, self.qkv, self.head, self.also = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 4), also

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(self.embed(x)).chunk(3, -1)
        mixed = torch.softmax(query @ key.transpose(-2, -1) / 4, -1) @ value
        changed = self.also(query, key, mixed)
        return self.head(mixed if changed is None else changed).mean(1)


def sequences() -> tuple[Tensor, Tensor]:
    return torch.randn(16, 6, 8), labels(4, 16)


def of_one_head(query: Tensor, key: Tensor) -> Tensor:
    """Weights between the heads, of which there is one."""
    return torch.softmax(query[..., None, :] @ key[..., None, :].transpose(-2, -1), -1)


@healthy("Z406")
def weights_between_heads_that_nothing_uses() -> Any:
    return Attending(lambda query, key, _: (of_one_head(query, key), None)[1]), sequences()


@sick("Z406")
def weights_between_heads_that_are_used() -> Any:
    return Attending(lambda query, key, mixed: mixed * of_one_head(query, key)[..., 0]), sequences()


@sick("Z406")
def weights_between_heads_by_which_one_is_chosen() -> Any:
    def chosen(query: Tensor, key: Tensor, mixed: Tensor) -> Tensor:
        return mixed * (of_one_head(query, key).argmax(-1) + 1)

    return Attending(chosen), sequences()


@sick("Z406")
def weights_between_heads_that_are_used_without_a_gradient() -> Any:
    def weighed(query: Tensor, key: Tensor, mixed: Tensor) -> Tensor:
        weights = of_one_head(query, key)[..., 0]
        with torch.no_grad():
            factor = weights * 2
        return mixed * factor

    return Attending(weighed), sequences()


@healthy("Z603")
def sharp_attention_that_nothing_uses() -> Any:
    return Attending(
        lambda query, key, _: (torch.softmax(1e3 * query @ key.transpose(-2, -1), -1), None)[1]
    ), sequences()


@sick("Z603")
def sharp_attention_that_is_used() -> Any:
    def sharp(query: Tensor, key: Tensor, mixed: Tensor) -> Tensor:
        return torch.softmax(1e3 * query @ key.transpose(-2, -1), -1) @ mixed

    return Attending(sharp), sequences()


@healthy("Z401")
def not_a_number_that_nothing_uses() -> Any:
    return Attending(lambda query, key, _: (torch.sigmoid(query * torch.nan), None)[1]), sequences()


@sick("Z401")
def not_a_number_that_is_used() -> Any:
    return Attending(lambda query, key, mixed: mixed + torch.sigmoid(query * torch.nan)), sequences()


@healthy("Z404")
def a_relu_that_is_off_and_that_nothing_uses() -> Any:
    return Attending(lambda query, key, _: (torch.relu(query - 1e2), None)[1]), sequences()


@sick("Z404")
def a_relu_that_is_off_and_used() -> Any:
    return Attending(lambda query, key, mixed: mixed + torch.relu(query - 1e2)), sequences()
