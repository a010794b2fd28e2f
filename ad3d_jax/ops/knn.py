"""Exact nearest neighbours in a bank of rows, on one device or split over several."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import ALONE, Across, Array

CHUNK_BYTES = 2**25
MODES = ("exact", "fast")
SPARE = 8  # candidates beyond k that the fast mode measures again
_TILE = 128  # a chunk is a multiple of this many rows
_BLOCK = 4096  # rows that `build` works on at a time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Bank:
    """Rows to search, made by `build`; split over devices, each holds some of them."""

    rows: Array  # [N,D] float32, the mean subtracted
    half_norms: Array  # [N] float32, half the squared norm; +inf marks padding
    mean: Array  # [D] float32, their `centre`
    number: Array  # [N] int32, the row's number in the whole bank, consecutive
    chunk_bytes: int = dataclasses.field(default=CHUNK_BYTES, metadata={"static": True})
    across: Across = dataclasses.field(default=ALONE, metadata={"static": True})


class Neighbours(NamedTuple):
    """The k nearest rows of each query, the nearest first."""

    distance: Array  # [Q,k] float32, Euclidean
    number: Array  # [Q,k] int32, of equally near rows the lowest; -1 = no such row


def build(rows: Array, chunk_bytes: int = CHUNK_BYTES) -> Bank:
    """Returns the bank of rows [N,D], on the host.

    Args:
        rows: [N,D] float32, finite.
        chunk_bytes: memory for one chunk of rows and its scores, see `chunk_rows`.

    Raises:
        ValueError: there are no rows, or some are not finite.

    What is subtracted is the `centre`, so that an offset common to all rows costs the
    expanded form of the distance no digits.
    """
    rows = np.asarray(rows, np.float32)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"bank: expected rows [N,D], N > 0, found {rows.shape}")
    blocks = _blocks(rows)
    bad = sum(int((~np.isfinite(rows[b]).all(1)).sum()) for b in blocks)
    if bad:
        raise ValueError(
            f"bank: expected finite rows, found {bad} of {len(rows)} with NaN or "
            "infinity"
        )
    mean = centre(rows)
    centred, half_norms = aligned_rows(*rows.shape), np.empty(len(rows), np.float32)
    for block in blocks:
        np.subtract(rows[block], mean, out=centred[block])
        half_norms[block] = np.square(centred[block], dtype=np.float64).sum(1) / 2
    number = np.arange(len(rows), dtype=np.int32)
    return Bank(centred, half_norms, mean, number, chunk_bytes)


def aligned_rows(count: int, dimensions: int) -> np.ndarray:
    """Returns an array [count,dimensions] float32 of any content, on the host.

    It begins where JAX wants it: a CPU device then takes it over without a copy.
    """
    size, boundary = 4 * count * dimensions, 64
    room = np.empty(size + boundary, np.uint8)
    offset = -room.ctypes.data % boundary
    return room[offset : offset + size].view(np.float32).reshape(count, dimensions)


def centre(rows: Array) -> np.ndarray:
    """Returns the mean of rows [N,D] up to half a standard deviation, [D] float32.

    It is rounded to a power of two near the standard deviation, so that rows of whole
    numbers stay exact without it, and what was a tie remains one.
    """
    blocks, count = _blocks(rows), len(rows)
    mean = sum(rows[b].sum(0, dtype=np.float64) for b in blocks) / count
    square = sum(np.square(rows[b], dtype=np.float64).sum(0) for b in blocks) / count
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    step = np.ldexp(0.5, np.frexp(spread)[1])
    return np.where(spread > 0, np.round(mean / step) * step, mean).astype(np.float32)


def empty(dimensions: int, chunk_bytes: int = CHUNK_BYTES) -> Bank:
    """Returns a bank without rows, which stands in a state until it is filled."""
    return Bank(
        rows=np.zeros((0, dimensions), np.float32),
        half_norms=np.zeros(0, np.float32),
        mean=np.zeros(dimensions, np.float32),
        number=np.zeros(0, np.int32),
        chunk_bytes=chunk_bytes,
    )


def chunk_rows(queries: int, rows: int, dimensions: int, chunk_bytes: int) -> int:
    """Returns how many rows are compared at a time.

    So many that the rows, their products with all queries and their scores fit
    `chunk_bytes`, in multiples of 128, and at least 128; all if there are fewer.
    """
    fit = chunk_bytes // (4 * (2 * queries + dimensions))
    return min(rows, max(fit // _TILE, 1) * _TILE)


def nearest(
    bank: Bank,
    queries: Array,
    k: int = 1,
    mode: str = "exact",
    allowed: Array | None = None,
) -> Neighbours:
    """Returns the k nearest rows of each query, of those that are allowed.

    Args:
        bank: split over devices, `bank.across` says so, and every device brings its
            own rows and its own queries, equally many.
        queries: [Q,D] float32.
        k: neighbours, at most the number of rows.
        mode: "exact" compares in float32; "fast" compares in bfloat16, and k + 8
            candidates again in float32, so that a near tie may be missed.
        allowed: [M] or [G,M] bool, by the numbers of the M rows of the whole bank: the
            rows that all queries may find, or those of each of G groups of Q/G queries
            that follow each other; of every device those of its own queries. None = all
            rows. Where fewer than k are allowed, the distance is inf and the number -1.

    Raises:
        ValueError: k, mode, D or `allowed` do not fit the bank or the queries.

    No array of all pairs exists: chunks of rows are compared by |b|²/2 - q·b, and the
    k lowest so far are kept. The distances that are returned are measured anew from
    the differences, and decide the order. Rows nearer to each other than a thousandth
    of their norm without the mean are distinguished only roughly.

    Source: the k-selection is that of Johnson et al. 2017 (arXiv 1702.08734) in
    outline; centring is ours.
    """
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}, expected one of {', '.join(MODES)}")
    count, dimensions = bank.rows.shape
    if queries.ndim != 2 or queries.shape[1] != dimensions:
        raise ValueError(
            f"queries: expected [Q,{dimensions}] to fit the bank's rows, found "
            f"{queries.shape}"
        )
    candidates = min(count, k + SPARE if mode == "fast" else k)
    if candidates < 1:
        raise ValueError(f"k is {k} and the bank has {count} rows; expected both > 0")
    dtype = jnp.bfloat16 if mode == "fast" else jnp.float32
    bank = jax.tree.map(jnp.asarray, bank)
    centred = bank.across.gather(queries - bank.mean.reshape(1, -1))
    here = None
    if allowed is not None:
        here = _allowed_here(bank, jnp.asarray(allowed), len(queries))
    score, position = _search(bank, centred, candidates, dtype, here)

    def measure(candidate):
        score, position = candidate
        distance = jnp.linalg.norm(centred - bank.rows[position], axis=-1)
        found = score < jnp.inf
        number = jnp.where(found, bank.number[position], -1)
        return jnp.where(found, distance, jnp.inf), number

    # One candidate of all queries at a time: [Q,D], not [Q,k,D].
    measured = jax.lax.map(measure, (score.T, position.T))
    measured = jax.tree.map(lambda x: _own(bank, x, len(queries)), measured)
    if measured[0].shape[1] < k:
        raise ValueError(f"k is {k}, but the bank has {measured[0].shape[1]} rows")
    distance, number = jax.lax.sort(measured, num_keys=2)
    return Neighbours(distance[:, :k], number[:, :k])


def take(bank: Bank, number: Array) -> Array:
    """Returns the rows of these numbers as they were, [..., D] float32.

    Args:
        bank: whole, or split over devices as in `nearest`.
        number: [...] int32 numbers in the whole bank, of every device its own.

    The mean is added back, which can change the last bit. Rows that nobody holds, as
    those of number -1, are the mean.
    """
    bank = jax.tree.map(jnp.asarray, bank)
    wanted = bank.across.gather(jnp.asarray(number).reshape(-1))
    rows = rows_by_number(bank.rows, bank.number, wanted, bank.across)
    start = bank.across.index() * number.size
    own = jax.lax.dynamic_slice_in_dim(rows, start, number.size)
    return (own + bank.mean.reshape(1, -1)).reshape(number.shape + bank.mean.shape)


def rows_by_number(
    rows: Array, number: Array, wanted: Array, across: Across = ALONE
) -> jax.Array:
    """Returns the rows of the wanted numbers, [K,D]; zeros where nobody holds one.

    Args:
        rows: [N,D], of this device.
        number: [N] int32 their numbers, consecutive; -1 marks padding at the end.
        wanted: [K] int32, the same on every device; -1 = none.
        across: the devices.
    """
    position = jnp.clip(wanted - number[0], 0, len(number) - 1)
    here = (number[position] == wanted) & (wanted >= 0)
    return across.sum(jnp.where(here.reshape(-1, 1), rows[position], 0.0))


def plan_bytes(queries: int, rows: int, dimensions: int, chunk_bytes: int) -> int:
    """Returns the device memory that `nearest` (k = 1, exact) takes with its bank.

    Args:
        queries: of all devices, for each compares all of them.
        rows: that one device holds.
        dimensions: D.
        chunk_bytes: of the bank.
    """
    bank = rows * (dimensions + 2) + dimensions
    chunk = chunk_rows(queries, rows, dimensions, chunk_bytes)
    # Given, centred, and the winners' rows.
    return 4 * (bank + 3 * queries * dimensions + chunk * (2 * queries + dimensions))


def _blocks(rows: Array) -> list[slice]:
    """Returns slices of the rows that float64 copies are affordable of."""
    return [slice(i, i + _BLOCK) for i in range(0, len(rows), _BLOCK)]


def _allowed_here(bank: Bank, allowed: Array, count: int) -> Array:
    """Returns which of this device's rows the groups of all devices may find, [G,n]."""
    groups = allowed.reshape(-1, allowed.shape[-1])
    fits = allowed.ndim in (1, 2) and allowed.dtype == bool
    fits = fits and count % len(groups) == 0
    if bank.across is ALONE:  # else others hold rows, too
        fits = fits and groups.shape[1] == len(bank.number)
    if not fits:
        raise ValueError(
            f"allowed: expected bool [M] or [G,M], where the bank has M rows and G "
            f"divides {count} queries, found {allowed.dtype} {allowed.shape}"
        )
    groups = bank.across.gather(groups)
    # Padding, of number -1, is beyond the end.
    number = jnp.where(bank.number < 0, groups.shape[1], bank.number)
    return groups.at[:, number].get(mode="fill", fill_value=False)


