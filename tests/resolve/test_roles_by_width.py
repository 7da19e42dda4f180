"""Roles that names alone would get wrong: widths decide which weight leads out of an MLP, names which is the gate."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta import roles_of
from zeta.errors import PlanError
from zeta.initializers import Blocks, Normal, TruncatedNormal

D, F = 32, 64


def linear(into: int, out: int) -> nn.Linear:
    return nn.Linear(into, out, bias=False)


def attention(names: tuple[str, ...] = ("wq", "wk", "wv", "wo")) -> nn.ModuleDict:
    return nn.ModuleDict({name: linear(D, D) for name in names})


def model_with(mlp: nn.Module, attended: nn.Module | None = None, name: str = "mlp") -> nn.ModuleDict:
    block = nn.ModuleDict({"attn": attended or attention(), name: mlp})
    return nn.ModuleDict(
        {"emb": nn.Embedding(9, D), "norm": nn.LayerNorm(D), "layers": nn.ModuleList([block]), "head": linear(D, 9)}
    )


def gated(gate: str, up: str, down: str, order: str = "gud", hidden: int = F) -> nn.ModuleDict:
    """An MLP whose layers have these names, registered in this order."""
    layers = {"g": (gate, D, hidden), "u": (up, D, hidden), "d": (down, hidden, D)}
    return nn.ModuleDict({layers[each][0]: linear(*layers[each][1:]) for each in order})


def roles(model: nn.Module, within: str) -> dict[str, str]:
    prefix = f"layers.0.{within}."
    return {
        name.removeprefix(prefix).removesuffix(".weight"): role.value
        for name, role in roles_of(model).items()
        if name.startswith(prefix)
    }


@pytest.mark.parametrize("order", ["gud", "udg", "ugd", "dgu"])
@pytest.mark.parametrize(
    ("gate", "up", "down"),
    [
        *(("w_gate", "w_up", "w_down"), ("gate_fc", "up_fc", "proj"), ("c_gate", "c_fc", "c_proj")),
        *(
            ("w1", "w2", "w3"),
            ("w1", "w3", "w2"),
            ("fc1", "fc2", "fc3"),
            ("wg", "wi", "wo"),
            ("linear_g", "linear_v", "out"),
        ),
        *(("fc_gate", "fc_in", "fc_out"), ("gate_proj", "up_proj", "down_proj"), ("w1", "v", "w2")),
    ],
)
def test_widths_say_what_leads_out_and_names_which_is_the_gate(gate: str, up: str, down: str, order: str) -> None:
    model = model_with(gated(gate, up, down, order))
    assert roles(model, "mlp") == {gate: "mlp_gate", up: "mlp_up", down: "mlp_down"}
    for bare in (model["layers"][0]["mlp"], nn.ModuleDict({"ffn": model["layers"][0]["mlp"]})):  # type: ignore[index]
        assert roles_of(nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"mlp": bare})])}))


def test_without_a_stream_the_one_of_three_leads_out() -> None:
    model = nn.ModuleDict({"layers": nn.ModuleList([nn.ModuleDict({"ffn": gated("w1", "w2", "w3")})])})
    assert roles(model, "ffn") == {"w1": "mlp_gate", "w2": "mlp_up", "w3": "mlp_down"}


@pytest.mark.parametrize("names", [("w1", "w2", "w3"), ("fc1", "fc2", "fc3")])
def test_three_square_weights_with_numbers_for_names_have_no_role(names: tuple[str, str, str]) -> None:
    model = model_with(nn.ModuleDict({name: linear(D, D) for name in names}))
    assert roles(model, "mlp") == {}
    with pytest.raises(PlanError, match=rf"mlp\.{names[1]}\.weight.*may lead to the residual stream"):
        zeta.plan(model, "gpt2")
    square = model_with(gated("gate", "up", "down", hidden=D))
    assert roles(square, "mlp") == {"gate": "mlp_gate", "up": "mlp_up", "down": "mlp_down"}


def test_two_that_lead_in_with_names_that_say_nothing_have_no_gate() -> None:
    model = model_with(gated("alpha", "omega", "down"))
    assert roles(model, "mlp") == {"alpha": "mlp_up", "omega": "mlp_up", "down": "mlp_down"}
    with pytest.raises(PlanError, match=r"MLP gates.*matches nothing"):
        zeta.plan(model, "torchtitan_llama3")


@pytest.mark.parametrize(
    ("name", "up_first"),
    [
        *(("gate_up_proj", False), ("up_gate_proj", True), ("up_and_gate", True), ("w13", False), ("w31", True)),
        *(("w3w1", True), ("w12", False), ("gateup", False), ("fc_up_gate", True)),
    ],
)
@pytest.mark.parametrize("recipe", ["torchtitan_llama3", "olmo"])
def test_the_order_of_packed_projections_is_that_of_their_name(name: str, up_first: bool, recipe: str) -> None:
    model = model_with(nn.ModuleDict({name: linear(D, 2 * F), "down_proj": linear(F, D)}))
    options = {"scheme": "llama_depth"} if recipe == "olmo" else {}
    found = zeta.plan(model, recipe, **options)[f"layers.0.mlp.{name}.weight"].initializer
    bounds = {"cutoff": 3} if recipe == "olmo" else {"low": -2, "high": 2}
    gate, up = (TruncatedNormal(std, **bounds) for std in (0.02, 0.02 / math.sqrt(2)))
    assert found == (Blocks(up, gate) if up_first else Blocks(gate, up))


@pytest.mark.parametrize(
    "names",
    [
        *(("tokeys", "toqueries", "tovalues", "unifyheads"), ("k_fn", "q_fn", "v_fn", "o_fn")),
        *(
            ("head_k", "head_q", "head_v", "head_o"),
            ("key_fn", "query_fn", "value_fn", "out"),
            ("map_k", "map_q", "map_v", "o"),
        ),
    ],
)
def test_queries_and_keys_by_their_names_in_any_order(names: tuple[str, str, str, str]) -> None:
    key, query, value, out = names
    found = roles(model_with(gated("gate", "up", "down"), attention(names)), "attn")
    assert found == {key: "key", query: "query", value: "value", out: "attention_output"}
    mlp = nn.ModuleDict({"wi": linear(D, F), "wo": linear(F, D)})
    plan = zeta.plan(model_with(mlp, attention(names)), "t5", d_kv=8, d_model=D)
    assert plan[f"layers.0.attn.{query}.weight"].initializer == Normal((D * 8) ** -0.5)
    assert plan[f"layers.0.attn.{key}.weight"].initializer == Normal(D**-0.5)


def test_an_attention_whose_names_hint_at_another_order_is_not_guessed() -> None:
    found = roles(model_with(gated("gate", "up", "down"), attention(("my_key_x", "my_query_y", "a", "b"))), "attn")
    assert "query" not in found.values()


class Indexed(nn.Module):
    """Stacked experts that are indexed: what their matrices map does not follow from the source."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Parameter(torch.empty(4, D, F)), nn.Parameter(torch.empty(4, F, D))

    def forward(self, x: Tensor, chosen: Tensor) -> Tensor:
        hidden = (x[:, None] @ self.w1[chosen]).relu()
        return (hidden @ self.w2[chosen])[:, 0]


