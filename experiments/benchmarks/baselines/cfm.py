"""CFM's training step of both mappings against the same in torch, at full width."""

import gc

import jax
import numpy as np

from ad3d_jax.base import Batch, State
from ad3d_jax.nn.feature_mapping import FeatureMapping
from ad3d_jax.systems import cfm
from ad3d_jax.systems.fields import numbers
from experiments.benchmarks.baselines.comparison import baseline, normal, side_by_side
from experiments.benchmarks.baselines.networks import our_step, torch_model

# Side of the image, samples, side of the image network's grid, groups, features of both
# modalities. A batch of the release has 16 times the pixels, which take as much longer.
SIZE = (112, 1, 14, 1024, 768, 1152)
SMALL = (16, 2, 4, 8, 6, 10)


def compare(small: bool, rounds: int) -> dict:
    """Returns the timings of one step: losses, gradients and Adam.

    Ours makes the features of all pixels in the step, from what `System.cache` keeps;
    torch is given them.
    """
    side, count, grid, groups, rgb, points = SMALL if small else SIZE
    config = cfm.Config()
    batch = features(side, count, grid, groups, rgb, points)
    keys = jax.random.split(jax.random.key(0))
    pairs = {"to_points": (rgb, points), "to_rgb": (points, rgb)}
    params = {
        name: FeatureMapping(outputs).init(key, np.zeros(inputs, np.float32))["params"]
        for key, (name, (inputs, outputs)) in zip(keys, pairs.items(), strict=True)
    }
    state = State(params, hyper=numbers(cfm.HYPER))
    calls = {
        "ours": our_step(cfm.cfm(config), state, batch),
        "torch": baseline(torch_step, side * side * count, rgb, points),
    }
    timings = side_by_side(calls, rounds)
    gc.collect()
    return {
        "resolution": side,
        "batch_size": count,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "step": timings,
    }


def features(
    side: int, count: int, grid: int, groups: int, rgb: int, points: int
) -> Batch:
    """Returns samples with random frozen features, points everywhere."""
    rng, pixels = np.random.default_rng(0), (count, side * side, 3)
    weight = rng.uniform(0.1, 1, pixels).astype(np.float32)
    image = np.ones((count, side, side, 3), np.float32)
    return Batch(
        rgb=image,
        xyz=image,
        extras={
            "rgb_norm12": normal(np.empty((count, grid, grid, rgb), np.float32)),
            "tokens": normal(np.empty((count, groups, points), np.float32), seed=1),
            "point_index": rng.integers(0, groups, pixels).astype(np.int32),
            "point_weight": weight / weight.sum(-1, keepdims=True),
        },
        weight=np.ones(count, np.float32),
        id=np.arange(count, dtype=np.int32),
    )


def torch_step(pixels: int, rgb: int, points: int):
    """Returns the baseline's call. ImportError where there is no torch."""
    from experiments.benchmarks.baselines import torch_networks

    model = torch_model("Mappings", {"rgb": rgb, "points": points})
    seen = normal(np.empty((pixels, rgb), np.float32))
    return torch_networks.training(
        model, [seen, normal(np.empty((pixels, points), np.float32), seed=1)]
    )
