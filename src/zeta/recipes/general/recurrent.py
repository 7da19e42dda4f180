"""Recurrent networks: torch's layers, and cells written by hand."""

from __future__ import annotations

import itertools
import re
from typing import Final

from torch import nn

from zeta.base.modules import modules_of, named_modules_of, named_parameters_of
from zeta.errors import SpecError
from zeta.initializers import (
    Blocks,
    Constant,
    Identity,
    Initializer,
    Normal,
    Orthogonal,
    Uniform,
    Zeros,
    glorot_uniform,
)
from zeta.recipes.parts import choice, law, norm_scales, recipe, unwrapped
from zeta.rules import Kind, Match, Rule, Rules, Where, kind

# Names as torch has them, and those of cells whose gates lie in one tensor. ``W_i`` is not among them: it may be the
# input gate's alone.
_SUFFIX: Final = r"(_l\d+)?(_reverse)?"
_INTO: Final = r"(w_?ih|w_?xh?|(x|i|in|input)_?(2|to)_?(h|hidden)|input_kernel)"
_AGAIN: Final = r"(w_?hh?|u|(h|hidden)_?(2|to)_?(h|hidden)|recurrent(_kernel)?)"
_INPUT: Final = re.compile(rf"(?i)(.*\.)?(weight_ih{_SUFFIX}|{_INTO}(\.weight)?)")
_RECURRENT: Final = re.compile(rf"(?i)(.*\.)?(weight_hh{_SUFFIX}|{_AGAIN}(\.weight)?)")
_PROJECTION: Final = re.compile(rf"(.*\.)?weight_hr{_SUFFIX}")
_INPUT_BIAS: Final = re.compile(rf"(?i)(.*\.)?(bias_ih{_SUFFIX}|b_?(ih|x)|{_INTO}\.bias)")
_RECURRENT_BIAS: Final = re.compile(rf"(?i)(.*\.)?(bias_hh{_SUFFIX}|b_?hh?|{_AGAIN}\.bias)")


def _is(pattern: re.Pattern[str], name: str) -> bool:
    return pattern.fullmatch(unwrapped(name)) is not None


def _matches(label: str, pattern: re.Pattern[str], *, bias: bool = False) -> Where:
    return Where(label, lambda match: (match.kind is Kind.BIAS) is bias and _is(pattern, match.name))


_INPUT_KERNELS: Final = _matches("input kernels", _INPUT)
_RECURRENT_KERNELS: Final = _matches("recurrent kernels", _RECURRENT)
_PROJECTIONS: Final = _matches("projections of hidden states", _PROJECTION)


def _per_gate(match: Match, gates: int, initializer: Initializer, *, square: bool = False) -> Initializer:
    """The initializer for each gate; the axes of torch's layers say already that gates are packed."""
    axes = match.axes_of().resolved(match.shape)
    [dim] = axes.fan_out
    if isinstance(match.module, nn.RNNBase | nn.RNNCellBase):
        if axes.blocks != ((dim, gates),):
            raise SpecError(f"is of a {type(match.module).__name__}, which does not have {gates} gates")
        return initializer
    fans = match.fans
    if fans.fan_out % gates or (square and fans.fan_out != gates * fans.fan_in):
        raise SpecError(f"does not have {gates} gates one after the other, with {fans.fan_in} inputs")
    return Blocks(*[initializer] * gates, dim=dim)


def _is_bias(match: Match) -> bool:
    """A bias, also of a cell that calls it ``b_ih`` and not ``bias``."""
    named = _is(_INPUT_BIAS, match.name) or _is(_RECURRENT_BIAS, match.name)
    return match.kind is Kind.BIAS or (len(match.shape) == 1 and (named or _is_only_bias(match)))


def _is_only_bias(match: Match) -> bool:
    """The bias of a cell, beside its kernels."""
    beside = (*match.module._parameters, *match.module._modules)
    return match.local_name in ("b", "bias") and any(map(_RECURRENT.fullmatch, beside))


def _rest() -> list[Rule]:
    """Embeddings, read-outs and norms, as Keras has them."""
    return [
        Rule(Where("embeddings", kind("embedding")), Uniform(-0.05, 0.05), optional=True),
        Rule(Where("other weights", kind("weight")), glorot_uniform(), optional=True),
        norm_scales(),
        Rule(Where("biases", _is_bias), Zeros(), optional=True),
    ]


#: names and classes of cells
_CELL: Final = re.compile(r"(?i)\w*(lstm|gru|rnn|cell)\w*")


def _unknown_cells(model: nn.Module) -> Rule:
    """Refuses the weights of cells, by their own or their class's name, in which no recurrent kernel is found."""
    unknown: set[nn.Module] = set()
    for name, part in named_modules_of(model):
        local = name.rpartition(".")[2]
        if local and any(map(_CELL.fullmatch, (local, type(part).__name__))):
            inside = [f"{name}.{path}" for path, _ in named_parameters_of(part)]
            if not any(_is(_RECURRENT, path) for path in inside):
                unknown.update(modules_of(part))

    def refuse(match: Match) -> Initializer:
        raise SpecError(
            "is of a cell in which no recurrent kernel is found by its name (weight_hh, h2h, W_h, U): put rules for "
            f'the cell before the recipe, as Rule("{match.name}", ...)'
        )

    def of_a_cell(match: Match) -> bool:
        return match.module in unknown and len(match.shape) > 1 and match.kind is not Kind.EMBEDDING

    return Rule(Where("cells without a recurrent kernel", of_a_cell), law("refused", refuse), optional=True)


