"""Every backend gives the bits of the reference, for any region, dtype and memory; none is used silently."""

from __future__ import annotations

import ctypes
import functools
import math
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

import zeta
from tests.helpers.kernel_tasks import FLOATS, LAWS, assert_same, bits, tasks
from zeta import Rule, Rules
from zeta.compute.stream import kernels
from zeta.compute.stream.kernels import Law, Task, answers, native, reference
from zeta.compute.stream.random import interval
from zeta.compute.stream.regions import Region
from zeta.errors import SpecError, ZetaNotice
from zeta.initializers import Normal, Uniform

ISAS = [name for name in kernels.candidates("cpu") if name != "reference"]
KEY = 0x299F31D0A4093822


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each instruction set that this processor can run."""
    monkeypatch.setenv(kernels.VARIABLE, request.param)
    return str(request.param)


@pytest.fixture
def fresh() -> Iterator[None]:
    """Decide again which backend is used, before and after."""
    caches = kernels._choice, kernels.proved, kernels._load, kernels._warn
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.mark.parametrize("wrong", ["nothing", "one value", "beside"])
def test_of_the_test_that_it_sees_what_is_wrong(wrong: str) -> None:
    memory = torch.zeros(40)

    def fill(tasks: list[Task]) -> None:
        if wrong != "nothing":
            reference.fill(tasks)
            memory[12 if wrong == "one value" else 30] += 1e-7

    region = Region(shape=(2**40,), offsets=(7,), sizes=(20,))
    task = Task(law=LAWS["normal"](torch.float32), keys=(KEY,), draw=0, region=region, outs=(memory[5:25],))
    assert_same(task, reference.fill)
    memory.zero_()
    with pytest.raises(AssertionError):
        assert_same(task, fill)


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_a_run_has_the_bits_of_the_reference(isa: str, name: str, dtype: torch.dtype) -> None:
    chosen = LAWS[name](dtype)
    out = torch.zeros(3000, dtype=chosen.dtype)
    region = Region(shape=(2**40,), offsets=(2**34 - 777,), sizes=(3000,))
    assert_same(Task(law=chosen, keys=(KEY,), draw=2**40 + 5, region=region, outs=(out,)), kernels.backend().fill)


@pytest.mark.sanitize
@pytest.mark.parametrize("skipped", [0, 3, 64], ids=lambda count: f"{count} elements in")
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", ["words", "uniform, held", "normal", "lopsided", "subnormal"])
def test_what_passes_the_caches_has_the_same_bits(
    isa: str, name: str, dtype: torch.dtype, skipped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = kernels._library()
    assert library is not None
    assert library.stream_from >= 2**25
    monkeypatch.setattr(library, "stream_from", 0)
    chosen = LAWS[name](dtype)
    memory = torch.zeros(2, 3000, dtype=chosen.dtype)
    region = Region(shape=(2**24, 2**16), offsets=(2**20, 512 - skipped), sizes=(2, 2700))
    fill = kernels.backend().fill
    assert_same(Task(law=chosen, keys=(KEY,), draw=1, region=region, outs=(memory[:, 64:2764],)), fill)
    assert_same(Task(law=chosen, keys=(KEY,), draw=1, region=Region.whole((6000,)), outs=(memory.view(-1),)), fill)


@pytest.mark.sanitize
@pytest.mark.parametrize("isa", ISAS)
@settings(max_examples=150)
@given(task=tasks())
def test_any_region_in_any_memory(isa: str, task: Task) -> None:
    assert_same(task, kernels.proved(isa).fill)


def normals(sizes: Sequence[int]) -> list[Task]:
    """A task for a tensor of each size."""
    return [
        Task(law=LAWS["normal"](torch.float32), keys=(i,), draw=0, region=Region.whole((n,)), outs=(torch.zeros(n),))
        for i, n in enumerate(sizes)
    ]


SIZES = (700_001, 1, 0, 17, 300_000)


@functools.cache
def expected_normals() -> list[Tensor]:
    tasks = normals(SIZES)
    reference.fill(tasks)
    return [task.outs[0] for task in tasks]


@pytest.mark.sanitize
@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_any_number_of_threads(isa: str, threads: int) -> None:
    fills = normals(SIZES)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        kernels.fill(fills)
    finally:
        torch.set_num_threads(before)
    for task, expected in zip(fills, expected_normals(), strict=True):
        assert torch.equal(task.outs[0], expected)


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_unaligned_memory(isa: str, dtype: torch.dtype) -> None:
    memory = bytearray(4096)
    out = torch.frombuffer(memory, dtype=dtype, offset=1, count=400)
    assert out.data_ptr() % dtype.itemsize
    assert_same(Task(law=LAWS["normal"](dtype), keys=(1,), draw=0, region=Region.whole((400,)), outs=(out,)),
                kernels.backend().fill)  # fmt: skip
    strided = out.view(20, 20).t()
    assert_same(Task(law=LAWS["normal"](dtype), keys=(1,), draw=0, region=Region.whole((20, 20)), outs=(strided,)),
                kernels.backend().fill)  # fmt: skip


@pytest.mark.sanitize
def test_the_last_elements_of_the_largest_tensor(isa: str) -> None:
    """The index of the last element of 2^62 by 2 is 2^63 - 1."""
    region = Region(shape=(2**62, 2), offsets=(2**62 - 100, 0), sizes=(100, 2))
    assert_same(Task(law=LAWS["normal"](torch.float32), keys=(3,), draw=0, region=region, outs=(torch.zeros(100, 2),)),
                kernels.backend().fill)  # fmt: skip


def test_flushing_subnormals_changes_nothing(isa: str) -> None:
    """A caller's floating-point mode is neither used nor changed."""
    task = Task(
        law=LAWS["subnormal"](torch.float32), keys=(1,), draw=0, region=Region.whole((999,)), outs=(torch.zeros(999),)
    )
    kernels.backend().fill([task])
    expected = task.outs[0].clone()
    assert (expected != 0).any()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        kernels.backend().fill([task])
        assert float(torch.tensor(1e-40) * 1.0) == 0.0, "the mode is still the caller's"
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(bits(task.outs[0]), bits(expected))


