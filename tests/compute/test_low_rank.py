"""The largest singular triples and the factors made of them, compared with torch's full decompositions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from zeta.compute.low_rank import Triples, lora_ga, olora, overflows, pissa, principal, residual


def with_spectrum(values: Tensor, rows: int, columns: int, seed: int = 0) -> Tensor:
    """A matrix with these singular values."""
    generator = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(n, len(values), generator=generator).double()).Q for n in (rows, columns))
    return u * values @ v.T


def powers(count: int, power: float) -> Tensor:
    return torch.arange(1, count + 1).double() ** -power


def product(triples: Triples) -> Tensor:
    u, s, v = triples
    return u * s @ v


def truth(matrix: Tensor, rank: int) -> Tensor:
    u, s, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


@pytest.mark.parametrize(("rows", "columns"), [(300, 240), (240, 300)])
@pytest.mark.parametrize(("power", "iterations", "error"), [(0.5, 6, 1e-5), (1.0, 4, 1e-5), (0.25, 10, 1e-5)])
def test_the_randomized_triples_are_the_largest(
    rows: int, columns: int, power: float, iterations: int, error: float
) -> None:
    matrix = with_spectrum(powers(240, power), rows, columns).float()
    found = principal(matrix, 8, iterations=iterations, key=7)
    expected = truth(matrix, 8)
    assert float((product(found) - expected).norm() / expected.norm()) <= error
    # the space has too few columns for that, without iterations
    assert float((product(principal(matrix, 8, iterations=0, key=7)) - expected).norm() / expected.norm()) > 100 * error


def test_a_space_as_large_as_the_matrix_is_not_built() -> None:
    matrix = with_spectrum(powers(40, 0.1), 40, 60)
    few, all_of_it = principal(matrix, 8, iterations=3, key=1), principal(matrix, 8)
    assert all(torch.equal(one, other) for one, other in zip(few, all_of_it, strict=True))


@pytest.mark.parametrize("iterations", [None, 4])
def test_the_triples_are_orthonormal_and_have_fixed_signs(iterations: int | None) -> None:
    u, s, v = principal(with_spectrum(powers(200, 1), 200, 250), 8, iterations=iterations, key=3)
    assert torch.allclose(u.T @ u, torch.eye(8).double(), atol=1e-12)
    assert torch.allclose(v @ v.T, torch.eye(8).double(), atol=1e-12)
    assert torch.equal(s, s.sort(descending=True).values)
    assert (u.gather(0, u.abs().argmax(0, keepdim=True)) > 0).all()


def test_of_equal_elements_the_first_decides_the_sign() -> None:
    direction = torch.tensor([-1.0, 1.0, -1.0, 1.0]).double()
    noise = 1e-12 * torch.tensor([0.0, 1.0, 1.0, 2.0])
    for moved in (direction, direction + noise, direction - noise):
        u, _, _ = principal(torch.outer(moved, torch.tensor([1.0, 2.0]).double()), 1)
        assert u[0] > 0


@pytest.mark.parametrize("iterations", [0, 2, 6])
def test_a_matrix_of_low_rank(iterations: int) -> None:
    """The space is exhausted after the first block; what follows is rounding errors."""
    matrix = with_spectrum(powers(5, 1), 200, 220)
    u, s, v = principal(matrix, 8, iterations=iterations, key=3)
    assert torch.allclose(u * s @ v, matrix, atol=1e-12)
    assert torch.allclose(u.T @ u, torch.eye(8).double(), atol=1e-12)
    zero = principal(torch.zeros(200, 220), 8, iterations=iterations, key=3)
    assert not zero[1].any()
    assert all(each.isfinite().all() for each in zero)


CLOSED: dict[str, Tensor] = {
    "all elements equal": torch.ones(300, 300),
    "powers of two": torch.diag(0.5 ** torch.arange(300).double()),
    "identity": torch.eye(300),
    "few distinct values": torch.diag(torch.tensor([5.0] * 4 + [3.0] * 4 + [1.0] * 292)),
    "rank 20": with_spectrum(powers(20, 0.5), 240, 300),
    "zero": torch.zeros(240, 300),
    "large": 1e200 * with_spectrum(powers(240, 2.0), 240, 300),
    "small": 1e-200 * with_spectrum(powers(240, 2.0), 240, 300),
}


@pytest.mark.parametrize("matrix", CLOSED.values(), ids=[*CLOSED])
def test_a_krylov_space_that_closes_early(matrix: Tensor) -> None:
    """Further blocks add nothing then: what is left of them are rounding errors, which are no new directions."""
    u, s, v = principal(matrix, 8, iterations=8, key=7)
    one, expected = torch.eye(8).double(), torch.linalg.svdvals(matrix.double())[:8]
    assert torch.allclose(s, expected, rtol=1e-9, atol=1e-12 * float(expected[0]))
    assert torch.allclose(u.T @ u, one, atol=1e-12)
    assert torch.allclose(v @ v.T, one, atol=1e-12)
    scale = max(float(matrix.abs().max()), 1e-300)
    assert torch.allclose(matrix.double() / scale @ v.T, u * (s / scale), atol=1e-9 * float(expected[0] / scale))


def test_a_random_matrix_has_no_principal_directions() -> None:
    matrix = torch.randn(512, 512, generator=torch.Generator().manual_seed(0))
    best = torch.linalg.svdvals(matrix.double())[:8].square().sum()
    found = [float(principal(matrix, 8, iterations=q, key=1)[1].square().sum() / best) for q in (2, 8)]
    assert found[0] < 0.95
    assert 0.999 < found[1] < 1


def test_the_key_and_nothing_else_decides() -> None:
    matrix = with_spectrum(powers(200, 0.1), 200, 200)
    torch.manual_seed(0)
    first = product(principal(matrix, 4, iterations=1, key=1))
    torch.manual_seed(1)
    assert torch.equal(product(principal(matrix, 4, iterations=1, key=1)), first)
    assert not torch.allclose(product(principal(matrix, 4, iterations=1, key=2)), first, atol=1e-6)


@pytest.mark.parametrize("iterations", [None, 8])
@pytest.mark.parametrize("power", [0.0, 0.5])
def test_threads_do_not_matter(power: float, iterations: int | None) -> None:
    """The flat spectrum is that of noise, where neighbouring singular values are close."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(300, 320, generator=generator)
    matrix = matrix if power == 0 else with_spectrum(powers(300, power), 300, 320)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(pissa(matrix, 8, 2.0, iterations=iterations, key=5))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert float((one - two).abs().max()) <= 2e-6 * float(one.abs().max())


