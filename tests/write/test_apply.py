"""Writing a plan in place: which values, into what memory, what stays as it was, and that an error comes first."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.special
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.testing._internal.two_tensor import TwoTensor

import zeta
from examples.gpt import gpt2
from tests.helpers.layers import Look, raw, state
from zeta import Axes, Rule, Rules
from zeta.base.text import by_reason
from zeta.compute.sampling import sample, tolerance
from zeta.compute.stream.random import draw_seed
from zeta.compute.stream.regions import Region
from zeta.errors import LayerTypeError, PlanError, SpecError, TargetError
from zeta.initializers import Constant, Initializer, Keep, Normal, Ones, Orthogonal, TruncatedNormal, Uniform, Zeros
from zeta.rules import kind

UNIFORM = Rules([Rule("*", Uniform(-1.0, 1.0))])
NORMAL = Rules([Rule("*", Normal(0.5, 2.0))])


# -- the values, computed a second time --------------------------------------------------------------------------------


def words(seed: int, name: str, count: int) -> NDArray[np.uint64]:
    """Philox4x32-10 in numpy: key blake2b(seed, name), element i is word i % 4 of the block with counter i // 4."""
    digest = hashlib.blake2b(struct.pack("<Q", seed) + name.encode(), digest_size=8, person=b"zeta stream 1").digest()
    k0, k1 = struct.unpack("<II", digest)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    zero, mask = np.zeros_like(blocks), np.uint64(0xFFFFFFFF)
    c = [blocks & mask, blocks >> np.uint64(32), zero, zero]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        high_a, high_b = a >> np.uint64(32), b >> np.uint64(32)
        c = [high_b ^ c[1] ^ np.uint64(k0), b & mask, high_a ^ c[3] ^ np.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack(c, -1).reshape(-1)[:count]


def uniform(seed: int, name: str, shape: tuple[int, ...]) -> Tensor:
    """``-1 + 2 floor(w / 2^8) / 2^24``, which fp32 holds exactly."""
    u = (words(seed, name, math.prod(shape)) >> np.uint64(8)).astype(np.float64) * 2.0**-24
    return torch.from_numpy(2 * u - 1).float().view(shape)


def assert_uniform(model: nn.Module, seed: int, names: dict[str, str] | None = None) -> None:
    """Every parameter has exactly what its name, or the one that ``names`` gives it, stands for."""
    for name, parameter in model.named_parameters(remove_duplicate=False):
        expected = uniform(seed, (names or {}).get(name, name), tuple(parameter.shape))
        assert torch.equal(parameter.detach().float(), expected.to(parameter.dtype).float()), name


@pytest.mark.parametrize("seed", [0, 1, 2**64 - 1])
def test_uniform_values_are_those_of_seed_name_and_index(seed: int) -> None:
    model = nn.ModuleDict({"a": nn.Linear(301, 299), "b": nn.Conv2d(3, 4, 3), "c": nn.Embedding(5, 3)})
    report = zeta.init_(model, UNIFORM, seed=seed)
    assert_uniform(model, seed)
    assert (report.seed, report.ok) == (seed, True)


def test_normal_values_are_quantiles_of_the_words() -> None:
    """Word w of 2^32 is the probability (w + 1/2) / 2^32."""
    layer = nn.Linear(300, 250, bias=False)
    zeta.init_(layer, Rules([Rule("*", Normal(0.25))]), seed=3)
    z = scipy.special.ndtri((words(3, "weight", 75_000).astype(np.float64) + 0.5) / 2.0**32)
    np.testing.assert_allclose(layer.weight.detach().numpy().ravel(), 0.25 * z, rtol=4e-7)


def test_one_seed_gives_the_same_bits_and_another_seed_or_name_does_not() -> None:
    def bits(seed: int, name: str = "a") -> bytes:
        model = nn.ModuleDict({name: nn.Linear(5, 4, bias=False)})
        zeta.init_(model, NORMAL, seed=seed)
        return raw(model[name].weight)

    assert bits(1) == bits(1)
    assert len({bits(0), bits(1), bits(2**32), bits(2**63), bits(0, "b"), bits(0, "a_")}) == 6


def test_without_a_seed_torchs_generator_draws_one_that_the_report_has() -> None:
    models = [nn.Linear(4, 4) for _ in range(3)]
    torch.manual_seed(5)
    seeds = [zeta.init_(models[0], UNIFORM).seed, zeta.init_(models[1], UNIFORM, seed=None).seed]
    torch.manual_seed(5)
    assert zeta.init_(models[2], UNIFORM).seed == seeds[0] != seeds[1]
    for model, seed in zip(models, [*seeds, seeds[0]], strict=True):
        assert_uniform(model, seed)


def test_a_norm_whose_parameters_are_kept_keeps_its_statistics() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.BatchNorm1d(4, affine=False))
    model(torch.randn(64, 8) * 5)
    before = copy.deepcopy(model.state_dict())
    rules = [Rule("0.*", Normal()), Rule("1.*", Keep()), Rule("2.weight", Ones()), Rule("2.bias", Keep())]
    report = zeta.init_(model, Rules(rules), seed=0)
    assert {name for name in report.kept if "1." in name} == {name for name in before if name.startswith("1.")}
    same = {name for name, value in model.state_dict().items() if torch.equal(value, before[name])}
    assert {"1.running_mean", "1.running_var", "1.num_batches_tracked"} <= same
    assert same.isdisjoint({"2.running_mean", "2.running_var", "3.running_mean", "3.num_batches_tracked"})