# -- dtypes and memory that no backend writes to -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=str)
def test_other_dtypes_are_the_fp32_values_rounded(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "STAGE", 1000)
    out, wide = torch.zeros(3, 1234, dtype=dtype), torch.zeros(3, 1234)
    for into in (out, wide):
        within = interval(-2.0, 2.0)
        cut = Law(kind="normal", dtype=into.dtype, scale=0.5, low=-0.25, high=0.25, within=within)
        kernels.fill([Task(law=cut, keys=(1,), draw=0, region=Region.whole((3, 1234)), outs=(into,))])
    assert torch.equal(bits(out), bits(wide.to(dtype)))


# -- measuring ---------------------------------------------------------------------------------------------------------


@pytest.mark.sanitize
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("memory", ["run", "transposed", "gaps", "one", "none", "subnormal"])
def test_sums_and_extremes(isa: str, dtype: torch.dtype, memory: str) -> None:
    values = torch.linspace(-3, 5, 3 * 1001, dtype=torch.float64).to(dtype).view(3, 1001)
    values = {
        "run": values,
        "transposed": values.t(),
        "gaps": values[:, ::3],
        "one": values[1, 5],
        "none": values[:0],
        "subnormal": values * torch.finfo(dtype).smallest_normal * 0.1,
    }[memory]
    (moments,) = kernels.proved(isa).measure([values], [0.5])
    wide = values.double()
    deviations = wide - 0.5
    assert moments[:2] == pytest.approx((float(deviations.sum()), float(deviations.square().sum())), rel=1e-12)
    extremes = (float(wide.min()), float(wide.max())) if wide.numel() else (math.inf, -math.inf)
    assert moments[2:] == extremes


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_shows_in_the_sums(isa: str, value: float) -> None:
    values = torch.zeros(1000)
    values[123] = value
    ((total, squares, *_),) = kernels.proved(isa).measure([values], [0.0])
    assert not math.isfinite(total)
    assert not math.isfinite(squares)


def test_sums_do_not_depend_on_the_number_of_threads(isa: str) -> None:
    values = torch.zeros(1_000_000)
    zeta.init_(nn.ParameterDict({"w": nn.Parameter(values)}), Rules([Rule("*", Normal())]), seed=0)
    found = set()
    before = torch.get_num_threads()
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        found.add(kernels.proved(isa).measure([values], [0.0])[0])
    torch.set_num_threads(before)
    assert len(found) == 1


# -- which backend is used ---------------------------------------------------------------------------------------------


def test_the_answers_are_those_of_the_reference() -> None:
    found = {name: answers.digest(reference.fill, law) for name, law in answers.laws().items()}
    assert found == answers.ANSWERS


