"""Folders of ``torch.distributed.checkpoint`` as sources: boxes from chunks, and nothing of ``.metadata`` runs."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from tests.helpers import source_ranks
from tests.helpers.processes import run
from tests.helpers.sources import of_bytes, same
from zeta.base.sources import open_source
from zeta.errors import CheckpointError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
ROWS = of_bytes(torch.float32, 5, 4)


@pytest.fixture(scope="module", params=[1, 2])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by one and by two processes, which compare what they read themselves."""
    folder = tmp_path_factory.mktemp("distributed")
    run("tests.helpers.source_ranks", request.param, folder)
    return folder / "checkpoint"


@given(data=st.data())
def test_every_box(folder: Path, data: st.DataObject) -> None:
    whole = source_ranks.tensors()
    name = data.draw(st.sampled_from(sorted(whole)))
    ends = [(data.draw(st.integers(0, size)), data.draw(st.integers(0, size))) for size in whole[name].shape]
    index = tuple(slice(min(pair), max(pair)) for pair in ends)
    with open_source(folder) as source:
        assert same(source.read(f"model.{name}", index), whole[name][index])


def test_what_torch_reads_is_the_same(folder: Path) -> None:
    state: dict[str, Any] = {"model": {name: torch.empty_like(value) for name, value in source_ranks.tensors().items()}}
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    with open_source(folder) as source:
        for name, value in state["model"].items():
            assert same(source.read(f"model.{name}"), value)


@pytest.fixture
def one(tmp_path: Path) -> Path:
    dcp.save({"rows": ROWS, "b": torch.arange(3)}, checkpoint_id=tmp_path / "one", no_dist=True)
    return tmp_path / "one"


def metadata_of(folder: Path) -> Metadata:
    return pickle.loads((folder / ".metadata").read_bytes())  # type: ignore[no-any-return]


Change = Callable[[Metadata], Any]


def described(metadata: Metadata) -> TensorStorageMetadata:
    found = metadata.state_dict_metadata["rows"]
    assert isinstance(found, TensorStorageMetadata)
    return found


def stored(metadata: Metadata) -> Any:
    return metadata.storage_data[MetadataIndex("rows", (0, 0))]


def resized(*sizes: int) -> Change:
    return lambda metadata: setattr(described(metadata), "size", torch.Size(sizes))


def chunked(*chunks: tuple[tuple[int, ...], tuple[int, ...]]) -> Change:
    def change(metadata: Metadata) -> None:
        described(metadata).chunks = [ChunkStorageMetadata(torch.Size(at), torch.Size(of)) for at, of in chunks]
        for at, _ in chunks:
            metadata.storage_data[MetadataIndex("rows", at)] = stored(metadata)

    return change


