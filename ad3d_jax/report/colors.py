"""Colours of anomaly maps, depth and contours, with NumPy alone."""

import numpy as np

# Both tables rise steadily in lightness, so that they also read in grey and to the
# colour-blind.
HEAT = np.array(
    [(8, 6, 30), (66, 16, 110), (150, 40, 122), (224, 76, 94), (252, 160, 96)]
    + [(255, 248, 190)],
    np.float32,
)
DEPTH = np.array(
    [(60, 14, 84), (62, 68, 135), (48, 110, 142), (36, 150, 138), (90, 200, 98)]
    + [(240, 230, 60)],
    np.float32,
)
GREY = np.array([(0, 0, 0), (255, 255, 255)], np.float32)
UNMEASURED = np.array((226, 229, 233), np.uint8)
CONTOUR = np.array((0, 229, 255), np.uint8)
BOX = np.array((120, 255, 60), np.uint8)
CONTOUR_EDGE = np.array((10, 30, 50), np.uint8)
OVERLAY_STRENGTH = 0.8


def plane(values: np.ndarray) -> np.ndarray:
    """Returns [H,W] from [H,W] or [H,W,1]; any other shape is a ValueError."""
    values = np.asarray(values)
    if values.ndim == 3 and values.shape[2] == 1:
        values = values[..., 0]
    if values.ndim != 2:
        raise ValueError(f"expected a map [H,W] or [H,W,1], found {values.shape}")
    return values


def position(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns where values lie between low (0) and high (1), float32, clipped to [0,1].

    If low equals high, values above it give 1 and all others 0. NaN stays NaN.
    """
    values = np.asarray(values, np.float32)
    if high > low:
        return np.clip((values - low) / np.float32(high - low), 0, 1)
    return np.where(np.isnan(values), np.nan, (values > high).astype(np.float32))


def colored(
    values: np.ndarray, low: float, high: float, table: np.ndarray
) -> np.ndarray:
    """Returns uint8 [H,W,3]: values coloured by a table of evenly spaced colours.

    Args:
        values: [H,W] or [H,W,1]; NaN is drawn in a neutral grey.
        low: value of the first colour.
        high: value of the last colour.
        table: [N,3] colours in [0,255], between which colours are interpolated.
    """
    at = position(plane(values), low, high)
    unknown = np.isnan(at)
    place = np.where(unknown, 0, at) * (len(table) - 1)
    below = np.minimum(place.astype(np.int32), len(table) - 2)
    share = (place - below)[..., None]
    mixed = table[below] * (1 - share) + table[below + 1] * share
    image = np.rint(mixed).astype(np.uint8)
    image[unknown] = UNMEASURED
    return image


def heat_map(map: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns uint8 [H,W,3]: an anomaly map [H,W] or [H,W,1] from dark to bright.

    Args:
        map: anomaly map; NaN is drawn in a neutral grey.
        low: value drawn in the darkest colour.
        high: value drawn in the brightest colour.
    """
    return colored(map, low, high, HEAT)


def image(rgb: np.ndarray) -> np.ndarray:
    """Returns uint8 [H,W,3] from floats in [0,1] (clipped; NaN is 0) or from uint8."""
    rgb = np.asarray(rgb)
    if rgb.dtype == np.uint8:
        return rgb
    return np.rint(np.clip(np.nan_to_num(rgb), 0, 1) * 255).astype(np.uint8)


def overlay(rgb: np.ndarray, map: np.ndarray, low: float, high: float) -> np.ndarray:
    """Returns uint8 [H,W,3]: the image under its anomaly map.

    The opacity of the heat map grows with the square of the distance from `low`, from 0
    there to 0.8 at `high`, so that normal parts look as they are.

    Args:
        rgb: [H,W,3] floats in [0,1] or uint8.
        map: [H,W] or [H,W,1] anomaly map of the same height and width.
        low: value at which the heat map becomes visible.
        high: value of full strength.

    Raises:
        ValueError: image and map differ in size.
    """
    base, map = image(rgb), plane(map)
    if base.shape != (*map.shape, 3):
        raise ValueError(
            f"expected an image {(*map.shape, 3)} for a map {map.shape}, "
            f"found {base.shape}"
        )
    strength = np.nan_to_num(position(map, low, high))[..., None]
    opacity = OVERLAY_STRENGTH * strength**2
    mixed = base * (1 - opacity) + heat_map(map, low, high) * opacity
    return np.rint(mixed).astype(np.uint8)


def contour(
    image: np.ndarray, mask: np.ndarray, color: np.ndarray = CONTOUR
) -> np.ndarray:
    """Returns the uint8 [H,W,3] image with the outline of a bool [H,W] mask drawn.

    The line lies just outside the mask: light within, with a dark edge, so that it
    stands out on any ground.
    """
    mask = plane(mask).astype(bool)
    wide = max(1, round(min(mask.shape) / 240))
    line = grown(mask, wide)
    edge = grown(line, 1)
    result = image.copy()
    result[edge & ~line] = CONTOUR_EDGE
    result[line & ~mask] = color
    return result


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Returns the bool [H,W] mask grown by some pixels in all eight directions."""
    for _ in range(pixels):
        mask = np.pad(mask, 1)
        mask = mask[:-2] | mask[1:-1] | mask[2:]
        mask = mask[:, :-2] | mask[:, 1:-1] | mask[:, 2:]
    return mask


def robust_range(values: np.ndarray) -> tuple[float, float]:
    """Returns the 1st and 99.8th percentile of the finite values; (0, 1) if none."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(finite, (1, 99.8))
    return float(low), float(high)
