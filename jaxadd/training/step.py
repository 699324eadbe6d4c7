"""The training step: the state, one step of a lane, and the chunk, compiled once. A run is S lanes.

The chunk is a loop whose first step, number of steps and evaluation interval are arguments of one compiled
program, for each number of slots. So a run, its resumption after a kill and the dense replay of a part of it execute
the same machine code, whatever the chunk lengths were, and agree bit for bit; and the loop ends at the very step at
which the last lane is done.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec as P

from jaxadd.config import Hyper, RunConfig, hyper
from jaxadd.lanes import over_lanes, side_by_side, take
from jaxadd.optim import losses, scores
from jaxadd.training.placement import Slots
from jaxadd.types import Batch, Data, Params, Predict

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


class Placed(NamedTuple):
    """A group of lanes, laid out over the devices, with idle ones at the end where it fills fewer slots.

    Attributes:
      state, hyper, data: of these lanes, as the compiled chunk takes them.
    """

    state: TrainState
    hyper: Hyper
    data: Any


class Trainer:
    """A config made ready: model, data, hyper-parameters and the compiled chunk.

    Attributes:
      slots: where its lanes are trained.
    """

    def __init__(self, config: RunConfig, at_once: int | None = None):
        """Prepare, with a slot for every lane by default; raises UserError where task and model do not fit or the
        data cannot be read.
        """
        self.config = config
        self.model = config.model.build(config.task.sizes)
        self.data = config.task.data(config.seeds)
        self.hyper = hyper(config)
        self.slots = Slots(len(config.seeds), len(config.seeds) if at_once is None else at_once)
        self.compile_seconds = 0.0
        self._compiled: dict[int, Any] = {}  # By the number of slots.
        self._evaluate_compiled = jax.jit(over_lanes(self._evaluate, self.slots.rows() // self.slots.mesh.size))

    def init(self) -> TrainState:
        """Draw the initial state of every lane."""

        def lane(hyper: Hyper, seed: jax.Array) -> TrainState:
            init_key, data_key = jax.random.split(jax.random.key(seed))
            params = jax.tree.map(lambda w: w * hyper.init_scale, self.model.init(init_key))
            return TrainState(params, hyper.transform().init(params), data_key, jnp.int32(0), jnp.int32(RUNNING))

        drawn = jax.jit(over_lanes(lane), out_shardings=self.slots.state_sharding)
        return drawn(self.hyper, jnp.asarray(self.config.seeds, jnp.uint32))

    def groups(self, state: TrainState, step: int) -> tuple[list[np.ndarray], float]:
        """Return which lanes are trained together from a step on, so that lanes that are done give up their slots.

        Groups are trained one after the other, each from one multiple of `checkpoint_every` to the next, so all lanes
        are at the same step whenever a state is saved. A lane that was done at the last multiple is in no group; the
        others form fewer groups, at last with fewer slots. This follows from the state alone, so a resumed run
        computes the same.

        Args:
          state: of all lanes.
          step: the updates made so far.

        Returns:
          the lanes of each group, ascending; and the step up to which the groups hold.
        """
        if self.slots.lanes <= self.slots.count and not side_by_side():
            return [np.arange(self.slots.lanes)], math.inf  # There a lane that is done costs nothing.
        every = self.config.checkpoint_every
        begun = step // every * every
        done = (np.asarray(state.status) != RUNNING) & (np.asarray(state.step) < begun)
        return self.slots.groups(done), begun + every

    def place(self, state: TrainState, lanes: np.ndarray | None = None) -> Placed:
        """Lay lanes, all by default and at most as many as there are slots, out over the devices."""
        lanes = np.arange(self.slots.lanes) if lanes is None else lanes
        chex.assert_scalar_in(len(lanes), 1, self.slots.count)
        placed = self.slots.gather(Placed(state, self.hyper, self.data.lane), lanes)
        idle = np.arange(len(placed.state.step)) >= len(lanes)
        if not idle.any():
            return placed
        status = jnp.where(idle, STOPPED, placed.state.status)
        return placed._replace(state=placed.state._replace(status=status))

    def objective(self, params: Params, batch: Batch, hyper: Hyper) -> tuple[jax.Array, tuple]:
        """Compute what one lane minimises, a scalar, and beside it what `loss` gives."""
        logits = self.model.apply(params, batch.inputs)[0]
        cross_entropy = losses.cross_entropy(logits, batch.targets)
        minimised = jnp.mean(hyper.loss(logits, batch.targets, cross_entropy))
        return minimised, _score(logits, batch.targets, cross_entropy)

    def loss(self, params: Params, batch: Batch) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """Compute the mean loss over examples and positions read, nats.

        Returns:
          the loss; and beside it the accuracy, the share of examples answered rightly at every position,
          and the mean loss at each position read, `[R]`.
        """
        logits = self.model.apply(params, batch.inputs)[0]
        return _score(logits, batch.targets, losses.cross_entropy(logits, batch.targets))

    def predict(self, params: Params) -> Predict:
        """Give one lane's network with its parameters: `predict(inputs, read=None)` gives logits `[B, R, C]`."""
        return lambda inputs, read=None: self.model.apply(params, inputs, read=read)[0]

    def lane_data(self, lane: int) -> Data:
        """Give the data of one lane, as the task's functions take it."""
        return self.data._replace(lane=take(self.data.lane, lane))

    def evaluate(self, params: Params) -> dict[str, jax.Array]:
        """Compute the test metrics of every lane, each `[S]`, and what the task measures, `[S, ...]`."""
        return self._evaluate_compiled(params, self.data.lane, shared=(self.data.shared,))

    def chunk(self, placed: Placed, start: int, count: int, eval_every: int) -> tuple[Placed, dict, dict, dict]:
        """Record up to `count` rows and make the update of each, fewer when every lane is done.

        Args:
          placed: the lanes to go on with; their state is donated.
          start: the updates made so far, `state.step` of every lane that runs.
          count: at most CAPACITY, and few enough for EVALUATIONS.
          eval_every: the test set is evaluated at multiples of this, and at the config's last step, where
            no update is made.

        Returns:
          the lanes with their new state; for each of METRICS and POSITION_LOSS a buffer `[S, CAPACITY, ...]`, whose
          first rows are set; for each array that the task measures a buffer `[S, EVALUATIONS + 1, ...]`, whose first
          entries are the evaluations made; and "rows" (how many each device made), "step" `[S]` and "status" `[S]`.
          Here S counts idle lanes, too.
        """
        end, last = start + count, self.config.steps
        evaluations = len(range(start + -start % eval_every, end, eval_every)) + (start <= last < end)
        chex.assert_scalar_in(count, 1, CAPACITY)
        chex.assert_scalar_in(evaluations, 0, EVALUATIONS)
        arguments = self._arguments(placed, start, count, eval_every)
        if self.config.debug:
            with jax.disable_jit():
                state, *recorded = self._chunk(*arguments)
        else:
            state, *recorded = self._compile(arguments)(*arguments)
        return placed._replace(state=state), *recorded

    def _arguments(self, placed: Placed, *numbers: int) -> tuple:
        data = Data(self.data.shared, placed.data)
        return placed.state, placed.hyper, data, *(np.int32(n) for n in (*numbers, self.config.steps))

    def program(self, placed: Placed) -> Any:
        """Give the chunk compiled for so many slots, arrays or shapes of them; once for each number of them."""
        return self._compile(self._arguments(placed, 0, 1, self.config.eval_every))

    def _compile(self, arguments: tuple) -> Any:
        """Compile the chunk for so many slots; every device runs it on its own lanes, and looks at no other's."""
        rows = len(arguments[0].step)
        if rows not in self._compiled:
            clock = time.perf_counter()
            lanes, same = P("lanes"), P()
            chunk = jax.shard_map(
                self._chunk,
                mesh=self.slots.mesh,
                in_specs=(lanes, lanes, Data(same, lanes), same, same, same, same),
                out_specs=lanes,
                check_vma=False,  # It has no rule for the loops inside.
            )
            self._compiled[rows] = jax.jit(chunk, donate_argnums=0).lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - clock
        return self._compiled[rows]

    def for_lanes(self, seeds: Sequence[int], vary: Any = ()) -> "Trainer":
        """Give a trainer of other lanes with as many slots, which shares what is compiled."""
        other = Trainer(replace(self.config, seeds=tuple(seeds), vary=vary), self.slots.count)
        other._compiled, other._evaluate_compiled = self._compiled, self._evaluate_compiled
        return other

    def abstract_batches(self) -> tuple[Batch, Batch]:
        """Give the shapes and dtypes of one lane's train and test batch without computing them."""
        task, data = self.config.task, self.lane_data(0)
        train = jax.eval_shape(lambda key: task.train_batch(data, key, jnp.int32(0)), jax.random.key(0))
        return train, jax.eval_shape(lambda: task.test_batch(data))

    def examples(self, metric: str) -> int:
        """Return the number of examples that a metric, such as "test_accuracy", is computed on."""
        train, test = self.abstract_batches()
        return (test if metric in TEST_METRICS else train).targets.shape[0]

    def abstract_state(self) -> TrainState:
        """Give the shapes and dtypes of the state without computing it."""
        return jax.eval_shape(self.init)

    def _chunk(self, state, hyper, data, start, count, eval_every, last):
        lanes = len(state.step)  # Those of one device.
        evaluated = jax.eval_shape(lambda: self._evaluate(*take((state.params, data.lane), 0), data.shared))
        unmeasured, unrecorded = (
            jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes) for shapes in (evaluated, self._row())
        )

        # A lane that is done costs nothing where lanes are taken in turn.
        def evaluate(status, *rest):
            return jax.lax.cond(status == RUNNING, lambda: self._evaluate(*rest), lambda: unmeasured)

        def make_step(state, *rest):
            return jax.lax.cond(
                state.status == RUNNING, lambda: self._step(state, *rest), lambda: (state, unrecorded)
            )

        def body(carry):
            i, state, rows, evaluation, taken = carry
            step = start + i
            measured = (step % eval_every == 0) | (step == last)
            # A denser evaluation, in a replay, must not end a lane sooner than the run did.
            due = measured & ((step % self.config.eval_every == 0) | (step == last))
            test = jax.lax.cond(
                measured,
                lambda: over_lanes(evaluate)(state.status, state.params, data.lane, shared=(data.shared,)),
                lambda: jax.tree.map(lambda x: jnp.zeros((lanes, *x.shape), x.dtype), evaluated),
            )
            # Where nothing was measured, zeros go where the next evaluation will.
            taken = {name: buffer.at[:, evaluation].set(test[name]) for name, buffer in taken.items()}
            test = {name: test[name] for name in TEST_METRICS}
            state, row = over_lanes(make_step)(state, hyper, data.lane, test, shared=(data.shared, due, last))
            rows = {name: buffer.at[:, i].set(row[name]) for name, buffer in rows.items()}
            return i + 1, state, rows, evaluation + measured, taken

        def unfinished(carry):
            i, state, *_ = carry
            return (i < count) & jnp.any(state.status == RUNNING)

        rows = {name: jnp.zeros((lanes, CAPACITY, *x.shape)) for name, x in self._row().items()}
        taken = {
            name: jnp.zeros((lanes, EVALUATIONS + 1, *x.shape), x.dtype)
            for name, x in evaluated.items()
            if name not in TEST_METRICS
        }
        carry = jnp.int32(0), state, rows, jnp.int32(0), taken
        i, state, rows, _, taken = jax.lax.while_loop(unfinished, body, carry)
        # Copies, because the state itself is given away to the next chunk before these are read.
        return state, rows, taken, {"rows": i[None], "step": jnp.copy(state.step), "status": jnp.copy(state.status)}

    def _row(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Give the shapes of what is recorded of one step of one lane."""
        shapes = dict.fromkeys(METRICS, ()) | {POSITION_LOSS: (len(self.config.task.sizes.read),)}
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}

    def _evaluate(self, params: Params, split: Any, shared: Any) -> dict[str, jax.Array]:
        """Compute the test metrics of one lane, and what the task measures."""
        task, own = self.config.task, Data(shared, split)
        batch = task.test_batch(own)
        predict = self.predict(params)
        with self._checked():
            logits = predict(batch.inputs)
        loss, (accuracy, _) = _score(logits, batch.targets, losses.cross_entropy(logits, batch.targets))
        return {"test_loss": loss, "test_accuracy": accuracy, **task.measure(own, batch, logits, predict)}

    def _step(self, state, hyper, split, test, shared, due, last) -> tuple[TrainState, dict[str, jax.Array]]:
        """Make one step of one lane. `test` are its test metrics, by which it may stop where they are `due`."""
        batch = self.config.task.train_batch(Data(shared, split), state.key, state.step)
        with self._checked():
            differentiated = jax.value_and_grad(self.objective, has_aux=True)(state.params, batch, hyper)
        (minimised, (loss, (accuracy, position_loss))), grads = differentiated
        row = {
            "train_loss": loss,
            "train_accuracy": accuracy,
            POSITION_LOSS: position_loss,
            "grad_norm": optax.tree.norm(grads),
            "weight_norm": optax.tree.norm(state.params),
            **test,
        }
        finite = jnp.isfinite(loss) & jnp.isfinite(minimised) & jnp.isfinite(row["grad_norm"])
        verdict = jnp.where(finite, jnp.where(self._reached(row, due), STOPPED, RUNNING), DIVERGED)
        status = jnp.where(state.status == RUNNING, verdict, state.status)

        def update() -> tuple[TrainState, jax.Array]:
            # Some optimisers and filters make matrix products of their own.
            with self._checked(), jax.default_matmul_precision(self.config.model.precision):
                updates, opt_state = hyper.transform().update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            return TrainState(params, opt_state, state.key, state.step + 1, status), optax.tree.norm(updates)

        def freeze() -> tuple[TrainState, jax.Array]:
            return state._replace(status=status), jnp.float32(0)

        # Choosing between two finished states would read and write every parameter once more.
        state, row["update_norm"] = jax.lax.cond((status == RUNNING) & (state.step < last), update, freeze)
        return state, row

    def _checked(self) -> contextlib.AbstractContextManager:
        """Check every operation for NaN where the run is a debug run; what a task measures may be NaN for "none"."""
        return jax.debug_nans(True) if self.config.debug else contextlib.nullcontext()

    def _reached(self, row: dict[str, jax.Array], due: jax.Array) -> jax.Array:
        stop = self.config.stop
        if stop.metric == "none":
            return jnp.bool_(False)
        reached = stop.reached(row[stop.metric], self.examples(stop.metric))
        return reached & due if stop.metric in TEST_METRICS else reached


def _score(logits: jax.Array, targets: jax.Array, loss: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    accuracy = scores.fraction(scores.exact_match(logits, targets))
    return jnp.mean(loss), (accuracy, jnp.mean(loss, axis=0))
