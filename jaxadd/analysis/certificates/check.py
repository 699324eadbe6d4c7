"""Verification of a certificate by code that shares with the search only the forward pass and its rounding.

Margins are computed by the plain forward pass in float64, and bounds again from what that pass reads, see
`check_bounds`. What float32 may add is computed by `forward` and `rounding`, as in the search, and float32 results of
the plain pass are compared with it; the intervals of norms are those of `rounding` too. The list of problems
(`spaces`) and the description of a counterexample (`exhaustive.described`) are shared as well.
"""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from scipy import special

from jaxadd.analysis.certificates import exhaustive, forward
from jaxadd.analysis.certificates.certificate import Certificate, fingerprint
from jaxadd.analysis.certificates.check_bounds import Bounds
from jaxadd.analysis.certificates.check_claims import close, logits, require, within
from jaxadd.analysis.certificates.rounding import ASSUMPTIONS
from jaxadd.analysis.certificates.search import CONFIDENCE
from jaxadd.analysis.certificates.spaces import Space, space
from jaxadd.errors import UserError
from jaxadd.models import Network
from jaxadd.tasks import Addition
from jaxadd.tasks.listed import Listed

Watch = Callable[[int, int], None]


def check(certificate: Certificate, network: Network, watch: Watch = lambda done, total: None) -> None:
    """Verify a certificate of a network; raises UserError, which says what does not hold."""
    forward.check_covered(network.model)
    here = space(network.task, network)
    if certificate.space != here.description or certificate.problems != here.size:
        states = {**certificate.space, "problems": certificate.problems}
        holds = {**here.description, "problems": here.size}
        differ = [name for name in {**holds, **states} if states.get(name) != holds.get(name)]
        tell = lambda of: ", ".join(f"{name} {of.get(name)}" for name in differ)
        raise UserError(f"the certificate is of another space, with {tell(states)}; this task has {tell(holds)}")
    if certificate.network != fingerprint(network.params, network.model):
        raise UserError(
            "the certificate is of another network, or of another seed or step of its run: "
            "the hash of its architecture and parameters differs"
        )
    require(certificate.assumptions == ASSUMPTIONS, "its assumptions are not those under which it is checked")
    require(certificate.architecture == repr(network.config), "its architecture in words is another one")
    require(
        bool(certificate.counterexample) == (certificate.verdict == "refuted"),
        f"its verdict is {certificate.verdict}, and it holds {'a' if certificate.counterexample else 'no'} "
        "counterexample",
    )
    if certificate.verdict == "refuted":
        _check_counterexample(certificate, network)
    follow = all(_is_interval(row) for row in certificate.statistics)
    require(follow, "an interval of an error rate does not follow from its counts")
    if not certificate.parts and certificate.method != "exhaustive":
        searched = (certificate.method, certificate.verdict) == ("search", "unknown")
        require(searched or certificate.verdict == "refuted", "its parts are not all of the space: it has none")
        require(certificate.proven == 0, "it has no parts, and nothing is proven")
        return
    require(certificate.method != "search", "a search proves nothing")
    found = _Exhaustive(network, here) if certificate.method == "exhaustive" else Bounds(network)
    require([part["part"] for part in certificate.parts] == found.parts, "its parts are not all of the space")
    least = []
    for i, part in enumerate(certificate.parts):
        watch(i, len(found.parts))
        least.append(found.check(part))
        require(close(part["margin"], least[-1][0]), f"part {part['part']} has margin {least[-1][0]:.4f}")
        require(close(part["slack"], least[-1][1]), f"part {part['part']} has slack {least[-1][1]:.4f}")
    margin, slack = (min(values) for values in zip(*least, strict=True))
    require(close(certificate.margin, margin), f"the least margin is {margin:.4f}, not {certificate.margin}")
    require(close(certificate.slack, slack), f"the least slack is {slack:.4f}, not {certificate.slack}")
    require(certificate.verdict != "proven" or slack > 0, f"the verdict does not follow from a slack of {slack:.4f}")
    require(certificate.proven <= found.proven() + 1e-12, "less of the space is proven")


