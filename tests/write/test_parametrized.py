"""Parametrized layers: the effective weight is what was asked for, or an error says why it cannot be."""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

import zeta
from tests.helpers.layers import FAMILY, Look, raw, state
from tests.helpers.twin import twin
from zeta import Rule, Rules
from zeta.errors import TargetError, ZetaNotice
from zeta.initializers import Constant, Initializer, Keep, Normal, Ones
from zeta.utils import (
    init_constant_,
    init_default_,
    init_identity_,
    init_normal_,
    init_ones_,
    init_orthogonal_,
    init_zero_,
)


@pytest.fixture(autouse=True)
def own_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Scale(nn.Module):
    """Twice the original; exact in floating point."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / 2


class Symmetric(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.triu() + x.triu(1).mT

    def right_inverse(self, w: Tensor) -> Tensor:
        return w.triu()


class OneWay(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.tanh()


class Learned(nn.Module):
    """A parametrization with a parameter and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(4.0))
        self.register_buffer("calls", torch.tensor(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x

    def right_inverse(self, w: Tensor) -> Tensor:
        return w / self.factor


class Product(nn.Module):
    """Two stored tensors make one weight of a third shape."""

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        return rows[:, None] * columns[None, :]

    def right_inverse(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return w[:, 0].clone(), (w[0] / w[0, 0]).clone()


class Noisy(nn.Module):
    """Draws a random number at every look."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0 * torch.rand_like(x)

    def right_inverse(self, w: Tensor) -> Tensor:
        return w


def registered(layer: nn.Module, *parts: nn.Module, name: str = "weight") -> nn.Module:
    for part in parts:
        parametrize.register_parametrization(layer, name, part)
    return layer


def stored(layer: nn.Module, name: str = "weight") -> dict[str, Tensor]:
    return dict(layer.parametrizations[name].named_parameters())


def lengths(weight: Tensor, dim: int | None) -> Tensor:
    return torch.norm_except_dim(weight.detach(), 2, -1 if dim is None else dim)


# -- weight_norm -------------------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear": (lambda: nn.Linear(6, 4), "weight"),
    "conv": (lambda: nn.Conv2d(4, 6, 3), "weight"),
    "transposed": (lambda: nn.ConvTranspose1d(4, 6, 3), "weight"),
    "embedding": (lambda: nn.Embedding(7, 5), "weight"),
    "padded": (lambda: nn.Embedding(7, 5, padding_idx=2), "weight"),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), "weight"),
    "attention": (lambda: nn.MultiheadAttention(8, 2), "in_proj_weight"),
    "cell": (lambda: nn.GRUCell(3, 5), "weight_hh"),
}
DIMS = pytest.mark.parametrize("dim", [0, 1, None])


@DIMS
@pytest.mark.parametrize(("factory", "name"), LAYERS.values(), ids=LAYERS)
def test_weight_norm_zero(factory: Callable[[], nn.Module], name: str, dim: int | None) -> None:
    layer = weight_norm(factory(), name, dim)
    magnitude, direction = stored(layer, name).values()
    before, kept = Look.of(layer), raw(direction)
    assert init_zero_(layer) is layer
    assert Look.of(layer) == before
    assert not magnitude.any()
    rows = None if getattr(layer, "padding_idx", None) is None or dim == 1 else layer.padding_idx
    if rows is None:
        assert raw(direction) == kept
    weight = getattr(layer, name)
    assert weight.isfinite().all()
    assert not weight.any()
    (weight * torch.randn_like(weight)).sum().backward()
    assert magnitude.grad.isfinite().all()
    assert magnitude.grad.any(), "the layer could never leave zero"
    assert direction.grad.isfinite().all()


@DIMS
@pytest.mark.parametrize("scheme", [name for name in FAMILY if name not in ("zero", "identity", "dirac")])
@pytest.mark.parametrize(("factory", "name"), LAYERS.values(), ids=LAYERS)
def test_weight_norm_gives_the_effective_weight(
    factory: Callable[[], nn.Module], name: str, scheme: str, dim: int | None
) -> None:
    call, keywords = FAMILY[scheme].call, {"seed": 3} if FAMILY[scheme].random else {}
    expected = call(factory(), **keywords, bias=0.25)
    layer = weight_norm(factory(), name, dim)
    before = Look.of(layer)
    call(layer, **keywords, bias=0.25)
    assert Look.of(layer) == before
    for parameter, value in expected.named_parameters():
        given = layer.get_parameter(parameter) if parameter != name else getattr(layer, name)
        torch.testing.assert_close(given.detach(), value.detach(), rtol=1e-6, atol=0)
    magnitude, _ = stored(layer, name).values()
    torch.testing.assert_close(magnitude.detach(), lengths(getattr(layer, name), dim), rtol=1e-5, atol=0)
    getattr(layer, name).sum().backward()
    assert all(p.grad.isfinite().all() for p in stored(layer, name).values()), "a row of zeros has lost its direction"


@DIMS
def test_weight_norm_default(dim: int | None) -> None:
    expected = init_default_(nn.Linear(6, 4), seed=1)
    layer = init_default_(weight_norm(nn.Linear(6, 4), dim=dim), seed=1)
    torch.testing.assert_close(layer.weight, expected.weight, rtol=1e-6, atol=0)
    assert torch.equal(layer.bias, expected.bias)


@DIMS
def test_weight_norm_keeps_the_kind_of_the_weight(dim: int | None) -> None:
    """With dim=None the first stored tensor is a single number, the weight is still a matrix."""
    (weight,) = (entry for entry in zeta.plan(weight_norm(nn.Linear(6, 4), dim=dim), "torch") if entry.name == "weight")
    assert weight.kind == "weight"
    assert weight.shape == (4, 6)


def test_weight_norm_after_zero_and_after_nan() -> None:
    layer = weight_norm(nn.Linear(6, 4))
    init_normal_(init_zero_(layer), seed=1)
    torch.testing.assert_close(layer.weight, init_normal_(nn.Linear(6, 4), seed=1).weight, rtol=1e-6, atol=0)
    with torch.no_grad():
        stored(layer)["original1"].fill_(math.nan)
    assert not init_zero_(layer).weight.any()
    with torch.no_grad():
        stored(layer)["original1"].zero_()
    assert not init_zero_(layer).weight.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_weight_norm_dtypes(dtype: torch.dtype) -> None:
    layer = weight_norm(nn.Linear(64, 32)).to(dtype)
    before = Look.of(layer)
    expected = init_normal_(nn.Linear(64, 32).to(dtype), std=0.02, seed=1).weight.detach()
    weight = init_normal_(layer, std=0.02, seed=1).weight.detach()
    torch.testing.assert_close(weight, expected, rtol=4 * torch.finfo(dtype).eps, atol=0)
    assert not init_zero_(layer).weight.any()
    assert Look.of(layer) == before


@pytest.mark.parametrize("created", [True, False])
@pytest.mark.parametrize("called", [True, False])
def test_inference_mode(created: bool, called: bool) -> None:
    with torch.inference_mode(created):
        model = nn.Sequential(weight_norm(nn.Linear(6, 4)), orthogonal(nn.Linear(4, 4)))
        plain = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 4))
    with torch.inference_mode(called):
        init_orthogonal_(model, seed=1)
        init_orthogonal_(plain, seed=1)
    with torch.no_grad():
        for given, expected in zip(model, plain, strict=True):
            torch.testing.assert_close(given.weight, expected.weight, rtol=0, atol=1e-5)


def test_apply_on_a_normalized_model() -> None:
    """``apply`` also visits the modules that hold the stored tensors: these are the layer's business."""
    model = nn.Sequential(weight_norm(nn.Linear(6, 4)), nn.ReLU())
    direction = raw(stored(model[0])["original1"])
    model.apply(init_zero_)
    assert not model[0].weight.any()
    assert raw(stored(model[0])["original1"]) == direction


# -- spectral_norm -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["normal", "ones", "uniform", "xavier_uniform", "kaiming_normal", "orthogonal"])
@pytest.mark.parametrize("factory", [lambda: nn.Linear(6, 4), lambda: nn.Conv2d(4, 6, 3)], ids=["linear", "conv"])
def test_spectral_norm_stores_the_values_with_a_notice(scheme: str, factory: Callable[[], nn.Module]) -> None:
    call, keywords = FAMILY[scheme].call, {"seed": 3} if FAMILY[scheme].random else {}
    layer = nn.Sequential(spectral_norm(factory()))
    before = Look.of(layer)
    with pytest.warns(ZetaNotice, match=r"0\.weight is under spectral_norm.*tensor underneath") as caught:
        call(layer, **keywords)
    assert len(caught) == 1
    assert dataclasses.replace(Look.of(layer), buffers=before.buffers) == before
    expected = call(nn.Sequential(factory()), **keywords)[0]
    assert raw(stored(layer[0])["original"]) == raw(expected.weight)
    assert not layer[0].bias.any()
    for _ in range(30):
        weight = layer[0].weight
    assert float(torch.linalg.matrix_norm(weight.detach().flatten(1), 2)) == pytest.approx(1, rel=1e-2)


@pytest.mark.filterwarnings("ignore::zeta.errors.ZetaNotice")
def test_spectral_norm_has_the_singular_vectors_of_the_new_values() -> None:
    """With the old ones, the norm came out as 14.7 before any training step."""
    layer = init_normal_(spectral_norm(nn.Linear(64, 64)), std=0.02, seed=0).eval()
    assert float(torch.linalg.matrix_norm(layer.weight.detach(), 2)) == pytest.approx(1, rel=0.02)
    other = init_normal_(spectral_norm(nn.Linear(64, 64)), std=0.02, seed=0)
    assert state(other) == state(layer), "the vectors depend on what was there"
    plan = zeta.plan(layer, zeta.Rules([zeta.Rule("*", zeta.initializers.Normal(0.02))]))
    zeta.apply_(layer, plan, seed=1)
    assert zeta.verify(layer, plan, seed=1).ok


def test_parametrizations_that_do_not_go_together_are_refused() -> None:
    layer = weight_norm(spectral_norm(nn.Linear(3, 3)))
    with pytest.raises(TargetError, match="weight is parametrized by SpectralNorm, whose right_inverse refuses"):
        init_normal_(layer)


def test_spectral_norm_cannot_be_zero() -> None:
    model = nn.Sequential(nn.Linear(3, 3), spectral_norm(nn.Linear(3, 3)))
    before = state(model)
    for call in (init_zero_, lambda m: init_constant_(m, 0.0), lambda m: init_normal_(m, std=0.0)):
        with pytest.raises(TargetError, match=r"1\.weight is under spectral_norm.*Remove the parametrization"):
            call(model)
    assert state(model) == before


def test_a_notice_that_is_an_error_comes_before_the_first_write() -> None:
    model = nn.Sequential(nn.Linear(3, 3), spectral_norm(nn.Linear(3, 3)))
    before = state(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ZetaNotice):
            init_normal_(model)
    assert state(model) == before


def test_planning_does_not_advance_the_power_iteration() -> None:
    layer = spectral_norm(nn.Linear(30, 20))
    before = state(layer)
    zeta.plan(layer, "torch")
    assert state(layer) == before


# -- orthogonal --------------------------------------------------------------------------------------------------------

SHAPES = pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7), (1, 4)], ids=str)


