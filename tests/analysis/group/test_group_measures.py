"""Measures per irrep: a network built from one irrep scores 1 in it, and measures are what their definitions say."""

import functools

import jax
import numpy as np
import pytest
from networks import drawn
from planted import of_irrep
from representations import matrices, span

from jaxadd.analysis import measures as declared
from jaxadd.analysis.group import declarations, progress
from jaxadd.analysis.group.irreps import irreps_of
from jaxadd.analysis.group.neurons import neurons_by_irrep
from jaxadd.analysis.group.problem import whole_problem
from jaxadd.analysis.group.subgroups import ON_COSETS, concentrations, subgroups
from jaxadd.models import Network, PairMLP, Transformer
from jaxadd.tasks import Group


def measured(network, names=None, used=None):
    task = network.task
    every = declarations.MEASURES
    chosen = every if names is None else tuple(measure for measure in every if measure.name in names)
    problem = whole_problem(task, network.data.lane)
    values = progress.measures(network.params, network.model, problem, used, declarations=chosen)
    return declared.flat(chosen, jax.device_get(values), problem.axes)


PLANTED = [("S4", "sign"), ("S4", "standard⊗sign"), ("A4", "2d"), ("D5", "2d_2"), ("Q8", "4d")]
SCORES = {"logit_similarity", "logit_fraction", *(f"fraction_{name}" for name in declarations.MATRICES)}
LOSSES = {"all_loss", "all_accuracy", "restricted_loss_of", "excluded_loss_of", "logit_variance_explained"}


@pytest.mark.parametrize(("group", "name"), PLANTED)
def test_a_network_of_one_irrep_scores_1_in_it_and_chance_in_others(group, name):
    task = Group(name=group, equals="none", train_fraction=0.5)
    found = {irrep.name: irrep for irrep in irreps_of(task.known)}
    irrep = found[name]
    network = of_irrep(task, matrices(task.group, irrep), scale=3.0)
    numbers = measured(network, SCORES | LOSSES | {"restricted_loss_trace_all", "excluded_loss_trace_test"})
    for other in found:
        want = float(other == name)
        for measure in ("logit_similarity", "logit_fraction", "fraction_W_a", "fraction_W_b", "fraction_W_a_W_in"):
            assert numbers[f"{measure}.{other}"] == pytest.approx(want, abs=1e-5), (measure, other)
        assert numbers[f"fraction_W_U.{other}"] == pytest.approx(want, abs=1e-5)
        chance = numbers["all_loss"] if other != name else np.log(task.count)
        assert numbers[f"excluded_loss.{other}"] == pytest.approx(chance, rel=1e-4)
        chance = np.log(task.count) if other != name else numbers["all_loss"]
        assert numbers[f"restricted_loss.{other}"] == pytest.approx(chance, rel=1e-4)
    assert numbers["restricted_loss_trace_all"] == pytest.approx(numbers["all_loss"], rel=1e-4)
    assert numbers["excluded_loss_trace_test"] == pytest.approx(np.log(task.count), rel=1e-4)
    assert numbers["logit_variance_explained"] == pytest.approx(1, abs=1e-5)
    if irrep.dimension > 1:  # A faithful one answers correctly.
        faithful = np.sum(np.abs(irrep.character - irrep.dimension) < 1e-9) == 1
        assert (numbers["all_accuracy"] == 1) == faithful


@functools.cache
def random_network(kind):
    """A network with random weights, and its logits `[n, n, n]` as (a, b, c)."""
    task = Group(name="S3", equals="none" if kind == "mlp" else "class", train_fraction=0.5, operation="conjugate")
    config = PairMLP(d_embed=5, neurons=7) if kind == "mlp" else Transformer(d_model=8, heads=2, d_mlp=7)
    model = config.build(task.sizes)
    network = Network(drawn(model, scale=1.0), model, task)
    hook = "mlp.hook_post" if kind == "mlp" else "blocks.0.mlp.hook_post"
    logits, cache = network(task.batch(np.arange(36), network.data.shared).inputs, cache=[hook])
    return network, *(np.asarray(x, np.float64).reshape(6, 6, -1) for x in (logits[..., :6], cache[hook]))


