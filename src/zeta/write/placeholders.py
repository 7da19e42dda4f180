"""Parameters whose memory another runtime manages: ``parameter.numel()`` is not the layer's number of elements.

DeepSpeed's ZeRO-3 leaves a parameter without elements, FSDP1 with one rank's flat piece. To write to such a parameter
would write nothing, or to the wrong elements. They are refused by name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from zeta.base.distributed import is_sharded
from zeta.resolve.slots import Slot


def runtime_problem(slot: Slot) -> str | None:
    """Which runtime manages the parameter's memory, and what to do; ``None`` for an ordinary parameter."""
    tensor = slot.tensor
    if "ds_id" in vars(tensor):
        return (
            f"belongs to DeepSpeed's ZeRO-3, which holds its {tuple(getattr(tensor, 'ds_shape', ()))} elsewhere; "
            "initialize before deepspeed.initialize, or inside deepspeed.zero.GatheredParameters"
        )
    extent = None if slot.parametrization is not None or is_sharded(tensor) else _extent(slot.module, slot.local_name)
    if extent is None or tensor.numel() == extent:
        return None
    return (
        f"has {tensor.numel():,} elements, but its {type(slot.module).__name__} says {extent:,}: another runtime, such "
        "as FSDP1, holds the rest; initialize before wrapping, or use fully_shard"
    )


def _extent(module: Any, name: str) -> int | None:
    """The number of elements by the attributes of one of torch's layers; ``None`` for any other layer or parameter."""
    shape = _EXTENTS.get(type(module), {}).get(name)
    if shape is not None:
        return math.prod(shape(module))
    if isinstance(module, _NormBase) and name in ("weight", "bias"):
        return int(module.num_features)
    return None


def _of_convolution(module: Any) -> tuple[int, ...]:
    return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)


Extents = Mapping[str, Callable[[Any], tuple[int, ...]]]
_EXTENTS: Final[Mapping[type, Extents]] = {
    nn.Linear: {"weight": lambda m: (m.out_features, m.in_features), "bias": lambda m: (m.out_features,)},
    nn.Embedding: {"weight": lambda m: (m.num_embeddings, m.embedding_dim)},
    nn.LayerNorm: dict.fromkeys(("weight", "bias"), lambda m: m.normalized_shape),
    nn.RMSNorm: {"weight": lambda m: m.normalized_shape},
    nn.GroupNorm: dict.fromkeys(("weight", "bias"), lambda m: (m.num_channels,)),
    **{
        convolution: {"weight": _of_convolution, "bias": lambda m: (m.out_channels,)}
        for convolution in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    },
}
