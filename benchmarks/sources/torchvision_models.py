"""Every builder of torchvision's models: classification, segmentation, detection, video, optical flow, quantized."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.sources import Candidate, Source
from benchmarks.sources.operators import declare_torchvision

declare_torchvision()

import torchvision  # noqa: E402
from torchvision import models  # noqa: E402


def candidates(name: str) -> Iterator[Candidate]:
    """Without weights, of the backbone too where there is one."""
    for options in ({"weights": None, "weights_backbone": None}, {"weights": None}):
        yield models.get_model_builder(name).__module__.split(".")[-1], lambda o=options: models.get_model(name, **o)


SOURCE = Source(
    title="torchvision",
    what=f"Every builder of torchvision {torchvision.__version__.partition('+')[0]}'s models, without weights",
    noun="builder",
    names=models.list_models,
    candidates=candidates,
    limits="Its compiled operators do not load beside the CPU build of torch that is used; no constructor calls one.",
)
