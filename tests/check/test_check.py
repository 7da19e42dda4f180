"""The health check itself: what it changes (nothing), what it sees, what it takes."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import zeta
from tests.conftest import rng_states
from tests.helpers import healthy
from tests.helpers.bits import same_bits
from tests.helpers.networks import LanguageModel, Mlp, Residual, images, tokens, vectors
from tests.helpers.sick import Forgetful
from zeta.check import CheckReport, Severity, Thresholds, check
from zeta.check.watch.isolation import preserved
from zeta.errors import LayerTypeError, SpecError, TargetError

# -- nothing is changed ----------------------------------------------------------------------------------------------


class Restless(nn.Module):
    """Whatever a forward pass can change, this one does."""

    def __init__(self, fails: bool = False) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.fc = nn.Linear(8, 8)
        self.spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 8))
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("average", torch.zeros(8))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.seen = torch.zeros(8)
        self.calls = 0
        self.fails = fails
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(self.spectral(self.fc(self.norm(x))))
        self.calls += 1
        self.cache = y.detach()
        self.count += 1
        self.average = self.average * 0.9 + x.mean(0)  # a new tensor in the buffer's place
        self.seen.add_(x.mean(0))
        self.fc.weight.data.clamp_(-0.1, 0.1)
        self.norm.eval()
        self.head.weight.requires_grad_(False)
        self.fc.register_forward_hook(lambda *_: None)
        torch.rand(1), random.random(), np.random.rand()
        if self.fails:
            raise RuntimeError("in the middle")
        return self.head(y + torch.randn_like(y))


def state(model: Restless) -> dict[str, Any]:
    return {
        "tensors": {
            name: (id(t), t._version, t.detach().clone(), t.grad, t.requires_grad)
            for name, t in [*model.named_parameters(), *model.named_buffers(), ("seen", model.seen)]
        },
        "grads": {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None},
        "modes": {name: module.training for name, module in model.named_modules()},
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "hooks": {name: len(m._forward_hooks) + len(m._forward_pre_hooks) for name, m in model.named_modules()},
        "calls": model.calls,
    }


def compare(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, (identity, _, values, grad, learned) in before["tensors"].items():
        other = after["tensors"][name]
        assert other[0] == identity, f"{name} is another tensor"
        assert same_bits(other[2], values), f"{name} has other values"
        assert other[3] is grad, f"{name} has another gradient"
        assert other[4] == learned, name
    for name, grad in before["grads"].items():
        assert same_bits(after["grads"][name], grad), f"the gradient of {name} has other values"
    for key in ("modes", "attributes", "hooks", "calls"):
        assert after[key] == before[key], key


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_changed(fails: bool) -> None:
    model = Restless(fails)
    model.dropout.eval()
    for number, parameter in enumerate(model.parameters()):
        if number % 2:
            parameter.grad = torch.full_like(parameter, float(number))
    x = vectors(8)
    kept = x.clone()
    before, generators = state(model), rng_states()
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            check(model, x)
    else:
        report = check(model, x, initialize=lambda m: [p.data.fill_(0.5) for p in m.parameters()], level="full")
        assert isinstance(report, CheckReport)
    assert rng_states() == generators
    compare(before, state(model))
    assert same_bits(x, kept)


def test_what_did_not_change_is_not_written_to() -> None:
    model = Mlp(8, 16, 4)
    loss = model(vectors(8)).square().sum()
    check(model, vectors(8))
    loss.backward()  # would raise if a parameter had been written to in the meantime


def test_nothing_is_changed_by_an_initialization_that_fails() -> None:
    def failing(model: Any) -> None:
        model.fc.weight.data.fill_(3.0)
        raise ValueError("no more")

    model = Forgetful()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    with pytest.raises(ValueError, match="no more"):
        check(model, vectors(8), initialize=failing)
    assert all(same_bits(model.state_dict()[name], t) for name, t in before.items())


def test_nan_and_signed_zeros_come_back() -> None:
    layer = nn.Linear(2, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[float("nan"), -0.0], [0.0, 1.0]]))
    before = layer.weight.detach().clone()
    with preserved(layer), torch.no_grad():
        layer.weight.zero_()
    assert same_bits(layer.weight, before)


def test_a_check_repeats_itself() -> None:
    """A model that draws gets the same numbers; how a library sums may depend on where memory lies."""

    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x + torch.randn_like(x))

    model, batch = Noisy(), vectors(8)
    first = check(model, batch)
    torch.rand(1)
    second = check(model, batch)
    for one, other in zip((*first.layers, *first.parameters), (*second.layers, *second.parameters), strict=True):
        assert one.gradient.rms == pytest.approx(other.gradient.rms, rel=1e-5)
    assert first.layers[0].output.rms == pytest.approx(second.layers[0].output.rms, rel=1e-5)


# -- what is seen ----------------------------------------------------------------------------------------------------


def layers(report: CheckReport) -> dict[str, Any]:
    return {layer.name: layer for layer in report.layers}


def test_statistics_are_those_of_the_tensors() -> None:
    model, x = Mlp(8, 16, 4), vectors(8)
    found = layers(check(model, x, loss=lambda y, _: y.square().sum()))
    h = model[0](x)
    a = torch.relu(h)
    y = model[2](a)
    for name, expected in (("0", h), ("1", a), ("2", y)):
        stats, expected = found[name].output, expected.detach()
        assert stats.count == expected.numel()
        assert stats.mean == pytest.approx(float(expected.mean()), abs=1e-6)
        assert stats.std == pytest.approx(float(expected.std(correction=0)), rel=1e-5)
        assert (stats.low, stats.high) == (float(expected.min()), float(expected.max()))
        assert stats.zeros == float((expected == 0).double().mean())
        assert sum(stats.histogram.counts) == expected.numel()
    gradients = torch.autograd.grad(y.square().sum(), (h, a, y))
    for name, expected in zip(("0", "1", "2"), gradients, strict=True):
        assert found[name].gradient.rms == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-5)
    h, a = h.detach(), a.detach()
    assert found["1"].factor == pytest.approx(float(a.square().mean() / h.square().mean()), rel=1e-5)
    assert found["1"].dead == float((h.amax(0) <= 0).double().mean())
    assert found["0"].parameters == ("0.weight", "0.bias")


class Reused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(8, 8), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.relu(self.act(self.fc(x)))
        return torch.sigmoid(x) + torch.sigmoid(x.neg())


def test_reused_modules_and_calls_are_numbered() -> None:
    assert list(layers(check(Reused(), vectors(8)))) == [
        *("fc", "act", "model:relu", "fc#2", "act#2", "model:relu#2", "model:sigmoid", "model:sigmoid#2"),
    ]


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_is_seen_inside_multihead_attention(need_weights: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = nn.MultiheadAttention(16, 2, batch_first=True, dropout=0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.attn(x, x, x, need_weights=need_weights)[0]

    model, x = Model(), torch.randn(4, 6, 16)
    name = "attn:scaled_dot_product_attention" if not need_weights else "attn:attention"
    layer = layers(check(model, x))[name]
    q, k, _ = (x @ model.attn.in_proj_weight.T).view(4, 6, 3, 2, 8).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-1, -2) / 8**0.5
    scores = scores.detach()
    weights = scores.softmax(-1)
    entropy = -(weights * weights.log()).sum(-1).mean() / np.log(6)
    assert layer.entropy == pytest.approx(float(entropy), rel=1e-4)
    assert layer.largest_logit == pytest.approx(float(scores.abs().max()), rel=1e-4)


def test_zero_queries_that_learn_are_benign() -> None:
    model = LanguageModel()
    for block in model.blocks:
        nn.init.zeros_(block.attn.in_proj_weight[: block.attn.embed_dim])
    assert not {f.rule.id for f in check(model, tokens()).findings} & {"Z301", "Z302", "Z506"}


def test_zero_units_of_a_weight_that_gets_nothing_at_all_are_not_said_twice() -> None:
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 1), nn.Softmax(-1))
    nn.init.zeros_(model[0].weight[:4])
    (cause,) = (f for f in check(model, vectors(8)).findings if f.consequences)
    assert cause.rule.id == "Z406"
    assert [one.rule for one in cause.consequences if one.place == "0.weight"] == ["Z506"]


def test_what_overflows_is_said_to_overflow_and_no_more() -> None:
    model = Mlp(8, 16, 4, depth=12)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=1e6)
    report = check(model, vectors(8))
    failures = {f.rule.id for f in report.findings if f.severity is Severity.FAIL}
    assert failures == {"Z401", "Z402"}
    assert not {f.rule.id for f in report.findings} & {"Z506", "Z507"}


def test_causal_attention_is_measured_over_the_keys_that_are_seen() -> None:
    model = LanguageModel()
    for block in model.blocks:
        nn.init.zeros_(block.attn.in_proj_weight)
    found = layers(check(model, tokens()))
    assert found["blocks.0.attn:scaled_dot_product_attention"].entropy == pytest.approx(1.0)


def test_dropout_is_silent() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.9), nn.Linear(8, 4))
    x = vectors(8)
    expected = model[2](model[0](x)).detach()
    assert layers(check(model, x))["2"].output.rms == pytest.approx(float(expected.square().mean().sqrt()), rel=1e-5)


def test_a_parametrized_layer_is_a_layer() -> None:
    weight_norm = nn.utils.parametrizations.weight_norm
    model = nn.Sequential(weight_norm(nn.Linear(8, 8, bias=False)), nn.ReLU(), weight_norm(nn.Linear(8, 8)))
    seen = check(model, vectors(8)).layers
    expected = [("0", "Linear", ("0.weight",)), ("1", "ReLU", ()), ("2", "Linear", ("2.bias", "2.weight"))]
    assert [(layer.name, layer.kind, layer.parameters) for layer in seen] == expected
    assert not any(layer.block for layer in seen)


def test_gradients_inside_attention_are_no_measure_of_depth() -> None:
    """Queries and keys of almost uniform attention get almost none."""
    model = LanguageModel(depth=1)
    with torch.no_grad():
        model.blocks[0].attn.in_proj_weight.mul_(1e-3)
    assert "Z504" not in {finding.rule.id for finding in check(model, tokens()).findings}


def test_units_of_one_weight_are_told_apart_by_gradients_that_differ_a_little() -> None:
    model = Mlp(8, 16, 4)
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]
        model[2].weight[:, 1] = model[2].weight[:, 0] * 1.01
    found = {f.rule.id for f in check(model, vectors(8)).findings}
    assert "Z304" in found
    assert "Z301" not in found


def test_units_of_images_are_their_channels() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(x).mean((2, 3)))

    x = images(3)
    x[:, 1].abs_().neg_()
    assert layers(check(Model(), x))["model:relu"].dead == pytest.approx(1 / 3)


def test_a_tied_weight_is_used_where_any_of_its_modules_runs() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.spare, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.body.weight = self.spare.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.body(x).detach())

    report = check(Model(), vectors(8))
    found = {f.parameter: f.rule.id for f in report.findings}
    assert found == {"body.weight": "Z502", "spare.bias": "Z501"}, "one line for both of body's"


def test_layers_and_parameters_name_a_tied_weight_alike() -> None:
    """Neither registration nor the order of use decides the name: an embedding's, else the first in the alphabet."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zebra, self.body, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
            self.body.weight = self.zebra.weight
            nn.init.zeros_(self.body.weight)
            nn.init.zeros_(self.body.bias)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.body(F.relu(self.zebra(x)))))

    torch.manual_seed(1)
    report = check(Model(), vectors(8))
    found = layers(report)
    assert found["body"].parameters[0] == found["zebra"].parameters[0] == "body.weight"
    assert {name for layer in report.layers for name in layer.parameters} <= {p.name for p in report.parameters}
    assert ("Z302", "body.weight") in {(f.rule.id, f.parameter) for f in report.findings}


