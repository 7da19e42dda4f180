"""A model on meta is checked without being held: the same report, and each parameter freed after its use."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

import zeta
from tests.helpers.healthy import MODELS
from tests.helpers.networks import LanguageModel, Mlp, Residual, images, tokens, vectors
from tests.helpers.sick import CASES
from tests.helpers.streaming import Held, emptied, ran_streamed
from tests.helpers.wiring import WIRED_WRONG
from zeta.check import check, examine, supply
from zeta.check.show.report import CheckReport
from zeta.check.watch.moments import measures_of, pending
from zeta.check.watch.streaming import source
from zeta.check.watch.streaming.source import Source
from zeta.errors import SpecError, TargetError, ZetaNotice

# rules that need other parameters, which are not in memory, and those that look at the same gradients
_LATER = ("Z302", "Z303", "Z501", "Z502", "Z503", "Z506")
_OWN = ("seconds", "sampled")
_WIRED = ("Z904", "Z905", "Z907", "Z908", "Z909")


def differences(one: CheckReport, other: CheckReport, *more: str) -> list[str]:
    def of(report: CheckReport, name: str) -> str:  # as text, because NaN differs from itself
        return repr(getattr(report, name))

    names = [field.name for field in fields(one) if field.name not in (*_OWN, *more)]
    return [name for name in names if of(one, name) != of(other, name)]


def both(make: Callable[[], nn.Module], batch: Any, **options: Any) -> tuple[CheckReport, CheckReport]:
    model, plan = zeta.record(make)
    held, streamed = (check(model, batch, plan=plan, seed=3, streamed=way, **options) for way in (False, True))
    assert ran_streamed(streamed)
    assert not ran_streamed(held)
    return held, streamed


# -- the same report -------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: Any = nn.LSTM) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 16, padding_idx=0)
        self.rnn = kind(16, 32, 2, batch_first=True, bidirectional=True)
        self.head = nn.Linear(64, 100)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(self.embed(x))[0])


class Convolutional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 16, 3, groups=4)
        self.scale = nn.Parameter(torch.full((16, 1, 1), 0.5))
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv1(x)))
        return self.head((F.relu(self.conv2(x)) * self.scale).mean((2, 3)))


class Experts(nn.Module):
    """The router sends every token to one of the first two experts."""

    def __init__(self, count: int = 8, width: int = 16) -> None:
        super().__init__()
        self.router = nn.Linear(width, count)
        self.experts = nn.ModuleList(Mlp(width, 32, width) for _ in range(count))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.router(x)[:, :2].softmax(-1).max(-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            mine = (chosen == number).nonzero().flatten()
            if len(mine):
                out = out.index_add(0, mine, expert(x[mine]) * weights[mine, None])
        return self.head(x + out)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Mlp(16, 32, 16) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + checkpoint(block, x, use_reentrant=False)
        return x


class Shared(nn.Module):
    """One weight used by its layer, transposed by a function, and in a list."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 16)
        self.start = nn.Parameter(torch.randn(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.start.to(self.start.device)])
        return F.linear(self.fc(x).tanh(), self.fc.weight.T) + x @ torch.stack([self.fc.weight, self.fc.weight.mT])[0]


def encoder() -> nn.Module:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2, enable_nested_tensor=False)


def normed() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(16, 32)), nn.ReLU(), nn.Linear(32, 4))


def frozen() -> nn.Module:
    model = Mlp(16, 32, 4, depth=3)
    model[0].weight.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (LanguageModel, tokens),
        (lambda: LanguageModel(tied=True), tokens),
        (Residual, lambda: vectors(16)),
        (Convolutional, lambda: (images(3), torch.arange(8) % 10)),
        (Recurrent, tokens),
        (lambda: Recurrent(nn.GRU), tokens),
        (encoder, lambda: torch.randn(4, 8, 32)),
        (Shared, lambda: vectors(16)),
        (Checkpointed, lambda: vectors(16)),
        (normed, lambda: vectors(16)),
        (frozen, lambda: vectors(16)),
    ],
    ids=["gpt", "tied", "residual", "cnn", "lstm", "gru", "encoder", "shared", "checkpoint", "weight_norm", "frozen"],
)
def test_the_report_is_that_of_the_model_in_memory(make: Any, batch: Any) -> None:
    held, streamed = both(make, batch())
    assert differences(held, streamed) == []


