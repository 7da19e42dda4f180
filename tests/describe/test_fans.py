"""Fans of every layer, worked out by hand: the products in one output, and the outputs that one input reaches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import zeta
from zeta import Rule, Rules
from zeta.errors import FanError, SpecError
from zeta.fans import _REGISTERED, Axes, Fans, _known, axes_of, fans, register_fans, torch_axes
from zeta.initializers import Identity, Normal, Orthogonal, Site, Sparse, VarianceScaling, Zeros, matrix_shape


@pytest.fixture(autouse=True)
def registrations_end() -> Iterator[None]:
    before = dict(_REGISTERED)
    yield
    _REGISTERED.clear()
    _REGISTERED.update(before)
    _known.cache_clear()


def on_meta(factory: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return factory()


def fan_pair(*args: Any, **kwargs: Any) -> tuple[int, int]:
    found = fans(*args, **kwargs)
    return found.fan_in, found.fan_out


# -- torch's layers ------------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Callable[[], nn.Module], str, int, int]] = {
    "linear": (lambda: nn.Linear(7, 3), "weight", 7, 3),
    "bilinear": (lambda: nn.Bilinear(3, 5, 7), "weight", 3 * 5, 7),
    "conv1d": (lambda: nn.Conv1d(4, 6, 5), "weight", 4 * 5, 6 * 5),
    "conv2d": (lambda: nn.Conv2d(4, 6, (5, 3)), "weight", 4 * 15, 6 * 15),
    "conv3d": (lambda: nn.Conv3d(4, 6, (5, 3, 2)), "weight", 4 * 30, 6 * 30),
    "conv1d_grouped": (lambda: nn.Conv1d(4, 6, 5, groups=2), "weight", 2 * 5, 3 * 5),
    "conv2d_grouped": (lambda: nn.Conv2d(6, 12, 3, groups=3), "weight", 2 * 9, 4 * 9),
    "conv3d_grouped": (lambda: nn.Conv3d(8, 4, 2, groups=4), "weight", 2 * 8, 1 * 8),
    "conv2d_depthwise": (lambda: nn.Conv2d(64, 64, 3, groups=64), "weight", 9, 9),
    "conv2d_depthwise_multiplied": (lambda: nn.Conv2d(8, 24, 3, groups=8), "weight", 9, 3 * 9),
    "transposed1d": (lambda: nn.ConvTranspose1d(4, 6, 5), "weight", 4 * 5, 6 * 5),
    "transposed2d": (lambda: nn.ConvTranspose2d(4, 6, (5, 3)), "weight", 4 * 15, 6 * 15),
    "transposed3d": (lambda: nn.ConvTranspose3d(4, 6, (5, 3, 2)), "weight", 4 * 30, 6 * 30),
    "transposed1d_grouped": (lambda: nn.ConvTranspose1d(4, 6, 5, groups=2), "weight", 2 * 5, 3 * 5),
    "transposed2d_grouped": (lambda: nn.ConvTranspose2d(6, 12, 3, groups=3), "weight", 2 * 9, 4 * 9),
    "transposed3d_grouped": (lambda: nn.ConvTranspose3d(8, 4, 2, groups=4), "weight", 2 * 8, 1 * 8),
    "transposed2d_depthwise": (lambda: nn.ConvTranspose2d(64, 64, 3, groups=64), "weight", 9, 9),
    "embedding": (lambda: nn.Embedding(1000, 16), "weight", 1, 16),
    "embedding_bag": (lambda: nn.EmbeddingBag(1000, 16), "weight", 1, 16),
    "attention_packed": (lambda: nn.MultiheadAttention(8, 2), "in_proj_weight", 8, 8),
    "attention_q": (lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4), "q_proj_weight", 8, 8),
    "attention_k": (lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4), "k_proj_weight", 6, 8),
    "attention_v": (lambda: nn.MultiheadAttention(8, 2, kdim=6, vdim=4), "v_proj_weight", 4, 8),
    "rnn_input": (lambda: nn.RNN(5, 7), "weight_ih_l0", 5, 7),
    "rnn_hidden": (lambda: nn.RNN(5, 7), "weight_hh_l0", 7, 7),
    "lstm_input": (lambda: nn.LSTM(5, 7), "weight_ih_l0", 5, 7),
    "lstm_hidden": (lambda: nn.LSTM(5, 7), "weight_hh_l0", 7, 7),
    "lstm_second_layer_reads_both_directions": (lambda: nn.LSTM(5, 7, 2, bidirectional=True), "weight_ih_l1", 14, 7),
    "lstm_reverse": (lambda: nn.LSTM(5, 7, bidirectional=True), "weight_ih_l0_reverse", 5, 7),
    "lstm_projected_hidden": (lambda: nn.LSTM(5, 7, proj_size=3), "weight_hh_l0", 3, 7),
    "lstm_projection": (lambda: nn.LSTM(5, 7, proj_size=3), "weight_hr_l0", 7, 3),
    "gru_input": (lambda: nn.GRU(5, 7), "weight_ih_l0", 5, 7),
    "gru_hidden": (lambda: nn.GRU(5, 7), "weight_hh_l0", 7, 7),
    "rnn_cell": (lambda: nn.RNNCell(5, 7), "weight_ih", 5, 7),
    "lstm_cell": (lambda: nn.LSTMCell(5, 7), "weight_ih", 5, 7),
    "lstm_cell_hidden": (lambda: nn.LSTMCell(5, 7), "weight_hh", 7, 7),
    "gru_cell": (lambda: nn.GRUCell(5, 7), "weight_ih", 5, 7),
}  # fmt: skip


@pytest.mark.parametrize(("factory", "name", "fan_in", "fan_out"), LAYERS.values(), ids=LAYERS)
def test_fans_of_torch_layers(factory: Callable[[], nn.Module], name: str, fan_in: int, fan_out: int) -> None:
    assert fan_pair(on_meta(factory), name) == (fan_in, fan_out)


@pytest.mark.parametrize(
    ("factory", "name", "packed"),
    [
        (lambda: nn.MultiheadAttention(8, 2), "in_proj_weight", 3),
        (lambda: nn.LSTM(5, 7), "weight_hh_l0", 4),
        (lambda: nn.GRUCell(5, 7), "weight_ih", 3),
        (lambda: nn.Conv2d(6, 12, 3, groups=3), "weight", 3),
        (lambda: nn.ConvTranspose2d(6, 12, 3, groups=3), "weight", 3),
    ],
)
def test_packed_maps_lie_one_after_the_other_along_dimension_0(
    factory: Callable[[], nn.Module], name: str, packed: int
) -> None:
    module = on_meta(factory)
    assert axes_of(module, name, getattr(module, name).shape).blocks == ((0, packed),)


@pytest.mark.parametrize("factory", [lambda: nn.RNN(5, 7), lambda: nn.Linear(7, 3), lambda: nn.Conv2d(4, 6, 3)])
def test_a_single_map_is_not_a_block(factory: Callable[[], nn.Module]) -> None:
    module = on_meta(factory)
    name = next(name for name, _ in module.named_parameters())
    assert axes_of(module, name, getattr(module, name).shape).blocks == ()


def test_subclasses_have_the_fans_of_their_base() -> None:
    class Own(nn.ConvTranspose1d):
        pass

    assert fan_pair(on_meta(lambda: Own(4, 6, 5))) == (20, 30)


@pytest.mark.parametrize(
    "factory",
    [
        lambda: nn.Linear(7, 3),
        lambda: nn.Conv3d(4, 6, (5, 3, 2)),
        lambda: nn.Conv2d(6, 12, 3, groups=3),
        lambda: nn.ConvTranspose2d(4, 6, (5, 3)),
        lambda: nn.Embedding(1000, 16),
        lambda: nn.Bilinear(3, 5, 7),
    ],
)
def test_torch_compatible_fans_are_those_of_torch(factory: Callable[[], nn.Module]) -> None:
    module = on_meta(factory)
    expected = nn.init._calculate_fan_in_and_fan_out(module.weight)
    assert fan_pair(module, torch_compatible=True) == expected


@pytest.mark.parametrize("name", ["Orthogonal", "Identity", "Sparse"])
def test_blocks_along_a_batch_dimension_are_its_parts(name: str) -> None:
    axes = Axes(fan_in=(1,), fan_out=(2,), batch=(0,), blocks=((0, 4),))
    law = {"Orthogonal": Orthogonal(), "Identity": Identity(), "Sparse": Sparse(0.5)}[name]
    module = nn.Module()
    module.weight = nn.Parameter(torch.zeros(8, 4, 3))
    report = zeta.init_(module, Rules([Rule("weight", law, axes=axes)]), seed=0)
    assert report.ok
    assert matrix_shape(Site(shape=(8, 4, 3), axes=axes)).count == 8


STRIDED: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "transposed1d": (lambda: nn.ConvTranspose1d(8, 6, 6, stride=3), 8 * 2, 6 * 6),
    "transposed2d": (lambda: nn.ConvTranspose2d(8, 6, 4, stride=2), 8 * 2 * 2, 6 * 16),
    "transposed3d": (lambda: nn.ConvTranspose3d(8, 6, (2, 4, 3), stride=(2, 4, 1)), 8 * 1 * 1 * 3, 6 * 24),
    "transposed2d_grouped": (lambda: nn.ConvTranspose2d(8, 6, 4, stride=2, groups=2), 4 * 2 * 2, 3 * 16),
    "conv1d": (lambda: nn.Conv1d(8, 6, 6, stride=2), 8 * 6, 6 * 3),
    "conv2d_patches": (lambda: nn.Conv2d(3, 64, 16, stride=16), 3 * 256, 64),
    "conv2d_grouped": (lambda: nn.Conv2d(8, 8, 4, stride=(2, 1), groups=4), 2 * 16, 2 * 2 * 4),
    "without_a_stride": (lambda: nn.Conv2d(3, 4, 3), 27, 36),
}


@pytest.mark.parametrize(("factory", "fan_in", "fan_out"), STRIDED.values(), ids=STRIDED)
def test_effective_fans_count_what_a_stride_leaves(factory: Callable[[], nn.Module], fan_in: int, fan_out: int) -> None:
    found = fans(on_meta(factory), effective=True)
    assert (found.fan_in, found.fan_out) == (fan_in, fan_out)
    assert isinstance(found.fan_in, int)


def test_an_effective_fan_is_an_average_where_the_stride_divides_no_kernel() -> None:
    assert fans(nn.ConvTranspose2d(8, 6, 3, stride=2), effective=True) == Fans(fan_in=8 * 1.5 * 1.5, fan_out=54)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
        lambda: nn.ConvTranspose1d(64, 8, 9, stride=4, padding=4),
        lambda: nn.ConvTranspose1d(64, 8, 8, stride=2, dilation=3, padding=9),
        lambda: nn.ConvTranspose3d(16, 8, 2, stride=2),
        lambda: nn.ConvTranspose2d(32, 32, 3, stride=2, padding=1, groups=4),
    ],
)
def test_effective_fans_keep_the_variance_of_a_transposed_convolution(layer: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    module = layer()
    rules = Rules([Rule("weight", VarianceScaling(effective=True)), Rule("bias", Zeros())])
    zeta.init_(module, rules, seed=0)
    size = {3: (64, 64, 256), 4: (16, 32, 24, 24), 5: (16, 16, 10, 10, 10)}[module.weight.ndim]
    size = (size[0], module.in_channels, *size[2:])
    out = module(torch.randn(size))
    inside = out[(..., *(slice(8, -8) if n > 40 else slice(2, -2) for n in out.shape[2:]))]
    assert inside.var().item() == pytest.approx(1, rel=0.06)
    zeta.init_(module, Rules([Rule("weight", VarianceScaling()), Rule("bias", Zeros())]), seed=0)
    assert module(torch.randn(size)).var().item() < 0.65


@pytest.mark.parametrize("strides", [((0, 2),), ((2, 0),), ((2, 2), (2, 3)), (2,), ((9, 2),)])
def test_strides_are_of_kernel_dimensions_each_once(strides: Any) -> None:
    with pytest.raises((SpecError, FanError), match="stride"):
        Axes(fan_in=(1, 2), fan_out=(0, 2), stride_in=strides).fans((3, 4, 5))


# -- other people's layers ------------------------------------------------------------------------------------------


def test_transformers_conv1d_is_stored_in_by_out() -> None:
    utils = pytest.importorskip("transformers.pytorch_utils")
    assert fan_pair(utils.Conv1D(nf=12, nx=5)) == (5, 12)
    assert fan_pair(utils.Conv1D(nf=12, nx=5), torch_compatible=True) == (12, 5)


def test_another_class_called_conv1d_is_out_by_in() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(5, 12))

    assert fan_pair(Conv1D()) == (12, 5)


def test_a_conv1d_with_sizes_is_in_by_out_even_if_its_forward_says_nothing() -> None:
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nx, self.nf = 5, 12
            self.weight = nn.Parameter(torch.zeros(5, 12))

    assert fan_pair(Conv1D()) == (5, 12)


@pytest.mark.parametrize(("transposed", "whole", "expected"), [
    (True, True, {"gate_up_proj": (6, 5), "down_proj": (6, 10)}),
    (False, True, {"gate_up_proj": (10, 3), "down_proj": (10, 6)}),
    (True, False, {"gate_up_proj": (6, 10), "down_proj": (6, 10)}),  # gate and up alternate
])  # fmt: skip
def test_experts_of_transformers_say_how_they_are_stored(
    transposed: bool, whole: bool, expected: dict[str, tuple[int, int]]
) -> None:
    experts = nn.Module()
    experts.is_transposed, experts.is_concatenated, experts.has_gate = transposed, whole, True  # type: ignore[assignment]
    for name in expected:
        experts.register_parameter(name, nn.Parameter(torch.zeros(4, 6, 10)))
    assert {name: fan_pair(experts, name) for name in expected} == expected
    assert axes_of(experts, "down_proj", torch.Size((4, 6, 10))).batch == (0,)


def test_names_of_experts_alone_say_nothing_of_their_layout() -> None:
    experts = nn.Module()
    experts.register_parameter("down_proj", nn.Parameter(torch.zeros(4, 6, 10)))
    with pytest.raises(FanError, match="it is not known which dimensions"):
        fans(experts, "down_proj")


class Chunked(nn.Module):
    """A product whose outputs are cut in three, which does not go up."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(7, 5))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return nn.functional.linear(x, self.weight).chunk(3, dim=-1)


