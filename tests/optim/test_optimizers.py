"""Optimisers against their definitions, and their numbers as traced arguments."""

import itertools
import json
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxadd.config import RunConfig, hyper, traced
from jaxadd.errors import UserError
from jaxadd.lanes import take
from jaxadd.models import Transformer
from jaxadd.optim.filters import FixedNorm, GrokfastEMA, GrokfastMA, OrthogonalGradient
from jaxadd.optim.losses import LabelSmoothing, StableMax, cross_entropy
from jaxadd.optim.optimizers import SGD, Adam, AdamW, LevenbergMarquardt, Lion, Muon
from jaxadd.serialization import from_json, to_json
from jaxadd.tasks import Modular
from jaxadd.training.loop import fit
from jaxadd.training.trainer import Trainer

pytestmark = pytest.mark.jax_api


@jax.jit
def run(optimizer):
    """Follow the gradient of sin(w) · (1 + step) for 25 steps and return the path of w."""

    def step(carry, i):
        w, state = carry
        updates, state = optimizer.transform().update(jnp.cos(w) * (1 + i), state, w)
        return (w + updates, state), w + updates

    w = jnp.asarray([1.0, -2.0])
    return jax.lax.scan(step, (w, optimizer.transform().init(w)), jnp.arange(25))[1]


def by_definition(kind, lr, b1=0.9, b2=0.98, eps=1e-8, decay=0.0, warmup=0):
    w, m, v = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    path = []
    for i in range(25):
        g = np.cos(w) * (1 + i)
        rate = lr * (min(i / warmup, 1) if warmup else 1)
        if kind != "adamw":
            g = g + decay * w
        if kind == "sgd":
            m = b1 * m + g
            update = m
        else:
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
            update = (m / (1 - b1 ** (i + 1))) / (np.sqrt(v / (1 - b2 ** (i + 1))) + eps)
            if kind == "adamw":
                update = update + decay * w
        w = w - rate * update
        path.append(w)
    return np.array(path)


@pytest.mark.parametrize(
    ("optimizer", "want"),
    [
        (AdamW(lr=0.03, weight_decay=2.0), by_definition("adamw", 0.03, decay=2.0, warmup=10)),
        (AdamW(lr=0.03, weight_decay=0.0, warmup=0), by_definition("adamw", 0.03)),
        (Adam(lr=0.02, b2=0.98, l2=0.3, warmup=4), by_definition("adam", 0.02, decay=0.3, warmup=4)),
        (SGD(lr=0.01, momentum=0.7, l2=0.1), by_definition("sgd", 0.01, b1=0.7, decay=0.1)),
    ],
)
def test_path_is_that_of_the_definition(optimizer, want):
    np.testing.assert_allclose(run(optimizer), want, rtol=2e-4, atol=1e-5)


def test_first_update_of_a_warm_up_is_zero():
    path = run(AdamW(warmup=10))
    np.testing.assert_array_equal(path[0], [1.0, -2.0])
    assert not np.array_equal(path[1], path[0])


def test_lanes_may_differ_in_every_number():
    configs = [AdamW(lr=0.01), AdamW(lr=0.05, b1=0.5, weight_decay=0.1, warmup=0.0)]
    stacked = jax.tree.map(lambda *numbers: np.asarray(numbers, np.float32), *configs)
    together = jax.jit(jax.vmap(run))(stacked)
    for config, path in zip(configs, together, strict=True):
        np.testing.assert_allclose(path, run(config), rtol=1e-4, atol=1e-6)


def test_a_change_of_numbers_does_not_trace_again():
    chex.clear_trace_counter()
    traced = jax.jit(chex.assert_max_traces(run.__wrapped__, n=1))
    paths = [traced(AdamW(lr=lr)) for lr in (0.1, 0.2)]
    assert not np.allclose(*paths)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdamW(lr=-1.0),
        lambda: AdamW(b2=1.0),
        lambda: Adam(eps=float("nan")),
        lambda: SGD(lr=float("inf")),
        lambda: AdamW(warmup=-1),
    ],
)
def test_numbers_out_of_range(make):
    with pytest.raises(ValueError, match="must be a number"):
        make()


