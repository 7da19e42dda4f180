"""Five hundred mutated documents for each reader: each is taken or refused with a ZetaError, never anything else.

``make fuzz`` tries many more; ``docs/security.md`` has the numbers of the last long run.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.readers import Reader, readers
from tests.fuzz.run import fuzz

COUNT = 500
NAMES = (
    *(
        "plan",
        "entry",
        "initializer",
        "program",
        "axes",
        "plan file",
        "manifest",
        "manifest of a copy",
        "resume state",
        "journal",
    ),
    *(
        "safetensors",
        "one of several",
        "index",
        "source in safetensors",
        "source with an index",
        "source by torch.save",
        "metadata of a source",
        "rules in TOML",
        "rules in JSON",
        "hf configuration",
        "arguments",
        "scaling",
        "check report",
    ),
)


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    pytest.importorskip("transformers")
    return readers(tmp_path_factory.mktemp("fuzz"))


def test_every_reader_is_tried(every: dict[str, Reader]) -> None:
    assert tuple(every) == NAMES


@pytest.mark.filterwarnings("ignore:.*names code or weights from elsewhere")
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_document_is_taken(name: str, every: dict[str, Reader]) -> None:
    every[name].read(every[name].whole)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_broken_is_refused_and_nothing_raw_gets_out(
    name: str, every: dict[str, Reader], tmp_path: Path
) -> None:
    found = fuzz(every[name], COUNT, seed=1)
    assert found.raw == []
    assert found.taken + found.refused == COUNT
