"""The first batch of a loader, and the training step of a Lightning module, as what a check runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Final

from torch import Tensor, nn
from torch.utils.data import DataLoader

from zeta.base.generators import apart, foreign_apart
from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.resolve.recording.holding import restorers

_SEED: Final = 0
#: the class of Lightning, in either of its packages, whose ``training_step`` returns the loss
_LIGHTNING: Final = ("lightning.pytorch.core.module", "pytorch_lightning.core.module")


def first_batch(loader: DataLoader[Any]) -> Any:
    """The first batch that a loader gives.

    No random state moves, neither the loader's nor the process's, and the samplers have the attributes that they had.
    """
    samplers = (loader, loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None))
    states = [vars(one) for one in samplers if hasattr(one, "__dict__")]
    held = {id(part): part for state in states for part in (state, *state.values()) if part is not loader.dataset}
    steps = [restore for part in held.values() for restore in restorers(part)]
    try:
        with apart(_SEED), foreign_apart():
            return next(iter(loader))
    except StopIteration:
        raise SpecError(f"this loader gives no batch: {shown(loader)}") from None
    finally:
        for restore in steps:
            restore()


def has_training_step(model: nn.Module) -> bool:
    """Whether it is a Lightning module with a training step."""
    kinds = [cls for cls in type(model).__mro__ if cls.__module__ in _LIGHTNING and cls.__name__ == "LightningModule"]
    return bool(kinds) and type(model).training_step is not kinds[0].training_step  # type: ignore[attr-defined]


@contextlib.contextmanager
def stepping(model: Any) -> Iterator[None]:
    """Temporarily let a call of a Lightning module be its ``training_step``; what that calls is its ``forward``."""
    own = {key: value for key, value in vars(model).items() if key == "forward"}

    def forward(batch: Any) -> Any:
        put(own)
        try:
            result = model.training_step(batch, 0)
        finally:
            put({"forward": forward})
        return {"loss": result} if isinstance(result, Tensor) else result

    def put(entries: dict[str, Any]) -> None:
        vars(model).pop("forward", None)
        vars(model).update(entries)

    put({"forward": forward})
    try:
        yield
    finally:
        put(own)
