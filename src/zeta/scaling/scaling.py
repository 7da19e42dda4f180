"""What ``zeta.scale`` returns: the table, groups for an optimizer, and multipliers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from zeta.resolve.scaling.groups import param_groups
from zeta.resolve.scaling.table import ScalingTable
from zeta.write.multipliers import Multiplied, multiply_


@dataclass(frozen=True, kw_only=True, repr=False)
class Scaling(ScalingTable):
    """How a model that has grown is initialized and trained, relative to its base. Made by :func:`zeta.scale`.

    ``print`` shows a row for each parameter: its class, by which factors its fans (``width``, in / out) and the number
    of layers (``depth``) grow, its law at the base and in the target, and the factors of learning rate, eps and weight
    decay. ``zeta.plan(model, scaling)`` and ``zeta.init_(model, scaling, seed)`` take it as they take rules;
    ``scaling.plan`` is the plan of the target.
    """

    def param_groups(
        self,
        model: nn.Module,
        optimizer: str = "adamw",
        *,
        lr: float,
        weight_decay: float = 0.0,
        eps: float | None = None,
        no_decay: Iterable[str] = (),
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The groups for a torch optimizer, a plain list: ``torch.optim.AdamW(scaling.param_groups(model, lr=3e-3))``.

        Each trainable parameter is in exactly one group. A group has ``params``, a ``name``, and ``lr``,
        ``weight_decay`` and ``eps`` of the base times the factors of the scheme. Factors of rates and decays multiply
        to 1 except where the scheme says otherwise: torch's decay is lr times weight_decay, and stays what it was at
        the base.

        Args:
            model: the target, with memory or sharded, before or after ``apply_multipliers_``.
            optimizer: ``"adamw"``, ``"adam"``, ``"sgd"``, ``"lion"`` or ``"adafactor"``: how its steps depend on
                gradients.
            lr: the learning rate of the base.
            weight_decay: that of the base.
            eps: Adam's eps at the base; 1e-8 by default.
            no_decay: what has no weight decay: some of ``"norm"``, ``"bias"`` and ``"embedding"``.
            options: what else each group has, such as ``betas``.

        Raises:
            PlanError: trainable parameters that the target does not have, or of another shape; all are listed.
            SpecError: an optimizer or a number that is not allowed.
        """
        return param_groups(
            self, model, optimizer, lr=lr, weight_decay=weight_decay, eps=eps, no_decay=no_decay, options=options
        )

    def apply_multipliers_(self, model: nn.Module) -> Multiplied:
        """Register the scheme's multipliers in a model's forward pass, as hooks; ``remove()`` takes them away.

        Models with these hooks can be copied, pickled, compiled and sharded. A checkpoint does not have them: apply
        them again to the model that it is loaded into.

        Raises:
            TargetError: they are applied already.
            PlanError: the model does not have the modules of the target.
        """
        return multiply_(model, self.multipliers)
