"""What a transformers configuration may do: say what a model is, and fetch and run nothing."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from torch import Tensor, nn

from zeta.base.escaping import visible
from zeta.base.reading import parse, shown
from zeta.base.sources import Source
from zeta.errors import CheckpointError, FormatError, UsageError, listed, notice
from zeta.resolve.slots import unwrap
from zeta.write.checkpoint.layout import INDEX

#: implementations of attention and experts inside transformers and torch; others are code from a hub
_OWN_WAYS: Final = ("eager", "sdpa", "flex_attention", "grouped_mm", "batched_mm", None)
_WAYS: Final = {
    f"{prefix}{what}_implementation{suffix}"
    for prefix in ("", "_")
    for what in ("attn", "experts")
    for suffix in ("", "_internal")
}
#: keys of a configuration that name code or weights from elsewhere
_ELSEWHERE: Final = (
    "auto_map", "trust_remote_code", "custom_pipelines", "code_revision", "use_kernels", "kernel_config",
    "allow_all_kernels", "adapter_kwargs", "adapters", "peft_config", "use_pretrained_backbone",
    "checkpoint_path",  # in the arguments of a model of timm, which unpickles it
)  # fmt: skip
#: keys that name a model of timm; ``hf-hub:`` and ``local-dir:`` before it are a model and arguments from elsewhere
_TIMM: Final = ("architecture", "backbone")


#: how transformers writes numbers that JSON does not have
_FLOATS: Final = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
#: transformers makes a name for each label before there is a model
_MOST_LABELS: Final = 2**20


def without_foreign_code(config: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """The configuration without keys that name code, kernels or weights from elsewhere; a notice lists them.

    None of these keys changes the parameters of a model, or the values that its constructor gives them.
    """
    left_out: list[str] = []

    def cleaned(value: Any, place: str) -> Any:
        if place.endswith("num_labels.") and isinstance(value, int) and value > _MOST_LABELS:
            raise UsageError(f"{path}: {place[:-1]} is {shown(value)}, expected at most {_MOST_LABELS:,}")
        if isinstance(value, list):
            return [cleaned(item, f"{place}{number}.") for number, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if value.keys() == {"__float__"} and isinstance(text := value["__float__"], str) and text in _FLOATS:
            return _FLOATS[text]
        kept = {}
        for key, item in value.items():
            if key in _TIMM and isinstance(item, str) and ":" in item:
                raise UsageError(
                    f"{path}: {place}{key} is {shown(item)}, which lies elsewhere and is not fetched; expected the "
                    "name of a model alone, such as 'resnet18'"
                )
            ways = list(item.values()) if isinstance(item, dict) else [item]
            if (key in _ELSEWHERE and item) or (key in _WAYS and not all(way in _OWN_WAYS for way in ways)):
                left_out.append(f"{place}{key} = {shown(item)}")
            else:
                kept[key] = cleaned(item, f"{place}{key}.")
        return kept

    result: dict[str, Any] = cleaned(config, "")
    if left_out:
        notice(listed(f"{path} names code or weights from elsewhere, which are not fetched and not run:", left_out))
    return result


def check_plain(model: nn.Module, source: Source) -> None:
    """Raise ``CheckpointError`` for a checkpoint of quantized tensors, by its configuration, and another model.

    Its numbers mean something only with their scales, and layers that are new to it would have none. It is also an
    error if ``from_pretrained`` would read the tensors from another file of the folder.
    """
    if "config.json" not in source.settings:
        return
    try:
        data = parse(source.settings["config.json"], dict[str, Any])
    except (CheckpointError, FormatError):
        return  # whoever needs it names what is wrong
    read = [file.path.name for file in source.files]
    named = data.get("transformers_weights")
    if isinstance(named, str) and named != INDEX and [named] != read:
        raise CheckpointError(
            f"{source.origin}: its config.json says that the tensors are in {shown(named)}, where from_pretrained "
            f"reads them, and {', '.join(map(visible, read))} would be read; give that file as the checkpoint, or take "
            "transformers_weights out of config.json"
        )
    if getattr(unwrap(model), "is_quantized", False):
        return
    inner = data.get("text_config")
    for one in (data, inner if isinstance(inner, dict) else {}):
        found = one.get("quantization_config")
        if isinstance(found, dict) and found:
            raise CheckpointError(
                f"{source.origin}: its config.json says that tensors are quantized "
                f"({shown(found.get('quant_method'))}), and zeta reads plain numbers; dequantize() the model that "
                "from_pretrained gives and save it, or, if the tensors are not quantized, take quantization_config "
                "out of config.json"
            )


def table_of_tokens(model: nn.Module) -> Tensor | None:
    """The weight of the input embedding that a model of transformers names; ``None`` if it names none."""
    embeddings: Any = getattr(model, "get_input_embeddings", None)
    try:
        weight = getattr(embeddings(), "weight", None) if callable(embeddings) else None
    except NotImplementedError:  # as models of speech, and those with several parts
        return None
    return weight if isinstance(weight, Tensor) else None


class _Added(msgspec.Struct, frozen=True):
    """A token that was added to a vocabulary."""

    id: int


class _Vocabulary(msgspec.Struct, frozen=True):
    """The tokens of a tokenizer: numbers by text, or a list."""

    vocab: Any = None


class _Tokenizer(msgspec.Struct, frozen=True):
    """What is read of ``tokenizer.json``."""

    model: _Vocabulary
    added_tokens: list[_Added] = []


def warn_of_tokens(model: nn.Module, content: bytes | None) -> None:
    """Give a notice if a ``tokenizer.json`` has tokens for which the model's table has no row."""
    table = table_of_tokens(unwrap(model))
    if content is None or table is None:
        return
    try:
        tokenizer = parse(content, _Tokenizer)
    except FormatError:
        return  # it is copied as it is
    vocab = tokenizer.model.vocab
    rows = vocab.values() if isinstance(vocab, dict) else range(len(vocab)) if isinstance(vocab, list) else ()
    numbers = [row for row in (*rows, *(added.id for added in tokenizer.added_tokens)) if type(row) is int]
    if max(numbers, default=-1) >= len(table):
        notice(
            f"tokenizer.json has tokens up to number {max(numbers):,}, and the model's table {len(table):,} rows: "
            f"texts with the last of them will fail; {max(numbers) + 1:,} rows are needed"
        )


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Temporarily switch off all requests to a hub.

    The environment variable for this is read at import, which may be long past; so the constant is changed.
    """
    from huggingface_hub import constants  # transformers reads it there

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
