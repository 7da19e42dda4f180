"""The reference backend: runs the definition in ``random`` with torch operations, on any device with int64 and fp64."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from zeta.compute.stream.kernels.tasks import Law, Task
from zeta.compute.stream.random import (
    LOW_WORD,
    fma32,
    fp32,
    normal32,
    normal64,
    uniform32,
    uniform64,
    word53,
    words_at,
    words_of_run,
)
from zeta.compute.stream.regions import Region

#: elements computed at once: the fp64 temporaries stay in a core's cache
TILE: Final = 2**16


def fill(tasks: Sequence[Task]) -> None:
    """Run the tasks one after the other, in bounded tiles."""
    for task in tasks:
        for key, out in zip(task.keys, task.outs, strict=True):
            for index, tile in task.region.tiles(TILE):
                out[index].copy_(_values(task, key, tile).view(tile.sizes))


def words(key: int, draw: int, region: Region, device: torch.device) -> Tensor:
    """The 32-bit words of the region's elements, in row-major order: int64 ``(region.numel,)``."""
    if region.is_run:
        return words_of_run(key, region.start, region.numel, draw=draw, device=device)
    return words_at(key, region.indices(device).view(-1), draw=draw)


def _values(task: Task, key: int, tile: Region) -> Tensor:
    law, device = task.law, task.device
    first = words(key, task.draw, tile, device)
    if law.kind == "words":
        return first
    if law.dtype is torch.float64:
        return _values64(law, first, words(key, task.draw | LOW_WORD, tile, device))
    return _values32(law, first)


def _values32(law: Law, drawn: Tensor) -> Tensor:
    x = uniform32(drawn) if law.within is None else normal32(drawn, law.within)
    values = fma32(x, fp32(law.scale), fp32(law.shift))
    return (values.clamp(law.low, law.high) if law.bounded else values).float()


def _values64(law: Law, high: Tensor, low: Tensor) -> Tensor:
    x = uniform64(high, low) if law.within is None else normal64(word53(high, low), law.within)
    values = law.shift + x * law.scale
    return values.clamp(law.low, law.high) if law.bounded else values
