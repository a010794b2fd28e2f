import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.synthesis.blend import blend, cut_out
from ad3d_jax.synthesis.rgbd import (
    BLEND,
    CUT_OUT,
    NORMAL,
    Corruption,
    corrupt,
    rotate_images,
)

ROWS = 64  # one shape for most tests, so that few programs are compiled
EVERYWHERE = Corruption(threshold=-10.0)  # every mask is the whole foreground


def pair(rows, side=16):
    generator = np.random.default_rng(0)
    rgb = generator.random((rows, side, side, 3)).astype(np.float32)
    depth = (0.2 + 0.6 * generator.random((rows, side, side, 1))).astype(np.float32)
    foreground = np.zeros((rows, side, side, 1), bool)
    foreground[:, 2:-3, 3:-2] = True
    return rgb, depth, foreground


def textures(side=16, count=3):
    return np.random.default_rng(1).integers(0, 256, (count, side, side, 3), np.uint8)


def keys(rows, seed=0):
    return jax.random.split(jax.random.key(seed), rows)


def of_pair(function):
    """Returns the function of a mapping as one of (rgb, depth), either perhaps None."""

    def call(keys, rgb, depth, *rest):
        pair = {"rgb": rgb, "depth": depth}
        return function(keys, {m: x for m, x in pair.items() if x is not None}, *rest)

    return call


run = jax.jit(of_pair(corrupt))
turn = jax.jit(of_pair(rotate_images))


def test_blend_and_cut_out_by_hand():
    image, texture = jnp.full((1, 2, 1), 0.4), jnp.full((1, 2, 1), 1.0)
    mask = jnp.array([0.0, 1.0]).reshape(1, 2, 1)
    blended = blend(image, texture, mask, 0.25)
    np.testing.assert_allclose(
        blended.ravel(), [0.4, 0.75 * 1.0 + 0.25 * 0.4], rtol=1e-6
    )
    np.testing.assert_allclose(cut_out(image, mask).ravel(), [0.4, 0.0])


def test_case_frequencies():
    rows = 4000
    _, depth, foreground = pair(rows, 4)
    foreground[:] = True
    out = run(keys(rows), None, depth, foreground, textures(4), EVERYWHERE)
    share = np.bincount(out.cases["depth"], minlength=3) / rows
    np.testing.assert_allclose(share, [0.5, 0.25, 0.25], atol=0.03)
    assert set(out.altered) == set(out.cases) == {"depth"}


def test_modalities_agree_on_anomalous_and_differ_in_case():
    rows = 1200
    rgb, depth, foreground = pair(rows, 8)
    parameters = EVERYWHERE._replace(p_normal=0.2, p_cut_out=0.6)
    out = run(keys(rows), rgb, depth, foreground, textures(8), parameters)
    normal = np.asarray(out.cases["rgb"]) == NORMAL
    np.testing.assert_array_equal(normal, np.asarray(out.cases["depth"]) == NORMAL)
    assert abs(normal.mean() - 0.2) < 0.04
    cuts = [
        np.asarray(c)[~normal] == CUT_OUT
        for c in (out.cases["rgb"], out.cases["depth"])
    ]
    assert abs(cuts[0].mean() - 0.75) < 0.05 and abs(cuts[1].mean() - 0.75) < 0.05
    assert abs((cuts[0] & cuts[1]).mean() - 0.75**2) < 0.06


def test_one_image_of_a_pair_may_be_spared():
    rows = 2000
    rgb, depth, foreground = pair(rows, 4)
    foreground[:] = True
    parameters = EVERYWHERE._replace(p_normal=0.2, p_single=0.6)
    out = jax.device_get(
        run(keys(rows), rgb, depth, foreground, textures(4), parameters)
    )
    anomalous = out.mask.any((1, 2, 3))
    assert anomalous.mean() == pytest.approx(0.8, abs=0.03)
    no_rgb = anomalous & (out.cases["rgb"] == NORMAL)
    no_depth = anomalous & (out.cases["depth"] == NORMAL)
    assert not np.any(no_rgb & no_depth)
    assert no_rgb.sum() / anomalous.sum() == pytest.approx(0.3, abs=0.04)
    assert no_depth.sum() / anomalous.sum() == pytest.approx(0.3, abs=0.04)
    np.testing.assert_array_equal(out.altered["rgb"][no_rgb], rgb[no_rgb])
    np.testing.assert_array_equal(out.altered["depth"][no_depth], depth[no_depth])
    assert np.any(out.altered["rgb"][no_depth] != rgb[no_depth], axis=(1, 2, 3)).all()