def test_the_head_is_the_layer_and_not_the_model_around_it() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.body, self.head = nn.Parameter(torch.ones(8)), nn.Linear(8, 64), nn.Linear(64, 10)
            nn.init.normal_(self.head.weight, std=3.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.body(x * self.scale)))

    (finding,) = [f for f in check(Model(), (vectors(8), torch.arange(64) % 10)).findings if f.rule.id == "Z601"]
    assert (finding.layer, finding.parameter) == ("head", "head.weight")


def test_a_module_that_fails_and_is_caught_leaves_no_trace() -> None:
    class Fails(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("not for this")

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attempt, self.fc = Fails(), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            with contextlib.suppress(ValueError):
                return self.attempt(x)
            return self.fc(x)

    assert list(layers(check(Model(), vectors(8)))) == ["fc"]


def test_blocks_are_marked() -> None:
    report = check(Residual(depth=3), vectors(16))
    assert [layer.name for layer in report.layers if layer.block] == ["blocks.0", "blocks.1", "blocks.2"]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_are_seen_once(reentrant: bool) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.inner, self.head = nn.Linear(8, 8), Mlp(8, 16, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.utils.checkpoint.checkpoint(self.inner, self.first(x), use_reentrant=reentrant))

    model = Model()
    apply = torch.utils.checkpoint.CheckpointFunction.apply
    report = check(model, vectors(8), suppress=["Z410"])
    found = layers(report)
    assert report.findings == ()
    assert torch.utils.checkpoint.CheckpointFunction.apply == apply
    assert list(found) == ["first", "inner.0", "inner.1", "inner.2", "head"]
    assert all(layer.gradient is not None for layer in report.layers)
    model(vectors(8)).sum().backward()  # still checkpointed, still works


# -- batches, outputs, losses ----------------------------------------------------------------------------------------


class Pair(NamedTuple):
    x: Tensor
    y: Tensor


@dataclass
class Batch:
    x: Tensor
    scale: float


class Dataclass(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, batch: Batch) -> Batch:
        return Batch(self.fc(batch.x) * batch.scale, 1.0)


class Two(nn.Module):
    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return first + second


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 4)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> dict[str, Any]:
        y = self.fc(inputs)
        return {"logits": y if mask is None else y * mask, "extra": (None, [y])}


