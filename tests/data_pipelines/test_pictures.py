"""Pictures of a pretraining, from a folder and procedural ones."""

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines.batches import check_batch
from data_pipelines.errors import DatasetError
from data_pipelines.pictures import Joined, make_pictures, read_pictures


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "below").mkdir()
    for number in range(5):
        level = 40 * number
        name = f"below/{number}.png" if number % 2 else f"{number}.jpg"
        Image.new("L", (20 + number, 30), level).save(tmp_path / name)
    noise = generator.integers(0, 256, (24, 48, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "z.png")
    return tmp_path


def test_a_folder_is_read_in_order_of_path_at_one_size(folder):
    pictures = read_pictures(folder, 16)
    assert pictures.size("pictures") == 6
    first, last = pictures.ordered("pictures", 4, 0)
    check_batch(first)
    assert first.rgb.shape == (4, 16, 16, 3) and first.xyz is None
    levels = np.round(255 * first.rgb[:, 3, 3, 0])
    np.testing.assert_allclose(levels, [0, 80, 160, 40], atol=1)  # 0, 2, 4, below/1
    np.testing.assert_array_equal(last.weight, [1, 1, 0, 0])
    with Image.open(folder / "z.png") as picture:
        expected = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(np.round(255 * last.rgb[1]), expected)
    assert len(set(first.id.tolist())) == 4


def test_endless_batches_can_begin_anywhere_and_visit_every_picture(folder):
    pictures = read_pictures(folder, 16)

    def ids(start, count):
        batches = pictures.endless("pictures", 4, 3, start)
        return [next(batches).id.tolist() for _ in range(count)]

    whole = ids(0, 6)
    assert ids(4, 2) == whole[4:]
    epoch = [number for batch in whole[:3] for number in batch]
    assert len(set(epoch[:6])) == len(set(epoch[6:])) == 6


def test_a_picture_that_cannot_be_read_is_named(folder):
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken.png"):
        list(read_pictures(folder, 16).ordered("pictures", 8, 0))
    with pytest.raises(ValueError, match="expected a folder"):
        read_pictures(folder / "nowhere", 16)


def test_procedural_pictures_depend_on_the_key_alone():
    one, same, other = (make_pictures(jax.random.key(k), 3, 16) for k in (0, 0, 1))
    (a,), (b,), (c,) = (list(p.ordered("pictures", 3, 0)) for p in (one, same, other))
    check_batch(a)
    np.testing.assert_array_equal(a.rgb, b.rgb)
    assert not np.array_equal(a.rgb, c.rgb)
    assert a.id.tolist() == [0, 1, 2]


def test_joined_sends_each_split_to_its_reader(folder):
    class Samples:
        def size(self, split):
            return {"train": 7}[split]

    joined = Joined(Samples(), read_pictures(folder, 16))
    assert (joined.size("train"), joined.size("pictures")) == (7, 6)
    assert next(joined.endless("pictures", 2, 0, 0)).rgb.shape == (2, 16, 16, 3)
    with pytest.raises(DatasetError, match="pictures"):
        read_pictures(folder, 16).size("train")
