"""Changes to a document: a value for another, a key too many, half a file, brackets without end."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator, Sequence
from typing import Any, Final

#: stands for a number that is written but that Python's encoder has no value for
_HUGE: Final = "@1e400@"

ODD: Final[tuple[Any, ...]] = (
    None, True, False, 0, 1, -1, 2, 7, 2**31, 2**62, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400,
    0.0, -0.0, 0.5, 1e-320, 1e-45, 1e10, 1e38, 1e39, 1e300, 1.7e308, -1e308, float("nan"), float("inf"), _HUGE,
    "", " ", "x", "name", "nan", "1", "*", "[", "{0..99999999999}", "(", "a{99999999999}", "\0", "\x1b[2J", "\ud800",
    "é", "../../etc/passwd", "/dev/zero", "a" * 300, "float32", "bfloat16", "complex64", "int64", "nn", "quint8",
    [], [[]], [None], [0], [1, 1], [-1], [2**62, 2**62], ["x"], [[0, 2]], [{}], {}, {"": None}, {"name": "Normal"},
    {"name": "Orthogonal"}, {"name": "Keep"}, {"name": "Zeros"}, {"name": "Dirac"}, {"name": "VarianceScaling"},
    {"name": "Sparse", "sparsity": 0.5}, {"name": "TruncatedNormal", "std": 1e10, "low": -0.04, "high": 0.04},
    {"name": "TruncatedNormal", "correct_std": True}, {"name": "Uniform", "low": -1e308, "high": 1e308},
    {"name": "VarianceScaling", "distribution": "truncated_normal"}, {"fan_in": [1], "fan_out": [0]},
)  # fmt: skip

_TOKENS: Final = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"\\", b"null", b"true", b"-", b"1e999", b"NaN", b"\x00", b"\xff",
    b"\xed\xa0\x80", b"\\ud800", b"\\u0000", b'"', b"'", b"#", b"=", b"\n", b"9" * 5000, b"[" * 200_000, b'{"a":' * 999,
)  # fmt: skip


def document(seed: Any, rng: random.Random, odd: Sequence[Any] = ODD) -> bytes:
    """JSON text: one to three values of a document changed, and now and then some bytes of the text, too."""
    changed = copy.deepcopy(seed)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        changed = changed_once(changed, rng, odd)
    content = dumped(changed)
    return text(content, rng) if rng.random() < 0.2 else content


def dumped(data: Any) -> bytes:
    """A document as JSON text, with the numbers and half characters that JSON does not have."""
    return json.dumps(data).replace(f'"{_HUGE}"', "1e400").encode()


def changed_once(data: Any, rng: random.Random, odd: Sequence[Any]) -> Any:
    """A document with one value replaced, removed, repeated, or moved from elsewhere."""
    places = list(_places(data))
    if not places:
        return rng.choice(odd)
    holder, key = rng.choice(places)
    match rng.randrange(7):
        case 0 | 1 | 2:
            holder[key] = copy.deepcopy(rng.choice(odd))
        case 3:
            other, where = rng.choice(places)
            holder[key] = copy.deepcopy(other[where])
        case 4:
            del holder[key]
        case 5 if isinstance(holder, dict):
            holder[rng.choice(("name", "x", "", "axes", "low", key + "_", "\0"))] = copy.deepcopy(rng.choice(odd))
        case 5:
            holder.insert(key, copy.deepcopy(holder[key]))
        case 6:
            holder[key] = _number_near(holder[key], rng)
    return data


def _number_near(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return [value]
    if abs(value) > 1e300:
        return rng.choice((-value, str(value)))
    return rng.choice((-value, value + 1, value - 1, value * 10**9, value / 1e30, float(value), str(value)))


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Every value that a document holds, as what holds it and where there."""
    waiting = [data]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder)) if isinstance(holder, list) else ()
        for key in keys:
            yield holder, key
            waiting.append(holder[key])


def text(content: bytes, rng: random.Random) -> bytes:
    """Some bytes cut off, removed, repeated, exchanged or put in."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        first = rng.randrange(len(content) + 1)
        last = min(len(content), first + rng.choice((1, 1, 2, 8, 64)))
        match rng.randrange(6):
            case 0:
                content = content[:first]
            case 1:
                content = content[:first] + content[last:]
            case 2:
                content = content[:last] + content[first:]
            case 3:
                content = content[:first] + rng.choice(_TOKENS) + content[first:]
            case 4:
                content = content[:first] + rng.choice(_TOKENS) + content[last:]
            case 5:
                content = content[:first] + bytes(rng.randrange(256) for _ in range(last - first)) + content[last:]
    return content
