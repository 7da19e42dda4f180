"""A small model with an output layer for a model type of transformers, and a batch of random values for it."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import transformers
from torch import nn
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from benchmarks.sources.transformers_batches import IMAGE, VOCABULARY
from benchmarks.sources.transformers_models import model_class, shallow

#: what every width is divided by; the first that gives a model which runs is taken
FACTORS = (16, 4, 1)
#: with more elements, one check takes too long
LARGEST = 60_000_000

# numbers of heads are divided, and not their sizes, which rotary embeddings are cut into
WIDTHS = re.compile(
    r"(\w+_)?(hidden_sizes?|hidden_channels|d_model|n_embd|embed_dim|intermediate_size|ffn_dim|d_ff|n_inner|mlp_dim|hidden_dim"
    r"|projection_dim|emb_dim|embedding_size|embedding_dim|ffn_hidden_size|output_dim|pooler_output_size"
    r"|word_embed_proj_dim|classifier_proj_size|projection_size|vision_output_dim|lora_rank)|dim"
)
MAIN = {"hidden_size", "d_model", "n_embd", "dim", "embed_dim", "hidden_dim", "hidden_sizes"}
STDS = ("initializer_range", "init_std")
HEADS = re.compile(r"(\w+_)?(attention_heads|num_heads|n_heads?|key_value_heads|num_kv_heads|n_head_kv|kv_heads)")
EXPERTS = re.compile(r"(n_routed|num_local|num|moe_num|n)_experts|num_experts")
TOKEN = re.compile(r"\w*token_(id|index)\w*")

_INDEXER = {"n_heads": 2, "kv_heads": 1, "head_dim": 16, "budget": 16, "compress_ratio": 4}

#: by model type, what must fit together in a small model: attributes of its configuration, also of inner ones
SETTINGS: dict[str, dict[str, Any]] = {
    "align": {"projection_dim": 80},
    "dpt": {"num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]},
    "gemma3n_text": {"num_kv_shared_layers": 0, "vocab_size_per_layer_input": 1024},
    "glpn": {"num_encoder_blocks": 4},
    "qwen4_exp": {f"text_config.indexer_{key}": value for key, value in _INDEXER.items()},
    "qwen4_exp_text": {f"indexer_{key}": value for key, value in _INDEXER.items()},
    "sam2": {"vision_config.backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
    "zamba": {
        "num_hidden_layers": 8,
        "layers_block_type": ["hybrid" if layer in (2, 7) else "linear_attention" for layer in range(8)],
    },
    "sam3_tracker": {"vision_config.backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]]},
}

#: the kinds of models with a loss, in the order in which one is taken
KINDS = (
    "SPEECH_SEQ_2_SEQ", "MASKED_LM", "SEQ_TO_SEQ_CAUSAL_LM", "CAUSAL_LM", "IMAGE_TEXT_TO_TEXT", "MULTIMODAL_LM",
    "IMAGE_CLASSIFICATION", "VIDEO_CLASSIFICATION", "CTC", "AUDIO_CLASSIFICATION", "SEQUENCE_CLASSIFICATION",
    "SEMANTIC_SEGMENTATION", "MASKED_IMAGE_MODELING", "OBJECT_DETECTION", "DEPTH_ESTIMATION",
    "TIME_SERIES_PREDICTION", "PRETRAINING",
)  # fmt: skip


def has_model(name: str) -> bool:
    """Whether a model type has a class in the Auto mappings, without importing it."""
    mappings = [value for key, value in vars(modeling_auto).items() if re.fullmatch(r"MODEL(_\w+)?_MAPPING", key)]
    return any(CONFIG_MAPPING[name] in mapping for mapping in mappings)


def head_class(config: Any) -> type[nn.Module] | None:
    """The class of models with a loss, else the base model."""
    for kind in KINDS:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING")
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple | list) else found  # type: ignore[no-any-return]
    return model_class(config)  # type: ignore[return-value]


def narrow(config: Any, factor: int, images: bool, depth: int = 0) -> None:
    """Divide widths and numbers of heads; cut vocabularies, experts, stages and images; in inner configurations too."""
    fewer: dict[str, Any] = {}
    for key, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig) and depth < 4:
            narrow(value, factor, images, depth + 1)
        elif WIDTHS.fullmatch(key) and _divisible(value, factor):
            fewer[key] = value // factor if isinstance(value, int) else type(value)(one // factor for one in value)
        elif re.fullmatch(r"(\w+_)?depths|layers_per_stage", key) and isinstance(value, list | tuple):
            fewer[key] = type(value)(min(one, 2) for one in value)
        elif key in ("layer_types", "layers_block_type") and isinstance(value, list):
            kinds = list(dict.fromkeys(value))
            kinds = kinds * 2 if len(kinds) == 1 else kinds
            fewer |= {key: kinds, "num_hidden_layers": len(kinds)}
        elif key in ("width_coefficient", "depth_coefficient"):
            fewer[key] = 0.25
        elif key == "image_size" and images:
            patch = getattr(config, "patch_size", None)
            size = max(IMAGE // patch, 4) * patch if isinstance(patch, int) else IMAGE
            fewer[key] = type(value)([size] * len(value)) if isinstance(value, list | tuple) else size
        elif type(value) is not int:
            continue
        elif HEADS.fullmatch(key):
            fewer[key] = max(value // factor, 1) if value % factor == 0 or "k" in key else value
        elif EXPERTS.fullmatch(key):
            fewer[key] = min(value, 16)
        elif key in ("num_queries", "num_denoising"):  # a small picture has few places to choose from
            fewer[key] = min(value, 20)
        elif re.fullmatch(r"(\w+_)?vocab_size\w*", key):
            fewer[key] = min(value, VOCABULARY)
    if hasattr(config, "image_embedding_size"):  # not a width: the places of a picture
        fewer["image_embedding_size"] = fewer.get("image_size", config.image_size) // config.patch_size
    if "width_coefficient" in fewer:  # of EfficientNet, whose last width is 1280 times this
        fewer["hidden_dim"] = 320
    if MAIN.intersection(fewer):  # a matrix has the gain of one of the full width
        fewer |= {
            key: getattr(config, key) * factor**0.5 for key in STDS if isinstance(getattr(config, key, None), float)
        }
    if hasattr(config, "use_cache"):
        fewer["use_cache"] = False
    for key, value in fewer.items():
        setattr(config, key, value)


def _divisible(value: Any, factor: int) -> bool:
    sizes = value if isinstance(value, list | tuple) else [value]
    return bool(sizes) and all(type(one) is int and one % factor == 0 and one // factor >= 4 for one in sizes)


def renumbered(config: Any, numbers: dict[int, int], depth: int = 0) -> None:
    """Give special tokens numbers within the smaller vocabulary, the same number where it was the same."""
    for key, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig) and depth < 4:
            renumbered(value, numbers, depth + 1)
        elif TOKEN.fullmatch(key) and type(value) is int and value >= VOCABULARY - 64:
            setattr(config, key, numbers.setdefault(value, VOCABULARY - 1 - len(numbers)))
        elif TOKEN.fullmatch(key) and isinstance(value, list):
            new = [numbers.setdefault(v, VOCABULARY - 1 - len(numbers)) if v >= VOCABULARY - 64 else v for v in value]
            setattr(config, key, new)


def configured(name: str, factor: int, images: bool) -> Any:
    """The default configuration, made smaller."""
    kind = CONFIG_MAPPING[name]
    accepted = inspect.signature(kind).parameters
    lengths = {"prediction_length": 8, "label_length": 4}  # the second is a part of the first
    config = kind(**{key: value for key, value in lengths.items() if key in accepted})
    shallow(config)
    narrow(config, factor, images)
    renumbered(config, {})
    for place, value in SETTINGS.get(name, {}).items():
        *inner, key = place.split(".")
        setattr(functools.reduce(getattr, inner, config), key, value)
    return config


def small(name: str) -> Iterator[tuple[str, Callable[[], nn.Module]]]:
    """Candidates, the smallest first."""
    for images in (True, False):
        for factor in FACTORS if images else FACTORS[::2]:
            config = configured(name, factor, images)
            found = head_class(config)
            assert found is not None
            yield found.__name__, functools.partial(found, config)
