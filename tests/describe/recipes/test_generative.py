"""The recipes for DiT, diffusion U-Nets and ControlNet against the published formulas, for every parameter."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import zeta
from tests.helpers.published import (
    KEPT,
    ZERO,
    Law,
    Laws,
    agrees,
    differences,
    linear,
    norm,
    normal,
    uniform,
    within,
    xavier,
)
from zeta.errors import PlanError, SpecError
from zeta.initializers import Zeros

D, F, SIDE = 32, 96, 4
S = normal(0.02)
TABLE: Law = ("other", f"Program(data[1, {SIDE * SIDE}, {D}])")


def torchs(fan_in: int, *names: str) -> Laws:
    """What torch's own constructors do."""
    return linear(uniform(fan_in**-0.5), *names, bias=uniform(fan_in**-0.5))


# -- DiT ---------------------------------------------------------------------------------------------------------------


class DiTBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(D, elementwise_affine=False)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(D, 3 * D), nn.Linear(D, D)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(D, F), nn.Linear(F, D)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(D, 6 * D))


class DiT(nn.Module):
    """With the names of the released code."""

    def __init__(self, labels: bool = True) -> None:
        super().__init__()
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(3, D, 2, 2)
        self.t_embedder = nn.Module()
        self.t_embedder.mlp = nn.Sequential(nn.Linear(64, D), nn.SiLU(), nn.Linear(D, D))
        if labels:
            self.y_embedder = nn.Module()
            self.y_embedder.embedding_table = nn.Embedding(11, D)
        self.pos_embed = nn.Parameter(torch.empty(1, SIDE * SIDE, D), requires_grad=False)
        self.blocks = nn.ModuleList(DiTBlock() for _ in range(2))
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(D, 12)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(D, 2 * D))


@pytest.mark.parametrize("labels", [False, True])
def test_dit(labels: bool) -> None:
    block = {
        **linear(xavier(D, 3 * D), "attn.qkv"),
        **linear(xavier(D, D), "attn.proj"),
        **linear(xavier(D, F), "mlp.fc1", "mlp.fc2"),
        **linear(ZERO, "adaLN_modulation.1"),
    }
    published = {
        "pos_embed": TABLE,
        **linear(xavier(3 * 2 * 2, D), "x_embedder.proj"),
        **linear(S, "t_embedder.mlp.0", "t_embedder.mlp.2"),
        **({"y_embedder.embedding_table.weight": S} if labels else {}),
        **within(["blocks.0", "blocks.1"], block),
        **linear(ZERO, "final_layer.linear", "final_layer.adaLN_modulation.1"),
    }
    agrees(lambda: DiT(labels), "dit", published)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_positions_of_dit(dtype: torch.dtype) -> None:
    """Columns in the first half, rows in the second, each as sines and then cosines."""
    model = DiT().to(dtype)
    zeta.init_(model, "dit", seed=0)
    quarter = D // 4
    for row in range(SIDE):
        for column in range(SIDE):
            rates = [10000 ** (-k / quarter) for k in range(quarter)]
            expected = [f(place * rate) for place in (column, row) for f in (math.sin, math.cos) for rate in rates]
            assert torch.equal(model.pos_embed[0, row * SIDE + column], torch.tensor(expected).to(dtype))


def test_positions_that_are_no_square() -> None:
    model = DiT()
    model.pos_embed = nn.Parameter(torch.empty(1, 15, D))
    with pytest.raises(PlanError, match=r"pos_embed.*shape \(1, 15, 32\), and no square grid"):
        zeta.plan(model, "dit")


class AdaLayerNormZero(nn.Module):
    def __init__(self, parts: int) -> None:
        super().__init__()
        self.embed = nn.Linear(D, D)
        self.out = nn.Linear(D, parts * D)


