"""DAS3D: its parts joined as the card says, its losses against torch, its variants."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ad3d_jax import losses
from ad3d_jax.base import ALONE, without_truth
from ad3d_jax.nn.scope import training
from ad3d_jax.systems.das3d import (
    HYPER,
    Config,
    build_networks,
    das3d,
    forward,
    make_anomalies,
)
from ad3d_jax.testing import make_batch
from experiments.configs.das3d import VARIANTS, get_config

CONFIG = Config(
    reconstruction="auto_encoder",
    reconstruction_width=2,
    reconstruction_levels=2,
    discriminator_width=2,
    discriminator_levels=2,
    sigma=(0.5, 1.5),
    textures=4,
    texture_size=32,
    score_window=5,
)
ROWS = 8
KEYS = jax.random.split(jax.random.key(3), ROWS)


def model(variant):
    """Returns the structure of a variant."""
    fields = get_config(variant).model.to_dict()
    return Config(**fields)


@functools.cache
def tiny():
    """Returns (system, state, batch) of narrow networks."""
    system = das3d(CONFIG)
    batch = without_truth(make_batch(ROWS, size=32))
    batch = jax.tree.map(jnp.asarray, batch)
    return system, system.init(jax.random.key(0), batch), batch


def with_hyper(state, **values):
    changed = {name: jnp.float32(value) for name, value in values.items()}
    return state._replace(hyper={**state.hyper, **changed})


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        # Sums of 9 i o + 3 o over the convolutions with norms, by hand: U-Nets of 64 to
        # 512 features in six levels; DRAEM's reconstructive network.
        ("", {"rgb": 28_372_995, "depth": 28_370_689}),
        ("auto_encoder", {"rgb": 69_048_579, "depth": 69_043_969}),
    ],
)
def test_sizes(variant, expected):
    system = das3d(model(variant))
    batch = jax.eval_shape(lambda: without_truth(make_batch(1, size=32)))
    params = jax.eval_shape(system.init, jax.random.key(0), batch).params
    found = {n: sum(x.size for x in jax.tree.leaves(p)) for n, p in params.items()}
    assert found == {**expected, "discriminator": 6_218_146}


def test_every_variant_builds():
    for variant in ("", *VARIANTS):
        config = get_config(variant)
        assert das3d(model(variant)).name == "das3d"
        assert set(config.hyper) == set(HYPER)
    assert get_config("dropout_05").hyper.dropout_rgb == 0.5
    assert get_config("dropout_05").hyper.dropout_depth == 0.5


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("reconstruction", "swin"),
        ("schedule", "linear"),
        ("dtype", "float16"),
        ("sigma", (3.0, 1.0)),
        ("sigma", (0.0, 1.0)),
        ("epochs", 0),
        ("geometry", "xyz"),
        ("discriminator_levels", 0),
    ],
)
def test_unknown_values_are_refused(field, value):
    with pytest.raises(ValueError, match=f"model.{field}: expected"):
        das3d(Config(**{field: value}))


@pytest.mark.slow
def test_synthesis_shows_what_is_asked_for():
    system, state, batch = tiny()
    run = jax.jit(system.synthesise)
    depth = batch.extras["depth_normalised"]
    state = with_hyper(state, probability_normal=0.0)

    made = run(KEYS, with_hyper(state, dropout_rgb=1.0, dropout_depth=0.0), batch)
    np.testing.assert_array_equal(made["clean_rgb"], batch.rgb)
    np.testing.assert_array_equal(made["clean_depth"], depth)
    np.testing.assert_array_equal(made["altered_rgb"], batch.rgb)
    np.testing.assert_array_equal(made["altered_depth"] != depth, made["mask"] > 0)
    assert made["mask"].any((1, 2, 3)).mean() > 0.5

    made = run(KEYS, with_hyper(state, dropout_rgb=0.0, dropout_depth=1.0), batch)
    np.testing.assert_array_equal(made["altered_depth"], depth)
    assert np.any(made["altered_rgb"] != batch.rgb)

    limits = {"amplitude_low": 0.125, "amplitude_high": 0.125}
    limits |= {"dropout_rgb": 0.0, "dropout_depth": 0.0}
    made = run(KEYS, with_hyper(state, **limits), batch)
    change = np.abs(made["altered_depth"] - depth)
    assert 0.1 < change.max() <= 0.125 + 1e-6

    made = run(KEYS, with_hyper(state, probability_normal=1.0), batch)
    assert not np.any(made["mask"])


@pytest.mark.slow
def test_losses_are_torchs():
    """On the networks' own outputs, which a second pass over the same rows gives."""
    torch = pytest.importorskip("torch")
    system, state, batch = tiny()
    networks = build_networks(CONFIG)
    loss = system.phases[0].updates[0].loss

    def both(params):
        scope = training(params, state, batch, ALONE)
        made = make_anomalies(CONFIG, KEYS, state, batch)
        total, sums, info = loss(KEYS, params, state, batch, ALONE)
        return total, info, made, forward(networks, scope, made.altered)

    total, info, made, out = jax.device_get(jax.jit(both)(state.params))
    assert made.mask.any()

    mask = torch.tensor(made.mask[..., 0])
    found = torch.tensor(out.probabilities)
    truth = torch.stack([1 - mask, mask], -1)
    overlap = torch.nn.functional.smooth_l1_loss(found, truth, reduction="none")
    np.testing.assert_allclose(info["overlap"], overlap.mean((1, 2, 3)), rtol=1e-5)
    # gamma 2 and no class weights; the smoothing of 1e-5 is below the tolerance.
    hit = (found * truth).sum(-1)
    focal = (-((1 - hit) ** 2) * hit.log()).mean((1, 2))
    np.testing.assert_allclose(info["focal"], focal, rtol=1e-3)
    depth = batch.extras["depth_normalised"]
    for name, clean, output in (
        ("rgb", batch.rgb, out.reconstructions["rgb"]),
        ("depth", depth, out.reconstructions["depth"]),
    ):
        expected = jnp.mean(losses.reconstruction_map(clean, output), axis=(1, 2))
        np.testing.assert_allclose(info[name], expected, rtol=1e-5)
        squared = np.square(np.asarray(clean) - output).mean((1, 2, 3))
        assert np.all(info[name] > squared)
    np.testing.assert_allclose(info["mask_area"], made.mask.mean((1, 2, 3)), rtol=1e-6)
    parts = sum(info[name] for name in ("rgb", "depth", "focal", "overlap"))
    np.testing.assert_allclose(total, parts, rtol=1e-6)


