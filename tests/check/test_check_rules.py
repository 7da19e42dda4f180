"""The rules alone, on evidence made by hand: what each computes, on either side of its limits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import scipy.stats
import torch
from torch import nn

from zeta.check.facts.catalogue import RULES
from zeta.check.facts.evidence import Chain, Criterion, Evidence, Later, TensorFacts, Use
from zeta.check.facts.results import Finding, Layer, Loss, Point, Severity, Stats
from zeta.check.facts.thresholds import Thresholds
from zeta.check.judge import backward, base, forward, full, head
from zeta.check.judge.training import losses
from zeta.check.measure.readings import SAMPLE, sample_of
from zeta.check.measure.sizes.slopes import log_slope, slopes
from zeta.resolve.slots import Slot
from zeta.rules import Kind

LIMITS = Thresholds()
MODULE = nn.Linear(4, 4)


def stats(rms: float = 1.0, count: int = 64, **changes: Any) -> Stats:
    return Stats(
        **{"count": count, "mean": 0.0, "std": rms, "low": -rms, "high": rms, "zeros": 0.0, "nonfinite": 0} | changes
    )


def use(
    name: str, *, rms: float = 1.0, gradient: Stats | None = None, output: Stats | None = None, **changes: Any
) -> Use:
    """A weighted layer that varies between samples; changes go to the layer or to its use."""
    own = {key: changes.pop(key) for key in list(changes) if key in Layer.__dataclass_fields__}
    layer = Layer(
        **{
            "name": name,
            "kind": "Linear",
            "parameters": (f"{name}.weight",),
            "output": output or stats(rms),
            "gradient": gradient,
        }
        | own
    )
    facts = {"module": name, "norm": False, "weighted": True, "activation": None, "samples": 32, "attached": True}
    facts |= {
        "signal": rms**2,
        "input_signal": 1.0,
        "input_square": 1.0,
        "masked": 0,
        "head": False,
        "before": None,
        "gates": False,
        "scored": False,
        "steps": None,
        "cosines": False,
        "resolution": 2.0**-23,
        "input_nonfinite": 0,
    }
    return Use(layer=layer, **facts | changes)


def tensor(name: str, *, shape: tuple[int, ...] = (4, 4), kind: Kind = Kind.WEIGHT, **changes: Any) -> TensorFacts:
    values = torch.ones(shape)
    slot = Slot(name=name, local_name=name, module=MODULE, tensor=values, shape=shape, kind=kind)
    facts = {"ties": (), "stats": stats(), "gradient_stats": stats(), "trainable": True, "used": True}
    facts |= {"detached": False, "entry": None, "axes": None, "dtype": values.dtype, "sample": values.flatten()}
    facts |= {"rows": None, "gradient_sample": None, "measured": None, "units": None, "still_units": None}
    return TensorFacts(slot=slot, read=lambda: values, **facts | changes)


def evidence(*uses: Use, **changes: Any) -> Evidence:
    facts: dict[str, Any] = {"gradients": {}, "used": frozenset(), "detached": frozenset(), "head": frozenset()}
    facts |= {"loss": None, "paired": False, "compared": False, "surrogate": False, "differentiable": True}
    facts |= {"batch_signal": 1.0, "output_nonfinite": 0, "tensors": (), "thresholds": LIMITS}
    facts |= {"batch_size": None, "batch_zero": False, "touched": {}, "reached": lambda _: None, "varies": True}
    return Evidence(uses=chained(*uses), **facts | changes)


def chained(*uses: Use) -> tuple[Use, ...]:
    """Uses of which each takes the output of the one before."""
    made, last = [], None
    for one in uses:
        made.append(replace(one, before=last))
        last = one.layer.name if one.weighted or one.norm or one.layer.entropy is not None else last
    return tuple(made)


def ids(findings: Iterable[Finding]) -> list[str]:
    return [finding.rule.id for finding in findings]


# -- helpers ---------------------------------------------------------------------------------------------------------


def test_what_lies_at_a_limit_has_not_passed_it() -> None:
    assert base.graded(1.0, 1.0, 2.0) is None
    assert base.graded(1.5, 1.0, 2.0) == base.graded(2.0, 1.0, 2.0) == (Severity.WARN, 1.0)
    assert base.graded(2.1, 1.0, 2.0) == (Severity.FAIL, 2.0)


def test_a_finding_is_its_rules_unless_it_says_otherwise() -> None:
    rule, plain = RULES["Z101"], base.found("Z101", "text")
    assert (plain.rule, plain.severity, plain.advice, plain.message) == (rule, rule.severity, rule.advice, "text")
    own = base.found(
        "Z101", "text", severity=Severity.NOTE, advice="do that", parameter="p", layer="l", value=1, limit=2
    )
    assert (own.severity, own.advice) == (Severity.NOTE, "do that")
    assert (own.parameter, own.layer, own.value, own.limit) == ("p", "l", 1, 2)


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0%"), (1.0, "100%"), (0.005, "0%"), (0.0049, "0.49%"), (0.0251, "3%"), (0.995, "99.50%"), (0.9949, "99%")],
)
def test_percent(fraction: float, text: str) -> None:
    assert base.percent(fraction) == text


def test_a_sample_has_equal_distances() -> None:
    assert sample_of(torch.arange(10)).tolist() == list(range(10))
    assert sample_of(torch.arange(3 * SAMPLE)).tolist() == list(range(0, 3 * SAMPLE, 3))


# -- Z4 --------------------------------------------------------------------------------------------------------------


def blocks(*rms: float, output: Stats | None = None) -> list[Use]:
    return [use(f"blocks.{n}", rms=value, block=True, weighted=False, output=output) for n, value in enumerate(rms)]


@pytest.mark.parametrize(
    ("last", "severity"), [(9.9, None), (10.2, Severity.WARN), (199.0, Severity.WARN), (201.0, Severity.FAIL)]
)
def test_residual_growth_is_last_over_first(last: float, severity: Severity | None) -> None:
    """From an rms of 2, so that a product is another number than a ratio: limits 5 and 100."""
    uses = [use("blocks.2.fc"), use("blocks.2.mid"), use("blocks.2.out"), *blocks(2.0, 2.5, last)]
    found = [one for one in forward.findings(evidence(*uses)) if one.rule.id == "Z403"]
    assert [one.severity for one in found] == ([] if severity is None else [severity])
    for one in found:
        assert (one.layer, one.parameter) == ("blocks.2", "blocks.2.out.weight")
        assert one.message.endswith("times over 3 blocks, from blocks.0 to blocks.2")
        assert one.value == pytest.approx(last / 2, rel=1e-12)


def test_growth_names_the_block_that_grows_most_by_ratio() -> None:
    (found,) = forward.findings(evidence(*blocks(1.0, 10.0, 50.0, 100.0)))
    assert (found.layer, found.parameter, found.value) == ("blocks.1", None, pytest.approx(100))


def test_growth_is_not_judged_where_a_block_is_zero_or_shrinks_or_there_are_two() -> None:
    assert ids(forward.findings(evidence(*blocks(1000.0, 100.0, 1.0)))) == []
    assert ids(forward.findings(evidence(*blocks(0.0, 1.0, 1000.0)))) == []
    assert ids(forward.findings(evidence(*blocks(1.0, 1000.0)))) == []
    assert ids(forward.findings(evidence(*blocks(1.0, 1.0, math.inf)))) == []


def layers(*signals: float, **changes: Any) -> list[Use]:
    return [use(f"fc{n}", rms=math.sqrt(value), **changes) for n, value in enumerate(signals)]


@pytest.mark.parametrize(
    ("scales", "sign", "severity"),
    [
        *((5.9, sign, None) for sign in (-1, 1)),
        *((6.1, sign, Severity.WARN) for sign in (-1, 1)),
        *((15.9, 1, Severity.WARN), (16.1, 1, Severity.FAIL), (31.9, -1, Severity.WARN), (32.1, -1, Severity.FAIL)),
    ],
)
def test_depth_scales_are_slope_times_layers(scales: float, sign: int, severity: Severity | None) -> None:
    per_layer = sign * scales / 6
    uses = layers(*(math.exp(per_layer * n + 20) for n in range(7)))  # both ends above 1
    found = [one for one in forward.findings(evidence(*uses)) if one.rule.id == "Z402"]
    assert [one.severity for one in found] == ([] if severity is None else [severity])
    for one in found:
        assert (one.parameter, one.layer, one.value) == ("fc6.weight", "fc6", pytest.approx(scales, rel=1e-9))
        assert "from fc0 to fc6: " in one.message
        assert (
            f"{'shrinks' if sign < 0 else 'grows'} by a factor of {math.exp(per_layer):.3g} per layer over 7"
            in one.message
        )
        assert one.message.endswith(f"from fc0 to fc6: by e^{sign * scales:.2g} in all")


def test_the_slope_is_the_median_over_all_pairs() -> None:
    assert forward.slope([0.0, 1.0, 3.0]) == 1.5  # slopes 1, 1.5, 2
    assert forward.slope([5.0, 3.0, 4.0, 1.0]) == pytest.approx((-1 - 4 / 3) / 2)  # -2, -0.5, -4/3, 1, -1, -3
    values = [float(n * n) for n in range(300)]
    pairs = [(values[j] - values[i]) / (j - i) for i in range(300) for j in range(i + 1, 300, 3)]
    assert forward.slope(values) == statistics.median(pairs)


def test_a_slope_against_the_change_between_the_ends_is_no_finding() -> None:
    """Six steps of -7 and one jump of 60: the slope falls, the ends rise."""
    logs = [0.0, -7.0, -14.0, -21.0, -28.0, -35.0, 25.0]
    assert forward.slope(logs) < 0 < logs[-1]
    assert ids(forward.findings(evidence(*layers(*map(math.exp, logs))))) == []


def test_the_change_is_at_most_that_between_the_ends() -> None:
    logs = [0.0, 4.0, 8.0, 12.0, 16.0, 20.0, 9.0]
    (found,) = forward.findings(evidence(*layers(*map(math.exp, logs))))
    assert found.value == pytest.approx(9.0, rel=1e-12)


def test_runs_end_at_normalization_and_skip_what_does_not_count() -> None:
    made = [
        use("a"), use("zero", signal=0.0), use("act", weighted=False), use("b"), use("norm", norm=True), use("c"),
        use("attention", entropy=0.9), use("d"), use("out", head=True), use("bad", output=stats(nonfinite=1)),
    ]  # fmt: skip
    assert [[one.layer.name for one in run] for run in forward.runs(chained(*made))] == [["a", "b"], ["c"], ["d"]]


def test_depth_is_counted_along_paths() -> None:
    """A stem and two branches of two layers, of which the second is used once more."""
    made = [use("stem")]
    for name, before in (("a", "stem"), ("b", "a"), ("c", "stem"), ("d", "c"), ("c#2", "stem")):
        made.append(replace(use(name), before=before))
    assert [[one.layer.name for one in run] for run in forward.runs(made)] == [
        ["stem", "a", "b"], ["stem", "c", "d"], ["stem", "c#2"]
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "judged"),
    [
        ({}, True),
        ({"samples": 1}, False),
        ({"signal": 1e-4}, False),
        ({"signal": 1.1e-4}, True),
        ({"samples": 2}, True),
    ],
)
def test_depth_is_judged_where_samples_differ_at_the_beginning(changes: dict[str, Any], judged: bool) -> None:
    first, *others = layers(*(math.exp(3.0 * n) for n in range(7)))
    assert ids(forward.findings(evidence(replace(first, **changes), *others))) == (["Z402"] if judged else [])
    alike = use("fc0", rms=10.0, signal=5e-3)  # 5e-5 of its mean square
    assert ids(forward.findings(evidence(alike, *others))) == []
    short = layers(*(math.exp(9.0 * n) for n in range(4)))
    assert ids(forward.findings(evidence(*short))) == []
    assert ids(forward.findings(evidence(*layers(*(math.exp(9.0 * n) for n in range(5)))))) == ["Z402"]


def test_not_finite_outputs() -> None:
    bad, masked = stats(nonfinite=3), stats(nonfinite=3)
    (found,) = forward.findings(evidence(use("a"), use("b", output=bad), use("c", output=bad)))
    assert (found.rule.id, found.layer, found.value) == ("Z401", "b", 3)
    call = {"parameters": (), "weighted": False, "masked": 3}
    assert ids(forward.findings(evidence(use("mask", output=masked, **call)))) == []
    assert ids(forward.findings(evidence(use("mask", output=masked, **call | {"masked": 2})))) == ["Z401"]
    assert ids(forward.findings(evidence(use("mask", output=masked, masked=3)))) == []
    (found,) = forward.findings(
        evidence(use("mask", output=masked, masked=3), use("fc"), use("b", output=bad, input_nonfinite=3))
    )
    assert (found.rule.id, found.layer, found.value) == ("Z401", "mask", 3)
    (found,) = forward.findings(evidence(use("mask", output=masked, masked=3), use("b", output=bad)))
    assert found.layer == "b"
    assert ids(forward.findings(evidence(*blocks(1.0, output=bad)))) == []
    assert ids(forward.findings(evidence(use("a"), output_nonfinite=2))) == ["Z401"]
    for value, classes, expected in ((math.nan, None, ["Z401"]), (math.nan, 3, []), (1.0, None, [])):
        loss = Loss(value=value, expected=None, classes=classes)
        assert ids(forward.findings(evidence(use("a"), loss=loss))) == expected


@pytest.mark.parametrize(
    ("dead", "samples", "expected"),
    [
        (0.69, 32, None),
        (0.8, 32, Severity.WARN),
        (0.96, 32, Severity.FAIL),
        (0.96, 16, Severity.FAIL),
        (0.96, 15, None),
    ],
)
def test_dead_units(dead: float, samples: int, expected: Severity | None) -> None:
    made = use("act", activation="relu", dead=dead, samples=samples, output=stats(count=samples * 257), weighted=False)
    found = list(forward.findings(evidence(made)))
    assert [one.severity for one in found] == ([] if expected is None else [expected])
    assert all(one.advice.startswith("Raise the bias") for one in found)  # a unit is off where its input is too low


@pytest.mark.parametrize(("units", "off"), [(10, 9), (10, 10), (20, 16), (20, 17), (100, 71), (256, 180)])
def test_few_units_may_be_off_by_chance(units: int, off: int) -> None:
    """Each with probability 1/2: reported if at least so many are off with a probability of at most 1e-3."""
    chance = sum(math.comb(units, k) for k in range(off, units + 1)) / 2**units
    made = use("act", activation="relu", dead=off / units, output=stats(count=32 * units), weighted=False)
    assert ids(forward.findings(evidence(made))) == ([] if chance > 1e-3 else ["Z404"])


@pytest.mark.parametrize(("off", "reported"), [(120, False), (140, True)])
def test_256_units_may_be_off_by_chance_where_a_lower_share_counts(off: int, reported: bool) -> None:
    """Each with probability 0.4: 120 of them with one of 1.5 %, 140 with one of 1.5e-6."""
    made = use("act", activation="relu", dead=off / 256, output=stats(count=32 * 256), weighted=False)
    limits = replace(LIMITS, dead_warn=0.4)
    assert (scipy.stats.binom.sf(off - 1, 256, 0.4) > 1e-3) is not reported
    assert ids(forward.findings(evidence(made, thresholds=limits))) == (["Z404"] if reported else [])


@pytest.mark.parametrize(("share", "expected"), [(0.5, None), (0.6, Severity.WARN), (0.91, Severity.FAIL)])
def test_saturated_units(share: float, expected: Severity | None) -> None:
    made = use("act", activation="tanh", saturated=share, weighted=False)
    assert [one.severity for one in forward.findings(evidence(made))] == ([] if expected is None else [expected])


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, True),
        ({"signal": 1e-13}, False),
        ({"signal": 1e-5, "resolution": 2.0**-7}, True),
        ({"signal": 1e-4, "resolution": 2.0**-7}, False),
        ({"input_signal": 0.9e-4}, False),
        ({"input_signal": 4e-4, "input_square": 8.0}, False),
        ({"input_square": 0.0}, False),
        ({"input_square": None}, False),
        ({"input_signal": None}, False),
        ({"samples": 1}, False),
        ({"samples": 2}, True),
        ({"rms": 0.0}, False),
        ({"block": True}, False),
        ({"attached": False}, True),
        ({"attached": False, "parameters": ()}, False),
        ({"parameters": ()}, True),
        ({"parameters": ("zero.weight",)}, False),
        ({"output": stats(nonfinite=1), "masked": 1, "parameters": ()}, False),
    ],
)
def test_an_output_that_ignores_its_input(changes: dict[str, Any], found: bool) -> None:
    zero = tensor("zero.weight", stats=stats(0.0, zeros=1.0))
    made = use("fc", **{"rms": 2.0, "signal": 1e-15} | changes)
    assert ids(forward.findings(evidence(made, tensors=(zero,)))) == (["Z406"] if found else [])
    assert ids(forward.findings(evidence(made, batch_signal=None))) == []
    assert ids(forward.findings(evidence(made, batch_signal=0.9e-4))) == []


@pytest.mark.parametrize(
    ("name", "module", "flat", "found"),
    [
        ("fc", "fc", {"parameters": ("zero.weight",)}, None),  # Z303 is about it
        ("model:relu", "", {"parameters": (), "rms": 0.0}, None),  # Z404 is about it
        ("fc", "fc", {}, "fc"),
        ("fc", "fc", {"signal": 1.0}, "model"),  # then it is the code of the model itself
        ("fc", "fc", {"input_signal": 0.0}, "model"),
    ],
)
def test_a_module_is_not_blamed_for_a_layer_in_it(name: str, module: str, flat: dict[str, Any], found: str) -> None:
    zero = tensor("zero.weight", stats=stats(0.0, zeros=1.0))
    inner = use(name, **{"module": module, "rms": 2.0, "signal": 1e-15} | flat)
    outer = use("model", module="", parameters=("own",), rms=2.0, signal=1e-15)
    findings = list(forward.findings(evidence(inner, outer, tensors=(zero,))))
    assert [(one.rule.id, one.layer) for one in findings] == ([] if found is None else [("Z406", found)])


def test_a_call_is_not_inside_another_call() -> None:
    """Each flattens what it receives; the weight of the first is zero."""
    zero = tensor("zero.weight", stats=stats(0.0, zeros=1.0))
    calls = [
        use("fc:linear", module="fc", parameters=("zero.weight",), rms=2.0, signal=1e-15),
        use("fc:softmax", module="fc", parameters=(), rms=2.0, signal=1e-15),
        use("fc2", module="fc2", parameters=("own",), rms=2.0, signal=1e-15),
    ]
    assert [one.layer for one in forward.findings(evidence(*calls, tensors=(zero,)))] == ["fc:softmax"]
    assert [one.layer for one in forward.findings(evidence(*calls[::2], tensors=(zero,)))] == ["fc2"]


def test_the_parameter_to_report_is_the_weight() -> None:
    assert forward.weight_of(use("fc", parameters=("weights.bias", "fc.weight"))) == "fc.weight"
    assert forward.weight_of(use("fc", parameters=("fc.bias", "fc.scale"))) == "fc.bias"
    assert forward.weight_of(use("fc", parameters=())) is None


# -- Z5 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "verb", "severity"),
    [
        (0.9e4, None, None),
        (1.1e4, "explode", "warn"),
        (1.1e7, "explode", "fail"),
        (0.9e-4, "vanish", "warn"),
        (0.9e-7, "vanish", "fail"),
    ],
)
def test_gradients_are_compared_by_their_norms(first: float, verb: str | None, severity: str | None) -> None:
    """A norm is rms times the root of the count: 2 * sqrt(16) = 8 at the last of the layers."""
    sizes = [stats(first * 8 / 2, count=4), stats(0.0), stats(math.inf), stats(1.0), stats(2.0, count=16)]
    found = list(backward.findings(evidence(*(use(f"fc{n}", gradient=size) for n, size in enumerate(sizes)))))
    assert [one.severity.value for one in found] == ([] if severity is None else [severity])
    for one in found:
        assert (one.rule.id, one.parameter, one.value) == ("Z504", "fc0.weight", pytest.approx(first))
        limit = {"warn": 1e4, "fail": 1e7}[one.severity.value]
        assert one.limit == pytest.approx(limit if first > 1 else 1 / limit)
        assert one.message == f"gradients {verb}: their norm is {first * 8:.3g} at fc0 and 8 at fc4"


def test_two_gradients_are_no_path_and_attention_is_left_out() -> None:
    small, large = stats(1.0), stats(1e9)
    assert ids(backward.findings(evidence(use("a", gradient=large), use("b"), use("c", gradient=small)))) == []
    outer = [use(name, gradient=small) for name in ("a", "b", "c")]
    assert ids(backward.findings(evidence(use("attn.q", gradient=large, scored=True), *outer))) == []
    assert ids(backward.findings(evidence(use("attn.q", gradient=large), *outer))) == ["Z504"]


def test_what_is_used_many_times_has_one_gradient() -> None:
    """By hypot(3e-3, 4) = 4 of the first layer's uses, not by the 3e-3 of the first of them."""
    sizes = [stats(size, count=1) for size in (3e-8, 4.0, 1.0, 2.0)]
    uses = [use(name, gradient=size) for name, size in zip(("fc", "fc#2", "other", "out"), sizes, strict=True)]
    alone = [replace(one, module="fc#2") if one.layer.name == "fc#2" else one for one in uses]
    shared = [replace(one, module="fc", layer=replace(one.layer, parameters=("w",))) for one in uses[:2]] + uses[2:]
    assert ids(backward.findings(evidence(*shared))) == []
    assert ids(backward.findings(evidence(*alone))) == ["Z504"]


