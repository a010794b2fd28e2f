"""CPMF against its release, stage by stage, and against its sheet."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn_views import SIDE, VIEWS, drawn_sample
from oracles.public_resnets import drawn_weights
from scipy.ndimage import maximum_filter
from sklearn.random_projection import SparseRandomProjection

from ad3d_jax.base import ALONE, Batch, State
from ad3d_jax.features.extractors import extractor, init_backbone
from ad3d_jax.features.patches import as_rows, cell_pool
from ad3d_jax.features.weights import WeightFile
from ad3d_jax.ops import coreset, knn
from ad3d_jax.systems import banks, cpmf
from ad3d_jax.systems.cpmf import Config, joined, view_features
from data_pipelines.recipes import RECIPES, Sample
from data_pipelines.samples import complete_parameters
from experiments.configs.cpmf import VARIANTS, get_config

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "cpmf_64.npz"
CONFIG = Config(views=VIEWS)
RELEASE = "CPMF", "caoyunkang/CPMF 5c2531c"


def shape_of(**fields):
    """Returns the shapes of the state and of the cells of one sample."""
    image = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    extras = {
        "views": jax.ShapeDtypeStruct((1, 27, 224, 224, 1), jnp.uint8),
        "view_positions": jax.ShapeDtypeStruct((1, 27, 224, 224, 2), jnp.int16),
    }
    batch = Batch(xyz=image, extras=extras)
    system = cpmf.cpmf(Config(**fields))
    state = jax.eval_shape(lambda b: system.init(jax.random.key(0), b), batch)
    return state, jax.eval_shape(system.cache, state, batch)["cells"].shape


# Sheet §10, facts 2 and 5.
@pytest.mark.parametrize(
    ("fields", "dimensions"),
    [
        ({}, 64 + 128 + 256 + 33),
        ({"features": "views"}, 448),
        ({"features": "fpfh", "backbone": ""}, 33),
        ({"backbone": "wide_resnet50"}, 1825),
    ],
)
def test_features_of_a_sample(fields, dimensions):
    state, cells = shape_of(**fields)
    assert cells == (1, 28, 28, dimensions)
    assert state.memory["bank"].rows.shape == (0, dimensions)
    assert ("backbone" in state.frozen) == (dimensions > 33)


def test_a_bank_keeps_a_tenth_of_a_class():
    # Sheet §10, fact 9.
    phase = cpmf.cpmf(Config()).phases[0]
    rows = {"rows": jax.ShapeDtypeStruct((244, 784, 481), jnp.float32)}
    assert phase.plan(None, rows).kept == 19_129


def test_needs_follow_the_features():
    def needs(**fields):
        system = cpmf.cpmf(Config(**fields))
        assert system.needs_fit == system.needs_score
        return system.needs_fit, [row.sources for row in system.pretrained]

    views = ("xyz", "extras.views", "extras.view_positions")
    assert needs() == (views, [("tv_in1k",)])
    assert needs(features="views") == (views, [("tv_in1k",)])
    assert needs(features="fpfh", backbone="") == (("xyz",), [])


# --- Against the release --------------------------------------------------------------


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


@functools.cache
def described(seed):
    """Returns what the network sees, the histograms and the points [1,H,W,...]."""
    sample = drawn_sample(seed)
    there = np.all(sample.xyz != 0, -1, keepdims=True)
    seen = _view_features(backbone(), sample.views, sample.positions, there)
    return seen[None], sample.histograms[None], there[None]


_view_features = jax.jit(functools.partial(view_features, CONFIG))


@functools.cache
def backbone():
    """Returns the network with the weights that the release was given."""
    shapes = jax.eval_shape(
        functools.partial(init_backbone, name="resnet18"), jax.random.key(0)
    )
    weights = drawn_weights("resnet18", 41, stages=3)
    file = WeightFile(Path("w.npz"), weights, "0" * 64, {})
    return extractor("resnet18").read(file, shapes)


def cells_of(*seeds):
    """Returns the cells of drawn samples, [B,28,28,481]."""
    parts = [np.concatenate(x) for x in zip(*map(described, seeds), strict=True)]
    return np.asarray(cell_pool(joined(parts[:2], parts[2])))


def close(found, expected, tolerance):
    """Within a tolerance of the largest value, everywhere."""
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * scale)


def test_features_of_points_are_the_releases(golden, parity):
    seen, _, there = described(200)
    both = seen[there[..., 0]][::40, ::4], golden["view_features"]
    close(*both, 1e-4)
    parity(*RELEASE, "features of points in all views", *both)
    assert not np.asarray(seen)[~there[..., 0]].any()


def test_cells_are_the_releases(golden, parity):
    cells = cells_of(200, 201)
    found = np.asarray(as_rows(cells))
    close(found[:, ::13, ::4], golden["patches"], 1e-4)
    parity(*RELEASE, "cells", found[:, ::13, ::4], golden["patches"])
    seen, histograms, there = described(200)
    for part, name in ((seen, "views"), (histograms, "fpfh")):
        alone = np.asarray(as_rows(cell_pool(joined([part], there))))[0, ::13]
        close(alone[:, ::4] if name == "views" else alone, golden[name], 1e-4)


def test_rows_and_scores_are_the_releases(golden, parity):
    """The release's projection is drawn again; its rows and ours are the same."""
    cells = cells_of(200, 201, 202)
    rows = cells[:2].reshape(-1, 481)
    projection = SparseRandomProjection(eps=0.9, random_state=0).fit_transform(rows)
    select = coreset.greedy(0.1, precision="float16")
    projected = np.float32(projection)
    data, carry = select.prepare(jax.random.key(0), State(), projected)
    while (done := select.done(carry))[0] < done[1]:
        carry = select.advance(data, carry, ALONE)
    picked = select.take(projected, carry).number
    np.testing.assert_array_equal(picked, golden["rows"])
    parity(*RELEASE, "coreset in float16, picks", picked, golden["rows"])

    system = cpmf.cpmf(CONFIG)
    memory = {"bank": knn.build(rows[picked]), "origin": picked}
    batch = Batch(xyz=np.zeros((1, SIDE, SIDE, 3)), extras={"cells": cells[2:]})
    scores = jax.jit(system.score)(jax.random.key(0), State(memory=memory), batch)
    np.testing.assert_allclose(scores.image, [golden["image"]], rtol=1e-3)
    parity(*RELEASE, "image score", scores.image, [golden["image"]])
    both = scores.map[0, 1::2, 1::2, 0], golden["map"]
    close(*both, 1e-3)
    parity(*RELEASE, "map", *both)
    raw = banks.compare(CONFIG, State(memory=memory), cells[2:], (SIDE, SIDE))
    both = raw.map[0, 1::2, 1::2, 0], golden["before"]
    close(*both, 1e-3)
    parity(*RELEASE, "map before the 8-bit blur", *both)


