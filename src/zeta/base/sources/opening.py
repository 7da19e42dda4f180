"""Find out what a source is, and open it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from zeta.base.escaping import visible
from zeta.base.reading import is_folder, shown
from zeta.base.sources import archives, safetensors
from zeta.base.sources.distributed import METADATA, DistributedCheckpoint
from zeta.base.sources.files import File
from zeta.base.sources.folder import open_folder
from zeta.base.sources.source import Source
from zeta.base.sources.state_dict import StateDict
from zeta.base.sources.stored import StoredTensors
from zeta.errors import CheckpointError, SpecError

_READERS: Final = {
    ".safetensors": safetensors.places_in,
    **dict.fromkeys((".pt", ".pth", ".bin"), archives.places_in),
}

#: what can be opened
Checkpoint = Mapping[str, Tensor] | nn.Module | str | os.PathLike[str]


def open_source(source: Checkpoint, *, what: str = "source") -> Source:
    """Open tensors for reading: a state dict, a module, a file or a folder.

    A file is ``.safetensors``, or a state dict of plain tensors by ``torch.save`` (``.pt``, ``.pth``, ``.bin``). A
    folder is in Hugging Face layout, or one of ``torch.distributed.checkpoint``. ``what`` is the argument's name in
    messages.

    Raises ``SpecError`` if it is something else, and ``CheckpointError`` for files that cannot be read.
    """
    if isinstance(source, nn.Module):
        return StateDict(f"the state dict of {shown(source)}", source.state_dict(keep_vars=True), what)
    if isinstance(source, Mapping):
        return StateDict("the state dict", source, what)
    path = _path(source, what)
    if not is_folder(path):
        return _open_file(path)
    return DistributedCheckpoint(path) if os.path.lexists(path / METADATA) else open_folder(path)


def _path(source: object, what: str) -> Path:
    if not isinstance(source, str | os.PathLike) or not isinstance(path := os.fspath(source), str) or not path:
        raise SpecError(f"{what} must be a state dict, a module, or the path of a file or folder, got {shown(source)}")
    return Path(path)


def _open_file(path: Path) -> Source:
    reader = _READERS.get(path.suffix.lower())
    file = File(path)
    try:
        if reader is None:
            raise CheckpointError(
                f"{visible(str(path))} has an ending that is not known; expected {', '.join(_READERS)}, or a folder"
            )
        return StoredTensors(str(path), reader(file), (file,))
    except BaseException:
        file.close()
        raise
