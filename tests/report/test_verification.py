"""Computing everything again: what is found, in a model and in a folder, and how it is named."""

from __future__ import annotations

import copy
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import zeta
from tests.helpers.layers import raw, state
from zeta import Rule, Rules, Verification
from zeta.errors import CheckpointError, LayerTypeError, PlanError, SpecError
from zeta.initializers import Constant, Keep, Normal, Orthogonal, Uniform, Zeros
from zeta.report.verifying import folders

NORMAL = Rules([Rule("*", Normal(0.5, 0.25))])
RULES = Rules([Rule("ortho.weight", Orthogonal()), Rule("kept", Keep()), Rule("*.bias", Zeros()), *NORMAL])
DTYPES = [
    *(torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.complex64, torch.complex128),
]


class Net(nn.Module):
    """Two layers of one shape, a tie, a padding row, statistics, a kept parameter and a kept buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(5, 4, padding_idx=1)
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.ortho = nn.Linear(4, 4, bias=False)
        self.norm = nn.BatchNorm1d(4)
        self.low = nn.Parameter(torch.zeros(2, 3).bfloat16())
        self.kept = nn.Parameter(torch.tensor([[1.0, 2.0, 3.0]]))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.emb.weight
        self.register_buffer("steps", torch.arange(3))


def flip(tensor: Tensor, position: int, bit: int = 0) -> None:
    """Flip one bit of the element at a row-major position; bit 0 is the lowest."""
    byte, bit = divmod(bit, 8)
    tensor.detach().view(-1).view(torch.uint8)[position * tensor.element_size() + byte] ^= 1 << bit


def found(result: Verification) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Name -> number of differing elements and the first of them."""
    assert not result.ok
    return {item.name: (item.count, item.first) for item in result.differences}


# -- a model -----------------------------------------------------------------------------------------------------------


def written(seed: int = 3, **changes: Any) -> tuple[Net, zeta.Plan]:
    model = Net()
    plan = zeta.plan(model, RULES)
    zeta.apply_(model, plan, seed, **changes)
    return model, plan


def test_a_model_as_it_was_written() -> None:
    model, plan = written()
    before, rng = state(model), torch.get_rng_state()
    result = zeta.verify(model, plan, 3)
    assert (result.ok, result.seed, result.differences, result.problems) == (True, 3, (), ())
    assert set(result.kept) == {"kept", "steps"}
    assert result.compared == len(plan) - 2
    assert str(result) == "verified: 12 tensors equal, bit by bit, those of seed 3, 2 kept and not compared"
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_flipped_bit_of_any_dtype_is_found_and_named(dtype: torch.dtype) -> None:
    model = nn.ModuleDict({"a": nn.Linear(7, 6), "b": nn.Linear(2, 2)})
    model["a"].weight = nn.Parameter(torch.zeros(6, 7, dtype=dtype))
    plan = zeta.plan(model, NORMAL)
    zeta.apply_(model, plan, 1)
    assert zeta.verify(model, plan, 1).ok
    for position, bit in ((0, 0), (25, 8 * dtype.itemsize - 1), (41, 4)):
        good = model["a"].weight.detach().view(-1)[position].item()
        flip(model["a"].weight, position, bit)
        result = zeta.verify(model, plan, 1)
        assert found(result) == {"a.weight": (1, divmod(position, 7))}
        bad = model["a"].weight.detach().view(-1)[position].item()
        for shown, value in ((result.differences[0].found, bad), (result.differences[0].expected, good)):
            number = torch.tensor(complex(shown), dtype=torch.complex128)
            assert str((number if dtype.is_complex else number.real).to(dtype).item()) == str(value)
            assert len(shown) <= len(str(value))
        flip(model["a"].weight, position, bit)


def test_numbers_have_the_digits_of_their_dtype() -> None:
    layer = nn.Linear(2, 2)
    plan = zeta.plan(layer, Rules([Rule("*", Constant(0.1))]))
    zeta.apply_(layer, plan, 0)
    layer.weight.data[0, 1] = 0.3
    assert str(zeta.verify(layer, plan, 0)).startswith(
        "weight: 1 element(s) differ, first at [0, 1]: found 0.3, expected 0.1\n"
    )