def test_batches_of_every_kind() -> None:
    x, y = vectors(8), torch.arange(64) % 4
    mlp = Mlp(8, 16, 4)
    expected = F.cross_entropy(mlp(x), y).item()
    assert check(mlp, x).loss.classes is None
    for batch in ((x, y), [x, y], Pair(x, y), {"input": x, "labels": y}, {"anything": x, "target": y}):
        assert check(mlp, batch).loss.value == pytest.approx(expected), batch
    assert check(Named(), {"inputs": x, "mask": torch.ones(64, 1), "labels": y}).loss.classes == 4
    assert layers(check(Dataclass(), Batch(x, 2.0)))["fc"].gradient.rms > 0


@dataclass(frozen=True)
class Frozen:
    x: Tensor
    scale: float = field(default=2.0, init=False)


def test_a_dataclass_is_copied_past_its_constructor() -> None:
    batch = Frozen(vectors(8))
    assert layers(check(Dataclass(), batch))["fc"].gradient.rms > 0  # type: ignore[arg-type]
    assert batch.scale == 2.0


def test_an_empty_batch_is_refused() -> None:
    for batch in (vectors(8, 0), (vectors(8, 0), torch.zeros(0, dtype=torch.int64))):
        with pytest.raises(SpecError, match=r"this batch has no values"):
            check(Mlp(8, 16, 4), batch)


