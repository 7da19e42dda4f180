"""Queries of heads that grow: by what they are multiplied and where, or which error says that it does not follow."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from zeta import Scaling
from zeta.errors import PlanError

#: four heads, of size 16 and 64
SIZES: tuple[dict[str, int], dict[str, int]] = {"width": 64}, {"width": 256}


class Attention(nn.Module):
    """``kind`` says how scores are scaled; with random inputs scores are compared, and not names."""

    def __init__(self, width: int, kind: str = "root") -> None:
        super().__init__()
        self.num_heads, size = 4, width // 4
        self.kind = kind
        if kind != "root":
            self.scale = {"multiplied": size**-0.5, "divided": size**0.5, "whole": 1 / size, "fixed": 0.125}[kind]
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            setattr(self, name, nn.Linear(width, width, bias=False))

    def scores(self, x: Tensor) -> Tensor:
        q, k = (each.unflatten(-1, (4, -1)).transpose(1, 2) for each in (self.q_proj(x), self.k_proj(x)))
        products = q @ k.transpose(-1, -2)
        if self.kind == "root":
            return products * q.shape[-1] ** -0.5
        return products / self.scale if self.kind == "divided" else products * self.scale

    def forward(self, x: Tensor) -> Tensor:
        v = self.v_proj(x).unflatten(-1, (4, -1)).transpose(1, 2)
        return self.o_proj((self.scores(x).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Net(nn.Module):
    """``attn`` may be any attention; the block has a number named as that of an attention."""

    def __init__(self, width: int, attn: Any = Attention, **options: Any) -> None:
        super().__init__()
        self.tok = nn.Embedding(50, width)
        self.h = nn.ModuleList([nn.ModuleDict({"norm": nn.LayerNorm(width), "attn": attn(width, **options)})])
        self.h[0].scale = 0.1  # type: ignore[assignment]
        self.lm_head = nn.Linear(width, 50, bias=False)


def queries(scaling: Scaling) -> dict[str, float]:
    return {each.module: each.factor for each in scaling.multipliers if each.where == "attention"}


@pytest.mark.parametrize(
    ("kind", "factor"), [("root", 1 / 2), ("multiplied", 1 / 2), ("divided", 1 / 2), ("whole", 1), ("fixed", 1 / 4)]
)
def test_scores_of_equal_entries_are_as_large_at_every_size_of_heads(kind: str, factor: float) -> None:
    """muP: q and k whose entries are 1 have the scores of the base (Yang et al. 2022, definition 4.1)."""
    scaling = zeta.scale(partial(Net, kind=kind), *SIZES)
    assert queries(scaling) == ({} if factor == 1 else {"h.0.attn.q_proj": factor})
    found = []
    for width, multiplied in ((64, False), (256, True)):
        model = Net(width, kind=kind)
        for layer in (model.h[0]["attn"].q_proj, model.h[0]["attn"].k_proj):  # type: ignore[index,union-attr]
            nn.init.constant_(layer.weight, 1 / width)  # type: ignore[arg-type]
        if multiplied:
            scaling.apply_multipliers_(model)
        found.append(model.h[0]["attn"].scores(torch.ones(1, 2, width)))  # type: ignore[index,operator,union-attr]
    assert torch.allclose(*found)


@pytest.mark.parametrize("kind", ["root", "multiplied", "divided", "whole", "fixed"])
def test_umup_divides_scores_by_the_size_of_heads(kind: str) -> None:
    """Whatever the attention does itself: by hand, q and k of weights times 256^-1/2, and scores over 64."""
    scaling = zeta.scale(partial(Net, kind=kind), *SIZES, "umup")
    model: Any = Net(256, kind=kind).double()
    zeta.init_(model, scaling, seed=0)
    attn, x = model.h[0].attn, torch.randn(1, 5, 256, dtype=torch.double)
    q, k = (F.linear(x / 16, each.weight).unflatten(-1, (4, -1)).transpose(1, 2) for each in (attn.q_proj, attn.k_proj))
    wanted = q @ k.transpose(-1, -2) / 64
    scaling.apply_multipliers_(model)
    assert torch.allclose(attn.scores(x), wanted)


class LoraLinear(nn.Linear):
    """As loralib has it: the adapter and its factor are in the layer."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__(into, out)
        self.scaling = 2.0
        self.lora_A, self.lora_B = nn.Parameter(torch.randn(4, into)), nn.Parameter(torch.zeros(out, 4))


class WithLora(Attention):
    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.q_proj = LoraLinear(width, width)


def test_the_factor_of_an_adapter_is_not_that_of_scores() -> None:
    assert queries(zeta.scale(partial(Net, attn=WithLora), *SIZES)) == {"h.0.attn.q_proj": 1 / 2}


