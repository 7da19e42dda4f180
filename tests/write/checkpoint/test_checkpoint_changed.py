"""Files of settings that were changed or replaced after zeta wrote them: they are the user's, and stay."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import zeta
from tests.write.checkpoint.test_checkpoint import contents
from tests.write.checkpoint.test_checkpoint_settings import Config, Pretrained, plain, write
from zeta.errors import CheckpointError
from zeta.write.checkpoint.journal import Journal


def edited(path: Path, victim: Path) -> None:
    path.write_text(path.read_text().replace("{", '{"mine": 1, ', 1))


def shortened(path: Path, victim: Path) -> None:
    path.write_text(path.read_text()[:-1])


def linked(path: Path, victim: Path) -> None:
    victim.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(victim)


def linked_to_nothing(path: Path, victim: Path) -> None:
    path.unlink()
    path.symlink_to(victim)


def exchanged(path: Path, victim: Path) -> None:
    victim.write_text("mine")
    path.unlink()
    path.hardlink_to(victim)


def everything(folder: Path) -> dict[str, bytes | str]:
    """What is in a folder, with the links themselves."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in folder.rglob("*")
        if path.is_symlink() or path.is_file()
    }


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize("change", [edited, shortened, linked, linked_to_nothing, exchanged])
def test_what_was_changed_after_the_earlier_run_stays(
    name: str, change: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write(out)
    change(out / name, tmp_path / "victim")
    before = everything(tmp_path)
    for again in (partial(write, out, seed=3), partial(write, out, Pretrained(generates=False)), partial(plain, out)):
        with pytest.raises(CheckpointError, match=rf"changed or replaced after zeta wrote.*move them(.|\n)*- {name}$"):
            again(force=True)
        assert everything(tmp_path) == before
    (out / name).unlink()
    write(out, seed=3, force=True)
    assert zeta.verify(out).ok


def test_what_is_changed_during_a_run_stays(tmp_path: Path) -> None:
    write(tmp_path)

    def edit(*_: Any) -> None:
        (tmp_path / "config.json").write_text("mine")

    before = {**contents(tmp_path), "config.json": b"mine"}
    again = partial(write, tmp_path, Pretrained(Config(model_type="other")), force=True)
    with pytest.raises(CheckpointError, match=r"changed or replaced(.|\n)*- config\.json\n"):
        again(progress=edit)
    left = contents(tmp_path)
    assert {name: left[name] for name in before} == before
    (tmp_path / "config.json").unlink()
    again()
    assert zeta.verify(tmp_path).ok
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "other"


@pytest.mark.parametrize("name", ["model-00001-of-00002.safetensors", "zeta.json", "config.json"])
def test_what_is_changed_after_the_last_look_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another program writes while the new files are about to get their names."""
    write(tmp_path, seed=1)
    before = everything(tmp_path)
    journal_of = Journal.of

    def meanwhile(*arguments: Any) -> Journal:
        (tmp_path / name).write_bytes(b"trained")
        return journal_of(*arguments)

    monkeypatch.setattr(Journal, "of", meanwhile)
    with pytest.raises(CheckpointError, match=rf"another program wrote while zeta was to replace them:\n  - {name}"):
        write(tmp_path, seed=2, force=True)
    after = {path: content for path, content in everything(tmp_path).items() if ".zeta-partial" not in path}
    assert after == {**before, name: b"trained"}


def test_a_file_that_a_manifest_of_somebody_else_names_stays(tmp_path: Path) -> None:
    write(tmp_path, Pretrained(generates=False))
    (tmp_path / "generation_config.json").write_text("mine")
    manifest = json.loads((tmp_path / "zeta.json").read_text())
    manifest["settings"]["generation_config.json"] = "{}"
    (tmp_path / "zeta.json").write_text(json.dumps(manifest))
    before = contents(tmp_path)
    for again in (write, plain):
        with pytest.raises(CheckpointError, match=r"- generation_config\.json$"):
            again(tmp_path, force=True)
        assert contents(tmp_path) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permissions_stays(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "config.json").chmod(0o200)
    with pytest.raises(CheckpointError, match=r"- config\.json$"):
        write(tmp_path, force=True)


@pytest.mark.parametrize("most", ["50GB", "2KB"])
def test_force_leaves_what_was_trained(most: str, tmp_path: Path) -> None:
    model, plan = zeta.record(nn.TransformerEncoderLayer, 8, 2, 16)
    zeta.save(model, plan, tmp_path, seed=0, max_shard_size=most)
    name = next(path.name for path in sorted(tmp_path.glob("*.safetensors")))
    trained = {key: value + 1 for key, value in load_file(tmp_path / name).items()}
    save_file(trained, tmp_path / name, metadata={"format": "pt"})
    before = everything(tmp_path)
    with pytest.raises(CheckpointError, match=f"changed or replaced after zeta wrote them.*\n  - {name}"):
        zeta.save(model, plan, tmp_path, seed=1, force=True, max_shard_size=most)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("size", [0, 5, 100, 5000])
def test_force_replaces_what_was_cut_off(size: int, tmp_path: Path) -> None:
    model, plan = zeta.record(nn.TransformerEncoderLayer, 8, 2, 16)
    zeta.save(model, plan, tmp_path, seed=0)
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.truncate(size)
    zeta.save(model, plan, tmp_path, seed=1, force=True)
    assert zeta.verify(tmp_path).ok


@pytest.mark.parametrize("most", ["50GB", "600B"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_force_leaves_what_was_trained_under_the_same_header(dtype: torch.dtype, most: str, tmp_path: Path) -> None:
    """As of a program that writes to the file where its values are."""
    model, plan = zeta.record(lambda: nn.Sequential(nn.Linear(5, 7), nn.LayerNorm(7), nn.Linear(7, 9)))
    zeta.save(model, plan, tmp_path, seed=3, dtype=dtype, max_shard_size=most)
    path = max(tmp_path.glob("*.safetensors"))
    content = path.read_bytes()
    begin = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(content[:begin] + bytes(byte ^ 1 for byte in content[begin:]))
    before = everything(tmp_path)
    with pytest.raises(CheckpointError, match=f"changed or replaced after zeta wrote them.*\n  - {path.name}"):
        zeta.save(model, plan, tmp_path, seed=4, dtype=dtype, max_shard_size=most, force=True)
    assert everything(tmp_path) == before
    path.write_bytes(content)
    zeta.save(model, plan, tmp_path, seed=4, dtype=dtype, max_shard_size=most, force=True)
    assert zeta.verify(tmp_path).ok


def test_force_leaves_an_index_of_somebody_else(tmp_path: Path) -> None:
    model, plan = zeta.record(nn.TransformerEncoderLayer, 8, 2, 16)
    zeta.save(model, plan, tmp_path, seed=0, max_shard_size="2KB")
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"mine": "other.safetensors"}}')
    before = everything(tmp_path)
    with pytest.raises(CheckpointError, match=r"\n  - model\.safetensors\.index\.json"):
        zeta.save(model, plan, tmp_path, seed=1, force=True)
    assert everything(tmp_path) == before
