"""M3DM against the release's own output on thin features, stage by stage.

`tests/golden/README.md` says how that was made.
"""

from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from thin import POINTS, RGB, TEST, TRAIN, public_fusion, replace_networks, samples

from ad3d_jax.base import ALONE, Batch
from ad3d_jax.devices import memory as device_memory
from ad3d_jax.experiment.config import load
from ad3d_jax.features.feature_fusion import public_name, read_feature_fusion
from ad3d_jax.features.weights import WeightFile
from ad3d_jax.ops import knn
from ad3d_jax.systems import SYSTEMS
from ad3d_jax.systems.m3dm import decision, features, fusion, memory
from ad3d_jax.systems.m3dm.config import HYPER, Config
from ad3d_jax.systems.m3dm.m3dm import m3dm
from ad3d_jax.workdir import trees
from experiments.configs.m3dm import VARIANTS, get_config

GOLDEN = Path(__file__).parents[2] / "golden"
RELEASE = "M3DM", "nomewang/M3DM 62b7f46"
KEY = jax.random.key(0)
# What the release calls them, and ours.
METHODS = {"triple": "", "double": "two", "add": "add"} | {
    name: name for name in ("rgb", "points", "fused")
}


@cache
def golden():
    return dict(np.load(GOLDEN / "m3dm.npz"))


@cache
def fusion_weights():
    weights, like = public_fusion()
    return read_feature_fusion(as_file(weights), like)


def as_file(weights):
    """Returns weights as what was read of a file."""
    return WeightFile(Path("uff.safetensors"), weights, "", {})


@pytest.fixture(autouse=True)
def thin(monkeypatch):
    replace_networks(monkeypatch)


@cache
def batches():
    return samples(TRAIN), samples(TEST)


def filled(method):
    """Returns (config, system, state): the banks are those that the release chose."""
    found = load(f"m3dm:{METHODS[method]}" if METHODS[method] else "m3dm")
    config = Config(**found.model.to_dict())
    system, (train, _) = m3dm(config), batches()
    state = system.init(KEY, train)
    hyper = {name: jnp.float32(x) for name, x in found.hyper.items()}
    state = state._replace(hyper=hyper)
    if "fused" in config.banks:
        state = state._replace(params={"uff": fusion_weights()})
    phases = {phase.name: phase for phase in system.phases}
    if "scales" in phases:
        sums = jax.device_get(jax.jit(phases["scales"].emit)(KEY, state, train))
        state = phases["scales"].finish(KEY, state, sums)
    rows = jax.device_get(jax.jit(phases["banks"].emit)(KEY, state, train))
    index, banks, start = golden()[f"{method}_index"], {}, 0
    for name in config.banks:
        shape = rows[name].shape
        plan = memory.form(config, name, shape[1])
        count = int(plan.fraction * shape[0] * shape[1])
        own, start = index[start : start + count], start + count
        kept = rows[name].reshape(-1, shape[-1])[own]
        kept, _ = memory.with_zero_row(config, name, kept)
        banks[name] = knn.build(kept, config.chunk_bytes)
    assert start == len(index)  # the sizes are the release's
    return config, system, state._replace(memory={**state.memory, **banks})


def near(found, expected, part=1e-3):
    """Requires agreement to a part of the largest value."""
    limit = part * np.abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=limit)


def compare_before_the_blur(monkeypatch, parity, method, config, system, state):
    """Requires the distances to each bank, on the pixels, to be the release's."""
    with monkeypatch.context() as patch:
        patch.setitem(memory.BLURS, config.blur, lambda map, radius: map)
        score = jax.jit(partial(system.score))  # another function, compiled anew
        parts = score(KEY, state, samples([*TRAIN, *TEST])).parts
    for number, name in enumerate(config.banks):
        found = parts[f"map_{name}"] / state.hyper[f"lambda_{name}"]
        found = found[:, 8::16, 8::16, 0]
        expected = golden()[f"{method}_unblurred"][:, number]
        near(found[4:], expected, 1e-5)
        parity(*RELEASE, "distances to the banks", found[4:], expected)
        if config.decision == "svm":
            expected = golden()[f"{method}_train_unblurred"][:, number]
            near(found[:4], expected, 1e-5)


