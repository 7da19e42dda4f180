"""Build or record the model that the command line names: a callable in a file or package, or a transformers config."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import torch
from torch import nn

from zeta.adapting.configuration import offline, without_foreign_code
from zeta.base.reading import LARGEST_SETTINGS, is_file, is_folder, parse_json, read_bytes, shown
from zeta.errors import FormatError, UsageError, ZetaError, listed
from zeta.resolve.plans import Plan
from zeta.resolve.recording import record as recording
from zeta.resolve.slots import walk, without_value
from zeta.rules import Kind

FORMS: Final = "path/to/file.py:callable, package.module:callable or hf:path/to/config.json"


def load_model(spec: str, kwargs: dict[str, Any], device: str) -> nn.Module:
    """Build the model on ``device`` (``"meta"`` allocates nothing).

    Raises ``UsageError`` if there is no such file, module or callable, if it raises, or if its result is not a module.
    """
    factory = find_factory(spec)
    with torch.device(device):
        return _built(spec, factory, kwargs, f"on device {device!r}")


def record_model(
    spec: str, kwargs: dict[str, Any], fallback: recording.Fallback | None = None
) -> tuple[nn.Module, Plan]:
    """Record the model's own constructor; return the model, on meta, and its plan.

    Raises ``UsageError`` as ``load_model`` does, and ``RecordingError`` if the constructor cannot be recorded.
    """
    factory = find_factory(spec)
    return recording.record(lambda: _built(spec, factory, kwargs, "while it is recorded"), fallback=fallback)


def with_buffers(decided: Plan, model: nn.Module, recorded: Callable[[], Plan]) -> Plan:
    """The plan, with the constructor's values for the buffers that it keeps and that are on meta, such as masks.

    ``recorded`` gives the plan of what the constructor does; it is called only if there are any. Raises ``UsageError``
    if the constructor cannot be recorded.
    """
    kept = {name for entry in decided if entry.kept for name in (entry.name, *entry.ties)}
    lost = {slot.name for slot in without_value(walk(model), kept) if slot.kind is Kind.BUFFER}
    if not lost:
        return decided
    try:
        own = recorded()
    except ZetaError as error:
        raise UsageError(
            listed(
                f"the constructor computes these buffers, and cannot be recorded ({error}); build the model with "
                "--device cpu:",
                sorted(lost),
            )
        ) from error
    return Plan(tuple(own[entry.name] if entry.name in lost else entry for entry in decided))


def find_factory(spec: str) -> Callable[..., Any]:
    """The callable that builds the model, not called yet; ``UsageError`` if there is none."""
    source, colon, name = spec.partition(":") if spec.startswith("hf:") else spec.rpartition(":")
    if not colon or not name or not source:
        raise UsageError(f"cannot tell what model {spec!r} is: expected {FORMS}")
    found = _transformers_factory(Path(name)) if source == "hf" else _callable(source, name)
    if isinstance(found, nn.Module):
        raise UsageError(f"{spec} is a model that is built already; give its class, or a function that builds it")
    return found


def find_callable(spec: str, option: str) -> Callable[..., Any]:
    """The function in a file or package that an option of the command line names; ``UsageError`` if there is none."""
    source, colon, name = spec.rpartition(":")
    if not colon or not name or not source:
        raise UsageError(f"{option} must be path/to/file.py:function or package.module:function, got {spec!r}")
    return _callable(source, name)


def _built(spec: str, factory: Callable[..., Any], kwargs: dict[str, Any], how: str) -> nn.Module:
    try:
        model = factory(**kwargs)
    except ZetaError:
        raise
    except (Exception, SystemExit) as error:
        raise UsageError(f"{spec} fails {how}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"{spec} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def _callable(source: str, name: str) -> Callable[..., Any]:
    module = _module_from_file(Path(source)) if source.endswith(".py") else _module_by_name(source)
    found = getattr(module, name, None)
    if not callable(found):
        names = sorted(
            key
            for key, value in vars(module).items()
            if callable(value) and not key.startswith("_") and getattr(value, "__module__", None) == module.__name__
        )
        raise UsageError(f"{source} has no callable {name!r}; it defines {', '.join(names) or 'none'}")
    return found  # type: ignore[no-any-return]


def _module_from_file(path: Path) -> ModuleType:
    if not is_file(path):
        raise UsageError(f"no such file: {path}")
    # dataclasses and pickle look up the module by its name, which must be different for each file
    name = path.stem if path.stem not in sys.modules else f"{path.stem} ({path.resolve()})"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise UsageError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _module_by_name(name: str) -> ModuleType:
    sys.path.insert(0, "")
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        raise UsageError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}") from error


def _transformers_factory(path: Path) -> Callable[..., Any]:
    transformers = _transformers()
    path = path / "config.json" if is_folder(path) else path
    data = configuration_of(path)

    def build(**overrides: Any) -> Any:
        merged = without_foreign_code({**data, **overrides}, path)
        model_type = merged["model_type"]
        if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
            raise UsageError(f"{path}: transformers {transformers.__version__} knows no model_type {shown(model_type)}")
        architecture = _architecture(transformers, path, merged.get("architectures"))
        with offline():
            config = transformers.AutoConfig.for_model(**merged)
            if architecture is not None:
                # not architecture(config): _from_config applies the configuration's dtype
                return architecture._from_config(config)
            auto = (
                transformers.AutoModelForCausalLM
                if type(config) in transformers.AutoModelForCausalLM._model_mapping
                else transformers.AutoModel
            )
            return auto.from_config(config)

    return build


def configuration_of(path: Path) -> dict[str, Any]:
    """The fields of a transformers configuration, a file or in a folder; ``UsageError`` if it is none."""
    path = path / "config.json" if is_folder(path) else path
    try:
        data = parse_json(read_bytes(path, LARGEST_SETTINGS))
    except OSError as error:
        raise UsageError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except FormatError as error:
        raise UsageError(f"cannot read the configuration {path}: {error}") from error
    if not isinstance(data, dict) or "model_type" not in data:
        raise UsageError(f"{path} is not a transformers configuration: it has no model_type")
    return data


def field_names(data: dict[str, Any], name: str) -> list[str]:
    """The names of a field in configurations of this type: that of the type first."""
    transformers = _transformers()
    kind = data.get("model_type")
    # get() of this mapping does not load what it names
    known = transformers.CONFIG_MAPPING[kind] if kind in transformers.CONFIG_MAPPING else None  # noqa: SIM401
    return list(dict.fromkeys([getattr(known, "attribute_map", {}).get(name, name), name]))


def _transformers() -> Any:
    try:
        import transformers
    except ModuleNotFoundError as error:
        if error.name != "transformers":
            raise UsageError(f"transformers cannot be imported: {error}") from error
        raise UsageError("hf: models need transformers; install it with pip install transformers") from None
    except Exception as error:
        raise UsageError(f"transformers cannot be imported: {type(error).__name__}: {error}") from error
    return transformers


def _architecture(transformers: ModuleType, path: Path, named: Any) -> Any:
    """The first of the named classes that transformers has; ``None`` if none is named."""
    if not named:
        return None
    if not isinstance(named, list) or not all(isinstance(name, str) for name in named):
        raise UsageError(f"{path}: architectures must be a list of class names, got {shown(named)}")
    found = (getattr(transformers, name, None) for name in named)
    known: list[Any] = [
        each for each in found if isinstance(each, type) and issubclass(each, transformers.PreTrainedModel)
    ]
    known = [each for each in known if each.forward is not nn.Module.forward]  # a base class has no parameters
    if not known:
        raise UsageError(
            f"{path}: transformers {transformers.__version__} has no model {' or '.join(named)}, which the "
            'configuration names as its architecture. Name one that it has: --kwargs \'{"architectures": ["..."]}\'; '
            "with null in place of the list, the causal language model of this model_type is built, or else its base "
            "model"
        )
    return known[0]
