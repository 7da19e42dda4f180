"""The only reader of untrusted files and texts: limits are checked first, then the data is validated.

A file must be a regular one and is opened without waiting. Its size, the depth of its nesting, the lengths of its texts
and the number of its items have limits (``docs/security.md`` lists them). The result has the requested types. The only
exceptions are ``OSError``, if a file cannot be read, and :class:`~zeta.errors.FormatError`, if its content is invalid.
"""

from __future__ import annotations

import collections
import errno
import json
import os
import re
import reprlib
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TypeVar

import msgspec

from zeta.base.escaping import visible
from zeta.base.spelling import did_you_mean
from zeta.base.text import shape_text
from zeta.errors import FormatError

T = TypeVar("T")

#: bytes of a plan, a manifest, an index
LARGEST_DOCUMENT: Final = 2**30
#: bytes of a document that people write: a configuration, arguments
LARGEST_SETTINGS: Final = 2**22
#: bytes of rules
LARGEST_RULES: Final = 2**18
#: dots in a line of TOML: Python's parser takes a time that grows with the square of the parts of a dotted key
MOST_DOTS: Final = 200
#: levels of nested brackets
DEEPEST: Final = 100
#: characters of a name, or of any other text that a field holds
LONGEST_TEXT: Final = 2**20
#: items of a list, such as the entries of a plan
MOST_ITEMS: Final = 2**24
#: dimensions of a tensor
MOST_DIMENSIONS: Final = 1024
#: the largest size, number of elements and number of bytes of a tensor
LARGEST_SIZE: Final = 2**63 - 1

Text = Annotated[str, msgspec.Meta(max_length=LONGEST_TEXT)]
Size = Annotated[int, msgspec.Meta(ge=0, le=LARGEST_SIZE)]
Shape = Annotated[tuple[Size, ...], msgspec.Meta(max_length=MOST_DIMENSIONS)]
Texts = Annotated[tuple[Text, ...], msgspec.Meta(max_length=MOST_ITEMS)]

_FILE_TYPES: Final = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe (FIFO)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


# -- files -----------------------------------------------------------------------------------------------------------


def opened(path: Path) -> BinaryIO:
    """Open a regular file for reading; links are followed. ``OSError`` for anything else, without waiting."""
    try:
        # O_NONBLOCK: without it, opening a pipe waits for a process that writes to it
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except ValueError as error:  # a NUL, or half of a surrogate pair
        raise OSError(errno.EINVAL, f"no file can have this name ({error})", str(path)) from None
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise OSError(errno.EINVAL, "is not a regular file", str(path)) from None
        raise
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kind = _FILE_TYPES.get(stat.S_IFMT(mode), "no file")
            raise OSError(errno.EINVAL, f"is {kind}, expected a regular file", str(path))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes; ``FormatError`` if it has more."""
    with opened(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise FormatError(f"has more than {most:,} bytes, which is the limit for such a file")
    return content


def is_file(path: Path) -> bool:
    """Whether ``path`` is a regular file; false for a name that no file can have."""
    return _looks(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Whether ``path`` is a folder; false for a name that no folder can have."""
    return _looks(path, stat.S_ISDIR)


def _looks(path: Path, test: Callable[[int], bool]) -> bool:
    try:
        return test(path.stat().st_mode)
    except (OSError, ValueError):
        return False


# -- JSON and TOML ---------------------------------------------------------------------------------------------------


def parse(text: str | bytes, kind: type[T]) -> T:
    """JSON text as a value of type ``kind``, which defines the type of every field; ``FormatError`` if it differs."""
    return decode(shallow(text), kind)


def decode(content: bytes, kind: type[T]) -> T:
    """As ``parse``, for the result of ``shallow`` or a part of it."""
    return _guarded(lambda: msgspec.json.decode(content, type=kind))


def parse_json(text: str | bytes) -> Any:
    """JSON text of people or other programs as plain values within the limits; ``NaN`` and ``Infinity`` are allowed."""
    return _within_limits(_guarded(lambda: json.loads(shallow(text).decode(), object_pairs_hook=_unique)))


def converted(value: Any, kind: type[T]) -> T:
    """A part of what ``parse_json`` returned as a value of type ``kind``; ``FormatError`` if it differs."""
    return _guarded(lambda: msgspec.convert(value, kind))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        counts = collections.Counter(name for name, _ in pairs)
        twice = next(name for name, count in counts.items() if count > 1)
        raise FormatError(f"has the name {shown(twice)} twice in one object, and only one can count; remove the other")
    return made


def parse_toml(text: bytes) -> Any:
    """TOML text as plain values within the limits."""
    for number, line in enumerate(text.split(b"\n"), 1):
        if line.count(b".") > MOST_DOTS:
            raise FormatError(f"line {number} has more than {MOST_DOTS} dots; divide it")
    import tomllib  # here, as only files of rules need it

    return _within_limits(_guarded(lambda: tomllib.loads(text.decode())))


