"""Parameters of a network with fewer of them, near those of a trained one, to train on from there."""

from dataclasses import fields
from typing import Any

import jax
import numpy as np

from jaxadd.errors import UserError
from jaxadd.models import structure, weights
from jaxadd.models.model import Model
from jaxadd.models.transformer import Transformer
from jaxadd.types import Params


def fit(model: Model, source: Model, params: Params) -> Params:
    """Return parameters of `model` near those of `source`, a transformer with the same fields but for its ties.

    Weights of norms are multiplied into the matrices that follow, which changes nothing (norms final). Queries and
    keys are replaced by their means over tokens (scores distance), and W_V W_O by the nearest product of its rank
    (value_rank), by singular values.

    Args:
      model: the network that is fitted.
      source: the network it is fitted to, of the same task.
      params: its trained parameters.

    Raises:
      UserError: the networks differ in anything else, or have what cannot be fitted: norms after attention or MLP,
        biases of norms, W_O = W_Qᵀ, low ranks.
    """
    config, new_scores = _check(model, source)
    wide = lambda params: jax.tree.map(lambda w: np.asarray(w, np.float64), params)
    matrices: dict[str, Any] = wide(source.matrices(params))
    folded = wide(structure.folded(source.matrices(params), source.untied))
    for i in range(config.layers):
        name = f"blocks.{i}"
        block = dict((folded if config.weights.norms == "final" else matrices)[name])
        if new_scores:
            query = _query(config, matrices["embed"]["W_E"], folded[name]["attn"])
            block["attn"] = {"W_V": block["attn"]["W_V"], "W_O": block["attn"]["W_O"], "b_Q": query}
        if rank := config.weights.value_rank:
            block["attn"] = _of_rank(rank, block["attn"])
        matrices[name] = block
    result: dict[str, Any] = dict(weights.free(config, jax.random.key(0), matrices, model.sizes))
    if config.weights.embed == "arc":
        result["embed"] = params["embed"]
    if config.weights.scores == "distance":
        for i in range(config.layers):
            block = result[f"blocks.{i}"]
            attn = {**block["attn"], "b_Q": matrices[f"blocks.{i}"]["attn"]["b_Q"]}
            result[f"blocks.{i}"] = {**block, "attn": attn}
    return jax.tree.map(lambda w, shape: np.asarray(w, np.float32).reshape(shape.shape), result, model.shapes())


def _check(model: Model, source: Model) -> tuple[Transformer, bool]:
    """Return the architecture, and whether its attention is to depend on distance alone and did not."""
    config, other = model.config, source.config
    if not isinstance(config, Transformer) or not isinstance(other, Transformer):
        raise UserError(
            f"only transformers are fitted to others, got {type(config).__name__} and {type(other).__name__}"
        )
    new_scores = (config.weights.scores, other.weights.scores) == ("distance", "free")
    fitted = {
        "norms": config.weights.norms == "final",
        "scores": new_scores,
        "value_rank": config.weights.value_rank > 0,
    }
    differ = lambda a, b: [f.name for f in fields(a) if getattr(a, f.name) != getattr(b, f.name)]
    differs = [name for name in differ(config, other) if name != "weights" and not (name == "qk_norm" and new_scores)]
    differs += [f"weights.{name}" for name in differ(config.weights, other.weights) if not fitted.get(name)]
    if model.sizes != source.sizes:
        differs.append("the task")
    if differs:
        raise UserError(f"a network cannot be fitted to one that differs in {', '.join(differs)}")
    normed = config.norm != "none"
    unfitted = {
        "norms after attention or MLP": normed and config.norm_where != "pre",
        "biases of norms": normed and config.norm == "layernorm" and config.norm_bias,
        "weights.output query": config.weights.output != "free",
        "weights of a rank": config.weights.attention_rank > 0 or config.weights.mlp_rank > 0,
        "learned positions by place": config.positions == "learned" and config.position_index == "place",
        "attention by distance, but for one layer of RMSNorm with norms of queries and keys": new_scores
        and not (config.layers == 1 and config.norm == "rmsnorm" and other.qk_norm),
    }
    if found := [what for what, there in unfitted.items() if there]:
        raise UserError(f"a network cannot be fitted with {' and '.join(found)}")
    return config, new_scores


def _query(config: Transformer, tokens: np.ndarray, attn: dict[str, Any]) -> np.ndarray:
    """Return one query for each head, `[H, K]`: the mean query times the mean key over tokens, pair by pair.

    Args:
      config: the architecture, with RMSNorm.
      tokens: `[V, D]`, their embedding.
      attn: matrices that read what is normalised without a weight.
    """
    x, interleaved = _scaled(config, tokens), config.rope_pairs == "interleaved"

    def mean(name: str) -> np.ndarray:
        y = np.einsum("vd,hdk->vhk", x, attn[f"W_{name}"]) + attn.get(f"b_{name}", 0)
        y = (_scaled(config, y) * attn.get(f"{name.lower()}_norm", {}).get("w", 1)).mean(axis=0)
        half = y.shape[1] // 2
        return y[:, ::2] + 1j * y[:, 1::2] if interleaved else y[:, :half] + 1j * y[:, half:]

    return weights.joined(config, mean("Q") * mean("K").conj())


def _scaled(config: Transformer, x: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + config.norm_epsilon)


def _of_rank(rank: int, attn: dict[str, Any]) -> dict[str, Any]:
    """Replace W_V W_O of each head by the nearest product of this rank."""
    u, s, v = np.linalg.svd(attn["W_V"] @ attn["W_O"], full_matrices=False)
    root = np.sqrt(s[:, None, :rank])
    return {**attn, "W_V": u[..., :rank] * root, "W_O": root.swapaxes(1, 2) * v[:, :rank]}
