"""What each argument of a model's constructor does, found by trial on meta: width, depth, or neither."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, Final

from zeta.base.reading import shown
from zeta.base.text import shape_text
from zeta.errors import PlanError, SpecError, listed
from zeta.resolve.recording.record import Fallback
from zeta.resolve.scaling.alignment import Aligned, aligned
from zeta.resolve.scaling.built import Built, built
from zeta.resolve.scaling.classes import Compared


class Effect(StrEnum):
    """What a change of an argument does to the parameters."""

    NONE = "none"
    WIDTH = "width"  # shapes change
    DEPTH = "depth"  # lists of blocks become longer
    EXPERTS = "experts"  # lists of experts do, and what scores them


class Sizes(Compared, frozen=True, kw_only=True, eq=False):
    """Sizes that are built on meta. ``effects`` has what each argument that differs between base and target does."""

    base: Built
    reference: Built
    target: Built
    effects: Mapping[str, Effect]


#: arguments that one which cannot change alone is tried with, before all are
_MOST_TOGETHER: Final = 2
_SAY: Final = "give build(...) arguments that change widths, and others that change the number of blocks"


def sizes_of(
    build: Callable[..., Any], base: Mapping[str, Any], target: Mapping[str, Any], fallback: Fallback | None
) -> Sizes:
    """Build the models of both sizes, and find out what the arguments between them do.

    Raises:
        SpecError: arguments that are no mapping of the same names, or do not differ.
        PlanError: nothing grows, something shrinks, or the structure changes in another way than by longer lists.
    """
    check_arguments(base, target)
    differing = [name for name in base if not _same(base[name], target[name])]
    if not differing:
        raise SpecError("base and target are equal: there is nothing to scale; leave zeta.scale out, or change target")
    small, large = built(build, base, fallback), built(build, target, fallback)
    trials = _Trials(build, base, target, fallback, small, large)
    effects = trials.effects(differing)
    longer = (Effect.DEPTH, Effect.EXPERTS)
    deep = [name for name in differing if effects[name] in longer]
    wide = [name for name in differing if effects[name] is Effect.WIDTH]
    if not deep and not wide:
        names = ", ".join(differing)
        raise PlanError(f"there is nothing to scale: {names} changes no parameter's name or shape")
    reference = small if not deep else large if not wide else trials.middle(deep, wide)
    _check_structure(reference, large, wide)
    source = _aligned(small, reference, loosely=Effect.EXPERTS in effects.values())
    if source is None:
        raise PlanError(
            f"{', '.join(deep)} changes the structure of the model in another way than by longer lists of equal "
            f"blocks; {_SAY}"
        )
    return Sizes(base=small, reference=reference, target=large, effects=effects, source=source)


def check_arguments(base: Mapping[str, Any], target: Mapping[str, Any]) -> None:
    """Raise ``SpecError`` if base and target are not mappings of the same names."""
    for name, given in (("base", base), ("target", target)):
        if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
            raise SpecError(f"{name} must be a mapping of arguments of build, as dict(d_model=256), got {shown(given)}")
    if odd := sorted({*base} ^ {*target}):
        raise SpecError(f"base and target must name the same arguments; only one of them has {', '.join(odd)}")


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except Exception:  # an array, or a class with an equality of its own
        return False


class _Trials:
    """Changes arguments of the base, and looks at what became of its parameters."""

    def __init__(
        self,
        build: Callable[..., Any],
        base: Mapping[str, Any],
        target: Mapping[str, Any],
        fallback: Fallback | None,
        small: Built,
        large: Built,
    ) -> None:
        self._build, self._base, self._target, self._fallback = build, base, target, fallback
        self._small, self._large = small, large
        self._failed: dict[str, str] = {}
        self._known: dict[frozenset[str], Built | None] = {}

    def effects(self, differing: Sequence[str]) -> dict[str, Effect]:
        """What each argument does; one that cannot change alone is changed with others."""
        found: dict[str, Effect] = {}
        for name in differing:
            model = self._large if len(differing) == 1 else self._changed([name])
            if model is not None:
                found[name] = _effect(self._small, model, [name])
        for name in differing:
            if name not in found:
                found |= self._together(name, differing, found)
        return {name: found[name] for name in differing}

    def _together(self, name: str, differing: Sequence[str], found: Mapping[str, Effect]) -> dict[str, Effect]:
        """The effect of an argument that cannot change alone, with the fewest others, compared with what these do."""
        rest = [each for each in differing if each != name]
        for count in range(1, min(len(rest), _MOST_TOGETHER + 1)):
            for others in itertools.combinations(rest, count):
                model = self._changed([name, *others])
                if model is not None:
                    without = self._changed(others)
                    effect = _effect(self._small if without is None else without, model, [name, *others])
                    unknown = [each for each in others if each not in found] if without is None else []
                    return dict.fromkeys([name, *unknown], effect)
        effect = _effect(self._small, self._large, [name, *rest])
        return dict.fromkeys([name, *(each for each in rest if each not in found)], effect)

    def middle(self, deep: Sequence[str], wide: Sequence[str]) -> Built:
        """The model of the base's widths and the target's depth; ``PlanError`` if it cannot be built."""
        rest = [name for name in self._target if name not in wide]
        model = self._changed(deep) or self._changed(rest)
        if model is None:
            raise PlanError(
                f"the model of the base's widths and the target's depth ({', '.join(deep)}) cannot be built: "
                f"{self._failed[deep[0]]}; {_SAY}"
            )
        return model

    def _changed(self, names: Sequence[str]) -> Built | None:
        """The base with these arguments of the target; ``None`` if it cannot be built."""
        key = frozenset(names)
        if key not in self._known:
            arguments = {**self._base, **{name: self._target[name] for name in names}}
            try:
                self._known[key] = built(self._build, arguments, self._fallback)
            except Exception as error:  # the constructor's own, of any class
                self._known[key] = None
                for name in names:
                    self._failed.setdefault(name, f"{type(error).__name__}: {error}")
        return self._known[key]


def _effect(before: Built, after: Built, names: Sequence[str]) -> Effect:
    """What changed between two models; ``PlanError`` if it is neither shapes nor the length of lists."""
    old, new = before.signature, after.signature
    if old.keys() == new.keys():
        return Effect.NONE if old == new else Effect.WIDTH
    if _aligned(before, after) is not None:
        return Effect.DEPTH
    loosely = _aligned(before, after, loosely=True)
    if loosely is not None and all(each.depth == 1 for each in loosely.values()):
        return Effect.EXPERTS
    called = ", ".join(names)
    if _aligned(after, before, loosely=True) is not None:
        raise PlanError(f"{called}: the target has fewer blocks than the base; a model can only grow")
    lost, gained = sorted(old.keys() - new.keys()), sorted(new.keys() - old.keys())
    said = "; ".join(filter(None, (_some("only the base has", lost), _some("only the target has", gained))))
    raise PlanError(
        f"{called} changes which parameters the model has, and not only the length of lists of equal blocks: {said}. "
        f"If it changes widths and depth at once, they cannot be told apart: {_SAY}"
    )


def _aligned(before: Built, after: Built, *, loosely: bool = False) -> dict[str, Aligned] | None:
    """``aligned``; ``loosely`` without the sizes of dimensions."""
    if not loosely:
        return aligned(before.signature, after.signature)
    old, new = (
        {name: (len(shape), ties) for name, (shape, ties) in each.signature.items()} for each in (before, after)
    )
    return aligned(old, new)


def _some(what: str, names: Sequence[str]) -> str:
    return f"{what} {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else ""


def _check_structure(reference: Built, target: Built, wide: Sequence[str]) -> None:
    """Raise ``PlanError`` if widths change names, ties or numbers of dimensions, or a dimension shrinks."""
    before, after = reference.signature, target.signature
    odd = sorted(before.keys() ^ after.keys())
    odd += [
        name
        for name in before.keys() & after.keys()
        if len(before[name][0]) != len(after[name][0]) or before[name][1] != after[name][1]
    ]
    if odd:
        called = ", ".join(wide)
        raise PlanError(listed(f"the structure of the model changes with its width ({called}); these differ:", odd))
    shrinks = [
        f"{name}: {shape_text(before[name][0])} in the base, {shape_text(shape)} in the target"
        for name, (shape, _) in after.items()
        if any(new < old for old, new in zip(before[name][0], shape, strict=True))
    ]
    if shrinks:
        raise PlanError(listed("a dimension shrinks from base to target; a model can only grow:", shrinks))