def test_parameters_without_a_gradient() -> None:
    def of(one: TensorFacts, *uses: Use, **changes: Any) -> list[str]:
        return ids(backward.findings(evidence(*uses, tensors=(one,), **changes)))

    none = {"gradient_stats": None}
    assert of(tensor("w")) == []
    assert of(tensor("w", **none)) == of(tensor("w", used=False, **none)) == ["Z501"]
    assert of(tensor("w", **none, shape=(0, 4))) == []
    assert of(tensor("w", **none, detached=True)) == ["Z502"]
    assert of(tensor("w", **none, detached=True, used=False)) == ["Z501"]
    assert of(tensor("fc.weight", **none), use("fc", attached=False)) == ["Z502"]
    assert of(tensor("fc.weight", **none), use("fc", attached=False), use("fc", attached=True)) == ["Z501"]
    assert of(tensor("fc.weight", **none), use("fc", attached=False), differentiable=False) == ["Z503"]
    assert of(tensor("w", **none, detached=True), differentiable=False) == ["Z503", "Z502"]
    assert of(tensor("w", trainable=False, **none)) == ["Z505"]
    assert of(tensor("w", trainable=False, kind=Kind.BUFFER, **none)) == []
    assert of(tensor("w", kind=Kind.BUFFER, **none)) == []


