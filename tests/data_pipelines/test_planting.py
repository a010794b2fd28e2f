"""Kinds of planted defects: what changes, what does not, and what is marked."""

import numpy as np
import pytest
from scipy import ndimage

from data_pipelines.errors import DatasetError
from data_pipelines.planting import (
    KINDS,
    light_of,
    moved,
    plant,
    possible,
    regions,
    scene_of,
)
from data_pipelines.planting import light as lights
from data_pipelines.planting.light import Light
from data_pipelines.planting.scene import lit, normals_of
from data_pipelines.recipes import Sample

SIDE, BOX, TOP, TABLE = 96, slice(24, 72), 0.5, 0.52
FIELD = np.indices((SIDE, SIDE))
PICTURE = ("colour", "stain", "texture", "blur")  # what changes no point
WITHOUT_PICTURE = ("cut", "pasted", "warped", "bump", "dent", "step", "missing") + (
    "foreign",
)


def scan():
    """A box, 48 mm wide, 20 mm high, of ripples and stripes, on a dark table."""
    ripple = np.sin(FIELD[1] / 3) * np.cos(FIELD[0] / 4)
    z = np.full((SIDE, SIDE), TABLE)
    z[BOX, BOX] = TOP + 1e-3 * ripple[BOX, BOX]
    x, y = (FIELD[1] - 48) * 1e-3, (FIELD[0] - 48) * 1e-3
    rgb = np.full((SIDE, SIDE, 3), 10)
    rgb[BOX, BOX] = np.rint(120 + 60 * ripple[BOX, BOX, None] * [1, 0.8, 0.5])
    xyz = np.stack([x / TOP * z, y / TOP * z, z], -1)
    return Sample(rgb.astype(np.uint8), xyz.astype(np.float32))


@pytest.fixture(scope="module")
def scene():
    return scene_of(scan())


def planted_in(scene, kind, seed=0):
    return plant(scene, kind, np.random.default_rng(seed))


def further(sample, before):
    """Returns by how many metres each point lies further from the camera."""
    after, first = (
        np.linalg.norm(s.xyz.astype(np.float64), axis=-1) for s in (sample, before)
    )
    return after - first


def test_the_part_is_what_stands_off_the_table(scene):
    truth = np.zeros((SIDE, SIDE), bool)
    truth[BOX, BOX] = True
    assert not (scene.part & ~truth).any()
    assert (scene.part != truth).sum() == 4 * 3  # the opening takes three a corner
    assert abs(scene.plane.distance(np.array([0.0, 0, TABLE]))) < 1e-4
    by_colour, _ = regions.part_of(Sample(scan().rgb))
    assert (by_colour != truth).mean() < 0.01


def test_points_lost_in_the_middle_of_the_part_belong_to_it_and_bores_do_not():
    clean = scan()
    clean.xyz[40:42, 30:60] = 0  # a shadow
    clean.xyz[50:60, 40:50, 2] = TABLE  # the table, through a bore
    part, _ = regions.part_of(clean)
    assert part[40:42, 32:58].all() and not part[50:60, 40:50].any()


def test_everything_is_the_part_where_nothing_stands_out():
    flat = scan()
    flat.xyz[..., 2] = TOP
    assert regions.part_of(flat)[0].all()
    assert regions.part_of(Sample(np.full((SIDE, SIDE, 3), 7, np.uint8)))[0].all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_no_bit_changes_outside_the_mask_and_most_do_inside(scene, kind, seed):
    clean, broken = scene.sample, planted_in(scene, kind, seed)
    assert set(np.unique(broken.mask)) == {0, 255} and broken.mask.dtype == np.uint8
    assert broken.rgb.dtype == np.uint8 and broken.xyz.dtype == np.float32
    mask = broken.mask > 0
    assert 0.001 < mask.sum() / scene.part.sum() < 0.25
    colour, shape = (broken.rgb != clean.rgb).any(-1), (broken.xyz != clean.xyz).any(-1)
    assert not ((colour | shape) & ~mask).any()
    assert (colour | shape)[mask].mean() > 0.75
    # A defect of shape changes the picture, too; one of appearance changes no point.
    assert shape.any() == (kind not in PICTURE) and colour.any()
    if kind != "warped":  # which bends the outline
        assert not (mask & ~scene.part).any()


@pytest.mark.parametrize("kind", KINDS)
def test_equal_seeds_give_equal_bits_and_others_do_not(scene, kind):
    one, same, other = (planted_in(scene, kind, seed) for seed in (5, 5, 6))
    for field in ("rgb", "xyz", "mask"):
        np.testing.assert_array_equal(getattr(one, field), getattr(same, field))
    assert (one.mask != other.mask).any()


def test_kinds_follow_from_what_is_measured(scene):
    assert possible(frozenset({"rgb", "xyz"})) == tuple(KINDS)
    assert possible(frozenset({"xyz"})) == WITHOUT_PICTURE
    pictures = possible(frozenset({"rgb"}))
    assert set(KINDS) - set(pictures) == {"bump", "dent", "step"}
    alone = scene_of(Sample(scene.sample.rgb))
    for kind in pictures:
        broken = planted_in(alone, kind)
        assert broken.xyz is None and (broken.rgb != alone.sample.rgb).any()
    alone = scene_of(Sample(xyz=scene.sample.xyz))
    for kind in WITHOUT_PICTURE:
        broken = planted_in(alone, kind)
        assert broken.rgb is None and (broken.xyz != alone.sample.xyz).any()


