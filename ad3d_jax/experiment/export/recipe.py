"""From what a sensor measured to the fields of a batch, with NumPy alone.

The fields equal those of the library's recipes bit by bit. `separate_…(params, xyz)`
gets points [h,w,3] float32 metres, (0,0,0) where unmeasured, and returns depth in
metres, valid and foreground [h,w] by name, the height over the table and the heights
that are normalised to the ends, where the recipe knows them.
"""

import warnings

import numpy as np

SQUASHED = 0.01  # by which the proportions of a sample may differ from the fitted ones
OTHER = 2.0  # times the fitted distances, above which a unit may be wrong
NEAREST, FARTHEST = 1e-3, 10.0  # metres
RECIPES = ("raw", "ast", "dsr", "points")  # that `prepared` knows
EXTRAS = ("height_normalised", "depth_normalised")  # that it makes
FLAT = 1e-6  # metres; the least range that is divided by


def measurement(manifest, arrays):
    """Returns what was measured as `prepared` takes it, after a check.

    A depth [h,w] in metres with intrinsics [fx,fy,cx,cy] in pixels becomes points, and
    points that are no number become (0,0,0).

    Raises:
        ValueError: proportions unlike those of the fit, or distances that no camera
            measures; half or twice those of the fit are warned of.
    """
    arrays = dict(arrays)
    if "depth" in arrays and "intrinsics" in arrays:
        arrays["xyz"] = points_of(arrays.pop("depth"), arrays.pop("intrinsics"))
    sizes = {name: x.shape[:2] for name, x in arrays.items() if x.ndim > 1}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"expected arrays of one size, found {sizes}")
    for height, width in set(sizes.values()):
        fitted = manifest["fitted"]["sizes"]
        squashed = [abs(h * width / (w * height) - 1) for h, w in fitted]
        lists = 1 in (width, *(w for _, w in fitted))
        if not lists and squashed and min(squashed) > SQUASHED:
            raise ValueError(
                f"expected the proportions of what was fitted, {fitted} (rows, "
                f"columns), found {height} x {width}"
            )
    if "xyz" in arrays and arrays["xyz"].dtype.kind == "f":
        arrays["xyz"] = checked(arrays["xyz"], manifest["fitted"]["distances"])
    return arrays


def points_of(depth, intrinsics):
    """Returns points [h,w,3] float32 metres."""
    fx, fy, cx, cy = np.asarray(intrinsics, np.float64).tolist()
    depth = np.asarray(depth, np.float32)
    z = np.where(np.isfinite(depth), depth, np.float32(0)).astype(np.float64)
    rows, columns = np.indices(z.shape, dtype=np.float64)
    points = z * (columns - cx) / fx, z * (rows - cy) / fy, z
    return np.stack(points, axis=-1).astype(np.float32)


def checked(xyz, fitted):
    """Returns points float32 with (0,0,0) where unmeasured; see `measurement`."""
    xyz = (xyz[:, None] if xyz.ndim == 2 else xyz).astype(np.float32)
    there, camera = np.isfinite(xyz).all(-1), xyz.shape[1] > 1
    if camera:  # else a list of points, which may lie anywhere
        there &= xyz[..., 2] != 0
    xyz = np.where(there[..., None], xyz, np.float32(0))
    z = xyz[there][:, 2] if camera else np.zeros(0, np.float32)
    if np.abs(xyz).max(initial=0) >= FARTHEST or (z < NEAREST).any():
        raise ValueError(
            f"xyz: expected metres below {FARTHEST:g}, z from {NEAREST:g} on along the "
            "viewing direction, 0 or NaN where unmeasured, found values of "
            f"{xyz.min():g} to {xyz.max():g}"
        )
    middle = float(np.median(z)) if len(z) else None
    if fitted and len(z) and not fitted[0] / OTHER <= middle <= OTHER * fitted[1]:
        warnings.warn(
            f"xyz: the median distance is {middle:g} m; fitted were {fitted[0]:g} to "
            f"{fitted[1]:g} m: another unit?",
            stacklevel=2,
        )
    return xyz