@pytest.mark.parametrize("only", [nn.Linear(2, 2), nn.Linear, kind("weight")], ids=["module", "class", "condition"])
def test_what_is_no_name_selects_nothing(only: Any) -> None:
    message = r"only must be a name or glob, a collection of them, or a function of the name, as in only='head\.\*'"
    assert_refused(nn.Linear(2, 2), lambda: zeta.init_(nn.Linear(2, 2), UNIFORM, seed=0, only=only), SpecError, message)


def test_what_is_not_selected_needs_no_rule() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(2, 2, 3), nn.Linear(4, 3))
    before = copy.deepcopy(model.state_dict())
    zeta.init_(model, Rules([Rule("2.weight", Normal())]), seed=0, only="2.weight")
    assert [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])] == ["2.weight"]
    with pytest.raises(PlanError, match=r"no rule matches.*\n  - 2\.bias .*"):
        zeta.init_(model, Rules([Rule("2.weight", Normal())]), seed=0, only="2.*")
    # a rule for others is not idle, one that matches nothing in the model is
    zeta.init_(model, Rules([Rule("2.weight", Normal()), Rule("1.*", Ones())]), seed=0, only="2.weight")
    with pytest.raises(PlanError, match=r"never win.*\n  - rule 2 \(3\.\*\): no parameter is named 3\.\*; did you"):
        zeta.init_(model, Rules([Rule("2.weight", Normal()), Rule("3.*", Ones())]), seed=0, only="2.weight")


def test_a_buffer_that_is_unfollowing_is_no_part_of_what_is_written() -> None:
    memory, model = torch.tensor([0.0, 0.0, 0.0, 0.0, 5.0, 6.0]), nn.Module()
    model.a = nn.Parameter(memory[:4])
    model.register_buffer("b", memory[2:6])
    on_purpose = Rules([Rule("a", Normal()), Rule("b", Keep(), buffers=True)])
    assert_refused(model, lambda: zeta.init_(model, on_purpose, seed=0), TargetError, "b: shares the memory of a")
    zeta.init_(model, Rules([Rule("a", Normal())]), seed=0)  # a view that nothing is said of follows
    assert torch.equal(model.b[:2], model.a[2:])
    assert model.b[2:].tolist() == [5.0, 6.0]


@pytest.mark.parametrize("verb", ["init_", "apply_", "materialize_", "save"])
def test_torchs_seed_decides_for_every_verb(verb: str, tmp_path: Path) -> None:
    layer = nn.Linear(4, 4)
    plan = zeta.plan(layer, UNIFORM)

    def run(folder: str) -> zeta.Report:
        model = nn.Linear(4, 4, device="meta") if verb == "materialize_" else copy.deepcopy(layer)
        if verb == "save":
            return zeta.save(model, plan, tmp_path / folder)
        return getattr(zeta, verb)(model, UNIFORM if verb == "init_" else plan)  # type: ignore[no-any-return]

    found = []
    for number, seed in enumerate((1, 2, 1)):
        torch.manual_seed(seed)
        found.append(run(str(number)).seed)
    assert found[0] == found[2] != found[1]
    torch.manual_seed(1)
    assert found[0] == draw_seed()
    if verb == "save":
        assert json.loads((tmp_path / "1" / "zeta.json").read_text())["seed"] == found[1]


