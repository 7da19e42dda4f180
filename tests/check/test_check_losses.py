"""Losses and targets: healthy ones that look like wrong ones get no finding of these rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import LanguageModel, Mlp, images, tokens, vectors
from tests.helpers.sick_losses import Autoencoder, WithLoss, labels, regression
from zeta.check import check

OF_LOSSES = {f"Z6{number:02}" for number in range(5, 14)}

Build = Callable[[], tuple[Any, ...]]
HEALTHY: dict[str, Build] = {}


def healthy(build: Build) -> Build:
    HEALTHY[build.__name__] = build
    return build


def found(model: nn.Module, batch: Any, loss: Any = None, **options: Any) -> list[tuple[str, str]]:
    report = check(model, batch, loss, **options)
    return [(one.rule.id, one.message) for one in report.findings if one.rule.id in OF_LOSSES]


# -- probabilities and logits ------------------------------------------------------------------------------------------


@healthy
def nll_of_log_softmax() -> Any:
    return nn.Sequential(*Mlp(8, 32, 5), nn.LogSoftmax(1)), (vectors(8), labels(5)), nn.NLLLoss()


@healthy
def nll_of_the_logarithm_of_a_softmax() -> Any:
    model = nn.Sequential(*Mlp(8, 32, 5), nn.Softmax(1))
    return model, (vectors(8), labels(5)), lambda y, b: F.nll_loss(torch.log(y + 1e-8), b[1])


@healthy
def nll_of_images() -> Any:
    model = nn.Sequential(nn.Conv2d(3, 5, 1), nn.LogSoftmax(1))
    return model, (images(3), torch.randint(0, 5, (8, 8, 8))), nn.NLLLoss()


@healthy
def distillation() -> Any:
    batch = (vectors(8), torch.randn(64, 5))

    def loss(y: Tensor, batch: Any) -> Tensor:
        return F.kl_div(F.log_softmax(y / 2, 1), F.softmax(batch[1] / 2, 1), reduction="batchmean")

    return Mlp(8, 32, 5), batch, loss


@healthy
def distillation_over_pixels() -> Any:
    """Channel-wise distillation: the probabilities are over the places of an image."""
    batch = (images(3), torch.randn(8, 5, 8, 8))

    def loss(y: Tensor, batch: Any) -> Tensor:
        return F.kl_div(F.log_softmax(y.flatten(2), -1), F.softmax(batch[1].flatten(2), -1), reduction="sum")

    return nn.Conv2d(3, 5, 1), batch, loss


@healthy
def logits_that_are_not_negative() -> Any:
    return nn.Sequential(*Mlp(8, 32, 5), nn.ReLU()), (vectors(8), labels(5)), nn.CrossEntropyLoss()


@healthy
def several_labels_by_a_sigmoid() -> Any:
    batch = (vectors(8), (torch.randn(64, 5) > 0).float())
    return nn.Sequential(*Mlp(8, 32, 5), nn.Sigmoid()), batch, nn.BCELoss()


# -- shapes ------------------------------------------------------------------------------------------------------------


@healthy
def a_column_against_a_column() -> Any:
    return regression(), (vectors(8), torch.randn(64, 1)), nn.MSELoss()


@healthy
def a_row_against_a_row() -> Any:
    return regression(), (vectors(8), torch.randn(64)), lambda y, b: ((y.squeeze(1) - b[1]) ** 2).mean()


@healthy
def a_constant_target() -> Any:
    """A least-squares GAN's."""
    return regression(), vectors(8), lambda y, b: F.mse_loss(y, torch.ones_like(y))


