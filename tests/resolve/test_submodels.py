"""Parts of a planned model, as pipeline stages hold them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.sharded import Awkward
from zeta import PlanError, SpecError
from zeta.resolve.submodels import Naming


@pytest.fixture(scope="module")
def reference() -> tuple[Awkward, zeta.Plan]:
    model, plan = zeta.record(Awkward)
    zeta.materialize_(model, plan, seed=2)
    return model, plan


def blank(model: nn.Module) -> nn.Module:
    """A copy on meta."""
    return copy.deepcopy(model).to("meta")


class Stage(nn.Module):
    """The second block, the norm and the head, with the names of the whole model."""

    def __init__(self, whole: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleDict({"1": whole.blocks[1]})
        self.norm, self.head = whole.norm, whole.head


def check(stage: nn.Module, whole: nn.Module, naming: Naming) -> None:
    values: dict[str, Tensor] = whole.state_dict()
    for name, tensor in stage.state_dict().items():
        assert torch.equal(tensor, values[naming(name)]), name


def test_a_stage_that_keeps_the_names(reference: tuple[Awkward, zeta.Plan]) -> None:
    """The head is tied to an embedding that is elsewhere, whose name decides the values."""
    whole, plan = reference
    stage = Stage(blank(whole))
    report = zeta.materialize_(stage, plan, seed=2, prefix="")
    assert report.ok
    check(stage, whole, Naming())
    assert torch.equal(stage.head.weight, whole.embed.weight)
    assert zeta.verify(stage, plan, seed=2, prefix="").ok
    assert len(list(report)) == len(list(stage.parameters()))


@pytest.mark.parametrize("prefix", ["blocks.1", "blocks.1."])
def test_a_module_alone(prefix: str, reference: tuple[Awkward, zeta.Plan]) -> None:
    whole, plan = reference
    block = blank(whole.blocks[1])
    zeta.materialize_(block, plan, seed=2, prefix=prefix)
    check(block, whole, Naming(prefix=prefix))
    assert zeta.verify(block, plan, seed=2, prefix=prefix).ok
    with torch.no_grad():
        block.up.bias[3] += 1  # type: ignore[index,operator,union-attr]
    [difference] = zeta.verify(block, plan, seed=2, prefix=prefix).differences
    assert difference.name == "blocks.1.up.bias"
    zeta.apply_(block, plan, seed=2, prefix=prefix, only="*.up.*")
    check(block, whole, Naming(prefix=prefix))


@pytest.mark.parametrize(
    "name_map",
    [
        {"0": "blocks.1", "1": "norm", "2.weight": "head.weight"},
        lambda name: ("blocks.1", "norm", "head")[int(name[0])] + name[1:],
    ],
)
def test_a_stage_with_names_of_its_own(name_map: Any, reference: tuple[Awkward, zeta.Plan]) -> None:
    whole, plan = reference
    stage = blank(nn.Sequential(whole.blocks[1], whole.norm, whole.head))
    zeta.materialize_(stage, plan, seed=2, name_map=name_map)
    check(stage, whole, Naming(name_map=name_map))


def test_the_longest_name_wins_and_whole_names_only() -> None:
    naming = Naming(name_map={"a": "x", "a.b": "y"})
    assert [naming(name) for name in ("a.b.w", "a.c", "ab", "a")] == ["y.w", "x.c", "ab", "x"]


def test_what_the_plan_does_not_name_is_told(reference: tuple[Awkward, zeta.Plan]) -> None:
    whole, plan = reference
    stage = Stage(blank(whole))
    stage.other = nn.Linear(2, 2, device="meta")
    with pytest.raises(PlanError, match=r"(?s)the model has what the plan does not name:.*other\.weight"):
        zeta.materialize_(stage, plan, prefix="", seed=0)
    with pytest.raises(PlanError, match=r"names nothing of this part .* 'other\.blocks\.1\."):
        zeta.materialize_(stage, plan, prefix="other", seed=0)
    with pytest.raises(PlanError, match=r"(?s)the plan names what the model does not have.*other\.weight"):
        zeta.materialize_(stage, plan, seed=0)


def test_a_part_without_its_prefix_is_told_where_it_may_be(reference: tuple[Awkward, zeta.Plan]) -> None:
    whole, plan = reference
    message = (
        "^this plan is not for this model: it has the names of a part of the planned one; its "
        r"{} is blocks\.0\.{} with prefix='blocks\.0', or blocks\.1\.{} with prefix='blocks\.1'$"
    )
    first = next(iter(whole.blocks[1].state_dict()))
    for verb in (zeta.apply_, zeta.verify):
        with pytest.raises(PlanError, match=message.replace("{}", first)):
            verb(copy.deepcopy(whole.blocks[1]), plan, seed=2)
    with pytest.raises(PlanError, match=r"(?s)model does not have:.*\nif it is a part .* same names: prefix=''$"):
        zeta.apply_(Stage(copy.deepcopy(whole)), plan, seed=2)
    with pytest.raises(PlanError, match="shapes differ"):
        zeta.apply_(nn.ModuleDict({"norm": nn.RMSNorm(5)}), plan, seed=2)


def test_a_part_of_many_is_told_a_few_places() -> None:
    whole = nn.Sequential(*(nn.Linear(2, 2) for _ in range(9)))
    plan = zeta.plan(whole, zeta.Rules([zeta.Rule("*", zeta.initializers.Ones())]))
    with pytest.raises(PlanError, match=r"or 2\.weight with prefix='2', and so on for 9 places$"):
        zeta.apply_(whole[3], plan, seed=0)


def test_what_only_leaves_out_is_not_kept() -> None:
    model = nn.ModuleDict({"a": nn.BatchNorm1d(3), "b": nn.Linear(3, 3)})
    model.register_buffer("steps", torch.arange(3))
    plan = zeta.plan(model, zeta.Rules([zeta.Rule("*", zeta.initializers.Ones())]))
    assert zeta.apply_(model, plan, 0).kept == ("steps",)
    assert zeta.apply_(model, plan, 0, only="b.*").kept == ()
    assert zeta.apply_(model, plan, 0, only=["b.*", "steps"]).kept == ("steps",)
    assert zeta.verify(model, plan, 0, only="b.*").kept == ()


def test_names_that_collide_are_told(reference: tuple[Awkward, zeta.Plan]) -> None:
    _, plan = reference
    with pytest.raises(PlanError, match=r"(?s)the same name:.*norm\.weight: 0\.weight and 1\.weight"):
        zeta.apply_(nn.Sequential(nn.RMSNorm(9), nn.RMSNorm(9)), plan, name_map={"0": "norm", "1": "norm"}, seed=0)


def test_a_map_that_is_idle_is_told(reference: tuple[Awkward, zeta.Plan]) -> None:
    """A slip in a name would else give the second block the values of the first, without a word."""
    whole, plan = reference
    stage = nn.ModuleDict({"blocks": nn.ModuleList([copy.deepcopy(whole.blocks[1])])})
    with pytest.raises(PlanError, match=r"(?s)name_map names what this part .* not have:\s+- block\.0\s+- blocks\.00$"):
        zeta.apply_(
            stage, plan, name_map={"blocks.0": "blocks.1", "block.0": "blocks.1", "blocks.00": "blocks.1"}, seed=0
        )


def test_what_is_kept_is_told_of_the_part_alone() -> None:
    whole = nn.ModuleDict({"first": nn.Linear(3, 3), "second": nn.Linear(3, 3)})
    keep = zeta.Rule("*.bias", zeta.initializers.Keep())
    plan = zeta.plan(whole, zeta.Rules([keep, zeta.Rule("*", zeta.initializers.Ones())]))
    assert zeta.apply_(whole, plan, seed=0).kept == ("first.bias", "second.bias")
    assert zeta.apply_(whole["second"], plan, prefix="second", seed=0).kept == ("second.bias",)
    assert zeta.verify(whole["second"], plan, seed=0, prefix="second").kept == ("second.bias",)


def test_nonsense_is_refused(reference: tuple[Awkward, zeta.Plan]) -> None:
    whole, plan = reference
    with pytest.raises(SpecError, match="prefix must be a text"):
        zeta.apply_(whole, plan, prefix=3, seed=0)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="name_map must be a function"):
        zeta.apply_(whole, plan, name_map="x", seed=0)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="name_map must go from name to name, got 'norm': 3"):
        zeta.apply_(whole, plan, name_map={"norm": 3}, seed=0)  # type: ignore[dict-item]
    with pytest.raises(SpecError, match=r"the whole model's name of 'table', got None"):
        zeta.apply_(whole, plan, name_map=lambda name: None, seed=0)  # type: ignore[arg-type,return-value]
    with pytest.raises(SpecError, match="a folder has its own plan"):
        zeta.verify("folder", prefix="")
