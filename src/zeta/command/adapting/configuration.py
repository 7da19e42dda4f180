"""What a longer vocabulary and more blocks change in a transformers configuration, and where they are in the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from torch import nn

from zeta.adapting.configuration import table_of_tokens
from zeta.base.modules import named_modules_of
from zeta.command.loading import configuration_of, field_names
from zeta.errors import UsageError
from zeta.growing import Layers
from zeta.resolve.adapting.layers import lists_of
from zeta.resolve.slots import unwrap, walk

_VOCAB: Final = "vocab_size"
_LAYERS: Final = "num_hidden_layers"
#: lists of a configuration with one item for each block
_EACH: Final = (
    *("layer_types", "mlp_layer_types", "no_rope_layers", "layers_block_type", "attention_layers"),
    *("activation_sparsity_pattern", "intermediate_size"),
)
#: where a model of several kinds of data has the configuration of its language model
_TEXT: Final = "text_config"
_ELSEWHERE: Final = "write the new number into a copy of config.json, and pass that as --model hf:COPY"


def changes(
    spec: str, given: dict[str, Any], before: nn.Module | None, *, vocab: int | None, layers: int | None, depth: str
) -> dict[str, Any]:
    """The fields of a configuration that change. Any other model is given in its new size, so that nothing does.

    ``before`` is the model without changes, which has the fields that its configuration leaves out.
    """
    if before is None:
        return {}
    data = {**configuration_of(Path(spec.removeprefix("hf:"))), **given}
    inner, config = data.get(_TEXT), getattr(unwrap(before), "config", None)
    place: dict[str, Any] = inner if isinstance(inner, dict) else data
    changed: dict[str, Any] = {}
    if vocab is not None:
        changed |= dict.fromkeys(_present(place, _VOCAB), vocab)
    if layers is not None:
        changed |= dict.fromkeys(_present(place, _LAYERS), layers)
        changed |= _longer(getattr(config, _TEXT, config) if place is inner else config, Layers(layers, depth))  # type: ignore[arg-type]
    if place is data:
        return changed
    repeated = {name: value for name, value in changed.items() if name in data and data[name] == place.get(name)}
    return {_TEXT: {**place, **changed}, **repeated}


def _present(data: dict[str, Any], name: str) -> list[str]:
    keys = field_names(data, name)
    return [key for key in keys if key in data] or keys[:1]


def _longer(config: Any, layers: Layers) -> dict[str, Any]:
    """The lists with one item for each block: that of the old block, and for a new one, that of the block before it.

    They are those of the object, as a configuration may leave them to its class, which would begin them anew.
    """
    before = getattr(config, _LAYERS, None)
    if not isinstance(before, int) or not 0 < before <= layers.to:
        return {}  # an error that names the blocks follows
    found: dict[str, Any] = {}
    for key in _EACH:
        items = vars(config).get(key)
        if isinstance(items, list | tuple) and len(items) == before:
            sources = enumerate(layers.sources(before))
            found[key] = [items[place * before // layers.to if one is None else one] for place, one in sources]
    return found


def embedding_of(model: nn.Module, rows: int) -> str:
    """The name of the weight of a model's table of tokens, which has so many rows."""
    inner = unwrap(model)
    slots = {id(slot.tensor): slot.name for slot in reversed(list(walk(inner)))}
    tables = {slots[id(m.weight)] for _, m in named_modules_of(inner) if isinstance(m, nn.Embedding)}
    weight = table_of_tokens(inner)
    if weight is not None and weight.ndim == 2 and id(weight) in slots:
        name = slots[id(weight)]
        if len(weight) != rows:
            raise UsageError(
                f"--grow-vocab {rows}: the model's table of tokens, {name}, has {len(weight)} rows; build it so "
                f"large, or, of a configuration, {_ELSEWHERE}"
            )
        return name
    sizes = {slot.name: slot.shape[0] for slot in walk(inner) if slot.name in tables}
    found = [name for name, size in sizes.items() if size == rows]
    if len(found) != 1:
        known = ", ".join(f"{name} ({size:,})" for name, size in sizes.items()) or "none"
        raise UsageError(
            f"--grow-vocab {rows}: expected one table of {rows:,} tokens in the model, found {len(found)} among its "
            f"tables: {known}; in Python, grow= of zeta.adapting.adapt_folder takes names"
        )
    return found[0]


def list_of(model: nn.Module, count: int, before: nn.Module | None) -> str:
    """The name of the outermost list of a model that has so many blocks, and had another number in ``before``."""
    lists = _lists(model)
    found = [path for path, blocks in lists.items() if blocks == count]
    if before is not None:
        had = _lists(before)
        grown = [path for path in found if had.get(path) != count]
        if found and not grown:
            raise UsageError(f"--layers {count}: {', '.join(found)} has {count} blocks already; leave --layers out")
        found = grown
    outermost = min((path.count(".") for path in found), default=0)
    found = [path for path in found if path.count(".") == outermost]
    if not found:
        known = ", ".join(f"{path} ({blocks})" for path, blocks in lists.items()) or "none"
        raise UsageError(
            f"--layers {count}: the model has no list of {count} blocks; it has {known}; build it so large, or, of a "
            f"configuration, {_ELSEWHERE}"
        )
    if len(found) > 1:
        raise UsageError(
            f"--layers {count}: several lists of the model have {count} blocks: {', '.join(found)}; in Python, grow= "
            "of zeta.adapting.adapt_folder takes names"
        )
    return found[0]


def _lists(model: nn.Module) -> Mapping[str, int]:
    return lists_of(slot.name for slot in walk(unwrap(model)))
