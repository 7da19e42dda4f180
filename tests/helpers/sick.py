"""Models with one defect each, and what a check must say of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zeta
from tests.helpers.networks import LanguageModel, Mlp, Residual, images, tokens, vectors
from zeta import Rule, Rules
from zeta.initializers import Normal, Orthogonal, TruncatedNormal, Zeros


@dataclass(frozen=True, kw_only=True)
class Case:
    """``build`` gives model and batch, and further arguments of ``check``."""

    name: str
    build: Callable[[], tuple[Any, ...]]
    rule: str
    where: str | None  #: the parameter or layer that must be named; None where there is none
    severity: str = "fail"
    options: dict[str, Any] = field(default_factory=dict)


CASES: list[Case] = []
Build = Callable[[], tuple[Any, ...]]


def sick(rule: str, where: str | None, severity: str = "fail", **options: Any) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        CASES.append(Case(name=build.__name__, build=build, rule=rule, where=where, severity=severity, options=options))
        return build

    return add


def weights(model: nn.Module, kinds: Any = (nn.Linear, nn.Conv2d)) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, kinds)]


# -- Z1 --------------------------------------------------------------------------------------------------------------


class Forgetful(nn.Module):
    """Its init_weights writes the Linear layers and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 16)
        self.scale = nn.Parameter(torch.ones(16))
        self.register_buffer("shift", torch.zeros(16))
        self.register_buffer("count", torch.zeros(3, dtype=torch.int64))
        self.out = nn.Linear(16, 4)

    def init_weights(self) -> None:
        self.fc.reset_parameters()
        self.out.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.fc(x) * self.scale + self.shift + self.count.sum())


@sick("Z101", "scale", initialize=lambda m: m.init_weights())
def parameter_never_written() -> Any:
    return Forgetful(), vectors(8)


@sick("Z101", "shift", initialize=lambda m: m.init_weights())
def buffer_never_written() -> Any:
    return Forgetful(), vectors(8)


@sick("Z101", "count", initialize=lambda m: m.init_weights())
def integer_buffer_never_written() -> Any:
    return Forgetful(), vectors(8)


@sick("Z101", "0.bias", initialize=lambda m: [nn.init.normal_(layer.weight, std=0.3) for layer in weights(m)])
def bias_left_after_to_empty() -> Any:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    return model, vectors(8)


def _half(model: Any) -> None:
    model[0].reset_parameters()
    nn.init.normal_(model[2].weight[:2])
    nn.init.zeros_(model[2].bias)


@sick("Z101", "2.weight", initialize=_half)
def half_of_a_weight_written() -> Any:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), vectors(8)


@sick("Z102", "0.weight")
def nan_in_a_weight() -> Any:
    model = Mlp(8, 16, 4)
    nn.init.constant_(model[0].weight[3, 3:4], math.nan)
    return model, vectors(8)


@sick("Z102", "1.running_var")
def nan_in_a_buffer() -> Any:
    model = nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    model[1].running_var[2] = math.nan
    return model, vectors(8)


@sick("Z103", "0.weight")
def values_near_the_end_of_fp16() -> Any:
    model = Mlp(8, 16, 4).half()
    nn.init.uniform_(model[0].weight, -3e4, 3e4)
    return model, vectors(8).half()


@sick("Z104", "0.weight")
def subnormal_weights() -> Any:
    model = Mlp(8, 16, 4).half()
    nn.init.normal_(model[0].weight, std=2e-5)
    return model, vectors(8).half()


# -- Z2 --------------------------------------------------------------------------------------------------------------


def planned(rules: list[Rule], change: Callable[[Any], object] = lambda model: None, width: int = 64) -> Any:
    """A network initialized by rules and then changed, with its plan."""
    model = Mlp(16, width, 4)
    plan = zeta.plan(model, Rules([*rules, Rule("*.bias", Zeros()), Rule("*", Normal(0.15))]))
    zeta.apply_(model, plan, seed=0)
    with torch.no_grad():
        change(model)
    return model, vectors(16), {"plan": plan}


