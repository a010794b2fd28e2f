"""EasyNet against its paper: sizes, depth input, synthesis, loss, gate, phases."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import ALONE, Batch, Gather, Train, fold_each, without_truth
from ad3d_jax.nn.scope import scoring
from ad3d_jax.ops import entropy
from ad3d_jax.ops.perlin import rotated_perlin_noise
from ad3d_jax.systems import easynet_networks
from ad3d_jax.systems.easynet import (
    HYPER,
    Config,
    easynet,
    make_anomalies,
    normalised_depth,
    takes_fusion,
    visible_mask,
)
from ad3d_jax.testing import make_batch
from experiments.configs.easynet import VARIANTS, get_config

TINY = {"width": 4, "mlp_width": 8, "textures": 4, "texture_size": 32}


def shapes_of(config, size=256):
    """Returns the shapes of the state and of the scores of one sample."""
    image = functools.partial(jax.ShapeDtypeStruct, (1, size, size, 3))
    batch = Batch(
        rgb=image(jnp.float32),
        depth=jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32),
        foreground=jax.ShapeDtypeStruct((1, size, size, 1), jnp.bool_),
    )
    system, key = easynet(config), jax.random.key(0)
    state = jax.eval_shape(system.init, key, batch)
    scores = jax.eval_shape(lambda s, b: system.score(key, s, b), state, batch)
    return state, scores


@functools.cache
def ready(config):
    """Returns (system, state, batch) of tiny networks that let signals through.

    Kernels of the release's size, N(0, 0.02), need running statistics to be seen.
    """
    system = easynet(config)
    batch = without_truth(make_batch(4, size=32))
    state = system.init(jax.random.key(1), batch)

    def louder(x):
        return x * math.sqrt(2 / math.prod(x.shape[:3])) / 0.02 if x.ndim == 4 else x

    return system, state._replace(params=jax.tree.map(louder, state.params)), batch


def sample_keys(count=4):
    return jax.random.split(jax.random.key(5), count)


def losses_of(phase, state, batch):
    """Returns what the phase's loss gives, compiled."""

    @jax.jit
    def run(state, batch):
        return phase.updates[0].loss(sample_keys(), state.params, state, batch, ALONE)

    return run(state, batch)


# --- Networks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "layers", "count"),
    [
        ("rgb", 2, 70_037_513),
        ("depth", 2, 70_037_513),
        ("rgbd", 2, 139_941_132),
        ("fusion1", 1, 138_829_842),
        ("fusion1", 2, 140_599_314),
        ("fusion1", 3, 142_175_250),
        ("fusion2", 2, 140_599_314),
    ],
)
def test_parameters_are_as_many_as_the_code_has(mode, layers, count):
    state, _ = shapes_of(Config(mode=mode, layers=layers), size=32)
    leaves = jax.tree.leaves(state.params)
    assert sum(math.prod(x.shape) for x in leaves) == count
    if mode in ("rgb", "depth"):
        restore = jax.tree.leaves(state.params[f"branch_{mode}"]["restore"])
        assert sum(math.prod(x.shape) for x in restore) == 69_048_579


def test_shapes_at_full_size():
    _, scores = shapes_of(Config())
    parts = {name: x.shape for name, x in scores.parts.items()}
    one = (1, 256, 256, 1)
    assert scores.map.shape == one and scores.image.shape == (1,)
    assert parts == {
        "reconstruction_rgb": (1, 256, 256, 3),
        "reconstruction_depth": one,
        **{"map_rgb": one, "map_fusion": one, "gate": one},
    }


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_each_head_reads_its_own_modalities(layers):
    config = Config(layers=layers, **TINY)
    _, state, batch = ready(config)
    networks = easynet_networks.build_networks(config)
    scope = scoring(state)

    @jax.jit
    def run(rgb, depth):
        inputs = {"rgb": rgb, "depth": depth}
        heads = ("rgb", "fusion")
        return easynet_networks.forward(config, networks, scope, inputs, heads)

    one = run(batch.rgb, batch.depth)
    other = run(batch.rgb, batch.depth + 0.2)
    width = 2 * config.width if layers == 1 else layers * config.mlp_width
    assert all(one.pooled[m].shape == (4, width) for m in ("rgb", "depth"))
    np.testing.assert_array_equal(one.maps["rgb"], other.maps["rgb"])
    np.testing.assert_array_equal(one.pooled["rgb"], other.pooled["rgb"])
    assert np.abs(one.maps["fusion"] - other.maps["fusion"]).max() > 0
    assert np.abs(one.pooled["depth"] - other.pooled["depth"]).max() > 0