class OtherDiT(nn.Module):
    """Separate projections, a linear patch embedding, modulations of two layers."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ada = AdaLayerNormZero(6)
            self.attention = nn.ModuleDict({name: nn.Linear(D, D) for name in ("to_q", "to_k", "to_v", "to_out")})
            self.ff = nn.Sequential(nn.Linear(D, F), nn.GELU(), nn.Linear(F, D))

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Linear(12, D)
        self.time_mlp = nn.Sequential(nn.Linear(64, D), nn.SiLU(), nn.Linear(D, D))
        self.layers = nn.ModuleList(self.Block() for _ in range(2))
        self.proj_out_1 = nn.Linear(D, 2 * D)
        self.head = nn.Linear(D, 12)


def test_dit_on_other_names() -> None:
    block = {
        **linear(xavier(D, D), "ada.embed"),
        **linear(ZERO, "ada.out"),
        **linear(xavier(D, 3 * D), *(f"attention.to_{name}" for name in "qkv")),
        **linear(xavier(D, D), "attention.to_out"),
        **linear(xavier(D, F), "ff.0", "ff.2"),
    }
    published = {
        **linear(xavier(12, D), "patch_embed"),
        **linear(S, "time_mlp.0", "time_mlp.2"),
        **within(["layers.0", "layers.1"], block),
        **linear(ZERO, "proj_out_1", "head"),
    }
    agrees(OtherDiT, "dit", published)


def test_a_dit_whose_modulations_are_not_found_is_an_error() -> None:
    model = OtherDiT()
    for layer in model.layers:
        layer.cond = layer.ada
        layer.cond.__class__ = nn.Module
        del layer.ada
    with pytest.raises(PlanError, match="last layer of each modulation"):
        zeta.plan(model, "dit")


def test_diffusers_dit() -> None:
    diffusers = pytest.importorskip("diffusers")
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=8, num_embeds_ada_norm=10,
        in_channels=4, out_channels=8,
    )  # fmt: skip
    block = {
        **linear(S, *(f"norm1.emb.timestep_embedder.linear_{number}" for number in (1, 2))),
        "norm1.emb.class_embedder.embedding_table.weight": S,
        **linear(ZERO, "norm1.linear"),
        **linear(xavier(16, 48), *(f"attn1.to_{name}" for name in "qkv")),
        **linear(xavier(16, 16), "attn1.to_out.0"),
        **linear(xavier(16, 64), "ff.net.0.proj", "ff.net.2"),
    }
    published = linear(ZERO, "proj_out_1", "proj_out_2") | linear(xavier(16, 16), "pos_embed.proj")
    assert differences(zeta.plan(model, "dit"), published | within(["transformer_blocks.0"], block)) == []


# -- U-Nets ------------------------------------------------------------------------------------------------------------

C = 16


class ResBlock(nn.Module):
    """With the names of guided diffusion."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(nn.GroupNorm(4, C), nn.SiLU(), nn.Conv2d(C, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(F, 2 * out))
        self.out_layers = nn.Sequential(nn.GroupNorm(4, out), nn.SiLU(), nn.Dropout(), nn.Conv2d(out, out, 3))
        self.skip_connection = nn.Conv2d(C, out, 1)


class AttentionBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, C)
        self.qkv, self.proj_out = nn.Conv1d(C, 3 * C, 1), nn.Conv1d(C, C, 1)


