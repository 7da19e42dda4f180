"""Recording constructors: every parameter and buffer, with the distribution that a real construction gives it."""

from __future__ import annotations

import collections
import contextlib
import copy
import io
import math
import pickle
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from tests.helpers.recorded import Awkward, compare, recorded
from zeta import PlanError, RecordingError, Rule, Rules, SpecError, utils
from zeta.initializers import (
    Constant,
    Keep,
    Normal,
    Ones,
    Orthogonal,
    Program,
    TruncatedNormal,
    Uniform,
    Zeros,
    xavier_uniform,
)
from zeta.resolve.recording.tracing import lending

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "transformer": lambda: nn.Transformer(64, 4, 1, 1, 128, batch_first=True),
    "lstm": lambda: nn.LSTM(32, 64, 2, bidirectional=True, proj_size=16),
    "gru": lambda: nn.GRU(32, 64),
    "rnn": lambda: nn.RNN(32, 64),
    "attention": lambda: nn.MultiheadAttention(64, 4),
    "attention with other widths": lambda: nn.MultiheadAttention(64, 4, kdim=32, vdim=48, add_bias_kv=True),
    "bilinear": lambda: nn.Bilinear(16, 24, 32),
    "embedding bag": lambda: nn.EmbeddingBag(100, 32, padding_idx=1),
    "adaptive softmax": lambda: nn.AdaptiveLogSoftmaxWithLoss(64, 100, [10, 50]),
    "batch norm": lambda: nn.BatchNorm2d(8),
    "group norm": lambda: nn.GroupNorm(2, 8),
    "prelu": lambda: nn.PReLU(4),
    **{
        f"{name}, {groups} group(s)": lambda name=name, groups=groups: getattr(nn, name)(16, 32, 3, groups=groups)
        for name in ("Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
        for groups in (1, 4)
    },
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(64, 64)),
    "weight norm of a convolution": lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(64, 64, 8), dim=2),
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_torch_layers_come_out_as_they_are_built(name: str) -> None:
    model, plan, report = recorded(LAYERS[name])
    assert report.ok, report
    assert compare(model, plan, LAYERS[name], builds=16) == []
    assert not any(isinstance(entry.initializer, Program) for entry in plan)


def test_spectral_norm_keeps_its_vectors() -> None:
    def build() -> nn.Module:
        return nn.utils.parametrizations.spectral_norm(nn.Linear(48, 32))

    model, plan, _ = recorded(build)
    assert isinstance(plan["weight"].initializer, Uniform)
    assert compare(model, plan, build) == []
    original = model.parametrizations.weight.original.detach()
    largest = torch.linalg.matrix_norm(original, 2)
    estimate = model.parametrizations.weight[0]._u @ original @ model.parametrizations.weight[0]._v
    assert abs(float(estimate / largest) - 1) < 0.05


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2

    def right_inverse(self, x: Tensor) -> Tensor:
        return 2 * x


def test_spectral_norm_over_another_parametrization_keeps_what_it_divides() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(3, 3)
        nn.init.eye_(layer.weight)
        nn.utils.parametrize.register_parametrization(layer, "weight", Halved())
        return nn.utils.parametrizations.spectral_norm(layer)

    model, _, _ = recorded(build)
    assert torch.equal(model.parametrizations.weight.original, build().parametrizations.weight.original)
    torch.testing.assert_close(model.eval().weight, torch.eye(3))  # both have vectors that are drawn


def test_twenty_awkward_habits() -> None:
    model, plan, report = recorded(Awkward)
    assert report.ok, report
    assert compare(model, plan, Awkward, builds=8) == []
    real = Awkward()
    assert model.drop == real.drop
    assert torch.equal(model.slopes, real.slopes)
    assert all(torch.equal(a, b) for a, b in zip(model.tables["ids"], real.tables["ids"], strict=True))
    assert model.view.data_ptr() == model.transposed.data_ptr()
    assert torch.equal(model.twin.up.weight, model.layers[0].up.weight)
    assert plan["embed.weight"].ties == ("head.weight",)
    assert plan["embed.weight"].padding_idx == 3
    assert plan["layers.0.down.weight"].initializer == Normal(0.01)
    assert isinstance(plan["timm"].initializer, TruncatedNormal)
    gate = model.rnn.weight_hh_l0.detach()[:64]
    torch.testing.assert_close(gate @ gate.T, torch.eye(64), atol=1e-5, rtol=0)


class Ordered(nn.Module):
    def __init__(self, order: tuple[str, ...]) -> None:
        super().__init__()
        parts: dict[str, Callable[[], Any]] = {
            "a": lambda: nn.Linear(8, 8),
            "b": lambda: nn.LSTM(4, 4),
            "c": lambda: nn.Parameter(torch.rand(8) + torch.rand(8)),
            "d": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)),
        }
        for name in order:
            setattr(self, name, parts[name]())


def test_values_do_not_depend_on_the_order_of_construction() -> None:
    first, _, _ = recorded(Ordered, ("a", "b", "c", "d"))
    second, _, _ = recorded(Ordered, ("d", "c", "b", "a"))
    ours, other = first.state_dict(), second.state_dict()
    assert ours.keys() == other.keys()
    for name, value in ours.items():
        assert torch.equal(value, other[name]), name


def test_the_seed_decides() -> None:
    first, second, other = (recorded(Awkward, seed=seed)[0].state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["dt_bias"], other["dt_bias"])


def test_the_plan_goes_through_json() -> None:
    _, plan = zeta.record(Awkward)
    again = zeta.Plan.from_json(plan.to_json())
    assert again == plan
    assert str(again) == str(plan)


def test_entries_name_the_line() -> None:
    _, plan = zeta.record(Awkward)
    assert plan["layers.0.down.weight"].rule.startswith("recorded.py:")
    assert plan["layers.0.down.weight"].rule.endswith("in Inner.__init__ (Linear)")
    assert plan["packed"].rule.endswith("in Awkward.__init__ (xavier_uniform_, Awkward)")


# -- what cannot be recorded -----------------------------------------------------------------------------------------


class Reads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16))
        if (self.weight > 0).any():
            nn.init.zeros_(self.weight)


def torch_is_itself() -> bool:
    """Whether torch's functions have their own code, and make real tensors."""
    names = ("_no_grad_trunc_normal_", "orthogonal_", "sparse_", "dirac_")
    own = all(getattr(nn.init, name).__code__.co_name == name for name in names)
    return own and nn.Linear(2, 2).weight.device.type == "cpu"


def test_control_flow_on_random_values_is_refused() -> None:
    with pytest.raises(RecordingError, match=r"test_recording.py:\d+ in Reads.__init__ reads .* random values"):
        zeta.record(Reads)
    assert torch_is_itself()


def test_real_fallback_freezes_what_was_read() -> None:
    model, plan = zeta.record(Reads, fallback="real")
    zeta.materialize_(model, plan, seed=0)
    assert plan["weight"].initializer == Zeros()


class Rejects(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Parameter(torch.randn(64))
        self.weight = nn.Parameter(torch.randn(64))
        with torch.no_grad():
            while (outside := self.weight.abs() > 1).any():
                self.weight[outside] = torch.randn(int(outside.sum()))


def test_real_fallback_draws_what_decides_once() -> None:
    model, plan = zeta.record(Rejects, fallback="real")
    other, _ = zeta.record(Rejects, fallback="real")
    zeta.materialize_(model, plan, seed=0)
    zeta.materialize_(other, plan, seed=1)
    assert float(model.weight.detach().abs().max()) <= 1
    assert len(set(model.weight.tolist())) == 64
    assert torch.equal(model.weight, other.weight)
    assert not torch.equal(model.other, other.other)


class Forgets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(16, 4))
        self.register_buffer("table", torch.empty(3))
        self.bias = nn.Parameter(torch.zeros(4))


def test_memory_that_is_never_written_is_an_error_that_names_it() -> None:
    with pytest.raises(RecordingError, match=r"(?s)weight: never gets a value.*table: never gets a value"):
        zeta.record(Forgets)


def test_what_has_no_elements_needs_no_value() -> None:
    class Nothing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.registers = nn.Parameter(torch.empty(1, 0, 16))
            self.register_buffer("none", torch.empty(0, dtype=torch.int64))

    model, plan, report = recorded(Nothing)
    assert report.ok
    assert plan["registers"].initializer == plan["none"].initializer == Zeros()
    assert (model.registers.shape, model.none.dtype) == ((1, 0, 16), torch.int64)


