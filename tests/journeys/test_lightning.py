"""``configure_model`` is called more than once, and the second call changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zeta

lightning = pytest.importorskip("lightning")

pytestmark = [
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers:UserWarning"),
]


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 2))


class Module(lightning.LightningModule):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.net: nn.Module | None = None
        self.calls = 0

    def configure_model(self) -> None:
        self.calls += 1
        if self.net is None:
            self.net, plan = zeta.record(build)
            zeta.materialize_(self.net, plan, seed=0)

    def training_step(self, batch: Any, index: int) -> torch.Tensor:
        assert self.net is not None
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def test_step(self, batch: Any, index: int) -> None:
        self.training_step(batch, index)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Unguarded(Module):
    """Records in the constructor; what has memory stays, which a notice says."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.plan = zeta.record(build)

    def configure_model(self) -> None:
        self.calls += 1
        zeta.materialize_(self.net, self.plan, seed=0)


def trainer() -> Any:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return lightning.Trainer(max_epochs=1, accelerator="cpu", devices=1, enable_model_summary=False, **quiet)


def data() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 8, generator=generator)
    return DataLoader(TensorDataset(x, (x[:, 0] > 0).long()), batch_size=16)


def test_a_second_call_leaves_trained_weights_alone() -> None:
    module, other = Module(), Unguarded()
    trainer().fit(module, data())
    trainer().fit(other, data())
    assert module.net is not None
    trained = module.net[0].weight.clone()
    assert torch.equal(trained, other.net[0].weight)  # both started from the values of seed 0

    trainer().test(module, data(), verbose=False)
    assert module.calls == 2
    assert torch.equal(module.net[0].weight, trained)
    with pytest.warns(zeta.ZetaNotice, match="nothing is on meta"):
        trainer().test(other, data(), verbose=False)
    assert other.calls == 2
    assert torch.equal(other.net[0].weight, trained)

    fresh, plan = zeta.record(build)
    zeta.materialize_(fresh, plan, seed=0)
    assert not torch.equal(fresh[0].weight, trained)
