"""From checkpoint to checkpoint: in a folder, what adapt_ gives a model; interrupted, damaged, and verified."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint
from safetensors.torch import load_file, save_file
from torch import nn

import zeta
from tests.write.checkpoint.test_checkpoint import contents
from zeta import Average, Layers, Mean, Rows, Rule, Rules
from zeta.adapting import adapt_folder
from zeta.errors import CheckpointError, PlanError, SpecError
from zeta.growing import Growth
from zeta.initializers import Normal, Orthogonal, Zeros
from zeta.report.adapted import AdaptReport

PARTIAL = ".zeta-partial"
RULES = Rules([Rule("*.bias", Zeros()), Rule("*", Normal(0.5))])


class Net(nn.Module):
    """Tokens, blocks, and a head that is tied; a buffer that is saved."""

    def __init__(self, tokens: int = 50, blocks: int = 3, width: int = 24, *, tied: bool = False) -> None:
        super().__init__()
        self.tokens = nn.Embedding(tokens, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(blocks))
        self.head = nn.Linear(width, tokens)
        self.register_buffer("steps", torch.arange(5))
        if tied:
            self.head.weight = self.tokens.weight


def source_of(folder: Path, **options: Any) -> Path:
    torch.manual_seed(5)
    folder.mkdir()
    state = {name: tensor.clone() for name, tensor in Net(**options).state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "tokenizer.json").write_text('{"a": 1}')
    (folder / "merges.txt").write_text("a b")
    (folder / "README.md").write_text("not copied")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return source_of(tmp_path / "source")


def new(**options: Any) -> nn.Module:
    with torch.device("meta"):
        return Net(**options)


def grown(source: Path, out: Path, **options: Any) -> AdaptReport:
    """Twenty more tokens and three more blocks, in several files."""
    asked: dict[str, Any] = {"seed": 3, "grow": {"tokens.weight": Rows(), "blocks": Layers(6, "stack")}, **options}
    return adapt_folder(new(tokens=70, blocks=6), source, out, RULES, max_shard_size="5KB", **asked)


GROWTH: dict[str, tuple[dict[str, Any], dict[str, Growth]]] = {
    "rows": ({"tokens": 70}, {"tokens.weight": Rows()}),
    "rows of matrices": ({"tokens": 70}, {"head.bias": Rows(), "*": Rows(Orthogonal())}),
    "mean": ({"tokens": 70}, {"tokens.weight": Rows(Mean(0.5))}),
    "averages": ({"tokens": 70}, {"tokens.weight": Rows(Average({61: [1, 2], 50: [7]}, rest=Zeros()))}),
    "other order": ({"tokens": 40}, {"tokens.weight": Rows(keep=[*range(30, 50), -1, *range(5)])}),
    "blocks": ({"blocks": 5}, {"blocks": Layers(5, "interleave")}),
    "new blocks": ({"blocks": 5}, {"blocks": Layers(5, ends=("weight", "bias"))}),
    "nothing": ({}, {}),
}


@pytest.mark.parametrize("growth", GROWTH)
@pytest.mark.parametrize("tile", [2**21, 300])
def test_the_folder_has_what_adapt_gives_a_model(
    growth: str, tile: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zeta.write.checkpoint.save.TILE_BYTES", tile)
    sizes, grow = GROWTH[growth]
    model = new(**sizes)
    expected = zeta.adapt_(model, source, RULES, seed=3, grow=grow)
    report = adapt_folder(new(**sizes), source, tmp_path / "out", RULES, seed=3, grow=grow)
    assert report.ok
    for part in ("loaded", "grown", "initialized", "unused", "loaded_nbytes", "expected", "seed"):
        assert getattr(report, part) == getattr(expected, part), part
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.items())
    for found in (zeta.verify(tmp_path / "out"), zeta.verify(tmp_path / "out", source=source)):
        assert found.ok, str(found)
    with pytest.raises(SpecError, match="the new model is in a folder and not in memory"):
        report.preserved(torch.zeros(1, 2))


def test_tied_tensors_and_another_dtype(tmp_path: Path) -> None:
    source = source_of(tmp_path / "source", tied=True)
    model, grow = new(tokens=70, tied=True), {"tokens.weight": Rows(), "head.bias": Rows(Zeros())}
    zeta.adapt_(model, source, RULES, seed=3, grow=grow, dtype=torch.bfloat16)
    asked = new(tokens=70, tied=True)
    adapt_folder(asked, source, tmp_path / "out", RULES, seed=3, grow=grow, dtype=torch.bfloat16)
    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert saved.keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in saved.items())
    assert saved["tokens.weight"].dtype is torch.bfloat16
    assert zeta.verify(tmp_path / "out", source=source).ok


def test_each_tensor_keeps_its_dtype(source: Path, tmp_path: Path) -> None:
    state = load_file(source / "model.safetensors")
    state = {name: value.bfloat16() if value.ndim == 2 else value for name, value in state.items()}
    save_file(state, source / "model.safetensors")
    adapt_folder(new(blocks=4), source, tmp_path / "out", RULES, seed=3, grow={"blocks": Layers(4, ends=("*",))})
    saved = load_file(tmp_path / "out" / "model.safetensors")
    fresh = {name for name in saved if name.startswith("blocks.1.")}
    assert {saved[name].dtype for name in fresh} == {torch.bfloat16}, "that of most of the source"
    wide = {name for name, value in saved.items() if value.dtype is torch.float32}
    assert wide == {"head.bias", "blocks.0.bias", "blocks.2.bias", "blocks.3.bias"}


def test_the_manifest_says_where_tensors_are_from(source: Path, tmp_path: Path) -> None:
    grown(
        source, tmp_path / "out", grow={"tokens.weight": Rows(), "blocks": Layers(6, "stack"), "head.*": Rows(Mean())}
    )
    manifest = json.loads((tmp_path / "out" / "zeta.json").read_text())
    state = load_file(source / "model.safetensors")
    origin = manifest["origin"]
    assert origin["source"] == str(source)
    assert origin["tensors"]["tokens.weight"] == {"text": "tokens.weight", "tensor": "tokens.weight"}
    assert origin["tensors"]["head.bias"] == {"text": "head.bias + like head.bias"}
    for name in ("tokens.weight", "steps", "blocks.0.weight"):
        expected = hashlib.sha256(state[origin["tensors"][name]["tensor"]].numpy().tobytes()).hexdigest()
        assert manifest["kept_sha256"][name] == expected, "of the whole tensor in the source"
    assert manifest["copied_sha256"] == {
        name: hashlib.sha256((source / name).read_bytes()).hexdigest() for name in ("tokenizer.json", "merges.txt")
    }
    assert not (tmp_path / "out" / "README.md").exists()


def flip(folder: Path, name: str, element: int) -> None:
    """Change a bit of a number, in whatever file it is."""
    for path in folder.glob("*.safetensors"):
        data = bytearray(path.read_bytes())
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length])
        if name in header:
            data[8 + length + header[name]["data_offsets"][0] + 4 * element] ^= 1
            path.write_bytes(data)


def without_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"a": 2}')


def other_seed(folder: Path) -> None:
    path = folder / "zeta.json"
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 4'))


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "copied": (lambda folder: flip(folder, "blocks.1.bias", 3), r"blocks\.1\.bias: found other bytes, expected"),
    "old row": (lambda folder: flip(folder, "tokens.weight", 49 * 24), r"tokens\.weight: found other bytes"),
    "new row": (lambda folder: flip(folder, "tokens.weight", 50 * 24), r"tokens\.weight: 1 elem.* first at \[50, 0\]"),
    "seed": (other_seed, r"tokens\.weight: .*first at \[50, 0\]"),
    "tokenizer": (without_tokenizer, r"tokenizer\.json: has other bytes than the file that was copied"),
    "no tokenizer": (lambda folder: (folder / "merges.txt").unlink(), r"merges\.txt: is missing"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_verify_finds_damage_of_every_part(what: str, source: Path, tmp_path: Path) -> None:
    damage, message = DAMAGE[what]
    grown(source, tmp_path / "out")
    assert zeta.verify(tmp_path / "out").ok
    damage(tmp_path / "out")
    found = zeta.verify(tmp_path / "out")
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(str(found))
    assert not found.ok


def test_verify_finds_another_source(source: Path, tmp_path: Path) -> None:
    grown(source, tmp_path / "out")
    state = load_file(source / "model.safetensors")
    state["blocks.2.weight"][0, 0] += 1
    del state["steps"]
    save_file(state, source / "model.safetensors")
    assert zeta.verify(tmp_path / "out").ok, "the folder alone is what it was"
    found = zeta.verify(tmp_path / "out", source=source)
    assert sorted((one.name, one.found.partition(" of /")[0]) for one in found.differences) == [
        ("blocks.2.weight", "other values in 'blocks.2.weight' (24 x 24)"),
        ("blocks.5.weight", "other values in 'blocks.2.weight' (24 x 24)"),
        ("steps", "no tensor 'steps'"),
    ]
    zeta.save(Net(), zeta.plan(Net(), Rules([Rule("*", Normal())])), tmp_path / "saved", seed=0)
    with pytest.raises(CheckpointError, match=r"zeta\.json has nothing of another checkpoint; leave source out"):
        zeta.verify(tmp_path / "saved", source=source)
    with pytest.raises(SpecError, match="source= is for a folder"):
        zeta.verify(Net(), zeta.plan(Net(), RULES), 0, source=source)


# -- refused before anything is written --------------------------------------------------------------------------------


def test_a_truncated_source_is_named(source: Path, tmp_path: Path) -> None:
    data = (source / "model.safetensors").read_bytes()
    (source / "model.safetensors").write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=r"source/model\.safetensors: is truncated"):
        grown(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_source_that_does_not_fit_is_named(source: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"tokens\.weight: the model has 71 x 24, the checkpoint 50 x 24"):
        adapt_folder(new(tokens=71), source, tmp_path / "out", RULES, seed=0)
    assert not (tmp_path / "out").exists()


def test_the_source_is_not_written_to(source: Path, tmp_path: Path) -> None:
    before = contents(source)
    (tmp_path / "link").symlink_to(source)
    for out in (source, tmp_path / "link", tmp_path / "source" / ".." / "source"):
        with pytest.raises(SpecError, match="is where the checkpoint is read from"):
            grown(source, out, force=True)
    assert contents(source) == before


def test_files_that_others_wrote_stay(source: Path, tmp_path: Path) -> None:
    grown(source, tmp_path / "out")
    grown(source, tmp_path / "out", seed=4, force=True)
    (tmp_path / "out" / "tokenizer.json").write_text("mine")
    before = contents(tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"were changed or replaced after.*:\n  - tokenizer\.json"):
        grown(source, tmp_path / "out", force=True)
    assert contents(tmp_path / "out") == before


# -- interrupted -------------------------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, torch
from pathlib import Path
import tests.write.checkpoint.test_checkpoint_adapted as adapted
from zeta.write.checkpoint.open_folder import Directory

def dying(done, total):
    def progress(name, now, all):
        if now >= done / total * all:
            os.kill(os.getpid(), signal.SIGKILL)
    return progress

moment = int(sys.argv[3])
options = {}
if moment < 14:
    options["progress"] = dying(moment, 14)
else:
    move, left = Directory.move, [moment - 14]
    def moved(self, *place):
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return move(self, *place)
    Directory.move = moved
torch.set_num_threads(2)
adapted.grown(Path(sys.argv[1]), Path(sys.argv[2]), **options)
"""