def follow(transform, grads, params):
    """Return the updates of gradients in turn, parameters left where they are."""
    state, updates, step = transform.init(params), [], jax.jit(transform.update)
    for grad in grads:
        update, state = step(grad, state, params)
        updates.append(jax.device_get(update))
    return updates


def test_lion_takes_signs():
    path = run(Lion(lr=0.01, b1=0.8, b2=0.9, weight_decay=0.5, warmup=0))
    w, mean, want = np.array([1.0, -2.0]), np.zeros(2), []
    for i in range(25):
        g = np.cos(w) * (1 + i)
        w = w - 0.01 * (np.sign(0.8 * mean + 0.2 * g) + 0.5 * w)
        mean = 0.9 * mean + 0.1 * g
        want.append(w)
    np.testing.assert_allclose(path, want, rtol=1e-5)


def test_muon_makes_the_matrices_of_all_heads_orthogonal_and_leaves_the_rest_to_adam():
    rng = np.random.default_rng(0)
    normal = lambda w: rng.standard_normal(w.shape, np.float32)
    params, grads = (
        jax.tree.map(normal, Transformer(d_model=16, heads=2, d_mlp=32).build(Modular(p=7).sizes).shapes())
        for _ in range(2)
    )
    u, _, v = np.linalg.svd(rng.standard_normal((16, 16), np.float32))
    even = u * np.linspace(0.3, 1, 16, dtype=np.float32) @ v  # A random square matrix has singular values near 0.
    heads = even.reshape(16, 2, 8).transpose(1, 0, 2)
    grads["blocks.0"]["attn"] = {"W_Q": heads, "W_K": heads, "W_V": heads, "W_O": even.reshape(2, 8, 16)}
    muon = Muon(lr=1.0, adam_lr=0.5, weight_decay=0.0, warmup=0)
    (update,) = follow(muon.transform(), [grads], params)
    block, scale = update["blocks.0"], {"W_in": 2**0.5}  # Twice as many outputs as inputs: √2 larger.
    matrices = {name: block["attn"][name].transpose(1, 0, 2).reshape(16, 16) for name in ("W_Q", "W_K", "W_V")}
    matrices |= {"W_O": block["attn"]["W_O"].reshape(16, 16), "W_in": block["mlp"]["W_in"]}
    for name, matrix in matrices.items():
        values = np.linalg.svd(matrix, compute_uv=False) / scale.get(name, 1)
        assert values.min() > 0.5, name  # The five iterations leave singular values between 0.68 and 1.13.
        assert values.max() < 1.3, name
    for leaf in (update["embed"]["W_E"], update["blocks.0"]["mlp"]["b_in"], update["unembed"]["W_U"]):
        np.testing.assert_allclose(np.abs(leaf), 0.5, rtol=1e-3)  # Adam's first step is its learning rate.


def test_muon_follows_its_definition():
    """Four steps of one matrix, three inputs to six outputs, with Nesterov momentum, warm-up and decoupled decay."""
    rng = np.random.default_rng(0)
    w = rng.normal(size=(3, 6)).astype(np.float32)
    grads = [rng.normal(size=w.shape).astype(np.float32) for _ in range(4)]
    config = Muon(lr=0.1, momentum=0.9, weight_decay=0.5, warmup=2)
    tree = lambda x: {"blocks.0": {"mlp": {"W_in": x}}}
    params, state, update = tree(w), config.transform().init(tree(w)), jax.jit(config.transform().update)
    mean = np.zeros_like(w)
    for i, grad in enumerate(grads):
        updates, state = update(tree(grad), state, params)
        params = jax.tree.map(lambda x, change: x + np.asarray(change), params, updates)
        mean = 0.9 * mean + 0.1 * grad
        ahead = (0.9 * mean / (1 - 0.9 ** (i + 2))) + 0.1 * grad / (1 - 0.9 ** (i + 1))
        x = ahead / np.linalg.norm(ahead)
        for _ in range(5):
            square = x @ x.T
            x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
        rate = 0.1 * min(i / 2, 1)
        w = w - rate * (x * (6 / 3) ** 0.5 + 0.5 * w)
        np.testing.assert_allclose(params["blocks.0"]["mlp"]["W_in"], w, rtol=1e-3, atol=1e-4)


