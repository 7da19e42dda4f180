"""Which tensor is in which file: as huggingface_hub divides them, and as the sizes say."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from tests.write.checkpoint.test_checkpoint import UNIFORM
from zeta.errors import SpecError
from zeta.write.checkpoint import Layout, bytes_of, layout


def layout_of(model: nn.Module, most: int, *, drop_ties: bool = False) -> Layout:
    return layout(zeta.plan(model, UNIFORM), drop_ties=drop_ties, max_shard_size=most)


def names_in(files: Layout) -> dict[str, list[str]]:
    return {shard.name: sorted(name for item in shard.stored for name in item.names) for shard in files.shards}


@pytest.mark.parametrize("seed", range(40))
def test_files_are_those_of_huggingface_hub(seed: int) -> None:
    hub = pytest.importorskip("huggingface_hub")
    draw = random.Random(seed)
    sizes = [draw.choice((1, 2, 3, 5, 9, 30)) for _ in range(draw.randint(1, 12))]
    model = nn.ParameterDict({f"p{i}": nn.Parameter(torch.zeros(size)) for i, size in enumerate(sizes)})
    most = draw.randint(4, 160)
    expected = hub.split_torch_state_dict_into_shards(dict(model.named_parameters()), max_shard_size=most)
    files = layout_of(model, most)
    assert names_in(files) == {name: sorted(keys) for name, keys in expected.filename_to_tensors.items()}
    assert (files.index is None) is (len(expected.filename_to_tensors) == 1)
    if files.index is not None:
        index = json.loads(files.index)
        assert index["weight_map"] == expected.tensor_to_filename
        assert index["metadata"]["total_size"] == expected.metadata["total_size"] == 4 * sum(sizes)


@pytest.mark.parametrize(("most", "count"), [(47, 3), (48, 2), (95, 2), (96, 1)])
def test_the_border_of_a_file(most: int, count: int) -> None:
    """Six vectors of 16 bytes: a file that is exactly full is no reason for another."""
    model = nn.ParameterDict({name: torch.zeros(4) for name in "abcdef"})
    assert len(layout_of(model, most).shards) == count


def test_tied_names_are_in_one_file() -> None:
    model = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in "abc"})
    model["c"].weight = model["a"].weight
    assert list(names_in(layout_of(model, 32)).values()) == [["a.weight", "c.weight"], ["b.weight"]]
    assert list(names_in(layout_of(model, 32, drop_ties=True)).values()) == [["a.weight", "b.weight"]]


def test_the_index_has_every_name_and_the_size_without_headers() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "n": nn.BatchNorm1d(3)})
    files = layout(zeta.plan(model, "torch"), drop_ties=False, max_shard_size=40)
    assert files.index is not None
    index = json.loads(files.index)
    assert set(index["weight_map"]) == set(model.state_dict())
    assert set(index["weight_map"].values()) == {shard.name for shard in files.shards}
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in model.state_dict().values()) == files.nbytes
    assert index["metadata"]["total_parameters"] == sum(value.numel() for value in model.parameters())


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5 * 10**9), (" 1.5 mb ", 1_500_000), ("2KiB", 2048), ("3 TiB", 3 * 2**40), ("7B", 7), (1, 1)],
)
def test_sizes(text: int | str, size: int) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("size", ["", "5", "GB", "-1GB", "0B", "0.1B", "5 XB", "1e3MB", 0, -1, 1.5, True, None])
def test_what_is_no_size(size: Any) -> None:
    with pytest.raises(SpecError, match=r"max_shard_size must be .*, got "):
        bytes_of(size)
