"""Settings of torch that all threads share: whether code that zeta ran for somebody left others than it found."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Final

import torch

from zeta.base.language.state import no_other_settings
from zeta.errors import notice

_BACKENDS: Final[Any] = torch.backends
_SETTINGS: Final[dict[str, Callable[[], Any]]] = {
    "torch.set_default_dtype": torch.get_default_dtype,
    "torch.set_num_threads": torch.get_num_threads,
    "torch.set_float32_matmul_precision": lambda: _precisions(_BACKENDS.cuda.matmul, _BACKENDS.mkldnn.matmul),
    "torch.use_deterministic_algorithms": lambda: (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    ),
    "torch.autograd.set_detect_anomaly": torch.is_anomaly_enabled,
    "torch.backends.cudnn": lambda: (
        _BACKENDS.cudnn.enabled,
        _BACKENDS.cudnn.benchmark,
        _BACKENDS.cudnn.deterministic,
        _precisions(_BACKENDS.cudnn.conv, _BACKENDS.cudnn.rnn),
    ),
    "torch.backends.mkldnn.enabled": lambda: getattr(_BACKENDS.mkldnn, "enabled", None),
    "torch.backends.cuda": lambda: (
        _BACKENDS.cuda.flash_sdp_enabled(),
        _BACKENDS.cuda.mem_efficient_sdp_enabled(),
        _BACKENDS.cuda.math_sdp_enabled(),
    ),
    "torch.nn.modules.module.register_module_...hook": lambda: tuple(
        len(getattr(torch.nn.modules.module, name))
        for name in ("_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks")
    ),
}


def _precisions(*backends: Any) -> tuple[str, ...]:
    """The precision of fp32 in each; ``none`` is that of ``ieee``.

    ``torch.get_float32_matmul_precision`` and ``allow_tf32`` raise where ``fp32_precision`` was set.
    """
    return tuple("ieee" if one.fp32_precision == "none" else one.fp32_precision for one in backends)


@contextlib.contextmanager
def settings_said(who: str) -> Iterator[None]:
    """Give a notice after the block if there are other settings then. They stay: another thread may have made them."""
    before = _settings()
    yield
    changed = [name for name, now in _settings().items() if now != before[name]]
    if changed:
        notice(
            f"{who} changed settings of the whole process, or another thread did, which stay as they are now: "
            f"{', '.join(changed)}; set them where the process starts"
        )


def _settings() -> dict[str, Any]:
    with no_other_settings():
        return {name: get() for name, get in _SETTINGS.items()}
