"""Philox4x32-10 on Python's integers, to compare with: nothing here comes from the source."""

from __future__ import annotations


def philox_by_integers(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Philox4x32-10 as in figure 4 and table 2 of Salmon et al. 2011, with unbounded integers."""
    (r0, l0, r1, l1), (k0, k1) = counter, key
    for _ in range(10):
        high0, low0 = divmod(r0 * 0xD2511F53, 2**32)
        high1, low1 = divmod(r1 * 0xCD9E8D57, 2**32)
        r0, l0, r1, l1 = high1 ^ l0 ^ k0, low1, high0 ^ l1 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return r0, l0, r1, l1


def word_by_integers(key: int, index: int, draw: int = 0) -> int:
    """Element ``index`` has word ``index % 4`` of the block whose counter is ``index // 4``, and above it ``draw``."""
    counter = index // 4
    words = (counter % 2**32, counter // 2**32, draw % 2**32, draw // 2**32)
    return philox_by_integers(words, (key % 2**32, key // 2**32))[index % 4]
