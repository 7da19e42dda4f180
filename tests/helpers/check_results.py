"""Results of checks that never ran, for the tests of what shows them: healthy and sick, small and large, odd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from zeta.check.facts.results import Finding, Histogram, Layer, Loss, Parameter, Point, Results, Rule, Severity, Stats
from zeta.check.facts.thresholds import Thresholds
from zeta.check.measure.sizes.slopes import slopes

FAIL, WARN, NOTE = Severity.FAIL, Severity.WARN, Severity.NOTE

MEMORY = Rule(
    id="Z102",
    name="not-finite",
    severity=FAIL,
    summary="The parameter holds NaN or infinite values.",
    advice="Initialize it, and look at what divides by zero.",
    source="IEEE 754",
)
STD = Rule(
    id="Z201",
    name="std-off-plan",
    severity=FAIL,
    summary="The values spread more or less than was planned.",
    advice="Look for code that writes the parameter after the plan.",
    source="Wilson & Hilferty 1931",
)
UNITS = Rule(
    id="Z301",
    name="duplicated-units",
    severity=FAIL,
    summary="Units that compute the same and receive the same gradient stay the same for ever.",
    advice="Draw every row on its own.",
    source="Goodfellow et al. 2016, 8.4",
)
BENIGN = Rule(
    id="Z302",
    name="zero-output",
    severity=NOTE,
    summary="Zeros whose gradient differs from unit to unit separate in the first step.",
    advice="Nothing to do.",
    source="Zhang et al. 2019",
)
GROWTH = Rule(
    id="Z401",
    name="growing-forward",
    severity=WARN,
    summary="The mean square of what layers put out grows with depth.",
    advice="Scale residual outputs by 1/sqrt(2 L).",
    source="Hanin & Rolnick 2018",
)
NO_GRADIENT = Rule(
    id="Z502",
    name="no-gradient",
    severity=WARN,
    summary="No gradient arrives.",
    advice="Use it, or freeze it.",
    source="reverse-mode differentiation",
)
VERSIONS = (("zeta", "0.1.0"), ("torch", "2.13.0"))
BINS = 40


def histogram(std: float, count: int = 4096, mean: float = 0.0) -> Histogram | None:
    """A normal one, by its density."""
    if not (math.isfinite(std) and math.isfinite(mean)):
        return None
    if std == 0:
        return Histogram(
            low=mean - 0.5, high=mean + 0.5, counts=(*([0] * (BINS // 2)), count, *([0] * (BINS // 2 - 1)))
        )
    places = [-4 + 8 * (i + 0.5) / BINS for i in range(BINS)]
    densities = [math.exp(-x * x / 2) for x in places]
    counts = tuple(round(count * density / sum(densities)) for density in densities)
    return Histogram(low=mean - 4 * std, high=mean + 4 * std, counts=counts)


def stats(std: float, *, mean: float = 0.0, count: int = 4096, nonfinite: int = 0) -> Stats:
    return Stats(
        count=count,
        mean=mean,
        std=std,
        low=mean - 4 * std,
        high=mean + 4 * std,
        zeros=1.0 if std == 0 and mean == 0 else 0.0,
        nonfinite=nonfinite,
        histogram=histogram(std, count, mean),
    )


def layer(name: str, kind: str = "Linear", *, rms: float = 1.0, gradient: float | None = 1e-3, **rest: Any) -> Layer:
    weights = (f"{name}.weight", f"{name}.bias") if kind in ("Linear", "LayerNorm") else ()
    return Layer(
        **{
            "name": name,
            "kind": kind,
            "parameters": weights,
            "output": stats(rms),
            "gradient": None if gradient is None else stats(gradient),
            "factor": 1.0,
            **rest,
        }
    )


def parameter(
    name: str, *, std: float = 0.02, planned: float | None = 0.02, units: int | None = 64, **rest: Any
) -> Parameter:
    bias = name.endswith("bias")
    return Parameter(
        **{
            "name": name,
            "ties": (),
            "shape": (64,) if bias else (64, 64),
            "dtype": "float32",
            "trainable": True,
            "buffer": False,
            "initializer": None if planned is None else "Zeros()" if bias else f"Normal(std={planned})",
            "planned_mean": None if planned is None else 0.0,
            "planned_std": planned,
            "values": stats(std),
            "gradient": stats(0.002),
            "units": units,
            "distinct": units,
            "update": 0.01,
            **rest,
        }
    )


def finding(rule: Rule, message: str, severity: Severity | None = None, **rest: Any) -> Finding:
    rest.update((name, float(rest[name])) for name in ("value", "limit") if name in rest)
    return Finding(rule=rule, severity=severity or rule.severity, message=message, advice=rule.advice, **rest)


def results(
    layers: Sequence[Layer], parameters: Sequence[Parameter], findings: Sequence[Finding] = (), **rest: Any
) -> Results:
    return Results(
        **{
            "model": "Net",
            "level": "fast",
            "findings": tuple(sorted(findings, key=lambda found: [FAIL, WARN, NOTE].index(found.severity))),
            "suppressed": (),
            "layers": tuple(layers),
            "parameters": tuple(parameters),
            "loss": Loss(value=2.31, expected=2.303, classes=10),
            "seconds": 0.42,
            "versions": VERSIONS,
            "device": "cpu",
            "seed": 0,
            **rest,
        }
    )


def owned(layers: Sequence[Layer]) -> list[Parameter]:
    """A parameter for each name that the layers own: biases of zeros, weights of 0.02."""
    names = dict.fromkeys(name for one in layers for name in one.parameters)
    return [
        parameter(name, std=0.0, planned=0.0, units=None) if name.endswith("bias") else parameter(name)
        for name in names
    ]


def healthy() -> Results:
    """Ten layers with nothing the matter but a note."""
    layers = []
    for i in range(5):
        layers.append(layer(f"layers.{i}", rms=1.0 + 0.03 * i, gradient=1e-3 * (1.05 - 0.02 * i)))
        layers.append(layer(f"layers.{i}:relu", "relu", rms=0.7 + 0.02 * i, gradient=1.1e-3, dead=0.01, factor=0.5))
    note = finding(BENIGN, "all 64 units are zero, and 64 different gradients reach them", parameter="layers.4.weight")
    return results(layers, owned(layers), [note])


BLOCK = (
    ("norm1", "LayerNorm"),
    ("attn.q", "Linear"),
    ("attn.k", "Linear"),
    ("attn.v", "Linear"),
    ("attn:scaled_dot_product_attention", "scaled_dot_product_attention"),
    ("attn.out", "Linear"),
    ("norm2", "LayerNorm"),
    ("mlp.fc1", "Linear"),
    ("mlp:gelu", "gelu"),
    ("mlp.fc2", "Linear"),
)


def sick(blocks: int = 100) -> Results:
    """A thousand layers: growing forward, duplicated units, a weight that is not finite, one without gradient."""
    layers, findings = [], []
    for i in range(blocks):
        for place, kind in BLOCK:
            deep = i / max(blocks - 1, 1)
            attention = {"entropy": 0.98, "largest_logit": 0.4} if "scaled" in kind else {}
            rms = 10 ** (6 * deep**2) * (1.0 if "norm" not in place else 0.8)
            block = {"block": place == "mlp.fc2"}
            gradient = 10 ** (-7 * (1 - deep))
            layers.append(layer(f"blocks.{i}.{place}", kind, rms=rms, gradient=gradient, **attention, **block))
    parameters = {one.name: one for one in owned(layers)}
    for i in range(0, blocks, 7):
        name = f"blocks.{i}.mlp.fc1.weight"
        parameters[name] = replace(parameters[name], distinct=1 + i % 64)
        message = f"64 units compute {1 + i % 64} different functions and receive the same gradients"
        findings.append(finding(UNITS, message, parameter=name, value=1 + i % 64, limit=64))
    for i in range(60, blocks):
        message = f"the mean square is {1.1 + 0.01 * i:.2f} times that of the block before"
        findings.append(finding(GROWTH, message, layer=f"blocks.{i}.mlp.fc2", value=1.1 + 0.01 * i, limit=1.1))
    broken = "blocks.33.attn.q.weight"
    if broken in parameters:
        parameters[broken] = replace(parameters[broken], values=stats(math.nan, nonfinite=12), update=math.nan)
        findings.append(finding(MEMORY, "12 of 4,096 values are NaN", parameter=broken, value=12, limit=0))
        parameters["blocks.50.attn.k.weight"] = parameter("blocks.50.attn.k.weight", std=0.6)
        message = "std 0.6, planned 0.02 (1,640 standard errors)"
        findings.append(finding(STD, message, parameter="blocks.50.attn.k.weight", value=0.6, limit=0.0212))
    unused = parameter("unused.weight", gradient=None, update=None)
    parameters[unused.name] = unused
    findings.append(finding(NO_GRADIENT, "no gradient reaches it", parameter=unused.name))
    loss = Loss(value=89.1, expected=6.908, classes=1000)
    return results(layers, list(parameters.values()), findings, loss=loss, model="Transformer")


ODD_NAMES = (
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    'quo"ted & <b>bold</b>',
    "[bold]markup[/bold]",
    "重み.γ.weight",
    "line\u2028separator\x1b[31mred",
    "__proto__",
    "module." * 40 + "weight",
)


def odd() -> Results:
    """Names that want to be code, and numbers that are none."""
    layers = [
        Layer(
            name=name,
            kind=name[:20],
            parameters=(name,),
            output=stats(math.inf if i == 1 else 0.0 if i == 2 else 1.0, nonfinite=int(i == 1)),
            gradient=[None, stats(math.nan), stats(0.0), stats(1e-30)][i % 4],
            factor=[None, math.inf, math.nan, 0.0][i % 4],
            dead=1.0,
            saturated=0.5,
            singular=(1.0, math.inf),
        )
        for i, name in enumerate(ODD_NAMES)
    ]
    parameters = [
        parameter(
            name, ties=(f"tied to {name}",), std=[0.0, 1e-42, math.nan, -0.0][i % 4], spectral=(1.5, 1.4), units=1
        )
        for i, name in enumerate(ODD_NAMES)
    ]
    rule = replace(UNITS, name="</script>", summary="<i>summary</i>", source="A & B")
    findings = [finding(rule, f"<u>{name}</u>", parameter=name, value=math.nan, limit=-math.inf) for name in ODD_NAMES]
    points = tuple(
        Point(
            factory=factory,
            group="" if name == "gradient norm" else "<i>hidden",
            size=size,
            layer=name,
            step=step,
            value=size ** (0.5 * step),
        )
        for factory, name in (("width", ODD_NAMES[2]), ("depth", "gradient norm"))
        for size in (64, 128, 256)
        for step in (0, 1, 2)
    )
    return results(
        layers,
        parameters,
        findings,
        suppressed=(finding(GROWTH, "<s>hidden</s>", layer=ODD_NAMES[0]),),
        model="<script>alert(1)</script>",
        level="full",
        loss=Loss(value=math.nan, expected=None, classes=None),
        points=points,
        slopes=slopes(points, Thresholds()),
        skipped=(("Z603", "<no attention>"), ("Z201", "no plan"), ("Z202", "no plan")),
        seed=None,
    )


PREFIX = "multimodal_transformer.language_model.layers"
#: what stands in a block of a large model of today
LONG_BLOCK = (
    ("input_layernorm", "LayerNorm"),
    ("self_attn.query_key_value_projection", "Linear"),
    ("self_attn:scaled_dot_product_attention", "scaled_dot_product_attention"),
    ("self_attn.output_projection", "Linear"),
    ("post_attention_layernorm", "LayerNorm"),
    ("mlp.gate_up_projection", "Linear"),
    ("mlp.activation", "GELU"),
    ("mlp.down_projection", "Linear"),
)


def deep() -> Results:
    """24 blocks with long names, all columns of both tables filled, and a finding of most kinds of evidence."""
    layers: list[Layer] = []
    for i in range(24):
        for place, kind in LONG_BLOCK:
            rest: dict[str, Any] = {"singular": (0.98, 12.3456), "rms": 1.0 + 0.01 * i, "gradient": 1e-3}
            if "scaled" in kind:
                rest |= {"entropy": 0.04 if i == 11 else 0.08 if i == 12 else 0.95, "largest_logit": 3.0}
                rest |= {"attended": ("9000", "0900", "0090", "0009") if i == 11 else ("4444",) * 4}
            if kind == "GELU":
                rest |= {"dead": 0.01, "saturated": 0.99 if i == 7 else 0.02}
            layers.append(layer(f"{PREFIX}.{i}.{place}", kind, **rest))
    parameters = [replace(one, spectral=(1.53, 1.41)) for one in owned(layers)]
    wrong = f"{PREFIX}.11.self_attn.query_key_value_projection.weight"
    parameters = [replace(one, values=stats(0.06)) if one.name == wrong else one for one in parameters]
    collapsed = replace(UNITS, id="Z603", name="attention-collapsed")
    findings = [
        finding(STD, "std 0.06, planned 0.02 (3,000 standard errors)", parameter=wrong, value=3000, limit=6),
        *(
            finding(collapsed, "low entropy", layer=f"{PREFIX}.{i}.self_attn:scaled_dot_product_attention", limit=0.1)
            for i in (11, 12)
        ),
        finding(replace(UNITS, id="Z405", name="saturated"), "full", layer=f"{PREFIX}.7.mlp.activation", limit=0.9),
    ]
    return results(layers, parameters, findings, model="MultimodalTransformerForConditionalGeneration", level="full")


def empty() -> Results:
    """A model without anything in it."""
    return results([], [], loss=None, seed=None)


ALL = {"healthy": healthy, "sick": sick, "odd": odd, "deep": deep, "empty": empty}