def test_pissa_is_the_definition() -> None:
    matrix = with_spectrum(powers(60, 0.7), 70, 60)
    factors = pissa(matrix, 6, scaling=4.0)
    assert factors is not None
    b, a = factors
    _, s, _ = torch.linalg.svd(matrix)
    assert torch.allclose(4.0 * b @ a, truth(matrix, 6), atol=1e-12)
    for gram in (b.T @ b, a @ a.T):  # both halves have the same singular values
        assert torch.allclose(gram, torch.diag(s[:6] / 4.0), atol=1e-12)


def test_inputs_without_weights_have_none_in_a() -> None:
    matrix = with_spectrum(powers(60, 0.7), 70, 60)
    matrix[:, 11] = 0
    for iterations in (None, 1):
        factors = pissa(matrix, 4, 1.0, iterations=iterations, key=1)
        assert factors is not None
        _, a = factors
        assert a[:, 11].count_nonzero() == 0
        assert a.count_nonzero() == 4 * 59


@pytest.mark.parametrize("iterations", [None, 2])
def test_pissa_of_a_weight_of_a_lower_rank(iterations: int | None) -> None:
    weight = torch.block_diag(with_spectrum(powers(9, 0.5), 90, 80), torch.zeros(40, 50).double())
    assert pissa(weight, 10, 1.0, iterations=iterations) is None
    assert pissa(weight, 9, 1.0, iterations=iterations) is not None
    assert pissa(torch.zeros(70, 60), 1, 1.0, iterations=iterations) is None


