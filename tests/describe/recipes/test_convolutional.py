"""The recipes for convolutional networks against the papers' formulas, for every parameter."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.models import Basic, Bottleneck, ResNet  # noqa: E402
from tests.helpers.published import (  # noqa: E402
    ONE,
    ZERO,
    Law,
    Laws,
    agrees,
    constant,
    linear,
    norm,
    normal,
    uniform,
    within,
)
from zeta.errors import PlanError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

S = normal(0.02)
CLASSES = 10


def library(model: str, config: str, sizes: dict[str, Any]) -> nn.Module:
    return getattr(transformers, model)(getattr(transformers, config)(**sizes))  # type: ignore[no-any-return]


# -- convolutional networks --------------------------------------------------------------------------------------------


def convnext(prefix: str, second: bool, scale: float) -> Laws:
    block = linear(S, "dwconv", "pwconv1", "pwconv2") | norm("layernorm")
    block |= {"grn.weight": ZERO, "grn.bias": ZERO} if second else {"layer_scale_parameter": constant(scale)}
    return {
        **linear(S, f"{prefix}.embeddings.patch_embeddings", f"{prefix}.encoder.stages.1.downsampling_layer.1"),
        **norm(f"{prefix}.embeddings.layernorm", f"{prefix}.encoder.stages.1.downsampling_layer.0"),
        **norm(f"{prefix}.layernorm"),
        **within([f"{prefix}.encoder.stages.{stage}.layers.0" for stage in range(2)], block),
    }


@pytest.mark.parametrize("second", [False, True])
def test_convnext(second: bool) -> None:
    sizes = {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_labels": CLASSES}
    version = "V2" if second else ""
    name = "convnextv2" if second else "convnext"

    def factory(**changes: Any) -> nn.Module:
        return library(f"ConvNext{version}ForImageClassification", f"ConvNext{version}Config", {**sizes, **changes})

    agrees(factory, "convnext", convnext(name, second, 1e-6) | linear(S, "classifier"))
    _, recorded = zeta.record(factory)
    assert zeta.diff(recorded, zeta.plan(factory(), "convnext")).same
    scaled = convnext(name, second, 1e-6) | linear(normal(2e-5), "classifier")
    agrees(factory, "convnext", scaled, head_init_scale=0.001)
    if not second:
        agrees(
            lambda: factory(layer_scale_init_value=0.1),
            "convnext",
            convnext(name, second, 0.1) | linear(S, "classifier"),
        )
        agrees(factory, "convnext", convnext(name, second, 0.5) | linear(S, "classifier"), layer_scale=0.5)


class Separable(nn.Module):
    """A block of ConvNeXt, as torchvision and Facebook write the layer scale."""

    def __init__(self, spatial: bool) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(8, 8, 7, groups=8)
        self.norm = nn.LayerNorm(8)
        self.widen, self.narrow = nn.Conv2d(8, 32, 1), nn.Linear(32, 8)
        if spatial:
            self.layer_scale = nn.Parameter(torch.empty(8, 1, 1))
        else:
            self.gamma = nn.Parameter(torch.empty(8))


def test_convnext_on_other_names() -> None:
    model = nn.Sequential(Separable(True), Separable(False), nn.Linear(8, CLASSES))
    published = within("01", linear(S, "depthwise", "widen", "narrow") | norm("norm")) | linear(normal(0.01), "2")
    published |= {"0.layer_scale": constant(1e-6), "1.gamma": constant(1e-6)}
    agrees(lambda: model, "convnext", published, head_init_scale=0.5)


EFFICIENT = {
    "width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 64, "kernel_sizes": [3, 5],
    "in_channels": [8, 8], "out_channels": [8, 16], "strides": [1, 2], "num_block_repeats": [1, 1],
    "expand_ratios": [1, 2], "depthwise_padding": [], "num_labels": CLASSES,
}  # fmt: skip


def test_efficientnet() -> None:
    def fan_out(n: int) -> Law:
        return normal(math.sqrt(2 / n))

    first, second = ("efficientnet.encoder.blocks.0", "efficientnet.encoder.blocks.1")
    published = {
        "efficientnet.embeddings.convolution.weight": fan_out(8 * 3 * 3),
        f"{first}.depthwise_conv.depthwise_conv.weight": fan_out(3 * 3),
        **linear(fan_out(2), f"{first}.squeeze_excite.reduce", f"{second}.squeeze_excite.reduce"),
        **linear(fan_out(8), f"{first}.squeeze_excite.expand"),
        f"{first}.projection.project_conv.weight": fan_out(8),
        f"{second}.expansion.expand_conv.weight": fan_out(16),
        f"{second}.depthwise_conv.depthwise_conv.weight": fan_out(5 * 5),
        **linear(fan_out(16), f"{second}.squeeze_excite.expand"),
        f"{second}.projection.project_conv.weight": fan_out(8),
        "efficientnet.encoder.top_conv.weight": fan_out(320),
        **norm("efficientnet.embeddings.batchnorm", "efficientnet.encoder.top_bn", f"{second}.expansion.expand_bn"),
        **norm(*(f"{each}.{name}" for each in (first, second) for name in ("depthwise_conv.depthwise_norm",))),
        **norm(*(f"{each}.projection.project_bn" for each in (first, second))),
        **linear(uniform(CLASSES**-0.5), "classifier"),
    }
    model = library("EfficientNetForImageClassification", "EfficientNetConfig", EFFICIENT)
    model.efficientnet.encoder.top_bn = nn.BatchNorm2d(320)  # the library's own has another width
    agrees(lambda: model, "efficientnet", published)


class CondConv2d(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.kernel_size, self.out_channels, self.groups = (3, 3), 16, 4
        self.weight = nn.Parameter(torch.empty(6, 16 * 2 * 3 * 3))


def test_efficientnet_on_other_names() -> None:
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 12, 3, groups=3), "mixed": CondConv2d(), "bn": nn.BatchNorm2d(12)})
    model["routing_fn"], model["out"] = nn.Linear(12, 6), nn.Linear(12, 5)
    published = {
        **linear(normal(math.sqrt(2 / (4 * 9))), "stem"),
        "mixed.weight": normal(math.sqrt(2 / (4 * 9))),
        **norm("bn"),
        **linear(uniform(1 / math.sqrt(18)), "routing_fn"),
        **linear(uniform(1 / math.sqrt(5)), "out"),
    }
    agrees(lambda: model, "efficientnet", published)


class Residual(nn.Module):
    """The names of dynamic-network-architectures."""

    class Unit(nn.Module):
        def __init__(self, into: int, out: int) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv3d(into, out, 3, bias=True), nn.InstanceNorm3d(out, affine=True)

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = self.Unit(4, 8), self.Unit(8, 8)


@pytest.mark.parametrize("zero", [False, True])
def test_nnunet(zero: bool) -> None:
    def leaky(fan_in: int) -> Law:
        return normal(math.sqrt(2 / (1.0001 * fan_in)))

    def factory() -> nn.Module:
        layers = {"encoder": Residual(), "transpconvs": nn.ConvTranspose3d(8, 4, 2, 2), "seg": nn.Conv3d(4, 2, 1)}
        return nn.ModuleDict(layers)

    published = {
        **linear(leaky(4 * 27), "encoder.conv1.conv"),
        **linear(leaky(8 * 27), "encoder.conv2.conv"),
        **norm("encoder.conv1.norm"),
        **norm("encoder.conv2.norm", scale=ZERO if zero else ONE),
        **linear(leaky(4 * 8), "transpconvs"),  # torch's fan_in is that of its outputs
        **linear(leaky(4), "seg"),
    }
    agrees(factory, "nnunet", published, zero_last_norm=zero)

    def initialized() -> nn.Module:
        model = factory()
        for module in model.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
                nn.init.kaiming_normal_(module.weight, a=1e-2)
                assert module.bias is not None
                nn.init.constant_(module.bias, 0)
        if zero:
            nn.init.zeros_(model.get_submodule("encoder.conv2.norm").weight)
        return model

    _, recorded = zeta.record(initialized)
    assert zeta.diff(recorded, zeta.plan(factory(), "nnunet", zero_last_norm=zero)).same


def test_nnunet_without_residual_blocks() -> None:
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.InstanceNorm2d(8, affine=True), nn.LeakyReLU(0.01))
    published = linear(normal(math.sqrt(2 / (1.0001 * 9))), "0") | norm("1")
    agrees(lambda: plain, "nnunet", published)
    with pytest.raises(PlanError, match="last norm of each residual block"):
        zeta.plan(plain, "nnunet", zero_last_norm=True)
    bottleneck = ResNet(Bottleneck, 8, 4)  # its conv3 has no norm inside
    with pytest.raises(PlanError, match="last norm of each residual block"):
        zeta.plan(bottleneck, "nnunet", zero_last_norm=True)


# -- the last norms of residual blocks ---------------------------------------------------------------------------------


class Modified(nn.Module):
    """A stem of three convolutions at the root, as CLIP's, with blocks that words and numbers name."""

    def __init__(self, *, stem: nn.Module | None = None) -> None:
        super().__init__()
        stem = stem or self
        for n in (1, 2, 3):
            stem.add_module(f"conv{n}", nn.Conv2d(3 if n == 1 else 8, 8, 3, bias=False))
            stem.add_module(f"bn{n}", nn.BatchNorm2d(8))
        if stem is not self:
            self.stem = stem
        self.layer1 = nn.Sequential(Basic(8, 8, 1), Bottleneck(8, 2, 1))
        self.wide = Basic(8, 16, 2)  # with a shortcut
        self.last_block = Basic(16, 16, 1)
        del self.layer1[0].downsample, self.last_block.downsample
        self.fc = nn.Linear(16, 5)


@pytest.mark.parametrize("stem", [False, True])
@pytest.mark.parametrize("inside", ["", "visual."])
def test_the_last_norms_are_those_of_blocks_and_not_of_a_stem(stem: bool, inside: str) -> None:
    model = Modified(stem=nn.Module() if stem else None)
    plan = zeta.plan(nn.ModuleDict({"visual": model}) if inside else model, "resnet", zero_init_residual=True)
    zeros = {entry.name for entry in plan.parameters if entry.name.endswith("weight") and entry.std == entry.mean == 0}
    ends = ("layer1.0.bn2", "layer1.1.bn3", "wide.bn2", "last_block.bn2")
    assert zeros == {f"{inside}{end}.weight" for end in ends}
