"""Which seed a call draws with: the one that was given, or one that a generator draws."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zeta.base.distributed import any_sharded, is_sharded
from zeta.base.modules import modules_of
from zeta.base.reading import shown
from zeta.compute.stream.random import check_seed, draw_seed
from zeta.errors import SpecError
from zeta.write.guards import recording_here


def seed_of(target: nn.Module | Tensor, generator: torch.Generator | None = None) -> int:
    """Draw a seed for a model or a tensor, from torch's global generator by default.

    Raises ``SpecError`` for what several processes have parts of, as they draw independently of each other.
    """
    if generator is None and _is_of_several(target):
        raise SpecError(
            "no seed was given, and each process of a sharded or data-parallel model may draw another from its "
            "global generator; give all of them the same number, as in seed=0"
        )
    return draw_seed(generator)


def _is_of_several(target: nn.Module | Tensor) -> bool:
    if isinstance(target, Tensor):
        return is_sharded(target)
    is_module = isinstance(target, nn.Module)  # anything else is refused later
    for module in modules_of(target) if is_module else ():
        if isinstance(module, nn.parallel.DistributedDataParallel):
            return True
    return is_module and any_sharded(target)


def chosen_seed(target: nn.Module | Tensor, generator: torch.Generator | None, seed: int | None) -> int:
    """The seed for ``generator=`` and ``seed=``; in a recording, where no seed has an effect, nothing is drawn."""
    if generator is not None and seed is not None:
        raise SpecError("give generator= or seed=, not both")
    if seed is not None:
        return check_seed(seed)
    return 0 if recording_here() is not None else seed_of(target, generator)


def check_name(name: object, example: str) -> None:
    """Raise ``SpecError`` if ``name`` cannot be a name in a model."""
    if not isinstance(name, str):
        raise SpecError(f"name must be a text, such as {example!r}, got {shown(name)}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise SpecError(f"name must be valid Unicode, got {shown(name)}") from None
