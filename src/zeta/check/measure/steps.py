"""The first step of an optimizer for parameters that come one after the other, each with its gradient."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

from zeta.check.facts.evidence import Subject, TensorFacts, Update
from zeta.check.facts.wiring import Membership
from zeta.check.measure.updates import Moved, OptimizerLike, given_of, groups_of, moved, options_of, spans, stepped
from zeta.check.measure.wiring.membership import again, membership
from zeta.check.watch.streaming.source import IN_MEMORY

#: classes whose step of an element depends on its own value and gradient alone
_ELEMENTWISE: Final = frozenset(
    getattr(torch.optim, name)
    for name in ("SGD", "Adam", "AdamW", "Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "RMSprop", "ASGD", "Rprop")
)


class Steps:
    """Takes the first step of each parameter when its gradient is there, so that no other has to be.

    This needs optimizers that treat each element by itself. A function gets all trainable parameters, on meta, and once
    more those that got a gradient: its groups must be the same.

    Args:
        subjects: all tensors of the model.
        optimizer: as given to ``check``.
    """

    def __init__(self, subjects: Sequence[Subject], optimizer: OptimizerLike) -> None:
        self.refused: str | None = None  #: why no steps were taken
        self._optimizer = optimizer
        learned = [one for one in subjects if one.trainable and not one.buffer]
        _, self._rules = self._made(learned)
        self._moved: dict[str, Moved] = {}

    def take(self, one: Subject, values: Tensor, gradient: Tensor | None) -> None:
        """Move some values of a parameter."""
        rule = self._rules.get(id(one.slot.tensor))
        if gradient is None or rule is None or self.refused is not None or one.slot.parametrization is not None:
            return
        optimizer, options = rule
        total = self._moved.get(one.name, Moved())
        for part, mine in spans(values, gradient):
            copied = part.clone().requires_grad_(True)
            copied.grad = mine.to(part.dtype).clone()
            with torch.no_grad():
                twin = again(optimizer, [{**options, "params": [copied]}])
            stepped(twin)
            total += moved(copied.detach() - part, mine)
        self._moved[one.name] = total

    def finish(self, tensors: Sequence[TensorFacts]) -> tuple[dict[str, Update], Membership]:
        """As of ``first_step``."""
        learned = [one for one in tensors if one.trainable and not one.buffer and one.gradient_stats is not None]
        (given, copies), rules = self._made(learned)
        belongs = membership(tensors, given, copies if callable(self._optimizer) else None)
        if any(key not in self._rules or _of(rules[key]) != _of(self._rules[key]) for key in rules):
            self.refused = f"the function makes other groups of the parameters that get a gradient; {IN_MEMORY}"
        if self.refused is not None:
            return {}, belongs
        texts, updates = groups_of(given), dict[str, Update]()
        for one in learned:
            known = self._moved.get(one.name)
            if known is None or not one.stats.rms > 0 or one.stats.nonfinite or one.name in belongs.missing:
                continue
            key = id(one.slot.tensor)
            held = copies[key] if callable(self._optimizer) else one.slot.tensor
            eps = rules[key][1].get("eps")
            updates[one.name] = known.update(
                one.stats.rms, texts.get(id(held)), float(eps) if isinstance(eps, float | int) else None
            )
        return updates, belongs

    def _made(
        self, learned: Sequence[Subject]
    ) -> tuple[tuple[list[Optimizer], dict[int, Tensor]], dict[int, tuple[Optimizer, dict[str, Any]]]]:
        """The optimizers, what they have of the parameters, and by ``id`` what moves each of these."""
        moving = [one.slot.tensor for one in learned if one.slot.parametrization is None]
        copies = {id(one): torch.empty_like(one, device="meta", requires_grad=True) for one in moving}
        given = given_of(self._optimizer, copies)
        keys = {id(copies[key]) if callable(self._optimizer) else key: key for key in copies}
        pairs = [(one, group, each) for one in given for group in one.param_groups for each in group["params"]]
        rules = {keys[id(each)]: (one, options_of(group)) for one, group, each in pairs if id(each) in keys}
        classes = sorted({type(one).__name__ for one in given if type(one) not in _ELEMENTWISE})
        if classes:
            self.refused = f"a step of {', '.join(classes)} may need all parameters at once; {IN_MEMORY}"
        elif max(Counter(id(each) for _, _, each in pairs).values(), default=1) > 1:
            self.refused = f"several optimizers move the same parameter; {IN_MEMORY}"
        return (given, copies), rules


def _of(rule: tuple[Optimizer, Mapping[str, Any]]) -> tuple[type, dict[str, Any]]:
    return type(rule[0]), dict(rule[1])
