"""The discrete auto-encoder's pretraining: what it sees, learns, keeps and saves."""

import dataclasses
import importlib
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ad3d_jax.base import ALONE, Batch, State, fold_each, sample_keys
from ad3d_jax.experiment.pretrained import SHIPPED
from ad3d_jax.features import weights
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.ops.codebook import health
from ad3d_jax.systems import SYSTEMS
from ad3d_jax.systems.dsr import auto_encoder

CONFIG = auto_encoder.Config(
    dada_hidden=16,
    dada_residual=8,
    dada_residual_layers=1,
    dada_kernels="he",
    codes=12,
    code_dimensions=8,
    dada_steps=100,
)
DEPTH = dataclasses.replace(CONFIG, modalities=("depth",), dada_distance="l2")
COLOUR = dataclasses.replace(CONFIG, modalities=("rgb",))
PLAIN = dataclasses.replace(CONFIG, dada_grouped=False)
KEY = jax.random.key(9)


@cache
def initialised(config):
    return jax.jit(partial(auto_encoder.init, config))(jax.random.key(1))


def make_state(config, **hyper):
    params, codebooks = initialised(config)
    numbers = {**auto_encoder.HYPER, **hyper}
    return State(
        params={"dada": params, "other": jnp.ones(3)},
        extra={"codebooks": codebooks, "batch_stats": {"kept": jnp.ones(2)}},
        hyper={name: jnp.float32(value) for name, value in numbers.items()},
    )


def make_batch(rows=3, size=16):
    rgb = np.random.default_rng(2).random((rows, size, size, 3), np.float32)
    return Batch(
        rgb=jnp.asarray(rgb),
        weight=jnp.ones(rows),
        id=jnp.arange(rows, dtype=jnp.int32),
    )


def run_loss(config, state, batch):
    keys = sample_keys(KEY, batch)
    loss = auto_encoder.pretrain_phase(config).updates[0].loss
    each, sums, info = jax.jit(lambda *a: loss(*a, ALONE))(
        keys, state.params, state, batch
    )
    return keys, each, sums, info


@pytest.mark.parametrize(
    ("config", "channels", "groups"),
    [(CONFIG, 4, 2), (PLAIN, 4, 1), (DEPTH, 1, 1), (COLOUR, 3, 1)],
)
def test_channels_and_groups(config, channels, groups):
    keys = sample_keys(KEY, make_batch())
    x = jax.jit(partial(auto_encoder.pretraining_images, config))(
        keys, make_batch().rgb
    )
    assert x.shape == (3, 16, 16, channels)
    assert len(auto_encoder.build(config).channels) == groups
    if "rgb" in config.modalities:
        np.testing.assert_array_equal(x[..., -3:], make_batch().rgb)
    if "depth" in config.modalities:
        span = x[..., 0].max((1, 2)) - x[..., 0].min((1, 2))
        assert ((span > 0) & (span < 1)).all()


def test_depth_of_the_ablation():
    keys, batch = sample_keys(KEY, make_batch()), make_batch()

    def depth(simulation):
        config = dataclasses.replace(CONFIG, simulation=simulation)
        made = jax.jit(partial(auto_encoder.pretraining_images, config))(
            keys, batch.rgb
        )
        return made[..., 0]

    np.testing.assert_allclose(depth("perlin").max((1, 2)), 1.0, atol=1e-6)
    grey = batch.rgb @ np.array([0.299, 0.587, 0.114], np.float32)
    np.testing.assert_allclose(depth("grey"), grey, atol=1e-6)


@pytest.mark.parametrize(
    ("config", "weight"), [(CONFIG, 1.0), (CONFIG, 3.0), (DEPTH, 1.0)]
)
def test_the_loss_by_hand(config, weight):
    state, batch = make_state(config, dada_loss_depth=weight), make_batch()
    keys, each, sums, info = run_loss(config, state, batch)
    x = jax.jit(partial(auto_encoder.pretraining_images, config))(
        fold_each(keys, 0), batch.rgb
    )
    codebooks = state.extra["codebooks"]
    forward = jax.jit(partial(auto_encoder.forward, auto_encoder.build(config)))
    codes = forward(state.params["dada"], codebooks, x)
    error = x - np.asarray(codes.reconstruction)
    error = np.abs(error) if config is CONFIG else error**2
    channels = error.mean((1, 2)).mean(1)
    if weight == 3.0:  # then depth counts as much as all of colour
        by_channel = error.mean((1, 2))
        channels = (by_channel[:, 0] + by_channel[:, 1:].mean(1)) / 2
    expected = channels.copy()
    for z, q in ((codes.z_lo, codes.q_lo), (codes.z_hi, codes.q_hi)):
        expected += 0.25 * np.mean(np.square(z - q), (1, 2, 3))
    np.testing.assert_allclose(info["reconstruction"], channels, rtol=1e-4)
    np.testing.assert_allclose(each, expected, rtol=1e-4)
    for level, index in (("lo", codes.index_lo), ("hi", codes.index_hi)):
        counts = np.bincount(np.ravel(index), minlength=config.codes)
        np.testing.assert_array_equal(sums["codebooks"][level].counts, counts)


