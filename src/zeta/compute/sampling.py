"""From (initializer, key, region) to values in a tensor.

Elementwise initializers become tasks for the kernels, which compute any region alone and write it in place. The others
look at whole matrices: they compute the whole tensor, where the target is, and cut the region out of it.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from zeta.base import dtypes
from zeta.base.language.state import one_thread
from zeta.base.process.forked import check_threads
from zeta.compute import matrices
from zeta.compute.stream import kernels
from zeta.compute.stream.kernels import Law, Task, native
from zeta.compute.stream.random import interval
from zeta.compute.stream.regions import Region
from zeta.fans import Axes
from zeta.initializers import (
    Blocks,
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Program,
    Site,
    Sparse,
    TruncatedNormal,
    Uniform,
    matrix_shape,
)
from zeta.initializers.blocks import is_elementwise, laws_of
from zeta.initializers.elementwise import ELEMENTWISE

#: bytes of the tiles that are yielded one by one
TILE_BYTES: Final = 2**24

# Draw numbers, the upper 64 bits of the counter.
REAL_DRAW: Final = 0
IMAGINARY_DRAW: Final = 1
MASK_DRAW: Final = 2
SKETCH_DRAW: Final = 3


class Request(Struct, frozen=True, kw_only=True):
    """Write the values of ``region`` of parameters that differ in their keys only, each to one of ``outs``.

    ``keys`` are those of ``parameter_key``, and ``outs`` tensors of the region's sizes and of one dtype, with any
    strides. ``axes`` are the roles of the dimensions, which the matrix initializers need; ``zero_row`` is the global
    index along dimension 0 of a row that is zero; ``draw`` is added to the numbers of all draws.
    """

    initializer: Initializer
    region: Region
    keys: Sequence[int]
    outs: Sequence[Tensor]
    axes: Axes | None = None
    zero_row: int | None = None
    draw: int = 0


def fill_(requests: Sequence[Request]) -> None:
    """Write the values of all requests: constants together, and all draws of the same device in one call.

    Raises ``TypeError`` for an initializer that was not solved.
    """
    constants: list[Request] = []
    tasks: list[Task] = []
    last: tuple[_One, Tensor] | None = None  # the last matrices, which several blocks may be cut out of
    pending = [*reversed(requests)]  # the next one last
    while pending:
        request = pending.pop()
        initializer = request.initializer
        if isinstance(initializer, Blocks):
            pending += reversed(_of_blocks(request, initializer))
        elif any(map(Tensor.is_neg, request.outs)) or any(map(Tensor.is_conj, request.outs)):
            plain = [torch.empty(request.region.sizes, dtype=out.dtype, device=out.device) for out in request.outs]
            fill_([replace(request, outs=plain)])
            for out, values in zip(request.outs, plain, strict=True):
                out.copy_(values)
        elif isinstance(initializer, Constant):
            constants.append(request)
        elif isinstance(initializer, ELEMENTWISE):
            tasks += _tasks(request)
        elif request.region.numel:
            with _arithmetic(initializer):
                for one in _each(request):
                    if last is None or not _same_whole(last[0], one):
                        last = None  # its memory first
                        last = one, _whole(initializer, one)
                    one.out.copy_(_cut(last[1], one))
    _fill_constants(constants)
    if tasks:
        kernels.fill(tasks)
    for request in requests:
        if request.zero_row is not None:
            for out in request.outs:
                with_zero_row(out, request.region, request.zero_row)


def _of_blocks(request: Request, blocks: Blocks) -> list[Request]:
    """A request for each block of one that has several initializers."""
    region, dim, axes = request.region, blocks.dim, blocks.axes_of(request.axes)
    offset, end = region.offsets[dim], region.offsets[dim] + region.sizes[dim]
    spans = blocks.spans(region.shape[dim])
    if not blocks.is_elementwise:  # equal ones after each other, as their matrices are computed once
        spans.sort(key=lambda span: repr(span[2]))
    found: list[Request] = []
    for begin, stop, part in spans:
        first, last = max(begin, offset), min(stop, end)
        if first < last:
            outs = [out.narrow(dim, first - offset, last - first) for out in request.outs]
            inside = region.within(dim, first, last)
            one = replace(request, initializer=part, region=inside, outs=outs, axes=axes, zero_row=None)
            found.append(one)
    return found


class _One(Struct, frozen=True, kw_only=True):
    """A request for one parameter."""

    initializer: Initializer
    key: int
    region: Region
    out: Tensor
    axes: Axes | None
    draw: int


def _each(request: Request) -> Iterator[_One]:
    initializer, region, axes, draw = request.initializer, request.region, request.axes, request.draw
    for key, out in zip(request.keys, request.outs, strict=True):
        yield _One(initializer=initializer, key=key, region=region, out=out, axes=axes, draw=draw)


def _same_whole(one: _One, other: _One) -> bool:
    """Whether two requests are for parts of the same matrices."""
    # initializers are compared as text, because -0.0 equals 0.0
    return (repr(one.initializer), one.key, one.draw, one.axes, one.region.shape, one.out.dtype, one.out.device) == (
        *(repr(other.initializer), other.key, other.draw, other.axes),
        *(other.region.shape, other.out.dtype, other.out.device),
    )


def sample(
    initializer: Initializer,
    *,
    key: int,
    region: Region,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    axes: Axes | None = None,
    draw: int = 0,
) -> Tensor:
    """Return the values of ``region``, as a contiguous tensor of its sizes.

    Args:
        initializer: a solved one (see ``Initializer.solve``).
        key: the parameter's key, of :func:`zeta.compute.stream.random.parameter_key`.
        region: which elements; row-major position in the whole tensor decides each value.
        dtype: any real or complex floating dtype; constants also integers.
        device: where to compute. Elementwise values have the same bits on every device.
        axes: the roles of the dimensions; needed by the matrix initializers.
        draw: the first draw number; those of one key are independent.

    >>> sample(Normal(0.02), key=1, region=Region.whole((2, 2)))
    tensor([[0.0246, 0.0250],
            [0.0043, 0.0111]])
    """
    out = torch.empty(region.sizes, dtype=dtype, device=device)
    fill_([Request(initializer=initializer, keys=(key,), region=region, outs=(out,), axes=axes, draw=draw)])
    return out


def is_independent(initializer: Initializer, dtype: torch.dtype) -> bool:
    """Whether tiles are drawn and measured on the CPU by compiled kernels alone, so that threads may share them out.

    Everything else calls torch, which uses all threads by itself.
    """
    return isinstance(initializer, Uniform | Normal | TruncatedNormal) and dtype in native.DTYPES and is_native()


def is_native() -> bool:
    """Whether the CPU draws and measures by compiled kernels."""
    return kernels.backend().measure is not None


def tolerance(initializer: Initializer, dtype: torch.dtype) -> float:
    """By how much values of ``dtype`` may differ between devices and linear algebra libraries, before rounding.

    It is 0, the same bits everywhere, for all but orthogonal matrices: see :func:`zeta.compute.orthogonal.orthonormal`.
    """
    if isinstance(initializer, Program):
        moved = all(step.leaf is not None or step.op in _MOVES for step in initializer.steps)
        return max((tolerance(draw.initializer, dtype) for draw in initializer.draws), default=0.0) if moved else 0.0
    relative = 1e-13 if dtype in (torch.float64, torch.complex128) else 2e-6
    gains = [law.gain for law in laws_of(initializer) if isinstance(law, Orthogonal | DeltaOrthogonal)]
    return max((abs(gain) * relative for gain in gains), default=0.0)


#: operations of programs that only move values, or set some to a constant
_MOVES: Final = frozenset(("permute", "reshape", "slice", "strided", "expand", "cat", "update", "full"))


def pieces(initializer: Initializer, region: Region, most: int) -> Iterable[tuple[tuple[slice, ...], Region]]:
    """Cut ``region`` into consecutive ones of at most ``most`` elements: (index inside the region, piece).

    A matrix initializer's region stays whole, as each piece would cost as much as all of it.
    """
    return region.one_tile if region.numel <= most or not is_elementwise(initializer) else region.tiles(most)


def tiles(
    initializer: Initializer,
    *,
    key: int,
    region: Region,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    axes: Axes | None = None,
    zero_row: int | None = None,
    draw: int = 0,
) -> Iterator[tuple[tuple[slice, ...], Tensor]]:
    """Yield ``region`` in consecutive tiles: (index inside the region, values). Temporaries stay bounded."""
    for index, piece in pieces(initializer, region, TILE_BYTES // dtype.itemsize):
        out = torch.empty(piece.sizes, dtype=dtype, device=device)
        request = Request(
            initializer=initializer, keys=(key,), region=piece, outs=(out,), axes=axes, zero_row=zero_row, draw=draw
        )
        fill_([request])
        yield index, out


def with_zero_row(values: Tensor, region: Region, row: int | None) -> Tensor:
    """Set the global row ``row`` to zero, in place, where the region has it."""
    if row is not None and region.offsets[0] <= row < region.offsets[0] + region.sizes[0]:
        values[row - region.offsets[0]].zero_()
    return values


# -- constants -------------------------------------------------------------------------------------------------------

#: a larger tensor is set by itself, as zeroing and adding would go over its memory twice
_LARGE: Final = 2**16


def _fill_constants(requests: Sequence[Request]) -> None:
    zeros: list[Tensor] = []
    small: dict[float, list[Tensor]] = {}
    for request in requests:
        assert isinstance(request.initializer, Constant)
        outs, dtype, value = request.outs, request.outs[0].dtype, request.initializer.value
        if value:
            value = dtypes.rounded(value, dtype)  # what rounds to zero keeps its sign
        if not value and math.copysign(1.0, value) > 0:
            zeros += outs
        elif dtype in _FOREACH_ADDS and request.region.numel <= _LARGE and abs(value) >= torch.finfo(dtype).tiny:
            zeros += outs
            small.setdefault(value, []).extend(outs)
        else:
            for out in outs:
                out.fill_(value)  # subnormal numbers too: torch's threads may flush a sum
    if zeros:
        torch._foreach_zero_(zeros)
    for value, outs in small.items():
        torch._foreach_add_(outs, value)


_FOREACH_ADDS: Final = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


# -- draws -----------------------------------------------------------------------------------------------------------


def _tasks(request: Request) -> Iterator[Task]:
    """What the kernels have to do: one task, or one for each part of complex tensors."""
    region, outs = request.region, request.outs
    laws = _laws(request.initializer, outs[0].dtype, request.initializer.exact[-1])
    for number, (draw, law) in enumerate(laws):
        parts = outs if len(laws) == 1 else [torch.view_as_real(out)[..., number] for out in outs]
        yield Task(law=law, keys=request.keys, draw=request.draw + draw, region=region, outs=parts)


@functools.lru_cache(maxsize=4096)
def _laws(initializer: Initializer, dtype: torch.dtype, signs: tuple[float, ...]) -> tuple[tuple[int, Law], ...]:
    """The number and the law of each draw: one, or for a complex dtype those of the real and the imaginary part.

    Both parts share the variance evenly, so that ``E|x - mean|^2`` is the real distribution's. ``signs`` are for the
    cache.
    """
    if dtype not in dtypes.COMPLEX:
        return ((REAL_DRAW, _law(initializer, dtype)),)
    part = dtypes.COMPLEX[dtype]
    real, imaginary = _parts(initializer)
    return (REAL_DRAW, _law(real, part)), (IMAGINARY_DRAW, _law(imaginary, part))


def _law(initializer: Initializer, dtype: torch.dtype) -> Law:
    low, high = initializer.bounds()
    if math.isfinite(low) or math.isfinite(high):
        low, high = dtypes.inward(low, high, dtype)
    if isinstance(initializer, Uniform):
        width = initializer.high - initializer.low
        return Law(kind="uniform", dtype=dtype, scale=width, shift=initializer.low, low=low, high=high)
    assert isinstance(initializer, Normal | TruncatedNormal)
    sigmas = initializer.sigmas() if isinstance(initializer, TruncatedNormal) else (-math.inf, math.inf)
    within = interval(*sigmas, bits=53 if dtype is torch.float64 else 32)
    scale, shift = initializer.std, initializer.mean
    return Law(kind="normal", dtype=dtype, scale=scale, shift=shift, low=low, high=high, within=within)


def _parts(initializer: Initializer) -> tuple[Initializer, Initializer]:
    """The initializers of the real and the imaginary part of a complex value; the mean is real."""
    half = math.sqrt(0.5)
    if isinstance(initializer, Uniform):
        centre, reach = (initializer.low + initializer.high) / 2, (initializer.high - initializer.low) / 2 * half
        return Uniform(centre - reach, centre + reach), Uniform(-reach, reach)
    if isinstance(initializer, Normal):
        std = initializer.std * half
        return Normal(std, initializer.mean), Normal(std)
    assert isinstance(initializer, TruncatedNormal)
    imaginary = initializer.shifted(-initializer.mean).scaled(half)
    assert isinstance(imaginary, TruncatedNormal)
    return imaginary.shifted(initializer.mean), imaginary


# -- whole matrices --------------------------------------------------------------------------------------------------


def _arithmetic(initializer: Initializer) -> contextlib.AbstractContextManager[None]:
    """One thread where values may be subnormal: torch's other threads may flush these to zero."""
    assert isinstance(initializer, Orthogonal | DeltaOrthogonal | Identity | Dirac | Sparse), initializer
    scale = initializer.std if isinstance(initializer, Sparse) else initializer.gain
    return one_thread() if abs(scale) < matrices.TINY else contextlib.nullcontext()


