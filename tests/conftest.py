"""What holds for every test: torch's settings stay as they were, and its random numbers start the same."""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Iterator
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # before numpy is imported, which counts the processors then: else every worker wants every core
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, settings

# the same examples in every run, and no verdict that depends on how busy the machine is
settings.register_profile("zeta", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zeta")


def pytest_configure(config: pytest.Config) -> None:
    # torch lists its constructors at the first use of torch.device as a context; if that is in from_pretrained of
    # transformers, which replaces torch.linspace for that time, linspace is never on meta in this process
    with torch.device("meta"):
        assert torch.linspace(0, 1, 2).is_meta
    config.addinivalue_line("markers", "keeps_rng: fails if torch's, numpy's or Python's global RNG state changes")
    if workers := getattr(config, "workerinput", {}).get("workercount"):
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))  # else every worker wants every core


def pytest_itemcollected(item: pytest.Item) -> None:
    # last, so that a fixture which restores the state on its own cannot hide a change
    if item.get_closest_marker("keeps_rng") and isinstance(item, pytest.Function):
        item.fixturenames.append("untouched_rng")


@pytest.fixture(autouse=True, scope="module")
def imports_are_not_searched_for_garbage() -> None:
    """A search visits all objects of the process, of which libraries and collected tests alone have a million."""
    gc.freeze()


def torch_settings() -> dict[str, Any]:
    return {
        "default dtype": torch.get_default_dtype(),
        "default device": torch.get_default_device(),
        "grad mode": torch.is_grad_enabled(),
        "inference mode": torch.is_inference_mode_enabled(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
        "thread count": torch.get_num_threads(),
    }


@pytest.fixture(autouse=True)
def settings_stay() -> Iterator[None]:
    """Fail a test that leaves torch's settings changed, and undo it; let every test start from one RNG state."""
    before, state = torch_settings(), torch.get_rng_state()
    yield
    torch.set_rng_state(state)
    after = torch_settings()
    if after != before:
        torch.set_default_dtype(before["default dtype"])
        torch.set_default_device(None if before["default device"].type == "cpu" else before["default device"])
        torch.set_grad_enabled(before["grad mode"])
        torch.use_deterministic_algorithms(before["deterministic algorithms"])
        torch.set_num_threads(before["thread count"])
        changed = (f"{name}: {before[name]} -> {after[name]}" for name in before if after[name] != before[name])
        pytest.fail("the test left torch's settings changed: " + ", ".join(changed))


def rng_states() -> dict[str, Any]:
    name, keys, *rest = np.random.get_state()
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy": (name, keys.tolist(), *rest),  # type: ignore[union-attr]
        "python": random.getstate(),
    }


@pytest.fixture
def untouched_rng() -> Iterator[None]:
    """Fail a test that changes a global RNG state."""
    before = rng_states()
    yield
    after = rng_states()
    changed = [name for name in before if after[name] != before[name]]
    assert not changed, f"the global RNG state changed: {', '.join(changed)}"
