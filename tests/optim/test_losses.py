"""The loss keeps float64's relative precision in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.optim import losses

pytestmark = pytest.mark.jax_api

cross_entropy = jax.jit(losses.cross_entropy)
graded = jax.jit(jax.value_and_grad(losses.cross_entropy))


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
    # A two-class loss at margin 90 is 8e-40, below the smallest normal float32; see the docstring.
    for margin in np.arange(-90, 91 if classes > 90 else 87, 1.5):
        logits = rng.uniform(0, 0.1, classes).astype(np.float32)
        target = int(rng.integers(classes))
        logits[target] = margin
        loss, gradient = graded(logits, target)
        want, want_gradient = exact(logits, target)
        assert abs(float(loss) / want - 1) < 1e-5, margin
        got = np.asarray(gradient, np.float64)
        assert abs(got[target] / want_gradient[target] - 1) < 1e-5, margin
        normal = np.abs(want_gradient) > 1.2e-38
        assert np.max(np.abs(got / want_gradient - 1), where=normal, initial=0) < 1e-5, margin


def test_log_softmax_would_fail_that_test():
    logits = np.zeros(114, np.float32)
    logits[3] = 40
    assert jax.jit(jax.nn.log_softmax)(logits)[3] == 0
    assert cross_entropy(logits, 3) == pytest.approx(113 * np.exp(-40.0), rel=1e-5)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-30, 30, width=32), min_size=5, max_size=5), st.floats(-1000, 1000, width=16), st.data())
def test_a_shift_of_all_logits_changes_nothing_and_the_gradient_sums_to_zero(values, shift, data):
    logits, target = np.asarray(values, np.float32), data.draw(st.integers(0, len(values) - 1))
    loss, gradient = jax.device_get(graded(logits, target))
    # Adding the shift rounds the logits themselves by up to 2**-24 of its size.
    assert cross_entropy(logits + np.float32(shift), target) == pytest.approx(float(loss), rel=1e-3, abs=1e-30)
    assert abs(float(gradient.sum())) <= 1e-6
    assert (np.delete(gradient, target) >= 0).all()


def test_second_derivatives_are_those_of_log_softmax():
    logits = jnp.asarray([0.3, -1.0, 2.0, 0.1])
    ours, theirs = (
        jax.jit(jax.hessian(lambda z, loss=loss: loss(z)))(logits)
        for loss in (lambda z: losses.cross_entropy(z, 1), lambda z: -jax.nn.log_softmax(z)[1])
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def test_batched_targets_and_margin():
    rng = np.random.default_rng(0)
    logits, targets = rng.standard_normal((5, 3, 7), np.float32), rng.integers(7, size=(5, 3))
    logits[0, 0] = 0
    assert cross_entropy(logits, targets).shape == (5, 3)
    margin = np.asarray(jax.jit(losses.margin)(logits, targets))
    expected = logits.argmax(-1) == targets
    expected[0, 0] = False  # A tie is an error.
    assert 0 < expected.sum() < expected.size
    np.testing.assert_array_equal(margin > 0, expected)
    second = np.sort(logits, axis=-1)[..., -2]
    np.testing.assert_allclose(margin[expected], (logits.max(-1) - second)[expected], rtol=1e-6)


def test_extreme_and_wrong_shapes():
    assert cross_entropy(np.array([1e4, 0], np.float32), 1) == 1e4
    assert np.isnan(cross_entropy(np.array([np.nan, 0], np.float32), 1))
    with pytest.raises(AssertionError):
        cross_entropy(np.zeros((4, 3), np.float32), np.zeros(5, np.int32))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 2], ids=["target", "rival"])
def test_a_logit_that_is_not_finite_makes_the_loss_not_finite(value, place):
    """A rival of -inf alone would leave the loss finite, of an example that counts as an error."""
    logits, targets = np.array([[9.0, 1.0, 0.0], [9.0, 1.0, 0.0]], np.float32), np.array([0, 0])
    logits[1, place] = value
    for compiled in (lambda f: f, jax.jit):
        loss = np.asarray(compiled(cross_entropy)(logits, targets))
        assert np.isfinite(loss[0])
        assert not np.isfinite(loss[1])
        np.testing.assert_array_equal(compiled(losses.margin)(logits, targets) > 0, [True, False])


def test_label_smoothing_and_stablemax_by_their_definitions():
    logits = np.array([[2.0, -1.0, 0.5], [0.0, -3.0, 4.0]], np.float32)
    targets = np.array([0, 2])
    plain = cross_entropy(logits, targets)
    minimised = jax.jit(lambda loss, logits: loss(logits, targets, plain))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    smooth = 0.8 * np.eye(3)[targets] + 0.2 / 3
    expected = -(smooth * np.log(p)).sum(-1)
    np.testing.assert_allclose(minimised(losses.LabelSmoothing(0.2), logits), expected, rtol=1e-5)
    s = np.where(logits >= 0, logits + 1, 1 / (1 - logits))
    expected = -np.log([s[0, 0] / s[0].sum(), s[1, 2] / s[1].sum()])
    np.testing.assert_allclose(minimised(losses.StableMax(), logits), expected, rtol=1e-5)
    expected = ((logits - np.eye(3)[targets]) ** 2).mean(-1)
    np.testing.assert_allclose(minimised(losses.MeanSquaredError(), logits), expected, rtol=1e-5)
    assert losses.CrossEntropy()(logits, targets, plain) is plain
    gradient = jax.jit(jax.grad(lambda z: losses.StableMax()(z, targets, plain).sum()))
    assert np.isfinite(gradient(logits * np.float32(1e4))).all()
    with pytest.raises(ValueError, match="from 0 to below 1"):
        losses.LabelSmoothing(1.0)
