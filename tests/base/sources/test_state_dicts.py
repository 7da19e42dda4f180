"""State dicts and modules as sources, and what holds for every kind of source: memory, threads."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.helpers.sources import of_bytes, same
from zeta.base.sources import Source, TensorInfo, open_source
from zeta.errors import SpecError


def test_a_state_dict_is_viewed() -> None:
    state = {"a": torch.arange(12.0).reshape(3, 4), "t": torch.arange(6).reshape(2, 3).T}
    with open_source(state) as source:
        assert source.origin == "the state dict"
        assert source.tensors == {"a": TensorInfo((3, 4), torch.float32), "t": TensorInfo((3, 2), torch.int64)}
        assert source.read("a").data_ptr() == state["a"].data_ptr()
        assert same(source.read("t"), state["t"])
        assert same(source.read("t", (slice(1, 3), slice(0, 1))), state["t"][1:3, :1])
        assert repr(source) == "<StateDict: 2 tensors of the state dict>"


def test_a_module() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    with open_source(model) as source:
        assert source.origin == "the state dict of a Sequential"
        assert list(source.tensors) == list(model.state_dict())
        weight = source.read("0.weight")
        assert same(weight, model[0].weight.detach())
        assert not weight.requires_grad


def test_marks_are_resolved() -> None:
    value = torch.randn(3, dtype=torch.complex64)
    with open_source({"conj": value.conj(), "neg": value.conj().imag}) as source:
        assert same(source.read("conj"), torch.view_as_complex(torch.view_as_real(value) * torch.tensor([1.0, -1.0])))
        assert not source.read("conj").is_conj()
        assert not source.read("neg").is_neg()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            {"model": {"w": torch.ones(2)}, "step": 3},
            r"^old must .* dictionaries: 'model'; .* such as state\['model'\]",
        ),
        ({"w": 3}, "^old has what cannot be read:\n  - 'w': is 3, expected a tensor"),
        ({3: torch.ones(2)}, "3: the name is no text"),
        ({"\ud800": torch.ones(2)}, r"'\\ud800': the name is .* not valid Unicode"),
        ({"w": torch.ones(2, device="meta")}, "'w': is on meta and has no values"),
        ({"w": nn.UninitializedParameter()}, "'w': is lazy and has no shape; run the model once"),
        ({"w": torch.ones(2).to_sparse()}, "'w': is sparse_coo or quantized; make it dense"),
        ({"\x1b[2J": 3}, r"'\\x1b\[2J': is 3"),
    ],
)
def test_what_is_no_state_dict(state: Any, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        open_source(state, what="old")


def test_extra_state_is_left_out() -> None:
    assert list(open_source({"a.weight": torch.ones(2), "a._extra_state": {"x": 1}}).tensors) == ["a.weight"]


# -- every kind --------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["safetensors", "pt", "distributed", "state dict"])
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A source with the tensors ``VALUES``."""
    match request.param:
        case "safetensors":
            save_file(VALUES, tmp_path / "a.safetensors")
            return tmp_path / "a.safetensors"
        case "pt":
            torch.save(VALUES, tmp_path / "a.pt")
            return tmp_path / "a.pt"
        case "distributed":
            dcp.save(dict(VALUES), checkpoint_id=tmp_path / "d", no_dist=True)
            return tmp_path / "d"
    return VALUES


VALUES: dict[str, Tensor] = {f"t{i}": of_bytes(torch.float32, 64, 33, seed=i) for i in range(8)}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
def test_several_threads_read_at_once(kind: Any) -> None:
    def read(job: int, source: Source) -> bool:
        name, at = f"t{job % 8}", job % 50
        index = (slice(at, at + 9), slice(job % 7, 30))
        return same(source.read(name, index), VALUES[name][index])

    with open_source(kind) as source, ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda job: read(job, source), range(400)))


TILES = """
import sys
import torch
from zeta.base.sources import open_source
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
torch.ones(1)
with open_source(sys.argv[1]) as source:
    source.read("small")
    before = peak()
    rows, columns = source.tensors["large"].shape
    total = 0.0
    for i in range(0, rows, 500):
        total += float(source.read("large", (slice(i, min(i + 500, rows)), slice(0, columns)))[0, 0])
    for j in range(0, columns, 250):  # runs with gaps
        for i in range(0, rows, 15_000):
            total += float(source.read("large", (slice(i, i + 15_000), slice(j, j + 250)))[0, 0])
    print(peak() - before, total)
"""


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled, unavailable or uninitialized")
@pytest.mark.parametrize("ending", ["safetensors", "pt", "distributed"])
def test_a_tensor_of_300_megabytes_is_read_in_less_than_64(ending: str, tmp_path: Path) -> None:
    rows, columns = 75_000, 1000
    state = {"small": torch.ones(3), "large": torch.ones(rows, columns)}
    path = tmp_path / f"large.{ending}"
    if ending == "safetensors":
        save_file(state, path)
    elif ending == "pt":
        torch.save(state, path)
    else:
        dcp.save(state, checkpoint_id=path, no_dist=True)
    command = [sys.executable, "-c", TILES, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grown, total = map(float, done.stdout.split())
    assert total == rows // 500 + rows // 15_000 * columns // 250
    assert 1 < grown < 64
