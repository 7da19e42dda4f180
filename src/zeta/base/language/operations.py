"""The closed language of programs: for each operation its signature, its computation and its cost.

Tensors are logical: a shape, a dtype, and values in row-major order; no strides, storage or device. Each operation is
one row of :data:`OPERATIONS`, and a step of a program must be one of them. No operation reads or writes anything but
its operands. The type of a result is found by running the operation on meta tensors.

Rows with the name of a function of ``torch.ops.aten`` have its meaning; ``layouts`` and this module define the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base.language import layouts
from zeta.base.language.careful import careful

Attributes = tuple[tuple[str, Any], ...]
#: an operand: a tensor, a number, or nothing where an operand may be left out
Operand = Any
#: shape and dtype
Type = tuple[tuple[int, ...], torch.dtype]

_INT64: Final = 2**63


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One row: its operands and attributes by name, and how it computes.

    Attributes in ``optional`` may be left out. ``compute`` takes the operands, then the attributes by name; with
    ``creates`` also ``dtype`` and ``device``; with ``casts`` also ``dtype``. With ``numbers``, some operands may be
    numbers, but at least one is a tensor. If torch returns several tensors, the attribute ``part`` selects one. With
    ``dense``, operands are made contiguous first, because torch's sums and sorting depend on strides.
    """

    name: str
    operands: tuple[str, ...]
    attributes: Mapping[str, str]
    optional: frozenset[str]
    compute: Callable[..., Any]
    elementwise: bool = False
    variadic: bool = False
    numbers: bool = False
    creates: bool = False
    casts: bool = False
    dense: bool = False
    work: Callable[[Sequence[Type], Type], int] = field(default=lambda operands, result: _elements(operands, result))


def _elements(operands: Sequence[Type], result: Type) -> int:
    """The number of elements. Extents of 0 count as 1, because LAPACK also loops over a batch of empty matrices."""
    return sum(math.prod(max(extent, 1) for extent in shape) for shape, _ in (*operands, result))


def _sorting(operands: Sequence[Type], result: Type) -> int:
    return 32 * _elements(operands, result)


def _product(operands: Sequence[Type], result: Type) -> int:
    """The cost of a matrix product: one step for each element of the result and of the summed dimension."""
    widest = max((max(shape, default=1) for shape, _ in operands), default=1)
    return _elements(operands, result) * widest


# -- the kinds of attributes -----------------------------------------------------------------------------------------


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_INT64 <= value < _INT64


def is_number(value: Any) -> bool:
    """Whether a plan can hold a number: a truth value, 64-bit integer, float or complex number."""
    return isinstance(value, bool | float | complex) or _is_int(value)


#: for each kind of attribute, the test of a value
ATTRIBUTE_KINDS: Final[Mapping[str, Callable[[Any], bool]]] = {
    "int": _is_int,
    "number": is_number,
    "bool": lambda value: isinstance(value, bool),
    "ints": lambda value: isinstance(value, tuple) and all(map(_is_int, value)),
    "int or ints": lambda value: _is_int(value) or (isinstance(value, tuple) and all(map(_is_int, value))),
    "numbers": lambda value: isinstance(value, tuple) and all(item is None or is_number(item) for item in value),
    "rounding": lambda value: value in ("floor", "trunc"),
    "approximation": lambda value: value in ("none", "tanh"),
    "triangle": lambda value: value in ("L", "U"),
    "factors": lambda value: value in ("reduced", "complete", "r"),
}


# -- the rows --------------------------------------------------------------------------------------------------------
# names: operands; attribute:kind, with a question mark if the attribute is optional


