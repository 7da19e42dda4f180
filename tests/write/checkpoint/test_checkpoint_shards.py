"""Checkpoints in several files: what is in them, who can read them, and how they are verified and replaced."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zeta
from tests.write.checkpoint.test_checkpoint import RULES, UNIFORM, Net, bits, contents, header_of, save
from zeta.errors import CheckpointError, SpecError
from zeta.resolve.casting import cast

INDEX = "model.safetensors.index.json"


def load(folder: Path) -> dict[str, Tensor]:
    """The tensors as the index says where they are, and no others."""
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    files = {name: load_file(folder / name) for name in set(places.values())}
    assert {(key, name) for name, tensors in files.items() for key in tensors} == set(places.items())
    return {key: files[name][key] for key, name in places.items()}


@pytest.mark.parametrize("most", [1, 100, 1000, "150kB", "300kB"])
def test_the_files_have_the_bits_of_an_initialized_model(most: int | str, tmp_path: Path) -> None:
    model = Net()
    report = save(model, tmp_path, seed=3, max_shard_size=most)
    zeta.init_(model, RULES, seed=3)
    assert bits(load(tmp_path)) == bits(model.state_dict())
    assert (report.ok, report.resumed) == (True, 0)
    assert zeta.verify(tmp_path).ok


def test_one_file_and_several_have_the_same_values(tmp_path: Path) -> None:
    one = save(Net(), tmp_path / "one")
    several = save(Net(), tmp_path / "several", max_shard_size=5000)
    assert bits(load(tmp_path / "several")) == bits(load_file(tmp_path / "one" / "model.safetensors"))
    assert one.as_dict()["parameters"] == several.as_dict()["parameters"]


def test_a_file_has_at_most_the_bytes_that_were_asked_for(tmp_path: Path) -> None:
    model = nn.ModuleList(nn.Linear(10, 10) for _ in range(20))
    save(model, tmp_path, UNIFORM, max_shard_size=1000)
    sizes = [len(header_of(path)[1]) for path in tmp_path.glob("*.safetensors")]
    assert max(sizes) <= 1000
    assert sum(sizes) == 20 * 440


def test_several_files_and_progress(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    save(Net(), tmp_path, max_shard_size=1000, progress=lambda *call: calls.append(call))
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)
    assert calls[-1][1] == calls[0][2] == sum(value.nbytes for value in load(tmp_path).values())


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_transformers_loads_several_files(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if name == "gpt2":  # its embeddings are tied
        config = transformers.GPT2Config(n_layer=2, n_embd=8, n_head=2, vocab_size=16, n_positions=8)
        config.bos_token_id = config.eos_token_id = 0
    else:
        sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "vocab_size": 16}
        config = transformers.LlamaConfig(**sizes, num_hidden_layers=2)
    model, plan = zeta.record(transformers.AutoModelForCausalLM.from_config, config)
    zeta.save(model, plan, tmp_path, seed=3, max_shard_size="1KB", dtype=torch.bfloat16)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 2
    loaded, notes = type(model).from_pretrained(tmp_path, output_loading_info=True, dtype="auto")
    assert not any(notes.values()), notes
    expected = zeta.materialize_(model.bfloat16(), plan.with_dtype(torch.bfloat16), seed=3)
    assert expected.ok
    assert bits(loaded.state_dict()) == bits(model.state_dict())


def test_a_dtype_is_that_of_the_plan_with_this_dtype(tmp_path: Path) -> None:
    model = Net()
    plan = zeta.plan(model, RULES)
    zeta.save(model, plan, tmp_path / "one", dtype=torch.float16, seed=0)
    zeta.save(model, cast(plan, model, torch.float16), tmp_path / "two", seed=0)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert load_file(tmp_path / "one" / "model.safetensors")["body.weight"].dtype == torch.float16


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": torch.int8}, r"dtype must be a floating-point dtype .*, got torch\.int8"),
        ({"dtype": "bfloat16"}, r"dtype must be a floating-point dtype .*, got 'bfloat16'"),
        ({"max_shard_size": "5"}, r"max_shard_size must be .*, got '5'"),
        ({"max_shard_size": 0}, r"max_shard_size must be .*, got 0"),
    ],
)
def test_senseless_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        save(nn.Linear(2, 2), tmp_path / "out", UNIFORM, **options)
    assert not list(tmp_path.iterdir())


def test_not_a_plan(tmp_path: Path) -> None:
    rules: Any = UNIFORM
    with pytest.raises(SpecError, match=r"expected a Plan from zeta\.plan"):
        zeta.save(nn.Linear(2, 2), rules, tmp_path, seed=0)


# -- what verify finds -------------------------------------------------------------------------------------------------


def shard(number: int) -> str:
    return f"model-0000{number}-of-00003.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files with one matrix each."""
    save(nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3)), tmp_path, UNIFORM, max_shard_size=64)
    assert set(contents(tmp_path)) == {shard(1), shard(2), shard(3), INDEX, "zeta.json"}
    assert zeta.verify(tmp_path).ok
    return tmp_path


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def swap(folder: Path) -> None:
    (folder / shard(1)).rename(folder / "aside")
    (folder / shard(2)).rename(folder / shard(1))
    (folder / "aside").rename(folder / shard(2))


