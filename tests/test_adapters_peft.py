"""PiSSA, OLoRA, LoRA-GA and VeRA on peft's own layers, compared with what peft computes."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zeta.adapters import lora_ga_, olora_, pissa_, vera_, verify_vera
from zeta.errors import SpecError, ZetaNotice

os.environ.setdefault("HF_HUB_OFFLINE", "1")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

RANK, ALPHA = 4, 12


def mlp() -> nn.Module:
    """Layers whose singular values are not too close to each other, as those of trained ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(40, 64), nn.Tanh(), nn.Linear(64, 24))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            u, _, v = torch.linalg.svd(layer.weight, full_matrices=False)
            layer.weight.copy_(u * (0.7 ** torch.arange(len(v))) @ v)
    return model


def gpt2() -> nn.Module:
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "n_positions": 12, "n_embd": 16, "n_layer": 2, "n_head": 2}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))


def with_peft(model: nn.Module, **options: Any) -> nn.Module:
    config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, **options)
    adapted: nn.Module = peft.get_peft_model(copy.deepcopy(model), config)
    return adapted.eval()


def layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, peft.tuners.lora.LoraLayer)]


def product(layer: Any) -> Tensor:
    delta: Tensor = layer.get_delta_weight("default").detach()
    return delta


def close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).norm()) <= 1e-5 * float(other.norm())


