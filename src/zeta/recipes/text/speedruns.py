"""Speedruns: small language models that are trained in minutes or hours."""

from __future__ import annotations

import functools
import math
import re
from typing import Final

from torch import nn

from zeta.base.modules import named_modules_of, named_parameters_of
from zeta.errors import SpecError
from zeta.initializers import (
    Blocks,
    Constant,
    Draw,
    Initializer,
    Keep,
    Normal,
    Ones,
    Program,
    Ref,
    Step,
    Uniform,
    Zeros,
)
from zeta.recipes.parts import (
    EMBEDDINGS,
    INTO_ATTENTION,
    READOUT,
    RESIDUAL,
    UP,
    Law,
    law,
    norms_and_biases,
    recipe,
    size,
    width,
)
from zeta.rules import Match, Rule, Rules, Where, glob, role


@recipe
def nanochat(model: nn.Module, *, n_embd: int | None = None) -> Rules:
    """nanochat: queries, keys, values uniform with std d^(-1/2), MLP up 0.4 d^(-1/2), attention and MLP outputs 0.

    d is the width of the residual stream. Token embeddings are N(0, 0.8²), the output head N(0, 0.001²), and the
    embeddings that are added to values are uniform with std d^(-1/2). Weights of gates are uniform on 0 to 0.02. Of the
    scalars of each layer, ``resid_lambdas`` fall from 1.15 to 1.05, and ``x0_lambdas`` from 0.20 to 0.05, in equal
    steps; ``smear_lambda`` is 0, ``backout_lambda`` 0.2. The summary in the reference's code has the std 1.0 for token
    embeddings and no factor 0.4, unlike its code. The model of this name in transformers has other laws.

    Options:
        n_embd: d, for the embeddings that are added to values; by default the config's n_embd

    Source: karpathy/nanochat, nanochat/gpt.py (2026).
    """

    def added(match: Match) -> Initializer:
        return _of_std(size(match, "n_embd", n_embd, "n_embd", "hidden_size") ** -0.5)

    fan_in = law("uniform, std d^(-1/2)", lambda match: _of_std(match.fans.fan_in**-0.5))
    up = law("uniform, std 0.4 d^(-1/2)", lambda match: _of_std(0.4 * match.fans.fan_in**-0.5))
    scalars: dict[str, Initializer | Law] = {
        "resid_lambdas": law("from 1.15 to 1.05", lambda match: _falling(match, 1.15, 0.10)),
        "x0_lambdas": law("from 0.20 to 0.05", lambda match: _falling(match, 0.20, 0.15)),
        "smear_lambda": Zeros(),
        "backout_lambda": Constant(0.2),
    }
    return Rules(
        [
            Rule(
                Where("embeddings added to values", role("embedding") & glob("*value_embed*")),
                law("uniform, std d^(-1/2)", added),
                optional=True,
            ),
            Rule(Where("gates", glob("*{ve,smear}_gate.weight")), Uniform(0.0, 0.02), optional=True),
            Rule(
                Where("embeddings in layers", role("embedding") & (lambda match: match.layer is not None)),
                law("refused", _refuse_in_a_layer),
                optional=True,
            ),
            Rule(EMBEDDINGS, Normal(0.8)),
            Rule(READOUT, Normal(0.001)),
            Rule(INTO_ATTENTION, fan_in),
            *(Rule(each, Zeros()) for each in RESIDUAL),
            Rule(UP, up),
            *(Rule(Where(name, glob(f"*{name}")), how, optional=True) for name, how in scalars.items()),
            *norms_and_biases(),
        ]
    )