@pytest.mark.keeps_rng
def test_with_a_seed_torchs_generator_stays() -> None:
    zeta.init_(nn.Linear(4, 4, device="meta").to_empty(device="cpu"), NORMAL, seed=1)


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", True])
def test_senseless_seeds(seed: Any) -> None:
    layer = nn.Linear(2, 2)
    plan, before = zeta.plan(layer, UNIFORM), state(layer)
    for call in (lambda: zeta.apply_(layer, plan, seed), lambda: zeta.init_(layer, UNIFORM, seed)):
        with pytest.raises(SpecError, match="seed must be an integer from 0"):
            call()
    assert state(layer) == before


# -- names decide, and nothing else ------------------------------------------------------------------------------------


def test_order_and_company_do_not_matter() -> None:
    def parts() -> list[tuple[str, nn.Module]]:
        return [("a", nn.Linear(3, 4)), ("b", nn.Conv1d(2, 3, 3)), ("c", nn.GRU(2, 3))]

    for items in (parts(), parts()[::-1], [*parts(), ("new", nn.Linear(9, 9))], parts()[1:2]):
        model = nn.ModuleDict(dict(items))
        zeta.init_(model, UNIFORM, seed=1)
        assert_uniform(model, 1)


@pytest.mark.parametrize(
    ("only", "written"),
    [
        ("1.weight", {"1.weight"}),
        ("*.bias", {"0.bias", "1.bias"}),
        (["0.*", "1.bias"], {"0.weight", "0.bias", "1.bias"}),
        ({"1.*"}, {"1.weight", "1.bias"}),
        (lambda name: name.startswith("0"), {"0.weight", "0.bias"}),
    ],
)
def test_only_some_get_their_values_and_the_others_keep_theirs(only: Any, written: set[str]) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    before = state(model)
    report = zeta.init_(model, UNIFORM, seed=4, only=only)
    assert {item.name for item in report} == written
    for name, parameter in model.named_parameters():
        expected = raw(uniform(4, name, tuple(parameter.shape))) if name in written else before[name]
        assert raw(parameter) == expected, name


@pytest.mark.parametrize("only", ["wieght", ["weight", "bais"], lambda name: False])
def test_only_must_select_something(only: Any) -> None:
    layer = nn.Linear(2, 2)
    before = state(layer)
    with pytest.raises(PlanError, match="only=") as caught:
        zeta.init_(layer, UNIFORM, only=only, seed=0)
    assert ("bais" in str(caught.value)) == (only == ["weight", "bais"])
    assert "- weight\n" not in f"{caught.value}\n"
    assert state(layer) == before


def test_ties_have_the_values_of_the_canonical_name_and_stay_tied() -> None:
    for only in (None, "lm_head.weight", "wte.*"):
        model = gpt2(vocab_size=9, n_positions=4, n_embd=4, n_layer=1, n_head=1)
        zeta.init_(model, UNIFORM, seed=2, only=only)
        assert model.lm_head.weight is model.wte.weight
        assert torch.equal(model.lm_head.weight, uniform(2, "wte.weight", (9, 4)))
    zeta.init_(model, UNIFORM, seed=2)
    assert_uniform(model, 2, {"lm_head.weight": "wte.weight"})


def test_the_number_of_threads_does_not_matter() -> None:
    layers, count = [nn.Linear(300, 300), nn.Linear(300, 300)], torch.get_num_threads()
    for layer, threads in zip(layers, (1, 3), strict=True):
        torch.set_num_threads(threads)
        zeta.init_(layer, NORMAL, seed=1)
    torch.set_num_threads(count)
    assert state(layers[0]) == state(layers[1])


