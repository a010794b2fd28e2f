"""Centres, groups and maps of point features against Open3D and plain torch.

The torch forms are those of M3DM's pipeline on a CPU: a loop over the centres, all
pairs of points and centres, and a canvas with the features of every pixel.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.features.point_maps import point_map
from ad3d_jax.ops import point_sets
from data_pipelines import geometry
from experiments.benchmarks.baselines.comparison import (
    Call,
    baseline,
    normal,
    side_by_side,
)

# Side of the image, centres, points a group, channels, cells a side.
SIZE = (224, 1024, 128, 1152, 56)
SMALL = (24, 16, 8, 12, 6)
MEASURED = 0.55  # share of the pixels with a point, as in MVTec 3D-AD's cable_gland


def compare(small: bool, rounds: int) -> dict:
    """Returns the timings of each stage, on one wavy surface 0.6 m away with gaps."""
    side, groups, group_size, channels, cells = SMALL if small else SIZE
    xyz, valid = _cloud(side)
    points = xyz[valid]  # what the baselines see
    placed = jax.device_put((xyz, valid))
    sample = jax.jit(partial(point_sets.farthest_points, count=groups))
    group = jax.jit(partial(point_sets.nearest_points, count=group_size))
    way_back = jax.jit(partial(_map, side=side, cells=cells))
    centres = sample(*placed)
    chosen = np.asarray(centres.xyz)
    tokens = normal(np.empty((groups, channels), np.float32))
    stages = {
        "centres": {
            "ours": partial(sample, *placed),
            "open3d": baseline(open3d_farthest, points, groups),
            "torch": baseline(torch_farthest, points, groups),
        },
        "groups": {
            "ours": partial(group, *placed, centres.xyz),
            "open3d": baseline(open3d_nearest, points, chosen, group_size),
            "torch": baseline(torch_nearest, points, chosen, group_size),
        },
        "map": {
            "ours": partial(way_back, *placed, centres.xyz, jnp.asarray(tokens)),
            "torch": baseline(torch_map, xyz, valid, chosen, tokens, cells),
        },
    }
    return {
        "pixels": side**2,
        "points": len(points),
        "group_count": groups,
        "group_size": group_size,
        "channels": channels,
        "cells": cells,
        **{name: side_by_side(calls, rounds) for name, calls in stages.items()},
    }


def _cloud(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a surface [side*side,3] in metres and which pixels are measured."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
    noise = normal(np.empty((side, side), np.float32))
    z = 0.6 + 0.01 * np.sin(20 * x) * np.cos(20 * y) + 2e-4 * noise
    xyz = np.stack([x * z / 6, y * z / 6, z], axis=-1).astype(np.float32)
    valid = np.random.default_rng(1).random((side, side)) < MEASURED
    return xyz.reshape(-1, 3), valid.reshape(-1)


def _map(xyz, valid, centres, tokens, side, cells):
    back = point_sets.interpolation(xyz, valid, centres)
    return point_map(tokens, back, (side, side), cells)


def open3d_farthest(points: np.ndarray, count: int) -> Call:
    """Returns Open3D's sampling. DatasetError without it."""
    o3d = geometry.open3d()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.float64(points)))
    return lambda: np.asarray(cloud.farthest_point_down_sample(count).points)


def open3d_nearest(points: np.ndarray, centres: np.ndarray, count: int) -> Call:
    """Returns Open3D's search, with the tree. DatasetError without it."""
    o3d = geometry.open3d()
    cloud = o3d.geometry.PointCloud(o3d.utility.Vector3dVector(np.float64(points)))

    def call() -> np.ndarray:
        tree = o3d.geometry.KDTreeFlann(cloud)
        found = [tree.search_knn_vector_3d(c, count)[1] for c in np.float64(centres)]
        return np.asarray(found)

    return call


def torch_farthest(
    points: np.ndarray, count: int, least_squared_norm: float = -1.0
) -> Call:
    """Returns the loop of the CUDA kernel in torch. ImportError without torch.

    Ties go to the lowest index; in the kernel to the lowest modulo its threads.
    """
    import torch

    points = torch.from_numpy(points)
    may = (points**2).sum(1) > least_squared_norm

    def call() -> np.ndarray:
        distance = torch.where(may, torch.inf, -1.0)
        chosen = [0]
        for _ in range(count - 1):
            step = ((points - points[chosen[-1]]) ** 2).sum(1)
            distance = torch.minimum(distance, step)
            far, pick = distance.max(0)
            chosen.append(pick.item() if far > -1 else 0)
        return np.array(chosen)

    return call


def torch_nearest(
    points: np.ndarray, centres: np.ndarray, count: int, at_a_time: int = 64
) -> Call:
    """Returns the nearest points by differences in torch. ImportError without torch."""
    import torch

    points, centres = torch.from_numpy(points), torch.from_numpy(centres)

    def call() -> np.ndarray:
        found = [
            torch.topk((points[None] - some[:, None]).norm(dim=2), count, largest=False)
            for some in centres.split(at_a_time)
        ]
        return torch.cat([part.indices for part in found]).numpy()

    return call


def torch_map(
    xyz: np.ndarray,
    valid: np.ndarray,
    centres: np.ndarray,
    tokens: np.ndarray,
    cells: int,
) -> Call:
    """Returns features of all pixels, pooled, in torch. ImportError without torch."""
    import torch
    from torch.nn import functional

    side = int(np.sqrt(len(xyz)))
    places = torch.from_numpy(np.flatnonzero(valid))
    points, centres = torch.from_numpy(xyz[valid]), torch.from_numpy(centres)
    tokens = torch.from_numpy(tokens)

    def call() -> np.ndarray:
        squared, index = torch.topk(
            torch.cdist(points, centres) ** 2, 3, largest=False, sorted=True
        )
        weight = 1 / (squared + point_sets.EPSILON)
        weight = weight / weight.sum(1, keepdim=True)
        features = (tokens[index] * weight[..., None]).sum(1)
        canvas = torch.zeros(tokens.shape[1], side * side)
        canvas[:, places] = features.T
        pooled = functional.avg_pool2d(canvas.reshape(1, -1, side, side), 3, stride=1)
        pooled = functional.adaptive_avg_pool2d(pooled, (cells, cells))
        return pooled[0].permute(1, 2, 0).numpy()

    return call