def test_rules_give_the_rest() -> None:
    rules = Rules([Rule("weight", Normal(0.02)), Rule("table", Constant(2.0), buffers=True)])
    model, plan = zeta.record(Forgets, fallback=rules)
    assert plan["weight"].initializer == Normal(0.02)
    zeta.materialize_(model, plan, seed=0)
    assert model.table.tolist() == [2.0, 2.0, 2.0]


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.noise = [torch.randn(3)]


def test_random_tensors_outside_are_named() -> None:
    with pytest.raises(RecordingError, match=r"(?s)noise\[0\] \(3,\), made at test_recording.py.*random values"):
        zeta.record(Keeps)


class Table(nn.Module):
    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.embed = nn.Embedding(*table.shape)
        with torch.no_grad():
            self.embed.weight.copy_(table)


def test_data_is_kept_up_to_four_mebibytes() -> None:
    table = torch.randn(64, 16)
    model, _, _ = recorded(Table, table)
    assert torch.equal(model.embed.weight, table)
    with pytest.raises(RecordingError, match=r"embed.weight: is data of 4,194,368 bytes"):
        zeta.record(Table, torch.randn(2**16 + 1, 16))


@pytest.mark.parametrize("draw", [lambda: np.random.rand(4, 4), lambda: [[random.random()] * 4] * 4])
def test_random_numbers_from_elsewhere_are_told(draw: Callable[[], Any]) -> None:
    def build() -> nn.Module:
        layer = nn.Linear(4, 4)
        layer.weight.data = torch.tensor(draw()).float()
        return layer

    with pytest.warns(zeta.ZetaNotice, match=r"drew random numbers from .*random"):
        zeta.record(build)


def _seeded_by_method() -> list[Tensor]:
    torch.default_generator.manual_seed(5)
    first = torch.randn(4)
    torch.default_generator.manual_seed(5)
    return [first, torch.randn(4)]


def _seeded_by_state() -> list[Tensor]:
    state = torch.default_generator.get_state()
    first = torch.randn(4)
    torch.default_generator.set_state(state)
    return [first, torch.randn(4)]


def _seeded_both_ways() -> list[Tensor]:
    torch.manual_seed(5)
    first = torch.randn(4)
    torch.random.default_generator.manual_seed(5)
    return [first, torch.randn(4, generator=torch.default_generator)]


@pytest.mark.keeps_rng
def test_the_default_generator_does_not_move_where_it_is_named() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(2, 2)
        nn.init.normal_(layer.weight, generator=torch.default_generator)
        return layer

    with ThreadPoolExecutor(1) as pool:
        pool.submit(int).result()  # another thread
        zeta.record(build)


@pytest.mark.keeps_rng
@pytest.mark.parametrize("draw", [_seeded_by_method, _seeded_by_state, _seeded_both_ways])
def test_methods_of_the_default_generator_seed_alike(
    draw: Callable[[], list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threading, "active_count", lambda: 1)  # pytest may have threads

    def build() -> nn.Module:
        module = nn.Module()
        module.a, module.b = (nn.Parameter(value) for value in draw())
        module.c = nn.Parameter(torch.randn(4))
        return module

    model, plan = zeta.record(build)
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.a, model.b)
    assert not torch.equal(model.a, model.c)


def test_a_factory_that_raises_leaves_nothing_behind() -> None:
    def fails() -> nn.Module:
        nn.init.orthogonal_(nn.Linear(4, 4).weight)
        raise KeyError("on purpose")

    state = torch.get_rng_state()
    with pytest.raises(KeyError, match="on purpose"):
        zeta.record(fails)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch_is_itself()
    weight = nn.init.orthogonal_(torch.empty(4, 4))
    torch.testing.assert_close(weight @ weight.T, torch.eye(4))


def test_a_recording_inside_a_recording_is_refused() -> None:
    with pytest.raises(RecordingError, match="under way in this thread"):
        zeta.record(lambda: zeta.record(nn.Linear, 2, 2)[0])
    zeta.record(nn.Linear, 2, 2)


def test_threads_record_side_by_side_and_others_stay_real() -> None:
    results: dict[int, Any] = {}
    inside, outside = threading.Event(), threading.Event()

    def slow() -> nn.Module:
        inside.set()
        assert outside.wait(30)
        layer = nn.Linear(8, 8)
        nn.init.trunc_normal_(layer.weight, std=0.02)
        return layer

    def work(number: int) -> None:
        results[number] = zeta.record(slow)[1]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    assert inside.wait(30)
    real = nn.init.trunc_normal_(torch.empty(1000), std=1.0)  # while the code is exchanged
    assert not real.is_meta
    assert 0.8 < float(real.std()) < 0.95
    outside.set()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert isinstance(results[0]["weight"].initializer, TruncatedNormal)


def test_a_surrounding_device_does_not_matter() -> None:
    _, expected = zeta.record(Awkward)
    with torch.device("meta"):
        _, plan = zeta.record(Awkward)
    assert plan == expected


@pytest.mark.parametrize("sizes", [(6,), (2, 3), (100,)])
def test_a_tensor_that_grows_is_refused_with_its_line(sizes: tuple[int, ...]) -> None:
    class Growing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("steps", torch.arange(4.0).resize_(sizes).fill_(1.0))

    with pytest.raises(zeta.RecordingError, match=r"test_recording\.py:\d+ in .*Growing.*: .*resize_.* makes a"):
        zeta.record(Growing)


def test_a_sparse_tensor_is_refused_with_its_line() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            at = torch.tensor([[0, 1], [1, 0]])
            self.register_buffer("a", torch.sparse_coo_tensor(at, torch.tensor([1.0, 2.0]), (2, 2)).to_dense())

    with pytest.raises(zeta.RecordingError, match=r"test_recording\.py:\d+ in .*Sparse.*makes a sparse tensor"):
        zeta.record(Sparse)


def test_what_is_not_a_module_is_refused() -> None:
    with pytest.raises(zeta.LayerTypeError, match=r"returns a torch\.nn\.Module, got 3"):
        zeta.record(lambda: 3)  # type: ignore[arg-type, return-value]
    with pytest.raises(zeta.SpecError, match="fallback must be"):
        zeta.record(nn.Linear, 2, 2, fallback="zeros")  # type: ignore[arg-type]


# nn.Module.__init__ and torch's functions may be wrapped by a library that was imported first
WRAPPED = """
import threading
from torch import nn

def wrap(owner, name):
    original = getattr(owner, name)
    def wrapper(*args, **kwargs):
        return original(*args, **kwargs)
    setattr(owner, name, wrapper)

wrap(nn.Module, "__init__"), wrap(nn.Module, "__setstate__"), wrap(threading.Thread, "start")
import copy, zeta
backbone = nn.Linear(2, 2)
zeta.record(lambda: nn.Sequential(nn.Linear(3, 2), copy.deepcopy(backbone)))
try:
    zeta.record(lambda: nn.Sequential(backbone))
except zeta.RecordingError as error:
    print(error)
"""


def test_a_library_may_have_wrapped_torch_before() -> None:
    run = subprocess.run([sys.executable, "-c", WRAPPED], capture_output=True, text=True, check=True)
    assert "- 0.weight (2, 2)" in run.stdout


# -- plans of models that are there already --------------------------------------------------------------------------


def initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_plan_from_a_function(device: str) -> None:
    with torch.device(device):
        model = nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Linear(32, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    weight = model[0].weight
    plan = zeta.plan(model, initialize)
    assert plan["0.weight"].initializer == TruncatedNormal(0.02, low=-2.0, high=2.0)
    assert plan["1.weight"].initializer == Ones()
    assert plan["1.running_var"].initializer == (Ones() if device == "meta" else Keep())
    assert model[0].weight is weight
    assert weight.device.type == device
    if device == "cpu":
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert zeta.init_(model, initialize, seed=1).ok
    assert not model[0].weight.is_meta


def test_a_function_that_forgets_a_parameter_is_an_error() -> None:
    layer = nn.Linear(4, 4, device="meta")
    with pytest.raises(PlanError, match=r"\(fallback=.*\n  - bias: has only what was there before the recording began"):
        zeta.plan(layer, lambda model: nn.init.zeros_(model.weight))
    plan = zeta.plan(layer, lambda model: nn.init.zeros_(model.weight), fallback=Rules([Rule("bias", Ones())]))
    assert (plan["weight"].initializer, plan["bias"].initializer) == (Zeros(), Ones())
    report = zeta.init_(layer, lambda m: nn.init.zeros_(m.weight), seed=0, fallback=Rules([Rule("bias", Ones())]))
    assert report.ok
    assert layer.bias.tolist() == [1.0] * 4
    with pytest.raises(SpecError, match="fallback= is for a function"):
        zeta.plan(layer, Rules([Rule("*", Zeros())]), fallback="real")


def usual(module: nn.Module) -> None:
    """The function that half of all projects have."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class Usual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.full((1, 4), 7.0))
        self.linear, self.norm = nn.Linear(4, 4), nn.LayerNorm(4)
        self.normed = torch.nn.utils.parametrizations.weight_norm(nn.Conv1d(2, 2, 3))
        self.spectral = torch.nn.utils.parametrizations.spectral_norm(nn.Conv1d(2, 2, 3))
        self.old = nn.utils.weight_norm(nn.Conv1d(2, 2, 3))
        self.batch = nn.BatchNorm1d(4)

    def init_weights(self) -> None:
        self.apply(usual)


@pytest.mark.parametrize(
    "how",
    [lambda m: m.apply(usual), lambda m: m.init_weights(), Usual.init_weights, lambda m: usual(m.linear)],
    ids=["apply", "method", "unbound", "part"],
)
@pytest.mark.parametrize("only", [None, "linear.*", ["linear.weight"]])
@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
def test_what_a_function_does_not_write_is_kept_on_a_live_model(how: Callable[[Any], object], only: Any) -> None:
    model = Usual()
    nn.init.uniform_(model.norm.weight)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = zeta.init_(model, how, seed=3, only=only)
    written = {"linear.weight", "linear.bias"} if only != ["linear.weight"] else {"linear.weight"}
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == written
    assert {one.name for one in report if one.name in before and "batch" not in one.name} == written
    assert model.linear.weight.detach().std().item() == pytest.approx(0.02, rel=0.5)
    if only is None:
        assert {"token", "norm.weight", "normed.weight", "spectral.weight", "old.weight_g"} <= {*report.kept}
        assert report.kept_nbytes > 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.eye(4).to_sparse(),
        lambda: torch.eye(4).to_sparse_csr(),
        lambda: torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8),
        lambda: torch.ones(3).to_mkldnn(),
    ],
    ids=["sparse", "csr", "quantized", "mkldnn"],
)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:.*quantized tensor creation functions")
def test_buffers_of_other_layouts_are_kept(make: Callable[[], Tensor]) -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("table", make())
    table = model.table
    assert zeta.init_(model, lambda m: nn.init.ones_(m.weight), seed=0).kept == ("bias", "table")
    assert model.table is table
    assert (model.weight == 1).all()


def test_running_statistics_of_a_trained_model_are_kept_by_a_function() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4))
    model(torch.randn(64, 8) * 5)
    before = {name: value.clone() for name, value in model[1].state_dict().items()}
    report = zeta.init_(model, lambda m: nn.init.zeros_(m[0].weight), seed=0)
    assert "1.running_mean" in report.kept
    assert all(torch.equal(value, before[name]) for name, value in model[1].state_dict().items())
    on_meta = nn.Sequential(nn.BatchNorm1d(4, device="meta"))
    plan = zeta.plan(on_meta, lambda m: m[0].reset_parameters())
    assert plan["0.running_var"].initializer == Ones()


def test_a_function_that_writes_nothing_is_noticed() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    with pytest.warns(zeta.ZetaNotice, match=r"wrote to nothing .* lambda model: model\.apply\(function\)") as caught:
        report = zeta.init_(model, usual, seed=0)
    assert caught[0].filename == __file__
    assert len(report.kept) == 4


def test_a_function_of_what_only_leaves_out_did_write() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error", zeta.ZetaNotice)
        report = zeta.init_(model, lambda m: nn.init.zeros_(m[1].weight), seed=0, only="0.*")
    assert report.kept == ("0.weight", "0.bias")


def exchange_data(m: Any) -> None:
    m[0].weight.data, m[1].weight.data = m[1].weight.data, m[0].weight.data


def exchange_modules(m: Any) -> None:
    m[0], m[1] = m[1], m[0]


def exchange_parameters(m: Any) -> None:
    m[0].weight, m[1].weight = m[1].weight, m[0].weight


MOVES: dict[str, Callable[[Any], Any]] = {
    "data of two": exchange_data,
    "data of another": lambda m: setattr(m[1].weight, "data", m[0].weight.data),
    "its own, turned": lambda m: setattr(m[1].weight, "data", m[1].weight.data.t()),
    "a new parameter of another's": lambda m: setattr(m[1], "weight", nn.Parameter(m[0].weight.data)),
    "set_": lambda m: m[1].weight.set_(m[0].weight),
    "turned in place": lambda m: m[1].weight.transpose_(0, 1),
    "tensors": lambda m: torch.utils.swap_tensors(m[0].weight, m[1].weight),
    "modules": exchange_modules,
    "parameters": exchange_parameters,
    "a tie": lambda m: setattr(m[1], "weight", m[0].weight),
}


@pytest.mark.parametrize("move", MOVES)
@pytest.mark.parametrize("writes", [True, False], ids=["writes too", "writes nothing"])
def test_a_function_that_moves_values_of_a_live_model_is_refused(move: str, writes: bool) -> None:
    """A plan writes values and moves none; to say that they were kept would be wrong."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    before, parameters = {key: value.clone() for key, value in model.state_dict().items()}, list(model.parameters())

    def function(m: Any) -> None:
        if writes:
            nn.init.zeros_(m[0].bias)
        with torch.no_grad():
            MOVES[move](m)

    with pytest.raises(zeta.ZetaError, match=r"[01]\.weight: has only what was there before"):
        zeta.init_(model, function, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(one is other for one, other in zip(model.parameters(), parameters, strict=True))


def test_a_buffer_that_looks_into_another_one_is_not_written_over_it() -> None:
    model: Any = nn.Module()
    model.register_buffer("whole", torch.zeros(4, 4))
    model.register_buffer("view", model.whole[1:3])

    def function(m: Any) -> None:
        m.view.data = torch.full((2, 4), 9.0)

    with pytest.raises(zeta.TargetError, match=r"view: shares the memory of whole"):
        zeta.init_(model, function, seed=0)
    assert not model.whole.any()


@pytest.mark.filterwarnings("ignore:.*is under spectral_norm")
def test_vectors_that_change_with_a_weight_are_not_reported_as_kept() -> None:
    model = nn.Sequential(torch.nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)))
    report = zeta.init_(model, Rules([Rule("*", Normal(0.1))]), 0)
    assert report.kept == ()


def test_a_function_that_reads_a_live_model_is_refused_with_a_real_fallback_too() -> None:
    def function(m: Any) -> None:
        if m.weight.std() > 0:
            nn.init.ones_(m.weight)

    for fallback in (None, "real"):
        with pytest.raises(RecordingError, match="depends on a tensor that has only what was there before"):
            zeta.init_(nn.Linear(4, 4), function, seed=0, fallback=fallback)


def test_a_fallback_gives_buffers_on_meta_their_values_and_must_give_some() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        model.register_buffer("table", torch.ones(3))
        model.token = nn.Parameter(torch.ones(2))

    def usual(m: nn.Module) -> None:
        nn.init.ones_(m[0].weight)

    rules = Rules([Rule("table", Constant(3.0), buffers=True), Rule("token", Ones()), Rule("*", Zeros())])
    plan = zeta.plan(model, usual, fallback=rules)
    assert (plan["table"].initializer, plan["1.running_var"].initializer) == (Constant(3.0), Ones())
    assert zeta.materialize_(model, plan, seed=0).ok
    assert model.table.tolist() == [3.0] * 3
    token = nn.Sequential(nn.Linear(4, 4, device="meta"))
    token.token = nn.Parameter(torch.ones(2, device="meta"))
    with pytest.raises(PlanError, match=r"no value that can be recorded.*\n  - token: "):
        zeta.plan(token, usual, fallback="torch")


def test_a_model_is_no_factory() -> None:
    with pytest.raises(zeta.LayerTypeError, match=r"the class of a model, or .*got a Linear, .*zeta\.init_ and"):
        zeta.record(nn.Linear(4, 4))  # type: ignore[arg-type]


def test_a_recipe_may_be_the_fallback() -> None:
    layer = nn.Linear(4, 4, device="meta")
    plan = zeta.plan(layer, lambda m: nn.init.zeros_(m.weight), fallback="torch")
    assert (plan["weight"].initializer, plan["bias"].initializer) == (Zeros(), Uniform(-0.5, 0.5))
    with pytest.raises(SpecError, match=r'fallback must be Rules\(\[...\]\), the name of a recipe or "real"'):
        zeta.record(nn.Linear, 2, 2, fallback="tocrh")


def test_a_function_that_reads_what_is_there_is_an_error_on_a_live_model_too() -> None:
    model = nn.Linear(4, 4)
    before = model.weight.clone()
    with pytest.raises(PlanError, match=r"weight: has only what was there before"):
        zeta.init_(model, lambda m: m.weight.data.mul_(0.5), seed=0)
    assert torch.equal(model.weight, before)