def test_a_batch_that_the_model_cannot_take_is_refused() -> None:
    with pytest.raises(SpecError, match=r"Two.forward\(.*cannot take this batch \(dict: nonsense \(64, 8\)\)"):
        check(Two(), {"nonsense": vectors(8), "more": 1})


def test_losses() -> None:
    model, x = Mlp(8, 16, 4), vectors(8)
    given = check(model, x, loss=lambda y, batch: (y - batch[:, :4]).square().mean())
    inferred = check(model, (x, x[:, :4]))
    assert given.loss.value == pytest.approx(inferred.loss.value)
    with pytest.raises(SpecError, match=r"must return a tensor with one element, got a Tensor \(float32, 64 x 4\)"):
        check(model, x, loss=lambda y, _: y)
    model = LanguageModel()
    batch = tokens()
    logits = model.eval()(batch)
    report = check(model, batch)
    expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
    assert (report.loss.classes, report.loss.value) == (100, pytest.approx(expected.item(), rel=1e-4))


def test_losses_of_torch_get_the_target() -> None:
    model, x, classes = Mlp(8, 16, 4), vectors(8), torch.arange(64) % 4
    report = check(model, (x, classes), loss=nn.CrossEntropyLoss())
    assert report.loss == check(model, (x, classes)).loss
    absolute = nn.L1Loss()
    value = check(model, (x, x[:, :4]), loss=absolute).loss.value
    assert value == pytest.approx(absolute(model(x), x[:, :4]).item(), rel=1e-5)
    with pytest.raises(SpecError, match=r"^MSELoss needs the model's output and a target, and the batch has no target"):
        check(model, x, loss=nn.MSELoss())
    with pytest.raises(SpecError, match=r"loss must be a function of two arguments, the model's output and the batch"):
        check(model, x, loss=lambda y: y.sum())


def test_a_function_for_a_target_is_told_that_it_gets_the_batch() -> None:
    model, x, classes = Mlp(8, 16, 4), vectors(8), torch.arange(64) % 4
    with pytest.raises(SpecError, match=r"^loss=cross_entropy fails: .*called as loss\(output, batch\)") as caught:
        check(model, (x, classes), loss=F.cross_entropy)
    assert "the whole batch (tuple: 0 (64, 8), 1 (64,))" in str(caught.value)
    assert "lambda output, batch: cross_entropy(output, batch[1]); or give a loss of torch.nn" in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)


