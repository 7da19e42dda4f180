"""Every torch layer with parameters, every function of the family, and what a call may change."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zeta.utils import (
    init_constant_,
    init_dirac_,
    init_identity_,
    init_kaiming_normal_,
    init_kaiming_uniform_,
    init_lecun_normal_,
    init_lecun_uniform_,
    init_normal_,
    init_ones_,
    init_orthogonal_,
    init_sparse_,
    init_trunc_normal_,
    init_uniform_,
    init_xavier_normal_,
    init_xavier_uniform_,
    init_zero_,
)

Factory = Callable[[], nn.Module]

#: every torch layer that owns parameters, small
LAYERS: dict[str, Factory] = {
    "linear": lambda: nn.Linear(6, 4),
    "linear_no_bias": lambda: nn.Linear(6, 4, bias=False),
    "conv1d": lambda: nn.Conv1d(4, 6, 3),
    "conv2d": lambda: nn.Conv2d(4, 6, (3, 2)),
    "conv2d_grouped": lambda: nn.Conv2d(4, 8, 3, groups=2, bias=False),
    "conv2d_depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "conv3d": lambda: nn.Conv3d(2, 3, 3),
    "conv_transpose1d": lambda: nn.ConvTranspose1d(4, 6, 3),
    "conv_transpose2d": lambda: nn.ConvTranspose2d(4, 6, 3),
    "conv_transpose2d_grouped": lambda: nn.ConvTranspose2d(4, 8, 3, groups=2),
    "conv_transpose3d": lambda: nn.ConvTranspose3d(2, 3, 3),
    "embedding": lambda: nn.Embedding(7, 5),
    "embedding_padded": lambda: nn.Embedding(7, 5, padding_idx=3),
    "embedding_padded_last": lambda: nn.Embedding(7, 5, padding_idx=-1),
    "embedding_bag": lambda: nn.EmbeddingBag(7, 5),
    "embedding_bag_padded": lambda: nn.EmbeddingBag(7, 5, padding_idx=0),
    "bilinear": lambda: nn.Bilinear(3, 4, 5),
    "batch_norm1d": lambda: nn.BatchNorm1d(6),
    "batch_norm2d": lambda: nn.BatchNorm2d(6),
    "batch_norm3d": lambda: nn.BatchNorm3d(6),
    "sync_batch_norm": lambda: nn.SyncBatchNorm(6),
    "layer_norm": lambda: nn.LayerNorm((3, 4)),
    "layer_norm_no_bias": lambda: nn.LayerNorm(4, bias=False),
    "group_norm": lambda: nn.GroupNorm(2, 6),
    "instance_norm": lambda: nn.InstanceNorm2d(6, affine=True, track_running_stats=True),
    "rms_norm": lambda: nn.RMSNorm(6),
    "attention_packed": lambda: nn.MultiheadAttention(8, 2),
    "attention_separate": lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4),
    "attention_bias_kv": lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True, batch_first=True),
    "attention_no_bias": lambda: nn.MultiheadAttention(8, 2, bias=False),
    "rnn": lambda: nn.RNN(5, 4, num_layers=2),
    "lstm": lambda: nn.LSTM(5, 4, num_layers=2, bidirectional=True, proj_size=3),
    "gru": lambda: nn.GRU(5, 4, bidirectional=True, bias=False),
    "rnn_cell": lambda: nn.RNNCell(5, 4),
    "lstm_cell": lambda: nn.LSTMCell(5, 4),
    "gru_cell": lambda: nn.GRUCell(5, 4),
    "prelu": lambda: nn.PReLU(3),
    "prelu_one": lambda: nn.PReLU(init=0.1),
    "mlp": lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.PReLU())),
    "transformer": lambda: nn.Transformer(8, 2, 1, 1, 16, batch_first=True),
    "no_parameters": nn.ReLU,
}

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def is_bias(name: str) -> bool:
    return "bias" in name.rpartition(".")[2]


def owners(model: nn.Module) -> dict[str, nn.Module]:
    """Parameter name -> the module that owns it."""
    modules = dict(model.named_modules())
    return {name: modules[name.rpartition(".")[0]] for name, _ in model.named_parameters()}


def set_all(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.full(parameter.shape, value, dtype=parameter.dtype))


def raw(tensor: Tensor) -> bytes:
    """The bytes of the values, in row-major order, whatever the dtype."""
    plain = tensor.detach().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


def state(model: nn.Module) -> dict[str, bytes]:
    """The bytes of everything that a model stores."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    skip = (nn.UninitializedParameter, nn.UninitializedBuffer)
    return {name: raw(t) for name, t in named if not isinstance(t, skip) and not t.is_meta}


