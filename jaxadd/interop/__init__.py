"""Checkpoints of other libraries, without torch: networks of the field are read, and two layouts are written.

`read` and `write` are for files; `from_state_dict`, `to_mainline` and `to_transformer_lens` for state dicts in
memory.
"""

from jaxadd.interop.adam import Adam
from jaxadd.interop.checkpoint import MAX_BYTES, Checkpoint, from_state_dict, read, write
from jaxadd.interop.layouts import Layout, to_mainline, to_transformer_lens

__all__ = [
    "MAX_BYTES",
    "Adam",
    "Checkpoint",
    "Layout",
    "from_state_dict",
    "read",
    "to_mainline",
    "to_transformer_lens",
    "write",
]
