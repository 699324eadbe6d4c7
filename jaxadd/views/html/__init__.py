"""A self-contained HTML page: curves, heat maps that evolve under a slider, tables. One file, no network.

Described pictures (`jaxadd.pictures`) in, a string or a file out. `page.js` draws, `page.css` says how it looks.
"""

import base64
import html
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import chex
import numpy as np

from jaxadd.errors import UserError
from jaxadd.files import write_text
from jaxadd.pictures import (
    START,
    Bars,
    Block,
    FigureOf,
    HeatMaps,
    Histogram,
    Lines,
    Picture,
    Table,
    Text,
    band,
    colour_numbers,
    log_from,
    log_label,
    thin,
)
from jaxadd.views import colours

MAX_BYTES = 64 * 2**20  # of a page; a browser opens this in a few seconds
_QUANTISED = 2**16  # From so many numbers on, an array takes two bytes each.
_POINTS = 4_000  # of a curve; of more, the extremes in as many parts are kept


_COLOURS = {
    "lines": colours.LINES,
    "stacked": colours.STACKED,
    "ordered": colours.ORDERED,
    "images": colours.IMAGES,
    "light": {"sequential": colours.SEQUENTIAL, "diverging": colours.DIVERGING, "kinds": colours.KINDS},
    "dark": {
        "sequential": colours.SEQUENTIAL_DARK,
        "diverging": colours.DIVERGING_DARK,
        "kinds": colours.KINDS_DARK,
    },
}
_INKS = (
    f":root {{ --train: {colours.TRAIN}; --test: {colours.TEST}; --absent: {colours.ABSENT}; }}\n"
    "@media (prefers-color-scheme: dark) {\n"
    f"  :root {{ --train: {colours.TRAIN_DARK}; --test: {colours.TEST_DARK}; --absent: {colours.ABSENT_DARK}; }}\n"
    "}\n"
)


def write(path: str | os.PathLike, title: str, subtitle: str, blocks: Sequence[Block]) -> None:
    """Write a page as a file; see `render`."""
    write_text(Path(path), render(title, subtitle, blocks))


def render(title: str, subtitle: str, blocks: Sequence[Block]) -> str:
    """Return a page as a string.

    Args:
      title: of the page.
      subtitle: a line below it.
      blocks: in the order in which they are shown; the pictures of a figure are one section.

    Raises:
      UserError: the page would be larger than MAX_BYTES.
    """
    pictures = [picture for block in blocks for picture in _pictures(block)]
    drawn = [_packed(picture) for picture in pictures]
    steps = sorted({step for block in drawn for step in _evolving(block)})
    data = json.dumps(
        {"steps": steps, "pictures": drawn, "colours": _COLOURS}, allow_nan=False, separators=(",", ":")
    )
    # Nothing in it can end the element that holds it.
    data = data.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
    package = files(__package__)
    first = np.cumsum([0, *(len(_pictures(block)) for block in blocks)])
    parts = {
        "TITLE": html.escape(title),
        "SUBTITLE": html.escape(subtitle),
        "CONTENTS": "".join(
            f'<li><a href="#block-{i}">{html.escape(block.title)}</a></li>' for i, block in enumerate(blocks)
        ),
        "SLIDER": (package / "slider.html").read_text(encoding="utf-8").replace("LAST", str(len(steps) - 1))
        if steps
        else "",
        "BLOCKS": "".join(_section(i, block, int(first[i])) for i, block in enumerate(blocks)),
        "STYLE": (package / "page.css").read_text(encoding="utf-8") + _INKS,
        "SCRIPT": (package / "page.js").read_text(encoding="utf-8"),
        "DATA": data,
    }
    pieces = (package / "page.html").read_text(encoding="utf-8").split("%%")  # Names stand at the odd places.
    text = "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
    if len(text) > MAX_BYTES:
        raise UserError(
            f"the page would have {len(text) / 2**20:.0f} MiB, and {MAX_BYTES / 2**20:.0f} are the most that open "
            "with ease; give fewer frames or points"
        )
    return text


def _pictures(block: Block) -> Sequence[Picture]:
    if isinstance(block, FigureOf):
        return block.pictures
    return [block] if isinstance(block, Picture) else []


def _evolving(block: dict[str, Any]) -> Sequence[float]:
    steps = block.get("steps", [])
    return steps if len(steps) > 1 else []


# --- pictures as plain data -------------------------------------------------------------------------------


def _packed(picture: Picture) -> dict[str, Any]:
    """Return a picture as plain data for the script, its arrays in base64."""
    plain = {name: value for name, value in picture._asdict().items() if name not in ("title", "note", "snapshots")}
    if isinstance(picture, Lines):
        more = _lines(picture)
    elif isinstance(picture, HeatMaps):
        more = _heat_maps(picture)
    else:
        more = _bars(picture) if isinstance(picture, Bars) else _histogram(picture)
    return plain | more | {"kind": type(picture).__name__}


