"""Detection: DETR and RetinaNet."""

from __future__ import annotations

import math
from typing import Any, Final

import torch
from torch import nn

from zeta.base.modules import modules_of
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.initializers import (
    Blocks,
    Constant,
    Data,
    Initializer,
    Normal,
    Ones,
    Program,
    Step,
    Uniform,
    Zeros,
    kaiming_normal,
    lecun_uniform,
)
from zeta.recipes.general.frameworks import by_fan_in
from zeta.recipes.parts import CONVOLUTIONS, MATRICES, Law, law, norms_and_biases, recipe, xavier, xavier_packed
from zeta.rules import Match, Role, Rule, Rules, Where, kind, module, regex

#: a ResNet; before it, what is not part of it although its name says so
_BACKBONE: Final = regex(r"(.*\.)?(backbone|body|bottom_up)\..*")
_BACKBONE_RULES: Final = (
    Rule(
        Where("backbone's convolutions", _BACKBONE & CONVOLUTIONS & kind("weight")),
        kaiming_normal("fan_out", "relu"),
        optional=True,
    ),
    Rule(Where("backbone's norm scales", _BACKBONE & kind("norm_scale")), Ones(), optional=True),
    Rule(Where("backbone's biases", _BACKBONE & kind("bias")), Zeros(), optional=True),
)

# -- DETR --------------------------------------------------------------------------------------------------------------

_ATTENTION: Final = (Role.QUERY, Role.KEY, Role.VALUE, Role.QUERY_KEY_VALUE, Role.ATTENTION_OUTPUT)
_IN_TRANSFORMER: Final = (*_ATTENTION, Role.MLP_UP, Role.MLP_GATE, Role.MLP_GATE_UP, Role.MLP_DOWN)
_CLASSES: Final = regex(r"(.*\.)?(class_?(embed|head|labels_classifier|predictor)|cls_branches)(\.\d+)?\.(weight|bias)")
_BOXES: Final = regex(r"(.*\.)?(b?box_?(embed|predictor|head|pred)\w*|reg_branches)\..*")
_HEADS: Final = Where("heads", (_CLASSES | _BOXES) & module(nn.Linear))
_ATTENTION_BIASES: Final = Rule(
    Where("attention biases", kind("bias") & (lambda match: match.role in _ATTENTION)), Zeros(), optional=True
)
_TRANSFORMER: Final = Rule(
    Where(
        "matrices of the transformer",
        MATRICES
        & (
            regex(r"(.*\.)?(transformer|encoder|decoder|enc_output|pos_trans)\..*")
            | (lambda match: match.role in _IN_TRANSFORMER)
        ),
    ),
    xavier_packed,
)
_MASKS: Final = regex(r"(.*\.)?mask_?head\..*")
_MASK_ATTENTION: Final = regex(r"(.*\.)?(bbox|mask)_?attention\.[qk]_?(linear|proj)\.\w+")
_FEATURES: Final = regex(r"(.*\.)?(\w*proj(ection)?s?|conv)(\.\d+)*\.\w+")
_TABLES: Final = (
    Rule(
        Where("learned rows and columns", kind("embedding") & regex(r"(.*\.)?(row|col(umn)?)_embed(dings)?\.weight")),
        Uniform(0.0, 1.0),
        optional=True,
    ),
    Rule(Where("queries", kind("embedding")), Normal(1.0)),
)


