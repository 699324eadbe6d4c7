"""The loss keeps float64's relative precision in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.optim import losses


def exact(logits: np.ndarray, target: int) -> tuple[float, np.ndarray]:
    """Cross-entropy and its gradient in float64, by the definition that loses no precision."""
    lead = logits.astype(np.float64) - float(logits[target])
    rivals = np.exp(np.delete(lead, target))
    odds = rivals.sum()
    gradient = np.exp(lead) / (1 + odds)
    gradient[target] = -odds / (1 + odds)
    return np.log1p(odds), gradient


@pytest.mark.parametrize("classes", [2, 10, 114])
def test_relative_error_over_all_margins(classes):
    rng = np.random.default_rng(classes)
    compiled = jax.jit(jax.value_and_grad(losses.cross_entropy))
    # A two-class loss at margin 90 is 8e-40, below the smallest normal float32; see the docstring.
    for margin in np.arange(-90, 91 if classes > 90 else 87, 1.5):
        logits = rng.uniform(0, 0.1, classes).astype(np.float32)
        target = int(rng.integers(classes))
        logits[target] = margin
        loss, gradient = compiled(logits, target)
        want, want_gradient = exact(logits, target)
        assert abs(float(loss) / want - 1) < 1e-5, margin
        got = np.asarray(gradient, np.float64)
        assert abs(got[target] / want_gradient[target] - 1) < 1e-5, margin
        normal = np.abs(want_gradient) > 1.2e-38
        assert np.max(np.abs(got / want_gradient - 1), where=normal, initial=0) < 1e-5, margin


def test_log_softmax_would_fail_that_test():
    logits = jnp.zeros(114).at[3].set(40.0)
    assert -jax.nn.log_softmax(logits)[3] == 0
    assert losses.cross_entropy(logits, 3) == pytest.approx(113 * np.exp(-40.0), rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5), st.floats(-1000, 1000, width=16), st.data())
def test_a_shift_of_all_logits_changes_nothing_and_the_gradient_sums_to_zero(values, shift, data):
    logits, target = jnp.asarray(values, jnp.float32), data.draw(st.integers(0, len(values) - 1))
    loss, gradient = jax.value_and_grad(losses.cross_entropy)(logits, target)
    # Adding the shift rounds the logits themselves by up to 2**-24 of its size.
    assert losses.cross_entropy(logits + shift, target) == pytest.approx(float(loss), rel=1e-3, abs=1e-30)
    assert abs(float(gradient.sum())) <= 1e-6
    assert (np.delete(np.asarray(gradient), target) >= 0).all()


def test_second_derivatives_are_those_of_log_softmax():
    logits = jnp.asarray([0.3, -1.0, 2.0, 0.1])
    ours = jax.hessian(lambda z: losses.cross_entropy(z, 1))(logits)
    np.testing.assert_allclose(ours, jax.hessian(lambda z: -jax.nn.log_softmax(z)[1])(logits), atol=1e-6)


def test_batched_targets_and_margin():
    logits = jax.random.normal(jax.random.key(0), (5, 3, 7))
    targets = jax.random.randint(jax.random.key(1), (5, 3), 0, 7)
    assert losses.cross_entropy(logits, targets).shape == (5, 3)
    right = losses.margin(logits, targets) > 0
    np.testing.assert_array_equal(right, logits.argmax(-1) == targets)
    assert not losses.margin(jnp.zeros(3), jnp.int32(0)) > 0, "a tie is wrong"


def test_extreme_and_wrong_shapes():
    assert losses.cross_entropy(jnp.asarray([1e4, 0.0]), 1) == 1e4
    assert np.isnan(losses.cross_entropy(jnp.asarray([jnp.nan, 0.0]), 1))
    with pytest.raises(AssertionError):
        losses.cross_entropy(jnp.zeros((4, 3)), jnp.zeros(5, jnp.int32))


def test_label_smoothing_and_stablemax_by_their_definitions():
    logits = jnp.array([[2.0, -1.0, 0.5], [0.0, -3.0, 4.0]])
    targets = jnp.array([0, 2])
    plain = losses.cross_entropy(logits, targets)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    smooth = 0.8 * np.eye(3)[np.asarray(targets)] + 0.2 / 3
    np.testing.assert_allclose(
        losses.LabelSmoothing(0.2)(logits, targets, plain), -(smooth * np.log(p)).sum(-1), rtol=1e-5
    )
    s = np.where(np.asarray(logits) >= 0, np.asarray(logits) + 1, 1 / (1 - np.asarray(logits)))
    own = np.array([s[0, 0] / s[0].sum(), s[1, 2] / s[1].sum()])
    np.testing.assert_allclose(losses.StableMax()(logits, targets, plain), -np.log(own), rtol=1e-5)
    assert losses.CrossEntropy()(logits, targets, plain) is plain
    grads = jax.grad(lambda z: losses.StableMax()(z, targets, plain).sum())(logits * 1e4)
    assert np.isfinite(grads).all()
    with pytest.raises(ValueError, match="from 0 to below 1"):
        losses.LabelSmoothing(1.0)
