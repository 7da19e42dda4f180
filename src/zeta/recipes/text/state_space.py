"""State space models."""

from __future__ import annotations

import math
from typing import Final

from torch import nn

from zeta.errors import SpecError
from zeta.initializers import Constant, Initializer, Normal, Ones, Uniform
from zeta.recipes.parts import Law, choice, initializer_range, law, norms_and_biases, positive, recipe
from zeta.recipes.parts import layers as number_of_layers
from zeta.recipes.programs import Steps, wide
from zeta.rules import Match, Rule, Rules, Where, glob, kind, module, role

_CONVOLUTION: Final = module(nn.Conv1d) | glob("*.conv1d_{weight,bias}")
_OUTPUTS: Final = Where("output projections of mixers", glob("*.{out_proj,proj_out,out}.weight"))
_A_LOG: Final = Where("A_log", glob("*.A_log"))
_D: Final = Where("D", glob("*.D"))


@recipe
def mamba(
    model: nn.Module,
    *,
    branches: int = 1,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    dt_floor: float = 1e-4,
    dt_init: str = "random",
    dt_scale: float = 1.0,
    layers: int | None = None,
) -> Rules:
    """Mamba: A_log = ln(1..N), D = 1, steps log-uniform on dt_min to dt_max, weights uniform on ±1/sqrt(fan_in).

    N is the size of the state. The projection to the steps has the bias x + ln(1 - exp(-x)), which is the inverse of
    softplus, of the steps x = max(exp(u), dt_floor), with u uniform on ln(dt_min) to ln(dt_max). Its weight is uniform
    on ±c/sqrt(R), where R is the number of its inputs. Output projections of mixers and MLPs are uniform on
    ±1/sqrt(fan_in r L), with L layers of r residual branches. Embeddings are N(0, s²), where s is the config's
    ``initializer_range``, or 0.02; a head that is tied to them is drawn with them. Norms are 1, biases 0, except that
    those of convolutions are uniform on ±1/sqrt(fan_in), as torch draws them.

    With an MLP after each mixer, r is 2. The released code divides by sqrt(L) there too, because its language model
    initializes the backbone a second time, as if r were 1. Models of transformers differ: their linear layers are N(0,
    s²) with s = 0.1, the convolution's biases are 0, and output projections are divided only if the config says so.

    Options:
        branches: r, 1 for a mixer alone, 2 for a mixer and an MLP
        dt_min: the smallest step
        dt_max: the largest step
        dt_floor: smaller steps are raised to it
        dt_init: random, or constant for the weight c/sqrt(R) of the projection to the steps
        dt_scale: c
        layers: L; by default as the names count

    Source: state-spaces/mamba, modules/mamba_simple.py and models/mixer_seq_simple.py; Gu and Dao 2023
    (arXiv:2312.00752).
    """
    choice("mamba", "dt_init", dt_init, ("random", "constant"))
    positive("mamba", dt_scale=dt_scale)
    random = dt_init == "random"

    def projection(match: Match) -> Initializer:
        bound = dt_scale / math.sqrt(match.fans.fan_in)
        return Uniform(-bound, bound) if random else Constant(bound)

    weight = law("uniform on ±c/sqrt(R)" if random else "c/sqrt(R)", projection)
    return Rules(
        [
            Rule(_A_LOG, law("ln(1..N)", _logarithms)),
            Rule(_D, Ones()),
            Rule(Where("projections to the steps", glob("*.dt_proj.weight")), weight),
            Rule(
                Where("biases of the projections to the steps", glob("*.dt_proj.bias")),
                _steps("mamba", dt_min, dt_max, dt_floor),
            ),
            *_around("mamba", branches, layers),
        ]
    )


@recipe
def mamba2(
    model: nn.Module,
    *,
    branches: int = 1,
    a_min: float = 1.0,
    a_max: float = 16.0,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    dt_floor: float = 1e-4,
    layers: int | None = None,
) -> Rules:
    """Mamba-2: A_log = ln(U(1, 16)), D = 1, steps log-uniform on dt_min to dt_max, weights uniform on ±1/sqrt(fan_in).

    ``dt_bias`` is x + ln(1 - exp(-x)), the inverse of softplus, of the steps x = max(exp(u), dt_floor), with u uniform
    on ln(dt_min) to ln(dt_max). Output projections of mixers and MLPs are uniform on ±1/sqrt(fan_in r L), with L layers
    of r residual branches. Embeddings are N(0, s²), where s is the config's ``initializer_range``, or 0.02; a head that
    is tied to them is drawn with them. Norms are 1, biases 0, except that those of convolutions are uniform on
    ±1/sqrt(fan_in), as torch draws them.

    With an MLP after each mixer, r is 2; the released code has 1 there too, as for Mamba. Models of transformers differ
    as those for Mamba do, and have A_log = ln(1..H) with H heads.

    Options:
        branches: r, 1 for a mixer alone, 2 for a mixer and an MLP
        a_min: the smallest A
        a_max: the largest A
        dt_min: the smallest step
        dt_max: the largest step
        dt_floor: smaller steps are raised to it
        layers: L; by default as the names count

    Source: state-spaces/mamba, modules/mamba2.py and models/mixer_seq_simple.py; Dao and Gu 2024 (arXiv:2405.21060).
    """
    return Rules(
        [
            *state_space_rules("mamba2", a_min, a_max, dt_min, dt_max, dt_floor, convolutions=False),
            *_around("mamba2", branches, layers),
        ]
    )


