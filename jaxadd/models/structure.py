"""The structure of a network for analysis; it follows from the config, never from the names of parameters.

All code that reads weights or activations by their position in the network uses these functions. An architecture that
analysis does not cover raises UserError, so that no number is computed from a guessed structure.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jaxadd.errors import UserError
from jaxadd.models.model import Model
from jaxadd.models.pair_mlp import PairMLP
from jaxadd.models.transformer import Transformer
from jaxadd.types import Params

# The axes of an activation after the batch, by the last part of its name; [positions, D] for all others.
_AXES = {
    **dict.fromkeys(("hook_q", "hook_k", "hook_v", "hook_z", "hook_rot_q", "hook_rot_k"), ("positions", "heads", "")),
    **dict.fromkeys(("hook_pattern", "hook_attn_scores"), ("heads", "positions", "sources")),
    **dict.fromkeys(("hook_pre", "hook_pre_linear", "hook_post"), ("positions", "neurons")),
}


def is_transformer(model: Model) -> bool:
    """Return whether the network is a transformer; circuits, attribution and the logit lens need one."""
    return isinstance(model.config, Transformer)


def transformer(model: Model) -> Transformer:
    """Return the config of a transformer; raises UserError for any other architecture."""
    if not isinstance(model.config, Transformer):
        raise UserError(
            f"circuits, attention and attribution are defined for a Transformer, got {type(model.config).__name__}"
        )
    return model.config


def layers(model: Model) -> int:
    """Return the number of blocks, L."""
    return transformer(model).layers


def heads(model: Model) -> int:
    """Return the number of attention heads of every block, H."""
    return transformer(model).heads


def has_neurons(model: Model) -> bool:
    """Return whether every block has an MLP."""
    return transformer(model).d_mlp > 0


def last_neurons(model: Model) -> str | None:
    """Return what the activations of the last layer's neurons are called, in a PairMLP too; None without any."""
    if isinstance(model.config, PairMLP):
        return "mlp.hook_post"
    return f"blocks.{layers(model) - 1}.mlp.hook_post" if has_neurons(model) else None


def neurons_read(cache: Mapping[str, jax.Array], model: Model) -> jax.Array:
    """Return the activations of the last layer's neurons where the first answer is read, `[B, F]`, from a cache."""
    name = last_neurons(model)
    assert name is not None  # As of every cache that holds neurons.
    activations = cache[name]
    return activations if isinstance(model.config, PairMLP) else activations[:, 0]


def width(model: Model) -> int:
    """Return how many numbers the network computes for an example at one position, beside the logits."""
    if isinstance(model.config, PairMLP):
        embedded = 2 * model.config.d_embed if model.config.embedding == "learned" else 0
        return embedded + model.config.neurons
    config = transformer(model)
    return config.d_model + config.layers * config.d_mlp


def token_tables(params: Params, model: Model) -> dict[str, jax.Array]:
    """Return the matrices by which a network reads tokens, a row for each of the V, each matrix once and by name.

    Of a transformer this is W_E. Of a PairMLP these are the embeddings W_a and W_b or, where tokens are one-hot, the
    rows of W_in that belong to them, W_in_a and W_in_b. Where both operands are read alike, it is the first alone.
    """
    config = model.config
    if not isinstance(config, PairMLP):
        transformer(model)
        return {"W_E": params["embed"]["W_E"]}
    if config.embedding == "learned":
        return {name: params[name] for name in ("W_a", "W_b") if name in params}
    return {f"W_in_{operand}": rows for operand, rows in _rows_of_w_in(params, config).items()}


def _rows_of_w_in(params: Params, config: PairMLP) -> dict[str, jax.Array]:
    """Return the rows of W_in that read each operand, by "a" and "b"; "a" alone where the operands are summed."""
    if config.combine != "concatenate":
        return {"a": params["W_in"]}
    return dict(zip("ab", jnp.split(params["W_in"], 2), strict=True))


def token_vectors(params: Params, model: Model) -> jax.Array:
    """Return what stands for each token, `[V, D]`: its rows of the `token_tables`, side by side."""
    return jnp.concatenate(list(token_tables(params, model).values()), axis=1)


def token_matrices(params: Params, model: Model) -> dict[str, jax.Array]:
    """Return the matrices with a row for each of the V tokens, or for each of the C classes, by name.

    Of a transformer these are W_E and W_U; of a PairMLP the `token_tables` of a and of b, embeddings also as its
    neurons read them, such as W_a W_in, and W_U.
    """
    config, tables = model.config, token_tables(params, model)
    if not isinstance(config, PairMLP):
        return tables | {"W_U": params["unembed"]["W_U"].T}
    result, rows = {}, _rows_of_w_in(params, config)
    prefix = "W_in" if config.embedding == "one-hot" else "W"
    for operand in "ab":  # The second one may be read by the matrices of the first.
        table = tables.get(f"{prefix}_{operand}", tables[f"{prefix}_a"])
        result[f"{prefix}_{operand}"] = table
        if config.embedding == "learned":
            read = rows.get(operand, rows["a"])
            result[f"W_{operand}_W_in"] = jnp.matmul(table, read, precision="highest")
    return result | {"W_U": params["W_U"].T}


def has_norms(model: Model) -> bool:
    """Return whether attention and MLP read the stream through a norm."""
    return transformer(model).norm != "none"


def has_final_norm(model: Model) -> bool:
    """Return whether the unembedding reads the stream through a norm."""
    return has_norms(model) and transformer(model).final_norm


