"""The recipes of detectors against the formulas of papers and released code, for every parameter."""

from __future__ import annotations

import math
import os
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.models import Basic, ResNet  # noqa: E402
from tests.helpers.published import (  # noqa: E402
    ZERO,
    Law,
    Laws,
    agrees,
    blocks,
    constant,
    differences,
    linear,
    norm,
    normal,
    uniform,
    within,
    xavier,
)
from zeta.errors import PlanError, SpecError  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

D, F, CLASSES = 32, 64, 7
HEADS, LEVELS, POINTS = 4, 3, 4
SIZES = {
    "d_model": D, "encoder_layers": 1, "decoder_layers": 2, "encoder_attention_heads": HEADS,
    "decoder_attention_heads": HEADS, "encoder_ffn_dim": F, "decoder_ffn_dim": F, "num_queries": 5,
    "num_labels": CLASSES, "use_timm_backbone": False, "backbone": None,
}  # fmt: skip
RESNET = {
    "embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic",
    "out_features": ["stage1", "stage2"],
}  # fmt: skip
ONE_STD = normal(1.0)


def library(model: str, config: str, **sizes: Any) -> nn.Module:
    backbone = transformers.ResNetConfig(**RESNET)
    made = getattr(transformers, config)(**{**SIZES, **sizes}, backbone_config=backbone)
    return getattr(transformers, model)(made)  # type: ignore[no-any-return]


def he(fan_out: int) -> Law:
    return normal(math.sqrt(2 / fan_out))


def torchs(fan_in: int, *names: str) -> Laws:
    return linear(uniform(fan_in**-0.5), *names, bias=uniform(fan_in**-0.5))


BACKBONE = within(
    ["model.backbone.model"],
    {
        "embedder.embedder.convolution.weight": he(8 * 49),
        "encoder.stages.0.layers.0.layer.0.convolution.weight": he(8 * 9),
        "encoder.stages.0.layers.0.layer.1.convolution.weight": he(8 * 9),
        "encoder.stages.1.layers.0.shortcut.convolution.weight": he(16),
        "encoder.stages.1.layers.0.layer.0.convolution.weight": he(16 * 9),
        "encoder.stages.1.layers.0.layer.1.convolution.weight": he(16 * 9),
    },
)


def attention(name: str) -> Laws:
    """Query, key and value have the law of the packed matrix of the released code, 3 d x d."""
    found = linear(xavier(D, 3 * D), *(f"{name}.{each}_proj" for each in "qkv")) | linear(
        xavier(D, D), f"{name}.o_proj"
    )
    return found | norm(f"{name}_layer_norm")


MLP = {
    **linear(xavier(D, F), "mlp.fc1", bias=uniform(D**-0.5)),
    **linear(xavier(F, D), "mlp.fc2", bias=uniform(F**-0.5)),
    **norm("final_layer_norm"),
}


def test_detr() -> None:
    decoder = attention("self_attn") | attention("encoder_attn") | MLP
    published = {
        **BACKBONE,
        "model.query_position_embeddings.weight": ONE_STD,
        **torchs(16, "model.input_projection"),
        **within(["model.encoder.layers.0"], attention("self_attn") | MLP),
        **within(["model.decoder.layers.0", "model.decoder.layers.1"], decoder),
        **norm("model.decoder.layernorm"),
        **torchs(D, "class_labels_classifier", *(f"bbox_predictor.layers.{number}" for number in range(3))),
    }
    agrees(lambda: library("DetrForObjectDetection", "DetrConfig"), "detr", published)


