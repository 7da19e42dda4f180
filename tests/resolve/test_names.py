"""Canonical names: every parameter and buffer, its kind and its ties, whatever wraps or parametrizes it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations, parametrize

import zeta
from tests.helpers.layers import LAYERS
from tests.helpers.models import Bottleneck, ResNet
from tests.helpers.sharded import fake_mesh
from zeta import Rule, Rules, plan
from zeta.base.parametrizations import originals
from zeta.errors import PlanError, TargetError
from zeta.initializers import Keep, Normal, Zeros
from zeta.resolve.kinds import kind_of
from zeta.resolve.roles.layers import layers_of
from zeta.resolve.slots import Slot, is_norm_statistic, named_modules, type_name, unwrap, walk
from zeta.rules import Kind


def slots(model: nn.Module) -> dict[str, Slot]:
    found = list(walk(model))
    named = {slot.name: slot for slot in found}
    assert len(named) == len(found), "a name was given twice"
    return named


def kinds(model: nn.Module) -> dict[str, str]:
    return {name: slot.kind.value for name, slot in slots(model).items()}


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factory", [*LAYERS.values(), lambda: ResNet(Bottleneck, 4)], ids=[*LAYERS, "resnet"])
def test_names_shapes_and_tensors_are_those_of_the_model(factory: Callable[[], nn.Module]) -> None:
    model = factory()
    expected = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    found = slots(model)
    assert found.keys() == expected.keys()
    parameters = [name for name, slot in found.items() if slot.kind is not Kind.BUFFER]
    assert parameters == [name for name, _ in model.named_parameters(remove_duplicate=False)]
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, slot in found.items():
        owner, _, local = name.rpartition(".")
        assert slot.tensor is expected[name]
        assert slot.shape == tuple(expected[name].shape)
        assert (slot.local_name, slot.module) == (local, modules[owner])
        assert slot.parametrization is None


def test_shared_parameters_and_modules_appear_under_every_name() -> None:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "a": nn.Linear(3, 3), "head": nn.Linear(3, 5, bias=False)})
    model["b"] = model["a"]
    model["head"].weight = model["embed"].weight
    found = slots(model)
    assert list(found) == ["embed.weight", "a.weight", "a.bias", "head.weight", "b.weight", "b.bias"]
    assert found["head.weight"].tensor is found["embed.weight"].tensor
    assert found["b.bias"].tensor is found["a.bias"].tensor
    assert [found[name].kind for name in ("embed.weight", "head.weight")] == [Kind.EMBEDDING, Kind.WEIGHT]


def test_a_module_has_its_first_name_alone() -> None:
    model = nn.ModuleDict({"a": nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)))})
    model["b"] = model["a"]
    model["lists"] = nn.ModuleList([model["a"][0].parametrizations.weight])
    found = named_modules(model)
    assert list(found) == ["", "a", "a.0", "lists"]
    assert found["a.0"] is model["a"][0]


def test_what_is_none_has_no_name() -> None:
    model = nn.Linear(3, 3, bias=False)
    model.register_parameter("extra", None)
    model.register_buffer("table", None)
    model.register_module("child", None)
    assert list(slots(model)) == ["weight"]


def test_a_module_that_contains_itself_is_refused() -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    model.add_module("loop", model)
    with pytest.raises(TargetError, match="'loop' contains itself"):
        list(walk(model))
    inner = nn.Sequential()
    inner.append(nn.Sequential(inner))
    with pytest.raises(TargetError, match=r"'x\.0\.0' contains itself"):
        list(walk(nn.ModuleDict({"x": inner})))


def test_buffers_and_whether_they_are_stored() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(1, 1))
    model[1].register_buffer("kept", torch.zeros(2))
    model[1].register_buffer("derived", torch.zeros(2), persistent=False)
    found = {name: slot for name, slot in slots(model).items() if slot.kind is Kind.BUFFER}
    assert {name: slot.persistent for name, slot in found.items()} == {
        **dict.fromkeys(("0.running_mean", "0.running_var", "0.num_batches_tracked", "1.kept"), True),
        "1.derived": False,
    }
    assert [name for name, slot in found.items() if is_norm_statistic(slot)] == list(found)[:3]


def test_a_buffer_called_like_a_statistic_is_none() -> None:
    model = nn.Linear(1, 1)
    model.register_buffer("running_mean", torch.zeros(1))
    assert not is_norm_statistic(slots(model)["running_mean"])


# -- wrappers ---------------------------------------------------------------------------------------------------------


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


class Fsdp(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._fsdp_wrapped_module = module


@pytest.fixture
def process_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compile": torch.compile,
    "data_parallel": nn.DataParallel,
    "checkpoint": checkpoint_wrapper,
    "fsdp": Fsdp,
    "several": lambda module: nn.DataParallel(torch.compile(Fsdp(checkpoint_wrapper(module)))),
    "twice": lambda module: checkpoint_wrapper(checkpoint_wrapper(module)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_wrappers_do_not_show(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = net()
    expected = [(slot.name, slot.tensor, slot.kind) for slot in walk(model)]
    assert unwrap(wrap(model)) is model
    outside = [(slot.name, slot.tensor, slot.kind) for slot in walk(wrap(model))]
    model[0] = wrap(model[0])
    inside = [(slot.name, slot.tensor, slot.kind) for slot in walk(model)]
    for found in (outside, inside):
        assert [name for name, _, _ in found] == [name for name, _, _ in expected]
        assert all(a is b for (_, a, _), (_, b, _) in zip(found, expected, strict=True))
        assert [kind for _, _, kind in found] == [kind for _, _, kind in expected]


@pytest.mark.usefixtures("process_group")
def test_distributed_data_parallel_does_not_show() -> None:
    model = net()
    wrapped = nn.parallel.DistributedDataParallel(model)
    assert unwrap(wrapped) is model
    assert [slot.name for slot in walk(wrapped)] == [slot.name for slot in walk(model)]


def test_a_module_that_only_looks_like_a_wrapper_keeps_its_name() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 3)

    assert list(slots(Holder())) == ["module.weight", "module.bias"]


# -- kinds ------------------------------------------------------------------------------------------------------------

BOTH = {"weight": "weight", "bias": "bias"}
STATISTICS = dict.fromkeys(("running_mean", "running_var", "num_batches_tracked"), "buffer")
SCALE = {"weight": "norm_scale", "bias": "bias"}
GATES = {"weight_ih": "weight", "weight_hh": "weight", "bias_ih": "bias", "bias_hh": "bias"}
PROJECTED = {"out_proj.weight": "weight", "out_proj.bias": "bias"}


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        *((layer, BOTH) for layer in ("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "bilinear")),
        *((layer, {"weight": "embedding"}) for layer in ("embedding", "embedding_bag")),
        *((layer, {**SCALE, **STATISTICS}) for layer in ("batch_norm2d", "sync_batch_norm", "instance_norm")),
        *((layer, SCALE) for layer in ("layer_norm", "group_norm")),
        ("rms_norm", {"weight": "norm_scale"}),
        ("prelu", {"weight": "other"}),
        ("lstm_cell", GATES),
        ("gru_cell", GATES),
        ("rnn", {f"{name}_l{layer}": kind for name, kind in GATES.items() for layer in (0, 1)}),
        ("attention_packed", {"in_proj_weight": "weight", "in_proj_bias": "bias", **PROJECTED}),
        (
            "attention_bias_kv",
            {"in_proj_weight": "weight", **dict.fromkeys(("in_proj_bias", "bias_k", "bias_v"), "bias"), **PROJECTED},
        ),
    ],
)
def test_kinds_of_torch_layers(layer: str, expected: dict[str, str]) -> None:
    assert kinds(LAYERS[layer]()) == expected


class MyRMSNorm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True))


class CalledNorm(nn.Module):
    pass


class Block(nn.Module):
    pass


@pytest.mark.parametrize(
    ("module", "name", "ndim", "expected"),
    [
        (MyRMSNorm(), "weight", 1, "norm_scale"),  # a norm by what it does
        (MyRMSNorm(), "scale", 0, "other"),
        (CalledNorm(), "weight", 1, "other"),  # a name says nothing
        (MyRMSNorm(), "proj", 2, "weight"),
        (MyRMSNorm(), "bias", 1, "bias"),
        (Block(), "gamma", 1, "other"),
        (Block(), "scale", 0, "other"),
        (Block(), "w", 2, "weight"),
        (Block(), "w", 5, "weight"),
        (Block(), "bias", 1, "bias"),
        (Block(), "bias", 3, "bias"),  # what is called just so is one
        (Block(), "q_bias", 1, "bias"),
        (Block(), "bias_q", 1, "bias"),
        (Block(), "relative_bias_table", 2, "weight"),
        (Block(), "biased", 1, "other"),
        (Block(), "debias", 1, "other"),
        (nn.LayerNorm((2, 3)), "weight", 2, "norm_scale"),
        (nn.LayerNorm((2, 3)), "bias", 2, "bias"),
        (nn.MultiheadAttention(4, 2), "bias_k", 3, "bias"),
        (nn.Linear(1, 1), "weight", None, "weight"),  # lazy: no number of dimensions yet
        (nn.Linear(1, 1), "bias", None, "bias"),
        (MyRMSNorm(), "weight", None, "weight"),
    ],
)
def test_kind_of(module: nn.Module, name: str, ndim: int | None, expected: str) -> None:
    assert kind_of(module, name, ndim) == Kind(expected)


@pytest.mark.parametrize(
    ("layer", "row"),
    [("embedding", None), ("embedding_padded", 3), ("embedding_padded_last", 6), ("embedding_bag_padded", 0)],
)
def test_padding_row(layer: str, row: int | None) -> None:
    assert slots(LAYERS[layer]())["weight"].padding_idx == row


def test_only_embeddings_have_a_padding_row() -> None:
    linear = nn.Linear(3, 3)
    linear.padding_idx = 1
    assert [slot.padding_idx for slot in walk(linear)] == [None, None]


def test_lazy_parameters_have_kinds_but_no_shape_and_are_not_made() -> None:
    model = nn.Sequential(nn.LazyLinear(3), nn.LazyBatchNorm1d())
    assert kinds(model) == {
        "0.weight": "weight",
        "0.bias": "bias",
        "1.weight": "norm_scale",
        "1.bias": "bias",
        **{f"1.{name}": kind for name, kind in STATISTICS.items()},
    }
    assert {slot.shape for slot in walk(model)} == {()}
    assert nn.parameter.is_lazy(model[0].weight)


# -- parametrizations -------------------------------------------------------------------------------------------------


#: where ``Twice`` ran
DEVICES: list[str] = []


class Twice(nn.Module):
    """A weight of twice as many rows as are stored, with parameters and a buffer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.mixer = nn.Linear(3, 3)
        self.norm_scale = nn.Parameter(torch.ones(1))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, stored: Tensor) -> Tensor:
        self.calls += 1
        DEVICES.append(stored.device.type)
        return torch.cat([stored, self.norm_scale * self.mixer(stored)])


