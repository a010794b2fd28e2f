"""The two memories of Shape-Guided: codes of patches, and features of image cells."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, Gather, Plan, State, Sum, Tree
from ad3d_jax.features.patches import as_rows
from ad3d_jax.ops import knn
from ad3d_jax.ops.matching_pursuit import reconstruct
from ad3d_jax.systems.modalities import map_size
from ad3d_jax.systems.shape_guided import distances
from ad3d_jax.systems.shape_guided.patches import cover, cut

DEVIATIONS = 3  # on both sides of the mean: the range that is aligned


class Memories(Protocol):
    """Fields of a configuration that say what the memories are."""

    code: int
    cells: int
    atoms: int
    neighbours: int
    rgb_neighbours: int
    aligned: int
    chunk_bytes: int


class Rebuilt(NamedTuple):
    """Vectors as sums of a few stored ones."""

    rebuilt: Array  # [B,Q,D]
    residual: Array  # [B,Q], how far that is from them
    number: Array  # [B,Q,k] int32, the stored rows that were near; -1 = none


def empty(config: Memories, dimensions: int) -> Tree:
    """Returns memories of nothing; `dimensions` of a cell's features, 0 = no image."""
    codes = {"codes": knn.empty(config.code, config.chunk_bytes)}
    if not dimensions:
        return codes
    return {
        **codes,
        "rgb": knn.empty(dimensions, config.chunk_bytes),
        # Of each row of "rgb" its cell: sample * cells^2 + cell.
        "origin": np.zeros(0, np.int32),
        # Of each row of "codes" its sample, and the cells that it stands for.
        "sample": np.zeros(0, np.int32),
        "cover": np.zeros((0, config.cells**2), bool),
        "ids": np.zeros(0, np.int32),  # of all samples
        "aligned": np.zeros(0, bool),  # which of them put both maps on one scale
        "line": {"factor": np.float32(1), "offset": np.float32(0)},
    }


# --- The phases -----------------------------------------------------------------------


def fill_phase(config, colours: bool) -> Gather:
    """Returns the phase that fills the memories; `colours` says whether with both."""

    def emit(key, state, batch):
        patches = cut(batch)
        rows = {
            "codes": distances.encode(config, state, patches),
            "there": patches.there,
        }
        if not colours:
            return rows
        return {
            **rows,
            "cover": cover(patches, map_size(batch), config.cells),
            "rgb": as_rows(batch.extras["rgb_cells"]),
            "id": batch.id,
        }

    def absorb(key, state, rows):
        """Returns the state with all codes, and the cells that a patch stands for."""
        there = np.asarray(rows["there"])
        if there.sum() <= config.neighbours:
            raise ValueError(
                f"shape_guided: expected more than {config.neighbours} patches in "
                f"{len(there)} training samples, found {there.sum()}: model.neighbours "
                "of a patch, and its own, have to be there"
            )
        codes = knn.build(rows["codes"][there], config.chunk_bytes)
        memory = {**state.memory, "codes": codes}
        if not colours:
            return state._replace(memory=memory)
        seen = np.asarray(rows["cover"]).any(1)  # [T,cells^2]
        if seen.sum() <= config.rgb_neighbours:
            raise ValueError(
                f"shape_guided: expected more than {config.rgb_neighbours} cells that "
                f"patches stand for, found {seen.sum()}: model.rgb_neighbours of a cell"
                ", and its own, have to be there"
            )
        chosen = min(config.aligned, len(there))
        order = np.asarray(jax.random.permutation(key, len(there)))
        aligned = np.zeros(len(there), bool)
        aligned[order[:chosen]] = True
        return state._replace(
            memory={
                **memory,
                "rgb": knn.build(rows["rgb"][seen], config.chunk_bytes),
                "origin": np.flatnonzero(seen).astype(np.int32),
                "sample": np.nonzero(there)[0].astype(np.int32),
                "cover": np.asarray(rows["cover"])[there],
                "ids": np.asarray(rows["id"]),
                "aligned": aligned,
            }
        )

    def plan(state, shapes):
        """Returns what the memories take if every patch is there, and every cell."""
        samples, patches, code = shapes["codes"].shape
        banks = [(samples * patches, code, patches)]
        whole = emitted = 0
        if colours:
            _, cells, width = shapes["rgb"].shape
            banks.append((samples * cells, width, cells))
            whole = samples * (patches + cells) * cells  # cover, and what is allowed
            emitted = samples * patches * cells
        kept = sum(rows for rows, *_ in banks)
        size = 4 * sum(rows * width for rows, width, _ in banks)
        queries = max(queries for *_, queries in banks)
        rows, width, _ = banks[-1]
        return Plan(
            rows=kept,
            kept=kept,
            dimensions=width,
            bank_bytes=size,
            split_bytes=size + 8 * kept,
            whole_bytes=whole + config.chunk_bytes,
            # Rows, those that are kept, and their centred copy.
            host_bytes=3 * size + 2 * emitted,
            chunk=knn.chunk_rows(queries, rows, width, config.chunk_bytes),
        )

    return Gather(name="memories", emit=emit, absorb=absorb, plan=plan)


