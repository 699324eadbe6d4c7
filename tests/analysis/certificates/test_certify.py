"""Certificates never contradict enumeration, and a changed certificate is rejected."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from networks import column_adder, deepened, drawn

from jaxadd.analysis.certificates import bounds, columns, exhaustive, search, spaces
from jaxadd.analysis.certificates.certificate import NOTHING, Certificate, fingerprint
from jaxadd.analysis.certificates.certify import Certification, certify
from jaxadd.analysis.certificates.check import check
from jaxadd.analysis.certificates.check_tables import Leaves, Tables
from jaxadd.analysis.certificates.check_two_layers import TwoLayers
from jaxadd.errors import UserError
from jaxadd.models import MLP, Network, Transformer, plain
from jaxadd.tasks import Addition, Group, HandwrittenDigits, Modular


def task_of(digits, base, **more):
    return Addition(digits=digits, base=base, answer_order="lsd", operand_order="lsd", **more)


@functools.cache
def adder(digits, base, **more):
    return column_adder(task_of(digits, base), **more)


def damaged(network, scale, seed):
    rng = np.random.default_rng(seed)
    noise = lambda w: w + scale * rng.normal(size=w.shape).astype(np.float32)
    return dataclasses.replace(network, params=jax.tree.map(lambda w: noise(np.asarray(w)), network.params))


def exact_margin(network):
    """Return the least margin over all problems, in float64."""
    space = spaces.space(network.task, network)
    return min(exhaustive.examine(network, space, part)["margin"] for part in exhaustive.parts(network, space))


def bounded(network, budget=20_000):
    found = bounds.Bounds(network, budget)
    return [found.examine(part) for part in found.parts]


# --- exhaustive ------------------------------------------------------------------------------------------------


def test_an_adder_written_by_hand_is_proven_by_both_methods():
    network = adder(2, 4)
    enumerated, found = certify(network)
    assert (enumerated.verdict, enumerated.method, enumerated.proven, found) == ("proven", "exhaustive", 1.0, None)
    proven, _ = certify(network, "bounds")
    assert (proven.verdict, proven.method) == ("proven", "bounds")
    assert 0 < proven.slack <= proven.margin <= enumerated.margin + 1e-4
    assert proven.problems == enumerated.problems == 4**4


def test_one_wrong_problem_of_many_is_found_by_enumeration_and_never_proven():
    # Only if all six digits are the largest is the units digit wrong: one problem of 4,096.
    network = adder(3, 4, fires_at=18)
    enumerated, _ = certify(network)
    assert enumerated.verdict == "refuted"
    assert sum(part["open"] for part in enumerated.parts) == 1
    assert "333+333" in enumerated.counterexample["words"]
    assert enumerated.counterexample["says"] != enumerated.counterexample["correct"]
    by_bounds = bounds.Bounds(network, 20_000)
    assert by_bounds.examine((0,))["slack"] < 0
    assert search.judge(network, by_bounds.candidates()).any()  # The cases that stay open lead to it.
    assert by_bounds.examine((1,))["slack"] > 0
    assert not len(by_bounds.candidates())
    check(enumerated, network)


def test_an_error_is_found_among_many_problems_that_are_not_proven(monkeypatch):
    network = adder(2, 4, fires_at=12)  # Only 33 + 33 is wrong, the last of 256 problems.
    computed = exhaustive.forward.logits

    def unbounded(*args):
        found = computed(*args)
        return found._replace(error=np.full_like(found.value, np.inf))

    monkeypatch.setattr(exhaustive.forward, "logits", unbounded)
    certificate, _ = certify(network, "exhaustive")
    assert sum(part["open"] for part in certificate.parts) == 256
    assert certificate.verdict == "refuted"
    assert "33+33" in certificate.counterexample["words"]


def test_a_margin_below_the_allowance_is_unknown():
    network = adder(1, 3)
    params = jax.tree.map(np.asarray, network.params)
    # All logits are nearly equal: what is correct in float64 may not be in another order of float32.
    params["unembed"]["W_U"] = params["unembed"]["W_U"] * 1e-8
    params["unembed"]["W_U"][: network.task.sizes.length] += 1  # At every position.
    certificate, _ = certify(dataclasses.replace(network, params=params))
    assert certificate.verdict == "unknown"
    assert certificate.margin >= 0 > certificate.slack


LISTED = {
    "sum": Modular(p=7, train_fraction=0.6),
    "product of units": Modular(p=8, operation="multiply", train_fraction=0.6),
    "three operands": Modular(p=3, operands=3, train_fraction=0.6),
    "group": Group(name="S3", train_fraction=0.6),
}


@pytest.mark.parametrize("task", LISTED.values(), ids=LISTED)
def test_all_problems_that_can_be_listed_are_enumerated(task):
    model = Transformer(d_model=16, heads=2, d_mlp=32).build(task.sizes)
    network = Network(drawn(model), model, task)
    certificate, _ = certify(network)
    assert certificate.verdict == "refuted"
    inputs = np.asarray([certificate.counterexample["inputs"]])
    assert np.asarray(network.answer(inputs))[0].tolist() == certificate.counterexample["says"]
    assert certificate.problems == task.problems
    batch = task.batch(np.arange(task.problems), network.data.shared)
    assert task.numbers(np.asarray(batch.inputs)[:, : task.operands]).tolist() == list(range(task.problems))
    check(certificate, network)


# --- soundness of the bounds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("digits", "base"), [(1, 2), (1, 5), (2, 2), (2, 3)])
def test_bounds_never_contradict_enumeration(digits, base):
    good = adder(digits, base, sharpness=6)
    model = good.model
    networks = [damaged(good, scale, seed) for seed in range(4) for scale in (0, 0.001, 0.003, 0.1)]
    networks += [Network(drawn(model, seed, 0.5), model, good.task) for seed in range(2)]
    verdicts = []
    for network in networks:
        margin = exact_margin(network)
        parts = bounded(network, budget=2_000)
        least, slack = (min(part[name] for part in parts) for name in ("margin", "slack"))
        assert least <= margin + 1e-4
        assert slack <= least
        verdicts.append((slack > 0, margin > 0))
    assert (True, True) in verdicts
    assert (False, False) in verdicts
    # No bound is useless: most networks that add correctly, damaged as they are, are proven.
    assert sum(proven for proven, correct in verdicts if correct) >= 0.5 * sum(correct for _, correct in verdicts)


@pytest.mark.parametrize("where", ["before", "after"])
def test_two_layers_are_proven_and_never_against_enumeration(where):
    verdicts = []
    for seed, scale in enumerate((0, 0.003, 0.01, 0.03, 0.1)):
        network = deepened(adder(2, 2, sharpness=8), where, scale, seed)
        margin = exact_margin(network)
        parts = bounded(network, budget=2_000)
        least, slack = (min(part[name] for part in parts) for name in ("margin", "slack"))
        assert slack <= least <= margin + 1e-4
        assert scale > 0.003 or least > 0.9 * margin
        verdicts.append((slack > 0, margin > 0))
    assert (True, True) in verdicts
    # Of the correct ones, most are proven, whichever layer adds.
    assert sum(proven for proven, correct in verdicts if correct) >= 0.7 * sum(correct for _, correct in verdicts)


def test_two_layers_are_searched_where_no_bound_of_a_sample_holds():
    task = task_of(4, 10)
    model = Transformer(layers=2, d_model=8, heads=2, d_mlp=10).build(task.sizes)
    network = Network(drawn(model, 0, 0.5), model, task)
    chosen = Certification(network)
    assert chosen.method == "search"
    assert "no bound of 40 random cases is above the allowance for float32, the largest is -" in chosen.reason
    assert Certification(network, "bounds").method == "bounds"
    bounds.Bounds(deepened(adder(2, 3), "after", 0.001)).check_promising()


def one_class_is_rounded_more():
    """Return networks whose logits of one class are computed from two large numbers that cancel."""
    task = task_of(2, 3)
    networks = []
    for layers in (1, 2):
        model = Transformer(layers=layers, d_model=8, heads=2, d_mlp=0).build(task.sizes)
        params = jax.tree.map(np.array, drawn(model, layers + 1))
        params["embed"]["W_E"][:, :2], params["pos_embed"]["W_pos"][:, :2] = 1, 0
        for i in range(layers):
            params[f"blocks.{i}"]["attn"]["W_O"][..., :2] = 0
        params["unembed"]["W_U"][:2] = 0
        params["unembed"]["W_U"][:2, 2] = 2.0**25, -(2.0**25)
        networks.append(Network(params, model, task))
    return networks


def test_the_least_margin_and_the_least_slack_may_be_of_different_rivals():
    for network in one_class_is_rounded_more():
        inputs, targets = spaces.space(network.task, network).batch(np.arange(network.task.space))
        least = margins_of(exhaustive.forward.logits(network.params, network.model, inputs).value, targets).min()
        for method in ("exhaustive", "bounds"):
            certification = Certification(network, method)
            parts = [certification.examine(part) for part in certification.parts]
            assert min(part["margin"] for part in parts) <= least + 1e-9
            found = dataclasses.replace(certification.conclude(parts), verdict="unknown", counterexample={})
            check(found, network)


BOUNDED = {
    "rotary": {"positions": "rope"},
    "alibi": {"positions": "alibi", "attention_bias": True},
    "no MLP": {"d_mlp": 0},
    "published": {"norm": "rmsnorm", "qk_norm": True, "positions": "rope", "mlp": "gated", "activation": "silu"},
    "layer norms around": {"norm": "layernorm", "norm_where": "both", "activation": "gelu", "unembed_bias": True},
    "norms after": {"norm": "rmsnorm", "norm_where": "post", "mlp": "gated", "activation": "relu"},
    "no final norm": {"norm": "layernorm", "final_norm": False, "activation": "sin", "attention_bias": True},
    "square": {"activation": "square"},
    "absolute": {"activation": "abs", "mlp": "gated"},
    "norms alone": {"norm": "rmsnorm", "d_mlp": 0},
}
# Functions of one number are those of `test_additive`, whatever the layers.
SECOND = ("rotary", "alibi", "no MLP", "published", "layer norms around", "norms after", "square")
BOUNDED |= {f"{name}, two layers": {"layers": 2, **BOUNDED[name]} for name in SECOND}


def block(fields):
    """Return networks for two binary digits, of one layer with parameters of two sizes, of two layers with one."""
    task = task_of(2, 2)
    model = Transformer(**{"d_model": 8, "heads": 2, "d_mlp": 10, **fields}).build(task.sizes)
    return [
        Network(drawn(model, 0, scale), model, task) for scale in ((0.5, 0.1) if model.config.layers == 1 else (0.4,))
    ]


NETWORKS = {name: functools.partial(block, fields) for name, fields in BOUNDED.items()}
NETWORKS["written by hand"] = lambda: [damaged(adder(3, 3, sharpness=4), 0.02, 1)]


@pytest.mark.parametrize("name", NETWORKS)
def test_every_case_is_below_the_margins_of_its_problems(name):
    """Before any split, for exact margins, and with its allowance for those of float32 of both forward passes."""
    for network in NETWORKS[name]():
        task, found = network.task, bounds.Bounds(network, 0)
        inputs, targets = spaces.space(task, network).batch(np.arange(task.space))
        exact = margins_of(exhaustive.forward.logits(network.params, network.model, inputs).value, targets)
        singles = [margins_of(y, targets) for y in (network(inputs), plain_logits(network, inputs))]
        covered = np.zeros(exact.shape, bool)
        for digit in range(task.answer_length):
            for group in columns.cases(task, digit):
                lower, slack, _ = found.margins.bound(group)
                for fixed, target, bound, least in zip(group.tokens, group.target, lower, slack, strict=True):
                    among = (inputs[:, group.positions] == fixed).all(axis=1)
                    assert (targets[among, digit] == target).all()
                    assert (exact[among, digit] >= bound - 1e-9).all()
                    assert all((single[among, digit] >= least).all() for single in singles)
                    assert bound - least > 0
                    covered[among, digit] = True
        assert covered.all()


def margins_of(logits, targets):
    logits = np.asarray(logits, np.float64)
    own = np.arange(logits.shape[-1]) == targets[..., None]
    return np.where(own, logits, 0).sum(axis=-1) - np.where(own, -np.inf, logits).max(axis=-1)


def plain_logits(network, inputs):
    forward = jax.jit(plain.forward, static_argnums=1)
    return np.asarray(forward(network.params, network.model, inputs))[:, list(network.model.sizes.read)]


@pytest.mark.parametrize("name", BOUNDED)
def test_the_bounds_of_every_architecture_are_verified(name):
    for network in block(BOUNDED[name]):
        certificate = Certification(network, "bounds")
        parts = [certificate.examine(part) for part in certificate.parts]
        margin = exact_margin(network)
        least = min(part["margin"] for part in parts)
        assert margin - 5 * network.config.layers**2 < least <= margin + 1e-4
        assert all(part["slack"] <= part["margin"] for part in parts)
        check(certificate.conclude(parts), network)


def test_the_weights_of_all_cases_sum_to_one():
    task = task_of(3, 4)
    for digit in range(task.answer_length):
        groups = list(columns.cases(task, digit))
        assert sum(group.weight.sum() for group in groups) == pytest.approx(1)
    first = next(iter(columns.cases(task, 2)))
    wider, number = columns.split(task, first, columns.layout(task).operands[0, 0])
    assert (number.max(axis=1) >= 0).all()
    assert len(wider.target) == (number >= 0).sum()


def test_digitwise_addition_is_bounded_without_carries():
    task = task_of(2, 3, operation="digitwise")
    assert len(list(columns.cases(task, 1))) == 3
    assert task.answer_length == 2


# --- what float32 does to extreme weights -------------------------------------------------------------------------


def float32_logits(network):
    inputs = spaces.space(network.task, network).batch(np.arange(network.task.space))[0]
    return inputs, np.asarray(network(inputs), np.float64)


def test_masked_positions_that_weigh_leave_no_bound():
    # All scores are near -1e12, below that of a masked position: float32 reads a value that nothing may see.
    task = task_of(1, 2)
    model = Transformer(d_model=4, heads=1, d_mlp=0, attention_bias=True).build(task.sizes)
    params = jax.tree.map(lambda w: np.zeros(w.shape, np.float32), model.shapes())
    attention = params["blocks.0"]["attn"]
    attention["b_Q"][0, 0], attention["b_K"][0, 0] = 1e6, -1e6
    params["pos_embed"]["W_pos"][-1, 1] = 1  # The units of the answer, not seen from "=".
    attention["W_V"][0, 1, 0] = attention["W_O"][0, 0, 2] = 1
    params["unembed"]["W_U"][2, 0] = 1
    network = Network(params, model, task)
    inputs, single = float32_logits(network)
    found = exhaustive.forward.logits(params, model, inputs)
    assert np.abs(single[:, 0] - found.value[:, 0]).max() > 0.9
    assert np.isinf(found.error[:, 0]).all()
    part = bounds.Bounds(network).examine((0,))
    assert part["open_weight"] == 1
    json.dumps(part, allow_nan=False)


def test_values_that_overflow_where_they_are_masked_leave_no_bound():
    good = adder(1, 3)
    params = jax.tree.map(np.array, good.params)
    params["pos_embed"]["W_pos"][-1, -1] = 1e30
    params["blocks.0"]["attn"]["W_V"][0, -1, 1] = 1e30
    network = dataclasses.replace(good, params=params)
    assert not np.isfinite(float32_logits(network)[1]).all()
    part = bounds.Bounds(network).examine((0,))
    assert part["open_weight"] == pytest.approx(1)
    assert part["slack"] == NOTHING
    json.dumps(part, allow_nan=False)


def test_cases_whose_weights_float64_cannot_hold_have_no_bound():
    # Of the score of "+" every other score is so far below that its exponential has a digit or two.
    good = adder(1, 2)
    params = jax.tree.map(np.array, good.params)
    network = dataclasses.replace(good, params=params)
    found = bounds.Bounds(network).margins
    group = next(iter(columns.cases(good.task, 0)))
    tables = found._tables(network.model.sizes.read[0], group.own)
    faint = tables._replace(e=np.full_like(tables.e, 5e-324))
    assert (found.bound(group)[1] > 0).all()
    found._tables = lambda read, own: faint
    assert np.isneginf(found.bound(group)[1]).all()


def test_a_case_without_weights_leaves_the_bounds_of_others_sound():
    # Head 0 sees a digit of 1 alone: where no digit is 1, its weights are too small for float64.
    network = damaged(adder(2, 2, sharpness=4), 0.1, 0)
    params = jax.tree.map(np.array, network.params)
    attention = params["blocks.0"]["attn"]
    attention["W_Q"][0], attention["W_K"][0] = 0, 0
    params["pos_embed"]["W_pos"][:, -1] = params["embed"]["W_E"][1, -2] = 1
    attention["W_Q"][0, -1, 0], attention["W_K"][0, -2, 0] = 100, 100 * np.sqrt(task_of(2, 2).sizes.length)
    network = dataclasses.replace(network, params=params)
    found, (inputs, _) = bounds.Bounds(network, 0), float32_logits(network)
    targets = spaces.space(network.task, network).batch(np.arange(16))[1]
    margins = margins_of(exhaustive.forward.logits(params, network.model, inputs).value, targets)
    lacking = 0
    for digit in range(network.task.answer_length):
        for group in columns.cases(network.task, digit):
            lower, _, _ = found.margins.bound(group)
            lacking += np.isneginf(lower).any() and np.isfinite(lower).any()
            for fixed, bound in zip(group.tokens, lower, strict=True):
                assert margins[(inputs[:, group.positions] == fixed).all(axis=1), digit].min() >= bound - 1e-9
    assert lacking


def test_a_network_with_ties_is_refused():
    task = task_of(1, 2)
    model = Transformer(d_model=4, heads=2, d_mlp=4, positions="sinusoidal").build(task.sizes)
    with pytest.raises(UserError, match="untied"):
        certify(Network(drawn(model), model, task))


# --- search and statistics ---------------------------------------------------------------------------------------


@functools.cache
def searched():
    task = Addition(digits=6, answer_order="msd", operand_order="lsd")
    model = Transformer(d_model=8, heads=2, d_mlp=8).build(task.sizes)
    network = Network(drawn(model), model, task)
    return (*certify(network), network)


def test_a_network_that_misses_a_cascade_is_refuted_by_the_search():
    certificate, found, network = searched()
    assert (certificate.method, certificate.verdict) == ("search", "refuted")
    assert "least significant digit first" in certificate.reason
    assert search.judge(network, found.errors[:5]).all()


def test_a_network_that_the_search_refutes_needs_no_bounds():
    network = adder(4, 4, sharpness=1.0)
    certificate, found = certify(network, "bounds")
    assert len(found.errors)
    assert (certificate.method, certificate.verdict, certificate.parts) == ("search", "refuted", ())
    check(changed(certificate, lambda data: None), network)


def test_the_gradient_leads_to_rare_errors(monkeypatch):
    # Heads see a little of other columns: 21 of 65,536 problems are errors. Ten of 24 changes are tried.
    monkeypatch.setattr(search, "_TRIED", 10)
    network = adder(4, 4, sharpness=4.25)
    start = np.random.default_rng(0).integers(0, 4, (24, 2, 4), np.int32)
    assert not search.judge(network, start).any()
    errors = search.from_problems(network, start)
    assert len(errors)
    assert search.judge(network, errors).all()
    gains = search._gains
    monkeypatch.setattr(search, "_gains", lambda *args: -gains(*args))
    assert not len(search.from_problems(network, start))  # The other direction leads to none.


def test_candidates_are_problems_of_their_cases():
    network, rng = adder(3, 5), np.random.default_rng(0)
    digit, task = 3, network.task
    (group,) = (group for group in columns.cases(task, digit) if group.own == 2)
    deeper, _ = columns.split(task, group, int(columns.layout(task).answers[1]))
    drawn_ones = columns.problems(task, deeper, rng, 300)
    tokens = np.asarray(task.batch(drawn_ones).inputs)[:, deeper.positions]
    cases = {(*row, target) for row, target in zip(deeper.tokens.tolist(), deeper.target.tolist(), strict=True)}
    targets = np.asarray(task.batch(drawn_ones).targets)[:, digit]
    found = {(*row, target) for row, target in zip(tokens.tolist(), targets.tolist(), strict=True)}
    assert found == cases


def test_clopper_pearson_intervals_have_their_tail_probabilities():
    assert search.interval(0, 1000) == (0.0, pytest.approx(-np.log(0.025) / 1000, rel=2e-3))
    assert search.interval(3, 3)[0] == pytest.approx(0.025 ** (1 / 3))
    # The published interval of 4 of 20 (Clopper & Pearson 1934).
    assert search.interval(4, 20) == (pytest.approx(0.0573, abs=1e-4), pytest.approx(0.4366, abs=1e-4))


# --- checks ------------------------------------------------------------------------------------------------------


@functools.cache
def leaky():
    """Return a network that adds correctly, whose heads also see a little of other columns."""
    return damaged(adder(2, 3, sharpness=6), 0.003, 0)


@functools.cache
def certified(method):
    return certify(leaky(), method)[0]


def changed(certificate, change):
    data = json.loads(json.dumps(certificate.to_json()))
    change(data)
    return Certificate.from_json(data)


@pytest.mark.parametrize("method", ["exhaustive", "bounds"])
def test_a_certificate_holds_after_it_was_written_and_read(method):
    certificate = certified(method)
    network = leaky()
    assert certificate.verdict == "proven"
    check(changed(certificate, lambda data: None), network)


def raise_bound(data):
    data["parts"][1]["bounds"]["1"][0] = 100.0


def lower_bound(data):
    data["parts"][1]["bounds"]["1"][0] -= 1.0


def drop_case(data):
    data["parts"][1]["bounds"]["1"].pop()


def drop_token(data):
    del data["parts"][1]["bounds"]["1"]


def drop_part(data):
    data["parts"].pop()


def exclude_case(data):
    data["parts"][2]["bounds"]["0"][0] = [0, [None, 1.0, 1.0]]


def raise_margin(data):
    data["margin"] += 1
    data["parts"][0]["margin"] += 1


def assume_less(data):
    data["assumptions"].pop()


def claim_another_verdict(data):
    data["verdict"] = "refuted"


def drop_margin(data):
    del data["parts"][0]["margin"]


def widen_space(data):
    data["space"]["digits"] += 1


@pytest.mark.parametrize(
    ("method", "change", "says"),
    [
        ("bounds", raise_bound, "the bound of A1"),
        ("bounds", lower_bound, "the bound of A1"),
        ("bounds", drop_case, "are not all there"),
        ("bounds", drop_token, "are not all there"),
        ("bounds", drop_part, "not all of the space"),
        ("bounds", exclude_case, "is left out"),
        ("bounds", widen_space, "another space"),
        ("bounds", assume_less, "assumptions"),
        ("bounds", claim_another_verdict, "counterexample"),
        ("bounds", drop_margin, "damaged"),
        ("exhaustive", raise_margin, "margin"),
        ("exhaustive", drop_part, "not all of the space"),
        ("exhaustive", widen_space, "another space"),
    ],
)
def test_a_changed_certificate_is_rejected(method, change, says):
    with pytest.raises(UserError, match=says):
        check(changed(certified(method), change), leaky())


def leaves_of(trees):
    """Yield every list with bounds, and the place of each bound in it."""
    for place, tree in enumerate(trees):
        if isinstance(tree, list):
            yield from leaves_of(tree[1])
        elif tree is not None:
            yield trees, place


def raise_first_leaf(data):
    trees, place = next(leaves_of(data["parts"][2]["bounds"]["1"]))
    trees[place] += 1e-3


def lower_first_leaf(data):
    trees, place = next(leaves_of(data["parts"][2]["bounds"]["1"]))
    trees[place] -= 1.0


@functools.cache
def certified_two_layers(name):
    network = block(BOUNDED[f"{name}, two layers"])[0]
    certificate = Certification(network, "bounds")
    return certificate.conclude([certificate.examine(part) for part in certificate.parts]), network


TWO_LAYERS = ["rotary", "alibi", "published", "norms after"]


@pytest.mark.parametrize("name", TWO_LAYERS)
@pytest.mark.parametrize("change", [raise_first_leaf, lower_first_leaf])
def test_a_changed_bound_of_two_layers_is_rejected(name, change):
    certificate, network = certified_two_layers(name)
    check(changed(certificate, lambda data: None), network)
    with pytest.raises(UserError, match="the bound of A2"):
        check(changed(certificate, change), network)


@pytest.mark.parametrize("name", TWO_LAYERS)
@pytest.mark.parametrize(("layer", "weight"), [(0, "W_K"), (0, "W_V"), (1, "W_Q"), (1, "W_O")])
def test_a_certificate_does_not_hold_for_changed_weights_of_two_layers(name, layer, weight):
    """Even where it names the network with these weights."""
    certificate, network = certified_two_layers(name)
    params = jax.tree.map(np.array, network.params)
    params[f"blocks.{layer}"]["attn"][weight][0, 0, 0] += 1.0
    other = dataclasses.replace(network, params=params)
    with pytest.raises(UserError, match="another network"):
        check(certificate, other)
    renamed = dataclasses.replace(certificate, network=fingerprint(params, network.model))
    with pytest.raises(UserError, match="the certificate does not hold"):
        check(renamed, other)


def bounds_of_check(network):
    """Return the bounds of the first answer digit, no digit fixed, as the verification computes them."""
    tables, task = Tables(network), network.task
    read = network.model.sizes.read[0]
    leaves = Leaves(read, int(tables.constants[read]), (), np.zeros((task.base, 0), int), np.arange(task.base))
    return TwoLayers(tables).bounds(leaves)


def bounds_of_search(network):
    """Return those of the search: the bound and slack of each case."""
    return bounds.Bounds(network, 0).margins.bound(next(iter(columns.cases(network.task, 0))))[:2]


@pytest.mark.parametrize("computed", [bounds_of_search, bounds_of_check])
def test_two_layers_have_no_bound_where_masked_positions_matter(computed):
    task = task_of(1, 2)
    model = Transformer(d_model=4, heads=1, d_mlp=0, attention_bias=True, layers=2).build(task.sizes)

    def network(mark):
        params = jax.tree.map(lambda w: np.zeros(w.shape, np.float32), model.shapes())
        params["pos_embed"]["W_pos"][-1, 1] = mark  # The units of the answer, not seen from "=".
        params["blocks.1"]["attn"]["W_V"][0, 1, 0] = max(mark, 1)
        return Network(params, model, task)

    assert all(np.isfinite(x).all() for x in computed(network(1)))
    margin, slack = computed(network(1e30))  # A value overflows.
    assert not np.isfinite(margin).any()
    assert not np.isfinite(slack).any()
    weighs = network(1)  # Scores are below those of masked positions.
    attention = weighs.params["blocks.1"]["attn"]
    attention["b_Q"][0, 0], attention["b_K"][0, 0] = 1e6, -1e6
    attention["W_O"][0, 0, 2] = 1
    weighs.params["unembed"]["W_U"][2, 0] = 1
    margin, slack = computed(weighs)
    assert not np.isfinite(slack).any()


def test_more_of_the_space_cannot_be_claimed_than_is_proven():
    network = adder(2, 3, fires_at=8)  # One problem of 81 is wrong.
    certification = Certification(network, "bounds")
    parts = [certification.examine(part) for part in certification.parts]
    found = dataclasses.replace(certification.conclude(parts), verdict="unknown", counterexample={})
    assert 0 < found.proven < 1
    check(found, network)
    forged = dataclasses.replace(found, proven=1.0, parts=tuple({**part, "open_weight": 0.0} for part in parts))
    with pytest.raises(UserError, match="less of the space is proven"):
        check(forged, network)


@functools.cache
def refuted():
    task = task_of(1, 3, target="single", digit=1)
    model = Transformer(d_model=4, heads=2, d_mlp=4).build(task.sizes)
    network = Network(drawn(model), model, task)
    return certify(network)[0], network


def correct_another_answer(data):
    example = data["counterexample"]
    example["correct"] = [1 - example["correct"][0]]


def leave_the_space(data):
    data["counterexample"]["inputs"][0] = 3  # "+" in the place of a digit.


def change_the_words(data):
    data["counterexample"]["words"] += "!"


def prove_more(data):
    data["proven"] = 0.999


def lower_an_error_rate(data):
    data["statistics"][0]["high"] *= 0.99


def count_no_error(data):
    data["statistics"][0]["errors"] = -1


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (correct_another_answer, "its correct answer is not correct"),
        (leave_the_space, "no problem of the space"),
        (change_the_words, "the network says"),
        (prove_more, "less of the space is proven"),
    ],
)
def test_a_changed_counterexample_is_rejected(change, says):
    certificate, network = refuted()
    check(changed(certificate, lambda data: None), network)
    with pytest.raises(UserError, match=says):
        check(changed(certificate, change), network)


@pytest.mark.parametrize("change", [lower_an_error_rate, count_no_error])
def test_a_changed_error_rate_is_rejected(change):
    certificate, _, network = searched()
    check(changed(certificate, lambda data: None), network)
    with pytest.raises(UserError, match="an interval of an error rate"):
        check(changed(certificate, change), network)


def test_a_certificate_of_another_network_is_rejected():
    network = leaky()
    params = jax.tree.map(np.array, network.params)
    params["embed"]["W_E"][0, 0] += 1e-6
    with pytest.raises(UserError, match="another network"):
        check(certified("bounds"), dataclasses.replace(network, params=params))


# --- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"layers": 3}, "one or two layers .* 3 layers"),
        ({"attention_mix": 0.5}, "attention_mix 0.5"),
        ({"dtype": "bfloat16"}, "float32"),
    ],
)
def test_what_the_bounds_do_not_cover_is_said_in_a_line(fields, says):
    task = task_of(6, 10)
    model = Transformer(**{"d_model": 8, "heads": 2, "d_mlp": 8, **fields}).build(task.sizes)
    with pytest.raises(UserError, match=says):
        certify(Network(drawn(model), model, task), "bounds")


def test_a_network_trained_with_dropout_is_certified_as_it_answers():
    task = Modular(p=5)
    model, dropped = (Transformer(d_model=8, heads=2, d_mlp=8, dropout=x).build(task.sizes) for x in (0.0, 0.2))
    params = drawn(model)
    certificates = [certify(Network(params, m, task))[0] for m in (model, dropped)]
    assert certificates[0].margin == certificates[1].margin


def test_a_task_without_a_space_is_refused():
    task = HandwrittenDigits()
    model = MLP().build(task.sizes)
    with pytest.raises(UserError, match="certify covers"):
        certify(Network(drawn(model), model, task))