def point_elsewhere(folder: Path) -> None:
    path = folder / INDEX
    path.write_text(path.read_text().replace(f'"1.weight": "{shard(2)}"', f'"1.weight": "{shard(3)}"'))


def forget(folder: Path) -> None:
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["2.weight"]
    (folder / INDEX).write_text(json.dumps(index))


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a bit": (lambda folder: flip(folder / shard(2)), r"^1\.weight: 1 element\(s\) differ, first at \[3, 3\]: "),
    "no file": (lambda folder: (folder / shard(3)).unlink(), rf"^{shard(3)}: is missing$"),
    "shorter": (lambda folder: (folder / shard(3)).write_bytes(b""), rf"^{shard(3)}: 0 bytes, expected"),
    "swapped": (swap, rf"^{shard(1)}: has the header of {shard(2)}$"),
    "no index": (lambda folder: (folder / INDEX).unlink(), rf"^{INDEX}: is missing$"),
    "no JSON": (
        lambda folder: (folder / INDEX).write_text("{"),
        rf"^{INDEX}: cannot be read: Input data was truncated",
    ),
    "elsewhere": (point_elsewhere, rf"^{INDEX}: weight_map 1\.weight is '{shard(3)}', expected '{shard(2)}'$"),
    "forgotten": (forget, rf"^{INDEX}: weight_map 2\.weight is None, expected '{shard(3)}'$"),
    "one more": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / shard(1)).read_bytes()),
        r"^model\.safetensors: does not belong to this checkpoint$",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_and_named(what: str, folder: Path) -> None:
    change, message = CHANGES[what]
    change(folder)
    result = zeta.verify(folder)
    assert not result.ok
    lines = str(result).splitlines()
    assert len(lines) == (3 if what == "swapped" else 2)
    assert any(re.search(message, line) for line in lines), lines


# -- in the place of others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", ["64B", "128B", "1GB"])
def test_other_files_of_a_checkpoint_are_replaced_all_together(most: str, folder: Path) -> None:
    (folder / "config.json").write_text("{}")
    model = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
    with pytest.raises(CheckpointError, match=rf"already has {shard(1)} and 4 more files; .*force"):
        save(model, folder, UNIFORM, seed=1, max_shard_size=most)
    save(model, folder, UNIFORM, seed=1, max_shard_size=most, force=True)
    result = zeta.verify(folder)
    assert (result.ok, result.seed) == (True, 1), str(result)
    assert len(contents(folder)) == {"64B": 6, "128B": 5, "1GB": 3}[most]


@pytest.mark.parametrize("count", range(11))
def test_all_files_are_replaced_or_none(count: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever move fails, the journal's, five aside and five into place: what was there before is there again."""
    before, original, calls = contents(folder), os.link, 0

    def link(*names: str, **places: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == count + 1:
            raise OSError(errno.EIO, "Input/output error")
        original(*names, **places)

    monkeypatch.setattr(os, "link", link)
    model = nn.ModuleList(nn.Linear(4, 4, bias=False) for _ in range(3))
    with pytest.raises(CheckpointError, match=r"Input/output error; what is written stays in .*\.zeta-partial"):
        save(model, folder, UNIFORM, seed=1, max_shard_size=64, force=True)
    after = contents(folder)
    assert {name: data for name, data in after.items() if not name.startswith(".zeta-partial/")} == before
    report = save(model, folder, UNIFORM, seed=1, max_shard_size=64, force=True)
    assert report.resumed > 3 * 64
    assert zeta.verify(folder).seed == 1
    assert set(contents(folder)) == set(before)
