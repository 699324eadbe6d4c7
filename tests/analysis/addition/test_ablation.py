"""Ablation effects of a network whose circuit is known, and the columns that its neurons read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import ADDER, adder, drawn

from jaxadd.analysis.addition import ablation
from jaxadd.analysis.addition.neurons import neuron_groups
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Addition


@pytest.fixture(scope="module")
def planted():
    model, params = adder()
    return Network(params, model, ADDER), ADDER.draw(jax.random.key(0), 300)


@pytest.fixture(scope="module")
def effects(planted):
    network, operands = planted
    groups = [neuron_groups(network, operands, 0)]
    return ablation.measure(network, operands, ablation.components(network, groups))


def test_the_effects_on_a_planted_network_say_what_each_head_is_for(effects):
    labels = [component.label for component in effects.components]
    assert len(set(labels)) == len(labels)
    sentences = {text.split(" at ")[0]: text for text in ablation.sentences(ADDER, effects)}
    assert sentences["L0H0"].startswith("L0H0 at =: column 1 carry")  # Units tell the tens only whether to carry.
    assert sentences["L0H1"].startswith("L0H1 at =: column 1 sum")
    np.testing.assert_allclose(effects.loss, effects.leak + effects.carry, atol=1e-3)
    # `+` is never looked at.
    silent = [i for i, label in enumerate(labels) if label.endswith("input at +")]
    np.testing.assert_allclose(effects.loss[silent], 0, atol=1e-6)
    assert np.nanmax(effects.by_class) > 1


def test_a_network_with_nan_has_no_effects_and_none_is_reported_as_none(planted, effects):
    network, operands = planted
    broken = {**network.params, "unembed": {"W_U": network.params["unembed"]["W_U"].at[0, 0].set(jnp.nan)}}
    again = ablation.measure(Network(broken, network.model, ADDER), operands, effects.components)
    assert np.isnan(again.loss).all()
    for sentence in ablation.sentences(ADDER, again):
        assert "not defined (the loss is not finite)" in sentence
        assert "no noticeable effect" not in sentence
    blind = {**network.params, "embed": {"W_E": jnp.full((12, 20), jnp.nan)}}
    assert (neuron_groups(Network(blind, network.model, ADDER), operands, 0) == -1).all()


def test_neuron_groups_are_the_columns_that_neurons_read():
    """Of three neurons, one sees the units alone, one the tens alone, and one nothing."""
    task = Addition(digits=2, target="single", digit=1)
    model = Transformer(d_model=8, heads=2, d_mlp=3).build(task.sizes)
    params = jax.tree.map(jnp.zeros_like, drawn(model))
    attention, mlp = params["blocks.0"]["attn"], params["blocks.0"]["mlp"]
    params["embed"]["W_E"] = params["embed"]["W_E"].at[:10, 6].set(jnp.arange(10.0))
    params["pos_embed"]["W_pos"] = params["pos_embed"]["W_pos"].at[:, :6].set(jnp.eye(6))
    for head, places in ((0, (1, 4)), (1, (0, 3))):
        attention["W_Q"] = attention["W_Q"].at[head, 5, 0].set(100)
        attention["W_K"] = attention["W_K"].at[head, jnp.array(places), 0].set(1)
        attention["W_V"] = attention["W_V"].at[head, 6, 0].set(2)
        attention["W_O"] = attention["W_O"].at[head, 0, 6 + head].set(1)
    mlp["W_in"] = mlp["W_in"].at[6, 0].set(1.0).at[7, 1].set(3.0)
    groups = neuron_groups(Network(params, model, task), task.draw(jax.random.key(0), 300), 0)
    np.testing.assert_array_equal(groups, [0, 1, -1])
