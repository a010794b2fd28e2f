"""The banks of M3DM: their normalisation, what they keep, and what they say."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, Gather, Plan, Select, State, Sum, Tree
from ad3d_jax.ops import coreset, knn, reweight
from ad3d_jax.ops.blur import blur_8bit, gaussian_blur
from ad3d_jax.ops.resize import resize_bilinear
from ad3d_jax.systems import banks
from ad3d_jax.systems.m3dm.config import Config

BLURS = {"8bit": blur_8bit, "gaussian": gaussian_blur}
# From a state and a batch to the features of each bank, [B,P,D] float32 by name.
Describe = Callable[[State, Batch], Mapping[str, Array]]


def empty(config: Config, describe: Describe, state: State, batch: Batch) -> Tree:
    """Returns the memory before a fit: banks without rows, scales that do nothing."""
    shapes = jax.eval_shape(describe, state, batch)
    rows = {
        name: knn.empty(shapes[name].shape[-1], config.chunk_bytes)
        for name in config.banks
    }
    neutral = {"mean": jnp.float32(0), "deviation": jnp.float32(1)}
    return {**rows, "scales": {name: dict(neutral) for name in config.banks}}


# --- Normalisation --------------------------------------------------------------------


def scales_phase(config: Config, describe: Describe) -> Sum:
    """Returns the phase that measures mean and deviation of whole banks."""

    def emit(key, state, batch):
        """Returns numbers, their sum and that of their squares, channel by channel."""
        return {
            name: _moments(rows, batch.weight)
            for name, rows in describe(state, batch).items()
        }

    def finish(key, state, sums):
        found = {name: _scale(each) for name, each in sums.items()}
        if config.normalise == "as_coded":
            mean, deviation = found["points"]["mean"], found["rgb"]["deviation"]
            found = {n: {"mean": mean, "deviation": deviation} for n in config.banks}
        scales = {name: found[name] for name in config.banks}
        return state._replace(memory={**state.memory, "scales": scales})

    return Sum("scales", emit, finish)


def _moments(rows: Array, weight: Array) -> dict[str, Array]:
    add = partial(jnp.einsum, "b,bpd->d", weight, precision="highest")
    count = rows.shape[1] * rows.shape[2] * jnp.sum(weight)
    return {"count": count, "total": add(rows), "square": add(rows * rows)}


def _scale(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns mean and unbiased standard deviation of all numbers, [] float32."""
    count, total, square = (np.sum(sums[name]) for name in ("count", "total", "square"))
    mean = total / count
    variance = max(square - count * mean**2, 0.0) / max(count - 1, 1)
    deviation = np.sqrt(variance) if variance > 0 else 1.0
    return {"mean": np.float32(mean), "deviation": np.float32(deviation)}


def normalised(state: State, rows: Mapping[str, Array]) -> dict[str, Array]:
    """Returns the features of each bank less its mean, over its deviation."""
    scales = state.memory["scales"]
    return {
        name: (rows[name] - scale["mean"]) / scale["deviation"]
        for name, scale in scales.items()
    }


# --- The rows that are kept -----------------------------------------------------------


def banks_phase(config: Config, describe: Describe) -> Gather:
    """Returns the phase that fills all banks in one pass."""

    def emit(key, state, batch):
        return normalised(state, describe(state, batch))

    def absorb(key, state, rows):
        kept = {n: with_zero_row(config, n, rows[n].rows)[0] for n in config.banks}
        made = {name: knn.build(x, config.chunk_bytes) for name, x in kept.items()}
        return state._replace(memory={**state.memory, **made})

    return Gather(
        name="banks",
        emit=emit,
        absorb=absorb,
        select={name: choice(config, name) for name in config.banks},
        plan=partial(plan, config),
    )


def form(config: Config, name: str, places: int) -> banks.Bank:
    """Returns how a bank is chosen: greedily from row 0 on, a fraction of its rows.

    Args:
        config: names the fraction.
        name: of the bank.
        places: of a sample in it.
    """
    fraction = config.fraction
    if config.sizes == "as_coded" and name != "points" and "points" in config.banks:
        # Of what the points have kept; one floor of both is the release's two.
        fraction = min(fraction**2 * (config.cells**2 / places), 1.0)
    return banks.Bank(
        fraction=fraction,
        start="first",
        projection=config.projection,
        precision=config.precision,
        distance="l2",
        chunk_bytes=config.chunk_bytes,
    )


def greedy(config: Config, name: str, places: int) -> Select:
    """Returns the choice of a bank's rows, see `form`."""
    each = form(config, name, places)
    return coreset.greedy(each.fraction, each.start, each.projection, each.precision)


def choice(config: Config, name: str) -> Select:
    """Returns the choice of a bank's rows [T,P,D], whatever P is."""

    def prepare(key, state, rows):
        return greedy(config, name, rows.shape[1]).prepare(key, state, rows)

    return greedy(config, name, config.cells**2)._replace(prepare=prepare)


def with_zero_row(
    config: Config, name: str, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows of a bank [N,D], and which of those given it has, [M] bool.

    With `zero_row` those of points that hold an exact 0 are left out, and a row of
    zeros ends the bank. Meant for the background, whose features are 0; but here they
    are normalised, so that nothing is left out, and the row is the mean feature.
    """
    if name != "points" or not config.zero_row:
        return rows, np.ones(len(rows), bool)
    stays = (rows != 0).all(1)
    return np.concatenate([rows[stays], np.zeros_like(rows[:1])]), stays


def plan(config: Config, state: State, shapes: Tree) -> Plan:
    """Returns what all banks take together; they are chosen one after the other."""
    plans = [
        banks.plan(form(config, name, shapes[name].shape[1]), state, {"rows": shape})
        for name, shape in shapes.items()
    ]
    emitted = sum(4 * each.rows * each.dimensions for each in plans)
    bank_bytes = sum(each.bank_bytes for each in plans)
    choosing = max(e.host_bytes - 4 * e.rows * e.dimensions for e in plans)
    return Plan(
        rows=sum(each.rows for each in plans),
        kept=sum(each.kept for each in plans),
        dimensions=max(each.dimensions for each in plans),
        bank_bytes=bank_bytes,
        split_bytes=max(bank_bytes, *(each.split_bytes for each in plans)),
        whole_bytes=max(each.whole_bytes for each in plans),
        host_bytes=emitted + choosing + bank_bytes,
        chunk=min(each.chunk for each in plans),
    )


# --- Scoring --------------------------------------------------------------------------


def compare(
    config: Config, state: State, rows: Mapping[str, Array], size: tuple[int, int]
) -> tuple[Array, dict[str, Array]]:
    """Returns what the banks say, each times its lambda: ([B,K], [B,H,W,1] by name).

    Args:
        config: says how distances become scores.
        state: fitted.
        rows: normalised features of each bank, [B,P,D] float32.
        size: (H, W) of the maps.
    """
    images, maps = [], {}
    for name in config.banks:
        softness = state.memory.get("softness", {}).get(name)
        bank = state.memory[name]
        image, map = compare_one(config, bank, rows[name], size, softness)
        factor = state.hyper[f"lambda_{name}"]
        images.append(factor * image)
        maps[name] = factor * map
    return jnp.stack(images, axis=1), maps


def compare_one(
    config: Config,
    bank: knn.Bank,
    rows: Array,
    size: tuple[int, int],
    softness: Array | None = None,
) -> tuple[Array, Array]:
    """Returns image scores [B] and blurred maps [B,H,W,1] of one bank.

    Args:
        config, rows, size: as of `compare`.
        bank: is compared with.
        softness: [N], what the distance to each row of the bank is multiplied by.
    """
    count, places, dimensions = rows.shape
    found = knn.nearest(bank, rows.reshape(-1, dimensions), mode=config.mode)
    distance, number = (x.reshape(count, places) for x in found)
    if softness is not None:
        distance = distance * jnp.asarray(softness)[number]
    image = reweight.image_score(
        bank,
        rows,
        distance,
        number,
        "ind_knn",
        config.support,
        config.divisor,
        config.epsilon,
    )
    side = round(places**0.5)
    map = resize_bilinear(distance.reshape(count, side, side, 1), size)
    return image, BLURS[config.blur](map, config.blur_radius)
