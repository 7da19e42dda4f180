"""Operations that need only some rows of a large parameter at a time: products, lookups, and indexing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from zeta.check.watch.streaming.gradients import Into, OfLookup, OfProduct, OfRows, Part
from zeta.check.watch.streaming.source import Source


class Takes(Protocol):
    """Takes the gradients of the uses of parameters."""

    source: Source

    def deliver(self, key: int, part: Tensor | Part | None) -> None:
        """Take the gradient of one use."""

    def check_once(self, key: int) -> None:
        """Refuse to be differentiated twice."""

    def given(self, value: Any) -> Any:
        """An argument with values."""

    def of_rows(self, parameter: Tensor, first: int, last: int) -> Tensor:
        """Some rows of a parameter, with a graph that leads to it."""


_INTEGERS: Final = (torch.int64, torch.int32)

#: a parameter, and what makes the result of a call from some of its rows at a time
Made = tuple[Tensor, Callable[[Takes], Tensor]]


def in_tiles(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Made | None:
    """How to compute a call from some rows of a parameter at a time; ``None`` if it needs all of them.

    Whether the parameter is a large one is for the caller to say.
    """
    if func is F.linear:
        return _product(*args, **kwargs)
    if func is F.embedding:
        return _lookup(*args, **kwargs)
    if getattr(func, "__name__", "") == "__getitem__":
        return _item(*args)
    return None


def _product(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Made:  # noqa: A002
    def made(stream: Takes) -> Tensor:
        product: Tensor = _Product.apply(stream.given(input), weight, stream)  # type: ignore[no-untyped-call]
        return product if bias is None else product + stream.given(bias).to(product.dtype)

    return weight, made


def _lookup(
    input: Tensor,  # noqa: A002
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Made | None:
    def made(stream: Takes) -> Tensor:
        found: Tensor = _Lookup.apply(weight, input, padding_idx, stream)  # type: ignore[no-untyped-call]
        return found

    return None if max_norm is not None or scale_grad_by_freq or sparse else (weight, made)


def _item(weight: Tensor, index: Any) -> Made | None:
    if isinstance(index, Tensor) and not index.ndim and index.dtype in _INTEGERS and not index.is_meta:
        index = int(index)
    if type(index) is not int or not weight.ndim or not -len(weight) <= index < len(weight):
        return None
    row = index % len(weight)
    return weight, lambda stream: stream.of_rows(weight, row, row + 1)[0]


class _Product(torch.autograd.Function):
    """``inputs @ weight.T``, for some rows of the weight at a time, forward and backward."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, stream: Takes) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.stream, ctx.weight = stream, weight
        ctx.set_materialize_grads(False)
        flat = inputs.reshape(-1, inputs.shape[-1])
        out: Tensor | None = None
        for first, last in stream.source.spans(id(weight)):
            part = F.linear(flat, stream.source.rows(id(weight), weight.dtype, first, last))
            out = part.new_empty(len(flat), len(weight)) if out is None else out  # autocast decides on the dtype
            out[:, first:last] = part
        assert out is not None
        return out.reshape(*inputs.shape[:-1], len(weight))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[Tensor | None, None, None]:
        weight, stream = ctx.weight, ctx.stream
        stream.check_once(id(weight))
        (inputs,) = ctx.saved_tensors
        into = None
        if gradient is None:
            if ctx.needs_input_grad[1]:
                stream.deliver(id(weight), None)
            return None, None, None
        flat = gradient.reshape(-1, gradient.shape[-1])
        if ctx.needs_input_grad[0]:
            into = Into(flat.new_zeros(len(flat), weight.shape[1]), len(weight))
        if ctx.needs_input_grad[1]:
            taken = inputs.reshape(-1, inputs.shape[-1]).detach().to(flat.dtype)
            stream.deliver(id(weight), OfProduct(inputs=taken, gradient=flat, into=into))
        if into is None:
            return None, None, None
        if not into.done:  # the weight waits for other gradients before it is measured
            for first, last in stream.source.spans(id(weight)):
                into.add(flat, first, stream.source.rows(id(weight), weight.dtype, first, last))
        return into.total.reshape(inputs.shape), None, None


class _Lookup(torch.autograd.Function):
    """The rows of an embedding that are looked up, each computed once."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, indices: Tensor, padding: int | None, stream: Takes) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.stream, ctx.key = stream, id(weight)
        ctx.padding = None if padding is None else padding % len(weight)
        ctx.set_materialize_grads(False)
        rows, places = torch.unique(indices, return_inverse=True)
        if len(rows) and not 0 <= int(rows[0]) <= int(rows[-1]) < len(weight):
            raise IndexError(f"index out of range: {int(rows[0])} to {int(rows[-1])} in {len(weight)} rows")
        found = torch.empty(len(rows), *weight.shape[1:], dtype=weight.dtype, device="cpu")
        for begin, end in _runs(rows.tolist()):
            found[begin:end] = stream.source.rows(id(weight), weight.dtype, int(rows[begin]), int(rows[end - 1]) + 1)
        return found[places]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[None, None, None, None]:
        ctx.stream.check_once(ctx.key)
        (indices,) = ctx.saved_tensors
        part = None
        if gradient is not None:
            flat, rows = indices.flatten(), gradient.reshape(indices.numel(), -1)
            kept = slice(None) if ctx.padding is None else flat != ctx.padding
            part = OfLookup(indices=flat[kept], gradient=rows[kept].detach())
        ctx.stream.deliver(ctx.key, part)
        return None, None, None, None


class Rows(torch.autograd.Function):
    """Consecutive rows of a parameter."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, stream: Takes, first: int, last: int) -> Tensor:
        """The values."""
        ctx.stream, ctx.key, ctx.first = stream, id(weight), first
        ctx.set_materialize_grads(False)
        return stream.source.rows(id(weight), weight.dtype, first, last)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None) -> tuple[None, None, None, None]:
        """The gradient goes to the stream."""
        ctx.stream.check_once(ctx.key)
        part = None if gradient is None else OfRows(gradient=gradient.detach(), begin=ctx.first)
        ctx.stream.deliver(ctx.key, part)
        return None, None, None, None


def _runs(rows: list[int]) -> Iterator[tuple[int, int]]:
    """The positions at which runs of consecutive numbers begin and end."""
    begin = 0
    for place in range(1, len(rows) + 1):
        if place == len(rows) or rows[place] != rows[place - 1] + 1:
            yield begin, place
            begin = place