def test_adapters_of_peft_are_multiplied_with_their_layer() -> None:
    peft = pytest.importorskip("peft")

    def build(width: int, layers: int) -> nn.Module:
        model = nn.Module()
        model.tok, model.h = nn.Embedding(50, width), nn.ModuleList()
        for _ in range(layers):
            mlp = nn.ModuleDict({"up_proj": nn.Linear(width, 2 * width), "down_proj": nn.Linear(2 * width, width)})
            model.h.append(nn.ModuleDict({"attn": Attention(width), "mlp": mlp}))
        return peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["q_proj", "o_proj", "down_proj"]))  # type: ignore[no-any-return]

    scaling = zeta.scale(build, {"width": 64, "layers": 1}, {"width": 256, "layers": 2}, "completep")
    found = {each.module.removeprefix("base_model.model."): each.factor for each in scaling.multipliers}
    ends = ("attn.q_proj", "attn.o_proj", "mlp.down_proj")
    assert found == {f"h.{layer}.{end}": 1 / 2 for layer in range(2) for end in ends}


class Latent(Attention):
    """Queries by way of a low rank, whose norm is no norm of queries; packed keys and values come after them."""

    def __init__(self, width: int, *, grows: bool = False) -> None:
        super().__init__(width)
        del self.q_proj, self.k_proj, self.v_proj
        rank = width // 2 if grows else 24
        self.q_a_proj, self.q_a_norm, self.q_b_proj = nn.Linear(width, rank), nn.LayerNorm(rank), nn.Linear(rank, width)
        self.kv_a_proj, self.kv_b_proj = nn.Linear(width, rank), nn.Linear(rank, 2 * width)


@pytest.mark.parametrize("grows", [False, True])
def test_latent_queries_are_multiplied_after_their_second_projection(grows: bool) -> None:
    assert queries(zeta.scale(partial(Net, attn=Latent, grows=grows), *SIZES)) == {"h.0.attn.q_b_proj": 1 / 2}


class Functional(Attention):
    def forward(self, x: Tensor) -> Tensor:
        q, k = (F.rms_norm(each, each.shape[-1:]) for each in (self.q_proj(x), self.k_proj(x)))
        return self.o_proj(F.scaled_dot_product_attention(q, k, self.v_proj(x)))


class Shared(Attention):
    """One norm for queries and keys."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.qk_norm = nn.LayerNorm(width // 4)


class Kept(Attention):
    """Multiplies with the weight, and does not call the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.o_proj(F.linear(x, self.q_proj.weight) + self.k_proj(x) + self.v_proj(x))


class Bare(nn.Module):
    """Its projections are parameters of one module, so that no module returns the queries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n_head, self.d_head = 4, width // 4
        self.q, self.k, self.v, self.o = (nn.Parameter(torch.randn(width, width)) for _ in range(4))
        self.layer_norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(x @ self.q, x @ self.k, x @ self.v)
        return self.layer_norm(x + mixed @ self.o)


@pytest.mark.parametrize(
    ("attn", "message"),
    [
        (Functional, r"q_proj\.weight: .* Functional computes norms, perhaps of the queries"),
        (Shared, r"q_proj\.weight: .* Shared computes norms, perhaps of the queries"),
        (Kept, r"q_proj\.weight: its heads grow, and no module computes the queries alone, but Linear"),
        (Bare, r"attn\.q: its heads grow, and no module computes the queries alone, but Bare"),
    ],
)
def test_queries_that_no_hook_can_multiply_are_an_error(attn: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        zeta.scale(partial(Net, attn=attn), *SIZES)
    assert queries(zeta.scale(partial(Net, attn=attn), *SIZES, attention=False)) == {}


class Packed(nn.Module):
    """Queries, keys and values in one layer; subclasses take them apart."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = 4, width // 4
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)


class ByThirds(Packed):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.proj(F.scaled_dot_product_attention(q, k, v))


