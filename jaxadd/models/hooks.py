"""Hooks on activations: reading them and replacing them by name in a call of `Model.apply`."""

from collections.abc import Callable, Collection, Mapping

import chex
import jax
import numpy as np

from jaxadd.errors import UserError

Edit = Callable[[jax.Array], jax.Array]
"""A pure function of one activation, batch first, whose result replaces it; the shape must not change."""


class Hooks:
    """The activations that one call of `apply` returns and replaces.

    Attributes:
      cache: the requested activations that are computed so far, by name, batch first.
    """

    def __init__(self, known: Collection[str], names: Collection[str], edits: Mapping[str, Edit]):
        """Set the activations to return and the edits to make; raises UserError for a name that is not `known`."""
        if unknown := [name for name in (*names, *edits) if name not in known]:
            raise UserError(f"no activation is named {', '.join(unknown)}; there are {', '.join(known)}")
        self._names, self._edits = frozenset(names), edits
        self.cache: dict[str, jax.Array] = {}

    def __call__(self, name: str, value: jax.Array, axes: tuple[int, ...] = (1, 0)) -> jax.Array:
        """Record an activation under its name, and return it or its replacement.

        Args:
          name: name of the activation.
          value: the activation, with the axes in the order in which it is computed.
          axes: the permutation of its leading axes that puts the batch first.
        """
        if not self.uses(name):
            return value
        axes = (*axes, *range(len(axes), value.ndim))
        public = value.transpose(axes)
        if name in self._edits:
            shape = public.shape
            public = self._edits[name](public)
            chex.assert_shape(public, shape)
        if name in self._names:
            self.cache[name] = public
        return public.transpose(np.argsort(axes))

    def uses(self, *names: str) -> bool:
        """Return whether any of these activations is returned or replaced."""
        return any(name in self._names or name in self._edits for name in names)