@SHAPES
@pytest.mark.parametrize("through", ["matrix_exp", "cayley", "householder"])
def test_orthogonal_is_what_the_plain_layer_gets(through: str, shape: tuple[int, int]) -> None:
    expected = init_orthogonal_(nn.Linear(*shape), seed=3).weight
    layer = orthogonal(nn.Linear(*shape), orthogonal_map=through)
    identities, rng = Look.of(layer).parameters, torch.get_rng_state()
    assert init_orthogonal_(layer, seed=3) is layer
    assert Look.of(layer).parameters == identities
    assert torch.equal(torch.get_rng_state(), rng)
    torch.testing.assert_close(layer.weight, expected, rtol=0, atol=1e-5)
    assert not layer.bias.any()
    first = state(layer)
    torch.rand(3)
    assert state(init_orthogonal_(layer, seed=3)) == first, "what is stored depends on more than the seed"


@SHAPES
@pytest.mark.parametrize("trivialization", [True, False])
@pytest.mark.parametrize(
    "call", [init_zero_, init_normal_, init_ones_, init_default_, lambda m: init_orthogonal_(m, 2)]
)
def test_orthogonal_cannot_be_anything_else(
    call: Callable[[nn.Module], Any], shape: tuple[int, int], trivialization: bool
) -> None:
    if shape[0] == 1 and call is init_normal_:
        pytest.skip("a sign is all there is")
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": orthogonal(nn.Linear(*shape), use_trivialization=trivialization)})
    before = state(model)
    with pytest.raises(TargetError, match=r"b\.weight is parametrized by _?Orthogonal"):
        call(model)
    assert state(model) == before
    # and without the first layer
    with pytest.raises(TargetError, match="Orthogonal"):
        call(model["b"])
    assert state(model) == before