def _lines(picture: Lines) -> dict[str, Any]:
    x = np.asarray(picture.x)
    for values in (*picture.series.values(), *picture.behind.values()):
        chex.assert_shape(np.atleast_2d(values), (None, len(x)))
    bands = {name: np.stack(band(values)) for name, values in picture.series.items()}
    behind = {name: np.asarray(values, np.float64) for name, values in picture.behind.items()}
    at = _shown_points(x, [*(b[1] for b in bands.values()), *behind.values()])
    numbers = colour_numbers(picture.series)
    start = log_from(x) if picture.log_x else None
    series = [
        {
            "name": str(name),
            "colour": number,
            "lanes": len(np.atleast_2d(picture.series[name])),
            **_array(b[:, at], exact=True),
        }
        for (name, b), number in zip(bands.items(), numbers, strict=True)
    ]
    spans = [
        [float(s.start), float(s.end), s.name, None if s.level is None else float(s.level)] for s in picture.spans
    ]
    return {
        "x": _array(x[at], exact=True),
        "series": series,
        "behind": _named({name: values[at] for name, values in behind.items()}, exact=True),
        "levels": _levels(picture.levels),
        "spans": spans,
        "log_x": None if start is None else {"from": start, "start": START if x[0] < start else 0},
        "axis": log_label(picture.xlabel, x) if picture.log_x else picture.xlabel,
        "ylim": None if picture.ylim is None else [float(y) for y in picture.ylim],
    }


def _shown_points(x: np.ndarray, curves: Sequence[np.ndarray]) -> np.ndarray:
    """Return the indices of the points that are drawn: all, or of a long curve the extremes of every short part."""
    if len(x) <= _POINTS:
        return np.arange(len(x))
    # Parts are short where a logarithmic axis is wide.
    starts = np.union1d(thin(len(x), _POINTS // 4), np.geomspace(1, len(x) - 1, _POINTS // 4).astype(int))
    kept = [starts]
    for curve in curves:
        known = np.flatnonzero(np.isfinite(curve))
        parts = np.split(known, np.searchsorted(known, starts[1:]))
        for part in parts:
            if part.size:
                kept.append(part[np.array([0, np.argmin(curve[part]), np.argmax(curve[part])])])
    return np.unique(np.concatenate(kept))


def _heat_maps(picture: HeatMaps) -> dict[str, Any]:
    steps = [float(step) for step in picture.steps]
    labels = {name: [str(x) for x in getattr(picture, name)] for name in ("row_labels", "column_labels")}
    _, rows, columns = np.shape(next(iter(picture.frames.values())))
    shape = (len(steps), len(labels["row_labels"]) or rows, len(labels["column_labels"]) or columns)
    for values in picture.frames.values():
        chex.assert_shape(values, shape)
    return labels | {
        "steps": steps,
        "frames": _named(picture.frames, exact=picture.log),
        "limits": None if picture.limits is None else [float(x) for x in picture.limits],
        "marks": _levels(picture.marks),
        "levels": _levels(picture.levels),
        "categories": [str(name) for name in picture.categories],
    }


def _bars(picture: Bars) -> dict[str, Any]:
    steps, labels = [float(step) for step in picture.steps], [str(label) for label in picture.labels]
    for values in picture.frames.values():
        chex.assert_shape(values, (len(steps), len(labels)))
    highlight = [str(label) for label in picture.highlight]
    return {"steps": steps, "labels": labels, "highlight": highlight, "frames": _named(picture.frames)}


def _histogram(picture: Histogram) -> dict[str, Any]:
    for values in picture.counts.values():
        chex.assert_shape(values, (len(picture.edges) - 1,))
    return {"edges": [float(edge) for edge in picture.edges], "counts": _named(picture.counts)}


def _levels(levels: Sequence) -> list[list]:
    return [[float(level.value), str(level.name)] for level in levels]


def _named(arrays: Mapping[str, np.ndarray], *, exact: bool = False) -> list[dict[str, Any]]:
    return [{"name": str(name), **_array(values, exact=exact)} for name, values in arrays.items()]


def _array(values: np.ndarray, *, exact: bool = False) -> dict[str, Any]:
    """Pack an array: float32, or large ones as 65,535 steps from the least to the largest number, NaN last.

    What may be drawn on a logarithmic axis is packed `exact`.
    """
    values = np.asarray(values, np.float32)
    shape = list(values.shape)
    known = np.isfinite(values)
    if exact or values.size < _QUANTISED or not (known | np.isnan(values)).all() or not known.any():
        return {"shape": shape, "float32": base64.b64encode(values.astype("<f4").tobytes()).decode()}
    low, high = float(values[known].min()), float(values[known].max())
    scale = (high - low) / 65_534 or 1.0
    whole = np.where(known, np.round((np.where(known, values, low).astype(np.float64) - low) / scale), 65_535)
    packed = base64.b64encode(whole.astype("<u2").tobytes()).decode()
    return {"shape": shape, "uint16": packed, "low": low, "scale": scale}


# --- sections ---------------------------------------------------------------------------------------------


def _section(number: int, block: Block, first: int) -> str:
    """Return a section; its pictures are numbered from `first` on."""
    pictures = _pictures(block)
    # Curves stand beside each other where a figure has several.
    narrow = len(pictures) > 1 and all(isinstance(picture, Lines) for picture in pictures)
    bodies = [
        f'<div class="picture">{_heading("h3", picture.title) if picture.title != block.title else ""}'
        f"{_note(picture) if picture is not block else ''}"
        f'<div class="body" data-picture="{first + i}" data-title="{html.escape(picture.title)}"></div></div>'
        for i, picture in enumerate(pictures)
    ]
    body = "".join(bodies) if pictures else f'<div class="body">{_static(block)}</div>'
    grid = f'<div class="beside">{body}</div>' if narrow else body
    return f'<section id="block-{number}">{_heading("h2", block.title)}{_note(block)}{grid}</section>\n'


def _heading(level: str, text: str) -> str:
    return f"<{level}>{html.escape(text)}</{level}>"


def _note(block: Block) -> str:
    note = getattr(block, "note", "")
    return f'<p class="note">{html.escape(note)}</p>' if note else ""


def _static(block: Block) -> str:
    """Return what needs no script."""
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