def test_olora_is_the_definition() -> None:
    matrix = with_spectrum(powers(60, 0.5), 70, 60).float()
    b, a = olora(matrix, 6)
    q, r = torch.linalg.qr(matrix.double())
    assert torch.allclose(b @ a, q[:, :6] @ r[:6], atol=1e-12)
    assert torch.allclose(b.T @ b, torch.eye(6).double(), atol=1e-12)
    assert (a.diagonal() > 0).all()
    assert float(a.tril(-1).abs().max()) <= 1e-12


def test_lora_ga_is_the_definition() -> None:
    gradient = with_spectrum(powers(60, 0.5), 70, 60)
    u, _, v = torch.linalg.svd(gradient, full_matrices=False)
    factors = lora_ga(gradient, 5)
    scaled = lora_ga(gradient, 5, gamma=16.0)
    assert factors is not None
    assert scaled is not None
    b, a = factors
    assert torch.allclose((b.T @ u[:, :5]).abs(), torch.eye(5).double(), atol=1e-10)
    assert torch.allclose((a @ v[5:10].T).abs(), torch.eye(5).double(), atol=1e-10)
    scale = 70**0.25 / math.sqrt(16)
    assert torch.allclose(scaled[0], scale * b)
    assert torch.allclose(scaled[1], scale * a)


def test_lora_ga_of_a_poor_gradient() -> None:
    assert lora_ga(with_spectrum(powers(9, 0.5), 70, 60).float(), 5) is None
    assert lora_ga(with_spectrum(powers(10, 0.5), 70, 60).float(), 5) is not None
    assert lora_ga(torch.zeros(70, 60), 5) is None


@pytest.mark.parametrize("extents", [(64, 64), (200, 160)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_rank_of_a_rounded_gradient(dtype: torch.dtype, extents: tuple[int, int]) -> None:
    """Of few samples it has their rank and rounding errors; of enough, all directions count in a short dtype too."""
    torch.manual_seed(0)
    for samples, enough in ((9, False), (10, True), (100, True)):
        left, right = (torch.randn(samples, extent) for extent in extents)
        gradient = (left.double().T @ right.double()).to(dtype)
        assert (lora_ga(gradient, 5, iterations=8) is not None) is enough


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, 2.0**-24), (torch.bfloat16, 2.0**-8)])
def test_what_remains_is_rounded_once(dtype: torch.dtype, eps: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeta.compute.low_rank._PIECE", 1000)  # several pieces
    weight = with_spectrum(powers(60, 0.5), 70, 60).to(dtype)
    b, a = (each.float() for each in pissa(weight, 4, 2.0))
    left = residual(weight, b, a, 2.0)
    product = 2.0 * b.double() @ a.double()
    assert left.weight.dtype is dtype
    assert torch.equal(left.weight, (weight.double() - product).to(dtype))
    assert left.difference == float((left.weight.double() + product - weight.double()).abs().max())
    assert 0 < left.difference <= eps * left.largest
    assert left.largest == float(left.weight.abs().max())
    assert left.share == pytest.approx(float(product.norm() ** 2 / weight.double().norm() ** 2), rel=1e-9)


def test_what_does_not_fit_the_dtype() -> None:
    weight, b, a = torch.ones(2, 2).half(), torch.full((2, 1), 300.0), torch.full((1, 2), 300.0)
    assert overflows(weight, b, a, 1.0)
    assert not overflows(weight, b, a, 0.1)
    assert not overflows(weight.float(), b, a, 1.0)
    assert overflows(weight, b * math.nan, a, 0.1)