class Compares(nn.Module):
    """Finds tied tensors by their addresses, as many initializations do."""

    def __init__(self, address: Callable[[Tensor], int]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.c.weight = self.b.weight
        wide = torch.empty(8, 4)
        found = [address(t) for t in (*self.parameters(), wide, wide[0], wide[3], wide[3].detach(), torch.empty(0))]
        self.same = [found.index(one) for one in found]
        self.null = [one == 0 for one in found]
        self.steps = found[7] - found[5], self.c.weight.data_ptr() - self.b.weight.data_ptr()
        for one in {address(p): p for p in self.parameters()}.values():
            nn.init.constant_(one, 0.5)


@pytest.mark.parametrize(
    "address",
    [Tensor.data_ptr, lambda t: t.untyped_storage().data_ptr(), lambda t: t.storage().data_ptr()],
    ids=["tensor", "untyped storage", "storage"],
)
@pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")
def test_addresses_are_equal_where_memory_is(address: Callable[[Tensor], int]) -> None:
    model, plan = zeta.record(Compares, address)
    real = Compares(address)
    assert (model.same, model.null, model.steps) == (real.same, real.null, real.steps)
    assert all(entry.initializer == Constant(0.5) for entry in plan)
    assert "data_ptr" not in vars(torch.UntypedStorage)


class Looks(nn.Module):
    """Views of tensors that nothing else holds, as plain attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.arange(6.0).unsqueeze(0)
        self.tables = [torch.eye(3)[1:], {"turned": torch.ones(2, 3).t()}]
        self.weight = nn.Parameter(torch.zeros(2))


def test_views_in_attributes_are_computed() -> None:
    model, _, _ = recorded(Looks)
    real = Looks()
    assert torch.equal(model.table, real.table)
    assert torch.equal(model.tables[0], real.tables[0])
    assert torch.equal(model.tables[1]["turned"], real.tables[1]["turned"])


# -- what a constructor does wrong, and what it keeps beside a weight --------------------------------------------------


class Wrong(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bad = nn.Parameter(nn.init.trunc_normal_(torch.empty(4), std=-1.0))
        self.good = nn.Parameter(nn.init.trunc_normal_(torch.empty(4), std=0.5, a=0.0, b=float("inf")))
        self.free = nn.Parameter(nn.init.trunc_normal_(torch.empty(4), std=0.5, a=-float("inf"), b=float("inf")))


def test_what_no_law_can_be_is_said_of_the_parameter_alone() -> None:
    with pytest.raises(RecordingError, match=r"bad: was filled by trunc_normal_ with invalid arguments: .*got -1\.0"):
        zeta.record(Wrong)
    _, plan = zeta.record(Wrong, fallback=Rules([Rule("bad", Zeros())]))
    laws = [plan[name].initializer for name in ("bad", "good", "free")]
    assert laws == [Zeros(), TruncatedNormal(0.5, low=0.0), Normal(0.5)]


KEPT: dict[str, Callable[[], nn.Module]] = {
    "spectral norm": lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(8, 6)),
    "spectral norm of a convolution": lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(3, 6, 3)),
    "weight norm": lambda: nn.utils.parametrizations.weight_norm(nn.Linear(8, 6)),
    "orthogonal": lambda: nn.utils.parametrizations.orthogonal(nn.Linear(8, 6)),
}


@pytest.mark.filterwarnings("ignore:.* is under spectral_norm")
@pytest.mark.parametrize("name", KEPT)
def test_what_a_parametrization_keeps_is_written_and_verified_by_one_path(name: str) -> None:
    model, plan, report = recorded(KEPT[name])
    assert report.ok
    assert zeta.verify(model, plan, seed=0).ok
    assert zeta.verify(model, zeta.Plan.from_json(plan.to_json()), seed=0).ok
    zeta.apply_(model, plan, seed=1)
    assert zeta.verify(model, plan, seed=1).ok
    assert not zeta.verify(model, plan, seed=0).ok


class Clumsy(nn.Module):
    def __init__(self, fails: Callable[[Tensor], object]) -> None:
        super().__init__()
        x = torch.ones(6)
        try:
            fails(x)
        except RuntimeError:
            x.add_(1)
        self.register_buffer("x", x)


@pytest.mark.parametrize(
    "fails",
    [
        lambda x: x.add_(torch.ones(2, 6)),
        lambda x: x[:1].copy_(torch.ones(3, 1)),
        lambda x: x.copy_(torch.ones(5)),
        lambda x: x.mul_(torch.ones(2, 2)),
        lambda x: x.masked_fill_(torch.ones(4, dtype=torch.bool), 3.0),
        lambda x: torch.linalg.cholesky(-x.diag()),
        lambda x: torch.linalg.inv(x.expand(6, 6)),
        lambda x: torch.linalg.solve(x.expand(6, 6), x),
        lambda x: torch._assert_async(x.sum() > 7),
    ],
)
def test_what_raises_in_a_constructor_raises_when_it_is_recorded(fails: Callable[[Tensor], object]) -> None:
    model, _, _ = recorded(Clumsy, fails)
    assert torch.equal(model.x, Clumsy(fails).x)
    assert model.x.tolist() == [2.0] * 6


def test_more_is_added_to_the_diagonal_until_a_factorization_succeeds() -> None:
    """As of the covariance of a Gaussian process."""
    places = torch.linspace(0, 1, 24)

    def factor() -> Tensor:
        covariance = torch.exp(-((places[:, None] - places) ** 2) * 8)
        for jitter in (0.0, 1e-9, 1e-3):
            with contextlib.suppress(torch.linalg.LinAlgError):
                return torch.linalg.cholesky(covariance + jitter * torch.eye(24))
        raise AssertionError

    model, _, _ = recorded(_of(factor))
    assert torch.equal(model.made, factor())
    assert torch.allclose(model.made @ model.made.T, torch.exp(-((places[:, None] - places) ** 2) * 8), atol=2e-3)


def test_a_random_matrix_that_cannot_be_factorized_is_an_error() -> None:
    model, plan = zeta.record(_of(lambda: torch.linalg.cholesky(-torch.rand(3, 3).diag().diag())))
    with pytest.raises(zeta.PlanError, match=r"made: step \d+ \(linalg_cholesky_ex\).*is not positive-definite"):
        zeta.materialize_(model, plan, seed=0)


def _of(make: Callable[[], Tensor]) -> Callable[[], nn.Module]:
    """A constructor that registers what ``make`` gives as a buffer."""

    def build() -> nn.Module:
        module = nn.Module()
        module.register_buffer("made", make())
        return module

    return build


def _shifted_in_place() -> Tensor:
    x = torch.randint(9, (8,))
    x <<= 1
    return x


UNRECORDABLE: dict[str, tuple[Callable[[], Tensor], str]] = {
    "rrelu": (lambda: F.rrelu(torch.randn(9), training=True), r"rrelu_with_noise\S* made, a random operation that"),
    "rrelu in place": (
        lambda: F.rrelu(torch.randn(9), training=True, inplace=True),
        r"rrelu_with_noise_\S* wrote to, a random operation that",
    ),
    "batch norm": (
        lambda: torch._native_batch_norm_legit(
            torch.ones(2, 3), None, None, torch.zeros(3), torch.ones(3), True, 0.1, 1e-5
        )[0],
        r"_native_batch_norm_legit\S* made, which",
    ),
    "out": (lambda: torch.rand(9, out=torch.zeros(9)), r"rand\.out wrote to, a random operation that"),
}


@pytest.mark.parametrize("name", UNRECORDABLE)
def test_the_operation_that_cannot_be_recorded_is_named(name: str) -> None:
    make, message = UNRECORDABLE[name]
    with pytest.raises(RecordingError, match=rf"made: aten\.{message} is not recordable \(test_recording\.py:\d+ "):
        zeta.record(_of(make))


def test_code_that_reads_memory_itself_is_named() -> None:
    with pytest.raises(RecordingError, match=r"py:\d+ in .*: torch\._sobol_engine_initialize_state_ reads memory"):
        zeta.record(_of(lambda: torch.quasirandom.SobolEngine(3).draw(4)))


def test_shifts_in_place_are_recorded() -> None:
    model, _, _ = recorded(_of(_shifted_in_place))
    assert 0 < int(model.made.max()) <= 16
    assert not bool((model.made % 2).any())


def test_what_autograd_keeps_needs_no_values() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3))
            self.register_buffer("made", (self.weight * 2).exp().sin())

    model, _, _ = recorded(Computed)
    torch.testing.assert_close(model.made, (model.weight * 2).exp().sin())
    assert model.made.requires_grad


VIEWS: dict[str, Callable[[], Tensor]] = {
    "expanded": lambda: torch.zeros(2, 1).expand(2, 3),
    "windows": lambda: torch.zeros(6).unfold(0, 3, 1),
    "part of a memory": lambda: torch.zeros(2, 8)[:, 2:5:2].unsqueeze(1).expand(2, 3, 2),
}
WRITES: dict[str, Callable[[Tensor], object]] = {
    "added": lambda x: x.add_(1),
    "drawn": lambda x: x.normal_(),
    "drawn by a function": nn.init.trunc_normal_,
    "copied": lambda x: x.copy_(torch.rand(x.shape)),
    "indexed": lambda x: x.index_fill_(0, torch.tensor([0]), 1.0),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("view", VIEWS)
def test_writes_to_elements_that_share_memory_are_refused_with_their_line(view: str, write: str) -> None:
    def build() -> nn.Module:
        x = VIEWS[view]()
        WRITES[write](x)
        module = nn.Module()
        module.register_buffer("made", x.clone())
        return module

    with pytest.raises(RecordingError, match=r"made: was written to in elements that share memory.*_recording\.py:\d+"):
        zeta.record(build)
    _, plan = zeta.record(build, fallback=Rules([Rule("made", Zeros(), buffers=True)]))
    assert plan["made"].initializer == Zeros()


@pytest.mark.parametrize("fill", [lambda x: x.fill_(3), lambda x: x.zero_().add(1), lambda x: nn.init.constant_(x, 2)])
@pytest.mark.parametrize("view", VIEWS)
def test_one_number_may_fill_elements_that_share_memory(view: str, fill: Callable[[Tensor], Tensor]) -> None:
    model, _, _ = recorded(_of(lambda: fill(VIEWS[view]()).clone()))
    assert torch.equal(model.made, fill(VIEWS[view]()))


class Measured(nn.Module):
    """Finds its number of features by a pass in training mode."""

    def __init__(self, norm: nn.Module, *, evaluated: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten())
        self.body.train(not evaluated)
        with torch.no_grad():
            self.head = nn.Linear(self.body(torch.ones(2, 3, 8, 8)).shape[1], 2)


@pytest.mark.parametrize("norm", [lambda: nn.BatchNorm2d(4), lambda: nn.InstanceNorm2d(4, track_running_stats=True)])
def test_statistics_of_a_pass_inside_a_constructor_are_not_passed_over(norm: Callable[[], nn.Module]) -> None:
    with pytest.raises(RecordingError, match=r"(?s)running_mean: .*batch norm wrote to.*running_var"):
        zeta.record(lambda: Measured(norm()))
    model, _, _ = recorded(lambda: Measured(norm(), evaluated=True))
    assert model.body[1].running_mean.tolist() == [0.0] * 4


class Several(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        tensors = [torch.ones(3), torch.zeros(2, 2), torch.full((1,), 2.0)]
        torch._foreach_add_(tensors, 1.5)
        torch._foreach_mul_(tensors, [1.0, 2.0, 3.0])
        torch._foreach_copy_(tensors[:1], [torch.arange(3.0)])
        torch._foreach_addcmul_(tensors, tensors, [torch.ones_like(tensor) for tensor in tensors], 0.5)
        tensors += torch._foreach_pow(2.0, tensors) + torch._foreach_maximum(tensors, 2.0)
        for number, tensor in enumerate(torch._foreach_sqrt(tensors)):
            self.register_buffer(f"t{number}", tensor)


def test_operations_on_lists_are_recorded_one_by_one() -> None:
    model, _, _ = recorded(Several)
    real = Several()
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), real.buffers(), strict=True))


class Threaded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        thread = threading.Thread(target=lambda: setattr(self, "layer", nn.Linear(2, 2)))
        thread.start()
        thread.join()


def test_a_thread_in_a_constructor_is_said() -> None:
    with pytest.warns(zeta.ZetaNotice, match=r"started a thread \(test_recording.py:\d+ in Threaded.__init__\)"):
        zeta.record(Threaded)
    threading.Thread(target=lambda: None).start()


class Catching(nn.Module):
    """Does something else where what it tries fails, as it does in a recording alone."""

    def __init__(self, attempt: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        weight = torch.randn(4)
        try:
            weight = attempt(weight)
        except Exception:
            weight = torch.zeros(4)
        self.weight = nn.Parameter(weight)


@pytest.mark.parametrize(
    ("attempt", "match"),
    [
        (lambda x: x * 2 if x.mean() > 0 else x, "reads a value that depends on random values"),
        (lambda x: torch.from_numpy(x.numpy() * 2), "NumPy or another library would get memory"),
        (lambda x: torch.tensor(x.tolist()), "reads a value that depends on random values"),
        (lambda x: pickle.loads(pickle.dumps(x)), "pickle and torch.save need values"),
        (lambda x: x.to_sparse().to_dense(), "programs have no tensors of layout sparse_coo"),
    ],
)
def test_an_error_that_a_constructor_catches_is_said(attempt: Callable[[Tensor], Tensor], match: str) -> None:
    said = rf"caught an error that only a recording raises.*test_recording.py:\d+ in .*{match}"
    with pytest.warns(zeta.ZetaNotice, match=said):
        zeta.record(Catching, attempt)


def test_errors_of_a_real_run_are_no_matter_of_a_recording() -> None:
    def fails(x: Tensor) -> Tensor:
        return x.view(3, 5)

    model, plan = zeta.record(Catching, fails)  # a notice would be an error
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.weight, Catching(fails).weight)


# -- memory that NumPy shares ------------------------------------------------------------------------------------------


def _by_view() -> Tensor:
    x = torch.zeros(4)
    x.numpy()[1] = 5
    return x


def _by_array() -> Tensor:
    array = np.zeros(4, dtype=np.float32)
    x = torch.from_numpy(array)
    array[2] = 7
    return x


def _before_arithmetic() -> Tensor:
    x = torch.ones(4)
    array = x.numpy()
    array[:] = 3
    y = x * 2
    array[0] = 9
    return torch.stack([x, y])


def _by_buffer() -> Tensor:
    memory = bytearray(16)
    x = torch.frombuffer(memory, dtype=torch.float32)
    memory[3] = 64
    return x + 0


def _of_a_part() -> Tensor:
    x = torch.zeros(3, 4)
    x[1].numpy()[2] = 5
    return x


def _by_torch() -> Tensor:
    x = torch.zeros(4)
    array = x.numpy()
    x.fill_(3.0)
    return torch.tensor(array)


def _by_two_arrays() -> Tensor:
    x = torch.zeros(4)
    first, second = x.numpy(), x.numpy()
    first[0] = 5
    x.add_(0)
    return torch.tensor(second)


def _by_two_tensors() -> Tensor:
    array = np.zeros(4, dtype=np.float32)
    x, y = torch.from_numpy(array), torch.from_numpy(array)
    x.fill_(3.0)
    return y + 0


def _by_both() -> Tensor:
    x = torch.zeros(4)
    array = x.numpy()
    x.fill_(1.0)
    array[2] = 7
    x.mul_(2)
    array += 1
    return x


def _one_by_one() -> Tensor:
    x = torch.zeros(4)
    for number in range(4):
        x.numpy()[number] = number + 1
    return x


def _read_after_torch() -> Tensor:
    x = torch.zeros(2)
    array = x.numpy()
    x.add_(2)
    return torch.full((2,), float(array[0]))


def _listed() -> Tensor:
    x = torch.zeros(2)
    x.numpy()[:] = 7
    return torch.tensor(x.tolist())


def _array_after_torch() -> Tensor:
    array = np.zeros(2, dtype=np.float32)
    torch.from_numpy(array).add_(5)
    return torch.tensor(array * 2)


def _by_overlapping_views() -> Tensor:
    x = torch.zeros(3, 4)
    rows, turned, first = x[1:].numpy(), x.t().numpy(), np.asarray(x[1])
    rows[0] = 5
    turned[2] += 1
    x[1].mul_(2)
    turned[:, 0] = first
    return torch.stack([x, torch.from_numpy(turned.T.copy())])


def _as_tensors() -> Tensor:
    array = np.arange(4, dtype=np.float32)
    x, y = torch.as_tensor(array), torch.asarray(array)
    x[0] = 5
    y[1] = 6
    array[2] += 7
    return torch.cat([x, y, torch.as_tensor(x.numpy()) * 2])


def _by_other_dtype() -> Tensor:
    x = torch.zeros(4)
    x.view(torch.int32).numpy()[1] = 0x40400000
    return x


def _by_transposed_array() -> Tensor:
    array = np.zeros((3, 4), dtype=np.float32)
    x = torch.from_numpy(array.T[1:])
    x[0] = 3
    array[2, 3] = 8
    return torch.cat([x, torch.from_numpy(array[:, :3])])


def _by_dlpack() -> Tensor:
    x = torch.zeros(3)
    y, z = torch.from_dlpack(x), np.from_dlpack(x)
    y[0] = 4
    x.add_(1)
    return torch.cat([x, y, torch.tensor(z)])


def _by_array_of_memory_as_it_is() -> Tensor:
    x, y = torch.empty(3, 4), torch.empty(3, 4)
    x.numpy()[:] = np.arange(12, dtype=np.float32).reshape(3, 4)
    for number in range(4):
        y.numpy()[:, number] = number + 1
    return torch.cat([x, y])


def _by_storage() -> Tensor:
    x = torch.arange(4.0)
    x.storage()[2] = 9
    return torch.cat([torch.tensor(list(x.storage())), x])


SHARED = [
    *(_by_view, _by_array, _before_arithmetic, _by_buffer, _of_a_part, _by_torch, _by_two_arrays, _by_two_tensors),
    *(_by_both, _one_by_one, _read_after_torch, _listed, _array_after_torch, _by_overlapping_views, _as_tensors),
    *(_by_other_dtype, _by_transposed_array, _by_dlpack, _by_array_of_memory_as_it_is),
    pytest.param(_by_storage, marks=pytest.mark.filterwarnings("ignore:TypedStorage is deprecated")),
]


@pytest.mark.parametrize("make", SHARED)
def test_what_is_written_through_shared_memory_is_seen(make: Callable[[], Tensor]) -> None:
    def build() -> nn.Module:
        module = nn.Module()
        module.register_buffer("table", make())
        return module

    model, _, _ = recorded(build)
    assert torch.equal(model.table, make())
    assert bool(model.table.any())


@pytest.mark.parametrize("seed", range(24))
def test_arrays_and_tensors_at_random(seed: int) -> None:
    """Arrays and tensors that look into each other's memory, written to by either."""

    def build() -> nn.Module:
        chosen = random.Random(seed)
        array = np.arange(12, dtype=np.float32).reshape(3, 4)
        tensors, arrays = [torch.zeros(3, 4), torch.from_numpy(array)], [array]
        for _ in range(20):
            x, a = chosen.choice(tensors), chosen.choice(arrays)
            match chosen.randrange(11):
                case 0:
                    arrays.append(x.numpy())
                case 1:
                    arrays.append(np.asarray(x))
                case 2:
                    a[chosen.randrange(a.shape[0])] = chosen.randrange(9)
                case 3:
                    a += 1
                case 4:
                    a[...] = float(chosen.choice(arrays).sum())
                case 5:
                    x.mul_(2)
                case 6:
                    x[chosen.randrange(x.shape[0])] += 3
                case 7:
                    tensors.append(chosen.choice([x[1:] if x.shape[0] > 2 else x, x.t()]))
                case 8:
                    tensors.append(torch.from_numpy(a))
                case 9:
                    x.numpy()[0] = chosen.randrange(7)
                case 10:
                    tensors += copy.deepcopy([x, x[:1]])
        module = nn.Module()
        for number, tensor in enumerate([*(x.clone() for x in tensors), *map(torch.tensor, arrays)]):
            module.register_buffer(f"table{number}", tensor)
        return module

    model, _, _ = recorded(build)
    for name, real in build().named_buffers():
        assert torch.equal(model.get_buffer(name), real), name


def test_shared_memory_without_values_left_is_no_matter() -> None:
    """What nobody has any longer needs not keep what is drawn, and what is drawn is not what was there."""

    def build() -> nn.Module:
        module = nn.Module()
        x = torch.zeros(3, 4)
        x.numpy()[:] = 1
        module.weight = nn.Parameter(nn.init.orthogonal_(x))
        return module

    with warnings.catch_warnings():
        warnings.simplefilter("error", zeta.ZetaNotice)
        _, plan = zeta.record(build)
    assert plan["weight"].initializer == Orthogonal()


def test_random_values_for_an_array_are_refused_and_what_to_write_instead_is_recorded() -> None:
    def build(write: Callable[[Tensor], object]) -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(torch.randn(4))
        write(module.weight.data)
        return module

    def write_with_numpy(x: Tensor) -> None:
        x.numpy()[1] = 5

    with pytest.raises(RecordingError, match=r"_recording\.py:\d+ in .*depends on random.* write with torch"):
        zeta.record(build, write_with_numpy)
    model, _, _ = recorded(build, lambda x: x.__setitem__([1, 2], torch.as_tensor(np.float32([5, 6]))))
    assert model.weight[1:3].tolist() == [5, 6]
    frozen, plan = zeta.record(build, write_with_numpy, fallback="real")
    zeta.materialize_(frozen, plan)
    assert frozen.weight[1] == 5
    assert len(frozen.weight.unique()) == 4


def test_a_part_of_large_memory_is_shared_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "_LARGEST_WHOLE", 0)

    def build() -> nn.Module:
        module = nn.Module()
        x = torch.full((4, 4), 2.0)
        first, second = x[1].numpy(), x[1].numpy()
        first[0], second[1] = 5, first[0] + 1
        x[1] += 1
        module.register_buffer("table", torch.tensor(first))
        module.register_buffer("row", x[1].clone())
        return module

    model, _, _ = recorded(build)
    assert model.table.tolist() == model.row.tolist() == build().row.tolist() == [6.0, 4.0, 3.0, 3.0]


