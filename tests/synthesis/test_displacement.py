import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage
import scipy.stats

from ad3d_jax.ops.perlin import rotated_perlin_noise
from ad3d_jax.synthesis.displacement import (
    Displacement,
    displace,
    skew_gaussian_kernel,
    ternary_mask,
)

SIDE = 48
REACH = 9
PARAMETERS = Displacement(sigma_low=0.5, sigma_high=3.0)


def samples(rows, seed=0):
    """Returns keys, depth in [0.3, 0.7] and a foreground with a border."""
    generator = np.random.default_rng(seed)
    depth = generator.uniform(0.3, 0.7, (rows, SIDE, SIDE, 1)).astype(np.float32)
    foreground = np.zeros((rows, SIDE, SIDE, 1), bool)
    foreground[:, 4:-6, 5:-3] = True
    return jax.random.split(jax.random.key(seed), rows), depth, foreground


@jax.jit
def run(keys, depth, foreground, parameters=PARAMETERS):
    return jax.vmap(lambda *row: displace(*row, parameters, REACH))(
        keys, depth, foreground
    )


def test_ternary_mask_by_hand():
    noise = jnp.array([0.6, 0.5, -0.5, -0.6, 0.0, 0.9, -0.9])[:, None, None]
    foreground = jnp.array([True, True, True, True, True, False, False])
    found = ternary_mask(noise, foreground[:, None, None], 0.5)
    np.testing.assert_array_equal(found.ravel(), [1, 0, 0, -1, 0, 0, 0])


@pytest.mark.parametrize("sigma", [1.0, 2.5, 6.0])
@pytest.mark.parametrize("skew", [-4.0, -0.7, 0.0, 1.0, 3.0])
def test_kernel_is_scipys_skew_normal_density(sigma, skew):
    found = np.asarray(skew_gaussian_kernel(sigma, skew, 18))
    expected = scipy.stats.skewnorm.pdf(np.arange(-18, 19), skew, scale=sigma)
    np.testing.assert_allclose(found, expected / expected.sum(), atol=1e-6)
    assert found.sum() == pytest.approx(1.0, abs=1e-6)
    mean = found @ np.arange(-18, 19)
    expected = sigma * np.sqrt(2 / np.pi) * skew / np.sqrt(1 + skew**2)
    assert mean == pytest.approx(expected, abs=0.06)  # the integral is a sum here
    if skew == 0:
        np.testing.assert_allclose(found, found[::-1], atol=1e-7)
    else:
        assert np.sign(mean) == np.sign(skew)


def test_profile_is_scipys_correlation_with_the_drawn_kernels():
    key, depth, foreground = (x[0] for x in samples(1))
    foreground = np.ones_like(foreground)
    out = displace(key, depth, foreground, PARAMETERS, REACH)
    noise_key, sigma_key, skew_key, amplitude_key = jax.random.split(key, 4)
    noise = np.asarray(rotated_perlin_noise(noise_key, SIDE, SIDE))
    steps = (noise > 0.5).astype(float) - (noise < -0.5)
    sigma = 0.5 + 2.5 * np.asarray(jax.random.uniform(sigma_key, (2,)))
    skew = -4 + 8 * np.asarray(jax.random.uniform(skew_key, (2,)))
    rows, columns = (
        scipy.stats.skewnorm.pdf(np.arange(-REACH, REACH + 1), skew[i], scale=sigma[i])
        for i in range(2)
    )
    kernel = np.outer(rows / rows.sum(), columns / columns.sum())
    profile = scipy.ndimage.correlate(steps, kernel, mode="constant")
    np.testing.assert_allclose(out.profile[..., 0], profile, atol=1e-5)
    assert np.abs(profile).max() > 0.3  # or nothing was compared
    amplitude = 0.05 + 0.25 * float(jax.random.uniform(amplitude_key))
    inside = np.abs(profile) > 0.05
    expected = depth[..., 0] + amplitude * profile * inside
    np.testing.assert_allclose(out.depth[..., 0], expected, atol=1e-5)
    np.testing.assert_array_equal(out.mask[..., 0], inside)


def test_depth_moves_by_its_amplitude_at_most_and_only_in_the_mask():
    keys, depth, foreground = samples(64)
    out = jax.device_get(run(keys, depth, foreground))
    change = out.depth - depth
    assert np.abs(change).max() <= 0.3 + 1e-6
    assert np.all(change[~out.mask] == 0)
    assert not np.any(out.mask & ~foreground)
    inside = out.mask & (np.abs(out.profile) > 0.06)
    assert np.all(np.sign(change[inside]) == np.sign(out.profile[inside]))
    assert np.any(change > 0.1) and np.any(change < -0.1)
    # A sample has one amplitude.
    share = np.where(out.mask, change / np.where(out.mask, out.profile, 1), np.nan)
    some = out.mask.any((1, 2, 3))
    low, high = np.nanmin(share[some], (1, 2, 3)), np.nanmax(share[some], (1, 2, 3))
    np.testing.assert_allclose(low, high, atol=1e-4)
    assert low.min() >= 0.05 - 1e-4 and high.max() <= 0.3 + 1e-4
    assert np.ptp(low) > 0.15


def test_depth_is_clipped():
    keys, depth, foreground = samples(32)
    strong = PARAMETERS._replace(amplitude_low=5.0, amplitude_high=5.0)
    out = run(keys, depth, foreground, strong)
    assert out.depth.min() == 0.0 and out.depth.max() == 1.0


def test_the_mask_is_wider_than_the_steps_but_not_than_the_foreground():
    keys, depth, foreground = samples(64)
    wide = PARAMETERS._replace(sigma_low=3.0)
    out = jax.device_get(run(keys, depth, foreground, wide))
    steep = jax.device_get(
        run(keys, depth, foreground, wide._replace(sigma_low=0.01, sigma_high=0.01))
    )
    assert out.mask.sum() > 1.3 * steep.mask.sum()
    assert set(np.unique(steep.profile)) == {-1.0, 0.0, 1.0}


def test_a_row_depends_on_its_key_alone():
    keys, depth, foreground = samples(64)
    whole = run(keys, depth, foreground)
    order = np.array([40, 3, 0])
    part = run(keys[order], depth[order], foreground[order])
    for before, after in zip(whole, part, strict=True):
        np.testing.assert_allclose(before[order], after, atol=1e-6)


def test_what_has_no_foreground_stays():
    keys, depth, foreground = samples(8)
    out = run(keys, depth, np.zeros_like(foreground))
    np.testing.assert_array_equal(out.depth, depth)
    assert not np.any(out.mask) and not np.any(out.profile)


@pytest.mark.slow
def test_coverage_of_either_sign():
    keys = jax.random.split(jax.random.key(7), 4000)

    def share(key):
        noise = rotated_perlin_noise(key, 256, 256)
        return jnp.mean(noise < -0.5), jnp.mean(noise > 0.5)

    below, above = jax.lax.map(share, keys, batch_size=50)
    assert float(jnp.mean(above)) == pytest.approx(0.048, abs=0.004)
    assert float(jnp.mean(below)) == pytest.approx(0.049, abs=0.004)
