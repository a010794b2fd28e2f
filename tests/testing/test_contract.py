"""Each clause of the contract refuses a system that breaks it, and only that clause."""

import jax
import jax.numpy as jnp
import pytest
from reference_systems import moments, restorer

from ad3d_jax.base import Gather, Scores, State, System
from ad3d_jax.testing import CLAUSES, ContractError, check_system

ONE_DEVICE = [clause for clause in CLAUSES if clause.devices == 1]


def mean_colour(**changes) -> System:
    """Returns the distance to the mean colour of the training pixels, with changes.

    `emit`, `absorb` and `score` are given the sound function to build on.
    """

    def init(key, batch):
        shape = batch.rgb.shape[1:]
        return State(
            memory={"mean": jnp.zeros(shape)}, hyper={"scale": jnp.float32(2.0)}
        )

    def emit(key, state, batch):
        return {"rgb": jnp.asarray(batch.rgb)}

    def absorb(key, state, rows):
        mean = jnp.mean(jnp.asarray(rows["rgb"]), axis=0)
        return state._replace(memory={"mean": mean})

    def score(key, state, batch):
        offset = jnp.abs(batch.rgb - state.memory["mean"][None])
        map = state.hyper["scale"] * jnp.mean(offset, axis=-1, keepdims=True)
        return Scores(map, jnp.max(map, axis=(1, 2, 3)))

    made = {"init": init, "emit": emit, "absorb": absorb, "score": score}
    made |= {
        name: change(made[name]) for name, change in changes.items() if name in made
    }
    return System(
        name="mean_colour",
        needs_fit=("rgb",),
        needs_score=changes.get("needs_score", ("rgb",)),
        init=made["init"],
        phases=(Gather("mean", made["emit"], made["absorb"]),),
        score=made["score"],
    )


def with_loss(change) -> System:
    """Returns `restorer` with another loss of each sample."""
    system = restorer()
    (phase,) = (phase for phase in system.phases if hasattr(phase, "updates"))
    (update,) = phase.updates

    def loss(keys, params, state, batch, across):
        per_sample, sums, info = update.loss(keys, params, state, batch, across)
        return change(per_sample, batch), sums, info

    changed = phase._replace(updates=(update._replace(loss=loss),))
    phases = tuple(changed if each is phase else each for each in system.phases)
    return system._replace(phases=phases)


def init_that_looks(init):
    def other(key, batch):
        return init(key, batch)._replace(memory={"mean": jnp.asarray(batch.rgb[0])})

    return other


def whole_number(init):
    """Half of it has another dtype, and so is another program."""

    def other(key, batch):
        return init(key, batch)._replace(hyper={"scale": jnp.int32(2)})

    return other


def off_the_batch(emit):
    def other(key, state, batch):
        rgb = emit(key, state, batch)["rgb"]
        return {"rgb": rgb + jnp.max(rgb, axis=0, keepdims=True)}

    return other


def into_frozen(absorb):
    """What a step must not write to is not saved with a position."""

    def other(key, state, rows):
        return absorb(key, state, rows)._replace(frozen={"extra": jnp.ones(3)})

    return other


def changed_scores(change):
    def build(score):
        def other(key, state, batch):
            return change(score(key, state, batch), key, batch)

        return other

    return build


def beside_others(scores, key, batch):
    return scores._replace(map=scores.map - jnp.mean(scores.map))


def halved(scores, key, batch):
    return scores._replace(map=scores.map[:, ::2, ::2])


def blind(scores, key, batch):
    return Scores(0 * scores.map, 0 * scores.image)


def noisy(scores, key, batch):
    noise = jax.random.uniform(key, (), minval=0, maxval=1e-3)
    return scores._replace(image=scores.image + noise)


def of_cpus_alone(scores, key, batch):
    values = jnp.linalg.eig(jnp.eye(3))[0].real.max()
    return scores._replace(image=scores.image * values)


BROKEN = {
    1: lambda: mean_colour(init=init_that_looks),
    2: lambda: with_loss(lambda x, batch: x / jnp.mean(batch.rgb, (1, 2, 3))),
    3: lambda: with_loss(lambda x, batch: x + jnp.sum(jnp.ones_like(x))),
    4: lambda: mean_colour(score=changed_scores(beside_others)),
    5: lambda: mean_colour(score=changed_scores(halved)),
    6: lambda: mean_colour(score=changed_scores(blind)),
    7: lambda: mean_colour(score=changed_scores(noisy)),
    8: lambda: mean_colour(init=whole_number),
    9: lambda: mean_colour(emit=off_the_batch),
    10: lambda: mean_colour(absorb=into_frozen),
    11: lambda: mean_colour(needs_score=("rgb", "xyz")),
    13: lambda: mean_colour(score=changed_scores(of_cpus_alone)),
}


def test_a_sound_system_passes():
    check_system(mean_colour)


@pytest.mark.parametrize("number", BROKEN)
def test_what_breaks_a_clause_is_refused_by_it(number):
    stochastic = {"train"} if number in (2, 3) else ()
    with pytest.raises(ContractError, match=rf": clause {number} \("):
        check_system(BROKEN[number], numbers={number}, stochastic=stochastic)


def test_only_the_broken_clause_is_named():
    with pytest.raises(ContractError) as failure:
        check_system(BROKEN[11])
    assert str(failure.value).count(": clause ") == 1


def test_sums_that_count_padding_are_refused():
    system = moments()

    def careless(phase):
        def emit(key, state, batch):
            ones = jnp.ones_like(batch.weight)
            return phase.emit(key, state, batch._replace(weight=ones))

        return phase._replace(emit=emit)

    broken = system._replace(phases=tuple(map(careless, system.phases)))
    with pytest.raises(ContractError, match=r"clause 3 .*sums of phase"):
        check_system(lambda: broken, numbers={3}, rounding=5e-5)


def test_every_clause_of_one_device_is_broken_once():
    assert set(BROKEN) == {clause.number for clause in ONE_DEVICE}


def test_a_state_with_a_plain_number_is_refused():
    def init(sound):
        return lambda key, batch: sound(key, batch)._replace(memory={"mean": 0.5})

    with pytest.raises(ContractError, match="clause 1 .*expected a State of arrays"):
        check_system(lambda: mean_colour(init=init), numbers={1})


def test_what_is_stochastic_must_be_known():
    with pytest.raises(ValueError, match="stochastic: .* found scoring"):
        check_system(mean_colour, stochastic={"scoring"})
