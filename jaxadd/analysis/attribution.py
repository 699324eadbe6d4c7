"""Direct logit attribution of every head and neuron, and the logit lens.

The residual stream is a sum, and the unembedding is linear, so the logits are a sum of what each component wrote.
A final LayerNorm is linear once its scale is held fixed at its value for each example and position. Effects through
later heads and neurons are not counted: what follows is direct.

Results are `[B, R, C]` or means over problems `[R]`, so those of an addition model are by answer digit; where logits
are not finite, they are NaN. Dicts are ordered by computation: JAX sorts the keys of a plain dict.
"""

import functools
from collections import OrderedDict
from collections.abc import Collection
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxadd.analysis.circuits import einsum, neuron_to_logit
from jaxadd.models import Model, structure
from jaxadd.optim import losses, scores
from jaxadd.types import Batch, Params

_compiled = functools.partial(jax.jit, static_argnames="model")


class Score(NamedTuple):
    """How well logits answer, by answer digit.

    Attributes:
      loss: `[R]`, mean cross-entropy, nats.
      accuracy: `[R]`, fraction of problems that is correct.
    """

    loss: jax.Array
    accuracy: jax.Array


@_compiled
def attribution(params: Params, model: Model, inputs: jax.Array) -> OrderedDict[str, jax.Array]:
    """Split the logits into what each component contributes directly; the contributions add up to the logits.

    Args:
      params: of one network.
      model: its model.
      inputs: int32 `[B, T]`.

    Returns:
      float32 `[B, R, C]` by component: "embed"; "pos_embed", where positions are learned; for every layer its heads
      "L0H0", "L0H1", …, all its neurons "L0MLP", and the biases b_O and b_out, "L0attn_bias" and "L0MLP_bias";
      "ln_final_bias" and "unembed_bias". What the network does not have is left out.

    Raises:
      UserError: a norm on the output of attention and MLP makes the contributions depend on each other.
    """
    chex.assert_rank(inputs, 2)
    count, with_mlp = structure.layers(model), structure.has_neurons(model)
    hooks = [f"blocks.{i}.{hook}" for i in range(count) for hook in ("attn.hook_z", "mlp.hook_post")[: 1 + with_mlp]]
    sources = [name for name in ("embed", "pos_embed") if f"hook_{name}" in model.names]
    seen, scale = _seen_and_scale(params, model, inputs, [*(f"hook_{name}" for name in sources), *hooks])
    readout = structure.folded(params, model)["unembed"]["W_U"]

    parts = OrderedDict()
    for name in sources:
        parts[name] = einsum("brd,dc->brc", seen[f"hook_{name}"], readout)

    def add_bias(name: str, weights: Params, bias: str) -> None:
        if bias in weights:
            effect = einsum("d,dc->c", weights[bias], readout)
            parts[name] = jnp.broadcast_to(effect, parts["embed"].shape)

    for i in range(count):
        attn = params[f"blocks.{i}"]["attn"]
        heads = einsum("brhk,hkd,dc->hbrc", seen[f"blocks.{i}.attn.hook_z"], attn["W_O"], readout)
        parts |= {f"L{i}H{h}": head for h, head in enumerate(heads)}
        add_bias(f"L{i}attn_bias", attn, "b_O")
        if with_mlp:
            to_logit = neuron_to_logit(params, model, i)
            parts[f"L{i}MLP"] = einsum("brf,fc->brc", seen[f"blocks.{i}.mlp.hook_post"], to_logit)
            add_bias(f"L{i}MLP_bias", structure.mlp(params, model, i), "b_out")
    parts = OrderedDict((name, scale * value) for name, value in parts.items())
    for name, constant in structure.constants(params, model).items():
        parts[name] = jnp.broadcast_to(constant, parts["embed"].shape)
    return parts


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
def attribution_by_digit(params: Params, model: Model, batch: Batch) -> OrderedDict[str, jax.Array]:
    """Compute every component's mean contribution to the correct logit minus the mean of the others.

    Args:
      params: of one network.
      model: its model.
      batch: B problems; targets `[B, R]` may be any class that is asked about.

    Returns:
      `[R]`, nats, by component, named as in `attribution`.
    """
    parts = attribution(params, model, batch.inputs)
    return OrderedDict((name, jnp.mean(logit_difference(x, batch.targets), axis=0)) for name, x in parts.items())