def _search(
    bank: Bank, queries: Array, k: int, dtype, allowed: Array | None
) -> tuple[Array, Array]:
    """Returns (score, position) [Q,k] of the rows with the lowest |b|²/2 - q·b.

    `allowed` [G,n] says which of the rows each group of queries may find; the score of
    any other is inf.
    """
    count, dimensions = bank.rows.shape
    chunk = chunk_rows(len(queries), count, dimensions, bank.chunk_bytes)
    shape = (len(queries), k)
    queries = queries.astype(dtype)

    def compare(turn, best):
        # The last chunk ends where the bank ends, and passes over what it sees again.
        first = turn * chunk
        start = jnp.minimum(first, count - chunk)
        rows = jax.lax.dynamic_slice_in_dim(bank.rows, start, chunk)
        half = jax.lax.dynamic_slice_in_dim(bank.half_norms, start, chunk)
        position = start + jnp.arange(chunk)
        half = jnp.where(position >= first, half, jnp.inf)
        dots = jnp.einsum(
            "qd,nd->qn",
            queries,
            rows.astype(dtype),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        score = half.reshape(1, -1) - dots
        if allowed is not None:
            may = jax.lax.dynamic_slice_in_dim(allowed, start, chunk, axis=1)
            grouped = score.reshape(len(may), -1, chunk)
            score = jnp.where(may[:, None], grouped, jnp.inf).reshape(score.shape)
        score, place = lowest(score, min(k, chunk))
        # What stands first wins a tie: the earlier rows.
        score = jnp.concatenate([best[0], score], axis=1)
        position = jnp.concatenate([best[1], start + place], axis=1)
        score, place = lowest(score, k)
        return score, jnp.take_along_axis(position, place, axis=1)

    start = (jnp.full(shape, jnp.inf), jnp.zeros(shape, jnp.int32))
    return jax.lax.fori_loop(0, -(-count // chunk), compare, start)


def lowest(x: Array, k: int) -> tuple[Array, Array]:
    """Returns the k lowest values of each row [R,C], ascending, and their columns."""
    if k > 1:
        # Without the barrier XLA turns a selection whose result is sliced into a
        # sort, which on a CPU takes sixty times as long. One barrier for both lets the
        # compiler abort when pmapped (jax 0.10).
        values, columns = map(jax.lax.optimization_barrier, jax.lax.top_k(-x, k))
        return -values, columns
    # Two plain reductions; on a CPU they are a third faster than one arg-minimum.
    lowest = x.min(1, keepdims=True)
    columns = jax.lax.broadcasted_iota(jnp.int32, x.shape, 1)
    column = jnp.where(x == lowest, columns, x.shape[1] - 1).min(1, keepdims=True)
    return lowest, column


def _own(bank: Bank, found: Array, count: int) -> Array:
    """Returns what all devices found [k, all queries] for this device's own queries.

    The result is [count, devices * k].
    """
    everywhere = bank.across.gather(found)
    start = bank.across.index() * count
    return jax.lax.dynamic_slice_in_dim(everywhere, start, count, axis=1).T
