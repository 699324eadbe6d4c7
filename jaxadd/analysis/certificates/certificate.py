"""A certificate: what was shown of one network on one space of problems, as plain data for JSON."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from jaxadd.errors import UserError
from jaxadd.models import Model
from jaxadd.types import Params

FORMAT = 2
_LARGEST = 1e300  # Of a bound that is written: a multiple of a step above it is no float64.
NOTHING = -1e9  # Nats, where there is no bound: JSON has no infinity.
Verdict = Literal["proven", "refuted", "unknown"]
Method = Literal["exhaustive", "bounds", "search"]


@dataclass(frozen=True)
class Certificate:
    """What was shown of one network on every problem of a space.

    Attributes:
      network: SHA-256 of the architecture and of every parameter.
      architecture: the config of the network, in words.
      space: what the problems are; see `spaces.Space`.
      problems: the number of problems.
      method: exhaustive; bounds; or search, which can refute and not prove, and was enough where it refutes.
      assumptions: what is assumed of the arithmetic.
      verdict: proven, where the network answers every problem correctly; refuted, where it does not, with a problem
        that the network was run on; unknown otherwise.
      margin: nats, in exact arithmetic: the least difference between the correct logit and another one over all
        problems; for bounds a lower bound of it.
      slack: nats, the least difference of a margin and its allowance for float32; above 0 where proven.
      where: the problem or case with the least slack.
      proven: the fraction of the space that is proven.
      counterexample: the problem, what the network says and what is correct; empty if not refuted.
      statistics: exact intervals of the error rate by kind of problem, where nothing is proven; see `search.Found`.
      reason: why no bound was computed, where the method is search.
      parts: what was computed for each part of the space.
      seconds: time of the computation.
      environment: versions and device.
    """

    network: str
    architecture: str
    space: dict[str, Any]
    problems: int
    method: Method
    assumptions: tuple[str, ...]
    verdict: Verdict
    margin: float
    slack: float
    where: str
    proven: float
    counterexample: dict[str, Any]
    statistics: tuple[dict[str, Any], ...]
    reason: str
    parts: tuple[dict[str, Any], ...]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return the certificate as plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Any) -> "Certificate":
        """Return a certificate from plain data; raises UserError where it is none."""
        names = set(cls.__dataclass_fields__)
        if not isinstance(data, dict) or data.keys() != names or data.get("format") != FORMAT:
            raise UserError("`jaxadd certify` of this version did not write it")
        names = ("assumptions", "parts", "statistics")
        numbers = ("problems", "margin", "slack", "proven", "seconds")
        whole = (
            all(isinstance(data[name], list) for name in names)
            and all(isinstance(data[name], dict) for name in ("space", "counterexample", "environment"))
            and all(isinstance(data[name], int | float) for name in numbers)
            and all(isinstance(data[name], str) for name in ("network", "architecture", "where", "reason"))
            and data["verdict"] in get_args(Verdict)
            and data["method"] in get_args(Method)
            and all(_is_part(part, data["method"]) for part in data["parts"])
        )
        if not whole:
            raise UserError("it is damaged: a value is missing or has another type")
        sequences = {name: tuple(data[name]) for name in names}
        return cls(**{**data, **sequences})


def _is_part(part: Any, method: Method) -> bool:
    """Return whether a part of a certificate has what its check reads."""
    numbers = ("margin", "slack", *(("open_weight",) if method == "bounds" else ()))
    return (
        isinstance(part, dict)
        and isinstance(part.get("part"), list)
        and all(isinstance(part.get(name), int | float) for name in numbers)
        and (
            method != "bounds"
            or (
                isinstance(bounds := part.get("bounds"), dict)
                and all(isinstance(trees, list) for trees in bounds.values())
            )
        )
    )


def fingerprint(params: Params, model: Model) -> str:
    """Return the SHA-256 of an architecture and of every parameter, by name, shape and bits."""
    digest = hashlib.sha256(repr((model.config, model.sizes)).encode())
    for name, leaf in _leaves(params):
        values = np.ascontiguousarray(np.asarray(leaf, np.float32))
        digest.update(f"\n{name} {values.shape}\n".encode())
        digest.update(values.astype("<f4").tobytes())
    return digest.hexdigest()


def _leaves(params: Params, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in sorted(params):
        value = params[name]
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def rounded_down(value: float, step: float = 1e-4) -> float:
    """Return the largest multiple of a step that is not above a value, as it is written in a certificate."""
    if not abs(value) < _LARGEST:  # NaN as well.
        return NOTHING
    return round(math.floor(value / step) * step, 6)
