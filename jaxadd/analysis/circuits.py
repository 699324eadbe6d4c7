"""Circuits that can be read off the weights: QK, OV, neuron to logit, and composition scores.

Everything here is a product of matrices: pure, compiled, and to be vmapped over lanes. Rows are vectors of the
residual stream, as in `x @ W`. What a circuit leaves out, such as attention patterns, MLPs in between and
LayerNorm's scale, is not approximated but absent. A LayerNorm is folded into the matrix that reads through it,
see `models.structure.folded`. Source of the vocabulary: Elhage et al. 2021, "A Mathematical Framework for Transformer
Circuits".
"""

import functools
import math
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.models import Model, structure
from jaxadd.types import Params

einsum = functools.partial(jnp.einsum, precision="highest")
_compiled = functools.partial(jax.jit, static_argnames=("model", "layer"))


# --- one head, one layer ----------------------------------------------------------------------------------


@_compiled
def qk(
    params: Params,
    model: Model,
    layer: int,
    queries: jax.Array | None = None,
    keys: jax.Array | None = None,
) -> jax.Array:
    """Compute every head's attention scores between vectors: x W_Q (y W_K)ᵀ / √K.

    Scores add up over sums of vectors: with W_E and W_pos as queries and keys, one after the other, the four
    results add up to the scores of the first layer, before the mask.

    Args:
      params: of one network.
      model: its model.
      layer: below L.
      queries: `[n, D]`, vectors of the residual stream that attend; all tokens' embeddings, W_E, by default.
      keys: `[m, D]`, vectors that are attended to; W_E by default.

    Returns:
      `[H, n, m]`; `[H, V, V]` by default.
    """
    structure.check_bilinear(model, "the QK circuit")
    params = structure.folded(params, model)
    attn, embedding = structure.block(params, model, layer)["attn"], params["embed"]["W_E"]
    queries, keys = (embedding if x is None else jnp.asarray(x) for x in (queries, keys))
    chex.assert_shape([queries, keys], (None, embedding.shape[1]))
    q, k = einsum("nd,hdk->hnk", queries, attn["W_Q"]), einsum("md,hdk->hmk", keys, attn["W_K"])
    return einsum("hnk,hmk->hnm", q, k) / math.sqrt(q.shape[-1])


def attention_readoff(params: Params, model: Model, layer: int, token: int, position: int) -> jax.Array:
    """Compute W_attn, the attention scores of one token at one position to every token.

    In the mainline's first layer, with `=` at position 2, this is all that attention depends on but for the
    keys' positions.

    Args:
      params: of one network.
      model: its model.
      layer: below L.
      token: the one that attends, below V.
      position: where it stands, below T.

    Returns:
      `[H, V]`, in the units of attention scores: q · W_K W_E / √K.
    """
    if "hook_pos_embed" not in model.names:
        raise UserError("the attention of a token at a position needs learned positions, and this network has none")
    embedding, places = params["embed"]["W_E"], params["pos_embed"]["W_pos"]
    for name, value, many in (("token", token, len(embedding)), ("position", position, len(places))):
        if not 0 <= value < many:
            raise UserError(f"{name} must be from 0 to {many - 1}, got {value}")
    return qk(params, model, layer, (embedding[token] + places[position])[None])[:, 0]


@_compiled
def ov_matrix(params: Params, model: Model, layer: int) -> jax.Array:
    """Compute W_OV = W_V W_O of every head, what it writes for what it attends to: `[H, D, D]`."""
    attn = structure.block(structure.folded(params, model), model, layer)["attn"]
    return einsum("hdk,hke->hde", attn["W_V"], attn["W_O"])


