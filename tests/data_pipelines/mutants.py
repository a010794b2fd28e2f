"""Mutated image files, read one after the other within a limit of memory.

    python mutants.py KIND NUMBER FOLDER

Prints what became of them as a JSON table; ends with 1 at the first that breaks a rule.
"""

import io
import json
import random
import resource
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from ad3d_jax.synthesis.textures import read_image
from data_pipelines.camera import Intrinsics
from data_pipelines.decode import read_depth_png, read_mask, read_rgb, read_xyz
from data_pipelines.errors import CorruptSampleError

MEMORY = 2**30  # bytes that reading may take beyond what the imports took
SECONDS = 10.0  # that one file may take
EXTREMES = (0, 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1)


def scan(side: int = 24) -> np.ndarray:
    rows, columns = np.indices((side, side))
    z = 0.5 + 1e-3 * np.sin(rows) + 1e-3 * np.cos(columns)
    return np.stack([(columns - 11.5) * 1e-3, (rows - 11.5) * 1e-3, z], -1).astype("f4")


def tiffs() -> list[bytes]:
    forms = [{}, {"rowsperstrip": 1}, {"tile": (16, 16)}, {"byteorder": ">"}]
    forms += [{"bigtiff": True}, {"compression": "zlib", "predictor": True}]
    names = ("zlib", "lzw", "packbits", "zstd", "lzma")
    forms += [{"compression": name} for name in names]
    return [tiff(scan(), **form) for form in forms]


def tiff(array: np.ndarray, **form) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, array, photometric="rgb", **form)
    return file.getvalue()


def pngs() -> list[bytes]:
    colours = np.random.default_rng(0).integers(0, 256, (24, 24, 4), np.uint8)
    image = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x0112] = 6
    modes = ("RGB", "L", "RGBA", "LA", "P", "1")
    found = [png(image.convert(mode)) for mode in modes]
    depth = Image.fromarray(np.full((24, 24), 500, np.uint16))
    return [
        *found,
        png(image, exif=exif),
        png(depth),
        png(image, icc_profile=b"x" * 99),
    ]


