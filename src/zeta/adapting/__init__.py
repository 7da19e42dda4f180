"""Start from an existing checkpoint: ``adapt_`` for a model, ``missing_keys`` for transformers' ``from_pretrained``."""

from zeta.adapting.missing import missing_keys
from zeta.adapting.verb import adapt_

__all__ = ["adapt_", "missing_keys"]
