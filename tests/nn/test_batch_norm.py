import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from ad3d_jax.base import ALONE, Across
from ad3d_jax.nn.batch_norm import BatchNorm, fold
from ad3d_jax.nn.rows import Rows

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((5, 4, 6, 3)) * [1.0, 3.0, 0.1] + [0.0, 50.0, -2.0]).astype(
    np.float32
)
PARAMS = {
    "scale": jnp.array([1.5, -0.5, 2.0]),
    "bias": jnp.array([0.1, 0.2, -0.3]),
}
STATS = {
    "mean": jnp.array([0.5, 10.0, -1.0]),
    "var": jnp.array([2.0, 4.0, 0.5]),
}


def apply(x, weight=None, across=ALONE, params=PARAMS):
    variables = {"params": params, "batch_stats": STATS}
    y, written = BatchNorm().apply(
        variables, x, Rows(True, weight, across), mutable=["sums"]
    )
    return y, written["sums"]


def reference(x):
    x = x.astype(np.float64)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    scale, bias = np.float64(PARAMS["scale"]), np.float64(PARAMS["bias"])
    return (x - mean) / np.sqrt(var + 1e-5) * scale + bias


def test_training_output_matches_float64():
    np.testing.assert_allclose(apply(X)[0], reference(X), rtol=1e-4, atol=1e-4)


