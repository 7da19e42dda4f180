"""Every recipe against an independent one: transformers' GPT-2, a hand-written ResNet, torch's own layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import zeta
from examples.gpt import gpt2 as example_gpt2
from tests.helpers.layers import LAYERS
from tests.helpers.models import Basic, Bottleneck, ResNet
from zeta import Rule, Rules, recipes
from zeta.errors import PlanError, SpecError
from zeta.initializers import Zeros
from zeta.rules import Kind
from zeta.utils import init_default_

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def own_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def assert_alike(given: Tensor, other: Tensor, name: str) -> None:
    """Two samples of one distribution, or the same constant: five standard errors of the difference of their std.

    Where ``other`` is uniform (its largest magnitude is sqrt(3) std), the bounds agree as well, which is much sharper.
    """
    given, other = given.detach().double().flatten(), other.detach().double().flatten()
    assert given.shape == other.shape
    if len(other.unique()) == 1:
        assert torch.equal(given, other), f"{name}: {given.unique()[:5]} instead of {other[0]}"
        return
    n, std, expected = len(other), float(given.std()), float(other.std())
    assert n >= 100, f"{name}: too few elements to tell"
    bound = float(other.abs().max())
    uniform = bound < 2.1 * expected
    kurtosis = 1.8 if uniform else 3.0
    assert abs(std / expected - 1) < 5 * math.sqrt((kurtosis - 1) / (2 * n)), f"{name}: std {std} and not {expected}"
    assert abs(float(given.mean() - other.mean())) < 5 * math.sqrt(2 / n) * expected, name
    if uniform:
        assert abs(float(given.abs().max()) / bound - 1) < 20 / n, f"{name}: bound {given.abs().max()} and not {bound}"
    else:
        assert given.abs().max() > 2.5 * expected, name


# -- gpt2 --------------------------------------------------------------------------------------------------------------

SIZES = {"vocab_size": 700, "n_positions": 300, "n_embd": 256, "n_layer": 3, "n_head": 4}


def config(**changes: Any) -> Any:
    return transformers.GPT2Config(**{**SIZES, "bos_token_id": 0, "eos_token_id": 0, **changes})


def tiny(**changes: Any) -> Any:
    return config(**{"vocab_size": 16, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2, **changes})


def gpt2_std(name: str, initializer_range: float, layers: int) -> float:
    """What section 2.3 of the paper says, and transformers: the code of OpenAI scales no projection."""
    owner, local = name.split(".")[-2:]
    if local == "bias" or owner.startswith("ln"):
        return 0.0
    return initializer_range / math.sqrt(2 * layers) if owner == "c_proj" else initializer_range


GPT2: dict[str, tuple[Callable[[], nn.Module], float, int]] = {
    "head": (lambda: transformers.GPT2LMHeadModel(config()), 0.02, 3),
    "range": (lambda: transformers.GPT2LMHeadModel(config(initializer_range=0.05, n_layer=2)), 0.05, 2),
    "untied": (lambda: transformers.GPT2LMHeadModel(config(tie_word_embeddings=False, n_layer=1)), 0.02, 1),
    "no_head": (lambda: transformers.GPT2Model(config(n_layer=5)), 0.02, 5),
    "cross": (lambda: transformers.GPT2Model(config(n_layer=2, add_cross_attention=True)), 0.02, 2),
}


@pytest.mark.parametrize(("factory", "initializer_range", "layers"), GPT2.values(), ids=GPT2)
def test_gpt2_is_that_of_transformers(factory: Callable[[], nn.Module], initializer_range: float, layers: int) -> None:
    theirs, ours = factory(), factory()
    plan = zeta.plan(ours, "gpt2")
    for entry in plan.parameters:
        assert entry.std == pytest.approx(gpt2_std(entry.name, initializer_range, layers), rel=1e-12), entry.name
        assert entry.mean == (1.0 if ".ln" in f".{entry.name}" and entry.name.endswith("weight") else 0.0), entry.name
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.fill_(7.0)
    report = zeta.apply_(ours, plan, seed=1)
    assert report.ok, str(report)
    for (name, given), (other_name, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
        assert name == other_name
        assert_alike(given, other, name)


def test_gpt2_ties() -> None:
    tied = zeta.plan(transformers.GPT2LMHeadModel(tiny()), "gpt2")
    assert tied["lm_head.weight"] is tied["transformer.wte.weight"]
    untied = zeta.plan(transformers.GPT2LMHeadModel(tiny(tie_word_embeddings=False)), "gpt2")
    assert untied["lm_head.weight"] is not untied["transformer.wte.weight"]
    assert untied["lm_head.weight"].std == 0.02


@pytest.mark.parametrize("bias", [True, False])
def test_gpt2_on_the_example(bias: bool) -> None:
    model = example_gpt2(**SIZES, bias=bias)
    plan = zeta.plan(model, "gpt2")
    assert {e.name: e.std for e in plan} == pytest.approx({e.name: gpt2_std(e.name, 0.02, 3) for e in plan}, rel=1e-12)
    assert plan["lm_head.weight"].name == "wte.weight"
    assert {e.kind for e in plan} == {Kind.WEIGHT, Kind.EMBEDDING, Kind.NORM_SCALE} | ({Kind.BIAS} if bias else set())
    zeta.apply_(model, plan, seed=0)
    tokens = torch.randint(700, (2, 257))
    loss = model(tokens[:, :-1], tokens[:, 1:])[1]
    assert float(loss.detach()) == pytest.approx(math.log(700), abs=0.2)


def test_the_smallest_gpt2() -> None:
    with torch.device("meta"):
        plan = zeta.plan(example_gpt2(), "gpt2")
    assert sum(entry.numel for entry in plan) == 124_439_808
    assert plan["h.11.mlp.c_proj.weight"].std == pytest.approx(0.02 / math.sqrt(24), rel=1e-12)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": torch.compile,
    "data_parallel": nn.DataParallel,
    "checkpoint": checkpoint_wrapper,
    "both": lambda model: nn.DataParallel(torch.compile(model)),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_gpt2_wrapped(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """The config is the inner model's, wherever it is."""

    def model() -> nn.Module:
        return transformers.GPT2LMHeadModel(tiny(initializer_range=0.5))

    assert zeta.plan(wrap(model()), "gpt2") == zeta.plan(model(), "gpt2")
    bare, wrapped = model(), model()
    zeta.init_(bare, "gpt2", seed=3)
    zeta.init_(wrap(wrapped), "gpt2", seed=3)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), wrapped.parameters(), strict=True))