# --- What the features are ------------------------------------------------------------


def test_the_order_of_views_does_not_matter():
    # Sheet §10, fact 6.
    sample = drawn_sample(203)
    there = np.all(sample.xyz != 0, -1, keepdims=True)
    order = [2, 0, 1]
    expected = _view_features(backbone(), sample.views, sample.positions, there)
    found = _view_features(
        backbone(), sample.views[order], sample.positions[order], there
    )
    close(np.asarray(found), np.asarray(expected), 1e-5)


def test_parts_have_length_one_before_they_are_averaged():
    # Sheet §10, facts 3, 4 and 10.
    random = np.random.default_rng(0)
    there = random.random((1, 32, 32, 1)) < 0.7
    inside = there[0, ..., 0]
    # As FPFH: three histograms of 11 bins, each of which sums to 200.
    histograms = np.float32(200 * random.dirichlet(np.ones(11), (1, 32, 32, 3)))
    histograms = np.where(there, histograms.reshape(1, 32, 32, 33), 0)
    np.testing.assert_allclose(histograms[0][inside].sum(1), 600, rtol=1e-5)
    alone = np.asarray(joined([histograms], there))[0]
    np.testing.assert_allclose(np.linalg.norm(alone[inside], axis=1), 1, atol=1e-6)
    other = random.random((1, 32, 32, 5), np.float32)
    both = np.asarray(joined([other, histograms], there))
    lengths = np.linalg.norm(both[0], axis=-1)
    np.testing.assert_allclose(lengths[inside], np.sqrt(2), atol=1e-6)
    assert not lengths[~inside].any()
    pooled = np.linalg.norm(cell_pool(both, 8)[0], axis=-1)
    assert pooled.max() < np.sqrt(2)
    same = np.asarray(joined([jnp.ones((1, 32, 32, 4))] * 2, np.ones_like(there)))
    pooled = np.linalg.norm(cell_pool(same, 8)[0], axis=-1)
    np.testing.assert_allclose(pooled, np.sqrt(2), atol=1e-6)
    # What the network does not respond to stays 0.
    nothing = np.asarray(joined([jnp.zeros_like(histograms), histograms], there))
    assert np.isfinite(nothing).all() and not nothing[..., :33].any()


