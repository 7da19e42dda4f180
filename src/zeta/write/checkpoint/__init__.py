"""The files of a checkpoint: their layout, the manifest, how they are written, and how they appear all at once.

``layout`` computes names and offsets from the plan alone. ``settings`` makes the files that transformers needs in
addition. ``manifest`` is the request, stored as ``zeta.json``; ``adapted`` makes that of a checkpoint that is made of
another one. ``blocks`` groups small tensors that are drawn together, and ``keeping`` has the values that are not drawn,
from the model or the other checkpoint. ``writing`` has the threads that fill the files.
``unfinished`` keeps unfinished work apart and publishes it when it is complete. ``journal`` makes that safe even if the
run is killed. ``open_folder`` follows no link.
"""

from zeta.write.checkpoint.adapted import check_apart, request_of
from zeta.write.checkpoint.blocks import Block, blocks
from zeta.write.checkpoint.layout import INDEX, MAX_SHARD_SIZE, TENSORS, Layout, Shard, Stored, bytes_of, layout
from zeta.write.checkpoint.manifest import MANIFEST, Manifest
from zeta.write.checkpoint.outputs import check_output, output_path, write_text
from zeta.write.checkpoint.settings import CONFIG, settings_of
from zeta.write.checkpoint.unfinished import PARTIAL, check_folder, files_of, work
from zeta.write.checkpoint.writing import Writer

__all__ = [
    "CONFIG",
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
    "check_apart",
    "check_folder",
    "check_output",
    "files_of",
    "layout",
    "output_path",
    "request_of",
    "settings_of",
    "work",
    "write_text",
]
