"""Checkpoints of one network in torch's format, read and written without torch."""

import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jaxadd.errors import UserError
from jaxadd.files import replacing
from jaxadd.interop import archive, layouts, pickling, unpickling
from jaxadd.interop.archive import Archive
from jaxadd.interop.layouts import Layout
from jaxadd.models import Transformer
from jaxadd.optim.optimizers import AdamW
from jaxadd.types import Params, Sizes

MAX_BYTES = 2**31
_FROM = {"mainline": layouts.from_mainline, "transformer-lens": layouts.from_transformer_lens}
_TO = {"mainline": layouts.to_mainline, "transformer-lens": layouts.to_transformer_lens}
_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}


class Adam(NamedTuple):
    """State of torch's Adam or AdamW.

    Attributes:
      mu: running mean of gradients, of the structure and shapes of the parameters, float32.
      nu: running mean of squared gradients, likewise.
      updates: number of updates made.
      settings: what torch keeps of the one group of parameters: lr, betas, eps, weight_decay and so on. What is
        not given when written is the mainline's.
    """

    mu: Params
    nu: Params
    updates: int
    settings: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
      params: of one lane, nested dict of float32 NumPy arrays.
      optimizer: None where there is none, or it has made no update, or is none of one group with Adam's moments;
        then what there is stands in `rest`.
      rest: all else, as plain Python data and NumPy arrays (read-only, of their own dtype).
      model: the network that `params` belong to. Its activation is not in the file.
      length: T, the positions it was made for.
      vocabulary: V.
      classes: C.
      layout: that of the file.
    """

    params: Params
    optimizer: Adam | None
    rest: dict[Any, Any]
    model: Transformer
    length: int
    vocabulary: int
    classes: int
    layout: Layout

    def params_for(self, sizes: Sizes) -> Params:
        """Give `params` for a task, without the positions after its last: attention is causal, so none is read.

        The mainline's n-digit networks have one position more than they need, for the last digit of the answer.

        Raises:
          UserError: the task has other tokens or classes, or more positions.
        """
        sides = (("tokens", self.vocabulary, sizes.vocabulary), ("classes", self.classes, sizes.classes))
        wrong = [f"{mine} {word} and the task has {theirs}" for word, mine, theirs in sides if mine != theirs]
        if self.length < sizes.length:
            wrong.append(f"{self.length} positions and the task has {sizes.length}")
        if wrong:
            raise UserError(f"the checkpoint's network is for another task: it has {'; '.join(wrong)}")
        return {**self.params, "pos_embed": {"W_pos": self.params["pos_embed"]["W_pos"][: sizes.length]}}


def read(
    path: str | os.PathLike,
    *,
    key: str | None = None,
    activation: Literal["relu", "gelu"] = "relu",
    max_bytes: int = MAX_BYTES,
) -> Checkpoint:
    """Read a checkpoint that torch.save wrote, in the mainline's layout or in TransformerLens's.

    No file can run code, whatever is in it (`unpickling` says why). Peak memory is a small multiple of the file's
    size and at most 1 GiB more.

    Args:
      path: a state dict, or a dict that holds one beside other things.
      key: under which it holds the state dict; by default it is looked for.
      activation: of the network, which no checkpoint tells.
      max_bytes: the largest file read, and the most that its parameters may take as float32.

    Raises:
      UserError: there is no such file, it is damaged or too large, it holds something that is no plain data, or
        what it holds is not one network that `Transformer` describes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; give the path of a checkpoint that torch.save wrote")
    try:
        with path.open("rb") as file:
            opened = Archive(file, max_bytes)
            return _checkpoint(unpickling.load(opened.pickle(), opened.storage), key, activation, max_bytes)
    except UserError as error:
        reason, cause = str(error), error
    except MemoryError as error:
        reason, cause = "there is not enough memory for it", error
    except (OSError, struct.error, *archive.DAMAGED) as error:
        reason, cause = f"it is damaged ({type(error).__name__}); copy it again from where it came from", error
    # Names in a hostile file may be long, and may hold what a terminal obeys.
    reason = "".join(letter if letter.isprintable() else "?" for letter in reason[:400])
    raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from cause


def write(
    path: str | os.PathLike,
    params: Params,
    *,
    optimizer: Adam | None = None,
    rest: Mapping[Any, Any] | None = None,
    layout: Layout = "mainline",
    nested: bool = True,
) -> None:
    """Write a checkpoint that torch.load reads, with weights_only=True too; `read` gives back the same bits.

    The file is written beside its place and renamed into it. The same content gives the same bytes.

    Args:
      path: of the file.
      params: of one lane, nested dict of float32 arrays.
      optimizer: state of Adam, numbered as torch numbers it; torch.optim.AdamW loads it.
      rest: plain data and arrays to stand beside "model" and "optimizer".
      layout: "mainline", or "transformer-lens", which has LayerNorm too.
      nested: False writes the state dict alone.

    Raises:
      UserError: the network does not fit the layout, or `rest` holds what no checkpoint can.
      OSError: the file cannot be written; what was there before is whole.
    """
    if layout not in _TO:
        raise UserError(f"layout must be one of {', '.join(_TO)}, got {layout!r}")
    if not nested and (optimizer is not None or rest):
        raise UserError("a state dict alone has no room for an optimizer or other data; leave nested as it is")
    state = _TO[layout](params)
    content: dict[Any, Any] = {"model": state}
    if optimizer is not None:
        content["optimizer"] = _to_torch(optimizer, state, layout)
    if taken := content.keys() & (rest or {}).keys():
        raise UserError(f"rest holds {', '.join(sorted(taken))}, which is written from the other arguments")
    content |= rest or {}
    pickle, storages = pickling.dump(content if nested else state)
    with replacing(Path(path)) as part, part.open("wb") as file:
        archive.write(file, pickle, storages)
        file.flush()
        os.fsync(file.fileno())


