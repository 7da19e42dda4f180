"""What must agree between processes is compared, and what legitimately differs is not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

import zeta
from tests.helpers.sharded import Awkward, fake_mesh
from zeta import Plan, Rule, Rules
from zeta.fans import Axes
from zeta.initializers import Constant, Normal, Zeros
from zeta.report.digests import (
    Claim,
    Conflict,
    Digest,
    ShardedLayout,
    Shards,
    claim_of,
    conflicts,
    layouts_of,
    ranks_text,
)
from zeta.resolve.fitting import fit
from zeta.write.apply import prepare

RULES = [Rule("*.weight", Normal(0.02)), Rule("*", Zeros())]


def planned(*first: Rule) -> Plan:
    return zeta.plan(nn.Sequential(nn.Linear(4, 3), nn.Embedding(5, 4, padding_idx=1)), Rules([*first, *RULES]))


# -- plans -------------------------------------------------------------------------------------------------------------


def test_equal_plans_have_one_digest() -> None:
    assert planned().digest == planned().digest
    assert Plan.from_json(planned().to_json()).digest == planned().digest
    recorded = zeta.record(Awkward)[1]
    assert Plan.from_json(recorded.to_json()).digest == recorded.digest == zeta.record(Awkward)[1].digest


def test_rules_and_costs_decide_no_values() -> None:
    plan = planned()
    other = Plan(tuple(replace(entry, rule=f"/home/me/model.py:{n}") for n, entry in enumerate(plan)), costs={})
    assert other.digest == plan.digest


CHANGES: dict[str, dict[str, Any]] = {
    "name": {"name": "0.other"},
    "ties": {"ties": ("head",)},
    "shape": {"shape": (4, 3)},
    "dtype": {"dtype": torch.bfloat16},
    "kind": {"kind": zeta.Kind.OTHER},
    "numbers": {"initializer": Normal(0.020000000000000004)},
    "law": {"initializer": Zeros()},
    "sign of zero": {"initializer": Constant(-0.0)},
    "axes": {"axes": Axes(fan_in=(0,), fan_out=(1,))},
    "padding": {"padding_idx": 0},
    "persistence": {"persistent": False},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_decides_values_is_in_the_digest(change: dict[str, Any]) -> None:
    first, *rest = planned()
    plan = Plan((replace(first, initializer=Constant(0.0)), *rest)) if change.get("initializer") else planned()
    assert Plan((replace(plan.entries[0], **change), *rest)).digest != plan.digest


def test_programs_differ_in_their_constants() -> None:
    def with_constant(value: float) -> Plan:
        def initialize(model: nn.Linear) -> None:
            model.weight.data.copy_(torch.tensor([[value, 1.0], [2.0, 3.0]]))

        return zeta.plan(nn.Linear(2, 2, bias=False), initialize)

    assert with_constant(0.5).digest == with_constant(0.5).digest != with_constant(0.25).digest


def test_a_digest_is_computed_when_it_is_looked_at() -> None:
    plan, model = planned(), nn.Sequential(nn.Linear(4, 3), nn.Embedding(5, 4, padding_idx=1))
    report = zeta.apply_(model, plan, 3)
    assert "digest" not in vars(plan)
    assert report.digest == Digest(seed=3, plan=plan.digest, stream=1, zeta=zeta.__version__)
    assert "digest" in vars(plan)


def test_only_is_a_part_of_what_was_asked() -> None:
    plan, model = planned(), nn.Sequential(nn.Linear(4, 3), nn.Embedding(5, 4, padding_idx=1))
    every, some = (claim_of(fit(model, plan, only=only), 0, []).digest for only in (None, "*.bias"))
    assert (every.plan, dict(every.options)) == (some.plan, {})
    assert dict(some.options)["only"].startswith("1 tensors, ")
    assert claim_of(fit(model, plan, only=lambda name: name.endswith("bias")), 0, []).digest == some


# -- what is held ------------------------------------------------------------------------------------------------------


def converted(*names: str) -> Digest:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3))
    plan = zeta.plan(model, Rules([Rule("*", Normal())]))
    for name in names:
        model.get_submodule(name).bfloat16()
    found = fit(model, plan)
    return claim_of(found, 0, prepare(found, 0)).digest


def test_which_plain_tensors_have_another_dtype_than_planned() -> None:
    assert converted().options == ()
    assert converted("0", "1", "2").options == (("dtypes", "all float32 as bfloat16"),)
    [(_, some)] = converted("0").options
    assert some.startswith("2 of float32 as bfloat16 (")
    assert len({converted(*names) for names in ((), ("0",), ("1",), ("0", "1"), ("0", "1", "2"))}) == 5


def sharded(mesh: DeviceMesh, *placements: Any, shape: tuple[int, ...] = (8, 6)) -> DTensor:
    return distribute_tensor(torch.zeros(shape), mesh, placements, src_data_rank=None)


def test_what_is_held_says_which_mesh_and_how() -> None:
    seen = []
    for rank in range(4):
        with fake_mesh((2, 2), (rank // 2, rank % 2)) as mesh:
            tensors = [("a", sharded(mesh, Shard(0), Replicate())), ("b", sharded(mesh, Replicate(), Shard(1)))]
            tensors = tensors if rank else tensors[::-1]  # in which order a model has them does not matter
            seen.append(Claim(seed=0, plan=None, held=layouts_of([*tensors, ("c", torch.zeros(3))])).digest)
            [held] = seen[-1].held
            assert (held.mesh, held.tensors) == (((0, 1), (2, 3)), 2)
    assert len(set(seen)) == 1
    layouts = set()
    for tensor in (
        (Shard(0), Replicate()),
        (Shard(1), Replicate()),
        (Replicate(), Shard(0)),
        (Shard(0), Shard(1)),
    ):
        with fake_mesh((2, 2), (0, 0)) as mesh:
            for shape in ((8, 6), (8, 4)):
                for dtype in (torch.float32, torch.float16):
                    claim = Claim(
                        seed=0, plan=None, held=layouts_of([("a", sharded(mesh, *tensor, shape=shape).to(dtype))])
                    )
                    layouts.add(claim.digest.held[0].layout)
    assert len(layouts) == 16


def digest(**parts: Any) -> Digest:
    return Digest(**{"seed": 5, "plan": "ab" * 16, **parts})


def shards(mesh: Any, layout: str = "1" * 32) -> Shards:
    return Shards(mesh=mesh, tensors=2, layout=layout)


def differing(digests: Mapping[int, Digest]) -> list[Conflict]:
    return conflicts({rank: one.as_dict() for rank, one in digests.items()})


DIFFERENT: dict[str, tuple[dict[str, Any], str]] = {
    "seed": ({"seed": 6}, "seed: 5 on ranks 0-2, 4, but 6 on rank 3"),
    "plan": ({"plan": "cd" * 16}, "plan: abababababab on ranks 0-2, 4, but cdcdcdcdcdcd on rank 3"),
    "stream": ({"stream": 2}, "stream version: 1 on ranks 0-2, 4, but 2 on rank 3"),
    "zeta": ({"zeta": "9"}, f"zeta version: {zeta.__version__} on ranks 0-2, 4, but 9 on rank 3"),
    "option": ({"options": (("only", "2 tensors"),)}, "only: None on ranks 0-2, 4, but 2 tensors on rank 3"),
}


@pytest.mark.parametrize(("change", "expected"), DIFFERENT.values(), ids=DIFFERENT)
def test_the_ranks_that_differ_are_named_with_what_they_have(change: dict[str, Any], expected: str) -> None:
    digests = {rank: digest(**(change if rank == 3 else {})) for rank in range(5)}
    [conflict] = differing(digests)
    assert conflict.text == expected
    assert conflict.witnesses == (0, 3)
    assert differing({rank: digest() for rank in range(5)}) == []


def test_everybody_may_have_something_else() -> None:
    [conflict] = differing({rank: digest(seed=rank) for rank in range(3)})
    assert conflict.text == "seed: 0 on rank 0, but 1 on rank 1 and 2 on rank 2"


FITTING: dict[str, dict[int, tuple[Shards, ...]]] = {
    "plain tensors": {0: (), 1: ()},
    "FSDP": dict.fromkeys(range(4), (shards((0, 1, 2, 3)),)),
    "HSDP": dict.fromkeys(range(4), (shards(((0, 1), (2, 3))),)),
    "stages": {rank: (shards((0, 1)) if rank < 2 else shards((2, 3), "2" * 32),) for rank in range(4)},
    "stages, one of them not sharded": {0: (shards((0, 1)),), 1: (shards((0, 1)),), 2: ()},
    "rows and the whole": {
        rank: (shards(((0, 1), (2, 3))), shards((rank // 2 * 2, rank // 2 * 2 + 1), "2" * 32)) for rank in range(4)
    },
    "a part of the mesh's ranks": {2: (shards((0, 1, 2, 3)),), 3: (shards((0, 1, 2, 3)),)},
    "a mesh that a rank knows and is not in": {
        0: (shards((0, 1)),),
        1: (shards((0, 1)),),
        2: (shards((0, 1), "3" * 32),),
    },
}


@pytest.mark.parametrize("held", FITTING.values(), ids=FITTING)
def test_what_fits_together_may_differ(held: dict[int, tuple[Shards, ...]]) -> None:
    assert differing({rank: digest(held=one) for rank, one in held.items()}) == []


def test_what_does_not_fit_together_is_named_with_its_mesh() -> None:
    row = shards((0, 1))
    for other, text in (
        ((), "nothing"),
        ((shards((0, 1), "2" * 32),), "2 tensors laid out as 222222222222"),
    ):
        [conflict] = differing({0: digest(held=(row,)), 1: digest(held=other)})
        assert conflict.text == (
            f"held on the mesh [0, 1]: 2 tensors laid out as 111111111111 on rank 0, but {text} on rank 1"
        )
    reshaped = differing({0: digest(held=(shards((0, 1, 2, 3)),)), 1: digest(held=(shards(((0, 1), (2, 3))),))})
    assert [conflict.text.partition(":")[0] for conflict in reshaped] == [
        "held on the mesh [0, 1, 2, 3]",
        "held on the mesh [[0, 1], [2, 3]]",
    ]


def test_the_first_tensors_that_differ_are_named() -> None:
    plans = [planned(), planned(Rule("0.weight", Normal(0.03)))]
    claims = dict(enumerate(Claim(seed=0, plan=plan) for plan in plans))
    [conflict] = differing({rank: claim.digest for rank, claim in claims.items()})
    [text] = conflict.differing({rank: claim.details(conflict) for rank, claim in claims.items()})
    assert text.startswith("plan of 0.weight: Normal(std=0.02) ")
    assert "on rank 0, but Normal(std=0.03) " in text


def test_tensors_of_other_meshes_are_none_of_a_conflicts_business() -> None:
    def laid(name: str, mesh: Any, dim: int = 0) -> ShardedLayout:
        return ShardedLayout(name, (8, 6), torch.float32, mesh, (Shard(dim),))

    claims = {
        0: Claim(seed=0, plan=None, held=(laid("a", (0, 1)), laid("b", (0, 2)))),
        1: Claim(seed=0, plan=None, held=(laid("a", (0, 1), 1), laid("c", (0, 1)), laid("d", (1, 3)))),
    }
    [conflict] = differing({rank: claim.digest for rank, claim in claims.items()})
    found = conflict.differing({rank: claim.details(conflict) for rank, claim in claims.items()})
    where = "float32 (Shard(dim={}),) on the mesh [0, 1] on rank {}"
    assert found == [
        f"held of a: (8, 6) {where.format(0, 0)}, but (8, 6) {where.format(1, 1)}",
        f"held of c: nothing on rank 0, but (8, 6) {where.format(0, 1)}",
    ]


def test_the_json_has_everything() -> None:
    made = digest(held=(shards(((0, 1), (2, 3))),), options=(("only", "x"),))
    assert json.loads(json.dumps(made.as_dict())) == {
        "seed": 5,
        "plan": "ab" * 16,
        "stream": 1,
        "zeta": zeta.__version__,
        "options": {"only": "x"},
        "held": [{"mesh": [[0, 1], [2, 3]], "tensors": 2, "layout": "1" * 32}],
    }


def test_ranks_in_few_words() -> None:
    assert ranks_text([7]) == "rank 7"
    assert ranks_text([0, 1, 3, 5, 6, 7]) == "ranks 0-1, 3, 5-7"