@pytest.mark.parametrize("tied", [False, True])
def test_a_llama(tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=128,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
    )
    batch = {"input_ids": tokens(), "labels": tokens()}
    held, streamed = both(lambda: transformers.LlamaForCausalLM(config), batch)
    assert differences(held, streamed) == []
    assert streamed.parameters[0].gradient is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype: torch.dtype) -> None:
    held, streamed = both(lambda: Mlp(16, 64, 4, depth=3).to(dtype), vectors(16).to(dtype))
    assert differences(held, streamed) == []


@pytest.mark.filterwarnings("ignore:Using a target size")
@pytest.mark.parametrize("name", [*MODELS, *(pytest.param(case.name, marks=pytest.mark.slow) for case in CASES)])
def test_every_other_model(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next((case for case in CASES if case.name == name), None)
    options = {} if case is None else case.options
    if not {"initialize", "optimizer"}.isdisjoint(options):
        pytest.skip("needs the memory of all parameters")
    torch.manual_seed(1)
    model, batch, *rest = MODELS[name]() if case is None else case.build()
    options = {**(rest[0] if rest else {}), **options}
    if any(parameter.is_meta for parameter in model.parameters()):
        pytest.skip("has no values")
    monkeypatch.setattr(examine, "folded", lambda findings, _: tuple(findings))  # as a skipped rule may be the cause
    held = check(model, batch, **options)
    monkeypatch.setattr(examine, "supply_of", lambda one, *_: emptied(one))
    streamed = check(model, batch, **options)
    skipped = {rule for rule, _ in streamed.skipped} - {rule for rule, _ in held.skipped}
    assert skipped <= {"Z302", "Z506"}
    # what nothing used is not computed
    unread = {one.name for one in streamed.parameters if one.values.count == 0}
    assert unread <= {one.name for one in held.parameters if one.gradient is None}
    assert [one for one in held.parameters if one.name not in unread] == [
        one for one in streamed.parameters if one.name not in unread
    ]
    assert differences(held, streamed, "parameters", "findings", "skipped") in ([], ["loss"][: held.loss is None])
    mine, theirs = (
        [one for one in report.findings if not (skipped and one.rule.id in _LATER)] for report in (streamed, held)
    )
    assert mine == theirs


# -- memory ----------------------------------------------------------------------------------------------------------


def test_experts_that_no_token_reaches_are_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    supplied = emptied(Experts())
    held = supplied.source
    assert isinstance(held, Held)
    monkeypatch.setattr(examine, "supply_of", lambda *_: supplied)
    report = check(Experts(), vectors(16))
    computed = {slot.name for slot in supplied.slots if id(slot.tensor) in held.computed}
    assert {name for name in computed if name.startswith("experts")} == {
        f"experts.{n}.{layer}.{kind}" for n in (0, 1) for layer in (0, 2) for kind in ("weight", "bias")
    }
    idle = {f"experts.{n}.0.weight" for n in range(2, 8)}
    assert idle <= {finding.parameter for finding in report.findings if finding.rule.id == "Z501"}
    assert any("nothing used 24 parameters" in remark for remark in report.sampled)


@pytest.mark.parametrize("make", [lambda: Mlp(256, 256, 256, depth=12), lambda: LanguageModel(width=256, depth=4)])
def test_few_parameters_are_in_memory_at_any_time(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[Any] = []
    most = 0
    values = Source.values

    def counted(self: Source, key: int, dtype: torch.dtype) -> Tensor:
        nonlocal most
        out = values(self, key, dtype)
        alive[:] = [one for one in alive if not one[0].expired()]
        if out.untyped_storage()._cdata not in {one[1] for one in alive}:
            alive.append((StorageWeakRef(out.untyped_storage()), out.untyped_storage()._cdata, out.nbytes))
        most = max(most, sum(one[2] for one in alive))
        return out

    monkeypatch.setattr(Source, "values", counted)
    model, plan = zeta.record(make)
    batch = vectors(256, 4) if isinstance(model, nn.Sequential) else tokens()
    assert ran_streamed(check(model, batch, plan=plan, streamed=True))
    largest = max(parameter.nbytes for parameter in model.parameters())
    assert largest <= most < 2.5 * largest


# -- large parameters ------------------------------------------------------------------------------------------------


class Stacked(nn.Module):
    """Experts as slices of one parameter, of which the first three are used."""

    def __init__(self, count: int = 3, width: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, width, width) * width**-0.5)
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        chosen = torch.tensor([0, 1, 2])  # a router's choice is a tensor
        parts = [F.linear(part, self.weight[n]) for n, part in zip(chosen, x.chunk(3), strict=True)]
        return self.head(sum(parts) / 3)


class ByColumns(nn.Module):
    """A product that no tile is made for."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 64) * 0.25)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x @ self.weight).relu())


def same_units() -> nn.Module:
    model = Mlp(16, 64, 4, depth=3)
    nn.init.constant_(model[2].weight, 0.05)
    return model


@pytest.fixture
def tiny_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supply, "LARGE", 1000)
    monkeypatch.setattr(source, "_SPAN", 300)


@pytest.mark.usefixtures("tiny_tiles")
@pytest.mark.parametrize(
    ("make", "batch"),
    [
        (LanguageModel, tokens),
        (lambda: LanguageModel(tied=True), tokens),
        (Recurrent, tokens),
        (lambda: Stacked(width=24), lambda: vectors(24, 48)),
        (ByColumns, lambda: vectors(16)),
        (same_units, lambda: vectors(16)),
        (frozen, lambda: vectors(16)),
        (Checkpointed, lambda: vectors(16)),
    ],
    ids=["gpt", "tied", "lstm", "stacked", "columns", "same", "frozen", "checkpoint"],
)
def test_parts_of_large_parameters_add_up(make: Any, batch: Any) -> None:
    held, streamed = both(make, batch())
    assert [(one.rule.id, one.parameter, one.layer) for one in held.findings] == [
        (one.rule.id, one.parameter, one.layer) for one in streamed.findings
    ]
    for one, other in zip(held.parameters, streamed.parameters, strict=True):
        assert (one.name, one.units, one.distinct) == (other.name, other.units, other.distinct)
        for mine, theirs in ((one.values, other.values), (one.gradient, other.gradient)):
            assert (mine is None) is (theirs is None)
            if mine is not None and theirs is not None:
                assert (mine.count, mine.nonfinite) == (theirs.count, theirs.nonfinite)
                # a gradient may cancel exactly in one order of its sum only
                assert mine.zeros == pytest.approx(theirs.zeros, abs=0.0 if mine is one.values else 0.1)
                numbers = [(one.mean, one.std, one.low, one.high) for one in (mine, theirs)]
                assert numbers[0] == pytest.approx(numbers[1], rel=1e-4, abs=1e-7)


def asked_of(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, int]]:
    """What is asked of a source from now on: the parameter's size, the first row, and the one after the last."""
    asked: list[tuple[int, int, int]] = []
    computed = Source._computed

    def noted(self: Source, entry: Any, dtype: torch.dtype, region: Any) -> Tensor:
        first, rows = (0, entry.shape[0]) if region is None else (region.offsets[0], region.sizes[0])
        asked.append((entry.numel, first, first + rows))
        return computed(self, entry, dtype, region)

    monkeypatch.setattr(Source, "_computed", noted)
    return asked


@pytest.mark.usefixtures("tiny_tiles")
def test_of_stacked_experts_those_that_are_used_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "moe_intermediate_size": 8, "intermediate_size": 32, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "v_head_dim": 8}
    experts = {"n_routed_experts": 32, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 2}
    layers = {"num_hidden_layers": 1, "first_k_dense_replace": 0, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8}
    config = transformers.DeepseekV3Config(**sizes, **heads, **experts, **layers)
    config._experts_implementation = "eager"
    model, plan = zeta.record(transformers.AutoModelForCausalLM.from_config, config)
    asked = asked_of(monkeypatch)
    words = torch.tensor([[1, 2, 3]])
    streamed, held = (
        check(model, {"input_ids": words, "labels": words}, plan=plan, seed=3, streamed=way) for way in (True, False)
    )
    rows = {first for count, first, _ in asked if count == 32 * 16 * 16}
    assert 2 <= len(rows) <= 6
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert any(f"{len(rows)} of 32 experts of {name} were used" in remark for remark in streamed.sampled)
    mine, theirs = (next(one for one in report.parameters if one.name == name) for report in (streamed, held))
    assert mine.values.count == len(rows) * 256
    values = zeta.values(plan, name, 3)[sorted(rows)]
    assert (mine.values.low, mine.values.high) == (float(values.min()), float(values.max()))
    assert mine.gradient is not None
    assert theirs.gradient is not None
    # the others have a gradient of zero
    assert (1 - mine.gradient.zeros) * len(rows) == pytest.approx((1 - theirs.gradient.zeros) * 32)
    assert mine.gradient.rms * math.sqrt(len(rows)) == pytest.approx(theirs.gradient.rms * math.sqrt(32), rel=1e-4)
    assert [one.rule.id for one in streamed.findings] == [one.rule.id for one in held.findings]