@pytest.mark.parametrize("wanted", [Normal(0.02), TruncatedNormal(1.0, cutoff=2.0), Uniform(-1.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e5m2])
def test_a_narrow_model_has_the_rounded_values(dtype: torch.dtype, wanted: Initializer) -> None:
    wide, narrow = nn.Linear(40, 30), nn.Linear(40, 30).to(dtype)
    rules = Rules([Rule("*", wanted)])
    plan = zeta.plan(wide, rules)
    zeta.apply_(wide, plan, 6)
    zeta.apply_(narrow, plan, 6)  # the model's own dtype counts
    assert state(narrow) == state(wide.to(dtype))


def test_double_precision_has_the_same_values_with_more_digits() -> None:
    wide, plain = nn.Linear(50, 50).double(), nn.Linear(50, 50)
    for layer in (wide, plain):
        zeta.init_(layer, UNIFORM, seed=1)
    torch.testing.assert_close(wide.weight.detach(), plain.weight.detach().double(), rtol=0, atol=2.0**-23)
    assert float((wide.weight.detach() * 2**30 % 1 != 0).double().mean()) > 0.9


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_weights_share_the_variance_between_their_parts(dtype: torch.dtype) -> None:
    model = nn.ParameterDict({"w": torch.zeros(200, 200, dtype=dtype)})
    report = zeta.init_(model, Rules([Rule("*", Normal(2.0, 1.0))]), seed=1)
    parts = torch.view_as_real(model["w"].detach()).double().flatten(0, 1).numpy()
    np.testing.assert_allclose(parts.mean(0), [1, 0], atol=5 * math.sqrt(2) / 200)
    np.testing.assert_allclose(np.cov(parts.T), [[2, 0], [0, 2]], atol=5 * math.sqrt(2) * 2 / 200)
    assert report.ok


# -- memory ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "view",
    [
        lambda m: m.view(6, 4, 3, 5),
        lambda m: m.view(5, 3, 4, 6).permute(3, 2, 1, 0),
        lambda m: m.view(6, 3, 5, 4).permute(0, 3, 1, 2),  # channels last
        lambda m: m.view(12, 30)[2:8, 3:27:2].view(6, 4, 3, 1).expand(6, 4, 3, 1),
        lambda m: m.view(6, 60)[:, ::5].unflatten(1, (4, 3)).unsqueeze(-1),
        lambda m: m.as_strided((6, 4, 3, 1), (60, 15, 5, 0)),  # where there is one element, any stride will do
    ],
)
def test_layout_does_not_change_the_values_and_memory_between_them_is_left_alone(view: Callable[[Tensor], Any]) -> None:
    memory = torch.full((360,), 7.0)
    inside = torch.zeros(360, dtype=torch.bool)
    view(inside).fill_(True)
    model = nn.ParameterDict({"w": view(memory)})
    look = Look.of(model)
    zeta.init_(model, UNIFORM, seed=8)
    assert Look.of(model) == look
    assert_uniform(model, 8)
    assert (memory[~inside] == 7).all()


def test_a_conjugate_view() -> None:
    model = nn.ParameterDict({"w": torch.zeros(3, dtype=torch.complex64).conj()})
    plain = nn.ParameterDict({"w": torch.zeros(3, dtype=torch.complex64)})
    with torch.enable_grad():
        zeta.init_(plain, UNIFORM, seed=0)
        zeta.init_(model, UNIFORM, seed=0)
    assert torch.equal(model["w"].resolve_conj(), plain["w"])


def test_an_interrupted_measurement_leaves_gradients_enabled(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zeta.report.applied.measure_all", interrupted)
    with torch.enable_grad():
        with pytest.raises(KeyboardInterrupt):
            zeta.init_(nn.Linear(2, 2), UNIFORM, seed=0)
        enabled = torch.is_grad_enabled()
    assert enabled


def test_everything_but_the_values_stays() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Conv2d(2, 2, 3).to(memory_format=torch.channels_last))
    model[1](model[0](torch.randn(5, 3))).sum().backward()
    model[2].weight.requires_grad_(False)
    model.eval()
    look = Look.of(model)
    rules = Rules([*UNIFORM, Rule("*", Keep(), buffers=True)])
    assert zeta.init_(model, rules, seed=3).ok
    assert Look.of(model) == look
    assert not model.training
    assert_uniform(model, 3)


def test_autograd_notices_the_write_and_the_parameter_stays_a_leaf() -> None:
    layer = nn.Linear(3, 3)
    loss = layer(torch.randn(2, 3, requires_grad=True)).square().sum()
    zeta.init_(layer, UNIFORM, seed=0)
    assert layer.weight.is_leaf
    assert layer.weight.grad_fn is None
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    layer(torch.randn(2, 3)).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("created", [torch.enable_grad, torch.inference_mode])
@pytest.mark.parametrize("called", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_modes(created: Callable[[], Any], called: Callable[[], Any]) -> None:
    with created():
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    look = Look.of(model[0])
    with called():
        assert zeta.init_(model, UNIFORM, seed=9).ok
    assert Look.of(model[0]) == look
    assert_uniform(model, 9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.complex64])
def test_torchs_defaults_do_not_matter(dtype: torch.dtype) -> None:
    model = nn.ParameterDict({"a": torch.zeros(40, 30, dtype=dtype), "b": torch.zeros(30, 30, dtype=dtype)})
    other = copy.deepcopy(model)
    rules = Rules([Rule("b", Orthogonal()), *NORMAL])
    zeta.init_(model, rules, seed=1)
    try:
        torch.set_default_dtype(torch.float16 if dtype is torch.float64 else torch.float64)
        with torch.device("meta"):
            zeta.init_(other, rules, seed=1)
            assert zeta.verify(other, zeta.plan(other, rules), 1).ok
    finally:
        torch.set_default_dtype(torch.float32)
    assert state(model) == state(other)


