"""The bounds of a certificate, computed again in a direct way: without interpolation, one direction like another.

The cases are enumerated here too, digit by digit, and have to cover every problem. What attention reads of every
token is computed with the functions of the plain pass. Axes: C cases, H heads, P positions, V tokens, D model.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.analysis.certificates import forward, rounding
from jaxadd.analysis.certificates.check_after import After, Margins
from jaxadd.analysis.certificates.check_claims import close, logits, require, within
from jaxadd.analysis.certificates.rounding import Rounded
from jaxadd.models import Network, Transformer, plain
from jaxadd.models.attention import slopes
from jaxadd.tasks import Addition

_LIGHTEST = 1e-290  # Weights below it are held by float64 with few digits.
_SAMPLE = 64
_AT_ONCE = 4_000_000  # Elements.


class _Leaf(NamedTuple):
    """A case that is not divided: the tokens of the digits that are fixed, by position, and the claimed bound."""

    fixed: tuple[tuple[int, int], ...]
    target: int
    bound: float


class Bounds:
    """Bounds of all cases of an addition, computed directly."""

    def __init__(self, network: Network):
        self.network, self.task = network, cast(Addition, network.task)
        self.config = cast(Transformer, network.config)
        covered = (
            isinstance(network.task, Addition)
            and (self.task.target, self.task.answer_order, self.task.operands) == ("sequential", "lsd", 2)
            and (self.config.layers, self.config.attention_mix) == (1, 1)
            and self.config.attention == "causal"
        )
        require(covered, "bounds do not cover this network")
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
        numbers = np.asarray(config.numbered(self.network.model.sizes))
        x = jnp.broadcast_to(params["embed"]["W_E"][:, None], (vocabulary, length, config.d_model))
        if config.positions == "learned":
            x = x + params["pos_embed"]["W_pos"][None]
        block = params["blocks.0"]
        attn, y = block["attn"], x
        if config.norm_where != "post":
            with jax.numpy_rank_promotion("allow"):
                y = plain.normalized(config, block.get("ln1"), x)
        q, k, v = (
            plain.einsum("btd,hdk->bhtk", y, attn[f"W_{name}"])
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
            slope = np.asarray(slopes(config.heads))[:, None, None]
            self.scores -= slope * np.abs(np.subtract.outer(numbers, numbers))
        self.written = np.asarray(plain.einsum("vhpk,hkd->hpvd", v, attn["W_O"]))
        self.x = np.asarray(x)
        self.after = After(config, jax.tree.map(np.asarray, params), self.task.base)

    def _compare(self) -> None:
        """Compare what is computed from these tables with the plain pass on random problems."""
        problems = self.task.draw(jax.random.key(0), _SAMPLE)
        inputs = np.asarray(self.task.batch(problems).inputs)
        expected, single = logits(self.network, inputs)
        for i, read in enumerate(self.network.model.sizes.read):
            at = np.arange(read + 1)
            score = self.scores[inputs[:, read, None], inputs[:, : read + 1], :, read, at]  # [B, P, H]
            weight = np.exp(score - score.max(axis=1, keepdims=True))
            weight /= weight.sum(axis=1, keepdims=True)
            written = self.written[:, at, inputs[:, : read + 1]]  # [H, B, P, D]
            out = np.einsum("bph,hbpd->bd", weight, written)
            found = self.after.logits(self.x[inputs[:, read], read], out)
            require(
                bool(np.allclose(found, expected[:, i], rtol=1e-10, atol=1e-10)),
                "the tables are not those of the network",
            )
        allowed = forward.logits(self.network.params, self.network.model, inputs).error
        require(within(single, expected, allowed), "float32 errs by more than is allowed for it")

    def proven(self, parts: Any) -> float:
        """Return the fraction of the space that is proven, by the weights of the open cases that are claimed."""
        return max(0.0, 1 - sum(max(0.0, part["open_weight"]) for part in parts))

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
                    require(
                        close(leaf.bound, value),
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
        require(set(listed) == set(map(str, cases)), f"the cases of A{digit} are not all there")
        for own in sorted(cases):
            trees = listed[str(own)]
            require(len(trees) == len(cases[own]), f"the cases of A{digit} after {own} are not all there")
            leaves: list[_Leaf] = []
            for tree, (fixed, target, carry) in zip(trees, cases[own], strict=True):
                leaves += self._expand(digit, tree, fixed, target, carry)
            yield own, leaves

    def _expand(self, digit: int, tree: Any, fixed: tuple, target: int, carry: int) -> Iterator[_Leaf]:
        if not isinstance(tree, list):
            require(isinstance(tree, float | int), f"{self._words(fixed)} has no bound")
            yield _Leaf(tuple(sorted(fixed)), target, tree)
            return
        require(len(tree) == 2 and isinstance(tree[1], list), "a split is no position with its bounds")
        position, parts = tree
        require(position in self.names.values() and len(parts) == self.task.base, "a split is not over all digits")
        require(position not in dict(fixed), "a digit is split twice")
        for token, part in enumerate(parts):
            wider = (*fixed, (position, token))
            if part is None:
                require(not self._possible(digit, dict(wider), carry), f"{self._words(wider)} is left out")
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
        width = max(self.config.d_mlp, self.config.d_model)
        wide = (width + self.task.base) * max(1, len(free)) * self.task.base + width**2
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
        relative, out = forward.errors_of_attention(self.config, self.rounded, self.heads, read, own, possible)
        e_fixed = e[:, places, at].transpose(1, 0, 2)  # [C, H, P]
        o_fixed = self.written[:, places, at].transpose(1, 0, 2, 3)
        e_free, o_free = e[:, free, :base], self.written[:, free, :base]
        reach = _Reach(e_fixed, o_fixed, e_free, o_free, relative, rounding.gamma(read + 4))
        stream = self.stream.map(lambda y: y[own, read])

        def extremes(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            low, high, wobble = reach.extremes(np.broadcast_to(w, (len(targets), *w.shape)))
            return low - wobble, high + wobble

        lines = self.after.lines(self.x[own, read], targets, extremes, out.error)
        least, _, wobble = reach.extremes(lines.direction)
        margin = lines.constant + least
        flat = lines.floor > margin - wobble
        margin, wobble = np.where(flat, lines.floor, margin), np.where(flat, 0, wobble)
        slack = margin - wobble - self._allowed(stream, out, targets, lines)
        known = np.isfinite(margin) & ~np.isnan(slack)
        margin, slack = (np.where(known, x, -np.inf) for x in (margin, slack))
        rows, worst = np.arange(len(targets)), slack.argmin(axis=1)
        return margin[rows, worst], slack[rows, worst]

    def _allowed(self, stream: Rounded, out: Rounded, targets: np.ndarray, lines: Margins) -> np.ndarray:
        """Return what float32 may err by in every margin but by attention weights, `[C, J]`."""
        error = np.zeros(1)
        if lines.box is None:
            out = out.map(lambda y: y[None])
        else:
            # What float32 writes is in this interval, and its errors move the margin along the direction.
            error, (centre, radius) = np.abs(lines.direction) @ out.error, lines.box
            out = rounding.exact(centre)._replace(radius=radius)
        stream = stream.map(lambda y: np.broadcast_to(y, out.value.shape))
        x = forward.attended(self.config, self.rounded["blocks.0"], stream, out)
        return error + forward.error_of_margins(self.config, self.rounded, x, targets, self.task.base)


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
