"""The tour runs from start to end, and shows what it says."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

TOUR = Path(__file__).parents[1] / "experiments" / "tour.ipynb"


def test_the_tour_runs_and_finds_what_it_says():
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(TOUR.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.get("text", "") for output in outputs)
    assert "only a + b: score" in text
    assert "holds" in text.partition("only a + b")[2].partition("\n")[0]
    assert "fails" in text.partition("only a:")[2].partition("\n")[0]
    assert any("image/png" in output.get("data", {}) for output in outputs), "the curves are shown"
