"""What sweeps consist of: axes, designs, structures and parts."""

from dataclasses import replace

import numpy as np
import pytest

from jaxadd import sweeps
from jaxadd.config import hyper
from jaxadd.sweeps import Axis, Sweep, axis_of
from jaxadd.sweeps.design import lanes_of_part
from jaxadd.tasks import Addition


def test_a_grid_is_every_combination_and_structure_is_compiled_once(base):
    sweep = Sweep(base, (Axis("task.train_fraction", (0.5, 0.6)), Axis("optimizer.lr", (1e-2, 1e30))))
    planned = sweeps.structures(sweep)
    assert [s.config.task.train_fraction for s in planned] == [0.5, 0.6]
    lanes = [lane for structure in planned for lane in structure.lanes]
    assert [lane.number for lane in lanes] == list(range(12))
    assert len({(lane.seed, *lane.setting.values()) for lane in lanes}) == 12
    config = planned[1].part(planned[1].lanes)
    assert config.seeds == (0, 1, 2, 0, 1, 2)
    np.testing.assert_allclose(hyper(config).optimizer.lr, [1e-2] * 3 + [1e30] * 3)
    np.testing.assert_allclose(hyper(config).optimizer.b1, [0.9] * 6)


def test_structure_that_varies_fastest_is_still_compiled_once(base):
    planned = sweeps.structures(Sweep(base, (Axis("optimizer.lr", (1e-3, 1e-2)), Axis("task.p", (5, 7)))))
    assert [s.config.task.p for s in planned] == [5, 7]
    assert [len(s.lanes) for s in planned] == [6, 6]


def test_a_list_goes_through_axes_together(base):
    axes = (Axis("optimizer.lr", (1.0, 2.0)), Axis("init_scale", (3.0, 4.0)))
    settings = Sweep(base, axes, "list").settings()
    assert settings == [{"optimizer.lr": 1.0, "init_scale": 3.0}, {"optimizer.lr": 2.0, "init_scale": 4.0}]


@pytest.mark.parametrize("more", [{}, {"values": (1.0,), "low": 3.0}, {"values": (1.0,), "log": True}, {"low": 1.0}])
def test_an_axis_is_values_or_a_range(more):
    with pytest.raises(ValueError, match="needs values, or low and high of a range"):
        Axis("optimizer.lr", **more)


def test_a_random_design_stays_in_its_ranges_and_is_repeatable(base):
    axes = (Axis("optimizer.lr", low=1e-4, high=1e-1, log=True), Axis("optimizer.b1", (0.8, 0.9)))
    settings = Sweep(base, axes, "random", points=200).settings()
    assert settings == Sweep(base, axes, "random", points=200).settings()
    rates = np.array([s["optimizer.lr"] for s in settings])
    assert rates.min() > 1e-4
    assert rates.max() < 1e-1
    assert np.median(np.log10(rates)) == pytest.approx(-2.5, abs=0.3)
    assert {s["optimizer.b1"] for s in settings} == {0.8, 0.9}
    whole = Sweep(base, (Axis("task.p", low=5, high=40),), "random", points=9).settings()
    assert len({s["task.p"] for s in whole}) == 9
    assert all(type(s["task.p"]) is int for s in whole)


@pytest.mark.parametrize(
    ("axes", "more", "said"),
    [
        ([Axis("optimizer.weigth_decay", (1,))], {}, r"did you mean optimizer\.weight_decay\?"),
        ([Axis("optimizer.speed", (1,))], {}, "lanes can differ in init_scale, optimizer.lr.*structure, .*task.p"),
        ([Axis("seeds", (1,))], {}, "no axis can be named seeds"),
        ([Axis("optimizer", ("SGD",))], {}, "no axis can be named optimizer"),
        ([Axis("steps", (1,))], {}, "no axis can be named steps"),
        ([Axis("stop.threshold", (1.0,))], {}, "no axis can be named stop.threshold"),
        ([Axis("task.split_seed", low=1, high=9)], {"design": "random", "points": 2}, "is not a number"),
        ([Axis("optimizer.lr", (-1.0,))], {}, "AdamW.lr must be a number at least 0"),
        ([Axis("task.p", (1,))], {}, "modulus from 2"),
        ([Axis("optimizer.lr", (1.0,)), Axis("optimizer.lr", (1.0,))], {}, "named once"),
        (
            [Axis("optimizer.lr", (1.0,)), Axis("init_scale", (1.0, 2.0))],
            {"design": "list"},
            "the same number of values",
        ),
        ([Axis("optimizer.lr", low=1.0, high=2.0)], {}, "only a random design draws from; set design to random"),
        ([], {"design": "random", "points": 3}, "design is empty"),
        ([Axis("p", (5,))], {}, r"did you mean task\.p\?"),
        ([], {"design": "random"}, "points of at least 1, got 0"),
        ([], {"points": 3}, "only a random design takes points"),
        ([Axis("optimizer.lr", (0.1, 0.1))], {}, "same point twice: optimizer.lr 0.1"),
        ([Axis("optimizer.lr", (0.1, 0.2))], {"design": "random", "points": 3}, "3 different points cannot be drawn"),
        ([Axis("task.p", (5.5,))], {}, "whole numbers"),
        ([Axis("init_scale", (float("nan"),))], {}, "init_scale must be above 0"),
        ([Axis("optimizer.lr", ("a",))], {}, "optimizer.lr takes values such as 0.01, got 'a'"),
        ([Axis("model.heads", (1.5, 2))], {}, "model.heads takes whole numbers, got 1.5"),
        ([Axis("optimizer.lr", low=1, high=2)], {"design": "random", "points": 10**9}, "more than 1,000,000 lanes"),
    ],
)
def test_designs_that_are_none(base, axes, more, said):
    with pytest.raises(ValueError, match=said):
        Sweep(base, tuple(axes), **more)


def test_axes_in_words(base):
    assert axis_of("optimizer.lr=1e-3,0.1", base) == Axis("optimizer.lr", (1e-3, 0.1))
    assert axis_of("task.p=5,7", base) == Axis("task.p", (5, 7))
    assert axis_of("task.train-fraction=.5", base) == Axis("task.train_fraction", (0.5,))
    assert axis_of("task.batch_size=None,8", base) == Axis("task.batch_size", (None, 8))
    assert axis_of("model.activation=relu,gelu", base) == Axis("model.activation", ("relu", "gelu"))
    assert axis_of("init_scale=log:0.1..2", base) == Axis("init_scale", low=0.1, high=2.0, log=True)
    addition = replace(base, task=Addition())
    assert axis_of("task.mixture.uniform=0.5,1", addition) == Axis("task.mixture.uniform", (0.5, 1.0))
    for text in ("task.mixture=a", "model.hidden=8,16"):
        with pytest.raises(ValueError, match="no axis can be named"):
            axis_of(text, addition)
    for text in ("optimizer.lr", "optimizer.lr=", "optimizer.lr=fast", "speed=1", "optimizer.lr=2..1"):
        with pytest.raises(ValueError, match=r"speed|written|not a number|ascend"):
            axis_of(text, base)


def test_parts_are_dealt_from_every_structure(base):
    planned = sweeps.structures(Sweep(base, (Axis("task.p", (5, 7, 11)), Axis("optimizer.lr", (1e-3, 1e-2)))))
    for parts in range(1, 19):
        dealt = [lanes_of_part(planned, i, parts) for i in range(parts)]
        assert sorted(i for part in dealt for i in part) == list(range(18))
        assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
        for structure in planned:
            own = {lane.number for lane in structure.lanes}
            counts = [len(part & own) for part in dealt]
            assert max(counts) - min(counts) <= 1
