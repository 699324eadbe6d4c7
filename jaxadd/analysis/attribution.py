"""Who wrote the logits: direct logit attribution of every head and neuron, and the logit lens.

The residual stream is a sum, and the unembedding is linear, so the logits are a sum of what each component wrote.
A final LayerNorm is linear once its scale is held fixed at its value for each example and position. Effects through
later heads and neurons are not counted: what follows is direct.

Results are `[B, R, C]` or means over problems `[R]`, so those of an addition model are by answer digit. Dicts are
ordered by computation: JAX sorts the keys of a plain dict.
"""

import functools
from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxadd import losses
from jaxadd.analysis import answers
from jaxadd.analysis.circuits import einsum, folded, layers, mlp_weights, neuron_to_logit
from jaxadd.model import LAYER_NORM_EPSILON, Params, Positions
from jaxadd.tasks import Batch

_compiled = functools.partial(jax.jit, static_argnames="apply")


class Score(NamedTuple):
    """How well logits answer, by answer digit.

    Attributes:
      loss: `[R]`, mean cross-entropy, nats.
      accuracy: `[R]`, share of problems answered rightly.
    """

    loss: jax.Array
    accuracy: jax.Array


@_compiled
def attribution(params: Params, apply: Callable, inputs: jax.Array, read: Positions) -> OrderedDict[str, jax.Array]:
    """Split the logits into what each component contributes directly; the contributions add up to the logits.

    Args:
      params: of one lane.
      apply: of the model.
      inputs: int32 `[B, T]`.
      read: the R positions at which logits are computed, such as the task's `sizes.read`.

    Returns:
      float32 `[B, R, C]` by component: "embed", "pos_embed", and for every layer its heads "L0H0", "L0H1", …, all its
      neurons together "L0MLP", and b_out "L0MLP_bias"; "ln_final_bias" where there is a final LayerNorm.
    """
    chex.assert_rank(inputs, 2)
    count, with_mlp = layers(params), "mlp" in params["blocks.0"]
    hooks = [f"blocks.{i}.{hook}" for i in range(count) for hook in ("attn.hook_z", "mlp.hook_post")[: 1 + with_mlp]]
    seen, scale = _seen_and_scale(params, apply, inputs, read, ["hook_embed", "hook_pos_embed", *hooks])
    readout = folded(params)["unembed"]["W_U"]

    found = OrderedDict()
    for name in ("embed", "pos_embed"):
        found[name] = einsum("brd,dc->brc", seen[f"hook_{name}"], readout)
    for i in range(count):
        w_o = params[f"blocks.{i}"]["attn"]["W_O"]
        heads = einsum("brhk,hkd,dc->hbrc", seen[f"blocks.{i}.attn.hook_z"], w_o, readout)
        found |= {f"L{i}H{h}": head for h, head in enumerate(heads)}
        if with_mlp:
            to_logit = neuron_to_logit(params, i)
            found[f"L{i}MLP"] = einsum("brf,fc->brc", seen[f"blocks.{i}.mlp.hook_post"], to_logit)
            bias = einsum("d,dc->c", mlp_weights(params, i)["b_out"], readout)
            found[f"L{i}MLP_bias"] = jnp.broadcast_to(bias, found["embed"].shape)
    found = OrderedDict((name, scale * value) for name, value in found.items())
    if "ln_final" in params:
        found["ln_final_bias"] = jnp.broadcast_to(_constant(params), found["embed"].shape)
    return found


