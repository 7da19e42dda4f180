"""Mamba and Mamba-2 against the released code's formulas: on transformers' models, and on one with other names."""

from __future__ import annotations

import math
import os

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import zeta  # noqa: E402
from tests.helpers.expected_laws import assert_laws  # noqa: E402
from zeta.errors import PlanError, SpecError  # noqa: E402
from zeta.initializers import Constant, Initializer, Normal, Ones, Uniform, Zeros  # noqa: E402

SIZES = {"hidden_size": 64, "num_hidden_layers": 3, "vocab_size": 90, "initializer_range": 0.02}


def within(bound: float) -> Uniform:
    return Uniform(-bound, bound)


def mamba_of_transformers(**changes: object) -> nn.Module:
    config = transformers.MambaConfig(**{**SIZES, "state_size": 8, "rescale_prenorm_residual": True, **changes})
    return transformers.MambaForCausalLM(config)  # type: ignore[no-any-return]


def mamba2_of_transformers(**changes: object) -> nn.Module:
    sizes = {"state_size": 8, "num_heads": 128, "head_dim": 1, "n_groups": 1, "rescale_prenorm_residual": True}
    return transformers.Mamba2ForCausalLM(transformers.Mamba2Config(**{**SIZES, **sizes, **changes}))  # type: ignore[no-any-return]


# -- the laws that are programs: against transformers' own, which for these parameters is the released code's ----------

