"""Deep residual networks: the papers' numbers for all parameters, on models of libraries and of other names."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.recipe_truth import ONE, ZERO, Plain, assert_plan, constant, draw, normal, plain, uniform
from zeta.errors import PlanError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def he(outputs: int, kernel: int, factor: float = 1.0) -> Plain:
    return normal(math.sqrt(2 / (outputs * kernel * kernel)) * factor)


def without_norms(model: nn.Module) -> Any:
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.BatchNorm2d | nn.LayerNorm):
                setattr(module, name, nn.Identity())
    return model


# -- fixup -------------------------------------------------------------------------------------------------------------


class Scalars(nn.Module):
    """A block with the names of the released code."""

    def __init__(self, inputs: int, width: int, layers: int) -> None:
        super().__init__()
        kernels = (3, 3) if layers == 2 else (1, 3, 1)
        widths = [inputs, *[width] * (layers - 1), width * (1 if layers == 2 else 4)]
        for n, kernel in enumerate(kernels, 1):
            setattr(self, f"conv{n}", nn.Conv2d(widths[n - 1], widths[n], kernel, bias=False))
            for side in "ab":
                setattr(self, f"bias{n}{side}", nn.Parameter(torch.empty(1)))
        self.scale = nn.Parameter(torch.empty(1))
        self.downsample = nn.Conv2d(inputs, widths[-1], 1, bias=False) if inputs != widths[-1] else None


class Released(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        wide = 1 if layers == 2 else 4
        self.conv1 = nn.Conv2d(3, 8, 7, bias=False)
        self.bias1, self.bias2 = nn.Parameter(torch.empty(1)), nn.Parameter(torch.empty(1))
        self.layer1 = nn.Sequential(Scalars(8, 8, layers), Scalars(8 * wide, 8, layers))
        self.layer2 = nn.Sequential(Scalars(8 * wide, 16, layers), Scalars(16 * wide, 16, layers))
        self.fc = nn.Linear(16 * wide, 10)


@pytest.mark.parametrize("layers", [2, 3])
def test_fixup_of_the_released_names(layers: int) -> None:
    model = Released(layers)
    power = -1 / 2 if layers == 2 else -1 / 4
    truth = {name: ZERO for name, _ in model.named_parameters() if "bias" in name}
    truth |= {"conv1.weight": he(8, 7), "fc.weight": ZERO}
    for block, width in (("layer1.0", 8), ("layer1.1", 8), ("layer2.0", 16), ("layer2.1", 16)):
        truth |= {f"{block}.scale": ONE, f"{block}.conv{layers}.weight": ZERO}
        truth[f"{block}.conv1.weight"] = he(width, 3 if layers == 2 else 1, 4**power)
        if layers == 3:
            truth[f"{block}.conv2.weight"] = he(width, 3, 4**power)
    for block, outputs in (("layer1.0", 32), ("layer2.0", 16 if layers == 2 else 64)):
        if layers == 3 or block == "layer2.0":
            truth[f"{block}.downsample.weight"] = he(outputs, 1)
    assert_plan(zeta.plan(model, "fixup"), truth)
    draw(model, "fixup")


def test_fixup_of_transformers_resnet() -> None:
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 2], layer_type="basic", num_labels=5
    )
    model = without_norms(transformers.ResNetForImageClassification(config))
    stages = "resnet.encoder.stages"
    truth = {
        "resnet.embedder.embedder.convolution.weight": he(8, 7),
        f"{stages}.1.layers.0.shortcut.convolution.weight": he(16, 1),
        "classifier.1.weight": ZERO,
        "classifier.1.bias": ZERO,
    }
    for block, width in (("0.layers.0", 8), ("1.layers.0", 16), ("1.layers.1", 16)):
        truth[f"{stages}.{block}.layer.0.convolution.weight"] = he(width, 3, 3**-0.5)
        truth[f"{stages}.{block}.layer.1.convolution.weight"] = ZERO
    assert_plan(zeta.plan(model, "fixup"), truth)


def test_fixup_of_linear_layers() -> None:
    """Branches of four layers, in a list of another name."""
    branch = [nn.Sequential(*(nn.Linear(16, 16) for _ in range(4))) for _ in range(5)]
    model = nn.ModuleDict({"stem": nn.Linear(4, 16), "body": nn.ModuleList(branch), "head": nn.Linear(16, 3)})
    with pytest.raises(PlanError, match="never win"):
        zeta.plan(nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3)}), "fixup")
    truth = {name: ZERO for name, _ in model.named_parameters()}
    scaled = normal(math.sqrt(2 / 16) * 5 ** (-1 / 6))
    truth["stem.weight"] = normal(math.sqrt(2 / 16))
    assert_plan(zeta.plan(model, "fixup"), truth | {f"body.{n}.{i}.weight": scaled for n in range(5) for i in range(3)})
    wide = zeta.plan(model, "fixup", layers=50)["body.0.0.weight"].std
    assert wide == pytest.approx(math.sqrt(2 / 16) * 50 ** (-1 / 6))


@pytest.mark.parametrize("numbered", [True, False])
def test_a_head_of_several_layers_is_no_block(numbered: bool) -> None:
    """Two blocks, and two linear layers behind them, of which only the last is 0."""

    def branch() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(8, 8, 3, bias=False), nn.ReLU(), nn.Conv2d(8, 8, 3, bias=False))

    head = nn.Sequential(nn.Linear(8, 20), nn.ReLU(), nn.Linear(20, 5))
    body = [nn.Conv2d(3, 8, 5, bias=False), branch(), branch(), nn.Flatten()]
    model = nn.Sequential(*body, head) if numbered else nn.ModuleDict({"body": nn.Sequential(*body), "head": head})
    at, top = ("", "4") if numbered else ("body.", "head")
    truth = {f"{at}0.weight": he(8, 5)}
    for n in (1, 2):
        truth |= {f"{at}{n}.0.weight": he(8, 3, 2**-0.5), f"{at}{n}.2.weight": ZERO}
    truth |= {f"{top}.0.weight": normal(math.sqrt(2 / 20)), f"{top}.2.weight": ZERO}
    assert_plan(zeta.plan(model, "fixup"), truth | {f"{top}.{n}.bias": ZERO for n in (0, 2)})


def test_norms_are_refused() -> None:
    with pytest.raises(PlanError, match="belongs to a norm, and this recipe is for networks without norms"):
        zeta.plan(nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3))), "fixup")
    with pytest.raises(PlanError, match="belongs to a norm"):
        zeta.plan(nn.Transformer(16, 2, 1, 1, 32), "t_fixup")


# -- skipinit and rezero -----------------------------------------------------------------------------------------------


class Gated(nn.Module):
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, groups=2)
        setattr(self, name, nn.Parameter(torch.full(shape, 7.0)))


GATES = [("skipinit_gain", ()), ("alpha", (1,)), ("res_scale", (1,)), ("multiplier", ()), ("resweight", (1,))]


@pytest.mark.parametrize(("name", "shape"), GATES)
@pytest.mark.parametrize("alpha", [0.0, 0.25])
def test_skipinit(name: str, shape: tuple[int, ...], alpha: float) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 5), Gated(name, shape), Gated(name, shape), nn.Linear(8, 5))
    truth = {name: ZERO for name, _ in model.named_parameters() if name.endswith("bias")}
    truth |= {f"{n}.{name}": constant(alpha) for n in (1, 2)} | {
        f"{n}.conv.weight": normal(1 / 6 * 2**0.5) for n in (1, 2)
    }
    truth |= {"0.weight": normal(math.sqrt(2 / 75)), "3.weight": normal(0.5)}
    assert_plan(zeta.plan(model, "skipinit", alpha=alpha), truth)
    draw(model, "skipinit", alpha=alpha)
    assert float(model[1].get_parameter(name).detach()) == alpha


class ReZeroLayer(nn.TransformerEncoderLayer):
    """As the released code, which draws only the scalar by itself."""

    def __init__(self) -> None:
        super().__init__(16, 2, 32)
        self.norm1 = self.norm2 = nn.Identity()  # type: ignore[assignment]
        self.resweight = nn.Parameter(torch.tensor([0.0]))


class Listed(nn.Module):
    """One tensor for all layers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.resweight = nn.Parameter(torch.zeros(4))