def test_why_nothing_is_learned() -> None:
    for one, text in ((tensor("w"), "gets a gradient"), (tensor("w", kind=Kind.BUFFER), "is trainable")):
        (found,) = backward.findings(evidence(tensors=(one,), differentiable=False))
        assert found.message == f"no {'trainable ' if one.slot.kind is Kind.WEIGHT else ''}parameter {text}"


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (1, "1 parameter is frozen: a"),
        (4, "4 parameters are frozen: a, b, c, d"),
        (5, "5 parameters are frozen: a, b, c, d, ..."),
    ],
)
def test_frozen_parameters_are_named_up_to_four(count: int, text: str) -> None:
    frozen = tuple(tensor(name, trainable=False, gradient_stats=None) for name in "abcde"[:count])
    (found,) = backward.findings(evidence(tensors=frozen))
    assert found.message == text


def test_weights_that_stay_still() -> None:
    later = Later(steps=3, still=frozenset({"fc.weight"}))

    def of(one: TensorFacts, *uses: Use, later: Later | None = later) -> list[str]:
        return ids(backward.findings(evidence(*uses, tensors=(one,), later=later)))

    still: dict[str, Any] = {"gradient_stats": stats(0.0, zeros=1.0)}
    zero: dict[str, Any] = still | {"stats": stats(0.0, zeros=1.0)}
    assert of(tensor("fc.weight", **still), use("fc")) == ["Z506"]
    assert of(tensor("fc.weight", **still), use("fc"), later=None) == []
    assert of(tensor("fc.weight", **still), use("other")) == ["Z501"]
    assert of(tensor("fc.weight", **zero), use("fc")) == []
    assert of(tensor("fc.weight"), use("fc")) == []
    assert of(tensor("fc.weight", **still, shape=(4,)), use("fc")) == []
    assert of(tensor("fc.weight", **still), use("fc"), later=Later(steps=3, still=frozenset())) == []
    silent = use("fc", output=stats(0.0, zeros=1.0))
    assert of(tensor("fc.weight", **still, kind=Kind.EMBEDDING), silent) == ["Z501"]
    assert of(tensor("fc.weight", **still), silent) == ["Z506"]
    assert of(tensor("fc.weight", **zero, kind=Kind.EMBEDDING), silent) == []