def test_refused_after_a_spectral_norm() -> None:
    """Nothing moves, not even the vectors of the power iteration."""
    model = nn.Sequential(spectral_norm(nn.Linear(30, 20)), orthogonal(nn.Linear(4, 4)))
    before = state(model)
    for call in (init_default_, init_normal_):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZetaNotice)
            with pytest.raises(TargetError, match=r"1\.weight"):
                call(model)
        assert state(model) == before


def test_apply_on_an_orthogonal_model() -> None:
    model = nn.Sequential(orthogonal(nn.Linear(4, 4)))
    before = state(model)
    with pytest.raises(TargetError, match="Orthogonal"):
        model.apply(init_zero_)
    assert state(model) == before


# -- one's own ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [(Scale,), (Learned,), (Scale, Scale), (Learned, Scale)], ids=str)
@pytest.mark.parametrize("scheme", ["zero", "constant", "normal", "xavier_uniform", "orthogonal", "identity", "sparse"])
def test_invertible(parts: tuple[type[nn.Module], ...], scheme: str) -> None:
    call, keywords = FAMILY[scheme].call, {"seed": 3} if FAMILY[scheme].random else {}
    layer = registered(nn.Linear(5, 5), *(part() for part in parts))
    before = Look.of(layer)
    call(layer, **keywords)
    assert Look.of(layer) == before
    assert torch.equal(layer.weight, call(nn.Linear(5, 5), **keywords).weight)  # powers of two: exact
    assert not layer.bias.any()
    for part in layer.parametrizations.weight:
        assert getattr(part, "factor", 4) == 4, "the parametrization's own parameter was written"


