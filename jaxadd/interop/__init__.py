"""Checkpoints of other libraries: torch's files without torch, in Nanda et al.'s or TransformerLens's layout.

`read` and `write` are for files; the four conversions are for state dicts in memory.
"""

from jaxadd.interop.checkpoint import MAX_BYTES, Adam, Checkpoint, read, write
from jaxadd.interop.layouts import from_mainline, from_transformer_lens, to_mainline, to_transformer_lens

__all__ = [
    "MAX_BYTES",
    "Adam",
    "Checkpoint",
    "from_mainline",
    "from_transformer_lens",
    "read",
    "to_mainline",
    "to_transformer_lens",
    "write",
]