class Transformer(nn.Module):
    """Torch's layers, as in the released code."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([nn.TransformerEncoderLayer(D, HEADS, F)])
        self.decoder = nn.ModuleList([nn.TransformerDecoderLayer(D, HEADS, F)])


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.transformer = Transformer()
        self.class_embed, self.bbox_embed = nn.Linear(D, CLASSES), nn.Sequential(nn.Linear(D, D), nn.Linear(D, 4))
        self.query_embed = nn.Embedding(5, D)
        self.input_proj = nn.Conv2d(64, D, 1)
        self.backbone = nn.ModuleDict({"body": nn.Sequential(Basic(3, 64, 2))})
        self.backbone["row_embed"] = nn.Embedding(50, D)


def test_detr_on_torchs_layers() -> None:
    packed = {
        "in_proj_weight": xavier(D, 3 * D),
        "in_proj_bias": ZERO,
        **linear(xavier(D, D), "out_proj"),
    }
    mlp = linear(xavier(D, F), "linear1", bias=uniform(D**-0.5)) | linear(
        xavier(F, D), "linear2", bias=uniform(F**-0.5)
    )
    encoder = within(["self_attn"], packed) | mlp | norm("norm1", "norm2")
    decoder = within(["self_attn", "multihead_attn"], packed) | mlp | norm("norm1", "norm2", "norm3")
    published = {
        **within(["transformer.encoder.0"], encoder),
        **within(["transformer.decoder.0"], decoder),
        **torchs(D, "class_embed", "bbox_embed.0", "bbox_embed.1"),
        "query_embed.weight": ONE_STD,
        **torchs(64, "input_proj"),
        "backbone.row_embed.weight": ("uniform", 0.0, 1.0),
        **within(["backbone.body.0"], {"conv1.weight": he(64 * 9), "conv2.weight": he(64 * 9), **norm("bn1", "bn2")}),
        "backbone.body.0.downsample.0.weight": he(64),
        **norm("backbone.body.0.downsample.1"),
    }
    agrees(Detector, "detr", published)


def test_a_trained_backbone_is_kept() -> None:
    rules = zeta.Rules([zeta.Rule("backbone.body.*", zeta.Keep())]) + zeta.recipes.detr(Detector())
    plan = zeta.plan(Detector(), rules)
    assert {entry.name.split(".")[0] for entry in plan.parameters if entry.kept} == {"backbone"}


# -- Deformable DETR ---------------------------------------------------------------------------------------------------


def offsets(heads: int, levels: int, points: int) -> list[float]:
    """The bias of the sampling offsets, one coordinate after the other."""
    found = []
    for head in range(heads):
        angle = 2 * math.pi * head / heads
        x, y = math.cos(angle), math.sin(angle)
        largest = max(abs(x), abs(y))
        for _ in range(levels):
            for point in range(points):
                found += [x / largest * (point + 1), y / largest * (point + 1)]
    return found


def deformable(name: str, levels: int = LEVELS, points: int = POINTS) -> Laws:
    count = HEADS * levels * points
    return {
        f"{name}.sampling_offsets.weight": ZERO,
        f"{name}.sampling_offsets.bias": ("other", f"Program(data[{2 * count}])"),
        **linear(ZERO, f"{name}.attention_weights"),
        **linear(xavier(D, D), f"{name}.value_proj", f"{name}.output_proj"),
    }


PRIOR = constant(-math.log(0.99 / 0.01))


@pytest.mark.parametrize("two_stage", [False, True])
def test_deformable_detr(two_stage: bool) -> None:
    encoder = deformable("self_attn") | norm("self_attn_layer_norm") | MLP
    decoder = attention("self_attn") | deformable("encoder_attn") | norm("encoder_attn_layer_norm") | MLP
    published = {
        **BACKBONE,
        "model.level_embed": ONE_STD,
        **linear(xavier(8, D), "model.input_proj.0.0"),
        **linear(xavier(16, D), "model.input_proj.1.0"),
        **linear(xavier(9 * 16, 9 * D), "model.input_proj.2.0"),
        **norm(*(f"model.input_proj.{number}.1" for number in range(LEVELS))),
        "model.query_position_embeddings.weight": ONE_STD,
        **within(["model.encoder.layers.0"], encoder),
        **within(["model.decoder.layers.0", "model.decoder.layers.1"], decoder),
        **linear(xavier(D, 2), "model.reference_points"),
        **linear(uniform(D**-0.5), "class_embed.0", bias=PRIOR),
        **torchs(D, "bbox_embed.0.layers.0", "bbox_embed.0.layers.1"),
        **linear(ZERO, "bbox_embed.0.layers.2", bias=ZERO if two_stage else blocks(ZERO, constant(-2.0))),
    }

    def factory() -> nn.Module:
        return library("DeformableDetrForObjectDetection", "DeformableDetrConfig", num_feature_levels=LEVELS)

    agrees(factory, "deformable_detr", published, two_stage=two_stage)
    model = factory()
    zeta.init_(model, "deformable_detr", seed=0)
    bias = model.get_parameter("model.encoder.layers.0.self_attn.sampling_offsets.bias")
    assert torch.allclose(bias, torch.tensor(offsets(HEADS, LEVELS, POINTS)), rtol=1e-6, atol=1e-6)
    assert model.bbox_embed[0].layers[2].bias.tolist() == [0, 0, -2, -2]


class Sampling(nn.Module):
    def __init__(self, **numbers: int) -> None:
        super().__init__()
        self.sampling_offsets = nn.Linear(D, HEADS * 2 * 5 * 2)
        self.attention_weights = nn.Linear(D, HEADS * 2 * 5)
        self.value_proj, self.output_proj = nn.Linear(D, D), nn.Linear(D, D)
        for name, number in numbers.items():
            setattr(self, name, number)


class Refined(nn.Module):
    """Each layer with heads of its own, and the names of another library."""

    def __init__(self, **numbers: int) -> None:
        super().__init__()
        self.encoder = nn.ModuleList([nn.ModuleDict({"attn": Sampling(**numbers)})])
        self.enc_output = nn.Linear(D, F)
        self.input_proj = nn.Conv2d(8, D, 1)
        self.bbox_head = nn.ModuleList(
            nn.ModuleDict({"mid": nn.Linear(D, D), "out": nn.Linear(D, 4)}) for _ in range(2)
        )
        self.class_embed = nn.ModuleList(nn.Linear(D, CLASSES) for _ in range(2))


NUMBERS = {"num_heads": HEADS, "num_levels": 2, "num_points": 5}


def test_deformable_detr_on_other_names() -> None:
    published = {
        **within(["encoder.0"], deformable("attn", 2, 5)),
        **linear(xavier(D, F), "enc_output", bias=uniform(D**-0.5)),
        **linear(xavier(8, D), "input_proj"),
        **torchs(D, "bbox_head.0.mid", "bbox_head.1.mid"),
        **linear(ZERO, "bbox_head.0.out", bias=blocks(ZERO, constant(-2.0))),
        **linear(ZERO, "bbox_head.1.out"),
        **linear(uniform(D**-0.5), "class_embed.0", "class_embed.1", bias=constant(-math.log(0.9 / 0.1))),
    }
    agrees(lambda: Refined(**NUMBERS), "deformable_detr", published, prior=0.1)
    given = {"heads": HEADS, "levels": 2, "points": 5}
    assert differences(zeta.plan(Refined(), "deformable_detr", prior=0.1, **given), published) == []
    with pytest.raises(PlanError, match="the number of heads of its attention is not known; give heads="):
        zeta.plan(Refined(), "deformable_detr")
    with pytest.raises(PlanError, match="has 80 elements, and not two for each of 4 points on 2 levels in 4 heads"):
        zeta.plan(Refined(**NUMBERS), "deformable_detr", points=4)


def test_detr_without_deformable_attention_is_not_deformable() -> None:
    with pytest.raises(PlanError, match="sampling offsets"):
        zeta.plan(Detector(), "deformable_detr")


# -- RetinaNet ---------------------------------------------------------------------------------------------------------


class Retina(nn.Module):
    """With the names of torchvision or of detectron2."""

    def __init__(self, detectron: bool) -> None:
        super().__init__()
        self.backbone = nn.Module()
        resnet = ResNet(Basic, 8, 4)
        resnet.fc = nn.Identity()
        setattr(self.backbone, "bottom_up" if detectron else "body", resnet)
        if detectron:
            self.backbone.fpn_lateral3, self.backbone.fpn_output3 = nn.Conv2d(16, D, 1), nn.Conv2d(D, D, 3)
            self.backbone.top_block = nn.ModuleDict({"p6": nn.Conv2d(D, D, 3)})
            subnets = {name: nn.Sequential(nn.Conv2d(D, D, 3)) for name in ("cls_subnet", "bbox_subnet")}
            self.head = nn.ModuleDict({**subnets, "cls_score": nn.Conv2d(D, 9 * CLASSES, 3)})
            self.head["bbox_pred"] = nn.Conv2d(D, 36, 3)
        else:
            self.backbone.fpn = nn.ModuleDict({"inner": nn.Conv2d(16, D, 1), "outer": nn.Conv2d(D, D, 3)})
            self.backbone.fpn["p6"] = nn.Conv2d(D, D, 3)
            towers = {name: nn.Sequential(nn.Conv2d(D, D, 3), nn.GroupNorm(4, D)) for name in ("cls", "bbox")}
            self.classification_head = nn.ModuleDict(
                {"conv": towers["cls"], "cls_logits": nn.Conv2d(D, 9 * CLASSES, 3)}
            )
            self.regression_head = nn.ModuleDict({"conv": towers["bbox"], "bbox_reg": nn.Conv2d(D, 36, 3)})


@pytest.mark.parametrize("detectron", [False, True])
def test_retinanet(detectron: bool) -> None:
    body = "backbone.bottom_up" if detectron else "backbone.body"
    names = ["fpn_lateral3", "fpn_output3", "top_block.p6"] if detectron else ["fpn.inner", "fpn.outer", "fpn.p6"]
    small = normal(0.01)
    published = {
        f"{body}.conv1.weight": he(8 * 49),
        **norm(f"{body}.bn1"),
        **within(
            [f"{body}.layer1.0", f"{body}.layer1.1"],
            {"conv1.weight": he(8 * 9), "conv2.weight": he(8 * 9), **norm("bn1", "bn2")},
        ),
        **within([f"{body}.layer2.0"], {"conv1.weight": he(16 * 9), "conv2.weight": he(16 * 9), **norm("bn1", "bn2")}),
        f"{body}.layer2.0.downsample.0.weight": he(16),
        **norm(f"{body}.layer2.0.downsample.1"),
        **linear(uniform(math.sqrt(3 / 16)), f"backbone.{names[0]}"),
        **linear(uniform(math.sqrt(3 / (9 * D))), f"backbone.{names[1]}", f"backbone.{names[2]}"),
    }
    if detectron:
        published |= linear(small, "head.cls_subnet.0", "head.bbox_subnet.0", "head.bbox_pred")
        published |= linear(small, "head.cls_score", bias=constant(-math.log(0.95 / 0.05)))
    else:
        published |= linear(small, "classification_head.conv.0", "regression_head.conv.0", "regression_head.bbox_reg")
        published |= norm("classification_head.conv.1", "regression_head.conv.1")
        published |= linear(small, "classification_head.cls_logits", bias=constant(-math.log(0.95 / 0.05)))
    agrees(lambda: Retina(detectron), "retinanet", published, prior=0.05)
    last = "head.cls_score" if detectron else "classification_head.cls_logits"
    default = zeta.plan(Retina(detectron), "retinanet")[f"{last}.bias"]
    assert default.mean == pytest.approx(-4.59511985013459, rel=1e-12)


@pytest.mark.parametrize("architecture", ["retinanet_resnet50_fpn", "retinanet_resnet50_fpn_v2"])
def test_torchvision(architecture: str) -> None:
    detection = pytest.importorskip("torchvision.models.detection")
    model, recorded = zeta.record(getattr(detection, architecture), weights=None, weights_backbone=None)
    difference = zeta.diff(recorded, zeta.plan(model, "retinanet"))
    assert difference.same, str(difference)


@pytest.mark.parametrize("recipe", ["retinanet", "deformable_detr"])
@pytest.mark.parametrize("prior", [0, 1.0, "0.5"])
def test_a_prior_is_a_probability(recipe: str, prior: Any) -> None:
    with pytest.raises(SpecError, match=f"{recipe}.*prior must be a (probability between 0 and 1|number), got"):
        zeta.plan(nn.Module(), recipe, prior=prior)


def test_a_network_without_heads_is_no_retinanet() -> None:
    with pytest.raises(PlanError, match="classes' bias"):
        zeta.plan(nn.Sequential(nn.Conv2d(3, 3, 1)), "retinanet")


# -- masks -------------------------------------------------------------------------------------------------------------


class Masks(nn.Module):
    """With the names of the released code: DETRsegm around a detector."""

    def __init__(self) -> None:
        super().__init__()
        self.detr = Detector()
        self.bbox_attention, self.mask_head = nn.Module(), nn.Module()
        self.bbox_attention.q_linear, self.bbox_attention.k_linear = nn.Linear(D, D), nn.Linear(D, D)
        self.mask_head.lay1, self.mask_head.gn1 = nn.Conv2d(40, 16, 3), nn.GroupNorm(8, 16)
        self.mask_head.out_lay, self.mask_head.adapter1 = nn.Conv2d(16, 1, 3), nn.Conv2d(24, 16, 1)


def test_the_masks_of_detr() -> None:
    plan, detector = zeta.plan(Masks(), "detr"), zeta.plan(Detector(), "detr")
    for entry in plan.parameters:
        name = entry.name
        if name.startswith("detr."):
            assert entry.initializer == detector[name.removeprefix("detr.")].initializer
        elif name.endswith("bias"):
            assert entry.std == entry.mean == 0, name
        else:
            fan_in = {"lay1": 40 * 9, "out_lay": 16 * 9, "adapter1": 24}.get(name.split(".")[1])
            std = 0.0 if "gn1" in name else (1 / D) ** 0.5 if fan_in is None else (1 / fan_in) ** 0.5
            assert entry.std == pytest.approx(std, rel=1e-12), name


def test_a_convolution_of_detr_that_nobody_knows_is_refused() -> None:
    model = Detector()
    model.extra = nn.Conv2d(D, D, 3)
    with pytest.raises(PlanError, match=r"(?s)no rule matches these parameters.*extra.weight"):
        zeta.plan(model, "detr")
