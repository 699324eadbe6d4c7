"""What the guides promise: every Python block runs, and every command that they name exists."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from jaxadd.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
GUIDES = ("README.md", "experiments/README.md")


def blocks(guide, language):
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / guide).read_text(), re.MULTILINE | re.DOTALL)


def test_the_example_of_the_readme_runs(capsys):
    (example,) = blocks("README.md", "python")
    assert len(example.strip().splitlines()) <= 10
    example, names = example.replace("steps=600", "steps=20"), {}
    exec(compile(example, "README.md", "exec"), names)
    assert names["run"].metrics["train_accuracy"].shape == (2, 21)
    assert np.isfinite(names["logits"]).all()
    assert not np.allclose(names["ablated"], names["logits"])
    assert capsys.readouterr().out


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_that_a_guide_names_exist(guide):
    text = (ROOT / guide).read_text()
    commands = set(re.findall(r"jaxadd (\w+) ", " ".join(re.findall(r"`([^`]+)`|^(?:uv run )?(jaxadd.*)$", text)[0])))
    commands |= set(re.findall(r"uv run (?:--\S+ \S+ )*jaxadd (\w+)", text))
    modules = set(re.findall(r"python -m (experiments\.\w+)", text)) - {"experiments.NAME"}
    assert commands | modules
    assert commands - {"COMMAND"} <= COMMANDS.keys()
    for module in modules:
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("guide", [*GUIDES, "experiments/RESULTS.md"])
def test_links_of_a_guide_lead_somewhere(guide):
    path = ROOT / guide
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    assert links
    for link in links:
        assert (path.parent / link).exists(), link