def test_how_long_a_zero_was_observed() -> None:
    steps, none = Later(steps=3, still=frozenset()), Later(steps=0, still=frozenset())
    assert backward.so_far(steps) == "still is after 3 steps of gradient descent"
    assert backward.so_far(steps, "are") == "still are after 3 steps of gradient descent"
    assert backward.so_far(none) == "no other has one that is not zero, so that nothing ever moves"


def test_gradients_that_are_not_finite() -> None:
    def of(*uses: Use, **changes: Any) -> list[Finding]:
        return list(
            backward.findings(
                evidence(
                    *uses,
                    tensors=(tensor("a", gradient_stats=bad), tensor("b"), tensor("c", gradient_stats=bad)),
                    **changes,
                )
            )
        )

    bad = stats(nonfinite=2)
    (found,) = of()
    assert (found.rule.id, found.parameter, found.layer) == ("Z507", "c", None)
    assert "the gradients of 2 parameters are NaN or infinite, that of a first" in found.message
    (found,) = of(
        use("x", gradient=bad), use("v", gradient=bad), use("y", gradient=bad), use("z", gradient=stats()), use("end")
    )
    assert (found.parameter, found.layer) == ("y.weight", "y")
    assert of(use("x", output=bad)) == of(output_nonfinite=1) == []
    assert ids(of(use("x", output=bad, masked=2))) == ["Z507"]
    assert of(loss=Loss(value=math.nan, expected=None, classes=None)) == []
    assert ids(of(loss=Loss(value=1.0, expected=None, classes=None))) == ["Z507"]
    assert ids(backward.findings(evidence(tensors=(tensor("b"), tensor("c", gradient_stats=None, used=False))))) == [
        "Z501"
    ]


