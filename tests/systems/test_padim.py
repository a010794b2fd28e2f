"""PaDiM against the facts of its sheet, Python's generator and float64."""

import dataclasses
import random
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom
from sklearn.covariance import empirical_covariance

from ad3d_jax.base import Batch, State, without_truth
from ad3d_jax.features.patches import as_rows
from ad3d_jax.systems import backbones, build, padim
from ad3d_jax.systems.padim import Config
from ad3d_jax.testing import make_batch
from experiments.configs import padim as configs

RESNET18 = Config(backbone="resnet18", dimensions=100)
SMALL = Config(
    backbone="resnet18", layers=("layer1", "layer2"), dimensions=20, sigma=1.0
)
KEY = jax.random.key(0)


class Trial(NamedTuple):
    """PaDiM fitted to some boards."""

    state: State
    rows: np.ndarray  # [samples,P,D]
    embed: Callable  # batch -> [samples,P,D]
    score: Callable


@pytest.fixture(scope="module")
def trial():
    batch, system = boards(6), padim.padim(SMALL)
    state = system.init(KEY, batch)
    embed = jax.jit(partial(rows_of, SMALL, state))
    return Trial(
        summed(system, state, batch), embed(batch), embed, jax.jit(system.score)
    )


def rows_of(config, state, batch):
    """Returns the kept channels at all positions, [samples,P,D]."""
    embed = padim.chosen_channels(config)
    return as_rows(backbones.features(config, embed, state, batch))


def summed(system, state, batch):
    """Returns the state after the phases, each over the samples in two batches."""
    for phase in system.phases:
        emit = jax.jit(phase.emit)
        halves = [jax.tree.map(lambda x, n=n: x[n::2], batch) for n in (0, 1)]
        parts = [jax.device_get(emit(KEY, state, half)) for half in halves]
        sums = jax.tree.map(lambda x, y: np.float64(x) + np.float64(y), *parts)
        state = phase.finish(KEY, state, sums)
    return state


def boards(count, **kwargs):
    return without_truth(make_batch(count, size=32, **kwargs))


def shapes_of(config, batch):
    """Returns the shapes of the state, of the features and of the moments."""
    system = padim.padim(config)

    def shapes(key, batch):
        state = system.init(key, batch)
        moments = system.phases[1].emit(key, state, batch)["moments"]
        return state, rows_of(config, state, batch), moments

    state, rows, moments = jax.eval_shape(shapes, KEY, batch)
    return state, rows.shape, moments.shape


# --- The facts of the sheet -----------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "count", "first"),
    [
        (448, 100, (408, 9, 247, 435, 199, 165, 424, 405, 266, 51)),
        (1792, 550, (1632, 39, 990, 1740, 797, 661, 1698, 1623, 1782, 1064)),
    ],
)
def test_the_channels_are_those_of_the_reference(total, count, first):
    channels = padim.channel_subset(total, count, 1024)
    assert channels[:10] == first
    assert len(set(channels)) == count and max(channels) < total
    random.seed(1024)
    assert list(channels) == random.sample(range(total), count)
    assert padim.channel_subset(total, count, 1025) != channels


@pytest.mark.parametrize(
    ("fields", "total"),
    [
        ({"backbone": "resnet18", "dimensions": 100}, 448),
        ({"backbone": "resnet50"}, 1792),
        ({"backbone": "wide_resnet50"}, 1792),
    ],
)
def test_the_layers_have_the_published_channels(fields, total):
    assert padim.total_channels(Config(**fields)) == total


@pytest.mark.parametrize(
    ("config", "side", "positions", "dimensions"),
    [
        (RESNET18, 224, 56 * 56, 100),
        (Config(), 224, 56 * 56, 550),
        (RESNET18, 256, 64 * 64, 100),
    ],
)
def test_the_embedding_has_the_published_shape(config, side, positions, dimensions):
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    batch = Batch(rgb=image, weight=jax.ShapeDtypeStruct((1,), jnp.float32))
    state, rows, moments = shapes_of(config, batch)
    assert rows == (1, positions, dimensions)
    # 125 MB of ResNet-18, 3.8 GB of the wide ResNet-50.
    assert moments == (positions, dimensions, dimensions)
    assert state.memory["gaussians"].mean.shape == (positions, dimensions)


def test_deeper_layers_are_constant_on_aligned_blocks():
    config = dataclasses.replace(RESNET18, dimensions=448, channel_seed=0)
    channels = np.array(padim.channel_subset(448, 448, 0))
    state = padim.padim(config).init(KEY, boards(1))
    grid = np.asarray(rows_of(config, state, boards(1))).reshape(1, 8, 8, -1)
    assert grid.shape == (1, 8, 8, 448)
    for low, high, side in ((64, 192, 2), (192, 448, 4)):
        part = grid[0][..., (channels >= low) & (channels < high)]
        assert part.shape[-1] == high - low and part.std() > 0
        corner = part[::side, ::side].repeat(side, 0).repeat(side, 1)
        np.testing.assert_array_equal(part, corner)
    first = grid[0][..., channels < 64]
    assert not np.array_equal(first[0::2, 0::2], first[1::2, 0::2])


