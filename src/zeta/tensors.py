"""One tensor: fill it in place, or compute what a plan gives it, without a model."""

from __future__ import annotations

import operator
from typing import Any, Final, TypeVar

import torch
from torch import Tensor, nn

from zeta.base import dtypes
from zeta.base.reading import shown, suggestion
from zeta.base.tensors import with_memory
from zeta.compute.stream.random import check_seed
from zeta.compute.stream.regions import Region
from zeta.compute.values import computed
from zeta.errors import LayerTypeError, PlanError, SpecError, ZetaError
from zeta.fans import Axes
from zeta.initializers import Initializer
from zeta.initializers.elementwise import notice_order
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.resolver import entry_of
from zeta.resolve.slots import slot_of
from zeta.resolve.solving import check_dtype
from zeta.write.apply import job_of, write
from zeta.write.guards import note_entry, on_values, on_values_or_recorded, recording_here
from zeta.write.repeats import note_repeated
from zeta.write.seeds import check_name, chosen_seed
from zeta.write.targets import check_memory, check_stored, check_writable

AnyTensor = TypeVar("AnyTensor", bound=Tensor)

_WITH_MEMORY: Final = (
    'fill one that has, such as torch.empty_like(tensor, device="cpu"); zeta.materialize_ is for the tensors of a model'
)


@on_values_or_recorded
def fill_(
    tensor: AnyTensor,
    initializer: Initializer,
    seed: int | None = None,
    *,
    name: str | None = None,
    axes: Axes | None = None,
    generator: torch.Generator | None = None,
) -> AnyTensor:
    """Fill a tensor, a parameter or the local shard of a ``DTensor`` with an initializer's values, in place.

    ``tensor[i] = value(initializer, seed, name, i)``: the values are those of a parameter ``name`` of this shape in a
    model, bit by bit. Equal names and seeds give equal values, so tensors of one model need different names. A
    ``ZetaNotice`` says so if two calls in a row have the same seed and no name.

    Args:
        tensor: of any shape and any real or complex floating dtype, with memory, on any device. Views are written to
            the memory that they show. Identity, strides, ``requires_grad`` and ``.grad`` stay. Values are drawn in fp32
            and rounded to narrower dtypes; fp64 draws its own digits.
        initializer: such as ``Normal(0.02)`` or ``kaiming_normal()``. ``Keep()`` changes nothing.
        seed: from 0 to 2^64 - 1. ``None`` draws one from ``generator``, or torch's global generator, so that
            ``torch.manual_seed`` decides. It is refused for a ``DTensor``, whose processes might draw different ones.
        name: the parameter's name in its model; ``None`` is the empty name.
        axes: the roles of the dimensions, for initializers that scale by the fans or make matrices. A 2-D tensor is
            ``(out, in)`` by default; of other shapes, ``axes`` must be given.
        generator: draws the seed; instead of ``seed``.

    Returns:
        The same tensor.

    In a constructor that :func:`zeta.record` runs, the write is recorded like any other; ``seed``, ``generator`` and
    ``name`` have no effect there, as the plan is applied with its seed and the parameter's name.

    Raises:
        LayerTypeError: ``tensor`` is no tensor.
        SpecError: arguments that are not allowed, or values that the dtype or the shape cannot have.
        FanError: the initializer needs ``axes``, or these do not fit the shape.
        TargetError: the tensor cannot be written: on meta, lazy, integer, quantized, sparse, overlapping, computed by
            autograd, a partial sum.

    If any of these is raised, nothing was changed.

    >>> from zeta.initializers import Normal, Orthogonal
    >>> cls_token = fill_(torch.empty(1, 1, 4), Normal(0.02), seed=0, name="cls_token")
    >>> cls_token
    tensor([[[0.0043, 0.0117, 0.0232, 0.0160]]])
    >>> kernel = fill_(torch.empty(3, 8, 2), Orthogonal(), 0, axes=Axes(batch=(0,), fan_in=(1,), fan_out=(2,)))
    >>> torch.allclose(kernel.mT @ kernel, torch.eye(2), atol=1e-5)
    True
    """
    _check_tensor(tensor)
    if name is not None:
        check_name(name, "cls_token")
    if not isinstance(initializer, Initializer):
        raise SpecError(f"expected an initializer such as Normal(0.02) or Zeros(), got {shown(initializer)}")
    notice_order(initializer)
    if axes is not None and not isinstance(axes, Axes):
        raise SpecError(f"axes must be Axes(fan_in=..., fan_out=...), got {shown(axes)}")
    recorder = recording_here()
    try:
        slot = slot_of(tensor, name or "")
        if recorder is None:
            check_memory(slot, _WITH_MEMORY)
            check_writable(slot)
            check_stored(tensor)
        entry = entry_of(slot, initializer, axes)
        drawn = seed is not None or generator is not None or initializer.is_random
        number = chosen_seed(tensor, generator, seed) if drawn else 0
        if entry.kept:
            return tensor
        if recorder is not None:
            note_entry(recorder, entry, slot)
            return tensor
        job = job_of(entry, slot, number)
    except ZetaError as error:
        named = f" named {shown(name)}" if name else ""
        raise type(error)(f"zeta.fill_ of {shown(tensor)}{named}: {error}") from error
    write([job], number)
    if name is None and seed is not None:
        note_repeated(tensor, number, [entry])
    return tensor


