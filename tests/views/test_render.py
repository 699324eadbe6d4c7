"""Described pictures are drawn as they are described, labelled, and every text can be read."""

import matplotlib.image
import numpy as np
import pytest
from legible import check_legible, words
from matplotlib.colors import to_hex

from jaxadd.analysis.report import training_figures
from jaxadd.pictures import (
    START,
    Bars,
    FigureOf,
    HeatMaps,
    Histogram,
    Level,
    Lines,
    Span,
    band,
    colour_numbers,
    frames_shown,
    log_from,
    log_label,
)
from jaxadd.views import colours
from jaxadd.views.figures import render

RNG = np.random.default_rng(0)
DIGITS = ("A3", "A2", "A1", "A0")
TOKENS = ("a2", "a1", "a0", "+", "b2", "b1", "b0", "=", "A3", "A2", "A1")
NUMBERS = [str(k) for k in range(113)]


def figure_of(*pictures, title="A figure", **more):
    return FigureOf(
        "name", title, pictures, subject="5-digit addition, base 10, sequential, seed 0, step 300", **more
    )


def drawn(picture, **more):
    return render(figure_of(picture, **more))


def images(figure):
    return [np.ma.filled(image.get_array(), np.nan) for ax in figure.axes for image in ax.images]


def panels(figure):
    """List the axes that show heat maps."""
    return [ax for ax in figure.axes if ax.images]


def metrics(lanes=1, steps=50):
    step = np.arange(steps)
    values = np.exp(-step / 10.0) * (1 + np.arange(lanes)[:, None])
    names = ("train_loss", "test_loss", "train_accuracy", "test_accuracy", "grad_norm", "update_norm", "weight_norm")
    record = {"step": step} | {name: values.copy() for name in names}
    record["test_loss"][:, step % 10 != 0] = np.nan
    record["update_norm"][:, 0] = 0
    return record


def maps(frames, rows, columns, **more):
    return HeatMaps("Maps", [0], {name: x[None] for name, x in frames.items()}, rows, columns, **more)


# --- curves -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lanes", [1, 3])
def test_training_curves_are_labelled_and_whole(lanes, tmp_path):
    described = training_figures(metrics(lanes), "title")
    assert [figure.name for figure in described] == ["curves", "norms"]
    for figure, bands in zip(map(render, described), (2, 1), strict=True):
        for ax in figure.axes:
            assert ax.get_xlabel() == "step (linear up to 1, then log)"
            assert ax.get_xlim() == (0, 49)  # from the first step
            assert ax.get_ylabel()
            assert len(ax.collections) == bands * (lanes > 1)
        check_legible(figure)
    render(described[0]).savefig(tmp_path / "a.png")
    assert matplotlib.image.imread(tmp_path / "a.png").std() > 0.01


def test_curves_show_measured_points_only():
    loss = render(training_figures(metrics(3), "title")[0]).axes[0]
    train, test = loss.lines
    np.testing.assert_array_equal(test.get_xdata(), np.arange(0, 50, 10))
    np.testing.assert_allclose(test.get_ydata(), 2 * np.exp(-np.arange(0, 50, 10) / 10))
    assert len(train.get_xdata()) == 50
    assert (train.get_color(), test.get_color()) == (colours.TRAIN, colours.TEST)
    linear = render(training_figures(metrics(), "title", log_steps=False)[0]).axes[0]
    np.testing.assert_array_equal(linear.lines[1].get_xdata(), np.arange(0, 50, 10))


def test_a_norm_of_zero_has_no_place_on_a_logarithmic_axis():
    update = render(training_figures(metrics(), "title")[1]).axes[1]
    np.testing.assert_array_equal(update.lines[0].get_xdata(), np.arange(1, 50))


def test_what_was_not_recorded_is_left_out():
    record = {name: values for name, values in metrics().items() if name in ("step", "train_loss", "test_loss")}
    (curves,) = training_figures(record, "title")
    assert [picture.title for picture in curves.pictures] == ["loss"]
    assert training_figures({}, "title") == []