@healthy
def every_pair_on_purpose() -> Any:
    """Maximum mean discrepancy of the predictions and the targets."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-((a[:, None] - b) ** 2)).mean()

    def loss(y: Tensor, batch: Any) -> Tensor:
        y, wanted = y.squeeze(1), batch[1]
        return kernel(y, y) - 2 * kernel(y, wanted) + kernel(wanted, wanted)

    return regression(), (vectors(8), torch.randn(64)), loss


@healthy
def quantile_regression_of_distributions() -> Any:
    def loss(y: Tensor, batch: Any) -> Tensor:
        wanted, taus = batch[1], (torch.arange(8) + 0.5) / 8
        difference = wanted.unsqueeze(1) - y.unsqueeze(2)
        huber = F.smooth_l1_loss(
            y.unsqueeze(2).expand(-1, -1, 8), wanted.unsqueeze(1).expand(-1, 8, -1), reduction="none"
        )
        return ((taus[:, None] - (difference < 0).float()).abs() * huber).mean()

    return Mlp(8, 32, 8), (vectors(8), torch.randn(64, 8)), loss


# -- sign --------------------------------------------------------------------------------------------------------------


class Vae(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(32, 8), nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread = self.encoder(x).chunk(2, -1)
        return self.decoder(mean + torch.randn_like(mean) * (spread / 2).exp()), mean, spread


@healthy
def the_bound_of_a_vae() -> Any:
    def loss(output: Any, batch: Tensor) -> Tensor:
        y, mean, spread = output
        likelihood = -F.binary_cross_entropy_with_logits(y, batch, reduction="none").sum(-1).mean()
        kl = -0.5 * (1 + spread - mean.square() - spread.exp()).sum(-1).mean()
        return -(likelihood - kl)

    return Vae(), torch.rand(64, 32), loss


@healthy
def a_gaussian_likelihood() -> Any:
    """Negative at the start, and right: small variances make densities larger than one."""

    def loss(y: Tensor, batch: Any) -> Tensor:
        mean, spread = y.chunk(2, -1)
        spread = spread - 9
        return (((mean - batch[1]) ** 2) * 1e-3 + spread).mean()

    return Mlp(8, 32, 2), (vectors(8), 0.1 * torch.randn(64, 1)), loss


@healthy
def a_triplet_loss_by_hand() -> Any:
    def loss(y: Tensor, batch: Any) -> Tensor:
        near, far = (y - batch[1]).square().sum(1), (y - batch[2]).square().sum(1)
        return (near - far).mean()

    class Embedder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = Mlp(8, 32, 4)

        def forward(self, x: Tensor, near: Tensor, far: Tensor) -> Tensor:
            return self.net(x)

    return Embedder(), (vectors(8), torch.randn(64, 4), 3 * torch.randn(64, 4)), loss


@healthy
def pairs_in_both_directions() -> Any:
    """CLIP's loss, by hand."""

    def loss(y: Tensor, batch: Any) -> Tensor:
        y = F.normalize(y, dim=1)
        similar, own = y @ F.normalize(batch[1], dim=1).T / 0.5, torch.arange(64)
        return (F.nll_loss(F.log_softmax(similar, 0), own) + F.nll_loss(F.log_softmax(similar, 1), own)) / 2

    return Mlp(8, 32, 16), (vectors(8), torch.randn(64, 16)), loss


@healthy
def a_generator_that_maximises_its_critics_loss() -> Any:
    critic = nn.Sequential(nn.Linear(16, 32), nn.LeakyReLU(0.2), nn.Linear(32, 1)).requires_grad_(False)
    model = nn.Sequential(Mlp(8, 32, 16), critic)
    return model, vectors(8), lambda y, b: -F.binary_cross_entropy_with_logits(y, torch.zeros_like(y))


@healthy
def a_policy_gradient() -> Any:
    """Advantages of both signs."""
    advantages = torch.randn(64)

    def loss(y: Tensor, batch: Any) -> Tensor:
        chosen = F.log_softmax(y, -1).gather(1, batch[1][:, None]).squeeze(1)
        return -(chosen * advantages).mean() - 0.01 * torch.distributions.Categorical(logits=y).entropy().mean()

    return Mlp(8, 32, 4), (vectors(8), labels(4)), loss


@healthy
def own_loss() -> Any:
    return WithLoss(), {"x": vectors(8), "labels": labels(5)}, None


@healthy
def a_likelihood_with_its_minus() -> Any:
    def loss(y: Tensor, batch: Any) -> Tensor:
        return -F.log_softmax(y, -1)[torch.arange(64), batch[1]].mean()

    return Mlp(8, 32, 5), (vectors(8), labels(5)), loss


# -- targets -----------------------------------------------------------------------------------------------------------


@healthy
def images_from_zero_to_one() -> Any:
    return Autoencoder(nn.Sigmoid()), torch.rand(8, 3, 8, 8), lambda y, b: F.mse_loss(y, b)


@healthy
def images_from_minus_one_to_one() -> Any:
    return Autoencoder(nn.Tanh()), 2 * torch.rand(8, 3, 8, 8) - 1, lambda y, b: F.l1_loss(y, b)


@healthy
def a_scaled_tanh() -> Any:
    """Actions of -2 to 2."""
    model, batch = regression(nn.Tanh()), (vectors(8), 4 * torch.rand(64, 1) - 2)
    return model, batch, lambda y, b: F.mse_loss(2 * y, b[1])


@healthy
def counts_behind_relu() -> Any:
    return regression(nn.Softplus()), (vectors(8), torch.poisson(torch.full((64, 1), 3.0))), nn.MSELoss()


@healthy
def ages() -> Any:
    return regression(), (vectors(8), 20 + 50 * torch.rand(64, 1)), nn.MSELoss()


@healthy
def prices_scaled_in_the_loss() -> Any:
    batch = (vectors(8), 2e5 + 1e5 * torch.randn(64, 1))
    return regression(), batch, lambda y, b: F.mse_loss(y, (b[1] - 2e5) / 1e5)


@healthy
def powers_with_their_mean_as_bias() -> Any:
    model = regression()
    nn.init.constant_(model[2].bias, 2e3)
    return model, (vectors(8), 2e3 + 1e3 * torch.randn(64, 1)), nn.MSELoss()