def weighed(parity, method, system, state, train):
    """Returns the state with what the SVMs learn, each step being the release's."""
    phase, expected = system.phases[-1], golden()
    rows = jax.device_get(jax.jit(phase.emit)(KEY, state, train))
    given = rows["image"], expected[f"{method}_train"]
    np.testing.assert_allclose(*given, rtol=1e-5)
    parity(*RELEASE, "SVM, scores it learns from", *given)
    near(rows["map"][:, 8::16, 8::16], expected[f"{method}_train_maps"])
    state = phase.absorb(KEY, state, rows)
    for name, found in state.memory["decision"].items():
        learned = found, expected[f"{method}_coef_{name}"]
        near(*learned, 1e-5)
        parity(*RELEASE, "SVM, coefficients", *learned)
    return state


def compare_scores(parity, method, system, state, test):
    scores = jax.jit(system.score)(KEY, state, test)
    expected = golden()[f"{method}_image"]
    np.testing.assert_allclose(scores.image, expected, rtol=1e-5)
    parity(*RELEASE, "image score", scores.image, expected)
    found, expected = scores.map[:, 8::16, 8::16, 0], golden()[f"{method}_map"]
    near(found, expected)
    parity(*RELEASE, "map", found, expected)


def test_the_three_banks_stage_by_stage(monkeypatch, parity):
    config, system, state = filled("triple")
    scales, expected = state.memory["scales"], golden()
    for name in config.banks:
        found = [scales[name][part] for part in ("mean", "deviation")]
        np.testing.assert_allclose(found, expected["scale"], rtol=1e-5)
        parity(*RELEASE, "mean and deviation", found, expected["scale"])
    banks = {
        name: np.asarray(state.memory[name].rows) + state.memory[name].mean
        for name in config.banks
    }
    assert [len(x) for x in banks.values()] == [1255, 125, 125]
    for name, step in (("points", 60), ("fused", 10)):
        both = banks[name][::step, ::5], expected[f"{name}_bank"]
        near(*both, 1e-5)
        parity(*RELEASE, "banks, rows", *both)
    train, test = batches()
    compare_before_the_blur(monkeypatch, parity, "triple", config, system, state)
    state = weighed(parity, "triple", system, state, train)
    compare_scores(parity, "triple", system, state, test)


@pytest.mark.slow
@pytest.mark.parametrize("method", [name for name in METHODS if name != "triple"])
def test_the_other_methods(monkeypatch, method, parity):
    config, system, state = filled(method)
    train, test = batches()
    compare_before_the_blur(monkeypatch, parity, method, config, system, state)
    if config.decision == "svm":
        state = weighed(parity, method, system, state, train)
    compare_scores(parity, method, system, state, test)


def prepared(method):
    """Returns (config, rows): what the release chooses of, made by torch."""
    torch = pytest.importorskip("torch")
    functional = torch.nn.functional
    train, _ = batches()
    pixels = torch.from_numpy(train.extras["pixels"]).permute(0, 3, 1, 2)
    pooled = functional.avg_pool2d(pixels, 3, stride=1)
    points = functional.adaptive_avg_pool2d(pooled, 56).flatten(2).transpose(1, 2)
    rgb = torch.from_numpy(train.extras["rgb_patches"])
    mean, deviation = points.mean(), rgb.std()
    config = Config(**load(f"m3dm:{METHODS[method]}").model.to_dict())
    rows = {"points": points, "rgb": rgb}
    if config.normalise == "as_coded":
        rows = {name: (x - mean) / deviation for name, x in rows.items()}
    if config.normalise == "own":
        rows["rgb"] = (rgb - rgb.mean()) / deviation
    return config, {name: rows[name].numpy() for name in config.banks}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["double", "rgb", "points"])
def test_the_rows_that_are_kept_are_those_of_the_release(method, parity):
    config, rows = prepared(method)
    expected, start = golden()[f"{method}_index"], 0
    for name in config.banks:
        select = memory.choice(config, name)
        data, carry = select.prepare(KEY, None, rows[name])
        advance = jax.jit(partial(select.advance, across=ALONE))
        while select.done(carry)[0] < select.done(carry)[1]:
            carry = advance(data, carry)
        number = select.take(rows[name], carry).number
        own, start = expected[start : start + len(number)], start + len(number)
        np.testing.assert_array_equal(number, own)
        parity(*RELEASE, "coreset in float16, picks", number, own)


# --- The fusion -----------------------------------------------------------------------


def test_the_fusion_has_as_many_parameters_as_the_release():
    _, like = public_fusion(points=1152, rgb=768)
    assert sum(x.size for x in jax.tree.leaves(like)) == 15_840_896


