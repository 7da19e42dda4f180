"""Small tensors in blocks: the same bytes as one by one, and a difference is still told by name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.compute import sampling
from zeta.initializers import Constant, Keep, Normal, Orthogonal, TruncatedNormal, Uniform, Zeros
from zeta.rules import glob
from zeta.write import checkpoint as files
from zeta.write.checkpoint import Block, Stored, blocks

RULES = Rules(
    [
        Rule("ortho.weight", Orthogonal()),
        Rule("kept", Keep()),
        Rule(glob("emb.weight") | glob("head.weight"), Normal(0.5)),
        Rule("*.bias", Constant(0.3)),
        Rule("large.weight", Uniform(-1, 1)),
        Rule("*in_half", TruncatedNormal(0.02)),
        Rule("*", Normal(0.02)),
    ]
)


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(7, 5, padding_idx=2)
        self.head = nn.Linear(5, 7)
        self.head.weight = self.emb.weight
        self.norm = nn.BatchNorm1d(5)
        self.in_half = nn.Parameter(torch.empty(3, 5, dtype=torch.float16))
        self.in_double = nn.Parameter(torch.empty(4, dtype=torch.float64))
        self.in_complex = nn.Parameter(torch.empty(4, 3, dtype=torch.complex64))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.scalar = nn.Parameter(torch.empty(()))
        self.kept = nn.Parameter(torch.arange(3.0))
        self.large = nn.Linear(300, 300)
        self.ortho = nn.Linear(4, 4)
        self.last = nn.Linear(2, 2)


def stored(model: nn.Module, *, drop_ties: bool = False) -> list[Block | Stored]:
    plan = zeta.plan(model, RULES)
    return list(blocks(files.layout(plan, drop_ties=drop_ties, max_shard_size=10**9).shards[0].stored))


def test_blocks_are_what_follows_each_other_in_a_file() -> None:
    parts = stored(Mixed())
    apart = [part.entry.name for part in parts if isinstance(part, Stored)]
    assert sorted(apart) == ["kept", "large.weight", "ortho.weight"]
    position = parts[0].start if isinstance(parts[0], Block) else parts[0].offsets[0]
    for part in parts:
        if isinstance(part, Block):
            assert part.start == position
            assert len({item.entry.dtype for item in part.stored}) == 1
            position += part.numel * part.dtype.itemsize
        else:
            position += part.entry.nbytes * len(part.names)
    assert max(len(part.stored) for part in parts if isinstance(part, Block)) >= 5


@pytest.mark.parametrize("drop_ties", [False, True])
def test_files_hold_what_the_model_gets(drop_ties: bool, tmp_path: Path) -> None:
    model = Mixed()
    zeta.save(model, zeta.plan(model, RULES), tmp_path, seed=5, drop_ties=drop_ties)
    zeta.init_(model, RULES, seed=5)
    found = load_file(tmp_path / "model.safetensors")
    expected = {name: tensor for name, tensor in model.state_dict().items() if not drop_ties or name != "head.weight"}
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
    assert not found["emb.weight"][2].any()
    assert zeta.verify(tmp_path).ok


def test_a_changed_value_in_a_block_is_told_by_every_name_that_has_it(tmp_path: Path) -> None:
    model = Mixed()
    plan = zeta.plan(model, RULES)
    zeta.save(model, plan, tmp_path, seed=5)
    path = tmp_path / "model.safetensors"
    [shard] = files.layout(plan, drop_ties=False, max_shard_size=10**9).shards
    offsets = {name: o for item in shard.stored for name, o in zip(item.names, item.offsets, strict=True)}
    content = bytearray(path.read_bytes())
    content[offsets["head.weight"] + 4 * (5 * 1 + 3)] ^= 1
    content[offsets["last.bias"] + 4] ^= 1
    path.write_bytes(content)
    differences = {item.name: (item.count, item.first) for item in zeta.verify(tmp_path).differences}
    assert differences == {"head.weight": (1, (1, 3)), "last.bias": (1, (1,))}


def test_small_tensors_are_drawn_by_the_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = sampling.fill_

    def counted(requests: Sequence[sampling.Request]) -> None:
        calls.append(len(requests))
        original(requests)

    monkeypatch.setattr(sampling, "fill_", counted)
    model = nn.ModuleList(nn.Linear(2, 2, device="meta") for _ in range(5000))
    rules = Rules([Rule("*.weight", Normal(0.02)), Rule("*.bias", Zeros())])
    seen: list[tuple[str, int, int]] = []
    plan = zeta.plan(model, rules)
    report = zeta.save(model, plan, tmp_path, progress=lambda *told: seen.append(told), seed=0)
    assert report.ok
    assert (sum(calls), len(calls)) == (10_000, 3)
    assert zeta.verify(tmp_path).ok
    assert (sum(calls), len(calls)) == (20_000, 6)
    assert [name for name, _, _ in seen] == [entry.name for entry in plan]
    assert [done for _, done, _ in seen] == sorted(done for _, done, _ in seen)
    assert seen[-1][1] == seen[-1][2] == plan.nbytes