@recipe
def detr(model: nn.Module) -> Rules:
    """DETR: matrices of the transformer Xavier-uniform, attention biases 0, queries N(0, 1), the rest as torch's own.

    Query, key and value are one packed matrix in the released code; separate ones get the same law. Biases of the
    MLPs, the heads and the projection of the features are torch's own, uniform on ±1/sqrt(fan_in). Learned positions of
    rows and columns are uniform on [0, 1). For masks, the convolutions of the mask head are uniform on ±sqrt(3/fan_in),
    the query and key of the attention that gives them Xavier-uniform, each a matrix of its own, biases 0. Convolutions
    that are of no backbone, no projection and no mask head are refused. The backbone starts as a ResNet does:
    convolutions N(0, 2/fan_out); the paper loads a trained one, and ``Rule("backbone.*", Keep())`` before the recipe
    keeps it. transformers draws weights from N(0, 0.02²); the recipe follows the released code.

    Source: facebookresearch/detr, models/transformer.py, detr.py and segmentation.py (Carion et al. 2020,
    arXiv:2005.12872).
    """
    return Rules(
        [
            *_TABLES,
            *_BACKBONE_RULES,
            Rule(_HEADS, by_fan_in),
            Rule(Where("mask head", _MASKS & CONVOLUTIONS & kind("weight")), lecun_uniform(), optional=True),
            Rule(Where("attention of masks", _MASK_ATTENTION & kind("weight")), xavier, optional=True),
            Rule(Where("biases of masks", (_MASKS | _MASK_ATTENTION) & kind("bias")), Zeros(), optional=True),
            _ATTENTION_BIASES,
            _TRANSFORMER,
            Rule(Where("projection of the features", _FEATURES & CONVOLUTIONS), by_fan_in, optional=True),
            Rule(Where("other linear layers", module(nn.Linear)), by_fan_in, optional=True),
            *norms_and_biases(),
        ]
    )


@recipe
def deformable_detr(
    model: nn.Module,
    *,
    prior: float = 0.01,
    two_stage: bool = False,
    heads: int | None = None,
    levels: int | None = None,
    points: int | None = None,
) -> Rules:
    """Deformable DETR: sampling offsets point around the query, attention weights start even, the rest as DETR.

    Weights of sampling offsets and of attention weights are 0. The bias of the offsets is, for head h and point i from
    0, the direction of the angle 2π h/heads, divided by its larger coordinate and times i + 1, on every level. Level
    embeddings and object queries are N(0, 1); projections of the features Xavier-uniform with bias 0. The classes' bias
    is -ln((1 - p)/p), so that each class starts with the probability p; the last layer of the box head is 0, and its
    bias (0, 0, -2, -2), of all heads but the first (0, 0, 0, 0). Other matrices of the transformer are Xavier-uniform,
    other biases of linear layers torch's own. The backbone is as in ``detr``. transformers leaves the heads at
    N(0, 0.02²) and 0; the recipe follows the released code.

    Options:
        prior: p.
        two_stage: the bias of every box head is 0, as in the two-stage model.
        heads: the number of heads of the deformable attention; without it, its module's ``n_heads`` or ``num_heads``.
        levels: the number of levels; without it, ``n_levels`` or ``num_levels``.
        points: the number of points; without it, ``n_points`` or ``num_points``.

    Source: fundamentalvision/Deformable-DETR, models/deformable_detr.py and ops/modules/ms_deform_attn.py (Zhu et al.
    2020, arXiv:2010.04159).
    """
    deformable = [part for part in modules_of(model) if "sampling_offsets" in part._modules]
    holders = {id(part._modules["sampling_offsets"]): part for part in deformable}
    own = frozenset(layer for part in deformable for layer in part._modules.values())

    def matrix(match: Match) -> Initializer:
        return (xavier if match.module in own else xavier_packed)(match)

    directions = law(
        "(cos, sin)(2π h/heads), divided by the larger, times i + 1",
        _directions(holders, heads=heads, levels=levels, points=points),
    )
    projection = regex(r"(.*\.)?(input_proj\w*|feature_proj\w*)\..*") & CONVOLUTIONS
    references = regex(r"(.*\.)?reference_points\.\w+")
    last = _BOXES & Where("4 outputs", lambda match: match.shape[0] == 4)
    first = kind("bias") & ~regex(r".*(embed|predictor|head|pred|branches)\.[1-9]\d*\..*")
    offsets = Blocks(Zeros(), Constant(-2.0))
    return Rules(
        [
            Rule(Where("sampling offsets", regex(r"(.*\.)?sampling_offsets\.weight")), Zeros()),
            Rule(Where("biases of sampling offsets", regex(r"(.*\.)?sampling_offsets\.bias")), directions),
            Rule(Where("attention weights", regex(r"(.*\.)?attention_weights\.\w+")), Zeros()),
            Rule(Where("level embeddings", regex(r"(.*\.)?level_embed\w*(\.weight)?")), Normal(1.0), optional=True),
            Rule(_TABLES[0].where, _TABLES[0].initializer, optional=True),
            Rule(_TABLES[1].where, _TABLES[1].initializer, optional=True),
            *_BACKBONE_RULES,
            *([] if two_stage else [Rule(Where("first box bias", last & first), offsets)]),
            Rule(Where("last layer of the box heads", last), Zeros()),
            Rule(Where("classes' bias", _CLASSES & kind("bias")), _prior("deformable_detr", prior)),
            Rule(_HEADS, by_fan_in),
            Rule(Where("biases of projections", (projection | references) & kind("bias")), Zeros(), optional=True),
            Rule(Where("projections of the features", projection), xavier),
            _ATTENTION_BIASES,
            Rule(Where("reference points", references), xavier, optional=True),
            Rule(_TRANSFORMER.where, law(xavier_packed.__doc__ or "", matrix)),
            Rule(Where("other linear layers", module(nn.Linear)), by_fan_in, optional=True),
            *norms_and_biases(),
        ]
    )