@pytest.mark.usefixtures("tiny_tiles")
def test_a_large_weight_is_computed_once_in_each_direction(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = zeta.record(lambda: nn.Sequential(nn.Linear(16, 80, bias=False), nn.ReLU(), nn.Linear(80, 4)))
    asked = asked_of(monkeypatch)
    batch = vectors(16)[:1]  # one sample cannot be compared with another
    check(model, batch, plan=plan, streamed=True)
    passes = [(first, last) for count, first, last in asked if count == 16 * 80]
    assert len(passes) == 2 * len(set(passes))
    assert sorted(set(passes)) == [(first, min(first + 18, 80)) for first in range(0, 80, 18)]


class Viewing(nn.Module):
    """Asks for facts about a large parameter, and uses some rows of it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(100, 16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        assert not self.table._is_view()
        return self.head(F.embedding(x, self.table).mean(1))


@pytest.mark.usefixtures("tiny_tiles")
def test_facts_about_a_parameter_compute_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = zeta.record(Viewing)
    asked = asked_of(monkeypatch)
    check(model, torch.tensor([[1, 2], [3, 4]]), plan=plan, streamed=True)
    assert (1600, 0, 100) not in asked


@pytest.mark.usefixtures("tiny_tiles")
def test_only_the_rows_that_are_looked_up_are_computed_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    rows = Source.rows

    def counted(self: Source, key: int, dtype: torch.dtype, first: int, last: int) -> Tensor:
        asked.append((first, last))
        return rows(self, key, dtype, first, last)

    monkeypatch.setattr(Source, "rows", counted)
    model, plan = zeta.record(lambda: nn.Sequential(nn.Embedding(1000, 4), nn.Linear(4, 4)))
    check(model, torch.tensor([[7, 8, 9, 500], [7, 7, 999, 500]]), plan=plan, streamed=True)
    assert asked[:3] == [(7, 10), (500, 501), (999, 1000)]
    with pytest.raises(IndexError, match="index out of range: 7 to 1000 in 1000 rows"):
        check(model, torch.tensor([[7, 1000]]), plan=plan, streamed=True)


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    x = torch.randn(5000) * 3 + 1
    x[::7] = 0
    x[3], x[4000], x[4001] = math.inf, -math.inf, math.nan
    whole, joint = (
        measures_of([pending(part) for part in parts]) for parts in ([x], [x[:10], x[10:3000], x[3000:4500], x[4500:]])
    )
    assert whole is not None
    assert joint is not None
    assert (joint.masked, joint.stats.count, joint.stats.nonfinite) == (1, 5000, 3)
    assert joint.stats.zeros == whole.stats.zeros
    for name in ("mean", "std", "low", "high"):
        assert getattr(joint.stats, name) == pytest.approx(getattr(whole.stats, name), rel=1e-6), name
    nothing = torch.full((4,), math.nan)
    lost = measures_of([pending(nothing), pending(nothing)])
    assert lost is not None
    assert (lost.stats.nonfinite, lost.stats.std) == (8, 0.0)
    assert measures_of([pending(x), None]) is None


def test_the_model_stays_as_it_is() -> None:
    model, plan = zeta.record(LanguageModel, tied=True)
    before = dict(model.named_parameters(remove_duplicate=False))
    check(model, tokens(), plan=plan, streamed=True, progress=True)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert list(before) == list(after)
    assert all(before[name] is after[name] and after[name].is_meta for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


# -- when ------------------------------------------------------------------------------------------------------------


def test_a_model_that_takes_more_than_half_of_the_memory_is_streamed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, plan = zeta.record(nn.Linear, 64, 64, bias=False)
    for available, expected in ((2 * 2**14 - 1, True), (2 * 2**14, False), (None, False)):
        monkeypatch.setattr(supply, "available_memory", lambda available=available: available)
        said = r"takes 16\.4 kB, more than half of the 32\.8 kB of memory that are available"
        with pytest.warns(ZetaNotice, match=said) if expected else contextlib.nullcontext():
            assert ran_streamed(check(model, vectors(64), plan=plan)) is expected
        assert not ran_streamed(check(model, vectors(64), plan=plan, streamed=False))
        assert ran_streamed(check(model, vectors(64), plan=plan, streamed=True))


def test_what_cannot_be_streamed_is_said() -> None:
    model, plan = zeta.record(nn.Linear, 8, 8)
    with pytest.raises(SpecError, match=r"streamed=True computes parameters from a plan; pass plan="):
        check(model, vectors(8), streamed=True, initialize=lambda m: None)
    with pytest.raises(SpecError, match="this model has all of its values"):
        check(nn.Linear(8, 8), vectors(8), streamed=True)
    with pytest.raises(SpecError, match="streamed must be True, False or None, got 1"):
        check(model, vectors(8), plan=plan, streamed=1)  # type: ignore[arg-type]


class Writing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.fc.weight.mul_(0.5)
        return self.fc(x)


def test_a_forward_that_writes_to_a_parameter_is_refused() -> None:
    model, plan = zeta.record(Writing)
    with pytest.raises(TargetError, match=r"writes to fc\.weight \(mul_\).*streamed=False"):
        check(model, vectors(8), plan=plan, streamed=True)


def test_rules_that_need_all_parameters_are_named() -> None:
    model, plan = zeta.record(Mlp, 16, 32, 4)
    report = check(
        model, vectors(16), None, "full", plan, streamed=True, optimizer=torch.optim.Adam, initialize=lambda m: None
    )
    skipped = dict(report.skipped)
    rules = {"Z101", "Z801"}
    assert rules <= skipped.keys()
    assert all("streamed=False" in skipped[rule] for rule in rules)
    held = check(model, vectors(16), None, "full", plan, streamed=False)
    assert [one.spectral for one in report.parameters] == [one.spectral for one in held.parameters]
    assert report.parameters[0].spectral is not None


@pytest.mark.filterwarnings("ignore:To copy construct from a tensor", "ignore:None of the inputs have")
@pytest.mark.parametrize("case", [case for case in WIRED_WRONG if case.rule in _WIRED], ids=lambda one: one.name)
def test_samples_and_parameters_are_changed(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    model, batch, *rest = case.build()
    options = rest[0] if rest else {}
    monkeypatch.setattr(examine, "folded", lambda findings, _: tuple(findings))  # as a skipped rule may be the cause
    held = check(model, batch, **options)
    monkeypatch.setattr(examine, "supply_of", lambda one, *_: emptied(one))
    report = check(model, batch, **options)
    assert ran_streamed(report)
    mine, theirs = ([one for one in each.findings if one.rule.id in _WIRED] for each in (report, held))
    assert case.rule in {one.rule.id for one in mine}
    assert mine == theirs
    skipped, there = ({pair for pair in each.skipped if pair[0] in _WIRED} for each in (report, held))
    assert skipped == there


def test_an_optimizer_of_parameters_on_meta_is_compared_with_the_model() -> None:
    torch.manual_seed(0)
    model, plan = zeta.record(Mlp, 16, 32, 4)
    named = dict(model.named_parameters())
    biases = [name for name in named if name.endswith("bias")]
    groups = [{"params": [named[name] for name in named if name != biases[0]]}]
    for optimizer in (torch.optim.Adam(groups), lambda rows: torch.optim.Adam([one for one in rows if one.ndim > 1])):
        held, streamed = (
            check(model, vectors(16), plan=plan, streamed=way, optimizer=optimizer) for way in (False, True)
        )
        mine, theirs = ([one for one in each.findings if one.rule.id in ("Z902", "Z903")] for each in (streamed, held))
        assert mine == theirs
        assert [one.rule.id for one in mine] == ["Z902"]
        assert mine[0].parameter == biases[0]
        assert not {"Z902", "Z903"} & {rule for rule, _ in streamed.skipped}
    decayed = check(model, vectors(16), plan=plan, streamed=True, optimizer=torch.optim.AdamW(model.parameters()))
    assert [one.parameter for one in decayed.findings if one.rule.id == "Z903"] == [biases[0]]
