"""Every initializer as data: what it solves to, what it promises, how it prints, scales and is refused."""

from __future__ import annotations

import dataclasses
import fractions
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from zeta import initializers
from zeta.errors import SpecError
from zeta.fans import Axes
from zeta.initializers import (
    Constant,
    DeltaOrthogonal,
    Dirac,
    Identity,
    Initializer,
    Keep,
    Normal,
    Ones,
    Orthogonal,
    Site,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
    glorot_normal,
    he_normal,
    kaiming_normal,
    kaiming_truncated_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_truncated_normal,
    lecun_uniform,
    xavier_normal,
    xavier_truncated_normal,
    xavier_uniform,
)

CONV = Site(shape=(12, 5, 3, 2), axes=Axes(fan_in=(1, 2, 3), fan_out=(0, 2, 3)))  # fans 30 and 72
MATRIX = Site(shape=(7, 4), axes=Axes(fan_in=(1,), fan_out=(0,)))

SPECS: list[Initializer] = [
    Keep(),
    Zeros(),
    Ones(),
    Constant(-0.3),
    Uniform(),
    Uniform(-0.1, 0.7),
    Normal(),
    Normal(0.02, -1.5),
    TruncatedNormal(),
    TruncatedNormal(0.02, 0.1, cutoff=2.5, correct_std=True),
    TruncatedNormal(0.5, -0.2, low=-1.0),
    TruncatedNormal(0.5, high=0.3),
    TruncatedNormal(0.6, low=-2.0, high=1.0, correct_std=True),
    VarianceScaling(),
    VarianceScaling(2 / 3, "fan_geo_avg", "uniform"),
    VarianceScaling(0.1, "fan_out", "truncated_normal"),
    Orthogonal(),
    Orthogonal(-math.sqrt(2)),
    DeltaOrthogonal(0.7),
    Identity(0.1),
    Dirac(3),
    Sparse(0.25),
    Sparse(1 / 3, std=0.7),
]
DRAWN = [spec for spec in SPECS if not isinstance(spec, Keep)]
NAMES = {name: getattr(initializers, name) for name in initializers.__all__}


# -- the classical names against torch's own --------------------------------------------------------------------------


class Spy(Tensor):
    """Notes the arguments that torch.nn.init draws with."""

    drawn: Initializer

    def normal_(self, mean: float, std: float, **_: Any) -> Tensor:  # type: ignore[override]
        self.drawn = Normal(std, mean)
        return self

    def uniform_(self, low: float, high: float, **_: Any) -> Tensor:  # type: ignore[override]
        self.drawn = Uniform(low, high)
        return self


def asked_by_torch(function: Callable[..., Any], **arguments: Any) -> Initializer:
    weight = torch.zeros(CONV.shape).as_subclass(Spy)
    function(weight, **arguments)
    return weight.drawn


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (xavier_normal(), lambda: asked_by_torch(nn.init.xavier_normal_)),
        (xavier_normal(gain=0.3), lambda: asked_by_torch(nn.init.xavier_normal_, gain=0.3)),
        (xavier_uniform(), lambda: asked_by_torch(nn.init.xavier_uniform_)),
        (xavier_uniform(gain=5 / 3), lambda: asked_by_torch(nn.init.xavier_uniform_, gain=5 / 3)),
        *(
            (ours(mode, name), lambda f=theirs, mode=mode, name=name: asked_by_torch(f, mode=mode, nonlinearity=name))
            for ours, theirs in ((kaiming_normal, nn.init.kaiming_normal_), (kaiming_uniform, nn.init.kaiming_uniform_))
            for mode in ("fan_in", "fan_out")
            for name in ("relu", "linear", "tanh", "selu", "sigmoid")
        ),
        (kaiming_uniform("fan_in", "leaky_relu", 5**0.5), lambda: asked_by_torch(nn.init.kaiming_uniform_, a=5**0.5)),
        (
            kaiming_normal("fan_out", "leaky_relu", 0.2),
            lambda: asked_by_torch(nn.init.kaiming_normal_, a=0.2, mode="fan_out"),
        ),
    ],
)  # fmt: skip
def test_xavier_and_kaiming_draw_as_torch_does(ours: VarianceScaling, theirs: Callable[[], Initializer]) -> None:
    expected, solved = theirs(), ours.solve(CONV)
    assert type(solved) is type(expected)
    assert dataclasses.astuple(solved) == pytest.approx(dataclasses.astuple(expected), rel=1e-14)


