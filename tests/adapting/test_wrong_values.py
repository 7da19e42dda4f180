"""What would give wrong values without a word: it is refused before anything is written, or comes out right."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import zeta
from tests.helpers.checkpoints import built, llama, tokens, transformers, values
from zeta import Average, Experts, Layers, Mean, Rows, Rule, Rules, Split
from zeta.adapting import adapt_folder
from zeta.errors import PlanError, SpecError, TargetError
from zeta.initializers import Normal, Zeros


class Language(nn.Module):
    """An embedding and an output layer with a bias."""

    def __init__(self, words: int, *, tied: bool = False) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(words, 6), nn.Linear(6, words)
        if tied:
            self.head.weight = self.embedding.weight


def unchanged(model: nn.Module, before: dict[str, Any]) -> bool:
    return all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# -- memory ----------------------------------------------------------------------------------------------------------


def test_a_source_in_the_memory_that_is_written_is_refused() -> None:
    """More rows than are read at a time, so that the last would be read after the first were written."""
    model = nn.Embedding(1024, 4096)
    before = model.weight.detach().clone()
    order = list(range(1023, -1, -1))
    with pytest.raises(TargetError, match="weight: has the memory of the source's weight, which is read for weight"):
        zeta.adapt_(model, model, seed=0, grow={"weight": Rows(keep=order)})
    assert torch.equal(model.weight, before)
    zeta.adapt_(model, copy.deepcopy(model), seed=0, grow={"weight": Rows(keep=order)})
    assert torch.equal(model.weight, before[order])


def test_layers_that_change_places_in_one_model_are_refused() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    before = values(model)
    with pytest.raises(TargetError, match=r"a\.weight: has the memory of the source's a\.weight, which is read for b"):
        zeta.adapt_(model, model, seed=0, name_map={"a": "b", "b": "a"})
    assert unchanged(model, before)
    zeta.adapt_(model, model, seed=0)
    assert unchanged(model, before)


def test_a_new_model_that_holds_layers_of_the_old_one_is_refused() -> None:
    old = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    new = nn.Sequential(old[1], nn.Linear(4, 4))
    with pytest.raises(TargetError, match=r"0\.weight: has the memory of the source's 1\.weight"):
        zeta.adapt_(new, old, seed=0)


def test_overlapping_memory_is_refused_before_anything_is_written() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    model.register_buffer("table", torch.zeros(1, 3, dtype=torch.int64).expand(4, 3))
    before = values(model)
    state = {**nn.Sequential(nn.Linear(3, 3)).state_dict(), "table": torch.arange(12).view(4, 3)}
    with pytest.raises(TargetError, match="table: has overlapping memory"):
        zeta.adapt_(model, state, seed=0)
    assert unchanged(model, before)


def test_values_that_a_dtype_cannot_hold_are_an_error(tmp_path: Path) -> None:
    large = {"weight": torch.full((3, 2), 1e6)}
    with pytest.raises(TargetError, match="weight of the checkpoint has 1e\\+06, which float16 cannot hold"):
        zeta.adapt_(nn.Embedding(3, 2).half(), large, seed=0)
    save_file(large, tmp_path / "one.safetensors")
    with pytest.raises(TargetError, match="weight of the checkpoint has"):
        adapt_folder(nn.Embedding(3, 2), tmp_path / "one.safetensors", tmp_path / "new", seed=0, dtype=torch.float16)
    new = nn.Embedding(3, 2).half()
    zeta.adapt_(new, {"weight": torch.tensor([[65504.5, -torch.inf]]).expand(3, 2)}, seed=0)
    assert new.weight[0].tolist() == [65504.0, -torch.inf]


def test_what_is_drawn_may_be_beside_what_is_read_from_the_model() -> None:
    model = Language(5)
    before = values(model)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "head.weight"}
    zeta.adapt_(model, state, Rules([Rule("head.weight", Zeros())]), seed=0)
    assert not model.head.weight.any()
    assert unchanged(model, {**before, "head.weight": model.head.weight})


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_another_order_of_rows_must_be_said_for_everything_of_that_size(tied: bool) -> None:
    torch.manual_seed(0)
    old, new, order = Language(5, tied=tied), Language(5, tied=tied), [4, 2, 3, 0, 1]
    before = values(new)
    with pytest.raises(PlanError, match=r"head\.bias: has as many elements along a dimension as embedding\.weight, wh"):
        zeta.adapt_(new, old, seed=0, grow={"embedding.weight": Rows(keep=order)})
    assert unchanged(new, before)
    zeta.adapt_(new, old, seed=0, grow={"embedding.weight": Rows(keep=order), "head.*": Rows(keep=order)})
    assert torch.equal(new.head.weight, old.head.weight[order])
    assert torch.equal(new.head.bias, old.head.bias[order])
    report = zeta.adapt_(new, old, seed=0, grow={"head.bias": Rows(), "*.weight": Rows(keep=order)})
    assert torch.equal(new.head.bias, old.head.bias)
    assert [*report.loaded] == ["head.bias"]
    for keep, message in (([0, 1], "embedding.weight, whose rows"), ([7], "keep names row 7, but")):
        with pytest.raises(PlanError, match=message):
            zeta.adapt_(new, old, seed=0, grow={"embedding.weight": Rows(Zeros(), keep=keep)})


def test_what_follows_two_tables_that_differ_must_be_named() -> None:
    def tables(words: int) -> nn.ModuleDict:
        parts: dict[str, nn.Module] = {name: nn.Embedding(words, 6) for name in ("encoder", "decoder")}
        return nn.ModuleDict({**parts, "head": nn.Linear(6, words, bias=False)})

    torch.manual_seed(0)
    old, new, order = tables(5), tables(7), [4, 3, 2, 1, 0]
    grow = {"encoder.weight": Rows(Zeros()), "decoder.weight": Rows(Zeros(), keep=order)}
    with pytest.raises(PlanError, match=r"head\.weight: changes from 5 to 7, as several do whose Rows differ"):
        zeta.adapt_(new, old, seed=0, grow=grow)
    zeta.adapt_(new, old, seed=0, grow={**grow, "head.weight": Rows(Zeros(), keep=order)})
    assert torch.equal(new["head"].weight[:5], old["head"].weight[order])
    both = {"encoder.weight": Rows(Zeros()), "decoder.weight": Rows(Zeros())}
    zeta.adapt_(new, old, seed=0, grow=both)
    assert torch.equal(new["head"].weight[:5], old["head"].weight)


@pytest.mark.parametrize("how", [Mean(), Average({5: [0]}, rest=Mean()), Normal(1.0)])
def test_a_new_padding_row_is_zero(how: Any) -> None:
    torch.manual_seed(0)
    rows, new = torch.randn(5, 6), nn.Embedding(8, 6, padding_idx=6)
    zeta.adapt_(new, {"weight": rows}, seed=0, grow={"weight": Rows(how)})
    other = nn.Embedding(8, 6)
    zeta.adapt_(other, {"weight": rows}, seed=0, grow={"weight": Rows(how)})
    assert not new.weight[6].any()
    assert torch.equal(new.weight[[*range(6)]], other.weight[[*range(6)]])
    assert bool(new.weight[7].any())


def test_complex_rows_keep_both_parts_in_means() -> None:
    rows = torch.complex(torch.arange(6.0).view(3, 2), -torch.arange(6.0).view(3, 2))
    new = nn.Embedding(5, 2, dtype=torch.complex64)
    zeta.adapt_(new, {"weight": rows}, seed=0, grow={"weight": Rows(Average({3: [0, 1]}, rest=Mean(0.0)))})
    assert torch.equal(new.weight[3:].detach(), torch.stack([rows[:2].mean(0), rows.mean(0)]))


def test_scalars_are_loaded_beside_rows() -> None:
    old, new = nn.BatchNorm1d(4), nn.BatchNorm1d(6)
    old.num_batches_tracked.add_(3)  # type: ignore[union-attr, operator]
    zeta.adapt_(new, old, seed=0, grow={"*": Rows(Zeros())})
    assert int(new.num_batches_tracked) == 3  # type: ignore[arg-type]


def test_the_mean_of_no_rows_is_refused_before_anything_is_written() -> None:
    new = nn.ParameterDict({"a": nn.Parameter(torch.ones(2)), "b": nn.Parameter(torch.ones(2))})
    with pytest.raises(PlanError, match="b: the checkpoint has no rows, of which Mean would be the mean"):
        zeta.adapt_(new, {"a": torch.zeros(2), "b": torch.empty(0)}, seed=0, grow={"b": Rows(Mean())})
    assert bool(new["a"].all())


# -- what is promised ------------------------------------------------------------------------------------------------


def perceptron(hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, hidden), nn.ReLU(), nn.Linear(hidden, 3))


@pytest.mark.parametrize(("law", "expected"), [(Normal(1.0), "changed"), (Zeros(), "equal up to rounding")])
def test_new_inputs_of_a_layer_change_its_outputs_unless_they_are_zero(law: Any, expected: str) -> None:
    torch.manual_seed(0)
    old, new = perceptron(8), perceptron(12)
    report = zeta.adapt_(new, old, seed=0, grow={"0.weight": Rows(law)})
    assert report.expected == expected
    assert report.preserved(torch.randn(5, 4), old).ok


class Tied(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, width), nn.Linear(width, 5, bias=False)
        self.head.weight = self.embedding.weight


@pytest.mark.parametrize(
    ("make", "name", "message"),
    [
        (Tied, "embedding.weight", "dimension 1 is that of inputs for one of its layers, and of outputs for another"),
        (lambda width: nn.Conv2d(4, width, 3, groups=2), "weight", "dimension 0 has several maps or groups"),
        (lambda width: nn.LSTM(3, 2, proj_size=1) if width == 4 else nn.LSTM(3, 4, proj_size=1), "*", "several maps"),
    ],
)
def test_units_that_split_would_mix_are_refused(make: Any, name: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        zeta.adapt_(make(8), make(4), seed=0, grow={name: Rows(Split())})


def test_a_depthwise_convolution_is_split() -> None:
    def net(width: int) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, width, 3), nn.Conv2d(width, width, 3, groups=width), nn.Conv2d(width, 2, 1))

    torch.manual_seed(0)
    old, new = net(4), net(8)
    report = zeta.adapt_(new, old, seed=0, grow={"0.weight": Rows(Split())})
    assert report.preserved(torch.randn(2, 3, 8, 8), old).ok


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"allow": 3}, "a name glob is a text, got 3"), ({"name_map": {"nothing": "x"}}, "name_map names what this part")],
)
def test_arguments_that_make_no_sense(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(zeta.ZetaError, match=message):
        zeta.adapt_(nn.Linear(2, 2), nn.Linear(2, 2), seed=0, **arguments)
    with pytest.raises(SpecError, match="keep must be a slice with step 1"):
        Rows(keep=slice("a", None))


# -- experts ---------------------------------------------------------------------------------------------------------


class Gated(nn.Module):
    def __init__(self, width: int = 8, inner: int = 16) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down = nn.Linear(inner, width, bias=False)


class Mixture(nn.Module):
    def __init__(self, count: int) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(8, count, bias=False), nn.ModuleList(Gated() for _ in range(count))


DRAWN = Rules([Rule("*", Normal(0.1), optional=True)])


@pytest.mark.parametrize("count", [4, 16])
def test_the_gate_of_a_dense_mlp_is_no_router(count: int) -> None:
    """They have one name; with as many experts as units, also one shape."""
    old, new = nn.ModuleDict({"mlp": Gated()}), nn.ModuleDict({"mlp": Mixture(count)})
    full = nn.ModuleDict({"mlp": Mixture(count)})
    report = zeta.adapt_(new, old, DRAWN, seed=0, grow={"mlp": Experts(to=count)})
    zeta.init_(full, DRAWN, seed=0)
    assert report.initialized == ("mlp.gate.weight",)
    assert torch.equal(new["mlp"].gate.weight, full["mlp"].gate.weight)  # type: ignore[union-attr]
    assert torch.equal(new["mlp"].experts[1].gate.weight, old["mlp"].gate.weight)  # type: ignore[index, union-attr]


class Packed(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(width, 3), nn.Module()
        self.experts.w1 = nn.Parameter(torch.zeros(3, width, inner))
        self.experts.w2 = nn.Parameter(torch.zeros(3, inner, width))


def test_packed_matrices_that_are_all_square_are_refused() -> None:
    def dense(width: int, inner: int) -> nn.ModuleDict:
        matrices = {"w1": nn.Linear(width, inner, bias=False), "w2": nn.Linear(inner, width, bias=False)}
        return nn.ModuleDict({"mlp": nn.ModuleDict(matrices)})

    old, new = dense(8, 16), nn.ModuleDict({"mlp": Packed(8, 16)})
    zeta.adapt_(new, old, DRAWN, seed=0, grow={"mlp": Experts(to=3)})
    assert torch.equal(new["mlp"].experts.w1[0], old["mlp"]["w1"].weight.T)  # type: ignore[index, union-attr]
    with pytest.raises(PlanError, match="w2: all matrices of the experts are square, so that it does not show"):
        zeta.adapt_(nn.ModuleDict({"mlp": Packed(8, 8)}), dense(8, 8), DRAWN, seed=0, grow={"mlp": Experts(to=3)})


SIZES: dict[str, Any] = {"num_experts_per_tok": 2, "moe_intermediate_size": 64, "norm_topk_prob": True}
DEEPSEEK: dict[str, Any] = {**SIZES, "n_group": 1, "topk_group": 1, "q_lora_rank": None, "kv_lora_rank": 16}
DEEPSEEK |= {"qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}


def deepseek(experts: int, dense: int = 0) -> Any:
    return llama(kind=transformers.DeepseekV3Config, n_routed_experts=experts, first_k_dense_replace=dense, **DEEPSEEK)


def test_shared_experts_are_one_mlp_beside_the_experts() -> None:
    kind = transformers.DeepseekV3ForCausalLM
    dense, four = built(kind, deepseek(4, dense=2)), built(kind, deepseek(4))
    new, plan = zeta.record(kind, deepseek(4))
    report = zeta.adapt_(new, dense, plan, seed=0, grow={"*.mlp": Experts(to=4)})
    assert torch.equal(new.model.layers[0].mlp.experts.down_proj[3], dense.model.layers[0].mlp.down_proj.weight)
    assert "model.layers.0.mlp.shared_experts.up_proj.weight" in report.initialized
    assert report.expected == "changed"
    new, plan = zeta.record(kind, deepseek(6))
    zeta.adapt_(new, four, plan, seed=0, grow={"*.mlp": Experts(to=6)})
    one, two = four.model.layers[1].mlp, new.model.layers[1].mlp
    assert torch.equal(two.experts.gate_up_proj, one.experts.gate_up_proj[[0, 1, 2, 3, 0, 1]])
    assert torch.equal(two.gate.weight, one.gate.weight[[0, 1, 2, 3, 0, 1]])
    assert torch.equal(two.shared_experts.up_proj.weight, one.shared_experts.up_proj.weight)


def test_what_more_experts_promise_and_that_there_are_not_fewer() -> None:
    def mixture(count: int) -> Any:
        return llama(kind=transformers.MixtralConfig, num_local_experts=count, num_experts_per_tok=2)

    kind = transformers.MixtralForCausalLM
    old = built(kind, mixture(4))
    for count, expected in ((4, "equal up to rounding"), (6, "changed")):
        new, plan = zeta.record(kind, mixture(count))
        report = zeta.adapt_(new, old, plan, seed=0, grow={"*.mlp": Experts(to=count)})
        assert report.expected == expected
        assert report.preserved({"input_ids": tokens()}, old).ok
    new, plan = zeta.record(kind, mixture(3))
    with pytest.raises(PlanError, match=r"model\.layers\.0\.mlp: the checkpoint has 4 experts, more than to=3"):
        zeta.adapt_(new, old, plan, seed=0, grow={"*.mlp": Experts(to=3)})


# -- layers ----------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    def __init__(self, shared: nn.Parameter) -> None:
        super().__init__()
        self.fc1, self.fc2, self.shared = nn.Linear(4, 8), nn.Linear(8, 4), shared

    def forward(self, x: Tensor) -> Tensor:
        return x + self.fc2(torch.relu(self.fc1(x * self.shared)))


class Stack(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        shared = nn.Parameter(torch.rand(4))
        self.layers = nn.ModuleList(Block(shared) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


@pytest.mark.parametrize("how", ["identity", "stack"])
def test_a_parameter_that_all_blocks_share(how: Any) -> None:
    torch.manual_seed(0)
    old, new = Stack(2), Stack(4)
    report = zeta.adapt_(new, old, DRAWN, seed=0, grow={"layers": Layers(to=4, how=how)})
    assert torch.equal(new.layers[3].shared, old.layers[0].shared)
    assert report.preserved(torch.randn(4, 4), old).ok


@pytest.mark.parametrize(
    "name_map",
    [
        {"layers": "blocks"},
        lambda name: name.replace("layers.", "blocks."),
        {f"layers.{place}": f"blocks.{place}" for place in range(4)},
    ],
)
def test_longer_lists_with_other_names(name_map: Any) -> None:
    torch.manual_seed(0)
    old, new = Stack(2), Stack(4)
    state = {name.replace("layers.", "blocks."): tensor for name, tensor in old.state_dict().items()}
    report = zeta.adapt_(new, state, DRAWN, seed=0, grow={"layers": Layers(to=4)}, name_map=name_map)
    assert torch.equal(new.layers[2].fc1.weight, old.layers[1].fc1.weight)  # type: ignore[union-attr]
    assert report.preserved(torch.randn(4, 4), old).difference == 0


# -- what load_state_dict does beyond copying --------------------------------------------------------------------------


class Stateful(nn.Linear):
    def get_extra_state(self) -> dict[str, int]:
        return {"scale": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.state = state


class Converting(nn.Linear):
    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        state_dict[prefix + "weight"] = state_dict[prefix + "weight"].t()
        super()._load_from_state_dict(state_dict, prefix, *args)


def _hooked() -> nn.Module:
    layer = nn.Linear(4, 4)
    layer.register_load_state_dict_pre_hook(halving)
    return layer


def halving(module: nn.Module, state: dict[str, Tensor], *_: Any) -> None:
    state["0.weight"] = state["0.weight"] / 2


@pytest.mark.parametrize(
    ("layer", "match"),
    [
        (lambda: Stateful(4, 4), "0: set_extra_state would get what get_extra_state gave, which is not loaded"),
        (lambda: Converting(4, 4), "0: Converting._load_from_state_dict may convert it"),
        (_hooked, "0: the hook halving may convert it"),
    ],
)
def test_what_load_state_dict_would_do_beyond_copying_is_said(
    layer: Callable[[], nn.Module], match: str, tmp_path: Path
) -> None:
    model, state = nn.Sequential(layer()), nn.Sequential(layer()).state_dict()
    with pytest.warns(zeta.ZetaNotice, match=match):
        zeta.adapt_(model, state, seed=0)
    assert torch.equal(model[0].weight, state["0.weight"])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        adapt_folder(nn.Sequential(layer()).to("meta"), state, tmp_path / "out", seed=0)
    assert any(match in str(one.message) for one in said)


def test_modules_of_torch_convert_nothing() -> None:
    zeta.adapt_(nn.BatchNorm1d(4), nn.BatchNorm1d(4).state_dict(), seed=0)  # a notice would be an error
