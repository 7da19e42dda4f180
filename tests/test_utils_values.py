"""The values of every scheme against its formula, layer by layer, and where their randomness comes from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.layers import DETERMINISTIC, FAMILY, RANDOM, raw, state
from zeta.errors import PlanError, SpecError
from zeta.utils import (
    init_constant_,
    init_default_,
    init_dirac_,
    init_identity_,
    init_kaiming_normal_,
    init_kaiming_uniform_,
    init_lecun_normal_,
    init_lecun_uniform_,
    init_normal_,
    init_ones_,
    init_orthogonal_,
    init_sparse_,
    init_trunc_normal_,
    init_uniform_,
    init_xavier_normal_,
    init_xavier_uniform_,
)


@pytest.fixture(autouse=True)
def own_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def big() -> nn.Linear:
    return nn.Linear(1000, 400)


def assert_moments(weight: Tensor, mean: float, std: float) -> None:
    """Within 1 %: five standard errors from 130,000 normal elements on."""
    values = weight.detach().double()
    assert values.numel() > 130_000
    assert float(values.std()) == pytest.approx(std, rel=0.01)
    assert abs(float(values.mean()) - mean) < 5 * std / math.sqrt(values.numel())


# -- distributions -----------------------------------------------------------------------------------------------------

TRUNCATED = 0.8796256610342398  # std of a standard normal cut at 2 sigma: sqrt(1 - 4 phi(2) / (2 Phi(2) - 1))


def test_the_truncated_std_is_right() -> None:
    phi = math.exp(-2) / math.sqrt(2 * math.pi)
    assert math.isclose(math.sqrt(1 - 4 * phi / math.erf(math.sqrt(2))), TRUNCATED, rel_tol=1e-12)


@pytest.mark.parametrize(
    ("call", "mean", "std", "low", "high"),
    [
        (lambda m: init_uniform_(m, seed=1), 0.5, 1 / math.sqrt(12), 0.0, 1.0),
        (lambda m: init_uniform_(m, -2.0, 4.0, seed=1), 1.0, math.sqrt(3), -2.0, 4.0),
        (lambda m: init_normal_(m, seed=1), 0.0, 1.0, -6.34, 6.34),
        (lambda m: init_normal_(m, std=0.02, seed=1), 0.0, 0.02, -0.127, 0.127),
        (lambda m: init_normal_(m, std=0.02, mean=-3.0, seed=1), -3.0, 0.02, -3.127, -2.873),
        (lambda m: init_trunc_normal_(m, std=0.02, seed=1), 0.0, 0.02 * TRUNCATED, -0.04, 0.04),
        (lambda m: init_trunc_normal_(m, 1.0, 0.5, cutoff=2, seed=1), 1.0, 0.5 * TRUNCATED, 0.0, 2.0),
        (lambda m: init_trunc_normal_(m, std=1.0, cutoff=1, seed=1), 0.0, 0.5395599, -1.0, 1.0),
        (lambda m: init_trunc_normal_(m, std=0.02, correct_std=True, seed=1), 0.0, 0.02, -0.0455, 0.0455),
        (lambda m: init_trunc_normal_(m, 0.0, 0.5, -1.0, 1.0, seed=1), 0.0, 0.5 * TRUNCATED, -1.0, 1.0),
        # half a normal: mean sqrt(2/pi), variance 1 - 2/pi
        (lambda m: init_trunc_normal_(m, low=0.0, seed=1), math.sqrt(2 / math.pi), math.sqrt(1 - 2 / math.pi), 0, 6.34),
    ],
)
def test_distributions(call: Callable[[nn.Module], Any], mean: float, std: float, low: float, high: float) -> None:
    layer = call(big())
    assert_moments(layer.weight, mean, std)
    values = layer.weight.detach().double()
    # where a range is cut sharply, it is also filled
    assert low - 1e-6 <= values.min()
    assert values.max() <= high + 1e-6
    assert not layer.bias.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("name", ["xavier_uniform", "kaiming_uniform", "lecun_uniform"])
def test_no_rounding_leaves_the_bounds(name: str, dtype: torch.dtype) -> None:
    bound = {"xavier_uniform": math.sqrt(6 / 700), "kaiming_uniform": math.sqrt(6 / 300), "lecun_uniform": 0.1}[name]
    values = FAMILY[name].call(nn.Linear(300, 400).to(dtype), seed=1).weight.detach().double()
    assert bound * (1 - 2 * torch.finfo(dtype).eps - 1e-4) <= values.abs().max() <= bound * (1 + 1e-7)


def test_constants() -> None:
    layer = nn.Linear(3, 2)
    assert (init_constant_(layer, -0.1, bias=2.0).weight == -0.1).all()
    assert (layer.bias == 2).all()
    assert (init_ones_(layer, bias=None).weight == 1).all()
    assert (layer.bias == 2).all()


# -- fans --------------------------------------------------------------------------------------------------------------

# (layer, parameter) -> fan_in, fan_out: the products in one output, and the outputs that one input reaches
FANS: dict[str, tuple[Callable[[], nn.Module], dict[str, tuple[int, int]]]] = {
    "linear": (lambda: nn.Linear(512, 256), {"weight": (512, 256)}),
    "conv1d": (lambda: nn.Conv1d(128, 256, 4), {"weight": (512, 1024)}),
    "conv2d": (lambda: nn.Conv2d(64, 256, 3), {"weight": (576, 2304)}),
    "grouped": (lambda: nn.Conv2d(256, 512, 3, groups=4), {"weight": (576, 1152)}),
    "depthwise": (lambda: nn.Conv2d(16384, 16384, 3, groups=16384), {"weight": (9, 9)}),
    "conv3d": (lambda: nn.Conv3d(32, 72, 4), {"weight": (2048, 4608)}),
    "transposed1d": (lambda: nn.ConvTranspose1d(128, 260, 4), {"weight": (512, 1040)}),
    "transposed2d": (lambda: nn.ConvTranspose2d(64, 256, 3), {"weight": (576, 2304)}),
    "transposed_grouped": (lambda: nn.ConvTranspose2d(256, 512, 3, groups=4), {"weight": (576, 1152)}),
    "transposed3d": (lambda: nn.ConvTranspose3d(32, 72, 4), {"weight": (2048, 4608)}),
    "embedding": (lambda: nn.Embedding(1000, 140), {"weight": (1, 140)}),
    "embedding_bag": (lambda: nn.EmbeddingBag(1000, 140), {"weight": (1, 140)}),
    "bilinear": (lambda: nn.Bilinear(64, 32, 70), {"weight": (2048, 70)}),
    "attention": (lambda: nn.MultiheadAttention(216, 2), {"in_proj_weight": (216, 216)}),
    "attention_separate": (
        lambda: nn.MultiheadAttention(384, 2, kdim=400, vdim=800),
        {
            "q_proj_weight": (384, 384),
            "k_proj_weight": (400, 384),
            "v_proj_weight": (800, 384),
            "out_proj.weight": (384, 384),
        },
    ),
    "lstm": (
        lambda: nn.LSTM(256, 400, proj_size=340, bidirectional=True),
        {
            "weight_ih_l0": (256, 400),
            "weight_hh_l0_reverse": (340, 400),
            "weight_hr_l0": (400, 340),
        },
    ),
    "gru": (lambda: nn.GRU(256, 220), {"weight_ih_l0": (256, 220), "weight_hh_l0": (220, 220)}),
    "rnn": (lambda: nn.RNN(512, 400), {"weight_ih_l0": (512, 400), "weight_hh_l0": (400, 400)}),
    "lstm_cell": (lambda: nn.LSTMCell(256, 200), {"weight_ih": (256, 200), "weight_hh": (200, 200)}),
    "gru_cell": (lambda: nn.GRUCell(256, 220), {"weight_ih": (256, 220)}),
}
SCHEMES: dict[str, tuple[Callable[[nn.Module], Any], Callable[[int, int], float], bool]] = {
    "xavier_normal": (lambda m: init_xavier_normal_(m, 3.0, seed=2), lambda i, o: 3 * math.sqrt(2 / (i + o)), False),
    "xavier_uniform": (lambda m: init_xavier_uniform_(m, seed=2), lambda i, o: math.sqrt(2 / (i + o)), True),
    "kaiming_normal": (lambda m: init_kaiming_normal_(m, seed=2), lambda i, o: math.sqrt(2 / i), False),
    "fan_out": (lambda m: init_kaiming_uniform_(m, mode="fan_out", seed=2), lambda i, o: math.sqrt(2 / o), True),
    "lecun_normal": (lambda m: init_lecun_normal_(m, seed=2), lambda i, o: 1 / math.sqrt(i), False),
    "lecun_uniform": (lambda m: init_lecun_uniform_(m, seed=2), lambda i, o: 1 / math.sqrt(i), True),
}


@pytest.mark.parametrize(("factory", "fans"), FANS.values(), ids=FANS)
def test_the_std_follows_the_fans(factory: Callable[[], nn.Module], fans: dict[str, tuple[int, int]]) -> None:
    layer = factory()
    for call, std, uniform in SCHEMES.values():
        call(layer)
        for name, (fan_in, fan_out) in fans.items():
            weight, expected = layer.get_parameter(name).detach(), std(fan_in, fan_out)
            assert_moments(weight, 0.0, expected)
            if uniform:
                assert float(weight.abs().max()) == pytest.approx(math.sqrt(3) * expected, rel=1e-3)
            else:
                assert weight.abs().max() > 4 * expected


@pytest.mark.parametrize(
    ("arguments", "gain"),
    [
        ({}, math.sqrt(2)),
        ({"nonlinearity": "linear"}, 1.0),
        ({"nonlinearity": "tanh"}, 5 / 3),
        ({"nonlinearity": "selu"}, 3 / 4),
        ({"nonlinearity": "leaky_relu"}, math.sqrt(2 / (1 + 0.01**2))),
        ({"nonlinearity": "leaky_relu", "a": 0.5}, math.sqrt(2 / 1.25)),
        ({"nonlinearity": "leaky_relu", "a": 5**0.5}, math.sqrt(1 / 3)),
        # E[f(z)^2] of a step function is 1/2
        ({"nonlinearity": lambda x: (x > 0).to(x.dtype)}, math.sqrt(2)),
    ],
)
@pytest.mark.parametrize("function", [init_kaiming_normal_, init_kaiming_uniform_])
def test_gains(function: Callable[..., Any], arguments: dict[str, Any], gain: float) -> None:
    assert_moments(function(nn.Linear(400, 400), **arguments, seed=1).weight, 0.0, gain / 20)


# -- whole matrices ----------------------------------------------------------------------------------------------------

# what one map looks like as outputs x (inputs and kernel)
MATRICES: dict[str, tuple[Callable[[], nn.Module], str, Callable[[Tensor], list[Tensor]]]] = {
    "square": (lambda: nn.Linear(8, 8), "weight", lambda w: [w]),
    "tall": (lambda: nn.Linear(5, 9), "weight", lambda w: [w]),
    "wide": (lambda: nn.Linear(9, 5), "weight", lambda w: [w]),
    "conv": (lambda: nn.Conv2d(4, 6, 3), "weight", lambda w: [w.flatten(1)]),
    "conv_grouped": (lambda: nn.Conv2d(4, 40, 3, groups=2), "weight", lambda w: list(w.flatten(1).chunk(2))),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), "weight", lambda w: [w.transpose(0, 1).flatten(1)]),
    "transposed_grouped": (
        lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
        "weight",
        lambda w: [group.transpose(0, 1).flatten(1) for group in w.chunk(2)],
    ),
    "embedding": (lambda: nn.Embedding(9, 4), "weight", lambda w: [w]),
    "bilinear": (lambda: nn.Bilinear(3, 4, 5), "weight", lambda w: [w.flatten(1)]),
    "attention": (lambda: nn.MultiheadAttention(6, 2), "in_proj_weight", lambda w: list(w.chunk(3))),
    "lstm": (lambda: nn.LSTM(3, 5), "weight_hh_l0", lambda w: list(w.chunk(4))),
    "gru": (lambda: nn.GRU(3, 5), "weight_ih_l0", lambda w: list(w.chunk(3))),
}


@pytest.mark.parametrize(("factory", "name", "maps"), MATRICES.values(), ids=MATRICES)
def test_orthogonal_maps(factory: Callable[[], nn.Module], name: str, maps: Callable[[Tensor], list[Tensor]]) -> None:
    found = maps(init_orthogonal_(factory(), 1.5, seed=1).get_parameter(name).detach())
    for matrix in found:
        tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
        torch.testing.assert_close(tall.T @ tall, 2.25 * torch.eye(tall.shape[1]), rtol=0, atol=1e-5)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(found)), "two maps are the same"


def test_orthogonal_signs_are_uniform() -> None:
    """Haar: a plain QR would fix the signs of R's diagonal, so that the first element of Q is never positive."""
    first = torch.stack([init_orthogonal_(nn.Linear(4, 4), seed=s).weight.detach()[0, 0] for s in range(400)])
    assert 140 < int((first > 0).sum()) < 260  # six standard deviations of 10
    assert float(first.square().mean()) == pytest.approx(1 / 4, abs=5 * 0.18 / 20)  # a coordinate on the sphere


