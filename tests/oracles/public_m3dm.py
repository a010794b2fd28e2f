"""Weights and scenes for the public code of M3DM, which NumPy draws again."""

import numpy as np


def drawn(shapes, seed):
    """Returns float32 weights by name, of {name: shape}, drawn in the names' order.

    Matrices are scaled by their inputs; scales of norms lie about 1, variances in
    [0.5, 1.5], all other vectors about 0.
    """
    generator, found = np.random.default_rng(seed), {}
    for name in sorted(shapes):
        shape = shapes[name]
        if name.endswith("num_batches_tracked"):
            found[name] = np.int64(7)
            continue
        values = generator.standard_normal(shape, np.float32)
        if name.endswith("running_var"):
            values = 0.5 + np.exp(-(values**2))
        elif len(shape) == 1 and name.endswith("weight"):
            values = 1 + np.float32(0.2) * values
        elif len(shape) > 1 and name.endswith("weight"):
            values = values / np.float32(np.sqrt(np.prod(shape[1:])))
        else:
            values = np.float32(0.2) * values
        found[name] = values.astype(np.float32)
    return found


def scene(seed, side=224):
    """Returns (rgb, xyz) [side,side,3] of a bent plate with a hole and lost points.

    rgb is float32 in [0,1]; xyz in metres, (0, 0, 0) where nothing was measured.
    """
    generator = np.random.default_rng(seed)
    v, u = np.meshgrid(
        np.linspace(-1, 1, side), np.linspace(-1, 1, side), indexing="ij"
    )
    a, b, c = generator.uniform(2, 6, 3)
    z = 0.64 + 0.01 * (u**2 + 0.5 * v**2) + 0.002 * np.sin(a * u) * np.cos(b * v)
    xyz = np.stack([0.036 + 0.05 * u, 0.05 * v - 0.001, z], -1)
    radius = np.hypot(u - 0.1, v)
    lost = (radius > 0.9) | (radius < 0.15) | (generator.random(z.shape) < 0.05)
    xyz[lost] = 0
    waves = 0.5 + 0.3 * np.sin(a * u + c) * np.cos(b * v - c)
    rgb = np.stack([waves, 0.8 - 0.5 * waves, 0.2 + 0.3 * radius], -1)
    rgb = np.clip(rgb + generator.normal(0, 0.02, rgb.shape), 0, 1)
    return rgb.astype(np.float32), xyz.astype(np.float32)


def feature_maps(seed, side=224, grid=28, points=24, rgb=16):
    """Returns smooth features of a `scene`'s pixels and of the image's places.

    [side,side,points] float32, 0 where no point was measured, and [grid,grid,rgb].
    """
    generator = np.random.default_rng(seed)
    base = np.random.default_rng(9)
    measured = (scene(seed, side)[1] != 0).all(-1)

    def waves(size, channels):
        v, u = np.meshgrid(*[np.linspace(-1, 1, size)] * 2, indexing="ij")
        a, b, c = base.uniform(-4, 4, (3, channels))
        shift = c + 0.3 * generator.standard_normal(channels)
        values = np.sin(u[..., None] * a + v[..., None] * b + shift)
        return values + 0.1 * generator.standard_normal(values.shape)

    of_points = 0.3 + waves(side, points)
    of_points[~measured] = 0
    return of_points.astype(np.float32), waves(grid, rgb).astype(np.float32)
