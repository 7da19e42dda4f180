"""Rules: which parameter a condition means, which rule wins, and what a rule may say."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import zeta
from zeta import Rule, Rules
from zeta.errors import FanError, PlanError, SpecError
from zeta.fans import Axes, Fans
from zeta.initializers import Constant, Keep, Normal, Ones, Uniform, Zeros
from zeta.rules import Kind, Match, Where, glob, kind, module, ndim, regex, shape, where


def match(name: str = "h.3.mlp.weight", **changes: Any) -> Match:
    given = {
        "name": name,
        "shape": (4, 6),
        "dtype": torch.float32,
        "kind": Kind.WEIGHT,
        "module": nn.Linear(6, 4),
        "local_name": name.rpartition(".")[2],
        "layers": lambda name: None,
        "axes_of": lambda: Axes(fan_in=(1,), fan_out=(0,)),
    }
    return Match(**{**given, **changes})


# -- globs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("h.0.weight", "h.0.weight", True),
        ("h.0.weight", "h.0.weights", False),
        ("h.0.weight", "x.h.0.weight", False),
        ("h.0.weight", "h_0_weight", False),  # a dot is a dot
        ("*.c_proj.weight", "h.0.attn.c_proj.weight", True),  # a star crosses dots
        ("*.c_proj.weight", "h.0.attn.xc_proj.weight", False),
        ("*.bias", "bias", True),  # a leading *. is also nothing
        ("*.bias", "q_bias", False),
        ("*.bias", "a.q_bias", False),
        ("*bias", "q_bias", True),
        ("h.*.bias", "h.bias", False),  # only a leading one
        ("*.*.bias", "a.bias", True),
        ("*.*.bias", "bias", False),
        ("h.*", "h.", True),
        ("h*weight", "hweight", True),
        ("*", "", True),
        ("h.?.weight", "h.3.weight", True),
        ("h.?.weight", "h.10.weight", False),
        ("h.?.weight", "h..weight", False),
        ("h.[0-4].weight", "h.4.weight", True),
        ("h.[0-4].weight", "h.5.weight", False),
        ("h.[!0-4].weight", "h.5.weight", True),
        ("h.[!0-4].weight", "h.4.weight", False),
        ("h.[^0].weight", "h.^.weight", True),  # only ! negates
        ("h.[^0].weight", "h.5.weight", False),
        ("[a.]b", ".b", True),
        ("{q,k,v}_proj", "k_proj", True),
        ("{q,k,v}_proj", "o_proj", False),
        ("{q,k,v}_proj", "q,k_proj", False),
        ("h.{0..11}.w", "h.11.w", True),
        ("h.{0..11}.w", "h.12.w", False),
        ("h.{0..11}.w", "h.1.w", True),
        ("h.{0..11}.w", "h.01.w", False),
        ("h.{3..4,7,x}.w", "h.7.w", True),
        ("h.{3..4,7,x}.w", "h.3..4.w", False),
        ("{a.b,c}.w", "a.b.w", True),
        ("{a,{b,c}d}.w", "cd.w", True),
        ("{a,{b,c}d}.w", "c.w", False),
        ("{a,{b,c}d}.w", "a.w", True),
        ("{a,{b,c}d}.w", "ad.w", False),
        ("h.{{0..2},x{3..11}}.w", "h.x10.w", True),
        ("h.{{0..2},x{3..11}}.w", "h.10.w", False),
        ("{{a,b},{c,{d,*}}}", "*", True),
        ("{{a,b},{c,{d,*}}}", "e", False),
        ("{a}}", "a}", True),
        ("{a*,c}.w", "ax.w", False),  # inside braces everything is meant as it stands
        ("{a*,c}.w", "a*.w", True),
        ("{a{b,c},d{0..2}e}.w", "ac.w", True),  # braces in braces
        ("{a{b,c},d{0..2}e}.w", "d2e.w", True),
        ("{a{b,c},d{0..2}e}.w", "a.w", False),
        ("{a{b,c},d{0..2}e}.w", "d3e.w", False),
        ("w+", "ww", False),
        ("w+", "w+", True),
        ("(a|b)$", "(a|b)$", True),
        ("WEIGHT", "weight", False),
    ],
)
def test_globs(pattern: str, name: str, expected: bool) -> None:
    assert glob(pattern)(match(name)) is expected


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("*?" * 12 + "Z", "model.layers.0.self_attn.q_proj.weight"),
        ("*a" * 60 + "Z", "a" * 2000),
        ("*." * 50 + "Z", "a." * 500),
        ("{a,aa}" * 60 + "Z", "a" * 100),
        ("{" * 15 + "a,aa" + "}" * 15, "b" * 5000),
        ("{0..999999999999999999}" * 20 + "Z", "1" * 5000),
    ],
)
def test_no_glob_takes_long(pattern: str, name: str) -> None:
    begin = time.process_time()
    assert not glob(pattern)(match(name))
    assert not glob(pattern)(match(name + "Z")) or pattern[:2] != "{{"
    assert time.process_time() - begin < 5


def matches(pattern: str, name: str) -> bool:
    """A matcher without regular expressions, for all but sets."""
    patterns = [pattern, pattern[2:]] if pattern.startswith("*.") else [pattern]
    return any(plain(option, name) for each in patterns for option in braces(each))


def plain(pattern: str, name: str) -> bool:
    if not pattern:
        return not name
    if pattern[0] == "*":
        return any(plain(pattern[1:], name[cut:]) for cut in range(len(name) + 1))
    return bool(name) and pattern[0] in ("?", name[0]) and plain(pattern[1:], name[1:])


def braces(pattern: str) -> Iterator[str]:
    """Every pattern without braces that one with braces stands for."""
    opening = pattern.find("{")
    if opening < 0:
        yield pattern
        return
    options, depth, closing = [""], 1, opening
    while depth:
        closing += 1
        letter = pattern[closing]
        depth += (letter == "{") - (letter == "}")
        if letter == "," and depth == 1:
            options.append("")
        elif depth:
            options[-1] += letter
    for option in (text for each in options for text in braces(each)):
        low, dots, high = option.partition("..")
        for text in map(str, range(int(low), int(high) + 1)) if dots else [option]:
            for rest in braces(pattern[closing + 1 :]):
                yield pattern[:opening] + text + rest


pieces = st.sampled_from(
    ["*", "*.", "?", ".", "a", "b", "0", "1", "+", "{a,b0}", "{0..2}", "{1,a}", "{,b}", "{a,{b,0{1..2}}+}"]
)
names = st.text("ab01.+", max_size=8)


@settings(max_examples=400)
@given(st.lists(pieces, min_size=1, max_size=5).map("".join), names)
def test_globs_against_an_independent_matcher(pattern: str, name: str) -> None:
    assert glob(pattern)(match(name)) is matches(pattern, name)


@given(st.lists(pieces, min_size=1, max_size=5).map("".join), st.data())
def test_globs_match_what_they_were_filled_in_with(pattern: str, data: st.DataObject) -> None:
    """Random names seldom match a long pattern; these always do."""
    name = data.draw(st.sampled_from(sorted(braces(pattern))))
    for wildcard, texts in (("*", st.text("ab.", max_size=3)), ("?", st.sampled_from("ab."))):
        while wildcard in name:
            name = name.replace(wildcard, data.draw(texts), 1)
    assert glob(pattern)(match(name))


@pytest.mark.parametrize("pattern", ["", "h.[0-9.w", "h.{a,b.w", "h.[].w", "h.{}.w"])
def test_bad_globs_are_refused(pattern: str) -> None:
    with pytest.raises(SpecError, match=r"not closed, or has nothing inside|cannot be empty") as error:
        Rule(pattern, Zeros())
    assert pattern in str(error.value)


@pytest.mark.parametrize("pattern", ["h.[9-0].w", "h.[!].w", "h.{5..2}.w"])
def test_empty_sets_and_spans_in_globs_are_refused(pattern: str) -> None:
    with pytest.raises(SpecError, match=re.escape(pattern)):
        Rule(pattern, Zeros())


# -- other conditions ------------------------------------------------------------------------------------------------


def test_regular_expressions_match_the_whole_name() -> None:
    condition = where(re.compile(r"h\.\d+\.mlp\.(weight|bias)"))
    assert condition(match("h.12.mlp.bias"))
    assert not condition(match("x.h.12.mlp.bias"))
    assert not condition(match("h.12.mlp.bias_k"))
    assert regex("h.*")(match("h.1.w"))
    assert where(re.compile("H", re.IGNORECASE))(match("h"))
    with pytest.raises(SpecError, match=r"not a regular expression: '\(' \(.*unterminated"):
        regex("(")


class Own(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("condition", "owner", "expected"),
    [
        (nn.Linear, nn.Linear(1, 1), True),
        (nn.Linear, Own(1, 1), True),
        (Own, nn.Linear(1, 1), False),
        (nn.modules.batchnorm._BatchNorm, nn.BatchNorm1d(1), True),
        (module("Linear"), Own(1, 1), True),
        (nn.Linear | nn.Embedding, nn.Embedding(1, 1), True),
        (nn.Linear | nn.Embedding | nn.Bilinear, Own(1, 1), True),
        (nn.Linear | nn.Embedding, nn.LayerNorm(1), False),
        ((nn.Linear, nn.Embedding), nn.Embedding(1, 1), True),
        (module(nn.Linear | nn.Embedding) & "*.weight", nn.Linear(1, 1), True),
        (~module((nn.Linear, nn.Embedding)), nn.Linear(1, 1), False),
        (module("Own"), Own(1, 1), True),
        (module("linear"), nn.Linear(1, 1), False),
        (nn.Module, nn.Linear(1, 1), True),
    ],
)
def test_module_conditions(condition: Any, owner: nn.Module, expected: bool) -> None:
    assert where(condition)(match(module=owner)) is expected


@pytest.mark.parametrize("which", list(Kind))
def test_kind_conditions(which: Kind) -> None:
    for condition in (where(which), kind(which), kind(which.value)):
        assert [other for other in Kind if condition(match(kind=other))] == [which]


@pytest.mark.parametrize(
    ("condition", "matching"),
    [
        (shape(4, 6), {(4, 6)}),
        (shape(None, 6), {(4, 6), (1, 6)}),
        (shape(4, None), {(4, 6), (4, 7)}),
        (shape(4), {(4,)}),
        (shape(), {()}),
        (ndim(2), {(4, 6), (1, 6), (4, 7)}),
        (ndim(0), {()}),
    ],
)
def test_shape_conditions(condition: Where, matching: set[tuple[int, ...]]) -> None:
    shapes = [(), (4,), (6,), (4, 6), (1, 6), (4, 7), (4, 6, 1)]
    assert {each for each in shapes if condition(match(shape=each))} == matching


def test_a_predicate_sees_the_match() -> None:
    def wide(m: Match) -> bool:
        return m.fans.fan_in > 5 and m.layer == 3

    assert where(wide).label == "wide"
    assert where(wide)(match(layers=lambda _: (3, 5)))
    assert not where(wide)(match(layers=lambda _: (2, 5)))
    assert not where(wide)(match(layers=lambda _: (3, 5), axes_of=lambda: Axes(fan_in=(0,), fan_out=(1,))))


def test_fans_of_a_match() -> None:
    in_by_out = match(axes_of=lambda: Axes(fan_in=(0,), fan_out=(1,)))
    assert in_by_out.fans == Fans(fan_in=4, fan_out=6)
    assert in_by_out.torch_fans == Fans(fan_in=6, fan_out=4)
    with pytest.raises(FanError, match="at least 2"):
        _ = match(shape=(4,)).torch_fans


A, B = glob("a*"), glob("*b")
NAMES = ("ab", "ax", "xb", "xx")


@pytest.mark.parametrize(
    ("condition", "matching", "label"),
    [
        (A & B, ["ab"], "(a* & *b)"),
        (A | B, ["ab", "ax", "xb"], "(a* | *b)"),
        (~A, ["xb", "xx"], "~a*"),
        (A & ~B, ["ax"], "(a* & ~*b)"),
        (~(A | B), ["xx"], "~(a* | *b)"),
        (A & "*b", ["ab"], "(a* & *b)"),
        ("*b" & A, ["ab"], "(a* & *b)"),
        ("*b" | A, ["ab", "ax", "xb"], "(a* | *b)"),
        (A & nn.Linear, ["ab", "ax"], "(a* & module Linear)"),
        (A & re.compile(".x") | kind("bias"), ["ax"], "((a* & /.x/) | kind bias)"),
        (ndim(2) & shape(None, 6) & A, ["ab", "ax"], "((ndim 2 & shape (*, 6)) & a*)"),
    ],
)
def test_conditions_combine(condition: Where, matching: list[str], label: str) -> None:
    assert [name for name in NAMES if condition(match(name))] == matching
    assert condition.label == label


def test_a_combination_asks_the_second_only_if_it_must() -> None:
    def fail(_: Match) -> bool:
        raise AssertionError

    assert not (B & fail)(match("ax"))
    assert (A | fail)(match("ax"))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rule(3, Zeros()), "a rule's condition is a name glob.* got 3"),  # type: ignore[arg-type]
        (lambda: Rule([nn.Linear, nn.Embedding], Zeros()), r"several \(nn\.Linear \| nn\.Embedding\)"),  # type: ignore[arg-type]
        (lambda: Rule({nn.Linear}, Zeros()), r"classes and globs are wrapped: module\(nn\.Linear\) & ~glob"),  # type: ignore[arg-type]
        (lambda: Rule(nn.Linear | None, Zeros()), r"module\(\) needs a subclass of torch\.nn\.Module, several"),
        (lambda: Rule((), Zeros()), r"module\(\) needs a subclass of torch\.nn\.Module.* got \(\)"),
        (lambda: Rule(int, Zeros()), "subclass of torch.nn.Module, several .* got <class 'int'>"),  # type: ignore[arg-type]
        (lambda: kind("wieght"), "unknown kind 'wieght': expected one of weight, bias, norm_scale"),
        (lambda: shape(4, "6"), "shape\\(\\) takes numbers and None"),  # type: ignore[arg-type]
        (lambda: shape(True), "shape\\(\\) takes numbers and None"),
        (lambda: ndim("2"), "number"),  # type: ignore[arg-type]
        (lambda: glob(3), "name glob"),  # type: ignore[arg-type]
        (lambda: Rule("*", Zeros), r"rule '\*': write Zeros\(\), with parentheses"),  # type: ignore[arg-type]
        (lambda: Rule("*", 0.02), r"rule '\*': write Constant\(0.02\) for this value, got 0.02"),  # type: ignore[arg-type]
        (lambda: Rule("*", Zeros(), axes=(1, 0)), r"rule '\*': axes must be Axes"),  # type: ignore[arg-type]
        (lambda: Rules([]), "at least one rule"),
        (lambda: Rules(Rule("a", Zeros()), Rule("b", Zeros())), r"Rules takes one list: Rules\(\[Rule\(\.\.\.\), Rule"),  # type: ignore[arg-type]
        (lambda: Rules(Rule("a", Zeros())), "Rules takes one list"),  # type: ignore[arg-type]
        (lambda: Rules(3), "Rules takes one list: .* got 3"),  # type: ignore[arg-type]
        (lambda: Rules([Rule("*", Zeros()), ("*", Zeros())]), "item 1 must be a Rule"),  # type: ignore[list-item]
        (lambda: Rules([Rule("*", Zeros())]).__add__([Zeros()]), "item 1 must be a Rule"),  # type: ignore[list-item]
    ],
)  # fmt: skip
def test_bad_rules_are_refused_when_built(build: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        build()


# -- rules ------------------------------------------------------------------------------------------------------------


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))


def chosen(rules: Rules, of: nn.Module | None = None) -> dict[str, Any]:
    return {entry.name: entry.initializer for entry in zeta.plan(of or model(), rules) if not entry.kept}


def test_the_first_rule_that_matches_wins() -> None:
    rules = Rules([Rule("1.*", Constant(1)), Rule("*.weight", Constant(2)), Rule("*", Constant(3))])
    found = chosen(rules)
    expected = {"0.weight": 2, "0.bias": 3, "1.weight": 1, "2.weight": 2, "2.bias": 3}
    assert {name: found[name].value for name in expected} == expected
    assert [rules.first(match(name)) for name in ("1.weight", "x.weight", "x")] == [0, 1, 2]
    assert Rules([Rule("a", Zeros())]).first(match("b")) is None


def test_a_rule_hidden_by_an_earlier_one_is_an_error_unless_optional() -> None:
    hidden = Rule("*.weight", Zeros())
    with pytest.raises(PlanError, match=r"never win.*\n  - rule 2 \(\*\.weight\): hidden by rule 1 \(\*\)$"):
        chosen(Rules([Rule("*", Ones()), hidden]))
    chosen(Rules([Rule("*", Ones()), dataclasses.replace(hidden, optional=True)]))


def test_a_rule_is_about_parameters_or_about_buffers() -> None:
    rules = Rules([Rule("*running_mean", Constant(7), buffers=True), Rule("*", Constant(1))])
    found = chosen(rules)
    assert found["2.running_mean"] == Constant(7)
    assert found["2.running_var"] == Ones()  # torch's own starting value, as no rule speaks of it
    assert found["2.weight"] == Constant(1)
    assert Rule("*", Zeros()).matches(match()) is True
    assert Rule("*", Zeros()).matches(match(kind=Kind.BUFFER)) is False
    assert Rule("*", Zeros(), buffers=True).matches(match()) is False
    assert Rule("*", Zeros(), buffers=True).matches(match(kind=Kind.BUFFER)) is True


def test_axes_of_a_rule_win_over_those_of_the_module() -> None:
    seen: list[Fans] = []

    def note(m: Match) -> Normal:
        seen.append(m.fans)
        return Normal()

    rule = Rule("*", note, axes=Axes(fan_in=(0,), fan_out=(1,)))
    (entry,) = zeta.plan(nn.Linear(3, 4, bias=False), Rules([rule]))
    assert seen[-1] == entry.fans == Fans(fan_in=4, fan_out=3)


def test_an_initializer_may_depend_on_the_match() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.h = nn.ModuleList(nn.Linear(3, 3, bias=False) for _ in range(4))
            self.config = {"scale": 3.0}

    def scaled(m: Match) -> Normal:
        assert m.layer is not None
        assert m.depth is not None
        return Normal(m.config["scale"] * (m.layer + 1) / m.depth)

    found = chosen(Rules([Rule("*", scaled)]), Block())
    assert [found[f"h.{i}.weight"].std for i in range(4)] == [0.75, 1.5, 2.25, 3.0]


def test_a_rule_that_returns_no_initializer_is_named() -> None:
    with pytest.raises(SpecError, match=r"rule 'h\*' must return an initializer for h\.3\.mlp\.weight, got 0\.02"):
        Rule("h*", lambda m: 0.02).initializer_for(match())  # type: ignore[arg-type, return-value]


def test_rules_are_a_sequence_and_join_in_order() -> None:
    one, two, three = Rule("a", Zeros()), Rule("b", Keep()), Rule("c", Uniform())
    joined = Rules([one]) + Rules([two, three])
    assert list(joined) == [one, two, three]
    assert joined != Rules([two, one, three])
    assert hash(joined) == hash(Rules([one, two, three]))
    assert (len(joined), joined[1], list(joined[1:])) == (3, two, [two, three])
    assert repr(joined) == "Rules(3 rules: a, b, c)"
    assert [line.split() for line in str(joined).splitlines()[2:]] == [
        ["1", "a", "Zeros()"],
        ["2", "b", "Keep()"],
        ["3", "c", "Uniform()"],
    ]


def test_many_rules_and_long_conditions_have_a_short_repr() -> None:
    rules = Rules([Rule("{" + ",".join("x" * 50 for _ in range(20)) + "}", Zeros()), *[Rule("*", Zeros())] * 200])
    assert repr(rules) == f"Rules(201 rules: {str(rules[0].label)[:28]}..., *, *, *, * and 196 more)"
    assert "function double" in str(Rules([Rule("*", double, optional=True, buffers=True)]))
    assert "optional, of buffers" in str(Rules([Rule("*", double, optional=True, buffers=True)]))


def double(match: Match) -> Normal:
    return Normal(2.0)


def test_a_function_that_fails_is_named_with_its_parameter() -> None:
    def broken(match: Match) -> Any:
        return match.module.no_such_thing

    with pytest.raises(
        SpecError, match=r"rule 'broken': its condition fails for weight: AttributeError: .*no_such_thing"
    ):
        zeta.plan(nn.Linear(2, 2), Rules([Rule(broken, Zeros())]))
    with pytest.raises(
        PlanError, match=r"(?s)weight 2 x 2.*its function fails for weight: AttributeError.*bias 2, rule"
    ):
        zeta.plan(nn.Linear(2, 2), Rules([Rule("*", broken)]))
