"""Layers that cannot be initialized: the error says which parameter and what to do, and nothing was changed."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn

from tests.helpers.layers import FAMILY, LAYERS, RANDOM, Look, state
from zeta.errors import LayerTypeError, PlanError, TargetError, ZetaError
from zeta.utils import init_default_, init_normal_, init_sparse_, init_xavier_normal_, init_zero_

CALLS: dict[str, Callable[..., Any]] = {**{name: s.call for name, s in FAMILY.items()}, "default": init_default_}
#: one that only sets numbers, one that draws, two that look at the layer
SOME = ["zero", "normal", "xavier_normal", "default"]


@pytest.fixture(autouse=True)
def own_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Custom(nn.Module):
    """A module with one parameter of its own."""

    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.own = nn.Parameter(value, requires_grad=value.is_floating_point())


def assert_refused(model: nn.Module, name: str, error: type[ZetaError], *messages: str) -> None:
    """The call raises, every message is found, and no byte of the model or of what stands before it differs."""
    whole = nn.ModuleDict({"before": nn.Linear(3, 3), "refused": model, "after": nn.BatchNorm1d(3)})
    for target in (model, whole):
        before = state(target)
        with pytest.raises(error) as caught:
            CALLS[name](target)
        assert type(caught.value) is error, f"{type(caught.value).__name__}: {caught.value}"
        for message in messages:
            assert message in str(caught.value)
        assert state(target) == before
        if target is whole:
            assert "refused" in str(caught.value), "the message does not say which parameter"
            assert "before" not in str(caught.value).replace("before quantizing", "").replace("before wrapping", "")


# -- not a layer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize(
    "wrong",
    ["linear", None, torch.zeros(2, 2), nn.Linear, nn.Parameter(torch.zeros(2)), [nn.Linear(1, 1)], 3],
    ids=repr,
)
def test_not_a_module(name: str, wrong: Any) -> None:
    rng = torch.get_rng_state()
    with pytest.raises(LayerTypeError, match=r"expected a torch.nn.Module, got ") as caught:
        CALLS[name](wrong)
    if isinstance(wrong, torch.Tensor):
        assert f"got a {type(wrong).__name__} (float32, " in str(caught.value)
        assert "; zeta.fill_(tensor, initializer) fills one tensor" in str(caught.value)
    else:
        assert ("[a Linear]" if isinstance(wrong, list) else repr(wrong)[:20]) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert torch.equal(torch.get_rng_state(), rng)


def test_the_layer_is_checked_before_it_is_written() -> None:
    tensor = torch.ones(2, 2)
    for call in (init_zero_, init_normal_):
        with pytest.raises(LayerTypeError):
            call(tensor)
    assert (tensor == 1).all()


# -- parameters that cannot be written ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(
    "lazy", [lambda: nn.LazyLinear(4), lambda: nn.LazyConv2d(4, 3), nn.LazyBatchNorm1d], ids=["linear", "conv", "norm"]
)
def test_lazy(name: str, lazy: Callable[[], nn.Module]) -> None:
    assert_refused(lazy(), name, TargetError, "weight", "lazy", "run one forward pass first")


def test_lazy_after_a_forward_pass() -> None:
    model = nn.Sequential(nn.LazyLinear(4), nn.LazyBatchNorm1d())
    model(torch.ones(2, 3))
    assert not init_zero_(model)[0].weight.any()


@pytest.mark.parametrize("name", SOME)
def test_meta(name: str) -> None:
    layer = nn.Linear(3, 3, device="meta")
    assert_refused(layer, name, TargetError, "weight", "bias", "meta device", "zeta.materialize_(model, plan)")
    assert layer.weight.is_meta


@pytest.mark.parametrize("name", SOME)
def test_one_parameter_on_meta(name: str) -> None:
    layer = nn.Linear(3, 3)
    layer.bias = nn.Parameter(torch.empty(3, device="meta"))
    assert_refused(layer, name, TargetError, "bias", "meta device")


@pytest.mark.parametrize("name", [*SOME, "orthogonal", "constant"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.uint8, torch.bool], ids=str)
def test_integers(name: str, dtype: torch.dtype) -> None:
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(torch.ones(3, 3, dtype=dtype), requires_grad=False)
    assert_refused(layer, name, TargetError, "weight", str(dtype).removeprefix("torch."), "quantiz")


@pytest.fixture(scope="module")
def quantized() -> dict[str, nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        import torch.ao.nn.quantized as static
        from torch.ao.quantization import quantize_dynamic

        floating = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3))
        return {
            "linear": static.Linear(3, 3),
            "conv": static.Conv2d(3, 3, 3),
            "dynamic_linear": quantize_dynamic(floating, {nn.Linear})[0],
            "dynamic_lstm": quantize_dynamic(floating, {nn.LSTM})[1],
        }


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("layer", ["linear", "conv", "dynamic_linear", "dynamic_lstm"])
@pytest.mark.filterwarnings("ignore:.*TypedStorage is deprecated:UserWarning")
def test_quantized(quantized: dict[str, nn.Module], name: str, layer: str) -> None:
    packed = quantized[layer].state_dict()
    before = {key: copy.deepcopy(value) for key, value in packed.items()}
    assert_refused(
        quantized[layer], name, TargetError, "is quantized", "floating-point model and quantize it afterward"
    )
    for key, value in quantized[layer].state_dict().items():
        assert str(value) == str(before[key])


def test_helpers_of_quantization_are_not_quantized() -> None:
    """A model that is prepared for quantization holds such modules; they have no parameters."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch.ao.nn.quantized as static

        model = nn.ModuleDict({"linear": nn.Linear(3, 3), "add": static.FloatFunctional()})
    assert not init_zero_(model)["linear"].weight.any()


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.ones(1, 3).expand(3, 3),
        lambda: torch.ones(3, 1).expand(3, 3),
        lambda: torch.ones(5).as_strided((3, 3), (1, 1)),
        lambda: torch.ones(1).expand(3, 3),
    ],
    ids=["rows", "columns", "sliding", "one"],
)
def test_overlapping_memory(name: str, make: Callable[[], torch.Tensor]) -> None:
    layer = nn.Linear(3, 3)
    layer.weight = nn.Parameter(make())
    assert_refused(layer, name, TargetError, "weight", "overlapping memory", ".contiguous()")


