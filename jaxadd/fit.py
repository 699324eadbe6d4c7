"""The loop on the host: dispatches chunks, reads metrics one chunk late, saves and reports in between."""

import bisect
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.lanes import take
from jaxadd.train import CAPACITY, EVALUATIONS, METRICS, RUNNING, TEST_METRICS, Trainer, TrainState

CHUNK_SECONDS = 0.5  # Between two looks at a run.
EVALUATION = "evaluation/"  # Before the name of what a task measures at its evaluations.

Metrics = dict[str, np.ndarray]


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
    """A finished run.

    Attributes:
      state: the last state.
      metrics: "step" `[T]`, and for each of METRICS an array `[S, T]`. Column t describes the network after
        `step[t]` updates and the update made from there; the last column makes none. NaN where nothing was
        measured: test metrics between evaluations, and every metric of a lane after it was frozen.
        "train_position_loss" `[S, T, R]` is the train loss at each position read. "evaluation/step" `[E]` and
        "evaluation/<name>" `[S, E, ...]` hold what the task measures when the test set is evaluated.
      compile_seconds: time to trace and compile the chunk.
      run_seconds: time in training and evaluation, compilation and saving left out.
      steps_made: steps that this call made; a resumed run made fewer than it has.
      lane_steps_made: the same, of all lanes together.
    """

    state: TrainState
    metrics: Metrics
    compile_seconds: float
    run_seconds: float
    steps_made: int
    lane_steps_made: int


def fit(
    trainer: Trainer,
    *,
    state: TrainState | None = None,
    metrics: Metrics | None = None,
    until: int | None = None,
    eval_every: int | None = None,
    save_at: Sequence[int] = (),
    save: Callable[[TrainState, Metrics], None] | None = None,
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
      save: called with the state, whose buffers the next step takes, and all metrics before that step.
      watch: called after every chunk.

    Returns:
      the final state and all metrics.
    """
    state = trainer.init() if state is None else state
    before = np.asarray(state.step)
    eval_every = trainer.config.eval_every if eval_every is None else eval_every
    last = trainer.config.steps
    end = last + 1 if until is None else until
    # The last step is evaluated whatever the interval, hence one less.
    longest = min(CAPACITY, (EVALUATIONS - 1) * eval_every)
    recorder = _Recorder(metrics, state, eval_every, last)
    step = first = int(jnp.max(jnp.where(state.status == RUNNING, state.step, -1)))
    running = first >= 0
    lanes, own = np.arange(len(before)), trainer
    compile_seconds, run_seconds, pace, pending, clock = trainer.compile_seconds, 0.0, 1, None, time.perf_counter()

    def settle() -> None:
        """Read what the chunk before the newest recorded, while the device computes the newest."""
        nonlocal running, run_seconds, pace, pending, clock
        if pending is None:
            return
        start, asked, *outputs = pending
        pending = None
        rows, taken, report = own.trim(jax.device_get(outputs))
        report["rows"] = int(report["rows"].max())
        recorder.add(start, lanes, rows, taken, report)
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        run_seconds += seconds
        running = bool(np.any(report["status"] == RUNNING))
        # One step, then a few, then as many as fill the time between two looks.
        pace = int(np.clip(CHUNK_SECONDS * report["rows"] / seconds, 1, min(8 * asked, longest)))
        if watch and report["rows"]:
            latest = {name: values.copy() for name, values in recorder.latest.items()}
            watch(Progress(start + report["rows"], latest, recorder.step.copy(), recorder.status.copy()))

    while running and step < end:
        place = bisect.bisect_right(save_at, step)
        due = save_at[place] if place < len(save_at) else end
        active, until_others = trainer.active(state, step)
        stop = min(end, due, until_others)
        if not np.array_equal(active, lanes):
            lanes, own = active, trainer.of_lanes(active)
        part = own.place(state if own is trainer else take(state, lanes))
        compiled = own.compile_seconds
        while running and step < stop:
            count = min(pace, stop - step)
            part, *outputs = own.chunk(part, step, count, eval_every)
            if own.compile_seconds > compiled:
                compile_seconds += own.compile_seconds - compiled
                compiled, clock = own.compile_seconds, time.perf_counter()
            settle()
            pending = (step, count, *outputs)
            step += count
        settle()
        part = own.trim(part)
        state = part if own is trainer else jax.tree.map(lambda x, y: x.at[lanes].set(y), state, part)  # noqa: B023
        if save and running and step == due < end:
            save(state, recorder.metrics)
        clock = time.perf_counter()
    recorder.complete(state, trainer)
    made = int(jnp.max(state.step)) - first if first >= 0 else 0
    lane_steps = int((np.asarray(state.step) - before).sum())
    return Result(state, recorder.metrics, compile_seconds, run_seconds, made, lane_steps)


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
        self._eval_every, self._last = eval_every, last
        self.latest = {name: np.full(lanes, np.nan, np.float32) for name in METRICS}

    def add(self, start: int, lanes: np.ndarray, rows: Metrics, taken: Metrics, report: dict) -> None:
        """Take what a chunk gave of some of the lanes; the others were done before it."""
        self.step[lanes], self.status[lanes] = report["step"], report["status"]
        step = np.arange(start, start + report["rows"])
        measured = (step % self._eval_every == 0) | (step == self._last)
        over = (self.status != RUNNING)[:, None] & (step > self.step[:, None])
        part = {"step": step, _axis(EVALUATION): step[measured]}
        for name, buffer in rows.items():
            blank = over | ~measured if name in TEST_METRICS else over
            part[name] = _blanked(self._of_all(lanes, buffer[:, : len(step)]), blank)
        for name, buffer in taken.items():
            values = self._of_all(lanes, buffer[:, : measured.sum()])
            part[EVALUATION + name] = _blanked(values, over[:, measured])
        for name in METRICS:
            for s, values in enumerate(part[name]):
                if (known := values[~np.isnan(values)]).size:
                    self.latest[name][s] = known[-1]
        self._parts.append(part)

    def _of_all(self, lanes: np.ndarray, values: np.ndarray) -> np.ndarray:
        if len(lanes) == len(self.step):
            return values
        whole = np.zeros((len(self.step), *values.shape[1:]), values.dtype)
        whole[lanes] = values
        return whole

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
            along = lambda name: 0 if name == _axis(name) else 1  # noqa: E731
            parts = [{name: np.concatenate([part[name] for part in parts], along(name)) for name in parts[0]}]
        self._parts = parts
        return parts[0]


def _blanked(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Put NaN where `where` `[S, T]` says so in `[S, T, ...]`."""
    return np.where(where.reshape(where.shape + (1,) * (values.ndim - 2)), np.nan, values)
