"""Measuring what was written: the numbers, what counts as a deviation, and how a report reads."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor, nn

import zeta
from examples.gpt import gpt2
from zeta import Entry, Report, Rule, Rules
from zeta.compute import sums
from zeta.initializers import (
    Constant,
    Identity,
    Initializer,
    Normal,
    Ones,
    Orthogonal,
    Program,
    Sparse,
    TruncatedNormal,
    Uniform,
    Zeros,
)
from zeta.report.digests import Claim
from zeta.report.measuring import Accumulator, Measured, measure
from zeta.report.scores import bennett

SIGMA = 0.02
F64 = torch.float64


def entry(initializer: Initializer, shape: tuple[int, ...] = (1,), dtype: torch.dtype = torch.float32) -> Entry:
    model = nn.ParameterDict({"w": torch.empty(shape, dtype=dtype, device="meta")})
    return zeta.plan(model, Rules([Rule("*", initializer)]))["w"]


def draws(*shape: int, seed: int = 1) -> Tensor:
    """Standard normal values that have nothing to do with zeta."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def of(initializer: Initializer, values: Tensor) -> Measured:
    return measure(entry(initializer, tuple(values.shape), values.dtype), values)


# -- the numbers -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2], ids=str)
@pytest.mark.parametrize("tile", [7, 2**20])
def test_the_measurement_is_numpys(dtype: torch.dtype, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_TILE", tile)
    values = (0.5 + 0.25 * draws(6, 5, 7)).to(dtype)
    item, plain = of(Normal(0.25, 0.5), values), values.double().numpy()
    assert (item.name, item.count, item.low, item.high) == ("w", 210, plain.min(), plain.max())
    assert (item.mean, item.std) == pytest.approx((plain.mean(), plain.std()), rel=1e-12)
    assert (item.planned_mean, item.planned_std) == (0.5, 0.25)
    assert item.ok


def test_a_small_spread_far_from_zero_keeps_its_digits() -> None:
    values = 1e6 + 1e-3 * draws(10_000)
    item = of(Normal(1e-3, 1e6), values)
    assert item.std == pytest.approx(float((values.numpy() - 1e6).std()), rel=1e-9)
    assert item.ok


def test_complex_values() -> None:
    """The std is that of ``|x - mean|``; the extremes are those of both parts."""
    values = torch.complex(draws(400), draws(400, seed=2)) * math.sqrt(0.5) + 3
    values -= 1j * values.imag.mean()
    item, plain = of(Normal(1.0, 3.0), values), values.numpy()
    assert (item.count, item.low, item.high) == (400, plain.imag.min(), plain.real.max())
    assert (item.mean, item.std) == pytest.approx((plain.real.mean(), plain.std()), rel=1e-12)
    assert item.ok


@pytest.mark.parametrize("view", [lambda v: v.t(), lambda v: v[::2], lambda v: torch._neg_view(v), lambda v: v[3, 4]])
def test_views_are_measured_as_they_look(view: Any) -> None:
    values = view(draws(8, 6))
    plain = values.clone().numpy()
    item = of(Normal(1.0), values)
    assert (item.count, item.low, item.high) == (plain.size, plain.min(), plain.max())
    assert (item.mean, item.std) == pytest.approx((plain.mean(), plain.std()), rel=1e-12)


@pytest.mark.parametrize("row", [0, 2, 4])
@pytest.mark.parametrize("tile", [3, 12, 100])
def test_the_padding_row_is_left_out(row: int, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sums, "_TILE", tile)
    values = draws(5, 6)
    values[row] = 1000
    planned = zeta.plan(nn.Embedding(5, 6, padding_idx=row).double(), Rules([Rule("*", Normal(1.0))]))["weight"]
    item, plain = measure(planned, values), np.delete(values.numpy(), row, 0)
    assert (item.count, item.low, item.high) == (24, plain.min(), plain.max())
    assert (item.mean, item.std) == pytest.approx((plain.mean(), plain.std()), rel=1e-12)


# -- what counts as a deviation ----------------------------------------------------------------------------------------

LAWS: dict[str, tuple[Initializer, float, float]] = {  # standard deviation, kurtosis
    "normal": (Normal(2.0), 2.0, 3.0),
    "uniform": (Uniform(-1.0, 1.0), 3**-0.5, 9 / 5),
    "truncated": (
        TruncatedNormal(1.0, cutoff=2.0),
        float(scipy.stats.truncnorm.std(-2, 2)),
        3 + float(scipy.stats.truncnorm.stats(-2, 2, moments="k")),
    ),
}


def pair(mean: float, square: float, n: int) -> Tensor:
    """Values with exactly this mean and mean square: half of them on either side."""
    spread = math.sqrt(square - mean * mean)
    return torch.tensor([mean - spread, mean + spread], dtype=F64).repeat(n // 2)


@pytest.mark.parametrize("z", [-5.1, -4.9, 4.9, 5.1])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [100, 10_000])
def test_a_mean_is_flagged_beyond_five_standard_errors(law: str, n: int, z: float) -> None:
    initializer, std, _ = LAWS[law]
    item = of(initializer, pair(z * std / math.sqrt(n), std * std, n))
    assert abs(item.mean_z) == pytest.approx(abs(z), rel=1e-6)
    assert item.ok == (abs(z) < 5)
    if not item.ok:
        (finding,) = item.findings
        assert finding.startswith(f"mean {z * std / math.sqrt(n):.6g}, planned 0: ")
        assert finding.endswith("5.1 standard errors")


def test_five_standard_errors_exactly_are_no_finding() -> None:
    item = of(Normal(1.0), torch.tensor([-0.375, 1.375], dtype=F64).repeat(50))
    assert (item.mean_z, item.ok) == (5.0, True)


def test_a_mean_below_the_planned_one_has_a_negative_score() -> None:
    assert of(Normal(1.0), pair(-0.1, 1.0, 100)).mean_z == pytest.approx(-1.0)


@pytest.mark.parametrize("z", [-5.1, -4.9, 4.9, 5.1])
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("n", [400, 40_000])
def test_a_std_is_flagged_beyond_five_standard_errors_of_its_law(law: str, n: int, z: float) -> None:
    """The mean square of n values varies as a chi-square of ``2n / (kurtosis - 1)`` degrees of freedom."""
    initializer, std, kurtosis = LAWS[law]
    chi = scipy.stats.chi2(2 * n / (kurtosis - 1))
    quantile = chi.isf(scipy.stats.norm.sf(z)) if z > 0 else chi.ppf(scipy.stats.norm.cdf(z))
    square = std * std * quantile / chi.mean()
    item = of(initializer, pair(0.0, square, n))
    assert item.std_z == pytest.approx(z, abs=0.01)
    assert item.ok == (abs(z) < 5)
    if not item.ok:
        (finding,) = item.findings
        assert finding.startswith(f"std {math.sqrt(square):.6g}, planned {std:.6g}: {z:.1f} standard")


@pytest.mark.parametrize(("rate", "count"), [(0.01, 3), (3.0, 20), (3.0, 6), (50.0, 100)])
def test_rare_events_have_nearly_the_scores_of_poissons_law(rate: float, count: int) -> None:
    """The bound is no smaller than the probability, and larger by little more than Stirling's root of the count."""
    for most in (1.0, 0.25):
        score = bennett(most * (count - rate), most * most * rate, most)
        excess = -score * score / 2 - scipy.stats.poisson.logsf(count - 1, rate)
        assert 0 < excess < math.log(math.sqrt(2 * math.pi * count)) + 0.1
        assert bennett(-most * (count - rate), most * most * rate, most) == -score < 0


@pytest.mark.parametrize("std", [2.5e-4, 2.7e-4])
@pytest.mark.parametrize("count", [50, 90])
def test_a_mean_of_rare_numbers_has_nearly_the_score_of_poissons_law(std: float, count: int) -> None:
    """The smallest float8_e4m3fn is 2^-9, and what is above half of that rounds to it: the other values are zeros."""
    values = torch.zeros(100_000)
    values[:count] = 2.0**-9
    score = of(TruncatedNormal(std, low=0.0), values.to(torch.float8_e4m3fn)).mean_z
    rate = 100_000 * 2 * scipy.stats.norm.sf(2.0**-10, scale=std)
    excess = -score * score / 2 - scipy.stats.poisson.logsf(count - 1, rate)
    assert score > 0
    assert 0 < excess < math.log(math.sqrt(2 * math.pi * count)) + 0.1


def test_values_are_judged_in_the_dtype_that_they_have() -> None:
    planned = entry(Constant(0.1), (4,), F64)
    assert measure(planned, torch.full((4,), 0.1, dtype=torch.bfloat16)).ok
    assert not measure(planned, torch.full((4,), 0.1, dtype=torch.bfloat16).double()).ok


def test_values_may_be_off_by_a_part_of_the_largest() -> None:
    """The mean, or the std, is brought nearer to the plan by that much before it is judged."""
    normal = entry(Normal(1.0), (100,), F64)
    moved = pair(0.3, 1.0, 100)
    nearer = 0.3 - 0.1 * float(moved.max())
    assert measure(normal, moved, 0.1).mean_z == pytest.approx(nearer * 10, rel=1e-6)
    assert measure(normal, -moved, 0.1).mean_z == pytest.approx(-nearer * 10, rel=1e-6)
    for std, less in ((1.2, 1.2 - 0.05 * 1.2), (0.8, 0.8 + 0.05 * 0.8)):
        wide, exact = measure(normal, pair(0.0, std**2, 100), 0.05), of(Normal(1.0), pair(0.0, less**2, 100))
        assert wide.std_z == pytest.approx(exact.std_z, rel=1e-6)
    assert measure(normal, pair(0.0, 0.98**2, 100), 0.05).std_z == 0


MILLION = draws(1_000_000)


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(
    ("factor", "shift", "flagged"),
    [(1.0, 0.0, False), (1.001, 0.0, False), (1.01, 0.0, True), (0.99, 0.0, True), (1.0, 0.01, True)],
)
def test_one_percent_of_a_million_is_seen_in_any_dtype(
    factor: float, shift: float, flagged: bool, dtype: torch.dtype
) -> None:
    values = (SIGMA * (factor * MILLION + shift)).to(dtype)
    assert of(Normal(SIGMA), values).ok == (not flagged)


EIGHT_BITS = pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)


