"""A network as a function of inputs: those that are not its task's are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Modular

TASK = Modular(p=5)
MODEL = Transformer(d_model=4, heads=1, d_mlp=0).build(TASK.sizes)
NET = Network(jax.tree.map(lambda w: np.ones(w.shape, np.float32), MODEL.shapes()), MODEL, TASK)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((2, 2), int), r"shape \[B, 3\] with B at least 1, got \[2, 2\]"),
        (np.zeros(3, int), r"\[B, 3\] with B at least 1, got \[3\]"),
        (np.zeros((0, 3), int), r"\[B, 3\] with B at least 1, got \[0, 3\]"),
        ([[0, 1, 6]], "tokens must be from 0 to 5, got 0 to 6"),
        (jnp.asarray([[-1, 1, 5]]), "tokens must be from 0 to 5, got -1 to 5"),
        ([[0.5, 1, 5]], "integer tokens, got float64"),
        ([["a", "b", "c"]], "integer tokens, got <U1"),
    ],
)
def test_inputs_that_are_not_those_of_the_task_are_refused(inputs, message):
    """JAX does not check an index, and would answer for other tokens."""
    for call in (NET, NET.answer):
        with pytest.raises(UserError, match=message):
            call(inputs)


def test_within_jit_only_shapes_are_known():
    inputs, jitted = jnp.asarray([[1, 2, 5]]), jax.jit(lambda net, inputs: net(inputs))
    np.testing.assert_array_equal(jitted(NET, inputs), NET([[1, 2, 5]]))
    with pytest.raises(UserError, match=r"shape \[B, 3\]"):
        jitted(NET, inputs[:, :2])
