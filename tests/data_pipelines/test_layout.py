"""Finding samples: pairing by stem, faults by name, no way out of the root."""

import shutil

import pytest

from data_pipelines.errors import DatasetError
from data_pipelines.layout import categories, scan


def kinds(found) -> list[str]:
    return sorted(f.kind for f in found.faults if not f.warning)


def test_complete_class(box):
    found = scan(box.parent, "box")
    assert found.faults == ()
    assert [s.key for s in found.samples] == sorted(s.key for s in found.samples)
    assert len(found.split("train")) == 5
    assert {s.defect for s in found.split("test")} == {"dent", "good"}
    assert found.class_ids == {0: "good", 255: "dent", 254: "bump"}


@pytest.mark.parametrize("modality", ["rgb", "xyz", "gt"])
def test_missing_file_is_named(box, modality):
    next((box / "test/dent" / modality).glob("001.*")).unlink()
    found = scan(box.parent, "box")
    assert kinds(found) == [f"missing_{modality}"]
    assert f"test/dent/{modality}/001" in found.faults[0].message
    assert "test/dent/001" not in [s.key for s in found.samples]
    assert [s.key for s in found.incomplete] == ["test/dent/001"]


def test_good_samples_need_no_mask(box):
    shutil.rmtree(box / "test/good/gt")
    assert kinds(scan(box.parent, "box")) == []


def test_pairs_by_stem_not_by_order(box):
    xyz = box / "train/good/xyz"
    (xyz / "000.tiff").rename(xyz / "900.tiff")
    found = scan(box.parent, "box")
    assert kinds(found) == ["missing_rgb", "missing_xyz"]
    for sample in found.samples:
        assert sample.rgb.stem == sample.xyz.stem == sample.stem


def test_extra_files_are_listed_and_hidden_ones_are_not(box):
    (box / "train/good/rgb/notes.txt").write_text("x")
    (box / "train/good/rgb/.DS_Store").write_text("x")
    (box / "train/cracked").mkdir()
    assert kinds(scan(box.parent, "box")) == ["extra_file", "extra_file"]


def test_empty_class_and_missing_splits(box):
    shutil.rmtree(box / "train/good")
    (box / "train/good").mkdir()
    assert kinds(scan(box.parent, "box")) == ["empty_class"]
    shutil.rmtree(box / "train")
    shutil.rmtree(box / "test")
    found = scan(box.parent, "box")
    assert kinds(found) == ["empty_class", "missing_split"]
    assert any(f.warning and "split test" in f.message for f in found.faults)


def test_class_without_anomalies_is_a_warning(box):
    shutil.rmtree(box / "test/dent")
    found = scan(box.parent, "box")
    assert kinds(found) == []
    assert [f.kind for f in found.faults] == ["no_anomalies"]


def test_images_alone(box):
    for folder in box.glob("*/*/xyz"):
        shutil.rmtree(folder)
    found = scan(box.parent, "box")
    assert found.faults == ()
    assert all(s.xyz is None for s in found.samples)


@pytest.mark.parametrize("name", ["..", ".", "", "/etc", "box/../box", "a/b", "a\0b"])
def test_names_that_are_no_folder_of_the_root_are_refused(box, name):
    with pytest.raises(DatasetError, match="data.category"):
        scan(box.parent, name)


def test_links_out_of_the_root_are_refused(box, tmp_path):
    outside = tmp_path / "outside"
    shutil.copytree(box, outside)
    (box.parent / "link").symlink_to(outside)
    with pytest.raises(DatasetError, match="leads out"):
        scan(box.parent, "link")


def test_unknown_class_lists_the_known_ones(box):
    with pytest.raises(DatasetError, match="classes in .*: box"):
        scan(box.parent, "bix")


@pytest.mark.parametrize("name", ["größe 2", "a b", "a\nb", "部品"])
def test_unusual_names(write, tmp_path, name):
    write.whole(tmp_path, name)
    write.sample(tmp_path / name / "train/good", "ü \n1", 9)
    found = scan(tmp_path, name)
    assert categories(tmp_path) == [name]
    assert found.faults == () and len(found.split("train")) == 6


def test_broken_class_ids_are_a_warning(box):
    (box / "class_ids.json").write_text("[1")
    found = scan(box.parent, "box")
    assert found.class_ids is None
    assert [f.kind for f in found.faults] == ["class_ids"]
