"""Measures in the characters of the group in which an operation is a sum: planted networks, and relabelled ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn, quadratic

from jaxadd.analysis import fourier, measures
from jaxadd.analysis.modular import bases, declarations, progress
from jaxadd.analysis.modular.measured import choose_keys
from jaxadd.analysis.modular.problem import as_if, whole_problem
from jaxadd.analysis.report import Trained, analyse
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer
from jaxadd.optim import scores
from jaxadd.tasks import Modular
from jaxadd.tasks.modular import additive, multiplicative
from jaxadd.views.figures import render


def task_of(operation, p):
    return Modular(p=p, operation=operation, train_fraction=0.5, equals="none")


def flat_measures(params, model, problem, keys):
    values = progress.measures(params, model, problem, keys)
    return measures.flat(declarations.MEASURES, values, problem.axes)


def problem_of(task):
    return whole_problem(task, {name: pairs[0] for name, pairs in task.data([0]).lane.items()})


@pytest.mark.parametrize(
    ("operation", "p", "keys"),
    [
        ("add", 29, [3, 7, 11, 12]),
        ("subtract", 29, [3, 7, 11, 12]),
        ("multiply", 29, [2, 5, 11, 13]),
        ("divide", 29, [2, 5, 11, 13]),
        ("multiply", 35, [1, 4, 5, 9]),  # C4 × C6
    ],
)
def test_a_planted_network_is_simple_in_its_own_characters_alone(operation, p, keys):
    task = task_of(operation, p)
    model, params = quadratic(task, keys)
    problem, group = problem_of(task), task.group
    mask = fourier.mask(keys, group.orders)
    found = flat_measures(params, model, problem, mask)
    assert found["all_accuracy"] == 1
    assert found["logit_variance_explained"] == pytest.approx(1, abs=1e-5)
    assert found["restricted_loss_all"] == pytest.approx(found["full_loss_all"], rel=1e-4)
    assert found["excluded_loss_all"] == pytest.approx(np.log(len(group.elements)), rel=1e-4)
    rows = params["W_in"][jnp.array(group.elements)]
    assert fourier.frequencies(fourier.keys_of_embedding(rows, orders=group.orders)) == tuple(keys)
    other = additive(p) if group.name == "multiplicative" else multiplicative(p)
    everything = jnp.ones(fourier.count(other.orders), bool)
    there = flat_measures(params, model, as_if(task, other), everything)
    here = flat_measures(params, model, as_if(task, group, task.rule.sign), mask)
    assert here["logit_variance_explained"] == pytest.approx(1, abs=1e-5)
    assert there["logit_variance_explained"] < 0.05
    # Eight rows of the basis, cosine and sine of each key, hold all of W_E in equal parts.
    assert here["gini_W_E"] == pytest.approx(1 - 8 / len(group.elements), abs=1e-5)
    assert there["gini_W_E"] < 0.4
    assert there["neuron_variance_explained"] < 0.5 < 0.79 < here["neuron_variance_explained"]


def test_gromovs_network_is_correct_on_all_pairs_and_its_measures_are_exact():
    """Neurons are 1 + ½ cos(2w a + 2φ) + ½ cos(2w b + 2χ) + cos(w(a + b) + φ + χ) + cos(w(a - b) + φ - χ)."""
    task, generator = task_of("add", 97), np.random.default_rng(0)
    keys = generator.integers(1, 49, 500)
    model, params = quadratic(task, keys, generator.uniform(0, 2 * np.pi, (500, 2)))
    problem = problem_of(task)
    logits, cache = jax.jit(model.apply, static_argnames="names")(params, problem.inputs, names=("mlp.hook_post",))
    assert scores.correct(logits, problem.labels[:, None]).all()
    fractions = np.asarray(fourier.neuron_fractions(cache["mlp.hook_post"]))
    doubled = np.minimum(2 * keys, 97 - 2 * keys)
    np.testing.assert_allclose(fractions[np.arange(500), keys - 1], 0.8, atol=1e-4)
    np.testing.assert_allclose(fractions[np.arange(500), doubled - 1], 0.2, atol=1e-4)
    found = progress.measures(params, model, problem, np.ones(48, bool))
    numbers = np.asarray(logits[:, 0], np.float64)
    numbers -= numbers.mean(axis=1, keepdims=True)
    offset = (np.asarray(problem.answers)[:, None] - np.arange(97)) % 97
    by_offset = np.array([numbers[offset == d].sum() for d in range(97)])
    for k in (1, 20, 48):
        wave = np.cos(2 * np.pi * k * np.arange(97) / 97)
        cosine = wave @ by_offset / np.sqrt(97**3 / 2) / np.linalg.norm(numbers)
        np.testing.assert_allclose(found["logit_cosine_k"][k - 1], cosine, atol=1e-5)
    squares = np.array([np.sum(np.asarray(params["W_in"]) ** 2), np.sum(np.asarray(params["W_U"]) ** 2)])
    np.testing.assert_allclose(found["sum_of_squares"], squares.sum(), rtol=1e-5)
    counts = np.bincount(keys, minlength=49)[1:]
    np.testing.assert_allclose(found["embedding_norm_k"][1:], np.sqrt(97 * counts), rtol=1e-4)


SMALL = Transformer(d_model=8, heads=2, d_mlp=12)


@pytest.mark.parametrize(("sum_of", "product"), [("add", "multiply"), ("subtract", "divide")])
def test_products_are_measured_as_the_sums_of_their_logarithms(sum_of, product):
    """A network for sums mod 12 whose tokens are renamed to the powers of 2 mod 13 has every measure of before."""
    plain, renamed = (Modular(p=p, operation=name, train_fraction=0.5) for p, name in ((12, sum_of), (13, product)))
    places = np.array([*renamed.group.elements, 13])  # of `=` too
    model, other = SMALL.build(plain.sizes), SMALL.build(renamed.sizes)
    params = drawn(model)
    w_e, w_u = np.zeros((14, 8), np.float32), np.zeros((8, 14), np.float32)
    w_e[places], w_u[:, places] = params["embed"]["W_E"], params["unembed"]["W_U"]
    moved = {**params, "embed": {"W_E": jnp.asarray(w_e)}, "unembed": {"W_U": jnp.asarray(w_u)}}
    one, two = problem_of(plain), problem_of(renamed)
    np.testing.assert_array_equal(one.answers, two.answers)
    keys = fourier.mask([2, 6], 12)
    before = flat_measures(params, model, one, keys)
    after = flat_measures(moved, other, two, keys)
    assert before.keys() == after.keys()
    for name, value in before.items():
        # Losses over all classes count a class more; the lanes' splits differ.
        if not name.endswith(("_loss", "_train", "_test", "_accuracy")) and not name.startswith("excluded_loss_"):
            assert after[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    np.testing.assert_allclose(
        progress.clock_measures(moved, other, two)["gradient_symmetricity"],
        progress.clock_measures(params, model, one)["gradient_symmetricity"],
        rtol=1e-4,
    )


def test_train_and_test_pairs_are_found_in_the_order_of_the_group():
    task = Modular(p=13, operation="divide", train_fraction=0.5, label_noise=0.2)
    data = task.data([0])
    lane = jax.tree.map(lambda x: x[0], data.lane)
    problem = whole_problem(task, lane)
    for part in ("train", "test"):
        expected = task.batch(lane[part], {})
        np.testing.assert_array_equal(problem.inputs[getattr(problem, part)], expected.inputs)
    labels = task.labelled(lane["train"], data._replace(lane=lane)).targets[:, 0]
    np.testing.assert_array_equal(problem.labels[problem.train], labels)
    answers = task.batch(lane["test"], {}).targets[:, 0]
    np.testing.assert_array_equal(np.array(problem.group.elements)[problem.answers[problem.test]], answers)


def test_a_report_on_products_names_the_group_and_every_figure_is_drawn():
    task = Modular(p=15, operation="multiply", train_fraction=0.5)
    model = SMALL.build(task.sizes)
    states = jax.tree.map(lambda *w: jax.device_put(np.stack(w)), *(drawn(model, i) for i in range(2)))
    network = Network(drawn(model, 2), model, task, step=200)
    report = analyse(Trained((network,), "title", {}, np.array([0, 100]), (states,)), keys="(0,1), (0, 2)")
    assert "characters of the units mod 15, C2 × C4, in the order of powers of 11 and 7" in report.text
    assert "key frequencies as given: (0, 1), (0, 2)" in report.text
    # A frequency has one name: in the text, in the numbers, on every axis, and where the user types it.
    names = {"(0, 1)", "(1, 1)", "(0, 2)", "(1, 0)", "(1, 2)"}
    for stem in ("excluded_loss_", "logit_cosine_", "embedding_norm_"):
        of_one = {name.removeprefix(stem) for name in report.numbers if name.startswith(stem)}
        assert of_one - {"all", "train", "test", "3d_all", "3d_train", "3d_test", "0"} == names
    for rule in ("logits", "embedding", "neurons", "neuron_logit_map"):
        assert set(report.numbers[f"key_frequencies_{rule}"]) <= names
    assert {name for name in report.numbers if name.startswith("neurons_") and name[-1] == ")"} <= {
        f"neurons_{name}" for name in names
    }
    listed = [row[0] for row in report.blocks[-1].rows if row[0].endswith(")")]
    assert listed == ["excluded_loss_(0, 1)", "excluded_loss_(0, 2)"]
    figures = {figure.name: figure for figure in report.figures}
    single = next(one for one in figures["measures"].pictures if one.title == declarations.ONE_FREQUENCY)
    assert list(single.series) == ["k = (0, 1)", "k = (0, 2)"]
    assert figures["embedding"].pictures[0].highlight == ["(0, 1)", "(0, 2)"]
    for wrong in ("1,3", "(0, 3)", "(0, 1) (0, 2)", "(0, 1),"):
        with pytest.raises(UserError, match=r"frequencies of C2 × C4, which are \(0, 1\), \(1, 1\), .* such as"):
            choose_keys(wrong, {}, task.group.orders)
    assert list(figures["attention_pairs"].pictures[0].row_labels)[:5] == ["1", "7", "4", "13", "11"]
    assert {"errors", "logits", "neurons", "clusters", "measures", "embedding"} <= figures.keys()
    for name in ("errors", "neurons", "embedding"):
        render(figures[name])


def test_a_pair_mlp_is_analysed_without_attention():
    task = task_of("add", 11)
    model, params = quadratic(task, [2, 3])
    report = analyse(Trained((Network(params, model, task),), "title"))
    names = [figure.name for figure in report.figures]
    assert "attention_pairs" not in names
    assert {"errors", "logits", "neurons", "clusters", "embedding"} <= set(names)
    assert report.numbers["key_frequencies_embedding"] == [2, 3]
    assert "gradient_symmetricity" not in report.numbers


@pytest.mark.parametrize(("operation", "own"), [("add", additive), ("divide", multiplicative)])
def test_logits_are_explained_in_the_characters_of_the_operation(operation, own):
    task = task_of(operation, 29)
    model, params = quadratic(task, [2, 5, 11, 13])
    network, other = Network(params, model, task), multiplicative if own is additive else additive
    here, there = (bases.measures(network, group(29)) for group in (own, other))
    assert here["logit_variance_explained"] == pytest.approx(1, abs=1e-5)
    assert here["incorrect_logits_explained"] == pytest.approx(1, abs=1e-5)
    assert there["incorrect_logits_explained"] < 0.02
    # Four of fourteen frequencies make the correct logit larger, which every group explains.
    assert there["logit_variance_explained"] == pytest.approx(4 / 14, abs=0.03)
    assert here["key_frequencies_embedding"] == 4
    assert there["key_frequencies_embedding"] > 8
    assert here["gini_W_E"] > 2 * there["gini_W_E"]


def test_cosines_by_answer_need_no_equal_numbers_of_pairs():
    generator, answers = np.random.default_rng(0), np.array([0, 0, 3, 1, 0, 5, 5])
    logits = generator.normal(size=(7, 6)).astype(np.float32)
    centred = logits - logits.mean(axis=1, keepdims=True)
    waves = [np.cos(2 * np.pi * k * (answers[:, None] - np.arange(6)) / 6) for k in (1, 2, 3)]
    plain = [np.sum(centred * w) / np.linalg.norm(w) / np.linalg.norm(centred) for w in waves]
    np.testing.assert_allclose(fourier.answer_cosines(logits, jnp.asarray(answers), (6,)), plain, atol=1e-5)