@pytest.mark.parametrize(
    ("mode", "n"), [("fan_in", 30), ("fan_out", 72), ("fan_avg", 51), ("fan_geo_avg", math.sqrt(30 * 72))]
)
def test_variance_scaling_in_every_mode_and_distribution(mode: Any, n: float) -> None:
    std = math.sqrt(0.6 / n)
    normal = VarianceScaling(0.6, mode).solve(CONV)
    assert isinstance(normal, Normal)
    assert (normal.mean, normal.std) == pytest.approx((0, std), rel=1e-14)
    bound = math.sqrt(3) * std
    uniform = VarianceScaling(0.6, mode, "uniform").solve(CONV)
    assert uniform.bounds() == pytest.approx((-bound, bound), rel=1e-14)
    truncated = VarianceScaling(0.6, mode, "truncated_normal").solve(CONV)
    parent = std / scipy.stats.truncnorm.std(-2, 2)
    assert truncated.bounds() == pytest.approx((-2 * parent, 2 * parent), rel=1e-12)
    for solved in (uniform, truncated):
        assert solved.moments(CONV).std == pytest.approx(std, rel=1e-12)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("scheme", "variance"),
    [
        (lecun_normal(), 1 / 30),
        (lecun_uniform(), 1 / 30),
        (lecun_truncated_normal(), 1 / 30),
        (xavier_truncated_normal(0.5), 0.25 * 2 / 102),
        (kaiming_truncated_normal(), 2 / 30),
        (kaiming_truncated_normal("fan_out", "leaky_relu", 0.5), 2 / 1.25 / 72),
        (kaiming_normal(nonlinearity=torch.abs), 1 / 30),
        (kaiming_normal(nonlinearity="exact_tanh"), 1 / 30 / 0.394294497),  # E[tanh(z)^2]
    ],
)
def test_variance_of_the_other_classical_names(scheme: VarianceScaling, variance: float) -> None:
    assert scheme.moments(CONV).std == pytest.approx(math.sqrt(variance), rel=1e-8)  # type: ignore[union-attr]


def test_aliases() -> None:
    assert glorot_normal is xavier_normal
    assert he_normal is kaiming_normal
    for other, name in (("glorot", "xavier"), ("he", "kaiming")):
        for distribution in ("normal", "uniform", "truncated_normal"):
            assert NAMES[f"{other}_{distribution}"] is NAMES[f"{name}_{distribution}"]


def test_an_empty_weight_has_a_scheme_too() -> None:
    site = Site(shape=(0, 0), axes=MATRIX.axes)
    assert [lecun_normal().solve(site), kaiming_normal(nonlinearity="linear").scaled(0).solve(site)] == [
        Normal(1.0),
        Zeros(),
    ]


@pytest.mark.parametrize("spec", [lecun_normal(), Orthogonal(), Sparse(0.1), Identity()])
def test_what_depends_on_the_fans_says_so_where_there_are_none(spec: Initializer) -> None:
    assert spec.needs_axes
    with pytest.raises(SpecError, match="no axes are known"):
        spec.solve(Site(shape=(7, 4))).moments(Site(shape=(7, 4)))


# -- moments and bounds -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "distribution"),
    [
        (Uniform(-0.1, 0.7), scipy.stats.uniform(-0.1, 0.8)),
        (Normal(0.02, -1.5), scipy.stats.norm(-1.5, 0.02)),
        (TruncatedNormal(), scipy.stats.truncnorm(-2, 2)),
        (TruncatedNormal(0.5, 3.0, cutoff=0.7), scipy.stats.truncnorm(-0.7, 0.7, 3.0, 0.5)),
        (TruncatedNormal(0.5, -0.2, low=-1.0), scipy.stats.truncnorm(-1.6, math.inf, -0.2, 0.5)),
        (TruncatedNormal(0.5, high=0.3), scipy.stats.truncnorm(-math.inf, 0.6, 0, 0.5)),
        (TruncatedNormal(2.0, 1.0, low=4.0, high=9.0), scipy.stats.truncnorm(1.5, 4.0, 1.0, 2.0)),
    ],
)
def test_moments_and_bounds_of_what_is_drawn(spec: Initializer, distribution: Any) -> None:
    mean, variance, excess = distribution.stats("mvk")
    moments = spec.moments(MATRIX)
    assert (moments.mean, moments.std, moments.kurtosis) == pytest.approx(
        (mean, math.sqrt(variance), excess + 3), rel=1e-9, abs=1e-15
    )
    if not isinstance(spec, Normal):
        assert spec.bounds() == pytest.approx(distribution.support(), rel=1e-15, abs=1e-15)
    if isinstance(spec, TruncatedNormal):
        assert spec.sigmas() == pytest.approx(distribution.args[:2], rel=1e-15)