@pytest.mark.parametrize("around", [nn.Sequential, lambda m: nn.ModuleDict({"gpt": m})], ids=["number", "name"])
def test_gpt2_counts_its_own_layers(around: Callable[[nn.Module], nn.Module]) -> None:
    """A number in front of the layers' number is not one of a layer."""
    plan = zeta.plan(around(example_gpt2(n_layer=3, n_embd=8, n_head=2, vocab_size=16, n_positions=8)), "gpt2")
    found = {entry.name: entry.std for entry in plan if entry.name.endswith("c_proj.weight")}
    assert len(found) == 6
    assert list(found.values()) == pytest.approx([0.02 / math.sqrt(6)] * 6)


# -- resnet ------------------------------------------------------------------------------------------------------------


def resnet_std(name: str, model: nn.Module) -> float:
    module = model.get_submodule(name.rpartition(".")[0])
    if isinstance(module, nn.Conv2d):
        return math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size)))
    return 1 / math.sqrt(3 * module.in_features) if isinstance(module, nn.Linear) else 0.0


@pytest.mark.parametrize("zero_init_residual", [False, True])
@pytest.mark.parametrize("block", [Basic, Bottleneck])
def test_resnet_is_the_hand_written_one(block: type[Basic | Bottleneck], zero_init_residual: bool) -> None:
    theirs, ours = ResNet(block, zero_init_residual=zero_init_residual), ResNet(block)
    assert ours(torch.randn(2, 3, 33, 33)).shape == (2, 1000)
    rules = recipes.resnet(ours, zero_init_residual=zero_init_residual)
    plan = zeta.plan(ours, rules)
    for entry in plan.parameters:
        assert entry.std == pytest.approx(resnet_std(entry.name, ours), rel=1e-12), entry.name
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.fill_(7.0)
    zeta.apply_(ours, plan, seed=1)
    zeros = []
    for (name, given), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert_alike(given, other, name)
        zeros += [name] if name.endswith("weight") and not given.any() else []
    # the ends of the three blocks, and not the stem's or the shortcuts' norms
    end = "bn3" if block is Bottleneck else "bn2"
    assert zeros == ([f"layer{n}.{end}.weight" for n in ("1.0", "1.1", "2.0")] if zero_init_residual else [])
    for (name, buffer), fresh in zip(ours.named_buffers(), ResNet(block).buffers(), strict=True):
        assert torch.equal(buffer, fresh), f"{name}: statistics of the forward pass above are left"


