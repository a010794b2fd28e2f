"""Decision-layer fusion: one-class SVMs that weigh the scores of several banks."""

from functools import partial

import jax.numpy as jnp
import numpy as np

from ad3d_jax.base import Array, Gather, Plan, State, Tree
from ad3d_jax.ops import one_class_svm
from ad3d_jax.systems.m3dm import memory
from ad3d_jax.systems.m3dm.config import Config
from ad3d_jax.systems.modalities import map_size


def empty(config: Config) -> dict[str, Array]:
    """Returns weights of the banks before a fit."""
    return {name: jnp.ones(len(config.banks)) for name in ("image", "map")}


def phase(config: Config, describe: memory.Describe) -> Gather:
    """Returns the phase that learns from the scores of all training samples.

    They are in the banks themselves: where a row was kept, its distance is 0, so that
    the scores are too good. Rows of the SVM of images are samples, T; of the SVM of
    maps their pixels, T·H·W, all of them, in the order of the manifest.
    """

    def emit(key, state, batch):
        rows = memory.normalised(state, describe(state, batch))
        images, maps = memory.compare(config, state, rows, map_size(batch))
        pixels = jnp.concatenate([maps[name] for name in config.banks], axis=-1)
        return {"image": images, "map": pixels}

    def absorb(key, state, rows):
        train = partial(one_class_svm.weights, nu=float(state.hyper["nu"]))
        number = len(config.banks)
        learned = {name: train(np.reshape(x, (-1, number))) for name, x in rows.items()}
        return state._replace(memory={**state.memory, "decision": learned})

    return Gather("decision", emit, absorb, plan=plan)


def plan(state: State, shapes: Tree) -> Plan:
    """Returns what the scores and the training of the SVMs take: 56 bytes a pixel."""
    samples, height, width, number = shapes["map"].shape
    rows, row = samples * height * width, 4 * number
    trained = one_class_svm.BYTES_OF_ROW + number * one_class_svm.BYTES_OF_NUMBER
    return Plan(
        rows=rows,
        kept=rows,
        dimensions=number,
        bank_bytes=0,
        split_bytes=0,
        whole_bytes=height * width * row,
        host_bytes=rows * (row + trained),
        chunk=height * width,
    )


def weighed(state: State, name: str, scores: Array) -> Array:
    """Returns the sum of scores [...,K] times the weights of their banks, [...]."""
    weights = jnp.asarray(state.memory["decision"][name])
    return jnp.einsum("...k,k->...", scores, weights, precision="highest")
