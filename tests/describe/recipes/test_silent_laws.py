"""Laws that were applied to the wrong parameters without an error."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import zeta
from zeta.errors import LayerTypeError, PlanError, SpecError
from zeta.initializers import Blocks, Keep, Normal, Ones, Zeros

D, F = 32, 64


def linear(into: int, out: int) -> nn.Linear:
    return nn.Linear(into, out, bias=False)


def block(qkv: str = "c_attn") -> nn.ModuleDict:
    attention = nn.ModuleDict({qkv: linear(D, 3 * D), "c_proj": linear(D, D)})
    return nn.ModuleDict({"attn": attention, "mlp": nn.ModuleDict({"c_fc": linear(D, F), "c_proj": linear(F, D)})})


def speedrun(**tables: nn.Module) -> nn.ModuleDict:
    parts = {"wte": nn.Embedding(9, D), **tables, "h": nn.ModuleList([block(), block()]), "lm_head": linear(D, 9)}
    return nn.ModuleDict(parts)


@pytest.mark.parametrize("name", ["type_emb", "ve"])
def test_a_second_table_is_no_copy_of_the_head(name: str) -> None:
    with pytest.raises(PlanError, match=rf"which table it is does not follow: wte\.weight, {name}\.weight"):
        zeta.plan(speedrun(**{name: nn.Embedding(9, D)}), "modded_nanogpt")


def test_a_table_in_a_layer_of_nanochat_is_refused() -> None:
    model = speedrun()
    model["h"][0]["ve"] = nn.Embedding(9, D)  # type: ignore[index,operator]
    with pytest.raises(PlanError, match=r"h\.0\.ve\.weight.*may be added to values, which its name does not say"):
        zeta.plan(model, "nanochat")


@pytest.mark.parametrize("name", ["mapping_net", "mapping", "z_to_w", "mapper"])
def test_mapping_networks_of_stylegan(name: str) -> None:
    model = nn.ModuleDict({name: nn.Sequential(linear(8, 8)), "affine": nn.Linear(8, 8)})
    assert zeta.plan(model, "stylegan2")[f"{name}.0.weight"].initializer == Normal(100.0)
    with pytest.raises(SpecError, match="mapping_lr must be a positive number, got inf"):
        zeta.plan(model, "stylegan2", mapping_lr=float("inf"))


@pytest.mark.parametrize("name", ["zero_convs", "zero_modules", "zero_layers", "out_convs"])
def test_zero_convolutions_by_other_names(name: str) -> None:
    model = nn.ModuleDict({name: nn.ModuleList([nn.Conv2d(8, 8, 1)]), "middle_block_out": nn.Conv2d(8, 8, 1)})
    model["hint_block"] = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
    assert zeta.plan(model, "controlnet")[f"{name}.0.weight"].initializer == Zeros()


def test_swin_v2_zeroes_the_norms_of_blocks_alone() -> None:
    inner = nn.ModuleDict({"attn": nn.ModuleDict({"qkv": linear(D, 3 * D), "proj": linear(D, D)})})
    inner["attn"].logit_scale = nn.Parameter(torch.empty(4, 1, 1))
    inner["norm1"], inner["norm2"] = nn.LayerNorm(D), nn.LayerNorm(D)
    down = nn.ModuleDict({"norm1": nn.LayerNorm(D), "reduction": linear(D, D)})
    stage = nn.ModuleDict({"blocks": nn.ModuleList([inner]), "downsample": down})
    model = nn.ModuleDict({"layers": nn.ModuleList([stage]), "head": nn.ModuleDict({"norm1": nn.LayerNorm(D)})})
    plan = zeta.plan(model, "swin_v2")
    assert plan["layers.0.blocks.0.norm1.weight"].initializer == Zeros()
    assert plan["layers.0.downsample.norm1.weight"].initializer == plan["head.norm1.weight"].initializer == Ones()


@pytest.mark.parametrize(("name", "place"), [("vqk", 0), ("qkv", 2), ("kqv", 2), ("qvk", 1)])
def test_deepnorm_scales_the_values_where_the_name_has_them(name: str, place: int) -> None:
    model = nn.ModuleDict({"table": nn.Embedding(9, D), "layers": nn.ModuleList([block(name)])})
    model["norm"], model["head"] = nn.LayerNorm(D), linear(D, 9)
    try:
        found = zeta.plan(model, "deepnorm")[f"layers.0.attn.{name}.weight"].initializer
    except PlanError as error:
        assert "role" in str(error) or "is not known" in str(error)  # noqa: PT017
        return
    assert isinstance(found, Blocks)
    stds = [part.std for part in found.parts]
    assert stds.index(min(stds)) == place


@pytest.mark.parametrize("recipe", ["bert", "vit", "llama", "timm_vit"])
def test_positions_that_are_not_trained_are_kept(recipe: str) -> None:
    model = nn.Module()
    model.pos_embed = nn.Parameter(torch.ones(1, 5, D), requires_grad=False)
    model.cls_token, model.head = nn.Parameter(torch.ones(1, 1, D)), nn.Linear(D, 3)
    assert zeta.plan(model, recipe)["pos_embed"].initializer == Keep()
    model.pos_embed.requires_grad = True
    assert zeta.plan(model, recipe)["pos_embed"].initializer == Normal(0.02)


@pytest.mark.parametrize("given", [{}, None, nn.Linear, "gpt2"])
def test_what_is_no_model(given: object) -> None:
    with pytest.raises(LayerTypeError, match=r"expected a torch\.nn\.Module"):
        zeta.roles_of(given)  # type: ignore[arg-type]
    with pytest.raises(LayerTypeError, match=r"expected a torch\.nn\.Module"):
        zeta.recipes.gpt2(given)


@pytest.mark.parametrize(
    ("recipe", "option"), [("convnext", "head_init_scale"), ("skipinit", "alpha"), ("stylegan2", "mapping_lr")]
)
def test_an_option_that_is_no_number(recipe: str, option: str) -> None:
    with pytest.raises(SpecError, match=rf"the recipe '{recipe}': {option} must be"):
        zeta.plan(linear(2, 2), recipe, **{option: float("nan")})
