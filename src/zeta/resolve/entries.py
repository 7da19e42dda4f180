"""One parameter or buffer and how it is initialized: an entry of a plan, exact in JSON."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final

import msgspec
import torch

from zeta.base import dtypes
from zeta.base.reading import LARGEST_SIZE, Shape, Size, Text, Texts, decode, encode, parse, shown
from zeta.errors import PlanError, ZetaError
from zeta.fans import Axes, Fans
from zeta.initializers import Initializer, Keep, Site
from zeta.rules import Kind

#: parts of a tensor that are written
MOST_SPANS: Final = 2**16
#: spans that a text has
_SHOWN: Final = 20
Spans = Annotated[tuple[tuple[Size, Size], ...], msgspec.Meta(max_length=MOST_SPANS)]
#: the rule of a recorded value, as in ``file.py:12 in Model.__init__ (normal_, Linear)``
_PLACE: Final = re.compile(r"^(.+:\d+) in \S+ (\(.*\))$")


def text_of(part: Initializer | Axes | None) -> str:
    """An initializer or axes in ASCII, with everything that decides values."""
    return ascii(None if part is None else part.to_json())


class Section(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """The elements of a tensor whose index along ``dim`` is in one of ``spans``: (begin, end), ascending, apart."""

    dim: Size
    spans: Spans

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ``PlanError`` if no tensor of this shape has such a section."""
        ends = [place for span in self.spans for place in span]
        if self.dim >= len(shape) or ends != sorted(set(ends)) or not ends or ends[-1] > shape[self.dim]:
            raise PlanError(f"a tensor of shape {shape} has no section along dimension {self.dim} at {self._places}")

    def numel(self, shape: tuple[int, ...]) -> int:
        """The number of its elements in a tensor of this shape."""
        return math.prod(shape) // shape[self.dim] * sum(end - begin for begin, end in self.spans)

    def rest(self, extent: int) -> tuple[tuple[int, int], ...]:
        """The spans along the dimension, which has this extent, that are in none of its own.

        >>> Section(dim=0, spans=((2, 5),)).rest(9)
        ((0, 2), (5, 9))
        """
        edges = [0, *(place for span in self.spans for place in span), extent]
        return tuple((begin, end) for begin, end in zip(edges[::2], edges[1::2], strict=True) if begin < end)

    def __str__(self) -> str:
        return f"[{':, ' * self.dim}{self._places}]"

    @property
    def _places(self) -> str:
        more = ", ..." if len(self.spans) > _SHOWN else ""
        return ", ".join(f"{begin}:{end}" for begin, end in self.spans[:_SHOWN]) + more


class Entry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The initialization of one parameter or buffer.

    ``name`` is canonical and decides the values; ``ties`` are the other names of the same tensor. ``mean`` and ``std``
    are those expected of the drawn values, ``None`` for ``Keep()``. ``fans`` are shown where the parameter has them.
    With a ``section``, only its elements are written, with the values that the whole tensor would get there.
    """

    name: str
    ties: tuple[str, ...] = ()
    shape: tuple[int, ...]
    dtype: torch.dtype
    kind: Kind
    rule: str
    initializer: Initializer
    axes: Axes | None = None
    padding_idx: int | None = None
    persistent: bool = True
    section: Section | None = None

    @property
    def site(self) -> Site:
        """The shape and axes, as the initializer wants them."""
        return Site(shape=self.shape, axes=self.axes)

    @property
    def fans(self) -> Fans | None:
        """The fans, or ``None`` where the parameter has none."""
        return None if self.axes is None else self.axes.fans(self.shape)

    @property
    def mean(self) -> float | None:
        """The expected mean of the drawn elements."""
        moments = self.initializer.moments(self.site)
        return None if moments is None else moments.mean

    @property
    def std(self) -> float | None:
        """The expected standard deviation of the drawn elements."""
        moments = self.initializer.moments(self.site)
        return None if moments is None else moments.std

    @property
    def rule_text(self) -> str:
        """The rule for a table; for a line of code, without the name of its function."""
        return _PLACE.sub(r"\1 \2", self.rule)

    @property
    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes."""
        return self.numel * self.dtype.itemsize

    @property
    def kept(self) -> bool:
        """Whether nothing is written."""
        return isinstance(self.initializer, Keep)

    @property
    def law_text(self) -> str:
        """The initializer, and of what part of the tensor, for people."""
        return str(self.initializer) if self.section is None else f"{self.initializer} in {self.section}"

    def identity(self, text: Callable[[Initializer | Axes | None], str] = text_of) -> str:
        """A text of everything that decides the values and their tensor, without the rule. ``text`` may be cached."""
        tensor = (self.name, self.ties, self.shape, self.kind.value, self.persistent, self.padding_idx)
        section = "" if self.section is None else f"{self.section} "
        return f"{tensor!a} {section}{dtypes.name_of(self.dtype)} {text(self.initializer)} {text(self.axes)}"

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary; ``from_json`` reads it back exactly, deriving mean, std and nbytes."""
        written: dict[str, Any] = msgspec.json.decode(encode(RowWriter().row(self)))
        return written

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """Build the entry that ``to_json`` described; ``PlanError`` if it is not one."""
        try:
            return RowReader().entry(parse(encode(data), Row))
        except (ZetaError, TypeError, ValueError, RecursionError) as error:
            raise PlanError(f"not an entry of a plan, {shown(data)}: {error}") from error


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that one process holds, computes for that, and needs as temporary memory."""

    held: int = 0
    computed: int = 0
    temporary: int = 0

    def __add__(self, other: Cost) -> Cost:
        """The cost of both, one after the other."""
        return Cost(
            held=self.held + other.held,
            computed=self.computed + other.computed,
            temporary=max(self.temporary, other.temporary),
        )


