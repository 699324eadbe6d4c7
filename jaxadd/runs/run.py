"""A run as one object: its config, metrics, saved states and trained networks."""

import contextlib
import functools
import json
import os
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxadd.analysis.report import Trained
from jaxadd.config import RunConfig
from jaxadd.errors import UserError
from jaxadd.files import UNREADABLE, first_line, read_npz, write_text
from jaxadd.lanes import find, take
from jaxadd.models import Model, Network
from jaxadd.runs import checkpoints
from jaxadd.runs.folder import Files
from jaxadd.serialization import from_json, to_json
from jaxadd.training.loop import cut
from jaxadd.training.step import TrainState
from jaxadd.trees import nest
from jaxadd.types import Metrics, Params

Note = Callable[[str], None]
"""Called with a sentence on anything the user should know, such as a damaged checkpoint that was skipped."""


@dataclass(frozen=True)
class Machine:
    """What a run is trained on; another machine may round differently.

    Attributes:
      jax: version of JAX.
      python: version of Python.
      platform: "cpu", "gpu" or "tpu".
      device: number and name of the devices.
      lanes_at_once: number of lanes trained at the same time.
    """

    jax: str
    python: str
    platform: str
    device: str
    lanes_at_once: int

    @classmethod
    def this(cls, lanes_at_once: int) -> "Machine":
        """Return the machine of this process."""
        device = jax.devices()[0]
        name = _processor() if device.platform == "cpu" else device.device_kind
        return cls(
            jax=jax.__version__,
            python=platform.python_version(),
            platform=device.platform,
            device=f"{jax.device_count()} × {name}",
            lanes_at_once=lanes_at_once,
        )

    def changes(self, now: "Machine") -> list[str]:
        """Return what differs on another machine, such as "jax 0.10.1 then, 0.10.2 now"."""
        then, now = asdict(self), asdict(now)
        return [
            f"{name.replace('_', ' ')} {then[name]} then, {now[name]} now" for name in now if now[name] != then[name]
        ]


