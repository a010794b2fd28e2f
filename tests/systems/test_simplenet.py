"""SimpleNet against its sheet, its release's head, and its heads one at a time."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ad3d_jax.base import ALONE, Batch, sample_keys
from ad3d_jax.fit.step import begin, fixed_part, train_step
from ad3d_jax.nn.scope import scoring
from ad3d_jax.systems import simplenet
from ad3d_jax.systems.simplenet import Config, hinge
from ad3d_jax.testing import make_batch
from ad3d_jax.testing.clauses import CLOSE
from ad3d_jax.testing.comparison import near
from ad3d_jax.testing.float64 import widened

SMALL = Config(
    backbone="resnet18",
    layers=("layer1", "layer2"),
    dimensions=24,
    hidden=16,
    epochs=2,
)


@pytest.fixture(scope="module")
def trial():
    """Returns system, state and a batch with its cached maps."""
    system = simplenet.simplenet(SMALL)
    batch = make_batch(3, size=32)._replace(mask=None, label=None)
    state = jax.jit(system.init)(jax.random.key(0), batch)
    cached = jax.jit(system.cache)(state, batch)
    return system, state, batch._replace(extras={**batch.extras, **cached})


def shapes(config: Config, side: int):
    """Returns the shapes of state and cached maps of one image."""
    system = simplenet.simplenet(config)
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    batch = Batch(rgb=image)
    state = jax.eval_shape(lambda b: system.init(jax.random.key(0), b), batch)
    return state, jax.eval_shape(system.cache, state, batch)


@pytest.mark.parametrize(("side", "cells"), [(288, 36), (224, 28)])
def test_patches_of_the_release(side, cells):
    state, maps = shapes(Config(), side)
    assert maps["rgb_layer2"].shape == (1, cells, cells, 512)
    assert maps["rgb_layer3"].shape == (1, cells // 2, cells // 2, 1024)
    count = sum(x.size for x in jax.tree.leaves(state.params))
    assert count == 3_937_792  # 2,360,832 + 1,576,960
    assert sum(x.size for x in jax.tree.leaves(state.params["adaptor"])) == 2_360_832


def test_layers_stand_in_any_order():
    state, maps = shapes(Config(layers=("layer3", "layer2"), dimensions=24), 64)
    assert {"layer2_0", "layer3_0"} <= set(state.frozen["backbone"])
    assert maps["rgb_layer3"].shape == (1, 4, 4, 1024)


@pytest.mark.parametrize(
    ("clean", "noisy", "expected"),
    [(0.2, -0.1, 0.7), (0.0, 0.0, 1.0), (0.5, -0.5, 0.0), (0.9, -2.0, 0.0)],
)
def test_hinge_by_hand(clean, noisy, expected):
    found = hinge(jnp.full((2, 3, 3, 1), clean), jnp.full((2, 3, 3, 1), noisy), 0.5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_equal_arguments_cost_two_margins_at_least():
    logits = jax.random.normal(jax.random.key(0), (50, 2, 2, 1)) * 2
    assert (hinge(logits, logits, 0.5) >= 1 - 1e-6).all()


def test_a_satisfied_row_has_no_gradient():
    gradient = jax.grad(lambda x: hinge(x, -x, 0.5).sum())(jnp.full((1, 2, 2, 1), 0.6))
    assert (gradient == 0).all()


def test_noise_has_the_declared_size():
    patches = jnp.zeros((20, 20, 1536))
    draw = simplenet.noise(Config(), jnp.float32(0.015), jax.random.key(3), patches)
    np.testing.assert_allclose(jnp.mean(jnp.sum(draw**2, -1)), 0.3456, rtol=0.01)
    config = Config(noise_levels=3)
    mixed = simplenet.noise(config, jnp.float32(1.0), jax.random.key(3), patches)
    levels = np.std(np.asarray(mixed), axis=-1)
    nearest = np.abs(levels[..., None] - 1.1 ** np.arange(3)).argmin(-1)
    assert np.bincount(nearest.ravel(), minlength=3).min() > 90
    expected = 1.1**nearest
    np.testing.assert_allclose(levels, expected, rtol=0.1)


def test_permuting_patches_permutes_scores(trial):
    _, state, _ = trial
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, 24))
    scope = scoring(state)
    order = np.random.default_rng(0).permutation(16)

    def logits(x):
        adapted = scope.apply("adaptor", simplenet.Adaptor(), x)
        head = simplenet.FeatureDiscriminator(16)
        return scope.apply("discriminator", head, adapted)

    moved = x.reshape(1, 16, 24)[:, order].reshape(x.shape)
    expected = logits(x).reshape(16)[order]
    np.testing.assert_allclose(logits(moved).reshape(16), expected, rtol=1e-5)


def test_heads_trained_at_once_are_the_heads_trained_alone(trial):
    """Seeds and noise levels of several heads under one vmap (issue: studies)."""
    system, state, batch = trial
    phase = system.phases[0]._replace(steps=3)
    step = train_step(phase)
    seeds, levels = jnp.arange(3), jnp.array([0.005, 0.015, 0.1])

    def start(seed, level):
        fresh = system.init(jax.random.key(seed), batch)
        hyper = {**fresh.hyper, "noise": level}
        return fresh._replace(frozen=state.frozen, hyper=hyper)

    def run(seed, level):
        own, key = start(seed, level), jax.random.key(seed + 10)
        carry, losses = begin(phase, own), []
        for _ in range(3):
            carry, report = step(key, fixed_part(own), carry, batch, ALONE)
            losses.append(report.values["loss"])
        return carry.params, jnp.stack(losses)

    # In float64, since Adam's first steps take the sign of a gradient that is rounding
    # alone, as of the bias before the batch norm.
    in_float64 = (
        widened(lambda *x, function=function: function(*x[:2]))
        for function in (jax.vmap(run), run)
    )
    with jax.enable_x64(True):
        at_once, alone = in_float64
        together = at_once(seeds, np.float64(levels), None)
        apart = [alone(*x, None) for x in zip(seeds, np.float64(levels), strict=True)]
    for number, expected in enumerate(apart):
        found = jax.tree.map(lambda x, n=number: x[n], together)
        near(found, expected, CLOSE, f"head {number}")
    assert not np.allclose(together[1][0], together[1][1], rtol=1e-3)


@pytest.mark.slow
def test_a_step_is_the_step_of_the_released_head(trial, parity):
    """Three steps against torch's AdamW and Adam on the same head and noise."""
    torch = pytest.importorskip("torch")
    system, state, batch = trial
    phase = system.phases[0]._replace(steps=3)
    level = 0.5  # about a feature's size: clean and noisy rows part
    own = state._replace(hyper={**state.hyper, "noise": jnp.float32(level)})
    patches = np.asarray(
        simplenet.embed_maps(
            batch.extras,
            SMALL.modalities,
            SMALL.layers,
            lambda maps: simplenet.patchcore_patches(maps, dimensions=24),
        )
    ).reshape(-1, 24)

    def linear(layer, bias=True):
        kernel = np.asarray(layer["kernel"])
        made = torch.nn.Linear(*kernel.shape, bias=bias)
        made.weight.data = torch.tensor(kernel.T.copy())
        if bias:
            made.bias.data = torch.tensor(np.asarray(layer["bias"]).copy())
        return made

    discriminator = own.params["discriminator"]
    adaptor = linear(own.params["adaptor"]["Dense_0"])
    judge = torch.nn.Sequential(
        linear(discriminator["Dense_0"]),
        torch.nn.BatchNorm1d(16),
        torch.nn.LeakyReLU(0.2),
        linear(discriminator["Dense_1"], bias=False),
    )
    optimizers = [
        torch.optim.AdamW(adaptor.parameters(), lr=1e-4),
        torch.optim.Adam(judge.parameters(), lr=2e-4, weight_decay=1e-5),
    ]
    step, carry = jax.jit(train_step(phase), static_argnums=4), begin(phase, own)
    rows = torch.tensor(patches.copy())

    def drawn(number):
        """Returns the noise that our step of this number draws for all patches."""
        keys = sample_keys(jax.random.fold_in(jax.random.key(0), number), batch)
        draw = functools.partial(simplenet.noise, SMALL, level)
        grids = jnp.zeros((3, len(patches) // 3, 1, 24))
        return torch.tensor(np.asarray(jax.vmap(draw)(keys, grids)).reshape(-1, 24))

    for number in range(3):
        normal = adaptor(rows)
        clean, fake = judge(torch.cat([normal, normal + drawn(number)])).chunk(2)
        expected = torch.relu(0.5 - clean).mean() + torch.relu(0.5 + fake).mean()
        for optimizer in optimizers:
            optimizer.zero_grad()
        expected.backward()
        for optimizer in optimizers:
            optimizer.step()
        carry, report = step(jax.random.key(0), fixed_part(own), carry, batch, ALONE)
        loss = report.values["loss"], expected.detach().numpy()
        np.testing.assert_allclose(*loss, rtol=1e-5)
        parity("SimpleNet", torch, "three steps, losses", *loss)
    stats = carry.extra["batch_stats"]["discriminator"]["BatchNorm_0"]
    # The bias before the batch norm has no gradient but rounding, of which Adam makes
    # steps of 2e-4; the mean follows it, the variance does not.
    np.testing.assert_allclose(stats["mean"], judge[1].running_mean.numpy(), atol=6e-4)
    variance = stats["var"], judge[1].running_var.numpy()
    np.testing.assert_allclose(*variance, rtol=1e-4)
    parity("SimpleNet", torch, "three steps, running variance", *variance)
    for name, layer in (("discriminator", judge[0]), ("adaptor", adaptor)):
        kernel = carry.params[name]["Dense_0"]["kernel"]
        weights = kernel, layer.weight.detach().numpy().T
        np.testing.assert_allclose(*weights, atol=2e-5)
        parity("SimpleNet", torch, "three steps, weights", *weights)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"modalities": ("lidar",)}, "model.modalities"),
        ({"modalities": ()}, "model.modalities"),
        ({"epochs": 0}, "model.epochs"),
        ({"hidden": 0}, "model.hidden"),
    ],
)
def test_a_wrong_field_is_named(change, words):
    with pytest.raises(ValueError, match=words):
        simplenet.simplenet(Config(**change))
