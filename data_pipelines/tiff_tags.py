"""What a TIFF file asks for, counted before a decoder believes it.

Each tag of an image promises a number of values of some size; a decoder makes an object
of each value, and reads values that overlap again and again.
"""

import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

from data_pipelines.errors import CorruptSampleError

MAX_TAGS = 512
MAX_TAG_BYTES = 4 * 2**20  # of all values; 4096 x 4096 pixels in tiles of 16 need 3 MiB
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8}
SIZES |= {13: 4, 16: 8, 17: 8, 18: 8}  # bytes of a value by its type


class _Form(NamedTuple):
    """How the numbers of a file are stored."""

    order: str  # of bytes, as in `struct`
    large: bool  # BigTIFF

    @property
    def place(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.large else "I"))

    @property
    def count(self) -> struct.Struct:
        return struct.Struct(self.order + ("Q" if self.large else "H"))

    @property
    def tag(self) -> struct.Struct:  # number, type, count and where the values lie
        return struct.Struct(self.order + ("HHQ8s" if self.large else "HHI4s"))


def check_tags(path: Path) -> None:
    """Raises CorruptSampleError where a TIFF file is none, or its tags ask too much.

    At most 512 tags and 4 MiB of values are read, and no further image may follow.
    """
    with path.open("rb") as file:
        form = _form(path, file)
        (start,) = _unpack(path, file, form.place)
        file.seek(start)
        (count,) = _unpack(path, file, form.count)
        if not 0 < count <= MAX_TAGS:
            raise CorruptSampleError(
                path, f"expected 1 to {MAX_TAGS} tags, found {count}"
            )
        asked = 0
        for _ in range(count):
            _, kind, values, _ = _unpack(path, file, form.tag)
            asked += SIZES.get(kind, 8) * values
        if asked > min(MAX_TAG_BYTES, path.stat().st_size):
            raise CorruptSampleError(
                path,
                f"expected at most {MAX_TAG_BYTES} bytes of tags, and no more than the "
                f"file holds, found {asked}",
            )
        (following,) = _unpack(path, file, form.place)
        if following:
            raise CorruptSampleError(path, "expected one image, found several")


def _form(path: Path, file: BinaryIO) -> _Form:
    head = file.read(4)
    orders = {b"II": "<", b"MM": ">"}
    order = orders.get(head[:2], "<")
    (version,) = struct.unpack(order + "H", head[2:].ljust(2, b"\0"))
    if head[:2] not in orders or version not in (42, 43):
        raise CorruptSampleError(path, "is no TIFF file")
    if version == 43:
        file.seek(8)
    return _Form(order, version == 43)


def _unpack(path: Path, file: BinaryIO, form: struct.Struct) -> tuple:
    data = file.read(form.size)
    if len(data) < form.size:
        raise CorruptSampleError(path, "is truncated: its tags end beyond its end")
    return form.unpack(data)
