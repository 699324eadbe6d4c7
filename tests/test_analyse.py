"""The commands that analyse: on a tiny run and on a checkpoint written from it."""

import json
import sys

import chex
import jax
import optax
import pytest

from jaxadd import interop, subjects
from jaxadd.cli import experiment
from jaxadd.cli.commands import analyse, export, hypotheses
from jaxadd.config import RunConfig
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.runs import train
from jaxadd.tasks import Addition, Modular
from jaxadd.training.trainer import Trainer
from jaxadd.views import terminal


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "tiny"
    train.train(Trainer(tiny), folder, note=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def addition(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "addition"
    task = Addition(digits=2, batch_size=16, test_examples=16, cascade_examples=4)
    config = RunConfig(task, Transformer(d_model=16, heads=2, d_mlp=16), steps=4, eval_every=2, checkpoint_every=2)
    train.train(Trainer(config), folder, note=lambda _: None)
    return folder


def call(monkeypatch, module, *arguments):
    monkeypatch.setattr(sys, "argv", ["-", *map(str, arguments)])
    options = getattr(module, module.__name__.rpartition(".")[2].capitalize())
    return experiment.command(module.__name__, options, module.main)


def test_a_run_and_its_checkpoint_give_the_same_numbers(folder, tiny, tmp_path, monkeypatch):
    assert call(monkeypatch, analyse, folder, "--seed", 1) == 0
    ours = json.loads((folder / "analysis" / "analysis.json").read_text())
    record = train.load(folder)
    lane = jax.tree.map(lambda w: w[1], terminal.final_params(Trainer(tiny), record))
    path = tmp_path / "network.pth"
    interop.write(path, lane)
    out = tmp_path / "out"
    flags = ("--p", 7, "--train-fraction", 0.6, "--split-seed", 1, "--out", out)
    assert call(monkeypatch, analyse, path, *flags) == 0
    theirs = json.loads((out / "analysis.json").read_text())
    assert ours["test_loss"] == pytest.approx(record.summary["lanes"][1]["final_test_loss"], rel=1e-4)
    assert {k for k in ours if not k.startswith("phase")} == set(theirs)
    for name, value in theirs.items():
        if isinstance(value, float):
            assert value == pytest.approx(ours[name], rel=1e-4, abs=1e-6), name
    assert (out / "figures" / "attention.png").stat().st_size > 1000
    assert (folder / "analysis" / "figures" / "measures.png").stat().st_size > 1000
    for page in (folder / "analysis" / "report.html", out / "report.html"):
        assert "Who writes the correct logit" in page.read_text()
    assert "all 2 seeds, median (range)" in (folder / "analysis" / "findings.txt").read_text()


def test_addition_is_mapped_and_its_claims_are_tested(addition, monkeypatch, capsys):
    assert call(monkeypatch, analyse, addition) == 0
    assert "L0H1" in capsys.readouterr().out
    numbers = json.loads((addition / "analysis" / "analysis.json").read_text())
    assert "damage.L0H0 at =.A2" in numbers
    assert "Confusion" in (addition / "analysis" / "report.html").read_text()
    assert call(monkeypatch, hypotheses, addition) == 0
    assert "a head carries column 1's sum" in (addition / "hypotheses" / "findings.txt").read_text()


def test_a_checkpoint_of_another_target_and_order_says_what_it_is(tmp_path, monkeypatch):
    task = Addition(digits=2, target="parallel", answer_order="lsd")
    sizes = task.sizes
    params = Transformer(d_model=16, heads=2, d_mlp=0).build(sizes).init(jax.random.key(0))
    path, out = tmp_path / "network.pth", tmp_path / "out"
    interop.write(path, params)
    flags = ("--task", "addition", "--digits", 2, "--target", "parallel", "--answer-order", "lsd", "--out", out)
    assert call(monkeypatch, analyse, path, *flags) == 0
    numbers = json.loads((out / "analysis.json").read_text())
    assert list(numbers)[:3] == [f"damage.L0H0 at =.A{k}" for k in range(3)]  # Units first, of which = is read.
    assert "damage.L0H1 at ? A1.A2" in numbers


def test_keys_are_those_of_the_logits_where_there_are_no_neurons(tmp_path, monkeypatch, capsys):
    params = Transformer(d_model=16, heads=2, d_mlp=0).build(Modular(p=7).sizes).init(jax.random.key(0))
    path, out = tmp_path / "network.pth", tmp_path / "out"
    interop.write(path, params)
    assert call(monkeypatch, analyse, path, "--p", 7, "--out", out) == 0
    assert "Key frequencies by logits" in (out / "report.html").read_text()
    assert call(monkeypatch, analyse, path, "--p", 7, "--keys", "neurons", "--out", out) == 2
    assert "use logits or embedding" in capsys.readouterr().err


def test_a_step_of_a_run_is_what_was_saved_there(folder, tiny):
    subject = subjects.from_run(folder, 20, history=True)
    assert subject.steps.tolist() == [0, 10, 20]
    assert subject.history["unembed"]["W_U"].shape[:2] == (2, 3)
    assert (subject.history["unembed"]["W_U"][:, -1] == subject.params["unembed"]["W_U"]).all()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--step", 15), "was not saved; there are 0, 10, 20"),
        (("--seed", 2), "has no seed 2; it has 0, 1"),
    ],
)
def test_what_is_not_there_is_said(folder, monkeypatch, capsys, flags, words):
    assert call(monkeypatch, analyse, folder, *flags) == 2
    assert words in capsys.readouterr().err


def test_a_checkpoint_of_another_task_is_refused(tmp_path):
    path = tmp_path / "network.pth"
    model = Transformer(d_model=8, heads=1, d_mlp=8).build(Modular(p=5, train_fraction=0.5).sizes)
    interop.write(path, model.init(jax.random.key(0)))
    with pytest.raises(ValueError, match="set its flags"):
        subjects.from_checkpoint(path, Modular(p=7))


def test_an_export_is_read_back_with_its_optimizer(folder, tiny, tmp_path, monkeypatch, capsys):
    path = tmp_path / "network.pth"
    assert call(monkeypatch, export, folder, path, "--seed", 1, "--step", 20, "--optimizer") == 0
    assert "step 20" in capsys.readouterr().out
    state = take(train.state(folder, Trainer(tiny), 20), 1)
    read = interop.read(path)
    chex.assert_trees_all_equal(read.params, jax.device_get(state.params))
    assert (read.optimizer.step, read.optimizer.settings["lr"]) == (20, 1e-2)
    chex.assert_trees_all_equal(read.optimizer.nu, jax.device_get(optax.tree.get(state.opt_state, "nu")))
    assert call(monkeypatch, export, folder, path, "--step", 15) == 2
    assert "was not saved" in capsys.readouterr().err
