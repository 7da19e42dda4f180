"""The roles in models of transformers, against a truth that was written by hand."""

from __future__ import annotations

import pytest
import torch

from tests.resolve.role_truth import TRUTH

pytest.importorskip("transformers")

from benchmarks.roles import ROLES, found, same
from benchmarks.sources.transformers_models import headed


@pytest.mark.parametrize("name", TRUTH)
def test_roles(name: str) -> None:
    candidate = headed(name)
    assert candidate is not None
    with torch.device("meta"):
        model = candidate[1]()
    for role, given, truth in zip(ROLES, found(model), TRUTH[name], strict=True):
        assert same(given, truth), f"{role}: {given}, and not {truth}"
