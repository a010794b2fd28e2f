"""Draws the artificial anomalies that a system trains on, as a page of images.

A row for each draw: the clean images, the altered ones and the mask, from the
function that the losses call. The state is the one that training begins with; a maker
that rests on what was trained (the codes of DSR) takes a file of weights, or the state
of a finished run.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from ad3d_jax.base import Batch, State, System, sample_keys, without_truth
from ad3d_jax.evaluate import check_needs
from ad3d_jax.experiment import pretrained
from ad3d_jax.experiment.config import Source, load
from ad3d_jax.experiment.data import open_data, rows_of
from ad3d_jax.experiment.state import (
    build_system,
    fitted_state,
    initial_state,
    key_of,
)
from ad3d_jax.report.gallery import Draw, write_gallery
from ad3d_jax.workdir.places import local, writable


def draw_anomalies(
    config: Source,
    output: str | os.PathLike,
    count: int = 8,
    draws: int = 3,
    workdir: str = "",
) -> Path:
    """Writes the gallery and returns the path of its page.

    Args:
        config: as `Experiment` takes it.
        output: folder to write to.
        count: training samples, the first of the class.
        draws: of each sample.
        workdir: a finished run whose state is taken; "" = what training begins with.

    Raises:
        ValueError: a field is wrong, or the system has no anomaly maker.
    """
    config = load(config)
    system = build_system(config)
    if system.synthesise is None:
        raise ValueError(f"{config.system} trains without artificial anomalies")
    folder = writable(output, "output")
    data = open_data(config, system)
    batch = next(iter(data.dataset.ordered("train", count, 0)))
    check_needs(system, batch)
    state = ready_state(config, system, batch, workdir)
    rows = rows_of(data.manifest, "train")[: int(batch.weight.sum())]
    names = [f"{row.defect} / {row.stem}" for row in rows]
    title = f"Anomalies of {config.system} on {data.manifest['category']}"
    made = list(draw_all(config, system, state, batch, names, draws))
    return write_gallery(folder, title, made, facts(config, state))


def ready_state(
    config: ConfigDict, system: System, batch: Batch, workdir: str
) -> State:
    """Returns the state that anomalies are drawn with, what files bring in place."""
    if workdir:
        return fitted_state(config, system, batch, local(workdir, "workdir"))
    brought = pretrained.bring(config, system).trees
    return initial_state(config, system, batch, brought)


def draw_all(
    config: ConfigDict,
    system: System,
    state: State,
    batch: Batch,
    names: list[str],
    draws: int,
) -> Iterator[Draw]:
    """Yields the draws of each named row of the batch, sample after sample."""
    synthesise = jax.jit(system.synthesise)
    batch = without_truth(batch)
    key = key_of(config, "synthesis")
    made = []
    for number in range(draws):
        keys = sample_keys(jax.random.fold_in(key, number), batch)
        made.append(jax.device_get(synthesise(keys, state, batch)))
    for row, name in enumerate(names):
        on_object = None if batch.foreground is None else batch.foreground[row]
        for number, images in enumerate(made):
            shown = {n: np.asarray(x[row], np.float32) for n, x in images.items()}
            yield Draw(f"{name}, draw {number + 1}", shown, on_object)


def facts(config: ConfigDict, state: State) -> dict[str, str]:
    """Returns what the page says of the configuration, numbers of the state last."""
    return {
        "variant": config.variant,
        "recipe": config.data.recipe,
        "resolution": str(config.data.image_size),
        "textures": config.weights.get("textures", "") or "procedural",
        "seed": str(config.seed),
        **{f"hyper.{name}": f"{float(x):g}" for name, x in sorted(state.hyper.items())},
    }
