"""Argument checks for low-level operations whose code does not check its arguments.

torch's public functions check them before. Without checks, such an operation may read and write beyond a tensor's
memory, or crash the process. Needed as long as programs, which may come from a file, call these operations directly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

_INT32: Final = 2**31


def careful(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with the missing checks of operation ``name``, which raise ``ValueError``."""
    if name in ("floor_divide", "remainder", "fmod", "div"):
        return _divided(function)
    check = _CHECKS.get(name)
    if check is None:
        return function

    def checked(**arguments: Any) -> Any:
        check(**arguments)
        return function(**arguments)

    return checked


def _divided(function: Callable[..., Any]) -> Callable[..., Any]:
    """Integer division that does not crash the process: processors trap on -2^63 / -1."""

    def divided(*, self: Any, other: Any, **attributes: Any) -> Any:
        tensors = [value for value in (self, other) if isinstance(value, Tensor)]
        dtype = torch.result_type(self, other)
        whole = dtype.is_signed and not (dtype.is_floating_point or dtype.is_complex or any(t.is_meta for t in tensors))
        if not whole or attributes.get("rounding_mode", "floor") is None:
            return function(self, other, **attributes)
        dividend, divisor = (torch.as_tensor(value, device="cpu").to(dtype) for value in (self, other))
        minus = divisor == -1
        if not bool(minus.any()):
            return function(self, other, **attributes)
        ones = torch.ones_like(divisor)
        usual = function(self, torch.where(minus, ones, divisor), **attributes)
        return torch.where(minus, function(torch.neg(dividend), ones, **attributes), usual)

    return divided


# -- checks ----------------------------------------------------------------------------------------------------------


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0, **_: Any) -> None:
    _require(v.ndim > 0 and dim in (0, v.ndim - 1), f"dim must be the first or last of {v.ndim}, got {dim}")
    kept = tuple(extent if place == dim else 1 for place, extent in enumerate(v.shape))
    _require(tuple(g.shape) == kept and g.dtype is v.dtype, f"g must be {kept} of {v.dtype}, got {tuple(g.shape)}")
    _require(v.numel() > 0, "v has no elements")


def _softmax(self: Tensor, half_to_float: bool, **_: Any) -> None:
    _require(not half_to_float, "half_to_float is of CUDA alone")


def _transform(self: Tensor, dim: tuple[int, ...], normalization: int, **_: Any) -> None:
    _require(all(0 <= d < self.ndim for d in dim), f"dim {dim} of {self.ndim} dimensions")
    _require(0 < len(dim) == len(set(dim)), f"dim {dim} must name dimensions, each once")
    _require(0 <= normalization <= 2, f"normalization is 0, 1 or 2, got {normalization}")
    _require(self.numel() > 0, "a transform needs elements")


def _transform_of_complex(self: Tensor, dim: tuple[int, ...], **rest: Any) -> None:
    _transform(self, dim, **rest)
    _require(self.is_complex(), "the transform is of complex values")


def _transform_of_real(self: Tensor, dim: tuple[int, ...], **rest: Any) -> None:
    _transform(self, dim, **rest)
    _require(self.is_floating_point(), "the transform is of real values")


def _transform_to_real(self: Tensor, dim: tuple[int, ...], last_dim_size: int, **rest: Any) -> None:
    _transform_of_complex(self, dim, **rest)
    half = self.shape[dim[-1]]
    _require(last_dim_size > 0 and half == last_dim_size // 2 + 1, f"{half} values do not give {last_dim_size}")


def _interpolation(self: Tensor, output_size: tuple[int, ...], **rest: Any) -> None:
    _require(len(output_size) == self.ndim - 2, f"output_size {output_size} for {self.ndim} dimensions")
    _require(all(0 < n < _INT32 for n in (*output_size, *self.shape)), "extents must be positive")
    names = ("scales",) if self.ndim == 3 else ("scales_d", "scales_h", "scales_w")[5 - self.ndim :]
    for extent, size, name in zip(self.shape[2:], output_size, names, strict=False):
        scale = rest.get(name)
        if scale is not None:
            _require(isinstance(scale, float) and math.isfinite(scale) and scale > 0, "scales must be positive")
            _require(math.floor(extent * scale) == size, f"the scale {scale} does not give {size}")


def _diagonal(diagonal: int = 0, **_: Any) -> None:
    _require(abs(diagonal) < _INT32, f"diagonal {diagonal} is outside of any matrix")


def _offset(row: int, col: int, offset: int = 0, **_: Any) -> None:
    _require(0 <= row < _INT32 and 0 <= col < _INT32 and abs(offset) < _INT32, "no such triangle")


def _embedded(offset: int = 0, **_: Any) -> None:
    _require(abs(offset) < _INT32, f"offset {offset} is outside of any matrix")


def _padding(self: Tensor, pad: tuple[int, ...], **_: Any) -> None:
    _require(all(abs(n) < _INT32 for n in pad), f"pad {pad} is too large")


def _turned(self: Tensor, shifts: tuple[int, ...], **_: Any) -> None:
    _require(all(abs(n) < _INT32 for n in shifts), f"shifts {shifts} are too large")


def _indexed(self: Tensor, index: Tensor, **_: Any) -> None:
    _require(index.dtype in (torch.int64, torch.int32), "an index is of whole numbers")


_CHECKS: Final[Mapping[str, Callable[..., None]]] = {
    "_weight_norm_interface": _weight_norm,
    **dict.fromkeys(("_softmax", "_log_softmax"), _softmax),
    "_fft_c2c": _transform_of_complex,
    "_fft_r2c": _transform_of_real,
    "_fft_c2r": _transform_to_real,
    **dict.fromkeys(
        (
            *("upsample_linear1d", "upsample_nearest1d", "_upsample_nearest_exact1d"),
            *("upsample_bicubic2d", "upsample_bilinear2d", "upsample_nearest2d", "_upsample_nearest_exact2d"),
            *("_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa"),
            *("upsample_nearest3d", "upsample_trilinear3d", "_upsample_nearest_exact3d"),
        ),
        _interpolation,
    ),
    **dict.fromkeys(("tril", "triu"), _diagonal),
    **dict.fromkeys(("tril_indices", "triu_indices"), _offset),
    "diag_embed": _embedded,
    "constant_pad_nd": _padding,
    "roll": _turned,
    **dict.fromkeys(("gather", "index_add", "index_copy", "index_fill", "index_select", "scatter_add"), _indexed),
}