TARGETS: dict[str, Any] = {"target_modules": ["0", "2"]}
CONV1D: dict[str, Any] = {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("iterations", [None, 8])
@pytest.mark.parametrize(("build", "options"), [(mlp, TARGETS), (gpt2, CONV1D)])
def test_pissa_is_that_of_peft(build: Any, options: dict[str, Any], iterations: int | None, rslora: bool) -> None:
    base = build()
    ours = with_peft(base, **options, use_rslora=rslora)
    theirs = with_peft(base, **options, use_rslora=rslora, init_lora_weights="pissa")
    report = pissa_(ours, seed=0, iterations=iterations)
    assert len(report.layers) == len(layers(ours)) > 1
    for mine, other in zip(layers(ours), layers(theirs), strict=True):
        assert close(product(mine), product(other))
        assert close(mine.get_base_layer().weight, other.get_base_layer().weight)
    x = torch.arange(8)[None] if build is gpt2 else torch.randn(3, 40)
    outputs = [model(x) if build is mlp else model(x).logits for model in (base.eval(), ours)]
    assert torch.allclose(*outputs, atol=1e-5)


def test_olora_is_that_of_peft() -> None:
    base = mlp()
    ours, theirs = with_peft(base, **TARGETS), with_peft(base, **TARGETS, init_lora_weights="olora")
    olora_(ours)
    for mine, other in zip(layers(ours), layers(theirs), strict=True):
        assert close(product(mine), product(other))
        assert close(mine.get_base_layer().weight, other.get_base_layer().weight)
        a, b = mine.lora_A["default"].weight, other.lora_A["default"].weight
        assert torch.allclose(a.abs(), b.abs(), atol=1e-5)  # peft has the signs of LAPACK


def test_a_model_in_bf16_is_closer_to_its_weights_than_pefts() -> None:
    """peft rounds A and B after it has subtracted their product."""
    base = mlp().bfloat16()
    ours, theirs = with_peft(base, **TARGETS), with_peft(base, **TARGETS, init_lora_weights="pissa")
    report = pissa_(ours, seed=0)
    errors = {
        id(model): [
            float((layer.get_base_layer().weight.float() + product(layer).float() - weight.float()).abs().max())
            for layer, weight in zip(layers(model), (base[0].weight, base[2].weight), strict=True)
        ]
        for model in (ours, theirs)
    }
    assert [item.difference for item in report] == pytest.approx(errors[id(ours)], rel=1e-3)
    assert all(2 * mine < other for mine, other in zip(errors[id(ours)], errors[id(theirs)], strict=True))


def test_pissa_of_an_embedding() -> None:
    base = gpt2()
    model = with_peft(base, target_modules=["wpe"])
    x = torch.arange(8)[None]
    expected = base.eval()(x).logits
    pissa_(model, seed=0)
    [layer] = layers(model)
    assert layer.lora_embedding_A["default"].any()
    assert torch.allclose(model(x).logits, expected, atol=1e-5)
    with pytest.raises(SpecError, match=r"wte\.base_layer\.weight is tied to .*lm_head\.weight"):
        pissa_(with_peft(base, target_modules=["wte"]), seed=0)


def test_lora_ga_has_the_directions_of_peft() -> None:
    base, x = mlp(), torch.randn(200, 40)

    def step() -> None:
        theirs_base(x).square().mean().backward()

    theirs_base = copy.deepcopy(base)
    config = peft.LoraConfig(
        r=RANK,
        lora_alpha=ALPHA,
        init_lora_weights="lora_ga",
        lora_ga_config=peft.LoraGAConfig(direction="A2rBr", scale="gd_scale"),
        **TARGETS,
    )
    peft.tuners.lora.loraga.preprocess_loraga(theirs_base, config, step)
    theirs = peft.get_peft_model(theirs_base, config)
    ours = with_peft(base, **TARGETS)
    expected = base(x)
    lora_ga_(ours, lambda model: model(x).square().mean(), seed=0)
    for mine, other in zip(layers(ours), layers(theirs), strict=True):
        for name, dim in (("lora_A", 1), ("lora_B", 0)):
            one, two = (getattr(layer, name)["default"].weight for layer in (mine, other))
            cosines = nn.functional.cosine_similarity(one, two, dim=dim)
            assert float(cosines.abs().min()) >= 0.999
            assert torch.allclose(one.norm(dim=dim), torch.ones(RANK), atol=1e-5)
    assert torch.allclose(ours(x), expected, atol=1e-5)


def test_a_merged_adapter_is_refused() -> None:
    model = with_peft(mlp(), **TARGETS)
    layers(model)[0].merge()
    with pytest.raises(SpecError, match=r"model\.0: its adapter is merged into the weight; unmerge it first"):
        pissa_(model, seed=0)


def test_an_adapter_that_is_not_in_use_is_refused() -> None:
    """The model computes W without it: to change W would change the model."""
    model = with_peft(mlp(), **TARGETS)
    model.add_adapter("second", peft.LoraConfig(r=2, **TARGETS))
    x = torch.randn(3, 40)
    with pytest.raises(SpecError, match=r"'second' is not active.*model\.set_adapter\('second'\) first"):
        pissa_(model, seed=0, only="*.second.*")
    with model.disable_adapter(), pytest.raises(SpecError, match="its adapters are disabled"):
        pissa_(model, seed=0, only="*.default.*")
    model.set_adapter("second")
    expected = model(x)
    with pytest.warns(ZetaNotice, match=r"(?s)belong to the weights before.*lora_A\.default\.weight"):
        pissa_(model, seed=0, only="*.second.*")
    assert torch.allclose(model(x), expected, atol=1e-6)


def test_an_adapter_for_some_tokens_only_is_refused() -> None:
    model = with_peft(gpt2(), **CONV1D | {"target_modules": "lm_head", "fan_in_fan_out": False})
    kinds = {"ALoraLinearVariant": False, "DoraLinearVariant": True}
    [layer] = layers(model)
    layer.get_base_layer().weight = nn.Parameter(layer.get_base_layer().weight.detach().clone())  # untied
    for kind, same in kinds.items():
        layer.lora_variant["default"] = getattr(peft.tuners.lora.variants, kind)()
        if not same:
            with pytest.raises(SpecError, match=f"peft's {kind} computes another function than W"):
                pissa_(model, seed=0)
    assert pissa_(model, seed=0)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.attention(x, x, x)[0]
        return found


def test_torchs_attention() -> None:
    """The output projection is read and not called. peft merges B A into it twice for each call."""
    base, x = Attention(), torch.randn(2, 5, 16)
    expected = base.eval()(x)
    model = with_peft(base, target_modules=["attention"])
    with pytest.raises(SpecError, match=r"attention\.base_layer\.out_proj: it is the output projection"):
        pissa_(model, seed=0)
    [item] = pissa_(model, seed=0, only="*.attention")
    assert item.weight.endswith("in_proj_weight")
    assert torch.allclose(model(x), expected, atol=1e-6)


def trained(model: nn.Module) -> None:
    torch.manual_seed(5)
    with torch.no_grad():
        for layer in layers(model):
            for table in (layer.lora_A, layer.lora_B):
                table["default"].weight.add_(torch.randn_like(table["default"].weight) / 50)


def test_a_trained_adapter_is_merged_and_comes_back_by_the_seed(tmp_path: Path) -> None:
    """As docs/guide/pissa.md says: the saved A and B belong to the changed weights, which the seed gives again."""
    base, x = mlp(), torch.randn(3, 40)
    model = with_peft(base, **TARGETS)
    pissa_(model, seed=0)
    trained(model)
    expected = model(x)
    model.save_pretrained(tmp_path / "adapter")
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter").eval()
    assert not torch.allclose(plain(x), expected, atol=1e-2)
    again = with_peft(base, **TARGETS)
    pissa_(again, seed=0)
    again.load_adapter(tmp_path / "adapter", "default")
    assert torch.allclose(again(x), expected, atol=1e-6)
    assert torch.allclose(model.merge_and_unload()(x), expected, atol=1e-6)


def test_peft_converts_to_an_adapter_of_the_old_weights(tmp_path: Path) -> None:
    base, x = mlp(), torch.randn(3, 40)
    model = with_peft(base, **TARGETS)
    pissa_(model, seed=0)
    model.save_pretrained(tmp_path / "start")
    trained(model)
    expected = model(x)
    model.peft_config["default"].init_lora_weights = "pissa"
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    plain = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "converted").eval()
    assert torch.allclose(plain(x), expected, atol=1e-5)