def test_fused_features_are_those_of_the_release(parity):
    generator = np.random.default_rng(221)
    points = generator.standard_normal((16, 36, POINTS), np.float32)
    points[:, ::5] = 0
    rgb = generator.standard_normal((16, 36, RGB), np.float32)
    found = fusion.fused(fusion_weights(), points[:1], rgb[:1])[0, ::6]
    expected = np.load(GOLDEN / "m3dm_uff.npz")["fused"]
    near(found, expected, 1e-5)
    parity(*RELEASE, "fusion, forward", found, expected)
    background = fusion.fused(fusion_weights(), 0 * points[:1], rgb[:1])[0, :, :POINTS]
    np.testing.assert_allclose(background, background[:1].repeat(36, 0), atol=1e-6)


def uff_batches():
    """Returns eight batches of two samples, [36] cells, as the golden training saw."""
    generator = np.random.default_rng(221)
    points = generator.standard_normal((16, 36, POINTS), np.float32)
    points[:, ::5] = 0
    rgb = generator.standard_normal((16, 36, RGB), np.float32)
    return points.reshape(8, 2, 36, -1), rgb.reshape(8, 2, 36, -1)


def test_training_follows_the_release_step_by_step(monkeypatch, parity):
    monkeypatch.setattr(
        features, "of_points", lambda config, batch: batch.extras["points"]
    )
    config = Config(
        cells=6, uff_pairing="aligned", uff_steps=8, uff_accumulate=2, uff_warm_up=0.5
    )
    (update,) = fusion.phase(config).updates
    hyper = {name: jnp.float32(x) for name, x in HYPER.items()}
    chain = update.optimizer(hyper, 8)
    params = {"uff": fusion_weights()}
    state, losses = chain.init(params), []

    @jax.jit
    def step(params, state, points, rgb):
        weight = jnp.ones(2)
        extras = {"points": points, "rgb_patches": rgb}
        batch = Batch(extras=extras, weight=weight)

        def mean(params):
            return update.loss(None, params, None, batch, ALONE)[0].mean()

        loss, gradient = jax.value_and_grad(mean)(params)
        changes, state = chain.update(gradient, state, params)
        return optax.apply_updates(params, changes), state, loss

    for points, rgb in zip(*uff_batches(), strict=True):
        params, state, loss = step(params, state, points, rgb)
        losses.append(loss)
    expected = dict(np.load(GOLDEN / "m3dm_uff.npz"))
    np.testing.assert_allclose(losses, expected["losses"], rtol=1e-5)
    parity(*RELEASE, "fusion, losses of eight batches", losses, expected["losses"])
    before = trees.by_name(fusion_weights())
    for name, after in trees.by_name(params["uff"]).items():
        part = (slice(None, None, 7),) * after.ndim if after.ndim > 1 else ()
        # Adam divides by roots of squared gradients, which magnifies their rounding.
        wanted = expected[f"after_{public_name(name)}"]
        np.testing.assert_allclose(after.T[part], wanted, rtol=0, atol=2e-5)
        parity(*RELEASE, "fusion, weights after them", after.T[part], wanted)
        assert np.abs(before[name].T[part] - wanted).max() > 1e-3


def entropy(queries, keys, counted=None):
    counted = np.ones(queries.shape[:2], bool) if counted is None else counted
    return np.asarray(
        jax.jit(fusion.contrastive, static_argnums=3)(
            jnp.float32(queries), jnp.float32(keys), counted, ALONE
        )
    )


def test_the_loss_of_equal_and_of_orthonormal_heads():
    # Sheet §10, fact 9, without its factor of 2; 16 rows.
    alike = np.ones((4, 4, 20))
    np.testing.assert_allclose(entropy(alike, alike), np.log(16), rtol=1e-6)
    apart = np.eye(16, 20).reshape(4, 4, 20)
    expected = np.log(np.e + 15) - 1
    np.testing.assert_allclose(entropy(apart, apart), expected, rtol=1e-6)


def test_cells_with_a_zero_are_neither_queries_nor_keys():
    generator = np.random.default_rng(1)
    queries, keys = generator.standard_normal((2, 2, 4, 20))
    counted = np.array([[True, False, True, True], [False, True, True, False]])
    found = entropy(queries, keys, counted)
    assert (found[~counted] == 0).all()
    flat = entropy(queries[counted].reshape(5, 1, 20), keys[counted].reshape(5, 1, 20))
    np.testing.assert_allclose(found[counted], flat[:, 0], rtol=1e-5)


