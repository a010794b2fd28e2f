"""CFM against its sheet and against the release on given features."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import public_point_transformers, public_vits

from ad3d_jax.base import ALONE, Batch, State, with_cache
from ad3d_jax.features import weights
from ad3d_jax.features.points import point_features
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.nn.feature_mapping import FeatureMapping
from ad3d_jax.ops.blur import mean_filter
from ad3d_jax.systems import cfm
from ad3d_jax.systems.cfm import AGGREGATIONS, Config, cosine, distance, normalised
from ad3d_jax.systems.fields import numbers
from ad3d_jax.testing import make_batch
from data_pipelines.decode import read_rgb, read_xyz
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import complete_parameters

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = np.load(FOLDER / "cfm_given_features.npz")
RELEASE = "CFM", "CVLAB-Unibo/crossmodal-feature-mapping 63288af"
PAIRS = {"to_points": (768, 1152, 203), "to_rgb": (1152, 768, 204)}
GIVEN = Config(backbone="resnet18", layers=("layer2",), points="fpfh")
RGB, POINTS = 12, 20  # features of a pixel, where they are given
LAYERS = {"input": "hidden0", "projection": "hidden1", "output": "output"}


def drawn(inputs, outputs, depth, seed):
    """Returns parameters that NumPy draws in the order of the release's names."""
    rng, width = np.random.default_rng(seed), (inputs + outputs) // 2
    names = ["projection"] if depth == 1 else [f"projection_{x}" for x in "abcde"]
    sides = {"input": (width, inputs), "output": (outputs, width)}
    sides |= dict.fromkeys(names, (width, width))
    order = {"input": "hidden0", "output": "output"}
    order |= {name: f"hidden{n + 1}" for n, name in enumerate(names)}
    params = {}
    for name in sorted(sides):
        bias = 0.1 * rng.standard_normal(sides[name][:1])
        kernel = rng.standard_normal(sides[name]) * sides[name][1] ** -0.5
        layer = {"kernel": kernel.T, "bias": bias}
        params[order[name]] = {n: x.astype(np.float32) for n, x in layer.items()}
    return params


def given(count, side, seed):
    """Returns a batch of features that NumPy draws, a third of the points missing."""
    rng = np.random.default_rng(seed)
    rgb = rng.standard_normal((count, side, side, RGB)).astype(np.float32)
    points = rng.standard_normal((count, side, side, POINTS)).astype(np.float32)
    points[rng.random((count, side, side)) < 0.3] = 0
    image = np.zeros((count, side, side, 3), np.float32)
    return Batch(
        rgb=image,
        xyz=image,
        extras={"rgb_layer2": rgb, "points": points},
        weight=np.ones(count, np.float32),
        id=np.arange(count, dtype=np.int32),
    )


