"""Tokens of point groups from frozen point transformers.

What is made of a sample is small and says all: tokens [G,C], centres, and for each
pixel the three nearest centres with their weights, 6 MB at 1024 groups; maps of all
pixels would hold 230 MB. `features.point_maps` makes parts of them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from ad3d_jax.base import Array, Pretrained, State, Tree
from ad3d_jax.features.point_weights import read_points
from ad3d_jax.nn.group_encoder import GroupEncoder
from ad3d_jax.nn.initialise import initialise
from ad3d_jax.nn.point_transformer import LAYERS, PointTransformer
from ad3d_jax.nn.rows import Rows
from ad3d_jax.ops.point_sets import (
    LEAST_SQUARED_NORM,
    Interpolation,
    farthest_points,
    interpolation,
    nearest_points,
)

STATISTICS = ("running", "batch")
GROUPS_AT_A_TIME = 32  # that the group encoder works on, with running statistics


class PointNetwork(NamedTuple):
    """The two parts of a network of points."""

    encoder: GroupEncoder
    transformer: PointTransformer


POINT_NETWORKS = {
    "point_mae": PointNetwork(GroupEncoder(384), PointTransformer()),
    "point_bert": PointNetwork(GroupEncoder(256), PointTransformer(class_token=True)),
}


class PointFeatures(NamedTuple):
    """The groups of a batch of clouds, and the way back to their pixels."""

    tokens: Array  # [B,G,C] float32
    centres: Array  # [B,G,3] float32, metres; 0 where a cloud has no point
    index: Array  # [B,H*W,3] int32, of each pixel the three nearest centres
    weight: Array  # [B,H*W,3] float32, sum 1; 0 where no point is


def init_points(key: Array, name: str, deepest: str = "block12") -> Tree:
    """Returns random weights of a network up to a layer, to be replaced by a file's.

    Args:
        key: random key.
        name: one of POINT_NETWORKS.
        deepest: one of "block1" … "block12".

    Returns:
        {"encoder": …, "statistics": …, "transformer": …}, float32; statistics are the
        running ones of the encoder's two batch norms.

    Raises:
        ValueError: an unknown name or layer.
    """
    network = _network(name, (deepest,))
    tokens, centres = jnp.zeros((1, 3, network.encoder.width)), jnp.zeros((1, 3, 3))

    def build(key):
        one, other = jax.random.split(key)
        encoder = network.encoder.init(one, jnp.zeros((1, 3, 2, 3)))
        transformer = network.transformer.init(other, tokens, centres, (deepest,))
        return {
            "encoder": encoder["params"],
            "statistics": encoder["batch_stats"],
            "transformer": transformer["params"],
        }

    return initialise(build, key)


def point_features(
    params: Tree,
    name: str,
    xyz: Array,
    valid: Array,
    layers: tuple[str, ...] = ("block4", "block8", "block12"),
    groups: int = 1024,
    group_size: int = 128,
    statistics: str = "running",
    keys: Array | None = None,
) -> PointFeatures:
    """Returns the tokens of a batch of clouds, and the way back to their pixels.

    Centres are the farthest points, never those within 32 mm of the origin (the rule
    of the CUDA kernel); a group is the nearest points relative to its centre, in the
    cloud's own unit.

    Args:
        params: from `init_points` or `read_points`.
        name: one of POINT_NETWORKS.
        xyz: [B,H,W,3] float32, metres.
        valid: [B,H,W,1] bool, which points count.
        layers: names of blocks whose tokens stand side by side.
        groups: G, 3 or more; group_size: points in each, at most H*W.
        statistics: of the encoder's batch norms; "running" as stored, "batch" those of
            all groups of the one cloud, as published results had them since the
            networks were never switched to inference.
        keys: [B], for stochastic depth, which was on in published results as well;
            None = none.

    A cloud with fewer points than centres or neighbours repeats some
    (`ops.point_sets`); one without any has weights of 0.

    Raises:
        ValueError: an unknown name, layer or kind of statistics, a layer that `params`
            does not reach, or shapes that do not fit.
    """
    network = _network(name, layers)
    if statistics not in STATISTICS:
        raise ValueError(
            f"statistics: expected one of {STATISTICS}, found {statistics!r}"
        )
    blocks = sum(part.startswith("block") for part in params["transformer"])
    for layer in layers:
        if LAYERS.index(layer) >= blocks:
            raise ValueError(
                f"layers: {layer} is deeper than the weights, which end at "
                f"block{blocks}"
            )
    if xyz.ndim != 4 or valid.shape != (*xyz.shape[:3], 1):
        raise ValueError(
            f"xyz, valid: expected [B,H,W,3] and [B,H,W,1], found {xyz.shape} and "
            f"{valid.shape}"
        )
    points, there = xyz.reshape(len(xyz), -1, 3), valid.reshape(len(xyz), -1)
    points = jnp.where(there[..., None], points, 0.0)
    centres = jax.vmap(
        lambda *cloud: farthest_points(
            *cloud, groups, least_squared_norm=LEAST_SQUARED_NORM
        )
    )(points, there)

    def cloud(inputs) -> tuple[Array, Interpolation]:
        points, there, centres, key = inputs
        index = nearest_points(points, there, centres.xyz, group_size)
        group = points[index] - centres.xyz[:, None]
        tokens = network.transformer.apply(
            {"params": params["transformer"]},
            _encoded(network.encoder, params, group, statistics)[None],
            centres.xyz[None],
            tuple(layers),
            key,
        )
        back = interpolation(points, there, centres.xyz, centres.found)
        return tokens[0], back

    # One cloud at a time: its groups fill any device, and statistics are its own.
    keys = None if keys is None else keys[:, None]
    tokens, back = jax.lax.map(cloud, (points, there, centres, keys))
    return PointFeatures(tokens, centres.xyz, back.index, back.weight)


def pretrained_points(name: str, sources: tuple[str, ...] = ()) -> Pretrained:
    """Returns the row of `System.pretrained` of the network at frozen["points"].

    Args:
        name: one of POINT_NETWORKS.
        sources: sets of weights that are accepted (`known.SOURCES`); () = any.

    Raises:
        ValueError: an unknown name.
    """
    _network(name, LAYERS)
    return Pretrained(
        name="points",
        get=lambda state: state.frozen["points"],
        put=_with_points,
        read=lambda file, like: read_points(file, name, like),
        sources=sources,
    )


def _with_points(state: State, params: Tree) -> State:
    return state._replace(frozen={**state.frozen, "points": params})


def _encoded(
    encoder: GroupEncoder, params: Tree, groups: Array, statistics: str
) -> Array:
    """Returns the tokens [G,C] of one cloud's groups [G,M,3]."""
    variables = {"params": params["encoder"], "batch_stats": params["statistics"]}
    if statistics == "batch":
        return encoder.apply(variables, groups[None], Rows(train=True))[0]
    return jax.lax.map(
        lambda group: encoder.apply(variables, group[None, None])[0, 0],
        groups,
        batch_size=GROUPS_AT_A_TIME,
    )


def _network(name: str, layers: tuple[str, ...]) -> PointNetwork:
    """Returns the modules of a network, after a check of the layers asked of it."""
    if name not in POINT_NETWORKS:
        raise ValueError(
            f"points: expected one of {tuple(POINT_NETWORKS)}, found {name!r}"
        )
    if not layers or not set(layers) <= set(LAYERS):
        raise ValueError(f"layers: expected some of {LAYERS}, found {layers!r}")
    return POINT_NETWORKS[name]
