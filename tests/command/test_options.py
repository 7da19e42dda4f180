"""Models and plans that the options of the command line name: on meta, they are those of a real device."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import zeta
from zeta.command.options import planned
from zeta.command.requests import ModelOptions

NETS = """
import torch
from torch import nn
from torch.nn.utils import parametrizations

class Spectral(nn.Module):
    def __init__(self):
        super().__init__()
        self.lin = parametrizations.spectral_norm(nn.Linear(16, 16))
        self.other = parametrizations.spectral_norm(nn.Linear(16, 16))
        self.register_buffer("steps", torch.arange(3.0))
"""
RULES = """
[[rules]]
name = "lin.weight"
initializer = "Orthogonal"
[[rules]]
name = "other.weight"
initializer = { name = "Normal", std = 0.5 }
[[rules]]
name = "*.bias"
initializer = "Zeros"
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An own folder with a model and rules, as the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "rules.toml").write_text(RULES, encoding="utf-8")
    yield tmp_path
    sys.modules.pop("nets", None)


def _initialized(device: str | None) -> nn.Module:
    model, plan = planned(ModelOptions(model="nets.py:Spectral", rules=Path("rules.toml"), device=device))
    if device == "cpu":
        zeta.apply_(model, plan, seed=3)
    else:
        zeta.materialize_(model, plan, seed=3)
    return model


@pytest.mark.filterwarnings("ignore::zeta.ZetaNotice")
def test_the_vectors_of_a_spectral_norm_are_those_of_the_weight_that_rules_give() -> None:
    on_meta, real = _initialized(None), _initialized("cpu")
    for name, tensor in real.state_dict().items():
        assert torch.equal(on_meta.state_dict()[name], tensor), name
    assert on_meta.get_buffer("steps").tolist() == [0, 1, 2]  # recorded: the constructor computes it
    weight = on_meta.eval().get_submodule("lin").weight
    assert torch.linalg.matrix_norm(weight.detach(), 2) == pytest.approx(1, abs=1e-3)
