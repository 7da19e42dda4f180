"""Theory: mean field theory, initializations without random numbers, products of weights."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeta.base.modules import named_modules_of, named_parameters_of
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.initializers import DeltaOrthogonal, Initializer, Normal, Orthogonal, Zeros
from zeta.recipes.images.vision import vit
from zeta.recipes.parts import RECURRENT, choice, law, norm_scales, recipe, unwrapped
from zeta.recipes.programs import AttentionProgram, identity_or_hadamard
from zeta.rules import Match, Role, Rule, Rules, Where, kind, role

Activation = Callable[[Tensor], Tensor]

# -- the critical point ------------------------------------------------------------------------------------------------

_ACTIVATIONS: Final[dict[str, Activation]] = {
    "linear": lambda x: x,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "tanh": torch.tanh,
    "erf": torch.erf,
    "sin": torch.sin,
    "hard_tanh": F.hardtanh,
    "elu": F.elu,
    "selu": F.selu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
}
#: of the Gaussian integral: beyond 12 sigma there is nothing; no point is 0, where kinks are; fewer than torch divides
#: among threads
_REACH: Final = 12.0
_POINTS: Final = 24_000
#: variances between which the fixed point is looked for
_LEAST: Final = 1e-12
_MOST: Final = 1e4
#: a remainder of this size, relative to the variance, is an error of the integral
_NOTHING: Final = 1e-9
#: the variance of biases in the papers' experiments
_USUAL: Final = 2.01e-5


@recipe
def critical(model: nn.Module, *, activation: str = "tanh", bias_variance: float | None = None) -> Rules:
    """Delta-orthogonal at the critical point: orthogonal weights times sigma_w, biases N(0, sigma_b²), no norms.

    Convolutions are orthogonal at the kernel's centre and 0 elsewhere, and need at least as many outputs as inputs. For
    the activation f and z ~ N(0, 1), the variance q of the values before each activation stays what it is, and
    gradients neither grow nor shrink, where q = sigma_w² E[f(sqrt(q) z)²] + sigma_b² and sigma_w² E[f'(sqrt(q) z)²] =
    1. These points are a line; the variance of the biases chooses one. The expectations are integrated numerically,
    exact to 1e-4 where the slope jumps elsewhere than at 0, and to 1e-8 otherwise. ReLU has one point, (2, 0). With
    the usual 2.01e-5, tanh has sigma_w² = 1.05, with 0.05 it has 1.76.

    Options:
        activation: of the network: ``tanh``, ``erf``, ``relu``, ``linear``, ``leaky_relu``, ``sin``, ``hard_tanh``,
            ``elu``, ``selu``, ``gelu``, ``silu`` or ``mish``.
        bias_variance: sigma_b². 2.01e-5 by default, and 0 where there is no other: ReLU, leaky ReLU and linear.

    Source: Xiao et al. 2018 (arXiv:1806.05393); Pennington, Schoenholz & Ganguli 2017 (arXiv:1711.04735); Schoenholz
    et al. 2017 (arXiv:1611.01232).
    """
    choice("critical", "activation", activation, _ACTIVATIONS)
    weights, biases = _critical_point(activation, bias_variance)
    gain = math.sqrt(weights)

    def orthogonal(match: Match) -> Initializer:
        axes = match.axes_of()
        return DeltaOrthogonal(gain) if set(axes.fan_in) & set(axes.fan_out) else Orthogonal(gain)

    return Rules(
        [
            Rule(
                Where("weights", kind("weight") & ~RECURRENT),
                law(f"Orthogonal at the centre, gain={gain:.6g}", orthogonal),
            ),
            Rule(Where("biases", kind("bias")), Normal(math.sqrt(biases)) if biases else Zeros(), optional=True),
        ]
    )


@functools.lru_cache
def _critical_point(name: str, bias_variance: float | None) -> tuple[float, float]:
    """``sigma_w²`` and ``sigma_b²``."""
    activation = _ACTIVATIONS[name]
    if bias_variance is not None and not 0 <= bias_variance < math.inf:
        raise SpecError(f"the recipe 'critical': bias_variance must be at least 0, got {shown(bias_variance)}")
    if all(abs(_left_for_biases(activation, q)) < _NOTHING * q for q in (0.01, 1.0, 100.0)):
        if bias_variance:
            raise SpecError(f"the recipe 'critical': {name} is critical without biases alone; leave bias_variance out")
        return _rounded(1 / _moments(activation, 1.0)[1]), 0.0
    wanted = _USUAL if bias_variance is None else bias_variance
    low, high = _LEAST, _MOST
    if wanted > _left_for_biases(activation, high):
        raise SpecError(f"the recipe 'critical': {name} has no critical point with bias_variance={wanted:g}")
    while wanted and high / low > 1 + 1e-10:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _left_for_biases(activation, middle) < wanted else (low, middle)
    return _rounded(1 / _moments(activation, low)[1]), wanted


def _rounded(value: float) -> float:
    return float(f"{value:.9g}")


def _left_for_biases(activation: Activation, q: float) -> float:
    """The variance of biases with which ``q`` is a fixed point on the critical line. It grows with ``q``."""
    value, slope = _moments(activation, q)
    return q - value / slope


def _moments(activation: Activation, q: float) -> tuple[float, float]:
    """``E[f(sqrt(q) z)²]`` and ``E[f'(sqrt(q) z)²]``, by the midpoint rule."""
    width = 2 * _REACH / _POINTS
    z = (torch.arange(_POINTS, dtype=torch.float64, device="cpu") + 0.5) * width - _REACH
    density = torch.exp(-z * z / 2) * (width / math.sqrt(2 * math.pi))
    with torch.enable_grad():
        x = (math.sqrt(q) * z).requires_grad_()
        values = activation(x)
        [slopes] = torch.autograd.grad(values.sum(), x)
    return float((values.detach() ** 2 * density).sum()), float((slopes**2 * density).sum())


# -- zeros and ones ----------------------------------------------------------------------------------------------------


@recipe
def zer_o(model: nn.Module) -> Rules:
    """ZerO: weights the identity where outputs <= inputs, else columns of a Hadamard matrix / sqrt(p), biases 0.

    With m outputs and n inputs, m > n, the weight is the upper left m x n part of the Hadamard matrix of size p, the
    smallest power of 2 that is at least m, times p^(-1/2): its elements are ±p^(-1/2), and nothing is random. Of a
    convolution, it stands at the kernel's centre, and everything else is 0; packed maps and the groups of a convolution
    have one each. The factor is that of the released notebook: the columns are orthonormal where m = p. Other
    implementations have sqrt(2) times that, 2^(-(k-1)/2) with p = 2^k. Norms are 1 and 0. The ResNets of the released
    code have convolutions of 0 besides Hadamard transforms in their shortcuts, which are other models; put
    Rule("...", Zeros()) before these rules for them.

    Source: Zhao, Schäfer & Anandkumar 2022 (arXiv:2110.12661), algorithms 1 and 2; ``example_mnist.ipynb`` of the
    released code.
    """
    matrices = law("identity, or Hadamard / sqrt(p)", lambda match: identity_or_hadamard(match))
    return Rules(
        [
            Rule(Where("weights", kind("weight") & ~RECURRENT), matrices),
            norm_scales(),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


# -- attention ---------------------------------------------------------------------------------------------------------

_HEADS: Final = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads", "nhead")
_PACKED: Final = re.compile(r"(?i)(.*\.)?(in_proj_weight|((to_|w_?)?qkv|c_attn|in_proj|qkv_proj)(\.weight)?)")


@recipe
def mimetic(
    model: nn.Module,
    *,
    heads: int | None = None,
    query_key_noise: float = 0.7,
    query_key_identity: float = 0.7,
    value_output_noise: float = 0.4,
    value_output_identity: float = -0.4,
) -> Rules:
    """Mimetic: Wq Wk^T of each head near 0.7 Z + 0.7 I, Wv Wo = 0.4 Z - 0.4 I, Z ~ N(0, 1/d); all else as in ViT.

    d is the width, and weights map row vectors. With the singular value decomposition 0.7 Z + 0.7 I = U S V^T, for each
    head separately, Wq = U sqrt(S) and Wk = V sqrt(S) of the largest k values, k the head's width. With that of the
    other matrix, for all heads together, Wv = U sqrt(S) and Wo = sqrt(S) V^T. The two weights of a product are programs
    on the same draws, which have the query's name or the value's, so that each is computed without the other; of each
    singular vector in U, the elements have a positive sum. Programs are limited in their arithmetic: with h heads and
    separate projections, d h may be about 5,000 at most, and 15,000 if queries, keys and values are packed. Biases of
    the attention are 0, and the rest is the recipe ``vit``: learned positions too are N(0, s²), and sinusoidal ones
    need a rule of your own before these.

    Options:
        heads: the number of heads, if neither a module around the weight nor the model's config says it.
        query_key_noise: the factor of Z for queries and keys.
        query_key_identity: the factor of I for queries and keys.
        value_output_noise: the factor of Z for values and outputs.
        value_output_identity: the factor of I for values and outputs.

    Source: Trockman & Kolter 2023 (arXiv:2305.09828), section 4.
    """
    around = dict(named_modules_of(model))
    names = [name for name, _ in named_parameters_of(model)]
    similar = (query_key_noise, query_key_identity), (value_output_noise, value_output_identity)

    def attention(match: Match, parts: int = 1) -> AttentionProgram:
        return AttentionProgram(match, heads or _heads(match, around), parts, similar)

    def nearest(match: Match, *wanted: Role) -> str:
        """The weight with such a role that is nearest by its name."""
        found = [name for name in names if match.roles(name) in wanted]
        if not found:
            raise SpecError(f"the model has no weight with the role {wanted[0].value} that belongs to it")
        return max(found, key=lambda name: _common(name, match.name))

    def packed(match: Match) -> Initializer:
        if not _PACKED.fullmatch(unwrapped(match.name)):
            raise SpecError("does not say by its name that it packs queries, keys and values one after the other")
        return attention(match, 3).packed()

    query_key, value_output = (f"{noise:g} Z + {identity:g} I" for noise, identity in similar)
    return Rules(
        [
            Rule(
                Where("queries", role("query")),
                law(f"U sqrt(S) of {query_key}, by heads", lambda match: attention(match).queries(match.name)),
                optional=True,
            ),
            Rule(
                Where("keys", role("key")),
                law(
                    f"V sqrt(S) of {query_key}, by heads",
                    lambda match: attention(match).keys(nearest(match, Role.QUERY)),
                ),
                optional=True,
            ),
            Rule(
                Where("values", role("value")),
                law(f"U sqrt(S) of {value_output}", lambda match: attention(match).values(match.name)),
                optional=True,
            ),
            Rule(
                Where("packed projections", role("query_key_value")),
                law(f"the same 3: {query_key}, {value_output}", packed),
                optional=True,
            ),
            Rule(
                Where("attention outputs", role("attention_output")),
                law(
                    f"sqrt(S) V^T of {value_output}",
                    lambda match: attention(match).outputs(nearest(match, Role.VALUE, Role.QUERY_KEY_VALUE)),
                ),
            ),
            *vit(model),
        ]
    )


def _heads(match: Match, around: dict[str, nn.Module]) -> int:
    """The number of heads, as the nearest module around a weight has it, or the model's config."""
    parts = match.name.split(".")
    holders = [around.get(".".join(parts[:end])) for end in range(len(parts) - 1, -1, -1)]
    said = (getattr(each, attribute, None) for each in (*holders, match.config) for attribute in _HEADS)
    found = next((each for each in said if isinstance(each, int)), None)
    if found is None:
        raise SpecError("the number of heads does not follow from the model; give heads=")
    return found


def _common(one: str, other: str) -> int:
    """How many parts two names begin with together."""
    pairs = zip(one.split("."), other.split("."), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
