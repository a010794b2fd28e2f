"""No clause is blind: systems that break one are refused by it and by no other."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from reference_systems import critic, moments, restorer

from ad3d_jax.base import Gather, Local, Scores, State, System
from ad3d_jax.ops.blur import mean_filter
from ad3d_jax.testing import CLAUSES, ContractError, Trial, check_system, make_batch


def spread(emit=None, absorb=None, score=None, init=None, **fields) -> System:
    """Returns a Gaussian of each pixel's colour and depth, with parts replaced."""

    def whole(batch):
        return jnp.concatenate([batch.rgb, 20 * (batch.depth - 0.5)], -1)

    def zeros(key, batch):
        mean = jnp.zeros((*batch.rgb.shape[1:3], 4))
        memory = {"mean": mean, "spread": jnp.ones_like(mean)}
        return State(memory=memory, hyper={"floor": jnp.float32(0.05)})

    def rows(key, state, batch):
        return {"pixels": whole(batch)}

    def fold(key, state, rows):
        pixels = jnp.asarray(rows["pixels"])
        memory = {"mean": jnp.mean(pixels, 0), "spread": jnp.std(pixels, 0)}
        return state._replace(memory=memory)

    def distance(key, state, batch):
        mean, spread = state.memory["mean"][None], state.memory["spread"][None]
        away = jnp.abs(whole(batch) - mean) / (spread + state.hyper["floor"])
        map = jnp.mean(away, -1, keepdims=True)
        return Scores(map, jnp.max(map, (1, 2, 3)))

    def changed(part, own):
        return partial(part, own) if part is not None else own

    return System(
        name="spread",
        needs_fit=fields.get("needs_fit", ("rgb", "depth")),
        needs_score=("rgb", "depth"),
        init=changed(init, zeros),
        phases=(Gather("statistics", changed(emit, rows), changed(absorb, fold)),),
        score=changed(score, distance),
    )


def with_loss(change, **options) -> System:
    """Returns the restorer with the loss of each row changed."""
    system = restorer(**options)
    (phase,) = system.phases
    (update,) = phase.updates

    def loss(keys, params, state, batch, across):
        per_sample, sums, info = update.loss(keys, params, state, batch, across)
        return change(per_sample, batch, across), sums, info

    phase = phase._replace(updates=(update._replace(loss=loss),))
    return system._replace(phases=(phase,))


def init_by_values(init, key, batch):
    state = init(key, batch)
    return state._replace(memory={**state.memory, "seen": jnp.mean(batch.rgb)})


def loss_infinite_in_the_dark():
    return with_loss(
        lambda loss, batch, _: loss + jnp.log(jnp.mean(batch.rgb, (1, 2, 3)))
    )


def loss_diluted_by_padding():
    return with_loss(lambda loss, batch, _: loss * jnp.mean(batch.weight))


def loss_diluted_in_half_of_the_draws():
    """As of a kink: by a thousandth, and for a key in two."""
    system = restorer()
    (phase,) = system.phases
    (update,) = phase.updates

    def loss(keys, params, state, batch, across):
        per_sample, sums, info = update.loss(keys, params, state, batch, across)
        odd = jax.random.bernoulli(keys[0])
        diluted = per_sample * (1 + 1e-3 * (jnp.mean(batch.weight) - 1))
        return jnp.where(odd, diluted, per_sample), sums, info

    phase = phase._replace(updates=(update._replace(loss=loss),))
    return system._replace(phases=(phase,))


def sums_that_count_padding():
    system = moments()
    mean, covariance = system.phases

    def emit(key, state, batch):
        sums = mean.emit(key, state, batch)
        return {**sums, "count": jnp.float32(batch.depth.size)}

    return system._replace(phases=(mean._replace(emit=emit), covariance))


def score_of_neighbours(score, key, state, batch):
    own = score(key, state, batch)
    weight = batch.weight / jnp.sum(batch.weight)
    return own._replace(image=own.image + 0.01 * (weight @ own.image))


def map_infinite_in_the_light(score, key, state, batch):
    own = score(key, state, batch)
    white = jnp.all(batch.rgb == 1, (1, 2, 3))
    return own._replace(map=jnp.where(white[:, None, None, None], jnp.inf, own.map))


def score_upside_down(score, key, state, batch):
    own = score(key, state, batch)
    return Scores(-own.map, -own.image)


@jax.tree_util.register_pytree_with_keys_class
class Restless:
    """A container that never has the structure that it had."""

    def __init__(self, value):
        self.value = value

    def tree_flatten_with_keys(self):
        return ((jax.tree_util.DictKey("value"), self.value),), object()

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)


def memory_without_rest(absorb, key, state, rows):
    state = absorb(key, state, rows)
    return state._replace(memory={**state.memory, "restless": Restless(jnp.ones(()))})


def rows_centred_in_their_batch(emit, key, state, batch):
    pixels = emit(key, state, batch)["pixels"]
    weight = batch.weight / jnp.maximum(jnp.sum(batch.weight), 1)
    return {"pixels": pixels - 0.1 * jnp.tensordot(weight, pixels, 1)[None]}


def memory_in_frozen(absorb, key, state, rows):
    state = absorb(key, state, rows)
    return state._replace(frozen={"count": jnp.float32(len(rows["pixels"]))})


def init_with_frozen(init, key, batch):
    return init(key, batch)._replace(frozen={"count": jax.random.uniform(key)})


def score_by_eigenvalues(score, key, state, batch):
    own = score(key, state, batch)
    size = jnp.abs(jnp.linalg.eigvals(batch.depth[:, :2, :2, 0])).max(-1)
    return own._replace(image=own.image + 1e-3 * size)