def png(image: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + check


def mutated(whole: bytes, draw: random.Random, kind: str) -> bytes:
    """Returns a file with bytes changed, cut, repeated or lengthened."""
    data = bytearray(whole)
    for _ in range(draw.choice((1, 1, 2, 5))):
        # Half of the changes go where headers and tags lie.
        near = draw.random() < 0.5
        first, last = (0, 60) if kind == "png" else (len(data) - 260, len(data))
        place = draw.randrange(max(first, 0), min(last, len(data)))
        place = place if near else draw.randrange(len(data))
        what = draw.randrange(6)
        if what == 0:
            data[place] ^= 1 << draw.randrange(8)
        elif what == 1:
            data[place] = draw.choice((0, 1, 127, 128, 255))
        elif what == 2:
            order = "<" if kind == "tiff" else ">"
            data[place : place + 4] = struct.pack(order + "I", draw.choice(EXTREMES))
        elif what == 3:
            del data[place : place + draw.choice((1, 4, 100, 10**6))]
        elif what == 4:
            data[place:place] = data[place : place + draw.choice((1, 12, 300))]
        else:
            data[place:place] = draw.randbytes(draw.choice((1, 4, 300)))
        data = data or bytearray(b"x")
    return mended(bytes(data)) if kind == "png" and draw.random() < 0.7 else bytes(data)


def mended(data: bytes) -> bytes:
    """Returns a PNG with right checksums, so that what is in its chunks is believed."""
    parts, place = [data[:8]], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        body = data[place + 8 : place + 8 + length]
        parts.append(data[place : place + 8] + body)
        parts.append(struct.pack(">I", zlib.crc32(data[place + 4 : place + 8] + body)))
        place += 12 + length
    return b"".join(parts)


def with_tags(whole: bytes, count: int, values: int) -> bytes:
    """Returns a TIFF file in which further tags all ask for the same values."""
    (start,) = struct.unpack("<I", whole[4:8])
    (have,) = struct.unpack("<H", whole[start : start + 2])
    own = whole[start + 2 : start + 2 + 12 * have]
    more = (struct.pack("<HHII", 50_000 + k, 4, values, 8) for k in range(count))
    table = struct.pack("<H", have + count) + own + b"".join(more) + bytes(4)
    return whole[:4] + struct.pack("<I", len(whole)) + whole[8:] + table


def with_strips(whole: bytes, count: int) -> bytes:
    """Returns a TIFF file that lists so many strips."""
    data = bytearray(whole.ljust(len(whole) + 4 * count, b"\0"))
    for tag in (273, 279):
        place = whole.find(struct.pack("<H", tag))
        data[place : place + 12] = struct.pack("<HHII", tag, 4, count, len(whole))
    return bytes(data)


def with_strip(name: str) -> bytes:
    """Returns a small TIFF file whose strip inflates to 300 MB."""
    whole = tiff(scan(), compression=name)
    strip = getattr(imagecodecs, f"{name}_encode")(bytes(300 * 2**20))
    with tifffile.TiffFile(io.BytesIO(whole)) as file:
        places = [file.pages[0].tags[tag].offset for tag in (273, 279)]
    data = bytearray(whole + strip)
    for place, tag, value in zip(
        places, (273, 279), (len(whole), len(strip)), strict=True
    ):
        data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(data)


def tiff_bombs() -> Iterator[bytes]:
    plain = tiff(scan())
    yield with_tags(plain.ljust(4 * 2**20 + 100, b"\0"), 3_000, 2**20)
    yield with_tags(plain.ljust(4 * 2**20 + 100, b"\0"), 400, 2**20)
    yield with_tags(plain.ljust(4 * 2**20 + 100, b"\0"), 1, 2**20)
    yield with_strips(plain, 60_000_000)
    yield with_strips(plain, 1_000_000)
    for name in ("zlib", "zstd", "lzma"):
        yield with_strip(name)


def png_bombs() -> Iterator[bytes]:
    plain = png(Image.new("L", (24, 24)))
    head, rest = plain[:33], plain[33:]
    yield head + chunk(b"tEXt", b"") * (192 * 2**20 // 12) + rest
    yield head + chunk(b"IDAT", b"") * (192 * 2**20 // 12) + rest
    large = zlib.compress(bytes(300 * 2**20))
    yield head + chunk(b"zTXt", b"a\0\0" + large) * 40 + rest
    yield head + chunk(b"iCCP", b"a\0\0" + large) + rest
    yield head + chunk(b"IDAT", large) + chunk(b"IEND", b"")
    entries = 5_000  # tags of Exif, each of which has nearly all of the chunk
    for size in (60_000, 10 * 2**20):
        value = size - 12 * entries if size > 12 * entries else size // 2
        listed = min(entries, size // 24)
        tags = (struct.pack("<HHII", k, 7, value, 8) for k in range(listed))
        exif = b"II*\0\x08\0\0\0" + struct.pack("<H", listed) + b"".join(tags)
        yield head + chunk(b"eXIf", exif.ljust(size, b"\0")) + rest
        text = b"\n\nx\n" + exif.ljust(size, b"\0").hex().encode()
        body = zlib.compress(b"\n".join((b"", b"exif", b"1")) + text)
        yield head + chunk(b"zTXt", b"Raw profile type exif\0\0" + body) + rest
    for sides in ((4096, 4096), (4097, 16), (2**31 - 1, 2**31 - 1)):
        sized = struct.pack(">IIBBBBB", *sides, 8, 6, 0, 0, 0)
        yield head[:8] + chunk(b"IHDR", sized) + rest
        yield head[:8] + chunk(b"IHDR", sized) + chunk(b"IDAT", large) + plain[-12:]


CAMERA = Intrinsics(100, 100, 12, 12, 0.001)
READERS: dict[str, Callable[[Path], np.ndarray]] = {
    "points": lambda path: read_xyz(path)[0],
    "image": read_rgb,
    "mask": read_mask,
    "depth": lambda path: read_depth_png(path, CAMERA)[1],
    "texture": lambda path: read_image(path, 8),
}


def right(name: str, array: np.ndarray) -> bool:
    """Returns whether an array is one that this reader may return."""
    if name in ("points", "depth"):
        near = np.isfinite(array).all() and np.abs(array).max() < 1e3
        whole = array.dtype == np.float32 and array.shape[2:] == (3,)
        return bool(near and whole and (array[..., 2] >= 0).all())
    return array.dtype == np.uint8 and array.ndim == (2 if name == "mask" else 3)


def outcome(name: str, path: Path) -> str:
    """Returns what became of a file; raises AssertionError where a rule is broken."""
    try:
        array = READERS[name](path)
    except CorruptSampleError as error:
        assert error.path == path and name != "texture"
        return "refused"
    except ValueError as error:
        assert name == "texture" and str(path) in str(error), error
        return "refused"
    assert right(name, array), (array.dtype, array.shape)
    return "read"


def limit_memory() -> None:
    status = Path("/proc/self/status").read_text()
    taken = next(line for line in status.splitlines() if line.startswith("VmData"))
    limit = 1024 * int(taken.split()[1]) + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def main(kind: str, number: int, folder: Path) -> None:
    draw = random.Random(15)
    seeds = tiffs() if kind == "tiff" else pngs()
    bombs = list(tiff_bombs() if kind == "tiff" else png_bombs())
    path = folder / f"a.{kind}"
    path.write_bytes(seeds[0])
    READERS["texture" if kind == "png" else "points"](path)  # all is imported now
    limit_memory()
    table: dict[str, int] = {}
    for k in range(number + len(bombs)):
        bomb = k >= number
        data = bombs.pop() if bomb else mutated(draw.choice(seeds), draw, kind)
        path.write_bytes(data)
        for name in READERS:
            started = time.monotonic()
            try:
                what = outcome(name, path)
                assert time.monotonic() - started < SECONDS, "took too long"
            except BaseException:
                (folder / "found").write_bytes(data)
                sys.stderr.write(f"file {k} as {name}\n")
                raise
            key = f"{name} {what}" + " bomb" * bomb
            table[key] = table.get(key, 0) + 1
    sys.stdout.write(json.dumps(table))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
