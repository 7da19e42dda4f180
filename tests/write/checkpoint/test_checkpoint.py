"""Writing a checkpoint: which bytes are in the files, what the manifest says, and that a failure leaves no trace."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import struct
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import zeta
from tests.helpers.layers import raw
from zeta import Rule, Rules
from zeta.compute import sampling
from zeta.initializers import Keep, Normal, Orthogonal, Uniform, Zeros
from zeta.write.checkpoint import save as checkpoint

UNIFORM = Rules([Rule("*", Uniform(-1.0, 1.0))])
RULES = Rules([Rule("body.weight", Orthogonal()), Rule("kept", Keep()), Rule("*", Normal(0.5, 0.25))])


class Net(nn.Module):
    """Ties, a padding row, several tiles, every element size, kept parameters, buffers that are saved and not."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = nn.Parameter(torch.zeros(3, dtype=torch.float8_e5m2))
        self.emb = nn.Embedding(70, 1000, padding_idx=2)
        self.body = nn.Linear(6, 4)
        self.half = nn.Linear(3, 5).bfloat16()
        self.wide = nn.Linear(3, 3).double()
        self.norm = nn.BatchNorm1d(4)
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.scalar = nn.Parameter(torch.zeros(()))
        self.twins = nn.Parameter(torch.zeros(3, dtype=torch.complex64))
        self.kept = nn.Parameter(torch.tensor([math.nan, -0.0, 1.5]).repeat(2, 1).t())
        self.head = nn.Linear(1000, 70, bias=False)
        self.head.weight = self.emb.weight
        self.register_buffer("steps", torch.tensor([[1, -(2**62)]]))
        self.register_buffer("mask", torch.tensor([True, False]))
        self.register_buffer("cache", torch.ones(7), persistent=False)


def save(model: nn.Module, folder: Path, rules: Rules = RULES, **options: Any) -> zeta.Report:
    return zeta.save(model, zeta.plan(model, rules), folder, **{"seed": 0, **options})


def bits(tensors: dict[str, Tensor]) -> dict[str, tuple[torch.dtype, tuple[int, ...], bytes]]:
    return {name: (value.dtype, tuple(value.shape), raw(value)) for name, value in tensors.items()}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


# -- the tensors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 2**64 - 1])
def test_the_file_has_the_bits_of_an_initialized_model(seed: int, tmp_path: Path) -> None:
    model = Net()
    untouched = bits(model.state_dict())
    save(model, tmp_path, seed=seed)
    assert bits(model.state_dict()) == untouched
    zeta.init_(model, RULES, seed=seed)
    assert bits(load_file(tmp_path / "model.safetensors")) == bits(model.state_dict())
    other = Net()
    other.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert bits(other.state_dict()) == bits(model.state_dict())


def test_a_plan_of_another_dtype_rounds_the_same_values(tmp_path: Path) -> None:
    model = Net()
    zeta.save(model, zeta.plan(model, RULES), tmp_path, dtype=torch.bfloat16, seed=0)
    model = model.bfloat16()
    model.bytes.data = model.bytes.bfloat16()
    zeta.init_(model, RULES, seed=0)
    assert bits(load_file(tmp_path / "model.safetensors")) == bits(model.state_dict())


def test_the_bytes_are_as_the_format_says(tmp_path: Path) -> None:
    """No gap, no overlap, each tensor aligned to its elements, each name once."""
    save(Net(), tmp_path)
    header, data = header_of(tmp_path / "model.safetensors")
    assert header.pop("__metadata__") == {"format": "pt"}
    assert set(header) == set(Net().state_dict())
    position = 0
    for name, item in sorted(header.items(), key=lambda pair: pair[1]["data_offsets"]):
        value = Net().state_dict()[name]
        assert item["data_offsets"] == [position, position + value.nbytes], name
        assert item["shape"] == list(value.shape)
        assert position % value.element_size() == 0, name
        position += value.nbytes
    assert position == len(data)
    assert ((tmp_path / "model.safetensors").stat().st_size - len(data)) % 8 == 0
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_two_runs_and_a_model_on_meta_give_the_same_files(tmp_path: Path) -> None:
    def layers(device: str) -> nn.Module:
        return nn.ModuleDict({"b": nn.Linear(300, 300, device=device), "a": nn.Conv2d(3, 4, 3, device=device)})

    for name, device in (("one", "cpu"), ("two", "cpu"), ("meta", "meta")):
        model = layers(device)
        save(model, tmp_path / name, UNIFORM, seed=5)
        assert {parameter.device.type for parameter in model.parameters()} == {device}
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "meta")


