"""Convolution with stride 1 whose gradients are quick on a CPU, too."""

from functools import partial

import jax
import jax.numpy as jnp

AXES = ("NHWC", "HWIO", "NHWC")
# From either on, XLA's gradient of the kernel is the slower one on a CPU.
LARGE = 128 * 128  # pixels
WIDE = 256  # channels
STRIP_BYTES = 2**20  # of the input's rows that are worked on at once, to fit a cache


@jax.custom_vjp
def conv_same(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns x correlated with a kernel, zeros outside: [B,H,W,O] from [B,H,W,I].

    The kernel [h,w,I,O] has odd sides and the type of x. Only reverse-mode derivatives
    exist; on a CPU that of the kernel is `kernel_gradient` where x is large or wide.
    """
    return _convolve(x, kernel)


def _convolve(x: jax.Array, kernel: jax.Array) -> jax.Array:
    sides = [(side // 2, side // 2) for side in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), sides, dimension_numbers=AXES
    )


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _backward(residuals, cotangent):
    x, kernel = residuals

    def by_xla(x, cotangent):
        return jax.linear_transpose(partial(_convolve, x), kernel)(cotangent)[0]

    by_strips = partial(kernel_gradient, size=kernel.shape[:2])
    _, height, width, channels = x.shape
    pays = height * width >= LARGE or channels >= WIDE
    on_cpu = by_strips if pays else by_xla
    (of_x,) = jax.linear_transpose(lambda x: _convolve(x, kernel), x)(cotangent)
    of_kernel = jax.lax.platform_dependent(x, cotangent, cpu=on_cpu, default=by_xla)
    return of_x, of_kernel


conv_same.defvjp(_forward, _backward)


def kernel_gradient(
    x: jax.Array,
    cotangent: jax.Array,
    size: tuple[int, int],
    strip_bytes: int = STRIP_BYTES,
) -> jax.Array:
    """Returns the gradient of the kernel of `conv_same`, [h,w,I,O] in the type of x.

    XLA convolves with the cotangent as a kernel of the image's size, which takes a CPU
    up to four times as long (docs/results/rivals/kernel-gradients.json). Here each of
    the kernel's taps is one matrix product of the shifted input with the cotangent,
    over all pixels. The pixels are taken strip by strip, so that the shifted copies
    stay in the cache; a strip is no smaller than the sum that it is added to.

    Args:
        x: [B,H,W,I].
        cotangent: of the result, [B,H,W,O].
        size: (h, w), odd.
        strip_bytes: least size of a strip of x.
    """
    rows, height, width, channels = x.shape
    features = cotangent.shape[-1]
    taps = [(i, j) for i in range(size[0]) for j in range(size[1])]
    sum_bytes = len(taps) * channels * features * 4
    row_bytes = rows * width * channels * x.dtype.itemsize
    strip = min(height, -(-max(strip_bytes, sum_bytes) // row_bytes))
    strips = -(-height // strip)
    # Rows of zeros fill the last strip up.
    (top, left), missing = (side // 2 for side in size), strips * strip - height
    x = jnp.pad(x, ((0, 0), (top, top + missing), (left, left), (0, 0)))
    cotangent = jnp.pad(cotangent, ((0, 0), (0, missing), (0, 0), (0, 0)))

    def of_strip(number):
        cut = partial(jax.lax.dynamic_slice_in_dim, axis=1)
        around = cut(x, number * strip, strip + 2 * top)
        given = cut(cotangent, number * strip, strip).reshape(-1, features)
        shifted = (around[:, i : i + strip, j : j + width] for i, j in taps)
        return jnp.stack(
            [
                jax.lax.dot_general(
                    seen.reshape(-1, channels),
                    given,
                    (((0,), (0,)), ((), ())),
                    preferred_element_type=jnp.float32,
                )
                for seen in shifted
            ]
        )

    def add(number, total):
        return total + of_strip(number)

    total = jax.lax.fori_loop(1, strips, add, of_strip(0))
    return total.reshape(*size, channels, features).astype(x.dtype)
