"""Decoders against bad files: named errors, no allocation, nothing accepted wrong."""

import io
import struct
import zlib

import hypothesis
import numpy as np
import pytest
import tifffile
from hypothesis import strategies
from PIL import Image, ImageFile

from data_pipelines.camera import Intrinsics
from data_pipelines.decode import (
    decode_depth,
    decode_mask,
    decode_rgb,
    decode_xyz,
    read_depth_png,
    read_mask,
    read_rgb,
    read_xyz,
)
from data_pipelines.errors import CorruptSampleError


def tiff_bytes(array: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    planes = "contig" if array.ndim == 3 and array.shape[-1] == 3 else None
    colour = "rgb" if planes else "minisblack"
    tifffile.imwrite(file, array, photometric=colour, planarconfig=planes, **options)
    return file.getvalue()


@pytest.fixture
def good(write) -> np.ndarray:
    return write.scene(0)[1]


def test_tiff_round_trip(tmp_path, good):
    path = tmp_path / "a.tiff"
    for options in ({}, {"compression": "zlib"}, {"rowsperstrip": 1}):
        path.write_bytes(tiff_bytes(good, **options))
        xyz, nonfinite = read_xyz(path)
        np.testing.assert_array_equal(xyz, good)
        assert nonfinite == 0 and xyz.dtype == np.float32
    path.write_bytes(tiff_bytes(good, byteorder=">"))
    np.testing.assert_array_equal(read_xyz(path)[0], good)


def test_tiff_as_halcon_writes_it(native_class):
    path = native_class / "test/hole/xyz/004.tiff"
    with tifffile.TiffFile(path) as tiff:
        assert tiff.pages[0].subifds  # the case that this test is about
    xyz, nonfinite = read_xyz(path)
    assert xyz.shape == (400, 400, 3) and nonfinite == 0
    assert 0.6 < xyz[..., 2].max() < 0.7
    strips = np.frombuffer(path.read_bytes(), np.uint8)
    assert strips.size > xyz.nbytes


@pytest.mark.parametrize("data", [b"", b"II*\0", b"garbage" * 99, b"\0" * 5000])
def test_garbage(tmp_path, data):
    path = tmp_path / "a.tiff"
    path.write_bytes(data)
    for read in (read_xyz, read_rgb, read_mask):
        with pytest.raises(CorruptSampleError) as error:
            read(path)
        assert error.value.path == path and str(path) in str(error.value)


def test_truncated_tiff(tmp_path, good):
    path = tmp_path / "a.tiff"
    whole = tiff_bytes(good)
    for length in (10, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptSampleError):
            read_xyz(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a[..., 0],
        lambda a: a[..., :1],
        lambda a: (a * 1000).astype(np.uint16),
        lambda a: a.astype(np.float64),
        lambda a: np.moveaxis(a, -1, 0),
        lambda a: a[:8],
        lambda a: np.concatenate([a, a], -1),
    ],
    ids=["rank 2", "1 channel", "uint16", "float64", "CHW", "8 rows", "6 channels"],
)
def test_wrong_kind_of_tiff(tmp_path, good, change):
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff_bytes(change(good)))
    with pytest.raises(CorruptSampleError, match="expected .* found"):
        read_xyz(path)


