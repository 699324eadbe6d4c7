"""N-digit addition in any base: one digit of the sum or all of them, in sequence or in parallel."""

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd import losses
from jaxadd.analysis import answers, floors
from jaxadd.analysis.carries import CLASSES, Carries, answer_length, carries
from jaxadd.errors import UserError, check_choices
from jaxadd.tasks.sampling import check_batch_size, choose
from jaxadd.tasks.task import Batch, Data, Predict, Sizes

_NUMERALS = string.digits + string.ascii_lowercase
_MAX_BASE = 1024  # Pairs of digits are listed.
_DATA = 2**31  # Folded into a lane's key to draw its fixed problems.
_MAX_LISTED = 2**20  # Problem spaces up to here are shuffled whole, larger ones are drawn from.


@dataclass(frozen=True)
class Mixture:
    """Where operands come from: the weights of three kinds of problems."""

    uniform: float = 1.0
    """weight of problems with independent, uniform digits"""
    enriched: float = 0.0
    """weight of problems in which some columns are forced to sum to base - 1"""
    cascades: float = 0.0
    """weight of problems with a forced carry cascade: a column that carries, then columns of sum base - 1"""
    enriched_share: float = 0.4
    """share of the columns that is forced in an enriched problem"""
    cascade_length: int | None = None
    """columns of sum base - 1 in a forced cascade; None draws any length that fits"""
    cascade_start: int | None = None
    """column in which a forced cascade begins, 0 is the units; None draws any place that fits"""

    def __post_init__(self) -> None:
        if not all(math.isfinite(w) and w >= 0 for w in self.weights) or sum(self.weights) == 0:
            raise UserError(f"the weights of a mixture must be at least 0 and one above 0, got {self.weights}")
        if not 0 <= self.enriched_share <= 1:
            raise UserError(f"enriched_share must be from 0 to 1, got {self.enriched_share}")
        for name in ("cascade_length", "cascade_start"):
            if (value := getattr(self, name)) is not None and value < 0:
                raise UserError(f"{name} must be at least 0, got {value}")

    @property
    def weights(self) -> tuple[float, float, float]:
        """Give the weights of uniform, enriched and cascade problems."""
        return self.uniform, self.enriched, self.cascades


