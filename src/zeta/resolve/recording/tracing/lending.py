"""Memory that a recorded tensor shares with NumPy, a Python buffer or a real tensor: what one writes, the other has."""

from __future__ import annotations

import ctypes
import functools
import sys
import warnings
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

import torch
from torch import Tensor

from zeta.base import dtypes
from zeta.base.language.operations import is_inexact
from zeta.base.language.state import outside_of_modes
from zeta.base.tensors import meets, overlaps
from zeta.errors import RecordingError, ZetaNotice
from zeta.resolve.recording.sources import Source, source_here
from zeta.resolve.recording.tracing.graph import LARGEST_DATA, Graph, Node

#: bytes of the largest memory that is lent as a whole where a part of it is asked for
_LARGEST_WHOLE: Final = 2**26
#: bytes of the largest memory of a tensor from outside that is compared at each operation
_LARGEST_COMPARED: Final = 2**20


class Lent:
    """One such memory, with a copy of its content at the last check.

    ``real`` has the values of ``twin``. If that is the whole of a recorded memory, other tensors that look into it look
    into ``real``, too. Nobody else has these two tensors: a tensor that the constructor has may get another form or
    another memory at any time (``t_``, ``.data``, ``set_``, ``swap_tensors``), and what is shared is the memory.
    """

    def __init__(
        self, *, twin: Tensor, real: Tensor, whole: bool, node: Node, source: Source | None, watched: bool = False
    ) -> None:
        self.twin, self.real = twin.detach(), real.detach()
        self.whole, self.source = whole, source
        self.watched = watched  #: whether it is the memory of a tensor from outside
        # of large memory, torch's counter says whether it was written to; it misses what is not an operation on it
        self.is_counted = watched and real.nbytes > _LARGEST_COMPARED and not real.is_inference()
        self.is_fixed = real.is_inference() or overlaps(real)  #: whether nothing can be written to it from here
        self.seen, self.digest, self.version = self.real, 0, -1
        self.check(node)
        self.is_blank = False  #: whether what nobody has written to has no value
        self.is_own = False  #: whether the memory is the recording's own, so that it is known who has it, too

    def check(self, node: Node) -> None:
        """The memory has the values of ``node`` now."""
        self.node = node
        if not self.is_counted:
            self.seen = self.real.clone()
            return
        if self.real._version != self.version:
            self.version, self.digest = self.real._version, _digest(self.real)

    @property
    def is_written(self) -> bool:
        """Whether somebody has written to the memory since the last check, as far as that is seen at once."""
        if self.is_counted:
            return self.real._version != self.version
        return not torch.equal(dtypes.bits(self.real), dtypes.bits(self.seen))

    @property
    def is_written_unseen(self) -> bool:
        """Whether somebody has written to large memory in a way that torch does not count."""
        return self.is_counted and _digest(self.real) != self.digest

    def has(self, tensor: Tensor) -> bool:
        """Whether a tensor on meta looks into this memory."""
        if tensor.untyped_storage()._cdata != self.twin.untyped_storage()._cdata:
            return False
        return self.whole or _form(tensor) == _form(self.twin)

    def shares(self, tensor: Tensor) -> bool:
        """Whether an element of a tensor on meta is in this memory, too."""
        same = tensor.untyped_storage()._cdata == self.twin.untyped_storage()._cdata
        return same and meets(tensor, [self.twin])

    def view(self, tensor: Tensor) -> Tensor:
        """The memory of a tensor on meta that looks into this one."""
        if not self.whole:
            return self.real.detach()
        start = self.real.storage_offset() * self.real.itemsize // tensor.itemsize
        empty = torch.empty(0, dtype=tensor.dtype, device="cpu")
        storage = self.real.untyped_storage()
        return empty.set_(storage, start + tensor.storage_offset(), tensor.shape, tensor.stride())

    @property
    def is_all(self) -> bool:
        """Whether both tensors are all of their memory, in its order."""
        return all(t.is_contiguous() and t.nbytes == t.untyped_storage().nbytes() for t in (self.twin, self.real))

    @property
    def sharer(self) -> str:
        """Who has the memory, too."""
        return "a tensor from outside, or a copy of it," if self.watched else "NumPy or another library"