def test_buffers_kept_parameters_and_padding_rows() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Embedding(5, 2, padding_idx=-2), nn.Linear(2, 2, bias=False))
    model.register_buffer("mask", torch.full((2,), math.nan))
    model.register_buffer("scale", torch.zeros(2, 3), persistent=False)
    model[0].running_mean.fill_(5), model[0].running_var.fill_(6), model[0].num_batches_tracked.fill_(7)
    kept = raw(model[2].weight.data.fill_(math.nan))
    rules = [Rule("2.*", Keep()), Rule("*", Uniform(-1.0, 1.0)), Rule("scale", Constant(0.1), buffers=True)]
    report = zeta.init_(model, Rules(rules), seed=1)
    assert model[0].running_mean.tolist() == [0, 0, 0]
    assert model[0].running_var.tolist() == [1, 1, 1]
    assert model[0].num_batches_tracked.item() == 0
    assert model.mask.isnan().all()
    assert torch.equal(model.scale, torch.full((2, 3), 0.1))
    assert raw(model[2].weight) == kept
    expected = uniform(1, "1.weight", (5, 2))
    expected[3] = 0
    assert torch.equal(model[1].weight, expected)
    assert set(report.kept) == {"2.weight", "mask"}
    assert {item.name for item in report} == set(state(model)) - {"2.weight", "mask"}


def test_the_first_row_may_be_the_padding_row() -> None:
    layer = nn.Embedding(5, 2, padding_idx=0)
    zeta.init_(layer, UNIFORM, seed=1)
    expected = uniform(1, "weight", (5, 2))
    expected[0] = 0
    assert torch.equal(layer.weight, expected)


@pytest.mark.parametrize("gain", [1e-3, 1e3])
@pytest.mark.parametrize("shape", [(60, 60), (20, 70)])
def test_the_tolerance_of_orthogonal_weights_is_that_of_fp32(shape: tuple[int, int], gain: float) -> None:
    """The fp64 matrix, whose digits are right, is a few units of fp32 away."""
    law, axes = Orthogonal(gain), Axes(fan_in=(1,), fan_out=(0,))
    single, double = (
        sample(law, key=1, region=Region.whole(shape), dtype=dtype, axes=axes).double()
        for dtype in (torch.float32, torch.float64)
    )
    error = float((single - double).abs().max())
    assert error < tolerance(law, torch.float32) < 100 * error


def test_empty_and_single_elements() -> None:
    model = nn.ParameterDict({"none": torch.zeros(0, 3), "one": torch.zeros(()), "row": torch.zeros(1, 1, 1)})
    assert zeta.init_(model, UNIFORM, seed=5).ok
    assert_uniform(model, 5)


def test_progress_counts_every_byte_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zeta.write.apply._BATCH", 2**15)
    model = nn.Sequential(nn.Linear(400, 300), nn.Linear(3, 3).bfloat16(), nn.Linear(3, 3))
    rules = Rules([Rule("2.*", Keep()), *UNIFORM])
    calls: list[tuple[str, int, int]] = []
    report = zeta.init_(model, rules, progress=lambda *call: calls.append(call), seed=0)
    total = 4 * (400 * 300 + 300) + 2 * 12
    assert report.nbytes == total
    assert {call[2] for call in calls} == {total}
    assert [call[1] for call in calls] == sorted({call[1] for call in calls})
    assert calls[-1][1] == total
    # a large weight comes in several pieces, and the small parameters after it together with its last one
    assert [call[0] for call in calls] == ["0.weight"] * (len(calls) - 1) + ["1.bias"]
    assert len(calls) >= 3


# -- refused before the first write ------------------------------------------------------------------------------------


class Odd(nn.Module):
    """A good layer, and around it what cannot be written."""

    def __init__(self, bad: Tensor) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.bad = nn.Parameter(bad, requires_grad=False)
        self.last = nn.Linear(3, 3)


BAD: dict[str, tuple[Callable[[], Tensor], str]] = {
    "meta": (
        lambda: torch.zeros(2, device="meta"),
        r"is on the meta device .* zeta\.materialize_\(",
    ),
    "integer": (lambda: torch.zeros(2, dtype=torch.int64), "has dtype int64; initialize the floating-point model"),
    "expanded": (lambda: torch.zeros(3, 1).expand(3, 4), r"overlapping memory \(strides \(1, 0\)\)"),
    "overlapping": (lambda: torch.zeros(9).as_strided((4, 3), (2, 1)), r"overlapping memory \(strides \(2, 1\)\)"),
}


