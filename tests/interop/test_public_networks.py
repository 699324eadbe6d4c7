"""Published networks compute what is published of them; skipped without the reference data."""

import random
import time
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from needs import reference_data

from jaxadd import interop
from jaxadd.analysis import fourier
from jaxadd.analysis.group.measured import measure
from jaxadd.analysis.modular import progress
from jaxadd.analysis.modular.problem import whole_problem
from jaxadd.cli.checkpoint import trained
from jaxadd.errors import UserError
from jaxadd.models import Model, Network, PairMLP
from jaxadd.optim import losses
from jaxadd.tasks import Modular
from jaxadd.tasks.addition import board
from jaxadd.trees import named_leaves


def _measured(name):
    """A network of reference data, its task, the pairs, and its measures."""
    notes = []
    network = trained(reference_data() / name, Modular(), note=notes.append).networks[0]
    problem = whole_problem(network.task, network.data.lane)
    logits = network(problem.inputs, cache=["blocks.0.mlp.hook_post"])
    return network, problem, logits[0][:, 0], logits[1]["blocks.0.mlp.hook_post"][:, 0], notes


def test_a_pizza():
    network, problem, _, _, notes = _measured("pizza_p99zdpze5l.pt")
    assert network.task == Modular(p=59, equals="none")
    assert len(notes) == 1
    assert "inferred a + b mod 59, inputs a, b, from 2 positions, 59 tokens and 59 classes" in notes[0]
    config = network.model.config
    assert (config.attention, config.attention_mix, config.activation) == ("bidirectional", 0.0, "relu")
    norm = sum(float(jnp.sum(jnp.square(leaf))) for _, leaf in named_leaves(network.params)) ** 0.5
    assert norm == pytest.approx(22.854, abs=1e-3)
    pairs = jnp.asarray(random.Random(0).sample(range(59**2), 300))
    measured = progress.clock_measures(network.params, network.model, problem, pairs)
    assert float(measured["distance_irrelevance"]) == pytest.approx(0.17174, abs=1e-3)
    assert float(measured["gradient_symmetricity"]) == pytest.approx(0.99367, abs=1e-3)
    assert float(measured["circularity"]) == pytest.approx(0.99782, abs=1e-3)


def test_an_mlp_on_c113():
    notes = []
    network = trained(reference_data() / "C113_MLP_seed1.pt", Modular(), note=notes.append).networks[0]
    assert network.task == Modular(p=113, equals="none")
    assert network.config == PairMLP(d_embed=256, neurons=128)
    batch = network.task.batch(np.arange(113**2), {})
    loss = jnp.mean(losses.cross_entropy(network(batch.inputs), batch.targets))
    assert float(loss) == pytest.approx(2.0526247e-5, rel=1e-4)


def test_an_mlp_on_s5_needs_no_order_of_elements():
    notes = []
    network = trained(reference_data() / "S5_MLP_seed1.pt", Modular(), note=notes.append).networks[0]
    assert network.task.group.name == "S5"
    assert (
        "inferred a·b in S5, inputs a, b, from 2 positions, 120 tokens and 120 classes, and from its own" in notes[-1]
    )
    clock = time.process_time()
    numbers = measure(network).numbers
    compiled, clock = time.process_time() - clock, time.process_time()
    measure(network)
    assert time.process_time() - clock < 2, compiled
    published = {
        "all_loss": 1.96804e-5,
        **{"logit_similarity.sign": 0.308995, "logit_similarity.standard": 0.410855},
        **{"fraction_W_a_W_in.sign": 0.0374, "fraction_W_b_W_in.sign": 0.0376, "fraction_W_U.sign": 0.0520},
        **{"fraction_W_a_W_in.trivial": 1.0e-6, "fraction_W_b_W_in.trivial": 4.7e-6, "fraction_W_U.trivial": 0.0410},
        "table_commuting_fraction": 7 / 120,
    }
    for name, value in published.items():
        assert numbers[name] == pytest.approx(value, rel=1e-5 if value > 0.1 else 0.05 if value < 1e-5 else 2e-3), (
            name
        )
    assert numbers["key_irreps"] == ["sign", "standard", "standard⊗sign", "5d_b"]
    assert (numbers["table_latin_square"], numbers["table_associative"]) == (True, True)
    assert numbers["table_group"] == "S5"
    # Both accounts of Chughtai et al. and of Stander et al.: irreps, and cosets of subgroups that go with them.
    assert [numbers[f"neurons_by_irrep.{name}"] for name in numbers["key_irreps"]] == [3, 31, 58, 35]
    assert [numbers[f"neurons_by_cosets.{name}"] for name in ("A5", "S4", "A4", "order 20")] == [3, 31, 56, 30]


