"""A self-contained HTML page: curves, heat maps that evolve under a slider, tables. One file, no network.

Plain data in, a string or a file out. What the page draws is in `page.js`, how it looks in `page.css`.
"""

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import chex
import numpy as np

from jaxadd.errors import UserError
from jaxadd.files import write_text

MAX_BYTES = 64 * 2**20  # of a page; a browser opens this in a few seconds
_QUANTISED = 2**16  # From so many numbers on, an array takes two bytes each.


class Lines(NamedTuple):
    """Curves over steps: the median over lanes with a band of all of them.

    Attributes:
      title: of the block.
      x: `[T]`, ascending, steps.
      series: by name, `[T]` or `[S, T]`; NaN where nothing was measured.
      ylabel: with the unit.
      log_x: logarithmic x axis, of step + 1.
      log_y: logarithmic y axis.
      shades: stretches of x with a name.
      note: a sentence below the title.
    """

    title: str
    x: np.ndarray
    series: Mapping[str, np.ndarray]
    ylabel: str = ""
    log_x: bool = False
    log_y: bool = False
    shades: Sequence[tuple[float, float, str]] = ()
    note: str = ""


class HeatMaps(NamedTuple):
    """Matrices side by side on one scale of colours; with several frames they follow the slider.

    Attributes:
      title: of the block.
      steps: `[E]`, ascending, of the frames; a single frame stands still.
      frames: by name of the panel, `[E, rows, columns]`; NaN is left grey.
      row_labels: `[rows]`.
      column_labels: `[columns]`.
      xlabel: what the columns are.
      ylabel: what the rows are.
      limits: of the colours; by default the least and largest value, around 0 where diverging.
      diverging: colours to both sides of 0.
      power: colours follow this power of the values, 0.5 to show small ones beside large ones.
      note: a sentence below the title.
    """

    title: str
    steps: np.ndarray
    frames: Mapping[str, np.ndarray]
    row_labels: Sequence[str]
    column_labels: Sequence[str]
    xlabel: str = ""
    ylabel: str = ""
    limits: tuple[float, float] | None = None
    diverging: bool = False
    power: float = 1.0
    note: str = ""


class Spectra(NamedTuple):
    """Bars side by side on one scale; with several frames they follow the slider.

    Attributes:
      title: of the block.
      steps: `[E]`, ascending, of the frames.
      frames: by name of the panel, `[E, n]`.
      labels: of the bars, `[n]`.
      xlabel: what the bars are.
      highlight: labels of bars in another colour.
      note: a sentence below the title.
    """

    title: str
    steps: np.ndarray
    frames: Mapping[str, np.ndarray]
    labels: Sequence[str]
    xlabel: str = ""
    highlight: Sequence[str] = ()
    note: str = ""