def test_gradients_pass_straight_through_both_levels():
    state, module = make_state(CONFIG), auto_encoder.build(CONFIG)
    x = jnp.asarray(np.random.default_rng(3).random((1, 16, 16, 4)), jnp.float32)

    @jax.jit
    @jax.grad
    def gradient(params):
        codes = auto_encoder.forward(module, params, state.extra["codebooks"], x)
        return jnp.mean(jnp.abs(x - codes.reconstruction))

    for name, leaves in gradient(state.params["dada"]).items():
        assert max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(leaves)) > 0, name


def train(config, state, steps):
    phase = auto_encoder.pretrain_phase(config)
    step = jax.jit(partial(train_step(phase), across=ALONE))
    carry, values = begin(phase, state), []
    for _ in range(steps):
        carry, report = step(KEY, fixed_part(state), carry, make_batch())
        values.append(report.values)
    return carry, values


def test_a_step_moves_the_auto_encoder_and_its_codebooks_alone():
    state = make_state(CONFIG)
    carry, values = train(CONFIG, state, 1)
    np.testing.assert_array_equal(carry.params["other"], state.params["other"])
    np.testing.assert_array_equal(carry.extra["batch_stats"]["kept"], 1)
    before, after = state.params["dada"], carry.params["dada"]
    moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), before, after)
    assert all(jax.tree.leaves(moved))
    for level, rows in (("lo", 3 * 2 * 2), ("hi", 3 * 4 * 4)):
        counts = carry.extra["codebooks"][level].counts
        np.testing.assert_allclose(counts.sum(), 0.01 * rows, rtol=1e-5)
    assert {"perplexity_lo", "perplexity_hi", "dead_lo", "dead_hi"} <= set(values[0])


@pytest.mark.slow
def test_training_reconstructs():
    config = dataclasses.replace(CONFIG, code_decay=0.9, code_revive_below=0.2)
    state = make_state(config, dada_learning_rate=3e-3)
    _, values = train(config, state, 60)
    first, last = values[0], values[-1]
    assert last["reconstruction"] < 0.6 * first["reconstruction"]
    assert last["perplexity_hi"] > 3


def test_what_is_saved_can_be_put_into_another_state(tmp_path):
    row = auto_encoder.PRETRAINED
    assert auto_encoder.pretrain_phase(CONFIG).pretrained == row.name
    state, path = make_state(CONFIG), tmp_path / "dada.safetensors"
    weights.save(path, row.get(state))
    other = jax.tree.map(jnp.zeros_like, state)
    loaded = row.put(other, row.read(path, row.get(other)))
    assert jax.tree.structure(loaded) == jax.tree.structure(state)
    for one, two in zip(
        jax.tree.leaves(row.get(loaded)),
        jax.tree.leaves(row.get(state)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(loaded.params["other"], 0)
    assert not jax.tree.leaves(loaded.extra["batch_stats"])[0].any()


def test_a_converted_file_that_does_not_fit_is_told_by_our_names(tmp_path):
    row, state = auto_encoder.PRETRAINED, make_state(CONFIG)
    like, path = row.get(state), tmp_path / "converted.safetensors"
    save_file({"_vq_vae_top/_embedding/weight": np.zeros((3, 2), np.float32)}, path)
    with pytest.raises(ValueError) as told:
        row.read(path, like)
    assert "mismatched: codebooks/lo/codes, expected" in str(told.value)
    assert "missing: params/hi_1/kernel" in str(told.value)


def test_the_learning_rate_falls_at_eight_and_nine_tenths():
    hyper = {"dada_learning_rate": 1.0}
    optimizer = auto_encoder.pretrain_phase(CONFIG).updates[0].optimizer
    transform = optimizer(hyper, 100)
    params = {"x": jnp.zeros(())}
    memory, moved = transform.init(params), []
    for _ in range(100):
        change, memory = transform.update({"x": jnp.ones(())}, memory, params)
        moved.append(-float(change["x"]))
    np.testing.assert_allclose(moved[:80], 1.0, rtol=1e-4)
    np.testing.assert_allclose(moved[80:90], 0.1, rtol=1e-4)
    np.testing.assert_allclose(moved[90:], 0.01, rtol=1e-4)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modalities", ("rgb", "depth")),
        ("simulation", "noise"),
        ("dada_distance", "l3"),
        ("dada_schedule", "linear"),
        ("dada_kernels", "zeros"),
    ],
)
def test_unknown_values_are_refused(field, value):
    with pytest.raises(ValueError, match=f"model.{field}"):
        dataclasses.replace(CONFIG, **{field: value})


@pytest.mark.parametrize(
    ("name", "file"), [("dsr", "dada_rgb_light"), ("dsr3d", "dada_rgbd_light")]
)
def test_shipped_weights_fit_the_light_setting_and_use_their_codes(name, file):
    experiment = importlib.import_module(f"experiments.configs.{name}")
    config = SYSTEMS[name].config(**experiment.get_config("cpu").model.to_dict())
    like = jax.eval_shape(
        lambda key: dict(
            zip(("params", "codebooks"), auto_encoder.init(config, key), strict=True)
        ),
        KEY,
    )
    loaded = weights.load(SHIPPED / f"{file}.safetensors", like)
    for codebook in loaded["codebooks"].values():
        said = health(codebook)
        assert said["perplexity"] > config.codes / 2
        assert said["dead"] < config.codes / 20