def test_outputs_that_are_cut_unevenly_are_no_blocks() -> None:
    assert fan_pair(Chunked()) == (5, 7)


def test_mixtral_experts_against_their_configuration() -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 8, "intermediate_size": 14, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.MixtralConfig(vocab_size=16, num_local_experts=3, num_key_value_heads=1, **sizes)
    model = on_meta(lambda: transformers.MixtralForCausalLM(config))
    experts = next(module for module in model.modules() if hasattr(module, "gate_up_proj"))
    assert fan_pair(experts, "gate_up_proj") == (8, 14)
    assert fan_pair(experts, "down_proj") == (14, 8)


class Fused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 6, 10))


def test_a_3d_weight_of_unknown_layout_is_refused() -> None:
    with pytest.raises(FanError, match=r"Fused\.weight of shape \(4, 6, 10\).*it is not known.*register_fans"):
        fans(Fused())


def test_a_weight_tied_to_an_embedding_has_the_fans_of_the_head() -> None:
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 50, bias=False))
    model[1].weight = model[0].weight
    (entry,) = zeta.plan(model, Rules([Rule("*", Normal())]))
    assert entry.fans == Fans(fan_in=16, fan_out=50)


# -- own modules -----------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.zeros(3, 5))
        self.w2 = nn.Parameter(torch.zeros(2, 3, 5))


