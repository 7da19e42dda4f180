"""The description of a parameter that rules get: its name, shape, dtype, kind, module, layer and fans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import torch
from torch import nn

from zeta.fans import Axes, Fans, torch_axes


class Kind(StrEnum):
    """The purpose of a parameter or buffer."""

    WEIGHT = "weight"
    BIAS = "bias"
    NORM_SCALE = "norm_scale"
    EMBEDDING = "embedding"
    PARAMETRIZATION = "parametrization"  # a parameter that belongs to a parametrization
    OTHER = "other"
    BUFFER = "buffer"


#: torch's normalization layers
NORMS: Final = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True, kw_only=True)
class Match:
    """One parameter, as passed to a rule's condition and to its function.

    ``layer`` is the first number in the name that takes several values in the model (``h.3.mlp`` gives 3), and
    ``depth`` the number of these values; both are ``None`` if the name has no such number. ``config`` is the model's
    ``config`` attribute, if any.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Kind
    module: nn.Module
    local_name: str
    layer: int | None = None
    depth: int | None = None
    config: Any = None
    axes_of: Callable[[], Axes] = field(repr=False)

    @property
    def fans(self) -> Fans:
        """The fans; raises ``FanError`` if the parameter has none."""
        return self.axes_of().fans(self.shape)

    @property
    def torch_fans(self) -> Fans:
        """The fans as ``torch.nn.init`` counts them."""
        return torch_axes(len(self.shape)).fans(self.shape)
