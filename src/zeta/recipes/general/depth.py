"""Deep residual networks: without norms, or with very many layers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Final

from torch import nn

from zeta.base.modules import modules_of, named_parameters_of
from zeta.base.reading import shown
from zeta.base.usage import adds
from zeta.errors import SpecError
from zeta.initializers import (
    Blocks,
    Constant,
    Initializer,
    Normal,
    Ones,
    Zeros,
    kaiming_normal,
    xavier_normal,
    xavier_uniform,
)
from zeta.recipes.general.frameworks import torch_default
from zeta.recipes.parts import (
    NORM_SCALE,
    law,
    layers,
    norms_and_biases,
    of_unknown_role,
    recipe,
    unwrapped,
)
from zeta.recipes.residual import residual_branches
from zeta.rules import Kind, Match, Role, Rule, Rules, Where, glob, kind, ndim, regex, role

# -- networks of residual blocks ---------------------------------------------------------------------------------------

_SINGLE: Final = kind("other") & (ndim(0) | ndim(1))
_SCALES: Final = _SINGLE & regex(r"(?i)(.*\.)?(scale|multiplier|mul|gain)\w*(\.\w+)?")
_SHIFTS: Final = _SINGLE & regex(r"(?i)(.*\.)?(bias|add|shift)\w*(\.\w+)?")
#: what multiplies a whole branch
_GATE: Final = regex(
    r"(?i)(.*\.)?((re)?s_?(weight|gain|scale|alpha)|skip_?init(_?gain)?|alpha|beta|gate|g|gain|scale|multiplier|scalar"
    r"|(re_?zero|residual|branch|skip)_?(alpha|weight|gain|scale|multiplier|gate|g)?)s?_?\d*(\.\d+)?"
    r"(\.(weight|alpha|scale|gain|multiplier|value|g))?"
)


#: what only a branch's factor is called
_SURE_GATE: Final = re.compile(
    r"(?i)(^|[._])((re)?s_?(weight|gain|scale|alpha)|skip_?init|re_?zero|residual|branch|skip)"
)


@recipe
def fixup(model: nn.Module, *, layers: int | None = None) -> Rules:
    """Fixup: branches N(0, 2/fan_out L^(-1/(m-1))), their last layers and the classifier 0, the rest N(0, 2/fan_out).

    For residual networks without norms: L is the number of residual blocks, m the number of layers in a branch. A
    block is the innermost numbered module with several convolutions or linear layers; shortcuts (by their names, or
    because they lead from where the block begins to where it ends) and squeeze-excite are none of its branch. Layers
    that end in another width than they begin with, without a shortcut, are no block; of each head, the last layer is
    the classifier. Scalar
    biases are 0 and scalar multipliers 1. The released code leaves the first convolution as torch draws it; the paper
    has a standard method, here He's as everywhere else. A model with norms is refused.

    Options:
        layers: the number of residual blocks, if not all of them are found.

    Source: Zhang, Dauphin & Ma 2019 (arXiv:1901.09321), section 3; ``fixup_resnet_imagenet.py`` of the released code.
    """
    found, unclear = residual_branches(model)
    branches = [*found.values()]
    count = layers or len(branches)
    place = {layer: (number, len(branch)) for branch in branches for number, layer in enumerate(branch)}

    order = [*modules_of(model)]
    after = max((number for number, part in enumerate(order) if part in place), default=0)
    outside = [part for part in order if isinstance(part, nn.Linear) and part not in place]
    rows = (part for part in modules_of(model) if isinstance(part, nn.Sequential))
    followed = {each for row in rows for each in [layer for layer in row if isinstance(layer, nn.Linear)][:-1]}

    # several heads begin with the same width
    behind = [part for part in order[after:] if part in outside and part not in followed]
    heads = [part for part in behind if part.in_features == behind[-1].in_features] or outside[-1:]

    def classifier(match: Match) -> bool:
        last = match.module in heads or (match.module in outside and match.role is Role.READOUT)
        return match.kind is Kind.WEIGHT and last and match.module not in followed

    def first(match: Match) -> bool:
        return match.kind is Kind.WEIGHT and match.module in place and not last(match)

    def last(match: Match) -> bool:
        number, several = place.get(match.module, (0, 0))
        return match.kind is Kind.WEIGHT and number == several - 1

    def scaled(match: Match) -> Initializer:
        if match.role in (Role.QUERY, Role.KEY, Role.VALUE, Role.QUERY_KEY_VALUE):
            raise SpecError("is of an attention: Fixup is for branches of one layer after the other; see t_fixup")
        m = place[match.module][1]
        return kaiming_normal("fan_out").scaled(count ** (-1 / (2 * m - 2)))

    return Rules(
        [
            *_without_norms(),
            unclear,
            Rule(Where("last layer of each branch", last), Zeros()),
            Rule(Where("other layers of branches", first), law("N(0, 2/fan_out L^(-1/(m-1)))", scaled)),
            Rule(Where("classifier", classifier), Zeros(), optional=True),
            Rule(Where("other weights", kind("weight")), kaiming_normal("fan_out"), optional=True),
            Rule(Where("scalar multipliers", _SCALES), Ones(), optional=True),
            Rule(Where("biases", kind("bias") | _SHIFTS), Zeros(), optional=True),
        ]
    )


def _without_norms() -> list[Rule]:
    def refuse(match: Match) -> Initializer:
        raise SpecError("belongs to a norm, and this recipe is for networks without norms")

    return [Rule(Where("norms", NORM_SCALE), law("refused", refuse), optional=True)]


@recipe
def skipinit(model: nn.Module, *, alpha: float = 0.0, gate: str | None = None) -> Rules:
    """SkipInit: the scalar that multiplies each residual branch 0, weights N(0, 2/fan_in), biases 0.

    The scalars are parameters of one element with a name such as ``skipinit_gain`` or ``res_scale``; or ``alpha``,
    ``scale`` and the like, directly in a numbered block with layers. A model without them is an error. Norms, if there
    are any, are 1 and 0.

    Options:
        alpha: the scalars' value. The paper also has 1/sqrt(d), d the number of residual blocks.
        gate: a glob for the scalars, if their names are others.

    Source: De & Smith 2020 (arXiv:2002.10444), section 4.
    """
    if not math.isfinite(alpha):
        raise SpecError(f"the recipe 'skipinit': alpha must be a finite number, got {shown(alpha)}")
    return Rules(
        [
            Rule(Where("scalars of branches", _gates(gate)), Zeros() if alpha == 0 else Constant(alpha)),
            Rule(Where("weights", kind("weight")), kaiming_normal()),
            *norms_and_biases(),
        ]
    )


@recipe
def rezero(model: nn.Module, *, gate: str | None = None) -> Rules:
    """ReZero: the scalar that multiplies each residual branch 0, everything else by torch's own defaults.

    The scalars are ``resweight`` of the released code, also one tensor for all layers, or parameters of one element
    with a name such as ``rezero.g`` or ``res_scale``; or ``alpha``, ``scale`` and the like, directly in a numbered
    block with layers. A model without them is an error. What has no default in torch needs a rule of yours.

    Options:
        gate: a glob for the scalars, if their names are others.

    Source: Bachlechner et al. 2020 (arXiv:2003.04887); ``rezero/transformer/rztx.py`` of the released code.
    """
    defaults = [rule for rule in torch_default(model) if rule.label != "no default in torch"]
    return Rules([Rule(Where("scalars of branches", _gates(gate)), Zeros()), *defaults])


def _gates(given: str | None) -> Where:
    if given is not None:
        return glob(given)

    def single(match: Match) -> bool:
        if match.shape not in ((), (1,)):
            return "resweight" in match.name
        return _SURE_GATE.search(match.name) is not None or _in_a_block(match)

    return kind("other") & _GATE & single


def _in_a_block(match: Match) -> bool:
    """Whether a scalar that may also be an activation's, a norm's or a head's lies beside the layers of a block.

    The block is numbered, and adds to what it gets, as far as its source is known. In a list, the scalars are those of
    several blocks.
    """
    module = match.module
    numbered = any(re.search(r"\d", part) for part in match.name.split("."))
    if isinstance(module, nn.ParameterList | nn.ParameterDict):
        return numbered
    layers = any(part._parameters for part in modules_of(module) if part is not module)
    return numbered and layers and adds(module) is not False


# -- transformers ------------------------------------------------------------------------------------------------------

_SIDE: Final = re.compile(r"(?i)(?:^|_)(enc|dec)(?:oders?)?(?![a-z])")
_OF_DECODER: Final = re.compile(r"(?i)(?:^|[._])(dec(oder)?s?|tgt|trg|target)(?![a-z])")


@recipe
def deepnorm(model: nn.Module, *, encoder_layers: int | None = None, decoder_layers: int | None = None) -> Rules:
    """DeepNorm: Xavier normal, times beta for values, attention outputs and MLPs; embeddings N(0, 1/d).

    With one stack of L layers, beta is (8 L)^(-1/4). With N layers in an encoder and M in a decoder, it is
    0.87 (N^4 M)^(-1/16) in the encoder and (12 M)^(-1/4) in the decoder, also for the attention to the encoder. d is
    the width. Several encoders have their own numbers of layers; an encoder or decoder without attention is no stack.
    Queries, keys and all other weights have the factor 1; norms are 1, biases 0. The residual connections of the model
    must be multiplied by alpha, which is no parameter: (2 L)^(1/4); 0.81 (N^4 M)^(1/16) and (3 M)^(1/4). Embeddings,
    positions and read-out are those of the released code, as the paper does not state them. TorchScale divides by 1.15
    in the encoder, which is 0.8696 rounded otherwise; here it is the paper's 0.87.

    Options:
        encoder_layers: the number of layers of the encoder, or of the only stack, if names do not count them.
        decoder_layers: the same for the decoder.

    Source: Wang et al. 2022 (arXiv:2203.00555), figure 2 and table of section 3; ``architecture/encoder.py`` and
    ``decoder.py`` of TorchScale for the embeddings.
    """
    stacks = _Stacks(model, encoder_layers, decoder_layers)

    def beta(match: Match) -> float:
        if not stacks.both(match):
            return float((8 * layers(match, stacks.own(match), "encoder_layers")) ** -0.25)
        decoder = layers(match, stacks.of(match, "decoder"), "decoder_layers")
        if stacks.side(match) == "decoder":
            return float((12 * decoder) ** -0.25)
        encoder = layers(match, stacks.own(match), "encoder_layers")
        return float(0.87 * (encoder**4 * decoder) ** -0.0625)

    table = law("N(0, 1/d)", lambda match: Normal(match.shape[-1] ** -0.5))
    return Rules(
        [
            *_transformer("Xavier normal, variance beta² 2/(fan_in + fan_out)", beta, xavier_normal),
            Rule(Where("embeddings and read-out", kind("embedding") | role("position") | role("readout")), table),
            of_unknown_role(),
            Rule(Where("other weights", kind("weight")), xavier_normal(), optional=True),
            *norms_and_biases(),
        ]
    )


@recipe
def t_fixup(model: nn.Module, *, encoder_layers: int | None = None, decoder_layers: int | None = None) -> Rules:
    """T-Fixup: Xavier uniform, times 0.67 N^(-1/4) or (9 M)^(-1/4) for values, attention outputs and MLPs, no norms.

    0.67 N^(-1/4) in an encoder of N layers and (9 M)^(-1/4) in a decoder of M layers with attention to an encoder;
    token embeddings are N(0, 1/d) times (9 N)^(-1/4), or (9 M)^(-1/4) in the decoder, d their width. Queries, keys and
    all other weights have the factor 1; learned positions and a read-out that is no embedding are N(0, 1/d), biases 0.
    The released code draws queries and keys with a factor 1/sqrt(2), fairseq's default; the paper's text has none. A
    model with norms is refused.

    Options:
        encoder_layers: the number of layers of the encoder, if names do not count them.
        decoder_layers: the same for the decoder.

    Source: Huang et al., "Improving Transformer Optimization Through Better Initialization", ICML 2020, section 3.2;
    ``fairseq/modules/transformer_layer.py`` and ``fairseq/models/transformer.py`` of the released code.
    """
    stacks = _Stacks(model, encoder_layers, decoder_layers)

    def factor(match: Match) -> float:
        side = stacks.side(match)
        count = layers(match, stacks.own(match), f"{side}_layers")
        return float(0.67 * count**-0.25 if side == "encoder" else (9 * count) ** -0.25)

    def embedding(match: Match) -> Initializer:
        # also of a name such as decoder_embedding
        sides = ("decoder", "encoder") if _OF_DECODER.search(match.name) else ("encoder", "decoder")
        count = next(filter(None, (stacks.of(match, side) for side in sides)), None)
        if count is None:
            raise SpecError("the number of layers does not follow from the names; give encoder_layers=")
        return Normal(match.shape[-1] ** -0.5 * (9 * count) ** -0.25)

    table = law("N(0, 1/d)", lambda match: Normal(match.shape[-1] ** -0.5))
    return Rules(
        [
            *_without_norms(),
            *_transformer("Xavier uniform on ±c sqrt(6/(fan_in + fan_out))", factor, xavier_uniform),
            Rule(Where("positions", role("position")), table, optional=True),
            Rule(Where("token embeddings", kind("embedding")), law("N(0, 1/d (9 N)^(-1/2))", embedding)),
            Rule(Where("read-out", role("readout")), table, optional=True),
            of_unknown_role(),
            Rule(Where("other weights", kind("weight")), xavier_uniform(), optional=True),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


def _transformer(formula: str, factor: Callable[[Match], float], scheme: Callable[[float], Initializer]) -> list[Rule]:
    """Values, attention outputs and MLPs times a factor; of packed projections, the values alone."""

    def scaled(match: Match) -> Initializer:
        return scheme(factor(match))

    def values(match: Match) -> Initializer:
        return scaled(match) if match.role is Role.VALUE else _split(match, scheme(1.0), scaled(match))

    def up(match: Match) -> Initializer:
        axes = match.axes_of().resolved(match.shape)
        if match.role is Role.MLP_GATE_UP and not axes.blocks:
            return Blocks(scaled(match), scaled(match), dim=axes.fan_out[0])
        return scaled(match)

    return [
        Rule(Where("attention outputs", role("attention_output")), law(formula, scaled)),
        Rule(Where("MLP down projections", role("mlp_down")), law(formula, scaled)),
        Rule(
            Where("MLP up projections and gates", role("mlp_up") | role("mlp_gate") | role("mlp_gate_up")),
            law(formula, up),
        ),
        Rule(Where("values, also packed", role("value") | role("query_key_value")), law(formula, values)),
    ]


def _split(match: Match, plain: Initializer, value: Initializer) -> Initializer:
    """``value`` for the values of a packed projection and ``plain`` for queries and keys."""
    local = unwrapped(match.name).removesuffix(".weight").rpartition(".")[2].lower()
    if "query_key_value" in local:
        raise SpecError("packs queries, keys and values head by head, which this recipe cannot split")
    axes = match.axes_of().resolved(match.shape)
    both = re.search("kv|key_value", local) and "q" not in local
    parts: tuple[Initializer, ...] = (plain, value) if both else (plain, plain, value)
    if packed := re.search("(?=[qkv]{2,3})[qkv]*v[qkv]*", local):  # the letters' order is that of the blocks
        parts = tuple(value if letter == "v" else plain for letter in packed[0])
    [dim] = axes.fan_out
    if not axes.blocks and match.shape[dim] != len(parts) * match.shape[axes.fan_in[0]]:
        raise SpecError(f"does not pack {len(parts)} projections of the same size, one after the other")
    return Blocks(*parts, dim=dim)


class _Stacks:
    """The layers of a model's encoders and decoders: as given for a side, or as the blocks count them.

    What has no attention, as a head of several linear layers, is no stack.
    """

    def __init__(self, model: nn.Module, encoder: int | None, decoder: int | None) -> None:
        self._names = [name for name, _ in named_parameters_of(model)]
        self._given = {"encoder": encoder, "decoder": decoder}
        self._found: dict[str, tuple[str | None, int | None]] | None = None

    def _counted(self, match: Match) -> dict[str, tuple[str | None, int | None]]:
        """By the name of each stack, its side and its layers."""
        if self._found is None:
            attending = [name for name in self._names if match.roles(name) is Role.ATTENTION_OUTPUT]
            places = [(name, place) for name in attending if (place := match.layers(name)) is not None]
            self._found = {place.stack: (_side(name), place.depth) for name, place in places}
        return self._found

    def side(self, match: Match) -> str:
        """Whether a parameter is of an encoder or a decoder."""
        side = _side(match.name)
        if side is None:
            raise SpecError("its name does not say whether it is of an encoder or a decoder; write a rule for it")
        return side

    def both(self, match: Match) -> bool:
        """Whether the model has an encoder and a decoder."""
        known = {side for side, _ in self._counted(match).values()}
        return all(given or side in known for side, given in self._given.items())

    def own(self, match: Match) -> int | None:
        """The layers of the stack that a parameter is in, or of the only one."""
        side, place = _side(match.name), match.layers(match.name)
        given = self._given[side] if side else None
        if given or (place is not None and place.stack in self._counted(match)):
            return given or self._counted(match)[place.stack][1] or self._any_given()  # type: ignore[union-attr]
        return self.of(match, "encoder", "decoder")

    def _any_given(self) -> int | None:
        return next(filter(None, self._given.values()), None)

    def of(self, match: Match, *sides: str) -> int | None:
        """The layers of each stack of these sides, which must be the same."""
        if given := next(filter(None, (self._given[side] for side in sides)), None):
            return given
        sizes = {size for side, size in self._counted(match).values() if side in sides}
        if len(sizes) > 1:
            counts = sorted(size or 0 for size in sizes)
            raise SpecError(f"depends on several stacks, of {counts} layers; give {sides[0]}_layers=")
        if sizes == {None}:
            raise SpecError(f"the number of layers of the {sides[0]} does not follow; give {sides[0]}_layers=")
        return sizes.pop() if sizes else None


def _side(name: str) -> str | None:
    """Whether a name is in an encoder or a decoder; the outermost part that says so decides."""
    said = next(filter(None, map(_SIDE.search, name.split("."))), None)
    return None if said is None else {"enc": "encoder", "dec": "decoder"}[said[1].lower()]
