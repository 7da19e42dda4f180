"""The classes of parameters of transformers' models, against a truth that was written by hand."""

from __future__ import annotations

import pytest

from tests.scaling.class_truth import CLASSES, OTHERWISE, classes_of_both, expected, on_meta

pytest.importorskip("transformers")

#: of each kind one
USUAL = ("falcon", "xlnet", "qwen3_next", "mamba", "ibert", "electra", "t5", "wav2vec2", "yolos", "swin", "convnext")


@pytest.mark.parametrize(
    "key", [*USUAL, *(pytest.param(key, marks=pytest.mark.slow) for key in CLASSES if key not in USUAL)]
)
def test_classes(key: str) -> None:
    both = classes_of_both(key, *on_meta(key))
    wrong = {
        name: f"{found}, and not {wanted}"
        for name, (by_hand, found) in both.items()
        if found != (wanted := expected(key, name, by_hand))
    }
    assert wrong == {}
    assert len(both) > 10
    assert all(any(expected(key, name, "") for name in both) for _ in OTHERWISE.get(key, ()))