# -- JSON ------------------------------------------------------------------------------------------------------------


class Row(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """An entry in JSON, for reading and writing. Fields with a default follow from the others."""

    name: Text
    ties: Texts
    shape: Shape
    dtype: Text
    kind: Kind
    rule: Text
    initializer: msgspec.Raw
    mean: float | None = None
    std: float | None = None
    nbytes: int | None = None
    axes: msgspec.Raw
    padding_idx: Size | None
    persistent: bool
    section: Section | msgspec.UnsetType = msgspec.UNSET


class RowWriter:
    """Turns entries into rows. Parts that many entries share are encoded once; the cache key distinguishes -0.0."""

    def __init__(self) -> None:
        self._axes: dict[Axes | None, msgspec.Raw] = {None: msgspec.Raw(b"null")}
        self._laws: dict[tuple[Any, ...], tuple[msgspec.Raw, float | None, float | None]] = {}
        self._dtypes: dict[torch.dtype, str] = {}

    def row(self, entry: Entry) -> Row:
        """The entry as a row; ``PlanError`` if its mean or std is not finite."""
        shape, axes, dtype = entry.shape, entry.axes, entry.dtype
        text = encode(entry.initializer.to_json())
        law = self._laws.get((text, shape, axes))
        if law is None:
            law = self._laws[text, shape, axes] = (msgspec.Raw(text), *_mean_and_std(entry.initializer, entry.site))
        if axes not in self._axes:
            assert axes is not None
            self._axes[axes] = msgspec.Raw(encode(axes.to_json()))
        if dtype not in self._dtypes:
            self._dtypes[dtype] = dtypes.name_of(dtype)
        return Row(
            name=entry.name,
            ties=entry.ties,
            shape=shape,
            dtype=self._dtypes[dtype],
            kind=entry.kind,
            rule=entry.rule,
            initializer=law[0],
            mean=law[1],
            std=law[2],
            nbytes=math.prod(shape) * dtype.itemsize,
            axes=self._axes[axes],
            padding_idx=entry.padding_idx,
            persistent=entry.persistent,
            section=msgspec.UNSET if entry.section is None else entry.section,
        )


class RowReader:
    """Turns rows into entries. Parts that many rows share are checked once."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], tuple[Initializer, Axes | None, torch.dtype]] = {}

    def entry(self, row: Row) -> Entry:
        """The row as an entry whose values can be drawn; ``PlanError`` with its name if they cannot."""
        key = (bytes(row.initializer), bytes(row.axes), row.shape, row.dtype)
        known = self._known.get(key)
        padding = row.padding_idx
        try:
            if known is None:
                known = self._known[key] = _checked(*key)
            if padding is not None and not (row.shape and padding < row.shape[0]):
                raise PlanError(f"padding_idx is {padding}, but a tensor of shape {row.shape} has no such row")
            section = None if isinstance(row.section, msgspec.UnsetType) else row.section
            if section is not None:
                section.check(row.shape)
                if isinstance(known[0], Keep):
                    raise PlanError(f"keeps its values, and has a section {section}, of which nothing is said")
        except ZetaError as error:
            raise PlanError(f"{shown(row.name)}: {error}") from error
        initializer, axes, dtype = known
        return Entry(
            name=row.name,
            ties=row.ties,
            shape=row.shape,
            dtype=dtype,
            kind=row.kind,
            rule=row.rule,
            initializer=initializer,
            axes=axes,
            padding_idx=padding,
            persistent=row.persistent,
            section=section,
        )


def _checked(
    initializer: bytes, axes: bytes, shape: tuple[int, ...], dtype: str
) -> tuple[Initializer, Axes | None, torch.dtype]:
    """The solved initializer, the axes and the dtype; ``ZetaError`` if they do not fit the shape."""
    found = dtypes.dtype_named(dtype)
    if math.prod(max(size, 1) for size in shape) * found.itemsize > LARGEST_SIZE:
        raise PlanError(f"shape {shape} in {dtype} takes more than 2^63 bytes, which no tensor has")
    roles = decode(axes, dict[str, Any] | None)  # type: ignore[arg-type]
    known = None if roles is None else Axes.from_json(roles)
    if known is not None:
        known = known.resolved(shape)
    site = Site(shape=shape, axes=known)
    solved = Initializer.from_json(decode(initializer, dict[str, Any])).solve(site)
    _mean_and_std(solved, site)
    return solved, known, found


def _mean_and_std(initializer: Initializer, site: Site) -> tuple[float | None, float | None]:
    moments = initializer.moments(site)
    if moments is None:
        return None, None
    if not (math.isfinite(moments.mean) and math.isfinite(moments.std)):
        raise PlanError(f"{initializer!r} has mean {moments.mean} and std {moments.std}, expected finite numbers")
    return moments.mean, moments.std
