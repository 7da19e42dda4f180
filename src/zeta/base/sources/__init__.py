"""Sources: tensors of an existing checkpoint, which are read one by one and in parts, and never run anything.

``open_source`` takes a state dict, a module, a file or a folder and gives a ``Source``. ``opening`` finds out what it
is. ``state_dict``, ``safetensors``, ``archives`` (of ``torch.save``), ``folder`` and ``distributed`` read one kind
each. ``unpickling`` reads pickles as data. ``places`` reads a box of a tensor from ``files``, which must not change
meanwhile.
"""

from zeta.base.sources.opening import Checkpoint, open_source
from zeta.base.sources.source import Source, TensorInfo

__all__ = ["Checkpoint", "Source", "TensorInfo", "open_source"]
