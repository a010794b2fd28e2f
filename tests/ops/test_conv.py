from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from ad3d_jax.ops.conv import conv, kernel_gradient

SHAPE = (2, 11, 7, 3)  # of the input; 4 features come out


def drawn(size, stride=1):
    """Returns input, kernel and cotangent of the result."""
    generator = np.random.default_rng(0)
    rows, height, width, channels = SHAPE
    result = (rows, -(-height // stride), -(-width // stride), 4)
    shapes = SHAPE, (*size, channels, 4), result
    return [generator.normal(size=shape).astype(np.float32) for shape in shapes]


def correlated(x, kernel, mode):
    """Returns a plane under a kernel, by SciPy in float64."""
    return signal.correlate2d(np.float64(x), np.float64(kernel), mode)


@pytest.mark.parametrize(
    ("size", "stride"), [((3, 3), 1), ((1, 1), 1), ((5, 3), 1), ((3, 3), 2)]
)
def test_values_and_gradients_agree_with_scipy(size, stride):
    x, kernel, cotangent = drawn(size, stride)
    border = tuple((side // 2, side // 2) for side in size)
    convolve = jax.jit(lambda x, kernel: conv(x, kernel, (stride, stride), border))
    y, transposed = jax.vjp(convolve, x, kernel)
    of_x, of_kernel = transposed(cotangent)
    expected = np.zeros(y.shape), np.zeros(x.shape), np.zeros(kernel.shape)
    for row in range(SHAPE[0]):
        for i in range(SHAPE[-1]):
            for o in range(4):
                plane, taps = x[row, ..., i], kernel[..., i, o]
                whole = correlated(plane, taps, "same")
                expected[0][row, ..., o] += whole[::stride, ::stride]
                given = np.zeros(plane.shape)  # to what a stride leaves out, nothing
                given[::stride, ::stride] = cotangent[row, ..., o]
                turned = taps[::-1, ::-1]
                expected[1][row, ..., i] += correlated(given, turned, "same")
                padded = np.pad(plane, border)
                expected[2][..., i, o] += correlated(padded, given, "valid")
    for found, wanted in zip((y, of_x, of_kernel), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-5)


def members(options):
    """Returns (step of one, its arguments for three): value and both gradients."""

    def step(x, kernel, cotangent):
        y, transposed = jax.vjp(lambda x, kernel: conv(x, kernel, *options), x, kernel)
        return y, *transposed(cotangent)

    generator = np.random.default_rng(2)
    x = generator.normal(size=(3, 2, 8, 8, 5)).astype(np.float32)
    kernel = generator.normal(size=(3, 3, 3, 5, 4)).astype(np.float32)
    result = jax.eval_shape(lambda x, k: conv(x, k, *options), x[0], kernel[0])
    cotangent = generator.normal(size=(3, *result.shape)).astype(np.float32)
    return step, [x, kernel, cotangent]


@pytest.mark.parametrize("options", [(), ((2, 2), ((1, 1), (1, 1))), ((1, 1), "VALID")])
def test_a_member_is_the_convolution_alone(options):
    step, arguments = members(options)
    found = jax.jit(jax.vmap(step))(*arguments)
    for number in range(3):
        alone = jax.jit(step)(*(x[number] for x in arguments))
        for one, other in zip(found, alone, strict=True):
            np.testing.assert_allclose(one[number], other, atol=2e-5)


def test_members_may_share_the_input_or_the_kernel():
    step, (x, kernel, cotangent) = members(())
    for axes, arguments in [
        ((None, 0, 0), (x[0], kernel, cotangent)),
        ((0, None, 0), (x, kernel[0], cotangent)),
    ]:
        found = jax.jit(jax.vmap(step, axes))(*arguments)
        for number in range(3):
            own = [
                a if axis is None else a[number]
                for a, axis in zip(arguments, axes, strict=True)
            ]
            for one, other in zip(found, step(*own), strict=True):
                np.testing.assert_allclose(one[number], other, atol=2e-5)


@pytest.mark.parametrize(("platform", "grouped"), [("cpu", False), ("tpu", True)])
def test_members_are_in_turn_on_cpus_and_at_once_elsewhere(platform, grouped):
    step, arguments = members(())
    exported = jax.export.export(jax.jit(jax.vmap(step)), platforms=[platform])
    text = exported(*arguments).mlir_module()
    groups = "feature_group_count = 3" in text or "batch_group_count = 3" in text
    assert groups == grouped


@pytest.mark.parametrize("strip_bytes", [1, 7 * 3 * 4 * 2 * 4, 10**9])
def test_strips_change_nothing(strip_bytes):
    """Strips of as few rows as the sum allows, of four, of all: 11 are never whole."""
    x, _, cotangent = drawn((3, 3))
    found = kernel_gradient(x, cotangent, (3, 3), strip_bytes)
    expected = jax.vjp(lambda k: plain(x, k), np.zeros((3, 3, 3, 4), np.float32))
    np.testing.assert_allclose(found, expected[1](cotangent)[0], atol=2e-5)


def plain(x, kernel):
    axes = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=axes
    )


@pytest.mark.parametrize("side", [64, 128])  # by XLA and by strips
def test_half_precision_sums_in_full(side):
    x = jnp.ones((1, side, side, 3), jnp.bfloat16)  # more ones than it can count
    kernel = jnp.zeros((3, 3, 3, 4), jnp.bfloat16)
    of_kernel = jax.grad(lambda k: conv(x, k).astype(jnp.float32).sum())(kernel)
    assert of_kernel.dtype == jnp.bfloat16
    np.testing.assert_array_equal(of_kernel[1, 1], side * side)


@pytest.mark.parametrize(
    ("shape", "by_strips"),
    [((1, 128, 130, 3), True), ((1, 64, 64, 256), True), ((1, 120, 130, 3), False)],
)
def test_strips_serve_what_is_large_or_wide(shape, by_strips):
    """All agree with XLA to the rounding of a long sum, what is XLA's to the bit."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=shape).astype(np.float32)
    cotangent = generator.normal(size=(*shape[:-1], 3)).astype(np.float32)
    kernel = np.zeros((3, 3, shape[-1], 3), np.float32)

    def gradient(by):
        # Of arguments, since constants would be folded.
        compiled = jax.jit(lambda x, k, given: jax.vjp(partial(by, x), k)[1](given)[0])
        return np.asarray(compiled(x, kernel, cotangent))

    found, expected = gradient(conv), gradient(plain)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    assert (found != expected).any() == by_strips


def test_gradients_lower_for_every_platform():
    platforms = ("cpu", "cuda", "tpu")
    gradient = jax.jit(jax.grad(lambda x, k: conv(x, k).sum(), 1))
    x, kernel = np.ones((1, 128, 128, 3), np.float32), drawn((3, 3))[1]
    exported = jax.export.export(gradient, platforms=platforms)(x, kernel)
    assert exported.platforms == platforms