def test_each_case_does_what_it_says():
    rgb, depth, foreground = pair(ROWS)
    grey = np.full((3, 16, 16, 3), 255, np.uint8)  # depth texture 1 everywhere
    out = run(keys(ROWS), rgb, depth, foreground, grey, EVERYWHERE)
    assert {NORMAL, CUT_OUT, BLEND} == set(np.asarray(out.cases["depth"]).tolist())
    betas = []
    for row in range(ROWS):
        mask = np.asarray(out.mask[row]) > 0
        case = int(out.cases["depth"][row])
        np.testing.assert_array_equal(mask, foreground[row] & (case != NORMAL))
        outside = ~mask[..., 0]
        np.testing.assert_array_equal(
            out.altered["rgb"][row][outside], rgb[row][outside]
        )
        np.testing.assert_array_equal(
            out.altered["depth"][row][outside], depth[row][outside]
        )
        if case == CUT_OUT:
            assert not np.any(out.altered["depth"][row][mask])
        if case == BLEND:
            beta = (1 - out.altered["depth"][row][mask]) / (1 - depth[row][mask])
            assert np.ptp(beta) < 1e-4
            betas.append(float(beta.mean()))
        if out.cases["rgb"][row] == CUT_OUT:
            assert not np.any(out.altered["rgb"][row][~outside])
        if out.cases["rgb"][row] == BLEND:
            assert np.any(np.abs(out.altered["rgb"][row] - rgb[row])[~outside] > 0.01)
    assert min(betas) >= 0 and max(betas) <= 0.8 + 1e-5 and np.ptp(betas) > 0.4


def test_mask_lies_on_the_foreground_and_an_empty_one_is_normal():
    rgb, depth, foreground = pair(ROWS)
    foreground[:16] = False
    parameters = Corruption(p_normal=0.0, threshold=0.4)
    out = run(keys(ROWS), rgb, depth, foreground, textures(), parameters)
    mask = np.asarray(out.mask)
    assert mask.dtype == np.float32 and set(np.unique(mask)) == {0.0, 1.0}
    assert not np.any(mask * ~foreground)
    empty = ~mask.any((1, 2, 3))
    assert empty[:16].all() and 0 < empty[16:].sum() < 40
    np.testing.assert_array_equal(empty, np.asarray(out.cases["depth"]) == NORMAL)
    np.testing.assert_array_equal(out.altered["rgb"][empty], rgb[empty])
    np.testing.assert_array_equal(out.altered["depth"][empty], depth[empty])


def test_a_row_depends_on_its_key_alone():
    rgb, depth, foreground = pair(ROWS)
    whole = run(keys(ROWS), rgb, depth, foreground, textures(), EVERYWHERE)
    order = np.array([40, 0])
    part = run(
        keys(ROWS)[order],
        rgb[order],
        depth[order],
        foreground[order],
        textures(),
        EVERYWHERE,
    )
    for before, after in zip(*map(jax.tree.leaves, (whole, part)), strict=True):
        np.testing.assert_allclose(before[order], after, atol=1e-6)
    other = run(keys(ROWS, seed=9), rgb, depth, foreground, textures(), EVERYWHERE)
    assert np.any(np.abs(other.altered["rgb"] - whole.altered["rgb"]) > 0.01)


def test_rows_of_zeros_stay_zeros():
    rgb, depth, foreground = (np.zeros_like(x) for x in pair(ROWS))
    parameters = EVERYWHERE._replace(p_normal=0.0)
    out = run(keys(ROWS), rgb, depth, foreground, textures(), parameters)
    assert not any(np.any(x) for x in jax.tree.leaves(out))


def test_colour_alone_and_textures_of_another_size():
    rgb, _, foreground = pair(12)
    parameters = EVERYWHERE._replace(p_normal=0.0, p_cut_out=0.0)
    out = run(keys(12), rgb, None, foreground, textures(24), parameters)
    assert set(out.altered) == set(out.cases) == {"rgb"}
    assert np.all(out.cases["rgb"] == BLEND)
    assert (
        float(out.altered["rgb"].min()) >= -1e-6
        and float(out.altered["rgb"].max()) <= 1 + 1e-6
    )
    assert np.any(np.abs(out.altered["rgb"] - rgb) > 0.1)


def test_the_colour_texture_is_augmented_and_the_depth_texture_is_not():
    rgb, depth, foreground = pair(ROWS)
    always = EVERYWHERE._replace(p_normal=0.0, p_cut_out=0.0, beta_high=0.0)
    out = run(keys(ROWS), rgb, depth, foreground, textures(), always)
    raw = textures() / np.float32(255)
    away = (
        np.abs(np.asarray(out.altered["rgb"])[:, None] - raw[None])
        * foreground[:, None]
    )
    assert (away.max((2, 3, 4)).min(1) > 0.02).mean() > 0.8
    grey = (raw @ np.float32([0.299, 0.587, 0.114]))[None, ..., None]
    away = (
        np.abs(np.asarray(out.altered["depth"])[:, None] - grey) * foreground[:, None]
    )
    nearest = away.max((2, 3, 4))
    assert nearest.min(1).max() < 1e-5 and len(set(nearest.argmin(1))) == 3


