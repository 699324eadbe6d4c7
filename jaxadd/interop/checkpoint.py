"""Checkpoints of one network from elsewhere, read and written without torch."""

import dataclasses
import os
import struct
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxadd.errors import UserError
from jaxadd.files import replacing
from jaxadd.interop import adam, archive, containers, layouts, opaque, pickling, states
from jaxadd.interop import fields as architecture
from jaxadd.interop.adam import Adam
from jaxadd.interop.layouts import Layout
from jaxadd.models import Model, ModelConfig, Transformer
from jaxadd.tasks import Task
from jaxadd.trees import named_leaves
from jaxadd.types import Params, Sizes

MAX_BYTES = 2**31
_TO = {"mainline": layouts.to_mainline, "transformer-lens": layouts.to_transformer_lens}
_ARCHITECTURE = "architecture"
_OTHERS = {".npz": "one of NumPy", ".npy": "one of NumPy", ".safetensors": "one of safetensors"}
_UNWRITTEN = ("weights", "dtype", "precision", "dropout", "kv_heads")


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint.

    Attributes:
      params: parameters of one network, all its matrices, a nested dict of float32 NumPy arrays.
      optimizer: state of the optimiser. None if it is missing, has made no update, does not fit the network, or does
        not have Adam's moments in one group of parameters; it is then in `rest` as it was read.
      rest: all other content, plain Python data and NumPy arrays (read-only, of the dtypes in the file), and
        `opaque.Skipped` in place of what is neither.
      config: architecture of the network.
      length: T, the number of positions of the network; None where there is no limit.
      vocabulary: V.
      classes: C.
      layout: layout of the file.
      task: the task that networks of this layout and size are trained on, where there is one; None otherwise.
      notes: a line each, on what was skipped or assumed.
      beside: content of the JSON file beside the checkpoint; empty where there is none.
    """

    params: Params
    optimizer: Adam | None
    rest: dict[Any, Any]
    config: ModelConfig
    length: int | None
    vocabulary: int
    classes: int
    layout: str
    task: Task | None = None
    notes: tuple[str, ...] = ()
    beside: Mapping[Any, Any] = dataclasses.field(default_factory=dict)

    def params_for(self, sizes: Sizes) -> Params:
        """Return `params` for a task, without positions beyond those of the task, which causal attention ignores.

        The n-digit networks of Nanda et al. have one position more than they need, for the last digit of the answer.

        Raises:
          UserError: the task has other tokens or classes, or more positions.
        """
        if sizes.vocabulary is None:
            raise UserError("the checkpoint's network is for another task: it reads tokens, and the task has none")
        counts = (("tokens", self.vocabulary, sizes.vocabulary), ("classes", self.classes, sizes.classes))
        misfits = [f"{count} {name} and the task has {needed}" for name, count, needed in counts if count != needed]
        spare = 0 if self.length is None else self.length - sizes.length
        causal = isinstance(self.config, Transformer) and self.config.attention == "causal"
        if spare < 0 or (spare > 0 and not causal):
            misfits.append(f"{self.length} positions and the task has {sizes.length}")
        if misfits:
            raise UserError(f"the checkpoint's network is for another task: it has {'; '.join(misfits)}")
        if spare == 0:
            return self.params
        return {**self.params, "pos_embed": {"W_pos": self.params["pos_embed"]["W_pos"][: sizes.length]}}


def read(
    path: str | os.PathLike,
    *,
    key: str | None = None,
    fields: Mapping[str, Any] | None = None,
    max_bytes: int = MAX_BYTES,
) -> Checkpoint:
    """Read a network from a file that torch.save, numpy.savez or safetensors wrote.

    The architecture is what `fields`, a config in the file, a JSON file of the same name beside it, and the names and
    shapes of the tensors state. No file can run code, whatever its content (see `unpickling`); what stands beside the
    weights and is no plain data is skipped. Peak memory is a small multiple of the size of the file, and at most
    1 GiB more.

    Args:
      path: file with a state dict, or with anything that contains one.
      key: where the state dict is in the file, such as "model"; by default it is searched for.
      fields: fields of `Transformer` that nothing in the file states, or that are to win over it.
      max_bytes: size of the largest file that is read, and of its parameters as float32.

    Raises:
      UserError: there is no such file, it is damaged or too large, or it does not hold one network that
        `Transformer` or `PairMLP` describes.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file {path}; expected the path of a checkpoint")
    given = fields or {}
    try:
        content, skipped = containers.content(path, max_bytes)
        beside, note = containers.beside(path)
        return _checkpoint(content, skipped, beside, note, key, given, max_bytes)
    except UserError as error:
        reason, cause = str(error), error
    except MemoryError as error:
        reason, cause = "there is not enough memory for it", error
    except (OSError, struct.error, *archive.DAMAGED) as error:
        reason, cause = f"it is damaged ({type(error).__name__}); copy it again from where it came from", error
    # Names in a hostile file may be long, and may contain control sequences of a terminal.
    reason = _printable(reason[:600])
    raise UserError(f"{path} cannot be read as a checkpoint: {reason}") from cause


