"""The state of torch's Adam and AdamW, from and to a state dict of the optimiser."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxadd.errors import UserError
from jaxadd.interop.formats import Found
from jaxadd.interop.layouts import BUFFERS
from jaxadd.interop.states import State
from jaxadd.optim.optimizers import AdamW
from jaxadd.types import Params

_MOMENTS = {"step", "exp_avg", "exp_avg_sq"}
# Biases of TransformerLens that older files have no moments of, since they were never trained.
_UNTRAINED = ("attn.b_Q", "attn.b_K", "attn.b_V", "attn.b_O", "unembed.b_U")


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


def from_torch(raw: Any, state: State, found: Found) -> Adam | None:
    """Return the state of Adam from the state dict of an optimiser, or None if it does not have Adam's moments.

    Raises:
      UserError: it does not fit the network.
    """
    match raw:
        case {"state": dict(states), "param_groups": [{"params": list(numbers), **settings}]} if states:
            pass
        case _:
            return None
    entries = list(states.values())
    if not all(isinstance(entry, dict) and entry.keys() == _MOMENTS for entry in entries):
        return None
    if state.format.moments is None:
        raise UserError("it is that of a network of another layout")
    parameters = [name for name in state.arrays if not name.endswith(BUFFERS)]
    known = [name for name in parameters if not name.endswith(_UNTRAINED)]
    names = next((names for names in (parameters, known) if len(names) == len(numbers)), None)
    if names is None:
        raise UserError(f"it has {len(numbers)} parameters, and the model {len(parameters)}")
    moments: dict[str, dict[str, np.ndarray]] = {"exp_avg": {}, "exp_avg_sq": {}}
    steps = set()
    for name, number in zip(names, numbers, strict=True):
        entry = states.get(number) if isinstance(number, int) else None
        if entry is None and name.endswith(_UNTRAINED):
            continue
        if entry is None:
            raise UserError(f"it has no state for {name}")
        steps.add(_whole(entry["step"]))
        for kind, arrays in moments.items():
            if np.shape(entry[kind]) != state.arrays[name].shape or not isinstance(entry[kind], np.ndarray):
                raise UserError(f"its {kind} of {name} should have shape {state.arrays[name].shape}")
            arrays[name] = entry[kind]
    if len(steps) != 1:
        raise UserError("it has updated some parameters more often than others")
    mu, nu = (state.format.moments(arrays, found) for arrays in moments.values())
    return Adam(mu, nu, steps.pop(), settings)


def to_torch(
    optimizer: Adam, mu: Mapping[str, np.ndarray], nu: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Return the state dict of torch's AdamW.

    Args:
      optimizer: its updates and settings.
      mu: its moments in the layout of `state`.
      nu: likewise.
      state: state dict of the network.
    """
    names = [name for name in state if not name.endswith(BUFFERS)]
    entries = {
        i: {"step": int(optimizer.updates), "exp_avg": mu[name], "exp_avg_sq": nu[name]}
        for i, name in enumerate(names)
    }
    adamw = AdamW()
    defaults = {"lr": adamw.lr, "betas": (adamw.b1, adamw.b2), "eps": adamw.eps, "weight_decay": adamw.weight_decay}
    group = defaults | dict(optimizer.settings) | {"params": list(range(len(names)))}
    return {"state": entries, "param_groups": [group]}


def _whole(step: Any) -> int:
    number = step.item() if isinstance(step, np.ndarray) and step.size == 1 else step
    if not isinstance(number, int | float) or not 0 <= number < 2**53 or number != int(number):
        raise UserError("its step should be a whole number")
    return int(number)
