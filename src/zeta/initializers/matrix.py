"""Initializers of whole matrices: outputs x inputs of each map that is packed into a weight."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from msgspec import Struct

from zeta.base.gaussian import Moments
from zeta.errors import SpecError
from zeta.initializers.base import Initializer, Site, set_number


class _Matrix(Initializer):
    """Base of initializers of the matrices (fan_out x fan_in) inside a weight; see ``matrix_shape``."""

    gain: float
    needs_axes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        set_number(self, "gain")

    def scaled(self, factor: float) -> Self:
        return replace(self, gain=self.gain * factor)  # type: ignore[type-var]


class MatrixShape(Struct, frozen=True, kw_only=True):
    """The matrices packed into a weight: their number and extents. The kernel is not part of ``columns``."""

    count: int
    rows: int
    columns: int
    kernel: tuple[int, ...]


def matrix_shape(site: Site) -> MatrixShape:
    """Return the matrices at ``site``: outputs x inputs (or looked-up rows), for each batch entry and block."""
    if site.axes is None:
        raise SpecError("no axes are known for this parameter, so it holds no matrices")
    axes = site.axes.resolved(site.shape)
    extent = list(site.shape)
    for dim, n in axes.blocks:
        extent[dim] //= n
    kernel = tuple(dim for dim in axes.fan_in if dim in axes.fan_out)
    return MatrixShape(
        count=math.prod(extent[dim] for dim in axes.batch) * math.prod(n for _, n in axes.blocks),
        rows=math.prod(extent[dim] for dim in axes.fan_out if dim not in kernel),
        columns=math.prod(extent[dim] for dim in (*axes.fan_in, *axes.lookup) if dim not in kernel),
        kernel=tuple(extent[dim] for dim in kernel),
    )


def _sparse_moments(gain: float, ones: int, total: int) -> Moments:
    """Moments of a fixed tensor with ``ones`` elements of value ``gain`` and zeros elsewhere."""
    density = ones / total if total else 0.0
    return Moments(mean=gain * density, std=abs(gain) * math.sqrt(density * (1 - density)), kurtosis=1.0)


@dataclass(frozen=True, repr=False, eq=False)
class Orthogonal(_Matrix):
    """Each matrix, outputs x (inputs * kernel), is ``gain`` times a Haar-distributed (semi-)orthogonal matrix.

    ``W W^T = gain^2 I`` or ``W^T W = gain^2 I``, whichever is possible; the mean square is ``gain^2 / max(rows,
    columns)`` exactly. Packed maps are drawn separately. Complex weights are unitary (Saxe et al. 2014; Stewart 1980).

    Computed from Gaussian values of the parameter's stream by Householder reflections, on the parameter's device, in
    fp32 or, for fp64, in fp64; bf16 and fp16 are the rounded fp32 matrix. ``|W W^T / gain^2 - I|`` is at most 2e-6 in
    fp32 and 1e-13 in fp64. The last bits depend on the linear algebra library and its threads: results agree to
    ``2e-6 * gain`` in fp32 and ``1e-13 * gain`` in fp64. Additional outputs do not change the existing rows, as long as
    there are at least as many columns as rows.
    """

    gain: float = 1.0

    def moments(self, site: Site) -> Moments:
        shape = matrix_shape(site)
        side = max(shape.rows, shape.columns * math.prod(shape.kernel), 1)
        return Moments(mean=0.0, std=abs(self.gain) / math.sqrt(side), kurtosis=1.0)

    def bounds(self) -> tuple[float, float]:
        return (-abs(self.gain), abs(self.gain))


@dataclass(frozen=True, repr=False, eq=False)
class DeltaOrthogonal(_Matrix):
    """A convolution that is an orthogonal matrix at the kernel's centre and zero elsewhere (Xiao et al. 2018).

    Needs at least as many outputs as inputs, so that norms are kept.
    """

    gain: float = 1.0

    def solve(self, site: Site) -> DeltaOrthogonal:
        shape = matrix_shape(site)
        if not shape.kernel:
            raise SpecError("DeltaOrthogonal needs a convolution's weight, with a kernel; use Orthogonal for a matrix")
        if shape.rows < shape.columns:
            raise SpecError(
                f"DeltaOrthogonal needs at least as many outputs as inputs, got {shape.rows} and {shape.columns}"
            )
        return self

    def moments(self, site: Site) -> Moments:
        shape = matrix_shape(site)
        side = max(shape.rows * math.prod(shape.kernel), 1)
        return Moments(mean=0.0, std=abs(self.gain) / math.sqrt(side), kurtosis=1.0)

    def bounds(self) -> tuple[float, float]:
        return (-abs(self.gain), abs(self.gain))


@dataclass(frozen=True, repr=False, eq=False)
class Identity(_Matrix):
    """Each matrix has ``gain`` on its main diagonal and 0 elsewhere. For convolutions, use ``Dirac``."""

    is_random = False

    gain: float = 1.0

    def solve(self, site: Site) -> Identity:
        if matrix_shape(site).kernel:
            raise SpecError("Identity is for matrices; a convolution that passes its input on is Dirac()")
        return self

    def moments(self, site: Site) -> Moments:
        shape = matrix_shape(site)
        return _sparse_moments(self.gain, min(shape.rows, shape.columns), shape.rows * shape.columns)

    def bounds(self) -> tuple[float, float]:
        return _with_zero(self.gain)


@dataclass(frozen=True, repr=False, eq=False)
class Dirac(_Matrix):
    """A convolution that passes its input channels through: ``gain`` at the kernel's centre, on the channels' diagonal.

    Grouped convolutions do so for each group (Zagoruyko & Komodakis 2017).
    """

    is_random = False

    gain: float = 1.0

    def solve(self, site: Site) -> Dirac:
        if not matrix_shape(site).kernel:
            raise SpecError("Dirac needs a convolution's weight, with a kernel; use Identity() for a matrix")
        return self

    def moments(self, site: Site) -> Moments:
        shape = matrix_shape(site)
        total = shape.rows * shape.columns * math.prod(shape.kernel)
        return _sparse_moments(self.gain, min(shape.rows, shape.columns), total)

    def bounds(self) -> tuple[float, float]:
        return _with_zero(self.gain)


@dataclass(frozen=True, repr=False, eq=False)
class Sparse(Initializer):
    """``N(0, std^2)``, with ``ceil(sparsity * outputs)`` elements of every column set to zero (Martens 2010).

    A column has the weights from one input to all outputs, as in ``torch.nn.init.sparse_``.
    """

    sparsity: float
    std: float = 0.01
    needs_axes: ClassVar[bool] = True

    def __post_init__(self) -> None:
        set_number(self, "sparsity", least=0.0)
        if self.sparsity > 1:
            raise SpecError(f"Sparse: sparsity is the fraction of zeros, from 0 to 1, got {self.sparsity!r}")
        set_number(self, "std", least=0.0)

    def zeros(self, rows: int) -> int:
        """Return the number of zeros in a column of ``rows`` elements."""
        return math.ceil(self.sparsity * rows)

    def scaled(self, factor: float) -> Sparse:
        return replace(self, std=self.std * abs(factor))

    def moments(self, site: Site) -> Moments:
        rows = matrix_shape(site).rows
        kept = 1 - self.zeros(rows) / rows if rows else 0.0
        if kept == 0:
            return Moments(mean=0.0, std=0.0, kurtosis=1.0)
        return Moments(mean=0.0, std=self.std * math.sqrt(kept), kurtosis=3.0 / kept)


def _with_zero(gain: float) -> tuple[float, float]:
    return (min(gain, 0.0), max(gain, 0.0))