def _check_counterexample(certificate: Certificate, network: Network) -> None:
    example, sizes, task = certificate.counterexample, network.model.sizes, network.task
    tokens = lambda name, count: isinstance(example.get(name), list) and np.shape(example[name]) == (count,)
    require(tokens("inputs", sizes.length) and tokens("correct", len(sizes.read)), "its counterexample is damaged")
    inputs = np.asarray([example["inputs"]])
    if isinstance(task, Listed):
        numbers = task.numbers(inputs[:, : task.operands])
        batch = task.batch(np.asarray(numbers, np.int32), network.data.shared)
    else:
        assert isinstance(task, Addition)  # No other task has a space.
        answer = np.zeros((1, task.answer_length), int)
        question = np.concatenate([inputs[:, : sizes.read[0] + 1], answer], axis=1)
        batch = task.batch(jnp.clip(task.decode(jnp.asarray(question))[0], 0, task.base - 1))
    require(np.array_equal(batch.inputs, inputs), "its counterexample is no problem of the space")
    require(batch.targets[0].tolist() == example["correct"], "its correct answer is not correct")
    found = exhaustive.described(network, inputs, np.asarray(batch.targets))
    require(found["wrong"], "the network is correct on the problem that is said to refute it")
    require(found == example, f"the network says {found['says']}: {found['words']}")


def _is_interval(row: Any) -> bool:
    """Return whether the ends of an interval have the probabilities that define it; see `search.interval`."""
    names = {"problems": int, "errors": int, "low": int | float, "high": int | float}
    if not (isinstance(row, dict) and all(isinstance(row.get(name), kind) for name, kind in names.items())):
        return False
    count, errors, low, high = (row[name] for name in names)
    if not 0 <= errors <= count or not 0 <= low <= high <= 1:
        return False
    tail = (1 - CONFIDENCE) / 2
    near = lambda probability: math.isclose(probability, tail, rel_tol=1e-6)
    low_holds = low == 0 if errors == 0 else near(special.bdtrc(errors - 1, count, low))
    high_holds = high == 1 if errors == count else near(special.bdtr(errors, count, high))
    return bool(low_holds and high_holds)


class _Exhaustive:
    """Margins of all problems by the plain forward pass."""

    def __init__(self, network: Network, here: Space):
        self.network, self.space, self.open = network, here, 0
        sizes = network.model.sizes
        step = max(1, 2_000_000 // (len(sizes.read) * sizes.classes))
        self.parts = [[first, min(first + step, here.size)] for first in range(0, here.size, step)]

    def check(self, part: dict[str, Any]) -> tuple[float, float]:
        """Return the least margin and slack of a range of problems."""
        first, end = part["part"]
        margin = slack = math.inf
        for start in range(first, end, 1_000):
            numbers = np.arange(start, min(start + 1_000, end))
            inputs, targets = self.space.batch(numbers)
            double, single = logits(self.network, inputs)
            allowed = forward.logits(self.network.params, self.network.model, inputs).error
            require(within(single, double, allowed), "float32 errs by more than is allowed for it")
            at = np.arange(double.shape[-1]) == targets[..., None]
            own, own_allowed = (np.where(at, x, 0).sum(axis=-1, keepdims=True) for x in (double, allowed))
            lead = np.where(at, np.inf, own - double)
            slacks = np.where(np.isfinite(lead) | at, lead - own_allowed - allowed, -np.inf).min(axis=(1, 2))
            self.open += int((~(slacks > 0)).sum())
            margin = min(margin, float(np.where(np.isnan(lead), -np.inf, lead).min()))
            slack = min(slack, float(slacks.min()))
        return margin, slack

    def proven(self) -> float:
        """Return the fraction of the space that is proven, after all parts were checked."""
        return 1 - self.open / self.space.size
