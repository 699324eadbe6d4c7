"""What commands and experiments leave in a folder: report.txt and figures, with a line that says where they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxadd.files import make_folder, replacing, write_text
from jaxadd.pictures import FigureOf
from jaxadd.views import figures
from jaxadd.views.terminal import INDENT

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rendered(described: Sequence[FigureOf]) -> dict[str, "Figure"]:
    """Draw figures that are described as data; returns them by file name."""
    return {figure.name: figures.render(figure) for figure in described}


def save(folder: Path, text: str, drawn: Mapping[str, "Figure"]) -> None:
    """Print a text and keep it as report.txt, save figures in the folder, and say where everything is.

    Args:
      folder: made if it does not exist.
      text: "" for none.
      drawn: figures by file name, without the ending.
    """
    make_folder(folder)
    if text:
        print(f"\n{text}\n")
        write_text(folder / "report.txt", text + "\n")
    if drawn:
        target = folder / "figures"
        make_folder(target)
        for name, figure in drawn.items():
            with replacing(target / f"{name}.png") as part:
                figure.savefig(part, format="png")
        names = ",".join(drawn)
        print(f"{'figures':<{INDENT}}{target}/{f'{{{names}}}' if len(drawn) > 1 else names}.png")
    print(f"{'folder':<{INDENT}}{folder}")
