"""What a report says of networks that multiply in a group, and of the table that they have learned."""

import dataclasses
import re

import jax
import numpy as np
import pytest
from networks import drawn
from planted import lookup

from jaxadd.analysis.group import cayley
from jaxadd.analysis.report import Trained, analyse, summarize
from jaxadd.errors import UserError
from jaxadd.models import Network, PairMLP, Transformer
from jaxadd.pictures import Table
from jaxadd.tasks import Group
from jaxadd.tasks.group import finite
from jaxadd.views.figures import render

TASK = Group(name="S3", equals="none", train_fraction=0.5)


@pytest.mark.parametrize("name", ["S3", "C5", "D4"])
def test_the_learned_table_is_recognised(name):
    task = Group(name=name, equals="none", train_fraction=0.5)
    network = lookup(task)
    table = cayley.learned(network.params, network.model)
    np.testing.assert_array_equal(table, task.group.table)
    found = cayley.describe(table, task)
    assert (found.latin, found.associative, found.associative_fraction) == (True, True, 1.0)
    assert (found.identity, found.violation, found.sampled) == (task.group.identity, None, False)
    assert found.commuting == finite.commuting(task.group.table)
    assert found.known.group.name == name


def test_a_table_with_an_error_is_no_group():
    table = TASK.group.table.copy()
    table[2, 3] = table[2, 4]
    found = cayley.describe(table, TASK)
    assert (found.latin, found.associative, found.known) == (False, False, None)
    assert 0.5 < found.associative_fraction < 1
    assert "not associative" in found.violation
    # Subtraction has rows and columns with every number, and no identity.
    numbers = np.arange(5)
    minus = cayley.describe((numbers[:, None] - numbers) % 5, TASK)
    assert (minus.latin, minus.associative, minus.identity) == (True, False, None)


def test_triples_of_a_large_group_are_drawn_and_said_to_be():
    large = Group(name="C300", train_fraction=0.5)
    found = cayley.describe(large.group.table, large)
    assert (found.sampled, found.triples, found.associative_fraction, found.associative) == (True, 10**6, 1.0, True)


def test_a_report_of_lanes_over_training():
    task = Group(name="S3", train_fraction=0.5)
    model = Transformer(d_model=8, heads=2, d_mlp=6).build(task.sizes)
    networks = tuple(Network(drawn(model, s), model, task, seed=s, step=20) for s in (0, 1))
    histories = tuple(
        jax.tree.map(lambda *w: jax.device_put(np.stack(w)), *(drawn(model, 10 * s + i) for i in range(2)))
        for s in (0, 1)
    )
    report = analyse(Trained(networks, "a title", {}, np.array([0, 10]), histories), lane=1)
    names = [figure.name for figure in report.figures]
    assert names[:4] == ["errors", "measures", "irreps", "neurons"]
    for figure in report.figures[:4]:
        render(figure)
    numbers = report.numbers
    assert {
        "logit_similarity.standard",
        "restricted_loss.sign",
        "fraction_W_E.trivial",
        "table_group",
    } <= numbers.keys()
    assert numbers["table_latin_square"] is False
    assert sum(n for name, n in numbers.items() if name.startswith("neurons_by_irrep.")) == 6
    assert sum(n for name, n in numbers.items() if name.startswith("neurons_by_cosets.")) == 6
    assert "seed 0: key irreps (logit similarity above 0.05): " in report.text
    # These networks are random: what their logits are similar to says nothing of how they compute.
    for said in (report.text, next(one for one in report.figures if one.name == "irreps").pictures[0].note):
        assert re.search(r"[Cc]aution: \S+ % of the test pairs are correct, and logits that are memorised", said)
    assert "uses" not in report.text
    assert [block.title for block in report.blocks][-2:] == ["Irreps", "Measures"]


def test_a_network_that_looks_products_up_is_described():
    network = lookup(TASK)
    report = analyse(Trained((network,), "a title"))
    assert (
        "the table of its answers is a Latin square, has the identity e and is associative; 50.00 % of pairs"
        in report.text
    )
    assert "it is the table of S3" in report.text
    assert report.numbers["all_accuracy"] == 1
    assert report.numbers["table_group"] == "S3"
    summary = summarize(Trained((network,), "a title"))
    # It looks products up and knows all of them, so that no caution is given.
    assert summary.text == "seed 0: key irreps (logit similarity above 0.05): sign, standard"
    assert "aution" not in report.text
    assert [figure.name for figure in summary.figures] == ["errors"]


