"""Plans: an entry for every tensor of a real model, all mistakes in one error, the same plan on any device."""

from __future__ import annotations

import fnmatch
import itertools
import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from torch import nn

import zeta
from examples.gpt import gpt2 as example_gpt2
from tests.helpers.layers import state
from tests.helpers.models import Basic, Bottleneck, ResNet
from zeta import Plan, Rule, Rules
from zeta.errors import LayerTypeError, PlanError, SpecError
from zeta.fans import Axes, Fans
from zeta.initializers import (
    Constant,
    Dirac,
    Identity,
    Initializer,
    Keep,
    Normal,
    Ones,
    Orthogonal,
    Sparse,
    TruncatedNormal,
    Uniform,
    VarianceScaling,
    Zeros,
    kaiming_normal,
    xavier_uniform,
)
from zeta.resolve.planning import planned
from zeta.resolve.plans import Entry
from zeta.rules import Kind, Match, kind

ANY = Rules([Rule("*", Normal(0.02))])


def transformers_gpt2(**sizes: int) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    tiny = {"vocab_size": 20, "n_positions": 8, "n_embd": 8, "n_layer": 3, "n_head": 2, "bos_token_id": 0}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**tiny, "eos_token_id": 0, **sizes}))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "transformers_gpt2": transformers_gpt2,
    "gpt": lambda: example_gpt2(vocab_size=20, n_positions=8, n_embd=8, n_layer=3, n_head=2),
    "resnet": lambda: ResNet(Basic, width=4, classes=5),
    "bottleneck": lambda: ResNet(Bottleneck, width=4, classes=5).bfloat16(),
    "transformer": lambda: nn.Transformer(8, 2, 2, 2, 16, batch_first=True),
    "lstm": lambda: nn.Sequential(nn.Embedding(9, 4, padding_idx=2), nn.LSTM(4, 6, 2, proj_size=3)),
    "layer": lambda: nn.Linear(3, 4),
    "empty": nn.ReLU,
}


