"""Verification of a certificate by code that shares with the search only the forward pass and its rounding.

Margins are computed by the plain forward pass in float64. Bounds are computed again from the attention scores and
values of that pass, in a direct way: without interpolation, one direction like another. The cases are enumerated here
too, digit by digit, and have to cover every problem. What float32 may add is computed by `rounding`, as in the
search, and float32 results of the plain pass are compared with it.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.certificates import exhaustive, forward, rounding
from jaxadd.analysis.certificates.certificate import NOTHING, Certificate, fingerprint
from jaxadd.analysis.certificates.rounding import ASSUMPTIONS
from jaxadd.analysis.certificates.spaces import Space, space
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer, plain
from jaxadd.tasks import Addition
from jaxadd.tasks.listed import Listed

_TOLERANCE = 0.02  # Nats, and a part of the bound: the search interpolates some bounds from below.
_LIGHTEST = 1e-290  # Weights below it are held by float64 with few digits.
_SAMPLE = 64
_AT_ONCE = 4_000_000  # Elements.
_plain = jax.jit(plain.forward, static_argnames="model")

Watch = Callable[[int, int], None]


def check(certificate: Certificate, network: Network, watch: Watch = lambda done, total: None) -> None:
    """Verify a certificate of a network; raises UserError, which says what does not hold."""
    forward.check_covered(network.model)
    here = space(network.task, network)
    if certificate.network != fingerprint(network.params, network.model):
        raise UserError("the certificate is of another network: the hash of the parameters and architecture differs")
    if certificate.space != here.description or certificate.problems != here.size:
        raise UserError(
            f"the certificate is of another space: {certificate.space}, {certificate.problems} problems; this task "
            f"has {here.description}, {here.size} problems"
        )
    _require(certificate.assumptions == ASSUMPTIONS, "its assumptions are not those under which it is checked")
    _require(certificate.architecture == repr(network.config), "its architecture in words is another one")
    _require(
        bool(certificate.counterexample) == (certificate.verdict == "refuted"),
        f"its verdict is {certificate.verdict}, and it holds {'a' if certificate.counterexample else 'no'} "
        "counterexample",
    )
    if certificate.verdict == "refuted":
        _check_counterexample(certificate, network)
    if not certificate.parts and certificate.method != "exhaustive":
        searched = (certificate.method, certificate.verdict) == ("search", "unknown")
        _require(searched or certificate.verdict == "refuted", "its parts are not all of the space: it has none")
        _require(certificate.proven == 0, "it has no parts, and nothing is proven")
        return
    _require(certificate.method != "search", "a search proves nothing")
    found = _Exhaustive(network, here) if certificate.method == "exhaustive" else _Bounds(network)
    _require([part["part"] for part in certificate.parts] == found.parts, "its parts are not all of the space")
    least = []
    for i, part in enumerate(certificate.parts):
        watch(i, len(found.parts))
        least.append(found.check(part))
        _require(_close(part["margin"], least[-1][0]), f"part {part['part']} has margin {least[-1][0]:.4f}")
        _require(_close(part["slack"], least[-1][1]), f"part {part['part']} has slack {least[-1][1]:.4f}")
    margin, slack = (min(values) for values in zip(*least, strict=True))
    _require(_close(certificate.margin, margin), f"the least margin is {margin:.4f}, not {certificate.margin}")
    _require(_close(certificate.slack, slack), f"the least slack is {slack:.4f}, not {certificate.slack}")
    _require(certificate.verdict != "proven" or slack > 0, f"the verdict does not follow from a slack of {slack:.4f}")
    _require(certificate.proven <= found.proven(certificate.parts) + 1e-12, "less of the space is proven")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise UserError(f"the certificate does not hold: {what}")


def _close(claimed: float, computed: float) -> bool:
    """Return whether a claim is at most what is computed here, and not far below it."""
    if not math.isfinite(computed):
        return claimed == NOTHING
    return -1e-6 <= computed - claimed <= _TOLERANCE * (1 + abs(computed)) or computed < claimed == NOTHING


def _check_counterexample(certificate: Certificate, network: Network) -> None:
    example, sizes, task = certificate.counterexample, network.model.sizes, network.task
    tokens = lambda name, count: isinstance(example.get(name), list) and np.shape(example[name]) == (count,)
    _require(tokens("inputs", sizes.length) and tokens("correct", len(sizes.read)), "its counterexample is damaged")
    inputs = np.asarray([example["inputs"]])
    if isinstance(task, Listed):
        numbers = task.numbers(inputs[:, : task.operands])
        batch = task.batch(np.asarray(numbers, np.int32), network.data.shared)
    else:
        assert isinstance(task, Addition)  # No other task has a space.
        answer = np.zeros((1, task.answer_length), int)
        question = np.concatenate([inputs[:, : sizes.read[0] + 1], answer], axis=1)
        batch = task.batch(jnp.clip(task.decode(jnp.asarray(question))[0], 0, task.base - 1))
    _require(np.array_equal(batch.inputs, inputs), "its counterexample is no problem of the space")
    _require(batch.targets[0].tolist() == example["correct"], "its correct answer is not correct")
    found = exhaustive.described(network, inputs, np.asarray(batch.targets))
    _require(found["wrong"], "the network is correct on the problem that is said to refute it")
    _require(found == example, f"the network says {found['says']}: {found['words']}")


def _logits(network: Network, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits at the scored positions in float64 and in float32, `[B, R, C]`, by the plain pass."""
    read = list(network.model.sizes.read)
    if not isinstance(network.config, Transformer):
        computed = forward.logits(network.params, network.model, inputs)
        return computed.value, np.asarray(network(inputs))
    single = np.asarray(_plain(network.params, network.model, inputs))[:, read]
    with jax.enable_x64(True):
        params = jax.tree.map(lambda w: np.asarray(w, np.float64), network.params)
        double = np.asarray(_plain(params, network.model, inputs))[:, read]
    return double, single


