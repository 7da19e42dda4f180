"""Files of ``torch.save`` as sources: values as ``torch.load`` reads them, and nothing in them runs."""

from __future__ import annotations

import io
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.helpers.sources import of_bytes, same
from zeta.base.sources import archives, files, open_source, places
from zeta.base.sources.unpickling import Record, record, unpickle
from zeta.errors import CheckpointError, FormatError


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    path = tmp_path_factory.mktemp("archives") / "some.pt"
    dtypes = sorted(archives.DTYPES, key=str)
    with pytest.MonkeyPatch.context():
        tensors = {str(dtype): of_bytes(dtype, 3, 5, seed=i) for i, dtype in enumerate(dtypes)}
    whole = torch.randn(6, 7, generator=torch.Generator().manual_seed(1))
    tensors |= {
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
        "parameter": nn.Parameter(torch.arange(4.0)),
        "transposed": whole.T,
        "part": whole[1:5, ::2],
        "permuted": of_bytes(torch.int16, 4, 3, 5, 2).permute(2, 0, 3, 1),
        "channels": of_bytes(torch.float32, 2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    }
    torch.save(tensors, path)
    return path, tensors


@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_values_are_those_of_torch(several: tuple[Path, dict[str, Tensor]]) -> None:
    path, tensors = several
    loaded = torch.load(path, weights_only=True)
    with open_source(path) as source:
        assert list(source.tensors) == list(tensors)
        for name, tensor in tensors.items():
            assert source.tensors[name].shape == tensor.shape
            assert same(source.read(name), tensor.detach())
            assert same(source.read(name), loaded[name].detach())


@given(data=st.data())
def test_every_box_of_every_layout(several: tuple[Path, dict[str, Tensor]], data: st.DataObject) -> None:
    path, tensors = several
    name = data.draw(st.sampled_from(["transposed", "part", "permuted", "channels", "torch.complex128"]))
    ends = [(data.draw(st.integers(0, size)), data.draw(st.integers(0, size))) for size in tensors[name].shape]
    index = tuple(slice(min(pair), max(pair)) for pair in ends)
    with pytest.MonkeyPatch.context() as patch, open_source(path) as source:
        for module in (files, places):
            patch.setattr(module, "PIECE", data.draw(st.sampled_from((8, 40, 200, 2**22)), label="piece"))
        patch.setattr(places, "_GAP", data.draw(st.sampled_from((0, 16, 2**15)), label="gap"))
        assert same(source.read(name, index), tensors[name][index])


class Kept(nn.Linear):
    def get_extra_state(self) -> Any:
        return {"scale": 2}

    def set_extra_state(self, state: Any) -> None:
        pass


@pytest.mark.parametrize("ending", ["pt", "pth", "bin", "PT"])
def test_the_state_dict_of_a_module(ending: str, tmp_path: Path) -> None:
    model = nn.Sequential(Kept(3, 2), nn.BatchNorm1d(2))
    torch.save(model.state_dict(), tmp_path / f"model.{ending}")
    with open_source(tmp_path / f"model.{ending}") as source:
        expected = {name: value for name, value in model.state_dict().items() if not name.endswith("_extra_state")}
        assert list(source.tensors) == list(expected)
        assert all(same(source.read(name), value) for name, value in expected.items())


def test_tensors_that_share_a_storage(tmp_path: Path) -> None:
    whole = torch.arange(12.0).reshape(3, 4)
    torch.save({"whole": whole, "tied": whole, "row": whole[1]}, tmp_path / "shared.pt")
    with open_source(tmp_path / "shared.pt") as source:
        assert same(source.read("tied"), whole)
        assert same(source.read("row", (slice(1, 3),)), whole[1, 1:3])


# -- what is refused ---------------------------------------------------------------------------------------------------


class Outside:
    """What a pickle of it does: a call of ``function``."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


class Wrapped(Tensor):
    pass


def wrapped() -> Tensor:
    return torch.ones(2).as_subclass(Wrapped)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"model": {"w": torch.ones(2)}, "optimizer": {}, "step": 3},
         r"has dictionaries, 'model', 'optimizer', .*torch\.load\(path, weights_only=True\)\['model'\]"),
        (torch.ones(2), "has a tensor, expected a state dict"),
        ([torch.ones(2)], "expected a state dict"),
        ({"w": torch.ones(2), "step": 3, 5: torch.ones(2)}, r"without these:\n  - 'step': 3\n  - 5: a tensor$"),
        ({"\ud800": torch.ones(2)}, r"has not only tensors by name.*\n  - '\\ud800': a tensor$"),
        ({"w": torch.ones(2).to_sparse()}, "names 'torch._utils._rebuild_sparse_tensor', which plain tensors do not"),
        ({"w": torch.ones(1).expand(5)}, "tensor 'w' has elements that share memory; save its contiguous"),
        ({"w": torch.ones(2, dtype=torch.complex64).conj()}, "has a tensor with the marks {'conj': True}"),
        ({"w": torch.zeros(2, dtype=torch.uint8).view(torch.bits8)}, "names 'torch.bits8'"),
        ({"w": nn.Linear(2, 2)}, "names 'torch.nn.modules.linear.Linear', .*nothing of it was run"),
        ({"w": set()}, "names '(builtins|__builtin__).set'"),
    ],
)  # fmt: skip
def test_what_is_no_state_dict_of_plain_tensors(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=rf"odd\.pt: .*{message}"):
        open_source(tmp_path / "odd.pt")


def test_a_tensor_of_another_class(tmp_path: Path) -> None:
    torch.save({"w": wrapped()}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt: names '.*Wrapped', which plain tensors do not need"):
        open_source(tmp_path / "odd.pt")


@pytest.mark.parametrize("protocol", [2, 4])
def test_nothing_in_a_file_runs(protocol: int, tmp_path: Path) -> None:
    made = tmp_path / "made"
    for function in (os.system, exec, eval, os.mkdir):
        texts = {os.mkdir: str(made), os.system: f"touch {made}"}
        argument = texts.get(function, f"open({str(made)!r}, 'w')")
        torch.save({"w": Outside(function, argument)}, tmp_path / "bad.pt", pickle_protocol=protocol)
        with pytest.raises(CheckpointError, match=r"bad\.pt: names '\w+\.\w+', which .*; nothing of it was run; "):
            open_source(tmp_path / "bad.pt")
        assert not made.exists()


def test_the_format_before_archives(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"old\.pt: is no zip archive.*torch\.load\(path, weights_only=True\)"):
        open_source(tmp_path / "old.pt")


def test_a_script_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as file:
        file.writestr("script/data.pkl", b"\x80\x02c__torch__\nModel\n.")
    with pytest.raises(CheckpointError, match=r"names '__torch__\.Model'"):
        open_source(tmp_path / "script.pt")


def repacked(content: bytes, *, compression: int = zipfile.ZIP_STORED, **changes: bytes | None) -> bytes:
    """An archive with other contents; ``None`` removes one."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(made, "w", compression) as new:
        for name in old.namelist():
            key = name.rpartition("/")[2].replace(".", "_")
            if (text := changes.get(key, old.read(name))) is not None:
                new.writestr(name, text)
    return made.getvalue()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda content: repacked(content, compression=zipfile.ZIP_DEFLATED), "in which '.*' is compressed"),
        (lambda content: repacked(content, byteorder=b"big"), "has bytes in the order b'big', expected b'little'"),
        (lambda content: repacked(content, **{"0": None}), "lacks 'data/0'"),
        (lambda content: repacked(content, **{"0": b"1234"}), "in a storage of 4 bytes, expected 8"),
        (lambda content: repacked(content, data_pkl=None), "has no data.pkl"),
        (lambda content: repacked(content, data_pkl=b"junk"), "is no pickle, or is broken"),
        (lambda content: content.replace(b"archive/data/0", b"archive/version"[:14]), "."),
    ],
)  # fmt: skip
def test_archives_that_do_not_hold_together(changed: Callable[[bytes], bytes], message: str, tmp_path: Path) -> None:
    made = io.BytesIO()
    torch.save({"w": torch.ones(2)}, made)
    (tmp_path / "odd.pt").write_bytes(changed(made.getvalue()))
    with pytest.raises(CheckpointError, match=rf"odd\.pt: .*{message}"):
        open_source(tmp_path / "odd.pt")


