"""The largest singular triples of a matrix, its first QR columns, and the factors of adapters that are made of them.

All of it is computed in fp64, so that results agree to 2e-6 of each factor's largest value between devices, numbers of
threads and linear algebra libraries. What the matrix does not determine is the exception: singular vectors whose
singular values are equal to 1e-9, relative to the largest one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from msgspec import Struct
from torch import Tensor

from zeta.compute.sampling import SKETCH_DRAW, sample
from zeta.compute.stream.regions import Region
from zeta.initializers import Normal

#: columns of the sketch in addition to the rank (Halko, Martinsson & Tropp 2011, section 4.2)
_OVERSAMPLING: Final = 8
#: the part of an orthonormal column outside of the known ones from which on it counts as a new direction
_LEFT: Final = 0.5
#: elements within this part of the largest one count as largest, so that rounding does not decide between equal ones
_AS_LARGE: Final = 1 - 1e-6

#: matrices U (rows x k), S (k) and V^T (k x columns)
Triples = tuple[Tensor, Tensor, Tensor]
#: B (out x r) and A (r x in)
Factors = tuple[Tensor, Tensor]


def principal(matrix: Tensor, rank: int, *, iterations: int | None = None, key: int = 0) -> Triples:
    """The ``rank`` largest singular triples ``(U, S, V^T)`` of a matrix, in fp64.

    The first of the largest elements of each column of U is positive.

    Args:
        matrix: of real numbers, ``(rows, columns)``.
        rank: at most the smaller extent.
        iterations: ``None`` computes all singular triples, and leaves out the rest. A number q: the best triples in the
            Krylov space of ``W G, (W W^T) W G, ..., (W W^T)^q W G``, where G has ``rank + 8`` columns of standard
            normal values. Where this space would be as large as the matrix, all of them are computed.
        key: of the stream, which draws G.

    Source: Halko, Martinsson, Shkolnisky & Tygert 2011 (arXiv:1007.5510).

    >>> u, s, v = principal(torch.tensor([[3.0, 0.0], [0.0, -2.0]]), 1)
    >>> u.T.tolist(), s.tolist(), v.tolist()
    ([[1.0, 0.0]], [3.0], [[1.0, 0.0]])
    """
    double, unit = _scaled(matrix)
    width = min(rank + _OVERSAMPLING, *double.shape)
    if iterations is None or width * (iterations + 1) >= min(double.shape):
        u, s, v = torch.linalg.svd(double, full_matrices=False)
    else:
        u, s, v = _in_krylov_space(double, _sketch(double, width, key), iterations)
    signs = _signs(u[:, :rank])
    return u[:, :rank] * signs, s[:rank] * unit, v[:rank] * signs[:, None]


def _scaled(matrix: Tensor) -> tuple[Tensor, float]:
    """The matrix in fp64, divided by a power of two near its largest element: no product leaves fp64's range."""
    double = _double(matrix)
    low, high = map(float, torch.aminmax(double))
    unit = 2.0 ** (math.frexp(largest)[1] - 1) if (largest := max(-low, high)) else 1.0
    return (double / unit if double.data_ptr() == matrix.data_ptr() else double.div_(unit)), unit


def _sketch(matrix: Tensor, width: int, key: int) -> Tensor:
    """Standard normal values; fewer columns are the first ones."""
    region = Region.whole((width, matrix.shape[1]))
    return sample(Normal(), key=key, region=region, dtype=matrix.dtype, device=matrix.device, draw=SKETCH_DRAW).T


def _in_krylov_space(matrix: Tensor, sketch: Tensor, iterations: int) -> Triples:
    blocks = [torch.linalg.qr(matrix @ sketch).Q]
    images = [matrix.T @ blocks[0]]
    for _ in range(iterations):
        block = _outside_of(blocks, matrix @ images[-1])
        if not block.shape[1]:  # the space is closed, as that of a matrix of low rank
            break
        blocks.append(block)
        images.append(matrix.T @ block)
    u, s, v = torch.linalg.svd(torch.cat(images, dim=1).T, full_matrices=False)
    return torch.cat(blocks, dim=1) @ u, s, v


def _outside_of(known: Sequence[Tensor], block: Tensor) -> Tensor:
    """An orthonormal basis of what the columns of ``block`` add to those of ``known``, which are orthonormal.

    What is left of columns that add nothing are rounding errors, which may lie anywhere, also among the known columns.
    The second pass finds them: it leaves an orthonormal column as long as before, up to rounding, unless it is one of
    them (Kahan's "twice is enough"; Parlett 1998, section 6.9.1).
    """
    block = torch.linalg.qr(_without(known, block)).Q
    u, lengths, _ = torch.linalg.svd(_without(known, block), full_matrices=False)
    found: Tensor = u[:, lengths > _LEFT]
    return found


def _without(known: Sequence[Tensor], block: Tensor) -> Tensor:
    for each in known:
        block = block - each @ (each.T @ block)
    return block


def _signs(columns: Tensor) -> Tensor:
    """The signs that make the first of the largest elements of each column positive."""
    sizes = columns.abs()
    first = (sizes >= _AS_LARGE * sizes.amax(0)).int().argmax(0, keepdim=True)
    heads = columns.gather(0, first)[0]
    return torch.where(heads < 0, -1.0, 1.0).to(columns.dtype)


