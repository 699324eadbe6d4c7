"""The addition task: what the network sees, where problems come from, and that they read back as they were."""

import functools
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import drawn
from test_mixtures import check_cascade, rows

from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.tasks import Addition, Mixture
from jaxadd.training.loop import fit
from jaxadd.training.trainer import Trainer
from jaxadd.types import Batch

ORDERS = ("msd", "lsd")
# Forms of the task: each is compiled once, for many problems. Every choice occurs with every other one somewhere.
FORMS = [
    Addition(),
    Addition(digits=1, base=2),
    Addition(digits=2, base=3, answer_order="lsd"),
    Addition(digits=3, base=16, operand_order="lsd", target="parallel"),
    Addition(digits=4, base=5, answer_order="lsd", operand_order="lsd", operands=3),
    Addition(digits=2, base=2, operands=3, target="parallel", answer_order="lsd"),
    Addition(digits=20, base=16),
    Addition(digits=7, base=11, target="single", digit=7),
    Addition(digits=3, operands=3, base=4, target="single", digit=1, operand_order="lsd"),
    Addition(digits=5, base=7, operation="digitwise"),
    Addition(digits=2, operation="digitwise", target="parallel", answer_order="lsd", operands=3),
    Addition(digits=1, base=13, operation="digitwise", target="single", operand_order="lsd"),
]
WIDE = [Addition(digits=2, base=base, target="parallel") for base in (36, 37, 60, 1024)]  # Numerals of other kinds.


def lane(data, s=0):
    return data._replace(lane=jax.tree.map(lambda x: x[s], data.lane))


def number(digits, base):
    """Read digits, units first, as a Python integer."""
    return sum(int(d) * base**k for k, d in enumerate(digits))


@st.composite
def problems(draw, forms=FORMS):
    """Draw a form of the task and three of its problems, int32 `[3, M, N]`."""
    task = draw(st.sampled_from(forms))
    size = 3 * task.operands * task.digits
    digits = draw(st.lists(st.integers(0, task.base - 1), min_size=size, max_size=size))
    return task, np.array(digits, np.int32).reshape(3, task.operands, task.digits)


class Written(NamedTuple):
    """Problems as tokens, read back, and written with other answers."""

    tokens: jax.Array
    operands: jax.Array
    answer: jax.Array
    again: jax.Array
    other: jax.Array
    batch: Batch


@functools.partial(jax.jit, static_argnums=0)
def written(task, operands):
    tokens = task.encode(operands)
    back, answer = task.decode(tokens)
    other = task.decode(task.encode(operands, (answer + 1) % task.base))[1]
    return Written(tokens, back, answer, task.encode(back, answer), other, task.batch(operands))


# --- tokens and text --------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(problems())
def test_encode_and_decode_are_inverses(drawn):
    task, operands = drawn
    found = jax.device_get(written(task, operands))
    np.testing.assert_array_equal(found.operands, operands)
    np.testing.assert_array_equal(found.again, found.tokens)
    if task.operation == "add":
        for problem, digits in zip(operands, found.answer, strict=True):
            assert number(digits, task.base) == sum(number(row, task.base) for row in problem)
    np.testing.assert_array_equal(found.other, (found.answer + 1) % task.base)


