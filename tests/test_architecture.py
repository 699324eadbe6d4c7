"""The layers: imports run one way, and each heavy library has one home."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "jaxadd"
# From the bottom up; names on one line may not import each other either, except within their package.
LAYERS = (
    ("errors", "types", "trees", "tables", "pictures"),
    ("lanes", "files"),
    ("optim",),
    ("tasks",),
    ("models",),
    ("analysis", "interop"),
    ("serialization",),
    ("config",),
    ("training",),
    ("runs",),
    ("sweeps",),
    ("views",),
    ("cli",),
    ("__main__",),
)
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def layer(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path, *, running=True):
    """Yield the modules that a file imports; with `running`, not those for the type checker alone."""
    tree = ast.parse(path.read_text())
    skipped = set()
    for node in ast.walk(tree):
        if running and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            skipped |= {id(inside) for inside in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_package_and_module_has_a_layer():
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    assert there - {"__init__", "__pycache__"} == HEIGHT.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_runs_upwards(path):
    here = layer(path)
    for name in imported(path):
        head, _, rest = name.partition(".")
        if head != "jaxadd" or not rest:
            continue
        other = rest.partition(".")[0]
        if other in ("__version__", here):
            continue
        assert HEIGHT[other] < HEIGHT[here], f"{here} imports {name}, which is not below it"


@pytest.mark.parametrize(
    ("library", "home"), [("flax", "models"), ("matplotlib", "views/figures"), ("torch", "cli"), ("tqdm", "views")]
)
def test_a_heavy_library_has_one_home(library, home):
    users = [path for path in MODULES if any(name.partition(".")[0] == library for name in imported(path))]
    assert users
    assert all((PACKAGE / home) in path.parents for path in users), users


def test_the_library_names_no_experiment():
    experiments = {path.stem for path in (ROOT / "experiments").glob("*.py")} - {"__init__"}
    assert len(experiments) > 5
    names = re.compile(rf"\bexperiments\.({'|'.join(experiments)})\b")
    for path in PACKAGE.rglob("*.py"):
        assert not names.search(path.read_text()), f"{path} names a module of experiments"
        assert not any(name.partition(".")[0] == "experiments" for name in imported(path)), path
