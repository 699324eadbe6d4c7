"""The training step of another version of this project, in a process of its own, to time beside this one."""

import contextlib
import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxadd.errors import UserError


@contextlib.contextmanager
def chunk(folder: Path, task: str, steps: int) -> Iterator[Callable[[], None]]:
    """Start the other version, and yield a function that makes some of its training steps and waits for them.

    Args:
      folder: a checkout of the other version.
      task: "Modular" or "Addition", the class with its defaults.
      steps: made in each call.

    Raises:
      UserError: the folder holds no version of this project whose trainer is known.
    """
    if not (folder / "jaxadd").is_dir():
        raise UserError(f"{folder} is no checkout of this project: it has no folder jaxadd")
    source = inspect.getsource(_serve)
    # In its folder, and without the path to this version.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [sys.executable, "-c", f"{source}\n_serve()", task, str(steps)],
        cwd=folder,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

    ask, answer, errors = process.stdin, process.stdout, process.stderr
    assert ask is not None
    assert answer is not None
    assert errors is not None

    def function() -> None:
        with contextlib.suppress(BrokenPipeError):
            print(file=ask, flush=True)
        if answer.readline() != "done\n":
            reason = (errors.read().strip().splitlines() or ["it ended"])[-1]
            raise UserError(f"{folder} holds no version of jaxadd that can be timed ({reason})")

    try:
        yield function
    finally:
        process.kill()
        process.communicate()


def _serve() -> None:
    """Make steps for every line of standard input; it runs in the other version, and imports nothing of this one."""
    import importlib
    import sys

    import jax
    import jax.numpy as jnp

    from jaxadd import tasks
    from jaxadd.config import RunConfig

    try:
        module = importlib.import_module("jaxadd.training.trainer")
    except ModuleNotFoundError:
        module = importlib.import_module("jaxadd.train")  # Up to version 0.1.
    trainer = module.Trainer(RunConfig(task=getattr(tasks, sys.argv[1])()))
    gather = getattr(trainer, "gather", None) or trainer.place
    lanes = gather(trainer.init())
    for _ in sys.stdin:
        state = lanes.state._replace(step=jnp.ones_like(lanes.state.step))
        lanes = trainer.chunk(lanes._replace(state=state), 1, int(sys.argv[2]), 10**9)[0]
        jax.block_until_ready(lanes.state)
        print("done", flush=True)