class SpatialTransformer(nn.Module):
    """Its inner layers are torch's own, its output is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.proj_in = nn.GroupNorm(4, C), nn.Conv2d(C, C, 1)
        inner = {name: nn.Linear(C, C) for name in ("to_q", "to_k", "to_v", "to_out")}
        self.transformer_blocks = nn.ModuleList([nn.ModuleDict({"attn1": nn.ModuleDict(inner)})])
        self.proj_out = nn.Conv2d(C, C, 1)


class Guided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(C, F), nn.SiLU(), nn.Linear(F, F))
        self.label_emb = nn.Embedding(5, F)
        self.input_blocks = nn.ModuleList(
            [nn.Conv2d(3, C, 3), nn.Sequential(ResBlock(C), AttentionBlock(), SpatialTransformer())]
        )
        self.output_blocks = nn.ModuleList([nn.Sequential(ResBlock(2 * C))])
        self.out = nn.Sequential(nn.GroupNorm(4, C), nn.SiLU(), nn.Conv2d(C, 3, 3))


def residual(out: int) -> Laws:
    return {
        **norm("in_layers.0", "out_layers.0"),
        **torchs(C * 9, "in_layers.2"),
        **torchs(F, "emb_layers.1"),
        **linear(ZERO, "out_layers.3"),
        **torchs(C, "skip_connection"),
    }


def test_diffusion_unet() -> None:
    published = {
        **torchs(C, "time_embed.0"),
        **torchs(F, "time_embed.2"),
        "label_emb.weight": normal(1.0),
        **torchs(3 * 9, "input_blocks.0"),
        **within(["input_blocks.1.0"], residual(C)),
        **norm("input_blocks.1.1.norm", "input_blocks.1.2.norm", "out.0"),
        **torchs(C, "input_blocks.1.2.proj_in"),
        **torchs(C, *(f"input_blocks.1.2.transformer_blocks.0.attn1.to_{name}" for name in ("q", "k", "v", "out"))),
        **torchs(C, "input_blocks.1.1.qkv"),
        **linear(ZERO, "input_blocks.1.1.proj_out", "input_blocks.1.2.proj_out", "out.2"),
        **within(["output_blocks.0.0"], residual(2 * C)),
    }
    agrees(Guided, "diffusion_unet", published)
    with pytest.raises(SpecError, match="scheme must be one of 'adm', 'ddpm', got 'edm'"):
        zeta.plan(Guided(), "diffusion_unet", scheme="edm")


class Half(nn.Module):
    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.proj, self.norm = nn.Conv2d(into, out, 3), nn.GroupNorm(4, out)


class ResnetBlock(nn.Module):
    """Norms after convolutions, and the shortcut at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(F, C))
        self.block1, self.block2 = Half(C, C), Half(C, C)
        self.res_conv = nn.Conv2d(C, C, 1)


class Attention(nn.Module):
    def __init__(self, convolves: bool) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(C, 3 * C, 1, bias=False) if convolves else nn.Linear(C, 3 * C, bias=False)
        self.to_out = nn.Conv2d(C, C, 1) if convolves else nn.Linear(C, C)


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.init_conv = nn.Conv2d(3, C, 7)
        self.time_mlp = nn.Linear(C, F)
        self.downs = nn.ModuleList([nn.ModuleList([ResnetBlock(), Attention(True), Attention(False)])])
        self.side = nn.ModuleDict({"out": nn.Conv2d(C, C, 1)})  # only the last of this name is the output
        self.final_res_block = ResnetBlock()
        self.final_conv = nn.Conv2d(C, 3, 1)


@pytest.mark.parametrize("scheme", ["adm", "ddpm"])
def test_diffusion_unet_on_other_names(scheme: str) -> None:
    ddpm = scheme == "ddpm"

    def free(into: int, out: int, field: int, *names: str) -> Laws:
        return linear(xavier(field * into, field * out), *names) if ddpm else torchs(field * into, *names)

    def end(into: int, out: int, field: int) -> Law:
        return uniform(1e-5 * math.sqrt(6 / (field * (into + out)))) if ddpm else ZERO

    block = {
        **free(F, C, 1, "mlp.1"),
        **free(C, C, 9, "block1.proj"),
        **linear(end(C, C, 9), "block2.proj"),
        **norm("block1.norm", "block2.norm"),
        **free(C, C, 1, "res_conv"),
    }
    published = {
        **free(3, C, 49, "init_conv"),
        **free(C, F, 1, "time_mlp"),
        **within(["downs.0.0", "final_res_block"], block),
        # of each of query, key and value
        **dict.fromkeys((f"downs.0.{n}.to_qkv.weight" for n in (1, 2)), xavier(C, C) if ddpm else uniform(C**-0.5)),
        **linear(end(C, C, 1), "downs.0.1.to_out", "downs.0.2.to_out"),
        **free(C, C, 1, "side.out"),
        **linear(end(C, 3, 1), "final_conv"),
    }
    agrees(Plain, "diffusion_unet", published, scheme=scheme)


def test_a_unet_whose_blocks_are_not_found_is_an_error() -> None:
    model = nn.ModuleDict({"middle": Half(C, C), "final_conv": nn.Conv2d(C, 3, 1)})
    with pytest.raises(PlanError, match="last convolution of each residual block"):
        zeta.plan(model, "diffusion_unet")


