"""Dropout and stochastic depth with one key per sample."""

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array

_LEVELS = 1 << 16  # a draw is 16 bits, so a rate is met to 1/131072


def layer_keys(keys: Array | None, layer: int) -> Array | None:
    """Returns the keys [B] of one layer, derived from the samples' keys [B]."""
    if keys is None:
        return None
    return jax.vmap(jax.random.fold_in, (0, None))(keys, layer)


def dropout(keys: Array, x: Array, rate: float) -> Array:
    """Returns x with elements zeroed at random and the rest enlarged to keep the mean.

    Args:
        keys: [B] typed keys; a row's mask depends on its own key alone.
        x: [B,...].
        rate: probability of a zero, in [0,1).

    Reference: Srivastava et al., JMLR 15 (2014), in the inverted form.
    """
    return _kept(keys, x, rate, x.shape[1:])


def drop_path(keys: Array, x: Array, rate: float) -> Array:
    """Returns x with whole rows zeroed at random and the rest enlarged.

    Takes the arguments of `dropout`. Reference: Huang et al., arXiv 1603.09382.
    """
    return _kept(keys, x, rate, (1,) * (x.ndim - 1))


def _kept(keys: Array, x: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Returns x / (1 - rate) where a draw of `shape` per row says keep, else 0."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"the dropout rate must be in [0,1), found {rate}")
    threshold = round(rate * _LEVELS)
    if threshold == 0:
        return x
    draws = jax.vmap(lambda key: _draw16(key, shape))(keys)
    scale = np.float32(_LEVELS / (_LEVELS - threshold))
    return jnp.where(draws >= threshold, x * scale.astype(x.dtype), 0)


def _draw16(key: Array, shape: tuple[int, ...]) -> Array:
    """Returns uniform uint16 values; two from each 32-bit word, at half the cost."""
    size = int(np.prod(shape))
    words = jax.random.bits(key, ((size + 1) // 2,), jnp.uint32)
    return jax.lax.bitcast_convert_type(words, jnp.uint16).ravel()[:size].reshape(shape)
