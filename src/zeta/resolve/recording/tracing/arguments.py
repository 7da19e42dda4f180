"""The arguments of an operation: find the tensors in them, replace these by meta tensors or zeros, run it on meta."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor
from torch._ops import OpOverload

from zeta.errors import RecordingError
from zeta.resolve.recording.sources import Source, source_here
from zeta.resolve.recording.tracing.graph import Graph, Node, cast, expand
from zeta.resolve.recording.tracing.lowering import copy
from zeta.resolve.recording.tracing.schemas import arguments_of, name_of

_CPU: Final = torch.device("cpu")
_META: Final = torch.device("meta")
#: results of matrices that torch stores column by column on the CPU, but not on meta: their place
_BY_COLUMNS: Final = {"aten._linalg_svd.default": 2, "aten.linalg_eig.default": 1}


def tensors_in(value: Any) -> Iterator[Tensor]:
    """All tensors, in lists and tuples too."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def new_memories(result: Any, given: Sequence[Tensor]) -> dict[int, torch.UntypedStorage]:
    """The memories of the result of an operation that none of its arguments has, by their address."""
    known = {tensor.untyped_storage()._cdata for tensor in given if tensor.layout is torch.strided}
    found = (tensor.untyped_storage() for tensor in tensors_in(result) if tensor.layout is torch.strided)
    return {storage._cdata: storage for storage in found if storage._cdata not in known}


def check_dense(tensor: Tensor) -> None:
    """Raise ``RecordingError`` for what programs do not have: sparse, nested and quantized tensors."""
    if tensor.is_quantized:
        raise RecordingError(
            f"{source_here()}: programs have no quantized tensors; quantize the model after materialize_"
        )
    if tensor.layout is not torch.strided:
        layout = str(tensor.layout).removeprefix("torch.")
        raise RecordingError(
            f"{source_here()}: programs have no tensors of layout {layout}; register a dense one, and convert it after "
            "materialize_"
        )


def meta_twins(value: Any) -> Any:
    """Arguments with every real tensor replaced by one without memory; numbers in tensors stay."""
    if isinstance(value, Tensor) and not value.is_meta:
        check_dense(value)
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_META)
    if isinstance(value, list | tuple):
        return type(value)(meta_twins(item) for item in value)
    return value


def on_meta(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run an operation on the meta device, to get shapes, dtypes and strides."""
    kwargs = {key: value for key, value in kwargs.items() if key not in ("pin_memory", "non_blocking")}
    if "device" in arguments_of(func):
        kwargs["device"] = _META
    result = func(*(meta_twins(item) for item in args), **{k: meta_twins(v) for k, v in kwargs.items()})
    place = _BY_COLUMNS.get(name_of(func))
    if place is None or result[place].ndim < 2:
        return result
    return *result[:place], result[place].mT.contiguous().mT, *result[place + 1 :]


def zeros_for(value: Any) -> Any:
    """Arguments with zeros for what has no memory."""
    if isinstance(value, Tensor) and value.is_meta:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=_CPU).zero_()
    if isinstance(value, list | tuple):
        return [zeros_for(item) for item in value]
    return value


def device_of(args: tuple[Any, ...], kwargs: dict[str, Any], graph: Graph) -> torch.device:
    """Where a result claims to be: where it was asked to be, else where its arguments are."""
    if (device := kwargs.get("device")) is not None:
        return torch.device(device)
    claims = [graph.cell(t).device for t in tensors_in(args) if t.is_meta and t.ndim]
    return next(iter(claims), _CPU)


def fitted(node: Node, target: Tensor, source: Source | None) -> Node:
    """A node with the target's shape and dtype, and the line that wrote it, whatever made the value."""
    node = expand(cast(node, target.dtype, source), target.shape)
    return node if node.source == source else replace(copy(node), source=source)


def spoil_statistics(graph: Graph, given: Mapping[str, Any], source: Source | None) -> None:
    """Record that batch norm in training mode writes its running statistics, which its schema does not say."""
    for key in ("running_mean", "running_var"):
        tensor = given.get(key)
        if isinstance(tensor, Tensor) and tensor.is_meta and given.get("training", given.get("train", True)):
            reason = (
                f"a forward pass of batch norm wrote to, which is not recordable ({source}); call eval() before such a "
                "pass, or give it a fallback rule"
            )
            graph.spoil(tensor, reason, source)
