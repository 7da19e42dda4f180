"""Images: convolutional networks and vision transformers."""

from __future__ import annotations

import math
from typing import Final

from torch import nn

from zeta.base.modules import modules_of, named_modules_of
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.initializers import (
    Constant,
    Initializer,
    Normal,
    Ones,
    Uniform,
    Zeros,
    kaiming_normal,
    lecun_truncated_normal,
)
from zeta.recipes.general.frameworks import by_fan_in
from zeta.recipes.parts import (
    CONVOLUTIONS,
    MATRICES,
    RESIDUAL,
    SHORTCUT,
    Law,
    choice,
    initializer_range,
    is_residual_block,
    law,
    layer,
    norms_and_biases,
    of_unknown_role,
    positive,
    recipe,
    symmetric,
    xavier,
    xavier_of_each,
)
from zeta.recipes.residual import convolves, last_norm
from zeta.recipes.tables import frozen_positions
from zeta.rules import Match, Rule, Rules, Where, glob, kind, module, regex, role


def _cuts_patches(match: Match) -> bool:
    """Whether a convolution cuts the image into pieces that do not overlap."""
    kernel, stride = (getattr(match.module, name, None) for name in ("kernel_size", "stride"))
    return isinstance(kernel, tuple) and kernel == stride and max(kernel) > 1


#: other convolutions have no rule: hybrids with a network in front are refused
_PATCHES: Final = CONVOLUTIONS & _cuts_patches
_PATCHES_AS_TORCH: Final = Rule(Where("convolution of patches", _PATCHES), by_fan_in, optional=True)
_MLP_BIASES: Final = Where(
    "MLP biases",
    role("mlp_up", bias=True) | role("mlp_gate", bias=True) | role("mlp_gate_up", bias=True)
    | role("mlp_down", bias=True),
)  # fmt: skip
_PROJECTIONS: Final = Where(
    "queries, keys and values", role("query_key_value") | role("query") | role("key") | role("value")
)
_REGISTERS: Final = regex(r"(.*\.)?(reg|registers?|reg_?tokens?|register_?tokens?)")
_DISTILLATION: Final = regex(r"(.*\.)?(dist|distill|distillation)_?token")


@recipe
def resnet(model: nn.Module, *, zero_init_residual: bool = False) -> Rules:
    """ResNet: convolutions N(0, 2/fan_out), norms 1 and 0, the classifier uniform on ±1/sqrt(fan_in).

    Options:
        zero_init_residual: the last norm of every residual block starts at 0, so that each block starts as the identity
            (Goyal et al. 2017, section 5.1). It is the norm after the last convolution that is no shortcut, in each
            innermost module that has a shortcut, or ``bn2`` and a name of a block; a stem is none. A block whose norms
            come before its convolutions is refused.

    Source: torchvision; He et al. 2015 (arXiv:1502.01852) and 2016 (arXiv:1512.03385).
    """
    convolution = module(nn.Conv1d) | module(nn.Conv2d) | module(nn.Conv3d)
    last_norms = frozenset(_last_norms(model)) if zero_init_residual else frozenset()

    def classifier(match: Match) -> Uniform:
        bound = 1 / math.sqrt(match.module.in_features)  # type: ignore[arg-type]
        return Uniform(-bound, bound)

    def ends_block(match: Match) -> bool:
        return match.module in last_norms

    last = Rule(Where("last norm of each block", kind("norm_scale") & ends_block), Zeros())
    return Rules(
        [
            *([last] if zero_init_residual else []),
            Rule(Where("convolutions", convolution & kind("weight")), kaiming_normal("fan_out", "relu")),
            Rule(Where("norm scales", kind("norm_scale")), Ones(), optional=zero_init_residual),
            Rule(module(nn.Linear), law("uniform on ±1/sqrt(fan_in)", classifier), optional=True, label="classifier"),
            Rule(Where("biases", kind("bias")), Zeros(), optional=True),
        ]
    )


