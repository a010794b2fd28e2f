"""3DSR: sizes, what is altered and what not, the loss by hand, what a step moves."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import ALONE, Batch, sample_keys, without_truth
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.nn.scope import training
from ad3d_jax.systems.dsr import detector, dsr3d, networks
from ad3d_jax.systems.modalities import CHANNELS
from ad3d_jax.testing import make_batch

CONFIG = dsr3d.Config(
    dada_hidden=16,
    dada_residual=8,
    dada_residual_layers=1,
    dada_kernels="he",
    codes=40,
    code_dimensions=8,
    restriction_widths=(8, 16),
    decoder_width=8,
    segmentation_width=4,
    patch_sides=(1, 2),
    steps=10,
    score_window=5,
)
KEY = jax.random.key(4)
ROWS = 4


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def shapes_of(config, size):
    batch = Batch(
        rgb=np.zeros((1, size, size, 3), np.float32),
        extras={"depth_normalised": np.zeros((1, size, size, 1), np.float32)},
    )
    system = dsr3d.dsr3d(config)
    return batch, jax.eval_shape(lambda key: system.init(key, batch), KEY)


@pytest.fixture(scope="module")
def batch():
    batch = without_truth(make_batch(ROWS, size=32))
    foreground = np.zeros((ROWS, 32, 32, 1), bool)
    foreground[:, 2:14, 4:28] = True
    return jax.tree.map(jnp.asarray, batch._replace(foreground=foreground))


@pytest.fixture(scope="module")
def state(batch):
    return dsr3d.dsr3d(CONFIG).init(KEY, batch)


def with_hyper(state, **values):
    changed = {name: jnp.float32(value) for name, value in values.items()}
    assert set(changed) <= set(state.hyper)
    return state._replace(hyper={**state.hyper, **changed})


@pytest.fixture(scope="module")
def anomalies(state, batch):
    """Returns what is made of the batch, by hyperparameters; one compilation."""
    modules = networks.build(CONFIG)

    @jax.jit
    def make(state):
        keys = sample_keys(KEY, batch)
        return detector.make_anomalies(
            CONFIG, modules, keys, state.params, state, batch
        )

    def made(**hyper):
        hyper = {"probability_normal": 0.0, "threshold_low": 0.0} | hyper
        return make(with_hyper(state, **{"threshold_high": 0.1, **hyper}))

    return made


@pytest.mark.parametrize(
    ("modalities", "channels", "decoder", "segmentation", "trained"),
    [
        (("depth", "rgb"), 4, 36_992_068, 1_405_090, 54_623_718),
        (("depth",), 1, 36_985_921, 1_403_362, 54_615_843),
    ],
)
def test_sizes_are_the_published_ones(
    modalities, channels, decoder, segmentation, trained
):
    config = dsr3d.Config(modalities=modalities)
    batch, state = shapes_of(config, 384)
    sizes = {name: count(tree) for name, tree in state.params.items()}
    assert sizes["restriction_lo"] == sizes["restriction_hi"] == 8_113_280
    assert sizes["object_decoder"] == decoder
    assert sizes["segmentation"] == segmentation
    assert sum(sizes[name] for name in networks.TRAINED) == trained
    image = jax.ShapeDtypeStruct((1, 384, 384, channels), jnp.float32)
    inspect = partial(networks.inspect, config, networks.build(config))
    codes, out = jax.eval_shape(inspect, state, image)
    assert codes.q_lo.shape == (1, 48, 48, 256)
    assert codes.q_hi.shape == (1, 96, 96, 256)
    assert out.general.shape == out.specific.shape == (1, 384, 384, channels)
    assert out.probabilities.shape == (1, 384, 384, 2)


def detector_loss(config):
    return dsr3d.dsr3d(config).phases[1].updates[0].loss


def differs(one, other):
    return np.any(np.asarray(one) != np.asarray(other), axis=-1)


@pytest.mark.parametrize(
    ("both", "lower", "cell"), [(1.0, 0.0, 8), (0.0, 1.0, 8), (0.0, 0.0, 4)]
)
def test_levels_are_altered_by_their_case(anomalies, both, lower, cell):
    made = anomalies(
        probability_both=both, probability_lower=lower, probability_shuffle=0.0
    )
    mask = np.asarray(made.mask)[..., 0]
    assert 0.1 < mask.mean() < 0.9
    cells = mask.reshape(ROWS, 32 // cell, cell, 32 // cell, cell)
    np.testing.assert_array_equal(cells.min((2, 4)), cells.max((2, 4)))
    lo = differs(made.altered["lo"], made.clean.q_lo)
    hi = differs(made.altered["hi"], made.clean.q_hi)
    inside = mask[:, ::8, ::8] > 0, mask[:, ::4, ::4] > 0
    if both or lower:
        np.testing.assert_array_equal(lo, inside[0])
    else:
        assert not lo.any()
    if not both and lower:
        assert not hi.any()
    else:
        assert hi[inside[1]].mean() > 0.5
    if not both and not lower:
        np.testing.assert_array_equal(hi, inside[1])


def test_normal_samples_keep_their_codes(anomalies):
    made = anomalies(probability_normal=1.0)
    assert not np.asarray(made.mask).any()
    assert not differs(made.altered["lo"], made.clean.q_lo).any()
    # Codes at a tie may flip: the lower level passes twice, once with rounding.
    assert differs(made.altered["hi"], made.clean.q_hi).mean() < 0.01


def test_the_mask_is_turned_with_the_part(state, batch):
    state = with_hyper(
        state,
        rotation=90.0,
        probability_normal=0.0,
        probability_both=0.0,
        probability_lower=0.0,
        threshold_low=0.0,
        threshold_high=0.0,
    )
    shares = {}
    for turn in (True, False):
        config = dataclasses.replace(CONFIG, turn_foreground=turn)
        synthesise = jax.jit(dsr3d.dsr3d(config).synthesise)
        made = synthesise(sample_keys(KEY, batch), state, batch)
        cells = np.asarray(batch.foreground).reshape(ROWS, 8, 4, 8, 4).any((2, 4))
        cells = cells.repeat(4, 1).repeat(4, 2)
        mask = np.asarray(made["mask"])[..., 0] > 0
        shares[turn] = (mask & cells).sum() / mask.sum()
    assert shares[False] == 1.0 and shares[True] < 0.9


@pytest.mark.slow
@pytest.mark.parametrize("distance", ["l2", "l1"])
def test_the_loss_by_hand(state, batch, distance):
    config = dataclasses.replace(CONFIG, code_distance=distance)
    modules, loss = networks.build(config), detector_loss(config)
    keys = sample_keys(KEY, batch)

    @jax.jit
    def run(state):
        each, sums, info = loss(keys, state.params, state, batch, ALONE)
        made = detector.make_anomalies(
            config, modules, keys, state.params, state, batch
        )
        scope = training(state.params, state, batch, ALONE)
        books = state.extra["codebooks"]
        out = networks.forward(config, modules, scope, books, made.altered)
        return each, sums, info, made, out

    each, sums, info, made, out = jax.device_get(run(state))
    axes = (1, 2, 3)
    power = {"l2": 2, "l1": 1}[distance]
    total = np.mean(np.abs(out.restored["lo"] - made.clean.q_lo) ** power, axes)
    total += np.mean(np.abs(out.restored["hi"] - made.clean.q_hi) ** power, axes)
    total += 10 * np.mean((out.specific - made.image) ** 2, axes)
    hit = np.where(
        made.mask > 0, out.probabilities[..., 1:], out.probabilities[..., :1]
    )
    total += np.mean(-((1 - hit) ** 2) * np.log(hit), axes)
    total += np.mean(1 - hit, axes)  # of two classes, both are off by the same
    np.testing.assert_allclose(each, total, rtol=2e-3)
    for level, index in (("lo", made.clean.index_lo), ("hi", made.clean.index_hi)):
        counts = np.bincount(index.ravel(), minlength=config.codes)
        np.testing.assert_array_equal(sums["usage"][level], counts)


@pytest.mark.slow
@pytest.mark.parametrize("detached", [False, True])
def test_whether_the_segmentation_trains_what_it_compares(state, batch, detached):
    config = dataclasses.replace(CONFIG, detached=detached)
    state = with_hyper(state, loss_codes=0.0, loss_image=0.0)
    loss, keys = detector_loss(config), sample_keys(KEY, batch)

    def total(params):
        return loss(keys, params, state, batch, ALONE)[0].sum()

    gradient = jax.jit(jax.grad(total))(state.params)
    moved = {n: any(map(np.any, jax.tree.leaves(g))) for n, g in gradient.items()}
    assert moved["segmentation"]
    for name in ("object_decoder", "restriction_lo", "restriction_hi"):
        assert moved[name] == (not detached), name


@pytest.mark.slow
def test_a_step_moves_the_detector_alone(state, batch):
    phase = dsr3d.dsr3d(CONFIG).phases[1]
    step = jax.jit(partial(train_step(phase), across=ALONE))
    carry, report = step(KEY, fixed_part(state), begin(phase, state), batch)
    same = jax.tree.map(np.array_equal, carry.params, state.params)
    assert all(jax.tree.leaves(same["dada"]))
    for name in networks.TRAINED:
        assert not all(jax.tree.leaves(same[name])), name
    books = jax.tree.map(
        np.array_equal, carry.extra["codebooks"], state.extra["codebooks"]
    )
    assert all(jax.tree.leaves(books))
    for level, cells in (("lo", 16), ("hi", 64)):
        usage = np.asarray(carry.extra["usage"][level])
        assert usage.sum() == pytest.approx(0.01 * ROWS * cells, rel=1e-5)
        share = usage[usage > 0] / usage.sum()
        perplexity = np.exp(-(share * np.log(share)).sum())
        found = report.values[f"class_perplexity_{level}"]
        assert float(found) == pytest.approx(perplexity, rel=1e-4)


def test_score_is_the_maximum_of_the_smoothed_map(state, batch):
    system = dsr3d.dsr3d(CONFIG)
    scores = jax.jit(system.score)(KEY, state, batch)
    np.testing.assert_array_equal(scores.image, np.max(scores.map, (1, 2, 3)))
    image = networks.images(CONFIG, batch)
    inspect = partial(networks.inspect, CONFIG, networks.build(CONFIG))
    codes, out = jax.jit(inspect)(state, image)
    padded = np.pad(np.asarray(out.probabilities)[..., 1], ((0, 0), (2, 2), (2, 2)))
    assert scores.map[1, 9, 7, 0] == pytest.approx(padded[1, 9:14, 7:12].mean(), 1e-4)
    for level, cell in (("lo", 8), ("hi", 4)):
        colours = np.asarray(scores.parts[f"codes_{level}"])
        index = np.asarray(getattr(codes, f"index_{level}"))
        assert colours.shape == (ROWS, 32, 32, 3)
        seen = {
            (int(number), tuple(colour))
            for number, colour in zip(
                index.repeat(cell, 1).repeat(cell, 2).ravel(),
                colours.reshape(-1, 3),
                strict=True,
            )
        }
        assert len(seen) == len(np.unique(index)) > 1
    names = {f"reconstruction_{way}{m}" for way in ("", "general_") for m in CHANNELS}
    assert set(scores.parts) == names | {"codes_lo", "codes_hi"}


def test_smoothing():
    ones = jnp.ones((1, 24, 24, 1))
    mean = dsr3d.smoothed(dsr3d.Config(), ones)
    assert mean[0, 0, 0, 0] == pytest.approx(36 / 121) and mean[0, 12, 12, 0] == 1
    gaussian = dsr3d.smoothed(dsr3d.Config(score_sigma=2.0), ones)
    np.testing.assert_allclose(gaussian, 1.0, rtol=1e-5)


def test_unknown_values():
    for change in ({"fill": "grey"}, {"code_distance": "l3"}, {"schedule": "linear"}):
        with pytest.raises(ValueError, match=f"model.{next(iter(change))}"):
            dsr3d.dsr3d(dataclasses.replace(CONFIG, **change))
