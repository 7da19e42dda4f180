"""One of several real processes: adapts sharded models to a checkpoint, and compares with the unsharded ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import zeta
from tests.helpers.checkpoints import VOCABULARY, gpt2, llama, transformers
from tests.helpers.processes import join
from zeta import Layers, Mean, Rows
from zeta.write.shards import held

SEED, NEW = 7, VOCABULARY + 14
GROWTHS: list[tuple[Any, Any, dict[str, Any]]] = [
    (transformers.GPT2LMHeadModel, lambda: gpt2(vocabulary=NEW), {"*wte.weight": Rows()}),
    (transformers.GPT2LMHeadModel, lambda: gpt2(vocabulary=NEW), {"*wte.weight": Rows(Mean())}),
    (transformers.LlamaForCausalLM, lambda: llama(vocabulary=NEW), {"*embed_tokens.weight": Rows()}),
    (transformers.LlamaForCausalLM, lambda: llama(layers=5), {"model.layers": Layers(to=5)}),
]


def fsdp(model: Any, mesh: DeviceMesh) -> nn.Module:
    fully_shard(model, mesh=mesh)
    return model  # type: ignore[no-any-return]


def tensor_parallel(model: Any, mesh: DeviceMesh) -> nn.Module:
    plan: dict[str, Any] = {"model.embed_tokens": RowwiseParallel(), "lm_head": ColwiseParallel()}
    plan |= {"model.layers.*.mlp.gate_proj": ColwiseParallel(), "model.layers.*.mlp.down_proj": RowwiseParallel()}
    return parallelize_module(model, mesh, plan)


def compare(model: nn.Module, whole: dict[str, Tensor]) -> None:
    sharded = 0
    for name, tensor in model.state_dict(keep_vars=True).items():
        here = held(tensor)
        sharded += here.sharded
        for part in here.parts:
            assert torch.equal(here.local[part.index], whole[name][part.region.slices]), name
    assert sharded


def main(rank: int, ranks: int, folder: Path) -> None:
    join(rank, ranks, folder)
    mesh = init_device_mesh("cpu", (ranks,))
    shards: list[Callable[[Any, DeviceMesh], nn.Module]] = [fsdp, tensor_parallel]
    for kind, config, grow in GROWTHS:
        source = folder / kind.__name__
        whole, plan = zeta.record(kind, config())
        zeta.adapt_(whole, source, plan, SEED, grow=grow)
        expected = {name: tensor.detach() for name, tensor in whole.state_dict().items()}
        for shard in shards:
            if shard is tensor_parallel and kind is transformers.GPT2LMHeadModel:
                continue  # its tied weights would be split in two ways
            model = shard(zeta.record(kind, config())[0], mesh)
            report = zeta.adapt_(model, source, plan, SEED, grow=grow, confirm=True)
            assert report.confirmed
            assert report.ok, report
            compare(model, expected)
    other, plan = zeta.record(transformers.LlamaForCausalLM, llama())
    fully_shard(other, mesh=mesh)
    with pytest.raises(zeta.RankError, match=r"(?s)nothing was drawn, and a model with memory may have.*seed"):
        zeta.adapt_(other, folder / "LlamaForCausalLM", plan, rank, confirm=True)
    dist.barrier()
