"""Decodes the files of a sample and trusts nothing that they say of themselves.

Sizes are checked before memory is asked for, shapes and values after. Whatever a
decoder may raise becomes a `CorruptSampleError` with the path and the reason. What had
to be assumed comes back as flags, which `remarks.SENTENCES` explains.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tifffile
from PIL import Image, ImageOps

from ad3d_jax import image_files
from ad3d_jax.image_files import MAX_BYTES, ImageFileError, check_sides, open_image
from data_pipelines.camera import MARK, Intrinsics, metres, xyz_from_depth
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.plausible import checked_distances, checked_points
from data_pipelines.sensor import PLAIN, Sensor, in_metres
from data_pipelines.tiff_tags import check_tags

TIFFS = (".tif", ".tiff")
GREY = ("L", "LA", "1")
COLOURS = ("RGB", "RGBA", "P", "PA", *GREY)  # modes of images
TURNED = "orientation_applied"
ORIENTATION = 0x0112  # the tag
TURNS = range(2, 9)  # its values but 1, upright; any other says nothing
# None, LZW, deflate (two numbers), PackBits, LZMA and Zstandard.
COMPRESSIONS = (1, 5, 8, 32946, 32773, 34925, 50000)


class Decoded(NamedTuple):
    """What a file holds, and what was assumed."""

    values: np.ndarray | None
    flags: tuple[str, ...] = ()
    nonfinite: int = 0  # points that were NaN or infinite


@contextmanager
def _corrupt(path: Path) -> Iterator[None]:
    try:
        yield
    except CorruptSampleError:
        raise
    except ImageFileError as error:
        raise CorruptSampleError(path, error.reason) from error
    except Exception as error:  # decoders raise anything, MemoryError among it
        reason = f"cannot be decoded ({type(error).__name__}: {error})"
        raise CorruptSampleError(path, reason) from error


def check_file(path: Path, most: int = MAX_BYTES) -> None:
    """Raises CorruptSampleError unless a file is there and of 1 to `most` bytes."""
    with _corrupt(path):
        image_files.check_file(path, most)


def _upright(path: Path, modes: tuple[str, ...], formats: tuple[str, ...]):
    """Returns an image as viewers show it, and flags."""
    with _corrupt(path):
        image = open_image(path, modes, formats)
        if image.getexif().get(ORIENTATION) not in TURNS:
            return image, ()
        return ImageOps.exif_transpose(image), (TURNED,)


def read_rgb(path: str | Path) -> np.ndarray:
    """Returns the [H,W,3] uint8 of an image, see `decode_rgb`."""
    return decode_rgb(path).values


def decode_rgb(path: str | Path) -> Decoded:
    """Reads a PNG, JPEG or BMP image of 8 bits a channel.

    Returns:
        [H,W,3] uint8, turned as its orientation tag says; a grey image is repeated,
        transparency is ignored. Each is flagged.

    Raises:
        CorruptSampleError: the file is no such image, has 16 bits a channel, or a side
            is out of 16...4096.
    """
    image, flags = _upright(Path(path), COLOURS, image_files.FORMATS)
    if image.has_transparency_data and _lowest_alpha(image) < 255:
        flags = (*flags, "transparency_ignored")
    if image.mode in GREY:
        flags = (*flags, "grey_repeated")
    return Decoded(np.asarray(image.convert("RGB")), flags)


def _lowest_alpha(image: Image.Image) -> int:
    return image.convert("RGBA").getchannel("A").getextrema()[0]


def read_mask(path: str | Path) -> np.ndarray:
    """Returns the [H,W] uint8 of a mask, see `decode_mask`."""
    return decode_mask(path).values


def decode_mask(path: str | Path) -> Decoded:
    """Reads a defect mask, a PNG or BMP: a JPEG's values are not those that were drawn.

    Returns:
        [H,W] uint8 as stored: 0 is normal, any other value a defect's id. It is turned
        as its orientation tag says (then flagged). Where numbers and colours of a
        colour table disagree about what is black, the colours count.

    Raises:
        CorruptSampleError: the file is no 8-bit image, or a side is out of 16...4096;
            or all or none of its colours are black, while its numbers are 0 and others.
    """
    path = Path(path)
    image, flags = _upright(path, ("L", "1", "P", "RGB"), ("PNG", "BMP"))
    values = np.asarray(image)
    if image.mode == "P":
        values = _by_colour(path, values, np.asarray(image.convert("RGB")).max(-1))
    if values.ndim == 3:
        values = values.max(axis=-1)
    if values.dtype == bool:
        values = values.astype(np.uint8) * 255
    return Decoded(values, flags)


def _by_colour(path: Path, numbers: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Returns the numbers of a colour table, or what is shown where they disagree."""
    if ((numbers == 0) == (shown == 0)).all():
        return numbers
    if (shown > 0).all() or ((numbers == 0).any() and not shown.any()):
        raise CorruptSampleError(
            path,
            "expected black where its colour table says number 0, and there alone, "
            "found other colours: what is normal and what a defect is not known",
        )
    return shown


