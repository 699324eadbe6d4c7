"""Exact match of adding networks on many new problems of every kind."""

from collections.abc import Sequence
from typing import cast

import jax
import numpy as np

from jaxadd.analysis import performance
from jaxadd.models import Network
from jaxadd.tasks.addition import Addition, Mixture

UNIFORM, FORCED = 20_000, 2_000


def exact_matches(networks: Sequence[Network]) -> np.ndarray:
    """Measure the fraction of new problems that each network answers without an error, float64 `[S, 1 + N]`.

    The first column is of UNIFORM uniform problems, the others of FORCED with a cascade from the units on over 0 to
    N - 1 columns. All networks get the same problems, as do those of other calls of the same sizes.
    """
    task, key = cast(Addition, networks[0].task), jax.random.key(2**32 - 1)
    kinds = [task.draw(key, UNIFORM, Mixture())]
    kinds += [task.cascade(jax.random.fold_in(key, n), FORCED, n) for n in range(task.digits)]
    batches = [task.batch(kind) for kind in kinds]
    return np.array([[performance.measure(n.params, n.model, batch).accuracy for batch in batches] for n in networks])
