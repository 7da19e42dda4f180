"""PiSSA, OLoRA, LoRA-GA and VeRA on layers by hand: what is written, what stays, what is refused."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import zeta
from tests.helpers.sharded import fake_mesh
from zeta.adapters import AdapterReport, lora_ga_, olora_, pissa_, vera_, verify_vera
from zeta.compute import low_rank
from zeta.errors import LayerTypeError, PlanError, SpecError, TargetError, ZetaNotice

RANK, SCALING = 4, 2.0


class LoRA(nn.Module):
    """A linear layer with an adapter in linear layers."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.scaling = base, SCALING
        self.lora_A = nn.Linear(base.in_features, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, base.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.scaling * self.lora_B(self.lora_A(x))


class Inside(nn.Linear):
    """With parameters of the layer itself, which multiply from the right."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__(base.in_features, base.out_features)
        self.weight, self.bias, self.scale = base.weight, base.bias, SCALING
        self.lora_a = nn.Parameter(torch.randn(base.in_features, RANK))
        self.lora_b = nn.Parameter(torch.zeros(RANK, base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.scale * (x @ self.lora_a @ self.lora_b)


class Conv1D(nn.Module):
    """GPT-2's, as transformers has it: (in x out)."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.randn(nx, nf) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Transposed(nn.Module):
    """Around a Conv1D."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.scaling = Conv1D(base.out_features, base.in_features), {"default": SCALING}
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, RANK, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(RANK, base.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.scaling["default"] * self.lora_B["default"](self.lora_A["default"](x))


class Embedded(nn.Module):
    """An embedding with an adapter, as peft has it: A is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Embedding(30, 12, padding_idx=3)
        self.scaling = {"default": SCALING}
        self.lora_embedding_A = nn.ParameterDict({"default": torch.zeros(RANK, 30)})
        self.lora_embedding_B = nn.ParameterDict({"default": torch.randn(12, RANK)})

    def forward(self, ids: Tensor) -> Tensor:
        low = nn.functional.embedding(ids, self.lora_embedding_A["default"].T)
        return self.base_layer(ids) + SCALING * low @ self.lora_embedding_B["default"].T


WRAPPERS: list[type[Any]] = [LoRA, Inside, Transposed]


def network(wrapper: Callable[[nn.Linear], nn.Module] = LoRA, sizes: tuple[int, ...] = (16, 16, 24)) -> nn.Sequential:
    torch.manual_seed(0)
    pairs = itertools.pairwise(sizes)
    return nn.Sequential(*[part for into, out in pairs for part in (wrapper(nn.Linear(into, out)), nn.Tanh())])


def matrices(layer: nn.Module) -> tuple[Tensor, Tensor, Tensor]:
    """W, A and B as (out x in), (r x in) and (out x r), by what each class says of itself."""
    if isinstance(layer, LoRA):
        return layer.base.weight.detach(), layer.lora_A.weight.detach(), layer.lora_B.weight.detach()
    if isinstance(layer, Inside):
        return layer.weight.detach(), layer.lora_a.detach().T, layer.lora_b.detach().T
    if isinstance(layer, Transposed):
        return (
            layer.base_layer.weight.detach().T,
            layer.lora_A["default"].weight.detach(),
            layer.lora_B["default"].weight.detach(),
        )
    assert isinstance(layer, Embedded)
    return (
        layer.base_layer.weight.detach().T,
        layer.lora_embedding_A["default"].detach(),
        layer.lora_embedding_B["default"].detach(),
    )


def best(weight: Tensor, rank: int = RANK) -> Tensor:
    u, s, v = torch.linalg.svd(weight.double(), full_matrices=False)
    return u[:, :rank] * s[:rank] @ v[:rank]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model: nn.Module, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def assert_kept(weight: Tensor, layer: nn.Module) -> None:
    after, a, b = matrices(layer)
    assert float((after.double() + SCALING * b.double() @ a.double() - weight.double()).abs().max()) <= 2**-24
    assert not torch.allclose(after, weight, atol=1e-3)


# -- PiSSA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("iterations", [None, 8])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_pissa_of_layers_by_hand(wrapper: Callable[[nn.Linear], nn.Module], iterations: int | None) -> None:
    """The first layer is square, so that shapes do not say which way a matrix is stored."""
    model, x = network(wrapper), torch.randn(5, 16)
    layers = [model[0], model[2]]
    weights = [matrices(layer)[0].clone() for layer in layers]
    expected, identities = model(x), [id(p) for p in model.parameters()]
    report = pissa_(model, seed=0, iterations=iterations)
    for weight, layer, item in zip(weights, layers, report, strict=True):
        _, a, b = matrices(layer)
        assert torch.allclose(SCALING * b.double() @ a.double(), best(weight), atol=1e-6)
        assert torch.allclose(b.T @ b, a @ a.T, atol=1e-6)
        assert_kept(weight, layer)
        assert (item.rank, item.scaling) == (RANK, SCALING)
        assert item.share == pytest.approx(float(best(weight).norm() ** 2 / weight.double().norm() ** 2), rel=1e-5)
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert [id(p) for p in model.parameters()] == identities


def test_the_sketch_comes_from_the_stream_by_name() -> None:
    """In a large flat matrix, two iterations are few, so that the sketch decides digits."""

    def made(seed: int, only: str | None = None) -> nn.Sequential:
        model = network(sizes=(160, 160, 200))
        pissa_(model, seed, iterations=1, only=only)
        return model

    first, again, other, part = made(0), made(0), made(1), made(0, "2")
    for place in (0, 2):
        assert torch.equal(matrices(first[place])[1], matrices(again[place])[1])
        assert not torch.allclose(matrices(first[place])[1], matrices(other[place])[1], atol=1e-3)
    assert torch.equal(matrices(part[2])[1], matrices(first[2])[1])  # alone, as with all
    assert not matrices(part[0])[2].any()


def test_without_a_seed_torchs_generator_decides() -> None:
    drawn = []
    for number in (5, 5, 6):
        model = network()
        torch.manual_seed(number)
        drawn.append(pissa_(model).seed)
    assert drawn[0] == drawn[1] != drawn[2]


def test_exact_pissa_draws_nothing() -> None:
    model = network()
    state_before = torch.get_rng_state()
    report = pissa_(model, iterations=None)
    assert torch.equal(torch.get_rng_state(), state_before)
    assert report.seed is None
    assert "nothing drawn" in report.summary


def test_pissa_of_an_embedding() -> None:
    torch.manual_seed(0)
    model = Embedded()
    ids, weight = torch.arange(30), matrices(model)[0].clone()
    expected = model(ids)
    pissa_(model, iterations=None)
    _, a, b = matrices(model)
    assert torch.allclose(SCALING * b.double() @ a.double(), best(weight), atol=1e-6)
    assert torch.allclose(model(ids), expected, atol=1e-6)
    assert not model.base_layer.weight[3].any()  # the padding row, also once the adapter is trained
    assert not a[:, 3].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_of_the_base(dtype: torch.dtype) -> None:
    """A and B are fp32, as peft keeps them; the weight is rounded once, and the report says how far."""
    model = network()
    model[0].base.to(dtype)
    weight = model[0].base.weight.detach().double().clone()
    report = pissa_(model, 0, only="0", iterations=None)
    after, a, b = matrices(model[0])
    assert after.dtype is dtype
    assert a.dtype is torch.float32
    product = SCALING * b.double() @ a.double()
    assert torch.equal(after, (weight - product).to(dtype))
    difference = float((after.double() + product - weight).abs().max())
    assert report["0"].difference == pytest.approx(difference, rel=1e-9, abs=1e-18)
    assert difference <= torch.finfo(dtype).eps * float(after.double().abs().max())


def test_adapters_in_bf16_are_rounded_before_the_weight() -> None:
    model = network()
    weight = model[0].base.weight.detach().clone()
    model[0].lora_A.bfloat16()
    model[0].lora_B.bfloat16()
    pissa_(model, 0, only="0")
    assert_kept(weight, model[0])  # to fp32


# -- OLoRA -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_olora_of_layers_by_hand(wrapper: Callable[[nn.Linear], nn.Module]) -> None:
    model, x = network(wrapper), torch.randn(5, 16)
    weight, expected = matrices(model[0])[0].clone(), model(x)
    report = olora_(model)
    _, a, b = matrices(model[0])
    q, r = torch.linalg.qr(weight.double())
    assert torch.allclose(b.double() @ a.double(), q[:, :RANK] @ r[:RANK], atol=1e-6)
    assert (a.diagonal() > 0).all()
    assert_kept(weight, model[0])
    assert torch.allclose(model(x), expected, atol=1e-6)
    assert report.seed is None


# -- LoRA-GA -----------------------------------------------------------------------------------------------------------


def by_hand(model: nn.Sequential, x: Tensor, y: Tensor) -> list[Tensor]:
    """The gradients of both weights of mean squares, without autograd: tanh' is 1 - tanh²."""
    with torch.no_grad():
        first = model[1](model[0](x))
        second = model[3](model[2](first))
        back = 2 * (second - y) / y.numel() * (1 - second**2)
        weight, _, _ = matrices(model[2])
        before = (back @ weight) * (1 - first**2)
        return [before.T @ x, back.T @ first]


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("own_backward", [False, True])
def test_lora_ga_against_gradients_by_hand(wrapper: Callable[[nn.Linear], nn.Module], own_backward: bool) -> None:
    model = network(wrapper)
    model[0].requires_grad_(False)
    x, y = torch.randn(40, 16), torch.randn(40, 24)
    gradients, expected = by_hand(model, x, y), model(x)
    weights = [matrices(model[place])[0].clone() for place in (0, 2)]
    held = torch.ones_like(next(model[2].parameters()))
    next(model[2].parameters()).grad = held
    needed = [parameter.requires_grad for parameter in model.parameters()]

    def loss(model: nn.Sequential) -> Tensor | None:
        if not own_backward:
            return (model(x) - y).square().mean()
        for rows in (slice(0, 10), slice(10, 40)):
            ((model(x[rows]) - y[rows]).square().sum() / y.numel()).backward()
        return None

    lora_ga_(model, loss, seed=0)
    for place, gradient, weight in zip((0, 2), gradients, weights, strict=True):
        _, a, b = matrices(model[place])
        u, _, v = torch.linalg.svd(gradient.double(), full_matrices=False)
        for found, truth in ((b.T.double(), u[:, :RANK].T), (a.double(), v[RANK : 2 * RANK])):
            assert torch.allclose((found @ truth.T).abs(), torch.eye(RANK).double(), atol=1e-4)
        assert_kept(weight, model[place])
    assert torch.allclose(model(x), expected, atol=1e-5)
    assert [parameter.requires_grad for parameter in model.parameters()] == needed
    assert next(model[2].parameters()).grad is held
    assert all(parameter.grad is None for parameter in model[0].parameters())
    assert not any(parameter._post_accumulate_grad_hooks for parameter in model.parameters())


class Counting(nn.Module):
    """Keeps a number and a buffer that is replaced in each pass, and draws random numbers of three libraries."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        self.register_buffer("last", torch.zeros(16), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.last = x.detach().mean(0)
        return x * (1 + 0.1 * random.random() + 0.1 * float(np.random.rand()))


@pytest.mark.parametrize("raises", [False, True])
def test_a_pass_for_gradients_leaves_no_trace(raises: bool) -> None:
    """Running statistics, which decide what a model computes in evaluation mode, and random numbers do not move."""
    model = network()
    model.insert(1, Counting())
    model.insert(1, nn.BatchNorm1d(16))
    model.insert(1, nn.Dropout(0.3))
    x, held = torch.randn(40, 16), model[3].last
    before = {name: value.clone() for name, value in model.named_buffers()}
    drawn = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()

    def loss(model: nn.Module) -> Tensor:
        value: Tensor = model(x + torch.rand_like(x)).square().mean()
        if raises:
            raise ZeroDivisionError
        return value

    with pytest.raises(ZeroDivisionError) if raises else contextlib.nullcontext():
        lora_ga_(model, loss, seed=0)
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(now[0], drawn[0])
    assert now[1:] == drawn[1:]
    assert all(torch.equal(value, before[name]) for name, value in model.named_buffers())
    assert model[3].last is held
    assert model[3].passes == 0


def test_dropout_of_a_pass_for_gradients_is_of_the_seed() -> None:
    x, found = torch.randn(40, 16), []
    for state, seed in ((1, 0), (2, 0), (1, 3)):
        model = network()
        model.insert(1, nn.Dropout(0.5))
        torch.manual_seed(state)
        lora_ga_(model, lambda model: model(x).square().mean(), seed=seed)
        found.append(matrices(model[0])[1].clone())
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_one_gradient_is_there_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = network(sizes=(16, 16, 16, 16)), torch.randn(40, 16)
    there: list[int] = []
    original = low_rank.lora_ga

    def watched(gradient: Tensor, *args: Any, **options: Any) -> Any:
        there.append(sum(parameter.grad is not None for parameter in model.parameters()))
        return original(gradient, *args, **options)

    monkeypatch.setattr("zeta.compute.low_rank.lora_ga", watched)
    lora_ga_(model, lambda model: model(x).square().mean(), seed=0)
    assert there == [0, 0, 0]  # and the one that is passed


def test_the_papers_scale() -> None:
    x = torch.randn(40, 16)
    plain, scaled = network(), network()
    for model, gamma in ((plain, None), (scaled, 16.0)):
        lora_ga_(model, lambda model: model(x).square().mean(), seed=0, gamma=gamma)
    for place, out in ((0, 16), (2, 24)):
        for one, other in zip(matrices(plain[place])[1:], matrices(scaled[place])[1:], strict=True):
            assert torch.allclose(other, one * out**0.25 / math.sqrt(16.0), atol=1e-6)


def test_a_gradient_in_parts_is_refused_unless_it_is_summed_first() -> None:
    """A reentrant checkpoint has a backward pass inside of the backward pass."""
    x = torch.randn(40, 16, requires_grad=True)

    def loss(model: nn.Sequential) -> Tensor:
        halves = [checkpoint(model, part, use_reentrant=True).square().sum() for part in x.chunk(2)]
        return halves[0] + halves[1]

    model, other = network(), network()
    before = state(model)
    with pytest.raises(SpecError, match=r"base\.weight comes in several parts.*run the backward pass in the function"):
        lora_ga_(model, loss, seed=0)
    assert unchanged(model, before)
    lora_ga_(model, lambda model: loss(model).backward(), seed=0)
    lora_ga_(other, lambda model: model(x).square().sum(), seed=0)
    for one, two in zip(matrices(model[0]), matrices(other[0]), strict=True):
        assert torch.allclose(one, two, atol=1e-4)


def test_a_failed_backward_pass_leaves_everything() -> None:
    model, x = network(), torch.randn(40, 16)
    before, needed = state(model), [parameter.requires_grad for parameter in model.parameters()]

    def fails(model: nn.Module) -> Tensor:
        model(x).sum().backward()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        lora_ga_(model, fails, seed=0)
    few = torch.randn(7, 16)
    for backward, message in (
        (lambda model: model(few).square().mean(), r"(?s)gradients, as of more samples.*a rank below 8, twice that"),
        (lambda model: model(x), r"must return the loss, one number in a tensor"),
        (lambda model: None, r"no adapted weight has a gradient"),
        (lambda model: x.sum(), r"the loss does not depend on the adapted weights"),
        (lambda model: model[0](x).sum() + x.sum(), r"(?s)these weights get no gradient.*2\.base\.weight"),
        (lambda model: (model(x) * math.nan).mean(), r"its gradient is not finite"),
    ):
        with pytest.raises(SpecError, match=message):
            lora_ga_(model, backward, seed=0)
    assert unchanged(model, before)
    assert [parameter.requires_grad for parameter in model.parameters()] == needed
    assert all(parameter.grad is None for parameter in model.parameters())


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_second_call_is_refused_as_it_would_change_the_model() -> None:
    model = network()
    pissa_(model, 0)
    before = state(model)
    for call in (lambda: pissa_(model, 0), lambda: olora_(model)):
        with pytest.raises(SpecError, match=r"0, 2|\{0,2\}: B A is not 0.*zeta\.init_"):
            call()
    assert unchanged(model, before)


def test_the_factor_is_the_layers_own() -> None:
    class Plain(LoRA):
        def __init__(self, base: nn.Linear) -> None:
            super().__init__(base)
            del self.scaling

    with pytest.raises(SpecError, match=r"the factor of B A is not known.*scaling=alpha / rank"):
        pissa_(network(Plain), 0)
    report = pissa_(network(Plain), 0, scaling=3.0)
    assert {item.scaling for item in report} == {3.0}
    with pytest.raises(SpecError, match=r"its scaling is 2\.0, and scaling=3\.0 was given"):
        pissa_(network(), 0, scaling=3.0)
    for wrong in (0.0, -1.0, math.inf, True, "2"):
        with pytest.raises(SpecError, match="scaling must be a positive number"):
            pissa_(network(), 0, scaling=wrong)  # type: ignore[arg-type]
    model = network()
    del model[0].scaling
    model[0].scaling = torch.tensor(0.0)
    with pytest.raises(SpecError, match=r"0: its scaling is 0\.0, and must be a positive number"):
        pissa_(model, 0)
    del model[0].scaling
    model[0].scaling = nn.Parameter(torch.tensor(0.5))
    assert pissa_(model, 0)["0"].scaling == 0.5


class Attention(nn.Module):
    """Has a factor of its scores, and an adapter of one of its weights."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.qkv, self.out, self.scale = nn.Linear(16, 48), nn.Linear(16, 16), 0.25
        self.lora_A, self.lora_B = nn.Linear(16, RANK, bias=False), nn.Linear(RANK, 48, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self.qkv(x) + SCALING * self.lora_B(self.lora_A(x))).chunk(3, -1)
        found: Tensor = self.out(torch.softmax(self.scale * q @ k.mT, -1) @ v)
        return found


def test_the_factor_of_attention_is_not_that_of_an_adapter() -> None:
    model, x = Attention(), torch.randn(2, 5, 16)
    expected = model(x)
    with pytest.raises(SpecError, match=r"its scale is 0\.25, which may be another factor .*scaling=alpha / rank"):
        pissa_(model, 0)
    pissa_(model, 0, scaling=SCALING)
    assert torch.allclose(model(x), expected, atol=1e-5)


def test_what_no_method_is_for() -> None:
    with pytest.raises(LayerTypeError, match=r"expected a torch\.nn\.Module"):
        pissa_(torch.zeros(3, 3), 0)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="the model has no LoRA"):
        pissa_(nn.Linear(4, 4), 0)
    with pytest.raises(SpecError, match="is an embedding, and OLoRA is for linear layers"):
        olora_(Embedded())
    with pytest.raises(SpecError, match="is an embedding, and LoRA-GA is for linear layers"):
        lora_ga_(Embedded(), lambda model: model(torch.arange(30)).square().mean(), 0)
    with pytest.raises(SpecError, match="W has rank 7 at most, and LoRA-GA takes 8"):
        lora_ga_(network(sizes=(16, 7)), lambda model: model(torch.ones(1, 16)).sum(), 0)
    with pytest.raises(SpecError, match="W has rank 3 at most, and PiSSA takes 4"):
        pissa_(network(sizes=(16, 3)), 0)
    with pytest.raises(PlanError, match="only= names nothing"):
        pissa_(network(), 0, only="1")
    for wrong in (-1, 2.0, True):
        with pytest.raises(SpecError, match="iterations must be a whole number"):
            pissa_(network(), 0, iterations=wrong)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="backward must be a function of the model"):
        lora_ga_(network(), torch.ones(3), 0)  # type: ignore[arg-type]