def test_a_scale_that_was_set_later_counts() -> None:
    model = with_peft(mlp(), **TARGETS)
    layers(model)[0].scale_layer(0.5)
    assert [item.scaling for item in pissa_(model, seed=0)] == [0.5 * ALPHA / RANK, ALPHA / RANK]


def test_the_first_scale_of_vera_is_that_of_its_configuration() -> None:
    config = peft.VeraConfig(r=RANK, d_initial=0.5, **TARGETS)
    model = peft.get_peft_model(mlp(), config)
    scale = model.base_model.model[0].vera_lambda_d["default"]
    vera_(model, seed=7)
    assert torch.equal(scale, torch.full_like(scale, 0.5))
    vera_(model, seed=7, d_initial=0.25)
    assert torch.equal(scale, torch.full_like(scale, 0.25))
    for wrong in (float("nan"), "x", True):
        with pytest.raises(SpecError, match="d_initial must be a finite number"):
            vera_(model, seed=7, d_initial=wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("stored", [False, True])
def test_vera(stored: bool) -> None:
    base = mlp()
    config = peft.VeraConfig(r=RANK, save_projection=stored, **TARGETS)
    model = peft.get_peft_model(copy.deepcopy(base), config).eval()
    x = torch.randn(3, 40)
    law = model.base_model.vera_A["default"]
    assert law.abs().max() <= (6 / 64) ** 0.5
    report = vera_(model, seed=7)
    assert report.ok
    assert report["vera_A"].planned_std == pytest.approx((2 / 64) ** 0.5)
    assert torch.equal(model(x), base(x))
    assert any("vera_A" in name for name in model.state_dict()) is stored
    assert verify_vera(model, 7).ok
    assert not verify_vera(model, 8).ok
