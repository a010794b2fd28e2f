import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.ops.dropout import drop_path, dropout, layer_keys

KEYS = jax.random.split(jax.random.key(0), 4)


@pytest.mark.parametrize("rate", [0.6, 0.4, 0.2])
def test_fraction_and_scale(rate):
    y = np.asarray(dropout(KEYS, jnp.ones((4, 64, 64, 5)), rate))
    fraction = (y == 0).mean()
    deviation = np.sqrt(rate * (1 - rate) / y.size)
    assert abs(fraction - rate) < 4 * deviation
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-4)


def test_draws_are_independent_of_their_neighbours():
    dropped = np.asarray(dropout(KEYS, jnp.ones((4, 128, 128, 4)), 0.5)) == 0
    for axis in (1, 2, 3):
        first = np.delete(dropped, 0, axis)
        second = np.delete(dropped, -1, axis)
        correlation = np.corrcoef(first.ravel(), second.ravel())[0, 1]
        assert abs(correlation) < 4 / np.sqrt(first.size)
    assert not (dropped[0] == dropped[1]).all()


@pytest.mark.parametrize("function", [dropout, drop_path])
def test_rows_depend_on_their_own_key_alone(function):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((4, 3, 3, 5)), jnp.float32)
    y = function(KEYS, x, 0.5)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_array_equal(function(KEYS[order], x[order], 0.5), y[order])
    np.testing.assert_array_equal(function(KEYS[1:2], x[1:2], 0.5), y[1:2])


def test_drop_path_keeps_or_drops_whole_rows():
    keys = jax.random.split(jax.random.key(1), 2000)
    y = np.asarray(drop_path(keys, jnp.ones((2000, 2, 3)), 0.3)).reshape(2000, -1)
    assert (y == y[:, :1]).all()
    assert abs((y[:, 0] == 0).mean() - 0.3) < 4 * np.sqrt(0.21 / 2000)
    np.testing.assert_allclose(y.max(), 1 / 0.7, rtol=1e-4)


def test_rate_zero_is_the_identity_and_rate_one_an_error():
    x = jnp.ones((4, 2))
    assert dropout(KEYS, x, 0.0) is x
    with pytest.raises(ValueError, match="rate must be in"):
        dropout(KEYS, x, 1.0)


def test_layers_draw_differently():
    x = jnp.ones((4, 32, 32, 1))
    masks = [np.asarray(dropout(layer_keys(KEYS, n), x, 0.5)) for n in range(2)]
    assert (masks[0] != masks[1]).mean() > 0.4
    assert layer_keys(None, 0) is None
