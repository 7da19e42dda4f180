"""A layer by its name in a model, and the notice about loops in which layers get the same values."""

from __future__ import annotations

import gc
import inspect
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import zeta
from zeta import utils
from zeta.utils import init_constant_, init_identity_, init_normal_, init_uniform_, init_zero_


@pytest.fixture(autouse=True)
def own_rng() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def parameters_of(name: str) -> set[str]:
    return set(inspect.signature(getattr(utils, name)).parameters)


RANDOM = sorted(name for name in utils.__all__ if "seed" in parameters_of(name))


def draw(function: str, layer: Any, **keywords: Any) -> Any:
    return getattr(utils, function)(layer, *((0.5,) if function == "init_sparse_" else ()), **keywords)


def network() -> nn.Sequential:
    block = nn.Sequential(nn.Conv1d(4, 4, 3), nn.BatchNorm1d(4), nn.PReLU(), nn.GRU(4, 4))
    weight_norm = parametrizations.weight_norm(nn.Linear(4, 4))
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), block, weight_norm)


# -- names -------------------------------------------------------------------------------------------------------------


def test_every_random_function_takes_a_name() -> None:
    assert len(RANDOM) == 12
    assert all("name" in parameters_of(name) for name in RANDOM)


@pytest.mark.parametrize("function", RANDOM)
def test_a_loop_with_names_gives_what_one_call_gives(function: str) -> None:
    whole = draw(function, network(), seed=8)
    children, leaves = network(), network()
    for name, layer in children.named_children():
        assert draw(function, layer, seed=8, name=name) is layer
    for name in ("0", "2", "3.0", "3.1", "3.2", "3.3", "4"):
        draw(function, leaves.get_submodule(name), seed=8, name=name)
    for parts in (children, leaves):
        state = parts.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert not torch.equal(whole[0].weight, whole[2].weight)


def test_a_part_of_a_part_and_names_that_are_none() -> None:
    whole = init_normal_(nn.ModuleDict({"h": nn.ModuleList([network(), network()])}), seed=1)
    part = init_normal_(network(), seed=1, name="h.1")
    assert torch.equal(part[3][0].weight, whole["h"][1][3][0].weight)  # type: ignore[index]
    alone = init_normal_(network(), seed=1)
    assert torch.equal(init_normal_(network(), seed=1, name="")[0].weight, alone[0].weight)
    layer, state = network(), torch.get_rng_state()
    with pytest.raises(zeta.SpecError, match=r"name must be a text, such as 'layers\.0', got 3"):
        init_normal_(layer, name=3)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), state)


def test_an_error_has_the_name_in_the_model() -> None:
    layer = nn.Linear(3, 3)
    layer.bias = nn.Parameter(layer.weight.detach()[0])
    with pytest.raises(zeta.TargetError, match=r"h\.1\.bias: shares the memory of h\.1\.weight|h\.1\.weight: shares"):
        init_normal_(layer, seed=0, name="h.1")


def test_in_a_recording_the_name_is_that_of_the_parameter() -> None:
    def build(name: str | None) -> nn.Module:
        return nn.Sequential(init_normal_(nn.Linear(3, 3), seed=1, name=name))

    assert zeta.record(build, "elsewhere")[1] == zeta.record(build, None)[1]


# -- the notice --------------------------------------------------------------------------------------------------------


def notices(call: Callable[[], Any]) -> list[warnings.WarningMessage]:
    init_normal_(nn.Linear(1, 1), seed=2**64 - 1)  # the last call of another test does not count
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return caught


def test_a_loop_with_one_seed_gives_one_notice() -> None:
    model = nn.Sequential(*(layer for _ in range(5) for layer in (nn.Linear(4, 4), nn.ReLU())))

    def loop(**keywords: Any) -> None:
        for layer in model:
            init_normal_(layer, seed=0, **keywords)

    [notice] = notices(loop)
    assert torch.equal(model[0].weight, model[2].weight)
    assert notice.category is zeta.ZetaNotice
    assert notice.filename == __file__, "the line that called the function"
    assert "seed 0 gave two layers in a row the same values of weight 4 x 4" in str(notice.message)
    assert "name=" in str(notice.message)
    assert len(notices(lambda: (loop(), init_normal_(nn.Linear(2, 2), seed=3), loop()))) == 2
    assert notices(lambda: loop(name="")) == []
    assert notices(lambda: [init_normal_(layer, seed=0, name=name) for name, layer in model.named_children()]) == []
    assert notices(lambda: init_normal_(model, seed=0)) == []


@pytest.mark.parametrize("function", RANDOM)
def test_every_random_function_gives_it(function: str) -> None:
    layers = [nn.Linear(4, 4), nn.Linear(4, 4)]
    assert len(notices(lambda: [draw(function, layer, seed=0) for layer in layers])) == 1