@dataclass(frozen=True)
class Look:
    """What an initialization has to leave alone."""

    parameters: dict[str, tuple[object, ...]]
    grads: dict[str, bytes]
    buffers: dict[str, bytes]

    @classmethod
    def of(cls, model: nn.Module) -> Look:
        return cls(
            {
                name: (
                    id(p),
                    p.data_ptr(),
                    p.dtype,
                    p.device,
                    p.shape,
                    p.stride(),
                    p.requires_grad,
                    id(p.grad),
                    p.is_leaf,
                )
                for name, p in model.named_parameters(remove_duplicate=False)
            },
            {name: raw(p.grad) for name, p in model.named_parameters() if p.grad is not None},
            {name: raw(b) for name, b in model.named_buffers()},
        )


# -- the family --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """One function of the family, called in a plain way, and what it may give to a weight."""

    call: Callable[..., Any]
    plausible: Callable[[Tensor], bool]
    random: bool = True
    maps: bool = False  # needs the axes of a weight
    everywhere: bool = False  # norms' scales and slopes get the value too; else norms get 1, slopes torch's 0.25
    kernels: bool | None = None  # True: convolutions only, False: no convolutions


def varied(weight: Tensor) -> bool:
    return bool(weight.isfinite().all()) and len(weight.unique()) > weight.numel() // 2


def within(low: float, high: float) -> Callable[[Tensor], bool]:
    return lambda weight: bool(((weight >= low) & (weight <= high)).all()) and varied(weight)


def only(*values: float) -> Callable[[Tensor], bool]:
    return lambda weight: set(weight.unique().tolist()) <= {*values}


FAMILY = {
    "zero": Scheme(lambda layer, **kw: init_zero_(layer), only(0.0), random=False, everywhere=True),
    "constant": Scheme(lambda layer, **kw: init_constant_(layer, 0.5, **kw), only(0.5), random=False, everywhere=True),
    "ones": Scheme(init_ones_, only(1.0), random=False, everywhere=True),
    "uniform": Scheme(lambda layer, **kw: init_uniform_(layer, 1.0, 3.0, **kw), within(1.0, 3.0)),
    "normal": Scheme(lambda layer, **kw: init_normal_(layer, std=0.02, mean=1.0, **kw), within(0.87, 1.13)),
    "trunc_normal": Scheme(lambda layer, **kw: init_trunc_normal_(layer, std=0.5, **kw), within(-1.0, 1.0)),
    "xavier_uniform": Scheme(init_xavier_uniform_, varied, maps=True),
    "xavier_normal": Scheme(init_xavier_normal_, varied, maps=True),
    "kaiming_uniform": Scheme(init_kaiming_uniform_, varied, maps=True),
    "kaiming_normal": Scheme(init_kaiming_normal_, varied, maps=True),
    "lecun_uniform": Scheme(init_lecun_uniform_, varied, maps=True),
    "lecun_normal": Scheme(init_lecun_normal_, varied, maps=True),
    "orthogonal": Scheme(init_orthogonal_, lambda w: bool((w.abs() <= 1.000001).all() and w.any()), maps=True),
    "identity": Scheme(init_identity_, lambda w: only(0, 1)(w) and bool(w.any()), False, maps=True, kernels=False),
    "dirac": Scheme(init_dirac_, lambda w: only(0, 1)(w) and bool(w.any()), False, maps=True, kernels=True),
    "sparse": Scheme(
        lambda layer, **kw: init_sparse_(layer, 0.5, **kw),
        lambda w: float((w == 0).double().mean()) >= 0.5,
        maps=True,
    ),
}
RANDOM = [name for name, scheme in FAMILY.items() if scheme.random]
DETERMINISTIC = [name for name, scheme in FAMILY.items() if not scheme.random]


def fits(scheme: Scheme, layer: nn.Module) -> bool:
    kernels = {"Conv" in type(module).__name__ for _, module in plain_weights(layer)}
    return scheme.kernels is None or kernels <= {scheme.kernels}


def plain_weights(layer: nn.Module) -> list[tuple[str, nn.Module]]:
    """Names of the parameters that a map-like scheme is about."""
    return [
        (name, owner)
        for name, owner in owners(layer).items()
        if not is_bias(name) and not isinstance(owner, (*NORMS, nn.PReLU))
    ]


def without_padding(weight: Tensor, owner: nn.Module) -> Tensor:
    row = getattr(owner, "padding_idx", None)
    if row is None:
        return weight
    assert not weight[row].any(), "the padding row is not zero"
    return weight[[i for i in range(len(weight)) if i != row]]


def assert_given(layer: nn.Module, scheme: Scheme, bias: float) -> None:
    """Every parameter has what the scheme gives it."""
    maps = {name for name, _ in plain_weights(layer)}
    for (name, parameter), owner in zip(layer.named_parameters(), owners(layer).values(), strict=True):
        value = without_padding(parameter.detach(), owner)
        if is_bias(name):
            assert only(bias)(value), name
        elif name in maps or scheme.everywhere:
            # a slope is one number: nothing varies
            assert scheme.plausible(value) or (value.numel() == 1 and value.item() != 7), f"{name}: {value}"
        else:
            given = owner.init if isinstance(owner, nn.PReLU) else 1.0
            assert (value == given).all(), f"{name}: {value}"
