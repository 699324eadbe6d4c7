"""A checkpoint as a trained network: the facts that its file holds."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import drawn

from jaxadd import interop
from jaxadd.cli import checkpoint
from jaxadd.errors import UserError
from jaxadd.models import Transformer
from jaxadd.tasks import Group, Modular
from jaxadd.tasks.group import families

TASK = Modular(p=7, train_fraction=0.6)
CONFIG = Transformer(d_model=16, heads=2, d_mlp=8)


@pytest.fixture(scope="module")
def params():
    return drawn(CONFIG.build(TASK.sizes))


def trained(folder, params, task=TASK, seed=None, activation=None, **written):
    interop.write(folder / "network.pth", params, CONFIG.build(TASK.sizes), **written)
    fields = {} if activation is None else {"activation": activation}
    return checkpoint.trained(folder / "network.pth", task, seed, fields=fields)


def test_the_network_is_that_of_the_file(params, tmp_path):
    result = trained(tmp_path, params)
    (network,) = result.networks
    chex.assert_trees_all_equal(network.params, params)
    assert network.config == CONFIG
    assert (network.task, network.seed, network.step) == (TASK, 0, 0)
    assert result.title == f"network.pth: {TASK.title}"
    assert not result.metrics
    assert not result.evolves


def test_losses_activation_and_step_are_read_where_the_file_holds_them(params, tmp_path):
    losses = {"train_losses": [3.0, 2.0, math.nan], "test_losses": [3.0, 2.5, 2.25]}
    result = trained(tmp_path, params, rest=losses | {"config": {"activation": "gelu"}})
    np.testing.assert_array_equal(result.metrics["step"], [0, 1, 2])
    np.testing.assert_array_equal(result.metrics["train_loss"], [losses["train_losses"]])
    np.testing.assert_array_equal(result.metrics["test_loss"], [losses["test_losses"]])
    assert (result.networks[0].step, result.networks[0].config.activation) == (3, "gelu")
    assert trained(tmp_path, params, rest=losses, activation="gelu").networks[0].config.activation == "gelu"
    zeros = jax.tree.map(jnp.zeros_like, params)
    adam = interop.Adam(zeros, zeros, 12)
    assert trained(tmp_path, params, rest={"config": {"step": 5}}, optimizer=adam).networks[0].step == 12
    assert trained(tmp_path, params, rest={"config": {"step": 5}}).networks[0].step == 5


@pytest.mark.parametrize(
    "rest",
    [
        {"train_losses": "none", "config": 3},
        {"train_losses": [[1.0], [2.0]], "test_losses": {}},
        {"train_losses": [1.0], "config": {"step": "five"}},
    ],
)
def test_other_things_of_those_names_are_left_alone(params, tmp_path, rest):
    result = trained(tmp_path, params, rest=rest)
    assert not result.metrics
    assert (result.networks[0].step, result.networks[0].config.activation) == (0, "relu")


def test_losses_of_different_lengths_are_not_put_beside_each_other(params, tmp_path):
    result = trained(tmp_path, params, rest={"train_losses": [1.0, 2.0], "test_losses": [1.0, 2.0, 3.0]})
    assert set(result.metrics) == {"step", "train_loss"}


def test_the_seed_is_that_of_the_split(params, tmp_path):
    split = Modular(p=7, train_fraction=0.6, split_seed=3)
    assert trained(tmp_path, params, split).networks[0].seed == 3
    assert trained(tmp_path, params, split, seed=2).networks[0].seed == 2
    assert trained(tmp_path, params, seed=2).networks[0].seed == 2


def test_a_checkpoint_of_another_task_is_refused(params, tmp_path):
    with pytest.raises(
        UserError, match=r"8 tokens and the task has 12; .*; describe the task that it was trained on"
    ):
        trained(tmp_path, params, Modular(p=11))


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Modular(p=7, equals="none"), "a + b mod 7, inputs a, b, from 2 positions, 7 tokens and 7 classes"),
        (Modular(p=7, equals="token"), "a + b mod 7, inputs a, b, = and no class for =, from 3 positions, 8 tokens"),
        (Modular(p=7), "a + b mod 7, inputs a, b, =, from 3 positions, 8 tokens and 8 classes"),
    ],
)
def test_the_task_is_inferred_from_the_sizes_and_said(tmp_path, task, said):
    model, notes = CONFIG.build(task.sizes), []
    interop.write(tmp_path / "x.pth", drawn(model), model)
    found = checkpoint.trained(tmp_path / "x.pth", Modular(), note=notes.append).networks[0]
    assert found.task == task
    assert len(notes) == 1
    assert notes[0].startswith(f"x.pth: inferred {said}")


def test_a_network_of_the_default_task_needs_no_word(tmp_path):
    model, notes = CONFIG.build(Modular().sizes), []
    interop.write(tmp_path / "x.pth", drawn(model), model)
    assert checkpoint.trained(tmp_path / "x.pth", Modular(), note=notes.append).networks[0].task == Modular()
    assert notes == []


def _lookup(folder, table):
    """Write an MLP in Chughtai et al.'s format with a ReLU neuron for each pair, which answers by a table."""
    n = len(table)
    a, b = np.divmod(np.arange(n * n), n)
    w = np.concatenate([np.eye(n)[:, a], np.eye(n)[:, b]]) - 0.5
    state = {"W_x": np.eye(n), "W_y": np.eye(n), "W": w, "W_U": 20 * np.eye(n)[np.ravel(table)]}
    np.savez(folder / "x.npz", **{name: matrix.astype(np.float32) for name, matrix in state.items()})
    return folder / "x.npz"


