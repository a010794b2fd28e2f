"""The images of one chosen sample: what was measured, what the system made of it."""

from typing import NamedTuple

import numpy as np

from ad3d_jax.ops.resize import at_size
from ad3d_jax.report import colors
from ad3d_jax.report.cloud import cloud_image
from ad3d_jax.report.files import Sample
from ad3d_jax.report.markup import PANEL

CHANNELS = {"rgb": (3,), "xyz": (3,), "depth": (1,), "valid": (1,), "foreground": (1,)}
CHANNELS |= {"map": (1,), "mask": (1,), "match/rgb": (3,), "match/depth": (1,)}
PART = "part/"
MATCH = "match"
CODES = f"{PART}codes"
GATE = f"{PART}gate"  # 1 all over where colour and depth are taken, 0 for colour
PATCH_SHARE = 8  # a patch is marked by a square of this part of the image's side
GREY_PARTS = ("weight", "mask", "importance", "segment")
CLOUD_IMAGE = 320


class Panel(NamedTuple):
    """An image and its title."""

    title: str
    image: np.ndarray  # uint8 [H,W,3]


class Scale(NamedTuple):
    """Values drawn in the first and in the last colour."""

    low: float
    high: float


def checked(sample: Sample) -> tuple[Sample, list[str]]:
    """Returns the sample with its usable arrays, [H,W] or [H,W,3], and gaps for others.

    Numbers become float32, `valid`, `foreground` and `mask` bool; `match` stays as it
    is, [5] integers (`base.MATCH`).
    """
    kept, gaps = {}, []
    for name, array in sample.arrays.items():
        if name == MATCH:
            if array.shape == (5,) and array.dtype.kind in "iu":
                kept[name] = array
            else:
                gaps.append(f"The matched patch is not drawn: found {array.shape}.")
            continue
        channels = CHANNELS.get(name, (1, 3) if name.startswith(PART) else ())
        if not channels:
            continue
        single = array[..., 0] if array.ndim == 3 and array.shape[2] == 1 else array
        found = {2: 1, 3: single.shape[-1]}.get(single.ndim) if single.size else None
        if found not in channels or array.dtype.kind not in "fiub":
            gaps.append(
                f"{name} is not drawn: it is {array.dtype} {list(array.shape)}, and "
                f"[H,W,C] with C of {' or '.join(map(str, channels))} was expected."
            )
            continue
        binary = name in ("valid", "foreground", "mask")
        scaled = np.float32(255 if name == "rgb" and array.dtype == np.uint8 else 1)
        kept[name] = single.astype(bool) if binary else single / scaled
    return Sample(sample.name, kept), gaps


def nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns [h,w] or [h,w,C] of the same type, the nearest values of [H,W(,C)]."""
    rows = (np.arange(size[0]) + 0.5) * values.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * values.shape[1] / size[1]
    return values[rows.astype(int)][:, columns.astype(int)]


def at_panel(image: np.ndarray, cells: bool = False) -> np.ndarray:
    """Returns a uint8 [H,W,3] image with its longest side at the size of a panel.

    Few pixels are shown as they are, and so are `cells`, whose colours are labels.
    """
    from PIL import Image

    size = panel_size(image.shape[:2])
    small = cells or max(image.shape[:2]) * 4 <= PANEL
    how = Image.Resampling.NEAREST if small else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(image).resize(size[::-1], how))


def panel_size(size: tuple[int, int]) -> tuple[int, int]:
    """Returns a size of the same proportions whose longest side is that of a panel."""
    return tuple(max(1, round(side * PANEL / max(size))) for side in size)


def part_scales(samples: list[Sample]) -> dict[str, Scale]:
    """Returns the common scale of each part, and of depth, over the chosen samples.

    Depth-like arrays are scaled over measured pixels of the object, so that the
    background does not use up the colours. Images within [0,1] keep their scale.
    """
    names = {name for s in samples for name in s.arrays if name.startswith(PART)}
    scales = {}
    for name in names | {"depth"}:
        values = [seen_values(s, name) for s in samples if name in s.arrays]
        if not values:
            continue
        scale = Scale(*colors.robust_range(np.concatenate(values)))
        colored = any(s.arrays[name].ndim == 3 for s in samples if name in s.arrays)
        image = colored and scale.low >= -0.1 and scale.high <= 1.1
        scales[name] = Scale(0.0, 1.0) if image else scale
    return scales


def seen_values(sample: Sample, name: str) -> np.ndarray:
    """Returns the values [N] of an array that its scale is made from."""
    values = sample.arrays[name]
    if not depth_like(name):
        return values.ravel()
    shown = np.isfinite(values)
    for limit in ("valid", "foreground"):
        if limit in sample.arrays:
            narrower = shown & nearest(sample.arrays[limit], shown.shape[:2])
            shown = narrower if narrower.any() else shown
    return values[shown]


def depth_like(name: str) -> bool:
    """Tells whether an array is drawn in the colours of depth, from its name."""
    distance = "depth" in name or "height" in name
    return distance and "map" not in name and "weight" not in name


def part_image(name: str, values: np.ndarray, scale: Scale) -> np.ndarray:
    """Returns a part [H,W] or [H,W,3] as a uint8 [H,W,3] image."""
    if values.ndim == 3:
        return colors.image(colors.position(values, *scale))
    if depth_like(name):
        if "height" in name:  # over the table; near is bright in both
            return colors.colored(values, scale.low, scale.high, colors.DEPTH)
        return colors.colored(-values, -scale.high, -scale.low, colors.DEPTH)
    table = colors.GREY if any(w in name for w in GREY_PARTS) else colors.HEAT
    return colors.colored(values, *scale, table)


def base_image(arrays: dict[str, np.ndarray], size: tuple[int, int]) -> np.ndarray:
    """Returns uint8 [H,W,3] at a size: RGB, else depth in grey, else plain grey."""
    if "rgb" in arrays:
        return colors.image(at_size(arrays["rgb"], size))
    depth = arrays["xyz"][..., 2] if "xyz" in arrays else arrays.get("depth")
    if depth is None:
        return np.full((*size, 3), 128, np.uint8)
    known = np.where(depth > 0, depth, np.nan)
    low, high = colors.robust_range(known)
    return nearest(colors.colored(-known, -high, -low, colors.GREY), size)


def panels(
    sample: Sample,
    scales: dict[str, Scale],
    map_scale: Scale,
    boxes: np.ndarray | None = None,
) -> tuple[list[Panel], list[str]]:
    """Returns measurement, truth and verdict of a checked sample, and what lacks.

    `boxes` [h,w] bool, of any size, is outlined in the overlay.
    """
    arrays, shown, gaps = sample.arrays, [], []
    if unorganised(sample):
        return [], ["An unorganised cloud has no images."]
    if "rgb" in arrays:
        shown.append(Panel("RGB", at_panel(colors.image(arrays["rgb"]))))
    else:
        gaps.append("No RGB image was recorded.")
    if "depth" in arrays:
        depth = arrays["depth"]
        if "valid" in arrays:
            depth = np.where(nearest(arrays["valid"], depth.shape), depth, np.nan)
        image = part_image("depth", depth, scales["depth"])
        shown.append(Panel("depth (near is bright)", at_panel(image)))
    else:
        gaps.append("No depth was recorded.")
    if "map" in arrays:
        shown += verdict(arrays, map_scale, boxes)
    else:
        gaps.append("No anomaly map was recorded.")
    if "mask" not in arrays:
        gaps.append("No ground truth was recorded.")
    return shown, gaps


def unorganised(sample: Sample) -> bool:
    """Tells whether a sample is a list of points, [N,1,C], rather than an image."""
    return any(x.ndim > 1 and x.shape[1] == 1 for x in sample.arrays.values())


def part_panels(sample: Sample, scales: dict[str, Scale]) -> list[Panel]:
    """Returns a panel for each part of a checked sample, by name."""
    if unorganised(sample):
        return []
    left_out = [GATE] if gate_taken(sample) is not None else []
    return [
        Panel(
            name.removeprefix(PART),
            at_panel(
                part_image(name, sample.arrays[name], scales[name]),
                cells=name.startswith(CODES),
            ),
        )
        for name in sorted(sample.arrays)
        if name.startswith(PART) and name not in left_out
    ]


def gate_taken(sample: Sample) -> bool | None:
    """Returns which way the gate of a checked sample went, None where it has none."""
    gate = sample.arrays.get(GATE)
    if gate is None or not np.all(gate == gate.flat[0]):
        return None
    return bool(gate.flat[0] > 0.5)


def match_panels(sample: Sample) -> list[Panel]:
    """Returns the worst patch of a checked sample and the training patch it matched."""
    arrays = sample.arrays
    theirs = {
        name: arrays[f"{MATCH}/{name}"]
        for name in ("rgb", "depth")
        if f"{MATCH}/{name}" in arrays
    }
    if MATCH not in arrays or not theirs or unorganised(sample):
        return []
    row, column, number, its_row, its_column = (int(x) for x in arrays[MATCH])
    return [
        Panel("worst patch", marked(arrays, row, column)),
        Panel(
            f"matched patch of training sample {number}",
            marked(theirs, its_row, its_column),
        ),
    ]


def marked(arrays: dict[str, np.ndarray], row: int, column: int) -> np.ndarray:
    """Returns the base image at panel size with a square around a pixel of it."""
    height, width = next(arrays[n] for n in ("rgb", "depth") if n in arrays).shape[:2]
    size = panel_size((height, width))
    rows = np.abs((np.arange(size[0]) + 0.5) * height / size[0] - row - 0.5)
    columns = np.abs((np.arange(size[1]) + 0.5) * width / size[1] - column - 0.5)
    half = max(height, width) / PATCH_SHARE / 2
    square = (rows <= half)[:, None] & (columns <= half)[None, :]
    return colors.contour(base_image(arrays, size), square)


def verdict(
    arrays: dict[str, np.ndarray], scale: Scale, boxes: np.ndarray | None = None
) -> list[Panel]:
    """Returns truth, map and overlay; the outline of the truth lies on all three."""
    map = arrays["map"]
    size = panel_size(arrays["rgb"].shape[:2] if "rgb" in arrays else map.shape)
    base, map = base_image(arrays, size), at_size(map, size)
    mask = nearest(arrays["mask"], size) if "mask" in arrays else np.zeros(size, bool)
    images = {
        "ground truth (outline)": base,
        "anomaly map": colors.heat_map(map, *scale),
        "overlay": colors.overlay(base, map, *scale),
    }
    if boxes is not None and boxes.any():
        marked = nearest(boxes, size)
        images["overlay"] = colors.contour(images["overlay"], marked, colors.BOX)
    if "mask" not in arrays:
        del images["ground truth (outline)"]
    return [Panel(t, colors.contour(p, mask)) for t, p in images.items()]


def measured_points(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Returns bool [H,W]: points that are valid, finite and not at the origin."""
    xyz = arrays["xyz"]
    there = np.isfinite(xyz).all(-1) & (xyz != 0).any(-1)
    if "valid" in arrays:
        there &= nearest(arrays["valid"], there.shape)
    return there


class Cloud(NamedTuple):
    """A coloured cloud and a still image of it."""

    xyz: np.ndarray  # [N,3] metres
    colors: np.ndarray  # [N,3] uint8
    image: np.ndarray  # uint8 [H,W,3]


def cloud(sample: Sample, map_scale: Scale) -> Cloud | str:
    """Returns the valid points coloured by the overlay, or why there is no cloud."""
    arrays = sample.arrays
    if "xyz" not in arrays:
        return "No point cloud: xyz was not recorded."
    measured = measured_points(arrays)
    if not measured.any():
        return "No point cloud: no point was measured."
    size = measured.shape
    painted = base_image(arrays, size)
    if "map" in arrays:
        painted = colors.overlay(painted, at_size(arrays["map"], size), *map_scale)
    focus = arrays.get("foreground", np.ones(size, bool))
    points, paint = arrays["xyz"][measured], painted[measured]
    near = nearest(focus, size)[measured]
    return Cloud(points, paint, cloud_image(points, paint, near, CLOUD_IMAGE))
