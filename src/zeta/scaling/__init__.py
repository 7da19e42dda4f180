"""Width and depth: a base and a target go in; initializers, optimizer groups and multipliers come out."""

from zeta.scaling.family import family
from zeta.scaling.scaling import Scaling
from zeta.scaling.verb import scale

__all__ = ["Scaling", "family", "scale"]