def cross_entropy(logits, answers):
    logits = logits - logits.max(axis=-1, keepdims=True)
    own = np.take_along_axis(logits, answers[..., None], axis=-1)[..., 0]
    return np.log(np.exp(logits).sum(axis=-1)) - own


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_measures_of_logits_are_their_definitions(kind):
    network, logits, _ = random_network(kind)
    task, group = network.task, network.task.group
    answers = task.answers().reshape(6, 6)
    numbers = measured(network, used=np.array([False, True, True]))
    centred = logits - logits.mean(axis=2, keepdims=True)
    kept_traces = np.zeros_like(logits)
    for irrep in irreps_of(task.known):
        rho = matrices(group, irrep)
        a, b = np.indices((6, 6))
        product = rho[a] @ rho[b] @ rho[group.inverse[a]]  # What is learned is a b a⁻¹.
        traces = np.einsum("abij,cji->abc", product, rho[group.inverse])
        similarity = np.sum(centred * traces) / np.linalg.norm(centred) / np.linalg.norm(traces)
        assert numbers[f"logit_similarity.{irrep.name}"] == pytest.approx(similarity, abs=1e-5)
        # Projection on the functions ρ(s)_ij of the pair, by least squares.
        functions = product.reshape(36, -1)
        kept = functions @ np.linalg.lstsq(functions, logits.reshape(36, 6), rcond=None)[0]
        rest = (logits.reshape(36, 6) - kept).mean(axis=0)
        for measure, remaining in (("restricted", kept + rest), ("excluded", logits.reshape(36, 6) - kept)):
            want = cross_entropy(remaining.reshape(6, 6, 6), answers).mean()
            assert numbers[f"{measure}_loss.{irrep.name}"] == pytest.approx(want, rel=1e-4)
        if irrep.name != "trivial":
            kept_traces += traces * np.sum(logits * traces) / np.sum(traces**2)
    want = cross_entropy(logits - kept_traces, answers).ravel()
    assert numbers["excluded_loss_trace_all"] == pytest.approx(want.mean(), rel=1e-4)
    test = np.asarray(network.data.lane["test"])
    assert numbers["excluded_loss_trace_test"] == pytest.approx(want[test].mean(), rel=1e-4)
    rest = (logits - kept_traces).mean(axis=(0, 1))
    want = cross_entropy(kept_traces + rest, answers).mean()
    assert numbers["restricted_loss_trace_all"] == pytest.approx(want, rel=1e-4)
    assert numbers["full_loss_all"] == pytest.approx(cross_entropy(logits, answers).mean(), rel=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_fractions_of_neurons_are_their_definitions(kind):
    network, _, neurons = random_network(kind)
    task = network.task
    answers = task.answers().reshape(6, 6)
    numbers = measured(network, names={f"neuron_fraction_{of}" for of in ("a", "b", "ab")})
    centred = neurons - neurons.mean(axis=(0, 1))
    by_answer = np.stack([centred[answers == s].mean(axis=0) for s in range(6)])
    for of, means in (("a", centred.mean(axis=1)), ("b", centred.mean(axis=0)), ("ab", by_answer)):
        for irrep in irreps_of(task.known):
            want = 6 * np.sum((span(task.group, irrep) @ means) ** 2) / np.sum(centred**2)
            assert numbers[f"neuron_fraction_{of}.{irrep.name}"] == pytest.approx(want, abs=1e-5)
    problem = whole_problem(task, network.data.lane)
    explained = np.asarray(neurons_by_irrep(network.params, network.model, problem))
    for k, irrep in enumerate(irreps_of(task.known)):
        one = span(task.group, irrep) + (k > 0) / 6
        kept = np.einsum("ax,by,xyf->abf", one, one, centred)
        want = np.sum(kept**2, axis=(0, 1)) / np.sum(centred**2, axis=(0, 1))
        np.testing.assert_allclose(explained[:, k], want, atol=1e-5)


def test_neurons_of_one_irrep_are_explained_by_it():
    """Without a non-linearity a neuron is a function of a plus one of b."""
    task = Group(name="S4", equals="none", train_fraction=0.5)
    problem = whole_problem(task, {name: x[0] for name, x in task.data((0,)).lane.items()})
    names = [irrep.name for irrep in irreps_of(task.known)]
    rng = np.random.default_rng(0)
    rho = matrices(task.group, irreps_of(task.known)[3]).reshape(24, 9)
    params = {"W_a": rho, "W_b": rho, "W_in": rng.normal(size=(18, 5)), "W_U": rng.normal(size=(5, 24))}
    params = jax.device_put({name: np.asarray(x, np.float32) for name, x in params.items()})
    model = PairMLP(d_embed=9, neurons=5, activation="identity").build(task.sizes)
    explained = np.asarray(neurons_by_irrep(params, model, problem))
    np.testing.assert_allclose(explained, np.eye(5)[[names.index("standard")] * 5], atol=1e-5)


def test_what_is_not_finite_is_explained_by_nothing():
    network = random_network("mlp")[0]
    params = {**network.params, "W_U": network.params["W_U"] * np.nan}
    assert np.isnan(measured(Network(params, network.model, network.task))["logit_variance_explained"])


def test_the_order_of_elements_changes_nothing():
    """A network whose tokens are renumbered has the same measures, by the same names."""
    task = Group(name="S4", equals="none", train_fraction=0.5)
    irrep = {one.name: one for one in irreps_of(task.known)}["standard⊗sign"]
    network = of_irrep(task, matrices(task.group, irrep))
    order = np.random.default_rng(1).permutation(24)
    table = np.argsort(order)[task.group.table[np.ix_(order, order)]]
    other = Group(table=tuple(map(int, table.ravel())), equals="none", train_fraction=0.5)
    params = dict(network.params)
    params |= {"W_a": params["W_a"][order], "W_b": params["W_b"][order], "W_U": params["W_U"][:, order]}
    names = {"logit_similarity", "fraction_W_U", "excluded_loss_of"}
    ours, theirs = measured(network, names), measured(Network(params, network.model, other), names)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name] == pytest.approx(value, abs=1e-4), name


def test_functions_on_cosets_are_concentrated_and_others_are_not():
    group = Group(name="S5", train_fraction=0.5).group
    classes = subgroups(group)
    assert [one.name for one in classes][-5:] == ["D6", "order 20", "S4", "A5", "S5"]
    assert sum(len(one.members) for one in classes) == 156, "all subgroups of S5"
    rng = np.random.default_rng(0)
    point, other = group.points[:, 2], group.points[group.inverse, 1]
    values = rng.normal(size=(5, 4))
    # The image of a point is a function of aH, and its preimage one of Ha, H the permutations that leave it.
    read = concentrations(group, classes, values[other], values[point])
    swapped = concentrations(group, classes, values[point], values[other])
    noise = concentrations(group, classes, *rng.normal(size=(2, 120, 4)))
    s4 = [one.name for one in classes].index("S4")
    np.testing.assert_allclose(read[s4], 1, atol=1e-12)
    assert (swapped[s4] < ON_COSETS).all()
    assert (noise[s4:] < 0.2).all()
    np.testing.assert_array_equal(read[[0, -1]], 0)
