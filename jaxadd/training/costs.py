"""The costs of training: arithmetic, memory of the devices and of the host; and the free memory."""

import math
import os
from pathlib import Path
from typing import Any

import jax

from jaxadd.lanes import side_by_side
from jaxadd.training.placement import bytes_of
from jaxadd.training.step import METRICS
from jaxadd.training.trainer import Gathered, Trainer


def arithmetic(trainer: Trainer) -> int:
    """Return the number of floating-point operations in the matrix products of one step of one lane."""
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
    """Return the bytes that training takes on each device.

    They are those of the compiled chunk, by the compiler's analysis, and those of the states of lanes outside the
    slots. On a CPU the metrics are in the same memory, and are counted too.
    """
    slots = trainer.slots
    rows, shapes = slots.rows(), Gathered(trainer.abstract_state(), trainer.hyper, trainer.data.lane)
    gathered = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype, sharding=slots.lane_sharding), shapes
    )
    analysis = trainer.program(gathered).memory_analysis()
    chunk = analysis.argument_size_in_bytes + analysis.temp_size_in_bytes + analysis.generated_code_size_in_bytes
    # Twice, as the metrics of one chunk are read while the next one is computed.
    metrics = 2 * (analysis.output_size_in_bytes - analysis.alias_size_in_bytes)
    # The state of all lanes is kept beside that of the lanes in slots: where there are more lanes than slots, and on
    # an accelerator as soon as one lane is done. Several devices gather lanes from each other.
    states = bytes_of(shapes.state) if slots.lanes != rows or side_by_side() else 0
    kept = states // slots.mesh.size if slots.state_sharding == slots.lane_sharding else states
    exchanged = states * rows // slots.lanes if slots.mesh.size > 1 else 0
    on_host = 0 if side_by_side() else host_memory(trainer) // slots.mesh.size
    return int(chunk + metrics + kept + exchanged + on_host)


def host_memory(trainer: Trainer) -> int:
    """Return the bytes that the metrics of a run take on the host: while kept, joined with new ones, and written."""
    config = trainer.config
    columns = len(METRICS) + len(config.task.sizes.read)
    measured = bytes_of(jax.eval_shape(trainer.evaluate, trainer.abstract_state().params))
    steps, evaluations = config.steps + 1, config.steps // config.eval_every + 1
    return 3 * (4 * columns * len(config.seeds) * steps + measured * evaluations)


def free_on_device() -> int:
    """Return the free bytes of a device; CPU devices divide those of the machine among them."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() if device.platform != "cpu" else None
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else free_on_host() // jax.local_device_count()


def free_on_host() -> int:
    """Return the free bytes of the machine; half of all bytes where the system does not report them."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
