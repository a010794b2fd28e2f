"""Natural images for a pretraining: a folder of them, or procedural ones."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import numpy as np

from ad3d_jax.synthesis.textures import (
    find_images,
    procedural_textures,
    read_image,
)
from data_pipelines.reader import Arrays, Held, Source
from data_pipelines.samples import sample_id, sha256

THREADS = 4


class Folder(Source):
    """The images below a folder, decoded when they are asked for."""

    def __init__(self, folder: str | Path, size: int):
        """Finds the images.

        Args:
            folder: see `find_images`; the number of files is not limited.
            size: side that each is resized to, bilinear, pixels.

        Raises:
            ValueError: no such folder or no image in it; (while reading) a file that
                cannot be read.
        """
        self._files = find_images(Path(folder).expanduser())
        self._size = size

    def size(self) -> int:
        """Returns the number of images."""
        return len(self._files)

    def facts(self, numbers: np.ndarray) -> Arrays:
        """Returns the `id` of each image, which follows from its file's bytes."""
        ids = [sample_id(sha256(self._files[number])) for number in numbers]
        return {"id": np.array(ids, np.int32)}

    def read(self, numbers: np.ndarray) -> Arrays:
        """Returns `rgb` [n,size,size,3] uint8."""
        rgb = np.empty((len(numbers), self._size, self._size, 3), np.uint8)
        files = [self._files[number] for number in numbers]
        with ThreadPoolExecutor(THREADS) as pool:
            decoded = pool.map(lambda file: read_image(file, self._size), files)
            for row, image in enumerate(decoded):
                rgb[row] = image
        return {"rgb": rgb}


def procedural(key: jax.Array, count: int, size: int) -> Held:
    """Returns `count` procedural images, which stay in memory, see `synthesis`."""
    make = jax.jit(procedural_textures, static_argnums=(1, 2))
    rgb = np.asarray(make(key, count, size))
    return Held({"rgb": rgb}, {"id": np.arange(count, dtype=np.int32)})