def _within(single: np.ndarray, double: np.ndarray, allowed: np.ndarray) -> bool:
    """Return whether float32 logits are near exact ones; they may be no numbers where any error is allowed."""
    with np.errstate(invalid="ignore"):
        return bool((np.isinf(allowed) | (np.abs(single - double) <= allowed)).all())


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
            double, single = _logits(self.network, inputs)
            allowed = forward.logits(self.network.params, self.network.model, inputs).error
            _require(_within(single, double, allowed), "float32 errs by more than is allowed for it")
            at = np.arange(double.shape[-1]) == targets[..., None]
            own, own_allowed = (np.where(at, x, 0).sum(axis=-1, keepdims=True) for x in (double, allowed))
            lead = np.where(at, np.inf, own - double)
            slacks = np.where(np.isfinite(lead) | at, lead - own_allowed - allowed, -np.inf).min(axis=(1, 2))
            self.open += int((~(slacks > 0)).sum())
            margin = min(margin, float(np.where(np.isnan(lead), -np.inf, lead).min()))
            slack = min(slack, float(slacks.min()))
        return margin, slack

    def proven(self, parts: Any) -> float:
        """Return the fraction of the space that is proven, after all parts were checked."""
        return 1 - self.open / self.space.size


class _Leaf(NamedTuple):
    """A case that is not divided: the tokens of the digits that are fixed, by position, and the claimed bound."""

    fixed: tuple[tuple[int, int], ...]
    target: int
    bound: float