@settings(deadline=None, max_examples=60)
@given(problems([*FORMS, *WIDE]))
def test_text_and_parse_are_inverses(drawn):
    task, operands = drawn
    for problem, answer in zip(operands, np.asarray(task.features(operands).answer), strict=True):
        wrong = (answer + 1) % task.base
        text = task.text(problem, wrong)
        back, read = task.parse(text)
        assert back.dtype == read.dtype == np.int32
        np.testing.assert_array_equal(back, problem)
        np.testing.assert_array_equal(read, wrong)
        assert task.text(back, read) == text
        question = text.partition("=")[0]
        for unanswered in (question, f" {question.replace('+', ' + ')} = \n"):
            back, read = task.parse(unanswered)
            np.testing.assert_array_equal(back, problem)
            np.testing.assert_array_equal(read, answer)
    if task.base <= 36 and task.operation == "add":  # Python reads the same numerals.
        assert [int(part, task.base) for part in question.split("+")] == [number(row, task.base) for row in problem]


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (Addition(), "12345+67890=080235"),
        (Addition(answer_order="lsd", operand_order="lsd"), "12345+67890=080235"),
        (Addition(operation="digitwise"), "12345+67890=79135"),
        (Addition(digits=2, base=16), "f0+1a=10a"),
        (Addition(digits=2, base=60), "59:7+0:53=1:0:0"),
        (Addition(digits=1, operands=3), "9+9+9=27"),
    ],
)
def test_text_of_correct_answers(task, text):
    operands, answer = task.parse(text.partition("=")[0] + "=")
    assert task.text(operands, answer) == text


@pytest.mark.parametrize(
    ("task", "text", "words"),
    [
        (Addition(), "12+3", r"expected 5 digits of base 10 where '12' stands in '12\+3'; .* padded with zeros"),
        (Addition(), "12345+6789x", "where '6789x' stands"),
        (Addition(), "hello", r"expected 2 numbers joined by \+ as in 43210\+98765=141975, got 'hello'"),
        (Addition(), "", "expected 2 numbers joined by"),
        (Addition(), "12345+67890+11111", "expected 2 numbers joined by"),
        (Addition(), "+", "where '' stands"),
        (Addition(), "12345+-6789", "where '-6789' stands"),
        (Addition(), "12345+67890=80235", "expected 6 digits of base 10 where '80235' stands"),
        (Addition(), "12345+67890=080235=", "where '080235=' stands"),
        (Addition(digits=1, base=8), "7+8", "where '8' stands"),
        (Addition(digits=1, base=16), "a+B", "where 'B' stands"),
        (Addition(digits=2, base=60), "59:7+53", "expected 2 digits of base 60 where '53' stands"),
        (Addition(digits=2, base=60), "59:7+60:0", "where '60:0' stands"),
        (Addition(digits=1, operands=3), "1+2", "expected 3 numbers joined by"),
    ],
)
def test_malformed_text(task, text, words):
    with pytest.raises(UserError, match=words):
        task.parse(text)


def described(task, text, prediction):
    """Describe a problem whose digits are predicted as in `prediction`, in the order in which they are read."""
    operands, _ = task.parse(text)
    batch = task.batch(operands[None])
    return task.describe(np.asarray(batch.inputs[0]), np.asarray(batch.targets[0]), np.array(prediction))


def test_predictions_in_words():
    assert described(Addition(), "12345+67890", [0, 8, 0, 1, 3, 5]) == (
        "12345+67890: predicts 080135, the answer is 080235 (error in A2; 3 carries, longest cascade 1)"
    )
    assert described(Addition(), "12345+67890", [0, 8, 0, 2, 3, 5]) == (
        "12345+67890: predicts 080235, correct (3 carries, longest cascade 1)"
    )
    assert described(Addition(digits=2, answer_order="lsd"), "11+22", [4, 3, 1]) == (
        "11+22: predicts 134, the answer is 033 (error in A0, A2; no carry)"
    )
    task = Addition(digits=2, base=16, target="single", digit=2, operand_order="lsd")
    assert described(task, "ff+01", [11]) == (
        "ff+01: predicts b, the answer is 1 (error in A2; 2 carries, longest cascade 1)"
    )
    task = Addition(digits=1, base=40, target="single", digit=1)
    assert "predicts 37, the answer is 1 (error in A1;" in described(task, "39+1", [37])
    assert "predicts nothing, the answer is 033 (error in A2, A1, A0;" in described(
        Addition(digits=2), "11+22", [-1, -1, -1]
    )


