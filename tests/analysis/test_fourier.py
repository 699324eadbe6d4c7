"""Transforms are orthonormal for any P, fast projections equal their definitions, every rule finds its keys."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxadd.analysis import fourier
from jaxadd.errors import UserError
from jaxadd.tasks import Modular

few = settings(deadline=None, max_examples=12)
moduli = st.sampled_from([2, 3, 8, 13])

# One compilation for each modulus, instead of one for each operation.
transform, inverse = jax.jit(fourier.transform, static_argnums=1), jax.jit(fourier.inverse, static_argnums=1)
norms, transform_2d = jax.jit(fourier.norms, static_argnums=1), jax.jit(fourier.transform_2d)
project, cube_projection = (jax.jit(f, static_argnames="orders") for f in (fourier.project, fourier.cube_projection))
cube_coefficients, cosine_similarities = jax.jit(fourier.cube_coefficients), jax.jit(fourier.cosine_similarities)
neuron_fractions, keys_of_logits = fourier.neuron_fractions, jax.jit(fourier.keys_of_logits)


def answers_of(p, sign=1):
    a, b = np.divmod(np.arange(p * p), p)
    return (a + sign * b) % p


def normal(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def clock_logits(p, answers, amplitudes):
    """Σ_k α_k cos w_k(answer - c), k by the mapping's keys."""
    wave = sum(alpha * np.cos(2 * np.pi * k * np.arange(p) / p) for k, alpha in amplitudes.items())
    return wave.astype(np.float32)[(answers[:, None] - np.arange(p)) % p]


def unit(x):
    return x / np.linalg.norm(x)


