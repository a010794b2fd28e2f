"""Where arrays lie and functions run: on one or several devices, of any processes.

An engine says which: "pmap" (default) and "shard_map" share the rows of a batch between
devices, "jit" uses one device; all three give the same numbers. State is replicated, a
batch has a leading axis of devices. This is the only file that names pmap.

Of several processes (`devices.processes`) each places what its own devices hold. Under
"pmap" its arrays have the places of its own devices alone, under "shard_map" those of
all.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ad3d_jax.base import ALONE, Across, Array, Batch, State, Tree, without_truth
from ad3d_jax.ops.knn import Bank

AXIS = "batch"
KINDS = ("pmap", "shard_map", "jit")


class Engine(NamedTuple):
    """How a function runs: its kind and the devices, as a mesh of one axis."""

    kind: str
    mesh: Mesh

    @property
    def devices(self) -> int:
        """Returns the number of devices, of all processes."""
        return self.mesh.size

    @property
    def own(self) -> range:
        """Returns the numbers of this process's devices."""
        mine = _of_process(self.mesh).devices.flat
        first = list(self.mesh.devices.flat).index(mine[0])
        return range(first, first + len(mine))

    @property
    def alone(self) -> bool:
        """Returns whether all devices are this process's."""
        return len(self.own) == self.devices


def make_engine(
    kind: str = "pmap", devices: Sequence[jax.Device] | None = None
) -> Engine:
    """Returns the Engine of `kind` on `devices`, by default those of all processes.

    "jit" takes the first device.

    Raises:
        ValueError: the kind is unknown, or "jit" is to serve several processes.
    """
    if kind not in KINDS:
        raise ValueError(f"engine is {kind!r}, expected one of {', '.join(KINDS)}")
    if devices is None:
        # Not jax.devices(): on a TPU those of one process need not follow each other.
        processes = range(jax.process_count())
        devices = [device for i in processes for device in jax.local_devices(i)]
    devices = list(devices)
    if kind == "jit":
        if len({device.process_index for device in devices}) > 1:
            raise ValueError(
                f"engine is 'jit', which uses one device, and there are "
                f"{jax.process_count()} processes; expected pmap or shard_map"
            )
        devices = devices[:1]
    return Engine(kind, Mesh(np.array(devices), (AXIS,)))


def _sum(x: Array) -> Array:
    return jax.lax.psum(x, AXIS)


def _gather(x: Array) -> Array:
    return jax.lax.all_gather(x, AXIS, tiled=True)


def _index() -> Array:
    return jax.lax.axis_index(AXIS)


# One object for all calls: it is part of a bank's type, and another would trace anew.
TOGETHER = Across(sum=_sum, gather=_gather, index=_index)


def across(engine: Engine) -> Across:
    """Returns the reductions over the rows of all devices; identities under "jit"."""
    return ALONE if engine.kind == "jit" else TOGETHER


def transform(
    engine: Engine,
    function: Callable,
    split: Sequence[bool],
    result: bool,
    donate: bool = False,
) -> Callable:
    """Returns a function compiled for the engine's devices.

    Args:
        engine: where it runs.
        function: sees of each argument what its own device has.
        split: whether an argument has a leading axis of devices, of which the function
            sees its own place; else it is replicated.
        result: whether what it returns gets that axis; else it must be the same on all
            devices.
        donate: whether the memory of argument 1 is given away.
    """
    donated = (1,) if donate else ()
    if engine.kind == "pmap":
        return jax.pmap(
            function,
            axis_name=AXIS,
            in_axes=tuple(0 if each else None for each in split),
            out_axes=0 if result else None,
            donate_argnums=donated,
            devices=list(engine.mesh.devices.flat),
        )

    def on_one_device(*arguments):
        own = (
            jax.tree.map(lambda x: x[0], tree) if each else tree
            for tree, each in zip(arguments, split, strict=True)
        )
        found = function(*own)
        return jax.tree.map(lambda x: x[None], found) if result else found

    if engine.kind == "jit":
        return jax.jit(on_one_device, donate_argnums=donated)
    # With its replication check on, shard_map would sum the gradients a second time.
    return jax.jit(
        jax.shard_map(
            on_one_device,
            mesh=engine.mesh,
            in_specs=tuple(P(AXIS) if each else P() for each in split),
            out_specs=P(AXIS) if result else P(),
            check_vma=False,
        ),
        donate_argnums=donated,
    )


def replicate(engine: Engine, tree: Tree, copy: bool = False) -> Tree:
    """Places a copy of every leaf on every device.

    A step gets its own output back, which lives on the mesh; were its first input
    elsewhere, the second call would trace again. What will be donated needs `copy`, or
    the caller's own arrays may be lost.
    """
    if copy:
        # device_put(may_alias=False) still aliases one of several replicas (0.10).
        tree = jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
    sharding = NamedSharding(_home(engine), P())
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(partial(_on_all, sharding), tree)


def _home(engine: Engine) -> Mesh:
    """Returns the devices that this process's arrays have places for."""
    return _of_process(engine.mesh) if engine.kind == "pmap" else engine.mesh


@cache
def _of_process(mesh: Mesh) -> Mesh:
    """Returns the devices of this process; jax looks for them anew at each call."""
    return mesh.local_mesh


