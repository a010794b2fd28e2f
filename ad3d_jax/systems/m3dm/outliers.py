"""Stage III of M3DM-NR: a choice of rows that passes over doubtful ones.

X. Jiang et al., "SoftPatch: Unsupervised Anomaly Detection with Noisy Data", NeurIPS
2022, whose release the algorithm follows: a row is compared, by its local outlier
factor, with those of the same place in the other samples.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Across, Array, Select, State, Tree
from ad3d_jax.ops import coreset
from ad3d_jax.ops.outliers import local_outlier_factor
from ad3d_jax.ops.projection import dense_projection
from ad3d_jax.systems.m3dm import memory
from ad3d_jax.systems.m3dm.config import Config

PLACES = 64  # whose factors are computed at a time


class Sure(NamedTuple):
    """The carry of a choice among rows that are not doubtful."""

    greedy: coreset.Greedy  # of those rows alone
    number: Array  # [M] int32, of each among all rows T*P
    factor: Array  # [M] float32, its local outlier factor


class Kept(NamedTuple):
    """The rows that are kept, in the order of the picks."""

    rows: np.ndarray  # [m,D] float32
    factor: np.ndarray  # [m] float32


def factors(
    key: Array, rows: Array, present: Array, neighbours: int, project: bool = True
) -> np.ndarray:
    """Returns the local outlier factor of each row among those of its place, [T,P].

    Args:
        key: of the projection to 128 numbers; rows of no more are left as they are.
        rows: [T,P,D] float32, on the host.
        present: [T,P] bool; others are no neighbours, and their factor is 1.
        neighbours: k.
        project: False leaves wider rows as they are, too.
    """
    width = coreset.DENSE_DIMENSIONS
    matrix = None
    if project and rows.shape[-1] > width:
        matrix = dense_projection(key, rows.shape[-1], width)
    found = np.empty(rows.shape[:2], np.float32)
    for first in range(0, rows.shape[1], PLACES):
        part = slice(first, first + PLACES)
        found[:, part] = _factors(rows[:, part], present[:, part], matrix, neighbours)
    return found


@partial(jax.jit, static_argnames="neighbours")
def _factors(rows: Array, present: Array, matrix: Array | None, neighbours: int):
    if matrix is not None:
        rows = jnp.matmul(rows, matrix, precision=jax.lax.Precision.HIGHEST)
    places = jnp.swapaxes(rows, 0, 1), jnp.swapaxes(present, 0, 1)
    return jax.lax.map(lambda x: local_outlier_factor(*x, neighbours), places).T


def sure(factor: Array, present: Array, share: float) -> np.ndarray:
    """Returns which rows are not doubtful, bool of the shape of `factor`.

    Doubtful are those above the quantile 1 - share of all that are present; with share
    0 none is.
    """
    if not present.any():
        return np.ones_like(present)
    return (factor <= np.quantile(factor[present], 1 - share)) | ~present


def choice(config: Config, name: str, share: float, neighbours: int) -> Select:
    """Returns the choice of a bank's rows that are not doubtful.

    It takes {"rows" [T,P,D], "present" [T,P]}, leaves out the samples that are in
    `memory["removed"]`, and gives `Kept`. SoftPatch multiplies distances to a new pick
    by 0 in doubtful rows, so that these are never picked: they are left out here, but
    for its first pick, which it does not protect.

    Args:
        config: says what the bank keeps of them.
        name: of the bank.
        share: of the rows, that is doubtful.
        neighbours: k.
    """

    def prepare(key: Array, state: State, rows: Tree) -> tuple[dict, Sure]:
        stays = np.ones(len(rows["present"]), bool)
        stays[np.asarray(state.memory["removed"]["number"], int)] = False
        values, present = rows["rows"], np.asarray(rows["present"])
        places = values.shape[1]
        factor = np.ones(present.shape, np.float32)
        own = jax.random.fold_in(key, 1)
        project = config.projection != "none"
        factor[stays] = factors(own, values[stays], present[stays], neighbours, project)
        chosen = stays[:, None] & present
        certain = sure(factor, chosen, share) & stays[:, None]
        data, carry = memory.greedy(config, name, places).prepare(
            key, state, values[certain]
        )
        number = np.flatnonzero(certain).astype(np.int32)
        return data, Sure(carry, number, factor[certain])

    def advance(data: dict, carry: Sure, across: Across) -> Sure:
        return carry._replace(greedy=coreset.advance(data, carry.greedy, across))

    def take(rows: Tree, carry: Sure) -> Kept:
        picked = np.asarray(carry.greedy.picked)
        flat = rows["rows"].reshape(-1, rows["rows"].shape[-1])
        number, factor = (np.asarray(x)[picked] for x in (carry.number, carry.factor))
        return Kept(flat[number], factor)

    plain = memory.greedy(config, name, config.cells**2)
    return Select(prepare, advance, lambda carry: plain.done(carry.greedy), take)
