"""What each tensor of a model gets from a checkpoint: loaded, grown or initialized. Reads names, shapes, dtypes only.

Goes in: the model's tensors, the checkpoint's names, shapes and dtypes, what grows. Comes out: an ``Adaption``, with a
plan of what is drawn, and for everything else an array of which any box can be read (``compute/assembled.py``).
``names`` pairs the names of both; ``rows``, ``layers`` and ``experts`` have one way of growing each.
"""

from zeta.resolve.adapting.adaption import adaption
from zeta.resolve.adapting.given import Adaption, Given

__all__ = ["Adaption", "Given", "adaption"]