def test_the_best_of_this_processor_is_used(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    assert ISAS, "the tests need the compiled library"
    assert kernels.backend().name == f"native {ISAS[0]}"
    assert ISAS[-1] == "portable"


def test_a_forced_backend_is_used(isa: str, fresh: None) -> None:
    assert kernels.backend().name == f"native {isa}"
    assert zeta.init_(nn.Linear(2, 2), Rules([Rule("*", Normal())]), seed=0).backend == f"native {isa}"


def test_the_reference_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(kernels.VARIABLE, "reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.backend().name == "reference"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sse9", r"must be one of avx512_bf16, avx512, avx2.*got 'sse9'"),
        ("neon", "ZETA_KERNEL=neon cannot be used: this processor"),
    ],
)
def test_a_backend_that_is_not_there(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in ISAS:
        pytest.skip("this processor has it")
    monkeypatch.setenv(kernels.VARIABLE, name)
    with pytest.raises(SpecError, match=message):
        kernels.backend()


def test_without_the_library_the_reference_takes_over_and_says_so(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setenv(native.LIBRARY_VARIABLE, "/nowhere/libzeta_native.so")
    with pytest.warns(ZetaNotice, match=r"computes with the reference backend.*native: /nowhere/libzeta_native\.so"):
        report = zeta.init_(nn.Linear(2, 2), Rules([Rule("*", Normal())]), seed=0)
    assert report.backend == "reference"
    assert "reference" in report.summary
    (problem,) = report.backend_problems
    assert problem.startswith("native: /nowhere/libzeta_native.so: ")
    assert problem in str(report)
    with warnings.catch_warnings():  # once
        warnings.simplefilter("error")
        kernels.backend()


def test_an_installation_without_kernels_says_how_to_have_them(
    monkeypatch: pytest.MonkeyPatch, fresh: None, tmp_path: Path
) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.delenv(native.LIBRARY_VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "__path__", [str(tmp_path)])
    with pytest.warns(ZetaNotice, match=r"installed without its compiled kernels.*with a C\+\+ compiler"):
        assert kernels.backend().name == "reference"


def test_without_triton_a_gpu_computes_with_the_reference(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.delattr(kernels, "triton", raising=False)
    monkeypatch.delitem(sys.modules, "zeta.compute.stream.kernels.triton", raising=False)
    monkeypatch.setitem(sys.modules, "triton", None)
    chosen, problems = kernels.choice("cuda")
    assert (chosen.name, problems) == (
        "reference",
        (
            "triton: cannot be imported (import of triton halted; None in sys.modules); "
            f"install the triton that torch {torch.__version__} needs",
        ),
    )


def test_why_a_kernel_does_not_compile_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    """Compilers report the place, and raise from what was wrong there."""

    def fill(tasks: object) -> None:
        try:
            raise AttributeError("no attribute\n  'type'")
        except AttributeError as error:
            raise ArithmeticError("at 2:11:\n  source\n  of many lines") from error

    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setattr(kernels, "_triton", lambda: kernels.Backend(name="triton", fill=fill))
    monkeypatch.setattr(kernels, "wrong_answers", lambda fill, dtypes, device: fill([]))
    assert kernels.choice("cuda") == (
        kernels.REFERENCE,
        ("triton: fails: ArithmeticError: AttributeError: no attribute 'type'",),
    )


def test_another_library_is_refused(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setattr(native, "_ABI", 99)
    with pytest.warns(ZetaNotice, match="of another version of zeta; install zeta again"):
        assert kernels.backend().name == "reference"


def test_a_backend_with_a_wrong_answer_is_left_out(monkeypatch: pytest.MonkeyPatch, fresh: None) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    original = native.Library.fill

    def spoilt(self: native.Library, isa: str, tasks: list[Task]) -> None:
        original(self, isa, tasks)
        if isa == ISAS[0] and tasks[0].law.dtype is torch.bfloat16:
            tasks[0].outs[0][-1] += 1

    monkeypatch.setattr(native.Library, "fill", spoilt)
    with pytest.warns(ZetaNotice, match=rf"{ISAS[0]}: gives wrong values for .*normal bfloat16"):
        assert kernels.backend().name == f"native {ISAS[1]}"


def test_the_interpreter_is_free_while_kernels_run() -> None:
    """One call fills half a second's worth of values; another thread of Python counts meanwhile."""
    code = """
import threading, torch
from zeta.compute.stream.kernels import Law, Task, fill
from zeta.compute.stream.random import interval
from zeta.compute.stream.regions import Region
law = Law(kind="normal", dtype=torch.float64, within=interval(bits=53))
out, running, counted = torch.empty(2**24, dtype=torch.float64), True, 0
task = Task(law=law, keys=(0,), draw=0, region=Region.whole((2**24,)), outs=(out,))
fill([task])
started = threading.Event()
def count():
    global counted
    started.set()
    while running:
        counted += 1
thread = threading.Thread(target=count)
torch.set_num_threads(1)
thread.start(); started.wait()
before = counted
from zeta.compute.stream import kernels
kernels.backend().fill([task])
after = counted
running = False
thread.join()
print(after - before)
"""
    counted = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert counted > 10_000


# -- through the public verbs ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", [*ISAS, "reference"])
def test_every_backend_initializes_a_model_alike(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3).to(memory_format=torch.channels_last), nn.Linear(70, 30).bfloat16())

    rules = Rules([Rule("*.weight", Normal(0.02)), Rule("*.bias", Uniform(-1, 1))])
    monkeypatch.setenv(kernels.VARIABLE, "portable")
    expected = model()
    zeta.init_(expected, rules, seed=5)
    monkeypatch.setenv(kernels.VARIABLE, backend)
    found = model()
    zeta.init_(found, rules, seed=5)
    for one, two in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(bits(one.detach()), bits(two.detach()))


def test_another_library_under_the_same_name_is_said(fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(kernels.VARIABLE, raising=False)
    monkeypatch.setenv(native.LIBRARY_VARIABLE, torch._C.__file__)
    with pytest.warns(ZetaNotice, match="is not the native library of zeta .*undefined symbol.*install zeta again"):
        assert kernels.backend().name == "reference"


def test_a_backend_that_measures_wrongly_is_not_used(isa: str, fresh: None, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = kernels.proved(isa).measure
    assert measure is not None
    assert answers.wrong_sums(measure) == []

    def off(tensors: Any, centres: Any) -> Any:
        return [(total, squares * 1.001, low, high) for total, squares, low, high in measure(tensors, centres)]

    assert answers.wrong_sums(off) == ["sums of float32", "sums of bfloat16", "sums of float16", "sums of float64"]
    monkeypatch.setattr(native.Library, "measure", lambda library, isa, tensors, centres: off(tensors, centres))
    kernels.proved.cache_clear()
    with pytest.raises(SpecError, match="gives wrong values for sums of float32"):
        kernels.backend()


def test_a_forked_process_does_not_wait_for_threads_that_it_does_not_have() -> None:
    code = """
import os, signal, torch, warnings
warnings.simplefilter("ignore")
torch.set_num_threads(2)
from zeta.utils import init_normal_
layer = torch.nn.Linear(1024, 1024)
init_normal_(layer, seed=0)
expected = layer.weight.clone()
child = os.fork()
if not child:
    signal.alarm(30)
    init_normal_(layer, seed=0)
    os._exit(0 if bool((layer.weight.numpy(force=True) == expected.numpy(force=True)).all()) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.fixture
def teams_of_three(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many threads the kernels ask OpenMP for, each time, where torch has three."""
    calls: list[int] = []

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def team(work: int, data: int, threads: int, flags: int) -> None:
        calls.append(threads)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(work)(data)

    monkeypatch.setattr(native, "_team", lambda forked: ctypes.cast(team, ctypes.c_void_p))
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield calls
    torch.set_num_threads(before)


def test_large_fills_run_on_the_threads_of_torch(isa: str, teams_of_three: list[int]) -> None:
    fill = kernels.backend().fill
    for size, expected in ((1000, []), (700_001, [3])):
        out, whole = torch.zeros(size), Region.whole((size,))
        assert_same(Task(law=LAWS["normal"](torch.float32), keys=(KEY,), draw=0, region=whole, outs=(out,)), fill)
        assert teams_of_three == expected


def test_a_thread_that_says_so_computes_alone(isa: str, teams_of_three: list[int]) -> None:
    out, whole = torch.zeros(700_001), Region.whole((700_001,))
    task = Task(law=LAWS["normal"](torch.float32), keys=(KEY,), draw=0, region=whole, outs=(out,))
    with ThreadPoolExecutor(1, initializer=native.stay_on_this_thread) as pool:
        pool.submit(assert_same, task, kernels.backend().fill).result()
        assert teams_of_three == []
    kernels.fill([task])
    assert teams_of_three == [3], "only that thread"


@pytest.mark.skipif(sys.platform != "linux", reason="the OpenMP runtime of other systems has no GOMP_parallel")
def test_the_threads_of_torch_are_found() -> None:
    assert native._team(False)


@pytest.mark.parametrize("context", ['torch.device("meta")', "FakeTensorMode()"])
def test_a_backend_is_proved_outside_of_the_mode_of_its_first_use(context: str) -> None:
    code = f"""
import torch, zeta
from torch._subclasses.fake_tensor import FakeTensorMode
from zeta.compute.stream import kernels
with {context}:
    kernels.backend()
assert not kernels.problems(), kernels.problems()
torch.set_default_device("meta")
kernels.proved.cache_clear()
assert kernels.proved("portable").name == "native portable"
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
