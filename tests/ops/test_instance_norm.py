import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.ops.instance_norm import instance_norm

# torch 2.13.0's InstanceNorm2d(2) of the squares of 0..7, [1,2,2,2].
TORCH = np.array(
    [
        [[-0.9999996, -0.7142855], [0.1428571, 1.5714279]],
        [[-1.2561833, -0.5267865], [0.3646984, 1.4182715]],
    ]
)


def test_by_hand():
    """Values -2, 0, 0, 2 have variance 2; a constant channel becomes 0."""
    x = jnp.stack([jnp.array([[-2.0, 0.0], [0.0, 2.0]]) + 5.0, jnp.ones((2, 2))], -1)
    y = instance_norm(x[None], epsilon=0.25)
    expected = np.array([[-2.0, 0.0], [0.0, 2.0]]) / 1.5
    np.testing.assert_allclose(y[0, ..., 0], expected, rtol=1e-6)
    np.testing.assert_array_equal(y[0, ..., 1], 0.0)


def test_is_pytorchs():
    x = np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2) ** 2
    found = instance_norm(jnp.asarray(x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2)[0], TORCH, atol=1e-5)


def test_images_do_not_mix_and_types_stay():
    x = jax.random.normal(jax.random.key(0), (3, 8, 8, 2))
    together = instance_norm(x)
    alone = jnp.concatenate([instance_norm(row[None]) for row in x])
    np.testing.assert_array_equal(together, alone)
    narrow = instance_norm(x.astype(jnp.bfloat16))
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(narrow.astype(jnp.float32), together, atol=0.03)