def test_blue_first_is_the_same_with_the_image_reversed():
    plain, reversed_ = Config(mode="rgb", **TINY), Config(mode="rgb", bgr=True, **TINY)
    system, state, batch = ready(plain)
    backwards = batch._replace(rgb=batch.rgb[..., ::-1])
    one = jax.jit(system.score)(jax.random.key(0), state, batch)
    other = jax.jit(easynet(reversed_).score)(jax.random.key(0), state, backwards)
    np.testing.assert_array_equal(one.map, other.map)
    np.testing.assert_array_equal(
        one.parts["reconstruction_rgb"], other.parts["reconstruction_rgb"][..., ::-1]
    )


# --- Depth and synthesis --------------------------------------------------------------


def test_depth_over_all_pixels_is_the_releases():
    depth = np.random.default_rng(0).uniform(0.5, 0.6, (2, 8, 8, 1))
    depth[:, :3] = 0
    expected = np.stack([(z - z.min()) / (z.max() - z.min()) for z in depth])
    config = Config(depth_range="all_pixels")
    found = normalised_depth(config, jnp.float32(depth))
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found[:, 3:].min() > 0.8  # the object has little of the range

    config = Config(depth_range="all_pixels", depth_8bit=True)
    found = normalised_depth(config, jnp.float32(depth)) * 255
    levels = (expected * 255).astype(np.uint8)
    assert np.mean(np.round(found) == levels) > 0.98
    np.testing.assert_allclose(found, np.round(found), atol=1e-4)


def test_depth_over_the_object_by_hand():
    depth = jnp.float32([0, 0.5, 0.505, 0.51]).reshape(1, 2, 2, 1)
    nothing = jnp.zeros((1, 2, 2, 1))
    flat = jnp.float32([0, 0.5, 0.5, 0.5]).reshape(1, 2, 2, 1)
    found = normalised_depth(Config(), jnp.concatenate([depth, nothing, flat]))
    expected = [[0, 0.1, 0.5, 0.9], [0, 0, 0, 0], [0, 0.1, 0.1, 0.1]]
    np.testing.assert_allclose(found.reshape(3, 4), expected, atol=1e-5)


def test_inside_the_mask_depth_is_the_noise_itself():
    system, state, batch = ready(Config(**TINY))
    hyper = {**state.hyper, "probability_normal": jnp.float32(0)}
    keys = sample_keys(4)
    made = jax.jit(system.synthesise)(keys, state._replace(hyper=hyper), batch)
    mask = np.asarray(made["mask"]) > 0
    assert mask.any()
    clean, altered = made["clean_depth"], np.asarray(made["altered_depth"])
    assert altered[mask].min() > 0.5
    np.testing.assert_array_equal(altered[~mask], np.asarray(clean)[~mask])
    first = jax.vmap(lambda key: jax.random.split(key, 7)[0])(fold_each(keys, 0))
    noise = jax.vmap(lambda key: rotated_perlin_noise(key, 32, 32))(first)
    np.testing.assert_allclose(altered[mask], noise[..., None][mask], atol=1e-6)
    rgb_changed = np.any(made["altered_rgb"] != made["clean_rgb"], axis=-1)
    assert not rgb_changed[~mask[..., 0]].any() and rgb_changed.any()


