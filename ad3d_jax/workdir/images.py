"""Images as PNG files."""

from pathlib import Path

import numpy as np
from PIL import Image

from ad3d_jax.workdir.atomic import open_whole


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Writes an image, [H,W] or [H,W,3] uint8, as PNG, whole or not at all.

    OSError if the file cannot be written, DiskFullError if no space is left; an earlier
    file then stays as it was.
    """
    with open_whole(path) as file:
        Image.fromarray(image).save(file, "PNG")
