"""Random numbers apart: what one thread draws in a block, without a trace in the generators that all threads share.

In goes a seed; inside the block, torch's, Python's and NumPy's random numbers come from generators of the block.
"""

from zeta.base.generators.foreign import foreign_apart
from zeta.base.generators.functions import FUNCTIONS, apart
from zeta.base.generators.private import Private

__all__ = ["FUNCTIONS", "Private", "apart", "foreign_apart"]
