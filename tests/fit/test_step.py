"""The training step against a plain loop over the real rows alone."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from reference_systems import critic, pixels, restorer

from ad3d_jax.base import ALONE, State, Train, Update, sample_keys
from ad3d_jax.devices import compilation, engines
from ad3d_jax.fit.step import batches_of_step, begin, fixed_part, train_step
from ad3d_jax.testing import make_batch, pad, take

ENGINES = [
    ("jit", 1),
    ("pmap", 1),
    ("pmap", 2),
    ("pmap", 4),
    ("shard_map", 2),
    ("shard_map", 4),
]
KEY = jax.random.key(7)


def run(phase, state, batches, kind="jit", devices=1, clip=None, check_traces=True):
    """Returns (carry, reports) after one step a batch."""
    engine = engines.make_engine(kind, jax.devices()[:devices])
    compiled = compilation.compile_step(engine, train_step(phase, clip))
    carry = engines.replicate(engine, begin(phase, state), copy=True)
    key, fixed = engines.replicate(engine, (KEY, fixed_part(state)))
    reports = []
    for batch in batches:
        carry, report = compiled(key, fixed, carry, engines.split(engine, batch))
        reports.append(jax.device_get(report))
    assert compiled.traces == 1 or not check_traces
    return jax.device_get(carry), reports


def plain_loop(phase, state, batches):
    """The truth: real rows alone, jax.grad of the weighted mean, no engine."""
    params, extra = state.params, state.extra
    update = phase.updates[0]
    optimizer = update.optimizer(state.hyper, phase.steps)
    memory = optimizer.init(params)
    losses = []
    for number, batch in enumerate(batches):
        keys = sample_keys(jax.random.fold_in(KEY, number), batch)

        def mean(params, batch=batch, keys=keys, extra=extra):
            each, sums, _ = update.loss(
                keys, params, state._replace(extra=extra), batch, ALONE
            )
            return jnp.sum(each * batch.weight) / np.sum(batch.weight), sums

        (value, sums), gradient = jax.value_and_grad(mean, has_aux=True)(params)
        changes, memory = optimizer.update(gradient, memory, params)
        params = optax.apply_updates(params, changes)
        extra = phase.fold(extra, sums)
        losses.append(float(value))
    return params, extra, losses


def worst(found, expected):
    """Returns the largest difference over the largest magnitude of a leaf."""
    return max(
        float(np.max(np.abs(f - e)) / max(np.max(np.abs(e)), 1e-3))
        for f, e in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    )


@pytest.fixture(scope="module")
def truth():
    system = restorer(steps=5)
    batches = [make_batch(5, size=8, seed=seed) for seed in range(5)]
    # Weights other than 0 and 1 too.
    weights = np.array([1, 0.5, 1, 2, 1], np.float32)
    batches = [batch._replace(weight=weights) for batch in batches]
    state = system.init(jax.random.key(1), batches[0])
    return (
        system.phases[0],
        state,
        batches,
        plain_loop(system.phases[0], state, batches),
    )


@pytest.mark.parametrize(("kind", "devices"), ENGINES)
def test_five_steps_agree_with_a_plain_loop(truth, kind, devices):
    phase, state, batches, (params, extra, losses) = truth
    padded = [pad(batch, 3) for batch in batches]  # the fourth device: padding alone
    carry, reports = run(phase, state, padded, kind, devices)
    assert worst(carry.params, params) < 1e-5
    assert worst(carry.extra, extra) < 1e-5
    np.testing.assert_allclose([r.values["loss"] for r in reports], losses, rtol=1e-5)
    assert int(carry.step) == 5 and int(carry.bad) == 0


def test_pmap_and_shard_map_give_the_same_bits(truth):
    phase, state, batches, _ = truth
    padded = [pad(batch, 3) for batch in batches]
    one, _ = run(phase, state, padded, "pmap", 4)
    other, _ = run(phase, state, padded, "shard_map", 4)
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_info_is_the_weighted_mean_over_real_rows(truth):
    phase, state, batches, _ = truth
    keys = sample_keys(jax.random.fold_in(KEY, 0), batches[0])
    _, _, info = phase.updates[0].loss(keys, state.params, state, batches[0], ALONE)
    weight = batches[0].weight
    expected = float(np.sum(np.asarray(info["peak"]) * weight) / weight.sum())
    _, reports = run(phase, state, [pad(batches[0], 3)], "pmap", 4)
    np.testing.assert_allclose(reports[0].values["peak"], expected, rtol=1e-5)


def test_a_batch_of_padding_changes_nothing_but_the_counter(truth):
    phase, state, batches, _ = truth
    nothing = pad(take(batches[0], []), 4)
    carry, reports = run(phase, state, [nothing], "pmap", 2)
    expected = begin(phase, state)
    jax.tree.map(
        np.testing.assert_array_equal,
        (carry.params, carry.extra, carry.optimizers),
        (expected.params, expected.extra, expected.optimizers),
    )
    assert int(carry.step) == 1 and int(carry.bad) == 0
    assert float(reports[0].values["loss"]) == 0


@pytest.mark.parametrize(("kind", "devices"), [("jit", 1), ("pmap", 2)])
def test_health_is_told_of_the_folded_state(truth, kind, devices):
    phase, state, batches, _ = truth

    def health(extra):
        return {"health": sum(jnp.sum(x) for x in jax.tree.leaves(extra))}

    watched = phase._replace(health=health)
    carry, reports = run(watched, state, [pad(batches[0], 3)], kind, devices)
    expected = sum(np.sum(x, dtype=np.float64) for x in jax.tree.leaves(carry.extra))
    assert expected != 0
    np.testing.assert_allclose(reports[0].values["health"], expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["jit", "pmap"])
def test_a_step_that_is_not_finite_is_not_applied(truth, kind):
    phase, state, batches, _ = truth
    poisoned = batches[1]._replace(rgb=np.where(batches[1].rgb > 0.7, np.inf, 0.5))
    poisoned = poisoned._replace(rgb=poisoned.rgb.astype(np.float32))
    devices = 1 if kind == "jit" else 4
    one = [pad(b, 3) for b in batches[:1]]
    before, _ = run(phase, state, one, kind, devices)
    both = [*one, pad(poisoned, 3), pad(poisoned, 3)]
    after, reports = run(phase, state, both, kind, devices)
    jax.tree.map(
        np.testing.assert_array_equal,
        (before.params, before.extra, before.optimizers),
        (after.params, after.extra, after.optimizers),
    )
    assert [int(r.bad) for r in reports] == [0, 1, 2] and int(after.step) == 3
    # A good step ends the row.
    again, reports = run(phase, state, [*both, *one], kind, devices)
    assert [int(r.bad) for r in reports] == [0, 1, 2, 0]
    assert worst(again.params, after.params) > 1e-5


def quadratic(gradient_scale=1.0, fold=None, **kwargs):
    """A phase whose loss is scale * w . mean pixel."""

    def loss(keys, params, state, batch, across):
        mean = jnp.mean(pixels(batch), (1, 2))
        return gradient_scale * mean @ params["w"], {}, {}

    def sgd(hyper, steps):
        return optax.sgd(hyper["learning_rate"])

    return Train("q", (Update(loss, sgd, **kwargs),), 5, fold=fold)


def test_the_gradient_is_clipped_by_its_global_norm():
    batch = make_batch(4, size=8)
    state = State(params={"w": jnp.zeros(4)}, hyper={"learning_rate": jnp.array(1.0)})
    gradient = np.asarray(pixels(batch)).mean((0, 1, 2))
    norm = np.linalg.norm(gradient)
    free, _ = run(quadratic(), state, [batch], "pmap", 4)
    np.testing.assert_allclose(free.params["w"], -gradient, rtol=1e-5)
    clipped, _ = run(quadratic(), state, [batch], "pmap", 4, clip=float(norm / 2))
    np.testing.assert_allclose(clipped.params["w"], -gradient / 2, rtol=1e-5)
    loose, _ = run(quadratic(), state, [batch], "pmap", 4, clip=float(norm * 2))
    np.testing.assert_array_equal(loose.params["w"], free.params["w"])


def test_an_overflow_that_the_gradient_does_not_show_is_not_applied():
    batch = make_batch(4, size=8)
    huge = State(params={"w": jnp.zeros(4)}, hyper={"learning_rate": jnp.array(3e38)})
    carry, reports = run(quadratic(10.0), huge, [batch])
    assert int(reports[0].bad) == 1 and not carry.params["w"].any()


def test_a_changed_hyperparameter_counts_and_does_not_trace_again():
    batch = make_batch(4, size=8)
    engine = engines.make_engine("pmap", jax.devices()[:2])
    phase = quadratic()
    compiled = compilation.compile_step(engine, train_step(phase))
    found = []
    for rate in (0.5, 1.0):
        state = State(
            params={"w": jnp.zeros(4)}, hyper={"learning_rate": jnp.array(rate)}
        )
        carry = engines.replicate(engine, begin(phase, state), copy=True)
        key, fixed = engines.replicate(engine, (KEY, fixed_part(state)))
        carry, _ = compiled(key, fixed, carry, engines.split(engine, batch))
        found.append(np.asarray(carry.params["w"]))
    assert compiled.traces == 1
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-6)


def test_updates_alternate_and_train_their_own_groups_alone():
    """Counts by hand: the first update adds 1 to a twice a step, the second a to b."""

    def plain(hyper, steps):
        assert steps in (10, 5)  # five steps of two repetitions or of one
        return optax.sgd(1.0)

    def first(keys, params, state, batch, across):
        draws = jax.vmap(jax.random.uniform)(keys)
        each = -params["a"] * jnp.ones(len(batch.weight)) + 0 * params["b"]
        return each, {"draw": jnp.sum(batch.weight * draws)[None]}, {}

    def second(keys, params, state, batch, across):
        each = -params["b"] * jax.lax.stop_gradient(params["a"])
        return each * jnp.ones(len(batch.weight)), {}, {}

    def fold(extra, sums):
        return {"draws": jnp.concatenate([extra["draws"][1:], sums["draw"]])}

    phase = Train(
        "two",
        (
            Update(first, plain, trainable=("a",), repeat=2),
            Update(second, plain, trainable=("b",)),
        ),
        5,
        fold=fold,
    )
    state = State(
        params={"a": jnp.zeros(()), "b": jnp.zeros(()), "c": jnp.ones(())},
        extra={"draws": jnp.zeros(4)},
    )
    carry, reports = run(phase, state, [make_batch(4, size=8)] * 2, "pmap", 2)
    assert float(carry.params["a"]) == pytest.approx(4)  # 2 steps x 2 repetitions
    assert float(carry.params["b"]) == pytest.approx(2 + 4)  # a after each step
    assert float(carry.params["c"]) == 1
    assert set(reports[0].values) == {"loss_0", "loss_1"}
    # Every repetition of every step draws anew.
    assert len(set(carry.extra["draws"].tolist())) == 4


def test_an_unknown_parameter_group_is_a_clear_error():
    state = State(params={"w": jnp.zeros(4)}, hyper={"learning_rate": jnp.array(1.0)})
    with pytest.raises(ValueError, match=r"trainable names \['v'\].*\['w'\]"):
        begin(quadratic(trainable=("v",)), state)


def test_a_gathering_loss_agrees_between_device_counts():
    system = critic(steps=5)
    batches = [pad(make_batch(6, size=8, seed=seed), 2) for seed in range(5)]
    state = system.init(jax.random.key(1), batches[0])
    one, _ = run(system.phases[0], state, batches)
    for devices in (2, 4):
        many, _ = run(system.phases[0], state, batches, "pmap", devices)
        assert worst(many.params, one.params) < 1e-5


# --- Weights and fresh batches --------------------------------------------------------


def odd(state, batch):
    """Leaves out samples of even id; of the others every third counts double."""
    return (batch.id % 2) * (1.0 + (batch.id % 3 == 0))


@pytest.mark.parametrize(("kind", "devices"), [("jit", 1), ("pmap", 2), ("pmap", 4)])
def test_a_sample_of_factor_zero_is_as_padding(truth, kind, devices):
    phase, state, batches, _ = truth
    batches = [batch._replace(id=np.arange(5, dtype=np.int32)) for batch in batches]
    weighed = phase._replace(weigh=odd)
    left_out = np.array([0, 2, 4])

    def spoilt(batch):
        rgb = batch.rgb.copy()
        rgb[left_out] = np.nan  # of what is left out nothing is seen
        return pad(batch._replace(rgb=rgb), 3)

    def by_hand(batch):
        weight = batch.weight * np.array([0, 1, 0, 2, 0], np.float32)
        return pad(batch._replace(weight=weight), 3)

    found, reports = run(weighed, state, [spoilt(b) for b in batches], kind, devices)
    expected, others = run(phase, state, [by_hand(b) for b in batches], kind, devices)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    jax.tree.map(np.testing.assert_array_equal, reports, others)
    # They are those of the batch without the samples, in which others are elsewhere.
    few = [take(by_hand(b), [1, 3]) for b in batches]
    alone, _ = run(phase, state, few)
    assert worst(found.params, alone.params) < 1e-5
    whole, _ = run(phase, state, [pad(b, 3) for b in batches])
    assert worst(found.params, whole.params) > 1e-3


def test_a_batch_that_is_left_out_changes_nothing_but_the_counter(truth):
    phase, state, batches, _ = truth
    nothing = phase._replace(weigh=lambda state, batch: 0.0 * batch.weight)
    carry, reports = run(nothing, state, [pad(batches[0], 3)], "pmap", 2)
    expected = begin(phase, state)
    jax.tree.map(np.testing.assert_array_equal, carry.params, expected.params)
    assert int(carry.step) == 1 and int(carry.bad) == 0


def test_weights_may_depend_on_what_was_trained():
    """The second step sees the parameters that the first has left."""

    def loss(keys, params, state, batch, across):
        return -params["w"] * jnp.ones(len(batch.weight)), {}, {}

    phase = Train(
        "t",
        (Update(loss, lambda hyper, steps: optax.sgd(1.0)),),
        2,
        weigh=lambda state, batch: (
            jnp.where(state.params["w"] < 0.5, 1.0, 0.0) * jnp.ones(len(batch.weight))
        ),
    )
    state = State(params={"w": jnp.zeros(())})
    carry, _ = run(phase, state, [make_batch(4, size=8)] * 3)
    assert float(carry.params["w"]) == 1 and int(carry.step) == 3


@pytest.mark.parametrize(("kind", "devices"), [("jit", 1), ("pmap", 2), ("pmap", 4)])
def test_each_fresh_repetition_has_a_batch_of_its_own(kind, devices):
    """The digits of the sums are the ids of the rows that an update has seen."""

    def saw(keys, params, state, batch, across):
        digits = jnp.sum(batch.weight * 10.0**batch.id)
        return params["w"] * batch.weight, {"seen": digits[None]}, {}

    def fold(extra, sums):
        return {"seen": jnp.concatenate([extra["seen"][1:], sums["seen"]])}

    def sgd(hyper, steps):
        return optax.sgd(0.0)

    phase = Train(
        "t",
        (Update(saw, sgd, repeat=2, fresh=True), Update(saw, sgd, repeat=2)),
        1,
        fold=fold,
    )
    assert batches_of_step(phase) == 2
    batch = make_batch(8, size=8)._replace(id=np.arange(8, dtype=np.int32))
    state = State(params={"w": jnp.zeros(())}, extra={"seen": jnp.zeros(4)})
    carry, _ = run(phase, state, [batch], kind, devices)
    # Rows 0, 2, 4, 6 are the first batch, which the update that is not fresh sees, too.
    assert carry.extra["seen"].tolist() == [1010101, 10101010, 1010101, 1010101]


def test_a_critic_on_fresh_batches_agrees_between_device_counts():
    system = critic(steps=5)
    first, second = system.phases[0].updates
    phase = system.phases[0]._replace(updates=(first._replace(fresh=True), second))
    batches = [make_batch(8, size=8, seed=seed) for seed in range(5)]
    state = system.init(jax.random.key(1), batches[0])
    one, _ = run(phase, state, batches)
    for devices in (2, 4):
        many, _ = run(phase, state, batches, "pmap", devices)
        assert worst(many.params, one.params) < 1e-5
    stale, _ = run(system.phases[0], state, [take(b, range(0, 8, 2)) for b in batches])
    assert worst(stale.params, one.params) > 1e-4
