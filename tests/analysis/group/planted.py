"""Networks that multiply in a group by one irrep, and networks that look products up, written by hand."""

import jax
import numpy as np

from jaxadd.models import Network, PairMLP


def of_irrep(task, rho, scale=1.0):
    """A network whose logits are `scale` tr(ρ(a) ρ(b) ρ(c⁻¹)); `rho` is `[n, d, d]`.

    A pair of squaring neurons multiplies two entries: 4 x y = (x + y)² - (x - y)².
    """
    n, d, _ = rho.shape
    entries = rho.reshape(n, d * d)
    i, j, k = (x.ravel() for x in np.indices((d, d, d)))
    left, right = np.eye(d * d)[:, i * d + j], np.eye(d * d)[:, j * d + k]
    w_in = np.concatenate([np.concatenate([left, left], axis=1), np.concatenate([right, -right], axis=1)])
    out = rho[task.group.inverse].reshape(n, d * d)[:, k * d + i].T * scale / 4
    params = {"W_a": entries, "W_b": entries, "W_in": w_in, "W_U": np.concatenate([out, -out])}
    config = PairMLP(d_embed=d * d, neurons=2 * d**3, activation="square")
    return _network(task, config, params)


def lookup(task, scale=50.0):
    """A network with a ReLU neuron for each pair, which is 1 for this pair alone."""
    n = task.count
    a, b = np.divmod(np.arange(n * n), n)
    w_in = np.concatenate([np.eye(n)[:, a], np.eye(n)[:, b]]) - 0.5
    params = {"W_a": np.eye(n), "W_b": np.eye(n), "W_in": w_in, "W_U": scale * np.eye(n)[task.answers()]}
    return _network(task, PairMLP(d_embed=n, neurons=n * n), params)


def _network(task, config, params):
    params = {name: np.asarray(matrix, np.float32) for name, matrix in params.items()}
    return Network(jax.device_put(params), config.build(task.sizes), task)
