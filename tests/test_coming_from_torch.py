"""``docs/coming-from-torch-init.md``: each function of ``torch.nn.init`` has a row whose cells do what torch does."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zeta
from zeta import Rule, Rules, utils
from zeta.initializers import Zeros

PAGE = (Path(__file__).parents[1] / "docs" / "coming-from-torch-init.md").read_text(encoding="utf-8")
CODE = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ROWS = [re.findall(r"`([^`]+)`", line) for line in PAGE.splitlines() if line.startswith("| `nn.init.")]
NAMES = [re.match(r"nn\.init\.(\w+)\(", row[0]).group(1) for row in ROWS]  # type: ignore[union-attr]
#: the same result in every call
FIXED = ("constant_", "ones_", "zeros_", "eye_", "dirac_")
#: torch's arguments by the names that zeta has for them
RENAMED = {
    "uniform_": {"a": "low", "b": "high"},
    "trunc_normal_": {"a": "low", "b": "high"},
    "constant_": {"val": "value"},
}


@pytest.fixture(autouse=True)
def own_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def functions_of_torch() -> list[str]:
    public = (name for name in dir(nn.init) if not name.startswith("_"))
    return [name for name in public if getattr(getattr(nn.init, name), "__module__", "") == "torch.nn.init"]


def test_every_function_of_torch_has_one_row() -> None:
    functions = functions_of_torch()
    deprecated = [name for name in functions if f"{name}_" in functions]
    assert len(functions) > 20
    assert sorted(NAMES) == sorted(set(functions) - set(deprecated))
    assert all(len(row) == 4 for row in ROWS)
    for name in deprecated:
        assert "deprecated" in (getattr(nn.init, name).__doc__ or ""), name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "calculate_gain"])
def test_the_function_for_layers_has_torchs_name_order_and_defaults(name: str) -> None:
    row = ROWS[NAMES.index(name)]
    assert row[2].startswith(f"init_{name}(")
    theirs = inspect.signature(getattr(nn.init, name)).parameters
    ours = inspect.signature(getattr(utils, f"init_{name}")).parameters
    positional = [key for key, one in ours.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    expected = [key for key in theirs if key not in ("tensor", "generator")]
    if name == "dirac_":
        assert expected == ["groups"]  # which a layer knows: a number there is an error
        assert positional == ["layer"]
        return
    renamed = [RENAMED.get(name, {}).get(key, key) for key in expected]
    assert positional[1 : 1 + len(renamed)] == renamed
    for key, own in zip(expected, renamed, strict=True):
        if name != "trunc_normal_" or own not in ("low", "high"):  # 2 std, and not ±2: the page says so
            assert ours[own].default == theirs[key].default, key


def namespace() -> dict[str, Any]:
    names: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(CODE[0], "coming-from-torch-init.md", "exec"), names)
    for tensor in (names["w"], names["kernel"]):
        nn.init.constant_(tensor, 7.0)
    return names


def filled(name: str, cell: str) -> Tensor:
    """What a cell writes to the weight of the layer, or of the convolution."""
    names = namespace()
    owner = names["convolution"] if re.search(r"kernel|convolution", ROWS[NAMES.index(name)][0]) else names["layer"]
    result = eval(cell, names)
    if isinstance(result, Rule):
        model = nn.Sequential(owner)
        zeta.init_(model, Rules([result, Rule("*.bias", Zeros())]), seed=3)
    else:
        assert result is owner or result is owner.weight
    return owner.weight.detach()


@pytest.mark.parametrize("column", [1, 2, 3], ids=["tensor", "layer", "rule"])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "calculate_gain"])
def test_a_cell_does_what_torch_does(name: str, column: int) -> None:
    row = ROWS[NAMES.index(name)]
    theirs, ours = filled(name, row[0]), filled(name, row[column])
    if name in FIXED:
        assert torch.equal(ours, theirs)
        return
    assert not torch.equal(ours, theirs)
    spread = float(theirs.std())
    assert float(ours.std()) == pytest.approx(spread, rel=0.03)  # 7,200 values at least: four standard errors
    assert float(ours.mean()) == pytest.approx(float(theirs.mean()), abs=0.06 * spread)
    if "uniform" in name or "trunc" in name:
        assert float(ours.max()) == pytest.approx(float(theirs.max()), rel=1e-3)
        assert float(ours.min()) == pytest.approx(float(theirs.min()), rel=1e-3)
    if name == "orthogonal_":
        torch.testing.assert_close(ours.mT @ ours, theirs.mT @ theirs, atol=1e-4, rtol=0)
    if name == "sparse_":
        assert torch.equal((ours == 0).sum(0), (theirs == 0).sum(0))


@pytest.mark.parametrize("column", [1, 2, 3])
@pytest.mark.parametrize("nonlinearity", ["linear", "conv2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
def test_gains_are_torchs(nonlinearity: str, column: int) -> None:
    row = ROWS[NAMES.index("calculate_gain")]
    assert eval(row[column], {"zeta": zeta}) == eval(row[0], {"nn": nn})
    assert zeta.gain(nonlinearity) == nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [(), (0,), (0.3,), (0, "fan_out"), (0, "fan_in", "relu"), (0, "fan_in", "tanh")])
@pytest.mark.parametrize("law", ["uniform", "normal"])
def test_kaiming_with_torchs_arguments_has_torchs_scale(law: str, arguments: tuple[Any, ...]) -> None:
    theirs = getattr(nn.init, f"kaiming_{law}_")(torch.empty(400, 300), *arguments)
    ours = getattr(utils, f"init_kaiming_{law}_")(nn.Linear(300, 400), *arguments, seed=0).weight.detach()
    assert float(ours.std()) == pytest.approx(float(theirs.std()), rel=0.01)


def test_a_slope_for_what_has_none_is_an_error() -> None:
    with pytest.raises(zeta.SpecError, match=r"param=0\.3 is the slope of 'leaky_relu' and means nothing for 'relu'"):
        utils.init_kaiming_normal_(nn.Linear(2, 2), 0.3, "fan_in", "relu")
    weight = utils.init_kaiming_normal_(nn.Linear(900, 900), nonlinearity="gelu").weight.detach()
    assert float(weight.std()) == pytest.approx(zeta.gain("gelu") / 30, rel=0.01)


def test_the_loop_gives_what_the_page_says() -> None:
    names: dict[str, Any] = {}
    for code in CODE[:2]:
        exec(compile(code, "coming-from-torch-init.md", "exec"), names)
    expected = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    utils.init_normal_(expected, std=0.02, seed=0)
    assert all(torch.equal(a, b) for a, b in zip(names["model"].parameters(), expected.parameters(), strict=True))