REZERO: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: nn.Sequential(nn.Embedding(9, 16), ReZeroLayer(), ReZeroLayer(), nn.Linear(16, 9)),
    "list": Listed,
}


@pytest.mark.parametrize("build", REZERO.values(), ids=REZERO)
def test_rezero_is_the_released_code(build: Callable[[], nn.Module]) -> None:
    _, recorded = zeta.record(build)
    plan = zeta.plan(build(), "rezero")
    difference = zeta.diff(recorded, plan)
    assert difference.same, str(difference)
    gates = [entry for entry in plan.parameters if entry.name.endswith("resweight")]
    assert gates
    assert {entry.rule for entry in gates} == {"scalars of branches"}


def test_gates_by_name_and_their_absence() -> None:
    model = Gated("weird", (1,))
    for recipe in ("skipinit", "rezero"):
        with pytest.raises(PlanError, match=r"(?s)weird 1.*never win.*scalars of branches"):
            zeta.plan(model, recipe)
        assert plain(zeta.plan(model, recipe, gate="weird")["weird"].initializer) == ZERO
    table = Gated("gamma", (8,))
    with pytest.raises(PlanError, match="gamma 8"):
        zeta.plan(table, "rezero")


class Swish(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.beta * x)


class Scaled(nn.Module):
    """A head with a learned scale, without an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.out = nn.Parameter(torch.ones(())), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x) * self.scale


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(8, 8), Swish(), nn.Linear(8, 8)
        self.alpha = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * self.fc2(self.act(self.fc1(x)))


@pytest.mark.parametrize("recipe", ["skipinit", "rezero"])
def test_scalars_of_activations_and_heads_are_no_gates(recipe: str) -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([Weighted(), Weighted()]), "head": Scaled()})
    with pytest.raises(PlanError, match=r"(?s)no rule matches these parameters.*layers\.0\.act\.beta.*head\.scale"):
        zeta.plan(model, recipe)
    mine = zeta.Rules([zeta.Rule("*.{beta,scale}", zeta.initializers.Ones())])
    plan = zeta.plan(model, mine + zeta.recipes.rules_for(recipe, model))
    assert [plan[f"layers.{n}.alpha"].initializer for n in (0, 1)] == [zeta.initializers.Zeros()] * 2
    row = nn.Sequential(Weighted(), Scaled())
    with pytest.raises(PlanError, match=r"1\.scale"):
        zeta.plan(row, recipe)


# -- deepnorm and t-fixup ----------------------------------------------------------------------------------------------

D, F = 16, 32


def xavier(fan_in: int, fan_out: int, factor: float = 1.0) -> Plain:
    return normal(math.sqrt(2 / (fan_in + fan_out)) * factor)


def glorot(fan_in: int, fan_out: int, factor: float = 1.0) -> Plain:
    return uniform(math.sqrt(6 / (fan_in + fan_out)) * factor)


class Sequences(nn.Module):
    """torch's transformer, with embeddings and a read-out."""

    def __init__(self, encoder: int = 3, decoder: int = 2) -> None:
        super().__init__()
        self.encoder_embedding, self.decoder_embedding = nn.Embedding(40, D), nn.Embedding(50, D)
        self.transformer = nn.Transformer(D, 2, encoder, decoder, F)
        self.generator = nn.Linear(D, 50)


