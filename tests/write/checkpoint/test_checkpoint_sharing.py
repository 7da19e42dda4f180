"""Checkpoints of models whose tensors share memory: they have what the same plan gives a model, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard

import zeta
from tests.helpers.layers import raw
from tests.helpers.sharded import fake_mesh
from zeta import Rule, Rules, TargetError
from zeta.initializers import Keep, Normal, Orthogonal
from zeta.write.targets import meeting

TABLE = Rules([Rule("table", Normal(1.0))])
#: views of a parameter of 6 x 4 elements, the memory of which goes on for 6 more
VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rows": lambda table: table[1:3],
    "columns": lambda table: table[:, 1],
    "every second element": lambda table: table.view(-1)[1::2],
    "turned": lambda table: table.t(),
    "of another dtype": lambda table: table.view(torch.int32)[2],
    "bytes": lambda table: table.view(torch.uint8)[2, 3:9],
    "beyond its end": lambda table: torch.as_strided(table, (10,), (1,), 20),
    "between its rows and beyond": lambda table: torch.as_strided(table, (4, 3), (7, 1), 1),
    "nothing of it": lambda table: torch.as_strided(table, (3,), (1,), 25),
    "complex": lambda table: torch.view_as_complex(table.view(6, 2, 2)).conj(),
    "windows": lambda table: table.view(-1).unfold(0, 5, 2),
    "negated": lambda table: torch.view_as_complex(table.view(6, 2, 2)).conj().imag,
}
#: views that torch copies nothing into, as load_state_dict would
REPEATED: dict[str, Callable[[Tensor], Tensor]] = {
    "one row, several times": lambda table: table[:1].expand(3, 4),
    "an element, several times": lambda table: table[2, 2].expand(8),
    "complex, several times": lambda table: torch.view_as_complex(table.view(6, 2, 2))[1].conj().expand(3, 2),
}


def _model(*views: Callable[[Tensor], Tensor], device: str = "cpu") -> Any:
    model: Any = nn.Module()
    memory = torch.arange(30.0, device=device)
    model.table = nn.Parameter(memory[:24].view(6, 4))
    for number, view in enumerate(views):
        model.register_buffer(f"view{number}", view(model.table.detach()))
    return model


def _bits(tensors: dict[str, Tensor]) -> dict[str, bytes]:
    return {name: raw(tensor.resolve_conj().resolve_neg()) for name, tensor in tensors.items()}


@pytest.mark.parametrize("rules", [TABLE, Rules([Rule("table", Orthogonal())])], ids=["normal", "orthogonal"])
@pytest.mark.parametrize("name", VIEWS)
def test_a_buffer_in_a_parameters_memory_is_saved_as_it_is_in_an_initialized_model(
    name: str, rules: Rules, tmp_path: Path
) -> None:
    model, initialized, loaded = (_model(VIEWS[name]) for _ in range(3))
    plan = zeta.plan(model, rules)
    assert zeta.save(model, plan, tmp_path, seed=5).ok
    assert zeta.verify(tmp_path).ok
    assert _bits(model.state_dict()) == _bits(_model(VIEWS[name]).state_dict())  # the model itself does not change
    zeta.apply_(initialized, plan, seed=5)
    saved = load_file(tmp_path / "model.safetensors")
    assert _bits(saved) == _bits(initialized.state_dict())
    loaded.load_state_dict(saved)
    assert zeta.verify(loaded, plan, seed=5).ok


@pytest.mark.parametrize("name", REPEATED)
def test_a_buffer_that_repeats_elements_of_a_parameter_is_saved(name: str, tmp_path: Path) -> None:
    model, initialized = _model(REPEATED[name]), _model(REPEATED[name])
    plan = zeta.plan(model, TABLE)
    assert zeta.save(model, plan, tmp_path, seed=5).ok
    zeta.apply_(initialized, plan, seed=5)
    assert _bits(load_file(tmp_path / "model.safetensors")) == _bits(initialized.state_dict())


def test_buffers_of_several_parameters_follow_each_of_them(tmp_path: Path) -> None:
    def build() -> Any:
        model: Any = nn.Module()
        memory = torch.arange(12.0)
        model.first, model.second = nn.Parameter(memory[:5]), nn.Parameter(memory[6:11])
        model.register_buffer("all", memory[1:])
        model.register_buffer("end", memory[9:])
        return model

    model, initialized = build(), build()
    plan = zeta.plan(model, Rules([Rule("*", Normal(1.0))]))
    zeta.save(model, plan, tmp_path, seed=0)
    zeta.apply_(initialized, plan, seed=0)
    assert _bits(load_file(tmp_path / "model.safetensors")) == _bits(initialized.state_dict())


@pytest.mark.parametrize("placement", [Shard(0), Shard(1), Replicate()], ids=str)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_buffer_follows_what_a_rank_has_of_a_sharded_parameter(rank: int, placement: Any, tmp_path: Path) -> None:
    def build() -> Any:
        model: Any = nn.Module()
        table = DTensor.from_local(torch.zeros(3, 4), mesh, [placement], run_check=False)
        model.table = nn.Parameter(table)
        model.register_buffer("row", model.table.to_local().detach()[1])
        return model

    with fake_mesh((2,), (rank,)) as mesh:
        model, initialized = build(), build()
        plan = zeta.plan(model, TABLE)
        zeta.save(model, plan, tmp_path, seed=5)
        zeta.apply_(initialized, plan, seed=5)
        assert initialized.row.any()
        assert raw(load_file(tmp_path / "model.safetensors")["row"]) == raw(initialized.row)
        assert not model.row.any()


def test_a_buffer_follows_the_rounded_values(tmp_path: Path) -> None:
    model = _model(VIEWS["rows"])
    zeta.save(model, zeta.plan(model, TABLE), tmp_path, seed=0, dtype=torch.bfloat16)
    saved = load_file(tmp_path / "model.safetensors")
    assert saved["table"].dtype == torch.bfloat16
    assert torch.equal(saved["view0"], saved["table"][1:3].float())


def _parameters(device: str) -> Any:
    memory = torch.zeros(10, device=device)
    return nn.ParameterDict({"first": memory[:6], "second": memory[4:]})


def _unfollowing(device: str) -> Any:
    return _model(VIEWS["rows"], device=device)


REFUSED: dict[str, tuple[Callable[[str], Any], Rules, str]] = {
    "two parameters": (_parameters, Rules([Rule("*", Normal(1.0))]), "second: shares the memory of first"),
    "a kept parameter": (
        _parameters,
        Rules([Rule("first", Keep()), Rule("second", Normal(1.0))]),
        "second: shares the memory of first",
    ),
    "a buffer that is kept on purpose": (
        _unfollowing,
        Rules([Rule("view0", Keep(), buffers=True), *TABLE]),
        "view0: shares the memory of table",
    ),
    "a buffer with a rule": (
        _unfollowing,
        Rules([Rule("view0", Normal(2.0), buffers=True), *TABLE]),
        "view0: shares the memory of table",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_model_cannot_have_is_not_saved(name: str, tmp_path: Path) -> None:
    build, rules, message = REFUSED[name]
    plan = zeta.plan(build("cpu"), rules)
    with pytest.raises(TargetError, match=message):
        zeta.apply_(build("cpu"), plan, seed=0)
    with pytest.raises(TargetError, match=message):
        zeta.save(build("cpu"), plan, tmp_path / "files", seed=0)
    assert not (tmp_path / "files").exists()


@pytest.mark.parametrize("name", ["two parameters", "a buffer with a rule"])
def test_nor_is_it_from_a_model_on_meta(name: str, tmp_path: Path) -> None:
    build, rules, message = REFUSED[name]
    plan = zeta.plan(build("meta"), rules)
    with pytest.raises(TargetError, match=message):
        zeta.materialize_(build("meta"), plan, seed=0)
    with pytest.raises(TargetError, match=message):
        zeta.save(build("meta"), plan, tmp_path / "files", seed=0)


def test_an_overridden_recording_is_saved_as_it_is_materialized(tmp_path: Path) -> None:
    model, recorded = zeta.record(_model, VIEWS["rows"])
    plan = recorded.override(TABLE, model)
    with pytest.raises(TargetError, match="view0: shares the memory of table"):
        zeta.materialize_(model, plan, seed=0)
    with pytest.raises(TargetError, match="view0: shares the memory of table"):
        zeta.save(model, plan, tmp_path, seed=0)


def test_shared_memory_at_an_odd_address_is_refused(tmp_path: Path) -> None:
    model: Any = nn.Module()
    model.table = nn.Parameter(torch.frombuffer(bytearray(65), dtype=torch.float32, offset=1))
    model.register_buffer("view0", model.table.detach()[:3])
    with pytest.raises(TargetError, match=r"view0: shares the memory of table, .* register a clone\(\)"):
        zeta.save(model, zeta.plan(model, TABLE), tmp_path / "files", seed=0)
    assert not (tmp_path / "files" / "model.safetensors").exists()


def test_neighbours_in_one_memory_are_saved(tmp_path: Path) -> None:
    memory = torch.zeros(10, device="meta")
    model = nn.ParameterDict({"first": memory[:5], "second": memory[5:], "third": torch.zeros(5, device="meta")})
    assert zeta.save(model, zeta.plan(model, Rules([Rule("*", Normal(1.0))])), tmp_path, seed=0).ok


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_two_tensors_meet_where_they_have_an_element_in_common(device: str) -> None:
    memory = torch.zeros(4, 6, device=device)
    tensors = {
        "rows": memory[1:3],
        "even": memory[:, ::2],
        "odd": memory[:, 1::2],
        "last": memory[3, 4:5],
        "apart": torch.zeros(4, 6, device=device),
    }
    pairs = sorted(sorted(pair) for pair in meeting(tensors.items(), lambda *_: True))
    assert pairs == [["even", "last"], ["even", "rows"], ["odd", "rows"]]


@pytest.mark.parametrize("shared", [False, True])
def test_a_parameter_whose_elements_share_memory_is_refused(tmp_path: Path, shared: bool) -> None:
    model, memory = nn.Module(), torch.arange(24.0).view(4, 6)
    model.weight = nn.Parameter(memory[:1].expand(3, 6))
    if shared:
        model.register_buffer("memory", memory)
    plan = zeta.plan(model, Rules([Rule("weight", Normal(1.0))]))
    with pytest.raises(TargetError, match="weight: has overlapping memory"):
        zeta.save(model, plan, tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()
