"""The layer functions: what they write, into every layer of torch, and what they leave alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.layers import (
    FAMILY,
    LAYERS,
    RANDOM,
    Look,
    Scheme,
    assert_given,
    fits,
    owners,
    raw,
    set_all,
    state,
    without_padding,
)
from zeta import utils
from zeta.utils import (
    exists,
    init_constant_,
    init_default_,
    init_identity_,
    init_normal_,
    init_orthogonal_,
    init_xavier_normal_,
    init_zero_,
)

HALF_AND_LESS = (torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2)
REAL = (torch.float64, torch.float32, *HALF_AND_LESS)
COMPLEX = (torch.complex64, torch.complex128)


@pytest.fixture(autouse=True)
def own_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


# -- the examples ----------------------------------------------------------------------------------------------------


def test_the_first_example() -> None:
    layer = nn.Linear(10, 5)
    init_zero_(layer)
    assert torch.equal(layer.weight, torch.zeros(5, 10))
    assert torch.equal(layer.bias, torch.zeros(5))


def test_the_second_example() -> None:
    model = nn.Sequential(nn.Linear(10, 5), nn.ReLU(), nn.Linear(5, 1))
    for layer in model:
        if exists(layer, "weight"):
            init_zero_(layer)
    assert [tuple(p.shape) for p in model.parameters()] == [(5, 10), (5,), (1, 5), (1,)]
    assert all((p == 0).all() for p in model.parameters())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0,), True),
        (("",), True),
        ((False,), True),
        ((float("nan"),), True),
        ((torch.zeros(2),), True),
        ((None,), False),
        ((nn.ReLU(), "weight"), False),
        ((nn.ReLU(), "inplace"), True),  # False, but there
        ((None, "weight"), False),
        ((nn.BatchNorm1d(2, affine=False), "weight"), False),
        ((nn.BatchNorm1d(2, affine=False), "running_mean"), True),
        ((torch, "nn"), True),
        ((torch, ""), False),
    ],
)
def test_exists(arguments: tuple[Any, ...], expected: bool) -> None:
    assert exists(*arguments) is expected


def test_exists_on_a_layer() -> None:
    layer = nn.Linear(1, 1, bias=False)
    assert exists(layer, "weight")
    assert not exists(layer, "bias")
    assert exists(nn.Linear(1, 1), "bias")
    assert exists(torch.nn.utils.parametrizations.weight_norm(layer), "weight")
    assert exists(value=layer, name="in_features")


def test_the_family_is_complete() -> None:
    assert sorted(utils.__all__) == sorted(
        ["exists", "init_default_", "init_eye_", "init_zeros_", *(f"init_{name}_" for name in FAMILY)]
    )
    assert (utils.init_eye_, utils.init_zeros_) == (utils.init_identity_, utils.init_zero_), "torch's names"


# -- every function on every layer -----------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", FAMILY.values(), ids=FAMILY)
@pytest.mark.parametrize("factory", LAYERS.values(), ids=LAYERS)
def test_every_parameter_gets_its_value_and_nothing_else_changes(factory: Any, scheme: Scheme) -> None:
    layer = factory()
    if not fits(scheme, layer):
        pytest.skip("the scheme is not for this layer")
    set_all(layer, 7.0)
    for number, parameter in enumerate(layer.parameters()):
        parameter.grad = torch.full_like(parameter, 3.0)
        parameter.requires_grad_(number % 2 == 0)
    for buffer in layer.buffers():
        buffer.fill_(5)
    before = Look.of(layer)
    assert scheme.call(layer) is layer
    assert Look.of(layer) == before
    assert_given(layer, scheme, 0.0)
    if scheme is not FAMILY["zero"]:
        scheme.call(layer, bias=0.25)
        assert_given(layer, scheme, 0.25)
        scheme.call(layer, bias=None)
        assert_given(layer, scheme, 0.25)
    assert Look.of(layer) == before


@pytest.mark.parametrize("factory", LAYERS.values(), ids=LAYERS)
def test_default_changes_every_parameter_and_nothing_else(factory: Any) -> None:
    layer = factory()
    set_all(layer, 7.0)
    for buffer in layer.buffers():
        buffer.fill_(5)
    before = Look.of(layer)
    assert init_default_(layer) is layer
    assert Look.of(layer) == before
    for (name, parameter), owner in zip(layer.named_parameters(), owners(layer).values(), strict=True):
        assert not (without_padding(parameter.detach(), owner) == 7).any(), name


def test_apply_visits_every_module() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(), nn.ModuleDict({"norm": nn.BatchNorm1d(3), "act": nn.Tanh()}))
    set_all(model, 7.0)
    assert model.apply(init_zero_) is model
    assert all((p == 0).all() for p in model.parameters())
    assert (model[2]["norm"].running_var == 1).all()


def test_the_layer_is_returned() -> None:
    model = nn.Sequential(nn.Linear(8, 8), init_zero_(nn.Linear(8, 8)))
    assert not model(torch.ones(2, 8)).any()
    layer = nn.Flatten()
    assert init_zero_(layer) is layer


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1)])
@pytest.mark.parametrize("name", [name for name in FAMILY if name != "dirac"])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning")
def test_empty_and_single_elements(name: str, shape: tuple[int, int]) -> None:
    layer = FAMILY[name].call(nn.Linear(*shape))
    assert layer.weight.shape == shape[::-1]
    assert not layer.bias.any()


def test_parameters_of_no_dimension() -> None:
    layer = nn.Module()
    layer.scale = nn.Parameter(torch.tensor(7.0))
    assert init_zero_(layer).scale == 0
    assert 1.99 < init_normal_(layer, 2.0, 1e-3).scale < 2.01


# -- where it is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", REAL, ids=str)
@pytest.mark.parametrize("name", FAMILY)
def test_a_narrow_dtype_gets_the_rounded_value(name: str, dtype: torch.dtype) -> None:
    def layer() -> nn.Module:
        return nn.Conv2d(8, 8, 3, groups=2) if name == "dirac" else nn.Linear(24, 16)

    scheme = FAMILY[name]
    expected = scheme.call(layer(), **({"seed": 3} if scheme.random else {})).requires_grad_(False)
    narrow = layer().to(dtype).requires_grad_(False)
    before = Look.of(narrow)
    given = scheme.call(narrow, **({"seed": 3} if scheme.random else {}))
    assert Look.of(given) == before
    assert not given.bias.double().any()
    wide = given.weight.double()
    if dtype is torch.float64:
        torch.testing.assert_close(wide, expected.weight.double(), rtol=1e-5, atol=1e-6)
        if name in RANDOM:
            assert (wide != wide.float()).any(), "fp64 has no precision of its own"
    elif name == "trunc_normal" or name.endswith("uniform"):
        # held within the bounds, so that a value at their edge may differ by one rounding
        eps, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny
        torch.testing.assert_close(wide, expected.weight.double(), rtol=eps, atol=tiny * eps)
    else:
        assert raw(given.weight) == raw(expected.weight.to(dtype))


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
@pytest.mark.parametrize("name", ["normal", "uniform", "trunc_normal", "xavier_uniform", "kaiming_normal", "sparse"])
def test_complex_weights_share_the_variance_between_their_parts(name: str, dtype: torch.dtype) -> None:
    real, layer = nn.Linear(512, 512), nn.Linear(512, 512, dtype=dtype)
    FAMILY[name].call(real, seed=1)
    weight = FAMILY[name].call(layer, seed=1).weight.detach()
    mean = {"normal": 1.0, "uniform": 2.0}.get(name, 0.0)
    centred, asked = weight - mean, float((real.weight.detach() - mean).square().mean())
    assert float(centred.abs().square().mean()) == pytest.approx(asked, rel=0.02)
    assert float(centred.real.square().mean()) == pytest.approx(asked / 2, rel=0.02)
    if name != "sparse":
        assert abs(float((centred.real * centred.imag).mean())) < 0.01 * asked
    assert weight.dtype is dtype
    assert not layer.bias.any()


@pytest.mark.parametrize("dtype", COMPLEX, ids=str)
def test_complex_constants_and_matrices(dtype: torch.dtype) -> None:
    layer = nn.Linear(6, 6, dtype=dtype)
    assert not init_zero_(layer).weight.any()
    assert torch.equal(init_constant_(layer, 0.5, bias=1.0).weight, torch.full((6, 6), 0.5, dtype=dtype))
    assert torch.equal(layer.bias, torch.ones(6, dtype=dtype))
    assert torch.equal(init_identity_(layer).weight, torch.eye(6, dtype=dtype))
    w = init_orthogonal_(layer, 2.0).weight
    assert w.imag.any()
    torch.testing.assert_close(w @ w.mH, 4 * torch.eye(6, dtype=dtype), rtol=0, atol=1e-5)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "channels_last": lambda w: w.contiguous(memory_format=torch.channels_last),
    "transposed": lambda w: w.transpose(0, 1).contiguous().transpose(0, 1),
    "reversed_dimensions": lambda w: w.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0),
    "with_gaps": lambda w: torch.full((*w.shape[:-1], 2 * w.shape[-1]), 9.0)[..., ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("name", [name for name in FAMILY if name != "identity"])
def test_memory_layout_does_not_change_the_values(name: str, layout: Callable[[Tensor], Tensor]) -> None:
    scheme, plain, layer = FAMILY[name], nn.Conv2d(6, 4, 3), nn.Conv2d(6, 4, 3)
    layer.weight = nn.Parameter(layout(layer.weight.detach()))
    assert not layer.weight.is_contiguous()
    before, keywords = Look.of(layer), {"seed": 5} if scheme.random else {}
    assert raw(scheme.call(layer, **keywords).weight) == raw(scheme.call(plain, **keywords).weight)
    assert Look.of(layer) == before


def test_memory_between_the_elements_is_left_alone() -> None:
    storage = torch.full((6, 8), 9.0)
    layer = nn.Linear(4, 6)
    layer.weight = nn.Parameter(storage[:, ::2])
    init_normal_(layer)
    assert (storage[:, 1::2] == 9).all()
    assert not (storage[:, ::2] == 9).any()


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    previous = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(previous)


CONTEXTS: dict[str, Callable[[], Any]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "enable_grad": torch.enable_grad,
    "default_float64": lambda: default_dtype(torch.float64),
    "default_bfloat16": lambda: default_dtype(torch.bfloat16),
    "default_device": lambda: torch.device("meta"),
}


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
@pytest.mark.parametrize("name", [*(name for name in FAMILY if name != "dirac"), "default"])
def test_the_context_does_not_matter(name: str, context: Callable[[], Any]) -> None:
    plain, layer = nn.Linear(5, 4), nn.Linear(5, 4)
    call = init_default_ if name == "default" else FAMILY[name].call
    keywords = {"seed": 5} if name in (*RANDOM, "default") else {}
    before = Look.of(layer)
    with context():
        call(layer, **keywords)
    assert Look.of(layer) == before
    assert state(layer) == state(call(plain, **keywords))
    layer(torch.ones(2, 5)).sum().backward()  # still trains
    assert layer.weight.grad is not None


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("name", ["zero", "normal", "xavier_uniform", "orthogonal"])
def test_modules_created_in_inference_mode(name: str, inside: bool) -> None:
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4))
        set_all(model, 7.0)
    mixed = nn.Sequential(nn.Linear(4, 4), model)
    with torch.inference_mode() if inside else contextlib.nullcontext():
        FAMILY[name].call(mixed)
    assert_given(mixed, FAMILY[name], 0.0)
    assert model[0].weight.is_inference()
    assert not mixed[0].weight.is_inference()


@pytest.mark.parametrize("name", ["zero", "normal", "xavier_normal", "orthogonal", "default"])
def test_tied_weights_stay_tied(name: str) -> None:
    model = nn.ModuleDict({"head": nn.Linear(5, 7, bias=False), "embedding": nn.Embedding(7, 5, padding_idx=2)})
    model["head"].weight = model["embedding"].weight
    twice = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    twice[1].weight = twice[0].weight
    if name == "default":
        init_default_(twice)
    else:
        before = Look.of(model)
        FAMILY[name].call(model)
        FAMILY[name].call(twice)
        assert Look.of(model) == before
        assert not model["head"].weight[2].any()
    assert model["head"].weight is model["embedding"].weight
    assert twice[1].weight is twice[0].weight


def test_a_tied_embedding_has_the_fans_of_the_head() -> None:
    model = nn.ModuleDict({"embedding": nn.Embedding(700, 300), "head": nn.Linear(300, 700, bias=False)})
    model["head"].weight = model["embedding"].weight
    init_xavier_normal_(model, seed=0)
    assert float(model["head"].weight.detach().std()) == pytest.approx(math.sqrt(2 / 1000), rel=0.01)


def test_a_shared_module_is_one() -> None:
    shared = nn.Linear(3, 3)
    assert_given(init_normal_(nn.Sequential(shared, nn.ReLU(), shared), std=0.02, mean=1.0), FAMILY["normal"], 0.0)
