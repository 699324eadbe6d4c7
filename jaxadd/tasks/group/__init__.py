"""Finite groups: the task, groups by name or by table, and which group a table is of."""

from jaxadd.tasks.group.task import Group

__all__ = ["Group"]
