"""The Triton kernel gives the stream's bits: run by Triton's interpreter on the CPU, and read as compiled for GPUs.

The interpreter and the compiler exclude each other in a process, so the kernel that is run here is a second copy of the
module, imported for the interpreter, and the compiled code comes from a process of its own. No GPU is needed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
import re
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import Tensor

from tests.vectors.make import PATH, bits_of, initializer_of
from tests.vectors.philox import word_by_integers
from zeta.base import dtypes
from zeta.compute.stream import random as stream
from zeta.compute.stream.kernels import answers, reference
from zeta.compute.stream.kernels.tasks import WORDS, Law, Task
from zeta.compute.stream.random import interval, normal32, normal64
from zeta.compute.stream.regions import Region

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: the kernel for GPUs is not tested", allow_module_level=True)

FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
KEY = 0x299F31D0A4093822
LOW_WORD = 2**63

CASES = json.loads(PATH.read_text(encoding="utf-8"))["cases"]
DRAWN = [
    case
    for case in CASES
    if case["kind"] in ("words", "uniform", "normal", "truncated_normal")
    and getattr(torch, case["dtype"]) in (torch.uint32, *FLOATS)
]
QUANTILES = [case for case in CASES if case["kind"] == "quantile"]


@pytest.fixture(scope="module")
def kernel() -> Any:
    """A copy of the module that the interpreter runs; few large programs, as each costs it a tenth of a second."""
    source = Path(reference.__file__).with_name("triton.py")
    spec = importlib.util.spec_from_file_location("interpreted_triton_kernel", source)
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    importlib.import_module("triton")  # first, so that of all its functions the copy's alone are interpreted
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        spec.loader.exec_module(module)
    module.COUNTERS = 1024
    return module


def normal(dtype: torch.dtype, low: float = -math.inf, high: float = math.inf, **affine: float) -> Law:
    within = interval(low, high, bits=53 if dtype is torch.float64 else 32)
    return Law(kind="normal", dtype=dtype, within=within, **affine)


def law_of(case: dict[str, Any]) -> Law:
    dtype = getattr(torch, case["dtype"])
    if case["kind"] == "words":
        return WORDS
    initializer: Any = initializer_of(case)
    low, high = dtypes.inward(*initializer.bounds(), dtype)
    if case["kind"] == "uniform":
        width = initializer.high - initializer.low
        return Law(kind="uniform", dtype=dtype, scale=width, shift=initializer.low, low=low, high=high)
    sigmas = initializer.sigmas() if case["kind"] == "truncated_normal" else ()
    law = normal(dtype, *sigmas, scale=initializer.std, shift=initializer.mean)
    return replace(law, low=low, high=high) if sigmas else law


def run(start: int, count: int) -> Region:
    return Region(shape=(start + count,), offsets=(start,), sizes=(count,))


def room(count: int, dtype: torch.dtype) -> Tensor:
    """Room for so many elements, with memory on both sides for what should not be written."""
    return torch.empty(count + 32, dtype=dtype)[16:-16]


def bits(values: Tensor) -> Tensor:
    return values.view(INTEGER[values.dtype.itemsize])


def same_bits(kernel: Any, law: Law, region: Region, out: Tensor, *, key: int = KEY, draw: int = 0) -> None:
    """Assert that both backends write the same bits to ``out``, and that the kernel writes nothing beside it."""
    expected = torch.empty(region.sizes, dtype=law.dtype)
    reference.fill([Task(law=law, keys=(key,), draw=draw, region=region, outs=(expected,))])
    everything = bits(torch.empty(0, dtype=out.dtype).set_(out.untyped_storage()))  # type: ignore[call-overload]
    everything.fill_(0x5A5A)
    before = everything.clone()
    kernel.fill([Task(law=law, keys=(key,), draw=draw, region=region, outs=(out,))])
    assert torch.equal(bits(out), bits(expected))
    bits(out).fill_(0x5A5A)
    assert torch.equal(everything, before)


# -- the golden vectors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c['kind']}-{c['dtype']}-{i}") for i, c in enumerate(DRAWN)])
def test_the_kernel_gives_the_bits_of_the_file(kernel: Any, case: dict[str, Any]) -> None:
    law, region = law_of(case), run(case["start"], case["count"])
    out = torch.empty(region.sizes, dtype=law.dtype)
    kernel.fill([Task(law=law, keys=(int(case["key"], 16),), draw=case["draw"], region=region, outs=(out,))])
    assert bits_of(out) == case["bits"]


@pytest.fixture
def given_words(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[int], torch.dtype], None]:
    """Make element ``i`` use the ``i``-th of the words given, of 53 bits for fp64, instead of Philox's."""
    import numpy as np
    from triton.runtime.interpreter import TensorHandle

    tl = kernel.tl

    def give(words: Sequence[int], dtype: torch.dtype) -> None:
        numbers = np.array(words, dtype=np.uint64)
        double = dtype is torch.float64

        def words_of(counters: Any, key: Any, draw: Any) -> Any:
            indices = np.minimum(4 * counters.handle.data[:, None] + np.arange(4), len(words) - 1)
            high, low = (numbers >> 21, numbers << 11 & 0xFFFFFFFF) if double else (numbers, numbers)
            chosen = (low if int(draw.handle.data[0]) & LOW_WORD else high)[indices].astype(np.uint32)
            return tl.tensor(TensorHandle(chosen, tl.uint32), tl.block_type(tl.uint32, list(chosen.shape)))

        monkeypatch.setattr(kernel, "words_of", words_of)

    return give


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{c['dtype']}-{i}") for i, c in enumerate(QUANTILES)])
def test_quantiles_are_those_of_the_file(kernel: Any, given_words: Any, case: dict[str, Any]) -> None:
    """Both ends, the middle, and both sides of each change of formula or rounding."""
    law = normal(getattr(torch, case["dtype"]), **case["parameters"])
    given_words([int(word, 16) for word in case["words"]], law.dtype)
    out = torch.empty(len(case["words"]), dtype=law.dtype)
    kernel.fill([Task(law=law, keys=(0,), draw=0, region=run(0, out.numel()), outs=(out,))])
    assert bits_of(out) == case["bits"]