def test_a_parametrized_weight_goes_by_its_own_name_and_shape() -> None:
    layer = nn.Linear(3, 2)
    parametrize.register_parametrization(layer, "weight", Twice(), unsafe=True)
    stored, calls = layer.parametrizations.weight.original, float(layer.parametrizations.weight[0].calls)
    DEVICES.clear()
    inside = "x.parametrizations.weight.0."
    found = slots(nn.ModuleDict({"x": layer}))
    assert {name: (slot.kind.value, slot.shape) for name, slot in found.items()} == {
        "x.weight": ("weight", (4, 3)),
        "x.bias": ("bias", (2,)),
        inside + "mixer.weight": ("parametrization", (3, 3)),
        inside + "mixer.bias": ("parametrization", (3,)),
        inside + "norm_scale": ("parametrization", (1,)),
        inside + "calls": ("buffer", ()),
    }
    assert found["x.weight"].tensor is stored
    assert found["x.weight"].parametrization is layer.parametrizations.weight
    assert float(layer.parametrizations.weight[0].calls) == calls
    assert DEVICES == ["meta"], "nothing is computed to know the shape"


def test_a_class_is_named_as_it_was_before_torch_put_another_in_front_of_it() -> None:
    class Linear2(nn.Linear):
        pass

    layers = {"plain": Linear2(3, 2), "normed": parametrizations.weight_norm(Linear2(3, 2))}
    with fake_mesh((2,), (0,)) as mesh:
        layers |= {f"sharded {name}": fully_shard(copy.deepcopy(layer), mesh=mesh) for name, layer in layers.items()}
        assert len({type(layer).__name__ for layer in layers.values()}) > 2
        assert {name: type_name(layer) for name, layer in layers.items()} == dict.fromkeys(layers, "Linear2")