@_compiled
def neurons_by_digit(params: Params, model: Model, batch: Batch) -> jax.Array:
    """Compute every neuron's mean contribution to the correct logit minus the mean of the others.

    Args:
      params: of one network.
      model: its model.
      batch: B problems; targets `[B, R]` may be any class that is asked about.

    Returns:
      `[L, F, R]`, nats; over the neurons of a layer they add up to the component "L0MLP" of `attribution_by_digit`.

    Raises:
      UserError: where the network has no MLP.
    """
    chex.assert_shape(batch.targets, (len(batch.inputs), len(model.sizes.read)))
    effects = [_over_others(neuron_to_logit(params, model, i)).T for i in range(structure.layers(model))]
    hooks = [f"blocks.{i}.mlp.hook_post" for i in range(len(effects))]
    seen, scale = _seen_and_scale(params, model, batch.inputs, hooks)
    return jnp.stack([
        # Only the row of each example's class is taken, so nothing has the size B·R·F·C.
        jnp.mean(scale * seen[hook] * effect[batch.targets], axis=0).T
        for hook, effect in zip(hooks, effects, strict=True)
    ])  # fmt: skip


@_compiled
def logit_lens(params: Params, model: Model, inputs: jax.Array) -> OrderedDict[str, jax.Array]:
    """Read logits off the residual stream after every sublayer, through the final norm if there is one.

    Here, the norm's scale is that of the stream at each point (nostalgebraist 2020, "interpreting GPT: the logit
    lens").

    Args:
      params: of one network.
      model: its model.
      inputs: int32 `[B, T]`.

    Returns:
      float32 `[B, R, C]` by activation: "blocks.0.hook_resid_pre", the embeddings alone; then for every layer
      "hook_resid_mid", after attention, where there is an MLP, and "hook_resid_post". The last are the logits.
    """
    chex.assert_rank(inputs, 2)
    points = ["blocks.0.hook_resid_pre"]
    for i in range(structure.layers(model)):
        points += [f"blocks.{i}.hook_resid_mid"] if structure.has_neurons(model) else []
        points += [f"blocks.{i}.hook_resid_post"]
    seen, readout = _at_read(params, model, inputs, points), structure.folded(params, model)["unembed"]["W_U"]
    logits = OrderedDict((name, einsum("brd,dc->brc", seen[name], readout)) for name in points)
    logits = OrderedDict((name, structure.final_scale(model, seen[name]) * x) for name, x in logits.items())
    for constant in structure.constants(params, model).values():
        logits = OrderedDict((name, x + constant[None, None]) for name, x in logits.items())
    return logits


@_compiled
def lens_by_digit(params: Params, model: Model, batch: Batch) -> OrderedDict[str, Score]:
    """Compute loss and accuracy of the logit lens, by answer digit.

    Args:
      params: of one network.
      model: its model.
      batch: B problems.

    Returns:
      a Score by activation, named as in `logit_lens`.
    """
    return OrderedDict(
        (
            name,
            Score(
                jnp.mean(losses.cross_entropy(logits, batch.targets), axis=0),
                scores.fraction(scores.correct(logits, batch.targets), axis=0),
            ),
        )
        for name, logits in logit_lens(params, model, batch.inputs).items()
    )


def _at_read(params: Params, model: Model, inputs: jax.Array, names: Collection[str]) -> dict[str, jax.Array]:
    """Return activations at the scored positions, float32 `[B, R, ...]`, wherever the model computed them."""
    _, seen = model.apply(params, inputs, names=names)
    read = jnp.asarray(model.sizes.read)
    at_read = {name: x if structure.only_where_read(model, name) else x[:, read] for name, x in seen.items()}
    return {name: x.astype(jnp.float32) for name, x in at_read.items()}


def _seen_and_scale(
    params: Params, model: Model, inputs: jax.Array, names: Collection[str]
) -> tuple[dict[str, jax.Array], jax.Array | float]:
    """Return activations at the scored positions, and the final norm's scale there, 1 without one."""
    structure.check_linear(model, "attribution")
    if not structure.has_final_norm(model):
        return _at_read(params, model, inputs, names), 1.0
    last = f"blocks.{structure.layers(model) - 1}.hook_resid_post"
    seen = _at_read(params, model, inputs, [*names, last])
    return seen, structure.final_scale(model, seen[last])


def _over_others(logits: jax.Array) -> jax.Array:
    """Subtract from each class the mean of the others, `[..., C]`."""
    classes = logits.shape[-1]
    return (logits - jnp.mean(logits, axis=-1, keepdims=True)) * (classes / (classes - 1))