@pytest.mark.parametrize("std", [0.3, 0.55, 0.8])
@pytest.mark.parametrize(("mean", "low", "high"), [(0.0, -1.5, 1.5), (0.4, -1.0, 2.0), (-0.3, -0.9, None)])
def test_correct_std_finds_the_parent(std: float, mean: float, low: float, high: float | None) -> None:
    spec = TruncatedNormal(std, mean, low=low, high=high, correct_std=True)
    solved = spec.solve(MATRIX)
    a, b = ((bound - mean) / solved.std for bound in (low, math.inf if high is None else high))
    assert scipy.stats.truncnorm.std(a, b, mean, solved.std) == pytest.approx(std, rel=1e-9)
    assert (solved.mean, solved.bounds(), solved.correct_std) == (mean, spec.bounds(), False)


@pytest.mark.parametrize(
    ("std", "low", "high", "parent"),
    [
        (0.02, -0.03, 0.05, 0.02893344878149037),
        (0.02, -0.04, 0.04, 0.027558042482369267),
        (1.0, -2.0, 3.0, 1.10308439668961),
        (0.1, -0.2, 1.0, 0.10801963186854664),
    ],
)
def test_the_search_for_a_parent_ends_where_it_always_did(std: float, low: float, high: float, parent: float) -> None:
    # values are written with this number: its last bit is part of the stream
    assert TruncatedNormal(std, low=low, high=high, correct_std=True).solve(MATRIX).std == parent


def test_correct_std_finds_a_parent_much_wider_than_its_bounds() -> None:
    """Near the std of the uniform law on [-100, 100], 57.735, the parent is several times as wide as asked for."""
    solved = TruncatedNormal(57.5, low=-100.0, high=100.0, correct_std=True).solve(MATRIX)
    assert solved.std > 4 * 57.5
    assert scipy.stats.truncnorm.std(-100 / solved.std, 100 / solved.std, 0, solved.std) == pytest.approx(
        57.5, rel=1e-9
    )


def test_an_interval_of_the_least_width_is_accepted() -> None:
    assert TruncatedNormal(1.0, low=0.0, high=1e-24).sigmas() == (0.0, 1e-24)
    with pytest.raises(SpecError, match="is 9e-25 std wide"):
        TruncatedNormal(1.0, low=-0.4e-24, high=0.5e-24)


def test_correct_std_at_a_cutoff_widens_the_interval() -> None:
    solved = TruncatedNormal(0.02, 0.1, cutoff=1.5, correct_std=True).solve(MATRIX)
    assert solved.std == pytest.approx(0.02 / scipy.stats.truncnorm.std(-1.5, 1.5), rel=1e-12)
    assert (solved.mean, solved.cutoff) == (0.1, 1.5)


def test_a_std_that_no_parent_gives_is_refused() -> None:
    spec = TruncatedNormal(0.58, low=-1.0, high=1.0, correct_std=True)  # uniform on [-1, 1] has 0.57735
    with pytest.raises(SpecError, match=r"no normal truncated to \[-1, 1\] has std 0.58; it stays below 0.57735"):
        spec.solve(MATRIX)
    limit = 2 / math.sqrt(12)  # the uniform distribution's own, which no parent reaches
    for std in (limit, limit * (1 - 0.9e-6)):
        with pytest.raises(SpecError, match="no normal truncated"):
            TruncatedNormal(std, low=-1.0, high=1.0, correct_std=True).solve(MATRIX)


def filled(spec: Initializer, site: Site) -> np.ndarray[Any, Any]:
    """What a diagonal initializer draws: rows x columns, at one tap of the kernel."""
    diagonal = spec.gain * np.eye(site.shape[0], site.shape[1])  # type: ignore[attr-defined]
    taps = np.eye(1, math.prod(site.shape[2:]))
    return diagonal[:, :, None] * taps


