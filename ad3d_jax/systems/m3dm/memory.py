"""The banks of M3DM: their normalisation, what they keep, and what they say."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, Gather, Plan, State, Sum, Tree
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


def banks_phase(config: Config, describe: Describe, places: Mapping[str, int]) -> Gather:
    """Returns the phase that fills all banks in one pass.

    Args:
        config: says what they keep.
        describe: gives the features.
        places: cells of a sample in each bank.
    """
    forms = {name: form(config, name, places) for name in config.banks}
    select = {
        name: coreset.greedy(each.fraction, each.start, each.projection, each.precision)
        for name, each in forms.items()
        if each.fraction < 1
    }

    def emit(key, state, batch):
        return normalised(state, describe(state, batch))

    def absorb(key, state, rows):
        built = {name: kept(config, name, rows[name]) for name in config.banks}
        made = {name: knn.build(x, config.chunk_bytes) for name, x in built.items()}
        return state._replace(memory={**state.memory, **made})

    return Gather("banks", emit, absorb, select=select, plan=partial(plan, forms))


def form(config: Config, name: str, places: Mapping[str, int]) -> banks.Bank:
    """Returns how a bank is chosen: greedily from row 0 on, a fraction of its rows."""
    fraction = config.fraction
    if config.sizes == "as_coded" and name != "points" and "points" in config.banks:
        # Of what the points have kept. Both floors are those of the release.
        fraction = min(fraction**2 * (places["points"] / places[name]), 1.0)
    return banks.Bank(
        fraction=fraction,
        start="first",
        projection=config.projection,
        precision=config.precision,
        distance="l2",
        chunk_bytes=config.chunk_bytes,
    )


def kept(config: Config, name: str, rows: Array | coreset.Chosen) -> np.ndarray:
    """Returns the rows of a bank [N,D], on the host.

    With `zero_row` those of points that hold an exact 0 are left out, and a row of
    zeros ends the bank. Meant for the background, whose features are 0; since it has
    been normalised, nothing is left out, and the row is the mean feature.
    """
    rows = rows.rows if isinstance(rows, coreset.Chosen) else rows
    rows = np.asarray(rows).reshape(-1, rows.shape[-1])
    if name != "points" or not config.zero_row:
        return rows
    return np.concatenate([rows[(rows != 0).all(1)], np.zeros_like(rows[:1])])


def plan(forms: Mapping[str, banks.Bank], state: State, shapes: Tree) -> Plan:
    """Returns what all banks take together; they are chosen one after the other."""
    plans = {
        name: banks.plan(each, state, {"rows": shapes[name]})
        for name, each in forms.items()
    }
    emitted = {n: 4 * each.rows * each.dimensions for n, each in plans.items()}
    bank_bytes = sum(each.bank_bytes for each in plans.values())
    return Plan(
        rows=sum(each.rows for each in plans.values()),
        kept=sum(each.kept for each in plans.values()),
        dimensions=max(each.dimensions for each in plans.values()),
        bank_bytes=bank_bytes,
        split_bytes=max(bank_bytes, *(each.split_bytes for each in plans.values())),
        whole_bytes=max(each.whole_bytes for each in plans.values()),
        host_bytes=sum(emitted.values())
        + max(each.host_bytes - emitted[n] for n, each in plans.items())
        + bank_bytes,
        chunk=min(each.chunk for each in plans.values()),
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
        image, map = compare_one(config, state.memory[name], rows[name], size)
        factor = state.hyper[f"lambda_{name}"]
        images.append(factor * image)
        maps[name] = factor * map
    return jnp.stack(images, axis=1), maps


def compare_one(
    config: Config, bank: knn.Bank, rows: Array, size: tuple[int, int]
) -> tuple[Array, Array]:
    """Returns image scores [B] and blurred maps [B,H,W,1] of one bank."""
    count, places, dimensions = rows.shape
    found = knn.nearest(bank, rows.reshape(-1, dimensions), mode=config.mode)
    distance, number = (x.reshape(count, places) for x in found)
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
