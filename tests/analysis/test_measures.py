"""A measure is declared once; JSON, tables and curves follow from the declaration."""

import numpy as np

from jaxadd.analysis import measures
from jaxadd.analysis.measures import Measure
from jaxadd.pictures import Span

DECLARED = (
    Measure("loss", "mean loss", "nats", lambda s: s["x"], panel="loss", label="the loss"),
    Measure("size", "sum of squares", "sum", lambda s: 2 * s["x"], panel="sizes"),
    Measure("of_head", "of each head", "fraction", lambda s: np.full((1, 2), s["x"]), entry=lambda i, h: f"L{i}H{h}"),
    Measure(
        "of_part", "by part", "sum", lambda s: {"a": s["x"]}, entry=lambda name: f"part.{name}", comparable=False
    ),
    Measure("absent", "of another model", "sum", lambda s: s["y"], applies=lambda model: model == "large"),
)


def values(x):
    return measures.compute(DECLARED, {"x": x}, "small")


def test_what_does_not_apply_to_a_model_is_left_out():
    assert values(1.0).keys() == {"loss", "size", "of_head", "of_part"}
    assert measures.compute(DECLARED, {"x": 1.0, "y": 3.0}, "large")["absent"] == 3


def test_every_entry_has_a_name_of_its_own_in_the_order_declared():
    assert measures.flat(DECLARED, values(1.5)) == {
        "loss": 1.5,
        "size": 3.0,
        "L0H0": 1.5,
        "L0H1": 1.5,
        "part.a": 1.5,
    }
    declared = measures.explained(DECLARED, ["L0H1", "part.a", "unknown"], values(1.5))
    assert {name: measure.name for name, measure in declared.items()} == {"L0H1": "of_head", "part.a": "of_part"}


def test_entries_along_an_axis_have_the_names_of_the_task():
    along = Measure("size_of", "", "sum", lambda s: [1, s["x"]], entry=lambda name: f"size.{name}", axis="element")
    computed = measures.compute((along,), {"x": 2.0}, "small")
    axes = {"element": ("(0, 1)", "(1, 0)")}
    assert measures.flat((along,), computed, axes) == {"size.(0, 1)": 1, "size.(1, 0)": 2}
    assert measures.explained((along,), ["size.(1, 0)"], computed, axes) == {"size.(1, 0)": along}


def test_tables_list_one_lane_and_the_median_of_all_where_they_may_be_compared():
    lanes = [measures.flat(DECLARED, values(x)) for x in (1.0, 2.0, np.nan)]
    declared = measures.explained(DECLARED, lanes[0], values(1.0))
    table = measures.table("Title", lanes, 0, "seed 5", declared)
    assert table.columns == ("measure", "seed 5", "all 3 seeds, median (range)", "unit", "definition")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["loss"] == ("1", "1.5 (1 to 2), 2 of 3 defined", "nats", "mean loss")
    assert rows["part.a"][1] == ""
    alone = measures.table("Title", lanes[2:], 0, "seed 5", declared)
    assert alone.rows[0] == ("loss", "not defined", "nats", "mean loss")
    assert measures.over_lanes([np.nan, np.inf]) == "not defined"
    assert measures.over_lanes([2.0, 2.0]) == "2"


def test_measures_with_a_panel_become_curves_over_lanes():
    over = [{name: np.full(4, x) for name in ("loss", "size")} for x in (1.0, 2.0)]
    spans = [Span(0, 2, "early")]
    loss, sizes = measures.curves(DECLARED, np.arange(4), over, spans)
    assert (loss.title, sizes.title) == ("loss", "sizes")
    np.testing.assert_array_equal(loss.series["the loss"], [[1] * 4, [2] * 4])
    assert (loss.ylabel, loss.log_y, sizes.ylabel, sizes.log_y) == ("nats", True, "sum", False)
    assert loss.spans == spans
