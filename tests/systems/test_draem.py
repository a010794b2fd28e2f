"""DRAEM against its paper's numbers, the published losses, and one part at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import uniform_filter

from ad3d_jax.base import ALONE, Batch, without_truth
from ad3d_jax.losses import focal_loss
from ad3d_jax.ops.ssim import ssim_map
from ad3d_jax.schedules import SCHEDULES
from ad3d_jax.synthesis.rgbd import pick_textures
from ad3d_jax.systems import build, draem
from ad3d_jax.systems.draem import Config
from ad3d_jax.testing import make_batch
from experiments.configs.draem import VARIANTS, get_config

SMALL = dict(
    reconstruction_width=4,
    reconstruction_levels=1,
    discriminator_width=4,
    discriminator_levels=1,
    textures=2,
    texture_size=16,
    epochs=1,
    score_window=5,
)
BATCH = without_truth(make_batch(4, size=32))
KEYS = jax.random.split(jax.random.key(5), 4)


def started(**fields):
    """Returns a small system with its state."""
    system = draem.draem(Config(**{**SMALL, **fields}))
    return system, system.init(jax.random.key(0), BATCH)


def parameters(config: Config) -> dict[str, int]:
    """Returns the number of parameters of each network, without making any."""
    image = Batch(rgb=jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32))
    init = draem.draem(config).init
    state = jax.eval_shape(lambda b: init(jax.random.key(0), b), image)
    return {
        name: sum(leaf.size for leaf in jax.tree.leaves(tree))
        for name, tree in state.params.items()
    }


def test_parameters_of_the_published_networks():
    found = parameters(Config())
    assert found == {"rgb": 69_048_579, "discriminator": 28_374_146}
    assert sum(found.values()) == 97_422_725


def test_losses_of_the_published_module(parity):
    """What VitjanZ/DRAEM 2dbf673, loss.py, gives for these arrays in torch 2.13.0."""
    draw = np.random.default_rng(17).random
    p = draw((2, 32, 32)).astype(np.float32)
    target = draw((2, 1, 32, 32)) > 0.8
    focal = focal_loss(np.stack([1 - p, p], -1), target[:, 0], alpha=None)
    losses = {"focal loss": (focal.mean(), 0.5821300148963928)}
    a, b = (draw((2, 3, 32, 32)).astype(np.float32) for _ in range(2))
    a, b = (np.moveaxis(x, 1, -1) for x in (a, b))
    similarity = ssim_map(0.5 * a + 0.5 * b, a).mean()
    losses["SSIM loss"] = 1 - similarity, 0.2928352952003479
    for name, both in losses.items():
        np.testing.assert_allclose(*both, rtol=1e-5)
        parity("DRAEM", "VitjanZ/DRAEM 2dbf673", name, *both)


@pytest.mark.parametrize(
    ("variant", "ends"),
    [
        ("", {0: 1e-4, 559: 1e-4, 560: 2e-5, 629: 2e-5, 630: 4e-6, 699: 4e-6}),
        ("paper", {0: 1e-4, 399: 1e-4, 400: 1e-5, 599: 1e-5, 600: 1e-6, 699: 1e-6}),
    ],
)
def test_learning_rate_by_epoch(variant, ends):
    config = get_config(variant)
    steps = 31  # in an epoch
    rate = SCHEDULES[config.model.schedule](
        config.hyper.learning_rate,
        config.model.epochs * steps,
        config.hyper.decay,
        config.model.milestones,
    )
    for epoch, expected in ends.items():
        for step in (epoch * steps, (epoch + 1) * steps - 1):
            np.testing.assert_allclose(rate(jnp.int32(step)), expected, rtol=1e-5)


@pytest.mark.parametrize("variant", ["", *VARIANTS])
def test_every_variant_builds(variant):
    config = get_config(variant)
    system = build("draem", config.model.to_dict())
    depth = "depth" in config.model.modalities
    assert depth == ("depth" in variant or variant == "tiny")
    assert ("extras.height_normalised" in system.needs_fit) == depth
    assert config.data.recipe == ("ast" if depth else "raw")
    assert set(config.hyper) == set(draem.HYPER)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modalities", ("xyz",)),
        ("networks", "none"),
        ("texture", "noise"),
        ("schedule", "constant"),
        ("dtype", "float16"),
    ],
)
def test_unknown_values_are_named(field, value):
    with pytest.raises(ValueError, match=f"model.{field}: expected one of"):
        draem.draem(Config(**{field: value}))


@pytest.fixture(scope="module")
def trial():
    """Returns a state, the compiled synthesis and the compiled loss."""
    system, state = started()
    update = system.phases[0].updates[0]

    @jax.jit
    def run(state):
        loss, _, info = update.loss(KEYS, state.params, state, BATCH, ALONE)
        return loss, info

    return state, jax.jit(lambda state: system.synthesise(KEYS, state, BATCH)), run


def with_hyper(state, **values):
    values = {name: jnp.float32(value) for name, value in values.items()}
    return state._replace(hyper={**state.hyper, **values})


def test_what_is_synthesised_is_what_the_loss_sees(trial):
    state, synthesise, run = trial
    shown = synthesise(state)
    mask, clean, altered = (
        np.asarray(shown[name]) for name in ("mask", "clean_rgb", "altered_rgb")
    )
    assert set(np.unique(mask)) == {0.0, 1.0}
    changed = np.abs(altered - clean).max(-1, keepdims=True) > 0
    assert changed.any() and not np.any(changed & (mask == 0))
    _, info = run(state)
    np.testing.assert_allclose(info["mask_area"], mask.mean((1, 2, 3)), rtol=1e-6)


def test_images_of_both_modalities():
    system, state = started(modalities=("rgb", "depth"))
    shown = jax.eval_shape(system.synthesise, KEYS, state, BATCH)
    assert {name: x.shape[-1] for name, x in shown.items()} == {
        "mask": 1,
        **{"clean_rgb": 3, "altered_rgb": 3},
        **{"clean_height": 1, "altered_height": 1},
    }


def test_the_loss_is_the_weighted_sum_of_its_terms(trial):
    state, _, run = trial
    weights = {"squared": 1.0, "ssim": 1.0, "focal": 1.0}
    for changed in ({}, {"squared": 3.0}, {"ssim": 0.0}, {"focal": 0.5}):
        chosen = weights | changed
        hyper = {f"loss_{name}": value for name, value in chosen.items()}
        total, info = run(with_hyper(state, **hyper))
        expected = chosen["squared"] * info["squared_rgb"]
        expected += chosen["ssim"] * info["ssim_rgb"] + chosen["focal"] * info["focal"]
        np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert min(float(x.min()) for name, x in info.items() if name != "mask_area") > 0


def test_samples_stay_as_they_are_or_are_covered(trial):
    state, synthesise, _ = trial
    still = with_hyper(state, probability_rotation=0, probability_normal=1)
    shown = synthesise(still)
    np.testing.assert_allclose(shown["clean_rgb"], BATCH.rgb, atol=1e-6)
    np.testing.assert_array_equal(shown["altered_rgb"], shown["clean_rgb"])
    assert not np.any(shown["mask"])
    opaque = with_hyper(state, probability_rotation=0, probability_normal=0, beta_max=0)
    covered = synthesise(opaque)
    veiled = synthesise(with_hyper(opaque, beta_max=1.0))
    np.testing.assert_array_equal(covered["mask"], veiled["mask"])

    def change(shown):
        return np.abs(shown["altered_rgb"] - shown["clean_rgb"]).sum()

    assert 0 < change(veiled) < change(covered)


def test_colours_are_a_bank_of_single_pixels():
    _, state = started(texture="colours")
    bank = state.frozen["textures"]
    assert bank.shape == (2, 1, 1, 3) and bank.dtype == jnp.uint8
    images = pick_textures(KEYS, bank, (8, 8))
    np.testing.assert_array_equal(images, images[:, :1, :1] + jnp.zeros((1, 8, 8, 1)))


@pytest.mark.parametrize("networks", ["both", "reconstruction", "discriminator"])
def test_scores_of_the_whole_and_of_its_halves(networks):
    system, state = started(networks=networks)
    found = jax.jit(system.score)(jax.random.key(1), state, BATCH)
    if networks == "reconstruction":
        restored = found.parts["reconstruction_rgb"]
        similarity = ssim_map(BATCH.rgb, restored).mean(-1, keepdims=True)
        np.testing.assert_allclose(found.map, 1 - similarity, atol=1e-5)
    else:
        assert 0 < found.map.min() and found.map.max() < 1
    assert set(found.parts) == (
        set() if networks == "discriminator" else {"reconstruction_rgb"}
    )
    smooth = [
        uniform_filter(np.float64(x[..., 0]), 5, mode="constant") for x in found.map
    ]
    np.testing.assert_allclose(found.image, np.max(smooth, axis=(1, 2)), rtol=1e-5)
