import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.ops.perlin import perlin_noise, rotated_perlin_noise


def literal_noise(angles, cells, height, width):
    """Perlin noise pixel by pixel in float64: four corners, quintic fade."""

    def fade(t):
        return 6 * t**5 - 15 * t**4 + 10 * t**3

    noise = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            y, x = i * cells[0] / height, j * cells[1] / width
            row, column = int(y), int(x)
            corners = np.zeros((2, 2))
            for di in (0, 1):
                for dj in (0, 1):
                    angle = angles[row + di, column + dj]
                    away_y, away_x = y - row - di, x - column - dj
                    corners[di, dj] = np.sin(angle) * away_y + np.cos(angle) * away_x
            along_x = corners[:, 0] + fade(x - column) * (corners[:, 1] - corners[:, 0])
            noise[i, j] = along_x[0] + fade(y - row) * (along_x[1] - along_x[0])
    return np.sqrt(2) * noise


@pytest.mark.parametrize("size", [(16, 24), (17, 5)])
@pytest.mark.parametrize("exponent", [0, 2, 5])
def test_noise_is_that_of_the_literal_loop(size, exponent):
    key = jax.random.key(3)
    noise = perlin_noise(key, *size, (exponent, exponent))
    angles = jax.random.uniform(jax.random.split(key)[1], (33, 33), maxval=2 * jnp.pi)
    cells = (2**exponent, 2**exponent)
    expected = literal_noise(np.asarray(angles, np.float64), cells, *size)
    np.testing.assert_allclose(noise, expected, atol=2e-5)


def test_noise_vanishes_on_the_lattice_and_stays_below_one():
    keys = jax.random.split(jax.random.key(0), 200)
    noise = jax.vmap(lambda k: perlin_noise(k, 32, 32, (3, 3)))(keys)
    np.testing.assert_allclose(noise[:, ::4, ::4], 0.0, atol=1e-5)
    assert 0.7 < float(jnp.max(jnp.abs(noise))) < 1.0


def test_both_frequencies_are_drawn_uniformly_and_independently():
    """Between lattice nodes noise of few cells changes slowly: count zero columns."""
    keys = jax.random.split(jax.random.key(1), 1200)
    noise = jax.jit(jax.vmap(lambda k: perlin_noise(k, 32, 32, (0, 2))))(keys)
    zero = jnp.abs(noise) < 1e-6
    down = jnp.sum(zero[:, :, 0], axis=1)  # zeros down the first column: the cells
    across = jnp.sum(zero[:, 0, :], axis=1)
    pairs, counts = np.unique(np.stack([down, across]), axis=1, return_counts=True)
    assert sorted(map(tuple, pairs.T)) == [(a, b) for a in (1, 2, 4) for b in (1, 2, 4)]
    assert np.all(np.abs(counts / 1200 - 1 / 9) < 0.035)


def test_mask_coverage_and_empty_share_are_those_of_draem():
    keys = jax.random.split(jax.random.key(2), 1500)
    draw = jax.jit(jax.vmap(lambda k: rotated_perlin_noise(k, 256, 256) > 0.5))
    masks = [
        np.asarray(draw(keys[i : i + 50])).mean((1, 2)) for i in range(0, 1500, 50)
    ]
    coverage = np.concatenate(masks)
    assert abs(coverage.mean() - 0.048) < 0.002
    assert abs(np.median(coverage) - 0.046) < 0.003
    assert abs(np.percentile(coverage, 95) - 0.089) < 0.008
    assert abs((coverage == 0).mean() - 0.037) < 0.015


def test_without_rotation_noise_is_unturned():
    key = jax.random.key(5)
    plain = perlin_noise(jax.random.split(key)[0], 20, 20)
    np.testing.assert_allclose(rotated_perlin_noise(key, 20, 20, 0.0), plain, atol=1e-5)


def test_exponents_may_be_traced():
    key = jax.random.key(7)
    draw = jax.jit(lambda low, high: perlin_noise(key, 16, 16, (low, high)))
    np.testing.assert_allclose(draw(1, 4), perlin_noise(key, 16, 16, (1, 4)), atol=1e-5)


@pytest.mark.parametrize("exponents", [(0, 6), (-1, 2), (3, 1)])
def test_exponents_out_of_range_are_refused(exponents):
    with pytest.raises(ValueError, match="exponents"):
        perlin_noise(jax.random.key(0), 8, 8, exponents)
