"""What a transformers configuration may do: say what a model is, and fetch and run nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from zeta.base.reading import shown
from zeta.errors import UsageError, listed, notice

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
)  # fmt: skip


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
        kept = {}
        for key, item in value.items():
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
