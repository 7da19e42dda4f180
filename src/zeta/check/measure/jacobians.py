"""Singular values of the layers' Jacobians, computed from products with vectors."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from zeta.base.distributed import is_sharded
from zeta.check.facts.evidence import Chain
from zeta.check.measure.effort import Course, seconds_of
from zeta.check.watch.batches import Call, mapped
from zeta.check.watch.calls import plainly
from zeta.check.watch.capture import Capture, Record
from zeta.check.watch.moments import TINY, plain
from zeta.resolve.resolver import groups
from zeta.resolve.slots import Slot, named_modules

#: random vectors for the mean square, and rounds of the power iteration for the largest singular value
_PROBES: Final = 3
_ROUNDS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Jacobians:
    """For each layer, mean square and largest singular value; and chains of consecutive layers."""

    singular: dict[str, tuple[float, float]]
    chains: tuple[Chain, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Watched:
    """The records of one more forward pass, and for each record the estimated seconds of its Jacobian."""

    records: tuple[Record, ...]
    squares: tuple[float, ...]  #: for the mean square
    largest: tuple[float, ...]  #: for the largest singular value


#: of a model whose Jacobians are not computed
NO_LAYERS: Final = Watched(records=(), squares=(), largest=())


class _Unfused(TorchFunctionMode):
    """Attention by products and a softmax, in this thread: torch's fused kernels have no second derivative.

    ``sdpa_kernel`` would do this for all threads, and leave it so where two threads use it at a time.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        unfused = func is F.scaled_dot_product_attention and not types
        return (_attention if unfused else func)(*args, **(kwargs or {}))


def _attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -math.inf)
    math_kernel = torch.ops.aten._scaled_dot_product_attention_math
    result: Tensor = math_kernel(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]
    return result


def watched(model: nn.Module, slots: Sequence[Slot], call: Call) -> Watched:
    """Run the model once more, and keep the input and output of each layer."""
    args, kwargs = mapped(call.args, _differentiable), mapped(dict(call.kwargs), _differentiable)
    again = replace(call, args=args, kwargs=kwargs)
    capture = Capture(named_modules(model), {id(group[0].tensor): group[0].name for group in groups(slots)}, keep=True)
    with plainly(model), _Unfused(), capture.watching():
        again.output_of(model)
    costs = _costs(capture.records, {slot.name: slot.shape for slot in slots})
    return Watched(
        records=tuple(capture.records),
        squares=tuple(_PROBES * cost for cost in costs),
        largest=tuple((1 + 2 * _ROUNDS) * cost for cost in costs),
    )


def jacobians(seen: Watched, largest: Collection[int], course: Course) -> Jacobians:
    """Singular values of the Jacobian of each layer's output with respect to its input, for the whole batch.

    The mean square is over ``min(inputs, outputs)`` singular values: ``E |J' u|^2 / min(n, m)`` for ``u ~ N(0, 1)``.
    The largest comes from a power iteration with ``J`` and its transpose, at the positions in ``largest`` only.
    """
    singular: dict[str, tuple[float, float]] = {}
    squares: dict[str, float] = {}
    for position, record in enumerate(seen.records):
        if not _has_jacobian(record):
            continue
        chosen = position in largest
        course.take(f"Jacobian of {record.name}", seen.squares[position] + chosen * seen.largest[position])
        found = _singular(record, largest=chosen)
        if found is not None:
            squares[record.name] = found[0]
            if found[1] is not None:
                singular[record.name] = found[0], found[1]
    chains = [_chain(run, squares) for run in (*_blocks(seen.records), *_sequences(seen.records))]
    return Jacobians(singular=singular, chains=tuple(chain for chain in chains if len(chain.layers) > 2))


def _costs(records: Sequence[Record], shapes: Mapping[str, Sequence[int]]) -> list[float]:
    """Estimated seconds of one product with each record's Jacobian; for a block, including its inner layers."""
    costs: list[float] = []
    for position, record in enumerate(records):
        cost = _cost(record, shapes) if _has_jacobian(record) else 0.0
        inner = position - 1
        while record.block and inner >= 0 and records[inner].module.startswith(f"{record.module}."):
            cost += 0.0 if records[inner].block else costs[inner]
            inner -= 1
        costs.append(cost)
    return costs


