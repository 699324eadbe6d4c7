"""Configs survive JSON, and differences are told."""

import json
from dataclasses import replace

import pytest

from jaxadd import serialization
from jaxadd.config import RunConfig, Stop
from jaxadd.models import MLP
from jaxadd.optim.optimizers import SGD
from jaxadd.tasks import Addition, HandwrittenDigits, Modular

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
]


@pytest.mark.parametrize("config", CONFIGS)
def test_round_trip(config):
    again = serialization.from_json(json.loads(json.dumps(serialization.to_json(config))), RunConfig)
    assert again == config
    assert hash(again) == hash(config)


def test_difference():
    assert serialization.difference(RunConfig(), RunConfig()) == []
    other = replace(RunConfig(task=Modular(p=7)), optimizer=SGD(lr=1e-3), steps=3)
    said = serialization.difference(RunConfig(), other)
    assert "task.p: 113 here, 7 there" in said
    assert "optimizer: AdamW here, SGD there" in said
    assert "optimizer.momentum: absent here, 0.9 there" in said
    assert not any("optimizer.lr" in line for line in said)


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
def test_foreign_json(change, words):
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