def test_pairs_as_released_are_scrambled():
    # Sheet §10, fact 7.
    place = features.tiled(Config(), 784)
    np.testing.assert_array_equal(place[[0, 1, 2, 3, 784]], [0, 4, 8, 12, 1])
    row, column = np.divmod(np.arange(3136), 56)
    assert np.mean(place == row // 2 * 28 + column // 2) == 8 / 3136
    with pytest.raises(ValueError, match="model.uff_pairing=as_released.*cells=55"):
        features.tiled(Config(cells=55), 784)


def test_image_features_are_repeated_on_the_cells():
    rows = np.arange(784, dtype=np.float32).reshape(1, 784, 1)
    cells = np.asarray(features.on_cells(Config(), rows)).reshape(56, 56)
    expected = rows.reshape(28, 28).repeat(2, 0).repeat(2, 1)
    np.testing.assert_array_equal(cells, expected)


def test_the_rate_of_the_released_command():
    # 166 batches, 16 an update: ten updates, of rates 16 k / 166 of the largest.
    config = Config()
    hyper = {name: jnp.float32(x) for name, x in HYPER.items()}
    chain = fusion.optimizer(config, hyper, 166)
    params = {"x": jnp.zeros(1)}
    state, seen = chain.init(params), []
    update = jax.jit(chain.update)
    for _ in range(166):
        change, state = update({"x": jnp.ones(1)}, state, params)
        if change["x"][0] != 0:
            seen.append(-float(change["x"][0]))
    # Of a constant gradient Adam's step is the rate; the first rate is 0.
    np.testing.assert_allclose(seen, 0.003 * 16 * np.arange(1, 10) / 166, rtol=1e-4)


# --- The configuration ----------------------------------------------------------------


def test_banks_of_a_whole_class():
    # Sheet §10, fact 3, without the row of zeros.
    counts = {"points": (56**2, 1152), "rgb": (784, 768), "fused": (56**2, 1920)}
    shapes = {
        name: jax.ShapeDtypeStruct((244, *shape), jnp.float32)
        for name, shape in counts.items()
    }
    plan = memory.plan(Config(), None, shapes)
    assert plan.kept == 76_518 + 7_651 + 7_651
    assert plan.rows == 244 * (2 * 3136 + 784)
    raw = 4 * 244 * (3136 * (1152 + 1920) + 784 * 768)
    assert plan.host_bytes > raw  # 10 GB, and what a choice takes
    assert plan.bank_bytes == 4 * (76_518 * 1152 + 7_651 * (768 + 1920))
    limits = device_memory.Limits(2**34, 2**33, 1)
    with pytest.raises(device_memory.MemoryLimitError, match="memory on the host"):
        device_memory.check("m3dm.banks", plan, limits)
    own = memory.plan(Config(sizes="own"), None, shapes)
    assert own.kept == 76_518 + 19_129 + 76_518


def test_pixels_of_a_whole_class_are_planned():
    shape = {"map": jax.ShapeDtypeStruct((244, 224, 224, 3), jnp.float32)}
    assert decision.plan(None, shape).host_bytes == 56 * 244 * 50_176


def test_variants_are_the_methods_of_the_release():
    for name in VARIANTS:
        for system in ("m3dm", "m3dm_nr"):
            config = load(f"{system}:{name}")
            SYSTEMS[system].factory(SYSTEMS[system].config(**config.model.to_dict()))
    assert get_config("rgb").model.banks == ("rgb",)
    assert m3dm(Config(**get_config("rgb").model.to_dict())).needs_score == ("rgb",)
    assert m3dm(Config(**get_config("points").model.to_dict())).needs_fit == ("xyz",)
    assert [phase.name for phase in m3dm(Config()).phases] == [
        *("uff", "scales", "banks", "decision"),
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"banks": ("rgb", "points")}, "model.banks: expected some of"),
        ({"banks": ()}, "model.banks: expected some of"),
        ({"banks": ("rgb",)}, "model.decision: of a single bank expected 'sum'"),
        ({"normalise": "mixed"}, "model.normalise: expected one of"),
        ({"groups": 2}, "model.groups: expected .*at least 3"),
        ({"point_network": "pointnet"}, "model.point_network: expected one of"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)