def test_symmetric() -> None:
    layer = registered(nn.Linear(4, 4), Symmetric())
    assert torch.equal(init_identity_(layer, 3.0).weight, 3 * torch.eye(4))
    assert torch.equal(init_constant_(layer, 0.5).weight, torch.full((4, 4), 0.5))
    assert not init_zero_(layer).weight.any()
    before = state(layer)
    with pytest.raises(TargetError, match=r"weight is parametrized by Symmetric, and cannot be what was asked"):
        init_normal_(layer)
    assert state(layer) == before


@pytest.mark.parametrize("parts", [(OneWay,), (Scale, OneWay), (OneWay, Scale)], ids=str)
def test_without_right_inverse(parts: tuple[type[nn.Module], ...]) -> None:
    layer = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    for part in parts:  # torch warns that the layer cannot be assigned to
        parametrize.register_parametrization(layer[1], "weight", part(), unsafe=True)
    before = state(layer)
    for call in (init_zero_, init_normal_, init_default_):
        with pytest.raises(TargetError, match=r"1\.weight is parametrized by OneWay, which has no right_inverse"):
            call(layer)
        with pytest.raises(TargetError, match="Define right_inverse"):
            call(layer)
    assert state(layer) == before


def test_weight_norm_with_another_on_top() -> None:
    layer = registered(weight_norm(nn.Linear(6, 4)), Scale())
    direction = raw(stored(layer)["original1"])
    assert not init_zero_(layer).weight.any()
    assert raw(stored(layer)["original1"]) == direction
    expected = init_normal_(nn.Linear(6, 4), seed=1).weight
    torch.testing.assert_close(init_normal_(layer, seed=1).weight, expected, rtol=1e-6, atol=0)


