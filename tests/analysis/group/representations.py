"""The matrices of an irrep and the span of their entries, written out; the library gets along with characters.

The matrices of an irrep are the action from the left on one eigenspace, within the functions that its matrix entries
span, of a random symmetric element that acts from the right.
"""

import numpy as np

from jaxadd.analysis.group.irreps import projector
from jaxadd.tasks.group.finite import generated, generators

_APART = 1e-2  # Of the range of eigenvalues, how far one at least is from the others.


def span(group, irrep):
    """Return the projection of functions on G on the span of an irrep's matrix entries, float64 `[n, n]`."""
    return projector(group, irrep.character, irrep.dimension / irrep.commutant / group.order)


def matrices(group, irrep):
    """Compute the orthogonal matrices ρ(g) of an irrep, float64 `[n, d, d]`, with ρ(g h) = ρ(g) ρ(h)."""
    n, d = group.order, irrep.dimension
    rng = np.random.default_rng(0)
    powers, fixed = _fewest_fixed(group, irrep)
    size = d * fixed // irrep.commutant
    some = rng.normal(size=(n, size))[group.table[:, powers]].mean(axis=1)  # The same on all s hᵏ.
    basis = np.linalg.qr(span(group, irrep) @ some)[0]
    best, chosen = -1.0, basis
    while size > d and best < _APART:  # Otherwise there is one copy alone.
        weights = rng.normal(size=n)
        symmetric = (weights + weights[group.inverse])[group.table[group.inverse]]  # r(s⁻¹ t) at (s, t)
        values, vectors = np.linalg.eigh(basis.T @ symmetric @ basis)
        means = values.reshape(-1, d).mean(axis=1)  # Every eigenspace is one copy of ρ.
        gaps = np.diff(np.concatenate([[-np.inf], means, [np.inf]]))
        apart = np.minimum(gaps[:-1], gaps[1:]) / np.ptp(means)
        copy = int(np.argmax(apart))
        best, chosen = apart[copy], basis @ vectors[:, copy * d : (copy + 1) * d]
    result = np.zeros((n, d, d))
    result[group.identity] = np.eye(d)
    known = np.arange(n) == group.identity
    steps = generators(group.table)
    acting = [chosen.T @ chosen[group.table[group.inverse[g]]] for g in steps]
    while not known.all():  # The other elements are products of the generators.
        for g, matrix in zip(steps, acting, strict=True):
            before = np.flatnonzero(known & ~known[group.table[:, g]])
            result[group.table[before, g]] = result[before] @ matrix
            known[group.table[before, g]] = True
    return result


def _fewest_fixed(group, irrep):
    """Return the powers of an element that leaves a subspace of ρ fixed, the smallest there is, and its dimension.

    Functions that are the same on all s hᵏ hold few copies of ρ, which makes the eigenproblem small.
    """
    best, fewest = np.array([group.identity]), irrep.dimension
    for h in np.unique(group.classes, return_index=True)[1]:
        powers = np.flatnonzero(generated(group.table, [h]))
        fixed = round(irrep.character[powers].mean())
        if 0 < fixed < fewest:
            best, fewest = powers, fixed
    return best, fewest