@pytest.mark.parametrize("once", [iter, lambda loader: (batch for batch in loader)])
def test_an_iterator_is_no_batch(once: Any) -> None:
    loader = DataLoader(TensorDataset(vectors(8), torch.arange(64) % 4), batch_size=32)
    with pytest.raises(SpecError, match=r"check takes one batch or a DataLoader, got .*gives many"):
        check(Mlp(8, 16, 4), once(loader))


def test_outputs_that_are_probabilities_are_taken_for_them() -> None:
    model, x, classes = Mlp(8, 16, 4), vectors(8), torch.arange(64) % 4
    for end, labels in ((nn.Softmax(-1), classes), (nn.Sigmoid(), (torch.randn(64, 4) > 0).long())):
        expected = check(model, (x, labels)).loss.value
        report = check(nn.Sequential(*model, end), (x, labels))
        assert report.loss.value == pytest.approx(expected, rel=1e-5)
        assert report.ok
        assert "Z605" not in {f.rule.id for f in report.findings}
    of_logs = check(nn.Sequential(*model, nn.LogSoftmax(-1)), (x, classes), loss=nn.CrossEntropyLoss())
    assert "Z605" not in {f.rule.id for f in of_logs.findings}  # twice is as good as once


@pytest.mark.parametrize("end", [nn.Softmax(-1), nn.Sigmoid()], ids=["softmax", "sigmoid"])
def test_cross_entropy_of_probabilities_is_found_whatever_made_them(end: nn.Module) -> None:
    model, x = nn.Sequential(*Mlp(8, 16, 4), end), vectors(8)
    assert {f.rule.id for f in check(model, (x, torch.arange(64) % 4), loss=nn.CrossEntropyLoss()).findings} == {"Z605"}


def test_a_sigmoid_is_seen_through_views_and_casts() -> None:
    model, x = nn.Sequential(*Mlp(8, 16, 1), nn.Sigmoid()), vectors(8)
    labels = (torch.randn(64) > 0).long()
    assert check(model, (x, labels)).loss.value == pytest.approx(check(model[:3], (x, labels)).loss.value, rel=1e-5)
    for shaped in (lambda y: y.squeeze(), lambda y: y.view(-1).bfloat16().float(), lambda y: y[:, 0]):
        report = check(model, (x, labels), lambda y, b: F.binary_cross_entropy_with_logits(shaped(y), b[1].float()))  # noqa: B023
        assert [f.rule.id for f in report.findings] == ["Z605"]
    scaled = check(model, (x, labels), lambda y, b: F.binary_cross_entropy_with_logits(9 * y.squeeze(), b[1].float()))
    assert "Z605" not in {f.rule.id for f in scaled.findings}


def test_a_loss_takes_two_arguments() -> None:
    class Own(nn.Module):
        def forward(self, output: Tensor, batch: Any) -> Tensor:
            return F.cross_entropy(output, batch[1])

    model, batch = Mlp(8, 16, 4), (vectors(8), torch.arange(64) % 4)
    expected = check(model, batch).loss
    alike = (Own(), lambda *both: Own()(*both), functools.partial(Own().forward))
    for loss in alike:
        assert check(model, batch, loss).loss == expected
    assert check(nn.Sequential(nn.Linear(4, 4)), torch.randn(8, 4), torch.dist).loss.value > 0  # has no signature
    for loss in (nn.TripletMarginLoss(), nn.GaussianNLLLoss(), lambda y, b, *, weight: y.sum()):
        with pytest.raises(SpecError, match="loss must be a function of two arguments"):
            check(model, batch, loss)


class Graph:
    """As the batches of graph libraries: tensors that nobody sees, and a method that moves them in place."""

    def __init__(self, x: Tensor) -> None:
        self.x = x

    def to(self, device: torch.device) -> Graph:
        self.x = self.x.to(device, copy=True)
        return self


class OfGraphs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = Mlp(8, 16, 4)

    def forward(self, graph: Graph) -> Tensor:
        graph.x.mul_(1.5)
        return self.layers(graph.x)


def test_batches_of_other_classes_are_moved_by_their_own_method() -> None:
    torch.manual_seed(0)  # of another state, the spread of so few logits may cost more than a warning's worth
    graph = Graph(vectors(8))
    tensor, before = graph.x, graph.x.clone()
    for batch in (graph, (graph, torch.arange(64) % 4)):
        assert check(OfGraphs(), batch).ok
        assert graph.x is tensor
        assert torch.equal(tensor, before)