@pytest.mark.parametrize("name", [name for name in MATRICES if "conv" not in name and "transposed" not in name])
def test_identity_maps(name: str) -> None:
    factory, parameter, maps = MATRICES[name]
    for matrix in maps(init_identity_(factory(), 2.0).get_parameter(parameter).detach()):
        assert torch.equal(matrix, 2 * torch.eye(*matrix.shape))


@pytest.mark.parametrize(
    "conv",
    [
        lambda: nn.Conv1d(6, 6, 5, padding=2),
        lambda: nn.Conv2d(6, 6, (3, 5), padding=(1, 2)),
        lambda: nn.Conv2d(6, 6, 3, padding=1, groups=3),
        lambda: nn.Conv2d(6, 6, 3, padding=1, groups=6),
        lambda: nn.Conv3d(6, 6, 3, padding=1),
        lambda: nn.ConvTranspose2d(6, 6, 3, padding=1),
        lambda: nn.ConvTranspose2d(6, 6, 3, padding=1, groups=2),
    ],
)
def test_dirac_passes_its_input_on(conv: Callable[[], Any]) -> None:
    layer = init_dirac_(conv(), gain=2.0)
    x = torch.randn(2, 6, *[7] * (layer.weight.ndim - 2))
    torch.testing.assert_close(layer(x), 2 * x)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kernel", [(3,), (4, 2), (1, 2, 3)])
