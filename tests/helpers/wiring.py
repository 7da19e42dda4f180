"""Networks that are wired wrong, one defect each, and twins that are wired right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tests.helpers.networks import LanguageModel, Mlp, Residual, images, tokens, vectors
from tests.helpers.sick import Build, Case

WIRED_WRONG: list[Case] = []
WIRED_RIGHT: dict[str, Build] = {}


def wrong(rule: str, where: str | None = None, severity: str = "fail") -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        case = Case(name=build.__name__, build=build, rule=rule, where=where, severity=severity)
        WIRED_WRONG.append(case)
        return build

    return add


def right(build: Build) -> Build:
    WIRED_RIGHT[build.__name__] = build
    return build


def labelled(x: Tensor, classes: int = 4) -> tuple[Tensor, Tensor]:
    return x, torch.randint(0, classes, (len(x),))


class Through(nn.Module):
    """Two layers, and a function between them."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu, width: int = 16, classes: int = 4) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, width), nn.Linear(width, classes)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.first(x)))


# -- Z901: in model.parameters() -------------------------------------------------------------------------------------


class Held(nn.Module):
    """Its layers are in a container of Python's."""

    def __init__(self, hold: Callable[[list[nn.Module]], Any]) -> None:
        super().__init__()
        self.layers = hold([nn.Linear(8, 16), nn.Linear(16, 16)])
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        layers = self.layers.values() if isinstance(self.layers, dict) else self.layers
        for layer in layers:
            x = torch.relu(layer(x))
        return self.head(x)


@wrong("Z901", "layers[0].bias")
def layers_in_a_list() -> Any:
    return Held(list), labelled(vectors(8))


@wrong("Z901", "layers['one'].bias")
def layers_in_a_dict() -> Any:
    return Held(lambda layers: {"one": layers[0], "two": layers[1]}), labelled(vectors(8))


@wrong("Z901")
def everything_in_a_list() -> Any:
    model = Held(list)
    model.layers.append(model.head)
    del model.head
    model.head = nn.Identity()
    return model, labelled(vectors(8))


class Fresh(Through):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.Linear(16, 16)(self.first(x)))


@wrong("Z901")
def a_layer_made_in_forward() -> Any:
    return Fresh(), labelled(vectors(8))


class Scaled(Through):
    def __init__(self, make: Callable[[], Any]) -> None:
        super().__init__()
        self.scale = make()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.first(x) * self.scale)


@wrong("Z901", "scale")
def a_parameter_times_a_number() -> Any:
    return Scaled(lambda: nn.Parameter(torch.randn(16)) * 0.1), labelled(vectors(8))


@wrong("Z901", "scale")
def a_tensor_that_requires_grad() -> Any:
    return Scaled(lambda: torch.randn(16, requires_grad=True)), labelled(vectors(8))


@right
def layers_in_a_module_list() -> Any:
    return Held(nn.ModuleList), labelled(vectors(8))


class Energy(nn.Module):
    """The gradient of an energy with respect to the input, or to a copy of it."""

    def __init__(self, copy: bool) -> None:
        super().__init__()
        self.net, self.copy = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1)), copy

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_() if self.copy else x.requires_grad_()
        return torch.autograd.grad(self.net(x).sum(), x, create_graph=True)[0]


@right
def an_input_that_requires_grad() -> Any:
    return Energy(copy=False), (vectors(8), vectors(8))


@right
def a_copy_of_the_input_that_requires_grad() -> Any:
    return Energy(copy=True), (vectors(8), vectors(8))