# -- Z6 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("classes", "value", "expected", "found"),
    [
        (10, math.log(10) + 0.9, math.log(10) + 0.9, []),
        (10, math.log(10) + 1.1, math.log(10) + 1.1, [("Z601", "warn", math.log(10) + 1)]),
        (10, math.log(10) + 2.2, math.log(10) + 2.2, [("Z601", "warn", math.log(10) + 1)]),
        (10, math.log(10) + 2.4, math.log(10) + 2.4, [("Z601", "fail", 2 * math.log(10))]),
        (2, math.log(2) + 0.9, math.log(2) + 0.9, []),
        (2, math.log(2) + 1.1, math.log(2) + 1.1, [("Z601", "fail", math.log(2) + 1)]),
        (1, 9.0, 9.0, []),
        (None, 9.0, 9.0, []),
        (10, 9.0, None, []),
        (10, math.inf, 3.0, [("Z601", "fail", None)]),
        (10, math.log(10) - 0.24, math.log(10), []),
        (10, math.log(10) - 0.25, math.log(10), []),  # an exact difference
        (10, math.log(10) - 0.26, math.log(10), [("Z602", "warn", math.log(10))]),
        (10, math.log(10) + 0.26, math.log(10), [("Z602", "warn", math.log(10))]),
        # logits of variance 2 * 0.5 make the loss of a batch vary: 1 more is allowed
        (10, math.log(10) + 0.5 - 1.24, math.log(10) + 0.5, []),
        (10, math.log(10) + 0.5 - 1.26, math.log(10) + 0.5, [("Z602", "warn", math.log(10) + 0.5)]),
        # logits that explode make it vary as much as they are large
        (10, 1e9 + 2.3e8, 1e9, [("Z601", "fail", 2 * math.log(10))]),
        (10, 1e9 - 4.7e8, 1e9, [("Z601", "fail", 2 * math.log(10))]),
    ],
)  # fmt: skip
def test_initial_losses(
    classes: int | None, value: float, expected: float | None, found: list[tuple[Any, ...]]
) -> None:
    given = evidence(loss=Loss(value=value, expected=expected, classes=classes))
    got = [(one.rule.id, one.severity.value, one.limit) for one in head.findings(given)]
    assert [one[:2] for one in got] == [one[:2] for one in found]
    assert [one[2] for one in got] == [None if one[2] is None else pytest.approx(one[2]) for one in found]
    if found and found[0][0] == "Z602":
        assert f"{'below' if value < expected else 'above'} its expected value" in next(head.findings(given)).message  # type: ignore[operator]
        assert ids(head.findings(replace(given, paired=True))) == []


