"""PatchCore: the distance of patch features to a coreset of those of normal samples.

K. Roth, L. Pemula, J. Zepeda, B. Schölkopf, T. Brox, P. Gehler, "Towards Total Recall
in Industrial Anomaly Detection", CVPR 2022, arXiv 2106.08265. References: the authors'
release, whose constants are the defaults, and anomalib. What differs is in the card
`docs/systems/patchcore.md`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Batch, Gather, Plan, Scores, State, System, Tree
from ad3d_jax.features.extractors import init_backbone
from ad3d_jax.features.modalities import needed_fields, patch_features
from ad3d_jax.features.patches import as_rows, concat_patches, patchcore_patches
from ad3d_jax.ops import coreset, knn, reweight
from ad3d_jax.ops.blur import gaussian_blur
from ad3d_jax.ops.projection import johnson_lindenstrauss_dimension
from ad3d_jax.ops.resize import resize_bilinear, resize_nearest
from ad3d_jax.systems.choices import check_choices

UPSAMPLE = {"bilinear": resize_bilinear, "nearest": resize_nearest}


@dataclass(frozen=True)
class Config:
    """Structure of the system; a change of any field compiles anew."""

    modalities: tuple[str, ...] = ("rgb",)  # depth is our extension
    backbone: str = "wide_resnet50"
    layers: tuple[str, ...] = ("layer2", "layer3")
    patches: str = "official"  # official | concat (anomalib)
    dimensions: int = 1024  # of a modality's official patch features
    choice: str = "greedy"  # of the bank's rows: greedy | random
    fraction: float = 0.1  # of the rows that the bank keeps; 1 = all
    start: str = "mean_of_ten"  # of the greedy choice, see ops.coreset.greedy
    projection: str = "dense"  # of the rows for the choice: dense | sparse | none
    neighbours: int = 1  # whose distances are averaged to a patch's score
    distance: str = "squared"  # squared (release) | l2
    reweight: str = "none"  # of the image score, see ops.reweight
    support: int = 9  # rows that the re-weighting looks at
    upsample: str = "bilinear"  # of the patch scores: bilinear | nearest (anomalib)
    sigma: float = 4.0  # of the map's Gaussian, pixels
    mode: str = "exact"  # of the search, see ops.knn.nearest
    match: bool = False  # say which training patch the worst patch matched
    chunk_bytes: int = knn.CHUNK_BYTES  # memory of the rows compared at a time


HYPER: Mapping[str, float] = {}


def patchcore(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system.

    Raises:
        ValueError: a field of the configuration is wrong.
    """
    check(config)
    needs = needed_fields(config.modalities)
    embed = partial(features, config)
    select = None
    if config.choice == "greedy" and config.fraction < 1:
        select = coreset.greedy(config.fraction, config.start, config.projection)
    phase = Gather(
        name="bank",
        emit=lambda key, state, batch: {"rows": as_rows(embed(state, batch))},
        absorb=partial(absorb, config),
        select=select,
        plan=partial(plan, config),
    )
    return System(
        name="patchcore",
        needs_fit=needs,
        needs_score=needs,
        init=partial(init, config, embed),
        phases=(phase,),
        score=partial(score, config, embed),
        sharded=("bank",),
    )


def check(config: Config) -> None:
    """Raises ValueError where a field holds a value that no variant has."""
    allowed = {
        "patches": ("official", "concat"),
        "choice": ("greedy", "random"),
        "start": coreset.STARTS,
        "projection": coreset.PROJECTIONS,
        "distance": ("squared", "l2"),
        "reweight": reweight.KINDS,
        "upsample": tuple(UPSAMPLE),
        "mode": knn.MODES,
    }
    check_choices(config, allowed)
    for name in ("dimensions", "neighbours", "support", "chunk_bytes"):
        if getattr(config, name) < 1:
            raise ValueError(
                f"model.{name}: expected at least 1, found {getattr(config, name)}"
            )
    if not 0 < config.fraction <= 1:
        raise ValueError(f"model.fraction: expected in (0, 1], found {config.fraction}")
    if config.reweight != "none" and config.distance != "l2":
        raise ValueError(
            f"model.reweight={config.reweight} weighs Euclidean distances: expected "
            f"model.distance=l2, found {config.distance}"
        )


