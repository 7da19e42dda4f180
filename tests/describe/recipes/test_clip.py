"""The recipe clip against the released code's formulas, in numbers: on transformers' models and on one of torch's."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.expected_laws import assert_laws  # noqa: E402
from zeta.errors import PlanError  # noqa: E402
from zeta.initializers import Constant, Initializer, Normal, Ones, Uniform, Zeros  # noqa: E402

#: text: width 48, 3 layers, MLP of width 160; image: width 64, 2 layers, MLP of width 200; common space 24
TEXT, IMAGE, COMMON = 48, 64, 24
TEXT_OUT = 0.05892556509887896  # (2 3 48)^(-1/2)
TEXT_UP = 0.10206207261596577  # (2 48)^(-1/2)
LOGIT_SCALE = 2.659260036932778


def within(bound: float) -> Uniform:
    return Uniform(-bound, bound)


def norm(name: str) -> dict[str, Initializer]:
    return {f"{name}.weight": Ones(), f"{name}.bias": Zeros()}


def layer(name: str, law: Initializer, inputs: int | None = None) -> dict[str, Initializer]:
    """With a bias as torch draws it, or of 0 in an attention."""
    return {f"{name}.weight": law, f"{name}.bias": Zeros() if inputs is None else within(inputs**-0.5)}


def clip_of_transformers() -> nn.Module:
    text = {"hidden_size": TEXT, "intermediate_size": 160, "num_hidden_layers": 3, "num_attention_heads": 4}
    image = {"hidden_size": IMAGE, "intermediate_size": 200, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = transformers.CLIPConfig(
        text_config={**text, "vocab_size": 90, "bos_token_id": 0, "eos_token_id": 1},
        vision_config={**image, "image_size": 32, "patch_size": 8}, projection_dim=COMMON,
    )  # fmt: skip
    return transformers.CLIPModel(config)  # type: ignore[no-any-return]


def test_clip_on_transformers() -> None:
    laws: dict[str, Initializer] = {
        "logit_scale": Constant(LOGIT_SCALE),
        "text_model.embeddings.token_embedding.weight": Normal(0.02),
        "text_model.embeddings.position_embedding.weight": Normal(0.01),
        "vision_model.embeddings.class_embedding": Normal(0.125),
        "vision_model.embeddings.position_embedding.weight": Normal(0.125),
        "vision_model.embeddings.patch_embedding.weight": within((3 * 8 * 8) ** -0.5),
        "text_projection.weight": Normal(TEXT**-0.5), "visual_projection.weight": Normal(0.125),
        **norm("text_model.final_layer_norm"), **norm("vision_model.pre_layrnorm"),
        **norm("vision_model.post_layernorm"),
    }  # fmt: skip
    for number in range(3):
        at = f"text_model.encoder.layers.{number}"
        for name in "qkv":
            laws |= layer(f"{at}.self_attn.{name}_proj", Normal(0.14433756729740646))
        laws |= layer(f"{at}.self_attn.out_proj", Normal(TEXT_OUT)) | norm(f"{at}.layer_norm1")
        laws |= layer(f"{at}.mlp.fc1", Normal(TEXT_UP), 48) | layer(f"{at}.mlp.fc2", Normal(TEXT_OUT), 160)
        laws |= norm(f"{at}.layer_norm2")
    for number in range(2):
        at = f"vision_model.encoder.layers.{number}"
        for name in "qkv":
            laws |= layer(f"{at}.self_attn.{name}_proj", within((6 / 256) ** 0.5))
        laws |= layer(f"{at}.self_attn.out_proj", within(0.125)) | norm(f"{at}.layer_norm1")
        laws |= layer(f"{at}.mlp.fc1", within(0.125), 64) | layer(f"{at}.mlp.fc2", within(200**-0.5), 200)
        laws |= norm(f"{at}.layer_norm2")
    assert_laws(clip_of_transformers(), "clip", laws)


class Block(nn.Module):
    def __init__(self, width: int, inside: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, 4)
        self.norm_1, self.norm_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, inside), nn.GELU(), nn.Linear(inside, width))


def block_laws(
    at: str, into: Initializer, out: Initializer, up: Initializer, down: Initializer, width: int, inside: int
) -> dict[str, Initializer]:
    return {
        f"{at}.attn.in_proj_weight": into, f"{at}.attn.in_proj_bias": Zeros(), **layer(f"{at}.attn.out_proj", out),
        **norm(f"{at}.norm_1"), **norm(f"{at}.norm_2"), **layer(f"{at}.mlp.0", up, width),
        **layer(f"{at}.mlp.2", down, inside),
    }  # fmt: skip


class Bottleneck(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(16, 4, 1, bias=False), nn.BatchNorm2d(4)
        self.conv3, self.bn3 = nn.Conv2d(4, 16, 3, bias=False), nn.BatchNorm2d(16)


class Pool(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(5, 16))
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, 16) for _ in range(3))
        self.c_proj = nn.Linear(16, COMMON)


class Tower(nn.Module):
    """The image's: a transformer or a ResNet."""

    def __init__(self, *, resnet: bool) -> None:
        super().__init__()
        if resnet:
            self.conv3, self.bn3 = nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16)
            self.layer1, self.layer2 = (nn.Sequential(Bottleneck(), Bottleneck()) for _ in range(2))
            self.attnpool = Pool()
        else:
            self.conv1 = nn.Conv2d(3, IMAGE, 8, 8, bias=False)
            self.class_embedding = nn.Parameter(torch.empty(IMAGE))
            self.positional_embedding = nn.Parameter(torch.empty(17, IMAGE))
            self.blocks = nn.ModuleList([Block(IMAGE, 200) for _ in range(2)])
            self.proj = nn.Parameter(torch.empty(IMAGE, COMMON))