class Lending:
    """All such memories of one recording."""

    def __init__(
        self,
        graph: Graph,
        data: Callable[[Tensor], Node],
        known: Callable[[Node], Tensor],
        kept: Mapping[int, torch.UntypedStorage],
    ) -> None:
        self._graph = graph
        self._data = data
        self._known = known
        self._kept = kept  #: real memories that the recording itself holds
        self._lent: list[Lent] = []

    def note(self, twin: Tensor, real: Tensor) -> None:
        """Register ``real``, the memory of ``twin``, to which code outside of torch may write."""
        with outside_of_modes():
            self._note(twin, real, whole=True)

    def watch(self, twin: Tensor, real: Tensor) -> None:
        """Register ``real``, the memory of ``twin``, to which a tensor from outside, or a copy of it, may write."""
        if real.layout is torch.strided:
            with outside_of_modes():
                self._note(twin, real, whole=True, watched=True)

    def _is_alive(self, lent: Lent) -> bool:
        """Whether somebody may still have what was lent."""
        if not (lent.is_own or lent.watched):
            return True
        uses, names = _holders(lent.real)
        alone, unnamed = _alone()
        return uses > alone or names > unnamed + (lent.real.untyped_storage()._cdata in self._kept)

    def _note(self, twin: Tensor, real: Tensor, *, whole: bool, watched: bool = False) -> Lent:
        node = self._graph.cell(twin).node
        self._lent.append(Lent(twin=twin, real=real, whole=whole, node=node, source=source_here(), watched=watched))
        return self._lent[-1]

    def lend(self, tensor: Tensor) -> Tensor:
        """The values of a tensor on meta, in memory that from now on has what is recorded of it, and the reverse."""
        self.settle([tensor])
        with outside_of_modes():
            lent = next((lent for lent in self._lent if lent.has(tensor)), None)
            if lent is None:
                self._check_apart(tensor)
                lent = self._new(tensor)
            return lent.view(tensor).requires_grad_(tensor.requires_grad)

    def twin_of(self, storage: torch.UntypedStorage) -> torch.UntypedStorage | None:
        """The memory on meta that stands for all of ``storage``."""
        found = (lent for lent in self._lent if lent.real.untyped_storage()._cdata == storage._cdata)
        return next((lent.twin.untyped_storage() for lent in found if lent.is_all), None)

    def real_memories(self, recorded: Collection[int]) -> set[int]:
        """The real memories that are shared with these recorded ones, all by their address."""
        found = (lent for lent in self._lent if lent.twin.untyped_storage()._cdata in recorded)
        return {lent.real.untyped_storage()._cdata for lent in found}

    def _check_apart(self, tensor: Tensor) -> None:
        """Raise if part of the memory was lent in another form, as there would be two of what is one."""
        for lent in self._lent:
            if lent.shares(tensor):
                raise RecordingError(
                    f"{source_here()}: NumPy or another library has another view of this memory ({lent.source}), and "
                    "of memory that is large, or in part random, one at a time is recordable. Make both of one array, "
                    "as in array = tensor.numpy(), or drop the other one first"
                )

    def _new(self, tensor: Tensor) -> Lent:
        storage = tensor.untyped_storage()
        dtype = self._graph.cell(tensor).node.dtype
        try:
            if storage.nbytes() > max(_LARGEST_WHOLE, 2 * tensor.nbytes):
                raise RecordingError("only a part of it")
            all_of_it = torch.empty(0, dtype=dtype, device="meta")
            all_of_it.set_(storage, 0, (storage.nbytes() // dtype.itemsize,), (1,))
            blank = self._graph.cell(tensor).node.op == "uninitialized" and is_inexact(dtype)
            real = _blank(all_of_it) if blank else self._known(self._graph.read(all_of_it)).clone()
            lent = self._note(all_of_it, real, whole=True)
            lent.is_blank = blank
        except RecordingError:  # other parts are random, or have no value
            lent = self._note(tensor, self._value_of(tensor).clone(), whole=False)
        lent.is_own = True
        return lent

    def _value_of(self, tensor: Tensor) -> Tensor:
        try:
            return self._known(self._graph.read(tensor))
        except RecordingError as error:
            raise RecordingError(
                f"{source_here()}: NumPy or another library would get memory in which there is no value yet: {error}. "
                "Compute with torch, and write with torch, as in tensor[index] = torch.as_tensor(array); give that "
                'parameter a rule, or record with fallback="real", which draws random values once'
            ) from None

    def settle(self, touched: Iterable[Tensor] = (), *, ended: bool = False) -> None:
        """Note what was written to memory that was lent, before ``touched`` are read or written.

        ``ended``: nothing comes after it.

        Raises ``RecordingError`` where torch wrote there too, as it is then not known in which order.
        """
        if not self._lent:
            return
        with outside_of_modes():
            written = [lent for lent in self._lent if lent.is_written]
            current = [lent for lent in self._lent if written and self._graph.cell(lent.twin).node is lent.node]
            for lent in written:
                if lent.is_fixed:
                    raise RecordingError(
                        f"{lent.source}: memory that {lent.sharer} shares was written to there, and it is of an "
                        "inference tensor, or its elements overlap; clone() it"
                    )
                if lent not in current:
                    raise RecordingError(
                        f"{lent.source}: memory that {lent.sharer} shares was written to there, and by "
                        "torch; which came last is not recordable. Write to it by one of them, or copy it"
                    )
                self._take(lent)
            for lent in current:  # others may look into another part of the same memory
                node = self._graph.cell(lent.twin).node
                if lent in written:
                    lent.check(node)
                else:
                    lent.node = node
            left = [lent for lent in self._lent if self._is_alive(lent) or (lent.whole and not lent.watched)]
            memories = {tensor.untyped_storage()._cdata for tensor in touched if tensor.is_meta}
            for lent in self._lent:
                matters = ended or lent not in left or lent.twin.untyped_storage()._cdata in memories
                if matters and lent.is_written_unseen:
                    raise RecordingError(
                        f"{lent.source}: memory that {lent.sharer} shares was written to by .data, by NumPy or through "
                        "its storage, which is not seen in time where it is large; write with an operation on the "
                        "tensor itself, or copy it"
                    )
            self._lent = left

    def _take(self, lent: Lent) -> None:
        """Record what was written: no more than that, where the rest has no value, or is too large for a plan."""
        twin, real = lent.twin, lent.real
        if lent.watched or real.ndim != 1 or (real.nbytes <= LARGEST_DATA and not lent.is_blank):
            self._graph.write(twin, self._data(real), lent.source)
            return
        changed = (dtypes.bits(real) != dtypes.bits(lent.seen)).view(real.numel(), -1).any(1)
        edges = changed.diff(prepend=changed.new_zeros(1), append=changed.new_zeros(1)).nonzero().view(-1, 2).tolist()
        parts = edges if lent.is_blank else [(edges[0][0], edges[-1][1])]
        for start, stop in parts:
            self._graph.write(twin[start:stop], self._data(real[start:stop]), lent.source)

    def share(self) -> None:
        """Let memory that was lent have what torch wrote."""
        if not self._lent:
            return
        with outside_of_modes():
            for lent in list(self._lent):
                if self._graph.cell(lent.twin).node is not lent.node:
                    self._write_through(lent)
                    lent.check(self._graph.cell(lent.twin).node)

    def _write_through(self, lent: Lent) -> None:
        try:
            if lent.is_fixed:
                raise RecordingError("it is of an inference tensor, or its elements overlap")
            lent.real.copy_(self._known(self._graph.read(lent.twin)))
            torch.autograd.graph.increment_version(lent.real)  # torch does not count what is written in an operation
        except RecordingError as error:
            self._lent.remove(lent)
            if not self._is_alive(lent):
                return
            warnings.warn(
                f"{lent.source}: memory that {lent.sharer} shares keeps what it had: {error}. What is made "
                "of it there is not what the constructor would make",
                ZetaNotice,
                stacklevel=2,
            )


def _digest(tensor: Tensor) -> int:
    memory = tensor.contiguous()
    return zlib.crc32((ctypes.c_char * memory.nbytes).from_address(memory.data_ptr())) if memory.nbytes else 0


def _blank(twin: Tensor) -> Tensor:
    """Memory as somebody may find it: what is written to it is most likely something else."""
    real = torch.empty(twin.shape, dtype=twin.dtype, device="cpu")
    real.view(torch.uint8).fill_(0xA5)
    return real


def is_held(storage: torch.UntypedStorage) -> bool:
    """Whether a tensor has this memory; of a file that is loaded, none has it yet."""
    return tensors_with(storage) > 0


def tensors_with(storage: torch.UntypedStorage) -> int:
    """How many tensors have this memory, which an object of Python has, too; autograd may keep some of them."""
    return torch._C._storage_Use_Count(storage._cdata) - _alone()[0] + 1


def _holders(tensor: Tensor) -> tuple[int, int]:
    """How many hold the tensor's memory: in torch, and by the object of Python that everybody gets who asks for it."""
    storage = tensor.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata), sys.getrefcount(storage)


@functools.cache
def _alone() -> tuple[int, int]:
    """The holders of memory that only one tensor has."""
    with outside_of_modes():
        return _holders(torch.empty(1, device="cpu"))


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype
