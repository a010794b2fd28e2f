"""Inspects a folder of unlabelled samples with a trained workdir.

python -m experiments.predict --workdir=DIR --input=FOLDER --output=FOLDER

The input holds RGB pictures, RGB with xyz, or RGB with 16-bit depth and intrinsics. The
output gets heat maps, overlays, `scores.csv` and the time that each image took.
"""

import sys
from itertools import chain
from pathlib import Path

import numpy as np
from absl import app, flags
from PIL import Image
from tqdm import tqdm

from ad3d_jax import evaluate as evaluation
from ad3d_jax.devices import engines
from ad3d_jax.report import heat_map, overlay
from ad3d_jax.workdir import maps, names
from ad3d_jax.workdir.arrays import read_arrays
from ad3d_jax.workdir.json_files import read_json
from ad3d_jax.workdir.scores import write_csv
from data_pipelines.unlabelled import collate, read_folder
from experiments import flag_errors, session


def run(workdir: Path, source: Path, output: Path) -> Path:
    """Scores every sample of `source` and returns the path of `scores.csv`."""
    config = session.read_config(workdir)
    recipe = read_json(workdir / names.RECIPE)
    system = session.build_system(config)
    records = read_folder(
        source, recipe["recipe"], recipe["params"], system.needs_score
    )
    first = next(records, None)
    if first is None:
        raise ValueError(f"{source}: holds no sample")
    batch = collate([first[1]], 1)
    evaluation.check_needs(system, batch)
    score = evaluation.compile_score(
        system,
        engines.make_engine("jit"),
        session.key_of(config, "score"),
        session.trained_state(config, system, batch, workdir),
    )
    seen, rows = [], []

    def batches():
        for name, record in tqdm(chain([first], records), "predict", unit="image"):
            seen.append(name)
            yield collate([record], 1)

    low, high = map_range(workdir)
    for batch, scores, seconds in evaluation.score_batches(score, batches()):
        name = seen[len(rows)]
        write_pictures(output, name, batch, scores, low, high)
        rows.append((name, f"{scores.image[0]:.9g}", f"{seconds:.6g}"))
    write_csv(output / names.SCORES, ("name", "score", "seconds"), rows)
    return output / names.SCORES


def map_range(workdir: Path) -> tuple[float, float]:
    """Returns the map values that are drawn as nothing and as certain.

    They are taken from the workdir's own test maps, so that pictures of different
    samples can be compared; (0, 1) where the workdir was never evaluated.
    """
    files = maps.files(workdir / names.MAPS)
    if not files:
        return 0.0, 1.0
    values = np.concatenate([read_arrays(f)["map"].ravel()[::7] for f in files])
    low, high = np.percentile(values, (50, 99.9))
    return float(low), float(max(high, low + 1e-6))


def write_pictures(output, name, batch, scores, low, high) -> None:
    """Writes the heat map and, where there is a picture, its overlay as PNG."""
    anomaly = scores.map[0, ..., 0]
    pictures = {"heat_maps": heat_map(anomaly, low, high)}
    if batch.rgb is not None:
        pictures["overlays"] = overlay(batch.rgb[0], anomaly, low, high)
    for folder, picture in pictures.items():
        path = (output / folder / name).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def main(_) -> None:
    """Runs the command; a user's mistake ends it with one sentence and no trace."""
    values = flags.FLAGS
    try:
        path = run(Path(values.workdir), Path(values.input), Path(values.output))
    except ValueError as mistake:
        sys.exit(f"error: {mistake}")
    print(f"scores: {path}")


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("workdir", None, "A finished workdir.", required=True)
    flags.DEFINE_string("input", None, "Folder of samples.", required=True)
    flags.DEFINE_string("output", None, "Folder to write to.", required=True)


if __name__ == "__main__":
    define_flags()
    app.run(main, flags_parser=flag_errors.parse)
