"""Planted defects: what changes, what does not, and what is marked."""

import numpy as np
import pytest

from data_pipelines import planted, planting
from data_pipelines.errors import DatasetError
from data_pipelines.planted import SPLIT, Settings
from data_pipelines.planting import KINDS
from data_pipelines.preprocess import prepare
from data_pipelines.recipes import Sample
from data_pipelines.resident import load_resident

SIDE, BOX, TOP = 96, slice(24, 72), 0.5
FIELD = np.indices((SIDE, SIDE))


def scan(colour=(90, 120, 150)):
    """A flat box, 48 mm wide and 20 mm high, on a table 0.52 m below the camera."""
    z = np.full((SIDE, SIDE), 0.52)
    z[BOX, BOX] = TOP
    x, y = (FIELD[1] - 48) * 1e-3, (FIELD[0] - 48) * 1e-3
    rgb = np.full((SIDE, SIDE, 3), 10, np.uint8)
    rgb[BOX, BOX] = colour
    return Sample(rgb, np.stack([x, y, z], -1).astype(np.float32))


def planted_in(kind, seed=0, sample=None):
    sample = sample or scan()
    return planting.plant(sample, kind, np.random.default_rng(seed))


def moved(sample, before):
    """Returns by how many metres each point lies further from the camera."""
    lengths = (
        np.linalg.norm(s.xyz.astype(np.float64), axis=-1) for s in (sample, before)
    )
    after, first = lengths
    return after - first


def test_the_part_is_what_stands_off_the_table():
    part = planting.part_of(scan())
    truth = np.zeros((SIDE, SIDE), bool)
    truth[BOX, BOX] = True
    assert not (part & ~truth).any()
    assert (part != truth).sum() == 4 * 3  # the opening takes three pixels a corner
    by_colour = planting.part_of(Sample(scan().rgb))
    np.testing.assert_array_equal(by_colour, part)


def test_everything_is_the_part_where_nothing_stands_out():
    flat = scan()
    flat.xyz[..., 2] = 0.5
    assert planting.part_of(flat).all()
    assert planting.part_of(Sample(np.full((SIDE, SIDE, 3), 7, np.uint8))).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_only_the_blob_changes_and_the_mask_marks_it(kind, seed):
    clean, broken = scan(), planted_in(kind, seed)
    mask = broken.mask > 0
    inside = planting.part_of(clean)
    assert 4 <= mask.sum() <= 0.1 * inside.sum()
    assert not (mask & ~inside).any()
    changed_colour = (broken.rgb != clean.rgb).any(-1)
    changed_shape = (broken.xyz != clean.xyz).any(-1)
    assert changed_colour.any() == (kind in ("colour", "both"))
    assert changed_shape.any() == (kind != "colour")
    # What is not marked is the blob's lowest tenth alone.
    levels = np.abs(broken.rgb.astype(int) - clean.rgb).max(-1)
    assert levels[~mask].max() <= max(1, 0.1 * levels.max() + 1)
    if kind != "missing":
        assert np.abs(moved(broken, clean))[~mask].max() <= (
            0.1 * np.abs(moved(broken, clean)).max() + 1e-7
        )
    assert broken.rgb.dtype == np.uint8 and broken.xyz.dtype == np.float32


@pytest.mark.parametrize(("kind", "sign"), [("bump", -1), ("dent", 1)])
def test_points_move_along_their_rays_by_tenths_of_millimetres(kind, sign):
    clean = scan()
    diagonal = np.hypot(48, 48) * 1e-3
    for seed in range(5):
        broken = planted_in(kind, seed)
        distance = sign * moved(broken, clean)
        assert distance.min() > -1e-6
        assert 0.005 * 0.9 * diagonal < distance.max() < 0.03 * 1.01 * diagonal
        there = clean.xyz / np.linalg.norm(clean.xyz, axis=-1, keepdims=True)
        now = broken.xyz / np.linalg.norm(broken.xyz, axis=-1, keepdims=True)
        np.testing.assert_allclose(now, there, atol=1e-6)


def test_missing_points_are_zero_and_what_was_missing_stays_so():
    clean = scan()
    clean.xyz[30:40, 30:60] = 0
    for kind in KINDS:
        broken = planted_in(kind, 1, clean)
        assert not broken.xyz[30:40, 30:60].any()
    broken = planted_in("missing", 1, clean)
    np.testing.assert_array_equal(broken.xyz[broken.mask > 0], 0)