SQUASHED = (Criterion(function="cross_entropy", shape=(64, 4), target=(64,), holds="probabilities"),)


def test_the_head_is_named_by_its_weight() -> None:
    made = [use("fc"), use("out", head=True, parameters=("out.bias", "out.weight")), use("late", head=True)]
    (found,) = losses.findings(
        evidence(*made, criteria=SQUASHED, head=frozenset({"out.bias", "out.weight", "late.weight"}))
    )
    assert (found.rule.id, found.parameter, found.layer) == ("Z605", "out.weight", "out")
    (found,) = losses.findings(evidence(criteria=SQUASHED, head=frozenset({"w"})))
    assert (found.parameter, found.layer) == ("w", None)
    (found,) = losses.findings(evidence(use("out", head=True), criteria=SQUASHED, head=frozenset({"w"})))
    assert (found.parameter, found.layer) == ("w", "out")


@pytest.mark.parametrize(
    ("entropy", "largest", "found"),
    [
        (0.5, 100.0, []),
        (0.49, 1.0, [("Z603", "warn", 0.5)]),
        (0.1, 1.0, [("Z603", "warn", 0.5)]),
        (0.09, 101.0, [("Z603", "fail", 0.1), ("Z604", "warn", 100.0)]),
        (None, 101.0, []),
        (0.01, None, []),
    ],
)
def test_attention(entropy: float | None, largest: float | None, found: list[tuple[Any, ...]]) -> None:
    made = use("attn", entropy=entropy, largest_logit=largest)
    assert [(one.rule.id, one.severity.value, one.limit) for one in head.findings(evidence(made))] == found


