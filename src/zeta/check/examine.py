"""The verb ``check``: run a model, apply the rules to the observations, and restore everything."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import nn
from torch.utils.data import DataLoader

from zeta._version import __version__
from zeta.base.distributed import any_sharded
from zeta.base.generators import apart, foreign_apart
from zeta.base.modules import within_reach
from zeta.base.process.forked import check_threads
from zeta.base.process.settings import settings_said
from zeta.base.process.surroundings import alone_with
from zeta.base.progress import progress_of
from zeta.check.arguments import Level, check_options, checked, checked_slots, claim_of
from zeta.check.facts.evidence import Evidence, Later, Pass, TensorFacts, Update
from zeta.check.facts.thresholds import Thresholds
from zeta.check.facts.wiring import Membership, Pairs
from zeta.check.judge import all_findings, folded
from zeta.check.judge.suppression import Suppression
from zeta.check.measure.arriving import Arriving
from zeta.check.measure.effort import MOST_SECONDS, CheckProgress, Course, shared_out
from zeta.check.measure.jacobians import NO_LAYERS, jacobians, watched
from zeta.check.measure.later import later
from zeta.check.measure.recurrent import recurrent
from zeta.check.measure.sizes.slopes import slopes
from zeta.check.measure.sizes.sweeps import Factory, Sweeps
from zeta.check.measure.spectra import spectral, weights_of
from zeta.check.measure.steps import Steps
from zeta.check.measure.tensors import parameter_of, parts_of, read, subjects_of, tensor_facts, values_of
from zeta.check.measure.unwritten import Initialize, unwritten
from zeta.check.measure.updates import OptimizerLike, first_step, of_copy
from zeta.check.measure.wiring.cuts import cuts as cuts_of
from zeta.check.measure.wiring.pairs import PAIR_RULES
from zeta.check.measure.wiring.pairs import pairs as pairs_of
from zeta.check.show.report import CheckReport
from zeta.check.supply import Supply, course_of, of_the_copy, remarks, supply_of
from zeta.check.watch.batches import Call, call_of, device_of
from zeta.check.watch.criteria.objective import LossFunction
from zeta.check.watch.fsdp import kept_gathered, reshard
from zeta.check.watch.isolation import preserved, unchanged
from zeta.check.watch.loaders import first_batch
from zeta.check.watch.probe import probe
from zeta.check.watch.ranks import Ranks, in_step
from zeta.check.watch.streaming.picks import Picks
from zeta.check.watch.streaming.source import IN_MEMORY
from zeta.check.watch.streaming.stream import Stream
from zeta.errors import SpecError, TargetError
from zeta.resolve.plans import Plan
from zeta.resolve.slots import Slot, type_name, unwrap
from zeta.write.guards import check_no_recording

_SEED: Final = 0
_SHARDED: Final = tuple((rule, "the model is sharded") for rule in ("Z901", "Z904", *PAIR_RULES))
# rules that are applied to an optimizer only
_OF_OPTIMIZERS: Final = ("Z701", "Z902", "Z903")


def check(
    model: nn.Module,
    batch: Any,
    loss: LossFunction | None = None,
    level: Level = "fast",
    plan: Plan | None = None,
    *,
    initialize: Initialize | None = None,
    optimizer: OptimizerLike | None = None,
    width: Factory | None = None,
    widths: Sequence[int] = (64, 128, 256),
    depth: Factory | None = None,
    depths: Sequence[int] = (4, 8, 16),
    suppress: Sequence[str] = (),
    thresholds: Thresholds | None = None,
    seed: int | None = None,
    streamed: bool | None = None,
    progress: CheckProgress | bool | None = None,
) -> CheckReport:
    """Check whether a network can learn from its initial values. The model does not change, bit by bit.

    One forward and one backward pass are observed, without dropout and otherwise in the model's present mode, and the
    rules of docs/check.md are applied to the observations.

    Args:
        model: any module. For one on meta, give ``plan`` or ``initialize``: a copy gets memory and values. For a
            compiled model, the original is checked; for one under FSDP2, the global values.
        batch: a tensor, a tuple of arguments, or a mapping of named ones, with or without targets; it is copied to the
            model's device. Samples should differ. Of a ``DataLoader``, the first batch.
        loss: a function from the model's output and the batch to a scalar, or a loss of ``torch.nn``, which gets the
            output (or its ``logits``) and the batch's target. The default is the loss that the ``training_step`` of a
            Lightning module returns; the output's own ``loss``; cross entropy
            or squared error, if the batch has a target that fits; next-token cross entropy, if the input is tokens that
            fit the logits; else a fixed projection of the outputs.
        level: ``"fast"``, or ``"full"``, which also measures Jacobians and spectral norms.
        plan: the plan of the model: moments, bounds and fans are compared with it.
        initialize: a function that initializes the model, such as ``lambda m: m.init_weights()``. It is run over memory
            filled with NaN, to find values that it never writes; the model's values are restored afterwards.
        optimizer: an optimizer of the model, a list of those that share its parameters, or a function from a list of
            parameters to one: the first step is taken on a copy.
        width: full level, the coordinate check: a function from a width to a model that takes the same batch, or to a
            model and the groups of its optimizer (:func:`zeta.scaling.family`). Activations must not grow with the
            width, at the start and after each of ten steps on the batch (of ``optimizer``, if it is a function; of
            Adam at 1e-3 by default). ``report.slopes`` has the exponents and a verdict for each class of layers.
        widths: the widths to build.
        depth: full level: likewise, from a depth. The outputs of blocks are taken together; and the gradient norm must
            not grow exponentially with the depth.
        depths: the depths to build.
        suppress: ids of rules or groups that are not reported, with or without a name glob: ``"Z301"``, ``"Z3"``,
            ``"Z402:blocks.*"``. If Z905 and Z907 to Z909 are, the two passes over two samples are left out.
        thresholds: other limits.
        seed: the seed of the plan, for a model on meta, and for the report.
        streamed: for a model on meta with ``plan``: ``True`` computes each parameter when it is used, and frees it
            after, so that the model is never in memory as a whole; ``False`` makes a copy in memory. By default, a copy
            is made if it takes at most half of the memory that is available.
        progress: ``True`` for a bar; or a function that is called as ``progress(what, seconds_done, seconds_total)``
            before each parameter that is computed when it is used (``streamed``), and before each Jacobian and spectral
            norm of the full level. The seconds are estimated from sizes, for one slow
            core. If they would be more than 40, only some of the spectral norms and of the Jacobians' largest singular
            values are computed, equally spaced; ``report.sampled`` says which. Models of ``width`` and ``depth`` are
            not in the estimate. For a model on meta, ``True`` also shows a bar while its copy gets values.

    Raises:
        LayerTypeError: ``model`` is not a module.
        SpecError: an argument that is not allowed, or a batch that the model cannot take.
        TargetError: a model without memory, with lazy parameters, or nested deeper than Python's recursion limit lets
            it run.
        ForkError: this process was forked from one that had used torch's threads, so that torch would wait forever.
        RankError: for a sharded model, ranks with different arguments, or one that raised; named by rank.

    Several threads may check at once; those that check the same model wait for each other. Exceptions of the model
    itself propagate.

    >>> layers = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 4))
    >>> report = check(layers, torch.randn(32, 8))
    >>> report.ok
    True
    >>> for layer in (layers[0], layers[2]):
    ...     _ = nn.init.constant_(layer.weight, 0.1), nn.init.zeros_(layer.bias)
    >>> check(layers, torch.randn(32, 8)).findings[0].parameter
    '0.weight'
    """
    begin = time.perf_counter()
    limits = Thresholds() if thresholds is None else thresholds
    check_no_recording("check")
    check_threads()
    with alone_with(model), settings_said("the model"), _gradients(), in_step(model) as (ranks, meet):
        inner = checked(model, level, plan)
        reshard(inner)
        slots = checked_slots(inner)
        check_options(loss, initialize, optimizer, thresholds, seed, progress)
        sweeps = Sweeps(width=width, widths=widths, depth=depth, depths=depths)
        if level == "fast" and (width is not None or depth is not None):
            raise SpecError('width= and depth= belong to the full level; pass level="full"')
        suppression = Suppression(suppress)
        with within_reach("initialize=", TargetError):
            supply = supply_of(inner, slots, plan, initialize, 0 if seed is None else seed, streamed, progress is True)
        if optimizer is not None and supply.model is not inner:
            optimizer = of_copy(optimizer, slots, supply.slots)
        inner, slots = supply.model, supply.slots
        batch = first_batch(batch) if isinstance(batch, DataLoader) else batch
        call = call_of(inner, batch, loss)
        given = {"loss": loss, "initialize": initialize, "optimizer": optimizer, "width": width, "depth": depth}
        ranks.begin(claim_of(slots, plan, seed, level, limits, given), meet)
        with within_reach("initialize=", TargetError):
            raw = {} if initialize is None or supply.streamed else unwritten(inner, initialize)
        ranks.wait()
        with unchanged(loss, inner), within_reach("the model's forward pass", TargetError):
            found = _evidence(supply, call, loss, plan, limits, optimizer, suppression, ranks, progress)
            evidence = replace(found, unwritten=raw)
            if level == "full":
                with progress_of(progress, "s") as tell:
                    evidence = _in_full(evidence, supply, batch, loss, optimizer, sweeps, tell)
        ranks.wait()
    findings = all_findings(evidence)
    reported, suppressed = suppression.split(findings)
    return CheckReport(
        model=type_name(unwrap(inner)),
        level=level,
        findings=folded(reported, evidence),
        suppressed=suppressed,
        layers=tuple(use.layer for use in evidence.uses),
        parameters=tuple(parameter_of(one, evidence) for one in evidence.tensors),
        loss=evidence.loss,
        points=evidence.points,
        slopes=slopes(evidence.points, limits),
        sampled=(*remarks(supply, evidence.tensors), *evidence.sampled),
        skipped=_skipped(evidence, supply, initialize, plan, optimizer, level),
        seconds=time.perf_counter() - begin,
        versions=(("zeta", __version__), ("torch", str(torch.__version__))),
        device=str(device_of(inner)),
        seed=seed,
    )


def _skipped(
    evidence: Evidence,
    supply: Supply,
    initialize: Initialize | None,
    plan: Plan | None,
    optimizer: OptimizerLike | None,
    level: Level,
) -> tuple[tuple[str, str], ...]:
    """The rules that were not applied, and why."""
    reasons = dict(evidence.pairs.skipped)
    if evidence.later is not None and evidence.later.skipped is not None:
        reasons |= dict.fromkeys(("Z302", "Z506"), evidence.later.skipped)
    if evidence.unmoved is not None:
        reasons["Z701"] = evidence.unmoved
    if supply.streamed:
        reasons["Z101"] = f"initialize= needs the memory of all parameters; {IN_MEMORY}"
        if level == "full":
            reasons["Z801"] = f"products with Jacobians need all parameters; {IN_MEMORY}"
    if initialize is None:
        reasons["Z101"] = "no initialize= function was given to run over filled memory"
    if plan is None:
        reasons |= dict.fromkeys(("Z201", "Z202", "Z203", "Z204"), "no plan was given to compare with")
    if optimizer is None:
        reasons |= dict.fromkeys(_OF_OPTIMIZERS, "no optimizer was given")
    return tuple(sorted(reasons.items()))


def _gradients() -> contextlib.AbstractContextManager[Any]:
    """A context outside of inference mode, in which tensors get no gradients."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()