def test_shared_memory_cannot_have_random_values() -> None:
    def build() -> nn.Module:
        module = nn.Module()
        x = torch.zeros(4)
        module.array = x.numpy()
        module.weight = nn.Parameter(x.normal_())
        return module

    with pytest.warns(zeta.ZetaNotice, match="shares keeps what it had: it depends on random values"):
        _, plan = zeta.record(build)
    assert plan["weight"].initializer == Normal()


# -- what was made elsewhere ------------------------------------------------------------------------------------------

VALUES = {"weight": torch.arange(12.0).view(4, 3), "bias": torch.arange(4.0)}


def _with(values: dict[str, Tensor]) -> nn.Module:
    layer = nn.Linear(3, 4)
    layer.load_state_dict(values)
    return layer


def _pickled_layer(path: Path) -> nn.Module:
    return pickle.loads((path / "layer.pickle").read_bytes())


def _ties(path: Path) -> nn.Module:
    """Two tensors in one memory stay so."""
    whole, part = torch.load(path / "views.pt")
    whole.mul_(2)
    layer = nn.Linear(3, 4)
    layer.weight, layer.bias = nn.Parameter(whole), nn.Parameter(part + 1)
    return layer


def _sliced(path: Path) -> nn.Module:
    with safetensors.safe_open(path / "values.safetensors", "pt") as file:
        rows = torch.cat([file.get_slice("weight")[:1], file.get_slice("weight")[1:] * 1.0])
        return _with({"weight": rows, "bias": file.get_tensor("bias")})