def of_torch(model: nn.Module, scheme: Callable[..., Plain], factors: dict[str, float]) -> dict[str, Plain]:
    """The layers of torch's transformer, with a factor for each stack."""
    truth = {}
    for name, _ in model.named_parameters():
        factor = next((value for stack, value in factors.items() if f"{stack}.layers." in name), 1.0)
        if name.endswith("bias"):
            truth[name] = ZERO
        elif "norm" in name:
            truth[name] = ONE
        elif name.endswith("in_proj_weight"):
            truth[name] = ("blocks", 0, scheme(D, D), scheme(D, D), scheme(D, D, factor))
        elif name.endswith("out_proj.weight"):
            truth[name] = scheme(D, D, factor)
        elif "linear" in name:
            truth[name] = scheme(D, F, factor)
    return truth


def test_deepnorm_of_an_encoder_and_a_decoder() -> None:
    model = Sequences(18, 6)
    encoder, decoder = 0.87 * (18**4 * 6) ** (-1 / 16), (12 * 6) ** -0.25
    truth = of_torch(model, xavier, {"encoder": encoder, "decoder": decoder})
    truth |= {f"{name}.weight": normal(D**-0.5) for name in ("encoder_embedding", "decoder_embedding", "generator")}
    assert_plan(zeta.plan(model, "deepnorm"), truth)
    assert (encoder, decoder) == pytest.approx((0.3776, 0.3433), abs=1e-4)
    draw(model, "deepnorm")


