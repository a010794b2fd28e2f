"""One training step as a pure function of key, state and batch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from ad3d_jax.base import Across, Array, Batch, State, Train, Tree, Update, sample_keys
from ad3d_jax.devices.compilation import zero_padding


class Carry(NamedTuple):
    """What a training step changes."""

    params: Tree
    extra: Tree
    optimizers: tuple[Tree, ...]  # one optax state an update
    step: Array  # [] int32, steps done in this phase
    bad: Array  # [] int32, steps in a row that were not applied as not finite


class Report(NamedTuple):
    """What a training step says; all entries are the same on every device."""

    values: Mapping[str, Array]  # [] float32: losses, means of info, health
    bad: Array  # [] int32, as Carry.bad after the step


def begin(phase: Train, state: State) -> Carry:
    """Returns the carry with which a phase begins.

    Raises:
        ValueError: an update trains a parameter group that does not exist.
    """
    return Carry(
        params=state.params,
        extra=state.extra,
        optimizers=tuple(
            _optimizer(update, state, phase).init(_chosen(update, state.params))
            for update in phase.updates
        ),
        step=jnp.zeros((), jnp.int32),
        bad=jnp.zeros((), jnp.int32),
    )


def fixed_part(state: State) -> State:
    """Returns what a training step reads only: the state less params and extra."""
    return state._replace(params={}, extra={})


def batches_of_step(phase: Train) -> int:
    """Returns how many batches a step reads: more than one for fresh repetitions."""
    return max([1, *(update.repeat for update in phase.updates if update.fresh)])


def weighed(
    weigh: Callable[[State, Batch], Array] | None, state: State, batch: Batch
) -> Batch:
    """Returns the batch with the weights that a phase gives its rows.

    Rows of factor 0 hold zeros like padding. `weigh` is as of `base.Train`.
    """
    if weigh is None:
        return batch
    weight = jnp.where(batch.weight > 0, batch.weight * weigh(state, batch), 0.0)
    return zero_padding(batch._replace(weight=weight))


def train_step(
    phase: Train, max_grad_norm: float | None = None
) -> Callable[[Array, State, Carry, Batch, Across], tuple[Carry, Report]]:
    """Returns the step `(key, fixed, carry, batch, across) -> (carry, report)`.

    Args:
        phase: what is trained.
        max_grad_norm: bound of the global norm of an update's gradient; None = none.

    Rows of weight 0 must hold zeros (`compilation.zero_padding`). The updates run one
    after the other, `repeat` times each, and see each other's results; after each, its
    sums are folded into `extra`. The keys of the rows depend on (key, step, id), and
    those of a repetition on its number too. If a loss, a gradient or the new state is
    not finite, or all rows of a batch are padding, nothing but the counters changes.

    Where repetitions are fresh, row r of the batch is for the repetition
    r % `batches_of_step`, so that devices that share the rows have parts of each; other
    updates see the rows of the first.
    """
    count = batches_of_step(phase)

    def step(key, fixed, carry, batch, across):
        step_key = jax.random.fold_in(key, carry.step)
        state = fixed._replace(params=carry.params, extra=carry.extra)
        batch = weighed(phase.weigh, state, batch)
        parts = [batch]
        if count > 1:
            parts = [
                jax.tree.map(lambda x, i=i: x[i::count], batch) for i in range(count)
            ]
        new, values, finite = carry, {}, jnp.array(True)
        for number, update in enumerate(phase.updates):
            label = "loss" if len(phase.updates) == 1 else f"loss_{number}"
            for turn in range(update.repeat):
                rows = parts[turn if update.fresh else 0]
                keys = sample_keys(_turn_key(step_key, turn), rows)
                new, said, sound = _apply(
                    phase, number, max_grad_norm, keys, fixed, new, rows, across
                )
                values |= {label: said.pop("loss"), **said}
                finite &= sound
        finite &= _all_finite((new.params, new.extra))
        if phase.health is not None:
            values |= phase.health(new.extra)
        apply = finite
        for rows in parts:
            apply &= across.sum(jnp.sum(rows.weight)) > 0
        kept = jax.tree.map(
            lambda after, before: jnp.where(apply, after, before), new, carry
        )
        bad = jnp.where(finite, 0, carry.bad + 1)
        return (
            kept._replace(step=carry.step + 1, bad=bad),
            Report(values=values, bad=bad),
        )

    return step


def _apply(
    phase: Train,
    number: int,
    max_grad_norm: float | None,
    keys: Array,
    fixed: State,
    carry: Carry,
    batch: Batch,
    across: Across,
) -> tuple[Carry, dict[str, Array], Array]:
    """Returns (carry, logged values, finite) after one application of an update."""
    update = phase.updates[number]
    state = fixed._replace(params=carry.params, extra=carry.extra)
    rows = jnp.maximum(across.sum(jnp.sum(batch.weight)), jnp.finfo(jnp.float32).tiny)

    def objective(chosen):
        params = _merged(carry.params, chosen)
        per_sample, sums, info = update.loss(keys, params, state, batch, across)
        local = jnp.sum(_real(batch, per_sample) * batch.weight) / rows
        return local, (sums, info)

    chosen = _chosen(update, carry.params)
    (local, (sums, info)), gradient = jax.value_and_grad(objective, has_aux=True)(
        chosen
    )
    # Summed afterwards and not inside: whether differentiation adds a sum of its own
    # depends on the engine.
    loss, gradient, sums = across.sum((local, gradient, sums))
    norm = optax.tree.norm(gradient)
    if max_grad_norm is not None:
        # optax.clip_by_global_norm, with the norm kept apart
        gradient = optax.tree.scale(
            jnp.minimum(1.0, max_grad_norm / jnp.maximum(norm, 1e-30)), gradient
        )
    changes, optimizer = _optimizer(update, state, phase).update(
        gradient, carry.optimizers[number], chosen
    )
    extra = carry.extra
    if phase.fold is not None and jax.tree.leaves(sums):
        extra = phase.fold(extra, sums)
    optimizers = list(carry.optimizers)
    optimizers[number] = optimizer
    values = {
        name: across.sum(jnp.sum(_real(batch, x) * batch.weight)) / rows
        for name, x in info.items()
    }
    return (
        carry._replace(
            params=_merged(carry.params, optax.apply_updates(chosen, changes)),
            extra=extra,
            optimizers=tuple(optimizers),
        ),
        values | {"loss": loss},
        jnp.isfinite(loss) & jnp.isfinite(norm),
    )


def _part(batch: Batch, turn: int, count: int) -> Batch:
    """Returns every count-th row of a batch from row `turn` on."""
    if count == 1:
        return batch
    return jax.tree.map(lambda x: x[turn::count], batch)


def _turn_key(step_key: Array, turn: int) -> Array:
    """Returns the key of a repetition; ids are below 2**31, so none collides."""
    return jax.random.fold_in(step_key, 2**32 - turn) if turn else step_key


def _real(batch: Batch, per_sample: Array) -> Array:
    """Returns the [B] values with 0 in padded rows."""
    return jnp.where(batch.weight > 0, per_sample, jnp.zeros_like(per_sample))


def _optimizer(update: Update, state: State, phase: Train):
    """Returns the optax transformation of an update."""
    return update.optimizer(state.hyper, phase.steps * update.repeat)


def _chosen(update: Update, params: Tree) -> Tree:
    """Returns the part of params that an update trains."""
    if update.trainable is None:
        return params
    missing = [name for name in update.trainable if name not in params]
    if missing:
        raise ValueError(
            f"trainable names {missing}, but params holds {sorted(params)} only"
        )
    return {name: params[name] for name in update.trainable}


def _merged(params: Tree, chosen: Tree) -> Tree:
    """Returns params with the trained part replaced."""
    if jax.tree.structure(params) == jax.tree.structure(chosen):
        return chosen
    return {**params, **chosen}


def _all_finite(tree: Tree) -> Array:
    """Returns whether every floating point leaf is finite and no number is absurd.

    By the norm, since one `isfinite` a leaf takes the CPU compiler half a minute for a
    few hundred leaves.
    """
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return optax.tree.norm(leaves) < jnp.finfo(jnp.float32).max