def _evidence(
    supply: Supply,
    call: Call,
    loss: LossFunction | None,
    plan: Plan | None,
    limits: Thresholds,
    optimizer: OptimizerLike | None,
    suppression: Suppression,
    ranks: Ranks,
    progress: CheckProgress | bool | None,
) -> Evidence:
    model, slots, source = supply.model, supply.slots, supply.source
    subjects = subjects_of(slots, plan)
    picks = Picks()
    with apart(_SEED), foreign_apart():  # what makes an optimizer may draw random numbers
        steps = Steps(subjects, optimizer) if supply.streamed and optimizer is not None else None
    arriving = Arriving(subjects, source, limits.same_gradient, picks, steps)
    with preserved(model), of_the_copy(supply), course_of(supply, progress) as step:
        stream = Stream(source, arriving.take, step, picks)
        seen = probe(model, slots, call, loss, ranks, stream)
        call.restore()
        pairs = _pairs(supply, call, seen, limits, suppression)
    arriving.finish(frozenset(stream.used), seen.gradients)
    rest = [one for one in subjects if one.name not in arriving.readings]
    readings = arriving.readings | read(rest, seen.gradients, limits.same_gradient)
    tensors = tensor_facts(subjects, readings, seen, _used(slots, seen), source)
    later = _later(supply, call, loss, seen, tensors, limits, ranks)
    updates: dict[str, Update] = {}
    membership: Membership | None = None
    if optimizer is not None:
        with apart(_SEED), foreign_apart():  # a step may draw random numbers
            if steps is not None:
                for one in rest:
                    if (gradient := seen.gradients.get(id(one.slot.tensor))) is not None:
                        steps.take(one, values_of(one), gradient)
                updates, membership = steps.finish(tensors)
            else:
                updates, membership = first_step(tensors, seen.gradients, optimizer)
    without = {} if any_sharded(model) else _without(tensors)
    ranks.wait()
    return Evidence(
        **vars(seen),
        tensors=tensors,
        thresholds=limits,
        later=later,
        pairs=pairs,
        cuts=cuts_of(model, call, loss, without, source) if without else (),
        updates=updates,
        membership=membership,
        unmoved=None if steps is None else steps.refused,
        recurrent=recurrent(seen.sequences, tensors),
    )


