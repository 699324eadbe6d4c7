"""The families of networks that can be read, one module for each."""

from jaxadd.interop.formats import blocks, microadder, pair_mlp, qwen
from jaxadd.interop.formats.format import Format, Found

FORMATS: tuple[Format, ...] = (pair_mlp.FORMAT, blocks.FORMAT, microadder.FORMAT, qwen.FORMAT)
"""All families; the first that recognises the names of a state dict reads it."""

__all__ = ["FORMATS", "Format", "Found"]