def test_dirac_agrees_with_torch(kernel: tuple[int, ...], groups: int) -> None:
    layer = getattr(nn, f"Conv{len(kernel)}d")(4, 6, kernel, groups=groups)
    expected = nn.init.dirac_(torch.empty_like(layer.weight), groups)
    assert torch.equal(init_dirac_(layer).weight, expected)


@pytest.mark.parametrize(("sparsity", "zeros"), [(0.0, 0), (0.3, 121), (0.9, 363), (1.0, 403)])
def test_sparse_columns(sparsity: float, zeros: int) -> None:
    weight = init_sparse_(nn.Linear(500, 403), sparsity, 0.5, seed=1).weight.detach()
    assert ((weight == 0).sum(0) == zeros).all()
    if zeros == 0:
        assert_moments(weight, 0.0, 0.5)
    elif zeros < 200:
        assert_moments(weight[weight != 0], 0.0, 0.5)
        assert (weight == 0).any(1).all(), "some rows have no zero: the same rows are zero in every column"
        assert not torch.equal(weight[:, 0] == 0, weight[:, 1] == 0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: init_identity_(nn.Conv1d(2, 2, 3)), r"weight 2 x 2 x 3.*Dirac\(\)"),
        (lambda m: init_dirac_(m), r"weight 3 x 3.*Identity\(\)"),
        (lambda m: init_constant_(m.half(), 1e6), "float16 ends at"),
        (lambda m: init_normal_(m.to(torch.float8_e4m3fn), std=100.0), "float8_e4m3fn ends at 448"),
    ],
)
def test_schemes_that_do_not_fit(call: Callable[[nn.Module], Any], message: str) -> None:
    with pytest.raises(PlanError, match=message):
        call(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: init_normal_(m, std=-1.0), "std must be at least 0, got -1.0"),
        (lambda m: init_normal_(m, std=math.nan), "std must be a finite number, got nan"),
        (lambda m: init_normal_(m, math.inf, 1.0), "mean must be a finite number, got inf"),
        (lambda m: init_normal_(m, std="0.02"), "std must be a finite number, got '0.02'"),
        (lambda m: init_normal_(m, bias=math.nan), "must be a finite number, got nan"),
        (lambda m: init_normal_(m, bias="zero"), "must be a finite number, got 'zero'"),
        (lambda m: init_constant_(m, math.nan), "value must be a finite number, got nan"),
        (lambda m: init_constant_(m, None), "value must be a finite number, got None"),
        (lambda m: init_uniform_(m, 1.0, 1.0), "low must be below high"),
        (lambda m: init_uniform_(m, 1.0, -1.0), "low must be below high"),
        (lambda m: init_trunc_normal_(m, std=0.0), "std must be greater than 0"),
        (lambda m: init_trunc_normal_(m, cutoff=0), "cutoff must be greater than 0"),
        (lambda m: init_trunc_normal_(m, cutoff=2, low=-1.0), "in sigmas, .*absolute: give one kind"),
        (lambda m: init_xavier_normal_(m, math.nan), "finite number, got nan"),
        (lambda m: init_xavier_uniform_(m, "relu"), "finite number, got 'relu'"),
        (lambda m: init_kaiming_normal_(m, mode="fan_inn"), "mode must be one of fan_in, fan_out"),
        (lambda m: init_kaiming_normal_(m, nonlinearity="rellu"), "rellu"),
        (lambda m: init_orthogonal_(m, math.inf), "gain must be a finite number"),
        (lambda m: init_identity_(m, math.nan), "gain must be a finite number"),
        (lambda m: init_sparse_(m, 1.5), "fraction of zeros, from 0 to 1, got 1.5"),
        (lambda m: init_sparse_(m, 0.5, -1.0), "std must be at least 0"),
    ],
)
def test_values_that_make_no_sense(call: Callable[[nn.Module], Any], message: str) -> None:
    layer = nn.Linear(4, 4)
    before, rng = state(layer), torch.get_rng_state()
    with pytest.raises(SpecError, match=message):
        call(layer)
    assert state(layer) == before
    assert torch.equal(torch.get_rng_state(), rng)