def assert_refused(model: nn.Module, call: Callable[[], Any], error: type[Exception], message: str) -> None:
    before = state(model)
    with pytest.raises(error, match=message):
        call()
    assert state(model) == before


def test_one_reason_for_many_parameters_is_said_once() -> None:
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(20)), nn.LayerNorm(3))
    model.append(nn.Linear(3, 3).to(torch.float16)).append(Odd(torch.zeros(2, dtype=torch.int64)))
    plan = zeta.plan(model, Rules([Rule("*", Zeros())]))
    with pytest.raises(TargetError) as caught:
        zeta.apply_(model, plan, 0)
    heading, meta, integer = str(caught.value).splitlines()
    assert heading == "these parameters cannot be written; nothing was changed:"
    assert meta.startswith(
        "  - {0..20}.weight, {0..20}.bias: is on the meta device and has no memory; zeta.materialize_"
    )
    assert integer.startswith("  - 22.bad: has dtype int64")


def test_many_names_with_one_reason_are_counted() -> None:
    problems = [(f"{word}.{number}", "is lazy") for word in "abcdefghij" for number in range(3)]
    assert by_reason(problems) == [
        "a.{0..2}, b.{0..2}, c.{0..2}, d.{0..2}, e.{0..2}, f.{0..2}, g.{0..2}, h.{0..2} and 6 more: is lazy"
    ]


@pytest.mark.parametrize("bad", BAD)
def test_what_cannot_be_written_is_refused_before_the_first_write(bad: str) -> None:
    make, message = BAD[bad]
    model = Odd(make())
    rules = Rules([Rule("*", Zeros())])
    message = rf"nothing was changed:\n  - bad: .*{message}"
    assert_refused(model, lambda: zeta.init_(model, rules, seed=0), TargetError, message)
    zeta.init_(model, rules, only="first.*", seed=0)
    assert not model.first.weight.any()


def test_a_kept_parameter_needs_memory_but_not_a_dtype() -> None:
    rules = Rules([Rule("bad", Keep()), Rule("*", Zeros())])
    zeta.init_(Odd(torch.zeros(2, dtype=torch.int64)), rules, seed=0)
    with pytest.raises(TargetError, match="meta"):
        zeta.init_(Odd(torch.zeros(2, device="meta")), rules, seed=0)


def test_a_lazy_parameter() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.LazyLinear(3))
    rules = Rules([Rule("1.*", Keep()), *UNIFORM])
    assert_refused(model, lambda: zeta.init_(model, rules, seed=0), TargetError, "- 1.weight, 1.bias: is lazy ")


def test_all_that_cannot_be_written_is_listed() -> None:
    model = nn.Sequential(*(Odd(make()) for make, _ in BAD.values()))
    model.append(parametrizations.orthogonal(nn.Linear(3, 3)))
    before = state(model)
    with pytest.raises(TargetError) as caught:
        zeta.init_(model, Rules([Rule("*", Zeros())]), seed=0)
    listed = [line.split(":")[0] for line in str(caught.value).splitlines()[1:] if line.startswith("  - ")]
    assert listed == [*(f"  - {number}.bad" for number in range(4)), "  - 4.weight"]
    assert state(model) == before


