"""Networks that tests look into: parameters drawn without compiling anything, and a circuit written by hand."""

import functools

import jax
import numpy as np

from jaxadd.models import Transformer
from jaxadd.tasks import Addition


@functools.cache
def _shapes(model):
    return model.shapes()


def drawn(model, seed=0, scale=0.3, *, norm_bias=True):
    """Draw parameters that all take part: N(0, scale²), LayerNorm's weights around 1 and its biases N(0, 0.04)."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = rng.normal(size=leaf.shape).astype(np.float32)
        name = path[-1].key
        return jax.device_put({"w": 1 + 0.2 * noise, "b": 0.2 * norm_bias * noise}.get(name, scale * noise))

    return jax.tree_util.tree_map_with_path(draw, _shapes(model))


ADDER = Addition(digits=2, target="single", digit=1, batch_size=8)


def adder():
    """Write a network that does ADDER, the tens digit of a₁a₀ + b₁b₀; returns its model and parameters.

    Head 0 reads both units at `=`, head 1 both tens. Forty neurons know where 10 (a₁ + b₁) + (a₀ + b₀) passes a
    multiple of ten, in pairs whose difference is a step, and the logits add the steps up. Residual: dimensions
    0 to 5 are the position, 6 the value of a digit, 7 the sum of the units, 8 that of the tens, 9 a one; 10 to 19
    the classes.
    """
    model = Transformer(layers=1, d_model=20, heads=2, d_mlp=40).build(ADDER.sizes)
    params = jax.tree.map(lambda w: np.zeros(w.shape, np.float32), _shapes(model))
    params["embed"]["W_E"][:10, 6] = np.arange(10)
    params["pos_embed"]["W_pos"][:, :6] = np.eye(6)
    params["pos_embed"]["W_pos"][:, 9] = 1
    attention, mlp = params["blocks.0"]["attn"], params["blocks.0"]["mlp"]
    for head, places in ((0, (1, 4)), (1, (0, 3))):  # a1 a0 + b1 b0 =
        attention["W_Q"][head, 5, 0] = 100
        attention["W_K"][head, list(places), 0] = 1
        attention["W_V"][head, 6, 0] = 2  # The mean of two digits, twice.
        attention["W_O"][head, 0, 7 + head] = 1
    steps = np.arange(20)
    mlp["W_in"][7, :], mlp["W_in"][8, :] = 1, 10
    mlp["b_in"][:20], mlp["b_in"][20:] = -(10 * steps - 1), -(10 * steps)
    change = np.zeros((20, 10), np.float32)
    change[steps, steps % 10] += 1
    change[steps[1:], (steps[1:] - 1) % 10] -= 1
    mlp["W_out"][:20, 10:], mlp["W_out"][20:, 10:] = 12 * change, -12 * change
    params["unembed"]["W_U"][10:] = np.eye(10)
    return model, jax.device_put(params)
