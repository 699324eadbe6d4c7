"""Loss spikes: where a run has them, and what happens inside one.

`find` reads recorded losses. The rest looks at single states of a replay: the gradient by parameter, how sharp the
loss is for the optimiser, how much of it comes of one problem, and which parameters' movement raised it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxadd.optim.optimizers import Adam, AdamW
from jaxadd.types import Params

FACTOR = 10.0  # A spike is a loss this much above the median before it; a single unlucky batch may reach 5.
WINDOW = 100  # records that the median is taken over
LASTING = 3  # steps; what is over sooner is a batch of hard problems
_ITERATIONS = 10  # of the power method, which begins at the gradient, near its end
_TINY = 1e-30  # In place of a norm of 0; far below it a float32 is flushed to 0.


class Spike(NamedTuple):
    """A stretch of steps with a loss far above what it was before.

    Attributes:
      start: its first step.
      peak: the step of the largest loss.
      end: the first step at which the loss is back; None where it was not by the end of the record.
      before: the median loss of the records before it, nats.
      height: the largest loss, nats.
    """

    start: int
    peak: int
    end: int | None
    before: float
    height: float


def find(loss: np.ndarray, step: np.ndarray, *, factor: float = FACTOR, window: int = WINDOW) -> list[Spike]:
    """Find the spikes of a loss that was recorded at every step.

    A spike is where the loss stands above `factor` times the median of the `window` records before, for LASTING
    records at least. One that begins within half a window of another's end belongs to it.

    Args:
      loss: `[T]`, nats; the record ends at the first that is not finite (a lane that was frozen).
      step: `[T]`, ascending.
      factor: above 1.
      window: records.

    Returns:
      the spikes in the order of steps.
    """
    loss, step = np.asarray(loss, np.float64), np.asarray(step)
    chex.assert_rank([loss, step], 1)
    frozen = np.flatnonzero(~np.isfinite(loss))
    loss = loss[: frozen[0]] if frozen.size else loss
    if len(loss) <= window:
        return []
    views = np.lib.stride_tricks.sliding_window_view(loss, window)[:-1]
    # In parts, since a median copies what it is taken of.
    parts = np.array_split(views, len(views) // 4096 + 1)
    limit = np.concatenate([np.full(window, np.inf), *(factor * np.median(part, axis=-1) for part in parts)])
    stretches: list[list[int]] = []  # first record, and the one after the last
    place = 0
    while (above := np.flatnonzero(loss[place:] > limit[place:])).size:
        start = place + int(above[0])
        # The limit stays what it was: the median would soon be that of the spike.
        back = np.flatnonzero(loss[start:] <= limit[start])
        place = start + int(back[0]) if back.size else len(loss)
        if stretches and start - stretches[-1][1] < window // 2:
            stretches[-1][1] = place
        else:
            stretches.append([start, place])
    spikes = []
    for start, end in stretches:
        if end - start >= LASTING:
            peak = start + int(np.argmax(loss[start:end]))
            back = int(step[end]) if end < len(loss) else None
            spikes.append(
                Spike(int(step[start]), int(step[peak]), back, float(limit[start]) / factor, float(loss[peak]))
            )
    return spikes


class Look(NamedTuple):
    """What is seen of one state on its next batch.

    Attributes:
      norms: `[n]`, the gradient's Euclidean norm in each parameter, in the order of `trees.named_leaves`.
      direction: `[·]`, the whole gradient, flat, of length 1: its product with that of the step before is the cosine
        of the angle between them.
      sharpness: the largest curvature of the loss as Adam sees it, see `sharpness`; NaN for another optimiser.
    """

    norms: jax.Array
    direction: jax.Array
    sharpness: jax.Array


def look(loss: Callable[[Params], jax.Array], params: Params, scale: Params | None) -> Look:
    """Measure one state on its next batch.

    Args:
      loss: of the parameters, a scalar.
      params: of one lane.
      scale: of the shapes of `params`, see `adam_scale`; None for an optimiser that divides by nothing.
    """
    grads = jax.grad(loss)(params)
    leaves = jax.tree.leaves(grads)
    flat = jnp.concatenate([g.ravel() for g in leaves])
    norms = jnp.stack([jnp.linalg.norm(g) for g in leaves])
    curvature = jnp.float32(jnp.nan) if scale is None else sharpness(loss, params, scale, grads)
    return Look(norms, flat / jnp.maximum(jnp.linalg.norm(flat), _TINY), curvature)


def sharpness(loss: Callable[[Params], jax.Array], params: Params, scale: Params, start: Params) -> jax.Array:
    """Estimate the largest eigenvalue of P^-1/2 H P^-1/2, H the Hessian and P = diag(scale), from below.

    On the full loss, Adam is stable below (2 + 2 b1) / ((1 - b1) lr) (Cohen et al. 2022, "Adaptive gradient methods
    at the edge of stability"); `adam_limit` computes it. On a batch, as here, this is the curvature of that step.

    Args:
      loss: of the parameters, a scalar.
      params: of one lane.
      scale: see `adam_scale`.
      start: of the shapes of `params`; where the power method begins, mostly the gradient.
    """
    root = jax.tree.map(jnp.sqrt, scale)

    def unit(v: Params) -> Params:
        size = jnp.maximum(optax.tree.norm(v), _TINY)
        return jax.tree.map(lambda x: x / size, v)

    def again(_: int, carry: tuple[Params, jax.Array]) -> tuple[Params, jax.Array]:
        v, _ = carry
        _, curved = jax.jvp(jax.grad(loss), (params,), (jax.tree.map(jnp.divide, v, root),))
        curved = jax.tree.map(jnp.divide, curved, root)
        return unit(curved), optax.tree.vdot(v, curved)

    # The gradient lies mostly along the directions of the largest curvature.
    first = unit(jax.tree.map(jnp.divide, start, root))
    return jax.lax.fori_loop(0, _ITERATIONS, again, (first, jnp.float32(0)))[1]


def adam_scale(opt_state: Any, b2: jax.typing.ArrayLike, eps: jax.typing.ArrayLike) -> Params | None:
    """Return √(ν / (1 - b2^count)) + eps, by which Adam divides the mean gradient; None for another optimiser."""
    nu = optax.tree.get(opt_state, "nu")
    if nu is None:
        return None
    made = jnp.maximum(optax.tree.get_all_with_path(opt_state, "count")[0][1], 1)
    return jax.tree.map(lambda v: jnp.sqrt(v / (1 - b2**made)) + eps, nu)


def adam_limit(lr: float, b1: float) -> float:
    """Return the sharpness up to which Adam with this learning rate is stable: 38 / lr for b1 = 0.9."""
    return (2 + 2 * b1) / ((1 - b1) * lr)


@functools.singledispatch
def preconditioner(optimizer: Any, opt_state: Any) -> Params | None:
    """Return what an optimiser divides the mean gradient by, of the shapes of the parameters; None for nothing.

    An optimiser that divides by something registers itself here, and its limit in `stability_limit`.
    """
    return None


@preconditioner.register
def _(optimizer: Adam | AdamW, opt_state: Any) -> Params | None:
    return adam_scale(opt_state, optimizer.b2, optimizer.eps)


@functools.singledispatch
def stability_limit(optimizer: Any) -> float:
    """Return the sharpness up to which an optimiser is stable; NaN where that is not known."""
    return np.nan


@stability_limit.register
def _(optimizer: Adam | AdamW) -> float:
    return adam_limit(optimizer.lr, optimizer.b1)


class Exchanged(NamedTuple):
    """What single parameters do to the loss, each array `[n, ...]` in the order of `trees.named_leaves`.

    Attributes:
      moved: the loss before, with only this parameter from after.
      restored: the loss after, with only this parameter from before.
    """

    moved: np.ndarray
    restored: np.ndarray


def exchange(loss: Callable[[Params], jax.Array], before: Params, after: Params) -> Exchanged:
    """Exchange one parameter at a time between two states of a lane: which of them raised the loss.

    Args:
      loss: of the parameters, any array, such as the loss by digit `[R]`.
      before: parameters of one lane.
      after: the same later.
    """
    chex.assert_trees_all_equal_shapes(before, after)
    compiled, tree = jax.jit(loss), jax.tree.structure(before)
    old, new = jax.tree.leaves(before), jax.tree.leaves(after)

    def with_one(base: list, other: list) -> np.ndarray:
        each = ([*base[:i], other[i], *base[i + 1 :]] for i in range(len(base)))
        return np.stack([np.asarray(compiled(jax.tree.unflatten(tree, leaves))) for leaves in each])

    return Exchanged(with_one(old, new), with_one(new, old))