def test_a_network_that_knows_its_train_pairs_alone_has_a_caution_beside_its_key_irreps():
    """It looks train pairs up, and answers e to all others."""
    network = lookup(TASK)
    train = np.asarray(network.data.lane["train"])
    w_u = np.zeros_like(network.params["W_U"])
    w_u[:, 0] = 1
    w_u[train] = network.params["W_U"][train]
    memorised = dataclasses.replace(network, params={**network.params, "W_U": jax.device_put(w_u)})
    report = analyse(Trained((memorised,), "a title"))
    assert report.numbers["train_accuracy"] == 1
    assert report.numbers["test_accuracy"] < 0.5
    assert {"sign", "standard"} & set(report.numbers["key_irreps"])
    percent = f"{100 * report.numbers['test_accuracy']:.2f} %"
    assert f"caution: {percent} of the test pairs are correct" in report.text
    assert f"caution: {percent}" in summarize(Trained((memorised,), "a title")).text
    # Where the split is not known, all pairs count.
    unknown = analyse(Trained((dataclasses.replace(memorised, split_known=False),), "a title"))
    assert f"caution: {100 * report.numbers['all_accuracy']:.2f} % of all pairs are correct" in unknown.text


def test_names_of_irreps_are_explained_where_they_are_printed():
    report = analyse(Trained((lookup(Group(name="D5", equals="none", train_fraction=0.5)),), "a title"))
    said = (
        "Names of irreps: the number before d is the dimension; "
        "with k after _, element r acts as a rotation by k/5 of a turn."
    )
    assert said in report.text
    table = next(block for block in report.blocks if isinstance(block, Table) and block.title == "Irreps")
    assert table.note.startswith(f"{said} Columns of neurons are fractions of all neurons' variance")
    assert "Names of irreps" not in analyse(Trained((lookup(TASK),), "a title")).text  # All are standard.


def test_other_operations_have_no_cayley_table_and_elements_have_their_names():
    task = Group(name="S3", equals="none", train_fraction=0.5)
    network = lookup(task)
    params = {**network.params, "W_U": network.params["W_U"].at[:, 1].set(0)}  # It never answers (2 3).
    wrong = analyse(Trained((Network(params, network.model, task),), "a title"))
    assert re.search(r"it is not associative: \(\(\d.*\)·.* = \S*\(|has no inverse: no product \(", wrong.text)
    conjugate = Group(name="S3", equals="none", train_fraction=0.5, operation="conjugate")
    report = analyse(Trained((lookup(conjugate),), "a title"))
    assert "the table of its answers" not in report.text
    assert "table_latin_square" not in report.numbers


def test_wrong_labels_are_told():
    task = Group(name="S3", equals="none", train_fraction=0.5, label_noise=0.2)
    assert task.title == "a·b in S3, trained on 50%, 20% of its labels wrong"
    assert "label noise: 20 % of the train labels are wrong" in analyse(Trained((lookup(task),), "a title")).text


def test_there_are_no_key_frequencies():
    with pytest.raises(UserError, match="key frequencies"):
        analyse(Trained((lookup(TASK),), "a title"), keys="3")


def test_a_transformer_without_neurons_has_no_measures_of_them():
    task = Group(name="S3", train_fraction=0.5)
    model = Transformer(d_model=8, heads=2, d_mlp=0).build(task.sizes)
    report = analyse(Trained((Network(drawn(model), model, task),), "a title"))
    assert not any(name.startswith("neuron") for name in report.numbers)
    assert "logit_similarity.sign" in report.numbers


@pytest.mark.parametrize("fields", [{"embedding": "one-hot"}, {"tables": "one", "combine": "sum"}])
def test_other_mlps_are_measured(fields):
    model = PairMLP(d_embed=5, neurons=4, **fields).build(TASK.sizes)
    report = analyse(Trained((Network(drawn(model), model, TASK),), "a title"))
    matrices = {
        name.split(".")[0].removeprefix("fraction_") for name in report.numbers if name.startswith("fraction_")
    }
    one_hot = {"W_in_a", "W_in_b", "W_U"}
    assert matrices == (one_hot if "embedding" in fields else {"W_a", "W_b", "W_a_W_in", "W_b_W_in", "W_U"})
