"""torch does not need NumPy, and neither does zeta."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, tempfile, warnings

sys.modules["numpy"] = None  # as if it were not installed
warnings.filterwarnings("ignore", message="Failed to initialize NumPy")
import torch
from torch import nn
import zeta
from zeta import utils

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.layer = nn.Embedding(8, 16), nn.Linear(16, 16)
        self.narrow = nn.Linear(16, 4, dtype=torch.bfloat16)
        if sys.argv[1:]:
            self.register_buffer("table", torch.tensor([[0.5, 1.0], [2.0, 3.25]]))
            self.register_buffer("whole", torch.tensor([3, 1, 2]))
        nn.init.orthogonal_(self.layer.weight)
        with torch.no_grad():
            self.layer.bias.copy_(torch.arange(16.0).sin())
            assert torch.tensor([1.5, 2]).tolist() == [1.5, 2]
        self.kept = torch.arange(3.0)

    def forward(self, x):
        return self.narrow(self.layer(self.embed(x)).bfloat16().relu())

model, plan = zeta.record(Net)
plan = zeta.Plan.from_json(plan.to_json())
zeta.materialize_(model, plan, seed=1)
if sys.argv[1:]:
    assert model.table.tolist() == [[0.5, 1.0], [2.0, 3.25]] and model.whole.tolist() == [3, 1, 2]
assert zeta.verify(model, plan, seed=1).ok
with tempfile.TemporaryDirectory() as folder:
    print(zeta.save(model, plan, folder, seed=1))
    assert zeta.verify(folder).ok
print(zeta.check(model, torch.arange(32).view(4, 8) % 8, level="full"))
print(zeta.diff(plan, plan), plan)
for function in (utils.init_normal_, utils.init_orthogonal_, utils.init_default_):
    function(model, seed=0)
assert zeta.init_(Net(), lambda m: [f(m, seed=0) for f in (utils.init_default_,)], seed=0).ok
assert not any(name.startswith("numpy.") for name in sys.modules)
"""


def outcome(*arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-c", CODE, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stderr


def test_every_verb_without_numpy() -> None:
    assert outcome() == (0, "")


def test_constants_without_numpy() -> None:
    assert outcome("constants") == (0, "")