# -- Z8 --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(
    ("scales", "severity"), [(5.9, None), (6.1, Severity.WARN), (32.1, Severity.FAIL), (900, Severity.FAIL)]
)
def test_jacobians_multiply(scales: float, severity: Severity | None, sign: int) -> None:
    chain = Chain(layers=("a", "b", "c", "out"), squares=(*(math.exp(sign * scales / 3),) * 3, 1e-9))
    out = use("out", head=True)
    found = list(full.findings(evidence(use("a"), out, jacobians=(chain,))))
    assert [one.severity for one in found] == ([] if severity is None else [severity])
    for one in found:
        assert (one.rule.id, one.layer, one.value) == ("Z801", "c", pytest.approx(scales))
        assert f"the 3 Jacobians from a to c multiply to {math.exp(sign * min(scales, 700)):.3g}" in one.message
    short = Chain(layers=("b", "c", "out"), squares=(1e-9, 1e-9, 1e-9))
    assert list(full.findings(evidence(out, jacobians=(short,)))) == []


@pytest.mark.parametrize(("ratio", "severity"), [(1.4, None), (1.6, Severity.WARN), (8.1, Severity.FAIL)])
def test_spectral_norms_are_compared_with_the_expected_ones(ratio: float, severity: Severity | None) -> None:
    found = list(full.findings(evidence(spectral={"w": (ratio * 3, 3.0)})))
    assert [one.severity for one in found] == ([] if severity is None else [severity])
    assert all(one.value == pytest.approx(ratio) for one in found)


def points(factory: str, layer: str, values: dict[int, float], step: int = 0) -> list[Point]:
    group = "" if layer == "gradient norm" else "hidden"
    return [
        Point(factory=factory, group=group, size=n, layer=layer, step=step, value=value) for n, value in values.items()
    ]


def power(exponent: float) -> dict[int, float]:
    return {n: 3.0 * n**exponent for n in (32, 128, 512)}


def test_slopes_over_width() -> None:
    assert log_slope(power(0.7)) == pytest.approx(0.7, rel=1e-12)
    assert log_slope({2: 1.0, 4: 8.0, 8: 1.0}) == pytest.approx(0.0, abs=1e-12)
    made = [
        *points("width", "fc", power(0.1)),
        *points("width", "fc", power(0.5), 2),
        *points("width", "fc", power(0.4), 3),
    ]
    made += points("width", "first", power(0.3)) + points("width", "flat", power(0.24), 1)
    made += points("width", "part", {32: 1.0, 512: 1e9}, 1) + points("width", "zero", {32: 0.0, 128: 1.0, 512: 9.0})
    made += points("width", "masked", {32: math.inf, 128: 1.0, 512: math.inf}) + points(
        "depth", "deep", {4: 1.0, 8: 1.0}
    )
    found = list(full.findings(evidence(points=tuple(made))))
    assert [(one.rule.id, one.layer, one.value) for one in found] == [
        ("Z803", "fc", pytest.approx(0.5)),
        ("Z803", "first", pytest.approx(0.3)),
    ]
    assert [one.message.partition("^")[2] for one in found] == ["0.50 after 2 steps", "0.30 at the start"]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_what_overflows_at_some_size_grows(bad: float) -> None:
    """In the widest model, or in training at all widths; a mask, infinite from the start, does not count."""
    wide = [*points("width", "fc", power(0.0)), *points("width", "fc", {32: 1.0, 128: 1.0, 512: bad}, 1)]
    always = [*points("width", "fc", power(0.0)), *points("width", "fc", dict.fromkeys((32, 128, 512), bad), 1)]
    for made, size in ((wide, 512), (always, 32)):
        assert [(one.verdict, one.steepest, one.step) for one in slopes(made, Thresholds())] == [("grows", math.inf, 1)]
        (one,) = full.findings(evidence(points=tuple(made)))
        assert (one.rule.id, one.message) == ("Z803", f"its rms is not finite at width {size} after 1 step")
    masked = [*points("width", "fc", dict.fromkeys((32, 128, 512), bad)), *points("width", "fc", power(0.9), 1)]
    assert [one.verdict for one in slopes(masked, Thresholds())] == ["grows"]
    assert slopes(masked[:3], Thresholds()) == ()


