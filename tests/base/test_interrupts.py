"""Ctrl-C at any line of what changes a model or the process for a while leaves nothing changed.

The interrupt is raised at each line in turn, by a trace function.
"""

from __future__ import annotations

import contextlib
import gc
import linecache
import random
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.overrides import TorchFunctionMode

import zeta
from zeta.base.generators import foreign
from zeta.base.process import exchange, garbage, interrupts, surroundings
from zeta.base.process.interrupts import insist
from zeta.initializers import Normal
from zeta.resolve.recording.active import ACTIVE
from zeta.resolve.recording.tracing.addresses import ADDRESSES

PACKAGE = Path(zeta.__file__).parent
#: what changes something and gives it back, by file, with the functions that are looked at; all of them if empty
PLACES: dict[str, tuple[str, ...]] = {
    "base/process/interrupts.py": (),
    "base/process/exchange.py": ("held", "_enter", "_leave", "_give"),
    "base/process/surroundings.py": (
        *("plain", "leave", "restore", "restore_all", "alone_with"),
        *("_leave_functions", "_function_modes", "_same"),
    ),
    "base/process/garbage.py": (),
    "base/tensors.py": ("make", "undo", "_settle", "_home", "swap"),
    "base/parametrizations.py": ("evaluated", "restore"),
    "base/generators/foreign.py": ("foreign_apart", "restore", "_replace", "_restore"),
    "base/generators/functions.py": ("apart",),
    "base/generators/private.py": ("borrowing", "restore"),
    "resolve/recording/record.py": ("_on_meta", "_unsharded", "restore", "plan_recorded"),
    "resolve/recording/restoring.py": ("restored", "restore", "restore_properties"),
    "resolve/recording/tracing/modes.py": ("recording", "leave"),
    "resolve/recording/tracing/addresses.py": ("_replace", "_restore"),
    "check/watch/isolation.py": ("preserved", "take", "restore", "restore_kind", "restore_moved", "restore_grad"),
    "check/watch/memory.py": ("restore",),
    "check/watch/calls.py": ("plainly", "_uncompiled", "restore"),
    "check/measure/later.py": ("_instead", "restore"),
    "write/materialize.py": ("allocated",),
}
RULES = zeta.Rules([zeta.Rule("*", Normal(0.1))])


class Interrupted:
    """Raises ``KeyboardInterrupt`` once, before a line at one of the places; counts these lines."""

    def __init__(self, at: int | None, place: str) -> None:
        self.at, self.lines = at, 0
        self.numbers: list[int] = []  # in the file, of the lines in their order
        self.file, self.functions = str(PACKAGE / place), PLACES[place]

    def __enter__(self) -> Interrupted:
        self.before = sys.gettrace()
        sys.settrace(self.called)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self.before)

    def called(self, frame: FrameType, event: str, argument: object) -> Any:
        code = frame.f_code
        wanted = code.co_filename == self.file and (not self.functions or code.co_name in self.functions)
        return self.line if wanted else None

    def line(self, frame: FrameType, event: str, argument: object) -> Any:
        # a trace function, and no signal, can come between the last step of a block and the release of its lock
        locks = linecache.getline(self.file, frame.f_lineno).strip() in ("with _LOCK:", "with self._lock:")
        if event == "line" and not locks:
            self.lines += 1
            self.numbers.append(frame.f_lineno)
            if self.lines == self.at:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.line


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.second = parametrizations.spectral_norm(nn.Linear(3, 2))
        self.third = parametrizations.weight_norm(nn.Linear(2, 2))
        self.last = nn.Linear(2, 2)
        nn.init.zeros_(self.last.weight)  # at first no other parameter has a gradient, so that check takes steps
        self.first.weight.register_hook(lambda gradient: gradient)
        self.calls: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(1)
        return self.last(self.third(self.second(self.norm(self.first(x)))))  # type: ignore[no-any-return]


def initialize(model: Any) -> None:
    nn.init.normal_(model.first.weight)
    model.calls.append(2)


class Passing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def values(model: Net) -> dict[str, Any]:
    """What the model holds."""
    with torch._C.DisableTorchFunction():
        tensors = dict(model.state_dict(keep_vars=True).items())
        return {
            **{name: (id(t), "meta" if t.is_meta else t.tolist(), t.requires_grad) for name, t in tensors.items()},
            "hooks": list(model.first.weight._backward_hooks or {}),
            "training": [module.training for module in model.modules()],
            "calls": list(model.calls),
        }


def process() -> dict[str, Any]:
    """What the process and the thread have."""
    return {
        "random": [id(getattr(random, name)) for name in ("random", "gauss", "seed")],
        "numpy": [id(getattr(np.random, name)) for name in ("rand", "normal", "seed")],
        "codes": [
            function.__code__
            for function in (nn.init.orthogonal_, torch.manual_seed, torch.random.get_rng_state, nn.Module.__init__)
        ],
        "address": torch.UntypedStorage.data_ptr,
        "apply": torch.utils.checkpoint.CheckpointFunction.apply,
        "states": (random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()),
        "grad": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "modes": (torch._C._len_torch_function_stack(), torch._C._len_torch_dispatch_stack()),
        "functions": torch._C._is_torch_function_enabled(),
        "threads": torch.get_num_threads(),
        "collecting": gc.isenabled(),
        "recorder": ACTIVE.recorder,
        "taken": dict(surroundings._TAKEN),
        "locks": [is_free(lock) for lock in (surroundings._LOCK, ADDRESSES._lock, foreign._MODULES._lock)],
    }


def is_free(lock: Any) -> bool:
    """Whether another thread gets it."""
    got: list[bool] = []
    thread = threading.Thread(target=lambda: got.append(lock.acquire(blocking=False) and (lock.release() or True)))
    thread.start()
    thread.join()
    return got[0]