def _last_norms(model: nn.Module) -> list[nn.Module]:
    """The norm that ends each residual block; what holds blocks is none, whatever norms its stem has."""
    found = {
        name: block
        for name, block in named_modules_of(model)
        if is_residual_block(name, block)
        and any(each in ("bn2", "bn3") or SHORTCUT.fullmatch(each) for each in block._modules)
        and sum(map(convolves, modules_of(block))) > 1
    }
    holders = {each for each in found for name in found if name != each and name.startswith(each and f"{each}.")}
    ends = {name: last_norm(block) for name, block in found.items() if name not in holders}
    if without := [name for name, norm in ends.items() if norm is None]:
        raise SpecError(
            f"the recipe 'resnet': zero_init_residual: no norm is found after the last convolution of {without[0]!r}: "
            "it comes before, or which convolution is the shortcut does not follow; leave the option out, and put "
            "rules for the norms before the recipe"
        )
    return [norm for norm in ends.values() if norm is not None]


@recipe
def vit(model: nn.Module, *, std: float | None = None) -> Rules:
    """ViT: weights, class token and position embeddings N(0, s²), norms 1, biases and the mask token 0.

    s is the config's ``initializer_range``, 0.02 without one.

    Options:
        std: s, where it is not to be the config's.

    Source: ``ViTPreTrainedModel`` in transformers (Dosovitskiy et al. 2020, arXiv:2010.11929).
    """
    positive("vit", std=std)
    weights = Where(
        "weights, class token and positions",
        kind("weight") | kind("embedding") | role("class_token") | role("position"),
    )
    return Rules(
        [
            *frozen_positions(model),
            Rule(Where("mask token", glob("*mask_token")), Zeros(), optional=True),
            Rule(weights, law("N(0, s²), s = initializer_range", lambda match: Normal(initializer_range(match, std)))),
            *norms_and_biases(),
        ]
    )


@recipe
def timm_vit(
    model: nn.Module,
    *,
    scheme: str = "timm",
    fix_init: bool = False,
    layer_scale: float | None = None,
    head: bool = True,
) -> Rules:
    """ViT of timm: weights and positions N(0, 0.02²), class token and registers N(0, 1e-12), norms 1, biases 0.

    The convolution that embeds patches starts as torch's own, uniform on ±1/sqrt(fan_in) with its bias. timm cuts its
    normals at the absolute ±2, which is 100 std, so they are not truncated here. l is the layer from 0.

    Options:
        scheme: ``"timm"`` as above. ``"jax"``: weights Xavier-uniform, biases of the MLPs N(0, 1e-12), convolutions
            LeCun-normal cut at 2 std with the variance kept, bias 0; the classifier 0. A packed query, key and value
            counts as one matrix, as in timm; the code in JAX does not pack them. ``"jax_nlhb"``: as ``"jax"``, and the
            classifier's bias -ln(classes). ``"moco"``: weights Xavier-uniform, with query, key and value each a matrix
            of its own even if packed; convolutions as torch's own.
        fix_init: attention outputs and MLP down projections are divided by sqrt(2 (l + 1)), as in BEiT.
        layer_scale: the start of the layer scales; without it, the module's ``init_values``.
        head: False for a model without a classifier, which the schemes of JAX otherwise require.

    Source: timm 1.0.31, models/vision_transformer.py (Dosovitskiy et al. 2020, arXiv:2010.11929; Chen et al. 2021,
    arXiv:2104.02057).
    """
    choice("timm_vit", "scheme", scheme, ("timm", "jax", "jax_nlhb", "moco"))
    jax = scheme.startswith("jax")
    weights = law("N(0, 0.02²)", lambda match: Normal(0.02)) if scheme == "timm" else xavier
    scaled = law(f"{weights.__doc__}; divided by sqrt(2 (l + 1))".replace(".;", ";"), _divided(weights))
    tokens = Where("class token and registers", role("class_token") | _REGISTERS | _DISTILLATION)
    classifier = [
        Rule(Where("classifier", role("readout")), Zeros()),
        Rule(Where("classifier bias", role("readout", bias=True)), _no_classes if scheme == "jax_nlhb" else Zeros()),
    ]
    convolution = [
        Rule(Where("convolution of patches", _PATCHES & kind("weight")), lecun_truncated_normal(), optional=True),
        Rule(_MLP_BIASES, Normal(1e-6)),
    ]
    return Rules(
        [
            *frozen_positions(model),
            Rule(tokens, Normal(1e-6), optional=True),
            Rule(Where("positions", role("position")), Normal(0.02), optional=True),
            Rule(Where("layer scales", role("layer_scale")), _layer_scale("timm_vit", layer_scale), optional=True),
            *(Rule(each, scaled) for each in RESIDUAL if fix_init),
            *(classifier if jax and head else []),
            *(convolution if jax else [_PATCHES_AS_TORCH]),
            *([Rule(_PROJECTIONS, xavier_of_each)] if scheme == "moco" else []),
            *([of_unknown_role()] if fix_init or scheme == "moco" else []),
            Rule(MATRICES, weights),
            *norms_and_biases(),
        ]
    )