def logit_difference(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Compute the correct logit, or a contribution to it, minus the mean of the other classes.

    It is linear, so those of the components add up to that of the logits.

    Args:
      logits: float `[..., C]`.
      targets: int `[...]`, in `[0, C)`; the correct class, or any other that is asked about.

    Returns:
      `[...]`, nats.
    """
    chex.assert_equal_shape_prefix([logits, targets], targets.ndim)
    return jnp.take_along_axis(_over_others(logits), targets[..., None], axis=-1)[..., 0]


@_compiled
def attribution_by_digit(
    params: Params, apply: Callable, batch: Batch, read: Positions
) -> OrderedDict[str, jax.Array]:
    """Compute every component's mean contribution to the correct logit minus the mean of the others.

    Args:
      params: of one lane.
      apply: of the model.
      batch: B problems; targets `[B, R]` may be any class that is asked about.
      read: R positions.

    Returns:
      `[R]`, nats, by component, named as in `attribution`.
    """
    parts = attribution(params, apply, batch.inputs, read)
    return OrderedDict((name, jnp.mean(logit_difference(x, batch.targets), axis=0)) for name, x in parts.items())


@_compiled
def neurons_by_digit(params: Params, apply: Callable, batch: Batch, read: Positions) -> jax.Array:
    """Compute every neuron's mean contribution to the correct logit minus the mean of the others.

    Args:
      params: of one lane.
      apply: of the model.
      batch: B problems; targets `[B, R]` may be any class that is asked about.
      read: R positions.

    Returns:
      `[L, F, R]`, nats; over the neurons of a layer they add up to the component "L0MLP" of `attribution_by_digit`.

    Raises:
      UserError: where the network has no MLP.
    """
    chex.assert_shape(batch.targets, (len(batch.inputs), len(read)))
    effects = [_over_others(neuron_to_logit(params, i)).T for i in range(layers(params))]
    hooks = [f"blocks.{i}.mlp.hook_post" for i in range(len(effects))]
    seen, scale = _seen_and_scale(params, apply, batch.inputs, read, hooks)
    return jnp.stack([
        # Only the row of each example's own class is looked at, so nothing has the size B·R·F·C.
        jnp.mean(scale * seen[hook] * effect[batch.targets], axis=0).T
        for hook, effect in zip(hooks, effects, strict=True)
    ])  # fmt: skip


@_compiled
def logit_lens(params: Params, apply: Callable, inputs: jax.Array, read: Positions) -> OrderedDict[str, jax.Array]:
    """Read logits off the residual stream after every sublayer, through the final LayerNorm if there is one.

    Here, LayerNorm's scale is that of the stream at each point (nostalgebraist 2020, "interpreting GPT: the logit
    lens").

    Args:
      params: of one lane.
      apply: of the model.
      inputs: int32 `[B, T]`.
      read: R positions.

    Returns:
      float32 `[B, R, C]` by activation: "blocks.0.hook_resid_pre", the embeddings alone; then for every layer
      "hook_resid_mid", after attention, where there is an MLP, and "hook_resid_post". The last are the logits.
    """
    chex.assert_rank(inputs, 2)
    points = ["blocks.0.hook_resid_pre"]
    for i in range(layers(params)):
        points += [f"blocks.{i}.hook_resid_mid"] * ("mlp" in params[f"blocks.{i}"]) + [f"blocks.{i}.hook_resid_post"]
    seen, readout = _at_read(params, apply, inputs, read, points), folded(params)["unembed"]["W_U"]
    found = OrderedDict((name, einsum("brd,dc->brc", seen[name], readout)) for name in points)
    if "ln_final" in params:
        return OrderedDict((name, _scale(seen[name]) * x + _constant(params)) for name, x in found.items())
    return found


@_compiled
def lens_by_digit(params: Params, apply: Callable, batch: Batch, read: Positions) -> OrderedDict[str, Score]:
    """Compute loss and accuracy of the logit lens, by answer digit.

    Args:
      params: of one lane.
      apply: of the model.
      batch: B problems.
      read: R positions.

    Returns:
      a Score by activation, named as in `logit_lens`.
    """
    return OrderedDict(
        (
            name,
            Score(
                jnp.mean(losses.cross_entropy(logits, batch.targets), axis=0),
                jnp.mean(answers.correct(logits, batch.targets), axis=0),
            ),
        )
        for name, logits in logit_lens(params, apply, batch.inputs, read).items()
    )


def _at_read(
    params: Params, apply: Callable, inputs: jax.Array, read: Positions, names: Collection[str]
) -> dict[str, jax.Array]:
    """Give activations at the positions read, float32 `[B, R, ...]`, wherever the model computed them."""
    last, read = f"blocks.{layers(params) - 1}.", jnp.asarray(read)
    _, seen = apply(params, inputs, names=names, read=read)
    here = lambda name: name.startswith(last) and not name.endswith("resid_pre")  # noqa: E731
    return {name: (x if here(name) else x[:, read]).astype(jnp.float32) for name, x in seen.items()}


def _seen_and_scale(
    params: Params, apply: Callable, inputs: jax.Array, read: Positions, names: Collection[str]
) -> tuple[dict[str, jax.Array], jax.Array | float]:
    """Give activations at the positions read, and the final LayerNorm's scale there, 1 without one."""
    if "ln_final" not in params:
        return _at_read(params, apply, inputs, read, names), 1.0
    last = f"blocks.{layers(params) - 1}.hook_resid_post"
    seen = _at_read(params, apply, inputs, read, [*names, last])
    return seen, _scale(seen[last])


def _scale(stream: jax.Array) -> jax.Array:
    """Give the factor by which the final LayerNorm scales a stream `[B, R, D]`: `[B, R, 1]`."""
    return jax.lax.rsqrt(jnp.var(stream, axis=-1, keepdims=True) + LAYER_NORM_EPSILON)


def _constant(params: Params) -> jax.Array:
    """Give what the final LayerNorm's bias adds to the logits, `[C]`."""
    return einsum("d,dc->c", params["ln_final"]["b"], params["unembed"]["W_U"])


def _over_others(logits: jax.Array) -> jax.Array:
    """Subtract from each class the mean of the others, `[..., C]`."""
    classes = logits.shape[-1]
    return (logits - jnp.mean(logits, axis=-1, keepdims=True)) * (classes / (classes - 1))