@functools.singledispatch
def _whole(initializer: Initializer, request: _One) -> Tensor:
    """The whole parameter that a request is for a part of, in the precision that its Gaussian is drawn in."""
    raise TypeError(f"{initializer!r} cannot be sampled: solve it for a parameter first")


@_whole.register(Orthogonal)  # without the class, it would evaluate all annotations
def _orthogonal(initializer: Orthogonal, request: _One) -> Tensor:
    return matrices.orthogonal(_gaussian(request), initializer.gain, _axes(request))


@_whole.register(DeltaOrthogonal)
def _delta_orthogonal(initializer: DeltaOrthogonal, request: _One) -> Tensor:
    return matrices.delta_orthogonal(_gaussian(request), initializer.gain, _axes(request))


@_whole.register(Identity)
@_whole.register(Dirac)
def _diagonal(initializer: Identity | Dirac, request: _One) -> Tensor:
    return matrices.diagonal(request.region.shape, initializer.gain, _axes(request))


@_whole.register(Sparse)
def _sparse(initializer: Sparse, request: _One) -> Tensor:
    axes = _axes(request)
    rows = matrix_shape(Site(shape=request.region.shape, axes=axes)).rows
    # the product in fp64 and then rounded: the bits of the stream's version
    values = _gaussian(request)
    values = values.to(torch.promote_types(values.dtype, torch.float64)) * initializer.std
    return matrices.sparse_columns(values, _words(request, MASK_DRAW), initializer.zeros(rows), axes)


