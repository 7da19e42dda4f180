"""The values of one entry of a plan, in bounded tiles: drawn from a distribution or computed by a program."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from msgspec.structs import replace
from torch import Tensor

from zeta.compute.sampling import Request, fill_, tiles
from zeta.compute.stream.random import parameter_key
from zeta.compute.stream.regions import Region
from zeta.initializers import Program
from zeta.initializers.blocks import is_elementwise
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


def drawing(entry: Entry, seed: int) -> Callable[[Region], Iterator[tuple[tuple[slice, ...], Tensor]]]:
    """A function that gives ``values_of`` one region after the other.

    What is not drawn element by element is computed as a whole, once, and held.
    """
    if is_elementwise(entry.initializer):
        return functools.partial(_drawn, entry, seed)
    whole = Region.whole(entry.shape)
    section = entry.section
    parts = [whole] if section is None else [*whole.along(section.dim, section.spans)]
    held = [(part, computed(replace(entry, section=None), seed, region=part)) for part in parts]
    return functools.partial(_held, held)


def _drawn(entry: Entry, seed: int, region: Region) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    return values_of(entry, seed, region=region)


def _held(held: list[tuple[Region, Tensor]], region: Region) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    for part, values in held:
        if (both := region.meeting(part)) is not None:
            yield region.place_of(both, both.inside), values[part.place_of(both, both.inside)]


def kept_of(entry: Entry, region: Region, values: Tensor) -> Tensor:
    """What of the values of a region is outside of the entry's section; flattened, it is in row-major order."""
    if entry.section is None:
        return values
    dim = entry.section.dim
    parts = [
        values.narrow(dim, part.offsets[dim] - region.offsets[dim], part.sizes[dim])
        for part in region.along(dim, entry.section.rest(entry.shape[dim]))
    ]
    if not parts:
        return values.new_empty(0)
    return torch.cat(parts, dim) if len(parts) > 1 else parts[0].contiguous()
