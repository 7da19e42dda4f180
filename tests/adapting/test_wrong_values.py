"""What would give wrong values without a word: it is refused before anything is written, or comes out right."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from tests.helpers.checkpoints import values
from zeta import Average, Mean, Rows, Rule, Rules, Split
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


def test_values_that_a_dtype_cannot_hold_are_an_error() -> None:
    large = {"weight": torch.full((3, 2), 1e6)}
    with pytest.raises(TargetError, match="weight: the checkpoint has 1e\\+06, which float16 cannot hold"):
        zeta.adapt_(nn.Embedding(3, 2).half(), large, seed=0)
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
    zeta.adapt_(new, old, seed=0, grow={"head.bias": Rows(), "*.weight": Rows(keep=order)})
    assert torch.equal(new.head.bias, old.head.bias)


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
