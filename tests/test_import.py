"""`import jaxadd` costs nothing: what a program does not use is not imported, and all public names are listed."""

import ast
import json
import subprocess
import sys

import pytest
from needs import ROOT

import jaxadd


def after(code):
    """Return the packages that code imports in a process of its own, and the value of its variable `result`."""
    script = f"""
import json, sys
before, result = set(sys.modules), None
{code}
print(json.dumps([sorted({{name.partition(".")[0] for name in set(sys.modules) - before}}), result]))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    packages, result = json.loads(done.stdout)
    return set(packages), result


def test_an_import_loads_no_other_package_and_lists_the_public_names():
    packages, names = after("import jaxadd; result = dir(jaxadd)")
    assert "jaxadd" in packages
    assert packages - {"jaxadd"} <= sys.stdlib_module_names
    assert names == sorted(names)
    assert {"train", "load", "RunConfig", "Modular", "Addition", "Transformer", "AdamW", "analysis"} <= set(names)


@pytest.mark.slow
def test_a_config_loads_nothing_that_saves_or_draws():
    packages, _ = after("import jaxadd as ja; ja.RunConfig(task=ja.Modular(p=7), optimizer=ja.AdamW())")
    assert packages >= {"jax", "numpy"}
    assert not packages & {"matplotlib", "orbax", "tensorstore", "tqdm"}


def test_every_public_name_is_there_and_known_to_the_type_checker():
    for name in jaxadd.__all__:
        assert getattr(jaxadd, name) is not None
    tree = ast.parse((ROOT / "jaxadd" / "__init__.py").read_text())
    (checked,) = (node for node in tree.body if isinstance(node, ast.If))
    assert sorted(alias.name for node in checked.body for alias in node.names) == jaxadd.__all__
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = jaxadd.trian
