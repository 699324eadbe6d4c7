"""The headline numbers of a run: the steps at which lanes reached thresholds, and how they ended."""

from typing import Any

import numpy as np

from jaxadd.config import RunConfig, Stop
from jaxadd.training.loop import Result
from jaxadd.training.step import DIVERGED, RUNNING, STOPPED
from jaxadd.training.trainer import Trainer

STATUS = {RUNNING: "finished", STOPPED: "stopped at its threshold", DIVERGED: "diverged"}
# A lane has learned a set of examples when it reaches this.
LEARNED = {"train": Stop("train_accuracy", 0.99), "test": Stop("test_accuracy", 0.99)}
THRESHOLDS = (*LEARNED.values(), Stop("train_loss", 0.1), Stop("test_loss", 1.0))
FINAL = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")  # Reported as "final_<metric>".


def thresholds(config: RunConfig) -> list[Stop]:
    """Return the thresholds for which a summary reports the first step: the usual ones and that of the config."""
    stop = () if config.stop.metric == "none" else (config.stop,)
    return list(dict.fromkeys((*THRESHOLDS, *stop)))


def step_of(stop: Stop) -> str:
    """Return the name of the entry with the first step at a threshold, such as "step_of_test_loss_1"."""
    return f"step_of_{stop.metric}_{stop.threshold:g}"


def summarize(trainer: Trainer, result: Result) -> dict[str, Any]:
    """Return the headline numbers of a finished run, per lane, as plain data."""
    config, metrics = trainer.config, result.metrics
    status, step = np.asarray(result.state.status), np.asarray(result.state.step)
    lanes = []
    for s, seed in enumerate(config.seeds):
        end = int(np.searchsorted(metrics["step"], step[s]))
        lane: dict[str, Any] = {"seed": seed, "status": STATUS[int(status[s])], "steps": int(step[s])}
        for stop in thresholds(config):
            reached = stop.reached(metrics[stop.metric][s], trainer.examples(stop.metric))
            lane[step_of(stop)] = int(metrics["step"][reached][0]) if reached.any() else None
        for name in FINAL:
            value = metrics[name][s, end]
            # With the fewest digits that identify the float32.
            lane[f"final_{name}"] = float(str(value)) if np.isfinite(value) else None
        lanes.append(lane)
    return {
        "lanes": lanes,
        "compile_seconds": round(result.compile_seconds, 3),
        "run_seconds": round(result.run_seconds, 3),
        "lane_steps_per_second": round(int(step.sum()) / result.run_seconds, 2) if result.run_seconds else None,
    }
