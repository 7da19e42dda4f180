"""Every exception that zeta raises on purpose, and when.

All of them derive from :class:`ZetaError`, and each also from the built-in a reader would expect, so that
``except ValueError`` keeps working. Each message says which parameter, what arrived, what was expected and what to do.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable

from zeta.base.escaping import visible, visible_lines


class ZetaError(Exception):
    """Base of everything below. As text, it has no characters that steer a terminal, whatever names it quotes."""

    def __str__(self) -> str:
        return visible_lines(super().__str__())


class FormatError(ZetaError, ValueError):
    """A text or file is not what it is read as: broken, too large, nested too deeply, a name that no file can have."""


class SpecError(ZetaError, ValueError):
    """An initializer, rule, set of axes or seed was described with values that make no sense."""


class FanError(ZetaError, ValueError):
    """``fan_in`` and ``fan_out`` are not defined for this parameter, or nobody said along which axes."""


class PlanError(ZetaError, ValueError):
    """A model and its rules do not fit: unmatched parameters, idle rules, contradictions, wrong shapes."""


class RecordingError(PlanError):
    """A constructor cannot be recorded: its control flow reads random values, or a value comes from elsewhere."""


class TargetError(ZetaError, ValueError):
    """A parameter cannot be written: lazy, on meta, quantized, integer, a partial sum, overlapping, parametrized."""


class LayerTypeError(ZetaError, TypeError):
    """Something else was passed where a ``torch.nn.Module``, or a tensor, is needed."""


class ForkError(ZetaError, RuntimeError):
    """torch would wait forever: this process was forked from one that had used torch's threads."""


class CheckpointError(ZetaError, OSError):
    """A checkpoint cannot be written or read; nothing was left half-written."""


class CheckDocumentError(ZetaError, ValueError):
    """A JSON document is not what a check wrote, or is of another version."""


class CheckError(ZetaError, RuntimeError):
    """A model that is about to be trained cannot learn from its initial values, as a check in a callback found."""


class RankError(ZetaError, RuntimeError):
    """Processes that work on one model do not agree, or one of them failed; the message names the ranks."""


class UsageError(ZetaError):
    """The command line was used wrongly: no such model, recipe, rule file or output folder."""


def notice(message: str) -> None:
    """Give a ``ZetaNotice``, at the line that called zeta."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in ("zeta", "contextlib"):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, ZetaNotice, stacklevel=level)


class ZetaNotice(UserWarning):
    """Something was done that is probably meant, but is not literally what was asked for."""

    def __str__(self) -> str:
        return visible_lines(super().__str__())


def listed(heading: str, items: Iterable[str], most: int = 20) -> str:
    """Format ``items`` one per line under ``heading``, at most ``most`` of them, whatever names they quote."""
    items = list(items)
    lines = [heading, *(f"  - {visible(item)}" for item in items[:most])]
    if len(items) > most:
        lines.append(f"  - and {len(items) - most} more")
    return "\n".join(lines)
