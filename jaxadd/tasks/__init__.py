"""Tasks: what a network is asked to learn, as pure functions from (data, key, step) to a Batch."""

from jaxadd.tasks.addition import Addition
from jaxadd.tasks.digits import Digits
from jaxadd.tasks.mixtures import Mixture
from jaxadd.tasks.modular import Modular
from jaxadd.tasks.task import Batch, Data, Predict, Sizes, Task

__all__ = ["Addition", "Batch", "Data", "Digits", "Mixture", "Modular", "Predict", "Sizes", "Task"]