def test_targets_of_one_number_for_each_sample() -> None:
    model, x = Mlp(8, 16, 1), vectors(8)
    logits = model(x).squeeze(-1).detach()
    whole, real = torch.arange(64) % 2, torch.randn(64)
    assert check(model, (x, whole)).loss.value == pytest.approx(
        F.binary_cross_entropy_with_logits(logits, whole.float()).item(), rel=1e-5
    )
    assert check(model, (x, real)).loss.value == pytest.approx(F.mse_loss(logits, real).item(), rel=1e-5)


def test_targets_beyond_the_classes_are_refused() -> None:
    with pytest.raises(SpecError, match=r"target holds classes from 0 to 6, and the model's output .* logits of 4"):
        check(Mlp(8, 16, 4), (vectors(8), torch.arange(64) % 7))
    ignored = torch.where(torch.arange(64) % 2 == 0, -100, torch.arange(64) % 4)
    assert check(Mlp(8, 16, 4), (vectors(8), ignored)).loss.classes == 4


def test_labels_are_not_said_to_leak_where_samples_are_paired() -> None:
    model, batch, options = healthy.contrastive()
    assert {f.rule.id for f in check(model, batch, **options).findings} <= {"Z601"}
    model, batch = nn.Linear(64, 64), (torch.eye(64), torch.arange(64))
    nn.init.eye_(model.weight).data.mul_(3)
    assert "Z602" not in {f.rule.id for f in check(model, batch).findings}
    report = check(model, batch, loss=lambda y, _: F.cross_entropy(F.pad(y, (0, 1)), torch.arange(64)))
    assert "Z602" in {f.rule.id for f in report.findings}  # one class more: no pairs


def test_a_loss_over_no_labels_is_not_a_number_because_no_label_counts() -> None:
    report = check(Mlp(8, 16, 4), (vectors(8), torch.full((64,), -100)))
    assert [f.rule.id for f in report.findings if f.severity is Severity.FAIL] == ["Z613"]


def test_loss_of_a_head_at_chance_level() -> None:
    model = Mlp(8, 16, 7)
    nn.init.zeros_(model[2].weight)
    nn.init.constant_(model[2].bias, 100.0)  # of all classes alike
    loss = check(model, (vectors(8), torch.arange(64) % 7)).loss
    assert loss.expected == pytest.approx(np.log(7), rel=1e-5)


# -- models of every kind --------------------------------------------------------------------------------------------


def test_a_compiled_model_is_checked_as_the_original() -> None:
    model = Mlp(8, 16, 4)
    x = vectors(8)
    compiled = torch.compile(model)
    assert list(layers(check(compiled, x))) == ["0", "1", "2"]
    inside = nn.Sequential(torch.compile(nn.Linear(8, 16)), nn.ReLU(), nn.Linear(16, 4))
    assert list(layers(check(inside, x))) == ["0", "1", "2"]
    assert check(inside, x).parameters[0].name == "0.weight"


@pytest.fixture
def mesh() -> Iterator[Any]:
    import torch.distributed as dist

    if not dist.is_available():
        pytest.skip("torch was built without distributed")
    store = dist.HashStore()
    dist.init_process_group("gloo", rank=0, world_size=1, store=store)
    try:
        yield torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
    finally:
        dist.destroy_process_group()