def _divided(weights: Law) -> Law:
    return lambda match: weights(match) / math.sqrt(2 * (layer(match) + 1))


def _no_classes(match: Match) -> Initializer:
    """-ln(classes): each class starts with the probability 1/classes under a sigmoid."""
    return Constant(-math.log(match.shape[0]))


def _layer_scale(recipe_name: str, given: float | None, default: float | None = None) -> Law:
    """The start of a layer scale: as given, or as the module, the config or the recipe has it."""
    if given is not None and not 0 <= given < math.inf:
        raise SpecError(f"the recipe {recipe_name!r}: layer_scale must be at least 0, got {shown(given)}")

    def found(match: Match) -> Initializer:
        attributes = ((match.module, "init_values"), (match.config, "layer_scale_init_value"))
        known = (getattr(owner, name, None) for owner, name in attributes)
        value = next((float(each) for each in (given, *known, default) if isinstance(each, float | int)), None)
        if value is None:
            raise SpecError("is a layer scale, and its module does not say where it starts; give layer_scale=")
        return Constant(value)

    return law(f"layer_scale=, or what the model says{'' if default is None else f', or {default:g}'}", found)


@recipe
def deit(model: nn.Module, *, layer_scale: float | None = None) -> Rules:
    """DeiT: weights, positions, class token and distillation token N(0, 0.02²), norms 1, biases 0.

    The convolution that embeds patches starts as torch's own, uniform on ±1/sqrt(fan_in) with its bias. The normals are
    cut at the absolute ±2, which is 100 std: not at all. Later versions of timm, and transformers, start the class
    token otherwise (N(0, 1e-12), 0); the recipe follows the released code.

    Options:
        layer_scale: the start of the layer scales of DeiT III (1e-4 and smaller) and CaiT; without it, the module's
            ``init_values``.

    Source: facebookresearch/deit, models.py (Touvron et al. 2020, arXiv:2012.12877; 2022, arXiv:2204.07118).
    """
    tokens = Where("class token and distillation token", role("class_token") | _DISTILLATION)
    return Rules(
        [
            *frozen_positions(model),
            Rule(tokens, Normal(0.02)),
            Rule(Where("positions", role("position")), Normal(0.02)),
            Rule(Where("layer scales", role("layer_scale")), _layer_scale("deit", layer_scale), optional=True),
            _PATCHES_AS_TORCH,
            Rule(MATRICES, Normal(0.02)),
            *norms_and_biases(),
        ]
    )