def test_what_gives_none() -> None:
    layer, same, wide, other = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 8), nn.Module()
    other.kernel = nn.Parameter(torch.empty(4, 4))
    calls: dict[str, Callable[[], Any]] = {
        "the same layer": lambda: [init_normal_(each, seed=0) for each in (layer, layer)],
        "another shape": lambda: [init_normal_(each, seed=0) for each in (layer, wide)],
        "another name": lambda: [init_normal_(each, seed=0) for each in (layer, other)],
        "another seed": lambda: [init_normal_(each, seed=n) for n, each in enumerate((layer, same))],
        "not in a row": lambda: [init_normal_(each, seed=0) for each in (layer, wide, same)],
        "torch's generator": lambda: [init_normal_(each) for each in (layer, same)],
        "a generator": lambda: [init_normal_(e, generator=torch.Generator().manual_seed(1)) for e in (layer, same)],
        "zeros": lambda: [init_zero_(each) for each in (layer, same)],
        "constants": lambda: [init_constant_(each, 0.5) for each in (layer, same)],
        "identity": lambda: [init_identity_(each) for each in (layer, same)],
        "a layer that is gone": lambda: [init_normal_(nn.Linear(4, 4), seed=0).weight.sum().item() for _ in range(3)],
        "a recording": lambda: zeta.record(lambda: nn.Sequential(*(init_normal_(nn.Linear(4, 4), seed=0),) * 2)),
        "an error": lambda: [refused(each) for each in (layer, same)],
    }
    for what, call in calls.items():
        assert [str(notice.message) for notice in notices(call)] == [], what
    assert len(notices(lambda: (init_normal_(layer, seed=0), init_uniform_(same, seed=0)))) == 1, "the same bits"
    assert len(notices(lambda: (init_normal_(layer, seed=0), init_zero_(wide), init_normal_(same, seed=0)))) == 1


def refused(layer: nn.Linear) -> None:
    with pytest.raises(zeta.SpecError):
        init_normal_(layer, seed=-1)


def test_no_module_is_kept_alive() -> None:
    layer = init_normal_(nn.Linear(2, 2), seed=0)
    gone = weakref.ref(layer)
    del layer
    gc.collect()
    assert gone() is None


def test_each_thread_has_its_own_row() -> None:
    layers = [nn.Linear(4, 4) for _ in range(8)]

    def call() -> None:
        threads = [threading.Thread(target=init_normal_, args=(layer,), kwargs={"seed": 0}) for layer in layers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert notices(call) == []


def test_as_an_error_it_comes_after_the_write() -> None:
    first, second = nn.Linear(4, 4), nn.Linear(4, 4)
    init_normal_(first, seed=12)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(zeta.ZetaNotice):
            init_normal_(second, seed=12)
    assert torch.equal(first.weight, second.weight)


# -- tensors -----------------------------------------------------------------------------------------------------------


def fill(tensor: torch.Tensor, seed: int | None = 0, **keywords: Any) -> torch.Tensor:
    return zeta.fill_(tensor, zeta.initializers.Normal(), seed, **keywords)


def test_two_tensors_with_one_seed_and_no_name() -> None:
    first, second, rows = torch.empty(4), torch.empty(4), torch.empty(3, 4)
    [notice] = notices(lambda: [fill(first), fill(second)])
    assert torch.equal(first, second)
    assert "seed 0 gave two tensors in a row the same values of 4: the name is the same too" in str(notice.message)
    assert notice.filename == __file__
    assert len(notices(lambda: [fill(row) for row in rows])) == 1, "parts of one memory, once for the loop"
    assert len(notices(lambda: [fill(nn.Parameter(first)), fill(second)])) == 1


def test_tensors_that_give_none() -> None:
    first, second, wide = torch.empty(4), torch.empty(4), torch.empty(5)
    assert notices(lambda: [fill(first), fill(first)]) == []
    assert notices(lambda: [fill(first), fill(first.data)]) == [], "the same memory"
    assert notices(lambda: [fill(first), fill(wide)]) == []
    assert notices(lambda: [fill(first, 0), fill(second, 1)]) == []
    assert notices(lambda: [fill(first, None), fill(second, None)]) == []
    assert notices(lambda: [fill(each, name="") for each in (first, second)]) == []
    assert notices(lambda: [fill(first, name="a"), fill(second, name="b")]) == []
    assert notices(lambda: [fill(torch.empty(4)).sum(), fill(torch.empty(4)).sum()]) == [], "the other one is gone"
    assert notices(lambda: [zeta.fill_(each, zeta.initializers.Ones(), 0) for each in (first, second)]) == []


def test_a_filled_tensor_can_be_swapped_and_freed() -> None:
    first, second = nn.Parameter(torch.empty(4)), nn.Parameter(torch.zeros(4))
    fill(first)
    torch.utils.swap_tensors(first, second)
    assert not first.any()
    memory = weakref.ref(second)
    del second
    gc.collect()
    assert memory() is None