def test_inference_uses_running_statistics():
    y = BatchNorm().apply({"params": PARAMS, "batch_stats": STATS}, X)
    mean, var = np.float64(STATS["mean"]), np.float64(STATS["var"])
    expected = (X.astype(np.float64) - mean) / np.sqrt(var + 1e-5)
    expected = expected * np.float64(PARAMS["scale"]) + np.float64(PARAMS["bias"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_value_and_gradients_match_flax_where_nothing_is_padded():
    ours, theirs = BatchNorm(), nn.BatchNorm(False, epsilon=1e-5, use_fast_variance=0)
    x = jnp.asarray(RNG.standard_normal((4, 5, 3, 3)), jnp.float32)
    g = jnp.asarray(RNG.standard_normal(x.shape), jnp.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def pulled(function):
        y, pull = jax.vjp(function, PARAMS, x)
        return y, pull(g)

    def flax(params, x):
        variables = {"params": params, "batch_stats": STATS}
        return theirs.apply(variables, x, mutable=["batch_stats"])[0]

    assert ours.epsilon == theirs.epsilon
    expected = pulled(flax)
    got = pulled(lambda params, x: apply(x, params=params)[0])
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def padded(fill):
    filler = np.full((3, *X.shape[1:]), fill, np.float32)
    rows = np.concatenate([X[:2], filler[:2], X[2:], filler[2:]])
    weight = np.array([1, 1, 0, 0, 1, 1, 1, 0], np.float32)
    return rows, weight


@pytest.mark.parametrize("fill", [0.0, 1e3])
def test_padded_rows_change_neither_values_nor_sums_nor_gradients(fill):
    rows, weight = padded(fill)
    y, sums = apply(rows, weight)
    expected, expected_sums = apply(X)
    np.testing.assert_allclose(y[weight > 0], expected, rtol=1e-5, atol=1e-5)
    for name, value in expected_sums.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-5, err_msg=name)

    @jax.jit
    @jax.grad
    def gradient(x, weight):
        return ((apply(x, weight)[0] - 1.0) ** 2 * weight[:, None, None, None]).sum()

    got = gradient(jnp.asarray(rows), weight)
    expected = gradient(jnp.asarray(X), np.ones(5, np.float32))
    np.testing.assert_allclose(got[weight > 0], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(got[weight == 0], 0.0)


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_agree_with_one_even_if_one_holds_only_padding(devices):
    rows = jnp.concatenate([X, jnp.zeros((11, *X.shape[1:]))])
    weight = jnp.array([1.0] * 5 + [0.0] * 11)  # the last device gets padding alone
    across = Across(
        sum=lambda x: jax.lax.psum(x, "devices"),
        gather=lambda x: jax.lax.all_gather(x, "devices", tiled=True),
    )

    def loss(params, x, weight, across):
        y, sums = apply(x, weight, across, params)
        loss = ((y - 1.0) ** 2 * weight[:, None, None, None]).sum()
        return loss, (y, sums)

    grad = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    (one_loss, (one_y, one_sums)), one_grad = jax.jit(
        lambda *a: grad(PARAMS, *a, ALONE)
    )(rows, weight)
    split = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), (rows, weight))
    (loss, (y, sums)), (in_params, in_rows) = jax.jit(
        jax.vmap(lambda *a: grad(PARAMS, *a, across), axis_name="devices")
    )(*split)
    assert not split[1][-1].any()

    def close(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)

    close(loss.sum(), one_loss)
    close(y.reshape(one_y.shape), one_y)
    close(in_rows.reshape(rows.shape), one_grad[1])
    jax.tree.map(lambda a, b: close(a.sum(0), b), in_params, one_grad[0])
    jax.tree.map(lambda a, b: close(a.sum(0), b), sums, one_sums)


def test_nothing_real_gives_finite_values_and_gradients():
    def loss(x):
        y, sums = apply(x, jnp.zeros(5))
        return (y**2).sum(), (y, sums)

    found = jax.tree.leaves(jax.value_and_grad(loss, has_aux=True)(jnp.asarray(X)))
    assert all(np.isfinite(leaf).all() for leaf in found)


def test_deep_stacks_of_nothing_real_do_not_overflow():
    """Zeros of weight 0 with a variance of 0 would grow by 316 in each layer."""
    x, weight = jnp.zeros((2, 1, 1, 3)), jnp.zeros(2)
    y, _ = apply(x, weight)
    np.testing.assert_allclose(y[0, 0, 0], PARAMS["bias"], rtol=1e-6)
    moved, _ = apply(x + 1.0, weight)
    expected = PARAMS["scale"] + PARAMS["bias"]
    np.testing.assert_allclose(moved[0, 0, 0], expected, rtol=1e-4)


def test_a_large_offset_does_not_cancel():
    x = jnp.asarray(X[..., :1] + 1e4)
    x = jnp.broadcast_to(x, X.shape)
    _, sums = apply(x)
    expected = np.float64(x).var((0, 1, 2)) * 120
    np.testing.assert_allclose(sums["centred_square"], expected, rtol=1e-3)


def test_fold_is_pytorchs_update():
    _, sums = apply(X)
    new = fold({"a": {"norm": STATS}}, {"a": {"norm": sums}}, momentum=0.25)["a"][
        "norm"
    ]
    mean = X.astype(np.float64).mean((0, 1, 2))
    var = X.astype(np.float64).var((0, 1, 2), ddof=1)
    expected_mean = 0.75 * np.float64(STATS["mean"]) + 0.25 * mean
    expected_var = 0.75 * np.float64(STATS["var"]) + 0.25 * var
    np.testing.assert_allclose(new["mean"], expected_mean, rtol=1e-5)
    np.testing.assert_allclose(new["var"], expected_var, rtol=1e-4)


def test_fold_of_nothing_keeps_the_statistics():
    _, sums = apply(X, np.zeros(5, np.float32))
    kept = fold({"norm": STATS, "other": STATS}, {"norm": sums})
    jax.tree.map(np.testing.assert_array_equal, kept, {"norm": STATS, "other": STATS})


def test_two_calls_in_one_training_application_are_an_error():
    class Twice(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = BatchNorm()
            return norm(norm(x, Rows(True)), Rows(True))

    variables = Twice().init(jax.random.key(0), X)
    assert set(variables) == {"params", "batch_stats"}
    with pytest.raises(ValueError, match="BatchNorm_0 was called twice"):
        Twice().apply(variables, X, mutable=["sums"])


def test_rows_several_times_are_their_weights_several_times():
    rows = Rows(True, jnp.array([1.0, 0.0]))
    np.testing.assert_array_equal(rows.times(3).weight, [1, 0, 1, 0, 1, 0])
    assert rows.times(1) is rows and Rows(True).times(4).weight is None
