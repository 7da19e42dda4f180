"""What would give wrong values without a word: it is refused before anything is written, or comes out right."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from tests.helpers.checkpoints import values
from zeta import Rows, Rule, Rules
from zeta.errors import TargetError
from zeta.initializers import Zeros


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
