"""What rounding leaves of a distribution, against values that torch rounds; and no alarm where nothing is wrong."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import zeta
from zeta import Initializer, Rule, Rules
from zeta.base import dtypes
from zeta.compute.sums import Sums, sums_of
from zeta.fans import torch_axes
from zeta.initializers import (
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Normal,
    Ones,
    Orthogonal,
    Site,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from zeta.report.expected import expected

NARROW = [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2]
SITE = Site(shape=(4, 4))

# -- sums --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("view", [lambda v: v, lambda v: v.t(), lambda v: v[1::3, ::2], lambda v: v[:0]])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float8_e5m2], ids=str)
def test_sums_are_numpys(view: object, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeta.compute.sums._TILE", 7)
    values: Tensor = view(torch.randn(10, 9).to(dtype))  # type: ignore[operator]
    plain = values.double().numpy()
    got = sums_of(values, 0.25)
    assert got.count == plain.size
    assert (got.sum, got.squares) == pytest.approx(((plain - 0.25).sum(), ((plain - 0.25) ** 2).sum()), rel=1e-12)
    assert (got.low, got.high) == ((plain.min(), plain.max()) if plain.size else (math.inf, -math.inf))
    assert got + Sums() == got


def test_the_temporaries_of_sums_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeta.compute.sums._TILE", 2**18)
    values = torch.zeros(1, dtype=torch.int8).expand(2**22)  # 32 MiB in fp64
    with torch.profiler.profile(profile_memory=True) as profile:
        sums_of(values, 0.0)
    assert max(event.cpu_memory_usage for event in profile.events()) <= 2**22


# -- moments after rounding --------------------------------------------------------------------------------------------

MIDPOINTS = (np.arange(500_000) + 0.5) / 500_000
DRAWN = {
    "normal": (Normal(0.02), scipy.stats.norm(0, 0.02)),
    "shifted": (Normal(0.02, 1.0), scipy.stats.norm(1.0, 0.02)),
    "uniform": (Uniform(-0.3, 0.1), scipy.stats.uniform(-0.3, 0.4)),
    "truncated": (TruncatedNormal(0.5), scipy.stats.truncnorm(-2, 2, scale=0.5)),
    "tail": (TruncatedNormal(1.0, low=2.5, high=4.0), scipy.stats.truncnorm(2.5, 4.0)),
    "vanishing": (Normal(2e-3), scipy.stats.norm(0, 2e-3)),
}


@pytest.mark.parametrize("dtype", NARROW, ids=str)
@pytest.mark.parametrize("law", DRAWN)
def test_the_moments_are_those_of_rounded_quantiles(law: str, dtype: torch.dtype) -> None:
    initializer, distribution = DRAWN[law]
    inner = dtypes.inward(*initializer.bounds(), dtype)
    rounded = torch.from_numpy(distribution.ppf(MIDPOINTS)).clamp(*inner).to(dtype).double().numpy()
    (got,) = expected(initializer, SITE, dtype)
    assert abs(got.mean - rounded.mean()) < 3e-5 * distribution.std()
    assert got.std == pytest.approx(rounded.std(), rel=1e-3)
    assert got.kurtosis == pytest.approx(scipy.stats.kurtosis(rounded, fisher=False), rel=2e-3)


@pytest.mark.parametrize("initializer", [Normal(1e-3, 1e6), Normal(1e-7, 1.0), Normal(1e-44), Uniform(0.1, 0.1000001)])
def test_fp32_counts_where_its_numbers_are_few(initializer: Initializer) -> None:
    done = zeta.init_(nn.ParameterDict({"w": torch.empty(30_000)}), Rules([Rule("*", initializer)]), seed=0)
    assert done.ok, str(done)


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_elements_of_orthogonal_matrices(dtype: torch.dtype) -> None:
    """The std before rounding is the same in every matrix; rounding many elements moves it by a known amount."""
    axes = zeta.plan(nn.Linear(300, 200, bias=False), Rules([Rule("*", Orthogonal())]))["weight"].axes
    (got,) = expected(Orthogonal(0.7), Site(shape=(200, 300), axes=axes), dtype)
    q = scipy.stats.ortho_group(300, seed=4).rvs()
    rounded = torch.from_numpy(0.7 * q).to(dtype).double()
    error = got.std * math.sqrt((got.kurtosis - 1) / q.size) / 2
    assert abs(float(rounded.square().mean().sqrt()) - got.std) < 4 * error
    assert error < 1e-3 * got.std


def test_a_law_between_two_numbers_is_a_constant() -> None:
    (got,) = expected(Normal(1e-6, 0.3), SITE, torch.float8_e5m2)  # 0.3125 is next to 0.3
    assert (got.mean, got.std) == (0.3125, 0.0)


@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5), (2, 2), (1, 1)])
def test_a_part_of_a_diagonal_is_taken_for_a_draw_of_ones(shape: tuple[int, int]) -> None:
    """Of the share of ones on the whole, by Bernoulli's law; the whole does not vary."""
    site, law = Site(shape=shape, axes=torch_axes(2)), scipy.stats.bernoulli(min(shape) / math.prod(shape))
    for dtype in (torch.float32, torch.complex64):
        got = expected(Identity(-0.5), site, dtype, partial=True)[0]
        kurtosis = 1.0 if min(shape) == 1 else max(1.0, law.stats("k") + 3)
        assert (got.mean, got.std) == pytest.approx((-0.5 * law.mean(), 0.5 * law.std()), rel=1e-12)
        assert got.kurtosis == pytest.approx(kurtosis, rel=1e-12)
        assert expected(Identity(-0.5), site, dtype)[0].kurtosis == 1


