"""Sources by name: all classes of a root, natural images, what a system brings."""

import importlib.util
import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest

from ad3d_jax.base import Batch
from data_pipelines import images, sources
from data_pipelines.errors import DatasetError
from data_pipelines.order import endless_batches
from data_pipelines.reader import Held, of_batch
from data_pipelines.resident import load_resident
from data_pipelines.sources import SOURCES, Chained, Images, open_data, sample_set

SMALL = {"image_size": 16, "reader": "resident"}


@pytest.fixture
def root(write, tmp_path):
    """Returns a root of three classes of 2, 5 and 3 training samples."""
    for name, train in (("cube", 5), ("ball", 2), ("disc", 3)):
        write.whole(tmp_path / "data", name, train)
        for k in range(train):  # no two images of the root are equal
            seed = 1000 * len(name) + 10 * ord(name[0]) + k
            write.sample(tmp_path / "data" / name / "train/good", f"{k:03d}", seed)
    return tmp_path / "data"


def open_(root, tmp_path, recipe="ast", **more):
    return open_data(root, "cube", recipe, cache=tmp_path, **{**SMALL, **more})


@pytest.mark.parametrize("reader", sources.READERS)
def test_the_training_samples_of_all_classes_in_order_of_name(root, tmp_path, reader):
    data = open_(root, tmp_path, reader=reader)
    assert data.dataset.size("train_all") == 10
    (batch,) = data.dataset.ordered("train_all", 10, 0)
    assert batch.category.tolist() == [0, 0, 1, 1, 1, 1, 1, 2, 2, 2]
    assert len(set(batch.id.tolist())) == 10
    own = batch.category == data.manifest["category_index"]
    (alone,) = data.dataset.ordered("train", 5, 0)
    for name in ("rgb", "xyz", "depth", "foreground", "id", "category"):
        np.testing.assert_array_equal(
            getattr(batch, name)[own], getattr(alone, name), name
        )
    # Another class is prepared with what its own samples taught.
    ball = open_data(root, "ball", "ast", cache=tmp_path, **SMALL)
    assert ball.manifest["params"]["tau"] != data.manifest["params"]["tau"]
    np.testing.assert_array_equal(
        batch.extras["height_normalised"][:2],
        next(ball.dataset.ordered("train", 2, 0)).extras["height_normalised"],
    )


def test_a_class_in_memory_needs_no_tensorflow(root, tmp_path):
    program = """
import sys
sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from data_pipelines.errors import DatasetError
from data_pipelines.sources import open_data
options = {"image_size": 16, "cache": sys.argv[2]}
data = open_data(sys.argv[1], "cube", "ast", reader="resident", **options)
next(data.dataset.endless("train", 2, 0, 0))
"""
    words = [sys.executable, "-c", program, str(root), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_stream_without_tensorflow_names_the_other_reader(
    root, tmp_path, monkeypatch
):
    missing = {"tensorflow": None}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: missing[name])
    with pytest.raises(DatasetError, match="data.reader=resident"):
        open_(root, tmp_path, reader="stream")


def test_its_endless_batches_follow_the_one_order_and_can_be_shared(root, tmp_path):
    dataset = open_(root, tmp_path).dataset
    (whole,) = dataset.ordered("train_all", 10, 0)
    batches = dataset.endless("train_all", 4, 7, 2)
    shared = dataset.share(1, 2).endless("train_all", 4, 7, 2)
    order = endless_batches(10, 4, 7, 2)
    for numbers, batch, part in itertools.islice(
        zip(order, batches, shared, strict=True), 5
    ):
        np.testing.assert_array_equal(batch.id, whole.id[numbers])
        np.testing.assert_array_equal(batch.rgb, whole.rgb[numbers])
        np.testing.assert_array_equal(part.id, batch.id)
        np.testing.assert_array_equal(part.rgb[2:], batch.rgb[2:])
        assert not part.rgb[:2].any()
    few = dataset.only("train_all", np.array([9, 0, 4]))
    (batch,) = few.ordered("train_all", 3, 0)
    np.testing.assert_array_equal(batch.id, whole.id[[9, 0, 4]])
    np.testing.assert_array_equal(batch.xyz, whole.xyz[[9, 0, 4]])