def test_convolutions_are_refused() -> None:
    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.base_layer, self.scaling = nn.Conv2d(8, 12, 3), 1.0
            self.lora_A, self.lora_B = nn.Conv2d(8, 4, 3, bias=False), nn.Conv2d(4, 12, 1, bias=False)

    with pytest.raises(SpecError, match=r"A has shape 4 x 8 x 3 x 3 .* as those of a convolution"):
        pissa_(Convolution(), 0)


def broken(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[2].base.weight[0, 0] = math.nan


def on_meta(model: nn.Sequential) -> None:
    model[2].lora_A.to("meta")


def tied(model: nn.Sequential) -> None:
    model.append(nn.Linear(16, 24))
    model[4].weight = model[2].base.weight


def overlapping(model: nn.Sequential) -> None:
    model.append(nn.Linear(16, 24))
    model[4].weight = nn.Parameter(model[2].base.weight.detach())


def parametrized(model: nn.Sequential) -> None:
    parametrizations.weight_norm(model[2].base)


def of_rank_three(model: nn.Sequential) -> None:
    with torch.no_grad():
        model[2].base.weight.copy_(torch.eye(24, 3) @ torch.eye(3, 16))


def packed(model: nn.Sequential) -> None:
    """As 4-bit weights are: two values in a byte, in one column."""
    model[2].base.weight = nn.Parameter(torch.zeros(24 * 16 // 2, 1, dtype=torch.uint8), requires_grad=False)


def in_fp8(model: nn.Sequential) -> None:
    model[2].base.weight = nn.Parameter(model[2].base.weight.detach().to(torch.float8_e4m3fn))


def merged(model: nn.Sequential) -> None:
    model[2].merged = True


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (broken, TargetError, r"2\.base\.weight: has values that are not finite"),
        (on_meta, TargetError, r"2\.lora_A\.weight: is on the meta device"),
        (tied, SpecError, r"2\.base\.weight is tied to 4\.weight, which would change too"),
        (overlapping, TargetError, r"shares the memory of"),
        (parametrized, TargetError, r"2\.base\.weight: is parametrized; remove the parametrization"),
        (in_fp8, TargetError, r"2\.base\.weight: has dtype float8_e4m3fn"),
        (packed, SpecError, r"2\.base\.weight has dtype uint8, as a quantized weight"),
        (merged, SpecError, r"2: its adapter is merged into the weight"),
    ],
)
def test_nothing_is_written_if_one_layer_is_refused(
    spoil: Callable[[nn.Sequential], None], error: type[Exception], message: str
) -> None:
    model = network()
    spoil(model)
    before = {name: value.detach().clone() for name, value in model[0].named_parameters()}
    for call in (lambda: pissa_(model, 0), lambda: olora_(model)):
        with pytest.raises(error, match=message):
            call()
    assert all(torch.equal(value, before[name]) for name, value in model[0].named_parameters())
    pissa_(model, 0, only="0")  # the rest can be done
    assert matrices(model[0])[2].any()


def test_a_weight_of_too_low_a_rank_is_refused() -> None:
    """A's row and B's column would both be zero, so that neither gets a gradient. OLoRA's B is not zero."""
    model = network()
    of_rank_three(model)
    before = state(model)
    with pytest.raises(SpecError, match=r"(?s)lower rank than their adapters.*take a lower rank.*- 2$"):
        pissa_(model, 0)
    assert unchanged(model, before)
    olora_(model)
    assert all(torch.linalg.matrix_rank(matrices(model[place])[2]) == RANK for place in (0, 2))


def test_two_adapters_of_one_layer() -> None:
    layer = Transposed(nn.Linear(16, 16))
    layer.scaling["other"] = 1.0
    for table, like in ((layer.lora_A, nn.Linear(16, 2, bias=False)), (layer.lora_B, nn.Linear(2, 16, bias=False))):
        table["other"] = like
    nn.init.zeros_(layer.lora_B["other"].weight)
    with pytest.raises(SpecError, match=r"lora_A\.default\.weight and lora_A\.other\.weight adapt the same weight"):
        pissa_(layer, 0)
    with pytest.warns(ZetaNotice, match=r"(?s)belong to the weights before.*lora_A\.default\.weight"):
        [item] = pissa_(layer, 0, only="*.other.*")
    assert (item.rank, item.scaling) == (2, 1.0)
    assert not layer.lora_B["default"].weight.any()


def test_each_layer_is_written_whole_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a layer: this layer is finished, the next one is not begun, outputs stay."""
    model, x = network(), torch.randn(5, 16)
    expected = model(x)
    original = Tensor.copy_
    calls: list[int] = []

    def interrupted(self: Tensor, *args: Any) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, *args)

    monkeypatch.setattr(Tensor, "copy_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pissa_(model, 0)
    monkeypatch.undo()
    assert matrices(model[0])[2].any()
    assert not matrices(model[2])[2].any()
    assert torch.allclose(model(x), expected, atol=1e-6)


def test_autograd_sees_the_change() -> None:
    model, x = network(), torch.randn(5, 16)
    loss = model(x).square().sum()
    pissa_(model, 0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_report() -> None:
    report = pissa_(network(), 0)
    assert isinstance(report, AdapterReport)
    assert repr(report).startswith("AdapterReport(PiSSA of 2 layers, seed 0, exact up to ")
    assert "PiSSA of 2 layers in" in str(report)
    assert "W_new + s B A differs from W by" in str(report)
    assert "base.weight" in report._repr_html_()
    assert report["2"] is report["2.base.weight"]
    with pytest.raises(KeyError, match="no layer named '3'"):
        report["3"]
    read = json.loads(report.to_json())
    assert read["layers"][1]["difference"] == report["2"].difference
    assert read["seed"] == 0


# -- shards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["lora", "rslora"])
def test_tensor_parallelism_does_not_change_a(recipe: str) -> None:
    """A row-parallel layer has a part of A's inputs on each rank: the law is that of all inputs."""
    whole = network(sizes=(512, 24))
    zeta.init_(whole, recipe, seed=0)
    expected = matrices(whole[0])[1]
    for coordinate in range(4):
        with fake_mesh((4,), (coordinate,)) as mesh:
            model = network(sizes=(512, 24))
            for layer, placement in ((model[0].lora_A, Shard(1)), (model[0].lora_B, Replicate())):
                layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, [placement]))
            report = zeta.init_(model, recipe, seed=0)
            here = model[0].lora_A.weight
            assert isinstance(here, DTensor)
            assert torch.equal(here.to_local(), expected.chunk(4, dim=1)[coordinate])
            assert not model[0].lora_B.weight.to_local().any()
        item = report["0.lora_A.weight"]
        assert item.planned_std == pytest.approx(1 / math.sqrt(3 * 512))
        assert item.std == pytest.approx(1 / math.sqrt(3 * 512), rel=0.1)  # twice that for a fan-in of 128