def levenberg_marquardt(optimizer, logits, loss, w, steps):
    """Return the parameters after each step, and the damping after the last."""
    transform = optimizer.transform()

    @jax.jit
    def step(w, damping):
        grads = jax.grad(lambda w: loss(logits(w)))(w)
        updates, damping = transform.update(grads, damping, w, logits=logits, loss=loss)
        return jax.tree.map(jnp.add, w, updates), damping

    damping, path = transform.init(w), []
    for _ in range(steps):
        w, damping = step(w, damping)
        path.append(jax.device_get(w))
    return path, float(damping)


def test_levenberg_marquardt_solves_least_squares_in_one_step():
    rng = np.random.default_rng(0)
    a, y = rng.normal(size=(20, 5)).astype(np.float32), rng.normal(size=20).astype(np.float32)
    a[:, 0] *= 100  # Parameters may have very different scales.
    start = {"a": jnp.ones(3), "b": jnp.ones(2)}
    logits = lambda w: a @ jnp.concatenate([w["a"], w["b"]])
    loss = lambda z: jnp.mean((z - y) ** 2)
    (found,), damping = levenberg_marquardt(LevenbergMarquardt(damping=1e-6), logits, loss, start, 1)
    want = np.linalg.lstsq(a.astype(float), y, rcond=None)[0]
    np.testing.assert_allclose(np.concatenate([found["a"], found["b"]]), want, rtol=1e-3, atol=1e-5)
    assert damping == pytest.approx(1e-6)
    # Damped as much as the curvature, it makes half of the step in each parameter if they do not interact.
    logits = lambda w: jnp.asarray([1.0, 100.0]) * w
    (half,), damping = levenberg_marquardt(
        LevenbergMarquardt(damping=1.0), logits, lambda z: jnp.sum(z**2), jnp.ones(2), 1
    )
    np.testing.assert_allclose(half, 0.5, rtol=1e-5)
    assert damping == pytest.approx(1 / 3)


def test_levenberg_marquardt_leaves_out_a_step_that_raises_the_loss():
    # From 2, a step of Gauss and Newton on arctan² overshoots to -3.5.
    logits, loss = jnp.arctan, lambda z: jnp.sum(z**2)
    path, _ = levenberg_marquardt(LevenbergMarquardt(damping=1e-3), logits, loss, jnp.asarray([2.0]), 12)
    distances = [2.0, *(abs(float(w[0])) for w in path)]
    assert distances[1] == 2.0
    assert all(after <= before for before, after in itertools.pairwise(distances))
    assert distances[-1] < 1e-3


def test_levenberg_marquardt_never_raises_the_loss_of_a_full_batch():
    task = Modular(p=5, train_fraction=0.6)
    model = Transformer(d_model=4, heads=1, d_mlp=4)
    config = RunConfig(task=task, model=model, optimizer=LevenbergMarquardt(), steps=30, seeds=(0, 1), eval_every=30)
    losses = fit(Trainer(config)).metrics["train_loss"]
    assert (np.diff(losses) <= 1e-6).all()
    assert losses[:, -1].min() < 1e-3
    adam = fit(Trainer(replace(config, optimizer=AdamW(lr=1e-2, weight_decay=0.0)))).metrics["train_loss"]
    assert (losses[:, -1] < adam[:, -1]).all()


def test_levenberg_marquardt_is_for_few_parameters():
    config = RunConfig(task=Modular(p=5), model=Transformer(d_model=64, heads=1), optimizer=LevenbergMarquardt())
    with pytest.raises(UserError, match="at most 2,000 parameters, and this network has"):
        fit(Trainer(replace(config, steps=1)))


def test_grokfast_adds_the_slow_part():
    grads = [np.array([i, 1], np.float32) for i in range(1, 7)]
    found = follow(GrokfastEMA(decay=0.5, gain=2.0).transform(), grads, grads[0])
    mean = grads[0]
    for i, grad in enumerate(grads):
        mean = mean if i == 0 else 0.5 * mean + 0.5 * grad
        np.testing.assert_allclose(found[i], grad + 2 * mean, rtol=1e-6)
    found = follow(GrokfastMA(window=3, gain=2.0).transform(), grads, grads[0])
    for i, grad in enumerate(grads):
        want = grad + (2 * np.mean(grads[i - 2 : i + 1], axis=0) if i >= 2 else 0)
        np.testing.assert_allclose(found[i], want, rtol=1e-6)


