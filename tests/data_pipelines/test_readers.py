"""Stream and resident readers: one order, padding, damage never goes unnoticed."""

import itertools

import jax
import numpy as np
import pytest

from data_pipelines.batches import check_batch
from data_pipelines.errors import DatasetError
from data_pipelines.order import endless_batches, epoch_order, own_rows
from data_pipelines.preprocess import prepare
from data_pipelines.resident import load_resident

stream = pytest.importorskip("data_pipelines.stream")


@pytest.fixture
def prepared(box, tmp_path):
    def prepared(format="tfds", recipe="ast"):
        size = {"image_size": 16, "mask_size": 24}
        return prepare(box.parent, "box", recipe, size, tmp_path, format=format)

    return prepared


def same(one, two) -> bool:
    a, b = (
        jax.tree.leaves(x._asdict(), is_leaf=lambda v: v is None) for x in (one, two)
    )
    assert len(a) == len(b)
    return all(
        (x is None and y is None) or (x.dtype == y.dtype and np.array_equal(x, y))
        for x, y in zip(a, b, strict=True)
    )


def take(batches, number: int) -> list:
    return list(itertools.islice(batches, number))


def test_epochs_are_permutations_that_depend_on_seed_and_epoch_alone():
    orders = [epoch_order(s, e, 50).tolist() for s in (0, 1) for e in (0, 1)]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(1, 1, 50).tolist() == orders[3]


def test_epochs_follow_without_a_gap():
    rows = np.concatenate(take(endless_batches(5, 3, 7, 0), 10))
    for epoch in range(6):
        assert sorted(rows[5 * epoch : 5 * epoch + 5]) == [0, 1, 2, 3, 4]
    small = take(endless_batches(2, 5, 0, 0), 2)
    assert np.bincount(np.concatenate(small)).tolist() == [5, 5]


