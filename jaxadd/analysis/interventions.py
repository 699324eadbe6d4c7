"""Interventions: look at activations, and put something else in their place.

An edit is a pure function of one activation, batch first, and an argument of `apply` (`edits={name: edit}`), so
everything here works under `jit`, `grad` and `vmap`. A `Site` says where: which positions, heads or neurons of an
activation. `each` makes one intervention at every one of many sites in a single compiled call.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.lanes import over_lanes
from jaxadd.models import Edit, Model, structure
from jaxadd.types import Params


class Site(NamedTuple):
    """A part of one activation; None takes all there are.

    Attributes:
      name: of the activation, such as "blocks.0.attn.hook_z".
      positions: token positions, from 0; of attention patterns, those that look.
      heads: of an activation that has heads.
      neurons: of `mlp.hook_pre` and `mlp.hook_post`.
      sources: of attention patterns and scores, the token positions looked at.
    """

    name: str
    positions: tuple[int, ...] | None = None
    heads: tuple[int, ...] | None = None
    neurons: tuple[int, ...] | None = None
    sources: tuple[int, ...] | None = None


def cache(
    params: Params, model: Model, inputs: jax.Array, names: Collection[str], edits: Mapping[str, Edit] | None = None
) -> dict[str, jax.Array]:
    """Return the activations of these names, batch first, of a run with `edits` if there are any."""
    return model.apply(params, inputs, names, edits)[1]


def gradients(
    params: Params,
    model: Model,
    inputs: jax.Array,
    names: Collection[str],
    objective: Callable[[jax.Array], jax.Array],
) -> dict[str, jax.Array]:
    """Compute the gradient of a scalar function of the logits `[B, R, C]` by each activation, in its shape."""
    shapes = jax.eval_shape(lambda: model.apply(params, inputs, names)[1])
    nothing = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}

    def value(added: dict[str, jax.Array]) -> jax.Array:
        edits = {name: lambda x, more=more: x + more for name, more in added.items()}
        return objective(model.apply(params, inputs, (), edits)[0])

    return jax.grad(value)(nothing)


# --- edits -----------------------------------------------------------------------------------------------


def zero(x: jax.Array) -> jax.Array:
    """Replace an activation by 0."""
    return jnp.zeros_like(x)


def mean(x: jax.Array) -> jax.Array:
    """Replace an activation by its mean over the batch."""
    return jnp.broadcast_to(jnp.mean(x, axis=0), x.shape)


def scale(factor: float | jax.Array) -> Edit:
    """Return the edit that multiplies by a number, or by anything that broadcasts."""
    return lambda x: x * factor


def resample(partner: jax.Array) -> Edit:
    """Return the edit that replaces the activation of example i by that of example `partner[i]`, int `[B]`."""
    return lambda x: x[partner]


def patch(source: jax.Array) -> Edit:
    """Return the edit that replaces an activation by a given one, such as one cached from another batch."""

    def patched(x: jax.Array) -> jax.Array:
        chex.assert_is_broadcastable(source.shape, x.shape)
        return jnp.broadcast_to(source, x.shape)

    return patched


def project_onto(directions: jax.Array) -> Edit:
    """Return the edit that keeps only what lies in the span of `directions` `[n, D]`, along the last axis.

    The directions need not be orthogonal.
    """
    chex.assert_rank(directions, 2)
    projector = jnp.linalg.pinv(directions) @ directions
    return lambda x: x @ projector


def project_out(directions: jax.Array) -> Edit:
    """Return the edit that removes what lies in the span of `directions` `[n, D]`, along the last axis."""
    onto = project_onto(directions)
    return lambda x: x - onto(x)


def where(mask: jax.Array, edit: Edit) -> Edit:
    """Return an edit that is made only where `mask` is true: bool, broadcastable to one example's activation."""
    return lambda x: jnp.where(jnp.expand_dims(mask, range(x.ndim - jnp.ndim(mask))), edit(x), x)


# --- sites -----------------------------------------------------------------------------------------------


def mask(site: Site, model: Model, shape: Sequence[int]) -> np.ndarray:
    """Return where a site is within its activation.

    Args:
      site: the part.
      model: of the network.
      shape: of the activation, batch first.

    Returns:
      bool, broadcastable to `shape[1:]`.

    Raises:
      UserError: the activation has no such axis, or no such member on it.
    """
    axes = structure.activation_axes(model, site.name)
    if unknown := [field for field in site._fields[1:] if getattr(site, field) is not None and field not in axes]:
        known = ", ".join(filter(None, axes))
        raise UserError(f"{site.name} has no {', '.join(unknown)} to choose from; it has {known}")
    marked = np.ones((1,) * len(axes), bool)
    for axis, (field, size) in enumerate(zip(axes, shape[1:], strict=True)):
        chosen = getattr(site, field) if field else None
        if chosen is None:
            continue
        read_only = field == "positions" and structure.only_where_read(model, site.name)
        there = list(model.sizes.read) if read_only else list(range(size))
        if missing := sorted(set(chosen) - set(there)):
            raise UserError(f"{site.name} has {field} {there[0]} to {there[-1]} of those computed, not {missing}")
        marked = marked & np.expand_dims(np.isin(there, chosen), [a for a in range(len(axes)) if a != axis])
    return marked


def masks(sites: Sequence[Site], params: Params, model: Model, inputs: jax.Array) -> dict[str, np.ndarray]:
    """Return where n sites are within their activations.

    Returns:
      bool `[n, ...]` by name, broadcastable to that activation behind the batch; row i is true at site i where
      it is of that name, and nowhere else.
    """
    names = tuple(dict.fromkeys(site.name for site in sites))
    shapes = jax.eval_shape(lambda: model.apply(params, inputs, names)[1])
    marked: dict[str, np.ndarray] = {}
    for name in names:
        rows = {i: mask(s, model, shapes[name].shape) for i, s in enumerate(sites) if s.name == name}
        shape = np.broadcast_shapes(*(m.shape for m in rows.values()))
        marked[name] = np.zeros((len(sites), *shape), bool)
        for i, row in rows.items():
            marked[name][i] = row
    return marked


def each(
    params: Params,
    model: Model,
    inputs: jax.Array,
    marked: Mapping[str, jax.Array],
    edit: Edit,
    measure: Callable[[jax.Array], Any],
) -> Any:
    """Intervene at every site, one at a time, in one compiled call.

    Args:
      params: of one network.
      model: its model.
      inputs: `[B, T]`.
      marked: as `masks` returns it, n rows.
      edit: what takes the place of each site, such as `mean`.
      measure: a function of the logits `[B, R, C]`; only its result is kept.

    Returns:
      what `measure` returns, with a leading axis n.
    """

    def one(row: Mapping[str, jax.Array]) -> Any:
        edits = {name: where(place, edit) for name, place in row.items()}
        return measure(model.apply(params, inputs, (), edits)[0])

    return over_lanes(one, width=16)({name: jnp.asarray(m) for name, m in marked.items()})