def state_space_rules(
    name: str,
    a_min: float = 1.0,
    a_max: float = 16.0,
    dt_min: float = 0.001,
    dt_max: float = 0.1,
    dt_floor: float = 1e-4,
    *,
    convolutions: bool = True,
) -> list[Rule]:
    """The rules of Mamba-2 for what is no projection."""
    _check_range(name, a_min=a_min, a_max=a_max)

    def decay(match: Match) -> Initializer:
        steps = Steps(wide(match.dtype))
        return steps.stored(steps.add("log", match.shape, steps.draw(Uniform(a_min, a_max), match.shape, 0)), match)

    return [
        Rule(_A_LOG, law(f"ln(U({a_min:g}, {a_max:g}))", decay)),
        Rule(_D, Ones()),
        Rule(Where("biases of the steps", glob("*.dt_bias")), _steps(name, dt_min, dt_max, dt_floor)),
        *(_convolutions() if convolutions else []),
    ]


def _around(name: str, branches: int, layers: int | None) -> list[Rule]:
    """The rules for projections, embeddings, convolutions, norms and other biases."""
    choice(name, "branches", branches, (1, 2))

    def linear(match: Match) -> Initializer:
        return _uniform(match.fans.fan_in)

    def output(match: Match) -> Initializer:
        if match.role == "mlp_down" and branches == 1:
            raise SpecError("an MLP is a second residual branch of its layer; give branches=2")
        return _uniform(match.fans.fan_in * branches * number_of_layers(match, layers))

    plain, last = law("uniform on ±1/sqrt(fan_in)", linear), law("uniform on ±1/sqrt(fan_in r L)", output)
    into = glob("*.{in_proj,x_proj}.weight") | role("mlp_up") | role("mlp_gate") | role("mlp_gate_up")
    embeddings = law("N(0, s²), s = initializer_range", lambda match: Normal(initializer_range(match)))
    return [
        *_convolutions(),
        Rule(Where("MLP down projections", role("mlp_down")), last, optional=branches == 1),
        Rule(_OUTPUTS, last),
        Rule(Where("other projections", into), plain),
        Rule(Where("embeddings", role("embedding")), embeddings, optional=True),
        Rule(Where("output head", role("readout")), plain, optional=True),
        *norms_and_biases(),
    ]


def _convolutions() -> list[Rule]:
    """As torch draws its convolutions."""

    def bias(match: Match) -> Initializer:
        weight = getattr(match.module, match.local_name.replace("bias", "weight"))
        return _uniform(math.prod(weight.shape[1:]))

    formula = "uniform on ±1/sqrt(fan_in)"
    return [
        Rule(
            Where("convolutions", _CONVOLUTION & kind("weight")),
            law(formula, lambda match: _uniform(math.prod(match.shape[1:]))),
        ),
        Rule(Where("biases of convolutions", _CONVOLUTION & kind("bias")), law(formula, bias), optional=True),
    ]


def _uniform(number: int | float) -> Initializer:
    return Uniform(-(number**-0.5), number**-0.5)


def _check_range(name: str, **ends: float) -> None:
    positive(name, **ends)
    (low, smallest), (high, largest) = ends.items()
    if not smallest < largest:
        raise SpecError(f"the recipe {name!r}: {low} must be below {high}, got {smallest!r} and {largest!r}")


# -- laws that no initializer has, as programs -------------------------------------------------------------------------


def _logarithms(match: Match) -> Initializer:
    """The logarithms of 1 to N, in each row."""
    steps, count = Steps(wide(match.dtype)), match.shape[-1]
    row = steps.add("arange", (count,), start=1, end=count + 1, step=1)
    one = (*[1] * (len(match.shape) - 1), count)
    rows = steps.add("expand", match.shape, steps.add("reshape", one, row, shape=one), shape=match.shape)
    return steps.stored(steps.add("log", match.shape, rows), match)


def _steps(name: str, dt_min: float, dt_max: float, dt_floor: float) -> Law:
    """The inverse of softplus of log-uniform steps."""
    _check_range(name, dt_min=dt_min, dt_max=dt_max)
    positive(name, dt_floor=dt_floor)

    def inverse(match: Match) -> Initializer:
        steps, shape = Steps(wide(match.dtype)), match.shape
        low, high = math.log(dt_min), math.log(dt_max)
        u = steps.add("mul", shape, steps.draw(Uniform(0.0, 1.0), shape, 0), high - low)
        x = steps.add("clamp", shape, steps.add("exp", shape, steps.add("add", shape, u, low)), dt_floor, None)
        difference = steps.add("neg", shape, steps.add("expm1", shape, steps.add("neg", shape, x)))
        return steps.stored(steps.add("add", shape, x, steps.add("log", shape, difference)), match)

    return law("x + ln(1 - exp(-x)), x = max(exp(U(ln dt_min, ln dt_max)), dt_floor)", inverse)