@sick("Z201", "2.weight")
def std_off_plan() -> Any:
    return planned([], lambda model: model[2].weight.mul_(1.5))


@sick("Z201", "2.weight")
def std_below_plan() -> Any:
    return planned([], lambda model: model[2].weight.mul_(0.7))


@sick("Z202", "2.weight")
def mean_off_plan() -> Any:
    return planned([], lambda model: model[2].weight.add_(0.03))


@sick("Z201", "2.weight")
def orthogonal_weight_rescaled() -> Any:
    # 0.5% of one std: an elementwise score would not see it, the Frobenius norm of an orthogonal matrix does not vary
    return planned([Rule("2.weight", Orthogonal())], lambda model: model[2].weight.mul_(1.005))


@sick("Z203", "2.weight", "warn")
def bounds_that_never_bite() -> Any:
    return planned([Rule("2.weight", TruncatedNormal(0.1, low=-2.0, high=2.0))])


@sick("Z204", "2.weight", "warn")
def truncation_that_lowers_the_std() -> Any:
    return planned([Rule("2.weight", TruncatedNormal(0.15))])


@sick("Z205", "0.weight")
def fan_of_a_transposed_convolution() -> Any:
    model = nn.Sequential(nn.ConvTranspose2d(64, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    nn.init.kaiming_normal_(model[0].weight, nonlinearity="relu")
    return model, images(64)


class Conv1D(nn.Module):
    """As transformers has it: the weight is in x out."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf, self.nx = nf, nx
        self.weight = nn.Parameter(torch.empty(nx, nf))
        self.bias = nn.Parameter(torch.zeros(nf))
        nn.init.kaiming_normal_(self.weight, nonlinearity="linear")

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight)


@sick("Z205", "0.weight")
def fan_of_a_transposed_linear() -> Any:
    return nn.Sequential(Conv1D(256, 32), nn.LayerNorm(256), nn.Linear(256, 4)), vectors(32)


@sick("Z207", "0.weight", "note")
def strided_transposed() -> Any:
    model = nn.Sequential(nn.ConvTranspose2d(32, 16, 4, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4))
    model(torch.zeros(1, 32, 4, 4))
    zeta.init_(
        model,
        Rules([Rule("0.weight", zeta.initializers.lecun_normal()), Rule("*.bias", Zeros()), Rule("*", Normal(0.05))]),
        seed=0,
    )
    return model, torch.randn(8, 32, 4, 4)


@sick("Z206", "0.weight")
def outliers_at_the_bound() -> Any:
    """erfinv of a bf16 uniform that rounded to one: infinite, and clamped to the bound."""
    model = Mlp(64, 128, 4).bfloat16()
    u = torch.empty(128, 64).uniform_(-1, 1).bfloat16()
    model[0].weight.data.copy_((torch.erfinv(u.float()) * math.sqrt(2) * 0.1).clamp(-2, 2))
    return model, vectors(64).bfloat16()


@sick("Z206", "0.weight", "warn")
def clamped_instead_of_truncated() -> Any:
    model = Mlp(64, 128, 4)
    nn.init.normal_(model[0].weight, std=0.1).data.clamp_(-0.2, 0.2)
    return model, vectors(64)


# -- Z3 --------------------------------------------------------------------------------------------------------------


@sick("Z301", "0.weight")
def constant_init() -> Any:
    model = Mlp(8, 16, 4)
    for layer in weights(model):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    return model, vectors(8)


@sick("Z301", "2.weight")
def constant_hidden_layer() -> Any:
    model = Mlp(8, 16, 4, depth=3)
    nn.init.constant_(model[2].weight, 0.1)
    nn.init.constant_(model[2].bias, 0.1)
    nn.init.constant_(model[4].weight, 0.1)
    return model, vectors(8)


@sick("Z302", "0.weight")
def all_zeros() -> Any:
    model = Mlp(8, 16, 4)
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model, vectors(8)


@sick("Z301", "0.weight")
def some_units_that_never_differ() -> Any:
    """All hidden units have the same weights; the read-out separates half of them only."""
    model = Mlp(8, 16, 4)
    nn.init.constant_(model[0].weight, 0.1)
    with torch.no_grad():
        model[2].weight[:, 8:] = model[2].weight[:, 8:9]
    return model, vectors(8)


@sick("Z301", "0.weight")
def duplicated_halves() -> Any:
    """A network widened by copying its units, without noise."""
    model = Mlp(8, 16, 4)
    with torch.no_grad():
        model[0].weight[8:] = model[0].weight[:8]
        model[0].bias[8:] = model[0].bias[:8]
        model[2].weight[:, 8:] = model[2].weight[:, :8]
    return model, vectors(8)


@sick("Z301", "0.weight")
def duplicated_channels() -> Any:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(4 * 16, 5))
    with torch.no_grad():
        model[0].weight[1] = model[0].weight[0]
        model[0].bias[1] = model[0].bias[0]
        model[2].weight[:, 1] = model[2].weight[:, 0]
    return model, images(3)


@sick("Z301", "0.weight")
def constant_embedding() -> Any:
    model = nn.Sequential(nn.Embedding(100, 16), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 100))
    nn.init.constant_(model[0].weight, 0.1)
    nn.init.constant_(model[1].weight, 0.1)
    return model, tokens()


class Lora(nn.Module):
    def __init__(self, inputs: int, outputs: int, rank: int = 4) -> None:
        super().__init__()
        self.base = nn.Linear(inputs, outputs).requires_grad_(False)
        self.A = nn.Linear(inputs, rank, bias=False)
        self.B = nn.Linear(rank, outputs, bias=False)
        nn.init.zeros_(self.B.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.B(self.A(x))


@sick("Z302", "0.A.weight")
def both_factors_of_lora_zero() -> Any:
    model = nn.Sequential(Lora(8, 16), nn.ReLU(), Lora(16, 4))
    for module in model.modules():
        if isinstance(module, Lora):
            nn.init.zeros_(module.A.weight)
    return model, vectors(8)


@sick("Z302", "blocks.0.attn.in_proj_weight")
def packed_queries_and_keys_zero() -> Any:
    model = LanguageModel()
    for block in model.blocks:
        nn.init.zeros_(block.attn.in_proj_weight[: 2 * block.attn.embed_dim])
    return model, tokens()


@sick("Z305", "layers.1.linear1.weight", "warn")
def cloned_layers() -> Any:
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), torch.randn(4, 6, 16)


# -- Z4 --------------------------------------------------------------------------------------------------------------


class Log(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.log(x)


@sick("Z401", "1")
def logarithm_of_negative_numbers() -> Any:
    return nn.Sequential(nn.Linear(8, 16), Log(), nn.Linear(16, 4)), vectors(8)


class Head(nn.Module):
    """A linear layer, and a function of what it gives."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.head, self.function = nn.Linear(8, 16), nn.Linear(16, 4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.head(F.relu(self.fc(x))))


@sick("Z401", None)
def logarithm_at_the_end() -> Any:
    return Head(torch.log), vectors(8)


@sick("Z401", None, loss=lambda y, _: (y.square().mean() - 100).sqrt())
def loss_that_is_nan() -> Any:
    return Head(lambda y: y), vectors(8)


def deep(depth: int, activation: type[nn.Module], gain: float, width: int = 64) -> Any:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, width), activation()]
        nn.init.normal_(layers[-2].weight, std=gain / math.sqrt(width))
        nn.init.zeros_(layers[-2].bias)
    return nn.Sequential(*layers, nn.Linear(width, 4)), vectors(width)