@on_values
def values(
    plan: Plan,
    name: str,
    seed: int,
    *,
    region: Any = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return the values that a plan and a seed give a parameter, or a part of it, without a model.

    ``values(plan, name, seed, region=r)`` is ``apply_(model, plan, seed)``, then ``model.get_parameter(name)[r]``. Only
    the region is computed, except for initializers of whole matrices and programs that are not computed in tiles.

    Args:
        plan: of :func:`~zeta.plan`, :func:`~zeta.record` or ``Plan.from_json``.
        name: a parameter's or buffer's name; of a tied tensor, any of its names.
        seed: from 0 to 2^64 - 1.
        region: an index as in ``tensor[region]``: integers, slices with step 1 and ``...``. ``None`` is everything.
        dtype: by default the planned one; else a floating-point one, or a complex one where the planned one is complex.
        device: where to compute. The device does not change the values (orthogonal matrices: beyond rounding).

    Returns:
        A new contiguous tensor without gradient. Integers in ``region`` remove their dimension, as in indexing.

    Raises:
        PlanError: the plan has no such name, or keeps the tensor, so that its values are the model's.
        SpecError: a seed, region, dtype or device that is not allowed.

    >>> from zeta import record
    >>> plan = record(nn.Linear, 512, 256)[1]
    >>> values(plan, "weight", 0, region=(3, slice(0, 4)))
    tensor([-0.0074, -0.0257,  0.0429,  0.0267])
    """
    if not isinstance(plan, Plan):
        raise SpecError(f"expected a Plan from zeta.plan(model, ...) or zeta.record(...), got {shown(plan)}")
    check_name(name, "head.weight")
    try:
        entry = plan[name]
    except KeyError:
        known = [each for one in plan for each in (one.name, *one.ties)]
        raise PlanError(f"the plan has no tensor named {shown(name)}{suggestion(name, known, most=5)}") from None
    if entry.kept:
        raise PlanError(f"{entry.name} is kept: its values are those that the model has, and the plan has none")
    box, shape = _box(region, entry.shape)
    _check_planned(entry, box)
    dtype = entry.dtype if dtype is None else dtype
    if not isinstance(dtype, torch.dtype):
        raise SpecError(f"dtype must be a torch.dtype, got {shown(dtype)}")
    _check_range(dtype, entry.dtype)
    check_dtype(entry.initializer, dtype)
    device = with_memory(device)
    return computed(entry, check_seed(seed), region=box, dtype=dtype, device=device).view(shape)


def _check_planned(entry: Entry, box: Region) -> None:
    """Raise ``PlanError`` if the plan keeps some of the elements."""
    section = entry.section
    kept = [] if section is None or not box.numel else [*box.along(section.dim, section.rest(entry.shape[section.dim]))]
    if kept:
        raise PlanError(
            f"{entry.name}: the plan has values for {section} alone, and keeps the rest; pass a region= in it"
        )


def _check_tensor(value: object) -> None:
    if not isinstance(value, Tensor):
        hint = "; zeta.init_ and the functions of zeta.utils fill modules" if isinstance(value, nn.Module) else ""
        raise LayerTypeError(f"expected a torch.Tensor, got {shown(value)}{hint}")


def _check_range(dtype: torch.dtype, planned: torch.dtype) -> None:
    """Raise ``SpecError`` for a dtype that cannot hold the planned values, however they are rounded."""
    if dtype != planned and dtype not in (dtypes.COMPLEX if planned.is_complex else dtypes.REAL):
        kind = "complex" if planned.is_complex else "floating-point"
        raise SpecError(
            f"dtype must be the planned {dtypes.name_of(planned)} or a {kind} dtype that values are rounded to, got "
            f"{shown(dtype)}"
        )


def _box(region: Any, shape: tuple[int, ...]) -> tuple[Region, tuple[int, ...]]:
    """The box of a tensor of ``shape`` that an index means, and the shape of the result."""
    items = () if region is None else region if isinstance(region, tuple) else (region,)
    dots = [position for position, item in enumerate(items) if item is ...]
    missing = len(shape) - len(items) + len(dots)
    if missing < 0 or len(dots) > 1:
        raise SpecError(f"region has {len(items)} indices, for a tensor of {len(shape)} dimensions: {shown(region)}")
    place = dots[0] if dots else len(items)
    items = (*items[:place], *[slice(None)] * missing, *items[place + 1 :])
    offsets, sizes, left = [], [], []
    for dim, (item, extent) in enumerate(zip(items, shape, strict=True)):
        start, stop = _span(item, dim, extent)
        offsets.append(start)
        sizes.append(max(stop - start, 0))
        if isinstance(item, slice):
            left.append(sizes[-1])
    return Region(shape=shape, offsets=tuple(offsets), sizes=tuple(sizes)), tuple(left)


def _span(item: Any, dim: int, extent: int) -> tuple[int, int]:
    try:
        if isinstance(item, slice):
            start, stop, step = item.indices(extent)
            if step == 1:
                return start, stop
        elif not isinstance(item, bool | Tensor) and -extent <= (number := operator.index(item)) < extent:
            return number % extent, number % extent + 1
    except (TypeError, ValueError):
        pass
    raise SpecError(
        f"region: dimension {dim} has {extent} elements; expected an integer among them or a slice with step 1, got "
        f"{shown(item)}"
    )
