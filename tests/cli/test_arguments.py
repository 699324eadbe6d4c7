"""Arguments: kinds by a flag, values with hyphens, folders named by what was changed, errors in one line."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from jaxadd.cli.arguments import KINDS, SweepConfig, choose_kinds, kebab, parse, read_options
from jaxadd.config import RunConfig, Stop
from jaxadd.errors import UserError
from jaxadd.models import MLP, Transformer
from jaxadd.optim.filters import GrokfastEMA
from jaxadd.optim.losses import CrossEntropy, LabelSmoothing
from jaxadd.optim.optimizers import AdamW, Lion
from jaxadd.tasks import Addition, Group, Modular, Task
from jaxadd.tasks.group import families

PRESETS = {"quick": RunConfig(steps=10), "mainline": RunConfig(steps=20)}
SWEEPS = {"debug": SweepConfig(RunConfig(seeds=(0, 1)))}


def read(*words, presets=PRESETS):
    return parse("anything.example", "What is asked.", presets, words)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AdamW", "adamw"),
        ("SGD", "sgd"),
        ("MLP", "mlp"),
        ("LabelSmoothing", "label-smoothing"),
        ("GrokfastEMA", "grokfast-ema"),
        ("HandwrittenDigits", "handwritten-digits"),
        ("GlobalNormClip", "global-norm-clip"),
        ("Cosine", "cosine"),
        ("PairMLP", "pair-mlp"),
    ],
)
def test_kinds_are_named_in_kebab_case(name, value):
    assert kebab(name) == value
    assert any(value in kinds for kinds in KINDS.values())


def test_a_kind_has_its_defaults_and_its_fields():
    arguments, folder = read("mainline", "--optimizer", "lion", "--loss=label-smoothing", "--optimizer.lr", "0.5")
    config = arguments.config
    assert (config.optimizer, config.loss, config.steps) == (Lion(lr=0.5), LabelSmoothing(), 20)
    assert folder == Path("runs/example/mainline,lion,label-smoothing,optimizer.lr=0.5")
    config = read("--task", "addition", "--task.digits", "3", "--model", "mlp", "--gradient", "grokfast-ema")[
        0
    ].config
    assert (config.task, config.model, config.gradient) == (Addition(digits=3), MLP(), GrokfastEMA())


def test_the_first_preset_is_the_default_and_the_folder_is_named_by_what_was_changed():
    arguments, folder = read(
        "--seeds", "3", "4", "--runs", "elsewhere", "--stop.metric", "test-loss", "--stop.threshold", "1"
    )
    assert arguments.config == RunConfig(steps=10, seeds=(3, 4), stop=Stop("test_loss", 1.0))
    assert folder == Path("elsewhere/example/quick,seeds=3,4,stop.metric=test_loss,stop.threshold=1.0")
    assert read("--name", "mine")[1] == Path("runs/example/mine")
    long = read("--seeds", *map(str, range(100)))[1].name
    assert len(long) <= 100
    assert long != read("--seeds", *map(str, range(101)))[1].name


def test_a_sweep_has_workers_and_a_number_of_seeds():
    arguments, folder = read("--count", "3", "--part", "1/2", "--axes", "optimizer.lr=1e-3,1e-2", presets=SWEEPS)
    assert arguments.workers.part == "1/2"
    sweep = arguments.config.sweep()
    assert (sweep.base.seeds, sweep.axes[0].values) == ((0, 1, 2), (1e-3, 1e-2))
    assert folder.name == "debug,axes=optimizer.lr=1e-3,1e-2,count=3"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["slow"], "no preset is named 'slow'; there are quick, mainline"),
        (["--task.p", "1"], "p must be a modulus from 2"),
        (["--task.operation", "power"], "add"),
        (["--task.train-fraction", "0"], "leaves 0 to train on"),
        (["--task.train-fraction", "1"], "leaves 12769 to train on"),
        (["--steps", "-4"], "steps must be at least 0 and below 2**31 - 1, got -4"),
        (["--steps", "many"], "--steps cannot be read"),
        (["--steps", "3000000000"], "below 2**31 - 1"),
        (["--name", "../x"], "without slashes"),
        (["--stop.metric", "test-accuracy", "--stop.threshold", "99"], "at most 1"),
        (["--stop.metric", "test-loss", "--stop.threshold", "nan"], "^stop.threshold must be above 0"),
        (["--stop.metric", "test"], "'test-accuracy'"),
        (["--optimizer", "adagrad"], "lion, muon, levenberg-marquardt, got adagrad"),
        (["--optimizer"], "got nothing"),
        (["--optimizer", "lion", "--optimizer", "sgd"], "--optimizer is given twice"),
        (["--optimizer", "adamw", "--optimizer=adamw"], "--optimizer is given twice"),
        (["--optimizer.lr", "-1"], "AdamW.lr must be a number at least 0"),
        (["--task.batch-size", "0"], "batch_size must be from 1"),
        (["--seeds", "1", "1"], "seeds"),
        (["--nonsense", "3"], "--nonsense"),
    ],
)
def test_what_is_wrong_is_one_line(words, message):
    with pytest.raises(UserError) as raised:
        read(*words)
    assert str(raised.value).startswith(message[1:]) if message[0] == "^" else message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "│" not in str(raised.value)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--count", "0"], "--count must be from 1 to 1,000,000, got 0"),
        (["--count", "2", "--seeds", "5", "6"], "--count and --seeds both name the seeds"),
        (["--count", "100000000000"], "got 100,000,000,000"),
        (["--axes", "optimizer.speed=1"], "no axis can be named optimizer.speed"),
        (["--debug"], "debug off"),
        (["--design", "random"], "points of at least 1"),
    ],
)
def test_what_is_wrong_with_a_sweep_is_said(words, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")):
        read(*words, presets=SWEEPS)[0].config.sweep()


@pytest.mark.parametrize(
    "words",
    [
        "--stop.threshold 0.5",
        "--task.table-seed 1",
        "--task addition --task.target single --task.answer-order lsd",
        "--task addition --task.mixture.enriched-fraction 0.2",
        "--task addition --task.mixture.cascade-start 1",
        "--task addition --task.curriculum.fade-end 9",
        "--task handwritten-digits --model mlp --task.folder mnist --task.test-fraction 0.3",
        "--model.norm-where post",
        "--model.no-final-norm",
        "--model.norm rmsnorm --model.no-norm-bias",
        "--model.norm-epsilon 1e-3",
        "--model.weights.layers shared",
        "--model.positions none --model.position-index place",
        "--model.rope-theta 3",
        "--model.attention-mix 0 --model.qk-norm",
        "--model.attention-mix 0 --model.positions rope --model.rope-theta 3",
        "--model.positions sinusoidal --model.rope-scale 0.5",
        "--model.d-mlp 0 --model.activation gelu",
        "--task.equals none --model pair-mlp --model.embedding one-hot --model.tables one",
    ],
)
def test_a_flag_without_effect_is_an_error_in_one_line(words):
    flag = [word for word in words.split() if word.startswith("--")][-1]
    with pytest.raises(UserError) as raised:
        read(*words.split())
    assert str(raised.value).startswith(f"{flag} would have no effect here: it is for ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "words",
    [
        "--model.qk-norm --model.norm-epsilon 1e-3",
        "--model.positions sinusoidal --model.rope-theta 3",
        "--task.operation random --task.table-seed 1",
        "--task addition --task.mixture.cascades 1 --task.mixture.cascade-start 1 --task.curriculum.fade-end 9",
        "--stop.metric test-loss --stop.threshold 0.5",
        "--task group --task.file table.npy",
    ],
)
def test_a_flag_that_another_gives_an_effect_is_none(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("table.npy", families.by_name("S3").table)
    read(*words.split())


def test_a_default_or_a_preset_that_is_not_used_is_no_error():
    presets = {"stopping": RunConfig(stop=Stop("test_loss", 1.0))}
    assert read("--stop.metric", "none", presets=presets)[0].config.stop == Stop("none", 1.0)
    assert read("--stop.metric", "none", "--stop.threshold", "0", presets=presets)[0].config.stop == Stop()
    assert read("--model.positions", "none", "--model.rope-theta", "10000")[0].config.model.positions == "none"


def test_an_axis_of_a_sweep_may_give_a_field_its_effect():
    words = ["--model.norm-where", "post", "--axes"]
    read(*words, "model.norm=none,layernorm", presets=SWEEPS)
    with pytest.raises(UserError, match=r"^--model.norm-where would have no effect here: it is for a norm"):
        read(*words, "optimizer.lr=1e-3,1e-2", presets=SWEEPS)
    with pytest.raises(UserError, match=r"^axis model.rope_scale would have no effect: it is for positions rope"):
        read("--axes", "model.rope_scale=1.0,0.5", presets=SWEEPS)
    with pytest.raises(UserError, match=r"^--design-seed would have no effect here: it is for a random design"):
        read("--design-seed", "3", presets=SWEEPS)


def test_one_name_or_one_file_names_a_group(tmp_path):
    np.save(tmp_path / "table.npy", families.by_name("S3").table)
    words = ("--task", "group", "--task.name", "D4", "--task.file", str(tmp_path / "table.npy"))
    with pytest.raises(UserError, match=r"name D4 and file .*table.npy both name the group; leave one of them out$"):
        read(*words)
    with pytest.raises(UserError, match="name D4 and table both name the group"):
        Group(name="D4", table=(0, 1, 1, 0))


@dataclass(frozen=True)
class Options:
    """Do something.

    A paragraph.
    """

    source: Path
    """where from"""
    optimizer: bool = False
    """the name of a part of a run, but none"""
    task: Task = field(default=Modular())
    """what it is about"""
    kind: Literal["one_two", "three"] = "three"
    """a choice"""


def test_options_of_a_command_choose_kinds_too():
    assert read_options(Options, "jaxadd x", ["--source", "a"]) == Options(Path("a"))
    words = ["--task", "addition", "--task.digits", "2", "--source", "a", "--optimizer", "--kind", "one-two"]
    assert read_options(Options, "jaxadd x", words) == Options(Path("a"), True, Addition(digits=2), "one_two")
    with pytest.raises(UserError, match=r"^--task.table-seed would have no effect here: it is for operation random"):
        read_options(Options, "jaxadd x", ["--source", "a", "--task.table-seed", "4"])
    with pytest.raises(UserError, match="Missing from jaxadd x: --source PATH where from"):
        read_options(Options, "jaxadd x", ["--task", "addition"])


def test_help_names_presets_kinds_and_values_with_hyphens(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "90")
    with pytest.raises(SystemExit) as ended:
        read("--help")
    assert not ended.value.code
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 90
    text = " ".join(out.split())
    for words in (
        "What is asked.",
        "usage: python -m anything.example [quick | mainline]",
        "[--optimizer adamw | adam | sgd | lion | muon | levenberg-marquardt]",
        "[--loss cross-entropy | label-smoothing | stable-max | mean-squared-error]",
        "--task.p INT",
        "{none,train-loss,train-accuracy,test-loss,test-accuracy}",
        "--runs",
    ):
        assert words in text


def test_parts_that_are_not_asked_for_stay():
    parts = {"loss": CrossEntropy(), "optimizer": AdamW()}
    chosen, values, rest = choose_kinds(parts, ["a", "--loss", "label-smoothing", "--model", "mlp", "--x=1"])
    assert chosen == {"loss": LabelSmoothing(), "optimizer": AdamW()}
    assert values == ["label-smoothing"]
    assert rest == ["a", "--model", "mlp", "--x=1"]
    assert isinstance(choose_kinds({"model": MLP()}, ["--model", "transformer"])[0]["model"], Transformer)