@sick("Z402", "98.weight")
def deeper_than_the_depth_scale() -> Any:
    return deep(50, nn.Tanh, 0.7)


@sick("Z402", "98.weight")
def relu_without_its_gain() -> Any:
    return deep(50, nn.ReLU, 1.0)


@sick("Z402", "58.weight")
def exploding() -> Any:
    return deep(30, nn.ReLU, 2.5)


@sick("Z403", "blocks.23.fc2.weight")
def no_scaling_of_residual_branches() -> Any:
    """Missing 1/sqrt(2 * layers): the variance triples in each block."""
    model = Residual(depth=24)
    for layer in weights(model.blocks):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    with torch.no_grad():
        model.blocks[-1].fc2.weight.mul_(4.0)
    return model, vectors(16)


@sick("Z404", "1")
def relu_born_dead() -> Any:
    model = Mlp(8, 64, 4)
    nn.init.constant_(model[0].bias, -10.0)
    return model, vectors(8)


class Functional(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.fc1, self.fc2 = nn.Linear(8, 64), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.function(self.fc1(x)))


@sick("Z404", "model:relu")
def functional_relu_born_dead() -> Any:
    model = Functional(F.relu)
    nn.init.constant_(model.fc1.bias, -10.0)
    return model, vectors(8)


@sick("Z404", "model:gelu")
def gelu_born_dead() -> Any:
    model = Functional(F.gelu)
    nn.init.constant_(model.fc1.bias, -10.0)
    return model, vectors(8)


