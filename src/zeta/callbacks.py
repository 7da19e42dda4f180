"""Callbacks that check a model before its first training step, for Lightning and for transformers' ``Trainer``.

They take the first batch of the training data and the trainer's own optimizer, and raise :class:`zeta.CheckError` if
the model cannot learn from its initial values, so that no step is taken. The model, its optimizer, the data's generator
and all random states are afterwards as they were. In a run of several processes each checks what it holds.
"""

from __future__ import annotations

from typing import Any

from zeta.check import CheckReport, check
from zeta.check.facts.results import Severity
from zeta.errors import CheckError
from zeta.testing import failure_text

__all__ = ["for_lightning", "for_transformers"]


def for_lightning(**options: Any) -> Any:
    """A callback for Lightning: ``Trainer(callbacks=[zeta.callbacks.for_lightning()])``.

    The loss is that of ``training_step``, with the trainer's optimizers. ``options`` are arguments of ``zeta.check``.
    The callback's ``report`` is the report.
    """
    from lightning.pytorch import Callback

    class Check(Callback):  # type: ignore[misc]
        report: CheckReport | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            optimizer = {"optimizer": list(trainer.optimizers)} if trainer.optimizers else {}
            self.report = _checked(pl_module, trainer.train_dataloader, optimizer | options)

    return Check()


def for_transformers(**options: Any) -> Any:
    """A callback for transformers: ``Trainer(..., callbacks=[zeta.callbacks.for_transformers()])``.

    The loss is the model's own, with the trainer's optimizer. ``options`` are arguments of ``zeta.check``. The
    callback's ``report`` is the report.
    """
    from transformers import TrainerCallback

    class Check(TrainerCallback):
        report: CheckReport | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step:
                return  # training goes on from a checkpoint
            optimizer = getattr(kwargs["optimizer"], "optimizer", kwargs["optimizer"])  # accelerate's wrapper
            self.report = _checked(kwargs["model"], kwargs["train_dataloader"], {"optimizer": optimizer} | options)

    return Check()


def _checked(model: Any, loader: Any, options: dict[str, Any]) -> CheckReport:
    report = check(model, loader, **options)
    failed = [finding for finding in report.findings if finding.severity is Severity.FAIL]
    if failed:
        raise CheckError(failure_text(report.model, failed))
    return report
