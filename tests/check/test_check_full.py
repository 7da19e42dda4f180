"""The full level: Jacobians, spectral norms, and what happens as models grow."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.healthy import MODELS
from tests.helpers.networks import LanguageModel, Mlp, Residual, tokens, vectors
from tests.helpers.sick import deep
from zeta.check import check
from zeta.errors import SpecError


def found(report: Any, rule: str) -> list[Any]:
    return [finding for finding in report.findings if finding.rule.id == rule]


def test_singular_values_are_those_of_the_jacobian() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 5)), vectors(8, 32)
    layers = {layer.name: layer for layer in check(model, x, level="full").layers}
    for name, layer in (("0", model[0]), ("2", model[2])):
        values = torch.linalg.svdvals(layer.weight.detach())
        square, largest = layers[name].singular
        assert largest == pytest.approx(float(values[0]), rel=0.05)
        assert square == pytest.approx(float(values.square().mean()), rel=0.2)  # a few random vectors
    slopes = (1 - torch.tanh(model[0](x)) ** 2).detach()
    square, largest = layers["1"].singular
    assert square == pytest.approx(float(slopes.square().mean()), rel=0.2)
    assert 0.9 < largest <= float(slopes.max()) + 1e-4


def test_attention_has_a_jacobian_too() -> None:
    report = check(LanguageModel(depth=1), tokens(), level="full")
    layers = {layer.name: layer for layer in report.layers}
    assert report.ok
    assert layers["blocks.0"].singular is not None
    assert layers["blocks.0.attn:scaled_dot_product_attention"].singular[0] > 0


#: the settings of the process at each forward pass; out of the model, whose lists a check restores
FUSED: list[tuple[bool, bool]] = []


class Attending(nn.Module):
    """Attention of a tensor to itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        cuda: Any = torch.backends.cuda
        FUSED.append((cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled()))
        return F.scaled_dot_product_attention(x, x, x, **self.options)


ALLOWED = torch.tensor([[True, False, False], [True, True, False], [False, True, True]])


@pytest.mark.parametrize(
    "options", [{}, {"is_causal": True}, {"attn_mask": ALLOWED}, {"attn_mask": ALLOWED / 2}, {"scale": 2.0}], ids=str
)
def test_the_jacobian_of_attention_is_that_of_autograd(options: dict[str, Any]) -> None:
    x = torch.randn(2, 1, 3, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)  # what was imported may have drawn
    model = nn.Sequential(nn.Linear(8, 8), Attending(**options))
    given = model[0](x).detach()
    exact = torch.autograd.functional.jacobian(model[1], given).reshape(given.numel(), -1)  # type: ignore[no-untyped-call]
    values = torch.linalg.svdvals(exact)
    FUSED.clear()
    report = check(model, x, loss=lambda out, batch: out.square().mean(), level="full")
    assert set(FUSED) == {(True, True)}  # fused kernels stay on, for other threads too
    singular = next(layer.singular for layer in report.layers if layer.name == "1")
    assert singular is not None
    assert singular[0] == pytest.approx(float(values.square().mean()), rel=0.25)  # a few random vectors
    assert singular[1] is not None
    assert 0.8 * float(values[0]) < singular[1] < 1.001 * float(values[0])  # a few rounds of a power iteration


@pytest.mark.parametrize("gain", [0.3, 3.0])
def test_jacobians_that_multiply_to_far_from_one(gain: float) -> None:
    model, x = deep(15, nn.ReLU, gain)
    report = check(model, x, level="full", suppress=["Z402"])  # under which it would be listed
    assert [finding.severity.value for finding in found(report, "Z801")] == ["fail"]
    assert found(check(*deep(15, nn.ReLU, math.sqrt(2)), level="full"), "Z801") == []


def test_a_small_head_and_pooling_do_not_multiply() -> None:
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()]
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4)]
    for layer in layers[:4:2] + layers[6:7]:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
    nn.init.normal_(layers[-1].weight, std=1e-5)  # type: ignore[arg-type]
    report = check(nn.Sequential(*layers), torch.randn(2, 3, 96, 96), level="full")
    assert found(report, "Z801") == []