# -- generator, seed, torch's generator ------------------------------------------------------------------------------


def value(name: str, **keywords: Any) -> bytes:
    layer = nn.Linear(5, 4, device="meta").to_empty(device="cpu")  # draws nothing
    return raw((init_default_ if name == "default" else FAMILY[name].call)(layer, **keywords).weight)


@pytest.mark.parametrize("name", [*RANDOM, "default"])
def test_seed_generator_and_global_generator(name: str) -> None:
    untouched = torch.get_rng_state()
    assert value(name, seed=1) == value(name, seed=1) != value(name, seed=2)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 1, 2)]
    first, again, other = (value(name, generator=generator) for generator in generators)
    assert first == again != other
    assert first != value(name, generator=generators[0]), "the generator does not move on"
    assert torch.equal(torch.get_rng_state(), untouched)

    torch.manual_seed(1)
    drawn = [value(name), value(name)]
    assert drawn[0] != drawn[1]
    torch.manual_seed(1)
    assert drawn == [value(name), value(name)]
    torch.manual_seed(2)
    assert drawn[0] != value(name)
    # one and the same path from a generator to the values
    torch.manual_seed(1)
    assert value(name) == first


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_schemes_consume_nothing(name: str) -> None:
    layer = nn.Conv1d(3, 3, 3) if name == "dirac" else nn.Linear(3, 3)
    before = torch.get_rng_state()
    FAMILY[name].call(layer)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", [*RANDOM, "default"])
