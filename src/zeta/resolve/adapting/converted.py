"""Names of a checkpoint of transformers that its models have otherwise: renamed, or several tensors packed into one.

transformers keeps such tables for its classes, and applies them in ``from_pretrained`` and, in reverse, in
``save_pretrained``. The names are passed through its own functions, and its operations become arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from torch import nn

from zeta.base.sources import Source
from zeta.errors import PlanError
from zeta.resolve.adapting.arrays import Array, Joined, Stacked, Stored, Taken, Turned
from zeta.resolve.slots import unwrap

#: tables of renamings and of converters, what applies them to a name, and in which order names are looked at
_Tables = tuple[list[Any], list[Any], Callable[..., tuple[str, str | None]], Callable[[str], Any]]
#: arrays by the pattern of a converter that they are from
_Parts = dict[str, list[Array]]


def converted(model: nn.Module, source: Source, own: Collection[str]) -> dict[str, Array]:
    """What the checkpoint gives under the model's ``own`` names, where the names in it are others.

    Raises ``PlanError`` for tensors that transformers combines in a way that is not known here.
    """
    inner: Any = unwrap(model)
    others = [name for name in source.tensors if name not in own]
    tables = _tables(inner) if others else None
    if tables is None:
        return {}
    renamings, converters, rename, order = tables
    named = dict.fromkeys(own, True)
    found: dict[str, Array] = {}
    collected: dict[str, tuple[Any, _Parts]] = {}
    for name in sorted(others, key=order):
        new, pattern = rename(name, renamings, converters, getattr(inner, "base_model_prefix", None), named)
        stored = Stored.of(source, name)
        if pattern is None:
            if new in named and new not in source.tensors:
                found[new] = stored
            continue
        converter = next(each for each in converters if pattern in each.source_patterns)
        _, parts = collected.setdefault(new, (converter, {}))
        parts.setdefault(pattern, []).append(stored)
    for new, (converter, parts) in collected.items():
        found.update(_results(new, converter, parts))
    return {name: array for name, array in found.items() if name in named}


def _tables(
    model: Any,
) -> tuple[list[Any], list[Any], Callable[..., tuple[str, str | None]], Callable[[str], Any]] | None:
    """The tables of a model's class, and what applies them; ``None`` for models without."""
    if not callable(getattr(type(model), "from_pretrained", None)):
        return None
    try:
        from transformers import PreTrainedModel
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key
    except ImportError:  # an older transformers, whose models have the names of their checkpoints
        return None
    if not isinstance(model, PreTrainedModel):
        return None
    transforms = get_model_conversion_mapping(model)
    renamings = [each for each in transforms if isinstance(each, WeightRenaming)]
    converters = [each for each in transforms if isinstance(each, WeightConverter)]
    return renamings, converters, rename_source_key, dot_natural_key


def _results(name: str, converter: Any, parts: _Parts) -> dict[str, Array]:
    """The arrays that a converter makes, by their names in the model."""
    sources, targets = list(converter.source_patterns), list(converter.target_patterns)
    for operation in converter.operations:
        apply = _OPERATIONS.get(type(operation).__name__)
        if apply is None or getattr(operation, "num_shards_attribute", None) or getattr(operation, "check_dims", False):
            kind = type(operation).__name__
            raise PlanError(
                f"{name}: transformers makes it of other tensors of the checkpoint by {kind}, which is not known here; "
                "load with from_pretrained, inside of zeta.missing_keys(...) if something is missing"
            )
        try:
            parts = apply(operation, parts, sources, targets)
        except (IndexError, ValueError) as error:
            raise PlanError(f"{name}: the tensors of the checkpoint that it is made of do not fit") from error
    pattern = next((each for each in parts if each in name), None)
    if pattern is None:
        return {}
    before, _, after = name.partition(pattern)
    return {f"{before}{each}{after}": arrays[0] for each, arrays in parts.items()}


def _merge(operation: Any, parts: _Parts, sources: list[str], targets: list[str]) -> _Parts:
    alone = len(parts) == 1
    return {targets[0] if alone else pattern: [_stacked(arrays, operation.dim)] for pattern, arrays in parts.items()}


def _stacked(arrays: list[Array], dim: int) -> Array:
    if dim != 0 or len({array.shape for array in arrays}) != 1:
        raise ValueError
    return Stacked.of(arrays)


def _concatenate(operation: Any, parts: _Parts, sources: list[str], targets: list[str]) -> _Parts:
    arrays = [array for pattern in sources for array in parts.get(pattern, ())]
    rest = {(*array.shape[: operation.dim], *array.shape[operation.dim + 1 :]) for array in arrays}
    if len(rest) != 1:
        raise ValueError
    return {targets[0]: [Joined.of(arrays, operation.dim)]}


def _chunk(operation: Any, parts: _Parts, sources: list[str], targets: list[str]) -> _Parts:
    [[array]] = parts.values()
    extent = array.shape[operation.dim]
    step = -(-extent // len(targets))
    cuts = [range(min(begin, extent), min(begin + step, extent)) for begin in range(0, step * len(targets), step)]
    return {target: [Taken.of(array, operation.dim, cut)] for target, cut in zip(targets, cuts, strict=True)}


def _transpose(operation: Any, parts: _Parts, sources: list[str], targets: list[str]) -> _Parts:
    [(pattern, [array])] = parts.items()
    turned = Turned.of(array, operation.dim0 % len(array.shape), operation.dim1 % len(array.shape))
    return {targets[0] if len(targets) == 1 else pattern: [turned]}


#: by the name of the operation's class in transformers
_OPERATIONS: Final[Mapping[str, Callable[[Any, _Parts, list[str], list[str]], _Parts]]] = {
    "MergeModulelist": _merge,
    "Concatenate": _concatenate,
    "Chunk": _chunk,
    "Transpose": _transpose,
}
