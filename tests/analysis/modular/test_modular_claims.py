"""Claims about networks that add mod P."""

import jax
import numpy as np
import pytest
from networks import drawn

from jaxadd.analysis import claims
from jaxadd.analysis.hypotheses import Kept
from jaxadd.analysis.modular.claims import _plane
from jaxadd.analysis.modular.problem import whole_problem
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Modular


def network(operation):
    task = Modular(p=7, operation=operation, train_fraction=0.5)
    model = Transformer(d_model=16, heads=2, d_mlp=32).build(task.sizes)
    return Network(drawn(model), model, task)


@pytest.mark.parametrize(("operation", "sign"), [("add", "+"), ("subtract", "-"), ("multiply", "×"), ("divide", "÷")])
def test_claims_about_modular_networks_follow_the_operation(operation, sign):
    entries = claims.prepare(network(operation).task, network(operation), jax.random.key(1)).entries
    texts = [entry.text for entry in entries]
    assert "attention to = is noise" in texts
    assert f"neurons carry a {sign} b mod 7 and nothing else of a and b" in texts


def test_every_claim_about_a_modular_network_gets_a_verdict():
    findings = claims.assess(network("add"), jax.random.key(1))
    assert any("attention to =" in finding.text for finding in findings)
    for finding in findings:
        assert finding.score.verdict in ("holds", "in part", "fails", "does not matter")


def test_nothing_is_claimed_of_an_operation_that_is_no_sum():
    assert claims.assess(network("a2+ab+b2"), jax.random.key(1)) == []


def test_spans_of_waves_keep_waves_and_nothing_else():
    task = Modular(p=11, train_fraction=0.5)
    inputs = task.batch(np.arange(121), {}).inputs
    a, b = np.asarray(inputs[:, 0]), np.asarray(inputs[:, 1])
    wave = lambda k, n: np.cos(2 * np.pi * k * n / 11 + 0.3)
    plane = _plane(whole_problem(task, {name: pairs[0] for name, pairs in task.data([0]).lane.items()}), 3)
    assert isinstance(plane, Kept)
    x = np.stack([wave(3, a + b), wave(3, a) * wave(3, b), wave(3, a) + 2, wave(2, a + b), wave(3, 2 * a)], axis=1)
    kept = jax.jit(plane.part)(x, inputs)
    np.testing.assert_allclose(kept[:, :3], x[:, :3], atol=1e-5)
    np.testing.assert_allclose(kept[:, 3:], 0, atol=1e-5)
