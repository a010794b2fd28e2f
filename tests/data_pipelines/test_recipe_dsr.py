"""The recipe `dsr`: hand-computed scenes, the public code's output, real data."""

from pathlib import Path

import numpy as np
import pytest

from data_pipelines.errors import DatasetError
from data_pipelines.layout import scan
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.recipes.dsr import close, plane_distance
from data_pipelines.samples import complete_parameters, load_sample

DSR = RECIPES["dsr"]
GOLDEN = Path(__file__).parents[1] / "golden" / "dsr_recipe_48.npz"


def params(**changes) -> dict:
    return DSR.fit(complete_parameters("dsr", {"image_size": 60, **changes}), iter(()))


def table(side: int = 60) -> np.ndarray:
    """Returns xyz of a tilted table without noise, 1 mm a pixel."""
    rows, columns = np.indices((side, side))
    z = 0.6 + 2e-3 * rows - 1e-3 * columns
    return np.stack([columns * 1e-3, rows * 1e-3, z], -1).astype(np.float32)


def with_block(height: float = 0.02) -> np.ndarray:
    """Returns the table with a block of 20 x 20 pixels raised by `height` metres."""
    xyz = table()
    xyz[15:35, 20:40, 2] -= np.float32(height)
    return xyz


def sample(xyz: np.ndarray) -> Sample:
    return Sample(np.full(xyz.shape, 9, np.uint8), xyz)


def noisy_scene(seed: int = 0, side: int = 48) -> np.ndarray:
    """Returns a box on a tilted table with noise and a tenth of the points lost."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((side, side))
    z = 0.6 + 2e-3 * rows - 1e-3 * columns + random.normal(0, 2e-4, rows.shape)
    z[12:30, 10:33] -= 0.02
    z[random.random(z.shape) < 0.1] = 0
    z[20:25, 15:20] = 0
    z[:3, :3][1:] = 0  # a corner with three points
    xyz = np.stack([columns * 1e-3, rows * 1e-3, z], -1) * (z > 0)[..., None]
    return xyz.astype(np.float32)


def test_block_on_a_tilted_table():
    record, flags = DSR.apply(params(), sample(with_block()))
    expected = np.zeros((60, 60, 1), bool)
    expected[15:35, 20:40] = True
    assert flags == () and expected.sum() == 400
    np.testing.assert_array_equal(record["foreground"], expected)
    assert record["valid"].all()


def test_normalised_depth_lies_in_the_range_and_the_background_is_zero():
    record, _ = DSR.apply(params(passes=0), sample(with_block()))
    values = record["depth_normalised"]
    part = values[record["foreground"]]
    assert part.min() == np.float32(0.1) and part.max() == np.float32(0.9)
    assert not values[~record["foreground"]].any()
    # By hand: the middle of the range of the block's plane.
    z = with_block()[15:35, 20:40, 2]
    share = (z[7, 5] - z.min()) / (z.max() - z.min())
    assert values[22, 25, 0] == pytest.approx(0.1 + 0.8 * share, abs=1e-5)


def test_filling_makes_a_block_of_a_single_pixel():
    xyz = table()
    xyz[30, 30, 2] -= 0.02
    record, _ = DSR.apply(params(closing=0), sample(xyz))
    values = record["depth_normalised"][..., 0]
    expected = np.zeros((60, 60), np.float32)
    expected[28:33, 28:33] = 0.1
    np.testing.assert_array_equal(values, expected)
    assert (values > 0).sum() == 25 and record["foreground"].sum() == 1


def test_against_the_public_code(parity):
    """See tests/golden/README.md."""
    golden = np.load(GOLDEN)
    record, _ = DSR.apply(params(image_size=48), sample(noisy_scene()))
    assert golden["foreground"].sum() > 400
    np.testing.assert_array_equal(record["foreground"][..., 0], golden["foreground"])
    np.testing.assert_allclose(
        record["depth_normalised"][..., 0], golden["depth"], atol=2e-6
    )
    depth = record["depth_normalised"][..., 0], golden["depth"]
    parity("3DSR", "VitjanZ/3DSR 6f83317", "depth, preprocessing", *depth)


def test_closing_closes_gaps_and_leaves_the_border():
    there = np.zeros((30, 30), bool)
    there[:10, :10] = there[20:25, 20:25] = True
    there[5, 5] = there[:, 3:5] = False
    closed = close(there, 3)
    assert closed[:10, :10].all() and closed.sum() == 100 + 25


def test_corner_windows_grow():
    xyz = with_block()
    expected = plane_distance(xyz, xyz[..., 2] > 0)
    xyz[:5, :5] = 0
    found = plane_distance(xyz, xyz[..., 2] > 0)
    np.testing.assert_allclose(found[5:], expected[5:], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda xyz: xyz.fill(0), "nothing_measured"),
        (lambda xyz: [xyz[:, 1:].fill(0)], "no_plane"),
        (lambda xyz: None, "nothing_found"),
    ],
)
def test_what_is_not_told_from_a_plane_stays_whole(change, flag):
    xyz = table()
    change(xyz)
    record, flags = DSR.apply(params(), sample(xyz))
    assert flags == (flag,)
    np.testing.assert_array_equal(record["foreground"], record["valid"])
    np.testing.assert_array_equal(record["valid"][..., 0], xyz[..., 2] > 0)
    assert all(np.isfinite(x.astype(np.float32)).all() for x in record.values())
    assert record["depth_normalised"].max() <= np.float32(0.9)


def test_resizing_comes_first():
    once = DSR.apply(params(image_size=20), sample(with_block())).record
    before = sample(with_block()[::3, ::3])
    again = DSR.apply(params(image_size=20), before).record
    np.testing.assert_array_equal(once["depth_normalised"], again["depth_normalised"])
    assert once["rgb"].shape == once["xyz"].shape == (20, 20, 3)


def test_images_alone():
    record = DSR.apply(params(), sample(table())._replace(xyz=None)).record
    assert sorted(record) == ["mask", "rgb"]


@pytest.mark.parametrize(
    "change", [{"distance": 0.0}, {"passes": -1}, {"interpolation": "cubic"}]
)
def test_parameters_out_of_range(change):
    with pytest.raises(DatasetError, match=next(iter(change))):
        params(**change)


def test_real_class(real_class):
    found = scan(real_class.parent, real_class.name)
    for files in found.split("train")[::20]:
        record, flags = DSR.apply(params(image_size=128), load_sample(files).sample)
        values, part = record["depth_normalised"], record["foreground"]
        measured = values[part & record["valid"]]
        assert flags == () and 0.1 < part.mean() < 0.3
        assert measured.min() == np.float32(0.1) and measured.max() == np.float32(0.9)
        assert (values > 0).sum() >= (part & record["valid"]).sum()
