"""The end of a residual branch, whatever the shortcut and what is beside it are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta.errors import PlanError, SpecError
from zeta.initializers import Ones, Zeros


class Block(nn.Module):
    """Two convolutions, then a shortcut of any name where the width changes, then whatever else."""

    def __init__(self, into: int, out: int, shortcut: str = "", **others: nn.Module) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(into, out, 3), nn.Conv2d(out, out, 3)
        if shortcut:
            self.add_module(shortcut, nn.Conv2d(into, out, 1))
        for name, part in others.items():
            self.add_module(name, part)


def excite(width: int) -> nn.Module:
    parts = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(width, 2, 1), nn.ReLU(), nn.Conv2d(2, width, 1), nn.Sigmoid())
    return nn.Sequential(*parts)


def laws(model: nn.Module, recipe: str, **options: Any) -> dict[str, Any]:
    return {entry.name: entry.initializer for entry in zeta.plan(model, recipe, **options).parameters}


def zeroed(model: nn.Module, recipe: str, within: str, **options: Any) -> list[str]:
    found = laws(model, recipe, **options)
    return [
        name for name, how in found.items() if name.startswith(within) and name.endswith("weight") and how == Zeros()
    ]


SHORTCUTS = ["proj", "conv3", "match", "adjust", "residual", "residual_proj", "conv_res", "channel_mapper", "shortcut"]


def residual(*blocks: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "layer1": nn.Sequential(*blocks), "fc": nn.Linear(16, 10)})


@pytest.mark.parametrize("name", SHORTCUTS)
def test_fixup_finds_the_last_layer_of_a_branch(name: str) -> None:
    model = residual(Block(8, 16, name), Block(16, 16))
    assert zeroed(model, "fixup", "layer1") == ["layer1.0.conv2.weight", "layer1.1.conv2.weight"]
    assert laws(model, "fixup")["layer1.0.conv1.weight"].std == pytest.approx((2 / (16 * 9)) ** 0.5 * 2**-0.5)


@pytest.mark.parametrize("name", ["se", "squeeze_excite", "se_block"])
def test_squeeze_and_excite_is_beside_the_branch(name: str) -> None:
    model = residual(Block(16, 16, **{name: excite(16)}), Block(16, 16))
    assert zeroed(model, "fixup", "layer1") == ["layer1.0.conv2.weight", "layer1.1.conv2.weight"]


def test_a_last_layer_that_may_be_a_shortcut_is_refused() -> None:
    with pytest.raises(PlanError, match=r"layer1\.0\.conv\d\.weight.*whether the last layer ends the branch or is a"):
        zeta.plan(residual(Block(16, 16, "extra")), "fixup")
    bottleneck = nn.ModuleDict(
        {"conv1": nn.Conv2d(16, 16, 1), "conv2": nn.Conv2d(16, 16, 3), "conv3": nn.Conv2d(16, 16, 1)}
    )
    assert zeroed(residual(bottleneck, Block(16, 16)), "fixup", "layer1.0") == ["layer1.0.conv3.weight"]


def test_fixup_has_several_heads_and_no_blocks_that_halve_the_image() -> None:
    stage = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3))
    model = nn.ModuleDict({"stem": nn.Conv2d(3, 8, 3), "down": nn.ModuleList([stage])})
    model["layer1"] = nn.Sequential(Block(16, 16), Block(16, 16))
    model["age"], model["gender"] = nn.Linear(16, 1), nn.Linear(16, 2)
    assert zeroed(model, "fixup", "") == [
        *("layer1.0.conv2.weight", "layer1.1.conv2.weight", "age.weight", "gender.weight"),
    ]
    assert laws(model, "fixup")["layer1.0.conv1.weight"].std == pytest.approx((2 / (16 * 9)) ** 0.5 * 2**-0.5)


class ResBlock(Block):
    pass


def unet(block: nn.Module, **outputs: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"inp": nn.Conv2d(3, 8, 3), "down": ResBlock(8, 16), "mid": block, **outputs})


@pytest.mark.parametrize("recipe", ["diffusion_unet", "edm"])
@pytest.mark.parametrize("name", SHORTCUTS)
def test_unets_zero_the_branch_and_not_the_shortcut(recipe: str, name: str) -> None:
    found = laws(unet(ResBlock(16, 32, name), out=nn.Conv2d(32, 3, 3)), recipe)
    small = [
        key
        for key, how in found.items()
        if key.endswith("weight") and (how.to_json()["name"] == "Zeros" or how.high < 1e-4)
    ]
    assert small == ["down.conv2.weight", "mid.conv2.weight", "out.weight"]


@pytest.mark.parametrize(
    "name", ["BasicResBlock", "BigGANResBlock", "DecoderResBlock", "MPResBlock", "FiLMResBlock", "ResBlk"]
)
def test_residual_blocks_by_any_prefix(name: str) -> None:
    block = type(name, (Block,), {})(16, 16)
    found = zeroed(unet(block, out=nn.Conv2d(16, 3, 3)), "diffusion_unet", "")
    assert found == ["down.conv2.weight", "mid.conv2.weight", "out.weight"]


@pytest.mark.parametrize("name", ["ResidualConv", "CondResidual", "Residual", "ResNetLayer", "ResLayer"])
def test_what_may_be_a_residual_block_is_refused(name: str) -> None:
    block = type(name, (Block,), {})(16, 16)
    with pytest.raises(PlanError, match=r"mid\.conv1\.weight.*may be in a residual block, whose class has no"):
        zeta.plan(unet(block, out=nn.Conv2d(16, 3, 3)), "diffusion_unet")


def test_all_outputs_are_zero_and_nothing_of_their_name_inside() -> None:
    outputs = {"out": nn.Conv2d(16, 3, 3), "logvar_out": nn.Conv2d(16, 3, 1)}
    inner = ResBlock(16, 16)
    assert zeroed(unet(inner, **outputs), "diffusion_unet", "")[-2:] == ["out.weight", "logvar_out.weight"]
    side = nn.ModuleDict({"out": nn.Conv2d(16, 16, 1)})
    assert "side.out.weight" not in zeroed(unet(inner, side=side, out=outputs["out"]), "diffusion_unet", "")
    vae = nn.ModuleDict({"block": ResBlock(8, 8), "conv_out": nn.Conv2d(8, 3, 3)})
    both = nn.ModuleDict({"unet": unet(inner, out=outputs["out"]), "vae": vae})
    assert zeroed(both, "diffusion_unet", "")[-1] == "vae.conv_out.weight"
    assert "unet.out.weight" in zeroed(both, "diffusion_unet", "")


def test_edm_finds_the_output_of_an_attention_by_its_role() -> None:
    attention = nn.ModuleDict({"to_qkv": nn.Conv2d(8, 24, 1), "out_proj": nn.Conv2d(8, 8, 1)})
    model = nn.ModuleDict(
        {"enc": nn.ModuleDict({"attn": attention}), "down": ResBlock(8, 8), "out": nn.Conv2d(8, 3, 3)}
    )
    assert laws(model, "edm")["enc.attn.out_proj.weight"].high == pytest.approx(1e-5 * (6 / 16) ** 0.5)


# -- the last norm -----------------------------------------------------------------------------------------------------


class Normed(nn.Module):
    """conv3 is the shortcut, as in the book "Dive into Deep Learning"."""

    def __init__(self, into: int = 8, out: int = 16, first: str = "conv") -> None:
        super().__init__()
        convolutions = {
            "conv1": nn.Conv2d(into, out, 3),
            "conv2": nn.Conv2d(out, out, 3),
            "conv3": nn.Conv2d(into, out, 1),
        }
        norms = {f"bn{number}": nn.BatchNorm2d(out) for number in (1, 2, 3)}
        for name, part in ({**convolutions, **norms} if first == "conv" else {**norms, **convolutions}).items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return torch.relu(inner + self.bn3(self.conv3(x)))


class Unread(Normed):
    forward = nn.Module.forward


class PreActivation(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)
        self.bn2, self.conv2 = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)


class PreActivationByForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.bn2(self.conv1(self.bn1(x).relu())).relu())  # type: ignore[no-any-return]


class InARow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        norms = (nn.BatchNorm2d(8), nn.BatchNorm2d(8))
        self.residual = nn.Sequential(nn.Conv2d(8, 8, 3), norms[0], nn.ReLU(), nn.Conv2d(8, 8, 3), norms[1])
        self.shortcut = nn.Sequential()


def classifier(*blocks: nn.Module) -> nn.ModuleDict:
    return nn.ModuleDict({"conv1": nn.Conv2d(3, 8, 3), "layer1": nn.Sequential(*blocks), "fc": nn.Linear(8, 10)})


@pytest.mark.parametrize("make", [Normed, lambda: Normed(first="norm"), Unread])
def test_the_norm_of_a_shortcut_is_not_the_last(make: Callable[[], nn.Module]) -> None:
    found = laws(classifier(make()), "resnet", zero_init_residual=True)
    assert found["layer1.0.bn2.weight"] == Zeros()
    assert found["layer1.0.bn1.weight"] == found["layer1.0.bn3.weight"] == Ones()


def test_the_last_norm_of_a_branch_in_a_row_beside_other_blocks() -> None:
    found = zeroed(classifier(InARow(), Normed(8, 16)), "resnet", "layer1", zero_init_residual=True)
    assert found == ["layer1.0.residual.4.weight", "layer1.1.bn2.weight"]


@pytest.mark.parametrize("block", [PreActivation(), PreActivationByForward()])
def test_norms_before_convolutions_end_no_block(block: nn.Module) -> None:
    with pytest.raises(SpecError, match=r"no norm is found after the last convolution of 'layer1\.0'"):
        zeta.plan(classifier(block), "resnet", zero_init_residual=True)
    assert laws(classifier(block), "resnet")["layer1.0.bn2.weight"] == Ones()
