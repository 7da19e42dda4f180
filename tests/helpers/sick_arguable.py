"""Networks in which something is suspicious: they may learn, but worse."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.networks import Mlp, images, vectors
from tests.helpers.sick import sick


def labelled(scale: float = 1.0, mean: float = 0.0) -> Any:
    return mean + scale * vectors(8), torch.arange(64) % 5


@sick("Z410", "1.weight", "warn")
def forgotten_activations() -> Any:
    return nn.Sequential(nn.Linear(8, 64), nn.Linear(64, 64), nn.Linear(64, 5)), labelled()


@sick("Z410", "2.weight", "warn")
def dropout_for_an_activation() -> Any:
    return nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.1), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 5)), labelled()


@sick("Z410", "1.weight", "warn")
def convolutions_without_activations() -> Any:
    layers = (nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)), (
        images(3),
        torch.arange(8) % 5,
    )


class Sparse(nn.Module):
    """Each token goes to two of eight experts."""

    def __init__(self, bias: float = 0.0, scale: float = 1.0) -> None:
        super().__init__()
        self.router, self.head = nn.Linear(16, 8), nn.Linear(16, 5)
        self.experts = nn.ModuleList(Mlp(16, 32, 16) for _ in range(8))
        with torch.no_grad():
            self.router.bias.zero_()
            self.router.bias[:2] += bias
            self.router.weight.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        gates, chosen = self.router(x).softmax(-1).topk(2, dim=-1)
        outputs = torch.stack([expert(x) for expert in self.experts], 1)
        picked = outputs.gather(1, chosen[..., None].expand(-1, -1, x.shape[-1]))
        return self.head(x + (gates[..., None] * picked).sum(1))


class Codes(nn.Module):
    """A vector-quantized autoencoder."""

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        self.encoder, self.decoder = Mlp(8, 32, 16), Mlp(16, 32, 8)
        self.codebook = nn.Parameter(codes)

    def forward(self, x: Tensor) -> Any:
        z = self.encoder(x)
        q = self.codebook[torch.cdist(z, self.codebook).argmin(-1)]
        loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        y = self.decoder(z + (q - z).detach())
        return {"loss": loss + F.mse_loss(y, x), "logits": y}


@sick("Z411", None, "warn")
def a_router_with_a_favourite() -> Any:
    return Sparse(bias=20.0), (vectors(16), torch.arange(64) % 5)


@sick("Z411", None, "warn")
def a_router_of_zeros() -> Any:
    return Sparse(scale=0.0), (vectors(16), torch.arange(64) % 5)


@sick("Z411", None, "warn")
def a_codebook_that_is_far_away() -> Any:
    return Codes(100 * torch.randn(32, 16)), vectors(8)


@sick("Z412", "0.bias", "warn")
def biases_of_ten() -> Any:
    model = Mlp(8, 32, 5)
    nn.init.normal_(model[0].bias, std=30.0)
    return model, labelled()


@sick("Z412", "2.bias", "warn")
def weights_too_small_for_their_biases() -> Any:
    model = Mlp(8, 32, 5, depth=3)
    nn.init.normal_(model[2].weight, std=1e-4)
    nn.init.uniform_(model[2].bias, -0.2, 0.2)
    return model, labelled()


@sick("Z412", "1.bias", "warn")
def convolutions_with_large_biases() -> Any:
    layers = (nn.ReLU(), nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(*layers, nn.Linear(8, 5))
    nn.init.normal_(model[1].bias, std=30.0)
    return model, (images(3), torch.arange(8) % 5)


@sick("Z413", "0.weight", "warn")
def bytes_of_images() -> Any:
    layers = (nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(*layers), (torch.randint(0, 256, (8, 3, 8, 8)).float(), torch.arange(8) % 5)


@sick("Z413", "0.weight", "warn")
def temperatures_in_kelvin() -> Any:
    return Mlp(8, 32, 5), labelled(5.0, 300.0)


@sick("Z413", "0.weight", "warn")
def currents_in_ampere() -> Any:
    return Mlp(8, 32, 5), labelled(1e-5)


@sick("Z413", "0.weight", "warn")
def years_as_fractions_of_a_millennium() -> Any:
    return Mlp(8, 32, 5), labelled(0.01, 2.0)
