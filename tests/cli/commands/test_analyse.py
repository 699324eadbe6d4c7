"""`jaxadd analyse`: a run and a checkpoint give the same numbers, whatever the task; the right seed is named."""

import json
import math
import re
import shutil

import numpy as np
import pytest
from lines import assert_one_line
from networks import drawn

from jaxadd import interop
from jaxadd.cli import output
from jaxadd.cli.commands import analyse
from jaxadd.cli.commands.analyse import finite
from jaxadd.models import Transformer
from jaxadd.runs import load
from jaxadd.tasks import Addition, Group, Modular
from jaxadd.training.trainer import Trainer

TINY = ("--task.p", 7, "--task.train-fraction", 0.6)


@pytest.fixture(scope="module")
def run(complete, tmp_path_factory):
    return load(shutil.copytree(complete, tmp_path_factory.mktemp("runs") / "tiny"))


def untrained(path, task, **architecture):
    """Write the checkpoint of a network with random parameters."""
    config = Transformer(d_model=16, heads=2, **architecture)
    model = config.build(task.sizes)
    interop.write(path, drawn(model), model)
    return path


def numbers(folder):
    return json.loads((folder / "analysis.json").read_text(), parse_constant=pytest.fail)


# What a report of one state has is drawn in tests/analysis/modular/test_modular_report.py, so here what it has not.
DRAWN = ("curves", "attention", "graduation", "single_neurons", "measures")


def test_a_run_and_its_checkpoint_give_the_same_numbers(run, shell, tmp_path, monkeypatch):
    described = []

    def some(figures):
        described.append([figure.name for figure in figures])
        return output.rendered([figure for figure in figures if figure.name in DRAWN])

    monkeypatch.setattr(analyse, "rendered", some)
    status, out, error = shell("jaxadd", "analyse", run.folder, "--seed", 1)
    assert status == 0, error
    folder = run.folder / "analysis"
    ours = numbers(folder)
    path = tmp_path / "network.pth"
    interop.write(path, run.network(1).params, run.network(1).model)
    assert len(set(described[0])) == 18
    assert {path.stem for path in (folder / "figures").iterdir()} == set(DRAWN)
    status, _, error = shell("jaxadd", "analyse", path, *TINY, "--task.split-seed", 1)
    assert status == 0, error
    theirs = numbers(tmp_path / "network-analysis")
    assert ours["test_loss"] == pytest.approx(run.summary["lanes"][1]["final_test_loss"], rel=1e-4)
    over_training = ("phase", "neuron_commitment")  # A file has one state.
    assert {name for name in ours if not name.startswith(over_training)} == set(theirs)
    for name, value in theirs.items():
        if isinstance(value, float):
            assert value == pytest.approx(ours[name], rel=1e-4, abs=1e-6), name
    for result in (folder, tmp_path / "network-analysis"):
        page, text = (result / "report.html").read_text(), (result / "report.txt").read_text()
        assert "seed 1" in page
        assert "seed 0" not in page.partition("<script")[0]
        assert "\nseed 1" in text
        assert (result / "figures" / "attention.png").stat().st_size > 1000
    for line in (f"numbers     {folder / 'analysis.json'}", f"page        {folder / 'report.html'}"):
        assert line in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "seed 0"),
        (("--task.split-seed", 3), "seed 3"),
        (("--seed", 2), "seed 2"),
        (("--seed", 2, "--task.split-seed", 3), "seed 2, split seed 3"),
    ],
)
def test_the_seed_of_a_checkpoint_is_that_of_its_split(shell, tmp_path, monkeypatch, words, said):
    """Only what is said is looked at here."""
    seen = []

    def analyse(trained, lane, keys):
        seen.extend((trained.networks[lane].data.lane["train"], trained.name(lane)))
        raise OSError("enough")

    monkeypatch.setattr("jaxadd.cli.commands.analyse.analyse", analyse)
    path = untrained(tmp_path / "network.pth", Modular(p=7), d_mlp=32)
    assert shell("jaxadd", "analyse", path, *TINY, *words)[0] == 2
    task = Modular(p=7, train_fraction=0.6, split_seed=int(said.split()[-1]))
    np.testing.assert_array_equal(seen[0], task.data((0,)).lane["train"][0])
    assert seen[1] == said


def test_without_a_known_split_nothing_is_said_of_train_and_test(few_figures, shell, tmp_path):
    path, out = untrained(tmp_path / "network.pth", Modular(p=7), d_mlp=32), tmp_path / "out"
    status, printed, error = shell("jaxadd", "analyse", path, "--out", out)
    assert status == 0, error
    assert "the train split is not known" in error
    unknown, text, page = numbers(out), (out / "report.txt").read_text(), (out / "report.html").read_text()
    assert [name for name in unknown if re.search(r"(^|_)(train|test)(_|$)", name)] == []
    assert unknown["all_loss"] > 0
    assert text.startswith("network.pth: a + b mod 7, train split unknown\n")
    for words in (printed, text, page.partition("<script")[0], page.partition('"pictures"')[2]):
        assert not re.search(r"trained on \d|seed 0|test, correct|30 ?%", words)
    # The default of a field counts as known where it was typed.
    status, _, error = shell("jaxadd", "analyse", path, "--task.train-fraction=0.3", "--out", out)
    assert (status, "not known" in error) == (0, False)
    known = numbers(out)
    assert {"train_loss", "test_loss", "excluded_loss_1"} <= known.keys() - unknown.keys()
    assert known["all_loss"] == pytest.approx(unknown["all_loss"])
    assert "a + b mod 7, trained on 30%" in (out / "report.txt").read_text()


