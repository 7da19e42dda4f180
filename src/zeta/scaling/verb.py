"""The verb ``scale``: compares two sizes of a model, and solves what depends on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from zeta.base.reading import shown
from zeta.errors import LayerTypeError, SpecError
from zeta.resolve.plans import Plan
from zeta.resolve.recording.record import Fallback
from zeta.resolve.scaling.solve import Init, solve
from zeta.rules import Rules
from zeta.scaling.scaling import Scaling


def scale(
    build: Callable[..., nn.Module],
    base: Mapping[str, Any],
    target: Mapping[str, Any],
    how: str = "mup",
    *,
    init: Init | None = None,
    roles: Mapping[str, str] | None = None,
    depth: str | None = None,
    alpha: float = 1.0,
    multipliers: bool = True,
    attention: bool = True,
    head_dim: tuple[int, int] | None = None,
    fallback: Fallback | None = None,
) -> Scaling:
    """Compare two sizes of a model, and return how the larger one is initialized and trained as the smaller one is.

    The models are built on meta. What each argument that differs does is found by trial: it changes widths, or the
    number of blocks, or neither. The law of a parameter in the target is that of the base times the factor of its
    class; so at the base itself nothing changes.

    Args:
        build: a class or function that returns a module.
        base: the arguments of the size that hyperparameters were found for, as ``dict(d_model=256, n_layer=4)``.
        target: those of the size that is trained, with the same names.
        how: ``"mup"`` (Yang et al. 2022, table 8), ``"completep"`` (Dey et al. 2025: muP, and depth),
            ``"megatron-mup"``, ``"spectral"`` (Yang, Simon & Bernstein 2023), ``"umup"`` (Blake et al. 2024, as a
            parametrization: all numbers are those of the target, and the base only says what grows), or ``"sp"``, which
            changes nothing.
        init: what the base starts from, if it is not its constructor: rules, the name of a recipe, a function that
            initializes the model, or a plan of the base.
        roles: globs and classes (``"input"``, ``"hidden"``, ``"output"``, ``"vector"``, ``"fixed"``) of parameters,
            where they do not follow.
        depth: a rule for depth that goes with the scheme for width: ``"deepnorm"`` (for post-norm networks) or
            ``"fixup"``.
        alpha: the depth exponent of completep, from 0.5 to 1.
        multipliers: ``False``: std and learning rates take in what the scheme multiplies in the forward pass. Not
            possible where a table is tied to the read-out.
        attention: ``False``: leave attention alone, as the model divides by the size of heads, and not by its root.
        head_dim: the size of a head in base and target, where it does not follow from an attribute.
        fallback: as for :func:`~zeta.record`.

    Raises:
        SpecError: base and target are equal or name different arguments, or an option is not allowed.
        PlanError: an argument changes the structure, a dimension shrinks, a class or a place for a multiplier does not
            follow, or a law cannot be rescaled. All parameters with a problem are listed.

    >>> from torch import nn
    >>> def build(width):
    ...     return nn.Sequential(nn.Linear(8, width), nn.Linear(width, width), nn.Linear(width, 2))
    >>> scaling = scale(build, dict(width=64), dict(width=256))
    >>> print(scaling["1.weight"].size.group, scaling.plan["1.weight"].initializer, scaling.multipliers[0])
    hidden Uniform(low=-0.0625, high=0.0625) input of 2 x 0.25 (readout)
    """
    if isinstance(build, nn.Module) or not callable(build):
        raise LayerTypeError(f"scale takes a class or a function that builds the model, got {shown(build)}")
    for name, given in (("multipliers", multipliers), ("attention", attention)):
        if not isinstance(given, bool):
            raise SpecError(f"{name} must be True or False, got {shown(given)}")
    if init is not None and not (isinstance(init, Rules | str | Plan) or callable(init)):
        raise SpecError(f"init must be rules, the name of a recipe, a plan or a function, got {shown(init)}")
    return solve(
        Scaling,
        build,
        base,
        target,
        how,
        init=init,
        roles=roles,
        depth=depth,
        alpha=alpha,
        absorb=not multipliers,
        attention=attention,
        head_dim=head_dim,
        fallback=fallback,
    )