def test_deepnorm_of_berts_and_gpts() -> None:
    """Encoder only, and decoder only with packed projections as inputs x outputs."""
    sizes = {"hidden_size": D, "intermediate_size": F, "num_hidden_layers": 4, "num_attention_heads": 2}
    bert = transformers.BertModel(transformers.BertConfig(**sizes, vocab_size=30))
    beta = 32**-0.25
    truth = {n: ONE if "Norm.weight" in n else ZERO for n, _ in bert.named_parameters() if "Norm" in n or "bias" in n}
    truth |= {f"embeddings.{each}_embeddings.weight": normal(0.25) for each in ("word", "position", "token_type")}
    for n in range(4):
        layer = f"encoder.layer.{n}."
        truth |= {f"{layer}attention.self.{each}.weight": xavier(D, D) for each in ("query", "key")}
        truth |= {f"{layer}attention.{each}.weight": xavier(D, D, beta) for each in ("self.value", "output.dense")}
        truth |= {f"{layer}{each}.dense.weight": xavier(D, F, beta) for each in ("intermediate", "output")}
    assert_plan(zeta.plan(bert, "deepnorm"), {**truth, "pooler.dense.weight": xavier(D, D)})

    config = transformers.GPT2Config(n_embd=D, n_inner=F, n_layer=2, n_head=2, vocab_size=30, n_positions=8)
    gpt2 = transformers.GPT2LMHeadModel(config)
    beta = 16**-0.25
    truth = {n: ZERO for n, _ in gpt2.named_parameters() if "bias" in n}
    truth |= {n: ONE for n, _ in gpt2.named_parameters() if ".ln_" in n and n.endswith("weight")}
    truth |= {f"transformer.{each}.weight": normal(0.25) for each in ("wte", "wpe")}
    for n in range(2):
        layer = f"transformer.h.{n}."
        truth[f"{layer}attn.c_attn.weight"] = ("blocks", 1, xavier(D, D), xavier(D, D), xavier(D, D, beta))
        truth[f"{layer}attn.c_proj.weight"] = xavier(D, D, beta)
        truth |= {f"{layer}mlp.{each}.weight": xavier(D, F, beta) for each in ("c_fc", "c_proj")}
    assert_plan(zeta.plan(gpt2, "deepnorm"), truth)


def test_deepnorm_counts_layers_as_given() -> None:
    def block() -> nn.ModuleDict:
        attention = nn.ModuleDict({n: nn.Linear(D, D) for n in ("wq", "wk", "wv", "wo")})
        return nn.ModuleDict({"attn": attention, "mlp": nn.ModuleDict({"w1": nn.Linear(D, F), "w2": nn.Linear(F, D)})})

    model = nn.ModuleDict({"first": block(), "second": block()})
    model["table"], model["head"] = nn.Embedding(9, D), nn.Linear(D, 9)
    with pytest.raises(PlanError, match=r"the number of layers does not follow.*; give encoder_layers="):
        zeta.plan(model, "deepnorm")
    plan = zeta.plan(model, "deepnorm", decoder_layers=2)
    assert plain(plan["first.attn.wv.weight"].initializer) == pytest.approx(xavier(D, D, 0.5))
    assert plain(plan["first.attn.wq.weight"].initializer) == pytest.approx(xavier(D, D))


def test_t_fixup_of_torchs_transformer() -> None:
    model = without_norms(Sequences(3, 2))
    encoder, decoder = 0.67 * 3**-0.25, 18**-0.25
    truth = of_torch(model, glorot, {"encoder": encoder, "decoder": decoder})
    truth |= {
        "encoder_embedding.weight": normal(D**-0.5 * 27**-0.25),
        "decoder_embedding.weight": normal(D**-0.5 * 18**-0.25),
        "generator.weight": normal(D**-0.5),
    }
    plan = zeta.plan(model, "t_fixup")
    assert_plan(plan, truth)
    draw(model, "t_fixup")


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(D, D, bias=False) for _ in range(4))


