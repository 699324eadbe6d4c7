"""Small configs that many tests train."""

import ctypes
import gc
import math
import os
import runpy
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import compiler

# Many tests compile the same small program. Set before JAX is imported, and for child processes too.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"jaxadd-tests-{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.1")
if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):  # Every process would compile the source of JAX again.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = f"{os.environ['JAX_COMPILATION_CACHE_DIR']}-bytecode"
    os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
if "XLA_FLAGS" not in os.environ:
    os.environ["XLA_FLAGS"] = compiler.flags()

import jax
import pytest
from hypothesis import settings

from jaxadd.analysis.addition import exact
from jaxadd.cli import experiment, output
from jaxadd.cli.commands import analyse
from jaxadd.cli.main import main
from jaxadd.config import RunConfig
from jaxadd.models import MLP, Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.runs import train
from jaxadd.tasks import Addition, HandwrittenDigits, Modular
from jaxadd.training import trainer

# An array that is added to one of another rank is a mistake more often than not.
jax.config.update("jax_numpy_rank_promotion", "raise")

KEPT = 1.5 * 2**30  # bytes; one test may take 0.5 GB more
KEPT_BY_NEXT_MODULE = 1.4 * 2**30
LIBC = ctypes.CDLL(None)

# The same examples every time: what is green stays green.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


def pytest_collection_finish():
    """Let the garbage collector pass over what lives as long as the process: modules, tests, JAX's own tables."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)  # A traced program makes many objects, few of them garbage.


@pytest.fixture(autouse=True)
def _little_memory():
    """Let go of what was compiled once it takes much memory, a megabyte a program; until then tests use it again."""
    yield
    forget_above(KEPT)


@pytest.fixture(autouse=True, scope="module")
def _less_memory_between_modules():
    """Do so sooner between two modules, as the tests of one share most programs; it takes a second or two itself."""
    yield
    forget_above(KEPT_BY_NEXT_MODULE)


def forget_above(limit):
    """Let go of what was compiled where this process uses more memory, bytes."""
    if resident() > limit:
        trainer._PROGRAMS.clear()
        jax.clear_caches()
        gc.collect()
        if hasattr(LIBC, "malloc_trim"):  # Otherwise glibc keeps what was freed.
            LIBC.malloc_trim(0)


def resident():
    """Return the memory that this process uses now, bytes; infinity where Linux does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    except OSError:
        return math.inf


@pytest.fixture(scope="session")
def tiny():
    """A run of two lanes that takes a moment."""
    return RunConfig(
        task=Modular(p=7, train_fraction=0.6),
        model=Transformer(d_model=16, heads=2, d_mlp=32),
        optimizer=AdamW(lr=1e-2),
        steps=40,
        seeds=(0, 1),
        eval_every=5,
        checkpoint_every=10,
    )


@pytest.fixture(scope="session")
def tiny_one(tiny):
    """The same with one lane."""
    return replace(tiny, seeds=(0,))


@pytest.fixture(scope="session")
def base(tiny):
    """A run that sweeps begin from."""
    return replace(tiny, steps=20, seeds=(0, 1, 2))


@pytest.fixture
def shell(tmp_path, monkeypatch, capsys):
    """Run a command line in an empty folder; returns its exit status, standard output and standard error.

    `shell("jaxadd", "resume", folder)` is a command, and `shell("seed_sweep", "debug")` an experiment.
    """

    def run(program, *words):
        monkeypatch.chdir(tmp_path)
        if program == "jaxadd":
            return (main(list(map(str, words))), *capsys.readouterr())
        name = f"experiments.{program}"
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        monkeypatch.delitem(sys.modules, name, raising=False)  # As if it had not been imported.
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        return (ended.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture
def few(monkeypatch):
    """Let exact match be measured on few problems."""
    monkeypatch.setattr(exact, "UNIFORM", 50)
    monkeypatch.setattr(exact, "FORCED", 10)


@pytest.fixture
def few_figures(monkeypatch):
    """Let one figure of a report be drawn, which takes most of its time; tests of views draw them all."""

    def one(described):
        return output.rendered([figure for figure in described if figure.name in ("attention", "digits")])

    for module in (analyse, experiment):
        monkeypatch.setattr(module, "rendered", one)


@pytest.fixture(scope="session")
def complete(tiny, tmp_path_factory):
    """A finished run, to copy from."""
    folder = tmp_path_factory.mktemp("runs") / "complete"
    notes = []
    train(tiny, folder, note=notes.append)
    assert notes == []
    return folder


@pytest.fixture(scope="session")
def adding(tmp_path_factory):
    """A run of two lanes that add two digits, whose learning rate is too high for calm, to copy from."""
    folder = tmp_path_factory.mktemp("runs") / "adding"
    config = RunConfig(
        Addition(digits=2, batch_size=64, test_examples=64, cascade_examples=8),
        Transformer(d_model=16, heads=2, d_mlp=32),
        AdamW(lr=5e-2, weight_decay=0.0),
        steps=200,
        seeds=(0, 1),
        eval_every=100,
        checkpoint_every=100,
    )
    train(config, folder, note=lambda _: None)
    return folder


@pytest.fixture(scope="session")
def reading(tmp_path_factory):
    """A run of a network that is no transformer, on a task of which nobody claims anything, to copy from."""
    folder = tmp_path_factory.mktemp("runs") / "reading"
    config = RunConfig(HandwrittenDigits(batch_size=8), MLP(hidden=(8,)), steps=2, eval_every=2, checkpoint_every=2)
    train(config, folder, note=lambda _: None)
    return folder


@pytest.fixture
def copy(complete, tmp_path):
    return shutil.copytree(complete, tmp_path / "copy")
