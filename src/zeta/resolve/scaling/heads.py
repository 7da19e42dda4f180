"""What an attention says of its heads, and where its queries, keys and values lie in a packed weight."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from msgspec import Struct
from torch import nn

from zeta.resolve.slots import Slot
from zeta.rules import Role

#: attributes of an attention: the size of a head; how many heads, heads of keys, and queries for each key
HEAD_SIZE: Final = ("head_dim", "attention_head_size", "d_head", "dim_head", "head_size", "key_value_proj_dim", "d_k")
HEADS: Final = ("num_heads", "n_heads", "n_head", "nhead", "num_attention_heads", "heads", "num_q_heads")
_KEY_HEADS: Final = ("num_key_value_heads", "num_kv_heads", "n_kv_heads", "n_kv_head", "num_query_groups")
_GROUPS: Final = ("num_key_value_groups", "n_rep")
#: names of weights that have queries, keys and values one after the other; ``query_key_value`` has them head by head
_IN_ORDER: Final = re.compile(r"(?i)(c_|w_?)?(attn_?)?qkv(_proj)?|c_attn|in_proj(_weight)?")
#: the first of two factors of a projection, which has no heads
_FIRST_FACTOR: Final = re.compile(r"(?i).*_a(_proj)?(_with_mqa)?")
#: the second, of all heads
_SECOND_FACTOR: Final = re.compile(r"(?i).*_b(_proj)?")
_OF_HEADS: Final = (Role.QUERY, Role.KEY, Role.VALUE, Role.QUERY_KEY_VALUE)


class UnknownBlocksError(Exception):
    """It does not follow how a weight is divided; the message says what is missing."""


class Division(Struct, frozen=True):
    """How the rows of a weight are divided: into blocks of these sizes, or into so many equal ones."""

    sizes: tuple[int, ...] = ()
    count: int = 1

    def __str__(self) -> str:
        return "+".join(map(str, self.sizes)) if self.sizes else f"{self.count} heads"

    @property
    def options(self) -> dict[str, object]:
        """The options of a group, by the names that dion's Muon has for them."""
        return {"split_sizes": self.sizes} if self.sizes else {"num_heads": self.count}


def modules_around(modules: Mapping[str, nn.Module], path: str) -> Iterator[nn.Module]:
    """The modules around a weight of the module at a path, innermost first, up to its block."""
    while True:
        if path in modules:
            yield modules[path]
        if not path or path.rpartition(".")[2].isdecimal():
            return
        path = path.rpartition(".")[0]


def positive(value: object) -> int | None:
    """A positive whole number, or ``None``."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def is_packed(slot: Slot, role: Role | None, blocks: tuple[tuple[int, int], ...]) -> bool:
    """Whether a weight has several maps: queries, keys and values, a gate and what it gates, the gates of a cell."""
    return role in (Role.QUERY_KEY_VALUE, Role.MLP_GATE_UP) or bool(blocks)


def division(
    modules: Mapping[str, nn.Module],
    slot: Slot,
    role: Role | None,
    blocks: tuple[tuple[int, int], ...],
    *,
    by_heads: bool,
    rows_are_outputs: bool,
) -> Division | None:
    """How a matrix is divided: ``None`` if it is one map.

    ``by_heads``: what an attention computes is divided into heads, also if nothing else is packed with it. Raises
    ``UnknownBlocksError``.
    """
    path = slot.name.removesuffix(slot.local_name).removesuffix(".")
    local = slot.local_name if slot.local_name != "weight" else path.rpartition(".")[2]
    heads = by_heads and role in _OF_HEADS
    if not (heads or is_packed(slot, role, blocks)) or (heads and _FIRST_FACTOR.fullmatch(local)):
        return None
    if not rows_are_outputs:
        raise UnknownBlocksError("it is stored as in x out, and Muon divides rows")
    rows, outer = slot.shape[0], [*modules_around(modules, path)]
    if heads:
        count = _heads(slot, role, local, outer)
        return Division(count=count) if count > 1 else None
    if blocks:
        (dim, count), *more = blocks
        if more or dim != 0:
            raise UnknownBlocksError("its maps are divided along another dimension than its rows")
        return Division(sizes=(rows // count,) * count)
    if role is Role.MLP_GATE_UP:
        return Division(sizes=(rows // 2, rows // 2))
    if _FIRST_FACTOR.fullmatch(local) or not _IN_ORDER.fullmatch(local):
        raise UnknownBlocksError("the order of what is packed in it does not follow from its name")
    return Division(sizes=_queries_keys_values(rows, outer))


def _heads(slot: Slot, role: Role | None, local: str, outer: Sequence[nn.Module]) -> int:
    """The number of heads in a weight; of a packed one, those of queries, keys and values together."""
    rows, columns = slot.shape
    size, number = _first(outer, HEAD_SIZE), _first(outer, HEADS)
    if size is None and number is not None:
        if role is Role.QUERY or (role is Role.QUERY_KEY_VALUE and _SECOND_FACTOR.fullmatch(local)):
            size = rows // number
        elif role is Role.QUERY_KEY_VALUE and _IN_ORDER.fullmatch(local):
            size = _queries_keys_values(rows, outer)[0] // number
        elif role in (Role.KEY, Role.VALUE):
            keys = _first(outer, _KEY_HEADS) or (number if rows == columns else None)
            size = None if keys is None else rows // keys
    if not size or rows % size:
        raise UnknownBlocksError(
            f"the size of its heads follows from no attribute of the attention ({HEAD_SIZE[0]}, {HEADS[0]}, ...)"
        )
    return rows // size


def _queries_keys_values(rows: int, outer: Sequence[nn.Module]) -> tuple[int, int, int]:
    size, number = _first(outer, HEAD_SIZE), _first(outer, HEADS)
    keys, groups = _first(outer, _KEY_HEADS), _first(outer, _GROUPS)
    if keys is not None and size is not None:
        rest = keys * size
    elif groups is not None:
        rest = rows // (groups + 2)
    else:
        rest = rows // 3
    queries = rows - 2 * rest
    wrong = queries < rest or (size is not None and (queries % size or rest % size))
    if wrong or (number is not None and size is not None and queries != number * size):
        raise UnknownBlocksError(f"its {rows} rows are not those of queries, keys and values of its attention")
    return queries, rest, rest


def _first(modules: Sequence[nn.Module], attributes: Sequence[str]) -> int | None:
    """The first of these attributes that is a positive number, of the innermost module that has one."""
    found = (positive(getattr(module, attribute, None)) for module in modules for attribute in attributes)
    return next((number for number in found if number is not None), None)