def coordinate(size: int) -> Any:
    """The law of one coordinate of a random unit vector of ``size`` dimensions."""
    return scipy.stats.beta((size - 1) / 2, (size - 1) / 2, loc=-1, scale=2)


def test_a_part_of_an_orthogonal_matrix_has_the_moments_of_a_coordinate() -> None:
    site, kernel = Site(shape=(7, 4), axes=torch_axes(2)), Site(shape=(6, 4, 3, 3), axes=torch_axes(4))
    for initializer, where, dtype, size, share in (
        (Orthogonal(0.5), site, torch.float64, 7, 1.0),
        (Orthogonal(0.5), kernel, torch.float64, 36, 1.0),
        (DeltaOrthogonal(0.5), kernel, torch.float64, 6, 1 / 9),
        (Orthogonal(0.5), site, torch.complex128, 14, 1.0),
    ):
        got, law = expected(initializer, where, dtype, partial=True)[0], coordinate(size)
        square = share * law.var()
        assert got.std == pytest.approx(0.5 * math.sqrt(square), rel=1e-9)
        assert got.kurtosis == pytest.approx(share * law.moment(4) / square**2, rel=1e-9)


def test_rounding_moves_the_squares_of_an_orthogonal_matrix() -> None:
    """Uniform errors of at most w 2^-24 give w^2 a variance of 4 w^4 2^-48 / 3."""
    site, law = Site(shape=(7, 4), axes=torch_axes(2)), coordinate(7)
    got = expected(Orthogonal(0.5), site, torch.float32)[0]
    assert got.kurtosis - 1 == pytest.approx(4 / 3 * 2**-48 * law.moment(4) / law.var() ** 2, abs=3e-16)


@pytest.mark.parametrize("dtype", [torch.float8_e5m2, torch.float8_e4m3fn], ids=str)
def test_rounding_moves_squares_by_cells(dtype: torch.dtype) -> None:
    """d uniform on a cell of width h about v changes v^2 by 2vd - d^2, of mean square v^2 h^2 / 3 + h^4 / 80."""
    bits = torch.arange(256, dtype=torch.uint8).view(dtype).double()
    numbers = bits[bits.isfinite() & (bits.abs() <= 1)].unique().numpy()
    middles = (numbers[1:] + numbers[:-1]) / 2
    chance = np.diff(coordinate(7).cdf(middles), prepend=0.0, append=1.0)
    widths = np.diff(middles, prepend=-1.0, append=1.0)
    spread = (chance * (numbers**2 * widths**2 / 3 + widths**4 / 80)).sum()
    variance = (chance * numbers**2).sum()
    got = expected(Orthogonal(), Site(shape=(7, 4), axes=torch_axes(2)), dtype)[0]
    assert got.std == pytest.approx(math.sqrt(variance), rel=1e-6)
    assert got.kurtosis - 1 == pytest.approx(spread / variance**2, rel=1e-6)


