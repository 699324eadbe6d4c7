"""A report says of any network how good it is, and shows what its architecture has, whatever its task is."""

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn

from jaxadd.analysis import performance
from jaxadd.analysis.report import Report, Trained, analyse, summarize
from jaxadd.analysis.trained import as_text
from jaxadd.errors import UserError
from jaxadd.models import MLP, Network, Transformer
from jaxadd.pictures import FigureOf, Table, Text
from jaxadd.tasks import HandwrittenDigits, Modular, Task
from jaxadd.types import Batch, Data, Sizes
from jaxadd.views import html


@dataclass(frozen=True)
class Composition(Task):
    """Compose two of the 6 permutations of three things: nothing about it is registered anywhere."""

    @property
    def sizes(self):
        return Sizes(length=4, classes=6, vocabulary=7, read=(2, 3))

    def data(self, seeds):
        return Data({}, {"order": jnp.stack([jax.random.permutation(jax.random.key(s), 36) for s in seeds])})

    def train_batch(self, data, key, step):
        return self._batch(data.lane["order"][:20])

    def test_batch(self, data):
        return self._batch(data.lane["order"][20:])

    def _batch(self, pairs):
        a, b = jnp.divmod(pairs, 6)
        tokens = jnp.stack([a, b, jnp.full_like(a, 6), jnp.full_like(a, 6)], axis=1)
        return Batch(tokens, jnp.stack([(a + b) % 6, (a - b) % 6], axis=1))


@dataclass(frozen=True)
class Sign(Task):
    """Tell the sign of the sum of three numbers."""

    @property
    def sizes(self):
        return Sizes(length=3, classes=2)

    def data(self, seeds):
        return Data({}, {"x": jnp.stack([jax.random.normal(jax.random.key(s), (50, 3)) for s in seeds])})

    def train_batch(self, data, key, step):
        return self._batch(jax.random.normal(jax.random.fold_in(key, step), (8, 3)))

    def test_batch(self, data):
        return self._batch(data.lane["x"])

    def _batch(self, x):
        return Batch(x, (jnp.sum(x, axis=1, keepdims=True) > 0).astype(jnp.int32))


def trained(task, config, lanes=1, states=0):
    model = config.build(task.sizes)
    networks = tuple(Network(drawn(model, s), model, task, seed=s, step=100 * max(1, states)) for s in range(lanes))
    if not states:
        return Trained(networks, "a title")
    step = np.arange(100 * states + 1)
    metrics = {"step": step, "evaluation/step": step[::50]}
    for name in ("train_loss", "test_loss", "train_accuracy", "test_accuracy"):
        metrics[name] = np.ones((lanes, len(step)))
    metrics["train_position_loss"] = np.ones((lanes, len(step), len(task.sizes.read)))
    metrics["evaluation/margin"] = np.ones((lanes, len(step[::50])))
    histories = tuple(
        jax.tree.map(lambda *w: jax.device_put(np.stack(w)), *(drawn(model, 10 * s + i) for i in range(states)))
        for s in range(lanes)
    )
    return Trained(networks, "a title", metrics, 100 * np.arange(states), histories)


GENERAL = ["attention", "circuits_layer1", "circuits_layer2", "composition", "attribution", "lens"]
CONFIG = Transformer(layers=2, d_model=16, heads=2, d_mlp=16, norm="layernorm")


@pytest.fixture(scope="module")
def composed():
    """The report of a task with nothing registered, two lanes and their history."""
    two = trained(Composition(), CONFIG, lanes=2, states=3)
    return two, analyse(two, lane=1)


def test_a_task_with_nothing_registered_gets_all_that_holds_for_any_network(composed):
    _, report = composed
    assert [figure.name for figure in report.figures] == ["curves", "recorded", *GENERAL]
    first, second = report.blocks[:2]
    assert first.title == "How good it is: seed 1, step 300"
    assert [row[:2] for row in first.rows] == [["train", "20"], ["test", "16"]]  # Every step has the same batch.
    assert [row[0] for row in second.rows] == ["answer 0", "answer 1"]
    assert report.text.startswith("How good it is")
    titles = [picture.title for figure in report.figures if figure.name == "recorded" for picture in figure.pictures]
    assert titles == ["train loss of each answer", "margin"]