_ELEMENTWISE: Final = """
abs acos acosh angle asin asinh atan atanh bitwise_not ceil conj_physical cos cosh deg2rad digamma: self
erf erfc erfinv exp exp2 expm1 floor frac hardsigmoid i0 isinf isnan lgamma log log10 log1p log2: self
logical_not mish neg rad2deg reciprocal relu rsqrt sgn sigmoid sign signbit silu sin sinc sinh: self
special_entr special_erfcx special_i0e special_i1 special_i1e special_log_ndtr special_ndtri sqrt: self
tan tanh trunc: self
elu: self; alpha:number? scale:number? input_scale:number?
gelu: self; approximate:approximation?
hardtanh: self; min_val:number? max_val:number?
leaky_relu: self; negative_slope:number?
logit: self; eps:number?
nan_to_num: self; nan:number? posinf:number? neginf:number?
round: self; decimals:int?
softplus: self; beta:number? threshold:number?
threshold: self; threshold:number value:number
add rsub sub: self other; alpha:number?
atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor copysign eq: self other
floor_divide fmax fmin fmod ge gt hypot le logaddexp logaddexp2 logical_and logical_or logical_xor: self other
lt maximum minimum mul ne nextafter remainder special_xlog1py xlogy: self other
complex: real imag
div: self other; rounding_mode:rounding?
heaviside: self values
polar: abs angle
pow: self exponent
addcdiv addcmul: self tensor1 tensor2; value:number?
clamp: self min max
clamp_max: self max
clamp_min: self min
lerp: self end weight
masked_fill: self mask value
where: condition self other
"""

_WHOLE: Final = """
all: self; dim:int or ints? keepdim:bool?
amax: self; dim:ints? keepdim:bool?
amin: self; dim:ints? keepdim:bool?
any: self; dim:int or ints? keepdim:bool?
argmax: self; dim:int? keepdim:bool?
argmin: self; dim:int? keepdim:bool?
bucketize: self boundaries; out_int32:bool? right:bool?
constant_pad_nd: self; pad:ints value:number?
cummax: self; dim:int part:int
cummin: self; dim:int part:int
diag_embed: self; offset:int? dim1:int? dim2:int?
flip: self; dims:ints
gather: self index; dim:int
index_add: self index source; dim:int alpha:number?
index_copy: self index source; dim:int
index_select: self index; dim:int
linalg_cross: self other; dim:int?
linalg_vector_norm: self; ord:number? dim:ints? keepdim:bool?
logcumsumexp: self; dim:int
logsumexp: self; dim:ints keepdim:bool?
masked_scatter: self mask source
max: self; dim:int? keepdim:bool? part:int?
min: self; dim:int? keepdim:bool? part:int?
norm: self; p:number? dim:ints? keepdim:bool?
roll: self; shifts:ints dims:ints?
scatter_add: self index src; dim:int
searchsorted: sorted_sequence self; out_int32:bool? right:bool?
std: self; dim:ints? correction:number? keepdim:bool?
tril: self; diagonal:int?
triu: self; diagonal:int?
upsample_bicubic2d _upsample_bicubic2d_aa: self; output_size:ints align_corners:bool scales_h:number? scales_w:number?
upsample_bilinear2d _upsample_bilinear2d_aa: self; output_size:ints align_corners:bool scales_h:number? scales_w:number?
upsample_linear1d: self; output_size:ints align_corners:bool scales:number?
upsample_nearest1d _upsample_nearest_exact1d: self; output_size:ints scales:number?
upsample_nearest2d _upsample_nearest_exact2d: self; output_size:ints scales_h:number? scales_w:number?
upsample_nearest3d _upsample_nearest_exact3d: self; output_size:ints scales_d:number? scales_h:number? scales_w:number?
upsample_trilinear3d: self; output_size:ints align_corners:bool scales_d:number? scales_h:number? scales_w:number?
var: self; dim:ints? correction:number? keepdim:bool?
_log_softmax: self; dim:int half_to_float:bool
_softmax: self; dim:int half_to_float:bool
_weight_norm_interface: v g; dim:int? part:int
"""

#: operations that get the dtype of the result as an argument; otherwise torch would choose it
_CASTING: Final = """
cumprod: self; dim:int
cumsum: self; dim:int
mean: self; dim:ints? keepdim:bool?
prod: self; dim:int? keepdim:bool?
sum: self; dim:ints? keepdim:bool?
"""