def test_an_archive_that_is_cut_anywhere_is_named(tmp_path: Path) -> None:
    path = tmp_path / "whole.pt"
    torch.save({"a": torch.arange(600.0), "b": torch.arange(3)}, path)
    content = path.read_bytes()
    for size in (*range(0, len(content), 37), *range(len(content) - 60, len(content))):
        path.write_bytes(content[:size])
        with pytest.raises(CheckpointError, match=r"whole\.pt: .*(truncated|no zip archive)"):
            open_source(path)


def test_a_tensor_that_ends_after_its_storage(tmp_path: Path) -> None:
    made = io.BytesIO()
    torch.save({"w": torch.ones(8)[:5]}, made)
    text = zipfile.ZipFile(made).read("archive/data.pkl")
    (tmp_path / "odd.pt").write_bytes(repacked(made.getvalue(), data_pkl=text.replace(b"K\x05\x85", b"K\x09\x85")))
    with pytest.raises(CheckpointError, match="tensor 'w' ends after its storage of 32 bytes"):
        open_source(tmp_path / "odd.pt")


# -- pickles as data ---------------------------------------------------------------------------------------------------


def test_a_pickle_of_data_is_read() -> None:
    value = {"a": [1, -2, 2**40, 0.5, True, None, "é"], "b": ((), (1,), (1, 2, 3)), 3: {}}
    for protocol in range(2, 6):
        assert unpickle(pickle.dumps(value, protocol), {}) == value
    assert unpickle(pickle.dumps([b"x", b"y" * 300], 4), {}) == [b"x", b"y" * 300]


