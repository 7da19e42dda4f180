"""The files of a checkpoint: what is where in them, what was asked for, how they are written and become complete.

``layout`` follows from the plan alone, ``manifest`` is the request that ``zeta.json`` keeps, ``blocks`` are small
tensors that are drawn at once, ``writing`` has the threads that fill the files, ``folder`` holds unfinished work until
everything can appear at once, ``journal`` lets it do so even if the run is killed meanwhile, ``directory`` is an open
folder in which no link is followed.
"""

from zeta.write.checkpoint.blocks import Block, blocks
from zeta.write.checkpoint.folder import PARTIAL, check_folder, files_of, work
from zeta.write.checkpoint.layout import INDEX, MAX_SHARD_SIZE, TENSORS, Layout, Shard, Stored, bytes_of, layout
from zeta.write.checkpoint.manifest import MANIFEST, Manifest
from zeta.write.checkpoint.outputs import check_output, output_path, write_text
from zeta.write.checkpoint.writing import Writer, memory

__all__ = [
    "INDEX",
    "MANIFEST",
    "MAX_SHARD_SIZE",
    "PARTIAL",
    "TENSORS",
    "Block",
    "Layout",
    "Manifest",
    "Shard",
    "Stored",
    "Writer",
    "blocks",
    "bytes_of",
    "check_folder",
    "check_output",
    "files_of",
    "layout",
    "memory",
    "output_path",
    "work",
    "write_text",
]