_SORTING: Final = """
argsort: self; stable:bool? dim:int? descending:bool?
sort: self; stable:bool? dim:int? descending:bool? part:int
topk: self; k:int dim:int? largest:bool? sorted:bool? part:int
_fft_c2c: self; dim:ints normalization:int forward:bool
_fft_c2r: self; dim:ints normalization:int last_dim_size:int
_fft_r2c: self; dim:ints normalization:int onesided:bool
"""

_PRODUCTS: Final = """
addbmm: self batch1 batch2; beta:number? alpha:number?
addmm: self mat1 mat2; beta:number? alpha:number?
addmv: self mat vec; beta:number? alpha:number?
addr: self vec1 vec2; beta:number? alpha:number?
baddbmm: self batch1 batch2; beta:number? alpha:number?
bmm: self mat2
dot: self tensor
linalg_cholesky_ex: self; upper:bool? part:int
linalg_eig: self; part:int
linalg_householder_product: input tau
linalg_inv_ex: A; part:int
linalg_lu_factor_ex: A; pivot:bool? part:int
linalg_qr: A; mode:factors? part:int
linalg_solve_triangular: self B; upper:bool left:bool? unitriangular:bool?
mm: self mat2
mv: self vec
_linalg_det: A; part:int
_linalg_eigh: A; UPLO:triangle? compute_v:bool? part:int
_linalg_slogdet: A; part:int
_linalg_solve_ex: A B; left:bool? part:int
_linalg_svd: A; full_matrices:bool? compute_uv:bool? part:int
"""

#: operations in which an operand may be a number
_WHOLE_WITH_NUMBERS: Final = """
index_fill: self index value; dim:int
"""

_CREATING: Final = """
arange: ; start:number end:number step:number
bartlett_window: ; window_length:int periodic:bool?
blackman_window: ; window_length:int periodic:bool?
eye: ; n:int m:int
hamming_window: ; window_length:int periodic:bool? alpha:number? beta:number?
hann_window: ; window_length:int periodic:bool?
kaiser_window: ; window_length:int periodic:bool? beta:number?
linspace: ; start:number end:number steps:int
logspace: ; start:number end:number steps:int base:number?
tril_indices: ; row:int col:int offset:int?
triu_indices: ; row:int col:int offset:int?
"""