def windows(reach):
    """Returns a system of means of 5 x 5 pixels that says how far it sees: 2 pixels."""

    def cells(key, state, batch):
        seen = jnp.mean(batch.rgb, -1, keepdims=True) + 20 * jnp.abs(batch.depth - 0.5)
        return mean_filter(seen, 5)

    def whole(cells, size):
        return Scores(cells, jnp.max(cells, (1, 2, 3)))

    def score(_, key, state, batch):
        return whole(cells(key, state, batch), batch.rgb.shape[1:3])

    local = Local(cells, whole, reach, cell=1, step=1)
    return spread(score=score)._replace(local=local)


def statistics_of_one_device():
    """Centres the loss by rows of its own device: right alone, and with padding."""

    def change(loss, batch, across):
        weight = batch.weight / jnp.maximum(jnp.sum(batch.weight), 1)
        return (loss - weight @ loss) ** 2 + loss

    return with_loss(change)


BROKEN = {
    "init_by_values": (1, lambda: spread(init=init_by_values), ()),
    "loss_infinite_in_the_dark": (2, loss_infinite_in_the_dark, ("train",)),
    "loss_diluted_by_padding": (3, loss_diluted_by_padding, ("train",)),
    "loss_diluted_at_times": (3, loss_diluted_in_half_of_the_draws, ("train",)),
    "sums_that_count_padding": (3, sums_that_count_padding, ()),
    "score_of_neighbours": (4, lambda: spread(score=score_of_neighbours), ()),
    "map_infinite_in_the_light": (
        5,
        lambda: spread(score=map_infinite_in_the_light),
        (),
    ),
    "reach_told_too_small": (5, lambda: windows(1), ()),
    "score_upside_down": (6, lambda: spread(score=score_upside_down), ()),
    "key_not_declared": (7, critic, ("train",)),
    "memory_without_rest": (8, lambda: spread(absorb=memory_without_rest), ()),
    "rows_centred_in_their_batch": (
        9,
        lambda: spread(emit=rows_centred_in_their_batch),
        (),
    ),
    "memory_in_frozen": (
        10,
        lambda: spread(init=init_with_frozen, absorb=memory_in_frozen),
        (),
    ),
    "needs_too_much": (11, lambda: spread(needs_fit=("rgb", "depth", "xyz")), ()),
    "score_by_eigenvalues": (13, lambda: spread(score=score_by_eigenvalues), ()),
}


def refusals(trial: Trial, devices: int) -> dict[int, str]:
    """Returns the messages of the clauses that refuse a system, by their numbers."""
    found = {}
    for clause in CLAUSES:
        if clause.devices <= devices:
            try:
                clause.check(trial)
            except ContractError as refusal:
                found[clause.number] = str(refusal)
    return found


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_system_is_refused_by_its_clause_alone(name):
    number, make_system, stochastic = BROKEN[name]
    # The rounding is that of `moments`, whose covariance is inverted.
    trial = Trial(make_system, make_batch, stochastic=stochastic, rounding=5e-5)
    found = refusals(trial, 1)
    assert list(found) == [number], "\n".join(found.values())
    assert f"clause {number} (" in found[number] and "found" in found[number]


@pytest.mark.slow
def test_statistics_of_one_device_are_refused_where_there_are_several():
    trial = Trial(statistics_of_one_device, make_batch, stochastic={"train"})
    found = refusals(trial, 4)
    assert list(found) == [12] and "on 2 devices" in found[12]


def test_every_clause_of_one_device_has_a_system_that_breaks_it():
    numbers = {clause.number for clause in CLAUSES if clause.devices == 1}
    assert numbers == {number for number, *_ in BROKEN.values()}
    assert {clause.number for clause in CLAUSES} == set(range(1, 14))


def test_a_sound_system_passes_and_a_broken_one_is_told_in_sentences():
    check_system(spread, make_batch, numbers={1, 4, 5, 6, 8, 11})
    check_system(lambda: windows(2), make_batch, numbers={5})
    with pytest.raises(ContractError) as refusal:
        check_system(
            lambda: spread(score=score_upside_down), make_batch, numbers={5, 6}
        )
    text = str(refusal.value)
    assert text.startswith("spread: clause 6 (A planted defect raises the image score")
    assert "expected an image score above" in text and "found -" in text
    assert len(text.splitlines()) == 1


def test_what_a_system_raises_is_named_with_the_clause_and_is_the_cause():
    def score(_, key, state, batch):
        raise RuntimeError("no such layer")

    with pytest.raises(ContractError, match=r"clause 5 \(.*RuntimeError: no such") as x:
        check_system(lambda: spread(score=score), make_batch, numbers={5})
    assert isinstance(x.value.__cause__, RuntimeError)


@pytest.mark.parametrize("part", ["init", "emit", "absorb", "score"])
def test_dtypes_that_are_mixed_are_refused(part):
    def mixed(own, *arguments):
        flag = jnp.array([True]) * jnp.ones(1)  # 1 by NumPy's rules
        return jax.tree.map(lambda x: x * flag.reshape((1,) * x.ndim), own(*arguments))

    with pytest.raises(ContractError, match="TypePromotionError: Input dtypes"):
        check_system(lambda: spread(**{part: mixed}), make_batch, numbers={5})


def test_a_loss_that_mixes_dtypes_is_refused():
    def make_system():
        return with_loss(lambda loss, batch, _: loss * (batch.id >= 0))

    with pytest.raises(ContractError, match="TypePromotionError: Input dtypes"):
        check_system(make_system, make_batch, stochastic={"train"}, numbers={2})


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="expected names of train.*found scores"):
        Trial(spread, make_batch, stochastic={"scores"})


def test_pytest_is_not_needed():
    code = (
        "import sys; import ad3d_jax.testing; "
        "assert not {'pytest', 'tensorflow', 'open3d', 'matplotlib'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
