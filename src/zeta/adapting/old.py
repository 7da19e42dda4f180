"""The model that a folder of transformers is of: the class of the new one, with the configuration of the folder.

The configuration is untrusted: see ``configuration``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.adapting.configuration import offline, without_foreign_code
from zeta.base.generators import apart, foreign_apart
from zeta.base.reading import parse
from zeta.base.sources import Source
from zeta.errors import SpecError
from zeta.resolve.slots import unwrap

_CONFIGURATION: Final = "config.json"
_SEED: Final = 0
#: implementations that a configuration names; the second is for models with experts alone
_WAYS: Final = ("_attn_implementation", "_experts_implementation")


def old_form(model: nn.Module, source: Source) -> nn.Module | None:
    """The old model on meta, for its classes and settings; ``None`` where nobody knows what it is."""
    inner: Any = unwrap(model)
    if old_builder(model, source) is None:
        return None
    try:
        with torch.device("meta"), apart(_SEED), foreign_apart():
            return _bare(inner, source.settings)
    except SpecError:
        return None


def old_builder(model: nn.Module, source: Source) -> Callable[[], nn.Module] | None:
    """What builds the old model, without its values; ``None`` if the source does not say what it is."""
    inner: Any = unwrap(model)
    if getattr(type(inner), "config_class", None) is None or _CONFIGURATION not in [*source.settings]:
        return None
    settings = source.settings
    return lambda: _built(inner, settings)


def _built(new: Any, settings: Mapping[str, bytes]) -> nn.Module:
    old = _bare(new, settings)
    _cast_like(old, new)
    return old


def _bare(new: Any, settings: Mapping[str, bytes]) -> nn.Module:
    try:
        data = parse(settings[_CONFIGURATION], dict[str, Any])
        data = without_foreign_code(data, f"the checkpoint's {_CONFIGURATION}")
        with offline():
            kind = _class_of(new, data)
            config = kind.config_class.from_dict(data)
            _compute_alike(config, new.config, _WAYS if kind is type(new) else _WAYS[:1])
            old: nn.Module = kind(config)
    except Exception as error:
        raise SpecError(
            f"the old model cannot be built by the checkpoint's {_CONFIGURATION} ({type(error).__name__}: {error}); "
            "pass it as old="
        ) from error
    return old


def _class_of(new: Any, data: Mapping[str, Any]) -> Any:
    """The class of the new model, or the one that a configuration of another type names, if transformers has it."""
    named = data.get("architectures")
    if data.get("model_type") == type(new).config_class.model_type or not isinstance(named, list):
        return type(new)
    import transformers

    found = (getattr(transformers, name, None) for name in named if isinstance(name, str))
    known = (kind for kind in found if isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel))
    return next(known, type(new))


def _cast_like(old: nn.Module, new: nn.Module) -> None:
    """Give tensors the dtype of those with the same name, else that of the first parameter, and its device."""
    like = {name: tensor for name, tensor in _tensors_of(new) if tensor.is_floating_point()}
    usual = next(iter(like.values()), None)
    if usual is None:
        return
    for name, tensor in _tensors_of(old):
        if tensor.is_floating_point():
            tensor.data = tensor.data.to(dtype=like[name].dtype if name in like else usual.dtype, device=usual.device)
        else:
            tensor.data = tensor.data.to(device=usual.device)


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, then buffers."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _compute_alike(config: Any, new: Any, ways: Sequence[str]) -> None:
    """Let the old model compute as the new one does, whose user has chosen it."""
    for name in ways:
        if getattr(new, name, None) is not None:
            setattr(config, name, getattr(new, name))
    for part in getattr(config, "sub_configs", None) or ():
        if getattr(config, part, None) is not None and getattr(new, part, None) is not None:
            _compute_alike(getattr(config, part), getattr(new, part), ways)
