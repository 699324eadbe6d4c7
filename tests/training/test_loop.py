"""Training: one trace, lanes, chunks, thresholds, divergence, and that it groks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.config import RunConfig, Stop
from jaxadd.lanes import take
from jaxadd.models import MLP, PairMLP, Transformer
from jaxadd.optim.optimizers import SGD, AdamW
from jaxadd.tasks import Addition, HandwrittenDigits, Modular
from jaxadd.training import costs, placement
from jaxadd.training import loop as fit_module
from jaxadd.training.loop import fit
from jaxadd.training.step import DIVERGED, METRICS, RUNNING, STOPPED, Step
from jaxadd.training.trainer import Trainer
from jaxadd.trees import flatten

pytestmark = pytest.mark.jax_api


@pytest.fixture(scope="module")
def whole(tiny):
    return fit(Trainer(tiny))


@pytest.fixture(scope="module")
def easy(tiny):
    """A run in which every metric gets better for a while."""
    config = replace(
        tiny, task=HandwrittenDigits(batch_size=16), model=MLP(hidden=(8,)), optimizer=AdamW(lr=3e-2, warmup=0.0)
    )
    return config, fit(Trainer(config))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_record_of_a_run(tiny, whole):
    metrics = whole.metrics
    np.testing.assert_array_equal(metrics["step"], np.arange(41))
    measured = metrics["step"] % 5 == 0
    for name in METRICS:
        assert metrics[name].shape == (2, 41)
        assert np.isfinite(metrics[name][:, measured]).all()
        assert np.isnan(metrics[name][:, ~measured]).all() == name.startswith("test_")
    # With warm-up from 0 the first update is zero; the last column makes none.
    np.testing.assert_array_equal(metrics["train_loss"][:, 0], metrics["train_loss"][:, 1])
    assert (metrics["update_norm"][:, [0, -1]] == 0).all()
    assert (metrics["update_norm"][:, 1:-1] > 0).all()
    assert (np.asarray(whole.state.step) == 40).all()


def test_metrics_are_what_they_say(tiny, whole):
    trainer = Trainer(tiny)
    initial = trainer.init()
    gradient = jax.jit(jax.value_and_grad(trainer.loss, has_aux=True))
    for s in range(2):
        data = trainer.lane_data(s)
        for column, state in ((0, initial), (-1, whole.state)):
            params = take(state.params, s)
            batch = tiny.task.train_batch(data, state.key[s], state.step[s])
            (loss, (accuracy, by_position)), grads = gradient(params, batch)
            squares = lambda tree: sum(float((x**2).sum()) for x in jax.tree.leaves(tree))
            want = {
                "train_loss": loss,
                "train_accuracy": accuracy,
                "grad_norm": squares(grads) ** 0.5,
                "weight_norm": squares(params) ** 0.5,
                "train_position_loss": by_position[0],
                "test_loss": gradient(params, tiny.task.test_batch(data))[0][0],
            }
            for name, value in want.items():
                assert whole.metrics[name][s, column] == pytest.approx(float(value), rel=1e-4), name


def test_chunk_length_does_not_matter(tiny, whole, monkeypatch):
    monkeypatch.setattr(fit_module, "CHUNK_SECONDS", 0.0)  # One step a chunk.
    seen = []
    again = fit(Trainer(tiny), watch=lambda progress: seen.append(progress.done))
    assert seen == list(range(1, 42))
    assert_same(whole.metrics, again.metrics)
    assert_same(flatten(whole.state), flatten(again.state))


def test_lanes_equal_runs_of_their_seed_alone(tiny, whole):
    for s, seed in enumerate(tiny.seeds):
        alone = fit(Trainer(replace(tiny, seeds=(seed,))))
        for name in METRICS:
            np.testing.assert_allclose(whole.metrics[name][s], alone.metrics[name][0], rtol=1e-4, atol=1e-5)


def test_lanes_side_by_side_equal_lanes_in_turn(tiny, whole, monkeypatch):
    """What accelerators run, vmap over lanes, run on this CPU."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    again = fit(Trainer(tiny))
    for name in METRICS:
        np.testing.assert_allclose(again.metrics[name], whole.metrics[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("task", [Modular(p=7), Addition(digits=1, batch_size=8)])
def test_the_chunk_is_exported_for_accelerators(tiny, task, monkeypatch):
    """Lanes side by side lower for a GPU and a TPU; no device is needed for it."""
    trainer = Trainer(replace(tiny, task=task))
    arguments = trainer.arguments(jax.eval_shape(trainer.gather, trainer.abstract_state()), 0, 1, 5)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    exported = jax.export.export(trainer.jitted(), platforms=["cuda", "tpu"])(*arguments)
    assert exported.platforms == ("cuda", "tpu")
    assert [x.shape[0] for x in exported.out_avals] == [2] * (len(exported.out_avals) - 3) + [1, 2, 2]


def test_mainline_starts_where_the_published_runs_do():
    trainer = Trainer(RunConfig(seeds=(0, 1, 2)))
    losses = trainer.evaluate(trainer.init().params)["test_loss"]
    np.testing.assert_allclose(losses, 4.7736, atol=0.02)


def test_the_chunk_is_traced_once(tiny, monkeypatch):
    """For all runs of one structure: in other chunks, from the middle, with other numbers and seeds."""
    traces = []
    step = Step._step
    monkeypatch.setattr(Step, "_step", lambda *args: traces.append(1) or step(*args))
    monkeypatch.setattr(fit_module, "CHUNK_SECONDS", 0.01)
    config = replace(tiny, eval_every=7)  # A structure that no other test has compiled.
    trainer = Trainer(config)
    fit(trainer)
    fit(trainer, state=trainer.init(), eval_every=1, until=7)
    fit(Trainer(replace(config, seeds=(2, 3), steps=10, optimizer=AdamW(lr=3e-3))))
    assert len(traces) == 1


def test_going_on_from_the_middle(tiny, whole):
    kept = {}

    def save(so_far):
        kept[int(so_far.state.step[0])] = jax.tree.map(jnp.copy, so_far.state), so_far.metrics

    trainer = Trainer(tiny)
    saved = fit(trainer, save_at=range(0, 40, 10), save=save)
    assert sorted(kept) == [10, 20, 30]
    assert_same(whole.metrics, saved.metrics)
    state, metrics = kept[20]
    assert len(metrics["step"]) == 20
    again = fit(trainer, state=state, metrics=metrics)
    assert_same(whole.metrics, again.metrics)
    assert_same(flatten(whole.state), flatten(again.state))


@pytest.mark.parametrize("metric", ["train_loss", "train_accuracy", "test_loss", "test_accuracy"])
def test_a_lane_stops_at_the_very_step_and_is_frozen(easy, metric):
    config, whole = easy
    values = whole.metrics[metric] if metric.endswith("accuracy") else -whole.metrics[metric]
    threshold = np.nanmax(values[0, :20])
    reached = values >= threshold
    threshold = float(abs(threshold))
    want = [int(np.argmax(row)) if row.any() else 40 for row in reached]
    assert 0 < want[0] < 40
    result = fit(Trainer(replace(config, stop=Stop(metric, threshold))))
    np.testing.assert_array_equal(result.state.step, want)
    np.testing.assert_array_equal(result.state.status, [STOPPED if row.any() else RUNNING for row in reached])
    assert len(result.metrics["step"]) == max(want) + 1
    for s, step in enumerate(want):
        for name in METRICS:
            row, full = result.metrics[name][s], whole.metrics[name][s]
            np.testing.assert_array_equal(row[:step], full[:step])
            assert np.isnan(row[step + 1 :]).all()
        # The frozen network is measured on the test set even between two evaluations.
        assert np.isfinite(result.metrics["test_loss"][s, step])


def test_a_diverged_lane_is_frozen_and_the_other_goes_on(tiny):
    config = replace(tiny, optimizer=SGD(lr=0.1))
    want = fit(Trainer(config))
    trainer = Trainer(replace(config, vary=(("optimizer.lr", (0.1, 1e30)),)))
    seen = []
    result = fit(trainer, watch=seen.append)
    np.testing.assert_array_equal(result.state.status, [RUNNING, DIVERGED])
    step = int(result.state.step[1])
    assert 0 < step < 5
    assert seen[-1].step[1] == step
    assert not np.isfinite(result.metrics["train_loss"][1, step]) or not np.isfinite(
        result.metrics["grad_norm"][1, step]
    )
    assert np.isnan(result.metrics["train_loss"][1, step + 1 :]).all()
    np.testing.assert_allclose(result.metrics["train_loss"][0], want.metrics["train_loss"][0], rtol=1e-5)


def test_nothing_to_do(tiny):
    result = fit(Trainer(replace(tiny, steps=0)))
    assert (np.asarray(result.state.step) == 0).all()
    assert result.metrics["test_loss"].shape == (2, 1)
    assert np.isfinite(result.metrics["test_loss"]).all()


def test_debug_run_checks_for_nan(tiny_one):
    """Operations are compiled one by one, so there are few: as many test as train pairs, and no moments."""
    task, model = Modular(p=6, train_fraction=0.5, equals="none"), PairMLP(d_embed=8, neurons=8)
    config = replace(tiny_one, task=task, model=model, optimizer=SGD(lr=0.1, momentum=0.0), steps=1, debug=True)
    np.testing.assert_allclose(
        fit(Trainer(config)).metrics["train_loss"],
        fit(Trainer(replace(config, debug=False))).metrics["train_loss"],
        rtol=1e-5,
    )
    trainer = Trainer(replace(config, steps=0))
    state = trainer.init()
    state.params["W_U"] = state.params["W_U"].at[0, 0].set(jnp.nan)
    with pytest.raises(FloatingPointError):
        fit(trainer, state=state)


def test_arithmetic_of_a_mainline_step():
    # By hand, a forward pass: 3830 · (128² + 2 · 128 · 512 + 128 · 114) products, and twice that backwards.
    by_hand = 3 * 2 * 3830 * (128**2 + 2 * 128 * 512 + 128 * 114)
    assert by_hand < costs.arithmetic(Trainer(RunConfig())) < 1.05 * by_hand


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"stop": ("test_acc", 0.9)}, "metric must be one of none"),
        ({"stop": ("test_accuracy", 0.0)}, "stop.threshold must be above 0 and at most 1"),
        ({"stop": ("test_loss", float("nan"))}, "stop.threshold"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"eval_every": 0}, "eval_every"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (1, 1)}, "none twice"),
        ({"seeds": (-1,)}, "from 0"),
    ],
)
def test_bad_config(fields, words):
    with pytest.raises(ValueError, match=words):
        RunConfig(**{name: Stop(*value) if name == "stop" else value for name, value in fields.items()})


