"""The recipes for images against the papers' formulas, written as numbers for every parameter; and against timm."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.published import (  # noqa: E402
    ZERO,
    Law,
    Laws,
    agrees,
    constant,
    linear,
    norm,
    normal,
    truncated,
    uniform,
    within,
    xavier,
)
from zeta.errors import PlanError, SpecError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

S = normal(0.02)
D, F, CLASSES, PATCH = 32, 64, 10, 3 * 8 * 8
VIT = {
    "hidden_size": D, "intermediate_size": F, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
    "patch_size": 8, "num_labels": CLASSES,
}  # fmt: skip


def library(model: str, config: str, sizes: dict[str, Any]) -> nn.Module:
    return getattr(transformers, model)(getattr(transformers, config)(**sizes))  # type: ignore[no-any-return]


# -- vision transformers -----------------------------------------------------------------------------------------------


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(D)
        self.to_qkv = nn.Linear(D, 3 * D, bias=False)
        self.to_out = nn.Sequential(nn.Linear(D, D), nn.Dropout(0.0))


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(D), nn.Linear(D, F), nn.GELU(), nn.Dropout(0.0), nn.Linear(F, D))


class Own(nn.Module):
    """With other names, a packed and bias-free projection, registers, and layer scales."""

    def __init__(self, distilled: bool = False) -> None:
        super().__init__()
        self.to_patch_embedding = nn.Sequential(nn.Conv2d(3, D, 8, 8), nn.Flatten(2))
        self.pos_embedding = nn.Parameter(torch.empty(1, 17, D))
        self.cls_token = nn.Parameter(torch.empty(1, 1, D))
        if distilled:
            self.distill_token = nn.Parameter(torch.empty(1, 1, D))
        else:
            self.register_tokens = nn.Parameter(torch.empty(4, D))
        self.layers = nn.ModuleList(nn.ModuleList([Attention(), FeedForward()]) for _ in range(3))
        self.layer_scale = nn.ParameterList([nn.Parameter(torch.empty(D)) for _ in range(0)])
        self.norm = nn.LayerNorm(D)
        self.mlp_head = nn.Linear(D, CLASSES)


def own(weights: Callable[[int, int], Law], qkv: Law, scale: Callable[[int], float], **parts: Law) -> Laws:
    """``scale``: what the layer's projections to the residual stream are divided by."""
    found = {
        "pos_embedding": S,
        "to_patch_embedding.0.weight": parts.get("patch", uniform(PATCH**-0.5)),
        "to_patch_embedding.0.bias": ZERO if "patch" in parts else uniform(PATCH**-0.5),
        **norm("norm"),
        "mlp_head.weight": parts.get("head", weights(D, CLASSES)),
        "mlp_head.bias": parts.get("head_bias", ZERO),
    }
    for layer in range(3):
        bias = parts.get("mlp_bias", ZERO)
        attention, mlp = f"layers.{layer}.0", f"layers.{layer}.1.net"
        found |= norm(f"{attention}.norm", f"{mlp}.0") | {f"{attention}.to_qkv.weight": qkv}
        found |= linear(divided(weights(D, D), scale(layer)), f"{attention}.to_out.0")
        found |= linear(weights(D, F), f"{mlp}.1", bias=bias)
        found |= linear(divided(weights(F, D), scale(layer)), f"{mlp}.4", bias=bias)
    return found


def divided(law: Law, by: float) -> Law:
    name, *numbers = law
    return (name, *(number / by for number in numbers))


def no(layer: int) -> float:
    return 1.0


def by_depth(layer: int) -> float:
    return math.sqrt(2 * (layer + 1))