def test_weight_norm_is_one_weight_out_of_two_tensors() -> None:
    layer = parametrizations.weight_norm(nn.Linear(3, 2))
    slot = slots(layer)["weight"]
    assert (slot.kind, slot.shape) == (Kind.WEIGHT, (2, 3))
    magnitude, direction = originals(layer.parametrizations.weight)
    assert slot.tensor is magnitude is layer.parametrizations.weight.original0
    assert direction is layer.parametrizations.weight.original1
    assert set(slots(layer)) == {"weight", "bias"}


def test_walking_leaves_spectral_norm_where_it_is() -> None:
    """In training mode, every evaluation of the weight is a step of its power iteration."""
    layer = parametrizations.spectral_norm(nn.Linear(3, 2))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    assert set(slots(layer)) == {"weight", "bias", *(f"parametrizations.weight.0.{name}" for name in ("_u", "_v"))}
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())


# -- refused ----------------------------------------------------------------------------------------------------------


def quantized(make: Callable[[Any, Any], nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations
        import torch.ao.nn.intrinsic.quantized as fused
        import torch.ao.nn.quantized as static

        return make(static, fused)


@pytest.mark.parametrize(
    "make",
    [
        lambda static, _: static.Embedding(4, 8),
        lambda static, _: static.EmbeddingBag(4, 8),
        lambda static, _: static.ConvTranspose1d(3, 3, 3),
        lambda static, _: static.dynamic.LSTMCell(3, 3),
        lambda static, _: static.dynamic.GRU(3, 3),
        lambda _, fused: fused.LinearReLU(3, 3),
    ],
    ids=["embedding", "embedding_bag", "transposed", "lstm_cell", "gru", "fused"],
)
def test_quantized_layers_are_refused_by_name(make: Callable[[Any, Any], nn.Module]) -> None:
    layer = quantized(make)
    with pytest.raises(TargetError, match=rf"net\.0\.\*: {type(layer).__name__} is quantized.*quantize it afterwards"):
        list(walk(nn.ModuleDict({"net": nn.Sequential(layer)})))


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda static, _: static.FloatFunctional(), []),
        (lambda static, _: static.ReLU6(), []),
        (lambda static, _: static.Quantize(0.1, 0, torch.quint8), ["scale", "zero_point"]),
    ],
    ids=["functional", "relu6", "quantize"],
)
def test_helpers_of_quantization_hold_no_packed_weights(
    make: Callable[[Any, Any], nn.Module], names: list[str]
) -> None:
    assert set(kinds(quantized(make)).items()) == {(name, "buffer") for name in names}


