"""Batches of random values for a model of transformers, by what its ``forward`` takes."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn

SAMPLES, LENGTH, IMAGE, VOCABULARY = 8, 16, 64, 1024
#: pixels: of larger pictures, a batch has two
LARGE = 512


class Sizes:
    """Looks up a size in a configuration, or else in the inner ones."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def __call__(self, *names: str, default: Any = None) -> Any:
        """The value of the first of these names, in the outermost configuration that has one."""
        for config in self.all(self.config):
            for name in names:
                if (value := getattr(config, name, None)) is not None and not isinstance(value, bool):
                    return value
        return default

    def all(self, config: Any, depth: int = 0) -> Iterator[Any]:
        """A configuration, and those in it."""
        yield config
        for value in vars(config).values():
            if isinstance(value, transformers.PreTrainedConfig) and depth < 3:
                yield from self.all(value, depth + 1)


def tokens(sizes: Sizes, generator: torch.Generator) -> Tensor:
    """Tokens without special ones."""
    text = sizes.config.get_text_config()
    vocabulary = getattr(text, "vocab_size", None) or sizes("vocab_size", default=VOCABULARY)
    limit = sizes("max_position_embeddings", "n_positions", "max_target_positions", default=LENGTH)
    length = min(LENGTH, int(limit) // 2 or 1) if limit > 0 else LENGTH  # XLNet has -1, for none
    last = max(vocabulary - 64, 6)
    return torch.randint(5, last, (SAMPLES, length), generator=generator)


def images(sizes: Sizes, generator: torch.Generator, size: int | None) -> Tensor:
    """Normal values of the configured size, or of ``size`` pixels."""
    found = size or sizes("image_size", "pretrain_image_size", default=IMAGE)
    height, width = (found, found) if isinstance(found, int) else tuple(found)
    channels = sizes("num_channels", "in_channels", "num_input_channels", default=3)
    samples = SAMPLES if max(height, width) <= LARGE else 2
    return torch.randn(samples, channels, height, width, generator=generator)


def mains(main: str, sizes: Sizes, generator: torch.Generator) -> Iterator[Tensor]:
    """Candidates for the main input."""
    if main in ("input_ids", "decoder_input_ids"):
        yield tokens(sizes, generator)
    elif main == "pixel_values":
        for size in (None, 224, 256, 512):
            yield images(sizes, generator, size)
    elif main == "pixel_values_videos":
        frames = sizes("num_frames", "frames_per_clip", default=8)
        yield images(sizes, generator, sizes("image_size", "crop_size"))[:, None].repeat(1, frames, 1, 1, 1)
    elif main == "input_features":
        bands = sizes("num_mel_bins", "n_mels", "feature_size", "input_feat_per_channel", "input_dim", default=80)
        long = sizes("max_source_positions", default=0) * 2
        if long:
            yield torch.randn(SAMPLES // 2, bands, long, generator=generator)
        for frames in (128, 512, 3000):
            yield torch.randn(SAMPLES // 2, frames, bands, generator=generator)
            yield torch.randn(SAMPLES // 2, bands, frames, generator=generator)
    elif main == "input_values":
        frames, bands = sizes("max_length", default=128), sizes("num_mel_bins", default=128)
        yield torch.randn(SAMPLES // 2, 16000, generator=generator)
        yield torch.randn(SAMPLES // 2, sizes("audio_channels", default=1), 24000, generator=generator)
        yield torch.randn(SAMPLES // 2, frames, bands, generator=generator)
    elif main == "past_values":
        lags = max(sizes("lags_sequence", default=[0]))
        context = sizes("context_length", default=32) + lags
        yield torch.randn(SAMPLES, context, generator=generator)
        yield torch.randn(SAMPLES, context, sizes("input_size", "num_input_channels", default=1), generator=generator)


def others(batch: dict[str, Any], accepted: Mapping[str, Any], sizes: Sizes, generator: torch.Generator) -> None:
    """Add what the model needs beside its main input."""
    ids = batch.get("input_ids")
    if ids is not None and "bbox" in accepted:
        low = torch.randint(0, 400, (*ids.shape, 2), generator=generator)
        batch["bbox"] = torch.cat([low, low + torch.randint(1, 400, low.shape, generator=generator)], -1)
    if ids is not None and "attention_mask" in accepted:
        batch["attention_mask"] = torch.ones_like(ids)
    if "decoder_input_ids" in accepted and "decoder_input_ids" not in batch:
        batch["decoder_input_ids"] = tokens(sizes, generator)[: len(next(iter(batch.values())))]
    needed = [n for n, p in accepted.items() if p.default is inspect.Parameter.empty and n not in batch]
    if "pixel_values" in needed or (ids is not None and "pixel_values" in accepted and "bbox" not in accepted):
        batch.setdefault("pixel_values", images(sizes, generator, None))
    if "input_features" in needed:
        batch["input_features"] = next(mains("input_features", sizes, generator))
    for name in ("past_time_features", "future_time_features"):
        if name in needed or (name in accepted and "past_values" in batch):
            steps = batch["past_values"].shape[1] if name[0] == "p" else sizes("prediction_length", default=1)
            count = sizes("num_time_features", default=0)
            batch[name] = torch.randn(SAMPLES, steps, count, generator=generator)
    if "future_values" in accepted and "past_values" in batch:  # without these, decoders have one place only
        shape = batch["past_values"].shape
        steps = sizes("prediction_length", default=1)
        batch["future_values"] = torch.randn(shape[0], steps, *shape[2:], generator=generator)
    if "past_observed_mask" in accepted and "past_values" in batch:
        batch["past_observed_mask"] = torch.ones_like(batch["past_values"])


def labels(name: str, batch: Mapping[str, Any], sizes: Sizes, generator: torch.Generator) -> Iterator[Any]:
    """Candidates for ``labels``, by the kind of the model."""
    ids = batch.get("decoder_input_ids", batch.get("input_ids"))
    classes = sizes("num_labels", default=2)
    if name.endswith(("ForImageClassification", "ForVideoClassification", "ForAudioClassification")) or (
        "SequenceClassification" in name
    ):
        yield torch.arange(len(next(iter(batch.values())))) % classes
    elif name.endswith("SemanticSegmentation"):
        image = batch["pixel_values"]
        yield torch.randint(0, classes, (len(image), *image.shape[-2:]), generator=generator)
    elif name.endswith("CTC"):
        yield torch.randint(
            5, sizes("vocab_size", default=32) - 1, (len(next(iter(batch.values()))), 6), generator=generator
        )
    elif "MaskedLM" in name and ids is not None:
        hidden = torch.rand(ids.shape, generator=generator) < 0.3
        others = torch.randint(5, int(ids.max()) + 1, ids.shape, generator=generator)  # the inputs are not masked
        yield torch.where(hidden, others, -100)
    elif name.endswith("ObjectDetection"):
        count = len(batch["pixel_values"])
        yield [
            {"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 4, generator=generator) * 0.4 + 0.3}
            for _ in range(count)
        ]
    elif ids is not None:
        yield ids.roll(-1, 1) if "decoder_input_ids" in batch else ids
    elif batch.get("pixel_values") is not None and name.endswith("DepthEstimation"):
        image = batch["pixel_values"]
        yield torch.rand(len(image), *image.shape[-2:], generator=generator)


def batches(model: nn.Module, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Candidates for a batch, with labels first."""
    accepted = inspect.signature(model.forward).parameters
    sizes = Sizes(model.config)
    main: Any = getattr(model, "main_input_name", "input_ids")
    first = main if isinstance(main, list) else [main]
    names: Sequence[str] = [
        *first,
        "input_ids",
        "pixel_values",
        "input_features",
        "input_values",
        "pixel_values_videos",
    ]
    for name in dict.fromkeys(names):
        if name not in accepted:
            continue
        generator = torch.Generator("cpu").manual_seed(seed)
        for value in mains(name, sizes, generator):
            batch: dict[str, Any] = {name: value}
            others(batch, accepted, sizes, generator)
            only = {k: v for k, v in batch.items() if k not in ("pixel_values", "input_features") or k == name}
            for part in (batch, only) if len(only) < len(batch) else (batch,):
                if "labels" in accepted:
                    for label in labels(type(model).__name__, part, sizes, generator):
                        yield {**part, "labels": label}
                yield part
