"""Start from an existing checkpoint: ``adapt_`` for a model, ``adapt_folder`` for a folder, and ``missing_keys``.

That is for transformers' ``from_pretrained``.
"""

from zeta.adapting.missing import missing_keys
from zeta.adapting.verb import adapt_, adapt_folder

__all__ = ["adapt_", "adapt_folder", "missing_keys"]
