"""Networks whose loss or target is wrong, one defect each, as they are written by mistake."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import LanguageModel, Mlp, images, tokens, vectors
from tests.helpers.sick import sick


def labels(classes: int, samples: int = 64) -> Tensor:
    return torch.randint(0, classes, (samples,))


def prices(samples: int = 64) -> Tensor:
    """House prices."""
    return 2e5 + 1e5 * torch.randn(samples, 1)


def regression(*last: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1), *last)


class Autoencoder(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, 2, 1), nn.ReLU())
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(8, 16, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1), last
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


class WithLoss(nn.Module):
    """Computes its loss itself, as the models of transformers do."""

    def __init__(self, sign: int = 1) -> None:
        super().__init__()
        self.net, self.sign = Mlp(8, 32, 5), sign

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.net(x)
        return {"loss": self.sign * F.cross_entropy(logits, labels), "logits": logits}


# -- probabilities, log-probabilities, logits --------------------------------------------------------------------------


@sick("Z605", "2.weight", "warn", loss=lambda y, b: F.binary_cross_entropy_with_logits(y, b[1]))
def softmax_before_a_binary_loss() -> Any:
    return nn.Sequential(*Mlp(8, 32, 3), nn.Softmax(-1)), (vectors(8), torch.eye(3)[labels(3)])


@sick("Z606", "2.weight", loss=nn.NLLLoss())
def nll_of_logits() -> Any:
    return Mlp(8, 32, 5), (vectors(8), labels(5))


@sick("Z606", "2.weight", "warn", loss=nn.NLLLoss())
def nll_of_probabilities() -> Any:
    return nn.Sequential(*Mlp(8, 32, 5), nn.Softmax(dim=1)), (vectors(8), labels(5))


@sick("Z606", "2.weight", loss=lambda y, b: F.kl_div(y, b[1], reduction="batchmean"))
def distillation_of_logits() -> Any:
    return Mlp(8, 32, 5), (vectors(8), torch.softmax(torch.randn(64, 5), -1))


@sick("Z606", "2.weight", "warn", loss=lambda y, b: F.kl_div(y.softmax(-1), b[1], reduction="batchmean"))
def distillation_of_probabilities() -> Any:
    return Mlp(8, 32, 5), (vectors(8), torch.softmax(torch.randn(64, 5), -1))


# -- shapes ------------------------------------------------------------------------------------------------------------


@sick("Z607", "2.weight", loss=lambda y, b: F.mse_loss(y, b[1]))
def a_column_against_a_row() -> Any:
    return regression(), (vectors(8), torch.randn(64))


@sick("Z607", "2.weight", loss=lambda y, b: ((y - b[1]) ** 2).mean())
def a_column_minus_a_row() -> Any:
    return regression(), (vectors(8), torch.randn(64))


@sick("Z607", "2.weight", loss=lambda y, b: (b[1].float() - y).abs().mean())
def a_row_minus_a_column() -> Any:
    return regression(), (vectors(8), torch.randint(0, 50, (64,)))


@sick("Z607", None, loss=lambda y, b: F.smooth_l1_loss(y, b[1]))
def depth_maps_without_their_channel() -> Any:
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1)), (images(3), torch.rand(8, 8, 8))


# -- sign --------------------------------------------------------------------------------------------------------------


@sick("Z608", "2.weight", loss=lambda y, b: -F.cross_entropy(y, b[1]))
def cross_entropy_maximised() -> Any:
    return Mlp(8, 32, 5), (vectors(8), labels(5))


@sick("Z608", "net.2.weight")
def own_loss_maximised() -> Any:
    return WithLoss(-1), {"x": vectors(8), "labels": labels(5)}


@sick("Z608", "2.weight", loss=lambda y, b: -((y - b[1]) ** 2).mean())
def squared_error_maximised() -> Any:
    return regression(), (vectors(8), torch.randn(64, 1))


@sick("Z608", "2.weight", loss=lambda y, b: F.log_softmax(y, -1)[torch.arange(64), b[1]].mean())
def likelihood_without_its_minus() -> Any:
    return Mlp(8, 32, 5), (vectors(8), labels(5))


@sick("Z608", "2.weight", loss=lambda y, b: -F.binary_cross_entropy_with_logits(y, b[1]))
def binary_loss_maximised() -> Any:
    return regression(), (vectors(8), (torch.randn(64, 1) > 0).float())


# -- dimension ---------------------------------------------------------------------------------------------------------


@sick("Z609", "2.weight", loss=nn.NLLLoss())
def log_softmax_over_the_batch() -> Any:
    return nn.Sequential(*Mlp(8, 32, 5), nn.LogSoftmax(dim=0)), (vectors(8), labels(5))


@sick("Z609", "2.weight", loss=nn.CrossEntropyLoss())
def softmax_over_the_batch() -> Any:
    return nn.Sequential(*Mlp(8, 32, 5), nn.Softmax(dim=0)), (vectors(8), labels(5))


def _tagging(y: Tensor, batch: Any) -> Tensor:
    return F.nll_loss(y.flatten(0, 1), batch[1].flatten())


@sick("Z609", None, loss=_tagging)
def log_softmax_over_the_words_of_a_sentence() -> Any:
    model = nn.Sequential(nn.Embedding(50, 16), nn.Linear(16, 7), nn.LogSoftmax(dim=1))
    return model, (tokens(50), tokens(7))


# -- targets -----------------------------------------------------------------------------------------------------------


@sick("Z610", None, "warn", loss=lambda y, b: F.mse_loss(y, b))
def standardized_images_behind_tanh() -> Any:
    return Autoencoder(nn.Tanh()), images(3)


@sick("Z610", None, loss=lambda y, b: F.mse_loss(y, b))
def standardized_images_behind_a_sigmoid() -> Any:
    return Autoencoder(nn.Sigmoid()), images(3)


@sick("Z610", "2.weight", loss=nn.MSELoss())
def signed_targets_behind_relu() -> Any:
    return regression(nn.ReLU()), (vectors(8), torch.randn(64, 1))


@sick("Z610", "2.weight", loss=nn.L1Loss())
def ages_behind_a_softmax() -> Any:
    return nn.Sequential(*Mlp(8, 32, 4), nn.Softmax(-1)), (vectors(8), 20 + 50 * torch.rand(64, 4))


@sick("Z611", "2.weight", loss=nn.MSELoss())
def prices_in_dollars() -> Any:
    return regression(), (vectors(8), prices())


@sick("Z611", "2.weight", loss=lambda y, b: (b[1] - y.squeeze(1)).abs().mean())
def prices_by_hand() -> Any:
    return regression(), (vectors(8), prices().squeeze(1))


@sick("Z611", "2.weight", "warn", loss=nn.SmoothL1Loss())
def distances_in_metres() -> Any:
    return regression(nn.ReLU()), (vectors(8), 3000 * torch.rand(64, 1))


@sick("Z612", "2.weight", loss=nn.BCEWithLogitsLoss())
def labels_of_minus_one_and_one() -> Any:
    return regression(), (vectors(8), torch.randn(64, 1).sign())


def _segmented(y: Tensor, batch: Any) -> Tensor:
    return F.binary_cross_entropy_with_logits(y, batch[1].float())


@sick("Z612", None, loss=_segmented)
def masks_of_bytes() -> Any:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 1))
    return model, (images(3), 255 * torch.randint(0, 2, (8, 1, 8, 8), dtype=torch.uint8))


@sick("Z612", "2.weight", loss=nn.BCEWithLogitsLoss())
def labels_of_one_and_two() -> Any:
    return regression(), (vectors(8), torch.randint(1, 3, (64, 1)).float())


# -- labels that count -------------------------------------------------------------------------------------------------


@sick("Z613", "2.weight", loss=nn.CrossEntropyLoss())
def all_labels_ignored() -> Any:
    return Mlp(8, 32, 5), (vectors(8), torch.full((64,), -100))


@sick("Z613", "2.weight", loss=nn.CrossEntropyLoss(ignore_index=0))
def the_only_class_ignored() -> Any:
    return Mlp(8, 32, 2), (vectors(8), torch.zeros(64, dtype=torch.int64))


@sick("Z613", "2.weight", loss=nn.CrossEntropyLoss(weight=torch.zeros(5)))
def class_weights_of_zero() -> Any:
    return Mlp(8, 32, 5), (vectors(8), labels(5))


@sick("Z613", "2.weight", "warn", loss=nn.NLLLoss(weight=torch.tensor([1.0, 1.0, 0.0])))
def one_class_of_weight_zero() -> Any:
    return nn.Sequential(*Mlp(8, 32, 3), nn.LogSoftmax(-1)), (vectors(8), labels(3))


def _masked(y: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(y[:, :-1].flatten(0, 1), batch[1][:, 1:].flatten(), ignore_index=0)


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = LanguageModel(50)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


@sick("Z613", "model.head.weight", loss=_masked)
def labels_that_are_padding_alone() -> Any:
    return Padded(), (tokens(50), torch.zeros(4, 16, dtype=torch.int64))
