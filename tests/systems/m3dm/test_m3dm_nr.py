"""M3DM-NR: its parts against scikit-learn and by hand, and what it has of M3DM."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.neighbors import LocalOutlierFactor

from ad3d_jax.base import ALONE, State
from ad3d_jax.ops import knn
from ad3d_jax.systems.m3dm import memory, outliers, references
from ad3d_jax.systems.m3dm.m3dm import m3dm
from ad3d_jax.systems.m3dm.m3dm_nr import Config, m3dm_nr
from experiments.configs.m3dm_nr import get_config

KEY = jax.random.key(0)
SMALL = {"cells": 4, "precision": "float32", "fraction": 0.5, "projection": "none"}
NOBODY = {"removed": {"number": np.zeros(0, np.int32), "id": np.zeros(0, np.int32)}}


@cache
def made_up(samples=20, places=16, dimensions=6, odd=3):
    """Returns rows [T,P,D] alike in all samples but one, which is like none."""
    generator = np.random.default_rng(2)
    rows = generator.standard_normal((1, places, dimensions))
    rows = rows + 0.1 * generator.standard_normal((samples, places, dimensions))
    rows[odd] = generator.standard_normal((places, dimensions))
    return rows.astype(np.float32)


def chosen(select, memory_, rows):
    """Returns what a choice takes of the rows."""

    class Fitted:
        memory = memory_

    data, carry = select.prepare(KEY, Fitted, rows)
    advance = jax.jit(partial(select.advance, across=ALONE))
    while select.done(carry)[0] < select.done(carry)[1]:
        carry = advance(data, carry)
    return select.take(rows, jax.device_get(carry))


# --- Stage III ------------------------------------------------------------------------


def test_factors_are_those_of_each_place():
    rows, there = made_up(), np.ones((20, 16), bool)
    there[4, 5] = False
    found = outliers.factors(KEY, rows, there, 5)
    for place in (0, 5, 15):
        here = there[:, place]
        model = LocalOutlierFactor(5).fit(rows[here, place])
        expected = -model.negative_outlier_factor_
        np.testing.assert_allclose(found[here, place], expected, rtol=1e-4)
    assert found[4, 5] == 1
    assert found[3].mean() > 3 > 1.5 > np.delete(found, 3, 0).mean()


def test_wide_rows_are_projected_before():
    rows = np.repeat(made_up(), 40, axis=-1)  # 240 numbers
    there = np.ones(rows.shape[:2], bool)
    found = outliers.factors(KEY, rows, there, 5)
    other = outliers.factors(jax.random.key(1), rows, there, 5)
    assert (found != other).any()
    exact, same = (
        outliers.factors(jax.random.key(n), rows, there, 5, project=False)
        for n in range(2)
    )
    np.testing.assert_array_equal(exact, same)
    # The projection keeps distances roughly.
    np.testing.assert_allclose(found[:3], exact[:3], rtol=0.6)
    np.testing.assert_allclose(found[:3], other[:3], rtol=0.6)
    assert found[3].mean() > 2 * np.delete(found, 3, 0).mean()


@pytest.mark.parametrize(("share", "left"), [(0.15, 15), (0.1, 10), (0.0, 0)])
def test_a_share_of_the_rows_is_doubtful(share, left):
    factor = np.random.default_rng(0).permutation(100).reshape(10, 10)
    there = np.ones((10, 10), bool)
    assert np.sum(~outliers.sure(factor, there, share)) == left
    # What is absent is never doubtful, and does not move the quantile.
    there[:2] = False
    certain = outliers.sure(factor, there, share)
    assert certain[:2].all() and np.sum(~certain) == int(np.ceil(0.8 * left))


def test_without_doubt_the_choice_is_that_of_m3dm():
    config, rows = Config(**SMALL), made_up()
    plain = chosen(memory.choice(config, "points"), {}, rows)
    there = np.ones(rows.shape[:2], bool)
    select = outliers.choice(config, "points", 0.0, 5)
    found = chosen(select, NOBODY, {"rows": rows, "present": there})
    np.testing.assert_array_equal(found.rows, plain.rows)


def test_doubtful_rows_and_samples_left_out_are_never_kept():
    config, rows = Config(**SMALL), made_up()
    there = np.ones(rows.shape[:2], bool)
    factor = outliers.factors(jax.random.fold_in(KEY, 1), rows, there, 5)
    select = outliers.choice(config, "points", 0.15, 5)
    found = chosen(select, NOBODY, {"rows": rows, "present": there})
    limit = np.quantile(factor, 0.85)
    assert found.factor.max() <= limit and len(found.rows) == 272 // 2
    where = [np.flatnonzero((rows == row).all(-1))[0] for row in found.rows]
    np.testing.assert_array_equal(found.factor, factor.reshape(-1)[where])
    out = {"removed": {"number": np.int32([3, 7]), "id": np.int32([30, 70])}}
    found = chosen(select, out, {"rows": rows, "present": there})
    where = [np.flatnonzero((rows == row).all(-1))[0] // 16 for row in found.rows]
    assert not {3, 7} & set(where)


def test_soft_weights_multiply_distances():
    generator = np.random.default_rng(3)
    bank = knn.build(generator.standard_normal((30, 6)).astype(np.float32))
    rows = generator.standard_normal((2, 16, 6)).astype(np.float32)
    config = Config(**SMALL, blur="gaussian", blur_radius=0.5)
    compare = jax.jit(partial(memory.compare_one, config, bank, rows, (8, 8)))
    plain, ones = compare(None), compare(np.ones(30, np.float32))
    for one, other in zip(plain, ones, strict=True):
        np.testing.assert_array_equal(one, other)
    image, map = compare(np.full(30, 1.5, np.float32))
    np.testing.assert_allclose(image, 1.5 * plain[0], rtol=1e-6)
    np.testing.assert_allclose(map, 1.5 * plain[1], rtol=1e-6)


# --- Stages I and II ------------------------------------------------------------------


def test_normality_is_the_mean_cosine_with_the_others():
    rows = np.float32([[[1, 0]], [[0, 1]], [[1, 1]]])
    half = np.sqrt(0.5)
    expected = [half / 2, half / 2, half]
    np.testing.assert_allclose(references.normality(rows), expected, rtol=1e-6)
    np.testing.assert_array_equal(references.normality(rows[:1]), [1])


def test_the_odd_sample_is_no_reference_and_the_first_to_go():
    rows = made_up()
    typical = references.normality(rows)
    assert typical.argmin() == 3
    sample = references.chosen(typical, 0.5)
    assert len(sample) == 10 and 3 not in sample
    known = references.references(rows, sample)
    assert known.suspicion.min() == 0 and known.suspicion.max() == 1
    scores = references.unlikeness(known, rows)
    assert scores.argmax() == 3
    np.testing.assert_array_equal(references.suspects(scores, 0.05), [3])


def test_distances_by_hand():
    rows = references.unit(np.float32([[[1, 0], [0, 3]], [[2, 1], [0, -1]]]))
    known = references.references(rows, np.int32([0, 1]))
    # A sample does not match itself: of (1,0) and (0,1) the nearest is (2,1).
    distance, number = references.distances(known, rows, np.int32([0, 1]))
    near, far = 1 - np.sqrt([0.8, 0.2])
    np.testing.assert_allclose(distance, [[near, far], [near, 1]], atol=1e-6)
    np.testing.assert_array_equal(number, [[2, 2], [0, 0]])
    np.testing.assert_allclose(known.suspicion, [0, 1, 0, 1], atol=1e-5)
    # Of each sample the worst patch alone, times one less what it matched.
    found = references.unlikeness(known, rows)
    np.testing.assert_allclose(found, [far, 1], atol=1e-6)


def test_shares_of_samples():
    scores = np.float32([3, 1, 2, 2, 0])
    np.testing.assert_array_equal(references.suspects(scores, 0.0), [])
    np.testing.assert_array_equal(references.suspects(scores, 0.5), [0, 3])
    np.testing.assert_array_equal(references.chosen(scores, 0.1), range(5))
    assert len(references.chosen(np.zeros(244), 0.1)) == 24  # floor(24.4)
    assert len(references.chosen(np.zeros(20), 0.1)) == 5


# --- The system -----------------------------------------------------------------------


def test_phases_are_those_of_m3dm_and_one_more():
    def names(system):
        return [phase.name for phase in system.phases]

    plain, robust = names(m3dm(Config())), names(m3dm_nr(Config()))
    assert robust == ["uff", "samples", *plain[1:]]
    points = Config(**get_config("points").model.to_dict())
    assert names(m3dm_nr(points)) == ["samples", "banks"]


def test_samples_left_out_have_no_weight_and_no_say():
    system = m3dm_nr(Config())
    phases = {phase.name: phase for phase in system.phases}

    class Fitted:
        memory = {"removed": {"number": np.int32([1]), "id": np.int32([50])}}

    class Rows:
        id = jnp.int32([40, 50, 60])

    np.testing.assert_array_equal(phases["scales"].weigh(Fitted, Rows), [1, 0, 1])
    # Both SVMs learn what those of M3DM learn of the others.
    generator = np.random.default_rng(5)
    rows = {
        "image": generator.gamma(2.0, 1.0, (3, 3)).astype(np.float32),
        "map": generator.gamma(2.0, 1.0, (3, 4, 4, 3)).astype(np.float32),
    }
    state = State(memory=Fitted.memory, hyper={"nu": np.float32(0.5)})
    others = {name: x[[0, 2]] for name, x in rows.items()}
    found = phases["decision"].absorb(KEY, state, rows).memory["decision"]
    plain = m3dm(Config()).phases[-1].absorb(KEY, state, others).memory["decision"]
    for name in rows:
        np.testing.assert_array_equal(found[name], plain[name])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"references": 0.0}, "model.references"),
        ({"removed": 1.5}, "model.removed"),
        ({"doubtful": -0.1}, "model.doubtful"),
        ({"outlier_neighbours": 0}, "model.outlier_neighbours"),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Config(**fields)