def test_a_root_of_unlike_classes_is_refused(root, tmp_path):
    import shutil

    for folder in (root / "disc").glob("*/*/xyz"):
        shutil.rmtree(folder)
    data = open_(root, tmp_path)
    with pytest.raises(DatasetError, match="train_all: .* in ball and .* in disc"):
        data.dataset.size("train_all")


def test_nothing_is_opened_before_it_is_asked_for(root, tmp_path, monkeypatch):
    prepared = []
    real = sources.prepare
    monkeypatch.setattr(
        sources, "prepare", lambda *a, **k: prepared.append(a[1]) or real(*a, **k)
    )
    data = open_(root, tmp_path)
    assert data.dataset.size("train") == 5 and prepared == ["cube"]
    data.dataset.size("train_all")
    assert prepared == ["cube", "ball", "disc"]


def test_natural_images_stand_beside_the_class(root, tmp_path):
    natural = Images(jax.random.key(0), "", 3, 20)
    dataset = open_(root, tmp_path, natural=natural).dataset
    (batch,) = dataset.ordered("images", 3, 0)
    assert batch.rgb.shape == (3, 20, 20, 3) and batch.xyz is None
    (same,) = (
        open_(root, tmp_path)
        .dataset.joined({"images": lambda: images.procedural(natural.key, 3, 20)})
        .ordered("images", 3, 0)
    )
    np.testing.assert_array_equal(batch.rgb, same.rgb)
    with pytest.raises(DatasetError, match="train_all, found 'images'"):
        open_(root, tmp_path).dataset.size("images")


def test_a_system_brings_a_source_of_its_own(root, tmp_path):
    def scenes():
        xyz = np.arange(4 * 6, dtype=np.float32).reshape(4, 2, 1, 3)
        return Held({"xyz": xyz}, {"id": np.arange(4, dtype=np.int32)})

    dataset = open_(root, tmp_path, own={"scenes": scenes}).dataset
    first, last = dataset.ordered("scenes", 3, 0)
    assert first.rgb is None and first.xyz.shape == (3, 2, 1, 3)
    assert last.weight.tolist() == [1, 0, 0] and last.xyz[0, 1, 0, 2] == 23
    assert set(SOURCES) == {
        *("train", "validation", "calibration", "train_all", "images"),
    }


def test_a_batch_is_a_source(root, tmp_path):
    (batch,) = open_(root, tmp_path).dataset.ordered("test", 4, 0)
    source = of_batch(batch)
    (again,) = (
        open_(root, tmp_path)
        .dataset.joined({"again": lambda: source})
        .ordered("again", 4, 0)
    )
    assert isinstance(again, Batch)
    for one, two in zip(jax.tree.leaves(batch), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(one, two)


def test_chained_sources_without_rows(root, tmp_path):
    one = of_batch(next(load_resident(open_(root, tmp_path)[0]).ordered("train", 5, 0)))
    both = Chained([one, one])
    assert both.size() == 10
    assert both.read(np.array([], int))["rgb"].shape == (0, 16, 16, 3)
    assert both.facts(np.array([], int))["id"].shape == (0,)


def test_wrong_names_are_refused_at_once(root, tmp_path):
    with pytest.raises(DatasetError, match=r"data\.reader.*stream or resident.*'disk'"):
        open_(root, tmp_path, reader="disk")
    with pytest.raises(DatasetError, match=r"data\.recipe"):
        open_(root, tmp_path, recipe="bare")
    with pytest.raises(DatasetError, match="has no 'cube'"):
        sample_set(tmp_path, "cube", 32, {})


def test_the_sample_set_is_made_for_one_class_or_for_all(tmp_path):
    counts = {"train": 1, "validation": 0, "test_good": 0, "test_per_defect": 0}
    root = sample_set(tmp_path, "biscuit", 32, counts)
    assert [path.name for path in root.iterdir()] == ["biscuit"]
    assert sample_set(tmp_path, "biscuit", 32, counts, whole=True) == root
    data = open_data(root, "biscuit", "raw", cache=tmp_path, **SMALL)
    assert data.dataset.size("train_all") == len(list(root.iterdir())) > 1
