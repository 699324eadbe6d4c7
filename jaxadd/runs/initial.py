"""The state a run begins with: drawn from its seeds, or with the parameters of another network."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop import read
from jaxadd.lanes import find, over_lanes
from jaxadd.models import ModelConfig
from jaxadd.models.fitting import fit
from jaxadd.runs.run import Note, load
from jaxadd.serialization import flat, unused
from jaxadd.training.step import TrainState
from jaxadd.training.trainer import Trainer
from jaxadd.trees import named_leaves
from jaxadd.types import Params

_SHAPES = {"d_head", "kv_heads"}  # Compared by the shapes of parameters, since None and a number can mean the same.
_SAME_FUNCTION = {"dropout", "dtype", "precision"}  # Up to rounding, a trained network computes the same.


def initial(trainer: Trainer, note: Note = lambda line: None) -> TrainState:
    """Return the state of every lane before the first step.

    With `init_from`, parameters are those of `start_params`, multiplied by `init_scale`; the optimiser starts anew.

    Args:
      trainer: trainer of the run.
      note: see `start_params`.

    Raises:
      UserError: see `start_params`.
    """
    state, given = trainer.init(), start_params(trainer, note)
    if given is None:
        return state
    scale = trainer.hyper.init_scale
    params = jax.tree.map(lambda w: w * scale.reshape(-1, *[1] * (w.ndim - 1)), jax.tree.map(jnp.asarray, given))
    begin = jax.jit(over_lanes(lambda hyper, params: hyper.transform().init(params)))
    state = state._replace(params=params, opt_state=begin(trainer.hyper, params))
    return jax.device_put(state, trainer.slots.state_sharding)


def start_params(trainer: Trainer, note: Note = lambda line: None) -> Params | None:
    """Return the parameters that `init_from` names, or None where they are drawn from the seeds.

    They are those at the end of a run, of the lane with the same seed or of its only lane, or those of a checkpoint
    file in every lane. Where this network has fewer parameters than that of the run, they are fitted to it, see
    `models.fitting`.

    Args:
      trainer: trainer of the run that begins.
      note: receives a line on what the other network computes otherwise, such as its activation function, and on what
        its file does not state.

    Returns:
      float32 NumPy arrays with a leading axis of lanes.

    Raises:
      UserError: there is no such run or file, its parameters are not those of this architecture, or they are not
        finite.
    """
    source = trainer.config.init_from
    if not source:
        return None
    params_of = _of_run if Path(source).is_dir() else _of_checkpoint
    given = params_of(trainer, Path(source), note)
    theirs = {name: w.shape[1:] for name, w in named_leaves(given)}  # Without the lanes.
    needed = {name: w.shape for name, w in named_leaves(trainer.model.shapes())}
    if differing := [name for name in {**needed, **theirs} if theirs.get(name) != needed.get(name)]:
        there, here = (shapes.get(differing[0], "absent") for shapes in (theirs, needed))
        raise UserError(
            f"the parameters of {source} are not those of this architecture and task: {differing[0]} is {there} "
            f"there and {here} here"
        )
    if not all(np.all(np.isfinite(w)) for w in jax.tree.leaves(given)):
        raise UserError(f"the parameters of {source} are not all finite; no network can start from it")
    return given


def _shapes(params: Params) -> Params:
    return jax.tree.map(lambda w: w.shape, params)


def _of_run(trainer: Trainer, folder: Path, note: Note) -> Params:
    """Return the final parameters of a run, a leading axis of this run's lanes."""
    run, seeds = load(folder), trainer.config.seeds
    if run.params is None:
        raise UserError(f"the run in {folder} is not complete, so no network can start from it; resume it first")
    own = run.config.seeds
    lanes = [0] * len(seeds) if len(own) == 1 else [find(own, seed) for seed in seeds]
    given = jax.tree.map(lambda w: np.asarray(w)[lanes], run.params)
    one = lambda lane: jax.tree.map(lambda w: w[lane], given)
    if _shapes(one(0)) == _shapes(trainer.model.shapes()):
        _note_difference(trainer, run.model.config, folder, note)
    else:
        try:
            fitted = [fit(trainer.model, run.model, one(lane)) for lane in range(len(seeds))]
        except UserError as error:
            raise UserError(f"the parameters of {folder} are not those of this architecture: {error}") from error
        given = jax.tree.map(lambda *lanes: np.stack(lanes), *fitted)
    return given


def _of_checkpoint(trainer: Trainer, path: Path, note: Note) -> Params:
    """Return the parameters of a checkpoint file, the same for every lane of this run."""
    checkpoint = read(path)
    for line in checkpoint.notes:
        note(f"{path.name}: {line}")
    if trainer.model != trainer.model.untied:
        raise UserError(
            f"{path} holds all matrices of a network, and this architecture ties some of them; start from a run "
            "folder, whose parameters are fitted, or leave the ties out"
        )
    _note_difference(trainer, checkpoint.config, path, note)
    params, lanes = checkpoint.params_for(trainer.model.sizes), len(trainer.config.seeds)
    return jax.tree.map(lambda w: np.broadcast_to(w, (lanes, *w.shape)), params)


def _note_difference(trainer: Trainer, other: ModelConfig, source: Path, note: Note) -> None:
    """Note the fields in which the network of a source differs, if any; a user may want that, and should know."""
    config = trainer.model.untied.config
    mine, theirs = flat(config), flat(other.untied())
    compared = (mine.keys() & theirs.keys()) - unused(config).keys() - _SHAPES - _SAME_FUNCTION
    differing = [name for name in mine if name in compared and theirs[name] != mine[name]]
    if differing:
        changes = ", ".join(f"{name} {theirs[name]} there and {mine[name]} here" for name in differing)
        note(f"the network of {source}, as it was read, is another than that of this run: {changes}")
