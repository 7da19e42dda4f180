"""Folders in Hugging Face layout as sources: which files count, their index, their configuration."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import zeta
from tests.helpers.sources import of_bytes, same
from zeta import Rule, Rules
from zeta.base.sources import open_source
from zeta.errors import CheckpointError
from zeta.initializers import Normal

TENSORS = {f"layers.{i}.weight": of_bytes(torch.bfloat16, 3, 4, seed=i) for i in range(5)}
NAMES = sorted(TENSORS)


def parts() -> dict[str, dict[str, Tensor]]:
    """Two files."""
    return {
        "model-00001-of-00002.safetensors": {name: TENSORS[name] for name in NAMES[:3]},
        "model-00002-of-00002.safetensors": {name: TENSORS[name] for name in NAMES[3:]},
    }


def write(folder: Path, save: Callable[[dict[str, Tensor], Path], None] = save_file, **index: Any) -> None:
    """Two files with an index, of which ``index`` replaces items."""
    ending = ".safetensors" if save is save_file else ".bin"
    names = {}
    for name, content in parts().items():
        file = name.replace(".safetensors", ending)
        save(content, folder / file)
        names |= dict.fromkeys(content, file)
    stem = "model.safetensors" if save is save_file else "pytorch_model.bin"
    (folder / f"{stem}.index.json").write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names} | index))


def all_there(folder: Path) -> bool:
    with open_source(folder) as source:
        assert source.origin == str(folder)
        return source.tensors.keys() == TENSORS.keys() and all(
            same(source.read(name, (slice(1, 3), slice(0, 2))), value[1:3, 0:2]) for name, value in TENSORS.items()
        )


@pytest.mark.parametrize(
    "name", ["model.safetensors", "diffusion_pytorch_model.safetensors", "other.safetensors", "pytorch_model.bin"]
)
def test_one_file(name: str, tmp_path: Path) -> None:
    (torch.save if name.endswith(".bin") else save_file)(TENSORS, tmp_path / name)
    (tmp_path / "README.md").write_text("x")
    assert all_there(tmp_path)


@pytest.mark.parametrize("save", [save_file, torch.save])
def test_several_files_with_an_index(save: Callable[..., None], tmp_path: Path) -> None:
    write(tmp_path, save)
    save_file({"another": torch.ones(1)}, tmp_path / "consolidated.safetensors")
    assert all_there(tmp_path)


def test_several_files_without_an_index(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    assert all_there(tmp_path)


def test_links_are_followed_as_a_cache_needs_them(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file(TENSORS, tmp_path / "blobs" / "b1")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to("../blobs/b1")
    assert all_there(tmp_path / "snapshot")


@pytest.mark.parametrize("size", ["1GB", 700])
def test_a_folder_that_zeta_wrote(size: int | str, tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Linear(8, 8) for _ in range(4)))
    plan = zeta.plan(model, Rules([Rule("*", Normal(0.02))]))
    zeta.save(model, plan, tmp_path / "out", seed=3, max_shard_size=size)
    zeta.apply_(model, plan, seed=3)
    with open_source(tmp_path / "out") as source:
        assert {name: same(source.read(name), value) for name, value in model.state_dict().items()} == dict.fromkeys(
            source.tensors, True
        )


# -- the configuration -------------------------------------------------------------------------------------------------


def test_settings_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    for name in ("config.json", "generation_config.json", "tokenizer.json", "merges.txt", "training_args.bin"):
        (tmp_path / name).write_text("before")
    os.mkfifo(tmp_path / "vocab.txt")
    with open_source(tmp_path) as source:
        assert list(source.settings) == [
            "config.json", "generation_config.json", "tokenizer.json", "merges.txt", "vocab.txt"
        ]  # fmt: skip
        assert len(source.settings) == 5
        assert "training_args.bin" not in source.settings
        (tmp_path / "config.json").write_text("after")
        assert source.settings["config.json"] == b"after"
        with pytest.raises(CheckpointError, match=r"vocab\.txt cannot be read: is a pipe"):
            source.settings["vocab.txt"]
        (tmp_path / "config.json").write_text("x" * (2**22 + 1))
        with pytest.raises(CheckpointError, match=r"config\.json: has more than 4,194,304 bytes"):
            source.settings["config.json"]
        with pytest.raises(KeyError):
            source.settings["../secret"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_folder_without_tensors(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"has no tensors that are known: expected model\.safetensors, an index"):
        open_source(tmp_path)


def weights(**changes: Any) -> dict[str, Any]:
    """The index's map, with other places; ``None`` removes one."""
    right = {name: file for file, content in parts().items() for name in content}
    return {name: file for name, file in (right | changes).items() if file is not None}


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (weights(**{NAMES[0]: "model-00002-of-00002.safetensors"}),
         r"does not fit its files:\n  - 'layers\.0\.weight': expected in 'model-00002.*', is in 'model-00001"),
        (weights(more="model-00002-of-00002.safetensors"), "'more': expected in 'model-00002.*', is in none"),
        (weights(**{NAMES[0]: None}), r"'layers\.0\.weight': is in 'model-00001-of.*', and not in the index"),
        (weights(more="model-00003-of-00003.safetensors"), r"model-00003-of-00003\.safetensors does not exist"),
        (weights(more="../model.safetensors"), r"alone, and not:\n  - '\.\./model\.safetensors'"),
        (weights(more="/etc/passwd"), "alone, and not:\n  - '/etc/passwd'"),
        (weights(more=".."), r"alone, and not:\n  - '\.\.'"),
        (weights(more=""), "alone, and not:\n  - ''"),
        (weights(more="a\\b"), "alone, and not:"),
        (weights(more="a\0b"), "alone, and not:"),
        (weights(more="\x1b[2J"), r"\\x1b\[2J does not exist"),
        (weights(more="pipe"), "pipe cannot be read: is a pipe"),
        ({}, "names no file"),
        ([], "Expected `object`, got `array`"),
        ({"a": 1}, "Expected `str`, got `int`"),
        (None, "Expected `object`, got `null`"),
    ],
)  # fmt: skip
def test_an_index_that_does_not_fit(index: Any, message: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path, weight_map=index)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_source(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_an_index_with_a_name_twice(tmp_path: Path) -> None:
    write(tmp_path, weight_map=weights())
    path = tmp_path / "model.safetensors.index.json"
    text = path.read_text()
    path.write_text(text.replace(f'"{NAMES[0]}"', f'"{NAMES[0]}": "model-00002-of-00002.safetensors", "{NAMES[0]}"', 1))
    with pytest.raises(CheckpointError, match=rf"has the name '{NAMES[0]}' twice in one object"):
        open_source(tmp_path)


def test_a_tensor_that_is_there_twice(tmp_path: Path) -> None:
    write(tmp_path)
    _, second = parts()
    save_file({NAMES[0]: TENSORS[NAMES[0]], **parts()[second]}, tmp_path / second)
    with pytest.raises(CheckpointError, match=r"tensor 'layers\.0\.weight' is in 'model-00001.*' and in 'model-00002"):
        open_source(tmp_path)
    (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(CheckpointError, match=r"tensor 'layers\.0\.weight' is in 'model-00001.*' and in 'model-00002"):
        open_source(tmp_path)


def test_one_file_beside_an_index_of_others(tmp_path: Path) -> None:
    write(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"index\.json: names other files than model\.safetensors, which is there"
    ):
        open_source(tmp_path)


def test_a_file_of_several_that_is_cut(tmp_path: Path) -> None:
    write(tmp_path)
    _, second = parts()
    os.truncate(tmp_path / second, (tmp_path / second).stat().st_size - 1)
    with pytest.raises(CheckpointError, match=r"model-00002-of-00002\.safetensors: is truncated"):
        open_source(tmp_path)


def test_no_file_stays_open_after_an_error(tmp_path: Path) -> None:
    write(tmp_path, weight_map=weights(more="none"))

    def count() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    before = count()
    errors = []  # they hold frames, and these hold files
    for _ in range(20):
        with pytest.raises(CheckpointError) as caught:
            open_source(tmp_path)
        errors.append(caught.value)
    assert count() == before