def test_a_head_learns_what_its_modality_shows():
    config = Config(**TINY)
    _, state, batch = ready(config)
    hyper = dict(state.hyper, probability_normal=0.0, probability_single=1.0)
    batch = jax.tree.map(lambda x: jnp.concatenate([x] * 4), batch)
    state = state._replace(hyper=hyper)
    made = jax.jit(functools.partial(make_anomalies, config))(
        sample_keys(16), state, batch
    )
    # One image of each pair stays clean: its mask is empty, the pair's is not.
    area = {
        head: np.asarray(visible_mask(made, head).sum((1, 2, 3)))
        for head in ("rgb", "depth", "fusion")
    }
    altered = area["fusion"] > 0
    assert altered.any() and (area["rgb"] > 0).any() and (area["depth"] > 0).any()
    assert ((area["rgb"] > 0) ^ (area["depth"] > 0))[altered].all()
    np.testing.assert_array_equal(area["rgb"] + area["depth"], area["fusion"])


# --- Training -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "terms"),
    [
        ("rgb", {"rgb", "focal_rgb"}),
        ("depth", {"depth", "focal_depth"}),
        pytest.param(
            *("rgbd", {"rgb", "depth", "focal_fusion"}), marks=pytest.mark.slow
        ),
        pytest.param(
            *("fusion1", {"rgb", "depth", "focal_rgb", "focal_fusion"}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_terms_of_the_loss(mode, terms):
    system, state, batch = ready(Config(mode=mode, **TINY))
    (phase, *_) = system.phases
    weights = {name: 1.0 + i for i, name in enumerate(sorted(terms))}
    hyper = {**state.hyper, **{f"loss_{n}": w for n, w in weights.items()}}
    total, _, info = losses_of(phase, state._replace(hyper=hyper), batch)
    assert set(info) == terms | {"mask_area"}
    expected = sum(weights[name] * info[name] for name in terms)
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert all(HYPER[f"loss_{name}"] == 1 for name in terms)


def test_fusion2_trains_depth_on_top_of_frozen_colour():
    system, state, batch = ready(Config(mode="fusion2", **TINY))
    rgb, depth, calibrate = system.phases
    assert isinstance(rgb, Train) and isinstance(calibrate, Gather)
    assert set(rgb.updates[0].trainable) == {"branch_rgb", "head_rgb"}
    assert set(depth.updates[0].trainable) == {"branch_depth", "head_fusion"}

    def outcome(phase):
        def run():
            _, sums, info = phase.updates[0].loss(
                sample_keys(), state.params, state, batch, ALONE
            )
            return sums, info

        sums, info = jax.eval_shape(run)
        return set(sums), set(info) - {"mask_area"}

    assert outcome(rgb) == ({"branch_rgb", "head_rgb"}, {"rgb", "focal_rgb"})
    assert outcome(depth) == (
        {"branch_depth", "head_fusion"},
        {"depth", "focal_fusion"},
    )


def test_learning_rate_falls_twice():
    state = {"w": jnp.zeros(())}
    optimizer = easynet(Config()).phases[0].updates[0].optimizer
    transform = optimizer({"learning_rate": 2e-4}, 770)
    start = transform.init(state)

    def size_of_step(count):
        at = jax.tree.map(
            lambda x: jnp.full_like(x, count) if x.dtype == jnp.int32 else x, start
        )
        (schedule,) = [s for s in at if hasattr(s, "count") and not hasattr(s, "mu")]
        adam = transform.init(state)[0]
        updates, _ = transform.update({"w": jnp.float32(1)}, (adam, schedule), state)
        return -float(updates["w"])

    for epoch, rate in [(0, 2e-4), (615, 2e-4), (616, 4e-5), (693, 8e-6)]:
        assert size_of_step(epoch) == pytest.approx(rate, rel=1e-3)


# --- The gate -------------------------------------------------------------------------


def test_without_any_colour_feature_inside_the_colour_map_is_taken():
    outside, inside = jnp.full((1, 8), -1.0), jnp.linspace(0, 1, 8)[None]
    _, state, _ = ready(Config(**TINY))
    state = state._replace(memory={"threshold": jnp.float32(-8)})

    def taken(rgb, depth, **fields):
        pooled = {"rgb": rgb, "depth": depth}
        return bool(takes_fusion(Config(**fields), state, pooled)[0])

    assert taken(inside, inside)
    for depth in (inside, outside):
        assert not taken(outside, depth)
        assert taken(outside, depth, gate="open")


def test_modes_of_the_gate():
    config = Config(**TINY)
    system, state, batch = ready(config)
    key = jax.random.key(0)
    networks = easynet_networks.build_networks(config)
    scope = scoring(state)
    inputs = {"rgb": batch.rgb, "depth": normalised_depth(config, batch.depth)}
    forward = functools.partial(easynet_networks.forward, config, networks, scope)
    pooled = jax.jit(lambda x: forward(x, ("rgb", "fusion")).pooled)(inputs)
    gain = np.asarray(entropy.entropy_gain(pooled["rgb"], pooled["depth"]))
    middle = float(np.sort(gain)[1:3].mean())
    calibrated = state._replace(memory={**state.memory, "threshold": middle})
    given = state._replace(hyper={**state.hyper, "gate_threshold": middle})

    def scored(state, **fields):
        return jax.jit(easynet(Config(**TINY, **fields)).score)(key, state, batch)

    closed, opened = scored(state, gate="close"), scored(state, gate="open")
    np.testing.assert_array_equal(closed.map, closed.parts["map_rgb"])
    np.testing.assert_array_equal(opened.map, opened.parts["map_fusion"])
    assert closed.parts["gate"].max() == 0 and opened.parts["gate"].min() == 1
    one, other = scored(calibrated), scored(given, threshold="given")
    np.testing.assert_array_equal(one.map, other.map)
    taken = np.asarray(one.parts["gate"])[:, 0, 0, 0]
    np.testing.assert_array_equal(taken, gain >= middle)
    assert 0 < taken.sum() < 4
    expected = np.where(taken[:, None, None, None], opened.map, closed.map)
    np.testing.assert_array_equal(one.map, expected)
    # The image score belongs to the map that was taken.
    np.testing.assert_allclose(one.image, np.where(taken, opened.image, closed.image))


@pytest.mark.slow
def test_calibration_pairs_each_sample_with_its_altered_self():
    config = Config(**TINY)
    system, state, batch = ready(config)
    (_, phase) = system.phases
    assert phase.source == "train"
    state = state._replace(hyper={**state.hyper, "probability_normal": jnp.float32(1)})
    rows = jax.jit(phase.emit)(jax.random.key(2), state, batch)
    assert set(rows) == set(state.memory["calibration"])
    assert rows["is_altered"].any()
    changed = rows["fusion_clean"] != rows["fusion_altered"]
    np.testing.assert_array_equal(changed, rows["is_altered"])
    opened = jax.jit(easynet(Config(gate="open", **TINY)).score)(None, state, batch)
    np.testing.assert_allclose(rows["fusion_clean"], opened.image, rtol=1e-5)
    after = phase.absorb(None, state, jax.device_get(rows))
    assert abs(float(after.memory["threshold"])) <= entropy.BITS


# --- The configuration ----------------------------------------------------------------


def test_needs_follow_the_mode():
    def needs(mode):
        system = easynet(Config(mode=mode))
        return system.needs_fit, system.needs_score

    assert needs("rgb") == (("rgb", "foreground"), ("rgb",))
    assert needs("depth") == (("depth", "foreground"), ("depth",))
    assert needs("fusion1") == (("rgb", "depth", "foreground"), ("rgb", "depth"))


@pytest.mark.parametrize(
    "fields",
    [
        {"mode": "Fusion1"},
        {"layers": 4},
        {"gate": "shut"},
        {"threshold": "test"},
        {"depth_range": "metres"},
        {"depth_channels": 2},
        {"depth_texture": "dtd"},
        {"schedule": "linear"},
        {"dtype": "float16"},
    ],
)
def test_wrong_fields_are_refused(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=f"model.{name}: expected one of"):
        easynet(Config(**fields))


def test_every_variant_builds():
    for name in VARIANTS:
        config = get_config(name)
        easynet(Config(**config.model.to_dict()))
    assert get_config().data.batch_size == 4 and get_config().data.recipe == "plane"
