"""What one rank of a mesh holds, without the mesh: up to 1,024 ranks of a model of 405 billion parameters."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.distributed.tensor.placement_types import _StridedShard

import zeta
from tests.helpers.sharded import fake_mesh
from zeta import Plan, PlanError, Rule, Rules, SpecError, TargetError
from zeta.compute.programs import TILE
from zeta.compute.stream.regions import Region
from zeta.compute.values import values_of
from zeta.initializers import Normal, Ones, Orthogonal, Program, Sparse
from zeta.resolve.plans import Cost, Entry
from zeta.rules import kind
from zeta.write.shards import held

MESH = (128, 8)
COLUMN = (_StridedShard(0, split_factor=8), Shard(0))
ROW = (Shard(0), Shard(1))
LLAMA = {
    "*.q_proj.weight": COLUMN,
    "*.k_proj.weight": COLUMN,
    "*.v_proj.weight": COLUMN,
    "*.gate_proj.weight": COLUMN,
    "*.up_proj.weight": COLUMN,
    "*.o_proj.weight": ROW,
    "*.down_proj.weight": ROW,
    "*embed_tokens.weight": ROW,
    "lm_head.weight": COLUMN,
    "*inv_freq": (Replicate(), Replicate()),  # FSDP leaves buffers whole
    "*": (Shard(0), Replicate()),
}
RULES = Rules([Rule(kind("norm_scale"), Ones()), Rule("*", Normal(0.02))])


def llama_of(layers: int) -> Any:
    """Llama 3.1 405B, with so many of its layers, on meta."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128256,
        hidden_size=16384,
        intermediate_size=53248,
        num_hidden_layers=layers,
        num_attention_heads=128,
        num_key_value_heads=8,
    )
    with torch.device("meta"):
        return LlamaForCausalLM(config).to(torch.bfloat16)


@pytest.fixture(scope="module")
def llama() -> Plan:
    return zeta.plan(llama_of(layers=126), RULES)


def values(entry: Entry, region: Region) -> torch.Tensor:
    out = torch.empty(region.sizes, dtype=entry.dtype)
    for index, tile in values_of(entry, 7, region=region):
        out[index] = tile
    return out


@pytest.mark.parametrize("rank", [0, 9, 515, 1023])
def test_a_rank_of_1024_computes_its_slices_of_the_whole(rank: int, llama: Plan) -> None:
    planned = zeta.shard_plan(llama, MESH, LLAMA, rank)
    names = ["model.embed_tokens.weight", "model.norm.weight"]
    names += [f"model.layers.{rank % 126}.{name}.weight" for name in ("self_attn.k_proj", "mlp.down_proj")]
    for name in names:
        share = planned[name]
        [part] = share.parts
        first, count = part.region.offsets[0], part.region.sizes[0]
        rest = share.entry.shape[1:]
        rows = Region(shape=share.entry.shape, offsets=(first, *(0 for _ in rest)), sizes=(count, *rest))
        whole_rows = values(share.entry, rows)
        assert torch.equal(values(share.entry, part.region), whole_rows[:, *part.region.slices[1:]]), name


@pytest.mark.parametrize("coordinate", [(0, 0), (64, 3), (127, 7)])
def test_a_rank_of_1024_holds_what_torch_gives_it(coordinate: tuple[int, int]) -> None:
    """Cut by torch itself, as that rank sees it."""
    model = llama_of(layers=1)
    plan = zeta.plan(model, RULES)
    attention, mlp = "model.layers.0.self_attn.", "model.layers.0.mlp."
    columns = [f"{attention}{name}_proj" for name in "qkv"] + [f"{mlp}{name}_proj" for name in ("gate", "up")]
    styles: dict[str, Any] = {name: ColwiseParallel() for name in (*columns, "model.embed_tokens", "lm_head")}
    styles |= {name: RowwiseParallel() for name in (f"{attention}o_proj", f"{mlp}down_proj")}
    planned = zeta.shard_plan(plan, MESH, LLAMA, coordinate[0] * MESH[1] + coordinate[1])
    with fake_mesh(MESH, coordinate) as mesh:
        assert mesh.mesh_dim_names is not None
        data, tensor = (mesh[name] for name in mesh.mesh_dim_names)
        parallelize_module(model, tensor, styles)
        fully_shard(model, mesh=data)
        sharded = zeta.plan(model, RULES)
        assert sharded == plan
        assert sharded.costs == {share.entry.name: share.cost for share in planned}
        for name, parameter in model.named_parameters():
            assert held(parameter).parts == planned[name].parts, name


def test_all_ranks_together_hold_the_model_once(llama: Plan) -> None:
    layer = Plan(tuple(e for e in llama if e.name.startswith(("model.layers.64.", "lm_head", "model.embed"))))
    held = dict.fromkeys((entry.name for entry in layer), 0)
    for rank in range(math.prod(MESH)):
        for share in zeta.shard_plan(layer, MESH, LLAMA, rank):
            held[share.entry.name] += share.numel
    for entry in layer:
        assert held[entry.name] == entry.numel * (8 if len(entry.shape) == 1 else 1), entry.name


def test_the_table_of_one_rank(llama: Plan) -> None:
    begin = time.perf_counter()
    planned = zeta.shard_plan(llama, MESH, LLAMA, 515)
    text = str(planned)
    assert time.perf_counter() - begin < 5
    assert "rank 515 of a mesh of 128 x 8, at (64, 3)" in text
    assert "405,853,388,800 values, 811.7 GB" in text
    assert "this rank: 792.8 MB held, 792.8 MB computed, peak temporary memory 0 B" in text
    assert planned.cost.held == sum(share.numel * 2 for share in planned)