def test_views_beyond_those_asked_for_are_not_read():
    sample = drawn_sample(204)
    frozen = {"backbone": backbone()}
    config = Config(features="views", views=2)
    cells = jax.jit(functools.partial(cpmf.cell_features, config))

    def seen(*order):
        views = {
            "views": sample.views[None, list(order)],
            "view_positions": sample.positions[None, list(order)],
        }
        return np.asarray(cells(frozen, Batch(xyz=sample.xyz[None], extras=views)))

    np.testing.assert_array_equal(seen(0, 1, 2), seen(0, 1, 0))
    assert not np.allclose(seen(0, 1, 2), seen(0, 2, 1), rtol=0.1)
    with pytest.raises(ValueError, match="at most the 3 views .* makes, found 4"):
        extras = {"views": sample.views[None], "view_positions": sample.positions[None]}
        batch = Batch(xyz=sample.xyz[None], extras=extras)
        cpmf.cell_features(Config(views=4), frozen, batch)


def test_few_points_and_none_have_finite_cells():
    """None, one, two and eight points; normals and FPFH ask for 30 and 100."""
    row, column = np.indices((32, 32))
    whole = np.float32(np.stack([column + 1, row + 1, 500 + 0 * row], -1) / 1000)
    given = {"image_size": 32, "extras": ("views", "view_positions")}
    given |= {"views": 2, "view_size": 32, "point_size": 3}
    params = complete_parameters("raw", given)
    kept = np.zeros((4, 32, 32, 1), bool)
    for number, count in enumerate((0, 1, 2, 8)):
        kept[number, 9, 8 : 8 + count] = True
    samples = [Sample(xyz=np.where(there, whole, 0)) for there in kept]
    records = [RECIPES["raw"].apply(params, sample).record for sample in samples]
    xyz, *extras = (
        np.stack([record[name] for record in records])
        for name in ("xyz", *given["extras"])
    )
    batch = Batch(xyz=xyz, extras=dict(zip(given["extras"], extras, strict=True)))
    config = Config(layers=("layer1",), views=2, cells=8)
    cells = jax.jit(functools.partial(cpmf.cell_features, config))
    found = np.asarray(cells({"backbone": backbone()}, batch))
    assert found.shape == (4, 8, 8, 64 + 33) and np.isfinite(found).all()
    filled = kept.reshape(4, 8, 4, 8, 4).any((2, 4))  # cells of 4 x 4 pixels
    seen, histograms = found[..., :64].any(-1), found[..., 64:].any(-1)
    assert seen[filled].all()
    assert not found[~maximum_filter(filled, (1, 3, 3))].any()
    # A point without another one has no pair to count.
    assert not histograms[1].any()
    assert histograms[2:][filled[2:]].all()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"features": "rgb"}, "model.features: expected one of .*'rgb'"),
        ({"backbone": "vgg"}, "model.backbone: expected one of"),
        ({"backbone": ""}, "model.backbone: expected one of"),
        ({"views": 0}, r"model.views: expected a whole number|expected in \[1, 27\]"),
        ({"views": 28}, "model.views: .*28"),
        ({"blur": "box"}, "model.blur: expected one of"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        cpmf.cpmf(Config(**fields))


def test_every_variant_builds_and_asks_for_its_views():
    for name in VARIANTS:
        config = get_config(name)
        cpmf.cpmf(Config(**config.model.to_dict()))
        made = config.data.recipe_parameters.get("views", 27)
        assert made == config.model.views
    assert get_config().model.source == "tv_in1k"
    assert get_config().data.recipe == "plane"
