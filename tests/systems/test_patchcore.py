"""PatchCore against the facts of its sheet and scikit-learn's neighbours."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, zoom
from sklearn.neighbors import NearestNeighbors

from ad3d_jax.base import MATCH, Batch, State, without_truth
from ad3d_jax.ops import coreset, knn
from ad3d_jax.systems import banks, build, patchcore
from ad3d_jax.systems.patchcore import Config
from ad3d_jax.testing import make_batch
from experiments.configs import patchcore as configs

SMALL = Config(
    backbone="resnet18",
    layers=("layer1", "layer2"),
    patches="concat",
    fraction=1.0,
    distance="l2",
    sigma=1.0,
    match=True,
)
VIT = {"patches": "concat", "backbone": "vit_base_patch8_224"}
KEY = jax.random.key(0)
# The sheet's bank and its two queries, which lie at sqrt 5 and 1.
ROWS = np.array([(0, 0), (1, 0), (0, 2), (5, 5)], np.float32)
GRID = jnp.array([[[(3, 4), (0, 1)]]], jnp.float32)  # [1,1,2,2]


def filled(config, rows, key=KEY, origin=None):
    """Returns a state whose bank absorbed rows [samples,P,D], or chosen ones [m,D]."""
    rows = np.asarray(rows)
    if origin is not None:
        rows = coreset.Chosen(rows, origin)
    return banks.absorb(config, key, State(), {"rows": rows})


def compared(rows=ROWS, grid=GRID, size=(2, 4), **fields):
    """Returns what a bank of all rows says of a grid of patches."""
    config = Config(fraction=1.0, **fields)
    return compare(config, filled(config, rows[None]), grid, size)


compare = jax.jit(banks.compare, static_argnums=(0, 3))


class Trial(NamedTuple):
    """PatchCore with all rows of some boards in its bank."""

    state: State
    rows: np.ndarray  # [samples,P,D]
    batch: Batch
    emit: Callable
    score: Callable


def shapes_of(config, side):
    """Returns the shape of the emitted rows of one image."""
    system = patchcore.patchcore(config)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)

    def emitted(key, rgb):
        batch = Batch(rgb=rgb)
        return system.phases[0].emit(key, system.init(key, batch), batch)["rows"]

    return jax.eval_shape(emitted, KEY, image).shape


@pytest.fixture(scope="module")
def trial():
    batch = boards(3)
    system = patchcore.patchcore(SMALL)
    emit, score = jax.jit(system.phases[0].emit), jax.jit(system.score)
    empty = system.init(KEY, batch)
    rows = jax.device_get(emit(KEY, empty, batch))
    state = system.phases[0].absorb(KEY, empty, rows)
    return Trial(state, rows["rows"], batch, emit, score)


def boards(count, **kwargs):
    return without_truth(make_batch(count, size=32, **kwargs))


# --- The facts of the sheet -----------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "side", "shape"),
    [
        ({}, 224, (1, 784, 1024)),
        ({}, 320, (1, 1600, 1024)),
        ({"patches": "concat"}, 224, (1, 784, 1536)),
        ({"patches": "concat", "backbone": "resnet18"}, 224, (1, 784, 384)),
        ({**VIT, "layers": ("norm12",)}, 224, (1, 784, 768)),
        ({**VIT, "layers": ("block9", "block10")}, 64, (1, 64, 1536)),
    ],
)
def test_the_patches_have_the_published_shapes(fields, side, shape):
    assert shapes_of(Config(**fields), side) == shape


def test_layers_that_the_network_does_not_have_are_refused():
    with pytest.raises(ValueError, match="model.layers: .*'norm12'.*found .'layer2'"):
        Config(backbone="vit_base_patch8_224")
    with pytest.raises(ValueError, match="model.backbone: expected one of"):
        Config(backbone="vit_base")
    config = Config(backbone="vit_base_patch14_reg4_dinov2", layers=("norm12",))
    with pytest.raises(ValueError, match="patches of 14: .*divisible by 14, found 32x"):
        shapes_of(config, 32)


def test_the_bank_of_a_class_has_the_published_size():
    rows = jax.ShapeDtypeStruct((209, 784, 1024), jnp.float32)
    plan = banks.plan(Config(), State(), {"rows": rows})
    assert plan.kept == 16_385 and plan.rows == 209 * 784
    # The choice holds 128 numbers and three more of every row, the bank 1026 of a kept.
    assert plan.split_bytes == 4 * 209 * 784 * 131 > 4 * 16_385 * 1026
    everything = banks.plan(Config(fraction=1.0), State(), {"rows": rows})
    assert everything.split_bytes == 4 * 209 * 784 * 1026


@pytest.mark.parametrize(
    ("fields", "patches", "image"),
    [
        ({}, (5.0, 1.0), 5.0),
        ({"distance": "l2"}, (np.sqrt(5), 1), np.sqrt(5)),
        ({"distance": "l2", "reweight": "paper", "support": 3}, None, 2.0796),
        ({"distance": "l2", "reweight": "ind_knn", "support": 3}, None, 1.9377),
        # Both queries' two nearest: 5 and 13, 1 and 1.
        ({"neighbours": 2}, (9.0, 1.0), 9.0),
    ],
)
def test_the_hand_example(fields, patches, image):
    found = compared(upsample="nearest", **fields)
    np.testing.assert_allclose(found.image, [image], atol=5e-5)
    expected = np.repeat(patches or (np.sqrt(5), 1), 2)
    np.testing.assert_allclose(found.map[0, :, :, 0], [expected] * 2, rtol=1e-6)


@pytest.mark.parametrize(("distance", "power"), [("squared", 2), ("l2", 1)])
def test_scaled_features_scale_the_scores(distance, power):
    found = compared(3 * ROWS, 3 * GRID, distance=distance)
    expected = compared(distance=distance)
    np.testing.assert_allclose(found.image, 3**power * expected.image, rtol=1e-6)
    np.testing.assert_allclose(found.map, 3**power * expected.map, rtol=1e-6)


def test_an_image_of_the_bank_scores_zero(trial):
    scores = trial.score(KEY, trial.state, trial.batch)
    other = trial.score(KEY, trial.state, boards(3, seed=3))
    assert scores.image.max() < 1e-3 * other.image.min()
    assert scores.map.max() < 1e-3 * other.map.max()


# --- Scores and matches ---------------------------------------------------------------


def test_scores_are_those_of_scikit_learn(trial):
    rows, batch = trial.rows, boards(3, seed=4, defect=True)
    queries = trial.emit(KEY, trial.state, batch)["rows"]
    model = NearestNeighbors(n_neighbors=1).fit(rows.reshape(-1, rows.shape[-1]))
    distance, number = model.kneighbors(np.asarray(queries).reshape(-1, rows.shape[-1]))
    distance = distance.reshape(3, 8, 8)
    scores = trial.score(KEY, trial.state, batch)
    np.testing.assert_allclose(scores.image, distance.max((1, 2)), rtol=1e-4)
    # SciPy's zoom with half-pixel centres is bilinear resizing; its blur is ours.
    large = [zoom(d, 4, order=1, mode="nearest", grid_mode=True) for d in distance]
    expected = [gaussian_filter(d, 1.0) for d in large]
    np.testing.assert_allclose(scores.map[..., 0], expected, rtol=2e-4)

    found = dict(zip(MATCH, np.asarray(scores.match).T, strict=True))
    worst = distance.reshape(3, -1).argmax(1)
    matched = number.reshape(3, -1)[np.arange(3), worst]
    np.testing.assert_array_equal(found["row"], 4 * (worst // 8) + 2)
    np.testing.assert_array_equal(found["column"], 4 * (worst % 8) + 2)
    np.testing.assert_array_equal(found["sample"], matched // 64)
    np.testing.assert_array_equal(found["sample_row"], 4 * (matched % 64 // 8) + 2)
    np.testing.assert_array_equal(found["sample_column"], 4 * (matched % 8) + 2)


def test_a_match_names_the_row_that_was_emitted_not_that_of_the_bank():
    # Two samples of 2 x 3 patches, of which three are kept in another order.
    rows = np.arange(12, dtype=np.float32)[:, None] * [[1, 10]]
    origin = np.array([10, 1, 5], np.int32)
    config = Config(match=True, distance="l2")
    state = filled(config, rows[origin], origin=origin)
    patches = np.array([10, 1, 5, 10, 1, 5.5])[:, None] * [1, 10]
    grid = jnp.asarray(patches.reshape(1, 2, 3, 2), jnp.float32)
    found = compare(config, state, grid, (10, 9)).match
    # The worst patch, (1,2), matched row 5: sample 0, patch (1,2). Rows are 5 pixels
    # high, columns 3 wide.
    np.testing.assert_array_equal(found, [[7, 7, 0, 7, 7]])
    patches[5] = (10.2, 102)
    grid = jnp.asarray(patches.reshape(1, 2, 3, 2), jnp.float32)
    found = compare(config, state, grid, (10, 9)).match
    np.testing.assert_array_equal(found, [[7, 7, 1, 7, 4]])  # row 10: sample 1, (1,1)


def test_no_match_unless_it_is_asked_for():
    assert compared().match is None


def test_the_fast_search_agrees_where_nothing_is_near():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 16)).astype(np.float32)
    grid = jnp.asarray(rng.standard_normal((2, 3, 3, 16)), jnp.float32)
    exact, fast = (compared(rows, grid, (6, 6), mode=mode) for mode in knn.MODES)
    np.testing.assert_allclose(fast.image, exact.image, rtol=1e-5)


# --- The choice of rows ---------------------------------------------------------------


def test_all_rows_are_kept_in_order():
    rows = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    config = Config(fraction=1.0)
    state = filled(config, rows)
    np.testing.assert_array_equal(state.memory["origin"], np.arange(8))
    bank = state.memory["bank"]
    found = knn.take(bank, bank.number)
    np.testing.assert_allclose(found, rows.reshape(8, 3), rtol=1e-6)
    assert patchcore.patchcore(config).phases[0].select is None


def test_random_rows_are_distinct_and_belong_to_their_numbers():
    rows = np.random.default_rng(0).standard_normal((5, 20, 3)).astype(np.float32)
    config = Config(choice="random", fraction=0.25)
    states = [filled(config, rows, jax.random.key(seed)) for seed in (0, 0, 1)]
    first, again, other = (np.asarray(s.memory["origin"]) for s in states)
    assert len(set(first.tolist())) == len(first) == 25
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    bank = states[0].memory["bank"]
    np.testing.assert_allclose(
        knn.take(bank, bank.number), rows.reshape(100, 3)[first], atol=1e-6
    )
    assert patchcore.patchcore(config).phases[0].select is None


def test_the_chosen_rows_are_stored_as_they_were_and_not_projected():
    rows = np.random.default_rng(0).standard_normal((3, 40, 150)).astype(np.float32)
    select = patchcore.patchcore(Config()).phases[0].select["rows"]
    data, carry = select.prepare(KEY, State(), rows)
    assert data["rows"].shape == (120, coreset.DENSE_DIMENSIONS)
    taken = select.take(rows, carry._replace(picked=np.array([7, 3])))
    state = filled(Config(), taken.rows, origin=taken.number)
    bank = state.memory["bank"]
    np.testing.assert_allclose(
        knn.take(bank, bank.number), rows.reshape(-1, 150)[[7, 3]], atol=1e-6
    )
    np.testing.assert_array_equal(state.memory["origin"], [7, 3])


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
    system = patchcore.patchcore(dataclasses.replace(SMALL, modalities=modalities))
    assert system.needs_fit == system.needs_score == needs
    batch = boards(2)
    batch = Batch(**{name: getattr(batch, name) for name in needs})

    def emitted(key, batch):
        return system.phases[0].emit(key, system.init(key, batch), batch)["rows"]

    rows = jax.eval_shape(emitted, KEY, batch)
    assert rows.shape == (2, 64, 192 * len(modalities))


@pytest.mark.parametrize("name", sorted(configs.VARIANTS))
def test_every_variant_builds(name):
    config = configs.get_config(name)
    system = build("patchcore", config.model.to_dict())
    assert system.name == "patchcore"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patches": "mean"}, "model.patches: expected one of"),
        ({"reweight": "anomalib"}, "model.reweight: expected one of"),
        ({"fraction": 0.0}, r"model.fraction: expected in \(0, 1\], found 0.0"),
        ({"fraction": 1.5}, "model.fraction"),
        ({"fraction": float("nan")}, "model.fraction"),
        ({"neighbours": 0}, "model.neighbours: expected at least 1, found 0"),
        ({"reweight": "paper"}, "expected model.distance=l2, found squared"),
        ({"modalities": ("thermal",)}, "model.modalities"),
    ],
)
def test_a_wrong_field_is_named(fields, message):
    with pytest.raises(ValueError, match=message):
        patchcore.patchcore(Config(**fields))
