"""Which token of one tokenizer is which of another, by their texts. Needs the package ``tokenizers``."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Final

from zeta.base.reading import read_bytes, shown
from zeta.errors import CheckpointError, FormatError, SpecError

#: bytes of a tokenizer's file; those of large vocabularies have some 30 MB
_LARGEST: Final = 2**28


def rows_of_tokens(
    old: str | PathLike[str], new: str | PathLike[str], *, pieces: bool
) -> tuple[list[int], dict[int, list[int]]]:
    """For each new token the old one with its text, or -1; and for those without, the old tokens of their pieces."""
    one, two = _tokenizer(old, "old"), _tokenizer(new, "new")
    known: dict[str, int] = one.get_vocab(with_added_tokens=True)
    texts: dict[str, int] = two.get_vocab(with_added_tokens=True)
    keep = [-1] * (max(texts.values(), default=-1) + 1)
    of: dict[int, list[int]] = {}
    for text, row in texts.items():
        keep[row] = known.get(text, -1)
        if pieces and keep[row] < 0:
            plain = two.decode([row], skip_special_tokens=False)
            found = one.encode(plain, add_special_tokens=False).ids if plain else []
            if found:
                of[row] = list(found)
    return keep, of


def _tokenizer(path: str | PathLike[str], what: str) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise SpecError("tokens are compared by the package tokenizers: pip install tokenizers") from None
    if not isinstance(path, str | PathLike):
        raise SpecError(f"{what} must be the path of a tokenizer.json, got {shown(path)}")
    try:
        content = read_bytes(Path(path), _LARGEST)
        return Tokenizer.from_str(content.decode())
    except FormatError as error:
        raise CheckpointError(f"{path} {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # the package has no error of its own
        raise CheckpointError(f"{path} is no tokenizer that tokenizers reads: {error}") from error
