"""Every model type of transformers, from its default configuration."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import transformers
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from benchmarks.sources import Candidate, Source

LAYERS = re.compile(r"(num_)?(\w+_)?(n_)?(layers?|blocks)|depth|n_layer|num_hidden_groups")


def shallow(config: Any, depth: int = 0) -> None:
    """Cut the number of layers to two, in inner configurations too."""
    for key, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig) and depth < 4:
            shallow(value, depth + 1)
        elif LAYERS.fullmatch(key) and isinstance(value, int) and not isinstance(value, bool) and value > 2:
            setattr(config, key, 2)


def model_class(config: Any) -> type | None:
    """The base model of a configuration, else the first of any other kind."""
    mappings = [value for key, value in vars(modeling_auto).items() if re.fullmatch(r"MODEL(_\w+)?_MAPPING", key)]
    mappings.sort(key=lambda mapping: mapping is not modeling_auto.MODEL_MAPPING)
    for mapping in mappings:
        if type(config) in mapping:
            found = mapping[type(config)]
            return found[0] if isinstance(found, tuple | list) else found  # type: ignore[no-any-return]
    return None


#: the kinds of models with an output layer, in the order in which one is taken
HEADED = (
    "CAUSAL_LM", "SEQ_TO_SEQ_CAUSAL_LM", "MASKED_LM", "IMAGE_TEXT_TO_TEXT", "IMAGE_CLASSIFICATION", "CTC",
    "AUDIO_CLASSIFICATION", "OBJECT_DETECTION",
)  # fmt: skip


def headed(name: str) -> Candidate | None:
    """A model with an output layer, two layers deep; ``None`` if transformers has none of this type."""
    config = CONFIG_MAPPING[name]()
    shallow(config)
    for kind in HEADED:
        mapping = getattr(modeling_auto, f"MODEL_FOR_{kind}_MAPPING")
        if type(config) in mapping:
            found = mapping[type(config)]
            model: Any = found[0] if isinstance(found, tuple | list) else found
            return model.__name__, functools.partial(model, config)
    return None


def candidates(name: str) -> Iterator[Candidate]:
    """Two layers deep, and as deep as the configuration says."""
    for cut in (True, False):
        config = CONFIG_MAPPING[name]()
        if cut:
            shallow(config)
        found = model_class(config)
        if found is None:
            raise LookupError("no model class in the Auto mappings")
        yield found.__name__, lambda found=found, config=config: found(config)  # type: ignore[misc]


def smaller(name: str) -> Iterator[Candidate]:
    """Narrow models, with an output layer, or without where that is of another configuration."""
    from benchmarks.sources.transformers_small import FACTORS, configured, small  # it builds on this module

    yield from small(name)
    for factor in FACTORS:
        config = configured(name, factor, images=False)
        found: Any = model_class(config)
        yield found.__name__, functools.partial(found, config)


def warm_up() -> None:
    """Import once what most architectures import."""
    transformers.logging.set_verbosity_error()
    for name in ("llama", "bert", "vit", "wav2vec2", "detr"):
        if (found := model_class(CONFIG_MAPPING[name]())) is not None:
            found.__module__  # noqa: B018


SOURCE = Source(
    title="Architectures",
    what=f"Every model type of transformers {transformers.__version__}, built from its default configuration (two "
    "layers deep where possible)",
    noun="model type",
    names=lambda: list(CONFIG_MAPPING_NAMES),
    candidates=candidates,
    unbuilt=False,
    warm_up=warm_up,
    smaller=smaller,
)