@pytest.mark.parametrize("old", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_no_rule_gives_a_value_to_what_a_deprecated_hook_stores(old: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(old(nn.Linear(3, 2)))
    with pytest.raises(PlanError, match=r"0\.weight_(v|orig) .*: is what the deprecated .*utils\.parametrizations\."):
        plan(model, Rules([Rule("*", Zeros())]))
    kept = plan(model, Rules([Rule("*.weight_*", Keep()), Rule("*", Zeros())]))
    assert [entry.name for entry in kept if not entry.kept] == ["0.bias"]


@pytest.fixture
def two_ranks() -> Iterator[None]:
    """This process as the second of two, without the first."""
    fake_pg = pytest.importorskip("torch.testing._internal.distributed.fake_pg")
    dist.init_process_group("fake", store=fake_pg.FakeStore(), rank=1, world_size=2)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("two_ranks")
@pytest.mark.parametrize("originals", [True, False])
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
def test_parameters_that_fsdp1_has_sharded_are_refused(originals: bool) -> None:
    """They are 1-D pieces, with ``use_orig_params=True`` under the right names: wrong values, and nobody would see."""
    fsdp = pytest.importorskip("torch.distributed.fsdp").FullyShardedDataParallel
    model = fsdp(nn.Sequential(nn.Linear(4, 3)), use_orig_params=originals, device_id=torch.device("cpu"))
    with pytest.raises(TargetError, match=r"FSDP1 has sharded the parameters of Sequential.*before wrapping"):
        list(walk(model))
    with pytest.raises(TargetError, match="FSDP1 has flattened" if not originals else "FSDP1 has sharded"):
        list(walk(model.module if not originals else model))
    with fsdp.summon_full_params(model):
        assert {slot.name: slot.shape for slot in walk(model)} == {"0.weight": (3, 4), "0.bias": (3,)}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_modules_are_refused() -> None:
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    for model in (scripted, nn.Sequential(scripted)):
        with pytest.raises(TargetError, match=r"Sequential is a ScriptModule.*before torch\.jit\.script"):
            list(walk(model))


# -- layers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["h.3.attn.weight", "h.4.w"], [(3, 2), (4, 2)]),
        (["3.weight"], [(3, 1)]),
        (["3"], [(3, 1)]),
        (["h.10.experts.0.w", "h.10.experts.1.w"], [(0, 2), (1, 2)]),
        (["0.1.2"], [(0, 1)]),
        (["0.h.3.w", "0.h.5.w", "0.wte"], [(3, 2), (5, 2), (0, 1)]),
        (["layer3.conv1.weight", "h.3a.b4.w_5", ""], [None, None, None]),
        (["h.1.w", "h.01.w"], [(1, 1), (1, 1)]),
    ],
)
def test_names_lie_in_numbered_layers(names: list[str], expected: list[tuple[int, int] | None]) -> None:
    assert layers_of(names) == dict(zip(names, expected, strict=True))


