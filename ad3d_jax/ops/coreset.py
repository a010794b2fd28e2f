"""Greedy k-centre: the rows of a bank that leave no other row far away.

Rows are picked one after another, each time the one farthest from those picked so far.
A plain loop streams all rows for every pick. Here one pass over the rows serves many
picks: the farthest rows, the candidates, are set apart, and as long as one of them
stays farther away than every other row was before, it is the next pick, whatever the
other rows' distances have become. The picks are those of the plain loop.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Across, Array, Select, State
from ad3d_jax.ops import knn
from ad3d_jax.ops.projection import (
    dense_projection,
    johnson_lindenstrauss_dimension,
    sparse_projection,
)

STARTS = ("first", "random", "mean_of_ten")
PROJECTIONS = ("none", "sparse", "dense")
PRECISIONS = ("float32", "float16")
DENSE_DIMENSIONS = 128
PICKS = 64  # at most, of one pass over the rows
CANDIDATES = 256  # of each device
# One slice takes about a second: the bytes that a device streams meanwhile.
SLICE_BYTES = {"cpu": 2**34, "gpu": 2**40, "tpu": 2**40}
# Squared distances from products, relative to the squared norms, err by less.
_ROUNDING = 2.0**-21
CHUNK_BYTES = 2**24  # of one chunk of rows and its scores
_BLOCK = 2**12  # rows that are projected at a time, on the device


class Greedy(NamedTuple):
    """The carry: what is picked, and how far every row is from it."""

    picked: Array  # [m] int32 numbers of rows in the order of the picks, -1 = not yet
    count: Array  # [] int32
    distance: Array  # [N] float32 squared, to the nearest pick; -1 of what is picked;
    # in float16 not squared
    nearest: Array  # [N] int32 number of that pick, -1 = none


class Chosen(NamedTuple):
    """The rows that are kept, in the order of the picks."""

    rows: np.ndarray  # [m,D] float32
    number: np.ndarray  # [m] int32, of the row among all


def coreset_size(rows: int, fraction: float) -> int:
    """Returns how many of `rows` rows are kept, floor(fraction * rows), at least 1.

    Raises:
        ValueError: the fraction is not in (0, 1].
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"coreset fraction: expected in (0, 1], found {fraction}")
    return max(1, int(fraction * rows))


def greedy(
    fraction: float,
    start: str = "first",
    projection: str = "none",
    precision: str = "float32",
) -> Select:
    """Returns the greedy k-centre choice of a fraction of all rows, a `base.Select`.

    Args:
        fraction: of the rows, in (0, 1]; see `coreset_size`. 1 keeps all, in order.
        start: "first" picks row 0 first (BTF), "random" a random one (anomalib).
            "mean_of_ten" starts from the mean distance to ten random points, which
            are no picks themselves (PatchCore's approximate greedy).
        projection: of the rows for the choice alone: "none", "sparse" (scikit-learn's
            at eps 0.9, none where that takes more dimensions than the rows have) or
            "dense" (to 128, none where the rows have no more).
        precision: "float32", or "float16": rows, differences and distances are rounded
            to it, as in the public code of BTF, so that near distances tie. It takes a
            pass over the rows for every pick and starts from "first" alone.

    `prepare` takes rows [n,P,D] or [N,D] float32 on the host, and `take` gives them as
    `Chosen`, in the order of the picks, as the public implementations store a bank. Of
    equally far rows the one of the lowest number is picked, and none twice.

    Raises:
        ValueError: an argument is unknown or out of range.

    Source: Sener and Savarese 2018 (arXiv 1708.00489) as used by PatchCore
    (arXiv 2106.08265); in float16 that of rvorias/ind_knn_ad.
    """
    coreset_size(1, fraction)
    for name, value, known in (
        ("start", start, STARTS),
        ("projection", projection, PROJECTIONS),
        ("precision", precision, PRECISIONS),
    ):
        if value not in known:
            expected = ", ".join(known)
            raise ValueError(f"{name} is {value!r}, expected one of {expected}")
    if precision == "float16" and start != "first":
        raise ValueError(f"start is {start!r}; in float16 expected 'first'")
    return Select(
        prepare=partial(_prepare, fraction, start, projection, precision),
        advance=advance,
        done=lambda carry: (int(carry.count), len(carry.picked)),
        take=_take,
        onwards=_onwards,
    )