def test_a_lane_that_ended_keeps_its_last_value():
    record = metrics(3)
    record["train_loss"][0, 20:] = np.nan
    loss = render(training_figures(record, "title")[0]).axes[0]
    kept = np.where(np.arange(50) < 20, record["train_loss"][0], record["train_loss"][0, 19])
    want = np.median(np.stack([kept, *record["train_loss"][1:]]), axis=0)
    np.testing.assert_allclose(loss.lines[0].get_ydata(), want)


def test_what_is_not_measured_in_any_lane_stays_nan():
    low, middle, high = band(np.array([[1.0, np.nan, 3, np.nan], [2, np.nan, 9, np.nan]]))
    np.testing.assert_array_equal(low, [1, np.nan, 3, np.nan])
    np.testing.assert_array_equal(middle, [1.5, np.nan, 6, np.nan])
    np.testing.assert_array_equal(high, [2, np.nan, 9, np.nan])
    assert np.isnan(band(np.full(3, np.nan))).all()


def test_train_and_test_have_colours_of_their_own():
    assert colour_numbers(["k = 5", "train loss", "test loss", "k = 7", "train more"]) == [2, 0, 1, 3, 4]


def test_a_measure_that_was_taken_once_can_be_seen():
    figure = drawn(Lines("Once", np.array([0]), {"train loss": np.ones((2, 1))}, log_x=True))
    assert figure.axes[0].lines[0].get_marker() == "o"


def test_levels_and_plateaus_are_named():
    levels = [Level(1.6, "nothing known"), Level(1.5, "sum"), Level(0.6, "column"), Level(1e-9, "out of sight")]
    spans = [Span(10, 30, "column", 0.61)]
    step = np.arange(60)
    curve = Lines(
        "A2", step, {"train": np.exp(-step / 20)}, "nats", log_x=True, log_y=True, ylim=(2e-3, 4), levels=levels,
        spans=spans, behind={"raw": np.exp(-step / 20)},
    )  # fmt: skip
    figure = drawn(curve)
    (ax,) = figure.axes
    assert [text.get_text() for text in ax.texts] == [
        "nothing known 1.6", "sum 1.5", "column 0.6", "column\nsteps 10 to 30"
    ]  # fmt: skip
    above, below, again, _ = (text.get_verticalalignment() for text in ax.texts)
    assert (above, below, again) == ("bottom", "top", "bottom")  # The second is too close to the first.
    assert len([line for line in ax.lines if line.get_label() == "_raw"]) == 1
    check_legible(figure)


def test_phases_are_shaded_in_every_picture_and_named_once():
    spans = [Span(0, 100, "memorisation, to step 100"), Span(100, 800, "circuit formation, not ended")]
    pictures = [Lines(f"panel {i}", np.arange(9) * 100, {"loss": np.ones(9)}, spans=spans) for i in range(3)]
    figure = render(figure_of(*pictures))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [span.name for span in spans]
    for ax in figure.axes:
        assert [(span.get_x(), span.get_x() + span.get_width()) for span in ax.patches] == [(0, 100), (100, 800)]


def test_stacked_series_fill_up_to_their_sum():
    parts = {"naive digit": np.array([0.2, 0.5]), "naive + 1": np.array([0.3, 0.4]), "other": np.array([0.5, 0.1])}
    figure = drawn(Lines("A1", np.array([1, 2]), parts, ylim=(0, 1), stacked=True))
    tops = [area.get_paths()[0].vertices[:, 1].max() for area in figure.axes[0].collections]
    np.testing.assert_allclose(tops, [0.5, 0.9, 1.0])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(parts)


# --- heat maps --------------------------------------------------------------------------------------------


def test_panels_name_rows_and_columns_at_the_outermost():
    pattern = RNG.random((10, 4, 11))
    frames = {f"L{i}H{h}": pattern[5 * i + h] for i in range(2) for h in range(5)}
    figure = drawn(maps(frames, DIGITS, TOKENS, xlabel="to", ylabel="from", limits=(0, 1)))
    np.testing.assert_array_equal(images(figure), pattern)
    assert [ax.get_title() for ax in panels(figure)] == list(frames)
    first, lowest = panels(figure)[0], panels(figure)[-1]
    assert [t.get_text() for t in first.get_yticklabels()] == list(DIGITS)
    assert [t.get_text() for t in lowest.get_xticklabels()] == list(TOKENS)
    assert {image.norm.vmax for ax in panels(figure) for image in ax.images} == {1}


