"""The training step: the state, one step of a lane, and the chunk, compiled once. A run is S lanes.

The chunk is a loop whose first step, number of steps and evaluation interval are arguments of one compiled program,
for each number of slots. So a run, its resumption after a kill and the dense replay of a part of it execute the same
machine code, whatever the lengths of their chunks, and agree bit for bit. The loop ends at the step at which the last
lane is done.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxadd.config import Hyper, RunConfig
from jaxadd.lanes import over_lanes, take
from jaxadd.models import Model
from jaxadd.optim import losses, scores
from jaxadd.types import Batch, Data, Params, Predict

RUNNING, STOPPED, DIVERGED = 0, 1, 2
CAPACITY = 1024  # Most rows per chunk: the length of the metric buffers on the device.
EVALUATIONS = 64  # Most evaluations per chunk; a task may measure thousands of numbers in each.

_DROPOUT = 2**31 - 1  # Folded into the key of a step, apart from what the task draws with it.

TEST_METRICS = ("test_loss", "test_accuracy")
METRICS = ("train_loss", "train_accuracy", "grad_norm", "update_norm", "weight_norm", *TEST_METRICS)
POSITION_LOSS = "train_position_loss"


class TrainState(NamedTuple):
    """The state that training carries from step to step; every leaf has a leading S axis.

    Attributes:
      params: parameters after `step` updates.
      opt_state: state of the optimiser.
      key: typed keys `[S]`; the batch of a step follows from (key, step).
      step: int32 `[S]`, the number of updates made; equal in all lanes that run, constant in a lane that is done.
      status: int32 `[S]`: RUNNING, STOPPED or DIVERGED.
    """

    params: Params
    opt_state: Any
    key: jax.Array
    step: jax.Array
    status: jax.Array


class Step:
    """The part of a run that is compiled: pure functions of state, numbers and data, for all runs of one structure.

    Attributes:
      config: the structure of the run, see `config.structure`.
      task: task of the run.
      model: model of the run.
    """

    def __init__(self, config: RunConfig):
        """Build the model; raises UserError where task and model do not fit each other."""
        self.config, self.task = config, config.task
        self.model = config.model.build(config.task.sizes)
        self._evaluate = jax.jit(self.evaluate, inline=True)  # Traced once for its shapes and for the loop.

    def objective(
        self, params: Params, batch: Batch, hyper: Hyper, dropout_key: jax.Array | None = None
    ) -> tuple[jax.Array, tuple]:
        """Compute the objective of one lane, a scalar; the auxiliary output is what `loss` returns."""
        logits = self.model.apply(params, batch.inputs, dropout_key=dropout_key)[0]
        minimised, cross_entropy = _minimised(logits, batch, hyper)
        return minimised, _score(logits, batch.targets, cross_entropy)

    def objective_parts(
        self, batch: Batch, hyper: Hyper, dropout_key: jax.Array | None = None
    ) -> dict[str, Callable]:
        """Return the objective as two functions, for optimisers that need more of it than the gradient.

        Returns:
          "logits": function of the parameters that returns the logits of a batch, `[B, R, C]`; "loss": function of
          the logits that returns the objective, a scalar.
        """
        return {
            "logits": lambda params: self.model.apply(params, batch.inputs, dropout_key=dropout_key)[0],
            "loss": lambda logits: _minimised(logits, batch, hyper)[0],
        }

    def dropout_key(self, state: TrainState) -> jax.Array:
        """Return the key of the masks of dropout in the next step of one lane."""
        return jax.random.fold_in(jax.random.fold_in(state.key, state.step), _DROPOUT)

    def loss(self, params: Params, batch: Batch) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Compute the mean cross-entropy over examples and scored positions, nats.

        Returns:
          loss, (accuracy, position_loss): the accuracy is the fraction of examples with every answer correct, and
          the mean loss at each scored position is `[R]`.
        """
        logits = self.model.apply(params, batch.inputs)[0]
        return _score(logits, batch.targets, losses.cross_entropy(logits, batch.targets))

    def predict(self, params: Params) -> Predict:
        """Return the network of one lane: `predict(inputs, read=None)` returns logits `[B, R, C]`."""
        return lambda inputs, read=None: self.model.apply(params, inputs, read=read)[0]

    def evaluate(self, params: Params, split: Any, shared: Any) -> dict[str, jax.Array]:
        """Compute the test metrics of one lane and the measurements of the task."""
        data = Data(shared, split)
        batch, predict = self.task.test_batch(data), self.predict(params)
        with self._checked():
            logits = predict(batch.inputs)
        loss, (accuracy, _) = _score(logits, batch.targets, losses.cross_entropy(logits, batch.targets))
        return {"test_loss": loss, "test_accuracy": accuracy, **self.task.measure(data, batch, logits, predict)}

    def chunk(
        self,
        state: TrainState,
        hyper: Hyper,
        data: Data,
        start: jax.Array,
        count: jax.Array,
        eval_every: jax.Array,
        last: jax.Array,
    ) -> tuple[TrainState, dict, dict, dict]:
        """Record up to `count` rows of the lanes of one device, from step `start` on, and make the update of each.

        See `trainer.Trainer.chunk` for arguments and results; `last` is the step without an update.
        """
        lanes = len(state.step)

        def evaluate_first():
            params, split = take((state.params, data.lane), 0)
            return self._evaluate(params, split, data.shared)

        evaluated = jax.eval_shape(evaluate_first)
        unmeasured, unrecorded = (
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes) for shapes in (evaluated, self._row())
        )

        # On a CPU, where lanes are computed one after the other, a lane that is done costs nothing.
        def evaluate(status, *rest):
            return jax.lax.cond(status == RUNNING, lambda: self._evaluate(*rest), lambda: unmeasured)

        def make_step(state, *rest):
            return jax.lax.cond(
                state.status == RUNNING, lambda: self._step(state, *rest), lambda: (state, unrecorded)
            )

        def body(carry):
            i, state, rows, evaluation, measurements = carry
            step = start + i
            measured = (step % eval_every == 0) | (step == last)
            # In a replay, which evaluates at every step, a lane must not stop sooner than in the run.
            due = measured & ((step % self.config.eval_every == 0) | (step == last))
            test = jax.lax.cond(
                measured,
                lambda: over_lanes(evaluate)(state.status, state.params, data.lane, shared=(data.shared,)),
                lambda: jax.tree.map(lambda x: jnp.zeros((lanes, *x.shape), x.dtype), evaluated),
            )
            # At a step without an evaluation, zeros are written where the next one will be.
            measurements = {name: buffer.at[:, evaluation].set(test[name]) for name, buffer in measurements.items()}
            test = {name: test[name] for name in TEST_METRICS}
            state, row = over_lanes(make_step)(state, hyper, data.lane, test, shared=(data.shared, due, last))
            rows = {name: buffer.at[:, i].set(row[name]) for name, buffer in rows.items()}
            return i + 1, state, rows, evaluation + measured, measurements

        def unfinished(carry):
            i, state, *_ = carry
            return (i < count) & jnp.any(state.status == RUNNING)

        rows = {name: jnp.zeros((lanes, CAPACITY, *x.shape)) for name, x in self._row().items()}
        measurements = {
            name: jnp.zeros((lanes, EVALUATIONS + 1, *x.shape), x.dtype)
            for name, x in evaluated.items()
            if name not in TEST_METRICS
        }
        carry = jnp.int32(0), state, rows, jnp.int32(0), measurements
        i, state, rows, _, measurements = jax.lax.while_loop(unfinished, body, carry)
        # Copies, because the state is donated to the next chunk before these are read.
        report = {"rows": i[None], "step": jnp.copy(state.step), "status": jnp.copy(state.status)}
        return state, rows, measurements, report

    def _row(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and dtypes of the metrics of one step of one lane."""
        shapes = dict.fromkeys(METRICS, ()) | {POSITION_LOSS: (len(self.task.sizes.read),)}
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def _step(self, state, hyper, split, test, shared, due, last) -> tuple[TrainState, dict[str, jax.Array]]:
        """Make one step of one lane; `test` are its test metrics, which may stop it where they are `due`."""
        batch = self.task.train_batch(Data(shared, split), state.key, state.step)
        with self._checked():
            dropped = self.dropout_key(state)
            result = jax.value_and_grad(self.objective, has_aux=True)(state.params, batch, hyper, dropped)
        (minimised, (loss, (accuracy, position_loss))), grads = result
        row = {
            "train_loss": loss,
            "train_accuracy": accuracy,
            POSITION_LOSS: position_loss,
            "grad_norm": optax.tree.norm(grads),
            "weight_norm": optax.tree.norm(state.params),
            **test,
        }
        finite = jnp.isfinite(loss) & jnp.isfinite(minimised) & jnp.isfinite(row["grad_norm"])
        examples = {"train": len(batch.targets), "test": self._test_examples(Data(shared, split))}
        verdict = jnp.where(finite, jnp.where(self._reached(row, due, examples), STOPPED, RUNNING), DIVERGED)
        status = jnp.where(state.status == RUNNING, verdict, state.status)

        def update() -> tuple[TrainState, jax.Array]:
            # Some optimisers and filters compute matrix products.
            with self._checked(), jax.default_matmul_precision(self.config.model.precision):
                parts = self.objective_parts(batch, hyper, dropped)
                updates, opt_state = hyper.transform().update(grads, state.opt_state, state.params, **parts)
            params = optax.apply_updates(state.params, updates)
            return TrainState(params, opt_state, state.key, state.step + 1, status), optax.tree.norm(updates)

        def freeze() -> tuple[TrainState, jax.Array]:
            return state._replace(status=status), jnp.float32(0)

        # With `where` instead of `cond`, every parameter would be read and written once more.
        state, row["update_norm"] = jax.lax.cond((status == RUNNING) & (state.step < last), update, freeze)
        return state, row

    def _checked(self) -> contextlib.AbstractContextManager:
        """Check every operation for NaN in a debug run; not measurements of a task, where NaN may mean "none"."""
        return jax.debug_nans(True) if self.config.debug else contextlib.nullcontext()

    def _test_examples(self, data: Data) -> int:
        return len(jax.eval_shape(lambda: self.task.test_batch(data)).targets)

    def _reached(self, row: dict[str, jax.Array], due: jax.Array, examples: dict[str, int]) -> jax.Array:
        stop = self.config.stop
        if stop.metric == "none":
            return jnp.bool_(False)
        reached = stop.reached(row[stop.metric], examples[stop.metric.partition("_")[0]])
        return reached & due if stop.metric in TEST_METRICS else reached


def initial(model: Model, hyper: Hyper, seed: jax.Array) -> TrainState:
    """Draw the initial state of one lane from its seed, uint32."""
    init_key, data_key = jax.random.split(jax.random.key(seed))
    params = jax.tree.map(lambda w: w * hyper.init_scale, model.init(init_key))
    return TrainState(params, hyper.transform().init(params), data_key, jnp.int32(0), jnp.int32(RUNNING))


@functools.lru_cache(maxsize=64)
def step_of(structure: RunConfig) -> Step:
    """Return the step of a structure; equal structures get the same object, and share what is compiled."""
    return Step(structure)


def _minimised(logits: jax.Array, batch: Batch, hyper: Hyper) -> tuple[jax.Array, jax.Array]:
    """Return the objective, a scalar, and the cross-entropy `[B, R]`, which it may be a function of."""
    cross_entropy = losses.cross_entropy(logits, batch.targets)
    return jnp.mean(hyper.loss(logits, batch.targets, cross_entropy)), cross_entropy


def _score(logits: jax.Array, targets: jax.Array, loss: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    accuracy = scores.fraction(scores.exact_match(logits, targets))
    return jnp.mean(loss), (accuracy, jnp.mean(loss, axis=0))