@healthy
def smoothed_binary_labels() -> Any:
    return regression(), (vectors(8), torch.randint(0, 2, (64, 1)) * 0.8 + 0.1), nn.BCEWithLogitsLoss()


@healthy
def some_labels_ignored() -> Any:
    wanted = labels(5)
    wanted[::2] = -100
    return Mlp(8, 32, 5), (vectors(8), wanted), nn.CrossEntropyLoss()


@healthy
def class_weights() -> Any:
    return Mlp(8, 32, 5), (vectors(8), labels(5)), nn.CrossEntropyLoss(weight=torch.rand(5) + 0.1)


@healthy
def a_language_model() -> Any:
    return LanguageModel(), tokens(), None


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_loss_has_no_finding(name: str) -> None:
    torch.manual_seed(1)
    model, batch, loss = HEALTHY[name]()
    report = check(model, batch, loss)
    assert found(model, batch, loss) == []
    assert report.ok, report.findings


# -- one cause is one finding ------------------------------------------------------------------------------------------


def test_labels_that_do_not_count_are_the_only_failure() -> None:
    torch.manual_seed(1)
    model = Mlp(8, 32, 5)
    for loss, batch in (
        (nn.CrossEntropyLoss(), (vectors(8), torch.full((64,), -100))),
        (nn.CrossEntropyLoss(weight=torch.zeros(5)), (vectors(8), labels(5))),
        (nn.CrossEntropyLoss(weight=torch.zeros(5), reduction="sum"), (vectors(8), labels(5))),
    ):
        report = check(model, batch, loss)
        assert [one.rule.id for one in report.findings if one.severity.value == "fail"] == ["Z613"], str(report)


@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_messages_name_the_cause_with_its_numbers() -> None:
    torch.manual_seed(1)
    ((rule, message),) = found(regression(), (vectors(8), torch.randn(64)), lambda y, b: F.mse_loss(y, b[1]))
    assert rule == "Z607"
    assert message == (
        "mse_loss compares a prediction of shape (64, 1) with a target of shape (64,): they are broadcast to (64, 64), "
        "each prediction with every target"
    )


def test_a_loss_leaves_no_hook_on_a_parameter_of_its_own() -> None:
    centre = nn.Parameter(torch.zeros(1, 1))
    loss = lambda y, b: F.mse_loss(y, torch.zeros_like(y)) + F.mse_loss(centre, y[:1].detach())  # noqa: E731
    check(nn.Linear(8, 1), vectors(8), loss)
    assert not centre._backward_hooks


# -- trained -----------------------------------------------------------------------------------------------------------


def trained(model: nn.Module, batch: Any, loss: Any, steps: int = 500) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(batch[0]), batch).backward()
        optimizer.step()
    return model


def explained(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """The fraction of the target's variance that the model explains."""
    return 1 - float((model(x).detach().flatten() - y.flatten()).square().mean() / y.var(correction=0))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
def test_sick_losses_do_not_learn_what_their_twins_do() -> None:
    torch.manual_seed(1)
    x = vectors(8, 256)
    y = x[:, :1].sin() + x[:, 1:2]
    classes = (x[:, 0] > 0).long()
    square = lambda output, batch: F.mse_loss(output, batch[1])  # noqa: E731
    assert explained(trained(regression(), (x, y), square), x, y) > 0.95
    assert explained(trained(regression(), (x, y.squeeze(1)), square), x, y) < 0.1  # Z607
    assert explained(trained(regression(nn.ReLU()), (x, y), square), x, y) < 0.75  # Z610
    assert explained(trained(regression(), (x, 1e5 * y + 2e5), square), x, 1e5 * y + 2e5) < 0.75  # Z611
    assert not explained(trained(regression(), (x, y), lambda o, b: -square(o, b)), x, y) > 0  # Z608

    def right(loss: Any) -> float:
        model = trained(Mlp(8, 32, 2), (x, classes), loss)
        return float((model(x).argmax(-1) == classes).float().mean())

    assert right(lambda output, batch: F.cross_entropy(output, batch[1])) > 0.95
    assert right(lambda output, batch: -F.cross_entropy(output, batch[1])) < 0.6


@pytest.mark.slow
def test_binary_labels_of_both_signs_and_raw_logits_have_no_least_loss() -> None:
    torch.manual_seed(1)
    x = vectors(8, 256)
    signs = x[:, :1].sign()
    binary = lambda output, batch: F.binary_cross_entropy_with_logits(output, batch[1])  # noqa: E731
    model = trained(regression(), (x, signs), binary)
    assert float(binary(model(x), (x, signs)).detach()) < -100
    assert float(binary(trained(regression(), (x, (signs + 1) / 2), binary)(x), (x, (signs + 1) / 2)).detach()) >= 0
    nll = lambda output, batch: F.nll_loss(output, batch[1])  # noqa: E731
    classes = (x[:, 0] > 0).long()
    assert float(nll(trained(Mlp(8, 32, 2), (x, classes), nll)(x), (x, classes)).detach()) < -100
