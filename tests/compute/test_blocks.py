"""``Blocks``: an initializer for each block of a packed parameter."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import Shard, distribute_tensor

import zeta
from tests.helpers.layers import raw
from tests.helpers.sharded import fake_mesh
from zeta import Axes, Rule, Rules
from zeta.initializers import (
    Blocks,
    Constant,
    Identity,
    Initializer,
    Keep,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
    kaiming_normal,
    xavier_uniform,
)
from zeta.report.costs import cost_of
from zeta.report.measuring import measure
from zeta.write.shards import parts_of

FOUR = (Normal(0.3), Uniform(-1, 2), Ones(), TruncatedNormal(0.1, 0.5))


def holder(*shape: int, dtype: torch.dtype = torch.float32) -> Any:
    module = nn.Module()
    module.w = nn.Parameter(torch.empty(shape, dtype=dtype))
    return module


def planned(blocks: Initializer, *shape: int, axes: Axes | None = None, dtype: torch.dtype = torch.float32) -> Any:
    module = holder(*shape, dtype=dtype)
    return module, zeta.plan(module, Rules([Rule("w", blocks, axes=axes)]))


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_each_block_has_the_values_that_its_initializer_gives_the_whole_there(dim: int, dtype: torch.dtype) -> None:
    parts = (Normal(0.3), Uniform(-1, 2), Ones(), TruncatedNormal(0.1))
    shape = (8, 12, 4)
    module, plan = planned(Blocks(*parts, dim=dim), *shape, axes=Axes(fan_in=(1, 2), fan_out=(0,)), dtype=dtype)
    assert zeta.apply_(module, plan, 7).ok
    size = shape[dim] // 4
    for number, part in enumerate(parts):
        alone = zeta.fill_(torch.empty(shape, dtype=dtype), part, 7, name="w")
        here = (t.narrow(dim, number * size, size) for t in (module.w.detach(), alone))
        assert raw(next(here).contiguous()) == raw(next(here).contiguous()), number


def test_the_same_law_in_each_block_is_that_law() -> None:
    module, plan = planned(Blocks(*[Normal(0.3)] * 5), 10, 3)
    zeta.apply_(module, plan, 1)
    assert torch.equal(module.w, zeta.fill_(torch.empty(10, 3), Normal(0.3), 1, name="w"))


def test_the_gates_of_an_lstm_by_name_and_by_number() -> None:
    by_name = Blocks(f=Ones(), o=Constant(0.5), i=Zeros(), g=Constant(-1))
    assert by_name == Blocks(Zeros(), Ones(), Constant(-1), Constant(0.5)), "torch's order: i, f, g, o"
    lstm = nn.LSTM(6, 8)
    zeta.init_(lstm, Rules([Rule("bias_ih*", by_name), Rule("*", Zeros())]), 0)
    assert lstm.bias_ih_l0.view(4, 8).unique(dim=1).flatten().tolist() == [0, 1, -1, 0.5]
    with torch.no_grad():  # the cell forgets nothing: its forget gate is open
        lstm.bias_ih_l0[8:16] = 30
        lstm.bias_ih_l0[:8] = -30
    _, (_, cell) = lstm(torch.zeros(3, 1, 6), (torch.zeros(1, 1, 8), torch.full((1, 1, 8), 0.25)))
    assert torch.allclose(cell, torch.full_like(cell, 0.25))


def test_the_order_of_a_gru_and_of_attention() -> None:
    assert Blocks(n=Ones(), r=Zeros(), z=Constant(2)).parts == (Zeros(), Constant(2), Ones())
    assert Blocks(v=Ones(), q=Zeros(), k=Constant(2)).parts == (Zeros(), Constant(2), Ones())
    assert Blocks(v=Ones(), k=Constant(2)).parts == (Constant(2), Ones())


def test_fans_and_matrices_are_those_of_a_block() -> None:
    packed = holder(3 * 16, 40)
    laws = Blocks(q=kaiming_normal(), k=xavier_uniform(2.0), v=Orthogonal(0.5))
    plan = zeta.plan(packed, Rules([Rule("w", laws)]))
    q, k, v = plan["w"].initializer.parts  # type: ignore[attr-defined]
    assert q.std == pytest.approx(math.sqrt(2 / 40), rel=1e-12)
    assert k.high == pytest.approx(2 * math.sqrt(6 / (40 + 16)), rel=1e-12)
    assert v == Orthogonal(0.5)
    assert zeta.apply_(packed, plan, 0).ok
    value = packed.w[32:].double()
    assert torch.allclose(value @ value.T, 0.25 * torch.eye(16, dtype=torch.float64), atol=1e-6)
    _, plan = planned(
        Blocks(*(kaiming_normal() * s for s in (1, 2, 3))), 3, 6, 5, axes=Axes(batch=(0,), fan_in=(1,), fan_out=(2,))
    )
    stds = [part.std for part in plan["w"].initializer.parts]
    assert stds == pytest.approx([s * math.sqrt(2 / 6) for s in (1, 2, 3)], rel=1e-12)


@pytest.mark.parametrize(
    "blocks",
    [Blocks(*FOUR), Blocks(*FOUR, dim=1), Blocks(Orthogonal(), Sparse(0.5), Normal(0.1), Identity())],
    ids=["rows", "columns", "matrices"],
)
def test_any_region_and_any_shard(blocks: Blocks) -> None:
    module, plan = planned(blocks, 12, 8)
    zeta.apply_(module, plan, 3)
    for rows, columns in itertools.product((slice(0, 5), slice(2, 11), 7), (slice(0, 8), slice(3, 6), 2)):
        region = zeta.values(plan, "w", 3, region=(rows, columns))
        assert torch.equal(region, module.w[rows, columns])
    with fake_mesh((5,), (2,)) as mesh:  # rows 6 to 8
        part = holder(12, 8)
        part.w = nn.Parameter(distribute_tensor(torch.zeros(12, 8), mesh, [Shard(0)], src_data_rank=None))
        report = zeta.apply_(part, plan, 3)
        assert report.ok
        assert torch.equal(part.w.to_local(), module.w[6:9])
        assert zeta.verify(part, plan, 3).ok


def test_files_and_verification(tmp_path: Path) -> None:
    def build() -> nn.Module:
        return nn.LSTM(16, 32)

    model, _ = zeta.record(build)
    rules = Rules([Rule("bias*", Blocks(i=Zeros(), f=Ones(), g=Zeros(), o=Zeros())), Rule("*", Blocks(*FOUR))])
    plan = zeta.plan(model, rules)
    assert zeta.save(model, plan, tmp_path / "out", 5).ok
    assert zeta.verify(tmp_path / "out").ok
    from safetensors.torch import load_file

    zeta.materialize_(model, plan, 5)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in model.state_dict().items())
    assert zeta.verify(model, plan, 5).ok
    with torch.no_grad():
        model.get_parameter("bias_ih_l0")[40] += 1
    assert not zeta.verify(model, plan, 5).ok


def test_a_padding_row_stays_zero() -> None:
    table = nn.Embedding(8, 6, padding_idx=5)
    plan = zeta.plan(table, Rules([Rule("weight", Blocks(Normal(), Ones()))]))
    assert zeta.apply_(table, plan, 0).ok
    assert not table.weight[5].any()
    assert (table.weight[[4, 6, 7]] == 1).all()


def test_in_a_constructor_it_is_recorded() -> None:
    def build() -> nn.Module:
        lstm = nn.LSTM(5, 8)
        zeta.init_(lstm, Rules([Rule("bias*", Blocks(*[Zeros(), Ones()] * 2)), Rule("*", Blocks(*FOUR))]))
        return lstm

    model, plan = zeta.record(build)
    assert zeta.materialize_(model, plan, 0).ok
    assert model.get_parameter("bias_hh_l0").view(4, 8).unique(dim=1).flatten().tolist() == [0, 1, 0, 1]
    assert (model.get_parameter("weight_ih_l0")[16:24] == 1).all()
    assert zeta.verify(model, plan, 0).ok


# -- what is said of it ------------------------------------------------------------------------------------------------


def test_moments_are_those_of_all_elements() -> None:
    blocks = Blocks(Normal(0.5, 1.0), Uniform(-1, 1), Constant(3.0), TruncatedNormal(0.2, -1.0))
    module, plan = planned(blocks, 4000, 100)
    report = zeta.apply_(module, plan, 0)
    values = module.w.detach().double()
    entry = plan["w"]
    assert entry.mean == pytest.approx(float(values.mean()), abs=0.005)
    assert entry.std == pytest.approx(float(values.std()), rel=0.002)
    moments = blocks.moments(entry.site)
    assert moments is not None
    centred = values - values.mean()
    assert moments.kurtosis == pytest.approx(float((centred**4).mean() / centred.var() ** 2), rel=0.01)
    assert report["w"].mean == pytest.approx(float(values.mean()), abs=1e-9)
    assert report["w"].std == pytest.approx(float(values.std(correction=0)), rel=1e-9)
    assert (report["w"].low, report["w"].high) == (float(values.min()), float(values.max()))
    assert blocks.bounds() == (-math.inf, math.inf)
    assert Blocks(Uniform(-1, 1), Constant(3.0)).bounds() == (-1.0, 3.0)


@pytest.mark.parametrize("number", range(4))
def test_a_wrong_block_is_found_and_named(number: int) -> None:
    module, plan = planned(Blocks(*FOUR), 400, 100)
    zeta.apply_(module, plan, 0)
    assert measure(plan["w"], module.w.detach()).ok
    with torch.no_grad():
        module.w[100 * number : 100 * (number + 1)] *= 1.05
    found = measure(plan["w"], module.w.detach())
    assert found.findings
    assert all(text.startswith(f"block {number}: ") for text in found.findings)
    assert max(abs(found.mean_z), abs(found.std_z)) > 5


def test_swapped_blocks_are_found_though_all_moments_agree() -> None:
    module, plan = planned(Blocks(Zeros(), Ones()), 6, 2)
    zeta.apply_(module, plan, 0)
    assert not measure(plan["w"], module.w.detach().flip(0)).ok


def test_it_prints_and_is_exact_in_json() -> None:
    blocks = Blocks(Normal(0.1234567), Zeros(), dim=1)
    assert repr(blocks) == "Blocks(Normal(std=0.1234567), Zeros(), dim=1)"
    assert str(blocks) == "Blocks(Normal(std=0.1235), Zeros(), dim=1)"
    assert Initializer.from_json(blocks.to_json()) == blocks
    assert "... 50 blocks" in repr(Blocks(*[Zeros()] * 50))
    _, plan = planned(blocks, 4, 6)
    again = zeta.Plan.from_json(plan.to_json())
    assert (again, again.digest) == (plan, plan.digest)
    assert blocks * 2 == Blocks(Normal(0.2469134), Zeros(), dim=1)


def test_plans_are_compared_block_by_block() -> None:
    def compared(one: Initializer, other: Initializer) -> bool:
        return zeta.diff(planned(one, 8, 8)[1], planned(other, 8, 8)[1]).same

    assert compared(Blocks(Normal(0.1), Zeros()), Blocks(Normal(0.1), Zeros()))
    assert compared(Blocks(Normal(0.1), Normal(0.1)), Normal(0.1))
    assert compared(Blocks(kaiming_normal(), Zeros()), Blocks(Normal(math.sqrt(2 / 8)), Zeros()))
    assert not compared(Blocks(Normal(0.1), Zeros()), Blocks(Zeros(), Normal(0.1)))
    assert not compared(Blocks(Normal(0.1), Zeros()), Blocks(Normal(0.1), Zeros(), dim=1))
    assert not compared(Blocks(Normal(0.1), Zeros()), Normal(0.1))


def test_a_shard_of_elementwise_blocks_costs_what_it_holds() -> None:
    parts = parts_of((8, 8), (4,), (Shard(0),), (1,))
    entry = planned(Blocks(Normal(0.1), Zeros()), 8, 8)[1]["w"]
    assert cost_of(entry, parts).computed == 2 * 8 * 4
    entry = planned(Blocks(Orthogonal(), Zeros()), 8, 8)[1]["w"]
    assert cost_of(entry, parts).computed == 8 * 8 * 4
    assert cost_of(entry, parts).temporary > 0


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (lambda: Blocks(), "at least two initializers"),
        (lambda: Blocks(Zeros()), "at least two initializers"),
        (lambda: Blocks(Zeros(), 3), "block 1 must be a law such as .*, got 3"),
        (lambda: Blocks(Keep(), Zeros()), r"block 0 must be a law such as .*, got Keep\(\)"),
        (lambda: Blocks(Zeros(), Blocks(Zeros(), Ones())), "block 1 must be a law"),
        (lambda: Blocks(Zeros(), Ones(), dim=0.5), "dim must be the number of a dimension, got 0.5"),
        (lambda: Blocks(Zeros(), Ones(), dim=True), "dim must be the number of a dimension, got True"),
        (lambda: Blocks(i=Zeros(), f=Ones()), "all of one of these sets of names: i, f, g, o; r, z, n"),
        (lambda: Blocks(f=Ones()), "; got f, so that i, g, o are missing$"),
        (lambda: Blocks(k=Zeros(), q=Ones()), "; got k, q, so that v is missing$"),
        (lambda: Blocks(x=Zeros()), "; got x$"),
        (lambda: Blocks(Zeros(), k=Zeros(), v=Ones()), "got 1 without a name"),
        (lambda: Initializer.from_json({"name": "Blocks"}), "Blocks: parts must be given"),
        (lambda: Initializer.from_json({"name": "Blocks", "parts": 3}), "parts must be a list"),
        (lambda: Initializer.from_json({"name": "Blocks", "parts": [3, 4]}), "an initializer is written as"),
        (
            lambda: Initializer.from_json({"name": "Blocks", "parts": [{"name": "Blocks", "parts": []}] * 2}),
            "and not a program or other blocks",
        ),
    ],
)
def test_bad_blocks(blocks: Any, message: str) -> None:
    with pytest.raises(zeta.SpecError, match=message):
        blocks()


@pytest.mark.parametrize(
    ("blocks", "shape", "message"),
    [
        (Blocks(Zeros(), Ones(), Zeros()), (8, 2), "dimension 0 has 8 elements, which 3 does not divide"),
        (Blocks(Zeros(), Ones(), dim=2), (8, 2), "has 2 dimensions, and none with the number 2"),
        (Blocks(Zeros(), Ones()), (), "has 0 dimensions"),
        (Blocks(Orthogonal(), Ones()), (8,), "w 8"),
    ],
)
def test_blocks_that_do_not_fit(blocks: Blocks, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(zeta.PlanError, match=message):
        planned(blocks, *shape)


def test_the_number_of_gates_must_be_that_of_the_layer() -> None:
    with pytest.raises(zeta.PlanError, match="has 2 blocks, but the parameter packs 4 along dimension 0"):
        zeta.plan(nn.LSTM(4, 4), Rules([Rule("weight*", Blocks(Zeros(), Ones())), Rule("*", Zeros())]))


def test_a_tensor_alone() -> None:
    filled: Tensor = zeta.fill_(torch.empty(6), Blocks(Zeros(), Ones()), 0)
    assert filled.tolist() == [0, 0, 0, 1, 1, 1]


@pytest.mark.parametrize("law", [Normal(1e-90), Normal(1e78), Constant(1e-100), Constant(-1e100)], ids=str)
def test_moments_of_very_large_and_very_small_blocks(law: Initializer) -> None:
    module, plan = planned(Blocks(law, Zeros()), 8, 4, dtype=torch.float64)
    scale = law.std if isinstance(law, Normal) else abs(law.value)  # type: ignore[attr-defined]
    expected = scale / math.sqrt(2) if isinstance(law, Normal) else scale / 2
    assert plan["w"].std == pytest.approx(expected, rel=1e-12)
    assert zeta.Plan.from_json(plan.to_json()) == plan
    report = zeta.apply_(module, plan, 0)
    assert "w" in str(plan) + str(report)


def test_equal_matrices_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from zeta.compute import matrices

    calls: list[int] = []
    real = matrices.orthogonal
    monkeypatch.setattr(matrices, "orthogonal", lambda *given: calls.append(1) or real(*given))
    module, plan = planned(Blocks(*[Orthogonal(), Orthogonal(2.0), Normal(0.1), Zeros()] * 8), 64, 2)
    zeta.apply_(module, plan, 0)
    assert len(calls) == 2
    with pytest.raises(zeta.SpecError, match="at most 64 different initializers of matrices"):
        Blocks(*(Orthogonal(1 + n / 100) for n in range(65)))
    assert len(Blocks(*(Normal(1 + n / 100) for n in range(65))).parts) == 65


@pytest.mark.parametrize("other", [Zeros(), Normal(1e-7)], ids=str)
def test_the_tolerance_of_a_matrix_is_not_that_of_the_other_blocks(other: Initializer, tmp_path: Path) -> None:
    module, plan = planned(Blocks(Orthogonal(), other), 16, 8)
    zeta.apply_(module, plan, 0)
    assert zeta.verify(module, plan, 0).ok
    with torch.no_grad():
        module.w[8:] += 1e-6
    assert not zeta.verify(module, plan, 0).ok
    zeta.apply_(module, plan, 0)
    with torch.no_grad():
        module.w[:8] += 1e-7  # of a matrix, the last bits may differ
    assert zeta.verify(module, plan, 0).ok
    zeta.save(module, plan, tmp_path / "out", 0)
    assert zeta.verify(tmp_path / "out").ok
    content = bytearray((tmp_path / "out" / "model.safetensors").read_bytes())
    content[-4:] = torch.tensor([1e-6]).numpy().tobytes()
    (tmp_path / "out" / "model.safetensors").write_bytes(content)
    assert not zeta.verify(tmp_path / "out").ok


def test_matrices_of_one_block_in_a_constructor() -> None:
    def build() -> nn.Module:
        lstm = nn.LSTM(8, 8)
        gates = Blocks(Orthogonal(), Orthogonal(2.0), Zeros(), Sparse(0.5))
        zeta.init_(lstm, Rules([Rule("weight*", gates), Rule("*", Zeros())]))
        return lstm

    model, plan = zeta.record(build)
    assert zeta.materialize_(model, plan, 0).ok
    first, second, third, fourth = model.get_parameter("weight_hh_l0").detach().double().chunk(4)
    eye = torch.eye(8, dtype=torch.float64)
    assert torch.allclose(first @ first.T, eye, atol=1e-6)
    assert torch.allclose(second @ second.T, 4 * eye, atol=1e-5)
    assert not third.any()
    assert ((fourth == 0).sum(0) == 4).all()


def test_as_many_blocks_as_are_allowed() -> None:
    assert len(Blocks(*[Zeros()] * 2**16).parts) == 2**16
    many = {"name": "Blocks", "parts": [{"name": "Zeros"}] * 2**16}
    assert len(Initializer.from_json(many).parts) == 2**16  # type: ignore[attr-defined]
    with pytest.raises(zeta.SpecError, match="at most 65,536"):
        Blocks(*[Zeros()] * (2**16 + 1))
    with pytest.raises(zeta.SpecError, match="a list of at most 65,536 initializers"):
        Initializer.from_json({"name": "Blocks", "parts": [{"name": "Zeros"}] * (2**16 + 1)})
    assert len(Blocks(*(Orthogonal(1 + n / 100) for n in range(64))).parts) == 64


def test_a_report_of_blocks_at_any_scale() -> None:
    for law in (Normal(1e200), Constant(1e200), Normal(1e-200)):  # whose squares leave fp64
        module, plan = planned(Blocks(law, Zeros()), 400, 10, dtype=torch.float64)
        report = zeta.apply_(module, plan, 0)
        assert "w" in str(report)
        assert zeta.verify(module, plan, 0).ok


def test_axes_of_a_file_are_counted_from_the_front() -> None:
    _, plan = planned(Blocks(Normal(), Zeros()), 6, 6, axes=Axes(fan_in=(1,), fan_out=(0,)))
    document = json.loads(plan.to_json())
    document["entries"][0]["axes"] = {"fan_in": [-1], "fan_out": [-2], "blocks": [[-2, 3]]}
    with pytest.raises(zeta.PlanError, match="has 2 blocks, but the parameter packs 3 along dimension 0"):
        zeta.Plan.from_json(json.dumps(document))
    document["entries"][0]["axes"] = {"fan_in": [-1], "fan_out": [-2]}
    assert zeta.Plan.from_json(json.dumps(document)) == plan


@pytest.mark.parametrize("layer", [nn.GRU(4, 8), nn.GRUCell(4, 8)], ids=["GRU", "GRUCell"])
def test_a_bias_packs_what_its_weight_packs(layer: nn.Module) -> None:
    gates = Blocks(i=Zeros(), f=Ones(), g=Zeros(), o=Zeros())
    with pytest.raises(zeta.PlanError, match=r"has 4 blocks, but weight_ih\w* of its layer packs 3"):
        zeta.plan(layer, Rules([Rule("bias_ih*", gates), Rule("bias_hh*", Zeros()), Rule("weight*", Ones())]))
    right = Rules([Rule("bias*", Blocks(r=Zeros(), z=Ones(), n=Zeros())), Rule("weight*", Ones())])
    assert zeta.init_(layer, right, seed=0).ok