def test_fsdp2_is_checked_on_global_values(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(0)
    model, x = Mlp(8, 16, 4, depth=3), vectors(8)
    with torch.no_grad():
        model[2].weight[1] = model[2].weight[0]
        model[2].bias[1] = model[2].bias[0]
        model[4].weight[:, 1] = model[4].weight[:, 0]
    expected = check(model, x)
    for layer in (*(layer for layer in model if isinstance(layer, nn.Linear)), model):
        fully_shard(layer, mesh=mesh)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    grad = model[0].weight.grad
    report = check(model, x)
    assert [(f.rule.id, f.parameter, f.message) for f in report.findings] == [
        (f.rule.id, f.parameter, f.message) for f in expected.findings
    ]
    assert report.findings[0].parameter == "2.weight"
    assert [p.name for p in report.parameters] == [p.name for p in expected.parameters]
    for mine, theirs in zip(report.parameters, expected.parameters, strict=True):
        assert mine.shape == theirs.shape
        assert mine.gradient.rms == pytest.approx(theirs.gradient.rms, rel=1e-5)
    assert model[0].weight.grad is grad
    assert bool((grad.full_tensor() == 1).all())
    assert model[2].weight.grad is None
    model(x).sum().backward()  # still works


def test_fsdp2_is_sharded_again_where_no_backward_pass_follows(mesh: Any) -> None:
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    model, plain = fully_shard(Mlp(8, 16, 4), mesh=mesh), Mlp(8, 16, 4)
    found = [
        [(f.rule.id, f.parameter) for f in check(one, vectors(8), loss=lambda y, _: y.detach().sum()).findings]
        for one in (model, plain)
    ]
    assert found[0] == found[1]
    assert ("Z503", None) in found[0]
    assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert not model(vectors(8)).any()  # gathered anew


def test_a_model_on_meta_is_checked_on_a_copy() -> None:
    model, plan = zeta.record(Mlp, 8, 64, 4)
    report = check(model, vectors(8), plan=plan, seed=7)
    assert (report.ok, report.seed, model[0].weight.is_meta) == (True, 7, True)
    assert report.parameters[0].planned_std == pytest.approx(0.5)
    with pytest.raises(TargetError, match=r"on meta and have no values; pass plan= or initialize="):
        check(model, vectors(8))


def test_what_is_written_in_full_is_not_reported() -> None:
    model = Forgetful()

    def everything(m: Any) -> None:
        m.init_weights()
        nn.init.ones_(m.scale)
        m.shift.zero_()
        m.count.zero_()

    assert [f.rule.id for f in check(model, vectors(8), initialize=everything).findings] == []


# -- arguments -------------------------------------------------------------------------------------------------------


class Silent(nn.Module):
    def forward(self, *_: Any) -> Tensor:
        raise AssertionError("run before the arguments were looked at")


def test_wrong_arguments_are_refused() -> None:
    model, x = Mlp(8, 16, 4), vectors(8)
    with pytest.raises(LayerTypeError, match=r"expected a torch\.nn\.Module, got 3"):
        check(3, x)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="level must be one of fast, full, got 'quick'"):
        check(model, x, level="quick")  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="plan must be a Plan"):
        check(model, x, plan="gpt2")  # type: ignore[arg-type]
    with pytest.raises(TargetError, match="run one forward pass first"):
        check(nn.Sequential(nn.LazyLinear(4)), x)
    for wrong in (3, [], [torch.optim.SGD(model.parameters()), 3]):
        with pytest.raises(
            SpecError, match=r"optimizer must be a torch\.optim\.Optimizer, a list of them, or a function"
        ):
            check(model, x, optimizer=wrong)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"optimizer= must return a torch\.optim\.Optimizer"):
        check(model, x, optimizer=list)  # type: ignore[arg-type]
    for name, value in (("loss", 3), ("initialize", "x"), ("thresholds", {}), ("seed", 1.5), ("suppress", None)):
        with pytest.raises(SpecError, match=f"^{name} must be"):
            check(Silent(), x, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="LBFGS asks for the loss during its step"):
        check(model, x, optimizer=torch.optim.LBFGS(model.parameters()))


def test_thresholds_are_checked_and_used() -> None:
    for name, value, message in (
        ("dead_fail", float("nan"), "must be a number of at least 0, got nan"),
        ("dead_fail", -0.1, "must be a number of at least 0, got -0.1"),
        ("dead_fail", 95, "is a fraction and must be at most 1, got 95"),
        ("overflow_margin", 0, "must be a number above 0, got 0"),
        ("shortest_run", 1, "must be a number of at least 2, got 1"),
        ("patience", 2.5, "must be a whole number, got 2.5"),
    ):
        with pytest.raises(SpecError, match=f"{name} {message}"):
            Thresholds(**{name: value})  # type: ignore[arg-type]
    model = Mlp(8, 16, 4)
    nn.init.zeros_(model[2].weight)
    report = check(model, vectors(8), thresholds=Thresholds(dead_warn=0.0, fewest_samples=1, dead_fail=0.0))
    assert report.ok
    nn.init.constant_(model[0].bias[:2], -10.0)
    report = check(model, vectors(8), thresholds=Thresholds(dead_warn=0.0, dead_fail=0.1))
    assert [(f.rule.id, f.limit) for f in report.findings if f.severity is Severity.FAIL] == [("Z404", 0.1)]


