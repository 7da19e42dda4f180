"""Parameters whose memory another runtime manages: ``parameter.numel()`` is not the layer's number of elements.

DeepSpeed's ZeRO-3 leaves a parameter without elements, FSDP1 with one rank's flat piece. To write to such a parameter
would write nothing, or to the wrong elements. They are refused by name.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from operator import attrgetter
from typing import Any, Final

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from zeta.base.distributed import is_sharded
from zeta.resolve.slots import Slot


def runtime_problem(slot: Slot) -> str | None:
    """Which runtime manages the parameter's memory, and what to do; ``None`` for an ordinary parameter."""
    tensor = slot.tensor
    if "ds_id" in tensor.__dict__:
        return (
            f"belongs to DeepSpeed's ZeRO-3, which holds its {tuple(getattr(tensor, 'ds_shape', ()))} elsewhere; "
            "initialize before deepspeed.initialize, or inside deepspeed.zero.GatheredParameters"
        )
    layer: Any = type(slot.module)  # mypy takes its __hash__ for that of an instance
    shape = _extents_of(layer).get(slot.local_name)
    if (
        shape is None
        or slot.shape == (extents := shape(slot.module))
        or tensor.numel() == (extent := math.prod(extents))
    ):
        return None
    if slot.parametrization is not None or is_sharded(tensor):
        return None
    return (
        f"has {tensor.numel():,} elements, but its {type(slot.module).__name__} says {extent:,}: another runtime, such "
        "as FSDP1, holds the rest; initialize before wrapping, or use fully_shard"
    )


def _of_convolution(module: Any) -> tuple[int, ...]:
    return (module.out_channels, module.in_channels // module.groups, *module.kernel_size)


Extents = Mapping[str, Callable[[Any], tuple[int, ...]]]
_EXTENTS: Final[Mapping[type, Extents]] = {
    nn.Linear: {"weight": attrgetter("out_features", "in_features"), "bias": lambda m: (m.out_features,)},
    nn.Embedding: {"weight": attrgetter("num_embeddings", "embedding_dim")},
    nn.LayerNorm: dict.fromkeys(("weight", "bias"), attrgetter("normalized_shape")),
    nn.RMSNorm: {"weight": attrgetter("normalized_shape")},
    nn.GroupNorm: dict.fromkeys(("weight", "bias"), lambda m: (m.num_channels,)),
    **{
        convolution: {"weight": _of_convolution, "bias": lambda m: (m.out_channels,)}
        for convolution in (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    },
}
_OF_NORM: Final[Extents] = dict.fromkeys(("weight", "bias"), lambda m: (m.num_features,))


@functools.lru_cache(maxsize=4096)
def _extents_of(layer: Any) -> Extents:
    """The shapes of parameters by the attributes of one of torch's layers; none for any other class."""
    return _EXTENTS.get(layer, _OF_NORM if issubclass(layer, _NormBase) else {})
