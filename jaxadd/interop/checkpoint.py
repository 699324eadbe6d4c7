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

Activation = Literal["relu", "gelu"]


class Adam(NamedTuple):
    """State of torch's Adam or AdamW.

    Attributes:
      mu: running mean of gradients, float32, with the structure and shapes of the parameters.
      nu: running mean of squared gradients, likewise.
      updates: number of updates made.
      settings: torch's settings of the one group of parameters: lr, betas, eps, weight_decay and so on. When written,
        settings that are missing are those of Nanda et al.
    """

    mu: Params
    nu: Params
    updates: int
    settings: Mapping[Any, Any] = {}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
      params: parameters of one network, a nested dict of float32 NumPy arrays.
      optimizer: state of the optimiser. None if it is missing, has made no update, or does not have Adam's moments in
        one group of parameters; it is then in `rest` as it was read.
      rest: all other content, plain Python data and NumPy arrays (read-only, of the dtypes in the file).
      model: architecture of the network; the activation function is not in the file.
      length: T, the number of positions of the network.
      vocabulary: V.
      classes: C.
      layout: layout of the file.
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
        """Return `params` for a task, without positions beyond those of the task, which causal attention ignores.

        The n-digit networks of Nanda et al. have one position more than they need, for the last digit of the answer.

        Raises:
          UserError: the task has other tokens or classes, or more positions.
        """
        counts = (("tokens", self.vocabulary, sizes.vocabulary), ("classes", self.classes, sizes.classes))
        misfits = [f"{count} {name} and the task has {needed}" for name, count, needed in counts if count != needed]
        if self.length < sizes.length:
            misfits.append(f"{self.length} positions and the task has {sizes.length}")
        if misfits:
            raise UserError(f"the checkpoint's network is for another task: it has {'; '.join(misfits)}")
        return {**self.params, "pos_embed": {"W_pos": self.params["pos_embed"]["W_pos"][: sizes.length]}}