def test_a_still_picture_shows_the_last_frame_or_a_strip_of_them():
    steps, frames = np.array([0, 10, 100, 590]), RNG.random((4, 3, 3))
    picture = HeatMaps("Strip", steps, {"A1": frames, "A0": frames + 1}, "abc", "abc", xlabel="digit", ylabel="true")
    np.testing.assert_array_equal(images(drawn(picture)), [frames[-1], frames[-1] + 1])
    strip = drawn(picture._replace(snapshots=4))
    np.testing.assert_array_equal(images(strip), [*frames, *(frames + 1)])
    assert [ax.get_title() for ax in panels(strip)] == [*(f"step {s:,}" for s in steps), *[""] * 4]
    assert [panels(strip)[i].get_ylabel() for i in (0, 4)] == ["A1: true", "A0: true"]


@pytest.mark.parametrize("count", [1, 2, 5, 60, 600])
def test_snapshots_include_the_first_and_the_last(count):
    shown = frames_shown(count, 7, np.arange(count) * 50)
    assert (shown[0], shown[-1]) == (0, count - 1)
    assert len(shown) <= 7
    np.testing.assert_array_equal(frames_shown(count, 1, np.arange(count)), [count - 1])


def test_two_sided_colours_are_white_at_zero_and_alike_on_both_sides():
    values = RNG.normal(size=(4, 4))
    (image,) = panels(drawn(maps({"x": values}, "abcd", "efgh", diverging=True, power=0.5)))[0].images
    assert image.norm.vmax == -image.norm.vmin == np.abs(values).max()
    assert image.cmap(image.norm(0.0))[:3] == pytest.approx((1, 1, 1), abs=0.02)


def test_panels_have_one_scale_or_each_its_own():
    frames = {"low": np.array([[0.0, 1]]), "high": np.array([[0.0, 9]])}
    limits = lambda figure: [ax.images[0].norm.vmax for ax in panels(figure)]
    assert limits(drawn(maps(frames, "r", "ab"))) == [9, 9]
    assert limits(drawn(maps(frames, "r", "ab", separate=True))) == [1, 9]


def test_numbers_are_written_into_cells_unless_they_are_small_or_missing():
    values = np.array([[1.5, -0.25], [1e-5, np.nan]])
    figure = drawn(maps({"x": values}, ["L0H0", "L0MLP"], ["A1", "A0"], diverging=True, numbers=True, least=5e-4))
    assert [t.get_text() for t in figure.axes[0].texts] == ["1.50", "-0.25", "0"]


def test_a_lower_loss_is_lighter_on_a_logarithmic_scale():
    loss = np.array([[2.3, 2.3], [1e-3, 0.0]])
    figure = drawn(maps({"loss": loss}, ["first", "last"], ["A1", "A0"], log=True, numbers=True))
    image = figure.axes[0].images[0]
    assert [t.get_text() for t in figure.axes[0].texts] == ["2.30", "2.30", "0.001", "0"]
    colours = image.to_rgba(image.get_array())[..., :3].sum(-1)
    assert colours[0, 0] < colours[1, 0] <= colours[1, 1]


def test_kinds_are_counted_in_the_legend():
    kinds = np.array([[0.0, 0, 1], [2, 3, 0]])
    picture = maps({"errors": kinds}, "ab", "cde", categories=("test, correct", "train, correct", "test, error", "x"))
    figure = drawn(picture)
    legend = [text for part in figure.subfigs for inner in part.subfigs for text in inner.legends[0].get_texts()]
    assert [t.get_text() for t in legend] == ["test, correct: 3", "train, correct: 1", "test, error: 1", "x: 1"]


def test_marked_places_are_named_instead_of_all_and_share_a_label_where_they_are_close():
    marks = [Level(0, "const."), Level(11.5, "6"), Level(81.5, "41"), Level(83.5, "42")]
    figure = drawn(maps({"norm": RNG.random((113, 113))}, NUMBERS, NUMBERS, marks=marks))
    labels = [
        (t.get_text(), x) for t, x in zip(figure.axes[0].get_xticklabels(), figure.axes[0].get_xticks(), strict=True)
    ]
    assert labels == [("const.", 0), ("6", 11.5), ("41, 42", 82.5)]