class Collocated(nn.Module):
    """A network of a differential equation, with its points as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
        self.points = torch.linspace(0, 1, 32)[:, None].requires_grad_()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        slope = torch.autograd.grad(self.net(self.points).sum(), self.points, create_graph=True)[0]
        return self.net(x), slope


@right
def points_that_require_grad() -> Any:
    return Collocated(), torch.rand(32, 1), {"loss": lambda y, _: y[0].square().mean() + (y[1] - 1).square().mean()}


class Centers(nn.Module):
    """A loss with centers of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(4))

    def forward(self, output: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(output, batch[1]) + (output - self.centers).square().mean()


@right
def a_loss_with_parameters_of_its_own() -> Any:
    return Mlp(8, 16, 4), labelled(vectors(8)), {"loss": Centers()}


class Taught(Through):
    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        self.teacher = [teacher.requires_grad_(False)]

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) - self.teacher[0](x)


@right
def a_frozen_teacher_in_a_list() -> Any:
    return Taught(Mlp(8, 16, 4)), labelled(vectors(8))


# -- Z902, Z903: in the optimizer ------------------------------------------------------------------------------------


def optimized(model: nn.Module, parameters: Any, kind: Any = torch.optim.SGD, **options: Any) -> Any:
    return model, labelled(vectors(8)), {"optimizer": kind(parameters, lr=1e-3, **options)}


@wrong("Z902", "head.weight")
def a_head_that_was_replaced_later() -> Any:
    model = Through()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.head = nn.Linear(16, 4)
    return model, labelled(vectors(8)), {"optimizer": optimizer}


@wrong("Z902", "first.bias")
def biases_left_out() -> Any:
    model = Through()
    return optimized(model, [model.first.weight, model.head.weight])


@wrong("Z902", "first.weight")
def an_optimizer_of_another_copy() -> Any:
    return optimized(Through(), Through().parameters())


@wrong("Z902", "first.bias")
def a_function_that_drops_vectors() -> Any:
    def make(parameters: Any) -> Any:
        return torch.optim.SGD([one for one in parameters if one.ndim > 1], lr=1e-3)

    return Through(), labelled(vectors(8)), {"optimizer": make}


@wrong("Z902", "first.bias", "warn")
def muon_alone() -> Any:
    model = Through()
    return optimized(model, [model.first.weight, model.head.weight], torch.optim.Muon)


@wrong("Z902", "head.bias")
def two_optimizers_that_both_leave_out_a_bias() -> Any:
    model = Through()
    optimizers = [torch.optim.SGD([one], lr=1e-3) for one in (model.first.weight, model.head.weight)]
    optimizers[0].add_param_group({"params": [model.first.bias]})
    return model, labelled(vectors(8)), {"optimizer": optimizers}


@wrong("Z903", "0.bias", "note")
def decay_of_biases() -> Any:
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    return optimized(model, model.parameters(), torch.optim.AdamW)


@right
def all_parameters() -> Any:
    model = Through()
    return optimized(model, model.parameters(), torch.optim.AdamW)