def named(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every name of every tensor, as torch lists them."""
    buffers = model.named_buffers(remove_duplicate=False)
    return {**dict(model.named_parameters(remove_duplicate=False)), **dict(buffers)}


# -- one entry for every tensor ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_every_tensor_has_exactly_one_entry(name: str) -> None:
    model = MODELS[name]()
    tensors = named(model)
    plan = zeta.plan(model, Rules([Rule("*", Normal(0.02), optional=True)]))
    names = [n for entry in plan for n in (entry.name, *entry.ties)]
    assert sorted(names) == sorted(tensors)
    assert len({id(t) for t in tensors.values()}) == len(plan)
    for entry in plan:
        tensor = tensors[entry.name]
        assert all(tensors[tie] is tensor for tie in entry.ties)
        assert (entry.shape, entry.dtype) == (tuple(tensor.shape), tensor.dtype)
        assert (entry.numel, entry.nbytes) == (tensor.numel(), tensor.nbytes)
        assert (entry.kind is Kind.BUFFER) == (entry.name not in dict(model.named_parameters(remove_duplicate=False)))
        assert entry.persistent == (entry.name in model.state_dict())
    assert plan.nbytes == sum({id(t): t.nbytes for t in tensors.values()}.values())
    assert [entry.name for entry in plan.parameters] == [entry.name for entry in plan if entry.kind is not Kind.BUFFER]


@pytest.mark.parametrize("name", ["transformers_gpt2", "gpt", "resnet", "transformer"])
def test_each_parameter_goes_to_the_first_rule_that_matches(name: str) -> None:
    patterns = ["*.c_proj.*", "*1.weight", "*bias", "*[0-9].*", "*"]
    model = MODELS[name]()
    plan = zeta.plan(model, Rules([Rule(p, Constant(float(i)), optional=True) for i, p in enumerate(patterns)]))
    assert len(plan.parameters) == len(list(model.parameters()))
    for entry in plan.parameters:
        winner = next(i for i, pattern in enumerate(patterns) if fnmatch.fnmatchcase(entry.name, pattern))
        assert (entry.rule, entry.initializer) == (patterns[winner], Constant(float(winner))), entry.name


def test_the_order_is_that_of_the_model() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert [entry.name for entry in zeta.plan(model, ANY)] == list(model.state_dict())


def test_the_numbers_are_solved() -> None:
    """sqrt(2 / fan_in) and sqrt(2 / (fan_in + fan_out)), with fan_in 3 x 49 and 64 x 9 for the convolutions."""
    model = nn.Sequential(nn.Conv2d(3, 64, 7), nn.ConvTranspose2d(64, 16, 3), nn.Linear(50, 4))
    rules = Rules([Rule("2.weight", xavier_uniform(2.0)), Rule("*.weight", kaiming_normal()), Rule("*", Ones())])
    plan = zeta.plan(model, rules)
    assert plan["0.weight"].fans == Fans(fan_in=147, fan_out=64 * 49)
    assert plan["0.weight"].initializer == Normal(plan["0.weight"].std)
    assert plan["0.weight"].std == pytest.approx(math.sqrt(2 / 147), rel=1e-15)
    assert plan["1.weight"].std == pytest.approx(math.sqrt(2 / 576), rel=1e-15)
    bound = 2 * math.sqrt(6 / 54)
    assert plan["2.weight"].initializer.bounds() == pytest.approx((-bound, bound), rel=1e-15)
    assert plan["2.weight"].std == pytest.approx(bound / math.sqrt(3), rel=1e-15)
    assert (plan["2.bias"].mean, plan["2.bias"].std, plan["2.bias"].fans) == (1, 0, None)
    assert zeta.plan(nn.Linear(2, 2), Rules([Rule("*", Keep())]))["bias"].mean is None


@pytest.mark.parametrize(
    ("numbered", "layer", "depth"),
    [
        (lambda part: nn.ModuleDict({"h": nn.ModuleList(part() for _ in range(4))}), 3, 4),
        (lambda part: nn.Sequential(part(), part(), part()), 2, 3),
        (lambda part: nn.ModuleDict({"a": part()}), None, None),
        # the first number that has several values counts
        (lambda part: nn.Sequential(nn.Sequential(part(), part(), part())), 2, 3),
        (lambda part: nn.Sequential(*(nn.Sequential(part(), part()) for _ in range(3))), 2, 3),
        (lambda part: nn.ModuleDict({"x": nn.Sequential(part())}), 0, 1),
    ],
)
def test_layer_and_depth(numbered: Callable[[Any], nn.Module], layer: int | None, depth: int | None) -> None:
    seen: list[Match] = []

    def note(match: Match) -> Initializer:
        seen.append(match)
        return Zeros()

    model = numbered(lambda: nn.Linear(2, 2))
    zeta.plan(model, Rules([Rule("*", note)]))
    last = [match for match in seen if match.local_name == "weight"][-1]
    assert (last.layer, last.depth) == (layer, depth)
    assert {match.depth for match in seen} == {depth}


def test_what_one_initializer_becomes_depends_on_shape_dtype_and_axes() -> None:
    # solved once where all of these are the same
    layers = [nn.Linear(4, 4), nn.Linear(9, 4), nn.Linear(4, 4), nn.Conv2d(4, 4, 2), nn.ConvTranspose2d(4, 4, 2)]
    layers += [nn.Conv2d(4, 4, 2, groups=2), nn.Conv2d(4, 2, 2), nn.ConvTranspose2d(4, 4, 2), nn.Embedding(4, 4)]
    plan = zeta.plan(nn.Sequential(*layers), Rules([Rule("*.weight", xavier_uniform()), Rule("*.bias", Zeros())]))
    for number, layer in enumerate(layers):
        fans = zeta.fans.fans(layer)
        assert plan[f"{number}.weight"].fans == fans
        assert plan[f"{number}.weight"].std == pytest.approx(math.sqrt(2 / (fans.fan_in + fans.fan_out)))
    tensors = nn.ParameterDict({name: nn.Parameter(torch.zeros(6, 6)) for name in "ab"})
    blocks = Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 3),))
    initializer = xavier_uniform()
    plan = zeta.plan(tensors, Rules([Rule("a", initializer, axes=blocks), Rule("b", initializer)]))
    assert (plan["a"].fans, plan["b"].fans) == (Fans(fan_in=6, fan_out=2), Fans(fan_in=6, fan_out=6))
    for dtypes in ((torch.float16, torch.float32), (torch.float32, torch.float16)):
        both = nn.Sequential(*(nn.Linear(4, 4, bias=False, dtype=dtype) for dtype in dtypes))
        with pytest.raises(PlanError, match=r"(?s)cannot be initialized as asked:.*float16 ends at"):
            zeta.plan(both, Rules([Rule("*", Constant(1e6))]))


def test_a_function_may_give_every_tensor_another_initializer() -> None:
    # what it returned is gone, and its place in memory taken, when it returns the next one
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(50)))
    number = itertools.count()
    plan = zeta.plan(model, Rules([Rule("*", lambda match: VarianceScaling(1.0 + next(number)))]))
    assert [entry.std for entry in plan] == [pytest.approx(math.sqrt((1 + number) / 4)) for number in range(50)]
    signs = itertools.cycle([1.0, -1.0])
    plan = zeta.plan(model, Rules([Rule("*", lambda match: Constant(0.0 * next(signs)))]))
    found = [math.copysign(1.0, entry.initializer.bounds()[0]) for entry in plan]
    assert found == [1.0, -1.0] * 25


def test_norm_statistics_get_torchs_values_and_other_buffers_are_kept() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    model.register_buffer("steps", torch.arange(3))
    model.register_buffer("mask", torch.ones(2), persistent=False)
    plan = zeta.plan(model, ANY)
    given = {entry.name: entry.initializer for entry in plan if entry.kind is Kind.BUFFER}
    statistics = {"0.running_mean": Zeros(), "0.running_var": Ones(), "0.num_batches_tracked": Zeros()}
    assert given == {"steps": Keep(), "mask": Keep(), **statistics}
    assert [entry.persistent for entry in plan if entry.kept] == [True, False]
    asked = zeta.plan(model, Rules([*ANY, Rule("mask", Constant(2.0), buffers=True)]))
    assert (asked["mask"].initializer, asked["steps"].initializer) == (Constant(2.0), Keep())


# -- ties --------------------------------------------------------------------------------------------------------------


class Tied(nn.Module):
    def __init__(self, *order: str, padding_idx: int | None = None) -> None:
        super().__init__()
        parts = {
            "a_head": nn.Linear(4, 9, bias=False),
            "wte": nn.Embedding(9, 4, padding_idx=padding_idx),
            "b": nn.Linear(9, 4, bias=False),
        }
        for name in order:
            self.add_module(name, parts[name])
            if name != "b":
                parts[name].weight = parts["a_head"].weight


@pytest.mark.parametrize("order", [("a_head", "wte"), ("wte", "a_head")])
def test_ties_are_planned_once_under_the_embeddings_name_with_the_heads_fans(order: tuple[str, ...]) -> None:
    plan = zeta.plan(Tied(*order, padding_idx=-1), Rules([Rule("*", kaiming_normal())]))
    assert len(plan) == 1
    entry = plan["a_head.weight"]
    assert entry is plan["wte.weight"]
    assert (entry.name, entry.ties, entry.kind) == ("wte.weight", ("a_head.weight",), Kind.EMBEDDING)
    assert entry.fans == Fans(fan_in=4, fan_out=9)
    assert entry.std == pytest.approx(math.sqrt(2 / 4))
    assert entry.padding_idx == 8


def test_other_ties_go_by_the_alphabetically_first_name() -> None:
    one = nn.Linear(2, 2)
    for names in (("z", "m", "q"), ("q", "z", "m")):
        plan = zeta.plan(nn.ModuleDict(dict.fromkeys(names, one)), ANY)
        assert [(entry.name, entry.ties) for entry in plan] == [
            ("m.weight", ("q.weight", "z.weight")),
            ("m.bias", ("q.bias", "z.bias")),
        ]


def test_equal_parameters_are_not_ties() -> None:
    model = nn.ModuleList([nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)])
    model[1].weight.data = model[0].weight.data.clone()
    assert [entry.ties for entry in zeta.plan(model, ANY)] == [(), ()]


@pytest.mark.parametrize("order", [("a_head", "wte"), ("wte", "a_head")])
@pytest.mark.parametrize(
    ("rules", "std"),
    [
        ([Rule("wte.*", Normal(0.1)), Rule("*", Normal(0.2), optional=True)], 0.1),
        ([Rule("a_head.*", Normal(0.3)), Rule("wte.*", Normal(0.1), optional=True)], 0.3),
        ([Rule("a_head.*", Normal(0.3))], 0.3),
        ([Rule("wte.*", Normal(0.1))], 0.1),
        ([Rule("nothing", Ones(), optional=True), Rule("*", lambda m: Normal(0.4))], 0.4),
        ([Rule("a_head.*", lambda m: Normal(0.5 if m.name == "a_head.weight" else 0.25))], 0.5),
    ],
)
def test_the_first_rule_that_matches_any_name_of_a_tensor_wins(
    rules: list[Rule], std: float, order: tuple[str, ...]
) -> None:
    [entry] = zeta.plan(Tied(*order), Rules(rules))
    assert (entry.name, entry.ties, entry.std) == ("wte.weight", ("a_head.weight",), std)


def test_a_rule_that_loses_all_it_matches_to_ties_says_what_to_write() -> None:
    rules = [Rule("a_head.*", Normal(0.3)), Rule("b.*", Zeros()), Rule("wte.*", Normal(0.1))]
    message = (
        r"never win .*\n  - rule 3 \(wte\.\*\): wte\.weight is tied to a tensor that rule 1 \(a_head\.\*\) matches "
        r'first: remove this rule, or put Rule\("wte\.weight", Normal\(std=0\.1\)\) before the other$'
    )
    with pytest.raises(PlanError, match=message):
        zeta.plan(Tied("a_head", "wte", "b"), Rules(rules))
    written = Rules([Rule("wte.weight", Normal(std=0.1)), rules[1]])
    assert zeta.plan(Tied("a_head", "wte", "b"), written)["a_head.weight"].std == 0.1


def test_a_function_that_tells_the_names_of_one_tensor_apart() -> None:
    rules = Rules([Rule("*", lambda m: Normal(0.5 if m.name == "a_head.weight" else 0.25))])
    message = (
        r"different initializers to the names of one tensor:\n  - wte.weight: Normal\(std=0.25\); "
        r'a_head.weight: Normal\(std=0.5\) \(by rule 1 \(\*\)\); put Rule\("wte.weight", Normal\(std=0.25\)\) first'
    )
    with pytest.raises(PlanError, match=message):
        zeta.plan(Tied("wte", "a_head"), rules)


def test_a_tie_that_no_rule_matches_is_named_once() -> None:
    message = r"no rule matches.*\n  - wte\.weight 9 x 4, kind embedding, in Embedding, tied to a_head\.weight$"
    with pytest.raises(PlanError, match=message):
        zeta.plan(Tied("wte", "a_head"), Rules([Rule("x", Zeros(), optional=True)]))


# -- all that is wrong at once -----------------------------------------------------------------------------------------


def test_all_problems_are_in_one_error_and_nothing_is_touched() -> None:
    model = Tied("a_head", "wte", "b")
    model.table = nn.Parameter(torch.zeros(2, 2, 2))
    model.counts = nn.Parameter(torch.zeros(3, dtype=torch.int64), requires_grad=False)
    model.free, model.loose = nn.Parameter(torch.zeros(5)), nn.Parameter(torch.ones(()))
    before = state(model)
    rules = [
        Rule("wte.weight", Normal(0.1)),
        Rule("a_head.weight", Normal(0.1)),
        Rule("table", kaiming_normal()),
        Rule("counts", Normal()),
        Rule("mistyped", Ones()),
        Rule("hidden", Ones(), optional=True),
        Rule("b.weight", Zeros()),
        Rule("table", Zeros()),
    ]
    with pytest.raises(PlanError) as caught:
        zeta.plan(model, Rules(rules))
    sections = re.split(r"\n(?! )", str(caught.value))
    assert [len(section.splitlines()) - 1 for section in sections] == [2, 2, 3]
    expected = [
        r"no rule matches.*\n  - free 5, kind other, in Tied\n  - loose scalar, kind other, in Tied",
        r"- table 2 x 2 x 2, rule 3 \(table\): .*which dimensions.*\n  - counts 3, rule 4 \(counts\): int64 is not",
        r"never win.*\n  - rule 2 \(a_head\.weight\): .* tied to .*\n.*\n  - rule 8 \(table\): hidden by rule 3",
    ]
    for section, pattern in zip(sections, expected, strict=True):
        assert re.search(pattern, section), section
    assert state(model) == before


def test_a_long_list_is_cut_and_counted() -> None:
    with pytest.raises(PlanError) as caught:
        zeta.plan(nn.ModuleList(nn.Linear(2, 2) for _ in range(15)), Rules([Rule("0.weight", Zeros())]))
    assert str(caught.value).count("\n  - ") == 21
    assert str(caught.value).endswith("\n  - and 9 more")


@pytest.mark.parametrize(
    ("initializer", "dtype", "message"),
    [
        (Constant(65505.0), torch.float16, r"Constant\(value=65505.0\) reaches 6.55e\+04, but float16 ends at"),
        (Constant(-70000.0), torch.float16, "float16 ends at"),
        (Constant(65504.0), torch.float16, None),
        (Normal(1e4), torch.float16, None),
        (Normal(2e4), torch.float16, "float16 ends at"),
        (Normal(1.0, 65503.0), torch.float16, "float16 ends at"),
        (Normal(2e4), torch.bfloat16, None),
        (Uniform(-3e38, 3e38), torch.float32, r"has a width of 6e\+38, but float32 is drawn in .* ends at 3.4e"),
        (Uniform(-3e38, 3e38), torch.bfloat16, "has a width of .* but bfloat16 is drawn in float32"),
        (Uniform(-1.5e308, 1.5e308), torch.float64, "has a width of inf, but float64 is drawn in float64"),
        (TruncatedNormal(1e39, low=-1e20, high=1e20), torch.float32, r"has a std of 1e\+39"),
        (Orthogonal(1e308), torch.float64, r"is computed in float64 by sums .* end at 1.8e\+308; give a smaller gain"),
        (Orthogonal(-1e38), torch.float32, "is computed in float32 by sums"),
        (Orthogonal(1e38), torch.bfloat16, "is computed in float32 by sums"),
        (Orthogonal(1e28), torch.float32, None),
        (Uniform(-500.0, 0.0), torch.float8_e4m3fn, "ends at 448"),
        (Uniform(-448.0, 448.0), torch.float8_e4m3fn, None),
        (Uniform(1.001, 1.002), torch.bfloat16, "no bfloat16 number lies between 1.001 and 1.002"),
        (Uniform(1.001, 1.002), torch.float16, None),  # 1 + 2^-10 + ... lies between
        (Sparse(0.5, 2e4), torch.float16, "float16 ends at"),
        (TruncatedNormal(7e3, low=5.6e4), torch.float16, "float16 ends at"),  # 8 to 10.46 std
        (TruncatedNormal(7e3, high=-5.6e4), torch.float16, "float16 ends at"),
        (TruncatedNormal(1.03e4, low=0.0), torch.float16, "float16 ends at"),  # half of the normal: to 6.44 std
        (TruncatedNormal(7e3, low=5.6e4, high=6.5e4), torch.float16, None),
        (TruncatedNormal(6e3, low=4.8e4), torch.float16, None),
        (TruncatedNormal(1.0, low=-1.0, high=2.0), torch.complex64, "not symmetric"),
        (TruncatedNormal(1.0), torch.complex64, None),
        (Zeros(), torch.int8, None),  # counters; a parameter is refused when written
        (Constant(0.5), torch.int8, "int8 is not a floating-point dtype"),
        (Normal(), torch.int8, "int8 is not a floating-point dtype"),
        (Keep(), torch.int8, None),
    ],
)
def test_what_the_dtype_cannot_hold(initializer: Initializer, dtype: torch.dtype, message: str | None) -> None:
    model = nn.Module()
    model.w = nn.Parameter(torch.zeros(4, 4).to(dtype), requires_grad=False)
    rules = Rules([Rule("*", initializer)])
    if message is None:
        assert zeta.plan(model, rules)["w"].initializer == initializer
    else:
        with pytest.raises(PlanError, match=rf"cannot be initialized.*\n  - w 4 x 4, rule 1 \(\*\): .*{message}"):
            zeta.plan(model, rules)


@pytest.mark.parametrize(
    ("layer", "initializer", "message"),
    [
        (nn.Conv1d(2, 2, 3), Identity(), "weight 2 x 2 x 3"),
        (nn.Linear(2, 2), Dirac(), "weight 2 x 2"),
        (nn.LayerNorm(3), Orthogonal(), "LayerNorm.weight of shape .3,. has no fans"),
        (nn.LazyLinear(3), Normal(), "is lazy and has no shape yet; run one forward pass first"),
        (nn.Linear(2, 2), lambda m: 0.02, "must return an initializer for weight, got 0.02"),
    ],
)
def test_initializers_that_do_not_fit(layer: nn.Module, initializer: Any, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        zeta.plan(layer, Rules([Rule("weight", initializer), Rule("*", Zeros())]))


@pytest.mark.parametrize(
    ("model", "how", "error", "message"),
    [
        ("linear", ANY, LayerTypeError, "expected a torch.nn.Module, got 'linear'"),
        (nn.Linear, ANY, LayerTypeError, "expected a torch.nn.Module"),
        (nn.Linear(2, 2), "gpt3", SpecError, "unknown recipe 'gpt3': expected one of bert, "),
        (
            nn.Linear(2, 2),
            list(ANY),
            SpecError,
            r"Rules\(\[...\]\), the name of a recipe, or a function .*got a list",
        ),
        (nn.Linear(2, 2), Normal(), SpecError, "expected Rules"),
        (nn.Linear(2, 2), [Rule("*", Zeros())], SpecError, r"got a list: wrap rules, as in Rules\(\[Rule\("),
        (nn.Linear(2, 2), Rule("*", Zeros()), SpecError, "got a Rule: wrap rules"),
        (nn.Linear(2, 2), {"*": Zeros()}, SpecError, "got a dict: wrap rules"),
    ],
)
def test_wrong_arguments(model: Any, how: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zeta.plan(model, how)


# -- the same plan whatever the model is on ----------------------------------------------------------------------------


def in_order(plan: Plan) -> list[Entry]:
    return sorted(plan, key=lambda entry: entry.name)


@pytest.mark.parametrize("name", MODELS)
def test_a_meta_model_has_the_plan_of_a_real_one(name: str) -> None:
    model = MODELS[name]()
    with torch.device("meta"):
        on_meta = MODELS[name]()
    rules = Rules([Rule(kind("bias"), Zeros(), optional=True), Rule("*", Normal(0.02), optional=True)])
    assert zeta.plan(model, rules) == zeta.plan(on_meta, rules)


@pytest.mark.keeps_rng
@pytest.mark.parametrize("context", [torch.inference_mode, lambda: torch.device("meta"), torch.no_grad])
def test_planning_depends_on_nothing_else_and_changes_nothing(context: Callable[[], Any]) -> None:
    with torch.random.fork_rng(devices=[]):
        model = MODELS["transformers_gpt2"]()
    plan = zeta.plan(model, "gpt2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
    with torch.random.fork_rng(devices=[]), context():
        torch.manual_seed(1234)
        assert zeta.plan(model, "gpt2") == plan
    try:
        torch.set_default_dtype(torch.float64)
        assert zeta.plan(model, "gpt2") == plan
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(parameter.isnan().all() for parameter in model.parameters())


def test_the_order_of_modules_does_not_matter() -> None:
    def parts() -> dict[str, nn.Module]:
        return {"a": nn.Linear(3, 3), "h": nn.ModuleList([nn.LayerNorm(3), nn.Conv1d(2, 4, 3)]), "z": nn.GRU(3, 3)}

    rules = Rules([Rule("h.*.weight", lambda m: Constant(m.layer + m.depth / 8)), Rule("*", Normal(0.02))])
    plans = [zeta.plan(nn.ModuleDict(dict(items)), rules) for items in (parts().items(), [*parts().items()][::-1])]
    assert in_order(plans[0]) == in_order(plans[1])
    assert plans[0] != plans[1], "the order of the entries is the model's"


# -- plans as text -----------------------------------------------------------------------------------------------------

numbers = st.floats(-1e30, 1e30)
positive = st.floats(1e-30, 1e30)
elementwise = st.one_of(
    st.builds(Constant, numbers),
    st.sampled_from([Zeros(), Ones(), Keep(), TruncatedNormal(0.3, 0.1, low=-1.0, high=2.0)]),
    st.builds(Normal, positive, numbers),
    st.builds(lambda low, width: Uniform(low, low + width), st.floats(-9, 9), st.floats(0.1, 9)),
    st.builds(lambda std, cutoff: TruncatedNormal(std, cutoff=cutoff), positive, st.floats(0.5, 4)),
)
matrices = st.one_of(st.builds(Orthogonal, numbers), st.builds(Sparse, st.floats(0, 1), positive))
maps = st.sampled_from([Axes(fan_in=(1,), fan_out=(0,)), Axes(fan_in=(1,), fan_out=(0,), blocks=((0, 2),))])
dtypes = st.sampled_from([torch.float32, torch.bfloat16, torch.float8_e5m2, torch.complex64, torch.int64])


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    a_map = draw(st.booleans())
    shape = tuple(draw(st.lists(st.integers(0, 2**14), max_size=4)))
    return Entry(
        name=draw(st.text(max_size=9)),
        ties=tuple(draw(st.lists(st.text(max_size=9), max_size=3))),
        shape=(2 * draw(st.integers(1, 99)), draw(st.integers(1, 99))) if a_map else shape,
        dtype=draw(dtypes),
        kind=draw(st.sampled_from(Kind)),
        rule=draw(st.text(max_size=9)),
        initializer=draw(matrices if a_map else elementwise),
        axes=draw(maps) if a_map else None,
        padding_idx=draw(st.none() | st.integers(0, shape[0] - 1)) if shape and shape[0] and not a_map else None,
        persistent=draw(st.booleans()),
    )


def distinct(given: list[Entry]) -> Plan:
    """A plan of these entries, every name made its own by a number."""
    return Plan(
        tuple(
            replace(
                entry,
                name=f"{number}.{entry.name}",
                ties=tuple(f"{number}.tie.{place}.{tie}" for place, tie in enumerate(entry.ties)),
            )
            for number, entry in enumerate(given)
        )
    )


@given(plan=st.builds(distinct, st.lists(entries(), max_size=4)))
@settings(max_examples=60)
def test_json_gives_the_plan_back_exactly(plan: Plan) -> None:
    text = plan.to_json()
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text
    for entry, written in zip(plan, json.loads(text)["entries"], strict=True):
        assert (written["name"], written["shape"], written["nbytes"]) == (entry.name, [*entry.shape], entry.nbytes)
        assert (written["mean"], written["std"]) == (entry.mean, entry.std)


@pytest.mark.parametrize("name", ["transformers_gpt2", "resnet", "lstm"])
def test_json_of_a_real_plan(name: str) -> None:
    plan = zeta.plan(MODELS[name](), {"transformers_gpt2": "gpt2", "resnet": "resnet", "lstm": "torch"}[name])
    assert Plan.from_json(plan.to_json()) == plan


CHANGES: list[tuple[str, Any]] = [
    ("dtype", "float31"), ("dtype", 32), ("dtype", "nn"), ("kind", "wait"), ("kind", None), ("shape", "44"),
    ("shape", [4.0, 4]), ("shape", [-4, 4]), ("shape", None), ("ties", "xy"), ("ties", [1]), ("name", 3),
    ("rule", None), ("padding_idx", "0"), ("padding_idx", -1), ("initializer", {"name": "Norm"}),
    ("initializer", {"name": "Normal", "sdt": 1}), ("initializer", {"name": "Normal", "std": -1.0}),
    ("initializer", "Normal"), ("axes", {"fan": [0]}), ("axes", {"fan_in": ["x"]}), ("axes", 3),
    ("axes", {"fan_in": [7], "fan_out": [0]}), ("axes", {"fan_in": [1]}), ("persistent", 1),
    ("axes", {"fan_in": [1], "fan_out": [0], "blocks": [[0, 3]]}), ("initializer", {"name": ["Normal"]}),
    ("initializer", {"name": "Orthogonal", "gain": 10**400}), ("initializer", {"name": "Sparse", "sparsity": None}),
    ("initializer", {"name": "Uniform", "low": -1e308, "high": 1e308}),
    ("initializer", {"name": "TruncatedNormal", "std": "x"}), ("shape", [2**63, 0]), ("shape", [True, 4]),
    ("shape", [2**62, 4]), ("shape", [0, 2**62, 2**62]), ("padding_idx", 4), ("padding_idx", 2**70),
    ("dtype", "float32\0"), ("dtype", "_dynamo"), ("name", "\ud800"), ("ties", ["weight"]), ("ties", ["bias"]),
    ("more", 1), ("mean", "0"), ("name", "x" * 2**21),
]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), CHANGES)
def test_damaged_plans_are_refused(key: str, value: Any) -> None:
    data = json.loads(zeta.plan(nn.Linear(4, 4), ANY).to_json())
    data["entries"][0][key] = value
    with pytest.raises(PlanError):
        Plan.from_json(json.dumps(data))


@pytest.mark.parametrize("given", ["none.json", "here", Path("none.json")])
def test_the_path_of_a_plan_is_not_its_text(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").write_text("{}")
    with pytest.raises(PlanError, match=rf"takes the text of a file: Path\('{given}'\)\.read_text\(\)"):
        Plan.from_json(given)
    with pytest.raises(PlanError, match=r"malformed[^;]*$"):
        Plan.from_json("gone")


def test_axes_that_an_initializer_needs_and_does_not_have() -> None:
    data = json.loads(zeta.plan(nn.Linear(4, 4), ANY).to_json())
    data["entries"][0] |= {"initializer": {"name": "Orthogonal", "gain": 1.0}, "axes": None}
    with pytest.raises(PlanError, match="'weight': no axes are known for this parameter"):
        Plan.from_json(json.dumps(data))


def test_numbers_of_an_initializer_are_solved_when_a_plan_is_read() -> None:
    data = json.loads(zeta.plan(nn.Linear(4, 4), ANY).to_json())
    data["entries"][0]["initializer"] = {"name": "VarianceScaling", "scale": 4.0}
    assert Plan.from_json(json.dumps(data))["weight"].initializer == Normal(1.0)


@pytest.mark.parametrize("low", [0.0, -0.0])
def test_zeros_keep_their_sign_beside_others(low: float) -> None:
    """What entries share is worked out once, and 0.0 equals -0.0."""
    laws = [Constant(0.0), Constant(-0.0), Normal(1.0, low), Normal(1.0, -low)]
    plan = Plan(
        tuple(
            Entry(name=str(n), shape=(2,), dtype=torch.float32, kind=Kind.OTHER, rule="", initializer=law)
            for n, law in enumerate(laws)
        )
    )
    assert [repr(entry.initializer) for entry in Plan.from_json(plan.to_json())] == [repr(law) for law in laws]


def test_plans_without_a_format_are_read_and_later_formats_are_refused() -> None:
    plan = zeta.plan(nn.Linear(4, 4), ANY)
    data = json.loads(plan.to_json())
    assert data.pop("format") == 2
    assert Plan.from_json(json.dumps(data)) == plan
    for number in (0, 3, 10**30):
        with pytest.raises(PlanError, match=f"it has format {number}; this zeta reads formats 1 and 2"):
            Plan.from_json(json.dumps({"format": number, "entries": [{"new": 1}], "more": 2}))
    with pytest.raises(PlanError, match="Expected `int`"):
        Plan.from_json(json.dumps({**data, "format": "2"}))


def test_a_plan_names_everything_once() -> None:
    entries = zeta.plan(nn.Linear(4, 4), ANY).entries
    with pytest.raises(PlanError, match=r"names every tensor once; these names occur again:\n  - 'weight'$"):
        Plan((*entries, entries[0]))
    with pytest.raises(PlanError, match=r"occur again:\n  - 'bias'$"):
        Plan((replace(entries[0], ties=("bias",)), *entries[1:]))


@pytest.mark.parametrize("data", [None, 3, [], {}, {"name": "\ud800"}, {"name": b"x"}], ids=repr)
def test_what_is_no_entry_is_refused(data: Any) -> None:
    with pytest.raises(PlanError, match="not an entry of a plan"):
        Entry.from_json(data)


def test_a_plan_of_many_entries_is_written_and_read_in_little_time() -> None:
    """Compared with the standard library on the same text, which neither checks anything nor makes an entry."""
    plan = Plan(
        tuple(
            Entry(
                name=f"layers.{number}.weight",
                shape=(64, 64),
                dtype=torch.float32,
                kind=Kind.WEIGHT,
                rule="*",
                initializer=Normal(0.02 * (number % 7 + 1)),
                axes=Axes(fan_in=(1,), fan_out=(0,)),
            )
            for number in range(20_000)
        )
    )
    text = plan.to_json()
    data = json.loads(text)

    def seconds(do: Callable[[], object]) -> float:
        times = []
        for _ in range(3):
            begin = time.process_time()
            do()
            times.append(time.process_time() - begin)
        return min(times)

    assert seconds(plan.to_json) < seconds(lambda: json.dumps(data, indent=1))
    assert seconds(lambda: Plan.from_json(text)) < 2 * seconds(lambda: json.loads(text))


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "3", '{"entries": 3}', '{"entries": ["x"]}', '{"entries": [{}]}']
)
def test_what_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanError, match="not a plan in JSON"):
        Plan.from_json(text)


def test_every_field_but_the_derived_ones_must_be_there() -> None:
    data = json.loads(zeta.plan(nn.Linear(4, 4), ANY).to_json())
    for key in set(data["entries"][0]) - {"mean", "std", "nbytes"}:
        short = [{name: value for name, value in data["entries"][0].items() if name != key}]
        with pytest.raises(PlanError, match=key):
            Plan.from_json(json.dumps({"entries": short}))


def test_with_dtype_changes_real_numbers_only() -> None:
    model = nn.ParameterDict({"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.complex64)})
    model.register_buffer("n", torch.zeros(2, dtype=torch.int64))
    plan = zeta.plan(model, Rules([Rule("*", Zeros())])).with_dtype(torch.bfloat16)
    assert {e.name: e.dtype for e in plan} == {"a": torch.bfloat16, "b": torch.complex64, "n": torch.int64}
    assert plan["a"].nbytes == 4


def test_a_plan_prints_as_a_table_with_its_totals() -> None:
    shown = str(zeta.plan(Tied("wte", "a_head", "b"), Rules([Rule("b.*", Keep()), Rule("*", Normal(0.02))])))
    assert re.search(
        r"^ wte\.weight +9 x 4 +float32 +embedding +Normal\(std=0\.02\) +0 +0\.02 +4/9 .*144 B$", shown, re.MULTILINE
    )
    assert "* (tied: a_head.weight)" in shown
    assert re.search(r"^ b\.weight +4 x 9 +float32 +weight +Keep\(\) +9/4 +b\.\* +144 B$", shown, re.MULTILINE)
    assert shown.endswith("\n2 parameters, 0 buffers, 72 values, 288 B")


def test_a_name_that_is_not_in_the_plan() -> None:
    with pytest.raises(KeyError, match="no parameter or buffer named 'wieght'"):
        zeta.plan(nn.Linear(2, 2), ANY)["wieght"]


# -- a part of a model -------------------------------------------------------------------------------------------------


def test_a_selection_is_noted_and_rules_for_the_rest_are_used() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))
    rules = Rules([Rule("0.weight", Normal(0.5)), Rule("1.weight", Ones()), Rule("*.bias", Zeros())])
    whole, part = planned(model, rules), planned(model, rules, only="0.*")
    assert whole.selection is None
    assert part.selection == ("0.weight", "0.bias")
    assert [entry.name for entry in part.plan] == ["0.weight", "0.bias"]
    idle = Rules([*rules, Rule("2.weight", Ones())])
    with pytest.raises(PlanError, match=r"rule 4 \(2.weight\): no parameter is named 2.weight"):
        planned(model, idle, only="0.*")


def test_plan_of_a_function_leaves_hooks_and_attributes_of_tensors() -> None:
    model: Any = nn.Linear(2, 2)
    model.weight.tags = {"names": ["a"]}
    model.weight.register_hook(lambda gradient: gradient * 2)
    tags, hooks = model.weight.tags, dict(model.weight._backward_hooks)

    def initialize(layer: Any) -> None:
        nn.init.ones_(layer.weight)
        layer.weight.register_hook(lambda gradient: gradient * 0)
        layer.bias.register_hook(lambda gradient: gradient * 0)
        layer.bias.register_post_accumulate_grad_hook(lambda bias: setattr(bias, "grad", bias.grad * 0))
        layer.weight.tags["names"].append("b")
        layer.weight._no_weight_decay = True
        del layer.bias._is_hf_initialized

    model.bias._is_hf_initialized = True
    zeta.plan(model, initialize)
    assert vars(model.weight) == {"tags": {"names": ["a"]}}
    assert model.weight.tags is tags
    assert vars(model.bias) == {"_is_hf_initialized": True}
    assert dict(model.weight._backward_hooks) == hooks
    model(torch.ones(1, 2)).sum().backward()
    assert model.weight.grad.eq(2).all()
    assert model.bias.grad.eq(1).all()


class Student(nn.Linear):
    """Holds real tensors where torch does not look."""

    def __init__(self) -> None:
        super().__init__(2, 2)
        self.teacher = [nn.Linear(2, 2), nn.BatchNorm1d(2)]
        self.extra = {"scale": nn.Parameter(torch.randn(2))}
        self.statistics = SimpleNamespace(mean=torch.ones(2), count=[0])
        self.array = np.ones(3)
        self.draws = torch.Generator().manual_seed(3)

    def state(self) -> list[str]:
        return [
            *(repr(part.state_dict()) for part in self.teacher),
            *map(repr, (self.extra, self.statistics, self.array, self.draws.get_state().tolist())),
        ]


WRITES: dict[str, Callable[[Any], object]] = {
    "a hidden module": lambda m: nn.init.zeros_(m.teacher[0].weight),
    "a hidden buffer": lambda m: m.teacher[1].running_mean.add_(1),
    "a parameter in a dictionary": lambda m: nn.init.zeros_(m.extra["scale"]),
    "a tensor of an object": lambda m: m.statistics.mean.zero_(),
}


@pytest.mark.parametrize("write", WRITES)
def test_real_tensors_out_of_sight_come_back_and_are_named(write: str) -> None:
    model = Student()
    before = model.state()

    def initialize(m: Any) -> None:
        nn.init.ones_(m.weight)
        WRITES[write](m)
        m.statistics.count.append(1)
        m.array += 1
        torch.rand(1, generator=m.draws)

    with pytest.raises(zeta.RecordingError, match="neither parameters nor buffers"):
        zeta.plan(model, initialize)
    assert model.state() == before


def test_other_things_that_a_function_changes_come_back() -> None:
    model = Student()
    before = model.state()

    def initialize(m: Any) -> None:
        nn.init.ones_(m.weight)
        m.statistics.count.append(1)
        m.statistics.more = 1
        m.array += 1
        torch.rand(1, generator=m.draws)

    zeta.plan(model, initialize)
    assert model.state() == before
