"""What training will take: arithmetic, memory of the devices and of the host; and what memory is free."""

import math
import os
from pathlib import Path
from typing import Any

import jax

from jaxadd.lanes import side_by_side
from jaxadd.training.placement import bytes_of
from jaxadd.training.step import METRICS
from jaxadd.training.trainer import Placed, Trainer


def arithmetic(trainer: Trainer) -> int:
    """Count the floating-point operations in the matrix products of one step of one lane."""
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), trainer.abstract_state().params)
    batch, _ = trainer.abstract_batches()
    return _products(jax.make_jaxpr(jax.grad(trainer.loss, has_aux=True))(params, batch).jaxpr)


def _products(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)
        for inner in jax.tree.leaves(list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                total += _products(inner) * equation.params.get("length", 1)
    return total


def device_memory(trainer: Trainer) -> int:
    """Give the bytes that training takes on each device: the compiled chunk's, by the compiler's own analysis, and
    the states of lanes that wait for their turn. On a CPU the record is in the same memory, and counts.
    """
    slots = trainer.slots
    rows, shapes = slots.rows(), Placed(trainer.abstract_state(), trainer.hyper, trainer.data.lane)
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=slots.spread), shapes
    )
    found = trainer.program(placed).memory_analysis()
    recorded = found.output_size_in_bytes - found.alias_size_in_bytes
    # What one chunk recorded is read while the next is computed.
    chunk = found.argument_size_in_bytes + found.temp_size_in_bytes + found.generated_code_size_in_bytes
    # The state of all lanes waits beside that of those whose turn it is; where lanes are computed side by side,
    # as soon as one is done. Several devices gather whom they place from each other.
    held = bytes_of(shapes.state) if slots.lanes != rows or side_by_side() else 0
    waiting = held // slots.mesh.size if slots.state_sharding == slots.spread else held
    gathered = held * rows // slots.lanes if slots.mesh.size > 1 else 0
    record = 0 if side_by_side() else host_memory(trainer) // slots.mesh.size
    return int(chunk + 2 * recorded + waiting + gathered + record)


def host_memory(trainer: Trainer) -> int:
    """Give the bytes of a run's record on the host: kept, joined with what is new, and written."""
    config = trainer.config
    columns = len(METRICS) + len(config.task.sizes.read)
    measured = bytes_of(jax.eval_shape(trainer.evaluate, trainer.abstract_state().params))
    steps, evaluations = config.steps + 1, config.steps // config.eval_every + 1
    return 3 * (4 * columns * len(config.seeds) * steps + measured * evaluations)


def free_on_device() -> int:
    """Give the bytes that a device has free; CPU devices share those of the machine."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else free_on_host() // jax.local_device_count()


def free_on_host() -> int:
    """Give the bytes that the machine has free; half of what it has, where it does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
