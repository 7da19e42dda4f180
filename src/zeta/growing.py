"""How tensors of a checkpoint become larger: rows, layers, experts. ``zeta.adapt_(..., grow={glob: one of these})``.

grow={"*wte.weight": Rows()}                                  # new tokens, drawn as the larger model would have them
grow={"*wte.weight": Rows(how=Mean())}                        # ... like the old ones
grow={"transformer.h": Layers(to=48, how="identity")}         # new blocks that compute nothing yet
grow={"model.layers.*.mlp": Experts(to=8)}                    # each expert a copy of the dense MLP
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Final, Literal, get_args

from zeta.base.reading import shown
from zeta.errors import SpecError
from zeta.initializers import Initializer, Keep
from zeta.initializers.base import finite_number

DepthHow = Literal["identity", "stack", "interleave"]
_DEPTH: Final = get_args(DepthHow)
#: rows of a tensor; no vocabulary comes near
_MOST_ROWS: Final = 2**31


@dataclass(frozen=True)
class Mean:
    """New rows like the old ones: their mean, plus normal noise with ``noise`` squared times their covariance.

    ``row = mean + noise * sum_i z_i (old_i - mean) / sqrt(n)`` over the n old rows, with z standard normal numbers of
    the stream, so that no two rows are equal and no matrix of covariances is needed. With ``noise=1`` the new rows
    have the law of the old ones up to the second moment: a softmax over them gives the new tokens the share of as many
    average old ones. A smaller ``noise`` takes share from them and leaves them less distinct. Computed in fp64.

    Source: Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models".
    """

    noise: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "noise", _number("Mean: noise", self.noise, least=0.0))


@dataclass(frozen=True, init=False)
class Average:
    """Each new row is the mean of some old ones, such as a token as the mean of its pieces: ``{new: [old, ...]}``.

    Both sides are numbers of rows, of the new tensor and of the old one. New rows that it does not name are made as
    ``rest`` says. Computed in fp64.
    """

    of: tuple[tuple[int, tuple[int, ...]], ...]
    rest: Mean | Initializer | None = None

    def __init__(self, of: Mapping[int, Iterable[int]], *, rest: Mean | Initializer | None = None) -> None:
        if not isinstance(of, Mapping):
            raise SpecError(f"Average: expected a mapping of new rows to lists of old ones, got {shown(of)}")
        pairs = []
        for new, old in of.items():
            rows = _rows(f"Average: the old rows of row {shown(new)}", old)
            if not rows:
                raise SpecError(f"Average: row {shown(new)} is the mean of no rows; leave it out, and rest= makes it")
            pairs.append((_row("Average: a new row", new), rows))
        if rest is not None and not isinstance(rest, Mean):
            _check_law("Average: rest", rest)
        object.__setattr__(self, "of", tuple(sorted(pairs)))
        object.__setattr__(self, "rest", rest)


@dataclass(frozen=True)
class Split:
    """A wider layer that computes the same: new unit j is a copy of unit j mod n, and what follows is divided.

    Where units are outputs (rows, biases, scales of a norm after a convolution), they are copied; where they are inputs
    of the next layer, the weights of a unit and of its copies are divided by their number. For units that only an
    elementwise nonlinearity or a batch normalization sees, the outputs stay the same: exactly if all are copied equally
    often, a power of two times, else up to rounding. A norm over the units themselves changes them.

    ``maps`` is the number of maps that lie one after the other in a tensor, each with units for the same next layer:
    2 for a gate and an up projection in one weight, and for what ``nn.GLU`` halves. Each is then split by itself.

    Source: Chen et al. 2016, Net2Net (arXiv:1511.05641); copies are evenly spread here, and not random.
    """

    maps: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "maps", _count("Split: maps", self.maps))


@dataclass(frozen=True, init=False)
class Rows:
    """A tensor that has more elements along one dimension than the checkpoint's: the old ones stay, the rest is new.

    Args:
        how: what the new rows get: an initializer, which draws exactly what it gives a tensor of the new size there;
            :class:`Mean`, :class:`Average`, :class:`Split`; or ``None`` for what the model's own ``how`` says.
        keep: the old rows that stay, in the order that they get, as a list, range or slice; the new ones follow.
            ``None`` for all of them. -1 stands for a new row. A tensor that becomes smaller needs it.

    Other tensors whose size changes by the same numbers, such as an output layer beside its embedding, and its bias,
    change in the same way; with ``Mean`` and ``Average`` by their own rows. Where several differ in their ``Rows``, or
    rows only change their order and no size, ``grow=`` has to name them. A new row of ``padding_idx`` is zero.
    """

    how: Initializer | Mean | Average | Split | None
    keep: tuple[int, ...] | slice | None

    def __init__(
        self, how: Initializer | Mean | Average | Split | None = None, *, keep: Iterable[int] | slice | None = None
    ) -> None:
        if how is not None and not isinstance(how, Mean | Average | Split):
            _check_law("Rows: how", how)
        if isinstance(how, Split) and keep is not None:
            raise SpecError("Rows: Split copies all units, so keep= has no meaning with it")
        if isinstance(keep, slice):
            ends = (keep.start, keep.stop)
            if keep.step not in (None, 1) or not all(end is None or hasattr(end, "__index__") for end in ends):
                raise SpecError(f"Rows: keep must be a slice with step 1, a list or a range, got {shown(keep)}")
        elif keep is not None:
            keep = _rows("Rows: keep", keep, least=-1)
        object.__setattr__(self, "how", how)
        object.__setattr__(self, "keep", keep)

    @classmethod
    def of_tokens(
        cls,
        old: str | PathLike[str],
        new: str | PathLike[str],
        how: Initializer | Mean | Average | None = None,
        *,
        pieces: bool = False,
    ) -> Rows:
        """The rows of an embedding for another tokenizer: tokens with the same text keep theirs.

        Args:
            old: the ``tokenizer.json`` of the checkpoint, as the package ``tokenizers`` writes it.
            new: that of the new model.
            how: what tokens without an equal one get, as for :class:`Rows`.
            pieces: whether these get the mean of the old tokens that their text consists of. Not so where the old
                tokenizer does not know all of the text, nor for parts of characters, unless both tokenizers have a
                letter for each byte, as GPT-2's.

        Between a tokenizer with letters for bytes and one without, equal texts that are not ASCII are other tokens.

        Needs the package ``tokenizers``.
        """
        from zeta.base.sources.tokens import rows_of_tokens

        keep, of = rows_of_tokens(old, new, pieces=pieces)
        if of:
            if isinstance(how, Average | Split):
                raise SpecError(f"Rows.of_tokens: with pieces=True, how is for the rest, and got {shown(how)}")
            how = Average(of, rest=how)
        return cls(how, keep=keep)

    def kept(self, extent: int) -> Sequence[int]:
        """The old row, or -1, of each of the first new rows, where the checkpoint has ``extent`` rows.

        Raises ``SpecError`` for rows that it does not have.
        """
        if self.keep is None:
            return range(extent)
        if isinstance(self.keep, slice):
            return range(extent)[self.keep]
        if beyond := [row for row in self.keep if row >= extent]:
            raise SpecError(f"Rows: keep names row {beyond[0]}, but the checkpoint has {extent} rows")
        return self.keep

    def __hash__(self) -> int:
        return hash((self.how, repr(self.keep)))


@dataclass(frozen=True)
class Layers:
    """A list of blocks that becomes longer, to ``to`` blocks. The glob in ``grow=`` names the list.

    ``how`` is one of:

    - ``"identity"``: new blocks that add nothing yet, spread evenly between the old ones. The last layer of each
      branch is zero, and everything else is as the model's own ``how`` says, so that outputs stay the same and all
      parameters but the zeros have their usual start (Wu et al. 2024, LLaMA Pro, arXiv:2401.02415).
    - ``"stack"``: the old blocks again from the first, block i from block i mod n (Gong et al. 2019; Du et al. 2024,
      arXiv:2405.15319).
    - ``"interleave"``: each old block several times in a row, block i from block floor(i n / to).

    ``ends`` are globs of the last layers of branches in a block, such as ``("attn.c_proj.*", "mlp.c_proj.*")``; by
    default those with the roles of an attention's output and an MLP's down projection, as ``zeta.roles_of`` shows.
    """

    to: int
    how: DepthHow = "identity"
    ends: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "to", _count("Layers: to", self.to))
        if self.how not in _DEPTH:
            raise SpecError(f"Layers: how must be one of {', '.join(map(repr, _DEPTH))}, got {shown(self.how)}")
        if self.ends is not None:
            ends: Any = self.ends
            if isinstance(ends, str):
                ends = (ends,)
            if not isinstance(ends, Collection) or not all(isinstance(end, str) for end in ends) or not ends:
                raise SpecError(f"Layers: ends must be globs of names in a block, got {shown(self.ends)}")
            object.__setattr__(self, "ends", tuple(ends))

    def sources(self, count: int) -> list[int | None]:
        """The old block of each new one, ``None`` for one that adds nothing, where the checkpoint has ``count``.

        >>> Layers(to=4).sources(2), Layers(to=4, how="stack").sources(2), Layers(to=4, how="interleave").sources(2)
        ([0, None, 1, None], [0, 1, 0, 1], [0, 0, 1, 1])
        """
        if count < 1 or self.to < count:
            raise SpecError(f"Layers: the checkpoint has {count} blocks, and to={self.to} is not more")
        if self.how == "stack":
            return [place % count for place in range(self.to)]
        blocks = [place * count // self.to for place in range(self.to)]
        if self.how == "interleave":
            return [*blocks]
        return [block if place == 0 or blocks[place - 1] != block else None for place, block in enumerate(blocks)]


@dataclass(frozen=True)
class Experts:
    """An MLP that becomes a mixture of ``to`` experts, or experts that become more. The glob names the MLP's module.

    Each expert is a copy of the dense MLP, or of expert e mod n; the router is as the model's own ``how`` says. With
    ``noise``, normal numbers of ``noise`` times the std of the copied tensor are added, so that the experts differ.
    Without it, and with the weights of the chosen experts adding up to 1, the first outputs are those of the dense
    model; a shared expert beside them, which ``how`` draws, changes them. Packed gate and up projections lie one after
    the other, as in all models of transformers but gpt-oss, which interleaves them.

    Source: Komatsuzaki et al. 2022, sparse upcycling (arXiv:2212.05055).
    """

    to: int
    how: Literal["copy"] = "copy"
    noise: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "to", _count("Experts: to", self.to))
        if self.how != "copy":
            raise SpecError(f"Experts: how must be 'copy', got {shown(self.how)}")
        object.__setattr__(self, "noise", _number("Experts: noise", self.noise, least=0.0))


#: what ``grow=`` may map a glob to
Growth = Rows | Layers | Experts


def check_grow(grow: Any) -> dict[str, Growth]:
    """The argument ``grow=`` as a dictionary; ``SpecError`` for anything else."""
    if not isinstance(grow, Mapping):
        raise SpecError(f'grow must map names or globs to Rows, Layers or Experts, as {{"*wte.weight": Rows()}}, '
                        f"got {shown(grow)}")  # fmt: skip
    for glob, growth in grow.items():
        if not isinstance(glob, str) or not isinstance(growth, Growth):
            raise SpecError(
                f"grow must map names or globs to Rows, Layers or Experts, got {shown(glob)}: {shown(growth)}"
            )
    return dict(grow)


def _check_law(what: str, given: object) -> None:
    if not isinstance(given, Initializer) or isinstance(given, Keep):
        raise SpecError(f"{what} must be an initializer such as Normal(0.02), Mean(), Average(...) or None, "
                        f"got {shown(given)}")  # fmt: skip


def _rows(what: str, given: Any, least: int = 0) -> tuple[int, ...]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise SpecError(f"{what} must be a list of numbers of rows, got {shown(given)}")
    return tuple(_row(what, row, least) for row in given)


def _row(what: str, given: Any, least: int = 0) -> int:
    try:
        row = operator.index(given)
    except TypeError:
        row = least - 1
    if isinstance(given, bool) or not least <= row < _MOST_ROWS:
        raise SpecError(f"{what} must be a number of a row, from {least} on, got {shown(given)}")
    return row


def _count(what: str, given: Any) -> int:
    try:
        count = operator.index(given)
    except TypeError:
        count = 0
    if isinstance(given, bool) or count < 1:
        raise SpecError(f"{what} must be a whole number from 1 on, got {shown(given)}")
    return count


def _number(what: str, given: Any, least: float) -> float:
    number = finite_number(what, given)
    if number < least:
        raise SpecError(f"{what} must be at least {least:g}, got {shown(given)}")
    return number