@pytest.mark.parametrize("name", ["D4", "Q8", "C7"])
def test_the_group_is_inferred_from_the_answers_of_a_network(tmp_path, name):
    table = families.by_name(name).table
    order = np.random.default_rng(0).permutation(len(table))
    table = np.argsort(order)[table[np.ix_(order, order)]]
    for given in (Modular(), Group()):
        notes = []
        task = checkpoint.trained(_lookup(tmp_path, table), given, note=notes.append).networks[0].task
        np.testing.assert_array_equal(task.group.table, table)
        assert (task.group.name, task.equals) == (name, "none")
        assert f"inferred a·b in {name}, inputs a, b" in notes[-1]
    given = Group(name=name, equals="none", train_fraction=0.5)
    notes = []
    task = checkpoint.trained(_lookup(tmp_path, table), given, note=notes.append).networks[0].task
    np.testing.assert_array_equal(task.group.table, table)
    assert task.train_fraction == 0.5
    assert notes[-1:] == [f"x.npz: its tokens are the elements of {name} in an order inferred from its answers"]


def test_addition_stays_addition_and_a_group_of_another_order_is_refused(tmp_path):
    numbers = np.arange(6)
    path = _lookup(tmp_path, (numbers[:, None] + numbers) % 6)
    assert checkpoint.trained(path, Modular()).networks[0].task == Modular(p=6, equals="none")
    with pytest.raises(UserError, match=r"6 tokens and the task has 24.*--task group --task.name S5 or") as raised:
        checkpoint.trained(path, Group(name="S4", equals="none"))
    assert "\n" not in str(raised.value)
    no_group = _lookup(tmp_path, (numbers[:, None] - numbers) % 6)
    assert checkpoint.trained(no_group, Modular()).networks[0].task == Modular(p=6, equals="none")


def test_operands_with_tokens_of_their_own_are_no_such_task(tmp_path):
    model = CONFIG.build(Modular(p=8, equals="none").sizes)
    interop.write(tmp_path / "x.pth", drawn(model), model)
    (tmp_path / "x.json").write_text('{"diff_vocab": 1, "C": 4}')
    with pytest.raises(UserError, match="8 tokens and the task has 114"):
        checkpoint.trained(tmp_path / "x.pth", Modular())


def test_fields_are_parsed_from_words():
    words = ("heads=4", "rope_theta=3", "activation=gelu", "qk_norm=True", "d_head=None")
    assert checkpoint.parsed(words) == {
        **{"heads": 4, "rope_theta": 3, "activation": "gelu", "qk_norm": True, "d_head": None}
    }
    with pytest.raises(UserError, match="--fields takes NAME=VALUE, such as rope_theta=3, got 'heads'"):
        checkpoint.parsed(("heads",))