@EIGHT_BITS
def test_rounding_to_eight_bits_is_no_deviation(dtype: torch.dtype) -> None:
    assert of(Normal(1.0), MILLION.to(dtype)).ok
    assert not of(Normal(1.0), (2 * MILLION).to(dtype)).ok


@EIGHT_BITS
def test_ten_percent_are_seen_in_eight_bits(dtype: torch.dtype) -> None:
    """Rounding a million such values moves their std by less than one percent."""
    assert abs(float(MILLION.to(dtype).double().std()) - 1) < 0.01
    assert not of(Normal(1.0), (1.1 * MILLION).to(dtype)).ok


@pytest.mark.parametrize("planned", [64, 128], ids=["fan_out for fan_in", "right"])
def test_a_wrong_fan_is_seen_in_a_small_layer(planned: int) -> None:
    values = draws(64, 128) / math.sqrt(128)
    assert of(Normal(planned**-0.5), values).ok == (planned == 128)


def matrix(initializer: Initializer, layer: nn.Module) -> Entry:
    return zeta.plan(layer, Rules([Rule("*", initializer)]))["weight"]


def test_an_orthogonal_matrix_has_its_std_exactly_unless_a_row_is_left_out() -> None:
    """Rows of the smaller side have squares of sum 1; of the larger one, they sum to as much on average only."""
    frame = torch.from_numpy(scipy.stats.ortho_group.rvs(6, random_state=1))[:, :3].contiguous()
    whole = matrix(Orthogonal(), nn.Linear(3, 6, bias=False).double())
    assert measure(whole, frame).ok
    assert measure(whole, frame * 1.001).findings == (
        f"std {measure(whole, frame * 1.001).std:.6g}, planned {6**-0.5:.6g}, which nothing may change",
    )
    table = matrix(Orthogonal(), nn.Embedding(6, 3, padding_idx=2).double())
    assert measure(table, frame).ok
    assert measure(table, frame * 1.001).ok


