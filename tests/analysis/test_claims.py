"""Claims are tested as they are registered, each by its best candidate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import ADDER, adder

from jaxadd.analysis import claims, hypotheses
from jaxadd.analysis.claims import Entry, Prepared, Problems
from jaxadd.analysis.hypotheses import Claim, Part, Same
from jaxadd.analysis.interventions import Site
from jaxadd.models import Network


@pytest.fixture
def prepared(monkeypatch):
    """Register one claim, with a candidate for each head, about the network written by hand."""
    model, params = adder()
    operands = ADDER.draw(jax.random.key(0), 200)
    problems = Problems(ADDER.batch(operands), operands)
    feature = Same(lambda operands: ADDER.features(operands).sum[:, 1])
    heads = [Claim(f"head {h}", (Part(Site("blocks.0.attn.hook_z", heads=(h,)), feature),)) for h in (0, 1)]
    entries = [Entry("a head carries the tens' sum", tuple(heads)), Entry("nothing applies", ())]
    monkeypatch.setattr(claims, "prepare", lambda *_: Prepared(entries, problems, problems))
    return Network(params, model, ADDER)


def test_the_best_candidate_stands_for_an_entry(prepared):
    (finding,) = claims.assess(prepared, jax.random.key(1))
    assert (finding.text, finding.claim) == ("a head carries the tens' sum", "head 1")
    assert finding.score.verdict == "holds"


def test_a_candidate_whose_loss_is_not_finite_is_not_chosen(prepared, monkeypatch):
    scrub = hypotheses.scrub

    def broken(params, model, batch, problems, tested, key, **more):
        measured = scrub(params, model, batch, problems, tested, key, **more)
        first = jnp.array([claim.name == "head 1" for claim in tested])[:, None]
        return measured._replace(scrubbed=jnp.where(first, jnp.nan, measured.scrubbed))

    monkeypatch.setattr(hypotheses, "scrub", broken)
    (finding,) = claims.assess(prepared, jax.random.key(1))
    assert finding.claim == "head 0"
    assert np.isfinite(finding.score.loss)


def test_nothing_is_claimed_of_a_task_with_nothing_registered():
    class Other:
        pass

    assert claims.prepare(Other(), None, None) == Prepared((), None, None)
