"""What loading leaves out: what ``load_state_dict`` does beyond copying, and what is computed from loaded tensors."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from zeta.base.modules import named_modules_of
from zeta.errors import listed, notice
from zeta.initializers import Program
from zeta.resolve.adapting.given import Adaption


def warn_of_loading(model: nn.Module) -> None:
    """Give a notice of modules with state that is no tensor, and of those that convert what they load."""
    left = [f"{name or type(module).__name__}: {what}" for name, module in named_modules_of(model)
            for what in _beyond(module)]  # fmt: skip
    if left:
        notice(
            listed(
                "tensors are loaded by their names, as the checkpoint has them, and these modules would do more in "
                "load_state_dict; do it yourself, or load there:",
                left,
            )
        )


def warn_of_sources(found: Adaption) -> None:
    """Give a notice of what is computed from the draws of a tensor that has loaded values instead."""
    left: list[str] = []
    for entry in found.initialized:
        if isinstance(entry.initializer, Program):
            others = dict.fromkeys(draw.of for draw in entry.initializer.draws)
            if loaded := [name for name in others if name is not None and name in found.given]:
                left.append(f"{entry.name}, of {', '.join(loaded)}")
    if left:
        notice(
            listed(
                "these are computed from what the constructor draws for other tensors, which have loaded values "
                "instead; compute them again from those, where they belong together:",
                left,
            )
        )


def _beyond(module: nn.Module) -> Iterator[str]:
    if type(module).set_extra_state is not nn.Module.set_extra_state:
        yield "set_extra_state would get what get_extra_state gave, which is not loaded"
    owner = next(cls for cls in type(module).__mro__ if "_load_from_state_dict" in vars(cls))
    if not _is_plain(owner.__module__):
        yield f"{owner.__name__}._load_from_state_dict may convert it"
    for hook in module._load_state_dict_pre_hooks.values():
        function = getattr(hook, "hook", hook)
        if not _is_plain(getattr(function, "__module__", None) or ""):
            yield f"the hook {getattr(function, '__qualname__', type(function).__name__)} may convert it"


def _is_plain(module: str) -> bool:
    """Whether it is of torch, which converts nothing that zeta reads, or transformers, which does not call these."""
    return module.partition(".")[0] in ("torch", "transformers")
