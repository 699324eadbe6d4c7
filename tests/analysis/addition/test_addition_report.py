"""What a report says and shows of networks that add."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import ADDER, adder, drawn

from jaxadd.analysis import performance
from jaxadd.analysis.addition import exact
from jaxadd.analysis.report import Trained, analyse, summarize
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer
from jaxadd.optim import scores
from jaxadd.tasks import Addition
from jaxadd.tasks.addition.carries import CLASSES
from jaxadd.views import html
from jaxadd.views.figures import render

TASK = Addition(digits=2, base=3, test_examples=40, cascade_examples=8, batch_size=8)
GENERAL = ["attention", "circuits", "composition", "attribution", "lens"]


def recorded(task, lanes=1, steps=200):
    """A made-up record: every digit rests on log(base) for a while, then is learned."""
    rng = np.random.default_rng(0)
    step, digits = np.arange(steps), len(task.read_digits)
    loss = np.where(step < 60, np.log(task.base), 1e-3)
    metrics = {"step": step, "evaluation/step": step[::20]}
    metrics |= {name: np.tile(loss, (lanes, 1)) for name in ("train_loss", "test_loss", "grad_norm")}
    metrics |= {name: np.tile((step >= 60) * 1.0, (lanes, 1)) for name in ("train_accuracy", "test_accuracy")}
    metrics["train_position_loss"] = np.tile(loss[None, :, None], (lanes, 1, digits))
    shape = lanes, len(step[::20])
    metrics["evaluation/offset"] = rng.dirichlet(np.ones(task.base), (*shape, digits))
    metrics["evaluation/confusion"] = rng.dirichlet(np.ones(task.base), (*shape, digits, task.base))
    metrics["evaluation/confusion"][:, :, 0, 2:] = np.nan
    metrics["evaluation/accuracy_by_cascade"] = rng.uniform(size=(*shape, task.digits))
    metrics["evaluation/accuracy_by_class"] = rng.uniform(size=(*shape, len(CLASSES)))
    metrics["evaluation/accuracy_by_class"][..., 4:] = np.nan
    return metrics


def trained(config, task=TASK, lanes=1, metrics=None):
    model = config.build(task.sizes)
    networks = tuple(Network(drawn(model, s), model, task, seed=s, step=199) for s in range(lanes))
    return Trained(networks, "a title", metrics or {})


SMALL = Transformer(d_model=16, heads=2, d_mlp=16)


@pytest.fixture(scope="module")
def two():
    lanes = trained(SMALL, lanes=2, metrics=recorded(TASK, 2))
    return lanes, analyse(lanes, lane=1)


def test_how_good_every_digit_class_and_cascade_is_comes_first(two):
    lanes, report = two
    network = lanes.networks[1]
    assert report.text.startswith("How good it is: seed 1, step 199")
    titles = ["How good it is: seed 1, step 199", "How good each answer is", "How good it is by carries"]
    at = [report.text.index(f"{title}\n") for title in titles]
    assert at == sorted(at)
    assert (
        at[-1] < report.text.index("Parts of the loss of each digit\n") < report.text.index("What each part is for")
    )
    assert [block.title for block in report.blocks[:3]] == titles
    assert "accuracy_by_class.S0" in html.render("title", "subtitle", report.blocks[:3])
    first = list(report.numbers)[:30]
    assert first[:2] == ["test_loss", "test_accuracy"]
    assert {"test_accuracy.A2", "accuracy_by_class.S0", "accuracy_by_cascade.0", "free_digit_accuracy.A0"} <= set(
        first
    )
    problems = network.data.lane["test"]
    batch = TASK.batch(problems)
    correct = np.asarray(scores.correct(network(batch.inputs), batch.targets))
    numbers = report.numbers
    assert numbers["test_accuracy"] == correct.all(1).mean()
    for r, digit in enumerate(("A2", "A1", "A0")):
        assert numbers[f"test_accuracy.{digit}"] == pytest.approx(correct[:, r].mean())
        parts = numbers[f"leak.{digit}"] + numbers[f"carry_loss.{digit}"]
        assert parts == pytest.approx(numbers[f"test_loss.{digit}"], rel=1e-3)
    kinds = np.asarray(TASK.features(problems).kind)
    counts = ", ".join(f"{(kinds == g).sum()} in {kind}" for g, kind in enumerate(CLASSES) if (kinds == g).any())
    assert f"Of 40 test problems: {counts}. Of 8 problems with each forced cascade." in report.text
    for g, kind in enumerate(CLASSES):
        expected = correct.all(1)[kinds == g].mean() if (kinds == g).any() else np.nan
        np.testing.assert_allclose(numbers[f"accuracy_by_class.{kind}"], expected, rtol=1e-6)
    forced = TASK.batch(network.data.lane["cascades"][1])
    expected = np.asarray(scores.exact_match(network(forced.inputs), forced.targets)).mean()
    assert numbers["accuracy_by_cascade.1"] == pytest.approx(expected)
    assert {"free_digit_accuracy.A1", "carry_entropy.A2"} <= numbers.keys()


def test_every_part_is_ablated_and_named(two):
    _, report = two
    names = [name.removeprefix("ablation.") for name in report.numbers if name.startswith("ablation.")]
    assert {"L0H0 at =.A2", "L0H1 at A1.A0", "layer 1's input at +.A1"} <= set(names)
    assert "What each part is for, by mean ablation" in report.text
    ablation = next(f for f in report.figures if f.name == "ablation")
    digits, classes = ablation.pictures
    assert digits.limits == classes.limits
    assert digits.row_labels == classes.row_labels
    assert tuple(digits.column_labels) == ("A2", "A1", "A0")


def test_what_was_recorded_is_drawn_with_floors_and_plateaus(two):
    _, report = two
    names = ["digits", "offsets", "confusion", "cascades", "classes", "ablation"]
    assert [f.name for f in report.figures] == ["curves", "norms", *names, *GENERAL]
    by_name = {f.name: f.pictures for f in report.figures}
    last = by_name["digits"][0]
    assert [level.name for level in last.levels] == list(TASK.floors(2))
    (plateau,) = last.spans
    # The leading digit is 0 or 1: its first floor is log 2, not log 3.
    assert plateau.level == pytest.approx(np.log(3), rel=0.01)
    assert [p.spans[0].name for p in by_name["digits"][1:]] == ["nothing known"] * 2
    assert [p.title for p in by_name["offsets"]] == ["A2", "A1", "A0"]
    assert all(np.allclose(sum(p.series.values()), 1) for p in by_name["offsets"])
    (confusion,) = by_name["confusion"]
    assert (confusion.snapshots, len(confusion.steps), confusion.frames["A2"].shape) == (7, 10, (10, 3, 3))
    assert list(by_name["cascades"][0].series) == ["test set", "over 0", "over 1"]
    assert list(by_name["classes"][0].series) == ["S0", "S1", "S2", "S3"]
    for figure in report.figures:
        render(figure)
    assert "Confusion" in html.render("title", "subtitle", report.blocks)


def test_a_state_whose_training_is_not_known_shows_what_it_predicts():
    task = Addition(digits=2, base=3, target="parallel", answer_order="lsd", test_examples=40, cascade_examples=8)
    one = trained(Transformer(d_model=16, heads=2, d_mlp=0), task)
    report = analyse(one)
    assert [f.name for f in report.figures] == [
        "offsets",
        "confusion",
        "ablation",
        "attention",
        "circuits",
        "attribution",
        "lens",
    ]
    by_name = {f.name: f.pictures[0] for f in report.figures}
    network = one.networks[0]
    batch = task.test_batch(network.data)
    expected = scores.confusion(network(batch.inputs), batch.targets)
    for r, digit in enumerate(("A0", "A1", "A2")):
        np.testing.assert_allclose(by_name["confusion"].frames[digit][0], expected[r], rtol=1e-4, atol=1e-6)
        assert by_name["offsets"].frames[digit].sum() == pytest.approx(1, rel=1e-4)
    ablated = [name for name in report.numbers if name.startswith("ablation.")]
    assert ablated[:3] == [f"ablation.L0H0 at =.A{k}" for k in range(3)]  # Units first, of which = is read.
    assert "ablation.L0H1 at ? A1.A2" in ablated
    assert not any(name.startswith("free_digit") for name in report.numbers)


def test_a_finite_train_set_is_measured_too():
    task = Addition(digits=1, base=3, finite=5, batch_size=None, test_examples=4, cascade_examples=2)
    one = trained(SMALL, task)
    measured = performance.of(one.networks[0])
    rows = performance.tables(one, [measured], 0)[0].rows
    assert [row[:2] for row in rows] == [["train", "5"], ["test", "4"]]
    assert {"train_loss.A1", "train_accuracy"} <= performance.numbers(measured, task.answer_names).keys()


def test_keys_are_not_for_addition():
    with pytest.raises(UserError, match="key frequencies"):
        analyse(trained(SMALL), keys="3")


def test_a_finished_run_shows_its_digits_and_exact_match_of_every_kind(few):
    lanes = trained(SMALL, lanes=2, metrics=recorded(TASK, 2))
    report = summarize(lanes)
    assert [f.name for f in report.figures] == [
        "curves",
        "norms",
        "digits",
        "offsets",
        "confusion",
        "cascades",
        "classes",
    ]
    lines = report.text.splitlines()
    assert lines[0] == "Plateaus of the train loss, named by the nearest exact floor"
    assert lines[1].split() == ["digit", "seed", "plateau", "nats", "steps"]
    assert sum(line.startswith("A1 ") for line in lines) == 2
    heading = next(i for i, line in enumerate(lines) if line.startswith("seed"))
    assert lines[heading].split() == ["seed", "uniform", "cascade", "0", "cascade", "1"]
    assert [line.split()[0] for line in lines[heading + 1 :]] == ["0", "1"]


def test_exact_match_counts_problems_without_an_error(few):
    model, params = adder()
    network = Network(params, model, ADDER)
    broken = Network({**params, "unembed": {"W_U": params["unembed"]["W_U"] * jnp.nan}}, model, ADDER)
    np.testing.assert_array_equal(exact.exact_matches([network, broken]), [[1, 1, 1], [0, 0, 0]])
    one = Network(drawn(SMALL.build(TASK.sizes)), SMALL.build(TASK.sizes), TASK)
    problems = TASK.cascade(jax.random.fold_in(jax.random.key(2**32 - 1), 1), 10, 1)
    batch = TASK.batch(problems)
    expected = np.mean(np.all(np.asarray(one.answer(batch.inputs)) == batch.targets, axis=1))
    assert exact.exact_matches([one])[0, 2] == pytest.approx(expected)
