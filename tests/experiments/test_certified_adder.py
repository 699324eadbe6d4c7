"""Networks are trained, certified, and trained on with the errors that were found."""

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from experiments import certified_adder
from jaxadd.errors import UserError
from jaxadd.tasks import Addition, Mixture


def test_a_network_is_trained_and_certified(few_figures, shell, tmp_path):
    status, out, error = shell("certified_adder", "debug", "--seeds", 0, 1, "--name", "it", "--runs", tmp_path)
    assert status == 0, error
    assert "0 of 2 networks proven on all 1e+04 problems" in out
    for seed in (0, 1):
        path = tmp_path / "certified_adder" / "it" / "round1" / f"seed{seed}" / "certificate.json"
        certificate = json.loads(path.read_text())
        assert certificate["verdict"] == "refuted"
        assert certificate["counterexample"]["words"] in out
    first = json.loads((tmp_path / "certified_adder" / "it" / "round1" / "config.json").read_text())
    listed = first["config"]["task"]["mixture"]["problems"]
    assert len(set(listed)) == 100
    assert {"00+00", "99+11"} <= set(listed)


def test_a_network_is_trained_at_least_once():
    with pytest.raises(UserError, match="rounds must be at least 1, got 0"):
        replace(certified_adder.PRESETS["debug"], rounds=0)


def test_errors_join_the_mixture_of_the_next_training():
    run, draw = certified_adder.PRESETS["five"].base, jax.jit(Addition.draw, static_argnums=(0, 2))
    after = certified_adder.continued(run, "folder", ("12345+54321", "00000+00001", "12345+54321"))
    assert after.init_from == "folder"
    assert after.optimizer.lr == run.optimizer.lr / 2
    assert after.task.mixture.problems == ("12345+54321", "00000+00001")
    problems = np.asarray(draw(after.task, jax.random.key(0), 2000))
    listed = (problems == np.asarray([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5]])).all(axis=(1, 2)).mean()
    assert 0.02 < listed < 0.08  # Half of 0.1 / 1.2.
    only = replace(after.task, mixture=Mixture(uniform=0, listed=1, problems=("00000+00001",)))
    assert np.asarray(draw(only, jax.random.key(0), 3)).sum() == 3
    # Without errors, the same problems are drawn as before.
    again = certified_adder.continued(run, "folder", ())
    assert (draw(again.task, jax.random.key(1), 5) == draw(run.task, jax.random.key(1), 5)).all()
