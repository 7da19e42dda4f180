"""Conditions on a parameter: name globs, regular expressions, module types, kinds, shapes, and their combinations."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import nn

from zeta.base.reading import shown
from zeta.base.spelling import did_you_mean
from zeta.errors import SpecError
from zeta.rules.globs import glob_matcher
from zeta.rules.match import Kind, Match, Role


@dataclass(frozen=True)
class Where:
    """A condition on a :class:`Match`, with a label. Combine with ``&``, ``|`` and ``~``."""

    label: str
    test: Callable[[Match], bool] = field(repr=False, compare=False)
    #: the name globs in it, also those that it excludes
    globs: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)
    #: the names of classes of modules in it, likewise
    classes: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)
    #: the roles in it, likewise
    roles: tuple[Role, ...] = field(default=(), repr=False, compare=False, kw_only=True)
    #: whether the test looks at the name, shape, kind and module alone, so that no whole match need be made for it
    brief: bool = field(default=False, repr=False, compare=False, kw_only=True)

    def __call__(self, match: Match) -> bool:
        """Whether ``match`` satisfies the condition."""
        return bool(self.test(match))

    def __and__(self, other: Condition) -> Where:
        right = where(other)
        return _of(f"({self.label} & {right.label})", lambda match: self(match) and right(match), self, right)

    def __or__(self, other: Condition) -> Where:
        right = where(other)
        return _of(f"({self.label} | {right.label})", lambda match: self(match) or right(match), self, right)

    __rand__ = __and__
    __ror__ = __or__

    def __invert__(self) -> Where:
        return _of(f"~{self.label}", lambda match: not self(match), self)


def _of(label: str, test: Callable[[Match], bool], *parts: Where) -> Where:
    """A condition made of others, with the names in them."""
    return Where(
        label,
        test,
        globs=tuple(name for part in parts for name in part.globs),
        classes=tuple(name for part in parts for name in part.classes),
        roles=tuple(role for part in parts for role in part.roles),
        brief=all(part.brief for part in parts),
    )


#: ``nn.Linear | nn.Embedding``, or a tuple: a module of any of these classes
Classes = type[nn.Module] | types.UnionType | tuple[type[nn.Module], ...]
Condition = Where | str | re.Pattern[str] | Classes | Kind | Role | Callable[[Match], bool]


def where(condition: Condition) -> Where:
    """Turn what a rule accepts into a :class:`Where`.

    A string is a name glob, a compiled pattern a regular expression, a module class a module type, as are a union or
    a tuple of them, a :class:`Kind` a kind, a :class:`Role` a role, and any other callable a predicate on the
    :class:`Match`. Raises ``SpecError`` on anything else.
    """
    if isinstance(condition, Where):
        return condition
    if isinstance(condition, Kind):
        return kind(condition)
    if isinstance(condition, Role):
        return role(condition)
    if isinstance(condition, str):
        return glob(condition)
    if isinstance(condition, re.Pattern):
        return regex(condition)
    if isinstance(condition, nn.Module):
        name = type(condition).__name__
        raise SpecError(
            f"a rule's condition is a class of modules, such as nn.{name}, or a name glob, such as 'head.*', and not a "
            f"module: got an instance of {name}"
        )
    if isinstance(condition, list | set | tuple) and condition and all(isinstance(each, str) for each in condition):
        globs = " | ".join([*(f"glob({each!r})" for each in [*condition][:2]), "..."][: len(condition)])
        raise SpecError(f"a rule's condition on several names is one glob, such as '*.{{q,k}}.weight', or {globs}")
    if isinstance(condition, type | tuple) or _is_union(condition):
        return module(condition)
    if callable(condition):
        return Where(getattr(condition, "__name__", shown(condition)), condition)
    raise SpecError(
        "a rule's condition is a name glob, a compiled regular expression, a module class or several "
        "(nn.Linear | nn.Embedding), a Kind or a predicate; with ~, and where two of them are combined, classes and "
        f'globs are wrapped: module(nn.Linear) & ~glob("head.*"); got {shown(condition)}'
    )


def glob(pattern: str) -> Where:
    """Match the whole name: ``*`` any text, dots included, ``?`` one character, ``[0-9]`` one of a set.

    ``{q,k,v}`` is one of several texts and ``{0..11}`` one of several numbers, as the plan's table prints them; braces
    may be in braces, and everything else in them stands for itself. A leading ``*.`` also matches nothing, so that
    ``*.bias`` finds the bias of a model that is a single layer.
    """
    matches = glob_matcher(pattern)
    return Where(pattern, lambda match: matches(match.name), globs=(pattern,), brief=True)


def regex(pattern: str | re.Pattern[str]) -> Where:
    """Match the whole name by a regular expression (``re.fullmatch``)."""
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError, OverflowError, RecursionError) as error:
        raise SpecError(f"not a regular expression: {shown(pattern)} ({error})") from None
    return Where(f"/{compiled.pattern}/", lambda match: compiled.fullmatch(match.name) is not None, brief=True)


def module(module_type: Classes | str) -> Where:
    """Match parameters owned by a module of this class or a subclass; a string is the class's name.

    A union or a tuple of classes is one of them: ``module(nn.Linear | nn.Embedding)``.
    """
    if isinstance(module_type, str):
        return Where(
            f"module {module_type}",
            lambda match: module_type in class_names(match.module),
            classes=(module_type,),
            brief=True,
        )
    classes = _classes(module_type)
    if not classes or not all(isinstance(one, type) and issubclass(one, nn.Module) for one in classes):
        raise SpecError(
            "module() needs a subclass of torch.nn.Module, several (nn.Linear | nn.Embedding) or the name of one, got "
            f"{shown(module_type)}"
        )
    names = "|".join(one.__name__ for one in classes)
    return Where(f"module {names}", lambda match: isinstance(match.module, classes), brief=True)


def class_names(owner: nn.Module) -> set[str]:
    """The names of a module's class and of those that it is derived from."""
    return {cls.__name__ for cls in type(owner).__mro__}


