"""Sound bounds on the margins of a one-layer transformer that adds numbers of any length.

An answer digit is decided by few digits (`columns`), which are enumerated. All other digits are free, and only the
attention of the one layer sees them: the output of a head is Σ_p e_p o_p / Σ_p e_p over positions p, where
e = exp(score) and o = W_O W_V x depend on the position and its token alone, for a given token at the position read.
For a direction w let m be the mean of w·o over the fixed positions, of total weight A. Then

    w·(output) = m + Σ_free e_p (w·o_p - m) / (A + Σ_free e_p),

whose extremes over the free digits are bounded by those of each position: the numerator by the sum over positions of
its extremes over tokens, the denominator by the sums of the least and largest e_p. Heads are bounded one by one in
this way, and also together: what one digit adds to all heads is summed before the extremes are taken, with the
reciprocal of each denominator replaced by one number and its largest error. The second way matters most: heads of
trained networks attend to neighbouring columns with weights of 5 %, and the neurons read combinations of heads in
which the neighbours cancel.

This bounds every neuron's input. Between its bounds a ReLU lies between two lines (Wong & Kolter 2018; CROWN, Zhang
et al. 2018), so the margin over a rival digit is at least a linear function of what attention writes, which is one
more direction, bounded in the same way. Where the bound of a case is too low, the digit that costs most is enumerated
as well, up to a budget. Axes: C cases, J rivals, H heads, P positions, V digits, F neurons, D model.
"""

import math
from typing import Any, NamedTuple, cast

import numpy as np

from jaxadd.analysis.certificates import columns, forward, rounding
from jaxadd.analysis.certificates.certificate import rounded_down
from jaxadd.analysis.certificates.columns import Cases
from jaxadd.errors import UserError
from jaxadd.models import Network, Transformer
from jaxadd.tasks import Addition

BUDGET = 100_000  # Cases of one answer digit, those of splits among them.
CLOSED = 1e-3  # Nats of slack from which on a case is proven and not split, well above what is rounded down.
_OPEN, _DRAWN = 128, 32  # Cases that stay open of which problems are drawn, and problems of each.
_KNOTS = 65
_LIGHTEST = 1e-290  # A case whose weights are all below it has no bound: float64 holds them with few digits.
_AT_ONCE = 2_000_000  # Elements of an array of cases, rivals and neurons.


class Tables(NamedTuple):
    """What attention reads at one position, given the token there.

    Attributes:
      e: `[H, P, V]`, exp(score), divided by the largest of the head.
      o: `[H, P, V, D]`, what the head writes where it attends to that position and token alone.
      stream: `[D]`, the rest of the stream: the token itself and the bias of the output.
      relative: `[H]`, bound on the relative error of float32 attention weights.
      allowance: `[classes]`, bound on the error of a float32 logit from everything else, over all problems.
    """

    e: np.ndarray
    o: np.ndarray
    stream: np.ndarray
    relative: np.ndarray
    allowance: np.ndarray


def check_covered(network: Network) -> None:
    """Raise UserError where the bounds do not cover a network: one line that says what is covered."""
    if not isinstance(network.task, Addition):
        raise UserError(f"the bounds cover addition, and {network.task.question} is enumerated; leave --method out")
    columns.check_covered(network.task)
    config = network.config
    if not isinstance(config, Transformer):
        raise UserError(f"the bounds cover transformers, got {type(config).__name__}")
    beyond = {
        f"{config.layers} layers": config.layers != 1,
        f"norm {config.norm}": config.norm != "none",
        f"a {config.mlp} MLP": config.d_mlp > 0 and config.mlp != "plain",
        f"activation {config.activation}": config.d_mlp > 0 and config.activation != "relu",
        f"attention_mix {config.attention_mix:g}": config.attention_mix != 1,
    }
    if found := [name for name, there in beyond.items() if there]:
        raise UserError(
            "the bounds cover one layer with softmax attention, an MLP of relu neurons or none, and no norms; this "
            f"network has {' and '.join(found)}"
        )


