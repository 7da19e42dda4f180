"""Rows of another tokenizer: which old tokens a new one is made of, for each kind of tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from zeta import Average, Rows

tokenizers = pytest.importorskip("tokenizers")
decoders, models, pre = tokenizers.decoders, tokenizers.models, tokenizers.pre_tokenizers

BYTES = sorted(pre.ByteLevel.alphabet())


def by_bytes(words: list[str], merges: list[tuple[str, str]]) -> Any:
    made = tokenizers.Tokenizer(models.BPE({word: row for row, word in enumerate([*BYTES, *words])}, merges))
    made.pre_tokenizer, made.decoder = pre.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made


def wordpiece(words: list[str]) -> Any:
    made = tokenizers.Tokenizer(models.WordPiece({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer, made.decoder = pre.BertPreTokenizer(), decoders.WordPiece()
    return made


def unigram(words: list[str], unknown: int | None = 0) -> Any:
    made = tokenizers.Tokenizer(models.Unigram([(word, -float(row)) for row, word in enumerate(words)], unknown))
    made.pre_tokenizer, made.decoder = pre.Metaspace(), decoders.Metaspace()
    return made


def with_fallback(words: list[str]) -> Any:
    """As Llama's: a token for each byte, as text."""
    known = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *words]
    vocabulary = {word: row for row, word in enumerate(known)}
    made = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True, unk_token="<unk>"))
    normalizers = tokenizers.normalizers
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(steps)
    return made


def pieces(old: Any, new: Any, folder: Path) -> dict[str, Any]:
    """For each new token the old one, or the list of old ones, or ``None``."""
    for name, made in (("old", old), ("new", new)):
        made.save(str(folder / f"{name}.json"))
    rows = Rows.of_tokens(folder / "old.json", folder / "new.json", pieces=True)
    assert isinstance(rows.keep, tuple)
    of = dict(rows.how.of) if isinstance(rows.how, Average) else {}
    found: dict[str, Any] = {}
    for text, row in new.get_vocab().items():
        same = rows.keep[row]
        found[text] = old.id_to_token(same) if same >= 0 else [old.id_to_token(piece) for piece in of.get(row, [])]
    return found


def test_a_continued_word_is_its_letters(tmp_path: Path) -> None:
    """The marks before it are no text."""
    old = wordpiece(["[UNK]", "o", "##n", "p", "##o", "#"])
    found = pieces(old, wordpiece(["[UNK]", "##on", "pon", "##n", "##qu"]), tmp_path)
    assert found == {"[UNK]": "[UNK]", "##on": ["o", "##n"], "pon": ["p", "##o", "##n"], "##n": "##n", "##qu": []}


def test_text_that_the_old_tokenizer_does_not_know_has_no_pieces(tmp_path: Path) -> None:
    """A row that stands for anything unknown says nothing of a token; nor does the rest of its text say enough."""
    new = wordpiece(["?", "a?", "ab"])
    known = ["a", "b", "\u2581a", "\u2581"]
    assert pieces(wordpiece(["[UNK]", "a", "##b"]), new, tmp_path) == {"?": [], "a?": [], "ab": ["a", "##b"]}
    for old in (unigram(["<unk>", *known]), unigram(known, None)):
        assert pieces(old, new, tmp_path) == {"?": [], "a?": [], "ab": ["\u2581a", "b"]}


def test_parts_of_characters(tmp_path: Path) -> None:
    """Bytes of a character have no text; between tokenizers of bytes they have their bytes."""
    [(letters, _)] = pre.ByteLevel(add_prefix_space=False).pre_tokenize_str("\u65e5")
    first, second, third = letters
    part, whole = first + second, first + second + third
    new = by_bytes([part, whole, "ab"], [(first, second), (part, third), ("a", "b")])
    found = pieces(by_bytes([], []), new, tmp_path)
    assert (found[part], found[whole], found["ab"]) == ([first, second], [first, second, third], ["a", "b"])
    found = pieces(with_fallback(["\u2581", "a", "b"]), new, tmp_path)
    assert (found[part], found[first]) == ([], [])
    assert found[whole] == ["<0xE6>", "<0x97>", "<0xA5>"]
    assert found["ab"] == ["a", "b"]  # without the space that it writes before each text
    back = pieces(new, with_fallback(["\u2581", "\u2581a"]), tmp_path)
    assert (back["<0x41>"], back["<0xE6>"], back["\u2581a"]) == (["A"], [], ["\u0120", "a"])


def test_letters_of_bytes_are_no_letters(tmp_path: Path) -> None:
    """In a vocabulary of bytes, ``é`` is the byte E9."""
    letter = "\u00e9"
    found = pieces(unigram(["<unk>", letter, "a"]), by_bytes(["a" + letter], [("a", letter)]), tmp_path)
    assert (found[letter], found["a" + letter], found["a"]) == ([], [], "a")
    old = by_bytes([], [])
    old.add_special_tokens(["<\uff5cbegin\uff5c>"])
    new = unigram(["<unk>", letter])
    new.add_special_tokens(["<\uff5cbegin\uff5c>"])
    found = pieces(old, new, tmp_path)
    assert found["<\uff5cbegin\uff5c>"] == "<\uff5cbegin\uff5c>"
    assert found[letter] == ["\u00c3", "\u00a9"]
