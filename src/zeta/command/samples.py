"""Make a batch of random values for a transformers model, from its configuration alone."""

from __future__ import annotations

import inspect
from typing import Any, Final

import torch
from torch import Tensor, nn

#: samples, tokens per sample, and pixels per side of an image
_COUNT: Final = 4
_LENGTH: Final = 32
_IMAGE: Final = 64
#: the first tokens of a vocabulary, which are mostly padding, begin and end, are not used
_SPECIAL_TOKENS: Final = 4
_SEED: Final = 0
# classes of models that predict each token, or each masked one; the others predict at most one class per sample
_PER_TOKEN: Final = ("ForCausalLM", "LMHeadModel", "ForMaskedLM", "ForConditionalGeneration", "ForTokenClassification")


def batch_for(model: nn.Module) -> dict[str, Tensor] | None:
    """Random tokens or pixels of the sizes in ``model.config``, with random labels; ``None`` if it has no such sizes.

    Only for models whose main input is ``input_ids`` or ``pixel_values``.
    """
    config, main = getattr(model, "config", None), getattr(model, "main_input_name", None)
    generator = torch.Generator("cpu").manual_seed(_SEED)
    accepted = inspect.signature(model.forward).parameters
    if config is None or main not in accepted:
        return None
    try:
        if main == "input_ids":
            return _tokens(model, config, accepted, generator)
        if main == "pixel_values":
            return _pixels(model, config, accepted, generator)
    except (AttributeError, TypeError):
        return None
    return None


def _tokens(model: nn.Module, config: Any, accepted: Any, generator: torch.Generator) -> dict[str, Tensor]:
    text = config.get_text_config()
    limit = getattr(text, "max_position_embeddings", None) or _LENGTH
    shape = (_COUNT, min(_LENGTH, int(limit) // 2 or 1))
    first = min(_SPECIAL_TOKENS, text.vocab_size - 1)
    batch = {"input_ids": torch.randint(first, text.vocab_size, shape, generator=generator, device="cpu")}
    name = type(model).__name__
    if name.endswith(("ForCausalLM", "LMHeadModel")):
        # decoders of encoder-decoder models and XLM do not shift labels; without labels, next-token loss is used
        if name.endswith("ForCausalLM") and getattr(config, "decoder_start_token_id", None) is None:
            batch["labels"] = batch["input_ids"]
    elif "labels" in accepted and name.endswith(_PER_TOKEN):
        classes = config.num_labels if name.endswith("ForTokenClassification") else text.vocab_size
        batch["labels"] = torch.randint(min(first, classes - 1), classes, shape, generator=generator, device="cpu")
    elif "labels" in accepted and name.endswith("ForSequenceClassification"):
        batch["labels"] = torch.randint(0, config.num_labels, (_COUNT,), generator=generator, device="cpu")
    elif "decoder_input_ids" in accepted:
        batch["decoder_input_ids"] = batch["input_ids"]
    return batch


def _pixels(model: nn.Module, config: Any, accepted: Any, generator: torch.Generator) -> dict[str, Tensor]:
    size = getattr(config, "image_size", _IMAGE)  # fully convolutional models take any size
    height, width = (size, size) if isinstance(size, int) else size
    batch = {"pixel_values": torch.randn(_COUNT, config.num_channels, height, width, generator=generator, device="cpu")}
    if "labels" in accepted and type(model).__name__.endswith("ForImageClassification"):
        batch["labels"] = torch.randint(0, config.num_labels, (_COUNT,), generator=generator, device="cpu")
    return batch