def test_an_mlp_whose_matrices_do_not_fit_is_refused():
    state = {"W_x": np.zeros((5, 4)), "W_y": np.zeros((5, 4)), "W": np.zeros((7, 3)), "W_U": np.zeros((3, 5))}
    with pytest.raises(UserError, match=r"W should have shape \(8, 3\), got \(7, 3\)"):
        interop.from_state_dict(state)
    with pytest.raises(UserError, match="no field heads"):
        interop.from_state_dict(state | {"W": np.zeros((8, 3))}, {"heads": 2})


def test_a_transformer_on_c113():
    network, problem, logits, neurons, notes = _measured("C113_T_seed1.pt")
    assert network.task == Modular(p=113, equals="token")
    assert "activation relu" in notes[0]
    assert "inferred a + b mod 113" in notes[1]
    keys = fourier.keys_of_logits(logits, problem.answers)
    assert list(fourier.frequencies(keys)) == [16, 30, 56]
    values = progress.measures(network.params, network.model, problem, keys)
    assert float(values["all_loss"]) == pytest.approx(1.585160e-7, rel=1e-5)
    assert float(values["restricted_loss_all"]) == pytest.approx(5.5683e-8, rel=1e-4)
    assert float(values["gini_W_E"]) == pytest.approx(0.65496, abs=1e-5)
    assert float(values["sum_of_squares"]) == pytest.approx(849.57, abs=0.01)
    assert [float(values["logit_cosine_k"][k - 1]) for k in (16, 30, 56)] == pytest.approx(
        [0.777973, 0.517671, 0.308732], abs=1e-5
    )
    assert float(values["restricted_loss_3d_all"]) == pytest.approx(4.12621e-8, rel=1e-4)
    found = fourier.clusters(fourier.neuron_fractions(neurons))
    sizes = {k: int(np.sum((found.frequency == k) & (found.explained > 0.85))) for k in (16, 30, 56)}
    assert sizes | {None: 512 - sum(sizes.values())} == {16: 196, 30: 103, 56: 196, None: 17}


def _correct(name, count, task=board.TASK):
    """Return which of the first problems of AdderBoard's suite a network answers correctly, and its checkpoint."""
    checkpoint, problems = interop.read(reference_data() / name), board.suite()[:count]
    network = Network(checkpoint.params_for(task.sizes), Model(checkpoint.config, task.sizes), task)
    batch = task.batch(problems)
    return (np.asarray(network.answer(batch.inputs)) == np.asarray(batch.targets)).all(axis=1), checkpoint


def test_the_adder_of_52_parameters():
    correct, checkpoint = _correct("vijec_52p.pt", 510)
    assert correct.all()
    assert checkpoint.config.rope_pairs == "interleaved"
    assert checkpoint.rest["n_params"] == 52


def test_the_adder_of_57_parameters():
    correct, checkpoint = _correct("microadder_57p.pt", 510, replace(board.TASK, separators="zero-signs"))
    assert correct.all()
    assert checkpoint.layout == "microadder"


def test_the_adder_of_122_parameters():
    correct, checkpoint = _correct("staghado_122.npz", 10_010)
    assert np.flatnonzero(~correct).tolist() == [1333, 1758, 6263, 6411, 9884]
    assert checkpoint.config.rope_pairs == "half"