def is_linear(model: Model) -> bool:
    """Return whether what attention and MLP write to the stream is linear in their heads and neurons."""
    return not has_norms(model) or transformer(model).norm_where == "pre"


def check_linear(model: Model, what: str) -> None:
    """Raise UserError where a norm stands between heads and neurons and the stream."""
    if not is_linear(model):
        where = transformer(model).norm_where
        raise UserError(f"{what} is not defined with norms on the output of attention and MLP ({where})")


def is_bilinear(model: Model) -> bool:
    """Return whether attention scores are a bilinear form of what queries and keys read."""
    return not _beside_bilinear(model)


def check_bilinear(model: Model, what: str) -> None:
    """Raise UserError where attention scores are not a bilinear form of what queries and keys read."""
    if found := _beside_bilinear(model):
        raise UserError(f"{what} is not defined with {' and '.join(found)}")


def _beside_bilinear(model: Model) -> list[str]:
    config = transformer(model)
    parts = {
        "rotary positions": config.positions == "rope",
        "norms of queries and keys": config.qk_norm,
        "biases of queries and keys": config.attention_bias,
    }
    return [name for name, there in parts.items() if there]


def block(params: Params, model: Model, layer: int) -> Params:
    """Return the parameters of one block; raises UserError where there is no such layer."""
    if not 0 <= layer < layers(model):
        raise UserError(f"layer must be from 0 to {layers(model) - 1}, the layers of this network, got {layer}")
    return params[f"blocks.{layer}"]


def mlp(params: Params, model: Model, layer: int) -> Params:
    """Return the parameters of a block's MLP; raises UserError where there is none."""
    if not has_neurons(model):
        raise UserError("this network has no MLP (d_mlp is 0), so it has no neurons to read")
    return block(params, model, layer)["mlp"]


def activation_axes(model: Model, name: str) -> tuple[str, ...]:
    """Return the axes of an activation after the batch: "positions", "heads", "neurons", "sources", or "".

    The activations of a network without attention have no positions.
    """
    axes = _AXES.get(name.rpartition(".")[2], ("positions", ""))
    return axes if is_transformer(model) else axes[1:]


def only_where_read(model: Model, name: str) -> bool:
    """Return whether an activation exists only at the scored positions: in the last block the queries and everything
    computed from them, and all that follows.
    """
    last = f"blocks.{layers(model) - 1}."
    everywhere = ["hook_resid_pre", "attn.hook_k", "attn.hook_v", "attn.hook_rot_k"]
    everywhere += ["ln1.hook_normalized"] if transformer(model).norm_where != "post" else []
    after = name in ("logits", "ln_final.hook_normalized")
    return after or (name.startswith(last) and name.removeprefix(last) not in everywhere)


def folded(params: Params, model: Model) -> Params:
    """Fold the linear part of every norm into the matrices that read its output.

    LayerNorm is (x - mean x) / σ(x) · w + b, and RMSNorm x / σ(x) · w. The centring and the weight w are folded into
    W_Q, W_K, W_V, W_gate, W_in and W_U, so that x W_folded / σ(x) equals norm(x) W up to a constant, b W. The scale
    1 / σ(x), which depends on x, and the constants are left out.

    Returns:
      parameters of the same shapes without norms; `params` where the network has none.

    Raises:
      UserError: there are norms on the output of attention and MLP, which no matrix reads.
    """
    check_linear(model, "a folded norm")
    if not has_norms(model):
        return params
    centred = transformer(model).norm == "layernorm"

    def fold(norm: Params, weights: Params) -> dict[str, jax.Array]:
        readers = {"W_Q", "W_K", "W_V", "W_gate", "W_in", "W_U"}
        result = dict(weights)
        for name in readers & weights.keys():
            w = weights[name]
            if "w" in norm:
                w = jnp.einsum("d,...df->...df", norm["w"], w, precision="highest")
            result[name] = w - jnp.mean(w, axis=-2, keepdims=True) if centred else w
        return result

    result = dict(params)
    final = result.pop("ln_final", {})
    if has_final_norm(model):
        result["unembed"] = fold(final, params["unembed"])
    parts = {"attn": "ln1"} | ({"mlp": "ln2"} if has_neurons(model) else {})
    for i in range(layers(model)):
        block = params[f"blocks.{i}"]
        result[f"blocks.{i}"] = {part: fold(block.get(norm, {}), block[part]) for part, norm in parts.items()}
    return result


def final_scale(model: Model, stream: jax.Array) -> jax.Array | float:
    """Return 1 / σ of the final norm at a residual stream `[B, R, D]`, `[B, R, 1]`; 1 without a final norm."""
    if not has_final_norm(model):
        return 1.0
    config = transformer(model)
    if config.norm == "layernorm":
        stream = stream - jnp.mean(stream, axis=-1, keepdims=True)
    return jax.lax.rsqrt(jnp.mean(stream**2, axis=-1, keepdims=True) + config.norm_epsilon)


def constants(params: Params, model: Model) -> dict[str, jax.Array]:
    """Return what the biases of the final norm and of the unembedding add to the logits, `[C]` by name."""
    unembed, result = params["unembed"], {}
    if "b" in params.get("ln_final", {}):
        bias = params["ln_final"]["b"]
        result["ln_final_bias"] = jnp.einsum("d,dc->c", bias, unembed["W_U"], precision="highest")
    if "b_U" in unembed:
        result["unembed_bias"] = unembed["b_U"]
    return result