def _is_union(value: object) -> typing.TypeGuard[types.UnionType]:
    return typing.get_origin(value) in (types.UnionType, typing.Union)


def _classes(given: object) -> tuple[typing.Any, ...]:
    """The members of a union or a tuple; of anything else, itself."""
    if isinstance(given, tuple):
        return given
    return typing.get_args(given) if _is_union(given) else (given,)


def kind(name: Kind | str) -> Where:
    """Match parameters of a kind: weight, bias, norm_scale, embedding, parametrization, other, buffer."""
    if name not in list(Kind):
        raise SpecError(f"unknown kind {shown(name)}: expected one of {', '.join(Kind)}{did_you_mean(name, Kind)}")
    wanted = Kind(name)
    return Where(f"kind {wanted.value}", lambda match: match.kind is wanted, brief=True)


def role(name: Role | str, *, bias: bool = False) -> Where:
    """Match the weights that have a role: attention_output, mlp_down, readout, router, embedding, adapter_b and others.

    ``bias=True``: the biases of these layers, and not their weights. The roles of a model are found by the names that
    libraries use and by the weights beside each other; ``zeta.roles_of(model)`` shows them.
    """
    if name not in list(Role):
        from zeta.rules.role_names import roles_by_name  # here, because it is for a message

        known = [repr(each.value) for each in roles_by_name(name)] if isinstance(name, str) else []
        close = f"; did you mean {' or '.join(known)}?" if known else did_you_mean(name, Role)
        raise SpecError(f"unknown role {shown(name)}: expected one of {', '.join(Role)}{close}")
    wanted = Role(name)
    return Where(
        f"role {wanted.value}{' (bias)' if bias else ''}",
        lambda match: (match.kind is Kind.BIAS) is bias and match.role is wanted,
        roles=(wanted,),
    )


def shape(*extents: int | None) -> Where:
    """Match an exact shape; ``None`` stands for any extent. ``shape(None, 768)`` is a matrix with 768 columns."""
    if any(extent is not None and (isinstance(extent, bool) or not isinstance(extent, int)) for extent in extents):
        raise SpecError(f"shape() takes numbers and None, got {shown(extents)}")
    label = ", ".join("*" if extent is None else str(extent) for extent in extents)

    def test(match: Match) -> bool:
        return len(match.shape) == len(extents) and all(
            wanted is None or wanted == extent for wanted, extent in zip(extents, match.shape, strict=True)
        )

    return Where(f"shape ({label})", test, brief=True)


def ndim(number: int) -> Where:
    """Match tensors with this number of dimensions."""
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise SpecError(f"ndim() needs a number of dimensions, got {shown(number)}")
    return Where(f"ndim {number}", lambda match: len(match.shape) == number, brief=True)
