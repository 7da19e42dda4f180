"""Orthogonal, identity, Dirac and sparse weights: the matrices inside them, and along which axes they lie."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zeta.compute.matrices import from_matrices, sparse_columns, to_matrices
from zeta.compute.orthogonal import orthonormal
from zeta.compute.sampling import sample
from zeta.compute.stream.regions import Region
from zeta.fans import Axes, axes_of
from zeta.initializers import DeltaOrthogonal, Dirac, Identity, Initializer, Normal, Orthogonal, Sparse

OUT_BY_IN = Axes(fan_in=(1,), fan_out=(0,))
CONV = Axes(fan_in=(1, 2, 3), fan_out=(0, 2, 3))
TRANSPOSED = Axes(fan_in=(0, 2, 3), fan_out=(1, 2, 3))


def drawn(
    spec: Initializer, shape: tuple[int, ...], axes: Axes, *, key: int = 1, dtype: torch.dtype = torch.float64
) -> Tensor:
    return sample(spec, key=key, region=Region.whole(shape), dtype=dtype, axes=axes)


def layer_axes(layer: nn.Module, name: str = "weight") -> Axes:
    return axes_of(layer, name, getattr(layer, name).shape)


def assert_orthogonal(matrix: Tensor, gain: float = 1.0) -> None:
    """``W W^H = gain^2 I`` over the shorter side."""
    rows, columns = matrix.shape
    gram = matrix @ matrix.mH if rows <= columns else matrix.mH @ matrix
    expected = gain**2 * torch.eye(min(rows, columns), dtype=matrix.dtype)
    torch.testing.assert_close(gram, expected, rtol=0, atol=1e-12 * gain**2)


# -- the arrangement --------------------------------------------------------------------------------------------------


def test_matrices_are_outputs_by_inputs_element_by_element() -> None:
    """Every role at once, by explicit loops: batch 2, inputs 3 blocks of 2, kernel 2, outputs 3, another kernel 2."""
    axes = Axes(batch=(0,), fan_in=(1, 2, 4), fan_out=(3, 2, 4), blocks=((1, 3),))
    weight = torch.arange(2 * 6 * 2 * 3 * 2).reshape(2, 6, 2, 3, 2)
    matrices = to_matrices(weight, axes)
    assert matrices.shape == (2 * 3, 3, 2, 2 * 2)
    for batch, block, row, column, k1, k2 in itertools.product(*map(range, (2, 3, 3, 2, 2, 2))):
        assert matrices[batch * 3 + block, row, column, k1 * 2 + k2] == weight[batch, block * 2 + column, k1, row, k2]
    assert torch.equal(from_matrices(matrices, weight.shape, axes), weight)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(5, 7), (1, 7, 5, 1)),
        (nn.Conv2d(6, 12, 3, groups=3), (3, 4, 2, 9)),
        (nn.ConvTranspose2d(6, 12, 3, groups=3), (3, 4, 2, 9)),
        (nn.ConvTranspose1d(4, 6, 5), (1, 6, 4, 5)),
        (nn.Bilinear(3, 5, 7), (1, 7, 15, 1)),
        (nn.Embedding(9, 4), (1, 4, 9, 1)),
    ],
)
def test_matrices_of_torch_layers(layer: nn.Module, shape: tuple[int, ...]) -> None:
    assert to_matrices(layer.weight, layer_axes(layer)).shape == shape


def test_in_by_out_is_a_transpose() -> None:
    weight = torch.arange(15.0).reshape(3, 5)
    assert torch.equal(to_matrices(weight, Axes(fan_in=(0,), fan_out=(1,)))[0, :, :, 0], weight.T)
    assert torch.equal(to_matrices(weight, OUT_BY_IN)[0, :, :, 0], weight)


@given(st.permutations(range(5)), st.lists(st.sampled_from([1, 2, 4, 6]), min_size=5, max_size=5), st.data())
def test_from_matrices_undoes_to_matrices(order: list[int], shape: list[int], data: st.DataObject) -> None:
    a, b, c, d, kernel = order
    blocks = tuple((dim, data.draw(st.sampled_from([n for n in (1, 2, 3) if shape[dim] % n == 0]))) for dim in (a, b))
    axes = Axes(fan_in=(a, kernel), fan_out=(b, kernel), batch=(c,), lookup=(d,), blocks=blocks)
    weight = torch.arange(math.prod(shape)).reshape(shape)
    matrices = to_matrices(weight, axes)
    assert torch.equal(from_matrices(matrices, shape, axes), weight)
    (n_a, n_b) = (n for _, n in blocks)
    sizes = (shape[c] * n_a * n_b, shape[b] // n_b, shape[a] // n_a * shape[d], shape[kernel])
    assert tuple(matrices.shape) == sizes


# -- orthogonal -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gain", [1.0, -0.3, math.sqrt(2)])
@pytest.mark.parametrize("shape", [(6, 6), (9, 4), (4, 9), (1, 5), (5, 1), (1, 1)])
def test_orthogonal_matrices_wide_and_tall(shape: tuple[int, int], gain: float) -> None:
    assert_orthogonal(drawn(Orthogonal(gain), shape, OUT_BY_IN), gain)


@pytest.mark.parametrize(
    ("shape", "axes", "matrices"),
    [
        ((4, 3, 2, 2), CONV, lambda w: [w.reshape(4, 12)]),
        ((20, 3, 2, 2), CONV, lambda w: [w.reshape(20, 12)]),
        ((3, 4, 2, 2), TRANSPOSED, lambda w: [w.transpose(0, 1).reshape(4, 12)]),
        ((9, 4), Axes(fan_in=(0,), fan_out=(1,)), lambda w: [w]),
        ((9, 4), Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 3),)), lambda w: w.split(3)),
        ((4, 9), Axes(fan_in=(0,), fan_out=(1,), blocks=((1, 3),)), lambda w: w.split(3, dim=1)),
        ((3, 5, 4), Axes(fan_in=(1,), fan_out=(2,), batch=(0,)), lambda w: list(w)),
        ((5, 3, 4), Axes(fan_in=(0,), fan_out=(2,), batch=(1,)), lambda w: w.unbind(1)),
        ((4, 2, 3, 3), layer_axes(nn.Conv2d(4, 4, 3, groups=2)), lambda w: [b.reshape(2, 18) for b in w.split(2)]),
        ((7, 3, 5), layer_axes(nn.Bilinear(3, 5, 7)), lambda w: [w.reshape(7, 15)]),
    ],
)
def test_each_map_inside_a_weight_is_orthogonal_and_drawn_on_its_own(
    shape: tuple[int, ...], axes: Axes, matrices: Callable[[Tensor], list[Tensor]]
) -> None:
    found = matrices(drawn(Orthogonal(0.5), shape, axes))
    for matrix in found:
        assert_orthogonal(matrix, 0.5)
    for one, other in itertools.combinations(found, 2):
        assert not torch.allclose(one, other, atol=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_lower_precision_is_the_fp32_matrix_rounded(dtype: torch.dtype) -> None:
    single = drawn(Orthogonal(), (40, 30), OUT_BY_IN, dtype=torch.float32)
    low = drawn(Orthogonal(), (40, 30), OUT_BY_IN, dtype=dtype)
    assert torch.equal(low, single.to(dtype))
    gram = single.T @ single
    assert (gram - torch.eye(30)).abs().max() < 2e-6


def test_complex_weights_are_unitary() -> None:
    weight = drawn(Orthogonal(2.0), (6, 4), OUT_BY_IN, dtype=torch.complex128)
    assert_orthogonal(weight, 2.0)
    assert weight.imag.abs().max() > 0.1


def test_orthogonal_weights_come_from_the_gaussian_ones_with_the_same_key() -> None:
    for shape, matrix in (((12, 2, 2, 2), (12, 8)), ((4, 3, 2, 2), (4, 12))):
        gaussian = drawn(Normal(), shape, CONV).reshape(1, *matrix)
        assert torch.equal(drawn(Orthogonal(), shape, CONV).reshape(1, *matrix), orthonormal(gaussian))


def test_more_outputs_keep_the_rows_of_a_wide_matrix() -> None:
    few, many = (drawn(Orthogonal(), (rows, 9), OUT_BY_IN) for rows in (4, 6))
    torch.testing.assert_close(many[:4], few, rtol=0, atol=1e-14)


def test_single_precision_is_close_to_double() -> None:
    for shape in ((60, 60), (20, 70)):
        single, double = (drawn(Orthogonal(), shape, OUT_BY_IN, dtype=d) for d in (torch.float32, torch.float64))
        assert (single - double).abs().max() < 2e-6


def test_orthogonal_blocks_are_haar_distributed() -> None:
    """The traces of O(4) have the moments of a standard normal variable up to order 4, and half the signs are -1."""
    axes = Axes(batch=(0,), fan_in=(2,), fan_out=(1,))
    q = drawn(Orthogonal(), (20_000, 4, 4), axes)
    trace = q.diagonal(dim1=1, dim2=2).sum(-1)
    # standard errors: sqrt(1/n), sqrt(2/n), sqrt(15/n), sqrt(96/n), with the normal's moments
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert abs(float((trace**power).mean()) - moment) < 5 * math.sqrt(spread / 20_000), power
    assert float((torch.linalg.det(q) > 0).double().mean()) == pytest.approx(0.5, abs=5 * 0.5 / math.sqrt(20_000))


def test_a_tiny_gain_keeps_its_digits_though_threads_flush_subnormal_numbers() -> None:
    """Torch's threads begin with the mode of the one that first needs them, which does not change theirs later."""
    found: list[Tensor] = []

    def draw() -> None:
        torch.set_num_threads(2)
        torch.set_flush_denormal(True)
        (torch.ones(10**6) * 2).sum()  # begins the threads
        torch.set_flush_denormal(False)
        found.extend([torch.full((10**6,), 1e-39) * 1.0, drawn(law, (300, 300), OUT_BY_IN, dtype=torch.float32)])

    law = Orthogonal(1e-35)
    thread = threading.Thread(target=draw)
    thread.start()
    thread.join()
    if found[0].all():
        pytest.skip("this torch flushes nothing in other threads")
    assert (found[1] - drawn(law, (300, 300), OUT_BY_IN)).abs().max() < 2e-6 * law.gain