@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (lambda: {"seed": 1, "generator": torch.Generator()}, "generator= or seed=, not both"),
        (lambda: {"seed": -1}, "seed must be an integer"),
        (lambda: {"seed": 2**64}, "seed must be an integer"),
        (lambda: {"seed": 1.0}, "seed must be an integer"),
        (lambda: {"seed": "0"}, "seed must be an integer"),
        (lambda: {"generator": 0}, "generator"),
    ],
)
def test_senseless_seeds(name: str, keywords: Callable[[], dict[str, Any]], message: str) -> None:
    layer = nn.Linear(5, 4)
    before, rng = state(layer), torch.get_rng_state()
    with pytest.raises(SpecError, match=message):
        (init_default_ if name == "default" else FAMILY[name].call)(layer, **keywords())
    assert state(layer) == before
    assert torch.equal(torch.get_rng_state(), rng)


def test_layers_of_one_model_differ_and_do_not_depend_on_each_other() -> None:
    def block() -> nn.Module:
        return nn.Linear(4, 4)

    model = init_normal_(nn.ModuleDict({"a": block(), "b": block()}), seed=1)
    other = init_normal_(nn.ModuleDict({"c": block(), "b": block(), "a": block()}), seed=1)
    assert not torch.equal(model["a"].weight, model["b"].weight)
    assert torch.equal(model["a"].weight, other["a"].weight)
    assert torch.equal(model["b"].weight, other["b"].weight)


def test_the_sign_of_a_zero_does_not_depend_on_earlier_calls() -> None:
    layer = nn.Linear(5, 4)
    for value, bias in itertools.product((0.0, -0.0), repeat=2):
        init_constant_(layer, value, bias=bias)
        found = [bool(tensor.signbit().all()) for tensor in (layer.weight, layer.bias)]
        assert found == [math.copysign(1.0, number) < 0 for number in (value, bias)], (value, bias)