def test_the_colour_differs_by_what_opacity_and_contrast_promise():
    for seed in range(10):
        grey = planted_in("colour", seed, scan((128, 128, 128)))
        change = np.abs(grey.rgb.astype(int) - scan((128, 128, 128)).rgb).max()
        assert change >= 0.35 * 60 - 1


def test_equal_seeds_give_equal_bits_and_others_do_not():
    one, same, other = (
        planted_in("both", 5),
        planted_in("both", 5),
        planted_in("both", 6),
    )
    for field in ("rgb", "xyz", "mask"):
        np.testing.assert_array_equal(getattr(one, field), getattr(same, field))
    assert (one.mask != other.mask).any()


def test_a_sample_without_points_is_refused():
    empty = scan()._replace(xyz=np.zeros((SIDE, SIDE, 3), np.float32))
    with pytest.raises(DatasetError, match="nothing was measured"):
        planted_in("bump", 0, empty)


@pytest.fixture
def prepared(write, tmp_path):
    folder = write.whole(tmp_path / "data")
    parameters = {"image_size": 16, "mask_size": 32}
    return prepare(folder.parent, "box", "raw", parameters, tmp_path, format="npz")


def test_each_good_sample_stands_beside_its_twins(prepared, tmp_path):
    split = planted.open_planted(tmp_path / "data", prepared, Settings(twins=3))
    assert [row["label"] for row in split.samples] == [0, 1, 1, 1] * 2
    kinds = [row["defect"] for row in split.samples if row["label"]]
    assert kinds == ["colour", "bump", "dent", "missing", "both", "colour"]
    assert len({row["id"] for row in split.samples}) == split.dataset.size(SPLIT) == 8
    (batch,) = split.dataset.ordered(SPLIT, 8, 0)
    np.testing.assert_array_equal(batch.mask.any((1, 2, 3)), batch.label)
    assert batch.mask.shape == (8, 32, 32, 1) and batch.rgb.shape == (8, 16, 16, 3)
    (good,) = load_resident(prepared).ordered("validation", 2, 0)
    np.testing.assert_array_equal(batch.rgb[::4], good.rgb)
    np.testing.assert_array_equal(batch.xyz[::4], good.xyz)
    np.testing.assert_array_equal(batch.id[::4], good.id)
    with pytest.raises(DatasetError, match="expected planted, found 'test'"):
        split.dataset.size("test")


def test_it_is_made_once_and_anew_where_the_file_is_damaged(prepared, tmp_path):
    def arrays():
        split = planted.open_planted(tmp_path / "data", prepared)
        (batch,) = split.dataset.ordered(SPLIT, 6, 0)
        return batch

    first = arrays()
    (file,) = tmp_path.glob("*planted*.npz")
    stamp = file.stat().st_mtime_ns
    arrays()
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes()[:-200])
    again = arrays()
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.mask, again.mask)


def test_without_validation_a_share_of_train_is_held_out(prepared):
    assert planted.hosts(prepared, 0.4)[0] == "validation"
    samples = [r for r in prepared.manifest["samples"] if r["split"] != "validation"]
    bare = prepared._replace(manifest=prepared.manifest | {"samples": samples})
    split, numbers = planted.hosts(bare, 0.4)
    assert split == "train" and numbers.tolist() == [0, 2]
    for wrong in (0, 1, 0.99):
        with pytest.raises(DatasetError, match="planted:"):
            planted.hosts(bare, wrong)


def test_a_view_shows_the_chosen_samples_alone(prepared):
    whole = load_resident(prepared)
    view = whole.only("train", np.array([1, 3, 4])).only("train", np.array([0, 2]))
    assert view.size("train") == 2 and whole.size("train") == 5
    (batch,), (all_of_it,) = view.ordered("train", 3, 0), whole.ordered("train", 5, 0)
    assert batch.id.tolist() == [*all_of_it.id[[1, 4]], 0]
    endless = view.endless("train", 2, 0, 0)
    assert set(next(endless).id) == set(all_of_it.id[[1, 4]])


def test_unknown_kinds_and_kinds_without_points_are_refused(prepared, tmp_path):
    with pytest.raises(DatasetError, match="expected kinds of .* found \\['hole'\\]"):
        planted.open_planted(tmp_path / "data", prepared, Settings(kinds=("hole",)))
    fields = {n: f for n, f in prepared.manifest["fields"].items() if n != "xyz"}
    flat = prepared._replace(manifest=prepared.manifest | {"fields": fields})
    with pytest.raises(DatasetError, match="kinds of .'colour',. for this class"):
        planted.open_planted(tmp_path / "data", flat, Settings(kinds=("bump",)))
