"""The features of column addition: sums, carries and cascades, the vocabulary of hypotheses.

Everything works on arrays of digits, column 0 being the units, so that no number of digits overflows. The loop over
the columns is unrolled: XLA fuses it into one pass, and it is correct for any number of operands, whose carries an
associative scan over (generate, propagate) cannot express.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from jaxadd.errors import UserError

CLASSES = ("S0", "S1", "S2", "S3", "S4", "S5")


class Carries(NamedTuple):
    """The carry features of problems with M operands, over the A columns of their answers; int32 or bool.

    Columns beyond those of the operands have sum 0.

    Attributes:
      sum: `[..., A]`, the sum of the operand digits of the column.
      generate: `[..., A]`, whether the column carries out whatever comes in: sum ≥ base.
      propagate: `[..., A]`, whether the carry out depends on the carry in; with two operands, sum = base - 1.
      carry_in: `[..., A]`, at most M - 1.
      naive: `[..., A]`, the digit if no carry came in, sum mod base.
      answer: `[..., A]`, the digit.
      carry_count: `[...]`, the number of columns that carry out.
      cascade: `[...]`, the largest number of successive columns whose carry out is raised by their carry in.
    """

    sum: jax.Array
    generate: jax.Array
    propagate: jax.Array
    carry_in: jax.Array
    naive: jax.Array
    answer: jax.Array
    carry_count: jax.Array
    cascade: jax.Array

    @property
    def kind(self) -> jax.Array:
        """The class of Quirke & Barez, int32 `[...]`, an index into CLASSES.

        S0 has no carry, S1 carries but no cascade, S2 to S5 a cascade over 1, 2, 3, and 4 or more columns.
        """
        return jnp.where(self.carry_count == 0, 0, 1 + jnp.minimum(self.cascade, 4))


def answer_length(digits: int, base: int = 10, operands: int = 2, carry: bool = True) -> int:
    """Return the number of digits A of the largest answer: N + 1 for two operands, N without carries.

    Raises:
      UserError: for fewer than 1 digit, a base below 2 or fewer than 2 operands.
    """
    for name, value, least in (("digits", digits, 1), ("base", base, 2), ("operands", operands, 2)):
        if value < least:
            raise UserError(f"{name} must be at least {least}, got {value}")
    length, rest = digits, operands * (base**digits - 1) // base**digits if carry else 0
    while rest:
        length, rest = length + 1, rest // base
    return length


@functools.partial(jax.jit, static_argnames=("base", "carry"))
def carries(operands: jax.typing.ArrayLike, base: int, *, carry: bool = True) -> Carries:
    """Compute the features of column addition.

    Args:
      operands: int `[..., M, N]`, digits below `base`, units first.
      base: at least 2.
      carry: False leaves out all carries: digit-wise addition mod base.

    Returns:
      the features; see Carries.
    """
    operands = jnp.asarray(operands)
    chex.assert_axis_dimension_gt(operands, -2, 1)
    *_, numbers, digits = operands.shape
    length = answer_length(digits, base, numbers, carry)
    total = jnp.sum(operands, axis=-2, dtype=jnp.int32)
    total = jnp.pad(total, [(0, 0)] * (total.ndim - 1) + [(0, length - digits)])
    incoming, run = jnp.zeros((2, *total.shape[:-1]), jnp.int32)
    carry_in, runs, carried = [], [], []
    for column in jnp.moveaxis(total, -1, 0):
        carry_in.append(incoming)
        outgoing = (column + incoming) // base if carry else jnp.zeros_like(column)
        run = jnp.where(outgoing > column // base, run + 1, 0)
        runs.append(run)
        carried.append(outgoing > 0)
        incoming = outgoing
    carry_in = jnp.stack(carry_in, axis=-1)
    return Carries(
        sum=total,
        generate=total >= base,
        propagate=(total + numbers - 1) // base > total // base,
        carry_in=carry_in,
        naive=total % base,
        answer=(total + carry_in) % base,
        carry_count=jnp.sum(jnp.stack(carried, axis=-1), axis=-1, dtype=jnp.int32),
        cascade=jnp.max(jnp.stack(runs, axis=-1), axis=-1),
    )
