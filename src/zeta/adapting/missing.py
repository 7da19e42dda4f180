"""What transformers' ``from_pretrained`` does not find in a checkpoint comes from zeta: ``with missing_keys(...):``."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from torch import nn

from zeta.base.reading import shown
from zeta.compute.stream.random import check_seed
from zeta.errors import SpecError
from zeta.report.report import Report
from zeta.resolve.how import check_no_options
from zeta.resolve.plans import Plan
from zeta.resolve.slots import walk
from zeta.rules import Rules
from zeta.verbs import apply_, init_

#: the method of transformers that gives values to what a checkpoint lacks
_METHOD: Final = "_initialize_missing_keys"
#: what transformers sets on a tensor that has its values
_INITIALIZED: Final = "_is_hf_initialized"
_LOCK: Final = threading.Lock()

Initialize = Callable[[nn.Module, list[str]], Report]


class _Patch:
    """Replaces the method while any thread is in a block, for these threads only."""

    def __init__(self) -> None:
        self._blocks: dict[int, list[Initialize]] = {}  # of each thread, the innermost last
        self._original: Callable[..., None] | None = None

    def enter(self, kind: Any, initialize: Initialize) -> int:
        thread = threading.get_ident()
        with _LOCK:
            if not self._blocks:
                self._original = getattr(kind, _METHOD)
                setattr(kind, _METHOD, self._method(self._original))
            self._blocks.setdefault(thread, []).append(initialize)
        return thread

    def leave(self, kind: Any, thread: int, initialize: Initialize) -> None:
        """Undo ``enter``, which was in ``thread``; a block may end in another."""
        with _LOCK:
            mine = self._blocks[thread]
            mine.remove(initialize)
            if not mine:
                del self._blocks[thread]
            if not self._blocks:
                setattr(kind, _METHOD, self._original)

    def _method(self, original: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(original)
        def method(model: nn.Module, *args: Any, **kwargs: Any) -> None:
            blocks = self._blocks.get(threading.get_ident())
            names = [slot.name for slot in walk(model) if slot.persistent and _is_new(slot.tensor)] if blocks else []
            original(model, *args, **kwargs)  # also gives buffers that are not saved their values
            if blocks and names:
                with _tied(model, names):
                    blocks[-1](model, names)

        return method


_PATCH: Final = _Patch()


@contextlib.contextmanager
def missing_keys(how: Any, seed: int = 0, **options: Any) -> Iterator[list[Report]]:
    """Inside the block, what ``from_pretrained`` does not find in a checkpoint, or in another shape, comes from zeta.

    ::

        with zeta.missing_keys("gpt2", seed=0) as reports:
            model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)

    The values are those that a full run of ``how`` with this seed gives these parameters. Other threads are not
    affected, and after the block transformers is as before.

    Args:
        how: rules, the name of a recipe, a plan of the model such as a recorded one, or a function that initializes it.
        seed: from 0 to 2^64 - 1.
        options: of a recipe.

    Yields:
        A list that gets the report of each model that is loaded with something missing.

    Raises:
        SpecError: transformers is not installed, or a version whose way of loading is not known.
    """
    check_seed(seed)
    if not isinstance(how, Rules | str | Plan) and not callable(how):
        raise SpecError(f"expected rules, the name of a recipe, a plan or a function, got {shown(how)}")
    if not isinstance(how, str):
        check_no_options(options, "none")
    reports: list[Report] = []

    def initialize(model: nn.Module, names: list[str]) -> Report:
        if isinstance(how, Plan):
            report = apply_(model, how, seed, only=names)
        else:
            report = init_(model, how, seed, only=names, **options)
        reports.append(report)
        return report

    kind = _pretrained()
    thread = _PATCH.enter(kind, initialize)
    try:
        yield reports
    finally:
        _PATCH.leave(kind, thread, initialize)


def _pretrained() -> Any:
    try:
        from transformers import PreTrainedModel
    except ImportError:
        raise SpecError("missing_keys is for models of transformers, which is not installed") from None
    if not callable(getattr(PreTrainedModel, _METHOD, None)):
        raise SpecError(
            "this version of transformers gives values to missing keys in a way that zeta does not know; load the "
            "model, then zeta.init_(model, how, seed, only=[...]) for the names in its report"
        )
    return PreTrainedModel


@contextlib.contextmanager
def _tied(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Tie what is to be tied to the tensors of these names and has no values either; transformers does it later.

    The values of a tied tensor are those of its canonical name, which may be any of them.
    """
    ties: Any = getattr(model, "all_tied_weights_keys", None)
    changed: list[tuple[nn.Module, str, nn.Parameter]] = []
    try:
        for name, source in ties.items() if isinstance(ties, Mapping) else ():
            path, _, local = name.rpartition(".")
            module = model.get_submodule(path)
            before = module._parameters.get(local)
            if source in names and before is not None and before.is_meta:
                changed.append((module, local, before))
                module._parameters[local] = model.get_parameter(source)
        yield
    finally:
        for module, local, before in changed:
            module._parameters[local] = before


def _is_new(tensor: Any) -> bool:
    """Whether a checkpoint lacks a tensor. What is on meta is loaded and elsewhere, as on a disk, or tied later."""
    return not tensor.is_meta and not getattr(tensor, _INITIALIZED, False)
