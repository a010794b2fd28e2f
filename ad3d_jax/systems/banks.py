"""A bank of patch features: what it keeps of them, and what it says of others.

The memory of PatchCore (arXiv 2106.08265) and of its descendants: rows of all training
samples, chosen by a coreset, to which patches are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, Gather, Plan, Scores, State, Tree
from ad3d_jax.features.patches import as_rows
from ad3d_jax.ops import coreset, knn, reweight
from ad3d_jax.ops.projection import johnson_lindenstrauss_dimension
from ad3d_jax.ops.resize import resize_bilinear, resize_nearest
from ad3d_jax.systems.fields import Fields, Range, at_least, one_of, within

UPSAMPLE = {"bilinear": resize_bilinear, "nearest": resize_nearest}
Features = Callable[[State, Batch], Array]  # -> [B,h,w,D] float32


@dataclass(frozen=True)
class Bank(Fields):
    """Fields of a bank; the defaults are those of PatchCore's release."""

    choice: str = one_of("greedy", "random")  # of the bank's rows
    # Of the rows, that the bank keeps; 1 = all.
    fraction: float = within(Range(0, 1, open=True), 0.1)
    # Of the greedy choice, see ops.coreset.greedy.
    start: str = one_of(*coreset.STARTS, default="mean_of_ten")
    projection: str = one_of(*coreset.PROJECTIONS, default="dense")
    precision: str = one_of(*coreset.PRECISIONS, default="float32")
    neighbours: int = at_least(1, 1)  # whose distances make a patch's score, by mean
    distance: str = one_of("squared", "l2")  # squared as in the release
    reweight: str = one_of(*reweight.KINDS, default="none")  # see ops.reweight
    support: int = at_least(1, 9)  # rows that the re-weighting looks at
    upsample: str = one_of(*UPSAMPLE)  # of the patch scores; nearest is anomalib's
    mode: str = one_of(*knn.MODES)  # of the search, see ops.knn.nearest
    match: bool = False  # say which training patch the worst patch matched
    # Memory of the rows that are compared at a time.
    chunk_bytes: int = at_least(1, knn.CHUNK_BYTES)

    def __post_init__(self):
        super().__post_init__()
        if self.reweight != "none" and self.distance != "l2":
            raise ValueError(
                f"model.reweight={self.reweight} weighs Euclidean distances: expected "
                f"model.distance=l2, found {self.distance}"
            )


def with_empty_bank(config: Bank, state: State, features: Features, batch: Batch):
    """Returns the state with a bank of no rows, of the features' dimensions."""
    dimensions = jax.eval_shape(features, state, batch).shape[-1]
    bank = knn.empty(dimensions, config.chunk_bytes)
    return state._replace(memory={"bank": bank, "origin": np.zeros(0, np.int32)})


# --- The phase ------------------------------------------------------------------------


def bank_phase(config: Bank, features: Features) -> Gather:
    """Returns the phase that fills the bank with the features of all patches."""
    select = None
    if config.choice == "greedy" and config.fraction < 1:
        choice = coreset.greedy(
            config.fraction, config.start, config.projection, config.precision
        )
        select = {"rows": choice}
    return Gather(
        name="bank",
        emit=lambda key, state, batch: {"rows": as_rows(features(state, batch))},
        absorb=partial(absorb, config),
        select=select,
        plan=partial(plan, config),
    )


def absorb(config: Bank, key: Array, state: State, rows: Tree) -> State:
    """Returns the state with the bank and the number of each row among all emitted."""
    kept = rows["rows"]
    if isinstance(kept, coreset.Chosen):
        kept, origin = kept
    else:
        kept = kept.reshape(-1, kept.shape[-1])
        count = coreset.coreset_size(len(kept), config.fraction)
        origin = np.arange(len(kept), dtype=np.int32)
        if count < len(kept):
            origin = jax.random.choice(key, origin, (count,), replace=False)
            origin = np.sort(np.asarray(origin))
            kept = kept[origin]
    bank = knn.build(kept, config.chunk_bytes)
    return state._replace(memory={"bank": bank, "origin": origin})


