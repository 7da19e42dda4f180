"""Common mistakes: one error says what to write instead, and a mistyped name what it may have been."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import zeta
from zeta import Rule, Rules, ZetaNotice
from zeta.base.spelling import did_you_mean
from zeta.errors import LayerTypeError, PlanError, SpecError
from zeta.initializers import Constant, Initializer, Keep, Normal, Ones, Zeros, he_normal, kaiming_normal
from zeta.rules import glob, kind, module, role
from zeta.rules.globs import glob_matcher
from zeta.rules.missing import did_you_mean_condition, did_you_mean_glob
from zeta.utils import init_constant_, init_dirac_, init_identity_, init_xavier_normal_, init_zero_
from zeta.verbs import init_

BIASES = Rule("*.bias", Zeros())


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (kaiming_normal, "write kaiming_normal(), with parentheses, got zeta.initializers.scaling.kaiming_normal"),
        (he_normal, "write kaiming_normal(), with parentheses"),
        (Zeros, "write Zeros(), with parentheses"),
        (Keep, "write Keep(), with parentheses"),
        (Constant, "write Constant(value), with parentheses"),
        (Normal, "write Normal(std), with parentheses"),  # Normal() has std 1, which hardly anybody means
        (nn.init.zeros_, "write Zeros(), of zeta.initializers: torch.nn.init.zeros_ writes to tensors"),
        (nn.init.kaiming_normal_, "write kaiming_normal(), of zeta.initializers"),
        (nn.init.trunc_normal_, "write TruncatedNormal(std), of zeta.initializers"),
        (nn.init.eye_, "write Identity(), of zeta.initializers"),
        (functools.partial(nn.init.normal_, std=0.02), "write Normal(std), of zeta.initializers"),
        (nn.init.calculate_gain, "a rule's function gets a Match (name, shape, kind, module, depth, ...)"),
        (init_zero_, "write Zeros(), of zeta.initializers: zeta.utils.init_zero_ writes to tensors"),
        (init_constant_, "write Constant(value), of zeta.initializers"),
        (init_xavier_normal_, "write xavier_normal(), of zeta.initializers"),
        (torch.zeros(3), "a rule gives the law of the values and not the values: write Normal(0.02)"),
        (0.5, "write Constant(0.5) for this value, got 0.5"),
        (0.0, "write Zeros() for this value, got 0.0"),
        (True, "expected an initializer such as Normal(0.02), Keep(), or a function of the match, got True"),
        ("Zeros", "write Zeros(), of zeta.initializers, without quotes, got 'Zeros'"),
        ("zeros_", "write Zeros(), of zeta.initializers, without quotes"),
        ("Normal", "write Normal(std), of zeta.initializers, without quotes"),
        ("he_normal()", "write he_normal(), of zeta.initializers, without quotes"),
        ("LARGEST_SIGMA", "expected an initializer such as Normal(0.02)"),
        (int, "expected an initializer such as Normal(0.02), Keep(), or a function of the match, got builtins.int"),
    ],
)
def test_what_is_no_initializer_is_refused_with_what_to_write(given: Any, advice: str) -> None:
    with pytest.raises(SpecError) as caught:
        Rule("*.weight", given)
    assert str(caught.value).startswith(f"rule '*.weight': {advice}")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: kaiming_normal(0, "fan_out", "relu"),  # type: ignore[arg-type]
        lambda: kaiming_normal(0.01),  # type: ignore[arg-type]
        lambda: he_normal(a=None, mode=5**0.5),  # type: ignore[arg-type]
    ],
)
def test_kaiming_in_the_order_of_torch_is_told_the_order_here(wrong: Callable[[], Initializer]) -> None:
    with pytest.raises(SpecError) as caught:
        wrong()
    assert str(caught.value).startswith("kaiming_normal takes (mode, nonlinearity, a), and not torch's order")
    assert 'kaiming_normal(mode="fan_out", nonlinearity="leaky_relu", a=0.1)' in str(caught.value)


@pytest.mark.parametrize(
    "use", [lambda law: Rule("*", law), lambda law: zeta.fill_(torch.empty(3), law, seed=0)], ids=["rule", "fill_"]
)
def test_a_normal_law_in_the_order_of_torch_is_noticed(use: Callable[[Initializer], Any]) -> None:
    with pytest.warns(ZetaNotice, match=r"is the constant 0\.02\. .*std comes first: Normal\(0\.02\)") as caught:
        use(Normal(0.0, 0.02))
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_a_normal_law_without_spread_that_nobody_wrote_is_not_noticed() -> None:
    def built() -> nn.Module:
        layer = nn.Linear(2, 2)
        nn.init.normal_(layer.weight, 0.5, 0.0)
        return layer

    layer, recorded = zeta.record(built)
    assert recorded["weight"].std == 0
    law = Normal(0.0, 0.5)
    plan = zeta.plan(layer, Rules([Rule("*", lambda match: law)]))
    assert zeta.Plan.from_json(plan.to_json())["weight"].initializer == law
    Rule("*", Normal(0.0)), Rule("*", Normal(0.5, 0.02)), Rule("*", Constant(0.02))


def test_every_function_of_torch_has_an_answer() -> None:
    for name in dir(nn.init):
        function = getattr(nn.init, name)
        if name.endswith("_") and not name.startswith("_") and callable(function):
            with pytest.raises(SpecError, match=r"rule '\*': write \w+\(.*\), of zeta\.initializers"):
                Rule("*", function)


@pytest.mark.parametrize(
    ("function", "advice"),
    [
        (
            lambda m: torch.zeros(m.shape),
            "got a tensor of shape (3, 3); a rule's function gets a Match (name, shape, kind, module, depth, ...), "
            "not a tensor, and returns an initializer, as in lambda m: Normal(0.02 / m.depth); zeta.from_function",
        ),
        (lambda m: kaiming_normal, "write kaiming_normal(), with parentheses"),
        (lambda m: Zeros, "write Zeros(), with parentheses"),
        (lambda m: nn.init.zeros_(m), "'Match' object has no attribute 'zero_'; a rule's function gets a Match"),
        (lambda m: torch.zeros_like(m), "must be Tensor, not Match; a rule's function gets a Match"),
        (lambda m: m.depht, "'Match' object has no attribute 'depht'; did you mean 'depth'?"),
        (lambda m: 0.02, "got 0.02"),
    ],
)
def test_a_wrong_function_is_one_error(function: Callable[..., Any], advice: str) -> None:
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(10)))
    with pytest.raises(PlanError) as caught:
        zeta.plan(model, Rules([BIASES, Rule("*.weight", function)]))
    heading, problem = str(caught.value).splitlines()
    assert heading == "a rule's function must return an initializer:"
    assert problem.startswith("  - rule '*.weight'")
    assert "for 0.weight" in problem
    assert advice in problem
    assert problem.endswith("(rule 2)")


def test_a_function_that_fails_for_some_parameters_names_each() -> None:
    def function(match: zeta.Match) -> Initializer:
        return Normal(1 / (match.shape[0] - 3))

    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 4), nn.Linear(4, 3))
    with pytest.raises(PlanError) as caught:
        zeta.plan(model, Rules([BIASES, Rule("*.weight", function)]))
    assert str(caught.value).count("ZeroDivisionError") == 2


@pytest.mark.parametrize("fill", [init_dirac_])
def test_a_function_of_one_layer_speaks_of_no_rule(fill: Callable[..., Any]) -> None:
    with pytest.raises(PlanError) as caught:
        fill(nn.Linear(3, 3))
    assert str(caught.value).splitlines()[1].startswith("  - weight 3 x 3: Dirac needs a convolution's weight")
    assert "rule" not in str(caught.value)
    with pytest.raises(PlanError, match="weight 3 x 3 x 3 x 3: Identity is for matrices"):
        init_identity_(nn.Conv2d(3, 3, 3))


# -- did you mean ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "known", "expected"),
    [
        ("wieght", ["weight", "bias"], "; did you mean 'weight'?"),
        ("GPT2", ["gpt2", "bert"], "; did you mean 'gpt2'?"),
        ("x", ["weight"], ""),
        ("", ["weight"], ""),
        (5, ["5"], ""),
        ("0.c_proj.weight", ["0.pos.weight", "0.fc.weight"], ""),
        ("bais", ["0.weight", "0.bias"], "; did you mean '0.bias'?"),
        ("h.7.mlp.wieght", ["h.0.mlp.weight", "h.1.mlp.weight"], "; did you mean 'h.1.mlp.weight'?"),
        ("we\x1bght", ["we\x1bight"], "; did you mean 'we\\x1bight'?"),
        ("x" * 10_000, ["x" * 10_001], ""),
    ],
)
def test_the_closest_name(wrong: object, known: list[str], expected: str) -> None:
    assert did_you_mean(wrong, known) == expected


def test_very_many_names_take_no_time() -> None:
    assert did_you_mean("h.3.wieght", (f"h.{n}.weight" for n in range(10**7))) == "; did you mean 'h.3.weight'?"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.wieght", "*.weight"),
        ("*.atn.weight", "*.attn.weight"),
        ("h.*.atn.weight", "h.*.attn.weight"),
        ("h.0.attn.wieght", "h.0.attn.weight"),
        ("h.{0..2}.atn.{weight,bias}", "h.*.attn.*"),
        ("h.3.*", "h.2.*"),
        ("h.3.atn.*", "h.2.attn.*"),
        ("h.[12]", "h.[12].*"),
        ("h.[12].attn.wieght", "h.*.attn.weight"),
        ("{a,b}", None),
        # another spelling
        ("attn.weight", "*.attn.weight"),
        ("attn", "*.attn.*"),
        ("h.{0-2}.*", "h.{0..2}.*"),
        ("h.{0.2}.attn", "h.{0..2}.attn.*"),
        ("h.{2-0}.*", "h.*.*"),
        ("weight|bias", "*.{weight,bias}"),
        ("h.(0|1).*", "h.{0,1}.*"),
        ("h.{0|1}.*", "h.{0,1}.*"),
        ("h.0.attn.weight|h.1.attn.weight", "{h.0.attn.weight,h.1.attn.weight}"),
        ("*.weight|*.bias", None),
        # only the words around are close
        ("*.proj.weight", None),
        ("h.0.mlp.weight", None),
    ],
)
def test_the_closest_glob(pattern: str, expected: str | None) -> None:
    names = [f"h.{n}.attn.{name}" for n in range(3) for name in ("weight", "bias")]
    assert did_you_mean_glob(pattern, names) == ("" if expected is None else f"; did you mean '{expected}'?")
    assert expected is None or any(map(glob_matcher(expected), names))


def test_names_that_do_not_exist() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    plan = zeta.plan(model, Rules([Rule("*", Ones())]))
    report = zeta.apply_(model, plan, 0)
    with pytest.raises(KeyError, match=r"named '0\.wieght'; did you mean '0\.weight'\?"):
        plan["0.wieght"]
    with pytest.raises(KeyError, match=r"named '0\.wieght'; did you mean '0\.weight'\?"):
        report["0.wieght"]
    with pytest.raises(PlanError, match=r"only= names nothing .*\n  - \*\.wieght; did you mean '\*\.weight'\?"):
        zeta.apply_(model, plan, 0, only="*.wieght")
    with pytest.raises(PlanError, match=r"\n  - bais; did you mean '0\.bias'\?$"):
        zeta.apply_(model, plan, 0, only=["0.weight", "bais"])
    with pytest.raises(SpecError, match=r"unknown recipe 'gpt'.*; did you mean 'gpt2'\?"):
        zeta.init_(model, "gpt")
    with pytest.raises(SpecError, match=r"unknown kind 'norm-scale'.*; did you mean 'norm_scale'\?"):
        zeta.rules.kind("norm-scale")
    with pytest.raises(SpecError, match=r"unknown initializer 'Nomal'.*; did you mean 'Normal'\?"):
        Initializer.from_json({"name": "Nomal", "std": 1.0})


EVERYTHING = Rules([Rule("*", Zeros())])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: zeta.init_(m, m.apply(lambda part: None)), "got a module, Sequential: give a function of the model"),
        (lambda m: zeta.plan(m, m), "got a module, Sequential: give a function of the model, such as lambda model: mo"),
        (lambda m: zeta.init_(m, zeta.plan(m, EVERYTHING)), r"got a plan: zeta\.apply_\(model, plan, seed\) writes"),
        (lambda m: zeta.init_(m, Zeros()), r"got an initializer: Rules\(\[Rule\(\"\*\", Zeros\(\)\)\]\) gives it to"),
        (lambda m: zeta.init_(nn.Linear, EVERYTHING), r"a class: write Linear\(\.\.\.\), or zeta\.record\(Linear, "),
        (lambda m: zeta.init_(m, "kaiming_normal"), r'\(\[Rule\("\*\.weight", kaiming_normal\(\)\), \.\.\.\]\)$'),
        (lambda m: zeta.init_(m, "zeros"), r'are Rules\(\[Rule\("\*\.weight", Zeros\(\)\), \.\.\.\]\)$'),
        (lambda m: zeta.init_(m, EVERYTHING, sead=0), r"only recipes have options, .* got sead; did you mean 'seed'\?"),
        (lambda m: zeta.init_(m, lambda m: None, onyl="*"), r"this is a function: got onyl; did you mean 'only'\?"),
        (lambda m: Rule(m[0], Zeros()), r"such as nn\.Linear, or a name glob, such as 'head\.\*', .* an instance of L"),
        (lambda m: EVERYTHING + zeta.recipes.gpt2, r"the rules of this recipe are zeta\.recipes\.gpt2\(model\)$"),
        (lambda m: zeta.recipes.gpt2 + EVERYTHING, r"the rules of this recipe are zeta\.recipes\.gpt2\(model\)$"),
        (lambda m: EVERYTHING + "gpt2", r"rules of a recipe are zeta\.recipes\.rules_for\('gpt2', model\)$"),
        (lambda m: Rules("gpt2"), r"rules of a recipe are zeta\.recipes\.rules_for\('gpt2', model\)$"),
        (lambda m: EVERYTHING + BIASES, r"a list of rules are added: rules \+ \[Rule\(\.\.\.\)\], got Rule\("),
        (lambda m: EVERYTHING + 3, r"rules \+ \[Rule\(\.\.\.\)\], got 3$"),
    ],
)  # fmt: skip
def test_what_is_given_in_the_wrong_place_is_refused_with_what_to_write(call: Any, message: str) -> None:
    with pytest.raises((SpecError, LayerTypeError), match=message):
        call(nn.Sequential(nn.Linear(3, 3)))


def test_a_list_of_rules_goes_before_rules_as_after_them() -> None:
    before = [BIASES]
    assert before + EVERYTHING == Rules(before) + EVERYTHING == Rules([BIASES, *EVERYTHING])


def test_a_mistyped_prefix_gets_a_suggestion() -> None:
    model = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(3, 3) for _ in range(2)), "head": nn.Linear(3, 4)})
    plan = zeta.plan(model, EVERYTHING)
    part = model["blocks"][0]
    with pytest.raises(PlanError, match=r"names nothing of this part .*; did you mean 'blocks\.0'\?$"):
        zeta.apply_(part, plan, 0, prefix="block.0")
    with pytest.raises(PlanError, match=r"names nothing of this part .*; did you mean 'blocks'\?$"):
        zeta.apply_(nn.Sequential(part), plan, 0, prefix="block", name_map={"0": "1"})
    with pytest.raises(PlanError, match=r"the plan's first is 'blocks\.0\.weight'$"):
        zeta.apply_(part, plan, 0, prefix="x")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("mlp_down", '"mlp_down"'),
        ("norm_scale", '"norm_scale"'),
        ("weight", "'*.weight'"),
        ("*.weight|*.bias", "glob('*.weight') | glob('*.bias')"),
        (r"h\.\d+\.attn\..*", r"regex('h\\.\\d+\\.attn\\..*')"),
        (r"h\.(0|1).attn.weight", r"regex('h\\.(0|1).attn.weight')"),
        ("*.wieght", "'*.weight'"),
        ("h.(0", None),
        ("x|y", None),
    ],
)
def test_another_condition_than_a_glob(pattern: str, expected: str | None) -> None:
    names = [f"h.{n}.attn.{name}" for n in range(3) for name in ("weight", "bias")]
    assert re.sub("(role|kind)[(](.*)[)]", r"\2", did_you_mean_condition(pattern, names)) == (
        "" if expected is None else f"; did you mean {expected}?"
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lm_head", "'readout'"),
        ("qkv", "'query_key_value'"),
        ("q_proj", "'query'"),
        ("c_proj", "'attention_output' or 'mlp_down'"),
        ("mlp_don", "'mlp_down'"),
    ],
)
def test_the_name_of_a_layer_is_not_that_of_its_role(name: str, expected: str) -> None:
    with pytest.raises(SpecError, match=f"unknown role '{name}': .*; did you mean {expected}[?]$"):
        role(name)


def test_several_names_are_one_condition() -> None:
    with pytest.raises(SpecError, match=r"is one glob, such as '.*', or glob\('a'\) \| glob\('b'\) \| \.\.\.$"):
        Rule(["a", "b", "c"], Zeros())
    with pytest.raises(SpecError, match=r"or glob\('a'\) \| glob\('b'\)$"):
        Rule(("a", "b"), Zeros())


def test_a_role_that_nothing_has() -> None:
    rules = Rules([Rule(role("mlp_down") | role("router") | role("readout"), Zeros()), Rule(role("key"), Ones())])
    with pytest.raises(PlanError) as caught:
        zeta.plan(
            nn.ModuleDict({"fc": nn.Linear(3, 3), "lm_head": nn.Linear(3, 3)}), Rules([*rules, Rule("*", Zeros())])
        )
    assert str(caught.value).endswith(
        "rule 2 (role key): no parameter has the role key; zeta.roles_of(model) shows the roles"
    )
    with pytest.raises(PlanError, match="no parameter has the role mlp_down or router or readout; zeta"):
        zeta.plan(nn.Linear(3, 3), Rules([rules[0], Rule("*", Zeros())]))


def test_a_rule_that_matches_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    rules = Rules([Rule("*.wieght", Zeros()), Rule("*", Ones()), Rule("*.bias", Zeros()), Rule("zzzz", Zeros())])
    with pytest.raises(PlanError) as caught:
        zeta.plan(model, rules)
    assert str(caught.value).splitlines()[1:] == [
        "  - rule 1 (*.wieght): no parameter is named *.wieght; did you mean '*.weight'?",
        "  - rule 3 (*.bias): hidden by rule 2 (*)",
        "  - rule 4 (zzzz): no parameter is named zzzz",
    ]


class Counting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attn, self.down = nn.Linear(3, 3), nn.Linear(3, 3)
        self.register_buffer("steps", torch.arange(3))


REST = Rule("*", Ones(), optional=True)


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        (Rule("{attn,dwn}.weight", Zeros()), "no parameter is named dwn.weight; did you mean 'down.weight'?"),
        (Rule("*.{b,wieght}*", Zeros()), "no parameter is named *.wieght*; did you mean '*.weight'?"),
        (Rule("{attn,down{,s}}.*", Zeros()), "no parameter is named downs.*; did you mean 'down.*'?"),
        (Rule(glob("attn.*") | glob("dwn.*"), Zeros()), "no parameter is named dwn.*; did you mean 'down.*'?"),
        (Rule(glob("*") & ~glob("dwn.*"), Zeros()), "no parameter is named dwn.*; did you mean 'down.*'?"),
        (Rule("{attn.bias,steps}", Zeros()), "no parameter is named steps"),
    ],
    ids=lambda case: case.label if isinstance(case, Rule) else "",
)
def test_a_name_in_a_rule_that_matches_nothing(rule: Rule, problem: str) -> None:
    with pytest.raises(PlanError) as caught:
        zeta.plan(Counting(), Rules([rule, REST]))
    assert str(caught.value).splitlines() == [
        "these rules name what the model does not have (optional=True allows it):",
        f"  - rule 1 ({rule.label}): {problem}",
    ]
    zeta.plan(Counting(), Rules([replace(rule, optional=True), REST]))


@pytest.mark.parametrize(
    "condition",
    [
        "{attn,down}.{weight,bias}",
        "*.{weight,bias}",
        "{a,do}*",
        "{attn.{weight,bias},down.bias}",
        "{attn,down}.{weight,b}*",
        nn.Linear | nn.Conv2d,
        kind("weight") | kind("embedding"),
    ],
    ids=str,
)
def test_what_a_rule_may_name(condition: Any) -> None:
    """Each choice in braces is there, whatever the others are; classes, kinds and numbers are those that there are."""
    zeta.plan(nn.ModuleDict({"x": Counting()}), Rules([Rule(condition, Zeros(), optional=True), REST]))
    zeta.plan(Counting(), Rules([Rule(condition, Zeros()), REST]))


def test_a_choice_in_only_that_selects_nothing() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    plan = zeta.plan(model, Rules([Rule("*", Ones())]))
    message = r"only= names nothing in the plan:\n  - 1\.wieght; did you mean '1\.weight'\?$"
    with pytest.raises(PlanError, match=message):
        zeta.apply_(model, plan, 0, only="{0.weight,1.wieght}")
    assert len(zeta.apply_(model, plan, 0, only="{0..7}.{weight,bias}").measured) == 4


def test_a_rule_of_the_wrong_tensors_says_which_option_to_write() -> None:
    rules = Rules([Rule("steps", Zeros()), Rule("attn.*", Zeros(), buffers=True), REST])
    with pytest.raises(PlanError) as caught:
        zeta.plan(Counting(), rules)
    assert str(caught.value).splitlines()[1:] == [
        "  - rule 1 (steps): steps is a buffer: write buffers=True",
        "  - rule 2 (attn.*): attn.weight is a parameter: leave buffers=True out",
    ]


def test_a_mistyped_class_of_modules() -> None:
    rules = Rules([Rule(module("Linaer"), Zeros()), Rule(module("Linear") & glob("dwn.*"), Ones()), REST])
    with pytest.raises(PlanError) as caught:
        zeta.plan(Counting(), rules)
    assert str(caught.value).splitlines()[1:] == [
        "  - rule 1 (module Linaer): no module is a Linaer; did you mean 'Linear'?",
        "  - rule 2 ((module Linear & dwn.*)): no parameter is named dwn.*; did you mean 'down.*'?",
    ]
    zeta.plan(Counting(), Rules([Rule(module("Linear") | module("Conv2d"), Zeros()), REST]))


def test_a_hidden_rule_names_those_that_hide_it() -> None:
    every = [Rule(name, Ones()) for name in ("attn.weight", "attn.bias", "down.weight", "down.bias")]
    with pytest.raises(PlanError, match=r"rule 5 \(\*\): hidden by rule 1 \(attn\.weight\), .*, rule 3 .* and 1 more$"):
        zeta.plan(Counting(), Rules([*every, Rule("*", Zeros())]))


# -- nothing to do -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nothing", [[], (), set(), frozenset(), {}.keys()], ids=repr)
def test_an_empty_only_does_nothing_and_says_so(nothing: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 3))
    rules = Rules([Rule("*", Normal(0.5))])
    plan = zeta.plan(model, rules)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for call in (
        lambda: zeta.apply_(model, plan, 0, only=nothing),
        lambda: zeta.init_(model, rules, 0, only=nothing),
        lambda: init_(model, rules, 0, only=nothing),
        lambda: zeta.verify(model, plan, 0, only=nothing),
    ):
        with pytest.warns(ZetaNotice, match="only= is empty: nothing is selected, and nothing is done") as caught:
            result = call()
        assert caught[0].filename == __file__
        assert result.ok
        assert result.summary.startswith(("0 tensors written", "nothing was compared"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_function_that_selects_nothing_is_an_error() -> None:
    with warnings.catch_warnings(), pytest.raises(PlanError, match="only= selects nothing"):
        zeta.init_(nn.Linear(2, 2), Rules([Rule("*", Ones())]), 0, only=lambda name: False)
