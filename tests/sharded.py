"""Process groups that talk to nobody: meshes of any size in one process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

_numbers = itertools.count()


@contextmanager
def fake_mesh(shape: tuple[int, ...], coordinate: tuple[int, ...]) -> Iterator[DeviceMesh]:
    """A mesh as the rank at ``coordinate`` sees it. Nothing is sent, and nothing arrives.

    No two have the same names: torch caches by them, and takes one rank's mesh for another's.
    """
    rank = int(torch.arange(torch.Size(shape).numel()).view(shape)[coordinate])
    dist.init_process_group("fake", rank=rank, world_size=torch.Size(shape).numel(), store=FakeStore())
    try:
        names = tuple(f"mesh_{next(_numbers)}" for _ in shape)
        yield init_device_mesh("cpu", shape, mesh_dim_names=names)
    finally:
        dist.destroy_process_group()