def test_residual_blocks_multiply_too() -> None:
    model = Residual(depth=24)
    with torch.no_grad():
        for block in model.blocks:
            block.fc2.weight.mul_((2 * 24) ** 0.5)
    (finding,) = found(check(model, vectors(16), level="full", suppress=["Z402", "Z403"]), "Z801")
    assert (finding.layer, finding.value) == ("blocks.23", pytest.approx(24 * math.log(3), rel=0.1))


def test_a_mean_shows_in_the_spectral_norm() -> None:
    model = Mlp(64, 512, 4)
    report = check(model, vectors(64), level="full")
    measured, expected = next(p.spectral for p in report.parameters if p.name == "0.weight")
    assert measured == pytest.approx(float(torch.linalg.svdvals(model[0].weight.detach())[0]), rel=1e-3)
    assert measured == pytest.approx(expected, rel=0.1)
    assert found(report, "Z802") == []
    with torch.no_grad():
        model[0].weight.add_(0.5)
    (finding,) = found(check(model, vectors(64), level="full"), "Z802")
    assert finding.parameter == "0.weight"
    assert finding.value == pytest.approx(
        float(torch.linalg.svdvals(model[0].weight.detach())[0])
        / float(model[0].weight.detach().square().mean().sqrt() * (math.sqrt(512) + math.sqrt(64))),
        rel=1e-3,
    )


class Standard(nn.Module):
    """Standard parametrization, or muP with Adam: hidden rates and output scaled with 1/width."""

    def __init__(self, width: int, mup: bool) -> None:
        super().__init__()
        self.inner, self.hidden, self.outer = nn.Linear(16, width), nn.Linear(width, width), nn.Linear(width, 4)
        self.scale = 16 / width if mup else 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(F.relu(self.hidden(F.relu(self.inner(x))))) * self.scale


def test_activations_that_grow_with_width() -> None:
    def rates(parameters: Any) -> torch.optim.Optimizer:
        groups = [
            {"params": [p], "lr": 3e-3 * (16 / p.shape[1] if p.ndim == 2 and p.shape[1] > 16 else 1.0)}
            for p in parameters
        ]
        return torch.optim.Adam(groups)

    torch.manual_seed(0)
    x = (vectors(16), torch.arange(64) % 4)
    standard = check(
        Mlp(16, 16, 4), x, level="full", width=lambda n: Standard(n, False), widths=(32, 128, 512),
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    )  # fmt: skip
    assert {finding.layer for finding in found(standard, "Z803")} >= {"hidden", "outer"}
    assert {(p.factory, p.size, p.step) for p in standard.points} == {
        ("width", size, step) for size in (32, 128, 512) for step in range(11)
    }
    classes = {point.layer: point.group for point in standard.points}
    assert [classes[name] for name in ("inner", "hidden", "outer")] == ["input", "hidden", "output"]
    assert {slope.group: slope.verdict for slope in standard.slopes}["hidden"] == "grows"
    assert "width^exponent" in str(standard)
    mup = check(
        Mlp(16, 16, 4), x, level="full", width=lambda n: Standard(n, True), widths=(32, 128, 512), optimizer=rates
    )
    assert found(mup, "Z803") == []
    assert {slope.verdict for slope in mup.slopes} == {"flat"}