class Run:
    """A run of S lanes, finished or not.

    Files of the run folder are read at first use, and raise UserError where they are damaged.

    Attributes:
      config: everything that determines the run.
      machine: what the run is trained on.
      folder: run folder; None for a run in memory.
    """

    def __init__(
        self,
        config: RunConfig,
        machine: Machine,
        folder: Path | None = None,
        *,
        metrics: Metrics | None = None,
        params: Params | None = None,
        summary: dict[str, Any] | None = None,
    ):
        """Set config and folder; without a folder, also the metrics, params (with a leading S axis) and summary."""
        self.config, self.machine, self.folder = config, machine, folder
        if folder is None:
            # These take precedence over the cached properties, which read files.
            self.__dict__ |= {"metrics": metrics, "params": params, "summary": summary}

    def __repr__(self) -> str:
        where = "in memory" if self.folder is None else f"in {self.folder}"
        return f"Run({self.title}, {where})"

    @property
    def model(self) -> Model:
        """The architecture, sized for the task."""
        return self.config.model.build(self.config.task.sizes)

    @property
    def title(self) -> str:
        """The task and its lanes in a few words, for figures."""
        seeds = self.config.seeds
        lanes = f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds, median and range"
        return f"{self.config.task.title}, {lanes}"

    @property
    def complete(self) -> bool:
        """Whether the run is complete: every lane is finished, stopped or diverged."""
        return self.summary is not None

    @functools.cached_property
    def summary(self) -> dict[str, Any] | None:
        """The headline numbers, see `runs.summary`; None while the run is not complete."""
        path = self._files.summary
        return self._read(path, lambda path: json.loads(path.read_text())) if path.is_file() else None

    @functools.cached_property
    def metrics(self) -> Metrics:
        """The metrics recorded so far, see `training.loop.Result`."""
        return self._read(self._files.metrics, read_npz)

    @functools.cached_property
    def params(self) -> Params | None:
        """The final parameters, leaves with a leading S axis; None while the run is not complete."""
        return self._nested(self._read(self._files.params, read_npz)) if self.complete else None

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps whose states are saved, ascending."""
        return () if self.folder is None else tuple(checkpoints.steps(self._files.checkpoints))

    @property
    def _files(self) -> Files:
        assert self.folder is not None  # A run in memory has everything that would be read.
        return Files(self.folder)

    # --- networks --------------------------------------------------------------------------------------------

    def network(self, seed: int | None = None, step: int | None = None) -> Network:
        """Return one trained network, every matrix a parameter of its own also where training tied them.

        Args:
          seed: seed of the lane; the first lane by default.
          step: a saved step; by default the end, or the newest saved step of a run that is not complete.

        Raises:
          UserError: there is no such lane or state, or it is damaged.
        """
        return self.networks(step)[find(self.config.seeds, seed)]

    def networks(self, step: int | None = None) -> tuple[Network, ...]:
        """Return the networks of all lanes, at the end or at a saved step; see `network`."""
        if step is None and not self.complete:
            step = self._newest()
        if step is None:
            assert self.summary is not None
            assert self.params is not None
            params, made = self.params, [lane["steps"] for lane in self.summary["lanes"]]
        else:
            arrays = self._checkpoint(step)
            params, made = self._params_of(arrays), arrays["step"].tolist()
        matrices, model, task = self._matrices(params), self.model.untied, self.config.task
        lanes = enumerate(zip(self.config.seeds, made, strict=True))
        return tuple(Network(take(matrices, s), model, task, seed, steps) for s, (seed, steps) in lanes)

    def params_at(self, step: int) -> Params:
        """Return the parameters at a saved step, leaves with a leading S axis; raises UserError for other steps."""
        return self._params_of(self._checkpoint(step))

    def history(self, last: int | None = None, note: Note = print) -> tuple[np.ndarray, Params | None]:
        """Return the parameters at all saved steps.

        Args:
          last: last step to read; all by default.
          note: called with a sentence on every damaged state that is skipped.

        Returns:
          the steps `[E]`, and the parameters with leading axes `[S, E]`, or None where no state is saved.
        """
        states: dict[int, Params] = {}
        for step in self.steps:
            if last is None or step <= last:
                try:
                    states[step] = self._params_of(self._checkpoint(step, hint=False))
                except UserError as error:
                    note(f"{error}; it is skipped")
        if not states:
            return np.zeros(0, int), None
        return np.asarray(list(states)), jax.tree.map(_stacked, *states.values())

    def trained(self, step: int | None = None, *, history: bool = False, note: Note = print) -> Trained:
        """Return the networks at the end or at a saved step with the record of their training, for a report.

        Args:
          step: as for `network`; nothing later is part of the result.
          history: whether to read the parameters at all saved steps as well.
          note: called with a sentence on every damaged state that is skipped.
        """
        networks = self.networks(step)
        at = "" if step is None else f", step {step:,}"
        metrics = self.metrics if step is None else cut(self.metrics, step + 1)
        steps, params = self.history(step, note) if history else (np.zeros(0, int), None)
        lanes = range(len(networks))
        histories = () if params is None else tuple(self._matrices(take(params, s)) for s in lanes)
        return Trained(networks, self.title + at, metrics, steps, histories)

    def state(self, like: TrainState, step: int | None = None) -> TrainState:
        """Return a saved training state, the newest by default, with the structure of `like`.

        Raises:
          UserError: the state was not saved, or is damaged.
        """
        return nest(self._checkpoint(self._newest() if step is None else step), like)

    def _newest(self) -> int:
        if not self.steps:
            raise UserError(f"{self.folder or 'this run'} has no saved states")
        return self.steps[-1]

    def _checkpoint(self, step: int, *, hint: bool = True) -> dict[str, np.ndarray]:
        saved = self.steps
        if step not in saved:
            self._newest()  # Raises where no state is saved.
            raise UserError(f"step {step:,} of {self.folder} was not saved; there are {_listed(saved)}")
        try:
            return checkpoints.load(self._files.checkpoints, step, self.config)
        except UNREADABLE as error:
            others = tuple(other for other in saved if other != step)
            remedy = f"; choose another saved step ({_listed(others)})" if hint and others else ""
            raise UserError(
                f"step {step:,} of {self.folder} is damaged or of another run ({first_line(error)}){remedy}"
            ) from error

    def _params_of(self, arrays: dict[str, np.ndarray]) -> Params:
        return self._nested({n.removeprefix("params."): x for n, x in arrays.items() if n.startswith("params.")})

    def _matrices(self, params: Params) -> Params:
        """Return the matrices of the untied network, for parameters with a leading axis of lanes or states."""
        return jax.vmap(self.model.matrices)(params)

    def _nested(self, arrays: dict[str, np.ndarray]) -> Params:
        """Nest flat arrays with a leading S axis as parameters of this run's model."""
        lanes = len(self.config.seeds)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((lanes, *x.shape), x.dtype), self.model.shapes())
        try:
            return nest(arrays, like)
        except ValueError as error:
            raise UserError(f"the parameters in {self.folder} are not those of its config: {error}") from error

    def _read(self, path: Path, read: Callable[[Path], Any]) -> Any:
        try:
            return read(path)
        except UNREADABLE as error:
            lost = path == self._files.metrics and any(self.steps)
            remedy = f"`jaxadd resume {self.folder}` repairs it"
            if lost:
                remedy = (
                    f"it cannot be recomputed; put it back, or move {self._files.checkpoints} away, and "
                    f"`jaxadd resume {self.folder}` trains again from step 0"
                )
            raise UserError(f"{path} is missing or damaged ({first_line(error)}); {remedy}") from error

    # --- the folder ------------------------------------------------------------------------------------------

    def write_config(self, **more: Any) -> None:
        """Write config.json, with `more` entries beside those of a run."""
        data = {"config": to_json(self.config), "machine": asdict(self.machine)} | more
        write_text(self._files.config, json.dumps(data, indent=2) + "\n")

    def note_changes(self, now: Machine, note: Note) -> None:
        """Note what has changed on this machine since the run began, as numbers may be rounded differently."""
        if changes := self.machine.changes(now):
            note(f"results may differ in rounding, since the machine has changed: {'; '.join(changes)}")


