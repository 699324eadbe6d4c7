"""The test of hypotheses, on a network whose circuit is known because it was written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import ADDER, adder

from jaxadd.analysis import hypotheses as hy
from jaxadd.analysis.hypotheses import Claim, Kept, Part, Same
from jaxadd.analysis.interventions import Site
from jaxadd.optim import losses
from jaxadd.types import Batch

Z, POST = "blocks.0.attn.hook_z", "blocks.0.mlp.hook_post"


@pytest.fixture(scope="module")
def network():
    model, params = adder()
    operands = ADDER.draw(jax.random.key(0), 500)
    return model, params, operands, ADDER.batch(operands)


def column(k):
    return lambda operands: ADDER.features(operands).sum[..., k]


def generate(k):
    return lambda operands: ADDER.features(operands).generate[..., k]


def digit(operand, k):
    return lambda operands: operands[:, operand, k]


def both(*features):
    return lambda operands: jnp.stack([f(operands).astype(jnp.int32) for f in features], axis=-1)


def one(name, site, feature):
    return Claim(name, (Part(site, Same(feature)),))


HEAD0, HEAD1, NEURONS = Site(Z, heads=(0,)), Site(Z, heads=(1,)), Site(POST)
TRUE = [
    one("head 0 carries the units' sum", HEAD0, column(0)),
    one("head 0 carries the units' generate", HEAD0, generate(0)),
    one("head 1 carries the tens' sum", HEAD1, column(1)),
    one("neurons carry the tens' sum and the carry", NEURONS, both(column(1), generate(0))),
    Claim("both heads at once", (Part(HEAD0, Same(column(0))), Part(HEAD1, Same(column(1))))),
    Claim("a third head's worth of nothing", (Part(HEAD0, Same(both(column(0), column(1)))),)),
]
FALSE = [
    one("head 0 carries the tens' sum", HEAD0, column(1)),
    one("head 0 carries a digit of the units", HEAD0, digit(0, 0)),
    one("head 1 carries the units' sum", HEAD1, column(0)),
    one("head 1 carries one of its digits", HEAD1, digit(1, 1)),
    one("neurons carry the carry alone", NEURONS, generate(0)),
    Claim("heads exchanged", (Part(HEAD0, Same(column(1))), Part(HEAD1, Same(column(0))))),
]


VALUES = "blocks.0.attn.hook_v"
IDLE = one("attention to +", Site(VALUES, positions=(2,)), column(0))
# Head 0 does not look at a1.
NOISE = Claim("v of a1 in head 0 is noise", (Part(Site(VALUES, positions=(0,), heads=(0,)), Same(hy.constant)),))
SIGNAL = Claim("v of a0 in head 0 is noise", (Part(Site(VALUES, positions=(1,), heads=(0,)), Same(hy.constant)),))
AGAINST = [claim._replace(name=f"{claim.name} of all", against=(Site(VALUES),)) for claim in (NOISE, SIGNAL)]


def scores_of(network, claims, **keywords):
    model, params, operands, batch = network
    return hy.score(hy.scrub(params, model, batch, operands, claims, jax.random.key(2), **keywords))


@pytest.fixture(scope="module")
def scores(network):
    """The scores of all claims by name, in one compiled call."""
    claims = [*TRUE, *FALSE, IDLE, NOISE, *AGAINST]
    return dict(zip((claim.name for claim in claims), scores_of(network, claims), strict=True))


def test_the_planted_network_adds(network):
    model, params, _, batch = network
    logits, _ = jax.jit(model.apply)(params, batch.inputs)
    assert float(jnp.max(losses.cross_entropy(logits, batch.targets))) < 1e-3


def test_true_claims_score_above_and_false_ones_below(scores):
    for claim in TRUE:
        assert scores[claim.name].score > 0.99, claim.name
        assert scores[claim.name].verdict == "holds"
    for claim in FALSE:
        assert scores[claim.name].score < 0.5, claim.name
        assert scores[claim.name].verdict in ("fails", "in part")
    for claim in (*TRUE, *FALSE):
        s = scores[claim.name]
        assert s.low <= s.score <= s.high


def test_a_continuous_feature_keeps_its_span(network):
    model, params, operands, batch = network
    linear = lambda *features: hy.span(
        lambda o: jnp.stack([jnp.ones(len(o)), *(f(o).astype(jnp.float32) for f in features)], axis=-1)
    )
    # Head 0's output is exactly linear in the units' sum, so also in the two digits, but not in one of them.
    cases = {"sum": (linear(column(0)), True), "digits": (linear(digit(0, 0), digit(1, 0)), True)}
    cases |= {"one digit": (linear(digit(0, 0)), False), "other column": (linear(column(1)), False)}
    for name, (kept, true) in cases.items():
        result = hy.assess(params, model, batch, operands, Claim(name, (Part(HEAD0, kept),)), jax.random.key(1))
        assert (result.score > 0.99) if true else (result.score < 0.5), name


def test_an_activation_that_does_not_matter_gets_no_verdict_on_what_it_carries(scores):
    assert scores[IDLE.name].verdict == "does not matter"
    assert np.isnan(scores[IDLE.name].score)


def test_noise_is_tested_against_more_than_itself(scores):
    noise, signal = (scores[claim.name] for claim in AGAINST)
    assert scores[NOISE.name].verdict == "does not matter"
    assert noise.score > 0.99
    assert signal.score < 0.9


def test_partners_share_labels_and_are_others():
    labels = np.random.default_rng(0).integers(0, 6, (200, 2)).astype(np.int32)
    labels[0] = 77, 78  # Alone in its class.
    draw = jax.jit(hy.partners)
    partner, has = (np.asarray(x) for x in draw(jax.random.key(1), labels))
    np.testing.assert_array_equal(labels[partner], labels)
    np.testing.assert_array_equal(np.sort(partner), np.arange(200))  # Each serves once.
    alone = np.array([(labels == row).all(axis=1).sum() == 1 for row in labels])
    np.testing.assert_array_equal(has, ~alone)
    np.testing.assert_array_equal(partner == np.arange(200), alone)
    again, _ = draw(jax.random.key(2), labels)
    assert (np.asarray(again) != partner).any()


def test_downstream_parts_come_from_the_clean_network(network):
    model, params, operands, batch = network
    # The neurons are replaced whole, so what happens to the head before them cannot matter.
    neurons = Part(NEURONS, Same(both(column(1), generate(0))))
    claim = Claim("composed", (Part(HEAD0, Same(hy.constant)), neurons))
    result = hy.assess(params, model, batch, operands, claim, jax.random.key(4))
    assert result.score > 0.99


def test_features_that_are_not_whole_numbers_and_empty_lists_are_refused(network):
    with pytest.raises(ValueError, match="whole numbers"):
        scores_of(network, [one("wave", HEAD0, lambda o: jnp.cos(o[:, 0, 0]))])
    with pytest.raises(ValueError, match="no claim"):
        scores_of(network, [])


def test_lone_problems_are_counted(network):
    model, params, operands, batch = network
    few = Batch(batch.inputs[:20], batch.targets[:20])
    claim = one("every problem its own class", HEAD0, lambda o: jnp.arange(len(o)))
    result = hy.assess(params, model, few, operands[:20], claim, jax.random.key(4))
    assert result.partnered == 0
    assert result.score == pytest.approx(1, abs=1e-5)


def test_kept_takes_any_function(network):
    model, params, operands, batch = network
    everything = Claim("all of it", (Part(HEAD0, Kept(lambda x, _: x)),))
    result = hy.assess(params, model, batch, operands, everything, jax.random.key(4))
    assert result.score == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["clean", "scrubbed", "random"])
def test_where_a_loss_is_not_finite_there_is_no_verdict(bad, where):
    values = {"clean": np.zeros(4), "scrubbed": np.full((1, 4), 0.1), "random": np.ones((1, 4))}
    (fine,) = hy.score(hy.Losses(**values, partnered=np.ones(1)))
    assert fine.verdict == "holds"
    values[where].flat[1] = bad
    (broken,) = hy.score(hy.Losses(**values, partnered=np.ones(1)))
    assert broken.verdict == "not defined"
    assert np.isnan([broken.score, broken.low, broken.high]).all()