class Bounds:
    """Bounds on all margins of one network, one answer digit at a time.

    Attributes:
      parts: the answer digits, as `(k,)`.
    """

    def __init__(self, network: Network, budget: int = BUDGET):
        """Compute what depends on single tokens; the network is covered (`check_covered`)."""
        self.task = cast(Addition, network.task)
        self.config, self.model = cast(Transformer, network.config), network.model
        self.budget = budget
        self._open: list[tuple[Cases, np.ndarray]] = []  # That the last `examine` left open, and their slacks.
        self.params = forward.float64(network.params)
        self.block = self.params["blocks.0"]
        self.parts = [(k,) for k in range(self.task.answer_length)]
        self.layout = columns.layout(self.task)
        self.stream = forward.embedded(self.config, self.params, self.model)
        self.heads = forward.queries_keys_values(
            self.config, self.block, self.stream, self.config.numbered(self.model.sizes)
        )
        w_u = self.params["unembed"]["W_U"]
        d, f = self.config.d_model, self.config.d_mlp
        mlp = self.block.get("mlp", {})
        self.w_in = mlp.get("W_in", np.zeros((d, f)))
        self.b_in = mlp.get("b_in", np.zeros(f))
        out, b_out = mlp.get("W_out", np.zeros((f, d))), mlp.get("b_out", np.zeros(d))
        bias = b_out @ w_u + self.params["unembed"].get("b_U", 0)
        # [Y, J, ·]: the correct logit minus that of each rival.
        base = self.task.base
        rivals = np.asarray([[j for j in range(base) if j != y] for y in range(base)])
        self.rivals = rivals
        self.direct = w_u.T[:, None] - w_u.T[rivals]
        through = (out @ w_u).T
        self.through = through[:, None] - through[rivals]
        self.bias = bias[:, None] - bias[rivals]

    # --- one answer digit ------------------------------------------------------------------------------------

    def examine(self, part: tuple[int]) -> dict[str, Any]:
        """Return the bounds of all cases of an answer digit, as plain data.

        Returns:
          "part"; "problems": the number of cases, with those of splits; "margin" and "slack": the least of all cases,
          nats, rounded down; "where": the case with the least slack; "open": the number of cases that are not proven;
          "open_weight": the fraction of all problems in them; "allowance": nats, the largest, None where there is no
          bound; "bounds": by the token that is read, a bound for each case, or `[position, bounds]` where the digit
          at a position was enumerated; None stands for a case that cannot occur.
        """
        self.spent, self._open = 0, []
        margin, slack, worst, open_cases, open_weight, allowance = math.inf, math.inf, "", 0, 0.0, 0.0
        listed = {}
        for group in columns.cases(self.task, part[0]):
            tables = self.tables(part[0], group.own)
            trees, bounds, slacks = self._explore(group, tables)
            listed[str(group.own)] = trees
            failed = ~(slacks > CLOSED)
            open_cases += int(failed.sum())
            open_weight += float(group.weight[failed].sum())
            allowance = max(allowance, 2 * float(tables.allowance.max()))
            margin = min(margin, float(bounds.min()))
            if slacks.min() < slack:
                slack = float(slacks.min())
                worst = self.in_words(group, int(slacks.argmin()))
        return {
            "part": list(part),
            "problems": self.spent,
            "margin": rounded_down(margin),
            "slack": rounded_down(slack),
            "where": worst,
            "open": open_cases,
            "open_weight": open_weight,
            "allowance": allowance if math.isfinite(allowance) else None,
            "bounds": listed,
        }

    def candidates(self) -> np.ndarray:
        """Return problems of the worst cases left open by the last `examine`, int32 `[B, 2, N]`: possible errors."""
        rng, drawn = np.random.default_rng(0), [np.zeros((0, 2, self.task.digits), np.int32)]
        slacks = np.sort(np.concatenate([slacks for _, slacks in self._open] or [np.zeros(0)]))
        for group, own in self._open:
            worst = group.take(np.flatnonzero(own <= slacks[:_OPEN].max()))
            drawn.append(columns.problems(self.task, worst, rng, _DRAWN))
        return np.concatenate(drawn)

    def fraction(self, parts: list[dict[str, Any]]) -> float:
        """Return the fraction of problems that is proven: all of their digits are in proven cases."""
        if [part["part"] for part in parts] != [list(part) for part in self.parts]:
            return 0.0
        return max(0.0, 1 - sum(part["open_weight"] for part in parts))

    def _explore(self, group: Cases, tables: Tables) -> tuple[list[Any], np.ndarray, np.ndarray]:
        """Return the tree, the least bound and the least slack of every case, `[C]`."""
        if not len(group.target):  # No problem has the digits that were fixed.
            return [], np.zeros(0), np.zeros(0)
        self.spent += len(group.target)
        bounds, slacks, costs = self.bound(group, tables)
        trees: list[Any] = [rounded_down(bound) for bound in bounds]
        failed = np.flatnonzero(~(slacks > CLOSED))
        if not failed.size:
            return trees, bounds, slacks
        if not costs.shape[1] or self.spent + len(failed) * self.task.base > self.budget:
            self._open.append((group.take(failed), slacks[failed]))
            return trees, bounds, slacks
        free = self._free(group)
        choice = costs[failed].argmax(axis=1)
        for index in np.unique(choice):
            some, position = failed[choice == index], free[index]
            deeper, number = columns.split(self.task, group.take(some), position)
            sub_trees, sub_bounds, sub_slacks = self._explore(deeper, tables)
            for row, case in zip(number, some, strict=True):
                there = row[row >= 0]
                trees[case] = [position, [None if i < 0 else sub_trees[i] for i in row]]
                bounds[case] = sub_bounds[there].min(initial=math.inf)
                slacks[case] = sub_slacks[there].min(initial=math.inf)
        return trees, bounds, slacks

    def _free(self, group: Cases) -> list[int]:
        """Return the positions that are seen and hold a free digit."""
        last = self.model.sizes.read[group.digit]
        digits = [*self.layout.operands.ravel().tolist(), *self.layout.answers.tolist()]
        return [p for p in sorted(digits) if p <= last and p not in group.positions]

    def in_words(self, group: Cases, case: int) -> str:
        """Return a case, such as "A3: a2=1 b2=8 A2=9 a3=4 b3=5"."""
        names = self.task.position_names
        known = " ".join(f"{names[p]}={t}" for p, t in zip(group.positions, group.tokens[case], strict=True))
        return f"A{group.digit}: {known}"

    # --- one group of cases ----------------------------------------------------------------------------------

    def tables(self, digit: int, own: int) -> Tables:
        """Return what attention reads where answer digit `digit` is computed, given the token at that position."""
        read = self.model.sizes.read[digit]
        seen = read + 1
        s = forward.scores_of_tokens(self.config, self.heads, read, own).value
        possible = self._possible(seen, own, s.shape[-1])
        s = np.where(possible, s, -np.inf)
        top = s.max(axis=(1, 2), keepdims=True)
        o = np.einsum("vphk,hkd->hpvd", self.heads.v.value[:, :seen], self.block["attn"]["W_O"])
        stream = self.stream.value[own, read] + self.block["attn"].get("b_O", 0)
        relative, allowance = forward.allowances(
            self.config, self.params, self.stream, self.heads, read, own, possible[0]
        )
        return Tables(np.exp(s - top), o, stream, relative, allowance)

    def _possible(self, seen: int, own: int, vocabulary: int) -> np.ndarray:
        """Return which tokens may be at each position that is seen, bool `[1, P, V]`."""
        possible = np.zeros((1, seen, vocabulary), bool)
        possible[..., : self.task.base] = True
        for position, token in {**self.layout.constants, seen - 1: own}.items():
            if position < seen:
                possible[:, position] = np.arange(vocabulary) == token
        return possible

    def bound(self, group: Cases, tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a lower bound of the least margin of every case and its slack, `[C]`, and the costs `[C, free]`."""
        width = len(self.rivals[0]) * max(self.config.d_mlp, self.config.d_model, 10 * len(self._free(group)))
        step = max(1, _AT_ONCE // width)
        parts = [
            self._bound(group.take(np.arange(i, min(i + step, len(group.target)))), tables)
            for i in range(0, len(group.target), step)
        ]
        bounds, slacks, costs = (np.concatenate(part) for part in zip(*parts, strict=True))
        return bounds, slacks, costs

    def _bound(self, group: Cases, tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        attention = self._attention(group, tables)
        count, (base, width) = len(group.target), (self.task.base, tables.o.shape[-1])
        low, high, wobble = self._inputs(attention, tables)
        low, high = low - wobble, high + wobble
        lines = self.through[group.target]  # [C, J, F]
        # Comparisons would take a neuron that is NaN as never active.
        unbounded = ~np.isfinite(low + high).all(axis=1)
        unstable = (low < 0) & (high > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            chord = np.where(unstable, high / (high - low), high > 0)
        below = np.where(unstable, high > -low, high > 0)
        slope = np.where(lines < 0, chord[:, None], below[:, None]) * lines
        offset = (np.minimum(lines, 0) @ (-chord * np.where(unstable, low, 0))[..., None])[..., 0]
        direction = self.direct[group.target] + slope @ self.w_in.T  # [C, J, D]
        margin = self.bias[group.target] + offset + slope @ self.b_in + direction @ tables.stream

        a, rivals = attention, direction.shape[1]
        along = lambda x: np.einsum("cjd,chd->hcj", direction, x)
        centre, rest = along(a.centre), along(a.rest)
        least, most, scale, spread = (x.T[..., None] for x in (a.least, a.most, a.scale, a.spread))  # [H, C, 1]
        joint = np.zeros((count, rivals, base, a.e.shape[2]))
        normalised = rounding.gamma(tables.e.shape[1] + 3)
        separate, size, wobble = (np.zeros((count, rivals)) for _ in range(3))
        for h in range(len(a.e)):
            weighted = (a.e[h, ..., None] * a.o[h]).reshape(-1, width)  # [V P, D]
            terms = (direction.reshape(-1, width) @ weighted.T).reshape(joint.shape)
            terms -= centre[h][..., None, None] * a.e[h]
            lowest, highest = terms.min(axis=-2), terms.max(axis=-2)  # [C, J, P]
            under, above = rest[h] + lowest.sum(axis=-1), rest[h] + highest.sum(axis=-1)
            separate += under / np.where(under < 0, least[h], most[h])
            size += spread[h] * scale[h] * np.maximum(np.abs(under), np.abs(above))
            far = np.maximum(highest, -lowest).sum(axis=-1)
            for p in range(a.fixed_e.shape[2]):
                there = (direction @ a.fixed_o[:, h, p, :, None])[..., 0] - centre[h]
                far += a.fixed_e[:, h, p, None] * np.abs(there)
            wobble += tables.relative[h] * (far / least[h]) + normalised * np.abs(centre[h])
            terms *= scale[h][..., None, None]
            joint += terms
        lowest = joint.min(axis=-2)
        together = (scale * rest).sum(axis=0) + lowest.sum(axis=-1) - size
        margin += centre.sum(axis=0) + np.maximum(separate, together)
        costs = joint.max(axis=-2) - lowest
        allowed = tables.allowance[group.target][:, None] + tables.allowance[self.rivals[group.target]]
        margin = np.where(unbounded[:, None], -np.inf, margin)
        slack = np.where(np.isfinite(margin), margin - allowed - wobble, -np.inf)
        worst = slack.argmin(axis=1)[:, None]
        pick = lambda x: np.take_along_axis(x, worst, axis=1)[:, 0]
        bounds = np.where(np.isfinite(pick(margin)), pick(margin), -np.inf)
        return bounds, pick(slack), costs[np.arange(count), worst[:, 0]]

    def _attention(self, group: Cases, tables: Tables) -> "Attention":
        e, o, free = tables.e, tables.o, self._free(group)
        read = self.model.sizes.read[group.digit]
        constant = {p: t for p, t in self.layout.constants.items() if p <= read} | {read: group.own}
        fixed = dict(zip(group.positions, group.tokens.T, strict=True))
        count = len(group.target)
        tokens = {p: np.broadcast_to(t, (count,)) for p, t in {**constant, **fixed}.items()}
        fixed_e = np.stack([e[:, p][:, t].T for p, t in tokens.items()], axis=2)  # [C, H, P]
        fixed_o = np.stack([o[:, p][:, t].swapaxes(0, 1) for p, t in tokens.items()], axis=2)
        total, written = fixed_e.sum(axis=2), np.einsum("chp,chpd->chd", fixed_e, fixed_o)
        base = self.task.base
        # Tokens before positions: NumPy takes extremes over few tokens of many positions much faster.
        e_free, o_free = (x[:, free, :base].swapaxes(1, 2) for x in (e, o))
        least, most = (total + x.sum(axis=-1) for x in (e_free.min(axis=1), e_free.max(axis=1)))  # [C, H]
        least, most = (np.where(least < _LIGHTEST, np.nan, x) for x in (least, most))
        usual = e_free.mean(axis=1).sum(axis=-1)
        moved = (e_free[..., None] * o_free).mean(axis=1).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            centre = (written + moved) / (total + usual)[..., None]
            # A case without a bound must leave the others theirs: the centres of all are looked up together.
            centre = np.where(np.isfinite(centre), centre, 0)
            scale, spread = 2 / (least + most), (most - least) / 2 / least
        rest = written - centre * total[..., None]
        return Attention(e_free, o_free, fixed_e, fixed_o, centre, rest, least, most, scale, spread)

    def _inputs(self, attention: "Attention", tables: Tables) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return bounds of the inputs of all neurons and what float32 weights may change in them, `[C, F]` each.

        The largest numerator of one head is a convex function of the centre, computed at some knots; between them the
        chord is above it.
        """
        a = attention
        start = tables.stream @ self.w_in + self.b_in
        count, neurons = len(a.centre), len(start)
        middle = np.broadcast_to(start, (count, neurons)).copy()
        above, under, size, rests, wobble = (np.zeros((count, neurons)) for _ in range(5))
        normalised = rounding.gamma(tables.e.shape[1] + 3)
        centres, values = [], []
        for h in range(len(a.e)):
            m, rest = a.centre[:, h] @ self.w_in, a.rest[:, h] @ self.w_in  # [C, F]
            g = np.einsum("vpd,df->fvp", a.o[h], self.w_in)
            begin, end = m.min(axis=0), m.max(axis=0)
            knots = begin + np.linspace(0, 1, _KNOTS)[:, None] * (end - begin)  # [G, F]
            terms = a.e[h] * (g - knots[..., None, None])  # [G, F, V, P]
            lowest, highest = terms.min(axis=-2), terms.max(axis=-2)
            with np.errstate(divide="ignore", invalid="ignore"):
                place = np.where(end > begin, (m - begin) / (end - begin), 0) * (_KNOTS - 1)
            left = np.clip(np.floor(place), 0, _KNOTS - 2).astype(int)
            part, neuron = place - left, np.arange(neurons)
            at = lambda x: x[left, neuron] * (1 - part) + x[left + 1, neuron] * part  # noqa: B023
            up, down = rest + at(highest.sum(axis=-1)), rest + at(lowest.sum(axis=-1))
            far = at(np.maximum(highest, -lowest).sum(axis=-1))
            for p in range(a.fixed_e.shape[2]):
                far += a.fixed_e[:, h, p, None] * np.abs(a.fixed_o[:, h, p] @ self.w_in - m)
            wobble += tables.relative[h] * far / a.least[:, h, None] + normalised * np.abs(m)
            middle += m
            above += up / np.where(up > 0, a.least[:, h, None], a.most[:, h, None])
            under += down / np.where(down < 0, a.least[:, h, None], a.most[:, h, None])
            size += (a.spread * a.scale)[:, h, None] * np.maximum(np.abs(up), np.abs(down))
            rests += a.scale[:, h, None] * rest
            centres.append(a.scale[:, h, None] * m)
            values.append(a.e[h] * g)
        shape = (count, *a.e.shape[1:])
        for f in range(neurons):
            terms = (a.scale @ np.stack([v[f].ravel() for v in values])).reshape(shape)
            terms -= (np.stack([c[:, f] for c in centres], axis=1) @ a.e.reshape(len(a.e), -1)).reshape(shape)
            together = terms.max(axis=-2).sum(axis=-1), terms.min(axis=-2).sum(axis=-1)
            above[:, f] = np.minimum(above[:, f], rests[:, f] + together[0] + size[:, f])
            under[:, f] = np.maximum(under[:, f], rests[:, f] + together[1] - size[:, f])
        return middle + under, middle + above, wobble


class Attention(NamedTuple):
    """What attention writes in a group of cases: for head h, centre + (rest + Σ_free e (o - centre)) / total weight.

    Attributes:
      e, o: of the free positions, `[H, V, P]` and `[H, V, P, D]`.
      fixed_e, fixed_o: of the fixed positions, `[C, H, P]` and `[C, H, P, D]`.
      centre: `[C, H, D]`, what the head writes for average free digits.
      rest: `[C, H, D]`, Σ_fixed e (o - centre).
      least, most: `[C, H]`, the least and the largest total weight.
      scale: `[C, H]`, the reciprocal of a total weight between them.
      spread: `[C, H]`, the largest relative difference between `scale` and the reciprocal of a total weight.
    """

    e: np.ndarray
    o: np.ndarray
    fixed_e: np.ndarray
    fixed_o: np.ndarray
    centre: np.ndarray
    rest: np.ndarray
    least: np.ndarray
    most: np.ndarray
    scale: np.ndarray
    spread: np.ndarray