def _on_all(sharding: NamedSharding, x: Array) -> Array:
    """Places a copy of an array on every device; all processes have the same.

    device_put would send it round to compare it, and takes no keys.
    """
    x = jnp.asarray(x)
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        data = _on_all(sharding, jax.random.key_data(x))
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(x))
    host = np.asarray(x)
    # One array for each device, or they might share what a donation writes to.
    return jax.make_array_from_callback(
        host.shape, sharding, lambda index: np.array(host[index])
    )


def _on_own(engine: Engine, tree: Tree) -> Tree:
    """Places arrays [own devices, ...], each of this process's devices its part."""
    sharding = NamedSharding(_home(engine), P(AXIS))
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(
            sharding, x, (engine.devices, *x.shape[1:])
        ),
        tree,
    )


def place(engine: Engine, state: State, split_banks: Sequence[str] = ()) -> State:
    """Places a state on every device, and of some banks a part of the rows on each.

    Args:
        engine: where to.
        state: on the host or anywhere.
        split_banks: names in `state.memory` of `knn.Bank`s. Device d holds the rows
            from d * ceil(N / devices) on, with padding where too few are left.

    Returns:
        A state for compiled functions; their `knn` searches all devices.
    """
    if engine.kind == "jit" or not split_banks:
        return replicate(engine, state)
    whole = {n: x for n, x in state.memory.items() if n not in split_banks}
    placed = replicate(engine, state._replace(memory=whole))
    banks = {name: _by_rows(engine, state.memory[name]) for name in split_banks}
    return placed._replace(memory={**placed.memory, **banks})


def split_rows(engine: Engine, data: Mapping[str, Array]) -> dict[str, Array]:
    """Places host rows [N,...] on the devices, as [devices, ceil(N/devices), ...].

    Where N does not divide, copies of the last row fill up. Added is `number` [N]
    int32, the row's own, -1 in what fills up.
    """
    count = len(jax.tree.leaves(data)[0])
    numbers = np.arange(count, dtype=np.int32)
    placed = jax.tree.map(lambda x: _deal(engine, x, x[-1]), dict(data))
    return {**placed, "number": _deal(engine, numbers, np.int32(-1))}


def split_members(engine: Engine, tree: Tree) -> Tree:
    """Places host leaves [K,...] of K members, as [devices, ceil(K/devices), ...].

    Where K does not divide, copies of the last member fill up.
    """
    return jax.tree.map(lambda x: _deal(engine, x, x[-1]), tree)


def _by_rows(engine: Engine, bank: Bank) -> Bank:
    """Returns the bank split by rows, with the padding that `knn` never finds."""
    mean = np.broadcast_to(bank.mean, (len(engine.own), *np.shape(bank.mean)))
    return dataclasses.replace(
        bank,
        rows=_deal(engine, bank.rows, np.float32(0)),
        half_norms=_deal(engine, bank.half_norms, np.float32(np.inf)),
        mean=_on_own(engine, mean),
        number=_deal(engine, bank.number, np.int32(-1)),
        across=across(engine),
    )


def _deal(engine: Engine, x: Array, filler: Array) -> Array:
    """Places [N,...] as [devices, ceil(N/devices), ...], filled up with `filler`.

    Each device gets a slice of the host's array, which is never copied whole.
    """
    x, home = np.asarray(x), _home(engine)
    each = -(-len(x) // engine.devices)
    before = 0 if home.size == engine.devices else engine.own.start  # devices

    def part(index) -> np.ndarray:
        first = (before + (index[0].start or 0)) * each
        rows = x[first : first + each]
        missing = (each - len(rows), *x.shape[1:])
        if missing[0]:
            rows = np.concatenate([rows, np.broadcast_to(filler, missing)])
        return rows[None]

    shape = (home.size, each, *x.shape[1:])
    return jax.make_array_from_callback(shape, NamedSharding(home, P(AXIS)), part)


def check_divisible(engine: Engine, batch: Batch) -> None:
    """Checks that the rows of a batch can be shared equally between the devices.

    Raises:
        ValueError: they cannot.
    """
    rows, count = len(batch.weight), engine.devices
    if rows % count:
        raise ValueError(
            f"batch size {rows} is not divisible by the {count} devices in use; choose "
            f"a multiple of {count} or use fewer devices"
        )


def split(engine: Engine, batch: Batch) -> Batch:
    """Places a host batch on the devices, as [devices, B/devices, ...].

    The truth stays behind. The transfer is asynchronous. Row r lies on device
    r // (B / devices). Of the batch, which is that of all processes, one takes the rows
    of its own devices.

    Raises:
        ValueError: the number of rows is not divisible by the number of devices.
    """
    check_divisible(engine, batch)
    own, each = engine.own, len(batch.weight) // engine.devices
    rows = slice(own.start * each, own.stop * each)
    shaped = jax.tree.map(
        lambda x: np.asarray(x)[rows].reshape((len(own), each) + np.shape(x)[1:]),
        without_truth(batch),
    )
    return _on_own(engine, shaped)


def join(tree: Tree) -> Tree:
    """Returns per-row results [devices, B/devices, ...] as host arrays [B, ...]."""
    return jax.tree.map(lambda x: x.reshape((-1,) + x.shape[2:]), jax.device_get(tree))