def plan(config: Bank, state: State, shapes: Tree) -> Plan:
    """Returns what the fit and the score take, the larger of both."""
    del state
    samples, places, dimensions = shapes["rows"].shape
    rows = samples * places
    kept = coreset.coreset_size(rows, config.fraction)
    compared = projected = 0  # numbers that the choice holds on the devices
    if config.choice == "greedy" and kept < rows:
        width = {
            "none": dimensions,
            "dense": coreset.DENSE_DIMENSIONS,
            "sparse": johnson_lindenstrauss_dimension(rows),
        }[config.projection]
        projected = rows * min(width, dimensions)
        compared = projected + 3 * rows
    bank = kept * (dimensions + 2)
    return Plan(
        rows=rows,
        kept=kept,
        dimensions=dimensions,
        bank_bytes=4 * kept * dimensions,
        split_bytes=4 * max(compared, bank),
        whole_bytes=8 * rows + config.chunk_bytes,
        # Rows, their projection and its centred copy; the kept rows twice.
        host_bytes=4 * (rows * dimensions + 2 * max(projected, kept * dimensions)),
        chunk=knn.chunk_rows(places, kept, dimensions, config.chunk_bytes),
    )


# --- Scoring --------------------------------------------------------------------------


def compare(config: Bank, state: State, grid: Array, size: tuple[int, int]) -> Scores:
    """Returns what the bank says of patches, the map not blurred yet.

    Args:
        config: says how distances become scores.
        state: fitted.
        grid: [B,h,w,D] float32 patch features.
        size: (H, W) of the map.
    """
    bank, (count, height, width, _) = state.memory["bank"], grid.shape
    patch_scores, matched = patches_compared(config, state, grid)
    image = reweight.image_score(
        bank, as_rows(grid), patch_scores, matched, config.reweight, config.support
    )
    match = None
    if config.match:
        origin = jnp.asarray(state.memory["origin"])[matched]
        match = worst_match(patch_scores, origin, (height, width), size)
    cells = patch_scores.reshape(count, height, width, 1)
    return Scores(map=UPSAMPLE[config.upsample](cells, size), image=image, match=match)


def patches_compared(config: Bank, state: State, grid: Array) -> tuple[Array, Array]:
    """Returns scores of patches and the rows they matched, both [B,P].

    Args: see `compare`; P = h*w, row by row.
    """
    count, dimensions = len(grid), grid.shape[-1]
    queries = grid.reshape(-1, dimensions)
    found = knn.nearest(state.memory["bank"], queries, config.neighbours, config.mode)
    distance = found.distance
    if config.distance == "squared":
        distance = distance**2
    scores = jnp.mean(distance, axis=1).reshape(count, -1)
    return scores, found.number[:, 0].reshape(count, -1)


def worst_match(
    scores: Array, origin: Array, grid: tuple[int, int], size: tuple[int, int]
) -> Array:
    """Returns what the worst patch of each sample matched, [B,5] as `base.MATCH`.

    Args:
        scores: [B,P] patch scores.
        origin: [B,P] int32, number among all emitted rows of what each patch matched.
        grid: (h, w) patches, P = h*w, row by row.
        size: (H, W) of the image.
    """
    worst = jnp.argmax(scores, axis=1)
    sample, place = jnp.divmod(
        jnp.take_along_axis(origin, worst[:, None], axis=1)[:, 0], grid[0] * grid[1]
    )

    def centre(place):
        return [
            (2 * index + 1) * pixels // (2 * patches)
            for index, pixels, patches in zip(
                jnp.divmod(place, grid[1]), size, grid, strict=True
            )
        ]

    columns = [*centre(worst), sample, *centre(place)]
    return jnp.stack(columns, axis=1).astype(jnp.int32)
