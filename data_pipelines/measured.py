"""The one rule of what counts as measured, and how far away it is."""

import numpy as np


def measured(xyz: np.ndarray) -> np.ndarray:
    """Returns which points were measured, [h,w] bool.

    Args:
        xyz: [h,w,3] as a camera sees them, whose z is positive where measured, or a
            list of points [n,1,3], which may lie anywhere but in the origin. NaN counts
            as not measured.
    """
    finite = np.isfinite(xyz).all(axis=-1)
    if xyz.shape[1] == 1:
        return finite & (xyz != 0).any(axis=-1)
    return finite & (xyz[..., 2] > 0)


def distance(xyz: np.ndarray | None) -> float | None:
    """Returns the median z of what a camera sees, metres.

    None where nothing is measured, of a list of points, and where there are none.
    """
    if xyz is None or xyz.shape[1] == 1:
        return None
    z = xyz[measured(xyz)][:, 2]
    return float(np.median(z)) if len(z) else None