@pytest.mark.parametrize("kind", ["experts", "convolution"])
def test_gpt2_refuses_weights_of_any_shape_whose_role_is_not_known(kind: str) -> None:
    shared = nn.ModuleDict({"fc1": linear(D, F), "fc2": linear(F, D)})
    moe = nn.ModuleDict({"router": linear(D, 4), "experts": Indexed(), "shared_expert": shared})
    model = model_with(moe, name="moe") if kind == "experts" else model_with(shared)
    if kind == "convolution":
        pointwise = {"pointwise_conv1": nn.Conv1d(D, F, 1), "pointwise_conv2": nn.Conv1d(F, D, 1)}
        model["layers"][0]["conv"] = nn.ModuleDict(pointwise)  # type: ignore[index,operator]
    name = r"moe\.experts\.w2" if kind == "experts" else r"conv\.pointwise_conv2\.weight"
    with pytest.raises(PlanError, match=rf"layers\.0\.{name} .*may lead to the residual stream"):
        zeta.plan(model, "gpt2")


def test_the_width_of_another_tower_says_nothing() -> None:
    """The hidden width of the convolutions' MLPs is that of the text's stream."""
    audio = nn.ModuleDict({"ffn": nn.ModuleDict({"linear1": linear(16, D), "linear2": linear(D, 16)})})
    model = nn.ModuleDict({"text": model_with(gated("gate", "up", "down")), "audio": nn.ModuleList([audio])})
    found = {name: role.value for name, role in roles_of(model).items()}
    assert found["audio.0.ffn.linear2.weight"] == "mlp_down"
    assert found["audio.0.ffn.linear1.weight"] == "mlp_up"
    assert found["text.layers.0.mlp.down.weight"] == "mlp_down"
