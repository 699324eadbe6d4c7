"""The page: one file that needs nothing else, says what was given, and works in a browser."""

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba
from needs import need

from jaxadd.errors import UserError
from jaxadd.pictures import START, Bars, FigureOf, HeatMaps, Histogram, Level, Lines, Span, Table, Text
from jaxadd.views import colours, html
from jaxadd.views.figures import render, style

VOID = {"meta", "link", "input"}
HOSTILE = "</script><script>alert('1')</script>&amp; \" \u2028 µ"


class Checker(HTMLParser):
    """Follow the elements that are open, and gather what the page says and fetches."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.data, self.links, self.text = [], [], "", [], ""

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.seen.append((tag, attrs))
        self.links += [v for k, v in attrs.items() if k in ("src", "href")]
        if tag not in VOID:
            self.open.append((tag, attrs))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        if self.open and self.open[-1][1].get("id") == "data":
            self.data += data
        elif self.open and self.open[-1][0] not in ("script", "style"):
            self.text += data


def parsed(blocks, title="A title"):
    checker = Checker()
    checker.feed(html.render(title, "below", blocks))
    assert not checker.open
    return checker, json.loads(checker.data)


def unpacked(packed):
    if "float32" in packed:
        return np.frombuffer(base64.b64decode(packed["float32"]), "<f4").reshape(packed["shape"])
    whole = np.frombuffer(base64.b64decode(packed["uint16"]), "<u2").reshape(packed["shape"])
    return np.where(whole == 65_535, np.nan, packed["low"] + packed["scale"] * whole.astype(float))


STEPS = np.array([0, 100, 400])
BLOCKS = [
    Text("Words", ["one", HOSTILE]),
    Lines(
        "Curves",
        np.arange(50),
        {"train": np.geomspace(1, 1e-8, 50), "test": np.stack([np.full(50, np.nan), np.linspace(2, 1, 50)])},
        "nats",
        log_y=True,
        levels=[Level(0.5, "floor")],
        spans=[Span(0, 10, "early"), Span(5, 20, "plateau", 0.3)],
        behind={"raw": np.geomspace(1, 1e-8, 50)},
    ),
    HeatMaps(
        "Maps",
        STEPS,
        {"L0H0": np.arange(18, dtype=float).reshape(3, 2, 3), "L0H1": np.full((3, 2, 3), np.nan)},
        ["r0", "r1"],
        ["c0", "c1", HOSTILE],
        xlabel="to",
        ylabel="from",
        note="A note.",
    ),
    HeatMaps("Still", [400], {"only": np.array([[[-1.0, 2.0]]])}, ["row"], ["x", "y"], diverging=True, numbers=True),
    Bars("Bars", STEPS[1:], {"norms": np.array([[1.0, 2, 3], [3, 2, 1]])}, ["0", "1", "2"], "k", highlight=["1"]),
    Table("Cells", ["measure", "value"], [("loss", "1.5e-7"), (HOSTILE, "none")]),
    FigureOf(
        "several",
        "Several pictures",
        [
            Histogram("Counts", np.linspace(0, 1, 5), {"none: 3": np.array([1, 2, 0, 0]), "k = 5": np.ones(4)}, "x"),
            HeatMaps("Kinds", [0], {"kinds": np.array([[[0.0, 1], [1, 1]]])}, "ab", "cd", categories=("no", "yes")),
            HeatMaps("Images", [0], {"3 read as 8": np.eye(4)[None]}, (), (), limits=(0, 1)),
            HeatMaps(
                "Losses", [0], {"loss": np.array([[[1e-9, 0, 3]]])}, "r", "xyz", log=True, marks=[Level(1, "m")]
            ),
            Lines(
                "Parts", STEPS, {"a": [0.2, 0.5, 0.9], "b": [0.8, 0.5, 0.1]}, log_x=True, ylim=(0, 1), stacked=True
            ),
            Lines("Lengths", STEPS, {f"over {n}": np.full(3, n) for n in range(5)}, ordered=True),
        ],
        note="Of one figure.",
    ),
]


def test_it_is_one_well_formed_file_that_fetches_nothing():
    checker, data = parsed(BLOCKS)
    assert all(link.startswith("#") or link == "data:," for link in checker.links)
    text = html.render("t", "s", BLOCKS)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|eval\(|innerHTML", text)
    assert data["steps"] == [0, 100, 400]
    assert [tag for tag, _ in checker.seen].count("section") == len(BLOCKS)
    assert len(data["pictures"]) == 10
    numbered = [attrs["data-picture"] for _, attrs in checker.seen if "data-picture" in attrs]
    assert numbered == [str(i) for i in range(10)]


def test_every_picture_of_a_figure_is_there_with_its_title_and_notes():
    checker, data = parsed(BLOCKS)
    kinds = [picture["kind"] for picture in data["pictures"]]
    assert kinds == ["Lines", "HeatMaps", "HeatMaps", "Bars", "Histogram", *["HeatMaps"] * 3, "Lines", "Lines"]
    for words in ("Several pictures", "Of one figure.", "Counts", "Kinds", "Images", "Losses", "Parts", "A note."):
        assert words in checker.text
    histogram, categories, image, logarithmic, stacked, ordered = data["pictures"][4:]
    assert histogram["edges"] == [0, 0.25, 0.5, 0.75, 1]
    np.testing.assert_array_equal(unpacked(histogram["counts"][0]), [1, 2, 0, 0])
    assert categories["categories"] == ["no", "yes"]
    assert (image["row_labels"], image["column_labels"]) == ([], [])
    assert (logarithmic["log"], logarithmic["marks"]) == (True, [[1, "m"]])
    assert (stacked["stacked"], stacked["ylim"], ordered["ordered"]) == (True, [0, 1], True)
    assert (stacked["axis"], ordered["axis"]) == ("step (linear up to 100, then log)", "step")
    assert (stacked["log_x"], ordered["log_x"]) == ({"from": 100, "start": START}, None)
    assert data["pictures"][0]["levels"] == [[0.5, "floor"]]
    assert data["pictures"][0]["spans"] == [[0, 10, "early", None], [5, 20, "plateau", 0.3]]


def test_lanes_are_drawn_as_their_median_between_the_outermost():
    lanes = np.array([[1.0, 2, np.nan, np.nan], [3, 4, 5, np.nan], [5, 9, 7, 8]])
    _, data = parsed([Lines("Lanes", np.arange(4), {"test": lanes})])
    (series,) = data["pictures"][0]["series"]
    # A lane that ended keeps its last value.
    np.testing.assert_array_equal(unpacked(series), [[1, 2, 2, 2], [3, 4, 5, 5], [5, 9, 7, 8]])
    assert (series["lanes"], series["colour"]) == (3, 1)


def test_of_a_long_curve_the_extremes_and_what_is_measured_now_and_then_are_kept():
    x = np.arange(100_000)
    loss, rare = np.ones(len(x)), np.full(len(x), np.nan)
    loss[[31_337, 77_777]] = 1e3, 1e-9
    rare[::10_000] = x[::10_000]
    _, data = parsed([Lines("Long", x, {"train": loss, "test": rare}, log_y=True)])
    (picture,) = data["pictures"]
    steps, (train, test) = unpacked(picture["x"]), (unpacked(packed)[1] for packed in picture["series"])
    assert len(steps) < 12_000
    assert steps[0] == 0
    assert steps[-1] == x[-1]
    assert train[steps == 31_337] == np.float32(1e3)
    assert train[steps == 77_777] == np.float32(1e-9)
    np.testing.assert_array_equal(test[np.isfinite(test)], x[::10_000])


def test_numbers_come_back_and_hostile_words_stay_words():
    checker, data = parsed(BLOCKS, title=HOSTILE)
    assert [tag for tag, _ in checker.seen].count("script") == 2
    assert checker.text.count(HOSTILE) == 4  # the title twice, a paragraph, a cell
    assert data["pictures"][1]["column_labels"][2] == HOSTILE
    np.testing.assert_array_equal(unpacked(data["pictures"][1]["frames"][0]), BLOCKS[2].frames["L0H0"])
    np.testing.assert_array_equal(unpacked(data["pictures"][1]["frames"][1]), BLOCKS[2].frames["L0H1"])
    np.testing.assert_array_equal(
        unpacked(data["pictures"][0]["series"][0])[1], BLOCKS[1].series["train"].astype(np.float32)
    )


@pytest.mark.parametrize("special", [np.nan, np.inf])
def test_large_arrays_keep_their_numbers_to_a_part_of_their_range(special):
    values = np.random.default_rng(0).normal(size=(20, 60, 60)).astype(np.float32)
    values[3, 4, 5] = special
    _, data = parsed([HeatMaps("Large", np.arange(20), {"x": values}, range(60), range(60))])
    packed = data["pictures"][0]["frames"][0]
    assert ("uint16" in packed) == np.isnan(special)  # Infinity has no place in it.
    span = np.ptp(values[np.isfinite(values)])
    np.testing.assert_allclose(unpacked(packed), values, rtol=0, atol=span / 65_534 * 0.51)


def test_constant_large_arrays_come_back():
    frames = np.full((2, 200, 200), 2.5)
    _, data = parsed([HeatMaps("Flat", [0, 1], {"x": frames}, range(200), range(200))])
    assert "uint16" in data["pictures"][0]["frames"][0]
    np.testing.assert_array_equal(unpacked(data["pictures"][0]["frames"][0]), 2.5)


def test_without_frames_there_is_no_slider():
    checker, data = parsed([BLOCKS[0], BLOCKS[3]])
    assert data["steps"] == []
    assert "step" not in [attrs.get("id") for _, attrs in checker.seen]


def test_colours_are_those_of_the_figures_and_stated_once(monkeypatch):
    """Another colour of heat maps is one change in `views.colours`, and no renderer has one of its own."""
    _, data = parsed(BLOCKS)
    assert data["colours"]["light"]["sequential"] == list(colours.SEQUENTIAL)
    for scale, stated in ((style.sequential(), colours.SEQUENTIAL), (style.diverging(), colours.DIVERGING)):
        at = scale(np.linspace(0, 1, len(stated)))
        np.testing.assert_allclose(at, [to_rgba(colour) for colour in stated], atol=0.02)
    (figure,) = [render(FigureOf("f", "f", [BLOCKS[2]]))]
    absent = figure.axes[1].get_facecolor()
    assert absent == to_rgba(colours.ABSENT)
    assert f"--absent: {colours.ABSENT};" in html.render("t", "s", BLOCKS)
    stated = {
        colour
        for value in vars(colours).values()
        for colour in ((value,) if isinstance(value, str) else value if isinstance(value, tuple) else ())
        if re.fullmatch(r"#[0-9a-f]{6}", colour)
    }
    ours = {"#ffffff", "#000000"}  # paper and ink
    for path in (Path(html.__file__).parent / "page.js", *Path(style.__file__).parent.glob("*.py")):
        assert not (set(re.findall(r"#[0-9a-f]{6}", path.read_text())) & stated) - ours, path


def test_shapes_that_do_not_fit_and_pages_too_large_are_refused(tmp_path, monkeypatch):
    with pytest.raises(AssertionError):
        html.render("t", "s", [BLOCKS[2]._replace(steps=STEPS[:2])])
    monkeypatch.setattr(html, "MAX_BYTES", 1000)
    with pytest.raises(UserError, match="give fewer frames"):
        html.write(tmp_path / "report.html", "t", "s", BLOCKS)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    need("chromium", chromium and driver, "the page in a browser needs chromium and chromedriver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    flags = ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking")
    flags += ("disable-component-update", "disable-sync", "disable-quic", "window-size=1200,900")
    for flag in (*flags, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    yield made
    made.quit()


@pytest.fixture
def opened(browser, tmp_path):
    path = tmp_path / "report.html"
    html.write(path, "A title", "below", BLOCKS)
    browser.get_log("browser")
    browser.get(path.as_uri())
    yield browser
    assert browser.get_log("browser") == []


def point(browser, picture, panel, x, y):
    """Move the mouse to pixel (x, y) of a canvas, and return the lines of the tip, None where it is hidden."""
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    canvas = browser.find_elements(By.CSS_SELECTOR, f"[data-picture='{picture}'] canvas")[panel]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    x, y = x - canvas.size["width"] // 2, y - canvas.size["height"] // 2
    ActionChains(browser).move_to_element_with_offset(canvas, x, y).perform()
    tip = browser.find_element(By.ID, "tip")
    return tip.text.split("\n") if tip.is_displayed() else None


def move_slider(browser, place):
    browser.execute_script(
        "const s = document.getElementById('step'); s.value = arguments[0]; s.dispatchEvent(new Event('input'));",
        place,
    )
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def drawing(browser, picture, panel=0):
    return browser.execute_script(
        f"return document.querySelectorAll(\"[data-picture='{picture}'] canvas\")[{panel}].toDataURL()"
    )


# Numbers of the pictures in BLOCKS.
CURVES, MAPS, STILL, BARS, HISTOGRAM, KINDS, IMAGES, LOSSES, PARTS = range(9)


def test_the_slider_moves_every_picture_that_evolves(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    state = lambda picture: opened.find_element(By.CSS_SELECTOR, f"[data-picture='{picture}'] .state").text
    assert (state(MAPS), state(BARS)) == ("state at step 400", "state at step 400")
    before = {picture: drawing(opened, picture) for picture in (MAPS, STILL, BARS)}
    opened.find_element(By.ID, "step").send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert opened.find_element(By.ID, "shown").text == "0"
    # The bars' first frame is of step 100.
    assert (state(MAPS), state(BARS)) == ("state at step 0", "state at step 100")
    assert [drawing(opened, picture) != before[picture] for picture in before] == [True, False, True]
    assert not opened.find_elements(By.CSS_SELECTOR, f"[data-picture='{STILL}'] .state")
    assert point(opened, MAPS, 0, 100, 10)[-1] == "1"


def test_a_cell_a_bar_and_a_curve_say_what_they_are(opened):
    assert point(opened, STILL, 0, 100, 10) == ["only", "row", "y", "2"]
    assert point(opened, MAPS, 1, 100, 10)[-1] == "none"
    assert point(opened, MAPS, 0, 100, 10) == ["L0H0", "from r0", "to c1", "13"]
    assert point(opened, MAPS, 0, 100, 35) == ["L0H0", "from r1", "to c1", "16"]
    assert point(opened, MAPS, 0, 10, 35) is None
    move_slider(opened, 0)
    assert point(opened, MAPS, 0, 100, 10)[-1] == "1"
    step, train, test = point(opened, CURVES, 0, 500, 100)
    at = int(step.removeprefix("step "))
    assert float(train.split()[1].replace("−", "-")) == pytest.approx(10 ** (-8 * at / 49), rel=2e-3)
    assert test.startswith("test  ")
    assert point(opened, CURVES, 0, 100, 100)[-1] == "early"  # The phase.
    assert point(opened, BARS, 0, 150, 100)[1] == "k 1"


def test_bins_kinds_images_and_logarithms_say_what_they_are(opened):
    from selenium.webdriver.common.by import By

    bins, *counts = point(opened, HISTOGRAM, 0, 300, 100)
    assert bins == "0.25 to 0.5"
    assert counts == ["none  2", "k = 5  1"]
    assert point(opened, KINDS, 0, 30, 15) == ["kinds", "a", "c", "no"]
    legend = [
        one.text.replace("\n", " ")
        for one in opened.find_elements(By.CSS_SELECTOR, f"[data-picture='{KINDS}'] .kinds > span")
    ]
    assert legend == ["1 no", "3 yes"]
    assert point(opened, IMAGES, 0, 5, 5) == ["3 read as 8", "1"]
    assert point(opened, LOSSES, 0, 85, 10)[-1] == "0"
    assert point(opened, LOSSES, 0, 35, 10)[-1] == "1.000e−9"
    # Step 0 is at the left end, step 100 a small part of the axis beyond it, and step 400 at the right end.
    width = opened.find_element(By.CSS_SELECTOR, f"[data-picture='{PARTS}'] canvas").size["width"]
    room = width - 58 - 26
    for x, step, values in (
        (59, "0", ("0.2", "0.8")),
        (58 + round(START * room), "100", ("0.5", "0.5")),
        (58 + room - 2, "400", ("0.9", "0.1")),
    ):
        assert point(opened, PARTS, 0, x, 100) == [f"step {step}", f"a  {values[0]}", f"b  {values[1]}"]


def test_the_legend_hides_a_curve(opened):
    from selenium.webdriver.common.by import By

    before = drawing(opened, CURVES)
    train, _ = opened.find_elements(By.CSS_SELECTOR, f"[data-picture='{CURVES}'] .legend button")
    train.click()
    assert train.get_attribute("aria-pressed") == "false"
    assert drawing(opened, CURVES) != before
    assert len(point(opened, CURVES, 0, 500, 100)) == 2
    train.click()
    assert drawing(opened, CURVES) == before


def test_it_plays_to_the_end_and_follows_theme_and_width(opened):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.wait import WebDriverWait

    play, shown = opened.find_element(By.ID, "play"), opened.find_element(By.ID, "shown")
    play.click()
    assert play.get_attribute("aria-pressed") == "true"
    WebDriverWait(opened, 30).until(lambda _: play.get_attribute("aria-pressed") == "false" and shown.text == "400")
    for width in (420, 1200):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
        assert opened.execute_script("return document.documentElement.scrollWidth") <= width
    light = drawing(opened, MAPS)
    theme = lambda name: {"features": [{"name": "prefers-color-scheme", "value": name}]}
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", theme("dark"))
    opened.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert drawing(opened, MAPS) != light
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", theme("light"))