def advance(data: dict[str, Array], carry: Greedy, across: Across) -> Greedy:
    """Returns the carry after about a second of picks.

    Args:
        data: this device's share of what `prepare` made.
        carry: of all rows, the same on every device.
        across: the devices.
    """
    data, carry = jax.tree.map(jnp.asarray, (data, carry))
    local, rows = len(data["number"]), len(carry.distance)
    devices = across.gather(data["number"]).shape[0] // local
    if data["rows"].dtype == jnp.float16:
        step = partial(_half_pick, data, across)
    else:
        step = partial(_pass, data, across, _margin(data, across, rows))

    def own(x: Array) -> Array:
        x = jnp.pad(x, (0, devices * local - rows), constant_values=-1)
        return jax.lax.dynamic_slice_in_dim(x, across.index() * local, local)

    def whole(x: Array) -> Array:
        return across.gather(x)[:rows]

    def unfinished(turn):
        number, carry = turn
        return (number < _passes(data)) & (carry.count < len(carry.picked))

    carry = carry._replace(distance=own(carry.distance), nearest=own(carry.nearest))
    turn = (0, carry)
    _, carry = jax.lax.while_loop(unfinished, lambda t: (t[0] + 1, step(t[1])), turn)
    return carry._replace(distance=whole(carry.distance), nearest=whole(carry.nearest))


def _prepare(
    fraction: float,
    start: str,
    projection: str,
    precision: str,
    key: Array,
    state: State,
    rows: Array,
) -> tuple[dict[str, Array], Greedy]:
    """Returns (data, carry) as `base.Select` has it, on the host."""
    del state
    flat = _flat(rows)
    count = coreset_size(len(flat), fraction)
    project, begin = jax.random.split(key)
    projected = _project(project, flat, projection)
    if precision == "float16":
        return _prepare_half(projected, count)
    bank = knn.build(projected)
    data = {
        "rows": bank.rows,
        "half_norms": bank.half_norms,
        "number": bank.number,
        "cap": _caps(begin, bank.rows, start),
    }
    everything = count == len(flat)
    nothing_yet = np.full(count, -1, np.int32)
    return data, Greedy(
        picked=bank.number if everything else nothing_yet,
        count=np.int32(count if everything else 0),
        distance=data["cap"],
        nearest=np.full(len(flat), -1, np.int32),
    )


def _prepare_half(rows: np.ndarray, count: int) -> tuple[dict[str, Array], Greedy]:
    """Returns (data, carry) of a choice in float16, which picks row 0 first.

    The public loop measures the distances to row 0 twice, before the rows are rounded
    and after, and the smaller one counts.
    """
    number = np.arange(len(rows), dtype=np.int32)
    distance = np.linalg.norm(rows - rows[:1], axis=1).astype(np.float16)
    distance[0] = np.inf
    everything = count == len(rows)
    nothing_yet = np.full(count, -1, np.int32)
    return {"rows": rows.astype(np.float16), "number": number}, Greedy(
        picked=number if everything else nothing_yet,
        count=np.int32(count if everything else 0),
        distance=distance.astype(np.float32),
        nearest=np.full(len(rows), -1, np.int32),
    )


def _project(key: Array, rows: np.ndarray, projection: str) -> np.ndarray:
    """Returns the rows [N,D] projected, as a host array."""
    count, features = rows.shape
    if projection == "sparse":
        dimensions, make = johnson_lindenstrauss_dimension(count), sparse_projection
        useful = dimensions <= features
    else:
        dimensions, make = DENSE_DIMENSIONS, dense_projection
        useful = projection == "dense" and dimensions < features
    if not useful:
        return rows
    matrix = make(key, features, dimensions)
    multiply = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    blocks = [rows[i : i + _BLOCK] for i in range(0, count, _BLOCK)]
    return np.concatenate([np.asarray(multiply(block, matrix)) for block in blocks])


