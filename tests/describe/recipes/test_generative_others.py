"""The recipes for EDM, adversarial networks and codebooks against the published formulas, for every parameter."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.published import (
    ONE,
    ZERO,
    Laws,
    agrees,
    linear,
    norm,
    normal,
    uniform,
    within,
    xavier,
)
from zeta.errors import PlanError

F, C = 96, 16
S = normal(0.02)


def torchs(fan_in: int, *names: str) -> Laws:
    """What torch's own constructors do."""
    return linear(uniform(fan_in**-0.5), *names, bias=uniform(fan_in**-0.5))


# -- EDM ---------------------------------------------------------------------------------------------------------------


class Conv2d(nn.Module):
    """Not torch's."""

    def __init__(self, into: int, out: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, into, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.weight, self.bias, padding=self.weight.shape[-1] // 2)


class UNetBlock(nn.Module):
    def __init__(self, convolution: Callable[[int, int, int], nn.Module] = Conv2d) -> None:
        super().__init__()
        self.norm0, self.norm1, self.norm2 = (nn.GroupNorm(4, C) for _ in range(3))
        self.conv0 = convolution(C, C, 3)
        self.affine = nn.Linear(F, C)
        self.conv1 = convolution(C, C, 3)
        self.skip = convolution(C, C, 1)
        self.qkv, self.proj = convolution(C, 3 * C, 1), convolution(C, C, 1)


class Song(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.map_noise = nn.Module()
        self.map_noise.register_buffer("freqs", torch.zeros(400))
        self.map_layer0 = nn.Linear(C, F)
        self.enc = nn.ModuleDict({"8x8_conv": Conv2d(3, C, 3), "8x8_block0": UNetBlock()})
        self.dec = nn.ModuleDict({"8x8_block0": UNetBlock(), "8x8_aux_norm": nn.GroupNorm(4, C)})
        self.dec["8x8_aux_conv"] = Conv2d(C, 3, 3)


def test_edm() -> None:
    fifth = uniform(math.sqrt(0.2) * math.sqrt(6 / (C + 3 * C)))
    block = {
        **norm("norm0", "norm1", "norm2"),
        **linear(xavier(9 * C, 9 * C), "conv0"),
        **linear(xavier(F, C), "affine"),
        **linear(uniform(1e-5 * math.sqrt(6 / (18 * C))), "conv1"),
        **linear(xavier(C, C), "skip"),
        **linear(fifth, "qkv"),
        **linear(uniform(1e-5 * math.sqrt(6 / (2 * C))), "proj"),
    }
    published = {
        **linear(xavier(C, F), "map_layer0"),
        **linear(xavier(27, 9 * C), "enc.8x8_conv"),
        **within(["enc.8x8_block0", "dec.8x8_block0"], block),
        **norm("dec.8x8_aux_norm"),
        **linear(uniform(1e-5 * math.sqrt(6 / (9 * C + 27))), "dec.8x8_aux_conv"),
    }
    agrees(Song, "edm", published)
    assert zeta.plan(Song(), "edm")["map_noise.freqs"].std == 16


class Dhariwal(nn.Module):
    """With torch's convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.map_augment, self.map_label = nn.Linear(9, C, bias=False), nn.Linear(7, F, bias=False)
        self.map_layer0 = nn.Linear(C, F)
        self.enc = nn.ModuleDict({"8x8_conv": nn.Conv2d(3, C, 3), "8x8_block0": UNetBlock(nn.Conv2d)})
        self.out_norm, self.out_conv = nn.GroupNorm(4, C), nn.Conv2d(C, 3, 3)


def test_edm_of_adm() -> None:
    block = {
        **norm("norm0", "norm1", "norm2"),
        **torchs(9 * C, "conv0"),
        **torchs(F, "affine"),
        **torchs(C, "skip", "qkv"),
        **linear(ZERO, "conv1", "proj"),
    }
    published = {
        "map_augment.weight": ZERO,
        "map_label.weight": normal(1.0),
        **torchs(C, "map_layer0"),
        **torchs(27, "enc.8x8_conv"),
        **within(["enc.8x8_block0"], block),
        **norm("out_norm"),
        **linear(ZERO, "out_conv"),
    }
    agrees(Dhariwal, "edm", published, scheme="adm")
    with pytest.raises(PlanError, match="output"):
        zeta.plan(nn.ModuleDict({"block": UNetBlock()}), "edm", scheme="adm")


class MPConv(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shape))


class Magnitude(nn.Module):
    def __init__(self, gain: str, frequencies: bool) -> None:
        super().__init__()
        setattr(self, gain, nn.Parameter(torch.empty([])))
        self.conv_res0, self.emb_linear = MPConv(C, C, 3, 3), MPConv(C, F)
        if frequencies:
            self.register_buffer("freqs", torch.zeros(1000))
            self.register_buffer("phases", torch.zeros(1000))


@pytest.mark.parametrize(("gain", "frequencies"), [("out_gain", True), ("gain", False)])
def test_edm2(gain: str, frequencies: bool) -> None:
    published = {gain: ZERO, "conv_res0.weight": normal(1.0), "emb_linear.weight": normal(1.0)}
    agrees(lambda: Magnitude(gain, frequencies), "edm2", published)
    if frequencies:
        model = Magnitude(gain, True)
        plan = zeta.plan(model, "edm2")
        assert (plan["freqs"].mean, plan["freqs"].std) == (0, 2 * math.pi)
        assert plan["phases"].initializer == zeta.initializers.Uniform(0, 2 * math.pi)
    with pytest.raises(PlanError, match="gains"):
        zeta.plan(MPConv(3, 4), "edm2")


# -- adversarial networks and codebooks --------------------------------------------------------------------------------


def test_dcgan() -> None:
    generator = nn.Sequential(
        nn.ConvTranspose2d(100, 16, 4, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, bias=False),
    )
    scale = normal(0.02, mean=1.0)
    published = {"0.weight": S, **norm("1", scale=scale), "3.weight": S}
    agrees(lambda: generator, "dcgan", published)

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project, self.features = nn.Linear(100, 64), nn.Conv2d(3, 64, 5)
            self.bn = nn.BatchNorm2d(64)

    agrees(Other, "dcgan", linear(S, "project", "features") | norm("bn", scale=scale))

    def weights_init(layer: nn.Module) -> None:
        if isinstance(layer, nn.ConvTranspose2d):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)

    assert zeta.diff(zeta.plan(generator, lambda model: model.apply(weights_init)), zeta.plan(generator, "dcgan")).same


class Equalized(nn.Module):
    """A layer with a learning rate multiplier, under the name that a library gives it."""

    def __init__(self, *shape: int, **multiplier: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(shape)), nn.Parameter(torch.empty(shape[0]))
        for name, value in multiplier.items():
            setattr(self, name, value)


def generator(style: str, **multiplier: float) -> nn.Module:
    layer = nn.ModuleDict({style: Equalized(16, 8)})
    layer.weight = nn.Parameter(torch.empty(4, 16, 3, 3))
    layer.noise_strength = nn.Parameter(torch.empty([]))
    model = nn.ModuleDict({"mapping": nn.ModuleDict({"fc0": Equalized(8, 8, **multiplier)}), "conv0": layer})
    model["mapping"]["embed"] = Equalized(8, 5, **(dict.fromkeys(multiplier, 1.0)))
    model.const = nn.Parameter(torch.empty(16, 4, 4))
    return model


@pytest.mark.parametrize(
    ("style", "multiplier", "options", "std"),
    [
        ("affine", {}, {}, 100.0),
        ("affine", {"bias_gain": 0.1}, {}, 10.0),
        ("modulation", {"lr_mul": 0.02}, {"mapping_lr": 0.5}, 50.0),
        ("modulation", {}, {"mapping_lr": 0.5}, 2.0),
    ],
)
def test_stylegan2(style: str, multiplier: dict[str, float], options: dict[str, Any], std: float) -> None:
    one = normal(1.0)
    published = {
        "const": one,
        **linear(normal(std), "mapping.fc0"),
        **linear(one, "mapping.embed"),
        **linear(one, f"conv0.{style}", bias=ONE),
        "conv0.weight": one,
        "conv0.noise_strength": ZERO,
    }
    agrees(lambda: generator(style, **multiplier), "stylegan2", published, **options)


def test_the_constant_noise_of_stylegan2() -> None:
    model = generator("affine")
    model.register_buffer("noise_const", torch.zeros(200, 200))
    plan = zeta.plan(model, "stylegan2")
    assert (plan["noise_const"].mean, plan["noise_const"].std) == (0, 1)


def test_the_discriminator_of_stylegan2() -> None:
    model = nn.Sequential(Equalized(8, 3, 3, 3), Equalized(1, 8))
    agrees(lambda: model, "stylegan2", linear(normal(1.0), "0", "1"), discriminator=True)
    with pytest.raises(PlanError, match="biases of styles"):
        zeta.plan(model, "stylegan2")


class VectorQuantizer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 8)


def test_vq() -> None:
    one = nn.ModuleDict({"encoder": nn.Conv2d(3, 8, 4), "norm": nn.GroupNorm(2, 8), "bottleneck": VectorQuantizer()})
    one["decoder"] = nn.ConvTranspose2d(8, 3, 4)
    published = {
        **torchs(3 * 16, "encoder"),
        **norm("norm"),
        "bottleneck.embedding.weight": uniform(1 / 50),
        **torchs(3 * 16, "decoder"),  # torch's fan_in of a transposed convolution is that of its outputs
    }
    agrees(lambda: one, "vq", published)

    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.classes = nn.Linear(6, 8), nn.Embedding(4, 8)
            self.quantizer = nn.Module()
            self.quantizer.project = nn.Linear(8, 8)
            self.quantizer.codebook = nn.Parameter(torch.empty(2, 20, 8))

    published = {
        **torchs(6, "into"),
        "classes.weight": normal(1.0),
        **torchs(8, "quantizer.project"),
        "quantizer.codebook": uniform(1 / 20),
    }
    agrees(Other, "vq", published)
    with pytest.raises(PlanError, match="codebooks"):
        zeta.plan(nn.Sequential(nn.Embedding(3, 3)), "vq")


class QuantizerEMA(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(64, 8)


class VQVAE(nn.Module):
    """Only the quantizer's table is a codebook."""

    def __init__(self, quantizer: type[nn.Module] = QuantizerEMA) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 3, 3)
        self.inner, self.class_emb = quantizer(), nn.Embedding(10, 8)


class VQEmbedding(QuantizerEMA):
    pass


@pytest.mark.parametrize("quantizer", [QuantizerEMA, VQEmbedding])
@pytest.mark.parametrize("name", ["vqvae", "vq_model", "first_stage"])
def test_a_whole_model_called_vq_is_no_codebook(quantizer: type[nn.Module], name: str) -> None:
    model = nn.ModuleDict({name: VQVAE(quantizer), "tokens": nn.Embedding(64, 8)})
    plan = zeta.plan(model, "vq")
    assert plan[f"{name}.inner.embedding.weight"].initializer == zeta.initializers.Uniform(-1 / 64, 1 / 64)
    for table in (f"{name}.class_emb.weight", "tokens.weight"):
        assert plan[table].initializer == zeta.initializers.Normal(1.0)