# -- no alarm ----------------------------------------------------------------------------------------------------------

DTYPES = [torch.float64, torch.float32, *NARROW, torch.complex64, torch.complex128]
INITIALIZERS: list[Initializer] = [
    *(Zeros(), Ones(), Constant(0.3), Constant(-1e-3), Normal(1.0), Normal(0.02), Normal(0.02, 1.0), Normal(1e-3)),
    *(Normal(2e-4), Normal(1e-6, 0.5), Uniform(-0.1, 0.1), Uniform(0.5, 0.52), TruncatedNormal(0.02)),
    *(TruncatedNormal(1.0, cutoff=1.0), Orthogonal(), Orthogonal(0.3), Orthogonal(-0.01), Identity(), Identity(0.3)),
    *(Sparse(0.9, 0.02), Sparse(1.0), zeta.initializers.kaiming_normal(), zeta.initializers.xavier_uniform()),
]
CONVOLUTIONAL = [DeltaOrthogonal(), DeltaOrthogonal(0.1), Dirac(0.3), Orthogonal(1.3), Sparse(0.3, 0.1)]
LAYERS = {
    "1": lambda: nn.Linear(1, 1, bias=False),
    "4": lambda: nn.Linear(2, 2, bias=False),
    "15": lambda: nn.Linear(3, 5, bias=False),
    "6400": lambda: nn.Linear(64, 100, bias=False),
    "embedding": lambda: nn.Embedding(20, 4, padding_idx=2),
    "convolution": lambda: nn.Conv2d(4, 6, 3, bias=False),
}


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_what_zeta_draws_is_as_planned(layer: str, dtype: torch.dtype) -> None:
    """False alarms are due once in a million; there are some thousand parameters here."""
    alarms = []
    for initializer in CONVOLUTIONAL if layer == "convolution" else INITIALIZERS:
        for seed in range(3):
            done = zeta.init_(LAYERS[layer]().to(dtype), Rules([Rule("*", initializer)]), seed=seed)
            alarms += [(initializer, seed, item.findings) for item in done.flagged]
    assert alarms == []


@pytest.mark.parametrize("initializer", [Ones(), Constant(0.3), Uniform(0.1, 0.2)], ids=str)
def test_what_a_parametrization_computes_may_be_a_few_steps_off(initializer: Initializer) -> None:
    layer = parametrizations.weight_norm(nn.Linear(7, 5, bias=False))
    done = zeta.init_(layer, Rules([Rule("*", initializer)]), seed=0)
    assert done.ok, str(done)


@pytest.mark.parametrize("std", [1e-160, 1e160])
def test_squares_beyond_fp64_are_no_deviation(std: float) -> None:
    done = zeta.init_(
        nn.ParameterDict({"w": torch.empty(100, dtype=torch.float64)}), Rules([Rule("*", Normal(std))]), seed=0
    )
    assert done.ok, str(done)


@pytest.mark.parametrize(("seed", "std"), [(1, 2e-4), (2, 1.6e-4), (3, 1e-4), (4, 3e-4)])
def test_a_few_that_do_not_vanish_are_no_deviation(seed: int, std: float) -> None:
    """Nearly all values are nearer to zero than to the smallest number: what is left is counted as rare events."""
    for n in (1, 30, 1000, 100_000):
        model = nn.ParameterDict({"w": torch.empty(n, dtype=torch.float8_e4m3fn)})
        done = zeta.init_(model, Rules([Rule("*", Normal(std))]), seed=seed)
        assert done.ok, str(done)
