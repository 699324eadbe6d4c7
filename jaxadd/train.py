"""The training step: the state, one step of a lane, and the chunk, compiled once. A run is S lanes.

The chunk is a loop whose first step, number of steps and evaluation interval are arguments of one compiled
program. So a run, its resumption after a kill and the dense replay of a part of it execute the same machine
code, whatever the chunk lengths were, and agree bit for bit; and the loop ends at the very step at which the
last lane is done.
"""

import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxadd import losses, optimizers
from jaxadd.config import RunConfig
from jaxadd.lanes import over_lanes, take
from jaxadd.model import Params
from jaxadd.tasks import Batch, Data, Predict

RUNNING, STOPPED, DIVERGED = 0, 1, 2
CAPACITY = 1024  # Rows per chunk at most: the length of the metric buffers on the device.
EVALUATIONS = 64  # Per chunk at most: what a task measures at one may be thousands of numbers.

TEST_METRICS = ("test_loss", "test_accuracy")
METRICS = ("train_loss", "train_accuracy", "grad_norm", "update_norm", "weight_norm", *TEST_METRICS)
POSITION_LOSS = "train_position_loss"


class TrainState(NamedTuple):
    """All that training carries from step to step; every leaf has a leading S axis.

    Attributes:
      params: the parameters after `step` updates.
      opt_state: the optimiser's state.
      key: typed keys `[S]`; the batch of a step follows from (key, step).
      step: int32 `[S]`, the updates made; equal in all lanes that run, and frozen in one that is done.
      status: int32 `[S]`: RUNNING, STOPPED or DIVERGED.
    """

    params: Params
    opt_state: Any
    key: jax.Array
    step: jax.Array
    status: jax.Array