def test_resnet_by_name_and_wrapped() -> None:
    bare, wrapped = (ResNet(Basic, 8, 10) for _ in range(2))
    zeta.init_(bare, "resnet", seed=1)
    zeta.init_(nn.DataParallel(wrapped), "resnet", seed=1)
    assert all(torch.equal(a, b) for a, b in zip(bare.parameters(), wrapped.parameters(), strict=True))
    plan = zeta.plan(nn.DataParallel(wrapped), recipes.resnet(nn.DataParallel(wrapped), zero_init_residual=True))
    assert plan["layer1.0.bn2.weight"].mean == 0


# -- torch -------------------------------------------------------------------------------------------------------------

# as many elements as possible in every parameter, so that its distribution can be told
DEFAULTS: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(50, 3000),
    "linear_no_bias": lambda: nn.Linear(3000, 50, bias=False),
    "conv1d": lambda: nn.Conv1d(16, 2000, 5),
    "conv2d": lambda: nn.Conv2d(10, 2000, 3),
    "grouped": lambda: nn.Conv2d(40, 2000, 3, groups=4),
    "conv3d": lambda: nn.Conv3d(4, 2000, 3),
    "transposed1d": lambda: nn.ConvTranspose1d(16, 2000, 5),
    "transposed2d": lambda: nn.ConvTranspose2d(10, 2000, 3),
    "transposed_grouped": lambda: nn.ConvTranspose2d(40, 2000, 3, groups=4),
    "transposed3d": lambda: nn.ConvTranspose3d(4, 2000, 3),
    "bilinear": lambda: nn.Bilinear(20, 5, 2000),
    "embedding": lambda: nn.Embedding(500, 300),
    "embedding_padded": lambda: nn.Embedding(500, 300, padding_idx=7),
    "embedding_bag": lambda: nn.EmbeddingBag(500, 300, padding_idx=0),
    "attention": lambda: nn.MultiheadAttention(256, 4, add_bias_kv=True),
    "attention_separate": lambda: nn.MultiheadAttention(256, 4, kdim=100, vdim=300),
    "attention_no_bias": lambda: nn.MultiheadAttention(256, 4, bias=False),
    "rnn": lambda: nn.RNN(40, 200, num_layers=2),
    "lstm": lambda: nn.LSTM(40, 200, bidirectional=True, proj_size=100),
    "gru": lambda: nn.GRU(40, 200, num_layers=2, bidirectional=True),
    "rnn_cell": lambda: nn.RNNCell(40, 300),
    "lstm_cell": lambda: nn.LSTMCell(40, 200),
    "gru_cell": lambda: nn.GRUCell(40, 200),
    "batch_norm": lambda: nn.BatchNorm2d(9),
    "sync_batch_norm": lambda: nn.SyncBatchNorm(9),
    "instance_norm": lambda: nn.InstanceNorm1d(9, affine=True),
    "layer_norm": lambda: nn.LayerNorm(9),
    "layer_norm_2d": lambda: nn.LayerNorm((3, 4)),
    "group_norm": lambda: nn.GroupNorm(3, 9),
    "rms_norm": lambda: nn.RMSNorm((3, 4)),
    "prelu": lambda: nn.PReLU(9, init=0.3),
    "transformer": lambda: nn.Transformer(128, 4, 1, 2, 300, batch_first=True),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(128, 4, 300, batch_first=True), 2),
    "decoder_layer": lambda: nn.TransformerDecoderLayer(128, 4, 300),
    "transformer_inside": lambda: nn.Sequential(
        nn.Linear(128, 128), nn.Transformer(128, 4, 1, 1, 300, batch_first=True)
    ),
    "adaptive_softmax": lambda: nn.AdaptiveLogSoftmaxWithLoss(128, 400, [100, 200]),
    "mlp": lambda: nn.Sequential(nn.Linear(100, 100), nn.Sequential(nn.Linear(100, 500), nn.BatchNorm1d(500))),
}


