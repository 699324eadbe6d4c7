"""Runs that start from the parameters of another network."""

from dataclasses import replace

import chex
import jax
import numpy as np
import pytest

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.models import Transformer, Weights
from jaxadd.models.fitting import fit
from jaxadd.runs import load, train
from jaxadd.runs.initial import initial
from jaxadd.training.trainer import Trainer

QUIET = {"note": lambda _: None}


@pytest.fixture(scope="module")
def parent(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent") / "run"
    return train(replace(tiny, steps=5), folder, **QUIET)


def test_lanes_start_from_the_lanes_of_a_run_with_their_seeds(parent, tiny):
    config = replace(tiny, seeds=(1, 0), init_from=str(parent.folder), steps=2)
    state = initial(Trainer(config))
    chex.assert_trees_all_equal(state.params, jax.tree.map(lambda w: w[::-1], parent.params))
    run = train(config)
    start = Trainer(config).evaluate(state.params)["test_loss"]
    np.testing.assert_allclose(run.metrics["test_loss"][:, 0], start, rtol=1e-6)
    assert not np.allclose(start, Trainer(tiny).evaluate(Trainer(tiny).init().params)["test_loss"])


def test_every_lane_starts_from_a_checkpoint_and_a_folder_keeps_it(parent, tiny, tmp_path):
    path = tmp_path / "network.pth"
    interop.write(path, parent.network(1).params, parent.model)
    config = replace(tiny, init_from=str(path), steps=3)
    run = train(config, tmp_path / "child", **QUIET)
    path.unlink()  # The saved state at step 0 has what was read.
    assert load(tmp_path / "child").config == config
    at_start = run.params_at(0)
    chex.assert_trees_all_equal(at_start, jax.tree.map(lambda w: np.stack([w, w]), parent.network(1).params))


def test_lanes_are_fitted_to_those_of_a_network_with_more_parameters(tiny, tmp_path):
    block = Transformer(d_model=8, heads=1, d_head=4, d_mlp=4, norm="rmsnorm", qk_norm=True, positions="rope")
    source = train(replace(tiny, model=block, steps=1), tmp_path / "source", **QUIET)
    weights = Weights(scores="distance", value_rank=1, norms="final")
    fewer = replace(block, qk_norm=False, weights=weights)
    config = replace(tiny, model=fewer, init_from=str(source.folder), seeds=(1, 0), steps=1)
    params = initial(Trainer(config)).params
    for lane, seed in enumerate(config.seeds):
        own = jax.tree.map(lambda w, seed=seed: w[seed], source.params)
        chex.assert_trees_all_close(
            jax.tree.map(lambda w, lane=lane: w[lane], params), fit(fewer.build(tiny.task.sizes), source.model, own)
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"init_from": "nowhere.pth"}, "there is no file nowhere.pth"),
        ({"seeds": (0, 7)}, "has no seed 7|no lane"),
        ({"width": 8}, "not those of this architecture"),
    ],
)
def test_what_cannot_be_started_from_is_refused(parent, tiny, changes, words):
    config = replace(tiny, init_from=changes.get("init_from", str(parent.folder)), seeds=changes.get("seeds", (0, 1)))
    if "width" in changes:
        config = replace(config, model=replace(tiny.model, d_model=changes["width"]))
    with pytest.raises(UserError, match=words):
        initial(Trainer(config))


def test_another_function_of_the_same_shapes_is_noted(parent, tiny, tmp_path):
    path, lines = tmp_path / "network.pth", []
    interop.write(path, parent.network().params, parent.model)
    other = replace(tiny, model=replace(tiny.model, activation="gelu", dropout=0.1))
    for source in (path, parent.folder):
        initial(Trainer(replace(other, init_from=str(source))), lines.append)
    words = "as it was read, is another than that of this run: activation relu there and gelu here"
    assert lines == [f"the network of {source}, {words}" for source in (path, parent.folder)]
    lines.clear()
    initial(Trainer(replace(tiny, init_from=str(path))), lines.append)
    assert not lines


def test_weights_that_are_not_finite_are_refused_and_no_folder_is_left(parent, tiny, tmp_path):
    path, params = tmp_path / "network.pth", parent.network().params
    interop.write(path, jax.tree.map(lambda w: np.full_like(w, np.nan), params), parent.model)
    for source, words in ((path, "are not all finite"), (tmp_path / "mistyped.pth", "there is no file")):
        with pytest.raises(UserError, match=words):
            train(replace(tiny, init_from=str(source), steps=1), tmp_path / "child", **QUIET)
    assert not any(not file.name.startswith(".") for file in (tmp_path / "child").iterdir())
    assert train(replace(tiny, steps=1), tmp_path / "child", **QUIET).params is not None


def test_a_tied_network_does_not_start_from_matrices(parent, tiny, tmp_path):
    path = tmp_path / "network.pth"
    interop.write(path, parent.network().params, parent.model)
    tied = replace(tiny.model, weights=Weights(unembed="embed"))
    with pytest.raises(UserError, match="ties some of them"):
        initial(Trainer(replace(tiny, model=tied, init_from=str(path))))
