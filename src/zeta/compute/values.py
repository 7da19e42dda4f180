"""The values of one entry of a plan, in bounded tiles: drawn from a distribution or computed by a program."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from msgspec.structs import replace
from torch import Tensor

from zeta.compute.sampling import Request, fill_, tiles
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.initializers import Program
from zeta.resolve.plans import Entry


def values_of(
    entry: Entry,
    seed: int,
    *,
    region: Region | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield the values of an entry or of a region of it, in bounded tiles: (index inside the region, values).

    Of an entry with a section, only what is in the section.
    """
    region = Region.whole(entry.shape) if region is None else region
    if entry.section is not None:
        whole = replace(entry, section=None)
        for part in region.along(entry.section.dim, entry.section.spans):
            for index, tile in values_of(whole, seed, region=part, dtype=dtype, device=device):
                yield region.place_of(part, index), tile
        return
    if isinstance(entry.initializer, Program):
        from zeta.compute import programs  # here, because it imports the language of programs, which few models need

        yield from programs.tiles(
            entry.initializer,
            name=entry.name,
            seed=seed,
            region=region,
            dtype=entry.dtype if dtype is None else dtype,
            device=torch.device(device),
            zero_row=entry.padding_idx,
        )
        return
    yield from tiles(
        entry.initializer,
        key=parameter_key(seed, entry.name),
        region=region,
        dtype=entry.dtype if dtype is None else dtype,
        device=device,
        axes=entry.axes,
        zero_row=entry.padding_idx,
    )


def computed(
    entry: Entry,
    seed: int,
    *,
    region: Region | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """The values of an entry or of a region of it, as one contiguous tensor."""
    region = Region.whole(entry.shape) if region is None else region
    out = torch.empty(region.sizes, dtype=entry.dtype if dtype is None else dtype, device=device)
    if not isinstance(entry.initializer, Program):
        key = parameter_key(seed, entry.name)
        fill_(
            [
                Request(
                    initializer=entry.initializer,
                    keys=[key],
                    region=region,
                    outs=[out],
                    axes=entry.axes,
                    zero_row=entry.padding_idx,
                )
            ]
        )
        return out
    for index, tile in values_of(entry, seed, region=region, dtype=out.dtype, device=out.device):
        out[index].copy_(tile)
    return out