@pytest.mark.parametrize("factory", DEFAULTS.values(), ids=DEFAULTS)
def test_default_is_what_torch_does(factory: Callable[[], nn.Module]) -> None:
    theirs, ours = factory(), factory()
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.fill_(7.0)
    init_default_(ours, seed=2)
    for (name, given), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        row = getattr(ours, "padding_idx", None)
        if row is not None:
            assert not given[row].any()
        assert_alike(given, other, name)


def test_two_defaults_of_one_distribution_are_told_apart_from_others() -> None:
    """The comparison above is sharp: it sees 1 % of the std, a wrong fan, a wrong distribution, a wrong constant."""
    weight = nn.Linear(500, 400).weight.detach()
    assert_alike(nn.Linear(500, 400).weight, weight, "same")
    normal = torch.randn(400, 500)
    assert_alike(torch.randn(400, 500), normal, "same")
    for wrong, right in [
        (weight * 1.01, weight),
        (torch.randn_like(weight) * weight.std(), weight),
        (1.02 * torch.randn(400, 500), normal),
        (normal + 0.05, torch.randn(400, 500)),
        (torch.rand(400, 500).sub(0.5) * 12**0.5, normal),
        (torch.zeros(3), torch.ones(3)),
        (torch.tensor([0.0, 1.0]), torch.ones(2)),
    ]:
        with pytest.raises(AssertionError):
            assert_alike(wrong, right, "wrong")


@pytest.mark.parametrize("factory", LAYERS.values(), ids=LAYERS)
def test_torch_by_name_is_init_default(factory: Callable[[], nn.Module]) -> None:
    by_name, by_call = factory(), factory()
    zeta.apply_(by_name, zeta.plan(by_name, "torch"), seed=4)
    init_default_(by_call, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(by_name.parameters(), by_call.parameters(), strict=True))


def test_torch_resets_statistics_and_init_default_does_not() -> None:
    layer = nn.BatchNorm1d(4)
    layer.running_var.fill_(5)
    init_default_(layer)
    assert (layer.running_var == 5).all()
    zeta.init_(layer, "torch", seed=0)
    assert (layer.running_var == 1).all()


# -- names, and models that a recipe is not for ------------------------------------------------------------------------


def test_names_and_summaries() -> None:
    assert recipes.names() == sorted(recipes.RECIPES)
    assert {"bert", "gpt2", "llama", "resnet", "torch", "vit"} <= set(recipes.names())
    for name in recipes.names():
        summary = recipes.summary(name)
        assert summary
        assert "\n" not in summary.strip()
    with pytest.raises(SpecError, match=r"unknown recipe 'gpt3': expected one of .*\bgpt2, .*did you mean 'gpt2'"):
        zeta.plan(nn.Linear(1, 1), "gpt3")
    with pytest.raises(SpecError, match="unknown recipe 'GPT2'"):
        recipes.summary("GPT2")


