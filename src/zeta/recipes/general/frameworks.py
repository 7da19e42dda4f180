"""Defaults of frameworks: torch, Keras, Flax."""

from __future__ import annotations

import math
from typing import Any, Final

from torch import nn

from zeta.base.modules import modules_of
from zeta.fans import Axes
from zeta.initializers import (
    Blocks,
    Constant,
    Initializer,
    Keep,
    Normal,
    Ones,
    Orthogonal,
    Uniform,
    Zeros,
    glorot_uniform,
    lecun_truncated_normal,
)
from zeta.recipes.parts import RECURRENT, law, norms_and_biases, recipe, used_as
from zeta.rules import Kind, Match, Rule, Rules, Where, kind, module, ndim, regex
from zeta.rules.match import NORMS

_FAN_IN_LAYERS = (
    nn.Linear,
    nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip

#: dense layers, of transformers too
_DENSE: Final = module(nn.Linear) | module("Conv1D")
#: without the biases that are added to the sequence of keys and values
_PROJECTIONS: Final = module(nn.MultiheadAttention) & ~regex(r"(.*\.)?bias_[kv]")


@recipe
@used_as("torch")
def torch_default(model: nn.Module) -> Rules:
    """Torch's own defaults: every layer's ``reset_parameters``, with the fans as torch counts them.

    Linear and convolutions uniform on ±1/sqrt(fan_in), weights and biases; embeddings N(0, 1); norms 1 and 0; recurrent
    layers uniform on ±1/sqrt(hidden_size); attention's input projections Xavier-uniform. An embedding that is also an
    output layer is drawn as an embedding. What is not a parameter of one of torch's layers is kept, as torch has no
    default for it.

    Source: torch.nn, version 2.13.
    """
    attention = module(nn.MultiheadAttention)
    transformers = [child for child in modules_of(model) if isinstance(child, nn.Transformer)]
    inside = frozenset(part for transformer in transformers for part in modules_of(transformer))

    def transformer_matrix(match: Match) -> bool:
        return match.module in inside and len(match.shape) >= 2

    # MultiheadAttention sets the bias of its output projection, which is otherwise an ordinary Linear
    projections = frozenset(child.out_proj for child in modules_of(model) if isinstance(child, nn.MultiheadAttention))

    def output_projection_bias(match: Match) -> bool:
        return match.module in projections and match.kind is Kind.BIAS

    return Rules(
        [
            # Transformer._reset_parameters overrides what its layers have set
            *([Rule(Where("matrices of a transformer", transformer_matrix), _xavier_uniform)] if transformers else []),
            Rule(attention & kind("weight"), _xavier_uniform, optional=True),
            Rule(attention & ndim(3), _xavier_normal, optional=True),
            Rule(attention, Zeros(), optional=True),
            Rule(Where("biases of output projections", output_projection_bias), Zeros(), optional=True),
            Rule(module(nn.Embedding) | module(nn.EmbeddingBag), Normal(1.0), optional=True),
            *(Rule(module(layer), by_fan_in, optional=True) for layer in _FAN_IN_LAYERS),
            Rule(module(nn.Bilinear), _by_first_input, optional=True),
            Rule(module(nn.RNNBase) | module(nn.RNNCellBase), _by_hidden_size, optional=True),
            Rule(module(nn.PReLU), initial_slope, optional=True),
            Rule(kind("norm_scale"), Ones(), optional=True),
            Rule(Where("biases of norms", _norm_bias), Zeros(), optional=True),
            Rule(Where("no default in torch", lambda match: True), Keep(), optional=True),
        ]
    )


def _norm_bias(match: Match) -> bool:
    return match.kind is Kind.BIAS and isinstance(match.module, NORMS)


def _symmetric(match: Match, bound: float) -> Initializer:
    """Uniform on ``±bound``; for complex values in each part, as torch draws."""
    reach = bound * math.sqrt(2) if match.dtype.is_complex else bound
    return Uniform(-reach, reach)


def by_fan_in(match: Match) -> Initializer:
    """Uniform on ±1/sqrt(fan_in)."""
    # from the module's attributes; module.weight may be parametrized, and would have to be computed
    module: Any = match.module
    if isinstance(module, nn.Linear):
        fan_in = module.in_features
    else:
        channels = module.out_channels if module.transposed else module.in_channels
        fan_in = channels // module.groups * math.prod(module.kernel_size)
    # without inputs, the bias is 0, and the weight is empty
    return _symmetric(match, 1 / math.sqrt(fan_in)) if fan_in else Zeros()


def _by_first_input(match: Match) -> Initializer:
    """Uniform on ±1/sqrt(in1_features)."""
    return _symmetric(match, 1 / math.sqrt(max(match.module.in1_features, 1)))  # type: ignore[arg-type,type-var]


def _by_hidden_size(match: Match) -> Initializer:
    """Uniform on ±1/sqrt(hidden_size)."""
    return _symmetric(match, 1 / math.sqrt(max(match.module.hidden_size, 1)))  # type: ignore[arg-type,type-var]


def _xavier_uniform(match: Match) -> Initializer:
    """Uniform on ±sqrt(6 / (fan_in + fan_out))."""
    return _symmetric(match, math.sqrt(6 / (match.torch_fans.fan_in + match.torch_fans.fan_out)))


def _xavier_normal(match: Match) -> Initializer:
    """N(0, 2 / (fan_in + fan_out))."""
    return Normal(math.sqrt(2 / (match.torch_fans.fan_in + match.torch_fans.fan_out)))


def initial_slope(match: Match) -> Initializer:
    """The slope that a ``PReLU`` starts with (init=)."""
    return Constant(float(match.module.init))  # type: ignore[arg-type]


@recipe
def keras(model: nn.Module) -> Rules:
    """Keras's defaults: weights uniform on ±sqrt(6/(fan_in + fan_out)), embeddings on ±0.05, norms 1, biases 0.

    For torch's layers, each as the layer of Keras that computes the same. Recurrent layers: the gates' input kernels
    are one matrix of inputs x all gates, Glorot-uniform, the recurrent ones one matrix that is orthogonal, and
    a forget gate's bias is 1 (one of torch's two biases). A grouped convolution counts the outputs of all groups.
    Slopes of PReLU are 0. Each projection of an attention is a matrix of its own, as in Keras 3.15. What is no
    parameter of one of torch's layers needs a rule of yours.

    Source: ``keras/src/layers``, version 3.
    """
    whole = Axes(fan_in=(1,), fan_out=(0,))
    again, into = RECURRENT & regex(r"(.*\.)?weight_hh.*"), RECURRENT & kind("weight")
    convolution = Where("convolutions", kind("weight") & module(nn.modules.conv._ConvNd))
    dense = Where("weights", kind("weight") & (_DENSE | _PROJECTIONS))
    return Rules(
        [
            *_forgetting(),
            Rule(Where("recurrent kernels", again), Orthogonal(), axes=whole, optional=True),
            Rule(Where("input kernels", into), glorot_uniform(), axes=whole, optional=True),
            Rule(convolution, law("uniform on ±sqrt(6/(fan_in + fan_out))", _xavier_uniform), optional=True),
            Rule(kind("embedding"), Uniform(-0.05, 0.05), optional=True, label="embeddings"),
            Rule(dense, glorot_uniform(), optional=True),
            Rule(module(nn.PReLU), Zeros(), optional=True, label="slopes of PReLU"),
            *norms_and_biases(),
        ]
    )


@recipe
def flax(model: nn.Module) -> Rules:
    """Flax's defaults: weights N(0, 1/fan_in) cut at 2 std, embeddings N(0, 1/d), norms 1, biases 0.

    For torch's layers, each as the layer of Flax that computes the same; d is the embedding's width. The parent's std
    is larger by 1/0.8796, so that what is left after the cut has the variance 1/fan_in; embeddings are not cut.
    Recurrent layers: each gate's input kernel is a weight of its own, each recurrent one orthogonal; a forget gate's
    bias is 0. Slopes of PReLU are 0.01. What is no parameter of one of torch's layers needs a rule of yours.

    Source: ``flax/linen/linear.py``, ``recurrent.py``, ``normalization.py`` and ``activation.py``, version 0.12.
    """
    again = RECURRENT & regex(r"(.*\.)?weight_hh.*")
    weights = _DENSE | module(nn.modules.conv._ConvNd) | RECURRENT | _PROJECTIONS
    width = law("N(0, 1/d)", lambda match: Normal(match.shape[-1] ** -0.5))
    return Rules(
        [
            Rule(Where("recurrent kernels", again), Orthogonal(), optional=True),
            Rule(kind("embedding"), width, optional=True, label="embeddings"),
            Rule(Where("weights", kind("weight") & weights), lecun_truncated_normal(), optional=True),
            Rule(module(nn.PReLU), Constant(0.01), optional=True, label="slopes of PReLU"),
            *norms_and_biases(),
        ]
    )


def _forgetting() -> list[Rule]:
    """The forget gates' bias, which Keras has once and torch twice."""
    layer = module(nn.LSTM) | module(nn.LSTMCell)
    first = Where("biases with the forget gate's", layer & regex(r"(.*\.)?bias_ih.*"))
    return [Rule(first, Blocks(i=Zeros(), f=Ones(), g=Zeros(), o=Zeros()), optional=True)]