def test_diffusers_unet() -> None:
    diffusers = pytest.importorskip("diffusers")
    sizes = {"sample_size": 16, "block_out_channels": (32, 32), "layers_per_block": 1}
    plain = diffusers.UNet2DModel(
        **sizes, down_block_types=("DownBlock2D", "AttnDownBlock2D"), up_block_types=("AttnUpBlock2D", "UpBlock2D")
    )
    latent = diffusers.UNet2DConditionModel(
        **sizes, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), cross_attention_dim=16,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=8,
    )  # fmt: skip
    for model, attention in ((plain, ".to_out.0"), (latent, ".proj_out")):
        plan = zeta.plan(model, "diffusion_unet")
        zeros = {entry.name for entry in plan if entry.std == 0 and entry.mean == 0 and "norm" not in entry.name}
        ends = (".conv2", "conv_out", attention)
        expected = {name for name, _ in model.named_parameters() if name.rpartition(".")[0].endswith(ends)}
        assert zeros == {name for name in expected if "transformer_blocks" not in name}
        _, recorded = zeta.record(lambda model=model: type(model).from_config(model.config))
        assert {change.name for change in zeta.diff(recorded, plan)} == zeros  # all else is torch's own


class ControlNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_blocks = nn.ModuleList([nn.Conv2d(4, C, 3), ResBlock(C)])
        self.zero_convs = nn.ModuleList([nn.Sequential(nn.Conv2d(C, C, 1)) for _ in range(2)])
        self.input_hint_block = nn.Sequential(nn.Conv2d(3, C, 3), nn.SiLU(), nn.Conv2d(C, C, 3))
        self.middle_block_out = nn.Sequential(nn.Conv2d(C, C, 1))


def test_controlnet() -> None:
    published = {
        **{f"input_blocks.{name}": KEPT for name, _ in ControlNet().input_blocks.named_parameters()},
        **linear(ZERO, "zero_convs.0.0", "zero_convs.1.0", "middle_block_out.0", "input_hint_block.2"),
        **torchs(3 * 9, "input_hint_block.0"),
    }
    assert differences(zeta.plan(ControlNet(), "controlnet"), published) == []
    model = ControlNet()
    before = model.input_blocks[0].weight.clone()
    zeta.init_(model, "controlnet", seed=0)
    assert torch.equal(model.input_blocks[0].weight, before)
    assert not model.zero_convs[1][0].weight.any()
    assert not model.input_hint_block[2].bias.any()


class TransformerControlNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = nn.ModuleList([DiTBlock()])
        self.controlnet_blocks = nn.ModuleList([nn.Linear(D, D)])
        self.controlnet_x_embedder = nn.Linear(12, D)


def test_controlnet_on_transformers() -> None:
    plan = zeta.plan(TransformerControlNet(), "controlnet")
    zeros = {entry.name for entry in plan if not entry.kept}
    assert zeros == {
        f"{name}.{end}" for name in ("controlnet_blocks.0", "controlnet_x_embedder") for end in ("weight", "bias")
    }
    assert all(plan[name].std == plan[name].mean == 0 for name in zeros)
    with pytest.raises(PlanError, match="zero convolutions"):
        zeta.plan(Guided(), "controlnet")


def test_diffusers_controlnet() -> None:
    diffusers = pytest.importorskip("diffusers")
    factory = lambda: diffusers.ControlNetModel(  # noqa: E731
        block_out_channels=(32, 32), down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), layers_per_block=1,
        cross_attention_dim=16, attention_head_dim=8,
    )  # fmt: skip
    model, recorded = zeta.record(factory)
    plan = zeta.plan(model, "controlnet")
    given = [entry for entry in plan if not entry.kept]
    assert {entry.name.split(".")[0] for entry in given} == {
        "controlnet_cond_embedding", "controlnet_down_blocks", "controlnet_mid_block"
    }  # fmt: skip
    assert not {change.name for change in zeta.diff(recorded, plan)} & {entry.name for entry in given}


# -- blocks that are not found -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cond", "mod", "t_mlp"])
def test_a_dit_block_whose_modulation_has_another_name_is_refused(name: str) -> None:
    """The final layer's is found, so that a rule that matches nothing does not tell."""
    model = DiT(labels=True)
    for block in model.blocks:
        block._modules = {name if each == "adaLN_modulation" else each: part for each, part in block._modules.items()}
    with pytest.raises(PlanError, match="is in a block with attention in which no modulation is found"):
        zeta.plan(model, "dit")


