"""The closed language: what it has, what its documentation says, and that nothing else runs."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta import PlanError, SpecError, ZetaError
from zeta.base.language import evaluation, layouts, state
from zeta.base.language.operations import OPERATIONS, Operation
from zeta.base.tensors import overlaps
from zeta.compute import programs
from zeta.fans import Axes, torch_axes
from zeta.initializers import Data, Draw, Initializer, Normal, Orthogonal, Program, Ref, Step
from zeta.initializers.checking import LEAST_FOR_MEMORY
from zeta.initializers.program import MOST_STEPS

DOCS = Path(__file__).parents[2] / "docs" / "programs.md"


# -- the table in the documentation ----------------------------------------------------------------------------------


def row(operation: Operation) -> str:
    operands = ", ".join(operation.operands) + (", ..." if operation.variadic else "")
    attributes = ", ".join(
        f"{name}: {kind}{'?' if name in operation.optional else ''}" for name, kind in operation.attributes.items()
    )
    return f"| `{operation.name}` | {operands} | {attributes} |"


def test_the_documentation_lists_every_operation() -> None:
    listed = [line for line in DOCS.read_text(encoding="utf-8").splitlines() if re.match(r"\| `", line)]
    assert listed == [row(OPERATIONS[name]) for name in sorted(OPERATIONS, key=lambda name: name.strip("_"))]


def test_no_operation_writes_draws_or_reaches_outside() -> None:
    defined = ("zeta.base.language.layouts", "zeta.base.language.operations")
    own = {name for name, operation in OPERATIONS.items() if operation.compute.__module__ in defined}
    assert own == {
        "full", "cast", "bits", "reshape", "permute", "expand", "slice", "update", "strided", "strided_update", "cat",
        "index", "index_put", "scatter", "geqrf",
    }  # fmt: skip
    for name in OPERATIONS.keys() - own:
        packet = getattr(torch.ops.aten, name)
        for overload in (getattr(packet, version) for version in packet.overloads()):
            assert torch.Tag.nondeterministic_seeded not in overload.tags, overload
            for argument in overload._schema.arguments:
                writes = argument.alias_info is not None and argument.alias_info.is_write
                # no row has an attribute out=, and no operand is a list
                assert not writes or argument.is_out or str(argument.type).startswith("List"), overload
    names = {key: kind for operation in OPERATIONS.values() for key, kind in operation.attributes.items()}
    assert not names.keys() & {"out", "device", "generator", "filename", "layout"}
    texts = {key for key, kind in names.items() if kind in ("rounding", "approximation", "triangle", "factors")}
    assert texts == {"rounding_mode", "approximate", "UPLO", "mode"}  # each of a few words


# -- files that would do something else --------------------------------------------------------------------------------


def step(op: str, *operands: Any, shape: Any = (4,), dtype: Any = "float32", **attributes: Any) -> dict[str, Any]:
    return {"op": op, "operands": list(operands), "attributes": attributes, "shape": list(shape), "dtype": dtype}


ONES = step("full", size=[4], value=1.0)
REF = {"step": 0}
OLD = {"op": "aten.from_file.default", "args": ["/tmp/target", True, 4], "kwargs": {}, "shape": [4], "dtype": "float32"}

ATTACKS: dict[str, list[Any]] = {
    "a file that is mapped": [step("from_file", filename="/tmp/target", shared=True, size=4)],
    "a file that is mapped, in format 1": [OLD],
    "by its full name": [step("aten.from_file.default", filename="/tmp/target")],
    "another namespace": [step("torch.load", "x")],
    "builtins": [step("__import__", "os")],
    "an attribute of the packet": [step("add.__class__", REF)],
    "dunder": [step("__globals__")],
    "a sparse tensor without checks": [step("_sparse_csr_tensor_unsafe", REF, REF, REF)],
    "memory of somebody else": [ONES, step("set_", REF, REF)],
    "as_strided outside": [ONES, step("as_strided", REF, size=[4], stride=[1], storage_offset=100)],
    "a strided view outside": [ONES, step("strided", REF, shape=[4], strides=[1], offset=1)],
    "a strided view before the start": [ONES, step("strided", REF, shape=[4], strides=[-1], offset=0)],
    "an update outside": [ONES, step("update", REF, REF, starts=[1], steps=[1])],
    "a strided update outside": [ONES, step("strided_update", REF, REF, strides=[2], offset=0)],
    "in place": [ONES, step("add_", REF, 1.0)],
    "an out argument": [ONES, step("add", REF, 1.0, out=REF)],
    "uninitialized memory": [step("empty", size=[4])],
    "resized": [ONES, step("resize_", REF, size=[2**40])],
    "a library": [step("load_library", "evil.so")],
    "random": [step("rand", size=[4])],
    "a generator": [ONES, step("normal_functional", REF)],
    "a device": [step("full", size=[4], value=1.0, device="cuda")],
    "printing": [ONES, step("_print", "x")],
    "an assertion": [ONES, step("_assert_async", REF)],
    "a process": [step("_c10d_functional.all_reduce", REF, "sum", "0")],
    "a socket": [step("c10d.broadcast_", REF)],
    "a bigger result than stated": [step("full", size=[2**40], value=1.0)],
    "more than the tensor justifies": [
        step("full", size=[2**32], value=1.0, shape=[2**32]),
        step("sum", REF, shape=()),
    ],
    "more at a time": [
        *(step("full", size=[2**24], value=float(n), shape=[2**24]) for n in range(64)),
        step("cat", *({"step": n} for n in range(64)), dim=0, shape=[2**30]),
        step("slice", {"step": 64}, starts=[0], sizes=[4], steps=[1]),
    ],
    "work without end": [
        step("full", size=[2**13, 2**13], value=1.0, shape=[2**13, 2**13]),
        *(step("mm", {"step": n}, {"step": n}, shape=[2**13, 2**13]) for n in range(64)),
        step("slice", {"step": 64}, starts=[0, 0], sizes=[1, 4], steps=[1, 1], shape=[1, 4]),
    ],
    "a huge batch of empty matrices": [
        step("full", size=[2**29, 0, 0], value=1.0, shape=[2**29, 0, 0]),
        step("linalg_qr", REF, part=0, shape=[2**29, 0, 0]),
        step("sum", {"step": 1}, shape=()),
    ],
    "orthogonal matrices by the dozen": [
        *(
            {
                "op": "draw", "draw": {"name": "Orthogonal", "gain": 1.0}, "number": n, "of": None,
                "axes": {"fan_in": [1], "fan_out": [0]}, "shape": [2**13, 2**13], "dtype": "float32",
            }
            for n in range(15)
        ),
        step("slice", REF, starts=[0, 0], sizes=[1, 4], steps=[1, 1], shape=[1, 4]),
    ],
    "many steps": [ONES] * (MOST_STEPS + 1),
    "an overflowing shape": [step("full", size=[2**32, 2**32], value=1.0, shape=[2**32, 2**32])],
    "a negative shape": [step("full", size=[-4], value=1.0, shape=[-4])],
    "a number too large": [step("full", size=[4], value=2**70)],
    "a number as text": [ONES, step("add", REF, "1.0")],
    "itself": [step("add", REF, 1.0)],
    "a later step": [ONES, step("add", {"step": 2}, 1.0), ONES],
    "a step before the first": [ONES, step("add", {"step": -1}, 1.0)],
    "a truth value for a step": [ONES, step("add", {"step": False}, 1.0)],
    "another shape than stated": [ONES, step("add", REF, 1.0, shape=[5])],
    "another dtype than stated": [ONES, step("add", REF, 1.0, dtype="float64")],
    "a dtype that is none": [step("full", size=[4], value=1.0, dtype="Tensor")],
    "a quantized dtype": [step("full", size=[4], value=1.0, dtype="quint8")],
    "torch's default dtype": [step("full", size=[4], value=1, dtype="int64"), step("sqrt", REF)],
    "torch's default dtype of a sum": [
        step("full", size=[4], value=1, dtype="int64"),
        step("logsumexp", REF, dim=[0], keepdim=True, shape=[1]),
    ],
    "a mode that torch has": [ONES, step("div", REF, 2.0, rounding_mode="ceil")],
    "an attribute twice in another form": [ONES, step("softplus", REF, beta=[1.0])],
    "a part that is none": [ONES, step("topk", REF, k=1, part=7, shape=[1])],
    "all parts": [ONES, step("cummax", REF, dim=0)],
    "a mask of unknown size": [ONES, step("isnan", REF, dtype="bool"), step("index", REF, {"step": 1}, dims=[0])],
    "a norm of another shape": [
        step("full", size=[10, 10], value=1.0, shape=[10, 10]),
        step("full", size=[1], value=1.0, shape=[1]),
        step("_weight_norm_interface", REF, {"step": 1}, dim=0, part=0, shape=[10, 10]),
    ],
    "a norm along the middle": [
        step("full", size=[3, 4, 5], value=1.0, shape=[3, 4, 5]),
        step("full", size=[1, 4, 1], value=1.0, shape=[1, 4, 1]),
        step("_weight_norm_interface", REF, {"step": 1}, dim=1, part=0, shape=[3, 4, 5]),
    ],
    "a transform of more than there is": [
        step("full", size=[4], value=1.0, dtype="complex64"),
        step("_fft_c2r", REF, dim=[0], normalization=0, last_dim_size=1000, shape=[1000]),
    ],
    "a transform along another dimension": [
        step("full", size=[4], value=1.0, dtype="complex64"),
        step("_fft_c2c", REF, dim=[7], normalization=0, forward=True, dtype="complex64"),
    ],
    "a transform twice": [
        step("full", size=[4], value=1.0, dtype="complex64"),
        step("_fft_c2c", REF, dim=[0, 0], normalization=0, forward=True, dtype="complex64"),
    ],
    "an image scaled backwards": [
        step("full", size=[1, 1, 4, 4], value=1.0, shape=[1, 1, 4, 4]),
        step("upsample_nearest2d", REF, output_size=[4, 4], scales_h=-1.0, scales_w=-1.0, shape=[1, 1, 4, 4]),
    ],
    "an image scaled to nothing": [
        step("full", size=[1, 1, 4, 4], value=1.0, shape=[1, 1, 4, 4]),
        step("upsample_nearest2d", REF, output_size=[4, 4], scales_h=1e-300, scales_w=1.0, shape=[1, 1, 4, 4]),
    ],
    "a volume scaled to another": [
        step("full", size=[1, 1, 4, 4, 4], value=1.0, shape=[1, 1, 4, 4, 4]),
        step("upsample_nearest3d", REF, output_size=[4, 4, 4], scales_d=1.0, scales_w=1e-300, shape=[1, 1, 4, 4, 4]),
    ],
    "a diagonal beyond all numbers": [
        step("full", size=[2, 2], value=1.0, shape=[2, 2]),
        step("triu", REF, diagonal=2**63 - 1, shape=[2, 2]),
    ],
    "parts of two dtypes": [
        ONES,
        step("full", size=[4], value=1.0, dtype="float64"),
        step("cat", REF, {"step": 1}, dim=0, shape=[8], dtype="float64"),
    ],
    "parts of two ranks": [
        ONES,
        step("full", size=[0, 4], value=1.0, shape=[0, 4]),
        step("cat", REF, {"step": 1}, dim=0),
    ],
    "a softmax of another device": [ONES, step("_softmax", REF, dim=0, half_to_float=True)],
    "parts that nobody asked for": [
        {"op": "draw", "draw": {"name": "Normal"}, "number": 0, "of": None, "axes": None, "shape": [65000, 1],
         "dtype": "float32"},
        step("_linalg_svd", REF, full_matrices=True, compute_uv=True, part=1, shape=[1]),
    ],
    "arithmetic for minutes": [
        {"op": "draw", "draw": {"name": "Normal"}, "number": 0, "of": None, "axes": None, "shape": [2**24],
         "dtype": "float32"},
        *(step("digamma", {"step": n}, shape=[2**24]) for n in range(60)),
        step("sum", {"step": 60}, shape=()),
    ],
    "too many dimensions": [step("full", size=[1] * 70, value=1.0, shape=[1] * 70)],
    "data of another length": [{"op": "data", "base64": "AAAA", "shape": [4], "dtype": "float32"}],
    "data that is no base64": [{"op": "data", "base64": "*", "shape": [4], "dtype": "float32"}],
    "truth values of other bytes": [{"op": "data", "base64": "AgICAg==", "shape": [4], "dtype": "bool"}],
    "a draw of a program": [
        {"op": "draw", "draw": {"name": "Program", "steps": [ONES]}, "number": 0, "of": None, "axes": None,
         "shape": [4], "dtype": "float32"}
    ],
    "a draw that is not solved": [
        {"op": "draw", "draw": {"name": "VarianceScaling"}, "number": 0, "of": None, "axes": None,
         "shape": [4, 4], "dtype": "float32"}
    ],
    "a matrix without axes": [
        {"op": "draw", "draw": {"name": "Orthogonal"}, "number": 0, "of": None, "axes": None,
         "shape": [4, 4], "dtype": "float32"}
    ],
    "no list": ["x"],
    "nothing": [],
    "none": [None],
    "nested": [[[[]]]],
}  # fmt: skip


def plan_with(steps: list[Any]) -> str:
    program = {"name": "Program", "steps": steps}
    last = steps[-1] if steps and isinstance(steps[-1], dict) else {}
    entry = {
        "name": "weight", "ties": [], "shape": last.get("shape", [4]), "dtype": "float32", "kind": "weight",
        "rule": "x", "initializer": program, "mean": None, "std": None, "nbytes": 16, "axes": None,
        "padding_idx": None, "persistent": True,
    }  # fmt: skip
    return json.dumps({"entries": [entry]})


@pytest.mark.parametrize("name", ATTACKS)
def test_such_a_plan_is_refused_when_it_is_read(name: str) -> None:
    with pytest.raises(ZetaError) as caught:
        zeta.Plan.from_json(plan_with(ATTACKS[name]))
    assert isinstance(caught.value, PlanError | SpecError)
    assert len(str(caught.value)) < 2000


def test_a_plan_of_format_1_says_what_to_do() -> None:
    with pytest.raises(ZetaError, match=r"format 1.*record the model again"):
        zeta.Plan.from_json(plan_with([OLD]))


def test_a_small_plan_that_is_in_order_is_read() -> None:
    plan = zeta.Plan.from_json(plan_with([ONES, step("mul", REF, 3.0)]))
    program = plan["weight"].initializer
    assert isinstance(program, Program)
    assert programs.value(program, name="weight", seed=0).tolist() == [3.0] * 4


def test_what_the_values_forbid_is_an_error_when_it_is_computed() -> None:
    index = step("full", size=[4], value=9, dtype="int64")
    plan = zeta.Plan.from_json(plan_with([ONES, index, step("gather", REF, {"step": 1}, dim=0)]))
    layer = nn.Module()
    layer.weight = nn.Parameter(torch.zeros(4))
    with pytest.raises(PlanError, match=r"weight: step 2 \(gather\) cannot be computed: index 9 is out of bounds"):
        zeta.apply_(layer, plan, seed=0)


def test_the_limits_leave_room_for_a_small_tensor_of_large_ones() -> None:
    n = LEAST_FOR_MEMORY * 2
    broadcast = {**step("expand", {"step": 1}), "attributes": {"shape": [4]}}
    steps = [step("full", size=[n], value=2.0, shape=[n]), step("sum", REF, shape=()), broadcast]
    program = zeta.Plan.from_json(plan_with(steps))["weight"].initializer
    assert isinstance(program, Program)


def doubling(levels: int) -> list[Any]:
    """Each level looks at two parts of the one before: 2^levels regions of the first, if each is computed alone."""
    n = 2**12
    steps: list[Any] = [
        {
            "op": "draw",
            "draw": {"name": "Normal"},
            "number": 0,
            "of": None,
            "axes": None,
            "shape": [n],
            "dtype": "float32",
        }
    ]
    for level in range(levels):
        n -= 2**level // 16 + 1
        last = {"step": len(steps) - 1}
        steps += [
            step("slice", last, starts=[start], sizes=[n], steps=[1], shape=[n]) for start in (0, 2**level // 16 + 1)
        ]
        steps.append(step("add", {"step": len(steps) - 2}, {"step": len(steps) - 1}, shape=[n]))
    return steps


def test_a_program_whose_regions_double_is_computed_as_a_whole() -> None:
    few, many = (zeta.Plan.from_json(plan_with(doubling(n)))["weight"].initializer for n in (4, 14))
    assert isinstance(few, Program)
    assert isinstance(many, Program)
    assert programs.is_regional(few)
    assert not programs.is_regional(many)
    assert programs.value(many, name="weight", seed=0).shape == many.steps[-1].shape


# -- values ----------------------------------------------------------------------------------------------------------

LOWEST = -(2**63)


@pytest.mark.parametrize(
    ("name", "attributes", "expected"),
    [
        ("floor_divide", (), [LOWEST, 7, -3, 2]),
        ("div", (("rounding_mode", "trunc"),), [LOWEST, 7, -2, 2]),
        ("remainder", (), [0, 0, 1, 1]),
        ("fmod", (), [0, 0, -1, 1]),
    ],
)
@pytest.mark.parametrize("number", [False, True])
def test_division_by_minus_one_does_not_stop_the_process(
    name: str, attributes: tuple[tuple[str, Any], ...], expected: list[int], number: bool
) -> None:
    x, y = torch.tensor([LOWEST, -7, -5, 5]), torch.tensor([-1, -1, 2, 2])
    if number:
        x, y, expected = x[:2], -1, expected[:2]  # type: ignore[assignment]
    with state.fixed_state():
        assert evaluation.compute(name, [x, y], attributes, torch.int64).tolist() == expected


def test_results_hold_their_values_and_no_mark_to_conjugate_them() -> None:
    a, b = torch.randn(2, 3, 3, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    with state.fixed_state():
        found = evaluation.compute("_linalg_solve_ex", [a, b], (("left", False), ("part", 0)), torch.complex64)
    assert not found.is_conj()
    torch.testing.assert_close(found @ a, b)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "transposed": lambda x: x.t(),
    "a slice of a slice": lambda x: x[2:][1:, 1:4],
    "every third": lambda x: x[1::3, ::2],
    "windows": lambda x: x.view(2, 4, 3, 2).permute(0, 2, 1, 3),
    "a diagonal": lambda x: x.diagonal(1),
    "overlapping": lambda x: x.unfold(0, 3, 1),
    "as strided": lambda x: x.as_strided((3, 2), (5, 7), 4),
    "expanded": lambda x: x[:, 2:3].expand(8, 4),
    "a new dimension": lambda x: x[:, None, 3],
    "flat": lambda x: x.view(-1)[5:17],
    "reversed dimensions": lambda x: x.view(2, 2, 2, 6).permute(3, 1, 2, 0),
    "chunks": lambda x: x.chunk(3, dim=1)[1].unbind(0)[4],
    "narrowed": lambda x: x.narrow(0, 3, 2).narrow(1, 2, 3).t(),
    "nothing": lambda x: x[3:3],
}


class Copied(nn.Module):
    """A view of a value, and a value that is written through the view."""

    def __init__(self, view: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        base = torch.arange(48.0).view(8, 6) ** 2
        self.register_buffer("read", view(base[:, :].clone()).clone())
        self.register_buffer("seen", torch.zeros(()) if overlaps(view(base)) else view(base))
        written = torch.zeros(8, 6)
        part = view(written)
        if part.numel() and 0 not in part.stride():
            part[...] = torch.arange(float(part.numel())).view(part.shape) + 1
        self.register_buffer("written", written)


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_read_and_written_as_torch_does(name: str) -> None:
    if name == "overlapping":
        pytest.skip("torch itself leaves open what a write to overlapping memory gives")
    real = Copied(VIEWS[name])
    model, plan = zeta.record(Copied, VIEWS[name])
    zeta.materialize_(model, zeta.Plan.from_json(plan.to_json()), seed=0)
    for key in ("read", "seen", "written"):
        assert torch.equal(getattr(model, key), getattr(real, key)), key


def test_a_shape_is_found_for_what_strides_divide() -> None:
    assert layouts.shape_for(64, (2, 2, 4, 4), (32, 4, 8, 1)) == (2, 4, 2, 4)
    assert layouts.shape_for(10, (3,), (3,)) is None


def drawn(*shape: int, law: Initializer | None = None, axes: Axes | None = None, number: int = 0) -> Step:
    return Step(op="draw", leaf=Draw(law or Normal(), number, axes=axes), shape=shape, dtype=torch.float32)


def four_of(ref: int, dims: int, length: int = 4) -> Step:
    sizes = (1,) * (dims - 1) + (length,)
    attributes = (("sizes", sizes), ("starts", (0,) * dims), ("steps", (1,) * dims))
    return Step(op="slice", operands=(Ref(ref),), attributes=attributes, shape=sizes, dtype=torch.float32)


def first_four(ref: int) -> Step:
    """Not a box of elements, so that the operand is computed as a whole."""
    attributes = (("offset", 0), ("shape", (4,)), ("strides", (1,)))
    return Step(op="strided", operands=(Ref(ref),), attributes=attributes, shape=(4,), dtype=torch.float32)


def test_numbers_of_draws_have_63_bits() -> None:
    for number in (0, 2**63 - 1):
        assert Program((drawn(4, number=number),)).draws[0].number == number
    for number in (-1, 2**63):
        with pytest.raises(SpecError, match="a draw has a number from 0 on"):
            Program((drawn(4, number=number),))


@pytest.mark.parametrize(
    ("shape", "refused"),
    [
        ((0,), None),
        ((2**63 - 1, 0), None),
        ((2**63, 0), "is no shape"),
        ((-1, 0), "is no shape"),
        ((True, 0), "is no shape"),
        ((0,) * 64, None),
        ((0,) * 65, "is no shape"),
        ((2**61 - 1,), "0 bytes of data"),
        ((2**61,), "is no shape"),
    ],
)
def test_shapes_have_64_extents_of_63_bits_and_as_many_bytes(shape: tuple[int, ...], refused: str | None) -> None:
    with contextlib.nullcontext() if refused is None else pytest.raises(SpecError, match=refused):
        Program((Step(op="data", leaf=Data(b""), shape=shape, dtype=torch.float32),))


def test_memory_at_the_limit_is_accepted() -> None:
    """2^10 bytes for each of 2^18 elements, as a small result counts: 2^28 bytes."""
    Program((drawn(2**26 - 4), first_four(0)))
    limits = f"{2**28 + 4:,} bytes; a tensor of 4 elements may take {2**30:,} and {2**28:,}"
    with pytest.raises(SpecError, match=limits):
        Program((drawn(2**26 - 3), first_four(0)))


def test_memory_of_results_that_are_not_used_counts() -> None:
    """Sorting n fp32 numbers gives 4 n bytes of values, beside the 4 n that are sorted, and 8 n of positions."""

    def first_of_sorted(n: int) -> tuple[Step, ...]:
        order = (("descending", False), ("dim", 0), ("part", 0), ("stable", True))
        values = Step(op="sort", operands=(Ref(0),), attributes=order, shape=(n,), dtype=torch.float32)
        return drawn(n), values, four_of(1, 1, length=2**18)

    Program(first_of_sorted(2**24))
    with pytest.raises(SpecError, match=f"{2**28 + 16:,} bytes"):
        Program(first_of_sorted(2**24 + 1))


def test_memory_is_free_after_the_last_use() -> None:
    absolute = [Step(op="abs", operands=(Ref(n),), shape=(2**25,), dtype=torch.float32) for n in range(3)]
    Program((drawn(2**25), *absolute, first_four(3)))  # two at a time are 2^28 bytes
    first = Step(op="add", operands=(Ref(0), Ref(1)), attributes=(), shape=(2**25,), dtype=torch.float32)
    with pytest.raises(SpecError, match=f"{3 * 2**27:,} bytes"):
        Program((drawn(2**25), absolute[0], first, first_four(2)))


def part(ref: int, size: int, *, start: int = 0, step: int = 1) -> Step:
    attributes = (("sizes", (size,)), ("starts", (start,)), ("steps", (step,)))
    return Step(op="slice", operands=(Ref(ref),), attributes=attributes, shape=(size,), dtype=torch.float32)


def test_a_part_of_large_steps_costs_what_its_region_costs() -> None:
    """A box counts as its elements; with steps, as all elements from its first to its last."""
    exp = Step(op="exp", operands=(Ref(0),), shape=(2**40,), dtype=torch.float32)
    Program((drawn(2**40), exp, part(1, 4)))
    Program((drawn(2**40), part(0, 4, step=2**26 // 3 - 2)))
    for size, step in ((4, 2**26 // 3), (4, 2**40 // 4), (0, 1)):
        with pytest.raises(SpecError, match=f"{2**42:,} bytes"):
            Program((drawn(2**40), part(0, size, step=step)))


def test_regions_of_all_steps_count_together() -> None:
    n = 2**21
    parts = [part(0, n, start=number) for number in range(64)]
    operands = tuple(Ref(1 + number) for number in range(64))
    joined = Step(op="cat", operands=operands, attributes=(("dim", 0),), shape=(64 * n,), dtype=torch.float32)
    Program((drawn(2**40), *parts, joined))
    with pytest.raises(SpecError, match="a tensor of 4 elements"):  # not by regions
        Program((drawn(2**40), *parts, joined, first_four(65)))
    with pytest.raises(SpecError, match="a tensor of 1,024 elements"):  # needs all parts
        Program((drawn(2**40), *parts, joined, part(65, 1024, step=64 * n // 1024)))


@pytest.mark.parametrize(("side", "rows", "columns"), [(64, 64, 258_111), (64, 258_111, 64), (32, 8, 4_067_203)])
def test_work_at_the_limit_is_accepted(side: int, rows: int, columns: int) -> None:
    """2^14 steps for each of 2^16 elements.

    An orthogonal matrix takes its smaller side for each element, at least 32, and a slice reads and writes.
    """
    axes = torch_axes(2)
    Program((drawn(rows, columns, law=Orthogonal(), axes=axes), four_of(0, 2)))
    rows, columns = (rows, columns + 1) if rows < columns else (rows + 1, columns)
    with pytest.raises(SpecError, match=f"{rows * columns * (side + 1) + 4:,} steps of arithmetic"):
        Program((drawn(rows, columns, law=Orthogonal(), axes=axes), four_of(0, 2)))
