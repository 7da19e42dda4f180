"""What ``forward`` says of a parameter: fans and kinds of layers that zeta has never seen, worked out by hand."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeta.base.usage import attends, normalizes
from zeta.errors import FanError
from zeta.fans import Axes, axes_of
from zeta.resolve.kinds import kind_of

SHAPE = (4, 6, 10)


class Weighted(nn.Module):
    shape: tuple[int, ...] = SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(self.shape))


class ByEinsum(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("eti,eoi->eto", x, self.w)


class ByMixing(Weighted):
    """Every expert is summed over, as one dense layer."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("...i, eij -> ...j", x, self.w)


def loop(w: Tensor, x: Tensor, counts: Tensor) -> Tensor:
    parts = []
    for number, part in enumerate(torch.split(x, counts.tolist())):
        parts.append(F.silu(torch.matmul(part, w[number].transpose(-2, -1))))
    return torch.cat(parts)


def sharded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def wrapper(w: Tensor, x: Tensor, counts: Tensor) -> Tensor:
        if hasattr(w, "to_local"):
            w = w.to_local()
        return function(w, x, counts)

    return wrapper


class ByFunction(Weighted):
    """Handed to a decorated function, as torchtitan's grouped experts."""

    def forward(self, x: Tensor, counts: Tensor) -> Tensor:
        return run(self.w, x, counts)


run = sharded(loop)


class ByLinear(Weighted):
    """JetMoe's way."""

    def forward(self, x: Tensor, sizes: list[int]) -> Tensor:
        parts = x.split(sizes, dim=0)
        return torch.cat([F.linear(parts[i], self.w[i]) for i in range(4)])


