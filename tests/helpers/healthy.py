"""Models that are as they should be, some of them odd on purpose: no check may fail them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import zeta
from examples.gpt import gpt2
from tests.helpers.models import Basic, ResNet
from tests.helpers.networks import LanguageModel, Mlp, Residual, images, tokens, vectors
from tests.helpers.sick import Heads, Lora, of_both_heads

os.environ.setdefault("HF_HUB_OFFLINE", "1")

Build = Callable[[], tuple[Any, ...]]
MODELS: dict[str, Build] = {}


def healthy(build: Build) -> Build:
    MODELS[build.__name__] = build
    return build


def classes(count: int, samples: int) -> Tensor:
    return torch.arange(samples) % count


# -- plain -----------------------------------------------------------------------------------------------------------


@healthy
def mlp_of_torch() -> Any:
    return nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), (
        vectors(16),
        classes(10, 64),
    )


@healthy
def deep_mlp_by_he() -> Any:
    return Mlp(64, 64, 10, depth=20), (vectors(64), classes(10, 64))


@healthy
def tanh_by_glorot() -> Any:
    layers: list[nn.Module] = []
    for _ in range(8):
        layers += [nn.Linear(64, 64), nn.Tanh()]
        nn.init.xavier_normal_(layers[-2].weight, gain=5 / 3)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(64, 4)), vectors(64)


@healthy
def selu_by_lecun() -> Any:
    layers: list[nn.Module] = []
    for _ in range(16):
        layers += [nn.Linear(64, 64), nn.SELU()]
        zeta.utils.init_lecun_normal_(layers[-2])
    return nn.Sequential(*layers, nn.Linear(64, 4)), vectors(64)


class Sine(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / 30
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(30 * self.linear(x))


@healthy
def siren() -> Any:
    model = nn.Sequential(Sine(2, 64, True), Sine(64, 64, False), Sine(64, 64, False), nn.Linear(64, 3))
    return model, (torch.rand(64, 2) * 2 - 1, torch.rand(64, 3))


@healthy
def orthogonal() -> Any:
    model = nn.Sequential(*[nn.Linear(32, 32, bias=False) for _ in range(12)], nn.Linear(32, 4))
    for layer in model:
        nn.init.orthogonal_(layer.weight)
    return model, vectors(32)


@healthy
def zero_read_out() -> Any:
    model = Mlp(16, 64, 10)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    return model, (vectors(16), classes(10, 64))


@healthy
def many_classes_few_samples() -> Any:
    """A zero read-out: the classes that no label names have the same weights and the same gradient."""
    model = Mlp(16, 64, 1000)
    nn.init.zeros_(model[2].weight)
    nn.init.zeros_(model[2].bias)
    return model, (vectors(16), classes(20, 64))


@healthy
def two_zero_read_outs() -> Any:
    model = Heads(1000)
    for head in (model.one, model.other):
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
    return model, vectors(16), {"loss": of_both_heads}


@healthy
def many_classes_by_a_product() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.w = nn.Linear(16, 64), nn.Parameter(torch.zeros(1000, 64))

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.body(x)) @ self.w.t()

    return Model(), (vectors(16), classes(20, 64))


@healthy
def weight_norm() -> Any:
    model = Mlp(16, 64, 4, depth=3)
    for layer in model:
        if isinstance(layer, nn.Linear):
            parametrizations.weight_norm(layer)
    return model, vectors(16)


@healthy
def spectral_norm() -> Any:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(16, 32)), nn.LeakyReLU(0.2), nn.Linear(32, 1))
    return model, vectors(16)


@healthy
def deep_weight_norm_without_bias() -> Any:
    """Its layers are layers, and not blocks of a residual stream."""
    layers: list[nn.Module] = [parametrizations.weight_norm(nn.Linear(64, 64, bias=False)) for _ in range(6)]
    for layer in layers:
        nn.init.normal_(layer.parametrizations.weight.original0, 3.0, 0.1)  # type: ignore[union-attr, arg-type]
    norms = [nn.LayerNorm(64) for _ in layers]
    return nn.Sequential(*[part for pair in zip(layers, norms, strict=True) for part in pair]), vectors(64)


class Quantized(nn.Module):
    """A codebook behind a straight-through estimator: detached twice, and yet all of it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.codes, self.decoder = nn.Linear(16, 8), nn.Embedding(8, 8), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = self.encoder(x)
        q = self.codes(torch.cdist(z, self.codes.weight).argmin(-1))
        commitment = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(q.detach(), z)
        return self.decoder(z + (q - z).detach()), commitment