def test_objects_become_records() -> None:
    text = pickle.dumps(Outside(OrderedDict, [("a", 1)]), 2)
    with pytest.raises(FormatError, match=r"names 'collections\.OrderedDict'"):
        unpickle(text, {})
    found = unpickle(text, {("collections", "OrderedDict"): record("it")})
    assert isinstance(found, Record)
    assert (found.kind, found.arguments, repr(found)) == ("it", ([("a", 1)],), "<it>")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is no pickle"),
        (b"\x80\x02", "is no pickle"),
        (b"\x80\x02}(K\x01K\x02\x86K\x03u.", r"a dictionary with the key \(1, 2\)"),
        (b"\x80\x02]K\x01K\x02s.", "sets items of"),
        (b"\x80\x02}K\x01a.", "appends to"),
        (b"\x80\x02}}b.", "gives state to"),
        (b"\x80\x02K\x01)R.", "makes an object of what is no class"),
        (b"\x80\x02ca\nb\n}b.", "gives state to"),
        (b"\x80\x02ca\nb\n}R.", "makes an object of what is no class"),
        (b"\x80\x02Nr\xff\xff\xff\x7f.", "^$"),
        (b"\x80\x02\x8e" + struct.pack("<Q", 2**40) + b".", "is no pickle"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "is no pickle"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".", "is no pickle"),
        (b"cos\nsystem\n.", "names 'os.system'"),
        (b"\x80\x02(ios\nsystem\n.", "is no pickle"),
        (b"\x80\x02X\x01\x00\x00\x00aQ.", "refers to data outside"),
    ],
)
def test_operations_that_data_does_not_need(text: bytes, message: str) -> None:
    table = {("a", "b"): record("a")}
    if message == "^$":
        assert unpickle(text, table) is None  # in C, this reserves 32 GiB
        return
    with pytest.raises(FormatError, match=message):
        unpickle(text, table)


def test_tuples_of_tuples_are_never_hashed() -> None:
    """Each level doubles the time."""
    text = b"\x80\x02}K\x01q\x00" + b"h\x00\x86q\x00" * 60 + b"K\x01s."
    begin = time.process_time()
    with pytest.raises(FormatError, match="a dictionary with the key"):
        unpickle(text, {})
    assert time.process_time() - begin < 5