# --- transforms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [2, 3, 4, 5, 12, 113, 210])
def test_basis_is_orthonormal_waves_in_order(p):
    basis = fourier.basis(p)
    assert basis.shape == (p, p)
    assert basis.dtype == np.float32
    exact = basis.astype(np.float64)
    np.testing.assert_allclose(exact @ exact.T, np.eye(p), atol=1e-6)
    n = np.arange(p)
    np.testing.assert_allclose(basis[0], np.full(p, p**-0.5), rtol=1e-6)
    for k in range(1, p // 2 + 1):
        np.testing.assert_allclose(basis[2 * k - 1], unit(np.cos(2 * np.pi * k * n / p)), atol=1e-6)
        if 2 * k < p:
            np.testing.assert_allclose(basis[2 * k], unit(np.sin(2 * np.pi * k * n / p)), atol=1e-6)


def test_there_is_no_basis_of_one_number():
    with pytest.raises(UserError, match="at least 2, got 1"):
        fourier.basis(1)


@few
@given(moduli, st.integers(0, 99))
def test_transforms_keep_norms_and_can_be_undone(p, seed):
    x = normal(seed, 3, p, 2)
    there = transform(x, 1)
    np.testing.assert_allclose(there, np.einsum("ia,xaf->xif", fourier.basis(p), x), atol=1e-5)
    np.testing.assert_allclose(inverse(there, 1), x, atol=1e-5)
    np.testing.assert_allclose(np.sum(np.asarray(norms(x, 1)) ** 2), np.sum(x**2), rtol=1e-5)
    grid = normal(seed, p, p, 2)
    basis = fourier.basis(p)
    np.testing.assert_allclose(transform_2d(grid), np.einsum("ia,jb,abf->ijf", basis, basis, grid), atol=1e-5)


def test_norms_hold_cosine_and_sine_of_one_frequency():
    n = np.arange(8)
    x = np.stack([3 + 2 * np.cos(np.pi / 4 * n), np.sin(np.pi / 4 * n) + 5 * np.cos(np.pi * n)], axis=1)
    np.testing.assert_allclose(fourier.norms(x), [3 * 8**0.5, 5**0.5 * 2, 0, 0, 5 * 8**0.5], atol=1e-5)


def test_masks_and_lists_of_frequencies():
    keys = fourier.mask([1, 4], 8)
    np.testing.assert_array_equal(keys, [True, False, False, True])
    assert fourier.frequencies(keys) == (1, 4)
    assert fourier.frequencies(fourier.mask([], 8)) == ()
    with pytest.raises(UserError, match="mod 7 are numbered 1 to 3, got 0, 4"):
        fourier.mask([0, 2, 4], 7)


# --- logits -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [2, 5, 12])
def test_waves_are_unit_vectors_of_the_sum(p):
    s = np.add.outer(np.arange(p), np.arange(p)).reshape(-1)
    for k in range(1, p // 2 + 1):
        u, v = fourier.waves(p, k)
        np.testing.assert_allclose(u, unit(np.cos(2 * np.pi * k * s / p)), atol=1e-6)
        np.testing.assert_allclose(v, unit(np.sin(2 * np.pi * k * s / p)) if 2 * k < p else 0 * s, atol=1e-6)


@few
@given(moduli, st.sampled_from([1, -1]), st.integers(0, 99))
def test_projection_is_its_plain_definition(p, sign, seed):
    answers, logits = answers_of(p, sign), normal(seed, p * p, p + 1)
    keys = np.random.default_rng(seed).random(p // 2) < 0.5
    plain = np.zeros_like(logits)
    a, b = np.divmod(np.arange(p * p), p)
    for k in fourier.frequencies(keys):
        for wave in fourier.waves(p, k):
            wave = wave.reshape(p, p)[a, sign * b % p]  # of a - b: the wave of a + (-b)
            plain += np.outer(wave, wave @ logits)
    projected = project(logits, answers, keys)
    np.testing.assert_allclose(projected, plain, atol=1e-5)
    np.testing.assert_allclose(project(projected, answers, keys), projected, atol=1e-5)


@few
@given(moduli, st.sampled_from([1, -1]), st.integers(0, 99))
def test_cubes_are_their_plain_definition(p, sign, seed):
    answers, logits = answers_of(p, sign), normal(seed, p * p, p)
    centred = logits - logits.mean(1, keepdims=True)
    cubes = [unit(clock_logits(p, answers, {k: 1})) for k in range(1, p // 2 + 1)]
    coefficients = np.array([np.sum(logits * cube) for cube in cubes])
    np.testing.assert_allclose(cube_coefficients(logits, answers), coefficients, atol=1e-5)
    cosines = cosine_similarities(logits, answers)
    np.testing.assert_allclose(cosines, coefficients / np.linalg.norm(centred), atol=1e-5)
    keys = np.random.default_rng(seed).random(p // 2) < 0.5
    plain = sum(coefficients[k - 1] * cubes[k - 1] for k in fourier.frequencies(keys)) + np.zeros_like(logits)
    np.testing.assert_allclose(cube_projection(logits, answers, keys), plain, atol=1e-5)


def test_projections_map_over_states_and_masks():
    answers, logits = jnp.asarray(answers_of(5)), normal(0, 3, 25, 5)
    keys = np.array([[True, False], [False, True], [True, True]])
    mapped = jax.jit(jax.vmap(fourier.project, in_axes=(0, None, 0)))(logits, answers, keys)
    alone = [project(x, answers, key) for x, key in zip(logits, keys, strict=True)]
    np.testing.assert_allclose(mapped, np.stack(alone), atol=1e-5)


def test_equal_logits_resemble_no_cube():
    np.testing.assert_array_equal(fourier.cosine_similarities(jnp.ones((25, 5)), answers_of(5)), np.zeros(2))


def test_answers_that_are_no_sum_are_refused():
    task = Modular(p=7, operation="a2+ab+b2")
    answers = task.batch(np.arange(49), {}).targets[:, 0]
    with pytest.raises(UserError, match=r"exactly P times, as those of a \+ b"):
        fourier.project(normal(0, 49, 7), answers, fourier.mask([1], 7))


# --- neurons ----------------------------------------------------------------------------------------------


@few
@given(moduli, st.integers(0, 99))
def test_the_fraction_of_a_neuron_is_that_of_the_block(p, seed):
    activations = np.abs(normal(seed, p * p, 4))
    spectrum = np.asarray(transform_2d((activations - activations.mean(0)).reshape(p, p, 4))) ** 2
    fractions = neuron_fractions(activations)
    assert fractions.shape == (4, p // 2)
    for k in range(1, p // 2 + 1):
        block = [row for row in (0, 2 * k - 1, 2 * k) if row < p]
        plain = spectrum[np.ix_(block, block)].sum((0, 1)) / spectrum.sum((0, 1))
        np.testing.assert_allclose(fractions[:, k - 1], plain, atol=1e-5)


@pytest.mark.parametrize("p", [8, 13])
def test_neurons_of_one_frequency_dead_neurons_and_constants(p):
    a, b = np.divmod(np.arange(p * p), p)
    wave = lambda x, k=3, phase=0.4: np.cos(2 * np.pi * k * x / p + phase)
    square = 1 + 2 * wave(a) * wave(b, phase=1) - wave(b) + wave(a, phase=2)
    mixed = wave(a) + wave(b, k=2)
    activations = np.stack([square, wave(a + b), mixed, 0 * a, 0 * a + 0.3], axis=1).astype(np.float32)
    fractions = np.asarray(neuron_fractions(activations))
    np.testing.assert_allclose(fractions[:2, 2], 1, atol=1e-5)
    np.testing.assert_allclose(fractions[2, [1, 2]], 0.5, atol=1e-5)
    np.testing.assert_array_equal(fractions[3:], 0)
    found = fourier.clusters(fractions)
    np.testing.assert_array_equal(found.frequency, [3, 3, 0, 0, 0])
    np.testing.assert_array_equal(fourier.clusters(fractions, threshold=0.45).frequency[2] > 0, True)
    np.testing.assert_allclose(found.explained, [1, 1, 0.5, 0, 0], atol=1e-5)


# --- key frequencies --------------------------------------------------------------------------------------


def test_a_key_frequency_needs_two_neurons():
    p = 13
    a, b = np.divmod(np.arange(p * p), p)
    wave = lambda x, k: np.maximum(np.cos(2 * np.pi * k * x / p), 0)
    neurons = np.stack(
        [np.cos(2 * np.pi * a / p), np.cos(2 * np.pi * b / p), np.cos(4 * np.pi * a / p), wave(a, 5)], 1
    )
    assert fourier.frequencies(fourier.keys_of_neurons(neurons)) == (1,)
    assert fourier.frequencies(fourier.keys_of_neurons(neurons, least=1)) == (1, 2)
    assert fourier.frequencies(fourier.keys_of_neurons(neurons, threshold=0.5, least=1)) == (1, 2, 5)


def test_keys_of_weights_stand_out_from_the_rest():
    p, n = 12, np.arange(12)
    size = {2: 1.0, 5: 0.3, 3: 0.2}
    # Each frequency has its own two columns; those of 2 are the largest but for the constant.
    columns = [f(2 * np.pi * k * n / p) * x for k, x in size.items() for f in (np.cos, np.sin)]
    weights = np.stack([*columns, np.full(p, 9.0)], axis=1).astype(np.float32)
    assert fourier.frequencies(fourier.keys_of_embedding(weights)) == (2, 5)
    assert fourier.frequencies(fourier.keys_of_embedding(weights, threshold=0.1)) == (2, 3, 5)
    assert fourier.frequencies(fourier.keys_of_neuron_logit_map(weights.T)) == (2, 5)
    assert fourier.frequencies(fourier.keys_of_neuron_logit_map(weights.T, threshold=0.5)) == (2,)


@pytest.mark.parametrize(("p", "sign"), [(2, 1), (3, -1), (113, 1), (210, -1), (211, 1)])
def test_keys_of_clock_logits_are_exact(p, sign):
    keys = {p // 2, *np.random.default_rng(p).integers(1, p // 2 + 1, 4).tolist()}
    answers = answers_of(p, sign)
    logits = clock_logits(p, answers, {k: 1 + 0.1 * i for i, k in enumerate(sorted(keys))})
    found = keys_of_logits(logits, answers)
    assert set(fourier.frequencies(found)) == keys
    np.testing.assert_allclose(np.asarray(cube_projection(logits, answers, found)) - logits, 0, atol=1e-4)
    np.testing.assert_allclose(np.asarray(project(logits, answers, found)) - logits, 0, atol=1e-4)


# --- products of cyclic groups ----------------------------------------------------------------------------

PRODUCTS = [(2, 4), (2, 2, 3), (4, 6)]


def elements_of(orders):
    return np.array(list(itertools.product(*map(range, orders))))


@pytest.mark.parametrize("orders", PRODUCTS)
def test_characters_of_a_product_are_an_orthonormal_basis_of_waves(orders):
    size, x = math.prod(orders), elements_of(orders)
    basis = fourier.basis(orders).astype(np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(size), atol=1e-6)
    assert len(fourier.names(orders)) == fourier.count(orders)
    assert len(set(fourier.names(orders))) == fourier.count(orders)
    assert len(fourier.row_names(orders)) == size
    for row, k, name in zip(basis, fourier.frequency_of_row(orders), fourier.row_names(orders), strict=True):
        if k:
            vector = np.array(fourier.names(orders)[k - 1].strip("()").split(", "), int)
            wave = (np.sin if name.startswith("sin") else np.cos)(2 * np.pi * (x * vector / np.array(orders)).sum(1))
            np.testing.assert_allclose(row, unit(wave), atol=1e-6)
    moved = fourier.combine(orders, -1)
    np.testing.assert_array_equal(
        fourier.combine(orders, 1)[moved, np.arange(size)], np.arange(size)[:, None] + 0 * moved
    )


@pytest.mark.parametrize("orders", PRODUCTS)
def test_projections_and_neurons_of_a_product_are_their_plain_definitions(orders):
    size = math.prod(orders)
    answers, logits = fourier.combine(orders, 1).reshape(-1), normal(3, size**2, size)
    keys = np.random.default_rng(1).random(fourier.count(orders)) < 0.5
    plain, cubes, minus = np.zeros_like(logits), np.zeros_like(logits), fourier.combine(orders, -1)
    for k in fourier.frequencies(keys):
        for wave in fourier.waves(orders, k):
            plain += np.outer(wave, wave @ logits)
        cube = unit(np.cos(fourier.angles(orders, k))[minus[answers[:, None], np.arange(size)]])
        cubes += np.sum(cube * logits) * cube
    np.testing.assert_allclose(project(logits, answers, keys, orders=orders), plain, atol=1e-5)
    np.testing.assert_allclose(cube_projection(logits, answers, keys, orders=orders), cubes, atol=1e-5)
    activations = np.abs(normal(4, size**2, 3))
    grid = (activations - activations.mean(0)).reshape(size, size, 3)
    spectrum = np.asarray(fourier.transform_2d(grid, orders)) ** 2
    of_row, fractions = fourier.frequency_of_row(orders), neuron_fractions(activations, orders=orders)
    for k in range(1, fourier.count(orders) + 1):
        block = np.flatnonzero((of_row == k) | (of_row == 0))
        part = spectrum[np.ix_(block, block)].sum((0, 1)) / spectrum.sum((0, 1))
        np.testing.assert_allclose(fractions[:, k - 1], part, atol=1e-5)


def test_frequencies_of_a_product_are_numbered():
    assert fourier.names((2, 4)) == ("(0, 1)", "(1, 1)", "(0, 2)", "(1, 0)", "(1, 2)")
    with pytest.raises(UserError, match="frequencies of C2 × C4 are numbered 1 to 5, got 6"):
        fourier.mask([6], (2, 4))


@pytest.mark.parametrize("orders", [(7,), 8, (2, 4), (2, 3, 4), (2,) * 5])
def test_frequencies_are_read_by_the_names_that_are_printed(orders):
    names = fourier.names(orders)
    assert fourier.read_frequencies(", ".join(reversed(names)), orders) == tuple(range(1, fourier.count(orders) + 1))
    assert fourier.read_frequencies(names[-1].replace(" ", ""), orders) == (len(names),)
    with pytest.raises(UserError, match=r"expected frequencies .*, got '\(9, 9\)'"):
        fourier.read_frequencies(f"{names[0]},(9, 9)", orders)


# --- numbers that are not finite ----------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_computed_from_a_number_that_is_not_finite_is_not_defined(bad):
    p = 5
    logits = normal(0, p * p, p)
    logits[3, 2] = bad
    assert np.isnan(cosine_similarities(logits, answers_of(p))).all()
    assert not keys_of_logits(logits, answers_of(p)).any()

    activations = np.repeat(clock_logits(p, answers_of(p), {1: 1.0})[:, :1], 3, axis=1)
    activations[7, 1] = bad
    fractions = neuron_fractions(activations)
    assert np.isnan(fractions[1]).all()
    np.testing.assert_allclose(fractions[[0, 2], 0], 1, atol=1e-5)
    clusters = jax.jit(fourier.clusters)(fractions)
    np.testing.assert_array_equal(clusters.frequency, [1, 0, 1])
    np.testing.assert_array_equal(np.isnan(clusters.explained), [False, True, False])

    weights = normal(0, p, 4)
    weights[0, 0] = bad
    assert not jax.jit(fourier.keys_of_embedding)(weights).any()
    assert not jax.jit(fourier.keys_of_neuron_logit_map)(weights.T).any()


def test_the_largest_of_numbers_with_nan_among_them_is_nan():
    x = np.array([[1.0, np.nan, 3], [4, 5, 6]], np.float32)
    np.testing.assert_array_equal(jax.jit(fourier.largest, static_argnums=1)(x, 1), [np.nan, 6])
    assert np.isnan(jax.jit(fourier.largest)(x))