def _checkpoint(content: Any, key: str | None, activation: Literal["relu", "gelu"], max_bytes: int) -> Checkpoint:
    state, rest = _find_state(content, key)
    if sum(array.size * 4 for array in state.values()) > max_bytes:
        raise UserError(f"its parameters are more than {max_bytes} bytes; if that is right, raise max_bytes")
    layout = layouts.guess_layout(state)
    params = _FROM[layout](state)
    optimizer = _from_torch(rest.get("optimizer"), state, layout)
    if optimizer is not None:
        del rest["optimizer"]
    blocks = [name for name in params if name.startswith("blocks.")]
    block = params["blocks.0"]
    heads, width, _ = block["attn"]["W_Q"].shape
    model = Transformer(
        layers=len(blocks),
        d_model=width,
        heads=heads,
        d_mlp=len(block["mlp"]["b_in"]) if "mlp" in block else 0,
        activation=activation,
        layer_norm="pre" if "ln1" in block else "none",
    )
    length, vocabulary = len(params["pos_embed"]["W_pos"]), len(params["embed"]["W_E"])
    return Checkpoint(params, optimizer, rest, model, length, vocabulary, params["unembed"]["W_U"].shape[1], layout)


def _find_state(content: Any, key: str | None) -> tuple[dict[str, np.ndarray], dict[Any, Any]]:
    """Give the state dict in what was read, and what stands beside it."""
    if type(content) is not dict:
        raise UserError(f"it should hold a state dict, and holds a {type(content).__name__}")
    rooms = {name: room for name, room in content.items() if type(room) is dict and "embed.W_E" in room}
    if key is None and "embed.W_E" in content:
        state, rest = content, {}
    elif (key is None and len(rooms) == 1) or key in rooms:
        key = next(iter(rooms)) if key is None else key
        state, rest = rooms[key], {name: value for name, value in content.items() if name != key}
    else:
        held = f"it has {', '.join(map(repr, rooms))}; choose one by key" if rooms else "it has none"
        where = "" if key is None else f" under {key!r}"
        raise UserError(f"it should hold one state dict with embed.W_E{where}, and {held}")
    for name, array in state.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise UserError(f"{name!r} in its state dict is no tensor")
    return state, rest


# --- the optimiser's state -----------------------------------------------------------------------------------


def _from_torch(raw: Any, state: dict[str, np.ndarray], layout: Layout) -> Adam | None:
    """Take Adam's moments from an optimiser's state dict, where parameters have numbers; None if it has others."""
    match raw:
        case {"state": dict(states), "param_groups": [{"params": list(numbers), **settings}]} if states:
            pass
        case _:
            return None
    entries = list(states.values())
    if not all(isinstance(entry, dict) and entry.keys() == _MOMENTS for entry in entries):
        return None
    names = next((names for names in layouts.parameter_names(state) if len(names) == len(numbers)), None)
    if names is None:
        raise UserError(
            f"its optimizer has {len(numbers)} parameters, and its model {len(layouts.parameter_names(state)[0])}"
        )
    moments: dict[str, dict[str, np.ndarray]] = {"exp_avg": {}, "exp_avg_sq": {}}
    counts = set()
    _, ours = layouts.parameter_names(state)
    for name, number in zip(names, numbers, strict=True):
        if name not in ours:
            continue
        entry = states.get(number) if isinstance(number, int) else None
        if entry is None:
            raise UserError(f"its optimizer has no state for {name}")
        counts.add(_count(entry["step"]))
        for kind, found in moments.items():
            if np.shape(entry[kind]) != state[name].shape or not isinstance(entry[kind], np.ndarray):
                raise UserError(f"its optimizer's {kind} of {name} should have shape {state[name].shape}")
            found[name] = entry[kind]
    if len(counts) != 1:
        raise UserError("its optimizer has updated some parameters more often than others")
    mu, nu = (_FROM[layout](found) for found in moments.values())
    return Adam(mu, nu, counts.pop(), {str(name): value for name, value in settings.items()})


def _count(step: Any) -> int:
    number = step.item() if isinstance(step, np.ndarray) and step.size == 1 else step
    if not isinstance(number, int | float) or not 0 <= number < 2**53 or number != int(number):
        raise UserError("its optimizer's step should be a whole number")
    return int(number)


def _to_torch(optimizer: Adam, state: dict[str, np.ndarray], layout: Layout) -> dict[str, Any]:
    mu, nu = _TO[layout](optimizer.mu), _TO[layout](optimizer.nu)
    names, _ = layouts.parameter_names(state)
    if any(np.shape(moment.get(name, 0)) != state[name].shape for moment in (mu, nu) for name in names):
        raise UserError("the optimizer's mu and nu should have the names and shapes of the parameters")
    entries = {
        i: {"step": int(optimizer.updates), "exp_avg": mu[name], "exp_avg_sq": nu[name]}
        for i, name in enumerate(names)
    }
    ours = AdamW()
    defaults = {"lr": ours.lr, "betas": (ours.b1, ours.b2), "eps": ours.eps, "weight_decay": ours.weight_decay}
    group = defaults | dict(optimizer.settings) | {"params": list(range(len(names)))}
    return {"state": entries, "param_groups": [group]}
