"""The folder of a checkpoint: what is there already, unfinished work inside it, and how that becomes complete at once.

Work goes on in ``.zeta-partial``, beside a note of what was asked for; nothing in there has the name of a checkpoint's
file. It is gone when the checkpoint is complete, or when what failed is not worth keeping.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from zeta.errors import CheckpointError, listed
from zeta.files.layout import INDEX, SHARD, TENSORS
from zeta.files.manifest import MANIFEST, Manifest, changes

PARTIAL: Final = ".zeta-partial"
_REQUEST: Final = "request.json"
_PART: Final = ".part"
_EARLIER: Final = ".zeta-earlier."
#: one unfinished file is kept from this size on, several always
_WORTH_KEEPING: Final = 2**26


def check_folder(folder: Path, *, force: bool) -> None:
    """Raise ``CheckpointError`` if ``folder`` is not one, or has an earlier run's files that may not be replaced."""
    try:
        if os.path.lexists(folder) and not folder.is_dir():
            raise CheckpointError(f"cannot write to {folder}: it is not a folder")
        existing = files_of(folder)
        for name in existing:
            if (folder / name).is_dir():
                raise CheckpointError(f"{folder / name} is a folder, expected a file; choose another folder")
    except PermissionError as error:
        raise CheckpointError(f"{folder} cannot be looked into: {error.strerror}") from error
    if existing and not force:
        shown = existing if len(existing) <= 3 else (existing[0], f"{len(existing) - 1} more files")
        raise CheckpointError(
            f"{folder} already has {' and '.join(shown)}; choose another folder, or overwrite with force (--force)"
        )


def files_of(folder: Path) -> tuple[str, ...]:
    """The names of what is there of a checkpoint, complete or not."""
    if not folder.is_dir():
        return ()
    own = (TENSORS, INDEX, MANIFEST)
    return tuple(sorted(name for name in os.listdir(folder) if name in own or SHARD.fullmatch(name)))  # noqa: PTH208


class Work:
    """A checkpoint that is being written. ``resumed`` tells that an interrupted run for the same left files here."""

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        self.folder = folder
        self.resumed = resumed

    def part(self, name: str) -> Path:
        """Where the file ``name`` grows."""
        return self.folder / PARTIAL / f"{name}{_PART}"

    def reserve(self, size: int) -> None:
        """Fail now, and not after minutes, if the disk has no room."""
        missing = size - sum(path.stat().st_blocks * 512 for path in _parts(self.folder / PARTIAL))
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise CheckpointError(
                f"{self.folder} has room for {free:,} bytes, and {missing:,} are needed; nothing was written"
            )

    def publish(self, names: Sequence[str]) -> None:
        """Let the parts of ``names`` be the folder's checkpoint, instead of what is there; all of them or none.

        The last name goes first and comes last. It is the manifest, which then never stands beside another's tensors.
        """
        earlier = sorted(files_of(self.folder), key=lambda name: name != names[-1])
        asides = [(self.folder / name, self.folder / f"{_EARLIER}{name}") for name in earlier]
        with contextlib.ExitStack() as undo:
            for target, aside in asides:
                undo.callback(_back, aside, target, f"the earlier file is {aside}")
                target.replace(aside)
            for name in names:
                target, part = self.folder / name, self.part(name)
                undo.callback(_back, target, part, "a new file stays there")
                part.replace(target)
            undo.pop_all()
        for aside in self.folder.glob(f"{_EARLIER}*"):
            with contextlib.suppress(OSError):
                aside.unlink()
        with contextlib.suppress(OSError):  # not every system can
            sync(self.folder)


def _back(moved: Path, origin: Path, otherwise: str) -> None:
    """Undo a renaming, if it happened."""
    try:
        if os.path.lexists(moved) and not os.path.lexists(origin):
            moved.replace(origin)
    except OSError as error:
        raise CheckpointError(f"cannot restore {origin}: {error.strerror or error}; {otherwise}") from error


@contextlib.contextmanager
def work(folder: Path, request: Manifest, *, force: bool) -> Iterator[Work]:
    """Make or take up the unfinished work in ``folder``, for one run at a time.

    What was written stays there if the block fails, and is told in the error, if it is worth keeping; else no trace is
    left. An interrupted run that asked for something else is an error, or with ``force`` forgotten.
    """
    created = [parent for parent in (folder, *folder.parents) if not os.path.lexists(parent)]
    left = "nothing was left there"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / PARTIAL) as place:
            resumed = _is_resumed(place, request, force=force)
            try:
                if not resumed:
                    _begin(place, request)
                yield Work(folder, resumed=resumed)
            except BaseException as error:
                if resumed or _is_worth_keeping(place):
                    left = f"what is written stays in {place}, and the same call goes on from there"
                    error.add_note(left)
                else:
                    _remove(place)
                raise
            _remove(place)
        created = []
    except OSError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"cannot write to {folder}: {error.strerror or error}; {left}") from error
    finally:
        for parent in created:
            with contextlib.suppress(OSError):  # where something was left
                parent.rmdir()


def sync(path: Path) -> None:
    """Let the disk have a file's bytes, or a folder's names, before anything else happens."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[Path]:
    """The folder for unfinished work, made if missing; ``CheckpointError`` while another run has it."""
    place.mkdir(exist_ok=True)
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        busy = False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # the run that had it may have removed it a moment ago
            busy = not place.exists() or not os.path.samestat(place.stat(), os.fstat(descriptor))
        except BlockingIOError:
            busy = True
        except OSError:
            pass  # not every file system can
        if busy:
            raise CheckpointError(f"another run is writing to {place.parent}; wait for it, or choose another folder")
        yield place
    finally:
        os.close(descriptor)


def _is_resumed(place: Path, request: Manifest, *, force: bool) -> bool:
    """Whether the files of an interrupted run are there, and are those of this one."""
    if not _parts(place):
        return False
    try:
        other = list(changes(Manifest.read(place / _REQUEST), request))
    except CheckpointError as error:
        other = [str(error)]
    if other and not force:
        heading = (
            f"{place} is of an interrupted run that asked for something else; ask for the same to go on from there, or "
            "start anew with force (--force):"
        )
        raise CheckpointError(listed(heading, other))
    return not other


def _begin(place: Path, request: Manifest) -> None:
    for path in place.iterdir():
        path.unlink()
    (place / _REQUEST).write_text(request.to_json(), encoding="utf-8")


def _parts(place: Path) -> list[Path]:
    return list(place.glob(f"*.safetensors{_PART}"))


def _is_worth_keeping(place: Path) -> bool:
    parts = _parts(place)
    return len(parts) > 1 or sum(path.stat().st_size for path in parts) >= _WORTH_KEEPING


def _remove(place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
