"""A plan that writes only a part of a tensor: saved with the rest as the model has it, and verified in both parts."""

from __future__ import annotations

import copy
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file
from torch import Tensor, nn

import zeta
from zeta import Plan, Rule, Rules
from zeta.errors import PlanError, TargetError
from zeta.initializers import Blocks, Initializer, Keep, Normal, Orthogonal, Uniform, Zeros
from zeta.report.costs import cost_of
from zeta.resolve.entries import Entry, Section
from zeta.write.checkpoint import save as checkpoint
from zeta.write.shards import whole

SECTIONS = {
    "last rows": Section(dim=0, spans=((60, 70),)),
    "rows here and there": Section(dim=0, spans=((0, 3), (31, 32), (64, 69))),
    "columns": Section(dim=1, spans=((2, 5), (40, 41))),
    "everything": Section(dim=0, spans=((0, 70),)),
}
NORMAL = Normal(0.5)
LAWS: dict[str, Initializer] = {
    "normal": Normal(0.5),
    "orthogonal": Orthogonal(),
    "blocks": Blocks(Normal(1.0), Uniform(-1.0, 1.0)),
}


def model_of() -> nn.Module:
    torch.manual_seed(7)
    model = nn.Sequential(nn.Embedding(70, 50, padding_idx=65), nn.Linear(50, 70))
    model[1].weight = model[0].weight
    return model


def partial(model: nn.Module, section: Section, law: Initializer = NORMAL) -> Plan:
    """A plan that writes a part of the embedding, and the bias."""
    made = zeta.plan(model, Rules([Rule("1.bias", Zeros()), Rule("*", law)]))
    return Plan((replace(made.entries[0], section=section), *made.entries[1:]))


def outside(section: Section, values: Tensor) -> bytes:
    """The kept elements in row-major order, by a mask."""
    mask = torch.ones(values.shape, dtype=torch.bool)
    for begin, end in section.spans:
        mask.narrow(section.dim, begin, end - begin).fill_(False)
    return values[mask].numpy().tobytes()


def flip(path: Path, name: str, index: tuple[int, int]) -> None:
    data = bytearray(path.read_bytes())
    length = int.from_bytes(data[:8], "little")
    begin = json.loads(data[8 : 8 + length])[name]["data_offsets"][0]
    data[8 + length + begin + 4 * (50 * index[0] + index[1])] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("where", SECTIONS)
@pytest.mark.parametrize("tile", [2**21, 1000])
def test_a_part_is_drawn_and_the_rest_is_the_models(
    law: str, where: str, tile: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "TILE_BYTES", tile)
    model = model_of()
    plan = partial(model, SECTIONS[where], LAWS[law])
    before = copy.deepcopy(model.state_dict())
    report = zeta.save(model, plan, tmp_path, seed=3)
    assert report.ok
    assert report["0.weight"].count <= SECTIONS[where].numel((70, 50))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    applied = copy.deepcopy(model)
    zeta.apply_(applied, plan, seed=3)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved.keys() == applied.state_dict().keys()
    assert all(torch.equal(value, applied.state_dict()[name]) for name, value in saved.items())
    kept = json.loads((tmp_path / "zeta.json").read_text())["kept_sha256"]
    assert kept == {"0.weight": hashlib.sha256(outside(SECTIONS[where], before["0.weight"])).hexdigest()}
    assert zeta.verify(tmp_path).ok


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ((0, 0), r"^0\.weight: found other bytes, expected the kept ones$"),
        ((62, 7), r"^0\.weight: 1 element\(s\) differ, first at \[62, 7\]: found .*, expected"),
    ],
)
def test_verify_finds_one_bit_in_either_part(index: tuple[int, int], message: str, tmp_path: Path) -> None:
    model = model_of()
    zeta.save(model, partial(model, SECTIONS["last rows"]), tmp_path, seed=3)
    flip(tmp_path / "model.safetensors", "0.weight", index)
    found = zeta.verify(tmp_path)
    assert [difference.name for difference in found.differences] == ["0.weight"]
    assert re.search(message, str(found.differences[0]))


def test_verify_finds_another_seed_and_another_digest(tmp_path: Path) -> None:
    model = model_of()
    zeta.save(model, partial(model, SECTIONS["columns"]), tmp_path, seed=3)
    manifest = json.loads((tmp_path / "zeta.json").read_text())
    for change in ({"seed": 4}, {"kept_sha256": {"0.weight": "0" * 64}}):
        (tmp_path / "zeta.json").write_text(json.dumps({**manifest, **change}))
        found = zeta.verify(tmp_path)
        assert {difference.name for difference in found.differences} == {"0.weight", "1.weight"}


