"""Registered claims and causal maps, on small networks trained here and on one written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hypotheses import planted

from jaxadd.analysis import claims
from jaxadd.analysis.addition import ablation
from jaxadd.analysis.hypotheses import Kept
from jaxadd.config import RunConfig, Stop
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.tasks import Addition, Modular
from jaxadd.training.loop import fit
from jaxadd.training.trainer import Trainer


@pytest.fixture(scope="module")
def learned():
    """Two-digit addition, learned."""
    config = RunConfig(
        task=Addition(digits=2, batch_size=128, test_examples=64, cascade_examples=8),
        model=Transformer(layers=2, d_model=32, heads=2, d_mlp=64),
        optimizer=AdamW(lr=5e-3, weight_decay=0.0),
        steps=1500,
        eval_every=50,
        stop=Stop("test_accuracy", 0.99),
    )
    trainer = Trainer(config)
    params = take(fit(trainer).state.params, 0)
    return config.task, trainer.model, params


def test_every_claim_that_applies_gets_a_verdict(learned):
    task, model, params = learned
    found = claims.assess(task, params, model.apply, jax.random.key(0))
    by_text = {finding.text: finding.score for finding in found}
    assert len(by_text) == len(found)
    assert {"a head carries column 0's sum", "a head carries the carry into column 1"} <= set(by_text)
    assert "layer 1 adds, layer 2 carries" in by_text
    for score in by_text.values():
        assert score.verdict in ("holds", "in part", "fails", "does not matter")
    # It answers rightly, so its logits are the true digits, and the naive digits are not enough.
    true = by_text["each answer's logits know the true digit and nothing else"]
    naive = by_text["each answer's logits know the naive digit and nothing else"]
    assert true.score > naive.score + 0.1
    assert true.verdict == "holds"


def test_claims_about_modular_networks_follow_the_operation():
    for operation, some in (("add", True), ("subtract", True), ("x2xyy2", False)):
        task = Modular(p=7, operation=operation, train_fraction=0.5)
        model = Transformer(d_model=16, heads=2, d_mlp=32).build(task.sizes)
        found = claims.assess(task, model.init(jax.random.key(0)), model.apply, jax.random.key(1)) if some else []
        texts = [f.text for f in found]
        assert any("attention to =" in t for t in texts) == some
        entries = claims.modular(task, model.init(jax.random.key(0)), model.apply)
        assert bool(entries) == some


def test_spans_of_waves_keep_waves_and_nothing_else():
    task = Modular(p=11, train_fraction=0.5)
    inputs = task.batch(jnp.arange(121), {}).inputs
    a, b = inputs[:, 0], inputs[:, 1]
    wave = lambda k, n: jnp.cos(2 * jnp.pi * k * n / 11 + 0.3)
    plane = claims._plane(11, 3)
    assert isinstance(plane, Kept)
    x = jnp.stack([wave(3, a + b), wave(3, a) * wave(3, b), wave(3, a) + 2, wave(2, a + b), wave(3, 2 * a)], axis=1)
    kept = plane.part(x, inputs)
    np.testing.assert_allclose(kept[:, :3], x[:, :3], atol=1e-5)
    np.testing.assert_allclose(kept[:, 3:], 0, atol=1e-5)


def test_token_names():
    task = Addition(digits=2)
    assert ablation.token_names(task) == ("a1", "a0", "+", "b1", "b0", "=", "A2", "A1")
    assert ablation.token_names(Addition(digits=1, target="parallel")) == ("a0", "+", "b0", "=", "? A1")
    assert len(ablation.token_names(Addition(digits=2, operands=3))) == Addition(digits=2, operands=3).sizes.length


def test_the_causal_map_of_a_planted_network_says_what_each_head_is_for():
    model, params = planted()
    task = Addition(digits=2, target="single", digit=1, batch_size=8)
    operands = task.draw(jax.random.key(0), 400)
    groups = [claims.neuron_groups(task, params, model.apply, task.batch(operands), operands, 0)]
    units = ablation.units(task, params, groups)
    found = ablation.measure(task, params, model.apply, operands, units)
    assert len({u.label for u in units}) == len(units)
    said = {text.split(" at ")[0]: text for text in ablation.sentences(task, found)}
    assert said["L0H0"].startswith("L0H0 at =: column 1 carry")  # The units tell the tens only whether to carry.
    assert said["L0H1"].startswith("L0H1 at =: column 1 sum")
    np.testing.assert_allclose(found.loss, found.leak + found.carry, atol=1e-3)
    # `+` is never looked at.
    silent = [i for i, u in enumerate(units) if u.label.endswith("input at +")]
    np.testing.assert_allclose(found.loss[silent], 0, atol=1e-6)
    assert np.nanmax(found.by_class) > 1


def test_neuron_groups_are_the_columns_that_neurons_read():
    task = Addition(digits=2, target="single", digit=1)
    model = Transformer(d_model=8, heads=1, d_mlp=3).build(task.sizes)

    def apply(params, inputs, names=(), edits=None, read=None):
        digits = inputs.astype(jnp.float32)
        units, tens = digits[:, 1] + digits[:, 4], digits[:, 0] + digits[:, 3]
        post = jnp.stack([jnp.sin(units), 3 * tens, jnp.zeros_like(units)], axis=-1)[:, None]
        return model.apply(params, inputs)[0], dict.fromkeys(names, post)

    operands = task.draw(jax.random.key(0), 300)
    found = claims.neuron_groups(task, model.init(jax.random.key(1)), apply, task.batch(operands), operands, 0)
    np.testing.assert_array_equal(found, [0, 1, -1])
