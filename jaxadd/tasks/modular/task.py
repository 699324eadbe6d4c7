"""Modular arithmetic on tokens `(a, b, =)` or `(a, b)`, the standard task of the grokking literature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError, check_choices
from jaxadd.optim import scores
from jaxadd.tasks.listed import Listed
from jaxadd.tasks.modular.cyclic import CyclicProduct
from jaxadd.tasks.modular.operations import OPERATIONS, Operation, OperationName
from jaxadd.types import Batch, Data, Predict

_MAX_P = 4096  # The product of two residues must stay far below 2**31.
_MAX_PROBLEMS = _MAX_P**2  # They are listed.


@dataclass(frozen=True)
class Modular(Listed):
    """Predict `(a ∘ b) mod P` at the last token; every problem is either in the train or in the test set.

    Operands are the residues mod P, or its M units where the operation divides or multiplies; residue r is token r. A
    problem is a pair of operands or, for sums and products, any number of them: there are M^N.

    By default the setting of Nanda et al. 2023, "Progress measures for grokking via mechanistic interpretability":
    T = 3 tokens, `=` is token P, V = P + 1, logits over all V classes.
    """

    p: int = 113
    """modulus P, at least 2"""
    operation: OperationName = "add"
    """what is computed mod P, an entry of the registry of operations: a sum, a polynomial, a fixed random table, …"""
    operands: int = 2
    """number N of operands; above 2 for add, subtract, multiply, divide and random"""
    train_fraction: float = 0.3
    """fraction of the problems in the train set"""
    equals: Literal["class", "token", "none"] = "class"
    """class: the input ends in =, which is a class too; token: it ends in =, with P classes; none: there is no ="""
    split: Literal["python", "keyed"] = "python"
    """how the split is drawn: python for random.shuffle, as published; keyed for a permutation drawn by JAX"""
    split_seed: int | None = None
    """seed of the train-test split in every lane; None takes the seed of the lane"""
    table_seed: int = 0
    """seed of the table, the same in every lane; operation random only"""
    label_noise: float = 0.0
    """fraction of the train problems with a wrong label, the same in all steps; drawn by the seed of the split"""
    batch_size: int | None = None
    """examples per step; None takes the full train set"""
    record_pairs: bool = False
    """record at every evaluation which test problems are correct, as correct_pairs; see `unpacked`"""

    def __post_init__(self) -> None:
        if not 2 <= self.p <= _MAX_P:
            raise UserError(f"p must be a modulus from 2 to {_MAX_P}, got {self.p}")
        check_choices(self)
        self.rule.check(self.p)
        if self.operands < 2 or (self.operands > 2 and not self.rule.folds):
            more = ", ".join(name for name, rule in OPERATIONS.items() if rule.folds)
            raise UserError(f"operands must be 2, or more for {more}; got {self.operands} for {self.operation}")
        if self.problems > _MAX_PROBLEMS:
            raise UserError(
                f"all problems are listed, at most {_MAX_PROBLEMS:,}; {self.operands} operands with "
                f"{len(self.elements)} values each make {self.problems:,}, so lower p or operands"
            )
        self.check_listed()

    def unused_fields(self) -> dict[str, str]:
        """Return the fields that have no effect; see `serialization.unused`."""
        return {} if self.operation == "random" else {"table_seed": "operation random"}

    @property
    def rule(self) -> Operation:
        """The operation."""
        return OPERATIONS[self.operation]

    @property
    def elements(self) -> np.ndarray:
        """The residues that operands take, int32 `[M]`, ascending."""
        return self.rule.elements(self.p)

    @property
    def group(self) -> CyclicProduct | None:
        """The group in which the operation is a sum or difference of coordinates; None where there is none."""
        return self.rule.group_mod(self.p)

    @property
    def count(self) -> int:
        """The modulus P: residue r is token r."""
        return self.p

    def results(self, operands: list[jax.Array], problems: jax.Array, shared: dict[str, jax.Array]) -> jax.Array:
        """Return the answers, int32 `[B]`, to problems given by their N operands and by their numbers."""
        return shared["table"][problems] if self.rule.formula is None else self.rule.apply(operands, self.p)

    def tables(self) -> dict[str, jax.Array]:
        """Return "table", int32 `[M^N]`, the answers to all problems, if the operation is random."""
        if self.rule.formula is not None:
            return {}
        key = jax.random.key(self.table_seed)
        return {"table": jax.random.randint(key, (self.problems,), 0, self.p, dtype=jnp.int32)}

    def measure(self, data: Data, batch: Batch, logits: jax.Array, predict: Predict) -> dict[str, jax.Array]:
        """Return "correct_pairs" where they are to be recorded, float32 `[words]`, as `unpacked` reads them."""
        return {"correct_pairs": _packed(scores.correct(logits, batch.targets)[:, 0])} if self.record_pairs else {}

    def asked(self, operands: Sequence[str]) -> str:
        """Return what is asked of N operands, such as "18 + 34 mod 113"."""
        return f"{self.rule.written(operands)} mod {self.p}"

    @property
    def token_names(self) -> tuple[str, ...]:
        """The numbers, and `=` where the input has it."""
        return (*map(str, range(self.p)), "=")[: self.sizes.vocabulary]


_BITS = 24  # A float32 holds every whole number of so many bits, and NaN for an evaluation that was not made.


def _packed(bits: jax.Array) -> jax.Array:
    """Pack bits `[n]` into float32 `[ceil(n / 24)]`."""
    padded = jnp.pad(bits, (0, -len(bits) % _BITS)).reshape(-1, _BITS)
    return jnp.sum(jnp.where(padded, 2.0 ** np.arange(_BITS), 0), axis=1)


def unpacked(words: np.ndarray, count: int) -> np.ndarray:
    """Read "evaluation/correct_pairs": which of the `count` test problems, in the order of the split, are correct.

    Args:
      words: float32 `[E, words]`, finite.
      count: number of test problems, n.

    Returns:
      bool `[E, n]`.
    """
    bits = np.asarray(words).astype(np.int64)[..., None] >> np.arange(_BITS) & 1
    return bits.reshape(len(bits), -1)[:, :count].astype(bool)
