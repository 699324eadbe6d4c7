"""Figures of what was learned draw the arrays they are given, labelled, and every text can be read."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_hex

from jaxadd.analysis.fourier import basis
from jaxadd.views import figures
from jaxadd.views.figures import style

RNG = np.random.default_rng(0)
DIGITS = ("A3", "A2", "A1", "A0")
TOKENS = ("a2", "a1", "a0", "+", "b2", "b1", "b0", "=", "A3", "A2", "A1")


def texts(figure):
    """List what is written in a figure after it was laid out: (text, extent in pixels), tick labels in view only."""
    figure.draw_without_rendering()
    found = [*figure.texts]
    for ax in figure.findobj(lambda artist: hasattr(artist, "get_xticklabels")):
        found += [*ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label]
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            if axis.get_visible() and ax.axison:
                low, high = sorted(limits)
                ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
                found += [label for tick in ticks for label in (tick.label1, tick.label2)]
    for legend in [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]:
        found += legend.get_texts()
    return [(text.get_text(), text.get_window_extent()) for text in found if text.get_visible() and text.get_text()]


def said(figure):
    return [text for text, _ in texts(figure)]


def check_legible(figure):
    """Check that no text leaves the figure or runs into another."""
    written = texts(figure)
    for i, (text, box) in enumerate(written):
        assert box.x0 > -3, text
        assert box.y0 > -3, text
        assert box.x1 < figure.bbox.x1 + 3, text
        assert box.y1 < figure.bbox.y1 + 3, text
        for other, box_ in written[:i]:
            width = min(box.x1, box_.x1) - max(box.x0, box_.x0)
            height = min(box.y1, box_.y1) - max(box.y0, box_.y0)
            assert width < 2 or height < 2, f"{text!r} runs into {other!r}"


def pictures(figure):
    return [np.ma.filled(image.get_array(), np.nan) for ax in figure.axes for image in ax.images]


def claims(lanes, count=4):
    score = np.linspace(1, 0.2, count)
    verdicts = ["holds", "in part", "fails", "does not matter"]
    return {
        f"claim {i}: this head carries the sum of column {i} and nothing else that any answer digit needs": (
            score[i] - np.linspace(0, 0.05, lanes),
            score[i] - 0.1,
            score[i],
            verdicts[i % 4],
        )
        for i in range(count)
    }


LEGIBLE = {
    "embedding_norms": lambda: figures.embedding_norms(
        np.arange(0, 2000, 100), RNG.random((20, 57)), (14, 35, 41, 42, 52), "title"
    ),
    "embedding_norms, few": lambda: figures.embedding_norms(np.array([0, 5]), RNG.random((2, 3)), (1, 2), "title"),
    "neuron_maps": lambda: figures.neuron_maps(
        RNG.random((5, 23, 23)), RNG.random((5, 23, 23)), [f"neuron {i}" for i in range(5)], "title"
    ),
    "neuron_maps, dead": lambda: figures.neuron_maps(np.zeros((1, 5, 5)), np.zeros((1, 5, 5)), ["neuron 3"], "title"),
    "neuron_clusters": lambda: figures.neuron_clusters(RNG.integers(0, 14, 90), RNG.uniform(0.5, 1, 90), "title"),
    "attention_over_pairs": lambda: figures.attention_over_pairs(RNG.dirichlet((1, 1, 0.1), (5, 7, 7)), "title"),
    "attention_over_pairs, one": lambda: figures.attention_over_pairs(RNG.random((1, 7, 7)), "title"),
    "logit_spectrum": lambda: figures.logit_spectrum(1e5 * RNG.random((113, 113)), (1, 14, 41, 42, 52), "title"),
    "logit_spectrum, few": lambda: figures.logit_spectrum(np.zeros((2, 2)), (1,), "title"),
    "attention_maps": lambda: figures.attention_maps(RNG.random((2, 5, 4, 11)), DIGITS, TOKENS, "title"),
    "attention_maps, long": lambda: figures.attention_maps(
        RNG.random((1, 1, 4, 11)), DIGITS, [f"{name}0" for name in TOKENS], "title"
    ),
    "attention_maps, modular": lambda: figures.attention_maps(RNG.random((1, 4, 1, 3)), "=", "ab=", "title"),
    "attention_change": lambda: figures.attention_change(
        RNG.random((2, 2, 4, 11)), RNG.random((2, 2, 4, 11)), DIGITS, TOKENS, "title"
    ),
    "attention_change, one": lambda: figures.attention_change(
        np.ones((1, 1, 1, 3)), np.ones((1, 1, 1, 3)), "=", "ab=", "title"
    ),
    "circuit_matrices": lambda: figures.circuit_matrices(
        RNG.normal(size=(4, 12, 12)),
        RNG.normal(size=(4, 12, 10)),
        "title",
        tokens="0123456789+=",
        classes="0123456789",
    ),
    "circuit_matrices, one": lambda: figures.circuit_matrices(
        RNG.normal(size=(1, 14)), np.zeros((1, 14, 14)), "title"
    ),
    "composition": lambda: figures.composition(
        np.triu(RNG.random((3, 9))), ("L0H0", "L0H1", "L0MLP"), [f"L1H{h}.{r}" for h in "012" for r in "QKV"], "title"
    ),
    "attribution": lambda: figures.attribution(
        RNG.normal(size=(9, 4)), [f"L0H{i}" for i in range(9)], DIGITS, "title"
    ),
    "attribution, one": lambda: figures.attribution(np.zeros((1, 1)), ["pos_embed"], ["A0"], "title"),
    "logit_lens": lambda: figures.logit_lens(
        10.0 ** RNG.uniform(-9, 0.5, (3, 4)), [f"blocks.{i}.hook_resid_post" for i in range(3)], DIGITS, "title"
    ),
    "logit_lens, perfect": lambda: figures.logit_lens(np.zeros((1, 1)), ["blocks.0.hook_resid_post"], ["="], "title"),
    "damage_map": lambda: figures.damage_map(
        RNG.normal(size=(60, 4)),
        RNG.normal(size=(60, 3)),
        [f"L0N{i}" for i in range(60)],
        DIGITS,
        ("no carry", "carries", "cascade over 2"),
        ["L0H2 at =: column 3 carry"] * 60,
        "title",
    ),
    "damage_map, one": lambda: figures.damage_map(
        np.zeros((1, 1)), np.full((1, 1), np.nan), ["L0H0"], ["A0"], ["S0"], None, "title"
    ),
    "hypotheses": lambda: figures.hypotheses(
        claims(3, 12), {"holds": 0.9, "in part": 0.5, "fails": -np.inf}, "title"
    ),
    "hypotheses, one": lambda: figures.hypotheses(claims(1, 1), {"holds": 0.9}, "title"),
    "spike": lambda: figures.spike(
        np.arange(40, 90),
        {d: RNG.random(50) for d in ("loss", *DIGITS)},
        {f"W_{i}": RNG.random(50) for i in "QKVO"},
        "t",
    ),
    "spike, one": lambda: figures.spike(np.array([3]), {"loss": np.ones(1)}, {"all": np.ones(1)}, "title"),
}


@pytest.mark.parametrize("name", LEGIBLE)
def test_every_text_can_be_read(name):
    check_legible(LEGIBLE[name]())


def test_the_check_of_legibility_fails_where_it_should():
    figure = figures.attention_maps(RNG.random((1, 1, 4, 11)), DIGITS, [f"token {name}" for name in TOKENS], "title")
    figure.axes[0].tick_params(axis="x", labelrotation=0)
    with pytest.raises(AssertionError, match="runs into"):
        check_legible(figure)
    figure = figures.attribution(np.ones((1, 1)), ["embed"], ["A0"], "far too long a title " * 20)
    with pytest.raises(AssertionError, match="title"):
        check_legible(figure)


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e6, 1e6))
def test_brief_numbers_are_short_and_right_to_a_digit(value):
    text = style.brief(value)
    assert len(text.lstrip("-")) <= 6
    digit = 10.0 ** math.floor(math.log10(abs(value))) if value else 0
    assert abs(float(text) - value) <= 0.5001 * digit


# --- modular --------------------------------------------------------------------------------------------------


def test_embedding_norms_draw_all_states_and_mark_the_keys():
    norms = RNG.random((6, 12))
    figure = figures.embedding_norms(np.arange(0, 600, 100), norms, (3, 8, 9), "title")
    over, last = figure.axes[:2]
    np.testing.assert_array_equal(over.collections[0].get_array(), norms.T)
    assert [bar.get_width() for bar in last.patches] == list(norms[-1])
    marked = [k for k, bar in enumerate(last.patches) if to_hex(bar.get_facecolor()) == style.TEST]
    assert marked == [3, 8, 9]
    assert last.get_title() == "step 500"
    assert {text.get_text() for text in last.texts} == {"3", "8", "9"}


def test_neighbouring_keys_share_a_label():
    figure = figures.embedding_norms(np.arange(9), RNG.random((9, 57)), (41, 14, 42), "title")
    assert [text.get_text() for text in figure.axes[1].texts] == ["14", "41, 42"]


def test_embedding_norms_of_one_state_are_bars_alone():
    figure = figures.embedding_norms(np.array([4000]), RNG.random((1, 8)), (2,), "title")
    assert [ax.get_title() for ax in figure.axes] == ["step 4,000"]
    assert not figure.axes[0].collections


def test_neuron_spectra_show_all_that_is_there_and_name_its_frequency():
    p, k = 31, 6
    a = np.arange(p)
    wave = np.maximum(np.cos(2 * np.pi * k * a / p)[:, None] + np.cos(2 * np.pi * k * a / p), 0)
    transform = basis(p) @ wave @ basis(p).T
    figure = figures.neuron_maps(wave[None], transform[None], ["neuron 7"], "title")
    activation, spectrum = pictures(figure)
    np.testing.assert_array_equal(activation, wave)
    end = len(spectrum)
    np.testing.assert_array_equal(spectrum, np.abs(transform[:end, :end]))
    left_out = np.abs(transform).copy()
    left_out[:end, :end] = 0
    assert left_out.max() < 0.05 * np.abs(transform).max()
    below = next(ax for ax in figure.axes if ax.get_xlabel() == "frequency along b")
    assert [(t.get_text(), x) for t, x in zip(below.get_xticklabels(), below.get_xticks(), strict=True)] == [
        ("const.", 0),
        ("6", 2 * k - 0.5),
    ]


def test_no_more_than_eight_neurons_are_drawn():
    maps = RNG.random((11, 5, 5))
    assert len(pictures(figures.neuron_maps(maps, maps, [str(i) for i in range(11)], "title"))) == 16


def test_clusters_are_counted():
    frequency, share = np.array([0, 0, 36, 52, 36, 36]), np.array([0.1, 0.8, 0.9, 0.99, 1.0, 0.86])
    figure = figures.neuron_clusters(frequency, share, "title")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["none: 2", "k = 36: 3", "k = 52: 1"]
    heights = [bar.get_height() for group in figure.axes[0].containers for bar in group]
    assert sum(heights) == 6


def test_small_clusters_are_counted_together():
    frequency = np.repeat(np.arange(1, 12), np.arange(1, 12))
    figure = figures.neuron_clusters(frequency, np.ones(66), "title")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["none: 0", *(f"k = {k}: {k}" for k in range(5, 12)), "4 others: 10"]


@pytest.mark.parametrize("equals", [False, True])
def test_attention_over_pairs_has_a_panel_for_each_head(equals):
    pattern = RNG.dirichlet((1, 1, 0.01), (5, 7, 7))
    figure = figures.attention_over_pairs(pattern if equals else pattern[..., 0], "title")
    want = [*pattern[..., 0], *(pattern[..., 2] if equals else ())]
    np.testing.assert_array_equal(pictures(figure), want)
    limits = [image.norm.vmax for ax in figure.axes for image in ax.images]
    assert limits == [1] * 5 + [pattern[..., 2].max()] * 5 * equals


# --- progress -------------------------------------------------------------------------------------------------


def series(lanes=2, states=9):
    names = ("train_loss", "test_loss", "excluded_loss_train", "excluded_loss_36", "excluded_loss_52")
    names += ("sum_of_squares", "gini_W_E", "gini_W_L", "logit_variance_explained", "attention_to_equals")
    return {name: RNG.uniform(0.1, 1, (lanes, states)) for name in names}


def test_measures_go_to_the_panels_they_belong_to():
    figure = figures.measures(np.arange(9) * 100, series(), (100, 400, 600), "title")
    lines = {ax.get_title(): [line.get_label() for line in ax.lines] for ax in figure.axes if ax.get_title()}
    assert lines == {
        "loss": ["train loss", "test loss", "excluded loss train"],
        "excluded loss of one frequency": ["k = 36", "k = 52"],
        "sum of squares": ["sum of squares"],
        "Gini": ["gini W_E", "gini W_L"],
        "variance explained": ["logit variance explained"],
        "attention to equals": ["attention to equals"],
    }
    check_legible(figure)


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
def test_phases_are_shaded_and_named(phases, want):
    figure = figures.measures(np.arange(9) * 100, {"train_loss": np.ones((1, 9))}, phases, "title", log_steps=False)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == want
    spans = [(span.get_x(), span.get_x() + span.get_width()) for span in figure.axes[0].patches]
    ends = [*(end for end in phases if end is not None), *([800] if "not ended" in want[-1] else [])]
    assert spans == list(zip([0, *ends[:-1]], ends, strict=True))


def test_a_measure_that_was_taken_once_can_be_seen():
    figure = figures.measures(np.array([0]), {"train_loss": np.ones((2, 1))}, (None,) * 3, "title")
    assert figure.axes[0].lines[0].get_marker() == "o"


# --- circuits -------------------------------------------------------------------------------------------------


def test_attention_maps_name_heads_queries_and_tokens():
    pattern = RNG.random((2, 5, 4, 11))
    figure = figures.attention_maps(pattern, DIGITS, TOKENS, "title")
    np.testing.assert_array_equal(pictures(figure), pattern.reshape(10, 4, 11))
    assert [ax.get_title() for ax in figure.axes if ax.images] == [f"L{i}H{h}" for i in range(2) for h in range(5)]
    lowest = figure.axes[9]
    assert [t.get_text() for t in lowest.get_yticklabels()] == list(DIGITS)
    assert [t.get_text() for t in lowest.get_xticklabels()] == list(TOKENS)


def test_attention_change_shows_the_difference_on_a_scale_around_zero():
    before, after = RNG.random((2, 2, 2, 4, 11))
    figure = figures.attention_change(before, after, DIGITS, TOKENS, "title")
    rows = np.reshape(pictures(figure), (4, 3, 4, 11))
    np.testing.assert_array_equal(rows[:, 2], (after - before).reshape(4, 4, 11))
    np.testing.assert_array_equal(rows[:, 1], after.reshape(4, 4, 11))
    norm = figure.axes[2].images[0].norm
    assert norm.vmax == -norm.vmin == np.abs(after - before).max()
    assert style.diverging()(norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.02)


def test_circuit_matrices_draw_qk_above_ov_or_the_scores_of_one_query():
    qk, ov = RNG.normal(size=(3, 12, 12)), RNG.normal(size=(3, 12, 10))
    np.testing.assert_array_equal(
        np.concatenate([p.ravel() for p in pictures(figures.circuit_matrices(qk, ov, "t"))]),
        np.concatenate([qk.ravel(), ov.ravel()]),
    )
    figure = figures.circuit_matrices(qk[:, -1], ov, "title")
    np.testing.assert_array_equal(pictures(figure), ov)
    scores = [line.get_ydata() for ax in figure.axes for line in ax.lines if len(line.get_ydata()) == 12]
    np.testing.assert_array_equal(scores, qk[:, -1])


def test_composition_leaves_out_parts_without_partners():
    scores = np.full((3, 4), np.nan)
    scores[0, 2:], scores[1, 3] = (0.25, 0.5), 0.125
    figure = figures.composition(scores, ("w0", "w1", "w2"), ("r0", "r1", "r2", "r3"), "title", chance=0.1)
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["w0", "w1"]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["r2", "r3"]
    assert [t.get_text() for t in ax.texts] == ["0.25", "0.50", "0.12"]
    assert [line.get_ydata()[0] for line in figure.axes[1].lines] == [0.1]


def test_attribution_writes_contributions_into_cells():
    figure = figures.attribution(np.array([[1.5, -0.25], [1e-5, np.nan]]), ["L0H0", "L0MLP"], ["A1", "A0"], "title")
    assert [t.get_text() for t in figure.axes[0].texts] == ["1.50", "-0.25", "0"]


def test_logit_lens_writes_losses_into_cells_and_a_lower_loss_is_lighter():
    figure = figures.logit_lens(np.array([[2.3, 2.3], [1e-3, 0.0]]), ["first", "last"], ["A1", "A0"], "title")
    image = figure.axes[0].images[0]
    assert [t.get_text() for t in figure.axes[0].texts] == ["2.30", "2.30", "0.001", "0"]
    colours = image.to_rgba(image.get_array())[..., :3].sum(-1)
    assert colours[0, 0] < colours[1, 0] <= colours[1, 1]


# --- interventions --------------------------------------------------------------------------------------------


def test_damage_map_writes_damage_and_sentences_beside_each_other():
    damage, by_class = np.array([[1.5, 0.001], [-0.3, 0.02]]), np.array([[0.5, np.nan], [4.0, 0.0]])
    words = ["L0H0: column 1", "L0H1: nothing"]
    figure = figures.damage_map(damage, by_class, ["L0H0", "L0H1"], ["A1", "A0"], ["S0", "S5"], words, "title")
    digits, classes, *_ = figure.axes
    assert [t.get_text() for t in digits.texts] == ["1.50", "0", "-0.30", "0.020"]
    assert [t.get_text() for t in classes.texts] == ["0.50", "4.00", "0"]
    assert digits.images[0].norm.vmax == classes.images[0].norm.vmax == 4
    assert [text for text in said(figure) if text in words] == words


def test_hypotheses_draw_a_dot_for_each_lane_coloured_by_the_verdict():
    scores = {
        "true": (np.array([0.99, 0.95]), 0.93, 1.0, "holds"),
        "false": (np.array([-5.0, 0.2]), np.array([-7.0, 0.1]), np.array([-2.0, 0.3]), "fails"),
        "idle": (np.array([np.nan, np.nan]), np.nan, np.nan, "does not matter"),
    }
    figure = figures.hypotheses(scores, {"holds": 0.9, "in part": 0.5, "fails": -np.inf}, "title")
    dots = [(list(d.get_xdata()), d.get_color()) for d in figure.axes[0].lines if d.get_marker() == "o"]
    holds, fails = style.PALETTE[3], style.TEST
    assert dots[:2] == [([0.99, 0.95], holds), ([0.2], fails)]
    assert dots[2][1] == style.FLOOR
    edge = [d for d in figure.axes[0].lines if d.get_marker() == "<"]
    assert [list(d.get_xdata()) for d in edge] == [[figure.axes[0].get_xlim()[0]]]
    written = said(figure)
    assert "holds: 0.97 [0.93, 1.00]" in written
    assert "fails: -2.40 [-7.00, 0.30]" in written
    assert "does not matter: no score" in written
    assert "holds: from 0.9" in written
    check_legible(figure)


def test_spike_marks_the_highest_loss_and_shows_norms_over_their_median():
    step, loss = np.arange(100, 107), np.array([1.0, 1, np.nan, 9, 3, 1, 1])
    norms = {"W_E": np.array([2.0, 2, 2, 20, 0, 2, 2]), "W_U": np.zeros(7)}
    figure = figures.spike(step, {"loss": loss, "A0": loss / 2}, norms, "title")
    above, below = figure.axes[:2]
    assert above.get_title() == "loss, highest at step 103"
    change = np.ma.filled(below.collections[0].get_array(), np.nan)
    np.testing.assert_allclose(change, [[0, 0, 0, 1, np.nan, 0, 0], [np.nan] * 7])
    assert [t.get_text() for t in below.get_yticklabels()] == ["W_E  2.00", "W_U  0"]
