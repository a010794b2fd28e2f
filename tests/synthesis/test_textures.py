import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import pdist

from ad3d_jax.synthesis.textures import (
    FAMILIES,
    Ground,
    load_textures,
    procedural_textures,
)

make = jax.jit(procedural_textures, static_argnums=(1, 2))


def test_textures_differ_from_each_other_and_within():
    textures = np.asarray(make(jax.random.key(0), 96, 32))
    assert textures.shape == (96, 32, 32, 3) and textures.dtype == np.uint8
    contrast = textures.mean(-1).std((1, 2))
    assert np.median(contrast) > 15 and (contrast < 2).mean() < 0.1
    grey = textures.mean(-1)
    assert grey.min() < 20 and grey.max() > 235  # reaches beyond normalised depth
    assert pdist(textures.mean((1, 2)), "chebyshev").min() > 0
    assert textures.mean((1, 2)).std(0).min() > 30


def test_a_texture_depends_on_key_and_place_alone():
    few, many = make(jax.random.key(0), 3, 32), make(jax.random.key(0), 96, 32)
    np.testing.assert_array_equal(few, many[:3])
    assert np.any(np.asarray(make(jax.random.key(2), 3, 32)) != few)


@pytest.mark.parametrize("family", FAMILIES)
def test_families_give_finite_fields_that_vary(family):
    ramp = jnp.linspace(0.0, 1.0, 24)
    y, x = jnp.meshgrid(ramp, ramp, indexing="ij")
    lattice = jax.random.uniform(jax.random.key(0), (3, 64, 64))
    field = family(Ground(jnp.full(4, 0.4), y, x, jnp.sin(7 * x * y), lattice))
    assert field.shape == (24, 24) and jnp.all(jnp.isfinite(field))
    assert float(jnp.std(field)) > 0.05


@pytest.fixture
def folder(tmp_path):
    for index, name in enumerate(["b/2.jpg", "a/10.png", "a/3.PNG", "c.bmp"]):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        mode = "L" if name == "c.bmp" else "RGB"
        colour = 60 * index if mode == "L" else (60 * index,) * 3
        Image.new(mode, (10 + index, 8), colour).save(path)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    return tmp_path


def test_a_folder_is_read_in_order_of_path(folder):
    textures = load_textures(folder, 6)
    assert textures.shape == (4, 6, 6, 3) and textures.dtype == np.uint8
    found = textures[:, 0, 0, 0].astype(int)  # a/10, a/3, b/2, c
    np.testing.assert_allclose(found, [60, 120, 0, 180], atol=2)


def test_a_limit_takes_a_choice_by_seed(folder):
    choices = [load_textures(folder, 4, 2, seed)[:, 0, 0, 0] for seed in range(8)]
    assert all(len(c) == 2 and c[0] != c[1] for c in choices)
    np.testing.assert_array_equal(
        choices[3], load_textures(folder, 4, 2, 3)[:, 0, 0, 0]
    )
    assert len({tuple(c) for c in choices}) > 1


def test_unreadable_textures_are_named(folder, tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load_textures(tmp_path / "nowhere", 4)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="empty"):
        load_textures(tmp_path / "empty", 4)
    (folder / "broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="broken.png"):
        load_textures(folder, 4)


def test_textures_are_opened_within_limits_and_by_content(folder):
    """An EPS in name a PNG would be handed to Ghostscript."""
    bad = folder / "bad.png"
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    for write in (
        lambda: bad.write_bytes(eps),
        lambda: Image.new("L", (13_000, 13_000)).save(bad),
        lambda: Image.new("I;16", (20, 20)).save(bad),
        lambda: Image.new("L", (20, 20)).save(bad, "GIF"),
    ):
        write()
        with pytest.raises(ValueError, match="textures: cannot read .*bad.png"):
            load_textures(folder, 4)
