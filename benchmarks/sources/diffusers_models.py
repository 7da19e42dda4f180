"""The model classes of diffusers, from their default configurations."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from benchmarks.sources import Candidate, Source
from benchmarks.sources.operators import declare_torchvision

declare_torchvision()

import diffusers  # noqa: E402

from benchmarks.sources.transformers_models import LAYERS  # noqa: E402

_HUNYUAN = {"patch_size": 2, "in_channels": 4, "num_attention_heads": 4, "attention_head_dim": 16, "hidden_size": 64}

#: what has no default, or none of which a model can be built
NEEDED: Mapping[str, dict[str, Any]] = {
    "AutoencoderKLHunyuanImage": {
        "in_channels": 3, "out_channels": 3, "latent_channels": 8, "block_out_channels": (32, 64),
        "layers_per_block": 1, "spatial_compression_ratio": 2, "sample_size": 32,
    },
    "ControlNetUnionModel": {
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 32,
    },
    "DreamLiteTransformer2DModel": {"in_channels": 32},
    "EasyAnimateTransformer3DModel": {"in_channels": 16, "out_channels": 16, "patch_size": 2},
    "HiDreamImageTransformer2DModel": {
        "patch_size": 2, "caption_channels": [64, 64], "llama_layers": [0, 1, 2, 3], "axes_dims_rope": (64, 32, 32),
    },
    "HunyuanDiT2DControlNetModel": {**_HUNYUAN, "transformer_num_layers": 6},
    "HunyuanDiT2DModel": _HUNYUAN,
    "LatteTransformer3DModel": {
        "in_channels": 4, "patch_size": 2, "sample_size": 16, "norm_type": "ada_norm_single",
        "num_embeds_ada_norm": 1000, "caption_channels": 32,
    },
    "LuminaNextDiT2DModel": {"num_kv_heads": 4},
}  # fmt: skip

#: of what is built from other models
COMPOSED: Mapping[str, tuple[str, int]] = {
    "FluxMultiControlNetModel": ("FluxControlNetModel", 2),
    "HunyuanDiT2DMultiControlNetModel": ("HunyuanDiT2DControlNetModel", 2),
    "MultiControlNetModel": ("ControlNetModel", 2),
    "MultiAdapter": ("T2IAdapter", 2),
    "QwenImageMultiControlNetModel": ("QwenImageControlNetModel", 1),
    "SD3MultiControlNetModel": ("SD3ControlNetModel", 2),
}
ABSTRACT = ("AutoModel", "ModelMixin")


def names() -> list[str]:
    """All classes of models that diffusers lists."""
    classes = [name for name in diffusers._import_structure["models"] if inspect.isclass(getattr(diffusers, name))]
    return [name for name in classes if issubclass(getattr(diffusers, name), nn.Module) and name not in ABSTRACT]


def smaller(cls: type, heads: bool) -> dict[str, Any]:
    """Two layers where the default is a larger number, and at most four heads."""
    found = {}
    for key, parameter in inspect.signature(cls.__init__).parameters.items():
        value = parameter.default
        if isinstance(value, int) and not isinstance(value, bool):
            if LAYERS.fullmatch(key) and value > 2:
                found[key] = 2
            elif heads and key in ("num_attention_heads", "num_heads") and value > 4:
                found[key] = 4
    return found


def candidates(name: str) -> Iterator[Candidate]:
    """With fewer layers and heads, with fewer layers, and by default."""
    if name in COMPOSED:
        part, count = COMPOSED[name]
        for options in (smaller(getattr(diffusers, part), heads=True), {}):
            yield (
                name,
                lambda o=options: getattr(diffusers, name)(
                    [getattr(diffusers, part)(**{**o, **NEEDED.get(part, {})}) for _ in range(count)]
                ),
            )
        return
    cls, needed = getattr(diffusers, name), NEEDED.get(name, {})
    for options in (smaller(cls, heads=True), smaller(cls, heads=False), {}):
        yield name, lambda o=options: cls(**{**o, **needed})


SOURCE = Source(
    title="diffusers",
    what=f"Every class of models of diffusers {diffusers.__version__}, built from its default configuration (two "
    "layers and four attention heads where that is possible)",
    noun="class",
    names=names,
    candidates=candidates,
)