def test_the_rest_must_have_values(tmp_path: Path) -> None:
    with torch.device("meta"):
        model = nn.Embedding(70, 50)
    plan = zeta.plan(model, Rules([Rule("*", Normal())]))
    plan = Plan((replace(plan.entries[0], section=SECTIONS["columns"]),))
    with pytest.raises(TargetError, match="weight: is kept in part, but is on the meta device"):
        zeta.save(model, plan, tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def test_a_plan_with_a_part_is_exact_in_json() -> None:
    plan = partial(model_of(), SECTIONS["rows here and there"])
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.digest == plan.digest
    assert again.digest != partial(model_of(), SECTIONS["columns"]).digest
    assert "[0:3, 31:32, 64:69]" in str(plan)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"section": {"dim": 2, "spans": [[0, 1]]}}, "no section"),
        ({"section": {"dim": 0, "spans": [[60, 71]]}}, "no section"),
        ({"section": {"dim": 0, "spans": [[5, 8], [7, 9]]}}, "no section"),
        ({"section": {"dim": 0, "spans": []}}, "no section"),
        ({"initializer": Keep().to_json()}, "keeps its values, and has a section"),
    ],
)
def test_parts_that_cannot_be(change: dict[str, Any], message: str) -> None:
    entry = partial(model_of(), SECTIONS["last rows"]).entries[0].to_json()
    with pytest.raises(PlanError, match=message):
        Entry.from_json({**entry, **change})


def test_a_difference_of_parts_is_shown() -> None:
    one, other = partial(model_of(), SECTIONS["last rows"]), partial(model_of(), SECTIONS["columns"])
    difference = zeta.diff(one, other)
    assert [[aspect.value for aspect in change.aspects] for change in difference] == [["section"]]
    assert "[60:70], the rest is kept" in str(difference)
    assert zeta.diff(one, one).same


def test_values_of_what_is_kept_are_refused() -> None:
    plan = partial(model_of(), SECTIONS["last rows"])
    full = zeta.values(zeta.plan(model_of(), Rules([Rule("1.bias", Zeros()), Rule("*", Normal(0.5))])), "0.weight", 3)
    assert torch.equal(zeta.values(plan, "0.weight", 3, region=slice(61, 68)), full[61:68])
    for region in (None, slice(59, 61), (0, 0)):
        with pytest.raises(PlanError, match=r"0\.weight: the plan has values for \[60:70\] alone"):
            zeta.values(plan, "0.weight", 3, region=region)


def test_what_is_drawn_costs_and_no_more() -> None:
    model = model_of()
    entry = partial(model, SECTIONS["last rows"]).entries[0]
    cost = cost_of(entry, whole(model[0].weight).parts)
    assert (cost.held, cost.computed) == (70 * 50 * 4, 10 * 50 * 4)


def test_a_recording_refuses_a_part() -> None:
    plan = partial(model_of(), SECTIONS["last rows"])

    def build() -> nn.Module:
        made = model_of()
        zeta.apply_(made, plan)
        return made

    with pytest.raises(TargetError, match=r"0\.weight: is written in its part \[60:70\] alone"):
        zeta.record(build)


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(2000, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.table(tokens).mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(("std", "names"), [(0.5, set()), (0.6, {"table.weight"})])
def test_a_check_compares_the_part_that_is_planned(std: float, names: set[str]) -> None:
    torch.manual_seed(0)
    model = Tokens()
    zeta.init_(model, Rules([Rule("head.*", Uniform(-0.1, 0.1)), Rule("*", Normal(std))]), seed=1)
    with torch.no_grad():
        model.table.weight[:1000] *= 7
    made = zeta.plan(model, Rules([Rule("head.*", Uniform(-0.1, 0.1)), Rule("*", Normal(0.5))]))
    plan = Plan((replace(made.entries[0], section=Section(dim=0, spans=((1000, 2000),))), *made.entries[1:]))
    report = zeta.check(model, torch.arange(64).view(8, 8) * 31 % 2000, plan=plan)
    assert {finding.parameter for finding in report.findings if finding.rule.id.startswith("Z20")} == names
    shown = next(one for one in report.parameters if one.name == "table.weight")
    assert "[1000:2000]" in str(shown.initializer)


def test_a_part_on_meta_cannot_be_checked() -> None:
    model, made = zeta.record(Tokens)
    plan = Plan((replace(made.entries[0], section=Section(dim=0, spans=((1000, 2000),))), *made.entries[1:]))
    for streamed in (True, False):
        with pytest.raises(TargetError, match=r"table\.weight"):
            zeta.check(model, torch.zeros(2, 3, dtype=torch.long), plan=plan, streamed=streamed)


def test_small_parts_are_not_drawn_together(tmp_path: Path) -> None:
    model = nn.Linear(3, 4)
    made = zeta.plan(model, Rules([Rule("*", Normal())]))
    plan = Plan(tuple(replace(entry, section=Section(dim=0, spans=((3, 4),))) for entry in made))
    zeta.save(model, plan, tmp_path, seed=0)
    saved = load_file(tmp_path / "model.safetensors")
    assert torch.equal(saved["bias"][:3], model.bias[:3])
    assert saved["bias"][3] != model.bias[3]