@pytest.mark.parametrize(("spec", "site"), [(Identity(), MATRIX), (Identity(-3.0), MATRIX), (Dirac(0.7), CONV)])
def test_moments_of_a_diagonal(spec: Initializer, site: Site) -> None:
    values, moments = filled(spec, site), spec.moments(site)
    assert (moments.mean, moments.std) == pytest.approx((values.mean(), values.std()), rel=1e-12)  # type: ignore[union-attr]
    assert spec.bounds() == (values.min(), values.max())


@pytest.mark.parametrize(
    ("spec", "site", "squares", "numel"),
    [
        (Orthogonal(-3.0), MATRIX, 9 * 4, 28),  # the squares of an orthogonal matrix sum to its smaller side
        (Orthogonal(0.5), Site(shape=(4, 7), axes=MATRIX.axes), 0.25 * 4, 28),
        (Orthogonal(1.0), CONV, 12, 360),
        (DeltaOrthogonal(2.0), CONV, 4 * 5, 360),
    ],
)
def test_moments_of_orthogonal_weights(spec: Initializer, site: Site, squares: float, numel: int) -> None:
    moments = spec.moments(site)
    assert (moments.mean, moments.std) == pytest.approx((0, math.sqrt(squares / numel)), rel=1e-12)  # type: ignore[union-attr]
    assert spec.bounds() == (-abs(spec.gain), abs(spec.gain))  # type: ignore[attr-defined]


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.0, 0), (0.1, 1), (0.5, 4), (4 / 7, 4), (0.9, 7), (1.0, 7)])
def test_moments_of_sparse(sparsity: float, zeros: int) -> None:
    spec = Sparse(sparsity, std=0.3)
    assert spec.zeros(7) == zeros
    kept = (7 - zeros) / 7
    moments = spec.moments(MATRIX)
    assert moments.std == pytest.approx(0.3 * math.sqrt(kept), rel=1e-12)
    assert moments.kurtosis == pytest.approx(3 / kept if kept else 1.0, rel=1e-12)


@pytest.mark.parametrize("value", [0.0, -1.25])
def test_moments_of_a_constant(value: float) -> None:
    moments = Constant(value).moments(MATRIX)
    assert (moments.mean, moments.std, Constant(value).bounds()) == (value, 0.0, (value, value))


def test_keep_draws_nothing() -> None:
    assert Keep().moments(MATRIX) is None
    with pytest.raises(SpecError, match="cannot be scaled"):
        Keep() * 2


# -- as data ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_repr_and_json_give_the_same_initializer_back(spec: Initializer) -> None:
    for again in (eval(repr(spec), NAMES), Initializer.from_json(json.loads(json.dumps(spec.to_json())))):
        assert again == spec
        assert type(again) is type(spec)
        assert hash(again) == hash(spec)


@given(st.floats(0, 1e300), st.floats(-1e300, 1e300))
def test_no_digit_is_lost(std: float, mean: float) -> None:
    spec = Normal(std, mean)
    again = Initializer.from_json(json.loads(json.dumps(spec.to_json())))
    assert (again, eval(repr(spec), NAMES)) == (spec, spec)


def test_initializers_print_as_they_were_written() -> None:
    assert repr(Normal(0.02)) == "Normal(std=0.02)"
    assert repr(TruncatedNormal(low=-1, high=1)) == "TruncatedNormal(low=-1.0, high=1.0)"
    assert (repr(Normal(1 / 3)), str(Normal(1 / 3))) == ("Normal(std=0.3333333333333333)", "Normal(std=0.3333)")
    assert str(lecun_uniform()) == "VarianceScaling(distribution='uniform')"


def test_initializers_compare_by_type_and_value() -> None:
    assert len(set(SPECS)) == len(SPECS)
    assert Normal(1) == Normal(1.0)
    assert Normal(0.02) != Normal(0.0202)
    assert Zeros() != Constant(0.0)
    assert TruncatedNormal(1.0) == TruncatedNormal(1.0, cutoff=2.0) != TruncatedNormal(1.0, low=-2.0, high=2.0)


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_initializers_are_frozen(spec: Initializer) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.std = 1.0  # type: ignore[attr-defined]


