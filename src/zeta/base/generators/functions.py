"""torch's functions that read, set and seed its generators, redirected to private generators for one thread.

Checkpointed layers call them, and constructors that seed. They may have been imported under any name, so the code of
the functions themselves is replaced (``__code__``); in other threads the new code does what the original does. Needed
until these functions can be intercepted by a mode, as operations can.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import CodeType
from typing import Any, Final

import torch

from zeta.base.generators.private import Private, here
from zeta.base.process.exchange import Exchanged

_CPU: Final = torch.device("cpu")
_CUDA: Final = torch.device("cuda")


@contextlib.contextmanager
def apart(seed: int | None) -> Iterator[None]:
    """Let this thread draw from private generators in the block; torch's do not move, other threads see no change.

    Args:
        seed: the seed of the private generators; ``None``: they start from the present state of torch's.
    """
    with FUNCTIONS.held(), Private(seed):
        yield


def answered(name: str, *args: Any) -> Any:
    """Do what torch's function ``name`` does, to this thread's private generators if there are any, else to torch's."""
    private = here()
    return FUNCTIONS.originals[name](*args) if private is None else _ANSWERS[name](private, *args)


def _seeded(private: Private, seed: int) -> torch.Generator:
    private.seed_again(int(seed))
    return private.generator(_CPU)


def _seeded_anew(private: Private) -> int:
    seed = torch.Generator(_CPU).seed()
    private.seed_again(seed)
    return seed


def _on_cuda(device: Any) -> torch.device:
    return torch.device("cuda", device) if isinstance(device, int) else torch.device(device)


def _cuda_seeded_anew(private: Private) -> None:
    private.seed_again(torch.Generator(_CPU).seed(), "cuda")


_ANSWERS: Final[dict[str, Callable[..., Any]]] = {
    "get_rng_state": lambda private: private.generator(_CPU).get_state(),
    "set_rng_state": lambda private, state: private.generator(_CPU).set_state(state),
    "manual_seed": _seeded,
    "seed": _seeded_anew,
    "initial_seed": lambda private: private.generator(_CPU).initial_seed(),
    "cuda.get_rng_state": lambda private, device: private.generator(_on_cuda(device)).get_state(),
    "cuda.set_rng_state": lambda private, state, device: private.generator(_on_cuda(device)).set_state(state),
    "cuda.manual_seed": lambda private, seed: private.generator(_CUDA).manual_seed(int(seed)),
    "cuda.manual_seed_all": lambda private, seed: private.seed_again(int(seed), "cuda"),
    "cuda.seed": lambda private: private.generator(_CUDA).seed(),
    "cuda.seed_all": _cuda_seeded_anew,
    "cuda.initial_seed": lambda private: private.generator(_CUDA).initial_seed(),
}


# This code runs with the globals of torch's modules, so it must import zeta's names itself.
def _code_of_get_rng_state():  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("get_rng_state")


def _code_of_set_rng_state(new_state):  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("set_rng_state", new_state)


def _code_of_manual_seed(seed):  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("manual_seed", seed)


def _code_of_seed():  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("seed")


def _code_of_initial_seed():  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("initial_seed")


def _code_of_cuda_get_rng_state(device="cuda"):  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("cuda.get_rng_state", device)


def _code_of_cuda_set_rng_state(new_state, device="cuda"):  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("cuda.set_rng_state", new_state, device)


def _code_of_cuda_manual_seed(seed):  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("cuda.manual_seed", seed)


def _code_of_cuda_manual_seed_all(seed):  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("cuda.manual_seed_all", seed)


def _code_of_cuda_seed():  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("cuda.seed")


def _code_of_cuda_seed_all():  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("cuda.seed_all")


def _code_of_cuda_initial_seed():  # type: ignore[no-untyped-def]
    from zeta.base.generators.functions import answered

    return answered("cuda.initial_seed")


_CODES: Final[dict[str, CodeType]] = {
    "get_rng_state": _code_of_get_rng_state.__code__,
    "set_rng_state": _code_of_set_rng_state.__code__,
    "manual_seed": _code_of_manual_seed.__code__,
    "seed": _code_of_seed.__code__,
    "initial_seed": _code_of_initial_seed.__code__,
    "cuda.get_rng_state": _code_of_cuda_get_rng_state.__code__,
    "cuda.set_rng_state": _code_of_cuda_set_rng_state.__code__,
    "cuda.manual_seed": _code_of_cuda_manual_seed.__code__,
    "cuda.manual_seed_all": _code_of_cuda_manual_seed_all.__code__,
    "cuda.seed": _code_of_cuda_seed.__code__,
    "cuda.seed_all": _code_of_cuda_seed_all.__code__,
    "cuda.initial_seed": _code_of_cuda_initial_seed.__code__,
}


def _function(name: str) -> Any:
    return getattr(torch.cuda.random if name.startswith("cuda.") else torch.random, name.removeprefix("cuda."))


#: entered while any thread draws from private generators
FUNCTIONS: Final = Exchanged({name: _function(name) for name in _CODES}, _CODES)