def init(config: Config, embed: Callable, key: Array, batch: Batch) -> State:
    """Returns the state before the fit, the backbone random."""
    backbone = init_backbone(key, config.backbone, max(config.layers, default=""))
    state = State(frozen={"backbone": backbone})
    dimensions = jax.eval_shape(embed, state, batch).shape[-1]
    return state._replace(
        memory={
            "bank": knn.empty(dimensions, config.chunk_bytes),
            "origin": np.zeros(0, np.int32),
        }
    )


def features(config: Config, state: State, batch: Batch) -> Array:
    """Returns the patch features of all modalities, [B,h,w,D] float32."""
    embed = concat_patches
    if config.patches == "official":
        embed = partial(patchcore_patches, dimensions=config.dimensions)
    return patch_features(
        state.frozen["backbone"],
        config.backbone,
        batch,
        config.modalities,
        config.layers,
        embed,
    )


# --- The phase ------------------------------------------------------------------------


def absorb(config: Config, key: Array, state: State, rows: Tree) -> State:
    """Returns the state with the bank and the number of each row among all emitted."""
    origin, kept = rows.get("origin"), rows["rows"]
    if origin is None:  # no greedy choice before
        kept = kept.reshape(-1, kept.shape[-1])
        count = coreset.coreset_size(len(kept), config.fraction)
        origin = np.arange(len(kept), dtype=np.int32)
        if count < len(kept):
            origin = jax.random.choice(key, origin, (count,), replace=False)
            origin = np.sort(np.asarray(origin))
            kept = kept[origin]
    bank = knn.build(kept, config.chunk_bytes)
    return state._replace(memory={"bank": bank, "origin": origin})


def plan(config: Config, state: State, shapes: Tree) -> Plan:
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


def score(
    config: Config, embed: Callable, key: Array, state: State, batch: Batch
) -> Scores:
    """Returns smoothed patch scores and the largest one, re-weighted."""
    del key
    size = getattr(batch, needed_fields(config.modalities)[0]).shape[1:3]
    scores = compare(config, state, embed(state, batch), size)
    return scores._replace(map=gaussian_blur(scores.map, config.sigma))


def compare(config: Config, state: State, grid: Array, size: tuple[int, int]) -> Scores:
    """Returns what the bank says of patches, the map not blurred yet.

    Args:
        config: says how distances become scores.
        state: fitted.
        grid: [B,h,w,D] float32 patch features.
        size: (H, W) of the map.
    """
    bank = state.memory["bank"]
    count, height, width, dimensions = grid.shape
    queries = grid.reshape(-1, dimensions)
    found = knn.nearest(bank, queries, config.neighbours, config.mode)
    distance = found.distance
    if config.distance == "squared":
        distance = distance**2
    patch_scores = jnp.mean(distance, axis=1).reshape(count, -1)
    matched = found.number[:, 0].reshape(count, -1)
    image = reweight.image_score(
        bank, as_rows(grid), patch_scores, matched, config.reweight, config.support
    )
    match = None
    if config.match:
        origin = jnp.asarray(state.memory["origin"])[matched]
        match = worst_match(patch_scores, origin, (height, width), size)
    cells = patch_scores.reshape(count, height, width, 1)
    return Scores(map=UPSAMPLE[config.upsample](cells, size), image=image, match=match)


def worst_match(
    scores: Array, origin: Array, grid: tuple[int, int], size: tuple[int, int]
) -> Array:
    """Returns what the worst patch of each sample matched, [B,5] as `base.MATCH`.

    Args:
        scores: [B,P] patch scores.
        origin: [B,P] int32, number among all emitted rows of what each patch matched.
        grid: (h, w) patches, P = h*w, row by row.
        size: (H, W) of the picture.
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