def test_another_seed_is_guessed() -> None:
    model, plan = written()
    remark = "every random tensor differs, and all others are equal: these are the values of another seed"
    result = zeta.verify(model, plan, 4)
    assert result.remark.startswith(remark)
    assert str(result).splitlines()[-2] == result.remark
    assert result.remark in result._repr_html_()
    zeta.apply_(model, plan, 4, only="one.*")
    assert not zeta.verify(model, plan, 4).remark, "one tensor is that of the seed"
    model, _ = written()
    with torch.no_grad():
        model.one.bias += 1
    assert not zeta.verify(model, plan, 4).remark, "a constant differs"
    assert not zeta.verify(model, plan, 3).remark


LINEAR = nn.Linear(9, 5, bias=False)
LINEAR_PLAN = zeta.plan(LINEAR, NORMAL)
zeta.apply_(LINEAR, LINEAR_PLAN, 7)


@given(st.integers(0, 44), st.integers(0, 31))
def test_any_bit_counts(position: int, bit: int) -> None:
    layer = copy.deepcopy(LINEAR)
    flip(layer.weight, position, bit)
    assert found(zeta.verify(layer, LINEAR_PLAN, 7)) == {"weight": (1, divmod(position, 9))}


def test_differences_are_counted_in_every_tile_and_the_first_is_told() -> None:
    """A tile has 2^16 elements; changes lie on both sides of each edge."""
    layer = nn.Linear(1024, 200, bias=False)
    plan = zeta.plan(layer, Rules([Rule("*", Uniform(-1.0, 1.0))]))
    zeta.apply_(layer, plan, seed=0)
    places = (65_535, 65_536, 131_071, 131_072, 204_799)
    for position in places:
        flip(layer.weight, position)
    result = zeta.verify(layer, plan, 0)
    assert found(result) == {"weight": (5, (63, 1023))}
    assert str(result).startswith("weight: 5 element(s) differ, first at [63, 1023]: found ")
    for position in places[:3]:
        flip(layer.weight, position)
    assert found(zeta.verify(layer, plan, 0)) == {"weight": (2, (128, 0))}


def test_a_zero_has_a_sign_and_a_nan_is_not_itself() -> None:
    model, plan = written()
    with torch.no_grad():
        model.one.bias[2] = -0.0
        model.emb.weight[1, 3] = -0.0
        model.two.bias[0] = torch.nan
    expected = {"one.bias": (1, (2,)), "emb.weight": (1, (1, 3)), "two.bias": (1, (0,))}
    assert found(zeta.verify(model, plan, 3)) == expected


Change = Callable[[Net], Any]
CHANGES: dict[str, tuple[Change, set[str]]] = {
    "swapped": (lambda m: swap(m.one, m.two), {"one.weight", "two.weight"}),
    "transposed": (lambda m: m.one.weight.copy_(m.one.weight.t().clone()), {"one.weight"}),
    "scaled": (lambda m: m.low.mul_(-1), {"low"}),
    "rounded": (lambda m: m.two.weight.copy_(m.two.weight.bfloat16()), {"two.weight"}),
    "orthogonal": (lambda m: m.ortho.weight.neg_(), {"ortho.weight"}),
    "a statistic": (lambda m: m.norm.running_var.fill_(2), {"norm.running_var"}),
    "a counter": (lambda m: m.norm.num_batches_tracked.add_(1), {"norm.num_batches_tracked"}),
    "the tied name": (lambda m: m.head.weight.mul_(2), {"emb.weight"}),
}


def swap(one: nn.Linear, two: nn.Linear) -> None:
    one.weight, two.weight = two.weight, one.weight


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_model(what: str) -> None:
    model, plan = written()
    change, names = CHANGES[what]
    with torch.no_grad():
        change(model)
    assert set(found(zeta.verify(model, plan, 3))) == names


def test_what_is_kept_may_be_anything() -> None:
    model, plan = written()
    with torch.no_grad():
        model.kept.fill_(9), model.steps.fill_(9)
    assert zeta.verify(model, plan, 3).ok


