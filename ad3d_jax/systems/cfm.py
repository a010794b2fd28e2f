"""CFM: what the features of one modality say of those of the other.

A. Costanzino, P. Zama Ramirez, G. Lisanti, L. Di Stefano, "Multimodal Industrial
Anomaly Detection by Crossmodal Feature Mapping", CVPR 2024, arXiv 2312.04521. Written
from the facts of the paper and of the authors' release; what differs is in the card
`docs/systems/cfm.md`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from ad3d_jax.base import (
    Array,
    Batch,
    Pretrained,
    Scores,
    State,
    System,
    Train,
    Tree,
    Update,
    with_cache,
)
from ad3d_jax.features.extractors import BACKBONES, deepest, feature_maps
from ad3d_jax.features.patches import cell_pool
from ad3d_jax.features.pixels import (
    interpolated,
    rows_at_a_time,
    stored,
    upsampled,
)
from ad3d_jax.features.points import (
    POINT_NETWORKS,
    STATISTICS,
    init_points,
    point_features,
    pretrained_points,
)
from ad3d_jax.nn.feature_mapping import FeatureMapping
from ad3d_jax.nn.point_transformer import LAYERS as POINT_LAYERS
from ad3d_jax.nn.scope import init_networks
from ad3d_jax.ops.blur import mean_filter
from ad3d_jax.ops.fpfh import fpfh
from ad3d_jax.systems import backbones
from ad3d_jax.systems.fields import Fields, at_least, numbers, one_of
from ad3d_jax.systems.modalities import map_size

HYPER: Mapping[str, float] = {"learning_rate": 1e-3}
NEEDS = ("rgb", "xyz")
FPFH_SUM = 200.0  # of each of a point's histograms

# How the distances in both modalities become one.
AGGREGATIONS = {
    "product": lambda rgb, points: rgb * points,
    "sum": lambda rgb, points: rgb + points,
    "max": jnp.maximum,
    "min": jnp.minimum,
    "rgb": lambda rgb, points: rgb,
    "points": lambda rgb, points: points,
}


@dataclass(frozen=True)
class Config(Fields):
    """Structure of the system; a change of any field compiles anew."""

    backbone: str = one_of(*BACKBONES, default="vit_base_patch8_224")
    layers: tuple[str, ...] = ("norm12",)
    source: str = "dino"  # set of weights that is accepted, see features.known
    points: str = one_of(*POINT_NETWORKS, "fpfh")  # what describes them
    # Of the network of points.
    point_layers: tuple[str, ...] = ("block4", "block8", "block12")
    point_source: str = ""  # set of weights that is accepted; "" = any
    groups: int = at_least(3, 1024)
    group_size: int = at_least(1, 128)  # points
    statistics: str = one_of(*STATISTICS)  # of batch norms, see features.points
    depth: int = at_least(1, 1)  # hidden layers of a mapping after its first one
    aggregation: str = one_of(*AGGREGATIONS)
    # Sides of the mean filters that smooth the map one after the other, odd, pixels.
    smoothing: tuple[int, ...] = (5, 5, 5, 5, 5, 7, 7, 7)
    epochs: int = at_least(1, 250)
    rows: int = at_least(1, 8)  # of pixels that are mapped at a time, at most

    def __post_init__(self):
        super().__post_init__()
        deepest(self.backbone, self.layers)
        unknown = set(self.point_layers) - set(POINT_LAYERS)
        if self.points in POINT_NETWORKS and (unknown or not self.point_layers):
            raise ValueError(
                f"model.point_layers: expected some of {POINT_LAYERS}, found "
                f"{self.point_layers}"
            )
        if not all(side % 2 for side in self.smoothing):
            raise ValueError(
                f"model.smoothing: expected odd numbers, found {self.smoothing}"
            )


def cfm(config: Config = Config()) -> System:  # noqa: B008 (immutable)
    """Returns the system that `config` describes."""

    def cache(state, batch):
        return frozen_features(config, state, batch)

    def init(key, batch):
        first, *keys = jax.random.split(key, 3)
        state = State(frozen=init_frozen(config, first), hyper=numbers(HYPER))

        def features(state, batch):
            return strips(config, with_cache(system, state, batch))[1](0)

        rgb, points = (x.shape[-1] for x in jax.eval_shape(features, state, batch))
        mappings = {
            "to_points": FeatureMapping(points, config.depth),
            "to_rgb": FeatureMapping(rgb, config.depth),
        }
        inputs = {"to_points": ((1, rgb),), "to_rgb": ((1, points),)}
        return state._replace(params=init_networks(mappings, inputs, keys)[0])

    def loss(keys, params, state, batch, across):
        """Returns 1 - cosine in both modalities, means over the pixels of the batch.

        Pixels without points do not count; where there are no others, it is 0.
        """
        starts, features = strips(config, batch)

        @jax.checkpoint  # else the activations of all pixels are kept
        def add(sums, start):
            rgb, points = features(start)
            to_points, to_rgb = mapped(config, params, rgb, points)
            told = {
                "points": 1 - cosine(to_points, points),
                "rgb": 1 - cosine(to_rgb, rgb),
                "pixels": jnp.ones(rgb.shape[:-1]),
            }
            told = {n: jnp.where(has_points(points), x, 0.0) for n, x in told.items()}
            return {n: sums[n] + jnp.sum(x, (1, 2)) for n, x in told.items()}, None

        nothing = dict.fromkeys(("points", "rgb", "pixels"), jnp.zeros(len(batch.rgb)))
        sums, _ = jax.lax.scan(add, nothing, starts)
        # The driver divides by the number of samples, on all devices as here.
        samples = across.sum(jnp.sum(batch.weight))
        pixels = jax.lax.stop_gradient(sums["pixels"])
        pixels = across.sum(jnp.sum(batch.weight * pixels))
        scale = samples / jnp.where(pixels > 0, pixels, 1.0)
        info = {f"loss_{name}": sums[name] * scale for name in ("points", "rgb")}
        return info["loss_points"] + info["loss_rgb"], {}, info

    def score(key, state, batch):
        """Returns the smoothed disagreement of features and what is mapped to them."""
        starts, features = strips(config, batch)

        def compare(start):
            rgb, points = features(start)
            to_points, to_rgb = mapped(config, state.params, rgb, points)
            far = distance(to_rgb, rgb), distance(to_points, points)
            return [jnp.where(has_points(points), x, 0.0) for x in far]

        rgb, points = map(joined, jax.lax.map(compare, starts))
        smooth = AGGREGATIONS[config.aggregation](rgb, points)
        for side in config.smoothing:
            smooth = mean_filter(smooth, side)
        scores = normalised(smooth)
        distances = {"distance_rgb": rgb, "distance_points": points}
        return scores._replace(parts={**scores.parts, **distances})

    system = System(
        name="cfm",
        needs_fit=NEEDS,
        needs_score=NEEDS,
        init=init,
        phases=(Train("train", (Update(loss, optimizer),), 0, epochs=config.epochs),),
        score=score,
        pretrained=pretrained_parts(config),
        cache=cache,
    )
    return system


def optimizer(hyper: Mapping[str, Array], steps: int) -> optax.GradientTransformation:
    """Adam with a constant rate (sheet §5)."""
    return optax.adam(hyper["learning_rate"])


# --- Features -------------------------------------------------------------------------


def pretrained_parts(config: Config) -> tuple[Pretrained, ...]:
    """Returns the rows of `System.pretrained`: one network, or two."""
    accepted = (config.point_source,) if config.point_source else ()
    networks = config.points in POINT_NETWORKS
    points = (pretrained_points(config.points, accepted),) if networks else ()
    return (*backbones.pretrained_parts(config), *points)


def init_frozen(config: Config, key: Array) -> dict:
    """Returns `State.frozen` with random networks up to the deepest of the layers."""
    one, other = jax.random.split(key)
    frozen = backbones.init_frozen(config, one)
    if config.points not in POINT_NETWORKS:
        return frozen
    last_layer = max(config.point_layers, key=POINT_LAYERS.index)
    return {**frozen, "points": init_points(other, config.points, last_layer)}


def frozen_features(config: Config, state: State, batch: Batch) -> dict[str, Array]:
    """Returns what is computed once a sample: of the image, and of the points.

    A point counts if none of its coordinates is 0, as in the release.

    Raises:
        ValueError: the images are not square.
    """
    height, width = map_size(batch)
    if height != width:
        raise ValueError(
            f"data.image_size: cfm needs square images, found {height} x {width}"
        )
    maps = feature_maps(
        state.frozen["backbone"], config.backbone, batch.rgb, config.layers
    )
    found = {f"rgb_{name}": x for name, x in zip(config.layers, maps, strict=True)}
    there = jnp.all(batch.xyz != 0, axis=-1, keepdims=True)
    if config.points == "fpfh":
        points = fpfh(batch.xyz, there) / FPFH_SUM
        return found | {"points": cell_pool(points, height)}
    points = point_features(
        state.frozen["points"],
        config.points,
        batch.xyz,
        there,
        config.point_layers,
        config.groups,
        config.group_size,
        config.statistics,
    )
    back = {"point_index": points.index, "point_weight": points.weight}
    return found | {"tokens": points.tokens} | back


def strips(config: Config, batch: Batch) -> tuple[Array, Callable]:
    """Returns the first rows of strips of the image, and what makes their features.

    That is a function from a first row to those of RGB [B,R,W,C] and of the points
    [B,R,W,D], both float32, the latter 0 where no point is near. All pixels have 385 MB
    of features, and what they are made of 8 MB.
    """
    size, found = map_size(batch), batch.extras
    rgb = upsampled(tuple(found[f"rgb_{name}"] for name in config.layers), size)
    if config.points == "fpfh":
        points = stored(found["points"])
    else:
        names = "tokens", "point_index", "point_weight"
        points = interpolated(*(found[name] for name in names), size)
    count = rows_at_a_time(size[0], config.rows)
    starts = jnp.arange(0, size[0], count)
    return starts, lambda start: (rgb(start, count), points(start, count))


def has_points(features: Array) -> Array:
    """Returns where points have features, [...] bool of [...,D]."""
    return jnp.any(features != 0, axis=-1)


# --- Mappings -------------------------------------------------------------------------


def mapped(
    config: Config, params: Tree, rgb: Array, points: Array
) -> tuple[Array, Array]:
    """Returns the features of the points as RGB tells them, and those of RGB."""

    def apply(name, x, like):
        mapping = FeatureMapping(like.shape[-1], config.depth)
        return mapping.apply({"params": params[name]}, x)

    return apply("to_points", rgb, points), apply("to_rgb", points, rgb)


def cosine(x: Array, y: Array, least: float = 1e-6) -> Array:
    """Returns the cosine of the angle between vectors [...,C], [...] float32.

    A vector shorter than `least` counts as one of that length, as in PyTorch.
    """
    return jnp.sum(x * y, axis=-1) / (_norm(x, least) * _norm(y, least))


def distance(x: Array, y: Array) -> Array:
    """Returns how far two vectors [...,C] of length 1 end from each other, 0 to 2.

    Both are brought to that length; one that is 0 stays so.
    """
    x, y = (v / _norm(v, 1e-12)[..., None] for v in (x, y))
    return jnp.sqrt(jnp.sum(jnp.square(x - y), axis=-1))


def _norm(x: Array, least: float) -> Array:
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x), axis=-1), least**2))


# --- Scores ---------------------------------------------------------------------------


def joined(strips: Array) -> Array:
    """Returns strips [n,B,R,W] as maps [B,n*R,W,1]."""
    number, batch, count, width = strips.shape
    return strips.swapaxes(0, 1).reshape(batch, number * count, width, 1)


def normalised(smooth: Array) -> Scores:
    """Returns what each metric of the paper is measured on (sheet §6).

    The image score is the largest value over the square root of the mean of those that
    are not 0; `map`, of which AUPRO is taken, is divided by that mean, `map_p_auroc`
    by the square root of the mean of all. Where all are 0, all results are.

    Args:
        smooth: [B,H,W,1] float32, at least 0.
    """
    axes = (1, 2, 3)
    total = jnp.sum(smooth, axes, keepdims=True)
    number = jnp.sum(smooth != 0, axes, jnp.float32, keepdims=True)
    something = total > 0
    of_all = jnp.where(something, jnp.mean(smooth, axes, keepdims=True), 1.0)
    of_some = jnp.where(something, total / jnp.maximum(number, 1.0), 1.0)
    return Scores(
        map=smooth / of_some,
        image=jnp.max(smooth / jnp.sqrt(of_some), axis=axes),
        parts={"map_p_auroc": smooth / jnp.sqrt(of_all)},
    )