class Viewed(Packed):
    def forward(self, x: Tensor) -> Tensor:
        packed = self.qkv(x)
        q, k, v = packed.reshape(*x.shape[:2], 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Parted(Packed):
    def taken(self, packed: Tensor) -> Any:
        return packed.unflatten(-1, (3, self.num_heads, -1)).unbind(-3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (each.transpose(1, 2) for each in self.taken(self.qkv(x)))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ByHead(Packed):
    def forward(self, x: Tensor) -> Tensor:
        packed = self.qkv(x).view(*x.shape[:2], self.num_heads, 3 * self.head_dim).transpose(1, 2)
        return self.proj(F.scaled_dot_product_attention(*packed.chunk(3, dim=-1)).transpose(1, 2).flatten(2))


class ByHeadAndThree(Packed):
    def forward(self, x: Tensor) -> Tensor:
        packed = self.qkv(x)
        packed = packed.view(x.shape[0], x.shape[1], self.num_heads, 3, self.head_dim)
        q, k, v = packed.permute(3, 0, 2, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ByMethod(Packed):
    def heads(self, packed: Tensor) -> Tensor:
        return packed.view(*packed.shape[:2], self.num_heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.qkv(x)).chunk(3, dim=-1)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def rearrange(x: Tensor, pattern: str, **sizes: int) -> Tensor:
    """Stands in for einops; only the source is read."""
    raise NotImplementedError


class Einops(Packed):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=4)
        return self.proj(q + k + v)


class EinopsByHead(Packed):
    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (h three d) -> three b h n d", three=3, h=4)
        return self.proj(q + k + v)


class OfGroups(Packed):
    """Eight heads for queries and two for keys and values: by chance three times the width."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.num_heads = 8
        self.proj = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.qkv(x).split([8 * self.head_dim, 2 * self.head_dim, 2 * self.head_dim], dim=-1)
        return self.proj(parts[0])


@pytest.mark.parametrize("attn", [ByThirds, Viewed, Parted, Einops])
def test_packed_queries_come_first(attn: Any) -> None:
    [multiplier] = [each for each in zeta.scale(partial(Net, attn=attn), *SIZES).multipliers if each.end is not None]
    assert (multiplier.module, multiplier.end, multiplier.factor) == ("h.0.attn.qkv", 256, 1 / 2)


@pytest.mark.parametrize("attn", [ByHead, ByHeadAndThree, ByMethod, EinopsByHead, OfGroups])
def test_packed_queries_that_do_not_come_first_are_an_error(attn: Any) -> None:
    with pytest.raises(PlanError, match=r"qkv\.weight: its heads grow, and which of its outputs are queries does not"):
        zeta.scale(partial(Net, attn=attn), *SIZES)


class Global(Attention):
    """Two kinds of tokens with their own queries, as in Longformer."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.query_global = nn.Linear(width, width, bias=False)


def test_all_queries_of_an_attention_are_multiplied() -> None:
    found = queries(zeta.scale(partial(Net, attn=Global), *SIZES))
    assert found == {"h.0.attn.q_proj": 1 / 2, "h.0.attn.query_global": 1 / 2}


def test_a_branch_that_its_module_does_not_return_alone_is_an_error() -> None:
    class Block(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.attn = Bare(width)
            self.mlp = nn.ModuleDict({"up_proj": nn.Linear(width, width), "down_proj": nn.Linear(width, width)})

    def build(layers: int) -> nn.Module:
        return nn.ModuleDict({"tok": nn.Embedding(50, 64), "h": nn.ModuleList(Block(64) for _ in range(layers))})

    with pytest.raises(PlanError, match=r"h\.0\.attn\.o ends one, and Bare does not return the branch alone"):
        zeta.scale(build, {"layers": 1}, {"layers": 2}, "completep")


class Joint(nn.Module):
    """Two streams of four heads that attend to each other, with the names of diffusers."""

    def __init__(self, width: int, *, norms: bool = False) -> None:
        super().__init__()
        self.heads, self.dim_head = 4, width // 4
        for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"):
            setattr(self, name, nn.Linear(width, width))
        self.to_out = nn.ModuleList([nn.Linear(width, width), nn.Dropout(0.0)])
        for name in ("norm_q", "norm_k", "norm_added_q", "norm_added_k"):
            setattr(self, name, nn.RMSNorm(width // 4) if norms else None)

    def part(self, name: str, x: Tensor, norm: Any = None) -> Tensor:
        split = getattr(self, name)(x).unflatten(-1, (4, -1)).transpose(1, 2)
        return split if norm is None else norm(split)

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        q = torch.cat([self.part("to_q", x, self.norm_q), self.part("add_q_proj", c, self.norm_added_q)], 2)
        k = torch.cat([self.part("to_k", x, self.norm_k), self.part("add_k_proj", c, self.norm_added_k)], 2)
        v = torch.cat([self.part("to_v", x), self.part("add_v_proj", c)], 2)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.to_out[0](y[:, : x.shape[1]]), self.to_add_out(y[:, x.shape[1] :])


@pytest.mark.parametrize("norms", [False, True])
def test_both_streams_of_a_joint_attention_are_multiplied(norms: bool) -> None:
    scaling = zeta.scale(partial(Net, attn=Joint, norms=norms), *SIZES)
    ends = ("norm_q", "norm_added_q") if norms else ("to_q", "add_q_proj")
    assert queries(scaling) == {f"h.0.attn.{end}": 0.5 for end in ends}
    model: Any = Net(256, attn=Joint, norms=norms).double()
    zeta.init_(model, scaling, seed=0)
    x, c = torch.randn(2, 3, 256, dtype=torch.double), torch.randn(2, 5, 256, dtype=torch.double)
    plain: Any = Net(256, attn=Joint, norms=norms).double()
    plain.load_state_dict(model.state_dict())
    for name in ends:  # queries of both streams times 1/2, by hand
        part = getattr(plain.h[0].attn, name)
        part.weight.data /= 2
        if not norms:
            part.bias.data /= 2
    scaling.apply_multipliers_(model)
    assert all(map(torch.allclose, model.h[0].attn(x, c), plain.h[0].attn(x, c)))
