"""How a checkpoint's files get their final names all at once, and how the next run handles an interrupted publication.

The journal is written before the first file is moved and removed after the last. If a run is killed at any moment, the
next run reads in the journal which files were set aside and which are new, and recognizes each new file by its inode:

- The manifest is moved last. If it does not have its final name yet, everything is moved back: the earlier files get
  their names again, and the new ones become unfinished files, which the same call resumes.
- If it has, the new checkpoint is complete. The same call turns its files into unfinished ones and resumes them: it
  cannot know whether the killed run had finished. For any other call, it is a checkpoint like others.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self

import msgspec

from zeta.base.reading import Text, Texts, parse
from zeta.errors import CheckpointError, FormatError, listed
from zeta.write.checkpoint.layout import INDEX, SHARD, TENSORS
from zeta.write.checkpoint.manifest import MANIFEST
from zeta.write.checkpoint.open_folder import Directory, State
from zeta.write.checkpoint.settings import COPIED, SETTINGS

JOURNAL: Final = "journal.json"
EARLIER: Final = ".zeta-earlier."
PART: Final = ".part"
_FORMAT: Final = "zeta journal 2"
_MOST_BYTES: Final = 2**26


def is_own(name: str) -> bool:
    """Whether only a checkpoint's file has this name. Files of settings have names that others write too."""
    return name in (TENSORS, INDEX, MANIFEST) or SHARD.fullmatch(name) is not None


def part(name: str) -> str:
    """The name of the file while it is unfinished."""
    return f"{name}{PART}"


class _Document(msgspec.Struct, frozen=True):
    """The content of ``journal.json``."""

    format: Text
    files: dict[Text, int]
    earlier: Texts
    states: dict[Text, tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class Journal:
    """``files``: the inode of each new file, the manifest last; ``earlier``: the files set aside, manifest first.

    ``states``: size and time of the last change of each new file, in ns. A file that was copied over keeps its inode.
    """

    files: dict[str, int]
    earlier: tuple[str, ...]
    states: Mapping[str, tuple[int, int]]

    @classmethod
    def of(cls, place: Directory, parts: Mapping[str, str], earlier: Sequence[str]) -> Self:
        """The journal for new files; ``parts`` maps their final names to their present names in ``place``."""
        files, states = {}, {}
        for name in sorted(parts, key=lambda name: name == MANIFEST):
            found = place.state(parts[name])
            if found is None:
                raise CheckpointError(f"{place.path / parts[name]} has disappeared; run the same again")
            place.check(parts[name])  # another process may have put a link there
            files[name], states[name] = found[0], found[1:]
        return cls(files=files, earlier=tuple(sorted(earlier, key=lambda name: name != MANIFEST)), states=states)

    @classmethod
    def read(cls, partial: Directory) -> Self | None:
        """The journal of an interrupted run, if there is one; ``CheckpointError`` if it is not what zeta writes."""
        whole, begun = partial.status(JOURNAL), partial.status(part(JOURNAL))
        if whole is not None and begun is not None and os.path.samestat(whole, begun):
            partial.remove(part(JOURNAL))  # the run was killed while it renamed the journal
        content = partial.read(JOURNAL, _MOST_BYTES)
        if content is None:
            return None
        try:
            data = parse(content, _Document)
            valid = data.format == _FORMAT and list(data.files)[-1:] == [MANIFEST]
            valid &= data.states.keys() == data.files.keys()
            valid &= all(is_own(name) or name in (*SETTINGS, *COPIED) for name in (*data.files, *data.earlier))
        except FormatError:
            valid = False
        if not valid:
            raise _damaged(partial)
        return cls(files=data.files, earlier=data.earlier, states=data.states)

    def write(self, partial: Directory) -> None:
        """Write and fsync the journal, as a whole or not at all."""
        content = {"format": _FORMAT, "files": self.files, "earlier": self.earlier, "states": self.states}
        text = json.dumps(content, indent=1)
        partial.remove(part(JOURNAL))
        partial.write(part(JOURNAL), text.encode())
        partial.move(part(JOURNAL), partial, JOURNAL)
        partial.sync()

    def check(self, folder: Directory, partial: Directory) -> None:
        """Raise ``CheckpointError`` unless every new file exists, under either name, and was not written to since.

        The user may have trained in place or replaced a file. Such files are the user's, and nothing is changed.
        """
        for name, inode in self.files.items():
            if (inode, *self.states[name]) not in (folder.state(name), partial.state(part(name))):
                raise _damaged(partial)

    def is_complete(self, folder: Directory, partial: Directory) -> bool:
        """Whether the last file, the manifest, has its final name."""
        found = folder.status(MANIFEST)
        return found is not None and found.st_ino == self.files[MANIFEST] and partial.status(part(MANIFEST)) is None

    def set_aside(self, folder: Directory, expected: Mapping[str, State | None]) -> None:
        """Set the earlier files aside; ``CheckpointError`` if one is not the file of ``expected`` any more."""
        for name in self.earlier:
            folder.move(name, folder, f"{EARLIER}{name}")
        changed = [name for name in self.earlier if folder.state(f"{EARLIER}{name}") != expected[name]]
        if changed:
            heading = f"{folder.path} has files that another program wrote while zeta was to replace them:"
            raise CheckpointError(listed(heading, changed))

    def roll_forward(self, folder: Directory, partial: Directory) -> None:
        """Give the new files their final names."""
        for name in self.files:
            partial.move(part(name), folder, name)
        folder.sync()

    def roll_back(self, folder: Directory, partial: Directory) -> None:
        """Turn the new files into unfinished ones again, and give the earlier files their names."""
        for name, inode in reversed(self.files.items()):
            found = folder.status(name)
            if found is not None and found.st_ino == inode:
                folder.move(name, partial, part(name))
        for name in reversed(self.earlier):
            if folder.status(f"{EARLIER}{name}") is not None:
                folder.move(f"{EARLIER}{name}", folder, name)
        folder.sync()

    def forget_earlier(self, folder: Directory) -> None:
        """Remove the earlier files."""
        for name in self.earlier:
            folder.remove(f"{EARLIER}{name}")


def _damaged(partial: Directory) -> CheckpointError:
    return CheckpointError(
        f"{partial.path / JOURNAL} is damaged, or not of these files, so that the interrupted run cannot be taken up; "
        f"keep what you need of {partial.path.parent} and its {EARLIER}* files, and remove {partial.path}"
    )


def publish(folder: Directory, partial: Directory, names: Sequence[str], earlier: Mapping[str, State | None]) -> None:
    """Replace the ``earlier`` files by the unfinished files of ``names``: all of them, or none.

    ``earlier`` has the state of each before it was looked at. The journal stays: the caller removes it when the earlier
    files are removed.
    """
    journal = Journal.of(partial, {name: part(name) for name in names}, (*earlier,))
    journal.write(partial)
    try:
        journal.set_aside(folder, earlier)
        journal.roll_forward(folder, partial)
    except BaseException:
        if not journal.is_complete(folder, partial):
            _undo(journal, folder, partial)
        raise
    with contextlib.suppress(OSError):  # the next run removes them
        journal.forget_earlier(folder)


def _undo(journal: Journal, folder: Directory, partial: Directory) -> None:
    try:
        journal.roll_back(folder, partial)
        partial.remove(JOURNAL)
    except OSError as error:
        asides = f"; the earlier files are {folder.path / EARLIER}*" if journal.earlier else ""
        raise CheckpointError(
            f"cannot restore {folder.path}: {error.strerror or error}{asides}; the next run that writes there does it"
        ) from error
