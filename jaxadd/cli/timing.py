"""What `jaxadd benchmark` times: functions that do a piece of training again and again, and wait for it."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxadd.analysis.modular import progress
from jaxadd.analysis.modular.problem import whole_problem
from jaxadd.lanes import take
from jaxadd.models import plain
from jaxadd.models.model import Precision
from jaxadd.optim import losses
from jaxadd.training.trainer import Trainer
from jaxadd.types import Batch, Params

Timed = Callable[[], Any]
"""Does some work and waits for it; it is called many times, the first time to compile."""


def median_seconds(function: Timed, repeats: int) -> float:
    """Return the median time of a call, seconds, after one call to compile and warm up."""
    function()
    return float(np.median([seconds(function) for _ in range(repeats)]))


def seconds(function: Timed) -> float:
    """Return the time of one call, seconds."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def product(n: int, precision: Precision = "highest") -> Timed:
    """Return a float32 product of two n × n matrices, 2 n³ floating-point operations."""
    a = jax.random.normal(jax.random.key(0), (n, n))
    multiply = jax.jit(lambda a: jnp.matmul(a, a, precision=precision))
    return lambda: multiply(a).block_until_ready()


def chunk(trainer: Trainer, steps: int, eval_every: int) -> Timed:
    """Return a chunk of training steps of all lanes, from step 1 on; step 0 is evaluated whatever the interval."""
    lanes = trainer.gather(trainer.init())
    lanes = lanes._replace(state=lanes.state._replace(step=jnp.ones_like(lanes.state.step)))

    def function() -> None:
        nonlocal lanes
        state = trainer.chunk(lanes, 1, steps, eval_every)[0].state
        lanes = lanes._replace(state=jax.block_until_ready(state._replace(step=jnp.ones_like(state.step))))

    return function


def without_lanes(trainer: Trainer, steps: int) -> Callable[[], Params]:
    """Return the same updates of one network in a bare loop, on and on; it returns the parameters."""
    hyper, data = take(trainer.hyper, 0), trainer.lane_data(0)
    transform = hyper.transform()

    def update(i: jax.Array, carry: tuple) -> tuple:
        params, opt_state, key = carry
        batch = trainer.config.task.train_batch(data, key, i)
        grads = jax.grad(lambda w: trainer.objective(w, batch, hyper)[0])(params)
        updates, opt_state = transform.update(grads, opt_state, params, **trainer.step.objective_parts(batch, hyper))
        return optax.apply_updates(params, updates), opt_state, key

    loop = jax.jit(lambda carry: jax.lax.fori_loop(0, steps, update, carry), donate_argnums=0)
    state = take(trainer.init(), 0)
    carry = state.params, state.opt_state, state.key

    def function() -> Params:
        nonlocal carry
        carry = jax.block_until_ready(loop(carry))
        return carry[0]

    return function


def plain_steps(trainer: Trainer, steps: int) -> Timed:
    """Return updates of one network on one batch by the plain forward pass, every position of every example."""
    transform = optax.with_extra_args_support(trainer.config.optimizer.transform())
    read = jnp.asarray(trainer.model.sizes.read)

    @jax.jit
    def update(params: Params, opt_state: optax.OptState, batch: Batch) -> tuple[Params, optax.OptState]:
        logits = lambda params: plain.forward(params, trainer.model, batch.inputs)[:, read]
        loss = lambda logits: jnp.mean(losses.cross_entropy(logits, batch.targets))
        grads = jax.grad(lambda params: loss(logits(params)))(params)
        updates, opt_state = transform.update(grads, opt_state, params, logits=logits, loss=loss)
        return optax.apply_updates(params, updates), opt_state

    params = take(trainer.init().params, 0)
    batch = trainer.config.task.train_batch(trainer.lane_data(0), jax.random.key(0), jnp.int32(0))
    carry = params, transform.init(params)

    def function() -> None:
        nonlocal carry
        for _ in range(steps):
            carry = update(*carry, batch)
        jax.block_until_ready(carry)

    return function


def batches(trainer: Trainer, steps: int) -> Timed:
    """Return the batches of some steps alone, all of their numbers read."""
    data = trainer.lane_data(0)

    def add(step: jax.Array, total: jax.Array) -> jax.Array:
        batch = trainer.config.task.train_batch(data, jax.random.key(0), step)
        return total + jnp.sum(batch.inputs) + jnp.sum(batch.targets)

    draw = jax.jit(lambda: jax.lax.fori_loop(0, steps, add, jnp.int32(0)))
    return lambda: draw().block_until_ready()


def measures(trainer: Trainer, states: int) -> Timed:
    """Return the progress measures of modular addition of some states; a fresh network costs what any other does."""
    params = jax.tree.map(lambda w: jnp.broadcast_to(w, (states, *w.shape[1:])), trainer.init().params)
    problem = whole_problem(trainer.config.task, take(trainer.data.lane, 0))
    keys = jnp.arange((trainer.model.sizes.classes - 1) // 2) < 5  # Of P // 2 frequencies, C = P + 1.
    return lambda: jax.block_until_ready(progress.over_states(params, trainer.model, problem, keys))