class Table(NamedTuple):
    """Cells of text under headings; those that are numbers are aligned on the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


class Text(NamedTuple):
    """Paragraphs."""

    title: str
    paragraphs: Sequence[str]


Block = Lines | HeatMaps | Spectra | Table | Text


def write(path: str | os.PathLike, title: str, subtitle: str, blocks: Sequence[Block]) -> None:
    """Write a page as a file; see `render`."""
    write_text(Path(path), render(title, subtitle, blocks))


def render(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """Give a page as a string.

    Args:
      title: of the page.
      subtitle: a line below it.
      blocks: in the order in which they are shown.

    Raises:
      ValueError: the page would be larger than MAX_BYTES.
    """
    drawn = [_packed(block) if isinstance(block, Lines | HeatMaps | Spectra) else None for block in blocks]
    steps = sorted({step for block in drawn if block for step in _evolving(block)})
    data = json.dumps({"steps": steps, "blocks": drawn}, allow_nan=False, separators=(",", ":"))
    # Nothing in it can end the element that holds it.
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    own = files(__package__)
    parts = {
        "TITLE": html.escape(title),
        "SUBTITLE": html.escape(subtitle),
        "CONTENTS": "".join(
            f'<li><a href="#block-{i}">{html.escape(block.title)}</a></li>' for i, block in enumerate(blocks)
        ),
        "SLIDER": (own / "slider.html").read_text(encoding="utf-8").replace("LAST", str(len(steps) - 1))
        if steps
        else "",
        "BLOCKS": "".join(_section(i, block) for i, block in enumerate(blocks)),
        "STYLE": (own / "page.css").read_text(encoding="utf-8"),
        "SCRIPT": (own / "page.js").read_text(encoding="utf-8"),
        "DATA": data,
    }
    pieces = (own / "page.html").read_text(encoding="utf-8").split("%%")  # Names stand at the odd places.
    text = "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
    if len(text) > MAX_BYTES:
        raise UserError(
            f"the page would have {len(text) / 2**20:.0f} MiB, and {MAX_BYTES / 2**20:.0f} are the most that open "
            "with ease; give fewer frames or points"
        )
    return text


def _evolving(block: dict[str, Any]) -> Sequence[float]:
    steps = block.get("steps", [])
    return steps if len(steps) > 1 else []


def _packed(block: Lines | HeatMaps | Spectra) -> dict[str, Any]:
    """Give a block as plain data for the script, its arrays in base64."""
    plain = {name: value for name, value in block._asdict().items() if name not in ("title", "note")}
    plain["kind"] = type(block).__name__
    if isinstance(block, Lines):
        x = np.asarray(block.x)
        series = {name: np.atleast_2d(np.asarray(values, np.float32)) for name, values in block.series.items()}
        for values in series.values():
            chex.assert_shape(values, (None, len(x)))
        shades = [[float(start), float(end), str(name)] for start, end, name in block.shades]
        return plain | {"x": _array(x), "series": _named(series), "shades": shades}
    steps = [float(step) for step in block.steps]
    if isinstance(block, HeatMaps):
        labels = {name: [str(x) for x in plain[name]] for name in ("row_labels", "column_labels")}
        shape = (len(steps), len(labels["row_labels"]), len(labels["column_labels"]))
        labels["limits"] = None if block.limits is None else [float(x) for x in block.limits]
    else:
        labels = {"labels": list(map(str, block.labels)), "highlight": list(map(str, block.highlight))}
        shape = (len(steps), len(labels["labels"]))
    for values in block.frames.values():
        chex.assert_shape(values, shape)
    return plain | labels | {"steps": steps, "frames": _named(block.frames)}


def _named(arrays: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    return [{"name": str(name), **_array(values)} for name, values in arrays.items()]


def _array(values: np.ndarray) -> dict[str, Any]:
    """Pack an array: float32, or large ones as 65,535 steps from the least to the largest number, NaN last."""
    values = np.asarray(values, np.float32)
    shape = list(values.shape)
    known = np.isfinite(values)
    if values.size < _QUANTISED or not (known | np.isnan(values)).all() or not known.any():
        return {"shape": shape, "float32": base64.b64encode(values.astype("<f4").tobytes()).decode()}
    low, high = float(values[known].min()), float(values[known].max())
    scale = (high - low) / 65_534 or 1.0
    whole = np.where(known, np.round((np.where(known, values, low).astype(np.float64) - low) / scale), 65_535)
    packed = base64.b64encode(whole.astype("<u2").tobytes()).decode()
    return {"shape": shape, "uint16": packed, "low": low, "scale": scale}


def _section(number: int, block: Block) -> str:
    note = f'<p class="note">{html.escape(block.note)}</p>' if getattr(block, "note", "") else ""
    return (
        f'<section id="block-{number}"><h2>{html.escape(block.title)}</h2>{note}'
        f'<div class="body" data-block="{number}">{_static(block)}</div></section>\n'
    )


def _static(block: Block) -> str:
    """Write what needs no script."""
    if isinstance(block, Text):
        return "".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in block.paragraphs)
    if not isinstance(block, Table):
        return ""
    heading = "".join(f"<th>{html.escape(name)}</th>" for name in block.columns)
    rows = "".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in block.rows)
    return f'<div class="wide"><table><thead><tr>{heading}</tr></thead><tbody>{rows}</tbody></table></div>'


def _cell(text: str) -> str:
    kind = ' class="number"' if text[:1].isdigit() or (text[:1] == "-" and text[1:2].isdigit()) else ""
    return f"<td{kind}>{html.escape(text)}</td>"
