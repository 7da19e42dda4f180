"""Regions: which elements a box has, in which order, and how it is cut; compared with numbers that torch counts."""

from __future__ import annotations

import math
import random

import pytest
import torch

from zeta.compute.stream.regions import Region


def boxes(count: int) -> list[Region]:
    """Boxes at random in tensors of up to four dimensions, empty ones among them."""
    rng = random.Random(7)
    found = [Region(shape=(), offsets=(), sizes=())]
    while len(found) < count:
        shape = tuple(rng.randint(1, 6) for _ in range(rng.randint(1, 4)))
        offsets = tuple(rng.randint(0, n - 1) for n in shape)
        sizes = tuple(rng.randint(rng.random() < 0.9, n - o) for n, o in zip(shape, offsets, strict=True))
        found.append(Region(shape=shape, offsets=offsets, sizes=sizes))
    return found


def numbers(region: Region) -> torch.Tensor:
    """The row-major number of each element of the box, as torch cuts it out of a tensor of numbers."""
    return torch.arange(math.prod(region.shape)).reshape(region.shape)[region.slices]


@pytest.mark.parametrize("region", boxes(60), ids=str)
def test_a_box_has_the_elements_that_torch_cuts_out(region: Region) -> None:
    expected = numbers(region)
    assert region.numel == expected.numel()
    assert torch.equal(region.indices(), expected)
    if expected.numel():
        assert region.start == int(expected.flatten()[0])
        flat = expected.flatten()
        assert region.is_run == bool((flat == flat[0] + torch.arange(flat.numel())).all())


@pytest.mark.parametrize("most", [1, 2, 5, 7, 24, 10**6])
@pytest.mark.parametrize("region", boxes(40), ids=str)
def test_tiles_are_small_and_cover_the_box_in_order(region: Region, most: int) -> None:
    expected = numbers(region)
    seen: list[int] = []
    for index, tile in region.tiles(most):
        assert 0 < tile.numel <= most
        assert torch.equal(expected[index], numbers(tile)), "the index is inside of the region"
        seen += numbers(tile).flatten().tolist()
    assert seen == expected.flatten().tolist()


def test_a_box_that_leaves_its_tensor_is_no_region() -> None:
    with pytest.raises(AssertionError):
        Region(shape=(4,), offsets=(2,), sizes=(3,))