def killed(source: Path, out: Path, moment: int) -> None:
    command = [sys.executable, "-c", KILLED, str(source), str(out), str(moment)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes]]:
    """A source, and what a run without interruption makes of it."""
    folder = tmp_path_factory.mktemp("adapted")
    source = source_of(folder / "source")
    grown(source, folder / "whole")
    return source, contents(folder / "whole")


MOMENTS = [pytest.param(moment, marks=() if moment % 5 == 2 else pytest.mark.slow) for moment in range(20)]


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_twenty_moments(moment: int, whole: tuple[Path, dict[str, bytes]], tmp_path: Path) -> None:
    """In each fourteenth of the bytes, and at the moves of the files to their final names. Most of them are slow."""
    source, expected = whole
    killed(source, tmp_path / "out", moment)
    with pytest.raises(CheckpointError, match=r"zeta\.json does not exist"):
        zeta.verify(tmp_path / "out")
    grown(source, tmp_path / "out")
    assert contents(tmp_path / "out") == expected
    assert zeta.verify(tmp_path / "out", source=source).ok


def test_a_source_that_changed_meanwhile_is_named(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    killed(source, out, 7)
    state = load_file(source / "model.safetensors")
    save_file({**state, "steps": state["steps"] + 1}, source / "model.safetensors")
    with pytest.raises(
        CheckpointError,
        match=r"asked for something else; .*:\n  - .*source: model\.safetensors was changed",
    ):
        grown(source, out)
    grown(source, out, force=True)
    assert zeta.verify(out, source=source).ok
    assert not (out / PARTIAL).exists()


def test_a_tokenizer_that_changed_meanwhile_is_named(source: Path, tmp_path: Path) -> None:
    killed(source, tmp_path / "out", 7)
    (source / "merges.txt").write_text("b a")
    with pytest.raises(CheckpointError, match=r":\n  - merges\.txt: is another file now"):
        grown(source, tmp_path / "out")


def test_a_source_that_changes_while_it_is_read(source: Path, tmp_path: Path) -> None:
    path = source / "model.safetensors"

    def progress(name: str, done: int, total: int) -> None:
        os.utime(path, ns=(0, 0))

    with pytest.raises(CheckpointError, match=r"source/model\.safetensors changed while it was in use"):
        grown(source, tmp_path / "out", progress=progress)
    assert [one.name for one in (tmp_path / "out").iterdir()] == [PARTIAL]


def test_a_finished_folder_does_not_depend_on_times(source: Path, tmp_path: Path) -> None:
    grown(source, tmp_path / "one")
    os.utime(source / "model.safetensors", ns=(0, 0))
    grown(source, tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


# -- other sources -----------------------------------------------------------------------------------------------------


class Program:
    """Pickled, it is a call of a function."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit",)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch.distributed.checkpoint without processes
def test_a_distributed_checkpoint_and_a_file_of_torch_save(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = {name: tensor.clone() for name, tensor in Net().state_dict().items()}
    torch.save(state, tmp_path / "old.pt")
    torch.distributed.checkpoint.save(state, checkpoint_id=tmp_path / "old")
    for source in (tmp_path / "old.pt", tmp_path / "old"):
        out = tmp_path / f"new {source.suffix}"
        grown(source, out)
        saved = {name: value for path in out.glob("*.safetensors") for name, value in load_file(path).items()}
        assert torch.equal(saved["tokens.weight"][:50], state["tokens.weight"])
        assert torch.equal(saved["blocks.4.weight"], state["blocks.1.weight"])
        assert zeta.verify(out, source=source).ok


def test_a_pickle_that_is_not_plain_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"tokens.weight": Program()}, tmp_path / "old.pt")
    with pytest.raises(CheckpointError, match=r"old\.pt: names .*exec', which plain tensors do not need"):
        grown(tmp_path / "old.pt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_that_the_source_links_to_is_not_written_over(source: Path, tmp_path: Path) -> None:
    grown(source, tmp_path / "out")
    (tmp_path / "links").mkdir()
    for path in (tmp_path / "out").glob("*.safetensors*"):
        (tmp_path / "links" / path.name).symlink_to(path)
    before = contents(tmp_path / "out")
    with pytest.raises(SpecError, match="out is where the checkpoint is read from"):
        adapt_folder(new(tokens=70, blocks=6), tmp_path / "links", tmp_path / "out", seed=0, force=True)
    assert contents(tmp_path / "out") == before


def test_a_source_whose_name_is_no_unicode(tmp_path: Path) -> None:
    source = source_of(tmp_path / os.fsdecode(b"o\xffd"))
    grown(source, tmp_path / "out", model_name=str(source))
    assert zeta.verify(tmp_path / "out", source=source).ok
    assert json.loads((tmp_path / "out" / "zeta.json").read_text())["origin"]["source"].endswith("o\\udcffd")


def test_a_section_of_a_dimension_that_no_tensor_has(source: Path, tmp_path: Path) -> None:
    """The error names the dimension, and does not write it out."""
    grown(source, tmp_path / "out")
    path = tmp_path / "out" / "zeta.json"
    manifest = json.loads(path.read_text())
    [entry] = [entry for entry in manifest["plan"]["entries"] if entry["name"] == "tokens.weight"]
    entry["section"]["dim"] = 2**31
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"no section along dimension 2147483648 at 50:70") as raised:
        zeta.verify(tmp_path / "out")
    assert len(str(raised.value)) < 1000


def test_verify_says_what_it_did_not_compare_with_the_source(source: Path, tmp_path: Path) -> None:
    """Of what is computed of several rows there is no tensor in the source to compare with."""
    grown(source, tmp_path / "out", grow={"tokens.weight": Rows(Mean()), "blocks": Layers(6, "stack")})
    found = zeta.verify(tmp_path / "out", source=source)
    assert found.ok
    assert found.remark.startswith("of 16 tensors from the source, 13 compared with it; of the others, ")
    assert found.remark.endswith("the SHA-256 alone: tokens.weight, head.weight, head.bias")
    assert not zeta.verify(tmp_path / "out").remark
    grown(source, tmp_path / "rows")
    assert not zeta.verify(tmp_path / "rows", source=source).remark, "old rows are all of a tensor"