class Adversaries(nn.Module):
    """A generator and a discriminator, each of which has an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.generator, self.discriminator = Mlp(8, 16, 6), Mlp(6, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.discriminator(self.generator(x))


@right
def two_networks_with_an_optimizer_each() -> Any:
    model = Adversaries()
    optimizers = [torch.optim.Adam(one.parameters(), lr=1e-3) for one in (model.generator, model.discriminator)]
    return model, vectors(8), {"optimizer": optimizers}


@right
def muon_for_matrices_and_adam_for_vectors() -> Any:
    model = Through()
    matrices = [one for one in model.parameters() if one.ndim == 2]
    vectors_of = [one for one in model.parameters() if one.ndim < 2]
    optimizers = (torch.optim.Muon(matrices, lr=1e-3), torch.optim.Adam(vectors_of, lr=1e-3))
    return model, labelled(vectors(8)), {"optimizer": optimizers}


@right
def groups_that_decay_matrices_only() -> Any:
    model = Through()
    groups = [
        {"params": [one for one in model.parameters() if one.ndim > 1], "weight_decay": 0.1},
        {"params": [one for one in model.parameters() if one.ndim < 2], "weight_decay": 0.0},
    ]
    return optimized(model, groups, torch.optim.AdamW)


@right
def a_frozen_layer_left_out() -> Any:
    model = Through()
    model.first.requires_grad_(False)
    return optimized(model, model.head.parameters())


@right
def a_tied_weight_under_its_other_name() -> Any:
    model = LanguageModel(tied=True)
    return model, tokens(), {"optimizer": torch.optim.AdamW(model.parameters(), lr=1e-3)}


# -- Z904: the graph -------------------------------------------------------------------------------------------------


def cut(between: Callable[[Tensor], Tensor]) -> Any:
    return Through(between), labelled(vectors(8))


@wrong("Z904", "first.weight")
def a_comparison() -> Any:
    return cut(lambda h: (h > 0).float())


@wrong("Z904", "first.weight")
def an_argmax() -> Any:
    return cut(lambda h: F.one_hot(h.argmax(-1), 16).float())


@wrong("Z904", "first.weight")
def a_rounding() -> Any:
    return cut(lambda h: torch.round(4 * h))


@wrong("Z904", "first.weight")
def a_list() -> Any:
    return cut(lambda h: torch.tensor(h.tolist()))


@wrong("Z904", "first.weight")
def an_item() -> Any:
    return cut(lambda h: torch.stack([torch.full((16,), row.mean().item()) for row in h]))


@wrong("Z904", "first.weight")
def an_array() -> Any:
    return cut(lambda h: torch.from_numpy(h.detach().numpy() * 2))


@wrong("Z904", "first.weight")
def a_tensor_made_again() -> Any:
    return cut(lambda h: torch.tensor(h))


class Checkpointed(Through):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(checkpoint(self.first, x, use_reentrant=True)))


@wrong("Z904", "first.weight")
def a_reentrant_checkpoint_of_the_input() -> Any:
    return Checkpointed(), labelled(vectors(8))


@wrong("Z904")
def a_loss_made_of_a_number() -> Any:
    def loss(output: Tensor, _: Any) -> Tensor:
        return torch.tensor(output.square().mean().item(), requires_grad=True)

    return Through(), vectors(8), {"loss": loss}


class StraightThrough(Through):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.head(h + (h.round() - h).detach())


@right
def a_straight_through_estimator() -> Any:
    return StraightThrough(), labelled(vectors(8))


class Reported(Through):
    """Decisions and numbers go out beside the logits, or decide a way that changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        h = self.first(x)
        chosen = self.router(x).softmax(-1)
        if bool(torch.isnan(h).any()) or h.mean().item() > 1e6:
            raise ValueError
        y = self.head(torch.relu(h) * chosen.amax(-1, keepdim=True))
        return {"logits": y, "mean": h.mean().item(), "expert": chosen.argmax(-1)}


@right
def decisions_beside_the_logits() -> Any:
    return Reported(), vectors(8)


class Assigning(Through):
    """Without a loss, nothing says that the assignment is needed for it."""

    def __init__(self) -> None:
        super().__init__()
        self.assign = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        return super().forward(x), F.one_hot(self.assign(x).argmax(-1), 3).float()


@right
def an_assignment_beside_the_output() -> Any:
    return Assigning(), vectors(8)


class Momentum(nn.Module):
    """A copy of the encoder, which is frozen, under no_grad."""

    def __init__(self) -> None:
        super().__init__()
        self.online, self.target = Mlp(8, 16, 4), Mlp(8, 16, 4).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = self.target(x)
        return (self.online(x) - wanted).square().mean(-1)


@right
def a_frozen_copy_under_no_grad() -> Any:
    return Momentum(), vectors(8), {"loss": lambda y, _: y.mean()}


class Rechecked(Through):
    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.head, torch.relu(self.first(x)), use_reentrant=True)


@right
def a_reentrant_checkpoint_of_a_hidden_layer() -> Any:
    return Rechecked(), labelled(vectors(8))


# -- Z905, Z906: the output depends on the input ---------------------------------------------------------------------


