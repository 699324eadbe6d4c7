"""Trees as named arrays: the names that parameters and states have on disk, in tables and in figures."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def named_leaves(tree: Any) -> list[tuple[str, Any]]:
    """Return the leaves of a pytree with their paths, such as "blocks.0.attn.W_Q"."""
    return [(_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def map_named(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """Map `function(path, leaf)` over the leaves of a pytree."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_name(path), leaf), tree)


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def flatten(tree: Any) -> dict[str, np.ndarray]:
    """Copy the leaves of a pytree to the host, by path; a typed key becomes its data."""
    return {
        name: np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf) for name, leaf in named_leaves(tree)
    }


def nest(arrays: dict[str, np.ndarray], like: Any) -> Any:
    """Invert `flatten`: return a pytree like `like`; raises ValueError where names, shapes or dtypes differ."""
    expected = dict(named_leaves(like))
    if expected.keys() != arrays.keys():
        raise ValueError(f"missing or unexpected arrays: {', '.join(sorted(expected.keys() ^ arrays.keys()))}")
    leaves = []
    for name, leaf in expected.items():
        array = jax.device_put(arrays[name], may_alias=False)  # `asarray` would compile a copy for every shape.
        array = jax.random.wrap_key_data(array) if _is_key(leaf) else array
        if array.shape != leaf.shape or array.dtype != leaf.dtype:
            raise ValueError(f"{name} is {array.dtype}{array.shape}, expected {leaf.dtype}{leaf.shape}")
        leaves.append(array)
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
