import jax
import numpy as np
import pytest

from ad3d_jax.synthesis.displacement import Displacement
from ad3d_jax.synthesis.paired import Pairing, alter_pair

ROWS, SIDE = 64, 32
DISPLACEMENT = Displacement(sigma_low=0.5, sigma_high=1.0)
NEVER_EMPTY = DISPLACEMENT._replace(
    threshold=0.2, lowest_exponent=2, highest_exponent=2
)
ALWAYS = Pairing(p_normal=0.0, displacement=DISPLACEMENT)
TOGETHER = ALWAYS._replace(p_drop_depth=0.0, p_drop_rgb=0.0, p_united=0.0, p_apart=0.0)
TEXTURES = np.random.default_rng(1).integers(0, 256, (3, SIDE, SIDE, 3), np.uint8)


def alter_both(keys, rgb, depth, *rest, **options):
    return alter_pair(keys, {"rgb": rgb, "depth": depth}, *rest, **options)


run = jax.jit(alter_both, static_argnames="reach")


def samples(rows=ROWS, side=SIDE):
    generator = np.random.default_rng(0)
    rgb = generator.random((rows, side, side, 3)).astype(np.float32)
    depth = generator.uniform(0.3, 0.7, (rows, side, side, 1)).astype(np.float32)
    foreground = np.zeros((rows, side, side, 1), bool)
    foreground[:, 2:-3, 3:-2] = True
    return jax.random.split(jax.random.key(0), rows), rgb, depth, foreground


def alter(parameters, rows=ROWS, side=SIDE):
    """Returns (rgb, depth, foreground, the altered pair) on the host."""
    keys, rgb, depth, foreground = samples(rows, side)
    out = run(keys, rgb, depth, foreground, TEXTURES, parameters, reach=3)
    return rgb, depth, foreground, jax.device_get(out)


def differs(before, after):
    """Returns [B,H,W,1], where any channel is another."""
    return np.any(before != after, axis=-1, keepdims=True)


def test_colour_and_depth_share_their_pixels():
    rgb, depth, foreground, out = alter(TOGETHER)
    mask = out.mask > 0
    assert out.mask.dtype == np.float32 and set(np.unique(out.mask)) == {0.0, 1.0}
    assert not np.any(mask & ~foreground)
    assert np.array_equal(differs(depth, out.altered["depth"]), mask)
    assert not np.any(differs(rgb, out.altered["rgb"]) & ~mask)
    assert differs(rgb, out.altered["rgb"])[mask].mean() > 0.99
    some = mask.any((1, 2, 3))
    assert some.mean() > 0.9
    np.testing.assert_array_equal(out.cases["rgb"], some)
    np.testing.assert_array_equal(out.cases["depth"], some)


def test_dropout_spares_one_modality_and_never_both():
    rows = 3000
    parameters = TOGETHER._replace(
        p_drop_depth=0.3,
        p_drop_rgb=0.3,
        displacement=NEVER_EMPTY,
    )
    rgb, depth, _, out = alter(parameters, rows, 16)
    anomalous = out.mask.any((1, 2, 3))
    assert anomalous.mean() > 0.98  # all but those with an empty mask
    shares = [
        (out.cases["rgb"] & out.cases["depth"])[anomalous].mean(),
        (out.cases["rgb"] & ~out.cases["depth"])[anomalous].mean(),
        (~out.cases["rgb"] & out.cases["depth"])[anomalous].mean(),
    ]
    np.testing.assert_allclose(shares, [0.4, 0.3, 0.3], atol=0.03)
    np.testing.assert_array_equal(
        out.altered["rgb"][~out.cases["rgb"]], rgb[~out.cases["rgb"]]
    )
    spared = ~out.cases["depth"]
    np.testing.assert_array_equal(out.altered["depth"][spared], depth[spared])
    np.testing.assert_array_equal(out.cases["rgb"] | out.cases["depth"], anomalous)


def test_the_mask_shrinks_to_what_is_left():
    """Colour has a mask of its own here, so that each label tells its modality."""
    apart = TOGETHER._replace(p_apart=1.0)
    rgb, depth, _, both = alter(apart)
    *_, no_depth = alter(apart._replace(p_drop_depth=1.0))
    *_, no_rgb = alter(apart._replace(p_drop_rgb=1.0))
    np.testing.assert_array_equal(no_depth.altered["depth"], depth)
    np.testing.assert_array_equal(no_rgb.altered["rgb"], rgb)
    np.testing.assert_array_equal(
        no_rgb.mask > 0, differs(depth, no_rgb.altered["depth"])
    )
    changed = differs(rgb, no_depth.altered["rgb"])
    assert not np.any(changed & (no_depth.mask == 0))
    assert changed[no_depth.mask > 0].mean() > 0.99
    np.testing.assert_array_equal(both.mask, np.maximum(no_depth.mask, no_rgb.mask))
    overlap = (no_depth.mask * no_rgb.mask).sum() / no_rgb.mask.sum()
    assert overlap < 0.3


def test_an_own_mask_may_join_the_depths():
    *_, joined = alter(TOGETHER._replace(p_united=1.0))
    *_, alone = alter(TOGETHER)
    *_, apart = alter(TOGETHER._replace(p_apart=1.0))
    np.testing.assert_array_equal(joined.mask, np.maximum(alone.mask, apart.mask))
    assert joined.mask.sum() > 1.2 * alone.mask.sum()
    np.testing.assert_array_equal(joined.altered["depth"], alone.altered["depth"])


def test_half_of_the_samples_stay_normal():
    parameters = ALWAYS._replace(p_normal=0.5, displacement=NEVER_EMPTY)
    rgb, depth, _, out = alter(parameters, 2000, 16)
    normal = ~out.mask.any((1, 2, 3))
    assert normal.mean() == pytest.approx(0.5, abs=0.04)
    np.testing.assert_array_equal(out.altered["rgb"][normal], rgb[normal])
    np.testing.assert_array_equal(out.altered["depth"][normal], depth[normal])
    assert not np.any((out.cases["rgb"] | out.cases["depth"]) & normal)


def test_rows_of_zeros_stay_zeros():
    keys, *batch = samples()
    zeros = [np.zeros_like(x) for x in batch]
    out = run(keys, *zeros, TEXTURES, ALWAYS, reach=3)
    assert not any(np.any(x) for x in jax.tree.leaves(out))


def test_a_row_depends_on_its_key_alone():
    keys, *batch = samples()
    whole = run(keys, *batch, TEXTURES, ALWAYS, reach=3)
    order = np.array([40, 0])
    part = run(keys[order], *(x[order] for x in batch), TEXTURES, ALWAYS, reach=3)
    for before, after in zip(*map(jax.tree.leaves, (whole, part)), strict=True):
        np.testing.assert_allclose(before[order], after, atol=1e-6)


def test_lowers_for_every_platform():
    keys, *batch = samples(2)
    exported = jax.export.export(
        jax.jit(lambda *x: alter_both(*x, reach=3)), platforms=["cpu", "cuda", "tpu"]
    )(keys, *batch, TEXTURES)
    assert exported.platforms == ("cpu", "cuda", "tpu")
