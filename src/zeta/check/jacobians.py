"""Singular values of the layers' Jacobians, by products with vectors only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from zeta.check.batches import Call, mapped
from zeta.check.calls import plainly
from zeta.check.capture import Capture, Record
from zeta.check.evidence import Chain
from zeta.check.moments import plain
from zeta.names import Slot, is_sharded, named_modules
from zeta.planning import groups

#: random vectors for the mean square, and rounds of the power iteration for the largest
_PROBES: Final = 3
_ROUNDS: Final = 8


@dataclass(frozen=True, kw_only=True)
class Jacobians:
    """By layer: mean square and largest singular value. Layers that follow each other, as chains."""

    singular: dict[str, tuple[float, float]]
    chains: tuple[Chain, ...]


def jacobians(model: nn.Module, slots: Sequence[Slot], call: Call) -> Jacobians:
    """Run the model once more, and look at the Jacobian of each layer's output by its input, on the whole batch.

    The mean square is over ``min(inputs, outputs)`` singular values: ``E |J' u|^2 / min(n, m)`` for ``u ~ N(0, 1)``.
    The largest comes from a power iteration with ``J`` and its transpose.
    """
    args, kwargs = mapped(call.args, _differentiable), mapped(dict(call.kwargs), _differentiable)
    capture = Capture(named_modules(model), {id(group[0].tensor): group[0].name for group in groups(slots)}, keep=True)
    # the fused kernels of attention have no second derivative
    with plainly(model), sdpa_kernel(SDPBackend.MATH), capture.watching():
        model(*args, **kwargs)
    singular = {}
    for record in capture.records:
        found = _singular(record)
        if found is not None:
            singular[record.name] = found
    chains = [_chain(run, singular) for run in (*_blocks(capture.records), *_sequences(capture.records))]
    return Jacobians(singular=singular, chains=tuple(chain for chain in chains if len(chain.layers) > 2))


def _differentiable(item: Any) -> Any:
    """A tensor that is not a leaf, so that a model may change it in place."""
    return item.requires_grad_(True) * 1 if isinstance(item, Tensor) and item.is_floating_point() else item


def _singular(record: Record) -> tuple[float, float] | None:
    if record.tensors is None:
        return None
    x, y = record.tensors
    if not x.requires_grad or not y.requires_grad or x is y or not y.numel() or not x.numel():
        return None
    try:
        probes = (_transposed(x, y, _normal(y, seed)) for seed in range(_PROBES))
        squares = [plain(probe.double().square().sum()) / min(x.numel(), y.numel()) for probe in probes]
        return float(torch.stack(squares).mean()), _largest(x, y)
    except RuntimeError:  # no path from input to output, changed in place, or no second derivative
        return None


def _normal(like: Tensor, seed: int = 0) -> Tensor:
    """Random values, of a ``DTensor`` by the seed: the same on each rank."""
    if not is_sharded(like):
        return torch.randn_like(like)
    from torch.distributed.tensor import Replicate, distribute_tensor  # takes a second, and is there with a DTensor

    generator = torch.Generator(device=like.device).manual_seed(seed)
    drawn = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    placements = [Replicate() if placement.is_partial() else placement for placement in like.placements]
    return distribute_tensor(drawn, like.device_mesh, placements, src_data_rank=None)


def _transposed(x: Tensor, y: Tensor, u: Tensor) -> Tensor:
    (found,) = torch.autograd.grad(y, x, u, retain_graph=True)
    return found


def _largest(x: Tensor, y: Tensor) -> float:
    """Power iteration on ``J' J``; ``J v`` is the derivative of ``u -> (J' u) . v``."""
    u = torch.zeros_like(y, requires_grad=True)
    (transposed,) = torch.autograd.grad(y, x, u, create_graph=True)
    v = _normal(x)
    value = 0.0
    for _ in range(_ROUNDS):
        v = v / v.norm().clamp_min(1e-30)
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
    """Records that take what the one before put out, the same tensor; pooling, a mean by nature, ends them."""
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


def _chain(run: Sequence[Record], singular: dict[str, tuple[float, float]]) -> Chain:
    kept = [r.name for r in run if r.name in singular and 0 < singular[r.name][0] < math.inf]
    return Chain(layers=tuple(kept), squares=tuple(singular[name][0] for name in kept))