@sick("Z404", "1")
def dead_channels() -> Any:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 3))
    nn.init.constant_(model[0].bias, -10.0)
    return model, images(3)


@sick("Z405", "1")
def tanh_saturated() -> Any:
    model = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 4))
    nn.init.normal_(model[0].weight, std=10.0)
    return model, vectors(8)


@sick("Z405", "model:sigmoid")
def sigmoid_saturated() -> Any:
    model = Functional(torch.sigmoid)
    nn.init.normal_(model.fc1.weight, std=30.0)
    return model, vectors(8)


class SoftmaxOfOne(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(8, 1), nn.Linear(1, 4)
        self.gate = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.gate(self.fc1(x)))


@sick("Z406", "gate")
def constant_output() -> Any:
    return SoftmaxOfOne(), vectors(8)


@sick("Z506", "fc1.weight")
def nothing_passes() -> Any:
    return SoftmaxOfOne(), vectors(8)


class LastOfBoth(nn.Module):
    """Reads a bidirectional network at the last step, which its reverse direction enters with a zero state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.GRU(8, 16, batch_first=True, bidirectional=True), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@sick("Z506", "rnn.weight_hh_l0_reverse")
def reverse_state_that_is_never_used() -> Any:
    return LastOfBoth(), torch.randn(8, 5, 8)


# -- Z5 --------------------------------------------------------------------------------------------------------------


class Spare(nn.Module):
    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.spare = nn.Linear(8, 16), nn.Linear(16, 4), nn.Linear(8, 16)
        self._forward = forward

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(self, x)


@sick("Z501", "spare.weight", "warn")
def never_called() -> Any:
    return Spare(lambda self, x: self.fc2(self.fc1(x))), vectors(8)


@sick("Z501", "spare.weight", "warn")
def output_not_used() -> Any:
    return Spare(lambda self, x: (self.spare(x), self.fc2(self.fc1(x)))[1]), vectors(8)


@sick("Z502", "fc1.weight")
def detached() -> Any:
    return Spare(lambda self, x: self.fc2(self.fc1(x).detach() + self.spare(x))), vectors(8)


@sick("Z502", "fc1.weight")
def cut_by_data() -> Any:
    return Spare(lambda self, x: self.fc2(torch.relu(self.fc1(x)).data + self.spare(x))), vectors(8)


def _without_graph(self: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        hidden = self.fc1(x)
    return self.fc2(hidden + self.spare(x))


@sick("Z502", "fc1.weight")
def under_no_grad() -> Any:
    return Spare(_without_graph), vectors(8)


@sick("Z503", None)
def output_detached() -> Any:
    return Spare(lambda self, x: self.fc2(self.fc1(x)).detach()), vectors(8)


@sick("Z503", None)
def everything_frozen() -> Any:
    return Mlp(8, 16, 4).requires_grad_(False), vectors(8)


@sick("Z504", "0.weight")
def gradients_vanish() -> Any:
    return deep(24, nn.Sigmoid, 0.5)


@sick("Z504", "0.weight")
def gradients_explode() -> Any:
    return deep(60, nn.Tanh, 4.0)


@sick("Z507", "head.weight")
def root_of_zero() -> Any:
    """The distance of each sample to itself: finite forward; backward, infinity times zero."""
    return Head(lambda y: (y[:, None] - y).square().sum(-1).sqrt()), vectors(8)


# -- Z6 --------------------------------------------------------------------------------------------------------------


@sick("Z601", "wte.weight")
def unit_normal_tied_embedding() -> Any:
    """Loss near 89 instead of 6.9."""
    model = LanguageModel(vocabulary=1000, width=96, tied=True)
    nn.init.normal_(model.wte.weight)
    return model, tokens(1000)


@sick("Z601", "2.weight")
def head_too_large() -> Any:
    model = Mlp(8, 64, 10)
    nn.init.normal_(model[2].weight, std=3.0)
    return model, (vectors(8), torch.arange(64) % 10)


class Heads(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body, self.one, self.other = nn.Linear(16, 64), nn.Linear(64, classes), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = F.relu(self.body(x))
        return self.one(y), self.other(y)


def of_both_heads(output: tuple[Tensor, Tensor], batch: Tensor) -> Tensor:
    labels = torch.arange(len(batch)) % 10
    return F.cross_entropy(output[0], labels) + F.cross_entropy(output[1], labels)


@sick("Z601", "other.weight", loss=of_both_heads)
def one_of_two_heads_too_large() -> Any:
    model = Heads()
    nn.init.normal_(model.other.weight, std=3.0)
    return model, vectors(16)


class Leaking(nn.Module):
    """A language model that may look at the token that it is to predict."""

    def __init__(self) -> None:
        super().__init__()
        self.wte = nn.Embedding(100, 64)
        self.head = nn.Linear(64, 100, bias=False)
        self.head.weight = self.wte.weight
        nn.init.normal_(self.wte.weight, std=0.3)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.wte(x))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten()), "logits": logits}


@sick("Z602", "wte.weight", "warn")
def labels_leak() -> Any:
    batch = tokens(100)
    return Leaking(), {"x": batch, "labels": batch}


@sick("Z603", "blocks.0.attn:scaled_dot_product_attention")
def attention_collapsed() -> Any:
    model = LanguageModel()
    for block in model.blocks:
        nn.init.normal_(block.attn.in_proj_weight[: 2 * 32], std=1.0)
    return model, tokens()


@sick("Z604", "blocks.0.attn:scaled_dot_product_attention", "warn")
def attention_scores_too_large() -> Any:
    return attention_collapsed()


@sick("Z605", "2.weight", "warn", loss=lambda y, _: F.cross_entropy(y, torch.arange(64) % 10))
def softmax_before_cross_entropy() -> Any:
    return nn.Sequential(*Mlp(8, 64, 10), nn.Softmax(-1)), vectors(8)


@sick("Z605", "2.weight", "warn", loss=nn.BCEWithLogitsLoss())
def sigmoid_before_its_loss() -> Any:
    return nn.Sequential(*Mlp(8, 64, 3), nn.Sigmoid()), (vectors(8), torch.eye(64)[:, :3])


# -- Z7 --------------------------------------------------------------------------------------------------------------


@sick("Z701", "0.weight", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e4))
def first_step_too_large() -> Any:
    return Mlp(8, 16, 4), vectors(8)


@sick("Z701", "0.weight", "warn", optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1e-9))
def first_step_too_small() -> Any:
    return Mlp(8, 16, 4), vectors(8)