def test_the_order_of_the_channels_does_not_matter(trial):
    order = np.random.default_rng(0).permutation(20)
    queries = trial.embed(boards(2, seed=5))
    measure = jax.jit(padim.gaussian.mahalanobis)

    def distance(rows, queries):
        mean = rows.mean(0)
        moments = padim.gaussian.moments(rows, mean, np.ones(6, np.float32))
        gaussians = padim.gaussian.fit(mean, np.asarray(moments), 6, 0.01)
        return measure(gaussians, queries)

    expected = measure(trial.state.memory["gaussians"], queries)
    rows = np.asarray(trial.rows)
    np.testing.assert_allclose(distance(rows, queries), expected, rtol=1e-4)
    permuted = distance(rows[..., order], queries[..., order])
    np.testing.assert_allclose(permuted, expected, rtol=1e-4)


# --- Scores ---------------------------------------------------------------------------


def test_scores_are_those_of_float64(trial):
    batch = boards(3, seed=4, defect=True)
    queries = np.float64(trial.embed(batch))
    rows = np.float64(trial.rows)
    count, places, dimensions = rows.shape
    distance = np.empty(queries.shape[:2])
    for place in range(places):
        # scikit-learn divides by N.
        covariance = empirical_covariance(rows[:, place]) * count / (count - 1)
        inverse = np.linalg.inv(covariance + 0.01 * np.eye(dimensions))
        offset = queries[:, place] - rows[:, place].mean(0)
        squared = np.einsum("bd,de,be->b", offset, inverse, offset)
        distance[:, place] = np.sqrt(squared)
    large = [
        zoom(d, 4, order=1, mode="nearest", grid_mode=True)
        for d in distance.reshape(3, 8, 8)
    ]
    expected = np.stack([gaussian_filter(d, 1.0) for d in large])
    scores = trial.score(KEY, trial.state, batch)
    np.testing.assert_allclose(scores.map[..., 0], expected, rtol=1e-3)
    # The score is the largest value of the smoothed map, not of the distances.
    np.testing.assert_allclose(scores.image, expected.max((1, 2)), rtol=1e-3)
    assert (expected.max((1, 2)) < 0.99 * distance.max(1)).all()


def test_the_mean_scores_zero(trial):
    gaussians = trial.state.memory["gaussians"]
    found = padim.gaussian.mahalanobis(gaussians, jnp.asarray(gaussians.mean)[None])
    np.testing.assert_array_equal(found, np.zeros((1, 64)))
    rows = np.float64(trial.rows)
    np.testing.assert_allclose(gaussians.mean, rows.mean(0), rtol=1e-6, atol=1e-6)


# --- Configuration --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("modalities", "needs"),
    [
        (("rgb",), ("rgb",)),
        (("depth",), ("depth", "valid")),
        (("rgb", "depth"), ("rgb", "depth", "valid")),
    ],
)
def test_what_is_needed_follows_from_the_modalities(modalities, needs):
    config = dataclasses.replace(SMALL, modalities=modalities)
    system = padim.padim(config)
    assert system.needs_fit == system.needs_score == needs
    batch = boards(2)
    batch = Batch(**{name: getattr(batch, name) for name in ("weight", *needs)})
    _, rows, _ = shapes_of(config, batch)
    assert rows == (2, 64, 20 * len(modalities))


@pytest.mark.parametrize("name", sorted(configs.VARIANTS))
def test_every_variant_builds(name):
    config = configs.get_config(name)
    assert build("padim", config.model.to_dict()).name == "padim"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"backbone": "resnet18"}, "expected 1 to 448 channels .* found 550"),
        ({"dimensions": 0}, "model.dimensions: expected 1 to 1792"),
        ({"epsilon": 0.0}, "epsilon: expected a number above 0, found 0.0"),
        ({"modalities": ()}, "model.modalities"),
        ({"layers": ()}, "layers: expected some of"),
        ({"backbone": "resnet19"}, "backbone: expected one of"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        padim.padim(Config(**fields))


def test_one_sample_is_refused():
    batch, system = boards(1), padim.padim(SMALL)
    state, phase = system.init(KEY, batch), system.phases[0]
    with pytest.raises(ValueError, match="at least 2 samples, found 1"):
        phase.finish(KEY, state, jax.device_get(phase.emit(KEY, state, batch)))