@healthy
def straight_through_codebook() -> Any:
    return Quantized(), vectors(16), {"loss": lambda y, x: F.mse_loss(y[0], x) + y[1]}


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(nn.Linear(16, 16) for _ in range(3)), nn.Linear(16, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        degree = torch.bincount(edges[1], minlength=len(x)).clamp(min=1)[:, None]
        for layer in self.layers:
            x = F.relu(layer(x + torch.zeros_like(x).index_add(0, edges[1], x[edges[0]]) / degree))
        return self.head(x)


@healthy
def graph_network() -> Any:
    return Graph(), (vectors(16), torch.randint(0, 64, (2, 200)), classes(3, 64))


@healthy
def one_logit() -> Any:
    return Mlp(8, 64, 1), (vectors(8), classes(2, 64))


class Contrast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = Mlp(32, 64, 16)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        one, other = (F.normalize(self.body(x), dim=1) for x in (first, second))
        return one @ other.T / 0.2


@healthy
def contrastive() -> Any:
    x = vectors(32)
    pairs = (x, x + 0.1 * torch.randn_like(x))
    return Contrast(), pairs, {"loss": lambda y, _: F.cross_entropy(y, torch.arange(64))}


class CausalMask(nn.Module):
    def forward(self, scores: Tensor) -> Tensor:
        return scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)


class MaskedAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.qkv, self.mask = nn.Embedding(50, 16), nn.Linear(16, 48), CausalMask()
        self.head = nn.Linear(16, 50)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.wte(x)).chunk(3, -1)
        return self.head(self.mask(q @ k.transpose(-1, -2) / 4).softmax(-1) @ v)


@healthy
def mask_of_minus_infinities() -> Any:
    return MaskedAttention(), tokens(50)


@healthy
def actions_masked_by_minus_infinity() -> Any:
    return nn.Sequential(Mlp(8, 64, 16), CausalMask()), vectors(8, 16)


@healthy
def half_precision() -> Any:
    return Mlp(64, 128, 4).bfloat16(), vectors(64).bfloat16()


@healthy
def focal_prior() -> Any:
    """A detector's classification head: small weights, and a bias that says 1%."""
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 20, 3), nn.Sigmoid())
    nn.init.normal_(model[2].weight, std=0.01)
    nn.init.constant_(model[2].bias, -math.log(99))
    return model, images(3)


