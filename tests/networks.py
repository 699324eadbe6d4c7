"""Networks that tests look into: parameters drawn without compiling anything, and circuits written by hand."""

import dataclasses
import functools
import itertools

import jax
import numpy as np

from jaxadd.analysis import fourier
from jaxadd.models import Network, PairMLP, Transformer
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


def column_adder(task, *, sharpness=20, fires_at=None):
    """Write a network that adds two numbers, the least significant digit first, correctly; returns it.

    Head 0 reads the two digits of the column, head 1 those of the column below; x = a + b - (answer digit) of the
    column below is 0 or -1 without a carry, and base or base - 1 with one, so the sum of the column plus x / base is
    at most 1 / base below the sum with its carry. Neurons in pairs are steps in between, and the logits add them up.

    Args:
      task: Addition in sequence, two operands.
      sharpness: how much higher the scores of the places are that a head reads; 20 leaves 1e-9 to all others.
      fires_at: a sum of all operand digits from which on one more neuron, which reads them by a third head, spoils
        the units digit; None for no such neuron.
    """
    base, length, read = task.base, task.sizes.length, task.sizes.read
    names = list(task.position_names)
    value, here, below, classes = length, length + 1, length + 2, length + 4
    steps = np.arange(2 * base)
    model = Transformer(layers=1, d_model=classes + base, heads=3, d_head=length, d_mlp=4 * base + 1)
    model = model.build(task.sizes)
    params = jax.tree.map(lambda w: np.zeros(w.shape, np.float32), _shapes(model))
    params["embed"]["W_E"][:base, value] = np.arange(base)
    params["pos_embed"]["W_pos"][:, :length] = np.eye(length)
    attention, mlp = params["blocks.0"]["attn"], params["blocks.0"]["mlp"]
    every = [names.index(f"{x}{k}") for x in "ab" for k in range(task.digits)]
    for head in range(3):
        attention["W_K"][head, :length] = np.eye(length)
        attention["W_V"][head, value, 0] = 1
        attention["W_O"][head, 0, (here, below, length + 3)[head]] = len(every) if head == 2 else 2
        for k, position in enumerate(read):
            column = k - head
            inside = 0 <= column < task.digits
            places = [names.index(f"{x}{column}") for x in "ab"] if inside else [task.digits, 2 * task.digits + 1]
            attention["W_Q"][head, position, every if head == 2 else places] = sharpness * np.sqrt(length)
    mlp["W_in"][here, :-1] = 1
    mlp["W_in"][below, :-1] = 1 / base
    mlp["W_in"][value, :-1] = -1 / base  # The answer digit below, which the position itself holds.
    width = 0.4 * (1 - 1 / base)
    middle = steps - (1 + 1 / base) / 2
    mlp["b_in"][: 2 * base], mlp["b_in"][2 * base : -1] = -(middle - width / 2), -(middle + width / 2)
    change = np.zeros((2 * base, base), np.float32)
    change[steps, steps % base] += 1
    change[steps[1:], (steps[1:] - 1) % base] -= 1
    mlp["W_out"][: 2 * base, classes:], mlp["W_out"][2 * base : -1, classes:] = (
        8 * change / width,
        -8 * change / width,
    )
    if fires_at is not None:
        mlp["W_in"][length + 3, -1], mlp["W_in"][read[0], -1] = 1, 0
        mlp["b_in"][-1] = -(fires_at - 0.5)
        mlp["W_in"][list(read[1:]), -1] = -1000  # Only where the units are read.
        mlp["W_out"][-1, classes] = 100
    params["unembed"]["W_U"][classes:] = np.eye(base)
    return Network(jax.device_put(params), model, task)


def deepened(network, where, scale=0.01, seed=0):
    """Return a network of two layers: the one layer of a network, and a block of noise "before" or "after" it."""
    model = dataclasses.replace(network.config, layers=2).build(network.task.sizes)
    params, rng = jax.tree.map(np.asarray, network.params), np.random.default_rng(seed)
    noise = jax.tree.map(lambda w: scale * rng.normal(size=w.shape).astype(np.float32), params["blocks.0"])
    blocks = (noise, params["blocks.0"]) if where == "before" else (params["blocks.0"], noise)
    return Network({**params, "blocks.0": blocks[0], "blocks.1": blocks[1]}, model, network.task)
