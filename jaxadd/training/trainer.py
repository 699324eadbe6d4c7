"""The trainer of a config: its data, hyper-parameters and slots for lanes, and the compiled programs."""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxadd.config import Hyper, RunConfig, hyper, structure
from jaxadd.lanes import over_lanes, side_by_side, take
from jaxadd.models import Model
from jaxadd.training.placement import Slots
from jaxadd.training.step import (
    CAPACITY,
    EVALUATIONS,
    RUNNING,
    STOPPED,
    TEST_METRICS,
    Step,
    TrainState,
    initial,
    step_of,
)
from jaxadd.types import Batch, Data, Params

_MAX_PROGRAMS = 32
_PROGRAMS: dict[Any, Any] = {}  # Compiled chunks by structure, slots and shapes; the oldest are removed first.


class Gathered(NamedTuple):
    """A group of lanes in slots, sharded over the devices; idle copies of the last lane fill empty slots.

    Attributes:
      state: state of these lanes.
      hyper: hyper-parameters of these lanes.
      data: data of these lanes, `Data.lane`.
    """

    state: TrainState
    hyper: Hyper
    data: Any


class Trainer:
    """The programs and data to train a config.

    Attributes:
      config: config of the run.
      step: the compiled part, see `step.Step`; `model`, `loss`, `objective` and `predict` are those of the step.
      data: data of all lanes.
      hyper: hyper-parameters of all lanes.
      slots: the slots in which the lanes are trained.
      compile_seconds: time that this trainer spent compiling chunks.
    """

    def __init__(self, config: RunConfig, at_once: int | None = None):
        """Prepare the data, and `at_once` slots, by default one for every lane.

        Raises:
          UserError: task and model do not fit each other, or the data cannot be read.
        """
        self.config = config
        self.step = step_of(structure(config))
        self.model, self.loss, self.objective = self.step.model, self.step.loss, self.step.objective
        self.predict = self.step.predict
        self.data = config.task.data(config.seeds)
        self.hyper = hyper(config)
        self.slots = Slots(len(config.seeds), len(config.seeds) if at_once is None else at_once)
        self.compile_seconds = 0.0

    def init(self) -> TrainState:
        """Draw the initial state of every lane."""
        draw = _initial(self.model, self.slots.state_sharding, side_by_side())
        return draw(self.hyper, jnp.asarray(self.config.seeds, jnp.uint32))

    def groups(self, state: TrainState, step: int) -> tuple[list[np.ndarray], int]:
        """Return the groups of lanes that are trained together from a step on, without lanes that are done.

        Groups are trained one after the other, each from one multiple of `checkpoint_every` to the next, so that all
        lanes are at the same step whenever a state is saved. A lane that was done at the last multiple is in no
        group; the others form fewer groups, and finally take fewer slots. This follows from the state alone, so that
        a resumed run computes the same.

        Args:
          state: state of all lanes.
          step: number of updates made so far.

        Returns:
          the lanes of each group, ascending; and the step at which groups are formed anew.
        """
        if self.slots.lanes <= self.slots.size and not side_by_side():
            return [np.arange(self.slots.lanes)], sys.maxsize  # On a CPU, a lane that is done costs nothing.
        every = self.config.checkpoint_every
        begun = step // every * every
        done = (np.asarray(state.status) != RUNNING) & (np.asarray(state.step) < begun)
        return self.slots.groups(done), begun + every

    def gather(self, state: TrainState, lanes: np.ndarray | None = None) -> Gathered:
        """Gather lanes, all by default and at most as many as there are slots, from the state of all lanes."""
        lanes = np.arange(self.slots.lanes) if lanes is None else lanes
        chex.assert_scalar_in(len(lanes), 1, self.slots.size)
        gathered = self.slots.gather(Gathered(state, self.hyper, self.data.lane), lanes)
        idle = np.arange(len(gathered.state.step)) >= len(lanes)
        if not idle.any():
            return gathered
        status = jnp.where(idle, STOPPED, gathered.state.status)
        return gathered._replace(state=gathered.state._replace(status=status))

    def lane_data(self, lane: int) -> Data:
        """Return the data of one lane, as the functions of the task take it."""
        return self.data._replace(lane=take(self.data.lane, lane))

    def evaluate(self, params: Params) -> dict[str, jax.Array]:
        """Compute the test metrics of every lane, each `[S]`, and the measurements of the task, `[S, ...]`."""
        width = self.slots.rows() // self.slots.mesh.size
        return _evaluation(self.step, width, side_by_side())(params, self.data.lane, shared=(self.data.shared,))

    def chunk(self, gathered: Gathered, start: int, count: int, eval_every: int) -> tuple[Gathered, dict, dict, dict]:
        """Record up to `count` rows and make the update of each, fewer when every lane is done.

        Args:
          gathered: the lanes to train; their state is donated.
          start: number of updates made so far, `state.step` of every lane that runs.
          count: number of rows, at most CAPACITY, and with at most EVALUATIONS evaluations.
          eval_every: the test set is evaluated at multiples of this, and at the config's last step, where no update
            is made.

        Returns:
          the lanes with their new state; for each of METRICS and POSITION_LOSS a buffer `[S, CAPACITY, ...]`, whose
          first rows are set; for each measurement of the task a buffer `[S, EVALUATIONS + 1, ...]`, whose first
          entries are the evaluations made; and "rows" (the number made on each device), "step" `[S]` and "status"
          `[S]`. S includes idle lanes.
        """
        end, last = start + count, self.config.steps
        evaluations = len(range(start + -start % eval_every, end, eval_every)) + (start <= last < end)
        chex.assert_scalar_in(count, 1, CAPACITY)
        chex.assert_scalar_in(evaluations, 0, EVALUATIONS)
        arguments = self.arguments(gathered, start, count, eval_every)
        if self.config.debug:
            with jax.disable_jit():
                state, *recorded = self.step.chunk(*arguments)
        else:
            state, *recorded = self._compile(arguments)(*arguments)
        return gathered._replace(state=state), *recorded

    def arguments(self, gathered: Gathered, *numbers: int) -> tuple:
        """Return the arguments of the jitted chunk; `numbers` are those of `chunk` after `gathered`."""
        data = Data(self.data.shared, gathered.data)
        return gathered.state, gathered.hyper, data, *(np.int32(n) for n in (*numbers, self.config.steps))

    def program(self, gathered: Gathered) -> Any:
        """Return the compiled chunk for gathered lanes, arrays or shapes."""
        return self._compile(self.arguments(gathered, 0, 1, self.config.eval_every))

    def jitted(self) -> Any:
        """Return the jitted chunk; every device runs it on its lanes, without communication."""
        lanes, replicated = P("lanes"), P()
        chunk = jax.shard_map(
            self.step.chunk,
            mesh=self.slots.mesh,
            in_specs=(lanes, lanes, Data(replicated, lanes), *[replicated] * 4),
            out_specs=lanes,
            check_vma=False,  # The check has no rule for the loops inside.
        )
        return jax.jit(chunk, donate_argnums=0)

    def _compile(self, arguments: tuple) -> Any:
        """Return the chunk compiled for these shapes.

        Programs are kept by structure, so that another trainer of the same structure does not compile again.
        """
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), arguments)
        key = (self.step, self.slots.mesh, side_by_side(), jax.tree.structure(arguments), *jax.tree.leaves(shapes))
        if key not in _PROGRAMS:
            clock = time.perf_counter()
            program = self.jitted().lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - clock
            if len(_PROGRAMS) >= _MAX_PROGRAMS:
                del _PROGRAMS[next(iter(_PROGRAMS))]
            _PROGRAMS[key] = program
        return _PROGRAMS[key]

    def for_lanes(self, seeds: Sequence[int], vary: Any = ()) -> "Trainer":
        """Return a trainer of other lanes with the same number of slots."""
        return Trainer(replace(self.config, seeds=tuple(seeds), vary=vary), self.slots.size)

    def abstract_batches(self) -> tuple[Batch, Batch]:
        """Return the shapes and dtypes of the train and test batch of one lane without computing them."""
        task, data = self.config.task, self.lane_data(0)
        train = jax.eval_shape(lambda key: task.train_batch(data, key, jnp.int32(0)), jax.random.key(0))
        return train, jax.eval_shape(lambda: task.test_batch(data))

    def examples(self, metric: str) -> int:
        """Return the number of examples from which a metric, such as "test_accuracy", is computed."""
        train, test = self.abstract_batches()
        return (test if metric in TEST_METRICS else train).targets.shape[0]

    def abstract_state(self) -> TrainState:
        """Return the shapes and dtypes of the state without computing it."""
        return jax.eval_shape(self.init)


@functools.lru_cache(maxsize=64)
def _initial(model: Model, sharding: NamedSharding, side_by_side: bool) -> Callable:
    # By model: runs that differ in their task's data, stop or intervals share the program.
    return jax.jit(over_lanes(functools.partial(initial, model)), out_shardings=sharding)


@functools.lru_cache(maxsize=64)
def _evaluation(step: Step, width: int, side_by_side: bool) -> Callable:
    return jax.jit(over_lanes(step.evaluate, width))