@_compiled
def ov(
    params: Params,
    model: Model,
    layer: int,
    sources: jax.Array | None = None,
    readout: jax.Array | None = None,
) -> jax.Array:
    """Compute what every head writes when all its attention is on one vector: x W_V W_O, seen through a readout.

    Args:
      params: of one network.
      model: its model.
      layer: below L.
      sources: `[n, D]`, vectors of the residual stream attended to; all tokens' embeddings, W_E, by default.
      readout: `[D, m]`; by default the unembedding W_U, so that the result is the direct effect on the logits.

    Returns:
      `[H, n, m]`; `[H, V, C]` by default.
    """
    params = structure.folded(params, model)
    attn, embedding = structure.block(params, model, layer)["attn"], params["embed"]["W_E"]
    sources = embedding if sources is None else jnp.asarray(sources)
    readout = params["unembed"]["W_U"] if readout is None else jnp.asarray(readout)
    chex.assert_shape(sources, (None, embedding.shape[1]))
    chex.assert_shape(readout, (embedding.shape[1], None))
    return einsum("nd,hdk,hke,em->hnm", sources, attn["W_V"], attn["W_O"], readout)


@_compiled
def embedding_to_neuron(params: Params, model: Model, layer: int) -> jax.Array:
    """Compute W_neur = W_E W_V W_O W_in, what attention to a token adds to every neuron of the layer: `[H, V, F]`."""
    return ov(params, model, layer, readout=structure.mlp(structure.folded(params, model), model, layer)["W_in"])


@_compiled
def neuron_to_logit(params: Params, model: Model, layer: int) -> jax.Array:
    """Compute W_L = W_out W_U, the direct effect of every neuron on the logits: `[F, C]`."""
    params = structure.folded(params, model)
    return einsum("fd,dc->fc", structure.mlp(params, model, layer)["W_out"], params["unembed"]["W_U"])


def last_neurons_to_logits(params: Params, model: Model) -> jax.Array:
    """Compute W_L of the last layer's neurons, `[F, C]`: `neuron_to_logit` of a transformer, W_U of a PairMLP."""
    if structure.is_transformer(model):
        return neuron_to_logit(params, model, structure.layers(model) - 1)
    return params["W_U"]


# --- composition ------------------------------------------------------------------------------------------


class Composition(NamedTuple):
    """How much of what one part writes another reads, `composition_labels` names the parts.

    Attributes:
      score: `[writers, readers]`, ‖W R‖ / (‖W‖ ‖R‖) in Frobenius norms, from 0 where R reads none of the directions
        that W writes to 1 where both have the same single one. Two heads that have all of K directions in common
        score 1 / √K, and parts that are independent of each other 1 / √D, so compare with that.
      deviation: `[writers, readers]`, how far score² lies above its mean for parts that are independent of each
        other, in standard deviations. For W and R as they are, but rotated against each other at random, the mean
        of score² is exactly 1 / D and its variance 2 (‖w‖² - 1/D) (‖r‖² - 1/D) / ((D - 1) (D + 2)), w and r being
        WᵀW and RRᵀ divided by their traces.

    Both are NaN where the reader does not come after the writer, or where one of them is zero.
    """

    score: jax.Array
    deviation: jax.Array