def test_the_optimizers_first_step() -> None:
    model = Mlp(8, 16, 4)
    optimizer = torch.optim.AdamW(
        [{"params": model[0].parameters(), "lr": 0.01}, {"params": model[2].parameters(), "lr": 0.1}], weight_decay=0.0
    )
    report = check(model, vectors(8), optimizer=optimizer)
    sizes = {p.name: (p.update, p.values.rms) for p in report.parameters}
    for name, rate in (("0.weight", 0.01), ("2.weight", 0.1)):
        update, rms = sizes[name]
        assert update == pytest.approx(rate / rms, rel=0.05)  # Adam's first step is the learning rate, by sign
    assert optimizer.state == {}
    assert sizes["0.bias"][0] is None  # zero: no size to compare with


@pytest.mark.parametrize("made", [True, False])
def test_a_first_step_is_told_with_its_parameter_group(made: bool) -> None:
    model = Mlp(8, 16, 4, depth=3)

    def sgd(parameters: Iterable[Tensor]) -> torch.optim.SGD:
        weights = [parameter for parameter in parameters if parameter.ndim == 2]
        groups = [{"params": [torch.zeros(1, requires_grad=True)]}] + [{"params": [weight]} for weight in weights]
        return torch.optim.SGD([*groups[:2], {**groups[2], "lr": 1e5}, *groups[3:]], lr=1e-3)

    report = check(model, vectors(8), optimizer=sgd(model.parameters()) if made else sgd)
    [found] = [f for f in report.findings if f.rule.id == "Z701"]
    assert (found.parameter, found.severity) == ("2.weight", Severity.FAIL)
    assert found.message.startswith("the first step of parameter group 2 (lr 1e+05) changes it by ")
    alone = check(model, vectors(8), optimizer=torch.optim.SGD(model.parameters(), lr=1e5))
    assert all("group" not in f.message for f in alone.findings if f.rule.id == "Z701")


class Scaled(nn.Module):
    def __init__(self, size: float, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.conv, self.branch, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 4)
        self.layer_scale = nn.Parameter(torch.full(shape, size))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return self.head((x + self.layer_scale * self.branch(x).relu()).mean((2, 3)))


def test_a_layer_scale_of_any_shape_starts_small_on_purpose() -> None:
    torch.manual_seed(0)
    for shape in ((16, 1, 1), (1, 16, 1, 1)):
        model = Scaled(1e-5, shape)
        report = check(model, images(3), optimizer=torch.optim.AdamW(model.parameters(), 1e-4))
        assert not [found.message for found in report.findings if found.rule.id == "Z701"]


@pytest.mark.parametrize(
    ("units", "off", "found"), [(4, 4, False), (9, 9, False), (10, 10, True), (16, 14, False), (64, 46, True)]
)
def test_few_dead_units_may_be_chance(units: int, off: int, *, found: bool) -> None:
    model = Mlp(8, units, 4)
    nn.init.constant_(model[0].bias, 10.0)
    nn.init.constant_(model[0].bias[:off], -100.0)
    assert ("Z404" in {f.rule.id for f in check(model, vectors(8)).findings}) is found


# -- suppression -----------------------------------------------------------------------------------------------------


def test_suppressed_findings_are_kept() -> None:
    model = Mlp(8, 16, 4, depth=3)
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.weight, 0.1)
    x = vectors(8)
    whole = check(model, x)
    assert {f.rule.id for f in whole.findings} >= {"Z301"}
    for pattern in ("Z301", "Z3"):
        report = check(model, x, suppress=[pattern])
        assert not any(f.rule.id.startswith(pattern) for f in report.findings)
        assert {f.parameter for f in report.suppressed if f.rule.id == "Z301"} == {"0.weight", "2.weight"}
    report = check(model, x, suppress=["Z301:2.*"])
    assert [f.parameter for f in report.findings if f.rule.id == "Z301"] == ["0.weight"]
    assert [f.parameter for f in report.suppressed] == ["2.weight"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("Z999", "no rule or group has the id 'Z999'"),
        ("z301", "no rule or group has the id 'z301'"),
        ("Z301:", "after the colon comes a name or a glob"),
        ("", "no rule or group has the id ''"),
    ],
)
def test_a_mistyped_suppression_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check(Mlp(8, 16, 4), vectors(8), suppress=[pattern])
    with pytest.raises(SpecError, match="must be a list of rule ids"):
        check(Mlp(8, 16, 4), vectors(8), suppress="Z301")


def test_findings_come_worst_first() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 36, 4))
    nn.init.zeros_(model[2].weight)
    model[0].weight.requires_grad_(False)
    nn.init.constant_(model[0].bias, float("inf"))
    report = check(model, images(3))
    order = [list(Severity).index(finding.severity) for finding in report.findings]
    assert order == sorted(order)
    assert not report.ok
