"""Private random numbers: in a block, one thread draws from separate generators, and the shared ones do not move.

In: a seed. Inside the block, this thread's random numbers of torch, Python and NumPy come from private generators.
"""

from zeta.base.generators.foreign import foreign_apart
from zeta.base.generators.functions import FUNCTIONS, apart
from zeta.base.generators.private import Private

__all__ = ["FUNCTIONS", "Private", "apart", "foreign_apart"]