class SubMixer(Mixer):
    pass


IN_BY_OUT = Axes(fan_in=(0,), fan_out=(1,))


def test_registered_axes_hold_for_the_class_and_its_subclasses_only() -> None:
    register_fans(Mixer, {"w1": IN_BY_OUT})
    assert fan_pair(Mixer(), "w1") == (3, 5)
    assert fan_pair(SubMixer(), "w1") == (3, 5)
    assert fan_pair(nn.Linear(3, 5)) == (3, 5)
    with pytest.raises(FanError, match="it is not known"):
        fans(Mixer(), "w2")


def test_a_later_registration_and_a_subclass_have_precedence() -> None:
    register_fans(Mixer, {"w1": IN_BY_OUT})
    register_fans(SubMixer, {"w1": Axes(fan_in=(1,), fan_out=(0,))})
    assert (fan_pair(Mixer(), "w1"), fan_pair(SubMixer(), "w1")) == ((3, 5), (5, 3))
    register_fans(Mixer, {"w2": Axes(batch=(0,), fan_in=(1,), fan_out=(2,))})
    assert (fan_pair(Mixer(), "w1"), fan_pair(Mixer(), "w2")) == ((5, 3), (3, 5))


def test_a_registration_may_be_a_glob_and_a_function() -> None:
    seen: list[tuple[str, str, tuple[int, ...]]] = []

    def of(module: nn.Module, name: str, shape: torch.Size) -> Axes:
        seen.append((type(module).__name__, name, tuple(shape)))
        return Axes(fan_in=(-2,), fan_out=(-1,), batch=tuple(range(len(shape) - 2)))

    register_fans(Mixer, {"w?": of})
    assert (fan_pair(Mixer(), "w1"), fan_pair(Mixer(), "w2")) == ((3, 5), (3, 5))
    assert seen == [("Mixer", "w1", (3, 5)), ("Mixer", "w2", (2, 3, 5))]


