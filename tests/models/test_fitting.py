"""A network of fewer parameters that is fitted to another computes the same where that is possible."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from networks import drawn

from jaxadd.errors import UserError
from jaxadd.models import PairMLP, Transformer
from jaxadd.models.fitting import fit
from jaxadd.models.weights import Weights
from jaxadd.types import Sizes

SIZES = Sizes(length=5, classes=6, vocabulary=7, read=(3, 4))
X = np.random.default_rng(0).integers(0, 7, (8, 5))
WIDE = Transformer(
    d_model=5, heads=2, d_head=4, d_mlp=3, norm="rmsnorm", qk_norm=True, positions="rope", rope_theta=3.0, mlp="gated"
)
FEW = Weights(scores="distance", value_rank=1, norms="final")


def blind(config):
    """Return parameters of queries and keys that are the same for all tokens, and of values in one direction."""
    params = jax.tree.map(np.array, drawn(config.build(SIZES), scale=1.0))
    params["embed"]["W_E"][:, 0] = 2 + np.abs(params["embed"]["W_E"][:, 0])
    attention = params["blocks.0"]["attn"]
    for name in ("W_Q", "W_K"):
        attention[name][:, 1:] = 0  # The rest is read times the first coordinate, and normalised.
    attention["W_V"] = attention["W_V"][:, :, :1] * attention["W_V"][:, :1]
    return params


@pytest.mark.parametrize("fields", [{}, {"rope_pairs": "interleaved"}, {"norm_weight": False}], ids=str)
def test_nothing_is_lost_of_a_network_that_attends_by_distance(fields):
    wide = replace(WIDE, **fields)
    model, source = replace(wide, qk_norm=False, weights=FEW).build(SIZES), wide.build(SIZES)
    params = blind(wide)
    fitted = fit(model, source, params)
    logits, want = (jax.jit(m.apply)(p, X)[0] for m, p in ((model, fitted), (source, params)))
    np.testing.assert_allclose(logits, want, rtol=1e-3, atol=1e-4)
    chain = lambda block: np.einsum("hdk,hke->hde", block["attn"]["W_V"], block["attn"]["W_O"])
    params["blocks.0"]["attn"]["W_V"] += drawn(source, 1)["blocks.0"]["attn"]["W_V"]
    norm = params["blocks.0"].get("ln1", {"w": np.ones(5)})["w"][:, None]
    whole, cut = norm * chain(params["blocks.0"]), chain(model.matrices(fit(model, source, params))["blocks.0"])
    left = np.linalg.svd(whole)[1][:, 1:]
    np.testing.assert_allclose(np.linalg.norm(whole - cut, axis=(1, 2)), np.linalg.norm(left, axis=1), rtol=1e-3)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (replace(WIDE, d_mlp=4), "d_mlp"),
        (replace(WIDE, qk_norm=False), "qk_norm"),
        (replace(WIDE, weights=Weights(value="key")), "weights.value"),
        (replace(WIDE, layers=2, qk_norm=False, weights=FEW), "layers"),
        (replace(WIDE, norm="layernorm", weights=replace(FEW, scores="free")), "norm$"),
        (PairMLP(), "only transformers"),
    ],
)
def test_a_network_that_differs_in_more_is_refused(config, words):
    sizes = replace(SIZES, length=2, read=(1,)) if isinstance(config, PairMLP) else SIZES
    with pytest.raises(UserError, match=words):
        fit(config.build(sizes), WIDE.build(SIZES), {})


@pytest.mark.parametrize(
    ("fields", "ties", "words"),
    [
        ({"norm_where": "post"}, {"norms": "final"}, "norms after attention"),
        ({"norm_where": "both"}, {"norms": "final"}, "norms after attention"),
        ({"norm": "layernorm"}, {"norms": "final"}, "biases of norms"),
        ({"weights": Weights(output="query")}, {"norms": "final"}, "output query"),
        ({"weights": Weights(attention_rank=2)}, {"norms": "final"}, "of a rank"),
        ({"weights": Weights(mlp_rank=2)}, {"norms": "final"}, "of a rank"),
        ({"positions": "learned", "position_index": "place"}, {"norms": "final"}, "learned positions by place"),
        ({"layers": 2}, {"scores": "distance"}, "one layer of RMSNorm"),
    ],
)
def test_what_cannot_be_fitted_is_refused(fields, ties, words):
    source = replace(WIDE, **fields)
    target = replace(source, qk_norm="scores" not in ties, weights=replace(source.weights, **ties))
    sizes = replace(SIZES, places=(0, 1, 0, 1, 2))
    with pytest.raises(UserError, match=words):
        fit(target.build(sizes), source.build(sizes), {})
