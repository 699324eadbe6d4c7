"""The operations mod P: a registry with an entry for each, all those of Power et al. 2022 among them.

A formula is written for numbers that reduce themselves mod P, so that it reads as in a paper and no product leaves
int32. An operation on the units of P has every quotient.
"""

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxadd.errors import UserError
from jaxadd.tasks.modular import cyclic
from jaxadd.tasks.modular.cyclic import CyclicProduct


class Residue(NamedTuple):
    """Residues mod P, an int32 array of any shape, with arithmetic mod P; P is at most 4096."""

    value: jax.Array
    p: int

    def __add__(self, other: "Residue") -> "Residue":  # type: ignore[override]  # A tuple only to be a pytree.
        return Residue((self.value + other.value) % self.p, self.p)

    def __sub__(self, other: "Residue") -> "Residue":
        return Residue((self.value - other.value) % self.p, self.p)

    def __mul__(self, other: "Residue") -> "Residue":  # type: ignore[override]
        return Residue(self.value * other.value % self.p, self.p)

    def __truediv__(self, other: "Residue") -> "Residue":
        return self * Residue(jnp.asarray(cyclic.inverses(self.p))[other.value], self.p)

    def __pow__(self, exponent: int) -> "Residue":
        return functools.reduce(Residue.__mul__, [self] * exponent)

    def if_odd(self, odd: "Residue", even: "Residue") -> "Residue":
        """Choose by whether this residue, a number from 0 to P - 1, is odd."""
        return Residue(jnp.where(self.value % 2 == 1, odd.value, even.value), self.p)


class Operation(NamedTuple):
    """An operation on residues mod P.

    Attributes:
      symbol: how it is written, with {a} and {b}.
      formula: of two residues; None where the results are a table drawn at random.
      domain: which residues the operands are.
      group: the group in whose coordinates the operation is a sum or difference; None where there is none.
      sign: +1 for a sum of coordinates, -1 for a difference.
      folds: whether more than two operands make sense, as ((a ∘ b) ∘ c) ∘ ….
      divides_by: the residues among the numbers below P that the formula divides by, where not all have to be units.
    """

    symbol: str
    formula: Callable[[Residue, Residue], Residue] | None
    domain: Literal["residues", "units"] = "residues"
    group: Literal["additive", "multiplicative"] | None = None
    sign: int = 1
    folds: bool = False
    divides_by: slice = slice(0)

    def elements(self, p: int) -> np.ndarray:
        """Return the residues that operands take mod P, int32 `[M]`, ascending."""
        return cyclic.units(p) if self.domain == "units" else np.arange(p, dtype=np.int32)

    def group_mod(self, p: int) -> CyclicProduct | None:
        """Return the group mod P in which the operation is a sum or difference; None where there is none."""
        return None if self.group is None else cyclic.GROUPS[self.group](p)

    def check(self, p: int) -> None:
        """Raise UserError where the operation is not defined mod P."""
        if self.domain == "units" and len(cyclic.units(p)) < 2:
            raise UserError(
                f"{self.written('ab')} is defined on the units mod p, and mod {p} the only unit is 1; "
                "p must be above 2"
            )
        divisors = np.arange(p)[self.divides_by]
        if len(wrong := np.setdiff1d(divisors, cyclic.units(p))):
            raise UserError(
                f"{self.written('ab')} divides by numbers that have no inverse mod {p}, {wrong[0]} the first of "
                "them; p must be a prime or a power of 2"
            )

    def apply(self, operands: Sequence[jax.Array], p: int) -> jax.Array:
        """Compute the operation mod P, int32, on operands of one shape; raises UserError for a random table."""
        if self.formula is None:
            raise UserError("a table drawn at random has no formula")
        return functools.reduce(self.formula, [Residue(x, p) for x in operands]).value

    def written(self, operands: Sequence[object]) -> str:
        """Write the operation on operands, such as "a + b" or "3 ÷ 4 ÷ 5"."""
        return str(functools.reduce(lambda a, b: self.symbol.format(a=a, b=b), operands))


OPERATIONS: dict[str, Operation] = {
    "add": Operation("{a} + {b}", lambda a, b: a + b, group="additive", folds=True),
    "subtract": Operation("{a} - {b}", lambda a, b: a - b, group="additive", sign=-1, folds=True),
    "multiply": Operation("{a} × {b}", lambda a, b: a * b, "units", "multiplicative", folds=True),
    "divide": Operation("{a} ÷ {b}", lambda a, b: a / b, "units", "multiplicative", sign=-1, folds=True),
    "a2+b2": Operation("{a}² + {b}²", lambda a, b: a**2 + b**2),
    "a2+ab+b2": Operation("{a}² + {a}·{b} + {b}²", lambda a, b: a**2 + a * b + b**2),
    "a2+ab+b2+a": Operation("{a}² + {a}·{b} + {b}² + {a}", lambda a, b: a**2 + a * b + b**2 + a),
    "a3+ab": Operation("{a}³ + {a}·{b}", lambda a, b: a**3 + a * b),
    "a3+ab2+b": Operation("{a}³ + {a}·{b}² + {b}", lambda a, b: a**3 + a * b**2 + b),
    "divide-if-odd": Operation(
        "({a} ÷ {b} if {b} is odd, else {a} - {b})", lambda a, b: b.if_odd(a / b, a - b), divides_by=slice(1, None, 2)
    ),
    "random": Operation("{a} ∘ {b}", None, folds=True),
}  # fmt: skip

if TYPE_CHECKING:
    OperationName = str
else:
    OperationName = Literal[tuple(OPERATIONS)]