@pytest.mark.parametrize(("kind", "sign"), [("bump", -1), ("dent", 1), ("cut", 1)])
def test_points_move_along_their_rays_by_tenths_of_millimetres(scene, kind, sign):
    clean = scene.sample
    for seed in range(3):
        broken = planted_in(scene, kind, seed)
        distance = sign * further(broken, clean)
        assert distance.min() > -1e-6
        assert 0.002 * scene.diagonal < distance.max() < 0.0301 * scene.diagonal
        there = clean.xyz / np.linalg.norm(clean.xyz, axis=-1, keepdims=True)
        now = broken.xyz / np.linalg.norm(broken.xyz, axis=-1, keepdims=True)
        np.testing.assert_allclose(now, there, atol=1e-6)


def test_where_a_piece_is_missing_the_table_shows(scene):
    broken = planted_in(scene, "missing", 1)
    mask = broken.mask > 0
    np.testing.assert_allclose(broken.xyz[mask][:, 2], TABLE, atol=1e-4)
    np.testing.assert_array_equal(broken.rgb[mask], 10)
    hole = planted_in(
        scene_of(Sample(np.full((SIDE, SIDE, 3), 200, np.uint8))), "missing"
    )
    np.testing.assert_array_equal(hole.rgb[hole.mask > 0], 30)  # dark: 0.15 x 200


def test_what_was_not_measured_stays_so():
    clean = scan()
    clean.xyz[30:34, 30:60] = 0
    host = scene_of(clean)
    for kind in set(KINDS) - {"missing"}:
        for seed in range(2):
            assert not planted_in(host, kind, seed).xyz[30:34, 30:60].any()


def test_a_sample_without_points_is_refused():
    empty = scan()._replace(xyz=np.zeros((SIDE, SIDE, 3), np.float32))
    with pytest.raises(DatasetError, match="nothing was measured"):
        planted_in(scene_of(empty), "bump")


def dome(light):
    """A grey dome of known normals under a light, and its sample with some glare."""
    down, right = (FIELD - SIDE / 2) / 40.0
    rise = np.sqrt(np.maximum(0, 1 - down**2 - right**2))
    on = rise > 0.4
    rays = np.stack([right * 0.1, down * 0.1, np.ones_like(down)], -1)
    z = np.where(on, 0.4 - 0.04 * rise, 0.4)
    xyz = rays * z[..., None]
    normals = normals_of(xyz)
    grey = 0.5 * (light.ambient + normals @ light.direction)
    random = np.random.default_rng(0)
    grey[random.random(grey.shape) < 0.05] += 0.3
    rgb = np.repeat(np.rint(255 * np.where(on, grey, 0.05))[..., None], 3, -1)
    return normals[on], grey[on], Sample(rgb.astype(np.uint8), xyz.astype(np.float32))


def test_the_light_is_that_of_a_lambertian_scene():
    truth = Light(0.8, np.array([-0.3, 0.2, -0.6]))
    normals, grey, sample = dome(truth)
    found = lights.estimate(normals, grey)  # albedo 0.5
    assert found.ambient == pytest.approx(0.4, abs=0.01)
    np.testing.assert_allclose(found.direction, [-0.15, 0.1, -0.3], atol=0.01)
    # From pixels and points, over two samples: what surfaces reflect is the same.
    seen = light_of([scene_of(sample)] * 2)
    np.testing.assert_allclose(seen.shade(normals), found.shade(normals), rtol=0.1)
    assert light_of([scene_of(sample._replace(rgb=None))]) is lights.ASSUMED


def test_a_tilted_surface_is_as_bright_as_lambert_says():
    light = Light(0.4, np.array([0.0, -0.3, -0.5]))
    flat = np.stack([FIELD[1] * 1e-3, FIELD[0] * 1e-3, np.full((SIDE, SIDE), 0.5)], -1)
    scene = scene_of(Sample(np.full((SIDE, SIDE, 3), 90, np.uint8)), light)
    scene = scene._replace(surface=flat)
    tilted = flat.copy()
    tilted[..., 2] += (
        0.75 * flat[..., 1]
    )  # its normal is (0, 0.6, -0.8), from the light
    expected = (0.4 - 0.6 * 0.3 + 0.8 * 0.5) / (0.4 + 0.5)
    np.testing.assert_allclose(lit(scene, tilted), expected, rtol=1e-9)
    tilted[..., 2] -= 1.5 * flat[..., 1]  # (0, -0.6, -0.8), towards the light
    expected = (0.4 + 0.6 * 0.3 + 0.8 * 0.5) / (0.4 + 0.5)
    np.testing.assert_allclose(lit(scene, tilted), expected, rtol=1e-9)


def test_a_seam_is_closed_by_what_is_harmonic():
    down, right = np.indices((20, 30), float)
    inside = np.hypot(down - 9, right - 14) < 6
    truth = np.stack([3 * down - right + 2, down * right, down**2 - right**2], -1)
    given = np.where(inside[..., None], 99.0, truth)
    found = moved.seamless(given, inside)  # each of the three is its neighbours' mean
    np.testing.assert_allclose(found, truth[inside], atol=1e-9)


def test_gradient_noise_is_zero_at_its_lattice_and_within_one():
    noise = regions.perlin((64, 96), np.array([8.0, 12.0]), np.random.default_rng(3))
    np.testing.assert_allclose(noise[::8, ::12], 0, atol=1e-12)
    assert 0.5 < np.abs(noise).max() <= 1


def test_a_patch_of_noise_is_connected_and_as_large_as_was_asked_for():
    part = np.zeros((80, 90), bool)
    part[10:70, 15:80] = True
    for seed, share in enumerate((0.005, 0.02, 0.05)):
        found = regions.patch_of_noise(part, share, np.random.default_rng(seed)) > 0
        assert not (found & ~part).any()
        assert ndimage.label(found)[1] == 1
        assert share <= found.sum() / part.sum() < 2 * share + 0.01