def test_a_named_level_is_marked_on_the_scale():
    figure = drawn(maps({"score": RNG.random((2, 3))}, "ab", "cde", numbers=True, levels=[Level(0.125, "chance")]))
    bar = next(ax for ax in figure.axes if not ax.images or len(ax.lines))
    assert [line.get_ydata()[0] for line in bar.lines] == [0.125]
    assert "line: chance, 0.125" in bar.get_ylabel()


def test_maps_beside_each_other_with_the_same_rows_name_them_once_and_have_one_scale():
    effects = {"digit": RNG.normal(size=(5, 4)), "class": RNG.normal(size=(5, 6))}
    limits = {"limits": (-4.0, 4.0), "diverging": True, "unit": "nats", "numbers": True}
    pictures = [
        HeatMaps(
            name, [0], {name: x[None]}, [f"L0H{i}" for i in range(5)], [f"c{i}" for i in range(x.shape[1])], **limits
        )
        for name, x in effects.items()
    ]
    figure = render(figure_of(*pictures))
    assert len(figure.axes) == 3  # Two maps and one scale.
    assert words(figure).count("L0H3") == 1
    apart = render(figure_of(pictures[0], pictures[1]._replace(limits=(-5.0, 5.0))))
    assert len(apart.axes) == 4
    assert words(apart).count("L0H3") == 2


@pytest.mark.parametrize("count", [1, 3, 24])
def test_images_have_names_and_neither_axes_nor_scale(count):
    frames = {f"{i} read as {i + 1} (image {i})": RNG.random((8, 8)) for i in range(count)}
    figure = drawn(maps(frames, (), (), limits=(0, 1)))
    assert len(figure.axes) == count
    assert all(len(ax.get_xticks()) == 0 for ax in figure.axes)
    assert figure.axes[0].get_title().replace("\n", " ") == "0 read as 1 (image 0)"


# --- bars -------------------------------------------------------------------------------------------------


def norms(states, count=12, highlight=("3", "8", "9")):
    frames = {"norm": RNG.random((states, count))}
    steps = np.arange(states) * 100
    return Bars("Norms", steps, frames, [str(k) for k in range(count)], "frequency k", "norm", highlight)


def test_bars_over_training_are_a_map_beside_the_last_state_with_the_highlighted_named():
    picture = norms(6)
    over, last = drawn(picture).axes[:2]
    np.testing.assert_array_equal(over.collections[0].get_array(), picture.frames["norm"].T)
    assert [bar.get_width() for bar in last.patches] == list(picture.frames["norm"][-1])
    marked = [k for k, bar in enumerate(last.patches) if to_hex(bar.get_facecolor()) == colours.TEST]
    assert marked == [3, 8, 9]
    assert last.get_title() == "step 500"
    assert ", ".join(text.get_text() for text in last.texts) == "3, 8, 9"


def test_neighbouring_names_share_a_label():
    over_training = drawn(norms(9, 57, ("41", "14", "42")))
    assert [text.get_text() for text in over_training.axes[1].texts] == ["14", "41, 42"]
    still = drawn(norms(1, 57, ("41", "14", "42")))
    assert [text.get_text() for text in still.axes[0].texts] == ["14", "41, 42"]


def test_bars_of_one_state_are_bars_alone():
    picture = norms(1)
    (ax,) = drawn(picture).axes
    assert [bar.get_height() for bar in ax.patches] == list(picture.frames["norm"][-1])
    assert not ax.collections


def test_a_histogram_stacks_its_series():
    counts = {
        "none: 2": np.array([2, 0, 0, 0]),
        "k = 36: 3": np.array([0, 0, 1, 2]),
        "k = 52: 1": np.array([0, 0, 0, 1]),
    }
    figure = drawn(Histogram("Clusters", np.linspace(0, 1, 5), counts, "fraction", "neurons", threshold=0.85))
    (ax,) = figure.axes
    heights = [bar.get_height() for group in ax.containers for bar in group]
    assert sum(heights) == 6
    assert [bar.get_y() for bar in ax.containers[2]] == [2, 0, 1, 2]
    (threshold,) = ax.lines
    assert set(threshold.get_xdata()) == {0.85}
    assert {"none: 2", "k = 36: 3", "k = 52: 1"} <= set(words(figure))