# -- scaling ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 0.3, -1.7])
@pytest.mark.parametrize("spec", DRAWN, ids=str)
def test_scaling_multiplies_every_value(spec: Initializer, factor: float) -> None:
    if isinstance(spec, Zeros):
        assert spec * factor == Zeros()
        return
    site = MATRIX if isinstance(spec, Identity) else CONV
    before, after = spec.solve(site), (spec * factor).solve(site)
    old, new = before.moments(site), after.moments(site)
    assert old is not None
    assert new is not None
    assert (new.mean, new.std, new.kurtosis) == pytest.approx(
        (old.mean * factor, old.std * abs(factor), old.kurtosis), rel=1e-9, abs=1e-15
    )
    assert after.bounds() == pytest.approx(sorted(bound * factor for bound in before.bounds()), rel=1e-9)
    assert factor * spec == spec * factor


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (Uniform(-1, 2), Uniform(-0.5, 2.5)),
        (Normal(2, 1), Normal(2, 1.5)),
        (TruncatedNormal(1, 0.25, cutoff=3), TruncatedNormal(1, 0.75, cutoff=3)),
        (TruncatedNormal(0.5, -0.25, low=-1), TruncatedNormal(0.5, 0.25, low=-0.5)),
        (TruncatedNormal(0.5, high=0.25), TruncatedNormal(0.5, 0.5, high=0.75)),
    ],
    ids=str,
)
def test_shifting_adds_to_every_value(spec: Uniform | Normal | TruncatedNormal, expected: Initializer) -> None:
    assert spec.shifted(0.5) == expected


def test_a_residual_branch_is_divided_by_the_square_root_of_twice_the_depth() -> None:
    assert (Normal(0.02) * (2 * 12) ** -0.5).std == pytest.approx(0.02 / math.sqrt(24), rel=1e-15)
    assert (xavier_normal() * 0.5).solve(CONV) == xavier_normal(gain=0.5).solve(CONV)


@pytest.mark.parametrize("spec", [Uniform(-1, 2), TruncatedNormal(1.0, 0.5), lecun_normal(), Ones(), Normal(2, 1)])
def test_scaled_by_zero_every_value_is_zero(spec: Initializer) -> None:
    moments = (spec * 0).solve(CONV).moments(CONV)
    assert (moments.mean, moments.std) == (0, 0)  # type: ignore[union-attr]


