"""Adapters whose first values are computed: from the weights beside them, from a gradient, or from a seed alone.

    >>> class Adapted(nn.Module):
    ...     def __init__(self, base, rank):
    ...         super().__init__()
    ...         self.base, self.scaling = base, 2.0
    ...         self.lora_A = nn.Parameter(torch.zeros(rank, base.in_features))
    ...         self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))
    >>> layer = Adapted(nn.Linear(32, 16), rank=4)
    >>> before = layer.base.weight.detach().clone()
    >>> pissa_(layer, seed=0)
    AdapterReport(PiSSA of 1 layer, seed 0, exact up to ...)
    >>> torch.allclose(layer.base.weight + 2.0 * layer.lora_B @ layer.lora_A, before, atol=1e-6)
    True

A layer computes ``W + s B A``. :func:`pissa_`, :func:`olora_` and :func:`lora_ga_` give A and B values, and the weight
becomes ``W - s B A``, so that the model computes what it did. Layers are those of peft (linear, embedding, Conv1D), and
those by hand whose matrices have such names as ``lora_A`` and ``lora_B``. The factor s is the layer's: its attribute
``scaling`` or ``scale``, in peft by the adapter's name; else, and of a layer with several weights, the argument
``scaling=``. Plain LoRA, with A random and B zero, is the recipe: ``zeta.init_(model, "lora", seed=0)``.

Everything is computed in fp64. A and B are rounded to their dtype first, and then ``W - s B A`` once to the weight's:
``W_new + s B A`` differs from W by one rounding only.

All of them raise, before anything is written: ``LayerTypeError`` for what is no module; ``SpecError`` for arguments
that are not allowed, and for layers that the method is not for, that are quantized, that do not compute W + s B A now
(merged, disabled, not active, aLoRA), or whose B A is not 0 already;
``PlanError`` for an ``only=`` that selects nothing; ``TargetError`` for parameters that cannot be written: on meta,
sharded, parametrized, quantized, not finite.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from zeta.base import html
from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.base.text import by_reason, count_text, fold, number_text, range_text, table, terminal_width
from zeta.check.watch.isolation import preserved
from zeta.compute import low_rank
from zeta.compute.gradients import Backward, gradients_of
from zeta.compute.stream.random import STREAM_VERSION, check_seed, parameter_key
from zeta.errors import SpecError, listed, notice
from zeta.initializers.base import finite_number
from zeta.report.applied import applied
from zeta.report.report import Report
from zeta.report.verifying.verification import Verification, prepare_verification
from zeta.resolve.fitting import Only
from zeta.resolve.roles.adapted import Adapted, adapted_layers
from zeta.resolve.roles.vera import vera_fit
from zeta.resolve.slots import walk
from zeta.write.guards import on_values
from zeta.write.replace import check_replaceable, replace_
from zeta.write.seeds import chosen_seed

__all__ = ["AdapterReport", "LayerReport", "lora_ga_", "olora_", "pissa_", "vera_", "verify_vera"]

_HEADINGS: Final = ("layer", "weight", "rank", "scaling", "share of W", "W differs by")


@on_values
def pissa_(
    model: nn.Module,
    seed: int | None = None,
    *,
    iterations: int | None = 8,
    scaling: float | None = None,
    only: Only | None = None,
) -> AdapterReport:
    """PiSSA: ``A = sqrt(S/s) V^T``, ``B = U sqrt(S/s)`` of W's r largest singular triples; W becomes ``W - s B A``.

    Args:
        model: with adapters of rank r, of which A or B is 0, as ``zeta.init_(model, "lora")`` and peft leave them.
        seed: as for :func:`zeta.apply_`; it decides the sketch, and so the digits that ``iterations`` leave open.
        iterations: of the randomized decomposition (:func:`zeta.compute.low_rank.principal`), whose sketch is drawn by
            A's name; ``None`` computes all singular triples exactly, without a seed, which takes much longer.
        scaling: the factor s, for layers that do not have it.
        only: restrict to some layers: a glob of names of layers or of their A or B, several, or a predicate.

    Of an embedding, W^T is factorized. Results agree between devices and numbers of threads to 2e-6 of the largest
    value of A and of B.

    Source: Meng, Wang & Zhang 2024 (arXiv:2404.02948).
    """
    if iterations is not None:
        _check_iterations(iterations)
    layers, begin = adapted_layers(model, only, scaling), time.perf_counter()
    number = None if iterations is None else chosen_seed(model, None, seed)

    def factors(layer: Adapted) -> low_rank.Factors | None:
        key = 0 if number is None else parameter_key(number, layer.a.name)
        weight = layer.matrices()[0]
        return low_rank.pissa(weight, layer.rank, layer.scaling, iterations=iterations, key=key)

    _check(model, layers, "PiSSA", embeddings=True)
    found = [(layer, factors(layer)) for layer in layers]
    if poor := [layer.name or "the model" for layer, pair in found if pair is None]:
        raise SpecError(
            listed(
                "these weights have a lower rank than their adapters, so that rows of A and columns of B would both be "
                "0 and get no gradient; take a lower rank, or leave them out with only=. Nothing was changed:",
                poor,
            )
        )
    return _written("PiSSA", layers, (pair for _, pair in found if pair is not None), number, iterations, begin)


@on_values
def olora_(model: nn.Module, *, scaling: float | None = None, only: Only | None = None) -> AdapterReport:
    """OLoRA: ``A = R[:r]``, ``B = Q[:, :r]`` of ``W = Q R``; W becomes ``W - s B A``. Nothing is random.

    R has a diagonal that is not negative, so that Q and R are unique; libraries have other signs, in A and B alike.
    Arguments as for :func:`pissa_`. Embeddings are refused: their first r tokens would decide everything.

    Source: Büyükakyüz 2024 (arXiv:2406.01775).
    """
    layers, begin = adapted_layers(model, only, scaling), time.perf_counter()
    _check(model, layers, "OLoRA")
    factors = (low_rank.olora(layer.matrices()[0], layer.rank) for layer in layers)
    return _written("OLoRA", layers, factors, None, None, begin)


@on_values
def lora_ga_(
    model: nn.Module,
    backward: Backward,
    seed: int | None = None,
    *,
    gamma: float | None = None,
    iterations: int | None = 8,
    scaling: float | None = None,
    only: Only | None = None,
) -> AdapterReport:
    """LoRA-GA: ``A = c V^T[r : 2r]``, ``B = c U[:, :r]`` of the gradient's singular vectors; W becomes ``W - s B A``.

    Args:
        model: as for :func:`pissa_`. It runs as it is, in training or evaluation mode, and is restored: running
            statistics, parameters' ``.grad`` and ``requires_grad``, and what else is not a parameter's value.
        backward: a function of the model that returns the loss, as ``lambda model: loss(model(x), y)``: each layer's
            gradient is factorized and freed as soon as the backward pass has it. Or one that runs backward passes
            itself, on several batches: their gradients are summed. Random numbers in it, as for dropout, come from
            private generators, torch's with the seed; the shared ones do not move.
        seed: as for :func:`pissa_`.
        gamma: c is ``out^(1/4) / sqrt(gamma)``, as in the paper, with 16 there and rsLoRA's scaling; ``None``: c is 1.
        iterations: as for :func:`pissa_`.
        scaling: as for :func:`pissa_`.
        only: as for :func:`pissa_`.

    Raises ``SpecError`` also for a gradient of a rank below 2r, as that of fewer than 2r samples or tokens is.

    Source: Wang, Yu & Li 2024 (arXiv:2407.05000).
    """
    if iterations is not None:
        _check_iterations(iterations)
    if gamma is not None and not (isinstance(gamma, int | float) and gamma > 0):
        raise SpecError(f"gamma must be a positive number, as the paper's 16, got {shown(gamma)}")
    if not callable(backward) or isinstance(backward, nn.Module):
        raise SpecError(
            "backward must be a function of the model that returns the loss, as in "
            f"lambda model: loss(model(x), y), got {shown(backward)}"
        )
    layers, begin = adapted_layers(model, only, scaling), time.perf_counter()
    number = None if iterations is None else chosen_seed(model, None, seed)
    _check(model, layers, "LoRA-GA", triples=2)
    by_name = {layer.base.name: layer for layer in layers}
    found: dict[str, low_rank.Factors] = {}
    poor: list[tuple[str, str]] = []

    def use(name: str, gradient: Tensor) -> None:
        layer = by_name[name]
        matrix = gradient.T if layer.turned[0] else gradient
        if not matrix.isfinite().all():
            poor.append((name, "its gradient is not finite"))
            return
        key = 0 if number is None else parameter_key(number, layer.a.name)
        factors = low_rank.lora_ga(matrix, layer.rank, gamma=gamma, iterations=iterations, key=key)
        if factors is None:
            poor.append((name, f"its gradient has a rank below {2 * layer.rank}, twice that of the adapter"))
        else:
            found[name] = _rounded(layer, factors)

    with preserved(model, seed=number, copied=False):
        gradients_of(model, [(layer.base.name, layer.base.tensor) for layer in layers], backward, use)
    if poor:
        raise SpecError(
            listed("LoRA-GA needs other gradients, as of more samples; nothing was changed:", by_reason(poor))
        )
    _check(model, layers, "LoRA-GA", triples=2)  # the function may have trained the model
    return _written("LoRA-GA", layers, (found[layer.base.name] for layer in layers), number, iterations, begin)


@on_values
def vera_(
    model: nn.Module, seed: int | None = None, *, d_initial: float | None = None, only: Only | None = None
) -> Report:
    """VeRA: the frozen projections that all layers share from the seed; ``lambda_d = d_initial``, ``lambda_b = 0``.

    ``vera_A`` and ``vera_B`` are uniform on ``±sqrt(6 / columns)``. They need not be stored: their values depend on the
    seed, their shape and the fixed names "vera_A" and "vera_B", whatever the model. After loading trained vectors,
    ``vera_(model, seed, only="*vera_[AB]*")`` restores them, and :func:`verify_vera` compares them.

    Args:
        model: with tensors that have peft's names: parameters or buffers, persistent or not.
        seed: as for :func:`zeta.apply_`.
        d_initial: the first value of ``vera_lambda_d``; ``None`` for that of the adapter's ``VeraConfig``, else 0.1.
        only: restrict to some of these tensors.

    Source: Kopiczko, Blankevoort & Asano 2024 (arXiv:2310.11454); ``peft/tuners/vera/model.py``.
    """
    if d_initial is not None:
        d_initial = finite_number("d_initial", d_initial)
    return applied(vera_fit(model, d_initial=d_initial, only=only), seed, None, lambda claim: False)


@on_values
def verify_vera(model: nn.Module, seed: int, *, only: Only | None = None) -> Verification:
    """Compute VeRA's projections again and compare them bit by bit; the trained vectors are not looked at."""
    check_seed(seed)
    return prepare_verification(vera_fit(model, d_initial=0.0, only=only, projections_only=True), seed).compare()