@pytest.mark.slow
def test_it_groks():
    """Train accuracy reaches 1 while most test answers are wrong; later all are right."""
    config = RunConfig(
        task=Modular(p=31, train_fraction=0.5),
        model=Transformer(d_model=64, heads=4, d_mlp=128),
        optimizer=AdamW(lr=5e-3, weight_decay=2.0),
        steps=3_000,
        eval_every=10,
        stop=Stop("test_accuracy", 0.99),
    )
    metrics = fit(Trainer(config)).metrics
    memorised = int(np.argmax(metrics["train_accuracy"][0] == 1))
    near = np.nanmax(metrics["test_accuracy"][0, : memorised + 10])
    assert metrics["train_accuracy"][0, memorised] == 1
    assert near < 0.5
    assert metrics["test_accuracy"][0, -1] >= 0.99
    assert metrics["step"][-1] > 2 * memorised


@pytest.mark.parametrize(
    ("places", "want"),
    [
        (5, {0: [5], 9: [5], 10: [2], 19: [2], 20: [1], 40: [1]}),
        (2, {0: [2, 2, 1], 9: [2, 2], 10: [2], 19: [2], 20: [1], 40: [1]}),
    ],
)
def test_lanes_that_are_done_free_their_places_where_lanes_are_side_by_side(tiny, monkeypatch, places, want):
    """Three of five lanes diverge at once, one stops; on an accelerator their places are given up at steps 10 and 20.

    With two places, lanes take turns: three from step 0 on, of which the third ends at once.
    """
    rates = (1e30, 1e-2, 1e30, 1e-3, 1e30)
    config = replace(tiny, seeds=(0, 1, 2, 3, 4), vary=(("optimizer.lr", rates),), stop=Stop("train_loss", 1.7))
    alike = fit(Trainer(config))
    assert alike.state.status.tolist() == [DIVERGED, STOPPED, DIVERGED, RUNNING, DIVERGED]
    assert 10 <= alike.state.step[1] < 20

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(placement, "NARROWEST", 1)
    monkeypatch.setattr(fit_module, "CHUNK_SECONDS", 0.0)
    widths, chunk = {}, Trainer.chunk
    saved, seen = {}, []

    def counted(self, placed, start, *rest):
        widths.setdefault(start, []).append(len(placed.state.step))
        return chunk(self, placed, start, *rest)

    monkeypatch.setattr(Trainer, "chunk", counted)
    keep = lambda so_far: saved.update(at=jax.tree.map(jnp.copy, (so_far.state, so_far.metrics)))
    trainer = Trainer(config, places)
    found = fit(trainer, save_at=[15], save=keep, watch=lambda progress: seen.append(progress.done))
    assert {step: widths[step] for step in want} == want
    assert seen == sorted(seen)
    assert seen[-1] == 41
    for name in METRICS:
        np.testing.assert_allclose(found.metrics[name], alike.metrics[name], rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(found.state.step, alike.state.step)
    np.testing.assert_array_equal(found.state.status, alike.state.status)

    state, metrics = saved["at"]
    resumed = fit(trainer, state=state, metrics=metrics)
    assert_same(resumed.metrics, found.metrics)
    assert_same(flatten(resumed.state.params), flatten(found.state.params))


def test_a_device_narrows_to_no_fewer_lanes_than_keep_it_busy(tiny, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    trainer = Trainer(replace(tiny, seeds=tuple(range(40))))
    state = trainer.init()
    for running, width in ((40, 40), (21, 40), (20, 20), (10, 10), (9, 10), (1, 10)):
        ended = state._replace(status=jnp.where(jnp.arange(40) < running, RUNNING, STOPPED))
        (group,), until = trainer.groups(ended, 10)
        assert (group.tolist(), until) == (list(range(running)), 20)
        assert trainer.gather(ended, group).state.status.tolist() == [RUNNING] * running + [STOPPED] * (
            width - running
        )