def _gated(model: nn.Module, gates: int) -> list[Rule]:
    glorot = law(
        "uniform on ±sqrt(6 / (fan_in + fan_out)), per gate", lambda match: _per_gate(match, gates, glorot_uniform())
    )
    orthogonal = law("Orthogonal(), per gate", lambda match: _per_gate(match, gates, Orthogonal(), square=True))
    return [
        _unknown_cells(model),
        Rule(_INPUT_KERNELS, glorot),
        Rule(_RECURRENT_KERNELS, orthogonal),
        Rule(_PROJECTIONS, glorot_uniform(), optional=True),
    ]


@recipe
def lstm(model: nn.Module, *, forget_bias: float = 1.0, order: str = "ifgo") -> Rules:
    """LSTM: input kernels Glorot-uniform per gate, recurrent kernels orthogonal per gate, biases 0, forget gates 1.

    Each gate is a matrix of its own: its fans are hidden size and inputs, and it is orthogonal by itself. Keras draws
    the four gates as one matrix; the recipe ``keras`` does so too. Torch adds two biases: the forget gate's is 1 in the
    input's bias and 0 in the recurrent one. Embeddings are uniform on ±0.05, other weights Glorot-uniform, norms 1
    and 0.

    Looks for ``weight_ih`` and ``weight_hh`` of torch's layers, and names as ``x2h``, ``i2h``, ``W_x`` and ``h2h``,
    ``W_h``, ``U``, whose gates lie one after the other along the outputs. A cell (a module whose name or class says
    lstm, gru, rnn or cell) without such a recurrent kernel is refused.

    Options:
        forget_bias: the bias of the forget gates.
        order: of the gates in a packed tensor: input, forget, cell and output. ``ifgo`` in torch.

    Source: Glorot & Bengio 2010; Saxe et al. 2014 (arXiv:1312.6120); Jozefowicz et al. 2015 for the forget gates'
    bias; ``keras/src/layers/rnn/lstm.py`` for their combination.
    """
    choice("lstm", "order", order, map("".join, itertools.permutations("ifgo")))
    forgetting = Blocks(*(Constant(forget_bias) if gate == "f" else Zeros() for gate in order))
    known = [name for name, _ in named_parameters_of(model)]
    twice = {_cell(name) for name in known if _is(_INPUT_BIAS, name)}

    def forgets(match: Match) -> bool:
        if not _is_bias(match) or match.kind is Kind.NORM_SCALE:
            return False
        alone = _is(_RECURRENT_BIAS, match.name) and _cell(match.name) not in twice
        return _is(_INPUT_BIAS, match.name) or alone or _is_only_bias(match)

    return Rules(
        [
            *_gated(model, 4),
            # cells without biases have none to forget with
            Rule(Where("biases with the forget gates'", forgets), forgetting, optional=True),
            *_rest(),
        ]
    )


def _cell(name: str) -> str:
    """What the names of a cell's two biases have in common: the module that holds them, and the layer's number."""
    module, _, local = unwrapped(name).rpartition(".")
    holder = module.rpartition(".")[0] if local == "bias" else module
    return f"{holder}.{re.sub('(?i)bias_[ih]h|b_?[xih]h?', '', '' if local == 'bias' else local)}"


@recipe
def gru(model: nn.Module) -> Rules:
    """GRU: input kernels Glorot-uniform per gate, recurrent kernels orthogonal per gate, biases 0.

    Each gate is a matrix of its own: its fans are hidden size and inputs, and it is orthogonal by itself. Keras draws
    the three gates as one matrix; the recipe ``keras`` does so too. Embeddings are uniform on ±0.05, other weights
    Glorot-uniform, norms 1 and 0. The names are as for ``lstm``; the order of the gates does not matter.

    Source: Glorot & Bengio 2010; Saxe et al. 2014 (arXiv:1312.6120); ``keras/src/layers/rnn/gru.py`` for their
    combination.
    """
    return Rules([*_gated(model, 3), *_rest()])


@recipe
def irnn(model: nn.Module, *, scale: float = 1.0) -> Rules:
    """IRNN: recurrent kernels the identity, other weights N(0, 0.001²), biases 0, for plain recurrent ReLU networks.

    The other weights are those that lead into the network and out of it, and embeddings.

    Options:
        scale: of the identity. 0.01 in the paper's "iRNN" for speech, which has short dependencies.

    Source: Le, Jaitly & Hinton 2015 (arXiv:1504.00941), sections 3 and 4.
    """

    def recurrent(match: Match) -> Initializer:
        if getattr(match.module, "nonlinearity", "relu") != "relu":
            raise SpecError(
                "an IRNN has ReLUs, and this layer has the nonlinearity "
                f'{match.module.nonlinearity!r}: build it with nonlinearity="relu"'
            )
        if match.axes_of().blocks or len(set(match.shape)) > 1:
            raise SpecError(f"an IRNN has no gates, but this kernel is not square: {tuple(match.shape)}")
        return Identity(scale)

    weights = Where("other weights", kind("weight") | kind("embedding") | _INPUT_KERNELS)
    return Rules(
        [
            Rule(_RECURRENT_KERNELS, law(f"Identity(gain={scale:g})", recurrent)),
            Rule(weights, Normal(0.001)),
            norm_scales(),
            Rule(Where("biases", _is_bias), Zeros(), optional=True),
        ]
    )
