"""Tensors of one or several files, of which the places are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from zeta.base.sources.files import File
from zeta.base.sources.places import Place
from zeta.base.sources.source import NO_SETTINGS, Box, Source, TensorInfo


class StoredTensors(Source):
    """Tensors by their places in files, which it closes."""

    def __init__(
        self,
        origin: str,
        places: Mapping[str, Place],
        files: Sequence[File],
        settings: Mapping[str, bytes] = NO_SETTINGS,
    ) -> None:
        self.origin = origin
        self.places = places
        self.files = files
        self.settings = settings
        self.tensors = {name: TensorInfo(place.shape, place.dtype) for name, place in places.items()}

    def _read(self, name: str, box: Box) -> Tensor:
        return self.places[name].read(box)

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()
