"""Several processes on one sweep: the part of each, and their agreement on the sweep."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from jaxadd.errors import UserError
from jaxadd.files import write_text
from jaxadd.runs import Note
from jaxadd.serialization import to_json
from jaxadd.sweeps.design import Sweep, lanes_of_part, structures
from jaxadd.sweeps.results import alone


def part_of(text: str) -> tuple[int, int]:
    """Parse "2/8", the part with index 2 of 8; raises UserError for other text."""
    index, slash, parts = text.partition("/")
    if not (slash and index.isdecimal() and parts.isdecimal() and int(index) < int(parts)):
        raise UserError(f"a part is written as I/N, I from 0 to N - 1, got {text!r}")
    return int(index), int(parts)


def join(
    coordinator: str | None, count: int, index: int, sweep: Sweep, folder: Path, note: Note = print
) -> tuple[int, int] | None:
    """Check that all processes of `jax.distributed` have the same sweep, and return the part of this one.

    Lanes are independent, so that the processes do not communicate after this: one that is killed stops no other, and
    continues alone when it is started again.

    Args:
      coordinator: HOST:PORT of process 0; None for a single process.
      count: number of processes.
      index: index of this process.
      sweep: the sweep of this process.
      folder: folder of the sweep, with the same name in all processes.
      note: called with a sentence on anything the user should know.

    Returns:
      (index, count); None without a coordinator.

    Raises:
      UserError: the processes have different sweeps or folders, do not meet, or are more than there are lanes.
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
    lanes_of_part(structures(sweep), index, count)  # Raises where there are more processes than lanes.
    text = json.dumps([to_json(sweep), str(folder), count], sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    met = folder / ".met"
    if met.is_file() and met.read_text() == digest:
        return index, count  # A process that was killed continues alone.
    note(f"waiting for all {count} processes at {coordinator}, five minutes at most")
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "digests.json"  # Not its output, where the library that connects them writes too.
        # In a subprocess, on the CPU, so that this process does not depend on the others afterwards.
        command = [sys.executable, "-m", "jaxadd.sweeps.processes", coordinator, str(count), str(index), digest]
        gathered = subprocess.run(
            [*command, answer], env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=False
        )
        if gathered.returncode:
            reason = (gathered.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(f"the {count} processes did not meet at {coordinator}: {reason}")
        digests = json.loads(answer.read_text())
    if other := [i for i in range(count) if digests[i] != digests[0]]:
        raise UserError(
            f"the processes have different sweeps or folders: {', '.join(map(str, other))} differ from process 0; "
            "start all with the same arguments"
        )
    with alone(folder):  # All processes write it at the same moment.
        write_text(met, digest)
    return index, count


def _gather(coordinator: str, count: str, index: str, digest: str, answer: str) -> None:
    """Write the digests of all processes in their order to the file `answer`."""
    import jax
    from jax.experimental import multihost_utils

    jax.distributed.initialize(coordinator, num_processes=int(count), process_id=int(index))
    digests = multihost_utils.process_allgather(np.frombuffer(bytes.fromhex(digest), np.uint8))
    jax.distributed.shutdown()
    rows = np.asarray(digests).reshape(int(count), -1)
    Path(answer).write_text(json.dumps([row.tobytes().hex() for row in rows]))


if __name__ == "__main__":
    _gather(*sys.argv[1:])
