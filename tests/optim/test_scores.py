"""Scores equal plain loops, free-running equals feeding back by hand, and logits that are not finite are errors."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import drawn

from jaxadd.models import Transformer
from jaxadd.optim import losses, scores
from jaxadd.tasks import Addition

B, R, C = 60, 3, 5
correct, greedy, fraction = jax.jit(scores.correct), jax.jit(scores.greedy), jax.jit(scores.fraction)
cross_entropy = jax.jit(losses.cross_entropy)
split, mean_by = jax.jit(scores.split, static_argnums=3), jax.jit(scores.mean_by, static_argnums=2)


class Case(NamedTuple):
    task: Addition
    predict: Callable
    forward: Callable
    free_run: Callable
    inputs: np.ndarray
    targets: np.ndarray
    calls: list


def random_logits(seed=0, scale=2.0):
    return scale * np.random.default_rng(seed).standard_normal((B, R, C), np.float32)


def random_digits(seed, classes=C):
    return np.random.default_rng(seed).integers(classes, size=(B, R), dtype=np.int32)


def softmax(logits):
    p = np.exp(np.asarray(logits, np.float64))
    return p / p.sum(-1, keepdims=True)


# --- one digit at a time ----------------------------------------------------------------------------------


def test_loss_and_correctness_of_every_digit():
    logits, targets = random_logits(), random_digits(1)
    p = np.take_along_axis(softmax(logits), np.asarray(targets)[..., None], 2)[..., 0]
    np.testing.assert_allclose(jax.jit(losses.cross_entropy)(logits, targets), -np.log(p), rtol=1e-4)
    expected = np.argmax(logits, -1) == np.asarray(targets)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(correct(logits, targets), expected)
    np.testing.assert_array_equal(jax.jit(scores.exact_match)(logits, targets), expected.all(-1))
    np.testing.assert_array_equal(greedy(logits), np.argmax(logits, -1))
    assert not correct(np.zeros((B, R, C)), np.zeros((B, R), np.int32)).any(), "a tie is an error"


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.integers(1, C), st.floats(0.1, 30))
def test_leak_and_carry_loss_are_the_digit_loss(seed, candidates, scale):
    logits, naive, carry = random_logits(seed, scale), random_digits(seed + 1), random_digits(seed + 2, candidates)
    parts = jax.device_get(split(logits, naive, carry, candidates))
    whole = np.asarray(cross_entropy(logits, (naive + carry) % C)).mean(0)
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
    logits = np.log(np.array([[[0.05, 0.05, 0.1, 0.6, 0.2]]], np.float32))
    parts = split(logits, np.array([[3]]), np.array([[1]]), 2)
    entropy = -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
    assert [float(parts[name][0]) for name in ("leak", "carry_loss", "carry_entropy")] == pytest.approx(
        [-np.log(0.8), -np.log(0.25), entropy], rel=1e-5
    )
    wrapped = split(np.roll(logits, 1, axis=-1), np.array([[4]]), np.array([[1]]), 2)
    for name, value in parts.items():
        assert wrapped[name][0] == pytest.approx(float(value[0]), rel=1e-5)


def test_offset_from_naive_equals_a_loop():
    logits, naive = random_logits(), random_digits(3)
    found, p = np.asarray(jax.jit(scores.offset_from_naive)(logits, naive)), softmax(logits)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-5)
    for r in range(R):
        for o in range(C):
            expected = np.mean([p[b, r, (int(naive[b, r]) + o) % C] for b in range(B)])
            assert found[r, o] == pytest.approx(expected, rel=1e-4)


def test_confusion_equals_a_loop():
    logits, targets = random_logits(), random_digits(4, C - 1)
    targets[targets[:, 1] == 2, 1] = 0
    found, p = np.asarray(jax.jit(scores.confusion)(logits, targets)), softmax(logits)
    assert found.shape == (R, C, C)
    for r in range(R):
        for true in range(C):
            among = p[targets[:, r] == true, r]
            assert len(among) or true == C - 1 or (r, true) == (1, 2)
            expected = among.mean(0) if len(among) else np.full(C, np.nan)
            np.testing.assert_allclose(found[r, true], expected, rtol=1e-4)


@pytest.mark.parametrize("trailing", [(), (R,), (R, 2)])
def test_mean_by_one_group_for_each_problem(trailing):
    values = np.random.default_rng(0).standard_normal((B, *trailing), np.float32)
    group = np.arange(B) % 3
    found = np.asarray(mean_by(values, group, 4))
    assert found.shape == (4, *trailing)
    for g in range(3):
        np.testing.assert_allclose(found[g], values[group == g].mean(0), rtol=1e-4, atol=1e-6)
    assert np.isnan(found[3]).all()


def test_mean_by_a_group_for_each_digit():
    values, group = random_logits()[..., 0], random_digits(5, 3)
    group[:, 1] = 2
    found = np.asarray(mean_by(values, group, 3))
    for g in range(3):
        for r in range(R):
            among = values[group[:, r] == g, r]
            assert len(among) or r == 1
            np.testing.assert_allclose(found[g, r], among.mean() if len(among) else np.nan, rtol=1e-4, atol=1e-6)
    with pytest.raises(AssertionError):
        mean_by(values, group[:-1], 3)


def test_scores_can_be_jitted_and_vmapped():
    logits, digits = random_logits(), random_digits(6)
    lanes = np.stack([logits, -logits])
    for score in (scores.offset_from_naive, scores.confusion, scores.exact_match, scores.correct):
        found = jax.jit(jax.vmap(score, in_axes=(0, None)))(lanes, digits)
        np.testing.assert_allclose(found[1], jax.jit(score)(-logits, digits), rtol=1e-4, atol=1e-6)


# --- logits that are not finite ---------------------------------------------------------------------------


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_example_with_a_logit_that_is_not_finite_is_an_error_and_has_no_answer(value):
    """Wherever the value is: at the target, at a rival, or everywhere."""
    logits, targets = random_logits(), np.zeros((B, R), np.int32)
    logits[..., 0] = 9
    assert correct(logits, targets).all()
    logits[0, 0, 0], logits[1, 0, 3], logits[2, 0] = value, value, value
    broken = np.zeros((B, R), bool)
    broken[:3, 0] = True
    np.testing.assert_array_equal(correct(logits, targets), ~broken)
    np.testing.assert_array_equal(jax.jit(losses.margin)(logits, targets) == -np.inf, broken)
    np.testing.assert_array_equal(jax.jit(scores.exact_match)(logits, targets), ~broken.any(-1))
    np.testing.assert_array_equal(greedy(logits), np.where(broken, -1, 0))
    p = np.asarray(jax.jit(scores.probabilities)(logits))
    assert (p[broken] == 0).all()
    np.testing.assert_allclose(p[~broken], softmax(logits[~broken]), rtol=1e-4)


def test_all_logits_of_the_published_test_set_being_nan_give_accuracy_0():
    """Under jit XLA's maximum ignores NaN on a CPU, so that no rival would seem to lead."""
    logits, targets = np.full((8939, 1, 114), np.nan, np.float32), np.zeros((8939, 1), np.int32)
    accuracy = jax.jit(lambda z: scores.fraction(losses.margin(z, targets) > 0))
    assert accuracy(logits) == 0
    logits[:] = 0
    logits[..., 0] = 1
    assert accuracy(logits) == 1
    logits[7, 0, 50] = np.nan
    assert accuracy(logits) == pytest.approx(8938 / 8939, abs=1e-6)


