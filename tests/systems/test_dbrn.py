import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import ALONE, Batch, sample_keys
from ad3d_jax.systems import dbrn
from experiments.configs.dbrn import get_config

SMALL = dict(
    reconstruction="res_unet",
    reconstruction_width=4,
    reconstruction_levels=2,
    discriminator_width=4,
    discriminator_levels=2,
    scales=1,
    textures=2,
    texture_size=16,
)
RNG = np.random.default_rng(0)


def batch(rows=4, side=16):
    def image(channels):
        return jnp.asarray(RNG.random((rows, side, side, channels)), jnp.float32)

    return Batch(
        id=jnp.arange(rows, dtype=jnp.int32),
        weight=jnp.ones(rows),
        rgb=image(3),
        foreground=jnp.ones((rows, side, side, 1), bool),
        extras={"height_normalised": image(1)},
    )


@functools.cache
def started(**fields):
    system = dbrn.dbrn(dbrn.Config(**{**SMALL, **fields}))
    return system, system.init(jax.random.key(0), batch())


def loss_of(system, state, samples):
    """Returns a function from other numbers to what a step of these samples tells."""
    update = system.phases[0].updates[0]
    keys = sample_keys(jax.random.key(1), samples)

    @jax.jit
    def told(state):
        return update.loss(keys, state.params, state, samples, ALONE)[2]

    def tell(**numbers):
        hyper = {n: jnp.float32(x) for n, x in numbers.items()}
        return told(state._replace(hyper={**state.hyper, **hyper}))

    return tell


@pytest.mark.parametrize("fusion", ["concat", "importance"])
def test_identical_pairs_belong_to_importance_scoring(fusion):
    system, state = started() if fusion == "importance" else started(fusion=fusion)
    tell = loss_of(system, state, batch())
    other = dict(probability_normal=0.0, probability_identical_depth=0.0)
    focal = [tell(**other, probability_identical_rgb=p)["focal"] for p in (0.0, 1.0)]
    assert np.array_equal(*focal) == (fusion != "importance")


def test_rates_of_the_parts():
    """One of the three rates is that of the convolutions of importance scoring."""
    for fusion, raised in (("importance", True), ("concat", False)):
        system, state = started() if raised else started(fusion=fusion)
        rates = dict(reconstruction=0.0, discriminator=0.0, importance=1.0)
        hyper = {f"learning_rate_{n}": jnp.float32(x) for n, x in rates.items()}
        optimizer = system.phases[0].updates[0].optimizer(hyper, 10)
        ones = jax.tree.map(np.ones_like, state.params)
        steps = jax.jit(lambda x, o=optimizer: o.update(x, o.init(x), x)[0])(ones)
        moved = {n: bool(np.any(x)) for n, x in _largest(steps).items()}
        assert moved.pop("fusion") == raised
        assert not any(moved.values())


def _largest(tree):
    return {
        name: max(float(jnp.abs(x).max()) for x in jax.tree.leaves(part))
        for name, part in tree.items()
    }


@pytest.mark.parametrize("stop", [False, True])
def test_the_discriminator_teaches_the_reconstruction_unless_stopped(stop):
    system, state = started(stop_gradient=stop)
    samples = batch()

    def focal(params):
        changed = state._replace(params=params)
        return jnp.sum(loss_of(system, changed, samples)()["focal"])

    found = _largest(jax.jit(jax.grad(focal))(state.params))
    assert (found["rgb"] > 0) != stop
    assert found["discriminator"] > 0


def test_numbers_of_the_loss_are_used():
    system, state = started()
    tell = loss_of(system, state, batch())
    told = tell()
    for name, value, part in (
        ("lambda_max", 1.0, "reconstruction_rgb"),
        ("loss_similarity", 0.0, "reconstruction_depth"),
        ("focal_gamma", 0.0, "focal"),
        ("threshold_noise", 0.2, "mask_area"),
    ):
        other = tell(**{name: value})
        assert not np.array_equal(other[part], told[part]), name


def test_noise_has_the_frequencies_that_are_asked_for():
    _, state = started()
    coarse = dbrn.dbrn(dbrn.Config(**SMALL, noise_exponents=(0, 0)))
    samples = batch(side=32)
    keys = sample_keys(jax.random.key(0), samples)
    made = jax.jit(coarse.synthesise)(keys, state, samples)
    fine = dbrn.dbrn(dbrn.Config(**SMALL, noise_exponents=(4, 4)))
    other = jax.jit(fine.synthesise)(keys, state, samples)
    assert not jax.tree.all(jax.tree.map(jnp.array_equal, made, other))
    with pytest.raises(ValueError, match="noise_exponents"):
        dbrn.Config(noise_exponents=(3, 1))


def test_rows_of_the_ablation_tables_have_one_scale():
    rows = "res_unet res_unet+swin swin lambda_none lambda_f lambda_m".split()
    for row in [*rows, "early_fusion", "hadamard", "concat", "single_scale"]:
        assert get_config(row).model.scales == 1, row
    assert get_config().model.scales == 3


def test_each_channel_may_have_its_scores():
    config = dbrn.Config(**SMALL, importance="channel")
    system = dbrn.dbrn(config)
    samples = batch()
    state = system.init(jax.random.key(0), samples)
    scores = jax.jit(system.score)(jax.random.key(1), state, samples)
    assert scores.parts["importance_rgb"].shape == (4, 16, 16, 1)
    assert state.params["fusion"]["score"]["bias"].shape == (8,)
