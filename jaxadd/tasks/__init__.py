"""Tasks: what a network is asked to learn, as pure functions from (data, key, step) to a Batch."""

from jaxadd.tasks.digits import Digits
from jaxadd.tasks.modular import Modular
from jaxadd.tasks.task import Batch, Data, Sizes, Task

__all__ = ["Batch", "Data", "Digits", "Modular", "Sizes", "Task"]