def placed(**changes: Any) -> Change:
    return lambda metadata: vars(stored(metadata)).update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (resized(6, 4), r"\.metadata: tensor 'rows' has 24 elements, and its chunks 20"),
        (resized(5), r"\.metadata: tensor 'rows' has a chunk with another number of dimensions"),
        (resized(20, 1), r"\.metadata: tensor 'rows' has a chunk that is not inside of it"),
        (chunked(((0, 0), (3, 4)), ((1, 0), (2, 4))), r"\.metadata: tensor 'rows' has chunks that overlap"),
        (chunked(((0, 0), (2, 2)), ((0, 2), (2, 2)), ((2, 0), (3, 2)), ((1, 2), (3, 2))), "has chunks that overlap"),
        (chunked(((0, 0), (3, 4)), ((3, 0), (2, 4))), r"'rows' is torch.float32, 5 x 4, expected .* 3 x 4"),
        (placed(relative_path="../one/x"), r"is in the file '\.\./one/x', expected one in the folder itself"),
        (placed(relative_path="/etc/passwd"), r"is in the file '/etc/passwd', expected one in the folder itself"),
        (placed(relative_path="none"), "none does not exist"),
        (placed(offset=-1), r"has \(-1, \d+\), expected sizes"),
        (placed(length=2**40), r"__0_0\.distcp: is truncated: it has .* by \.metadata a part of tensor 'rows' ends at"),
        (placed(length=9), r"__0_0\.distcp: .*(truncated|no zip archive)"),
        (lambda metadata: vars(stored(metadata)).update(vars(metadata.storage_data[MetadataIndex("b", (0,))])),
         r"__0_0\.distcp: a part of tensor 'rows' is torch.int64, 3, expected torch.float32, 5 x 4"),
        (placed(transform_descriptors=["zstd"]), r"tensor 'rows' is compressed \(\['zstd'\]\); save it without"),
        (lambda metadata: setattr(described(metadata), "properties", TensorProperties(dtype=torch.float16)),
         "a part of tensor 'rows' is torch.float32, .* expected torch.float16"),
        (lambda metadata: metadata.storage_data.clear(), "has None, expected _StorageInfo"),
        (lambda metadata: setattr(metadata, "storage_data", None), "has None as storage_data, expected a dictionary"),
        (lambda metadata: metadata.state_dict_metadata.update(rows="x"), "has 'x', expected TensorStorageMetadata"),
    ],
)  # fmt: skip
def test_metadata_that_does_not_fit(change: Change, message: str, one: Path) -> None:
    metadata = metadata_of(one)
    change(metadata)
    (one / ".metadata").write_bytes(pickle.dumps(metadata))
    with pytest.raises(CheckpointError, match=message), open_source(one) as source:
        source.read("rows")


class Bad:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_nothing_of_metadata_runs(protocol: int, one: Path, tmp_path: Path) -> None:
    metadata = metadata_of(one)
    metadata.planner_data = Bad(f"touch {tmp_path / 'made'}")
    (one / ".metadata").write_bytes(pickle.dumps(metadata, protocol))
    with pytest.raises(CheckpointError, match=r"\.metadata: names 'posix\.system', which .*; nothing of it was run$"):
        open_source(one)
    assert not (tmp_path / "made").exists()
    pickle.loads((one / ".metadata").read_bytes())
    assert (tmp_path / "made").exists(), "the test would see it"


def test_a_folder_that_is_cut_anywhere_is_named(one: Path) -> None:
    for name, step in ((".metadata", 7), ("__0_0.distcp", 41)):
        content = (one / name).read_bytes()
        for size in range(0, len(content), step):
            (one / name).write_bytes(content[:size])
            with pytest.raises(CheckpointError, match=rf"{name}: "):
                open_source(one)
        (one / name).write_bytes(content)
    with open_source(one) as source:
        assert same(source.read("rows"), ROWS)


def test_a_file_that_is_replaced_is_named(one: Path) -> None:
    with open_source(one) as source:
        assert same(source.read("rows", (slice(1, 3), slice(2, 4))), ROWS[1:3, 2:4])
        shutil.copy(one / "__0_0.distcp", one / "other")
        (one / "other").rename(one / "__0_0.distcp")
        with pytest.raises(CheckpointError, match=r"__0_0\.distcp changed while it was in use; open it again"):
            source.read("rows")


def test_nothing_is_read_of_a_closed_folder(one: Path) -> None:
    source = open_source(one)
    source.close()
    with pytest.raises(CheckpointError, match="is closed"):
        source.read("rows")


def test_a_tensor_of_many_chunks(tmp_path: Path) -> None:
    count = 3000
    dcp.save({"rows": torch.ones(1, 4)}, checkpoint_id=tmp_path / "many", no_dist=True)
    metadata = metadata_of(tmp_path / "many")
    at = [torch.Size((i, 0)) for i in range(count)]
    described(metadata).size = torch.Size((count, 4))
    described(metadata).chunks = [ChunkStorageMetadata(offsets, torch.Size((1, 4))) for offsets in at]
    info = stored(metadata)
    metadata.storage_data = {MetadataIndex("rows", offsets): info for offsets in at}
    (tmp_path / "many" / ".metadata").write_bytes(pickle.dumps(metadata))
    with open_source(tmp_path / "many") as source:
        found: Tensor = source.read("rows", (slice(1000, 1003), slice(1, 3)))
    assert torch.equal(found, torch.ones(3, 2))