def test_what_dies_at_some_size_shrinks() -> None:
    made = [*points("width", "fc", power(0.0)), *points("width", "fc", {32: 1.0, 128: 1.0, 512: 0.0}, 1)]
    assert [(one.verdict, one.exponents[1]) for one in slopes(made, Thresholds())] == [("shrinks", -math.inf)]
    assert list(full.findings(evidence(points=tuple(made)))) == []


def test_slopes_over_depth() -> None:
    made = [
        *points("depth", "h.*", power(0.5)),
        *points("depth", "h.*", power(0.9), 3),
        *points("depth", "nf", power(0.2)),
    ]
    found = list(full.findings(evidence(points=tuple(made))))
    assert [(one.rule.id, one.layer, one.value) for one in found] == [("Z805", "h.*", pytest.approx(0.9))]
    assert found[0].message == "its rms grows as depth^0.90 after 3 steps"


def test_the_exponents_of_a_class_are_the_mean_of_its_layers() -> None:
    """The verdict is of the steepest layer; where no layer grows, of the mean after the last step."""
    made = [
        *points("width", "a", power(0.1)), *points("width", "a", power(0.3), 1),
        *points("width", "b", power(-0.5)), *points("width", "b", power(-0.1), 1),
        *points("width", "zero", dict.fromkeys((32, 128, 512), 0.0)), *points("width", "zero", power(0.25), 1),
    ]  # fmt: skip
    (grown,) = slopes(made, Thresholds())
    assert (grown.factory, grown.group, grown.layers) == ("width", "hidden", 3)
    assert grown.exponents == (pytest.approx(-0.2), pytest.approx(0.15))
    assert (grown.layer, grown.step, grown.steepest, grown.verdict) == ("a", 1, pytest.approx(0.3), "grows")
    assert [one.verdict for one in slopes(made, Thresholds(width_slope=0.31))] == ["flat"]
    small = [*points("depth", "b", power(0.0)), *points("depth", "b", power(-0.3), 1)]
    assert [(one.factory, one.verdict) for one in slopes(small, Thresholds())] == [("depth", "shrinks")]
    exactly = slopes(small, Thresholds())[0].exponents[-1]
    assert [one.verdict for one in slopes(small, Thresholds(depth_growth=-exactly))] == ["flat"]
    later = [*points("depth", "c", power(0.1), 1)]
    assert math.isnan(slopes(later, Thresholds())[0].exponents[0])


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize(("factor", "found"), [(1.09, False), (1.11, True)])
def test_rates_over_depth_are_factors_per_layer(factor: float, found: bool, sign: int) -> None:
    """Growth and decay alike; the sizes are not evenly spaced, and the values do not begin at 1."""
    values = {n: 0.2 * factor ** (sign * n) for n in (4, 8, 20)}
    got = list(full.findings(evidence(points=tuple(points("depth", "gradient norm", values)))))
    assert [(one.rule.id, one.value) for one in got] == ([("Z804", pytest.approx(math.log(factor)))] if found else [])
    for one in got:
        ends = f"{values[4]:.3g} at depth 4, {values[20]:.3g} at depth 20"
        assert one.message.endswith(f"by a factor of {factor**sign:.3g} per layer: {ends}")


def test_rates_over_depth_are_fitted_by_least_squares() -> None:
    """Against the formula of a fit over 1, 2, 3: half the difference of the last and the first."""
    got = list(
        full.findings(evidence(points=tuple(points("depth", "gradient norm", {1: 1.0, 2: math.e**5, 3: math.e}))))
    )
    assert [one.value for one in got] == [pytest.approx(0.5)]
    for values in ({4: 1.0}, {4: 0.0, 8: 1e9}, {4: 1.0, 8: math.inf}, {4: 1.0, 8: math.nan}):
        assert list(full.findings(evidence(points=tuple(points("depth", "gradient norm", values))))) == []
    assert len(list(full.findings(evidence(points=tuple(points("depth", "gradient norm", {4: 1.0, 8: 1e9})))))) == 1
    assert list(full.findings(evidence(points=tuple(points("width", "gradient norm", {4: 1.0, 8: 1.0}))))) == []


def test_what_does_not_change_has_not_passed_a_limit_of_zero() -> None:
    made = points("depth", "gradient norm", {4: 1.0, 8: 1.0}) + points("width", "fc", {32: 1.0, 128: 1.0})
    limits = Thresholds(depth_slope=0.0, width_slope=0.0, depth_growth=0.0)
    made += points("depth", "h.*", {4: 2.0, 8: 2.0})
    assert list(full.findings(evidence(points=tuple(made), thresholds=limits))) == []
