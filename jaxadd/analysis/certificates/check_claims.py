"""What verification requires of every claim, and the logits that it starts from."""

import math

import jax
import numpy as np

from jaxadd.analysis.certificates import forward
from jaxadd.analysis.certificates.certificate import NOTHING
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer, plain

_TOLERANCE = 0.02  # Nats, and a part of the bound: the search interpolates some bounds from below.
_plain = jax.jit(plain.forward, static_argnames="model")


def require(holds: bool, what: str) -> None:
    """Raise UserError where something does not hold."""
    if not holds:
        raise UserError(f"the certificate does not hold: {what}")


def close(claimed: float, computed: float) -> bool:
    """Return whether a claim is at most what is computed here, and not far below it."""
    if not math.isfinite(computed):
        return claimed == NOTHING
    return (
        -1e-6 * (1 + abs(computed)) <= computed - claimed <= _TOLERANCE * (1 + abs(computed))
        or computed < claimed == NOTHING
    )


def logits(network: Network, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits at the scored positions in float64 and in float32, `[B, R, C]`, by the plain pass."""
    read = list(network.model.sizes.read)
    if not isinstance(network.config, Transformer):
        computed = forward.logits(network.params, network.model, inputs)
        return computed.value, np.asarray(network(inputs))
    single = np.asarray(_plain(network.params, network.model, inputs))[:, read]
    with jax.enable_x64(True):
        params = jax.tree.map(lambda w: np.asarray(w, np.float64), network.params)
        double = np.asarray(_plain(params, network.model, inputs))[:, read]
    return double, single


def within(single: np.ndarray, double: np.ndarray, allowed: np.ndarray) -> bool:
    """Return whether float32 logits are near exact ones; they may be no numbers where any error is allowed."""
    with np.errstate(invalid="ignore"):
        return bool((np.isinf(allowed) | (np.abs(single - double) <= allowed)).all())
