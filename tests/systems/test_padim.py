"""PaDiM against the facts of its sheet, Python's generator and float64."""

import dataclasses
import random
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from reference_systems import make_batch
from scipy.ndimage import gaussian_filter, zoom
from sklearn.covariance import empirical_covariance

from ad3d_jax.base import Batch, State, without_truth
from ad3d_jax.systems import build, padim
from ad3d_jax.systems.padim import Config
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
    emit: Callable
    score: Callable


@pytest.fixture(scope="module")
def trial():
    batch, system = boards(6), padim.padim(SMALL)
    emit, score = jax.jit(system.phases[0].emit), jax.jit(system.score)
    empty = system.init(KEY, batch)
    rows = jax.device_get(emit(KEY, empty, batch))
    state = system.phases[0].absorb(KEY, empty, rows)
    return Trial(state, rows["rows"], emit, score)


def boards(count, **kwargs):
    return without_truth(make_batch(count, size=32, **kwargs))


def shapes_of(config, batch):
    """Returns the shapes of the state and of the emitted rows."""
    system = padim.padim(config)

    def emitted(key, batch):
        state = system.init(key, batch)
        return state, system.phases[0].emit(key, state, batch)["rows"]

    state, rows = jax.eval_shape(emitted, KEY, batch)
    return state, rows.shape


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
    state, rows = shapes_of(config, Batch(rgb=image))
    assert rows == (1, positions, dimensions)
    assert state.memory["gaussians"].mean.shape == (positions, dimensions)


def test_the_gaussians_take_the_published_memory():
    def planned(config, samples, dimensions):
        rows = jax.ShapeDtypeStruct((samples, 3136, dimensions), jnp.float32)
        return padim.plan(config, State(), {"rows": rows})

    # Full matrices: 125 MB of R18 (and its means), 3.8 GB of WR50.
    full = planned(RESNET18, 300, 100)
    held = full.whole_bytes - RESNET18.block_bytes
    assert held == 4 * (3136 * 100 * 101 + 1)
    wide = planned(Config(), 400, 550)
    assert wide.whole_bytes - Config().block_bytes == 4 * (3136 * 550 * 551 + 1)
    assert wide.host_bytes > 4 * 3136 * 550 * (400 + 551)
    # Woodbury's form of few samples is smaller.
    few = planned(Config(), 60, 550)
    assert few.whole_bytes - Config().block_bytes == 4 * (3136 * (550 + 60 * 610) + 1)
    assert few.rows == 60 * 3136 and few.split_bytes == 0


def test_deeper_layers_are_constant_on_aligned_blocks():
    config = dataclasses.replace(RESNET18, dimensions=448, channel_seed=0)
    channels = np.array(padim.channel_subset(448, 448, 0))
    state = padim.padim(config).init(KEY, boards(1))
    embed = jax.jit(lambda s, b: padim.features(config, tuple(channels), s, b))
    grid = np.asarray(embed(state, boards(1)))
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
    permuted = padim.absorb(SMALL, KEY, State(), {"rows": trial.rows[..., order]})
    queries = trial.emit(KEY, trial.state, boards(2, seed=5))["rows"]
    measure = jax.jit(padim.gaussian.mahalanobis)
    np.testing.assert_allclose(
        measure(permuted.memory["gaussians"], queries[..., order]),
        measure(trial.state.memory["gaussians"], queries),
        rtol=1e-4,
    )


# --- Scores ---------------------------------------------------------------------------


def test_scores_are_those_of_float64(trial):
    batch = boards(3, seed=4, defect=True)
    queries = np.float64(trial.emit(KEY, trial.state, batch)["rows"])
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
    batch = Batch(**{name: getattr(batch, name) for name in needs})
    _, rows = shapes_of(config, batch)
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
        ({"backbone": "resnet34"}, "backbone: expected one of"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        padim.padim(Config(**fields))


def test_one_sample_is_refused_before_any_work():
    rows = jax.ShapeDtypeStruct((1, 64, 20), jnp.float32)
    with pytest.raises(ValueError, match="at least 2 samples, found 1"):
        padim.plan(SMALL, State(), {"rows": rows})