def prepared(recipe, resizing, rgb=None, xyz=None):
    """Returns the fields of a sample by name, its image in [0,1].

    Args:
        recipe: name and params, with what was learned, and the version of Pillow.
        resizing: the module beside this one.
        rgb: [h,w,3] uint8; None = no image.
        xyz: [h,w,3] float32 metres, (0,0,0) where unmeasured, or [n,1,3]; None = none.
    """
    name, params = recipe["recipe"], recipe["params"]
    if name == "points":
        return points(params, xyz)
    fields = {}
    if rgb is not None:
        resize = resizing.image(params["interpolation"], recipe["pillow"])
        rgb = resizing.resized(params, rgb, resize)
        fields["rgb"] = rgb.astype(np.float32) / np.float32(255)
    if xyz is None:
        return fields
    fields["xyz"] = resizing.resized(params, xyz, resizing.nearest)
    if name == "dsr":  # at the size of the images
        maps, height, span = separate_dsr(params, fields["xyz"])
    else:
        separate = {"raw": separate_raw, "ast": separate_ast}[name]
        maps, height, span = separate(params, xyz)
        resize = getattr(resizing, params["depth_interpolation"])
        maps = {n: resizing.resized(params, x, resize) for n, x in maps.items()}
    fields |= {n: x[..., None] for n, x in maps.items()}
    if "height_normalised" in params["extras"]:
        height = resizing.resized(params, height, resizing.nearest).astype(np.float64)
        share = np.clip((height - span[0]) / (span[1] - span[0]), 0, 1)
        fields["height_normalised"] = (0.2 + 0.6 * share).astype(np.float32)[..., None]
    if "depth_normalised" in params["extras"]:
        there = maps["foreground"] & maps["valid"]
        z = stretched(np.where(there, fields["xyz"][..., 2], np.float32(0)))
        fields["depth_normalised"] = fill_gaps(z, params["passes"])[..., None]
    return fields


def measured(xyz):
    """Returns which points were measured, [h,w] bool."""
    if xyz.shape[1] == 1:
        return (xyz != 0).any(axis=-1)
    return xyz[..., 2] > 0


def separate_raw(params, xyz):
    """Returns depth, valid and foreground: all that was measured is object."""
    valid = measured(xyz)
    depth = np.where(valid, xyz[..., 2], np.float32(0))
    return {"depth": depth, "valid": valid, "foreground": valid}, None, None


def separate_ast(params, xyz):
    """Returns the maps, the height over the table and its range, metres."""
    if params["height_max"] is None:
        raise ValueError("the recipe was fitted without points, and there are some")
    valid = measured(xyz)
    z = np.where(valid, xyz[..., 2], np.float32(0))
    if not valid.any():
        flat = np.zeros(z.shape, np.float32)
        return {"depth": flat, "valid": valid, "foreground": valid}, flat, (0.0, FLAT)
    filled = fill_gaps(z, params["passes"])
    table = background_surface(filled)
    height = np.where(filled > 0, table - filled, 0)
    span = 0.0, params["height_max"]
    if params["normalisation"] == "image":
        low = float(height[valid].min())
        span = low, low + max(float(height[valid].max()) - low, FLAT)
    gap = filled == 0
    foreground = (np.abs(height) > params["tau"]) & ~gap
    share = foreground.sum() / (~gap).sum()
    if share == 0 or share > params["all_foreground"]:
        foreground = valid
    depth = filled
    if gap.any():
        background = two_means(z[valid])[1]
        depth = np.where(gap, np.float32(background), depth)
        height = np.where(gap, table - background, height)
    return {"depth": depth, "valid": valid, "foreground": foreground}, height, span


def separate_dsr(params, xyz):
    """Returns the maps: object is what is off the plane through three corners."""
    valid = measured(xyz)
    depth = fill_gaps(np.where(valid, xyz[..., 2], 0), params["passes"])
    foreground = valid
    distance = plane_distance(xyz, valid) if valid.any() else None
    if distance is not None:
        part = closed((distance > params["distance"]) & valid, params["closing"])
        foreground = part if part.any() else valid
    return {"depth": depth, "valid": valid, "foreground": foreground}, None, None