def test_tiff_that_asks_for_100_gigabytes(tmp_path, good, monkeypatch):
    whole = bytearray(tiff_bytes(good))
    for tag in (256, 257):  # width and height, one 32-bit value each
        place = bytes(whole).find(struct.pack("<HHII", tag, 4, 1, 32))
        assert place > 0
        whole[place : place + 12] = struct.pack("<HHII", tag, 4, 1, 100_000)
    path = tmp_path / "a.tiff"
    path.write_bytes(bytes(whole))

    def refuse(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(tifffile.TiffPage, "asarray", refuse)
    with pytest.raises(CorruptSampleError, match="found 100000 x 100000"):
        read_xyz(path)


def test_png_that_asks_for_a_terabyte(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", 600_000, 600_000, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for read in (read_rgb, read_mask):
        with pytest.raises(CorruptSampleError):
            read(path)


def with_tags(whole: bytes, *more: tuple[int, int, int, int]) -> bytes:
    """Returns a TIFF file with further tags (number, type, count, place)."""
    (start,) = struct.unpack("<I", whole[4:8])
    (count,) = struct.unpack("<H", whole[start : start + 2])
    tags = whole[start + 2 : start + 2 + 12 * count]
    extra = b"".join(struct.pack("<HHII", *tag) for tag in more)
    table = struct.pack("<H", count + len(more)) + tags + extra + b"\0" * 4
    return whole[:4] + struct.pack("<I", len(whole)) + whole[8:] + table


@pytest.mark.parametrize("tags", [1, 500, 3000], ids="{} tags".format)
def test_tags_that_ask_for_much_are_refused_unread(tmp_path, good, tags, monkeypatch):
    """Each tag reads the same four megabytes as a million numbers."""
    whole = tiff_bytes(good).ljust(5 * 2**20, b"\0")
    bomb = with_tags(whole, *((60000 + k, 4, 2**20 + 1, 8) for k in range(tags)))
    path = tmp_path / "a.tiff"
    path.write_bytes(bomb)

    def refuse(*_, **__):
        raise AssertionError("opened")

    monkeypatch.setattr(tifffile, "TiffFile", refuse)
    with pytest.raises(CorruptSampleError, match="expected (at most|1 to) .* tags"):
        read_xyz(path)


def test_a_second_image_and_images_within_strips_are_refused(tmp_path, good):
    path = tmp_path / "a.tiff"
    with tifffile.TiffWriter(path) as writer:
        for _ in range(2):
            writer.write(good, photometric="rgb")
    with pytest.raises(CorruptSampleError, match="expected one image"):
        read_xyz(path)
    whole = bytearray(tiff_bytes(good))
    place = bytes(whole).find(struct.pack("<HHII", 259, 3, 1, 1))
    whole[place : place + 12] = struct.pack("<HHII", 259, 3, 1, 34712)  # JPEG 2000
    path.write_bytes(bytes(whole))
    with pytest.raises(CorruptSampleError, match="compression"):
        read_xyz(path)


def test_strips_that_overlap_are_refused(tmp_path, good):
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff_bytes(good, rowsperstrip=1))
    with tifffile.TiffFile(path) as tiff:
        places, sizes = (tiff.pages[0].tags[tag] for tag in (273, 279))
    whole = bytearray(path.read_bytes())
    first = places.value[0]
    struct.pack_into("<32I", whole, places.valueoffset, *[first] * 32)
    struct.pack_into("<32H", whole, sizes.valueoffset, *[len(whole) - first] * 32)
    path.write_bytes(bytes(whole))
    with pytest.raises(CorruptSampleError, match="overlap"):
        read_xyz(path)


@pytest.mark.parametrize(
    ("kind", "length", "count", "message"),
    [
        (b"tEXt", 0, 70_000, "has more than 65536 parts"),
        (b"IDAT", 0, 70_000, "has more than 65536 parts"),
        (b"abCd", 2**20, 17, "bytes of metadata"),
        (b"eXIf", 70_000, 1, "of Exif"),
    ],
)
def test_pngs_of_many_or_large_chunks_are_refused(
    tmp_path, kind, length, count, message
):
    """What lies around the pixels is limited, too."""
    data = b"x" * length
    check = struct.pack(">I", zlib.crc32(kind + data))
    chunk = struct.pack(">I", length) + kind + data + check
    whole = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(whole, "PNG")
    whole = whole.getvalue()
    path = tmp_path / "a.png"
    path.write_bytes(whole[:33] + chunk * count + whole[33:])
    for read in (read_rgb, read_mask):
        with pytest.raises(CorruptSampleError, match=message):
            read(path)


def test_jpegs_of_much_metadata_are_refused(tmp_path):
    whole = io.BytesIO()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(whole, "JPEG")
    whole, path = whole.getvalue(), tmp_path / "a.jpg"
    segment = b"\xff\xe1" + struct.pack(">H", 60_002) + b"Exif\0\0".ljust(60_000)
    path.write_bytes(whole[:2] + segment * 2 + whole[2:])
    with pytest.raises(CorruptSampleError, match="of Exif"):
        read_rgb(path)
    path.write_bytes(whole[:2] + b"\xff\xfe\0\2" * 70_000 + whole[2:])
    with pytest.raises(CorruptSampleError, match="more than 65536 parts"):
        read_rgb(path)


def test_files_too_large_are_refused_unread(tmp_path):
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(256 * 2**20 + 1)
    for read in (read_rgb, read_mask, read_xyz):
        with pytest.raises(CorruptSampleError, match="expected 1 to 268435456 bytes"):
            read(path)


@pytest.mark.parametrize("size", [(4097, 16), (16, 4097), (15, 16), (16, 15)])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp"])
def test_sides_are_checked_before_pixels_are_decoded(
    tmp_path, size, suffix, monkeypatch
):
    path = tmp_path / f"a{suffix}"
    Image.new("L", size).save(path)

    def refuse(*_, **__):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", refuse)
    with pytest.raises(CorruptSampleError, match="expected sides of 16 to 4096"):
        read_rgb(path)


def test_nonfinite_points_become_unmeasured(tmp_path, good):
    path = tmp_path / "a.tiff"
    bad = good.copy()
    bad[3, 4, 0] = np.nan
    bad[5, 6] = np.inf
    path.write_bytes(tiff_bytes(bad))
    xyz, nonfinite = read_xyz(path)
    assert nonfinite == 2
    assert not xyz[3, 4].any() and not xyz[5, 6].any()
    rest = np.isfinite(bad).all(-1)
    np.testing.assert_array_equal(xyz[rest], good[rest])


def test_nan_and_zero_are_one_thing(tmp_path, good):
    """Two thirds of the points are unmeasured."""
    read = []
    for value in (np.nan, 0, -np.inf):
        cloud = good.copy()
        cloud[: 2 * len(cloud) // 3] = value
        (tmp_path / "a.tiff").write_bytes(tiff_bytes(cloud))
        read.append(decode_xyz(tmp_path / "a.tiff"))
    np.testing.assert_array_equal(read[0].values, read[1].values)
    np.testing.assert_array_equal(read[0].values, read[2].values)
    assert read[0].values[..., 2].any() and read[0].flags == ()


def test_millimetres(tmp_path, good):
    path = tmp_path / "a.tiff"
    path.write_bytes(tiff_bytes(good * 1000))
    with pytest.raises(CorruptSampleError, match="millimetres"):
        read_xyz(path)


def test_pictures(tmp_path):
    path = tmp_path / "a.png"
    grey = np.arange(400, dtype=np.uint8).reshape(20, 20)
    Image.fromarray(grey).save(path)
    np.testing.assert_array_equal(read_rgb(path), np.repeat(grey[..., None], 3, -1))
    np.testing.assert_array_equal(read_mask(path), grey)
    Image.fromarray(grey.astype(np.uint16) * 100).save(path)
    with pytest.raises(CorruptSampleError, match="mode"):
        read_rgb(path)
    Image.fromarray(grey > 7).save(path)
    np.testing.assert_array_equal(read_mask(path), (grey > 7) * 255)


TURNS = [None, None, "FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM"]
TURNS += ["TRANSPOSE", "ROTATE_270", "TRANSVERSE", "ROTATE_90"]


@pytest.mark.parametrize("tag", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_images_are_turned_as_their_orientation_tag_says(tmp_path, tag, suffix):
    """By the table of the Exif standard."""
    stored = np.zeros((16, 24, 3), np.uint8)
    stored[:8, :8] = 255
    image = Image.fromarray(stored)
    exif = image.getexif()
    exif[0x0112] = tag
    path = tmp_path / f"a{suffix}"
    image.save(path, exif=exif)
    shown = image
    if TURNS[tag]:
        shown = image.transpose(Image.Transpose[TURNS[tag]])
    read = decode_rgb(path)
    assert np.abs(read.values.astype(int) - np.asarray(shown)).max() < 30
    assert read.flags == (() if tag == 1 else ("orientation_applied",))
    if suffix == ".png":
        mask = decode_mask(path)
        np.testing.assert_array_equal(mask.values, np.asarray(shown)[..., 0])
        assert mask.flags == read.flags


def png16(array: np.ndarray, colour: int) -> bytes:
    """Returns [H,W,C] uint16 as a PNG of 16 bits, which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    height, width = array.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_are_refused(tmp_path, colour, channels):
    """Of a camera of 12 bits the high byte holds ten grey levels."""
    path = tmp_path / "a.png"
    values = np.random.default_rng(0).integers(0, 4096, (20, 20, channels))
    path.write_bytes(png16(values, colour))
    for read in (read_rgb, read_mask):
        with pytest.raises(CorruptSampleError, match="8 bits .* found 16.*convert"):
            read(path)


def test_transparency_is_said(tmp_path):
    path = tmp_path / "a.png"
    colours = np.full((16, 16, 4), 200, np.uint8)
    colours[..., 3] = 255
    for alpha, flags in ((255, ()), (0, ("transparency_ignored",))):
        colours[0, 0, 3] = alpha
        Image.fromarray(colours).save(path)
        read = decode_rgb(path)
        assert read.flags == flags and (read.values == 200).all()
    Image.fromarray(colours).convert("LA").save(path)
    assert (read_rgb(path) == 200).all()


def test_a_mask_with_a_colour_table_is_what_is_shown(tmp_path):
    path = tmp_path / "a.png"
    defect = np.zeros((16, 16), np.uint8)
    defect[2:5, 3:6] = 1
    tables = {  # colours of the numbers 0 and 1 -> what is read
        ((0, 0, 0), (128, 0, 0)): defect,  # ids stay as stored
        ((255, 255, 255), (0, 0, 0)): (1 - defect) * 255,
    }
    for colours, expected in tables.items():
        image = Image.fromarray(defect, mode="P")
        image.putpalette([part for colour in colours for part in colour])
        image.save(path)
        np.testing.assert_array_equal(read_mask(path), expected)
    image.putpalette([255, 255, 255, 255, 0, 0])
    image.save(path)
    with pytest.raises(CorruptSampleError, match="expected black"):
        read_mask(path)


def test_a_mask_is_no_jpeg(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).save(path, "JPEG")
    with pytest.raises(CorruptSampleError, match="is no PNG or BMP"):
        read_mask(path)


def test_depth_picture(tmp_path):
    path = tmp_path / "a.png"
    units = np.full((16, 20), 500, np.uint16)
    units[3, 4] = 0
    Image.fromarray(units).save(path)
    depth, xyz = read_depth_png(path, Intrinsics(100, 200, 10, 8, 0.001))
    assert depth.dtype == xyz.dtype == np.float32
    assert depth[3, 4] == 0 and not xyz[3, 4].any()
    # (20 - 1 - 10) / 100 * 0.5 and (0 - 8) / 200 * 0.5
    np.testing.assert_allclose(xyz[0, 19], [0.045, -0.02, 0.5], rtol=1e-6)
    with pytest.raises(CorruptSampleError, match="metres"):
        read_depth_png(path, Intrinsics(100, 200, 10, 8, 0.1))
    Image.fromarray(units.astype(np.uint8)).save(path)
    with pytest.raises(CorruptSampleError, match="mode"):
        read_depth_png(path, Intrinsics(100, 200, 10, 8, 0.001))


def test_a_depth_that_no_sensor_measures_is_unmeasured(tmp_path):
    path = tmp_path / "a.png"
    units = np.full((16, 20), 500, np.uint16)
    units[3, 4:6], units[5, 6] = 65535, 0
    Image.fromarray(units).save(path)
    for scale in (0.001, 0.0001):  # 65.5 and 6.55 metres
        read = decode_depth(path, Intrinsics(100, 200, 10, 8, scale))
        there = np.ones(units.shape, bool)
        there[3, 4:6] = there[5, 6] = False
        assert read.flags == ("mark_read",)
        np.testing.assert_array_equal(read.values[..., 2] > 0, there)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(units).save(path, exif=exif)
    with pytest.raises(CorruptSampleError, match="orientation"):
        decode_depth(path, Intrinsics(100, 200, 10, 8, scale))


def test_a_depth_image_of_another_size_than_the_camera_has_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.full((16, 20), 500, np.uint16)).save(path)
    camera = Intrinsics(100, 200, 10, 8, rows=16, columns=20)
    assert decode_depth(path, camera).flags == ()
    with pytest.raises(CorruptSampleError, match="a.png: depth: .* 32 x 40 .* 16 x 20"):
        decode_depth(path, camera._replace(rows=32, columns=40))


def test_a_scan_with_an_orientation_tag_is_refused(tmp_path, write):
    path, (_, xyz) = tmp_path / "a.tiff", write.scene(0)
    tifffile.imwrite(path, xyz, extratags=[(0x0112, "H", 1, 1, False)])
    assert decode_xyz(path).flags == ()
    tifffile.imwrite(path, xyz, extratags=[(0x0112, "H", 1, 6, False)])
    with pytest.raises(CorruptSampleError, match="orientation"):
        decode_xyz(path)


@pytest.mark.parametrize("tag", [0, 1, 9])
def test_an_orientation_that_says_nothing_turns_nothing(tmp_path, tag):
    path = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(pixels).save(path, exif=exif)
    read = decode_rgb(path)
    np.testing.assert_array_equal(read.values, pixels)
    assert read.flags == ()


def test_several_images_in_one_file_are_refused(tmp_path):
    path = tmp_path / "a.png"
    image = Image.new("RGB", (16, 16))
    image.save(path, save_all=True, append_images=[Image.new("RGB", (16, 16), "red")])
    with pytest.raises(CorruptSampleError, match="one image, found 2"):
        decode_rgb(path)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_a_grey_image_is_repeated_and_said(tmp_path, mode):
    path = tmp_path / "a.png"
    Image.fromarray(np.eye(16, dtype=np.uint8) * 255).convert(mode).save(path)
    read = decode_rgb(path)
    assert read.flags == ("grey_repeated",)
    for channel in range(3):
        np.testing.assert_array_equal(read.values[..., channel], np.eye(16) * 255)


def test_a_mask_whose_colours_are_all_black_is_refused(tmp_path):
    path = tmp_path / "a.png"
    mask = Image.fromarray(np.eye(16, dtype=np.uint8)).convert("P")
    mask.putpalette([0, 0, 0, 0, 0, 0])
    mask.save(path)
    with pytest.raises(CorruptSampleError, match="and there alone"):
        read_mask(path)


SEEDS = [
    tiff_bytes(np.ones((16, 16, 3), np.float32), **options)
    for options in ({}, {"compression": "zlib"}, {"rowsperstrip": 1})
]


@hypothesis.settings(
    max_examples=500,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    whole=strategies.sampled_from(SEEDS),
    cut=strategies.one_of(strategies.none(), strategies.integers(0, 3300)),
    changes=strategies.lists(
        strategies.tuples(strategies.integers(0, 3300), strategies.integers(0, 255)),
        max_size=5,
    ),
)
def test_mutated_tiffs_are_read_right_or_refused(tmp_path, whole, cut, changes):
    data = bytearray(whole)
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path / "a.tiff"
    path.write_bytes(bytes(data[:cut]))
    try:
        xyz, nonfinite = read_xyz(path)
    except CorruptSampleError as error:
        assert error.path == path
        return
    assert xyz.ndim == 3 and xyz.shape[2] == 3 and xyz.dtype == np.float32
    assert min(xyz.shape[:2]) >= 16 and np.isfinite(xyz).all()
    assert 0 <= nonfinite <= xyz[..., 0].size / 2 and np.abs(xyz).max() < 10
