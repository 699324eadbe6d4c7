"""Certification: choose a method, examine the parts of the space, and state the verdict."""

import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jaxadd.analysis.certificates import bounds, exhaustive, forward
from jaxadd.analysis.certificates.certificate import Certificate, Method, Verdict, fingerprint
from jaxadd.analysis.certificates.rounding import ASSUMPTIONS
from jaxadd.analysis.certificates.spaces import Space, space
from jaxadd.errors import UserError
from jaxadd.models import Network

Part = dict[str, Any]


class Certification:
    """The certification of one network, part by part, so that it can be shown, stopped and resumed.

    Attributes:
      network: what is certified.
      space: all problems of its task.
      method: exhaustive where the space is small enough, or else bounds.
      parts: of the space, in the order in which they are examined.
    """

    def __init__(self, network: Network, method: Method | None = None):
        """Choose a method.

        Raises:
          UserError: the task has no finite space, or no method covers the network.
        """
        forward.check_covered(network.model)
        self.network, self.space = network, space(network.task, network.data)
        logits = exhaustive.logits(self.space, network)
        self.method: Method = method or ("exhaustive" if logits <= exhaustive.MOST_LOGITS else "bounds")
        if self.method == "bounds":
            bounds.check_covered(network)
            self._bounds = bounds.Bounds(network)
            self.parts = self._bounds.parts
        else:
            if logits > exhaustive.MOST_LOGITS:
                raise UserError(
                    f"exhaustive certification covers up to {exhaustive.MOST_LOGITS:.0e} logits, and this space has "
                    f"{float(logits):.0e}; use --method bounds"
                )
            self.parts = exhaustive.parts(network, self.space)
        self.seconds = 0.0

    @property
    def identity(self) -> dict[str, Any]:
        """What is certified and how; results of parts may only be put together where this is equal."""
        return {
            "network": fingerprint(self.network.params, self.network.model),
            "space": self.space.description,
            "method": self.method,
        }

    def examine(self, part: Any) -> Part:
        """Return what holds on one part of the space, as plain data, with the seconds that it took."""
        start = time.monotonic()
        if self.method == "bounds":
            found = self._bounds.examine(part)
        else:
            found = exhaustive.examine(self.network, self.space, part)
        return {**found, "seconds": round(time.monotonic() - start, 3)}

    def conclude(self, parts: list[Part], counterexample: Mapping[str, Any] | None = None) -> Certificate:
        """Return the certificate, given what holds on every part that was examined.

        Args:
          parts: in order. Where one is missing, the verdict is not proven.
          counterexample: an error of the network that was found in another way; see `exhaustive.described`.
        """
        found = dict(counterexample or self._counterexample(parts))
        complete = [part["part"] for part in parts] == [list(part) for part in self.parts]
        worst = min(parts, key=lambda part: part["slack"], default=None)
        closed = complete and all(part["slack"] > 0 and not part["open"] for part in parts)
        verdict: Verdict = "refuted" if found else "proven" if closed else "unknown"
        return Certificate(
            **self.identity,
            architecture=repr(self.network.config),
            problems=self.space.size,
            assumptions=ASSUMPTIONS,
            verdict=verdict,
            margin=min((part["margin"] for part in parts), default=-1e9),
            slack=worst["slack"] if worst else -1e9,
            where=worst["where"] if worst else "",
            proven=self._proven(parts, closed),
            counterexample=found,
            parts=tuple(parts),
            seconds=round(sum(part["seconds"] for part in parts), 3),
            environment={"jax": jax.__version__, "numpy": np.__version__, "machine": platform.machine()},
        )

    def _counterexample(self, parts: list[Part]) -> dict[str, Any]:
        """Run the network itself on the problems that are not proven; returns the first that it gets wrong."""
        if self.method == "bounds":
            return {}
        for part in sorted(parts, key=lambda part: part["slack"]):
            if part["suspects"]:
                inputs, targets = self.space.batch(np.asarray(part["suspects"]))
                answers = np.asarray(self.network.answer(inputs))
                wrong = np.flatnonzero((answers != targets).any(axis=1))
                if wrong.size:
                    return exhaustive.described(self.network, inputs[wrong[:1]], targets[wrong[:1]])
        return {}

    def _proven(self, parts: list[Part], closed: bool) -> float:
        if closed:
            return 1.0
        if self.method == "bounds":
            return self._bounds.fraction(parts)
        return sum(part["problems"] - part["open"] for part in parts) / self.space.size


def certify(
    network: Network, method: Method | None = None, watch: Callable[[int, int], None] = lambda done, total: None
) -> Certificate:
    """Certify a network on every problem of its task's space.

    Args:
      network: one-layer transformers where the space is large, any transformer or PairMLP where it is small.
      method: by default exhaustive where there are at most `exhaustive.MOST_LOGITS` logits, bounds otherwise.
      watch: called with the number of parts done and of all parts.

    Raises:
      UserError: the task has no finite space, or no method covers the network.
    """
    certification, found = Certification(network, method), []
    for i, part in enumerate(certification.parts):
        watch(i, len(certification.parts))
        found.append(certification.examine(part))
    return certification.conclude(found)
