"""Scores a folder of unlabelled samples: images, scores and decisions as files."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ad3d_jax.experiment.detector import Detector
from ad3d_jax.experiment.loading import load
from ad3d_jax.experiment.prediction.inbox import Inbox, due
from ad3d_jax.experiment.prediction.inspector import Inspector
from ad3d_jax.experiment.prediction.pictures import RAW, write_images
from ad3d_jax.experiment.prediction.tiles import Tiles
from ad3d_jax.experiment.status import Stopped
from ad3d_jax.fit.monitor import Interruption
from ad3d_jax.metrics.conformal import check_alpha
from ad3d_jax.workdir import maps, names
from ad3d_jax.workdir.folder import WorkdirError, differences, held
from ad3d_jax.workdir.json_files import read_json, to_json, write_json
from ad3d_jax.workdir.places import local, writable
from ad3d_jax.workdir.predictions import Predictions
from data_pipelines.errors import DatasetError


def inspect(
    workdir: str | os.PathLike,
    source: str | os.PathLike,
    output: str | os.PathLike,
    alpha: float | None = None,
    raw: str = "",
    watch: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
) -> Path:
    """Scores every sample of `source` and returns the path of `scores.csv`.

    A row is written as soon as it is known. Samples that have one already, of the same
    content and made with the same settings, are not scored again.

    Args:
        workdir: a finished run, or an ensemble.
        source: folder of samples, see `data_pipelines.inbox`.
        output: folder that gets scores.csv, heat maps and overlays, each of the size
            of its picture.
        alpha: share of good samples that may be called defective, between 0 and 1;
            None = as configured.
        raw: "npy" or "tiff" for maps as float32 numbers, too.
        watch: whether to wait for further samples, until SIGINT or SIGTERM.
        tile: side of the tiles, in pixels at the scale of the fit, by which pictures of
            other sizes than those of the fit are scored, see `prediction.tiles`; None =
            they are resized.
        overlap: of two tiles; None = as little as leaves no seams.

    Raises:
        ValueError: the run is not finished, there is nothing to score, or the output
            was made with something else; or, after all others are scored and written,
            samples could not be read: each is named.
        DiskFullError: no space is left; the same call goes on from there.
        Stopped: SIGINT or SIGTERM came, without `watch`; likewise.
    """
    workdir, source = local(workdir, "workdir"), local(source, "input")
    if alpha is not None:
        check_alpha(alpha)
    if raw not in ("", *RAW):
        raise ValueError(f"raw: expected one of {', '.join(RAW)}, found {raw!r}")
    if overlap is not None and tile is None:
        raise ValueError("overlap: expected a side of tiles, too, found none")
    output = writable(output, "output")
    if not source.is_dir():
        raise DatasetError(f"input: {source} is not a folder")
    with Interruption() as interruption:
        detector = load(workdir)
        if tile is not None and not isinstance(detector, Detector):
            raise ValueError("tile: an ensemble cannot score by tiles; a member may")
        tiles = None if tile is None else Tiles(detector, tile, overlap)
        inspector = Inspector(detector, alpha, tiles)
        inbox = Inbox(source, detector)
        colours = _colours(inspector, workdir)
        settings = {"input": source.absolute(), "raw": raw, "colours": colours}
        settings |= {"tile": tile, "overlap": overlap}
        with _opened(output, {**inspector.facts(), **settings}) as rows:

            def wait(seconds: float) -> None:
                end = time.monotonic() + seconds
                while time.monotonic() < end and not interruption.wanted():
                    time.sleep(0.1)

            coming = due(inbox, rows, watch, interruption.wanted, wait)
            for sample in tqdm(coming, "predict", unit="image"):
                row, found = inspector.inspected(sample)
                if found is not None:
                    write_images(output, row.name, *found, colours, raw)
                rows.add(row)
    if watch:
        return output / names.SCORES
    if interruption.wanted():
        raise Stopped(f"{output}: stopped before all samples were scored")
    failed = [row.error for row in rows if row.error and row.name in inbox.names]
    if failed:
        lines = "".join(f"\n  {error}" for error in failed)
        raise DatasetError(
            f"{source}: {len(failed)} of {len(inbox.names)} samples could not be read; "
            f"{output / names.SCORES} holds the others{lines}"
        )
    return output / names.SCORES


@contextmanager
def _opened(output: Path, settings: dict[str, Any]) -> Iterator[Predictions]:
    """Holds the folder of a prediction and gives its rows.

    Raises:
        WorkdirError: another process holds it, or what is there was made with something
            else; each difference is listed.
    """
    with held(output) as folder:
        path, scores = folder / names.PREDICTION, folder / names.SCORES
        settings = to_json(settings)
        if path.exists():
            changed = differences(read_json(path), settings)
            if changed:
                lines = "".join(f"\n  {name}: {x}" for name, x in changed.items())
                raise WorkdirError(
                    f"{output}: the prediction that is there was made with something "
                    f"else:{lines}\nuse another folder, or remove this one"
                )
        else:
            for other in (scores, folder / names.CONFIG):
                if other.exists():
                    raise WorkdirError(
                        f"{output}: expected a folder for predictions alone, found "
                        f"{other.name}, which none has written; use another folder"
                    )
            write_json(path, settings)
        yield Predictions(scores)


def _colours(inspector: Inspector, workdir: Path) -> tuple[float, float]:
    """Returns the map values that are drawn as nothing and as certain.

    They are those of good samples, so that images of different samples can be compared;
    where nothing was calibrated those of the workdir's own test maps, and 0 and 1 where
    it was never evaluated either.
    """
    calibration = inspector.detector.calibration
    if calibration is not None:
        low, high = calibration.low, calibration.high
        return low, max(high, low + 1e-6)
    files = maps.files(workdir / names.MAPS)
    if not files:
        return 0.0, 1.0
    values = np.concatenate([maps.read_file(f)[0].ravel()[::7] for f in files])
    low, high = np.percentile(values, (50, 99.9))
    return float(low), float(max(high, low + 1e-6))