TINY = normal(1e-6)
#: the truncated normal has the std sqrt(1/PATCH); that of a unit normal cut at ±2 is 0.8796256610342398
LECUN = truncated(math.sqrt(1 / PATCH) / 0.8796256610342398, 2 * math.sqrt(1 / PATCH) / 0.8796256610342398)
JAX = {"patch": LECUN, "mlp_bias": TINY, "head": ZERO}
SCHEMES: dict[str, tuple[dict[str, Any], Laws]] = {
    "timm": ({}, own(lambda i, o: S, S, no)),
    "fixed": ({"fix_init": True}, own(lambda i, o: S, S, by_depth)),
    "jax": ({"scheme": "jax"}, own(xavier, xavier(D, 3 * D), no, **JAX)),
    "jax, fixed": ({"scheme": "jax", "fix_init": True}, own(xavier, xavier(D, 3 * D), by_depth, **JAX)),
    "nlhb": ({"scheme": "jax_nlhb"}, own(xavier, xavier(D, 3 * D), no, **JAX, head_bias=constant(-math.log(CLASSES)))),
    "moco": ({"scheme": "moco"}, own(xavier, xavier(D, D), no)),
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_timm_vit_on_other_names(scheme: str) -> None:
    options, published = SCHEMES[scheme]
    agrees(Own, "timm_vit", {**published, "cls_token": TINY, "register_tokens": TINY}, **options)


def vit(prefix: str, weights: Callable[[int, int], Law], patch: Laws, mlp_bias: Law = ZERO) -> Laws:
    """The names of transformers; query, key and value are separate."""
    block = {
        **linear(weights(D, D), *(f"attention.{name}_proj" for name in "qkvo")),
        **linear(weights(D, F), "mlp.fc1", bias=mlp_bias),
        **linear(weights(F, D), "mlp.fc2", bias=mlp_bias),
        **norm("layernorm_before", "layernorm_after"),
    }
    return {
        **within([f"{prefix}.layers.0", f"{prefix}.layers.1"], block),
        **within([f"{prefix}.embeddings.patch_embeddings.projection"], patch),
        f"{prefix}.embeddings.position_embeddings": S,
        **norm(f"{prefix}.layernorm"),
    }


AS_TORCH = {"weight": uniform(PATCH**-0.5), "bias": uniform(PATCH**-0.5)}


@pytest.mark.parametrize("scheme", ["timm", "jax", "jax_nlhb", "moco"])
def test_timm_vit_on_transformers(scheme: str) -> None:
    jax = scheme.startswith("jax")
    patch = {"weight": LECUN, "bias": ZERO} if jax else AS_TORCH
    weights = xavier if scheme != "timm" else lambda into, out: S
    published = vit("vit", weights, patch, TINY if jax else ZERO) | {"vit.embeddings.cls_token": TINY}
    head = ZERO if jax else weights(D, CLASSES)
    published |= linear(head, "classifier", bias=constant(-math.log(CLASSES)) if scheme == "jax_nlhb" else ZERO)
    agrees(lambda: library("ViTForImageClassification", "ViTConfig", VIT), "timm_vit", published, scheme=scheme)


def test_the_head_that_jax_needs() -> None:
    model = library("ViTModel", "ViTConfig", VIT)
    with pytest.raises(PlanError, match="classifier"):
        zeta.plan(nn.Sequential(*list(Own().children())[:-1]), "timm_vit", scheme="jax")
    model.pooler = None
    assert zeta.plan(model, "timm_vit", scheme="jax", head=False)
    with pytest.raises(SpecError, match="scheme must be one of 'timm', 'jax', 'jax_nlhb', 'moco', got 'jaxx'"):
        zeta.plan(Own(), "timm_vit", scheme="jaxx")


def test_the_biases_of_gated_mlps_are_tiny_in_jax() -> None:
    model = Own()
    model.layers[0][1] = nn.ModuleDict({"mlp": nn.ModuleDict({"w12": nn.Linear(D, 2 * F), "w3": nn.Linear(F, D)})})
    gated = {"gate_proj": nn.Linear(D, F), "up_proj": nn.Linear(D, F), "down_proj": nn.Linear(F, D)}
    model.layers[1][1] = nn.ModuleDict({"mlp": nn.ModuleDict(gated)})
    plan = zeta.plan(model, "timm_vit", scheme="jax")
    biases = {entry.name: entry.std for entry in plan if ".mlp." in entry.name and entry.name.endswith("bias")}
    assert biases == {f"layers.{name}.bias": 1e-6 for name in (
        "0.1.mlp.w12", "0.1.mlp.w3", "1.1.mlp.gate_proj", "1.1.mlp.up_proj", "1.1.mlp.down_proj"
    )}  # fmt: skip


def test_a_network_in_front_of_the_transformer_needs_rules_of_its_own() -> None:
    model = Own()
    model.stem = nn.Conv2d(3, 3, 7, 2)
    for recipe, options in (("timm_vit", {}), ("timm_vit", {"scheme": "jax"}), ("deit", {})):
        with pytest.raises(PlanError, match=r"no rule matches these parameters.*\n.*stem\.weight"):
            zeta.plan(model, recipe, **options)


def test_layer_scales_start_as_given_or_as_their_module_says() -> None:
    class LayerScale(nn.Module):
        def __init__(self, init_values: float | None) -> None:
            super().__init__()
            self.init_values = init_values
            self.gamma = nn.Parameter(torch.empty(D))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.gamma

    def model(value: float | None) -> nn.Module:
        made = Own()
        made.layers[0].append(nn.ModuleDict({"ls1": LayerScale(value)}))
        return made

    name = "layers.0.2.ls1.gamma"
    assert zeta.plan(model(1e-4), "deit")[name].mean == 1e-4
    assert zeta.plan(model(1e-5), "timm_vit")[name].mean == 1e-5
    assert zeta.plan(model(1e-5), "timm_vit", layer_scale=0.1)[name].mean == 0.1
    with pytest.raises(PlanError, match=r"gamma.*\n?.*is a layer scale.*give layer_scale="):
        zeta.plan(model(None), "timm_vit")


def test_deit() -> None:
    published = vit("deit", lambda into, out: S, AS_TORCH) | linear(S, "cls_classifier", "distillation_classifier")
    published |= {f"deit.embeddings.{name}_token": S for name in ("cls", "distillation")}
    agrees(lambda: library("DeiTForImageClassificationWithTeacher", "DeiTConfig", VIT), "deit", published)
    tokens = {"cls_token": S, "distill_token": S}
    agrees(lambda: Own(distilled=True), "deit", {**own(lambda i, o: S, S, no), **tokens})


# -- Swin --------------------------------------------------------------------------------------------------------------

SWIN = {
    "image_size": 32, "patch_size": 2, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4,
    "num_labels": CLASSES,
}  # fmt: skip
PIXELS = uniform((3 * 2 * 2) ** -0.5)
LN_10 = constant(2.302585092994046)


def test_swin() -> None:
    block = {
        **linear(S, *(f"attention.{name}_proj" for name in "qkvo"), "mlp.fc1", "mlp.fc2"),
        **norm("layernorm_before", "layernorm_after"),
        "attention.relative_position_bias.relative_position_bias_table": S,
    }
    published = {
        "swin.embeddings.position_embeddings": S,
        **linear(PIXELS, "swin.embeddings.patch_embeddings.projection", bias=PIXELS),
        **within([f"swin.encoder.layers.{stage}.blocks.0" for stage in range(2)], block),
        "swin.encoder.layers.0.downsample.reduction.weight": S,
        **norm("swin.embeddings.norm", "swin.encoder.layers.0.downsample.norm", "swin.layernorm"),
        **linear(S, "classifier"),
    }
    sizes = {**SWIN, "use_absolute_embeddings": True}
    agrees(lambda: library("SwinForImageClassification", "SwinConfig", sizes), "swin", published)


def test_swin_v2() -> None:
    bias = "attention.self.continuous_position_bias_mlp"
    block = {
        **linear(S, "attention.self.query", "attention.self.value", "attention.output.dense", f"{bias}.0"),
        **linear(S, "intermediate.dense", "output.dense"),
        **norm("layernorm_before", "layernorm_after", scale=ZERO),
        "attention.self.key.weight": S,
        f"{bias}.2.weight": S,
        "attention.self.logit_scale": LN_10,
    }
    published = {
        **linear(PIXELS, "swinv2.embeddings.patch_embeddings.projection", bias=PIXELS),
        **within([f"swinv2.encoder.layers.{stage}.blocks.0" for stage in range(2)], block),
        "swinv2.encoder.layers.0.downsample.reduction.weight": S,
        **norm("swinv2.embeddings.norm", "swinv2.encoder.layers.0.downsample.norm", "swinv2.layernorm"),
        **linear(S, "classifier"),
    }
    agrees(lambda: library("Swinv2ForImageClassification", "Swinv2Config", SWIN), "swin_v2", published)


class Window(nn.Module):
    """A block with a packed projection, of both versions."""

    def __init__(self, second: bool) -> None:
        super().__init__()
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(D, 3 * D, bias=not second), nn.Linear(D, D)
        if second:
            self.attn.tau = nn.Parameter(torch.empty(1, 4, 1, 1))
            self.attn.meta_mlp = nn.Sequential(nn.Linear(2, F), nn.ReLU(), nn.Linear(F, 4, bias=False))
        else:
            self.attn.rel_pos_bias = nn.Parameter(torch.empty(49, 4))
        self.post_norm1, self.post_norm2 = nn.LayerNorm(D), nn.LayerNorm(D)
        self.ffn = nn.Sequential(nn.Linear(D, F), nn.GELU(), nn.Linear(F, D))


class Windows(nn.Module):
    def __init__(self, second: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, D, 2, 2)
        self.mask_token = nn.Parameter(torch.empty(1, 1, D))
        self.steps = nn.ModuleList(Window(second) for _ in range(2))
        self.last_norm = nn.LayerNorm(D)
        self.classify = nn.Linear(D, CLASSES)


@pytest.mark.parametrize("second", [False, True])
def test_swin_on_other_names(second: bool) -> None:
    block = linear(S, "attn.proj", "ffn.0", "ffn.2") | {"attn.qkv.weight": S}
    if second:
        block |= norm("post_norm1", "post_norm2", scale=ZERO) | {"attn.tau": LN_10}
        block |= linear(S, "attn.meta_mlp.0") | {"attn.meta_mlp.2.weight": S}
    else:
        block |= norm("post_norm1", "post_norm2") | {"attn.qkv.bias": ZERO, "attn.rel_pos_bias": S}
    published = within(["steps.0", "steps.1"], block) | norm("last_norm") | linear(S, "classify")
    published |= linear(PIXELS, "stem", bias=PIXELS) | {"mask_token": S}
    agrees(lambda: Windows(second), "swin_v2" if second else "swin", published)
    with pytest.raises(PlanError, match="never win"):
        zeta.plan(Windows(second), "swin" if second else "swin_v2")


# -- timm's constructors, where it is installed ------------------------------------------------------------------------

SIZES = {"img_size": 32, "embed_dim": 64, "depth": 2, "num_heads": 4, "num_classes": 10}
SMALL_SWIN = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4)}
TIMM: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    **{
        f"{mode}, {fixed}": (
            "vit_tiny_patch16_224",
            {**SIZES, "weight_init": mode, "fix_init": fixed, "init_values": 1e-5, "reg_tokens": 2},
            "timm_vit",
            {"scheme": mode or "timm", "fix_init": fixed},
        )
        for mode in ("", "jax", "jax_nlhb", "moco")
        for fixed in (False, True)
    },
    "swin": ("swin_tiny_patch4_window7_224", {**SMALL_SWIN, "img_size": 56}, "swin", {}),
    "swin_v2": ("swinv2_tiny_window8_256", {**SMALL_SWIN, "img_size": 64}, "swin_v2", {}),
    "convnext": ("convnext_atto", {"head_init_scale": 0.001}, "convnext", {"head_init_scale": 0.001}),
    "convnext_v2": ("convnextv2_atto", {}, "convnext", {}),
    "efficientnet": ("efficientnet_b0", {}, "efficientnet", {}),
    "mixtures": ("efficientnet_cc_b0_4e", {}, "efficientnet", {}),
}


@pytest.mark.parametrize("name", TIMM)
def test_timm(name: str) -> None:
    timm = pytest.importorskip("timm")
    architecture, sizes, recipe, options = TIMM[name]
    model, recorded = zeta.record(timm.create_model, architecture, **sizes)
    difference = zeta.diff(recorded, zeta.plan(model, recipe, **options))
    assert difference.same, str(difference)


def test_timm_deit_but_for_the_class_token() -> None:
    timm = pytest.importorskip("timm")
    model, recorded = zeta.record(timm.create_model, "deit_tiny_distilled_patch16_224", **SIZES)
    assert [change.name for change in zeta.diff(recorded, zeta.plan(model, "deit"))] == ["cls_token"]
