"""The loop on the host: dispatches chunks, reads metrics one chunk late, saves and reports in between."""

import bisect
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.training.step import CAPACITY, EVALUATIONS, METRICS, RUNNING, TEST_METRICS, TrainState
from jaxadd.training.trainer import Trainer
from jaxadd.types import Metrics

CHUNK_SECONDS = 0.5  # Between two looks at a run.
EVALUATION = "evaluation/"  # Before the name of what a task measures at its evaluations.


class Progress(NamedTuple):
    """What is known after a chunk, for whoever watches.

    Attributes:
      done: rows recorded so far, of the `steps + 1` of a whole run.
      latest: metric name to its newest measured value in each lane, `[S]`.
      step: `[S]`, the updates made.
      status: `[S]`.
    """

    done: int
    latest: dict[str, np.ndarray]
    step: np.ndarray
    status: np.ndarray


class Result(NamedTuple):
    """A run, finished or as far as it is.

    Attributes:
      state: the last state.
      metrics: "step" `[T]`, and for each of METRICS an array `[S, T]`. Column t describes the network after
        `step[t]` updates and the update made from there; the last column makes none. NaN where nothing was
        measured: test metrics between evaluations, and every metric of a lane after it was frozen.
        "train_position_loss" `[S, T, R]` is the train loss at each position read. "evaluation/step" `[E]` and
        "evaluation/<name>" `[S, E, ...]` hold what the task measures when the test set is evaluated.
      compile_seconds: time to trace and compile the chunk.
      run_seconds: time that this call spent in training and evaluation, compilation and saving left out.
    """

    state: TrainState
    metrics: Metrics
    compile_seconds: float
    run_seconds: float


def fit(
    trainer: Trainer,
    *,
    state: TrainState | None = None,
    metrics: Metrics | None = None,
    until: int | None = None,
    eval_every: int | None = None,
    save_at: Sequence[int] = (),
    save: Callable[[Result], None] | None = None,
    watch: Callable[[Progress], None] | None = None,
) -> Result:
    """Train until the config's steps are made or every lane is done.

    Args:
      trainer: the config made ready.
      state: the state to go on from, donated; the initial one by default.
      metrics: what was recorded before `state`.
      until: end before this step, leaving its row to another call.
      eval_every: overrides the config's.
      save_at: ascending steps; at each that lies between the given state's and the end, `save` is called.
      save: called with what there is so far: the state, whose buffers the next step takes, and all metrics before
        that step.
      watch: called after every chunk.

    Returns:
      the final state and all metrics.
    """
    state = trainer.init() if state is None else jax.device_put(state, trainer.slots.state_sharding)
    eval_every = trainer.config.eval_every if eval_every is None else eval_every
    last = trainer.config.steps
    end = last + 1 if until is None else until
    recorder = _Recorder(metrics, state, eval_every, last)
    engine = _Engine(trainer, recorder, eval_every, watch)
    step = int(jnp.max(jnp.where(state.status == RUNNING, state.step, -1)))

    def result() -> Result:
        return Result(state, recorder.metrics, trainer.compile_seconds, engine.run_seconds)

    while recorder.running.any() and step < end:
        place = bisect.bisect_right(save_at, step)
        due = save_at[place] if place < len(save_at) else end
        groups, until_groups_change = trainer.groups(state, step)
        stop = min(end, due, until_groups_change)
        for i, lanes in enumerate(groups):
            state = engine.train(state, _Group(lanes, step, stop, i, len(groups)))
        recorder.join()
        step = stop
        if save and recorder.running.any() and step == due < end:
            save(result())
    recorder.complete(state, trainer)
    return result()


class _Group(NamedTuple):
    """What is trained without a pause: these lanes from `start` to `stop`, the i-th of so many groups there."""

    lanes: np.ndarray
    start: int
    stop: int
    i: int
    of: int


class _Engine:
    """Dispatches chunks, and reads what each recorded while the device computes the next."""

    def __init__(
        self, trainer: Trainer, recorder: "_Recorder", eval_every: int, watch: Callable[[Progress], None] | None
    ):
        self._trainer, self._recorder, self._eval_every, self._watch = trainer, recorder, eval_every, watch
        # The last step is evaluated whatever the interval, hence one less.
        self._longest = min(CAPACITY, (EVALUATIONS - 1) * eval_every)
        self._pace = 1  # Steps of the next chunk: one, then a few, then as many as fill the time between two looks.
        self._clock = 0.0
        self.run_seconds = 0.0

    def train(self, state: TrainState, group: _Group) -> TrainState:
        """Train a group; returns the state of all lanes."""
        trainer = self._trainer
        self._clock = time.perf_counter()
        placed, pending, step = trainer.place(state, group.lanes), None, group.start
        while self._recorder.running[group.lanes].any() and step < group.stop:
            count = min(self._pace, group.stop - step)
            compiled = trainer.compile_seconds
            placed, *outputs = trainer.chunk(placed, step, count, self._eval_every)
            if trainer.compile_seconds > compiled:
                self._clock = time.perf_counter()
            if pending:
                self._settle(group, *pending)
            pending = (step, count, outputs)
            step += count
        if pending:
            self._settle(group, *pending)
        return trainer.slots.scatter(state, group.lanes, placed.state)

    def _settle(self, group: _Group, step: int, asked: int, outputs: Sequence) -> None:
        """Wait for a chunk, and take what it recorded."""
        recorder, (rows, taken, report) = self._recorder, jax.device_get(outputs)
        made = int(report["rows"].max())
        recorder.add(group.lanes, step, made, rows, taken, report)
        seconds, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        self.run_seconds += seconds
        self._pace = int(np.clip(CHUNK_SECONDS * made / seconds, 1, min(8 * asked, self._longest)))
        if self._watch and made:
            done = group.start + (group.i * (group.stop - group.start) + step + made - group.start) // group.of
            latest = {name: values.copy() for name, values in recorder.latest.items()}
            self._watch(Progress(done, latest, recorder.step.copy(), recorder.status.copy()))