def _pairs(supply: Supply, call: Call, seen: Pass, limits: Thresholds, suppression: Suppression) -> Pairs:
    """What two samples show."""
    if all(map(suppression.everywhere, PAIR_RULES)):
        return Pairs(skipped=tuple((rule, "it is suppressed") for rule in PAIR_RULES))
    if any_sharded(supply.model):
        return Pairs(skipped=_SHARDED)
    return pairs_of(supply.model, call, seen, limits.moved, supply.source)


def _without(tensors: tuple[TensorFacts, ...]) -> dict[int, str]:
    """The trainable parameters that were used and have no gradient, or one of exactly zero, by ``id``."""
    learned = [one for one in tensors if one.trainable and not one.buffer and one.used]
    left = [one for one in learned if one.gradient_stats is None or one.still]
    return {id(part): one.name for one in left for part in parts_of(one.slot)}


def _in_full(
    evidence: Evidence,
    supply: Supply,
    batch: Any,
    loss: LossFunction | None,
    optimizer: OptimizerLike | None,
    sweeps: Sweeps,
    progress: CheckProgress | None,
) -> Evidence:
    model = supply.model
    weights = weights_of(evidence.tensors)
    with preserved(model), kept_gathered(model):
        layers = NO_LAYERS if supply.streamed else watched(model, supply.slots, call_of(model, batch, loss))
        # ranks may have batches of different sizes, but must make the same choice: so there is no limit
        most = math.inf if any_sharded(model) else MOST_SECONDS
        largest, norms = shared_out(
            (layers.largest, [weight.seconds for weight in weights]), most - sum(layers.squares)
        )
        course = Course(progress, sum(layers.squares) + largest.seconds + norms.seconds)
        seen = jacobians(layers, frozenset(largest.positions), course)
    uses = [replace(use, layer=replace(use.layer, singular=seen.singular.get(use.layer.name))) for use in evidence.uses]
    step = optimizer if callable(optimizer) else None
    return replace(
        evidence,
        uses=tuple(uses),
        jacobians=seen.chains,
        spectral=spectral([weights[position] for position in norms.positions], course),
        sampled=tuple(
            remark
            for remark in (
                largest.remark("largest singular values of Jacobians"),
                norms.remark("spectral norms of weights (Z802)"),
            )
            if remark is not None
        ),
        points=tuple(sweeps.points(batch, loss, step)),
    )


