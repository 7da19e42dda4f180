"""Random numbers apart: the values that a seed gives, and no trace in the generators that all threads share."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from random import random as taken
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zeta.base.generators import apart, foreign_apart

DRAWS: dict[str, Callable[[], Tensor]] = {
    "rand": lambda: torch.rand(5),
    "randn": lambda: torch.randn(5, dtype=torch.float64),
    "randint": lambda: torch.randint(9, (5,)),
    "randint low": lambda: torch.randint(-5, 9, (5,)),
    "randperm": lambda: torch.randperm(7),
    "rand_like": lambda: torch.rand_like(torch.zeros(5)),
    "randn_like": lambda: torch.randn_like(torch.zeros(5)),
    "randint_like": lambda: torch.randint_like(torch.zeros(5), 9),
    "randint_like low": lambda: torch.randint_like(torch.zeros(5), 3, 9),
    "normal": lambda: torch.normal(torch.zeros(5), 2.0),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(9), 4),
    "poisson": lambda: torch.poisson(torch.full((9,), 3.0)),
    "in place": lambda: torch.zeros(5).uniform_().normal_().exponential_(),
    "random_ without an end": lambda: torch.zeros(5, dtype=torch.int64).random_(3, None),
    "poisson, named": lambda: torch.poisson(torch.full((9,), 3.0), generator=None),
    "out": lambda: torch.rand(5, out=torch.zeros(5)),
    "dropout": lambda: F.dropout(torch.ones(20), 0.5),
    "native dropout": lambda: torch.native_dropout(torch.ones(20), 0.5, True)[0],
    "native dropout, all": lambda: torch.native_dropout(torch.ones(20), 1.0, True)[0],
    "alpha dropout": lambda: F.alpha_dropout(torch.ones(20), 0.5, training=True),
    "rrelu": lambda: F.rrelu(-torch.ones(20), training=True),
    "lstm": lambda: nn.LSTM(3, 3, 2, dropout=0.5)(torch.ones(4, 3))[0],
    "attention": lambda: F.scaled_dot_product_attention(*torch.ones(3, 1, 1, 8, 8), dropout_p=0.5),
    "gumbel": lambda: F.gumbel_softmax(torch.zeros(5)),
    "pool": lambda: F.fractional_max_pool2d(torch.arange(64.0).view(1, 8, 8), 2, output_size=3),
    "dirichlet": lambda: torch.distributions.Dirichlet(torch.ones(4)).sample(),
    "init": lambda: nn.init.trunc_normal_(torch.empty(20)),
    "layer": lambda: nn.Linear(3, 3).weight,
    "seeded": lambda: (torch.manual_seed(7), torch.rand(5))[1],
    "state": lambda: (torch.set_rng_state(torch.Generator().manual_seed(3).get_state()), torch.rand(5))[1],
    "initial seed": lambda: torch.tensor(torch.initial_seed()),
}


def eagerly(draw: Callable[[], Tensor], seed: int) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return draw()


@pytest.mark.keeps_rng
@pytest.mark.parametrize("name", DRAWS)
def test_the_values_are_those_of_the_seed(name: str) -> None:
    expected = eagerly(DRAWS[name], 5)
    with apart(5):
        found = DRAWS[name]()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.keeps_rng
def test_without_a_seed_the_state_is_that_of_torch() -> None:
    with torch.random.fork_rng(devices=[]):
        expected = torch.rand(5)
    with apart(None):
        assert torch.equal(torch.rand(5), expected)


@pytest.mark.keeps_rng
def test_blocks_inside_blocks() -> None:
    first, second = eagerly(lambda: torch.rand(4), 1), eagerly(lambda: torch.rand(2), 2)
    with apart(1):
        begin = torch.rand(2)
        with apart(2):
            assert torch.equal(torch.rand(2), second)
        assert torch.equal(torch.cat([begin, torch.rand(2)]), first)


@pytest.mark.keeps_rng
def test_a_generator_that_is_given_is_used() -> None:
    expected = torch.rand(3, generator=torch.Generator().manual_seed(9))
    with apart(0):
        assert torch.equal(torch.rand(3, generator=torch.Generator().manual_seed(9)), expected)
        assert torch.equal(torch.rand(3), eagerly(lambda: torch.rand(3), 0))


@pytest.mark.keeps_rng
def test_a_generator_in_its_place_among_the_arguments() -> None:
    operation, noise = torch.ops.aten.rrelu_with_noise.default, torch.zeros(9)
    given = operation(-torch.ones(9), noise, 0.1, 0.9, True, torch.Generator().manual_seed(4))
    with apart(4):
        assert torch.equal(operation(-torch.ones(9), noise, 0.1, 0.9, True, None), given)
        assert torch.equal(operation(-torch.ones(9), noise, 0.1, 0.9, True, torch.Generator().manual_seed(4)), given)


@pytest.mark.keeps_rng
def test_seeding_anew_differs_each_time() -> None:
    with apart(0):
        seeds = {torch.seed() for _ in range(3)}
        assert len(seeds) == 3
        with torch.random.fork_rng(devices=[]):
            begin = torch.rand(2)
        assert torch.equal(torch.rand(2), begin)


@pytest.mark.keeps_rng
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_draw_the_same_again(reentrant: bool) -> None:
    def gradient(run: Callable[..., Any]) -> Tensor:
        with apart(4):
            x = torch.ones(50, requires_grad=True)
            run(lambda x: F.dropout(x, 0.5) * torch.rand_like(x), x).sum().backward()
        assert x.grad is not None
        return x.grad

    expected = gradient(lambda function, x: function(x))
    assert torch.equal(gradient(lambda function, x: checkpoint(function, x, use_reentrant=reentrant)), expected)


@pytest.mark.keeps_rng
def test_the_mask_of_dropout_goes_back() -> None:
    with apart(0):
        x = torch.ones(50, requires_grad=True)
        y, mask = torch.native_dropout(x, 0.5, True)
        y.sum().backward()
        assert torch.equal(torch.native_dropout(x, 0.5, False)[0], x)
    assert x.grad is not None
    assert torch.equal(x.grad, mask * 2.0)


@pytest.mark.keeps_rng
def test_a_block_that_raises_leaves_nothing_behind() -> None:
    def fail() -> None:
        torch.rand(3), random.random(), np.random.rand()
        raise KeyError

    with pytest.raises(KeyError), apart(0), foreign_apart():
        fail()
    assert torch.random.get_rng_state.__code__.co_filename.endswith("random.py")
    assert random.random.__self__ is random._inst  # type: ignore[attr-defined]


def test_nothing_on_meta_is_drawn() -> None:
    with apart(0):
        assert torch.rand(3, device="meta").is_meta
        assert torch.equal(torch.rand(3), eagerly(lambda: torch.rand(3), 0))


# -- Python's and NumPy's ----------------------------------------------------------------------------------------------

FOREIGN: dict[str, Callable[[], Any]] = {
    "random": lambda: [random.random(), random.choice(range(100)), random.gauss(0, 1)],
    "random seeded": lambda: (random.seed(3), random.random())[1],
    "random state": lambda: (random.setstate(random.Random(4).getstate()), random.randint(0, 999))[1],
    "numpy": lambda: [np.random.rand(), *np.random.permutation(5), np.random.normal()],
    "numpy seeded": lambda: (np.random.seed(3), np.random.rand())[1],
}


@pytest.mark.keeps_rng
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_generators_go_on_apart(name: str) -> None:
    before = random.getstate(), np.random.get_state()
    expected = FOREIGN[name]()
    random.setstate(before[0]), np.random.set_state(before[1])
    with foreign_apart() as drawn:
        assert FOREIGN[name]() == expected
    assert drawn() == ["Python's random" if name.startswith("random") else "numpy.random"]


@pytest.mark.keeps_rng
def test_functions_that_were_taken_out_are_undone_where_no_other_thread_draws() -> None:
    before, others = random.getstate(), threading.active_count() > 1
    with foreign_apart() as drawn:
        taken()
    if others:  # of an earlier test; where one may draw, nothing is undone
        random.setstate(before)
    assert drawn() == ([] if others else ["Python's random"])
    with foreign_apart() as drawn:
        pass
    assert drawn() == []
