"""Constructors that are given tensors, draw from generators without a seed, print numbers, or use other layouts."""

from __future__ import annotations

import pickle
import random
import re
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import zeta
from tests.helpers.twin import twin
from zeta import RecordingError, Rule, Rules
from zeta.initializers import Ones

GIVEN = torch.arange(12.0).view(4, 3)


class Weight(nn.Module):
    def __init__(self, make: Callable[[], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(make())


UNWRITTEN: dict[str, Callable[[], Tensor]] = {
    "empty_like": lambda: torch.empty_like(GIVEN),
    "new_empty": lambda: GIVEN.new_empty(3, 2),
    "new_empty_strided": lambda: GIVEN.new_empty_strided((3, 2), (1, 3)),
    "new": lambda: GIVEN.new(3, 2),
}


@pytest.mark.parametrize("name", UNWRITTEN)
def test_memory_like_a_given_tensor_has_no_values(name: str) -> None:
    with pytest.raises(RecordingError, match="weight: never gets a value"):
        zeta.record(Weight, UNWRITTEN[name])
    model, plan = zeta.record(Weight, UNWRITTEN[name], fallback=Rules([Rule("weight", Ones())]))
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.weight, torch.ones_like(UNWRITTEN[name]()))


def half() -> Tensor:
    made = GIVEN.new_empty(5, 3)
    made[:4] = GIVEN
    made[4:].normal_()
    return made


def multiplied() -> Tensor:
    return torch.mul(GIVEN, 2, out=torch.empty_like(GIVEN))


def by_numpy() -> Tensor:
    made = torch.empty_like(GIVEN)
    made.numpy()[:] = 5
    return made


def squeezed() -> Tensor:
    made = torch.randn(1, 3, 1, 4)
    torch.Tensor.squeeze_(made, (0, 2))
    return made


WRITTEN: dict[str, Callable[[], Tensor]] = {
    "drawn": lambda: torch.empty_like(GIVEN).normal_(),
    "filled": lambda: GIVEN.new_empty(3).fill_(2),
    "copied": lambda: torch.empty_like(GIVEN).copy_(GIVEN) * 2,
    "in parts": half,
    "out": multiplied,
    "numpy": by_numpy,
    "squeezed": squeezed,
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_is_written_to_it_is_recorded(name: str) -> None:
    outcome = twin(lambda: Weight(WRITTEN[name]))
    assert (outcome.equal, outcome.different) == (["weight"], [])


MATRICES: dict[str, Callable[[Tensor], Tensor]] = {
    "svd": lambda x: torch.linalg.svd(x)[2],
    "a part of svd": lambda x: torch.linalg.svd(x, full_matrices=False)[2][:2],
    "scaled": lambda x: torch.linalg.svd(x)[1][:, None] * torch.linalg.svd(x)[2],
    "svd_lowrank": lambda x: torch.svd_lowrank(x, q=2)[2],
    "eig": lambda x: torch.linalg.eig(x)[1],
}


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("shape", [(4, 4), (2, 3, 3)])
def test_factors_have_the_strides_that_the_constructor_gives_them(name: str, shape: tuple[int, ...]) -> None:
    if name == "scaled" and len(shape) > 2:
        shape = (6, 6)
    outcome = twin(lambda: Weight(lambda: MATRICES[name](torch.randn(shape))))
    assert (outcome.equal, outcome.different) == (["weight"], [])


SPARSE: dict[str, Callable[[], Tensor]] = {
    "coo": lambda: torch.eye(4).to_sparse(),
    "csr": lambda: torch.eye(4).to_sparse_csr(),
    "of a draw": lambda: torch.randn(4, 4).to_sparse(),
    "a product": lambda: torch.sparse.mm(torch.eye(4).to_sparse(), torch.randn(4, 4)),
}


@pytest.mark.parametrize("name", SPARSE)
def test_other_layouts_are_refused_by_line(name: str) -> None:
    message = r"test_from_outside.py:\d+ in .*: programs have no tensors of layout sparse_\w+; register a dense one"
    with pytest.raises(RecordingError, match=message):
        zeta.record(Weight, SPARSE[name])


def test_a_known_number_has_its_format() -> None:
    texts: list[str] = []

    def build() -> nn.Module:
        texts.append(f"{torch.full((3,), 0.5).sum():.3f} {torch.arange(3).sum()}")
        return nn.Linear(2, 2)

    zeta.record(build)
    build()
    assert texts == ["1.500 3"] * 2


def test_a_random_number_has_none() -> None:
    def build() -> nn.Module:
        layer = nn.Linear(2, 2)
        assert "tensor" in f"{layer.weight.std()}"  # no number, and no error
        assert f"{layer.weight.std():.3f}"
        return layer

    with pytest.raises(RecordingError, match="reads a value that depends on random values"):
        zeta.record(build)


def test_a_generator_without_a_seed_is_noticed() -> None:
    def build(seed: int | None) -> nn.Module:
        return Weight(lambda: torch.from_numpy(np.random.default_rng(seed).random(3)))

    message = "the constructor drew random numbers from generators without a seed: what it made of them is kept"
    with pytest.warns(zeta.ZetaNotice, match=re.escape(message)):
        zeta.record(build, None)
    original = np.random.default_rng
    model, plan = zeta.record(build, 3)  # a notice would be an error
    zeta.materialize_(model, plan, seed=0)
    assert torch.equal(model.weight, build(3).weight)
    assert np.random.default_rng is original


@pytest.mark.parametrize(
    ("unseeded", "seeded"),
    [
        (lambda: np.random.RandomState().rand(), lambda: np.random.RandomState(3).rand()),
        (lambda: np.random.RandomState(seed=None).rand(), lambda: np.random.RandomState(seed=3).rand()),
        (lambda: np.random.Generator(np.random.SFC64()).random(),
         lambda: np.random.Generator(np.random.SFC64(3)).random()),
        (lambda: np.random.default_rng(np.random.SeedSequence(pool_size=8)).random(),
         lambda: np.random.default_rng(np.random.SeedSequence(entropy=3, pool_size=8)).random()),
        (lambda: np.random.Generator(np.random.Philox(counter=1)).random(),
         lambda: np.random.Generator(np.random.Philox(seed=None, key=3)).random()),
        (lambda: random.Random().random(), lambda: random.Random(3).random()),
        (lambda: type("Own", (random.Random,), {})().random(), lambda: type("Own", (random.Random,), {})(3).random()),
    ],
    ids=["RandomState", "RandomState(seed=)", "SFC64", "SeedSequence", "Philox", "Random", "a subclass"],
)  # fmt: skip
def test_every_generator_without_a_seed_is_noticed(unseeded: Callable[[], float], seeded: Callable[[], float]) -> None:
    kept = np.random.RandomState, random.Random.__init__
    with pytest.warns(zeta.ZetaNotice, match="from generators without a seed"):
        zeta.record(lambda: Weight(lambda: torch.tensor([unseeded()])))
    model, plan = zeta.record(lambda: Weight(lambda: torch.tensor([seeded()])))  # a notice would be an error
    zeta.materialize_(model, plan, seed=0)
    assert model.weight.item() == torch.tensor(seeded()).item()
    assert kept == (np.random.RandomState, random.Random.__init__)


def test_classes_of_generators_stay_what_they_are_in_a_recording() -> None:
    def build() -> nn.Module:
        made = np.random.RandomState(3)
        assert isinstance(made, np.random.RandomState)
        assert isinstance(np.random.mtrand._rand, np.random.RandomState)
        assert pickle.loads(pickle.dumps(made)).rand() == np.random.RandomState(3).rand()

        class Own(np.random.RandomState):
            pass

        assert issubclass(Own, np.random.RandomState)
        assert not isinstance(made, Own)
        with tempfile.TemporaryDirectory():  # the library's own generator of names has no seed
            pass
        return nn.Linear(1, 1)

    tempfile._get_candidate_names().__dict__.pop("_rng_pid", None)
    zeta.record(build)  # a notice would be an error


@pytest.mark.parametrize("make", [torch.tensor, torch.asarray])
@pytest.mark.parametrize("options", [{}, {"dtype": torch.float32}, {"dtype": torch.uint8}], ids=str)
def test_a_tensor_of_a_storage_has_the_dtype_that_torch_gives_it(make: Any, options: dict[str, Any]) -> None:
    def build() -> nn.Module:
        layer = nn.Module()
        layer.register_buffer("made", make(torch.ones(4).untyped_storage(), **options))
        return layer

    model, plan = zeta.record(build)
    zeta.materialize_(model, plan, seed=0)
    assert model.made.dtype is build().made.dtype
    assert torch.equal(model.made, build().made)
