"""Score and training step of a system's networks against the same ones in torch."""

import gc
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ad3d_jax.base import ALONE, Batch, State, System, scoring, without_truth
from ad3d_jax.experiment.state import build_system, initial_state
from ad3d_jax.fit.step import begin, fixed_part, train_step
from experiments.benchmarks.baselines.comparison import Call, baseline, side_by_side
from experiments.benchmarks.speed import random_batch

IMAGES = {"rgb": 3, "depth": 3}  # channels; depth is repeated


def compare(
    config: ConfigDict,
    torch_name: str,
    torch_options: Mapping[str, int],
    modalities: tuple[str, ...],
    batch_size: int,
    rounds: int,
) -> dict:
    """Returns the timings in scoring and in one training step.

    Ours are the system's own functions, so that the training step makes its anomalies,
    too; torch is given altered images. Neither bounds gradients.

    Args:
        config: of the system.
        torch_name: a class of `torch_networks`.
        torch_options: its arguments.
        modalities: what the networks read, in torch's order.
        batch_size: rows of a batch.
        rounds: how often each implementation is timed.

    Raises:
        ValueError: the networks differ in their number of parameters.
    """
    system = build_system(config)
    batch = without_truth(random_batch(config, batch_size))
    state = initial_state(config, system, batch)
    model = baseline(torch_model, torch_name, torch_options)
    own = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    if not isinstance(model, str) and own != count(model):
        raise ValueError(
            f"{torch_name}: ours has {own} parameters, the baseline {count(model)}"
        )
    side = config.data.image_size
    timings = {}
    for scope, ours, theirs in (
        ("score", our_score, torch_score),
        ("step", our_step, torch_step),
    ):
        given = (model, modalities, batch_size, side)
        calls = {
            "ours": ours(system, state, batch),
            "torch": model if isinstance(model, str) else theirs(*given),
        }
        timings[scope] = side_by_side(calls, rounds)
        del calls
        gc.collect()
    return {
        "resolution": side,
        "batch_size": batch_size,
        "parameters": own,
        **timings,
    }


def our_score(system: System, state: State, batch: Batch) -> Call:
    """Returns the call that scores a batch that is on the device."""
    score = jax.jit(scoring(system))
    placed = jax.device_put((jax.random.key(0), state, batch))
    return lambda: score(*placed)


def our_step(system: System, state: State, batch: Batch) -> Call:
    """Returns the call that trains one step of the system's first phase."""
    step = train_step(system.phases[0])
    jitted = jax.jit(
        lambda key, fixed, carry, batch: step(key, fixed, carry, batch, ALONE),
        donate_argnums=2,
    )
    carry = jax.tree.map(jnp.array, begin(system.phases[0], state))
    key, fixed, batch = jax.device_put((jax.random.key(0), fixed_part(state), batch))

    def call():
        nonlocal carry
        carry, report = jitted(key, fixed, carry, batch)
        return report

    return call


def torch_model(name: str, options: Mapping[str, int]) -> Any:
    """Returns a network of `torch_networks`. ImportError where there is no torch."""
    from experiments.benchmarks.baselines import torch_networks

    return getattr(torch_networks, name)(**options)


def count(model: Any) -> int:
    """Returns the number of parameters of a torch network."""
    from experiments.benchmarks.baselines import torch_networks

    return torch_networks.parameters(model)


def torch_score(model: Any, modalities: tuple, batch_size: int, side: int) -> Call:
    """Returns the baseline's call that scores."""
    from experiments.benchmarks.baselines import torch_networks

    images = random_images(modalities, batch_size, side)
    return torch_networks.scoring(model, images)


def torch_step(model: Any, modalities: tuple, batch_size: int, side: int) -> Call:
    """Returns the baseline's call that trains one step."""
    from experiments.benchmarks.baselines import torch_networks

    altered = random_images(modalities, batch_size, side)
    clean = random_images(modalities, batch_size, side)
    mask = np.zeros((batch_size, 1, side, side), np.float32)
    mask[..., : side // 4, : side // 4] = 1
    return torch_networks.training(model, [*altered, *clean, mask])


def random_images(modalities: tuple, batch_size: int, side: int) -> list[np.ndarray]:
    """Returns random images [B,C,H,W] float32 in [0,1)."""
    rng = np.random.default_rng(0)
    return [
        rng.random((batch_size, IMAGES[m], side, side), np.float32) for m in modalities
    ]
