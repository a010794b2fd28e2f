"""Connected defect regions of ground-truth masks."""

import numpy as np
from scipy import ndimage

# Eight neighbours within an image, none across images.
_NEIGHBOURS = np.zeros((3, 3, 3), bool)
_NEIGHBOURS[1] = True


def label_regions(masks: np.ndarray) -> np.ndarray:
    """Numbers the 8-connected regions of all masks of a split, from 1 on.

    Args:
        masks: [N,H,W] bool, True on defects.

    Returns:
        [N,H,W] int32, 0 on normal pixels, k on the k-th region in reading order.

    Raises:
        ValueError: the masks are not a boolean array of three dimensions.
    """
    masks = np.asarray(masks)
    if masks.dtype != bool or masks.ndim != 3:
        raise ValueError(
            "masks: expected a bool array [N,H,W],"
            f" found {masks.dtype} {list(masks.shape)}"
        )
    if masks.size == 0:
        return np.zeros(masks.shape, np.int32)
    return ndimage.label(masks, _NEIGHBOURS, output=np.int32)[0]
