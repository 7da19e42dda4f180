"""What only looks suspicious has no finding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import LanguageModel, Mlp, images, tokens, vectors
from tests.helpers.sick import Lora
from tests.helpers.sick_arguable import Codes, Sparse, labelled
from zeta.check import check

ARGUABLE = ("Z410", "Z411", "Z412", "Z413")
HEALTHY: dict[str, Callable[[], tuple[Any, ...]]] = {}


def healthy(build: Callable[[], tuple[Any, ...]]) -> Callable[[], tuple[Any, ...]]:
    HEALTHY[build.__name__] = build
    return build


@healthy
def activations_everywhere() -> Any:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 5)), labelled()


@healthy
def a_bottleneck() -> Any:
    """A factorized layer of low rank."""
    return nn.Sequential(nn.Linear(64, 4), nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 5)), (
        vectors(64),
        torch.arange(64) % 5,
    )


@healthy
def lora() -> Any:
    return nn.Sequential(Lora(8, 16), nn.ReLU(), Lora(16, 4)), vectors(8)


class Embedder(nn.Module):
    """Returns the embedding as well."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.embed, self.classify = nn.Linear(8, 64), nn.Linear(64, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        embedding = self.embed(self.body(x).relu())
        return {"logits": self.classify(embedding), "embedding": embedding}


@healthy
def an_embedding_that_is_put_out() -> Any:
    return Embedder(), labelled(), lambda y, b: F.cross_entropy(y["logits"], b[1])


@healthy
def separable_convolutions() -> Any:
    layers = (nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, (1, 3)))
    layers += (nn.Conv2d(8, 8, (3, 1)), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(*layers), (images(3), torch.arange(8) % 5)


@healthy
def a_language_model() -> Any:
    return LanguageModel(), tokens()


class Mixer(nn.Module):
    """Linear over features, then over places."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.places, self.head = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.places(self.features(x).transpose(1, 2)).transpose(1, 2)).mean(1))


@healthy
def linear_maps_over_other_dimensions() -> Any:
    return Mixer(), (torch.randn(16, 16, 16), torch.arange(16) % 5)


@healthy
def a_router() -> Any:
    return Sparse(), (vectors(16), torch.arange(64) % 5)


class Bounded(nn.Module):
    """Calls ``torch.min`` with two tensors, as T5 does."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Mlp(8, 32, 5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.min(self.net(x), torch.full((), 9.0))


@healthy
def a_least_of_two_tensors() -> Any:
    return Bounded(), labelled()


@healthy
def a_codebook() -> Any:
    return Codes((2 * torch.rand(32, 16) - 1) / 32), vectors(8)


@healthy
def a_codebook_of_unit_scale() -> Any:
    return Codes(torch.randn(32, 16)), vectors(8)


class Scored(nn.Module):
    """Computes its accuracy on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Mlp(8, 32, 5)
        nn.init.constant_(self.net[2].bias[1:2], 9.0)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        accuracy = (logits.argmax(-1) == labels).float().mean()
        return {"loss": F.cross_entropy(logits, labels), "logits": logits, "accuracy": accuracy}


@healthy
def an_accuracy() -> Any:
    x, y = labelled()
    return Scored(), {"x": x, "labels": y}


@healthy
def biases_of_torch() -> Any:
    layers: list[nn.Module] = [nn.Linear(8, 64), nn.ReLU()]
    for _ in range(10):
        layers += [nn.Linear(64, 64), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(64, 5)), labelled()


class Highway(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.gate, self.change = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 5)
        nn.init.constant_(self.gate.bias, -4.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        gate = self.gate(x).sigmoid()
        return self.head(gate * self.change(x).relu() + (1 - gate) * x)


@healthy
def closed_gates() -> Any:
    return Highway(), labelled()


@healthy
def a_prior_of_rare_classes() -> Any:
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 3, padding=1))
    model = nn.Sequential(*layers)
    nn.init.normal_(model[2].weight, std=0.01)
    nn.init.constant_(model[2].bias, -4.6)
    return model, (images(3), torch.randint(0, 2, (8, 4, 8, 8)).float()), nn.BCEWithLogitsLoss()


@healthy
def random_phases() -> Any:
    """Random Fourier features."""

    class Cosines(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map, self.head = nn.Linear(8, 128), nn.Linear(128, 5)
            nn.init.normal_(self.map.weight), nn.init.uniform_(self.map.bias, 0, 6.28)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.cos(self.map(x)))

    return Cosines(), labelled()


@healthy
def bytes_before_a_norm() -> Any:
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x = torch.randint(0, 256, (8, 3, 8, 8)).float()
    return nn.Sequential(*layers, nn.Linear(8, 5)), (x, torch.arange(8) % 5)


@healthy
def bytes_that_a_norm_gets_first() -> Any:
    x = torch.randint(0, 256, (64, 8)).float()
    return nn.Sequential(nn.BatchNorm1d(8), *Mlp(8, 32, 5)), (x, torch.arange(64) % 5)


@healthy
def images_from_zero_to_one() -> Any:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(*layers), (torch.rand(8, 3, 8, 8), torch.arange(8) % 5)


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_meant_has_no_finding(name: str) -> None:
    torch.manual_seed(1)
    model, batch, *loss = HEALTHY[name]()
    report = check(model, batch, *loss)
    assert [(one.rule.id, one.message) for one in report.findings if one.rule.id in ARGUABLE] == []


def test_a_dead_layer_behind_a_large_bias_is_one_finding() -> None:
    torch.manual_seed(1)
    model = Mlp(8, 32, 5)
    nn.init.constant_(model[0].bias, -60.0)
    rules = {one.rule.id for one in check(model, labelled()).findings}
    assert "Z404" in rules
    assert "Z412" not in rules
