"""Set a parametrized weight through ``right_inverse``, checked on a copy before anything is written."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn.utils import parametrizations, parametrize

from zeta.base.generators import apart
from zeta.base.modules import tensors_of
from zeta.base.parametrizations import is_rescaled, originals
from zeta.errors import TargetError, notice

# The allowed error of a parametrized weight, in units of the dtype's eps: it is computed by norms and products of rows.
_TOLERANCE_EPS = 64
# A weight of zeros is checked as if its largest value were this: below every useful weight, so that only zero passes.
_SMALLEST_SCALE = 1e-30


@dataclass(frozen=True, kw_only=True)
class Inversion:
    """What to store so that the weight becomes ``effective``: pairs of (stored tensor, new value).

    ``error`` is the allowed difference of stored values between two calls: the last bits of LAPACK's results depend on
    the alignment of its operands in memory.
    """

    changes: tuple[tuple[Tensor, Tensor], ...]
    effective: Tensor
    error: float = 0.0


def inversion_error(dtype: torch.dtype) -> float:
    """The allowed error of a parametrized weight, relative to its largest value."""
    return _TOLERANCE_EPS * float(torch.finfo(dtype).eps)


def invert(
    plist: parametrize.ParametrizationList,
    value: Tensor,
    *,
    name: str,
    seed: int,
    planned: Mapping[int, Tensor] = MappingProxyType({}),
) -> Inversion:
    """Find the original tensors (and buffers) for which the parametrized weight is ``value``.

    Works on a copy on the CPU: ``plist`` does not change, and the result is the same for every device. A
    parametrization that draws random numbers in ``right_inverse`` (``orthogonal`` completes a basis) draws them from
    ``seed``; torch's generators do not move.

    ``planned`` has the values that other entries give to what ``plist`` stores itself, by ``id`` of the tensor: the
    weight is ``value`` with these, and they are no part of the result.

    Raises:
        TargetError: the parametrization has no ``right_inverse``, the weight cannot be ``value``, or another entry has
            one of the original tensors.
    """
    if any(id(tensor) in planned for tensor in originals(plist)):
        raise TargetError(
            f"{name} is parametrized, and a tensor that it is computed from is another parameter too, to which the "
            "plan gives values; untie them"
        )
    trial, value = copy.deepcopy(plist).cpu(), value.cpu()
    own = [
        (copied, planned[id(tensor)].cpu())
        for tensor, copied in zip(tensors_of(plist), tensors_of(trial), strict=True)
        if id(tensor) in planned
    ]
    with torch.no_grad(), apart(seed):
        _set(own)
        stored = _stored_for(trial, value, name)
        for tensor, new in zip(originals(trial), stored, strict=True):
            tensor.data = new.to(tensor).clone()
        _set(own)  # a right inverse may write to them
        rescaled = is_rescaled(trial)
        if rescaled and not value.any():
            raise TargetError(
                f"{name} is under spectral_norm, which divides by the largest singular value: zero has none. "
                "Remove the parametrization, or zero the layer's output elsewhere"
            )
        effective = value if rescaled else trial.eval()()
        if not rescaled:
            _check(effective, value, name, trial)
    if rescaled:
        notice(
            f"{name} is under spectral_norm: the values went to the tensor underneath, and the weight is that "
            "tensor divided by its largest singular value"
        )
    changes = [*zip(originals(plist), (t.data for t in originals(trial)), strict=True)]
    buffers = zip(plist.buffers(), trial.buffers(), strict=True)
    changes += [(old, new) for old, new in buffers if id(old) not in planned and not torch.equal(old.cpu(), new)]
    factored = any(isinstance(part, _ORTHOGONAL) for part in plist)
    error = inversion_error(value.dtype) if factored else 0.0
    return Inversion(changes=tuple(changes), effective=effective.detach(), error=error)


def _set(values: Sequence[tuple[Tensor, Tensor]]) -> None:
    for tensor, value in values:
        tensor.copy_(value)


_SPECTRAL_NORM = parametrizations._SpectralNorm
_WEIGHT_NORM = parametrizations._WeightNorm
_ORTHOGONAL = parametrizations._Orthogonal


def _stored_for(plist: parametrize.ParametrizationList, value: Tensor, name: str) -> tuple[Tensor, ...]:
    """Apply every ``right_inverse``, the last parametrization first."""
    stored: tuple[Tensor, ...] = (value,)
    for position, part in reversed(list(enumerate(plist))):
        kind = type(part).__name__.lstrip("_")
        inverse = getattr(part, "right_inverse", None)
        if inverse is None:
            raise TargetError(
                f"{name} is parametrized by {kind}, which has no right_inverse, so no value can be given to it. "
                f"Define right_inverse, or give the original tensor ({name.rpartition('.')[2]}'s parametrizations) "
                "a value yourself"
            )
        if isinstance(part, _ORTHOGONAL) and not _is_orthogonal(stored[0]):
            # its right_inverse stores any matrix without a check, even zero, and training could not correct it
            raise TargetError(
                f"{name} is parametrized by {kind}, and cannot be what was asked: the value is not an orthogonal "
                "matrix. Ask for Orthogonal() with gain 1, or remove the parametrization"
            )
        try:
            if isinstance(part, _SPECTRAL_NORM):
                restart_power_iteration(part, stored[0])
            if isinstance(part, _WEIGHT_NORM):
                direction = originals(plist)[1] if position == 0 else None
                stored = _magnitude_and_direction(stored[0], direction, part.dim)
            else:
                result = inverse(*stored)
                stored = tuple(result) if isinstance(result, tuple | list) else (result,)
        except Exception as error:  # foreign code, or two parametrizations that cannot be combined
            raise TargetError(
                f"{name} is parametrized by {kind}, whose right_inverse refuses the value: {error}"
            ) from error
    return stored


def restart_power_iteration(part: parametrizations._SpectralNorm, weight: Tensor) -> None:
    """Give spectral norm the singular vectors that it would have if it were registered on ``weight`` now.

    With the singular vectors of the old weight, a layer in evaluation mode would be divided by a wrong number, which
    only many training steps would correct.
    """
    fresh = _SPECTRAL_NORM(weight, dim=part.dim, eps=part.eps)
    for old, new in zip(part.buffers(), fresh.buffers(), strict=True):
        old.copy_(new)


def _is_orthogonal(value: Tensor) -> bool:
    wide = value.to(torch.complex128 if value.is_complex() else torch.float64)
    tall = wide if wide.shape[-2] >= wide.shape[-1] else wide.mH
    gram = tall.mH @ tall
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return bool((gram - identity).abs().max() <= _TOLERANCE_EPS * torch.finfo(value.dtype).eps)


def _magnitude_and_direction(weight: Tensor, direction: Tensor | None, dim: int) -> tuple[Tensor, Tensor]:
    """Weight norm's ``(g, v)`` with ``g v / ||v|| = weight``; where the weight is zero, ``v`` keeps its direction.

    torch's ``right_inverse`` sets ``v`` to zero there, so that the weight becomes 0/0.
    """
    magnitude = torch.norm_except_dim(weight, 2, dim)
    if direction is None:
        direction = torch.ones_like(weight)
    length = torch.norm_except_dim(direction, 2, dim)
    usable = length.isfinite() & (length > 0)
    fallback = torch.where(usable, direction, torch.ones_like(direction))
    return magnitude, torch.where(magnitude > 0, weight, fallback)


def _check(effective: Tensor, value: Tensor, name: str, plist: parametrize.ParametrizationList) -> None:
    kinds = ", ".join(type(part).__name__.lstrip("_") for part in plist)
    if effective.shape != value.shape:
        raise TargetError(
            f"{name}: {kinds} gives a weight of shape {tuple(effective.shape)}, expected {tuple(value.shape)}"
        )
    wide = torch.complex128 if value.is_complex() else torch.float64
    deviation = float((effective.to(wide) - value.to(wide)).abs().max()) if value.numel() else 0.0
    allowed = (
        _TOLERANCE_EPS
        * torch.finfo(value.dtype).eps
        * max(float(value.to(wide).abs().max()) if value.numel() else 0.0, _SMALLEST_SCALE)
    )
    if not deviation <= allowed:
        raise TargetError(
            f"{name} is parametrized by {kinds}, and cannot be what was asked: the nearest weight differs by "
            f"{deviation:.3g}. "
            "Ask for a value that the parametrization can give (Orthogonal() under orthogonal), or remove it"
        )
