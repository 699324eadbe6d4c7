"""The loop on the host: it dispatches chunks, reads metrics one chunk late, saves and reports in between."""

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

CHUNK_SECONDS = 0.5  # Time between two reports on a run.
EVALUATION = "evaluation/"  # The prefix of the names of a task's measurements.


class Progress(NamedTuple):
    """A report on a run after a chunk.

    Attributes:
      done: number of rows recorded so far, of the `steps + 1` of a whole run.
      latest: by name of a metric, its newest measured value in each lane, `[S]`.
      step: number of updates made, `[S]`.
      status: RUNNING, STOPPED or DIVERGED, `[S]`.
    """

    done: int
    latest: dict[str, np.ndarray]
    step: np.ndarray
    status: np.ndarray


class Result(NamedTuple):
    """The result of a run, finished or so far.

    Attributes:
      state: the last state.
      metrics: "step" `[T]`, and for each of METRICS an array `[S, T]`. Column t describes the network after
        `step[t]` updates and the next update; in the last column there is none. NaN where nothing was measured: test
        metrics between evaluations, and every metric of a lane after it was frozen. "train_position_loss"
        `[S, T, R]` is the train loss at each scored position. "evaluation/step" `[E]` and "evaluation/<name>"
        `[S, E, ...]` hold the measurements of the task, made when the test set is evaluated.
      compile_seconds: time to trace and compile the chunk.
      run_seconds: time that this call spent on training and evaluation, without compilation and saving.
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
      trainer: the trainer of the config.
      state: state to continue from, donated; the initial one by default.
      metrics: metrics that were recorded before `state`.
      until: end before this step, and do not record its row; by default all steps are made.
      eval_every: replaces that of the config.
      save_at: ascending steps; `save` is called at those between the step of `state` and the end.
      save: called with the result so far: the state, which is donated to the next step, and the metrics of all
        earlier steps.
      watch: called with a report after every chunk.

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

    def result(state: TrainState) -> Result:
        return Result(state, recorder.metrics, trainer.compile_seconds, engine.run_seconds)

    while recorder.running.any() and step < end:
        following = bisect.bisect_right(save_at, step)
        due = save_at[following] if following < len(save_at) else end
        groups, regroup = trainer.groups(state, step)
        stop = min(end, due, regroup)
        for i, lanes in enumerate(groups):
            state = engine.train(state, _Group(lanes, step, stop, i, len(groups)))
        recorder.join()
        step = stop
        if save and recorder.running.any() and step == due < end:
            save(result(state))
    recorder.complete(state, trainer)
    return result(state)


class _Group(NamedTuple):
    """Lanes that are trained without a pause from `start` to `stop`; the i-th of so many groups."""

    lanes: np.ndarray
    start: int
    stop: int
    i: int
    of: int


class _Engine:
    """Dispatches chunks, and reads the metrics of each while the device computes the next."""

    def __init__(
        self, trainer: Trainer, recorder: "_Recorder", eval_every: int, watch: Callable[[Progress], None] | None
    ):
        self._trainer, self._recorder, self._eval_every, self._watch = trainer, recorder, eval_every, watch
        # One less, because the last step is always evaluated.
        self._longest = min(CAPACITY, (EVALUATIONS - 1) * eval_every)
        self._pace = 1  # Steps of the next chunk: one, then a few, then as many as fill the time between reports.
        self._clock = 0.0
        self.run_seconds = 0.0

    def train(self, state: TrainState, group: _Group) -> TrainState:
        """Train a group, and return the state of all lanes."""
        trainer = self._trainer
        self._clock = time.perf_counter()
        gathered, pending, step = trainer.gather(state, group.lanes), None, group.start
        while self._recorder.running[group.lanes].any() and step < group.stop:
            count = min(self._pace, group.stop - step)
            compiled = trainer.compile_seconds
            gathered, *outputs = trainer.chunk(gathered, step, count, self._eval_every)
            if trainer.compile_seconds > compiled:
                self._clock = time.perf_counter()
            if pending:
                self._settle(group, *pending)
            pending = (step, count, outputs)
            step += count
        if pending:
            self._settle(group, *pending)
        return trainer.slots.scatter(state, group.lanes, gathered.state)

    def _settle(self, group: _Group, step: int, count: int, outputs: Sequence) -> None:
        """Wait for a chunk of at most `count` steps, and record its metrics."""
        recorder, (rows, measurements, report) = self._recorder, jax.device_get(outputs)
        made = int(report["rows"].max())
        recorder.add(group.lanes, step, made, rows, measurements, report)
        seconds, self._clock = time.perf_counter() - self._clock, time.perf_counter()
        self.run_seconds += seconds
        self._pace = int(np.clip(CHUNK_SECONDS * made / seconds, 1, min(8 * count, self._longest)))
        if self._watch and made:
            done = group.start + (group.i * (group.stop - group.start) + step + made - group.start) // group.of
            latest = {name: values.copy() for name, values in recorder.latest.items()}
            self._watch(Progress(done, latest, recorder.step.copy(), recorder.status.copy()))


def cut(metrics: Metrics, step: int) -> Metrics:
    """Return the metrics of the steps before `step`."""
    kept = {axis: metrics[axis] < step for axis in (_axis("step"), _axis(EVALUATION))}
    return {
        name: values[kept[name]] if name in kept else values[:, kept[_axis(name)]] for name, values in metrics.items()
    }


def _axis(name: str) -> str:
    """Return the name of the steps at which a metric was recorded."""
    return f"{EVALUATION}step" if name.startswith(EVALUATION) else "step"


class _Recorder:
    """Collects metrics on the host, with NaN where nothing was measured."""

    def __init__(self, metrics: Metrics | None, state: TrainState, eval_every: int, last: int):
        self.step, self.status = np.array(state.step), np.array(state.status)
        lanes = len(self.step)
        if metrics is None:
            axes = dict.fromkeys(("step", _axis(EVALUATION)), np.zeros(0, np.int64))
            metrics = axes | {name: np.zeros((lanes, 0), np.float32) for name in METRICS}
        self._parts = [metrics]
        self._new: list[tuple[np.ndarray, Metrics]] = []  # Lanes and their metrics since the last `join`.
        self._eval_every, self._last = eval_every, last
        self.latest = {name: np.full(lanes, np.nan, np.float32) for name in METRICS}

    @property
    def running(self) -> np.ndarray:
        """The lanes that run, bool `[S]`."""
        return self.status == RUNNING

    def add(
        self, lanes: np.ndarray, start: int, made: int, rows: Metrics, measurements: Metrics, report: Metrics
    ) -> None:
        """Record a chunk of `made` steps of some lanes, from `start` on; buffers may have idle lanes after these."""
        count = len(lanes)
        self.step[lanes], self.status[lanes] = report["step"][:count], report["status"][:count]
        step = np.arange(start, start + made)
        measured = (step % self._eval_every == 0) | (step == self._last)
        frozen = ~self.running[lanes, None] & (step > self.step[lanes, None])
        part = {"step": step, _axis(EVALUATION): step[measured]}
        for name, buffer in rows.items():
            blank = frozen | ~measured if name in TEST_METRICS else frozen
            part[name] = _blanked(buffer[:count, :made], blank)
        for name, buffer in measurements.items():
            part[EVALUATION + name] = _blanked(buffer[:count, : measured.sum()], frozen[:, measured])
        for name in METRICS:
            for lane, values in zip(lanes, part[name], strict=True):
                if (known := values[~np.isnan(values)]).size:
                    self.latest[name][lane] = known[-1]
        self._new.append((lanes, part))

    def join(self) -> None:
        """Join the new metrics of groups of lanes; those of lanes that were in no group are NaN."""
        parts = [(lanes, part) for lanes, part in self._new if part["step"].size]
        self._new = []
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
        """Add the test metrics at the step where a lane was frozen, if that is between two evaluations."""
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
        """All metrics so far; see Result."""
        parts = [part for part in self._parts if part["step"].size] or self._parts
        if len(parts) > 1:
            along = lambda name: 0 if name == _axis(name) else 1
            parts = [{name: np.concatenate([part[name] for part in parts], along(name)) for name in parts[0]}]
        self._parts = parts
        return parts[0]


def _blanked(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return values `[S, T, ...]` with NaN where `where`, bool `[S, T]`, holds."""
    return np.where(where.reshape(where.shape + (1,) * (values.ndim - 2)), np.nan, values)