def test_a_structure_that_changes_with_the_width_has_the_classes_of_what_is_common() -> None:
    """The wider model has no table, one layer more, and a weight of more dimensions: its bias says the class."""

    class Changing(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.inner = nn.Linear(16, width)
            self.mid = nn.Linear(width, width) if width < 64 else nn.Conv1d(width, width, 1)
            self.table = nn.Embedding(4, width) if width < 64 else None
            self.more = nn.Linear(width, width) if width > 64 else None
            self.pos_embed = nn.Parameter(torch.zeros(1, width))
            self.outer = nn.Linear(width, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.inner(x) + self.pos_embed
            x = x + self.mid(x if isinstance(self.mid, nn.Linear) else x[..., None]).flatten(1)
            x = x if self.more is None else self.more(x)
            x = x if self.table is None else x + self.table.weight.sum(0)
            return self.outer(x)

    batch = (vectors(16), torch.arange(64) % 4)
    report = check(Mlp(16, 16, 4), batch, level="full", width=Changing, widths=(32, 128))
    classes = {point.layer: point.group for point in report.points}
    assert (classes["inner"], classes["outer"], classes["mid"]) == ("input", "output", "vector")


def test_gradients_that_grow_with_depth() -> None:
    def unscaled(depth: int) -> nn.Module:
        model = Residual(depth=depth)
        with torch.no_grad():
            for block in model.blocks:
                block.fc2.weight.mul_((2 * depth) ** 0.5)
        return model

    x = vectors(16)
    grown = check(Residual(), x, level="full", depth=unscaled, depths=(2, 4, 8))
    assert [finding.severity.value for finding in found(grown, "Z804")] == ["fail"]
    norms = [(p.factory, p.size, p.step) for p in grown.points if p.layer == "gradient norm"]
    assert norms == [("depth", n, 0) for n in (2, 4, 8)]
    scaled = check(Residual(), x, level="full", depth=lambda n: Residual(depth=n), depths=(2, 4, 8))
    assert found(scaled, "Z804") == []


@pytest.mark.parametrize("form", ["{}", "layer_{}", "h{}", "block_{}_of_2d", "conv2d_{}"])
def test_blocks_are_compared_over_depth_whatever_their_names(form: str) -> None:
    """The layers in blocks that are no list have a star for the number of the block too."""

    class Deep(nn.Module):
        def __init__(self, depth: int) -> None:
            super().__init__()
            torch.manual_seed(depth)
            self.inp, self.fc1, self.fc2 = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 4)
            self.stack = nn.Module()
            for number in range(depth):
                self.stack.add_module(form.format(number), nn.Sequential(nn.Linear(16, 16), nn.GELU()))

        def forward(self, x: Tensor) -> Tensor:
            x = self.inp(x)
            for block in self.stack.children():
                x = x + block(x)
            return self.fc2(self.fc1(x))

    batch = (vectors(16), torch.arange(64) % 4)
    report = check(Mlp(16, 16, 4), batch, level="full", depth=Deep, depths=(2, 11))
    points = {point.layer: point.group for point in report.points if point.group}
    block = form.format("*")
    inside = {name for name, group in points.items() if group == "in blocks"}
    assert inside - {"stack.*"} == {f"stack.{block}.0", f"stack.{block}.1"}
    assert {"inp", "fc1", "fc2"} <= points.keys() - inside
    count = {point.size for point in report.points if point.layer == f"stack.{block}.0"}
    assert count == {2, 11}
    expected = Deep(2)
    x, squares = expected.inp(batch[0]), []
    for each in expected.stack.children():
        squares.append(float(each[0](x).detach().square().mean()))
        x = x + each(x)
    value = next(p.value for p in report.points if (p.layer, p.size, p.step) == (f"stack.{block}.0", 2, 0))
    assert value == pytest.approx(math.sqrt(sum(squares) / 2), rel=1e-5)


def test_wrong_sweeps_are_refused() -> None:
    model, x = Mlp(8, 16, 4), vectors(8)
    with pytest.raises(SpecError, match="belong to the full level"):
        check(model, x, width=lambda n: Mlp(8, n, 4))
    with pytest.raises(SpecError, match=r"widths must be at least two growing whole numbers, got \(4,\)"):
        check(model, x, level="full", width=lambda n: Mlp(8, n, 4), widths=(4,))
    with pytest.raises(SpecError, match="depth must be a function from a depth to a model, got 3"):
        check(model, x, level="full", depth=3)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match=r"width\(64\) must return a torch.nn.Module, got None"):
        check(model, x, level="full", width=lambda n: None)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize("name", ["mlp_of_torch", "siren", "resnet_with_zero_residuals", "dit", "lora", "lstm"])
def test_healthy_models_stay_healthy(name: str) -> None:
    torch.manual_seed(1)
    model, batch, *options = MODELS[name]()
    report = check(model, batch, level="full", **(options[0] if options else {}))
    assert report.ok, report.findings
