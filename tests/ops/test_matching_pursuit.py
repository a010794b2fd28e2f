"""Orthogonal matching pursuit against scikit-learn, and by hand."""

import warnings

import jax
import numpy as np
import pytest
import sklearn
from sklearn.decomposition import sparse_encode

from ad3d_jax.ops.matching_pursuit import matching_pursuit, reconstruct


def by_scikit_learn(atoms, target, count):
    """Returns the coefficients of each target by scikit-learn, [Q,K] float32."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says where it stops early
        rows = [
            sparse_encode(y[None], x, algorithm="omp", n_nonzero_coefs=count)[0]
            for x, y in zip(atoms, target, strict=True)
        ]
    return np.stack(rows)


pursue = jax.jit(matching_pursuit, static_argnames="count")
rebuild = jax.jit(reconstruct, static_argnames="count")


def found(atoms, target, count):
    return np.asarray(pursue(np.float32(atoms), np.float32(target), count))


def test_one_and_two_atoms_by_hand():
    atoms, target = [[(1, 0), (0, 1), (1, 1)]], [(2, 3)]
    np.testing.assert_allclose(found(atoms, target, 1), [[0, 0, 2.5]], rtol=1e-6)
    atoms, target = np.float32(atoms), np.float32(target)
    one, two = (np.asarray(rebuild(atoms, target, count)) for count in (1, 2))
    left = np.linalg.norm(one - target)
    np.testing.assert_allclose(left, np.sqrt(0.5), rtol=1e-6)
    np.testing.assert_allclose(two, target, rtol=1e-6)


@pytest.mark.parametrize(("size", "dimensions"), [(10, 128), (5, 768), (3, 2)])
def test_raw_atoms_as_scikit_learn(size, dimensions, parity):
    random = np.random.default_rng(size)
    # Codes behind a ReLU: not negative, many of them 0, of all lengths.
    atoms = np.maximum(random.normal(size=(60, size, dimensions)), 0)
    atoms = np.float32(atoms * random.uniform(0.1, 3, (60, size, 1)))
    target = np.float32(np.maximum(random.normal(size=(60, dimensions)), 0))
    for count in (1, 3):
        expected = by_scikit_learn(atoms, target, count)
        result = found(atoms, target, count)
        np.testing.assert_array_equal(result != 0, expected != 0)
        np.testing.assert_allclose(result, expected, rtol=2e-4, atol=1e-5)
        parity("Shape-Guided", sklearn, "matching pursuit", result, expected)


def corners():
    """Yields (name, atoms [K,2], target [2])."""
    plain = [(1, 0), (0, 1), (1, 1), (3, 1)]
    yield "a target of zeros", plain, (0, 0)
    yield "nothing but zeros", [(0, 0)] * 4, (1, 2)
    yield "atoms of zeros among others", [(0, 0), (1, 0), (0, 0), (0, 2)], (3, 1)
    yield "equal atoms", [(1, 2)] * 4, (2, 1)
    yield "equal atoms of which the first counts", [(0, 1), (1, 0), (1, 0)], (2, 1)
    yield "an atom exchanged with the first", [(1, 0), (0, 1), (9, 0), (0, 1)], (5, 1)
    yield "a target that is an atom", plain, (3, 1)
    yield "atoms along one line", [(1, 1), (2, 2), (3, 3), (-1, -1)], (1, 0)
    yield "opposite products", [(1, 0), (-1, 0), (0, 1)], (1, 0.5)
    yield "a small target", plain, (1e-4, 1e-4)
    yield "a nearly dependent atom", [(1, 0), (1, 1e-4), (0.5, 0)], (1, 1)


@pytest.mark.parametrize("case", list(corners()), ids=lambda case: case[0])
def test_corners_as_scikit_learn(case):
    _, atoms, target = case
    atoms, target = np.float32(atoms)[None], np.float32(target)[None]
    expected = by_scikit_learn(atoms, target, 3)
    np.testing.assert_allclose(found(atoms, target, 3), expected, rtol=1e-5, atol=1e-6)


def test_more_atoms_than_there_are_is_an_error():
    with pytest.raises(ValueError, match="at most 4 atoms to take, found 5"):
        matching_pursuit(np.zeros((1, 4, 2)), np.zeros((1, 2)), 5)
