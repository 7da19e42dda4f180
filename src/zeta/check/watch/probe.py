"""Run one forward and one backward pass, and collect the observations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeta.base.distributed import any_fsdp
from zeta.base.modules import parameters_of
from zeta.check.facts.evidence import Pass, Use
from zeta.check.facts.results import Layer, Loss
from zeta.check.watch.batches import Call, tensors_in
from zeta.check.watch.calls import plainly
from zeta.check.watch.capture import Capture, Record
from zeta.check.watch.losses import LossFunction, Objective, is_sigmoid, objective, sum_to_one
from zeta.check.watch.moments import TINY, Measures, Pending, pending, plain, resolved
from zeta.check.watch.ranks import ALONE, Ranks
from zeta.check.watch.streaming.stream import Stream, in_memory
from zeta.resolve.resolver import groups
from zeta.resolve.slots import Slot, named_modules

# graph nodes with one input that are followed from the logits or the output back to the head
_HEAD_STEPS = 12
# views or casts of a parameter that are skipped
_VIEWS = 3


def probe(
    model: nn.Module,
    slots: list[Slot],
    call: Call,
    loss: LossFunction | None,
    ranks: Ranks = ALONE,
    stream: Stream | None = None,
) -> Pass:
    """Run ``model`` on a batch forward and backward once, and return the observations.

    Must be called inside :func:`~zeta.check.watch.isolation.preserved`. Exceptions of the model propagate. The
    gradients of a stream's parameters go to the stream.
    """
    stream = in_memory() if stream is None else stream
    with stream.running():
        return _observed(model, slots, call, loss, ranks, stream)


def _observed(
    model: nn.Module, slots: list[Slot], call: Call, loss: LossFunction | None, ranks: Ranks, stream: Stream
) -> Pass:
    names = {id(group[0].tensor): group[0].name for group in groups(slots)}
    for slot in slots:
        if slot.parametrization is not None:
            names |= {id(part): slot.name for part in parameters_of(slot.parametrization)}
    capture = Capture(named_modules(model), names, source=stream.source)
    signal = _batch_signal(call)
    parameters: list[Tensor] = list(parameters_of(model))  # before FSDP2 replaces them in the forward pass
    with plainly(model), capture.watching():
        output = model(*call.args, **call.kwargs)
        aim = objective(output, call, loss)
    stream.backward_begins()
    ranks.wait()  # no rank starts the backward pass if the loss of one raised
    classified, loss_seen = _loss(aim, capture)
    head, head_parameters = _heads(classified, output, capture)
    outputs = [pending(tensor, histogram=False) for _, tensor in tensors_in(output)]
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    gradients: dict[int, Tensor] = {}
    detached: frozenset[str] = frozenset()
    if aim.value.requires_grad:
        gradients = gradients_of(model, aim.value, learned)
    if len(gradients) + len(stream.reached) < len(learned) and capture.detached:
        behind = _leaves(capture.detached)
        detached = frozenset(name for key, name in capture.parameters.items() if key in behind)
    measured = [one for one in resolved(outputs) if one is not None]
    return Pass(
        uses=tuple(_uses(capture.records, head)),
        gradients=gradients,
        loss=loss_seen,
        paired=any(_paired(logits, target) for logits, target, _ in capture.cross_entropy),
        squashed=any(is_sigmoid(logits) for logits in (*capture.binary, *(call[0] for call in capture.cross_entropy)))
        or any(sum_to_one(plain(logits)) for logits, _, _ in capture.cross_entropy),
        surrogate=aim.surrogate,
        differentiable=bool(gradients or stream.reached),
        used=frozenset(capture.used),
        head=head_parameters,
        detached=detached,
        batch_signal=signal,
        output_nonfinite=sum(one.stats.nonfinite - one.masked for one in measured),
    )


def gradients_of(model: nn.Module, value: Tensor, learned: list[Tensor]) -> dict[int, Tensor]:
    """The global gradient of each tensor that has one, by ``id``. ``.grad`` does not change."""
    if any_fsdp(model):
        found = _accumulated(value, learned)
    else:
        found = list(torch.autograd.grad(value, learned, allow_unused=True)) if learned else []
    return {
        id(parameter): plain(_dense(gradient))
        for parameter, gradient in zip(learned, found, strict=True)
        if gradient is not None
    }


def _accumulated(value: Tensor, learned: list[Tensor]) -> list[Tensor | None]:
    """The gradients, which FSDP2 reduces into ``.grad``; the previous ``.grad`` and its hooks are restored."""
    # including leaves that are not the model's: the loss may have parameters
    leaves: list[Any] = [*_leaves([value.grad_fn]).values(), *learned]
    before = [(leaf, leaf.grad, leaf._post_accumulate_grad_hooks) for leaf in leaves]
    for leaf in leaves:
        leaf.grad = leaf._post_accumulate_grad_hooks = None
    value.backward()  # type: ignore[no-untyped-call]
    found = [parameter.grad for parameter in learned]
    for leaf, gradient, hooks in before:
        leaf.grad, leaf._post_accumulate_grad_hooks = gradient, hooks
    return found


def _dense(gradient: Tensor) -> Tensor:
    return gradient if gradient.layout is torch.strided else gradient.to_dense()


# -- records to uses ---------------------------------------------------------------------------------------------------


def _uses(records: list[Record], head: Any) -> list[Use]:
    waiting: list[Pending | None] = []
    for record in records:
        waiting += [record.output, record.gradient, record.given]
    measured = iter(resolved(waiting))
    return [_use(record, next(measured), next(measured), next(measured), record is head) for record in records]


def _use(record: Record, output: Measures | None, gradient: Measures | None, given: Measures | None, head: bool) -> Use:
    assert output is not None
    square = None if given is None else given.stats.rms**2
    known = square is not None and square > 0 and math.isfinite(square)
    entropy, largest = (None, None) if record.attention is None else (float(item) for item in record.attention)
    layer = Layer(
        name=record.name,
        kind=record.kind,
        parameters=record.parameters,
        output=output.stats,
        gradient=None if gradient is None else gradient.stats,
        factor=output.stats.rms**2 / square if known and square is not None else None,
        dead=None if record.dead is None else float(record.dead),
        saturated=None if record.saturated is None else float(record.saturated),
        entropy=entropy,
        largest_logit=largest,
        block=record.block,
    )
    return Use(
        layer=layer,
        module=record.module,
        norm=record.norm,
        weighted=record.weighted,
        activation=record.activation,
        samples=record.samples,
        attached=record.attached,
        signal=output.signal,
        masked=output.masked,
        input_signal=None if given is None else given.signal,
        input_square=square,
        head=head,
    )


def _batch_signal(call: Call) -> float | None:
    """The largest variance between samples of an input, over its mean square; ``None`` if there is one sample only."""
    shares: list[float] = []
    for _, tensor in tensors_in((*call.args, call.kwargs)):
        x = tensor.detach()
        x = x.abs() if x.is_complex() else x
        if x.ndim == 0 or x.numel() < 2 or x.dtype is torch.bool:
            continue
        if not x.is_floating_point():
            shares.append(float(x.numel() > 1 and bool((x != x.flatten()[0]).any())))
            continue
        rows = x.float().reshape(-1, x.shape[-1]) if x.ndim > 1 else x.float()[:, None]
        if rows.shape[0] > 1:
            shares.append(float(rows.var(0, correction=0).mean() / rows.square().mean().clamp_min(TINY)))
    return max(shares, default=None)


# -- graph -----------------------------------------------------------------------------------------------------------


def _heads(classified: list[Tensor], output: Any, capture: Capture) -> tuple[Record | None, frozenset[str]]:
    """The record that makes the logits (the first ones, if there are several), and the parameters of all logits.

    Without logits, those of the first output for which they are found.
    """
    # if several records have the same output tensor, the innermost one, which comes first, is used
    seen = [record for record in reversed(capture.records) if record.node is not None and not record.block]
    nodes = {record.node: record for record in seen}
    tensors = classified or [tensor for _, tensor in tensors_in(output) if tensor.requires_grad]
    heads = [head for tensor in tensors if (head := _head_of(tensor, nodes, capture)) is not None]
    if not heads:
        return None, frozenset()
    return heads[0][0], frozenset().union(*(names for _, names in (heads if classified else heads[:1])))


def _head_of(
    tensor: Tensor, nodes: Mapping[Any, Record], capture: Capture
) -> tuple[Record | None, frozenset[str]] | None:
    """The record and the parameters that make a tensor, found through operations with one non-parameter input.

    Layers without parameters, such as a last softmax, are skipped if a layer with parameters comes before them.
    """
    node: Any = tensor.grad_fn
    bare: Record | None = None
    for _ in range(_HEAD_STEPS):
        if node is None:
            break
        record = nodes.get(node)
        above = [inner for inner, _ in node.next_functions if inner is not None]
        leaves = [leaf for inner in above if (leaf := _leaf(inner)) is not None]
        if (record is not None and record.parameters) or any(leaf.ndim > 1 for leaf in leaves):
            names = {capture.parameters[id(leaf)] for leaf in leaves if id(leaf) in capture.parameters}
            return record, frozenset(names.union(() if record is None else record.parameters))
        bare = bare or record
        rest = [inner for inner in above if _leaf(inner) is None]
        node = rest[0] if len(rest) == 1 else None
    return None if bare is None else (bare, frozenset())


def _leaf(node: Any) -> Tensor | None:
    """The parameter of a graph node, possibly through views or casts; ``None`` if the node is not a parameter."""
    for _ in range(_VIEWS):
        variable: Tensor | None = getattr(node, "variable", None)
        if variable is not None:
            return variable
        if len(node.next_functions) != 1 or node.next_functions[0][0] is None:
            return None
        node = node.next_functions[0][0]
    return None


def _leaves(nodes: list[Any]) -> dict[int, Tensor]:
    """Every leaf that some graph nodes depend on, by its ``id``."""
    found: dict[int, Tensor] = {}
    seen: set[Any] = set()
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found[id(leaf)] = leaf
        waiting += [above for above, _ in node.next_functions]
    return found


# -- loss ------------------------------------------------------------------------------------------------------------


def _paired(logits: Tensor, target: Tensor) -> bool:
    target = plain(target)
    count = len(target) if target.ndim == 1 else 0
    own = torch.arange(count, device=target.device, dtype=target.dtype)
    return count > 1 and logits.shape == (count, count) and torch.equal(target, own)


def _loss(aim: Objective, capture: Capture) -> tuple[list[Tensor], Loss]:
    """All logits of cross entropies and the loss; of several cross entropies, the one that is worst at chance level."""
    calls = [call for call in capture.cross_entropy if call[0].ndim >= 2 and not call[1].is_floating_point()]
    if not calls:
        return [], Loss(value=float(aim.value.detach()), expected=None, classes=None)
    losses = [_cross_entropy(*call, aim) for call in calls]
    order = sorted(range(len(calls)), key=lambda number: _weight(losses[number]), reverse=True)
    return [calls[number][0] for number in order], losses[order[0]]


def _weight(loss: Loss) -> tuple[float, int]:
    """The sort key: what the spread of the logits adds, in whole nats (infinite if not finite); then the classes."""
    cost, classes = loss.value if loss.expected is None else loss.expected, loss.classes or 1
    return float(round(cost - math.log(classes))) if math.isfinite(cost) else math.inf, classes


def _cross_entropy(logits: Tensor, targets: Tensor, ignored: int, aim: Objective) -> Loss:
    """One cross entropy, and its expected value for random labels."""
    with torch.no_grad():
        flat = plain(logits).movedim(1, -1).flatten(0, -2).float()
        wanted = plain(targets).flatten()
        kept = wanted != ignored
        flat, wanted = flat[kept], wanted[kept]
        finite = torch.isfinite(flat)
        neutral = torch.where(finite, flat, 0.0).sum(-1) / finite.sum(-1)
        value = F.cross_entropy(flat, wanted.long()) if len(flat) else aim.value.detach()
        expected = (torch.logsumexp(flat, -1) - neutral).mean() if len(flat) else None
    return Loss(
        value=float(value),
        expected=None if expected is None else float(expected),
        classes=int(logits.shape[1]),
    )