# --- legibility -------------------------------------------------------------------------------------------


def series(names, lanes=2, states=9):
    return {name: RNG.uniform(0.1, 1, (lanes, states)) for name in names}


STEPS = np.arange(9) * 100
PHASES = [Span(0, 100, "memorisation, to step 100"), Span(100, 400, "circuit formation, to step 400")]
LEGIBLE = {
    "curves": lambda: figure_of(
        *(
            Lines(title, STEPS, series(names), "nats", log_x=True, log_y=True, spans=PHASES)
            for title, names in {
                "loss": ("train loss", "test loss", "restricted loss all", "excluded loss train"),
                "excluded loss of one frequency": [f"k = {k}" for k in range(9)],
                "Gini": ("Gini of W_E", "Gini of W_L"),
                "sum of squares": ("sum of squares",),
            }.items()
        ),
        note="Phases and single frequencies are those of seed 0.",
    ),
    "offsets": lambda: figure_of(
        *(
            Lines(d, STEPS, series(("naive digit", "naive + 1", "any other")), log_x=True, stacked=True)
            for d in DIGITS
        )
    ),
    "cascades": lambda: figure_of(
        Lines("Cascades", STEPS, series(("test set", *(f"over {n}" for n in range(9)))), log_x=True, ordered=True)
    ),
    "bars over training": lambda: figure_of(norms(20, 57, ("14", "35", "41", "42", "52"))),
    "bars over training, few": lambda: figure_of(norms(2, 3, ("1", "2"))),
    "bars, many panels": lambda: figure_of(
        Bars("Scores", [0], {f"L0H{h}": RNG.normal(size=(1, 113)) for h in range(6)}, NUMBERS, "number", "score")
    ),
    "bars, one": lambda: figure_of(norms(1, 1, ())),
    "neurons": lambda: figure_of(
        *(
            maps(
                {f"neuron {i}": RNG.random((31, 31)) for i in range(6)},
                NUMBERS[:31],
                NUMBERS[:31],
                xlabel="b",
                ylabel="a",
                unit="activation",
                separate=True,
                **more,
            )
            for more in ({}, {"marks": [Level(0, "const."), Level(13.5, "7"), Level(15.5, "8")]})
        )
    ),
    "neurons, dead": lambda: figure_of(maps({"neuron 3": np.zeros((5, 5))}, NUMBERS[:5], NUMBERS[:5], separate=True)),
    "clusters": lambda: figure_of(
        Histogram("c", np.linspace(0, 1, 41), {f"k = {k}: 9": np.ones(40) for k in range(9)}, "fraction", "neurons")
    ),
    "pairs": lambda: figure_of(
        *(
            maps(
                {f"L0H{h}": RNG.random((113, 113)) for h in range(5)},
                NUMBERS,
                NUMBERS,
                xlabel="b",
                ylabel="a",
                **more,
            )
            for more in ({"limits": (0, 1), "unit": "attention to a"}, {"unit": "attention to ="})
        )
    ),
    "spectrum": lambda: figure_of(
        maps(
            {"norm": 1e5 * RNG.random((113, 113))},
            NUMBERS,
            NUMBERS,
            xlabel="frequency along b",
            ylabel="frequency along a",
            unit="norm",
            power=0.5,
            marks=[Level(2 * k - 0.5, str(k)) for k in (1, 14, 41, 42, 52)],
        )
    ),
    "spectrum, few": lambda: figure_of(maps({"norm": np.zeros((2, 2))}, "01", "01", marks=[Level(0.5, "1")])),
    "attention": lambda: figure_of(
        maps(
            {f"L{i}H{h}": RNG.random((4, 11)) for i in range(2) for h in range(5)},
            DIGITS,
            TOKENS,
            xlabel="to",
            ylabel="from",
        )
    ),
    "attention, long names": lambda: figure_of(
        maps({"L0H0": RNG.random((4, 11))}, DIGITS, [f"{t}000" for t in TOKENS])
    ),
    "attention, modular": lambda: figure_of(
        maps({f"L0H{h}": RNG.random((1, 3)) for h in range(4)}, ["answer"], "ab=")
    ),
    "circuits": lambda: figure_of(
        *(
            maps(
                {f"L0H{h}": RNG.normal(size=(12, n)) for h in range(4)},
                "0123456789+=",
                "0123456789+="[:n],
                xlabel="key",
                ylabel="query",
                unit="score",
                diverging=True,
                note="Positions add to these scores.",
            )
            for n in (12, 10)
        )
    ),
    "composition": lambda: figure_of(
        *(
            maps(
                {"score": np.triu(RNG.random((3, 9)))},
                ("L0H0", "L0H1", "L0MLP"),
                [f"L1H{h}.{r}" for h in "012" for r in "QKV"],
                xlabel="reads",
                ylabel="writes",
                numbers=True,
                unit="score",
                levels=[Level(0.1, "chance")],
            )
            for _ in range(2)
        )
    ),
    "composition, one": lambda: figure_of(
        maps({"score": np.ones((4, 1))}, ("a", "b", "c", "d"), ("L0MLP",), numbers=True)
    ),
    "attribution": lambda: figure_of(
        maps(
            {"x": RNG.normal(size=(9, 4))},
            [f"L0H{i}" for i in range(9)],
            DIGITS,
            xlabel="answer",
            diverging=True,
            power=0.5,
            numbers=True,
            unit="correct logit minus\nmean of the others, nats",
            note="Direct effects only.",
        )
    ),
    "attribution, one": lambda: figure_of(
        maps({"x": np.zeros((1, 1))}, ["pos_embed"], ["A0"], numbers=True, diverging=True)
    ),
    "lens": lambda: figure_of(
        maps(
            {"x": 10.0 ** RNG.uniform(-9, 0.5, (3, 4))},
            [f"L{i} post" for i in range(3)],
            DIGITS,
            log=True,
            numbers=True,
        )
    ),
    "lens, perfect": lambda: figure_of(maps({"x": np.zeros((1, 1))}, ["L0 post"], ["="], log=True, numbers=True)),
    "ablation": lambda: figure_of(
        *(
            maps(
                {"x": RNG.normal(size=(40, n))},
                [f"L0 neurons of column {i} at A{i}" for i in range(40)],
                [f"S{i}" for i in range(n)],
                numbers=True,
                diverging=True,
                limits=(-4.0, 4.0),
                unit="nats",
            )
            for n in (4, 6)
        ),
        note="Each part's activation is replaced by its mean over problems. Those of the largest effect.",
    ),
    "ablation, one": lambda: figure_of(
        maps({"x": np.full((1, 1), np.nan)}, ["L0H0"], ["A0"], numbers=True, diverging=True)
    ),
    "confusion": lambda: figure_of(
        HeatMaps(
            "c",
            np.arange(60) * 50,
            {d: RNG.random((60, 10, 10)) for d in DIGITS},
            NUMBERS[:10],
            NUMBERS[:10],
            xlabel="digit predicted",
            ylabel="true digit",
            unit="mean probability",
            limits=(0, 1),
            snapshots=7,
        )
    ),
    "errors": lambda: figure_of(
        maps(
            {"e": RNG.integers(0, 4, (113, 113)).astype(float)},
            NUMBERS,
            NUMBERS,
            xlabel="b",
            ylabel="a",
            categories=("test, correct", "train, correct", "test, error", "train, error"),
        )
    ),
    "images": lambda: figure_of(
        maps({f"{i % 10} read as 8 (image {i + 100})": RNG.random((8, 8)) for i in range(20)}, (), (), limits=(0, 1))
    ),
}