# --- what the network sees --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "inputs", "targets", "read"),
    [
        ({}, [1, 2, 10, 9, 5, 11, 1, 0], [1, 0, 7], (5, 6, 7)),
        ({"answer_order": "lsd"}, [1, 2, 10, 9, 5, 11, 7, 0], [7, 0, 1], (5, 6, 7)),
        ({"operand_order": "lsd"}, [2, 1, 10, 5, 9, 11, 1, 0], [1, 0, 7], (5, 6, 7)),
        (
            {"answer_order": "lsd", "operand_order": "lsd"},
            [2, 1, 10, 5, 9, 11, 7, 0],
            [7, 0, 1],
            (5, 6, 7),
        ),
        ({"target": "parallel"}, [1, 2, 10, 9, 5, 11, 12, 12], [1, 0, 7], (5, 6, 7)),
        ({"target": "parallel", "answer_order": "lsd"}, [1, 2, 10, 9, 5, 11, 12, 12], [7, 0, 1], (5, 6, 7)),
        ({"target": "single", "digit": 2}, [1, 2, 10, 9, 5, 11], [1], (5,)),
        (
            {"target": "single", "answer_order": "lsd", "operand_order": "lsd"},
            [2, 1, 10, 5, 9, 11],
            [7],
            (5,),
        ),
        ({"operation": "digitwise"}, [1, 2, 10, 9, 5, 11, 0], [0, 7], (5, 6)),
    ],
)
def test_layouts_of_12_and_95(fields, inputs, targets, read):
    task = Addition(digits=2, **fields)
    batch = task.batch(np.array([[[2, 1], [5, 9]]]))
    assert batch.inputs.tolist() == [inputs]
    assert batch.targets.tolist() == [targets]
    assert task.sizes.read == read


@pytest.mark.parametrize(
    ("fields", "places"),
    [
        ({}, [2, 1, 0, 2, 1, 4, 3, 2]),  # a1 a0 + b1 b0 = A2 A1
        ({"target": "single", "digit": 1}, [2, 1, 0, 2, 1, 3]),
        ({"answer_order": "lsd", "operand_order": "lsd"}, [1, 2, 0, 1, 2, 0, 1, 2]),
        # 0 a0 a1 0 0 b0 b1 0 A0 A1, where the zeros stand for the digits beside a number.
        ({"answer_order": "lsd", "operand_order": "lsd", "separators": "zeros"}, [0, 1, 2, 3, 0, 1, 2, 0, 1, 2]),
    ],
)
def test_places_of_digits_are_the_same_in_every_number(fields, places):
    assert Addition(digits=2, **fields).sizes.places == tuple(places)


def test_layout_of_three_operands():
    batch = Addition(digits=1, operands=3, base=4).batch(np.array([[[3], [2], [3]]]))
    assert batch.inputs.tolist() == [[3, 4, 2, 4, 3, 5, 2]]
    assert batch.targets.tolist() == [[2, 0]]


@settings(deadline=None, max_examples=60)
@given(problems())
def test_no_position_sees_the_answer_it_predicts(drawn):
    task, operands = drawn
    found, sizes = jax.device_get(written(task, operands)), task.sizes
    inputs, targets = found.batch
    assert inputs.shape == (3, sizes.length)
    assert targets.shape == (3, len(sizes.read)) == (3, len(task.read_digits))
    assert inputs.dtype == targets.dtype == np.int32
    assert 0 <= inputs.min() <= inputs.max() < sizes.vocabulary
    assert 0 <= targets.min() <= targets.max() < sizes.classes == task.base
    assert (inputs[:, sizes.read[0]] == task.base + 1).all()
    np.testing.assert_array_equal(targets, found.answer[:, task.read_digits])
    after = inputs[:, sizes.read[0] + 1 :]
    assert sizes.autoregressive == (task.target == "sequential")
    if task.target == "sequential":  # Read position r sees the answers before its own, and no more.
        np.testing.assert_array_equal(after, targets[:, :-1])
        assert sizes.length == sizes.read[-1] + 1
    else:
        assert (after == task.base + 2).all()
        assert after.shape[1] == len(sizes.read) - 1
    question = task.operands * (task.digits + 1)
    np.testing.assert_array_equal(inputs[:, :question], found.tokens[:, :question])