# -- refused when built -----------------------------------------------------------------------------------------------

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("build", "message"),
    [
        *(
            (lambda build=build, bad=bad: build(bad), "must be a finite number, got")
            for bad in (NAN, INF, -INF, "0.02", None, True, 1j, torch.tensor(1.0))
            for build in (Constant, Normal, Uniform, TruncatedNormal, VarianceScaling, Orthogonal, Identity, Sparse)
        ),
        (lambda: Normal(-0.02), r"Normal: std must be at least 0, got -0\.02"),
        (lambda: Normal(1.0, NAN), "Normal: mean must be a finite number, got nan"),
        (lambda: Uniform(0, INF), "Uniform: high must be a finite number"),
        (lambda: Uniform(2, 1), r"low must be below high, got low=2\.0, high=1\.0"),
        (lambda: Uniform(1, 1), "use Constant for one value"),
        (lambda: TruncatedNormal(0), r"TruncatedNormal: std must be greater than 0, got 0\.0"),
        (lambda: TruncatedNormal(1, cutoff=0), r"cutoff must be greater than 0, got 0\.0"),
        (lambda: TruncatedNormal(1, cutoff=NAN), "cutoff must be a finite number"),
        (lambda: TruncatedNormal(1, cutoff=2, high=2), "cutoff=2 is in sigmas.* are absolute: give one kind"),
        (lambda: TruncatedNormal(1, low=NAN), "low must be a finite number"),
        (lambda: TruncatedNormal(1, low=2, high=1), "low must be below high"),
        (lambda: TruncatedNormal(0.1, low=0.81), r"begins 8\.1 std from the mean 0; at most 8"),
        (lambda: TruncatedNormal(0.1, 1.0, high=0.19), r"begins 8\.1 std from the mean 1; at most 8"),
        (lambda: TruncatedNormal(1, correct_std=1), "correct_std must be True or False"),  # type: ignore[arg-type]
        (lambda: VarianceScaling(-1), r"scale must be at least 0, got -1\.0"),
        (lambda: VarianceScaling(1, "fanin"), "mode must be one of fan_in, fan_out, fan_avg, fan_geo_avg, got 'fanin'"),  # type: ignore[arg-type]
        (lambda: VarianceScaling(1, "fan_in", "gauss"), "distribution must be one of normal.* got 'gauss'"),  # type: ignore[arg-type]
        (lambda: kaiming_normal("relu"), "mode must be one of .* got 'relu'"),  # type: ignore[arg-type]
        (lambda: kaiming_normal(nonlinearity="rleu"), "unknown nonlinearity 'rleu'"),
        (lambda: kaiming_normal(a=0.2), "slope of 'leaky_relu' and means nothing for 'relu'; write nonlinearity='"),
        (lambda: xavier_normal(NAN), "must be a finite number, got nan"),
        (lambda: xavier_normal("relu"), "must be a finite number, got 'relu'"),  # type: ignore[arg-type]
        (lambda: Sparse(1.01), r"the fraction of zeros, from 0 to 1, got 1\.01"),
        (lambda: Sparse(-0.1), "sparsity must be at least 0"),
        (lambda: Sparse(0.1, -1), "std must be at least 0"),
        (lambda: Normal() * NAN, "factor must be a finite number, got nan"),
        (lambda: "2" * Normal(), "factor must be a finite number, got '2'"),
        (lambda: Normal(1e200) * 1e200, "std must be a finite number, got inf"),
        (lambda: VarianceScaling() * 1e200, "finite number"),
        (lambda: Normal(10**400), "std must be a finite number, got 1000"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused_when_built(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build()


def test_intervals_up_to_eight_sigmas_out_are_accepted() -> None:
    assert TruncatedNormal(0.1, low=0.8).sigmas() == (8.0, INF)
    assert TruncatedNormal(0.1, high=-0.8).sigmas() == (-INF, -8.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "Nromal"}, "unknown initializer 'Nromal': expected one of Blocks, .*, Zeros"),
        ({"std": 1.0}, r'written as \{"name": \.\.\., \.\.\.\}'),
        ("Normal", 'got \'Normal\''),
        ({"name": "Normal", "sdt": 1.0}, r"Normal: unknown field \['sdt'\]; it takes \['std', 'mean'\]"),
        ({"name": "Zeros", "value": 1.0}, r"Zeros: unknown field \['value'\]; it takes none"),
        ({"name": "Constant"}, "Constant: value must be given"),
        ({"name": "Normal", "std": -1.0}, "std must be at least 0"),
        ({"name": "_Matrix", "gain": 1.0}, "unknown initializer '_Matrix'"),
    ],
)  # fmt: skip
def test_bad_json_is_refused(data: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Initializer.from_json(data)


@pytest.mark.parametrize(
    ("spec", "site", "message"),
    [
        (Identity(), CONV, r"a convolution that passes its input on is Dirac\(\)"),
        (Dirac(), MATRIX, r"use Identity\(\) for a matrix"),
        (DeltaOrthogonal(), MATRIX, "use Orthogonal for a matrix"),
        (
            DeltaOrthogonal(),
            Site(shape=(4, 5, 3, 3), axes=CONV.axes),
            "at least as many outputs as inputs, got 4 and 5",
        ),
    ],
)
def test_initializers_refuse_a_weight_that_does_not_fit(spec: Initializer, site: Site, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        spec.solve(site)


def test_division_is_multiplication_by_the_inverse() -> None:
    assert Normal(0.02) / 2 == Normal(0.01)
    assert Uniform(-1, 1) / math.sqrt(4) == Uniform(-0.5, 0.5)
    with pytest.raises(SpecError, match="Normal: cannot be divided by 0"):
        Normal(0.02) / 0


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), np.int64(1), fractions.Fraction(1, 2)])
def test_other_kinds_of_numbers(number: Any) -> None:
    assert Normal(number) == Normal(float(number))
    assert type(Normal(number).std) is float


@pytest.mark.parametrize(("std", "low", "high"), [(1e300, -0.04, 0.04), (1e26, 0.0, 1.0), (1.0, 0.0, 1e-300)])
def test_a_truncated_normal_without_digits_is_refused(std: float, low: float, high: float) -> None:
    with pytest.raises(SpecError, match="std wide, where a normal does not differ from a uniform law"):
        TruncatedNormal(std, low=low, high=high)
    assert TruncatedNormal(1e20, low=-0.04, high=0.04).bounds() == (-0.04, 0.04)