def encode(value: Any) -> bytes:
    """A value as compact JSON; ``FormatError`` for text that is not valid Unicode."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError as error:
        raise FormatError(f"not valid Unicode, which JSON needs: {shown(error.object)}") from None


def json_text(value: Any) -> str:
    """A value as JSON, indented by one; ``FormatError`` for text that is not valid Unicode.

    The text is ASCII, so that it contains no control character. Parts that are JSON already are ``msgspec.Raw``.
    """
    text = msgspec.json.format(encode(value), indent=1).decode()
    return text if text.isascii() else _OTHERS.sub(lambda found: json.dumps(found[0])[1:-1], text)


_OTHERS: Final = re.compile(r"[^\x00-\x7f]+")


def _guarded(read: Callable[[], T]) -> T:
    try:
        return read()
    except FormatError:
        raise
    except RecursionError:
        raise FormatError("is nested too deeply") from None
    except MemoryError:
        raise FormatError("does not fit into memory") from None
    except (ValueError, OverflowError) as error:  # msgspec's, json's and tomllib's errors are ValueErrors
        raise FormatError(str(error)) from error


def shallow(text: str | bytes) -> bytes:
    """The text as bytes; ``FormatError`` if its brackets are nested more than ``DEEPEST`` levels deep.

    This is checked before parsing, because parsers recurse once for every open bracket. The check removes everything
    but brackets outside of texts, then removes empty pairs of brackets ``DEEPEST`` times; nothing may be left.
    """
    if not isinstance(text, str | bytes):
        raise FormatError(f"expected JSON as text, got {shown(text)}")
    try:
        content = text.encode() if isinstance(text, str) else text
    except UnicodeEncodeError as error:
        raise FormatError(f"is not valid Unicode: {error.reason}") from None
    skeleton = content.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in content else content
    # two adjacent quotes are an empty text, or the end of one text and the begin of the next: removing both is safe
    skeleton = skeleton.translate(None, _NO_BRACKETS).replace(b'""', b"")
    brackets = b"".join(skeleton.split(b'"')[::2])
    for _ in range(DEEPEST):
        if not brackets:
            return content
        before = len(brackets)
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(brackets) == before:
            break
    if len(brackets) > DEEPEST:
        raise FormatError(f"is nested more than {DEEPEST} levels deep, or its brackets do not match")
    return content


_NO_BRACKETS: Final = bytes(set(range(256)) - set(b'[]{}"'))


def _within_limits(data: T) -> T:
    """Check depth, lengths of texts, sizes of numbers and the number of values, without recursion."""
    level, count = [data], 0
    for _ in range(DEEPEST + 1):
        below: list[Any] = []
        for value in level:
            if isinstance(value, str):
                _check_text(value)
            elif isinstance(value, int):
                _check_number(value)
            elif isinstance(value, dict):
                for key in value:
                    _check_text(key)
                below += value.values()
            elif isinstance(value, list):
                below += value
        count += len(below)
        if count > MOST_ITEMS:
            raise FormatError(f"has more than {MOST_ITEMS:,} values")
        if not below:
            return data
        level = below
    raise FormatError(f"is nested more than {DEEPEST} levels deep")


def _check_text(text: str) -> None:
    if len(text) > LONGEST_TEXT:
        raise FormatError(f"has a text of {len(text):,} characters, {shown(text)}; at most {LONGEST_TEXT:,} are read")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FormatError(f"has a text that is not valid Unicode: {shown(text)}") from None


def _check_number(number: int) -> None:
    # a float cannot hold larger numbers
    if abs(number) >= 2**1023:
        raise FormatError(f"has a whole number of {number.bit_length():,} bits; at most 1,023 are read")


# -- what an error may show ------------------------------------------------------------------------------------------


class _Short(reprlib.Repr):
    """Tensors, arrays and modules by what they are, without their content, at any depth."""

    def repr1(self, x: Any, level: int) -> str:
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")  # not imported here: errors need no torch
        if torch is not None and isinstance(x, torch.nn.Module):
            return _a(x)
        if torch is not None and isinstance(x, torch.Tensor):
            lazy = torch.nn.parameter.is_lazy(x)
            return _a(x) if lazy else f"{_a(x)} ({str(x.dtype).removeprefix('torch.')}, {shape_text(x.shape)})"
        if numpy is not None and isinstance(x, numpy.ndarray):
            return f"{_a(x)} ({x.dtype}, {shape_text(x.shape)})"
        return super().repr1(x, level)

    def repr_instance(self, x: Any, level: int) -> str:
        text = super().repr_instance(x, level)
        return _a(x) if "tensor(" in text or "array(" in text else text  # something that holds one


def _a(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'AEIOUaeiou' else 'a'} {name}"


_SHORT: Final = _Short()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother, _SHORT.maxlong = 3, 120, 200, 60


def shown(value: object) -> str:
    """``value`` for an error message: its ``repr``, shortened, without control characters, without tensors' content."""
    try:
        return _SHORT.repr(value)
    except Exception:  # a failing __repr__ must not hide the error that is being reported
        return f"a {type(value).__name__}"


def suggestion(word: object, known: Iterable[str], most: int = 60) -> str:
    """The end of an error about an unknown name: the known one that is most like it, or ``most`` of them."""
    known = list(known)
    if close := did_you_mean(word, known):
        return close
    more = ", ..." if len(known) > most else ""
    return f"; expected one of {', '.join(map(visible, known[:most]))}{more}" if known else ""


def repeated(names: Iterable[str]) -> list[str]:
    """The names that occur more than once, each once."""
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]
