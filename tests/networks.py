"""Networks that tests look into: parameters drawn without compiling anything, and circuits written by hand."""

import dataclasses
import functools
import itertools

import jax
import numpy as np

from jaxadd.analysis import fourier
from jaxadd.models import PairMLP, Transformer
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


QUADRATIC = PairMLP(embedding="one-hot", activation="square")


def quadratic(task, keys, phases=None):
    """Write Gromov's network (2023) for a sum or difference in a group: logits Σ_k cos w_k(a ± b - c), and a rest.

    A neuron of frequency k is (cos(w_k a + φ) + cos(w_k b ± χ))², and writes cos(w_k c + φ + χ). Over a grid of five
    phases φ and five χ everything but cos w_k(a ± b - c) cancels.

    Args:
      task: with two operands and no `=`.
      keys: a frequency with a sine for each 25 neurons, or for each neuron where there are `phases`.
      phases: φ and χ of each neuron, `[F, 2]`.

    Returns:
      the model and its parameters.
    """
    group, p = task.group, task.p
    if phases is None:
        grid = np.array(list(itertools.product(2 * np.pi * np.arange(5) / 5, repeat=2)))
        keys, phases = np.repeat(keys, 25), np.tile(grid, (len(keys), 1))
    angle = np.stack([fourier.angles(group.orders, k) for k in keys], axis=1)
    phi, chi = phases.T
    rows = list(group.elements)
    w_in, w_u = np.zeros((2, p, len(keys)), np.float32), np.zeros((len(keys), p), np.float32)
    w_in[0, rows], w_in[1, rows] = np.cos(angle + phi), np.cos(angle + task.rule.sign * chi)
    w_u[:, rows] = np.cos(angle + phi + chi).T
    model = dataclasses.replace(QUADRATIC, neurons=len(keys)).build(task.sizes)
    return model, jax.device_put({"W_in": w_in.reshape(2 * p, -1), "W_U": w_u})
