"""Measures of answers equal plain loops, and answering freely equals feeding digits back by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.models import Transformer
from jaxadd.optim import digits, losses
from jaxadd.tasks import Addition

B, R, C = 60, 3, 5


def random_logits(seed=0, scale=2.0):
    return scale * jax.random.normal(jax.random.key(seed), (B, R, C))


def random_digits(seed, classes=C):
    return jax.random.randint(jax.random.key(seed), (B, R), 0, classes)


def softmax(logits):
    p = np.exp(np.asarray(logits, np.float64))
    return p / p.sum(-1, keepdims=True)


# --- one digit at a time ----------------------------------------------------------------------------------


def test_loss_and_rightness_of_every_digit():
    logits, targets = random_logits(), random_digits(1)
    p = np.take_along_axis(softmax(logits), np.asarray(targets)[..., None], 2)[..., 0]
    np.testing.assert_allclose(losses.cross_entropy(logits, targets), -np.log(p), rtol=1e-4)
    right = np.argmax(logits, -1) == np.asarray(targets)
    assert 0 < right.mean() < 1
    np.testing.assert_array_equal(digits.correct(logits, targets), right)
    np.testing.assert_array_equal(digits.exact_match(logits, targets), right.all(-1))
    tied = jnp.zeros((1, 1, C))
    assert not digits.correct(tied, jnp.zeros((1, 1), jnp.int32)).any()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, C), st.floats(0.1, 30))
def test_leak_and_carry_loss_are_the_digit_loss(seed, candidates, scale):
    logits, naive, carry = random_logits(seed, scale), random_digits(seed + 1), random_digits(seed + 2, candidates)
    parts = digits.split(logits, naive, carry, candidates)
    whole = losses.cross_entropy(logits, (naive + carry) % C).mean(0)
    assert parts.keys() == {"leak", "carry_loss", "carry_entropy"}
    np.testing.assert_allclose(parts["leak"] + parts["carry_loss"], whole, rtol=1e-4, atol=1e-5)
    for part in parts.values():
        assert part.shape == (R,)
        assert (part >= -1e-6).all()
    assert (parts["carry_entropy"] <= np.log(candidates) + 1e-5).all()
    if candidates == 1:
        np.testing.assert_allclose(parts["leak"], whole, rtol=1e-4, atol=1e-5)
    if candidates == C:
        np.testing.assert_allclose(parts["leak"], 0, atol=1e-5)


def test_parts_of_a_loss_worked_by_hand():
    # Digit 3 or, with a carry, 4 of base 5: p = 0.6 and 0.2; 0.2 leaks.
    logits = jnp.log(jnp.array([[[0.05, 0.05, 0.1, 0.6, 0.2]]]))
    parts = digits.split(logits, jnp.array([[3]]), jnp.array([[1]]))
    entropy = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    assert [float(parts[name][0]) for name in ("leak", "carry_loss", "carry_entropy")] == pytest.approx(
        [-np.log(0.8), -np.log(0.25), entropy], rel=1e-5
    )
    wrapped = digits.split(jnp.roll(logits, 1, axis=-1), jnp.array([[4]]), jnp.array([[1]]))
    for name, value in parts.items():
        assert wrapped[name][0] == pytest.approx(float(value[0]), rel=1e-5)


def test_offset_from_naive_equals_a_loop():
    logits, naive = random_logits(), random_digits(3)
    found, p = digits.offset_from_naive(logits, naive), softmax(logits)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    for r in range(R):
        for o in range(C):
            expected = np.mean([p[b, r, (int(naive[b, r]) + o) % C] for b in range(B)])
            assert found[r, o] == pytest.approx(expected, rel=1e-4)


def test_confusion_equals_a_loop():
    logits, targets = random_logits(), random_digits(4, C - 1)
    targets = np.asarray(targets).copy()
    targets[targets[:, 1] == 2, 1] = 0
    found, p = digits.confusion(logits, jnp.asarray(targets)), softmax(logits)
    assert found.shape == (R, C, C)
    for r in range(R):
        for true in range(C):
            among = p[targets[:, r] == true, r]
            assert len(among) or true == C - 1 or (r, true) == (1, 2)
            expected = among.mean(0) if len(among) else np.full(C, np.nan)
            np.testing.assert_allclose(found[r, true], expected, rtol=1e-4)


@pytest.mark.parametrize("trailing", [(), (R,), (R, 2)])
def test_mean_by_one_group_for_each_problem(trailing):
    values = np.asarray(jax.random.normal(jax.random.key(0), (B, *trailing)))
    group = np.arange(B) % 3
    found = digits.mean_by(jnp.asarray(values), jnp.asarray(group), 4)
    assert found.shape == (4, *trailing)
    for g in range(3):
        np.testing.assert_allclose(found[g], values[group == g].mean(0), rtol=1e-4, atol=1e-6)
    assert np.isnan(found[3]).all()


def test_mean_by_a_group_for_each_digit():
    values, group = np.asarray(random_logits()[..., 0]), np.asarray(random_digits(5, 3)).copy()
    group[:, 1] = 2
    found = digits.mean_by(jnp.asarray(values), jnp.asarray(group), 3)
    for g in range(3):
        for r in range(R):
            among = values[group[:, r] == g, r]
            assert len(among) or r == 1
            np.testing.assert_allclose(found[g, r], among.mean() if len(among) else np.nan, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        digits.mean_by(jnp.asarray(values), jnp.asarray(group[:-1]), 3)


def test_measures_can_be_jitted_and_vmapped():
    logits, digits = random_logits(), random_digits(6)
    lanes = jnp.stack([logits, -logits])
    for measure in (digits.offset_from_naive, digits.confusion, digits.exact_match, digits.correct):
        found = jax.jit(jax.vmap(measure, in_axes=(0, None)))(lanes, digits)
        np.testing.assert_allclose(found[1], measure(-logits, digits), rtol=1e-4, atol=1e-6)


# --- answering freely -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["msd", "lsd"])
def network(request):
    """A random network sure of itself, 80 problems of base 3, and how often it was traced."""
    task = Addition(digits=2, base=3, answer_order=request.param)
    model = Transformer(d_model=16, heads=2, d_mlp=32, layers=2).build(task.sizes)
    params = jax.tree.map(lambda w: 2 * w, jax.jit(model.init)(jax.random.key(0)))
    calls = []

    def predict(inputs, read=None):
        calls.append(1)
        return model.apply(params, inputs, read=read)[0]

    return task, predict, task.batch(task.draw(jax.random.key(1), 80)), calls


def fed_back(predict, inputs, read):
    """Answer digit by digit, all positions computed anew for each."""
    tokens = np.array(inputs)
    tokens[:, read[0] + 1 :] = 0
    given = []
    for r, position in enumerate(read):
        given.append(np.argmax(predict(jnp.asarray(tokens))[:, r], axis=-1))
        if position + 1 < tokens.shape[1]:
            tokens[:, position + 1] = given[-1]
    return np.stack(given, axis=1)


def test_free_running_equals_a_loop(network):
    task, predict, batch, _ = network
    found = digits.free_run(predict, batch.inputs, task.sizes.read)
    np.testing.assert_array_equal(found, fed_back(predict, batch.inputs, task.sizes.read))
    assert found.shape == batch.targets.shape
    forced = np.argmax(predict(batch.inputs), axis=-1)
    np.testing.assert_array_equal(found[:, 0], forced[:, 0])
    assert (np.asarray(found) != forced).any(), "this network's answers depend on the digits before"


def test_free_running_does_not_look_at_the_given_answers(network):
    task, predict, batch, _ = network
    start = task.sizes.read[0] + 1
    other = batch.inputs.at[:, start:].set((batch.inputs[:, start:] + 1) % task.base)
    np.testing.assert_array_equal(
        digits.free_run(predict, batch.inputs, task.sizes.read), digits.free_run(predict, other, task.sizes.read)
    )


def test_exact_match_is_the_same_whether_fed_the_truth_or_its_own_answers(network):
    task, predict, batch, _ = network
    forced = digits.exact_match(predict(batch.inputs), batch.targets)
    free = (digits.free_run(predict, batch.inputs, task.sizes.read) == batch.targets).all(1)
    np.testing.assert_array_equal(forced, free)
    # Problems whose answer is the network's own: all of them match both ways.
    own = digits.free_run(predict, batch.inputs, task.sizes.read)
    inputs = batch.inputs.at[:, task.sizes.read[0] + 1 :].set(own[:, :-1])
    assert digits.exact_match(predict(inputs), own).all()


def test_free_running_traces_the_network_once(network):
    task, predict, batch, calls = network
    calls.clear()
    run = jax.jit(lambda inputs: digits.free_run(predict, inputs, task.sizes.read))
    run(batch.inputs), run(batch.inputs)
    assert len(calls) == 1


def test_free_running_needs_successive_positions(network):
    _, predict, batch, _ = network
    with pytest.raises(AssertionError):
        digits.free_run(predict, batch.inputs, (4, 6))
