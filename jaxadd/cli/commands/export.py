"""Write a trained network as a torch checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import optax
import tyro

from jaxadd import interop
from jaxadd.errors import UserError
from jaxadd.interop.layouts import Layout
from jaxadd.lanes import find, take
from jaxadd.models import structure
from jaxadd.optim.optimizers import Adam, AdamW, Optimizer
from jaxadd.runs import open_run
from jaxadd.training.trainer import Trainer


@dataclass(frozen=True)
class Options:
    """Write a trained network as a torch checkpoint, in the layout of Nanda et al. or of TransformerLens.

    The file holds {"model": state dict} and, if asked for, "optimizer"; torch.load reads it with weights_only=True,
    and so does `jaxadd analyse FILE`.
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
    """names and shapes of the tensors; only transformer-lens has LayerNorm"""
    optimizer: bool = False
    """write Adam's state as well"""


def run(options: Options) -> int:
    """Write the file; returns the exit status."""
    trained = open_run(options.run)
    config = trained.config
    architecture = structure.transformer(trained.model)
    state = trained.state(Trainer(config).abstract_state(), options.step)
    lane = jax.device_get(take(state, find(config.seeds, options.seed)))
    adam = _adam(lane.opt_state, config.optimizer) if options.optimizer else None
    facts = {"config": {"task": config.task.title, "step": int(lane.step), "activation": architecture.activation}}
    interop.write(options.file, lane.params, optimizer=adam, rest=facts, layout=options.layout)
    print(f"{options.file}: step {int(lane.step):,}, {options.layout} layout{', with Adam' if adam else ''}")
    return 0


def _adam(opt_state: optax.OptState, optimizer: Optimizer) -> interop.Adam:
    if not isinstance(optimizer, Adam | AdamW):
        raise UserError(f"--optimizer is for Adam and AdamW; this run was trained by {type(optimizer).__name__}")
    decay = optimizer.weight_decay if isinstance(optimizer, AdamW) else optimizer.l2
    settings = {
        "lr": optimizer.lr,
        "betas": (optimizer.b1, optimizer.b2),
        "eps": optimizer.eps,
        "weight_decay": decay,
    }
    mu, nu = (optax.tree.get(opt_state, name) for name in ("mu", "nu"))
    count = int(optax.tree.get_all_with_path(opt_state, "count")[0][1])
    return interop.Adam(mu, nu, count, settings)