class Picky(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def right_inverse(self, x: Tensor) -> Tensor:
        if hasattr(self, "grown_up"):
            raise ValueError("cannot")
        return x / 2


def test_a_parametrization_that_fails_does_so_before_the_first_write() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    parametrize.register_parametrization(model[1], "weight", Picky(), unsafe=True)
    model[1].parametrizations.weight[0].grown_up = True
    assert_refused(model, lambda: zeta.init_(model, UNIFORM, seed=0), TargetError, r"- 1\.weight: .*cannot")


def overlapping(start: int) -> nn.Module:
    """``a`` is elements 0 to 9 of one memory, ``b`` ten elements from ``start`` on."""
    memory = torch.zeros(30)
    return nn.ParameterDict({"a": memory[:10], "b": memory[start : start + 10]})


@pytest.mark.parametrize(
    "start",
    [0, 5, 9],
)
def test_parameters_over_the_same_memory_are_refused(start: int) -> None:
    model = overlapping(start)
    assert_refused(model, lambda: zeta.init_(model, UNIFORM, seed=0), TargetError, "b: shares the memory of a")


def test_a_kept_parameter_over_the_same_memory_is_refused() -> None:
    model = overlapping(0)
    rules = Rules([Rule("a", Keep()), *UNIFORM])
    assert_refused(model, lambda: zeta.init_(model, rules, seed=0), TargetError, "shares the memory")


def test_neighbours_in_one_memory_are_fine() -> None:
    model = overlapping(10)
    zeta.init_(model, UNIFORM, seed=1)
    assert_uniform(model, 1)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_sparse_parameter_is_refused_by_name() -> None:
    model = Odd(torch.eye(3).to_sparse_csr())
    with pytest.raises(TargetError, match=r"- bad: .*sparse"):
        zeta.init_(model, UNIFORM, seed=0)


def test_a_plan_of_another_model_lists_every_difference() -> None:
    plan = zeta.plan(nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(3, 4), "c": nn.Linear(2, 2)}), UNIFORM)
    model = nn.ModuleDict({"b": nn.Linear(4, 3), "c": nn.Linear(2, 2), "d": nn.Linear(2, 2, bias=False)})
    before = state(model)
    with pytest.raises(PlanError) as caught:
        zeta.apply_(model, plan, seed=0)
    assert str(caught.value) == (
        "this plan is not for this model\n"
        "the plan names what the model does not have:\n  - a.weight\n  - a.bias\n"
        "the model has what the plan does not name:\n  - d.weight\n"
        "shapes differ:\n  - b.weight: planned 4 x 3, found 3 x 4\n  - b.bias: planned 4, found 3"
    )
    assert state(model) == before
    zeta.apply_(model, plan, 1, only="c.*")
    assert torch.equal(model["c"].weight, uniform(1, "c.weight", (2, 2)))


class Tied(nn.Module):
    """Two layers, of which one weight may be the other's."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
        if tied:
            self.b.weight = self.a.weight


@pytest.mark.parametrize(
    ("planned", "rules", "message"),
    [
        (True, [Rule("*", Ones())], r"b\.weight: planned as the same tensor as a\.weight, found another"),
        (True, [Rule("*", Keep())], None),
        (False, [Rule("*", Ones())], r"b\.weight: planned on its own, found the same tensor as a\.weight"),
        (False, [Rule("a.*", Keep()), Rule("b.*", Ones())], r"b\.weight: planned on its own"),
        (False, [Rule("a.*", Ones()), Rule("b.*", Keep())], r"b\.weight: planned on its own"),
        (False, [Rule("*", Keep())], None),
    ],
)
def test_ties_must_be_those_of_the_plan_where_a_tensor_is_written(
    planned: bool, rules: list[Rule], message: str | None
) -> None:
    plan, model = zeta.plan(Tied(tied=planned), Rules(rules)), Tied(tied=not planned)
    if message is None:
        zeta.apply_(model, plan, seed=0)
    else:
        assert_refused(model, lambda: zeta.apply_(model, plan, seed=0), PlanError, f"ties differ:\n  - {message}")


def test_the_report_says_of_how_many_tensors_it_is() -> None:
    layer = nn.Linear(2, 2)
    plan = zeta.plan(layer, UNIFORM)
    assert zeta.apply_(layer, plan, 0).as_dict()["digest"]["options"] == {}
    assert zeta.apply_(layer, plan, 0, only="bias").as_dict()["digest"]["options"]["only"].startswith("1 tensors, ")


def test_a_part_of_a_model_has_the_values_of_its_names_in_the_whole() -> None:
    plan = zeta.plan(nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 2)}), UNIFORM)
    part = nn.Linear(3, 2)
    zeta.apply_(part, plan, 1, prefix="b")
    assert_uniform(part, 1, {"weight": "b.weight", "bias": "b.bias"})
    message = r"names nothing of this part of the model, whose first tensor is 'c\.weight'"
    assert_refused(part, lambda: zeta.apply_(part, plan, 1, prefix="c"), PlanError, message)


def test_a_value_beyond_the_models_own_dtype() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).half())
    plan = zeta.plan(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), Rules([Rule("*", Constant(1e5))]))
    assert_refused(
        model, lambda: zeta.apply_(model, plan, seed=0), TargetError, "- 1.weight, 1.bias: .*float16 ends at 6.5"
    )


@pytest.mark.parametrize("model", ["weight", nn.Linear, torch.zeros(2), None])
def test_not_a_module(model: Any) -> None:
    with pytest.raises(LayerTypeError, match=r"expected a torch\.nn\.Module, got"):
        zeta.apply_(model, zeta.plan(nn.Linear(2, 2), UNIFORM), seed=0)


def test_ones_and_zeros_reach_every_kind() -> None:
    model = nn.TransformerEncoderLayer(8, 2, 16)
    zeta.init_(model, Rules([Rule(kind("norm_scale"), Ones()), Rule("*", Zeros())]), seed=0)
    for name, parameter in model.named_parameters():
        assert (parameter == float(name in ("norm1.weight", "norm2.weight"))).all(), name


def test_what_is_no_plan_or_no_progress_is_refused_before_the_first_write() -> None:
    layer = nn.Linear(2, 2)
    before = state(layer)
    with pytest.raises(SpecError, match=r"expected a Plan from .*got .torch.; zeta\.plan\(model, rules\) makes one"):
        zeta.apply_(layer, "torch", seed=0)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"progress must be a function .*got 5"):
        zeta.apply_(layer, zeta.plan(layer, "torch"), progress=5, seed=0)  # type: ignore[arg-type]
    assert state(layer) == before


def test_tensors_without_memory_of_their_own_are_refused_before_any_write() -> None:
    wrapped, plain = nn.Linear(3, 3), nn.Linear(3, 3)
    wrapped.weight = nn.Parameter(TwoTensor(torch.ones(3, 3), torch.ones(3, 3)))
    model = nn.Sequential(plain, wrapped)
    before = plain.weight.clone()
    with pytest.raises(TargetError, match=r"1\.weight: is a TwoTensor without memory of its own"):
        zeta.init_(model, Rules([Rule("*", Normal(1.0))]), seed=0)
    assert torch.equal(plain.weight, before)


def test_freed_weights_and_empty_ones_on_meta_are_refused_before_any_write() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight.untyped_storage().resize_(4)
    model.register_parameter("empty", nn.Parameter(torch.empty(0, device="meta")))
    before = model[0].weight.clone()
    with pytest.raises(TargetError, match=r"(?s)empty: is on the meta device.*1\.weight: has a storage that was freed"):
        zeta.init_(model, Rules([Rule("*", Normal(1.0))]), seed=0)
    assert torch.equal(model[0].weight, before)


def test_a_fake_model_is_refused_and_spoils_no_backend() -> None:
    code = """
