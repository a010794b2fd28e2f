"""Natural images of a pretraining, from a folder and procedural ones."""

import jax
import numpy as np
import pytest
from PIL import Image

from data_pipelines import images
from data_pipelines.batches import check_batch
from data_pipelines.reader import Reader


def read(folder, size):
    return Reader({"images": lambda: images.Folder(folder, size)})


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
    reader = read(folder, 16)
    assert reader.size("images") == 6
    first, last = reader.ordered("images", 4, 0)
    check_batch(first)
    assert first.rgb.shape == (4, 16, 16, 3) and first.xyz is None
    levels = np.round(255 * first.rgb[:, 3, 3, 0])
    np.testing.assert_allclose(levels, [0, 80, 160, 40], atol=1)  # 0, 2, 4, below/1
    np.testing.assert_array_equal(last.weight, [1, 1, 0, 0])
    with Image.open(folder / "z.png") as image:
        expected = np.asarray(image.resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(np.round(255 * last.rgb[1]), expected)
    assert len(set(first.id.tolist())) == 4


def test_endless_batches_can_begin_anywhere_and_visit_every_image(folder):
    reader = read(folder, 16)

    def ids(start, count):
        batches = reader.endless("images", 4, 3, start)
        return [next(batches).id.tolist() for _ in range(count)]

    whole = ids(0, 6)
    assert ids(4, 2) == whole[4:]
    epoch = [number for batch in whole[:3] for number in batch]
    assert len(set(epoch[:6])) == len(set(epoch[6:])) == 6


def test_an_image_that_cannot_be_read_is_named(folder):
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.png"):
        list(read(folder, 16).ordered("images", 8, 0))
    with pytest.raises(ValueError, match="expected a folder"):
        read(folder / "nowhere", 16).size("images")


def test_procedural_images_depend_on_the_key_alone():
    made = (images.procedural(jax.random.key(k), 3, 16) for k in (0, 0, 1))
    readers = [Reader({"images": lambda source=source: source}) for source in made]
    (a,), (b,), (c,) = (list(r.ordered("images", 3, 0)) for r in readers)
    check_batch(a)
    np.testing.assert_array_equal(a.rgb, b.rgb)
    assert not np.array_equal(a.rgb, c.rgb)
    assert a.id.tolist() == [0, 1, 2]


def test_a_share_decodes_its_own_images_and_knows_the_ids_of_all(folder, monkeypatch):
    whole = read(folder, 16)
    (full, _), decoded = whole.ordered("images", 4, 0), []
    real = images.read_image
    monkeypatch.setattr(
        images, "read_image", lambda *a: decoded.append(a[0]) or real(*a)
    )
    part = next(whole.share(1, 2).ordered("images", 4, 0))
    np.testing.assert_array_equal(part.id, full.id)
    np.testing.assert_array_equal(part.rgb[2:], full.rgb[2:])
    assert not part.rgb[:2].any()
    assert len(decoded) == 2