def test_confusion_and_offsets_have_probability_0_where_logits_are_not_finite():
    logits, targets = random_logits(), random_digits(1)
    logits[:, 1] = np.nan
    for found in (jax.jit(scores.confusion)(logits, targets), jax.jit(scores.offset_from_naive)(logits, targets)):
        assert (np.asarray(found)[1] == 0).all()
        assert (np.asarray(found)[[0, 2]] > 0).all()


# --- fractions --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [41, 121, 1967])
def test_the_fraction_of_ones_is_exactly_1(count):
    """XLA's mean of so many ones is 0.99999994."""
    ones = np.ones(count, bool)
    assert jax.jit(jnp.mean)(ones.astype(np.float32)) < 1
    assert fraction(ones) == 1
    assert (np.asarray(jax.jit(lambda true: scores.fraction(true, axis=0))(ones[:, None])) == 1).all()
    assert fraction(~ones) == 0
    ones[0] = False
    assert fraction(ones) == pytest.approx((count - 1) / count, rel=1e-6)
    assert fraction(ones) < 1


@pytest.mark.parametrize("count", [1, 7, 100, 8939])
def test_a_fraction_is_the_quotient_to_a_rounding(count):
    for correct in {0, 1, count // 3, count - 1, count}:
        found = float(fraction(np.arange(count) < correct))
        assert found == pytest.approx(correct / count, rel=1.2e-7)
        assert (found == 1) == (correct == count)


# --- answering freely -------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["msd", "lsd"])
def case(request):
    """A random network with large weights, and 80 problems of base 3; `calls` grows with every trace."""
    task = Addition(digits=2, base=3, answer_order=request.param)
    model = Transformer(d_model=16, heads=2, d_mlp=32, layers=2).build(task.sizes)
    params = drawn(model, scale=0.5)
    calls = []

    def predict(inputs, read=None):
        calls.append(1)
        return model.apply(params, inputs, read=read)[0]

    batch = jax.jit(lambda key: task.batch(task.draw(key, 80)))(jax.random.key(1))
    free_run = jax.jit(lambda inputs: scores.free_run(predict, inputs, task.sizes.read))
    return Case(task, predict, jax.jit(predict), free_run, *jax.device_get(batch), calls)


def fed_back(case):
    """Answer digit by digit, all positions computed anew for each."""
    read = case.task.sizes.read
    tokens = case.inputs.copy()
    tokens[:, read[0] + 1 :] = 0
    answers = []
    for r, position in enumerate(read):
        answers.append(np.argmax(case.forward(tokens)[:, r], axis=-1))
        if position + 1 < tokens.shape[1]:
            tokens[:, position + 1] = answers[-1]
    return np.stack(answers, axis=1)


def test_free_running_equals_a_loop(case):
    found = np.asarray(case.free_run(case.inputs))
    np.testing.assert_array_equal(found, fed_back(case))
    assert found.shape == case.targets.shape
    forced = np.argmax(case.forward(case.inputs), axis=-1)
    np.testing.assert_array_equal(found[:, 0], forced[:, 0])
    assert (found != forced).any(), "this network's answers depend on the digits before"


def test_free_running_ignores_the_answers_in_the_input(case):
    start = case.task.sizes.read[0] + 1
    other = case.inputs.copy()
    other[:, start:] = (other[:, start:] + 1) % case.task.base
    np.testing.assert_array_equal(case.free_run(case.inputs), case.free_run(other))


def test_exact_match_is_the_same_teacher_forced_and_free_running(case):
    free = np.asarray(case.free_run(case.inputs))
    forced = jax.jit(scores.exact_match)(case.forward(case.inputs), case.targets)
    np.testing.assert_array_equal(forced, (free == case.targets).all(1))
    # Problems whose answer is the network's own: all of them match both ways.
    inputs = case.inputs.copy()
    inputs[:, case.task.sizes.read[0] + 1 :] = free[:, :-1]
    assert jax.jit(scores.exact_match)(case.forward(inputs), free).all()


def test_free_running_traces_the_network_once(case):
    case.calls.clear()
    run = jax.jit(lambda inputs: scores.free_run(case.predict, inputs, case.task.sizes.read))
    run(case.inputs), run(case.inputs)
    assert len(case.calls) == 1


def test_free_running_needs_successive_positions(case):
    with pytest.raises(AssertionError):
        scores.free_run(case.predict, case.inputs, (4, 6))


def test_free_running_has_no_answer_after_a_logit_that_is_not_finite(case):
    """Nor before: the digits of an answer are one answer."""
    read = case.task.sizes.read

    def predict(inputs, read):
        logits = jnp.zeros((len(inputs), 1, 3)).at[..., 1].set(1.0)
        return logits.at[0, 0, 2].set(jnp.where(read[0] == case.task.sizes.read[1], jnp.nan, 0.0))

    found = np.asarray(jax.jit(lambda inputs: scores.free_run(predict, inputs, read))(case.inputs[:4]))
    assert (found[0] == -1).all()
    assert (found[1:] == 1).all()
