"""A program of float32 in float64 is what NumPy and JAX compute in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import ALONE
from ad3d_jax.testing.float64 import evaluate, widened

X = np.random.default_rng(0).uniform(0.5, 2, (3, 6))  # float64
TIGHT = 1e-13


def elementwise(x):
    """Its float64 counterpart below is written for NumPy."""
    half = jnp.float32(0.5) * x.astype(jnp.bfloat16).astype(jnp.float32)
    root = jnp.sqrt(x) + jnp.exp(-x) * jnp.log(x) / x**3
    whole = jnp.floor(3 * x) + (jnp.arange(6) % 4)[None] + half
    turned = jnp.pad(jnp.flip(root, 1).T, ((1, 0), (0, 2)), constant_values=7)
    return jnp.where(x > 1, whole, root), turned, jnp.max(root, 0) - jnp.sum(x, 0)


def elementwise_by_numpy(x):
    root = np.sqrt(x) + np.exp(-x) * np.log(x) / x**3
    whole = np.floor(3 * x) + np.arange(6) % 4 + 0.5 * x
    turned = np.pad(root[:, ::-1].T, ((1, 0), (0, 2)), constant_values=7)
    return np.where(x > 1, whole, root), turned, root.max(0) - x.sum(0)


def loops(x):
    stacked = jax.lax.scan(lambda c, row: (c * row + 1, c), x[0], x, reverse=True)
    halved = jax.lax.while_loop(lambda y: y.max() > 0.1, lambda y: y / 3, x)
    either = jax.lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x)
    return stacked, halved, either


def solves(x):
    def best(found, row):
        return jnp.where(row[0] > 1, found, 5), row[0]

    place, _ = jax.lax.scan(best, jnp.int32(2), x)
    inverse = jnp.linalg.inv(x @ x.T + jnp.eye(3, dtype=x.dtype))
    return inverse * place.astype(x.dtype), jnp.argmin(inverse, 1).astype(x.dtype)


def layers(x):
    image = jnp.stack([x, 1 - x], -1)[None]
    kernel = jnp.reshape(jnp.tile(x[:, :3], 4), (3, 3, 2, 2))
    numbers = ("NHWC", "HWIO", "NHWC")
    folded = jax.lax.conv_general_dilated(
        image, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )
    sums = jnp.zeros(4, x.dtype).at[jnp.array([0, 2, 2])].add(x[:, 0])
    return jax.nn.relu(folded - 1), x @ x.T, sums, jnp.sort(x, 1), x[:, jnp.array([5])]


def gradients(x):
    def loss(x):
        folded, square, *_ = layers(x)
        return jnp.sum(jnp.tanh(folded)) + jnp.linalg.norm(square)

    return jax.value_and_grad(loss)(x)


def recomputed(x):
    @jax.checkpoint
    def add(total, row):
        return total + jnp.sum(jnp.tanh(row[None] * x)), None

    return jax.grad(lambda x: jax.lax.scan(add, 0 * x[0, 0], x)[0])(x)


def in_float64(function, *arguments):
    with jax.enable_x64(True):
        shapes = [jax.ShapeDtypeStruct(x.shape, np.float32) for x in arguments]
        with jax.enable_x64(False):
            program = jax.make_jaxpr(function)(*shapes)
        return [np.asarray(x) for x in evaluate(program, arguments)]


def close(found, expected):
    expected = jax.tree.leaves(jax.device_get(expected))
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == np.float64
        np.testing.assert_allclose(one, other, rtol=TIGHT, atol=TIGHT)


def test_elementwise_programs_are_those_of_numpy():
    close(in_float64(elementwise, X), elementwise_by_numpy(X))


@pytest.mark.parametrize("function", [loops, solves, layers, gradients, recomputed])
def test_what_is_not_numpys_is_as_jax_computes_it_in_float64(function):
    with jax.enable_x64(True):
        expected = jax.jit(function)(jnp.asarray(X))
    close(in_float64(function, X), expected)


def test_float32_is_far_from_it():
    """Else the comparisons above would say nothing."""
    alone = jax.jit(loops)(jnp.float32(X))
    apart = np.abs(np.asarray(alone[1]) - in_float64(loops, X)[2]).max()
    assert apart > 1e3 * TIGHT


def test_random_numbers_are_those_of_float32():
    def draw(x):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(3))
        return jax.vmap(lambda key: jax.random.uniform(key, x.shape[1:]))(keys)

    (found,) = in_float64(draw, X)
    np.testing.assert_array_equal(found, np.float64(draw(jnp.float32(X))))


@pytest.mark.parametrize("devices", [None, 2])
def test_it_can_be_compiled(devices):
    def step(x, across):
        return across.sum(jnp.sum(jnp.sqrt(x) / 3)) * x, (loops(x), solves(x))

    x = np.stack([X, X + 1])
    across = ALONE._replace(sum=lambda x: jax.lax.psum(x, "batch"))
    if devices is None:
        across, run = ALONE, jax.jit(lambda x: widened(step)(x[0], ALONE))
        total = np.sum(np.sqrt(X) / 3)
    else:
        run = jax.pmap(lambda x: widened(step)(x, across), axis_name="batch")
        total = np.sum(np.sqrt(x) / 3)
    with jax.enable_x64(True):
        found, rest = run(x)
        expected = jax.jit(lambda x: (loops(x), solves(x)))(jnp.asarray(X))
    first = found if devices is None else found[0]
    assert first.dtype == np.float64
    np.testing.assert_allclose(first, total * X, rtol=TIGHT)
    if devices is None:
        close(jax.tree.leaves(jax.device_get(rest)), expected)


CONVOLUTIONS = {
    "strides": {"window_strides": (2, 1), "padding": ((1, 2), (0, 0))},
    "transposed": {"padding": ((2, 1), (2, 2)), "lhs_dilation": (2, 3)},
    "dilated": {"padding": ((2, 2), (0, 3)), "rhs_dilation": (2, 1)},
    "cropped": {"padding": ((-1, 0), (1, -2))},
    "grouped": {"padding": "SAME", "feature_group_count": 2},
    "batches": {"padding": "VALID", "batch_group_count": 2},
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_a_convolution_and_its_gradients_are_jaxs(kind):
    parameters = {"window_strides": (1, 1), **CONVOLUTIONS[kind]}
    draw = np.random.default_rng(1).normal
    image = draw(size=(2, 7, 8, 4))
    inputs = 4 // parameters.get("feature_group_count", 1)
    kernel = draw(size=(3, 2, inputs, 6))

    def convolved(image, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            image, kernel, **parameters, dimension_numbers=numbers
        )

    def both(image, kernel):
        result, back = jax.vjp(convolved, image, kernel)
        return result, *back(jnp.cos(result))

    with jax.enable_x64(True):
        expected = both(image, kernel)
    close(in_float64(both, image, kernel), expected)


def test_products_are_jaxs():
    draw = np.random.default_rng(2).normal
    x, y = draw(size=(3, 2, 4, 5)), draw(size=(4, 6, 2, 3))

    def products(x, y):
        return (
            jnp.einsum("abcd,cebf->bedaf", x, y),
            jnp.einsum("abcd,dcga->cag", x, jnp.ones((5, 4, 2, 3), x.dtype)),
            jnp.einsum("abcd,b->adc", x, y[0, 0, :, 0]),
            jnp.vdot(x, x),
        )

    with jax.enable_x64(True):
        expected = products(x, y)
    close(in_float64(products, x, y), expected)