@pytest.mark.parametrize("name", ["weight", "w*"])
def test_torch_layers_can_be_registered_anew(name: str) -> None:
    register_fans(nn.Linear, {name: IN_BY_OUT})
    assert fan_pair(nn.Linear(7, 3)) == (3, 7)


@pytest.mark.parametrize(
    ("module_type", "axes", "message"),
    [
        (int, {"w": IN_BY_OUT}, "subclass of torch.nn.Module, got <class 'int'>"),
        (nn.Linear(1, 1), {"w": IN_BY_OUT}, "subclass of torch.nn.Module, got a Linear"),
        (Mixer, {"w1": IN_BY_OUT, "w2": (0, 1)}, r"'w2' must map to Axes or to a function, got \(0, 1\)"),
    ],
)
def test_bad_registrations_are_refused_whole(module_type: Any, axes: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        register_fans(module_type, axes)
    assert fan_pair(Mixer(), "w1") == (5, 3)


# -- bare tensors, errors ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [torch.zeros(3, 7), (3, 7), [3, 7], torch.Size([3, 7])])
def test_a_bare_matrix_is_out_by_in(target: Any) -> None:
    assert fans(target) == Fans(fan_in=7, fan_out=3)


def test_given_axes_win_over_what_the_module_says() -> None:
    assert fan_pair(nn.Linear(7, 3), axes=IN_BY_OUT) == (3, 7)
    assert fan_pair((4, 3, 7), axes=Axes(fan_in=(-1,), fan_out=(-2,), batch=(-3,))) == (7, 3)


@pytest.mark.parametrize(
    ("target", "name", "message"),
    [
        (nn.Linear(7, 3), "bias", r"Linear\.bias of shape \(3,\) has no fans.*Zeros\(\)"),
        (nn.LayerNorm(4), "weight", r"LayerNorm\.weight of shape \(4,\) has no fans"),
        (nn.Linear(7, 3), "wieght", r"Linear has no tensor 'wieght' \(.*\); did you mean 'weight'\?"),
        (
            nn.LSTM(7, 3),
            "weight",
            r"LSTM has no tensor 'weight' \(give the name of one, as in zeta\.fans\(module, "
            r"'weight_ih_l0'\)\); did you mean 'weight_ih_l0'\?",
        ),
        (nn.MultiheadAttention(8, 2), "weight", r"zeta\.fans\(module, 'in_proj_weight'\)"),
        (nn.GRUCell(7, 3), "kernel", r"GRUCell has no tensor 'kernel' \(.*\); expected one of weight_ih, weight_hh, "),
        (nn.Sequential(nn.Linear(7, 3)), "weight", r"Sequential has no tensor 'weight' .*; did you mean '0\.weight'\?"),
        (nn.Sequential(nn.Linear(7, 3)), "1.weight", r"Sequential has no module '1'; did you mean '0\.weight'\?"),
        (nn.Linear(7, 3, bias=False), "bias", "Linear has no tensor 'bias'"),
        (nn.Linear(7, 3), "in_features", "Linear has no tensor 'in_features'"),
        (torch.zeros(()), "weight", r"bare tensor of shape \(\) has no fans"),
        (
            (6, 4, 3, 3),
            "weight",
            r"bare tensor of shape \(6, 4, 3, 3\): it is not known which dimensions are in and out",
        ),
    ],
)
def test_what_has_no_fans_is_an_error_that_names_it(target: Any, name: str, message: str) -> None:
    with pytest.raises(FanError, match=message):
        fans(target, name)


def test_a_dotted_name_is_that_of_a_submodules_tensor() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(7, 3)), nn.LSTM(8, 2), weight_norm(nn.Conv2d(4, 8, 3, groups=2)))
    assert fans(model, "0.0.weight") == Fans(fan_in=7, fan_out=3)
    assert fans(model, "1.weight_ih_l0") == fans(model[1], "weight_ih_l0") == Fans(fan_in=8, fan_out=2)
    assert fans(model, "2.weight") == fans(model[2]) == Fans(fan_in=18, fan_out=36)