@recipe
def modded_nanogpt(model: nn.Module, *, qk_padding: int = 0, vo_padding: int = 0) -> Rules:
    """modded-nanogpt: attention and MLP up uniform with std 0.5 d^(-1/2), MLP down 0, output head N(0, 0.005²).

    d is the width of the residual stream. The embedding starts as a copy of the output head, transposed if the head is
    stored as (inputs, outputs). The embeddings that are added to values are N(0, 0.01²); gates, and embeddings of pairs
    of tokens, are 0, ``post_lambdas`` 1, ``resid_lambdas`` sqrt(1.1). Weights may be in banks, one tensor for all
    layers: ``qk_bank``, ``vo_bank``, and ``mlp_bank`` with the matrices up and down of each layer. Matrices at the end
    of the first two that only fill them up are 0. Matrices of the dynamic connections (``mudd``) are uniform on
    ±1/sqrt(d) and then 0. Tables of constants that the constructor writes (``scalars``, ``mudd_b2``) are kept.

    Options:
        qk_padding: the number of matrices at the end of qk_bank that are not used
        vo_padding: the number of matrices at the end of vo_bank that are not used

    Source: KellerJordan/modded-nanogpt, train_gpt.py (August 2026).
    """
    half = law("uniform, std 0.5 d^(-1/2)", lambda match: _of_std(0.5 * width(match) ** -0.5))

    def bank(name: str, padding: int) -> Rule:
        def filled(match: Match) -> Initializer:
            real, one = match.shape[0] - padding, _of_std(0.5 * match.shape[-1] ** -0.5)
            if padding < 0 or real < 1:
                raise SpecError(f"{name} has {match.shape[0]} matrices, and {padding} of them cannot be padding")
            return Blocks(*[one] * real, *[Zeros()] * padding) if padding else one

        return Rule(Where(name, glob(f"*{name}")), law("uniform, std 0.5 d^(-1/2)", filled), optional=True)

    def both(match: Match) -> Initializer:
        return Blocks(_of_std(0.5 * match.shape[-1] ** -0.5), Zeros(), dim=1)

    banks = any(name.endswith("qk_bank") for name, _ in named_parameters_of(model))
    zeros = glob("*{ve_gate_bank,mudd_w2,mudd_gate_w2,smear_gate.weight,bigram_embed.weight}")
    tables = glob("*{scalars,mudd_b2,mudd_gate_b2}")
    dynamic = law("uniform on ±1/sqrt(d)", lambda match: _of_std((3 * match.shape[-1]) ** -0.5))
    return Rules(
        [
            bank("qk_bank", qk_padding),
            bank("vo_bank", vo_padding),
            Rule(Where("mlp_bank", glob("*mlp_bank")), law("uniform, std 0.5 d^(-1/2); 0", both), optional=True),
            Rule(Where("gates, embeddings of pairs", zeros), Zeros(), optional=True),
            Rule(
                Where("embeddings added to values", glob("*value_embed{s,s.weight,s.*.weight}")),
                Normal(0.01),
                optional=True,
            ),
            Rule(READOUT, Normal(0.005)),
            Rule(
                EMBEDDINGS,
                law("the values of the output head, N(0, 0.005²)", functools.partial(_copied, model)),
                optional=True,
            ),
            Rule(INTO_ATTENTION, half, optional=banks),
            Rule(RESIDUAL[0], half, optional=banks),
            Rule(RESIDUAL[1], Zeros(), optional=banks),
            Rule(UP, half, optional=banks),
            Rule(Where("mudd", glob("*mudd{,_gate}_w1")), dynamic, optional=True),
            Rule(Where("mudd_gate_scale", glob("*mudd_gate_scale")), Constant(0.1), optional=True),
            Rule(Where("post_lambdas", glob("*post_lambdas")), Ones(), optional=True),
            Rule(Where("resid_lambdas", glob("*resid_lambdas")), Constant(1.1**0.5), optional=True),
            Rule(Where("tables of constants", tables), Keep(), optional=True),
            *norms_and_biases(),
        ]
    )


#: embeddings with laws of their own
_ADDED: Final = re.compile("value_embed|bigram_embed")


def _of_std(std: float) -> Initializer:
    """Uniform with this std."""
    return Uniform(-math.sqrt(3) * std, math.sqrt(3) * std)


def _refuse_in_a_layer(match: Match) -> Initializer:
    raise SpecError(
        "is a table in a layer and may be added to values, which its name does not say (value_embed): put "
        f'Rule("{match.name}", ...) before the recipe'
    )


def _falling(match: Match, first: float, by: float) -> Initializer:
    """A number for each layer, in equal steps."""
    count = match.shape[0]
    values = [Constant(first - by * layer / max(count - 1, 1)) for layer in range(count)]
    return Blocks(*values) if count > 1 else values[0]


def _copied(model: nn.Module, match: Match) -> Initializer:
    """What the output head draws, transposed if the head is stored as (inputs, outputs)."""
    modules = dict(named_modules_of(model))
    tables = [name for name, _ in named_parameters_of(model) if match.roles(name) == "embedding"]
    tables = [name for name in tables if not _ADDED.search(name)]
    if len(tables) > 1:
        raise SpecError(
            f"the embedding of tokens starts as a copy of the output head, and which table it is does not follow: "
            f"{', '.join(tables)}; put rules for the others before the recipe, as Rule({match.name!r}, ...)"
        )
    heads = [name for name, _ in named_parameters_of(model) if match.roles(name) == "readout"]
    name = heads[0] if heads else ""
    module = modules.get(name.rpartition(".")[0])
    shape = match.shape if isinstance(module, nn.Linear) else match.shape[::-1]
    weight = None if module is None else module._parameters[name.rpartition(".")[2]]
    if weight is None or tuple(weight.shape) != shape:
        raise SpecError("the embedding starts as a copy of the output head, and there is none of its shape")
    steps = [Step(op="draw", leaf=Draw(Normal(0.005), 0, of=name), shape=shape, dtype=weight.dtype)]
    if not isinstance(module, nn.Linear):
        turned = (("dims", (1, 0)),)
        steps.append(Step(op="permute", operands=(Ref(0),), attributes=turned, shape=match.shape, dtype=weight.dtype))
    if weight.dtype != match.dtype:
        steps.append(Step(op="cast", operands=(Ref(len(steps) - 1),), shape=match.shape, dtype=match.dtype))
    return Program(tuple(steps))