def _caps(key: Array, rows: np.ndarray, start: str) -> np.ndarray:
    """Returns what a row's squared distance counts as at most, [N] float32."""
    if start == "first":
        return np.full(len(rows), np.inf, np.float32)
    if start == "random":
        caps = np.full(len(rows), np.finfo(np.float32).max)
        caps[jax.random.randint(key, (), 0, len(rows))] = np.inf
        return caps
    points = min(10, len(rows))
    chosen = jax.random.choice(key, len(rows), (points,), replace=False)

    @jax.jit
    def distance(block, point):
        return jnp.linalg.norm(block - point.reshape(1, -1), axis=1)

    def mean(block):
        return sum(np.asarray(distance(block, rows[i])) for i in chosen) / points

    blocks = [rows[i : i + _BLOCK] for i in range(0, len(rows), _BLOCK)]
    return np.concatenate([mean(block) for block in blocks]) ** 2


def _take(rows: Array, carry: Greedy) -> Chosen:
    """Returns the chosen rows and their numbers."""
    picked = np.asarray(carry.picked)
    return Chosen(_flat(rows)[picked], picked)


def _onwards(carry: Greedy, other: Greedy) -> Greedy:
    """Returns the carry with the picks of a choice of another number of rows.

    Each pick is that of the rows and of the picks before it, so that of two choices the
    shorter one is where the longer one begins.
    """
    total, known = len(carry.picked), np.asarray(other.picked)
    count = min(int(other.count), total)
    picked = np.full(total, -1, np.int32)
    picked[:count] = known[:count]
    return Greedy(picked, np.int32(count), other.distance, other.nearest)


def _flat(rows: Array) -> np.ndarray:
    """Returns rows [n,P,D] or [N,D] as [N,D]."""
    return np.asarray(rows).reshape(-1, rows.shape[-1])


