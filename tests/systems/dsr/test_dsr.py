"""DSR: sizes, the third phase, two maps."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import ALONE, Batch, sample_keys, without_truth
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.ops.blur import mean_filter
from ad3d_jax.systems.dsr import dsr, networks
from ad3d_jax.testing import make_batch

CONFIG = dsr.Config(
    dada_hidden=16,
    dada_residual=8,
    dada_residual_layers=1,
    dada_kernels="he",
    codes=40,
    code_dimensions=8,
    restriction_widths=(8, 16),
    decoder_width=8,
    segmentation_width=4,
    upsampler_width=4,
    score_window=5,
)
KEY = jax.random.key(4)
ROWS = 4


@pytest.fixture(scope="module")
def batch():
    return jax.tree.map(jnp.asarray, without_truth(make_batch(ROWS, size=32)))


@pytest.fixture(scope="module")
def state(batch):
    return dsr.dsr(CONFIG).init(KEY, batch)


def test_sizes_are_the_published_ones():
    batch = Batch(rgb=np.zeros((1, 64, 64, 3), np.float32))
    system = dsr.dsr(dsr.Config())
    state = jax.eval_shape(lambda key: system.init(key, batch), KEY)
    sizes = {
        name: sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))
        for name, tree in state.params.items()
    }
    assert sizes["restriction_lo"] == sizes["restriction_hi"] == 7_818_240
    assert sizes["object_decoder"] == 9_418_371
    assert sizes["segmentation"] == 5_610_690
    assert sizes["upsampler"] == 5_611_842
    assert sum(sizes[name] for name in networks.TRAINED) == 30_665_541
    codebooks = 2 * 2 * 4096 * 128  # the public count has codes and their sums
    assert sizes["dada"] + codebooks == 4_021_379


def test_patches_of_one_colour(state, batch):
    changed = {"probability_normal": 0.0, "threshold_low": 0.1, "threshold_high": 0.1}
    changed |= {"probability_rotation_upsampler": 0.0}
    hyper = {**state.hyper, **{n: jnp.float32(v) for n, v in changed.items()}}
    keys = sample_keys(KEY, batch)
    image, mask = jax.jit(dsr.paint)(keys, state._replace(hyper=hyper), batch)
    image, rgb = np.asarray(image), np.asarray(batch.rgb)
    inside = np.asarray(mask)[..., 0] > 0
    assert 0.1 < inside.mean() < 0.9
    np.testing.assert_array_equal(image[~inside], rgb[~inside])
    opacities = set()
    for row in range(ROWS):
        # image = beta rgb + (1 - beta) colour: a line through the pixels of a channel.
        x, y = rgb[row][inside[row]][:, 0], image[row][inside[row]][:, 0]
        beta, colour = np.polyfit(x.astype(float), y.astype(float), 1)
        np.testing.assert_allclose(y, beta * x + colour, atol=1e-5)
        assert -1e-3 < beta < 0.801 and -1e-3 < colour / (1 - beta) < 1.001
        opacities.add(round(beta, 3))
    assert len(opacities) == ROWS


@pytest.mark.slow
def test_the_third_phase_moves_the_upsampler_alone(state, batch):
    phase = dsr.dsr(CONFIG).phases[2]
    step = jax.jit(partial(train_step(phase), across=ALONE))
    carry, report = step(KEY, fixed_part(state), begin(phase, state), batch)
    same = jax.tree.map(np.array_equal, carry.params, state.params)
    moved = {n for n, tree in same.items() if not all(jax.tree.leaves(tree))}
    assert moved == {"upsampler"}
    assert np.isfinite(report.values["loss"])
    np.testing.assert_array_equal(carry.extra["usage"]["hi"], 0)


def test_the_score_is_of_the_coarse_map_and_the_map_is_the_refined_one(state, batch):
    scores = jax.jit(dsr.dsr(CONFIG).score)(KEY, state, batch)
    coarse = scores.parts["map_coarse"]
    expected = np.max(np.asarray(mean_filter(coarse, 5)), (1, 2, 3))
    np.testing.assert_allclose(scores.image, expected, rtol=1e-5)
    assert scores.map.shape == coarse.shape
    assert np.abs(np.asarray(scores.map) - coarse).max() > 1e-3


def test_depth_is_3dsrs():
    with pytest.raises(ValueError, match="3DSR has depth"):
        dsr.dsr(dataclasses.replace(CONFIG, modalities=("depth", "rgb")))


def test_the_coarse_map_needs_no_third_phase(batch, state):
    system = dsr.dsr(dataclasses.replace(CONFIG, map="coarse"))
    assert [phase.name for phase in system.phases] == ["dada", "detector"]
    own = jax.eval_shape(system.init, KEY, batch)
    assert own.params.keys() == state.params.keys() - {"upsampler"}
    fewer = {name: state.params[name] for name in own.params}
    found = jax.jit(system.score)(KEY, state._replace(params=fewer), batch)
    refined = jax.jit(dsr.dsr(CONFIG).score)(KEY, state, batch)
    np.testing.assert_array_equal(found.map, refined.parts["map_coarse"])
    np.testing.assert_array_equal(found.image, refined.image)
    assert "map_coarse" not in found.parts