@wrong("Z905")
def a_norm_over_one_feature() -> Any:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 1), nn.LayerNorm(1), nn.Linear(1, 4))
    return model, labelled(vectors(8))


@wrong("Z905")
def a_norm_of_one_feature_by_hand() -> Any:
    return Through(lambda h: F.layer_norm(h[:, :1], (1,)).expand(-1, 16)), labelled(vectors(8))


class Unused(Through):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.ones_like(x))


@wrong("Z905")
def an_unused_input() -> Any:
    return Unused(), labelled(vectors(8))


class Emptied(Through):
    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return self.head(h - h)


@wrong("Z905")
def a_difference_of_equals() -> Any:
    return Emptied(), labelled(vectors(8))


class PositionsAlone(nn.Module):
    """Its output differs between places, and not between samples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.position, self.head = nn.Embedding(50, 32), nn.Embedding(12, 32), nn.Linear(32, 50)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embed(torch.zeros_like(x)) + self.position.weight))


@wrong("Z905")
def tokens_that_are_not_read() -> Any:
    return PositionsAlone(), text(), {"loss": shifted}


def normalized(*last: nn.Module) -> nn.Module:
    """Many layers whose signal is lost in eval mode, as the running statistics are those of no data."""
    layers: list[nn.Module] = []
    for _ in range(60):
        linear = nn.Linear(8, 8)
        nn.init.normal_(linear.weight, std=0.02)
        layers += [linear, nn.BatchNorm1d(8), nn.Tanh()]
    return nn.Sequential(*layers, *last)


class Listed(nn.Module):
    """Its output is made of a list of those of its head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = normalized(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.body(x)
        return torch.softmax(torch.stack([self.head(h), self.head(h * 2)], 1), -1)


@right
def batch_norms_that_saw_no_data() -> Any:
    return Listed(), vectors(8)


@wrong("Z905")
def batch_norms_before_a_norm_over_one_feature() -> Any:
    return normalized(nn.Linear(8, 1), nn.LayerNorm(1), nn.Linear(1, 4)), labelled(vectors(8))


@wrong("Z906")
def dropout_of_everything() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.Dropout(1.0), nn.ReLU(), nn.Linear(16, 4)), labelled(vectors(8))


@wrong("Z906")
def functional_dropout_of_everything() -> Any:
    return Through(lambda h: F.dropout(F.relu(h), 1.0)), labelled(vectors(8))


@wrong("Z906")
def dropout_of_all_channels() -> Any:
    layers = [nn.Conv2d(3, 8, 3), nn.Dropout2d(p=1.0), nn.Flatten(), nn.Linear(8 * 36, 4)]
    return nn.Sequential(*layers), labelled(images(3, count=16))


@right
def much_dropout() -> Any:
    return nn.Sequential(nn.Linear(8, 64), nn.Dropout(0.9), nn.Linear(64, 4)), labelled(vectors(8))


@right
def a_read_out_of_zeros() -> Any:
    model = Mlp(8, 16, 4)
    nn.init.zeros_(model[2].weight)
    return model, labelled(vectors(8))


class ReZero(Residual):
    """Branches and read-out are zero."""

    def __init__(self) -> None:
        super().__init__()
        for block in self.blocks:
            nn.init.zeros_(block.fc2.weight), nn.init.zeros_(block.fc2.bias)
        nn.init.zeros_(self.head.weight), nn.init.zeros_(self.head.bias)


@right
def branches_and_read_out_of_zeros() -> Any:
    return ReZero(), labelled(vectors(16))


