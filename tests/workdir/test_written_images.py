import numpy as np
import pytest
from disturbed import small_files
from PIL import Image

from ad3d_jax.workdir.disk import DiskFullError
from ad3d_jax.workdir.images import write_image


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_an_image_comes_back(tmp_path, shape):
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    write_image(tmp_path / "a.png", image)
    with Image.open(tmp_path / "a.png") as found:
        assert found.format == "PNG"
        np.testing.assert_array_equal(np.asarray(found), image)


def test_a_full_disk_leaves_the_earlier_image(tmp_path):
    path = tmp_path / "a.png"
    write_image(path, np.zeros((2, 2), np.uint8))
    before = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    with small_files(100_000):
        with pytest.raises(DiskFullError, match=f"^{path}: no space is left"):
            write_image(path, noise)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]
