"""Runs: training in a folder, reading a folder back, and replaying a part of a run.

`train` trains, `load` returns the `Run` in a folder, `replay` repeats a part of it exactly. `folder` names the files.
"""

from jaxadd.runs.replay import replay
from jaxadd.runs.run import Machine, Note, Run, load, open_run
from jaxadd.runs.train import Watch, begin, train, train_in

__all__ = ["Machine", "Note", "Run", "Watch", "begin", "load", "open_run", "replay", "train", "train_in"]
