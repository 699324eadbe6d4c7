"""`jaxadd benchmark`: its rows do what they say, and what does not fit or is not there is said."""

import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxadd.cli import other_version, timing
from jaxadd.cli.commands import benchmark
from jaxadd.cli.commands.benchmark import Options
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.tasks import Addition
from jaxadd.training.loop import fit
from jaxadd.training.trainer import Trainer


def test_lanes_side_by_side_are_timed_and_drawn(tiny, tmp_path, capsys, monkeypatch):
    chunk = Trainer.chunk

    def refusing(self, *arguments):
        if self.slots.size > 2:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes")
        return chunk(self, *arguments)

    monkeypatch.setattr(Trainer, "chunk", refusing)
    monkeypatch.setattr(timing, "product", lambda n, precision: lambda: None)
    monkeypatch.setitem(sys.modules, "torch", None)  # As where it is not installed.
    options = Options(repeats=1, steps=2, lanes=(1, 2, 3), figure=tmp_path / "time.png")
    benchmark.side_by_side(replace(tiny, seeds=(0,)), options)
    out = capsys.readouterr().out
    rows = {line.partition("  ")[0]: line.split() for line in out.splitlines()}
    assert float(rows["jaxadd, 1 at once"][4].replace(",", "")) > 0
    assert float(rows["jaxadd, 2 at once"][4].replace(",", "")) > 0
    assert "jaxadd, 3 at once do not fit the memory" in out
    assert "torch is not installed" in out
    assert (tmp_path / "time.png").stat().st_size > 1000


def test_rows_of_a_step_do_what_they_say(tiny):
    trainer = Trainer(replace(tiny, seeds=(0,), steps=20))
    bare = timing.without_lanes(trainer, 20)()
    lane = take(fit(trainer).state.params, 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), bare, lane)
    for make in (timing.without_lanes, timing.plain_steps, timing.batches, timing.measures):
        function = make(trainer, 2)
        function()
        function()  # What one call gives away, the next must not need.
    for every in (1, 10**9):
        function = timing.chunk(trainer, 3, every)
        function()
        function()


def test_a_table_of_one_network_compares_the_same_rows_only(tiny, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    times = {
        "machine: 2048³ float32 product (GFLOP/s)": 0.1,
        "jaxadd: train step": 0.01,
        "jaxadd: train step + full test loss": 0.02,
        "PyTorch eager: train step": 0.04,
    }
    quartiles = {name: np.array([0.9, 1, 1.1]) * value for name, value in times.items()}
    benchmark.print_table(quartiles, 10**9, peers=("PyTorch eager", "None"))
    lines = capsys.readouterr().out.splitlines()[1:]
    assert lines[0].split()[-1] == "172"  # 2 · 2048³ / 0.1 s
    assert lines[1].split()[-4:] == ["5.8", "ms", "(1.00", "GFLOP)"]
    assert lines[2].endswith("10 ms (quartiles 9 to 11)   4× as fast as PyTorch eager: train step")
    assert lines[3].endswith("20 ms (quartiles 18 to 22)")


OTHER = {
    "tasks.py": "class Addition: pass",
    "config.py": "RunConfig = dict",
    "train.py": """
import collections

State = collections.namedtuple("State", ["step"])
Placed = collections.namedtuple("Placed", ["state"])


class Trainer:
    def __init__(self, config):
        assert config["task"].__class__.__name__ == "Addition"

    def init(self):
        return State(0)

    def place(self, state):
        return Placed(state)

    def chunk(self, placed, start, count, eval_every):
        assert (int(placed.state.step), start, count) == (1, 1, 3)
        return Placed(State(start + count)), {}
""",
}


def test_steps_of_another_version_are_made_in_a_process_of_its_own(tmp_path):
    with pytest.raises(UserError, match="has no folder jaxadd"), other_version.chunk(tmp_path, "Addition", 3):
        pass
    (tmp_path / "jaxadd").mkdir()
    for name, text in ({"__init__.py": ""} | OTHER).items():
        (tmp_path / "jaxadd" / name).write_text(text)
    with other_version.chunk(tmp_path, "Addition", 3) as steps:
        steps()
        steps()
    with (
        other_version.chunk(tmp_path, "Modular", 3) as steps,
        pytest.raises(UserError, match="no attribute 'Modular'"),
    ):
        steps()


def test_torch_makes_the_steps_of_both_tasks(tiny):
    pytest.importorskip("torch")
    from jaxadd.cli import torch_peer

    task = Addition(digits=2, batch_size=8, test_examples=8)
    for config in (
        replace(tiny, seeds=(0,)),
        replace(tiny, seeds=(0,), task=task, model=Transformer(d_model=16, heads=2)),
    ):
        steps, evaluate = torch_peer.transcription(Trainer(config))
        steps(2)
        evaluate()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--lanes", 0, 8), "--lanes must be from 1 to"),
        (("--steps", 65), "--steps must be from 1 to"),
        (("--repeats", 0), "--repeats must be from 1 to"),
        (("--figure", "time.png"), "--figure draws the times of --lanes"),
        (("--lanes", 2, "--beside", "elsewhere"), "leave --lanes out"),
    ],
)
def test_options_that_cannot_be(shell, words, message):
    status, _, error = shell("jaxadd", "benchmark", *words)
    assert status == 2
    assert error == f"error: {error[7:-1]}\n"
    assert message in error
