"""Tasks: what a network learns, as pure functions from (data, key, step) to a batch.

`Task` is the base class. To add a task, write one module here and name it in `TASKS`, the choices of `--task`.
"""

from jaxadd.tasks.addition import Addition, Curriculum, Mixture
from jaxadd.tasks.group import Group
from jaxadd.tasks.handwritten_digits import HandwrittenDigits
from jaxadd.tasks.modular import Modular
from jaxadd.tasks.task import Task

TASKS: tuple[type[Task], ...] = (Modular, Group, Addition, HandwrittenDigits)

__all__ = ["TASKS", "Addition", "Curriculum", "Group", "HandwrittenDigits", "Mixture", "Modular", "Task"]