def from_state_dict(state: Mapping[str, Any], fields: Mapping[str, Any] | None = None) -> Checkpoint:
    """Return the network in a state dict in memory.

    Args:
      state: arrays by name.
      fields: fields of `Transformer` that names and shapes do not state.

    Raises:
      UserError: it does not hold one network that `Transformer` or `PairMLP` describes.
    """
    content = {name: np.asarray(array) for name, array in state.items()}
    return _checkpoint(content, Counter(), {}, "", None, fields or {}, MAX_BYTES)


def write(
    path: str | os.PathLike,
    params: Params,
    model: Model,
    *,
    optimizer: Adam | None = None,
    rest: Mapping[Any, Any] | None = None,
    layout: Layout = "mainline",
    nested: bool = True,
) -> None:
    """Write a checkpoint that torch.load reads, also with weights_only=True; `read` returns the same bits.

    The file is written under a temporary name and renamed. Equal content yields equal bytes. Of a network whose
    weights are tied, all matrices are written.

    Args:
      path: path of the file.
      params: parameters of one network, a nested dict of float32 arrays.
      model: its model.
      optimizer: state of Adam; it is numbered as by torch, so that torch.optim.AdamW loads it.
      rest: plain data and arrays to write beside "model", "optimizer" and "architecture".
      layout: "mainline", that of Nanda et al., or "transformer-lens", which also has norms, gates and biases.
      nested: False writes only the state dict; what names and shapes do not show, such as the activation function, is
        then not in the file.

    Raises:
      UserError: the network does not fit the layout, `rest` holds other than plain data and arrays, or the path has
        the ending of files of other kinds.
      OSError: the file cannot be written; an earlier file is unchanged.
    """
    path = Path(path)
    if path.suffix in _OTHERS:
        raise UserError(
            f"a file of torch is written, and {path} has the name of {_OTHERS[path.suffix]}; name it .pth"
        )
    if layout not in _TO:
        raise UserError(f"layout must be one of {', '.join(_TO)}, got {layout!r}")
    if not nested and (optimizer is not None or rest):
        raise UserError("a state dict alone has no room for an optimizer or other data; leave nested at True")
    state = _TO[layout](params, model)
    content: dict[Any, Any] = {"model": state}
    if optimizer is not None:
        if model.config != model.config.untied():
            raise UserError(
                "the optimizer of a network with tied weights has no moments of its matrices; leave it out"
            )
        mu, nu = (_TO[layout](moment, model) for moment in (optimizer.mu, optimizer.nu))
        content["optimizer"] = adam.to_torch(optimizer, mu, nu, state)
    if duplicate := (content.keys() | {_ARCHITECTURE}) & (rest or {}).keys():
        raise UserError(f"rest holds {', '.join(sorted(duplicate))}, which is written from the other arguments")
    stated = dataclasses.asdict(model.untied.config)  # type: ignore[call-overload]
    content[_ARCHITECTURE] = {name: value for name, value in stated.items() if name not in _UNWRITTEN}
    content |= rest or {}
    pickle, storages = pickling.dump(content if nested else state)
    with replacing(path) as part, part.open("wb") as file:
        archive.write(file, pickle, storages)
        file.flush()
        os.fsync(file.fileno())


def _checkpoint(
    content: Any,
    skipped: Counter[str],
    beside: Mapping[Any, Any],
    note: str,
    key: str | None,
    given: Mapping[str, Any],
    max_bytes: int,
) -> Checkpoint:
    state = states.find(content, key)
    if sum(array.size * 4 for array in state.arrays.values()) > max_bytes:
        raise UserError(f"its parameters are more than {max_bytes} bytes; set max_bytes higher to read it")
    rest = states.rest(content, state)
    stated, ignored = architecture.stated(rest, beside)
    found = state.format.read(state.arrays, stated, architecture.check(given))
    sizes = {"positions": found.length, "tokens": found.vocabulary, "classes": found.classes}
    of_config = (*ignored, *architecture.size_notes(stated, **sizes))
    notes = [opaque.note(skipped), note, *of_config, _not_finite(found.params), *found.notes]
    optimizer = None
    try:
        optimizer = adam.from_torch(rest.get("optimizer"), state, found)
    except UserError as error:
        notes.append(f"its optimizer does not fit the network and was left out: {error}")
    if optimizer is not None:
        del rest["optimizer"]
    if isinstance(rest.get(_ARCHITECTURE), dict):
        del rest[_ARCHITECTURE]
    return Checkpoint(
        params=found.params,
        optimizer=optimizer,
        rest=rest,
        config=found.config,
        length=found.length,
        vocabulary=found.vocabulary,
        classes=found.classes,
        layout=found.layout,
        task=found.task,
        notes=tuple(_printable(line) for line in notes if line),
        beside=beside,
    )


def _not_finite(params: Params) -> str:
    count = sum(int(np.sum(~np.isfinite(array))) for _, array in named_leaves(params))
    return f"{count:,} of its weights are NaN or infinite" if count else ""


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