@dataclass(frozen=True)
class Addition:
    """Add zero-padded numbers of N digits: `12345+67890=080235` in tokens, with N + 1 answer digits.

    Tokens: the digits are their own values, `+` is base, `=` is base + 1, and `?` is base + 2. The answer is read
    at `=` and the tokens after it. What the network sees there is the target's choice:

    - sequential: the answer digits so far (teacher forcing), as in a language model;
    - parallel: `?` in every place, so no answer digit is ever seen;
    - single: nothing follows `=`, where one chosen digit is predicted.

    Nanda et al. 2023 train five digits sequentially, most significant digit first. A_k is the answer digit of
    column k, A_0 the units.
    """

    digits: int = 5
    """digits N of each operand"""
    base: int = 10
    """of the numerals, at least 2"""
    operands: int = 2
    """numbers added, M"""
    target: Literal["sequential", "parallel", "single"] = "sequential"
    """what the network sees of the answer while it predicts it"""
    digit: int = 0
    """of target "single": the answer digit predicted, 0 is the units"""
    answer_order: Literal["msd", "lsd"] = "msd"
    """the answer digit that comes first, the most or the least significant"""
    operand_order: Literal["msd", "lsd"] = "msd"
    """the operand digit that comes first"""
    operation: Literal["add", "digitwise"] = "add"
    """digitwise: addition mod base in every column, without carries (the control); N answer digits"""
    mixture: Mixture = field(default_factory=Mixture)
    """where the train problems come from; test problems are uniform"""
    finite: int | None = None
    """number of distinct train problems in a fixed set; None draws fresh ones every step"""
    batch_size: int | None = 256
    """problems per step; None takes the whole finite set"""
    test_examples: int = 1024
    """uniform test problems, distinct from the train problems of a finite set"""
    cascade_examples: int = 128
    """test problems of each cascade length, forced from the units on"""

    def __post_init__(self) -> None:
        check_choices(self)
        for name, least, most in (
            ("digits", 1, 1000),
            ("base", 2, _MAX_BASE),
            ("operands", 2, 1000),
            ("test_examples", 1, 10**7),
            ("cascade_examples", 1, 10**7),
        ):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name} must be from {least} to {most}, got {getattr(self, name)}")
        if not 0 <= self.digit < self.answer_length:
            raise UserError(
                f"digit must be one of the {self.answer_length} answer digits, from 0 (units) to "
                f"{self.answer_length - 1}, got {self.digit}"
            )
        if self.digit and self.target != "single":
            raise UserError(f"digit is for target single only; target {self.target} predicts all digits")
        length, start = self.mixture.cascade_length or 0, self.mixture.cascade_start or 0
        if length + start >= self.digits:
            raise UserError(
                f"a cascade of length {length} from column {start} needs columns 0 to {start + length}, "
                f"and there are {self.digits} digits"
            )
        if self.finite is None:
            if self.batch_size is None or self.batch_size < 1:
                raise UserError(
                    f"fresh problems come in batches of at least 1, got batch_size {self.batch_size}; "
                    "None needs a finite set"
                )
        else:
            if self.finite >= 2**24:
                raise UserError(
                    f"finite must be below 2**24, got {self.finite}; None draws fresh problems every step"
                )
            if not 1 <= self.finite < self.space:
                raise UserError(
                    f"finite must be at least 1 and leave some to test on: there are {self._many} different ones, "
                    f"got {self.finite}"
                )
            check_batch_size(self.batch_size, self.finite)

    @property
    def space(self) -> int:
        """Count the different problems."""
        return self.base ** (self.operands * self.digits)

    @property
    def _many(self) -> str:
        return f"{self.space:,}" if self.space < 10**9 else f"{self.base}**{self.operands * self.digits}"

    @property
    def answer_length(self) -> int:
        """Count the digits A of an answer."""
        return answer_length(self.digits, self.base, self.operands, self.operation == "add")

    @property
    def read_digits(self) -> tuple[int, ...]:
        """Give the answer digit predicted at each position read, `(5, 4, 3, 2, 1, 0)` for five digits."""
        if self.target == "single":
            return (self.digit,)
        places = range(self.answer_length)
        return tuple(reversed(places) if self.answer_order == "msd" else places)

    @property
    def _question(self) -> int:
        return self.operands * (self.digits + 1)

    @property
    def sizes(self) -> Sizes:
        """Give the sizes that a model for this task needs."""
        first, read = self._question - 1, len(self.read_digits)
        return Sizes(
            length=first + read,
            classes=self.base,
            vocabulary=self.base + (3 if self.target == "parallel" else 2),
            read=tuple(range(first, first + read)),
            autoregressive=self.target == "sequential",
        )

    @property
    def title(self) -> str:
        """Name the task in a few words, for figures."""
        what = f"digit A{self.digit} alone" if self.target == "single" else self.target
        order = f", {self.answer_order} first" if len(self.read_digits) > 1 else ""
        kind = "addition" if self.operation == "add" else "digit-wise addition without carries"
        size = f"{self.operands} × " if self.operands > 2 else ""
        finite = "" if self.finite is None else f", {self.finite:,} problems"
        return f"{size}{self.digits}-digit {kind}, base {self.base}, {what}{order}{finite}"

    # --- problems ------------------------------------------------------------------------------------------

    def features(self, operands: jax.Array) -> Carries:
        """Tell the carry features of problems, int `[..., M, N]`, units first."""
        return carries(operands, self.base, carry=self.operation == "add")

    def floors(self, digit: int) -> dict[str, float]:
        """List the exact loss levels at which an answer digit may be expected to pause; see `floors.ladder`."""
        return floors.ladder(
            digit,
            digits=self.digits,
            base=self.base,
            operands=self.operands,
            carry=self.operation == "add",
            target=self.target,
            order=self.answer_order,
        )

    def draw(self, key: jax.Array, count: int, mixture: Mixture | None = None) -> jax.Array:
        """Draw problems of a mixture, by default the task's own.

        Args:
          key: a typed key.
          count: B.
          mixture: overrides the task's.

        Returns:
          int32 `[B, M, N]`, operand digits, units first.
        """
        mixture = self.mixture if mixture is None else mixture
        kind_key, digit_key, enriched_key, cascade_key = jax.random.split(key, 4)
        operands = self._random_digits(digit_key, (count, self.operands, self.digits))
        if mixture.enriched == mixture.cascades == 0:
            return operands
        total = sum(mixture.weights)
        place = jax.random.uniform(kind_key, (count, 1, 1)) * total
        if mixture.cascades:
            forced = self._force_cascade(cascade_key, operands, mixture.cascade_length, mixture.cascade_start)
            operands = jnp.where(place >= total - mixture.cascades, forced, operands)
        if mixture.enriched:
            mask_key, digit_key = jax.random.split(enriched_key)
            mask = jax.random.bernoulli(mask_key, float(mixture.enriched_share), (count, 1, self.digits))
            mask &= (place >= mixture.uniform) & (place < total - mixture.cascades)
            operands = jnp.where(mask, self._propagating(digit_key, operands.shape), operands)
        return operands

    def _random_digits(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        # Half the price of randint, and uniform to 2**-23.
        return jnp.floor(jax.random.uniform(key, shape) * self.base).astype(jnp.int32)

    def _propagating(self, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        """Draw digits `[B, M, N]` whose columns sum to base - 1: the gaps between M - 1 sorted cuts."""
        batch, count, digits = shape
        cuts = jnp.sort(self._random_digits(key, (batch, count - 1, digits)), axis=1)
        return jnp.diff(cuts, axis=1, prepend=0, append=self.base - 1)

    def _force_cascade(self, key: jax.Array, operands: jax.Array, length: int | None, start: int | None) -> jax.Array:
        """Replace columns of `[B, M, N]` so that each problem has a cascade of exactly this length there.

        The first two operands make it, the others are 0 in its columns: one column generates a carry,
        `length` columns pass it on, and the next one, if there is one, does not. With more than two operands that
        holds from the units on; a carry of 2 from columns below may lengthen a cascade that starts higher.
        """
        length_key, start_key, generate_key, propagate_key, stop_key = jax.random.split(key, 5)
        batch = operands.shape[0]
        if length is None:
            length = jax.random.randint(length_key, (batch, 1), 0, self.digits - (start or 0))
        if start is None:
            start = jax.random.randint(start_key, (batch, 1), 0, self.digits - length)
        a, b = np.divmod(np.arange(self.base**2), self.base)

        def pairs(key: jax.Array, wanted: np.ndarray) -> jax.Array:
            table = jnp.asarray(np.stack([a, b])[:, wanted], jnp.int32)
            return table[:, jax.random.randint(key, (batch, self.digits), 0, table.shape[1])]

        column = jnp.arange(self.digits)
        first, second = jnp.where(
            column == start,
            pairs(generate_key, a + b >= self.base),
            jnp.where(
                column <= start + length,
                pairs(propagate_key, a + b == self.base - 1),
                pairs(stop_key, a + b != self.base - 1),
            ),
        )
        rest = jnp.zeros((batch, self.operands - 2, self.digits), jnp.int32)
        forced = jnp.concatenate([first[:, None], second[:, None], rest], axis=1)
        inside = jnp.broadcast_to((column >= start) & (column <= start + length + 1), (batch, self.digits))
        return jnp.where(inside[:, None], forced, operands)

    def cascade(self, key: jax.Array, count: int, length: int, start: int = 0) -> jax.Array:
        """Draw otherwise uniform problems, int32 `[B, M, N]`, with a forced cascade of one length and place."""
        if not 0 <= start <= start + length < self.digits:
            raise UserError(f"a cascade of length {length} from column {start} does not fit {self.digits} digits")
        return self.draw(key, count, Mixture(uniform=0, cascades=1, cascade_length=length, cascade_start=start))

    # --- tokens --------------------------------------------------------------------------------------------

    def encode(self, operands: jax.Array, answer: jax.Array | None = None) -> jax.Array:
        """Write whole problems as tokens.

        Args:
          operands: int `[..., M, N]`, digits, units first.
          answer: int `[..., A]`, digits, units first; the right one by default.

        Returns:
          int32 `[..., M (N + 1) + A]`, in the task's orders.
        """
        chex.assert_axis_dimension(operands, -1, self.digits)
        chex.assert_axis_dimension(operands, -2, self.operands)
        answer = self.features(operands).answer if answer is None else answer
        shown = operands[..., ::-1] if self.operand_order == "msd" else operands
        signs = [self.base] * (self.operands - 1) + [self.base + 1]
        signs = jnp.broadcast_to(jnp.asarray(signs, jnp.int32)[:, None], (*shown.shape[:-1], 1))
        question = jnp.concatenate([shown, signs], axis=-1).reshape(*shown.shape[:-2], self._question)
        return jnp.concatenate([question, answer[..., ::-1] if self.answer_order == "msd" else answer], axis=-1)

    def decode(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Read whole problems back: the inverse of `encode`.

        Args:
          tokens: int `[..., M (N + 1) + A]`.

        Returns:
          operands `[..., M, N]` and answer `[..., A]`, digits, units first.
        """
        chex.assert_axis_dimension(tokens, -1, self._question + self.answer_length)
        answer = tokens[..., self._question :]
        return self._decode_question(tokens), answer[..., ::-1] if self.answer_order == "msd" else answer

    def _decode_question(self, tokens: jax.Array) -> jax.Array:
        shape = (*tokens.shape[:-1], self.operands, self.digits + 1)
        operands = tokens[..., : self._question].reshape(shape)[..., :-1]
        return operands[..., ::-1] if self.operand_order == "msd" else operands

    def batch(self, operands: jax.Array) -> Batch:
        """Write problems `[B, M, N]` as the tokens that the network sees, `[B, T]`, and targets `[B, R]`."""
        tokens = self.encode(operands)
        question, answer = tokens[:, : self._question], tokens[:, self._question :]
        if self.target == "single":
            return Batch(question, self.features(operands).answer[:, self.digit, None])
        seen = answer[:, :-1] if self.target == "sequential" else jnp.full_like(answer[:, :-1], self.base + 2)
        return Batch(jnp.concatenate([question, seen], axis=1), answer)

    # --- text ----------------------------------------------------------------------------------------------

    def text(self, operands: np.ndarray, answer: np.ndarray) -> str:
        """Print one problem, such as "12345+67890=080235": most significant digit first, whatever the order.

        Args:
          operands: int `[M, N]`, digits, units first.
          answer: int `[A]`, digits, units first.

        Digits above 9 are a, b, c …; beyond base 36 digits are decimal numbers between colons.
        """
        return "+".join(map(self._numeral, operands)) + "=" + self._numeral(answer)

    def _numeral(self, digits: Sequence[int]) -> str:
        shown = [int(d) for d in reversed(digits)]
        if self.base > len(_NUMERALS):
            return ":".join(map(str, shown))
        return "".join(_NUMERALS[d] for d in shown)

    def parse(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Read one problem; the inverse of `text`. Without an answer ("12345+67890=") it is worked out.

        Returns:
          operands int32 `[M, N]` and answer int32 `[A]`, digits, units first.

        Raises:
          ValueError: the text is no such problem, or a number has the wrong width.
        """
        left, _, right = text.partition("=")
        parts, right = [part.strip() for part in left.split("+")], right.strip()
        if len(parts) != self.operands:
            raise UserError(f"expected {self.operands} numbers joined by + as in {self._example}, got {text!r}")
        operands = np.stack([self._digits(part, self.digits, text) for part in parts])
        if right:
            return operands, self._digits(right, self.answer_length, text)
        return operands, np.asarray(self.features(operands).answer)

    def _digits(self, numeral: str, width: int, text: str) -> np.ndarray:
        wide = self.base > len(_NUMERALS)
        shown = numeral.split(":") if wide else list(numeral)
        known = {str(d) if wide else _NUMERALS[d]: d for d in range(self.base)}
        if len(shown) != width or any(d not in known for d in shown):
            raise UserError(
                f"expected {width} digits of base {self.base} where {numeral!r} stands in {text!r}; "
                f"a problem looks like {self._example}, padded with zeros"
            )
        return np.array([known[d] for d in reversed(shown)], np.int32)

    @property
    def _example(self) -> str:
        operands = np.arange(self.operands * self.digits).reshape(self.operands, -1) % self.base
        return self.text(operands, np.asarray(self.features(operands).answer))

    def describe(self, inputs: np.ndarray, target: np.ndarray, claim: np.ndarray) -> str:
        """Put one answer into words: "12345+67890: claims 080135, is 080235 (wrong in A2; 3 carries …)"."""
        operands = np.asarray(self._decode_question(inputs))
        facts = self.features(operands)
        wrong = ", ".join(f"A{k}" for k, t, c in zip(self.read_digits, target, claim, strict=True) if t != c)
        order = np.argsort(self.read_digits)
        said, right = (self._numeral(np.asarray(digits)[order]) for digits in (claim, target))
        question = "+".join(map(self._numeral, operands))
        count, cascade = int(facts.count), int(facts.cascade)
        carried = f"{count} carr{'y' if count == 1 else 'ies'}, longest cascade {cascade}" if count else "no carry"
        outcome = f"is {right} (wrong in {wrong}; " if wrong else "rightly ("
        return f"{question}: claims {said}, {outcome}{carried})"

    # --- data ----------------------------------------------------------------------------------------------

    def data(self, seeds: Sequence[int]) -> Data:
        """Draw the fixed problems of each lane.

        Returns:
          `lane` holds int32 digits, units first: "test" `[S, n, M, N]`, uniform; "cascades" `[S, N, n, M, N]`,
          by length, from the units on; and "train" `[S, finite, M, N]` where the train set is finite.
        """
        lanes = [self._lane_data(jax.random.key(seed)) for seed in seeds]
        return Data({}, jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes))

    def _lane_data(self, key: jax.Array) -> dict[str, jax.Array]:
        # A place of its own: split(key)[i] is fold_in(key, i), and the trainer has taken the first of those.
        train_key, test_key, cascade_key = jax.random.split(jax.random.fold_in(key, _DATA), 3)
        keys = jax.random.split(cascade_key, self.digits)
        forced = jnp.stack([self.cascade(k, self.cascade_examples, n) for n, k in enumerate(keys)])
        if self.finite is None:
            return {"test": self.draw(test_key, self.test_examples, Mixture()), "cascades": forced}
        train = self._distinct(train_key, self.finite, self.mixture)
        count = min(self.test_examples, self.space - self.finite)
        return {
            "train": jnp.asarray(train),
            "test": jnp.asarray(self._distinct(test_key, count, Mixture(), without=train)),
            "cascades": forced,
        }

    def _distinct(
        self, key: jax.Array, count: int, mixture: Mixture, without: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw different problems, int32 `[count, M, N]`, none of them among those of `without`."""
        found = np.zeros((0, self.operands, self.digits), np.int32) if without is None else without
        before = len(found)
        if self.space <= _MAX_LISTED and mixture.enriched == mixture.cascades == 0:
            numbers = np.asarray(jax.random.permutation(key, self.space))[:, None]
            places = self.base ** np.arange(self.operands * self.digits)
            rounds = iter([(numbers // places % self.base).reshape(-1, *found.shape[1:])])
        else:
            rounds = (np.asarray(self.draw(jax.random.fold_in(key, i), 2 * count + 64, mixture)) for i in range(64))
        for more in rounds:
            together = np.concatenate([found, more.astype(np.int32)])
            _, first = np.unique(together.reshape(len(together), -1), axis=0, return_index=True)
            found = together[np.sort(first)]
            if len(found) >= before + count:
                return found[before : before + count]
        raise UserError(
            f"only {len(found) - before} different problems were found in a mixture that should give {count}; "
            "ask for fewer or widen the mixture"
        )

    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        """Draw the batch of `step`: inputs `[B, T]`, targets `[B, R]`."""
        if self.finite is None:
            return self.batch(self.draw(jax.random.fold_in(key, step), self.batch_size))
        chosen = choose(jnp.arange(self.finite), key, step, self.batch_size)
        return self.batch(data.lane["train"][chosen])

    def test_batch(self, data: Data) -> Batch:
        """Give the uniform test problems: inputs `[n, T]`, targets `[n, R]`."""
        return self.batch(data.lane["test"])

    # --- what is recorded at an evaluation -----------------------------------------------------------------

    def measure(self, data: Data, batch: Batch, logits: jax.Array, predict: Predict) -> dict[str, jax.Array]:
        """Compute what is recorded of the test problems beside loss and accuracy.

        Digits come in the order in which they are read; see `read_digits`. NaN where no problem counts.

        Returns:
          of the uniform test problems: "digit_loss" and "digit_accuracy" `[R]`, teacher-forced;
          "free_digit_accuracy" `[R]` (target sequential), fed with its own greedy answers; everything in
          `answers.split` `[R]`; "loss_by_carry" `[R, ·]`, the loss by the carry into the digit; "accuracy_by_class"
          `[6]`, exact match by carry class; "offset" `[R, base]`, mean probability by offset from the naive digit;
          "confusion" `[R, base, base]`, mean probability of each digit, by true digit.
          Of the forced cascades, by length: "accuracy_by_cascade" `[N]`, exact match, and
          "digit_accuracy_by_cascade" `[N, R]`.
        """
        facts = self.features(data.lane["test"])
        at = np.asarray(self.read_digits)
        naive, carry = facts.naive[:, at], facts.carry_in[:, at]
        candidates = min(self.operands, self.base) if self.operation == "add" else 1
        forced = data.lane["cascades"]
        forced_batch = self.batch(forced.reshape(-1, *forced.shape[2:]))
        by_cascade = answers.correct(predict(forced_batch.inputs), forced_batch.targets)
        by_cascade = by_cascade.reshape(*forced.shape[:2], -1)  # [N, n, R]
        loss = losses.cross_entropy(logits, batch.targets)
        measured = {
            "digit_loss": jnp.mean(loss, axis=0),
            "digit_accuracy": jnp.mean(answers.correct(logits, batch.targets), axis=0),
            **answers.split(logits, naive, carry, candidates),
            "loss_by_carry": answers.mean_by(loss, carry, self.operands).T,
            "accuracy_by_class": answers.mean_by(
                answers.exact_match(logits, batch.targets), facts.kind, len(CLASSES)
            ),
            "accuracy_by_cascade": jnp.mean(jnp.min(by_cascade, axis=-1), axis=1),
            "digit_accuracy_by_cascade": jnp.mean(by_cascade, axis=1),
            "offset": answers.offset_from_naive(logits, naive),
            "confusion": answers.confusion(logits, batch.targets),
        }
        if self.target == "sequential":
            free = answers.free_run(predict, batch.inputs, self.sizes.read)
            measured["free_digit_accuracy"] = jnp.mean(free == batch.targets, axis=0)
        return measured
