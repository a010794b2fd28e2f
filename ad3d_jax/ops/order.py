"""The entry of a given rank, without sorting."""

import jax
import jax.numpy as jnp


def at_rank(values: jax.Array, rank: jax.Array) -> jax.Array:
    """Returns the number of the entry with `rank` smaller ones, [...] int32.

    Args:
        values: [...,K] float32 without NaN; -0 counts as smaller than 0.
        rank: [...] int32 in [0,K).

    Of equal entries the one with the lower number is the smaller. The bits of a float
    order like an integer, so that bisection by counting finds the value bit by bit, and
    then its number: as many passes as there are bits, which is far cheaper than to sort
    rows on any device.
    """
    keys = _ordered(values)

    def smaller(threshold):
        return jnp.sum(keys < threshold[..., None], axis=-1, dtype=jnp.int32)

    value = _bisect(lambda t: smaller(t) <= rank, rank.shape, 32)
    equal = keys == value[..., None]
    left = rank - smaller(value)  # equal entries that come before
    numbers = jax.lax.broadcasted_iota(jnp.uint32, values.shape, values.ndim - 1)

    def before(threshold):
        earlier = equal & (numbers < threshold[..., None])
        return jnp.sum(earlier, axis=-1, dtype=jnp.int32)

    bits = (values.shape[-1] - 1).bit_length()
    found = _bisect(lambda t: before(t) <= left, rank.shape, bits)
    return found.astype(jnp.int32)


def _bisect(holds, shape: tuple[int, ...], bits: int) -> jax.Array:
    """Returns the largest number of `bits` bits for which `holds`, [...] uint32.

    `holds` maps [...] uint32 to bool, is true of 0 and false from some number on.
    """

    def refine(step, number):
        bit = jnp.uint32(1) << (bits - 1 - step).astype(jnp.uint32)
        return jnp.where(holds(number | bit), number | bit, number)

    return jax.lax.fori_loop(0, bits, refine, jnp.zeros(shape, jnp.uint32))


def _ordered(values: jax.Array) -> jax.Array:
    """Returns uint32 that compare as the float32 they stand for."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    sign = jnp.uint32(1) << 31
    return jnp.where(bits >= sign, ~bits, bits | sign)
