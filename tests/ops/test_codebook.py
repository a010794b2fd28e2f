"""Codebooks against the public module's steps, a literal loop, and by hand."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.ops.codebook import (
    Codebook,
    code_sums,
    fold_codebook,
    health,
    init_codebook,
    nearest_code,
    straight_through,
)

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "discrete_models.npz"


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def keys(rows):
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(5), jnp.arange(rows))


def test_three_steps_are_the_public_ones(parity):
    generator = np.random.default_rng(61)
    codes, totals = (
        generator.standard_normal((6, 3)).astype(np.float32) for _ in range(2)
    )
    codebook = Codebook(codes, np.zeros(6, np.float32), totals)
    with np.load(GOLDEN) as golden:
        for step in range(3):
            z = generator.standard_normal((2, 4, 4, 3)).astype(np.float32)
            index = nearest_code(codebook.codes, z)
            q = codebook.codes[index]
            np.testing.assert_allclose(
                q, golden[f"step{step}_quantised"], rtol=1e-5, atol=1e-6
            )
            commitment = 0.25 * np.mean((z - q) ** 2)
            np.testing.assert_allclose(
                commitment, golden[f"step{step}_loss"], rtol=1e-5
            )
            sums = code_sums(6, z, index, jnp.ones(2), keys(2))
            codebook = fold_codebook(codebook, sums)
            for name in Codebook._fields:
                np.testing.assert_allclose(
                    getattr(codebook, name), golden[f"step{step}_{name}"], rtol=2e-5
                )
                step_is = getattr(codebook, name), golden[f"step{step}_{name}"]
                parity(
                    "3DSR", "VitjanZ/3DSR 6f83317", "codebook, three steps", *step_is
                )
        # The published way of dying: no hit in three steps, and far away.
        assert np.abs(golden["step2_codes"][1]).max() > 1e4


def test_nearest_code_is_that_of_a_loop_and_the_lowest_of_equals():
    codes, z = normal(1, 9, 4), normal(2, 3, 5, 2, 4)
    codes[7] = codes[2]
    z[0, 0, 0] = codes[7]
    expected = np.empty((3, 5, 2), np.int32)
    for place in np.ndindex(3, 5, 2):
        distances = ((codes.astype(np.float64) - z[place]) ** 2).sum(1)
        expected[place] = distances.argmin()
    assert expected[0, 0, 0] == 2
    found = nearest_code(codes, z)
    assert found.dtype == jnp.int32
    np.testing.assert_array_equal(found, expected)


def test_straight_through_has_the_values_of_one_and_the_gradient_of_the_other():
    z, q, upstream = normal(3, 2, 3), normal(4, 2, 3), normal(5, 2, 3)
    value, gradient = jax.value_and_grad(
        lambda z, q: jnp.sum(upstream * straight_through(z, q)), (0, 1)
    )(z, q)
    np.testing.assert_allclose(value, np.sum(upstream * q), rtol=1e-5)
    np.testing.assert_array_equal(gradient[0], upstream)
    np.testing.assert_array_equal(gradient[1], 0)


def test_sums_of_parts_add_up_and_padding_counts_for_nothing():
    codebook = init_codebook(jax.random.key(0), 5, 3)
    z, row_keys = normal(6, 4, 2, 2, 3), keys(4)
    index = nearest_code(codebook.codes, z)
    weight = jnp.array([1.0, 1.0, 1.0, 0.0])

    def sums(rows):
        return code_sums(5, z[rows], index[rows], weight[rows], row_keys[rows])

    whole = sums(slice(0, 4))
    parts = jax.tree.map(jnp.add, sums(slice(0, 2)), sums(slice(2, 4)))
    np.testing.assert_array_equal(whole.counts, np.bincount(index[:3].ravel(), None, 5))
    for one, two in zip(
        fold_codebook(codebook, whole, revive_below=10.0),
        fold_codebook(codebook, parts, revive_below=10.0),
        strict=True,
    ):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)
    only_real = code_sums(5, z[:3], index[:3], weight[:3], row_keys[:3])
    for one, two in zip(whole, only_real, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-6, atol=1e-6)


def test_dead_codes_come_back_as_vectors_of_the_batch():
    z = normal(7, 8, 3, 3, 2)
    # Code 0 is far from everything, code 1 takes all.
    codes = jnp.array([[1e4, 1e4], [0.0, 0.0]])
    codebook = Codebook(codes, jnp.array([0.0, 72.0]), codes)
    index = nearest_code(codes, z)
    assert (index == 1).all()
    sums = code_sums(2, z, index, jnp.ones(8), keys(8))
    published = fold_codebook(codebook, sums)
    revived = fold_codebook(codebook, sums, revive_below=0.5)
    assert jnp.abs(published.codes[0]).max() > 1e4
    np.testing.assert_array_equal(revived.codes[1], published.codes[1])
    # The mean of the vectors that were offered, with the average count.
    expected = sums.seed_totals[0] / sums.seed_counts[0]
    np.testing.assert_allclose(revived.codes[0], expected, rtol=1e-5)
    np.testing.assert_allclose(revived.counts[0], 36.0, rtol=1e-5)
    assert jnp.abs(revived.codes[0]).max() < np.abs(z).max()
    again = nearest_code(revived.codes, z)
    assert 0 < jnp.mean(again == 0) < 1


def test_a_seed_is_a_vector_of_its_own_row():
    z = normal(8, 1, 4, 4, 2)
    sums = code_sums(4096, z, jnp.zeros((1, 4, 4), jnp.int32), jnp.ones(1), keys(1))
    assert float(sums.seed_counts.sum()) == 8
    vectors = {tuple(v) for v in z.reshape(-1, 2)}
    alone = np.asarray(sums.seed_counts) == 1
    assert {tuple(v) for v in np.asarray(sums.seed_totals)[alone]} <= vectors


@pytest.mark.parametrize(
    ("counts", "perplexity", "dead"),
    [
        ([2.0] * 7, 7.0, 0),
        ([3.0, 0.0, 3.0, 0.0], 2.0, 2),
        ([1.0, 3.0], 4 / 3**0.75, 0),  # exp(1/4 ln 4 + 3/4 ln 4/3)
        ([0.0, 0.0, 0.0], 1.0, 3),
    ],
)
def test_health(counts, perplexity, dead):
    counts = jnp.array(counts)
    codes = jnp.zeros((len(counts), 2))
    said = health(Codebook(codes, counts, codes))
    np.testing.assert_allclose(said["perplexity"], perplexity, rtol=1e-5)
    assert said["dead"] == dead


def test_a_batch_of_padding_leaves_finite_numbers():
    codebook = init_codebook(jax.random.key(0), 4, 2)
    index = jnp.zeros((2, 3), jnp.int32)
    sums = code_sums(4, jnp.zeros((2, 3, 2)), index, jnp.zeros(2), keys(2))
    folded = fold_codebook(codebook, sums, revive_below=1.0)
    assert all(bool(jnp.isfinite(x).all()) for x in folded)