@pytest.mark.parametrize("partial", [False, True])
def test_a_diagonal_is_exact_and_of_a_part_of_it_nothing_is_said(partial: bool) -> None:
    values = torch.eye(4, 6, dtype=F64)
    values[2, 2] = 0
    accumulator = Accumulator(matrix(Identity(), nn.Linear(6, 4, bias=False).double()), partial=partial)
    accumulator.take([sums.sums_of(*part) for part in accumulator.parts((slice(0, 4), slice(0, 6)), values)])
    item = accumulator.result()
    assert item.ok is partial
    assert all("which nothing may change" in finding for finding in item.findings)


def test_a_part_of_random_values_is_judged() -> None:
    accumulator = Accumulator(entry(Normal(1.0), (200, 10), F64), partial=True)
    values = draws(100, 10) + 0.3
    accumulator.take([sums.sums_of(*part) for part in accumulator.parts((slice(0, 100), slice(0, 10)), values)])
    assert accumulator.result().mean_z == pytest.approx(float(values.mean()) * math.sqrt(1000), rel=1e-6)
    assert not accumulator.result().ok


class Made(nn.Module):
    """Values that programs make: random ones, real and complex, and a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.real = nn.Parameter(torch.rand(6, 5, dtype=F64).sqrt().log())
        self.pairs = nn.Parameter(torch.rand(6, 5, dtype=torch.complex128).sqrt().log())
        self.register_buffer("mask", torch.full((4, 4), -math.inf, dtype=F64).triu(1))


def test_what_a_program_makes_is_measured_and_must_be_finite_if_it_is_random() -> None:
    _, plan = zeta.record(Made)
    for name, values in (("real", draws(6, 5)), ("pairs", torch.complex(draws(6, 5), draws(6, 5, seed=2)))):
        assert isinstance(plan[name].initializer, Program)
        item, plain = measure(plan[name], values), values.numpy()
        parts = np.stack([plain.real, plain.imag]) if name == "pairs" else plain
        assert (item.count, item.low, item.high) == (30, parts.min(), parts.max())
        assert (item.mean, item.std) == pytest.approx((plain.real.mean(), plain.std()), rel=1e-12)
        assert (item.planned_mean, item.planned_std, item.mean_z, item.ok) == (None, None, 0.0, True)
        values[3, 1] = -math.inf
        assert measure(plan[name], values).findings == ("has values that are not finite",)
    assert isinstance(plan["mask"].initializer, Program)
    assert measure(plan["mask"], torch.full((4, 4), -math.inf, dtype=F64).triu(1)).ok


def test_sparse_weights_have_the_heavy_tails_of_their_zeros() -> None:
    """A tenth of the elements of std 1 and zeros: kurtosis 30, so the std varies 3.8 times as much as a normal one."""
    values = draws(100, 400)
    values[: values.shape[0] * 9 // 10] = 0
    assert of(Sparse(0.9, 1.0), values).ok
    assert of(Sparse(0.9, 1.0), values * 1.05).ok
    assert not of(Sparse(0.9, 1.0), values * 1.12).ok


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.complex64], ids=str)
@pytest.mark.parametrize("initializer", [Zeros(), Ones(), Constant(-0.1), Constant(0.3)], ids=str)
def test_a_constant_is_exact_up_to_its_dtype(initializer: Constant, dtype: torch.dtype) -> None:
    values = torch.full((100,), initializer.value, dtype=dtype)
    assert of(initializer, values).ok


@pytest.mark.parametrize(("dtype", "value"), [(torch.float16, 1e-6), (torch.float8_e4m3fn, 1e-3)], ids=str)
def test_a_constant_among_the_subnormals_is_as_planned(dtype: torch.dtype, value: float) -> None:
    layer = nn.Linear(2, 2).to(dtype)
    assert zeta.init_(layer, Rules([Rule("*", Constant(value))]), seed=0).ok


@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("value", "steps"), [(0.0, 1), (1.0, 3), (-3.0, 3)])
def test_one_element_a_few_steps_off_a_constant_is_flagged(value: float, steps: int, dtype: torch.dtype) -> None:
    """One step may be the rounding of the constant itself, but not that of zero."""
    for towards in (-math.inf, math.inf):
        values = torch.full((1000,), value, dtype=dtype)
        for _ in range(steps):
            values[500] = torch.nextafter(values[500], torch.tensor(towards, dtype=dtype))
        assert not of(Constant(value), values).ok


@pytest.mark.parametrize(
    ("initializer", "inside", "outside"),
    [(Uniform(-0.5, 0.5), 0.5, 0.5001), (TruncatedNormal(0.5, cutoff=2.0), -1.0, -1.001)],
)
@pytest.mark.parametrize("dtype", [F64, torch.float32], ids=str)
def test_one_element_out_of_bounds_is_flagged(
    initializer: Initializer, inside: float, outside: float, dtype: torch.dtype
) -> None:
    std = entry(initializer).std
    assert std is not None
    values = (draws(1000) * std).clamp(-2 * std, 2 * std).to(dtype).clamp(-abs(inside), abs(inside))
    for value, ok in ((inside, True), (outside, False)):
        values[17] = value
        item = of(initializer, values)
        assert any("leave the planned" in finding for finding in item.findings) == (not ok)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("place", [0, 5, 9])
@pytest.mark.parametrize("dtype", [F64, torch.float32, torch.bfloat16, torch.complex64], ids=str)
def test_what_is_not_finite_is_flagged(
    bad: float, place: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sums, "_TILE", 4)
    values = draws(10).to(dtype)
    values[place] = complex(0, bad) if dtype.is_complex else bad
    for initializer in (Normal(1.0), Zeros()):
        assert of(initializer, values).findings == ("has values that are not finite",)


def test_the_mean_of_the_imaginary_part_counts() -> None:
    values = torch.complex(draws(10_000), draws(10_000, seed=2)) * math.sqrt(0.5)
    values -= values.mean()
    assert of(Normal(1.0), values).ok
    assert not of(Normal(1.0), values + 0.1).ok
    assert not of(Normal(1.0), values + 0.1j).ok


# -- the report --------------------------------------------------------------------------------------------------------


def measured(name: str, **changes: Any) -> Measured:
    numbers = {"mean": 0.001, "std": 0.0201, "low": -0.08, "high": 0.09, "mean_z": 0.5, "std_z": 0.5}
    planned = {"planned_mean": 0.0, "planned_std": 0.02, "findings": ()}
    return Measured(**{"name": name, "count": 1000, **numbers, **planned, **changes})


def a_report(*items: Measured, **changes: Any) -> Report:
    fields: dict[str, Any] = {"seed": 7, "measured": items, "kept": (), "nbytes": 4000, "resumed": 0, "seconds": 0.26}
    fields |= {"backend": "native avx2", "claim": Claim(seed=7, plan=None)}
    return Report(**{**fields, **changes})


def test_a_report_of_a_model() -> None:
    """Shared tensors count once, kept ones not at all."""
    model = gpt2(vocab_size=11, n_positions=4, n_embd=6, n_layer=2, n_head=2)
    done = zeta.init_(model, "gpt2", seed=5)
    tensors = dict(model.named_parameters())
    assert [item.name for item in done] == list(tensors)
    assert done.nbytes == 4 * sum(item.count for item in done) == 4 * sum(p.numel() for p in tensors.values())
    for name, parameter in tensors.items():
        plain = parameter.detach().double().numpy()
        assert (done[name].low, done[name].high) == (plain.min(), plain.max())
        assert (done[name].mean, done[name].std) == pytest.approx((plain.mean(), plain.std()), rel=1e-9, abs=1e-15)
    assert (done.ok, done.flagged, done.kept, done.seed) == (True, (), (), 5)
    with pytest.raises(KeyError, match=r"no parameter named 'lm_head\.weight'"):
        done["lm_head.weight"]


def test_the_summary_is_one_line() -> None:
    good, bad = measured("a"), measured("b", count=234_567, findings=("std off",))
    assert a_report(good, nbytes=4_000_000, kept=("x", "y")).summary == (
        "1 tensor written, 2 kept (0 B): 1,000 values, 4.0 MB in 0.3 s (seed 7, stream 1, native avx2); all as planned"
    )
    assert a_report(good, bad).summary == (
        "2 tensors written: 235,567 values, 4.0 kB in 0.3 s (seed 7, stream 1, native avx2); 1 NOT as planned"
    )
    assert a_report(good, bad).ok is False
    assert a_report(good, bad).flagged == (bad,)


def rows(text: str) -> dict[str, list[str]]:
    """First cell -> the other cells of the table."""
    cells = (line.split() for line in text.splitlines()[2:])
    return {first: rest for first, *rest in cells}


def test_repeated_layers_are_one_row_with_their_ranges() -> None:
    layers = [
        measured(f"h.{n}.w", count=10**6, mean=n / 1e4, std=0.02 + n / 1e4, low=-1 - n, high=1 + n) for n in range(96)
    ]
    text = str(a_report(*layers, *(measured(f"h.{n}.b", planned_std=0.0) for n in range(96)), measured("head")))
    assert len(text.splitlines()) == 2 + 3 + 1, "headings, three rows, the summary"
    headings = text.splitlines()[0]
    assert " ".join(headings.split()) == "name planned mean mean planned std std min max values verdict"
    assert rows(text)["h.{0..95}.w"] == ["0", "0..0.0095", "0.02", "0.02..0.0295", "-96", "96", "96,000,000", "ok"]
    assert rows(text)["h.{0..95}.b"][2] == "0"
    assert rows(text)["head"] == ["0", "0.001", "0.02", "0.0201", "-0.08", "0.09", "1,000", "ok"]


def test_a_flagged_layer_has_a_row_of_its_own_and_says_why() -> None:
    layers = [measured(f"h.{n}.w", findings=("too wide", "too far") if n == 3 else ()) for n in range(6)]
    text = str(a_report(*layers))
    assert rows(text)["h.{0..2,4..5}.w"][-1] == "ok"
    assert rows(text)["h.3.w"][-1] == "FLAGGED"
    assert text.splitlines()[-3:-1] == ["h.3.w: too wide", "h.3.w: too far"]
    assert text.splitlines()[-1].endswith("1 NOT as planned")


def no_constants(name: str) -> None:
    raise AssertionError(f"{name} is not JSON")


def test_the_json_has_every_number_exactly() -> None:
    item = measured("a.w", mean=1 / 3, findings=("std off",))
    done = a_report(item, measured("b", low=math.inf, high=-math.inf, std=math.nan), kept=("x",))
    found = json.loads(done.to_json(), parse_constant=no_constants)
    one, two = found.pop("parameters")
    assert one == {**item.__dict__, "findings": ["std off"]}
    assert (two["low"], two["high"], two["std"], two["mean"]) == ("inf", "-inf", "nan", 0.001)
    numbers = {"seed": 7, "stream": 1, "nbytes": 4000, "seconds": 0.26, "partial": False, "confirmed": False}
    numbers["resumed"] = numbers["kept_nbytes"] = 0

    digest = {"seed": 7, "plan": None, "stream": 1, "zeta": zeta.__version__, "options": {}, "held": []}
    backend = {"backend": "native avx2", "backend_problems": []}
    assert found == {"ok": False, **backend, "kept": ["x"], "on_meta": [], "digest": digest, **numbers}


def test_why_no_better_backend_was_used_is_said() -> None:
    done = a_report(measured("a.w"), backend="reference", backend_problems=("triton: cannot be imported",))
    assert json.loads(done.to_json())["backend_problems"] == ["triton: cannot be imported"]
    assert "better backend, not usable: triton: cannot be imported" in str(done).splitlines()
    assert "cannot" not in str(a_report(measured("a.w")))


def test_a_parameter_without_elements_is_as_planned() -> None:
    done = zeta.init_(nn.ParameterDict({"none": torch.zeros(0, 3)}), Rules([Rule("*", Normal(1.0))]), seed=0)
    assert (done["none"].count, done["none"].ok, done.nbytes) == (0, True, 0)
    assert "none" in rows(str(done))
    json.loads(done.to_json(), parse_constant=no_constants)


def test_a_difference_and_a_failed_verification_read_well() -> None:
    layer = nn.Linear(3, 2, bias=False)
    plan = zeta.plan(layer, Rules([Rule("*", Ones())]))
    zeta.apply_(layer, plan, seed=0)
    with torch.no_grad():
        layer.weight[1] = torch.tensor([1.0, 2.5, -1.0])
    result = zeta.verify(layer, plan, 0)
    assert str(result) == (
        "weight: 2 element(s) differ, first at [1, 1]: found 2.5, expected 1.0\n"
        "NOT verified: 1 problem(s) in 1 tensor (seed 0)"
    )
    difference = {"name": "weight", "count": 2, "first": [1, 1], "found": "2.5", "expected": "1.0"}
    expected = {"ok": False, "seed": 0, "compared": 1, "kept": [], "problems": [], "close": []}
    expected |= {"differences": [difference], "remark": ""}
    assert json.loads(json.dumps(result.as_dict())) == expected