def test_another_seed() -> None:
    model, plan = written()
    drawn = {entry.name for entry in plan if entry.std}
    assert set(found(zeta.verify(model, plan, 4))) == drawn
    assert len(drawn) == 6


def test_missing_surplus_and_reshaped_parameters_are_named() -> None:
    model, plan = written()
    model.one, model.new = nn.Linear(3, 4), nn.Linear(2, 2, bias=False)
    del model.two
    with pytest.raises(PlanError) as caught:
        zeta.verify(model, plan, 3)
    for line in ("- two.weight", "- two.bias", "- new.weight", "- one.weight: planned 4 x 4, found 4 x 3"):
        assert line in str(caught.value)


def test_only_some() -> None:
    model, plan = written(only="one.*")
    result = zeta.verify(model, plan, 3, only="one.*")
    assert (result.ok, result.compared) == (True, 2)
    assert "two.weight" in found(zeta.verify(model, plan, 3))


def test_a_parametrized_weight_is_compared_by_what_it_stores() -> None:
    layer = parametrizations.weight_norm(nn.Linear(4, 3))
    plan = zeta.plan(layer, NORMAL)
    zeta.apply_(layer, plan, 1)
    assert zeta.verify(layer, plan, 1).ok
    flip(layer.parametrizations.weight.original1, 5)
    (name, where), *more = found(zeta.verify(layer, plan, 1)).items()
    assert (name, where, more) == ("weight (stored tensor 1)", (1, (1, 1)), [])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_model_is_held_against_the_values_in_its_own_dtype(dtype: torch.dtype) -> None:
    layer = nn.Linear(4, 3)
    plan = zeta.plan(layer, NORMAL)
    layer.to(dtype)
    zeta.apply_(layer, plan, 1)
    assert zeta.verify(layer, plan, 1).ok
    assert not zeta.verify(layer.float(), plan, 1).ok


def test_a_lost_tie() -> None:
    """``to_empty`` makes one parameter of each name of a tied weight on meta."""
    with torch.device("meta"):
        model = Net()
    plan = zeta.plan(model, Rules([Rule("steps", Keep(), buffers=True), *RULES]))
    model.to_empty(device="cpu")
    with torch.no_grad():
        model.head.weight.fill_(7)
        try:
            zeta.apply_(model, plan, 1)
        except PlanError:
            return
    assert torch.equal(model.head.weight, model.emb.weight) or not zeta.verify(model, plan, 1).ok


def test_other_ties_are_named_before_anything_is_written_or_compared() -> None:
    layers = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    separate = zeta.plan(layers, NORMAL)
    own, layers["b"].weight = layers["b"].weight, layers["a"].weight
    tied, before = zeta.plan(layers, NORMAL), state(layers)
    for verb in (zeta.apply_, zeta.verify):
        for only in (None, "b.weight", "a.weight"):
            with pytest.raises(PlanError, match=r"- b\.weight: planned on its own, found the same tensor as a\.weight"):
                verb(layers, separate, 1, only=only)
        assert verb(layers, separate, 1, only="*.bias") is not None
    del before["a.bias"], before["b.bias"]
    assert before.items() <= state(layers).items()
    layers["b"].weight = own
    for verb in (zeta.apply_, zeta.verify):
        with pytest.raises(PlanError, match=r"- b\.weight: planned as the same tensor as a\.weight, found another"):
            verb(layers, tied, 1)
    del layers["b"].weight
    for verb in (zeta.apply_, zeta.verify):
        with pytest.raises(PlanError, match=r"the model does not have:\n  - b\.weight"):
            verb(layers, tied, 1)


def test_kept_tensors_may_be_tied_or_not() -> None:
    """A shared buffer is several after ``.to(dtype)``; nothing is written to it."""
    model, table = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}), torch.ones(2)
    model["a"].register_buffer("table", table)
    model["b"].register_buffer("table", table)
    plan = zeta.plan(model, NORMAL)
    model.double()
    assert model["a"].table is not model["b"].table
    zeta.apply_(model, plan, 1)
    assert zeta.verify(model, plan, 1).ok


