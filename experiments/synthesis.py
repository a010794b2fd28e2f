"""Draws the artificial anomalies that a system trains on, as a page of pictures.

    python -m experiments.synthesis --config=experiments/configs/dbrn.py[:variant] \
        --output=FOLDER [--count=8] [--draws=3] [--workdir=DIR] [--config.FIELD=VALUE …]

Writes FOLDER/index.html and FOLDER/sheet.png, a row for each draw: the clean pictures,
the altered ones and the mask, from the function that the losses call. The state is the
one that training begins with; a maker that rests on what was trained (the codes of DSR)
takes a file by `--config.artifacts.NAME`, or the state of a finished run by --workdir.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from ml_collections import ConfigDict

from ad3d_jax.base import Batch, State, System, sample_keys, without_truth
from ad3d_jax.evaluate import check_needs
from ad3d_jax.features import weights
from ad3d_jax.report.gallery import Draw, write_gallery
from experiments import flag_errors, session, weight_files


def run(
    config: ConfigDict, output: str, count: int = 8, draws: int = 3, workdir: str = ""
) -> Path:
    """Writes the gallery and returns the path of its page.

    Args:
        config: as `get_config` of a configuration file returns it.
        output: folder to write to.
        count: training samples, the first of the class.
        draws: of each sample.
        workdir: a finished run whose state is taken; "" = what training begins with.

    Raises:
        ValueError: a field is wrong, or the system has no anomaly maker.
    """
    system = session.build_system(config)
    if system.synthesise is None:
        raise ValueError(f"{config.system} trains without artificial anomalies")
    weight_files.check(config)
    prepared, samples = session.open_class(config, system)
    batch = next(iter(samples.ordered("train", count, 0)))
    check_needs(system, batch)
    state = ready_state(config, system, batch, workdir)
    rows = session.samples_of(prepared.manifest, "train")[: int(batch.weight.sum())]
    names = [f"{row.defect} / {row.stem}" for row in rows]
    title = f"Anomalies of {config.system} on {prepared.manifest['category']}"
    made = list(draw_all(config, system, state, batch, names, draws))
    return write_gallery(Path(output).expanduser(), title, made, facts(config, state))


def ready_state(
    config: ConfigDict, system: System, batch: Batch, workdir: str
) -> State:
    """Returns the state that anomalies are drawn with, artifacts in place."""
    if workdir:
        return session.trained_state(config, system, batch, Path(workdir))
    state = session.initial_state(config, system, batch)
    files = weight_files.artifacts(config)
    for artifact in (phase.artifact for phase in system.phases):
        if artifact is not None and artifact.name in files:
            tree = weights.load(files[artifact.name], artifact.get(state))
            state = artifact.put(state, tree)
    return state


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
    key = session.key_of(config, "synthesis")
    made = []
    for number in range(draws):
        keys = sample_keys(jax.random.fold_in(key, number), batch)
        made.append(jax.device_get(synthesise(keys, state, batch)))
    for row, name in enumerate(names):
        on_object = None if batch.foreground is None else batch.foreground[row]
        for number, pictures in enumerate(made):
            shown = {n: np.asarray(x[row], np.float32) for n, x in pictures.items()}
            yield Draw(f"{name}, draw {number + 1}", shown, on_object)


def facts(config: ConfigDict, state: State) -> dict[str, str]:
    """Returns what the page says of the configuration, numbers of the state last."""
    return {
        "variant": config.variant,
        "recipe": config.data.recipe,
        "resolution": str(config.data.image_size),
        "textures": config.data.textures or "procedural",
        "seed": str(config.seed),
        **{f"hyper.{name}": f"{float(x):g}" for name, x in sorted(state.hyper.items())},
    }


def main(_) -> None:
    """Runs the command; a user's mistake ends it with one sentence and no trace."""
    values = flags.FLAGS
    try:
        page = run(
            values.config, values.output, values.count, values.draws, values.workdir
        )
    except ValueError as mistake:
        sys.exit(f"error: {mistake}")
    print(f"anomalies: {page}")


def define_flags() -> None:
    """Defines the flags of the command."""
    flag_errors.define_config("experiments/configs/quickstart.py")
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)
    flags.DEFINE_integer("count", 8, "Training samples.", 1)
    flags.DEFINE_integer("draws", 3, "Draws of each sample.", 1)
    flags.DEFINE_string("workdir", "", "A finished run whose state is taken.")


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=flag_errors.parse)