def test_twenty_digits_of_base_16():
    task = Addition(digits=20, base=16)
    batch = task.batch(task.draw(jax.random.key(0), 50))
    tokens = np.concatenate([batch.inputs, batch.targets[:, -1:]], axis=1)
    operands, _ = jax.jit(task.decode)(tokens)
    for problem, target in zip(np.asarray(operands), np.asarray(batch.targets), strict=True):
        assert number(target[::-1], 16) == number(problem[0], 16) + number(problem[1], 16)


@pytest.mark.parametrize(
    ("task", "title"),
    [
        (Addition(), "5-digit addition, base 10, sequential, msd first"),
        (Addition(digits=3, target="single", digit=1), "3-digit addition, base 10, digit A1 alone"),
        (
            Addition(operands=3, target="parallel", answer_order="lsd", finite=1000),
            "3 × 5-digit addition, base 10, parallel, lsd first, 1,000 problems",
        ),
        (
            Addition(operation="digitwise", base=2),
            "5-digit digit-wise addition without carries, base 2, sequential, msd first",
        ),
    ],
)
def test_titles(task, title):
    assert task.title == title


# --- fresh and fixed problems ---------------------------------------------------------------------------


def test_a_batch_follows_from_key_and_step():
    task = Addition(digits=3, batch_size=8, mixture=Mixture(1, 1, 1))
    data, key = lane(task.data([0])), jax.random.key(5)
    draw = jax.jit(lambda key, step: task.train_batch(data, key, step))
    batches = [draw(key, np.int32(step)) for step in (3, 3, 4)] + [draw(jax.random.key(6), np.int32(3))]
    tokens = [np.asarray(batch.inputs) for batch in batches]
    np.testing.assert_array_equal(tokens[0], tokens[1])
    assert (tokens[0] != tokens[2]).any(1).all()
    assert (tokens[0] != tokens[3]).any(1).all()
    assert tokens[0].shape == (8, task.sizes.length)


def test_data_of_fresh_problems():
    task = Addition(digits=3, test_examples=40, cascade_examples=20)
    data = task.data([4, 9])
    assert data.lane.keys() == {"test", "cascades"}
    assert data.lane["test"].shape == (2, 40, 2, 3)
    assert data.lane["cascades"].shape == (2, 3, 20, 2, 3)
    assert not np.array_equal(data.lane["test"][0], data.lane["test"][1])
    np.testing.assert_array_equal(task.data([9]).lane["test"][0], data.lane["test"][1])
    for length, problems in enumerate(np.asarray(data.lane["cascades"][1])):
        check_cascade(problems, 10, length, 0)
    batch = task.test_batch(lane(data))
    np.testing.assert_array_equal(batch.inputs, task.batch(data.lane["test"][0]).inputs)


@pytest.mark.parametrize(
    "task",
    [
        Addition(digits=2, finite=700, test_examples=300, cascade_examples=5),  # Shuffled whole
        Addition(digits=5, finite=700, test_examples=300, cascade_examples=5),  # Drawn
        Addition(digits=2, base=5, finite=300, mixture=Mixture(1, 1, 0), cascade_examples=5),
    ],
    ids=lambda task: task.title,
)
def test_train_and_test_problems_are_distinct(task):
    data = task.data([0, 1])
    for s in range(2):
        train, test = rows(data.lane["train"][s]), rows(data.lane["test"][s])
        assert len(set(train)) == len(train) == task.finite
        assert len(set(test)) == len(test) == min(task.test_examples, task.space - task.finite)
        assert not set(train) & set(test)
    assert set(rows(data.lane["train"][0])) != set(rows(data.lane["train"][1]))
    np.testing.assert_array_equal(task.data([1]).lane["train"][0], data.lane["train"][1])


