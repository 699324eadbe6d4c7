"""Additive quantities hold every value that their digits may give, and are exact where one digit moves them."""

import itertools

import numpy as np
import pytest

from jaxadd.analysis.certificates import additive, check_additive, rounding
from jaxadd.analysis.certificates.additive import Additive, Image
from jaxadd.analysis.certificates.rounding import Rounded

DIGITS, TOKENS = 3, 4
CHOICES = list(itertools.product(range(TOKENS), repeat=DIGITS))


def quantity(seed, shape=(5, 6), *, scale=1.0, radius=0.1):
    rng = np.random.default_rng(seed)
    tables = scale * rng.normal(size=(DIGITS, TOKENS, *shape)) * np.asarray([1, 0.1, 0.01])[:, None, None, None]
    return Additive.of(rng.normal(size=shape), tables, radius * rng.random((DIGITS + 1, *shape)))


def values(x, part):
    """Return what an additive quantity is for every choice of digits, `[choices, ...]`; the rest is `part` radii."""
    moved = [sum(x.tables[j, t] for j, t in enumerate(choice)) for choice in CHOICES]
    return np.stack([x.value + y + part * x.radius.sum(axis=0) for y in moved])


def assert_holds(x, found):
    """Check that a quantity may have each of some values, one for each choice of digits."""
    middle, radius = values(x, 0), x.radius.sum(axis=0)
    assert (np.abs(found - middle) <= radius * (1 + 1e-9) + 1e-9).all()


PARTS = (-1, -0.3, 0, 0.7, 1)


@pytest.mark.parametrize("name", list(rounding.FUNCTIONS))
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_functions_of_one_number_are_held(name, scale):
    x = quantity(0, scale=scale)
    found = rounding.activation(x, name)
    for part in PARTS:
        assert_holds(found, rounding.FUNCTIONS[name][0](values(x, part)))


@pytest.mark.parametrize("name", ["relu", "gelu"])
def test_what_one_digit_moves_is_exact(name):
    x = quantity(1, radius=0)
    x = x._replace(tables=x.tables * np.asarray([1, 0, 0])[:, None, None, None])
    function, derivative, _ = rounding.FUNCTIONS[name]
    found = additive.elementwise(x, function, derivative, bent=name == "relu")
    np.testing.assert_allclose(found.radius, 0, atol=1e-12)
    np.testing.assert_allclose(values(found, 0), function(values(x, 0)), atol=1e-12)


def test_sums_products_and_matrices_are_held():
    x, y, w = quantity(0), quantity(1), np.random.default_rng(2).normal(size=(6, 3))
    constant = Rounded(np.linspace(-1, 1, 6), np.full(6, 1e-3))
    for one, other in itertools.product(PARTS, repeat=2):
        a, b = values(x, one), values(y, other)
        assert_holds(rounding.add(x, y), a + b)
        assert_holds(rounding.product(x, y), a * b)
        assert_holds(rounding.product(x, constant), a * (constant.value + other * 1e-3))
        assert_holds(rounding.add(x, constant), a + constant.value + other * 1e-3)
        assert_holds(rounding.linear(x, w), a @ w)
        assert_holds(rounding.centred(x), a - a.mean(axis=-1, keepdims=True))


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_norms_are_held(scale):
    x, weight = quantity(3, scale=scale), np.linspace(-1, 2, 6)
    found = rounding.scaled(x, weight, 1e-3)
    for part in PARTS:
        y = values(x, part)
        assert_holds(found, weight * y / np.sqrt((y**2).mean(axis=-1, keepdims=True) + 1e-3))
    assert found.halves.sum(axis=0).max() <= 2 * np.sqrt(6) * 1.001  # No wider than the interval of a norm.


@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_those_of_the_verification_hold_the_same_values(scale):
    x, y = (quantity(seed, scale=scale) for seed in (0, 1))
    one, other = (check_additive.Additive.of(z.value, z.tables, z.radius.sum(axis=0)) for z in (x, y))
    w, weight = np.random.default_rng(2).normal(size=(6, 3)), np.linspace(-1, 2, 6)
    for part in PARTS:
        a, b = values(x, part), values(y, part)
        root = np.sqrt((a**2).mean(axis=-1, keepdims=True) + 1e-3)
        pairs = [
            (one.plus(other), a + b),
            (one.product(other), a * b),
            (one.linear(w), a @ w),
            (one.centred(), a - a.mean(axis=-1, keepdims=True)),
            (one.over_root_mean_square(weight, 1e-3), weight * a / root),
        ]
        pairs += [(one.activated(name), rounding.FUNCTIONS[name][0](a)) for name in rounding.FUNCTIONS]
        for found, expected in pairs:
            assert_holds(found._replace(radius=found.radius[None]), expected)


def test_the_matrix_of_an_image_is_multiplied_first():
    # Two numbers that cancel in the product of two matrices, and not in that of their absolute values.
    radius = np.zeros((DIGITS + 1, 1, 2))
    radius[0] = 1
    nothing = np.zeros((DIGITS, TOKENS, 1, 2))
    matrix = np.asarray([[1.0, 1.0], [1.0, -1.0]])
    zero = np.zeros((1, 2))
    image = Image(zero, nothing, radius, matrix, Rounded(zero, zero, np.full((1, 2), 2.0)))
    assert image.multiplied.radius[0].tolist() == [[2, 2]]
    through = rounding.linear(image, np.asarray([[1.0], [1.0]]))
    assert through.radius[0, 0, 0] == pytest.approx(2)  # Of the first number alone: 2 = 1 + 1, and 0 = 1 - 1.
    assert rounding.linear(image.multiplied, np.asarray([[1.0], [1.0]])).radius[0, 0, 0] == pytest.approx(4)


def test_a_quantity_of_few_digits_is_one_of_many():
    x = quantity(4)
    wide = x.among([0, 2, 3], 5)
    assert wide.tables.shape[0] == 5
    np.testing.assert_array_equal(wide.halves.sum(axis=0), x.halves.sum(axis=0))
    np.testing.assert_array_equal(wide.tables[[0, 2, 3]], x.tables)
    assert not wide.tables[[1, 4]].any()
