"""The folder of a checkpoint: existing files, unfinished work inside it, and how the work is published all at once.

Unfinished files are in the subfolder ``.zeta-partial``, together with ``request.json``, which says what was asked for.
No file there has the name of a checkpoint's file. The subfolder is removed when the checkpoint is complete, or when a
run fails that has written too little to keep. zeta removes and writes only files that ``request.json`` or an earlier
checkpoint's manifest names, while they are as zeta wrote them (see ``_replaceable``), and never through a link.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Final

from zeta.base.escaping import visible
from zeta.base.reading import is_folder
from zeta.base.tensors import bytes_view
from zeta.compute.stream.regions import Region
from zeta.compute.values import values_of
from zeta.errors import CheckpointError, listed
from zeta.initializers.blocks import is_elementwise
from zeta.write.checkpoint.journal import EARLIER, JOURNAL, Journal, is_own, part, publish
from zeta.write.checkpoint.layout import INDEX, Shard
from zeta.write.checkpoint.manifest import MANIFEST, Manifest, changes, named_beside
from zeta.write.checkpoint.open_folder import Directory, State, kind_of

PARTIAL: Final = ".zeta-partial"
_REQUEST: Final = "request.json"
#: of an earlier file, so many tensors are compared before it is replaced, and so many elements of each
_COMPARED: Final = 256
_FIRST: Final = 16
#: bytes: a single unfinished file is kept for a later run if it has at least this size; several files always are
_WORTH_KEEPING: Final = 2**26


def check_folder(folder: Path, *, force: bool, settings: Collection[str] = ()) -> None:
    """Raise ``CheckpointError`` if ``folder`` is not a folder, or has a checkpoint and ``force`` is false.

    ``settings`` are the names of the files of settings and of the copies that are to be written. This is an early
    check. Only ``work`` finds out which files ``force`` may replace, and what a killed run has left.
    """
    try:
        if not os.path.lexists(folder):
            return
        if not folder.is_dir():
            raise CheckpointError(f"cannot write to {folder}: it is not a folder")
        with Directory.open(folder) as place:
            found = place.status(PARTIAL)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                raise place.obstacle(PARTIAL, "a folder that zeta made")
            if found is None or not _is_interrupted(place):
                _existing(place, settings, force=force)
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f"{folder} cannot be looked into: {error.strerror}") from error


def files_of(folder: Path) -> tuple[str, ...]:
    """The names of the checkpoint files in a folder, complete or not."""
    if not is_folder(folder):
        return ()
    with Directory.open(folder) as place:
        return tuple(_own_names(place, named_beside(folder / MANIFEST)))


def _own_names(folder: Directory, settings: Collection[str]) -> list[str]:
    """The existing names of a checkpoint's files; of those that others write too, only the ones in ``settings``."""
    return sorted(name for name in folder.names() if is_own(name) or name in settings)


def _is_interrupted(folder: Directory) -> bool:
    """Whether a run was killed while it published its files, or just before it removed the subfolder."""
    with folder.inner(PARTIAL) as partial:
        names = partial.names()
    return JOURNAL in names or not names


def _existing(folder: Directory, settings: Collection[str], *, force: bool) -> list[str]:
    """The names of the existing checkpoint files, and of ``settings``.

    ``CheckpointError`` if there are any and ``force`` is false, or if one is neither a file nor a link.
    """
    existing = _own_names(folder, settings)
    kinds = {name: folder.status(name) for name in existing}
    for name, found in kinds.items():
        if found is not None and not (stat.S_ISREG(found.st_mode) or stat.S_ISLNK(found.st_mode)):
            raise CheckpointError(f"{folder.path / name} is {kind_of(found)}, expected a file; choose another folder")
    if existing and not force:
        shown = existing if len(existing) <= 3 else (existing[0], f"{len(existing) - 1} more files")
        problem = f"{folder.path} already has {' and '.join(shown)}"
        if set(existing) <= set(settings):
            raise CheckpointError(
                f"{problem}, which zeta writes itself for a transformers model, and did not write there; move what is "
                "there away, or choose another folder"
            )
        raise CheckpointError(f"{problem}; choose another folder, or overwrite with force (--force)")
    return existing