def test_two_stored_tensors_of_another_shape() -> None:
    layer = nn.Linear(3, 4)
    init_ones_(layer)
    registered(layer, Product())
    assert {tuple(t.shape) for t in stored(layer).values()} == {(4,), (3,)}
    before = Look.of(layer)
    assert torch.equal(init_constant_(layer, 0.5).weight, torch.full((4, 3), 0.5))
    assert Look.of(layer) == before
    bytes_before = state(layer)
    with pytest.raises(TargetError, match="Product, and cannot be what was asked"):
        init_normal_(layer)
    assert state(layer) == bytes_before


def test_a_parametrized_bias() -> None:
    layer = registered(nn.Linear(3, 4), Scale(), name="bias")
    assert (init_normal_(layer, bias=0.5).bias == 0.5).all()
    assert (init_normal_(layer, bias=None).bias == 0.5).all()
    assert not init_zero_(layer).bias.any()


def test_the_name_of_the_weight_decides_the_values() -> None:
    """The stored tensor's own name is another one; the layers beside it must not notice either."""
    plain = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    wrapped = copy.deepcopy(plain)
    registered(wrapped[0], Scale())
    init_normal_(plain, seed=1)
    init_normal_(wrapped, seed=1)
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(plain, wrapped, strict=True))


@pytest.mark.parametrize("part", [Scale, Noisy, weight_norm, orthogonal], ids=["scale", "noisy", "norm", "orthogonal"])
@pytest.mark.parametrize("call", [init_orthogonal_, init_default_])
def test_torch_generators_are_left_alone(part: Callable[..., Any], call: Callable[..., Any]) -> None:
    if part is orthogonal and call is init_default_:
        pytest.skip("refused")
    layer = nn.Linear(7, 3)
    layer = registered(layer, part()) if isinstance(part, type) else part(layer)
    before = torch.get_rng_state()
    call(layer, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


# -- the deprecated hooks ----------------------------------------------------------------------------------------------


class Hooked(nn.Module):
    """As in many audio models: the weight is an attribute that a hook computes before each forward pass."""

    def __init__(self, norm: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.conv = norm(nn.Conv1d(4, 6, 3))
        self.recurrent = norm(nn.LSTM(3, 2), "weight_hh_l0")
        self.up = norm(nn.ConvTranspose1d(6, 3, 4), dim=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.recurrent(self.up(self.conv(x)).transpose(1, 2))[0]
        return y


@pytest.mark.parametrize("norm", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated:FutureWarning")
def test_deprecated_hooks_are_recorded(norm: Callable[..., nn.Module]) -> None:
    assert twin(lambda: Hooked(norm)).different == []
    model, recorded = zeta.record(Hooked, norm)
    assert model.conv.weight.is_meta
    assert recorded["conv.weight_v" if norm is nn.utils.weight_norm else "conv.weight_orig"].rule.startswith(
        "test_parametrized.py"
    )
    assert zeta.materialize_(model, recorded, seed=3).ok
    assert zeta.verify(model, recorded, 3).ok
    live = Hooked(norm)
    zeta.apply_(live, recorded, 3)
    x = torch.randn(2, 4, 9)
    with torch.no_grad():
        for one in (model, live):  # the attribute is up to date: what a forward pass computes is what stands there
            before = one.conv.weight.clone()
            hook = next(iter(one.conv._forward_pre_hooks.values()))
            expected = hook.compute_weight(one.conv) if norm is nn.utils.weight_norm else one.conv.weight_orig
            assert torch.equal(before, expected)
        assert torch.equal(model(x), live(x))


# -- parametrizations that store tensors themselves -------------------------------------------------------------------


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(3.0))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by

    def right_inverse(self, y: Tensor) -> Tensor:
        return y - self.by


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x

    def right_inverse(self, y: Tensor) -> Tensor:
        return y


class Adapted(nn.Module):
    """As LoRA is put on a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.full((2, 3), 0.5))
        self.up = nn.Parameter(torch.ones(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.up @ self.down

    def right_inverse(self, y: Tensor) -> Tensor:
        return y - self.up @ self.down


@pytest.mark.parametrize("part", [Shifted, Adapted])
def test_what_a_parametrization_stores_has_its_planned_values_when_the_weight_is_inverted(part: Any) -> None:
    def build() -> nn.Module:
        layer = nn.Linear(3, 4, bias=False)
        nn.init.ones_(layer.weight)
        return registered(layer, part())

    model, recorded = zeta.record(build)
    report = zeta.materialize_(model, recorded, 1)
    assert report.ok
    assert torch.equal(model.weight, build().weight)
    assert zeta.verify(model, recorded, 1).ok
    live = build()
    zeta.init_(live, Rules([Rule("parametrizations.*", Constant(2.0)), Rule("weight", Ones())]), seed=0)
    assert torch.equal(live.weight, torch.ones(4, 3))


def test_a_count_of_calls_is_recorded_as_the_constructor_leaves_it() -> None:
    def build() -> nn.Module:
        return registered(nn.Linear(3, 4), Counting())

    model, recorded = zeta.record(build)
    zeta.materialize_(model, recorded, seed=0)
    assert model.parametrizations.weight[0].calls == build().parametrizations.weight[0].calls


def test_a_stored_tensor_that_is_also_another_parameter_is_refused() -> None:
    first, second = weight_norm(nn.Linear(3, 3, bias=False)), nn.Linear(3, 3, bias=False)
    second.weight = first.parametrizations.weight.original1
    before = second.weight.detach().clone()
    with pytest.raises(TargetError, match=r"0\.weight is parametrized, .* another parameter too.* untie them"):
        zeta.init_(nn.ModuleList([first, second]), Rules([Rule("*", Ones())]), seed=0)
    assert torch.equal(second.weight, before)


class Times(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.full((), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.g

    def right_inverse(self, y: Tensor) -> Tensor:
        return y / self.g


def test_a_weight_that_is_kept_must_not_change_with_what_it_is_computed_from() -> None:
    model = nn.Sequential(registered(nn.Linear(3, 3), Times()))
    before = model[0].weight.detach().clone()
    with pytest.raises(TargetError, match=r"0\.weight: is kept, but .* written with 0\.parametrizations\.weight\.0\.g"):
        zeta.init_(model, Rules([Rule("*.weight", Keep()), Rule("*", Ones())]), seed=0)
    everything = zeta.plan(model, Rules([Rule("*", Ones())]))
    with pytest.raises(TargetError, match=r"0\.weight: is kept"):
        zeta.apply_(model, everything, only="*.g", seed=0)
    assert torch.equal(model[0].weight, before)


def test_weights_that_share_what_they_are_computed_from_are_refused() -> None:
    first, second = (weight_norm(nn.Linear(3, 3, bias=False)) for _ in range(2))
    second.parametrizations.weight.original1 = first.parametrizations.weight.original1
    model = nn.ModuleDict({"first": first, "second": second})
    with pytest.raises(TargetError, match=r"second\.weight: is computed from a tensor that first\.weight is"):
        zeta.init_(model, Rules([Rule("*", Normal(1.0))]), seed=0)
    with pytest.raises(TargetError, match=r"second\.weight: is kept, but .* written with first\.weight"):
        zeta.init_(model, Rules([Rule("first.weight", Normal(1.0)), Rule("*", Keep())]), seed=0)


@pytest.mark.parametrize("original", ["original0", "original1"])
@pytest.mark.parametrize("other", [Constant(2.0), Keep()], ids=["written", "kept"])
def test_memory_that_any_original_shares_is_refused(original: str, other: Initializer) -> None:
    model: Any = nn.Module()
    model.l = weight_norm(nn.Linear(4, 4, bias=False))
    model.other = nn.Parameter(stored(model.l)[original].data)
    before = [tensor.clone() for tensor in stored(model.l).values()]
    rules = Rules([Rule("l.weight", Normal(1.0)), Rule("other", other)])
    with pytest.raises(TargetError, match=r"shares the memory of (l\.weight|other)"):
        zeta.init_(model, rules, seed=0)
    assert all(torch.equal(*pair) for pair in zip(before, stored(model.l).values(), strict=True))


@pytest.mark.filterwarnings("ignore:l.weight is under spectral_norm")
def test_memory_that_a_vector_of_spectral_norm_shares_is_refused() -> None:
    model: Any = nn.Module()
    model.l = spectral_norm(nn.Linear(4, 4, bias=False))
    model.other = nn.Parameter(model.l.parametrizations.weight[0]._u)
    with pytest.raises(TargetError, match=r"shares the memory of (l\.weight|other)"):
        zeta.init_(model, Rules([Rule("l.weight", Normal(1.0)), Rule("other", Ones())]), seed=0)


def test_originals_of_one_weight_in_the_same_memory_are_refused() -> None:
    layer = weight_norm(nn.Linear(4, 4, bias=False))
    layer.parametrizations.weight.original0.data = stored(layer)["original1"].data[:, :1]
    with pytest.raises(TargetError, match="weight: is computed from tensors that share memory"):
        zeta.init_(layer, Rules([Rule("*", Normal(1.0))]), seed=0)


def test_the_notice_of_spectral_norm_names_the_line_that_called() -> None:
    layer = spectral_norm(nn.Linear(3, 3))
    with pytest.warns(ZetaNotice, match="is under spectral_norm") as caught:
        zeta.utils.init_normal_(layer, seed=0)
    assert [one.filename for one in caught] == [__file__]


STORED: dict[str, tuple[Callable[[nn.Linear], nn.Module], Callable[[Any], Tensor]]] = {
    "a length": (weight_norm, lambda layer: layer.parametrizations.weight.original0),
    "a direction": (weight_norm, lambda layer: layer.parametrizations.weight.original1),
    "a part of a direction": (weight_norm, lambda layer: layer.parametrizations.weight.original1[1:3]),
    "the base of an orthogonal matrix": (orthogonal, lambda layer: layer.parametrizations.weight[0].base),
    "a singular vector": (spectral_norm, lambda layer: layer.parametrizations.weight[0]._u),
}


@pytest.mark.parametrize("only", [None, ["other"]])
@pytest.mark.parametrize("stored", STORED)
def test_what_a_kept_weight_is_computed_from_is_not_written_by_another_name(stored: str, only: Any) -> None:
    wrap, of = STORED[stored]
    model = nn.Module()
    model.layer = wrap(nn.Linear(4, 4, bias=False)).eval()
    model.other = nn.Parameter(of(model.layer).data)
    before = model.layer.weight.detach().clone()
    with pytest.raises(TargetError, match=r"(layer\.weight|other): shares the memory of (layer\.weight|other)"):
        zeta.init_(model, Rules([Rule("other", Normal(1.0)), Rule("layer.weight", Keep())]), seed=0, only=only)
    assert torch.equal(model.layer.weight, before)


class Factor(nn.Module):
    """Times a tensor that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = [torch.tensor([2.0])]

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor[0]

    def right_inverse(self, x: Tensor) -> Tensor:
        return x / self.factor[0]


@pytest.mark.parametrize("first", [Keep(), Normal(1.0)])
def test_plain_tensors_of_a_parametrization_count(first: Initializer) -> None:
    model: Any = nn.Module()
    model.layer = nn.Linear(2, 2, bias=False)
    parametrize.register_parametrization(model.layer, "weight", Factor())
    model.other = nn.Parameter(model.layer.parametrizations.weight[0].factor[0].data)
    before = model.layer.weight.detach().clone()
    with pytest.raises(TargetError, match="shares the memory of"):
        zeta.init_(model, Rules([Rule("layer.weight", first), Rule("other", Normal(1.0))]), seed=0)
    assert torch.equal(model.layer.weight, before)


def test_one_factor_of_a_deprecated_weight_norm_gets_its_values_before_the_other() -> None:
    def build() -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            return nn.Sequential(torch.nn.utils.weight_norm(nn.Linear(4, 3)))

    (model, plan), (whole, _) = zeta.record(build), zeta.record(build)
    zeta.materialize_(whole, plan, seed=0, device="cpu")
    for name in ("0.weight_v", "0.*"):
        zeta.materialize_(model, plan, seed=0, device="cpu", only=[name])
    assert torch.equal(model[0].weight_v, whole[0].weight_v)  # type: ignore[index]
    assert torch.equal(model[0].weight, whole[0].weight)  # type: ignore[index]
