"""n-digit addition: the task, its mixtures of problems, its carries, and the exact floors of its losses."""

from jaxadd.tasks.addition.mixtures import Curriculum, Mixture
from jaxadd.tasks.addition.task import Addition

__all__ = ["Addition", "Curriculum", "Mixture"]
