"""Adversarial networks and codebooks."""

from __future__ import annotations

import re
from typing import Final

from torch import nn

from zeta.base.modules import modules_of
from zeta.initializers import Initializer, Normal, Ones, Uniform, Zeros
from zeta.recipes.images.generative import AS_TORCH, layers_in
from zeta.recipes.parts import CONVOLUTIONS, MATRICES, Law, law, norms_and_biases, positive, recipe
from zeta.rules import Match, Rule, Rules, Where, kind, module, regex


@recipe
def dcgan(model: nn.Module) -> Rules:
    """DCGAN: convolutions N(0, 0.02²), norm scales N(1, 0.02²), biases 0; for the generator and the discriminator.

    Source: section 4 of Radford et al. 2015 (arXiv:1511.06434) for the weights; pytorch/examples, dcgan/main.py, for
    the norms.
    """
    return Rules(
        [
            Rule(Where("convolutions", CONVOLUTIONS & kind("weight")), Normal(0.02)),
            Rule(MATRICES, Normal(0.02), optional=True),
            Rule(Where("norm scales", kind("norm_scale")), Normal(0.02, mean=1.0), optional=True),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


@recipe
def stylegan2(model: nn.Module, *, mapping_lr: float = 0.01, discriminator: bool = False) -> Rules:
    """StyleGAN2: weights N(0, 1/m²), m the layer's learning rate multiplier; biases 0, those of styles 1.

    The forward pass multiplies each weight with m/sqrt(fan_in), the equalized learning rate. m is 1, and mapping_lr in
    the mapping network, unless the layer says otherwise (``bias_gain`` or ``lr_mul``). The styles are the affine layers
    before each modulated convolution. The constant input is N(0, 1), the strengths of the noise are 0.

    Options:
        mapping_lr: m of the layers of the mapping network, where they have no attribute that says it.
        discriminator: True for a discriminator, which has no styles; a model without them is otherwise an error.

    Source: NVlabs/stylegan2, training/networks_stylegan2.py (Karras et al. 2019, arXiv:1912.04958).
    """
    positive("stylegan2", mapping_lr=mapping_lr)
    noise = regex(r"(.*\.)?(noise_strength|noise(_?injection)?\d*\.weight|noise_weight)")
    styles = kind("bias") & regex(r"(.*\.)?(affine|modulation|style_?(proj|affine)|to_style)\.bias")
    return Rules(
        [
            *([] if discriminator else [Rule(Where("biases of styles", styles), Ones())]),
            Rule(Where("noise strengths", noise), Zeros(), optional=True),
            Rule(
                Where("weights and constant input", kind("weight")),
                law("N(0, 1/m²), m = mapping_lr or 1", _equalized(mapping_lr)),
            ),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
            Rule(Where("constant noise", regex(r"(.*\.)?noise_const")), Normal(1.0), buffers=True, optional=True),
        ]
    )


_MAPPING: Final = re.compile(r"(.*\.)?((mapping(_?net(work)?)?|mapper|z_to_w)\.(?!embed).*|style\.\d+\..*)")


def _equalized(mapping_lr: float) -> Law:
    def found(match: Match) -> Initializer:
        stated = (getattr(match.module, name, None) for name in ("bias_gain", "lr_mul", "lr_multiplier"))
        in_mapping = mapping_lr if _MAPPING.fullmatch(match.name) else 1.0
        multiplier = next((float(each) for each in stated if isinstance(each, float | int)), in_mapping)
        return Normal(1 / multiplier)

    return found


@recipe
def vq(model: nn.Module) -> Rules:
    """VQ: codebooks of K codes uniform on ±1/K, everything else as torch's own.

    A codebook is a parameter, or the table of an ``nn.Embedding``, whose name or module says so (codebook, quantizer,
    vq). Codebooks that are running averages are buffers, which are kept.

    Source: google-deepmind/sonnet and the released VQ-VAE and VQGAN code (van den Oord et al. 2017, arXiv:1711.00937).
    """
    words = regex(r"(?i)(.*[._])?(code_?books?|(vector_?)?quantiz\w*)([._].*)?")
    named = words | regex(r"(?i)(.*\.)?vq(_?(embed\w*|layer|ema))?(\..*)?")
    quantizers = (part for part in modules_of(model) if _QUANTIZER.search(type(part).__name__))
    codebooks = named | layers_in("", (part for quantizer in quantizers for part in modules_of(quantizer)))
    tables = codebooks & (kind("embedding") | (kind("weight") & ~module(nn.Linear) & ~CONVOLUTIONS))
    return Rules(
        [
            Rule(Where("codebooks", tables), law("uniform on ±1/K", lambda match: _within(1 / match.shape[-2]))),
            *AS_TORCH,
            *norms_and_biases(),
        ]
    )


#: not VQVAE and the like, which hold a quantizer and other tables
_QUANTIZER: Final = re.compile(
    r"(?i)quantiz(er|e|ation)?(ema|layer|block)?\d*$|codebook|^vq(embedding|layer|ema|module)?\d*$"
)


def _within(bound: float) -> Initializer:
    return Uniform(-bound, bound)