class ByMethod(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return self.mixed(x, weight=self.w.to(x.dtype))

    def mixed(self, x: Tensor, *, weight: Tensor) -> Tensor:
        first, second = weight.permute(0, 2, 1).contiguous().chunk(2, dim=1)
        return torch.bmm(x, first) * torch.bmm(x, second)


class ByIterating(Weighted):
    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        return [x @ w.T for x, w in zip(xs, self.w, strict=True)]


class ByUnbinding(Weighted):
    shape = (2, 6, 10)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.w.unbind(0)
        return torch.mm(x, one) + torch.mm(x, two)


class ByGate(Weighted):
    """Gate and value side by side, taken apart behind the product."""

    def forward(self, x: Tensor) -> Tensor:
        both = torch.baddbmm(self.shift, x, self.w)
        gate, value = both.chunk(2, dim=-1)
        return F.silu(gate) * value


class FromTheLeft(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return self.w @ x


class Plain(Weighted):
    """A plain kernel that is stored as (in, out)."""

    shape = (6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w * self.scale


class Table(Weighted):
    shape = (6, 10)

    def forward(self, x: Tensor) -> Tensor:
        return F.embedding(x, self.w)


class Static(Weighted):
    @staticmethod
    def project(x: Tensor, w: Tensor) -> Tensor:
        return x.matmul(w.mT)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(x, self.w)


EACH = {"batch": (0,)}
USED: dict[type[Weighted], Axes] = {
    ByEinsum: Axes(fan_in=(2,), fan_out=(1,), **EACH),
    ByMixing: Axes(fan_in=(0, 1), fan_out=(2,)),
    ByFunction: Axes(fan_in=(2,), fan_out=(1,), **EACH),
    ByLinear: Axes(fan_in=(2,), fan_out=(1,), **EACH),
    ByMethod: Axes(fan_in=(2,), fan_out=(1,), blocks=((2, 2),), **EACH),
    ByIterating: Axes(fan_in=(2,), fan_out=(1,), **EACH),
    ByUnbinding: Axes(fan_in=(1,), fan_out=(2,), **EACH),
    ByGate: Axes(fan_in=(1,), fan_out=(2,), blocks=((2, 2),), **EACH),
    FromTheLeft: Axes(fan_in=(2,), fan_out=(1,), **EACH),
    Plain: Axes(fan_in=(0,), fan_out=(1,)),
    Table: Axes(fan_in=(), fan_out=(1,), lookup=(0,)),
    Static: Axes(fan_in=(2,), fan_out=(1,), **EACH),
}


@pytest.mark.parametrize("layer", USED, ids=lambda layer: layer.__name__)
def test_a_product_says_what_is_summed_over(layer: type[Weighted]) -> None:
    module = layer()
    assert axes_of(module, "w", module.w.shape) == USED[layer]


class BothWays(Weighted):
    def forward(self, x: Tensor, turned: bool) -> Tensor:
        w = self.w.transpose(1, 2) if turned else self.w
        return x @ w


class Reshaped(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w.reshape(-1, 10)


class Elementwise(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return (x * self.w) @ x.mT


class HandedAway(Weighted):
    def forward(self, x: Tensor) -> Any:
        return getattr(torch.ops, "some").experts(x, self.w)  # noqa: B009


class Unused(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x


class MoEExperts(Weighted):
    """By its name it would hold experts; nothing says how they are stored."""


class Amoebas(MoEExperts):
    def forward(self, x: Tensor) -> Tensor:
        return x + self.w


def unreadable() -> type[Weighted]:
    scope: dict[str, Any] = {"Weighted": Weighted}
    exec("class Written(Weighted):\n    def forward(self, x):\n        return x @ self.w\n", scope)
    return scope["Written"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "layer",
    [BothWays, Reshaped, Elementwise, HandedAway, Unused, MoEExperts, Amoebas, unreadable()],
    ids=lambda layer: layer.__name__,
)
def test_what_cannot_be_told_is_asked_for(layer: type[Weighted]) -> None:
    module = layer()
    with pytest.raises(FanError, match=rf"{layer.__name__}.w of shape \(4, 6, 10\): it is not known .* Pass axes="):
        axes_of(module, "w", module.w.shape)


# -- code that is not what it seems ------------------------------------------------------------------------------------


def linear(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


class OwnLinear(Weighted):
    """A function called as torch's, which it is not."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.w)


class OwnMatmul(Weighted):
    def matmul(self, w: Tensor, x: Tensor) -> Tensor:
        return x @ w

    def forward(self, x: Tensor) -> Tensor:
        return self.matmul(self.w, x)


class AfterAnother(Weighted):
    """What is taken apart is another layer's result."""

    def forward(self, x: Tensor) -> Any:
        return self.out(x @ self.w).chunk(2, dim=-1)


class Child(ByEinsum):
    def forward(self, x: Tensor) -> Tensor:
        return self.extra(x)


SEEMING: dict[type[Weighted], Axes] = {
    OwnLinear: Axes(fan_in=(1,), fan_out=(2,), **EACH),
    OwnMatmul: Axes(fan_in=(1,), fan_out=(2,), **EACH),
    AfterAnother: Axes(fan_in=(1,), fan_out=(2,), **EACH),
}


@pytest.mark.parametrize("layer", SEEMING, ids=lambda layer: layer.__name__)
def test_names_are_not_taken_for_what_they_remind_of(layer: type[Weighted]) -> None:
    module = layer()
    assert axes_of(module, "w", module.w.shape) == SEEMING[layer]


class SuperCalled(ByEinsum):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mT)


class LocalImport(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        import torch as th

        return th.bmm(self.w, x)


class AliasedModule(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        xp = torch
        return xp.bmm(self.w, x)


class ByTensorMethod(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return torch.Tensor.bmm(self.w, x)


class Accumulated(Weighted):
    def forward(self, x: Tensor, acc: Tensor) -> Tensor:
        return acc.baddbmm(x, self.w)


class RowsByIndex(Weighted):
    """An index may be a number, numbers, a slice or a tuple."""

    def forward(self, x: Tensor, rows: Tensor) -> Tensor:
        return x @ self.w[rows]


class Starred(Weighted):
    def forward(self, *xs: Tensor) -> Tensor:
        return torch.bmm(*xs, self.w)


class Tried(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        try:
            w = self.w.to_local()
        except AttributeError:
            w = self.w.mT
        return x @ w


class Turning(Weighted):
    def forward(self, x: Tensor, n: int) -> Tensor:
        w = self.w
        for _ in range(n):
            w = w.transpose(1, 2)
        return x @ w


class Nested(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        w = self.w

        def inner() -> Tensor:
            return x @ w.mT

        return inner() + x @ w


class InALambda(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return (lambda: x @ self.w.mT)() + x @ self.w


class Matching(Weighted):
    def forward(self, x: Tensor, how: str) -> Tensor:
        w = self.w
        match how:
            case "turned":
                w = w.mT
        return x @ w


class Checkpointed(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(self.inner, x) + x @ self.w

    def inner(self, x: Tensor) -> Tensor:
        return x @ self.w.mT


class AllDimensions(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w.T


class Elsewhere(Weighted):
    """The parameter is used in another method, too."""

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w

    def decode(self, x: Tensor) -> Tensor:
        return x @ self.w.mT


class ByTheDoor(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return x @ self._parameters["w"].mT + x @ self.w  # type: ignore[union-attr, no-any-return]


class HandsItselfOver(Weighted):
    def forward(self, x: Tensor) -> Tensor:
        return run(self, x, x) + x @ self.w  # type: ignore[arg-type]


class Fanning(Weighted):
    """Calls that would take hours to follow."""

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) @ self.w

    def a(self, x: Any) -> Any:
        return [self.b(x), self.b(x), self.b(x), self.b(x), self.b(x), self.b(x), self.b(x), self.b(x), self.b(x)]

    def b(self, x: Any) -> Any:
        return [self.c(x), self.c(x), self.c(x), self.c(x), self.c(x), self.c(x), self.c(x), self.c(x), self.c(x)]

    def c(self, x: Any) -> Any:
        return [self.d(x), self.d(x), self.d(x), self.d(x), self.d(x), self.d(x), self.d(x), self.d(x), self.d(x)]

    def d(self, x: Any) -> Any:
        return [self.e(x), self.e(x), self.e(x), self.e(x), self.e(x), self.e(x), self.e(x), self.e(x), self.e(x)]

    def e(self, x: Any) -> Any:
        return [self.a(x), self.a(x), self.a(x), self.a(x), self.a(x), self.a(x), self.a(x), self.a(x), self.a(x)]


class ChunkedExperts(Weighted):
    """The first dimension is taken apart, which numbers them."""

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.w.chunk(2)
        return x @ one + x @ two


class ChunkedUnevenly(Weighted):
    shape = (4, 6, 5)

    def forward(self, x: Tensor) -> Any:
        return torch.bmm(x, self.w).chunk(2, dim=-1)


UNSURE = [
    *(
        SuperCalled,
        LocalImport,
        AliasedModule,
        ByTensorMethod,
        Accumulated,
        RowsByIndex,
        Starred,
        Tried,
        Turning,
        Nested,
        ChunkedExperts,
        ChunkedUnevenly,
    ),
    *(InALambda, Matching, Checkpointed, AllDimensions, Elsewhere, ByTheDoor, HandsItselfOver, Fanning, Child),
]


@pytest.mark.parametrize("layer", UNSURE, ids=lambda layer: layer.__name__)
def test_what_is_not_certain_is_asked_for(layer: type[Weighted]) -> None:
    module = layer()
    with pytest.raises(FanError, match="it is not known which dimensions are in and out"):
        axes_of(module, "w", module.w.shape)


def test_code_of_any_size_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "long_code.py").write_text(
        "from torch import nn\nclass Long(nn.Module):\n    def forward(self, x):\n"
        f"        return x @ self.w + {' + '.join(['x'] * 1500)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("long_code", None)
    module = importlib.import_module("long_code").Long()
    with pytest.raises(FanError, match="it is not known"):
        axes_of(module, "w", torch.Size(SHAPE))


# -- kinds -------------------------------------------------------------------------------------------------------------


class Vectors(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))


class ByHand(Vectors):
    def forward(self, x: Tensor) -> Tensor:
        return self.g * (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True) + 1e-5) + self.b


class RootMeanSquare(Vectors):
    def forward(self, x: Tensor) -> Tensor:
        return self._scaled(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)) + self.b

    def _scaled(self, x: Tensor) -> Tensor:
        return x.type_as(self.g) * self.g


class ByFunctional(Vectors):
    """A block that calls torch's function; it has other layers beside."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.layer_norm(x, (8,), self.g, self.b))


class ByNative(ByFunctional):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.native_layer_norm(x, (8,), self.g, self.b, 1e-5)[0])


class ByBatch(ByFunctional):
    """The function of torch that has scale and bias in other places than that of torch.nn.functional."""

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(torch.batch_norm(x, self.g, self.b, None, None, True, 0.1, 1e-5, False))


class ByKeyword(ByFunctional):
    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.group_norm(x, 2, weight=self.g, bias=self.b))


@pytest.mark.parametrize(
    "layer", [ByHand, RootMeanSquare, ByFunctional, ByNative, ByBatch, ByKeyword], ids=lambda layer: layer.__name__
)
def test_norms_are_known_by_what_they_do(layer: type[nn.Module]) -> None:
    module = layer()
    assert kind_of(module, "g", 1).value == "norm_scale"
    assert kind_of(module, "b", 1).value == "bias"


class NormalPolicy(Vectors):
    """Not a norm, whatever its name begins with."""

    def forward(self, x: Tensor) -> Any:
        return torch.distributions.Normal(x * self.g, self.b.exp())


class GaussNormalizer(Vectors):
    def forward(self, x: Tensor) -> Tensor:
        return (x - self.b) / self.g


def fused_norm(*arguments: Any) -> Tensor:
    raise NotImplementedError


class Clipped(Vectors):
    def forward(self, x: Tensor) -> Tensor:
        nn.utils.clip_grad_norm_([x], self.g)  # type: ignore[arg-type]
        return torch.norm(x, self.b)  # type: ignore[arg-type, no-any-return]


class UnknownNorm(Vectors):
    """Nobody knows in which order it takes its vectors."""

    def forward(self, x: Tensor) -> Tensor:
        return fused_norm(x, self.b, self.g)


class LayerScale(Vectors):
    def forward(self, x: Tensor) -> Tensor:
        return x * self.g


class OnePlus(Vectors):
    """Gemma's: one plus the parameter is the scale, so that it starts from zero."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True)) * (1.0 + self.g)


class Cosine(Vectors):
    """A classifier of directions, with a weight of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x), F.normalize(self.w)) * self.g


class Query(Vectors):
    """A token that is normalized itself."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.layer_norm(self.norm(self.g), (8,))


@pytest.mark.parametrize(
    "layer",
    [NormalPolicy, GaussNormalizer, Clipped, UnknownNorm, LayerScale, OnePlus, Cosine, Query],
    ids=lambda layer: layer.__name__,
)
def test_what_is_no_scale_of_a_norm(layer: type[nn.Module]) -> None:
    assert kind_of(layer(), "g", 1).value == "other"


@pytest.mark.parametrize(
    ("layer", "expected"), [(ByHand, True), (RootMeanSquare, True), (ByFunctional, True), (LayerScale, False)]
)
def test_normalizes(layer: type[nn.Module], expected: bool) -> None:
    assert normalizes(layer()) is expected


def test_a_wrapped_forward_is_looked_through() -> None:
    class Wrapped(ByEinsum):
        @functools.wraps(ByEinsum.forward)
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            return super().forward(*args, **kwargs)

    module = Wrapped()
    assert axes_of(module, "w", module.w.shape) == USED[ByEinsum]


def _mixed(x: Tensor, w: Tensor) -> Tensor:
    return x @ w


def _mixed_turned(x: Tensor, w: Tensor) -> Tensor:
    return x @ w.t()


def test_a_replaced_forward_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    class Layer(Weighted):
        shape = (4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return self.product(x)

        def product(self, x: Tensor) -> Tensor:
            return x @ self.w.t()

    def normalized(self: Any, x: Tensor) -> Tensor:
        return x @ self.w / x.var()

    def attention(self: Any, x: Tensor) -> Tensor:
        return torch.softmax(x @ self.w, -1) @ x

    def by_a_function(self: Any, x: Tensor) -> Tensor:
        return _mixed(x, self.w)

    def fan_in() -> tuple[int, ...]:
        return axes_of(Layer(), "w", Layer.shape).fan_in

    facts = [(fan_in(), normalizes(Layer()), attends(Layer()))]
    for method in (normalized, attention):
        monkeypatch.setattr(Layer, "product", method)
        facts.append((fan_in(), normalizes(Layer()), attends(Layer())))
    assert facts == [((1,), False, False), ((0,), True, False), ((0,), False, True)]
    monkeypatch.setattr(Layer, "product", by_a_function)
    assert fan_in() == (0,)
    monkeypatch.setitem(globals(), "_mixed", _mixed_turned)
    assert fan_in() == (1,)


_product: Any = torch.matmul
_namespace: Any = F


def test_names_of_torch_functions_and_code_are_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    class Flat(Weighted):
        shape = (4, 6)

    class ByName(Flat):
        def forward(self, x: Tensor) -> Tensor:
            product: Tensor = _product(x, self.w)
            return product

    class ByNamespace(Flat):
        def forward(self, x: Tensor) -> Tensor:
            product: Tensor = _namespace.linear(x, self.w)
            return product

    class ByCode(Flat):
        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    def other(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.w)

    def fan_in(layer: type[Flat]) -> tuple[int, ...]:
        return axes_of(layer(), "w", layer.shape).fan_in

    assert [fan_in(layer) for layer in (ByName, ByNamespace, ByCode)] == [(0,), (1,), (0,)]
    monkeypatch.setitem(globals(), "_product", F.linear)
    monkeypatch.setitem(globals(), "_namespace", SimpleNamespace(linear=torch.matmul))
    ByCode.forward.__code__ = other.__code__
    assert [fan_in(layer) for layer in (ByName, ByNamespace, ByCode)] == [(1,), (0,), (1,)]


def test_a_forward_of_an_instance_counts() -> None:
    class Layer(Weighted):
        shape = (4, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    def turned(self: Any, x: Tensor) -> Tensor:
        return F.linear(x, self.w) / x.std()

    wrapped, replaced = Layer(), Layer()
    assert (axes_of(replaced, "w", Layer.shape).fan_in, normalizes(replaced)) == ((0,), False)
    wrapped.forward = functools.update_wrapper(functools.partial(print, wrapped), wrapped.forward)
    replaced.forward = MethodType(turned, replaced)
    assert (axes_of(wrapped, "w", Layer.shape).fan_in, normalizes(wrapped)) == ((0,), False)
    assert (axes_of(replaced, "w", Layer.shape).fan_in, normalizes(replaced)) == ((1,), True)
