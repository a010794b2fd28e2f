"""What frozen features are computed of, in digests: a program, weights, a sample.

Features are known by this alone, so that whatever asks for the same ones finds them: a
later fit, other layers of the same network, a part of the samples, another process.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.tree_util import keystr, tree_leaves_with_path

from ad3d_jax.base import Array, Batch, State, System

ADDRESS = re.compile("0x[0-9a-f]+")  # of an object, which says nothing of it


class Key(NamedTuple):
    """What a feature of a sample is found by."""

    program: str  # 32 hex digits, see `Origin`
    sample: str  # of the sample's fields that the program reads


class Origin(NamedTuple):
    """What a feature is computed by, and of which fields of a sample."""

    program: str  # of the computation, and of the leaves of the state that it reads
    fields: tuple[str, ...]  # of the batch, that it reads
    like: jax.ShapeDtypeStruct  # the feature of one sample


class Row(NamedTuple):
    """A sample of a source: its id, and the keys of its features by name."""

    id: int
    keys: Mapping[str, Key]


def origins(system: System, state: State, batch: Batch) -> dict[str, Origin]:
    """Returns the origin of each feature of `system.cache`, by name.

    Args:
        system: has a cache.
        state: whose leaves the cache reads.
        batch: host samples; their number does not matter.

    Raises:
        ValueError: it reads leaves of the state others than of `frozen` and `hyper`, or
            gives a name that the samples have already.
    """
    one = jax.tree.map(lambda x: x[:1], batch)
    closed, shapes = jax.make_jaxpr(system.cache, return_shape=True)(state, one)
    jaxpr, leaves = closed.jaxpr, tree_leaves_with_path((state, one))
    inputs = dict(zip(jaxpr.invars, leaves, strict=True))
    told = {x: digest(c) for x, c in zip(jaxpr.constvars, closed.consts, strict=True)}
    if twice := shapes.keys() & batch.extras.keys():
        raise ValueError(
            f"the cache of system {system.name} gives {min(twice)!r}, which the data "
            "holds among the extras already; expected another name"
        )
    found = {}
    for (path, like), result in zip(
        tree_leaves_with_path(shapes), jaxpr.outvars, strict=True
    ):
        equations, variables = _needed(jaxpr, result)
        fields = []
        for variable in variables & inputs.keys():
            (part, *place), leaf = inputs[variable]
            if part.idx == 1:
                fields.append(keystr(tuple(place)))
                told[variable] = fields[-1]
            elif place[0].name not in ("frozen", "hyper"):
                raise ValueError(
                    f"the cache of system {system.name} reads "
                    f"state{keystr(tuple(place))}, which phases change; expected "
                    "frozen and hyper alone"
                )
            elif variable not in told:
                told[variable] = digest(leaf)
        like = jax.ShapeDtypeStruct(like.shape[1:], like.dtype)
        program = _program(equations, told, (result,))
        # Rounding depends on who computes.
        program = _joined([program, jax.__version__, jax.default_backend()])
        found[path[0].key] = Origin(program, tuple(sorted(fields)), like)
    return found


def of_process(
    origins: Mapping[str, Origin], source: str, batch: Batch
) -> dict[str, Origin]:
    """Returns the origins as one of several processes must take them.

    A process sees its own rows alone, so that a sample is known by its id, and the
    data by its first sample: another recipe changes it.
    """
    first = [digest(x[:1]) for x in jax.tree.leaves(batch)]
    place = [str(jax.process_index()), source, *first]
    return {
        name: origin._replace(program=_joined([origin.program, *place]))
        for name, origin in origins.items()
    }


def rows_of(batch: Batch, origins: Mapping[str, Origin], first: int) -> list[Row]:
    """Returns the real rows of a host batch; `first` is the number of its first."""
    real = np.flatnonzero(np.asarray(batch.weight) > 0).tolist()
    ids = np.asarray(batch.id).tolist()
    if jax.process_count() > 1:
        names = {i: f"{ids[i]}-{first + i}" for i in real}
        keys = {
            i: {n: Key(origin.program, names[i]) for n, origin in origins.items()}
            for i in real
        }
        return [Row(ids[i], keys[i]) for i in real]
    leaves = {keystr(path): x for path, x in tree_leaves_with_path(batch)}
    read = {field for origin in origins.values() for field in origin.fields}
    rows = []
    for i in real:
        told = {field: digest(leaves[field][i]) for field in read}
        keys = {
            name: Key(origin.program, _joined([told[field] for field in origin.fields]))
            for name, origin in origins.items()
        }
        rows.append(Row(ids[i], keys))
    return rows


def digest(array: Array) -> str:
    """Returns 32 hex digits that stand for shape, dtype and every number."""
    array = np.asarray(array)
    total = hashlib.blake2b(f"{array.shape}{array.dtype}".encode(), digest_size=16)
    total.update(array.tobytes())
    return total.hexdigest()


def _needed(jaxpr: Jaxpr, result: Any) -> tuple[list[JaxprEqn], set[Var]]:
    """Returns the equations that a result needs, in order, and all their variables."""
    variables = _variables([result])
    equations = []
    for equation in reversed(jaxpr.eqns):
        if not variables.isdisjoint(equation.outvars):
            equations.append(equation)
            variables |= _variables(equation.invars)
    return equations[::-1], variables


def _variables(places: Iterable[Any]) -> set[Var]:
    return {x for x in places if not isinstance(x, Literal)}


def _program(
    equations: Sequence[JaxprEqn], inputs: Mapping[Var, str], results: Sequence[Any]
) -> str:
    """Returns a digest of equations; `inputs` says what stands at their beginning."""
    names = dict(inputs)

    def name(x: Any) -> str:
        return digest(x.val) if isinstance(x, Literal) else names[x]

    lines = []
    for number, equation in enumerate(equations):
        words = [str(equation.primitive), *map(name, equation.invars)]
        words += [str(x.aval) for x in equation.outvars]
        # Of a callback nothing but its address is known.
        strange = "callback" in words[0]
        lines.append(_joined([*words, _told(equation.params, strange)]))
        names |= {x: f"{number}.{n}" for n, x in enumerate(equation.outvars)}
    return _joined([*lines, *map(name, results)])


def _told(value: Any, strange: bool = False) -> str:
    """Returns a text that stands for a parameter of an equation."""
    if isinstance(value, ClosedJaxpr):
        return _joined([_told(value.jaxpr), *map(digest, value.consts)])
    if isinstance(value, Jaxpr):
        places = (*value.constvars, *value.invars)
        inputs = {x: f"{n} {x.aval}" for n, x in enumerate(places)}
        return _program(value.eqns, inputs, value.outvars)
    if isinstance(value, Mapping):
        return _joined([f"{n}={_told(x, strange)}" for n, x in sorted(value.items())])
    if isinstance(value, tuple | list):
        return _joined([type(value).__name__, *(_told(x, strange) for x in value)])
    if isinstance(value, np.ndarray | jax.Array):
        return digest(value)
    return repr(value) if strange else ADDRESS.sub("", repr(value))


def _joined(texts: Sequence[str]) -> str:
    """Returns 32 hex digits that stand for texts in their order."""
    return hashlib.blake2b(repr(list(texts)).encode(), digest_size=16).hexdigest()
