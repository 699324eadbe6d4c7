"""The MLP of Chughtai et al. 2023 on two tokens: logits = relu([W_x[a], W_y[b]] W) W_U."""

from collections.abc import Collection

from jaxadd.errors import UserError
from jaxadd.interop import fields
from jaxadd.interop.fields import Fields
from jaxadd.interop.formats.format import Format, Found, State
from jaxadd.interop.layouts import float32
from jaxadd.models import PairMLP

_OURS = {"W_x": "W_a", "W_y": "W_b", "W": "W_in", "W_U": "W_U"}


def recognises(names: Collection[str]) -> bool:
    """Return whether a state dict has these four tensors and no other."""
    return set(names) == set(_OURS)


def read(state: State, stated: Fields, given: Fields) -> Found:
    """Return the network in a state dict; see `Format`.

    Raises:
      UserError: shapes do not fit each other, or other fields of a transformer are given.
    """
    if other := [name for name in given if name != "activation"]:
        raise UserError(f"it holds an MLP on two tokens, which has no field {', '.join(other)}")
    shapes = {name: state[name].shape for name in _OURS}
    if any(len(shape) != 2 for shape in shapes.values()):
        raise UserError(f"W_x, W_y, W and W_U should be matrices, got the shapes {list(shapes.values())}")
    (vocabulary, width), (neurons, classes) = shapes["W_x"], shapes["W_U"]
    expected = {"W_y": (vocabulary, width), "W": (2 * width, neurons)}
    if wrong := [name for name, shape in expected.items() if shapes[name] != shape]:
        texts = (f"{name} should have shape {expected[name]}, got {shapes[name]}" for name in wrong)
        raise UserError("; ".join(texts))
    params = {ours: float32(name, state[name]) for name, ours in _OURS.items()}
    known = {**stated, **given}
    config = PairMLP(d_embed=width, neurons=neurons, activation=known.get("activation", "relu"))
    notes = fields.assumption({"activation": config.activation}, known, "Chughtai et al.")
    return Found(params, config, "chughtai-mlp", 2, vocabulary, classes, notes=notes)


FORMAT = Format("W_x, W_y, W and W_U (the MLP of Chughtai et al.)", recognises, read)