@recipe
def swin(model: nn.Module) -> Rules:
    """Swin: weights and tables of relative positions N(0, 0.02²), norms 1, biases 0.

    Absolute positions, if there are any, and the mask token of SimMIM too. The convolution that embeds patches starts
    as torch's own, uniform on ±1/sqrt(fan_in) with its bias. The normals are cut at the absolute ±2, which is 100 std:
    not at all. transformers starts the tables and positions at 0 and draws the convolution from N(0, 0.02²); the recipe
    follows the released code.

    Source: microsoft/Swin-Transformer, models/swin_transformer.py and simmim.py (Liu et al. 2021, arXiv:2103.14030).
    """
    return Rules(
        [
            Rule(Where("tables of relative positions", role("relative_position")), Normal(0.02)),
            Rule(_POSITIONS_AND_MASK, Normal(0.02), optional=True),
            _PATCHES_AS_TORCH,
            Rule(MATRICES, Normal(0.02)),
            *norms_and_biases(),
        ]
    )


_POSITIONS_AND_MASK: Final = Where("absolute positions and mask token", role("position") | glob("*mask_token"))
#: the norms that end the branches of a block, in Swin V2
_NORMS_OF_BRANCHES: Final = Where(
    "norms after the branches",
    (kind("norm_scale") | kind("bias"))
    & regex(
        r"(.*\.)?\d+\.((res_?)?(post_?)?norm_?[12]|layer_?norm_(before|after)|(post_?)?(attn|attention|mlp|ffn)_?(post_?)?norm)"
        r"\.\w+"
    ),
)


@recipe
def swin_v2(model: nn.Module) -> Rules:
    """Swin V2: weights N(0, 0.02²), the norms after attention and MLP 0, other norms 1, logit scales ln 10, biases 0.

    The norms that end the branches start at 0, so that each block starts as the identity. The weights include the MLPs
    of the continuous relative positions. The convolution that embeds patches starts as torch's own, uniform on
    ±1/sqrt(fan_in) with its bias. transformers and torchvision start the norms after the branches at 1; the recipe
    follows the released code.

    Source: microsoft/Swin-Transformer, models/swin_transformer_v2.py (Liu et al. 2021, arXiv:2111.09883).
    """
    return Rules(
        [
            Rule(Where("logit scales", regex(r"(.*\.)?(logit_?scale|tau)")), Constant(math.log(10))),
            Rule(_NORMS_OF_BRANCHES, Zeros()),
            Rule(_POSITIONS_AND_MASK, Normal(0.02), optional=True),
            _PATCHES_AS_TORCH,
            Rule(MATRICES, Normal(0.02)),
            *norms_and_biases(),
        ]
    )


@recipe
def convnext(model: nn.Module, *, layer_scale: float | None = None, head_init_scale: float = 1.0) -> Rules:
    """ConvNeXt: convolutions and linear weights N(0, 0.02²), layer scales 1e-6, norms 1, biases 0.

    In ConvNeXt V2, the scale and bias of global response normalization are 0, and there are no layer scales. The
    normals are cut at the absolute ±2, which is 100 std: not at all.

    Options:
        layer_scale: the start of the layer scales; without it, the config's ``layer_scale_init_value``, or 1e-6.
        head_init_scale: the factor of the classifier's weight; 0.001 in some fine-tuning.

    Source: facebookresearch/ConvNeXt, models/convnext.py, and ConvNeXt-V2 (Liu et al. 2022, arXiv:2201.03545; Woo et
    al. 2023, arXiv:2301.00808).
    """
    positive("convnext", head_init_scale=head_init_scale or None)
    grn = regex(r"(?i)(.*[._])?(grn|global_?response_?norm\w*)\d*\.\w+") | module("GRN")
    scales = Where("layer scales", role("layer_scale") | (regex(r"(.*\.)?gamma") & kind("other")))
    classifier = Rule(Where("classifier", role("readout")), Normal(0.02) * head_init_scale)
    return Rules(
        [
            Rule(Where("global response normalization", grn), Zeros(), optional=True),
            Rule(scales, _layer_scale("convnext", layer_scale, 1e-6), optional=True),
            *([classifier] if head_init_scale != 1 else []),
            Rule(Where("convolutions", CONVOLUTIONS & kind("weight")), Normal(0.02)),
            Rule(MATRICES, Normal(0.02), optional=True),
            *norms_and_biases(),
        ]
    )


