"""Run one forward and one backward pass, and collect the observations."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zeta.base.distributed import any_fsdp, any_sharded
from zeta.base.modules import parameters_of
from zeta.check.facts.evidence import Pass, Use
from zeta.check.facts.results import Layer, Loss
from zeta.check.facts.wiring import Wires
from zeta.check.watch.batches import Call, tensors_in
from zeta.check.watch.calls import plainly
from zeta.check.watch.capture import Capture, Record
from zeta.check.watch.criteria.calls import by_hand
from zeta.check.watch.criteria.measures import criteria, paired
from zeta.check.watch.criteria.objective import LossFunction, Objective, logits_of, objective, target_of
from zeta.check.watch.graph.heads import compares, heads, scales_cosines
from zeta.check.watch.graph.makers import made_by, uses_of
from zeta.check.watch.graph.nodes import below, leaves_of
from zeta.check.watch.graph.paths import Paths
from zeta.check.watch.moments import TINY, Measures, Pending, pending, plain, resolved
from zeta.check.watch.ranks import ALONE, Ranks
from zeta.check.watch.streaming.stream import Stream, in_memory
from zeta.check.watch.wiring.strays import nodes_of, strays_of
from zeta.check.watch.wiring.targets import offsets_of, tokens_of
from zeta.resolve.resolver import groups
from zeta.resolve.slots import Slot, named_modules

# equal outputs may differ by so many roundings of the largest value
_ROUNDINGS: Final = 8
# logits that are looked at at a time, so that these are few pages of memory
_ROWS: Final = 2**20


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
    signal, size, zero = _batch_signal(call), _batch_size(call), _batch_zero(call)
    parameters: list[Tensor] = list(parameters_of(model))  # before FSDP2 replaces them in the forward pass
    with plainly(model), capture.watching():
        output = call.output_of(model)
        aim = objective(output, call, loss)
    stream.backward_begins()
    ranks.wait()  # no rank starts the backward pass if the loss of one raised
    unknown = None if capture.losses else by_hand(logits_of(output), target_of(call))
    capture.losses += [] if unknown is None else [unknown]
    classified, loss_seen = _loss(aim, capture)
    nodes = _nodes(capture.records)
    head, head_parameters = heads(classified, output, nodes, capture.parameters)
    outputs = [pending(tensor, histogram=False) for _, tensor in tensors_in(output)]
    learned = [parameter for parameter in parameters if parameter.requires_grad]
    wires = _wires(model, parameters, call, output, aim, capture)
    gradients: dict[int, Tensor] = {}
    detached: frozenset[str] = frozenset()
    if aim.value.requires_grad:
        gradients = gradients_of(model, aim.value, learned)
    live = below([aim.value.grad_fn, *nodes_of(output), *capture.detached, *capture.ended])
    if len(gradients) + len(stream.reached) < len(learned) and capture.detached:
        behind = leaves_of(capture.detached)
        detached = frozenset(name for key, name in capture.parameters.items() if key in behind)
    measured = [one for one in resolved(outputs) if one is not None]
    return Pass(
        uses=tuple(_uses(capture.records, head, _fed(capture.records, output, aim.value), live)),
        gradients=gradients,
        loss=loss_seen,
        paired=any(paired(one.given, plain(one.target)) for one in capture.losses if one.function == "cross_entropy"),
        compared=bool(classified) and compares(classified[0], nodes),
        surrogate=aim.surrogate,
        differentiable=bool(gradients or stream.reached),
        used=frozenset(capture.used),
        head=head_parameters,
        detached=detached,
        touched=dict(capture.parameter_uses.attached),
        reached=capture.parameter_uses.reached,
        batch_signal=signal,
        batch_size=size,
        batch_zero=zero,
        output_nonfinite=sum(one.stats.nonfinite - one.masked for one in measured),
        varies=_varies(output, size),
        wires=wires,
        objective=float(aim.value.detach()),
        dropping=dict(capture.dropping),
        sequences=tuple(capture.sequences),
        choices=tuple(capture.choices),
        criteria=() if aim.surrogate else criteria(capture.losses, logits_of(output)),
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
    leaves: list[Any] = [*leaves_of([value.grad_fn]).values(), *learned]
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


def _nodes(records: list[Record]) -> dict[Any, Record]:
    """Records by the node of their output. Of several with one output, the innermost one, which comes first."""
    return {record.node: record for record in reversed(records) if record.node is not None and not record.block}


# -- records to uses ---------------------------------------------------------------------------------------------------


def _fed(records: list[Record], output: Any, value: Tensor) -> dict[int, str]:
    """By the ``id`` of a record, the weighted layer that makes its input, if nothing else uses the layer's output."""
    made = {record.maker: record.name for record in records if record.weighted and record.maker is not None}
    for _, tensor in tensors_in(output):
        made.pop(made_by(tensor, in_order=True)[-1], None)
    pairs = [record for record in records if record.above and record.above[-1] in made]
    if not pairs or value.grad_fn is None:
        return {}
    counts = uses_of(value.grad_fn)
    return {id(one): made[one.above[-1]] for one in pairs if all(counts[node] == 1 for node in one.above)}


def _uses(records: list[Record], head: Any, fed: Mapping[int, str], live: Collection[Any]) -> list[Use]:
    waiting: list[Pending | None] = []
    for record in records:
        waiting += [record.output, record.gradient, record.given]
    measured, paths = iter(resolved(waiting)), Paths(records)
    names = [None if number is None else records[number].name for number in paths.before]
    return [
        replace(
            _use(record, next(measured), next(measured), next(measured)),
            head=record is head,
            fed_by=fed.get(id(record)),
            before=names[number],
            gates=number in paths.gates,
            scored=number in paths.scored,
            idle=record.node is not None and record.node not in live,
        )
        for number, record in enumerate(records)
    ]