def open_run(folder: str | os.PathLike) -> Run:
    """Return the run in a folder, reading only its config; raises UserError where it is not a run folder."""
    files = Files(folder)
    data = files.read_config()
    names = {"config": {"kind"}, "machine": {f.name for f in fields(Machine)}}
    for entry, needed in names.items():
        if not isinstance(data.get(entry), dict) or not needed <= data[entry].keys():
            raise UserError(f"{files.config} cannot be read as the config of a run: its entry {entry!r} is damaged")
    try:
        machine = {name: data["machine"][name] for name in names["machine"]}
        return Run(from_json(data["config"], RunConfig), Machine(**machine), files.folder)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = first_line(error) if isinstance(error, UserError) else "a value is of another type than it should be"
        raise UserError(f"{files.config} cannot be read as the config of a run: {reason}") from error


def load(folder: str | os.PathLike) -> Run:
    """Return the run in a folder, finished or not; raises UserError where it is not a run folder or is damaged."""
    run = open_run(folder)
    _ = run.metrics, run.params  # Read now, so that damage is reported here.
    return run


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return f"CPU ({line.split(':', 1)[1].strip()}, {os.cpu_count()} cores)"
    return f"CPU ({platform.processor() or platform.machine()}, {os.cpu_count()} cores)"


def _listed(steps: Sequence[int]) -> str:
    shown = [f"{step:,}" for step in steps]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:4], "…", *shown[-3:]])


def _stacked(*states: jax.Array) -> jax.Array:
    """Return leaves `[S, ...]` of several states as one, `[S, E, ...]`, stacked on the host: nothing is compiled."""
    return jax.device_put(np.stack([np.asarray(leaf) for leaf in states], axis=1))
