"""The arguments of ``check``: which are allowed, and what all ranks must agree on."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from torch import nn
from torch._guards import active_fake_mode
from torch._subclasses.fake_tensor import FakeTensor
from torch.optim import Optimizer

from zeta.base.distributed import local
from zeta.base.modules import check_module
from zeta.base.progress import check_progress
from zeta.base.reading import shown
from zeta.base.tensors import is_freed
from zeta.check.facts.thresholds import Thresholds
from zeta.check.measure.effort import CheckProgress
from zeta.check.measure.unwritten import Initialize
from zeta.check.measure.updates import OptimizerLike
from zeta.check.watch.criteria.objective import LossFunction
from zeta.compute.stream.random import check_seed
from zeta.errors import SpecError, TargetError, listed
from zeta.report.digests import Claim, layouts_of
from zeta.resolve.plans import Plan
from zeta.resolve.slots import Slot, unwrap, walk

Level = Literal["fast", "full"]
_LEVELS: Final = ("fast", "full")


def checked(model: nn.Module, level: str, plan: Plan | None) -> nn.Module:
    """The module that is run, without the wrappers around it."""
    check_module(model)
    if level not in _LEVELS:
        raise SpecError(f"level must be one of {', '.join(_LEVELS)}, got {shown(level)}")
    if plan is not None and not isinstance(plan, Plan):
        raise SpecError(f"plan must be a Plan from zeta.plan or zeta.record, got {shown(plan)}")
    if active_fake_mode() is not None:
        raise SpecError("check runs the model on values, which FakeTensorMode does not allow; leave the mode")
    return unwrap(model, gathering=True)


def checked_slots(model: nn.Module) -> list[Slot]:
    """The model's tensors; ``TargetError`` for those that cannot be looked at."""
    slots = walk(model)
    fake = [slot.name for slot in slots if isinstance(slot.tensor, FakeTensor)]
    if fake:
        raise TargetError(
            listed("these are FakeTensors and have no values; build the model outside of FakeTensorMode:", fake)
        )
    lazy = [slot.name for slot in slots if nn.parameter.is_lazy(slot.tensor)]
    if lazy:
        raise TargetError(listed("these have no shape yet; run one forward pass first:", lazy))
    fixed = [slot.name for slot in slots if slot.tensor.is_inference()]
    if fixed:
        raise TargetError(
            listed("these were made under torch.inference_mode() and get no gradient; build the model outside:", fixed)
        )
    freed = [slot.name for slot in slots if is_freed(local(slot.tensor))]
    if freed:
        raise TargetError(listed("the storages of these were freed or made smaller; give them back first:", freed))
    return slots


def claim_of(
    slots: list[Slot], plan: Plan | None, seed: int | None, level: Level, limits: Thresholds, given: Mapping[str, Any]
) -> Claim:
    """The claim with everything that must be equal on all ranks."""
    options = {"level": level, **{name: "none" if value is None else "given" for name, value in given.items()}}
    return Claim(
        seed=seed,
        plan=plan,
        held=layouts_of((slot.name, slot.tensor) for slot in slots),
        options=(*options.items(), ("thresholds", str(limits))),
    )


def check_options(
    loss: LossFunction | None,
    initialize: Initialize | None,
    optimizer: OptimizerLike | None,
    thresholds: Thresholds | None,
    seed: int | None,
    progress: CheckProgress | bool | None,
) -> None:
    """Raise ``SpecError`` for an argument that is not allowed."""
    if loss is not None and not (callable(loss) and _takes_two(loss)):
        raise SpecError(
            f"loss must be a function of two arguments, the model's output and the batch, got {shown(loss)}"
        )
    if initialize is not None and not callable(initialize):
        raise SpecError(f"initialize must be a function of the model, got {shown(initialize)}")
    if optimizer is not None and not callable(optimizer) and not _optimizers(optimizer):
        raise SpecError(
            "optimizer must be a torch.optim.Optimizer, a list of them, or a function from parameters to one, got "
            f"{shown(optimizer)}"
        )
    if thresholds is not None and not isinstance(thresholds, Thresholds):
        raise SpecError(
            f"thresholds must be zeta.Thresholds, such as Thresholds(dead_fail=0.99), got {shown(thresholds)}"
        )
    check_progress(progress, "s")
    if seed is not None:
        check_seed(seed)


def _optimizers(value: Any) -> bool:
    several = value if isinstance(value, list | tuple) else [value]
    return bool(several) and all(isinstance(one, Optimizer) for one in several)


def _takes_two(function: Callable[..., Any]) -> bool:
    try:
        signature = inspect.signature(function.forward if isinstance(function, nn.Module) else function)
    except (TypeError, ValueError):  # builtins may have no signature
        return True
    try:
        signature.bind(None, None)
    except TypeError:
        return False
    return True
