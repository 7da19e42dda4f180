"""On an NVIDIA GPU, the stream has the bits that it has on the CPU. Skipped where there is none.

``python -m pytest tests/gpu`` compiles some two hundred variants of the kernel the first time, which takes minutes.
"""

from __future__ import annotations

import math

import pytest
import torch
from msgspec.structs import replace
from torch import Tensor, nn

import zeta
from zeta.compute.stream import kernels
from zeta.compute.stream.kernels import answers, reference
from zeta.compute.stream.kernels.tasks import WORDS, Law, Task
from zeta.compute.stream.random import interval
from zeta.compute.stream.regions import Region
from zeta.initializers import Normal, Orthogonal, TruncatedNormal, Uniform
from zeta.rules import Rule, Rules

if not torch.cuda.is_available():
    pytest.skip("no GPU: the kernel is tested by Triton's interpreter alone", allow_module_level=True)
pytest.importorskip("triton", reason="triton is not installed: the GPU computes with torch operations")

KEY = 0x299F31D0A4093822
INTEGER = {2: torch.int16, 4: torch.int32, 8: torch.int64}
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def normal(dtype: torch.dtype, low: float = -math.inf, high: float = math.inf, **affine: float) -> Law:
    within = interval(low, high, bits=53 if dtype is torch.float64 else 32)
    return Law(kind="normal", dtype=dtype, within=within, **affine)


# subnormal constants and results, bounds that bite, one side alone, tails
LAWS = [
    WORDS,
    *(Law(kind="uniform", dtype=dtype, scale=scale) for dtype in FLOATS for scale in (1.0, 3e-39, 6e-8)),
    *(normal(dtype, scale=scale) for dtype in FLOATS for scale in (1.0, 1e-40, 3e-7)),
    *(replace(normal(dtype, -2.0, 1.0, scale=0.3, shift=1 / 3), low=-0.25, high=0.5) for dtype in FLOATS),
    *(normal(dtype, low=-0.5, high=0.0) for dtype in FLOATS),
    *(normal(dtype, 4.0, 9.0, scale=-2.0) for dtype in FLOATS),
    *(normal(dtype, -1e-42, 1e-42, shift=-0.0) for dtype in FLOATS),
]
SHARD = Region(shape=(64, 4096), offsets=(8, 1024), sizes=(32, 1024))
REGIONS = {
    "whole": Region.whole((333, 128)),
    "run": Region(shape=(2**40,), offsets=(2**34 - 1003,), sizes=(300_001,)),
    "last": Region(shape=(2**63 - 1,), offsets=(2**63 - 1002,), sizes=(1001,)),
    "shard": SHARD,
    "box": Region(shape=(7, 41, 67), offsets=(1, 2, 5), sizes=(5, 37, 23)),
    "column": Region(shape=(5000, 3), offsets=(1, 2), sizes=(4000, 1)),
    "many dimensions": Region(shape=(3,) * 8, offsets=(1,) * 8, sizes=(2,) * 8),
    "element": Region(shape=(2**33,), offsets=(2**33 - 1,), sizes=(1,)),
}


def bits(values: Tensor) -> Tensor:
    return values.contiguous().view(INTEGER[values.dtype.itemsize])


def on_cpu(law: Law, region: Region) -> Tensor:
    values = torch.empty(region.sizes, dtype=law.dtype)
    reference.fill([Task(law=law, keys=(KEY,), draw=2**33 + 1, region=region, outs=(values,))])
    return values


def same_bits(law: Law, region: Region, out: Tensor) -> None:
    kernels.fill([Task(law=law, keys=(KEY,), draw=2**33 + 1, region=region, outs=(out,))])
    assert torch.equal(bits(out.cpu()), bits(on_cpu(law, region)))


def test_triton_is_chosen_and_gives_the_known_answers() -> None:
    backend = kernels.backend("cuda")
    assert backend.name == "triton"
    assert answers.wrong_answers(backend.fill, backend.dtypes, "cuda") == []


@pytest.mark.parametrize("law", LAWS, ids=range(len(LAWS)))
@pytest.mark.parametrize("name", ["whole", "run", "box"])
def test_every_law_has_the_cpus_bits(law: Law, name: str) -> None:
    region = REGIONS[name]
    same_bits(law, region, torch.empty(region.sizes, dtype=law.dtype, device="cuda"))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", REGIONS)
def test_every_region_has_the_cpus_bits(dtype: torch.dtype, name: str) -> None:
    region = REGIONS[name]
    same_bits(normal(dtype, scale=0.02), region, torch.empty(region.sizes, dtype=dtype, device="cuda"))


@pytest.mark.parametrize("dtype", FLOATS)
def test_any_strides_and_nothing_beside_them(dtype: torch.dtype) -> None:
    law = normal(dtype)
    backing = torch.full((1024, 3, 33), 7.0, dtype=dtype, device="cuda")
    same_bits(law, SHARD, backing[:, 1, :32].t())
    backing[:, 1, :32] = 7.0
    assert torch.equal(backing, torch.full_like(backing, 7.0))


def test_two_to_the_32_elements_are_written_to_their_places() -> None:
    count = 2**32 + 2**20 + 1
    if torch.cuda.mem_get_info()[0] < 3 * count:
        pytest.skip("needs 12 GiB of GPU memory")
    law, shape = normal(torch.bfloat16), (count,)
    out = torch.empty(shape, dtype=law.dtype, device="cuda")
    kernels.fill([Task(law=law, keys=(KEY,), draw=2**33 + 1, region=Region.whole(shape), outs=(out,))])
    for start in (0, 2**31 - 500, 2**32 - 500, count - 1001):
        tile = Region(shape=shape, offsets=(start,), sizes=(1001,))
        assert torch.equal(bits(out[start : start + 1001].cpu()), bits(on_cpu(law, tile))), start


def test_work_follows_the_current_stream() -> None:
    law, region = normal(torch.float32), REGIONS["run"]
    out = torch.empty(region.sizes, device="cuda")
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        out.fill_(7.0)
        kernels.fill([Task(law=law, keys=(KEY,), draw=2**33 + 1, region=region, outs=(out,))])
    stream.synchronize()
    assert torch.equal(bits(out.cpu()), bits(on_cpu(law, region)))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_every_device_gets_its_own_values() -> None:
    region = REGIONS["whole"]
    same_bits(normal(torch.float32), region, torch.empty(region.sizes, device="cuda:1"))


# -- the public verbs --------------------------------------------------------------------------------------------------


def model(device: str, dtype: torch.dtype) -> nn.Module:
    layers = nn.Sequential(nn.Embedding(50, 24), nn.Linear(24, 40), nn.Linear(40, 40), nn.Linear(40, 7))
    return layers.to(device=device, dtype=dtype)


RULES = Rules(
    [
        Rule("0.weight", Normal(0.02)),
        Rule("1.weight", TruncatedNormal(0.02)),
        Rule("2.weight", Orthogonal()),
        Rule("3.weight", Uniform(-0.1, 0.1)),
        Rule("*.bias", Uniform(-0.5, 0.25)),
    ]
)


@pytest.mark.parametrize("dtype", FLOATS)
def test_init_gives_a_model_on_the_gpu_the_values_of_the_cpu(dtype: torch.dtype) -> None:
    here, there = model("cpu", dtype), model("cuda", dtype)
    zeta.init_(here, RULES, seed=5)
    zeta.init_(there, RULES, seed=5)
    for (name, expected), (_, got) in zip(here.state_dict().items(), there.state_dict().items(), strict=True):
        assert torch.equal(bits(got.cpu()), bits(expected)), name
