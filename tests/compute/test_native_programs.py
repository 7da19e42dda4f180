"""What takes long or another processor: every word there is, and the kernels for ARM in an emulator."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from numpy.typing import NDArray

from tests.helpers.kernel_tasks import FLOATS, LAWS, assert_same, tasks
from tests.helpers.programs import ARM, HERE, Programs, Remote
from tests.helpers.sweep import RUN, spread_runs
from zeta.compute.stream import kernels
from zeta.compute.stream.kernels import Law, Task, answers
from zeta.compute.stream.random import interval, normal32
from zeta.compute.stream.regions import Region

HALVES: Final = (range(0, 2**31, RUN), range(2**31, 2**32, RUN))
STANDARD: Final = Law(kind="normal", dtype=torch.float32, within=interval())
CUT: Final = Law(kind="normal", dtype=torch.float32, scale=1.0, within=interval(-2.0, 3.0))

neon = Remote(ARM, "neon")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The reference's short operations wait for each other where threads must share processors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def differing(programs: Programs, isas: Iterable[str], law: Law, starts: Iterable[int]) -> tuple[int, dict[str, int]]:
    """How many words were looked at, and of how many an instruction set makes another number than the reference."""
    assert law.within is not None
    words, wrong = 0, dict.fromkeys(isas, 0)
    with contextlib.ExitStack() as stack:
        ask = {isa: stack.enter_context(programs.quantiles(isa, law)) for isa in wrong}
        for start in starts:
            expected = normal32(torch.arange(start, start + RUN), law.within).float().numpy()
            for isa, quantiles in ask.items():
                wrong[isa] += int((quantiles(start, RUN).view(np.uint32) != expected.view(np.uint32)).sum())
            words += RUN
    return words, wrong


@pytest.mark.slow
@pytest.mark.parametrize("half", HALVES, ids=["lower", "upper"])
def test_every_word_has_the_same_normal_value_from_every_instruction_set(half: range) -> None:
    isas = HERE.isas()
    assert differing(HERE, isas, STANDARD, half) == (2**31, dict.fromkeys(isas, 0))


@pytest.mark.slow
def test_spread_words_have_the_same_truncated_values_from_every_instruction_set() -> None:
    isas = HERE.isas()
    runs = [half + start for start in spread_runs(8) for half in (0, -(2**31))]
    assert differing(HERE, isas, CUT, runs)[1] == dict.fromkeys(isas, 0)


@pytest.mark.slow
def test_of_the_comparison_that_it_sees_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.helpers.programs import Words

    honest: Callable[[Words, int, int], NDArray[np.float32]] = Words.__call__

    def flawed(self: Words, start: int, count: int) -> NDArray[np.float32]:
        values = honest(self, start, count).copy()
        values[77] = np.nextafter(values[77], np.float32(9))
        return values

    monkeypatch.setattr(Words, "__call__", flawed)
    assert differing(HERE, ["portable"], STANDARD, [0, RUN]) == (2 * RUN, {"portable": 2})


# -- NEON --------------------------------------------------------------------------------------------------------------


@pytest.mark.arm
def test_neon_is_what_runs() -> None:
    assert ARM.isas() == ["neon", "portable"]


@pytest.mark.arm
def test_neon_gives_the_known_answers() -> None:
    assert answers.wrong_answers(neon.fill, kernels.REFERENCE.dtypes, "cpu") == []
    assert answers.wrong_sums(neon.measure) == []


@pytest.mark.arm
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", LAWS)
def test_neon_gives_the_bits_of_the_reference(name: str, dtype: torch.dtype) -> None:
    law = LAWS[name](dtype)
    region = Region(shape=(2**40,), offsets=(2**34 - 777,), sizes=(3000,))
    out = torch.zeros(3000, dtype=law.dtype)
    assert_same(Task(law=law, keys=(0x299F31D0A4093822,), draw=2**40 + 5, region=region, outs=(out,)), neon.fill)


@pytest.mark.arm
@settings(max_examples=150)
@given(task=tasks())
def test_neon_fills_any_region_in_any_memory(task: Task) -> None:
    assert_same(task, neon.fill)


@pytest.mark.arm
def test_neon_on_several_threads() -> None:
    law, size = LAWS["normal"](torch.float32), 700_001
    region = Region(shape=(2**40,), offsets=(12345,), sizes=(size,))
    assert_same(Task(law=law, keys=(1,), draw=0, region=region, outs=(torch.zeros(size),)), neon.fill)


@pytest.mark.arm
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_neon_measures_what_the_best_backend_measures(dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 5, 3 * 1001, dtype=torch.float64).to(dtype).view(3, 1001)
    best = kernels.backend().measure
    if best is None:
        pytest.skip("no kernels on this processor to compare with")
    for view in (values, values.t(), values[:, ::3], values[:0]):
        assert neon.measure([view], [0.25])[0] == pytest.approx(best([view], [0.25])[0], rel=1e-12)


@pytest.mark.arm
def test_spread_words_have_the_same_values_from_neon() -> None:
    runs = [half + start for start in spread_runs(8) for half in (0, -(2**31))]
    for law in (STANDARD, CUT):
        words, wrong = differing(ARM, ["neon", "portable"], law, runs)
        assert words > 2**23
        assert wrong == {"neon": 0, "portable": 0}
