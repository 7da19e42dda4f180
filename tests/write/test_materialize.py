"""materialize_: memory once, the same objects, and everything as it was if it fails."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import zeta
from tests.helpers.models import Basic, ResNet
from zeta import Plan, PlanError, Rule, Rules, TargetError
from zeta.errors import ZetaNotice
from zeta.initializers import Constant, Keep, Normal, Ones, Zeros, kaiming_normal
from zeta.rules import ndim

RULES = Rules([Rule("*.bias", Zeros(), optional=True), Rule("*", Normal(0.02))])


def on_meta(factory: Any, *args: Any) -> Any:
    with torch.device("meta"):
        return factory(*args)


def test_the_values_are_those_of_apply() -> None:
    rules = Rules([Rule("*.bias", Zeros()), Rule(ndim(1), Ones()), Rule("*", kaiming_normal())])
    real = ResNet(Basic, 8)
    plan = zeta.plan(real, rules)
    zeta.apply_(real, plan, seed=5)
    model = on_meta(ResNet, Basic, 8)
    report = zeta.materialize_(model, plan, seed=5)
    assert report.ok
    for (name, ours), theirs in zip(model.state_dict().items(), real.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


class Special(nn.Parameter):
    """A class of its own."""


class Rich(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 4)
        self.head = nn.Linear(4, 10)
        self.head.weight = self.embed.weight
        self.conv = nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
        self.conv.weight.requires_grad_(False)
        self.special = Special(torch.empty(3))
        self.special.label = "kept"  # type: ignore[attr-defined]
        self.slices = [self.head.bias.detach()[2:5]]
        self.rnn = nn.LSTM(4, 4)
        self.brief = nn.Parameter(torch.empty(4, dtype=torch.bfloat16))
        self.register_buffer("count", torch.zeros(2, dtype=torch.int64))


def rich() -> tuple[Rich, Plan]:
    model = on_meta(Rich)
    buffers = Rules([Rule("count", Zeros(), buffers=True)])
    return model, zeta.plan(model, buffers + RULES)


def test_every_tensor_stays_who_it_is() -> None:
    model, plan = rich()
    before = dict(model.named_parameters())
    strides = {name: parameter.stride() for name, parameter in before.items()}
    report = zeta.materialize_(model, plan, seed=0)
    assert report.ok, report
    for name, parameter in model.named_parameters():
        assert parameter is before[name]
        assert parameter.stride() == strides[name]
        assert not parameter.is_meta
        assert parameter.is_leaf
    assert model.head.weight is model.embed.weight
    assert not model.conv.weight.requires_grad
    assert model.head.bias.requires_grad
    assert type(model.special) is Special
    assert model.special.label == "kept"
    assert model.brief.dtype is torch.bfloat16
    assert model.slices[0].data_ptr() == model.head.bias.data_ptr() + 8
    assert model.rnn(torch.zeros(1, 1, 4))[0].shape == (1, 1, 4)


def test_hooks_stay() -> None:
    calls: list[str] = []
    model = on_meta(nn.Linear, 3, 2)
    model.weight.register_hook(lambda gradient: calls.append("gradient"))
    model.weight.register_post_accumulate_grad_hook(lambda parameter: calls.append("accumulated"))
    model.register_forward_hook(lambda *_: calls.append("forward"))
    zeta.materialize_(model, zeta.plan(model, RULES), seed=0)
    model(torch.ones(3)).sum().backward()
    assert calls == ["forward", "gradient", "accumulated"]
    assert model.weight.grad.shape == (2, 3)


def test_dtype_overrides_floating_point_only() -> None:
    model, plan = rich()
    zeta.materialize_(model, plan, dtype=torch.float16, seed=0)
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    assert model.count.dtype is torch.int64
    other, _ = rich()
    zeta.materialize_(other, plan, seed=0)
    assert torch.equal(other.embed.weight.half(), model.embed.weight)


class Mixed(nn.Module):
    """Buffers that keep their dtype, and some that go with parameters."""

    def __init__(self, parametrized: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.plain = nn.BatchNorm1d(4, affine=False)
        self.spectral = nn.Linear(4, 4)
        if parametrized:
            nn.utils.parametrizations.spectral_norm(self.spectral)
        self.register_buffer("inv_freq", 1 / 10000 ** (torch.arange(4) / 4))
        self.register_buffer("hidden", torch.ones(4), persistent=False)
        self.register_buffer("wide", torch.ones(4, dtype=torch.float64))


FOLLOWING = {"norm.running_mean", "norm.running_var"}
FOLLOWING |= {f"spectral.parametrizations.weight.0.{name}" for name in ("_u", "_v")}


@pytest.mark.filterwarnings("ignore::zeta.ZetaNotice")
@pytest.mark.parametrize("parametrized", [False, True])
@pytest.mark.parametrize("everything", [False, True])
def test_dtype_is_for_parameters_in_both_verbs(everything: bool, parametrized: bool, tmp_path: Path) -> None:
    model, plan = zeta.record(Mixed, parametrized)
    wanted = {name: tensor.dtype for name, tensor in model.named_buffers()}
    cast = {name for name, dtype in wanted.items() if dtype.is_floating_point and (everything or name in FOLLOWING)}
    wanted |= dict.fromkeys([*cast, *dict(model.named_parameters())], torch.bfloat16)
    if not parametrized:  # which is none of a file's business
        zeta.save(model, plan, tmp_path, dtype=torch.bfloat16, cast_buffers=everything, seed=0)
        assert zeta.verify(tmp_path).ok
    zeta.materialize_(model, plan, dtype=torch.bfloat16, cast_buffers=everything, seed=0)
    assert {name: t.dtype for name, t in (*model.named_parameters(), *model.named_buffers())} == wanted
    x = torch.randn(8, 4).bfloat16()
    assert model.spectral(model.norm(x)).dtype is torch.bfloat16
    if not parametrized:
        saved = load_file(tmp_path / "model.safetensors")
        assert {name: t.dtype for name, t in saved.items()} == {n: t.dtype for n, t in model.state_dict().items()}


@pytest.mark.parametrize(("dtype", "kept"), [(torch.float16, 2), (torch.bfloat16, 1), (torch.float64, 0)])
def test_what_a_transformers_model_keeps_in_fp32_stays(dtype: torch.dtype, kept: int) -> None:
    class Keeping(nn.Module):
        _keep_in_fp32_modules = ("wo",)
        _keep_in_fp32_modules_strict = ("gate.*weight",)

        def __init__(self) -> None:
            super().__init__()
            self.wo, self.wi, self.gate = nn.Linear(2, 2, bias=False), nn.Linear(2, 2), nn.Linear(2, 2)

    holder = lambda: nn.Sequential(Keeping())  # noqa: E731
    model, plan = zeta.record(holder)
    zeta.materialize_(model, plan, dtype=dtype, seed=0)
    found = {name for name, tensor in model.named_parameters() if tensor.dtype is torch.float32}
    assert found == set(["0.gate.weight", "0.wo.weight"][:kept])


@pytest.mark.parametrize(("kept", "said"), [(["("], "unterminated"), (5, "not iterable")])
def test_what_is_kept_in_fp32_must_be_parts_of_names(kept: Any, said: str) -> None:
    model, plan = zeta.record(lambda: nn.Sequential(nn.Linear(2, 2)))
    model._keep_in_fp32_modules = kept
    with pytest.raises(zeta.SpecError, match=rf"Sequential._keep_in_fp32_modules must be a list .*{said}"):
        zeta.materialize_(model, plan, dtype=torch.float16, seed=0)
    model._keep_in_fp32_modules = "0.weight"
    zeta.materialize_(model, plan, dtype=torch.float16, seed=0)
    assert [p.dtype for p in model.parameters()] == [torch.float32, torch.float16]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["T5Model", "Glm4MoeForCausalLM", "LlamaForCausalLM"])
def test_both_verbs_agree_with_from_pretrained(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 32}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "first_k_dense_replace": 1}
    sizes |= {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    sizes |= {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    layer = getattr(transformers, name)
    build = lambda: layer(layer.config_class(**sizes))  # noqa: E731
    build().save_pretrained(tmp_path / "theirs")
    theirs = layer.from_pretrained(tmp_path / "theirs", dtype=dtype)
    model, plan = zeta.record(build)
    zeta.save(model, plan, tmp_path / "ours", dtype=dtype, seed=0)
    zeta.materialize_(model, plan, dtype=dtype, seed=0)
    expected = {name: tensor.dtype for name, tensor in (*theirs.named_parameters(), *theirs.named_buffers())}
    assert {name: tensor.dtype for name, tensor in (*model.named_parameters(), *model.named_buffers())} == expected
    saved = load_file(tmp_path / "ours" / "model.safetensors")
    assert {name: saved[name].dtype for name in saved if name in expected} == {
        n: expected[n] for n in saved if n in expected
    }
    assert {expected[name] for name in expected if name not in saved} <= {dtype, torch.float32}


def state(model: nn.Module) -> list[tuple[int, torch.dtype, bool, tuple[int, ...]]]:
    return [(id(t), t.dtype, t.is_meta, t.stride()) for t in (*model.parameters(), *model.buffers())]


def test_a_failure_while_writing_leaves_the_model_on_meta() -> None:
    model, plan = rich()
    before = state(model)

    def stop(name: str, done: int, total: int) -> None:
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        zeta.materialize_(model, plan, progress=stop, seed=0)
    assert state(model) == before
    assert zeta.materialize_(model, plan, seed=0).ok


def test_no_memory_leaves_the_model_on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = rich()
    before, allocate, calls = state(model), torch.empty, []

    def short(*args: Any, **kwargs: Any) -> Tensor:
        calls.append(args)
        if len(calls) > 6:
            raise RuntimeError("out of memory")
        return allocate(*args, **kwargs)

    monkeypatch.setattr("zeta.write.materialize.torch.empty", short)
    with pytest.raises(RuntimeError, match="out of memory"):
        zeta.materialize_(model, plan, seed=0)
    assert state(model) == before


def test_a_buffer_without_a_value_is_an_error_that_names_it() -> None:
    model = on_meta(Rich)
    plan = zeta.plan(model, RULES)
    before = state(model)
    message = r"count: is on meta, and the plan keeps it.*; give it Rule\(\"count\", \.\.\., buffers=True\)"
    with pytest.raises(TargetError, match=message):
        zeta.materialize_(model, plan, seed=0)
    assert state(model) == before


def test_a_tensor_outside_is_an_error_that_names_it() -> None:
    model, plan = rich()
    model.stray = {"x": torch.empty(3, device="meta")}
    with pytest.raises(TargetError, match=r"stray\['x'\] \(3,\): is a tensor on meta outside"):
        zeta.materialize_(model, plan, seed=0)


def test_a_plan_of_another_model_is_refused_before_anything_is_allocated() -> None:
    model = on_meta(nn.Linear, 3, 2)
    with pytest.raises(PlanError, match="shapes differ"):
        zeta.materialize_(model, zeta.plan(nn.Linear(4, 2), RULES), seed=0)
    assert model.weight.is_meta
    with pytest.raises(zeta.SpecError, match="dtype must be a floating-point dtype"):
        zeta.materialize_(model, zeta.plan(model, RULES), dtype=torch.int8, seed=0)
    with pytest.raises(zeta.LayerTypeError):
        zeta.materialize_(3, zeta.plan(model, RULES), seed=0)  # type: ignore[arg-type]


def test_what_has_memory_stays_unless_it_is_to_be_overwritten() -> None:
    model = on_meta(nn.Linear, 3, 2)
    plan = zeta.plan(model, RULES)
    model.load_state_dict({"bias": torch.ones(2)}, strict=False, assign=True)
    bias = model.bias.data_ptr()
    report = zeta.materialize_(model, plan, seed=0)
    assert (report.kept, report.kept_nbytes, [one.name for one in report]) == (("bias",), 8, ["weight"])
    assert "1 tensor written, 1 kept (8 B)" in str(report)
    assert model.bias.tolist() == [1.0, 1.0]
    with pytest.warns(ZetaNotice, match="nothing is on meta: all 2 tensors have memory and stay"):
        report = zeta.materialize_(model, plan, seed=3)
    assert (len(report.measured), report.kept) == (0, ("weight", "bias"))
    assert zeta.verify(model, plan, seed=0).differences[0].name == "bias"
    zeta.materialize_(model, plan, seed=3, overwrite=True)
    assert zeta.verify(model, plan, seed=3).ok
    assert model.bias.data_ptr() == bias


def test_a_tensor_without_elements_on_meta_becomes_real() -> None:
    model = nn.ParameterDict({"none": torch.empty(0, 3, device="meta"), "some": torch.empty(2, device="meta")})
    plan = zeta.plan(model, Rules([Rule("*", Zeros())]))
    assert zeta.materialize_(model, plan, seed=0).kept == ()
    assert not model["none"].is_meta


def test_loaded_weights_are_not_cast() -> None:
    model = on_meta(nn.Linear, 3, 2)
    plan = zeta.plan(model, RULES)
    model.load_state_dict({"weight": torch.full((2, 3), 1 / 3)}, strict=False, assign=True)
    zeta.materialize_(model, plan, seed=0, dtype=torch.bfloat16)
    assert (model.weight.dtype, model.bias.dtype) == (torch.float32, torch.bfloat16)
    assert (model.weight == 1 / 3).all()


@pytest.mark.parametrize(
    "only", ["1.*", ["1.weight", "1.bias"], lambda name: name[0] == "1"], ids=["a glob", "names", "a function"]
)
def test_only_some_of_a_model_on_meta(only: Any) -> None:
    model = on_meta(lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4), nn.LayerNorm(4)))
    plan = zeta.plan(model, Rules([Rule("*.bias", Constant(0.5)), Rule("*", Normal())]))
    zeta.materialize_(model, plan, seed=5, only=only)
    assert [p.is_meta for p in model.parameters()] == [True, True, False, False, True, True]
    whole = zeta.record(lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4), nn.LayerNorm(4)))[0]
    zeta.materialize_(whole, plan, seed=5)
    assert torch.equal(model[1].weight, whole[1].weight)
    zeta.materialize_(model, plan, seed=5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), whole.parameters(), strict=True))


@pytest.mark.filterwarnings("ignore:.*is under spectral_norm")
def test_only_a_parametrized_weight_of_a_model_on_meta() -> None:
    model, plan = zeta.record(lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(3, 2)), nn.Linear(2, 2)))
    report = zeta.materialize_(model, plan, seed=1, only="0.weight")
    assert not any(tensor.is_meta for tensor in (*model[0].parametrizations.parameters(), *model[0].buffers()))
    assert model[0].bias.is_meta
    assert model[1].weight.is_meta
    assert [one.name for one in report] == [
        "0.weight",
        *(f"0.parametrizations.weight.0.{name}" for name in ("_u", "_v")),
    ]
    assert zeta.verify(model, plan, seed=1, only="0.weight").ok
    zeta.materialize_(model, plan, seed=1)
    assert zeta.verify(model, plan, seed=1).ok
    zeta.apply_(model, plan, seed=2, only="0.weight")
    assert zeta.verify(model, plan, seed=2, only="0.weight").ok, "the vectors are those of the new weight"


def test_a_selected_tensor_that_the_plan_keeps_has_no_value() -> None:
    model = on_meta(nn.Linear, 3, 2)
    plan = zeta.plan(model, Rules([Rule("bias", Keep()), Rule("*", Normal())]))
    with pytest.raises(TargetError, match=r"on meta, and the plan keeps some or all.*\n  - bias"):
        zeta.materialize_(model, plan, seed=0, only="bias")
    assert model.bias.is_meta


def test_kept_values_stay() -> None:
    model = on_meta(nn.Linear, 3, 2)
    model.bias = nn.Parameter(torch.ones(2))
    plan = zeta.plan(model, Rules([Rule("bias", Keep()), Rule("*", Normal())]))
    assert zeta.materialize_(model, plan, seed=0).kept == ("bias",)
    assert model.bias.tolist() == [1.0, 1.0]


def test_init_materializes_a_model_on_meta() -> None:
    model = on_meta(nn.Linear, 30, 20)
    report = zeta.init_(model, RULES, seed=1)
    real = nn.Linear(30, 20)
    zeta.init_(real, RULES, seed=1)
    assert report.ok
    assert torch.equal(model.weight, real.weight)


def test_a_recorded_model_may_be_copied_first() -> None:
    model, plan = zeta.record(nn.TransformerEncoderLayer, 16, 2, 32)
    twin = copy.deepcopy(model)
    zeta.materialize_(model, plan, seed=0)
    zeta.materialize_(twin, plan, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True))


PEAK = """
import torch, zeta
from torch import nn

