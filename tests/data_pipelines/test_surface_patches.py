"""The extra `patches` against a literal form in NumPy, and its limits."""

import numpy as np
import pytest

from data_pipelines.errors import DatasetError
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.recipes.patches import (
    DEFAULTS,
    normalised,
    patch_count,
    spread_patches,
)
from data_pipelines.samples import complete_parameters

SIDE = 24
FEW = {"patch_points": 20, "patch_overlap": 3, "patch_limit": 80}


def scan(seed: int = 0) -> Sample:
    """A bumpy plate; a corner is not measured, and one column has x = 0."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((SIDE, SIDE))
    z = 0.5 + random.normal(0, 1e-3, (SIDE, SIDE))
    xyz = np.stack([(columns - 7) * 1e-3, (rows + 1) * 1e-3, z], -1)
    xyz[..., :2] *= random.uniform(0.999, 1.001, (SIDE, SIDE, 2))
    xyz[:6, :6] = 0
    return Sample(None, xyz.astype(np.float32))


def made(sample: Sample, recipe: str = "raw", **changes) -> np.ndarray:
    asked = {"image_size": SIDE, "extras": ("patches",), **FEW, **changes}
    params = RECIPES[recipe].fit(complete_parameters(recipe, asked), iter([sample]))
    return RECIPES[recipe].apply(params, sample).record["patches"]


def literal(points: np.ndarray, first: int, count: int, size: int) -> np.ndarray:
    """The patches of a list of points, [count,size]: centres, then nearest points."""
    centres, distance = [first], np.full(len(points), np.inf)
    while True:
        distance = np.minimum(distance, ((points - points[centres[-1]]) ** 2).sum(1))
        if len(centres) == count:
            break
        centres.append(int(distance.argmax()))
    squared = ((points[centres][:, None] - points[None]) ** 2).sum(-1)
    return np.argsort(squared, axis=1, kind="stable")[:, :size]


def test_patches_are_those_of_the_literal_form():
    sample = scan()
    found = made(sample)
    xyz = sample.xyz.reshape(-1, 3)
    there = np.flatnonzero((xyz != 0).all(1))
    assert len(there) == SIDE * (SIDE - 1) - 36  # neither the corner nor x = 0
    count = round(len(there) * 3 / 20)
    assert found.shape == (80, 20) and found.dtype == np.uint16
    assert (found[:count] > 0).all() and not found[count:].any()
    points = xyz[there] - xyz[there].min(0)
    points = points / points[:, 0].max()
    first = int(np.flatnonzero(there == found[0, 0] - 1)[0])
    expected = there[literal(points, first, count, 20)]
    np.testing.assert_array_equal(found[:count].astype(int) - 1, expected)


def test_the_first_centre_follows_from_the_seed_and_the_cloud():
    firsts = {int(made(scan(), patch_seed=seed)[0, 0]) for seed in range(8)}
    assert len(firsts) > 4
    clouds = {int(made(scan(seed))[0, 0]) for seed in range(8)}
    assert len(clouds) > 4
    np.testing.assert_array_equal(made(scan()), made(scan()))


def test_a_point_is_in_so_many_patches_by_the_mean():
    assert patch_count(DEFAULTS, 10_000) == 200
    assert patch_count({**DEFAULTS, "patch_overlap": 5}, 10_000) == 100
    assert patch_count(DEFAULTS, 499) == 0 and patch_count(DEFAULTS, 500) == 10


def test_fewer_points_than_a_patch_has_give_none():
    sample = scan()
    sample.xyz[4:] = 0
    sample.xyz[:, 15:] = 0  # 4 x 9 points are left, less a corner and x = 0
    assert not made(sample, patch_points=40).any()
    assert made(sample, patch_points=10).any()
    nothing = Sample(None, np.zeros((SIDE, SIDE, 3), np.float32))
    assert not made(nothing).any()


def test_more_patches_than_there_is_room_for_are_an_error():
    with pytest.raises(DatasetError, match="patch_limit: expected at most 80 patches"):
        made(scan(), patch_overlap=10)
    assert made(scan(), patch_overlap=10, patch_limit=300).shape == (300, 20)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("patch_points", 1),
        ("patch_overlap", 0),
        ("patch_limit", 0.5),
        ("patch_seed", -1),
    ],
)
def test_parameters_have_ranges(name, value):
    with pytest.raises(DatasetError, match=f"{name}: expected a whole number"):
        made(scan(), **{name: value})


def test_large_images_have_wider_numbers():
    params = complete_parameters("raw", {"image_size": 256, "extras": ("patches",)})
    fields = RECIPES["raw"].fields(params, frozenset({"xyz"}))
    assert fields["patches"] == ((640, 500), "int32")


def test_points_without_an_extent_stay_finite():
    xyz = np.full((30, 3), 0.5, np.float32)
    there = np.ones(30, bool)
    assert np.isfinite(normalised(xyz, there)).all()
    found = np.asarray(spread_patches(xyz, there, 3, 4, 10))
    assert found.shape == (4, 10) and found.max() < 30