def test_the_smallest_space_is_used_up():
    task = Addition(digits=1, base=3, finite=8, batch_size=None, cascade_examples=3)
    assert task.space == 9
    data, draw = task.data(range(3)), jax.jit(task.train_batch)
    for s in range(3):
        one = lane(data, s)
        assert set(rows(one.lane["train"]) + rows(one.lane["test"])) == {(a, b) for a in range(3) for b in range(3)}
        assert len(one.lane["test"]) == 1
        batch = draw(one, jax.random.key(0), np.int32(2))
        np.testing.assert_array_equal(batch.inputs, task.batch(one.lane["train"]).inputs)


def test_minibatches_of_a_finite_set_cover_it():
    task = Addition(digits=2, base=4, finite=60, batch_size=20, cascade_examples=3)
    data, draw = lane(task.data([0])), jax.jit(task.train_batch)
    held = set(rows(task.batch(data.lane["train"]).inputs))
    epoch = [draw(data, jax.random.key(0), np.int32(step)).inputs for step in range(3)]
    assert set(rows(np.concatenate(epoch))) == held


def test_a_mixture_too_narrow_for_the_finite_set():
    # 3 pairs carry and 3 sum to 2: there are 9 such cascades.
    mixture = Mixture(uniform=0, cascades=1, cascade_length=1, cascade_start=0)
    task = Addition(digits=2, base=3, mixture=mixture, finite=9, batch_size=3, cascade_examples=3)
    assert len(set(rows(task.data([0]).lane["train"][0]))) == 9
    with pytest.raises(UserError, match=r"only 9 different problems .* and 10 are needed; ask for fewer or widen"):
        replace(task, finite=10).data([0])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Addition(digits=0), "digits must be from 1 to 1000, got 0"),
        (lambda: Addition(base=1), "base must be from 2 to 1024, got 1"),
        (lambda: Addition(base=1025), "base must be from 2 to 1024, got 1025"),
        (lambda: Addition(operands=1), "operands must be from 2"),
        (lambda: Addition(test_examples=0), "test_examples must be from 1"),
        (lambda: Addition(cascade_examples=0), "cascade_examples must be from 1"),
        (lambda: Addition(target="both"), "target must be one of sequential, parallel, single, got 'both'"),
        (lambda: Addition(answer_order="up"), "answer_order must be one of msd, lsd"),
        (lambda: Addition(operand_order="up"), "operand_order must be one of msd, lsd"),
        (lambda: Addition(operation="subtract"), "operation must be one of add, digitwise"),
        (lambda: Addition(target="single", digit=6), r"one of the 6 answer digits, from 0 \(units\) to 5, got 6"),
        (lambda: Addition(target="single", digit=-1), "got -1"),
        (lambda: Addition(target="single", digit=5, operation="digitwise"), "the 5 answer digits, .* to 4, got 5"),
        (lambda: Addition(digit=2), "target single only; target sequential predicts all"),
        (lambda: Addition(target="parallel", digit=2), "target parallel predicts all"),
        (lambda: Addition(batch_size=None), "batch_size None; None needs a finite set"),
        (lambda: Addition(batch_size=0), "batches of at least 1, got batch_size 0"),
        (lambda: Addition(finite=100, batch_size=101), "from 1 to the 100 training examples, got 101"),
        (lambda: Addition(finite=0), "finite must be at least 1 and leave problems to test on: .* got 0"),
        (lambda: Addition(digits=1, finite=100), "there are 100 different problems, got 100"),
        (
            lambda: Addition(digits=3, mixture=Mixture(cascade_length=3)),
            "length 3 from column 0 .* there are 3 digits",
        ),
        (lambda: Addition(digits=3, mixture=Mixture(cascade_length=1, cascade_start=2)), "length 1 from column 2"),
        (lambda: Addition(digits=3, mixture=Mixture(cascade_start=3)), "columns 0 to 3, and there are 3 digits"),
        (
            lambda: Addition(digits=3).cascade(jax.random.key(0), 1, 2, 1),
            "length 2 from column 1 needs columns 0 to 3",
        ),
        (lambda: Addition(digits=3).cascade(jax.random.key(0), 1, -1, 1), "cascade_length must be at least 0"),
        (lambda: Mixture(uniform=-1), "weights of a mixture must be at least 0 .* got uniform -1, enriched 0"),
        (lambda: Mixture(uniform=0), "one above 0"),
        (lambda: Mixture(enriched=float("nan")), "weights of a mixture"),
        (lambda: Mixture(cascades=float("inf")), "weights of a mixture"),
        (lambda: Mixture(enriched_fraction=1.5), "enriched_fraction must be from 0 to 1, got 1.5"),
        (lambda: Mixture(cascade_length=-1), "cascade_length must be at least 0, got -1"),
        (lambda: Mixture(cascade_start=-2), "cascade_start must be at least 0, got -2"),
    ],
)
def test_bad_fields(make, words):
    with pytest.raises(UserError, match=words):
        make()