def composition_labels(model: Model) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the axes of a Composition.

    Returns:
      the writers, "L0H0", "L0H1", …, "L0MLP", "L1H0", …, and the readers, "L0H0.Q", "L0H0.K", "L0H0.V", …,
      "L0MLP", ….
    """
    writers, readers = [], []
    for i in range(structure.layers(model)):
        heads = [f"L{i}H{h}" for h in range(structure.heads(model))]
        mlp = [f"L{i}MLP"] if structure.has_neurons(model) else []
        writers += [*heads, *mlp]
        readers += [*(f"{head}.{read}" for head in heads for read in "QKV"), *mlp]
    return tuple(writers), tuple(readers)


def composable(model: Model) -> np.ndarray:
    """Return which reader comes after which writer, bool `[writers, readers]`, as `composition_labels` names them."""
    heads, mlp = structure.heads(model), [1] * structure.has_neurons(model)
    # A layer's heads work side by side, its MLP after them.
    wrote, read = (
        np.array([2 * i + turn for i in range(structure.layers(model)) for turn in [0] * many + mlp])
        for many in (heads, 3 * heads)
    )
    return wrote[:, None] < read


@functools.partial(jax.jit, static_argnames="model")
def composition(params: Params, model: Model) -> Composition:
    """Compute the composition scores of Elhage et al. 2021 between all heads and MLPs.

    A head writes through W_OV and reads queries through W_Q W_Kᵀ, keys through its transpose and values through
    W_OV; an MLP writes through W_out and reads through W_in, and W_gate where it has one. The squared norm of a
    product, ‖W R‖² = ⟨WᵀW, RRᵀ⟩, needs D × D matrices of the parts and none of the pairs. Its rounding leaves scores
    below 1e-3 unresolved.

    Args:
      params: of one network.
      model: its model.

    Returns:
      the scores of L (H + 1) writers and L (3 H + 1) readers, or without MLPs L H and 3 L H; see Composition.
    """
    structure.check_bilinear(model, "composition")
    count, params = structure.layers(model), structure.folded(params, model)
    blocks = jax.tree.map(lambda *w: jnp.stack(w), *(params[f"blocks.{i}"] for i in range(count)))
    q, k, v, o = (blocks["attn"][name] for name in ("W_Q", "W_K", "W_V", "W_O"))
    o, (_, heads, width, _) = o.swapaxes(-1, -2), q.shape
    writers = [_gram(o, v)]  # [L, ·, D, D]
    readers = [jnp.stack([_gram(q, k), _gram(k, q), _gram(v, o)], axis=2).reshape(count, 3 * heads, width, width)]
    if structure.has_neurons(model):
        w_in, w_out = blocks["mlp"]["W_in"], blocks["mlp"]["W_out"]
        if "W_gate" in blocks["mlp"]:
            w_in = jnp.concatenate([w_in, blocks["mlp"]["W_gate"]], axis=-1)
        writers.append(einsum("lfd,lfe->lde", w_out, w_out)[:, None])
        readers.append(einsum("ldf,lef->lde", w_in, w_in)[:, None])
    w, r = (_unit_trace(jnp.concatenate(grams, axis=1).reshape(-1, width, width)) for grams in (writers, readers))
    chance = 1 / width
    square = einsum("wde,rde->wr", w, r)
    # The traceless symmetric matrices are irreducible under rotation, and there are (D - 1) (D + 2) / 2 of them.
    spread_w, spread_r = (jnp.sum(x * x, axis=(1, 2)) - chance for x in (w, r))
    variance = 2 * jnp.outer(spread_w, spread_r) / max((width - 1) * (width + 2), 1)
    after = composable(model)
    return Composition(
        jnp.where(after, jnp.sqrt(jnp.maximum(square, 0)), jnp.nan),
        jnp.where(after, (square - chance) / jnp.sqrt(variance), jnp.nan),
    )


@functools.partial(jax.jit, static_argnames="model")
def mean_attention(params: Params, model: Model, inputs: jax.Array) -> jax.Array:
    """Return the attention of every head at the scored positions, its mean over examples: `[L, H, R, T]`."""
    names = [f"blocks.{i}.attn.hook_pattern" for i in range(structure.layers(model))]
    _, cache = model.apply(params, inputs, names)
    means = {name: jnp.mean(cache[name], axis=0) for name in names}
    read = jnp.asarray(model.sizes.read)
    return jnp.stack([x if structure.only_where_read(model, name) else x[:, read] for name, x in means.items()])


def _gram(outer: jax.Array, inner: jax.Array) -> jax.Array:
    """Compute M Mᵀ for M = outer innerᵀ, both `[L, H, D, K]`, without forming M: `[L, H, D, D]`."""
    return einsum("lhdk,lhkj,lhej->lhde", outer, einsum("lhik,lhij->lhkj", inner, inner), outer)


def _unit_trace(gram: jax.Array) -> jax.Array:
    return gram / jnp.trace(gram, axis1=1, axis2=2)[:, None, None]