LOADED: dict[str, Callable[[Path], nn.Module]] = {
    "torch.load": lambda path: _with(torch.load(path / "values.pt")),
    "torch.load with mmap": lambda path: _with(torch.load(path / "values.pt", mmap=True)),
    "torch.load of a layer": lambda path: torch.load(path / "layer.pt", weights_only=False),
    "torch.load of the old format": lambda path: _with(torch.load(path / "old.pt")),
    "pickle of a layer": _pickled_layer,
    "views of one memory": _ties,
    "safetensors": lambda path: _with(safetensors.torch.load_file(path / "values.safetensors")),
    "safetensors, in slices": _sliced,
    "torch.from_file": lambda path: _with({**VALUES, "bias": torch.from_file(str(path / "bias.raw"), size=4)}),
}


@pytest.mark.parametrize("name", LOADED)
def test_what_a_constructor_loads_is_data(name: str, tmp_path: Path) -> None:
    torch.save(VALUES, tmp_path / "values.pt")
    torch.save(VALUES, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.save([VALUES["weight"], VALUES["weight"].view(-1)[2:6]], tmp_path / "views.pt")
    torch.save(_with(VALUES), tmp_path / "layer.pt")
    (tmp_path / "layer.pickle").write_bytes(pickle.dumps(_with(VALUES)))
    (tmp_path / "bias.raw").write_bytes(VALUES["bias"].numpy().tobytes())
    safetensors.torch.save_file(VALUES, tmp_path / "values.safetensors")

    def build() -> nn.Module:
        module = nn.Module()
        module.loaded = LOADED[name](tmp_path)
        module.other = nn.Parameter(module.loaded.weight.detach() * 2)
        return module

    model, _, _ = recorded(build)
    for key, real in build().named_parameters():
        assert torch.equal(model.get_parameter(key), real), key


def _swapped() -> nn.Module:
    x, y = torch.arange(3.0), torch.zeros(5)
    torch.utils.swap_tensors(x, y)
    x[0] = 7
    module = nn.Module()
    module.x, module.y = nn.Parameter(x), nn.Parameter(y)
    return module


def test_parameters_around_tensors_from_elsewhere_get_known_values() -> None:
    outside = torch.arange(6.0)

    def build(values: Callable[[Tensor], Tensor]) -> nn.Module:
        module = nn.Module()
        module.weight = nn.Parameter(outside)
        module.weight.data = values(module.weight.data)
        return module

    for values in (lambda x: x + 1, lambda x: torch.ones(3) * 2, lambda x: torch.stack([x, torch.zeros(6)])):
        model, _, _ = recorded(build, values)
        assert torch.equal(model.weight, build(values).weight)
    assert not outside.is_meta
    with pytest.raises(RecordingError, match=r"test_recording.py:\d+ in .*from outside .*; make another parameter"):
        zeta.record(build, lambda x: torch.randn(6))


def test_tensors_are_swapped() -> None:
    model, _, _ = recorded(_swapped)
    real = _swapped()
    assert torch.equal(model.x, real.x)
    assert torch.equal(model.y, real.y)


REFUSED: dict[str, tuple[Callable[[nn.Linear], object], str]] = {
    "quantized": (
        lambda layer: torch.quantize_per_tensor(torch.arange(4.0), 0.1, 0, torch.quint8),
        "quantize the model",
    ),
    "shared between processes": (lambda layer: layer.share_memory(), "call it on the model"),
}


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
@pytest.mark.parametrize("name", REFUSED)
def test_what_needs_values_says_to_wait_for_them(name: str) -> None:
    does, advice = REFUSED[name]

    class Impatient(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            does(self.linear)

    with pytest.raises(RecordingError, match=rf"test_recording\.py:\d+ in .*{advice}.* after materialize_"):
        zeta.record(Impatient)


@pytest.mark.parametrize(
    "save", [pickle.dumps, lambda module: pickle.dumps(module.weight.data), lambda m: torch.save(m, io.BytesIO())]
)
def test_pickling_in_a_constructor_is_an_error_and_no_crash(save: Callable[[nn.Module], object]) -> None:
    class Pickles(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(2, 2)
            save(self.linear)

    with pytest.raises(zeta.RecordingError, match=r"test_recording\.py:\d+ in .*: pickle and torch.save need values"):
        zeta.record(Pickles)


def test_views_of_one_memory_are_views_of_one_deep_copy() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.arange(6.0)
            table.meaning = [table[1:3]]
            whole, part, turned = copy.deepcopy([table, table[:3], table.view(2, 3).t()])
            whole[:2].fill_(7.0)
            table.fill_(9.0)
            inner = nn.Module()
            inner.register_buffer("table", torch.arange(4.0))
            inner.view = inner.table[1:]
            self.inner = copy.deepcopy(inner)
            self.inner.table.mul_(10)
            for name, tensor in {
                "part": part,
                "turned": turned,
                "kept": whole.meaning[0],
                "view": self.inner.view,
            }.items():
                self.register_buffer(name, tensor.clone())
            apart = copy.deepcopy([nn.Parameter(table), nn.Parameter(table[:2])])  # of parameters torch copies each
            apart[0].data.zero_()
            self.apart = apart[1]

    model, _, _ = recorded(Copies)
    real = Copies()
    for name, tensor in {**dict(real.named_buffers()), "apart": real.apart}.items():
        assert torch.equal(model.get_buffer(name) if name != "apart" else model.apart, tensor), name


def test_copies_of_both_depths_are_recorded() -> None:
    class Copies(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(2, 2, bias=False)
            self.deep = copy.deepcopy(self.one)
            self.register_buffer("flat", copy.copy(self.one.weight.detach()) * 2)

    model, plan = zeta.record(Copies)
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.one.weight, model.deep.weight)
    assert torch.equal(model.one.weight * 2, model.flat)


# -- what was there before the recording -------------------------------------------------------------------------------


def _given_module(cached: list[Any]) -> tuple[Callable[[], nn.Module], nn.Module]:
    backbone = nn.Linear(4, 3)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = backbone
            self.head = nn.Linear(3, 2)
            self.cached = cached

    return Holder, backbone


@pytest.mark.parametrize("fallback", [None, "real", Rules([Rule("*", Zeros(), optional=True)])], ids=str)
@pytest.mark.parametrize("cached", [[], [1]])
def test_a_module_that_the_constructor_was_given_keeps_its_values(cached: list[Any], fallback: Any) -> None:
    factory, backbone = _given_module(cached)
    weight, values = backbone.weight, backbone.weight.detach().clone()
    with pytest.raises(RecordingError, match=r"were there before(.|\n)*- backbone\.weight \(3, 4\)"):
        zeta.record(factory, fallback=fallback)
    assert backbone.weight is weight
    assert torch.equal(backbone.weight, values)


def _shared_dictionary(module: nn.Module) -> nn.Module:
    other = nn.Module()
    other.__dict__ = module.__dict__
    return other


def _set_again(module: nn.Module) -> nn.Module:
    module.__setstate__(module.__dict__)
    return module


@pytest.mark.parametrize("disguise", [_shared_dictionary, _set_again])
def test_a_given_module_does_not_count_as_made_because_of_its_dictionary(disguise: Callable[[Any], nn.Module]) -> None:
    backbone = nn.Linear(4, 3)
    with pytest.raises(RecordingError, match=r"were there before(.|\n)*- 0\.weight \(3, 4\)"):
        zeta.record(lambda: nn.Sequential(disguise(backbone)))
    assert not backbone.weight.is_meta


def test_a_shallow_copy_of_a_given_module_is_data() -> None:
    backbone = nn.Linear(4, 3)
    model, plan = zeta.record(
        lambda: nn.Sequential(copy.copy(backbone), disguised := _shared_dictionary(nn.Linear(2, 2)), disguised)
    )
    zeta.materialize_(model, plan, 1)
    assert torch.equal(model[0].weight, backbone.weight)
    assert model[0].weight is not backbone.weight


def test_a_copy_of_a_given_module_is_data() -> None:
    backbone = nn.Linear(4, 3)
    model, plan = zeta.record(lambda: nn.Sequential(copy.deepcopy(backbone), nn.Linear(3, 2)))
    zeta.materialize_(model, plan, 1)
    assert torch.equal(model[0].weight, backbone.weight)


def test_a_constant_from_outside_stays_real() -> None:
    constant = torch.arange(5.0)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("a", constant)
            self.register_buffer("b", constant)

    for _ in range(2):
        model, plan = zeta.record(Holder)
        assert torch.equal(constant, torch.arange(5.0))
        zeta.materialize_(model, plan, seed=0)
        assert model.a is model.b is not constant
        assert torch.equal(model.a, constant)


def test_views_in_a_cache_have_their_values() -> None:
    made: list[Tensor] = []

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            table = torch.arange(6.0)
            made[:] = [table[1:4], table[2:]]
            self.register_buffer("table", made[0] * 2)

    zeta.record(Holder)
    assert made[0].tolist() == [1, 2, 3]
    made[1][0] = 9
    assert made[0].tolist() == [1, 9, 3], "they share their memory"


def test_a_view_of_a_parameter_in_a_closure_is_refused() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2)
            turned = self.layer.weight.t()
            self.apply_turned = lambda x: x @ turned

    with pytest.raises(RecordingError, match=r"a view \(4, 2\), made at test_recording\.py:\d+ in .*Holder\.__init__"):
        zeta.record(Holder)


class Replacing(nn.Module):
    """Replaces tensors where it initializes, as much code does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.register_buffer("rates", torch.arange(3.0))
        self.plain = torch.zeros(3)
        self.scale = 2.0

    def init_weights(self) -> None:
        self.layer.weight = nn.Parameter(torch.randn(2, 2) * 0.02)
        nn.init.ones_(self.layer.bias)
        self.rates = 1 / (10000 ** (torch.arange(3.0) / 3))
        self.scale = 3.0


def test_a_function_that_replaces_tensors_changes_nothing_of_the_model() -> None:
    model = Replacing()
    weight, rates, values = model.layer.weight, model.rates, copy.deepcopy(model.state_dict())
    attributes = set(vars(model))
    plan = zeta.plan(model, Replacing.init_weights)
    assert model.layer.weight is weight
    assert model.rates is rates
    assert all(torch.equal(tensor, values[name]) for name, tensor in model.state_dict().items())
    assert (model.scale, set(vars(model))) == (2.0, attributes)
    assert plan["layer.weight"].initializer == Normal(0.02)
    zeta.init_(model, Replacing.init_weights, seed=0)
    expected = Replacing()
    expected.init_weights()
    assert torch.equal(model.rates, expected.rates)


def test_a_function_must_not_write_to_plain_tensors() -> None:
    model = Replacing()

    def initialize(model: Any) -> None:
        model.init_weights()
        model.plain.fill_(9)

    with pytest.raises(RecordingError, match=r"neither parameters nor buffers(.|\n)*- plain \(3,\)"):
        zeta.plan(model, initialize)
    assert model.plain.tolist() == [0, 0, 0]
    assert model.rates.tolist() == [0, 1, 2]


class Listed(nn.Module):
    """Keeps its parameter in a list too, through which it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3))
        self.all = [self.w]
        self.part = self.w.detach()[1:]


