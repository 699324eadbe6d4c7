"""Loss spikes: found where they were planted, and measured exactly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.analysis import spikes
from jaxadd.optim.optimizers import SGD, AdamW


def falling(length=600, seed=0):
    """A loss that falls by three decades, with the noise of batches."""
    rng = np.random.default_rng(seed)
    return 10 ** (-3 * np.arange(length) / length) * np.exp(0.2 * rng.standard_normal(length))


def test_a_planted_spike_is_found_and_nothing_else():
    loss, step = falling(), np.arange(600) + 5
    assert spikes.find(loss, step) == []
    loss[400:420] *= np.geomspace(20, 2000, 20)
    loss[200] *= 500  # One hard batch is no spike.
    (found,) = spikes.find(loss, step)
    assert (found.start, found.peak, found.end) == (405, 5 + np.argmax(loss[400:]) + 400, 425)
    assert found.before == pytest.approx(np.median(loss[300:400]))
    assert found.height == loss[400:].max()


def test_a_spike_that_dips_is_one_and_one_at_the_end_has_no_end():
    loss = falling()
    loss[300:340] *= 100
    loss[310:313] /= 100
    loss[590:] *= 1000
    first, last = spikes.find(loss, np.arange(600))
    assert (first.start, first.end) == (300, 340)
    assert (last.start, last.end) == (590, None)


def test_the_record_ends_where_a_lane_was_frozen():
    loss = falling()
    loss[450:480] *= 100
    cut = loss.copy()
    cut[460:] = np.nan
    assert spikes.find(loss, np.arange(600))[0].end == 480
    assert spikes.find(cut, np.arange(600))[0].end is None
    assert spikes.find(loss[:90], np.arange(90)) == []


def test_sharpness_is_the_largest_eigenvalue_in_adams_coordinates():
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    hessian = basis @ np.diag([20.0, 4, 3, 2, 1, 0.5]) @ basis.T
    scale = rng.uniform(0.5, 2, 6)
    expected = np.linalg.eigvalsh(hessian / np.sqrt(np.outer(scale, scale)))[-1]
    params = {"w": jnp.asarray(rng.standard_normal(6), jnp.float32)}
    loss = lambda w: w["w"] @ jnp.asarray(hessian, jnp.float32) @ w["w"] / 2
    measured = jax.jit(lambda w: spikes.look(loss, w, {"w": jnp.asarray(scale, jnp.float32)}))(params)
    assert measured.sharpness == pytest.approx(expected, rel=1e-3)
    gradient = hessian @ np.asarray(params["w"])
    assert measured.norms == pytest.approx([np.linalg.norm(gradient)], rel=1e-5)
    np.testing.assert_allclose(measured.direction, gradient / np.linalg.norm(gradient), rtol=1e-4)
    assert np.isnan(spikes.look(loss, params, None).sharpness)


def test_adam_diverges_on_a_quadratic_just_above_its_limit():
    lr, b1 = 1e-2, 0.9
    for factor, grows in ((0.9, False), (1.1, True)):
        curvature = factor * spikes.adam_limit(lr, b1)
        w, mean = 1.0, 0.0
        for _ in range(400):  # The denominator held at 1.
            mean = b1 * mean + (1 - b1) * curvature * w
            w -= lr * mean
        assert (abs(w) > 1e3) == grows


def test_adams_scale_is_what_it_divides_by():
    config, params = AdamW(warmup=0, weight_decay=0.0), {"w": jnp.array([1.0, -2.0])}
    transform = config.transform()
    state, grads = transform.init(params), {"w": jnp.array([0.3, 1e-3])}
    update, state = transform.update(grads, state, params)
    scale = spikes.adam_scale(state, config.b2, config.eps)
    np.testing.assert_allclose(update["w"], -config.lr * grads["w"] / scale["w"], rtol=1e-5)
    assert spikes.adam_scale(SGD().transform().init(params), 0.9, 1e-8) is None


def test_each_parameter_is_exchanged_alone():
    before = {"a": jnp.array([1.0, 1.0]), "b": jnp.array(2.0)}
    after = {"a": jnp.array([1.0, 4.0]), "b": jnp.array(2.5)}
    found = spikes.exchange(lambda w: jnp.array([jnp.sum(w["a"]), w["b"]]), before, after)
    np.testing.assert_allclose(found.moved, [[5, 2], [2, 2.5]])
    np.testing.assert_allclose(found.restored, [[2, 2.5], [5, 2]])


def test_a_state_whose_gradient_is_nan_has_no_direction_and_no_sharpness():
    loss = lambda w: jnp.sum(w["w"] ** 2) * jnp.nan
    params = {"w": jnp.ones(3)}
    measured = jax.jit(lambda w: spikes.look(loss, w, {"w": jnp.ones(3)}))(params)
    for value in measured:
        assert np.isnan(value).all()
    exchanged = spikes.exchange(loss, params, {"w": jnp.zeros(3)})
    assert np.isnan(exchanged.moved).all()


def test_a_loss_that_becomes_infinite_ends_the_record():
    loss = falling()
    loss[450:480] *= 100
    loss[470:] = np.inf
    (found,) = spikes.find(loss, np.arange(600))
    assert (found.start, found.end) == (450, None)
    assert np.isfinite(found.height)