def test_floors_are_those_of_the_task():
    floors = Addition().floors(4)
    assert floors["A5 seen"] == pytest.approx(2.1133, abs=1e-4)
    assert "A5 seen" not in Addition(target="parallel").floors(4)
    assert list(Addition(operation="digitwise", base=7).floors(2)) == ["nothing known"]


# --- what is recorded -------------------------------------------------------------------------------------


def measured(task):
    """Measure answers that depend on all tokens so far; return the record, and the digit losses `[n, R]` by hand."""
    data = lane(task.data([0]))
    weights = np.random.default_rng(0).standard_normal((task.sizes.length, task.base), np.float32)

    def predict(inputs, read=None):
        seen = jnp.cumsum(inputs[..., None] * weights[None], axis=1)  # [B, T, C]
        return 2 * jnp.sin(seen[:, jnp.asarray(task.sizes.read if read is None else read)])

    @jax.jit
    def record():
        batch = task.test_batch(data)
        logits = predict(batch.inputs)
        return task.measure(data, batch, logits, predict), logits, batch.targets

    record, logits, targets = jax.device_get(record())
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    return record, -np.log(np.take_along_axis(p, targets[..., None], 2))[..., 0], data


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"target": "parallel"},
        {"target": "single", "digit": 1},
        {"operation": "digitwise"},
        {"base": 2, "answer_order": "lsd"},
        {"digits": 1, "operands": 3},
    ],
    ids=str,
)
def test_what_is_measured(fields):
    task = Addition(**{"digits": 2, "test_examples": 300, "cascade_examples": 10, **fields})
    record, loss, data = measured(task)
    r, base, m = len(task.read_digits), task.base, task.operands
    shapes = {
        "digit_loss": (r,),
        "digit_accuracy": (r,),
        "leak": (r,),
        "carry_loss": (r,),
        "carry_entropy": (r,),
        "loss_by_carry": (r, m),
        "accuracy_by_class": (6,),
        "accuracy_by_cascade": (task.digits,),
        "digit_accuracy_by_cascade": (task.digits, r),
        "offset": (r, base),
        "confusion": (r, base, base),
    }
    if task.target == "sequential":
        shapes["free_digit_accuracy"] = (r,)
    assert {name: value.shape for name, value in record.items()} == shapes
    np.testing.assert_allclose(record["digit_loss"], loss.mean(0), rtol=1e-4)
    np.testing.assert_allclose(record["leak"] + record["carry_loss"], loss.mean(0), rtol=1e-4)
    if task.operation == "digitwise":
        np.testing.assert_allclose(record["leak"], loss.mean(0), rtol=1e-4)
        np.testing.assert_array_equal(np.abs(record["carry_loss"]), np.zeros(r))
    elif base == 2:  # All there is are candidates.
        np.testing.assert_allclose(record["leak"], 0, atol=1e-5)
    else:
        assert (record["leak"] > 0.1).all()
    carry = np.asarray(task.features(data.lane["test"]).carry_in)[:, list(task.read_digits)]
    for k in range(r):
        for c in range(m):
            among = loss[carry[:, k] == c, k]
            if among.size:
                assert record["loss_by_carry"][k, c] == pytest.approx(among.mean(), rel=1e-4)
            else:
                assert np.isnan(record["loss_by_carry"][k, c])
    np.testing.assert_allclose(record["offset"].sum(1), 1, rtol=1e-5)