class OwnClip(nn.Module):
    def __init__(self, *, resnet: bool = False) -> None:
        super().__init__()
        self.visual = Tower(resnet=resnet)
        self.blocks = nn.ModuleList([Block(TEXT, 160) for _ in range(3)])
        self.token_embedding = nn.Embedding(90, TEXT)
        self.positional_embedding = nn.Parameter(torch.empty(10, TEXT))
        self.final = nn.LayerNorm(TEXT)
        self.text_projection = nn.Parameter(torch.empty(TEXT, COMMON))
        self.logit_scale = nn.Parameter(torch.empty([]))


def own_laws(*, resnet: bool) -> dict[str, Initializer]:
    laws: dict[str, Initializer] = {
        "token_embedding.weight": Normal(0.02), "positional_embedding": Normal(0.01),
        "text_projection": Normal(TEXT**-0.5), "logit_scale": Constant(LOGIT_SCALE), **norm("final"),
    }  # fmt: skip
    out = Normal(TEXT_OUT)
    for number in range(3):
        laws |= block_laws(f"blocks.{number}", Normal(TEXT**-0.5), out, Normal(TEXT_UP), out, TEXT, 160)
    if resnet:
        laws |= {"visual.conv3.weight": within(27**-0.5), **norm("visual.bn3")}
        for at in (f"visual.layer{n}.{m}" for n in (1, 2) for m in (0, 1)):
            laws |= {f"{at}.conv1.weight": within(0.25), f"{at}.conv3.weight": within(1 / 6), **norm(f"{at}.bn1")}
            laws |= {f"{at}.bn3.weight": Zeros(), f"{at}.bn3.bias": Zeros()}
        laws["visual.attnpool.positional_embedding"] = Normal(0.25)
        for name in "qkvc":
            laws |= layer(f"visual.attnpool.{name}_proj", Normal(0.25), 16)
    else:
        laws |= {
            "visual.conv1.weight": within(192**-0.5), "visual.class_embedding": Normal(0.125),
            "visual.positional_embedding": Normal(0.125), "visual.proj": Normal(0.125),
        }  # fmt: skip
        packed, plain = within((6 / 256) ** 0.5), within(0.125)
        for number in range(2):
            laws |= block_laws(f"visual.blocks.{number}", packed, plain, plain, within(200**-0.5), IMAGE, 200)
    return laws


@pytest.mark.parametrize("resnet", [False, True])
def test_clip_with_torch_s_attention(resnet: bool) -> None:
    assert_laws(OwnClip(resnet=resnet), "clip", own_laws(resnet=resnet))


def test_an_image_tower_alone_is_no_clip() -> None:
    with pytest.raises(
        PlanError, match=r"no rule matches(.|\n)*class_embedding(.|\n)*never win(.|\n)*token embeddings"
    ):
        zeta.plan(clip_of_transformers().vision_model, "clip")
    other = OwnClip()
    other.extra = nn.Linear(4, 4)
    with pytest.raises(PlanError, match=r"no rule matches these parameters(.|\n)*extra\.weight"):
        zeta.plan(other, "clip")
