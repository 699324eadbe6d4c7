"""What a report says and shows of networks that learn an operation mod P."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn

from jaxadd.analysis import fourier, measures, performance
from jaxadd.analysis.modular import declarations, figures, measured, progress
from jaxadd.analysis.modular import report as modular
from jaxadd.analysis.modular.problem import whole_problem
from jaxadd.analysis.phases import Phases
from jaxadd.analysis.report import Trained, analyse, summarize
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Modular
from jaxadd.tasks.modular import additive
from jaxadd.views.figures import render

P = 7
SMALL = Transformer(d_model=16, heads=2, d_mlp=16)


def trained(config=SMALL, lanes=1, states=0, **task):
    task = Modular(**{"p": P, "train_fraction": 0.6, **task})
    model = config.build(task.sizes)
    networks = tuple(Network(drawn(model, s), model, task, seed=s, step=100 * states) for s in range(lanes))
    histories = tuple(
        jax.tree.map(lambda *w: jax.device_put(np.stack(w)), *(drawn(model, 10 * s + i) for i in range(states)))
        for s in range(lanes if states else 0)
    )
    return Trained(networks, "a title", {}, 100 * np.arange(states), histories)


@pytest.fixture(scope="module")
def several():
    two = trained(lanes=2, states=3)
    return two, analyse(two, lane=1)


STATE = ["errors", "attention_pairs", "readoff", "logits", "neurons", "clusters", "residues"]
GENERAL = ["attention", "circuits", "composition", "attribution", "lens"]


def test_a_report_has_every_measure_and_figure(several):
    two, report = several
    assert [f.name for f in report.figures] == [
        *STATE,
        "graduation",
        "single_neurons",
        "measures",
        "embedding",
        *GENERAL,
    ]
    network = two.networks[1]
    problem = whole_problem(network.task, network.data.lane)
    keys = fourier.mask(report.numbers["key_frequencies_neurons"], P)
    values = progress.measures(network.params, network.model, problem, keys)
    for name, value in measures.flat(declarations.MEASURES, values, problem.axes).items():
        assert report.numbers[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert {measure.name for measure in declarations.CLOCKS} <= report.numbers.keys()
    assert {"phase_memorised", "phase_formed", "phase_cleaned", "key_frequencies_logits"} <= report.numbers.keys()
    assert (
        sum(n for name, n in report.numbers.items() if name.startswith("neurons_") and name != "neurons_explained")
        == 16
    )


def test_the_score_stands_first_and_the_measures_last_with_their_definitions(several):
    _, report = several
    assert report.text.startswith("How good it is: seed 1, step 300")
    assert [row[0] for row in report.blocks[0].rows] == ["train", "test"]
    table = report.blocks[-1]
    assert table.columns == ("measure", "seed 1", "all 2 seeds, median (range)", "unit", "definition")
    by_name = {row[0]: row for row in table.rows}
    assert by_name["distance_irrelevance"][-1] == declarations.CLOCKS[0].definition
    assert float(by_name["train_loss"][1]) == pytest.approx(report.numbers["train_loss"], rel=1e-5)
    assert "logit_cosine_1" not in by_name
    assert "had not ended at the last saved state" in report.text


def test_what_evolves_ends_in_the_network_itself(several):
    two, report = several
    pictures = {picture.title: picture for figure in report.figures for picture in figure.pictures}
    to_a = pictures["Attention from = to a"]
    assert list(to_a.steps) == [0, 100, 200, 300]
    network = two.networks[1]
    inputs = network.task.batch(np.arange(P * P), {}).inputs
    _, cache = jax.jit(lambda n, x: n(x, cache=["blocks.0.attn.hook_pattern"]))(network, inputs)
    pattern = np.asarray(cache["blocks.0.attn.hook_pattern"])[:, :, -1]
    for h in range(2):
        np.testing.assert_allclose(to_a.frames[f"L0H{h}"][-1], pattern[:, h, 0].reshape(P, P), rtol=1e-5)
        to_equals = pictures["Attention from = to ="].frames[f"L0H{h}"]
        np.testing.assert_allclose(to_equals[-1], pattern[:, h, 2].reshape(P, P), rtol=1e-4, atol=1e-7)
    assert to_a.limits == (0, 1)


def test_measures_go_to_the_panels_that_they_declare(several):
    _, report = several
    (figure,) = (f for f in report.figures if f.name == "measures")
    panels = {picture.title: list(picture.series) for picture in figure.pictures}
    keys = report.numbers["key_frequencies_neurons"]
    single = {declarations.ONE_FREQUENCY: [f"k = {k}" for k in keys]} if keys else {}
    assert panels == {
        "loss": ["train loss", "test loss", "restricted loss all", "excluded loss train"],
        **single,
        "variance explained": ["logit variance explained", "neuron variance explained"],
        "Gini": ["Gini of W_E", "Gini of W_L"],
        "sum of squares": ["sum of squares"],
    }
    assert "those of seed 1" in figure.note


@pytest.mark.parametrize(
    ("phases", "want"),
    [
        ((100, 400, 600), ["memorisation, to step 100", "circuit formation, to step 400", "clean-up, to step 600"]),
        ((100, 400, None), ["memorisation, to step 100", "circuit formation, to step 400", "clean-up, not ended"]),
        ((100, None, None), ["memorisation, to step 100", "circuit formation, not ended"]),
        ((None, 400, None), ["circuit formation, to step 400", "clean-up, not ended"]),
        ((None, None, None), ["memorisation, not ended"]),
    ],
)
def test_phases_are_named_with_their_ends(phases, want):
    one = trained(states=9)
    over = [{"train_loss": np.ones(9)}]
    figure = modular._progress(one, 0, over, Phases(*phases), (), ())
    spans = figure.pictures[0].spans
    assert [span.name for span in spans] == want
    ends = [*(end for end in phases if end is not None), *([800] if "not ended" in want[-1] else [])]
    assert [(span.start, span.end) for span in spans] == list(zip([0, *ends[:-1]], ends, strict=True))
    assert [text.get_text() for text in render(figure).legends[0].get_texts()] == want


def test_neuron_spectra_show_all_that_is_there_and_name_its_frequency():
    p, k = 31, 6
    a = np.arange(p)
    wave = np.maximum(np.cos(2 * np.pi * k * a / p)[:, None] + np.cos(2 * np.pi * k * a / p), 0)
    transform = np.abs(fourier.basis(p) @ wave @ fourier.basis(p).T)
    figure = figures._neurons([7], wave[None, None].astype(np.float32), np.array([4]), "subject", additive(p))
    activation, spectrum = figure.pictures
    np.testing.assert_array_equal(activation.frames["neuron 7"][0], wave.astype(np.float32))
    shown = spectrum.frames["neuron 7"][0]
    end = len(shown)
    np.testing.assert_allclose(shown, transform[:end, :end], atol=1e-4)
    left_out = transform.copy()
    left_out[:end, :end] = 0
    assert left_out.max() < 0.05 * transform.max()
    assert [(mark.name, mark.value) for mark in spectrum.marks] == [("const.", 0), ("6", 2 * k - 0.5)]
    assert spectrum.row_labels[2 * k - 1] == "cos 6"
    # Of a dead neuron no frequency is named, but where there are so few that all are.
    for p, names in ((31, ["const."]), (5, ["const.", "1", "2"])):
        dead = figures._neurons([3], np.zeros((1, 1, p, p), np.float32), np.array([4]), "subject", additive(p))
        assert [mark.name for mark in dead.pictures[1].marks] == names


def clusters(frequency, explained):
    """Describe neurons of which one frequency explains a part."""
    p = 31
    pairs = np.divmod(np.arange(p * p), p)
    noise = np.random.default_rng(0).normal(size=p * p)
    columns = []
    for k, part in zip(frequency, explained, strict=True):
        wave = np.cos(2 * np.pi * max(k, 1) * pairs[0] / p)
        rest = noise - noise.mean()
        columns.append(np.sqrt(part) * wave / wave.std() + np.sqrt(1 - part) * rest / rest.std())
    return figures._clusters(jnp.asarray(np.stack(columns, 1), jnp.float32), "subject", additive(31)).pictures[0]


def test_clusters_are_counted():
    picture = clusters([0, 0, 12, 5, 12, 12], [0.1, 0.6, 0.92, 0.99, 1.0, 0.93])
    assert list(picture.counts) == ["none: 2", "k = 5: 1", "k = 12: 3"]
    assert sum(int(counts.sum()) for counts in picture.counts.values()) == 6
    assert picture.threshold == 0.85


def test_small_clusters_are_counted_together():
    picture = clusters(np.repeat(np.arange(1, 12), np.arange(1, 12)), np.ones(66))
    assert list(picture.counts) == ["none: 0", *(f"k = {k}: {k}" for k in range(5, 12)), "4 others: 10"]


def test_errors_are_marked_over_all_pairs():
    one = trained()
    (figure,) = summarize(one).figures
    network = one.networks[0]
    batch = network.task.batch(np.arange(P * P), {})
    errors = np.asarray(network.answer(batch.inputs) != batch.targets)[:, 0]
    in_train = np.isin(np.arange(P * P), network.data.lane["train"])
    kinds = figure.pictures[0].frames["errors"][0].ravel()
    np.testing.assert_array_equal(kinds, 2 * errors + in_train)
    assert figure.pictures[0].categories[2] == "test, error"


def test_a_network_with_nan_answers_nothing_and_has_no_keys():
    one = trained()
    one.networks[0].params["unembed"]["W_U"] = jnp.full_like(one.networks[0].params["unembed"]["W_U"], jnp.nan)
    report = analyse(one)
    assert report.numbers["test_accuracy"] == report.numbers["all_accuracy"] == 0
    assert report.numbers["key_frequencies_logits"] == []
    assert np.isnan(report.numbers["distance_irrelevance"])
    kinds = next(f for f in report.figures if f.name == "errors").pictures[0].frames["errors"]
    assert (kinds >= 2).all()
    assert "not defined" in report.text
    for figure in report.figures:
        render(figure)


# --- key frequencies --------------------------------------------------------------------------------------

RULES = {name: fourier.mask([1 + i % 3], P) for i, name in enumerate(measured.RULES)}


@pytest.mark.parametrize(
    ("keys", "chosen", "frequencies"),
    [
        (None, "neurons", (1,)),
        ("neuron-logit-map", "neuron-logit-map", (2,)),
        ("3", "as given", (3,)),
        ("3, 1,3", "as given", (1, 3)),
    ],
)
def test_keys_are_a_rule_or_a_list(keys, chosen, frequencies):
    words, mask = measured.choose_keys(keys, RULES, (P,))
    assert (words, fourier.frequencies(mask)) == (chosen, frequencies)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (
            "neuron_logit_map",
            "a rule (neurons, neuron-logit-map, embedding, logits) or frequencies mod 7, which are 1 to 3",
        ),
        ("3,x", "such as '1,2', got '3,x'"),
        ("", "such as '1,2', got ''"),
        ("1,4", "frequencies mod 7, which are 1 to 3, with commas between them such as '1,2', got '1,4'"),
        ("0", "which are 1 to 3, with commas between them such as '1,2', got '0'"),
    ],
)
def test_keys_that_cannot_be_read_are_refused_in_one_line(keys, words):
    with pytest.raises(UserError) as error:
        measured.choose_keys(keys, RULES, (P,))
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_keys_as_given_are_used_and_named():
    report = analyse(trained(), keys="2,3")
    assert "key frequencies as given: 2, 3" in report.text
    embedding = next(f for f in report.figures if f.name == "embedding").pictures[0]
    assert embedding.highlight == ["2", "3"]
    assert embedding.note == "Key frequencies as given: 2, 3."
    names = [row[0] for row in report.blocks[-1].rows]
    assert [name for name in names if name.startswith("excluded_loss_") and name[14:].isdecimal()] == [
        "excluded_loss_2",
        "excluded_loss_3",
    ]


def test_without_neurons_the_keys_are_those_of_the_logits():
    bare = trained(Transformer(d_model=16, heads=2, d_mlp=0))
    report = analyse(bare)
    assert [f.name for f in report.figures if f.name in ("neurons", "clusters")] == []
    embedding = next(f for f in report.figures if f.name == "embedding").pictures[0]
    assert embedding.note.startswith("Key frequencies by logits")
    with pytest.raises(UserError, match="needs neurons, and this network has none; use logits or embedding"):
        analyse(bare, keys="neurons")


def test_an_operation_that_is_no_sum_shows_its_errors_and_what_holds_for_any_network():
    report = analyse(trained(operation="a2+ab+b2"))
    assert [f.name for f in report.figures] == ["errors", "residues", *GENERAL]
    assert "defined for a sum or difference in a group, of two operands" in report.text
    with pytest.raises(UserError, match="key frequencies"):
        analyse(trained(operation="a2+ab+b2"), keys="1")


@pytest.mark.parametrize(
    ("task", "fields", "missing", "undefined"),
    [
        ({"equals": "token"}, {"norm": "rmsnorm", "mlp": "gated", "unembed_bias": True}, set(), set()),
        ({"equals": "none"}, {"attention_mix": 0.0, "attention": "bidirectional"}, {"readoff"}, set()),
        (
            {},
            {"norm": "layernorm", "norm_where": "both", "positions": "rope", "mlp": "gated"},
            {"readoff", "circuits", "composition", "attribution", "lens"},
            {"QK circuit", "Composition", "Attribution"},
        ),
        (
            {"label_noise": 0.3},
            {"norm": "layernorm", "norm_where": "post"},
            {"readoff", "circuits", "composition", "attribution", "lens"},
            {"A folded norm", "Attribution"},
        ),
    ],
)
def test_any_transformer_is_analysed_and_what_is_not_defined_is_told(task, fields, missing, undefined):
    one = trained(Transformer(d_model=8, heads=2, d_mlp=12, **fields), **task)
    report, measured = analyse(one), performance.of(one.networks[0])
    assert {"readoff", "circuits", "composition", "attribution", "lens"} - {f.name for f in report.figures} == missing
    assert all(f"{words} is not defined with" in report.text for words in undefined)
    assert ("is not defined with" in report.text) == bool(undefined)
    assert np.isfinite(report.numbers["full_loss_all"])
    assert ("gini_W_L" in report.numbers) == ("norm_where" not in fields)
    assert report.numbers["train_loss"] == pytest.approx(measured["train"].loss, rel=1e-5)


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([200, None], "memorisation ended in 1 of 2 lanes, at step 200"),
        ([200], "memorisation ended at step 200"),
        ([100, 200, 400], "memorisation ended at step 200 (100 to 400)"),
        ([None, None], "memorisation had not ended at the last saved state"),
    ],
)
def test_the_end_of_a_phase_is_a_sentence(steps, words):
    assert modular._end_of("memorisation", steps) == words