def _directions(holders: dict[int, nn.Module], **given: int | None) -> Law:
    def found(match: Match) -> Initializer:
        holder = holders.get(id(match.module))
        heads, levels, points = (_number(holder, name, value) for name, value in given.items())
        if heads * levels * points * 2 != match.shape[0]:
            counted = f"two for each of {points} points on {levels} levels in {heads} heads"
            raise SpecError(f"has {match.shape[0]} elements, and not {counted}; give heads=, levels= and points=")
        angles = torch.arange(heads, dtype=torch.float64, device="cpu") * (2 * math.pi / heads)
        direction = torch.stack([angles.cos(), angles.sin()], dim=-1)
        direction = direction / direction.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, points + 1, dtype=torch.float64, device="cpu")
        offsets = (direction[:, None, None] * steps[:, None]).expand(heads, levels, points, 2)
        table = offsets.reshape(match.shape).to(match.dtype)
        return Program((Step(op="data", leaf=Data.of(table), shape=match.shape, dtype=match.dtype),))

    return found


def _number(holder: nn.Module | None, name: str, given: int | None) -> int:
    known: tuple[Any, ...] = (given, *(getattr(holder, f"{prefix}_{name}", None) for prefix in ("n", "num")))
    for each in known:
        if isinstance(each, int):
            return each
    raise SpecError(f"the number of {name} of its attention is not known; give {name}=")


def _prior(recipe_name: str, prior: Any) -> Initializer:
    """The bias with which a class has the probability ``prior``."""
    if not isinstance(prior, float | int) or not 0 < prior < 1:
        raise SpecError(f"the recipe {recipe_name!r}: prior must be a probability between 0 and 1, got {shown(prior)}")
    return Constant(-math.log((1 - prior) / prior))


# -- RetinaNet ---------------------------------------------------------------------------------------------------------


@recipe
def retinanet(model: nn.Module, *, prior: float = 0.01) -> Rules:
    """RetinaNet: convolutions of the heads N(0, 0.01²), biases 0, and the classes' bias -ln((1 - p)/p).

    Each class starts with the probability p, so that the many background anchors do not outweigh the first steps. The
    convolutions of the feature pyramid are uniform on ±sqrt(3/fan_in), bias 0 (``kaiming_uniform(a=1)``). The backbone
    starts as a ResNet does: convolutions N(0, 2/fan_out); the paper loads a trained one, and
    ``Rule("backbone.*", Keep())`` before the recipe keeps it.

    Options:
        prior: p.

    Source: section 4.1 of Lin et al. 2017 (arXiv:1708.02002); detectron2, modeling/meta_arch/retinanet.py, and
    torchvision.
    """
    head = regex(r"(.*\.)?(\w*head|retina_\w+|cls_(subnet|score|logits)|bbox_(subnet|pred|reg))\..*") & ~_BACKBONE
    classes = regex(r"(.*\.)?(cls_(score|logits|pred)|retina_cls|class_?(logits|score|pred\w*))\.bias")
    pyramid = regex(r"(.*\.)?(fpn\w*|neck|pyramid|top_block)\..*")
    convolution = CONVOLUTIONS & kind("weight")
    return Rules(
        [
            Rule(Where("classes' bias", classes), _prior("retinanet", prior)),
            Rule(Where("convolutions of the heads", head & convolution), Normal(0.01)),
            Rule(Where("convolutions of the feature pyramid", pyramid & convolution), lecun_uniform(), optional=True),
            *_BACKBONE_RULES,
            *norms_and_biases(),
        ]
    )
