"""Hooks on activations: reading, replacing and dropping them by name in a call of `Model.apply`."""

from collections.abc import Callable, Collection, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError

Edit = Callable[[jax.Array], jax.Array]
"""A pure function of one activation, batch first, whose result replaces it; the shape must not change."""


class Hooks:
    """The activations that one call of `apply` returns and replaces.

    Attributes:
      cache: the requested activations that are computed so far, by name, batch first.
    """

    def __init__(
        self,
        known: Collection[str],
        names: Collection[str],
        edits: Mapping[str, Edit],
        dropout_key: jax.Array | None = None,
    ):
        """Set the activations to return and the edits to make; raises UserError for a name that is not `known`."""
        if unknown := [name for name in (*names, *edits) if name not in known]:
            raise UserError(f"no activation is named {', '.join(unknown)}; there are {', '.join(known)}")
        self._names, self._edits = frozenset(names), edits
        self._known, self._dropout_key = tuple(known), dropout_key
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
            if jnp.shape(public) != shape:
                raise UserError(
                    f"the edit of {name} should return the shape {list(shape)}, got {list(jnp.shape(public))}"
                )
        if name in self._names:
            self.cache[name] = public
        return public.transpose(np.argsort(axes))

    def drop(self, name: str, value: jax.Array, rate: float) -> jax.Array:
        """Set a fraction of an activation to 0 and scale the rest up; nothing without a key.

        Args:
          name: name of the activation, from which its mask follows, with the key.
          value: the activation.
          rate: fraction set to 0.
        """
        if self._dropout_key is None or rate == 0:
            return value
        kept = jax.random.bernoulli(
            jax.random.fold_in(self._dropout_key, self._known.index(name)), 1 - rate, value.shape
        )
        return jnp.where(kept, value / (1 - rate), 0)

    def uses(self, *names: str) -> bool:
        """Return whether any of these activations is returned or replaced."""
        return any(name in self._names or name in self._edits for name in names)
