"""Convolution that is quick on a CPU, too: its gradients, and many kernels at once."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

AXES = ("NHWC", "HWIO", "NHWC")
# From either on, XLA's gradient of the kernel is the slower one on a CPU.
LARGE = 128 * 128  # pixels
WIDE = 256  # channels
STRIP_BYTES = 2**20  # of the input's rows that are worked on at once, to fit a cache

Border = str | tuple[tuple[int, int], ...]


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int] = (1, 1),
    padding: Border = "SAME",
) -> jax.Array:
    """Returns x correlated with a kernel, zeros outside: [B,H',W',O] from [B,H,W,I].

    What `jax.lax.conv_general_dilated` returns, but for two things on a CPU. The
    gradient of the kernel is `kernel_gradient` where sides are odd, the size is kept
    and x is large or wide. Under `jax.vmap` with a kernel for each member, members come
    one after the other: XLA makes groups of them, which take a CPU three to seven
    times as long (docs/results/population/convolutions.json).

    Only reverse-mode derivatives exist.

    Args:
        x: [B,H,W,I].
        kernel: [h,w,I,O] in the type of x.
        strides: of rows and columns.
        padding: "SAME", "VALID" or the zeros (before, after) of rows and of columns.
    """
    return _in_turn(partial(_convolve, strides, padding), x, kernel)


def _convolve(strides, padding, x, kernel):
    return jax.lax.conv_general_dilated(
        x, kernel, strides, padding, dimension_numbers=AXES
    )


def _forward(x, kernel, strides, padding):
    return conv(x, kernel, strides, padding), (x, kernel)


def _backward(strides, padding, residuals, cotangent):
    x, kernel = residuals
    convolve = partial(_convolve, strides, padding)

    def input_gradient(kernel, cotangent):
        return jax.linear_transpose(lambda x: convolve(x, kernel), x)(cotangent)[0]

    def by_xla(x, cotangent):
        return jax.linear_transpose(partial(convolve, x), kernel)(cotangent)[0]

    def of_kernel(x, cotangent):
        return jax.lax.platform_dependent(x, cotangent, cpu=on_cpu, default=by_xla)

    _, height, width, channels = x.shape
    large_or_wide = height * width >= LARGE or channels >= WIDE
    pays = large_or_wide and _keeps_size(kernel.shape[:2], strides, padding)
    by_strips = partial(kernel_gradient, size=kernel.shape[:2])
    on_cpu = by_strips if pays else by_xla
    return (
        _in_turn(input_gradient, kernel, cotangent),
        _in_turn(of_kernel, x, cotangent),
    )


conv.defvjp(_forward, _backward)


def _keeps_size(sides: Sequence[int], strides: Sequence[int], padding: Border) -> bool:
    """Returns whether each result lies under the middle of an odd kernel."""
    border = tuple((side // 2, side // 2) for side in sides)
    odd = all(side % 2 for side in sides)
    return odd and max(strides) == 1 and padding in ("SAME", border)


def _in_turn(function: Callable, x: jax.Array, y: jax.Array) -> jax.Array:
    """Returns function(x, y); vmapped over both, a CPU does member after member.

    The loop is unrolled: in one of XLA's, gradients take a CPU 14 to 30 times as long.
    """

    def unrolled(x, y):
        return jnp.stack([function(*pair) for pair in zip(x, y, strict=True)])

    def of_members(_, batched, x, y):
        at_once = jax.vmap(function, [0 if each else None for each in batched])
        if not all(batched):  # one kernel, or one input: no groups
            return at_once(x, y), True
        return jax.lax.platform_dependent(x, y, cpu=unrolled, default=at_once), True

    vmapped = custom_vmap(function)
    vmapped.def_vmap(of_members)
    return vmapped(x, y)


def kernel_gradient(
    x: jax.Array,
    cotangent: jax.Array,
    size: tuple[int, int],
    strip_bytes: int = STRIP_BYTES,
) -> jax.Array:
    """Returns the gradient of the kernel of `conv`, [h,w,I,O] in the type of x.

    XLA convolves with the cotangent as a kernel of the image's size, which takes a CPU
    up to four times as long (docs/results/baselines/kernel-gradients.json). Here each
    of the kernel's taps is one matrix product of the shifted input with the cotangent,
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