def small_gpt() -> nn.Module:
    return example_gpt2(n_layer=1, n_embd=8, n_head=2, vocab_size=16, n_positions=8)


@pytest.mark.parametrize(
    ("recipe", "factory", "messages"),
    [
        ("gpt2", lambda: nn.Linear(3, 3), ["these rules of it never win", "attention outputs", "MLP down"]),
        ("gpt2", lambda: ResNet(Basic, 4, 4), ["these rules of it never win", "attention outputs", "MLP down"]),
        ("gpt2", nn.ReLU, ["these rules of it never win", "attention outputs", "MLP down"]),
        ("gpt2", lambda: nn.Sequential(small_gpt(), nn.PReLU()), ["no rule matches", "1.weight", "in PReLU"]),
        ("resnet", small_gpt, ["no rule matches", "wpe.weight 8 x 8, kind embedding", "never win", "convolutions"]),
        ("resnet", lambda: nn.Linear(3, 3), ["these rules of it never win", "convolutions", "norm scales"]),
        ("resnet", lambda: nn.Conv2d(3, 3, 3), ["these rules of it never win", "norm scales"]),
        ("resnet", lambda: LAYERS["transformer"](), ["no rule matches", "in_proj_weight"]),
    ],
)
def test_the_wrong_model(recipe: str, factory: Callable[[], nn.Module], messages: list[str]) -> None:
    model = factory()
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(PlanError) as caught:
        zeta.init_(model, recipe, seed=0)
    assert str(caught.value).startswith(f"the recipe {recipe!r} does not fit this model\n")
    assert "mistyped" not in str(caught.value)
    assert "did you mean" not in str(caught.value)
    for message in messages:
        assert message in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_no_residual_blocks_to_end_with_zero() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    with pytest.raises(PlanError, match="these rules never win"):
        zeta.plan(model, recipes.resnet(model, zero_init_residual=True))


def test_the_default_bias_of_a_layer_without_inputs_is_zero_as_in_torch() -> None:
    with pytest.warns(UserWarning, match="zero-element"):
        layer = nn.Linear(0, 4)
    expected = layer.bias.clone()
    assert not expected.any()
    assert torch.equal(init_default_(layer, seed=1).bias, expected)


def test_summaries_are_plain_text() -> None:
    assert not any("`" in recipes.summary(name) for name in recipes.names())


@pytest.mark.parametrize("build", [
    lambda: nn.Linear(64, 300, dtype=torch.complex64),
    lambda: nn.Conv2d(8, 300, 3, dtype=torch.complex64),
    lambda: nn.Bilinear(8, 9, 30, dtype=torch.complex64),
    lambda: nn.modules.linear.NonDynamicallyQuantizableLinear(64, 300),
    lambda: nn.MultiheadAttention(64, 4),
])  # fmt: skip
def test_torch_s_defaults_have_torch_s_variance_in_each_part(build: Callable[[], nn.Module]) -> None:
    """Against torch's own values: 2,400 elements and more tell 15 % apart in variance; zeros are zero."""
    torch.manual_seed(0)
    real, ours = build(), zeta.utils.init_default_(build(), seed=0)
    for (name, a), (_, b) in zip(real.named_parameters(), ours.named_parameters(), strict=True):
        x, y = (torch.view_as_real(t.detach()) if t.is_complex() else t.detach()[..., None] for t in (a, b))
        assert bool(x.any()) == bool(y.any()), name
        if x.numel() >= 2000:
            for part in range(x.shape[-1]):
                assert float(y[..., part].var()) == pytest.approx(float(x[..., part].var()), rel=0.15), name
        assert float(y.abs().max()) <= float(x.abs().max()) * 1.2 + 1e-9, name