# -- what the methods have in common -----------------------------------------------------------------------------------


def _check_iterations(iterations: Any) -> None:
    if not isinstance(iterations, int) or isinstance(iterations, bool) or iterations < 0:
        raise SpecError(f"iterations must be a whole number from 0 on, or None, got {shown(iterations)}")


def _check(model: nn.Module, layers: list[Adapted], method: str, *, embeddings: bool = False, triples: int = 1) -> None:
    """Raise one error that lists the layers that a method is not for, or whose parameters cannot be replaced."""
    check_replaceable(model, [slot for layer in layers for slot in layer.slots], walk(model))
    refused: list[tuple[str, str]] = []
    for layer in layers:
        _, a, b = layer.matrices()
        if layer.is_embedding and not embeddings:
            refused.append((layer.name, f"is an embedding, and {method} is for linear layers; leave it out with only="))
        if triples * layer.rank > min(layer.shape):
            refused.append(
                (layer.name, f"W has rank {min(layer.shape)} at most, and {method} takes {triples * layer.rank}")
            )
        if a.any() and b.any():
            refused.append(
                (
                    layer.name,
                    "B A is not 0, so that other values would change what the model computes; merge the adapter, or "
                    'start from zero with zeta.init_(model, "lora")',
                )
            )
    if refused:
        named = [(name or "the model", reason) for name, reason in refused]
        raise SpecError(listed(f"{method} cannot start these layers; nothing was changed:", by_reason(named)))


