"""M3DM on thin features: its geometry and its banks, without the networks."""

import jax
import numpy as np
from oracles.public_m3dm import drawn, feature_maps, scene

from ad3d_jax.base import Batch
from ad3d_jax.features.feature_fusion import public_name
from ad3d_jax.features.patches import as_rows, cell_pool
from ad3d_jax.nn.feature_fusion import FeatureFusion
from ad3d_jax.systems.m3dm import features
from ad3d_jax.workdir import trees

POINTS, RGB = 24, 16  # numbers of a feature
TRAIN, TEST = range(401, 405), range(411, 413)


def replace_networks(patch):
    """Makes features of what a batch brings: those of pixels, and the image's grid."""
    patch.setattr(features, "init", lambda config, key: {})
    patch.setattr(features, "cached", lambda config, state, batch: {})
    patch.setattr(
        features,
        "of_points",
        lambda config, batch: as_rows(cell_pool(batch.extras["pixels"], config.cells)),
    )


def samples(seeds):
    """Returns the scenes of some seeds with their thin features."""
    rgb, xyz = (np.stack(x) for x in zip(*map(scene, seeds), strict=True))
    pixels, grids = zip(*map(feature_maps, seeds), strict=True)
    extras = {"pixels": np.stack(pixels), "rgb_patches": as_rows(np.stack(grids))}
    count = len(rgb)
    return Batch(
        rgb=rgb,
        xyz=xyz,
        extras=extras,
        weight=np.ones(count, np.float32),
        id=np.arange(count, dtype=np.int32),
        category=np.zeros(count, np.int32),
    )


def public_fusion(seed=211, points=POINTS, rgb=RGB):
    """Returns (the fusion's weights by public names, drawn anew; their structure)."""
    shapes = [jax.ShapeDtypeStruct((1, size), "float32") for size in (points, rgb)]
    like = jax.eval_shape(FeatureFusion().init, jax.random.key(0), *shapes)["params"]
    leaves = trees.by_name(like).items()
    # A public kernel has its outputs first.
    return drawn({public_name(name): x.shape[::-1] for name, x in leaves}, seed), like