def _full(*, size: tuple[int, ...], value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.full(size, value, dtype=dtype, device=device)


def _cast(x: Tensor, *, dtype: torch.dtype) -> Tensor:
    return x.to(dtype)


def _cat(*parts: Tensor, dim: int) -> Tensor:
    """The parts, of one dtype and as many dimensions, end to end along ``dim``."""
    if len({(part.dtype, part.ndim) for part in parts}) != 1 or not 0 <= dim < parts[0].ndim:
        raise ValueError("the parts of cat have one dtype and number of dimensions, of which dim is one")
    return torch.cat(parts, dim)


def _geqrf(self: Tensor) -> tuple[Tensor, Tensor]:
    """LAPACK's compact factors of QR; torch has no meta implementation."""
    if self.is_meta:
        return torch.empty_like(self), self.new_empty((*self.shape[:-2], min(self.shape[-2:])))
    return torch.geqrf(self)


def _scatter(self: Tensor, index: Tensor, src: Any, dim: int) -> Tensor:
    """``self`` with ``src``, a tensor or a number, at ``index`` along ``dim``."""
    return torch.scatter(self, dim, index, src)


def _index(x: Tensor, *indices: Tensor, dims: tuple[int, ...]) -> Tensor:
    """The elements at ``indices``; ``dims`` are their positions in torch's list of indices; broadcast as in NumPy."""
    return torch.ops.aten.index(x, _at(x, indices, dims))  # type: ignore[no-any-return]


def _index_put(x: Tensor, values: Tensor, *indices: Tensor, dims: tuple[int, ...], accumulate: bool) -> Tensor:
    """``x`` with ``values`` written at, or added to, these elements."""
    return torch.ops.aten.index_put(x, _at(x, indices, dims), values, accumulate)  # type: ignore[no-any-return]


def _at(x: Tensor, indices: tuple[Tensor, ...], dims: tuple[int, ...]) -> list[Tensor | None]:
    if len(set(dims)) != len(indices) or len(dims) != len(indices) or not all(0 <= dim < x.ndim for dim in dims):
        raise ValueError(f"dims {dims} are not one dimension for each of {len(indices)} indices")
    if any(index.dtype not in (torch.int64, torch.int32, torch.bool) for index in indices):
        raise ValueError("indices are whole numbers or truth values")
    by_dim = dict(zip(dims, indices, strict=True))
    return [by_dim.get(dim) for dim in range(max(dims, default=-1) + 1)]


_OWN: Final[Sequence[tuple[str, Callable[..., Any], dict[str, Any]]]] = (
    ("full: ; size:ints value:number", _full, {"creates": True}),
    ("cast: x", _cast, {"casts": True, "elementwise": True}),
    ("bits: x", layouts.bits, {"casts": True}),
    ("reshape: x; shape:ints", layouts.reshape, {}),
    ("permute: x; dims:ints", layouts.permute, {}),
    ("expand: x; shape:ints", layouts.expand, {}),
    ("slice: x; starts:ints sizes:ints steps:ints", layouts.cut, {}),
    ("update: x value; starts:ints steps:ints", layouts.update, {}),
    ("strided: x; shape:ints strides:ints offset:int", layouts.strided, {}),
    ("strided_update: x value; strides:ints offset:int", layouts.strided_update, {}),
    ("cat: parts; dim:int", _cat, {"variadic": True}),
    ("geqrf: self; part:int", _geqrf, {"work": _product, "dense": True}),
    ("scatter: self index src; dim:int", _scatter, {"numbers": True}),
    ("index: x indices; dims:ints", _index, {"variadic": True}),
    ("index_put: x values indices; dims:ints accumulate:bool", _index_put, {"variadic": True}),
)


def _row(text: str, compute: Callable[..., Any] | None = None, **flags: Any) -> Operation:
    name, _, signature = text.partition(":")
    names, _, rest = signature.partition(";")
    attributes, optional = {}, set()
    for item in rest.replace("int or ints", "int_or_ints").split():
        key, _, kind = item.partition(":")
        attributes[key] = kind.removesuffix("?").replace("_or_", " or ")
        if kind.endswith("?"):
            optional.add(key)
    function = careful(name, getattr(torch.ops.aten, name)) if compute is None else compute
    return Operation(
        name=name,
        operands=tuple(names.split()),
        attributes=attributes,
        optional=frozenset(optional),
        compute=function,
        **flags,
    )


def _rows(text: str, **flags: Any) -> list[Operation]:
    lines = [line.partition(":") for line in text.strip().splitlines()]
    return [_row(f"{name}:{rest}", **flags) for names, _, rest in lines for name in names.split()]


#: every operation of the language
OPERATIONS: Final[Mapping[str, Operation]] = {
    operation.name: operation
    for operation in (
        *_rows(_ELEMENTWISE, elementwise=True, numbers=True),
        *_rows(_WHOLE, dense=True),
        *_rows(_WHOLE_WITH_NUMBERS, numbers=True, dense=True),
        *_rows(_CASTING, casts=True, dense=True),
        *_rows(_SORTING, work=_sorting, dense=True),
        *_rows(_PRODUCTS, work=_product, dense=True),
        *_rows(_CREATING, creates=True),
        *(_row(text, function, **flags) for text, function, flags in _OWN),
    )
}


def is_elementwise(name: str) -> bool:
    """Whether each element of the result depends on the same element of the operands alone."""
    return name in OPERATIONS and OPERATIONS[name].elementwise


def is_inexact(dtype: torch.dtype) -> bool:
    """Whether a dtype is one of real or complex floating-point numbers."""
    return dtype.is_floating_point or dtype.is_complex


def work(name: str, operands: Sequence[Operand | Type], result: Type) -> int:
    """The approximate number of arithmetic steps of an operation."""
    return OPERATIONS[name].work([operand for operand in operands if isinstance(operand, tuple)], result)
