"""Several processes on one sweep: which part each of them takes, and that they agree on what they do."""

import contextlib
import hashlib
import json
from collections.abc import Iterator

import numpy as np

from jaxadd import config as configs
from jaxadd.errors import UserError
from jaxadd.sweeps import Sweep, structures


def part_of(text: str) -> tuple[int, int]:
    """Read "2/8", the part with index 2 of 8."""
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise UserError(f"a part is written as I/N, I from 0 to N - 1, got {text!r}")
    return int(index), int(parts)


@contextlib.contextmanager
def joined(coordinator: str | None, count: int, index: int, sweep: Sweep) -> Iterator[tuple[int, int] | None]:
    """Work as one of several processes of `jax.distributed`; gives this one's part, None where there is one process.

    All check that they were given the same sweep before they begin, and wait for each other at the end.

    Args:
      coordinator: HOST:PORT of process 0; None for a process of its own.
      count: processes.
      index: of this one.
      sweep: what this process was told to do.

    Raises:
      ValueError: the processes were told different things, or are more than there are lanes.
    """
    if coordinator is None:
        if count != 1 or index != 0:
            raise UserError("--processes and --process need --coordinator HOST:PORT")
        yield None
        return
    if not 0 <= index < count:
        raise UserError(f"--process must be from 0 to {count - 1}, got {index}")
    lanes = sum(len(structure.lanes) for structure in structures(sweep))
    if count > lanes:
        raise UserError(f"{count} processes cannot share {lanes} lanes; start at most {lanes}")
    import jax
    from jax.experimental import multihost_utils

    jax.distributed.initialize(coordinator, num_processes=count, process_id=index)
    try:
        text = json.dumps(configs.to_json(sweep), sort_keys=True)
        mine = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
        theirs = np.asarray(multihost_utils.process_allgather(mine)).reshape(count, -1)
        if other := [i for i in range(count) if (theirs[i] != theirs[0]).any()]:
            raise UserError(
                f"the processes were told different sweeps: {', '.join(map(str, other))} differ from process 0; "
                "start all with the same arguments"
            )
        yield index, count
        multihost_utils.sync_global_devices("the sweep is done")
    finally:
        jax.distributed.shutdown()