# -- options, and rules before a recipe --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("gpt2", {"sdt": 0.1}, "has no option 'sdt'; its options are std, layers; did you mean 'std'"),
        ("gpt2", {"std": -1}, "the recipe 'gpt2': std must be a positive number, got -1"),
        ("resnet", {"zero_init_residual": "yes"}, "zero_init_residual must be True or False, got 'yes'"),
        ("lstm", {"order": "iffo"}, "the recipe 'lstm': order must be one of 'ifgo', .*, got 'iffo'"),
        ("torch", {"std": 1}, "the recipe 'torch' has no option 'std', or any other"),
        ("lstm", {"order": 3}, "the recipe 'lstm': order must be a text, got 3"),
    ],
)
def test_options_that_are_refused(recipe: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        zeta.plan(small_gpt(), recipe, **options)


def test_rules_say_the_name_by_which_their_recipe_is_used() -> None:
    for name in recipes.names():
        assert {rule.recipe for rule in recipes.rules_for(name, nn.Module())} == {name}


def test_the_std_of_a_hand_written_model() -> None:
    plan = zeta.plan(small_gpt(), "gpt2", std=0.1)
    assert plan["wte.weight"].std == pytest.approx(0.1)
    assert plan["h.0.mlp.c_proj.weight"].std == pytest.approx(0.1 / math.sqrt(2))


def test_rules_before_a_recipe_may_take_the_place_of_its_rules() -> None:
    model = small_gpt()
    mine = Rules([Rule("*.attn.c_proj.weight", Zeros())])
    plan = zeta.plan(model, mine + recipes.gpt2(model))
    assert plan["h.0.attn.c_proj.weight"].initializer == Zeros()
    assert plan["h.0.mlp.c_proj.weight"] == zeta.plan(model, "gpt2")["h.0.mlp.c_proj.weight"]
    # a rule of the recipe that nothing matches is an error all the same
    linear = nn.Linear(3, 3)
    with pytest.raises(PlanError, match=r"rule 2 \(attention outputs\): matches nothing"):
        zeta.plan(linear, Rules([Rule("weight", Zeros())]) + recipes.gpt2(linear))
    # and so is one of mine that another one of mine hides
    with pytest.raises(PlanError, match=r"rule 2 \(h.0.attn.c_proj.weight\): hidden by rule 1"):
        zeta.plan(model, mine + Rules([Rule("h.0.attn.c_proj.weight", Zeros())]) + recipes.gpt2(model))


def test_a_recipe_over_a_recording() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = small_gpt()
            self.register_buffer("mask", torch.ones(4, 4).tril())

    model, recorded = zeta.record(Masked)
    plan = recorded.override("gpt2", model)
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.mask, torch.ones(4, 4).tril())
    expected = zeta.plan(Masked(), "gpt2")
    assert [entry.initializer for entry in plan.parameters] == [entry.initializer for entry in expected.parameters]


def test_a_function_that_returns_rules_is_refused() -> None:
    for how in (recipes.gpt2, lambda model: recipes.gpt2(model)):
        with pytest.raises(SpecError, match=r"the function returned rules.*zeta.recipes.gpt2\(model\)"):
            zeta.init_(small_gpt(), how, seed=0)


def test_a_role_that_is_missed_in_some_layers_is_refused() -> None:
    class Retention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Linear(8, 8)

    model = example_gpt2(n_layer=3, n_embd=8, n_head=2, vocab_size=16, n_positions=8)
    model.h[1].attn = Retention()
    for recipe in ("gpt2", "deepnorm"):
        with pytest.raises(PlanError, match=r"h\.1\.attn\.mix\.weight 8 x 8.*what it does there is not known"):
            zeta.plan(model, recipe)
    mine = Rules([Rule("h.1.attn.mix.weight", Zeros())])
    assert zeta.plan(model, mine + recipes.gpt2(model))["h.1.mlp.c_proj.weight"].std == pytest.approx(0.02 / 6**0.5)
