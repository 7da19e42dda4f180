"""Saving that fails or is refused: both files appear or none, and what was there before stays as it was."""

from __future__ import annotations

import copy
import errno
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations

import zeta
from tests.write.checkpoint.test_checkpoint import RULES, UNIFORM, Net, contents, save
from zeta import Rule, Rules
from zeta.compute import sampling
from zeta.errors import CheckpointError, LayerTypeError, SpecError, TargetError
from zeta.initializers import Initializer, Keep, Normal, Orthogonal, TruncatedNormal, Uniform, Zeros

FILES = {"model.safetensors", "zeta.json"}


# -- what is there already ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
def test_one_file_of_an_earlier_run_is_enough_to_refuse(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("precious")
    with pytest.raises(CheckpointError, match=rf"already has {name}; .*force"):
        save(Net(), tmp_path)
    assert contents(tmp_path) == {name: b"precious"}


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    save(Net(), tmp_path)
    assert set(contents(tmp_path)) == FILES | {"config.json"}
    save(nn.Linear(2, 2), tmp_path, UNIFORM, force=True)
    assert contents(tmp_path)["config.json"] == b"{}"


def fail(error: BaseException) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


FULL = OSError(errno.ENOSPC, "No space left on device")
FAILURES: dict[str, tuple[str, BaseException, type[BaseException]]] = {
    "sampler": ("zeta.compute.sampling.fill_", RuntimeError("no luck"), RuntimeError),
    "disk": ("os.fsync", FULL, CheckpointError),
    "manifest": ("zeta.write.checkpoint.open_folder.Directory.write", FULL, CheckpointError),
    "rename": ("os.link", PermissionError(errno.EACCES, "Permission denied"), CheckpointError),
    "measurement": ("zeta.report.applied.Accumulator.parts", KeyboardInterrupt(), KeyboardInterrupt),
}


@pytest.mark.parametrize("where", FAILURES)
def test_a_failure_leaves_everything_as_it_was(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, error, expected = FAILURES[where]
    save(nn.Linear(3, 3), tmp_path / "old", UNIFORM, seed=1)
    before = contents(tmp_path)
    monkeypatch.setattr(target, fail(error))
    for folder in (tmp_path / "old", tmp_path / "new" / "deep"):
        with pytest.raises(expected) as caught:
            save(nn.Linear(3, 3), folder, UNIFORM, seed=2, force=True)
        assert contents(tmp_path) == before
        assert not (tmp_path / "new").exists()
        assert caught.value is error or str(folder) in str(caught.value)


def test_a_failing_progress_callback_leaves_everything_as_it_was(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        save(nn.Linear(3, 3), tmp_path / "new", UNIFORM, progress=lambda name, done, total: 1 // (done - total))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("old", [False, True])
def test_both_files_appear_or_none(old: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if old:
        save(nn.Linear(3, 3), tmp_path, UNIFORM, seed=1)
    before, original = contents(tmp_path), os.link

    def link(name: str, other: str, **places: Any) -> None:
        if name == "zeta.json.part":
            raise FULL
        original(name, other, **places)

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save(nn.Linear(3, 3), tmp_path, UNIFORM, seed=2, force=True)
    assert contents(tmp_path) == before


def test_what_cannot_be_put_back_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(nn.Linear(3, 3), tmp_path, UNIFORM, seed=1)
    before, original, calls = contents(tmp_path), os.link, 0

    def link(name: str, other: str, **places: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 3:  # the journal is written, both files are set aside, and nothing works from there on
            raise FULL
        original(name, other, **places)

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        with pytest.raises(
            CheckpointError, match=r"cannot restore .*; the earlier files are \S*/\.zeta-earlier\.\*; the n"
        ):
            save(nn.Linear(3, 3), tmp_path, UNIFORM, seed=2, force=True)
    asides = {name.removeprefix(".zeta-earlier."): data for name, data in contents(tmp_path).items() if "-e" in name}
    assert asides == before
    with pytest.raises(CheckpointError, match="already has"):
        save(nn.Linear(3, 3), tmp_path, UNIFORM, seed=3)
    assert {name: data for name, data in contents(tmp_path).items() if "/" not in name} == before


def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """The limit on a file's size stands for it: a write fails in the middle of the file."""
    resource = pytest.importorskip("resource")
    save(nn.Linear(3, 3), tmp_path / "old", UNIFORM)
    before, limits = contents(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    for name in ("old", "new"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, limits[1]))
        try:
            with pytest.raises(CheckpointError, match=rf"cannot write to \S+{name}: File too large"):
                save(nn.Linear(300, 300), tmp_path / name, UNIFORM, force=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["mkdir", "is_dir"])
def test_a_folder_without_permission(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out").mkdir()
    target = "pathlib.Path.mkdir" if name == "mkdir" else "pathlib.Path.is_dir"
    with monkeypatch.context() as patch:
        patch.setattr(target, fail(PermissionError(errno.EACCES, "Permission denied")))
        patch.setattr(sampling, "fill_", fail(AssertionError("a value was computed")))
        with pytest.raises(CheckpointError, match=r"out.*: Permission denied"):
            save(nn.Linear(3, 3), tmp_path / "out", UNIFORM)
    assert not contents(tmp_path)


def test_two_writers_at_once(tmp_path: Path) -> None:
    """One at a time: the other is refused, and the first is not disturbed."""
    layer, refusals = nn.Linear(3, 3), []

    def progress(*_: Any) -> None:
        for seed in (1, 2):
            with pytest.raises(CheckpointError, match=r"another run is writing to .*; wait for it") as caught:
                save(layer, tmp_path, UNIFORM, seed=seed, force=True)
            refusals.append(caught)

    save(layer, tmp_path, UNIFORM, seed=1, progress=progress)
    assert refusals
    assert set(contents(tmp_path)) == FILES
    result = zeta.verify(tmp_path)
    assert (result.ok, result.seed) == (True, 1)


def test_what_somebody_else_wrote_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def progress(*_: Any) -> None:
        (tmp_path / "model-00001-of-00002.safetensors").write_text("precious")

    with pytest.raises(CheckpointError, match=r"already has model-00001-of-00002\.safetensors"):
        save(nn.Linear(3, 3), tmp_path, UNIFORM, progress=progress)
    assert contents(tmp_path) == {"model-00001-of-00002.safetensors": b"precious"}


def test_too_little_room_is_noticed_before_the_first_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, draw = nn.Linear(30, 30), sampling.fill_

    def compared_alone(requests: Any, *args: Any, **kwargs: Any) -> Any:
        assert all(one.region.numel <= 16 for one in requests), "a value was computed"
        return draw(requests, *args, **kwargs)

    save(layer, tmp_path / "old", UNIFORM)
    size, before = (tmp_path / "old" / "model.safetensors").stat().st_size, contents(tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, size - 1))
    monkeypatch.setattr(sampling, "fill_", compared_alone)
    for name in ("old", "new"):
        with pytest.raises(CheckpointError, match=rf"{name} has room for {size - 1:,} bytes, and {size:,} are needed"):
            save(layer, tmp_path / name, UNIFORM, force=True)
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()
    monkeypatch.undo()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, size))
    save(layer, tmp_path / "new", UNIFORM)


# -- refused before anything is written --------------------------------------------------------------------------------


def refused(folder: Path, call: Callable[[], Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
    assert not folder.exists()


def test_everything_that_cannot_be_saved_is_listed(tmp_path: Path) -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 3), "c": nn.Linear(2, 2), "d": nn.Linear(2, 2)})
    plan = zeta.plan(model, Rules([Rule("d.bias", Keep()), *UNIFORM]))
    changed = copy.deepcopy(model)
    changed["b"], changed["e"] = nn.Linear(3, 2), nn.Linear(2, 2, bias=False)
    changed["c"] = parametrizations.weight_norm(changed["c"])
    changed["d"].to("meta")
    del changed["a"].bias
    message = (
        r"nothing was written:\n  - a\.bias: .*no such .*\n  - b\.weight: .* \(3, 2\)\n  - b\.bias: .* \(3,\)\n"
        r"  - c\.weight: is parametrized; .*\n  - d\.bias: is kept, but is on the meta device.*\n  - e\.weight: is not"
    )
    out = tmp_path / "out"
    refused(out, lambda: zeta.save(changed, plan, out, seed=0), TargetError, message)


def test_a_tied_name_that_the_model_lacks(tmp_path: Path) -> None:
    model = Net()
    plan, out = zeta.plan(model, RULES), tmp_path / "out"
    del model.head
    refused(out, lambda: zeta.save(model, plan, out, seed=0), TargetError, r"head\.weight")


def test_ties_that_are_not_the_planned_ones(tmp_path: Path) -> None:
    model, out = Net(), tmp_path / "out"
    plan = zeta.plan(model, RULES)
    model.head.weight = nn.Parameter(torch.zeros(70, 1000))
    message = r"- head\.weight: planned as the same tensor as emb\.weight, found another"
    refused(out, lambda: zeta.save(model, plan, out, seed=0), TargetError, message)
    layers = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    plan = zeta.plan(layers, UNIFORM)
    layers["b"].weight = layers["a"].weight
    message = r"- b\.weight: planned on its own, found the same tensor as a\.weight"
    refused(out, lambda: zeta.save(layers, plan, out, seed=0), TargetError, message)


def test_a_buffer_that_is_to_be_saved_under_one_of_its_names(tmp_path: Path) -> None:
    model, table = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}), torch.ones(2)
    model["a"].register_buffer("table", table)
    model["b"].register_buffer("table", table, persistent=False)
    out = tmp_path / "out"
    refused(out, lambda: save(model, out, UNIFORM), TargetError, r"b\.table: .* persistent=False")


def test_a_drawn_integer_parameter(tmp_path: Path) -> None:
    model, out = nn.Module(), tmp_path / "out"
    model.w = nn.Parameter(torch.ones(3, dtype=torch.int8), requires_grad=False)
    refused(out, lambda: save(model, out, Rules([Rule("w", Zeros())])), TargetError, "w: has dtype int8")


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_a_kept_parameter_without_memory(tmp_path: Path) -> None:
    with FakeTensorMode():
        model = nn.Linear(2, 2, bias=False)
    out = tmp_path / "out"
    refused(out, lambda: save(model, out, Rules([Rule("*", Keep())])), TargetError, "weight: .* FakeTensor without mem")


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_a_kept_sparse_parameter(tmp_path: Path) -> None:
    model = nn.ParameterDict({"w": torch.eye(3).to_sparse_csr()})
    refused(
        tmp_path / "out", lambda: save(model, tmp_path / "out", Rules([Rule("*", Keep())])), TargetError, "w: .*spars"
    )


def test_a_name_that_the_format_reserves(tmp_path: Path) -> None:
    model = nn.ParameterDict({"__metadata__": torch.zeros(3)})
    refused(tmp_path / "out", lambda: save(model, tmp_path / "out", UNIFORM), zeta.ZetaError, "__metadata__")


def test_a_name_without_bytes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    model = nn.ParameterDict({"\ud800": torch.zeros(3)})
    refused(out, lambda: save(model, out, UNIFORM), TargetError, "ud800' is not valid Unicode")


def test_what_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "zeta.json").mkdir()
    (tmp_path / "zeta.json" / "inside").write_text("precious")
    before = contents(tmp_path)
    for folder, message in ((tmp_path / "file", "file: it is not a folder"), (tmp_path, r"zeta\.json is a folder")):
        with pytest.raises(CheckpointError, match=message):
            save(nn.Linear(2, 2), folder, UNIFORM, force=True)
    assert contents(tmp_path) == before