class Modulated(nn.Module):
    """adaLN-zero: the condition opens the branch, and the read-out is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.gate, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), nn.LayerNorm(8)
        self.out = nn.Linear(8, 8)
        for layer in (self.gate, self.out):
            nn.init.zeros_(layer.weight), nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.out(self.norm(x + self.gate(t) * self.inner(x)))


@right
def adaptive_norms_of_zeros() -> Any:
    return Modulated(), {"x": vectors(8), "t": vectors(8), "target": vectors(8)}


@right
def scales_of_zero() -> Any:
    model = nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4))
    nn.init.zeros_(model[1].weight)
    return model, labelled(vectors(8))


# -- Z907: samples ---------------------------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Over a sequence; a function between its layers."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.head, self.between = nn.Linear(8, 16), nn.Linear(16, 4), between

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.between(self.first(x)).mean(1))


def sequences(count: int = 16, length: int = 6, width: int = 8) -> Tensor:
    return torch.randn(count, length, width)


@wrong("Z907", None, "warn")
def a_view_in_place_of_a_transpose() -> Any:
    return Mixed(lambda h: torch.cumsum(h.reshape(h.shape[1], h.shape[0], -1), 0).transpose(0, 1)), labelled(
        sequences()
    )


@wrong("Z907", None, "warn")
def a_softmax_over_the_batch() -> Any:
    return Through(lambda h: 16 * h.softmax(0)), labelled(vectors(8))


@wrong("Z907", None, "warn")
def a_mean_of_the_batch() -> Any:
    return Through(lambda h: h - h.mean(0)), labelled(vectors(8))


@wrong("Z907", "lstm", "warn")
def a_recurrent_network_over_the_batch() -> Any:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(8, 16), nn.Linear(16, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x)[0][:, -1])

    return Recurrent(), labelled(sequences())


@right
def batch_norm() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4)), labelled(vectors(8))


@right
def batch_norm_without_running_statistics() -> Any:
    norm = nn.BatchNorm1d(16, track_running_stats=False)
    return nn.Sequential(nn.Linear(8, 16), norm, nn.ReLU(), nn.Linear(16, 4)), labelled(vectors(8))


class Pairwise(nn.Module):
    """Similarities of all pairs, for a contrastive loss."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(8, 16), nn.Linear(8, 16)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return F.normalize(self.one(x), dim=-1) @ F.normalize(self.two(y), dim=-1).T


@right
def similarities_of_all_pairs() -> Any:
    x = vectors(8, 16)
    return Pairwise(), (x, x.clone()), {"loss": lambda y, _: F.cross_entropy(y, torch.arange(16))}


class Graph(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        if edges.shape == (len(x), len(x)):
            return self.head(h + edges.float() @ h)
        return self.head(h.index_add(0, edges[1], h[edges[0]]))


@right
def a_graph_with_edges() -> Any:
    return Graph(), (vectors(8, 16), torch.randint(0, 16, (2, 40)))


@right
def a_graph_with_an_adjacency_matrix() -> Any:
    return Graph(), (vectors(8, 16), torch.rand(16, 16))


@right
def a_sequence_first_model() -> Any:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x)

    return Encoder(), (torch.randn(6, 16, 8), torch.randn(6, 16, 8))


# -- Z908, Z909: tokens ----------------------------------------------------------------------------------------------


class Causal(nn.Module):
    """One layer of attention over tokens, with a mask that adds to the scores, and a shift of the input."""

    def __init__(self, mask: Callable[[int], Tensor | None], shift: bool = False) -> None:
        super().__init__()
        self.embed, self.position, self.mask, self.shift = nn.Embedding(50, 32), nn.Embedding(16, 32), mask, shift
        self.attend, self.norm, self.head = nn.Linear(32, 96), nn.LayerNorm(32), nn.Linear(32, 50)

    def forward(self, x: Tensor) -> Tensor:
        if self.shift:
            x = F.pad(x[:, :-1], (1, 0))
        h = self.embed(x) + self.position.weight[: x.shape[1]]
        query, key, value = self.attend(self.norm(h)).chunk(3, -1)
        h = h + F.scaled_dot_product_attention(query, key, value, self.mask(x.shape[1]))
        return self.head(h)