def test_delta_orthogonal_is_orthogonal_at_the_centre_and_zero_elsewhere() -> None:
    weight = drawn(DeltaOrthogonal(0.5), (7, 4, 3, 5), CONV)
    assert_orthogonal(weight[:, :, 1, 2], 0.5)
    weight[:, :, 1, 2] = 0
    assert not weight.any()


def test_delta_orthogonal_of_a_transposed_convolution_maps_inputs_to_outputs() -> None:
    weight = drawn(DeltaOrthogonal(), (4, 7, 3, 3), TRANSPOSED)
    assert_orthogonal(weight[:, :, 1, 1])
    assert int((weight != 0).sum()) == 4 * 7


# -- diagonals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 5), (3, 5), (5, 3)])
def test_identity(shape: tuple[int, int]) -> None:
    assert torch.equal(drawn(Identity(-0.5), shape, OUT_BY_IN), -0.5 * torch.eye(*shape, dtype=torch.float64))


def test_identity_of_packed_and_stacked_maps() -> None:
    packed = drawn(Identity(), (6, 4), Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 3),)))
    assert torch.equal(packed, torch.eye(2, 4, dtype=torch.float64).repeat(3, 1))
    stacked = drawn(Identity(), (3, 4, 5), Axes(fan_in=(1,), fan_out=(2,), batch=(0,)))
    assert torch.equal(stacked, torch.eye(4, 5, dtype=torch.float64).repeat(3, 1, 1))
    columns = drawn(Identity(), (3, 4, 5), Axes(fan_in=(0,), fan_out=(1,), batch=(2,)))
    assert torch.equal(columns, torch.eye(3, 4, dtype=torch.float64)[:, :, None].repeat(1, 1, 5))


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("kernel", [(3,), (4,), (3, 3), (2, 5), (1, 1), (3, 4, 5)])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 8), (8, 12), (16, 8)])
def test_dirac_is_that_of_torch(inputs: int, outputs: int, kernel: tuple[int, ...], groups: int) -> None:
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(kernel) - 1](inputs, outputs, kernel, groups=groups)
    expected = nn.init.dirac_(torch.empty_like(conv.weight, dtype=torch.float64), groups=groups)
    shape = tuple(conv.weight.shape)
    assert torch.equal(drawn(Dirac(0.25), shape, layer_axes(conv)), 0.25 * expected)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=2, bias=False),
        nn.Conv1d(5, 5, 5, padding=2, bias=False),
        nn.ConvTranspose2d(6, 6, 3, padding=1, groups=2, bias=False),
        nn.ConvTranspose1d(5, 5, 5, padding=2, bias=False),
    ],
)
def test_a_dirac_convolution_passes_its_input_on(layer: nn.Conv2d) -> None:
    weight = drawn(Dirac(), tuple(layer.weight.shape), layer_axes(layer), dtype=torch.float32)
    sizes = (1, layer.in_channels, *(7,) * (weight.ndim - 2))
    x = torch.arange(1.0, 1 + math.prod(sizes)).reshape(sizes)
    with torch.no_grad():
        layer.weight.copy_(weight)
        assert torch.equal(layer(x), x)


