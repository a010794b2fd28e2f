"""Pooled maps of point features against the definition, every pixel written out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.features.point_maps import point_map, point_rows
from ad3d_jax.ops.point_sets import Interpolation

RNG = np.random.default_rng(0)
whole = jax.jit(point_map, static_argnums=(2, 3))
part = jax.jit(point_rows, static_argnums=(2, 3, 5))


def sample(size, groups=9, channels=5):
    """Tokens and an interpolation in which a third of the pixels hold no point."""
    count = size[0] * size[1]
    weight = RNG.random((count, 3)).astype("f4") * (RNG.random((count, 1)) > 0.3)
    index = RNG.integers(0, groups, (count, 3)).astype("i4")
    tokens = RNG.standard_normal((groups, channels)).astype("f4")
    return tokens, Interpolation(index, weight.astype("f4"))


def literal(tokens, interpolation, size, cells):
    """Every pixel's features, 3x3 means without padding, the adaptive average."""
    canvas = (tokens[interpolation.index] * interpolation.weight[..., None]).sum(1)
    canvas = np.float64(canvas).reshape(*size, -1)
    height, width = size[0] - 2, size[1] - 2
    means = sum(
        canvas[r : r + height, c : c + width] for r in range(3) for c in range(3)
    )

    def bins(n):
        return [
            slice(i * n // cells, int(np.ceil((i + 1) * n / cells)))
            for i in range(cells)
        ]

    return np.stack(
        [
            np.stack([means[r, c].mean((0, 1)) / 9 for c in bins(width)])
            for r in bins(height)
        ]
    )


@pytest.mark.parametrize(
    ("size", "cells"),
    [((24, 24), 6), ((24, 24), 24), ((23, 17), 7), ((9, 9), 2), ((224, 224), 56)],
)
def test_maps_are_those_of_the_definition(size, cells):
    tokens, interpolation = sample(size)
    ours = whole(tokens, interpolation, size, cells)
    theirs = literal(tokens, interpolation, size, cells)
    np.testing.assert_allclose(ours, theirs, atol=1e-6)
    assert ours.shape == (cells, cells, 5)


def test_any_successive_rows_can_be_made_alone():
    size, cells = (23, 17), 23
    tokens, interpolation = sample(size)
    theirs = literal(tokens, interpolation, size, cells)
    for first in (0, 5, 16):
        ours = part(tokens, interpolation, size, cells, first, 7)
        np.testing.assert_allclose(ours, theirs[first : first + 7], atol=1e-6)


def test_a_ramp_over_the_rows_is_averaged_as_the_sheet_says():
    size = (224, 224)
    index = np.repeat(np.arange(224, dtype="i4"), 224)[:, None].repeat(3, 1)
    weight = np.full((224 * 224, 3), 1 / 3, "f4")
    tokens = np.arange(224, dtype="f4")[:, None]
    ours = whole(tokens, Interpolation(index, weight), size, 56)[:, 10, 0]
    half = [2.5, *range(6, 107, 4), 109.5]
    expected = [*half, *(223 - x for x in half[::-1])]
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_cells_that_no_point_reaches_are_exactly_zero():
    size = (224, 224)
    tokens, interpolation = sample(size)
    weight = np.zeros_like(interpolation.weight).reshape(224, 224, 3)
    weight[100, 50] = 1 / 3
    alone = interpolation._replace(weight=weight.reshape(-1, 3))
    reached = np.argwhere(np.asarray(whole(tokens, alone, size, 224)).any(-1))
    assert 2 <= len(np.unique(reached[:, 0])) <= 5
    assert np.abs(reached - [100, 50]).max() <= 2


def test_samples_of_a_batch_do_not_touch_each_other():
    size = (12, 12)
    samples = [sample(size) for _ in range(2)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *samples)
    together = jax.vmap(lambda t, i: point_map(t, i, size, 4))(*stacked)
    for i, one in enumerate(samples):
        np.testing.assert_allclose(together[i], whole(*one, size, 4), atol=1e-6)


def test_wrong_sizes_are_named_and_every_platform_is_lowered_for():
    tokens, interpolation = sample((12, 12))
    with pytest.raises(ValueError, match="that of 12 x 13 pixels.* that of 144"):
        point_map(tokens, interpolation, (12, 13), 4)

    def chain(tokens, interpolation):
        return point_map(tokens, interpolation, (12, 12), 12)

    platforms = ("cpu", "cuda", "tpu")
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.asarray(x).dtype),
        (tokens, interpolation),
    )
    with jax.numpy_dtype_promotion("strict"):
        exported = jax.export.export(jax.jit(chain), platforms=platforms)
        assert exported(*shapes).platforms == platforms
