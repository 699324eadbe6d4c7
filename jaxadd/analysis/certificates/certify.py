"""Certification: choose a method, examine the parts of the space, and state the verdict."""

import platform
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import numpy as np

from jaxadd.analysis.certificates import bounds, exhaustive, forward, search
from jaxadd.analysis.certificates.certificate import NOTHING, Certificate, Method, Verdict, fingerprint
from jaxadd.analysis.certificates.rounding import ASSUMPTIONS
from jaxadd.analysis.certificates.spaces import space
from jaxadd.errors import UserError
from jaxadd.models import Network
from jaxadd.tasks import Addition

Part = dict[str, Any]


class Certification:
    """The certification of one network, part by part, so that it can be shown, stopped and resumed.

    Attributes:
      network: what is certified.
      space: all problems of its task.
      method: as it was given; or exhaustive where the space is small enough, or else bounds where they cover the
        network and hold for some of a sample of cases, or else search.
      reason: why no bound is computed, where the method is search.
      parts: of the space, in the order in which they are examined.
    """

    def __init__(self, network: Network, method: Method | None = None):
        """Choose a method, or check that the given one covers the network.

        Raises:
          UserError: the task has no finite space, or the method does not cover the network.
        """
        forward.check_covered(network.model)
        self.network, self.space = network, space(network.task, network)
        count = exhaustive.logits(self.space, network)
        few = count <= exhaustive.MOST_LOGITS
        self.method: Method
        self.parts: list[Any] = []
        self._bounds, self.reason = None, ""
        if method == "bounds" or (method is None and not few):
            self._bounds, reason = _bounds_of(network, insist=method is not None)
        if self._bounds is not None:
            self.method, self.parts = "bounds", self._bounds.parts
        elif method == "exhaustive" or (method is None and few):
            if not few:
                raise UserError(
                    f"exhaustive certification covers up to {exhaustive.MOST_LOGITS:.0e} logits, and this space has "
                    f"{float(count):.1e}; leave --method out"
                )
            self.method, self.parts = "exhaustive", exhaustive.parts(network, self.space)
        elif method == "search":
            if not isinstance(network.task, Addition):
                raise UserError(f"search covers addition, got {network.task.question}; leave --method out")
            self.method = "search"
        elif isinstance(network.task, Addition):
            self.method, self.reason = "search", reason
        else:
            raise UserError(reason)

    @property
    def identity(self) -> dict[str, Any]:
        """What is certified and how; results of parts may only be put together where this is equal."""
        return {
            "network": fingerprint(self.network.params, self.network.model),
            "space": self.space.description,
            "method": self.method,
        }

    def run(
        self,
        *,
        done: Iterable[Part] = (),
        watch: Callable[[float, int, Part | None], None] = lambda done, total, part: None,
    ) -> tuple[Certificate, search.Found | None]:
        """Search for errors, examine the parts and conclude; see `certify`.

        Args:
          done: results of parts from an earlier run with the same `identity`.
          watch: called with the number of parts done, the fraction of the current one included; the number of all
            parts; and the result of a part that has just been finished, or None.

        Returns:
          the certificate, and what the search found; None where there was none.
        """
        found = None if self.method == "exhaustive" else search.search(self.network)
        if found is not None and len(found.errors):
            return self.conclude([], found), found
        results = {tuple(part["part"]): part for part in done}
        total = len(self.parts)
        if total:
            watch(len(results), total, None)
        for part in self.parts:
            if part in results:
                continue
            before = len(results)

            def within(fraction: float, before: int = before) -> None:
                watch(before + fraction, total, None)

            results[part] = self.examine(part, within)
            candidates = self.candidates()
            if found is not None and len(candidates):
                errors = search.from_problems(self.network, candidates)
                if len(errors):
                    found = found._replace(errors=errors)
                    return self.conclude([], found), found
            watch(len(results), total, results[part])
        return self.conclude([results[part] for part in self.parts], found), found

    def examine(self, part: Any, watch: Callable[[float], None] = lambda fraction: None) -> Part:
        """Return what holds on one part of the space, as plain data, with the seconds that it took.

        Args:
          part: one of `parts`.
          watch: called with the fraction of the part that is done.
        """
        start = time.monotonic()
        if self._bounds is not None:
            found = self._bounds.examine(part, watch)
        else:
            found = exhaustive.examine(self.network, self.space, part)
        return {**found, "seconds": round(time.monotonic() - start, 3)}

    def candidates(self) -> np.ndarray:
        """Return problems that may be errors, of the cases that bounds left open in the part examined last."""
        return np.zeros(0) if self._bounds is None else self._bounds.candidates()

    def conclude(self, parts: list[Part], found: search.Found | None = None) -> Certificate:
        """Return the certificate.

        Args:
          parts: what `examine` returned, in order. Where one is missing, the verdict is not proven.
          found: what a search found.
        """
        counterexample = self._counterexample(parts, found)
        complete = bool(parts) and [part["part"] for part in parts] == [list(part) for part in self.parts]
        worst = min(parts, key=lambda part: part["slack"], default=None)
        closed = complete and all(part["slack"] > 0 and not part["open"] for part in parts)
        verdict: Verdict = "refuted" if counterexample else "proven" if closed else "unknown"
        method: Method = "search" if counterexample and not parts else self.method  # No bound took part in it.
        return Certificate(
            **{**self.identity, "method": method},
            architecture=repr(self.network.config),
            problems=self.space.size,
            assumptions=ASSUMPTIONS,
            verdict=verdict,
            margin=min((part["margin"] for part in parts), default=NOTHING),
            slack=worst["slack"] if worst else NOTHING,
            where=worst["where"] if worst else "",
            proven=self._proven(parts, closed),
            counterexample=counterexample,
            statistics=() if found is None or verdict == "proven" else found.statistics,
            reason=self.reason,
            parts=tuple(parts),
            seconds=round(sum(part["seconds"] for part in parts), 3),
            environment={"jax": jax.__version__, "numpy": np.__version__, "machine": platform.machine()},
        )

    def _counterexample(self, parts: list[Part], found: search.Found | None) -> dict[str, Any]:
        """Run the network itself on problems that are not proven; returns one that it gets wrong."""
        if found is not None and len(found.errors):
            batch = cast(Addition, self.network.task).batch(found.errors[:1])
            return exhaustive.described(self.network, np.asarray(batch.inputs), np.asarray(batch.targets))
        for part in sorted(parts, key=lambda part: part["margin"]):
            if part.get("suspects"):
                inputs, targets = self.space.batch(np.asarray(part["suspects"]))
                answers = np.asarray(self.network.answer(inputs))
                wrong = np.flatnonzero((answers != targets).any(axis=1))
                if wrong.size:
                    return exhaustive.described(self.network, inputs[wrong[:1]], targets[wrong[:1]])
        return {}

    def _proven(self, parts: list[Part], closed: bool) -> float:
        if closed:
            return 1.0
        if self._bounds is not None:
            return self._bounds.fraction(parts)
        return sum(part["problems"] - part["open"] for part in parts) / self.space.size


def _bounds_of(network: Network, *, insist: bool) -> tuple[bounds.Bounds | None, str]:
    """Return bounds, or None and the reason why none are computed.

    Raises:
      UserError: somebody insists on them, and they do not cover the network.
    """
    try:
        bounds.check_covered(network)
        found = bounds.Bounds(network)
        if not insist:
            found.check_promising()
    except UserError as error:
        if insist:
            raise
        return None, str(error)
    return found, ""


def certify(network: Network, method: Method | None = None) -> tuple[Certificate, search.Found | None]:
    """Certify a network on every problem of its task's space.

    Networks of addition that are not enumerated are searched for errors first, and again from the cases that the
    bounds of an answer digit leave open; where an error is found, the network is refuted and no more bounds are
    computed.

    Args:
      network: a transformer of one or two layers where the space is large, any transformer or PairMLP where it is
        small.
      method: by default exhaustive where there are at most `exhaustive.MOST_LOGITS` logits, bounds where they cover
        the network and hold for some of a sample of cases, and search otherwise.

    Returns:
      the certificate, and what the search found; None where there was none.

    Raises:
      UserError: the task has no finite space, or the given method does not cover the network.
    """
    return Certification(network, method).run()
