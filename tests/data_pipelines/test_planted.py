"""The planted split of a class: its hosts, its twins, its cache."""

from collections import Counter

import numpy as np
import pytest

from data_pipelines import planted
from data_pipelines.errors import DatasetError
from data_pipelines.planted import SPLIT, Settings
from data_pipelines.planting import KINDS
from data_pipelines.preprocess import prepare
from data_pipelines.resident import load_resident

PARAMETERS = {"image_size": 16, "mask_size": 32}
FEW = Settings(each=2, kinds=("colour", "dent", "missing"), hold_out=0.4)


def prepared_in(folder, place, **more):
    return prepare(folder, "box", "raw", PARAMETERS, place, format="npz", **more)


def whole_split(split):
    size = split.dataset.size(SPLIT)
    (batch,) = split.dataset.ordered(SPLIT, size, 0)
    return batch


@pytest.fixture
def prepared(write, tmp_path):
    folder = write.whole(tmp_path / "data")
    return prepared_in(folder.parent, tmp_path)


def test_each_host_stands_beside_its_twins(prepared, tmp_path):
    split = planted.open_planted(tmp_path / "data", prepared, FEW)
    labels = [row["label"] for row in split.samples]
    assert labels == [0, 1, 1, 1, 0, 1, 1, 1]
    kinds = Counter(row["defect"] for row in split.samples)
    assert kinds == {"good": 2, "colour": 2, "dent": 2, "missing": 2}
    assert len({row["id"] for row in split.samples}) == 8
    batch = whole_split(split)
    np.testing.assert_array_equal(batch.mask.any((1, 2, 3)), batch.label)
    assert batch.mask.shape == (8, 32, 32, 1) and batch.rgb.shape == (8, 16, 16, 3)
    (train,) = load_resident(prepared).ordered("train", 5, 0)
    good = train.id.tolist().index(batch.id[0]), train.id.tolist().index(batch.id[4])
    np.testing.assert_array_equal(batch.rgb[::4], train.rgb[list(good)])
    np.testing.assert_array_equal(batch.xyz[::4], train.xyz[list(good)])
    with pytest.raises(DatasetError, match="expected planted, found 'test'"):
        split.dataset.size("test")


def test_hosts_come_from_train_without_what_is_reserved(prepared):
    assert planted.hosts(prepared, 0.4).tolist() == [0, 2]
    assert planted.hosts(prepared, 0.4, reserved=[0, 3]).tolist() == [1, 2]
    with pytest.raises(DatasetError, match="1 of 5 training samples are free"):
        planted.hosts(prepared, 0.2, reserved=[0, 1, 2, 3])
    for wrong in (0, 1, 0.99):
        with pytest.raises(DatasetError, match="planted: box:"):
            planted.hosts(prepared, wrong)


def test_other_hosts_are_other_samples_and_no_other_split_is_read(
    prepared, tmp_path, monkeypatch
):
    read = []
    real = planted.load_sample
    monkeypatch.setattr(planted, "load_sample", lambda f: read.append(f) or real(f))
    split = planted.open_planted(tmp_path / "data", prepared, FEW, reserved=[0])
    ids = [row["id"] for row in prepared.rows("train")]
    found = {row["id"] for row in split.samples if not row["label"]}
    assert found == {ids[1], ids[3]}
    assert {files.split for files in read} == {"train"}


def test_it_is_made_once_and_anew_where_the_file_is_damaged(prepared, tmp_path):
    def arrays():
        return whole_split(planted.open_planted(tmp_path / "data", prepared, FEW))

    first = arrays()
    (file,) = tmp_path.glob("*planted*.npz")
    stamp = file.stat().st_mtime_ns
    arrays()
    assert file.stat().st_mtime_ns == stamp
    file.write_bytes(file.read_bytes()[:-200])
    again = arrays()
    np.testing.assert_array_equal(first.rgb, again.rgb)
    np.testing.assert_array_equal(first.mask, again.mask)


def test_what_sees_pictures_alone_gets_the_same_defects(write, tmp_path):
    root = write.whole(tmp_path / "data").parent
    both, pictures = (
        planted.open_planted(root, prepared_in(root, tmp_path, points=points), FEW)
        for points in (True, False)
    )
    one, other = (
        [(row["id"], row["defect"], row["stem"]) for row in split.samples]
        for split in (both, pictures)
    )
    assert one == other
    one, other = whole_split(both), whole_split(pictures)
    assert other.xyz is None and one.xyz is not None
    np.testing.assert_array_equal(one.rgb, other.rgb)
    np.testing.assert_array_equal(one.mask, other.mask)


def test_kinds_follow_from_the_files_and_others_are_refused(prepared, tmp_path):
    root = tmp_path / "data"
    every = planted.open_planted(root, prepared, Settings(each=1, hold_out=0.4))
    assert {row["defect"] for row in every.samples} == {"good", *KINDS}
    with pytest.raises(DatasetError, match="expected kinds of .* found \\['hole'\\]"):
        planted.open_planted(root, prepared, Settings(kinds=("hole",)))
    for files in root.glob("box/*/*/rgb/*"):
        files.unlink()
    for folder in root.glob("box/*/*/rgb"):
        folder.rmdir()
    points = prepared_in(root, tmp_path)
    split = planted.open_planted(root, points, FEW._replace(kinds=()))
    assert "dent" in {row["defect"] for row in split.samples}
    assert "stain" not in {row["defect"] for row in split.samples}
    with pytest.raises(DatasetError, match="for box, which has xyz; found .'stain'."):
        planted.open_planted(root, points, Settings(kinds=("stain", "dent")))


def test_a_view_shows_the_chosen_samples_alone(prepared):
    whole = load_resident(prepared)
    view = whole.only("train", np.array([1, 3, 4])).only("train", np.array([0, 2]))
    assert view.size("train") == 2 and whole.size("train") == 5
    (batch,), (all_of_it,) = view.ordered("train", 3, 0), whole.ordered("train", 5, 0)
    assert batch.id.tolist() == [*all_of_it.id[[1, 4]], 0]
    endless = view.endless("train", 2, 0, 0)
    assert set(next(endless).id) == set(all_of_it.id[[1, 4]])