def test_sharded_weights_are_refused() -> None:
    with fake_mesh((4,), (1,)) as mesh:
        model = network()
        weight = distribute_tensor(model[0].base.weight.detach(), mesh, [Shard(0)])
        model[0].base.weight = nn.Parameter(weight)
        for call in (lambda: pissa_(model, 0), lambda: olora_(model)):
            with pytest.raises(TargetError, match=r"0\.base\.weight: is sharded.*do this before sharding"):
                call()


# -- VeRA --------------------------------------------------------------------------------------------------------------


class Vera(nn.Module):
    """A layer that slices what it needs out of the shared projections."""

    def __init__(self, base: nn.Linear, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.base = base
        self.register_buffer("vera_A", a, persistent=False)
        self.register_buffer("vera_B", b, persistent=False)
        self.vera_lambda_d = nn.Parameter(torch.randn(len(a)))
        self.vera_lambda_b = nn.Parameter(torch.randn(base.out_features))

    def forward(self, x: Tensor) -> Tensor:
        low = self.vera_lambda_d * (x @ self.vera_A[:, : x.shape[-1]].T)
        return self.base(x) + self.vera_lambda_b * (low @ self.vera_B[: self.base.out_features].T)


def with_vera() -> nn.Sequential:
    torch.manual_seed(0)
    a, b = torch.empty(RANK, 24), torch.empty(24, RANK)
    return nn.Sequential(Vera(nn.Linear(16, 24), a, b), nn.Tanh(), Vera(nn.Linear(24, 8), a, b))


def test_vera_is_restored_from_the_seed() -> None:
    model, x = with_vera(), torch.randn(5, 16)
    bare = nn.Sequential(model[0].base, nn.Tanh(), model[2].base)
    report = vera_(model, seed=3)
    assert report.ok
    vectors = {f"{place}.vera_lambda_{side}" for place in (0, 2) for side in "bd"}
    assert {item.name for item in report} == {"vera_A", "vera_B", *vectors}
    assert report["vera_A"].planned_std == pytest.approx(math.sqrt(2 / 24))
    assert report["vera_B"].planned_std == pytest.approx(math.sqrt(2 / RANK))
    assert torch.equal(model[0].vera_lambda_d, torch.full((RANK,), 0.1))
    assert torch.equal(model(x), bare(x))
    assert "vera_A" not in "".join(model.state_dict())

    with torch.no_grad():
        model[2].vera_lambda_b.fill_(0.5)  # trained
    trained = model(x)
    other = with_vera()
    other.load_state_dict(model.state_dict())
    assert not verify_vera(other, 3).ok
    vera_(other, 3, only="*vera_[AB]")
    assert torch.equal(other(x), trained)
    verified = verify_vera(other, 3)
    assert verified.ok
    assert verified.compared == 2
    assert not verify_vera(other, 4).ok
    with torch.no_grad():
        other[0].vera_A[1, 2] += 1e-6
    damaged = verify_vera(other, 3)
    assert [item.name for item in damaged.differences] == ["vera_A"]


def test_veras_projections_do_not_depend_on_the_model() -> None:
    inner = with_vera()
    outer = nn.ModuleDict({"a": nn.Linear(2, 2), "model": with_vera()})
    vera_(inner, 3)
    vera_(outer, 3)
    assert torch.equal(outer["model"][0].vera_A, inner[0].vera_A)
    key = zeta.fill_(
        torch.empty(24, RANK), zeta.initializers.Uniform(-math.sqrt(1.5), math.sqrt(1.5)), 3, name="vera_B"
    )
    assert torch.equal(inner[0].vera_B, key)


def test_what_vera_refuses() -> None:
    with pytest.raises(SpecError, match="the model has no VeRA"):
        vera_(nn.Linear(3, 3), 0)
    model = with_vera()
    model[2].vera_A = model[2].vera_A.clone()
    with pytest.raises(SpecError, match=r"2\.vera_A is a second vera_A, and all layers share one"):
        vera_(model, 0)
    with pytest.raises(SpecError, match="selects no projection"):
        verify_vera(with_vera(), 0, only="*lambda*")
