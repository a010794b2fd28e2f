import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.losses import (
    focal_loss,
    reconstruction_map,
    set_weighted_reconstruction,
)

# DRAEM's published loss module gives these (probability of anomalous, target, value).
DRAEM_VALUES = [(0.5, 0, 0.173275), (0.5, 1, 0.173275), (0.1, 1, 1.864874)]
DRAEM_VALUES += [(0.1, 0, 0.0010535)]


@pytest.mark.parametrize(("anomalous", "target", "value"), DRAEM_VALUES)
def test_focal_loss_values(anomalous, target, value):
    probabilities = jnp.array([[1 - anomalous, anomalous]])
    target = jnp.array([target])
    plain = focal_loss(probabilities, target, alpha=None)
    np.testing.assert_allclose(plain, value, rtol=1e-4)
    weighted = focal_loss(probabilities, target)
    np.testing.assert_allclose(
        weighted, value * (0.75 if target[0] else 0.25), rtol=1e-4
    )


def test_focal_loss_without_focus_is_cross_entropy():
    p = jnp.array([[0.3, 0.7], [0.9, 0.1]])
    loss = focal_loss(p, jnp.array([1, 1]), gamma=0.0, alpha=None)
    np.testing.assert_allclose(loss, -np.log([0.7, 0.1]), rtol=2e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_finite_for_certain_predictions(gamma):
    p = jnp.array([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]])
    for target in (jnp.zeros(3), jnp.ones(3)):
        loss = focal_loss(p, target, gamma)
        gradient = jax.grad(lambda p, t=target: focal_loss(p, t, gamma).sum())(p)
        assert jnp.all(jnp.isfinite(loss)) and jnp.all(loss >= 0)
        assert jnp.all(jnp.isfinite(gradient))
    assert float(focal_loss(p, jnp.array([1, 0, 0]), 2.0)[:2].max()) < 1e-9


def sample(key=0, rows=2, side=12):
    generator = np.random.default_rng(key)
    target, reconstruction = generator.random((2, rows, side, side, 3)).astype(
        np.float32
    )
    foreground = np.zeros((rows, side, side, 1), bool)
    foreground[:, 2:10, 3:11] = True
    mask = np.zeros((rows, side, side, 1), np.float32)
    mask[0, 4:8, 4:9] = 1.0
    return target, reconstruction, foreground, mask


@pytest.mark.parametrize("lambda_f", [True, False])
@pytest.mark.parametrize("lambda_m", [True, False])
@pytest.mark.parametrize("cap", [10.0, 1.5])
def test_sets_are_weighed_by_hand(lambda_f, lambda_m, cap):
    target, reconstruction, foreground, mask = sample()
    loss = set_weighted_reconstruction(
        target, reconstruction, foreground, mask, lambda_f, lambda_m, cap
    )
    errors = np.asarray(reconstruction_map(target, reconstruction), np.float64)
    for row, (altered, on_object) in enumerate([(20, 44), (0, 64)]):
        weight_f = np.clip(80 / on_object, 1, cap) if lambda_f else 1.0
        weight_m = np.clip(144 / max(altered, 1), 1, cap) if lambda_m else 1.0
        m = mask[row, ..., 0] > 0
        f = foreground[row, ..., 0] & ~m
        total = errors[row][~f & ~m].sum()
        total += weight_f * errors[row][f].sum() + weight_m * errors[row][m].sum()
        np.testing.assert_allclose(loss[row], total / 144, rtol=1e-5)


def test_map_is_squared_error_plus_dissimilarity():
    target = jnp.full((1, 32, 32, 2), 0.2)
    reconstruction = jnp.stack([target[..., 0], jnp.full((1, 32, 32), 0.6)], axis=-1)
    similarity = (2 * 0.2 * 0.6 + 1e-4) / (0.04 + 0.36 + 1e-4)
    expected = 0.16 / 2 + 1 - (1 + similarity) / 2
    centre = reconstruction_map(target, reconstruction)[0, 16, 16]
    np.testing.assert_allclose(centre, expected, rtol=1e-4)


def test_gradient_agrees_with_finite_differences():
    target, reconstruction, foreground, mask = sample()

    def loss(r):
        return set_weighted_reconstruction(target, r, foreground, mask).sum()

    direction = np.random.default_rng(5).normal(size=target.shape).astype(np.float32)
    slope = float(jnp.vdot(jax.grad(loss)(jnp.asarray(reconstruction)), direction))
    step = 2e-3
    ahead, behind = (loss(reconstruction + s * step * direction) for s in (1, -1))
    assert slope == pytest.approx(float(ahead - behind) / (2 * step), rel=0.02)


@pytest.mark.parametrize("level", [0.0, 0.5])
@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("altered", [0.0, 1.0])
def test_finite_for_constant_images_and_empty_sets(level, foreground, altered):
    image = jnp.full((1, 12, 12, 1), level)
    sets = jnp.full(image.shape, foreground), jnp.full(image.shape, altered)

    def loss(r):
        return set_weighted_reconstruction(image, r, *sets).sum()

    for reconstruction in (image, image + 0.1):
        value, gradient = jax.value_and_grad(loss)(reconstruction)
        assert jnp.isfinite(value) and jnp.all(jnp.isfinite(gradient))
    assert float(loss(image)) == pytest.approx(0.0, abs=1e-4)


def test_a_sample_does_not_depend_on_its_batch():
    arrays = sample(rows=3)
    together = set_weighted_reconstruction(*arrays)
    alone = set_weighted_reconstruction(*(x[1:2] for x in arrays))
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-6)