class Wide(nn.Module):
    def __init__(self, scale):
        super().__init__()
        self.normal = nn.Linear(4096, 8192 // scale)  # 128 MiB
        self.rate = nn.Parameter(torch.log(torch.rand(4096 // scale, 8192) * 15 + 1))  # 128 MiB, by a program
        self.register_buffer("mask", torch.ones(4096 // scale, 8192, dtype=torch.bool))  # 32 MiB
        self.narrow = nn.Parameter(torch.empty(4096 // scale, 8192, dtype=torch.bfloat16).normal_())  # 64 MiB

def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024

model, plan = zeta.record(Wide, 512)
zeta.materialize_(model, plan)
start = peak()
model, plan = zeta.record(Wide, 1)
recorded = peak()
report = zeta.materialize_(model, plan)
assert report.ok and plan.nbytes > 350 * 2**20
print(recorded - start, peak() - recorded - plan.nbytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux")
def test_the_peak_of_memory_is_the_model_and_64_mebibytes() -> None:
    # what is freed goes back to the system at once, so that what the allocator would keep is not counted
    freed = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", PEAK], env=os.environ | freed, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    recorded, beside = map(int, done.stdout.split())
    assert recorded < 8 * 2**20
    assert beside < 64 * 2**20


def test_the_report_names_what_stays_on_meta() -> None:
    model, plan = zeta.record(lambda: nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)))
    report = zeta.materialize_(model, plan, 0, only=["0.*", "1.running_mean"])
    assert report.on_meta == ("1.weight", "1.bias", "1.running_var", "1.num_batches_tracked")
    assert report.summary.endswith("all as planned, 4 tensors still on meta")
    assert report.as_dict()["on_meta"] == list(report.on_meta)
    again = zeta.apply_(model, plan, 1, only="0.*")
    assert again.on_meta == report.on_meta
    assert zeta.materialize_(model, plan, 0).on_meta == ()


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2, 1))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * self.scale

    def right_inverse(self, weight: torch.Tensor) -> torch.Tensor:
        return weight / self.scale


@pytest.mark.filterwarnings("ignore:.*is under spectral_norm")
@pytest.mark.parametrize(
    ("register", "loaded"),
    [
        (parametrizations.spectral_norm, "original"),
        (parametrizations.weight_norm, "original0"),
        (parametrizations.weight_norm, "original1"),
        (lambda layer: parametrize.register_parametrization(layer, "weight", Scaled()), "original"),
    ],
    ids=["spectral norm", "length", "direction", "own"],
)
def test_a_weight_of_which_a_part_was_loaded_is_neither_overwritten_nor_kept(register: Any, loaded: str) -> None:
    model, plan = zeta.record(lambda: nn.Sequential(register(nn.Linear(3, 2))))
    name = f"0.parametrizations.weight.{loaded}"
    values = torch.full(model.get_parameter(name).shape, 7.5)
    model.load_state_dict({name: values}, strict=False, assign=True)
    with pytest.raises(TargetError, match=r"0\.weight: \d of the tensors that make up this weight have no memory"):
        zeta.materialize_(model, plan, 0)
    assert (values == 7.5).all()
    assert model[0].bias.is_meta
    assert zeta.materialize_(model, plan, 0, overwrite=True).ok


class InOneMemory(nn.Module):
    def __init__(self, whole: bool) -> None:
        super().__init__()
        table = torch.randn(6, 4) + 5
        self.upper, self.lower = nn.Parameter(table[:2]), nn.Parameter(table[2:])
        self.last = self.lower[3:]
        if whole:
            self.table = table


def test_what_only_leaves_in_the_same_memory_stays_on_meta() -> None:
    model, plan = zeta.record(InOneMemory, False)
    assert zeta.materialize_(model, plan, seed=0, only=["lower"]).ok
    assert model.upper.is_meta
    assert torch.equal(model.last, model.lower[3:])
    assert zeta.materialize_(model, plan, seed=0).ok
    assert zeta.verify(model, plan, seed=0).ok
    whole, _ = zeta.record(InOneMemory, False)
    zeta.materialize_(whole, plan, seed=0)
    assert torch.equal(whole.upper, model.upper)
    assert torch.equal(whole.lower, model.lower)


def test_only_a_part_of_the_memory_of_a_tensor_is_refused() -> None:
    model, plan = zeta.record(InOneMemory, True)
    with pytest.raises(TargetError, match=r"a part of the memory(.|\n)*table \(6, 4\)"):
        zeta.materialize_(model, plan, seed=0, only="lower")
    assert model.lower.is_meta
    zeta.materialize_(model, plan, seed=0, only=["lower", "upper"])
    assert torch.equal(model.table, torch.cat([model.upper, model.lower]))


class Beside(nn.Module):
    """A buffer in the memory of a parameter, without an element in common."""

    def __init__(self) -> None:
        super().__init__()
        values = torch.arange(6.0) + 1.001
        self.weight = nn.Parameter(values[:3])
        self.register_buffer("frequencies", values[3:])


@pytest.mark.parametrize("cast_buffers", [False, True])
def test_a_cast_is_of_what_is_asked_for_and_not_of_all_in_its_memory(tmp_path: Path, cast_buffers: bool) -> None:
    model, plan = zeta.record(Beside)
    zeta.materialize_(model, plan, seed=0, dtype=torch.bfloat16, cast_buffers=cast_buffers)
    real = Beside()
    assert torch.equal(model.weight, real.weight.bfloat16())
    assert torch.equal(model.frequencies, real.frequencies.bfloat16() if cast_buffers else real.frequencies)
    saved, _ = zeta.record(Beside)
    zeta.save(saved, plan, tmp_path / "out", seed=0, dtype=torch.bfloat16, cast_buffers=cast_buffers)
    loaded = load_file(tmp_path / "out" / "model.safetensors")
    assert {name: tensor.dtype for name, tensor in loaded.items()} == {
        name: tensor.dtype for name, tensor in model.state_dict().items()
    }


@pytest.mark.parametrize("view", [lambda weight: weight.view(torch.int32), lambda weight: weight.view(torch.float16)])
def test_a_cast_under_a_view_of_another_dtype_is_refused(view: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))
            self.bits = view(self.weight.data)

    model, plan = zeta.record(Model)
    with pytest.raises(TargetError, match="casts a part of the memory"):
        zeta.materialize_(model, plan, seed=0, dtype=torch.bfloat16)
    assert model.weight.is_meta
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.bits, Model().bits)