def _rounded(layer: Adapted, factors: low_rank.Factors) -> low_rank.Factors:
    """B and A in the dtypes, and on the devices, of the parameters. ``SpecError`` if these cannot hold them."""
    weight, a, b = layer.matrices()
    new_b, new_a = (
        new.float().to(like) if like.dtype is not torch.float64 else new.to(like)
        for new, like in zip(factors, (b, a), strict=True)
    )
    if low_rank.overflows(weight, new_b.to(weight.device), new_a.to(weight.device), layer.scaling):
        raise SpecError(f"{layer.name or 'the model'}: the values do not fit into the dtypes of W, A and B")
    return new_b, new_a


def _written(
    method: str,
    layers: list[Adapted],
    factors: Iterator[low_rank.Factors],
    seed: int | None,
    iterations: int | None,
    begin: float,
) -> AdapterReport:
    """Compute all factors, then write layer by layer: of each all three matrices, or none."""
    values = [_rounded(layer, pair) for layer, pair in zip(layers, factors, strict=True)]
    found: list[LayerReport] = []
    for layer, (b, a) in zip(layers, values, strict=True):
        weight, old_a, old_b = layer.matrices()
        left = low_rank.residual(weight, b, a, layer.scaling)
        replace_([(weight, left.weight), (old_a, a), (old_b, b)])
        found.append(
            LayerReport(
                name=layer.name,
                weight=layer.base.name,
                rank=layer.rank,
                scaling=layer.scaling,
                share=left.share,
                difference=left.difference,
                largest=left.largest,
            )
        )
    if others := [name for layer in layers for name in layer.others]:
        notice(
            listed("these adapters belong to the weights before; without the new ones they now compute less:", others)
        )
    return AdapterReport(
        method=method, seed=seed, iterations=iterations, layers=tuple(found), seconds=time.perf_counter() - begin
    )