@pytest.mark.parametrize(("drop_ties", "missing"), [(False, set()), (True, {"head.weight"})])
def test_ties_are_stored_under_every_name_or_once(
    drop_ties: bool, missing: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "TILE_BYTES", 2**16)  # a repeated tensor is written in many pieces
    model = Net()
    save(model, tmp_path, drop_ties=drop_ties)
    zeta.init_(model, RULES, seed=0)
    expected = {name: value for name, value in model.state_dict().items() if name not in missing}
    assert bits(load_file(tmp_path / "model.safetensors")) == bits(expected)
    assert zeta.verify(tmp_path).ok


@pytest.mark.parametrize("drop_ties", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_transformers_loads_it(name: str, drop_ties: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if name == "gpt2":
        sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 16, "n_positions": 8}
        config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
        kind = transformers.GPT2LMHeadModel
    else:
        config = transformers.T5Config(d_model=8, d_kv=4, d_ff=16, num_layers=1, num_heads=2, vocab_size=16)
        kind = transformers.T5ForConditionalGeneration
    model = kind(config)
    save(model, tmp_path, UNIFORM, seed=3, drop_ties=drop_ties)
    loaded, notes = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(notes.values()), notes
    zeta.init_(model, UNIFORM, seed=3)
    assert bits(loaded.state_dict()) == bits(model.state_dict())
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight


def test_no_more_than_a_tile_for_each_thread_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, lock, sizes, alive, most = sampling.fill_, threading.RLock(), [], 0, 0

    def change(size: int) -> None:
        nonlocal alive, most
        with lock:
            alive += size
            most = max(most, alive)

    def counted(requests: Sequence[sampling.Request]) -> None:
        for request in requests:
            sizes.append(request.outs[0].nbytes)
            weakref.finalize(request.outs[0], change, -request.outs[0].nbytes)
            change(request.outs[0].nbytes)
        original(requests)

    monkeypatch.setattr(sampling, "fill_", counted)
    monkeypatch.setattr(checkpoint, "TILE_BYTES", 2**16)
    monkeypatch.setattr(sampling, "TILE_BYTES", 2**16)
    model = nn.ModuleDict({"a": nn.Linear(1500, 1500, device="meta"), "b": nn.Linear(9, 300_000, device="meta")})
    zeros = Rule("a.bias", Zeros())  # comes to the threads drawn; they draw the others
    save(model, tmp_path, Rules([zeros, *UNIFORM]))
    assert sum(sizes) == 4 * (1501 * 1500 + 10 * 300_000)
    assert most <= (torch.get_num_threads() + 2) * 2**16


def test_the_report_is_that_of_an_initialized_model(tmp_path: Path) -> None:
    model = Net()
    del model.empty
    saved, applied = save(model, tmp_path), zeta.init_(model, RULES, seed=0)
    assert (saved.kept, saved.ok, saved.seed) == (applied.kept, True, 0)
    assert {item.name for item in saved} == {item.name for item in applied}
    for one in saved:
        two = applied[one.name]
        assert (one.count, one.low, one.high) == (two.count, two.low, two.high)
        assert (one.mean, one.std) == pytest.approx((two.mean, two.std), rel=1e-9)
    assert saved.nbytes == sum({value.data_ptr(): value.nbytes for value in model.state_dict().values()}.values())


def test_the_report_has_every_parameter_in_the_order_of_the_model(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(1).bfloat16(), "b": torch.zeros(1), "c": torch.zeros(0, 3)}
    model = nn.ParameterDict(tensors)
    names = [item.name for item in zeta.init_(model, UNIFORM, seed=0)]
    assert [item.name for item in save(model, tmp_path, UNIFORM)] == names == ["a", "b", "c"]


def test_progress_counts_every_byte_of_the_file_once(tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    save(Net(), tmp_path, progress=lambda *call: calls.append(call))
    total = len(header_of(tmp_path / "model.safetensors")[1])
    assert {call[2] for call in calls} == {total}
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)
    assert calls[-1][1] == total
    assert {call[0] for call in calls} == set(Net().state_dict())


@pytest.mark.parametrize("view", [lambda: torch.tensor([1 + 2j]).conj(), lambda: torch._neg_view(torch.ones(2))])
def test_a_kept_view_is_stored_with_the_values_that_it_shows(view: Callable[[], Tensor], tmp_path: Path) -> None:
    model = nn.ParameterDict({"w": view()})
    save(model, tmp_path, Rules([Rule("*", Keep())]))
    assert torch.equal(load_file(tmp_path / "model.safetensors")["w"], model["w"])


def test_odd_names(tmp_path: Path) -> None:
    names = ["重み", 'a"b\\', "a\nb", "\0", "\U0001f600", " ", "x" * 300]
    model = nn.ParameterDict({name: torch.zeros(2) for name in names})
    save(model, tmp_path / "重み b", UNIFORM)
    zeta.init_(model, UNIFORM, seed=0)
    assert bits(load_file(tmp_path / "重み b" / "model.safetensors")) == bits(model.state_dict())
    assert zeta.verify(tmp_path / "重み b").ok


def test_unsigned_integers(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    for size in (16, 32, 64):
        model.register_buffer(f"u{size}", torch.tensor([1, 2], dtype=getattr(torch, f"uint{size}")))
    save(model, tmp_path, UNIFORM)
    zeta.init_(model, UNIFORM, seed=0)
    assert bits(load_file(tmp_path / "model.safetensors")) == bits(model.state_dict())


# -- the manifest ------------------------------------------------------------------------------------------------------


def test_the_manifest(tmp_path: Path) -> None:
    model = Net()
    plan = zeta.plan(model, RULES)
    zeta.save(model, plan, tmp_path, 2**64 - 1, drop_ties=True, model_name="nets.py:Net")
    text = (tmp_path / "zeta.json").read_text(encoding="utf-8")
    kept = {"kept": model.kept, "steps": model.steps, "mask": model.mask}
    assert json.loads(text) == {
        "format": "zeta manifest 1",
        "seed": 2**64 - 1,
        "stream": 1,
        "model": "nets.py:Net",
        "versions": {
            "zeta": zeta.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "drop_ties": True,
        "max_shard_size": 50_000_000_000,
        "kept_sha256": {name: hashlib.sha256(raw(value)).hexdigest() for name, value in kept.items()},
        "settings": {},
        "plan": json.loads(plan.to_json()),
    }
    assert zeta.Plan.from_json(json.dumps(json.loads(text)["plan"])) == plan


def test_a_seed_drawn_from_torch_is_recorded(tmp_path: Path) -> None:
    torch.manual_seed(1)
    seed = save(nn.Linear(2, 2), tmp_path, UNIFORM, seed=None).seed
    torch.manual_seed(1)
    assert zeta.init_(nn.Linear(2, 2), UNIFORM, seed=None).seed == seed
    assert json.loads((tmp_path / "zeta.json").read_text())["seed"] == seed


class Stateful(nn.Module):
    """Its state dictionary has more than tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": 3}

    def set_extra_state(self, state: dict[str, int]) -> None:
        assert state == {"steps": 3}


def test_what_is_no_tensor_is_named(tmp_path: Path) -> None:
    model, plan = zeta.record(lambda: nn.Sequential(Stateful(), nn.Linear(3, 3), Stateful()))
    with pytest.warns(zeta.ZetaNotice, match=r"0\._extra_state, 2\._extra_state: what get_extra_state gives") as said:
        zeta.save(model, plan, tmp_path, seed=0)
    assert said[0].filename == __file__
    missing, unexpected = zeta_free(model).load_state_dict(load_file(tmp_path / "model.safetensors"), strict=False)
    assert missing == ["0._extra_state", "2._extra_state"]
    assert unexpected == []


def zeta_free(model: nn.Module) -> nn.Module:
    return model.to_empty(device="cpu")
