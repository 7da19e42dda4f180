"""The description of a parameter that rules get: its name, shape, dtype, kind, module, layer and fans."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Any, Final, NamedTuple

import torch
from msgspec import Struct
from torch import nn

from zeta.errors import SpecError
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


class Role(StrEnum):
    """What a weight does in its network."""

    EMBEDDING = "embedding"  # a table that is looked up: tokens, types, classes
    POSITION = "position"  # a table of positions, learned
    RELATIVE_POSITION = "relative_position"
    CLASS_TOKEN = "class_token"
    PATCH_EMBEDDING = "patch_embedding"
    QUERY = "query"
    KEY = "key"
    VALUE = "value"
    QUERY_KEY_VALUE = "query_key_value"  # several of them in one tensor
    ATTENTION_OUTPUT = "attention_output"
    MLP_UP = "mlp_up"
    MLP_GATE = "mlp_gate"
    MLP_GATE_UP = "mlp_gate_up"  # both in one tensor
    MLP_DOWN = "mlp_down"
    ROUTER = "router"  # scores the experts
    READOUT = "readout"  # gives the logits, or whatever the model is trained on
    LAYER_SCALE = "layer_scale"
    ADAPTER_A = "adapter_a"
    ADAPTER_B = "adapter_b"
    ADAPTER = "adapter"  # any other parameter of an adapter


#: what leads back to the residual stream
RESIDUAL_ROLES: Final = (Role.ATTENTION_OUTPUT, Role.MLP_DOWN)
#: torch's normalization layers
NORMS: Final = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


class Place(NamedTuple):
    """Where a parameter lies: in which layer from 0, of how many, with how many residual branches, in which stack."""

    layer: int | None
    depth: int | None
    branches: int | None = None
    stack: str = ""


class Match(Struct, frozen=True, kw_only=True):
    """One parameter, as passed to a rule's condition and to its function.

    ``layer`` and ``depth`` are ``None`` outside of layers, and where the model does not say which layer it is, or how
    many there are.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Kind
    module: nn.Module
    local_name: str
    layers: Callable[[str], Place | None]
    roles: Callable[[str], Role | None] = lambda name: None
    configs: Callable[[str], Any] = lambda name: None
    axes_of: Callable[[], Axes]

    @property
    def layer(self) -> int | None:
        """The number of the layer, from 0: ``h.3.mlp`` gives 3.

        Layers are the blocks that hold attentions and MLPs; where lists of them follow each other, or lie in each
        other, they are counted through. In a model without these, it is the first number in the name that takes
        several values in the model.
        """
        found = self.layers(self.name)
        return None if found is None else found[0]

    @property
    def depth(self) -> int | None:
        """How many layers there are, in the encoder or decoder that the parameter lies in."""
        found = self.layers(self.name)
        return None if found is None else found[1]

    @property
    def config(self) -> Any:
        """The ``config`` attribute of the innermost module around the tensor that has one; ``None`` without any."""
        return self.configs(self.name)

    @property
    def role(self) -> Role | None:
        """What the weight does in its network, if that is known; of a bias, what the weight of its layer does."""
        return self.roles(self.name)

    def __repr__(self) -> str:
        return f"Match({self.name!r}, shape={self.shape}, kind={self.kind.value}, module={type(self.module).__name__})"

    @property
    def fans(self) -> Fans:
        """The fans; raises ``FanError`` if the parameter has none."""
        return self.axes_of().fans(self.shape)

    @property
    def torch_fans(self) -> Fans:
        """The fans as ``torch.nn.init`` counts them."""
        return torch_axes(len(self.shape)).fans(self.shape)


def depth_of(match: Match, remedy: str = "write the scale out, without the number of layers") -> int:
    """The number of layers; ``SpecError`` with what to do where it does not follow."""
    if match.depth is not None:
        return match.depth
    if match.layers(match.name) is None:
        raise SpecError(
            "the number of layers does not follow from its name: it lies in no block with an attention and an MLP, "
            f"and in no numbered list; {remedy}"
        )
    raise SpecError(
        "the number of layers does not follow: the model is a part of one, or its blocks are not in numbered lists "
        f"that follow each other; {remedy}"
    )
