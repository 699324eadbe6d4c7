"""Several processes on one sweep: which part each of them takes, and that they agree on what they do."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from jaxadd.errors import UserError
from jaxadd.files import write_text
from jaxadd.runs import Note
from jaxadd.serialization import to_json
from jaxadd.sweeps.design import Sweep, share, structures
from jaxadd.sweeps.results import alone


def part_of(text: str) -> tuple[int, int]:
    """Read "2/8", the part with index 2 of 8."""
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise UserError(f"a part is written as I/N, I from 0 to N - 1, got {text!r}")
    return int(index), int(parts)


def join(
    coordinator: str | None, count: int, index: int, sweep: Sweep, folder: Path, note: Note = print
) -> tuple[int, int] | None:
    """Join the other processes of `jax.distributed`, agree with them on the sweep, and give this one's part of it.

    Lanes never look at each other, so after this the processes work by themselves: one that is killed stops no other,
    and goes on alone when it is started again.

    Args:
      coordinator: HOST:PORT of process 0; None for a process of its own.
      count: processes.
      index: of this one.
      sweep: what this process was told to do.
      folder: where, by the name that all of them give it.
      note: called with a sentence on anything the user should know.

    Returns:
      (index, count); None without a coordinator.

    Raises:
      ValueError: the processes were told different things, or are more than there are lanes.
    """
    if coordinator is None:
        if count != 1 or index != 0:
            raise UserError("--processes and --process need --coordinator HOST:PORT")
        return None
    if not coordinator.rpartition(":")[2].isdecimal():
        raise UserError(f"--coordinator must be HOST:PORT, got {coordinator!r}")
    if count < 1:
        raise UserError(f"--processes must be at least 1, got {count}")
    if not 0 <= index < count:
        raise UserError(f"--process must be from 0 to {count - 1}, got {index}")
    share(structures(sweep), index, count)  # For what it refuses.
    text = json.dumps([to_json(sweep), str(folder), count], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    met = folder / ".met"
    if met.is_file() and met.read_text() == digest:
        return index, count  # One that was killed goes on alone.
    note(f"waiting for all {count} processes at {coordinator}, five minutes at most")
    # In a process of its own, so that this one never waits for another again, and on its CPU.
    command = [sys.executable, "-m", "jaxadd.sweeps.processes", coordinator, str(count), str(index), digest]
    asked = subprocess.run(
        command, env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
    )
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"the {count} processes did not meet at {coordinator}: {reason}")
    theirs = json.loads(asked.stdout.splitlines()[-1])
    if other := [i for i in range(count) if theirs[i] != theirs[0]]:
        raise UserError(
            f"the processes were told different sweeps or folders: {', '.join(map(str, other))} differ from "
            "process 0; start all with the same arguments"
        )
    with alone(folder):  # All of them write it, at the same moment.
        write_text(met, digest)
    return index, count


def _gather(coordinator: str, count: str, index: str, digest: str) -> None:
    """Print what every process says, in their order."""
    import jax
    from jax.experimental import multihost_utils

    jax.distributed.initialize(coordinator, num_processes=int(count), process_id=int(index))
    said = multihost_utils.process_allgather(np.frombuffer(bytes.fromhex(digest), np.uint8))
    jax.distributed.shutdown()
    print(json.dumps([row.tobytes().hex() for row in np.asarray(said).reshape(int(count), -1)]))


if __name__ == "__main__":
    _gather(*sys.argv[1:])
