"""The score of a fitted system as one StableHLO program, and the arrays it takes."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Array, Batch, State, System, Tree
from ad3d_jax.devices import engines
from ad3d_jax.workdir import trees

PLATFORMS = ("cpu", "cuda", "tpu")
KEY, STATE, BATCH = "key", "state/", "batch/"  # how names of arguments begin


class Program(NamedTuple):
    """A score that is called as `exported.call(arrays)` with one dict of arrays.

    The dict holds `state` and the fields that `inputs` describes, by name. The result
    is a dict, too: map [B,H,W,1], image [B], match, and `parts/NAME`.
    """

    exported: export.Exported
    state: Mapping[str, np.ndarray]  # without what the score does not look at
    inputs: Mapping[str, jax.ShapeDtypeStruct]  # likewise, of a batch


def export_score(system: System, key: Array, state: State, batch: Batch) -> Program:
    """Returns the program that scores batches of the shapes of `batch`.

    It is the program of `evaluate.compile_score` on one device, and its state an
    argument as there: were it constant, the compiler would compute with it beforehand,
    and the last bits would differ.

    Args:
        system: what scores.
        key: typed key of scoring.
        state: fitted.
        batch: its shapes and dtypes count.

    Raises:
        ValueError: the score cannot be exported, as one that calls the host.
    """
    arguments = (jax.random.key_data(key), state, batch)
    run = _by_name(system, jax.random.key_impl(key), arguments)
    arrays = _named(arguments)
    shapes = {name: _shape(x) for name, x in arrays.items()}
    first = _exported(system, run, shapes, ("cpu",))
    # Arguments in the order of their names, as a dict has them.
    used = [sorted(shapes)[place] for place in first.module_kept_var_idx]
    exported = _exported(system, run, {n: shapes[n] for n in used}, PLATFORMS)
    return Program(
        exported,
        {n: np.asarray(arrays[n]) for n in used if not n.startswith(BATCH)},
        {n.removeprefix(BATCH): shapes[n] for n in used if n.startswith(BATCH)},
    )


def _exported(system: System, run, shapes, platforms) -> export.Exported:
    try:
        with _without_paths():
            return export.export(jax.jit(run), platforms=platforms)(shapes)
    except (ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{system.name} cannot be exported: {reason}") from error


@contextlib.contextmanager
def _without_paths() -> Iterator[None]:
    """Keeps the paths of this machine's sources out of programs."""
    before = jax.config.jax_traceback_in_locations_limit
    jax.config.update("jax_traceback_in_locations_limit", 0)
    try:
        yield
    finally:
        jax.config.update("jax_traceback_in_locations_limit", before)


def _by_name(system: System, impl, arguments: Tree):
    """Returns the score as a function of arguments by name; absent ones are zeros."""
    names, tree = list(_named(arguments)), jax.tree.structure(arguments)
    shapes = jax.tree.map(_shape, arguments)
    absent = dict(zip(names, jax.tree.leaves(shapes), strict=True))

    def run(arrays: Mapping[str, Array]) -> dict[str, Array]:
        leaves = [
            arrays[n] if n in arrays else jnp.zeros(absent[n].shape, absent[n].dtype)
            for n in names
        ]
        key, state, batch = jax.tree.unflatten(tree, leaves)
        key = jax.random.wrap_key_data(key, impl=impl)
        program = evaluation.score_program(system, engines.make_engine("jit"))
        rows = jax.tree.map(lambda x: x[None], batch)  # of one device
        scores = jax.tree.map(lambda x: x[0], program(key, state, rows))
        return trees.by_name(scores)

    return run


def _named(arguments: Tree) -> dict[str, Array]:
    """Returns key, state and batch by name, in the order of the tree's leaves."""
    key, state, batch = arguments
    return (
        {KEY: key}
        | {f"{STATE}{name}": x for name, x in trees.by_name(state).items()}
        | {f"{BATCH}{name}": x for name, x in trees.by_name(batch).items()}
    )


def _shape(x: Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(np.shape(x), x.dtype)