def points(params, xyz):
    """Returns xyz, valid and foreground of as many points of every sample."""
    xyz = xyz[measured(xyz)] * np.float32(params["unit"])
    wanted = params["points"]
    if len(xyz) > wanted:
        random = np.random.default_rng(params["seed"])
        xyz = xyz[np.sort(random.choice(len(xyz), wanted, replace=False))]
    if params["centre"] and len(xyz):
        xyz = xyz - xyz.mean(0, dtype=np.float64).astype(np.float32)
    valid = (np.arange(wanted) < len(xyz))[:, None, None]
    xyz = np.pad(xyz, ((0, wanted - len(xyz)), (0, 0)))[:, None]
    return {"xyz": xyz, "valid": valid, "foreground": valid}


def fill_gaps(depth, passes):
    """Fills zeros of [h,w] with the mean of the positive depths around them."""
    for _ in range(passes):
        total = window_sum(depth.astype(np.float64))
        count = window_sum((depth > 0).astype(np.float64))
        mean = (total / np.maximum(count, 1)).astype(depth.dtype)
        depth = np.where(depth == 0, mean, depth)
    return depth


def window_sum(array):
    """Returns the sums of windows of 3 x 3."""
    height, width = array.shape
    padded = np.pad(array, 1)
    rows = padded[:height] + padded[1 : height + 1] + padded[2:]
    return rows[:, :width] + rows[:, 1 : width + 1] + rows[:, 2:]


def background_surface(depth):
    """Returns the table's depth [h,w] float64, bilinear between the four corners."""
    flips = ((1, 1), (1, -1), (-1, 1), (-1, -1))
    first, right, below, last = (
        corner(depth[::v, ::h], depth[::v, ::h] > 0, 2) for v, h in flips
    )
    down = np.linspace(0, 1, depth.shape[0])[:, None]
    across = np.linspace(0, 1, depth.shape[1])[None, :]
    top = first * (1 - across) + right * across
    bottom = below * (1 - across) + last * across
    return top * (1 - down) + bottom * down


def corner(values, there, window):
    """Returns the mean of the values in the first window that holds any."""
    while not there[:window, :window].any():
        window *= 2
    values = values[:window, :window][there[:window, :window]]
    return values.mean(axis=0, dtype=np.float64)


def two_means(values):
    """Returns the centres (smaller, larger) of two clusters, by Lloyd's algorithm."""
    values = np.sort(values.astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    low, high = np.percentile(values, [5, 95])
    for _ in range(20):
        split = int(np.searchsorted(values, (low + high) / 2, side="right"))
        if split in (0, len(values)):
            break
        new = sums[split] / split, (sums[-1] - sums[split]) / (len(values) - split)
        if new == (low, high):
            break
        low, high = new
    return float(low), float(high)


def stretched(depth):
    """Returns .1 at the nearest, .9 at the farthest positive depth, 0 elsewhere."""
    there = depth > 0
    result = np.zeros(depth.shape, np.float32)
    if there.any():
        values = depth[there].astype(np.float64)
        span = max(float(values.max() - values.min()), FLAT)
        result[there] = 0.1 + 0.8 * (values - values.min()) / span
    return result


def plane_distance(xyz, valid):
    """Returns the distance [H,W] from the plane through three corners, or None."""
    xyz = xyz.astype(np.float64)
    flips = ((1, 1), (1, -1), (-1, 1))
    first, right, below = (corner(xyz[::v, ::h], valid[::v, ::h], 3) for v, h in flips)
    down, across = below - first, right - first
    normal = np.cross(down, across)
    length = np.linalg.norm(normal)
    if length <= 1e-3 * np.linalg.norm(down) * np.linalg.norm(across):
        return None
    return np.abs((xyz - below) @ (normal / length))


def closed(mask, steps):
    """Returns the morphological closing of [H,W] bool by 3 x 3, `steps` each way."""
    for outside in (False, True):  # dilation, then erosion
        for _ in range(steps):
            padded = np.pad(mask ^ outside, 1)
            mask = (window_sum(padded.astype(int))[1:-1, 1:-1] > 0) ^ outside
    return mask
