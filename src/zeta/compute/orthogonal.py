"""Haar-distributed orthogonal matrices as products of Householder reflections, without a QR factorization."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

#: reflections applied together: enough for fast matrix products, few enough that combining them costs little
BLOCK: Final = 128


def orthonormal(gaussian: Tensor, gain: float = 1.0) -> Tensor:
    """Return ``gain`` times Haar-distributed (semi-)orthogonal matrices, in the shape and dtype of ``gaussian``.

    ``Q = H_1 ... H_k D`` in the tall orientation: the reflection ``H_j`` takes ``x_j``, the elements of column j at
    and below the diagonal, to the first axis, and the phases ``D`` make ``Q_1 = x_1 / |x_1|``, as in a factorization
    whose R has a positive diagonal (Stewart 1980; Mezzadri 2007). Elements above the diagonal are not used. A matrix
    with more columns than rows is the transpose of a tall one. The first ``k`` columns do not depend on the others.

    Args:
        gaussian: standard normal values ``(count, rows, columns)``, fp32, fp64 or complex. Zeros count as positive.
        gain: a real factor.

    ``|Q^H Q - I|`` is at most 2e-6 in fp32 and 1e-13 in fp64, up to 4096 columns. The last bits depend on the linear
    algebra library, its threads and the device: results agree to 2e-6 in fp32 and 1e-13 in fp64.

    >>> orthonormal(torch.tensor([[[3.0, 0.0], [4.0, 1.0]]]))
    tensor([[[ 0.6000, -0.8000],
             [ 0.8000,  0.6000]]])
    """
    rows, columns = gaussian.shape[-2:]
    working = gaussian.to(_working_dtype(gaussian))
    result = torch.zeros_like(working, memory_format=torch.contiguous_format)
    tall, q = (working, result) if rows >= columns else (working.mT, result.mT)
    vectors, halves, phases = _reflections(tall)
    q.diagonal(dim1=-2, dim2=-1).copy_(gain * phases)
    for start in reversed(range(0, min(rows, columns), BLOCK)):
        # the columns before ``start`` are still those of D, and these reflections do not change them
        block, part = slice(start, start + BLOCK), q[:, start:, start:]
        v = vectors[:, start:, block]
        part.baddbmm_(v, _coupling(v, halves[:, block]) @ (v.mH @ part), alpha=-1)
    return result.to(gaussian.dtype)


def _reflections(tall: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The vectors ``v_j = x_j + phase |x_j| e_1`` as a lower trapezoid, ``|v_j|^2 / 2``, and the diagonal of D.

    ``I - v v^H / (|v|^2 / 2)`` takes ``x`` to ``-phase |x| e_1``, so that D is -phase. Where nothing lies below the
    diagonal, in the last column of a square, no reflection is needed and D is the phase.
    """
    vectors = tall.tril()
    diagonal = vectors.diagonal(dim1=-2, dim2=-1)
    heads = diagonal.clone()
    diagonal.zero_()
    tails: Tensor = torch.linalg.vecdot(vectors, vectors, dim=-2).real
    reflected = tails > torch.finfo(tails.dtype).tiny
    phases = torch.where(heads == 0, 1, heads.sgn())
    lengths = torch.sqrt(heads.abs().square() + tails)
    diagonal.copy_(torch.where(reflected, heads + phases * lengths, 0))
    halves = torch.where(reflected, (diagonal.abs().square() + tails) / 2, 1)
    return vectors, halves, torch.where(reflected, -phases, phases)


def _coupling(v: Tensor, halves: Tensor) -> Tensor:
    """The upper triangle T with ``H_1 H_2 ... = I - V T V^H``.

    Its inverse has ``|v_j|^2 / 2`` on the diagonal and ``V^H V`` above (Puglisi 1992; Joffrain et al. 2006).
    """
    inverse = (v.mH @ v).triu_(1)
    inverse.diagonal(dim1=-2, dim2=-1).copy_(halves)
    identity = torch.eye(inverse.shape[-1], dtype=inverse.dtype, device=inverse.device)
    result: Tensor = torch.linalg.solve_triangular(inverse, identity, upper=True)
    return result


def _working_dtype(gaussian: Tensor) -> torch.dtype:
    """The Gaussian's dtype; or fp64 (complex128) if torch may compute fp32 matrix products in TF32, bf16 or autocast.

    Such products would not be orthogonal to fp32 accuracy. fp64 products are always exact to fp64.
    """
    backend = torch.backends.cuda if gaussian.is_cuda else torch.backends.mkldnn
    exact = backend.matmul.fp32_precision in ("none", "ieee")
    if exact and not torch.is_autocast_enabled(gaussian.device.type):
        return gaussian.dtype
    return torch.complex128 if gaussian.is_complex() else torch.float64