def read(
    path: str | os.PathLike,
    *,
    key: str | None = None,
    activation: Activation = "relu",
    max_bytes: int = MAX_BYTES,
) -> Checkpoint:
    """Read a checkpoint that torch.save wrote, in the layout of Nanda et al. or of TransformerLens.

    No file can run code, whatever its content (see `unpickling`). Peak memory is a small multiple of the size of the
    file, and at most 1 GiB more.

    Args:
      path: file with a state dict, or with a dict that contains one.
      key: key of the state dict in the file; by default it is searched for.
      activation: activation function of the network, which is not in the file.
      max_bytes: size of the largest file that is read, and of its parameters as float32.

    Raises:
      UserError: there is no such file, it is damaged or too large, it holds other than plain data and tensors, or it
        does not hold one network that `Transformer` describes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; expected the path of a checkpoint that torch.save wrote")
    try:
        with path.open("rb") as file:
            container = Archive(file, max_bytes)
            return _checkpoint(unpickling.load(container.pickle(), container.storage), key, activation, max_bytes)
    except UserError as error:
        reason, cause = str(error), error
    except MemoryError as error:
        reason, cause = "there is not enough memory for it", error
    except (OSError, struct.error, *archive.DAMAGED) as error:
        reason, cause = f"it is damaged ({type(error).__name__}); copy it again from where it came from", error
    # Names in a hostile file may be long, and may contain control sequences of a terminal.
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
    """Write a checkpoint that torch.load reads, also with weights_only=True; `read` returns the same bits.

    The file is written under a temporary name and renamed. Equal content yields equal bytes.

    Args:
      path: path of the file.
      params: parameters of one network, a nested dict of float32 arrays.
      optimizer: state of Adam; it is numbered as by torch, so that torch.optim.AdamW loads it.
      rest: plain data and arrays to write beside "model" and "optimizer".
      layout: "mainline", that of Nanda et al., or "transformer-lens", which has LayerNorm as well.
      nested: False writes only the state dict.

    Raises:
      UserError: the network does not fit the layout, or `rest` holds other than plain data and arrays.
      OSError: the file cannot be written; an earlier file is unchanged.
    """
    if layout not in _TO:
        raise UserError(f"layout must be one of {', '.join(_TO)}, got {layout!r}")
    if not nested and (optimizer is not None or rest):
        raise UserError("a state dict alone has no room for an optimizer or other data; leave nested at True")
    state = _TO[layout](params)
    content: dict[Any, Any] = {"model": state}
    if optimizer is not None:
        content["optimizer"] = _to_torch(optimizer, state, layout)
    if duplicate := content.keys() & (rest or {}).keys():
        raise UserError(f"rest holds {', '.join(sorted(duplicate))}, which is written from the other arguments")
    content |= rest or {}
    pickle, storages = pickling.dump(content if nested else state)
    with replacing(Path(path)) as part, part.open("wb") as file:
        archive.write(file, pickle, storages)
        file.flush()
        os.fsync(file.fileno())


def _checkpoint(content: Any, key: str | None, activation: Activation, max_bytes: int) -> Checkpoint:
    state, rest = _find_state(content, key)
    if sum(array.size * 4 for array in state.values()) > max_bytes:
        raise UserError(f"its parameters are more than {max_bytes} bytes; set max_bytes higher to read it")
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
        norm="layernorm" if "ln1" in block else "none",
    )
    length, vocabulary = len(params["pos_embed"]["W_pos"]), len(params["embed"]["W_E"])
    return Checkpoint(params, optimizer, rest, model, length, vocabulary, params["unembed"]["W_U"].shape[1], layout)


def _find_state(content: Any, key: str | None) -> tuple[dict[str, np.ndarray], dict[Any, Any]]:
    """Return the state dict in the content of a file, and the rest of the content."""
    if type(content) is not dict:
        raise UserError(f"it should hold a state dict, and holds a {type(content).__name__}")
    candidates = {name: value for name, value in content.items() if type(value) is dict and "embed.W_E" in value}
    if key is None and "embed.W_E" in content:
        state, rest = content, {}
    elif (key is None and len(candidates) == 1) or key in candidates:
        key = next(iter(candidates)) if key is None else key
        state, rest = candidates[key], {name: value for name, value in content.items() if name != key}
    else:
        present = f"it has {', '.join(map(repr, candidates))}; choose one by key" if candidates else "it has none"
        where = "" if key is None else f" under {key!r}"
        raise UserError(f"it should hold one state dict with embed.W_E{where}, and {present}")
    for name, array in state.items():
        if not isinstance(name, str) or not isinstance(array, np.ndarray):
            raise UserError(f"{name!r} in its state dict is no tensor")
    return state, rest


# --- the optimiser's state -----------------------------------------------------------------------------------


def _from_torch(raw: Any, state: dict[str, np.ndarray], layout: Layout) -> Adam | None:
    """Return the state of Adam from the state dict of an optimiser, or None if it does not have Adam's moments."""
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
    steps = set()
    _, known = layouts.parameter_names(state)
    for name, number in zip(names, numbers, strict=True):
        if name not in known:
            continue
        entry = states.get(number) if isinstance(number, int) else None
        if entry is None:
            raise UserError(f"its optimizer has no state for {name}")
        steps.add(_whole(entry["step"]))
        for kind, arrays in moments.items():
            if np.shape(entry[kind]) != state[name].shape or not isinstance(entry[kind], np.ndarray):
                raise UserError(f"its optimizer's {kind} of {name} should have shape {state[name].shape}")
            arrays[name] = entry[kind]
    if len(steps) != 1:
        raise UserError("its optimizer has updated some parameters more often than others")
    mu, nu = (_FROM[layout](arrays) for arrays in moments.values())
    return Adam(mu, nu, steps.pop(), settings)


def _whole(step: Any) -> int:
    number = step.item() if isinstance(step, np.ndarray) and step.size == 1 else step
    if not isinstance(number, int | float) or not 0 <= number < 2**53 or number != int(number):
        raise UserError("its optimizer's step should be a whole number")
    return int(number)


def _to_torch(optimizer: Adam, state: dict[str, np.ndarray], layout: Layout) -> dict[str, Any]:
    mu, nu = _TO[layout](optimizer.mu), _TO[layout](optimizer.nu)
    names, _ = layouts.parameter_names(state)
    if any(name not in moment or moment[name].shape != state[name].shape for moment in (mu, nu) for name in names):
        raise UserError("the optimizer's mu and nu should have the names and shapes of the parameters")
    entries = {
        i: {"step": int(optimizer.updates), "exp_avg": mu[name], "exp_avg_sq": nu[name]}
        for i, name in enumerate(names)
    }
    adamw = AdamW()
    defaults = {"lr": adamw.lr, "betas": (adamw.b1, adamw.b2), "eps": adamw.eps, "weight_decay": adamw.weight_decay}
    group = defaults | dict(optimizer.settings) | {"params": list(range(len(names)))}
    return {"state": entries, "param_groups": [group]}
