"""What ``zeta.scale`` returns: the table, groups for an optimizer, and multipliers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from zeta.resolve.scaling.groups import muon_groups, param_groups
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

    def muon_groups(
        self,
        model: nn.Module,
        *,
        lr: float,
        adamw_lr: float,
        weight_decay: float = 0.0,
        adamw_weight_decay: float = 0.0,
        eps: float | None = None,
        no_decay: Iterable[str] = (),
        betas: tuple[float, float] = (0.9, 0.999),
        packed: str = "whole",
        adjust: str = "original",
    ) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Two lists of groups: for ``torch.optim.Muon``, and for ``torch.optim.AdamW`` what Muon is not for.

        Muon gets the matrices from one hidden state to another; AdamW embeddings, read-outs, routers, vectors,
        convolutions and stacked experts. A step of Muon is orthogonal, times a number of its shape (``adjust``); with
        the factor of a group its spectral norm is proportional to sqrt(fan_out/fan_in), also of weights that are stored
        as in x out.

        ``torch.optim.Muon`` takes a packed weight, such as queries, keys and values in one, as one matrix. Muons that
        divide weights, such as that of dion, get how by the options ``split_sizes`` and ``num_heads`` of a group.

        Args:
            model: as for ``param_groups``.
            lr: Muon's learning rate at the base.
            adamw_lr: AdamW's learning rate at the base.
            weight_decay: Muon's at the base.
            adamw_weight_decay: AdamW's at the base.
            eps: AdamW's, as for ``param_groups``.
            no_decay: as for ``param_groups``, of AdamW's groups.
            betas: AdamW's.
            packed: what becomes of packed weights: ``"whole"`` is one matrix, ``"adamw"`` leaves them to AdamW;
                ``"blocks"`` gives groups ``split_sizes``, the rows of each map in a weight; ``"heads"`` gives
                ``num_heads``, the number of heads, to all queries, keys and values, packed or not, and ``split_sizes``
                to what else is packed. The last two need ``adjust="spectral_norm"``.
            adjust: what this Muon multiplies the rate of a matrix by: ``"original"``, sqrt(max(1, rows/columns)), or
                ``"match_rms_adamw"``, in proportion to sqrt(max(rows, columns)), both of ``torch.optim.Muon``;
                ``"spectral_norm"``, sqrt(rows/columns), the default of dion's.

        Raises:
            PlanError: as for ``param_groups``; or it does not follow how packed weights are divided.
            SpecError: an option that is not allowed.
        """
        return muon_groups(
            self,
            model,
            lr=lr,
            adamw_lr=adamw_lr,
            weight_decay=weight_decay,
            adamw_weight_decay=adamw_weight_decay,
            eps=eps,
            no_decay=no_decay,
            betas=betas,
            packed=packed,
            adjust=adjust,
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