class Trainer:
    """A config made ready: model, data, hyper-parameters and the compiled chunk."""

    def __init__(self, config: RunConfig):
        """Prepare; raises ValueError where task and model do not fit or the data cannot be read."""
        self.config = config
        self.model = config.model.build(config.task.sizes)
        self.data = config.task.data(config.seeds)
        self.hyper = optimizers.lanes(config.optimizer, len(config.seeds))
        self.compile_seconds = 0.0
        self._compiled = None
        self._evaluate_compiled = jax.jit(self._evaluate)

    def init(self) -> TrainState:
        """Draw the initial state of every lane."""

        def lane(hyper: Any, seed: jax.Array) -> TrainState:
            init_key, data_key = jax.random.split(jax.random.key(seed))
            params = self.model.init(init_key)
            return TrainState(params, hyper.transform().init(params), data_key, jnp.int32(0), jnp.int32(RUNNING))

        return jax.jit(jax.vmap(lane))(self.hyper, jnp.asarray(self.config.seeds, jnp.uint32))

    def loss(self, params: Params, batch: Batch) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Compute the mean loss over examples and positions read, nats.

        Returns:
          the loss; and beside it the accuracy, the share of examples answered rightly at every position,
          and the mean loss at each position read, `[R]`.
        """
        return _score(self.model.apply(params, batch.inputs)[0], batch.targets)

    def predict(self, params: Params) -> Predict:
        """Give one lane's network with its parameters: `predict(inputs, read=None)` gives logits `[B, R, C]`."""
        return lambda inputs, read=None: self.model.apply(params, inputs, read=read)[0]

    def lane_data(self, lane: int) -> Data:
        """Give the data of one lane, as the task's functions take it."""
        return self.data._replace(lane=take(self.data.lane, lane))

    def evaluate(self, params: Params) -> dict[str, jax.Array]:
        """Compute the test metrics of every lane, each `[S]`, and what the task measures, `[S, ...]`."""
        return self._evaluate_compiled(params, self.data)

    def chunk(
        self, state: TrainState, start: int, count: int, eval_every: int
    ) -> tuple[TrainState, dict, dict, dict]:
        """Record up to `count` rows and make the update of each, fewer when every lane is done.

        Args:
          state: the state to go on from; donated.
          start: the updates made so far, `state.step` of every lane that runs.
          count: at most CAPACITY, and few enough for EVALUATIONS.
          eval_every: the test set is evaluated at multiples of this, and at the config's last step, where
            no update is made.

        Returns:
          the new state; for each of METRICS and POSITION_LOSS a buffer `[S, CAPACITY, ...]`, whose first rows
          are set; for each array that the task measures a buffer `[S, EVALUATIONS + 1, ...]`, whose first
          entries are the evaluations made; and "rows" (how many), "step" `[S]` and "status" `[S]`.
        """
        numbers = [jnp.int32(n) for n in (start, count, eval_every, self.config.steps)]
        if self.config.debug:
            with jax.disable_jit(), jax.debug_nans(True):
                return self._chunk(state, self.hyper, self.data, *numbers)
        if self._compiled is None:
            clock = time.perf_counter()
            traced = jax.jit(self._chunk, donate_argnums=0).lower(state, self.hyper, self.data, *numbers)
            self._compiled = traced.compile()
            self.compile_seconds = time.perf_counter() - clock
        return self._compiled(state, self.hyper, self.data, *numbers)

    def arithmetic(self) -> int:
        """Count the floating-point operations in the matrix products of one step of one lane."""
        params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.abstract_state().params)
        batch, _ = self.abstract_batches()
        return _count_products(jax.make_jaxpr(jax.grad(self.loss, has_aux=True))(params, batch).jaxpr)

    def abstract_batches(self) -> tuple[Batch, Batch]:
        """Give the shapes and dtypes of one lane's train and test batch without computing them."""
        task, data = self.config.task, self.lane_data(0)
        train = jax.eval_shape(lambda key: task.train_batch(data, key, jnp.int32(0)), jax.random.key(0))
        return train, jax.eval_shape(lambda: task.test_batch(data))

    def abstract_state(self) -> TrainState:
        """Give the shapes and dtypes of the state without computing it."""
        return jax.eval_shape(self.init)

    def _chunk(self, state, hyper, data, start, count, eval_every, last):
        lanes = len(self.config.seeds)

        evaluated = jax.eval_shape(self._evaluate, state.params, data)

        def body(carry):
            i, state, rows, evaluation, taken = carry
            step = start + i
            measured = (step % eval_every == 0) | (step == last)
            # A denser evaluation, in a replay, must not end a lane sooner than the run did.
            due = measured & ((step % self.config.eval_every == 0) | (step == last))
            test = jax.lax.cond(
                measured,
                lambda: self._evaluate(state.params, data),
                lambda: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), evaluated),
            )
            # Where nothing was measured, zeros go where the next evaluation will.
            taken = {name: buffer.at[:, evaluation].set(test[name]) for name, buffer in taken.items()}
            test = {name: test[name] for name in TEST_METRICS}
            state, row = over_lanes(self._step)(state, hyper, data.lane, test, shared=(data.shared, due, last))
            rows = {name: buffer.at[:, i].set(row[name]) for name, buffer in rows.items()}
            return i + 1, state, rows, evaluation + measured, taken

        def unfinished(carry):
            i, state, *_ = carry
            return (i < count) & jnp.any(state.status == RUNNING)

        rows = {name: jnp.zeros((lanes, CAPACITY)) for name in METRICS}
        rows[POSITION_LOSS] = jnp.zeros((lanes, CAPACITY, len(self.config.task.sizes.read)))
        taken = {
            name: jnp.zeros((lanes, EVALUATIONS + 1, *x.shape[1:]), x.dtype)
            for name, x in evaluated.items()
            if name not in TEST_METRICS
        }
        carry = jnp.int32(0), state, rows, jnp.int32(0), taken
        i, state, rows, _, taken = jax.lax.while_loop(unfinished, body, carry)
        # Copies, because the state itself is given away to the next chunk before these are read.
        return state, rows, taken, {"rows": i, "step": jnp.copy(state.step), "status": jnp.copy(state.status)}

    def _evaluate(self, params: Params, data: Data) -> dict[str, jax.Array]:
        def lane(params: Params, split: Any, shared: Any) -> dict[str, jax.Array]:
            task, own = self.config.task, Data(shared, split)
            batch = task.test_batch(own)

            predict = self.predict(params)
            logits = predict(batch.inputs)
            loss, (accuracy, _) = _score(logits, batch.targets)
            return {"test_loss": loss, "test_accuracy": accuracy, **task.measure(own, batch, logits, predict)}

        return over_lanes(lane)(params, data.lane, shared=(data.shared,))

    def _step(self, state, hyper, split, test, shared, due, last) -> tuple[TrainState, dict[str, jax.Array]]:
        """Make one step of one lane. `test` are its test metrics, by which it may stop where they are `due`."""
        batch = self.config.task.train_batch(Data(shared, split), state.key, state.step)
        (loss, (accuracy, position_loss)), grads = jax.value_and_grad(self.loss, has_aux=True)(state.params, batch)
        updates, opt_state = hyper.transform().update(grads, state.opt_state, state.params)
        row = {
            "train_loss": loss,
            "train_accuracy": accuracy,
            POSITION_LOSS: position_loss,
            "grad_norm": optax.tree.norm(grads),
            "update_norm": optax.tree.norm(updates),
            "weight_norm": optax.tree.norm(state.params),
            **test,
        }
        finite = jnp.isfinite(loss) & jnp.isfinite(row["grad_norm"])
        verdict = jnp.where(finite, jnp.where(self._reached(row, due), STOPPED, RUNNING), DIVERGED)
        status = jnp.where(state.status == RUNNING, verdict, state.status)
        update = (status == RUNNING) & (state.step < last)
        row["update_norm"] = jnp.where(update, row["update_norm"], 0)
        new = TrainState(optax.apply_updates(state.params, updates), opt_state, state.key, state.step + 1, status)
        frozen = state._replace(status=status)
        return jax.tree.map(lambda new, old: jnp.where(update, new, old), new, frozen), row

    def _reached(self, row: dict[str, jax.Array], due: jax.Array) -> jax.Array:
        stop = self.config.stop
        if stop.metric == "none":
            return jnp.bool_(False)
        value = row[stop.metric]
        reached = value <= stop.threshold if stop.metric.endswith("loss") else value >= stop.threshold
        return reached & due if stop.metric in TEST_METRICS else reached


def _score(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    loss = losses.cross_entropy(logits, targets)
    right = jnp.all(losses.margin(logits, targets) > 0, axis=-1)
    return jnp.mean(loss), (jnp.mean(right.astype(jnp.float32)), jnp.mean(loss, axis=0))


def _count_products(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += _count_products(inner) * equation.params.get("length", 1)
    return total