def _axes(request: _One) -> Axes:
    assert request.axes is not None
    check_threads()  # torch's operations work on the whole
    return request.axes


def _device(request: _One) -> torch.device:
    """Where the whole is computed: where it is wanted, as far as there is linear algebra."""
    return request.out.device if request.out.device.type in ("cpu", "cuda") else torch.device("cpu")


def _gaussian(request: _One) -> Tensor:
    """Standard normal values of the whole parameter."""
    double = request.out.dtype in (torch.float64, torch.complex128)
    if request.out.dtype in dtypes.COMPLEX:
        dtype = torch.complex128 if double else torch.complex64
    else:
        dtype = torch.float64 if double else torch.float32
    region = Region.whole(request.region.shape)
    return sample(Normal(), key=request.key, region=region, dtype=dtype, device=_device(request), draw=request.draw)


def _words(request: _One, draw: int) -> Tensor:
    """The 32-bit words of all elements of the whole parameter, as int64."""
    region = Region.whole(request.region.shape)
    out = torch.empty(region.sizes, dtype=torch.uint32, device=_device(request))
    kernels.fill([Task(law=kernels.WORDS, keys=(request.key,), draw=request.draw + draw, region=region, outs=(out,))])
    return out.to(torch.int64)


def _cut(weight: Tensor, request: _One) -> Tensor:
    """The request's region of a whole weight, rounded through fp32."""
    region = weight[request.region.slices]
    if request.out.dtype not in (torch.float64, torch.complex128):
        region = region.to(torch.complex64 if weight.is_complex() else torch.float32)
    return region.to(dtype=request.out.dtype)