def _passes(data: dict[str, Array]) -> int:
    """Returns how many passes over a device's rows a slice has."""
    count, dimensions = data["rows"].shape
    streamed = 4 * count * (dimensions + 2 * PICKS)
    budget = SLICE_BYTES.get(jax.default_backend(), SLICE_BYTES["cpu"])
    return max(1, budget // streamed)


def _margin(data: dict[str, Array], across: Across, rows: int) -> Array:
    """Returns by how much rounding may lift a row's squared distance, as a rule."""
    real = jnp.where(data["number"] >= 0, data["half_norms"], 0.0)
    return _ROUNDING * 2 * across.sum(real.sum()) / rows


def _pass(
    data: dict[str, Array], across: Across, margin: Array, carry: Greedy
) -> Greedy:
    """Returns the carry after the picks that one pass over the rows allows.

    `carry` holds the distances of this device's rows.
    """
    number, rows, value, bound = _candidates(data, carry, across)
    room = jnp.minimum(PICKS, len(carry.picked) - carry.count)

    def more(turn):
        chosen, value, new = turn
        sure = (value.max() > bound + margin) | (chosen == 0)
        return sure & (chosen < room)

    def choose(turn):
        chosen, value, new = turn
        tied = jnp.where(value == value.max(), number, jnp.iinfo(jnp.int32).max)
        place = tied.argmin()
        value = jnp.minimum(value, _squared(rows - rows[place].reshape(1, -1)))
        return chosen + 1, value.at[place].set(-1.0), new.at[chosen].set(number[place])

    start = (jnp.int32(0), value, jnp.full(PICKS, -1, jnp.int32))
    chosen, _, new = jax.lax.while_loop(more, choose, start)
    distance, nearest = _update(data, carry, new, across)
    slot = jnp.arange(PICKS)
    # What lies beyond the chosen is dropped.
    slot = jnp.where(slot < chosen, carry.count + slot, len(carry.picked))
    picked = carry.picked.at[slot].set(new, mode="drop")
    return Greedy(picked, carry.count + chosen, distance, nearest)


def _half_pick(data: dict[str, Array], across: Across, carry: Greedy) -> Greedy:
    """Returns the carry after one pick in float16; distances of this device's rows."""

    def half(x):
        # A conversion there and back may be left out by the compiler.
        return jax.lax.reduce_precision(x, exponent_bits=5, mantissa_bits=10)

    number, rows = data["number"], data["rows"].astype(jnp.float32)
    highest = across.gather(carry.distance.max()[None]).max()
    first = jnp.where(carry.distance == highest, number, jnp.iinfo(jnp.int32).max)
    new = across.gather(first.min()[None]).min()
    row = knn.rows_by_number(rows, number, new[None], across)
    distance = half(jnp.sqrt(_squared(half(rows - row))))
    distance = jnp.minimum(carry.distance, distance)
    return carry._replace(
        picked=carry.picked.at[carry.count].set(new),
        count=carry.count + 1,
        distance=jnp.where(number == new, -1.0, distance),
    )


def _candidates(
    data: dict[str, Array], carry: Greedy, across: Across
) -> tuple[Array, Array, Array, Array]:
    """Returns (number, row, squared distance) of the farthest rows, and a bound.

    The distances are measured anew from the differences; the bound is the largest
    distance, from products, of a row that is no candidate.
    """
    count = len(carry.distance)
    nearness = -carry.distance.reshape(1, -1)
    low, position = knn.lowest(nearness, min(CANDIDATES + 1, count))
    top, position = -low[0], position[0]
    rest = top[-1] if count > CANDIDATES else jnp.float32(-1)
    bound = across.gather(rest.reshape(1)).max()
    chosen = {name: data[name][position] for name in ("number", "rows", "cap")}
    chosen["nearest"], chosen["top"] = carry.nearest[position], top
    chosen = jax.tree.map(lambda x: across.gather(x[:CANDIDATES]), chosen)
    rows, nearest = chosen["rows"], chosen["nearest"]
    centres = knn.rows_by_number(data["rows"], data["number"], nearest, across)
    value = jnp.where(nearest >= 0, _squared(rows - centres), jnp.inf)
    value = jnp.minimum(value, chosen["cap"])
    return chosen["number"], rows, jnp.where(chosen["top"] < 0, -1.0, value), bound


def _update(
    data: dict[str, Array], carry: Greedy, new: Array, across: Across
) -> tuple[Array, Array]:
    """Returns (distance, nearest) of this device's rows after new picks [PICKS]."""
    centres = knn.rows_by_number(data["rows"], data["number"], new, across)
    half = jnp.where(new >= 0, _squared(centres) / 2, jnp.inf)
    count, dimensions = data["rows"].shape
    chunk = knn.chunk_rows(PICKS, count, dimensions, CHUNK_BYTES)

    def compare(turn, found):
        # The last chunk ends where the rows end; to see some twice changes nothing.
        start = jnp.minimum(turn * chunk, count - chunk)

        def part(x):
            return jax.lax.dynamic_slice_in_dim(x, start, chunk)

        dots = jnp.matmul(
            part(data["rows"]), centres.T, precision=jax.lax.Precision.HIGHEST
        )
        score, column = knn.lowest(half.reshape(1, -1) - dots, 1)
        squared = jnp.maximum(2 * (score[:, 0] + part(data["half_norms"])), 0.0)
        distance, nearest = part(found[0]), part(found[1])
        nearer = squared < distance
        distance = jnp.where(nearer, squared, distance)
        nearest = jnp.where(nearer, new[column[:, 0]], nearest)
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(whole, x, start, 0)
            for whole, x in zip(found, (distance, nearest), strict=True)
        )

    found = (carry.distance, carry.nearest)
    distance, nearest = jax.lax.fori_loop(0, -(-count // chunk), compare, found)
    position = jnp.where(new >= 0, new - data["number"][0], -1)
    outside = (position < 0) | (position >= count)
    position = jnp.where(outside, count, position)
    return distance.at[position].set(-1.0, mode="drop"), nearest


def _squared(x: Array) -> Array:
    """Returns the squared norm of each row."""
    return jnp.sum(x * x, axis=-1)
