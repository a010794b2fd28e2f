"""Scores a folder of unlabelled samples: images, scores and times as files."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from ad3d_jax import evaluate as evaluation
from ad3d_jax.base import Batch, Scores
from ad3d_jax.experiment.detector import load
from ad3d_jax.report import heat_map, overlay
from ad3d_jax.workdir import maps, names
from ad3d_jax.workdir.csv_files import write_csv
from ad3d_jax.workdir.images import write_image
from ad3d_jax.workdir.places import local, writable
from data_pipelines.errors import CorruptSampleError, DatasetError
from data_pipelines.unlabelled import collate, read_folder


def inspect(
    workdir: str | os.PathLike, source: str | os.PathLike, output: str | os.PathLike
) -> Path:
    """Scores every sample of `source` and returns the path of `scores.csv`.

    Args:
        workdir: a finished run.
        source: folder of samples, see `data_pipelines.unlabelled`.
        output: folder that gets heat maps, overlays and scores.csv.

    Raises:
        ValueError: the run is not finished, or there is nothing to score; or, after all
            others are scored and written, samples could not be read: each is named.
        DiskFullError: no space is left; scores.csv is not there then.
    """
    workdir, source = local(workdir, "workdir"), local(source, "input")
    output = writable(output, "output")
    detector = load(workdir)
    needs = detector.system.needs_score
    left_out: list[CorruptSampleError] = []
    records = read_folder(
        source,
        **detector.recipe,
        needs=needs,
        sizes=detector.origin.sizes,
        distances=detector.origin.distances,
        left_out=left_out,
        sensor=detector.sensor,
    )
    seen, rows = [], []

    def batches() -> Iterator[Batch]:
        for name, record in tqdm(records, "predict", unit="image"):
            seen.append(name)
            yield collate([record], 1)

    path = output / names.SCORES
    path.unlink(missing_ok=True)  # it is there when all else is
    low, high = map_range(workdir)
    scored = evaluation.score_batches(detector.score_batch, batches())
    for batch, scores, seconds in scored:
        name = seen[len(rows)]
        write_images(output, name, batch, scores, low, high)
        rows.append((name, f"{scores.image[0]:.9g}", f"{seconds:.6g}"))
    write_csv(path, ("name", "score", "seconds"), rows)
    if left_out:
        count = f"{len(left_out)} of {len(left_out) + len(rows)} samples"
        lines = "".join(f"\n  {error}" for error in left_out)
        raise DatasetError(
            f"{source}: {count} could not be read; {path} holds the others{lines}"
        )
    return path


def map_range(workdir: Path) -> tuple[float, float]:
    """Returns the map values that are drawn as nothing and as certain.

    They are taken from the workdir's own test maps, so that images of different
    samples can be compared; (0, 1) where the workdir was never evaluated.
    """
    files = maps.files(workdir / names.MAPS)
    if not files:
        return 0.0, 1.0
    values = np.concatenate([maps.read_file(f)[0].ravel()[::7] for f in files])
    low, high = np.percentile(values, (50, 99.9))
    return float(low), float(max(high, low + 1e-6))


def write_images(
    output: Path, name: str, batch: Batch, scores: Scores, low: float, high: float
) -> None:
    """Writes the heat map and, where there is an image, its overlay as PNG."""
    anomaly = scores.map[0, ..., 0]
    images = {"heat_maps": heat_map(anomaly, low, high)}
    if batch.rgb is not None:
        images["overlays"] = overlay(batch.rgb[0], anomaly, low, high)
    for folder, image in images.items():
        path = output / folder / f"{names.plain_name(name)}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_image(path, image)
