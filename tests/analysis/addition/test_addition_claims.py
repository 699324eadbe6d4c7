"""Claims about networks that add, on one that learned to."""

import jax
import numpy as np
import pytest

from jaxadd.analysis import addition, claims
from jaxadd.config import RunConfig, Stop
from jaxadd.lanes import take
from jaxadd.models import Network, Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.tasks import Addition
from jaxadd.training.loop import fit
from jaxadd.training.trainer import Trainer


@pytest.fixture(scope="module")
def learned():
    """Two-digit addition in base 3, learned."""
    config = RunConfig(
        task=Addition(digits=2, base=3, batch_size=64, test_examples=64, cascade_examples=8),
        model=Transformer(layers=2, d_model=24, heads=2, d_mlp=48),
        optimizer=AdamW(lr=5e-3, weight_decay=0.0),
        steps=600,
        eval_every=50,
        stop=Stop("test_accuracy", 1.0),
    )
    trainer = Trainer(config)
    return Network(take(fit(trainer).state.params, 0), trainer.model, config.task)


def test_every_claim_that_applies_gets_a_verdict(learned, monkeypatch):
    monkeypatch.setattr(addition.claims, "_EXAMPLES", 128)
    findings = claims.assess(learned, jax.random.key(0))
    by_text = {finding.text: finding.score for finding in findings}
    assert len(by_text) == len(findings)
    assert {"a head carries column 0's sum", "a head carries the carry into column 1"} <= set(by_text)
    assert "layer 1 adds, layer 2 carries" in by_text
    for score in by_text.values():
        assert score.verdict in ("holds", "in part", "fails", "does not matter")
    # Its answers are correct, so its logits are the true digits, and the naive digits are not enough.
    true = by_text["each answer's logits know the true digit and nothing else"]
    naive = by_text["each answer's logits know the naive digit and nothing else"]
    assert true.score > naive.score + 0.1
    assert true.verdict == "holds"
    assert np.isfinite(true.score)
