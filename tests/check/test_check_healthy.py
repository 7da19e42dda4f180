"""Healthy models: no finding fails them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from tests.helpers.healthy import LIBRARY, MODELS, SPEECH
from tests.helpers.networks import images
from zeta.check import check
from zeta.command.samples import batch_for
from zeta.initializers import Zeros, xavier_uniform
from zeta.rules import Rule, Rules, kind


def show(report: Any) -> list[str]:
    return [f"{f.rule.id} {f.severity.value} {f.parameter or f.layer}: {f.message}" for f in report.findings]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_fails(name: str) -> None:
    torch.manual_seed(1)
    model, batch, *options = MODELS[name]()
    report = check(model, batch, **(options[0] if options else {}))
    assert report.ok, show(report)


def test_there_are_many_of_them() -> None:
    assert len(MODELS) + len(LIBRARY) >= 25


def warnings_of(model: Any, batch: Any) -> list[str]:
    return [line for line in show(check(model, batch)) if " note " not in line]


class Rotary(nn.Module):
    """Positions as complex numbers of magnitude 1, for the shape of an input."""

    def forward(self, x: Tensor) -> Tensor:
        angles = torch.outer(torch.arange(x.shape[1]), 10.0 ** -torch.arange(x.shape[2] // 2))
        return torch.polar(torch.ones_like(angles), angles)


class Slices(nn.Module):
    """A linear layer for each expert, as slices of one parameter."""

    def __init__(self, count: int, into: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count, out, into) * 0.02)

    def forward(self, inputs: list[Tensor]) -> list[Tensor]:
        return [F.linear(x, weight) for x, weight in zip(inputs, self.weight, strict=True)]


class Experts(nn.Module):
    """A sigmoid gates those that were chosen."""

    def __init__(self, width: int = 16, count: int = 8) -> None:
        super().__init__()
        self.rotary, self.router = Rotary(), nn.Linear(width, count, bias=False)
        self.up, self.down = Slices(count, width, 2 * width), Slices(count, 2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * self.rotary(x)).flatten(-2)
        scores = self.router(x)
        chosen = scores >= scores.topk(2, dim=-1).values[..., -1:]
        gates = torch.sigmoid(scores.masked_fill(~chosen, -torch.inf))
        outputs = self.down([F.gelu(hidden) for hidden in self.up([x] * scores.shape[-1])])
        return x + (torch.stack(outputs, -1) * gates[..., None, :]).sum(-1)


def test_experts_and_tables_of_positions_give_no_warning() -> None:
    torch.manual_seed(1)
    assert warnings_of(Experts(), torch.randn(8, 6, 16)) == []


class Scores(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.softmax = nn.Softmax(-1)
        nn.init.normal_(self.key.weight, std=1e-6), nn.init.zeros_(self.key.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.softmax(self.query(x) @ self.key(x).transpose(-2, -1)) @ self.value(x)


class OwnAttention(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.one, self.two, self.head = Scores(width), Scores(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.layer_norm(x + self.one(x), x.shape[-1:])
        return self.head(F.layer_norm(x + self.two(x), x.shape[-1:]))


def test_small_gradients_of_queries_before_a_softmax_module_are_no_vanishing_gradients() -> None:
    torch.manual_seed(1)
    assert warnings_of(OwnAttention(), torch.randn(8, 6, 32)) == []


def test_a_usual_std_is_not_taken_for_a_scheme_of_the_wrong_fan() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(3, 256, 1), nn.Conv2d(256, 256, 3, groups=256), nn.BatchNorm2d(256), nn.ReLU())
    nn.init.normal_(model[1].weight, std=0.02)  # as LeCun's for a fan_out of 2304, but for 4 %
    assert warnings_of(model, images(3)) == []
    nn.init.kaiming_normal_(model[1].weight, mode="fan_out")
    assert [line[:9] for line in warnings_of(model, images(3))] == ["Z205 warn"]


class Shifted(nn.Module):
    """Starts from its class's prior: the weight of the read-out is zero, and its bias is not."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.fc, self.head = nn.Linear(16, 64), nn.Linear(64, 10)
        self.shift: Any = nn.Parameter(torch.randn(64) * 0.02) if own else 0.0
        nn.init.zeros_(self.head.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.fc(x) + self.shift))


@pytest.mark.parametrize("own", [False, True])
def test_a_parameter_of_the_model_itself_is_not_blamed_for_a_zero_read_out(own: bool) -> None:
    torch.manual_seed(0)
    report = check(Shifted(own), (torch.randn(64, 16), torch.randint(10, (64,))))
    assert [(one.rule.id, one.parameter) for one in report.findings] == [("Z303", "head.weight")], show(report)


class Last(nn.Module):
    """An LSTM of which the last step is classified."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(inputs, width, batch_first=True), nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize("width", [16, 48])
def test_glorots_std_of_the_real_fans_is_not_taken_for_a_scheme_of_the_wrong_fan(width: int) -> None:
    """Of twice as many inputs as units, 2 / (3 width); tanh's for torch's fan_out of 4 width is 25 / (36 width)."""
    model = Last(2 * width, width)
    rules = Rules([Rule(kind("weight"), xavier_uniform()), Rule(kind("bias"), Zeros())])
    zeta.init_(model, rules, seed=0)
    found = check(model, torch.randn(32, 5, 2 * width, generator=torch.Generator().manual_seed(0))).findings
    assert [(one.parameter, one.message) for one in found if one.rule.id == "Z205"] == []


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word, self.kind, self.head = nn.Embedding(50, 32), nn.Embedding(9, 32, padding_idx=0), nn.Linear(32, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.word(x) + self.kind(torch.zeros_like(x)))


def test_an_embedding_of_which_the_batch_takes_the_padding_alone_is_not_reached() -> None:
    torch.manual_seed(1)
    found = warnings_of(Tokens(), torch.randint(50, (4, 16)))
    assert found == ["Z501 warn kind.weight: it is not reached by any sample of this batch"]


@pytest.fixture
def library() -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield transformers
    transformers.logging.set_verbosity(verbosity)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", LIBRARY)
def test_nothing_fails_in_transformers(name: str, library: Any) -> None:
    architecture, configuration, options, batch = LIBRARY[name]
    torch.manual_seed(1)
    model = getattr(library, architecture)(getattr(library, configuration)(**options))
    report = check(model, batch())
    assert report.ok, show(report)


@pytest.mark.parametrize(
    ("architecture", "configuration"), [("BartForCausalLM", "BartConfig"), ("XLMWithLMHeadModel", "XLMConfig")]
)
def test_labels_in_their_place_are_not_made_of_the_tokens(architecture: str, configuration: str, library: Any) -> None:
    small = {**SPEECH, "emb_dim": 64, "n_layers": 2, "n_heads": 4}
    model = getattr(library, architecture)(getattr(library, configuration)(**small))
    batch = batch_for(model)
    assert batch is not None
    assert "labels" not in batch
    report = check(model, batch)
    assert report.loss.classes == 300
    assert "Z602" not in {f.rule.id for f in report.findings}