@recipe
def efficientnet(model: nn.Module) -> Rules:
    """EfficientNet: convolutions N(0, 2/fan_out), fan_out = k² out/groups; linear uniform on ±1/sqrt(out), biases 0.

    Norms are 1 and 0. It is also the initialization of MobileNetV3, MnasNet and MixNet. Routing layers of CondConv are
    uniform on ±1/sqrt(in + out). torchvision does not divide fan_out by the groups, so that its
    depthwise convolutions start smaller; transformers draws the norms' scales from N(0, 0.02²). The recipe follows the
    released code in TensorFlow.

    Source: tensorflow/tpu, models/official/efficientnet (Tan & Le 2019, arXiv:1905.11946), as in timm 1.0.31,
    models/_efficientnet_builder.py.
    """
    routed = law("uniform on ±1/sqrt(in + out)", lambda match: symmetric(1 / sum(match.shape)))
    mixtures = Where("mixtures of kernels", module("CondConv2d") & kind("weight"))
    routing = Where("routing layers", MATRICES & regex(r".*routing_fn.*"))
    return Rules(
        [
            Rule(mixtures, law("N(0, 2/fan_out), fan_out = k² out/groups of one kernel", _of_a_mixture), optional=True),
            Rule(Where("convolutions", CONVOLUTIONS & kind("weight")), kaiming_normal("fan_out", "relu")),
            Rule(routing, routed, optional=True),
            Rule(MATRICES, law("uniform on ±1/sqrt(out)", lambda match: symmetric(1 / match.shape[0])), optional=True),
            *norms_and_biases(),
        ]
    )


def _of_a_mixture(match: Match) -> Initializer:
    """Each row of the weight is one of the kernels."""
    kernel, out, groups = (getattr(match.module, name) for name in ("kernel_size", "out_channels", "groups"))
    return Normal(math.sqrt(2 / (math.prod(kernel) * out / groups)))


@recipe
def nnunet(model: nn.Module, *, zero_last_norm: bool = False) -> Rules:
    """nnU-Net: convolutions N(0, 2/((1 + a²) fan_in)), a = 0.01, norms 1, biases 0.

    a is the slope of the leaky ReLU. fan_in is as torch counts it, which for a transposed convolution is its outputs
    times the kernel.

    Options:
        zero_last_norm: the scale of the norm that ends each residual block starts at 0 (residual encoders); it is the
            ``norm`` of ``conv3`` of a bottleneck and of ``conv2`` of a basic block.

    Source: MIC-DKFZ/dynamic-network-architectures, initialization/weight_init.py (Isensee et al. 2018,
    arXiv:1809.10486; 2024, arXiv:2404.09556).
    """
    blocks = (getattr(block, "conv3", None) or getattr(block, "conv2", None) for block in modules_of(model))
    last = frozenset(norm for conv in blocks if isinstance(norm := getattr(conv, "norm", None), nn.Module))

    def ends_block(match: Match) -> bool:
        return match.module in last

    def kernel(match: Match) -> Initializer:
        return Normal(math.sqrt(2 / ((1 + 0.01**2) * match.torch_fans.fan_in)))

    zero = Rule(Where("last norm of each residual block", kind("norm_scale") & ends_block), Zeros())
    return Rules(
        [
            *([zero] if zero_last_norm else []),
            Rule(
                Where("convolutions", CONVOLUTIONS & kind("weight")),
                law("N(0, 2/((1 + 0.01²) fan_in)), fan_in as torch counts it", kernel),
            ),
            *norms_and_biases(),
        ]
    )