def small_state():
    """Returns the state whose mappings are those of the golden values."""
    params = {
        "to_points": drawn(RGB, POINTS, 1, 201),
        "to_rgb": drawn(POINTS, RGB, 1, 202),
    }
    return State(params, hyper=numbers(cfm.HYPER))


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("kind", "depth"), [("mapping", 1), ("deep", 5)])
def test_a_mapping_is_the_releases(kind, depth, name, parity):
    inputs, outputs, seed = PAIRS[name]
    x = np.random.default_rng(seed + 100).standard_normal((3, inputs))
    params = drawn(inputs, outputs, depth, seed)
    mapping = FeatureMapping(outputs, depth)
    found = mapping.apply({"params": params}, jnp.float32(x))[:, ::16]
    expected = GOLDEN[f"{kind}_{name}"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    parity(*RELEASE, "mappings, forward", found, expected)


@pytest.mark.parametrize(
    ("depth", "counts"),
    [(1, (2_767_872, 2_767_488)), (5, (6_458_112, 6_457_728))],
)
def test_parameters_of_the_paper(depth, counts):
    for (inputs, outputs, _), count in zip(PAIRS.values(), counts, strict=True):
        shapes = jax.eval_shape(
            FeatureMapping(outputs, depth).init, jax.random.key(0), jnp.zeros(inputs)
        )
        assert sum(x.size for x in jax.tree.leaves(shapes)) == count


def test_parameters_start_as_pytorchs():
    params = FeatureMapping(40).init(jax.random.key(0), jnp.zeros(24))["params"]
    assert params["hidden1"]["kernel"].shape == (32, 32)
    for layer, inputs in (("hidden0", 24), ("hidden1", 32), ("output", 32)):
        for x in jax.tree.leaves(params[layer]):
            assert jnp.abs(x).max() < inputs**-0.5
        deviation = inputs**-0.5 / 3**0.5  # of U(-b, b) with b = 1/sqrt(inputs)
        np.testing.assert_allclose(params[layer]["kernel"].std(), deviation, rtol=0.06)


def test_two_steps_are_the_releases(parity):
    """Losses, and parameters after Adam, of the official training script."""
    system, state = cfm.cfm(GIVEN), small_state()
    phase = system.phases[0]._replace(steps=2)
    step, carry = jax.jit(train_step(phase), static_argnums=4), begin(phase, state)
    batch = given(2, 8, 211)
    for expected in GOLDEN["losses"]:
        carry, report = step(jax.random.key(0), fixed_part(state), carry, batch, ALONE)
        found = [report.values["loss_points"], report.values["loss_rgb"]]
        np.testing.assert_allclose(found, expected, rtol=1e-6)
        parity(*RELEASE, "two steps, losses", found, expected)
        np.testing.assert_allclose(report.values["loss"], expected.sum(), rtol=1e-6)
    for name, params in carry.params.items():
        for place, layer in LAYERS.items():
            expected = GOLDEN[f"trained_{name}_{place}.weight"].T
            # A step is 1e-3 long.
            np.testing.assert_allclose(params[layer]["kernel"], expected, atol=2e-6)
            parity(*RELEASE, "two steps, weights", params[layer]["kernel"], expected)
            expected = GOLDEN[f"trained_{name}_{place}.bias"]
            np.testing.assert_allclose(params[layer]["bias"], expected, atol=2e-6)
            parity(*RELEASE, "two steps, biases", params[layer]["bias"], expected)


def test_scores_are_the_releases(parity):
    """Image score and both maps of the official inference script."""
    batch = given(2, 224, 212)
    points = batch.extras["points"]
    points[:, :60], points[:, :, 190:] = 0, 0  # background
    score = jax.jit(cfm.cfm(GIVEN).score)
    scores = score(jax.random.key(0), small_state(), batch)
    np.testing.assert_allclose(scores.image, GOLDEN["image"], rtol=1e-5)
    parity(*RELEASE, "image score", scores.image, GOLDEN["image"])
    maps = {"map_aupro": scores.map, **scores.parts}
    for name in ("map_aupro", "map_p_auroc"):
        expected = GOLDEN[name]
        found = maps[name][:, 3::8, 3::8, 0]
        np.testing.assert_allclose(found, expected, atol=1e-5 * expected.max())
        parity(*RELEASE, "maps", found, expected)
    for name in ("distance_rgb", "distance_points"):
        x = np.asarray(scores.parts[name])
        assert (x[:, :60] == 0).all() and 0 < x.max() <= 2


def test_losses_of_known_angles():
    """Equal features give 0, orthogonal ones 2 in both directions together."""
    x, y = np.eye(4, dtype=np.float32)[:2] * 3
    assert cosine(x, x) == pytest.approx(1)
    assert cosine(x, y) == 0
    assert cosine(x, -x) == pytest.approx(-1)
    assert distance(x, 2 * x) == pytest.approx(0, abs=1e-6)
    assert distance(x, y) == pytest.approx(2**0.5)
    assert distance(x, y) * distance(y, x) == pytest.approx(2)
    assert distance(x, -x) == pytest.approx(2)
    assert distance(x, 0 * x) == pytest.approx(1)
    assert np.isfinite(jax.grad(lambda v: cosine(v, jnp.asarray(x)))(0 * x)).all()


def test_smoothing_of_an_impulse():
    x = jnp.zeros((1, 61, 61, 1)).at[0, 30, 30, 0].set(1)
    for side in Config().smoothing:
        x = mean_filter(x, side)
    np.testing.assert_allclose(x.sum(), 1, rtol=1e-5)
    along, offsets = np.asarray(x.sum((0, 1, 3))), np.arange(61) - 30
    np.testing.assert_allclose((along * offsets**2).sum(), 22, rtol=1e-4)
    assert (along > 0).sum() == 39


def test_a_scaled_map():
    """Acceptance fact 7: what the three normalisations make of a factor."""
    rng = np.random.default_rng(0)
    smooth = rng.random((2, 6, 6, 1), np.float32)
    smooth[:, :2] = 0
    one, four = normalised(jnp.asarray(smooth)), normalised(jnp.asarray(4 * smooth))
    np.testing.assert_allclose(four.image, 2 * one.image, rtol=1e-6)
    np.testing.assert_allclose(four.map, one.map, rtol=1e-6)
    part = "map_p_auroc"
    np.testing.assert_allclose(four.parts[part], 2 * one.parts[part], rtol=1e-6)
    some, whole = smooth[:, 2:].mean((1, 2, 3)), smooth.mean((1, 2, 3))
    largest = smooth.max((1, 2, 3))
    np.testing.assert_allclose(one.image, largest / some**0.5, rtol=1e-6)
    np.testing.assert_allclose(one.map.max((1, 2, 3)), largest / some, rtol=1e-6)
    np.testing.assert_allclose(
        one.parts[part].max((1, 2, 3)), largest / whole**0.5, rtol=1e-6
    )


def test_an_empty_map_stays_empty():
    scores = normalised(jnp.zeros((1, 5, 5, 1)))
    assert not any(np.any(x) for x in jax.tree.leaves(scores))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("product", 6), ("sum", 5), ("max", 3), ("min", 2), ("rgb", 2), ("points", 3)],
)
def test_aggregations(name, expected):
    assert AGGREGATIONS[name](jnp.float32(2), jnp.float32(3)) == expected


