"""Diffusion: transformers, U-Nets and what controls them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import nn

from zeta.base.modules import modules_of, named_modules_of
from zeta.errors import SpecError
from zeta.initializers import Data, Initializer, Keep, Normal, Ones, Program, Step, Uniform, Zeros
from zeta.recipes.general.frameworks import by_fan_in
from zeta.recipes.parts import (
    CONVOLUTIONS,
    MATRICES,
    choice,
    law,
    norms_and_biases,
    recipe,
    symmetric,
    xavier,
    xavier_of_each,
    xavier_packed,
)
from zeta.recipes.residual import convolves, leads_out_of_attention, main_path, undecided
from zeta.rules import Match, Rule, Rules, Where, kind, module, ndim, regex, role

#: linear layers and convolutions as torch's own, and tables N(0, 1)
AS_TORCH: Final = (
    Rule(Where("convolutions", CONVOLUTIONS), by_fan_in, optional=True),
    Rule(Where("linear layers", module(nn.Linear)), by_fan_in, optional=True),
    Rule(Where("embeddings", kind("embedding")), Normal(1.0), optional=True),
)


def layers_in(label: str, layers: Iterator[nn.Module] | frozenset[nn.Module]) -> Where:
    """The weights and biases of these layers."""
    found = frozenset(layers)
    return Where(label, lambda match: match.module in found)


# -- transformers ------------------------------------------------------------------------------------------------------

_MODULATION: Final = re.compile(r"(?i)ada(_?ln|_?norm)?(_?(modulation|zero))?(_\w+)?|(\w+_)?modulation(_\w+)?")
#: layers of one modulation that do not follow each other
_PARTS: Final = re.compile(r"(?i)(to_?)?(shift|scale|gate|gamma|beta|alpha)(_\w+|\d+)?")
_MODULATION_CLASS: Final = re.compile(r"Ada(ptive)?(Layer|RMS)?(Norm|LN)(Zero|Single|Continuous)*|\w*Modulation")
_TIMESTEP: Final = regex(r"(?i)(.*[._])?(t|time_?steps?|time)_?(embed\w*|emb|mlp|proj)\..*")


@recipe
def dit(model: nn.Module) -> Rules:
    """DiT: weights Xavier-uniform, label table and timestep MLP N(0, 0.02²), modulations and the final layer 0.

    The modulations are the last linear layers of each adaptive norm (adaLN-Zero), so that each block starts as the
    identity. The patch embedding is Xavier-uniform as a linear layer would be: its in is channels times pixels, its out
    the width. A block (a numbered module with attention) in which no modulation is found is refused, and so is what
    looks like another modulation. A packed query,
    key and value counts as one matrix, as in the released code; separate ones get the same law. Positions, if they are
    a parameter, are the fixed two-dimensional table of sines and cosines. Biases are 0.

    Source: facebookresearch/DiT, models.py (Peebles & Xie 2022, arXiv:2212.09748).
    """
    found = frozenset(_modulations(model))
    modulations = layers_in("last layer of each modulation", found)
    plain = layers_in("blocks without a modulation", frozenset(_blocks_without(model, found)))
    last = Where("modulation of the final layer", regex(r"(.*\.)?proj_out_1\.\w+"))
    final = (role("readout") | role("readout", bias=True)) & ~(modulations | last)
    return Rules(
        [
            Rule(plain, law("refused", _refuse_block), optional=True),
            Rule(modulations, Zeros()),
            Rule(last, Zeros(), optional=True),
            Rule(Where("final layer", final), Zeros()),
            Rule(Where("timestep MLP", MATRICES & _TIMESTEP), Normal(0.02)),
            Rule(Where("table of labels", role("embedding")), Normal(0.02), optional=True),
            Rule(Where("positions", role("position")), _SINES, optional=True),
            Rule(Where("patch embedding", role("patch_embedding")), _xavier_of_patches),
            Rule(MATRICES, xavier_packed),
            *norms_and_biases(),
        ]
    )


def _modulations(model: nn.Module) -> Iterator[nn.Module]:
    """The last linear layers of each adaptive norm, by the name or the class of the module around it."""
    for name, part in named_modules_of(model):
        if _MODULATION.fullmatch(name.rpartition(".")[2]) or _MODULATION_CLASS.fullmatch(type(part).__name__):
            side_by_side = isinstance(part, nn.ModuleDict | nn.ModuleList) or all(map(_PARTS.fullmatch, part._modules))
            for each in part._modules.values() if side_by_side and part._modules else [part]:
                yield from [layer for layer in modules_of(each or part) if isinstance(layer, nn.Linear)][-1:]


def _blocks_without(model: nn.Module, modulations: frozenset[nn.Module]) -> Iterator[nn.Module]:
    """The layers of blocks with attention in which there is no modulation, and what may be another modulation.

    That is an activation and a linear layer that gives several vectors as wide as its input, in a block.
    """
    for name, block in named_modules_of(model):
        inside = dict(named_modules_of(block))
        around = (*inside, *(type(each).__name__ for each in inside.values()))
        if not name.rpartition(".")[2].isdecimal() or not any(re.search("(?i)att(n|ention)", part) for part in around):
            continue
        if not modulations.intersection(inside.values()):
            yield from inside.values()
        for part in inside.values():
            layers = [*part._modules.values()] if isinstance(part, nn.Sequential) else []
            last = layers[-1] if len(layers) == 2 and not next(layers[0].parameters(), None) else None
            if isinstance(last, nn.Linear) and last not in modulations and last.out_features in _several(last):
                yield last


def _several(layer: nn.Linear) -> range:
    """Multiples of the inputs from 2 on."""
    return range(2 * layer.in_features, 13 * layer.in_features, layer.in_features)


def _refuse_block(match: Match) -> Initializer:
    raise SpecError(
        "is in a block with attention in which no modulation is found by name or class, as adaLN_modulation, or may be "
        "a modulation itself; "
        f'it would not start at 0: put rules for the block before the recipe, as Rule("{match.name}", ...)'
    )


def _xavier_of_patches(match: Match) -> Initializer:
    """Uniform on ±sqrt(6 / (in + out)), in = channels times pixels, out = width."""
    return symmetric(6 / (match.shape[0] + math.prod(match.shape[1:])))


def _sines(match: Match) -> Initializer:
    *_, positions, width = match.shape
    side = math.isqrt(positions)
    if side * side != positions or width % 4 or math.prod(match.shape) != positions * width:
        raise SpecError(
            f"is a table of positions of shape {tuple(match.shape)}, and no square grid with a width that 4 divides; "
            "put a rule of your own before the recipe"
        )
    rates = 10000 ** -(torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    angles = torch.arange(side, dtype=torch.float64, device="cpu")[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    columns, rows = line.expand(side, side, -1), line[:, None].expand(side, side, -1)
    table = torch.cat([columns, rows], dim=2).reshape(match.shape).to(match.dtype)
    return Program((Step(op="data", leaf=Data.of(table), shape=match.shape, dtype=match.dtype),))


_SINES: Final = law("sin(p w), cos(p w), w = 10000^(-4 k/d), p the column, then the row", _sines)

# -- U-Nets ------------------------------------------------------------------------------------------------------------

_BLOCK_CLASS: Final = re.compile(
    r"Res(idual|[Nn]et)?_?(Conv)?_?([Bb]l(oc)?k|[Uu]nit)|(^|_)res(idual|net)?_?(conv)?_?(block|unit)|U[Nn]et_?[Bb]lock"
)
#: classes that may be residual blocks too
_LIKE_A_BLOCK: Final = re.compile(r"Res(?=[A-Z_\d]|$)|Residual|Res[Nn]et|(^|_)res(idual|net)?(_|$)")
_OUTPUT: Final = re.compile(
    r"(?i)((?:.*\.)?)((\w+_)?out|output|conv_?out|out_?conv|final_?conv|final|\w+_aux_conv)(\.\d+)?"
)


@recipe
def diffusion_unet(model: nn.Module, *, scheme: str = "adm") -> Rules:
    """Diffusion U-Net: as torch's own, but the ends of residual blocks, the attention outputs and the output 0.

    The end of a block is its last convolution. Each block starts as the identity, and the network predicts 0. An
    attention's output is 0 where it leads back to the image; the layers inside of transformer blocks (latent diffusion)
    start as torch's own, and the projection behind them at 0. diffusers sets none of these to 0; the recipe follows the
    released code. Residual blocks are found by their classes (ResBlock, ResnetBlock2D and the like), the output by its
    name.

    Options:
        scheme: ``"adm"`` as above: guided and latent diffusion. ``"ddpm"``: weights Xavier-uniform, biases 0, and 1e-5
            times that for what is 0 above (a variance of 1e-10); a packed query, key and value counts as three
            matrices, which they are there.

    Source: openai/guided-diffusion, unet.py (Dhariwal & Nichol 2021, arXiv:2105.05233), and CompVis/latent-diffusion,
    openaimodel.py; hojonathanho/diffusion, nn.py and models/unet.py (Ho et al. 2020, arXiv:2006.11239).
    """
    choice("diffusion_unet", "scheme", scheme, ("adm", "ddpm"))
    ddpm = scheme == "ddpm"
    attentions = (role("attention_output") | role("attention_output", bias=True)) & ~regex(r".*transformer_?blocks.*")
    ends = [
        Where("last convolution of each residual block", layers_in("", _residual_ends(model))),
        Where("attention outputs", attentions | regex(r"(.*\.)?proj_out\.\w+")),
        Where("output", layers_in("", _outputs(model))),
    ]
    start, affected = (_small, kind("weight")) if ddpm else (Zeros(), kind("weight") | kind("bias"))
    return Rules(
        [
            *_unknown_blocks(model),
            *(Rule(end & affected, start, label=end.label, optional=end is ends[1]) for end in ends),
            *(_XAVIER if ddpm else AS_TORCH),
            *norms_and_biases(),
        ]
    )


_XAVIER: Final = (
    Rule(Where("convolutions", CONVOLUTIONS & kind("weight")), xavier_of_each),
    Rule(MATRICES, xavier_of_each, optional=True),
)


def _small(match: Match) -> Initializer:
    """Uniform on ±1e-5 sqrt(6 / (in + out))."""
    return xavier(match) * 1e-5


def _blocks(model: nn.Module) -> list[nn.Module]:
    """The innermost residual blocks, by their classes."""
    known = [block for block in modules_of(model) if _BLOCK_CLASS.search(type(block).__name__)]
    return [block for block in known if not any(part in known for part in modules_of(block) if part is not block)]


def _residual_ends(model: nn.Module) -> Iterator[nn.Module]:
    """The last convolution on the main path of each residual block."""
    for block in _blocks(model):
        yield from (main_path(block, convolves) or [])[-1:]


def _unknown_blocks(model: nn.Module) -> list[Rule]:
    """Refuses what may be a residual block by its class, and neither is known nor holds one or is in one."""
    known = _blocks(model)
    inside = frozenset(part for block in known for part in modules_of(block))
    unknown = frozenset(
        part
        for block in modules_of(model)
        if _LIKE_A_BLOCK.search(type(block).__name__) and not inside.intersection(modules_of(block))
        for part in main_path(block, convolves) or ()
        if block is not model
    )

    def refuse(match: Match) -> Initializer:
        raise SpecError(
            "may be in a residual block, whose class has no known name, and its last convolution must start at 0: put "
            f'rules for the block before the recipe, as Rule("{match.name}", ...)'
        )

    where = layers_in("residual blocks of unknown classes", unknown)
    return [undecided(known, convolves), Rule(where, law("refused", refuse), optional=True)]


def _outputs(model: nn.Module) -> Iterator[nn.Module]:
    """The convolutions that give the outputs, one by each name: of a network, and none inside of one that has some."""
    found: dict[str, dict[str, nn.Module]] = {}
    for name, part in named_modules_of(model):
        if convolves(part) and (said := _OUTPUT.fullmatch(name)):
            found.setdefault(said[1], {})[said[2]] = part  # of several in a row the last
    for outer, parts in found.items():
        if not any(outer != other and outer.startswith(other) for other in found):
            yield from parts.values()


@recipe
def controlnet(model: nn.Module) -> Rules:
    """ControlNet: the zero convolutions and the end of the hint's encoder 0; keeps the copied encoder.

    The zero convolutions lead from the copy to the locked network, so that training starts from what the locked network
    computes. The other convolutions of the hint's encoder start as torch's own. All other parameters are the copy of a
    trained U-Net, which no law can give: load them before or after.

    Source: lllyasviel/ControlNet, cldm/cldm.py (Zhang et al. 2023, arXiv:2302.05543).
    """
    hints = [part for name, part in named_modules_of(model) if _HINT.fullmatch(name.rpartition(".")[2])]
    ends = (layer for hint in hints for layer in [each for each in modules_of(hint) if _layer(each)][-1:])
    inside = (layer for hint in hints for layer in modules_of(hint))
    zero = regex(
        r"(.*\.)?(zero_?(conv|module|layer)s?\w*|out_?convs|controlnet_(down_|single_)?blocks|middle_block_out|controlnet_mid_block)"
        r"(\..*)?\.(weight|bias)"
    )
    return Rules(
        [
            Rule(Where("zero convolutions", zero), Zeros()),
            Rule(layers_in("end of the hint's encoder", ends), Zeros()),
            Rule(Where("hint's encoder", layers_in("", inside) & CONVOLUTIONS), by_fan_in, optional=True),
            Rule(Where("copied encoder", lambda match: True), Keep(), optional=True),
        ]
    )


_HINT: Final = re.compile(
    r"(?i)(input_)?hint(_?(block|encoder|embed\w*))?|controlnet_cond_embedding|cond_?(embedding|encoder)"
    r"|controlnet_x_embedder|pos_embed_input"
)


def _layer(part: nn.Module) -> bool:
    return isinstance(part, nn.Linear | nn.modules.conv._ConvNd)


# -- EDM ---------------------------------------------------------------------------------------------------------------


@recipe
def edm(model: nn.Module, *, scheme: str = "ddpmpp") -> Rules:
    """EDM: weights Xavier-uniform, of attention sqrt(0.2) of it, the ends of branches and the output 1e-5 of it.

    Biases are 0, norms 1. This is the initialization of DDPM++ and NCSN++ in EDM's code. "Of attention" is the packed
    query, key and value, which count as one matrix. The
    frequencies of NCSN++ are N(0, 16²). Residual blocks are found by their class (UNetBlock, ResBlock and the like).

    Options:
        scheme: ``"ddpmpp"`` as above. ``"adm"``: weights and biases uniform on ±1/sqrt(fan_in); the ends of branches,
            the output and the map of augmentations 0; the map of labels N(0, 1).

    Source: NVlabs/edm, training/networks.py (Karras et al. 2022, arXiv:2206.00364).
    """
    choice("edm", "scheme", scheme, ("ddpmpp", "adm"))
    ends = Where("ends of residual blocks", layers_in("", _residual_ends(model)))
    modules = dict(named_modules_of(model))
    named = layers_in("", (part for name, part in modules.items() if leads_out_of_attention(name, modules)))
    attentions = Where("attention outputs", role("attention_output") | role("attention_output", bias=True) | named)
    output = Where("output", layers_in("", _outputs(model)))
    if scheme == "adm":
        weights = kind("weight") & (ndim(2) | ndim(4))
        return Rules(
            [
                *_unknown_blocks(model),
                Rule(ends, Zeros()),
                Rule(attentions, Zeros(), optional=True),
                Rule(output, Zeros()),
                Rule(Where("map of augmentations", regex(r"(.*\.)?map_augment\.weight")), Zeros(), optional=True),
                Rule(Where("map of labels", regex(r"(.*\.)?map_label\.weight")), Normal(1.0), optional=True),
                Rule(Where("norm scales", kind("norm_scale")), Ones(), optional=True),
                Rule(Where("norm biases", kind("bias") & _has_vectors), Zeros(), optional=True),
                Rule(Where("weights and biases", weights | kind("bias")), _by_its_weight),
            ]
        )
    packed = Where("queries, keys and values", regex(r"(.*\.)?(attn_)?(to_)?qkv\.weight"))
    frequencies = Where("frequencies", regex(r"(.*\.)?freqs"))
    return Rules(
        [
            *_unknown_blocks(model),
            Rule(ends & kind("weight"), _small, label=ends.label),
            Rule(attentions & kind("weight"), _small, optional=True, label=attentions.label),
            Rule(output & kind("weight"), _small, label=output.label),
            Rule(packed, law("sqrt(0.2) times uniform on ±sqrt(6 / (in + out))", _fifth), optional=True),
            Rule(Where("weights", kind("weight") & (ndim(2) | ndim(4))), xavier),
            *norms_and_biases(),
            Rule(frequencies, Normal(16.0), buffers=True, optional=True),
        ]
    )


def _fifth(match: Match) -> Initializer:
    return xavier(match) * math.sqrt(0.2)


def _has_vectors(match: Match) -> bool:
    """Whether a module's weight is a vector, as of a norm."""
    weight = match.module._parameters.get("weight")
    return weight is not None and weight.ndim < 2


def _by_its_weight(match: Match) -> Initializer:
    """Uniform on ±1/sqrt(fan_in), of a bias too."""
    weight: Any = match.module._parameters.get("weight")
    return symmetric(1 / math.prod((match.shape if weight is None else weight.shape)[1:]))


@recipe
def edm2(model: nn.Module) -> Rules:
    """EDM2: weights N(0, 1), gains 0; frequencies N(0, (2π)²), phases uniform on [0, 2π).

    The forward pass normalizes the weights (forced weight normalization), so that their scale has no effect. The gains
    of the embeddings and of the output are scalars.

    Source: NVlabs/edm2, training/networks_edm2.py (Karras et al. 2023, arXiv:2312.02696).
    """
    return Rules(
        [
            Rule(Where("gains", regex(r"(.*[._])?gain")), Zeros()),
            Rule(Where("weights", kind("weight")), Normal(1.0)),
            Rule(Where("frequencies", regex(r"(.*\.)?freqs")), Normal(2 * math.pi), buffers=True, optional=True),
            Rule(Where("phases", regex(r"(.*\.)?phases")), Uniform(0.0, 2 * math.pi), buffers=True, optional=True),
        ]
    )