def pissa(weight: Tensor, rank: int, scaling: float, *, iterations: int | None = None, key: int = 0) -> Factors | None:
    """``B = U sqrt(S / scaling)`` and ``A = sqrt(S / scaling) V^T`` of the largest singular triples of a weight.

    An input whose weights are all zero, as a padding row's, has zeros in A. ``None`` if the weight has fewer than
    ``rank`` singular values that are not 0 up to rounding: a column of B and a row of A, both 0, get no gradient.

    >>> b, a = pissa(torch.tensor([[8.0, 0.0], [0.0, 1.0]]), 1, scaling=2.0)
    >>> b.tolist(), a.tolist()
    ([[2.0], [0.0]], [[2.0, 0.0]])
    """
    u, s, v = principal(weight, rank, iterations=iterations, key=key)
    if not s[-1] > max(weight.shape) * torch.finfo(s.dtype).eps * s[0]:
        return None
    roots = (s / scaling).sqrt()
    used = weight.any(0).to(device=v.device)
    return u * roots, roots[:, None] * v * used


def olora(weight: Tensor, rank: int) -> Factors:
    """``B = Q[:, :rank]`` and ``A = R[:rank]`` of ``weight = Q R``, with a diagonal of R that is not negative.

    The first columns of the weight alone decide Q's first columns.

    >>> b, a = olora(torch.tensor([[0.0, 1.0], [-2.0, 3.0]]), 1)
    >>> a.tolist(), torch.equal(b @ a, torch.tensor([[0.0, 0.0], [-2.0, 3.0]]).double())
    ([[2.0, -3.0]], True)
    """
    double = _double(weight)
    q, r = torch.linalg.qr(double[:, :rank])
    q = q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)
    return q, q.T @ double


def lora_ga(
    gradient: Tensor, rank: int, *, gamma: float | None = None, iterations: int | None = None, key: int = 0
) -> Factors | None:
    """``B = c U[:, :rank]`` and ``A = c V^T[rank : 2 rank]`` of a gradient's singular triples.

    c is 1, or ``out^(1/4) / sqrt(gamma)``. ``None`` if the gradient has fewer than ``2 rank`` singular values that are
    not 0 up to rounding: its other singular vectors would be those of rounding errors.

    Rounding errors of a gradient (m x n) are about ``eps |G| / sqrt(m n)`` each, and the largest singular value of a
    matrix of independent errors is that times ``sqrt(m) + sqrt(n)``. Twice as much leaves room for those of the sums.
    """
    u, s, v = principal(gradient, 2 * rank, iterations=iterations, key=key)
    eps, norm = torch.finfo(gradient.dtype).eps, float(torch.linalg.matrix_norm(_double(gradient)))
    if not s[-1] > 2 * eps * norm * sum(extent**-0.5 for extent in gradient.shape):
        return None
    scale = 1.0 if gamma is None else gradient.shape[0] ** 0.25 / math.sqrt(gamma)
    return scale * u[:, :rank], scale * v[rank:]


def _double(matrix: Tensor) -> Tensor:
    """In fp64, on a device that has it and linear algebra."""
    device = matrix.device if matrix.device.type in ("cpu", "cuda") else torch.device("cpu")
    return matrix.to(device=device, dtype=torch.float64)


# -- the weight beside an adapter --------------------------------------------------------------------------------------

#: elements of a weight that are computed at a time
_PIECE: Final = 2**22


class Residual(Struct, frozen=True, kw_only=True):
    """What remains of a weight W without s B A, in W's dtype.

    ``difference`` is the largest element of ``|weight + s B A - W|``, ``largest`` that of ``|weight|``, and ``share``
    the squared length of s B A relative to that of W.
    """

    weight: Tensor
    difference: float
    largest: float
    share: float


def residual(weight: Tensor, b: Tensor, a: Tensor, scaling: float) -> Residual:
    """``weight - scaling B A``, computed in fp64 and rounded once."""
    left = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    difference = largest = inside = whole = 0.0
    device = _double(weight[:0]).device
    b, a = scaling * b.to(device, torch.float64), a.to(device, torch.float64)
    step = max(1, _PIECE // max(1, weight.shape[1]))
    for start in range(0, weight.shape[0], step):
        rows = slice(start, start + step)
        before, product = _double(weight[rows]), b[rows] @ a
        left[rows] = before - product
        after = _double(left[rows])
        difference = max(difference, float((after + product - before).abs().max()))
        largest = max(largest, float(after.abs().max()))
        inside, whole = inside + float(product.square().sum()), whole + float(before.square().sum())
    return Residual(
        weight=left, difference=difference, largest=largest, share=inside / whole if whole else float(inside > 0)
    )


def overflows(weight: Tensor, b: Tensor, a: Tensor, scaling: float) -> bool:
    """Whether factors are not finite, or ``weight - scaling B A`` may be outside of the weight's dtype."""
    rows, columns = b.double().norm(dim=1).amax(), a.double().norm(dim=0).amax()
    bound = float(weight.abs().amax()) + scaling * float(rows) * float(columns)
    return not bound <= torch.finfo(weight.dtype).max
