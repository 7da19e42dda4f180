"""The critical point against closed forms, published numbers and deep networks; ZerO against its definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.recipe_truth import ONE, ZERO, assert_plan, draw, normal, plain
from zeta.errors import PlanError, SpecError
from zeta.initializers import Program


def point(activation: str, bias_variance: float | None = None) -> tuple[float, float]:
    """sigma_w² and sigma_b² as the recipe has them."""
    options = {} if bias_variance is None else {"bias_variance": bias_variance}
    plan = zeta.plan(nn.Linear(4, 4), "critical", activation=activation, **options)
    return plan["weight"].initializer.gain ** 2, plan["bias"].std ** 2  # type: ignore[attr-defined,operator]


@pytest.mark.parametrize(("activation", "biases", "weights"), [
    ("tanh", 2.01e-5, 1.05),  # arXiv:1711.04735
    ("tanh", 0.05, 1.76),  # arXiv:1611.01232
    ("relu", None, 2.0),  # arXiv:1502.01852; the only one
    ("linear", None, 1.0),
    ("leaky_relu", None, 2 / (1 + 0.01**2)),
])  # fmt: skip
def test_published_points(activation: str, biases: float | None, weights: float) -> None:
    found = point(activation, biases)
    digits = 1e-8 if biases is None else 0.004
    assert found == pytest.approx((weights, biases or 0.0), rel=digits)


def erf_point(q: float) -> tuple[float, float]:
    """For erf, both expectations have a closed form (Williams 1997)."""
    weights = math.pi / 4 * math.sqrt(1 + 4 * q)
    return weights, q - weights * 2 / math.pi * math.asin(2 * q / (1 + 2 * q))


@pytest.mark.parametrize("q", [0.02, 0.3, 1.0, 5.0])
def test_erf_has_a_closed_form(q: float) -> None:
    weights, biases = erf_point(q)
    assert point("erf", biases) == pytest.approx((weights, biases), rel=1e-7)


@pytest.mark.parametrize("q", [0.5, 2.0])
def test_hard_tanh_and_sine_have_closed_forms(q: float) -> None:
    inside = math.erf(1 / math.sqrt(2 * q))
    square = q * (inside - math.sqrt(2 / (math.pi * q)) * math.exp(-1 / (2 * q))) + 1 - inside
    assert point("hard_tanh", q - square / inside) == pytest.approx((1 / inside, q - square / inside), rel=2e-3)
    slope, value = (1 + math.exp(-2 * q)) / 2, (1 - math.exp(-2 * q)) / 2
    assert point("sin", q - value / slope) == pytest.approx((1 / slope, q - value / slope), rel=1e-7)


@pytest.mark.parametrize(("activation", "function", "q"), [("erf", torch.erf, 0.3), ("tanh", torch.tanh, None)])
def test_deep_networks_keep_variance_and_gradients(
    activation: str, function: Callable[..., Tensor], q: float | None
) -> None:
    biases = erf_point(q)[1] if q is not None else 2.01e-5
    q = q or 0.0259  # of tanh with the usual biases
    model = draw(nn.Sequential(*(nn.Linear(256, 256) for _ in range(40))), "critical", activation=activation,
                 bias_variance=biases)  # fmt: skip
    torch.manual_seed(0)
    first = x = torch.randn(64, 256).mul(math.sqrt(q)).requires_grad_()
    for layer in model:
        x = layer(function(x))
    assert float(x.detach().square().mean()) == pytest.approx(q, rel=0.1)
    [gradient] = torch.autograd.grad(x, first, torch.randn(64, 256))
    assert 0.4 < float(gradient.square().mean()) < 2.5


def test_convolutions_and_matrices() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3, groups=2, bias=False))
            self.head = nn.Linear(16, 4)

    gain = math.sqrt(2)
    assert_plan(zeta.plan(Net(), "critical", activation="relu"), {
        "features.0.weight": ("deltaorthogonal", gain),
        "features.0.bias": ZERO,
        "features.1.weight": ("deltaorthogonal", gain),
        "head.weight": ("orthogonal", gain),
        "head.bias": ZERO,
    })  # fmt: skip
    model = draw(Net(), "critical")
    centre = model.features[0].weight.detach()[:, :, 1, 1]
    assert torch.allclose(centre.T @ centre, 1.04999563 * torch.eye(3), atol=1e-5)
    assert float(model.features[0].bias.detach().std()) > 0
    assert plain(zeta.plan(Net(), "critical")["head.bias"].initializer) == pytest.approx(normal(math.sqrt(2.01e-5)))


def test_critical_refuses() -> None:
    for activation in ("relu", "leaky_relu", "linear"):
        with pytest.raises(SpecError, match=f"{activation} is critical without biases alone; leave bias_variance out"):
            zeta.plan(nn.Linear(2, 2), "critical", activation=activation, bias_variance=0.1)
    with pytest.raises(SpecError, match="bias_variance must be at least 0, got -1"):
        zeta.plan(nn.Linear(2, 2), "critical", bias_variance=-1)
    with pytest.raises(SpecError, match=r"activation must be one of 'linear', .*got 'thanh'; did you mean 'tanh'"):
        zeta.plan(nn.Linear(2, 2), "critical", activation="thanh")
    with pytest.raises(PlanError, match="at least as many outputs as inputs, got 4 and 8"):
        zeta.plan(nn.Conv2d(8, 4, 3), "critical")
    with pytest.raises(PlanError, match="no rule matches these parameters"):
        zeta.plan(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "critical")


# -- ZerO --------------------------------------------------------------------------------------------------------------


def zero(rows: int, columns: int) -> Tensor:
    """Algorithm 1, with the Hadamard matrix by its definition: the parity of the bits that two indices share."""
    if rows <= columns:
        return torch.eye(rows, columns)
    p = 2 ** math.ceil(math.log2(rows))
    signs = [[(-1) ** (i & j).bit_count() for j in range(columns)] for i in range(rows)]
    return torch.tensor(signs, dtype=torch.float32) / math.sqrt(p)


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.square, self.wide = nn.Linear(20, 7), nn.Linear(9, 9), nn.Linear(5, 33)
        self.one, self.norm = nn.Linear(1, 6), nn.LayerNorm(6)
        self.down, self.up = nn.Conv2d(8, 4, 3), nn.Conv2d(3, 10, 5, bias=False)
        self.even, self.grouped = nn.Conv1d(2, 5, 4), nn.Conv2d(8, 24, 3, groups=4)
        self.depthwise, self.transposed = nn.Conv2d(4, 8, 3, groups=4), nn.ConvTranspose2d(3, 7, 3)


def test_zer_o_is_algorithm_1_and_2() -> None:
    model = draw(Layers(), "zer_o")
    for name in ("narrow", "square", "wide", "one"):
        weight = model.get_submodule(name).weight.detach()
        assert torch.allclose(weight, zero(*weight.shape), atol=1e-7), name
    for name in ("down", "up", "even", "grouped", "depthwise", "transposed"):
        layer = model.get_submodule(name)
        weight = layer.weight.detach().transpose(0, 1) if layer.transposed else layer.weight.detach()
        centre = weight[(slice(None), slice(None), *(extent // 2 for extent in weight.shape[2:]))]
        for group in centre.chunk(layer.groups):
            assert torch.allclose(group, zero(*group.shape), atol=1e-7), name
        assert int((weight != 0).sum()) == int((centre != 0).sum()), name
    assert all(not p.any() for n, p in model.named_parameters() if n.endswith("bias"))
    assert (model.norm.weight == ONE[1]).all()
    assert isinstance(zeta.plan(model, "zer_o")["wide.weight"].initializer, Program)


def test_zer_o_is_that_of_scipy() -> None:
    hadamard = pytest.importorskip("scipy.linalg").hadamard
    model = draw(nn.Linear(784, 1024, bias=False), "zer_o")
    p = torch.tensor(hadamard(1024), dtype=torch.float32) / 32
    assert torch.equal(model.weight.detach(), torch.eye(1024) @ p @ torch.eye(1024, 784))


def test_zer_o_of_a_transposed_weight_and_in_other_dtypes() -> None:
    layers = pytest.importorskip("transformers.pytorch_utils")
    model = draw(nn.ModuleDict({"c_fc": layers.Conv1D(24, 6)}), "zer_o")
    assert torch.allclose(model["c_fc"].weight.detach(), zero(24, 6).T, atol=1e-7)
    half = draw(nn.Linear(6, 24, dtype=torch.bfloat16), "zer_o")
    assert torch.equal(half.weight.detach(), zero(24, 6).bfloat16())


def test_zer_o_needs_no_seed() -> None:
    first, second = nn.Linear(5, 33), nn.Linear(5, 33)
    zeta.init_(first, "zer_o", seed=0)
    zeta.init_(second, "zer_o", seed=1)
    assert torch.equal(first.weight, second.weight)
