"""A folder in Hugging Face layout: one file of tensors, or several with an index, and configuration files."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from zeta.base.escaping import visible
from zeta.base.reading import LARGEST_DOCUMENT, LARGEST_SETTINGS, Text, converted, parse_json, read_bytes, shown
from zeta.base.sources import archives, safetensors
from zeta.base.sources.files import File, failing
from zeta.base.sources.places import Place
from zeta.base.sources.stored import StoredTensors
from zeta.errors import CheckpointError, FormatError, listed

_SAFETENSORS: Final = ("model.safetensors", "diffusion_pytorch_model.safetensors")
_PICKLES: Final = ("pytorch_model.bin", "diffusion_pytorch_model.bin")
_INDEX: Final = ".index.json"
#: the files beside the tensors that transformers, diffusers and tokenizers read
SETTINGS: Final = (
    *("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"),
    *("sentencepiece.bpe.model", "tekken.json", "sentencepiece.model", "spm.model", "spm_char.model", "tiktoken.model"),
    *("source.spm", "target.spm", "vocab-src.json", "vocab-tgt.json", "target_vocab.json", "bpe.codes", "dict.txt"),
    *("normalizer.json", "emoji.json", "entity_vocab.json", "video_preprocessor_config.json"),
    "audio_tokenizer_config.json",
)
_CONFIGURATIONS: Final = SETTINGS[:4]


class _Index(msgspec.Struct, frozen=True):
    """The content of ``model.safetensors.index.json``."""

    weight_map: dict[Text, Text]
    metadata: dict[Text, Any] | None = None


class Settings(Mapping[str, bytes]):
    """The configuration and tokenizer files of a folder by name, read when they are asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = tuple(name for name in SETTINGS if os.path.lexists(folder / name))

    def __getitem__(self, name: str) -> bytes:
        if name not in self._names:
            raise KeyError(name)
        path = self._folder / name
        with failing(path):
            return read_bytes(path, LARGEST_SETTINGS if name in _CONFIGURATIONS else LARGEST_DOCUMENT)

    def __contains__(self, name: object) -> bool:  # that of a mapping reads the file
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def open_folder(folder: Path) -> StoredTensors:
    """The tensors of a folder; ``CheckpointError`` if it has none, or does not hold together."""
    names, index = _files(folder)
    reader = archives.places_in if names[0].endswith(".bin") else safetensors.places_in
    files: dict[str, File] = {}
    try:
        found: dict[str, Mapping[str, Place]] = {}
        for name in names:
            files[name] = File(folder / name)
            found[name] = reader(files[name])
        if index is not None:
            _check_index(index, found)
        return StoredTensors(str(folder), _joined(folder, found), tuple(files.values()), Settings(folder))
    except BaseException:
        for file in files.values():
            file.close()
        raise


class _Indexed(msgspec.Struct, frozen=True):
    """Which file has which tensor, by an index."""

    path: Path
    weight_map: dict[str, str]


def _files(folder: Path) -> tuple[Sequence[str], _Indexed | None]:
    """The names of the files of tensors, and the index if there is one."""
    for name in (*_SAFETENSORS, *_PICKLES):
        whole, path = os.path.lexists(folder / name), folder / (name + _INDEX)
        if os.path.lexists(path):
            with failing(path):
                content = read_bytes(path, LARGEST_DOCUMENT)
                weight_map = converted(parse_json(content), _Index).weight_map
                names = list(dict.fromkeys(weight_map.values()))
                _check_names(names)
                if whole and name not in names:
                    raise FormatError(f"names other files than {name}, which is there too; remove what is out of date")
            return names, _Indexed(path, weight_map)
        if whole:
            return [name], None
    with failing(folder):
        others = sorted(name for name in os.listdir(folder) if name.endswith(".safetensors"))  # noqa: PTH208
    if not others:
        raise CheckpointError(
            f"{visible(str(folder))} has no tensors that are known: expected {_SAFETENSORS[0]}, an index such as "
            f"{_SAFETENSORS[0]}{_INDEX}, other .safetensors files, {_PICKLES[0]}, or .metadata of "
            "torch.distributed.checkpoint"
        )
    return others, None


def _check_names(names: Sequence[str]) -> None:
    if not names:
        raise FormatError("names no file")
    outside = [shown(name) for name in names if not is_plain(name)]
    if outside:
        raise FormatError(listed("may name files in its folder alone, and not:", outside))


def is_plain(name: str) -> bool:
    """Whether the name is that of a file directly in a folder."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _check_index(index: _Indexed, found: Mapping[str, Mapping[str, Place]]) -> None:
    """Raise ``CheckpointError`` if the files do not have exactly the tensors that the index says."""
    homes = {tensor: name for name, places in found.items() for tensor in places}
    problems = []
    for tensor, name in index.weight_map.items():
        if tensor not in found[name]:
            other = f"is in {shown(homes[tensor])}" if tensor in homes else "is in none"
            problems.append(f"{shown(tensor)}: expected in {shown(name)}, {other}")
    problems += [
        f"{shown(tensor)}: is in {shown(name)}, and not in the index"
        for name, places in found.items()
        for tensor in places
        if tensor not in index.weight_map
    ]
    if problems:
        raise CheckpointError(listed(f"{visible(str(index.path))} does not fit its files:", problems))


def _joined(folder: Path, found: Mapping[str, Mapping[str, Place]]) -> dict[str, Place]:
    joined: dict[str, Place] = {}
    for name, places in found.items():
        twice = next((tensor for tensor in places if tensor in joined), None)
        if twice is not None:
            raise CheckpointError(
                f"{visible(str(folder))}: tensor {shown(twice)} is in {shown(joined[twice].file.path.name)} and in "
                f"{shown(name)}; remove one of the files, or open one of them alone"
            )
        joined.update(places)
    return joined
