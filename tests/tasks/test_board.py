"""The format and the test suite of the contest of ten-digit adders."""

import jax
import numpy as np
import pytest
from networks import drawn

from jaxadd.models import Transformer
from jaxadd.tasks import Addition
from jaxadd.tasks.addition import board


def test_a_problem_stands_between_zeros_units_first():
    operands = board.suite(0)[[3, 7]]  # 9999999999 + 1 and 1234567890 + 9876543210
    batch = board.TASK.batch(operands)
    assert batch.inputs[0].tolist() == [0, *[9] * 10, 0, 0, 1, *[0] * 9, 0, *[0] * 10]
    assert batch.targets[0].tolist() == [*[0] * 10, 1]
    digits = [0, 9, 8, 7, 6, 5, 4, 3, 2, 1]
    assert batch.inputs[1, :24].tolist() == [0, *digits, 0, 0, 0, *range(1, 10), 0]
    assert "".join(map(str, batch.targets[1, ::-1].tolist())) == str(1234567890 + 9876543210)
    assert board.TASK.sizes.length == 34
    assert board.TASK.sizes.vocabulary == 10
    assert len(board.TASK.position_names) == 34
    back, answer = board.TASK.decode(board.TASK.encode(operands))
    np.testing.assert_array_equal(back, operands)
    np.testing.assert_array_equal(answer, batch.targets)


def test_the_digit_0_may_be_in_the_place_of_signs():
    task, signs = (Addition(digits=3, target="parallel", separators=name) for name in ("zero-signs", "signs"))
    operands = board.suite(0)[[3, 7], :, :3]
    tokens, ours = np.asarray(signs.encode(operands)), np.asarray(task.encode(operands))
    np.testing.assert_array_equal(ours, np.where(tokens >= 10, 0, tokens))
    assert task.token_names == (*"0123456789", "?")
    assert task.position_names == tuple("0" if name in "+=" else name for name in signs.position_names)
    assert task.sizes.places == signs.sizes.places
    back, _ = task.decode(task.encode(operands))
    np.testing.assert_array_equal(back, operands)


def test_the_suite_is_that_of_the_contest():
    problems = board.suite()
    assert problems.shape == (10_010, 2, 10)
    numbers = (problems.astype(np.int64) * 10 ** np.arange(10)).sum(-1)
    assert numbers[:10].tolist()[7] == [1234567890, 9876543210]
    assert numbers[10].tolist() == [2395527356, 9334186774]  # As Python's own generator draws them.


@pytest.mark.parametrize("target", ["sequential", "parallel", "single"])
@pytest.mark.parametrize("separators", ["zeros", "zero-signs"])
def test_every_target_has_a_form_without_signs(target, separators):
    task = Addition(digits=2, separators=separators, target=target)
    batch = task.batch(task.draw(jax.random.key(0), 5))
    assert int(batch.inputs.max()) < task.sizes.vocabulary == 10 + (target == "parallel")
    model = Transformer(d_model=8, heads=2, d_mlp=8).build(task.sizes)
    logits = jax.jit(lambda params: model.apply(params, batch.inputs)[0])(drawn(model))
    assert logits.shape == (*batch.targets.shape, 10)
