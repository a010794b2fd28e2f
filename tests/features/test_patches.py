"""Patch features against their definitions, written out, and the sheets' numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles.torch_models import import_networks

from ad3d_jax.features.patches import (
    adaptive_bins,
    cell_pool,
    concat_patches,
    patchcore_patches,
    replicate_patches,
)

RNG = np.random.default_rng(0)
patchcore = jax.jit(patchcore_patches, static_argnums=1)
concat = jax.jit(concat_patches)


def random_maps(*forms, rows=1):
    return tuple(
        RNG.standard_normal((rows, *form)).astype(np.float32) for form in forms
    )


# --- Definitions ----------------------------------------------------------------------


def unfolded(x, side=3):
    """[B,h,w,side*side*C]: each block as (channel, row, column), zeros outside."""
    height, width = x.shape[1:3]
    edge = (side // 2, side // 2)
    padded = np.pad(np.float64(x), ((0, 0), edge, edge, (0, 0)))
    blocks = [
        padded[:, r : r + height, c : c + width]
        for r in range(side)
        for c in range(side)
    ]
    return np.stack(blocks, -1).reshape(*x.shape[:3], -1)


def bilinear(x, size):
    """[B,h,w,C] with half-pixel centres; the outermost pixels go on for ever."""
    for axis, new in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        place = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, old - 1)
        shape = [-1 if a == axis else 1 for a in range(4)]
        share = (place - low).reshape(shape)
        x = np.take(x, low, axis) * (1 - share) + np.take(x, high, axis) * share
    return x


def adaptive_mean(x, bins, axis=-1):
    """Bin i of n entries covers floor(i n / m) to ceil((i + 1) n / m) - 1."""
    x = np.moveaxis(np.float64(x), axis, -1)
    n = x.shape[-1]
    means = [
        x[..., int(np.floor(i * n / bins)) : int(np.ceil((i + 1) * n / bins))].mean(-1)
        for i in range(bins)
    ]
    return np.moveaxis(np.stack(means, -1), -1, axis)


def patchcore_defined(maps, dimensions, side=3):
    size = maps[0].shape[1:3]
    blocks = [bilinear(unfolded(x, side), size) for x in maps]
    layers = [adaptive_mean(x, dimensions) for x in blocks]
    return adaptive_mean(np.concatenate(layers, -1), dimensions)


def box_mean(x):
    return unfolded(x).reshape(*x.shape, 9).mean(-1)


# --- PatchCore and SimpleNet ----------------------------------------------------------


@pytest.mark.parametrize(
    ("forms", "dimensions"),
    [
        (((4, 4, 512), (2, 2, 1024)), 1024),  # PatchCore, wide_resnet50
        (((4, 4, 512), (2, 2, 1024)), 1536),  # SimpleNet
        (((4, 4, 128), (2, 2, 256)), 384),
        (((4, 4, 128), (2, 2, 256)), 512),
        (((4, 4, 128), (2, 2, 256)), 1000),  # bins that overlap and straddle
        (((5, 7, 6), (3, 4, 9)), 7),  # an output of both layers
        (((5, 7, 6), (3, 4, 9)), 1),
        (((5, 7, 6), (3, 4, 9)), 200),  # more outputs than entries
        (((8, 8, 4), (4, 4, 8), (2, 2, 16)), 10),  # three layers, two shared outputs
        (((4, 4, 8),), 24),
        (((3, 3, 4), (6, 6, 4)), 16),  # a later map that is larger
        (((1, 1, 3), (1, 1, 5)), 8),
    ],
)
def test_patchcore_is_its_definition(forms, dimensions):
    maps = random_maps(*forms, rows=2)
    found = patchcore(maps, dimensions)
    assert found.shape == (2, *forms[0][:2], dimensions)
    assert found.dtype == jnp.float32
    expected = patchcore_defined(maps, dimensions)
    np.testing.assert_allclose(found, expected, atol=2e-6)


@pytest.mark.parametrize("side", [1, 5])
def test_patchcore_of_other_neighbourhoods_is_its_definition(side):
    maps = random_maps((6, 7, 6), (3, 4, 9), rows=2)
    for dimensions in (7, 40):
        found = patchcore_patches(maps, dimensions, side)
        expected = patchcore_defined(maps, dimensions, side)
        np.testing.assert_allclose(found, expected, atol=2e-6)
    means = [unfolded(x, side).reshape(*x.shape, side**2).mean(-1) for x in maps]
    means = np.concatenate([bilinear(x, (6, 7)) for x in means], -1)
    np.testing.assert_allclose(concat_patches(maps, side), means, atol=2e-6)


def test_closed_form_of_patchcore():
    """Sheet patchcore §4.1: (S + x) / 10, and means over two channels of layer3."""
    second, third = random_maps((4, 4, 512), (2, 2, 1024))
    found = np.asarray(patchcore((second, third), 1024))
    near = (9 * box_mean(second) + second) / 10
    np.testing.assert_allclose(found[..., :512], near, atol=1e-6)
    pairs = box_mean(third).reshape(1, 2, 2, 512, 2).mean(-1)
    np.testing.assert_allclose(found[..., 512:], bilinear(pairs, (4, 4)), atol=1e-6)


def test_closed_form_of_simplenet():
    """Sheet simplenet §3: means over six entries, which straddle channels."""
    second, third = random_maps((4, 4, 512), (2, 2, 1024))
    found = np.asarray(patchcore((second, third), 1536))
    sixes = unfolded(second).reshape(1, 4, 4, 768, 6).mean(-1)
    np.testing.assert_allclose(found[..., :768], sixes, atol=1e-6)
    twelves = bilinear(unfolded(third), (4, 4)).reshape(1, 4, 4, 768, 12).mean(-1)
    np.testing.assert_allclose(found[..., 768:], twelves, atol=1e-6)


@pytest.mark.parametrize(("dimensions", "corner"), [(1024, 0.5), (1536, None)])
def test_constant_maps(dimensions, corner):
    """Sheets patchcore §10.2, simplenet §9.6: a and b inside, 0.5 a in the corners."""
    second, third = np.full((1, 8, 8, 512), 3.0), np.full((1, 4, 4, 1024), -2.0)
    maps = (second.astype(np.float32), third.astype(np.float32))
    found = np.asarray(patchcore(maps, dimensions))
    half = dimensions // 2
    np.testing.assert_allclose(found[0, 3:5, 3:5, :half], 3.0, rtol=1e-6)
    np.testing.assert_allclose(found[0, 3:5, 3:5, half:], -2.0, rtol=1e-6)
    if corner:
        corners = found[0, [0, 0, -1, -1], [0, -1, 0, -1], :half]
        np.testing.assert_allclose(corners, corner * 3.0, rtol=1e-6)


def test_adaptive_bins_of_the_sheet():
    first, end = adaptive_bins(4608, 1024)
    assert list(zip(first[:4], end[:4], strict=True)) == [
        *((0, 5), (4, 9), (9, 14), (13, 18)),
    ]
    assert end[-1] == 4608


@pytest.mark.parametrize(
    ("side", "dimensions", "patches"),
    [(28, 1024, 784), (40, 1024, 1600), (36, 1536, 1296)],
)
def test_numbers_of_patches(side, dimensions, patches):
    maps = tuple(
        jax.ShapeDtypeStruct((1, n, n, c), np.float32)
        for n, c in ((side, 512), (side // 2, 1024))
    )
    shape = jax.eval_shape(lambda *m: patchcore_patches(m, dimensions), *maps).shape
    assert shape[1] * shape[2] == patches and shape[3] == dimensions
    shape = jax.eval_shape(lambda *m: concat_patches(m), *maps).shape
    assert shape == (1, side, side, 1536)


def test_neighbourhoods_are_never_unfolded():
    """Temporary memory stays below the nine-fold maps of the definition."""
    maps = tuple(
        jax.ShapeDtypeStruct((4, n, n, c), np.float32)
        for n, c in ((28, 512), (14, 1024))
    )
    run = jax.jit(lambda *m: patchcore_patches(m, 1024))
    used = run.lower(*maps).compile().memory_analysis().temp_size_in_bytes
    assert used < 4 * 4 * 28 * 28 * 9 * 512 / 2


def test_empty_requests_are_told():
    for make in (
        lambda: patchcore_patches((), 8),
        lambda: concat_patches(()),
        lambda: replicate_patches(()),
    ):
        with pytest.raises(ValueError, match="maps: expected at least one layer"):
            make()
    with pytest.raises(ValueError, match="dimensions: expected at least 1, found 0"):
        patchcore_patches(random_maps((2, 2, 3)), 0)
    with pytest.raises(ValueError, match="sides of 3 or more"):
        cell_pool(np.zeros((1, 2, 5, 1), np.float32))


# --- anomalib and PaDiM ---------------------------------------------------------------


@pytest.mark.parametrize(
    "forms", [((4, 4, 5), (2, 2, 6)), ((9, 7, 3), (5, 4, 2), (3, 2, 4)), ((3, 3, 2),)]
)
def test_concatenation_is_its_definition(forms):
    maps = random_maps(*forms, rows=2)
    expected = [bilinear(box_mean(x), forms[0][:2]) for x in maps]
    np.testing.assert_allclose(concat(maps), np.concatenate(expected, -1), atol=1e-6)


def test_replication_repeats_cells():
    """Sheet padim §11.7: constant on aligned 2x2 and 4x4 blocks; all values kept."""
    maps = random_maps((8, 8, 2), (4, 4, 3), (2, 2, 4))
    found = np.asarray(replicate_patches(maps))
    np.testing.assert_array_equal(found[..., :2], maps[0])
    for channels, x, factor in ((slice(2, 5), maps[1], 2), (slice(5, 9), maps[2], 4)):
        expected = np.kron(x, np.ones((1, factor, factor, 1), np.float32))
        np.testing.assert_array_equal(found[..., channels], expected)


# --- The BTF family -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "cells"),
    [((28, 28, 3), 28), ((14, 14, 5), 28), ((50, 37, 2), 28), ((9, 9, 1), 4)],
)
def test_cell_pool_is_its_definition(form, cells):
    (x,) = random_maps(form, rows=2)
    means = box_mean(x)[:, 1:-1, 1:-1]
    expected = adaptive_mean(adaptive_mean(means, cells, 1), cells, 2)
    np.testing.assert_allclose(cell_pool(x, cells), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (28, [1, *np.arange(1.5, 13), 13, 14, *np.arange(14.5, 26), 26]),
        (224, [4.5, *range(12, 101, 8), 107.5, 115.5, *range(123, 212, 8), 218.5]),
    ],
)
def test_row_ramps_of_the_sheet(side, expected):
    """Sheet btf §10.2."""
    ramp = np.arange(side, dtype=np.float32).reshape(1, side, 1, 1)
    ramp = np.tile(ramp, (1, 1, side, 1))
    found = np.asarray(cell_pool(ramp))[0, :, :, 0]
    assert len(expected) == 28
    np.testing.assert_allclose(found, np.tile(np.c_[expected], 28), rtol=1e-6)
    found = np.asarray(cell_pool(ramp.swapaxes(1, 2)))[0, :, :, 0]
    np.testing.assert_allclose(found, np.tile(expected, (28, 1)), rtol=1e-6)


# --- Against torch --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forms", "dimensions"),
    [
        (((28, 28, 512), (14, 14, 1024)), 1024),
        (((36, 36, 512), (18, 18, 1024)), 1536),
        (((28, 28, 128), (14, 14, 256)), 384),
        (((9, 7, 20), (5, 4, 30)), 77),
    ],
)
def test_patchcore_is_torchs(forms, dimensions, parity):
    torch, _, _ = import_networks()
    maps = random_maps(*forms)
    size, layers = forms[0][:2], []
    for x in maps:
        y = torch.tensor(x).permute(0, 3, 1, 2)
        y = torch.nn.functional.unfold(y, 3, padding=1)
        y = y.reshape(1, -1, *x.shape[1:3])
        y = torch.nn.functional.interpolate(y, size, mode="bilinear")
        y = y.reshape(1, y.shape[1], -1).swapaxes(1, 2)
        layers.append(torch.nn.functional.adaptive_avg_pool1d(y, dimensions))
    both = torch.cat(layers, -1)
    expected = torch.nn.functional.adaptive_avg_pool1d(both, dimensions)
    found = patchcore(maps, dimensions).reshape(expected.shape)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    system = "SimpleNet" if dimensions == 1536 else "PatchCore"
    parity(system, torch, "patch features", found, expected)


@pytest.mark.slow
def test_other_patches_are_torchs(parity):
    torch, _, _ = import_networks()
    functional = torch.nn.functional
    maps = random_maps((56, 56, 64), (28, 28, 128), (14, 14, 256))
    torch_maps = [torch.tensor(x).permute(0, 3, 1, 2) for x in maps]

    def channels_last(parts):
        return torch.cat(parts, 1).permute(0, 2, 3, 1).numpy()

    means = [functional.avg_pool2d(x, 3, 1, 1) for x in torch_maps]
    means = [functional.interpolate(x, (56, 56), mode="bilinear") for x in means]
    both = concat(maps), channels_last(means)
    np.testing.assert_allclose(*both, atol=2e-6)
    parity("PatchCore", torch, "patch features of anomalib", *both)
    nearest = [functional.interpolate(x, (56, 56)) for x in torch_maps]
    both = replicate_patches(maps), channels_last(nearest)
    np.testing.assert_array_equal(*both)
    parity("PaDiM", torch, "features", *both)
    for x, torch_map in zip(maps, torch_maps, strict=True):
        pooled = functional.avg_pool2d(torch_map, 3, 1)
        pooled = functional.adaptive_avg_pool2d(pooled, (28, 28))
        both = cell_pool(x), channels_last([pooled])
        np.testing.assert_allclose(*both, atol=2e-6)
        parity("BTF", torch, "cells", *both)