def _cost(record: Record, shapes: Mapping[str, Sequence[int]]) -> float:
    assert record.tensors is not None
    x, y = (tensor.numel() for tensor in record.tensors)
    # each output is a sum over one row of the weight; in attention, over the keys
    rows = [math.prod(shapes[name][1:]) for name in record.parameters if len(shapes[name]) > 1]
    if record.attention is not None:
        rows = [2 * record.tensors[0].shape[-2]]
    return seconds_of(calls=1, multiplications=0.0 if record.block else y * max(rows, default=0), touched=4 * (x + y))


def _has_jacobian(record: Record) -> bool:
    if record.tensors is None:
        return False
    x, y = record.tensors
    return x.requires_grad and y.requires_grad and x is not y and bool(y.numel()) and bool(x.numel())


def _differentiable(item: Any) -> Any:
    """A copy that requires gradients and is not a leaf, so that a model may change it in place."""
    return item.requires_grad_(True) * 1 if isinstance(item, Tensor) and item.is_floating_point() else item


def _singular(record: Record, *, largest: bool) -> tuple[float, float | None] | None:
    assert record.tensors is not None
    x, y = record.tensors
    try:
        probes = (_transposed(x, y, _normal(y, seed)) for seed in range(_PROBES))
        squares = [plain(probe.double().square().sum()) / min(x.numel(), y.numel()) for probe in probes]
        return float(torch.stack(squares).mean()), _largest(x, y) if largest else None
    except RuntimeError:  # the output does not depend on the input, was changed in place, or has no second derivative
        return None


def _normal(like: Tensor, seed: int = 0) -> Tensor:
    """Random normal values; for a ``DTensor``, drawn with the seed, so that they are the same on each rank."""
    if not is_sharded(like):
        return torch.randn_like(like)
    from torch.distributed.tensor import Replicate, distribute_tensor  # imported already if there is a DTensor

    generator = torch.Generator(device=like.device).manual_seed(seed)
    drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    placements = [Replicate() if placement.is_partial() else placement for placement in like.placements]
    return distribute_tensor(drawn, like.device_mesh, placements, src_data_rank=None)


def _transposed(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(y, x, u, retain_graph=True)
    return found


def _largest(x: Tensor, y: Tensor) -> float:
    """Power iteration on ``J' J``; ``J v`` is computed as the derivative of ``u -> (J' u) . v``."""
    u = torch.zeros_like(y, requires_grad=True)
    (transposed,) = torch.autograd.grad(y, x, u, create_graph=True)
    v = _normal(x)
    value = 0.0
    for _ in range(_ROUNDS):
        v = v / v.norm().clamp_min(TINY)
        if transposed.requires_grad:
            (forward,) = torch.autograd.grad(transposed, u, v, retain_graph=True)
        else:
            return 0.0
        value = float(plain(forward.norm()))
        v = _transposed(x, y, forward)
    return value


def _blocks(records: Sequence[Record]) -> list[list[Record]]:
    sequences: dict[str, list[Record]] = {}
    for record in records:
        if record.block:
            sequences.setdefault(record.module.rpartition(".")[0], []).append(record)
    return list(sequences.values())


def _sequences(records: Sequence[Record]) -> list[list[Record]]:
    """Sequences of records in which each takes the output tensor of the one before; pooling ends a sequence."""
    found: list[list[Record]] = []
    follows = False
    for record in records:
        if record.block or record.tensors is None:
            continue
        given, output = record.tensors
        pools = not record.parameters and output.numel() < given.numel()
        before = found[-1][-1].tensors if found and follows and not pools else None
        if before is not None and before[1] is record.source:
            found[-1].append(record)
        elif not pools:
            found.append([record])
        follows = not pools
    return found


def _chain(run: Sequence[Record], squares: Mapping[str, float]) -> Chain:
    kept = [r.name for r in run if r.name in squares and 0 < squares[r.name] < math.inf]
    return Chain(layers=tuple(kept), squares=tuple(squares[name] for name in kept))
