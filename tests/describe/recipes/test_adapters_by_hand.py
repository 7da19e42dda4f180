"""Adapters that are written by hand, with other names than peft's: no recipe draws what adds to the model's outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta.errors import PlanError
from zeta.initializers import Keep, Zeros

D, RANK = 32, 4


def matrix(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.ones(shape))


class Raw(nn.Module):
    """A and B as parameters, which vectors are multiplied by from the left."""

    def __init__(self, into: int = D, out: int = D, names: tuple[str, str] = ("A", "B")) -> None:
        super().__init__()
        self.a, self.b = names
        setattr(self, self.a, matrix(into, RANK))
        setattr(self, self.b, matrix(RANK, out))

    def forward(self, x: Tensor) -> Tensor:
        return x @ getattr(self, self.a) @ getattr(self, self.b)  # type: ignore[no-any-return]


def layers(names: tuple[str, str]) -> nn.ModuleDict:
    a, b = names
    return nn.ModuleDict({a: nn.Linear(D, RANK, bias=False), b: nn.Linear(RANK, D, bias=False)})


class Beside(nn.Module):
    """A layer, and what adapts it: in a module of this name, or beside the layer."""

    def __init__(self, adapter: nn.Module, name: str = "", out: int = D) -> None:
        super().__init__()
        self.linear = nn.Linear(D, out)
        if name:
            self.add_module(name, adapter)
        for local, child in [] if name else adapter.named_children():
            self.add_module(local, child)
        for local, parameter in [] if name else list(adapter._parameters.items()):
            self.register_parameter(local, parameter)


def model_with(layer: nn.Module) -> nn.Module:
    block = nn.ModuleDict({"q_proj": layer, "norm": nn.LayerNorm(D)})
    return nn.ModuleDict({"emb": nn.Embedding(9, D), "layers": nn.ModuleList([block])})


@pytest.mark.parametrize("name", ["lora", "lora_layer", "q_lora", "LoRA", "loras", "lora1", "adapter", "lora_adapter"])
@pytest.mark.parametrize("recipe", ["llama", "bert", "vit", "keras", "torch", "lora"])
def test_lora_in_a_module_of_any_name(name: str, recipe: str) -> None:
    plan = zeta.plan(model_with(Beside(Raw(), name)), recipe)
    assert plan[f"layers.0.q_proj.{name}.B"].initializer == Zeros()
    assert plan[f"layers.0.q_proj.{name}.A"].initializer not in (Zeros(), Keep())
    assert (plan["layers.0.q_proj.linear.weight"].initializer == Keep()) is (recipe == "lora")


@pytest.mark.parametrize(
    "names",
    [
        *(("A", "B"), ("W_A", "W_B"), ("wa", "wb"), ("matrix_A", "matrix_B"), ("adapter_A", "adapter_B")),
        *(("q_lora_A", "q_lora_B"), ("qlora_a", "qlora_b"), ("lora_A_q", "lora_B_q"), ("LoRA_A", "LoRA_B")),
        *(("query_lora_a", "query_lora_b"), ("low_rank_A", "low_rank_B"), ("lora1", "lora2")),
        *(("lora_down_proj", "lora_up_proj"), ("lin_a", "lin_b"), ("delta_a", "delta_b")),
    ],
)
@pytest.mark.parametrize("form", ["parameters", "layers"])
def test_lora_beside_its_layer(names: tuple[str, str], form: str) -> None:
    layer = Beside(Raw(names=names) if form == "parameters" else layers(names))
    suffix = "" if form == "parameters" else ".weight"
    for recipe in ("llama", "lora"):
        plan = zeta.plan(model_with(layer), recipe)
        assert plan[f"layers.0.q_proj.{names[1]}{suffix}"].initializer == Zeros()
        assert plan[f"layers.0.q_proj.{names[0]}{suffix}"].initializer != Zeros()


def test_the_class_says_that_it_is_lora() -> None:
    class LoRALinear(nn.Linear):
        def __init__(self, into: int, out: int) -> None:
            super().__init__(into, out)
            self.down, self.up = nn.Linear(into, RANK, bias=False), nn.Linear(RANK, out, bias=False)

    class LoraUV(nn.Linear):
        def __init__(self, into: int, out: int) -> None:
            super().__init__(into, out)
            self.u, self.v = matrix(out, RANK), matrix(RANK, into)

    plan = zeta.plan(model_with(LoRALinear(D, 2 * D)), "bert")
    assert plan["layers.0.q_proj.up.weight"].initializer == Zeros()
    assert plan["layers.0.q_proj.down.weight"].initializer != Zeros()
    with pytest.raises(PlanError, match=r"q_proj\.u .*belongs to an adapter, which no recipe knows"):
        zeta.plan(model_with(LoraUV(D, 2 * D)), "bert")


def test_outputs_stay_also_of_an_mlp() -> None:
    wide, narrow = Beside(Raw(D, 2 * D), "lora", 2 * D), nn.Linear(2 * D, 2)
    model = nn.Sequential(wide, nn.ReLU(), narrow)
    for recipe in ("nerf", "siren", "critical", "keras", "ppo"):
        try:
            zeta.init_(model, recipe, seed=0)
        except PlanError:
            continue
        assert not model[0].lora.B.any()


@pytest.mark.parametrize("recipe", ["bert", "vit", "llama", "lora"])
@pytest.mark.parametrize("names", [("down", "up"), ("down_proj", "up_proj"), ("fc1", "fc2")])
def test_a_bottleneck_called_adapter_is_refused(recipe: str, names: tuple[str, str]) -> None:
    block = Beside(layers(names), "adapter")
    if recipe == "lora":
        block.add_module("lora", Raw())
    with pytest.raises(PlanError, match=r"adapter\.\w+\.weight.*belongs to an adapter, which no recipe knows"):
        zeta.plan(model_with(block), recipe)


def test_an_adapter_by_its_class_is_refused() -> None:
    class HoulsbyAdapter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.reduce, self.expand = nn.LayerNorm(D), nn.Linear(D, RANK), nn.Linear(RANK, D)

    with pytest.raises(PlanError, match=r"extra\.expand\.weight.*belongs to an adapter"):
        zeta.plan(model_with(Beside(HoulsbyAdapter(), "extra")), "bert")


def test_what_is_no_adapter() -> None:
    """A compressed attention, a connector that widens, a state space and an MLP whose layers are called a and b."""
    attention = {"wq_a": nn.Linear(D, 8), "wq_b": nn.Linear(8, D), "wkv_a": nn.Linear(D, 8), "wo": nn.Linear(D, D)}
    adapter = nn.ModuleDict({"fc1": nn.Linear(D, 2 * D), "fc2": nn.Linear(2 * D, 2 * D)})
    mlp = nn.ModuleDict({"a": nn.Linear(D, 2 * D), "b": nn.Linear(2 * D, D)})
    model = nn.ModuleDict({"attention": nn.ModuleDict(attention), "adapter": adapter, "mlp": mlp, "out": Raw()})
    assert not {"adapter", "adapter_a", "adapter_b"} & {role.value for role in zeta.roles_of(model).values()}