def test_a_copied_module_keeps_what_points_to_its_parameters() -> None:
    backbone = Listed()
    model, plan = zeta.record(lambda: nn.Sequential(copy.deepcopy(backbone), nn.Linear(3, 1)))
    zeta.materialize_(model, plan, seed=0)
    copied: Any = model[0]
    assert copied.all[0] is copied.w
    assert torch.equal(copied.w, backbone.w)
    assert torch.equal(copied.part, copy.deepcopy(backbone).part)


def test_a_tensor_from_outside_that_is_kept_twice_is_refused() -> None:
    outside = torch.ones(4)

    class Attribute(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(outside)
            self.all = [self.w]

    class Overlapping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("whole", outside)
            self.register_buffer("part", outside[2:])

    for factory, message in ((Attribute, r"all\[0\] \(4,\) shares"), (Overlapping, r"\(2,\) and \(4,\) share")):
        with pytest.raises(RecordingError, match=message):
            zeta.record(factory)
    assert outside.tolist() == [1, 1, 1, 1]


@pytest.mark.filterwarnings("ignore::zeta.ZetaNotice")
def test_a_module_made_while_another_thread_recorded_is_given_all_the_same() -> None:
    inside, leave = threading.Event(), threading.Event()

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            inside.set()
            leave.wait()

    class Hashed(nn.Module):
        def __hash__(self) -> int:
            return hash(self.later)

        def __init__(self) -> None:
            super().__init__()
            self.later = 3

    thread = threading.Thread(target=lambda: zeta.record(Slow))
    thread.start()
    inside.wait()
    backbone = nn.Linear(2, 2)
    Hashed()  # nobody hashes it before it is whole
    leave.set()
    thread.join()

    def build() -> nn.Module:
        other = threading.Thread(target=int)
        other.start()
        other.join()
        return nn.Sequential(backbone)

    with pytest.raises(RecordingError, match="were there before"):
        zeta.record(build)
    assert not backbone.weight.is_meta


def test_lists_sets_and_classes_are_restored() -> None:
    recurrent = nn.LSTM(3, 2)

    def replace(model: Any) -> None:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        model.weight_ih_l0 = nn.Parameter(torch.randn(8, 3))

    zeta.init_(recurrent, replace, seed=0)
    assert all(a is b for a, b in zip(recurrent._flat_weights, recurrent.parameters(), strict=True))
    model = Replacing()

    def forget(model: Any) -> None:
        model.init_weights()
        model.register_buffer("rates", torch.ones(3), persistent=False)

    zeta.plan(model, forget)
    assert "rates" in model.state_dict()
    normed: Any = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    weight = normed.weight.detach().clone()

    def remove(model: Any) -> None:
        nn.utils.parametrize.remove_parametrizations(model, "weight")
        model.reset_parameters()

    zeta.plan(normed, remove)
    assert torch.equal(normed.weight, weight)


class Nested(nn.Module):
    """Containers at any depth, one in itself, and one of a type that wants another argument."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("rates", torch.zeros(2))
        self.inner: Any = [torch.zeros(2), self.weight.data[1:]]
        self.outer: Any = self.inner
        for _ in range(depth):
            self.outer = {"part": ([self.outer],)}
        self.inner.append(self.outer)
        self.found = collections.defaultdict(list, a=[[1]])


@pytest.mark.parametrize("depth", [1, 2, 5, 2000])
def test_containers_come_back_at_any_depth(depth: int) -> None:
    model = Nested(depth)
    tensor, part = model.inner[:2]

    def replace(model: Any) -> None:
        nn.init.ones_(model.weight)
        model.inner[0] = torch.randn(4)
        model.inner.pop()
        model.outer["other"] = torch.randn(4)
        model.found["b"].append(2)
        model.found["a"][0].append(3)

    zeta.plan(model, replace)
    assert model.inner[0] is tensor
    assert model.inner[1] is part
    assert model.inner[2] is model.outer
    assert list(model.outer) == ["part"]
    assert dict(model.found) == {"a": [[1]]}

    def write(model: Any) -> None:
        nn.init.ones_(model.weight)
        model.inner[0].fill_(9)

    with pytest.raises(RecordingError, match=r"neither parameters nor buffers(.|\n)*\[0\] \(2,\)"):
        zeta.plan(model, write)
    assert model.inner[0].tolist() == [0, 0]


@pytest.mark.parametrize("depth", [1, 5, 2000])
def test_views_in_containers_get_memory_at_any_depth(depth: int) -> None:
    def build() -> nn.Module:
        module = Nested(depth)
        del module.inner
        return module

    model, plan = zeta.record(build)
    zeta.materialize_(model, plan)
    model.weight.data.fill_(3)
    found = model.outer
    for _ in range(depth):
        found = found["part"][0][0]
    assert found[1].tolist() == [3, 3]


def test_plain_tensors_come_back_whatever_the_function_does() -> None:
    model = Replacing()

    def fail(model: Any) -> None:
        model.plain.data.fill_(9)
        raise KeyError

    with pytest.raises(KeyError):
        zeta.plan(model, fail)
    assert model.plain.tolist() == [0, 0, 0]

    def through_numpy(model: Any) -> None:
        model.init_weights()
        model.plain.numpy()[:] = 7

    with pytest.raises(RecordingError, match=r"- plain \(3,\)"):
        zeta.plan(model, through_numpy)
    assert model.plain.tolist() == [0, 0, 0]


@pytest.mark.parametrize("norm", ["weight_norm", "orthogonal", "spectral_norm"])
def test_a_copy_of_a_parametrized_module_is_recorded(norm: str) -> None:
    backbone = getattr(nn.utils.parametrizations, norm)(nn.Linear(3, 3)).eval()
    model, plan = zeta.record(lambda: nn.Sequential(copy.deepcopy(backbone), nn.Linear(3, 1)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zeta.ZetaNotice)
        assert zeta.materialize_(model, plan, 1).ok
        assert zeta.verify(model, plan, 1).ok
    torch.testing.assert_close(model.eval()[0].weight, backbone.weight)
    assert not any(tensor.is_meta for tensor in backbone.state_dict().values())


# -- axes of what was drawn in parts -----------------------------------------------------------------------------------


class Stacked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers = [utils.init_kaiming_normal_(nn.Linear(6, 8)) for _ in range(3)]
        self.stack = nn.Parameter(torch.stack([layer.weight.detach() for layer in layers]))
        self.rows = nn.Parameter(torch.empty(3, 8, 6))
        for row in self.rows:
            zeta.fill_(row, Normal(0.5))
        self.flat = nn.Parameter(torch.empty(3, 8, 6))
        zeta.fill_(self.flat.flatten(1), Normal(0.5))
        self.turned = nn.Parameter(torch.empty(6, 8))
        zeta.fill_(self.turned.t(), xavier_uniform())
        self.column = nn.Parameter(utils.init_zero_(nn.Linear(6, 8)).weight.detach()[None])


def test_the_axes_of_a_part_are_not_those_of_the_whole(tmp_path: Path) -> None:
    model, plan = zeta.record(Stacked)
    for name in ("stack", "rows", "flat", "column"):
        assert plan[name].axes is None, name
    assert plan["turned"].fans == zeta.Fans(fan_in=8, fan_out=6), "of the parameter, not of the view"
    assert plan["stack"].std == pytest.approx(math.sqrt(2 / 6), rel=1e-6)
    assert zeta.Plan.from_json(plan.to_json()) == plan
    assert "stack" in plan.text()
    assert zeta.save(model, plan, tmp_path / "out", 0).ok
    assert zeta.verify(tmp_path / "out").ok
    assert zeta.materialize_(model, plan, 0).ok
    assert zeta.verify(model, plan, 0).ok
