"""N-digit addition in any base: one digit of the sum or all of them, in sequence or in parallel."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.optim import losses, scores
from jaxadd.tasks.addition import floors, numerals
from jaxadd.tasks.addition.carries import CLASSES, Carries, answer_length, carries
from jaxadd.tasks.addition.mixtures import Curriculum, Mixture, cascades_of_every_length
from jaxadd.tasks.sampling import check_batch_size, choose
from jaxadd.tasks.task import Task
from jaxadd.types import Batch, Data, Predict, Sizes

_MAX_BASE = 1024  # All pairs of digits are enumerated.
_DATA = 2**31  # Folded into the key of a lane to draw its fixed problems.


@dataclass(frozen=True)
class Addition(Task):
    """Add zero-padded numbers of N digits: `12345+67890=080235` in tokens, with N + 1 answer digits.

    Tokens: the digits are their own values, `+` is base, `=` is base + 1, and `?` is base + 2. The answer is read
    at `=` and the tokens after it. With separators zero-signs, the digit 0 is in the place of `+` and `=`; with
    zeros, each operand stands between two digits 0. In both, `?` is base. The target determines what the network sees
    at the answer:

    - sequential: the previous answer digits (teacher forcing), as in a language model;
    - parallel: `?` at every position, so that no answer digit is visible;
    - single: nothing follows `=`, where one chosen digit is predicted.

    Nanda et al. 2023 train five digits sequentially, most significant digit first. A_k is the answer digit of
    column k, A_0 the units.
    """

    digits: int = 5
    """number of digits of each operand, N"""
    base: int = 10
    """base of the numerals, at least 2"""
    operands: int = 2
    """number of operands that are added, M"""
    target: Literal["sequential", "parallel", "single"] = "sequential"
    """what the network sees of the answer: sequential, previous digits; parallel, only ?; single, no digit"""
    digit: int = 0
    """answer digit that is predicted, 0 for the units; target single only"""
    answer_order: Literal["msd", "lsd"] = "msd"
    """which answer digit comes first, the most or the least significant"""
    operand_order: Literal["msd", "lsd"] = "msd"
    """which operand digit comes first, the most or the least significant"""
    separators: Literal["signs", "zeros", "zero-signs"] = "signs"
    """what separates numbers: signs, + and =; zeros, the digit 0 before and after each operand (AdderBoard); or
    zero-signs, the digit 0 in the place of + and ="""
    operation: Literal["add", "digitwise"] = "add"
    """add, or digitwise: the control without carries, addition mod base in every column, N answer digits"""
    mixture: Mixture = field(default_factory=Mixture)
    """mixture of train problems; test problems are uniform"""
    curriculum: Curriculum = field(default_factory=Curriculum)
    """how fresh train problems change over the steps"""
    finite: int | None = None
    """number of distinct problems in a fixed train set; None draws new problems every step"""
    batch_size: int | None = 256
    """problems per step; None takes the whole fixed train set"""
    test_examples: int = 1024
    """number of uniform test problems, none of them in a fixed train set"""
    cascade_examples: int = 128
    """number of test problems of each cascade length, with the cascade forced from the units on"""

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
        self.mixture.check_fits(self.digits)
        if self.mixture.problems:
            self.mixture.table((self.operands, self.digits), self.base)
        if any(length > self.digits for length in self.curriculum.lengths):
            raise UserError(
                f"the curriculum has operands longer than {self.digits} digits: {self.curriculum.lengths}"
            )
        if self.finite is not None and self.curriculum != Curriculum():
            raise UserError("a curriculum is for fresh problems, and this train set is fixed; leave finite at None")
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
                    f"finite must be at least 1 and leave problems to test on: there are {self._space_text} "
                    f"different problems, got {self.finite}"
                )
            check_batch_size(self.batch_size, self.finite)

    def of_length(self, digits: int) -> "Addition":
        """Return addition of numbers of so many digits; its problems are fresh and uniform."""
        fresh = {"mixture": Mixture(), "curriculum": Curriculum(), "finite": None, "batch_size": self.batch_size or 1}
        return replace(self, digits=digits, **fresh)  # type: ignore[arg-type]

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        uniform = replace(self.mixture, uniform=1.0) == Mixture()
        fade = dict.fromkeys(("curriculum.fade_begin", "curriculum.fade_end"), "a mixture that is not uniform")
        order = {"answer_order": "targets of several digits"} if self.target == "single" else {}
        return (fade if uniform else {}) | order

    @property
    def space(self) -> int:
        """The number of different problems."""
        return self.base ** (self.operands * self.digits)

    @property
    def _space_text(self) -> str:
        return f"{self.space:,}" if self.space < 10**9 else f"{self.base}**{self.operands * self.digits}"

    @property
    def answer_length(self) -> int:
        """The number of digits of an answer, A."""
        return answer_length(self.digits, self.base, self.operands, self.operation == "add")

    @property
    def read_digits(self) -> tuple[int, ...]:
        """The answer digit predicted at each scored position, such as `(5, 4, 3, 2, 1, 0)` for five digits."""
        if self.target == "single":
            return (self.digit,)
        columns = range(self.answer_length)
        return tuple(reversed(columns) if self.answer_order == "msd" else columns)

    @property
    def _question_length(self) -> int:
        return self.operands * (self._before + self.digits + 1)

    @property
    def _before(self) -> int:
        """The number of tokens before each operand."""
        return 1 if self.separators == "zeros" else 0

    @property
    def _signs(self) -> tuple[str, ...]:
        """The names of the tokens that are no digits."""
        return (*(("+", "=") if self.separators == "signs" else ()), *(("?",) if self.target == "parallel" else ()))

    @property
    def sizes(self) -> Sizes:
        """The sizes that a model for this task is built from."""
        first, read = self._question_length - 1, len(self.read_digits)
        return Sizes(
            length=first + read,
            classes=self.base,
            vocabulary=self.base + len(self._signs),
            read=tuple(range(first, first + read)),
            autoregressive=self.target == "sequential",
            places=self._places,
        )

    @property
    def _places(self) -> tuple[int, ...]:
        """The place of each input position: 1 for the units, 0 and N + 1 for zeros around a number, 0 for a sign.

        The token at which the answer begins has the place before that of the first answer digit, so that every answer
        digit is read as far from its own place.
        """
        digits = [0, *range(1, self.digits + 1), self.digits + 1]
        if not self._before:
            digits[0] = digits[-1] = 0
        if self.operand_order == "msd":
            digits.reverse()
        question = digits[1 - self._before :] * self.operands
        first, step = self.read_digits[0] + 1, 1 if self.answer_order == "lsd" else -1
        return (*question[:-1], first - step, *(digit + 1 for digit in self.read_digits[:-1]))

    @property
    def title(self) -> str:
        """The task in a few words, for figures."""
        what = f"digit A{self.digit} alone" if self.target == "single" else self.target
        order = f", {self.answer_order} first" if len(self.read_digits) > 1 else ""
        kind = "addition" if self.operation == "add" else "digit-wise addition without carries"
        size = f"{self.operands} × " if self.operands > 2 else ""
        separators = "" if self.separators == "signs" else f", separators {self.separators}"
        finite = "" if self.finite is None else f", {self.finite:,} problems"
        return f"{size}{self.digits}-digit {kind}, base {self.base}, {what}{order}{separators}{finite}"

    @property
    def token_names(self) -> tuple[str, ...]:
        """The digits, `+` and `=` where they separate numbers, and `?` where the answer is hidden."""
        return (*map(str, range(self.base)), *self._signs)

    @property
    def position_names(self) -> tuple[str, ...]:
        """The names of the T input positions: a4 a3 … + b4 … = A5 …; "? A5" where the answer is hidden."""
        order = range(self.digits)[::-1] if self.operand_order == "msd" else range(self.digits)
        names, signs = [], self.separators == "signs"
        for m in range(self.operands):
            names += ["0"] * self._before + [f"{chr(ord('a') + m % 26)}{k}" for k in order] + ["+" if signs else "0"]
        names[-1] = "=" if signs else "0"
        names += [f"A{d}" if self.target == "sequential" else f"? A{d}" for d in self.read_digits[:-1]]
        return tuple(names[: self.sizes.length])

    @property
    def answer_names(self) -> tuple[str, ...]:
        """The names of the answer digits in the order of the scored positions, such as A5 … A0."""
        return tuple(f"A{digit}" for digit in self.read_digits)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The carry classes of Quirke & Barez, S0 to S5; see `Carries.kind`."""
        return CLASSES

    # --- problems ------------------------------------------------------------------------------------------

    def features(self, operands: jax.typing.ArrayLike) -> Carries:
        """Compute the carry features of problems, int `[..., M, N]`, units first."""
        return carries(operands, self.base, carry=self.operation == "add")

    def floors(self, digit: int) -> dict[str, float]:
        """Return the exact levels at which the loss of an answer digit may have a plateau; see `floors.ladder`."""
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
        """Draw problems of a mixture, by default that of the task: int32 digits `[count, M, N]`, units first."""
        mixture = self.mixture if mixture is None else mixture
        return mixture.draw(key, (count, self.operands, self.digits), self.base)

    def cascade(self, key: jax.Array, count: int, length: int, start: int = 0) -> jax.Array:
        """Draw otherwise uniform problems, int32 `[count, M, N]`, with a forced cascade of one length and start."""
        mixture = Mixture(uniform=0, cascades=1, cascade_length=length, cascade_start=start)
        mixture.check_fits(self.digits)
        return self.draw(key, count, mixture)

    def mixed_problems(self, key: jax.Array, count: int) -> jax.Array:
        """Draw problems on which to analyse a network: half uniform, half with cascades, as many of every length.

        Returns:
          int32 `[B, M, N]`, B about `count`; only uniform ones where the operation has no carries.
        """
        uniform, *keys = jax.random.split(key, self.digits + 1)
        drawn = [self.draw(uniform, count // 2)]
        if self.operation == "add":
            each = max(1, count // 2 // self.digits)
            drawn += [self.cascade(key, each, length) for length, key in enumerate(keys)]
        return jnp.concatenate(drawn)

    def examples(self, data: Data, key: jax.Array, count: int) -> Batch:
        """Draw examples on which to analyse a network; see `mixed_problems`."""
        return self.batch(self.mixed_problems(key, count))

    # --- tokens --------------------------------------------------------------------------------------------

    def encode(self, operands: jax.Array, answer: jax.Array | None = None) -> jax.Array:
        """Return whole problems as tokens.

        Args:
          operands: int `[..., M, N]`, digits, units first.
          answer: int `[..., A]`, digits, units first; the correct one by default.

        Returns:
          int32 `[..., Q + A]`, in the task's orders; the question has Q tokens, M (N + 1) or with zeros M (N + 2).
        """
        chex.assert_axis_dimension(operands, -1, self.digits)
        chex.assert_axis_dimension(operands, -2, self.operands)
        answer = self.features(operands).answer if answer is None else answer
        ordered = operands[..., ::-1] if self.operand_order == "msd" else operands
        signs = [self.base] * (self.operands - 1) + [self.base + 1]
        after = jnp.asarray(signs if self.separators == "signs" else [0] * self.operands, jnp.int32)[:, None]
        before = jnp.zeros((*ordered.shape[:-1], self._before), jnp.int32)
        parts = [before, ordered, jnp.broadcast_to(after, (*ordered.shape[:-1], 1))]
        question = jnp.concatenate(parts, axis=-1).reshape(*ordered.shape[:-2], self._question_length)
        return jnp.concatenate([question, answer[..., ::-1] if self.answer_order == "msd" else answer], axis=-1)

    def decode(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return the problems that tokens encode; the inverse of `encode`.

        Args:
          tokens: int `[..., Q + A]`.

        Returns:
          operands `[..., M, N]` and answer `[..., A]`, digits, units first.
        """
        chex.assert_axis_dimension(tokens, -1, self._question_length + self.answer_length)
        answer = tokens[..., self._question_length :]
        return self._decode_question(tokens), answer[..., ::-1] if self.answer_order == "msd" else answer

    def _decode_question(self, tokens: jax.Array) -> jax.Array:
        shape = (*tokens.shape[:-1], self.operands, self._before + self.digits + 1)
        operands = tokens[..., : self._question_length].reshape(shape)[..., self._before : -1]
        return operands[..., ::-1] if self.operand_order == "msd" else operands

    @functools.partial(jax.jit, static_argnums=0)
    def batch(self, operands: jax.Array) -> Batch:
        """Return the tokens that the network sees, `[B, T]`, and targets `[B, R]` for problems `[B, M, N]`."""
        tokens = self.encode(operands)
        question, answer = tokens[:, : self._question_length], tokens[:, self._question_length :]
        if self.target == "single":
            return Batch(question, self.features(operands).answer[:, self.digit, None])
        seen = (
            answer[:, :-1]
            if self.target == "sequential"
            else jnp.full_like(answer[:, :-1], self.base + len(self._signs) - 1)
        )
        return Batch(jnp.concatenate([question, seen], axis=1), answer)

    # --- text ----------------------------------------------------------------------------------------------

    def text(self, operands: np.ndarray, answer: np.ndarray) -> str:
        """Return one problem as text, such as "12345+67890=080235", the most significant digit first in any order.

        Args:
          operands: int `[M, N]`, digits, units first.
          answer: int `[A]`, digits, units first.
        """
        return f"{self._question_text(operands)}={numerals.write(answer, self.base)}"

    def _question_text(self, operands: np.ndarray) -> str:
        return "+".join(numerals.write(number, self.base) for number in operands)

    def parse(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """Parse one problem; the inverse of `text`. A missing answer ("12345+67890=") is computed.

        Returns:
          operands int32 `[M, N]` and answer int32 `[A]`, digits, units first.

        Raises:
          UserError: the text is not a problem of this task, or a number has another number of digits.
        """
        left, _, right = text.partition("=")
        parts, right = [part.strip() for part in left.split("+")], right.strip()
        if len(parts) != self.operands:
            raise UserError(f"expected {self.operands} numbers joined by + as in {self.example}, got {text!r}")
        operands = np.stack([self._read(part, self.digits, text) for part in parts])
        if right:
            return operands, self._read(right, self.answer_length, text)
        return operands, np.asarray(self.features(operands).answer)

    def _read(self, numeral: str, width: int, text: str) -> np.ndarray:
        digits = numerals.read(numeral, self.base)
        if digits is None or len(digits) != width:
            raise UserError(
                f"expected {width} digits of base {self.base} where {numeral!r} stands in {text!r}; "
                f"a problem looks like {self.example}, padded with zeros"
            )
        return digits

    @property
    def example(self) -> str:
        """A problem as text, such as "01234+56789=058023"."""
        operands = np.arange(self.operands * self.digits).reshape(self.operands, -1) % self.base
        return self.text(operands, np.asarray(self.features(operands).answer))

    def describe(self, inputs: np.ndarray, target: np.ndarray, prediction: np.ndarray) -> str:
        """Describe one prediction: "12345+67890: predicts 080135, the answer is 080235 (error in A2; …)"."""
        operands = np.asarray(self._decode_question(jnp.asarray(inputs)))
        facts = self.features(operands)
        errors = ", ".join(f"A{k}" for k, t, p in zip(self.read_digits, target, prediction, strict=True) if t != p)
        order = np.argsort(self.read_digits)
        predicted = "nothing" if np.min(prediction) < 0 else numerals.write(np.asarray(prediction)[order], self.base)
        count, cascade = int(facts.carry_count), int(facts.cascade)
        carried = f"{count} carr{'y' if count == 1 else 'ies'}, longest cascade {cascade}" if count else "no carry"
        answer = numerals.write(np.asarray(target)[order], self.base)
        outcome = f"the answer is {answer} (error in {errors}; " if errors else "correct ("
        return f"{self._question_text(operands)}: predicts {predicted}, {outcome}{carried})"

    # --- data ----------------------------------------------------------------------------------------------

    def data(self, seeds: Sequence[int]) -> Data:
        """Draw the fixed problems of each lane.

        Returns:
          `lane` holds int32 digits, units first: "test" `[S, n, M, N]`, uniform; "cascades" `[S, N, n, M, N]`, with
          cascades from the units on, by length; and "train" `[S, finite, M, N]` if the train set is fixed.
        """
        lanes = [self._lane_data(jax.random.key(seed)) for seed in seeds]
        return Data({}, jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes))

    def _lane_data(self, key: jax.Array) -> dict[str, jax.Array]:
        shape = (self.operands, self.digits)
        uniform = self.test_examples if self.finite is None else None
        drawn = _test_problems(key, shape, self.base, self.cascade_examples, uniform)
        if self.finite is None:
            return drawn
        train_key, test_key, _ = _data_keys(key)
        train_shape = (self.finite, self.operands, self.digits)
        train = self.mixture.draw_distinct(train_key, train_shape, self.base)
        test_shape = (min(self.test_examples, self.space - self.finite), self.operands, self.digits)
        test = Mixture().draw_distinct(test_key, test_shape, self.base, without=train)
        return {"train": jax.device_put(train), "test": jax.device_put(test), **drawn}

    def train_batch(self, data: Data, key: jax.Array, step: jax.Array) -> Batch:
        """Draw the batch of one step: inputs `[B, T]`, targets `[B, R]`."""
        if self.finite is None:
            assert self.batch_size is not None  # Checked by __post_init__.
            step_key = jax.random.fold_in(key, step)
            if self.curriculum == Curriculum():
                return self.batch(self.draw(step_key, self.batch_size))
            shape = (self.batch_size, self.operands, self.digits)
            return self.batch(self.curriculum.draw(step_key, step, self.mixture, shape, self.base))
        indices = choose(jnp.arange(self.finite), key, step, self.batch_size)
        return self.batch(data.lane["train"][indices])

    def test_batch(self, data: Data) -> Batch:
        """Return the uniform test problems: inputs `[n, T]`, targets `[n, R]`."""
        return self.batch(data.lane["test"])

    # --- what is recorded at an evaluation -----------------------------------------------------------------

    def measure(self, data: Data, batch: Batch, logits: jax.Array, predict: Predict) -> dict[str, jax.Array]:
        """Compute what an evaluation records beside loss and accuracy.

        Digits are in the order of the scored positions, see `read_digits`. Means over no problems are NaN.

        Returns:
          on the uniform test problems: "digit_loss" and "digit_accuracy" `[R]`, teacher-forced;
          "free_digit_accuracy" `[R]` (target sequential), where the network's greedy answers are fed back; all of
          `scores.split` `[R]`; "loss_by_carry" `[R, M]`, the loss by the carry into the digit; "accuracy_by_class"
          `[6]`, exact match by carry class; "offset" `[R, base]`, mean probability by offset from the naive digit;
          "confusion" `[R, base, base]`, mean probability of each digit by true digit.
          On the forced cascades, by length: "accuracy_by_cascade" `[N]`, exact match, and
          "digit_accuracy_by_cascade" `[N, R]`.
        """
        facts = self.features(data.lane["test"])
        at = np.asarray(self.read_digits)
        naive, carry = facts.naive[:, at], facts.carry_in[:, at]
        candidates = min(self.operands, self.base) if self.operation == "add" else 1
        forced = data.lane["cascades"]
        forced_batch = self.batch(forced.reshape(-1, *forced.shape[2:]))
        by_cascade = scores.correct(predict(forced_batch.inputs), forced_batch.targets)
        by_cascade = by_cascade.reshape(*forced.shape[:2], -1)  # [N, n, R]
        loss = losses.cross_entropy(logits, batch.targets)
        measured = {
            "digit_loss": jnp.mean(loss, axis=0),
            "digit_accuracy": scores.fraction(scores.correct(logits, batch.targets), axis=0),
            **scores.split(logits, naive, carry, candidates),
            "loss_by_carry": scores.mean_by(loss, carry, self.operands).T,
            "accuracy_by_class": scores.mean_by(scores.exact_match(logits, batch.targets), facts.kind, len(CLASSES)),
            "accuracy_by_cascade": scores.fraction(jnp.all(by_cascade, axis=-1), axis=1),
            "digit_accuracy_by_cascade": scores.fraction(by_cascade, axis=1),
            "offset": scores.offset_from_naive(logits, naive),
            "confusion": scores.confusion(logits, batch.targets),
        }
        if self.target == "sequential":
            free = scores.free_run(predict, batch.inputs, self.sizes.read)
            measured["free_digit_accuracy"] = scores.fraction(free == batch.targets, axis=0)
        return measured


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))  # Not by task: tasks of other batches and orders share it.
def _test_problems(
    key: jax.Array, shape: tuple[int, int], base: int, each: int, uniform: int | None
) -> dict[str, jax.Array]:
    """Draw the test problems of one lane that do not depend on a fixed train set.

    Args:
      key: typed key of the lane.
      shape: (M, N).
      base: base of the digits.
      each: number of problems with a cascade of each length.
      uniform: number of uniform problems; None where they follow from a fixed train set.
    """
    _, test_key, cascade_key = _data_keys(key)
    drawn = {"cascades": cascades_of_every_length(cascade_key, (each, *shape), base)}
    if uniform is not None:
        drawn["test"] = Mixture().draw(test_key, (uniform, *shape), base)
    return drawn


def _data_keys(key: jax.Array) -> jax.Array:
    """Return the keys of a lane's train, test and cascade problems, `[3]`."""
    # A separate stream: split(key)[i] is fold_in(key, i), and the trainer uses the first of these.
    return jax.random.split(jax.random.fold_in(key, _DATA), 3)