def test_score_is_the_smoothed_maximum_of_the_anomalous_probability():
    system, state, batch = tiny()
    scores = jax.device_get(jax.jit(system.score)(jax.random.key(1), state, batch))
    assert scores.map.min() > 0 and scores.map.max() < 1
    padded = np.pad(scores.map[..., 0], ((0, 0), (2, 2), (2, 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    expected = windows.mean((-1, -2)).max((1, 2))
    np.testing.assert_allclose(scores.image, expected, rtol=1e-5)
    assert scores.parts["reconstruction_rgb"].shape == batch.rgb.shape
    assert scores.parts["reconstruction_depth"].shape == (*batch.rgb.shape[:3], 1)


@pytest.mark.parametrize(
    ("count", "share"), [(0, 1.0), (79, 1.0), (80, 0.2), (90, 0.04)]
)
def test_one_rate_for_all_networks_falls_twice(count, share):
    hyper = {"learning_rate": jnp.float32(1e-4)}
    rule = das3d(Config()).phases[0].updates[0].optimizer(hyper, 100)
    params = {"rgb": jnp.ones(2), "discriminator": jnp.ones(3)}
    state = rule.init(params)
    state = jax.tree.map(lambda x: x + count if x.dtype == jnp.int32 else x, state)
    # Adam's first step has the size of the rate; its bias is corrected by the count.
    plain = optax.scale_by_adam()
    inner = plain.init(params)._replace(count=jnp.int32(count))
    expected, _ = plain.update(params, inner)
    updates, _ = rule.update(params, state)
    for found, before in zip(
        jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True
    ):
        np.testing.assert_allclose(found, -1e-4 * share * before, rtol=1e-5)