def _replaceable(folder: Directory, settings: Collection[str], *, force: bool) -> dict[str, State | None]:
    """The files of an earlier run, by its manifest; ``CheckpointError`` for any other, and as ``_existing``.

    Each has the state from before it was read: what is written to it later is another program's.

    Other programs and people write files of these names too, such as those of the trained model. A file beside the
    tensors is of the earlier run only while it has the content that the manifest says, one of tensors only while it has
    the header that zeta wrote, and the first values that it drew.
    """
    existing = _existing(folder, settings, force=force)
    states = {name: folder.state(name) for name in existing}
    named: tuple[str, ...] = ()
    digests: dict[str, str] = {}
    shards: dict[str, Shard] = {}
    seed = 0
    reason = f"there is no {MANIFEST}"
    if MANIFEST in existing:
        try:
            earlier = Manifest.read(folder.path / MANIFEST)
            named, digests, seed = earlier.names, dict(earlier.beside), earlier.seed
            shards = {shard.name: shard for shard in earlier.layout.shards}
            if earlier.layout.index is not None:
                digests[INDEX] = hashlib.sha256(earlier.layout.index.encode()).hexdigest()
            reason = f"{MANIFEST} does not name them"
            existing = _existing(folder, {*settings, *digests}, force=force)
            states = {name: states[name] if name in states else folder.state(name) for name in existing}
        except CheckpointError as error:
            reason = str(error)
    others = [name for name in existing if name not in named]
    if others:
        heading = (
            f"{folder.path} has files that no earlier run of zeta is known to have written ({reason}). Even force "
            "leaves them alone; move them away, or choose another folder:"
        )
        raise CheckpointError(listed(heading, others))
    changed = [name for name in existing if name in digests and not folder.holds(name, digests[name])]
    changed += [name for name in existing if name in shards and not _is_drawn(folder, shards[name], seed)]
    if changed:
        heading = (
            f"{folder.path} has files that were changed or replaced after zeta wrote them. Even force leaves them "
            "alone; move them away, or choose another folder:"
        )
        raise CheckpointError(listed(heading, changed))
    for name in existing:
        if folder.status(f"{EARLIER}{name}") is not None:
            raise folder.obstacle(f"{EARLIER}{name}", "nothing")
    return states