def align_phase(maps: Callable[[State, Batch], Mapping[str, Array]]) -> Sum:
    """Returns the phase that finds the line from the map of colour to that of shape.

    `maps` returns {"sdf", "rgb"}, each [B,H,W,1], of samples that are in memory.
    """

    def emit(key, state, batch):
        def moments(map):
            flat = map.reshape(len(map), -1)
            sums = {
                "count": jnp.sum(flat != 0, axis=1).astype(flat.dtype),
                "total": jnp.sum(flat, axis=1),
                "square": jnp.sum(flat**2, axis=1),
            }
            return {n: jnp.sum(x * batch.weight) for n, x in sums.items()}

        return {name: moments(map) for name, map in maps(state, batch).items()}

    def weigh(state, batch):
        """Returns 0 of the samples in memory that were not chosen."""
        same = batch.id[:, None] == state.memory["ids"][None]
        left_out = jnp.any(same & ~state.memory["aligned"][None], axis=1)
        return (~left_out).astype(batch.weight.dtype)

    def finish(key, state, sums):
        line = straight(spread(sums["rgb"]), spread(sums["sdf"]))
        return state._replace(memory={**state.memory, "line": line})

    return Sum(name="alignment", emit=emit, finish=finish, weigh=weigh)


def spread(sums: Mapping[str, Array]) -> tuple[float, float]:
    """Returns mean - 3 deviations and mean + 3 deviations of what is not 0.

    Raises:
        ValueError: all is 0.
    """
    count = float(sums["count"])
    if not count:
        raise ValueError("shape_guided: a map of the aligned samples is 0 throughout")
    mean = float(sums["total"]) / count
    deviation = np.sqrt(max(float(sums["square"]) / count - mean**2, 0.0))
    return mean - DEVIATIONS * deviation, mean + DEVIATIONS * deviation


def straight(start: tuple[float, float], end: tuple[float, float]) -> dict[str, Array]:
    """Returns factor and offset of the line that maps one range onto another.

    A range without a width is moved and not stretched.
    """
    width = start[1] - start[0]
    factor = (end[1] - end[0]) / width if width > 0 else 1.0
    offset = end[0] - factor * start[0]
    return {"factor": np.float32(factor), "offset": np.float32(offset)}


# --- What they say --------------------------------------------------------------------


def rebuild(
    config: Memories,
    bank: knn.Bank,
    queries: Array,
    neighbours: int,
    itself: bool,
    allowed: Array | None = None,
) -> Rebuilt:
    """Returns vectors as sums of `config.atoms` of their nearest stored ones.

    Args:
        config: says how many atoms there are.
        bank: of the stored vectors.
        queries: [B,Q,D].
        neighbours: that the atoms are taken from.
        itself: whether the nearest is left out.
        allowed: [B,N] bool, stored rows that the queries of a sample may find; where
            too few are, there are fewer atoms. None = all.
    """
    first, (samples, each, dimensions) = int(itself), queries.shape
    queries = queries.reshape(-1, dimensions)
    found = knn.nearest(bank, queries, neighbours + first, allowed=allowed)
    number = found.number[:, first:]
    atoms = jnp.where(number[..., None] < 0, 0.0, knn.take(bank, number))
    rebuilt = reconstruct(atoms, queries, config.atoms)
    residual = jnp.linalg.norm(queries - rebuilt, axis=-1)
    found = Rebuilt(rebuilt, residual, number)
    return jax.tree.map(lambda x: x.reshape(samples, each, *x.shape[1:]), found)


def allowed_cells(memory: Mapping[str, Array], number: Array, there: Array) -> Array:
    """Returns which rows of "rgb" each sample may be compared to, [B,N] bool.

    Those are the cells that the patches stand for which were found.

    Args:
        memory: filled.
        number: [B,G,k] int32, rows of "codes" that were found; -1 = none.
        there: [B,G] bool, whether a patch is there.
    """
    cover, origin = jnp.asarray(memory["cover"]), jnp.asarray(memory["origin"])
    sample = jnp.asarray(memory["sample"])
    blank = jnp.zeros((len(memory["ids"]), cover.shape[1]), bool)

    def allowed(found):
        number, there = found
        known = there[:, None] & (number >= 0)
        number = number.reshape(-1)
        cells = cover[number] & known.reshape(-1, 1)
        return blank.at[sample[number]].max(cells).reshape(-1)[origin]

    return jax.lax.map(allowed, (number, there))
