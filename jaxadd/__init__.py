"""Train very small networks on addition and its relatives, and find out what they learn, when, and how to prove it.

    import jaxadd as ja

    run = ja.train(ja.RunConfig(task=ja.Modular(p=59), steps=1_000), "runs/mine")
    net = run.network(seed=0)
    logits, cache = net([[3, 4, 59]], cache=["blocks.0.attn.hook_pattern"])

Layers, from the bottom up; imports never run upwards:

    types, errors, trees, lanes, files, tables, pictures    what everything shares
    optim        losses, scores, optimisers, gradient filters
    tasks        what is learned: modular arithmetic, groups, n-digit addition, handwritten digits, or your own task
    models       transformers and MLPs, activations by name, the plain forward pass, structure
    analysis     pure functions of (params, model, batch); what is measured and claimed of each task's networks
    interop      checkpoints from elsewhere, in and out
    config, serialization    everything that determines a run, as JSON and back
    training     the compiled step, the loop on the host, slots for lanes, costs
    runs         Run: train in a folder, resume, replay, read back
    sweeps       many runs: designs, batches of lanes, results
    views        figures, the page, the terminal
    cli          the `jaxadd` program and the driver of experiments

Axis letters, everywhere: S lanes, B batch, T tokens, R scored positions, D model, H heads, K head, F mlp,
V vocabulary, C classes, P modulus, L layers, N digits, E evaluations.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

# The public names by the module that defines them. They are imported when they are first used, so that
# `import jaxadd` costs nothing and a program loads what it needs.
_PUBLIC = {
    "jaxadd.runs": ("Run", "load", "replay", "train"),
    "jaxadd.config": ("RunConfig", "Stop"),
    "jaxadd.errors": ("UserError",),
    "jaxadd.types": ("Batch", "Data", "Sizes"),
    "jaxadd.tasks": ("Addition", "Curriculum", "Group", "HandwrittenDigits", "Mixture", "Modular", "Task"),
    "jaxadd.models": ("MLP", "Model", "Network", "PairMLP", "Transformer", "Weights"),
    "jaxadd.optim.optimizers": ("SGD", "Adam", "AdamW", "LevenbergMarquardt", "Lion", "Muon"),
    "jaxadd.optim.losses": ("CrossEntropy", "LabelSmoothing", "MeanSquaredError", "StableMax"),
    "jaxadd.optim.schedules": ("Constant", "Cosine", "Linear"),
    "jaxadd.optim.filters": (
        "FixedNorm",
        "FreeNorm",
        "GlobalNormClip",
        "GrokfastEMA",
        "GrokfastMA",
        "NoClip",
        "OrthogonalGradient",
        "PlainGradient",
    ),
}
_MODULES = {
    "analysis": "jaxadd.analysis",
    "figures": "jaxadd.views.figures",
    "interop": "jaxadd.interop",
    "models": "jaxadd.models",
    "optim": "jaxadd.optim",
    "sweeps": "jaxadd.sweeps",
    "tasks": "jaxadd.tasks",
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names}

__all__ = sorted([*_HOME, *_MODULES])

if TYPE_CHECKING:
    from jaxadd import analysis, interop, models, optim, sweeps, tasks
    from jaxadd.config import RunConfig, Stop
    from jaxadd.errors import UserError
    from jaxadd.models import MLP, Model, Network, PairMLP, Transformer, Weights
    from jaxadd.optim.filters import (
        FixedNorm,
        FreeNorm,
        GlobalNormClip,
        GrokfastEMA,
        GrokfastMA,
        NoClip,
        OrthogonalGradient,
        PlainGradient,
    )
    from jaxadd.optim.losses import CrossEntropy, LabelSmoothing, MeanSquaredError, StableMax
    from jaxadd.optim.optimizers import SGD, Adam, AdamW, LevenbergMarquardt, Lion, Muon
    from jaxadd.optim.schedules import Constant, Cosine, Linear
    from jaxadd.runs import Run, load, replay, train
    from jaxadd.tasks import Addition, Curriculum, Group, HandwrittenDigits, Mixture, Modular, Task
    from jaxadd.types import Batch, Data, Sizes
    from jaxadd.views import figures


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = importlib.import_module(_MODULES[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return the public names."""
    return list(__all__)