import torch, zeta
from torch._subclasses.fake_tensor import FakeTensorMode
from zeta import Rule, Rules
from zeta.compute.stream.random import draw_seed
from zeta.compute.stream import kernels
from zeta.initializers import Normal
with FakeTensorMode():
    try:
        zeta.init_(torch.nn.Linear(3, 3), Rules([Rule("*", Normal(1.0))]), seed=0)
    except zeta.TargetError as error:
        assert "is a FakeTensor without memory" in str(error)
    else:
        raise SystemExit("was not refused")
    kernels.backend()
assert not kernels.problems(), kernels.problems()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("value", [-0.0, -1e-50, -1e-42])
def test_a_negative_constant_that_rounds_to_zero_keeps_its_sign(value: float, dtype: torch.dtype) -> None:
    model = nn.Linear(2, 2, dtype=dtype)
    zeta.init_(model, Rules([Rule("*", Constant(value))]), seed=0)
    assert torch.signbit(model.weight).all()
    assert torch.equal(model.weight, torch.full_like(model.weight, value))


def test_names_of_thousands_of_parameters_cost_little_more_than_all_of_them() -> None:
    model = nn.ParameterList(torch.empty(1) for _ in range(3000))
    plan = zeta.plan(model, Rules([Rule("*", Normal(1.0))]))

    def seconds(only: list[str] | None) -> float:
        begin = time.perf_counter()
        zeta.apply_(model, plan, only=only, seed=0)
        return time.perf_counter() - begin

    names = [entry.name for entry in plan]
    pairs = [(seconds(None), seconds([*names, "29*"])) for _ in range(3)]
    assert min(some / everything for everything, some in pairs) < 4  # 100 where each name is looked for in each


def test_only_that_is_no_name_is_refused() -> None:
    model = nn.Linear(2, 2)
    plan = zeta.plan(model, Rules([Rule("*", Normal(1.0))]))
    for only in (5, [1, "bias"]):
        with pytest.raises(SpecError, match="only must be a name or glob, a collection of them, or a function"):
            zeta.apply_(model, plan, only=only, seed=0)  # type: ignore[arg-type]


def test_a_planned_buffer_is_not_written_by_another_name() -> None:
    model = nn.Module()
    model.weight = nn.Parameter(torch.zeros(4))
    model.register_buffer("ones", model.weight.data)
    plan = zeta.plan(model, Rules([Rule("weight", Normal(1.0)), Rule("ones", Ones(), buffers=True)]))
    for only in (None, "weight", "ones"):
        with pytest.raises(TargetError, match="shares the memory of"):
            zeta.apply_(model, plan, seed=0, only=only)
    assert not model.weight.any()
