"""Opens image files and trusts nothing that they say of themselves.

What a file promises is compared with limits, and the number and sizes of its parts are
counted, before a decoder sees it. Decoding then takes at most about 1 GiB.
"""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError

MIN_SIDE, MAX_SIDE = 16, 4096  # pixels
MAX_BYTES = 256 * 2**20  # of a file
MAX_PARTS = 2**16  # chunks of a PNG, segments of a JPEG
MAX_METADATA = 16 * 2**20  # bytes of all parts that hold no pixels
MAX_EXIF = 2**16  # bytes; decoders copy them once for each of their entries
FORMATS = ("PNG", "JPEG", "BMP")
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "PNG", b"\xff\xd8\xff": "JPEG"}
RAW_EXIF = "Raw profile type exif"  # a text chunk, in hexadecimal digits
DEEP = ("I;16", "I;16B", "I")  # modes of one channel of 16 bits


class ImageFileError(ValueError):
    """An image file that cannot be read as what it should be."""

    def __init__(self, path: str | Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path = Path(path)
        self.reason = reason


def check_file(path: Path, most: int = MAX_BYTES) -> None:
    """Raises ImageFileError unless a file is there and of 1 to `most` bytes."""
    if not path.is_file():
        raise ImageFileError(path, "is not a file")
    size = path.stat().st_size
    if not 0 < size <= most:
        raise ImageFileError(path, f"expected 1 to {most} bytes, found {size} bytes")


def check_sides(path: Path, height: int, width: int, least: int = MIN_SIDE) -> None:
    """Raises ImageFileError unless both sides are of `least` to `MAX_SIDE` pixels."""
    if not (least <= height <= MAX_SIDE and least <= width <= MAX_SIDE):
        raise ImageFileError(
            path,
            f"expected sides of {least} to {MAX_SIDE} pixels, found "
            f"{height} x {width} (rows x columns)",
        )


def open_image(
    path: str | Path,
    modes: Sequence[str],
    formats: Sequence[str] = FORMATS,
    least: int = MIN_SIDE,
) -> Image.Image:
    """Returns the decoded image of a file.

    Args:
        path: of the file.
        modes: of Pillow, that are taken.
        formats: names of Pillow's; the content decides, not the name of the file.
        least: the least side, pixels.

    Raises:
        ImageFileError: it is no such image, a side is out of `least`...`MAX_SIDE`, it
            has more parts or metadata than an image needs, or colours of 16 bits.
    """
    path = Path(path)
    check_file(path)
    try:
        with path.open("rb") as file:
            _check_parts(path, file, modes)
            file.seek(0)
            with Image.open(file, formats=formats) as image:
                check_sides(path, image.height, image.width, least)
                if image.format == "PNG" and getattr(image, "n_frames", 1) > 1:
                    raise ImageFileError(
                        path, f"expected one image, found {image.n_frames} in a row"
                    )
                if image.mode not in modes:
                    raise ImageFileError(
                        path,
                        f"expected an image of mode {tuple(modes)}, found "
                        f"{image.mode!r}",
                    )
                image.load()
                if len(image.info.get(RAW_EXIF, "")) > 2 * MAX_EXIF:
                    raise ImageFileError(path, f"has over {MAX_EXIF} bytes of Exif")
                return image.copy()
    except ImageFileError:
        raise
    except UnidentifiedImageError:
        expected = " or ".join(formats)
        raise ImageFileError(path, f"cannot be decoded: is no {expected}") from None
    except Exception as error:  # decoders raise anything, MemoryError among it
        reason = f"cannot be decoded ({type(error).__name__}: {error})"
        raise ImageFileError(path, reason) from error


def _check_parts(path: Path, file: BinaryIO, modes: Sequence[str]) -> None:
    """Checks what lies around the pixels of a PNG or a JPEG."""
    start = file.read(8)
    kinds = [kind for sign, kind in SIGNATURES.items() if start.startswith(sign)]
    if not kinds:
        return
    file.seek(8 if kinds == ["PNG"] else 2)
    part = _chunk if kinds == ["PNG"] else _segment
    metadata = exif = 0
    for _ in range(MAX_PARTS):
        found = part(file)
        if found is None:
            return
        name, length, beginning = found
        if name == "IHDR" and len(beginning) == 13:
            _check_depth(path, beginning[8], modes)
        metadata += 0 if name == "IDAT" else length
        exif += length if name == "eXIf" or beginning.startswith(b"Exif") else 0
        if metadata > MAX_METADATA or exif > MAX_EXIF:
            raise ImageFileError(
                path,
                f"expected at most {MAX_METADATA} bytes of metadata and {MAX_EXIF} of "
                f"Exif, found {metadata} and {exif}",
            )
    raise ImageFileError(path, f"has more than {MAX_PARTS} parts")


def _chunk(file: BinaryIO) -> tuple[str, int, bytes] | None:
    """Returns name, length and first bytes of the next chunk, None after the last."""
    head = file.read(8)
    if len(head) < 8 or head[4:] == b"IEND":
        return None
    (length,) = struct.unpack(">I", head[:4])
    beginning = file.read(min(length, 13))
    file.seek(length - len(beginning) + 4, 1)
    return head[4:].decode("latin-1"), length, beginning


def _segment(file: BinaryIO) -> tuple[str, int, bytes] | None:
    """Returns the same of the next segment of a JPEG, None where pixels begin."""
    head = file.read(4)
    if len(head) < 4 or head[0] != 0xFF or head[1] in (0xDA, 0xD9):
        return None
    (length,) = struct.unpack(">H", head[2:])
    beginning = file.read(min(max(length - 2, 0), 13))
    file.seek(max(length - 2, 0) - len(beginning), 1)
    return f"{head[1]:02x}", length, beginning


def _check_depth(path: Path, bits: int, modes: Sequence[str]) -> None:
    # Pillow keeps the high byte of such colours: of 12 bits hardly anything is left.
    if bits == 16 and not set(DEEP) & set(modes):
        raise ImageFileError(
            path,
            f"expected 8 bits a channel (mode {tuple(modes)}), found 16: which of them "
            "count is not known; convert the images, by value >> 4 for 12 bits",
        )