# -- the report --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer: ``share`` is ``|s B A|² / |W|²``, and ``difference`` the largest ``|W_new + s B A - W|``.

    ``largest`` is the largest element of ``|W_new|``.
    """

    name: str
    weight: str
    rank: int
    scaling: float
    share: float
    difference: float
    largest: float


@dataclass(frozen=True, kw_only=True)
class AdapterReport:
    """What was written, layer by layer; ``print(report)`` shows a table. ``seed`` is ``None`` if nothing was drawn."""

    method: str
    seed: int | None
    iterations: int | None
    layers: tuple[LayerReport, ...]
    seconds: float
    stream: int = STREAM_VERSION

    def __iter__(self) -> Iterator[LayerReport]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> LayerReport:
        for layer in self.layers:
            if name in (layer.name, layer.weight):
                return layer
        raise KeyError(
            f"the report has no layer named {shown(name)}{did_you_mean(name, (layer.name for layer in self.layers))}"
        )

    @property
    def difference(self) -> float:
        """The largest ``|W_new + s B A - W|`` of all layers."""
        return max((layer.difference for layer in self.layers), default=0.0)

    @property
    def summary(self) -> str:
        """One line."""
        how = "exact" if self.iterations is None else f"{count_text(self.iterations, 'iteration')}"
        seed = "nothing drawn" if self.seed is None else f"seed {self.seed}, stream {self.stream}"
        return (
            f"{self.method} of {count_text(len(self.layers), 'layer')} in {self.seconds:.1f} s ({how}, {seed}); "
            f"W_new + s B A differs from W by {number_text(self.difference)} at most"
        )

    def __repr__(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        layers = count_text(len(self.layers), "layer")
        return f"AdapterReport({self.method} of {layers}{seed}, exact up to {number_text(self.difference)})"

    def __str__(self) -> str:
        return self.text(terminal_width())

    def text(self, width: int | None = None) -> str:
        """What ``print`` shows: a line for each layer, with equal ones together, and the summary."""
        return "\n".join(
            [table(_HEADINGS, self._rows(), right=("rank",), width=width, expendable=("weight",)), self.summary]
        )

    def _repr_html_(self) -> str:
        return html.page(html.table_section(self.summary, _HEADINGS, self._rows(), right=("rank",)))

    def _rows(self) -> list[tuple[str, ...]]:
        named = ((each.name, (each.weight[len(each.name) :], each.rank, each.scaling), each) for each in self.layers)
        return [
            (
                name,
                alike[0].weight[len(alike[0].name) :].lstrip("."),
                str(alike[0].rank),
                number_text(alike[0].scaling),
                range_text(each.share for each in alike),
                range_text(each.difference for each in alike),
            )
            for name, alike in fold(named)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "method": self.method,
            "seed": self.seed,
            "stream": self.stream,
            "iterations": self.iterations,
            "seconds": self.seconds,
            "difference": self.difference,
            "layers": [dict(each.__dict__) for each in self.layers],
        }

    def to_json(self) -> str:
        """Return everything as JSON text."""
        return json.dumps(self.as_dict(), indent=1)