def test_strips_do_not_matter():
    """Features of few rows at a time are those of the whole image."""
    batch = given(1, 12, 3)
    maps = np.random.default_rng(4).random((1, 5, 5, RGB), np.float32)
    batch = batch._replace(extras={**batch.extras, "rgb_layer2": maps})
    whole = jax.image.resize(maps, (1, 12, 12, RGB), "bilinear")
    for most, count in ((1, 1), (5, 4), (12, 12), (50, 12)):
        starts, features = cfm.strips(replace(GIVEN, rows=most), batch)
        assert len(starts) == 12 // count
        parts = [features(start) for start in starts]
        rgb, points = (np.concatenate(x, 1) for x in zip(*parts, strict=True))
        np.testing.assert_allclose(rgb, whole, atol=1e-6)
        np.testing.assert_array_equal(points, batch.extras["points"])


def test_samples_without_points_do_not_count():
    """The loss of a batch is that of its samples with points; of none it is 0."""
    system, state = cfm.cfm(GIVEN), small_state()
    loss = jax.jit(system.phases[0].updates[0].loss, static_argnums=4)
    keys, batch = jax.random.split(jax.random.key(0), 2), given(2, 8, 5)

    def mean(batch):
        each, _, _ = loss(keys, state.params, state, batch, ALONE)
        return float((each * batch.weight).sum() / batch.weight.sum())

    points = batch.extras["points"].copy()
    points[1] = 0
    half = batch._replace(extras={**batch.extras, "points": points})
    alone = batch._replace(weight=np.float32([1, 0]))
    assert mean(half) == pytest.approx(mean(alone), rel=1e-6)
    none = batch._replace(extras={**batch.extras, "points": 0 * points})
    assert mean(none) == 0


def test_clouds_of_fewer_points_than_groups_and_of_none():
    """The first sample has all points, the second three, the third none."""
    config = Config(
        backbone="resnet18",
        layers=("layer1",),
        point_layers=("block1",),
        groups=8,
        group_size=4,
        smoothing=(3,),
    )
    batch, system = make_batch(3, size=16), cfm.cfm(config)
    xyz = np.zeros_like(batch.xyz)
    xyz[0], xyz[1, 8, 4:7] = batch.xyz[0], batch.xyz[1, 8, 4:7]
    batch = batch._replace(xyz=xyz)
    rng, key = np.random.default_rng(0), jax.random.key(0)
    state = jax.tree.map(
        lambda x: jnp.float32(rng.uniform(0, 0.1, x.shape)),
        jax.eval_shape(system.init, key, batch),
    )

    @jax.jit
    def scored(state, batch):
        return system.score(key, state, with_cache(system, state, batch))

    scores = scored(state, batch)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(scores))
    assert (scores.image[:2] > 0).all()
    assert scores.image[2] == 0 and not scores.map[2].any()
    # Pooling to the image's size carries a pixel's features two pixels far at most.
    rows, columns = np.nonzero(np.asarray(scores.parts["distance_points"])[1, ..., 0])
    assert {8} <= set(rows) <= set(range(6, 11))
    assert {4, 5, 6} <= set(columns) <= set(range(2, 9))