def lower(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def text() -> Tensor:
    return torch.randint(0, 50, (8, 12))


def shifted(output: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(output[:, :-1].flatten(0, 1), batch[:, 1:].flatten())


def unshifted(output: Tensor, batch: Any) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), batch.flatten())


@wrong("Z908")
def no_mask() -> Any:
    return Causal(lambda _: None), text(), {"loss": shifted}


@wrong("Z908")
def an_inverted_mask() -> Any:
    return Causal(lambda length: ~lower(length) | torch.eye(length, dtype=torch.bool)), text(), {"loss": shifted}


@wrong("Z908")
def a_mask_that_shows_the_next_token() -> Any:
    return Causal(lambda length: torch.ones(length, length, dtype=torch.bool).tril(1)), text(), {"loss": shifted}


@wrong("Z908", None, "warn")
def an_inverted_mask_without_labels() -> Any:
    return Causal(lambda length: ~lower(length) | torch.eye(length, dtype=torch.bool)), text()


@wrong("Z909")
def labels_that_are_not_shifted() -> Any:
    return Causal(lower), text(), {"loss": unshifted}


@wrong("Z909")
def labels_that_are_the_input() -> Any:
    x = text()
    return Causal(lower), (x, x)


class TakesLabels(Causal):
    """Ignores the labels that it takes, or compares them with the logits as they are."""

    def __init__(self, ignores: bool) -> None:
        super().__init__(lower)
        self.ignores = ignores

    def forward(self, x: Tensor, labels: Tensor) -> Any:
        logits = super().forward(x)
        if self.ignores:
            return {"logits": logits}
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


@wrong("Z909", None, "warn")
def labels_that_the_model_takes_and_ignores() -> Any:
    x = text()
    return TakesLabels(ignores=True), {"x": x, "labels": x}


@wrong("Z909")
def labels_that_the_model_does_not_shift() -> Any:
    x = text()
    return TakesLabels(ignores=False), {"x": x, "labels": x}


@wrong("Z909", None, "warn")
def labels_that_are_shifted_twice() -> Any:
    def twice(output: Tensor, batch: Any) -> Tensor:
        return F.cross_entropy(output[:, :-2].flatten(0, 1), batch[:, 2:].flatten())

    return Causal(lower), text(), {"loss": twice}


@right
def a_causal_mask() -> Any:
    return Causal(lower), text(), {"loss": shifted}


@right
def a_causal_mask_without_labels() -> Any:
    return LanguageModel(), tokens()


@right
def an_input_that_is_shifted_in_the_model() -> Any:
    return Causal(lower, shift=True), text(), {"loss": unshifted}


@right
def masked_tokens() -> Any:
    x = text()
    masked = torch.rand(x.shape) < 0.3
    labels = x.masked_fill(~masked, -100)
    return Causal(lambda _: None), (x.masked_fill(masked, 0), labels)


@right
def an_encoder_without_labels() -> Any:
    return Causal(lambda _: None), text()


class Autoencoder(nn.Module):
    """All tokens to one vector, and back."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.decoder = (
            nn.Embedding(50, 32),
            nn.GRU(32, 32, batch_first=True),
            nn.Linear(32, 50),
        )
        self.position = nn.Embedding(16, 32)

    def forward(self, x: Tensor) -> Tensor:
        z = self.encoder(self.embed(x))[1][0]
        return self.decoder(torch.tanh(z[:, None] + self.position.weight[: x.shape[1]]))


@right
def an_autoencoder_of_text() -> Any:
    x = text()
    return Autoencoder(), (x, x)


@wrong("Z908", None, "warn")
def an_autoencoder_that_predicts_the_next_token() -> Any:
    return Autoencoder(), text(), {"loss": shifted}


@right
def a_recurrent_language_model() -> Any:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.rnn, self.head = nn.Embedding(50, 32), nn.GRU(32, 32, batch_first=True), nn.Linear(32, 50)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.rnn(self.embed(x))[0])

    return Recurrent(), text(), {"loss": shifted}