def test_extents_of_one_do_not_overlap() -> None:
    layer = nn.Linear(3, 1)
    layer.weight = nn.Parameter(torch.ones(3).as_strided((1, 3), (0, 1)))
    assert not init_zero_(layer).weight.any()


@pytest.mark.parametrize("name", SOME)
def test_two_parameters_over_the_same_memory(name: str) -> None:
    """Not tied, though it looks so: the second write would undo the first."""
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["b"].weight = nn.Parameter(model["a"].weight)
    assert model["b"].weight is not model["a"].weight
    assert_refused(model, name, TargetError, "b.weight", "shares the memory of", "a.weight", "same Parameter")


@pytest.mark.parametrize("name", SOME)
@pytest.mark.parametrize("hook", ["weight_norm", "spectral_norm"])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_old_hooks(name: str, hook: str) -> None:
    layer = getattr(nn.utils, hook)(nn.Linear(3, 3))
    weight = layer.weight.detach().clone()
    assert_refused(layer, name, TargetError, "deprecated", f"parametrizations.{hook}", "zeta.record")
    assert torch.equal(layer.weight, weight)


def test_all_that_is_wrong_is_listed() -> None:
    model = nn.ModuleDict({"meta": nn.Linear(3, 3, device="meta"), "overlap": nn.Linear(3, 3), "fine": nn.Linear(3, 3)})
    model["overlap"].weight = nn.Parameter(torch.ones(1, 3).expand(3, 3))
    with pytest.raises(TargetError) as caught:
        init_zero_(model)
    assert [line.split(":")[0] for line in str(caught.value).splitlines()[1:]] == [
        "  - meta.weight, meta.bias",
        "  - overlap.weight",
    ]


def test_a_module_inside_itself() -> None:
    layer = nn.Linear(3, 3)
    layer.add_module("again", nn.Sequential(layer))
    before = {name: p.detach().clone() for name, p in layer._parameters.items()}
    with pytest.raises(TargetError, match=r"'again\.0' contains itself"):
        init_zero_(layer)
    assert all(torch.equal(before[name], p) for name, p in layer._parameters.items())


# -- parameters that the scheme has nothing to say about ---------------------------------------------------------------

MAPS = [name for name, scheme in FAMILY.items() if scheme.maps and name != "dirac"]


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("shape", [(), (3,)], ids=str)
def test_no_fans(name: str, shape: tuple[int, ...]) -> None:
    assert_refused(Custom(torch.ones(shape)), name, PlanError, "own", "has no fans", "Normal(...)")


@pytest.mark.parametrize("name", MAPS)
def test_unknown_axes(name: str) -> None:
    assert_refused(Custom(torch.ones(2, 3, 4)), name, PlanError, "own 2 x 3 x 4", "register_fans(...)")


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 3, 4)], ids=str)
def test_default_of_an_unknown_module_is_what_it_has(shape: tuple[int, ...]) -> None:
    model = nn.Sequential(nn.Linear(4, 4), Custom(torch.full(shape, 7.0)))
    nn.init.ones_(model[0].weight)  # type: ignore[arg-type]
    init_default_(model, seed=0)
    assert (model[1].own == 7).all()
    assert 0 < model[0].weight.abs().max() <= 0.5


@pytest.mark.parametrize("name", ["zero", "normal"])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4)], ids=str)
def test_schemes_without_fans_take_any_parameter(name: str, shape: tuple[int, ...]) -> None:
    layer = Custom(torch.full(shape, 7.0))
    before = Look.of(layer)
    CALLS[name](layer)
    assert not (layer.own == 7).any()
    assert Look.of(layer) == before


def test_the_error_comes_before_the_first_write() -> None:
    """The bad parameter is the last one of the last layer."""
    model = nn.Sequential(*(factory() for factory in LAYERS.values()), Custom(torch.ones(3)))
    before = state(model)
    for call in (init_xavier_normal_, lambda m: init_sparse_(m, 0.5)):
        with pytest.raises(PlanError, match="own"):
            call(model)
    assert state(model) == before
    assert not {name for name in RANDOM if name not in CALLS}
