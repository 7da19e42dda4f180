"""Addresses of memory that does not exist. Constructors compare them, for one to find tied tensors.

Two tensors have the same address exactly if they have the same memory and offset. There is nothing at an address: it is
outside of what a process can map. The method of ``torch.UntypedStorage`` is replaced while a recording runs in any
thread, as no mode sees it; elsewhere the new one does what the original does.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Any, Final

import torch
from torch import Tensor

from zeta.base.process.exchange import Shared
from zeta.errors import RecordingError
from zeta.resolve.recording.active import ACTIVE
from zeta.resolve.recording.sources import source_here

# x86-64 and ARM64 map nothing between 2^56 and 2^63
_FIRST: Final = 1 << 62
#: bytes of address per byte between two storage objects, so that memories of a megabyte do not overlap
_SPACING: Final = 1 << 14

_ORIGINAL: Final = torch.UntypedStorage.data_ptr


def address_of(tensor: Tensor) -> int:
    """The address of a tensor on meta; 0 without elements, as for real ones.

    Raises ``RecordingError`` where safetensors asks, which reads what is at the address and would end the process.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and (name := frame.f_globals.get("__name__", "")).startswith(
        ("zeta.", "torch.", "safetensors.")
    ):
        if name.startswith("safetensors.") and frame.f_code.co_name in ("_to_ndarray", "_tobytes"):
            raise RecordingError(
                f"{source_here()}: safetensors saves values, and inside a recording there are none; use copy.deepcopy, "
                "or save the model when it has values"
            )
        frame = frame.f_back
    storage = tensor.untyped_storage()
    begin = _address(storage) if tensor.numel() else 0
    return begin and begin + int(tensor.storage_offset()) * tensor.element_size()


def _address(storage: torch.UntypedStorage) -> int:
    return _FIRST + storage._cdata * _SPACING if storage.nbytes() else 0


def _data_ptr(storage: Any) -> int:
    if ACTIVE.recorder is not None and storage.device.type == "meta":
        return _address(storage)
    return int(_ORIGINAL(storage))


def _replace() -> None:
    torch.UntypedStorage.data_ptr = _data_ptr  # type: ignore[assignment,method-assign]


def _restore() -> None:
    if "data_ptr" in vars(torch.UntypedStorage):
        del torch.UntypedStorage.data_ptr  # the inherited method is there again


#: held while at least one recording runs
ADDRESSES: Final = Shared(_replace, _restore)
