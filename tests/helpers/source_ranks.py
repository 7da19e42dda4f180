"""One of several processes that write a checkpoint of DTensors by ``torch.distributed.checkpoint``."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from tests.helpers.processes import join
from tests.helpers.sources import of_bytes, same
from zeta.base.sources import open_source
from zeta.errors import SpecError


def tensors() -> dict[str, Tensor]:
    """The whole tensors, the same in each process."""
    return {
        "rows": of_bytes(torch.float32, 7, 4, seed=1),
        "columns": of_bytes(torch.bfloat16, 3, 5, seed=2),
        "short": of_bytes(torch.int64, 1, 3, seed=3),  # a process has none of it
        "replicated": of_bytes(torch.float8_e4m3fn, 4, 2, seed=4),
        "plain": of_bytes(torch.complex64, 2, 3, seed=5),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
    }


def sharded(whole: dict[str, Tensor], ranks: int) -> dict[str, Tensor | DTensor]:
    """The state dict of one process."""
    mesh = init_device_mesh("cpu", (ranks,))
    places = {"rows": Shard(0), "columns": Shard(1), "short": Shard(0)}
    state: dict[str, Tensor | DTensor] = dict(whole)
    for name, place in places.items():
        state[name] = distribute_tensor(whole[name], mesh, [place])
    state["replicated"] = DTensor.from_local(whole["replicated"], mesh, [Replicate()])
    return state


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder)
    whole = tensors()
    state = sharded(whole, ranks)
    dcp.save({"model": state, "step": 3}, checkpoint_id=folder / "checkpoint")
    with open_source(folder / "checkpoint") as source:
        assert source.tensors.keys() == {f"model.{name}" for name in whole}
        for name, value in whole.items():
            assert same(source.read(f"model.{name}"), value), name
    with pytest.raises(SpecError, match=r"'rows': is a DTensor, of which this process has a part; pass its"):
        open_source(state)