def test_lazy_weights_have_no_fans_yet() -> None:
    with pytest.raises(FanError, match="lazy"):
        fans(nn.LazyLinear(3))


def test_torch_axes() -> None:
    assert torch_axes(2) == Axes(fan_in=(1,), fan_out=(0,))
    assert torch_axes(5) == Axes(fan_in=(1, 2, 3, 4), fan_out=(0, 2, 3, 4))
    for ndim in (0, 1):
        with pytest.raises(FanError, match=rf"{ndim} dimension\(s\); at least 2"):
            torch_axes(ndim)


# -- axes --------------------------------------------------------------------------------------------------------------


def test_fans_of_axes_with_every_role() -> None:
    axes = Axes(fan_in=(1, 4), fan_out=(2, 4), batch=(0,), lookup=(3,), blocks=((1, 5), (2, 2)))
    # batch 7; 10 inputs in 5 blocks; 6 outputs in 2 blocks; 11 rows to choose from; a kernel of 3
    assert axes.fans((7, 10, 6, 11, 3)) == Fans(fan_in=2 * 3, fan_out=3 * 3)


def test_one_dimension_may_be_given_as_a_number() -> None:
    assert Axes(fan_in=1, fan_out=0) == Axes(fan_in=(1,), fan_out=(0,))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fan_in": (1, 1), "fan_out": (0,)}, "fan_in must be distinct dimension numbers"),
        ({"fan_in": (1,), "fan_out": (True,)}, "fan_out must be distinct dimension numbers"),
        ({"fan_in": (1.0,), "fan_out": (0,)}, "fan_in must be distinct dimension numbers"),
        ({"fan_in": ("1",), "fan_out": (0,)}, "fan_in must be distinct dimension numbers"),
        ({"fan_in": (1,), "fan_out": (0,), "batch": (1,)}, "cannot have a second role"),
        ({"fan_in": (1,), "fan_out": (0,), "lookup": (0,)}, "cannot have a second role"),
        ({"fan_in": (1,), "fan_out": (0,), "batch": (2,), "lookup": (2,)}, "cannot have a second role"),
        ({"fan_in": (1,), "fan_out": (0,), "blocks": ((0, 0),)}, "a number of at least 1"),
        ({"fan_in": (1,), "fan_out": (0,), "blocks": ((0, 2), (0, 3))}, "name each dimension once"),
        ({"fan_in": (1,), "fan_out": (0,), "blocks": (3,)}, r"\(dimension, number\) pairs"),
        ({"fan_in": (1,), "fan_out": (0,), "blocks": (("x", 3),)}, r"\(dimension, number\) pairs"),
        ({"fan_in": (1,), "fan_out": (0,), "blocks": ((0, 2.5),)}, "blocks"),
        ({"fan_in": None, "fan_out": (0,)}, "fan_in"),
    ],
)
def test_bad_axes_are_refused_when_built(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        Axes(**arguments)


@pytest.mark.parametrize(
    ("axes", "shape", "message"),
    [
        (IN_BY_OUT, (2, 3, 4), r"no role to dimension \[2\]"),
        (Axes(fan_in=(2,), fan_out=(0,)), (3, 4), "does not have"),
        (Axes(fan_in=(-3,), fan_out=(0,)), (3, 4), "does not have"),
        (Axes(fan_in=(1,), fan_out=(0,), blocks=((2, 2),)), (3, 4), "does not have"),
        (Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 2),)), (3, 4), "2 blocks do not divide dimension 0"),
    ],
)
def test_axes_that_do_not_fit_a_shape_are_refused(axes: Axes, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(FanError, match=message):
        axes.fans(shape)


def test_one_dimension_named_twice_is_refused_once_the_shape_is_known() -> None:
    with pytest.raises(SpecError, match="cannot have a second role"):
        Axes(fan_in=(1,), fan_out=(0,), batch=(-1,)).resolved((3, 4))
    with pytest.raises(SpecError, match="name each dimension once"):
        Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 3), (-2, 3))).resolved((3, 4))


