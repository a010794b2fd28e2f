"""Simulated depth."""

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.ops.perlin import rotated_perlin_noise
from ad3d_jax.synthesis.depth import simulate_depth


def keys(rows):
    return jax.random.split(jax.random.key(3), rows)


simulate = jax.jit(simulate_depth, static_argnums=(1, 2, 3))


def test_depth_fills_a_random_part_of_the_unit_range():
    depth = np.asarray(simulate(keys(64), 48, 40))
    assert depth.shape == (64, 48, 40, 1)
    low, high = depth.min((1, 2, 3)), depth.max((1, 2, 3))
    # alpha + beta <= 1, so that a clip would change nothing.
    assert low.min() >= 0 and high.max() <= 1 + 1e-6
    # alpha ~ U(0,1): 64 of them have quartiles near 1/4, 1/2, 3/4.
    alpha = high - low
    np.testing.assert_allclose(
        np.quantile(alpha, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.2
    )
    # beta / (1 - alpha) ~ U(0,1) and independent of alpha.
    position = low / (1 - alpha)
    assert abs(position.mean() - 0.5) < 0.15
    assert abs(np.corrcoef(alpha, position)[0, 1]) < 0.35


def test_without_the_affine_map_depth_is_stretched_noise():
    depth = np.asarray(simulate(keys(3), 32, 32, False))
    np.testing.assert_array_equal(depth.min((1, 2, 3)), 0)
    np.testing.assert_array_equal(depth.max((1, 2, 3)), 1)
    noise = rotated_perlin_noise(jax.random.split(keys(3)[1])[0], 32, 32)
    expected = (noise - noise.min()) / (noise.max() - noise.min())
    np.testing.assert_allclose(depth[1, ..., 0], expected, atol=1e-5)


def test_a_row_depends_on_its_own_key():
    both = simulate(keys(4), 16, 24)
    np.testing.assert_allclose(both[2:], simulate(keys(4)[2:], 16, 24), atol=1e-6)
    assert jnp.abs(both[0] - both[1]).max() > 0.01
