"""Healthy models: no finding fails them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.healthy import LIBRARY, MODELS
from zeta.check import check


def show(report: Any) -> list[str]:
    return [f"{f.rule.id} {f.severity.value} {f.parameter or f.layer}: {f.message}" for f in report.findings]


@pytest.mark.parametrize("name", MODELS)
def test_nothing_fails(name: str) -> None:
    torch.manual_seed(1)
    model, batch, *options = MODELS[name]()
    report = check(model, batch, **(options[0] if options else {}))
    assert report.ok, show(report)


def test_there_are_many_of_them() -> None:
    assert len(MODELS) + len(LIBRARY) >= 25


@pytest.fixture
def library() -> Iterator[Any]:
    transformers = pytest.importorskip("transformers")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    yield transformers
    transformers.logging.set_verbosity(verbosity)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", LIBRARY)
def test_nothing_fails_in_transformers(name: str, library: Any) -> None:
    architecture, configuration, options, batch = LIBRARY[name]
    torch.manual_seed(1)
    model = getattr(library, architecture)(getattr(library, configuration)(**options))
    report = check(model, batch())
    assert report.ok, show(report)