# -- sparse -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.3, 0.5, 0.95, 1.0])
def test_sparse_zeroes_the_same_number_in_every_column_as_torch(sparsity: float) -> None:
    expected = nn.init.sparse_(torch.empty(30, 20), sparsity)
    weight = drawn(Sparse(sparsity, std=0.5), (30, 20), OUT_BY_IN)
    zeros = (weight == 0).sum(0)
    assert (zeros == math.ceil(sparsity * 30)).all()
    assert torch.equal(zeros, (expected == 0).sum(0))
    rows = (weight == 0).sum(1)
    assert sparsity in (0, 1) or rows.min() < rows.max()


@pytest.mark.parametrize(
    ("shape", "axes", "columns"),
    [
        ((20, 30), Axes(fan_in=(0,), fan_out=(1,)), lambda w: w.T),
        ((30, 4, 3, 3), CONV, lambda w: w.reshape(30, 36)),
        ((4, 30, 3, 3), TRANSPOSED, lambda w: w.transpose(0, 1).reshape(30, 36)),
        ((90, 7), Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 3),)), lambda w: torch.cat(w.split(30), 1)),
        ((5, 7, 30), Axes(fan_in=(1,), fan_out=(2,), batch=(0,)), lambda w: w.reshape(35, 30).T),
    ],
)
def test_a_sparse_column_is_what_one_input_sends_to_all_outputs(
    shape: tuple[int, ...], axes: Axes, columns: Callable[[Tensor], Tensor]
) -> None:
    zeros = (columns(drawn(Sparse(0.31), shape, axes)) == 0).sum(0)
    assert torch.equal(zeros, torch.full_like(zeros, 10))  # ceil(9.3)


def test_the_sparse_zeros_are_uniform_and_the_rest_is_normal() -> None:
    weight = drawn(Sparse(0.25, std=0.5), (400, 2000), OUT_BY_IN)
    zero = weight == 0
    per_row = zero.double().mean(1)
    assert (per_row - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / 2000)
    rest = weight[~zero]
    assert float(rest.std()) == pytest.approx(0.5, rel=5 / math.sqrt(2 * len(rest)))
    assert abs(float(rest.mean())) < 5 * 0.5 / math.sqrt(len(rest))
    # what is kept does not depend on the mask: the sizes of a column's values are those of unmasked ones
    assert float((rest / 0.5).pow(4).mean()) == pytest.approx(3, abs=5 * math.sqrt(96 / len(rest)))


def test_the_smallest_words_of_a_column_are_zeroed_and_ties_go_to_the_earlier_row() -> None:
    words = torch.tensor([[5, 1, 7], [2, 1, 7], [9, 1, 0], [2, 0, 7]])
    kept = sparse_columns(torch.ones(4, 3), words, 2, OUT_BY_IN)
    assert kept.tolist() == [[1, 0, 0], [0, 1, 1], [1, 1, 0], [0, 0, 1]]