# --- a network learns it ----------------------------------------------------------------------------------


def test_no_logit_depends_on_the_answer_it_predicts():
    """The gradient of the logits at a position read with respect to a later embedding is exactly zero."""
    task = Addition(digits=2, base=4)
    model = Transformer(d_model=8, heads=2, d_mlp=16, layers=2).build(task.sizes)
    params, inputs = drawn(model), task.batch(task.draw(jax.random.key(1), 4)).inputs

    def logits(shift):
        return model.apply(params, inputs, edits={"hook_embed": lambda e: e + shift[None]})[0].sum((0, 2))

    influence = np.abs(jax.jit(jax.jacobian(logits))(jnp.zeros((task.sizes.length, 8)))).sum(-1)
    seen = np.arange(task.sizes.length) <= np.array(task.sizes.read)[:, None]
    assert (influence[seen] > 0).all()
    assert (influence[~seen] == 0).all()


@pytest.mark.slow
def test_it_learns_to_add_two_digits():
    task = Addition(digits=2, base=3, answer_order="lsd", batch_size=81, test_examples=200, cascade_examples=30)
    model = Transformer(d_model=32, heads=2, d_mlp=64)
    config = RunConfig(
        task=task, model=model, optimizer=AdamW(lr=1e-2, weight_decay=0.0), steps=200, eval_every=40, seeds=(0, 1)
    )
    metrics = fit(Trainer(config)).metrics
    assert (metrics["test_accuracy"][:, -1] > 0.95).all()
    assert (metrics["evaluation/accuracy_by_cascade"][:, -1] > 0.95).all()
    assert (metrics["evaluation/free_digit_accuracy"][:, -1] > 0.95).all()
    assert (metrics["evaluation/leak"][:, 0] > 0.05).all()
    assert (metrics["evaluation/leak"][:, -1] < 0.05).all()
    grid = list(range(0, 201, 40))
    np.testing.assert_array_equal(metrics["evaluation/step"], grid)
    assert metrics["train_position_loss"].shape == (2, 201, 3)
    np.testing.assert_allclose(metrics["train_position_loss"].mean(-1), metrics["train_loss"], rtol=1e-4, atol=1e-6)
    for name, shape in {"digit_loss": (3,), "confusion": (3, 3, 3), "accuracy_by_cascade": (2,)}.items():
        assert metrics[f"evaluation/{name}"].shape == (2, len(grid), *shape)
    np.testing.assert_allclose(
        metrics["evaluation/digit_loss"].mean(-1), metrics["test_loss"][:, grid], rtol=1e-4, atol=1e-6
    )
    assert np.isnan(metrics["test_loss"][:, 1:40]).all()


def test_no_test_problem_is_trained_on_early():
    """Keys of the fixed problems are different from those of the steps: JAX's split is fold_in of small numbers."""
    trainer = Trainer(RunConfig(task=Addition(), model=Transformer(d_model=8, heads=2, d_mlp=8)))
    state = trainer.init()
    lane = take(trainer.data, 0)
    fixed = {row.tobytes() for row in np.asarray(lane.lane["test"], np.int32)}
    fixed |= {row.tobytes() for row in np.asarray(lane.lane["cascades"], np.int32).reshape(-1, 2, 5)}
    draw = jax.jit(lambda step: trainer.config.task.train_batch(lane, state.key[0], step))
    for step in range(10):
        batch = draw(np.int32(step))
        digits = np.asarray(batch.inputs)[:, :12].reshape(-1, 2, 6)[:, :, 4::-1].astype(np.int32)
        assert fixed.isdisjoint(row.tobytes() for row in np.ascontiguousarray(digits))