class _Bounds:
    """Bounds of all cases of an addition, computed directly."""

    def __init__(self, network: Network):
        self.network, self.task = network, cast(Addition, network.task)
        self.config = cast(Transformer, network.config)
        covered = (
            isinstance(network.task, Addition)
            and (self.task.target, self.task.answer_order, self.task.operands) == ("sequential", "lsd", 2)
            and (self.config.layers, self.config.norm, self.config.attention_mix) == (1, "none", 1)
            and (not self.config.d_mlp or (self.config.mlp, self.config.activation) == ("plain", "relu"))
            and self.config.attention == "causal"
        )
        _require(covered, "bounds do not cover this network")
        self.parts = [[k] for k in range(self.task.answer_length)]
        self.names = {
            name: i for i, name in enumerate(self.task.position_names) if name[-1].isdigit() and name != "0"
        }
        tokens = np.asarray(self.task.encode(jnp.zeros((2, self.task.digits), jnp.int32)))
        self.tokens = tokens
        self.rounded = forward.float64(network.params)
        self.stream = forward.embedded(self.config, self.rounded, network.model)
        numbers = self.config.numbered(network.model.sizes)
        self.heads = forward.queries_keys_values(self.config, self.rounded["blocks.0"], self.stream, numbers)
        with jax.enable_x64(True):
            self._read_network()
        self._compare()

    def _read_network(self) -> None:
        """Compute, with the functions of the plain pass, what attention reads of every token at every position."""
        config = self.config
        params = jax.tree.map(lambda w: jax.device_put(np.asarray(w, np.float64)), self.network.params)
        length, vocabulary = self.network.model.sizes.length, self.network.model.sizes.vocabulary or 0
        numbers = jnp.asarray(config.numbered(self.network.model.sizes))
        x = jnp.broadcast_to(params["embed"]["W_E"][:, None], (vocabulary, length, config.d_model))
        if config.positions == "learned":
            x = x + params["pos_embed"]["W_pos"][None]
        attn = params["blocks.0"]["attn"]
        q, k, v = (
            plain.einsum("btd,hdk->bhtk", x, attn[f"W_{name}"])
            + (attn[f"b_{name}"][None, :, None] if config.attention_bias else 0)
            for name in "QKV"
        )
        if config.qk_norm:
            with jax.numpy_rank_promotion("allow"):
                q, k = (plain.scaled(config, attn.get(f"{n}_norm"), y) for n, y in (("q", q), ("k", k)))
        if config.positions == "rope":
            with jax.numpy_rank_promotion("allow"):
                q, k = plain.rotated(config, q, numbers), plain.rotated(config, k, numbers)
        scores = plain.einsum("uhqk,vhpk->uvhqp", q, k) / math.sqrt(config.head_width)
        self.scores = np.array(scores)
        if config.positions == "alibi":
            slope = np.asarray(plain.slopes(config.heads))[:, None, None]
            self.scores -= slope * np.abs(np.subtract.outer(numbers, numbers))
        self.written = np.asarray(plain.einsum("vhpk,hkd->hpvd", v, attn["W_O"]))
        self.x = np.asarray(x)
        self.params = jax.tree.map(np.asarray, params)
        mlp, unembed = self.params["blocks.0"].get("mlp", {}), self.params["unembed"]
        wide = (config.d_model, config.d_mlp)
        self.w_in, self.b_in = mlp.get("W_in", np.zeros(wide)), mlp.get("b_in", np.zeros(wide[1]))
        self.w_out, self.b_out = mlp.get("W_out", np.zeros(wide[::-1])), mlp.get("b_out", np.zeros(wide[0]))
        self.w_u, self.b_u = unembed["W_U"], unembed.get("b_U", np.zeros(unembed["W_U"].shape[1]))
        self.b_o = attn.get("b_O", np.zeros(wide[0]))
        self.b_o = np.asarray(self.b_o)

    def _compare(self) -> None:
        """Compare what is computed from these tables with the plain pass on random problems."""
        problems = self.task.draw(jax.random.key(0), _SAMPLE)
        inputs = np.asarray(self.task.batch(problems).inputs)
        expected, single = _logits(self.network, inputs)
        for i, read in enumerate(self.network.model.sizes.read):
            at = np.arange(read + 1)
            score = self.scores[inputs[:, read, None], inputs[:, : read + 1], :, read, at]  # [B, P, H]
            weight = np.exp(score - score.max(axis=1, keepdims=True))
            weight /= weight.sum(axis=1, keepdims=True)
            written = self.written[:, at, inputs[:, : read + 1]]  # [H, B, P, D]
            x = self.x[inputs[:, read], read] + self.b_o + np.einsum("bph,hbpd->bd", weight, written)
            post = np.maximum(x @ self.w_in + self.b_in, 0)
            logits = (x + post @ self.w_out + self.b_out) @ self.w_u + self.b_u
            _require(bool(np.allclose(logits, expected[:, i], atol=1e-8)), "the tables are not those of the network")
        allowed = forward.logits(self.network.params, self.network.model, inputs).error
        _require(_within(single, expected, allowed), "float32 errs by more than is allowed for it")

    def proven(self, parts: Any) -> float:
        """Return the fraction of the space that is proven, by the weights of the open cases that are claimed."""
        return 1 - sum(max(0.0, part["open_weight"]) for part in parts)

    # --- cases -----------------------------------------------------------------------------------------------

    def check(self, part: dict[str, Any]) -> tuple[float, float]:
        """Return the least bound and slack of an answer digit, and check every bound that is claimed."""
        (digit,) = part["part"]
        bounds, slacks = [], []
        for own, leaves in self._leaves(digit, part["bounds"]):
            by_positions = lambda leaf: tuple(p for p, _ in leaf.fixed)
            for positions, some in itertools.groupby(sorted(leaves, key=by_positions), key=by_positions):
                group = list(some)
                tokens = np.asarray([[t for _, t in leaf.fixed] for leaf in group]).reshape(len(group), -1)
                targets = np.asarray([leaf.target for leaf in group])
                bound, slack = self._bound(digit, own, positions, tokens, targets)
                for leaf, value in zip(group, bound, strict=True):
                    _require(
                        _close(leaf.bound, value),
                        f"the bound of A{digit} with {self._words(leaf.fixed)} is {value:.4f}, not {leaf.bound}",
                    )
                bounds.append(bound.min())
                slacks.append(slack.min())
        return float(min(bounds)), float(min(slacks))

    def _words(self, fixed: tuple[tuple[int, int], ...]) -> str:
        names = self.task.position_names
        return " ".join(f"{names[p]}={t}" for p, t in fixed)

    def _leaves(self, digit: int, listed: dict[str, Any]) -> Iterator[tuple[int, list[_Leaf]]]:
        """Yield the leaves by the token that is read, after checking that they are all cases of the digit."""
        base, adds = self.task.base, self.task.operation == "add"
        cases: dict[int, list[tuple[tuple[tuple[int, int], ...], int, int]]] = {}
        here = itertools.product(range(base), repeat=2) if digit < self.task.digits else [(0, 0)]
        below = itertools.product(range(base), repeat=2) if digit else [(0, 0)]
        columns = list(here)
        for a, b in below:
            for carry in range(2 if adds and digit > 1 else 1):
                answer, out = (a + b + carry) % base, (a + b + carry) // base if adds else 0
                fixed = []
                if digit:
                    fixed = [(self._at("a", digit - 1), a), (self._at("b", digit - 1), b)]
                    fixed.append((self._at("A", digit - 1), answer))
                own = answer if digit else int(self.tokens[self.network.model.sizes.read[0]])
                for c, d in columns:
                    more = [(self._at("a", digit), c), (self._at("b", digit), d)] if digit < self.task.digits else []
                    cases.setdefault(own, []).append(((*fixed, *more), (c + d + out) % base, carry))
        _require(set(listed) == set(map(str, cases)), f"the cases of A{digit} are not all there")
        for own in sorted(cases):
            trees = listed[str(own)]
            _require(len(trees) == len(cases[own]), f"the cases of A{digit} after {own} are not all there")
            leaves: list[_Leaf] = []
            for tree, (fixed, target, carry) in zip(trees, cases[own], strict=True):
                leaves += self._expand(digit, tree, fixed, target, carry)
            yield own, leaves

    def _expand(self, digit: int, tree: Any, fixed: tuple, target: int, carry: int) -> Iterator[_Leaf]:
        if not isinstance(tree, list):
            _require(isinstance(tree, float | int), f"{self._words(fixed)} has no bound")
            yield _Leaf(tuple(sorted(fixed)), target, tree)
            return
        _require(len(tree) == 2 and isinstance(tree[1], list), "a split is no position with its bounds")
        position, parts = tree
        _require(position in self.names.values() and len(parts) == self.task.base, "a split is not over all digits")
        _require(position not in dict(fixed), "a digit is split twice")
        for token, part in enumerate(parts):
            wider = (*fixed, (position, token))
            if part is None:
                _require(not self._possible(digit, dict(wider), carry), f"{self._words(wider)} is left out")
            else:
                yield from self._expand(digit, part, wider, target, carry)

    def _possible(self, digit: int, known: dict[int, int], carry: int) -> bool:
        """Return whether some problem has these digits and this carry into column `digit` - 1."""
        carries = {0}
        for column in range(digit - 1):
            a, b, answer = (known.get(self._at(name, column)) for name in ("a", "b", "A"))
            if a is None or b is None:
                carries = {0, 1}
                continue
            sums = {a + b + c for c in carries if answer is None or (a + b + c) % self.task.base == answer}
            carries = {s // self.task.base if self.task.operation == "add" else 0 for s in sums}
        return carry in carries

    def _at(self, name: str, column: int) -> int:
        return self.names[f"{name}{column}"]

    # --- bounds ----------------------------------------------------------------------------------------------

    def _bound(
        self, digit: int, own: int, positions: tuple[int, ...], tokens: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the bound of the least margin and its slack, `[C]`, of cases that fix the same positions."""
        read = self.network.model.sizes.read[digit]
        free = [p for p in sorted(self.names.values()) if p < read and p not in positions]
        wide = (self.config.d_mlp + self.task.base) * max(1, len(free)) * self.task.base
        step = max(1, _AT_ONCE // wide)
        parts = [
            self._bound_some(read, own, free, positions, tokens[i : i + step], targets[i : i + step])
            for i in range(0, len(targets), step)
        ]
        bounds, slacks = (np.concatenate(x) for x in zip(*parts, strict=True))
        return bounds, slacks

    def _bound_some(
        self,
        read: int,
        own: int,
        free: list[int],
        positions: tuple[int, ...],
        tokens: np.ndarray,
        targets: np.ndarray,
    ) -> tuple[np.ndarray, np.ndarray]:
        base, vocabulary = self.task.base, self.scores.shape[1]
        possible = np.zeros((read + 1, vocabulary), bool)
        places = [p for p in range(read + 1) if p not in free]
        at = np.empty((len(targets), len(places)), int)
        for i, p in enumerate(places):
            at[:, i] = own if p == read else tokens[:, positions.index(p)] if p in positions else self.tokens[p]
        for p in range(read + 1):
            digits = p in self.names.values() and p != read
            possible[p] = (
                np.arange(vocabulary) < base
                if digits
                else np.arange(vocabulary) == (own if p == read else self.tokens[p])
            )
        score = self.scores[own, :, :, read, : read + 1].transpose(1, 2, 0)  # [H, P, V]
        score = np.where(possible, score, -np.inf)
        e = np.exp(score - score.max(axis=(1, 2), keepdims=True))
        relative, allowance = forward.allowances(
            self.config, self.rounded, self.stream, self.heads, read, own, possible
        )
        e_fixed = e[:, places, at].transpose(1, 0, 2)  # [C, H, P]
        o_fixed = self.written[:, places, at].transpose(1, 0, 2, 3)
        e_free, o_free = e[:, free, :base], self.written[:, free, :base]
        reach = _Reach(e_fixed, o_fixed, e_free, o_free, relative, rounding.gamma(read + 4))
        stream = self.x[own, read] + self.b_o

        neurons = np.broadcast_to(self.w_in.T, (len(targets), *self.w_in.T.shape))
        low, high, wobble = reach.extremes(neurons)
        start = stream @ self.w_in + self.b_in
        low, high = low + start - wobble, high + start + wobble
        rivals = np.asarray([[j for j in range(base) if j != y] for y in targets])
        lead = self.w_u.T[targets][:, None] - self.w_u.T[rivals]  # [C, J, D]
        gain = lead @ self.w_out.T
        width = np.where(high > low, high - low, 1)
        rising = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, high / width))
        lower = np.where(low >= 0, 1.0, np.where(high <= 0, 0.0, (high > -low).astype(float)))
        slope = np.where(gain < 0, rising[:, None], lower[:, None])
        shift = np.where((low < 0) & (high > 0), -rising * low, 0)
        constant = (np.minimum(gain, 0) * shift[:, None]).sum(axis=-1) + (gain * slope) @ self.b_in
        constant += lead @ self.b_out + self.b_u[targets][:, None] - self.b_u[rivals]
        direction = lead + (gain * slope) @ self.w_in.T
        least, _, wobble = reach.extremes(direction)
        margin = constant + direction @ stream + least
        slack = margin - wobble - allowance[targets][:, None] - allowance[rivals]
        margin, slack = (np.where(np.isfinite(margin), x, -np.inf) for x in (margin, slack))
        rows, worst = np.arange(len(targets)), slack.argmin(axis=1)
        return margin[rows, worst], slack[rows, worst]


class _Reach(NamedTuple):
    """What attention can write: the fixed positions of every case, and tables of the free ones.

    Attributes:
      e_fixed, o_fixed: `[C, H, P]` and `[C, H, P, D]`.
      e_free, o_free: `[H, P, V]` and `[H, P, V, D]`.
      relative: `[H]`, the relative error of float32 weights.
      normalised: how far the sum of float32 weights may be from 1.
    """

    e_fixed: np.ndarray
    o_fixed: np.ndarray
    e_free: np.ndarray
    o_free: np.ndarray
    relative: np.ndarray
    normalised: float

    def extremes(self, w: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return bounds of w·(what all heads write), and what errors of weights change in it: `[C, W]` each.

        Args:
          w: directions, `[C, W, D]`.
        """
        cases, directions, _ = w.shape
        fixed_weight = self.e_fixed.sum(axis=-1)  # [C, H]
        lightest = fixed_weight + self.e_free.min(axis=-1).sum(axis=-1)
        heaviest = fixed_weight + self.e_free.max(axis=-1).sum(axis=-1)
        lightest, heaviest = (np.where(lightest < _LIGHTEST, np.nan, x) for x in (lightest, heaviest))
        low, high, wobble, error, base, alone_low, alone_high = (np.zeros((cases, directions)) for _ in range(7))
        joint = np.zeros((cases, directions, *self.e_free.shape[1:]))
        for h in range(len(self.e_free)):
            e, light, heavy = self.e_free[h], lightest[:, h, None], heaviest[:, h, None]
            value = np.tensordot(w, self.o_free[h], axes=(2, 2))  # [C, W, P, V]
            seen = np.einsum("cwd,cpd->cwp", w, self.o_fixed[:, h])
            weight = self.e_fixed[:, h, None]
            average = (weight * seen).sum(axis=-1) + (e * value).mean(axis=-1).sum(axis=-1)
            average /= (fixed_weight[:, h] + e.mean(axis=-1).sum())[:, None]
            off = e * (value - average[..., None, None])
            rest = (weight * (seen - average[..., None])).sum(axis=-1)
            bottom, top = rest + off.min(axis=-1).sum(axis=-1), rest + off.max(axis=-1).sum(axis=-1)
            alone_low += np.minimum(bottom / light, bottom / heavy)
            alone_high += np.maximum(top / light, top / heavy)
            scale = 2 / (light + heavy)
            joint += scale[..., None, None] * off
            base += scale * rest
            error += scale * (heavy - light) / (2 * light) * np.maximum(np.abs(bottom), np.abs(top))
            far = (weight * np.abs(seen - average[..., None])).sum(axis=-1) + np.abs(off).max(axis=-1).sum(axis=-1)
            wobble += self.relative[h] * far / light + self.normalised * np.abs(average)
            low += average
            high += average
        together = base + joint.min(axis=-1).sum(axis=-1) - error, base + joint.max(axis=-1).sum(axis=-1) + error
        return low + np.maximum(alone_low, together[0]), high + np.minimum(alone_high, together[1]), wobble
