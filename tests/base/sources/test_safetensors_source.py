"""A safetensors file as a source: every dtype and box as safetensors and torch read them, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.helpers.sources import of_bytes, same
from zeta.base import dtypes
from zeta.base.sources import TensorInfo, files, open_source, places
from zeta.errors import CheckpointError, SpecError

DTYPES = (*dtypes.SAFETENSORS, *dtypes.NEWER_SAFETENSORS)


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("safetensors") / "some.safetensors"
    tensors = {f"t{i}": of_bytes(dtype, 3, 5, seed=i) for i, dtype in enumerate(DTYPES)}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.empty(0, 4), "also empty": torch.empty(3, 0, 2).half()}
    save_file(tensors, path, metadata={"format": "pt"})
    return path, tensors


def test_every_dtype_is_read_as_safetensors_reads_it(several: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = several
    loaded = load_file(path)
    with open_source(path) as source:
        assert source.origin == str(path)
        assert dict(source.settings) == {}
        assert source.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert source.tensors[name] == TensorInfo(tuple(tensor.shape), tensor.dtype)
            assert source.tensors[name].nbytes == tensor.nbytes
            assert same(source.read(name), tensor)
            assert same(source.read(name), loaded[name])


def test_tensors_are_in_the_order_of_the_file(several: tuple[Path, dict[str, Tensor]]) -> None:
    path, _ = several
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    del header["__metadata__"]
    with open_source(str(path)) as source:
        assert list(source.tensors) == sorted(header, key=lambda name: header[name]["data_offsets"])


@pytest.fixture(scope="module")
def boxes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("boxes") / "boxes.safetensors"
    shapes = {"f": (7, 6, 5), "c": (4, 1, 9), "v": (50,), "m": (12, 33), "d": (2, 3, 2, 3, 2)}
    kinds = {"f": torch.float32, "c": torch.complex64, "v": torch.bfloat16, "m": torch.uint8, "d": torch.int64}
    tensors = {name: of_bytes(kinds[name], *shape) for name, shape in shapes.items()}
    save_file(tensors, path)
    return path, tensors


@given(data=st.data())
def test_every_box_is_what_torch_would_cut(boxes: tuple[Path, dict[str, Tensor]], data: st.DataObject) -> None:
    path, tensors = boxes
    name = data.draw(st.sampled_from(sorted(tensors)))
    index = tuple(
        slice(*sorted((data.draw(st.integers(0, size)), data.draw(st.integers(0, size)))))
        for size in tensors[name].shape
    )
    with pytest.MonkeyPatch.context() as patch, open_source(path) as source:
        for module in (files, places):  # pieces that are smaller than a row, and gaps that are never or always read
            patch.setattr(module, "PIECE", data.draw(st.sampled_from((8, 40, 200, 2**22)), label="piece"))
        patch.setattr(places, "_GAP", data.draw(st.sampled_from((0, 16, 2**15)), label="gap"))
        assert same(source.read(name, index), tensors[name][index])


@pytest.mark.parametrize(
    "index",
    [(), (slice(None),), (slice(None),) * 3, slice(None), [slice(None)] * 2, (0, 0), (slice(None), slice(0, 34)),
     (slice(None), slice(-1, 3)), (slice(3, 2), slice(None)), (slice(None, None, 2), slice(None)),
     (slice("a"), slice(None)), (slice(1.0), slice(None))],
)  # fmt: skip
def test_a_box_that_the_tensor_does_not_have(index: Any, boxes: tuple[Path, dict[str, Tensor]]) -> None:
    with open_source(boxes[0]) as source, pytest.raises(SpecError, match="index for 'm' must"):
        source.read("m", index)


@pytest.mark.parametrize("name", ["no", None, 3])
def test_a_name_that_is_not_there(name: Any, boxes: tuple[Path, dict[str, Tensor]]) -> None:
    with open_source(boxes[0]) as source, pytest.raises(SpecError, match=r"boxes\.safetensors has no tensor"):
        source.read(name)


# -- what is refused ---------------------------------------------------------------------------------------------------


def written(path: Path, header: Any, size: int, *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + bytes(size))
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def _twice(other: str) -> bytes:
    """A header with two tensors of one name over the same bytes."""
    first = '"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
    return f'{{{first}, "a": {{{other}, "data_offsets": [0, 8]}}}}'.encode()


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"a": entry()}, 7, r"is truncated: it has \d+ bytes, and its header describes \d+"),
        ({"a": entry()}, 9, "has bytes that belong to no tensor"),
        ({"a": entry("F6_E2M3")}, 8, "tensor 'a' has the dtype 'F6_E2M3', expected one of F64, "),
        ({"a": entry(shape=[3])}, 8, "tensor 'a' has 8 bytes, expected 12 for F32 of the shape 3$"),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "the bytes of tensor 'b' begin at 4, expected 8"),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "the bytes of tensor 'b' begin at 12, expected 8"),
        ({"a": entry(offsets=(8, 0))}, 8, "the bytes of tensor 'a' begin at 8, expected 0"),
        ({"a": entry(offsets=(-8, 0))}, 8, "the header is wrong at 'a'.*>= 0"),
        ({"a": entry(shape=[-2])}, 8, "the header is wrong at 'a'.*>= 0"),
        ({"a": entry(shape=[2**63])}, 8, "the header is wrong at 'a'"),
        ({"a": entry(shape=[0, 2**62, 2**62], offsets=(0, 0))}, 0, "which is too large"),
        ({"a": entry(shape=[1] * 1025)}, 4, "the header is wrong at 'a'"),
        ({"a": entry() | {"more": 1}}, 8, "the header is wrong at 'a'.*unknown field `more`"),
        ({"a\x1b[2J": 1}, 0, r"the header is wrong at 'a\\x1b\[2J'"),
        ({"__metadata__": {"a": 1}}, 0, "the header is wrong at '__metadata__'"),
        ([1], 0, "is no safetensors file: its header cannot be read"),
        (b"[" * 1000, 0, "nested more than 100"),
        (_twice('"dtype": "F32", "shape": [2]'), 8, "has the name 'a' twice in one object"),
        (_twice('"dtype": "I32", "shape": [2]'), 8, "has the name 'a' twice in one object"),
        (
            b'{"a": {"dtype": "F32", "shape": [1], "shape": [2], "data_offsets": [0, 8]}}',
            8,
            "has the name 'shape' twice",
        ),
        (b"\xff", 0, "is no safetensors file"),
    ],
)
def test_a_header_that_does_not_hold_together(header: Any, size: int, message: str, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", header, size)
    with pytest.raises(CheckpointError, match=rf"(?s)a\.safetensors: .*{message}") as caught:
        open_source(path)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("length", [0, 1, 10**8, 10**8 + 1, 2**63, 2**64 - 1])
def test_a_length_that_no_header_has(length: int, tmp_path: Path) -> None:
    path = written(tmp_path / "a.safetensors", {"a": entry()}, 8, length=length)
    with pytest.raises(CheckpointError, match="no safetensors file"):
        open_source(path)


def test_a_file_that_is_cut_anywhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "whole.safetensors"
    save_file({"a": torch.arange(6.0), "b": torch.arange(3)}, path)
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"whole\.safetensors: .*(truncated|no safetensors file)"):
            open_source(path)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


def rewrite(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content)
    os.utime(path, ns=(0, 0))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


@pytest.mark.parametrize("change", [grow, rewrite, cut])
def test_a_file_that_changes_is_named(change: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "changing.safetensors"
    save_file({"a": torch.arange(6.0)}, path)
    with open_source(path) as source:
        source.read("a")
        change(path)
        with pytest.raises(CheckpointError, match=r"changing\.safetensors changed while it was in use; open it again"):
            source.read("a")


def test_another_file_in_its_place_is_not_read(tmp_path: Path) -> None:
    path, other = tmp_path / "replaced.safetensors", tmp_path / "other"
    save_file({"a": torch.arange(6.0)}, path)
    with open_source(path) as source:
        save_file({"a": torch.zeros(6)}, other)
        other.rename(path)
        assert torch.equal(source.read("a"), torch.arange(6.0))


def test_nothing_is_read_of_a_closed_source(boxes: tuple[Path, dict[str, Tensor]]) -> None:
    source = open_source(boxes[0])
    source.close()
    source.close()
    with pytest.raises(CheckpointError, match=r"boxes\.safetensors is closed"):
        source.read("m")


def test_special_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match=r"pipe\.safetensors cannot be read: is a pipe"):
        open_source(tmp_path / "pipe.safetensors")
    with pytest.raises(CheckpointError, match=r"none\.safetensors does not exist"):
        open_source(tmp_path / "none.safetensors")
    with pytest.raises(CheckpointError, match="no file can have this name"):
        open_source("a\0b.safetensors")


@pytest.mark.parametrize("source", [None, 5, [torch.ones(2)], object(), "", b"a.pt"])
def test_what_is_no_source(source: Any) -> None:
    with pytest.raises(SpecError, match=r"^old must be a state dict, a module, or the path of a file or folder, got"):
        open_source(source, what="old")
