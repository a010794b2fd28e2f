"""Finding samples: pairing by stem, faults by name, no way out of the root."""

import shutil

import pytest

from data_pipelines.errors import DatasetError
from data_pipelines.layout import categories, scan, strangers


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


@pytest.mark.parametrize("text", ["[1", "[" * 100_000, "3", '{"a": "b"}', "\udcff"])
def test_broken_class_ids_are_a_warning(box, text):
    path = box / "class_ids.json"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")
    found = scan(box.parent, "box")
    assert found.class_ids is None
    assert [f.kind for f in found.faults] == ["class_ids"]


def warnings(found) -> list[str]:
    return sorted(f.kind for f in found.faults if f.warning)


@pytest.mark.parametrize(
    "name", ["Thumbs.db", "desktop.ini", ".DS_Store", "._000.png", "ehthumbs.db"]
)
def test_rubbish_of_file_managers_is_passed_over(box, name):
    for place in ("", "test", "test/dent", "train/good", "train/good/rgb"):
        (box / place / name).write_bytes(b"x")
    (box / "train/good/rgb/@eaDir").mkdir()
    assert scan(box.parent, "box").faults == ()


def test_images_directly_in_a_defect_folder_are_named(box, write):
    """None of them becomes a sample."""
    write.sample(box / "test/bump", "000", 9, gt=255)
    (box / "test/bump/rgb/000.png").rename(box / "test/bump/000.png")
    for name in ("rgb", "xyz", "gt"):
        shutil.rmtree(box / "test/bump" / name)
    found = scan(box.parent, "box")
    assert kinds(found) == ["extra_file", "no_sample"]
    assert all("test/bump" in str(fault) for fault in found.faults)


@pytest.mark.parametrize("name", ["pointcloud", "Depth", "XYZ"])
def test_a_folder_of_another_name_is_named_once(box, name):
    """Cases 13 and 14."""
    for path in list(box.glob("*/*/xyz")):
        path.rename(path.with_name(name))
    (box / "camera.json").write_text("{}")
    found = scan(box.parent, "box")
    assert kinds(found) == [] and warnings(found) == ["not_read"] * 2
    said = "\n".join(map(str, found.faults))
    assert f"good/{name}" in said or f"dent/{name}" in said
    assert "3 others of its name" in said and "camera.json" in said


@pytest.mark.parametrize("name", ["Good", "OK", "normal"])
def test_good_samples_under_another_name_are_not_scored_as_defects(box, name):
    (box / "test/dent").rename(box / "test" / name)
    found = scan(box.parent, "box")
    assert kinds(found) == ["extra_file"] and "or good for good" in str(found.faults)
    assert {s.defect for s in found.split("test")} == {"good"}


def test_nested_defects_are_one_sentence(box):
    (box / "test/all").mkdir()
    (box / "test/dent").rename(box / "test/all/dent")
    found = scan(box.parent, "box")
    assert kinds(found) == ["no_sample"] and "move it up" in str(found.faults[0])


def test_files_beside_the_splits_are_named_once_a_kind(box):
    for k in range(5):
        (box / f"{k}.png").write_bytes(b"x")
    (fault,) = scan(box.parent, "box").faults
    assert fault.warning and "nor are 4 others of its kind" in fault.message


def test_a_defect_folder_without_samples_is_named(box):
    (box / "test/bump").mkdir()
    assert warnings(scan(box.parent, "box")) == ["no_sample"]
    (box / "test/bump/pictures").mkdir()
    found = scan(box.parent, "box")
    assert kinds(found) == ["no_sample"] and "holds pictures" in str(found.faults)


def test_a_folder_without_train_is_no_class(box):
    (box.parent / "notes").mkdir()
    for name in ("camera.json", "Thumbs.db", "LICENSE.txt"):
        (box.parent / name).write_text("x")
    found = strangers(box.parent)
    assert [fault.path.rpartition("/")[2] for fault in found] == [
        "camera.json",
        "notes",
    ]
    assert all(fault.warning for fault in found)


def test_masks_of_training_samples_are_not_read_and_named(box):
    (box / "train/good/gt").mkdir()
    shutil.copy(box / "test/dent/gt/000.png", box / "train/good/gt")
    found = scan(box.parent, "box")
    assert warnings(found) == ["not_read"]
    assert "train/good/gt: is not read; expected rgb, xyz" in str(found.faults[0])


@pytest.mark.parametrize("place", ["test", "test/dent", "test/dent/xyz"])
def test_links_are_followed_within_the_root_alone(box, tmp_path, place):
    (box / place).rename(box.parent / "moved")
    (box / place).symlink_to(box.parent / "moved")
    assert scan(box.parent, "box").faults == ()
    (box.parent / "moved").rename(tmp_path / "outside")
    (box / place).unlink()
    (box / place).symlink_to(tmp_path / "outside")
    found = scan(box.parent, "box")
    assert "link" in kinds(found)
    assert not any(s.defect == "dent" for s in found.samples)


def test_a_file_that_leads_out_and_a_link_in_a_circle_are_named(box, tmp_path):
    (tmp_path / "secret.png").write_bytes(b"x")
    file = box / "train/good/rgb/000.png"
    file.unlink()
    file.symlink_to(tmp_path / "secret.png")
    (box / "train/good/rgb/100.png").symlink_to(box / "train/good/rgb/100.png")
    assert kinds(scan(box.parent, "box")) == ["extra_file", "link", "missing_rgb"]