@pytest.mark.parametrize("view", [torch.conj, torch._neg_view])
def test_a_conjugate_or_negative_view(view: Callable[[Tensor], Tensor]) -> None:
    model = nn.ParameterDict({"w": view(torch.zeros(3, dtype=torch.complex64))})
    plan = zeta.plan(model, NORMAL)
    zeta.init_(model, NORMAL, seed=1)
    assert zeta.verify(model, plan, 1).ok
    with torch.no_grad():
        model["w"][2] = 0
    assert found(zeta.verify(model, plan, 1)) == {"w": (1, (2,))}


# -- a folder ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = Net()
    zeta.save(model, zeta.plan(model, RULES), tmp_path, 3)
    return tmp_path


def read(folder: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    data = (folder / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, data = json.loads(data[8 : 8 + length]), data[8 + length :]
    return header, {name: data[slice(*i["data_offsets"])] for name, i in header.items() if name != "__metadata__"}


def rewrite(folder: Path, header: dict[str, Any], tensors: dict[str, bytes]) -> None:
    """Write a well-formed file with the tensors in the header's order."""
    position = 0
    for name, item in header.items():
        if name != "__metadata__":
            item["data_offsets"] = [position, position := position + len(tensors[name])]
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(tensors[name] for name in header if name != "__metadata__")
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_a_folder_as_it_was_written(folder: Path) -> None:
    before = (folder / "model.safetensors").read_bytes()
    rewrite(folder, *read(folder))
    assert (folder / "model.safetensors").read_bytes() == before
    result = zeta.verify(str(folder))
    assert (result.ok, result.seed, set(result.kept)) == (True, 3, {"kept", "steps"})
    assert result.compared == len(Net().state_dict())


@pytest.mark.parametrize("dtype", DTYPES[:-1], ids=str)
def test_one_flipped_bit_in_the_file(dtype: torch.dtype, tmp_path: Path) -> None:
    model = nn.ParameterDict({"a": torch.zeros(3, dtype=dtype), "b": torch.zeros(5, 7, dtype=dtype)})
    zeta.save(model, zeta.plan(model, NORMAL), tmp_path, seed=0)
    assert zeta.verify(tmp_path).ok
    path = tmp_path / "model.safetensors"
    good = path.read_bytes()
    for position, bit in ((0, 0), (20, dtype.itemsize * 8 - 1), (34, 4)):
        data = bytearray(good)
        data[len(good) - (35 - position) * dtype.itemsize + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        assert found(zeta.verify(tmp_path)) == {"b": (1, divmod(position, 7))}


def test_a_file_of_another_program_is_not_compared_and_says_what_to_do(folder: Path) -> None:
    path = folder / "model.safetensors"
    header, tensors = read(folder)
    rewrite(folder, {**header, "__metadata__": {"by": "another program"}}, tensors)
    [problem] = zeta.verify(folder).problems
    assert "another program has written it" in problem
    assert "zeta.verify(model, plan, seed) names those that differ" in problem
    rewrite(folder, header, tensors)
    path.write_bytes(path.read_bytes()[:-1])
    [problem] = zeta.verify(folder).problems
    assert problem == f"model.safetensors: {path.stat().st_size:,} bytes, expected {path.stat().st_size + 1:,}"


def test_a_flipped_bit_in_the_copy_for_a_tied_name(folder: Path) -> None:
    header, tensors = read(folder)
    tensors["head.weight"] = tensors["head.weight"][:-4] + b"good"
    rewrite(folder, header, tensors)
    assert found(zeta.verify(folder)) == {"head.weight": (1, (4, 3))}


@pytest.mark.parametrize("name", ["kept", "steps"])
def test_a_flipped_bit_in_what_was_kept(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "_BLOCK_BYTES", 5)
    assert zeta.verify(folder).ok
    header, tensors = read(folder)
    tensors[name] = tensors[name][:-1] + bytes([tensors[name][-1] ^ 1])
    rewrite(folder, header, tensors)
    result = zeta.verify(folder)
    assert list(found(result)) == [name]
    assert str(result).startswith(f"{name}: found other bytes, expected the kept ones\n"), "the number is not known"
    assert [(one["count"], one["first"]) for one in result.as_dict()["differences"]] == [(None, None)]
    assert "other bytes" in result._repr_html_()


def test_two_tensors_of_one_shape_swapped(folder: Path) -> None:
    header, tensors = read(folder)
    tensors["one.weight"], tensors["two.weight"] = tensors["two.weight"], tensors["one.weight"]
    rewrite(folder, header, tensors)
    assert found(zeta.verify(folder)) == {"one.weight": (16, (0, 0)), "two.weight": (16, (0, 0))}


def test_a_transposed_tensor(folder: Path) -> None:
    header, tensors = read(folder)
    weight = torch.frombuffer(bytearray(tensors["one.weight"]), dtype=torch.float32).view(4, 4)
    tensors["one.weight"] = raw(weight.t())
    rewrite(folder, header, tensors)
    assert found(zeta.verify(folder)) == {"one.weight": (12, (0, 1))}


def renamed(names: dict[str, str]) -> Callable[[dict[str, Any], dict[str, bytes]], Any]:
    return lambda header, tensors: (
        {names.get(name, name): item for name, item in header.items()},
        {names.get(name, name): data for name, data in tensors.items()},
    )


def item(name: str, **changes: Any) -> Callable[[dict[str, Any], dict[str, bytes]], Any]:
    return lambda header, tensors: ({**header, name: {**header.get(name, {}), **changes}}, {"new": b"", **tensors})


HEADERS: dict[str, Callable[[dict[str, Any], dict[str, bytes]], Any]] = {
    "missing": lambda header, tensors: ({n: i for n, i in header.items() if n != "two.bias"}, tensors),
    "surplus": item("new", dtype="F32", shape=[0]),
    "renamed": renamed({"one.weight": "own.weight"}),
    "names swapped": renamed({"one.weight": "two.weight", "two.weight": "one.weight"}),
    "dtype": item("one.weight", dtype="I32"),
    "shape": item("emb.weight", shape=[4, 5]),
    "metadata": item("__metadata__", format="np"),
}


@pytest.mark.parametrize("what", HEADERS)
def test_another_header(what: str, folder: Path) -> None:
    rewrite(folder, *HEADERS[what](*read(folder)))
    result = zeta.verify(folder)
    assert not result.ok
    assert str(result).startswith("model.safetensors: ")
    assert result.as_dict()["problems"] == list(result.problems) != []


def entry(manifest: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in manifest["plan"]["entries"] if entry["name"] == name)


MANIFESTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "seed": lambda m: m.update(seed=4),
    "ties": lambda m: m.update(drop_ties=True),
    "hash": lambda m: m["kept_sha256"].update(kept="0" * 64),
    "no hash": lambda m: m.update(kept_sha256={}),
    "std": lambda m: entry(m, "one.weight")["initializer"].update(std=0.2500001),
    "name": lambda m: entry(m, "one.weight").update(name="eno.weight"),
    "shape": lambda m: entry(m, "emb.weight").update(shape=[4, 5]),
    "dtype": lambda m: entry(m, "one.weight").update(dtype="float16"),
    "padding": lambda m: entry(m, "emb.weight").update(padding_idx=2),
    "order": lambda m: m["plan"]["entries"].reverse(),
    "entry": lambda m: m["plan"]["entries"].pop(0),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_another_manifest(what: str, folder: Path) -> None:
    path = folder / "zeta.json"
    manifest = json.loads(path.read_text())
    before = copy.deepcopy(manifest)
    MANIFESTS[what](manifest)
    assert manifest != before
    path.write_text(json.dumps(manifest))
    assert not zeta.verify(folder).ok


DAMAGE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a value beyond the dtype": lambda m: entry(m, "one.weight")["initializer"].update(mean=1e300),
    "axes without fans": lambda m: entry(m, "ortho.weight")["axes"].update(fan_in=[]),
    "an axis too many": lambda m: entry(m, "ortho.weight")["axes"].update(fan_out=[3]),
    "a model that is no text": lambda m: m.update(model=3),
    "kept, but in no plan": lambda m: m["kept_sha256"].update(nowhere="0" * 64),
    "kept, but drawn": lambda m: m["kept_sha256"].update({"one.weight": "0" * 64}),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_manifest(what: str, folder: Path) -> None:
    path = folder / "zeta.json"
    manifest = json.loads(path.read_text())
    DAMAGE[what](manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match=r"zeta\.json is damaged"):
        zeta.verify(folder)


def test_a_manifest_without_end(folder: Path) -> None:
    (folder / "zeta.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"zeta\.json cannot be read"):
        zeta.verify(folder)


def test_the_tensors_are_a_folder(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        zeta.verify(folder)


@pytest.mark.parametrize("name", ["one.weight", "kept"])
def test_a_file_that_becomes_shorter_while_it_is_read(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shorten(function: str) -> None:
        original = getattr(folders, function)

        def shortened(item: Any, file: Any, *rest: Any) -> Any:
            if name in [stored.entry.name for stored in getattr(item, "stored", [item])]:
                file = io.BytesIO(b"short")  # an open file may have buffered more than is there now
            return original(item, file, *rest)

        monkeypatch.setattr(folders, function, shortened)

    shorten("_compare_stored")
    shorten("_compare_block")
    with pytest.raises(CheckpointError, match="became shorter"):
        zeta.verify(folder)


# -- wrong use ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((LINEAR,), SpecError, "needs the plan and the seed"),
        ((LINEAR, LINEAR_PLAN), SpecError, "needs the plan and the seed"),
        ((LINEAR, LINEAR_PLAN, -1), SpecError, "seed must be an integer from 0"),
        (("folder", LINEAR_PLAN), SpecError, "pass the path alone"),
        (("folder", None, 0), SpecError, "pass the path alone"),
        ((3,), LayerTypeError, "the path of a folder, got 3"),
        ((None,), LayerTypeError, "the path of a folder, got None"),
        (("none",), CheckpointError, "was not written by zeta"),
    ],
)
def test_wrong_arguments(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        zeta.verify(*arguments)


# -- what a linear algebra library computes ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_orthogonal_matrices_are_compared_within_their_tolerance(dtype: torch.dtype) -> None:
    """Another library gives other last bits; an element that is wrong by more is found all the same."""
    layer, rules = nn.Linear(64, 64, bias=False).to(dtype), Rules([Rule("*", Orthogonal(2.0))])
    zeta.init_(layer, rules, seed=1)
    plan = zeta.plan(layer, rules)
    assert zeta.verify(layer, plan, 1).close == ()
    with torch.no_grad():
        layer.weight.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]).add_(1)
    found = zeta.verify(layer, plan, 1)
    assert found.ok
    assert found.close == ("weight",)
    assert "1 tensor equal, bit by bit (1 orthogonal within rounding), those of seed 1" in str(found)
    with torch.no_grad():
        layer.weight[3, 5] += max(1e-5, 0.05 * (dtype is torch.bfloat16))
    (difference,) = zeta.verify(layer, plan, 1).differences
    assert (difference.count, difference.first) == (1, (3, 5))


def test_a_long_list_of_differences_is_cut() -> None:
    model, rules = nn.ModuleList(nn.Linear(1, 1) for _ in range(20)), Rules([Rule("*", Normal())])
    zeta.init_(model, rules, seed=1)
    lines = str(zeta.verify(model, zeta.plan(model, rules), 2)).splitlines()
    assert len(lines) == 23
    assert lines[20] == "and 20 more"
    assert "of another seed" in lines[21]


def test_a_folder_of_which_all_is_kept_is_of_no_seed(tmp_path: Path) -> None:
    model = nn.ParameterDict({"a": torch.zeros(3), "b": torch.zeros(5)})
    zeta.save(model, zeta.plan(model, Rules([Rule("*", Keep())])), tmp_path, seed=5)
    assert zeta.verify(tmp_path).summary == "verified: 2 tensors kept, as they were"