def _is_drawn(folder: Directory, shard: Shard, seed: int) -> bool:
    """Whether a file of tensors is still as zeta wrote it: its header, and the first elements of some tensors.

    Training changes nearly all elements. What is not there, as the file is cut off, is not compared, and neither is
    what is kept, or computed of whole tensors.
    """
    if not folder.begins(shard.name, shard.header):
        return False
    drawn = [
        item
        for item in shard.stored
        if not item.entry.kept and item.entry.section is None and is_elementwise(item.entry.initializer)
        and item.entry.nbytes
    ]  # fmt: skip
    for item in drawn[:: -(-len(drawn) // _COMPARED) or 1]:
        _, first = next(iter(Region.whole(item.entry.shape).tiles(_FIRST)))
        expected = b"".join(bytes(bytes_view(tile)) for _, tile in values_of(item.entry, seed, region=first))
        if not folder.begins(shard.name, expected, item.offsets[0]):
            return False
    return True


class Work:
    """A checkpoint that is being written. ``resumed``: an interrupted run with the same request left files here."""

    def __init__(self, folder: Directory, partial: Directory, request: Manifest, *, force: bool) -> None:
        self._folder = folder
        self._partial = partial
        self._names = request.names
        self._settings = request.beside
        self._force = force
        self._earlier = _replaceable(folder, self._settings, force=force)
        self.resumed = _is_resumed(partial, request, force=force)
        if not self.resumed:
            _begin(partial, request)

    def open(self, name: str) -> int:
        """The descriptor of the file that will be ``name``: new, or with what an interrupted run has written of it."""
        taken_up = self.resumed and self._partial.status(part(name)) is not None
        return self._partial.reopen(part(name)) if taken_up else self._partial.create(part(name))

    def write(self, name: str, content: bytes) -> None:
        """Write the file that will be ``name``, and fsync it."""
        if self.resumed:
            self._partial.remove(part(name))
        self._partial.write(part(name), content)

    def reserve(self, size: int) -> None:
        """Raise ``CheckpointError`` at once if the disk has not enough free space for ``size`` bytes."""
        missing = size - sum(found.st_blocks * 512 for found in _parts(self._partial, self._names))
        free = shutil.disk_usage(self._folder.path).free
        if missing > free:
            raise CheckpointError(
                f"{self._folder.path} has room for {free:,} bytes, and {missing:,} are needed; nothing was written"
            )

    def publish(self) -> None:
        """Replace the folder's checkpoint by what was written: all of it, or nothing."""
        # others may have written there in the meantime
        self._earlier = _replaceable(self._folder, self._settings, force=self._force)
        publish(self._folder, self._partial, self._names, self._earlier)

    def is_worth_keeping(self) -> bool:
        """Whether enough was written to keep it for a later run."""
        if self.resumed or self._partial.status(JOURNAL) is not None:
            return True
        parts = _parts(self._partial, self._names)
        return len(parts) > 1 or sum(found.st_size for found in parts) >= _WORTH_KEEPING

    def remove(self) -> None:
        """Remove what this run has made, the journal last; nothing if an earlier file could not be removed."""
        if all(self._folder.status(f"{EARLIER}{name}") is None for name in self._earlier):
            _forget(self._partial, self._names)


@contextlib.contextmanager
def work(folder: Path, request: Manifest, *, force: bool) -> Iterator[Work]:
    """Start or resume the unfinished work in ``folder``, for one run at a time.

    If the block fails, what was written stays if it is worth keeping, and a note in the error says so; otherwise all of
    it is removed. An interrupted run with another request is an error; with ``force``, its files are removed.
    """
    created = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    left = "nothing was left there"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Directory.open(folder) as place, _locked(place) as (partial, is_new):
            if not is_new:
                _settle(place, partial, request)
            unfinished = Work(place, partial, request, force=force)
            try:
                yield unfinished
            except BaseException as error:
                if unfinished.is_worth_keeping():
                    left = f"what is written stays in {partial.path}, and the same call goes on from there"
                    error.add_note(visible(left))
                else:
                    unfinished.remove()
                raise
            unfinished.remove()
        created = []
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot write to {folder}: {error.strerror or error}; {left}") from error
    finally:
        for parent in created:
            with contextlib.suppress(OSError):  # the folder is not empty
                parent.rmdir()


@contextlib.contextmanager
def _locked(folder: Directory) -> Iterator[tuple[Directory, bool]]:
    """Lock the subfolder for unfinished work; yield it, and whether it is new. ``CheckpointError`` if it is locked.

    At the end it is removed if it is empty.
    """
    is_new = folder.make_folder(PARTIAL)
    with folder.inner(PARTIAL) as partial:
        busy = False
        try:
            fcntl.flock(partial.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the run that held the lock may have removed the subfolder in the meantime
            found = folder.status(PARTIAL)
            busy = found is None or not os.path.samestat(found, os.fstat(partial.descriptor))
        except BlockingIOError:
            busy = True
        except OSError:
            pass  # not every file system has locks
        if busy:
            raise CheckpointError(f"another run is writing to {folder.path}; wait for it, or choose another folder")
        try:
            yield partial, is_new
        finally:
            folder.remove_folder(PARTIAL)


def _settle(folder: Directory, partial: Directory, request: Manifest) -> None:
    """Complete or undo the publication of a run that was killed during it; see ``journal``."""
    journal = Journal.read(partial)
    if journal is None:
        return
    journal.check(folder, partial)
    if journal.is_complete(folder, partial):
        journal.forget_earlier(folder)
        if not _is_of(folder, request):
            _forget(partial, tuple(journal.files))
            return
        _note(partial, request)
    journal.roll_back(folder, partial)
    partial.remove(JOURNAL)


def _is_of(folder: Directory, request: Manifest) -> bool:
    """Whether the folder has a complete checkpoint of the same request."""
    try:
        folder.check(MANIFEST)
        found = Manifest.read(folder.path / MANIFEST)
    except CheckpointError:
        return False
    present = set(_own_names(folder, {*found.beside, *request.beside}))
    return present == {*found.names} and not any(changes(found, request))


def _is_resumed(partial: Directory, request: Manifest, *, force: bool) -> bool:
    """Whether there are files of an interrupted run with the same request. With ``force``, removes those of another."""
    if partial.status(_REQUEST) is None or _is_unfinished_note(partial, request):
        return False
    partial.check(_REQUEST)
    try:
        earlier = Manifest.read(partial.path / _REQUEST)
        names = earlier.names
        other = list(changes(earlier, request))
    except CheckpointError as error:
        raise CheckpointError(
            f"{partial.path} cannot be taken up: {error}. Not even force removes what no note names; keep what you "
            "need of it, and remove it"
        ) from error
    if other and _parts(partial, names) and not force:
        heading = (
            f"{partial.path} is of an interrupted run that asked for something else; ask for the same to go on from "
            "there, or start anew with force (--force):"
        )
        raise CheckpointError(listed(heading, other))
    if other:
        _forget(partial, names)
    return not other


def _begin(partial: Directory, request: Manifest) -> None:
    """Write ``request.json``. From then on, the files that it names are this run's, so none may exist before."""
    for name in _made(partial, request.names):
        if name != _REQUEST:
            raise partial.obstacle(name, "nothing")
    _note(partial, request)


def _note(partial: Directory, request: Manifest) -> None:
    """Write ``request.json`` unless it exists. A run that was killed may have written only its beginning."""
    if partial.status(_REQUEST) is not None:
        if not _is_unfinished_note(partial, request):
            return
        partial.remove(_REQUEST)
    partial.write(_REQUEST, request.to_json().encode("utf-8"))
    partial.sync()


def _is_unfinished_note(partial: Directory, request: Manifest) -> bool:
    """Whether a run with the same request was killed while it wrote ``request.json``, before anything else."""
    text = request.to_json().encode("utf-8")
    found = partial.status(_REQUEST)
    if found is None or found.st_size >= len(text) or len(partial.names()) > 1:
        return False
    return text.startswith(partial.read(_REQUEST, len(text)) or b"")


def _made(partial: Directory, names: Sequence[str]) -> list[str]:
    """The existing files of those that a run for ``names`` makes, in the order in which they are to be removed."""
    made = (*map(part, names), part(JOURNAL), _REQUEST, JOURNAL)
    return [name for name in made if partial.status(name) is not None]


def _forget(partial: Directory, names: Sequence[str]) -> None:
    with contextlib.suppress(OSError):
        for name in _made(partial, names):
            partial.remove(name)


def _parts(partial: Directory, names: Sequence[str]) -> list[os.stat_result]:
    """The statuses of the existing unfinished tensor files of ``names``."""
    statuses = (partial.status(part(name)) for name in names if name.endswith(".safetensors"))
    return [found for found in statuses if found is not None]