def test_a_model_name_that_the_manifest_cannot_hold(tmp_path: Path) -> None:
    out: Any = tmp_path / "out"
    refused(out, lambda: save(nn.Linear(2, 2), out, UNIFORM, model_name=out), SpecError, "must be a text or None")
    long = "x" * (2**20 + 1)
    refused(out, lambda: save(nn.Linear(2, 2), out, UNIFORM, model_name=long), SpecError, "of at most 1,048,576")


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.quint8, torch.float8_e8m0fnu], ids=str)
@pytest.mark.parametrize("law", [Normal(1.0), Uniform(0.0, 1.0), TruncatedNormal(1.0), Orthogonal()], ids=str)
def test_a_law_in_a_dtype_that_cannot_hold_it_is_refused(tmp_path: Path, dtype: torch.dtype, law: Initializer) -> None:
    model = nn.Linear(4, 2, bias=False)
    [entry] = zeta.plan(model, Rules([Rule("*", Normal(1.0))]))
    plan = zeta.Plan((replace(entry, dtype=dtype, initializer=law),))
    with pytest.raises(zeta.ZetaError):
        zeta.save(model, plan, tmp_path / "out", seed=0)
    assert not (tmp_path / "out").exists()


def test_dtypes_that_safetensors_lacks_are_listed(tmp_path: Path) -> None:
    dtypes = {"a": torch.complex128, "b": torch.float32, "c": torch.float8_e4m3fnuz}
    model = nn.ParameterDict({name: torch.zeros(2, dtype=dtype) for name, dtype in dtypes.items()})
    message = r"no such dtype:\n  - a: complex128\n  - c: float8_e4m3fnuz$"
    refused(tmp_path / "out", lambda: save(model, tmp_path / "out", UNIFORM), CheckpointError, message)


@pytest.mark.parametrize("model", ["weight", nn.Linear, None])
def test_not_a_module(model: Any, tmp_path: Path) -> None:
    plan, out = zeta.plan(nn.Linear(2, 2), UNIFORM), tmp_path / "out"
    refused(out, lambda: zeta.save(model, plan, out, seed=0), LayerTypeError, r"expected a torch\.nn\.Module, got")


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, "1", True])
def test_senseless_seeds(seed: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused(out, lambda: save(nn.Linear(2, 2), out, UNIFORM, seed=seed), SpecError, "seed must be an integer from 0")