class OwnLayer(nn.Module):
    def __init__(self, cross: bool) -> None:
        super().__init__()
        self.attention = Attention()
        if cross:
            self.cross_attention = Attention()
        self.ffn = nn.ModuleDict({"up": nn.Linear(D, F), "down": nn.Linear(F, D)})

    def forward(self, x: Tensor) -> Tensor:
        return x


class Own(nn.Module):
    """One table for both sides and the read-out, learned positions, separate projections."""

    def __init__(self) -> None:
        super().__init__()
        self.shared = nn.Embedding(40, D)
        self.positions = nn.Embedding(12, D)
        self.encoder = nn.ModuleDict({"blocks": nn.ModuleList(OwnLayer(False) for _ in range(5))})
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList(OwnLayer(True) for _ in range(3))})
        self.lm_head = nn.Linear(D, 40, bias=False)
        self.lm_head.weight = self.shared.weight


def of_own(scheme: Callable[..., Plain], encoder: float, decoder: float) -> dict[str, Plain]:
    truth = {}
    for stack, depth, factor in (("encoder", 5, encoder), ("decoder", 3, decoder)):
        for n in range(depth):
            layer = f"{stack}.blocks.{n}."
            for attention in ("attention", "cross_attention")[: 1 if stack == "encoder" else 2]:
                truth |= {f"{layer}{attention}.to_{each}.weight": scheme(D, D) for each in "qk"}
                truth |= {f"{layer}{attention}.to_{each}.weight": scheme(D, D, factor) for each in ("v", "out")}
            truth |= {f"{layer}ffn.{each}.weight": scheme(D, F, factor) for each in ("up", "down")}
            truth |= {f"{layer}ffn.{each}.bias": ZERO for each in ("up", "down")}
    return truth


def test_transformers_of_other_names() -> None:
    deep = of_own(xavier, 0.87 * (5**4 * 3) ** (-1 / 16), 36**-0.25)
    tables = {"shared.weight": normal(D**-0.5), "positions.weight": normal(D**-0.5)}
    assert_plan(zeta.plan(Own(), "deepnorm"), deep | tables)
    fixed = of_own(glorot, 0.67 * 5**-0.25, 27**-0.25)
    assert_plan(zeta.plan(Own(), "t_fixup"), fixed | tables | {"shared.weight": normal(D**-0.5 * 45**-0.25)})


def test_packed_head_by_head_is_refused() -> None:
    config = transformers.GPTNeoXConfig(
        hidden_size=D, intermediate_size=F, num_hidden_layers=2, num_attention_heads=2, vocab_size=30
    )
    with pytest.raises(PlanError, match="packs queries, keys and values head by head"):
        zeta.plan(transformers.GPTNeoXModel(config), "deepnorm")
    adapted = transformers.GPTNeoXModel(config)
    for layer in adapted.layers:
        layer.attention.query_key_value = nn.ModuleDict({"base_layer": layer.attention.query_key_value})
    with pytest.raises(PlanError, match="packs queries, keys and values head by head"):
        zeta.plan(adapted, "deepnorm")


def layers_of(count: int, cross: bool = False) -> nn.ModuleDict:
    return nn.ModuleDict({"blocks": nn.ModuleList(OwnLayer(cross) for _ in range(count))})


def of_stack(path: str, count: int, scheme: Callable[..., Plain], factor: float) -> dict[str, Plain]:
    """The truth of one stack without attention to another."""
    truth = of_own(scheme, factor, 1.0)
    layers = tuple(f"encoder.blocks.{n}." for n in range(count))
    return {name.replace("encoder", path): law for name, law in truth.items() if name.startswith(layers)}


def test_a_decoder_without_attention_is_no_stack() -> None:
    """Four layers that a small network decodes: one stack, (8 * 4)^(-1/4)."""
    head = nn.Sequential(nn.Linear(D, F), nn.GELU(), nn.Linear(F, 9))
    model = nn.ModuleDict({"table": nn.Embedding(9, D), "encoder": layers_of(4), "decoder": head})
    found = {entry.name: plain(entry.initializer) for entry in zeta.plan(model, "deepnorm").parameters}
    truth = of_stack("encoder", 4, xavier, 32**-0.25)
    assert {name: found[name] for name in truth} == {name: pytest.approx(law) for name, law in truth.items()}
    found = {entry.name: plain(entry.initializer) for entry in zeta.plan(model, "t_fixup").parameters}
    truth = of_stack("encoder", 4, glorot, 0.67 * 4**-0.25) | {"table.weight": normal(D**-0.5 * 36**-0.25)}
    assert {name: found[name] for name in truth} == {name: pytest.approx(law) for name, law in truth.items()}