def read_xyz(path: str | Path) -> tuple[np.ndarray, int]:
    """Returns (xyz, nonfinite) of an organised point cloud, see `decode_xyz`."""
    decoded = decode_xyz(path)
    return decoded.values, decoded.nonfinite


def decode_xyz(path: str | Path, sensor: Sensor = PLAIN) -> Decoded:
    """Reads an organised point cloud, a TIFF of float32 [H,W,3], see `stored_xyz`.

    Returns:
        [H,W,3] float32 metres with (0,0,0) where unmeasured, see `checked_points`.

    Raises:
        CorruptSampleError: wrong shape, dtype or size, truncated, or points that cannot
            be right.
    """
    path = Path(path)
    return Decoded(*checked_points(path, in_metres(stored_xyz(path), sensor)))


def stored_xyz(path: Path) -> np.ndarray:
    """Returns the numbers [H,W,3] float32 of a TIFF, whatever they mean.

    Files as HALCON writes them (one row a strip, a sub-image with a mask) are read too.

    Raises:
        CorruptSampleError: wrong shape, dtype or size, or truncated.
    """
    return _stored(path, np.dtype(np.float32), ("rows", "columns", 3))


def _stored(path: Path, dtype: np.dtype, axes: tuple) -> np.ndarray:
    """Returns the numbers of a TIFF of a dtype, with rows and columns first."""
    check_file(path)
    check_tags(path)
    with _corrupt(path), tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        if page.tags.valueof(ORIENTATION) in TURNS:
            raise CorruptSampleError(
                path, "has an orientation tag: store its numbers as the image lies"
            )
        _check_declared(path, tuple(page.shape), page.dtype, dtype, axes)
        if page.compression not in COMPRESSIONS:  # others are images with own sizes
            raise CorruptSampleError(
                path, f"expected numbers, found the compression {page.compression!r}"
            )
        if sum(page.databytecounts) > path.stat().st_size:
            raise CorruptSampleError(path, "has strips that overlap")
        ends = [
            offset + count
            for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)
        ]
        if max(ends) > path.stat().st_size or min(page.databytecounts) == 0:
            raise CorruptSampleError(path, "is truncated: data lie beyond its end")
        numbers = page.asarray()
    _check_declared(path, numbers.shape, numbers.dtype, dtype, axes)
    return numbers


def _check_declared(
    path: Path, shape: tuple[int, ...], found, dtype: np.dtype, axes: tuple
) -> None:
    if len(shape) != len(axes) or shape[2:] != axes[2:] or found != dtype:
        expected = f"{dtype} [{', '.join(map(str, axes))}]"
        raise CorruptSampleError(
            path, f"expected {expected}, found {found} {list(shape)}"
        )
    with _corrupt(path):
        check_sides(path, *shape[:2])


def read_depth_png(
    path: str | Path, intrinsics: Intrinsics
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (depth, xyz) of a depth image, see `decode_depth`."""
    xyz = decode_depth(path, intrinsics).values
    return xyz[..., 2], xyz


def decode_depth(
    path: str | Path,
    intrinsics: Intrinsics,
    missing: Sequence[float] | None = None,
) -> Decoded:
    """Reads a 16-bit depth image, a PNG or a TIFF.

    Returns:
        The points it shows, [H,W,3] float32 metres, (0,0,0) where unmeasured: where it
        is 0 or one of `missing` (None = 65535), see `checked_distances`.

    Raises:
        CorruptSampleError: not a 16-bit grey PNG or a TIFF of uint16 [H,W], a side is
            out of 16...4096, it has an orientation tag or another size than the
            camera's images, or distances cannot be right (a wrong `intrinsics.scale`?).
    """
    path = Path(path)
    units = stored_depth(path)
    depth = metres(units, intrinsics.scale, missing)
    depth, flags = checked_distances(path, depth)
    if missing is None and (units == MARK).any():
        flags = tuple(sorted({*flags, "mark_read"}))
    try:
        return Decoded(xyz_from_depth(depth, intrinsics), flags)
    except DatasetError as error:
        raise CorruptSampleError(path, str(error)) from None


def stored_depth(path: Path) -> np.ndarray:
    """Returns the numbers [H,W] uint16 of a depth image, see `decode_depth`."""
    if path.suffix.lower() in TIFFS:
        return _stored(path, np.dtype(np.uint16), ("rows", "columns"))
    image, turned = _upright(path, image_files.DEEP, ("PNG",))
    if turned:
        raise CorruptSampleError(
            path, "has an orientation tag, which the camera's parameters do not fit"
        )
    return np.asarray(image).astype(np.uint16)