def cut(metrics: Metrics, step: int) -> Metrics:
    """Keep what was recorded of the steps before `step`."""
    kept = {axis: metrics[axis] < step for axis in (_axis("step"), _axis(EVALUATION))}
    return {
        name: values[kept[name]] if name in kept else values[:, kept[_axis(name)]] for name, values in metrics.items()
    }


def _axis(name: str) -> str:
    """Name the steps along which a metric was recorded."""
    return f"{EVALUATION}step" if name.startswith(EVALUATION) else "step"


class _Recorder:
    """Collects rows on the host and blanks what was not measured."""

    def __init__(self, metrics: Metrics | None, state: TrainState, eval_every: int, last: int):
        self.step, self.status = np.array(state.step), np.array(state.status)
        lanes = len(self.step)
        if metrics is None:
            axes = dict.fromkeys(("step", _axis(EVALUATION)), np.zeros(0, np.int64))
            metrics = axes | {name: np.zeros((lanes, 0), np.float32) for name in METRICS}
        self._parts = [metrics]
        self._taken: list[tuple[np.ndarray, Metrics]] = []  # Lanes and what they recorded since the last `join`.
        self._eval_every, self._last = eval_every, last
        self.latest = {name: np.full(lanes, np.nan, np.float32) for name in METRICS}

    @property
    def running(self) -> np.ndarray:
        """Tell which lanes run, bool `[S]`."""
        return self.status == RUNNING

    def add(self, lanes: np.ndarray, start: int, made: int, rows: Metrics, taken: Metrics, report: Metrics) -> None:
        """Take what a chunk of `made` steps from `start` on recorded of some of the lanes, idle ones after them."""
        count = len(lanes)
        self.step[lanes], self.status[lanes] = report["step"][:count], report["status"][:count]
        step = np.arange(start, start + made)
        measured = (step % self._eval_every == 0) | (step == self._last)
        over = ~self.running[lanes, None] & (step > self.step[lanes, None])
        part = {"step": step, _axis(EVALUATION): step[measured]}
        for name, buffer in rows.items():
            blank = over | ~measured if name in TEST_METRICS else over
            part[name] = _blanked(buffer[:count, :made], blank)
        for name, buffer in taken.items():
            part[EVALUATION + name] = _blanked(buffer[:count, : measured.sum()], over[:, measured])
        for name in METRICS:
            for lane, values in zip(lanes, part[name], strict=True):
                if (known := values[~np.isnan(values)]).size:
                    self.latest[name][lane] = known[-1]
        self._taken.append((lanes, part))

    def join(self) -> None:
        """Lay what groups of lanes recorded side by side; those that were done before, and had none, are blank."""
        parts = [(lanes, part) for lanes, part in self._taken if part["step"].size]
        self._taken = []
        if not parts:
            return
        axes = {name: np.unique(np.concatenate([p[name] for _, p in parts])) for name in ("step", _axis(EVALUATION))}
        joined = dict(axes)
        for name, like in parts[0][1].items():
            if name not in axes:
                steps = axes[_axis(name)]
                joined[name] = np.full((len(self.step), len(steps), *like.shape[2:]), np.nan, like.dtype)
                for lanes, part in parts:
                    joined[name][np.ix_(lanes, np.searchsorted(steps, part[_axis(name)]))] = part[name]
        self._parts.append(joined)

    def complete(self, state: TrainState, trainer: Trainer) -> None:
        """Measure the test set at the step where a lane was frozen, where that fell between two evaluations."""
        metrics = self.metrics
        lane, column = np.nonzero(metrics["step"] == np.asarray(state.step)[:, None])
        missing = (np.asarray(state.status)[lane] != RUNNING) & np.isnan(metrics["test_loss"][lane, column])
        lane, column = lane[missing], column[missing]
        if lane.size:
            measured = jax.device_get(trainer.evaluate(state.params))
            for name in TEST_METRICS:
                metrics[name][lane, column] = measured[name][lane]

    @property
    def metrics(self) -> Metrics:
        """Everything so far, joined; see Result."""
        parts = [part for part in self._parts if part["step"].size] or self._parts
        if len(parts) > 1:
            along = lambda name: 0 if name == _axis(name) else 1
            parts = [{name: np.concatenate([part[name] for part in parts], along(name)) for name in parts[0]}]
        self._parts = parts
        return parts[0]


def _blanked(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Put NaN where `where` `[S, T]` says so in `[S, T, ...]`."""
    return np.where(where.reshape(where.shape + (1,) * (values.ndim - 2)), np.nan, values)