def test_resolved_axes_have_no_negative_dimension() -> None:
    axes = Axes(fan_in=(-1,), fan_out=(-2,), batch=(-4,), lookup=(-3,), blocks=((-2, 3),))
    expected = Axes(fan_in=(3,), fan_out=(2,), batch=(0,), lookup=(1,), blocks=((2, 3),))
    assert axes.resolved((2, 4, 6, 5)) == expected


@given(st.permutations(range(5)), st.integers(1, 4), st.sampled_from([-5, 0]))
def test_axes_go_through_json_exactly(order: list[int], n: int, offset: int) -> None:
    a, b, c, d, kernel = (dim + offset for dim in order)
    axes = Axes(fan_in=(a, kernel), fan_out=(b, kernel), batch=(c,), lookup=(d,), blocks=((a, n),))
    assert Axes.from_json(json.loads(json.dumps(axes.to_json()))) == axes


def test_axes_json_with_an_unknown_key_is_refused() -> None:
    with pytest.raises(SpecError, match=r"unknown \['fanin'\]; expected some of .*'fan_in'"):
        Axes.from_json({"fanin": [1], "fan_out": [0]})


@pytest.mark.parametrize("bad", [3, "ab", None, [1.5]])
def test_what_has_no_shape_is_refused(bad: Any) -> None:
    with pytest.raises(FanError, match="fans needs a module, a tensor or a shape, got"):
        fans(bad)
