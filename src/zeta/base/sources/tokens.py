"""Which token of one tokenizer is which of another, by their texts. Needs the package ``tokenizers``."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any, Final

from zeta.base.reading import read_bytes, shown
from zeta.errors import CheckpointError, FormatError, SpecError

#: bytes of a tokenizer's file; those of large vocabularies have some 30 MB
_LARGEST: Final = 2**28
#: what stands for bytes that are no whole character, for a space in Unigram and Llama, and for no character at all
_PART: Final = "\ufffd"
_SPACE: Final = "\u2581"
_NO_CHARACTER: Final = "\U0010ffff"


def rows_of_tokens(
    old: str | PathLike[str], new: str | PathLike[str], *, pieces: bool
) -> tuple[list[int], dict[int, list[int]]]:
    """For each new token the old one with its text, or -1; and for those without, the old tokens of their pieces.

    Where one of the two writes bytes as letters and the other does not, texts that are not ASCII mean something else,
    but for added tokens. A token has no pieces if the old tokenizer has an unknown token in its text, or if it is a
    part of a character and the old one does not write bytes too.
    """
    one, two = _tokenizer(old, "old"), _tokenizer(new, "new")
    known: dict[str, int] = one.get_vocab(with_added_tokens=True)
    texts: dict[str, int] = two.get_vocab(with_added_tokens=True)
    alike = _writes_bytes(one) is _writes_bytes(two)
    added = {each.content for tokenizer in (one, two) for each in tokenizer.get_added_tokens_decoder().values()}
    keep = [-1] * (max(texts.values(), default=-1) + 1)
    of: dict[int, list[int]] = {}
    unknown = _unknown(one)
    for text, row in texts.items():
        if alike or text.isascii() or text in added:
            keep[row] = known.get(text, -1)
        if pieces and keep[row] < 0:
            found = _pieces(one, two, text, row)
            if found and unknown not in found:
                of[row] = found
    return keep, of


def _pieces(one: Any, two: Any, text: str, row: int) -> list[int]:
    """The old tokens of a new one's text; none where its text is not known."""
    plain: str = two.decode([row], skip_special_tokens=False)
    if _PART in plain and _PART not in text:  # some bytes of a character
        both = _writes_bytes(one) and _writes_bytes(two)
        return [token.id for token in one.model.tokenize(text)] if both else []
    prefix = getattr(two.model, "continuing_subword_prefix", None)
    if prefix and plain.startswith(prefix) and plain == text:
        plain = plain[len(prefix) :]
    if text.startswith(_SPACE) and not plain.startswith(" ") and _writes_bytes(one):
        plain = f" {plain}"  # decoded as the first token of a text
    try:
        found: list[int] = one.encode(plain, add_special_tokens=False).ids if plain else []
    except Exception:  # it has no token for unknown text
        return []
    if len(found) > 1 and one.id_to_token(found[0]) == _SPACE and not text.startswith((_SPACE, " ", "\u0120")):
        del found[0]  # what it writes before each text
    return found


def _unknown(tokenizer: Any) -> int | None:
    """The token that stands for what a tokenizer does not know."""
    if hasattr(tokenizer.model, "unk_token"):
        return None if tokenizer.model.unk_token is None else tokenizer.token_to_id(tokenizer.model.unk_token)
    try:
        found = tokenizer.model.tokenize(_NO_CHARACTER)  # Unigram does not say which it is
    except Exception:  # it has none
        return None
    return found[0].id if len(found) == 1 else None


def _writes_bytes(tokenizer: Any) -> bool:
    """Whether its vocabulary has a letter for each byte, as those of GPT-2."""
    return "ByteLevel" in repr(tokenizer.decoder)


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