@pytest.mark.parametrize("name", LEGIBLE)
def test_every_text_can_be_read(name):
    check_legible(render(LEGIBLE[name]()))


def test_the_check_of_legibility_fails_where_it_should():
    figure = drawn(maps({"L0H0": RNG.random((4, 11))}, DIGITS, [f"token {name}" for name in TOKENS]))
    figure.axes[0].tick_params(axis="x", labelrotation=0)
    with pytest.raises(AssertionError, match="runs into"):
        check_legible(figure)
    figure = drawn(maps({"x": np.ones((1, 1))}, ["embed"], ["A0"]))
    figure.suptitle("far too long a title " * 20)
    with pytest.raises(AssertionError, match="title"):
        check_legible(figure)


def test_a_title_that_is_too_long_for_one_line_is_broken():
    figure = drawn(maps({"x": np.ones((1, 1))}, ["embed"], ["A0"]), title="a long title " * 12)
    check_legible(figure)


@pytest.mark.parametrize("count", [17, 53, 97])
@pytest.mark.parametrize("value", [0.0, 470.0, np.nan])
def test_names_beside_a_square_panel_stay_in_the_figure_however_often_it_is_drawn(count, value, tmp_path):
    """The layout moved a single map of pairs to the left at every drawing, and its y label beyond the edge."""
    names = [str(k) for k in range(count)]
    pairs = maps({"step": np.full((count, count), value)}, names, names, xlabel="b", ylabel="a", unit="step")
    figure = drawn(pairs, title="Step from which a pair is correct for good")
    label = figure.axes[0].yaxis.label
    check_legible(figure)
    before = label.get_window_extent().x0
    assert before > 0
    for _ in range(2):
        figure.savefig(tmp_path / "map.png")
    assert label.get_window_extent().x0 == before