NARROW = (-1e-42, 1e-42)  # the quantiles are zeros of both signs in fp32


@pytest.mark.parametrize(
    "sigmas", [(), (-2.0, 2.0), (-1.0, 3.0), (0.0,), (-math.inf, 0.0), (5.0,), (-9.0, -8.0), NARROW]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantiles_are_the_references_over_the_whole_range(
    kernel: Any, given_words: Any, dtype: torch.dtype, sigmas: tuple[float, ...]
) -> None:
    law = normal(dtype, *sigmas, shift=-0.0)
    assert law.within is not None
    width = 2**law.within.bits
    generator = torch.Generator().manual_seed(0)
    spread = torch.randint(width, (3000,), generator=generator).tolist()
    tails = [round(side * width * 2.0 ** -(k / 4)) for k in range(4, 4 * law.within.bits) for side in (1, -1)]
    edges = [edge + near for edge in (0, width, law.within.split) for near in range(-20, 20)]
    words = [min(max(word % width if word < 0 else word, 0), width - 1) for word in (*spread, *tails, *edges)]
    given_words(words, dtype)
    out = torch.empty(len(words), dtype=dtype)
    kernel.fill([Task(law=law, keys=(0,), draw=0, region=run(0, len(words)), outs=(out,))])
    drawn = torch.tensor(words)
    z = normal64(drawn, law.within) if dtype is torch.float64 else normal32(drawn, law.within)
    expected = z.to(dtype) * 1.0 + -0.0
    assert torch.equal(bits(out), bits(expected))
    assert sigmas != NARROW or dtype is torch.float64 or set(bits(out).tolist()) == {0, -(2**31)}


# -- laws and dtypes ---------------------------------------------------------------------------------------------------


def test_the_known_answers_are_given(kernel: Any) -> None:
    assert answers.wrong_answers(kernel.fill, kernel.DTYPES) == []


def test_the_dtypes_are_those_that_the_kernel_writes(kernel: Any) -> None:
    assert {torch.uint32, *FLOATS} == kernel.DTYPES


# subnormal constants and results; values between two numbers of the dtype; bounds that bite, of both signs and zero
LAWS = [
    *(Law(kind="uniform", dtype=dtype, scale=scale) for dtype in FLOATS for scale in (1.0, 3e-39, 6e-8)),
    *(normal(dtype, scale=scale) for dtype in FLOATS for scale in (1.0, 1e-40, 3e-7)),
    *(normal(dtype, -2.0, 1.0, scale=0.3, shift=1 / 3) for dtype in FLOATS),
    *(normal(dtype, low=-0.5, high=0.0) for dtype in FLOATS),
    *(replace(normal(dtype), low=0.25) for dtype in FLOATS),
    *(normal(dtype, 1.0, 8.0, scale=-2.0) for dtype in FLOATS),
    WORDS,
]


@pytest.mark.parametrize("law", LAWS, ids=range(len(LAWS)))
def test_every_law_has_the_references_bits(kernel: Any, law: Law) -> None:
    same_bits(kernel, law, run(3, 4090), room(4090, law.dtype))


@pytest.mark.parametrize(("dtype", "digits"), [(torch.bfloat16, 8), (torch.float16, 11)])
@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_halfway_values_go_to_the_even_neighbour(
    kernel: Any, given_words: Any, dtype: torch.dtype, digits: int, scale: float
) -> None:
    given_words([(2 * number + 1) << 31 - digits for number in range(2**digits)], dtype)
    out = torch.empty(2**digits, dtype=dtype)
    law = Law(kind="uniform", dtype=dtype, scale=scale)
    kernel.fill([Task(law=law, keys=(0,), draw=0, region=run(0, out.numel()), outs=(out,))])
    halfway = [(2 * number + 1) * scale / 2 ** (digits + 1) for number in range(2**digits)]
    assert torch.equal(out, torch.tensor(halfway).to(dtype))
    assert out.unique().numel() < out.numel()


# -- regions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [2**32 - 5, 2**34 - 7, 2**34, 2**40 + 1, 2**62 - 3, 2**63 - 12])
@pytest.mark.parametrize("count", [1, 4, 11])
def test_runs_anywhere_have_the_references_bits(kernel: Any, start: int, count: int) -> None:
    for law in (WORDS, normal(torch.float32), normal(torch.float64)):
        same_bits(kernel, law, run(start, count), room(count, law.dtype), key=2**64 - 1, draw=2**63 - 1)


def test_the_words_are_philox_s(kernel: Any) -> None:
    start, draw = 2**34 - 2, 2**40 + 7
    out = torch.empty(5, dtype=torch.uint32)
    kernel.fill([Task(law=WORDS, keys=(KEY,), draw=draw, region=run(start, 5), outs=(out,))])
    assert out.tolist() == [word_by_integers(KEY, start + i, draw) for i in range(5)]


def test_several_programs_share_a_region(kernel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "COUNTERS", 16)
    same_bits(kernel, WORDS, run(4, 256), room(256, torch.uint32))
    same_bits(kernel, WORDS, run(5, 131), room(131, torch.uint32))
    box = Region(shape=(9, 30), offsets=(1, 3), sizes=(7, 21))
    same_bits(kernel, WORDS, box, room(7 * 21, torch.uint32).view(7, 21))


def test_empty_regions_are_left_alone(kernel: Any) -> None:
    for sizes in ((0,), (3, 0, 2)):
        region = Region(shape=(4,) * len(sizes), offsets=(1,) * len(sizes), sizes=sizes)
        same_bits(kernel, normal(torch.float32), region, torch.empty(sizes))


@pytest.mark.parametrize("key", range(6))
def test_a_single_element_is_the_first_of_a_run(kernel: Any, key: int) -> None:
    law, first = normal(torch.float32), torch.empty(1)
    reference.fill([Task(law=law, keys=(key,), draw=0, region=run(0, 1), outs=(first,))])
    around = torch.zeros(5)
    kernel.fill([Task(law=law, keys=(key,), draw=0, region=Region.whole(()), outs=(around[3],))])
    assert torch.equal(around, torch.nn.functional.pad(first, (3, 1)))
    same_bits(kernel, law, Region(shape=(7, 9), offsets=(6, 8), sizes=(1, 1)), torch.empty(1, 1), key=key)


def test_tasks_are_done_in_order_into_parameters_too(kernel: Any) -> None:
    region, out = Region.whole((3, 5)), torch.nn.Parameter(torch.empty(3, 5))
    laws = normal(torch.float32), Law(kind="uniform", dtype=torch.float32)
    kernel.fill([Task(law=law, keys=(KEY,), draw=0, region=region, outs=(out,)) for law in laws])
    expected = torch.empty(3, 5)
    reference.fill([Task(law=laws[1], keys=(KEY,), draw=0, region=region, outs=(expected,))])
    assert torch.equal(out.detach(), expected)
    assert out.grad_fn is None


@st.composite
def places(draw: st.DrawFn) -> tuple[Region, Tensor]:
    """A box of up to eight dimensions, and where it goes: any order in memory, gaps, an offset."""
    sizes = draw(
        st.lists(st.integers(1, 6), min_size=1, max_size=4) | st.lists(st.integers(1, 2), min_size=5, max_size=8)
    )
    before = [draw(st.integers(0, 3)) for _ in sizes]
    after = [draw(st.sampled_from((0, 0, 1, 5))) for _ in sizes]
    leading = draw(st.sampled_from((0, 0, 2**33, 2**45)))  # pushes the box far into the tensor
    shape = [b + size + a for b, size, a in zip(before, sizes, after, strict=True)]
    shape[0], before[0] = shape[0] + leading, before[0] + leading
    order = draw(st.permutations(range(len(sizes))))
    gap = draw(st.integers(1, 3))
    cut = torch.empty([sizes[dim] * gap for dim in order])[tuple(slice(gap - 1, None, gap) for _ in order)]
    out = cut.permute([order.index(dim) for dim in range(len(sizes))])
    return Region(shape=tuple(shape), offsets=tuple(before), sizes=tuple(sizes)), out


@settings(max_examples=60, phases=(Phase.explicit, Phase.generate))  # making a failure smaller would take minutes
@given(places(), st.sampled_from((WORDS, *LAWS[::3])), st.integers(0, 2**64 - 1), st.integers(0, 2**63 - 1))
def test_any_box_to_any_strides(kernel: Any, place: tuple[Region, Tensor], law: Law, key: int, draw: int) -> None:
    region, shape = place
    memory = torch.empty(shape.untyped_storage().nbytes() // 4 + 32, dtype=law.dtype)
    out = memory.as_strided(shape.shape, shape.stride(), shape.storage_offset() + 16)
    same_bits(kernel, law, region, out, key=key, draw=draw)


# -- the compiled code -------------------------------------------------------------------------------------------------

COMPILE = r"""
import collections, json, re, sys, types
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from zeta.compute.stream.kernels import triton as kernel
from zeta.compute.stream.kernels.tasks import WORDS, Law, Task
from zeta.compute.stream.random import interval
from zeta.compute.stream.regions import Region

ARCH = int(sys.argv[1])
driver.set_active(types.SimpleNamespace(
    get_current_device=lambda: 0, get_current_stream=lambda device: 0,
    get_current_target=lambda: GPUTarget("cuda", ARCH, 32),
))
launches = kernel.fill_quads

class Compiled:
    def __getitem__(self, grid):
        return lambda *args, **options: built.append(launches.run(*args, grid=grid, warmup=True, **options))

kernel.fill_quads = Compiled()
normal = Law(kind="normal", dtype=torch.float32, scale=0.02, within=interval())
double = Law(kind="normal", dtype=torch.float64, scale=0.02, within=interval(bits=53))
half = Law(kind="uniform", dtype=torch.float16, scale=2.0, shift=-1.0)
whole, box = Region.whole((64, 1024)), Region(shape=(50, 70), offsets=(1, 2), sizes=(20, 31))
found = {}
tasks = {"whole": (normal, whole), "box": (normal, box), "double": (double, whole), "half": (half, whole)}
for name, (law, region) in {**tasks, "words": (WORDS, whole)}.items():
    built = []
    out = torch.empty(region.sizes, dtype=law.dtype)
    kernel.fill([Task(law=law, keys=(1,), draw=0, region=region, outs=(out,))])
    ptx, binary = built[0].asm["ptx"], built[0].asm["cubin"]
    assert binary.startswith(b"\x7fELF"), "assembled for the architecture too"
    instructions = re.findall(r"^\s*(?:@!?%p\d+ )?([a-z]+\.[\w.:]+)", ptx, re.MULTILINE)
    found[name] = collections.Counter(instructions + re.findall(r"\b0d[0-9A-F]{16}\b", ptx))
print(json.dumps(found))
"""


@pytest.fixture(scope="module", params=[80, 90, 100])
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Counter[str]]:
    """How often each instruction and fp64 constant is in the code compiled for each of a few tasks."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TRITON_")}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-c", COMPILE, str(request.param)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return {name: unpacked(found) for name, found in json.loads(done.stdout).items()}


def unpacked(found: dict[str, int]) -> Counter[str]:
    """Count an instruction that does two operations at once, as Blackwell has them, as the two."""
    counted: Counter[str] = Counter()
    for name, count in found.items():
        packed = re.fullmatch(r"((?:add|sub|mul|fma)\..*f32)x2", name)
        counted[packed[1] if packed else name] += 2 * count if packed else count
    return counted


def test_compiled_arithmetic_is_what_the_source_says(compiled: dict[str, Counter[str]]) -> None:
    """Each fused operation is one that is written; nothing is approximate, or flushes subnormal numbers to zero."""
    elements = 8  # of each thread
    for name in ("whole", "box"):
        found = compiled[name]
        fused = 2 + 10 + 9 + 4 + 4 + 1  # q and p, the centre, the logarithm, the tail's ratio, scale and shift
        assert found["fma.rn.f32"] == fused * elements
        assert found["div.rn.f32"] == found["sqrt.rn.f32"] == elements
        assert found["mul.rn.f32"] == 5 * elements  # q * q, q * r, times the polynomial, f * f, times -2
    assert compiled["double"]["div.rn.f64"] == 4 * elements
    assert compiled["double"]["sqrt.rn.f64"] == elements
    assert compiled["half"]["fma.rn.f32"] == elements
    names = {instruction for found in compiled.values() for instruction in found}
    real = {name for name in names if re.search(r"\.f(16|32|64)", name)}
    assert all(".rn." in name or name.split(".")[0] in ("setp", "selp", "neg") for name in real), real
    assert not {name for name in names if re.search(r"ftz|approx|full|^mad.*f|fma.*f64|libdevice", name)}


def test_compiled_constants_are_those_of_the_source(compiled: dict[str, Counter[str]]) -> None:
    """No constant of the fp64 formula passes through fp32 on its way, those of comparisons included."""
    coefficients = {number for region in stream._AS241.values() for numbers in region for number in numbers}
    constants = {*coefficients, *stream._ATANH, math.log(2.0), 0.425, 0.180625}
    written = {f"0d{struct.pack('>d', number).hex().upper()}" for number in constants}
    assert written - compiled["double"].keys() == set()


def test_compiled_stores_are_wide(compiled: dict[str, Counter[str]]) -> None:
    """A whole parameter is written 16 bytes at a time, 8 for half precision, straight from the registers."""
    for name, store in {"whole": "st.global.v4.b32", "words": "st.global.v4.b32", "half": "st.global.v2.b32"}.items():
        assert {key: count for key, count in compiled[name].items() if key.startswith("st.")} == {store: 2}
