"""Write a trained network as a torch checkpoint, for tools that read the mainline's format or TransformerLens's."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import jax
import optax
import tyro

from jaxadd import cli, interop, runs
from jaxadd.errors import UserError
from jaxadd.interop.layouts import Layout
from jaxadd.lanes import find, take
from jaxadd.model import Transformer
from jaxadd.optimizers import AdamW, Optimizer
from jaxadd.train import Trainer


@dataclass(frozen=True)
class Export:
    """Write a trained network as a torch checkpoint, for tools that read the mainline's format or TransformerLens's.

    The file holds {"model": state dict} and, if asked for, "optimizer"; torch.load reads it with
    weights_only=True. `experiments.analyse FILE` reads it back.
    """

    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """the run folder"""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """the checkpoint to write, such as network.pth"""
    step: int | None = None
    """a saved step; the end by default"""
    seed: int | None = None
    """of a run with several; the first by default"""
    layout: Layout = "mainline"
    """names and shapes; transformer_lens has LayerNorm too"""
    optimizer: bool = False
    """with Adam's state"""


def main(options: Export) -> int:
    """Read, write and say so; gives the exit status."""
    config = runs.read_origin(options.run).config
    if not isinstance(config.model, Transformer):
        raise UserError(f"{options.run} trained an {type(config.model).__name__}; only transformers are exported")
    state = runs.state(options.run, Trainer(config), options.step)
    own = jax.device_get(take(state, find(config.seeds, options.seed)))
    adam = _adam(own.opt_state, config.optimizer) if options.optimizer else None
    facts = {"config": {"task": config.task.title, "step": int(own.step), "activation": config.model.activation}}
    interop.write(options.file, own.params, optimizer=adam, rest=facts, layout=options.layout)
    print(f"{options.file}: step {int(own.step):,}, {options.layout} layout{', with Adam' if adam else ''}")
    return 0


def _adam(opt_state: optax.OptState, optimizer: Optimizer) -> interop.Adam:
    mu, nu = (optax.tree.get(opt_state, name) for name in ("mu", "nu"))
    if mu is None or nu is None:
        raise UserError(f"--optimizer is for Adam and AdamW; this run was trained by {type(optimizer).__name__}")
    decay = optimizer.weight_decay if isinstance(optimizer, AdamW) else optimizer.l2
    settings = {
        "lr": optimizer.lr,
        "betas": (optimizer.b1, optimizer.b2),
        "eps": optimizer.eps,
        "weight_decay": decay,
    }
    count = int(optax.tree.get_all_with_path(opt_state, "count")[0][1])
    return interop.Adam(mu, nu, count, settings)


if __name__ == "__main__":
    sys.exit(cli.command("experiments.export", Export, main))
