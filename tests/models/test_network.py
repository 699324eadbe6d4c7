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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"read": [-1]}, r"positions from 0 to 2, got \[-1\]"),
        ({"read": (0, 3)}, r"positions from 0 to 2, got \[0, 3\]"),
        ({"read": []}, "a list of positions|positions from 0 to 2"),
        ({"read": 1}, r"a list of positions, such as \[0, 2\], got 1"),
        ({"read": [0.5]}, r"a list of positions, such as \[0, 2\]"),
        ({"cache": "hook_embed"}, r"a list of names, such as \['hook_embed'\]"),
        ({"cache": ["hook_none"]}, "no activation is named hook_none"),
        ({"edits": {"hook_embed": lambda x: x[:, 0]}}, r"edit of hook_embed should return the shape \[1, 3, 4\]"),
    ],
)
def test_positions_names_and_edits_that_there_are_not_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        NET([[1, 2, 5]], **options)


def test_rows_of_several_lengths_are_refused():
    with pytest.raises(UserError, match="inputs must be an array"):
        NET([[1, 2, 5], [1]])