def test_a_picture_named_like_its_figure_is_not_named_twice():
    picture = Lines("Loss", STEPS, {"train": np.ones(9)})
    assert words(drawn(picture, title="Loss and more")).count("Loss") == 1
    assert all("Loss" not in text.split("\n")[1:] for text in words(drawn(picture, title="Loss")))
    assert words(drawn(picture, title="Loss")).count("Loss") == 0


@pytest.mark.parametrize("evolving", ["curves", "bars"])
def test_step_0_stands_at_the_begin_of_a_logarithmic_axis_and_is_named(evolving):
    """It takes a small part of the room, and beyond the first step after it equal factors take equal room."""
    steps = np.array([0, 20, 200, 2000])
    values = np.array([5.0, 4, 3, 2])
    if evolving == "curves":
        ax = drawn(Lines("Measure", steps, {"m": values}, log_x=True)).axes[0]
        np.testing.assert_array_equal(ax.lines[0].get_xdata(), steps)
        np.testing.assert_array_equal(ax.lines[0].get_ydata(), values)
    else:
        ax = drawn(Bars("Spectrum", steps, {"norm": values[:, None] * np.ones(3)}, "123", "k")).axes[0]
        assert ax.collections[0].get_array().shape == (3, 4)
    left, right = ax.get_xlim()
    assert left <= 0
    assert right >= 2000
    at = ax.transData.transform(np.stack([steps, np.ones(4)], axis=1))[:, 0]
    first, second, third = np.diff(at)
    assert second == pytest.approx(third)
    assert first == pytest.approx(START * (at[-1] - at[0]))
    ticks = {label.get_text() for label in ax.get_xticklabels()}
    assert {"0", "100", "1,000"} <= ticks
    assert ax.get_xlabel() == "step (linear up to 20, then log)"


def test_an_axis_without_a_step_0_is_logarithmic_throughout_and_one_of_two_steps_linear():
    assert [log_from(np.array(x)) for x in ([0, 5, 7], [3, 9], [0, 4], [0], [6])] == [5, 3, None, None, None]
    assert drawn(Lines("Measure", np.array([3, 9]), {"m": np.ones(2)}, log_x=True)).axes[0].get_xscale() == "log"
    assert drawn(Lines("Measure", np.array([0, 4]), {"m": np.ones(2)}, log_x=True)).axes[0].get_xscale() == "linear"
    assert [log_label("P", x) for x in ([0, 5_000, 7_000], [3, 9], [0, 4])] == [
        "P (linear up to 5,000, then log)",
        "P",
        "P",
    ]


@pytest.mark.parametrize("steps", [[0, 300, 400, 500, 600], [600, 700, 800, 900], [11, 80, 150], [0, 1, 2], [4, 5]])
def test_a_logarithmic_axis_has_numbers_however_few_steps_it_spans(steps):
    values = np.linspace(0.6, 0.7, len(steps))
    figure = drawn(Lines("Measure", np.array(steps), {"m": values[None]}, log_x=True, log_y=True))
    check_legible(figure)
    (ax,) = figure.axes
    for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
        shown = [tick for tick in axis.get_major_ticks() if limits[0] <= tick.get_loc() <= limits[1]]
        assert len([tick for tick in shown if tick.label1.get_text()]) >= 2