def test_the_numbers_are_those_of_the_network(composed):
    two, report = composed
    network = two.networks[1]
    batch = network.task.test_batch(network.data)
    logits = np.asarray(network(batch.inputs), np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(log_p, np.asarray(batch.targets)[..., None], -1)[..., 0]
    correct = logits.argmax(-1) == batch.targets
    assert report.numbers["test_loss"] == pytest.approx(loss.mean(), rel=1e-5)
    assert report.numbers["test_loss.answer 1"] == pytest.approx(loss[:, 1].mean(), rel=1e-5)
    assert report.numbers["test_accuracy"] == correct.all(1).mean()
    assert report.numbers["test_accuracy.answer 0"] == correct[:, 0].mean()
    assert {"attribution.L1H1.answer 0", "lens_loss.L0.mid.answer 1"} <= report.numbers.keys()
    assert report.numbers["lens_loss.L1.post.answer 0"] == pytest.approx(loss[:, 0].mean(), rel=1e-3)
    json.dumps(report.numbers)


def test_the_page_shows_every_figure_and_evolves_with_the_states(composed):
    _, report = composed
    assert report.figures == [block for block in report.blocks if isinstance(block, FigureOf)]
    page = html.render("title", "subtitle", report.blocks)
    assert 'id="step"' in page
    (attention,) = next(figure for figure in report.figures if figure.name == "attention").pictures
    assert list(attention.steps) == [0, 100, 200, 300]
    assert attention.frames["L1H0"].shape == (4, 2, 4)


def test_a_single_state_without_history_has_the_same_figures_but_curves(composed):
    report = analyse(trained(Composition(), CONFIG))
    assert [figure.name for figure in report.figures] == GENERAL
    assert 'id="step"' not in html.render("title", "subtitle", report.blocks)
    assert report.blocks[0].title == "How good it is: seed 0, step 100"


def test_an_architecture_without_attention_says_what_is_not_defined_for_it():
    report = analyse(trained(Sign(), MLP(hidden=(4,)), states=1))
    assert [figure.name for figure in report.figures] == ["curves", "recorded"]
    assert "are not defined for MLP networks" in report.text
    assert any(
        isinstance(block, Text) and "not defined for MLP networks" in block.paragraphs[0] for block in report.blocks
    )
    assert set(report.numbers) == {"test_loss", "test_accuracy"}
    assert "drew new examples" in report.text


def test_keys_of_a_task_that_has_none_are_refused():
    with pytest.raises(UserError, match=r"key frequencies .* leave --keys out"):
        analyse(trained(Sign(), MLP(hidden=(4,))), keys="3,5")


def test_a_finished_run_of_any_task_shows_its_curves():
    report = summarize(trained(Composition(), CONFIG, states=2))
    assert [figure.name for figure in report.figures] == ["curves"]
    assert report.text == ""


def test_misread_images_are_shown():
    pytest.importorskip("sklearn")
    one = trained(HandwrittenDigits(), MLP(hidden=(4,)))
    report = summarize(one)
    (figure,) = report.figures
    (picture,) = figure.pictures
    wrong = int(report.text.partition(" of ")[0].replace(",", ""))
    assert len(picture.frames) == min(wrong, 24) > 0
    network = one.networks[0]
    batch = network.task.test_batch(network.data)
    name, image = next(iter(picture.frames.items()))
    number = int(name.partition("image ")[2].rstrip(")"))
    np.testing.assert_array_equal(image.ravel(), batch.inputs[number])
    assert name.startswith(f"{int(batch.targets[number, 0])} read as ")


# --- how good ---------------------------------------------------------------------------------------------


def test_a_fixed_train_set_is_measured_too_whatever_its_size(monkeypatch):
    task = Modular(p=7, train_fraction=0.6)
    (network,) = trained(task, Transformer(d_model=16, heads=2, d_mlp=16)).networks
    whole = performance.of(network)
    assert (whole["train"].examples, whole["test"].examples) == (29, 20)
    monkeypatch.setattr(performance, "_AT_ONCE", 8)
    parts = performance.of(network)
    for name in ("train", "test"):
        assert parts[name].loss == pytest.approx(whole[name].loss, rel=1e-5)
        assert parts[name].accuracy == whole[name].accuracy


def test_a_network_with_nan_is_never_correct():
    (network,) = trained(Composition(), CONFIG).networks
    network.params["unembed"]["W_U"] = network.params["unembed"]["W_U"].at[0, 0].set(jnp.nan)
    result = performance.of(network)["test"]
    assert np.isnan(result.loss)
    assert result.accuracy == 0
    assert (result.accuracy_by_answer == 0).all()
    report = analyse(Trained((network,), "a title"))
    assert "not defined  0.00 %" in report.text
    assert "100 %" not in report.text


@pytest.mark.parametrize(
    ("fraction", "words"),
    [(1, "100 %"), (0, "0.00 %"), (0.51234, "51.23 %"), (0.999999, "99.9999 %"), (np.nan, "none")],
)
def test_100_percent_is_all_of_them(fraction, words):
    assert performance.percent(fraction) == words


def test_tables_are_printed_without_definitions():
    table = Table("Title", ("measure", "value", "definition"), [("loss", "1.5", "a long one")], note="Note.")
    assert as_text(table).splitlines() == ["Title", "Note.", "measure  value", "loss     1.5"]
    assert Report.of("text", {"a": 1.0}, [table]).figures == []