def test_what_looks_at_whole_matrices_says_what_it_costs() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(64, 64, bias=False) for _ in range(3)))
    rules = Rules([Rule("0.weight", Orthogonal()), Rule("1.weight", Sparse(0.5)), Rule("2.weight", Normal(1.0))])
    plan = zeta.plan(model, rules)
    planned = zeta.shard_plan(plan, (4,), (Shard(0),), 1)
    whole = 64 * 64
    assert planned["0.weight"].cost == Cost(held=whole, computed=4 * whole, temporary=16 * whole)
    assert planned["1.weight"].cost == Cost(held=whole, computed=4 * whole, temporary=32 * whole)
    assert planned["2.weight"].cost == Cost(held=whole, computed=whole)
    assert planned.cost == Cost(held=3 * whole, computed=9 * whole, temporary=32 * whole)
    empty = zeta.shard_plan(plan, (128,), (Shard(0),), 100)
    assert empty.cost == Cost()


def test_separate_stretches_cost_a_whole_each() -> None:
    plan = zeta.plan(nn.Linear(64, 96, bias=False, device="meta"), Rules([Rule("*", Orthogonal())]))
    [share] = zeta.shard_plan(plan, (2,), (_StridedShard(0, split_factor=3),), 1)
    assert len(share.parts) == 3
    assert share.cost == Cost(held=96 * 64 * 2, computed=3 * 96 * 64 * 4, temporary=16 * 96 * 64)


def test_a_program_needs_tiles_beside() -> None:
    plan = zeta.plan(nn.Linear(4096, 4096, bias=False, device="meta"), lambda m: m.weight.data.normal_().clamp_(-1, 1))
    program = plan["weight"].initializer
    assert isinstance(program, Program)
    [share] = zeta.shard_plan(plan, (4,), (Shard(0),), 1)
    tiles = TILE * 4 * len(program.steps)
    assert share.cost == Cost(held=4096 * 4096, computed=4096 * 4096, temporary=tiles)
    [small] = zeta.shard_plan(plan, (4096,), (Shard(0),), 1)
    assert small.cost.temporary == 4096 * 4 * len(program.steps)


def test_the_plan_of_a_sharded_model_shows_the_same() -> None:
    model = nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64))
    rules = Rules([Rule("1.weight", Orthogonal()), Rule("*", Normal(1.0))])
    plain = zeta.plan(model, rules)
    assert plain.costs is None
    with fake_mesh((4,), (3,)) as mesh:
        fully_shard(model, mesh=mesh)
        plan = zeta.plan(model, rules)
        simulated = zeta.shard_plan(plain, (4,), (Shard(0),), 3)
        assert plan == plain
        assert plan.costs == {share.entry.name: share.cost for share in simulated}
        assert "this rank: 4.7 kB held, 17.0 kB computed, peak temporary memory 65.5 kB" in str(plan)
        assert Plan.from_json(plan.to_json()) == plain


def test_by_name_by_function_or_the_same_for_all() -> None:
    plan = zeta.plan(nn.Linear(4, 8), Rules([Rule("*", Normal(1.0))]))

    def by_entry(entry: Entry) -> Any:
        return (Shard(0),) if entry.name == "weight" else (Replicate(),)

    for placements in ({"weight": (Shard(0),), "*": (Replicate(),)}, by_entry):
        planned = zeta.shard_plan(plan, (2,), placements, 0)
        assert [share.numel for share in planned] == [16, 8]
    with pytest.raises(PlanError, match="bias: no placement is given"):
        zeta.shard_plan(plan, (2,), {"weight": (Shard(0),)}, 0)


def test_nonsense_is_refused() -> None:
    plan = zeta.plan(nn.Linear(4, 8), Rules([Rule("*", Normal(1.0))]))
    with pytest.raises(SpecError, match="rank must be from 0 to 5"):
        zeta.shard_plan(plan, (2, 3), (Shard(0), Replicate()), 6)
    with pytest.raises(SpecError, match="rank must be from 0 to 5"):
        zeta.shard_plan(plan, (2, 3), (Shard(0), Replicate()), 0.5)  # type: ignore[arg-type]
    for mesh_shape in ((2, 0), 2):
        with pytest.raises(SpecError, match="mesh_shape must be"):
            zeta.shard_plan(plan, mesh_shape, (Shard(0), Replicate()), 0)  # type: ignore[arg-type]
    for placements in (Shard(0), {"*": "SR"}, lambda entry: None):
        with pytest.raises(SpecError, match="weight: placements must be one for each mesh dimension"):
            zeta.shard_plan(plan, (2,), placements, 0)
    with pytest.raises(SpecError, match=r"weight: expected a placement .* along mesh dimension 0, got 'S'"):
        zeta.shard_plan(plan, (2,), ("S",), 0)
    with pytest.raises(SpecError, match="weight: a mesh of shape"):
        zeta.shard_plan(plan, (2, 3), (Shard(0),), 0)
    with pytest.raises(TargetError, match="weight: is a DTensor with the placement P"):
        zeta.shard_plan(plan, (2,), (Partial(),), 0)
    with pytest.raises(SpecError, match="expected a Plan"):
        zeta.shard_plan("gpt2", (2,), (Shard(0),), 0)  # type: ignore[arg-type]