@given(st.lists(st.lists(st.sampled_from(["h", "0", "3", "11", "h3", "3h"]), min_size=1, max_size=5), max_size=8))
def test_layers_are_the_first_parts_that_count_several(names: list[list[str]]) -> None:
    counted: dict[tuple[str, ...], set[int]] = {}
    for parts in names:
        for i, part in enumerate(parts):
            if part.isdigit():
                counted.setdefault(tuple(parts[:i]), set()).add(int(part))
    expected = {}
    for parts in names:
        numbers = [(int(p), len(counted[tuple(parts[:i])])) for i, p in enumerate(parts) if p.isdigit()]
        several = [(number, count) for number, count in numbers if count > 1]
        expected[".".join(parts)] = next(iter(several or numbers), None)
    assert layers_of(map(".".join, names)) == expected


class Inside(nn.Module):
    """Not a wrapper: it has more than what a wrapper of torch's calls like this."""

    def __init__(self, name: str) -> None:
        super().__init__()
        setattr(self, name, nn.Linear(2, 2))
        self.gate = nn.Parameter(torch.full((2,), 7.0))


class Headed(nn.DataParallel):
    def __init__(self) -> None:
        super().__init__(nn.Linear(2, 2))
        self.head = nn.Linear(2, 1)


@pytest.mark.parametrize("name", ["_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"])
def test_a_module_with_more_than_a_wrapped_one_is_walked(name: str) -> None:
    assert set(slots(Inside(name))) == {"gate", f"{name}.weight", f"{name}.bias"}


def test_a_parallel_module_with_more_than_the_inner_one_is_walked() -> None:
    assert set(slots(Headed())) == {"module.weight", "module.bias", "head.weight", "head.bias"}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_nested_tensors_are_refused() -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]))
    with pytest.raises(TargetError, match="w: is a nested tensor"):
        list(walk(model))


@pytest.mark.parametrize("what", ["a parameter", "a buffer", "a module"])
def test_a_name_that_is_not_unicode_is_refused_before_anything_is_written(what: str) -> None:
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3))
    if what == "a parameter":
        model[1].register_parameter("\ud800", nn.Parameter(torch.zeros(3, 3)))
    elif what == "a buffer":
        model[1].register_buffer("\ud800", torch.zeros(3))
    else:
        model[1].add_module("\ud800", nn.Linear(3, 3))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rules = Rules([Rule("*", Normal(0.1))])
    for verb in (
        lambda: zeta.init_(model, rules, seed=0),
        lambda: plan(model, rules),
        lambda: zeta.check(model, torch.randn(8, 3)),
    ):
        with pytest.raises(TargetError, match=r"'1\.\\ud800.*' is not valid Unicode .* another name"):
            verb()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_biases_of_stacked_maps_are_biases() -> None:
    experts = nn.Module()
    experts.down = nn.Parameter(torch.empty(4, 6, 8))
    experts.down_bias = nn.Parameter(torch.empty(4, 8))
    experts.rel_bias = nn.Parameter(torch.empty(4, 8))
    experts.other = nn.Parameter(torch.empty(4, 8))
    experts.other_bias = nn.Parameter(torch.empty(4, 8))
    kinds = {slot.name: slot.kind.value for slot in walk(experts)}
    assert kinds == {
        "down": "weight",
        "down_bias": "bias",
        "rel_bias": "weight",
        "other": "weight",
        "other_bias": "weight",
    }
