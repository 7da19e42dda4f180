"""Which rows of parameters a pass uses: of stacked experts, those that the router chose."""

from __future__ import annotations


class Picks:
    """The rows of parameters that were used, by the parameters' ``id``."""

    def __init__(self) -> None:
        self._rows: dict[int, set[tuple[int, int]]] = {}
        self._whole: set[int] = set()

    def take(self, key: int, rows: tuple[int, int] | None) -> None:
        """Note a use of some rows, from the first to before the last, or of all."""
        if rows is None:
            self._whole.add(key)
        else:
            self._rows.setdefault(key, set()).add(rows)

    def of(self, key: int) -> list[tuple[int, int]] | None:
        """The rows that were used, in order and without overlaps; ``None`` if all of them may have been."""
        if key in self._whole or key not in self._rows:
            return None
        joined: list[tuple[int, int]] = []
        for first, last in sorted(self._rows[key]):
            if joined and first < joined[-1][1]:
                joined[-1] = joined[-1][0], max(joined[-1][1], last)
            else:
                joined.append((first, last))
        return joined
