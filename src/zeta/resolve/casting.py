"""Which tensors ``dtype=`` casts: parameters, and the buffers that must have the dtype of parameters."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import torch
from msgspec import Struct
from msgspec.structs import replace
from torch import nn

from zeta.base import dtypes
from zeta.base.modules import modules_of
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.resolve.plans import Entry, Plan
from zeta.resolve.slots import Slot, is_norm_statistic, walk
from zeta.rules import Kind

#: transformers' attributes that name the parameters to keep in fp32, and the dtypes for which each one applies
_KEPT: Final = {
    "_keep_in_fp32_modules": (torch.float16,),
    "_keep_in_fp32_modules_strict": (torch.float16, torch.bfloat16),
}


class Casting(Struct, frozen=True, kw_only=True):
    """Floating-point parameters are cast to ``dtype``, with ``buffers`` also all buffers; names in ``kept`` are not.

    ``following`` names buffers that are cast with their module's parameters: torch's running statistics of a norm with
    a scale, and buffers of a parametrization.
    """

    dtype: torch.dtype
    buffers: bool = False
    kept: re.Pattern[str] | None = None
    following: frozenset[str] = frozenset()

    def casts(self, names: Iterable[str], kind: Kind, dtype: torch.dtype) -> bool:
        """Whether a tensor with these names, this kind and this dtype is cast."""
        names = list(names)
        meant = kind is not Kind.BUFFER or self.buffers or not self.following.isdisjoint(names)
        return meant and dtype in dtypes.REAL and not (self.kept is not None and any(map(self.kept.search, names)))

    def plan(self, plan: Plan) -> Plan:
        """The plan after the cast."""
        return Plan(tuple(replace(one, dtype=self.dtype) if self._is_meant(one) else one for one in plan.entries))

    def _is_meant(self, entry: Entry) -> bool:
        return self.casts([entry.name, *entry.ties], entry.kind, entry.dtype)


def casting_of(model: nn.Module, slots: Iterable[Slot], dtype: torch.dtype, *, buffers: bool = False) -> Casting:
    """The casting that ``dtype=`` means for a model; ``SpecError`` if it is not a floating-point dtype.

    Transformers' models say which of their parameters stay in fp32: ``_keep_in_fp32_modules`` for fp16,
    ``_keep_in_fp32_modules_strict`` for bf16 too. Names are matched as in its ``from_pretrained``.
    """
    if dtype not in dtypes.REAL:
        raise SpecError(f"dtype must be a floating-point dtype such as torch.bfloat16, got {shown(dtype)}")
    return Casting(
        dtype=dtype,
        buffers=buffers,
        kept=_kept(model, [attribute for attribute, narrow in _KEPT.items() if dtype in narrow]),
        following=frozenset(slot.name for slot in slots if _follows(slot)),
    )


def _kept(model: nn.Module, attributes: list[str]) -> re.Pattern[str] | None:
    patterns: set[str] = set()
    for module in modules_of(model):
        for attribute in attributes:
            given = getattr(module, attribute, None)
            if given is None:
                continue
            several = [given] if isinstance(given, str) else given
            try:
                patterns |= {re.compile(str(pattern).replace("*", ".*")).pattern for pattern in several}
            except (TypeError, re.error) as error:
                raise SpecError(
                    f"{type(module).__name__}.{attribute} must be a list of parts of names, got {shown(given)}: {error}"
                ) from None
    return re.compile("|".join(sorted(patterns))) if patterns else None


def cast(plan: Plan, model: nn.Module, dtype: torch.dtype | None, *, buffers: bool = False) -> Plan:
    """The plan after the cast to ``dtype``; the plan itself if that is ``None``."""
    return plan if dtype is None else casting_of(model, walk(model), dtype, buffers=buffers).plan(plan)


def _follows(slot: Slot) -> bool:
    scaled = is_norm_statistic(slot) and slot.module._parameters.get("weight") is not None
    return scaled or ".parametrizations." in f".{slot.name}"