def _use(record: Record, output: Measures | None, gradient: Measures | None, given: Measures | None) -> Use:
    assert output is not None
    square = None if given is None else given.stats.rms**2
    known = square is not None and square > 0 and math.isfinite(square)
    entropy, largest, attended = (None, None, None) if record.attention is None else record.attention
    layer = Layer(
        name=record.name,
        kind=record.kind,
        parameters=record.parameters,
        output=output.stats,
        gradient=None if gradient is None else gradient.stats,
        factor=output.stats.rms**2 / square if known and square is not None else None,
        dead=None if record.dead is None else float(record.dead),
        saturated=None if record.saturated is None else float(record.saturated),
        entropy=None if entropy is None else float(entropy),
        largest_logit=None if largest is None else float(largest),
        attended=None if attended is None else tuple("".join(map(str, row)) for row in attended.tolist()),
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
        input_nonfinite=0 if given is None else given.stats.nonfinite,
        head=False,
        before=None,
        gates=False,
        scored=False,
        steps=record.steps,
        input_mean=None if given is None else given.stats.mean,
        cosines=record.attention is not None and scales_cosines(record.scores),
        resolution=record.resolution,
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


def _batch_size(call: Call) -> int | None:
    return next((len(tensor) for _, tensor in tensors_in((*call.args, call.kwargs)) if tensor.ndim), None)


def _varies(output: Any, count: int | None) -> bool:
    """Whether an output with one row for each sample differs between samples by more than rounding."""
    rows = (plain(t) for _, t in tensors_in(output) if t.is_floating_point() and t.shape[:1] == (count,) and t.numel())
    return any(_differ(each[0], other) for each in rows for other in each[1:])


def _differ(one: Tensor, other: Tensor) -> bool:
    wide = one.dtype if one.dtype is torch.float64 else torch.float32
    rows = [row.to(wide).nan_to_num(0.0, 0.0, 0.0) for row in (one, other)]
    most = max(float(row.abs().max()) for row in rows)
    return float((rows[0] - rows[1]).abs().max()) > _ROUNDINGS * torch.finfo(one.dtype).eps * most


def _batch_zero(call: Call) -> bool:
    given = [tensor for _, tensor in tensors_in((*call.args, call.kwargs)) if tensor.is_floating_point()]
    return bool(given) and not any(bool(tensor.any()) for tensor in given)


def _wires(
    model: nn.Module, parameters: list[Tensor], call: Call, output: Any, aim: Objective, capture: Capture
) -> Wires:
    given = (call.batch, call.args, call.kwargs)
    # the leaves of a sharded model are not the parameters that it holds
    leaves = {} if any_sharded(model) else leaves_of([aim.value.grad_fn])
    return Wires(
        strays=strays_of(model, parameters, given, leaves, lambda: leaves_of(nodes_of(output)), capture.foreign),
        outputs={place: tuple(tensor.shape) for place, tensor in tensors_in(output)},
        offsets=offsets_of(tokens_of(call), capture.losses),
        guessed=aim.guessed,
        ignored=aim.ignored,
    )


# -- loss ------------------------------------------------------------------------------------------------------------


def _loss(aim: Objective, capture: Capture) -> tuple[list[Tensor], Loss]:
    """All logits of cross entropies and the loss; of several cross entropies, the one that is worst at chance level."""
    calls = [call for call in capture.losses if call.function == "cross_entropy" and call.of_classes]
    if not calls:
        return [], Loss(value=float(aim.value.detach()), expected=None, classes=None)
    losses = [_cross_entropy(call.given, call.target, call.ignored, aim) for call in calls]
    order = sorted(range(len(calls)), key=lambda number: _weight(losses[number]), reverse=True)
    return [calls[number].given for number in order], losses[order[0]]


def _weight(loss: Loss) -> tuple[float, int]:
    """The sort key: what the spread of the logits adds, in whole nats (infinite if not finite); then the classes."""
    cost, classes = loss.value if loss.expected is None else loss.expected, loss.classes or 1
    return float(round(cost - math.log(classes))) if math.isfinite(cost) else math.inf, classes


def _cross_entropy(logits: Tensor, targets: Tensor, ignored: int, aim: Objective) -> Loss:
    """One cross entropy, and its expected value for random labels."""
    with torch.no_grad():
        flat = plain(logits).movedim(1, -1).flatten(0, -2)
        wanted = plain(targets).flatten()
        kept = wanted != ignored
        if not bool(kept.all()):
            flat, wanted = flat[kept], wanted[kept]
        step = max(1, _ROWS // max(1, flat.shape[1]))
        parts = zip(torch.split(flat, step), torch.split(wanted.long(), step), strict=True) if len(flat) else ()
        sums = [_summed(part.float(), labels) for part, labels in parts]
    if not sums:
        return Loss(value=float(aim.value.detach()), expected=None, classes=int(logits.shape[1]))
    value, expected = torch.stack(sums).sum(dim=0).div(len(flat)).tolist()
    return Loss(value=value, expected=expected, classes=int(logits.shape[1]))


def _summed(logits: Tensor, labels: Tensor) -> Tensor:
    """The sums over rows of the cross entropy, and of that with labels at random, which masked classes are not."""
    losses = F.cross_entropy(logits, labels, reduction="none")
    total = logits.sum(-1)
    if bool(torch.isfinite(total).all()):
        normalizer, neutral = losses + logits.gather(1, labels[:, None])[:, 0], total / logits.shape[1]
    else:
        finite = torch.isfinite(logits)
        normalizer = torch.logsumexp(logits, -1)
        neutral = torch.where(finite, logits, 0.0).sum(-1) / finite.sum(-1)
    return torch.stack([losses.double().sum(), (normalizer - neutral).double().sum()])
