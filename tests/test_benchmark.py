"""The benchmark runs, and tells what does not fit."""

import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxadd.cli.commands import benchmark
from jaxadd.cli.commands.benchmark import Benchmark
from jaxadd.lanes import take
from jaxadd.training.loop import fit
from jaxadd.training.trainer import Trainer


def test_lanes_side_by_side_are_timed_and_drawn(tiny, tmp_path, capsys, monkeypatch):
    chunk = Trainer.chunk

    def refusing(self, *arguments):
        if self.places.count > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return chunk(self, *arguments)

    monkeypatch.setattr(Trainer, "chunk", refusing)
    monkeypatch.setattr(benchmark, "_product", lambda n: lambda: None)
    monkeypatch.setitem(sys.modules, "torch", None)  # As where it is not installed.
    config = Benchmark(repeats=1, steps=2, lanes=(1, 2, 3), figure=tmp_path / "time.png")
    benchmark._side_by_side(replace(tiny, seeds=(0,)), config)
    said = capsys.readouterr().out
    rows = {line.partition("  ")[0]: line.split() for line in said.splitlines()}
    assert float(rows["jaxadd, 1 at once"][4].replace(",", "")) > 0
    assert float(rows["jaxadd, 2 at once"][4].replace(",", "")) > 0
    assert "jaxadd, 3 at once do not fit the memory" in said
    assert "torch is not installed" in said
    assert (tmp_path / "time.png").stat().st_size > 1000


def test_rows_of_a_step_do_what_they_say(tiny):
    trainer = Trainer(replace(tiny, seeds=(0,), steps=20))
    bare = benchmark._without_lanes(trainer, 20)()
    lane = take(fit(trainer).state.params, 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), bare, lane)
    for make in (benchmark._without_lanes, benchmark._plain, benchmark._batches, benchmark._measures):
        function = make(trainer, 2)
        function()
        function()  # What one call gives away, the next must not need.
    for every in (1, 10**9):
        function = benchmark._chunk(trainer, 3, every)
        function()
        function()


@pytest.mark.parametrize("words", [("--lanes", "0", "8"), ("--steps", "65"), ("--repeats", "0")])
def test_numbers_out_of_range(shell, words):
    status, _, error = shell("benchmark", *words)
    assert status == 2
    assert f"{words[0]} must be from 1 to" in error


def test_a_figure_needs_lanes(shell):
    status, _, error = shell("benchmark", "--figure", "time.png")
    assert status == 2
    assert "--figure draws the times of --lanes" in error
