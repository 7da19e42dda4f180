"""What a longer vocabulary and more blocks change in a transformers configuration, and where they are in the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from torch import nn

from zeta.base.modules import named_modules_of
from zeta.command.loading import configuration_of, field_names
from zeta.errors import UsageError
from zeta.growing import Layers
from zeta.resolve.adapting.layers import lists_of
from zeta.resolve.slots import unwrap, walk

_VOCAB: Final = "vocab_size"
_LAYERS: Final = "num_hidden_layers"
#: lists of a configuration with one item for each block
_EACH: Final = ("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type", "attention_layers")
#: where a model of several kinds of data has the configuration of its language model
_TEXT: Final = "text_config"


def changes(spec: str, given: dict[str, Any], *, vocab: int | None, layers: int | None, depth: str) -> dict[str, Any]:
    """The fields of a configuration that change. Any other model is given in its new size, so that nothing does."""
    if not spec.startswith("hf:") or (vocab is None and layers is None):
        return {}
    data = {**configuration_of(Path(spec.removeprefix("hf:"))), **given}
    inner = data.get(_TEXT)
    nested = isinstance(inner, dict) and not any(
        name in data for name in field_names(data, _VOCAB) + field_names(data, _LAYERS)
    )
    place: dict[str, Any] = dict(inner) if nested and isinstance(inner, dict) else data
    changed: dict[str, Any] = {}
    if vocab is not None:
        changed |= dict.fromkeys(_present(place, _VOCAB), vocab)
    if layers is not None:
        names = _present(place, _LAYERS)
        before = place.get(names[0])
        changed |= dict.fromkeys(names, layers)
        if isinstance(before, int):
            changed |= _longer(place, before, Layers(layers, depth))  # type: ignore[arg-type]
    return {_TEXT: {**place, **changed}} if nested else changed


def _present(data: dict[str, Any], name: str) -> list[str]:
    keys = field_names(data, name)
    return [key for key in keys if key in data] or keys[:1]


def _longer(data: dict[str, Any], before: int, layers: Layers) -> dict[str, Any]:
    """The lists with one item for each block: that of the old block, and for a new one, that of the block before it."""
    if layers.to < before:
        return {}  # an error that names the blocks follows
    found: dict[str, Any] = {}
    for key in _EACH:
        items = data.get(key)
        if isinstance(items, list) and len(items) == before:
            sources = enumerate(layers.sources(before))
            found[key] = [items[place * before // layers.to if one is None else one] for place, one in sources]
    return found


def embedding_of(model: nn.Module, rows: int) -> str:
    """The name of the weight of a model's table of tokens, which has so many rows."""
    inner: Any = unwrap(model)
    slots = {id(slot.tensor): slot.name for slot in reversed(list(walk(inner)))}
    table = inner.get_input_embeddings() if callable(getattr(inner, "get_input_embeddings", None)) else None
    weights = [getattr(table, "weight", None)]
    if table is None:
        tables = [module for _, module in named_modules_of(inner) if isinstance(module, nn.Embedding)]
        weights = [module.weight for module in tables if len(module.weight) == rows]
    if len(weights) != 1 or id(weights[0]) not in slots:
        raise UsageError(
            f"--grow-vocab {rows}: the model has {len(weights)} tables of so many tokens; zeta.adapt_ takes names"
        )
    weight: Any = weights[0]
    if len(weight) != rows:
        raise UsageError(f"--grow-vocab {rows}: the model's table of tokens has {len(weight)} rows; build it so large")
    return slots[id(weight)]


def list_of(model: nn.Module, count: int) -> str:
    """The name of the outermost list of a model that has so many blocks."""
    lists = lists_of(slot.name for slot in walk(unwrap(model)))
    found = sorted((path for path, blocks in lists.items() if blocks == count), key=lambda path: path.count("."))
    if not found:
        known = ", ".join(f"{path} ({blocks})" for path, blocks in lists.items()) or "none"
        raise UsageError(f"--layers {count}: the model has no list of {count} blocks; it has {known}")
    return found[0]