def test_the_orthogonal_gradient_keeps_its_norm_and_leaves_the_weights_direction():
    rng = np.random.default_rng(0)
    params = {"a": rng.standard_normal((3, 4), np.float32), "zero": np.zeros(2, np.float32)}
    grads = {"a": rng.standard_normal((3, 4), np.float32), "zero": np.array([1, 2], np.float32)}
    (found,) = follow(OrthogonalGradient().transform(), [grads], params)
    assert np.vdot(found["a"], params["a"]) == pytest.approx(0, abs=1e-5)
    assert np.linalg.norm(found["a"]) == pytest.approx(np.linalg.norm(grads["a"]), rel=1e-5)
    np.testing.assert_allclose(found["zero"], grads["zero"], rtol=1e-6)


def by_hand(config):
    """Train one lane: the gradient of the named loss, filtered, optimised, and held to its norm."""
    trainer = Trainer(config)
    state, data = take(trainer.init(), 0), trainer.lane_data(0)
    transforms = [part.transform() for part in (config.gradient, config.optimizer, config.norm)]

    @jax.jit
    def make_step(params, states, step):
        batch = config.task.train_batch(data, state.key, step)

        def loss(params):
            logits = trainer.model.apply(params, batch.inputs)[0]
            return config.loss(logits, batch.targets, cross_entropy(logits, batch.targets)).mean()

        updates, states = jax.grad(loss)(params), list(states)
        for i, transform in enumerate(transforms):
            updates, states[i] = transform.update(updates, states[i], params)
        return jax.tree.map(jnp.add, params, updates), states

    params, states = state.params, jax.jit(lambda params: [t.init(params) for t in transforms])(state.params)
    for step in range(config.steps):
        params, states = make_step(params, states, step)
    return params


@pytest.mark.parametrize(
    "parts",
    [
        {
            "optimizer": Lion(lr=3e-3, weight_decay=0.0),
            "gradient": GrokfastEMA(decay=0.9),
            "loss": LabelSmoothing(),
        },
        {"optimizer": Muon(weight_decay=0.0), "gradient": GrokfastMA(window=5, gain=1.0), "loss": StableMax()},
        {
            "optimizer": AdamW(lr=1e-2, weight_decay=0.0),
            "gradient": OrthogonalGradient(),
            "norm": FixedNorm(),
            "init_scale": 2.0,
        },
    ],
    ids=["Lion-GrokfastEMA-LabelSmoothing", "Muon-GrokfastMA-StableMax", "AdamW-OrthogonalGradient-FixedNorm"],
)
def test_what_is_trained_is_what_the_config_says_and_it_learns(tiny, parts):
    """Every optimiser, filter, norm and loss, composed: filter, optimiser, norm."""
    config = replace(tiny, steps=200, seeds=(0,), **parts)
    short = replace(config, steps=8)
    got, want = take(fit(Trainer(short)).state.params, 0), by_hand(short)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, want)
    metrics = fit(Trainer(config)).metrics
    assert metrics["train_accuracy"][0, -1] > 0.9
    norms = metrics["weight_norm"][0]
    if "norm" in parts:  # It stays where it begins, twice the norm of the initial parameters.
        initial = jax.tree.leaves(Trainer(replace(config, init_scale=1.0)).init().params)
        norm = sum(np.sum(np.asarray(w, np.float64) ** 2) for w in initial) ** 0.5
        np.testing.assert_allclose(norms, 2 * norm, rtol=1e-4)
    else:
        assert abs(norms[-1] / norms[0] - 1) > 0.01
    assert from_json(json.loads(json.dumps(to_json(config))), RunConfig) == config
    for name in traced(config):  # Lanes may differ in each of its numbers.
        part, _, number = name.partition(".")
        lane = getattr(hyper(replace(config, vary=((name, (0.5,)),))), part)
        np.testing.assert_array_equal(getattr(lane, number) if number else lane, [0.5])


@pytest.mark.parametrize(
    ("kind", "number"),
    [(Lion, {"lr": -1}), (Muon, {"momentum": 1}), (GrokfastEMA, {"decay": 1.0}), (GrokfastMA, {"window": 0})],
)
def test_numbers_of_other_optimizers_and_filters_out_of_range(kind, number):
    with pytest.raises(ValueError, match=next(iter(number))):
        kind(**number)
