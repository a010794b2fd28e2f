"""The contract on every system of the table: one test for each system and clause."""

import functools
import itertools

import jax
import numpy as np
import pytest
from systems_table import SYSTEMS, TABLE

from ad3d_jax.base import System, Train, sample_keys, scoring, without_truth
from ad3d_jax.devices import compilation
from ad3d_jax.experiment.config import load
from ad3d_jax.experiment.state import build_system
from ad3d_jax.systems import SYSTEMS as ALL
from ad3d_jax.testing import CLAUSES, Trial, take
from ad3d_jax.testing.comparison import differ, near
from ad3d_jax.testing.trial import ROWS, engine, key

STEPS = 10  # of a phase, where nothing has to be found
# What computes in bfloat16 where model.dtype says so, and how near its map then comes
# to that in float32, of the map's range; and image scores (docs/reliability.md).
HALF = {
    "draem": 0.05,
    "easynet": 0.05,
    "das3d": 0.05,
    "dbrn": 0.2,
    "dsr": 0.3,
    "dsr3d": 0.2,
}
HALF_IMAGE = 0.05


@functools.lru_cache(maxsize=2)  # the clauses of a system follow on each other
def trial_of(name: str, whole: bool, /) -> Trial:  # one spelling, one trial
    """Returns the trial of a row; `whole` says whether it is fitted to the end."""
    row = TABLE[name]

    def shortened() -> System:
        system = row.make_system()
        phases = (
            phase._replace(steps=STEPS, epochs=None)
            if isinstance(phase, Train)
            else phase
            for phase in system.phases
        )
        return system._replace(phases=tuple(phases))

    return Trial(
        row.make_system if whole else shortened,
        row.make_batch,
        stochastic=row.stochastic,
        rounding=row.rounding,
    )


def cases():
    """Yields a parameter for each row and each clause that it is held to."""
    for (name, row), clause in itertools.product(TABLE.items(), CLAUSES):
        several = clause.devices > 1
        if not (several and row.one_device):
            marks = [pytest.mark.slow] * (several or row.slow)
            yield pytest.param(name, clause, id=f"{name}-{clause}", marks=marks)


@pytest.mark.parametrize(("name", "clause"), cases())
def test_contract(name, clause):
    # What several devices do is compared, not what was learned.
    clause.check(trial_of(name, clause.devices == 1))


def test_every_system_has_a_row():
    assert {row.make_system().name for row in SYSTEMS.values()} == set(ALL)


@pytest.mark.parametrize("name", [name for name in SYSTEMS if not TABLE[name].slow])
def test_what_the_losses_train_on_can_be_seen(name):
    trial = trial_of(name, True)
    if trial.system.synthesise is None:
        pytest.skip("trains on no anomalies")
    compiled = jax.jit(trial.system.synthesise)
    batch = jax.tree.map(jax.numpy.asarray, without_truth(trial.batch))
    state, keys = trial.before(0), sample_keys(key(), batch)
    images = compiled(keys, state, batch)
    mask = np.asarray(images["mask"])
    assert mask.shape == (*trial.shape, 1) and set(np.unique(mask)) <= {0.0, 1.0}
    kinds = {n.partition("_")[2] for n in images if n.startswith("clean_")}
    assert kinds and set(images) == {"mask"} | {
        f"{way}_{kind}" for way in ("clean", "altered") for kind in kinds
    }
    for name, image in images.items():
        assert image.shape[:3] == trial.shape and image.dtype == np.float32, name
        assert np.isfinite(image).all(), name
    order = np.array([2, 0, 3, 1])
    turned = compiled(keys[order], state, take(batch, order))
    near(turned, take(images, order), 1e-5, "images of permuted rows")
    for number in range(40):
        drawn = compiled(sample_keys(key(number), batch), state, batch)
        if np.asarray(drawn["mask"]).any():
            break
    assert np.asarray(drawn["mask"]).any(), "no anomaly in forty draws"
    assert any(differ(drawn[f"altered_{k}"], drawn[f"clean_{k}"]) for k in kinds)


def test_what_offers_half_precision_is_known():
    offers = {name for name in ALL if "dtype" in load(name).model}
    assert offers == set(HALF)


@pytest.mark.parametrize("name", HALF)
def test_scores_in_half_precision_are_near(name):
    trial, config = trial_of(name, True), load(f"{name}:tiny")
    config.model.dtype = "bfloat16"
    score = compilation.compile_map(engine(), scoring(build_system(config)))
    batch = without_truth(trial.make_batch(ROWS, defect=True))
    half, full = trial.scored(engine(), score, batch), trial.scores(batch)
    assert half.map.dtype == half.image.dtype == np.float32
    assert differ(half.map, full.map)  # it is computed otherwise
    assert np.abs(half.map - full.map).max() < HALF[name] * np.ptp(full.map)
    np.testing.assert_allclose(half.image, full.image, rtol=HALF_IMAGE)