class Experts(nn.Module):
    """Each sample goes to one of eight experts; some get none."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 8, bias=False)
        nn.init.zeros_(self.gate.weight)
        self.experts = nn.ModuleList(Mlp(16, 32, 16) for _ in range(8))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.gate(x).softmax(-1)
        chosen = (x[:, 0] > 0).long() * 3
        y = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = chosen == number
            y[mine] = expert(x[mine]) * weights[mine, number, None]
        return self.head(x + y)


@healthy
def experts() -> Any:
    return Experts(), (vectors(16), classes(4, 64))


@healthy
def lstm() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.head = (
                nn.Embedding(50, 16),
                nn.LSTM(16, 32, 2, batch_first=True),
                nn.Linear(32, 50),
            )

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.embed(x))[0])

    return Model(), tokens(50)


@healthy
def gru_with_orthogonal_state() -> Any:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.GRU(8, 32, batch_first=True, bidirectional=True), nn.Linear(64, 3)
            for name, parameter in self.rnn.named_parameters():
                if "weight_hh" in name:
                    nn.init.orthogonal_(parameter)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(x)[0].mean(1))

    return Model(), (torch.randn(8, 10, 8), classes(3, 8))


# -- images ----------------------------------------------------------------------------------------------------------


@healthy
def resnet() -> Any:
    return ResNet(Basic, width=16, classes=10), (images(3, 32), classes(10, 8))


@healthy
def resnet_with_zero_residuals() -> Any:
    return ResNet(Basic, width=16, classes=10, zero_init_residual=True), (images(3, 32), classes(10, 8))


@healthy
def resnet_recipe() -> Any:
    model = ResNet(Basic, width=16, classes=10)
    plan = zeta.plan(model, "resnet")
    zeta.apply_(model, plan, seed=0)
    return model, (images(3, 32), classes(10, 8)), {"plan": plan}


@healthy
def resnet_in_eval_mode() -> Any:
    return ResNet(Basic, width=16, classes=10).eval(), (images(3, 32), classes(10, 8))


@healthy
def frozen_backbone() -> Any:
    model = ResNet(Basic, width=16, classes=10)
    model.requires_grad_(False)
    model.fc.requires_grad_(True)
    return model, (images(3, 32), classes(10, 8))


@healthy
def fixup() -> Any:
    """Residual branches without normalization, whose last layer is zero, and a zero read-out."""
    model = Residual(depth=12)
    for block in model.blocks:
        nn.init.zeros_(block.fc2.weight)
        with torch.no_grad():
            block.fc1.weight.mul_(12**-0.5)
    nn.init.zeros_(model.head.weight)
    return model, (vectors(16), classes(4, 64))


@healthy
def scaled_residuals() -> Any:
    return Residual(depth=24), vectors(16)


class ReZero(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc, self.alpha = nn.Linear(width, width), nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.alpha * F.relu(self.fc(x))


@healthy
def rezero() -> Any:
    return nn.Sequential(*[ReZero(16) for _ in range(10)], nn.Linear(16, 4)), vectors(16)


class ConvNext(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width)
        self.pwconv1, self.pwconv2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))
        for layer in (self.dwconv, self.pwconv1, self.pwconv2):
            nn.init.trunc_normal_(layer.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


@healthy
def convnext_with_layer_scale() -> Any:
    model = nn.Sequential(
        nn.Conv2d(3, 24, 4, 4), *[ConvNext(24) for _ in range(4)], nn.Flatten(), nn.Linear(24 * 64, 10)
    )
    return model, (images(3, 32), classes(10, 8))


@healthy
def autoencoder() -> Any:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip
    return model, (images(3, 16), torch.rand(8, 3, 16, 16))


@healthy
def dcgan_generator() -> Any:
    model = nn.Sequential(
        nn.ConvTranspose2d(32, 64, 4), nn.BatchNorm2d(64), nn.ReLU(True), nn.ConvTranspose2d(64, 32, 4, 2, 1),
        nn.BatchNorm2d(32), nn.ReLU(True), nn.ConvTranspose2d(32, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    for module in model:
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, 0.0, 0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
    return model, torch.randn(8, 32, 1, 1)


@healthy
def depthwise_separable() -> Any:
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3)]
    for _ in range(3):
        layers += [nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.BatchNorm2d(16), nn.ReLU6(inplace=True)]
        layers += [nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16)]
        nn.init.kaiming_normal_(layers[-5].weight, mode="fan_out")  # type: ignore[arg-type]
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    return model, (images(3, 16), classes(10, 8))


# -- transformers ----------------------------------------------------------------------------------------------------


@healthy
def language_model() -> Any:
    return LanguageModel(depth=4), tokens()


@healthy
def tied_language_model() -> Any:
    return LanguageModel(tied=True), tokens()


@healthy
def gpt2_recipe() -> Any:
    model = gpt2(n_layer=4, n_embd=64, n_head=4, vocab_size=200, n_positions=32)
    plan = zeta.plan(model, "gpt2")
    zeta.apply_(model, plan, seed=0)
    return model, tokens(200), {"plan": plan}


@healthy
def torch_recipe() -> Any:
    model = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(16, 2, 32, batch_first=True), 2, enable_nested_tensor=False
    )
    plan = zeta.plan(model, "torch")
    zeta.apply_(model, plan, seed=0)
    return model, torch.randn(4, 6, 16), {"plan": plan}


@healthy
def transformer_encoder_of_torch() -> Any:
    """Its layers are copies of each other, which is worth a warning, and trains."""
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True, activation="gelu")
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), torch.randn(4, 8, 32)


@healthy
def transformer_of_torch() -> Any:
    model = nn.Transformer(32, 4, 2, 2, 64, batch_first=True)
    return model, (torch.randn(4, 8, 32), torch.randn(4, 6, 32))


@healthy
def lora() -> Any:
    return nn.Sequential(Lora(16, 32), nn.ReLU(), Lora(32, 4)), vectors(16)


class DiTBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 3 * width))
        nn.init.zeros_(self.modulation[1].weight)
        nn.init.zeros_(self.modulation[1].bias)

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(c)[:, None].chunk(3, dim=-1)
        return x + gate * self.fc2(F.gelu(self.fc1(self.norm(x) * (1 + scale) + shift)))


class DiT(nn.Module):
    """adaLN-zero, and a zero read-out: at the first step, only the read-out gets a gradient."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embed, self.time = (
            nn.Linear(4, width),
            nn.Sequential(nn.Linear(8, width), nn.SiLU(), nn.Linear(width, width)),
        )
        self.blocks = nn.ModuleList(DiTBlock(width) for _ in range(4))
        self.final = nn.Linear(width, 4)
        nn.init.zeros_(self.final.weight)
        nn.init.zeros_(self.final.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        x, c = self.embed(x), self.time(t)
        for block in self.blocks:
            x = block(x, c)
        return self.final(x)


@healthy
def dit() -> Any:
    return DiT(), {"x": torch.randn(8, 16, 4), "t": torch.randn(8, 8), "target": torch.randn(8, 16, 4)}


# -- transformers, the library ---------------------------------------------------------------------------------------

SMALL: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 300,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
VISION: dict[str, Any] = {"image_size": 32, "patch_size": 8, **{key: SMALL[key] for key in list(SMALL)[:4]}}
SPEECH: dict[str, Any] = {
    "d_model": 64, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "vocab_size": 300,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "decoder_start_token_id": 1,
}  # fmt: skip


def _labelled(vocabulary: int = 300) -> dict[str, Tensor]:
    found = torch.randint(3, vocabulary, (4, 16))
    return {"input_ids": found, "labels": found}


def _random_labels() -> dict[str, Tensor]:
    return {"input_ids": torch.randint(3, 300, (4, 16)), "labels": torch.randint(3, 300, (4, 16))}


def _pixels() -> dict[str, Tensor]:
    return {"pixel_values": images(3, 32, 4), "labels": classes(2, 4)}


LIBRARY: dict[str, tuple[str, str, dict[str, Any], Callable[[], dict[str, Tensor]]]] = {
    "GPT-2": (
        "GPT2LMHeadModel", "GPT2Config",
        {"n_embd": 64, "n_layer": 4, "n_head": 4, "vocab_size": 300, "bos_token_id": 1, "eos_token_id": 2}, _labelled,
    ),
    "Llama": ("LlamaForCausalLM", "LlamaConfig", SMALL, _labelled),
    "Qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**SMALL, "num_key_value_heads": 2, "head_dim": 16}, _labelled),
    "Gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**SMALL, "num_key_value_heads": 2, "head_dim": 16}, _labelled),
    "Mixtral": (
        "MixtralForCausalLM", "MixtralConfig", {**SMALL, "num_local_experts": 4, "num_key_value_heads": 2}, _labelled,
    ),
    "BERT": ("BertForMaskedLM", "BertConfig", SMALL, _random_labels),
    "T5": (
        "T5ForConditionalGeneration", "T5Config",
        {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_layers": 2, "num_heads": 4, "vocab_size": 300,
         "decoder_start_token_id": 0}, _random_labels,
    ),
    "ViT": ("ViTForImageClassification", "ViTConfig", VISION, _pixels),
    "Swin": (
        "SwinForImageClassification", "SwinConfig",
        {"image_size": 32, "embed_dim": 32, "depths": [1, 1], "num_heads": [2, 4], "window_size": 4}, _pixels,
    ),
    "Whisper": (
        "WhisperForConditionalGeneration", "WhisperConfig", SPEECH,
        lambda: {"input_features": torch.randn(2, 80, 3000), "labels": torch.randint(3, 300, (2, 8))},
    ),
    "Mamba": (
        "MambaForCausalLM", "MambaConfig", {"hidden_size": 64, "num_hidden_layers": 2, "vocab_size": 300}, _labelled,
    ),
    "CLIP": (
        "CLIPModel", "CLIPConfig", {"text_config": SMALL, "vision_config": VISION, "projection_dim": 32},
        lambda: {"input_ids": torch.randint(3, 300, (4, 16)), "pixel_values": images(3, 32, 4),
                 "return_loss": True},  # type: ignore[dict-item]
    ),
}  # fmt: skip