def test_rows_may_be_mapped_over_seeds():
    rgb, depth, foreground = pair(2)
    seeds = jnp.stack([keys(2, 0), keys(2, 1)])
    mapped = jax.vmap(of_pair(corrupt), (0, None, None, None, None))
    both = jax.jit(mapped)(seeds, rgb, depth, foreground, textures())
    for seed in range(2):
        alone = run(keys(2, seed), rgb, depth, foreground, textures())
        np.testing.assert_allclose(
            both.altered["rgb"][seed], alone.altered["rgb"], atol=1e-6
        )
        np.testing.assert_array_equal(both.mask[seed], alone.mask)


def test_lowers_for_every_platform():
    rgb, depth, foreground = pair(2)
    arguments = keys(2), rgb, depth, foreground, textures()
    exported = jax.export.export(run, platforms=["cpu", "cuda", "tpu"])(*arguments)
    assert exported.platforms == ("cpu", "cuda", "tpu")


def test_a_pair_turns_together_and_keeps_its_range():
    _, depth, foreground = pair(5)
    rgb = np.repeat(depth, 3, axis=-1)
    images, turned = turn(keys(5), rgb, depth, foreground, 90.0)
    turned_rgb, turned_depth = images["rgb"], images["depth"]
    np.testing.assert_allclose(turned_rgb, np.repeat(turned_depth, 3, -1), atol=1e-6)
    assert turned_depth.min() >= 0.2 - 1e-6 and turned_depth.max() <= 0.8 + 1e-6
    assert set(np.unique(turned)) == {0.0, 1.0}
    assert np.all(np.abs(turned_depth - depth).max((1, 2, 3)) > 0.05)
    share = turned.mean((1, 2, 3)) / foreground.mean((1, 2, 3))
    np.testing.assert_allclose(share, 1.0, atol=0.1)


@pytest.mark.parametrize("absent", ["rgb", "depth"])
def test_a_pair_that_is_not_turned_stays(absent):
    rgb, depth, foreground = pair(2)
    given = {"rgb": rgb, "depth": depth}
    del given[absent]
    images, turned = jax.jit(rotate_images)(keys(2), given, foreground, 0.0)
    assert images.keys() == given.keys()
    for name, before in given.items():
        np.testing.assert_allclose(images[name], before, atol=1e-6)
    np.testing.assert_array_equal(turned, foreground)


def test_turned_and_altered_images_keep_their_order():
    """Networks read their channels in it; a compiled function would sort the names."""
    rgb, depth, foreground = pair(1, 8)
    given = {"rgb": rgb, "depth": depth}
    turned, _ = rotate_images(keys(1), given, foreground, 10.0)
    made = corrupt(keys(1), turned, foreground, textures(8))
    assert list(turned) == list(made.clean) == list(made.altered) == ["rgb", "depth"]


def test_some_pairs_are_turned_and_zeros_come_in():
    white = np.ones((ROWS, 16, 16, 3), np.float32)
    turned, _ = jax.jit(rotate_images, static_argnums=5)(
        keys(ROWS), {"rgb": white}, white[..., :1], 90.0, 0.3, "zero"
    )
    darkest = np.asarray(turned["rgb"]).min((1, 2, 3))
    changed = darkest < 1.0 - 1e-5
    assert abs(changed.mean() - 0.3) < 4 * np.sqrt(0.3 * 0.7 / ROWS)
    assert np.median(darkest[changed]) < 1e-5  # corners from outside the image


def test_depth_may_take_the_noise_of_its_mask():
    rgb, depth, foreground = pair(ROWS)
    parameters = Corruption(p_normal=0.0, p_cut_out=0.0)
    make = jax.jit(corrupt, static_argnames="depth_texture")
    clean = {"rgb": rgb, "depth": depth}
    made = make(keys(ROWS), clean, foreground, textures(), parameters, "noise")
    inside = np.asarray(made.mask) > 0
    assert inside.any()
    assert np.all(np.asarray(made.altered["depth"])[inside] > 0.5)
    np.testing.assert_array_equal(
        np.asarray(made.altered["depth"])[~inside], depth[~inside]
    )
    with pytest.raises(ValueError, match="depth_texture"):
        make(keys(ROWS), clean, foreground, textures(), parameters, "gray")
