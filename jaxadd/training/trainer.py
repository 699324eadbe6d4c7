"""A config made ready to train: data, hyper-parameters, slots for its lanes, and the compiled programs."""

import functools
import math
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
from jaxadd.training.placement import Slots
from jaxadd.training.step import CAPACITY, EVALUATIONS, RUNNING, STOPPED, TEST_METRICS, Step, TrainState, step_of
from jaxadd.types import Batch, Data, Params

_KEPT = 32  # compiled chunks
_PROGRAMS: dict[Any, Any] = {}  # By structure, slots and shapes; the oldest go first.


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
        self.step = step_of(structure(config))
        self.model, self.loss, self.objective = self.step.model, self.step.loss, self.step.objective
        self.predict = self.step.predict
        self.data = config.task.data(config.seeds)
        self.hyper = hyper(config)
        self.slots = Slots(len(config.seeds), len(config.seeds) if at_once is None else at_once)
        self.compile_seconds = 0.0

    def init(self) -> TrainState:
        """Draw the initial state of every lane."""
        draw = _initial(self.step, self.slots.state_sharding, side_by_side())
        return draw(self.hyper, jnp.asarray(self.config.seeds, jnp.uint32))

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

    def lane_data(self, lane: int) -> Data:
        """Return the data of one lane, as the task's functions take it."""
        return self.data._replace(lane=take(self.data.lane, lane))

    def evaluate(self, params: Params) -> dict[str, jax.Array]:
        """Compute the test metrics of every lane, each `[S]`, and what the task measures, `[S, ...]`."""
        width = self.slots.rows() // self.slots.mesh.size
        return _evaluation(self.step, width, side_by_side())(params, self.data.lane, shared=(self.data.shared,))

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
                state, *recorded = self.step.chunk(*arguments)
        else:
            state, *recorded = self._compile(arguments)(*arguments)
        return placed._replace(state=state), *recorded

    def _arguments(self, placed: Placed, *numbers: int) -> tuple:
        data = Data(self.data.shared, placed.data)
        return placed.state, placed.hyper, data, *(np.int32(n) for n in (*numbers, self.config.steps))

    def program(self, placed: Placed) -> Any:
        """Return the chunk compiled for so many slots, arrays or shapes of them."""
        return self._compile(self._arguments(placed, 0, 1, self.config.eval_every))

    def _compile(self, arguments: tuple) -> Any:
        """Return the chunk compiled for so many slots; every device runs it on its own lanes, and looks at no other's.

        Programs are kept by structure, so that another trainer of the same structure compiles nothing.
        """
        shapes = jax.tree.map(lambda x: (x.shape, x.dtype), arguments)
        key = (self.step, self.slots.mesh, side_by_side(), jax.tree.structure(arguments), *jax.tree.leaves(shapes))
        if key not in _PROGRAMS:
            clock = time.perf_counter()
            lanes, same = P("lanes"), P()
            chunk = jax.shard_map(
                self.step.chunk,
                mesh=self.slots.mesh,
                in_specs=(lanes, lanes, Data(same, lanes), same, same, same, same),
                out_specs=lanes,
                check_vma=False,  # It has no rule for the loops inside.
            )
            program = jax.jit(chunk, donate_argnums=0).lower(*arguments).compile()
            self.compile_seconds += time.perf_counter() - clock
            if len(_PROGRAMS) >= _KEPT:
                del _PROGRAMS[next(iter(_PROGRAMS))]
            _PROGRAMS[key] = program
        return _PROGRAMS[key]

    def for_lanes(self, seeds: Sequence[int], vary: Any = ()) -> "Trainer":
        """Return a trainer of other lanes with as many slots."""
        return Trainer(replace(self.config, seeds=tuple(seeds), vary=vary), self.slots.count)

    def abstract_batches(self) -> tuple[Batch, Batch]:
        """Return the shapes and dtypes of one lane's train and test batch without computing them."""
        task, data = self.config.task, self.lane_data(0)
        train = jax.eval_shape(lambda key: task.train_batch(data, key, jnp.int32(0)), jax.random.key(0))
        return train, jax.eval_shape(lambda: task.test_batch(data))

    def examples(self, metric: str) -> int:
        """Return the number of examples that a metric, such as "test_accuracy", is computed on."""
        train, test = self.abstract_batches()
        return (test if metric in TEST_METRICS else train).targets.shape[0]

    def abstract_state(self) -> TrainState:
        """Return the shapes and dtypes of the state without computing it."""
        return jax.eval_shape(self.init)


@functools.lru_cache(maxsize=64)
def _initial(step: Step, sharding: NamedSharding, side_by_side: bool) -> Callable:
    return jax.jit(over_lanes(step.init), out_shardings=sharding)


@functools.lru_cache(maxsize=64)
def _evaluation(step: Step, width: int, side_by_side: bool) -> Callable:
    return jax.jit(over_lanes(step.evaluate, width))