class TemporalResnetBlock(ResBlock): ...


class ConvResBlock(ResBlock): ...


class ResidualDenseBlock(ResBlock): ...


@pytest.mark.parametrize("recipe", ["diffusion_unet", "edm"])
@pytest.mark.parametrize("block", [TemporalResnetBlock, ConvResBlock])
def test_residual_blocks_of_other_classes_beside_known_ones(recipe: str, block: type[nn.Module]) -> None:
    model, known = Guided(), Guided()
    del model.label_emb, known.label_emb
    next(part for part in model.modules() if type(part) is ResBlock).__class__ = block
    plan, other = zeta.plan(model, recipe), zeta.plan(known, recipe)
    assert [each.initializer for each in plan.parameters] == [each.initializer for each in other.parameters]


@pytest.mark.parametrize(("recipe", "options"), [("diffusion_unet", {}), ("edm", {}), ("edm", {"scheme": "adm"})])
def test_what_may_be_a_residual_block_is_refused(recipe: str, options: dict[str, str]) -> None:
    model = Guided()
    next(part for part in model.modules() if type(part) is ResBlock).__class__ = ResidualDenseBlock
    with pytest.raises(PlanError, match="may be in a residual block, whose class has no known name"):
        zeta.plan(model, recipe, **options)


# -- modulations of other forms ----------------------------------------------------------------------------------------


class Other(nn.Module):
    """A block with attention and an MLP, one level down or not, and modulations."""

    def __init__(self, nested: bool = False, **modulations: nn.Module) -> None:
        super().__init__()
        attention = nn.ModuleDict({"qkv": nn.Linear(C, 3 * C), "proj": nn.Linear(C, C)})
        inner = nn.ModuleDict(
            {"attention": attention, "mlp": nn.Sequential(nn.Linear(C, F), nn.GELU(), nn.Linear(F, C))}
        )
        for name, part in {"core": inner}.items() if nested else inner.items():
            self.add_module(name, part)
        for name, part in modulations.items():
            self.add_module(name, part)


def modulation(several: int = 6) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(C, several * C))


def transformer(*blocks: nn.Module) -> nn.ModuleDict:
    embedder = nn.ModuleDict({"mlp": nn.Sequential(nn.Linear(C, C), nn.SiLU(), nn.Linear(C, C))})
    final = nn.ModuleDict({"linear": nn.Linear(C, 12), "adaLN_modulation": modulation(2)})
    parts = {"x_embedder": nn.Conv2d(3, C, 2, 2), "t_embedder": embedder, "blocks": nn.ModuleList(blocks)}
    return nn.ModuleDict({**parts, "final_layer": final})


def test_dit_zeroes_all_modulations_of_a_block() -> None:
    several = Other(adaLN_attn=modulation(3), adaLN_modulation=modulation(3))
    parallel = Other(adaLN_modulation=nn.ModuleDict({name: nn.Linear(C, C) for name in ("shift", "scale", "gate")}))
    nested = Other(nested=True, ada=modulation())
    plan = zeta.plan(transformer(several, parallel, nested), "dit")
    names = ("0.adaLN_attn.1", "0.adaLN_modulation.1", "2.ada.1")
    names += tuple(f"1.adaLN_modulation.{part}" for part in ("shift", "scale", "gate"))
    assert {plan[f"blocks.{name}.weight"].initializer for name in names} == {Zeros()}


@pytest.mark.parametrize("block", [Other(nested=True), Other(nested=True, cond=modulation())])
def test_dit_looks_for_attention_at_any_depth(block: nn.Module) -> None:
    with pytest.raises(PlanError, match=r"blocks\.0\..*in which no modulation is found"):
        zeta.plan(transformer(block), "dit")


def test_dit_refuses_what_may_be_another_modulation() -> None:
    block = Other(adaLN_modulation=modulation(3), film=modulation(3))
    with pytest.raises(PlanError, match=r"blocks\.0\.film\.1\.weight.*or may be a modulation itself"):
        zeta.plan(transformer(block), "dit")