@pytest.mark.parametrize("start", [0, 1, 17])
def test_stream_and_resident_agree_bit_for_bit(prepared, start):
    readers = [
        stream.open_stream(prepared()),
        load_resident(prepared()),
        load_resident(prepared("npz")),
    ]
    for split, size in (("train", 5), ("validation", 2), ("test", 4)):
        ordered = [list(r.ordered(split, 3, start % 2)) for r in readers]
        endless = [take(r.endless(split, 4, 3, start), 4) for r in readers]
        assert [r.size(split) for r in readers] == [size] * 3
        assert len(ordered[0]) == -(-size // 3) - start % 2
        for batches in (ordered, endless):
            for one, two, three in zip(*batches, strict=True):
                check_batch(one)
                assert same(one, two) and same(one, three)


def test_resumes_at_any_batch(prepared):
    reader = stream.open_stream(prepared())
    whole = take(reader.endless("train", 2, 11, 0), 9)
    for start in (1, 4, 8):
        for one, two in zip(
            whole[start:], take(reader.endless("train", 2, 11, start), 9), strict=False
        ):
            assert same(one, two)


@pytest.mark.parametrize("open_reader", [stream.open_stream, load_resident])
@pytest.mark.parametrize("batch_size", [2, 4])  # 5 samples: some shares are padding
def test_a_share_holds_the_pixels_of_its_own_rows_and_the_numbers_of_all(
    prepared, open_reader, batch_size
):
    whole = open_reader(prepared())
    both = [whole.share(process, 2) for process in (0, 1)]
    for name, arguments in (("ordered", (0,)), ("endless", (3, 1))):
        batches = [
            take(getattr(reader, name)("train", batch_size, *arguments), 3)
            for reader in (whole, *both)
        ]
        for full, *parts in zip(*batches, strict=True):
            for process, part in enumerate(parts):
                own = own_rows(batch_size, process, 2)
                other = own_rows(batch_size, 1 - process, 2)
                for field in ("weight", "id", "category", "label"):
                    expected = getattr(full, field)
                    assert getattr(part, field).dtype == expected.dtype
                    np.testing.assert_array_equal(getattr(part, field), expected)
                bare = {"weight": None, "id": None, "category": None, "label": None}
                pixels = jax.tree.leaves(part._replace(**bare))
                expected = jax.tree.leaves(full._replace(**bare))
                assert len(pixels) == len(expected) > 4
                for x, y in zip(pixels, expected, strict=True):
                    assert x.dtype == y.dtype and x.shape == y.shape
                    np.testing.assert_array_equal(x[own], y[own])
                    assert not x[other].any()


def test_a_share_reads_no_other_samples(prepared, monkeypatch):
    whole, read = stream.open_stream(prepared()), []
    take(whole.ordered("train", 4, 0), 1)  # which looks where all lie
    monkeypatch.setattr(stream, "_read", _noted(stream._read, read))
    take(whole.share(1, 2).ordered("train", 4, 0), 2)
    assert len(set(read)) == 2 < whole.size("train")  # rows 2 and 3; 6 and 7 are none


def _noted(function, said):
    def noted(argument):
        said.append(argument)
        return function(argument)

    return noted


def test_rows_of_a_batch_are_shared_in_order_and_equally():
    parts = [np.arange(12)[own_rows(12, i, 3)].tolist() for i in range(3)]
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    with pytest.raises(DatasetError, match="batch size 10 .* 4 processes"):
        own_rows(10, 1, 4)


def test_batch_holds_what_was_written(prepared, box):
    from PIL import Image

    data = prepared(recipe="raw")
    batch = next(stream.open_stream(data).ordered("test", 4, 0))
    assert batch.rgb.dtype == np.float32 and batch.rgb.max() <= 1
    assert batch.label.tolist() == [1, 1, 0, 0]
    assert batch.mask.shape == (4, 24, 24, 1)
    assert batch.mask.any((1, 2, 3)).tolist() == [True, True, False, False]
    assert batch.extras == {}
    assert batch.id.tolist() == [row["id"] for row in data.rows("test")]
    image = np.asarray(Image.open(box / "test/dent/rgb/000.png"), np.float64)
    blocks = image.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(batch.rgb[0] * 255 - blocks).max() < 0.51


def test_last_batch_is_padded(prepared):
    for reader in (stream.open_stream(prepared()), load_resident(prepared("npz"))):
        batches = list(reader.ordered("train", 4, 0))
        assert [b.weight.tolist() for b in batches] == [[1, 1, 1, 1], [1, 0, 0, 0]]
        assert all(len(leaf) == 4 for leaf in jax.tree.leaves(batches[1]._asdict()))
        assert not batches[1].rgb[1:].any() and not batches[1].id[1:].any()
        lone = list(reader.ordered("validation", 8, 0))
        assert len(lone) == 1 and lone[0].weight.sum() == 2


def test_single_sample(write, tmp_path):
    write.whole(tmp_path / "data", "one", train=1)
    data = prepare(tmp_path / "data", "one", "ast", {"image_size": 16}, tmp_path)
    for reader in (stream.open_stream(data), load_resident(data)):
        (batch,) = reader.ordered("train", 4, 0)
        assert batch.weight.tolist() == [1, 0, 0, 0]
        full = next(reader.endless("train", 4, 0, 5))
        assert full.weight.tolist() == [1, 1, 1, 1] and len(set(full.id)) == 1


def test_empty_split(box, tmp_path):
    import shutil

    shutil.rmtree(box / "test")
    for format, read in (("tfds", stream.open_stream), ("npz", load_resident)):
        size = {"image_size": 16}
        data = prepare(box.parent, "box", "ast", size, tmp_path, format=format)
        reader = read(data)
        assert reader.size("test") == 0 and list(reader.ordered("test", 2, 0)) == []
        with pytest.raises(DatasetError, match="empty split"):
            next(reader.endless("test", 2, 0, 0))
        with pytest.raises(DatasetError, match="split"):
            reader.size("testing")


def test_images_alone(box, tmp_path):
    import shutil

    for folder in box.glob("*/*/xyz"):
        shutil.rmtree(folder)
    for format, read in (("tfds", stream.open_stream), ("npz", load_resident)):
        size = {"image_size": 16}
        data = prepare(box.parent, "box", "ast", size, tmp_path, format=format)
        batch = next(read(data).ordered("train", 2, 0))
        check_batch(batch)
        assert batch.xyz is None and batch.depth is None and batch.extras == {}


@pytest.mark.parametrize("damage", ["flip", "cut", "whole records gone", "gone"])
@pytest.mark.parametrize("open_reader", [stream.open_stream, load_resident])
def test_damaged_tfds_shard_is_named(prepared, damage, open_reader):
    data = prepared()
    path = data.folder / data.manifest["shards"]["train"][0]
    hurt(path, damage, record=int(path.stat().st_size / 5))
    with pytest.raises(DatasetError) as error:
        list(open_reader(data).ordered("train", 2, 0))
    assert str(path) in str(error.value) and "remove" in str(error.value)


@pytest.mark.parametrize("damage", ["flip", "cut", "gone"])
def test_damaged_npz_shard_is_named(prepared, damage):
    data = prepared("npz")
    path = data.folder / data.manifest["shards"]["train"][0]
    hurt(path, damage)
    with pytest.raises(DatasetError) as error:
        list(load_resident(data).ordered("train", 2, 0))
    assert str(path) in str(error.value) and "remove" in str(error.value)


@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize(
    ("format", "open_reader"),
    [("tfds", stream.open_stream), ("tfds", load_resident), ("npz", load_resident)],
)
def test_records_are_counted_against_the_manifest(prepared, format, open_reader, more):
    """A whole and undamaged shard of another number of samples."""
    data = prepared(format)
    path = data.folder / data.manifest["shards"]["train"][0]
    if format == "npz":
        with np.load(path) as file:
            arrays = {n: np.concatenate([file[n]] * 2)[: 5 + more] for n in file.files}
        np.savez(path, **arrays)
    else:
        tf = stream.tf
        records = list(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        with tf.io.TFRecordWriter(str(path)) as writer:
            for record in (records * 2)[: 5 + more]:
                writer.write(record)
    with pytest.raises(DatasetError, match=f"expected 5 samples, found {5 + more}"):
        list(open_reader(data).ordered("train", 2, 0))


def hurt(path, damage: str, record: int = 0) -> None:
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    if damage == "cut":
        del data[len(data) * 2 // 3 :]
    if damage == "whole records gone":
        del data[3 * record :]
    path.write_bytes(data)
    if damage == "gone":
        path.unlink()


def test_stream_refuses_npz(prepared):
    with pytest.raises(DatasetError, match="load_resident"):
        stream.open_stream(prepared("npz"))


def test_npz_needs_no_tensorflow(box, tmp_path):
    import subprocess
    import sys

    program = """
import sys
from data_pipelines import unlabelled, validate
from data_pipelines.preprocess import prepare
from data_pipelines.resident import load_resident
size = {"image_size": 16}
data = prepare(sys.argv[1], "box", "ast", size, sys.argv[2], format="npz")
next(load_resident(data).endless("train", 2, 0, 0))
heavy = {"tensorflow", "tensorflow_datasets", "open3d", "matplotlib"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    words = [sys.executable, "-c", program, str(box.parent), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