def test_a_group_without_a_known_split_is_measured_on_all_pairs(few_figures, shell, tmp_path):
    task, out = Group(name="S3"), tmp_path / "out"
    path = untrained(tmp_path / "network.pth", task, d_mlp=8)
    words = ("--task", "group", "--task.name", "S3", "--out", out)
    assert shell("jaxadd", "analyse", path, *words)[0] == 0
    unknown = numbers(out)
    assert [name for name in unknown if re.search(r"(^|_)(train|test)(_|$)", name)] == []
    assert "a·b in S3, train split unknown" in (out / "report.txt").read_text()
    assert shell("jaxadd", "analyse", path, *words, "--seed", 0)[0] == 0
    assert numbers(out)["all_loss"] == pytest.approx(unknown["all_loss"])
    assert "train_loss" in numbers(out)


def test_an_exported_network_brings_its_split(few_figures, run, shell, tmp_path):
    path, out = tmp_path / "network.pth", tmp_path / "out"
    assert shell("jaxadd", "export", run.folder, path, "--seed", 1)[0] == 0
    status, _, error = shell("jaxadd", "analyse", path, "--out", out)
    assert (status, "not known" in error) == (0, False)
    assert numbers(out)["test_loss"] == pytest.approx(run.summary["lanes"][1]["final_test_loss"], rel=1e-4)


def test_any_task_of_a_checkpoint_is_described_by_its_fields(few_figures, shell, tmp_path):
    task = Addition(digits=2, target="parallel", answer_order="lsd")
    path = untrained(tmp_path / "network.pth", task, d_mlp=0)
    words = ("--task", "addition", "--task.digits", 2, "--task.target", "parallel", "--task.answer-order", "lsd")
    status, _, error = shell("jaxadd", "analyse", path, *words, "--out", tmp_path / "out")
    assert status == 0, error
    measured = numbers(tmp_path / "out")
    effects = [name for name in measured if ".L0H" in name and " at " in name]
    assert [name.partition(" at ")[2] for name in effects[:3]] == [f"=.A{k}" for k in range(3)]  # Units first.
    assert "A1" in (tmp_path / "out" / "report.txt").read_text()


def test_key_frequencies_follow_the_logits_where_there_are_no_neurons(few_figures, shell, tmp_path):
    path, out = untrained(tmp_path / "network.pth", Modular(p=7), d_mlp=0), tmp_path / "out"
    assert shell("jaxadd", "analyse", path, *TINY, "--out", out)[0] == 0
    assert "key frequencies by logits" in (out / "report.txt").read_text()
    assert shell("jaxadd", "analyse", path, *TINY, "--out", out, "--keys", "1,3")[0] == 0
    assert "key frequencies as given: 1, 3" in (out / "report.txt").read_text()
    for keys, message in (
        ("neurons", "needs neurons, and this network has none; use logits or embedding"),
        ("9", "frequenc"),
        ("some", "a rule (neurons, neuron-logit-map, embedding, logits) or frequencies mod 7, which are 1 to 3"),
    ):
        status, _, error = shell("jaxadd", "analyse", path, *TINY, "--keys", keys)
        assert status == 2
        assert_one_line(error, message)


def test_a_network_of_another_kind_says_what_is_not_defined_for_it(few_figures, reading, shell, tmp_path):
    run = shutil.copytree(reading, tmp_path / "run")
    status, out, error = shell("jaxadd", "analyse", run)
    assert status == 0, error
    assert "not defined for MLP networks" in out
    assert numbers(run / "analysis")["test_loss"] > 0
    status, _, error = shell("jaxadd", "analyse", run, "--keys", "3")
    assert status == 2
    assert_one_line(error, "leave --keys out")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--step", 15), "was not saved; there are 0, 10, 20"),
        (("--seed", 2), "has no seed 2; it has 0, 1"),
        (("--task", "addition"), "--task and --activation are for checkpoint files"),
        (("--activation", "gelu"), "--task and --activation are for checkpoint files"),
    ],
)
def test_what_a_run_does_not_have_is_said(run, shell, words, message):
    status, _, error = shell("jaxadd", "analyse", run.folder, *words)
    assert status == 2
    assert_one_line(error, message)


def test_a_checkpoint_of_another_task_is_refused(shell, tmp_path):
    path = untrained(tmp_path / "network.pth", Modular(p=5, train_fraction=0.5), d_mlp=8)
    for words, message in (
        (TINY, "it has 6 tokens and the task has 8; 6 classes and the task has 8; describe the task"),
        (("--step", 3), "is a checkpoint, the state of one step; leave --step out"),
    ):
        status, _, error = shell("jaxadd", "analyse", path, *words)
        assert status == 2
        assert_one_line(error, message)


def test_a_step_of_a_run_has_nothing_of_what_came_later(run, tiny):
    trained = run.trained(20, history=True)
    assert trained.steps.tolist() == [0, 10, 20]
    assert trained.metrics["step"][-1] == 20
    state = run.state(Trainer(tiny).abstract_state(), 20)
    for lane, (network, history) in enumerate(zip(trained.networks, trained.histories, strict=True)):
        kept = network.params["unembed"]["W_U"]
        assert (history["unembed"]["W_U"][-1] == kept).all()
        assert (state.params["unembed"]["W_U"][lane] == kept).all()
    assert load(run.folder).steps == (0, 10, 20, 30, 40)


def test_numbers_that_json_cannot_hold_are_null():
    values = {"a": math.nan, "b": [1.0, -math.inf, {"c": np.float32("inf")}], "d": np.int64(3), "e": None, "f": "x"}
    assert finite(values) == {"a": None, "b": [1.0, None, {"c": None}], "d": 3, "e": None, "f": "x"}
    json.dumps(finite(values), allow_nan=False)