def test_images_must_be_square():
    batch = make_batch(1, size=8)
    batch = batch._replace(rgb=batch.rgb[:, :, :6], xyz=batch.xyz[:, :, :6])
    system = cfm.cfm(GIVEN)
    with pytest.raises(ValueError, match="data.image_size: cfm needs square images"):
        jax.eval_shape(system.init, jax.random.key(0), batch)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"layers": ("layer9",)}, "model.layers"),
        ({"point_layers": ("block13",)}, "model.point_layers"),
        ({"points": "sift"}, "model.points"),
        ({"aggregation": "mean"}, "model.aggregation"),
        ({"smoothing": (5, 4)}, "model.smoothing: expected odd numbers"),
        ({"groups": 2}, "model.groups: expected at least 3"),
    ],
)
def test_a_wrong_field_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        Config(**change)


def test_features_of_a_sample_take_8_megabytes():
    """What is kept of one sample at the paper's size, and what is made of it."""
    system, config = cfm.cfm(), Config()
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    batch = Batch(rgb=image, xyz=image)
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    kept = jax.eval_shape(system.cache, state, batch)
    assert kept["tokens"].shape == (1, 1024, 1152)
    assert kept["rgb_norm12"].shape == (1, 28, 28, 768)
    assert sum(x.size * x.dtype.itemsize for x in kept.values()) == 8_331_264
    batch = batch._replace(extras=kept)
    rgb, points = jax.eval_shape(lambda b: cfm.strips(config, b)[1](0), batch)
    assert rgb.shape == (1, 8, 224, 768) and points.shape == (1, 8, 224, 1152)
    assert sum(x.size for x in jax.tree.leaves(state.params)) == 5_535_360
    scores = jax.eval_shape(system.score, jax.random.key(0), state, batch)
    assert scores.map.shape == (1, 224, 224, 1) and scores.image.shape == (1,)


REAL = Config(
    layers=("norm4",),
    point_layers=("block2", "block3", "block4"),
    groups=64,
    group_size=32,
    rows=1,
)


@pytest.mark.slow
def test_features_of_a_real_sample(real_class, parity):
    """Seeded networks of four blocks on a scan, as the release extracts features."""
    golden = np.load(FOLDER / "cfm_real_sample.npz")
    system, place = cfm.cfm(REAL), real_class / "train" / "good"
    recipe = RECIPES["raw"]
    chosen = {"image_size": 224, "interpolation": "bicubic"}
    xyz, _ = read_xyz(place / "xyz/000.tiff")
    sample = Sample(read_rgb(place / "rgb/000.png"), xyz)
    params = recipe.fit(complete_parameters("raw", chosen), iter(()))
    record = recipe.apply(params, sample).record
    batch = Batch(
        rgb=np.float32(record["rgb"])[None] / 255,
        xyz=record["xyz"][None],
        weight=np.ones(1, np.float32),
    )
    state = jax.eval_shape(system.init, jax.random.key(0), batch)
    files = {
        "backbone": public_vits.drawn_weights("vit_base_patch8_224", 221, 4),
        "points": public_point_transformers.drawn_weights("point_mae", 222, 4),
    }
    for part in system.pretrained:
        file = weights.WeightFile(Path("w.npz"), files[part.name], "0" * 64, {})
        state = part.put(state, part.read(file, part.get(state)))
    batch = batch._replace(extras=jax.jit(system.cache)(state, batch))
    picked = np.s_[7::24]
    _, features = cfm.strips(REAL, batch)
    rows = [jax.jit(features)(start) for start in range(*picked.indices(224))]
    rgb, points = (np.concatenate(x, 1)[0] for x in zip(*rows, strict=True))

    def near(what, found, expected):
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        parity(*RELEASE, f"real sample, {what}", found, expected)

    near("tokens", batch.extras["tokens"][0, :, ::32], golden["tokens_running"])
    near("features of RGB", rgb[:, picked, ::32], golden["rgb"])
    near("features of points", points[:, picked, ::32], golden["points_running"])
    masked = np.unpackbits(golden["masked"]).reshape(224, 224)[picked] > 0
    np.testing.assert_array_equal(~cfm.has_points(points), masked)

    there = (batch.xyz != 0).all(-1, keepdims=True)
    found = jax.jit(
        partial(
            point_features,
            name="point_mae",
            layers=REAL.point_layers,
            groups=64,
            group_size=32,
            statistics="batch",
        )
    )(state.frozen["points"], xyz=batch.xyz, valid=there)
    np.testing.assert_allclose(found.centres[0], golden["centres"], atol=1e-7)
    near("tokens", found.tokens[0, :, ::32], golden["tokens_batch"])
