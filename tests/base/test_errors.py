"""Errors: what each is besides, what a list of problems shows, and that no name steers a terminal."""

from __future__ import annotations

import pytest

from zeta import errors
from zeta.errors import ZetaError, ZetaNotice, listed

BUILT_IN = {
    "FormatError": ValueError,
    "SpecError": ValueError,
    "FanError": ValueError,
    "PlanError": ValueError,
    "RecordingError": ValueError,
    "TargetError": ValueError,
    "LayerTypeError": TypeError,
    "ForkError": RuntimeError,
    "CheckpointError": OSError,
    "CheckDocumentError": ValueError,
    "CheckError": RuntimeError,
    "RankError": RuntimeError,
}
OWN = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ZetaError)}


@pytest.mark.parametrize("name", sorted(OWN))
def test_each_error_is_also_what_a_reader_would_catch(name: str) -> None:
    assert issubclass(OWN[name], BUILT_IN.get(name, Exception))
    assert str(OWN[name]("layer\x1b[31m.weight")) == r"layer\x1b[31m.weight"
    assert (OWN[name].__doc__ or "").strip().endswith(".")


def test_every_error_has_its_built_in_named_here() -> None:
    assert set(OWN) - set(BUILT_IN) == {"ZetaError", "UsageError"}


def test_a_list_is_cut_and_counted() -> None:
    assert listed("these:", ["a", "b"]) == "these:\n  - a\n  - b"
    cut = listed("these:", map(str, range(25)))
    assert cut.splitlines()[1:] == [*(f"  - {number}" for number in range(20)), "  - and 5 more"]
    assert listed("these:", map(str, range(20))).splitlines()[-1] == "  - 19"
    assert listed("these:", ["a\nb\x07"]) == "these:\n  - a\\nb\\x07"


def test_notices_are_escaped_too() -> None:
    assert str(ZetaNotice("\x1b[2J")) == r"\x1b[2J"
