"""A check where training begins: in a test, on a loader, and in the callbacks of Lightning and transformers."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import zeta
from zeta import CheckError, SpecError
from zeta.testing import assert_can_learn


def vectors(width: int) -> Tensor:
    return torch.randn(64, width, generator=torch.Generator().manual_seed(0))


def healthy() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4))


def sick() -> nn.Module:
    model = healthy()
    for layer in (model[0], model[2]):
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
    return model


class Noisy(Dataset[tuple[Tensor, int]]):
    """Every sample is drawn by every generator that there is."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return torch.randn(8) + random.random() + float(np.random.rand()), number % 4


def states() -> list[str]:
    return [repr(torch.get_rng_state().tolist()), repr(random.getstate()), repr(np.random.get_state())]


def test_a_model_that_can_learn_passes() -> None:
    report = assert_can_learn(healthy(), (vectors(8), torch.arange(len(vectors(8))) % 4))
    assert report.ok
    assert report.loss is not None
    assert report.loss.classes == 4


def test_a_model_that_cannot_learn_fails_with_the_reasons() -> None:
    with pytest.raises(AssertionError) as error:
        assert_can_learn(sick(), vectors(8))
    text = str(error.value)
    assert text.startswith("Sequential cannot learn from its initial values: ")
    assert "Z301 duplicated-units, 0.weight\n    " in text
    assert_can_learn(sick(), vectors(8), suppress=["Z3"])


def test_strict_counts_warnings() -> None:
    model, x = healthy(), vectors(8)
    options = {"batch": (x, torch.arange(len(x)) % 4), "thresholds": zeta.Thresholds(loss_excess_warn=1e-3)}
    assert_can_learn(model, **options)
    with pytest.raises(AssertionError, match=r"may not learn well .*: 0 failures, 1 warning, 0 notes\n\nZ601"):
        assert_can_learn(model, **options, strict=True)
    with pytest.raises(SpecError, match="strict must be True or False"):
        assert_can_learn(model, **options, strict=1)


@pytest.mark.parametrize("own", [False, True])
def test_of_a_loader_the_first_batch_is_taken_and_no_generator_moves(own: bool) -> None:
    generator = torch.Generator().manual_seed(5) if own else None
    loader = DataLoader(Noisy(), batch_size=16, shuffle=True, generator=generator)
    model = healthy()
    before = (states(), None if generator is None else generator.get_state().tolist())
    report = zeta.check(model, loader)
    assert (states(), None if generator is None else generator.get_state().tolist()) == before
    assert report.loss is not None
    assert report.loss.classes == 4


def test_a_loader_without_a_batch_is_refused() -> None:
    with pytest.raises(SpecError, match="gives no batch"):
        zeta.check(healthy(), DataLoader(Noisy(), batch_size=100, drop_last=True))
    with pytest.raises(SpecError, match=r"pass next\(batches\)"):
        zeta.check(healthy(), iter([vectors(8)]))


def test_a_batch_with_several_targets() -> None:
    x = vectors(8)
    first, second = torch.arange(len(x)) % 4, torch.randn(len(x), 1)
    seen = []

    def loss(output: Tensor, batch: Any) -> Tensor:
        seen.append([part.shape for part in batch])
        return F.cross_entropy(output, batch[1]) + batch[2].square().mean()

    zeta.check(healthy(), (x, first, second), loss)
    assert seen[0] == [x.shape, first.shape, second.shape]


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


def test_keys_that_no_argument_has_are_named() -> None:
    batch = {"pixels": torch.randn(16, 3, 8, 8), "mask": torch.ones(16, 8, 8)}
    with pytest.raises(SpecError, match=r"Image.forward.*pixels \(16, 3, 8, 8\).*no arguments of these names"):
        zeta.check(Image(), batch)


def test_an_error_of_the_model_itself_stays_its_own() -> None:
    class Broken(Image):
        def forward(self, batch: Any) -> Tensor:
            return super().forward(batch["pixels"]) + torch.zeros(99)

    with pytest.raises(RuntimeError, match="size of tensor"):
        zeta.check(Broken(), {"pixels": torch.randn(16, 3, 8, 8), "mask": torch.ones(1)})


# -- transformers ------------------------------------------------------------------------------------------------------


def language_model() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=16)
    torch.manual_seed(0)
    return transformers.GPT2LMHeadModel(config)


class Tokens(Dataset[dict[str, Tensor]]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        tokens = (torch.arange(16) * 7 + number) % 64
        return {"input_ids": tokens, "labels": tokens}


@pytest.mark.parametrize("broken", [False, True])
def test_the_trainer_of_transformers_takes_no_step_of_a_broken_model(tmp_path: Any, broken: bool) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    model = language_model()
    if broken:
        for layer in (model.transformer.h[0].mlp.c_fc, model.transformer.h[0].mlp.c_proj):
            nn.init.constant_(layer.weight, 0.1)  # the biases are zero
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    check = zeta.callbacks.for_transformers()
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=1, report_to=[], use_cpu=True, per_device_train_batch_size=16
    )
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=Tokens(), callbacks=[check])
    if not broken:
        trainer.train()
        assert check.report.ok
        assert any(not torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
        return
    with pytest.raises(CheckError, match=r"Z301 duplicated-units, transformer.h.0.mlp.c_fc.weight"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


# -- Lightning ---------------------------------------------------------------------------------------------------------


pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning", "ignore::UserWarning:lightning", "ignore:.*num_workers"
)


def lightning_module(inner: nn.Module) -> Any:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner
            self.steps = 0

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)  # type: ignore[no-any-return]

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            self.steps += 1
            return F.cross_entropy(self(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def test_a_lightning_module_is_checked_by_its_training_step() -> None:
    module = lightning_module(healthy())
    x = vectors(8)
    report = zeta.check(module, (x, torch.arange(len(x)) % 4))
    assert module.steps == 0
    assert "forward" not in vars(module)
    assert report.loss is not None
    assert report.loss.classes == 4
    assert {"inner.0", "inner.1", "inner.2"} <= {layer.name for layer in report.layers}


@pytest.mark.parametrize("make", [healthy, sick])
def test_lightning_takes_no_step_of_a_broken_model(make: Any) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    module = lightning_module(make())
    before = [parameter.clone() for parameter in module.parameters()]
    check = zeta.callbacks.for_lightning()
    trainer = lightning.Trainer(
        max_steps=1, callbacks=[check], logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(Noisy(), batch_size=32)
    if make is healthy:
        trainer.fit(module, loader)
        assert check.report.ok
        assert module.steps == 1
        return
    with pytest.raises(CheckError, match="Z301"):
        trainer.fit(module, loader)
    assert module.steps == 0
    assert all(map(torch.equal, before, module.parameters()))
