"""What a report says of networks that multiply in a group, and of the table that they have learned."""

import jax
import numpy as np
import pytest
from networks import drawn
from planted import lookup

from jaxadd.analysis.group import cayley
from jaxadd.analysis.report import Trained, analyse, summarize
from jaxadd.errors import UserError
from jaxadd.models import Network, PairMLP, Transformer
from jaxadd.tasks import Group
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
    assert found.commuting == task.group.commuting_fraction
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
    assert "seed 0 uses" in report.text
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
    assert summary.text.startswith("seed 0 uses sign, standard")
    assert [figure.name for figure in summary.figures] == ["errors"]


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
