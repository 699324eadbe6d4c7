"""Write a trained network as a torch checkpoint."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jax
import optax
import tyro

from jaxadd import interop
from jaxadd.cli.checkpoint import task_facts
from jaxadd.errors import UserError
from jaxadd.interop import Layout
from jaxadd.lanes import find, take
from jaxadd.models import structure
from jaxadd.optim.optimizers import Adam, AdamW
from jaxadd.runs import Run, open_run
from jaxadd.serialization import changed
from jaxadd.training.trainer import Trainer


@dataclass(frozen=True)
class Options:
    """Write a trained network as a torch checkpoint, in the layout of Nanda et al. or of TransformerLens.

    The file holds {"model": state dict} and, with --optimizer, "optimizer". torch.load reads it with
    weights_only=True, and `jaxadd analyse FILE` does too.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """run folder"""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """checkpoint to write, such as network.pth"""
    step: int | None = None
    """saved step of the network; by default the newest"""
    seed: int | None = None
    """seed of the network, where the run has several; by default the first"""
    layout: Layout = "mainline"
    """names and shapes of the tensors; only transformer-lens has norms, gates and biases of attention"""
    optimizer: bool = False
    """write the state of the optimiser as well, Adam and AdamW only"""


def run(options: Options) -> int:
    """Write the file; returns the exit status."""
    trained = open_run(options.run)
    config = trained.config
    if not structure.is_transformer(trained.model):
        name = type(config.model).__name__
        raise UserError(f"only transformers can be exported, and {options.run} trained a network of {name}")
    if not options.file.absolute().parent.is_dir():
        raise UserError(f"there is no folder {options.file.parent} to write {options.file.name} in")
    adam = _adam_of(trained, options) if options.optimizer else None
    network = trained.network(options.seed, options.step)
    facts = {
        "config": {
            "task": config.task.title,
            "step": network.step,
            "activation": structure.transformer(trained.model).activation,
            **task_facts(config.task, network.seed),
        }
    }
    interop.write(options.file, network.params, network.model, optimizer=adam, rest=facts, layout=options.layout)
    print(f"{options.file}: step {network.step:,}, {options.layout} layout{', with Adam' if adam else ''}")
    return 0


def _adam_of(trained: Run, options: Options) -> interop.Adam:
    """Return the state of the optimiser of one lane, from the saved state that the network is of."""
    config, lane_index = trained.config, find(trained.config.seeds, options.seed)
    varied = changed(config, {name: values[lane_index] for name, values in config.vary})
    settings = adam_settings(varied.get("optimizer", config.optimizer))
    if trained.model != trained.model.untied:
        raise UserError("--optimizer needs a network whose matrices are all trained, and this one ties some of them")
    state = trained.state(Trainer(config).abstract_state(), options.step)
    lane = jax.device_get(take(state, lane_index))
    return _adam(lane.opt_state, settings)


def _adam(opt_state: optax.OptState, settings: dict[str, Any]) -> interop.Adam:
    mu, nu = (optax.tree.get(opt_state, name) for name in ("mu", "nu"))
    return interop.Adam(mu, nu, int(optax.tree.get_all_with_path(opt_state, "count")[0][1]), settings)


@functools.singledispatch
def adam_settings(optimizer: Any) -> dict[str, Any]:
    """Return the settings with which torch's Adam or AdamW trains as an optimiser; UserError where neither does."""
    raise UserError(
        f"--optimizer writes the state of Adam or AdamW, and this run was trained by {type(optimizer).__name__}"
    )


@adam_settings.register
def _(optimizer: AdamW) -> dict[str, Any]:
    if optimizer.no_decay:
        raise UserError("--optimizer writes one weight decay for all parameters, and this run has no_decay")
    return _settings(optimizer) | {"weight_decay": optimizer.weight_decay}


@adam_settings.register
def _(optimizer: Adam) -> dict[str, Any]:
    return _settings(optimizer) | {"weight_decay": optimizer.l2}


def _settings(optimizer: Adam | AdamW) -> dict[str, Any]:
    return {"lr": optimizer.lr, "betas": (optimizer.b1, optimizer.b2), "eps": optimizer.eps}