def two_towers() -> nn.ModuleDict:
    towers = {"text_encoder": layers_of(2), "image_encoder": layers_of(4)}
    return nn.ModuleDict({"table": nn.Embedding(9, D), **towers, "head": nn.Linear(D, 9)})


def test_each_encoder_has_its_own_layers() -> None:
    two, four = (of_stack("text_encoder", 2, xavier, 16**-0.25), of_stack("image_encoder", 4, xavier, 32**-0.25))
    ends = {"table.weight": normal(D**-0.5), "head.weight": normal(D**-0.5), "head.bias": ZERO}
    assert_plan(zeta.plan(two_towers(), "deepnorm"), two | four | ends)
    truth = of_stack("text_encoder", 2, glorot, 0.67 * 2**-0.25)
    truth |= of_stack("image_encoder", 4, glorot, 0.67 * 4**-0.25)
    with pytest.raises(PlanError, match=r"depends on several stacks, of \[2, 4\] layers; give encoder_layers="):
        zeta.plan(two_towers(), "t_fixup")
    mine = zeta.Rules([zeta.Rule("table.weight", zeta.initializers.Zeros())])
    model = two_towers()
    plan = zeta.plan(model, mine + zeta.recipes.t_fixup(model))
    found = {entry.name: plain(entry.initializer) for entry in plan.parameters}
    assert {name: found[name] for name in truth} == {name: pytest.approx(law) for name, law in truth.items()}


@pytest.mark.parametrize(
    "names",
    [("encoder_layers", "decoder_layers"), ("enc", "dec"), ("enc_blocks", "dec_blocks"), ("encoder", "decoder")],
)
def test_an_encoder_and_a_decoder_by_any_name(names: tuple[str, str]) -> None:
    """The paper's 0.87 (N^4 M)^(-1/16) and (12 M)^(-1/4), with 4 and 2 layers; the options say the same."""
    first, second = names
    stacks = {first: layers_of(4)["blocks"], second: layers_of(2, cross=True)["blocks"]}
    model = nn.ModuleDict({"table": nn.Embedding(9, D), **stacks, "head": nn.Linear(D, 9)})
    encoder, decoder = 0.87 * (4**4 * 2) ** -0.0625, 24**-0.25
    for options in ({}, {"encoder_layers": 4, "decoder_layers": 2}):
        found = {e.name: plain(e.initializer) for e in zeta.plan(model, "deepnorm", **options).parameters}
        assert found[f"{first}.0.ffn.down.weight"] == pytest.approx(xavier(F, D, encoder))
        assert found[f"{second}.0.ffn.down.weight"] == pytest.approx(xavier(F, D, decoder))
    assert encoder == pytest.approx(0.589, abs=0.001)


def test_nested_and_alternating_lists_of_an_encoder_are_counted_through() -> None:
    nested = nn.ModuleDict({"encoder": nn.ModuleList(layers_of(3)["blocks"] for _ in range(4))})
    nested["table"], nested["head"] = nn.Embedding(9, D), nn.Linear(D, 9)
    assert plain(zeta.plan(nested, "deepnorm")["encoder.0.0.ffn.down.weight"].initializer) == pytest.approx(
        xavier(F, D, 96**-0.25)
    )


def test_the_table_of_targets_is_the_decoder_s() -> None:
    stacks = {"encoder_layers": layers_of(4)["blocks"], "decoder_layers": layers_of(2, cross=True)["blocks"]}
    tables = {"src_embed": nn.Embedding(9, D), "tgt_embed": nn.Embedding(9, D)}
    plan = zeta.plan(nn.ModuleDict({**tables, **stacks}), "t_fixup")
    assert plain(plan["src_embed.weight"].initializer) == pytest.approx(normal(D**-0.5 * 36**-0.25))
    assert plain(plan["tgt_embed.weight"].initializer) == pytest.approx(normal(D**-0.5 * 18**-0.25))
