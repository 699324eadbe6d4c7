"""The test of hypotheses, on a network whose circuit is known because it was written by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.analysis import hypotheses as hy
from jaxadd.analysis.hypotheses import Claim, Kept, Part, Same
from jaxadd.analysis.interventions import Site
from jaxadd.models import Transformer
from jaxadd.optim import losses
from jaxadd.tasks import Addition
from jaxadd.types import Batch

TASK = Addition(digits=2, target="single", digit=1, batch_size=8)
READ = TASK.sizes.read
Z, POST = "blocks.0.attn.hook_z", "blocks.0.mlp.hook_post"


def planted():
    """Write a network that adds: the tens digit of a₁a₀ + b₁b₀.

    Head 0 reads both units at `=`, head 1 both tens. Forty neurons know where 10 (a₁ + b₁) + (a₀ + b₀) passes a
    multiple of ten, in pairs whose difference is a step, and the logits add the steps up. Residual: dimensions
    0 to 5 are the position, 6 the value of a digit, 7 the sum of the units, 8 that of the tens, 9 a one; 10 to 19
    the classes.
    """
    model = Transformer(layers=1, d_model=20, heads=2, d_mlp=40).build(TASK.sizes)
    params = jax.tree.map(lambda w: np.zeros(w.shape, np.float32), model.init(jax.random.key(0)))
    params["embed"]["W_E"][:10, 6] = np.arange(10)
    params["pos_embed"]["W_pos"][:, :6] = np.eye(6)
    params["pos_embed"]["W_pos"][:, 9] = 1
    attention, mlp = params["blocks.0"]["attn"], params["blocks.0"]["mlp"]
    for head, places in ((0, (1, 4)), (1, (0, 3))):  # a1 a0 + b1 b0 =
        attention["W_Q"][head, 5, 0] = 100
        attention["W_K"][head, list(places), 0] = 1
        attention["W_V"][head, 6, 0] = 2  # The mean of two digits, twice.
        attention["W_O"][head, 0, 7 + head] = 1
    steps = np.arange(20)
    mlp["W_in"][7, :], mlp["W_in"][8, :] = 1, 10
    mlp["b_in"][:20], mlp["b_in"][20:] = -(10 * steps - 1), -(10 * steps)
    change = np.zeros((20, 10), np.float32)
    change[steps, steps % 10] += 1
    change[steps[1:], (steps[1:] - 1) % 10] -= 1
    mlp["W_out"][:20, 10:], mlp["W_out"][20:, 10:] = 12 * change, -12 * change
    params["unembed"]["W_U"][10:] = np.eye(10)
    return model, jax.tree.map(jnp.asarray, params)


@pytest.fixture(scope="module")
def network():
    model, params = planted()
    operands = TASK.draw(jax.random.key(0), 600)
    return model, params, operands, TASK.batch(operands)


def column(k):
    return lambda operands: TASK.features(operands).sum[..., k]


def generate(k):
    return lambda operands: TASK.features(operands).generate[..., k]


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


def scores_of(network, claims, **keywords):
    model, params, operands, batch = network
    return hy.score(hy.scrub(params, model.apply, batch, operands, claims, jax.random.key(2), read=READ, **keywords))


def test_the_planted_network_adds(network):
    model, params, _, batch = network
    logits, _ = model.apply(params, batch.inputs)
    assert float(jnp.max(losses.cross_entropy(logits, batch.targets))) < 1e-3


def test_true_claims_score_above_and_false_ones_below(network):
    scores = dict(zip((c.name for c in TRUE + FALSE), scores_of(network, TRUE + FALSE), strict=True))
    for claim in TRUE:
        assert scores[claim.name].score > 0.99, claim.name
        assert scores[claim.name].verdict == "holds"
    for claim in FALSE:
        assert scores[claim.name].score < 0.5, claim.name
        assert scores[claim.name].verdict in ("fails", "in part")
    for s in scores.values():
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
        result = hy.assess(
            params, model.apply, batch, operands, Claim(name, (Part(HEAD0, kept),)), jax.random.key(1), read=READ
        )
        assert (result.score > 0.99) if true else (result.score < 0.5), name


def test_an_activation_that_does_not_matter_gets_no_verdict_on_what_it_carries(network):
    (result,) = scores_of(network, [one("attention to +", Site("blocks.0.attn.hook_v", positions=(2,)), column(0))])
    assert result.verdict == "does not matter"
    assert np.isnan(result.score)


def test_noise_is_tested_against_more_than_itself(network):
    pattern = "blocks.0.attn.hook_v"
    noise = Claim("v of a1 in head 0 is noise", (Part(Site(pattern, positions=(0,), heads=(0,)), Same(hy.constant)),))
    (alone, against) = scores_of(network, [noise, noise._replace(against=(Site(pattern),))])
    assert alone.verdict == "does not matter"
    assert against.score > 0.99
    signal = Claim(
        "v of a0 in head 0 is noise", (Part(Site(pattern, positions=(1,), heads=(0,)), Same(hy.constant)),)
    )
    (false,) = scores_of(network, [signal._replace(against=(Site(pattern),))])
    assert false.score < 0.9


def test_partners_share_labels_and_are_others():
    labels = jax.random.randint(jax.random.key(0), (200, 2), 0, 6)
    labels = labels.at[0].set(jnp.array([77, 78]))  # Alone in its class.
    partner, has = jax.jit(hy.partners)(jax.random.key(1), labels)
    np.testing.assert_array_equal(labels[partner], labels)
    np.testing.assert_array_equal(np.sort(partner), np.arange(200))  # Each serves once.
    alone = np.array([(np.asarray(labels) == row).all(axis=1).sum() == 1 for row in np.asarray(labels)])
    np.testing.assert_array_equal(has, ~alone)
    np.testing.assert_array_equal(np.asarray(partner) == np.arange(200), alone)
    again, _ = hy.partners(jax.random.key(2), labels)
    assert (np.asarray(again) != partner).any()


def test_downstream_parts_come_from_the_clean_network(network):
    model, params, operands, batch = network
    # The neurons are replaced whole, so what happens to the head before them cannot matter.
    neurons = Part(NEURONS, Same(both(column(1), generate(0))))
    claim = Claim("composed", (Part(HEAD0, Same(hy.constant)), neurons))
    result = hy.assess(params, model.apply, batch, operands, claim, jax.random.key(4), read=READ)
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
    result = hy.assess(params, model.apply, few, operands[:20], claim, jax.random.key(4), read=READ)
    assert result.partnered == 0
    assert result.score == pytest.approx(1, abs=1e-5)


def test_kept_takes_any_function(network):
    model, params, operands, batch = network
    everything = Claim("all of it", (Part(HEAD0, Kept(lambda x, _: x)),))
    result = hy.assess(params, model.apply, batch, operands, everything, jax.random.key(4), read=READ)
    assert result.score == pytest.approx(1, abs=1e-4)