SAME = {
    "mamba": (
        mamba_of_transformers, ("A_log", "D", "conv1d.weight", "dt_proj.weight", "dt_proj.bias", "out_proj.weight"),
    ),
    "mamba2": (mamba2_of_transformers, ("D", "conv1d.weight", "dt_bias", "out_proj.weight")),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_what_transformers_does_as_the_released_code(name: str) -> None:
    build, mixer = SAME[name]
    _, recorded = zeta.record(build)
    difference = zeta.diff(recorded, zeta.plan(build(), name))
    differ = {change.name for change in difference}
    assert not any(change.endswith(mixer) or "norm" in change or "embeddings" in change for change in differ)
    # and where it differs: linear layers N(0, s²), biases of convolutions 0, and in Mamba-2 A = 1..H
    ends = {"in_proj.weight", "conv1d.bias"} | ({"x_proj.weight"} if name == "mamba" else {"mixer.A_log"})
    assert {".".join(change.split(".")[-2:]).removeprefix("mixer.") for change in differ} - {"lm_head.weight"} == {
        end.removeprefix("mixer.") for end in ends
    }


def test_steps_with_other_limits_are_those_of_transformers() -> None:
    def build() -> nn.Module:
        return mamba_of_transformers(
            time_step_min=0.01, time_step_max=0.5, time_step_floor=0.02, time_step_scale=2.0,
            time_step_init_scheme="constant",
        )  # fmt: skip

    _, recorded = zeta.record(build)
    plan = zeta.plan(build(), "mamba", dt_min=0.01, dt_max=0.5, dt_floor=0.02, dt_scale=2.0, dt_init="constant")
    projections = [change.name for change in zeta.diff(recorded, plan) if "dt_proj" in change.name]
    assert projections == []
    assert plan["backbone.layers.1.mixer.dt_proj.weight"].initializer == Constant(2 / 4**0.5)


# -- values ------------------------------------------------------------------------------------------------------------


def softplus(x: Tensor) -> Tensor:
    return nn.functional.softplus(x.detach().double())


def assert_uniform(values: Tensor, low: float, high: float) -> None:
    """Bounds, and the empirical distribution function, within what Kolmogorov's test exceeds once in 1e6."""
    values = values.detach().double().flatten().sort().values
    assert low - 1e-5 <= float(values[0])
    assert float(values[-1]) <= high + 1e-5
    expected = (torch.arange(values.numel()) + 0.5) / values.numel()
    distance = float(((values - low) / (high - low) - expected).abs().max()) * values.numel() ** 0.5
    assert distance < 2.7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_steps_are_log_uniform(dtype: torch.dtype) -> None:
    model = mamba_of_transformers(hidden_size=512).to(dtype)
    zeta.init_(model, "mamba", seed=0)
    bias = torch.cat([layer.mixer.dt_proj.bias for layer in model.backbone.layers])
    low, high = math.log(0.001), math.log(0.1)
    if dtype == torch.bfloat16:
        assert float(softplus(bias).log().mean()) == pytest.approx((low + high) / 2, abs=0.1)
    else:
        assert_uniform(softplus(bias).log(), low, high)


def test_the_floor_raises_small_steps() -> None:
    model = mamba_of_transformers(hidden_size=256)
    zeta.init_(model, "mamba", seed=0, dt_floor=0.01)
    steps = softplus(torch.cat([layer.mixer.dt_proj.bias for layer in model.backbone.layers]))
    assert float(steps.min()) == pytest.approx(0.01, rel=1e-4)
    assert float((steps < 0.01001).double().mean()) == pytest.approx(0.5, abs=0.06)


def test_the_decay_of_mamba2_is_uniform() -> None:
    model = mamba2_of_transformers()
    zeta.init_(model, "mamba2", seed=0)
    assert_uniform(torch.cat([layer.mixer.A_log for layer in model.backbone.layers]).detach().exp(), 1, 16)
    assert_uniform(
        softplus(torch.cat([layer.mixer.dt_bias for layer in model.backbone.layers])).log(),
        math.log(0.001),
        math.log(0.1),
    )


# -- other names -------------------------------------------------------------------------------------------------------


class Mixer(nn.Module):
    """Width 32, inner width 48, state 5, steps of rank 3."""

    def __init__(self, second: bool) -> None:
        super().__init__()
        self.in_proj = nn.Linear(32, 118 if second else 96)
        self.conv = nn.Conv1d(48, 48, 3, groups=48)
        if second:
            self.dt_bias, self.A_log, self.D = (nn.Parameter(torch.empty(6)) for _ in range(3))
            self.norm = nn.RMSNorm(48)
        else:
            self.x_proj = nn.Linear(48, 13, bias=False)
            self.dt_proj = nn.Linear(3, 48)
            self.A_log, self.D = nn.Parameter(torch.empty(48, 5)), nn.Parameter(torch.empty(48))
        self.out = nn.Linear(48, 32)


class OwnMamba(nn.Module):
    def __init__(self, *, second: bool = False, mlp: bool = False, layers: int = 3) -> None:
        super().__init__()
        self.tokens = nn.Embedding(100, 32)
        blocks = [{"norm": nn.RMSNorm(32), "ssm": Mixer(second)} for _ in range(layers)]
        for block in blocks:
            if mlp:
                block["mlp"] = nn.ModuleDict({"fc1": nn.Linear(32, 160), "fc2": nn.Linear(80, 32)})
        self.blocks = nn.ModuleList(map(nn.ModuleDict, blocks))
        self.head = nn.Linear(32, 100, bias=False)


def own_laws(*, second: bool, mlp: bool, layers: int = 3) -> dict[str, Initializer]:
    branches = 2 if mlp else 1
    laws: dict[str, Initializer] = {"tokens.weight": Normal(0.02), "head.weight": within(32**-0.5)}
    for block in range(layers):
        at = f"blocks.{block}"
        laws |= {
            f"{at}.norm.weight": Ones(), f"{at}.ssm.D": Ones(),
            f"{at}.ssm.in_proj.weight": within(32**-0.5), f"{at}.ssm.in_proj.bias": Zeros(),
            f"{at}.ssm.conv.weight": within(3**-0.5), f"{at}.ssm.conv.bias": within(3**-0.5),
            f"{at}.ssm.out.weight": within((48 * branches * layers) ** -0.5), f"{at}.ssm.out.bias": Zeros(),
        }  # fmt: skip
        if second:
            laws |= {f"{at}.ssm.norm.weight": Ones()}
        else:
            laws |= {f"{at}.ssm.x_proj.weight": within(48**-0.5), f"{at}.ssm.dt_proj.weight": within(3**-0.5)}
        if mlp:
            laws |= {
                f"{at}.mlp.fc1.weight": within(32**-0.5), f"{at}.mlp.fc1.bias": Zeros(),
                f"{at}.mlp.fc2.weight": within((80 * 2 * layers) ** -0.5), f"{at}.mlp.fc2.bias": Zeros(),
            }  # fmt: skip
    return laws


@pytest.mark.parametrize("mlp", [False, True])
@pytest.mark.parametrize("second", [False, True])
def test_with_other_names(second: bool, mlp: bool) -> None:
    model, name = OwnMamba(second=second, mlp=mlp), "mamba2" if second else "mamba"
    options = {"branches": 2} if mlp else {}
    programs = ("A_log", "dt_bias") if second else ("A_log", "dt_proj.bias")
    plan = zeta.plan(model, name, **options)
    laws = {
        entry.name: entry.initializer if entry.name.endswith(programs) else law
        for entry in plan.parameters
        for law in [own_laws(second=second, mlp=mlp).get(entry.name, entry.initializer)]
    }
    assert {name for name in laws if not name.endswith(programs)} == set(own_laws(second=second, mlp=mlp))
    assert_laws(model, name, laws, **options)
    mixer = model.blocks[1]["ssm"]  # type: ignore[index]
    if not second:
        expected = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]).expand(48, 5)
        assert torch.allclose(mixer.A_log.detach().exp(), expected, rtol=1e-6)


def test_an_mlp_is_a_second_branch() -> None:
    with pytest.raises(PlanError, match="an MLP is a second residual branch of its layer; give branches=2"):
        zeta.plan(OwnMamba(mlp=True), "mamba")
    with pytest.raises(PlanError, match="MLP down projections"):
        zeta.plan(OwnMamba(), "mamba", branches=2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"branches": 3}, "branches must be one of 1, 2, got 3"),
        ({"dt_init": "zero"}, "dt_init must be one of 'random', 'constant', got 'zero'"),
        ({"dt_min": 0.2}, "dt_min must be below dt_max, got 0.2 and 0.1"),
        ({"dt_floor": 0.0}, "dt_floor must be a positive number, got 0.0"),
        ({"layers": -1}, "layers must be a whole number above 0, got -1"),
    ],
)
def test_options_are_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        zeta.plan(OwnMamba(), "mamba", **options)


def test_one_mixer_needs_the_number_of_layers() -> None:
    with pytest.raises(PlanError, match="give layers="):
        zeta.plan(Mixer(second=True), "mamba2")
    plan = zeta.plan(Mixer(second=True), "mamba2", layers=4)
    assert plan["out.weight"].initializer == within((48 * 4) ** -0.5)
