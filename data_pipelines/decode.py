"""Decodes the files of a sample and trusts nothing that they say of themselves.

Sizes are checked before memory is asked for, shapes and values after. Whatever a
decoder may raise becomes a `CorruptSampleError` with the path and the reason.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from data_pipelines.camera import Intrinsics, xyz_from_depth
from data_pipelines.errors import CorruptSampleError

MIN_SIDE, MAX_SIDE = 16, 4096  # pixels
MAX_BYTES = 256 * 2**20
MAX_METRES = 10.0
MAX_NONFINITE = 0.5


@contextmanager
def _corrupt(path: Path) -> Iterator[None]:
    try:
        yield
    except CorruptSampleError:
        raise
    except Exception as error:  # decoders raise anything, MemoryError among it
        reason = f"cannot be decoded ({type(error).__name__}: {error})"
        raise CorruptSampleError(path, reason) from error


def check_file(path: Path, most: int = MAX_BYTES) -> None:
    """Raises CorruptSampleError unless a file is there and of 1 to `most` bytes."""
    if not path.is_file():
        raise CorruptSampleError(path, "is not a file")
    size = path.stat().st_size
    if not 0 < size <= most:
        raise CorruptSampleError(
            path, f"expected 1 to {most} bytes, found {size} bytes"
        )


def _check_sides(path: Path, height: int, width: int) -> None:
    if not (MIN_SIDE <= height <= MAX_SIDE and MIN_SIDE <= width <= MAX_SIDE):
        raise CorruptSampleError(
            path,
            f"expected sides of {MIN_SIDE} to {MAX_SIDE} pixels, found "
            f"{height} x {width} (rows x columns)",
        )


def _read_image(path: Path, modes: tuple[str, ...]) -> Image.Image:
    check_file(path)
    with _corrupt(path), Image.open(path, formats=("PNG", "JPEG", "BMP")) as image:
        _check_sides(path, image.height, image.width)
        if image.mode not in modes:
            raise CorruptSampleError(
                path, f"expected an image of mode {modes}, found {image.mode!r}"
            )
        image.load()
        return image.copy()


def read_rgb(path: str | Path) -> np.ndarray:
    """Reads a PNG, JPEG or BMP image of 8 bits a channel.

    Returns:
        [H,W,3] uint8; a grey image is repeated, transparency and orientation tags are
        ignored.

    Raises:
        CorruptSampleError: the file is no such image, or a side is out of 16...4096.
    """
    image = _read_image(Path(path), ("RGB", "L", "RGBA", "P", "1"))
    return np.asarray(image.convert("RGB"))


def read_mask(path: str | Path) -> np.ndarray:
    """Reads a defect mask.

    Returns:
        [H,W] uint8 as stored: 0 is normal, any other value a defect's id.

    Raises:
        CorruptSampleError: the file is no 8-bit image, or a side is out of 16...4096.
    """
    image = _read_image(Path(path), ("L", "1", "P", "RGB"))
    values = np.asarray(image)
    if values.ndim == 3:
        values = values.max(axis=-1)
    if values.dtype == bool:
        return values.astype(np.uint8) * 255
    return values


def read_xyz(path: str | Path) -> tuple[np.ndarray, int]:
    """Reads an organised point cloud, a TIFF of float32 [H,W,3] in metres.

    Files as HALCON writes them (one row a strip, a sub-image with a mask) are read too.

    Returns:
        (xyz, nonfinite): [H,W,3] float32 with (0,0,0) where unmeasured or not finite,
        and the number of points that were NaN or infinite.

    Raises:
        CorruptSampleError: wrong shape, dtype or size, truncated, over half of the
            points not finite, or distances of 10 m and over (millimetres?).
    """
    path = Path(path)
    check_file(path)
    with _corrupt(path), tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        _check_declared(path, tuple(page.shape), page.dtype)
        ends = [
            offset + count
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        if max(ends) > path.stat().st_size or min(page.databytecounts) == 0:
            raise CorruptSampleError(path, "is truncated: data lie beyond its end")
        xyz = page.asarray()
    _check_declared(path, xyz.shape, xyz.dtype)
    return _check_points(path, xyz)


def _check_declared(path: Path, shape: tuple[int, ...], dtype) -> None:
    if len(shape) != 3 or shape[-1] != 3 or dtype != np.float32:
        raise CorruptSampleError(
            path, f"expected float32 [rows, columns, 3], found {dtype} {list(shape)}"
        )
    _check_sides(path, *shape[:2])


def _check_points(path: Path, xyz: np.ndarray) -> tuple[np.ndarray, int]:
    finite = np.isfinite(xyz).all(axis=-1)
    nonfinite = int(finite.size - finite.sum())
    if nonfinite > MAX_NONFINITE * finite.size:
        raise CorruptSampleError(
            path, f"{nonfinite} of {finite.size} points are NaN or infinite"
        )
    xyz = np.where(finite[..., None], xyz, np.float32(0))
    _check_metres(path, xyz)
    return xyz, nonfinite


def _check_metres(path: Path, values: np.ndarray) -> None:
    largest = float(np.abs(values).max())
    if largest >= MAX_METRES:
        raise CorruptSampleError(
            path,
            f"expected metres below {MAX_METRES:g}, found values up to {largest:g}: "
            "millimetres?",
        )


def read_depth_png(
    path: str | Path, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Reads a 16-bit depth image.

    Returns:
        (depth, xyz): [H,W] and [H,W,3] float32 metres, 0 where unmeasured.

    Raises:
        CorruptSampleError: not a 16-bit grey PNG, a side is out of 16...4096, or
            distances of 10 m and over (a wrong `intrinsics.scale`?).
    """
    path = Path(path)
    image = _read_image(path, ("I;16", "I;16B", "I"))
    units = np.asarray(image).astype(np.float64)
    depth = (units * intrinsics.scale).astype(np.float32)
    _check_metres(path, depth)
    return depth, xyz_from_depth(depth, intrinsics)