def planned(model: Net) -> None:
    zeta.plan(model, initialize)


def checked(model: Net) -> None:
    zeta.check(model, (torch.ones(4, 3), torch.tensor([0, 1, 0, 1])), initialize=initialize)


@contextlib.contextmanager
def surrounded() -> Iterator[None]:
    with Passing(), torch.autocast("cpu"):
        yield


def sweep(
    run: Callable[[Net], object], place: str, look: Callable[[Net], Any], most: int | None
) -> list[tuple[int, Any]]:
    """What differs after an interrupt at about ``most`` lines, equally spaced.

    ``None``: at the first and the last time of each line.
    """
    with Interrupted(None, place) as counted:
        run(Net())
    assert counted.lines, "nothing runs there"
    different: list[tuple[int, Any]] = []
    if most is None:
        times = [*enumerate(counted.numbers, 1)]
        first, last = ({number: at for at, number in order} for order in (reversed(times), times))
        chosen = sorted({*first.values(), *last.values()})
    else:
        chosen = [*range(1, counted.lines, max(1, counted.lines // most)), counted.lines]
    for at in chosen:
        model = Net()
        before = look(model)
        with Interrupted(at, place), contextlib.suppress(KeyboardInterrupt):
            run(model)
        after = look(model)
        if after != before:
            different.append((at, [name for name in before if before[name] != after[name]]))
    return different


def looked(model: Net) -> dict[str, Any]:
    return values(model) | process()


UNUSED = ("base/process/garbage.py", "base/generators/functions.py")
PLANNED = [place for place in PLACES if place.startswith(("base", "resolve")) and place not in UNUSED]
CHECKED = [
    *("base/process/interrupts.py", "base/process/exchange.py", "base/process/surroundings.py"),
    *("base/parametrizations.py", "base/generators/foreign.py", "base/generators/functions.py"),
    *(place for place in PLACES if place.startswith("check")),
]


@pytest.mark.parametrize("most", [15, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", PLANNED)
def test_a_plan_of_a_function_that_is_interrupted_changes_nothing(place: str, most: int | None) -> None:
    with surrounded():
        assert sweep(planned, place, looked, most) == []


@pytest.mark.parametrize("most", [5, pytest.param(None, marks=pytest.mark.slow)])
@pytest.mark.parametrize("place", CHECKED)
def test_a_check_that_is_interrupted_changes_nothing(place: str, most: int | None) -> None:
    assert sweep(checked, place, looked, most) == []


@pytest.mark.parametrize("place", ["base/tensors.py", "write/materialize.py", "base/process/interrupts.py"])
def test_a_model_gets_all_of_its_memory_or_none(place: str) -> None:
    def failing(what: str, done: int, total: int) -> None:
        raise KeyError

    def run(model: nn.Module, progress: Any = None) -> None:
        with contextlib.suppress(KeyError):
            zeta.materialize_(model, plan, 0, progress=progress)

    whole, plan = zeta.record(nn.Linear, 3, 2)
    zeta.materialize_(whole, plan, 0)
    for progress in (None, failing):
        model, plan = zeta.record(nn.Linear, 3, 2)
        with Interrupted(None, place) as counted:
            run(model, progress)
        assert counted.lines or progress is None
        for at in range(1, counted.lines + 1):
            model, _ = zeta.record(nn.Linear, 3, 2)
            identities = [id(parameter) for parameter in model.parameters()]
            with pytest.raises(KeyboardInterrupt), Interrupted(at, place):
                run(model, progress)
            on_meta = {parameter.is_meta for parameter in model.parameters()}
            if place == "base/process/interrupts.py" and on_meta == {False}:  # it came when all was written
                assert progress is None
                assert all(map(torch.equal, model.parameters(), whole.parameters()))
            else:
                assert on_meta == {True}, at
            assert [id(parameter) for parameter in model.parameters()] == identities


def test_the_search_for_garbage_is_on_again() -> None:
    quiet = garbage.uncollected(lambda: None)
    with Interrupted(None, "base/process/garbage.py") as counted:
        quiet()
    for at in range(1, counted.lines):  # Python looks for interrupts after the call in the last line
        with contextlib.suppress(KeyboardInterrupt), Interrupted(at, "base/process/garbage.py"):
            quiet()
        assert gc.isenabled()


@pytest.mark.parametrize("times", [1, 2, 50])
def test_what_is_interrupted_again_and_again_ends_and_raises_then(times: int) -> None:
    done: list[int] = []

    def restore() -> None:
        done.append(1)
        if len(done) <= times:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        insist(restore)
    assert len(done) == times + 1


def test_an_error_is_raised_at_once_and_names_the_interrupt_before_it() -> None:
    raised: list[BaseException] = [KeyError("on purpose"), KeyboardInterrupt()]

    def restore() -> None:
        raise raised.pop()

    with pytest.raises(KeyError) as found:
        insist(restore)
    assert isinstance(found.value.__cause__, KeyboardInterrupt)


def test_what_always_interrupts_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupts, "_PATIENCE", 7)
    done: list[int] = []

    def restore() -> None:
        done.append(1)
        raise SystemExit

    with pytest.raises(SystemExit):
        insist(restore)
    assert len(done) == 7


def test_a_change_that_was_interrupted_is_made_by_the_next_thread() -> None:
    state: list[str] = []

    def make() -> None:
        state.append("half")
        if stops:
            raise stops.pop()
        state.append("whole")

    stops: list[BaseException] = [KeyboardInterrupt()]
    shared = exchange.Shared(make, state.clear)
    with pytest.raises(KeyboardInterrupt), shared.held():
        pass
    assert state == []
    with shared.held():
        assert state == ["half", "whole"]
    assert state == []