def _used(slots: list[Slot], seen: Pass) -> frozenset[str]:
    """The names of the parameters whose module ran, or that a call used."""
    taken = {name for use in seen.uses for name in use.layer.parameters}
    return frozenset(taken | {slot.name for slot in slots if slot.name.rpartition(".")[0] in seen.used})


def _later(
    supply: Supply,
    call: Call,
    loss: LossFunction | None,
    seen: Pass,
    tensors: tuple[TensorFacts, ...],
    limits: Thresholds,
    ranks: Ranks,
) -> Later | None:
    """Take further steps, only if the gradient of a weight, or of some zero units, is exactly zero."""
    learned = [one for one in tensors if one.is_weight and one.trainable]
    zero = {id(one.slot.tensor): one.name for one in learned if one.still}
    chosen = {id(one.slot.tensor): (one, one.still_units) for one in learned if one.slot.parametrization is None}
    parts = {key: (one, units) for key, (one, units) in chosen.items() if units is not None}
    ranks.wait()
    if not ranks.any_rank(bool(zero or parts)):
        return None
    if ranks.any_rank(seen.output_nonfinite > 0 or not math.isfinite(seen.loss.value)):
        return Later(steps=0, still=frozenset(), skipped="the output or the loss is not finite")
    if supply.streamed:
        return Later(steps=0, still=frozenset(), skipped=f"further steps need all parameters at once; {IN_MEMORY}")
    with preserved(supply.model):
        return later(supply.model, call, loss, seen.gradients, zero, parts, limits.patience, ranks)
