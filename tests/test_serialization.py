"""Configs as plain data: JSON and back, classes from outside the package, fields by path, differences."""

import json
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import standin

from jaxadd import serialization
from jaxadd.config import RunConfig, Stop
from jaxadd.errors import UserError
from jaxadd.models import MLP
from jaxadd.optim.optimizers import SGD
from jaxadd.runs import train
from jaxadd.tasks import Addition, HandwrittenDigits, Modular

TESTS = Path(__file__).parent
CONFIGS = [
    RunConfig(),
    RunConfig(
        task=HandwrittenDigits(folder="x"),
        model=MLP(hidden=(3, 4)),
        optimizer=SGD(),
        seeds=(4, 2),
        stop=Stop("test_loss", 0.5),
    ),
    RunConfig(task=Modular(p=6, split_seed=3, batch_size=4), debug=True),
    RunConfig(seeds=(3, 4), vary=(("optimizer.lr", (0.1, 0.2)), ("init_scale", (1.0, 2.0)))),
    RunConfig(task=standin.SymmetricGroup(train_pairs=20)),
]


def through_json(config):
    return serialization.from_json(json.loads(json.dumps(serialization.to_json(config))), RunConfig)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config.task).__name__)
def test_a_config_is_the_same_after_json(config):
    again = through_json(config)
    assert again == config
    assert hash(again) == hash(config)


def test_a_class_from_outside_the_package_is_written_with_its_module():
    data = serialization.to_json(CONFIGS[-1])["task"]
    assert data == {"kind": "standin:SymmetricGroup", "train_pairs": 20}
    assert serialization.to_json(RunConfig())["task"]["kind"] == "Modular"


def test_a_class_from_outside_the_package_is_imported_in_another_process():
    """The other process has not imported the module of the class."""
    script = """
import json, sys
from jaxadd.config import RunConfig
from jaxadd.serialization import from_json
assert "standin" not in sys.modules
print(from_json(json.loads(sys.argv[1]), RunConfig).task)
"""
    data = json.dumps(serialization.to_json(CONFIGS[-1]))
    command = [sys.executable, "-c", script, data]
    done = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, check=False)
    assert done.stdout == "SymmetricGroup(train_pairs=20)\n", done.stderr


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("nowhere:Task", r"nowhere:Task cannot be imported \(No module.*; start Python where the module nowhere can"),
        ("standin:Missing", r"expected one of .*Modular.*, got kind 'standin:Missing'"),
        ("standin:TABLE", "got kind 'standin:TABLE'"),
        ("subprocess:Popen", "got kind 'subprocess:Popen'"),
        ("jaxadd.models:MLP", "got kind 'jaxadd.models:MLP'"),
        ("__main__:Mine", "was defined in a script or notebook; define it in a module"),
    ],
)
def test_only_a_class_of_the_expected_kind_is_read(kind, words):
    data = serialization.to_json(CONFIGS[-1])
    data["task"]["kind"] = kind
    with pytest.raises(UserError, match=words):
        serialization.from_json(data, RunConfig)


class Outer:
    @dataclass(frozen=True)
    class Inner(standin.SymmetricGroup):
        pass


def test_a_class_inside_a_class_is_read_as_well():
    assert through_json(RunConfig(task=Outer.Inner())) == RunConfig(task=Outer.Inner())
    data = serialization.to_json(RunConfig(task=Outer.Inner()))
    assert data["task"]["kind"].endswith("test_serialization:Outer.Inner")


@pytest.mark.parametrize(
    ("module", "name", "words"),
    [
        ("__main__", "Mine", "Mine is defined in a script or notebook, so that a saved run of it could not be read"),
        ("standin", "f.<locals>.Mine", "Mine is defined in a function, so that"),
    ],
)
def test_a_run_that_could_not_be_read_again_is_not_begun(module, name, words, tmp_path, monkeypatch):
    mine = dataclass(frozen=True)(type("Mine", (standin.SymmetricGroup,), {"__module__": module}))
    mine.__qualname__ = name
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    with pytest.raises(UserError, match=words):
        train(RunConfig(task=mine()), tmp_path / "run")
    assert not list(tmp_path.iterdir())
    serialization.check_importable(CONFIGS[-1])


def test_a_difference_names_the_fields():
    assert serialization.difference(RunConfig(), RunConfig()) == []
    other = replace(RunConfig(task=Modular(p=7)), optimizer=SGD(lr=1e-3), steps=3)
    lines = serialization.difference(RunConfig(), other)
    assert "task.p: 113 here, 7 there" in lines
    assert "optimizer: AdamW here, SGD there" in lines
    assert "optimizer.momentum: absent here, 0.9 there" in lines
    assert not any("optimizer.lr" in line for line in lines)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.update(kind="os.system"), "expected one of RunConfig"),
        (lambda d: d["task"].update(kind="Table"), "expected one of .*Modular"),
        (lambda d: d["task"].pop("p"), "fields of Modular have changed since this was written: p"),
        (lambda d: d.update(novel=3), "novel"),
        (lambda d: d["task"].update(p=1), "modulus"),
    ],
)
def test_json_of_other_fields_or_classes_is_refused(change, words):
    data = serialization.to_json(RunConfig())
    change(data)
    with pytest.raises(ValueError, match=words):
        serialization.from_json(data, RunConfig)


def test_fields_of_any_depth_are_replaced_by_path():
    config = RunConfig(task=Addition())
    assert serialization.with_values(config, {"task.mixture.uniform": 2.0}).task.mixture.uniform == 2.0
    assert serialization.with_values(config, {"steps": 3, "task.digits": 2}).task.digits == 2
    # Together: neither of these is valid without the other.
    apart = serialization.with_values(RunConfig(), {"model.d_model": 129, "model.heads": 3})
    assert (apart.model.d_model, apart.model.heads) == (129, 3)
    mixed = serialization.with_values(config, {"task.mixture.uniform": 0.0, "task.mixture.cascades": 1.0})
    assert mixed.task.mixture.weights == (0, 0, 1)
    values = serialization.single_values(config)
    assert values["task.mixture.uniform"] == config.task.mixture.uniform
    assert not {"task", "task.mixture", "seeds", "vary"} & set(values)
    for name in ("speed", "task.mixture.speed", "steps.more", "task.digits.more"):
        with pytest.raises(ValueError, match=f"no field is named {name}"):
            serialization.with_values(config, {name: 1})
