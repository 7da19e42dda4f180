"""Operators that a library registers when it is imported."""

from __future__ import annotations

import torch

_KEPT: list[torch.library.Library] = []


def declare_torchvision() -> None:
    """Declare the two operators without which torchvision cannot be imported.

    Its compiled operators are made for one build of torch; beside another they do not load, and its import fails. With
    these declarations the models can be built; they cannot compute boxes.
    """
    if not _KEPT:
        _KEPT.append(torch.library.Library("torchvision", "FRAGMENT"))
        for name in ("nms", "qnms"):
            if not hasattr(torch.ops.torchvision, name):
                _KEPT[0].define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
