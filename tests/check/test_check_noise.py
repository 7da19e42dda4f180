"""What findings say: one line for one thing, and the thing itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.helpers.networks import images, tokens, vectors
from zeta.check import CheckReport, check


def lines(report: CheckReport, *rules: str) -> list[tuple[str, str | None, str]]:
    return [(one.rule.id, one.parameter, one.message) for one in report.findings if one.rule.id in rules]


def net(inputs: int = 8, outputs: int = 4, depth: int = 5) -> nn.Sequential:
    layers: list[nn.Module] = [nn.Linear(inputs, 16)]
    for _ in range(depth):
        layers += [nn.ReLU(), nn.Linear(16, 16)]
    return nn.Sequential(*layers, nn.ReLU(), nn.Linear(16, outputs))


class Branched(nn.Module):
    def __init__(self, use: str) -> None:
        super().__init__()
        self.body, self.aux, self.use = net(), net(), use
        self.pair = nn.ModuleList([nn.Linear(8, 4), nn.Linear(8, 4)])

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x) + self.pair[0](x)
        if self.use == "no_grad":
            with torch.no_grad():
                self.aux(x)
        elif self.use == "loss":
            self.aux(x)
        return y


@pytest.mark.parametrize(
    ("use", "rule", "message"),
    [
        ("none", "Z501", "it and 13 other parameters of aux are not used in the forward pass"),
        ("loss", "Z501", "it and 13 other parameters of aux are used, but without a part in the loss"),
        (
            "no_grad",
            "Z502",
            "it and 13 other parameters of aux are used in the forward pass, and cut off from the loss",
        ),
    ],
)
def test_a_branch_of_many_parameters_is_one_line(use: str, rule: str, message: str) -> None:
    spare = ("Z501", "pair.1.weight", "it and 1 other parameter of pair.1 are not used in the forward pass")
    found = lines(check(Branched(use), vectors(8)), "Z501", "Z502")
    assert sorted(found) == sorted([(rule, "aux.0.weight", message), spare])


class Codebook(nn.Module):
    """Used by a method other than forward."""

    def __init__(self) -> None:
        super().__init__()
        self.codes, self.scale = nn.Parameter(torch.randn(32, 16)), nn.Parameter(torch.ones(16))

    def nearest(self, x: Tensor) -> Tensor:
        return (x[:, None] - self.codes * self.scale).square().sum(-1).argmin(1)


@pytest.mark.parametrize("grad", [False, True])
def test_what_was_used_under_no_grad_was_used(grad: bool) -> None:
    class Quantized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.book, self.head = nn.Linear(8, 16), Codebook(), nn.Embedding(32, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.body(x)
            with torch.set_grad_enabled(grad):
                code = self.book.nearest(x)
            return self.head(code) * x.mean()

    (found,) = lines(check(Quantized(), vectors(8)), "Z501", "Z502")
    if grad:  # argmin ends the graph, not the calls before it
        assert found == (
            "Z501",
            "book.codes",
            "it and 1 other parameter of book are used, but without a part in the loss",
        )
    else:
        assert found[:2] == ("Z502", "book.codes")


def test_experts_that_no_token_reached_are_one_line() -> None:
    class Experts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList(net(outputs=8) for _ in range(3))
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.experts[0](x) + sum(self.experts[n](x[:0]).sum(0) for n in (1, 2)))

    found = lines(check(Experts(), vectors(8)), "Z501", "Z506")
    assert [(rule, parameter) for rule, parameter, _ in found] == [
        ("Z501", "experts.1.0.weight"), ("Z501", "experts.2.0.weight")
    ]  # fmt: skip
    assert all("other parameters of experts." in message for *_, message in found)


def dead(body: nn.Module) -> nn.Module:
    nn.init.constant_(body.bias, -100.0)  # type: ignore[arg-type]
    return body


@pytest.mark.parametrize(
    ("model", "batch", "text"),
    [
        (lambda: nn.Sequential(dead(nn.Linear(8, 64)), nn.ReLU(), nn.Linear(64, 4)), lambda: vectors(8), "64 samples"),
        (
            lambda: nn.Sequential(nn.Embedding(50, 8), dead(nn.Linear(8, 64)), nn.ReLU(), nn.Linear(64, 4)),
            lambda: tokens(50, 16, 64),
            "1,024 places (16 samples of 64)",
        ),
        (
            lambda: nn.Sequential(dead(nn.Conv2d(3, 64, 3, padding=1)), nn.ReLU(), nn.Conv2d(64, 4, 1)),
            lambda: images(3, 8, 16),
            "1,024 places (16 samples of 64)",
        ),
    ],
)
def test_places_are_not_called_samples(model: Any, batch: Any, text: str) -> None:
    (message,) = (message for *_, message in lines(check(model(), batch()), "Z404"))
    assert message.endswith(f"are off for all {text}")


class Last(nn.Module):
    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.rnn, self.head = kind(48, 48, batch_first=True), nn.Linear(48, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


def orthogonal(module: nn.Module, gain: float) -> nn.Module:
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.orthogonal_(parameter, gain)
    return module


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(48, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x, x, x)[0]


@pytest.mark.parametrize("gain", [1.0, 2**0.5])
@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: nn.Linear(16, 96), (64, 16)),
        (lambda: Last(nn.LSTM), (32, 6, 48)),
        (lambda: Last(nn.GRU), (32, 6, 48)),
        (Attention, (16, 6, 48)),
        (lambda: nn.ConvTranspose2d(48, 12, 2, 2), (8, 48, 8, 8)),
    ],
)
def test_orthogonal_weights_follow_no_fan(build: Any, shape: tuple[int, ...], gain: float) -> None:
    torch.manual_seed(0)
    assert lines(check(orthogonal(build(), gain), torch.randn(shape)), "Z205", "Z207") == []


def test_a_packed_weight_by_the_wrong_fan_is_still_found() -> None:
    torch.manual_seed(0)
    model = Last(nn.LSTM)
    nn.init.normal_(model.rnn.weight_hh_l0, std=(4 * 48) ** -0.5)
    assert [one[:2] for one in lines(check(model, torch.randn(32, 6, 48)), "Z205")] == [("Z205", "rnn.weight_hh_l0")]
