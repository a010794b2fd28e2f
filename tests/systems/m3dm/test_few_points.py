"""M3DM on clouds of fewer points than groups, and of none."""

from functools import cache, partial

import jax
import numpy as np

from ad3d_jax.base import with_cache, without_truth
from ad3d_jax.systems.m3dm.config import Config
from ad3d_jax.systems.m3dm.m3dm import m3dm
from ad3d_jax.testing import make_batch

KEY = jax.random.key(0)
SYSTEM = m3dm(
    Config(
        banks=("points",),
        decision="sum",
        normalise="none",
        point_layers=("block1",),
        groups=16,
        group_size=8,
        cells=8,
        fraction=1.0,
        projection="none",
        precision="float32",
        blur="gaussian",
        blur_radius=1.0,
    )
)
FEW = [(9, 9), (9, 22), (16, 16), (22, 9), (22, 22)]  # pixels that keep their points


@cache
def described():
    """Returns (state, batch, rows of its bank) of a whole, a sparse, an empty cloud."""
    batch = without_truth(make_batch(3, size=32, rails=True))
    xyz = np.array(batch.xyz)
    kept = xyz[1, *zip(*FEW, strict=True)]
    xyz[1:] = 0
    xyz[1, *zip(*FEW, strict=True)] = kept
    assert (kept != 0).all()
    state = SYSTEM.init(KEY, batch)
    batch = jax.jit(partial(with_cache, SYSTEM))(state, batch._replace(xyz=xyz))
    rows = jax.jit(SYSTEM.phases[0].emit)(KEY, state, batch)
    return state, batch, np.asarray(rows["points"])


def filled(number):
    """Returns (bank, scores of all) where the bank has all rows of one sample."""
    state, batch, rows = described()
    (phase,) = SYSTEM.phases
    select, own = phase.select["points"], rows[number][None]
    _, everything = select.prepare(KEY, state, own)
    kept = {"points": select.take(own, everything)}
    state = phase.absorb(KEY, state, kept)
    scores = jax.jit(SYSTEM.score)(KEY, state, batch)
    return state.memory["points"], jax.device_get(scores)


def test_cells_that_no_point_reaches_are_background():
    _, _, rows = described()
    assert np.isfinite(rows).all() and (rows[0] != 0).any(1).all()
    reached = (rows[1] != 0).any(1).reshape(8, 8)
    # A mean over 3 x 3 pixels takes a point to its neighbours; cells are 4 pixels wide.
    cells = {(r // 4, c // 4) for r, c in FEW}
    assert cells <= set(zip(*np.nonzero(reached), strict=True))
    assert reached.sum() <= 4 * len(FEW)
    assert not rows[2].any()


def test_a_sparse_cloud_fills_a_bank_and_knows_itself():
    _, scores = filled(1)
    assert np.isfinite(scores.map).all() and np.isfinite(scores.image).all()
    np.testing.assert_allclose(scores.map[1:], 0, atol=1e-5)
    assert scores.image[0] > 10 * np.abs(scores.image[1:]).max()


def test_a_cloud_without_points_fills_a_bank_of_background():
    bank, scores = filled(2)
    np.testing.assert_array_equal(bank.rows + bank.mean, np.zeros((1, 384)))
    np.testing.assert_array_equal(scores.map[2], 0)
    np.testing.assert_array_equal(scores.image[2], 0)
    assert np.isfinite(scores.map).all() and scores.map[0].min() > 0
