"""The roles in one MLP: which of its weights lead out of it, and which of the others are gates."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from zeta.resolve.roles.sites import Site, last_parts
from zeta.rules import role_names as names
from zeta.rules.match import Role

#: more weights of one shape lead nowhere in particular
_MOST_UPS: Final = 3
_LETTERS: Final = re.compile(r"(?<=[a-z0-9])_([A-Z]{2,})$")


def in_mlp(free: list[Site], stream: set[int], *, named: bool = False) -> Iterator[tuple[Site, Role]]:
    """The roles of weights without one. ``stream``: the widths of the residual stream, if they are known.

    A down projection ends in the stream. Where widths do not decide, its name does; ``named``: only names do, as no
    module around says that this is an MLP.
    """
    widths: dict[tuple[int, int], list[Site]] = {}
    for site in free:
        widths.setdefault((site.into, site.out), []).append(site)

    def ups_of(down: Site) -> list[Site]:
        """Those that may be its up projection, its gate, or both in one: beside it, or else the last before it."""
        found = [*widths.get((down.out, down.into), []), *widths.get((down.out, 2 * down.into), [])]
        found = [up for up in found if up is not down]
        beside = [up for up in found if up.path[:-1] == down.path[:-1]] or found
        return beside if len(beside) <= _MOST_UPS else beside[-1:]

    leads = {site: _leads_out(site, ups_of(site), widths[site.into, site.out], stream) for site in free}
    possible = [site for site in free if leads[site] is not False and ups_of(site)]
    downs = [site for site in possible if names.MLP_DOWN.fullmatch(last_parts(site.path))]
    if not downs and not named:
        downs = [site for site in possible if leads[site]] or [site for site in free[-1:] if site in possible]
    downs = [  # of numbered layers, ``net.1`` and ``net.4``, the last leads out
        down
        for number, down in enumerate(downs)
        if not down.path[-1].isdecimal() or not any(down in ups_of(later) for later in downs[number + 1 :])
    ]
    downs = [down for down in downs if not _is_one_of_three(down, ups_of(down))]
    for down in downs:
        yield down, Role.MLP_DOWN
    for down in downs:
        yield from _ups([up for up in ups_of(down) if up not in downs], down.into)


def _leads_out(site: Site, ups: list[Site], alike: list[Site], stream: set[int]) -> bool | None:
    """Whether a weight leads out of its MLP into the stream; ``None`` if widths do not tell."""
    ends, begins = site.out in stream, site.into in stream
    if ends is not begins:
        return ends
    if site.into == site.out or not ups:
        return None
    # beside a gate there are two that lead in, and one that leads out
    same = sum(each.path[:-1] == site.path[:-1] for each in alike)
    other = sum(each.path[:-1] == site.path[:-1] for each in ups)
    return None if same == other or not other else same < other


def _is_one_of_three(down: Site, ups: list[Site]) -> bool:
    """Whether it is one of three square weights of which a number alone says that it leads out, as w2 of w1, w2, w3."""
    numbers = [re.sub(r"\d+", "#", names.plain(each.path[-1])) for each in (down, *ups)]
    letters = {found[1] for each in (down, *ups) if (found := _LETTERS.search(each.path[-1]))}
    alike = len(ups) == 2 and len(set(numbers)) == 1 and "#" in numbers[0]
    return alike and all(each.into == each.out for each in (down, *ups)) and len(letters) != 2


def _ups(ups: list[Site], hidden: int) -> Iterator[tuple[Site, Role]]:
    """Those that lead into an MLP of width ``hidden``; of two, names say which is the gate."""
    single = [up for up in ups if up.out == hidden]
    gate = _gate(single) if len(single) == 2 and single[0].path[:-1] == single[1].path[:-1] else None
    for up in ups:
        packed = up.out != hidden
        yield up, Role.MLP_GATE_UP if packed else Role.MLP_GATE if up is gate else Role.MLP_UP


def _gate(pair: list[Site]) -> Site | None:
    """The gate of two: the one so named, the other one of an up projection, or the one with the lower number."""
    words = [names.plain(site.path[-1]) for site in pair]
    for pattern, other in ((names.MLP_GATE, 0), (names.MLP_UP, 1)):
        found = [number for number, word in enumerate(words) if pattern.fullmatch(word)]
        if len(found) == 1:
            return pair[found[0] ^ other]
    numbers = [re.findall(r"\d+", word) for word in words]
    if re.sub(r"\d+", "", words[0]) == re.sub(r"\d+", "", words[1]) and numbers[0] != numbers[1]:
        return min(zip(numbers, (0, 1), pair, strict=True))[2] if all(numbers) else None
    return None
