"""Adapt a checkpoint, with the values of the command's options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from zeta import adapting, recipes
from zeta.base.escaping import visible
from zeta.base.reading import is_file, is_folder
from zeta.command import options
from zeta.command.adapting.configuration import changes, embedding_of, list_of
from zeta.command.loading import load_model, record_model
from zeta.command.printing import bytes_bar, say, say_json, stdout_for_json, width
from zeta.command.requests import DEPTHS, ROWS, AdaptOptions
from zeta.errors import UsageError
from zeta.growing import Growth, Layers, Mean, Rows
from zeta.initializers import Zeros
from zeta.rules.file import read_rules
from zeta.write.checkpoint import CONFIG, bytes_of, check_folder, files_of, output_path

_ADAPTER = "adapter_config.json"


def adapt(
    asked: AdaptOptions,
    *,
    out: Path,
    seed: str,
    drop_ties: bool | None,
    max_shard_size: str,
    force: bool,
    as_json: bool,
) -> bool:
    """Write the adapted checkpoint."""
    number = options.parsed_seed(seed)
    most = bytes_of(max_shard_size)
    _check(asked)
    spec = _model(asked)
    settings = (CONFIG,) if spec.startswith("hf:") else ()
    check_folder(output_path(out, "--out"), force=force, settings=settings)
    with stdout_for_json(as_json):
        model, how, before = _built(asked, spec)
    with bytes_bar(quiet=as_json) as progress:
        report = adapting.adapt_folder(
            model,
            asked.source,
            out,
            how,
            number,
            grow=_growth(asked, model, before),
            allow=asked.allow or None,
            prefix=asked.prefix,
            name_map=_names(asked.name_map),
            dtype=options.dtype_of(asked.dtype),
            max_shard_size=most,
            drop_ties=drop_ties,
            force=force,
            model_name=spec,
            progress=progress,
            **options.options_of(asked.options),
        )
    files = [str(out / name) for name in files_of(out)]
    if as_json:
        say_json({"report": report.as_dict(), "files": files})
    else:
        for flag in report.flags():
            say(flag)
        say(report.text(width()))
        say("\n".join(map(visible, files)))
    return report.ok


def _check(asked: AdaptOptions) -> None:
    """Raise ``UsageError`` for options that do not fit together."""
    if asked.rows not in ROWS:
        raise UsageError(f"--rows must be one of {', '.join(ROWS)}, got {asked.rows!r}")
    if asked.depth not in DEPTHS:
        raise UsageError(f"--depth must be one of {', '.join(DEPTHS)}, got {asked.depth!r}")
    if asked.vocab is None and asked.rows != ROWS[0]:
        raise UsageError("--rows says what new tokens get; give --grow-vocab too")
    if asked.noise is not None and asked.rows != "mean":
        raise UsageError("--noise is for --rows mean")
    if asked.layers is None and asked.depth != DEPTHS[0]:
        raise UsageError("--depth says what new blocks are; give --layers too")
    if asked.options and asked.how not in recipes.names():
        raise UsageError("--option is an option of a recipe; give --how with its name too")
    if asked.fallback is not None and asked.how != "recorded":
        raise UsageError("--fallback is for --how recorded; with rules, add a rule instead")


def _model(asked: AdaptOptions) -> str:
    if asked.model is not None:
        return asked.model
    if not is_folder(asked.source):
        raise UsageError(f"{asked.source} is no folder with a config.json; give the model with --model")
    if not is_file(asked.source / CONFIG):
        adapter = is_file(asked.source / _ADAPTER)
        raise UsageError(
            f"{asked.source} has no config.json; "
            + (
                "it has an adapter of peft, and not a model: merge_and_unload() it into its model, save that, and "
                "adapt the result"
                if adapter
                else "give the model with --model"
            )
        )
    return f"hf:{asked.source}"


def _built(asked: AdaptOptions, spec: str) -> tuple[nn.Module, Any, nn.Module | None]:
    """The model on meta, what its missing parameters get, and the model without growth, if its configuration grows."""
    arguments = options.arguments_of(asked.kwargs)
    grows = spec.startswith("hf:") and (asked.vocab is not None or asked.layers is not None)
    before = load_model(spec, arguments, "meta") if grows else None
    arguments |= changes(spec, arguments, before, vocab=asked.vocab, layers=asked.layers, depth=asked.depth)
    if asked.how == "recorded":
        return *record_model(spec, arguments, options.fallback_of(asked.fallback)), before
    if asked.how in recipes.names():
        return load_model(spec, arguments, "meta"), asked.how, before
    path = Path(asked.how)
    if path.suffix not in (".toml", ".json", ".py"):
        raise UsageError(f"--how must be recorded, the name of a recipe or a file of rules, got {asked.how!r}")
    model = load_model(spec, arguments, "meta")
    return model, read_rules(path, model), before


def _growth(asked: AdaptOptions, model: nn.Module, before: nn.Module | None) -> dict[str, Growth]:
    grow: dict[str, Growth] = {}
    if asked.vocab is not None:
        laws: dict[str, Mean | Zeros] = {"mean": Mean(1.0 if asked.noise is None else asked.noise), "zeros": Zeros()}
        grow[embedding_of(model, asked.vocab)] = Rows(laws.get(asked.rows))
    if asked.layers is not None:
        grow[list_of(model, asked.layers, before)] = Layers(asked.layers, asked.depth)  # type: ignore[arg-type]
    return grow


def _names(given: tuple[str, ...]) -> dict[str, str] | None:
    found: dict[str, str] = {}
    for pair in given:
        name, equals, other = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--map must be NAME=NAME, such as backbone=model, got {pair!r}")
        found[name] = other
    return found or None
