"""What an evaluation leaves in its workdir: scores, maps, metrics and the report."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ad3d_jax import evaluate as evaluation
from ad3d_jax.decision import Decision, no_operating_point, operating_point
from ad3d_jax.evaluate import Scored
from ad3d_jax.report import write_report
from ad3d_jax.workdir import maps, names
from ad3d_jax.workdir.calibration import Calibration
from ad3d_jax.workdir.json_files import write_json
from ad3d_jax.workdir.scores import Row, write_scores


def write_scored(folder: Path, rows: Sequence[Row], scored: Scored) -> None:
    """Writes scores and maps; metrics of an earlier scoring go first."""
    (folder / names.METRICS).unlink(missing_ok=True)
    write_scores(folder / names.SCORES, rows)
    maps.write_maps(folder / names.MAPS, rows, scored.maps, scored.masks)


def point_of(
    rows: Sequence[Row],
    calibration: Calibration | None,
    decision: Decision | None,
    alpha: float,
    note: str = "",
) -> dict[str, Any]:
    """Returns the operating point; `note` says why nothing was calibrated."""
    if calibration is None or decision is None:
        return no_operating_point(alpha, note or "nothing was calibrated")
    labels = np.array([row.label for row in rows])
    return operating_point(calibration, decision, labels)


def write_measured(
    folder: Path,
    rows: Sequence[Row],
    scored: Scored,
    samples: Mapping[int, Mapping[str, np.ndarray]],
    point: Mapping[str, Any],
    facts: Mapping[str, Any],
    notes: Mapping[str, str],
    host_bytes: int | None = None,
) -> dict[str, Any]:
    """Measures, writes what is shown, the metrics and the report; returns the metrics.

    Args:
        folder: of the run, with scores and maps.
        rows: of the split, in manifest order, scored.
        scored: likewise.
        samples: what is shown, by number of the row.
        point: from `point_of`.
        facts: what the metrics say besides.
        notes: on facts.
        host_bytes: see `evaluate.measure`.
    """
    in_full = {rows[row].name: arrays for row, arrays in samples.items()}
    maps.write_samples(folder / names.SAMPLES, in_full)
    measured = evaluation.measure(scored, rows, host_bytes)
    metrics = {**measured, **point, **facts}
    metrics["notes"] = {**measured["notes"], **point["notes"], **notes}
    write_json(folder / names.METRICS, metrics)
    write_report(folder)
    return metrics
