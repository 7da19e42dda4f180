"""Healthy networks that look sick, by the rule that they must not fail; and twins that are sick indeed."""

from __future__ import annotations

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
